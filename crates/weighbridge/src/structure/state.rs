//! Structure in files that hold only tensors and strings: which metadata keys carry it, and how
//! long byte strings and arrays become tensors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use weighbridge_core::model::{
    DType, Dict, Model, Packed, Storage, StorageData, Tensor, TensorSource, Value, View, Warning,
};
use weighbridge_core::source::SliceSource;
use weighbridge_core::{Error, Limits, Result};

use super::{Form, from_str, to_json};

/// The metadata key that holds the tree in its stored form.
pub const STRUCTURE_KEY: &str = "weighbridge.structure";

/// The metadata key that holds what a dtype and a shape do not say of tensors, such as
/// `requires_grad`: a JSON object of objects, by tensor name.
pub const TENSORS_KEY: &str = "weighbridge.tensors";

/// The metadata key that holds typed key-values (those of GGUF) as a mapping in the stored form.
pub const METADATA_KEY: &str = "weighbridge.metadata";

/// Byte strings and arrays longer than this become tensors of their own.
pub const BULK_BYTES: usize = 4096;

/// The prefix of the names of such tensors.
pub const BULK_PREFIX: &str = "__state__";

/// Attributes of tensors that are worth keeping; the others describe the file they came from.
const KEPT_ATTRIBUTES: [&str; 3] = ["requires_grad", "class", "state"];

/// Decodes the structure and the tensors' attributes from the metadata of `model`, where it has
/// them, and takes their keys out of the metadata. What cannot be decoded stays in the metadata
/// as the text it is, with a warning: the tensors are still good.
pub fn restore(model: &mut Model, limits: &Limits) {
    let mut kept = Vec::with_capacity(model.metadata.len());
    for (key, value) in std::mem::take(&mut model.metadata) {
        let done = match (key.as_str(), &value) {
            (STRUCTURE_KEY, Value::Str(text)) => {
                from_str(text, limits).map(|s| model.structure = Some(s))
            }
            (TENSORS_KEY, Value::Str(text)) => apply_attributes(model, text, limits),
            (METADATA_KEY, Value::Str(text)) => {
                typed_metadata(model, text, limits).map(|typed| kept.extend(typed))
            }
            _ => {
                kept.push((key, value));
                continue;
            }
        };
        if let Err(e) = done {
            let message = format!("the metadata key {key} is kept as text: {}", e.message());
            model.warnings.push(Warning::new(e.rule(), message));
            kept.push((key, value));
        }
    }
    model.metadata = kept;
}

fn apply_attributes(model: &mut Model, text: &str, limits: &Limits) -> Result<()> {
    let bad = || {
        Error::malformed(
            "structure.bad-value",
            "tensors: an object of objects is expected",
        )
    };
    let json: Json = serde_json::from_str(text).map_err(|_| bad())?;
    let mut found = Vec::new();
    for (name, attributes) in json.as_object().ok_or_else(bad)? {
        let mut list = Vec::new();
        for (key, value) in attributes.as_object().ok_or_else(bad)? {
            list.push((key.clone(), super::from_json(value, limits)?));
        }
        found.push((name, list));
    }
    let by_name: HashMap<String, usize> = names(model);
    for (name, list) in found {
        // A tensor that somebody removed from the file needs no attributes.
        let tensor = by_name.get(name).and_then(|&i| model.tensors.get_mut(i));
        if let Some(t) = tensor {
            t.extra_mut().attributes.extend(list);
        }
    }
    Ok(())
}

