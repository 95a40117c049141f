//! Reports of a scan: a table for people, JSON and SARIF for programs, pages on the rules.

pub mod json;
pub mod pages;
pub mod sarif;
pub mod table;

use serde::Serialize;

use crate::engine::{Known, Settings};
use crate::finding::{FileReport, Severity, Verdict};
use crate::policy::Expired;

/// The answer of a whole scan.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The files, in the order they were scanned.
    pub files: Vec<FileReport>,
}

impl Report {
    /// The worst verdict of the files; `Clean` when there is none.
    pub fn verdict(&self) -> Verdict {
        self.totals().verdict
    }

    /// What the report says as a whole.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for f in &self.files {
            totals.add(f);
        }
        totals
    }
}

/// What a scan says as a whole. It is fed file by file, so that nobody has to keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// How many files there were.
    pub files: u64,
    /// The worst verdict.
    pub verdict: Verdict,
    /// Whether any file breaks its format or reached a limit.
    pub malformed: bool,
    /// Whether anything could not be looked at.
    pub incomplete: bool,
    /// How many findings a policy or a baseline accepts.
    pub suppressed: u64,
    /// How many files were not scanned because the user's ignore files hide them.
    pub ignored: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            files: 0,
            verdict: Verdict::Clean,
            malformed: false,
            incomplete: false,
            suppressed: 0,
            ignored: 0,
        }
    }
}

impl Totals {
    /// Counts `file`.
    pub fn add(&mut self, file: &FileReport) {
        self.files += 1;
        self.verdict = self.verdict.max(file.verdict);
        self.malformed |= file.malformed;
        self.incomplete |= !file.incomplete.is_empty();
        self.suppressed += file.suppressed.len() as u64;
    }

    /// The worst severity, where it makes a verdict.
    pub fn worst(&self) -> Option<Severity> {
        match self.verdict {
            Verdict::Malicious => Some(Severity::Malicious),
            Verdict::Suspicious => Some(Severity::Suspicious),
            _ => None,
        }
    }
}

/// What the user's files had to say in a scan, for its report.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Basis {
    /// The policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyNote>,
    /// The path of the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
}

/// The policy of a scan.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyNote {
    /// The path, as the user named it.
    pub path: String,
    /// The entries that no longer apply.
    pub expired: Vec<Expired>,
}

impl Basis {
    /// What `settings` say.
    pub fn of(settings: &Settings) -> Self {
        let policy = settings.policy.as_ref().map(|p| PolicyNote {
            path: p.path().to_owned(),
            expired: p.expired().to_vec(),
        });
        let baseline = match &settings.known {
            Known::Nothing => None,
            Known::Listed(b) => Some(b.path().to_owned()),
            Known::Everything(path) => Some(path.clone()),
        };
        Self { policy, baseline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Gap;

    #[test]
    fn totals_are_those_of_the_worst_file() {
        let file = |verdict, malformed| FileReport {
            verdict,
            malformed,
            incomplete: Vec::new(),
            ..FileReport::unread("x", "")
        };
        let mut t = Totals::default();
        assert_eq!((t.verdict, t.worst()), (Verdict::Clean, None));
        t.add(&file(Verdict::Malformed, true));
        assert_eq!((t.verdict, t.worst()), (Verdict::Malformed, None));
        t.add(&file(Verdict::Suspicious, false));
        t.add(&file(Verdict::Clean, false));
        assert_eq!(t.worst(), Some(Severity::Suspicious));
        assert!(t.malformed && !t.incomplete);
        let mut gone = file(Verdict::Incomplete, false);
        gone.incomplete.push(Gap {
            place: String::new(),
            offset: None,
            reason: "x".into(),
        });
        t.add(&gone);
        assert!(t.incomplete);
        assert_eq!((t.files, t.verdict), (4, Verdict::Suspicious));
    }
}
