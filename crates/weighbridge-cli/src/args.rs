//! The command line as typed. `docs/cli.md` describes it for users.

mod edit;
mod quantize;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weighbridge::FormatId;
use weighbridge::convert::FrameworkLayout;

pub(crate) use edit::{Edit, Merge, Split};
pub(crate) use quantize::{
    Activations, Dequantize, Imatrix, ImatrixVerb, MatrixArgs, MatrixForm, OnnxArgs, Quantize,
    Recipe,
};

use crate::sandbox::Confine;
use crate::text::parse_size;

/// One safe, fast toolkit for every ML model file format.
///
/// Nothing in a model file is ever executed. A PATH is a file, any shard or index of a sharded
/// model, or a directory that holds one model.
#[derive(Debug, Parser)]
#[command(
    name = "weighbridge",
    disable_version_flag = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    max_term_width = 100,
    after_long_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,

    #[command(flatten)]
    pub(crate) common: Common,

    /// Print the version; with --verbose also what this build reads and writes
    #[arg(long, short = 'V')]
    pub(crate) version: bool,

    /// Say more (with --version)
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
}

/// Flags that every verb has.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Print one JSON document on standard output and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print no progress and no messages but errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// When to use colours; NO_COLOR, CLICOLOR and CLICOLOR_FORCE are honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On terminals, unless the environment says otherwise
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Inspect(Inspect),
    Check(Check),
    Scan(Scan),
    Disasm(Disasm),
    Convert(Box<Convert>),
    Edit(Box<Edit>),
    Split(Split),
    Merge(Merge),
    Diff(Diff),
    Quantize(Box<Quantize>),
    Dequantize(Dequantize),
    Recipe(Recipe),
    Imatrix(Imatrix),
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done, clean, identical, conforming
  1    the answer is bad news: a finding, a difference, a broken rule
  2    the question could not be answered: usage, missing file, unsupported or malformed input
  130  interrupted";

/// Show format, sizes, metadata and tensors
///
/// Reads headers only, unless --hash or --stats ask for the values.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge inspect model.safetensors
  weighbridge inspect --tensors checkpoint.pt
  weighbridge inspect --hash --json model/ | jq '.tensors[] | {name, sha256}'
  weighbridge inspect --stats --tensors model.safetensors.index.json

Exit codes: 0 done, 2 a path could not be read.")]
pub(crate) struct Inspect {
    /// Files, shards, indexes or directories
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// List every tensor (the default shows the first 40)
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Compute the sha256 of each tensor's contiguous little-endian bytes
    #[arg(long)]
    pub(crate) hash: bool,

    /// Compute min, max, mean, standard deviation and the numbers of zeros, NaN and Inf
    #[arg(long)]
    pub(crate) stats: bool,

    /// List what the Constant nodes of an ONNX graph hold among the tensors
    #[arg(long)]
    pub(crate) constants: bool,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// How inputs are opened.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Open {
    /// Accept what the format's reference reader accepts, not only what its specification allows
    #[arg(long)]
    pub(crate) lenient: bool,

    /// How many bytes the tensors may expand to when written out in full [default: max(1GiB, 16 x
    /// file size)]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_expand: Option<u64>,
}

/// Check strict conformance to the format's own specification
///
/// Reads everything, payload checksums included, and reports every broken rule it can reach.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge check model.safetensors
  weighbridge check --lenient *.safetensors
  weighbridge check --json --format pytorch weights.bin
  weighbridge check --format gguf model-q4.gguf

Exit codes: 0 conforming, 1 a rule is broken, 2 unreadable or of no known format.")]
pub(crate) struct Check {
    /// Files, shards, indexes or directories
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Check against this format instead of the detected one
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<CheckFormat>,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// The formats `check` knows the rules of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    Safetensors,
    Pytorch,
    Gguf,
    Onnx,
    Numpy,
    Flax,
    Pickle,
    TfCheckpoint,
    Savedmodel,
    Graphdef,
    Tflite,
}

