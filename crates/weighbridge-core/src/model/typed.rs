//! Metadata with the widths of a binary format: numbers of a fixed type, and arrays that stay
//! where they lie until somebody asks. GGUF types its key-values like this (`enum gguf_type` of
//! `ggml/include/gguf.h`).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::metadata::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{ByteSource, SliceSource};

/// A number of a fixed type.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)] // the variants are the types' own names
pub enum Number {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
}

/// What an array holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the types' own names
pub enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bool,
    Str,
    Array,
}

impl Element {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F32,
        Self::F64,
        Self::Bool,
        Self::Str,
        Self::Array,
    ];

    /// The spelling used in documents: `u8` … `f64`, `bool`, `str`, `arr` (as ggml prints them).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bool => "bool",
            Self::Str => "str",
            Self::Array => "arr",
        }
    }

    /// The kind spelled `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.as_str() == name)
    }

    /// Bytes of one, or `None` for strings and arrays.
    pub fn bytes(self) -> Option<usize> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Str | Self::Array => return None,
        })
    }
}

impl Number {
    /// Its type.
    pub fn element(self) -> Element {
        match self {
            Self::U8(_) => Element::U8,
            Self::I8(_) => Element::I8,
            Self::U16(_) => Element::U16,
            Self::I16(_) => Element::I16,
            Self::U32(_) => Element::U32,
            Self::I32(_) => Element::I32,
            Self::U64(_) => Element::U64,
            Self::I64(_) => Element::I64,
            Self::F32(_) => Element::F32,
            Self::F64(_) => Element::F64,
        }
    }

    /// Its value where it is an integer.
    pub fn as_int(self) -> Option<i128> {
        Some(match self {
            Self::U8(n) => n.into(),
            Self::I8(n) => n.into(),
            Self::U16(n) => n.into(),
            Self::I16(n) => n.into(),
            Self::U32(n) => n.into(),
            Self::I32(n) => n.into(),
            Self::U64(n) => n.into(),
            Self::I64(n) => n.into(),
            Self::F32(_) | Self::F64(_) => return None,
        })
    }

