//! From any readable format to any writable one.
//!
//! A conversion is a pipeline over a [`Model`]: choose and rename tensors, fit the state beside
//! them to the target, put computed tensors (casts, dequantization, …) in place of stored ones,
//! let the target's writer plan, and stream. What changes on the way and what cannot be carried
//! is known before the first byte is written.

pub(crate) mod blocks;
mod dense;
mod graph;
mod layout;
mod names;
mod options;
mod permute;
mod provenance;
pub(crate) mod state;
#[cfg(test)]
mod tests;
mod transform;
mod transpose;
mod widen;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value as Json, json};
use weighbridge_core::model::{DType, FormatId, Layout, Model, Tensor, Warning};
use weighbridge_core::{Error, Limits, Result};

pub use layout::{Layout as FrameworkLayout, parse_layout};
pub use options::{ConvertOptions, Endian, parse_dtype, parse_map, target_of};
pub(crate) use transform::{kind_of, part_of};

use transpose::Turn;

use crate::format::gguf::{Gguf, split};
use crate::format::hdf5::read::SAME;
use crate::format::hdf5::write::{Hdf5Writer, KERAS_DTYPE, LAYER_CLASS};
use crate::format::keras::write::KerasWriter;
use crate::format::numpy::Numpy;
use crate::format::numpy::write::NpyWriter;
use crate::format::pytorch::write::PyTorchWriter;
use crate::format::safetensors::Safetensors;
use crate::format::tensorflow::checkpoint::{self, CheckpointWriter};
use crate::format::{self, FormatWriter, Note, Plan, WriteOptions};
use crate::output;

/// What a conversion did, or would do.
#[derive(Debug, Clone)]
pub struct Report {
    /// The files written; with `dry_run` those that would be.
    pub output: Vec<PathBuf>,
    /// How many tensors went in.
    pub tensors: u64,
    /// The size of all files together, in bytes.
    pub bytes: u64,
    /// What changed on the way.
    pub changed: Vec<Note>,
    /// What could not go in.
    pub lost: Vec<Note>,
    /// What was noticed.
    pub warnings: Vec<Warning>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Report {
    /// The report as the JSON document of `convert`.
    pub fn to_json(&self) -> Json {
        let notes = |notes: &[Note]| -> Vec<Json> { notes.iter().map(Note::to_json).collect() };
        let warnings = format::warnings(&self.warnings);
        let output: Vec<String> = self
            .output
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        json!({
            "output": output,
            "tensors": self.tensors,
            "bytes": self.bytes,
            "changed": notes(&self.changed),
            "lost": notes(&self.lost),
            "warnings": warnings,
            "seconds": self.seconds,
        })
    }
}

/// The writer of a format.
///
/// # Errors
/// `Unsupported` for formats that are not written yet.
pub fn writer(format: FormatId) -> Result<&'static dyn FormatWriter> {
    match format {
        FormatId::Safetensors => Ok(&Safetensors),
        FormatId::PyTorch => Ok(&PyTorchWriter),
        FormatId::Gguf => Ok(&Gguf),
        FormatId::TfCheckpoint => Ok(&CheckpointWriter),
        FormatId::Numpy => Ok(&Numpy),
        FormatId::Hdf5 => Ok(&Hdf5Writer),
        FormatId::Keras => Err(Error::unsupported(
            "convert.graph",
            "a .keras file holds a model's configuration, which weights alone do not have",
        )
        .help("name the file whose configuration it is: --graph base.keras")),
        other => Err(Error::unsupported(
            "convert.target",
            format!("writing {} is not supported yet", other.as_str()),
        )
        .help(options::TARGETS)),
    }
}

/// As [`writer`], where the output's name says more than its format: `.npy` is a single array, HDF5
/// files are laid out for Keras 3 when they are called `.weights.h5`, for the older loaders when
/// `.hdf5` is not the end.
fn writer_at(format: FormatId, path: &Path) -> Result<&'static dyn FormatWriter> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    match format {
        FormatId::Numpy if name.ends_with(".npy") => Ok(&NpyWriter),
        FormatId::Hdf5 if name.ends_with(".weights.h5") => Ok(&KerasWriter::Weights),
        FormatId::Hdf5 if !name.ends_with(".hdf5") => Ok(&KerasWriter::Legacy),
        other => writer(other),
    }
}

