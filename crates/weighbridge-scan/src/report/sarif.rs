//! The report as SARIF 2.1.0 (OASIS, *Static Analysis Results Interchange Format*), for code
//! hosting services and viewers. Section numbers below are those of the specification.
//!
//! One run; every rule of this build as a reporting descriptor; every finding as a result, those
//! that a policy or a baseline accepts with a `suppressions` entry; what was not looked at, what is
//! malformed and what has expired as notifications. Only files that have something to say are
//! artifacts.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::{Basis, Report};
use crate::baseline::{Identity, fingerprint};
use crate::finding::{By, FileReport, Finding, Origin, Severity, Suppressed};
use crate::rule::{RuleMeta, Rules};

/// The name under which fingerprints stand (3.27.17); the number changes with their making.
const FINGERPRINT: &str = "weighbridgeFinding/v1";

/// The kinds of notifications (3.19.24), in the order of their indices.
const NOTICES: [(&str, &str); 3] = [
    ("incomplete", "Part of a file could not be looked at"),
    ("malformed", "A file breaks its format or reached a limit"),
    ("expired", "An exception of the policy no longer applies"),
];

/// What the log says beside the report.
#[derive(Debug)]
pub struct Run<'a> {
    /// The policy and the baseline.
    pub basis: &'a Basis,
    /// The exit code of the program.
    pub exit_code: u8,
    /// The folder to which paths are given: the one the program runs in.
    pub root: &'a Path,
}

/// The log of `report`.
///
/// # Errors
/// `Parameter` when the compiled-in rules do not parse, which the crate's tests rule out.
pub fn log(report: &Report, run: &Run<'_>) -> weighbridge_core::Result<Json> {
    let rules = Rules::builtin()?;
    let index: HashMap<&str, usize> = rules.iter().enumerate().map(|(n, r)| (r.id, n)).collect();
    let (mut artifacts, mut results, mut notices) = (Vec::new(), Vec::new(), Vec::new());
    for file in &report.files {
        let quiet =
            file.findings.is_empty() && file.suppressed.is_empty() && file.incomplete.is_empty();
        if quiet && !file.malformed {
            continue;
        }
        let here = At {
            file,
            location: location(&file.path, run.root, artifacts.len()),
            rules: &index,
        };
        artifacts.push(here.artifact());
        for f in &file.findings {
            results.push(here.result(f, None));
        }
        for s in &file.suppressed {
            results.push(here.result(&s.finding, Some(s)));
        }
        here.notices(&mut notices);
    }
    let invocation = invocation(run, notices);
    Ok(json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver(rules)},
            "invocations": [invocation],
            "artifacts": artifacts,
            "results": results,
            "columnKind": "unicodeCodePoints",
        }],
    }))
}

/// The tool and its rules (3.19).
fn driver(rules: &Rules) -> Json {
    let notices: Vec<Json> = NOTICES
        .iter()
        .map(|(id, text)| json!({"id": id, "shortDescription": {"text": text}}))
        .collect();
    json!({
        "name": "Weighbridge",
        "semanticVersion": env!("CARGO_PKG_VERSION"),
        "version": env!("CARGO_PKG_VERSION"),
        "informationUri": env!("CARGO_PKG_REPOSITORY"),
        "rules": rules.iter().map(descriptor).collect::<Vec<_>>(),
        "notifications": notices,
    })
}

/// A rule (3.49). `security-severity` and `tags` are what code hosting services read.
fn descriptor(rule: &RuleMeta) -> Json {
    let mut tags = vec!["security".to_owned(), "model-file".to_owned()];
    for tag in rule.tags() {
        // The spelling under which code hosting services know weaknesses.
        match tag.strip_prefix("CWE-") {
            Some(n) => tags.push(format!("external/cwe/cwe-{n:0>3}")),
            None => tags.push(tag.to_owned()),
        }
    }
    let help = format!("{}\n\nWhat to do: {}", rule.why, rule.advice);
    let mut markdown = format!("{}\n\n**What to do:** {}\n", rule.why, rule.advice);
    for (r, link) in rule.links() {
        markdown.push_str(&format!("\n- [{r}]({link})"));
    }
    json!({
        "id": rule.id,
        "shortDescription": {"text": escaped(rule.title)},
        "fullDescription": {"text": escaped(rule.why)},
        "help": {"text": escaped(&help), "markdown": markdown},
        "helpUri": rule.page(),
        "defaultConfiguration": {"level": level(rule.severity)},
        "properties": {
            "security-severity": score(rule.severity),
            "precision": "high",
            "tags": tags,
        },
    })
}

