//! Attributes as values of the metadata tree.

use weighbridge_core::model::{Dict, Element, Packed, Value};
use weighbridge_core::wire::hdf5::{Attribute, Class, Datatype, File, Padding};
use weighbridge_core::{Error, Limits, Result};

use weighbridge_kernels::scalar::f16_to_f32;

use super::types::{Form, lower};

/// Numbers of longer arrays stay packed.
const LISTED: usize = 1024;

/// Deepest nesting of values within one element.
const DEEPEST: u32 = 8;

/// Turns attributes into values, within the limit of how many.
#[derive(Debug)]
pub(super) struct Values<'f> {
    file: &'f File,
    count: u64,
}

impl<'f> Values<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self { file, count: 0 }
    }

    /// The value of an attribute.
    ///
    /// # Errors
    /// What the heap gives; `Limit` for too many values.
    pub(super) fn of(&mut self, a: &Attribute) -> Result<Value> {
        let Some(dims) = &a.space.dims else {
            return Ok(Value::Null);
        };
        let size = a.datatype.size as usize;
        if dims.is_empty() {
            return self.element(&a.datatype, &a.data, a.at, 0);
        }
        if let Some(packed) = packed(a) {
            return Ok(packed);
        }
        let mut values = Vec::new();
        for (i, bytes) in a.data.chunks_exact(size.max(1)).enumerate() {
            let at = a.at.saturating_add((i * size) as u64);
            values.push(self.element(&a.datatype, bytes, at, 0)?);
        }
        Ok(Value::List(nested(values, dims)))
    }

    fn admit(&mut self) -> Result<()> {
        self.count += 1;
        let cap = self.file.limits().values;
        Limits::check(self.count, cap, "hdf5.values", "values of attributes")
    }

    /// One element of type `t`.
    fn element(&mut self, t: &Datatype, bytes: &[u8], at: u64, depth: u32) -> Result<Value> {
        self.admit()?;
        if depth > DEEPEST {
            let e = Error::limit(
                "hdf5.values",
                "the values of an attribute are nested too deeply",
            );
            return Err(e.at(at));
        }
        Ok(match &t.class {
            Class::Text(padding) => text(trimmed(bytes, *padding)),
            Class::String => text(until_nul(&self.file.variable_text(bytes, at)?)),
            Class::Opaque { .. } | Class::Reference | Class::Time => Value::Bytes(bytes.to_vec()),
            Class::Array { base, .. } => self.list(base, bytes, at, depth)?,
            Class::Sequence(base) => {
                let sequence = self.file.sequence(bytes, base.size, at)?;
                self.list(base, &sequence, at, depth)?
            }
            Class::Compound(members) if lower(t).form == Form::Other => {
                let mut entries = Vec::new();
                for m in members {
                    let from = m.offset as usize;
                    let part = bytes.get(from..from + m.datatype.size as usize);
                    let at = at.saturating_add(m.offset.into());
                    let value =
                        self.element(&m.datatype, part.unwrap_or_default(), at, depth + 1)?;
                    entries.push((Value::Str(m.name.clone()), value));
                }
                Value::Dict(Dict {
                    entries,
                    ..Dict::default()
                })
            }
            _ => number(t, bytes).unwrap_or_else(|| Value::Bytes(bytes.to_vec())),
        })
    }

    fn list(&mut self, base: &Datatype, bytes: &[u8], at: u64, depth: u32) -> Result<Value> {
        let size = base.size.max(1) as usize;
        let mut all = Vec::new();
        for (i, part) in bytes.chunks_exact(size).enumerate() {
            let at = at.saturating_add((i * size) as u64);
            all.push(self.element(base, part, at, depth + 1)?);
        }
        Ok(Value::List(all))
    }
}