impl CheckFormat {
    pub(crate) fn id(self) -> FormatId {
        match self {
            Self::Safetensors => FormatId::Safetensors,
            Self::Pytorch => FormatId::PyTorch,
            Self::Gguf => FormatId::Gguf,
            Self::Onnx => FormatId::Onnx,
            Self::TfCheckpoint => FormatId::TfCheckpoint,
            Self::Savedmodel => FormatId::SavedModel,
            Self::Graphdef => FormatId::GraphDef,
            Self::Tflite => FormatId::TfLite,
            Self::Numpy => FormatId::Numpy,
            Self::Flax => FormatId::Flax,
            Self::Pickle => FormatId::Pickle,
        }
    }
}

/// Scan files for anything that harms whoever loads them
///
/// Directories are searched recursively. Nothing is executed or imported. With --quiet only files
/// that are not clean are printed, one line each.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge scan downloads/
  weighbridge scan --fail-on malicious --json model.pt
  weighbridge scan --policy weighbridge.toml --format sarif --output scan.sarif models/
  weighbridge scan --write-baseline known.json models/
  weighbridge scan --baseline known.json --quiet models/
  weighbridge scan --explain WB-PKL-001

Exit codes: 0 clean, 1 a finding reached --fail-on, 2 malformed or incomplete.")]
pub(crate) struct Scan {
    /// Files and directories
    #[arg(required_unless_present_any = ["explain", "list_rules"], value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) report: ScanReport,

    #[command(flatten)]
    pub(crate) accept: ScanAccept,

    /// Explain a rule and exit; without RULE, list all
    #[arg(long, value_name = "RULE", num_args = 0..=1, default_missing_value = "all")]
    #[arg(conflicts_with = "paths")]
    pub(crate) explain: Option<String>,

    /// List all rules and exit
    #[arg(long, conflicts_with_all = ["paths", "explain"])]
    pub(crate) list_rules: bool,

    /// Scan what .weighbridgeignore files hide too
    #[arg(long)]
    pub(crate) no_ignore: bool,

    #[command(flatten)]
    pub(crate) confine: Confine,
}

/// How a scan reports.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScanReport {
    /// How to print the report
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ReportFormat,

    /// Write the report to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// What a scan accepts.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScanAccept {
    /// The least severity that makes the exit code 1 [default: the policy's, else suspicious]
    #[arg(long, value_name = "SEVERITY")]
    pub(crate) fail_on: Option<FailOn>,

    /// Exit 0 when nothing was found but something could not be looked at
    #[arg(long)]
    pub(crate) allow_incomplete: bool,

    /// Judge by this policy file too (docs/policy.md)
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Accept the findings that this file lists
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,

    /// Accept everything found now and list it in this file
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    pub(crate) write_baseline: Option<PathBuf>,
}

/// How a scan's report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people
    Table,
    /// The same as --json
    Json,
    /// SARIF 2.1.0, for code hosting services and viewers
    Sarif,
}

/// The least severity that counts as bad news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    Suspicious,
    Malicious,
}

/// Convert a model to another format
///
/// The target is told by OUT's extension (.safetensors, .gguf, .onnx, .npz; .pt .pth .ckpt .bin are
/// PyTorch; .npy holds a single array) or --to. Weights become ONNX by going into a graph: --graph.
/// Lists what changes on the way and what cannot be carried; OUT appears only when it is complete.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge convert model.pt model.safetensors
  weighbridge convert --dry-run checkpoint.ckpt out.safetensors
  weighbridge convert lightning.ckpt model.safetensors \\
      --select '^model\\.' --strip-prefix model. --weights-only
  weighbridge convert model/ out/ --to safetensors --shard-size 5GB
  weighbridge convert model.safetensors model.pt --dtype bf16
  weighbridge convert model.gguf model.safetensors --dequantize
  weighbridge convert model.onnx model.safetensors
  weighbridge convert model.keras model.safetensors --names label --layout keras-to-torch
  weighbridge convert tuned.safetensors tuned.onnx --graph base.onnx --map fc.weight=MatMul_7
  weighbridge convert model.onnx out/model.onnx --shared-weights out/model.safetensors
  weighbridge convert tuned.safetensors tuned.keras --graph base.keras

Exit codes: 0 done, 2 refused or failed; then nothing is left at OUT.")]
pub(crate) struct Convert {
    /// A file, a shard, an index or a directory
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,

    /// Where the result goes
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,

    /// The target format, where OUT's extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    pub(crate) to: Option<Target>,

