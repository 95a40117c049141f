//! The policy file: what its author allows, denies, silences and demands (`docs/policy.md`).
//!
//! A policy may accept findings, and it may be stricter than the built-in rules. It never makes a
//! malformed file or one that was not looked at whole into a clean one.

mod pattern;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};
use weighbridge_core::{Error, Limits, Result};

pub use crate::date::Date;
pub use pattern::{GlobalPattern, PathPattern};

use crate::finding::{Global, Severity};
use crate::globals::Catalogue;
use crate::rule::{FAMILIES, Rules};
use crate::subject::Use;

/// Longest policy file read, in bytes.
const MOST_BYTES: u64 = 4 << 20;

/// A policy file, checked.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The path as the user gave it.
    path: String,
    /// The folder that relative patterns start from.
    base: PathBuf,
    /// The folder that the program runs in. Asked for once, and not while files are scanned: the
    /// sandbox may have taken the question away by then.
    here: PathBuf,
    file: PolicyFile,
    /// What no longer applies.
    expired: Vec<Expired>,
}

/// An entry whose day has passed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Expired {
    /// The entry: its table and its number in the file, from 1.
    pub entry: String,
    /// Its last day.
    pub expires: String,
    /// Its reason.
    pub reason: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    fail_on: Option<FailOn>,
    allow_incomplete: Option<bool>,
    profiles: Option<Vec<ProfileName>>,
    #[serde(default)]
    limits: PolicyLimits,
    #[serde(default)]
    allow: Vec<Allow>,
    #[serde(default)]
    deny: Vec<Deny>,
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FailOn {
    Suspicious,
    Malicious,
}

/// Limits that the policy sets, in the units of [`Limits`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyLimits {
    header_bytes: Option<u64>,
    pickle_bytes: Option<u64>,
    pickle_ops: Option<u64>,
    depth: Option<u32>,
    members: Option<u64>,
    tensors: Option<u64>,
    values: Option<u64>,
    text_bytes: Option<u64>,
    inflate_bytes: Option<u64>,
    inflate_ratio: Option<u64>,
    parts: Option<u64>,
}

/// What is done with a global that an entry speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Import,
    Call,
}

// The fields of the entries that every exception has stand in each of them: serde cannot refuse
// unknown fields of a flattened struct.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    globals: Vec<AllowedGlobals>,
    #[serde(rename = "use", default = "calls")]
    kind: Kind,
    paths: Option<Vec<PathPattern>>,
    sha256: Option<Vec<Digest>>,
    reason: Reason,
    expires: Option<Date>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    globals: Vec<GlobalPattern>,
    #[serde(rename = "use", default = "imports")]
    kind: Kind,
    reason: Reason,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    id: RuleName,
    severity: Level,
    paths: Option<Vec<PathPattern>>,
    sha256: Option<Vec<Digest>>,
    reason: Reason,
    expires: Option<Date>,
}

fn calls() -> Kind {
    Kind::Call
}

fn imports() -> Kind {
    Kind::Import
}

/// What a policy makes of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Off,
    Info,
    Suspicious,
    Malicious,
}

/// Declares a string that is checked while the file is read, so that a fault is reported with
/// its line and column.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        struct $name(String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                let check: fn(String) -> std::result::Result<String, String> = $check;
                check(String::deserialize(d)?).map(Self).map_err(de::Error::custom)
            }
        }
    };
}

checked!(
    /// Why an exception is made.
    Reason,
    |s| if s.trim().is_empty() {
        Err("the reason is empty: say why this is accepted".into())
    } else {
        Ok(s)
    }
);

checked!(
    /// A SHA-256, in lower case.
    Digest,
    |s| if s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(s.to_ascii_lowercase())
    } else {
        Err(format!("`{s}` is no SHA-256: 64 hexadecimal digits"))
    }
);

checked!(
    /// A rule, or a family of them such as `WB-PKL-*`.
    RuleName,
    |s| {
        let rules = Rules::builtin().map_err(|e| e.to_string())?;
        let name = s.to_ascii_uppercase();
        let known = match name.strip_suffix('*') {
            // A family is known although this build may have no rule of it.
            Some(prefix) => {
                let is = |f: &(&str, &str, &str)| prefix == format!("WB-{}-", f.0);
                prefix == "WB-" || FAMILIES.iter().any(is)
            }
            None => rules.get(&name).is_ok(),
        };
        if known {
            Ok(name)
        } else {
            Err(format!(
                "there is no rule `{s}`; `weighbridge scan --list-rules` lists them, and a family is written `WB-PKL-*`"
            ))
        }
    }
);

checked!(
    /// A profile of allowed globals.
    ProfileName,
    |s| {
        let profiles = Catalogue::builtin().map_err(|e| e.to_string())?.profiles();
        if profiles.iter().any(|p| p.name == s) {
            return Ok(s);
        }
        let known: Vec<&str> = profiles.iter().map(|p| p.name).collect();
        Err(format!(
            "there is no profile `{s}`; the profiles are {}",
            known.join(", ")
        ))
    }
);