    /// Its value where it is a float; every F32 is an F64.
    pub fn as_float(self) -> Option<f64> {
        match self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// The number of type `element` that `text` spells; `None` when it does not fit the type.
    pub fn parse(element: Element, text: &str) -> Option<Self> {
        let text = text.trim();
        // Digits that come to infinity are a number too large, not the word.
        let fits = |infinite: bool| !(infinite && text.contains(|c: char| c.is_ascii_digit()));
        Some(match element {
            Element::U8 => Self::U8(text.parse().ok()?),
            Element::I8 => Self::I8(text.parse().ok()?),
            Element::U16 => Self::U16(text.parse().ok()?),
            Element::I16 => Self::I16(text.parse().ok()?),
            Element::U32 => Self::U32(text.parse().ok()?),
            Element::I32 => Self::I32(text.parse().ok()?),
            Element::U64 => Self::U64(text.parse().ok()?),
            Element::I64 => Self::I64(text.parse().ok()?),
            Element::F32 => Self::F32(text.parse().ok().filter(|x: &f32| fits(x.is_infinite()))?),
            Element::F64 => Self::F64(text.parse().ok().filter(|x: &f64| fits(x.is_infinite()))?),
            Element::Bool | Element::Str | Element::Array => return None,
        })
    }

    /// Its bits, the low ones of 64; those above have no meaning.
    pub fn bits(self) -> u64 {
        match self {
            Self::U8(n) => n.into(),
            Self::I8(n) => n as u64,
            Self::U16(n) => n.into(),
            Self::I16(n) => n as u64,
            Self::U32(n) => n.into(),
            Self::I32(n) => n as u64,
            Self::U64(n) => n,
            Self::I64(n) => n as u64,
            Self::F32(n) => n.to_bits().into(),
            Self::F64(n) => n.to_bits(),
        }
    }

    /// Its little-endian bytes, appended to `out`.
    pub fn put(self, out: &mut Vec<u8>) {
        Coding::CANONICAL.put_number(self, out);
    }

    /// The number of type `element` whose bits are the low ones of `bits`.
    pub fn from_bits(element: Element, bits: u64) -> Option<Self> {
        // As many bits as the type has were read: the casts only say so.
        Some(match element {
            Element::U8 => Self::U8(bits as u8),
            Element::I8 => Self::I8(bits as u8 as i8),
            Element::U16 => Self::U16(bits as u16),
            Element::I16 => Self::I16(bits as u16 as i16),
            Element::U32 => Self::U32(bits as u32),
            Element::I32 => Self::I32(bits as u32 as i32),
            Element::U64 => Self::U64(bits),
            Element::I64 => Self::I64(bits as i64),
            Element::F32 => Self::F32(f32::from_bits(bits as u32)),
            Element::F64 => Self::F64(f64::from_bits(bits)),
            Element::Bool | Element::Str | Element::Array => return None,
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(n) => n.fmt(f),
            Self::I8(n) => n.fmt(f),
            Self::U16(n) => n.fmt(f),
            Self::I16(n) => n.fmt(f),
            Self::U32(n) => n.fmt(f),
            Self::I32(n) => n.fmt(f),
            Self::U64(n) => n.fmt(f),
            Self::I64(n) => n.fmt(f),
            // The shortest text that reads back to the same bits.
            Self::F32(x) => write!(f, "{x:?}"),
            Self::F64(x) => write!(f, "{x:?}"),
        }
    }
}

/// How the numbers and lengths of an array are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// Whether numbers have their most significant byte first.
    pub big_endian: bool,
    /// Whether lengths take 8 bytes; else 4 (version 1 of GGUF).
    pub wide: bool,
}

impl Coding {
    /// Little-endian with lengths of 8 bytes: what is written, and what most files have.
    pub const CANONICAL: Self = Self {
        big_endian: false,
        wide: true,
    };

    /// Bytes of a length.
    pub fn prefix(self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// Appends the low `bytes` bytes of `bits`.
    pub fn put(self, bits: u64, bytes: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let little = bits.to_le_bytes();
        out.extend(little.iter().take(bytes));
        if self.big_endian {
            out.get_mut(start..).unwrap_or_default().reverse();
        }
    }

    /// Appends a length, which fits: a header is far shorter than 32 bits can count.
    pub fn put_length(self, n: u64, out: &mut Vec<u8>) {
        self.put(n, self.prefix(), out);
    }

    /// Appends a string with its length.
    pub fn put_string(self, s: &[u8], out: &mut Vec<u8>) {
        self.put_length(s.len() as u64, out);
        out.extend(s);
    }

    /// Appends a number.
    pub fn put_number(self, n: Number, out: &mut Vec<u8>) {
        self.put(n.bits(), n.element().bytes().unwrap_or(1), out);
    }
}

/// An array that lies in a file, unread: elements one after the other, a string as its length and
/// its bytes, an array as its element type (GGUF's number, 4 bytes), its length and its elements.
#[derive(Clone)]
pub struct Packed {
    element: Element,
    len: u64,
    source: Arc<dyn ByteSource>,
    range: Range<u64>,
    coding: Coding,
}

/// How deep arrays of arrays are followed.
const DEEPEST: u32 = 8;

/// How much of an array is read for its first elements where it is not mapped, in bytes.
const FIRST_READ: u64 = 64 << 10;

impl Packed {
    /// The array of `len` elements that lies in `range` of `source`. The caller has walked it.
    pub fn new(
        element: Element,
        len: u64,
        source: Arc<dyn ByteSource>,
        range: Range<u64>,
        coding: Coding,
    ) -> Self {
        Self {
            element,
            len,
            source,
            range,
            coding,
        }
    }