/// Converts `model` to `path`. `progress` is told the bytes written since its last call and
/// the total; files appear at `path` only when all are complete.
///
/// # Errors
/// `Parameter` for options that make no sense, `Lossy` when `strict` is set and something but
/// names would change, `Unsupported` when no tensor fits the target, `Limit` when tensors expand
/// past the cap, and what reading and writing gives. Nothing is left at `path` then.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
/// use weighbridge::convert::{ConvertOptions, convert};
/// let model = weighbridge::open("checkpoint.pt")?;
/// let options = ConvertOptions { dry_run: true, ..ConvertOptions::default() };
/// let report = convert(model, Path::new("out.safetensors"), &options, &mut |_, _| {})?;
/// for note in &report.lost {
///     println!("{}: {}", note.what, note.why);
/// }
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn convert(
    model: Model,
    path: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    let target = match options.target {
        Some(t) => t,
        None => target_of(path)?,
    };
    let into_keras = matches!(target, FormatId::Hdf5 | FormatId::Keras);
    if target == FormatId::Onnx || into_keras && options.graph.is_some() {
        return match &options.graph {
            Some(base) if into_keras => graph::keras::convert(model, base, path, options, progress),
            _ => graph::convert(model, path, options, progress),
        };
    }
    options.refuse_graph()?;
    let writer = writer_at(target, path)?;
    if options.endian.is_some() && target != FormatId::Gguf {
        let message = format!("{} files have one byte order", target.as_str());
        let e = Error::parameter("convert.endian", message);
        return Err(
            e.help("--endian is for GGUF output; every reader of other formats knows theirs")
        );
    }
    let shares = matches!(
        target,
        FormatId::Safetensors | FormatId::PyTorch | FormatId::Gguf
    );
    if options.dedupe && !shares {
        let message = format!(
            "{} files have no place to say what was shared",
            target.as_str()
        );
        return Err(Error::parameter("convert.dedupe", message)
            .help("leave --dedupe out: every tensor is written in full"));
    }
    let stem = match target {
        FormatId::TfCheckpoint => checkpoint::prefix_of(path),
        _ => path.file_stem().map(|s| s.to_string_lossy().into_owned()),
    };
    let mut job = Job::prepare(model, options, target)?;
    let plan = job.plan(writer, options, stem.unwrap_or_default())?;
    let report = job.report(&plan, path);
    keep_shards(&job.model, &report.output)?;
    if options.strict {
        refuse_changes(&report)?;
    }
    // A vocabulary of its own is a GGUF file without tensors.
    let bare = target == FormatId::Gguf && job.model.tensors.is_empty();
    let vocabulary = bare && !job.model.metadata.is_empty();
    if report.tensors == 0 && !vocabulary {
        return Err(nothing_fits(&report, &job.model, options));
    }
    if options.dry_run {
        return Ok(report.timed(started));
    }
    let output = output::counted(report.bytes, progress, |tell| {
        output::write_plan(writer, &job.model, &plan, path, options.sync, tell)
    })?;
    Ok(Report { output, ..report }.timed(started))
}

impl Report {
    fn timed(mut self, started: Instant) -> Self {
        self.seconds = started.elapsed().as_secs_f64();
        self
    }
}

/// Refuses to put the result in the place of one of several files of the model: the others would
/// be left without it. One file may take its own place, since it is whole then.
fn keep_shards(model: &Model, output: &[PathBuf]) -> Result<()> {
    if model.parts.len() < 2 {
        return Ok(());
    }
    let help = "the other files would be left without it: name another OUT";
    output::keep_inputs(output, parts(model), "convert.same-file", help)
}

/// The files that a model is read from.
pub(crate) fn parts(model: &Model) -> impl Iterator<Item = &Path> + Clone {
    model.parts.iter().map(|p| p.path.as_path())
}

fn refuse_changes(report: &Report) -> Result<()> {
    let values: Vec<&Note> = report
        .changed
        .iter()
        .filter(|n| !n.naming)
        .chain(&report.lost)
        .collect();
    let Some(first) = values.first() else {
        return Ok(());
    };
    let more = match values.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    Err(Error::lossy(
        "convert.strict",
        format!("{}: {}{more}", first.what, first.why),
    )
    .help("leave --strict out to write what fits; --dry-run lists everything"))
}

fn nothing_fits(report: &Report, model: &Model, options: &ConvertOptions) -> Error {
    // Metadata or a graph that has no place is no tensor that does not fit.
    let names: HashSet<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    let lost = report.lost.iter().find(|n| names.contains(n.what.as_str()));
    let e = match lost.filter(|_| !model.tensors.is_empty()) {
        Some(n) => Error::unsupported(
            "convert.nothing-fits",
            format!("no tensor fits the target: {}: {}", n.what, n.why),
        ),
        None => Error::unsupported("convert.no-tensors", "the model has no tensors"),
    };
    match model.format == FormatId::Onnx && !options.constants {
        true => e.help("some exporters keep weights in Constant nodes: --constants"),
        false => e.help("`weighbridge inspect --tensors` shows what the model holds"),
    }
}

