//! Runs every check over a subject and makes the verdict.

use std::sync::Arc;

use weighbridge_core::Result;

use crate::baseline::Baseline;
use crate::checks;
use crate::finding::{FileReport, Findings, Gap, Origin, Severity, Verdict};
use crate::globals::Catalogue;
use crate::policy::Policy;
use crate::rule::Rules;
use crate::settle::settle;
use crate::subject::Subject;

/// One check: code that applies one family of rules.
pub trait Check: Sync {
    /// The rules it can report.
    fn rules(&self) -> &'static [&'static str];

    /// Looks at `subject` and records what it finds.
    ///
    /// # Errors
    /// What reading the bytes gives; the engine turns it into a fault or a gap of the file.
    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()>;
}

/// The checks in the order they run. `Format` is last: it reports the faults that reading for the
/// others gave.
static CHECKS: &[&dyn Check] = &[
    &checks::pickle_globals::PickleGlobals,
    &checks::archive::Archive,
    &checks::keras_config::KerasConfig,
    &checks::markup::Markup,
    &checks::policy::Denied,
    &checks::templates::Templates,
    &checks::onnx_operators::OnnxOperators,
    &checks::onnx_gates::OnnxGates,
    &checks::references::References,
    &checks::tensorflow_operators::TensorFlowOperators,
    &checks::torchscript::TorchScript,
    &checks::code_string::CodeString,
    &checks::active_content::ActiveContent,
    &checks::programs::Programs,
    &checks::config_hooks::ConfigHooks,
    &checks::config_secrets::ConfigSecrets,
    &checks::config_urls::ConfigUrls,
    &checks::config_paths::ConfigPaths,
    &checks::format::Format,
];

/// What the user asks of a scan beyond the built-in rules.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What is allowed, denied and silenced.
    pub policy: Option<Arc<Policy>>,
    /// Which findings are known already.
    pub known: Known,
}

impl Settings {
    /// Whether the same bytes may be judged otherwise under another path.
    pub fn depend_on_paths(&self) -> bool {
        self.policy.is_some() || matches!(self.known, Known::Listed(_))
    }
}

/// Which findings are known already.
#[derive(Debug, Clone, Default)]
pub enum Known {
    /// None.
    #[default]
    Nothing,
    /// Those of a baseline.
    Listed(Arc<Baseline>),
    /// All that are found now: a baseline is being made at this path.
    Everything(String),
}

/// The scanner.
#[derive(Debug)]
pub struct Engine {
    rules: &'static Rules,
    /// Where the policy restricts the profiles.
    catalogue: Option<Catalogue>,
    settings: Settings,
}

impl Engine {
    /// An engine with the built-in rules.
    ///
    /// # Errors
    /// `Parameter` when the compiled-in rules do not parse, which the crate's tests rule out.
    pub fn new() -> Result<Self> {
        Self::configured(&Settings::default())
    }

    /// An engine with the built-in rules and what the user asks.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn configured(settings: &Settings) -> Result<Self> {
        let profiles = settings.policy.as_ref().and_then(|p| p.profiles());
        let catalogue = match profiles {
            Some(only) => Some(Catalogue::restricted(Some(&only))?),
            None => None,
        };
        Ok(Self {
            rules: Rules::builtin()?,
            catalogue,
            settings: settings.clone(),
        })
    }

    /// The rules it applies.
    pub fn rules(&self) -> &'static Rules {
        self.rules
    }

    /// Judges one file.
    ///
    /// # Errors
    /// `Parameter` when a check and the rules' data disagree, which the crate's tests rule out.
    pub fn run(&self, mut subject: Subject<'_>) -> Result<FileReport> {
        let policy = self.settings.policy.as_deref();
        let mut found = Findings::judged_by(self.rules, self.catalogue.as_ref(), policy);
        for check in CHECKS {
            if let Err(e) = check.run(&subject, &mut found) {
                subject.failed(&e);
            }
        }
        subject.gaps.append(&mut found.take_gaps());
        let worst_dropped = found.worst_dropped();
        let (mut findings, dropped) = found.into_sorted();
        if !findings.is_empty() {
            let compressed = subject.compressed();
            for f in findings.iter_mut().filter(|f| f.offset.is_some()) {
                if compressed.contains(&f.place) {
                    f.origin = Origin::Member;
                }
            }
        }
        let settled = settle(&self.settings, self.rules, &subject, findings)?;
        let mut incomplete = std::mem::take(&mut subject.gaps);
        incomplete.extend(settled.gaps);
        if dropped > 0 {
            incomplete.push(Gap {
                place: String::new(),
                offset: None,
                reason: format!("{dropped} more findings are not listed"),
            });
        }
        // What there was no room for is accepted by nobody.
        let worst = settled.findings.first().map(|f| f.severity);
        let malformed = !subject.faults.is_empty();
        Ok(FileReport {
            path: subject.path,
            format: subject.format,
            verdict: verdict(worst.max(worst_dropped), malformed, !incomplete.is_empty()),
            findings: settled.findings,
            incomplete,
            suppressed: settled.suppressed,
            malformed,
            bytes: Some(subject.source.len()),
            sha256: settled.sha256,
            of_folder: subject.of_folder,
        })
    }
}

