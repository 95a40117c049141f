//! One model file as several, and several as one.
//!
//! GGUF files come out as `llama-gguf-split` writes them, byte for byte; safetensors get the index
//! that the Hugging Face libraries write; ONNX models have one graph and their weights beside it.

mod gguf;
mod onnx;

use std::path::{Path, PathBuf};

use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::{Error, Result};

use crate::OpenOptions;
use crate::convert::{ConvertOptions, Report, convert};
use crate::format::shards;
use crate::output;

/// How a model is split.
#[derive(Debug, Clone)]
pub struct SplitOptions {
    /// Most bytes of tensors in a file; a tensor that has more gets a file of its own.
    pub max_size: Option<u64>,
    /// Most tensors in a file: 128 where neither bound is given. Weights of an ONNX model all go
    /// into one file then.
    pub max_tensors: Option<u64>,
    /// Of an ONNX model: tensors of fewer bytes stay in the model file.
    pub threshold: Option<u64>,
    /// Let the first file of a GGUF model have metadata only.
    pub no_tensor_first_split: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Wait until the result is on the disk.
    pub sync: bool,
    /// How the input is opened.
    pub open: OpenOptions,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            max_size: None,
            max_tensors: None,
            threshold: None,
            no_tensor_first_split: false,
            dry_run: false,
            sync: true,
            open: OpenOptions::default(),
        }
    }
}

/// How a model is merged.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// Leave out the keys that tell of the split, which `llama-gguf-split` leaves in: the result is
    /// the file that was split.
    pub clean: bool,
    /// Write an ONNX file of more than 2 GiB, which others cannot read.
    pub over_2gib: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Wait until the result is on the disk.
    pub sync: bool,
    /// How the input is opened.
    pub open: OpenOptions,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            clean: false,
            over_2gib: false,
            dry_run: false,
            sync: true,
            open: OpenOptions::default(),
        }
    }
}

/// How many tensors a file gets where nobody says (`llama-gguf-split`).
const TENSORS: u64 = 128;

/// Splits the model at `input` into files called `PREFIX-00001-of-0000N` and the format's
/// extension. `progress` is told the bytes written since its last call and the total; files appear
/// only when all are complete.
///
/// # Errors
/// `Parameter` when a bound is 0, both are given or a file would take the input's place,
/// `Unsupported` for a format that is not split, and what reading and writing gives.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
/// use weighbridge::split::{SplitOptions, split};
/// let options = SplitOptions { max_size: Some(2_000_000_000), ..SplitOptions::default() };
/// split(Path::new("m.gguf"), Path::new("out/m"), &options, &mut |_, _| {})?;
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn split(
    input: &Path,
    prefix: &Path,
    options: &SplitOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let bounds = [options.max_size, options.max_tensors];
    if bounds.contains(&Some(0)) || bounds.iter().all(Option::is_some) {
        let message = "a split is by size or by number of tensors, and neither may be 0";
        return Err(Error::parameter("split.bounds", message));
    }
    let model = options.open.open(input)?;
    if options.threshold.is_some() && model.format != FormatId::Onnx {
        let message = "only ONNX models keep small tensors in the model file";
        return Err(Error::parameter("split.threshold", message));
    }
    if options.no_tensor_first_split && model.format != FormatId::Gguf {
        let message = "only GGUF models have a first file without tensors";
        return Err(Error::parameter("split.first", message));
    }
    let by_count = options.max_size.is_none();
    let tensors = by_count.then(|| options.max_tensors.unwrap_or(TENSORS));
    match model.format {
        FormatId::Gguf => {
            drop(model);
            gguf::split(input, prefix, tensors, options, progress)
        }
        FormatId::Safetensors => {
            let convert_options = ConvertOptions {
                target: Some(FormatId::Safetensors),
                shard_size: options.max_size,
                shard_tensors: tensors,
                ..same(options.dry_run, options.sync, &options.open)
            };
            let path = with_extension(prefix, "safetensors");
            rewritten(model, &path, &convert_options, progress)
        }
        FormatId::Onnx => {
            let path = model_file(&model, input);
            onnx::split(&path, prefix, options, progress)
        }
        other => Err(unsupported("split", other)
            .help("`weighbridge convert --shard-size SIZE` writes several files of other formats")),
    }
}

