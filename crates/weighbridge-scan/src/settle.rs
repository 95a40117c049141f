//! Applies what the user accepts: a policy's entries and a baseline.

use std::cell::OnceCell;
use std::path::Path;

use weighbridge_core::Result;

use crate::baseline::{Identity, fingerprint, sha256};
use crate::engine::{Known, Settings};
use crate::finding::{By, Finding, Gap, Overridden, Severity, Suppressed};
use crate::policy::{Asked, Entry, Policy, Ruling};
use crate::rule::Rules;
use crate::subject::Subject;

/// The findings of a file, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// What counts, worst first.
    pub(crate) findings: Vec<Finding>,
    /// What is accepted.
    pub(crate) suppressed: Vec<Suppressed>,
    /// What stays unseen although its finding is accepted, and why the hash is missing.
    pub(crate) gaps: Vec<Gap>,
    /// The file's hash, where something asked for it.
    pub(crate) sha256: Option<String>,
}

/// Sorts `findings` of `subject` into those that count and those that are accepted.
///
/// # Errors
/// `Parameter` when a finding is of no rule, which the crate's tests rule out.
pub(crate) fn settle(
    settings: &Settings,
    rules: &Rules,
    subject: &Subject<'_>,
    findings: Vec<Finding>,
) -> Result<Settled> {
    let hash: OnceCell<Option<String>> = OnceCell::new();
    let failed: OnceCell<String> = OnceCell::new();
    // The file is read at most once, and only when an entry that fits otherwise needs it.
    let sha256 = || {
        let computed = hash.get_or_init(|| match sha256(subject.source) {
            Ok(h) => Some(h),
            Err(e) => {
                let _ = failed.set(e.message().to_owned());
                None
            }
        });
        computed.clone()
    };
    let asked = Asked {
        path: Path::new(&subject.path),
        sha256: &sha256,
    };
    let mut out = Settled::default();
    for mut f in findings {
        let before = f.severity;
        let by = accepted(settings, &mut f, &asked);
        let counts = by.is_none() && f.severity >= Severity::Suspicious;
        if before >= Severity::Suspicious && !counts && rules.get(&f.rule)?.opaque {
            out.gaps.push(Gap {
                place: f.place.clone(),
                offset: f.offset,
                reason: format!("what {} speaks of is accepted, but was not seen", f.rule),
            });
        }
        match by {
            Some(by) => out.suppressed.push(Suppressed { finding: f, by }),
            None => out.findings.push(f),
        }
    }
    // Stable: equal severities stay in the order of the file.
    out.findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    out.sha256 = hash.into_inner().flatten();
    if let Some(why) = failed.into_inner() {
        out.gaps.push(Gap {
            place: String::new(),
            offset: None,
            reason: format!("the SHA-256 cannot be computed: {why}"),
        });
    }
    Ok(out)
}

/// What accepts `f`, if anything does; a changed severity is noted in it.
fn accepted(settings: &Settings, f: &mut Finding, asked: &Asked<'_>) -> Option<By> {
    if let Some(policy) = &settings.policy {
        match policy.rule_on(&f.rule, f.global.as_ref(), asked) {
            Some(Ruling::Suppress(entry)) => return Some(by_policy(policy, entry)),
            Some(Ruling::Override(severity, entry)) if severity != f.severity => {
                f.overridden = Some(Overridden {
                    severity: f.severity,
                    by: by_policy(policy, entry),
                });
                f.severity = severity;
            }
            _ => {}
        }
    }
    let (baseline, reason) = match &settings.known {
        Known::Listed(b) if !b.is_empty() => {
            let hash = (asked.sha256)()?;
            if !b.knows(&fingerprint(f, &Identity::Sha256(&hash))) {
                return None;
            }
            (b.path(), "known since the baseline was made")
        }
        Known::Everything(path) => {
            // A file without a hash cannot be known again.
            (asked.sha256)()?;
            (path.as_str(), "accepted into the baseline by this scan")
        }
        _ => return None,
    };
    Some(By::Baseline {
        reason: reason.into(),
        baseline: baseline.to_owned(),
    })
}

