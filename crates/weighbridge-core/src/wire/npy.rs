//! The header of NumPy's `.npy`: magic, version, length, and a Python dict literal that says the
//! element type, the order and the shape (`numpy/lib/_format_impl.py`, `numpy/lib/format.py`).
//!
//! | bytes | field |
//! |---|---|
//! | 6 | `\x93NUMPY` |
//! | 2 | version: 1.0, 2.0 or 3.0 |
//! | 2 (4 since version 2) | length of the rest of the header, little-endian |
//! | … | `{'descr': …, 'fortran_order': …, 'shape': (…)}`, padded with spaces, ended by a line feed |
//!
//! NumPy evaluates the literal with `ast.literal_eval`; here a parser of just these literals reads
//! it, and nothing is evaluated.

mod literal;

use crate::error::{Error, Result};
use literal::Literal;

/// The first bytes of every `.npy`.
pub const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longest header, in bytes: a thousand named fields take a few dozen KiB.
const MOST_HEADER: u64 = 4 << 20;

/// Most dimensions of an array (`NPY_MAXDIMS` of NumPy 2; 32 before).
const MOST_DIMS: usize = 64;

/// The element type of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dtype {
    /// A number, a string, a date, raw bytes or a Python object.
    Plain {
        /// NumPy's letter of the kind: `b i u f c m M O S U V`.
        kind: u8,
        /// Whether the most significant byte comes first.
        big_endian: bool,
        /// Bytes of one element.
        bytes: u64,
    },
    /// An array of a fixed shape as one element.
    Sub(Box<Self>, Vec<u64>),
    /// Named fields one after the other; padding is a field without a name.
    Fields(Vec<(String, Self)>),
    /// A type that `ml_dtypes` registers with NumPy under this name, such as `bfloat16`.
    Named(&'static str, u64),
}

/// The types of `ml_dtypes` whose names NumPy resolves once that package is imported, with the
/// bytes of one element (those narrower than a byte take a whole one).
const NAMED: [(&str, u64); 16] = [
    ("bfloat16", 2),
    ("float8_e3m4", 1),
    ("float8_e4m3", 1),
    ("float8_e4m3b11fnuz", 1),
    ("float8_e4m3fn", 1),
    ("float8_e4m3fnuz", 1),
    ("float8_e5m2", 1),
    ("float8_e5m2fnuz", 1),
    ("float8_e8m0fnu", 1),
    ("float6_e2m3fn", 1),
    ("float6_e3m2fn", 1),
    ("float4_e2m1fn", 1),
    ("int2", 1),
    ("int4", 1),
    ("uint2", 1),
    ("uint4", 1),
];

