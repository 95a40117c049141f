//! Baselines: findings that were there when somebody looked, so that a scan tells of new ones.
//!
//! A finding is known by its rule, the SHA-256 of the whole file, its place in it and its
//! evidence. A file that changes in one bit is new again, wherever it lies and whatever it is
//! called; one that is only moved is not.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use crate::finding::{By, FileReport, Finding};
use crate::policy::read_bounded;

/// The version of the file's shape. Fields may be added under one version, never renamed.
const SCHEMA_VERSION: u32 = 1;

/// Longest baseline read, in bytes.
const MOST_BYTES: u64 = 256 << 20;

/// How many bytes of a file are hashed at a time.
const CHUNK: usize = 1 << 20;

/// Accepted findings.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    path: String,
    known: HashSet<String>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BaselineFile {
    schema_version: u32,
    findings: Vec<Accepted>,
}

/// One accepted finding. Only the fingerprint decides; the rest is for people who review it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    path: String,
    rule: String,
    #[serde(rename = "where")]
    place: String,
    evidence: String,
    sha256: String,
    fingerprint: String,
}

impl Baseline {
    /// Reads the baseline at `path`.
    ///
    /// # Errors
    /// `Io` when it cannot be read; as [`Baseline::parse`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_bounded(path, MOST_BYTES)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the baseline in `text`, which lies at `name`.
    ///
    /// # Errors
    /// `Parameter` when it is no baseline of a version that this build knows.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let bad = |message: String| {
            Error::parameter("baseline.syntax", message)
                .in_file(name)
                .help("weighbridge scan --write-baseline FILE writes a new one")
        };
        let file: BaselineFile = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if file.schema_version != SCHEMA_VERSION {
            return Err(bad(format!(
                "expected schema_version {SCHEMA_VERSION}, found {}",
                file.schema_version
            )));
        }
        let mut known = HashSet::new();
        for f in file.findings {
            let good = f.fingerprint.len() == 64
                && f.fingerprint
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !good {
                return Err(bad(format!("`{}` is no fingerprint", f.fingerprint)));
            }
            known.insert(f.fingerprint);
        }
        Ok(Self {
            path: name.to_owned(),
            known,
        })
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether nothing is accepted.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether the finding with this fingerprint is accepted.
    pub(crate) fn knows(&self, fingerprint: &str) -> bool {
        self.known.contains(fingerprint)
    }
}

/// Collects what a scan accepted, and writes it as a file whose bytes depend on nothing but the
/// findings.
#[derive(Debug, Default)]
pub struct BaselineWriter {
    findings: BTreeSet<Accepted>,
}

impl BaselineWriter {
    /// Takes what a baseline accepted of `file`.
    pub fn add(&mut self, file: &FileReport) {
        let Some(sha256) = &file.sha256 else { return };
        for s in &file.suppressed {
            if matches!(s.by, By::Baseline { .. }) {
                self.findings.insert(Accepted {
                    path: file.path.clone(),
                    rule: s.finding.rule.clone(),
                    place: s.finding.place.clone(),
                    evidence: s.finding.evidence.clone(),
                    sha256: sha256.clone(),
                    fingerprint: fingerprint(&s.finding, &Identity::Sha256(sha256)),
                });
            }
        }
    }