/// The level of a result (3.27.10).
fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "note",
        Severity::Suspicious => "warning",
        Severity::Malicious => "error",
    }
}

/// A number on the scale of CVSS, by which code hosting services sort: critical from 9, medium
/// from 4, low below.
fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "2.0",
        Severity::Suspicious => "6.0",
        Severity::Malicious => "9.3",
    }
}

/// One file of the report.
struct At<'a> {
    file: &'a FileReport,
    location: Json,
    rules: &'a HashMap<&'a str, usize>,
}

impl At<'_> {
    /// The file itself (3.24).
    fn artifact(&self) -> Json {
        let mut a = Map::new();
        let mut location = self.location.clone();
        // An artifact does not point to itself (3.24.2).
        if let Some(l) = location.as_object_mut() {
            l.remove("index");
        }
        a.insert("location".into(), location);
        a.insert("roles".into(), json!(["analysisTarget"]));
        // The schema's numbers are signed.
        if let Some(n) = self.file.bytes.filter(|&n| i64::try_from(n).is_ok()) {
            a.insert("length".into(), n.into());
        }
        if let Some(h) = &self.file.sha256 {
            a.insert("hashes".into(), json!({"sha-256": h}));
        }
        let about = json!({"format": self.file.format, "verdict": self.file.verdict.as_str()});
        a.insert("properties".into(), about);
        Json::Object(a)
    }

    /// A finding (3.27).
    fn result(&self, f: &Finding, accepted: Option<&Suppressed>) -> Json {
        let mut r = Map::new();
        r.insert("ruleId".into(), f.rule.as_str().into());
        if let Some(&n) = self.rules.get(f.rule.as_str()) {
            r.insert("ruleIndex".into(), n.into());
        }
        r.insert("level".into(), level(f.severity).into());
        r.insert("message".into(), json!({"text": message(f)}));
        r.insert("locations".into(), json!([self.place(f)]));
        let identity = match &self.file.sha256 {
            Some(h) => Identity::Sha256(h),
            None => Identity::Path(&self.file.path),
        };
        let print = fingerprint(f, &identity);
        r.insert("partialFingerprints".into(), json!({FINGERPRINT: print}));
        if let Some(s) = accepted {
            r.insert("suppressions".into(), json!([suppression(&s.by)]));
        }
        r.insert("properties".into(), properties(f));
        Json::Object(r)
    }

    /// Where a finding is (3.28): bytes of the file where they are known, and the member.
    fn place(&self, f: &Finding) -> Json {
        let mut physical = json!({"artifactLocation": self.location});
        if let Some(region) = self.region(f)
            && let Some(p) = physical.as_object_mut()
        {
            p.insert("region".into(), region);
        }
        let mut place = json!({"physicalLocation": physical});
        if !f.place.is_empty()
            && let Some(p) = place.as_object_mut()
        {
            p.insert("logicalLocations".into(), json!([member(&f.place)]));
        }
        place
    }

    /// The first byte of a finding (3.30.11, 3.30.12), unless it lies in something compressed.
    fn region(&self, f: &Finding) -> Option<Json> {
        let (offset, bytes) = (f.offset?, self.file.bytes?);
        if f.origin != Origin::File || offset > bytes || i64::try_from(offset).is_err() {
            return None;
        }
        // At the end of a file that breaks off there is a place, and no byte.
        Some(json!({"byteOffset": offset, "byteLength": (bytes - offset).min(1)}))
    }

    /// What was not looked at and what is broken (3.58).
    fn notices(&self, out: &mut Vec<Json>) {
        for g in &self.file.incomplete {
            let mut at = json!({"physicalLocation": {"artifactLocation": self.location}});
            if !g.place.is_empty()
                && let Some(p) = at.as_object_mut()
            {
                p.insert("logicalLocations".into(), json!([member(&g.place)]));
            }
            let text = format!("not looked at: {}", g.reason);
            out.push(notice(0, "warning", &text, Some(at)));
        }
        if self.file.malformed {
            let at = json!({"physicalLocation": {"artifactLocation": self.location}});
            let text = "the file breaks its format or reached a limit";
            out.push(notice(1, "error", text, Some(at)));
        }
    }
}

/// A member of an archive, or a part of the file that has no name of its own (3.33).
fn member(place: &str) -> Json {
    let name = place.rsplit(" → ").next().unwrap_or(place);
    json!({"name": name, "fullyQualifiedName": place, "kind": "resource"})
}

