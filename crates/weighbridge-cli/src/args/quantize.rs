//! The command line of `quantize` and its companions.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Open;

/// Quantize a model to blocks of small integers and scales
///
/// Writes GGUF, byte for byte as llama-quantize does for the architectures that it knows; others
/// get the generic mix, and that is said. OUT appears only when it is complete.
///
/// An ONNX model becomes an ONNX model: int8 and uint8 as ONNX Runtime's dynamic quantization, int4
/// and uint4, or any with --block-size, as its MatMulNBits, any with --qdq as DequantizeLinear.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge quantize model-f16.gguf model-q4.gguf --type Q4_K_M
  weighbridge quantize model.safetensors model.gguf --type Q8_0
  weighbridge quantize in.gguf out.gguf --type IQ2_XS --imatrix calibration.gguf
  weighbridge quantize in.gguf out.gguf --type Q4_K_M --tensor-type 'ffn_down=q6_k'
  weighbridge quantize in.gguf --type Q5_K_M --dry-run
  weighbridge quantize model.onnx model-int8.onnx --type int8 --per-channel
  weighbridge quantize model.onnx model-int4.onnx --type int4 --block-size 32 --report loss.json
  weighbridge recipe theirs.gguf > mix.txt && weighbridge quantize in.gguf out.gguf --recipe mix.txt

Exit codes: 0 done, 2 refused or failed; then nothing is left at OUT.")]
pub(crate) struct Quantize {
    /// A file, a shard, an index or a directory
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,

    /// Where the result goes
    #[arg(value_name = "OUT", required_unless_present = "dry_run")]
    pub(crate) output: Option<PathBuf>,

    /// What to: a file type by name or number (Q4_K_M, Q8_0, IQ3_S, …; docs/cli.md lists them)
    #[arg(
        long = "type",
        short = 't',
        value_name = "TYPE",
        required_unless_present = "recipe"
    )]
    pub(crate) file: Option<String>,

    /// Take each tensor's type from this file (see `recipe`)
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) matrix: MatrixArgs,

    /// Give tensors in whose name REGEX is found this type (repeatable; the first counts)
    #[arg(long, value_name = "REGEX=TYPE", value_parser = parse_pair)]
    pub(crate) tensor_type: Vec<(String, String)>,

    /// One type for all, no mix
    #[arg(long)]
    pub(crate) pure: bool,

    /// The type of the output matrix
    #[arg(long, value_name = "TYPE")]
    pub(crate) output_tensor_type: Option<String>,

    /// The type of the token embeddings
    #[arg(long, value_name = "TYPE")]
    pub(crate) token_embedding_type: Option<String>,

    /// Leave the output matrix as it is
    #[arg(long)]
    pub(crate) leave_output_tensor: bool,

    /// Leave tensors in whose name REGEX is found as they are (repeatable)
    #[arg(long, value_name = "REGEX")]
    pub(crate) exclude: Vec<String>,

    /// Leave these layers out and number the others anew
    #[arg(long, value_name = "L,L…", value_delimiter = ',')]
    pub(crate) prune_layers: Vec<u32>,

    /// Write as many files as there were, OUT-00001-of-…
    #[arg(long)]
    pub(crate) keep_split: bool,

    /// Quantize tensors again that are quantized already
    #[arg(long)]
    pub(crate) allow_requantize: bool,

    /// Write each tensor's error, signal to noise and cosine to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Say what would be done and how large it would be, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How many threads work [default: as many as the machine runs]; the bytes are the same
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,

    /// Do not wait until the result is on the disk
    #[arg(long)]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) onnx: OnnxArgs,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// What only quantizing ONNX models takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "ONNX")]
pub(crate) struct OnnxArgs {
    /// Values that share a scale: 16 to 256, a power of two [default: 32 for int4 and uint4]
    #[arg(long, value_name = "N")]
    pub(crate) block_size: Option<u32>,

    /// A scale for each channel of a weight
    #[arg(long)]
    pub(crate) per_channel: bool,

    /// Zero is the middle integer; =false gives each scale a zero point [default: for signed types]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) symmetric: Option<bool>,

    /// Use seven bits of eight, for processors whose integer sums saturate
    #[arg(long)]
    pub(crate) reduce_range: bool,

    /// Keep the operators and put DequantizeLinear before them
    #[arg(long)]
    pub(crate) qdq: bool,

    /// Round to nearest in blocks, without a search for better steps
    #[arg(long)]
    pub(crate) rtn: bool,

    /// Quantize activations too, with the ranges in this JSON file: {"NAME": [LEAST, MOST], …}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["block_size", "from_gguf"])]
    pub(crate) ranges: Option<PathBuf>,

    /// What activations with ranges become [default: as weights]
    #[arg(long, value_name = "TYPE", requires = "ranges")]
    pub(crate) activations: Option<Activations>,

    /// Take matrices over as the Q4_0 and Q8_0 blocks of this GGUF file, where names and shapes agree
    #[arg(long, value_name = "FILE", conflicts_with = "qdq")]
    pub(crate) from_gguf: Option<PathBuf>,

