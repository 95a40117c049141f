//! Strict conformance to a format's own specification.

use std::path::{Path, PathBuf};

use weighbridge_core::model::FormatId;
use weighbridge_core::{Error, Result};

use crate::OpenOptions;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Stable dotted identifier, such as `safetensors.duplicate-name`.
    pub rule: &'static str,
    /// First byte it concerns, counted in its file.
    pub offset: Option<u64>,
    /// How many bytes it concerns.
    pub length: Option<u64>,
    /// The file and the place inside it, for people.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl From<&Error> for Violation {
    fn from(e: &Error) -> Self {
        let mut place: Vec<&str> = e.file().into_iter().collect();
        place.extend(e.path().iter().map(String::as_str));
        Self {
            rule: e.rule(),
            offset: e.byte_span().map(|s| s.offset),
            length: e.byte_span().map(|s| s.len),
            place: place.join(" → "),
            message: e.message().to_owned(),
        }
    }
}

/// The answer of [`check`].
#[derive(Debug, Clone)]
pub struct Report {
    /// The path that was checked.
    pub path: PathBuf,
    /// The format it was checked against.
    pub format: FormatId,
    /// Every broken rule found; empty when the file conforms.
    pub violations: Vec<Violation>,
}

/// Checks `path` against its format's specification, payload checksums included.
///
/// # Errors
/// Only when the question cannot be answered: the file is unreadable or of no known format.
pub fn check(path: &Path, options: &OpenOptions) -> Result<Report> {
    crate::format::check(path, options)
}
