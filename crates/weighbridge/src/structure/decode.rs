//! From tagged JSON back to the tree. The JSON comes from a file's metadata: nothing in it is
//! trusted.

use serde_json::{Map, Value as Json};
use weighbridge_core::model::{Dict, Element, NdArray, Number, Object, Packed, Value};
use weighbridge_core::{Error, Limits, Result};

use super::ORDERED_DICT;

/// JSON levels one level of the tree takes (`$dict`'s object, its list, the pair), with room for
/// the scalars' own tags at the bottom.
const LEVELS: u64 = 3;

/// Parses tagged JSON text.
///
/// # Errors
/// `Malformed` with rule `structure.bad-json` for text that is no JSON, else as [`from_json`].
pub fn from_str(text: &str, limits: &Limits) -> Result<Value> {
    let cap = u64::from(limits.depth)
        .saturating_mul(LEVELS)
        .saturating_add(8);
    let (deepest, items) = extent(text);
    Limits::check(
        deepest,
        cap,
        "structure.too-deep",
        "nesting of the structure's JSON",
    )?;
    // Before the text becomes a tree, which takes far more memory.
    Limits::check(
        items,
        limits.values.saturating_mul(LEVELS),
        "structure.too-many-values",
        "structure",
    )?;
    let mut reader = serde_json::Deserializer::from_str(text);
    // The nesting was measured above, so the parser's own cap of 128 levels can go.
    reader.disable_recursion_limit();
    let bad = |e: String| {
        Error::malformed(
            "structure.bad-json",
            format!("the structure is no JSON: {e}"),
        )
    };
    let mut documents = reader.into_iter::<Json>();
    let json = match documents.next() {
        Some(json) => json.map_err(|e| bad(e.to_string()))?,
        None => return Err(bad("it is empty".into())),
    };
    if documents.next().is_some() {
        return Err(bad("something follows it".into()));
    }
    from_json(&json, limits)
}

/// How deep the brackets of a JSON text nest, and how many items they hold at most.
fn extent(text: &str) -> (u64, u64) {
    let mut items = 1u64;
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0u64, 0u64, false, false);
    for b in text.bytes() {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b',' => items += 1,
            b'[' | b'{' => {
                items += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (deepest, items)
}

/// The tree that `json` describes, as [`super::to_json`] wrote it in its stored form.
///
/// # Errors
/// `Malformed` for a tag this version does not know (`structure.unknown-tag`), an untagged list
/// or object (`structure.untagged`) or a tag with the wrong contents (`structure.bad-value`);
/// `Limit` past the limits on depth and number of values.
pub fn from_json(json: &Json, limits: &Limits) -> Result<Value> {
    Decoder { limits, values: 0 }.value(json, 0)
}

struct Decoder<'a> {
    limits: &'a Limits,
    values: u64,
}

fn bad(tag: &str, what: &str) -> Error {
    Error::malformed("structure.bad-value", format!("{tag}: {what}"))
}

