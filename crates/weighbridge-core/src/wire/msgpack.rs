//! MessagePack (`github.com/msgpack/msgpack`, `spec.md`), walked without copying: every item is
//! told by its kind and where its payload lies, and payloads are read only when asked for.
//!
//! | first byte | item |
//! |---|---|
//! | `00`–`7f`, `e0`–`ff` | a small integer |
//! | `80`–`8f`, `de`, `df` | a map of so many pairs |
//! | `90`–`9f`, `dc`, `dd` | an array of so many items |
//! | `a0`–`bf`, `d9`–`db` | text |
//! | `c0`, `c2`, `c3` | nil, false, true |
//! | `c4`–`c6` | bytes |
//! | `c7`–`c9`, `d4`–`d8` | an extension: a type, and bytes |
//! | `ca`, `cb` | a float, a double |
//! | `cc`–`cf`, `d0`–`d3` | integers, unsigned and signed |
//!
//! Numbers are big-endian. `c1` is never used.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::source::ByteSource;

/// How many bytes are read at once: items between payloads are short and lie close together.
const WINDOW: u64 = 4096;

/// One item. Containers are told before what is in them; their contents are the next items.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Nil.
    Nil,
    /// A truth value.
    Bool(bool),
    /// An integer, of any of the formats.
    Int(i128),
    /// A float or double.
    Float(f64),
    /// Text; its bytes are at this range of the source.
    Str(Range<u64>),
    /// Bytes at this range of the source.
    Bin(Range<u64>),
    /// An array of so many items.
    Array(u32),
    /// A map of so many pairs.
    Map(u32),
    /// An extension of this type, with its bytes.
    Ext(i8, Range<u64>),
}

impl Item {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Str(_) => "text",
            Self::Bin(_) => "bytes",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Ext(..) => "an extension",
        }
    }
}

/// Walks the items of a range of a source, one after the other.
#[derive(Debug)]
pub struct Reader<'a> {
    source: &'a dyn ByteSource,
    at: u64,
    end: u64,
    /// Bytes at hand, and where they begin.
    window: Vec<u8>,
    base: u64,
}

impl<'a> Reader<'a> {
    /// A reader of the items in `range`, cut to the source's end.
    pub fn new(source: &'a dyn ByteSource, range: Range<u64>) -> Self {
        let end = range.end.min(source.len());
        Self {
            source,
            at: range.start.min(end),
            end,
            window: Vec::new(),
            base: 0,
        }
    }

    /// Position of the next item.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Whether every item was read.
    pub fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// The next item; behind it, or, for a container, at its first item, the reader stands then.
    ///
    /// # Errors
    /// `Truncated` with `msgpack.truncated` where the range ends inside it, `Malformed` with
    /// `msgpack.unused-byte` for the one byte that begins nothing, and what reading gives.
    pub fn item(&mut self) -> Result<Item> {
        let at = self.at;
        let first = self.byte()?;
        Ok(match first {
            0x00..=0x7f => Item::Int(i128::from(first)),
            0xe0..=0xff => Item::Int(i128::from(first.cast_signed())),
            0x80..=0x8f => Item::Map(u32::from(first & 0x0f)),
            0xde => Item::Map(u32::from(u16::from_be_bytes(self.take()?))),
            0xdf => Item::Map(u32::from_be_bytes(self.take()?)),
            0x90..=0x9f => Item::Array(u32::from(first & 0x0f)),
            0xdc => Item::Array(u32::from(u16::from_be_bytes(self.take()?))),
            0xdd => Item::Array(u32::from_be_bytes(self.take()?)),
            0xa0..=0xbf => Item::Str(self.payload(u64::from(first & 0x1f), at)?),
            0xd9..=0xdb => {
                let n = self.length(first - 0xd9)?;
                Item::Str(self.payload(n, at)?)
            }
            0xc0 => Item::Nil,
            0xc2 => Item::Bool(false),
            0xc3 => Item::Bool(true),
            0xc4..=0xc6 => {
                let n = self.length(first - 0xc4)?;
                Item::Bin(self.payload(n, at)?)
            }
            0xc7..=0xc9 => {
                let n = self.length(first - 0xc7)?;
                self.extension(n, at)?
            }
            0xd4..=0xd8 => self.extension(1 << (first - 0xd4), at)?,
            0xca => Item::Float(f64::from(f32::from_be_bytes(self.take()?))),
            0xcb => Item::Float(f64::from_be_bytes(self.take()?)),
            0xcc => Item::Int(i128::from(self.byte()?)),
            0xcd => Item::Int(i128::from(u16::from_be_bytes(self.take()?))),
            0xce => Item::Int(i128::from(u32::from_be_bytes(self.take()?))),
            0xcf => Item::Int(i128::from(u64::from_be_bytes(self.take()?))),
            0xd0 => Item::Int(i128::from(i8::from_be_bytes(self.take()?))),
            0xd1 => Item::Int(i128::from(i16::from_be_bytes(self.take()?))),
            0xd2 => Item::Int(i128::from(i32::from_be_bytes(self.take()?))),
            0xd3 => Item::Int(i128::from(i64::from_be_bytes(self.take()?))),
            0xc1 => {
                let message = "the byte c1 begins no item";
                return Err(Error::malformed("msgpack.unused-byte", message).span(at, 1));
            }
        })
    }

