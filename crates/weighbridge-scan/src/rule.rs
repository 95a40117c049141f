//! Rules as data: what each is called, how bad it is, why it matters and what to do.

use weighbridge_core::{Error, Result};

use crate::finding::Severity;

/// Everything a report or `--explain` says of a rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleMeta {
    /// The stable identifier, `WB-<family>-<number>`.
    pub id: &'static str,
    /// One line.
    pub title: &'static str,
    /// How bad a finding of it is.
    pub severity: Severity,
    /// Why it matters.
    pub why: &'static str,
    /// What to do next.
    pub advice: &'static str,
    /// Where the danger is described: links and CWE, CVE or GHSA identifiers.
    pub references: &'static [&'static str],
    /// Whether a finding of it means that something was not looked at, so that a file whose
    /// finding a policy accepts is still `incomplete`.
    pub opaque: bool,
    /// The evidence of a finding, as the rule's fixture gives it, where that is short text.
    pub example: Option<&'static str>,
}

impl RuleMeta {
    /// The family, the middle part of the identifier.
    pub fn family(&self) -> &str {
        self.id.split('-').nth(1).unwrap_or_default()
    }

    /// The identifiers of public catalogues among the references: CWE, CVE and GHSA.
    pub fn tags(&self) -> impl Iterator<Item = &'static str> {
        let listed = |r: &&str| !r.starts_with("https://");
        self.references.iter().copied().filter(listed)
    }

    /// The references, each with the address at which it can be read.
    pub fn links(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.references.iter().map(|r| (*r, link(r)))
    }

    /// The address of the rule's text in the project's documents.
    pub fn page(&self) -> String {
        let repository = env!("CARGO_PKG_REPOSITORY");
        let anchor = self.id.to_ascii_lowercase();
        format!(
            "{repository}/blob/main/docs/rules/{}.md#{anchor}",
            self.family()
        )
    }
}

/// Where to read about a reference: links as they are, identifiers in their catalogue.
fn link(reference: &str) -> String {
    match reference.split_once('-') {
        Some(("CWE", number)) => format!("https://cwe.mitre.org/data/definitions/{number}.html"),
        Some(("CVE", _)) => format!("https://www.cve.org/CVERecord?id={reference}"),
        Some(("GHSA", _)) => format!("https://github.com/advisories/{reference}"),
        _ => reference.to_owned(),
    }
}

/// The families of rules: identifier, name, what they look at.
pub(crate) const FAMILIES: [(&str, &str, &str); 13] = [
    (
        "ARC",
        "Archives",
        "what archives hide, and where their members lead",
    ),
    (
        "CFG",
        "Configuration",
        "settings that make a loader run or fetch something",
    ),
    (
        "COD",
        "Code",
        "programs beside weights, and code that stands in data",
    ),
    (
        "FMT",
        "Formats",
        "broken formats, and files that are not what they say",
    ),
    ("KER", "Keras", "layers and configurations that run code"),
    (
        "ONX",
        "ONNX",
        "graphs that reach out of their file or behave in two ways",
    ),
    (
        "PKL",
        "Pickles",
        "what a pickle imports, calls and changes while it loads",
    ),
    ("POL", "Policy", "what the user's own policy forbids"),
    (
        "TFG",
        "TensorFlow graphs",
        "operators that reach files, processes or Python",
    ),
    (
        "TPL",
        "Templates",
        "chat templates that reach Python or hide instructions",
    ),
    (
        "TSC",
        "TorchScript",
        "operators that the code of a TorchScript archive calls",
    ),
    (
        "XML",
        "XML",
        "declarations that open files or grow without bound",
    ),
    (
        "YML",
        "YAML",
        "tags that make a loader import, build or call",
    ),
];

/// Every rule this build knows.
#[derive(Debug)]
pub struct Rules(&'static [RuleMeta]);

/// By identifier, as `build/rules.rs` compiles them from `rules/`.
static RULES: Rules = Rules(include!(concat!(env!("OUT_DIR"), "/rules.rs")));

impl Rules {
    /// The rules compiled into this build.
    ///
    /// # Errors
    /// None.
    pub fn builtin() -> Result<&'static Self> {
        Ok(&RULES)
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
                    .help(self.near(id))
            })
    }

    /// All rules, by identifier.
    pub fn iter(&self) -> impl Iterator<Item = &RuleMeta> {
        self.0.iter()
    }

    /// What to try instead of `id`: its family, where it names one.
    fn near(&self, id: &str) -> String {
        let family = id.rsplit_once('-').map_or("", |(family, _)| family);
        let of_family = |r: &&RuleMeta| {
            let own = r.id.rsplit_once('-').map_or("", |(family, _)| family);
            own.eq_ignore_ascii_case(family)
        };
        let ids = self.0.iter().filter(of_family);
        let ids: Vec<&str> = ids.map(|r| r.id).collect();
        let all = "weighbridge scan --list-rules lists all rules";
        if ids.is_empty() {
            return all.into();
        }
        format!("{family} has {}; {all}", ids.join(", "))
    }
}

/// Parses the lists that `build/rules.rs` compiles in beside the rules.
pub(crate) fn parse<T: serde::de::DeserializeOwned>((name, text): (&str, &str)) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
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
            assert!(FAMILIES.iter().any(|f| f.0 == family), "{}", r.id);
            for text in [&r.title, &r.why, &r.advice] {
                assert!(!text.trim().is_empty(), "{} lacks a text", r.id);
            }
            assert!(!r.title.ends_with('.'), "{}: a title is no sentence", r.id);
            assert!(!r.references.is_empty(), "{} has no reference", r.id);
            for reference in r.references {
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
    fn a_rule_knows_its_page_and_its_tags() {
        let rule = Rules::builtin().unwrap().get("WB-PKL-001").unwrap();
        assert_eq!(rule.tags().collect::<Vec<_>>(), ["CWE-502"]);
        assert!(rule.page().ends_with("/docs/rules/PKL.md#wb-pkl-001"));
        assert_eq!(
            link("CWE-502"),
            "https://cwe.mitre.org/data/definitions/502.html"
        );
        assert_eq!(
            link("CVE-2025-1716"),
            "https://www.cve.org/CVERecord?id=CVE-2025-1716"
        );
        assert_eq!(link("https://x.y/z"), "https://x.y/z");
    }

    #[test]
    fn families_are_sorted_and_named_once() {
        assert!(FAMILIES.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn rules_are_found_in_any_case_and_unknown_ones_name_their_family() {
        let rules = Rules::builtin().unwrap();
        assert_eq!(
            rules.get("wb-pkl-001").unwrap().severity,
            Severity::Malicious
        );
        let e = rules.get("WB-PKL-999").unwrap_err();
        assert_eq!(e.rule(), "scan.unknown-rule");
        let advice = e.advice().unwrap();
        assert!(advice.contains("WB-PKL-001") && !advice.contains("WB-ARC"));
        let e = rules.get("nothing").unwrap_err();
        assert!(e.advice().unwrap().contains("--list-rules"));
    }
}
