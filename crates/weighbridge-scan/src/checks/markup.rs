//! `WB-YML-…` and `WB-XML-…`: declarations by which YAML and XML readers build and open things.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::{Findings, Global};
use crate::globals::{Catalogue, Standing};
use crate::subject::{Subject, TextOrigin, Use};

/// Judges tags and document types.
#[derive(Debug)]
pub struct Markup;

/// How PyYAML's own tags for Python objects begin (lib/yaml/constructor.py).
const PYTHON: &str = "tag:yaml.org,2002:python/";

/// Kinds of tags that only spell plain values.
const VALUES: [&str; 11] = [
    "none", "bool", "str", "unicode", "bytes", "int", "long", "float", "complex", "list", "dict",
];

impl Check for Markup {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-YML-001", "WB-YML-002", "WB-XML-001"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let catalogue = out.catalogue()?;
        for c in &subject.configs {
            for (tag, at) in &c.tags {
                if let Some((rule, message)) = judge(catalogue, tag) {
                    let global = named(tag).and_then(|(m, n, how)| Global::of(m, n, how));
                    out.add_global(rule, &c.place, Some(*at), global, message, tag.as_str())?;
                }
            }
        }
        let doctypes = subject
            .texts
            .iter()
            .filter(|t| t.origin == TextOrigin::Config && t.key == "doctype");
        for t in doctypes {
            let text = String::from_utf8_lossy(&t.bytes);
            let external = ["SYSTEM", "PUBLIC"].iter().any(|w| text.contains(w));
            let entities = text.matches("<!ENTITY").count();
            if entities > 0 && (external || entities > 1 || text.contains('%')) {
                let message = "the document type declares entities that open or multiply things";
                out.add("WB-XML-001", &t.place, t.base, message, text.trim())?;
            }
        }
        Ok(())
    }
}

/// The global that a tag makes PyYAML look up, as module and name, and what is done with it.
pub(super) fn named(tag: &str) -> Option<(&str, &str, Use)> {
    if let Some(found) = hyper(tag) {
        return Some(found);
    }
    let kind = tag
        .strip_prefix(PYTHON)
        .or_else(|| tag.strip_prefix("!!python/"))?;
    let (kind, name) = kind.split_once(':').unwrap_or((kind, ""));
    if VALUES.contains(&kind) || kind == "tuple" {
        return None;
    }
    let how = match kind {
        "object/apply" => Use::Call,
        "object/new" | "object" => Use::Construct,
        _ => Use::Import,
    };
    let (module, object) = name.rsplit_once('.').unwrap_or(("builtins", name));
    Some((module, object, how))
}

/// The same for the tags of HyperPyYAML (`hyperpyyaml/core.py`), by which recipes of SpeechBrain
/// are built.
fn hyper(tag: &str) -> Option<(&str, &str, Use)> {
    let (kind, name) = tag.strip_prefix('!')?.split_once(':')?;
    let how = match kind {
        "apply" => Use::Call,
        "new" => Use::Construct,
        "name" | "module" => Use::Import,
        _ => return None,
    };
    let (module, object) = name.rsplit_once('.')?;
    Some((module, object, how))
}

/// Recipes build the classes of any library; what no recipe needs is what reaches the system.
fn judge_hyper(catalogue: &Catalogue, tag: &str) -> Option<(&'static str, String)> {
    let (module, object, how) = hyper(tag)?;
    let name = format!("{module}.{object}");
    let Standing::Dangerous { why, .. } = catalogue.judge(module, object, how) else {
        return None;
    };
    if catalogue.is_installed(&name) {
        return None;
    }
    Some(match how {
        Use::Call | Use::Construct => ("WB-YML-001", format!("calls {name}, which can {why}")),
        _ => ("WB-YML-002", format!("imports {name}, which can {why}")),
    })
}

fn judge(catalogue: &Catalogue, tag: &str) -> Option<(&'static str, String)> {
    if hyper(tag).is_some() {
        return judge_hyper(catalogue, tag);
    }
    let (module, object, how) = named(tag)?;
    let name = tag.split_once("python/").map_or(tag, |(_, kind)| kind);
    let name = name.split_once(':').map_or("", |(_, name)| name);
    Some(match (catalogue.judge(module, object, how), how) {
        (Standing::Allowed, _) => return None,
        (Standing::Dangerous { why, .. }, Use::Call | Use::Construct) => {
            ("WB-YML-001", format!("calls {name}, which can {why}"))
        }
        (Standing::Stdlib, Use::Call | Use::Construct) | (Standing::Installed, Use::Call) => (
            "WB-YML-001",
            format!("calls {name}, which no profile allows"),
        ),
        (_, Use::Call | Use::Construct) => ("WB-YML-002", format!("builds {name}")),
        _ => ("WB-YML-002", format!("imports {name}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_judged_like_a_pickles_globals() {
        let c = Catalogue::builtin().unwrap();
        let rule = |tag: &str| judge(c, &format!("{PYTHON}{tag}")).map(|(r, _)| r);
        assert_eq!(rule("object/apply:os.system"), Some("WB-YML-001"));
        assert_eq!(rule("object/new:subprocess.Popen"), Some("WB-YML-001"));
        assert_eq!(rule("object/apply:eval"), Some("WB-YML-001"));
        assert_eq!(rule("object:my.Config"), Some("WB-YML-002"));
        assert_eq!(rule("name:os.system"), Some("WB-YML-002"));
        assert_eq!(rule("object/apply:collections.OrderedDict"), None);
        assert_eq!(rule("tuple"), None);
        assert_eq!(rule("str"), None);
        assert!(judge(c, "!reference").is_none());
        let hyper = |tag: &str| judge(c, tag).map(|(r, _)| r);
        assert_eq!(hyper("!apply:os.system"), Some("WB-YML-001"));
        assert_eq!(hyper("!new:subprocess.Popen"), Some("WB-YML-001"));
        assert_eq!(hyper("!name:os.system"), Some("WB-YML-002"));
        for honest in [
            "!new:torch.nn.Linear",
            "!new:speechbrain.nnet.CNN",
            "!ref:x",
        ] {
            assert_eq!(hyper(honest), None, "{honest}");
        }
    }
}