/// A pattern that may allow something: it has to name a package.
#[derive(Debug, Clone)]
struct AllowedGlobals(GlobalPattern);

impl<'de> Deserialize<'de> for AllowedGlobals {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let pattern = GlobalPattern::deserialize(d)?;
        if pattern.names_a_package() {
            Ok(Self(pattern))
        } else {
            Err(de::Error::custom(format!(
                "`{pattern}` would allow every package: spell out the first component, as in `mypkg.models.*`"
            )))
        }
    }
}

/// What an entry of the policy makes of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It is listed among the suppressed ones.
    Suppress(Entry),
    /// It counts as severe as this.
    Override(Severity, Entry),
}

/// An entry of the policy, as reports name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// The file that an exception is asked about. Its hash is computed when an entry needs it.
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a Path,
    pub(crate) sha256: &'a dyn Fn() -> Option<String>,
}

impl Policy {
    /// Reads the policy at `path`.
    ///
    /// # Errors
    /// `Io` when it cannot be read; as [`Policy::parse`].
    pub fn load(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = read_bounded(path, MOST_BYTES)?;
        let absolute =
            std::path::absolute(path).map_err(|e| Error::io("cannot open", e).in_file(&*name))?;
        let base = absolute.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, &name, &base, Date::today())
    }

    /// Reads the policy in `text`. Relative path patterns start from `base`; entries that expire
    /// before `today` do not apply.
    ///
    /// # Errors
    /// `Parameter` with the line and column of what is wrong.
    pub fn parse(text: &str, name: &str, base: &Path, today: Date) -> Result<Self> {
        let mut file: PolicyFile = toml::from_str(text).map_err(|e| syntax(text, name, &e))?;
        let mut expired = Vec::new();
        let mut current = |table: &str, n: usize, day: Option<Date>, reason: &Reason| match day {
            Some(day) if day < today => {
                expired.push(Expired {
                    entry: entry_name(table, n),
                    expires: day.to_string(),
                    reason: reason.0.clone(),
                });
                false
            }
            _ => true,
        };
        // Numbers are those of the file, so what has expired stays in its place, without effect.
        for (n, a) in file.allow.iter_mut().enumerate() {
            if !current("allow", n, a.expires, &a.reason) {
                a.globals.clear();
            }
        }
        for (n, r) in file.rule.iter_mut().enumerate() {
            if !current("rule", n, r.expires, &r.reason) {
                r.paths = Some(Vec::new());
            }
        }
        Ok(Self {
            path: name.to_owned(),
            base: base.to_owned(),
            here: std::env::current_dir().unwrap_or_default(),
            file,
            expired,
        })
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The entries that no longer apply.
    pub fn expired(&self) -> &[Expired] {
        &self.expired
    }

    /// The least severity that makes a scan fail, where the policy says.
    pub fn fail_on(&self) -> Option<Severity> {
        Some(match self.file.fail_on? {
            FailOn::Suspicious => Severity::Suspicious,
            FailOn::Malicious => Severity::Malicious,
        })
    }

    /// Whether what could not be looked at is accepted, where the policy says.
    pub fn allow_incomplete(&self) -> Option<bool> {
        self.file.allow_incomplete
    }

    /// The profiles whose globals are allowed; all of them when the policy does not say.
    pub fn profiles(&self) -> Option<Vec<&str>> {
        let names = self.file.profiles.as_ref()?;
        Some(names.iter().map(|p| p.0.as_str()).collect())
    }

    /// Sets the limits that the policy names.
    pub fn limit(&self, limits: &mut Limits) {
        fn set<T: Copy>(limit: &mut T, to: Option<T>) {
            if let Some(to) = to {
                *limit = to;
            }
        }
        let l = &self.file.limits;
        set(&mut limits.header_bytes, l.header_bytes);
        set(&mut limits.pickle_bytes, l.pickle_bytes);
        set(&mut limits.pickle_ops, l.pickle_ops);
        set(&mut limits.depth, l.depth);
        set(&mut limits.members, l.members);
        set(&mut limits.tensors, l.tensors);
        set(&mut limits.values, l.values);
        set(&mut limits.text_bytes, l.text_bytes);
        set(&mut limits.inflate_bytes, l.inflate_bytes);
        set(&mut limits.inflate_ratio, l.inflate_ratio);
        set(&mut limits.parts, l.parts);
    }

    /// Whether what becomes of a finding depends on the path of its file.
    pub fn depends_on_paths(&self) -> bool {
        let allow = self.file.allow.iter().any(|a| a.paths.is_some());
        allow || self.file.rule.iter().any(|r| r.paths.is_some())
    }

    /// Whether it denies anything at all.
    pub(crate) fn denies_something(&self) -> bool {
        !self.file.deny.is_empty()
    }

    /// The reason for which it forbids `how` of the dotted name `full`.
    pub(crate) fn denies(&self, full: &str, how: Use) -> Option<&str> {
        let entry = self.file.deny.iter().find(|d| {
            (d.kind == Kind::Import || how != Use::Import)
                && d.globals.iter().any(|g| g.denies(full))
        })?;
        Some(&entry.reason.0)
    }

    /// What becomes of a finding of `rule` about `global` in the file `asked`.
    pub(crate) fn rule_on(
        &self,
        rule: &str,
        global: Option<&Global>,
        asked: &Asked<'_>,
    ) -> Option<Ruling> {
        if let Some(g) = global
            && rule != "WB-POL-001"
        {
            for (n, a) in self.file.allow.iter().enumerate() {
                if a.covers(g) && self.scoped(a.paths.as_ref(), a.sha256.as_ref(), asked) {
                    return Some(Ruling::Suppress(entry("allow", n, &a.reason)));
                }
            }
        }
        // The last entry that speaks of it decides, so that exceptions follow what they except.
        let (n, r) = self.file.rule.iter().enumerate().rev().find(|(_, r)| {
            r.id.means(rule) && self.scoped(r.paths.as_ref(), r.sha256.as_ref(), asked)
        })?;
        let entry = entry("rule", n, &r.reason);
        Some(match r.severity {
            Level::Off => Ruling::Suppress(entry),
            Level::Info => Ruling::Override(Severity::Info, entry),
            Level::Suspicious => Ruling::Override(Severity::Suspicious, entry),
            Level::Malicious => Ruling::Override(Severity::Malicious, entry),
        })
    }

    /// Whether an entry with these restrictions speaks of the file: it has to fit every one that
    /// is there.
    fn scoped(
        &self,
        paths: Option<&Vec<PathPattern>>,
        sha256: Option<&Vec<Digest>>,
        asked: &Asked<'_>,
    ) -> bool {
        let path = self.here.join(asked.path);
        let fits = paths.is_none_or(|p| p.iter().any(|p| p.matches(&self.base, &path)));
        // Last, because it may have to read the whole file.
        fits && sha256
            .is_none_or(|list| (asked.sha256)().is_some_and(|h| list.iter().any(|d| d.0 == h)))
    }
}

