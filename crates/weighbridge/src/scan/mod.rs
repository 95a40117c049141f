//! Scanning files and folders: takes every file apart by what its bytes are, whatever it is
//! called, and hands what it saw to the scanner as a [`Subject`].
//!
//! Formats know nothing of the scanner and the scanner knows no format; this is where they meet.

mod pickles;
mod tar;
mod text;
mod walk;
mod zip;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::FormatId;
use weighbridge_core::source::{Backend, ByteSource, open_file};
use weighbridge_core::{Error, Limits, Result};
use weighbridge_scan::report::Report;
use weighbridge_scan::{Engine, FileReport, Gap, Subject};

use crate::OpenOptions;
use crate::format::detect::{self, Detected};
use crate::format::{FormatReader, pytorch::PyTorch, safetensors::Safetensors};

/// How many bytes are looked at to tell what a file or a member is.
const HEAD: u64 = 64 << 10;

/// How files are scanned.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// What the files may cost.
    pub limits: Limits,
}

/// Scans the files at `paths`, folders recursively and in the order of their names. `progress` is
/// told each file before it is read.
///
/// # Errors
/// `Io` when one of `paths` does not exist. What goes wrong with a file beneath is in its report.
pub fn scan(
    paths: &[PathBuf],
    options: &ScanOptions,
    progress: &mut dyn FnMut(&Path),
) -> Result<Report> {
    let engine = Engine::new()?;
    let mut report = Report::default();
    for path in paths {
        walk::walk(path, &options.limits, &mut |found| {
            let file = match found {
                walk::Found::File(path) => {
                    progress(path);
                    scan_file(&engine, path, &options.limits)?
                }
                walk::Found::Skipped(path, reason) => unread(path, reason),
            };
            report.files.push(file);
            Ok(())
        })?;
    }
    Ok(report)
}

/// The report of something that was not opened.
fn unread(path: &Path, reason: String) -> FileReport {
    FileReport {
        path: path.display().to_string(),
        format: "unknown".into(),
        verdict: weighbridge_scan::Verdict::Incomplete,
        findings: Vec::new(),
        incomplete: vec![Gap {
            place: String::new(),
            offset: None,
            reason,
        }],
    }
}

fn scan_file(engine: &Engine, path: &Path, limits: &Limits) -> Result<FileReport> {
    let source = match open_file(path, Backend::Pread) {
        Ok(source) => source,
        Err(e) => return Ok(unread(path, e.message().to_owned())),
    };
    let mut subject = Subject::new(path.display().to_string(), source.as_ref());
    if let Err(e) = take_apart(&mut subject, path, &source, limits) {
        subject.failed(&e);
    }
    engine.run(subject)
}

/// Takes a file apart by everything that some loader would take it for: what its first bytes say,
/// and the archive that its last bytes may end.
fn take_apart(
    subject: &mut Subject<'_>,
    path: &Path,
    source: &Arc<dyn ByteSource>,
    limits: &Limits,
) -> Result<()> {
    let head = source.read_vec(0..source.len().min(HEAD))?;
    let options = OpenOptions {
        backend: Backend::Pread,
        limits: limits.clone(),
        ..OpenOptions::default()
    };
    let detected = detect::detect(source, limits)?;
    let format = match detected {
        Detected::Content(f) | Detected::Extension(f) => Some(f),
        _ => None,
    };
    subject.format = format.map_or("unknown", FormatId::as_str).into();
    let is_zip = head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06");
    if format == Some(FormatId::Safetensors) {
        for v in Safetensors.verify(Arc::clone(source), &options)? {
            subject.faults.push(weighbridge_scan::Fault {
                rule: v.rule.into(),
                place: String::new(),
                offset: v.offset,
                message: v.message,
            });
        }
    } else if is_zip || weighbridge_core::wire::tar::is_tar(&head) {
        container(subject, format, source, &options, is_zip)?;
    } else if pickles::is_pickle(&head, path, limits) {
        bare(subject, format, source, &options)?;
    } else if !text::take(subject, path, &head, source, limits)? {
        let e = match detected {
            Detected::Extension(f) => Error::malformed(
                "format.not-what-it-says",
                format!(
                    "the name says {}, the content is something else",
                    f.as_str()
                ),
            ),
            other => {
                let e = detect::refuse(other, source.name());
                Error::unsupported(e.rule(), e.message())
            }
        };
        subject.failed(&e);
    }
    // Under a name or a head that promises something else, loaders that look for the other thing
    // still find it: torch.load reads a zip from its end.
    if !is_zip && zip::ends_in_archive(source)? {
        zip::take(subject, source, limits)?;
    }
    if format == Some(FormatId::Safetensors) && pickles::is_pickle(&head, path, limits) {
        pickles::take_stream(subject, source, 0, limits)?;
    }
    Ok(())
}

/// A zip or a tar, torch's or another.
fn container(
    subject: &mut Subject<'_>,
    format: Option<FormatId>,
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
    is_zip: bool,
) -> Result<()> {
    if format == Some(FormatId::PyTorch) {
        // What the reader cannot read is no gap here: the archive accounts for every byte, and
        // what a loader interprets is taken apart below.
        match PyTorch.open(Arc::clone(source), options) {
            Ok(model) => subject.container = model.container.map(str::to_owned),
            Err(e) if e.kind() == weighbridge_core::ErrorKind::Unsupported => {}
            Err(e) => subject.failed(&e),
        }
    }
    if is_zip {
        zip::take(subject, source, &options.limits)
    } else {
        tar::take(subject, source, &options.limits)
    }
}

/// Pickles with nothing around them: torch's legacy stream, or any pickle file.
fn bare(
    subject: &mut Subject<'_>,
    format: Option<FormatId>,
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
) -> Result<()> {
    subject.format = FormatId::Pickle.as_str().into();
    let mut end = None;
    if format == Some(FormatId::PyTorch) {
        match PyTorch.open(Arc::clone(source), options) {
            Ok(model) => {
                subject.format = model.format.as_str().into();
                subject.container = model.container.map(str::to_owned);
                if model.container == Some("legacy") {
                    let after = model
                        .warnings
                        .iter()
                        .find(|w| w.rule == "pytorch.trailing-data");
                    end = Some(after.and_then(|w| w.offset).unwrap_or(source.len()));
                }
            }
            // The pickles themselves say below what is wrong with them.
            Err(e) if e.rule().starts_with("pickle.") => {}
            Err(e) => subject.failed(&e),
        }
    }
    match end {
        Some(end) => pickles::take_legacy(subject, source, end, &options.limits),
        None => pickles::take_stream(subject, source, 0, &options.limits),
    }
}
