//! HDF5's datatypes in the model's terms.

use weighbridge_core::model::{DType, Value};
use weighbridge_core::wire::hdf5::{Class, Datatype, Float, Padding};

/// What a dataset of some datatype becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lowered {
    pub(super) dtype: DType,
    /// The extents of an element that is an array.
    pub(super) dims: Vec<u64>,
    pub(super) form: Form,
}

/// How elements are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Numbers, in one byte order or the other.
    Numbers { big_endian: bool },
    /// Texts of fixed width.
    Fixed(Padding),
    /// Texts of any length.
    Variable,
    /// Something that the model has no values for.
    Other,
}

impl Lowered {
    pub(super) fn numbers(dtype: DType, big_endian: bool) -> Self {
        Self::of(dtype, Form::Numbers { big_endian })
    }

    fn of(dtype: DType, form: Form) -> Self {
        Self {
            dtype,
            dims: Vec::new(),
            form,
        }
    }

    fn other() -> Self {
        Self::of(DType::Compound, Form::Other)
    }
}

/// What a dataset of `t` becomes.
pub(super) fn lower(t: &Datatype) -> Lowered {
    let found = match &t.class {
        Class::Fixed {
            big_endian,
            signed,
            bits,
        } => {
            let whole = *bits == (0, (t.size.min(64) * 8) as u16);
            integer(t.size, *signed)
                .filter(|_| whole)
                .map(|d| (d, *big_endian))
        }
        Class::Bits { big_endian } => integer(t.size, false).map(|d| (d, *big_endian)),
        Class::Float(f) => float(t.size, f),
        Class::Enumeration { base, names } if is_bool(base, names) => Some((DType::Bool, false)),
        Class::Enumeration { base, .. } => return lower(base),
        Class::Text(padding) => {
            return Lowered::of(DType::Bytes(t.size), Form::Fixed(*padding));
        }
        Class::String => return Lowered::of(DType::Str, Form::Variable),
        Class::Array { dims, base } => return array(dims, base),
        Class::Compound(_) | Class::Complex(_) => complex(t),
        _ => None,
    };
    found.map_or_else(Lowered::other, |(d, big)| Lowered::numbers(d, big))
}

/// What a dataset of `t` becomes that says of itself to be of `named`: NumPy has no name for some
/// types of machine learning, and Keras writes them as opaque bytes with an attribute.
pub(super) fn lower_named(t: &Datatype, named: Option<&str>) -> Lowered {
    let dtype = match (&t.class, t.size, named) {
        (Class::Opaque { .. }, 2, Some("bfloat16")) => DType::BF16,
        (Class::Opaque { .. }, 1, Some("float8_e4m3fn")) => DType::F8_E4M3,
        (Class::Opaque { .. }, 1, Some("float8_e5m2")) => DType::F8_E5M2,
        _ => return lower(t),
    };
    Lowered::numbers(dtype, false)
}

fn integer(size: u32, signed: bool) -> Option<DType> {
    Some(match (size, signed) {
        (1, false) => DType::U8,
        (1, true) => DType::I8,
        (2, false) => DType::U16,
        (2, true) => DType::I16,
        (4, false) => DType::U32,
        (4, true) => DType::I32,
        (8, false) => DType::U64,
        (8, true) => DType::I64,
        _ => return None,
    })
}

/// The formats of IEEE 754, and those that machine learning made of them.
fn float(size: u32, f: &Float) -> Option<(DType, bool)> {
    let big = f.big_endian?;
    let dtype = match (size, f.exponent, f.mantissa, f.bias) {
        (1, (3, 4), (0, 3), 7) => DType::F8_E4M3,
        (1, (2, 5), (0, 2), 15) => DType::F8_E5M2,
        (2, (10, 5), (0, 10), 15) => DType::F16,
        (2, (7, 8), (0, 7), 127) => DType::BF16,
        (4, (23, 8), (0, 23), 127) => DType::F32,
        (8, (52, 11), (0, 52), 1023) => DType::F64,
        _ => return None,
    };
    let bits = (size * 8) as u16;
    (f.bits == (0, bits) && u16::from(f.sign) == bits - 1).then_some((dtype, big))
}

