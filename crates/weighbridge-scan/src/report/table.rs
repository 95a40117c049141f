//! The report for people, as lines of text.

use super::{Report, Totals};
use crate::finding::{By, FileReport, Finding, Origin, Severity, Verdict};

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
    let mut out: Vec<Line> = report.files.iter().flat_map(|f| file(f, all)).collect();
    out.extend(summary(&report.totals()));
    out
}

/// The lines of one file; none for a clean one without anything to say, unless `all`.
pub fn file(f: &FileReport, all: bool) -> Vec<Line> {
    let mut out = Vec::new();
    let silent = f.verdict == Verdict::Clean && f.findings.is_empty() && f.suppressed.is_empty();
    if silent && !all {
        return out;
    }
    let mut head = format!("{}: {} ({})", f.path, f.verdict.as_str(), f.format);
    if !f.suppressed.is_empty() {
        head.push_str(&format!(", {} suppressed", f.suppressed.len()));
    }
    push(&mut out, tone(f.verdict), head);
    for x in &f.findings {
        finding(&mut out, x);
    }
    for g in &f.incomplete {
        let place = if g.place.is_empty() { "" } else { ": " };
        push(
            &mut out,
            Tone::Warn,
            format!("  not looked at: {}{place}{}", g.place, g.reason),
        );
    }
    for s in &f.suppressed {
        let (rule, severity) = (&s.finding.rule, s.finding.severity.as_str());
        push(
            &mut out,
            Tone::Plain,
            format!(
                "  suppressed: {rule} {severity} {} ({})",
                s.finding.message,
                accepted(&s.by)
            ),
        );
    }
    out
}

fn finding(out: &mut Vec<Line>, x: &Finding) {
    let t = match x.severity {
        Severity::Info => Tone::Plain,
        Severity::Suspicious => Tone::Warn,
        Severity::Malicious => Tone::Bad,
    };
    let severity = x.severity.as_str();
    push(out, t, format!("  {} {severity} {}", x.rule, x.message));
    let mut at = x.place.clone();
    if let Some(offset) = x.offset {
        let sep = if at.is_empty() { "" } else { ", " };
        let of = match x.origin {
            Origin::File => "",
            Origin::Member => " of the unpacked member",
        };
        at = format!("{at}{sep}byte {offset}{of}");
    }
    if !at.is_empty() {
        push(out, Tone::Plain, format!("    at {at}"));
    }
    push(out, Tone::Plain, format!("    evidence: {}", x.evidence));
    if let Some(was) = &x.overridden {
        let severity = was.severity.as_str();
        let by = accepted(&was.by);
        push(
            out,
            Tone::Plain,
            format!("    {severity} by the rule ({by})"),
        );
    }
}

/// Who accepted or changed a finding, and why.
fn accepted(by: &By) -> String {
    match by {
        By::Policy {
            policy,
            entry,
            reason,
        } => format!("{policy}, {entry}: {reason}"),
        By::Baseline { baseline, reason } => format!("{baseline}: {reason}"),
    }
}

/// The last line: the verdict on everything.
pub fn summary(totals: &Totals) -> Vec<Line> {
    let files = plural(totals.files, "file");
    let mut text = format!("verdict: {} ({files}", totals.verdict.as_str());
    if totals.suppressed > 0 {
        let findings = plural(totals.suppressed, "finding");
        text.push_str(&format!(", {findings} suppressed"));
    }
    if totals.ignored > 0 {
        let files = plural(totals.ignored, "file");
        text.push_str(&format!(", {files} ignored"));
    }
    text.push(')');
    let mut out = Vec::new();
    push(&mut out, tone(totals.verdict), text);
    out
}

/// What a report of unclean files only still has to say: what nobody looked at is not clean.
pub fn brief_summary(totals: &Totals) -> Option<Line> {
    (totals.ignored > 0).then(|| Line {
        tone: Tone::Warn,
        text: format!("{} ignored", plural(totals.ignored, "file")),
    })
}

