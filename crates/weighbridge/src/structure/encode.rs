//! From the tree to tagged JSON.

use serde_json::{Map, Number, Value as Json, json};
use weighbridge_core::model::{Dict, NdArray, Number as Typed, Object, Packed, Value};

use super::{Form, ORDERED_DICT, SAFE_INT};

/// The tagged JSON of `value`.
///
/// Strings, booleans, null, finite floats and integers up to 2^53 are themselves; everything else
/// is an object whose first key is a tag beginning with `$`.
pub fn to_json(value: &Value, form: Form) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) if i.unsigned_abs() <= SAFE_INT => Json::from(*i),
        Value::Int(i) => json!({ "$int": i.to_string() }),
        Value::BigInt(digits) => json!({ "$int": digits }),
        Value::Float(f) => float(*f, form),
        Value::Number(n) => typed(*n, form),
        Value::Packed(a) => packed(a, form, || stored_bytes(a)),
        Value::Str(s) => Json::String(s.clone()),
        Value::Bytes(b) => json!({ "$bytes": hex::encode(b) }),
        Value::ByteArray(b) => json!({ "$bytearray": hex::encode(b) }),
        Value::List(items) => tagged("$list", list(items, form)),
        Value::Tuple(items) => tagged("$tuple", list(items, form)),
        Value::Set(items) => tagged("$set", list(items, form)),
        Value::FrozenSet(items) => tagged("$frozenset", list(items, form)),
        Value::Dict(d) => dict(d, form),
        Value::Complex(re, im) => tagged(
            "$complex",
            Json::Array(vec![float(*re, form), float(*im, form)]),
        ),
        Value::NdArray(a) => Json::Object(array(a, form, || Json::String(hex::encode(&a.data)))),
        Value::NpScalar { dtype, text, raw } => {
            let mut m = Map::new();
            m.insert("$npscalar".into(), dtype.as_str().into());
            m.insert("value".into(), text.as_str().into());
            if form == Form::Stored {
                m.insert("raw".into(), hex::encode(raw).into());
            }
            Json::Object(m)
        }
        Value::DType(name) => json!({ "$dtype": name }),
        Value::Device(name) => json!({ "$device": name }),
        Value::Size(dims) => {
            let dims = dims
                .iter()
                .map(|&d| to_json(&Value::Int(d), form))
                .collect();
            tagged("$torch.Size", Json::Array(dims))
        }
        Value::Tensor(name) => json!({ "$tensor": name }),
        Value::Ref(path) => json!({ "$ref": path }),
        Value::Global(name) => json!({ "$global": name }),
        Value::Object(o) => object(o, form),
        Value::Moved { value, tensor } => moved(value, tensor, form),
        // A kind of value this version of the tree's JSON has no tag for.
        other => json!({ "$global": format!("{other:?}") }),
    }
}

/// How many elements of an array of metadata are shown; vocabularies have hundreds of thousands.
const SHOWN: u64 = 64;

/// A number with its type, or, for people, the number alone.
fn typed(n: Typed, form: Form) -> Json {
    if form == Form::Inspect {
        return match (n.as_int(), n) {
            (Some(i), _) => match i64::try_from(i) {
                Ok(i) => to_json(&Value::Int(i), form),
                Err(_) => to_json(&Value::BigInt(i.to_string()), form),
            },
            // The shortest decimal of an F32, not that of the double it equals.
            (None, Typed::F32(x)) if x.is_finite() => {
                let short = n.to_string().parse().unwrap_or(f64::from(x));
                float(short, form)
            }
            _ => float(n.as_float().unwrap_or_default(), form),
        };
    }
    let mut m = Map::new();
    m.insert("$number".into(), n.element().as_str().into());
    m.insert("value".into(), n.to_string().into());
    if n.as_float().is_some_and(f64::is_nan) {
        let mut raw = Vec::new();
        n.put(&mut raw);
        m.insert("raw".into(), hex::encode(raw).into());
    }
    Json::Object(m)
}

fn stored_bytes(a: &Packed) -> Json {
    // An array that cannot be read any more has no data, which decoding refuses.
    a.bytes().map_or(Json::Null, |b| hex::encode(&b).into())
}

fn packed(a: &Packed, form: Form, data: impl FnOnce() -> Json) -> Json {
    let mut m = Map::new();
    m.insert("$array".into(), a.element().as_str().into());
    m.insert("len".into(), a.len().into());
    if form == Form::Stored {
        m.insert("data".into(), data());
        return Json::Object(m);
    }
    let values = a.values(SHOWN).unwrap_or_default();
    let shown = values.iter().map(|v| to_json(v, form)).collect();
    m.insert("values".into(), Json::Array(shown));
    if a.len() > SHOWN {
        m.insert("shown".into(), SHOWN.into());
    }
    Json::Object(m)
}

fn tagged(tag: &str, value: Json) -> Json {
    // Room for one entry, not for the four that an insertion makes: there are millions of these.
    let mut m = Map::with_capacity(1);
    m.insert(tag.to_owned(), value);
    Json::Object(m)
}

fn list(items: &[Value], form: Form) -> Json {
    Json::Array(items.iter().map(|v| to_json(v, form)).collect())
}

