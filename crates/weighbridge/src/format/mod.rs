//! The formats, one folder each with the same file names: `read`, `write`, `verify`.

pub mod detect;
mod directory;
pub mod flax;
pub mod gguf;
pub mod hdf5;
pub(crate) mod joblib;
pub mod keras;
pub mod numpy;
pub mod onnx;
mod payload;
pub mod pytorch;
pub mod safetensors;
pub mod shards;
pub mod tensorflow;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value as Json, json};
use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Layout, Model, Tensor, Warning};
use weighbridge_core::source::{self, ByteSource};

use crate::OpenOptions;
use crate::check::{Report, Violation};
use crate::output::Sink;

/// Reads one format from single files.
pub trait FormatReader: Sync {
    /// The format.
    fn id(&self) -> FormatId;

    /// Opens one file: headers are read, payloads not.
    ///
    /// # Errors
    /// Malformed, truncated or over a limit.
    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model>;

    /// Every rule of the specification that the file breaks, payload checksums included.
    ///
    /// # Errors
    /// Only `Io`: what is wrong with the file is the answer.
    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>>;
}

/// Writes one format.
pub trait FormatWriter: Sync {
    /// The format.
    fn id(&self) -> FormatId;

    /// What writing `model` would give: the files, and what would change or be lost. Reads no
    /// payload.
    ///
    /// # Errors
    /// `Parameter` for options the format does not have.
    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan>;

    /// Writes file number `file` of the plan to `out`, tensors in the plan's order with bounded
    /// memory; `progress` is told the payload bytes written since the last call.
    ///
    /// # Errors
    /// What reading the tensors and writing gives.
    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()>;
}

/// What a writer is asked for.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Split into files of at most this many payload bytes, with an index.
    pub shard_size: Option<u64>,
    /// Split into files of at most this many tensors, with an index. Safetensors only.
    pub shard_tensors: Option<u64>,
    /// What shards and their index are named after, `model` if empty: the output's file name
    /// without extension.
    pub stem: String,
    /// Keep one copy of tensors that share storage, recorded so that they can be rebuilt.
    pub dedupe: bool,
    /// Leave all non-tensor state out.
    pub weights_only: bool,
    /// Write numbers with their most significant byte first. GGUF only.
    pub big_endian: bool,
    /// Where the data begins, a multiple of this many bytes, and tensors as far as they can be
    /// ordered so; the format's own when smaller. Safetensors only.
    pub align: u64,
}

/// One thing that a conversion changes or loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The tensor, metadata key or state path.
    pub what: String,
    /// What happens to it and why.
    pub why: String,
    /// Whether only a name changes: `--strict` lets that pass.
    pub naming: bool,
}

impl Note {
    /// A note on values, not names.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            naming: false,
        }
    }
}

impl Note {
    /// As documents have it.
    pub(crate) fn to_json(&self) -> Json {
        json!({"what": self.what, "why": self.why})
    }
}

/// Warnings as documents have them.
pub(crate) fn warnings(all: &[Warning]) -> Vec<Json> {
    let one = |w: &Warning| {
        let mut m = json!({"rule": w.rule, "message": w.message});
        if let (Some(o), Some(m)) = (w.offset, m.as_object_mut()) {
            m.insert("offset".into(), o.into());
        }
        m
    };
    all.iter().map(one).collect()
}

/// Why a writer of dense tensors cannot take `t`, where that is for its layout; `holder` is the
/// format as sentences begin with it.
pub(crate) fn not_dense(t: &Tensor, holder: &str) -> Option<String> {
    match t.layout {
        Layout::Strided => None,
        Layout::Meta => Some("a meta tensor has a shape and no data".into()),
        sparse => {
            let layout = sparse.as_str();
            Some(format!(
                "{holder} holds dense tensors only and this one is {layout}: --densify writes its dense values"
            ))
        }
    }
}

/// One file of a plan.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// File name relative to the output's directory, or empty for the output itself.
    pub name: String,
    /// Exact size in bytes.
    pub bytes: u64,
    /// Indices into the model's tensors, in writing order.
    pub tensors: Vec<usize>,
    /// What the writer prepared for this file (its header, its pickle).
    pub prepared: Vec<u8>,
    /// What each tensor's data is padded to, in bytes, where the writer goes by that; else 1.
    pub alignment: u64,
    /// Whether numbers are written with their most significant byte first.
    pub big_endian: bool,
}

