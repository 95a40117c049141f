//! What a scan says: findings, gaps and verdicts.

use std::collections::HashMap;

use serde::{Deserialize, Serialize, Serializer};
use weighbridge_core::Result;

use crate::globals::Catalogue;
use crate::policy::Policy;
use crate::rule::Rules;
use crate::subject::Use;

/// How bad one finding is, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; no verdict follows from it.
    Info,
    /// Must be looked at; no proof of harm.
    Suspicious,
    /// Loading the file the ordinary way does harm.
    Malicious,
}

impl Severity {
    /// The spelling of the JSON documents and of `--fail-on`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Suspicious => "suspicious",
            Self::Malicious => "malicious",
        }
    }
}

/// What is said of a file or of a whole scan, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every byte was accounted for by a parsed structure, and everything that a loader
    /// interprets was read to its end without a finding.
    Clean,
    /// Nothing bad was seen, but something could not be looked at.
    Incomplete,
    /// The file breaks its format or reached a limit.
    Malformed,
    /// Something must be looked at.
    Suspicious,
    /// Loading the file the ordinary way does harm.
    Malicious,
}

impl Verdict {
    /// The spelling of the JSON documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Incomplete => "incomplete",
            Self::Malformed => "malformed",
            Self::Suspicious => "suspicious",
            Self::Malicious => "malicious",
        }
    }
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule, such as `WB-PKL-001`.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// The place inside the file: an archive member, a stream; empty for the file itself.
    #[serde(rename = "where")]
    pub place: String,
    /// First byte it concerns, counted in the place it names (in the file when `place` is empty
    /// or stored uncompressed; see [`crate::PickleTrace::base`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What was found, for people.
    pub message: String,
    /// The thing itself: the decompiled call, the header field.
    pub evidence: String,
    /// Where the danger is described.
    pub reference: String,
    /// What `offset` counts from, where that is not the file's first byte.
    #[serde(rename = "offset_in", skip_serializing_if = "Origin::is_file")]
    pub origin: Origin,
    /// The global it is about, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<Global>,
    /// An input that shows it, for programs: the inputs of the model, each with its type, its
    /// shape, the value that elements have, and those that have another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<serde_json::Value>,
    /// What a policy has changed, where it has changed its severity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
}

/// What an offset counts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The file's first byte.
    #[default]
    File,
    /// The first byte of what the place names, which lies in the file compressed.
    Member,
}

impl Origin {
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// A global that a finding is about, as the file spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Global {
    /// The module.
    pub module: String,
    /// The name in it, possibly dotted.
    pub name: String,
    /// What is done with it.
    #[serde(rename = "use", serialize_with = "use_as_text")]
    pub how: Use,
}

/// Longest dotted name that findings carry, in bytes.
const GLOBAL_BYTES: usize = 400;

impl Global {
    /// The global, unless its name is so long that no real one is meant.
    pub fn of(module: &str, name: &str, how: Use) -> Option<Self> {
        (module.len().saturating_add(name.len()) <= GLOBAL_BYTES).then(|| Self {
            module: module.to_owned(),
            name: name.to_owned(),
            how,
        })
    }
}

fn use_as_text<S: Serializer>(how: &Use, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(match how {
        Use::Import => "import",
        Use::Construct => "construct",
        Use::Call => "call",
        Use::Change => "change",
    })
}

/// A severity that a policy has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overridden {
    /// What the rule says.
    pub severity: Severity,
    /// The policy's entry and reason.
    pub by: By,
}

/// What accepted or changed a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum By {
    /// A policy.
    Policy {
        /// Why, as its author says.
        reason: String,
        /// The policy file, as the user named it.
        policy: String,
        /// The entry in it, such as `allow 1`.
        entry: String,
    },
    /// A baseline.
    Baseline {
        /// Why.
        reason: String,
        /// The baseline file, as the user named it.
        baseline: String,
    },
}

impl By {
    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Policy { reason, .. } | Self::Baseline { reason, .. } => reason,
        }
    }
}

/// A finding that a policy or a baseline accepts: the verdict is made without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suppressed {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// What accepted it.
    pub by: By,
}

/// A part of the file that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The place inside the file; empty for the file itself.
    #[serde(rename = "where")]
    pub place: String,
    /// First byte that was not looked at, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Why not, for people.
    pub reason: String,
}

