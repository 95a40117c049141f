//! Attributes: values of metadata as messages of an object header (HDF5 File Format
//! Specification 3.0, IV.A.2.m), with the types that h5py gives Python's values.

use weighbridge_core::model::{Element, NdArray, Value};

use super::heap::{GlobalHeap, Referrer};
use super::types::{MOST_RANK, Space, Type};

/// A message is at most this long; its length has two bytes and is a multiple of 8.
const MOST: usize = 65_528;

/// The longest array of fixed texts; Keras splits its lists there (`HDF5_OBJECT_HEADER_LIMIT`).
pub(super) const MOST_FIXED: usize = 64_512;

/// The body of a message, whose references are told their addresses later.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub bytes: Vec<u8>,
    pub referrers: Vec<Referrer>,
}

/// What an attribute says.
struct Content {
    kind: Type,
    shape: Option<Vec<u64>>,
    data: Vec<u8>,
    referrers: Vec<Referrer>,
}

impl Content {
    fn plain(kind: Type, shape: Vec<u64>, data: Vec<u8>) -> Self {
        Self {
            kind,
            shape: Some(shape),
            data,
            referrers: Vec::new(),
        }
    }
}

/// The message of the attribute `name`, or why there is none.
pub(super) fn encode(name: &str, value: &Value, heap: &mut GlobalHeap) -> Result<Body, String> {
    if name.contains('\0') || name.is_empty() {
        return Err("HDF5 has no attribute of this name".into());
    }
    let content = content(value, heap)?;
    let kind = content.kind.encode();
    let space = match &content.shape {
        Some(shape) => Space::Shape(shape).encode(),
        None => Space::Null.encode(),
    };
    let ascii = name.is_ascii();
    let mut bytes = Vec::new();
    let field = |n: usize| u16::try_from(n).map_err(|_| too_long());
    bytes.extend([if ascii { 1 } else { 3 }, 0]);
    bytes.extend(field(name.len() + 1)?.to_le_bytes());
    bytes.extend(field(kind.len())?.to_le_bytes());
    bytes.extend(field(space.len())?.to_le_bytes());
    if !ascii {
        // The name is UTF-8; nothing is padded in this version.
        bytes.push(1);
    }
    let mut name = name.as_bytes().to_vec();
    name.push(0);
    for part in [name, kind, space] {
        bytes.extend(part);
        if ascii {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
    }
    let start = bytes.len();
    bytes.extend(content.data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    if bytes.len() > MOST {
        return Err(too_long());
    }
    let mut referrers = content.referrers;
    for r in &mut referrers {
        r.at += start;
    }
    Ok(Body { bytes, referrers })
}

fn too_long() -> String {
    "an HDF5 attribute holds at most 64 KB".into()
}

fn content(value: &Value, heap: &mut GlobalHeap) -> Result<Content, String> {
    Ok(match value {
        Value::Str(s) => texts(&[s], Vec::new(), heap)?,
        Value::Null => Content {
            kind: Type::Float(4),
            shape: None,
            data: Vec::new(),
            referrers: Vec::new(),
        },
        Value::Bytes(b) | Value::ByteArray(b) => {
            let kind = match b.last() {
                Some(0) | None => Type::Opaque(width(b.len())?),
                Some(_) => Type::Fixed {
                    bytes: width(b.len())?,
                    utf8: false,
                },
            };
            let mut data = b.clone();
            data.resize(b.len().max(1), 0);
            Content::plain(kind, Vec::new(), data)
        }
        Value::List(items) | Value::Tuple(items) => list(items, heap)?,
        Value::Size(dims) => {
            let items: Vec<Value> = dims.iter().map(|&d| Value::Int(d)).collect();
            list(&items, heap)?
        }
        Value::NdArray(a) => array(a)?,
        Value::Packed(p) if p.element() == Element::Str => {
            let values = p.values(u64::MAX).map_err(|e| e.message().to_owned())?;
            list(&values, heap)?
        }
        Value::Packed(p) => {
            let kind = Type::of_element(p.element()).ok_or_else(no_place)?;
            if p.stored_bytes() > MOST as u64 {
                return Err(too_long());
            }
            let data = p.bytes().map_err(|e| e.message().to_owned())?.into_owned();
            Content::plain(kind, vec![p.len()], data)
        }
        scalar => {
            let (kind, data) = number(scalar)?;
            Content::plain(kind, Vec::new(), data)
        }
    })
}

fn no_place() -> String {
    "an HDF5 attribute holds texts, numbers, and arrays of them".into()
}

fn width(n: usize) -> Result<u32, String> {
    u32::try_from(n.max(1)).map_err(|_| too_long())
}

/// One number and its type.
fn number(value: &Value) -> Result<(Type, Vec<u8>), String> {
    let int = |bytes, signed| Type::Int { bytes, signed };
    Ok(match value {
        Value::Bool(b) => (Type::Bool, vec![u8::from(*b)]),
        Value::Int(i) => (int(8, true), i.to_le_bytes().to_vec()),
        Value::BigInt(digits) => match digits.parse::<u64>() {
            Ok(n) => (int(8, false), n.to_le_bytes().to_vec()),
            Err(_) => return Err("the number has more than 64 bits".into()),
        },
        Value::Float(f) => (Type::Float(8), f.to_le_bytes().to_vec()),
        Value::Number(n) => {
            let kind = Type::of_element(n.element()).ok_or_else(no_place)?;
            let mut data = Vec::new();
            n.put(&mut data);
            (kind, data)
        }
        Value::Complex(re, im) => {
            let mut data = re.to_le_bytes().to_vec();
            data.extend(im.to_le_bytes());
            (Type::Complex(8), data)
        }
        Value::NpScalar { dtype, raw, .. } => (numpy(dtype).ok_or_else(no_place)?, raw.clone()),
        _ => return Err(no_place()),
    })
}

/// The type that NumPy calls `name`.
fn numpy(name: &str) -> Option<Type> {
    let int = |bytes, signed| Some(Type::Int { bytes, signed });
    match name {
        "bool" => Some(Type::Bool),
        "uint8" => int(1, false),
        "uint16" => int(2, false),
        "uint32" => int(4, false),
        "uint64" => int(8, false),
        "int8" => int(1, true),
        "int16" => int(2, true),
        "int32" => int(4, true),
        "int64" => int(8, true),
        "float16" => Some(Type::Float(2)),
        "float32" => Some(Type::Float(4)),
        "float64" => Some(Type::Float(8)),
        "complex64" => Some(Type::Complex(4)),
        "complex128" => Some(Type::Complex(8)),
        _ => None,
    }
}

fn array(a: &NdArray) -> Result<Content, String> {
    let kind = numpy(&a.dtype).ok_or_else(no_place)?;
    if a.shape.len() > MOST_RANK || (a.data.is_empty() && !a.shape.contains(&0)) {
        return Err(no_place());
    }
    Ok(Content::plain(kind, a.shape.clone(), a.data.clone()))
}

/// Texts of fixed width where they fit, else in the heap.
fn texts(items: &[&String], shape: Vec<u64>, heap: &mut GlobalHeap) -> Result<Content, String> {
    if items.iter().any(|s| s.contains('\0')) {
        return Err("a text of an HDF5 attribute cannot hold the character NUL".into());
    }
    let widest = items.iter().map(|s| s.len()).max().unwrap_or(0).max(1);
    let fixed = widest.checked_mul(items.len());
    if !shape.is_empty() && fixed.is_some_and(|n| n <= MOST_FIXED) {
        let utf8 = items.iter().any(|s| !s.is_ascii());
        let mut data = Vec::new();
        for s in items {
            let end = data.len() + widest;
            data.extend_from_slice(s.as_bytes());
            data.resize(end, 0);
        }
        let bytes = width(widest)?;
        return Ok(Content::plain(Type::Fixed { bytes, utf8 }, shape, data));
    }
    if items.len() * 16 > MOST || items.iter().any(|s| u32::try_from(s.len()).is_err()) {
        return Err(too_long());
    }
    let (mut data, mut referrers) = (Vec::new(), Vec::new());
    for s in items {
        heap.refer(s.as_bytes(), &mut data, &mut referrers);
    }
    Ok(Content {
        kind: Type::Text,
        shape: Some(shape),
        data,
        referrers,
    })
}

/// A list, perhaps of lists of one length, of values of one kind.
fn list(items: &[Value], heap: &mut GlobalHeap) -> Result<Content, String> {
    let mut shape = Vec::new();
    let mut flat: Vec<&Value> = items.iter().collect();
    shape.push(flat.len() as u64);
    while let Some(Value::List(first) | Value::Tuple(first)) = flat.first() {
        let width = first.len();
        let mut inner = Vec::new();
        for v in &flat {
            match v {
                Value::List(l) | Value::Tuple(l) if l.len() == width => inner.extend(l),
                _ => return Err("the lists in it have several lengths".into()),
            }
        }
        shape.push(width as u64);
        flat = inner;
        if shape.len() > MOST_RANK {
            return Err(no_place());
        }
    }
    if flat.is_empty() {
        // As NumPy, and with it Keras, has empty lists.
        return Ok(Content::plain(Type::Float(8), shape, Vec::new()));
    }
    let strings: Vec<&String> = flat
        .iter()
        .filter_map(|v| match v {
            Value::Str(s) => Some(s),
            _ => None,
        })
        .collect();
    if strings.len() == flat.len() {
        return texts(&strings, shape, heap);
    }
    let mixed = flat.iter().any(|v| matches!(v, Value::Float(_)));
    let mut kind = None;
    let mut data = Vec::new();
    for v in flat {
        let (k, bytes) = match v {
            Value::Int(i) if mixed => number(&Value::Float(*i as f64))?,
            other => number(other)?,
        };
        if *kind.get_or_insert(k) != k {
            return Err("the values in it are of several types".into());
        }
        data.extend(bytes);
        if data.len() > MOST {
            return Err(too_long());
        }
    }
    Ok(Content::plain(kind.unwrap_or(Type::Float(8)), shape, data))
}
