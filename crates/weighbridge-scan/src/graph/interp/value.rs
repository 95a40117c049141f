//! Values of the interpreter: a shape and its elements, or a shape alone.

use std::sync::Arc;

use weighbridge_core::model::{DType, Tensor as Stored};

use super::Halt;

/// Extents, outermost first.
pub(crate) type Dims = Vec<usize>;

/// Most elements that one value may have.
pub(crate) const MOST_ELEMENTS: usize = 1 << 19;

/// What elements are. Arithmetic is done in `f64` or `i64` and settled into these after every
/// step, so that it rounds as a runtime's does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub(crate) enum Kind {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Text,
}

impl Kind {
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::I64 => Self::I64,
            DType::I32 => Self::I32,
            DType::I16 => Self::I16,
            DType::I8 => Self::I8,
            DType::U64 => Self::U64,
            DType::U32 => Self::U32,
            DType::U16 => Self::U16,
            DType::U8 => Self::U8,
            DType::Bool => Self::Bool,
            DType::Str => Self::Text,
            _ => return None,
        })
    }

    /// By the number that `Cast` and its like name it with (`TensorProto.DataType`).
    pub(crate) fn numbered(n: i64) -> Option<Self> {
        Some(match n {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            8 => Self::Text,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::BF16,
            _ => return None,
        })
    }

    /// The spelling of the JSON documents.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
            Self::Text => "STR",
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    pub(crate) fn is_integer(self) -> bool {
        !self.is_float() && self != Self::Text
    }

    /// Rounds to what the kind can hold.
    pub(crate) fn round(self, x: f64) -> f64 {
        match self {
            Self::F32 => f64::from(x as f32),
            Self::F16 => half(x, 10, 15),
            Self::BF16 => half(x, 7, 127),
            _ => x,
        }
    }

    /// Wraps to what the kind can hold.
    pub(crate) fn wrap(self, n: i64) -> i64 {
        match self {
            Self::I32 => i64::from(n as i32),
            Self::I16 => i64::from(n as i16),
            Self::I8 => i64::from(n as i8),
            Self::U32 => i64::from(n as u32),
            Self::U16 => i64::from(n as u16),
            Self::U8 => i64::from(n as u8),
            Self::Bool => i64::from(n != 0),
            _ => n,
        }
    }

    /// Least and greatest integer of the kind.
    pub(crate) fn bounds(self) -> (i64, i64) {
        match self {
            Self::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Self::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            Self::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
            Self::U64 => (0, i64::MAX),
            Self::U32 => (0, i64::from(u32::MAX)),
            Self::U16 => (0, i64::from(u16::MAX)),
            Self::U8 => (0, i64::from(u8::MAX)),
            Self::Bool => (0, 1),
            _ => (i64::MIN, i64::MAX),
        }
    }
}

/// Rounds to a float of `bits` bits behind the point whose exponent is biased by `bias`.
fn half(x: f64, bits: i32, bias: i32) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = x.abs().log2().floor() as i32;
    let exponent = exponent.max(1 - bias);
    let step = f64::powi(2.0, exponent - bits);
    let rounded = (x / step).round_ties_even() * step;
    let most = f64::powi(2.0, bias) * (2.0 - f64::powi(2.0, -bits));
    match rounded.abs() > most {
        true => f64::INFINITY.copysign(x),
        false => rounded,
    }
}

/// Elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// Not known: only the shape is.
    Unknown,
    Float(Vec<f64>),
    Int(Vec<i64>),
    Text(Vec<Arc<[u8]>>),
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) kind: Kind,
    pub(crate) dims: Dims,
    pub(crate) data: Data,
}

/// A value that several hold.
pub(crate) type Value = Arc<Tensor>;

impl Tensor {
    pub(crate) fn unknown(kind: Kind, dims: Dims) -> Self {
        let data = Data::Unknown;
        Self { kind, dims, data }
    }

    pub(crate) fn float(kind: Kind, dims: Dims, mut data: Vec<f64>) -> Self {
        if kind != Kind::F64 {
            for x in &mut data {
                *x = kind.round(*x);
            }
        }
        let data = Data::Float(data);
        Self { kind, dims, data }
    }

    pub(crate) fn int(kind: Kind, dims: Dims, mut data: Vec<i64>) -> Self {
        if kind != Kind::I64 {
            for n in &mut data {
                *n = kind.wrap(*n);
            }
        }
        let data = Data::Int(data);
        Self { kind, dims, data }
    }

    /// Numbers of any kind, given as floats.
    pub(crate) fn numbers(kind: Kind, dims: Dims, data: Vec<f64>) -> Self {
        match kind.is_float() {
            true => Self::float(kind, dims, data),
            false => Self::int(kind, dims, data.into_iter().map(|x| x as i64).collect()),
        }
    }