    /// An array in memory: `bytes` are its elements in the canonical coding.
    pub fn from_bytes(element: Element, len: u64, bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len() as u64;
        let source = Arc::new(SliceSource::new(bytes, "array"));
        Self::new(element, len, source, range, Coding::CANONICAL)
    }

    /// An array of strings in memory.
    pub fn from_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Self {
        let (mut bytes, mut n) = (Vec::new(), 0);
        for s in strings {
            let s = s.as_ref();
            bytes.extend((s.len() as u64).to_le_bytes());
            bytes.extend(s);
            n += 1;
        }
        Self::from_bytes(Element::Str, n, bytes)
    }

    /// What it holds.
    pub fn element(&self) -> Element {
        self.element
    }

    /// How many elements it has.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it takes where it lies.
    pub fn stored_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn raw(&self) -> Result<Cow<'_, [u8]>> {
        match self.source.slice(self.range.clone()) {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => self.source.read_vec(self.range.clone()).map(Cow::Owned),
        }
    }

    /// Its elements in the canonical coding: borrowed from the mapping where they lie so.
    ///
    /// # Errors
    /// What reading gives.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.bytes_in(Coding::CANONICAL)
    }

    /// Its elements in `coding`: borrowed from the mapping where they lie so.
    ///
    /// # Errors
    /// What reading gives.
    pub fn bytes_in(&self, coding: Coding) -> Result<Cow<'_, [u8]>> {
        let raw = self.raw()?;
        if self.coding == coding || self.element.bytes() == Some(1) {
            return Ok(raw);
        }
        let mut out = Vec::with_capacity(raw.len());
        let mut at = Walk::new(&raw, self.coding);
        at.recode(self.element, self.len, 0, coding, &mut out)?;
        Ok(Cow::Owned(out))
    }

    /// Checks that its bytes are exactly as many elements as it says.
    ///
    /// # Errors
    /// `Malformed` or `Truncated` (`metadata.array`), and what reading gives.
    pub fn check(&self) -> Result<()> {
        let raw = self.raw()?;
        let mut at = Walk::new(&raw, self.coding);
        at.skip(self.element, self.len, 0)?;
        if at.at != raw.len() {
            let message = "an array goes on behind its last element";
            return Err(Error::malformed("metadata.array", message));
        }
        Ok(())
    }

    /// Its first `most` elements.
    ///
    /// # Errors
    /// What reading gives.
    pub fn values(&self, most: u64) -> Result<Vec<Value>> {
        if let Some(bytes) = self.source.slice(self.range.clone()) {
            return self.first(bytes, most);
        }
        // The first of half a million do not take all of them.
        let mut ask = FIRST_READ;
        loop {
            let end = self.range.end.min(self.range.start.saturating_add(ask));
            let bytes = self.source.read_vec(self.range.start..end)?;
            match self.first(&bytes, most) {
                Err(e) if e.kind() == ErrorKind::Truncated && end < self.range.end => {
                    ask = ask.saturating_mul(8);
                }
                found => return found,
            }
        }
    }

    fn first(&self, bytes: &[u8], most: u64) -> Result<Vec<Value>> {
        let mut at = Walk::new(bytes, self.coding);
        let mut out = Vec::new();
        for _ in 0..self.len.min(most) {
            out.push(at.value(self.element, self)?);
        }
        Ok(out)
    }

    /// Calls `f` with every string and its number; any other array has none. `f` says whether to
    /// go on.
    ///
    /// # Errors
    /// What reading gives.
    pub fn each_string(&self, f: &mut dyn FnMut(u64, &[u8]) -> bool) -> Result<()> {
        if self.element != Element::Str {
            return Ok(());
        }
        let raw = self.raw()?;
        let mut at = Walk::new(&raw, self.coding);
        for i in 0..self.len {
            if !f(i, at.string()?) {
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} × {})", self.len, self.element.as_str())
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        let alike = self.element == other.element && self.len == other.len;
        alike && matches!((self.bytes(), other.bytes()), (Ok(a), Ok(b)) if a == b)
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    coding: Coding,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], coding: Coding) -> Self {
        Self {
            bytes,
            at: 0,
            coding,
        }
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let found = end.and_then(|e| self.bytes.get(self.at..e));
        let found = found.ok_or_else(|| {
            Error::truncated("metadata.array", "an array ends before its last element")
        })?;
        self.at += found.len();
        Ok(found)
    }

    fn number(&mut self, n: usize) -> Result<u64> {
        let big = self.coding.big_endian;
        let bytes = self.take(n as u64)?;
        let push = |n: u64, b: &u8| (n << 8) | u64::from(*b);
        Ok(if big {
            bytes.iter().fold(0, push)
        } else {
            bytes.iter().rev().fold(0, push)
        })
    }

    fn length(&mut self) -> Result<u64> {
        self.number(if self.coding.wide { 8 } else { 4 })
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let n = self.length()?;
        self.take(n)
    }

    fn value(&mut self, element: Element, of: &Packed) -> Result<Value> {
        Ok(match element {
            Element::Bool => Value::Bool(self.number(1)? != 0),
            Element::Str => text(self.string()?),
            Element::Array => {
                let inner = nested(self.number(4)?)?;
                let len = self.length()?;
                let start = self.at as u64;
                self.skip(inner, len, 0)?;
                let base = of.range.start;
                let range = base.saturating_add(start)..base.saturating_add(self.at as u64);
                let source = Arc::clone(&of.source);
                Value::Packed(Packed::new(inner, len, source, range, of.coding))
            }
            number => {
                let bits = self.number(number.bytes().unwrap_or(1))?;
                Number::from_bits(number, bits).map_or(Value::Null, Value::Number)
            }
        })
    }

    /// Steps over `len` elements; takes no longer than the bytes are many.
    fn skip(&mut self, element: Element, len: u64, depth: u32) -> Result<()> {
        if depth >= DEEPEST {
            return Err(too_deep());
        }
        if let Some(n) = element.bytes() {
            let all = len.saturating_mul(n as u64);
            return self.take(all).map(|_| ());
        }
        for _ in 0..len {
            if element == Element::Str {
                self.string()?;
            } else {
                let inner = nested(self.number(4)?)?;
                let n = self.length()?;
                self.skip(inner, n, depth + 1)?;
            }
        }
        Ok(())
    }

    fn recode(
        &mut self,
        element: Element,
        len: u64,
        depth: u32,
        to: Coding,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if depth >= DEEPEST {
            return Err(too_deep());
        }
        for _ in 0..len {
            match element {
                Element::Str => to.put_string(self.string()?, out),
                Element::Array => {
                    let id = self.number(4)?;
                    let (inner, n) = (nested(id)?, self.length()?);
                    to.put(id, 4, out);
                    to.put_length(n, out);
                    self.recode(inner, n, depth + 1, to, out)?;
                }
                other => {
                    let n = other.bytes().unwrap_or(1);
                    to.put(self.number(n)?, n, out);
                }
            }
        }
        Ok(())
    }
}

