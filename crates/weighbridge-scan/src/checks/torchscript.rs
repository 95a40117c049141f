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
    let offset = s.base.map(|b| b.saturating_add(at as u64));
    if lists.dangerous.contains(&operator) {
        let message = format!("calls {chain}, which reads or writes files");
        return out.add(
            "WB-TSC-001",
            &s.place,
            offset,
            message,
            line_at(&s.text, at),
        );
    }
    if !lists.namespaces.contains(namespace) {
        let message = format!("calls {chain}, an operator of another library");
        return out.add(
            "WB-TSC-002",
            &s.place,
            offset,
            message,
            line_at(&s.text, at),
        );
    }
    Ok(())
}

fn line_at(text: &str, at: usize) -> &str {
    let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    let end = after.find('\n').map_or(text.len(), |n| at + n);
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