/// The file in one line, unless it is clean: for logs.
pub fn brief(f: &FileReport) -> Option<Line> {
    if f.verdict == Verdict::Clean {
        return None;
    }
    let mut text = format!("{}: {}", f.path, f.verdict.as_str());
    // Worst first, each rule once.
    let mut rules: Vec<&str> = Vec::new();
    for x in &f.findings {
        if !rules.contains(&x.rule.as_str()) {
            rules.push(&x.rule);
        }
    }
    if !rules.is_empty() {
        text.push_str(&format!(" {}", rules.join(" ")));
    }
    if let Some(first) = f.findings.first() {
        text.push_str(&format!(": {}", first.message));
    } else if let Some(gap) = f.incomplete.first() {
        text.push_str(&format!(": {}", gap.reason));
    }
    Some(Line {
        tone: tone(f.verdict),
        text,
    })
}

fn plural(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {one}{s}")
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
    use crate::finding::{Gap, Overridden, Suppressed};

    fn system() -> Finding {
        Finding {
            rule: "WB-PKL-001".into(),
            severity: Severity::Malicious,
            place: "data.pkl".into(),
            offset: Some(9),
            message: "calls os.system".into(),
            evidence: "os.system('id')".into(),
            reference: String::new(),
            origin: Origin::File,
            global: None,
            witness: None,
            overridden: None,
        }
    }

    fn by() -> By {
        By::Policy {
            reason: "ours".into(),
            policy: "p.toml".into(),
            entry: "rule 1".into(),
        }
    }

    fn report() -> Report {
        let good = FileReport {
            format: "pytorch".into(),
            verdict: Verdict::Clean,
            incomplete: Vec::new(),
            ..FileReport::unread("good.pt", "")
        };
        let bad = FileReport {
            path: "bad.pt".into(),
            verdict: Verdict::Malicious,
            findings: vec![system()],
            incomplete: vec![Gap {
                place: "x.7z".into(),
                offset: None,
                reason: "no reader".into(),
            }],
            ..good.clone()
        };
        Report {
            files: vec![good, bad],
        }
    }

    fn texts(lines: Vec<Line>) -> Vec<String> {
        lines.into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn clean_files_are_counted_but_listed_only_when_asked() {
        assert_eq!(
            texts(lines(&report(), false)),
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

    #[test]
    fn what_is_accepted_is_listed_and_counted() {
        let mut r = report();
        r.files[0].suppressed.push(Suppressed {
            finding: system(),
            by: by(),
        });
        let f = &mut r.files[1].findings[0];
        f.origin = Origin::Member;
        f.overridden = Some(Overridden {
            severity: Severity::Suspicious,
            by: by(),
        });
        r.files[1].incomplete.clear();
        assert_eq!(
            texts(lines(&r, false)),
            [
                "good.pt: clean (pytorch), 1 suppressed",
                "  suppressed: WB-PKL-001 malicious calls os.system (p.toml, rule 1: ours)",
                "bad.pt: malicious (pytorch)",
                "  WB-PKL-001 malicious calls os.system",
                "    at data.pkl, byte 9 of the unpacked member",
                "    evidence: os.system('id')",
                "    suspicious by the rule (p.toml, rule 1: ours)",
                "verdict: malicious (2 files, 1 finding suppressed)",
            ]
        );
    }

    #[test]
    fn in_brief_each_file_that_is_not_clean_is_one_line() {
        let mut r = report();
        assert_eq!(brief(&r.files[0]), None);
        let bad = &mut r.files[1];
        bad.findings.push(system());
        let text = brief(bad).unwrap().text;
        assert_eq!(text, "bad.pt: malicious WB-PKL-001: calls os.system");
        bad.findings.clear();
        bad.verdict = Verdict::Incomplete;
        assert_eq!(brief(bad).unwrap().text, "bad.pt: incomplete: no reader");
    }
}
