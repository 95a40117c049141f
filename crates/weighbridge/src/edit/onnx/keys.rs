//! Metadata: fields of the model and its graph under the names that the reader gives them, and
//! key-values (`metadata_props`).

use weighbridge_core::model::Element;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::super::{Change, Kind};
use crate::format::Note;
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw::Entry;
use crate::format::onnx::splice::{Edits, Piece};
use crate::format::onnx::walk::holder;
use crate::format::onnx::write::Original;

/// Longest name and key that is read, in bytes.
const MOST_NAME: usize = 1 << 16;

/// What the keys of the graph's own key-values begin with.
const GRAPH_PREFIX: &str = "onnx.graph.metadata.";

/// Keys that no edit changes, and why.
const REFUSED: [(&str, &str); 2] = [
    (
        "onnx.ir_version",
        "another version of the format means other rules for what the file has",
    ),
    (
        "onnx.opset_import",
        "another version of an operator set gives the operators another meaning",
    ),
];

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Name,
    Text,
    Number,
}

/// A field that has a key.
struct Slot {
    key: &'static str,
    of_graph: bool,
    number: u32,
    holds: Holds,
}

const fn slot(key: &'static str, of_graph: bool, number: u32, holds: Holds) -> Slot {
    Slot {
        key,
        of_graph,
        number,
        holds,
    }
}

/// Fields of `ModelProto` and `GraphProto`.
static SLOTS: [Slot; 7] = [
    slot("onnx.producer_name", false, 2, Holds::Name),
    slot("onnx.producer_version", false, 3, Holds::Name),
    slot("onnx.domain", false, 4, Holds::Name),
    slot("onnx.model_version", false, 5, Holds::Number),
    slot("onnx.doc_string", false, 6, Holds::Text),
    slot("onnx.graph.name", true, 2, Holds::Name),
    slot("onnx.graph.doc_string", true, 10, Holds::Text),
];

/// A field's value as text; where it is a number, in decimal.
#[derive(Debug, Clone, Default)]
struct Field {
    old: Option<String>,
    new: Option<String>,
}

/// A key-value.
struct Property {
    /// The entry, of those that the file has.
    span: Option<Span>,
    key: String,
    value: String,
    key_changed: bool,
    value_changed: bool,
    removed: bool,
}

/// Key-values of the model or of its graph.
struct Properties {
    all: Vec<Property>,
    number: u32,
}

/// What stands under a key.
enum Place {
    Field(usize),
    Property { of_graph: bool, key: String },
}

struct Job<'o> {
    original: &'o Original,
    fields: Vec<Field>,
    model: Properties,
    graph: Properties,
    notes: Vec<Note>,
}

/// Applies the changes of keys to `edits`, key-values renamed first, then removed, then set. Where
/// documentation is `stripped` it is gone before. Gives how many keys there are then.
///
/// # Errors
/// `Parameter` for keys that are missing, taken or not changed here, and for values that do not fit.
pub(super) fn apply(
    original: &Original,
    changes: &[Change],
    stripped: bool,
    edits: &mut Edits,
    notes: &mut Vec<Note>,
) -> Result<u64> {
    let mut job = Job::new(original, stripped)?;
    for c in changes {
        if let Change::RenameKey(from, to) = c {
            job.rename(from, to)?;
        }
    }
    for c in changes {
        if let Change::Unset(key) = c {
            job.unset(key)?;
        }
    }
    for c in changes {
        match c {
            Change::Set { key, kind, text } => job.set(key, *kind, text)?,
            Change::SetText { key, text } => job.set(key, Some(Kind::One(Element::Str)), text)?,
            _ => {}
        }
    }
    job.write(edits);
    notes.append(&mut job.notes);
    Ok(job.count())
}

fn refused(rule: &'static str, message: String) -> Error {
    Error::parameter(rule, message)
}

fn missing(key: &str) -> Error {
    refused("edit.no-such-key", format!("the file has no key {key}"))
        .help("`weighbridge inspect FILE` lists the keys")
}

fn place(key: &str) -> Result<Place> {
    for (name, why) in REFUSED {
        let within = key.strip_prefix(name).is_some_and(|r| r.starts_with('.'));
        if key == name || within {
            let e = refused("edit.reserved-key", format!("{key} is not edited: {why}"));
            return Err(e.help("the exporter, or onnx.version_converter, makes another version"));
        }
    }
    if let Some(i) = SLOTS.iter().position(|s| s.key == key) {
        return Ok(Place::Field(i));
    }
    let (of_graph, name) = match key.strip_prefix(GRAPH_PREFIX) {
        Some(name) => (true, name),
        None => (false, key),
    };
    if name.is_empty() || name.len() > MOST_NAME {
        let message = format!("a key is empty or longer than {MOST_NAME} bytes");
        return Err(refused("edit.key", message));
    }
    Ok(Place::Property {
        of_graph,
        key: name.to_owned(),
    })
}

