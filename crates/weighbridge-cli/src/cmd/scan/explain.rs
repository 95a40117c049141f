//! `scan --explain` and `scan --list-rules`.

use weighbridge::Result;
use weighbridge_scan::report::json::{Explanation, RulesDocument};
use weighbridge_scan::{Rules, Severity};

use crate::exit::Exit;
use crate::output::Output;
use crate::style::Tone;

/// Columns of text.
const WIDTH: usize = 90;

/// Everything there is to say of one rule.
pub(super) fn one(id: &str, out: &mut Output) -> Result<Exit> {
    let rule = Rules::builtin()?.get(id)?;
    if out.json {
        out.document(&Explanation::new(rule))?;
        return Ok(Exit::Done);
    }
    let style = out.style;
    out.line(format_args!(
        "{} {} ({})",
        style.paint(Tone::Head, rule.id),
        rule.title,
        style.paint(tone(rule.severity), rule.severity.as_str())
    ))?;
    out.line("")?;
    paragraph(rule.why, out)?;
    out.line("")?;
    out.line(style.paint(Tone::Head, "What to do"))?;
    paragraph(rule.advice, out)?;
    if let Some(example) = rule.example {
        out.line("")?;
        out.line(style.paint(Tone::Head, "Evidence of a finding"))?;
        for line in example.lines() {
            out.line(format_args!("  {}", crate::text::safe(line)))?;
        }
    }
    out.line("")?;
    out.line(style.paint(Tone::Head, "See"))?;
    for (name, link) in rule.links() {
        if name == link {
            out.line(format_args!("  {link}"))?;
        } else {
            out.line(format_args!("  {name} {link}"))?;
        }
    }
    out.line(format_args!("  {}", rule.page()))?;
    Ok(Exit::Done)
}

/// All rules, a line each.
pub(super) fn all(out: &mut Output) -> Result<Exit> {
    let rules = Rules::builtin()?;
    if out.json {
        out.document(&RulesDocument::new(rules))?;
        return Ok(Exit::Done);
    }
    let style = out.style;
    for rule in rules.iter() {
        out.line(format_args!(
            "{}  {}  {}",
            style.paint(Tone::Head, rule.id),
            style.paint(
                tone(rule.severity),
                format_args!("{:<10}", rule.severity.as_str())
            ),
            rule.title
        ))?;
    }
    out.line("")?;
    out.line("weighbridge scan --explain RULE says more of one.")?;
    Ok(Exit::Done)
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Info => Tone::Plain,
        Severity::Suspicious => Tone::Warn,
        Severity::Malicious => Tone::Bad,
    }
}

/// Text broken into lines, between words.
fn paragraph(text: &str, out: &mut Output) -> Result<()> {
    let mut line = String::from(" ");
    for word in text.split_whitespace() {
        if line.len() > 2 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.line(&line)?;
            line = String::from(" ");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.line(&line)
}