    pub(crate) fn ints(data: Vec<i64>) -> Self {
        Self::int(Kind::I64, vec![data.len()], data)
    }

    /// Whether an element is no number.
    pub(crate) fn is_undefined(&self) -> bool {
        matches!(&self.data, Data::Float(v) if v.iter().any(|x| x.is_nan()))
    }

    pub(crate) fn scalar(n: i64) -> Self {
        Self::int(Kind::I64, Vec::new(), vec![n])
    }

    pub(crate) fn texts(dims: Dims, data: Vec<Arc<[u8]>>) -> Self {
        let (kind, data) = (Kind::Text, Data::Text(data));
        Self { kind, dims, data }
    }

    /// How many elements the shape says.
    pub(crate) fn len(&self) -> usize {
        count(&self.dims).unwrap_or(usize::MAX)
    }

    pub(crate) fn is_known(&self) -> bool {
        self.data != Data::Unknown
    }

    /// The elements as floats.
    pub(crate) fn to_floats(&self) -> Result<Vec<f64>, Halt> {
        match &self.data {
            Data::Float(v) => Ok(v.clone()),
            Data::Int(v) => Ok(v.iter().map(|&n| n as f64).collect()),
            Data::Unknown => Err(Halt::Unknown),
            Data::Text(_) => Err(Halt::Wrong("text where numbers are needed")),
        }
    }

    /// The elements as integers.
    pub(crate) fn to_ints(&self) -> Result<Vec<i64>, Halt> {
        match &self.data {
            Data::Int(v) => Ok(v.clone()),
            Data::Float(v) => Ok(v.iter().map(|&x| x as i64).collect()),
            Data::Unknown => Err(Halt::Unknown),
            Data::Text(_) => Err(Halt::Wrong("text where numbers are needed")),
        }
    }

    /// Element `i` as a float.
    pub(crate) fn at(&self, i: usize) -> Option<f64> {
        match &self.data {
            Data::Float(v) => v.get(i).copied(),
            Data::Int(v) => v.get(i).map(|&n| n as f64),
            _ => None,
        }
    }

    /// The one integer.
    pub(crate) fn one(&self) -> Result<i64, Halt> {
        match (self.to_ints()?.as_slice(), self.len()) {
            ([n], 1) => Ok(*n),
            _ => Err(Halt::Wrong("one number is needed")),
        }
    }

    /// The same elements under another shape.
    pub(crate) fn reshaped(&self, dims: Dims) -> Result<Self, Halt> {
        if count(&dims) != Some(self.len()) {
            return Err(Halt::Wrong("another number of elements"));
        }
        let (kind, data) = (self.kind, self.data.clone());
        Ok(Self { kind, dims, data })
    }

    /// The elements at `order`, under `dims`; a position that is not there gives zero.
    pub(crate) fn picked(&self, dims: Dims, order: &[usize]) -> Self {
        let data = match &self.data {
            Data::Unknown => Data::Unknown,
            Data::Float(v) => {
                let one = |&i: &usize| v.get(i).copied().unwrap_or_default();
                Data::Float(order.iter().map(one).collect())
            }
            Data::Int(v) => {
                let one = |&i: &usize| v.get(i).copied().unwrap_or_default();
                Data::Int(order.iter().map(one).collect())
            }
            Data::Text(v) => {
                let one = |&i: &usize| v.get(i).cloned().unwrap_or_else(|| Arc::from(&b""[..]));
                Data::Text(order.iter().map(one).collect())
            }
        };
        let kind = self.kind;
        Self { kind, dims, data }
    }

    /// Whether the elements are the same, NaN being itself.
    pub(crate) fn same(&self, other: &Self) -> bool {
        if self.dims != other.dims {
            return false;
        }
        match (&self.data, &other.data) {
            (Data::Float(a), Data::Float(b)) => {
                let same = |(x, y): (&f64, &f64)| x == y || (x.is_nan() && y.is_nan());
                a.len() == b.len() && a.iter().zip(b).all(same)
            }
            (a, b) => a == b,
        }
    }
}

/// The number of elements of a shape.
pub(crate) fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// The steps of a row-major layout.
pub(crate) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut out = vec![1usize; dims.len()];
    let mut step = 1usize;
    for (o, &d) in out.iter_mut().zip(dims).rev() {
        *o = step;
        step = step.saturating_mul(d.max(1));
    }
    out
}