fn too_deep() -> Error {
    let message = format!("arrays are nested deeper than {DEEPEST}");
    Error::limit("metadata.array", message)
}

/// Text, or bytes where they are no UTF-8.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(s) => Value::Str(s.to_owned()),
        Err(_) => Value::Bytes(bytes.to_vec()),
    }
}

/// GGUF's numbers of the types (`enum gguf_type`), as nested arrays hold them.
const NESTED: [Element; 13] = [
    Element::U8,
    Element::I8,
    Element::U16,
    Element::I16,
    Element::U32,
    Element::I32,
    Element::F32,
    Element::Bool,
    Element::Str,
    Element::Array,
    Element::U64,
    Element::I64,
    Element::F64,
];

fn nested(id: u64) -> Result<Element> {
    let found = usize::try_from(id).ok().and_then(|i| NESTED.get(i));
    found.copied().ok_or_else(|| {
        let message = format!("an array of arrays has elements of type {id}");
        Error::malformed("metadata.array", message)
    })
}

impl Element {
    /// The element type that GGUF numbers `id`.
    pub fn from_gguf(id: u32) -> Option<Self> {
        NESTED.get(id as usize).copied()
    }

    /// The number that GGUF gives it.
    pub fn gguf(self) -> u32 {
        NESTED.iter().position(|e| *e == self).unwrap_or(0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_endian_and_narrow_arrays_read_as_canonical_ones() {
        let narrow = [2u32.to_be_bytes().as_slice(), b"ab", &0u32.to_be_bytes()].concat();
        let n = narrow.len() as u64;
        let coding = Coding {
            big_endian: true,
            wide: false,
        };
        let source = Arc::new(SliceSource::new(narrow, "t"));
        let old = Packed::new(Element::Str, 2, source, 0..n, coding);
        let new = Packed::from_strings(["ab", ""]);
        assert_eq!(old, new);
        assert_ne!(old, Packed::from_strings(["ab", "c"]));
        assert_eq!(new.bytes_in(coding).unwrap(), old.raw().unwrap());
        assert_eq!(
            old.values(9).unwrap(),
            [Value::Str("ab".into()), Value::Str(String::new())]
        );
        let numbers = [1u16.to_be_bytes(), 515u16.to_be_bytes()].concat();
        let source = Arc::new(SliceSource::new(numbers, "t"));
        let old = Packed::new(Element::U16, 2, source, 0..4, coding);
        assert_eq!(*old.bytes().unwrap(), [1, 0, 3, 2]);
        assert_eq!(*old.bytes_in(coding).unwrap(), [0, 1, 2, 3]);
        assert_eq!(old.values(1).unwrap(), [Value::Number(Number::U16(1))]);
    }

    #[test]
    fn an_array_cut_short_is_an_error() {
        let cut = Packed::from_bytes(Element::Str, 2, vec![1, 0, 0, 0, 0, 0, 0, 0, b'a']);
        assert_eq!(cut.values(9).unwrap_err().rule(), "metadata.array");
        assert_ne!(cut, Packed::from_strings(["a", "b"]));
    }

    #[test]
    fn arrays_of_arrays_open_one_by_one() {
        let mut bytes = Vec::new();
        for (n, x) in [(1u64, 7u8), (2, 8)] {
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(n.to_le_bytes());
            bytes.extend(std::iter::repeat_n(x, n as usize));
        }
        let all = Packed::from_bytes(Element::Array, 2, bytes);
        let inner = all.values(9).unwrap();
        let want = [(1, vec![7]), (2, vec![8, 8])];
        for (value, (n, bytes)) in inner.iter().zip(want) {
            assert_eq!(
                *value,
                Value::Packed(Packed::from_bytes(Element::U8, n, bytes))
            );
        }
        let turned = Coding {
            big_endian: true,
            wide: false,
        };
        let bytes = all.bytes_in(turned).unwrap().into_owned();
        assert_eq!(
            bytes,
            [0, 0, 0, 0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 2, 8, 8]
        );
        let n = bytes.len() as u64;
        let source = Arc::new(SliceSource::new(bytes, "t"));
        assert_eq!(Packed::new(Element::Array, 2, source, 0..n, turned), all);
    }

    #[test]
    fn numbers_are_spelled_and_read_back() {
        for n in [
            Number::U64(u64::MAX),
            Number::I8(-128),
            Number::F32(0.1),
            Number::F64(1e-300),
            Number::F32(f32::INFINITY),
        ] {
            assert_eq!(Number::parse(n.element(), &n.to_string()), Some(n));
            let mut bytes = Vec::new();
            n.put(&mut bytes);
            assert_eq!(Some(bytes.len()), n.element().bytes());
        }
        assert_eq!(Number::parse(Element::U8, "256"), None);
        for e in Element::ALL {
            assert_eq!(Element::from_gguf(e.gguf()), Some(e));
            assert_eq!(Element::parse(e.as_str()), Some(e));
        }
    }
}
