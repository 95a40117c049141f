//! Scanning files and folders: takes every file apart by what its bytes are, whatever it is
//! called, and hands what it saw to the scanner as a [`Subject`].
//!
//! Formats know nothing of the scanner and the scanner knows no format; this is where they meet.

mod compressed;
mod drive;
mod examine;
mod flax;
mod gate;
mod gguf;
mod hdf5;
mod hdf5_rest;
mod hdf5_walk;
mod ignored;
mod keras;
mod media;
mod natives;
mod npy;
mod onnx;
mod onnx_tensor;
mod onnx_text;
mod pickles;
mod promise;
mod proto_text;
mod sentencepiece;
mod sevenz;
mod shape;
mod stream;
mod strings;
mod tar;
mod tensorflow;
mod tensorflow_checkpoint;
mod tensorflow_graph;
mod text;
mod tflite;
mod walk;
mod weights;
mod xml;
mod yaml;
mod zip;

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::source::{Backend, open_file};
use weighbridge_core::{Limits, Result};
use weighbridge_scan::{Engine, FileReport, Program, Settings, Subject};

use crate::json;
use examine::{Examiner, Item, Place};
use weights::Weights;

pub use drive::{scan, scan_listed};
pub use walk::{Listing, list};

/// How many bytes are looked at to tell what a file or a member is.
const HEAD: u64 = 64 << 10;

/// Memory that the values of a pickle may take for each byte of its file, and at least. Real ones
/// need about ten; what needs more was made to need it, or compressed beyond all measure.
const MEMORY_PER_BYTE: u64 = 64;
const MEMORY_LEAST: u64 = 32 << 20;

/// Opcodes that a pickle may run for each byte of its file, and at least: only compressed ones
/// can have more than one.
const OPS_PER_BYTE: u64 = 8;
const OPS_LEAST: u64 = 20_000_000;

/// How files are scanned.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// What the files may cost.
    pub limits: Limits,
    /// How many files are looked into at a time; 0 for one a core.
    pub threads: usize,
    /// Whether `.weighbridgeignore` files are obeyed: the one in the current directory and those
    /// in the folders that are scanned, never one further down.
    pub ignore_files: bool,
    /// Whether a file that makes the scanner panic gets a report that says so, and the scan goes
    /// on, instead of the panic going on.
    pub contain_panics: bool,
    /// The user's policy and baseline.
    pub settings: Settings,
}

/// The report of something that was not opened.
fn unread(path: &Path, reason: String) -> FileReport {
    FileReport::unread(path.display().to_string(), reason)
}

/// Looks into one file; `beside` says whether a model lies in the same folder, and `weights` what
/// belongs to graphs.
fn scan_file(
    engine: &Engine,
    path: &Path,
    beside: bool,
    weights: &Weights<'_>,
    limits: &Limits,
) -> Result<FileReport> {
    let source = match open_file(path, Backend::Pread) {
        Ok(source) => source,
        Err(e) => return Ok(unread(path, e.message().to_owned())),
    };
    let mut limits = limits.clone();
    let justified = source.len().saturating_mul(MEMORY_PER_BYTE);
    limits.pickle_memory = limits.pickle_memory.min(justified.max(MEMORY_LEAST));
    let justified = source.len().saturating_mul(OPS_PER_BYTE);
    limits.pickle_ops = limits.pickle_ops.min(justified.max(OPS_LEAST));
    let mut subject = Subject::new(path.display().to_string(), source.as_ref());
    let taken = Item::new(
        Arc::clone(&source),
        Place {
            steps: Vec::new(),
            base: Some(0),
        },
        path.display().to_string(),
    )
    .and_then(|item| {
        let mut examiner = Examiner::new(&mut subject, &limits);
        examiner.weights = Some((path, weights));
        examiner.examine(&item)
    });
    if let Err(e) = taken {
        subject.failed(&e);
    }
    let own = |p: &&mut Program| p.place.is_empty();
    for p in subject.programs.iter_mut().filter(own) {
        p.beside_model |= beside;
        subject.of_folder = true;
    }
    engine.run(subject)
}