/// Long arrays of numbers, as they are.
fn packed(a: &Attribute) -> Option<Value> {
    use weighbridge_core::model::DType;
    let lowered = lower(&a.datatype);
    let Form::Numbers { big_endian } = lowered.form else {
        return None;
    };
    let element = match lowered.dtype {
        DType::U8 => Element::U8,
        DType::I8 => Element::I8,
        DType::U16 => Element::U16,
        DType::I16 => Element::I16,
        DType::U32 => Element::U32,
        DType::I32 => Element::I32,
        DType::U64 => Element::U64,
        DType::I64 => Element::I64,
        DType::F32 => Element::F32,
        DType::F64 => Element::F64,
        DType::Bool => Element::Bool,
        _ => return None,
    };
    let width = element.bytes()?;
    let count = a.data.len() / width;
    if count <= LISTED {
        return None;
    }
    let mut data = a.data.clone();
    if big_endian {
        data.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    Some(Value::Packed(Packed::from_bytes(
        element,
        count as u64,
        data,
    )))
}

/// A flat list as lists of lists.
fn nested(mut values: Vec<Value>, dims: &[u64]) -> Vec<Value> {
    for &d in dims.iter().skip(1).rev() {
        let Ok(d) = usize::try_from(d) else {
            return values;
        };
        if d == 0 {
            return Vec::new();
        }
        let mut outer = Vec::with_capacity(values.len() / d);
        let mut rest = values.into_iter().peekable();
        while rest.peek().is_some() {
            outer.push(Value::List(rest.by_ref().take(d).collect()));
        }
        values = outer;
    }
    values
}

/// A text, or the bytes that are none.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(s) => Value::Str(s.to_owned()),
        Err(_) => Value::Bytes(bytes.to_vec()),
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    bytes.get(..end).unwrap_or_default()
}

/// A text of fixed width without what fills it.
pub(super) fn trimmed(bytes: &[u8], padding: Padding) -> &[u8] {
    match padding {
        Padding::NulTerminated => until_nul(bytes),
        Padding::NulPadded => strip(bytes, 0),
        Padding::Blanks => strip(bytes, b' '),
    }
}

fn strip(bytes: &[u8], fill: u8) -> &[u8] {
    let end = bytes.iter().rposition(|&b| b != fill).map_or(0, |i| i + 1);
    bytes.get(..end).unwrap_or_default()
}

/// A number of type `t`; `None` for what is none.
pub(super) fn number(t: &Datatype, bytes: &[u8]) -> Option<Value> {
    use weighbridge_core::model::DType;
    let lowered = lower(t);
    let Form::Numbers { big_endian } = lowered.form else {
        return None;
    };
    if !lowered.dims.is_empty() {
        return None;
    }
    let width = lowered.dtype.swap_width();
    let part = |i: usize| -> Option<[u8; 8]> {
        let mut le = [0u8; 8];
        let from = bytes.get(i * width..(i + 1) * width)?;
        le.get_mut(..width)?.copy_from_slice(from);
        if big_endian {
            le.get_mut(..width)?.reverse();
        }
        Some(le)
    };
    let bits = u64::from_le_bytes(part(0)?);
    let f32_of = |b: [u8; 8]| f64::from(f32::from_bits(u64::from_le_bytes(b) as u32));
    let f64_of = |b: [u8; 8]| f64::from_bits(u64::from_le_bytes(b));
    Some(match lowered.dtype {
        DType::Bool => Value::Bool(bits != 0),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => match i64::try_from(bits) {
            Ok(n) => Value::Int(n),
            Err(_) => Value::BigInt(bits.to_string()),
        },
        DType::I8 => Value::Int((bits as u8 as i8).into()),
        DType::I16 => Value::Int((bits as u16 as i16).into()),
        DType::I32 => Value::Int((bits as u32 as i32).into()),
        DType::I64 => Value::Int(bits as i64),
        DType::F16 => Value::Float(f16_to_f32(bits as u16).into()),
        DType::BF16 => Value::Float(f32::from_bits((bits as u32) << 16).into()),
        DType::F32 => Value::Float(f32_of(part(0)?)),
        DType::F64 => Value::Float(f64_of(part(0)?)),
        DType::C64 => Value::Complex(f32_of(part(0)?), f32_of(part(1)?)),
        DType::C128 => Value::Complex(f64_of(part(0)?), f64_of(part(1)?)),
        _ => return None,
    })
}