impl Properties {
    fn new(entries: &[Entry], number: u32) -> Self {
        let one = |e: &Entry| Property {
            span: Some(e.span),
            key: e.key.text.clone(),
            value: e.value.text.clone(),
            key_changed: false,
            value_changed: false,
            removed: false,
        };
        Self {
            all: entries.iter().map(one).collect(),
            number,
        }
    }

    fn named(&mut self, key: &str) -> Vec<&mut Property> {
        let all = self.all.iter_mut();
        all.filter(|p| p.key == key && !p.removed).collect()
    }

    /// Puts the changes into `edits`; `spans` are the messages that the key-values lie in.
    fn write(&self, spans: &[Span], edits: &mut Edits) {
        let text = |number, s: &str| vec![Piece::Fields(Fields::new().bytes(number, s))];
        let mut last = None;
        for p in &self.all {
            let Some(span) = p.span else {
                continue;
            };
            let parent = holder(spans, span);
            last = Some((parent, span));
            if p.removed {
                edits.remove(parent, span);
                continue;
            }
            if p.key_changed {
                edits.set(span, 1, text(1, &p.key));
            }
            if p.value_changed {
                edits.set(span, 2, text(2, &p.value));
            }
        }
        let new = self.all.iter().filter(|p| p.span.is_none() && !p.removed);
        let entry =
            |p: &Property| Piece::Fields(Fields::new().entry(self.number, &p.key, &p.value));
        let new: Vec<Piece> = new.map(entry).collect();
        match (last, spans.last()) {
            _ if new.is_empty() => {}
            (Some((parent, span)), _) => edits.after(parent, span, new),
            (None, Some(parent)) => edits.append(*parent, new),
            (None, None) => {}
        }
    }
}

impl<'o> Job<'o> {
    fn new(original: &'o Original, stripped: bool) -> Result<Self> {
        let raw = &original.raw;
        let graph = raw.graph.as_ref();
        let text = |t: &Option<crate::format::onnx::raw::Text>| {
            t.as_ref().map(|t| t.text.clone()).filter(|t| !t.is_empty())
        };
        let doc = |span: Option<Span>| -> Result<Option<String>> {
            let Some(span) = span.filter(|s| !s.is_empty() && !stripped) else {
                return Ok(None);
            };
            let most = original.limits().text_bytes;
            let bytes = original
                .source
                .read_vec(span.start..span.end.min(span.start + most))?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        };
        let old = [
            text(&raw.producer_name),
            text(&raw.producer_version),
            text(&raw.domain),
            raw.model_version.map(|v| v.to_string()),
            doc(raw.doc_string)?,
            graph.and_then(|g| text(&g.name)),
            doc(graph.and_then(|g| g.doc_string))?,
        ];
        let field = |old: Option<String>| Field {
            new: old.clone(),
            old,
        };
        Ok(Self {
            original,
            fields: old.into_iter().map(field).collect(),
            model: Properties::new(&raw.metadata, 14),
            graph: Properties::new(graph.map_or(&[], |g| &g.metadata), 16),
            notes: Vec::new(),
        })
    }

    fn properties(&mut self, of_graph: bool) -> &mut Properties {
        match of_graph {
            true => &mut self.graph,
            false => &mut self.model,
        }
    }

    fn note(&mut self, key: &str, why: &str) {
        self.notes.push(Note::new(format!("metadata {key}"), why));
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let (
            Place::Property { of_graph, key },
            Place::Property {
                of_graph: there,
                key: new,
            },
        ) = (place(from)?, place(to)?)
        else {
            let message = format!("{from} and {to}: fields of the format keep their names");
            return Err(refused("edit.reserved-key", message));
        };
        if of_graph != there {
            let message = format!("{from} and {to} do not belong to one part of the model");
            return Err(refused("edit.key", message));
        }
        let all = self.properties(of_graph);
        if all.named(&key).is_empty() {
            return Err(missing(from));
        }
        if from == to {
            return Ok(());
        }
        if !all.named(&new).is_empty() {
            let e = refused("edit.key-taken", format!("there is a key {to} already"));
            return Err(e.help("remove it first, in a run of its own"));
        }
        for p in all.named(&key) {
            p.key.clone_from(&new);
            p.key_changed = true;
        }
        self.notes.push(Note {
            what: format!("metadata {from}"),
            why: format!("renamed to {to}"),
            naming: true,
        });
        Ok(())
    }

    fn unset(&mut self, key: &str) -> Result<()> {
        match place(key)? {
            Place::Field(i) => {
                let slot = SLOTS.get(i);
                if slot.is_some_and(|s| s.of_graph && s.holds == Holds::Name) {
                    return Err(nameless());
                }
                let found = self.fields.get_mut(i).filter(|f| f.new.is_some());
                found.ok_or_else(|| missing(key))?.new = None;
            }
            Place::Property {
                of_graph,
                key: name,
            } => {
                let all = self.properties(of_graph).named(&name);
                if all.is_empty() {
                    return Err(missing(key));
                }
                all.into_iter().for_each(|p| p.removed = true);
            }
        }
        self.note(key, "removed");
        Ok(())
    }