/// Reads a stored tensor of at most `most` elements.
pub(crate) fn load(stored: &Stored, most: usize) -> Result<Tensor, Halt> {
    let kind = match stored.dtype {
        DType::U4 | DType::I4 => Kind::I8,
        d => Kind::of(d).ok_or(Halt::Wrong("an element type that is not run"))?,
    };
    let one = |&d: &u64| usize::try_from(d).map_err(|_| Halt::Budget);
    let dims = stored.shape.iter().map(one).collect::<Result<Dims, _>>()?;
    let n = count(&dims).ok_or(Halt::Budget)?;
    if kind == Kind::Text {
        return match texts(stored, n) {
            Some(all) => Ok(Tensor::texts(dims, all)),
            None => Err(Halt::Wrong("texts that were not read")),
        };
    }
    if n > most || !stored.has_data() {
        return Err(Halt::Budget);
    }
    let bytes = stored
        .bytes()
        .map_err(|_| Halt::Wrong("data that cannot be read"))?;
    Ok(match stored.dtype {
        DType::U4 | DType::I4 => Tensor::int(kind, dims, nibbles(&bytes, stored.dtype, n)),
        _ => decode(kind, dims, &bytes),
    })
}

/// The texts of a stored tensor, which readers keep beside it.
fn texts(stored: &Stored, n: usize) -> Option<Vec<Arc<[u8]>>> {
    use weighbridge_core::model::Value as Meta;
    let all = &stored.extra.as_ref()?.attributes;
    let (_, Meta::List(list)) = all.iter().find(|(k, _)| k == "strings")? else {
        return None;
    };
    let one = |v: &Meta| match v {
        Meta::Bytes(b) => Some(Arc::from(b.as_slice())),
        Meta::Str(s) => Some(Arc::from(s.as_bytes())),
        _ => None,
    };
    let out: Option<Vec<Arc<[u8]>>> = list.iter().map(one).collect();
    out.filter(|o| o.len() == n)
}

fn nibbles(bytes: &[u8], dtype: DType, n: usize) -> Vec<i64> {
    let both = bytes.iter().flat_map(|b| [b & 15, b >> 4]);
    let sign = |v: u8| match dtype == DType::I4 && v > 7 {
        true => i64::from(v) - 16,
        false => i64::from(v),
    };
    both.map(sign).take(n).collect()
}

fn decode(kind: Kind, dims: Dims, bytes: &[u8]) -> Tensor {
    fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
    }
    let float = |v| Data::Float(v);
    let data = match kind {
        Kind::F64 => float(each(bytes, f64::from_le_bytes)),
        Kind::F32 => float(each(bytes, |c| f64::from(f32::from_le_bytes(c)))),
        Kind::F16 => float(each(bytes, |c| from_half(u16::from_le_bytes(c)))),
        Kind::BF16 => float(each(bytes, |c| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(c)) << 16))
        })),
        Kind::I64 | Kind::U64 => Data::Int(each(bytes, i64::from_le_bytes)),
        Kind::I32 => Data::Int(each(bytes, |c| i64::from(i32::from_le_bytes(c)))),
        Kind::U32 => Data::Int(each(bytes, |c| i64::from(u32::from_le_bytes(c)))),
        Kind::I16 => Data::Int(each(bytes, |c| i64::from(i16::from_le_bytes(c)))),
        Kind::U16 => Data::Int(each(bytes, |c| i64::from(u16::from_le_bytes(c)))),
        Kind::I8 => Data::Int(each(bytes, |c| i64::from(i8::from_le_bytes(c)))),
        Kind::U8 => Data::Int(each(bytes, |[b]: [u8; 1]| i64::from(b))),
        Kind::Bool => Data::Int(each(bytes, |[b]: [u8; 1]| i64::from(b != 0))),
        Kind::Text => Data::Unknown,
    };
    Tensor { kind, dims, data }
}

fn from_half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * f64::powi(2.0, -24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + fraction / 1024.0) * f64::powi(2.0, e - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_floats_round_to_even_and_overflow() {
        assert_eq!(Kind::F16.round(0.1), f64::from(0.099_975_586_f32));
        assert_eq!(Kind::F16.round(65504.0), 65504.0);
        assert_eq!(Kind::F16.round(65520.0), f64::INFINITY);
        assert_eq!(Kind::F16.round(2f64.powi(-24)), 2f64.powi(-24));
        assert_eq!(Kind::F16.round(2f64.powi(-26)), 0.0);
        assert_eq!(Kind::BF16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(from_half(0x3c01), 1.0 + 1.0 / 1024.0);
        assert_eq!(from_half(0x7bff), 65504.0);
    }

    #[test]
    fn integers_wrap_to_their_kind() {
        assert_eq!(Kind::U8.wrap(256 + 7), 7);
        assert_eq!(Kind::I8.wrap(200), -56);
        assert_eq!(Kind::Bool.wrap(9), 1);
        assert_eq!(nibbles(&[0x8f], DType::I4, 2), [-1, -8]);
    }
}