/// The typed key-values that `text` records; the tensors that hold their long arrays leave the
/// model's.
fn typed_metadata(model: &mut Model, text: &str, limits: &Limits) -> Result<Vec<(String, Value)>> {
    let Value::Dict(all) = from_str(text, limits)? else {
        let message = "metadata: a mapping is expected";
        return Err(Error::malformed("structure.bad-value", message));
    };
    let by_name = names(model);
    let (mut out, mut used) = (Vec::new(), HashSet::new());
    for (key, value) in all.entries {
        let Value::Str(key) = key else {
            let message = "metadata: a key is no text";
            return Err(Error::malformed("structure.bad-value", message));
        };
        let value = match value {
            Value::Moved { value, tensor } => {
                let t = by_name.get(&tensor).and_then(|&i| model.tensors.get(i));
                let whole = bulk_bytes(&value, t)?;
                used.insert(tensor);
                whole
            }
            other => other,
        };
        out.push((key, value));
    }
    model.tensors.retain(|t| !used.contains(&t.name));
    Ok(out)
}

/// Makes one record, and tensors for its long arrays, of key-values that are more than text, so
/// that a format of text values carries them.
pub fn record_metadata(model: &mut Model) {
    let typed = |v: &Value| matches!(v, Value::Number(_) | Value::Packed(_));
    if !model.metadata.iter().any(|(_, v)| typed(v)) {
        return;
    }
    let own = |k: &str| k.starts_with("weighbridge.");
    let (kept, moved) = std::mem::take(&mut model.metadata)
        .into_iter()
        .partition(|(k, _)| own(k));
    model.metadata = kept;
    let moved: Vec<(String, Value)> = moved;
    let entries = moved.into_iter().map(|(k, v)| (Value::Str(k), v)).collect();
    let mut record = Value::Dict(Dict {
        entries,
        ..Dict::default()
    });
    let mut taken: HashSet<String> = model.tensors.iter().map(|t| t.name.clone()).collect();
    let mut path = format!("{BULK_PREFIX}.metadata");
    let mut tensors = Vec::new();
    walk(&mut record, &mut path, &mut taken, &mut tensors);
    model.tensors.extend(tensors);
    let text = to_json(&record, Form::Stored).to_string();
    model
        .metadata
        .push((METADATA_KEY.to_owned(), Value::Str(text)));
}

fn names(model: &Model) -> HashMap<String, usize> {
    let it = model.tensors.iter().enumerate();
    it.map(|(i, t)| (t.name.clone(), i)).collect()
}

/// The metadata entries that carry the structure and the tensors' attributes of `model`.
pub fn metadata_entries(model: &Model) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if let Some(s) = &model.structure
        && !is_flat(s, model)
    {
        let json = to_json(s, Form::Stored).to_string();
        out.push((STRUCTURE_KEY.to_owned(), json));
    }
    if let Some(json) = tensor_attributes(model) {
        out.push((TENSORS_KEY.to_owned(), json.to_string()));
    }
    out
}

/// Whether `structure` is what a file without a structure gives: a plain dict of all tensors
/// under their own names. (Python's dicts compare without regard to order.)
pub(crate) fn is_flat(structure: &Value, model: &Model) -> bool {
    let Value::Dict(d) = structure else {
        return false;
    };
    d.class.is_none()
        && d.attributes.is_empty()
        && d.entries.len() == model.tensors.len()
        && d.entries
            .iter()
            .all(|(k, v)| matches!((k, v), (Value::Str(k), Value::Tensor(t)) if k == t))
}

/// The contents of [`TENSORS_KEY`]: attributes that differ from a plain tensor's.
pub fn tensor_attributes(model: &Model) -> Option<Json> {
    let mut all = Map::new();
    for t in &model.tensors {
        let Some(extra) = &t.extra else { continue };
        let mut own = Map::new();
        for (key, value) in &extra.attributes {
            if KEPT_ATTRIBUTES.contains(&key.as_str()) && *value != Value::Bool(false) {
                own.insert(key.clone(), to_json(value, Form::Stored));
            }
        }
        if !own.is_empty() {
            all.insert(t.name.clone(), Json::Object(own));
        }
    }
    (!all.is_empty()).then_some(Json::Object(all))
}

/// Moves every byte string and array over [`BULK_BYTES`] out of `structure` into tensors called
/// `__state__.<path>`, which are returned; names in `taken` are avoided by `#2`, `#3`, ….
pub fn move_bulk(structure: &mut Value, taken: &mut HashSet<String>) -> Vec<Tensor> {
    let mut out = Vec::new();
    walk(structure, &mut String::from(BULK_PREFIX), taken, &mut out);
    out
}

