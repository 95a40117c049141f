//! What NumPy's element types are here.

use weighbridge_core::model::{DType, Dict, Value};
use weighbridge_core::wire::npy::Dtype;

/// What is said of raw bytes: NumPy cannot tell what `ml_dtypes` made of them.
const BFLOAT16: &str = "the elements are raw and two bytes wide, which is how NumPy stores the \
    bfloat16 of ml_dtypes (JAX): they are taken for BF16";
const EIGHT_BITS: &str = "the elements are raw and one byte wide, which is how NumPy stores eight \
    float and integer types of ml_dtypes alike: they are taken for U8, the bits as they are";
const RAW: &str = "the elements are raw bytes: they are taken for U8 with one more dimension";
const E5M2: &str = "the elements are floats of one byte, which only float8_e5m2 of ml_dtypes is: \
    they are taken for F8_E5M2";
const WIDE: &str = "long doubles have another layout on every machine: the array is listed \
    without its values";
const NARROW: &str = "ml_dtypes keeps each of these in a byte of its own: they are taken for U8, \
    the bits as they are";
const DATE: &str = "dates and durations are counts of a unit: they are taken for I64";

/// An element type, as far as a tensor can have it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Element {
    /// The dtype of the tensor.
    pub(super) dtype: DType,
    /// Whether the most significant byte comes first.
    pub(super) big_endian: bool,
    /// Dimensions behind those of the array: of sub-arrays, and the bytes of raw elements.
    pub(super) inner: Vec<u64>,
    /// Bytes that an element of `dtype` takes in the file.
    pub(super) width: u64,
    /// Whether texts are characters of four bytes each.
    pub(super) unicode: bool,
    /// Whether there are values that can be read.
    pub(super) readable: bool,
    /// Rule and message of what has to be said of the choice.
    pub(super) warning: Option<(&'static str, &'static str)>,
}

impl Element {
    fn of(dtype: DType, big_endian: bool, width: u64) -> Self {
        Self {
            dtype,
            big_endian,
            inner: Vec::new(),
            width,
            unicode: false,
            readable: true,
            warning: None,
        }
    }

    fn warned(mut self, rule: &'static str, message: &'static str) -> Self {
        self.warning = Some((rule, message));
        self
    }

    /// The values cannot be read as one dtype.
    fn closed(mut self) -> Self {
        self.readable = false;
        self
    }

    /// What `dtype` is here; `None` for objects.
    pub(super) fn new(dtype: &Dtype) -> Option<Self> {
        Some(match dtype {
            _ if dtype.has_objects() => return None,
            Dtype::Plain {
                kind,
                big_endian,
                bytes,
            } => Self::plain(*kind, *big_endian, *bytes),
            Dtype::Named(name, width) => Self::named(name, *width),
            Dtype::Sub(inner, shape) => {
                let mut element = Self::new(inner)?;
                element.inner = [shape.as_slice(), &element.inner].concat();
                element
            }
            Dtype::Fields(_) => {
                Self::of(DType::Compound, false, dtype.bytes().unwrap_or(0)).closed()
            }
        })
    }

    fn plain(kind: u8, big: bool, bytes: u64) -> Self {
        let number = |d: DType| Self::of(d, big, bytes);
        match (kind, bytes) {
            (b'b', _) => number(DType::Bool),
            (b'i', 1) => number(DType::I8),
            (b'i', 2) => number(DType::I16),
            (b'i', 4) => number(DType::I32),
            (b'i', 8) => number(DType::I64),
            (b'u', 1) => number(DType::U8),
            (b'u', 2) => number(DType::U16),
            (b'u', 4) => number(DType::U32),
            (b'u', 8) => number(DType::U64),
            (b'f', 1) => number(DType::F8_E5M2).warned("numpy.raw-elements", E5M2),
            (b'f', 2) => number(DType::F16),
            (b'f', 4) => number(DType::F32),
            (b'f', 8) => number(DType::F64),
            (b'c', 8) => number(DType::C64),
            (b'c', 16) => number(DType::C128),
            (b'm' | b'M', _) => number(DType::I64).warned("numpy.dates", DATE),
            (b'U', n) => {
                let mut element = Self::of(DType::Str, big, n);
                element.unicode = true;
                element
            }
            (b'S', n) => match u32::try_from(n) {
                Ok(width) => Self::of(DType::Bytes(width), false, n),
                Err(_) => Self::of(DType::Str, false, n),
            },
            (b'V', 1) => Self::of(DType::U8, false, 1).warned("numpy.raw-elements", EIGHT_BITS),
            (b'V', 2) => number(DType::BF16).warned("numpy.raw-elements", BFLOAT16),
            (b'V', n) => {
                let mut element = Self::of(DType::U8, false, 1);
                element.inner = vec![n];
                element.warned("numpy.raw-elements", RAW)
            }
            _ => Self::of(DType::Compound, false, bytes)
                .closed()
                .warned("numpy.long-double", WIDE),
        }
    }