    /// Refuse when anything but names would change or be lost
    #[arg(long)]
    pub(crate) strict: bool,

    /// Say what would be done and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Cast floating-point tensors to this dtype (f64, f32, f16, bf16, f8_e4m3, f8_e5m2)
    #[arg(long, value_name = "DTYPE")]
    pub(crate) dtype: Option<String>,

    /// Split into files of at most this size (5GB, 500MB, 1GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shard_size: Option<u64>,

    /// Keep only tensors whose name matches (repeatable: any of them)
    #[arg(long, value_name = "REGEX")]
    pub(crate) select: Vec<String>,

    /// Leave out tensors whose name matches (repeatable)
    #[arg(long, value_name = "REGEX")]
    pub(crate) drop: Vec<String>,

    /// Take this prefix off the names that have it (repeatable)
    #[arg(long, value_name = "PREFIX")]
    pub(crate) strip_prefix: Vec<String>,

    /// Rename a tensor, or a prefix when both sides end in * (repeatable)
    #[arg(long, value_name = "FROM=TO", value_parser = parse_rename)]
    pub(crate) rename: Vec<(String, String)>,

    /// Leave all non-tensor state out
    #[arg(long)]
    pub(crate) weights_only: bool,

    /// Turn quantized tensors that the target cannot hold into floats
    #[arg(long)]
    pub(crate) dequantize: bool,

    /// How many threads dequantize [default: as many as the machine runs]; the bytes are the same
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,

    /// Write sparse tensors in full
    #[arg(long)]
    pub(crate) densify: bool,

    /// Write complex tensors that the target cannot hold as pairs of real numbers
    #[arg(long)]
    pub(crate) complex_as_real: bool,

    /// Keep one copy of tensors that share storage
    #[arg(long)]
    pub(crate) dedupe: bool,

    /// Which names to write where a tensor has two
    #[arg(long, value_name = "WHICH", default_value = "name")]
    pub(crate) names: Names,

    /// Put weights in the order of another framework: keras-to-torch or torch-to-keras
    #[arg(long, value_name = "WHICH", value_parser = parse_layout)]
    pub(crate) layout: Option<FrameworkLayout>,

    /// The byte order of GGUF output: little, which everyone reads, or big
    #[arg(long, value_name = "ORDER")]
    pub(crate) endian: Option<ByteOrder>,

    /// Take what Constant nodes of an ONNX graph hold for tensors too
    #[arg(long)]
    pub(crate) constants: bool,

    #[command(flatten)]
    pub(crate) graph: Graph,

    /// Do not wait until the result is on the disk
    #[arg(long)]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// How weights come into an ONNX graph or a file of Keras.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "ONNX graphs and Keras")]
pub(crate) struct Graph {
    /// Put the weights into this ONNX graph, .keras or .h5 file, by name
    #[arg(long, value_name = "FILE")]
    pub(crate) graph: Option<PathBuf>,

    /// Which tensor becomes which of the graph; FILE has one FROM=TO a line (repeatable)
    #[arg(long, value_name = "FROM=TO|FILE", requires = "graph")]
    pub(crate) map: Vec<String>,

    /// Transpose tensors whose name matches (repeatable)
    #[arg(long, value_name = "REGEX", requires = "graph")]
    pub(crate) transpose: Vec<String>,

    /// Put in what fits and keep the rest of the graph as it is
    #[arg(long, requires = "graph")]
    pub(crate) partial: bool,

    /// Keep the graph's weights in this safetensors file beside OUT (IN itself is left as it is)
    #[arg(long, value_name = "FILE")]
    pub(crate) shared_weights: Option<PathBuf>,
}

/// The formats that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    Safetensors,
    #[value(alias = "pytorch")]
    Pt,
    Gguf,
    Onnx,
    #[value(alias = "tensorflow")]
    Tf,
    #[value(alias = "numpy")]
    Npz,
    /// HDF5 as Keras keeps it: `.weights.h5`, else `.h5`, by OUT's name
    #[value(alias = "hdf5")]
    H5,
    /// The configuration of --graph with other weights
    Keras,
}