/// What the tables show and SARIF has no field for.
fn properties(f: &Finding) -> Json {
    let mut p = Map::new();
    p.insert("severity".into(), f.severity.as_str().into());
    p.insert("evidence".into(), f.evidence.as_str().into());
    if let (Some(offset), Origin::Member) = (f.offset, f.origin) {
        p.insert("memberOffset".into(), offset.into());
    }
    if let Some(g) = &f.global {
        p.insert("global".into(), json!(format!("{}.{}", g.module, g.name)));
    }
    if let Some(o) = &f.overridden {
        p.insert("overridden".into(), json!(o));
    }
    Json::Object(p)
}

/// Who accepted a finding (3.35).
fn suppression(by: &By) -> Json {
    json!({
        "kind": "external",
        "status": "accepted",
        "justification": by.reason(),
        "properties": by,
    })
}

fn notice(kind: usize, level: &str, text: &str, at: Option<Json>) -> Json {
    let id = NOTICES.get(kind).map_or("", |n| n.0);
    let mut n = json!({
        "descriptor": {"id": id, "index": kind},
        "level": level,
        "message": {"text": escaped(text)},
    });
    if let (Some(at), Some(n)) = (at, n.as_object_mut()) {
        n.insert("locations".into(), json!([at]));
    }
    n
}

/// How the program ran (3.20).
fn invocation(run: &Run<'_>, notices: Vec<Json>) -> Json {
    let mut i = json!({
        "executionSuccessful": true,
        "exitCode": run.exit_code,
        "toolExecutionNotifications": notices,
    });
    let expired = run.basis.policy.iter().flat_map(|p| {
        p.expired.iter().map(|e| {
            let text = format!(
                "{}, {}: expired after {} ({})",
                p.path, e.entry, e.expires, e.reason
            );
            notice(2, "warning", &text, None)
        })
    });
    let expired: Vec<Json> = expired.collect();
    if let (false, Some(i)) = (expired.is_empty(), i.as_object_mut()) {
        i.insert("toolConfigurationNotifications".into(), expired.into());
    }
    i
}

/// A finding in words, with its evidence where the words do not hold it.
fn message(f: &Finding) -> String {
    let mut text = f.message.clone();
    if !f.evidence.is_empty() && !f.message.contains(&f.evidence) {
        text.push_str(&format!(": {}", f.evidence));
    }
    if !f.place.is_empty() {
        text.push_str(&format!(" (in {})", f.place));
    }
    escaped(&text)
}