impl Decoder<'_> {
    fn count(&mut self, depth: u32) -> Result<u32> {
        self.values += 1;
        Limits::check(
            self.values,
            self.limits.values,
            "structure.too-many-values",
            "structure",
        )?;
        if depth > self.limits.depth {
            return Err(Error::limit(
                "structure.too-deep",
                format!(
                    "the structure nests deeper than {} levels",
                    self.limits.depth
                ),
            ));
        }
        Ok(depth + 1)
    }

    fn value(&mut self, json: &Json, depth: u32) -> Result<Value> {
        let next = self.count(depth)?;
        match json {
            Json::Null => Ok(Value::Null),
            Json::Bool(b) => Ok(Value::Bool(*b)),
            Json::String(s) => Ok(Value::Str(s.clone())),
            Json::Number(n) => number(n),
            Json::Array(_) => Err(Error::malformed(
                "structure.untagged",
                "a list without a tag; lists are {\"$list\": […]}",
            )),
            Json::Object(m) => self.tagged(m, next),
        }
    }

    fn tagged(&mut self, m: &Map<String, Json>, depth: u32) -> Result<Value> {
        let Some((tag, body)) = m.iter().find(|(k, _)| is_main_tag(k)) else {
            let tag = m.keys().find(|k| k.starts_with('$'));
            return Err(match tag {
                Some(t) => Error::malformed(
                    "structure.unknown-tag",
                    format!("the tag {t:?} is not known to this version"),
                ),
                None => Error::malformed(
                    "structure.untagged",
                    "an object without a tag; mappings are {\"$dict\": [[key, value], …]}",
                ),
            });
        };
        match tag.as_str() {
            "$dict" => self.dict(m, body, depth),
            "$list" => self.items(tag, body, depth).map(Value::List),
            "$tuple" => self.items(tag, body, depth).map(Value::Tuple),
            "$set" => self.items(tag, body, depth).map(Value::Set),
            "$frozenset" => self.items(tag, body, depth).map(Value::FrozenSet),
            "$ndarray" => self.ndarray(m, body),
            "$number" => typed(m, body),
            "$array" => packed(m, body),
            "$npscalar" => Ok(Value::NpScalar {
                dtype: text(tag, body)?,
                text: text(tag, m.get("value").unwrap_or(&Json::Null))?,
                raw: m.get("raw").map_or(Ok(Vec::new()), |r| bytes(tag, r))?,
            }),
            "$object" => self.object(m, body, depth),
            _ => scalar(m, tag, body),
        }
    }

    fn items(&mut self, tag: &str, body: &Json, depth: u32) -> Result<Vec<Value>> {
        let items = body
            .as_array()
            .ok_or_else(|| bad(tag, "a list is expected"))?;
        items.iter().map(|v| self.value(v, depth)).collect()
    }

    fn dict(&mut self, m: &Map<String, Json>, body: &Json, depth: u32) -> Result<Value> {
        let pairs = body
            .as_array()
            .ok_or_else(|| bad("$dict", "a list of pairs is expected"))?;
        let mut d = Dict {
            class: m.get("$type").map(|t| text("$type", t)).transpose()?,
            ..Dict::default()
        };
        for pair in pairs {
            let Some([k, v]) = pair.as_array().map(Vec::as_slice) else {
                return Err(bad("$dict", "a pair of key and value is expected"));
            };
            d.entries
                .push((self.value(k, depth)?, self.value(v, depth)?));
        }
        for (name, json) in m {
            match name.as_str() {
                "$dict" | "$type" => {}
                "$attributes" => self.attributes(json, &mut d, depth)?,
                n if n.starts_with('$') => {
                    return Err(bad("$dict", &format!("{n} has no place here")));
                }
                _ => {
                    let value = match json {
                        Json::Array(pairs) => self.short_pairs(pairs, depth)?,
                        other => self.value(other, depth)?,
                    };
                    d.attributes.push((name.clone(), value));
                }
            }
        }
        Ok(Value::Dict(d))
    }

    fn attributes(&mut self, json: &Json, d: &mut Dict, depth: u32) -> Result<()> {
        let pairs = json
            .as_array()
            .ok_or_else(|| bad("$attributes", "a list of pairs is expected"))?;
        for pair in pairs {
            let Some([name, value]) = pair.as_array().map(Vec::as_slice) else {
                return Err(bad("$attributes", "a pair of name and value is expected"));
            };
            d.attributes
                .push((text("$attributes", name)?, self.value(value, depth)?));
        }
        Ok(())
    }

    /// The short form of `_metadata`: an `OrderedDict` of plain dicts.
    fn short_pairs(&mut self, pairs: &[Json], depth: u32) -> Result<Value> {
        let next = self.count(depth)?;
        let mut entries = Vec::with_capacity(pairs.len().min(1 << 16));
        for pair in pairs {
            match pair.as_array().map(Vec::as_slice) {
                Some([Json::String(k), v]) => {
                    entries.push((Value::Str(k.clone()), self.plain(v, next)?));
                }
                _ => return Err(bad("$dict", "an attribute's pair is no [name, object]")),
            }
        }
        Ok(Value::Dict(Dict {
            class: Some(ORDERED_DICT.to_owned()),
            entries,
            attributes: Vec::new(),
        }))
    }

    fn plain(&mut self, json: &Json, depth: u32) -> Result<Value> {
        let next = self.count(depth)?;
        match json {
            Json::Array(items) => items
                .iter()
                .map(|v| self.plain(v, next))
                .collect::<Result<_>>()
                .map(Value::List),
            Json::Object(m) => {
                let mut d = Dict::default();
                for (k, v) in m {
                    d.entries
                        .push((Value::Str(k.clone()), self.plain(v, next)?));
                }
                Ok(Value::Dict(d))
            }
            scalar => self.value(scalar, depth),
        }
    }

    fn ndarray(&mut self, m: &Map<String, Json>, body: &Json) -> Result<Value> {
        let dims = m.get("shape").and_then(Json::as_array);
        let shape = dims
            .and_then(|d| d.iter().map(Json::as_u64).collect::<Option<Vec<_>>>())
            .ok_or_else(|| bad("$ndarray", "the shape is no list of sizes"))?;
        let mut array = NdArray {
            dtype: text("$ndarray", body)?,
            shape,
            data: Vec::new(),
            sha256: text("$ndarray", m.get("sha256").unwrap_or(&Json::Null))?,
        };
        match m.get("data") {
            None => Err(bad(
                "$ndarray",
                "the data is missing: this is the form of inspect",
            )),
            Some(data) => match place(data) {
                Some(tensor) => Ok(Value::Moved {
                    value: Box::new(Value::NdArray(array)),
                    tensor,
                }),
                None => {
                    array.data = bytes("$ndarray", data)?;
                    Ok(Value::NdArray(array))
                }
            },
        }
    }

    fn object(&mut self, m: &Map<String, Json>, body: &Json, depth: u32) -> Result<Value> {
        let mut o = Object {
            class: text("$object", body)?,
            ..Object::default()
        };
        for (key, json) in m {
            match key.as_str() {
                "$object" => {}
                "args" => o.args = self.items("$object", json, depth)?,
                "kwargs" => {
                    let mut d = Dict::default();
                    self.attributes(json, &mut d, depth)?;
                    o.kwargs = d.attributes;
                }
                "state" => o.state = Some(self.value(json, depth)?),
                "items" => o.items = Some(self.value(json, depth)?),
                "state_dict" => o.state_dict = Some(self.value(json, depth)?),
                "str" => o.text = Some(text("$object", json)?),
                other => return Err(bad("$object", &format!("{other:?} has no place here"))),
            }
        }
        Ok(Value::Object(Box::new(o)))
    }
}