/// The answer for one file.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    /// The path as the user gave it or as the walk found it.
    pub path: String,
    /// The format, as the JSON documents spell it; `unknown` when none was recognised.
    pub format: String,
    /// The verdict.
    pub verdict: Verdict,
    /// What the rules found, worst first and then in file order.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub incomplete: Vec<Gap>,
    /// What a policy or a baseline accepts, as `findings` are ordered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suppressed: Vec<Suppressed>,
    /// Whether the file breaks its format or reached a limit, whatever else the verdict says.
    pub malformed: bool,
    /// The size in bytes, where the file could be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The SHA-256 of the file, where a policy or a baseline asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether what lies beside the file had a say: the report then holds in its folder only.
    #[serde(skip)]
    pub of_folder: bool,
}

impl FileReport {
    /// The report of something that could not be opened.
    pub fn unread(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            format: "unknown".into(),
            verdict: Verdict::Incomplete,
            findings: Vec::new(),
            incomplete: vec![Gap {
                place: String::new(),
                offset: None,
                reason: reason.into(),
            }],
            suppressed: Vec::new(),
            malformed: false,
            bytes: None,
            sha256: None,
            of_folder: false,
        }
    }
}

/// Where checks put what they find, and what they judge by.
///
/// The same thing met again at the same place is one finding with a count: a hostile pickle can
/// repeat itself a million times and the report stays readable.
#[derive(Debug)]
pub struct Findings<'a> {
    rules: &'static Rules,
    catalogue: Option<&'a Catalogue>,
    policy: Option<&'a Policy>,
    found: Vec<(Finding, u64)>,
    seen: HashMap<(String, String, String, String), usize>,
    gaps: Vec<Gap>,
    dropped: u64,
    worst_dropped: Option<Severity>,
}

/// Most distinct findings kept for one file.
const MOST_FINDINGS: usize = 1000;

/// Longest evidence kept, in characters.
const EVIDENCE_CHARS: usize = 400;

impl<'a> Findings<'a> {
    /// An empty collection whose severities and references come from `rules`.
    pub fn new(rules: &'static Rules) -> Self {
        Self::judged_by(rules, None, None)
    }

    /// The same, for checks that judge by a catalogue other than the built-in one and by a
    /// policy.
    pub fn judged_by(
        rules: &'static Rules,
        catalogue: Option<&'a Catalogue>,
        policy: Option<&'a Policy>,
    ) -> Self {
        Self {
            rules,
            catalogue,
            policy,
            found: Vec::new(),
            seen: HashMap::new(),
            gaps: Vec::new(),
            dropped: 0,
            worst_dropped: None,
        }
    }

