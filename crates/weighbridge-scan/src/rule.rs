//! Rules as data: what each is called, how bad it is, why it matters and what to do.

use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::{Error, Result};

use crate::finding::Severity;

/// Everything a report or `--explain` says of a rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleMeta {
    /// The stable identifier, `WB-<family>-<number>`.
    pub id: String,
    /// One line.
    pub title: String,
    /// How bad a finding of it is.
    pub severity: Severity,
    /// Why it matters.
    pub why: String,
    /// What to do next.
    pub advice: String,
    /// Where the danger is described: links and CWE, CVE or GHSA identifiers.
    pub references: Vec<String>,
}

/// The rules of one file; what else it holds belongs to the checks.
#[derive(Deserialize)]
struct RuleFile {
    rule: Vec<RuleMeta>,
}

/// Every rule this build knows.
#[derive(Debug)]
pub struct Rules(Vec<RuleMeta>);

const FILES: [(&str, &str); 7] = [
    crate::checks::archive::DATA,
    crate::checks::config_hooks::DATA,
    crate::checks::markup::DATA,
    ("format.toml", include_str!("../rules/format.toml")),
    ("pickle.toml", include_str!("../rules/pickle.toml")),
    crate::checks::torchscript::DATA,
    crate::danger::DATA,
];

impl Rules {
    /// The rules compiled into this build.
    ///
    /// # Errors
    /// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
    pub fn builtin() -> Result<&'static Self> {
        static RULES: OnceLock<Rules> = OnceLock::new();
        if let Some(r) = RULES.get() {
            return Ok(r);
        }
        let mut all = Vec::new();
        for (name, text) in FILES {
            let file: RuleFile = parse(name, text)?;
            all.extend(file.rule);
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(RULES.get_or_init(|| Self(all)))
    }

    /// The rule called `id`, in any case.
    ///
    /// # Errors
    /// `Parameter` when there is none.
    pub fn get(&self, id: &str) -> Result<&RuleMeta> {
        self.0
            .iter()
            .find(|r| r.id.eq_ignore_ascii_case(id))
            .ok_or_else(|| {
                Error::parameter("scan.unknown-rule", format!("there is no rule `{id}`"))
                    .help(format!("the rules are {}", self.ids().join(", ")))
            })
    }

    /// All rules, by identifier.
    pub fn iter(&self) -> impl Iterator<Item = &RuleMeta> {
        self.0.iter()
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|r| r.id.as_str()).collect()
    }
}

/// Parses compiled-in data.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        Error::parameter(
            "scan.bad-rules",
            format!("the built-in rules do not parse: {e}"),
        )
        .in_file(name)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_rule_is_complete_and_its_id_unique_and_well_formed() {
        let rules = Rules::builtin().unwrap();
        let mut ids = HashSet::new();
        for r in rules.iter() {
            assert!(ids.insert(&r.id), "{} twice", r.id);
            let mut parts = r.id.split('-');
            assert_eq!(parts.next(), Some("WB"), "{}", r.id);
            let family = parts.next().unwrap();
            assert!(family.len() == 3 && family.bytes().all(|b| b.is_ascii_uppercase()));
            let number = parts.next().unwrap();
            assert!(number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()));
            assert_eq!(parts.next(), None);
            for text in [&r.title, &r.why, &r.advice] {
                assert!(!text.trim().is_empty(), "{} lacks a text", r.id);
            }
            assert!(!r.title.ends_with('.'), "{}: a title is no sentence", r.id);
            assert!(!r.references.is_empty(), "{} has no reference", r.id);
            for reference in &r.references {
                assert!(
                    ["https://", "CWE-", "CVE-", "GHSA-"]
                        .iter()
                        .any(|p| reference.starts_with(p)),
                    "{}: {reference}",
                    r.id
                );
            }
        }
        assert!(ids.len() >= 8);
    }

    #[test]
    fn rules_are_found_in_any_case_and_unknown_ones_name_the_known() {
        let rules = Rules::builtin().unwrap();
        assert_eq!(
            rules.get("wb-pkl-001").unwrap().severity,
            Severity::Malicious
        );
        let e = rules.get("WB-PKL-999").unwrap_err();
        assert_eq!(e.rule(), "scan.unknown-rule");
        assert!(e.advice().unwrap().contains("WB-PKL-001"));
    }
}