impl Target {
    pub(crate) fn id(self) -> FormatId {
        match self {
            Self::Safetensors => FormatId::Safetensors,
            Self::Pt => FormatId::PyTorch,
            Self::Gguf => FormatId::Gguf,
            Self::Onnx => FormatId::Onnx,
            Self::Tf => FormatId::TfCheckpoint,
            Self::Npz => FormatId::Numpy,
            Self::H5 => FormatId::Hdf5,
            Self::Keras => FormatId::Keras,
        }
    }
}

fn parse_layout(name: &str) -> Result<FrameworkLayout, String> {
    weighbridge::convert::parse_layout(name).map_err(|e| match e.advice() {
        Some(help) => format!("{}: {help}", e.message()),
        None => e.message().to_owned(),
    })
}

/// Byte orders of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ByteOrder {
    /// The least significant byte first
    Little,
    /// The most significant byte first
    Big,
}

/// Which names a conversion writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Names {
    /// The names the input stores
    Name,
    /// The meaningful path, where another is known
    Label,
}

/// Compare two models tensor by tensor, across formats
///
/// Bits are compared when dtypes match, else values; NaNs of equal bits are equal.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge diff model.pt model.safetensors
  weighbridge diff --atol 1e-6 --rtol 1e-5 a.safetensors b.safetensors
  weighbridge diff --json --metadata old/ new/

Exit codes: 0 identical, 1 they differ, 2 one could not be read.")]
pub(crate) struct Diff {
    /// The first model
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,

    /// The second model
    #[arg(value_name = "B")]
    pub(crate) b: PathBuf,

    /// Compare metadata too
    #[arg(long)]
    pub(crate) metadata: bool,

    /// Let values differ by this much in absolute terms
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_tolerance)]
    pub(crate) atol: f64,

    /// Let values differ by this fraction of B's value
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_tolerance)]
    pub(crate) rtol: f64,

    /// Compare what the Constant nodes of an ONNX graph hold too
    #[arg(long)]
    pub(crate) constants: bool,

    #[command(flatten)]
    pub(crate) open: Open,
}

fn parse_rename(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("expected FROM=TO".into()),
    }
}

fn parse_tolerance(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("expected a number that is not negative, such as 1e-6".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples_and_says_its_exit_codes() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", verb.get_name());
            assert!(help.contains("Exit codes:"), "{}", verb.get_name());
            for arg in verb.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    verb.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn json_is_accepted_before_and_after_the_verb() {
        for line in [
            ["weighbridge", "--json", "check", "x"],
            ["weighbridge", "check", "x", "--json"],
        ] {
            assert!(Cli::try_parse_from(line).unwrap().common.json);
        }
    }

    #[test]
    fn values_are_checked_while_parsing() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from(["weighbridge"].iter().chain(args))
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert!(parse(&["convert", "a", "b", "--rename", "x=y"]).is_ok());
        assert!(
            parse(&["convert", "a", "b", "--rename", "xy"])
                .unwrap_err()
                .contains("FROM=TO")
        );
        assert!(parse(&["convert", "a", "b", "--shard-size", "5"]).is_ok());
        assert!(parse(&["convert", "a", "b", "--shard-size", "5Q"]).is_err());
        assert!(parse(&["diff", "a", "b", "--atol", "-1"]).is_err());
        assert!(parse(&["diff", "a", "b", "--atol", "nan"]).is_err());
        assert!(parse(&["scan"]).is_err());
        assert!(parse(&["scan", "--explain", "WB-PKL-001"]).is_ok());
        assert!(parse(&["scan", "--explain"]).is_ok());
        assert!(parse(&["scan", "--list-rules"]).is_ok());
        assert!(parse(&["scan", "--list-rules", "x"]).is_err());
        assert!(parse(&["scan", "--baseline", "a", "--write-baseline", "b", "x"]).is_err());
    }
}

/// Show a pickle's opcodes and the program that they amount to
///
/// Every pickle of FILE: a bare one, streams that follow each other, the members of a torch file or
/// another zip archive. Nothing is executed or imported.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge disasm suspicious.pkl
  weighbridge disasm model.pt | less
  weighbridge disasm --json model.pt | jq -r '.pickles[].program[].statement'

Exit codes: 0 done, 2 a pickle breaks (what came before is shown), or there is none.")]
pub(crate) struct Disasm {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,

    /// Most opcodes and statements shown
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) limit: u64,

    #[command(flatten)]
    pub(crate) confine: Confine,
}