fn is_main_tag(key: &str) -> bool {
    matches!(
        key,
        "$dict"
            | "$list"
            | "$tuple"
            | "$set"
            | "$frozenset"
            | "$bytes"
            | "$bytearray"
            | "$int"
            | "$float"
            | "$complex"
            | "$ndarray"
            | "$number"
            | "$array"
            | "$npscalar"
            | "$dtype"
            | "$device"
            | "$torch.Size"
            | "$tensor"
            | "$ref"
            | "$global"
            | "$object"
    )
}

/// The tags without values inside.
fn scalar(m: &Map<String, Json>, tag: &str, body: &Json) -> Result<Value> {
    match tag {
        "$bytes" | "$bytearray" => {
            let empty = |b| match tag {
                "$bytes" => Value::Bytes(b),
                _ => Value::ByteArray(b),
            };
            match place(body) {
                Some(tensor) => Ok(Value::Moved {
                    value: Box::new(empty(Vec::new())),
                    tensor,
                }),
                None => bytes(tag, body).map(empty),
            }
        }
        "$int" => integer(&text(tag, body)?),
        "$float" => float(m, body),
        "$complex" => match body.as_array().map(Vec::as_slice) {
            Some([re, im]) => Ok(Value::Complex(component(re)?, component(im)?)),
            _ => Err(bad(tag, "two numbers are expected")),
        },
        "$dtype" => text(tag, body).map(Value::DType),
        "$device" => text(tag, body).map(Value::Device),
        "$torch.Size" => {
            let dims = body
                .as_array()
                .ok_or_else(|| bad(tag, "a list is expected"))?;
            let dims = dims.iter().map(|d| match d {
                Json::Object(m) => {
                    match integer(&text(tag, m.get("$int").unwrap_or(&Json::Null))?)? {
                        Value::Int(i) => Ok(i),
                        _ => Err(bad(tag, "a size does not fit 64 bits")),
                    }
                }
                other => other
                    .as_i64()
                    .ok_or_else(|| bad(tag, "a size is no integer")),
            });
            dims.collect::<Result<_>>().map(Value::Size)
        }
        "$tensor" => text(tag, body).map(Value::Tensor),
        "$ref" => text(tag, body).map(Value::Ref),
        _ => text(tag, body).map(Value::Global),
    }
}

