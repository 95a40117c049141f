//! An ONNX model with its weights in files beside it, and one with all of them in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use weighbridge_core::model::Warning;
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, Result};

use super::{MergeOptions, SplitOptions, keep_inputs, with_extension};
use crate::OpenOptions;
use crate::convert::Report;
use crate::format::onnx::splice::Edits;
use crate::format::onnx::write::{External, Options, Original, Weights, plan};

fn original(input: &Path, open: &OpenOptions) -> Result<Original> {
    let source = source::open_file(input, Backend::Pread)?;
    let mut open = open.clone();
    open.backend = Backend::Pread;
    Original::open(Arc::clone(&source), &open)
}

/// Writes the model at `input` as `PREFIX.onnx` with its weights beside it: in one file, or in
/// several by size or number.
pub(super) fn split(
    input: &Path,
    prefix: &Path,
    options: &SplitOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    let external = External {
        gather: true,
        threshold: options.threshold.unwrap_or(External::default().threshold),
        max_size: options.max_size,
        max_tensors: options.max_tensors,
        ..External::default()
    };
    let how = Options::new(Weights::External(external), false);
    let out = with_extension(prefix, "onnx");
    let original = original(input, &options.open)?;
    write(
        original,
        &out,
        &how,
        options.dry_run,
        options.sync,
        progress,
    )
    .map(|r| timed(r, started))
}

/// Writes the model at `input` and all its weights as the one file `output`.
pub(super) fn merge(
    input: &Path,
    output: &Path,
    options: &MergeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    let how = Options::new(Weights::Inline, options.over_2gib);
    let original = original(input, &options.open)?;
    if original.model.parts.len() == 1 {
        let missing = |w: &&Warning| w.rule == "onnx.external-missing";
        let e = match original.model.warnings.iter().find(missing) {
            Some(w) => Error::unsupported(w.rule, w.message.clone()),
            None => Error::parameter("merge.not-split", "the model is one file already"),
        };
        return Err(e.in_file(input.display().to_string()));
    }
    write(
        original,
        output,
        &how,
        options.dry_run,
        options.sync,
        progress,
    )
    .map(|r| timed(r, started))
}

fn timed(report: Report, started: Instant) -> Report {
    Report {
        seconds: started.elapsed().as_secs_f64(),
        ..report
    }
}

fn write(
    mut original: Original,
    out: &Path,
    how: &Options,
    dry_run: bool,
    sync: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let parts: Vec<PathBuf> = original
        .model
        .parts
        .iter()
        .map(|p| p.path.clone())
        .collect();
    keep_inputs(&[out.to_owned()], &parts).map_err(|e| {
        e.help("name another OUT; `weighbridge edit --external` or `--inline` changes a model where it is")
    })?;
    let mut plan = plan(&original, Edits::new(), out, how)?;
    if !dry_run {
        plan.write(sync, progress)?;
    }
    Ok(Report {
        output: plan.paths(),
        tensors: original.model.tensors.len() as u64,
        bytes: plan.bytes(),
        changed: std::mem::take(&mut plan.notes),
        lost: Vec::new(),
        warnings: std::mem::take(&mut original.model.warnings),
        seconds: 0.0,
    })
}
