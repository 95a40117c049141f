//! The object graph that checkpoints of TensorFlow 2 carry: which object each tensor is of, and
//! what its variable was called (`trackable_object_graph.proto`).

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{Model, Value as Meta};
use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::protobuf::{Message, Reader, Span, Value};
use weighbridge_core::{Error, Limits, Result};

use crate::format::tensorflow::proto::NAME;

/// The key of the tensor that holds it.
pub(super) const KEY: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

/// What keys of variables end in.
const VALUE: &str = "/.ATTRIBUTES/VARIABLE_VALUE";

/// What is said of the tensor of one key.
#[derive(Debug, Default, Clone)]
struct Named {
    node: u64,
    attribute: String,
    full_name: String,
}

/// A variable that an optimizer keeps for another.
#[derive(Debug, Clone)]
struct Slot {
    name: String,
    of: u64,
}

#[derive(Debug, Default)]
struct Objects {
    by_key: HashMap<String, Named>,
    slots: HashMap<u64, Slot>,
}

/// Labels the tensors of `model` by the object graph among them.
///
/// # Errors
/// What reading it gives.
pub(super) fn label(model: &mut Model, limits: &Limits) -> Result<()> {
    let Some(graph) = model.tensor(KEY).filter(|t| t.dtype.is_text()) else {
        return Ok(());
    };
    Limits::check(
        graph.byte_len(),
        limits.text_bytes,
        "tensorflow.object-graph",
        "bytes of the object graph",
    )?;
    let mut bytes = graph.read_vec()?;
    // One text, with its length in front.
    if graph.numel() != Some(1) || bytes.len() < 8 {
        let message = "the object graph is no single text";
        return Err(Error::malformed("tensorflow.object-graph", message));
    }
    let source = SliceSource::new(bytes.split_off(8), KEY);
    let objects = read(&source, limits)?;
    apply(model, &objects);
    Ok(())
}

fn read(source: &SliceSource, limits: &Limits) -> Result<Objects> {
    let mut out = Objects::default();
    let mut reader = Reader::new(source, limits.values);
    let mut message = Message::new(Span::of(source));
    let mut node = 0;
    while let Some(f) = reader.next(&mut message)? {
        if let (1, Value::Bytes(object)) = (f.number, f.value) {
            let mut inner = Message::new(object);
            while let Some(f) = reader.next(&mut inner)? {
                match (f.number, f.value) {
                    (2, Value::Bytes(s)) => attribute(&mut reader, s, node, &mut out)?,
                    (3, Value::Bytes(s)) => slot(&mut reader, s, &mut out)?,
                    _ => {}
                }
            }
            node += 1;
        }
    }
    Ok(out)
}

/// A `SerializedTensor`.
fn attribute(reader: &mut Reader<'_>, span: Span, node: u64, out: &mut Objects) -> Result<()> {
    let mut named = Named {
        node,
        ..Named::default()
    };
    let mut key = String::new();
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        let Value::Bytes(s) = f.value else { continue };
        match f.number {
            1 => named.attribute = reader.text(s, NAME)?,
            2 => named.full_name = reader.text(s, NAME)?,
            3 => key = reader.text(s, NAME)?,
            _ => {}
        }
    }
    out.by_key.entry(key).or_insert(named);
    Ok(())
}

/// A `SlotVariableReference`.
fn slot(reader: &mut Reader<'_>, span: Span, out: &mut Objects) -> Result<()> {
    let (mut of, mut name, mut node) = (0, String::new(), 0);
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Varint(n)) => of = n,
            (2, Value::Bytes(s)) => name = reader.text(s, NAME)?,
            (3, Value::Varint(n)) => node = n,
            _ => {}
        }
    }
    out.slots.entry(node).or_insert(Slot { name, of });
    Ok(())
}

/// The label is the variable's own name where those of all tensors differ, which is what its
/// framework shows, else the path of the object, which is unique.
fn apply(model: &mut Model, objects: &Objects) {
    let mut seen = HashSet::new();
    let unique = model.tensors.iter().all(|t| {
        let full = objects.by_key.get(&t.name).map(|n| n.full_name.as_str());
        full.is_none_or(|f| t.name == KEY || !f.is_empty() && seen.insert(f))
    });
    let path = |key: &str| key.strip_suffix(VALUE).unwrap_or(key).to_owned();
    let mut labels: HashMap<u64, String> = HashMap::new();
    for (key, n) in &objects.by_key {
        let label = if unique {
            n.full_name.clone()
        } else {
            path(key)
        };
        labels.entry(n.node).or_insert(label);
    }
    for t in model.tensors.iter_mut().filter(|t| t.name != KEY) {
        let Some(named) = objects.by_key.get(&t.name) else {
            continue;
        };
        let path = path(&t.name);
        let label = if unique { &named.full_name } else { &path };
        if *label != t.name {
            t.extra_mut().label = Some(label.clone());
        }
        let mut say = |key: &str, value: &str| {
            let value = Meta::Str(value.to_owned());
            t.extra_mut().attributes.push((key.to_owned(), value));
        };
        if !unique && !named.full_name.is_empty() {
            say("full_name", &named.full_name);
        }
        if named.attribute != "VARIABLE_VALUE" && !named.attribute.is_empty() {
            say("attribute", &named.attribute);
        }
        if let Some(slot) = objects.slots.get(&named.node) {
            say("slot", &slot.name);
            if let Some(of) = labels.get(&slot.of) {
                say("slot_of", of);
            }
        }
    }
}