    /// Steps over one item with all that is in it, and says how many items that were.
    ///
    /// # Errors
    /// As [`Reader::item`]; `Limit` with `msgpack.items` when it is more than `most`.
    pub fn skip(&mut self, most: u64) -> Result<u64> {
        let (mut left, mut count) = (1u64, 0u64);
        while left > 0 {
            if count >= most {
                let message = format!("there are over {most} items");
                return Err(Error::limit("msgpack.items", message).at(self.at));
            }
            count += 1;
            left -= 1;
            left = left.saturating_add(match self.item()? {
                Item::Array(n) => u64::from(n),
                Item::Map(n) => u64::from(n).saturating_mul(2),
                _ => 0,
            });
        }
        Ok(count)
    }

    /// The bytes of a payload of at most `most` bytes.
    ///
    /// # Errors
    /// `Limit` with `msgpack.text-size`, and what reading gives.
    pub fn bytes(&self, payload: &Range<u64>, most: u64) -> Result<Vec<u8>> {
        let len = payload.end.saturating_sub(payload.start);
        if len > most {
            let message = format!("a text of {len} bytes where {most} are the most");
            return Err(Error::limit("msgpack.text-size", message).span(payload.start, len));
        }
        let start = payload.start.checked_sub(self.base);
        let here = start.and_then(|s| {
            let s = usize::try_from(s).ok()?;
            self.window
                .get(s..s.checked_add(usize::try_from(len).ok()?)?)
        });
        match here {
            Some(bytes) => Ok(bytes.to_vec()),
            None => self.source.read_vec(payload.clone()),
        }
    }

    /// The text of a payload of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Reader::bytes`]; `Malformed` with `msgpack.utf8`.
    pub fn text(&self, payload: &Range<u64>, most: u64) -> Result<String> {
        String::from_utf8(self.bytes(payload, most)?).map_err(|_| {
            Error::malformed("msgpack.utf8", "a text is no UTF-8")
                .span(payload.start, payload.end.saturating_sub(payload.start))
        })
    }

    fn cut(&self, at: u64) -> Error {
        Error::truncated("msgpack.truncated", "the data ends inside an item").at(at)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take::<1>().map(|[b]| b)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let end = self.at.saturating_add(N as u64);
        if end > self.end {
            return Err(self.cut(self.at));
        }
        let inside =
            self.at >= self.base && end <= self.base.saturating_add(self.window.len() as u64);
        if !inside {
            self.window
                .resize(WINDOW.min(self.end - self.at) as usize, 0);
            self.base = self.at;
            if let Err(e) = self.source.read_at(self.at, &mut self.window) {
                self.window.clear();
                return Err(e);
            }
        }
        let start = usize::try_from(self.at - self.base).unwrap_or(usize::MAX);
        let mut out = [0; N];
        if let Some(bytes) = self.window.get(start..start.saturating_add(N)) {
            out.copy_from_slice(bytes);
        }
        self.at = end;
        Ok(out)
    }

    /// A length in one, two or four bytes.
    fn length(&mut self, width: u8) -> Result<u64> {
        Ok(match width {
            0 => u64::from(self.byte()?),
            1 => u64::from(u16::from_be_bytes(self.take()?)),
            _ => u64::from(u32::from_be_bytes(self.take()?)),
        })
    }

    fn extension(&mut self, len: u64, at: u64) -> Result<Item> {
        let kind = self.byte()?.cast_signed();
        Ok(Item::Ext(kind, self.payload(len, at)?))
    }