fn float(f: f64, form: Form) -> Json {
    if let Some(n) = Number::from_f64(f) {
        return Json::Number(n);
    }
    if f.is_nan() {
        let mut m = Map::new();
        m.insert("$float".into(), "nan".into());
        // A NaN with another sign or payload than Python's own keeps its bits.
        if form == Form::Stored && f.to_bits() != f64::NAN.to_bits() {
            m.insert("raw".into(), hex::encode(f.to_le_bytes()).into());
        }
        return Json::Object(m);
    }
    json!({ "$float": if f > 0.0 { "inf" } else { "-inf" } })
}

fn dict(d: &Dict, form: Form) -> Json {
    let pairs = d
        .entries
        .iter()
        .map(|(k, v)| Json::Array(vec![to_json(k, form), to_json(v, form)]))
        .collect();
    let mut m = Map::new();
    m.insert("$dict".into(), Json::Array(pairs));
    if let Some(class) = &d.class {
        m.insert("$type".into(), class.as_str().into());
    }
    let mut rest = Vec::new();
    for (name, value) in &d.attributes {
        let json = short_pairs(value, form).unwrap_or_else(|| to_json(value, form));
        // From the first name that could pass for a tag, so that the order stays.
        if !rest.is_empty() || name.starts_with('$') || m.contains_key(name) {
            rest.push(json!([name, to_json(value, form)]));
        } else {
            m.insert(name.clone(), json);
        }
    }
    if !rest.is_empty() {
        m.insert("$attributes".into(), Json::Array(rest));
    }
    Json::Object(m)
}

/// The short form of an attribute like `_metadata`: `[[key, {plain object}], …]`. In the stored
/// form only where decoding it gives the equal value.
fn short_pairs(value: &Value, form: Form) -> Option<Json> {
    let Value::Dict(d) = value else { return None };
    let class_fits = form == Form::Inspect || d.class.as_deref() == Some(ORDERED_DICT);
    if !class_fits || !d.attributes.is_empty() {
        return None;
    }
    let mut pairs = Vec::with_capacity(d.entries.len());
    for (k, v) in &d.entries {
        if !matches!(v, Value::Dict(_)) {
            return None;
        }
        pairs.push(json!([k.as_str()?, plain(v)?]));
    }
    Some(Json::Array(pairs))
}

/// Ordinary JSON, for values that ordinary JSON holds without loss.
fn plain(value: &Value) -> Option<Json> {
    match value {
        Value::Null | Value::Bool(_) | Value::Str(_) => Some(to_json(value, Form::Stored)),
        Value::Int(i) if i.unsigned_abs() <= SAFE_INT => Some(Json::from(*i)),
        Value::Float(f) if f.is_finite() => Some(float(*f, Form::Stored)),
        Value::List(items) => items
            .iter()
            .map(plain)
            .collect::<Option<Vec<_>>>()
            .map(Json::Array),
        Value::Dict(d) if d.class.is_none() && d.attributes.is_empty() => {
            let mut m = Map::new();
            for (k, v) in &d.entries {
                if m.insert(k.as_str()?.to_owned(), plain(v)?).is_some() {
                    return None;
                }
            }
            Some(Json::Object(m))
        }
        _ => None,
    }
}

fn array(a: &NdArray, form: Form, data: impl FnOnce() -> Json) -> Map<String, Json> {
    let mut m = Map::new();
    m.insert("$ndarray".into(), a.dtype.as_str().into());
    m.insert("shape".into(), a.shape.clone().into());
    m.insert("sha256".into(), a.sha256.as_str().into());
    if form == Form::Stored {
        m.insert("data".into(), data());
    }
    m
}

fn moved(value: &Value, tensor: &str, form: Form) -> Json {
    let place = json!({ "$tensor": tensor });
    match value {
        Value::NdArray(a) => Json::Object(array(a, form, || place)),
        Value::ByteArray(_) => tagged("$bytearray", place),
        Value::Packed(a) => packed(a, form, || place),
        _ => tagged("$bytes", place),
    }
}

fn object(o: &Object, form: Form) -> Json {
    let mut m = Map::new();
    m.insert("$object".into(), o.class.as_str().into());
    // Where the meaning is known it stands for the mechanics of how the object was pickled.
    let known = o.text.is_some() || o.state_dict.is_some();
    if form == Form::Stored || !known {
        if !o.args.is_empty() {
            m.insert("args".into(), list(&o.args, form));
        }
        if !o.kwargs.is_empty() {
            let pairs = o.kwargs.iter().map(|(k, v)| json!([k, to_json(v, form)]));
            m.insert("kwargs".into(), Json::Array(pairs.collect()));
        }
        for (key, part) in [("state", &o.state), ("items", &o.items)] {
            if let Some(v) = part {
                m.insert(key.into(), to_json(v, form));
            }
        }
    }
    if let Some(v) = &o.state_dict {
        m.insert("state_dict".into(), to_json(v, form));
    }
    if let Some(text) = &o.text {
        m.insert("str".into(), text.as_str().into());
    }
    Json::Object(m)
}