fn walk(v: &mut Value, path: &mut String, taken: &mut HashSet<String>, out: &mut Vec<Tensor>) {
    if let Some((tensor, shell)) = bulk(v, path, taken) {
        *v = Value::Moved {
            value: Box::new(shell),
            tensor: tensor.name.clone(),
        };
        out.push(tensor);
        return;
    }
    let mut step = |name: &str, v: &mut Value| {
        let len = path.len();
        path.push('.');
        path.push_str(name);
        walk(v, path, taken, out);
        path.truncate(len);
    };
    match v {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                step(&i.to_string(), item);
            }
        }
        Value::Dict(d) => {
            for (i, (k, v)) in d.entries.iter_mut().enumerate() {
                step(&step_name(k).unwrap_or_else(|| i.to_string()), v);
            }
            for (name, v) in &mut d.attributes {
                step(name, v);
            }
        }
        Value::Object(o) => {
            for (i, v) in o.args.iter_mut().enumerate() {
                step(&format!("args.{i}"), v);
            }
            for (name, v) in &mut o.kwargs {
                step(name, v);
            }
            let parts = [
                ("state", &mut o.state),
                ("items", &mut o.items),
                ("state_dict", &mut o.state_dict),
            ];
            for (name, part) in parts {
                if let Some(v) = part {
                    step(name, v);
                }
            }
        }
        _ => {}
    }
}

/// What a mapping's key adds to a path: strings as they are, integers in decimal.
pub(crate) fn step_name(key: &Value) -> Option<String> {
    match key {
        Value::Str(s) => Some(s.clone()),
        Value::Int(i) => Some(i.to_string()),
        Value::BigInt(s) => Some(s.clone()),
        Value::Bool(b) => Some(if *b { "True" } else { "False" }.to_owned()),
        Value::Null => Some("None".to_owned()),
        Value::Float(f) => Some(format!("{f:?}")),
        Value::Tuple(items) => {
            let parts: Option<Vec<String>> = items.iter().map(step_name).collect();
            Some(format!("({})", parts?.join(", ")))
        }
        _ => None,
    }
}

/// Names of the tensors that hold moved bytes of `v`.
pub(crate) fn bulk_names(v: &Value, out: &mut HashSet<String>) {
    match v {
        Value::Moved { tensor, .. } => {
            out.insert(tensor.clone());
        }
        other => each_child(other, &mut |_, child| bulk_names(child, out)),
    }
}

/// Calls `f` with every value inside `v` and what it adds to the path.
pub(crate) fn each_child<'v>(v: &'v Value, f: &mut dyn FnMut(String, &'v Value)) {
    match v {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            for (i, v) in items.iter().enumerate() {
                f(i.to_string(), v);
            }
        }
        Value::Dict(d) => {
            for (i, (k, v)) in d.entries.iter().enumerate() {
                f(step_name(k).unwrap_or_else(|| i.to_string()), v);
            }
            for (name, v) in &d.attributes {
                f(name.clone(), v);
            }
        }
        Value::Object(o) => {
            for (i, v) in o.args.iter().enumerate() {
                f(format!("args.{i}"), v);
            }
            for (name, v) in &o.kwargs {
                f(name.clone(), v);
            }
            let parts = [
                ("state", &o.state),
                ("items", &o.items),
                ("state_dict", &o.state_dict),
            ];
            for (name, part) in parts {
                if let Some(v) = part {
                    f(name.to_owned(), v);
                }
            }
        }
        _ => {}
    }
}