/// h5py's truth values: an enumeration of one byte.
fn is_bool(base: &Datatype, names: &[(String, Vec<u8>)]) -> bool {
    let is = |name: &str, value: u8| names.iter().any(|(n, v)| n == name && *v == [value]);
    base.size == 1 && names.len() == 2 && is("FALSE", 0) && is("TRUE", 1)
}

/// Two floats called `r` and `i`, as h5py writes complex numbers, or the class for them.
fn complex(t: &Datatype) -> Option<(DType, bool)> {
    let part = match &t.class {
        Class::Complex(base) => base.as_ref(),
        Class::Compound(members) => match members.as_slice() {
            [r, i]
                if r.name == "r"
                    && i.name == "i"
                    && r.datatype == i.datatype
                    && r.offset == 0
                    && i.offset == r.datatype.size =>
            {
                &r.datatype
            }
            _ => return None,
        },
        _ => return None,
    };
    let Class::Float(f) = &part.class else {
        return None;
    };
    let (dtype, big) = float(part.size, f)?;
    let dtype = match dtype {
        DType::F16 => DType::C32,
        DType::F32 => DType::C64,
        DType::F64 => DType::C128,
        _ => return None,
    };
    (t.size == part.size * 2).then_some((dtype, big))
}

/// Arrays of numbers are more dimensions of numbers.
fn array(dims: &[u32], base: &Datatype) -> Lowered {
    let mut inner = lower(base);
    if !matches!(inner.form, Form::Numbers { .. }) {
        return Lowered::other();
    }
    let mut all: Vec<u64> = dims.iter().map(|&d| d.into()).collect();
    all.append(&mut inner.dims);
    inner.dims = all;
    inner
}

/// What a datatype is, in words.
pub(super) fn describe(t: &Datatype) -> String {
    let lowered = lower(t);
    if lowered.form != Form::Other {
        let dims: Vec<String> = lowered.dims.iter().map(u64::to_string).collect();
        return match dims.as_slice() {
            [] => lowered.dtype.to_string(),
            _ => format!("{}[{}]", lowered.dtype, dims.join(",")),
        };
    }
    match &t.class {
        Class::Fixed { .. } => format!("an integer of {} bytes", t.size),
        Class::Float(_) => format!("a float of {} bytes", t.size),
        Class::Time => "a time".into(),
        Class::Bits { .. } => format!("{} bytes of bits", t.size),
        Class::Opaque { tag } if tag.is_empty() => format!("{} opaque bytes", t.size),
        Class::Opaque { tag } => format!("{} opaque bytes ({tag})", t.size),
        Class::Compound(_) => "a compound".into(),
        Class::Reference => "a reference".into(),
        Class::Sequence(base) => format!("a sequence of {}", describe(base)),
        Class::Array { base, .. } => format!("an array of {}", describe(base)),
        _ => "of no kind known".into(),
    }
}

/// The fields of a compound, or the names of an enumeration, for a tensor's attributes.
pub(super) fn extra(t: &Datatype) -> Option<(String, Value)> {
    let dict = |entries: Vec<(Value, Value)>| {
        Value::Dict(weighbridge_core::model::Dict {
            entries,
            ..Default::default()
        })
    };
    match &t.class {
        Class::Compound(members) if lower(t).form == Form::Other => {
            let fields = members.iter().map(|m| {
                let kind = Value::Str(describe(&m.datatype));
                (Value::Str(m.name.clone()), kind)
            });
            Some(("fields".into(), dict(fields.collect())))
        }
        Class::Enumeration { base, names } if !is_bool(base, names) => {
            let names = names.iter().map(|(name, value)| {
                let value = super::attributes::number(base, value);
                (Value::Str(name.clone()), value.unwrap_or(Value::Null))
            });
            Some(("enumeration".into(), dict(names.collect())))
        }
        Class::Opaque { .. } | Class::Reference | Class::Sequence(_) | Class::Time => {
            Some(("type".into(), Value::Str(describe(t))))
        }
        _ => None,
    }
}
