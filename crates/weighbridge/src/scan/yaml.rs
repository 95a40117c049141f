//! YAML: the tree of scalars and the tags that make loaders build objects.

use saphyr_parser::{Event, Parser, Span, Tag};
use serde_json::{Map, Value};
use weighbridge_core::{Error, Limits, Result};

/// A document's tree and its tags.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// One document, or a list of several.
    pub(super) value: Value,
    /// Tags that are none of YAML's own, in full, with their positions in bytes.
    pub(super) tags: Vec<(String, u64)>,
}

/// Most tags kept.
const MOST_TAGS: usize = 1000;

/// The prefix of YAML's own tags.
const CORE: &str = "tag:yaml.org,2002:";

/// A container that is being filled.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Parses `text`. Aliases become `null`: what they stand for is in the tree where its anchor is,
/// and writing it out again is how small files become gigabytes.
///
/// # Errors
/// `Malformed` with rule `yaml.syntax`, `Limit` when there is too much of it.
pub(super) fn parse(text: &str, limits: &Limits) -> Result<Document> {
    let mut out = Document::default();
    let mut open: Vec<Open> = Vec::new();
    let mut documents = Vec::new();
    let mut values = 0u64;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| Error::malformed("yaml.syntax", e.to_string()).at(at(e.marker())))?;
        values += 1;
        Limits::check(values, limits.values, "yaml.too-many-values", "YAML nodes")?;
        let done = match event {
            Event::Scalar(text, _, _, tag) => {
                note(&mut out, tag.as_deref(), span);
                Some(Value::String(text.into_owned()))
            }
            Event::Alias(_) => Some(Value::Null),
            Event::SequenceStart(_, tag) => {
                note(&mut out, tag.as_deref(), span);
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(_, tag) => {
                note(&mut out, tag.as_deref(), span);
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|o| match o {
                Open::List(l) => Value::Array(l),
                Open::Map(m, _) => Value::Object(m),
            }),
            _ => None,
        };
        if open.len() > limits.depth as usize {
            return Err(Error::limit(
                "yaml.depth",
                "nodes lie in each other too deep",
            ));
        }
        if let Some(v) = done {
            match open.last_mut() {
                Some(o) => put(o, v),
                None => documents.push(v),
            }
        }
    }
    out.value = match documents.len() {
        1 => documents.pop().unwrap_or_default(),
        _ => Value::Array(documents),
    };
    Ok(out)
}

fn at(marker: &saphyr_parser::Marker) -> u64 {
    marker.index() as u64
}

fn put(open: &mut Open, v: Value) {
    match open {
        Open::List(l) => l.push(v),
        Open::Map(m, key) => match key.take() {
            Some(k) => {
                m.insert(k, v);
            }
            // A key that is a container itself keeps its text.
            None => {
                *key = Some(match v {
                    Value::String(s) => s,
                    other => other.to_string(),
                });
            }
        },
    }
}

fn note(out: &mut Document, tag: Option<&Tag>, span: Span) {
    let Some(tag) = tag else { return };
    let full = format!("{}{}", tag.handle, tag.suffix);
    let own = full
        .strip_prefix(CORE)
        .is_some_and(|rest| !rest.contains('/') && !rest.contains(':'));
    if !own && out.tags.len() < MOST_TAGS {
        out.tags.push((full, at(&span.start)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trees_and_tags() {
        let d = parse(
            "a: &x {b: [1, 'two']}\nc: *x\nd: !!python/object/apply:os.system ['id']\ne: !!str 1\nf: !mine 2\n",
            &Limits::default(),
        )
        .unwrap();
        assert_eq!(
            d.value,
            json!({"a": {"b": ["1", "two"]}, "c": null, "d": ["id"], "e": "1", "f": "2"})
        );
        let tags: Vec<&str> = d.tags.iter().map(|t| t.0.as_str()).collect();
        assert_eq!(
            tags,
            ["tag:yaml.org,2002:python/object/apply:os.system", "!mine"]
        );
        assert!(parse("a: [", &Limits::default()).is_err());
        assert!(parse(&"[".repeat(100_000), &Limits::default()).is_err());
        assert_eq!(
            parse("--- 1\n--- 2\n", &Limits::default()).unwrap().value,
            json!(["1", "2"])
        );
    }
}