impl Allow {
    fn covers(&self, g: &Global) -> bool {
        let used = match g.how {
            Use::Import => true,
            Use::Construct | Use::Call => self.kind == Kind::Call,
            // No entry allows to change what was imported.
            Use::Change => false,
        };
        used && self.globals.iter().any(|p| p.0.allows(&g.module, &g.name))
    }
}

impl RuleName {
    fn means(&self, rule: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => rule.starts_with(prefix),
            None => self.0 == rule,
        }
    }
}

fn entry(table: &str, n: usize, reason: &Reason) -> Entry {
    Entry {
        name: entry_name(table, n),
        reason: reason.0.clone(),
    }
}

fn entry_name(table: &str, n: usize) -> String {
    format!("{table} {}", n + 1)
}

/// A fault of the file, with its place and what to do.
fn syntax(text: &str, name: &str, e: &toml::de::Error) -> Error {
    let at = e.span().map(|s| line_and_column(text, &s));
    let at = at.map_or_else(String::new, |(line, column)| {
        format!("line {line}, column {column}: ")
    });
    let message = e.message().trim();
    let help = if message.contains("missing field `reason`") {
        "every exception says why it is made: reason = \"…\""
    } else if message.contains("missing field `severity`") {
        "a rule entry says what becomes of it: severity = \"off\", \"info\", \"suspicious\" or \"malicious\""
    } else {
        "docs/policy.md describes the policy file"
    };
    Error::parameter("policy.syntax", format!("{at}{message}"))
        .in_file(name)
        .help(help)
}

/// Line and column, both from 1, of where `span` begins; columns count characters.
fn line_and_column(text: &str, span: &Range<usize>) -> (usize, usize) {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start = start.saturating_sub(1);
    }
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default();
    (line, column.chars().count() + 1)
}

/// The text at `path`, when it is no longer than `most` bytes.
///
/// # Errors
/// `Io` when it cannot be read, `Parameter` when it is longer or no UTF-8.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<String> {
    use std::io::Read;
    let name = path.display().to_string();
    let failed = |e| Error::io("cannot read", e).in_file(&*name);
    let file =
        std::fs::File::open(path).map_err(|e| Error::io("cannot open", e).in_file(name.clone()))?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(Error::parameter(
            "policy.too-long",
            format!("the file is longer than {most} bytes"),
        )
        .in_file(name)
        .help("is this the file you meant?"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::parameter("policy.not-text", "the file is not UTF-8 text")
            .in_file(name)
            .help("is this the file you meant?")
    })
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