/// What is said of the attributes of datasets, for which other formats have no place.
fn attributes_left(model: &Model, bulk: &HashSet<String>) -> Option<Note> {
    // What the reader says itself is no attribute of the file, and BF16 has a dtype.
    let told = [LAYER_CLASS, KERAS_DTYPE, SAME, "fields", "enumeration"];
    let own = |key: &str| !told.contains(&key);
    let tensors = model.tensors.iter().filter(|t| !bulk.contains(&t.name));
    let all = tensors.flat_map(|t| t.extra.iter().flat_map(move |e| &e.attributes));
    let mut names: Vec<&str> = all.map(|(k, _)| k.as_str()).filter(|k| own(k)).collect();
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    let more = if names.len() > 3 { ", …" } else { "" };
    names.truncate(3);
    let why = format!("{n} are not carried: {}{more}", names.join(", "));
    (n > 0).then(|| Note::new("attributes of datasets", why))
}

/// Refuses to put weights into a given file that may lie in it in another order: where the shapes
/// happen to fit, nothing else would tell.
fn refuse_left(left: Vec<String>) -> Result<()> {
    let Some(first) = left.into_iter().next() else {
        return Ok(());
    };
    let message = format!("--layout does not tell how to turn {first}");
    Err(Error::unsupported("convert.layout-left", message).help(
        "leave the tensor out with --drop, and --partial lets the given file keep its own; --partial alone puts it in as it is",
    ))
}

/// What a computation graph is called in a report.
const GRAPH: &str = "graph";

/// A model on its way, with what is said of it.
struct Job {
    model: Model,
    changed: Vec<Note>,
    lost: Vec<Note>,
    /// Tensors that hold moved state.
    bulk: HashSet<String>,
}

impl Job {
    fn prepare(mut model: Model, options: &ConvertOptions, target: FormatId) -> Result<Self> {
        let (mut changed, mut lost) = (Vec::new(), Vec::new());
        for (what, why) in std::mem::take(&mut model.omitted) {
            lost.push(Note::new(what, why));
        }
        // Who asks for weights only, or names another graph, does not lose this one.
        if model.graph.is_some() && !options.weights_only && options.graph.is_none() {
            let why = format!("{} holds no computation graph", target.as_str());
            lost.push(Note::new(GRAPH, why));
        }
        for w in &model.warnings {
            if w.rule == "names.collision" {
                changed.push(Note {
                    what: "names".into(),
                    why: w.message.clone(),
                    naming: true,
                });
            }
        }
        let mut bulk = HashSet::new();
        if let Some(s) = &model.structure {
            crate::structure::bulk_names(s, &mut bulk);
        }
        let mut turner = layout::Turner::new(options.layout, &model);
        let renamed = names::apply(&mut model, options, &bulk, &mut changed)?;
        if model.format == FormatId::Onnx && target != FormatId::Onnx {
            provenance::record(&mut model, &renamed, &options.limits);
        }
        let hdf5 = matches!(model.format, FormatId::Hdf5 | FormatId::Keras);
        if hdf5 && !matches!(target, FormatId::Hdf5 | FormatId::Keras) {
            provenance::lists_as_text(&mut model);
            if !options.weights_only {
                lost.extend(attributes_left(&model, &bulk));
            }
        }
        let mut turn = Turn::new(&options.transpose)?;
        turn.apply(&mut model, false, &mut changed)?;
        let left = turner.follow(&renamed, &mut model);
        if options.graph.is_some() && !options.partial {
            refuse_left(left)?;
        }
        turner.apply(&mut model, false, &mut changed)?;
        let before: HashMap<String, DType> = dtypes(&model.tensors);
        transform::apply(
            &mut model,
            options,
            target,
            |n| bulk.contains(n),
            &mut changed,
        )?;
        turn.apply(&mut model, true, &mut changed)?;
        turner.apply(&mut model, true, &mut changed)?;
        let was_blocks = |t: &&Tensor| {
            let was = before.get(&t.name).and_then(|d| d.block());
            was.is_some() && t.dtype.block().is_none()
        };
        if let Some(dtype) = model.tensors.iter().find(was_blocks).map(|t| t.dtype) {
            crate::quantize::retype(&mut model, dtype);
        }
        state::refresh_aliases(&mut model, &before);
        check_expansion(&model, &options.limits)?;
        let flat = !renamed.is_empty();
        state::flatten(&mut model, options, flat, &bulk, &mut changed, &mut lost);
        prune_refused(&mut model, target)?;
        if target == FormatId::Gguf && options.shard_size.or(options.shard_tensors).is_some() {
            // Split files are those of the reference, which counts dimensions like this.
            changed.extend(split::trim(&mut model.tensors));
        }
        state::settle(&mut model, options, target, &mut lost);
        for t in &model.tensors {
            if t.name.starts_with(crate::structure::BULK_PREFIX) {
                bulk.insert(t.name.clone());
            }
        }
        Ok(Self {
            model,
            changed,
            lost,
            bulk,
        })
    }

