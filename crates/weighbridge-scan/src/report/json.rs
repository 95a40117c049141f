//! The `scan` JSON document (`docs/schema/scan.schema.json`).

use serde::Serialize;

use super::{Basis, Report};
use crate::finding::{FileReport, Verdict};
use crate::rule::{RuleMeta, Rules};

/// The version of the document's shape. Fields may be added under one version, never renamed.
pub const SCHEMA_VERSION: u32 = 1;

/// The document, ready to be serialised.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    schema_version: u32,
    verdict: Verdict,
    #[serde(flatten)]
    basis: &'a Basis,
    ignored: u64,
    files: &'a [FileReport],
}

impl<'a> Document<'a> {
    /// The document of `report`, which was made on `basis`.
    pub fn new(report: &'a Report, basis: &'a Basis) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: report.verdict(),
            basis,
            ignored: 0,
            files: &report.files,
        }
    }

    /// The same where so many files were not scanned because the user's ignore files hide them.
    #[must_use]
    pub fn ignoring(mut self, files: u64) -> Self {
        self.ignored = files;
        self
    }
}

/// A rule, as `--explain` prints it (`docs/schema/scan-rules.schema.json`).
#[derive(Debug, Serialize)]
pub struct RuleDocument<'a> {
    rule: &'a str,
    title: &'a str,
    severity: &'a str,
    why: &'a str,
    advice: &'a str,
    references: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<&'a str>,
    page: String,
}

impl<'a> RuleDocument<'a> {
    /// The document of `rule`.
    pub fn new(rule: &'a RuleMeta) -> Self {
        Self {
            rule: rule.id,
            title: rule.title,
            severity: rule.severity.as_str(),
            why: rule.why,
            advice: rule.advice,
            references: rule.references,
            example: rule.example,
            page: rule.page(),
        }
    }
}

/// All rules.
#[derive(Debug, Serialize)]
pub struct RulesDocument<'a> {
    schema_version: u32,
    rules: Vec<RuleDocument<'a>>,
}

impl<'a> RulesDocument<'a> {
    /// The document of `rules`.
    pub fn new(rules: &'a Rules) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            rules: rules.iter().map(RuleDocument::new).collect(),
        }
    }
}

/// One rule, with the version in front.
#[derive(Debug, Serialize)]
pub struct Explanation<'a> {
    schema_version: u32,
    #[serde(flatten)]
    rule: RuleDocument<'a>,
}

impl<'a> Explanation<'a> {
    /// The document of `rule`.
    pub fn new(rule: &'a RuleMeta) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            rule: RuleDocument::new(rule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{By, Finding, Gap, Global, Origin, Severity, Suppressed};
    use crate::report::PolicyNote;
    use crate::subject::Use;

    #[test]
    fn the_fields_are_the_contract() {
        let finding = Finding {
            rule: "WB-PKL-001".into(),
            severity: Severity::Malicious,
            place: "data.pkl".into(),
            offset: Some(3),
            message: "m".into(),
            evidence: "e".into(),
            reference: "r".into(),
            origin: Origin::File,
            global: None,
            witness: None,
            overridden: None,
        };
        let by = By::Policy {
            reason: "ours".into(),
            policy: "p.toml".into(),
            entry: "allow 1".into(),
        };
        let report = Report {
            files: vec![FileReport {
                path: "m.pt".into(),
                format: "pytorch".into(),
                verdict: Verdict::Malicious,
                suppressed: vec![Suppressed {
                    finding: Finding {
                        origin: Origin::Member,
                        global: Global::of("os", "system", Use::Call),
                        ..finding.clone()
                    },
                    by,
                }],
                findings: vec![finding],
                incomplete: vec![Gap {
                    place: "x".into(),
                    offset: None,
                    reason: "y".into(),
                }],
                malformed: false,
                bytes: Some(7),
                sha256: Some("00".into()),
                of_folder: false,
            }],
        };
        let plain = serde_json::json!({
            "rule": "WB-PKL-001", "severity": "malicious", "where": "data.pkl",
            "offset": 3, "message": "m", "evidence": "e", "reference": "r",
        });
        let mut known = plain.clone();
        known["offset_in"] = "member".into();
        known["global"] = serde_json::json!({"module": "os", "name": "system", "use": "call"});
        known["by"] = serde_json::json!(
            {"kind": "policy", "reason": "ours", "policy": "p.toml", "entry": "allow 1"}
        );
        let expected = serde_json::json!([{
            "path": "m.pt",
            "format": "pytorch",
            "verdict": "malicious",
            "findings": [plain],
            "incomplete": [{"where": "x", "reason": "y"}],
            "suppressed": [known],
            "malformed": false,
            "bytes": 7,
            "sha256": "00",
        }]);
        let bare = Basis::default();
        assert_eq!(
            serde_json::to_value(Document::new(&report, &bare)).unwrap(),
            serde_json::json!({"schema_version": 1, "verdict": "malicious", "ignored": 0,
                "files": expected})
        );
        let ignoring = Document::new(&report, &bare).ignoring(3);
        assert_eq!(serde_json::to_value(ignoring).unwrap()["ignored"], 3);
        let basis = Basis {
            policy: Some(PolicyNote {
                path: "p.toml".into(),
                expired: Vec::new(),
            }),
            baseline: Some("b.json".into()),
        };
        let json = serde_json::to_value(Document::new(&report, &basis)).unwrap();
        assert_eq!(
            (&json["policy"], &json["baseline"]),
            (
                &serde_json::json!({"path": "p.toml", "expired": []}),
                &serde_json::json!("b.json")
            )
        );
    }

    #[test]
    fn every_rule_has_a_document() {
        let rules = Rules::builtin().unwrap();
        let all = serde_json::to_value(RulesDocument::new(rules)).unwrap();
        assert_eq!(all["rules"].as_array().unwrap().len(), rules.iter().count());
        let one = Explanation::new(rules.get("WB-PKL-001").unwrap());
        let one = serde_json::to_value(one).unwrap();
        assert_eq!(
            (&one["schema_version"], &one["rule"]),
            (&1.into(), &"WB-PKL-001".into())
        );
    }
}
