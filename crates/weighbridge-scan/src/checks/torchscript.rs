//! `WB-TSC-…`: the operators that TorchScript code calls.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde::Deserialize;
use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::rule::parse;
use crate::subject::{Script, Subject};

/// The data file, and its lists as they are compiled in.
const DATA: (&str, &str) = (
    "torchscript.toml",
    include_str!(concat!(env!("OUT_DIR"), "/torchscript.json")),
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    namespaces: HashSet<String>,
    dangerous: HashSet<String>,
}

fn lists() -> Result<&'static Lists> {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    if let Some(l) = LISTS.get() {
        return Ok(l);
    }
    let parsed = parse(DATA)?;
    Ok(LISTS.get_or_init(|| parsed))
}

/// Judges every operator that the code of a TorchScript archive names.
#[derive(Debug)]
pub struct TorchScript;

impl Check for TorchScript {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-TSC-001", "WB-TSC-002"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        if subject.scripts.is_empty() {
            return Ok(());
        }
        let lists = lists()?;
        for s in &subject.scripts {
            for (at, chain) in chains(&s.text) {
                judge(lists, s, at, chain, out)?;
            }
        }
        Ok(())
    }
}

fn judge(lists: &Lists, s: &Script, at: usize, chain: &str, out: &mut Findings) -> Result<()> {
    let mut steps = chain.split('.');
    let (namespace, name) = match (steps.next(), steps.next(), steps.next()) {
        (Some("torch"), Some("ops"), Some(ns)) => (ns, steps.next()),
        (Some("torch"), name, None) => ("aten", name),
        (Some("ops"), Some(ns), name) => (ns, name),
        _ => return Ok(()),
    };
    let operator = format!("{namespace}.{}", name.unwrap_or_default());
    let (rule, what) = if lists.dangerous.contains(&operator) {
        ("WB-TSC-001", "which reads or writes files")
    } else if !lists.namespaces.contains(namespace) {
        ("WB-TSC-002", "an operator of another library")
    } else {
        return Ok(());
    };
    let offset = s.base.map(|b| b.saturating_add(at as u64));
    let message = format!("calls {chain}, {what}");
    out.add(rule, &s.place, offset, message, line_at(&s.text, at))
}

/// Most bytes shown before and after a call in its line.
const AROUND: usize = 200;

/// The line around `at`, as far as [`AROUND`] reaches: a whole program can be one line of calls,
/// which would be gone through once for each.
fn line_at(text: &str, at: usize) -> &str {
    let whole = |n: &usize| text.is_char_boundary(*n);
    let start = (at.saturating_sub(AROUND)..=at).find(whole).unwrap_or(at);
    let end = at.saturating_add(AROUND).min(text.len());
    let end = (end..=text.len()).find(whole).unwrap_or(at);
    let before = text.get(start..at).unwrap_or_default();
    let after = text.get(at..end).unwrap_or_default();
    let start = before.rfind('\n').map_or(start, |n| start + n + 1);
    let end = after.find('\n').map_or(end, |n| at + n);
    text.get(start..end).unwrap_or_default().trim()
}

/// The dotted names of Python source, with their positions, outside strings and comments.
fn chains(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(&b) = bytes.get(at) {
            match b {
                b'#' => at += memchr_or_end(bytes, at, b'\n'),
                b'"' | b'\'' => at = after_string(bytes, at, b),
                b if is_word(b) => {
                    let start = at;
                    while bytes.get(at).is_some_and(|&b| is_word(b) || b == b'.') {
                        at += 1;
                    }
                    return text.get(start..at).map(|t| (start, t));
                }
                // A name after a point, a bracket or a call continues a value, no namespace.
                b'.' => {
                    at += 1;
                    while bytes.get(at).is_some_and(|&b| is_word(b) || b == b'.') {
                        at += 1;
                    }
                }
                _ => at += 1,
            }
        }
        None
    })
}

fn memchr_or_end(bytes: &[u8], at: usize, needle: u8) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|&b| b == needle).unwrap_or(rest.len())
}

fn after_string(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while let Some(&b) = bytes.get(at) {
        at += 1;
        match b {
            b'\\' => at += 1,
            // A string that is never closed must not hide the lines after it.
            b'\n' => return at,
            b if b == quote => return at,
            _ => {}
        }
    }
    at
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;

    fn scan(code: &str) -> Vec<(String, Option<u64>, String)> {
        let source = SliceSource::new(Vec::new(), "m.pt");
        let mut subject = Subject::new("m.pt", &source);
        subject.scripts.push(Script {
            place: "m/code/__torch__.py".into(),
            base: Some(1000),
            text: code.into(),
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        TorchScript.run(&subject, &mut out).unwrap();
        out.into_sorted()
            .0
            .into_iter()
            .map(|f| (f.rule, f.offset, f.evidence))
            .collect()
    }

    #[test]
    fn ordinary_code_gives_nothing() {
        let code = "class M(Module):\n  def forward(self, x):\n    _0 = torch.conv1d(x, self.torch.save)\n    \
                    ops.prim.RaiseException(\"torch.from_file\")  # ops.evil.x\n    \
                    return ops.torchvision.nms(_0, annotate(List[int], []))\n";
        assert_eq!(scan(code), []);
    }

    #[test]
    fn the_evidence_is_the_line_around_the_call() {
        let shown = |code: &str| scan(code).swap_remove(0).2;
        assert_eq!(
            shown("a = 1\n  b = ops.evil.x(1)\nc = 2\n"),
            "b = ops.evil.x(1)"
        );
        // A program of one line is not shown whole for each of its calls.
        let filler = "ä".repeat(5000);
        let line = shown(&format!("\"{filler}\"; ops.evil.x(1); \"{filler}\""));
        assert!(
            line.contains("ops.evil.x(1)") && line.len() < 2 * AROUND + 9,
            "{line}"
        );
    }

    #[test]
    fn operators_that_reach_files_are_malicious() {
        for call in [
            "torch.from_file",
            "ops.aten.from_file",
            "torch.ops.aten.save",
            "ops.image.write_file",
        ] {
            let code = format!("def f():\n  x = {call}('/etc/passwd')\n");
            let at = 1000 + code.find(call).unwrap() as u64;
            let line = format!("x = {call}('/etc/passwd')");
            assert_eq!(scan(&code), [("WB-TSC-001".into(), Some(at), line)]);
        }
    }

    #[test]
    fn operators_of_other_libraries_are_suspicious() {
        assert_eq!(scan("ops.mylib.run(1)")[0].0, "WB-TSC-002");
    }

    #[test]
    fn an_unclosed_string_hides_nothing() {
        assert_eq!(scan("x = '\ny = torch.from_file('a')")[0].0, "WB-TSC-001");
    }
}