    fn set(&mut self, key: &str, kind: Option<Kind>, text: &str) -> Result<()> {
        match place(key)? {
            Place::Field(i) => self.set_field(i, key, kind, text),
            Place::Property {
                of_graph,
                key: name,
            } => {
                of_kind(key, kind, Element::Str, "a text")?;
                if of_graph && self.original.raw.graph.is_none() {
                    let message = "the model has no graph";
                    return Err(refused("edit.key", message.to_owned()));
                }
                self.set_property(of_graph, key, &name, text);
                Ok(())
            }
        }
    }

    fn set_field(&mut self, i: usize, key: &str, kind: Option<Kind>, text: &str) -> Result<()> {
        let (Some(slot), Some(field)) = (SLOTS.get(i), self.fields.get_mut(i)) else {
            return Ok(());
        };
        if slot.of_graph && self.original.raw.graph.is_none() {
            return Err(refused("edit.key", "the model has no graph".to_owned()));
        }
        let text = match slot.holds {
            Holds::Number => {
                of_kind(key, kind, Element::I64, "a whole number")?;
                let n = text.trim().parse::<i64>().map_err(|_| {
                    refused(
                        "edit.value",
                        format!("{key} is a whole number, not `{text}`"),
                    )
                })?;
                n.to_string()
            }
            _ => {
                of_kind(key, kind, Element::Str, "a text")?;
                text.to_owned()
            }
        };
        if slot.holds == Holds::Name && text.len() > MOST_NAME {
            let message = format!("{key} is longer than {MOST_NAME} bytes");
            return Err(refused("edit.value", message));
        }
        if slot.of_graph && slot.holds == Holds::Name && text.is_empty() {
            return Err(nameless());
        }
        if field.new.as_deref() == Some(text.as_str()) {
            return Ok(());
        }
        let why = match field.new {
            None => "added",
            Some(_) => "a new value",
        };
        field.new = Some(text);
        self.note(key, why);
        Ok(())
    }

    fn set_property(&mut self, of_graph: bool, key: &str, name: &str, text: &str) {
        let all = self.properties(of_graph);
        let mut same = all.named(name);
        let why = match same.pop() {
            Some(p) => {
                // Readers take the last of several: the others only confuse.
                let several = !same.is_empty();
                same.into_iter().for_each(|p| p.removed = true);
                if p.value == text && !several {
                    return;
                }
                p.value_changed |= p.value != text;
                text.clone_into(&mut p.value);
                "a new value"
            }
            None => {
                all.all.push(Property {
                    span: None,
                    key: name.to_owned(),
                    value: text.to_owned(),
                    key_changed: false,
                    value_changed: false,
                    removed: false,
                });
                "added"
            }
        };
        self.note(key, why);
    }

    fn write(&self, edits: &mut Edits) {
        let whole = [self.original.whole()];
        let graph = self.original.raw.graph.as_ref();
        let graph: &[Span] = graph.map_or(&[], |g| &g.spans);
        for (slot, field) in SLOTS.iter().zip(&self.fields) {
            if field.old == field.new {
                continue;
            }
            let spans: &[Span] = match slot.of_graph {
                true => graph,
                false => &whole,
            };
            let pieces = match (&field.new, slot.holds) {
                (None, _) => Vec::new(),
                (Some(text), Holds::Number) => {
                    let n = text.parse().unwrap_or_default();
                    vec![Piece::Fields(Fields::new().int(slot.number, n))]
                }
                (Some(text), _) => vec![Piece::Fields(Fields::new().bytes(slot.number, text))],
            };
            // Of a message in several parts the last one's field counts.
            for (i, span) in spans.iter().enumerate() {
                let last = i.saturating_add(1) == spans.len();
                let pieces = if last { pieces.clone() } else { Vec::new() };
                edits.set(*span, slot.number, pieces);
            }
        }
        self.model.write(&whole, edits);
        self.graph.write(graph, edits);
    }

    fn count(&self) -> u64 {
        let fields = self.fields.iter().filter(|f| f.new.is_some()).count();
        let of = |p: &Properties| p.all.iter().filter(|p| !p.removed).count();
        (fields + of(&self.model) + of(&self.graph)) as u64
    }
}

fn of_kind(key: &str, kind: Option<Kind>, right: Element, what: &str) -> Result<()> {
    match kind {
        None => Ok(()),
        Some(k) if k == Kind::One(right) => Ok(()),
        Some(k) => {
            let e = refused(
                "edit.type",
                format!("{key} is of type {k}, and ONNX holds {what}"),
            );
            Err(e.help("leave the type out: --set KEY=VALUE"))
        }
    }
}

fn nameless() -> Error {
    refused(
        "edit.reserved-key",
        "onnx.graph.name cannot be empty: a graph has to have a name".to_owned(),
    )
}
