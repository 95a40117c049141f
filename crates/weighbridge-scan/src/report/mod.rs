//! Reports of a scan: a table for people, JSON for programs.

pub mod json;
pub mod table;

use crate::finding::{FileReport, Severity, Verdict};

/// The answer of a whole scan.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The files, in the order they were scanned.
    pub files: Vec<FileReport>,
}

impl Report {
    /// The worst verdict of the files; `Clean` when there is none.
    pub fn verdict(&self) -> Verdict {
        self.files
            .iter()
            .map(|f| f.verdict)
            .max()
            .unwrap_or(Verdict::Clean)
    }

    /// The worst severity of the findings.
    pub fn worst(&self) -> Option<Severity> {
        self.files
            .iter()
            .flat_map(|f| &f.findings)
            .map(|f| f.severity)
            .max()
    }

    /// Whether any file has `verdict`, or would have it but for its findings: a broken file with
    /// a finding counts as malformed too.
    pub fn any_malformed(&self) -> bool {
        self.files.iter().any(|f| {
            f.verdict == Verdict::Malformed || f.findings.iter().any(|x| x.rule == "WB-FMT-001")
        })
    }

    /// Whether anything could not be looked at.
    pub fn any_incomplete(&self) -> bool {
        self.files.iter().any(|f| !f.incomplete.is_empty())
    }
}