impl Dtype {
    /// Bytes of one element; `None` when the number overflows.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Plain { bytes, .. } | Self::Named(_, bytes) => Some(*bytes),
            Self::Sub(inner, shape) => product(shape)?.checked_mul(inner.bytes()?),
            Self::Fields(fields) => fields
                .iter()
                .try_fold(0u64, |n, (_, f)| n.checked_add(f.bytes()?)),
        }
    }

    /// Whether an element holds Python objects: then the array's data is a pickle.
    pub fn has_objects(&self) -> bool {
        match self {
            Self::Plain { kind, .. } => *kind == b'O',
            Self::Sub(inner, _) => inner.has_objects(),
            Self::Fields(fields) => fields.iter().any(|(_, f)| f.has_objects()),
            Self::Named(..) => false,
        }
    }

    /// The type that NumPy and `ml_dtypes` call `name` (`dtype.name`), such as `float32`, `bool`,
    /// `str96` (three characters) or `bfloat16`.
    pub fn of_name(name: &str) -> Option<Self> {
        if let Some(&(name, bytes)) = NAMED.iter().find(|(n, _)| *n == name) {
            return Some(Self::Named(name, bytes));
        }
        let cut = name
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(name.len());
        let (kind, digits) = name.split_at_checked(cut)?;
        let bits: u64 = match digits {
            "" if kind == "bool" || kind == "bool_" => 8,
            _ => digits.parse().ok()?,
        };
        let code = match kind {
            "bool" | "bool_" => "b",
            "int" => "i",
            "uint" => "u",
            "float" => "f",
            "complex" => "c",
            "bytes" => "S",
            "void" => "V",
            "str" if bits.is_multiple_of(32) => return Self::parse(&format!("<U{}", bits / 32)),
            _ => return None,
        };
        let whole = bits.is_multiple_of(8).then_some(bits / 8)?;
        Self::parse(&format!("<{code}{whole}"))
    }

    /// Reads NumPy's array-protocol type string, such as `<f8`, `|O` or `<M8[ns]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (order, rest) = match text.as_bytes().first()? {
            b @ (b'<' | b'>' | b'|' | b'=') => (*b, text.get(1..)?),
            _ => (b'<', text),
        };
        let kind = *rest.as_bytes().first()?;
        let rest = rest.get(1..)?;
        // Dates carry their unit in brackets.
        let digits = match (kind, rest.split_once('[')) {
            (b'm' | b'M', Some((digits, unit))) => {
                unit.strip_suffix(']').filter(|u| !u.is_empty())?;
                digits
            }
            _ => rest,
        };
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let size: Option<u64> = match digits {
            "" => None,
            d => Some(d.parse().ok()?),
        };
        let (kind, bytes) = match (kind, size) {
            (b'?', None) | (b'b', Some(1)) => (b'b', 1),
            (b'i' | b'u', Some(n @ (1 | 2 | 4 | 8))) => (kind, n),
            // One byte is `float8_e5m2` of `ml_dtypes`, whose kind is that of floats.
            (b'f', Some(n @ (1 | 2 | 4 | 8 | 10 | 12 | 16))) => (kind, n),
            (b'c', Some(n @ (8 | 16 | 20 | 24 | 32))) => (kind, n),
            (b'm' | b'M', None | Some(8)) => (kind, 8),
            (b'O', None | Some(4 | 8)) => (kind, size.unwrap_or(8)),
            (b'S' | b'a', n) => (b'S', n.unwrap_or(0)),
            (b'V', n) => (kind, n.unwrap_or(0)),
            (b'U', n) => (kind, n.unwrap_or(0).checked_mul(4)?),
            _ => return None,
        };
        Some(Self::Plain {
            kind,
            big_endian: order == b'>',
            bytes,
        })
    }

    fn from_literal(value: &Literal) -> Option<Self> {
        match value {
            Literal::Text(s) => Self::parse(s).or_else(|| {
                let (name, bytes) = *NAMED.iter().find(|(n, _)| n == s)?;
                Some(Self::Named(name, bytes))
            }),
            Literal::Tuple(pair) => match pair.as_slice() {
                [inner, shape] => Some(Self::Sub(
                    Box::new(Self::from_literal(inner)?),
                    shape_of(shape)?,
                )),
                _ => None,
            },
            Literal::List(fields) => {
                let mut out = Vec::new();
                for field in fields {
                    let Literal::Tuple(parts) = field else {
                        return None;
                    };
                    let (name, dtype) = match parts.as_slice() {
                        [name, inner] => (name, Self::from_literal(inner)?),
                        [name, inner, shape] => {
                            let inner = Box::new(Self::from_literal(inner)?);
                            (name, Self::Sub(inner, shape_of(shape)?))
                        }
                        _ => return None,
                    };
                    let name = match name {
                        Literal::Text(s) => s.clone(),
                        // A title and a name.
                        Literal::Tuple(names) => match names.as_slice() {
                            [Literal::Text(_), Literal::Text(s)] => s.clone(),
                            _ => return None,
                        },
                        _ => return None,
                    };
                    out.push((name, dtype));
                }
                Some(Self::Fields(out))
            }
            _ => None,
        }
    }
}

