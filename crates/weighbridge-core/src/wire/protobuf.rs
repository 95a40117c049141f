//! Protocol Buffers' wire format, walked lazily: fields are seen as spans of the source, and a
//! payload is read only when somebody asks for it, so that a model of many gigabytes costs as
//! much as its structure.
//!
//! Source: "Encoding", <https://protobuf.dev/programming-guides/encoding/>. A message is a run of
//! records, each a tag varint (`field number << 3 | wire type`) and a value:
//!
//! | wire type | value |
//! |---|---|
//! | 0 | varint: 7 bits a byte, least significant first, at most ten bytes |
//! | 1, 5 | eight or four bytes, little endian |
//! | 2 | length varint, then as many bytes: a string, a message, packed numbers |
//! | 3, 4 | start and end of a group, which nests by field number |
//!
//! Nothing says what a field means: readers match numbers and take unknown ones as they come.

use crate::error::{Error, Result};
use crate::source::ByteSource;

/// Bytes read ahead at a time. Small, because most of what follows a payload is near.
const WINDOW: u64 = 16 << 10;

/// Deepest nesting of groups that is stepped over.
const MOST_GROUPS: usize = 64;

/// Greatest field number (29 bits).
const MOST_NUMBER: u64 = (1 << 29) - 1;

/// A run of bytes of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// The first byte, counted from the start of the source.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

impl Span {
    /// The whole of `source`.
    pub fn of(source: &dyn ByteSource) -> Self {
        Self {
            start: 0,
            end: source.len(),
        }
    }

    /// Length in bytes.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Wire type 0. Signed types of fixed meaning (`int32`, `int64`) are its two's complement.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire type 2: where the bytes lie, without the length.
    Bytes(Span),
    /// Wire type 3: where the fields between the start and its end lie.
    Group(Span),
}

/// One record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The field number.
    pub number: u32,
    /// Where its tag lies, counted from the start of the source.
    pub at: u64,
    /// The value.
    pub value: Value,
}

impl Field {
    /// The bytes of a length-delimited field.
    pub fn bytes(&self) -> Option<Span> {
        match self.value {
            Value::Bytes(s) => Some(s),
            _ => None,
        }
    }

    /// The number of a varint field.
    pub fn varint(&self) -> Option<u64> {
        match self.value {
            Value::Varint(n) => Some(n),
            _ => None,
        }
    }
}

/// How far a message has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    at: u64,
    end: u64,
}

impl Message {
    /// The message that fills `span`.
    pub fn new(span: Span) -> Self {
        Self {
            at: span.start,
            end: span.end,
        }
    }

    /// Where the next field begins.
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// Reads fields of one source. Its count of fields is shared by all messages read through it, so
/// that nested messages cannot multiply the work.
#[derive(Debug)]
pub struct Reader<'s> {
    source: &'s dyn ByteSource,
    window: Vec<u8>,
    window_at: u64,
    fields_left: u64,
}

impl<'s> Reader<'s> {
    /// A reader of `source` that gives at most `fields` fields.
    pub fn new(source: &'s dyn ByteSource, fields: u64) -> Self {
        Self {
            source,
            window: Vec::new(),
            window_at: 0,
            fields_left: fields,
        }
    }

    /// The next field of `message`, or `None` at its end.
    ///
    /// # Errors
    /// `Truncated` when a value passes the end of its message, `Malformed` when a tag is none,
    /// `Limit` when the reader's count of fields is spent or groups nest too deep, `Io`.
    pub fn next(&mut self, message: &mut Message) -> Result<Option<Field>> {
        if message.at >= message.end {
            return Ok(None);
        }
        let at = message.at;
        let (number, wire) = self.tag(message)?;
        let value = match wire {
            3 => Value::Group(self.group(message, number, at)?),
            4 => return Err(bad("a group ends that did not begin", at)),
            _ => self.value(message, wire, at)?,
        };
        Ok(Some(Field { number, at, value }))
    }

