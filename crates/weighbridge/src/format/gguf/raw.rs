//! The header as it lies in the file: magic, counts, key-values, tensor descriptions.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `GGUF` |
//! | 4 | version: 1, 2 or 3; its byte order is the file's |
//! | 8 (4 in version 1) | number of tensors |
//! | 8 (4) | number of key-values |
//! | … | key-values: key string, type (4), value |
//! | … | tensors: name string, number of dimensions (4), dimensions (8 each; 4 in version 1), type (4), offset (8) |
//! | … | zeros up to the alignment, then the tensors' data |
//!
//! A string is its length (8, in version 1: 4) and its bytes; an array is its element type (4), its
//! length (8, in version 1: 4) and its elements. Facts are from `docs/gguf.md` of the ggml
//! repository and from the reference reader, `ggml/src/gguf.cpp` (ggml 0.25.3); version 1 from the
//! readers that still take it (candle, gguf-py).
//!
//! Nothing is copied but names and single strings: arrays stay where they are, and a file that is
//! not mapped is read through a window. No count or length is believed before the file has shown
//! that it has as many bytes.

use std::ops::Range;

use weighbridge_core::model::Coding;
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};

use super::kept::{Bytes, Kept};
use super::reader::Reader;
use super::types::ValueType;
use super::walk;

/// Alignment of the data where `general.alignment` says nothing, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The largest alignment that is believed, in bytes: with more, the padding of an empty tensor is
/// larger than any model.
pub const MOST_ALIGNMENT: u64 = 1 << 20;

/// Most bytes of header: the largest vocabularies take a few dozen MiB.
pub const MOST_HEADER: u64 = 1 << 29;

/// A metadata value. Ranges are of the file's bytes.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the variants are the format's own names
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Range<usize>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// The type of its elements.
    pub element: ValueType,
    /// How many there are.
    pub len: u64,
    /// Where they lie.
    pub range: Range<usize>,
}

/// One key-value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the key lies, without its length.
    pub key: Range<usize>,
    /// The value.
    pub value: Value,
}

/// One tensor's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Where its description begins in the file.
    pub at: usize,
    /// Where its name lies.
    pub name: Range<usize>,
    /// Its dimensions, innermost first; 1 beyond the last.
    pub dims: [u64; 4],
    /// How many dimensions the file gives.
    pub n_dims: u32,
    /// The number of its type.
    pub type_id: i32,
    /// Where its data begins, in bytes from the start of the data region.
    pub offset: u64,
    /// Bytes of its data, where the type is known and the dimensions make sense.
    pub bytes: Option<u64>,
}

/// The header of a file: everything before the data region.
#[derive(Debug)]
pub struct Header<'a> {
    pub(super) source: &'a dyn ByteSource,
    pub(super) bytes: Bytes<'a>,
    /// 1, 2 or 3.
    pub version: u32,
    /// Whether numbers have their most significant byte first.
    pub big_endian: bool,
    /// The key-values, in file order.
    pub entries: Vec<Entry>,
    /// The tensors, in file order.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of the data, in bytes; `None` when the file gives an impossible one.
    pub alignment: Option<u64>,
    /// Where the header ends, in bytes.
    pub end: u64,
    /// Whether it could be walked to its end.
    pub complete: bool,
}

impl<'a> Header<'a> {
    /// Reads the header of `source`. Every broken rule of it goes to `broken`; what could be read
    /// before a break is given.
    ///
    /// # Errors
    /// Only `Io`: what is wrong with the file goes to `broken`.
    pub fn read(
        source: &'a dyn ByteSource,
        limits: &Limits,
        broken: &mut dyn FnMut(Error),
    ) -> Result<Self> {
        walk::read(source, limits, broken)
    }

    /// How its numbers and lengths are written.
    pub fn coding(&self) -> Coding {
        Coding {
            big_endian: self.big_endian,
            wide: self.version != 1,
        }
    }

    /// The bytes of `range`, which is that of a key, a name or a single string, or lies in one:
    /// of arrays only a mapped file has the bytes at hand.
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range)
    }

    /// The header with all of its bytes at hand, arrays included.
    ///
    /// # Errors
    /// What reading gives.
    pub(crate) fn whole(mut self) -> Result<Self> {
        if matches!(self.bytes, Bytes::Kept(_)) {
            let all = self.source.read_vec(0..self.end)?;
            self.bytes = Bytes::Kept(Kept::start(all));
        }
        Ok(self)
    }

    /// The entry under `key`; the first one, should the file repeat it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|e| self.bytes(&e.key) == key.as_bytes())
    }

    /// Gives the strings of an array of strings to `f`, each with the place of its first byte, as
    /// long as it says so. Any other array has none.
    ///
    /// # Errors
    /// What reading gives.
    pub fn each_string(
        &self,
        array: &Array,
        f: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) -> Result<()> {
        match array.element {
            ValueType::String => self.reader(array).each_string(array.len, f),
            _ => Ok(()),
        }
    }

    /// Gives the bytes of an array to `f`, a piece at a time. Pieces end with numbers.
    ///
    /// # Errors
    /// What reading gives.
    pub(super) fn pieces(&self, array: &Array, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        let n = array.range.len() as u64;
        self.reader(array).pieces(n, &mut |_, piece| f(piece))
    }

    fn reader(&self, array: &Array) -> Reader<'a> {
        let mut reader = Reader::new(self.source);
        reader.at = array.range.start;
        (reader.big_endian, reader.wide) = (self.big_endian, self.version != 1);
        reader
    }

    /// First byte of the data region, in bytes from the start of the file; `None` when the
    /// alignment is impossible.
    pub fn data_start(&self) -> Option<u64> {
        align_up(self.end, self.alignment?)
    }
}

/// `n` raised to the next multiple of `alignment`, which is a power of two.
pub(crate) fn align_up(n: u64, alignment: u64) -> Option<u64> {
    let mask = alignment.checked_sub(1)?;
    Some(n.checked_add(mask)? & !mask)
}

/// Text of the file as messages show it.
pub(super) fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..bytes.len().min(80)).unwrap_or_default();
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!(
        "`{}{more}`",
        String::from_utf8_lossy(cut)
            .escape_debug()
            .collect::<String>()
    )
}