/// Text as a message string: it must neither hold placeholders (3.11.5) nor turn strings of the
/// scanned file into links (3.11.6).
fn escaped(text: &str) -> String {
    let links = text.contains("](");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '{' | '}' => out.extend([c, c]),
            '[' | ']' | '\\' if links => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Where a file lies (3.4): relative to `root` where it lies beneath, else absolute.
fn location(path: &str, root: &Path, index: usize) -> Json {
    let absolute = resolved(Path::new(path), root);
    match absolute.strip_prefix(root) {
        Ok(relative) if relative.components().next().is_some() => {
            json!({"uri": uri(relative), "uriBaseId": "%SRCROOT%", "index": index})
        }
        _ => {
            let path = uri(&absolute);
            let slash = if path.starts_with('/') { "" } else { "/" };
            json!({"uri": format!("file://{slash}{path}"), "index": index})
        }
    }
}

/// `path` from `root`, without `.` and `..`.
fn resolved(path: &Path, root: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in root.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// A path as the path of a URI: everything but unreserved characters (RFC 3986, 2.3) escaped.
fn uri(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = if cfg!(windows) {
        text.replace('\\', "/")
    } else {
        text.into_owned()
    };
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(b));
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Gap, Verdict};
    use crate::policy::Expired;
    use crate::report::PolicyNote;

    fn finding(place: &str, offset: Option<u64>, origin: Origin) -> Finding {
        Finding {
            rule: "WB-PKL-001".into(),
            severity: Severity::Malicious,
            place: place.into(),
            offset,
            message: "calls os.system".into(),
            evidence: "os.system('{0} [x](https://evil)')".into(),
            reference: String::new(),
            origin,
            global: None,
            witness: None,
            overridden: None,
        }
    }

    fn logged(file: FileReport, basis: &Basis) -> Json {
        let report = Report {
            files: vec![FileReport::unread("clean.txt", "").cleaned(), file],
        };
        let run = Run {
            basis,
            exit_code: 1,
            root: Path::new("/repo"),
        };
        log(&report, &run).unwrap()["runs"][0].take()
    }

    impl FileReport {
        fn cleaned(mut self) -> Self {
            self.verdict = Verdict::Clean;
            self.incomplete.clear();
            self
        }
    }

    fn bad(findings: Vec<Finding>) -> FileReport {
        FileReport {
            verdict: Verdict::Malicious,
            bytes: Some(10),
            findings,
            ..FileReport::unread("models/a b.pkl", "").cleaned()
        }
    }

    #[test]
    fn findings_are_results_with_rule_place_and_fingerprint() {
        let run = logged(
            bad(vec![finding("x.zip → data.pkl", Some(3), Origin::File)]),
            &Basis::default(),
        );
        assert_eq!(run["artifacts"].as_array().unwrap().len(), 1);
        assert_eq!(run["artifacts"][0]["location"]["uri"], "models/a%20b.pkl");
        let r = &run["results"][0];
        let n = r["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(run["tool"]["driver"]["rules"][n]["id"], r["ruleId"]);
        assert_eq!(r["level"], "error");
        let at = &r["locations"][0];
        assert_eq!(
            at["physicalLocation"]["region"],
            json!({"byteOffset": 3, "byteLength": 1})
        );
        assert_eq!(
            at["logicalLocations"][0],
            json!({"name": "data.pkl", "fullyQualifiedName": "x.zip → data.pkl", "kind": "resource"})
        );
        let print = r["partialFingerprints"][FINGERPRINT].as_str().unwrap();
        assert_eq!(print.len(), 64);
        assert_eq!(r["suppressions"], Json::Null);
    }

    #[test]
    fn strings_of_the_file_make_no_links_and_no_placeholders() {
        let run = logged(
            bad(vec![finding("", None, Origin::File)]),
            &Basis::default(),
        );
        assert_eq!(
            run["results"][0]["message"]["text"],
            "calls os.system: os.system('{{0}} \\[x\\](https://evil)')"
        );
        assert_eq!(escaped("a[1]"), "a[1]");
    }

    #[test]
    fn offsets_outside_the_file_are_no_regions() {
        let run = logged(
            bad(vec![
                finding("m", Some(3), Origin::Member),
                finding("", Some(10), Origin::File),
                finding("", Some(11), Origin::File),
            ]),
            &Basis::default(),
        );
        let region =
            |n: usize| run["results"][n]["locations"][0]["physicalLocation"]["region"].clone();
        assert_eq!(region(0), Json::Null);
        assert_eq!(run["results"][0]["properties"]["memberOffset"], 3);
        assert_eq!(region(1), json!({"byteOffset": 10, "byteLength": 0}));
        assert_eq!(region(2), Json::Null);
    }

    #[test]
    fn what_is_accepted_broken_unseen_or_expired_is_said() {
        let mut file = bad(Vec::new());
        file.malformed = true;
        file.sha256 = Some("ab".repeat(32));
        file.incomplete.push(Gap {
            place: "x".into(),
            offset: None,
            reason: "no reader".into(),
        });
        file.suppressed.push(Suppressed {
            finding: finding("", None, Origin::File),
            by: By::Baseline {
                reason: "known".into(),
                baseline: "b.json".into(),
            },
        });
        let basis = Basis {
            policy: Some(PolicyNote {
                path: "p.toml".into(),
                expired: vec![Expired {
                    entry: "allow 1".into(),
                    expires: "2026-01-01".into(),
                    reason: "then".into(),
                }],
            }),
            baseline: None,
        };
        let run = logged(file, &basis);
        let s = &run["results"][0]["suppressions"][0];
        assert_eq!(
            (&s["kind"], &s["justification"]),
            (&json!("external"), &json!("known"))
        );
        assert_eq!(
            run["artifacts"][0]["hashes"],
            json!({"sha-256": "ab".repeat(32)})
        );
        let i = &run["invocations"][0];
        let ids = |list: &Json| -> Vec<String> {
            let of = |n: &Json| n["descriptor"]["id"].as_str().unwrap().to_owned();
            list.as_array().unwrap().iter().map(of).collect()
        };
        assert_eq!(
            ids(&i["toolExecutionNotifications"]),
            ["incomplete", "malformed"]
        );
        assert_eq!(ids(&i["toolConfigurationNotifications"]), ["expired"]);
        assert_eq!(i["exitCode"], 1);
    }

    #[test]
    fn paths_become_uris() {
        let at = |path: &str| location(path, Path::new("/repo"), 0)["uri"].clone();
        assert_eq!(at("./a/../b.pkl"), "b.pkl");
        assert_eq!(at("/repo/x:y"), "x%3Ay");
        assert_eq!(at("../é"), "file:///%C3%A9");
        assert_eq!(at("/srv/m.pt"), "file:///srv/m.pt");
        assert_eq!(at(""), "file:///repo");
    }
}
