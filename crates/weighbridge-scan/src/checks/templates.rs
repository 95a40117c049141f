//! `WB-TPL-…`: chat templates and other Jinja, judged as syntax trees.
//!
//! A template is run by a small machine on unknown input: every branch is gone through, names
//! that are built from constants are worked out, and what the conversation or the clock decides
//! is followed into conditions. Nothing is rendered and nothing is called.

mod calls;
mod eval;
mod exec;
mod filters;
mod fold;
mod judge;
mod prose;
#[cfg(test)]
mod tests;
mod trigger;
mod value;

use std::collections::HashSet;
use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::{Error, Result};

pub use judge::Found;

use crate::engine::Check;
use crate::finding::Findings;
use crate::jinja::{self, SyntaxError, SyntaxFault, Tree};
use crate::rule::parse;
use crate::subject::{Subject, Template};

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "template.toml",
    include_str!(concat!(env!("OUT_DIR"), "/template.json")),
);

/// Longest template in use: the largest of some 900 that public repositories hold has 20 KB.
const LONG: usize = 48 << 10;

/// A run of one character that no layout needs.
const PADDED: usize = 1000;

/// How much of a long text is judged at once, and how much of it again with the next piece.
const PIECE: usize = 256 << 10;
const OVERLAP: usize = 8 << 10;

/// Most findings of a long text.
const MOST_OF_TEXT: usize = 100;

/// Longest evidence, in bytes.
const EVIDENCE: usize = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    decisive: HashSet<String>,
    internal: HashSet<String>,
    functions: HashSet<String>,
    modules: HashSet<String>,
    methods: HashSet<String>,
    secrets: HashSet<String>,
    content: HashSet<String>,
    secrecy: Vec<String>,
}

fn lists() -> Result<&'static Lists> {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    if let Some(l) = LISTS.get() {
        return Ok(l);
    }
    let parsed = parse(DATA)?;
    Ok(LISTS.get_or_init(|| parsed))
}

/// What a text is expected to be, by the place it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// A chat template: it must compile.
    Chat,
    /// Another template.
    Template,
    /// Any text, which may have braces for reasons of its own.
    Text,
}

impl Context {
    /// What `template` is expected to be, in the file `path`.
    fn of(template: &Template, path: &str) -> Self {
        let key = template.key.to_ascii_lowercase();
        if key.is_empty() {
            let name = if template.place.is_empty() {
                path
            } else {
                &template.place
            };
            let extension = name.rsplit('.').next().unwrap_or_default();
            return match extension.to_ascii_lowercase().as_str() {
                "jinja" => Self::Chat,
                "jinja2" | "j2" | "template" | "tpl" | "tmpl" => Self::Template,
                _ => Self::Text,
            };
        }
        // `chat_template`, `tokenizer.chat_template.rag`, `custom_chat_template`.
        if key.contains("chat_template") {
            Self::Chat
        } else if key.contains("template") || key.contains("jinja") {
            Self::Template
        } else {
            Self::Text
        }
    }
}

/// What was found in a template.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// In file order.
    pub findings: Vec<Found>,
    /// Why it does not compile.
    pub errors: Vec<SyntaxError>,
}

/// Judges `text`, which is expected to be what `context` says. Safe on any text.
///
/// # Errors
/// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out;
/// `Limit` when a template is longer than [`jinja::MOST_BYTES`]; any other text may be longer.
pub fn judge(text: &str, context: Context) -> Result<Judged> {
    let lists = lists()?;
    if text.len() > jinja::MOST_BYTES {
        if context == Context::Text {
            return Ok(in_pieces(lists, text));
        }
        let message = format!(
            "a template has {} bytes, more than the {} that are parsed",
            text.len(),
            jinja::MOST_BYTES
        );
        return Err(Error::limit("jinja.too-long", message));
    }
    Ok(whole(lists, text, context))
}

fn whole(lists: &'static Lists, text: &str, context: Context) -> Judged {
    let tree = jinja::parse(text);
    let mut machine = judge::Machine::new(text, &tree, context, lists);
    machine.run();
    if context != Context::Text {
        of_text(&mut machine, &tree);
    }
    let mut findings = machine.found;
    if context == Context::Text && !findings.iter().any(|f| f.decisive) {
        findings.clear();
    }
    findings.sort_by_key(|f| f.span.start);
    Judged {
        findings,
        errors: tree.errors,
    }
}