    fn tag(&mut self, message: &mut Message) -> Result<(u32, u8)> {
        let at = message.at;
        self.fields_left = self.fields_left.checked_sub(1).ok_or_else(|| {
            Error::limit("protobuf.fields", "the message has too many fields").at(at)
        })?;
        let tag = self.varint(message)?;
        let number = tag >> 3;
        if number == 0 || number > MOST_NUMBER {
            return Err(bad(format!("{number} is no field number"), at));
        }
        // Both fit: the number has 29 bits and the wire type three.
        Ok((number as u32, (tag & 7) as u8))
    }

    fn value(&mut self, message: &mut Message, wire: u8, at: u64) -> Result<Value> {
        Ok(match wire {
            0 => Value::Varint(self.varint(message)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed(message)?)),
            2 => {
                let len = self.varint(message)?;
                let start = message.at;
                let end = start.checked_add(len).filter(|&e| e <= message.end);
                let Some(end) = end else {
                    let left = message.end.saturating_sub(start);
                    return Err(Error::truncated(
                        "protobuf.length",
                        format!("a field says {len} bytes, {left} are left of its message"),
                    )
                    .at(at));
                };
                message.at = end;
                Value::Bytes(Span { start, end })
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.fixed(message)?)),
            _ => return Err(bad(format!("{wire} is no wire type"), at)),
        })
    }

    /// Steps over a group; its fields are the span it gives.
    fn group(&mut self, message: &mut Message, number: u32, at: u64) -> Result<Span> {
        let start = message.at;
        let mut open = vec![number];
        loop {
            let end = message.at;
            if end >= message.end {
                return Err(Error::truncated("protobuf.group", "a group does not end").at(at));
            }
            let (number, wire) = self.tag(message)?;
            match wire {
                3 if open.len() >= MOST_GROUPS => {
                    return Err(Error::limit("protobuf.depth", "groups nest too deep").at(end));
                }
                3 => open.push(number),
                4 if open.last() != Some(&number) => {
                    return Err(bad("a group ends that did not begin", end));
                }
                4 => {
                    open.pop();
                    if open.is_empty() {
                        return Ok(Span { start, end });
                    }
                }
                _ => {
                    self.value(message, wire, end)?;
                }
            }
        }
    }

    /// A number of up to 64 bits. Bits beyond are dropped, as every implementation drops them.
    fn varint(&mut self, message: &mut Message) -> Result<u64> {
        let at = message.at;
        let mut n = 0u64;
        for i in 0..10u32 {
            let byte = self.byte(message)?;
            n |= u64::from(byte & 0x7f).checked_shl(i * 7).unwrap_or(0);
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(bad("a number is longer than ten bytes", at))
    }

    fn fixed<const N: usize>(&mut self, message: &mut Message) -> Result<[u8; N]> {
        let mut out = [0u8; N];
        for b in &mut out {
            *b = self.byte(message)?;
        }
        Ok(out)
    }

    fn byte(&mut self, message: &mut Message) -> Result<u8> {
        let at = message.at;
        if at >= message.end {
            return Err(
                Error::truncated("protobuf.truncated", "the message ends in a field").at(at),
            );
        }
        message.at = at.saturating_add(1);
        if let Some(b) = self.seen(at) {
            return Ok(b);
        }
        let end = at.saturating_add(WINDOW).min(self.source.len());
        self.window = self.source.read_vec(at..end)?;
        self.window_at = at;
        self.seen(at).ok_or_else(|| {
            Error::truncated("protobuf.truncated", "the file ends in a field").at(at)
        })
    }

    fn seen(&self, at: u64) -> Option<u8> {
        let i = usize::try_from(at.checked_sub(self.window_at)?).ok()?;
        self.window.get(i).copied()
    }

    /// The bytes of `span`, if they are at most `most`.
    ///
    /// # Errors
    /// `Limit` when they are more, and what reading gives.
    pub fn read(&self, span: Span, most: u64) -> Result<Vec<u8>> {
        if span.len() > most {
            return Err(Error::limit(
                "protobuf.value",
                format!(
                    "a value of {} bytes is over the limit of {most}",
                    span.len()
                ),
            )
            .at(span.start));
        }
        // What follows a tag has mostly been read with it.
        if let Some(there) = self.held(span) {
            return Ok(there.to_vec());
        }
        self.source.read_vec(span.start..span.end)
    }

    /// The bytes of `span`, if all of them have been read ahead.
    fn held(&self, span: Span) -> Option<&[u8]> {
        let from = usize::try_from(span.start.checked_sub(self.window_at)?).ok()?;
        let len = usize::try_from(span.len()).ok()?;
        self.window.get(from..from.checked_add(len)?)
    }

    /// Gives the 32-bit numbers of a repeated fixed field to `f`, whether it is packed or not. Bytes
    /// behind the last whole number are an error.
    ///
    /// # Errors
    /// As [`Reader::next`], and what `f` returns.
    pub fn fixed32s(&mut self, field: &Field, f: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        match field.value {
            Value::Fixed32(n) => f(n),
            Value::Bytes(span) => {
                let mut packed = Message::new(span);
                while packed.at < packed.end {
                    f(u32::from_le_bytes(self.fixed(&mut packed)?))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The first bytes of `span`, at most `most`.
    ///
    /// # Errors
    /// What reading gives.
    pub fn head(&self, span: Span, most: u64) -> Result<Vec<u8>> {
        let end = span.end.min(span.start.saturating_add(most));
        self.source.read_vec(span.start..end)
    }

    /// The text of `span`, cut after `most` bytes; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// What reading gives.
    pub fn text(&self, span: Span, most: u64) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.head(span, most)?).into_owned())
    }

    /// Gives the numbers of a repeated varint field to `f`, whether it is packed or not.
    ///
    /// # Errors
    /// As [`Reader::next`], and what `f` returns.
    pub fn varints(&mut self, field: &Field, f: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        match field.value {
            Value::Varint(n) => f(n),
            Value::Bytes(span) => {
                let mut packed = Message::new(span);
                while packed.at < packed.end {
                    f(self.varint(&mut packed)?)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn bad(message: impl Into<String>, at: u64) -> Error {
    Error::malformed("protobuf.syntax", message).at(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::source::SliceSource;

    fn fields(data: &[u8]) -> Result<Vec<(u32, Value)>> {
        let source = SliceSource::new(data, "m.pb");
        let mut reader = Reader::new(&source, 100);
        let mut message = Message::new(Span::of(&source));
        let mut out = Vec::new();
        while let Some(f) = reader.next(&mut message)? {
            out.push((f.number, f.value));
        }
        Ok(out)
    }

    fn failure(data: &[u8]) -> (ErrorKind, &'static str, u64) {
        let e = fields(data).unwrap_err();
        (e.kind(), e.rule(), e.byte_span().unwrap().offset)
    }

    #[test]
    fn every_wire_type_is_read() {
        let mut data = vec![0x08, 0x96, 0x01]; // the guide's own example: field 1 is 150
        data.extend([0x11, 1, 0, 0, 0, 0, 0, 0, 0x80]);
        data.extend([0x1a, 2, b'h', b'i']);
        data.extend([0x25, 1, 2, 3, 4]);
        data.extend([0x2b, 0x08, 7, 0x33, 0x34, 0x2c]); // group 5 with field 1 and group 6
        data.extend([0xf8, 0xff, 0xff, 0xff, 0x0f, 0]); // the greatest number
        let got = fields(&data).unwrap();
        assert_eq!(
            got,
            [
                (1, Value::Varint(150)),
                (2, Value::Fixed64(0x8000_0000_0000_0001)),
                (3, Value::Bytes(Span { start: 14, end: 16 })),
                (4, Value::Fixed32(0x0403_0201)),
                (5, Value::Group(Span { start: 22, end: 26 })),
                (536_870_911, Value::Varint(0)),
            ]
        );
    }

    #[test]
    fn a_negative_number_takes_ten_bytes_and_no_more() {
        let mut data = vec![0x08];
        data.extend([0xff; 9]);
        data.push(0x01);
        assert_eq!(fields(&data).unwrap(), [(1, Value::Varint(u64::MAX))]);
        data.pop();
        data.extend([0x81, 0x01]);
        assert_eq!(failure(&data), (ErrorKind::Malformed, "protobuf.syntax", 1));
    }

    #[test]
    fn what_breaks_the_format_is_refused_where_it_does() {
        let cases: [(&[u8], ErrorKind, u64); 8] = [
            (&[0x00, 0x00], ErrorKind::Malformed, 0), // field 0
            (&[0x0e], ErrorKind::Malformed, 0),       // wire type 6
            (&[0x0c], ErrorKind::Malformed, 0),       // an end without a start
            (&[0x0b, 0x14], ErrorKind::Malformed, 1), // another group's end
            (&[0x0b, 0x08, 1], ErrorKind::Truncated, 0),
            (&[0x08, 1, 0x12, 5, 1], ErrorKind::Truncated, 2),
            (
                &[
                    0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
                ],
                ErrorKind::Truncated,
                0,
            ),
            (&[0x15, 1, 2], ErrorKind::Truncated, 3),
        ];
        for (data, kind, at) in cases {
            let (k, _, a) = failure(data);
            assert_eq!((k, a), (kind, at), "{data:x?}");
        }
        assert_eq!(failure(&[0x0b; 70]).0, ErrorKind::Limit);
        assert_eq!(failure(&[8, 0].repeat(101)).1, "protobuf.fields");
    }

    #[test]
    fn numbers_are_read_packed_and_not() {
        let source = SliceSource::new(vec![0x08, 3, 0x0a, 3, 1, 0x80, 1], "m.pb");
        let mut reader = Reader::new(&source, 9);
        let mut message = Message::new(Span::of(&source));
        let mut got = Vec::new();
        while let Some(f) = reader.next(&mut message).unwrap() {
            reader
                .varints(&f, &mut |n| {
                    got.push(n);
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(got, [3, 1, 128]);
    }

    #[test]
    fn payloads_are_not_read_unless_asked_for() {
        /// A source of any length that holds one field and counts what is read.
        #[derive(Debug)]
        struct Huge(std::sync::atomic::AtomicU64);
        impl ByteSource for Huge {
            fn len(&self) -> u64 {
                (5 << 30) + 6
            }
            fn name(&self) -> &'static str {
                "huge"
            }
            fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
                self.0
                    .fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
                let head = [0x4a, 0x80, 0x80, 0x80, 0x80, 0x14]; // 5 GiB
                for (i, b) in buf.iter_mut().enumerate() {
                    *b = head.get(at as usize + i).copied().unwrap_or(0);
                }
                Ok(())
            }
            fn slice(&self, _: std::ops::Range<u64>) -> Option<&[u8]> {
                None
            }
        }
        let source = Huge(0.into());
        let mut reader = Reader::new(&source, 9);
        let mut message = Message::new(Span::of(&source));
        let field = reader.next(&mut message).unwrap().unwrap();
        assert_eq!(field.bytes().unwrap().len(), 5 << 30);
        assert_eq!(reader.next(&mut message).unwrap(), None);
        assert!(source.0.into_inner() <= WINDOW);
        assert!(reader_refuses(&field));
    }

    fn reader_refuses(field: &Field) -> bool {
        let source = SliceSource::new(Vec::new(), "m.pb");
        let reader = Reader::new(&source, 9);
        reader
            .read(field.bytes().unwrap(), 1 << 20)
            .unwrap_err()
            .kind()
            == ErrorKind::Limit
    }
}