    /// What is known of globals.
    ///
    /// # Errors
    /// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
    pub fn catalogue(&self) -> Result<&'a Catalogue> {
        match self.catalogue {
            Some(c) => Ok(c),
            None => Catalogue::builtin(),
        }
    }

    /// The user's policy.
    pub fn policy(&self) -> Option<&'a Policy> {
        self.policy
    }

    /// Records that `rule` found `evidence` at `offset` of `place`.
    ///
    /// # Errors
    /// `Parameter` when there is no such rule: a check and the rules' data disagree.
    pub fn add(
        &mut self,
        rule: &str,
        place: &str,
        offset: Option<u64>,
        message: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Result<()> {
        self.add_citing(None, rule, place, offset, None, message, evidence)
    }

    /// Records what [`Findings::add`] does, and the global it is about: policies may allow it.
    ///
    /// # Errors
    /// As [`Findings::add`].
    pub fn add_global(
        &mut self,
        rule: &str,
        place: &str,
        offset: Option<u64>,
        global: Option<Global>,
        message: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Result<()> {
        self.add_citing(None, rule, place, offset, global, message, evidence)
    }

    /// Like [`Findings::add_global`], with a reference of its own, such as an advisory on just
    /// this, in place of the rule's.
    ///
    /// # Errors
    /// As [`Findings::add`].
    #[allow(clippy::too_many_arguments)]
    pub fn add_citing(
        &mut self,
        reference: Option<&str>,
        rule: &str,
        place: &str,
        offset: Option<u64>,
        global: Option<Global>,
        message: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Result<()> {
        let meta = self.rules.get(rule)?;
        let (message, evidence) = (message.into(), shortened(evidence.into()));
        let key = (
            rule.to_owned(),
            place.to_owned(),
            message.clone(),
            evidence.clone(),
        );
        if let Some((_, n)) = self.seen.get(&key).and_then(|&i| self.found.get_mut(i)) {
            *n += 1;
            return Ok(());
        }
        if self.found.len() >= MOST_FINDINGS {
            self.dropped += 1;
            // The cap may not turn a malicious file into a suspicious one: make room for it.
            let lesser = |(f, _): &(Finding, u64)| f.severity < meta.severity;
            let slot = self.found.iter().position(lesser);
            let gone = match slot {
                Some(slot) => self.found.remove(slot).0.severity,
                None => meta.severity,
            };
            self.worst_dropped = self.worst_dropped.max(Some(gone));
            if slot.is_none() {
                return Ok(());
            }
            self.seen.clear();
        } else {
            self.seen.insert(key, self.found.len());
        }
        self.found.push((
            Finding {
                rule: meta.id.to_owned(),
                severity: meta.severity,
                place: place.to_owned(),
                offset,
                message,
                evidence,
                reference: reference.map_or_else(
                    || {
                        meta.references
                            .first()
                            .copied()
                            .unwrap_or_default()
                            .to_owned()
                    },
                    str::to_owned,
                ),
                origin: Origin::File,
                global,
                witness: None,
                overridden: None,
            },
            1,
        ));
        Ok(())
    }

    /// Adds an input that shows it to the finding that was recorded last, if that is of `rule`.
    pub(crate) fn witness(&mut self, rule: &str, witness: serde_json::Value) {
        if let Some((f, _)) = self.found.last_mut().filter(|(f, _)| f.rule == rule) {
            f.witness.get_or_insert(witness);
        }
    }

    /// Records that a check could not look at something at `place`.
    pub(crate) fn gap(&mut self, place: &str, reason: impl Into<String>) {
        if self.gaps.len() < MOST_FINDINGS {
            self.gaps.push(Gap {
                place: place.to_owned(),
                offset: None,
                reason: reason.into(),
            });
        }
    }

    /// What checks could not look at.
    pub(crate) fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    /// The worst severity of what there was no room for.
    pub(crate) fn worst_dropped(&self) -> Option<Severity> {
        self.worst_dropped
    }

    /// The findings, worst first, and how many more there were than are kept.
    pub fn into_sorted(self) -> (Vec<Finding>, u64) {
        let mut out: Vec<Finding> = self
            .found
            .into_iter()
            .map(|(mut f, n)| {
                if n > 1 {
                    f.message = format!("{} ({n} times)", f.message);
                }
                f
            })
            .collect();
        // Stable: equal severities stay in the order of the file.
        out.sort_by_key(|f| std::cmp::Reverse(f.severity));
        (out, self.dropped)
    }
}

fn shortened(s: String) -> String {
    match s.char_indices().nth(EVIDENCE_CHARS) {
        Some((cut, _)) => format!("{}…", s.get(..cut).unwrap_or_default()),
        None => s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> &'static Rules {
        Rules::builtin().unwrap()
    }

    #[test]
    fn repeats_are_counted_not_listed() {
        let mut f = Findings::new(rules());
        for at in 0..3 {
            f.add("WB-PKL-004", "data.pkl", Some(at), "imports a.b", "a.b")
                .unwrap();
        }
        let (out, dropped) = f.into_sorted();
        assert_eq!((out.len(), dropped), (1, 0));
        assert_eq!(out[0].offset, Some(0));
        assert_eq!(out[0].message, "imports a.b (3 times)");
    }

    #[test]
    fn a_flood_of_lesser_findings_does_not_hide_the_worst() {
        let mut f = Findings::new(rules());
        for i in 0..MOST_FINDINGS + 10 {
            f.add("WB-PKL-004", "", None, format!("imports m.n{i}"), "")
                .unwrap();
        }
        f.add("WB-PKL-001", "", None, "calls os.system", "os.system('x')")
            .unwrap();
        assert_eq!(f.worst_dropped(), Some(Severity::Suspicious));
        let (out, dropped) = f.into_sorted();
        assert_eq!(out.len(), MOST_FINDINGS);
        assert_eq!(dropped, 11);
        assert_eq!(out[0].severity, Severity::Malicious);
    }

    #[test]
    fn an_unknown_rule_is_refused() {
        let mut f = Findings::new(rules());
        assert!(f.add("WB-NONE-999", "", None, "", "").is_err());
    }

    #[test]
    fn verdicts_are_ordered_worst_last() {
        let order = [
            Verdict::Clean,
            Verdict::Incomplete,
            Verdict::Malformed,
            Verdict::Suspicious,
            Verdict::Malicious,
        ];
        assert!(order.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(order.map(Verdict::as_str)[4], "malicious");
    }
}