    /// Steps over a payload of `len` bytes of the item at `at`.
    fn payload(&mut self, len: u64, at: u64) -> Result<Range<u64>> {
        let start = self.at;
        let end = start.checked_add(len).filter(|&e| e <= self.end);
        let end = end.ok_or_else(|| {
            let left = self.end.saturating_sub(start);
            let message = format!("an item of {len} bytes has {left} left");
            Error::truncated("msgpack.truncated", message).at(at)
        })?;
        self.at = end;
        Ok(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SliceSource;

    fn items(bytes: &[u8]) -> Result<Vec<Item>> {
        let source = SliceSource::new(bytes, "m");
        let mut r = Reader::new(&source, 0..bytes.len() as u64);
        let mut out = Vec::new();
        while !r.is_done() {
            out.push(r.item()?);
        }
        Ok(out)
    }

    #[test]
    fn every_format_of_the_specification() {
        let cases: [(&[u8], Item); 33] = [
            (&[0x07], Item::Int(7)),
            (&[0xff], Item::Int(-1)),
            (&[0xe0], Item::Int(-32)),
            (&[0xcc, 200], Item::Int(200)),
            (&[0xcd, 1, 0], Item::Int(256)),
            (&[0xce, 0, 1, 0, 0], Item::Int(65536)),
            (
                &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255],
                Item::Int(u64::MAX.into()),
            ),
            (&[0xd0, 0x80], Item::Int(-128)),
            (&[0xd1, 0xff, 0], Item::Int(-256)),
            (&[0xd2, 0xff, 0xff, 0, 0], Item::Int(-65536)),
            (
                &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0],
                Item::Int(i64::MIN.into()),
            ),
            (&[0xca, 0x3f, 0xc0, 0, 0], Item::Float(1.5)),
            (&[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], Item::Float(1.5)),
            (&[0xc0], Item::Nil),
            (&[0xc2], Item::Bool(false)),
            (&[0xc3], Item::Bool(true)),
            (&[0xa2, b'h', b'i'], Item::Str(1..3)),
            (&[0xd9, 1, b'h'], Item::Str(2..3)),
            (&[0xda, 0, 1, b'h'], Item::Str(3..4)),
            (&[0xdb, 0, 0, 0, 1, b'h'], Item::Str(5..6)),
            (&[0xc4, 1, 9], Item::Bin(2..3)),
            (&[0xc5, 0, 1, 9], Item::Bin(3..4)),
            (&[0xc6, 0, 0, 0, 1, 9], Item::Bin(5..6)),
            (&[0x80], Item::Map(0)),
            (&[0xde, 0, 0], Item::Map(0)),
            (&[0xdf, 0, 0, 0, 0], Item::Map(0)),
            (&[0x90], Item::Array(0)),
            (&[0xdc, 0, 0], Item::Array(0)),
            (&[0xdd, 0, 0, 0, 0], Item::Array(0)),
            (&[0xd4, 0xff, 9], Item::Ext(-1, 2..3)),
            (&[0xd5, 1, 9, 9], Item::Ext(1, 2..4)),
            (&[0xc7, 3, 2, 9, 9, 9], Item::Ext(2, 3..6)),
            (&[0xc9, 0, 0, 0, 1, 2, 9], Item::Ext(2, 6..7)),
        ];
        for (bytes, item) in cases {
            assert_eq!(items(bytes).unwrap(), [item], "{bytes:x?}");
            for n in 1..bytes.len() {
                let e = items(&bytes[..n]).unwrap_err();
                assert_eq!(e.rule(), "msgpack.truncated", "{bytes:x?} cut at {n}");
            }
        }
        assert_eq!(items(&[0xc1]).unwrap_err().rule(), "msgpack.unused-byte");
        assert_eq!(items(&[0xd8, 1]).unwrap_err().rule(), "msgpack.truncated");
    }

    #[test]
    fn containers_are_stepped_over_whole() {
        let bytes = [0x82, 0xa1, b'a', 0x92, 1, 2, 0xa1, b'b', 0x80, 0x05];
        let source = SliceSource::new(bytes, "m");
        let mut r = Reader::new(&source, 0..bytes.len() as u64);
        assert_eq!(r.skip(100).unwrap(), 7);
        assert_eq!(r.item().unwrap(), Item::Int(5));
        let mut r = Reader::new(&source, 0..bytes.len() as u64);
        assert_eq!(r.skip(3).unwrap_err().rule(), "msgpack.items");
        // A count of four thousand million items that are not there costs nothing.
        let bytes = [0xdf, 0xff, 0xff, 0xff, 0xff];
        let source = SliceSource::new(bytes, "m");
        let mut r = Reader::new(&source, 0..5);
        assert_eq!(r.skip(u64::MAX).unwrap_err().rule(), "msgpack.truncated");
    }

    #[test]
    fn payloads_across_windows_are_read() {
        let mut bytes = vec![0xc5, 0x1f, 0xff];
        bytes.extend(vec![7; 0x1fff]);
        bytes.extend([0xa2, b'o', b'k', 0xa1, 0xff]);
        let source = SliceSource::new(bytes.clone(), "m");
        let mut r = Reader::new(&source, 0..bytes.len() as u64);
        let Item::Bin(b) = r.item().unwrap() else {
            panic!()
        };
        assert_eq!(r.bytes(&b, 1 << 20).unwrap().len(), 0x1fff);
        assert_eq!(r.bytes(&b, 10).unwrap_err().rule(), "msgpack.text-size");
        let Item::Str(s) = r.item().unwrap() else {
            panic!()
        };
        assert_eq!(r.text(&s, 10).unwrap(), "ok");
        let Item::Str(s) = r.item().unwrap() else {
            panic!()
        };
        assert_eq!(r.text(&s, 10).unwrap_err().rule(), "msgpack.utf8");
    }
}
