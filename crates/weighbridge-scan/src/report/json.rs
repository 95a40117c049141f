//! The `scan` JSON document (`docs/schema/scan.schema.json`).

use serde::Serialize;

use super::Report;
use crate::finding::{FileReport, Verdict};

/// The version of the document's shape. Fields may be added under one version, never renamed.
pub const SCHEMA_VERSION: u32 = 1;

/// The document, ready to be serialised.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    schema_version: u32,
    verdict: Verdict,
    files: &'a [FileReport],
}

impl<'a> Document<'a> {
    /// The document of `report`.
    pub fn new(report: &'a Report) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: report.verdict(),
            files: &report.files,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Finding, Gap, Severity};

    #[test]
    fn the_fields_are_the_contract() {
        let report = Report {
            files: vec![FileReport {
                path: "m.pt".into(),
                format: "pytorch".into(),
                verdict: Verdict::Malicious,
                findings: vec![Finding {
                    rule: "WB-PKL-001".into(),
                    severity: Severity::Malicious,
                    place: "data.pkl".into(),
                    offset: Some(3),
                    message: "m".into(),
                    evidence: "e".into(),
                    reference: "r".into(),
                }],
                incomplete: vec![Gap {
                    place: "x".into(),
                    offset: None,
                    reason: "y".into(),
                }],
            }],
        };
        let json = serde_json::to_value(Document::new(&report)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "schema_version": 1,
                "verdict": "malicious",
                "files": [{
                    "path": "m.pt",
                    "format": "pytorch",
                    "verdict": "malicious",
                    "findings": [{
                        "rule": "WB-PKL-001", "severity": "malicious", "where": "data.pkl",
                        "offset": 3, "message": "m", "evidence": "e", "reference": "r",
                    }],
                    "incomplete": [{"where": "x", "reason": "y"}],
                }],
            })
        );
    }
}
