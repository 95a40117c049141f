//! The report for people, as lines of text.

use super::Report;
use crate::finding::{Severity, Verdict};

/// How a line should stand out; the caller decides what that looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// All is well.
    Good,
    /// Look at this.
    Warn,
    /// Harm.
    Bad,
}

/// One line: how far it is indented is in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How it stands out.
    pub tone: Tone,
    /// The text. It holds strings of the scanned file as they are: whoever prints it to a
    /// terminal has to escape control characters.
    pub text: String,
}

/// The lines of `report`: each file with its findings, then the verdict. Clean files are listed
/// only when `all`.
pub fn lines(report: &Report, all: bool) -> Vec<Line> {
    let mut out = Vec::new();
    for f in &report.files {
        if f.verdict == Verdict::Clean && f.findings.is_empty() && !all {
            continue;
        }
        push(
            &mut out,
            tone(f.verdict),
            format!("{}: {} ({})", f.path, f.verdict.as_str(), f.format),
        );
        for x in &f.findings {
            let t = match x.severity {
                Severity::Info => Tone::Plain,
                Severity::Suspicious => Tone::Warn,
                Severity::Malicious => Tone::Bad,
            };
            push(
                &mut out,
                t,
                format!("  {} {} {}", x.rule, x.severity.as_str(), x.message),
            );
            let mut at = x.place.clone();
            if let Some(offset) = x.offset {
                let sep = if at.is_empty() { "" } else { ", " };
                at = format!("{at}{sep}byte {offset}");
            }
            if !at.is_empty() {
                push(&mut out, Tone::Plain, format!("    at {at}"));
            }
            push(
                &mut out,
                Tone::Plain,
                format!("    evidence: {}", x.evidence),
            );
        }
        for g in &f.incomplete {
            let place = if g.place.is_empty() { "" } else { ": " };
            push(
                &mut out,
                Tone::Warn,
                format!("  not looked at: {}{place}{}", g.place, g.reason),
            );
        }
    }
    let verdict = report.verdict();
    let n = report.files.len();
    let files = if n == 1 { "file" } else { "files" };
    push(
        &mut out,
        tone(verdict),
        format!("verdict: {} ({n} {files})", verdict.as_str()),
    );
    out
}

fn push(out: &mut Vec<Line>, tone: Tone, text: String) {
    out.push(Line { tone, text });
}

fn tone(v: Verdict) -> Tone {
    match v {
        Verdict::Clean => Tone::Good,
        Verdict::Incomplete | Verdict::Malformed | Verdict::Suspicious => Tone::Warn,
        Verdict::Malicious => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{FileReport, Finding, Gap};

    fn report() -> Report {
        let file = |path: &str, verdict, findings, incomplete| FileReport {
            path: path.into(),
            format: "pytorch".into(),
            verdict,
            findings,
            incomplete,
        };
        Report {
            files: vec![
                file("good.pt", Verdict::Clean, vec![], vec![]),
                file(
                    "bad.pt",
                    Verdict::Malicious,
                    vec![Finding {
                        rule: "WB-PKL-001".into(),
                        severity: Severity::Malicious,
                        place: "data.pkl".into(),
                        offset: Some(9),
                        message: "calls os.system".into(),
                        evidence: "os.system('id')".into(),
                        reference: String::new(),
                    }],
                    vec![Gap {
                        place: "x.7z".into(),
                        offset: None,
                        reason: "no reader".into(),
                    }],
                ),
            ],
        }
    }

    #[test]
    fn clean_files_are_counted_but_listed_only_when_asked() {
        let text: Vec<String> = lines(&report(), false)
            .into_iter()
            .map(|l| l.text)
            .collect();
        assert_eq!(
            text,
            [
                "bad.pt: malicious (pytorch)",
                "  WB-PKL-001 malicious calls os.system",
                "    at data.pkl, byte 9",
                "    evidence: os.system('id')",
                "  not looked at: x.7z: no reader",
                "verdict: malicious (2 files)",
            ]
        );
        assert_eq!(lines(&report(), true)[0].text, "good.pt: clean (pytorch)");
        assert_eq!(lines(&report(), true)[0].tone, Tone::Good);
    }
}