/// What writing a model will give.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The files, in writing order.
    pub files: Vec<PlannedFile>,
    /// Side files that are written whole: name and contents (a shard index).
    pub side_files: Vec<(String, Vec<u8>)>,
    /// What changes on the way.
    pub changed: Vec<Note>,
    /// What cannot go in.
    pub lost: Vec<Note>,
    /// What writing a file finds out for a later one.
    pub learned: Learned,
}

/// Checksums of tensors that were written, for an index that is written behind them.
#[derive(Debug, Clone, Default)]
pub struct Learned(Arc<Mutex<HashMap<usize, u32>>>);

impl Learned {
    /// Keeps the checksum of tensor number `tensor` of the model.
    pub(crate) fn keep(&self, tensor: usize, sum: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(tensor, sum);
    }

    /// The checksum of tensor number `tensor` of the model, once it was written.
    pub(crate) fn sum(&self, tensor: usize) -> Option<u32> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&tensor).copied()
    }
}

/// The reader of a format, where there is one.
pub fn reader(format: FormatId) -> Option<&'static dyn FormatReader> {
    Some(match format {
        FormatId::PyTorch | FormatId::Pickle => &pytorch::PyTorch,
        FormatId::Safetensors => &safetensors::Safetensors,
        FormatId::Gguf => &gguf::Gguf,
        FormatId::Onnx => &onnx::Onnx,
        // Only what lies in an HDF5 file tells whose it is.
        FormatId::Hdf5 | FormatId::Keras => &keras::Keras,
        FormatId::TfCheckpoint => &tensorflow::TfCheckpoint,
        FormatId::SavedModel => &tensorflow::SavedModel,
        FormatId::GraphDef => &tensorflow::GraphDef,
        FormatId::TfLite => &tensorflow::TfLite,
        FormatId::Numpy => &numpy::Numpy,
        FormatId::Flax => &flax::Flax,
        _ => return None,
    })
}

/// Opens whatever lies at `path`: a file, an index, any shard, or a folder that holds a model.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Model> {
    let mut model = directory::open(directory::locate(path, options)?, options)?;
    let holds_state = matches!(
        model.format,
        FormatId::Safetensors | FormatId::Gguf | FormatId::Hdf5 | FormatId::Keras
    );
    if holds_state {
        // What our own writer recorded beside the tensors: dropped duplicates, then the state.
        if let Err(e) = safetensors::aliases::restore(&mut model, &options.limits) {
            model.warnings.push(Warning::new(e.rule(), e.message()));
        }
        crate::structure::restore(&mut model, &options.limits);
    }
    Ok(model)
}

/// Opens one file as itself.
pub(crate) fn open_file(path: &Path, options: &OpenOptions) -> Result<Model> {
    let source = source::open_file(path, options.backend)?;
    let format = format_of(&source, options)?;
    let reader = reader(format)
        .ok_or_else(|| detect::refuse(detect::Detected::Content(format), source.name()))?;
    reader.open(source, options)
}

/// The format a file is read as: what the caller says, else what it is, else what its name says.
pub(crate) fn format_of(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<FormatId> {
    if let Some(format) = options.format {
        return Ok(format);
    }
    match detect::detect(source, &options.limits)? {
        detect::Detected::Content(f) | detect::Detected::Extension(f) => Ok(f),
        other => Err(detect::refuse(other, source.name())),
    }
}

/// Checks whatever lies at `path`: one file, or every part of a model in several.
pub(crate) fn check(path: &Path, options: &OpenOptions) -> Result<Report> {
    let located = directory::locate(path, options)?;
    let (format, violations) = match &located.target {
        directory::Target::File(file) => check_file(file, options)?,
        _ => directory::check(&located, options)?,
    };
    Ok(Report {
        path: path.to_owned(),
        format,
        violations,
    })
}

/// Checks one file as itself.
pub(crate) fn check_file(path: &Path, options: &OpenOptions) -> Result<(FormatId, Vec<Violation>)> {
    let source = source::open_file(path, options.backend)?;
    let format = format_of(&source, options)?;
    let reader = reader(format)
        .ok_or_else(|| detect::refuse(detect::Detected::Content(format), source.name()))?;
    let format = match format {
        FormatId::Hdf5 => keras::of_file(&source, options),
        other => other,
    };
    Ok((format, reader.verify(source, options)?))
}