/// A shape: a tuple of counts, or one count.
fn shape_of(value: &Literal) -> Option<Vec<u64>> {
    match value {
        Literal::Int(n) => Some(vec![u64::try_from(*n).ok()?]),
        Literal::Tuple(items) | Literal::List(items) => items
            .iter()
            .map(|i| match i {
                Literal::Int(n) => u64::try_from(*n).ok(),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn product(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}

/// The header of one array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Major version: 1, 2 or 3.
    pub version: u8,
    /// The element type.
    pub dtype: Dtype,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    /// The shape.
    pub shape: Vec<u64>,
    /// The element type as the file spells it, cut where that is long.
    pub descr: String,
    /// Bytes of the header: the data begins there.
    pub data_at: u64,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// `Truncated` when `bytes` end before the header does ([`header_len`] says how many it
    /// takes), `Malformed` with rules `npy.…`, `Limit` for a header of megabytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let data_at = header_len(bytes)?;
        let version = bytes.get(6).copied().unwrap_or(1);
        let text_at = if version == 1 { 10 } else { 12 };
        let end = usize::try_from(data_at).unwrap_or(usize::MAX);
        let Some(text) = bytes.get(text_at..end) else {
            let message = format!(
                "the header takes {data_at} bytes, {} are there",
                bytes.len()
            );
            return Err(Error::truncated("npy.truncated", message).at(bytes.len() as u64));
        };
        let at = text_at as u64;
        let text = match version {
            3 => std::str::from_utf8(text)
                .map(str::to_owned)
                .map_err(|_| bad("npy.header", "the header is no UTF-8").at(at))?,
            _ => text.iter().map(|&b| char::from(b)).collect(),
        };
        let value = literal::parse(&text).map_err(|e| e.shifted(at))?;
        let mut header = Self::of(&value).map_err(|e| e.span(at, data_at - at))?;
        header.version = version;
        header.data_at = data_at;
        Ok(header)
    }

    fn of(value: &Literal) -> Result<Self> {
        let Literal::Dict(pairs) = value else {
            return Err(bad("npy.header", "the header is no dict"));
        };
        let (mut descr, mut order, mut shape) = (None, None, None);
        for (key, value) in pairs {
            let Literal::Text(key) = key else {
                return Err(bad("npy.header", "a key of the header is no text"));
            };
            let slot = match key.as_str() {
                "descr" => &mut descr,
                "fortran_order" => &mut order,
                "shape" => &mut shape,
                other => {
                    let message = format!("the header has the key {other:?}");
                    return Err(bad("npy.header", message));
                }
            };
            if slot.replace(value).is_some() {
                let message = format!("the header has the key {key:?} twice");
                return Err(bad("npy.duplicate-key", message));
            }
        }
        let (Some(descr), Some(order), Some(shape)) = (descr, order, shape) else {
            let message = "the header lacks one of descr, fortran_order and shape";
            return Err(bad("npy.header", message));
        };
        let Literal::Bool(fortran_order) = order else {
            return Err(bad("npy.header", "fortran_order is no truth value"));
        };
        let Literal::Tuple(_) = shape else {
            return Err(bad("npy.shape", "the shape is no tuple"));
        };
        let shape = shape_of(shape)
            .filter(|s| s.len() <= MOST_DIMS)
            .ok_or_else(|| bad("npy.shape", "the shape is no short tuple of counts"))?;
        let dtype = Dtype::from_literal(descr)
            .ok_or_else(|| bad("npy.dtype", format!("no element type is {}", descr.shown())))?;
        let header = Self {
            version: 1,
            dtype,
            fortran_order: *fortran_order,
            shape,
            descr: match descr {
                Literal::Text(s) => s.chars().take(100).collect(),
                other => other.shown(),
            },
            data_at: 0,
        };
        if header.elements().is_none() || header.size().is_none() {
            return Err(bad("npy.shape", "the size of the array overflows"));
        }
        Ok(header)
    }

    /// How many elements the array has.
    pub fn elements(&self) -> Option<u64> {
        product(&self.shape).filter(|n| i64::try_from(*n).is_ok())
    }

    fn size(&self) -> Option<u64> {
        let bytes = self.elements()?.checked_mul(self.dtype.bytes()?)?;
        i64::try_from(bytes).ok()?;
        Some(bytes)
    }

    /// Bytes of the array's data, or `None` when the data is a pickle.
    pub fn data_bytes(&self) -> Option<u64> {
        if self.dtype.has_objects() {
            return None;
        }
        self.size()
    }
}

fn bad(rule: &'static str, message: impl Into<String>) -> Error {
    Error::malformed(rule, message)
}

/// Bytes of the header that begins `bytes`, of which twelve are enough.
///
/// # Errors
/// `Malformed` when it is none, `Truncated` when there are too few bytes to say, `Limit` for one of
/// megabytes.
pub fn header_len(bytes: &[u8]) -> Result<u64> {
    if !bytes.starts_with(MAGIC) {
        return Err(bad("npy.magic", "the file does not begin with \\x93NUMPY").span(0, 6));
    }
    let (len, at) = match bytes.get(6..) {
        Some([1, 0, a, b, ..]) => (u64::from(u16::from_le_bytes([*a, *b])), 10),
        Some([2 | 3, 0, a, b, c, d, ..]) => (u64::from(u32::from_le_bytes([*a, *b, *c, *d])), 12),
        None | Some([] | [1] | [1, 0, ..] | [2 | 3] | [2 | 3, 0, ..]) => {
            return Err(
                Error::truncated("npy.truncated", "the file ends in the header")
                    .at(bytes.len() as u64),
            );
        }
        Some([major, rest @ ..]) => {
            let minor = rest.first().copied().unwrap_or_default();
            let message = format!("version {major}.{minor} does not exist");
            return Err(bad("npy.version", message).span(6, 2));
        }
    };
    if len > MOST_HEADER {
        let message = format!("a header of {len} bytes, at most {MOST_HEADER} are read");
        return Err(Error::limit("npy.header-size", message).at(8));
    }
    Ok(len + at)
}

/// The whole length of the `.npy` that begins with `head`, where its head alone tells what it is:
/// an array of plain values, whose data no loader interprets. `None` for arrays of objects and for
/// whatever cannot be read.
pub fn needs_only_head(head: &[u8]) -> Option<u64> {
    let header = Header::parse(head).ok()?;
    header.data_at.checked_add(header.data_bytes()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([version, 0]);
        if version == 1 {
            out.extend((header.len() as u16).to_le_bytes());
        } else {
            out.extend((header.len() as u32).to_le_bytes());
        }
        out.extend(header.as_bytes());
        out
    }

    fn with(descr: &str, shape: &str) -> Result<Header> {
        let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}  \n");
        Header::parse(&npy(1, &text))
    }

    fn bytes(descr: &str) -> Option<u64> {
        with(descr, "(1,)").unwrap().dtype.bytes()
    }

    #[test]
    fn headers_of_every_version() {
        for version in 1..=3 {
            let text = "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 4), }\n";
            let h = Header::parse(&npy(version, text)).unwrap();
            assert_eq!((h.version, h.fortran_order), (version, true));
            assert_eq!(h.shape, [3, 4]);
            assert_eq!(h.data_bytes(), Some(96));
            let at = if version == 1 { 10 } else { 12 };
            assert_eq!(h.data_at, at + text.len() as u64);
        }
        // Names beyond Latin-1 need version 3.
        let text = "{'descr': [('\u{3b1}', '<i2')], 'fortran_order': False, 'shape': ()}";
        let h = Header::parse(&npy(3, text)).unwrap();
        assert_eq!(h.data_bytes(), Some(2));
        let Dtype::Fields(f) = h.dtype else { panic!() };
        assert_eq!(f[0].0, "\u{3b1}");
        // Python 2 wrote long integers.
        assert_eq!(with("'<f8'", "(3L, 2L)").unwrap().shape, [3, 2]);
    }

    #[test]
    fn element_types() {
        for (descr, size) in [
            ("'<f8'", 8),
            ("'|b1'", 1),
            ("'?'", 1),
            ("'>c16'", 16),
            ("'<U5'", 20),
            ("'|S7'", 7),
            ("'|V3'", 3),
            ("'<M8[ns]'", 8),
            ("'<m8[25s]'", 8),
            ("[('a', '<i4'), ('b', '<f4', (2, 3)), ('', '|V4')]", 32),
            ("[(('title', 'a'), '|u1')]", 1),
            ("[('a', [('b', '<i2'), ('c', '|S3')], (2,))]", 10),
            ("('<f4', (2, 2))", 16),
            ("[]", 0),
            ("'bfloat16'", 2),
            ("'float8_e4m3fn'", 1),
            ("'<f1'", 1),
        ] {
            assert_eq!(bytes(descr), Some(size), "{descr}");
        }
        for descr in [
            "'f'", "'<x8'", "'<i3'", "'O,i4'", "'object'", "7", "None", "{}", "'<M8[]'",
        ] {
            assert_eq!(
                with(descr, "(1,)").unwrap_err().rule(),
                "npy.dtype",
                "{descr}"
            );
        }
    }

    #[test]
    fn objects_are_found_at_any_depth() {
        for descr in [
            "'|O'",
            "'O'",
            "'|O8'",
            "[('a', '<i4'), ('b', '|O')]",
            "[('a', [('b', '|O', (2,))])]",
            "('|O', (3,))",
        ] {
            let h = with(descr, "(2,)").unwrap();
            assert!(h.dtype.has_objects(), "{descr}");
            assert_eq!(h.data_bytes(), None);
        }
        assert!(!with("[('O', '<i4')]", "()").unwrap().dtype.has_objects());
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        for (descr, shape) in [
            ("'<f8'", "(4611686018427387904, 4)"),
            ("'<f8'", "(2305843009213693952,)"),
            ("'|u1'", "(9223372036854775808,)"),
            ("'<U4611686018427387904'", "(1,)"),
            ("('|V4294967296', (4294967296,))", "(1,)"),
            ("'<f8'", "(-1,)"),
            ("'<f8'", "(-1, -1)"),
            ("'<f8'", "(99999999999999999999999999,)"),
            ("'<f8'", "[3]"),
            ("'<f8'", "3"),
            ("'<f8'", "('a',)"),
        ] {
            assert!(with(descr, shape).is_err(), "{descr} {shape}");
        }
        let deep = format!("({})", "1,".repeat(65));
        assert_eq!(with("'<f8'", &deep).unwrap_err().rule(), "npy.shape");
    }

    #[test]
    fn broken_headers_name_their_rule() {
        let rule = |text: &str| Header::parse(&npy(1, text)).unwrap_err().rule();
        assert_eq!(rule(""), "npy.header");
        assert_eq!(rule("[]"), "npy.header");
        assert_eq!(rule("{'descr': '<f8'}"), "npy.header");
        let rest = "'fortran_order': False, 'shape': ()";
        assert_eq!(
            rule(&format!("{{'descr': '<f8', {rest}, 'x': 1}}")),
            "npy.header"
        );
        assert_eq!(
            rule(&format!("{{'descr': '<f8', 'descr': '|O', {rest}}}")),
            "npy.duplicate-key"
        );
        assert_eq!(rule("{'descr': __import__('os')}"), "npy.header");
        assert_eq!(rule(&"(".repeat(10_000)), "npy.header");
        assert_eq!(Header::parse(b"\x93NUMPX").unwrap_err().rule(), "npy.magic");
        assert_eq!(
            Header::parse(b"\x93NUMPY\x04\0").unwrap_err().rule(),
            "npy.version"
        );
        assert_eq!(
            Header::parse(b"\x93NUMPY\x01\x01").unwrap_err().rule(),
            "npy.version"
        );
        let e = Header::parse(b"\x93NUMPY\x02\0\xff\xff\xff\xff").unwrap_err();
        assert_eq!(e.rule(), "npy.header-size");
    }

    #[test]
    fn truncations_say_so() {
        let whole = npy(1, "{'descr': '<f8', 'fortran_order': False, 'shape': ()}\n");
        for n in 6..whole.len() {
            let e = Header::parse(&whole[..n]).unwrap_err();
            assert_eq!(e.rule(), "npy.truncated", "{n}");
        }
        assert_eq!(needs_only_head(&whole), Some(whole.len() as u64 + 8));
        assert_eq!(needs_only_head(&whole[..40]), None);
        assert_eq!(
            needs_only_head(&npy(
                1,
                "{'descr': '|O', 'fortran_order': False, 'shape': ()}"
            )),
            None
        );
    }
}
