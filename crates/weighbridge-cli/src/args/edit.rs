//! The verbs that change a model's files and keep its weights: `edit`, `split`, `merge`.

use std::path::PathBuf;

use clap::Args;

use super::Open;
use crate::text::parse_size;

/// Change a file's metadata, rename its tensors or leave some out, move a graph's weights
///
/// GGUF and ONNX files. In place where that is safe: what fits one disk sector, and what fits the room that
/// --reserve has left. Else the file is written beside itself and renamed. A crash at any moment
/// leaves the old file or the new one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge edit model.gguf --set 'general.name=Tiny' --set llama.context_length=8192
  weighbridge edit model.gguf --set-file tokenizer.chat_template=template.jinja
  weighbridge edit model.gguf --set 'x.ids:arr[i32]=[1, 2]' --set x.scale:f64=0.5
  weighbridge edit model.gguf --unset general.url --rename output.weight=head.weight
  weighbridge edit model.gguf --reserve 64KiB
  weighbridge edit model.gguf --remove mtp.weight --output smaller.gguf --dry-run --json
  weighbridge edit model.onnx --set author=me --set onnx.producer_name=mine --strip-docs
  weighbridge edit model.onnx --rename input.1=image --rename-node Conv_0=stem
  weighbridge edit model.onnx --external --output dist/model.onnx

Exit codes: 0 done, 2 refused or failed; then the file is as it was.")]
pub(crate) struct Edit {
    /// The file
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// Set a key: of the type it has, or a type that fits the value; K:TYPE=V names it (u8 … f64,
    /// bool, str, or arr and the type of its elements in brackets, as in `arr[u32]`) (repeatable)
    #[arg(long, value_name = "K=V")]
    pub(crate) set: Vec<String>,

    /// Set a key to the text of a file, every byte of it (repeatable)
    #[arg(long, value_name = "K=FILE", value_parser = super::parse_rename)]
    pub(crate) set_file: Vec<(String, String)>,

    /// Remove a key (repeatable)
    #[arg(long, value_name = "K")]
    pub(crate) unset: Vec<String>,

    /// Rename a tensor; in an ONNX graph any value, everywhere it is used (repeatable)
    #[arg(long, value_name = "A=B", value_parser = super::parse_rename)]
    pub(crate) rename: Vec<(String, String)>,

    /// Rename a key (repeatable)
    #[arg(long, value_name = "A=B", value_parser = super::parse_rename)]
    pub(crate) rename_key: Vec<(String, String)>,

    /// Rename a node of an ONNX graph (repeatable)
    #[arg(long, value_name = "A=B", value_parser = super::parse_rename)]
    pub(crate) rename_node: Vec<(String, String)>,

    /// Leave a tensor out; of an ONNX graph a weight or an input that nothing uses (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) remove: Vec<String>,

    /// Take all documentation out of an ONNX model
    #[arg(long)]
    pub(crate) strip_docs: bool,

    /// Move the weights of an ONNX model into a file beside it [default FILE: the model's name and
    /// .data]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[arg(conflicts_with = "inline")]
    pub(crate) external: Option<Option<String>>,

    /// With --external: leave smaller tensors in the model file [default: 1024 bytes]
    #[arg(long, value_name = "SIZE", value_parser = parse_room, requires = "external")]
    pub(crate) external_threshold: Option<u64>,

    /// Move weights that lie beside an ONNX model into it
    #[arg(long)]
    pub(crate) inline: bool,

    /// Write an ONNX file of more than 2 GiB if it comes to that, which only this tool reads
    #[arg(long)]
    pub(crate) over_2gib: bool,

    /// Leave at least this much room for edits in place to come; 0 gives it back
    #[arg(long, value_name = "SIZE", value_parser = parse_room)]
    pub(crate) reserve: Option<u64>,

    /// Write the result here and leave PATH as it is
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,

    /// Say what would be done and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not wait until the result is on the disk
    #[arg(long)]
    pub(crate) no_sync: bool,
}

fn parse_room(s: &str) -> Result<u64, String> {
    match s {
        "0" => Ok(0),
        s => parse_size(s),
    }
}

/// Split a model into several files
///
/// GGUF files come out as llama-gguf-split writes them, byte for byte; safetensors get an index.
/// OUT is what the files' names begin with: OUT-00001-of-00003.gguf. An ONNX model becomes OUT.onnx
/// with its weights beside it, in OUT.onnx.data or, with a bound, in several such files.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge split model.gguf --max-size 2GB
  weighbridge split model.gguf parts/model --max-tensors 64 --no-tensor-first-split
  weighbridge split model.safetensors parts/model --max-size 5GB
  weighbridge split model.onnx dist/model

Exit codes: 0 done, 2 refused or failed; then nothing is left behind.")]
pub(crate) struct Split {
    /// The model
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,

    /// What the files' names begin with, or a folder for them [default: IN without its extension]
    #[arg(value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,

    /// Most bytes of tensors in a file; a larger tensor gets a file of its own
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,

    /// Most tensors in a file [default: 128, without --max-size; ONNX: all]
    #[arg(long, value_name = "N", conflicts_with = "max_size")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_tensors: Option<u64>,

    /// Leave smaller tensors in the model file (ONNX) [default: 1024 bytes]
    #[arg(long, value_name = "SIZE", value_parser = parse_room)]
    pub(crate) external_threshold: Option<u64>,

    /// Let the first file of a GGUF model have metadata only
    #[arg(long)]
    pub(crate) no_tensor_first_split: bool,

    /// Say what would be done and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not wait until the result is on the disk
    #[arg(long)]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) open: Open,
}

/// Make one file of a split model
///
/// A missing file, or one of another model among them, is an error. A GGUF file comes out as
/// llama-gguf-split --merge writes it, byte for byte; with --clean, as it was before the split. An
/// ONNX model gets the weights beside it into its own file, up to the 2 GiB that others read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  weighbridge merge model-00001-of-00003.gguf model.gguf
  weighbridge merge --clean parts/ model.gguf
  weighbridge merge model.safetensors.index.json model.safetensors
  weighbridge merge model.onnx single.onnx

Exit codes: 0 done, 2 refused or failed; then nothing is left at OUT.")]
pub(crate) struct Merge {
    /// Any file of the model, its index, or its folder
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,

    /// Where the result goes
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,

    /// Leave out the keys that tell of the split (GGUF)
    #[arg(long)]
    pub(crate) clean: bool,

    /// Write an ONNX file of more than 2 GiB if it comes to that, which only this tool reads
    #[arg(long)]
    pub(crate) over_2gib: bool,

    /// Say what would be done and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not wait until the result is on the disk
    #[arg(long)]
    pub(crate) no_sync: bool,

    #[command(flatten)]
    pub(crate) open: Open,
}