    fn named(name: &str, width: u64) -> Self {
        let dtype = match name {
            "bfloat16" => DType::BF16,
            "float8_e4m3fn" => DType::F8_E4M3,
            "float8_e5m2" => DType::F8_E5M2,
            "float8_e4m3fnuz" => DType::F8_E4M3FNUZ,
            "float8_e5m2fnuz" => DType::F8_E5M2FNUZ,
            "float8_e8m0fnu" => DType::F8_E8M0,
            _ => return Self::of(DType::U8, false, 1).warned("numpy.raw-elements", NARROW),
        };
        Self::of(dtype, false, width)
    }
}

/// NumPy's spelling of a type.
pub(crate) fn spelled(dtype: &Dtype) -> String {
    match dtype {
        Dtype::Plain {
            kind,
            big_endian,
            bytes,
        } => {
            let order = match (kind, bytes) {
                (b'S' | b'V' | b'O' | b'b', _) | (_, 1) => '|',
                _ if *big_endian => '>',
                _ => '<',
            };
            let size = match kind {
                b'U' => bytes / 4,
                _ => *bytes,
            };
            format!("{order}{}{size}", char::from(*kind))
        }
        Dtype::Named(name, _) => (*name).to_owned(),
        Dtype::Sub(inner, shape) => format!("({}, {shape:?})", spelled(inner)),
        Dtype::Fields(_) => "structured".to_owned(),
    }
}

/// The fields of a structured type: name, type, shape and offset of each, without the padding
/// between them. Nested ones are lists of their own.
pub(super) fn fields(dtype: &Dtype) -> Option<Value> {
    let Dtype::Fields(fields) = dtype else {
        return None;
    };
    let text = |s: &str| Value::Str(s.to_owned());
    let (mut out, mut offset) = (Vec::new(), 0u64);
    for (name, field) in fields {
        let at = offset;
        offset = offset.saturating_add(field.bytes().unwrap_or(0));
        if name.is_empty() {
            continue;
        }
        let (inner, shape) = match field {
            Dtype::Sub(inner, shape) => (inner.as_ref(), shape.as_slice()),
            other => (other, [].as_slice()),
        };
        let dtype = fields_or_name(inner);
        let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
        let shape = shape.iter().map(|&d| number(d)).collect();
        let entries = vec![
            (text("name"), text(name)),
            (text("dtype"), dtype),
            (text("shape"), Value::List(shape)),
            (text("offset"), number(at)),
        ];
        out.push(Value::Dict(Dict {
            entries,
            ..Dict::default()
        }));
    }
    Some(Value::List(out))
}

fn fields_or_name(dtype: &Dtype) -> Value {
    fields(dtype).unwrap_or_else(|| Value::Str(spelled(dtype)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(descr: &str) -> Element {
        Element::new(&Dtype::parse(descr).unwrap()).unwrap()
    }

    #[test]
    fn types_become_what_their_bytes_are() {
        for (descr, dtype, big, inner) in [
            ("<f4", DType::F32, false, vec![]),
            (">f4", DType::F32, true, vec![]),
            (">c16", DType::C128, true, vec![]),
            ("|b1", DType::Bool, false, vec![]),
            ("<f2", DType::F16, false, vec![]),
            (">u8", DType::U64, true, vec![]),
            ("<M8[ns]", DType::I64, false, vec![]),
            ("|S7", DType::Bytes(7), false, vec![]),
            ("<U3", DType::Str, false, vec![]),
            ("<V2", DType::BF16, false, vec![]),
            ("|V1", DType::U8, false, vec![]),
            ("|V5", DType::U8, false, vec![5]),
            ("<f1", DType::F8_E5M2, false, vec![]),
        ] {
            let e = of(descr);
            assert_eq!(
                (e.dtype, e.big_endian, e.inner),
                (dtype, big, inner),
                "{descr}"
            );
            assert!(e.readable);
        }
        assert!(!of("<f16").readable && !of("<c32").readable);
        assert!(of("<V2").warning.is_some() && of("<f4").warning.is_none());
        assert!(Element::new(&Dtype::parse("|O").unwrap()).is_none());
    }

    #[test]
    fn structured_types_are_described() {
        let f4 = Dtype::parse("<f4").unwrap();
        let pad = Dtype::parse("|V4").unwrap();
        let sub = Dtype::Sub(Box::new(f4.clone()), vec![2, 3]);
        let all = vec![("a".into(), f4), (String::new(), pad), ("b".into(), sub)];
        let dtype = Dtype::Fields(all);
        assert_eq!(Element::new(&dtype).unwrap().dtype, DType::Compound);
        let Some(Value::List(list)) = fields(&dtype) else {
            panic!()
        };
        assert_eq!(list.len(), 2);
        assert_eq!(list[1].get("offset"), Some(&Value::Int(8)));
        assert_eq!(list[1].get("dtype"), Some(&Value::Str("<f4".into())));
    }
}