/// Writes the model whose files `input` is one of (or the index of) to the single file `output`.
///
/// # Errors
/// `Malformed` when a file is missing or belongs to another model, `Parameter` when the input is
/// not split or `output` is one of its files, `Unsupported` for a format that is not merged, and
/// what reading and writing gives.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
/// use weighbridge::split::{MergeOptions, merge};
/// let (first, whole) = (Path::new("m-00001-of-00003.gguf"), Path::new("m.gguf"));
/// merge(first, whole, &MergeOptions::default(), &mut |_, _| {})?;
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn merge(
    input: &Path,
    output: &Path,
    options: &MergeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let model = options.open.open(input)?;
    if model.format == FormatId::Onnx {
        return onnx::merge(&model_file(&model, input), output, options, progress);
    }
    let parts: Vec<PathBuf> = model.parts.iter().map(|p| p.path.clone()).collect();
    let sharded = match parts.first() {
        Some(first) => shards::discover(first, &options.open.limits)?,
        None => None,
    };
    let Some(set) = sharded else {
        let message = "the model is one file already, by its name";
        return Err(Error::parameter("merge.not-split", message)
            .in_file(input.display().to_string())
            .help("files of a split model are called STEM-00001-of-00003.gguf, or an index lists them"));
    };
    match model.format {
        FormatId::Gguf => {
            drop(model);
            gguf::merge(&set, output, options, progress)
        }
        FormatId::Safetensors => {
            let convert_options = ConvertOptions {
                target: Some(FormatId::Safetensors),
                ..same(options.dry_run, options.sync, &options.open)
            };
            rewritten(model, output, &convert_options, progress)
        }
        other => {
            Err(unsupported("merged", other).help("`weighbridge convert IN OUT` writes one file"))
        }
    }
}

/// The file that has the graph: `input` may be its folder.
fn model_file(model: &Model, input: &Path) -> PathBuf {
    let first = model.parts.first();
    first.map_or_else(|| input.to_owned(), |p| p.path.clone())
}

fn unsupported(what: &str, format: FormatId) -> Error {
    let message = format!("{} models are not {what} yet", format.as_str());
    Error::unsupported("split.format", message)
}

fn same(dry_run: bool, sync: bool, open: &OpenOptions) -> ConvertOptions {
    ConvertOptions {
        dry_run,
        sync,
        limits: open.limits.clone(),
        ..ConvertOptions::default()
    }
}

/// `prefix` with `.extension`, unless it has it.
fn with_extension(prefix: &Path, extension: &str) -> PathBuf {
    let mut path = without_extension(prefix, extension).into_os_string();
    path.push(".");
    path.push(extension);
    path.into()
}

fn without_extension(prefix: &Path, extension: &str) -> PathBuf {
    if prefix.extension().is_some_and(|e| e == extension) {
        prefix.with_extension("")
    } else {
        prefix.to_owned()
    }
}

/// Writes a model of safetensors as safetensors, never over a file that it is read from.
fn rewritten(
    model: Model,
    path: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let parts: Vec<PathBuf> = model.parts.iter().map(|p| p.path.clone()).collect();
    let planned = ConvertOptions {
        dry_run: true,
        ..options.clone()
    };
    let report = convert(model.clone(), path, &planned, &mut |_, _| {})?;
    keep_inputs(&report.output, &parts)?;
    if options.dry_run {
        return Ok(report);
    }
    convert(model, path, options, progress)
}

/// Refuses an output that is one of the files read.
fn keep_inputs(outputs: &[PathBuf], parts: &[PathBuf]) -> Result<()> {
    let parts = parts.iter().map(PathBuf::as_path);
    output::keep_inputs(
        outputs,
        parts,
        "split.overwrites-input",
        "name another place",
    )
}