/// The tensor for a long value and the shell that stays, or `None` for any other value.
fn bulk(v: &mut Value, path: &str, taken: &mut HashSet<String>) -> Option<(Tensor, Value)> {
    let (dtype, shape, data, shell) = match v {
        Value::Bytes(b) if b.len() > BULK_BYTES => {
            let b = std::mem::take(b);
            (DType::U8, vec![b.len() as u64], b, Value::Bytes(Vec::new()))
        }
        Value::ByteArray(b) if b.len() > BULK_BYTES => {
            let b = std::mem::take(b);
            let shape = vec![b.len() as u64];
            (DType::U8, shape, b, Value::ByteArray(Vec::new()))
        }
        Value::Packed(a) if a.stored_bytes() > BULK_BYTES as u64 => {
            let data = a.bytes().ok()?.into_owned();
            let shell = Packed::from_bytes(a.element(), a.len(), Vec::new());
            let shape = vec![data.len() as u64];
            (DType::U8, shape, data, Value::Packed(shell))
        }
        Value::NdArray(a) if a.data.len() > BULK_BYTES => {
            let data = std::mem::take(&mut a.data);
            let typed = numpy_dtype(&a.dtype)
                .filter(|d| d.size_of(&a.shape) == Some(data.len() as u64))
                .map(|d| (d, a.shape.clone()));
            let (dtype, shape) = typed.unwrap_or((DType::U8, vec![data.len() as u64]));
            (dtype, shape, data, Value::NdArray(a.clone()))
        }
        _ => return None,
    };
    let name = free_name(path, taken);
    let len = data.len() as u64;
    let raw = StorageData::Raw {
        source: Arc::new(SliceSource::new(data, name.clone())),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new(name.clone(), len, false, raw).ok()?);
    let view = TensorSource::View(View { storage, offset: 0 });
    Some((Tensor::new(name, dtype, &shape, view), shell))
}

/// `name`, or the first of `name#2`, `name#3`, … that is not taken.
pub(crate) fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let mut free = name.to_owned();
    let mut n = 2u64;
    while !taken.insert(free.clone()) {
        free = format!("{name}#{n}");
        n += 1;
    }
    free
}

/// NumPy's dtypes that safetensors holds as they are.
fn numpy_dtype(name: &str) -> Option<DType> {
    Some(match name {
        "bool" => DType::Bool,
        "uint8" => DType::U8,
        "int8" => DType::I8,
        "uint16" => DType::U16,
        "int16" => DType::I16,
        "uint32" => DType::U32,
        "int32" => DType::I32,
        "uint64" => DType::U64,
        "int64" => DType::I64,
        "float16" => DType::F16,
        "float32" => DType::F32,
        "float64" => DType::F64,
        "complex64" => DType::C64,
        _ => return None,
    })
}

/// The bytes of a [`Value::Moved`] put back: the value whole again.
///
/// # Errors
/// `Malformed` when the tensor is missing (`structure.missing-tensor`) or its bytes are not the
/// recorded ones (`structure.digest-mismatch`, kind `Integrity`), and what reading gives.
pub fn bulk_bytes(value: &Value, tensor: Option<&Tensor>) -> Result<Value> {
    use sha2::Digest;
    let t = tensor.ok_or_else(|| {
        Error::malformed(
            "structure.missing-tensor",
            "the tensor with the bytes is not in the file",
        )
    })?;
    let data = t.read_vec()?;
    match value {
        Value::ByteArray(_) => Ok(Value::ByteArray(data)),
        Value::Packed(a) => {
            let whole = Packed::from_bytes(a.element(), a.len(), data);
            whole.check()?;
            Ok(Value::Packed(whole))
        }
        Value::NdArray(a) => {
            let digest = hex::encode(sha2::Sha256::digest(&data));
            if digest != a.sha256 {
                return Err(Error::integrity(
                    "structure.digest-mismatch",
                    format!(
                        "the array's SHA-256 is {}, its bytes give {digest}",
                        a.sha256
                    ),
                )
                .within(t.name.as_str()));
            }
            let mut a = a.clone();
            a.data = data;
            Ok(Value::NdArray(a))
        }
        _ => Ok(Value::Bytes(data)),
    }
}