fn verdict(worst: Option<Severity>, malformed: bool, incomplete: bool) -> Verdict {
    match worst {
        Some(Severity::Malicious) => Verdict::Malicious,
        Some(Severity::Suspicious) => Verdict::Suspicious,
        _ if malformed => Verdict::Malformed,
        _ if incomplete => Verdict::Incomplete,
        _ => Verdict::Clean,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::subject::{GlobalUse, PickleTrace, Use};

    fn source() -> SliceSource {
        SliceSource::new(Vec::new(), "x.pkl")
    }

    fn pickle(module: &str, name: &str, how: Use) -> PickleTrace {
        PickleTrace {
            place: "archive/data.pkl".into(),
            base: Some(100),
            globals: vec![GlobalUse {
                module: Some(module.into()),
                name: Some(name.into()),
                offset: 7,
                how,
                args: "'id'".into(),
            }],
            ..PickleTrace::default()
        }
    }

    #[test]
    fn every_rule_belongs_to_exactly_one_check() {
        let mut claimed = HashSet::new();
        for c in CHECKS {
            for r in c.rules() {
                assert!(claimed.insert(*r), "{r} is claimed twice");
                Rules::builtin().unwrap().get(r).unwrap();
            }
        }
        for r in Rules::builtin().unwrap().iter() {
            assert!(claimed.contains(r.id), "no check reports {}", r.id);
        }
    }

    #[test]
    fn a_call_of_os_system_is_malicious_with_offset_and_evidence() {
        let s = source();
        let mut subject = Subject::new("x.pkl", &s);
        subject.pickles.push(pickle("posix", "system", Use::Call));
        let r = Engine::new().unwrap().run(subject).unwrap();
        assert_eq!(r.verdict, Verdict::Malicious);
        let f = &r.findings[0];
        assert_eq!((f.rule.as_str(), f.offset), ("WB-PKL-001", Some(107)));
        assert_eq!(f.place, "archive/data.pkl");
        assert_eq!(f.evidence, "posix.system('id')");
    }

    #[test]
    fn faults_make_malformed_and_gaps_incomplete_but_findings_weigh_more() {
        let s = source();
        let engine = Engine::new().unwrap();
        let broken = weighbridge_core::Error::malformed("zip.crc-mismatch", "no").at(3);
        let refused = weighbridge_core::Error::unsupported("scan.unknown-format", "what is it");

        let mut subject = Subject::new("x", &s);
        subject.failed(&refused);
        assert_eq!(engine.run(subject).unwrap().verdict, Verdict::Incomplete);

        let mut subject = Subject::new("x", &s);
        subject.failed(&refused);
        subject.failed(&broken);
        let r = engine.run(subject).unwrap();
        assert_eq!(r.verdict, Verdict::Malformed);
        assert_eq!(r.findings[0].rule, "WB-FMT-001");
        assert_eq!(r.findings[0].evidence, "zip.crc-mismatch");
        assert_eq!(r.incomplete.len(), 1);

        let mut subject = Subject::new("x", &s);
        subject.failed(&broken);
        subject.pickles.push(pickle("posix", "system", Use::Import));
        assert_eq!(engine.run(subject).unwrap().verdict, Verdict::Suspicious);

        assert_eq!(
            engine.run(Subject::new("x", &s)).unwrap().verdict,
            Verdict::Clean
        );
    }
}
