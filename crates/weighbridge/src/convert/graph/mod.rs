//! ONNX as a target: weights put into a given graph, a graph whose weights lie in a safetensors
//! file, and a model as it is.

mod base;
mod carry;
mod inject;
pub(super) mod keras;
mod pair;
mod repack;
mod share;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::{ConvertOptions, Report, keep_shards, refuse_changes};
use crate::format::onnx::beside::is_tied;
use crate::format::onnx::splice::copy;
use crate::format::onnx::write;
use crate::format::safetensors::Safetensors;
use crate::format::{FormatWriter as _, Plan};
use crate::output::{Output, OutputSet};

/// Converts `model` to the ONNX file `path`.
///
/// # Errors
/// As [`super::convert`].
pub(super) fn convert(
    model: Model,
    path: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    let work = match (&options.graph, model.format, &options.shared_weights) {
        (Some(graph), _, _) => inject::prepare(model, graph, path, options)?,
        (None, FormatId::Onnx, Some(file)) => share::prepare(model, file, path, options)?,
        (None, FormatId::Onnx, None) => carry::prepare(&model, path, options)?,
        (None, other, _) => {
            let message = format!("{} weights alone are no ONNX graph", other.as_str());
            return Err(Error::unsupported("convert.graph", message)
                .help("name the graph that they belong into: --graph base.onnx"));
        }
    };
    let report = work.report();
    if options.strict {
        refuse_changes(&report)?;
    }
    if options.dry_run {
        return Ok(report.timed(started));
    }
    let output = work.write(options.sync, &mut |n| progress(n, report.bytes))?;
    Ok(Report { output, ..report }.timed(started))
}

/// What comes into a file.
enum Content {
    /// Another file, as it is.
    Copy(Arc<dyn ByteSource>),
    /// The one file of a plan for these tensors.
    Safetensors(Box<Model>, Plan),
}

/// One file to be written.
struct Target {
    path: PathBuf,
    bytes: u64,
    content: Content,
}

/// What is to be written, and what is to be said of it.
struct Work {
    /// The files.
    files: Vec<Target>,
    /// The graph with what lies beside it, where it is not one of them.
    graph: Option<write::Plan>,
    report: Report,
}

impl Work {
    fn report(&self) -> Report {
        let mut output: Vec<PathBuf> = self.files.iter().map(|f| f.path.clone()).collect();
        let mut bytes = self
            .files
            .iter()
            .fold(0u64, |n, f| n.saturating_add(f.bytes));
        if let Some(plan) = &self.graph {
            let mut all = plan.paths();
            // The graph goes last.
            all.rotate_left(1);
            output.extend(all);
            bytes = bytes.saturating_add(plan.bytes());
        }
        Report {
            output,
            bytes,
            ..self.report.clone()
        }
    }

    /// Writes all files and puts them in place together.
    fn write(&self, sync: bool, progress: &mut dyn FnMut(u64)) -> Result<Vec<PathBuf>> {
        let mut set = OutputSet::new();
        for f in &self.files {
            set.add(&f.path, f.bytes, sync, &mut |out| f.fill(out, progress))?;
        }
        if let Some(plan) = &self.graph {
            let (mut told, mut folders) = (0u64, Vec::new());
            plan.write_all(sync, &mut set, &mut folders, &mut |n| {
                told = told.saturating_add(n);
                progress(n);
            })?;
            progress(plan.bytes().saturating_sub(told));
            let model = plan.paths().into_iter().next().unwrap_or_default();
            if is_tied(&model, self.files.iter().map(|f| f.path.as_path())) {
                set.old_is_tied();
            }
        }
        set.commit()
    }
}

impl Target {
    fn fill(&self, out: &mut Output, progress: &mut dyn FnMut(u64)) -> Result<()> {
        // What no other count tells (headers, padding) counts as done with the file.
        let mut told = 0u64;
        let mut tell = |n: u64| {
            told = told.saturating_add(n);
            progress(n);
        };
        match &self.content {
            Content::Copy(source) => {
                copy(source.as_ref(), 0..source.len(), out, &mut tell)?;
            }
            Content::Safetensors(model, plan) => {
                Safetensors.write(model, plan, 0, out, &mut tell)?;
            }
        }
        progress(self.bytes.saturating_sub(told));
        Ok(())
    }
}

/// The folder that a file lies in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A file name as a location of external data.
fn location(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| {
        Error::parameter(
            "convert.location",
            "the name of a file of external data has to be UTF-8",
        )
        .in_file(path.display().to_string())
    })?;
    crate::format::onnx::external::spelling(name).map_err(|e| {
        Error::parameter("convert.location", e.message()).in_file(path.display().to_string())
    })?;
    Ok(name.to_owned())
}

/// Names for a message: the first, and how many more there are.
fn some_names<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 12;
    let n = names.len();
    let shown: Vec<&str> = names.take(SHOWN).collect();
    match n.saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}