    /// How many findings were taken.
    pub fn len(&self) -> usize {
        self.findings.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// The file.
    ///
    /// # Errors
    /// None that occur: the data has no maps with other keys than strings.
    pub fn finish(self) -> Result<String> {
        let file = BaselineFile {
            schema_version: SCHEMA_VERSION,
            findings: self.findings.into_iter().collect(),
        };
        let text = serde_json::to_string_pretty(&file);
        let text = text.map_err(|e| Error::unsupported("baseline.write", e.to_string()))?;
        Ok(text + "\n")
    }
}

/// What a fingerprint knows a file by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity<'a> {
    /// Its contents.
    Sha256(&'a str),
    /// Its path, where nobody asked for its contents: good to tell reports apart, never to
    /// accept anything.
    Path(&'a str),
}

/// What tells a finding from others, the same in every run: hexadecimal digits.
pub(crate) fn fingerprint(finding: &Finding, identity: &Identity<'_>) -> String {
    let (kind, file) = match identity {
        Identity::Sha256(h) => ("sha256", *h),
        Identity::Path(p) => ("path", *p),
    };
    let mut hash = Sha256::new();
    for part in [
        "weighbridge finding 1",
        &finding.rule,
        kind,
        file,
        &finding.place,
        &finding.evidence,
    ] {
        // With the length in front, no two lists of parts give the same bytes.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// The SHA-256 of everything in `source`, as hexadecimal digits.
///
/// # Errors
/// `Io` when reading fails.
pub(crate) fn sha256(source: &dyn ByteSource) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < source.len() {
        let n = usize::try_from(source.len() - at).map_or(CHUNK, |left| left.min(CHUNK));
        let part = buffer.get_mut(..n).unwrap_or_default();
        source.read_at(at, part)?;
        hash.update(&*part);
        at += n as u64;
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        // Writing to a string does not fail.
        let _ = write!(out, "{b:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::finding::{Origin, Severity, Suppressed, Verdict};

    fn finding(evidence: &str) -> Finding {
        Finding {
            rule: "WB-PKL-003".into(),
            severity: Severity::Suspicious,
            place: "data.pkl".into(),
            offset: Some(4),
            message: "builds".into(),
            evidence: evidence.into(),
            reference: String::new(),
            origin: Origin::File,
            global: None,
            witness: None,
            overridden: None,
        }
    }

    fn report(path: &str, evidence: &[&str]) -> FileReport {
        let by = || By::Baseline {
            reason: "known".into(),
            baseline: "b.json".into(),
        };
        let suppressed = evidence.iter().map(|e| Suppressed {
            finding: finding(e),
            by: by(),
        });
        FileReport {
            verdict: Verdict::Clean,
            incomplete: Vec::new(),
            suppressed: suppressed.collect(),
            sha256: Some("ab".repeat(32)),
            ..FileReport::unread(path, "")
        }
    }

    #[test]
    fn what_is_written_is_read_back_whatever_the_order() {
        let (mut a, mut b) = (BaselineWriter::default(), BaselineWriter::default());
        a.add(&report("x.pkl", &["1", "2"]));
        a.add(&report("y.pkl", &["3"]));
        b.add(&report("y.pkl", &["3"]));
        b.add(&report("x.pkl", &["2", "1", "1"]));
        assert_eq!(a.len(), 3);
        let text = a.finish().unwrap();
        assert_eq!(text, b.finish().unwrap());

        let read = Baseline::parse(&text, "b.json").unwrap();
        let sha = "ab".repeat(32);
        let print = |e: &str, sha: &str| fingerprint(&finding(e), &Identity::Sha256(sha));
        assert!(read.knows(&print("1", &sha)));
        assert!(!read.knows(&print("4", &sha)));
        assert!(
            !read.knows(&print("1", &"cd".repeat(32))),
            "another file is new"
        );
    }

    #[test]
    fn a_file_without_a_hash_is_never_accepted() {
        let mut w = BaselineWriter::default();
        w.add(&FileReport {
            sha256: None,
            ..report("x.pkl", &["1"])
        });
        assert!(w.is_empty());
    }

    #[test]
    fn fingerprints_tell_their_parts_apart() {
        let with = |place: &str, evidence: &str| {
            let f = Finding {
                place: place.into(),
                ..finding(evidence)
            };
            fingerprint(&f, &Identity::Path("x"))
        };
        assert_ne!(with("ab", "c"), with("a", "bc"));
        assert_ne!(
            fingerprint(&finding("e"), &Identity::Path("x")),
            fingerprint(&finding("e"), &Identity::Sha256("x"))
        );
        assert_eq!(with("a", "b"), with("a", "b"));
    }

    #[test]
    fn files_are_hashed_over_every_chunk() {
        let empty = SliceSource::new(Vec::new(), "x");
        assert_eq!(
            sha256(&empty).unwrap(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        // The million letters of FIPS 180-4's examples are less than a chunk; this is more.
        let long = vec![b'a'; 3_000_001];
        let whole = hex(&Sha256::digest(&long));
        assert_eq!(sha256(&SliceSource::new(long, "x")).unwrap(), whole);
    }

    #[test]
    fn other_files_are_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"schema_version": 2, "findings": []}"#,
            r#"{"schema_version": 1, "findings": [{"path":"","rule":"","where":"","evidence":"","sha256":"","fingerprint":"xyz"}]}"#,
            r#"{"schema_version": 1, "findings": [], "more": 1}"#,
        ] {
            let e = Baseline::parse(text, "b.json").unwrap_err();
            assert_eq!(e.rule(), "baseline.syntax", "{text}");
        }
        assert!(
            Baseline::parse(r#"{"schema_version": 1, "findings": []}"#, "b")
                .unwrap()
                .is_empty()
        );
    }
}