/// A number with its type.
fn typed(m: &Map<String, Json>, body: &Json) -> Result<Value> {
    let element = element("$number", body)?;
    let text = text("$number", m.get("value").unwrap_or(&Json::Null))?;
    let n = match m.get("raw") {
        Some(raw) => {
            let raw = bytes("$number", raw)?;
            let push = |n: u64, b: &u8| (n << 8) | u64::from(*b);
            let bits = raw.iter().rev().take(8).fold(0, push);
            let fits = Some(raw.len()) == element.bytes();
            fits.then(|| Number::from_bits(element, bits)).flatten()
        }
        None => Number::parse(element, &text),
    };
    n.map(Value::Number)
        .ok_or_else(|| bad("$number", &format!("{text:?} is no {}", element.as_str())))
}

fn element(tag: &str, body: &Json) -> Result<Element> {
    let name = text(tag, body)?;
    Element::parse(&name).ok_or_else(|| bad(tag, &format!("there is no type {name:?}")))
}

/// An array of one type.
fn packed(m: &Map<String, Json>, body: &Json) -> Result<Value> {
    let element = element("$array", body)?;
    let len = m.get("len").and_then(Json::as_u64);
    let len = len.ok_or_else(|| bad("$array", "the length is missing"))?;
    let data = m.get("data").unwrap_or(&Json::Null);
    if let Some(tensor) = place(data) {
        let shell = Packed::from_bytes(element, len, Vec::new());
        return Ok(Value::Moved {
            value: Box::new(Value::Packed(shell)),
            tensor,
        });
    }
    let array = Packed::from_bytes(element, len, bytes("$array", data)?);
    array.check()?;
    Ok(Value::Packed(array))
}

/// The tensor named in place of bytes.
fn place(json: &Json) -> Option<String> {
    Some(json.as_object()?.get("$tensor")?.as_str()?.to_owned())
}

fn text(tag: &str, json: &Json) -> Result<String> {
    json.as_str()
        .map(str::to_owned)
        .ok_or_else(|| bad(tag, "a string is expected"))
}

fn bytes(tag: &str, json: &Json) -> Result<Vec<u8>> {
    hex::decode(json.as_str().unwrap_or("?"))
        .map_err(|_| bad(tag, "an even number of hexadecimal digits is expected"))
}

fn number(n: &serde_json::Number) -> Result<Value> {
    if let Some(i) = n.as_i64() {
        return Ok(Value::Int(i));
    }
    if n.is_u64() {
        return Ok(Value::BigInt(n.to_string()));
    }
    n.as_f64()
        .map(Value::Float)
        .ok_or_else(|| bad("number", "it fits no double"))
}

fn integer(digits: &str) -> Result<Value> {
    if let Ok(i) = digits.parse::<i64>()
        && i.to_string() == digits
    {
        return Ok(Value::Int(i));
    }
    let magnitude = digits.strip_prefix('-').unwrap_or(digits);
    let canonical = magnitude.bytes().all(|b| b.is_ascii_digit())
        && magnitude.bytes().next().is_some_and(|b| b != b'0');
    if !canonical {
        return Err(bad("$int", "decimal digits are expected"));
    }
    Ok(Value::BigInt(digits.to_owned()))
}

fn float(m: &Map<String, Json>, body: &Json) -> Result<Value> {
    match body.as_str() {
        Some("inf") => Ok(Value::Float(f64::INFINITY)),
        Some("-inf") => Ok(Value::Float(f64::NEG_INFINITY)),
        Some("nan") => match m.get("raw") {
            None => Ok(Value::Float(f64::NAN)),
            Some(raw) => <[u8; 8]>::try_from(bytes("$float", raw)?)
                .map(|b| Value::Float(f64::from_le_bytes(b)))
                .map_err(|_| bad("$float", "the raw bytes are not eight")),
        },
        _ => Err(bad("$float", "\"inf\", \"-inf\" or \"nan\" is expected")),
    }
}

fn component(json: &Json) -> Result<f64> {
    match json {
        Json::Number(n) => n
            .as_f64()
            .ok_or_else(|| bad("$complex", "it fits no double")),
        Json::Object(m) => match float(m, m.get("$float").unwrap_or(&Json::Null))? {
            Value::Float(f) => Ok(f),
            _ => Err(bad("$complex", "a number is expected")),
        },
        _ => Err(bad("$complex", "a number is expected")),
    }
}
