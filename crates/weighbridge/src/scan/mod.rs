//! Scanning files and folders: takes every file apart by what its bytes are, whatever it is
//! called, and hands what it saw to the scanner as a [`Subject`].
//!
//! Formats know nothing of the scanner and the scanner knows no format; this is where they meet.

mod compressed;
mod examine;
mod json;
mod media;
mod pickles;
mod promise;
mod tar;
mod text;
mod walk;
mod xml;
mod yaml;
mod zip;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::source::{Backend, open_file};
use weighbridge_core::{Limits, Result};
use weighbridge_scan::report::Report;
use weighbridge_scan::{Engine, FileReport, Settings, Subject};

use examine::{Examiner, Item, Place};

/// How many bytes are looked at to tell what a file or a member is.
const HEAD: u64 = 64 << 10;

/// How files are scanned.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// What the files may cost.
    pub limits: Limits,
    /// The user's policy and baseline.
    pub settings: Settings,
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
    let engine = Engine::configured(&options.settings)?;
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
    FileReport::unread(path.display().to_string(), reason)
}

fn scan_file(engine: &Engine, path: &Path, limits: &Limits) -> Result<FileReport> {
    let source = match open_file(path, Backend::Pread) {
        Ok(source) => source,
        Err(e) => return Ok(unread(path, e.message().to_owned())),
    };
    let mut subject = Subject::new(path.display().to_string(), source.as_ref());
    let taken = Item::new(
        Arc::clone(&source),
        Place {
            steps: Vec::new(),
            base: Some(0),
        },
        path.display().to_string(),
    )
    .and_then(|item| Examiner::new(&mut subject, limits).examine(&item));
    if let Err(e) = taken {
        subject.failed(&e);
    }
    engine.run(subject)
}