fn by_policy(policy: &Policy, entry: Entry) -> By {
    By::Policy {
        reason: entry.reason,
        policy: policy.path().to_owned(),
        entry: entry.name,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::baseline::{Baseline, BaselineWriter};
    use crate::engine::Engine;
    use crate::finding::{FileReport, Verdict};
    use crate::policy::Date;
    use crate::subject::{GlobalUse, PickleTrace, Use};

    fn policy(text: &str) -> Settings {
        let today = Date::new(2026, 1, 1).unwrap();
        let policy = Policy::parse(text, "p.toml", Path::new("/repo"), today).unwrap();
        Settings {
            policy: Some(Arc::new(policy)),
            known: Known::Nothing,
        }
    }

    /// The report on a file of these bytes whose pickle uses these globals.
    fn scan(
        settings: &Settings,
        bytes: &[u8],
        globals: &[(&str, &str, Use)],
        more: impl FnOnce(&mut Subject<'_>),
    ) -> FileReport {
        let source = SliceSource::new(bytes, "x.pkl");
        let mut subject = Subject::new("/repo/x.pkl", &source);
        let globals = globals.iter().map(|(m, n, how)| GlobalUse {
            module: Some((*m).into()),
            name: Some((*n).into()),
            offset: 0,
            how: *how,
            args: String::new(),
        });
        subject.pickles.push(PickleTrace {
            globals: globals.collect(),
            ..PickleTrace::default()
        });
        more(&mut subject);
        Engine::configured(settings).unwrap().run(subject).unwrap()
    }

    const NET: (&str, &str, Use) = ("mypkg.models", "Net", Use::Construct);
    const ALLOW: &str = "[[allow]]\nglobals = ['mypkg.*.*']\nreason = 'ours'";

    #[test]
    fn an_allowed_global_is_listed_as_suppressed_and_the_rest_counts() {
        let r = scan(&policy(ALLOW), b"", &[NET], |_| {});
        assert_eq!(r.verdict, Verdict::Clean);
        assert!(r.findings.is_empty() && r.sha256.is_none());
        let s = &r.suppressed[0];
        assert_eq!(s.finding.rule, "WB-PKL-003");
        assert_eq!(
            serde_json::to_value(&s.by).unwrap(),
            serde_json::json!({"kind": "policy", "reason": "ours", "policy": "p.toml", "entry": "allow 1"})
        );
        let r = scan(
            &policy(ALLOW),
            b"",
            &[NET, ("os", "system", Use::Call)],
            |_| {},
        );
        assert_eq!(r.verdict, Verdict::Malicious);
        assert_eq!((r.findings.len(), r.suppressed.len()), (1, 1));
    }

    #[test]
    fn no_policy_clears_what_is_broken_or_was_not_looked_at() {
        let off = "[[rule]]\nid = 'WB-FMT-*'\nseverity = 'off'\nreason = 'x'";
        let broken = weighbridge_core::Error::malformed("zip.x", "no");
        let r = scan(&policy(off), b"", &[], |s| s.failed(&broken));
        assert_eq!((r.verdict, r.malformed), (Verdict::Malformed, true));
        assert_eq!(r.suppressed.len(), 1);
        let refused = weighbridge_core::Error::unsupported("x.y", "no reader");
        let r = scan(&policy(off), b"", &[], |s| s.failed(&refused));
        assert_eq!(r.verdict, Verdict::Incomplete);
        // An encrypted member stays unseen, whether its finding is off or counts for less.
        for level in ["off", "info"] {
            let text = off.replace("'off'", &format!("'{level}'"));
            let r = scan(&policy(&text), b"", &[], |s| s.encrypted.push("a".into()));
            assert_eq!(r.verdict, Verdict::Incomplete, "{level}");
            assert_eq!(r.incomplete[0].place, "a");
        }
        let r = scan(&policy(""), b"", &[], |s| s.encrypted.push("a".into()));
        assert_eq!((r.verdict, r.incomplete.len()), (Verdict::Suspicious, 0));
    }

    #[test]
    fn a_changed_severity_is_noted_and_sorted_anew() {
        let text = "[[rule]]\nid = 'WB-PKL-001'\nseverity = 'info'\nreason = 'a honeypot'";
        let r = scan(
            &policy(text),
            b"",
            &[("os", "system", Use::Call), NET],
            |_| {},
        );
        assert_eq!(r.verdict, Verdict::Suspicious);
        assert_eq!(r.findings[0].rule, "WB-PKL-003");
        let was = r.findings[1].overridden.as_ref().unwrap();
        assert_eq!(
            (was.severity, was.by.reason()),
            (Severity::Malicious, "a honeypot")
        );
    }

    #[test]
    fn profiles_that_are_off_allow_nothing() {
        let linear = ("torch.nn.modules.linear", "Linear", Use::Construct);
        assert_eq!(
            scan(&policy(""), b"", &[linear], |_| {}).verdict,
            Verdict::Clean
        );
        let strict = policy("profiles = ['torch-weights-only']");
        assert_eq!(
            scan(&strict, b"", &[linear], |_| {}).verdict,
            Verdict::Suspicious
        );
    }

    #[test]
    fn a_flood_of_accepted_findings_hides_nothing() {
        let names: Vec<String> = (0..1100).map(|n| format!("N{n}")).collect();
        let mut globals: Vec<_> = names
            .iter()
            .map(|n| ("mypkg.models", n.as_str(), Use::Construct))
            .collect();
        globals.push(("evil", "Thing", Use::Construct));
        let r = scan(&policy(ALLOW), b"", &globals, |_| {});
        assert_eq!(r.verdict, Verdict::Suspicious);
    }

    #[test]
    fn a_baseline_knows_what_it_was_made_of_and_nothing_else() {
        let make = Settings {
            policy: None,
            known: Known::Everything("b.json".into()),
        };
        let made = scan(&make, b"one", &[NET], |_| {});
        assert_eq!((made.verdict, made.suppressed.len()), (Verdict::Clean, 1));
        let mut writer = BaselineWriter::default();
        writer.add(&made);
        let text = writer.finish().unwrap();
        let known = Settings {
            policy: None,
            known: Known::Listed(Arc::new(Baseline::parse(&text, "b.json").unwrap())),
        };
        let r = scan(&known, b"one", &[NET], |_| {});
        assert_eq!((r.verdict, r.suppressed.len()), (Verdict::Clean, 1));
        assert_eq!(r.sha256, made.sha256);
        let changed = scan(&known, b"two", &[NET], |_| {});
        assert_eq!(changed.verdict, Verdict::Suspicious);
        let more = scan(&known, b"one", &[NET, ("x", "Y", Use::Construct)], |_| {});
        assert_eq!((more.findings.len(), more.suppressed.len()), (1, 1));
        // Files without findings are not hashed.
        assert_eq!(scan(&known, b"one", &[], |_| {}).sha256, None);
    }
}