/// Judges a long text that is no template piece by piece. The pieces overlap, so that what is
/// written in one tag is seen as one.
fn in_pieces(lists: &'static Lists, text: &str) -> Judged {
    let mut out = Judged::default();
    let mut start = 0;
    while start < text.len() && out.findings.len() < MOST_OF_TEXT {
        let end = boundary(text, start.saturating_add(PIECE));
        let piece = text.get(start..end).unwrap_or_default();
        if jinja::looks_like_template(piece) {
            for mut f in whole(lists, piece, Context::Text).findings {
                f.span = f.span.start + start..f.span.end + start;
                if !out.findings.contains(&f) {
                    out.findings.push(f);
                }
            }
        }
        if end == text.len() {
            break;
        }
        start = boundary(text, end - OVERLAP);
    }
    out
}

/// The start of the character at `at`, or the end of the text.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// What the text shows without being run.
fn of_text(m: &mut judge::Machine<'_>, tree: &Tree) {
    let text = m.text;
    if text.len() > LONG {
        let message = format!("the template has {} bytes", text.len());
        m.report("WB-TPL-009", 0..text.len(), false, message);
    } else if let Some(at) = prose::padding(text, PADDED) {
        let message = "the template is filled up with one character";
        m.report("WB-TPL-009", at..at + 20, false, message);
    }
    if let Some((at, what)) = prose::invisible(text) {
        m.report(
            "WB-TPL-011",
            at..at,
            false,
            format!("the template holds {what}"),
        );
    }
    if let Some(at) = prose::active_markup(text) {
        let message = "the template emits markup that a page acts on";
        m.report("WB-TPL-010", at..at + 60, false, message);
    }
    let lower = text.to_ascii_lowercase();
    for phrase in &m.lists.secrecy {
        if let Some(at) = lower.find(phrase.as_str()) {
            let message = "tells the model to keep something from the person it talks to";
            m.report("WB-TPL-008", at..at + phrase.len(), false, message);
        }
    }
    for e in &tree.exprs {
        if let jinja::ExprKind::Str(s) = &e.kind
            && let Some((_, what)) = prose::invisible(s)
        {
            let message = format!("a string spells {what}");
            m.report("WB-TPL-011", e.span.clone(), false, message);
        }
    }
}

/// Judges every template of a file.
#[derive(Debug)]
pub struct Templates;

impl Check for Templates {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-TPL-001",
            "WB-TPL-002",
            "WB-TPL-003",
            "WB-TPL-004",
            "WB-TPL-005",
            "WB-TPL-006",
            "WB-TPL-007",
            "WB-TPL-008",
            "WB-TPL-009",
            "WB-TPL-010",
            "WB-TPL-011",
            "WB-TPL-012",
            "WB-TPL-013",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let mut first = None;
        for t in &subject.templates {
            let context = Context::of(t, &subject.path);
            let fault = match judge(&t.text, context) {
                Ok(judged) => add(t, context, &judged, out)?,
                Err(e) => Some(e),
            };
            first = first.or(fault);
        }
        first.map_or(Ok(()), Err)
    }
}

/// Reports what was found in `t`; gives the fault of a chat template that does not compile.
fn add(
    t: &Template,
    context: Context,
    judged: &Judged,
    out: &mut Findings,
) -> Result<Option<Error>> {
    let offset = |at: usize| t.base.map(|b| b.saturating_add(at as u64));
    let under = if t.key.is_empty() {
        String::new()
    } else {
        format!("{}: ", t.key)
    };
    for f in &judged.findings {
        let message = format!("{under}{}", f.message);
        let evidence = excerpt(&t.text, &f.span);
        out.add(f.rule, &t.place, offset(f.span.start), message, evidence)?;
    }
    let Some(e) = judged.errors.first().filter(|_| context != Context::Text) else {
        return Ok(None);
    };
    let message = format!("{under}{}", e.message);
    let evidence = excerpt(&t.text, &(e.at..e.at + 60));
    out.add(
        "WB-TPL-013",
        &t.place,
        offset(e.at),
        message.clone(),
        evidence,
    )?;
    // Templates of other programs have tags of their own.
    let foreign = judged
        .errors
        .iter()
        .any(|e| e.fault == SyntaxFault::UnknownTag);
    if context == Context::Chat && !(foreign && t.key.is_empty()) {
        let kind = match e.fault {
            SyntaxFault::Limit => Error::limit("jinja.too-deep", message),
            _ => Error::malformed("jinja.syntax", message),
        };
        let kind = match offset(e.at) {
            Some(at) => kind.at(at),
            None => kind,
        };
        return Ok(Some(if t.place.is_empty() {
            kind
        } else {
            kind.within(t.place.clone())
        }));
    }
    Ok(None)
}

/// The part of `text` that `span` says, cut to a readable length.
fn excerpt<'t>(text: &'t str, span: &std::ops::Range<usize>) -> &'t str {
    let start = boundary(text, span.start);
    let end = boundary(text, span.end.max(start).min(start + EVIDENCE));
    text.get(start..end).unwrap_or_default().trim()
}
