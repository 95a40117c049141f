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

/// How many tensors the object graph in `bytes` names.
///
/// # Errors
/// What reading it gives.
pub fn objects_in(bytes: &[u8], limits: &Limits) -> Result<usize> {
    let source = SliceSource::new(bytes, KEY);
    read(&source, limits).map(|o| o.by_key.len())
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

/// The label is the variable's own name where that is a path of its own, which is what its
/// framework shows (`sequential/first/kernel`), else the path of the object, which always is one:
/// names such as `kernel` are those of many.
fn apply(model: &mut Model, objects: &Objects) {
    let mut count: HashMap<&str, u32> = HashMap::new();
    for t in &model.tensors {
        if let Some(n) = objects.by_key.get(&t.name) {
            *count.entry(n.full_name.as_str()).or_default() += 1;
        }
    }
    let path = |key: &str| key.strip_suffix(VALUE).unwrap_or(key).to_owned();
    let mut taken = HashSet::new();
    let mut by_key: HashMap<&str, String> = HashMap::new();
    let mut by_node: HashMap<u64, &str> = HashMap::new();
    for t in model.tensors.iter().filter(|t| t.name != KEY) {
        let Some(n) = objects.by_key.get(&t.name) else {
            continue;
        };
        let full = n.full_name.as_str();
        let own = count.get(full) == Some(&1) && full.contains('/');
        let label = match own && !taken.contains(full) {
            true => full.to_owned(),
            false => path(&t.name),
        };
        if taken.insert(label.clone()) {
            by_key.insert(t.name.as_str(), label);
        }
    }
    for (key, n) in &objects.by_key {
        let label = by_key.get(key.as_str());
        let label = label.map_or(n.full_name.as_str(), String::as_str);
        by_node.entry(n.node).or_insert(label);
    }
    let mut said = Vec::new();
    for (i, t) in model
        .tensors
        .iter()
        .enumerate()
        .filter(|(_, t)| t.name != KEY)
    {
        if let Some(named) = objects.by_key.get(&t.name) {
            let label = by_key.get(t.name.as_str()).filter(|l| **l != t.name);
            let slot = objects.slots.get(&named.node);
            let of = slot.and_then(|s| by_node.get(&s.of)).copied();
            said.push((i, label.cloned(), describe(named, label, slot, of)));
        }
    }
    for (i, label, attributes) in said {
        let Some(t) = model.tensors.get_mut(i) else {
            continue;
        };
        if label.is_some() || !attributes.is_empty() {
            let extra = t.extra_mut();
            extra.label = label;
            extra.attributes.extend(attributes);
        }
    }
}

/// What else the graph says of a tensor.
fn describe(
    named: &Named,
    label: Option<&String>,
    slot: Option<&Slot>,
    of: Option<&str>,
) -> Vec<(String, Meta)> {
    let full = named.full_name.as_str();
    let full = Some(full).filter(|f| !f.is_empty() && label.is_none_or(|l| l != f));
    let attribute = named.attribute.as_str();
    let attribute = Some(attribute).filter(|a| !a.is_empty() && *a != "VARIABLE_VALUE");
    let all = [
        ("full_name", full),
        ("attribute", attribute),
        ("slot", slot.map(|s| s.name.as_str())),
        ("slot_of", of),
    ];
    let said = all.into_iter().filter_map(|(k, v)| Some((k, v?)));
    said.map(|(k, v)| (k.to_owned(), Meta::Str(v.to_owned())))
        .collect()
}