    /// Take the weight NAME from the tensor TENSOR of --from-gguf (repeatable)
    #[arg(long, value_name = "NAME=TENSOR", requires = "from_gguf", value_parser = parse_names)]
    pub(crate) map: Vec<(String, String)>,

    /// With f16 and bf16: operators that stay in f32 beside those that have to (repeatable)
    #[arg(long, value_name = "OPERATOR")]
    pub(crate) keep_op: Vec<String>,

    /// The accuracy_level of MatMulNBits, 0 to 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..=4))]
    pub(crate) accuracy_level: Option<i64>,
}

/// What activations become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Activations {
    /// Signed bytes
    Int8,
    /// Unsigned bytes
    Uint8,
}

/// The importance matrix of a quantization.
#[derive(Debug, Clone, Args)]
pub(crate) struct MatrixArgs {
    /// Weigh columns by this importance matrix, in either form
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,

    /// Use the matrix only for tensors whose name holds this (repeatable)
    #[arg(long, value_name = "NAME", requires = "imatrix")]
    pub(crate) include_weights: Vec<String>,

    /// Use the matrix for all tensors but those whose name holds this (repeatable)
    #[arg(
        long,
        value_name = "NAME",
        requires = "imatrix",
        conflicts_with = "include_weights"
    )]
    pub(crate) exclude_weights: Vec<String>,

    /// Take a matrix with entries for tensors that the model does not have
    #[arg(long, requires = "imatrix")]
    pub(crate) allow_partial_imatrix: bool,
}

/// Turn quantized tensors back into floats
///
/// Exactly the values that the blocks stand for. OUT's extension tells its format.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge dequantize model-q4.gguf model-f32.gguf
  weighbridge dequantize model-q8.gguf model.safetensors --dtype bf16

Exit codes: 0 done, 2 refused or failed; then nothing is left at OUT.")]
pub(crate) struct Dequantize {
    /// A file, a shard, an index or a directory
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,

    /// Where the result goes
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,

    /// What the quantized tensors become (f32, f16, bf16)
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    pub(crate) dtype: String,

    /// How many threads work [default: as many as the machine runs]; the bytes are the same
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,

    /// Do not wait until the result is on the disk
    #[arg(long)]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// Print the types of a model's tensors, for `quantize --recipe`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge recipe theirs.gguf > mix.txt
  weighbridge recipe --json theirs.gguf | jq .tensors
  weighbridge quantize mine.gguf out.gguf --recipe mix.txt

Exit codes: 0 done, 2 the model could not be read.")]
pub(crate) struct Recipe {
    /// A file, a shard, an index or a directory
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// Look at importance matrices, add them up, change their form
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  weighbridge imatrix inspect calibration.gguf
  weighbridge imatrix merge code.gguf prose.gguf --output both.gguf
  weighbridge imatrix convert old.dat new.gguf

Exit codes: 0 done, 2 a matrix could not be read or written."
)]
pub(crate) struct Imatrix {
    #[command(subcommand)]
    pub(crate) verb: ImatrixVerb,
}

/// What is done with importance matrices.
#[derive(Debug, Subcommand)]
pub(crate) enum ImatrixVerb {
    /// Show texts, chunks and entries
    Inspect {
        /// The matrix, in either form
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Add up matrices of one model
    Merge {
        /// The matrices, in either form
        #[arg(required = true, value_name = "FILE")]
        paths: Vec<PathBuf>,

        /// Where the sum goes
        #[arg(long, short, value_name = "OUT")]
        output: PathBuf,

        /// The form of OUT [default: legacy for .dat, else gguf]
        #[arg(long, value_name = "FORM")]
        form: Option<MatrixForm>,
    },
    /// Write a matrix in the other form
    Convert {
        /// The matrix, in either form
        #[arg(value_name = "IN")]
        path: PathBuf,

        /// Where the result goes
        #[arg(value_name = "OUT")]
        output: PathBuf,

        /// The form of OUT [default: legacy for .dat, else gguf]
        #[arg(long, value_name = "FORM")]
        form: Option<MatrixForm>,

        /// Tokens of a chunk, where IN does not tell
        #[arg(long, value_name = "N", default_value_t = 512)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
        chunk_size: u32,
    },
}

/// The forms of importance matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatrixForm {
    /// A GGUF file
    Gguf,
    /// The older form, .dat
    #[value(alias = "dat")]
    Legacy,
}

fn parse_names(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((name, tensor)) if !name.is_empty() && !tensor.is_empty() => {
            Ok((name.into(), tensor.into()))
        }
        _ => Err("expected NAME=TENSOR".into()),
    }
}

fn parse_pair(s: &str) -> Result<(String, String), String> {
    match s.rsplit_once('=') {
        Some((name, to)) if !name.is_empty() && !to.is_empty() => Ok((name.into(), to.into())),
        _ => Err("expected REGEX=TYPE, such as ffn_down=q6_k".into()),
    }
}