    /// Lets the writer plan.
    fn plan(
        &mut self,
        writer: &dyn FormatWriter,
        options: &ConvertOptions,
        stem: String,
    ) -> Result<Plan> {
        let write = WriteOptions {
            shard_size: options.shard_size,
            shard_tensors: options.shard_tensors,
            stem,
            dedupe: options.dedupe,
            weights_only: options.weights_only,
            big_endian: options.endian == Some(Endian::Big),
            ..WriteOptions::default()
        };
        writer.plan(&self.model, &write)
    }

    fn report(&mut self, plan: &Plan, path: &Path) -> Report {
        let mut changed = std::mem::take(&mut self.changed);
        let mut lost = std::mem::take(&mut self.lost);
        changed.extend(plan.changed.iter().cloned());
        lost.extend(plan.lost.iter().cloned());
        for list in [&mut changed, &mut lost] {
            let mut seen = HashSet::new();
            list.retain(|n| seen.insert((n.what.clone(), n.why.clone())));
        }
        let names = plan.files.iter().map(|f| f.name.as_str());
        let names = names.chain(plan.side_files.iter().map(|(n, _)| n.as_str()));
        let output = names.map(|n| match n {
            "" => path.to_path_buf(),
            n => path.with_file_name(n),
        });
        let sizes = plan.files.iter().map(|f| f.bytes);
        let sizes = sizes.chain(plan.side_files.iter().map(|(_, c)| c.len() as u64));
        let tensors = plan.files.iter().flat_map(|f| &f.tensors).filter(|&&i| {
            let t = self.model.tensors.get(i);
            t.is_some_and(|t| !self.bulk.contains(&t.name))
        });
        Report {
            output: output.collect(),
            tensors: tensors.count() as u64,
            bytes: sizes.fold(0, u64::saturating_add),
            changed,
            lost,
            warnings: std::mem::take(&mut self.model.warnings),
            seconds: 0.0,
        }
    }
}

/// Takes tensors that the target cannot hold out of a structure that is written beside the
/// others; the writer lists them.
fn prune_refused(model: &mut Model, target: FormatId) -> Result<()> {
    if target != FormatId::Safetensors || model.structure.is_none() {
        return Ok(());
    }
    // The writer is asked about the odd ones only: planning a large model takes a while.
    let odd = |t: &&Tensor| {
        t.layout != Layout::Strided
            || !t.has_data()
            || t.quantization().is_some()
            || t.dtype.bytes().is_none()
            || part_of(t.dtype).is_some()
            || t.dtype.is_quantized()
    };
    let mut asked = Model::new(model.format);
    asked.tensors = model.tensors.iter().filter(odd).cloned().collect();
    if asked.tensors.is_empty() {
        return Ok(());
    }
    let plan = writer(target)?.plan(&asked, &WriteOptions::default())?;
    let refused: HashSet<String> = plan.lost.into_iter().map(|n| n.what).collect();
    if let Some(s) = &mut model.structure {
        state::prune(s, &refused);
    }
    Ok(())
}

fn dtypes(tensors: &[Tensor]) -> HashMap<String, DType> {
    tensors.iter().map(|t| (t.name.clone(), t.dtype)).collect()
}

/// Refuses tensors that would take far more bytes than the input has.
fn check_expansion(model: &Model, limits: &Limits) -> Result<()> {
    let total = model
        .tensors
        .iter()
        .fold(0u64, |n, t| n.saturating_add(t.byte_len()));
    let cap = limits.expand_cap(model.file_bytes());
    if total > cap {
        return Err(Error::limit(
            "convert.expansion",
            format!("the tensors would take {total} bytes, the cap is {cap}"),
        )
        .help("raise the cap with --max-expand SIZE if you trust the file's origin"));
    }
    Ok(())
}
