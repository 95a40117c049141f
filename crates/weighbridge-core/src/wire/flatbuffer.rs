//! FlatBuffers, read by position: every offset is checked before it is followed, and what was
//! followed is noted, so that bytes which nothing refers to show.
//!
//! Source: "FlatBuffers Internals", <https://flatbuffers.dev/internals/>. The file begins with the
//! offset of the root table and, mostly, four characters that name the schema. A table begins with
//! the distance back to its vtable: two sizes (of the vtable, of the table) and, for each field, its
//! place in the table or 0. Texts, vectors and other tables stand elsewhere, at an offset counted
//! from the field; vectors and texts begin with their length. Numbers are little-endian.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::source::ByteSource;

/// Bytes read at a time, and how many such pages are kept.
const PAGE: u64 = 4 << 10;
const PAGES: usize = 64;

/// Steps that may be taken for each byte of the file, and at least: tables may be referred to many
/// times.
const STEPS_PER_BYTE: u64 = 1;
const STEPS_LEAST: u64 = 1 << 17;

/// Bytes of texts likewise.
const TEXT_PER_BYTE: u64 = 4;
const TEXT_LEAST: u64 = 1 << 20;

/// A table: its fields are asked for by their number in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Where it begins.
    pub at: u64,
    vtable: u64,
    /// Bytes of the vtable.
    fields: u64,
    /// Bytes of the table.
    size: u64,
}

/// A vector: where its elements begin, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector {
    /// The first element.
    pub start: u64,
    /// How many elements.
    pub len: u64,
    width: u64,
}

impl Vector {
    /// Where its elements lie.
    pub fn range(&self) -> Range<u64> {
        self.start
            ..self
                .start
                .saturating_add(self.len.saturating_mul(self.width))
    }
}

/// A page's number and its bytes.
type Page = (u64, Vec<u8>);

/// A FlatBuffer.
#[derive(Debug)]
pub struct Buffer<'s> {
    source: &'s dyn ByteSource,
    pages: RefCell<Vec<Option<Page>>>,
    steps: Cell<u64>,
    text: Cell<u64>,
    seen: RefCell<Vec<(u64, u64)>>,
}

impl<'s> Buffer<'s> {
    /// The buffer in `source`.
    pub fn new(source: &'s dyn ByteSource) -> Self {
        let len = source.len();
        let cost = |per: u64, least: u64| Cell::new(len.saturating_mul(per).saturating_add(least));
        Self {
            source,
            pages: RefCell::new(vec![None; PAGES]),
            steps: cost(STEPS_PER_BYTE, STEPS_LEAST),
            text: cost(TEXT_PER_BYTE, TEXT_LEAST),
            seen: RefCell::new(Vec::new()),
        }
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// The table that the file begins with the offset of.
    ///
    /// # Errors
    /// As every function here: `Malformed` when an offset leads out of the file, `Limit` when more
    /// is followed than the file's size justifies, `Io`.
    pub fn root(&self) -> Result<Table> {
        self.note(0..8.min(self.len()));
        self.table(self.follow(0)?)
    }

    fn note(&self, range: Range<u64>) {
        self.seen.borrow_mut().push((range.start, range.end));
    }

    fn step(&self, at: u64) -> Result<()> {
        let left = self.steps.get().checked_sub(1).ok_or_else(|| {
            let message = "the tables refer to each other again and again";
            Error::limit("flatbuffer.steps", message).at(at)
        })?;
        self.steps.set(left);
        Ok(())
    }

    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut out = [0u8; N];
        let end = at.checked_add(N as u64).filter(|&e| e <= self.len());
        let end = end.ok_or_else(|| outside(at))?;
        if let Some(there) = self.source.slice(at..end) {
            out.copy_from_slice(there);
            return Ok(out);
        }
        let mut pages = self.pages.borrow_mut();
        for (i, b) in out.iter_mut().enumerate() {
            let at = at + i as u64;
            let page = at / PAGE;
            let slot = pages.get_mut((page % PAGES as u64) as usize);
            let Some(slot) = slot else { continue };
            if slot.as_ref().is_none_or(|(n, _)| *n != page) {
                let start = page * PAGE;
                let end = start.saturating_add(PAGE).min(self.len());
                *slot = Some((page, self.source.read_vec(start..end)?));
            }
            let found = slot.as_ref().and_then(|(_, p)| p.get((at % PAGE) as usize));
            *b = *found.ok_or_else(|| outside(at))?;
        }
        Ok(out)
    }

    fn follow(&self, at: u64) -> Result<u64> {
        self.step(at)?;
        let distance = u64::from(u32::from_le_bytes(self.bytes(at)?));
        let to = at.checked_add(distance).filter(|&t| t < self.len());
        match (distance, to) {
            (1.., Some(to)) => Ok(to),
            _ => Err(outside(at)),
        }
    }

    fn table(&self, at: u64) -> Result<Table> {
        self.step(at)?;
        let back = i64::from(i32::from_le_bytes(self.bytes(at)?));
        let vtable = i64::try_from(at).ok().and_then(|t| t.checked_sub(back));
        let vtable = vtable.and_then(|v| u64::try_from(v).ok());
        let vtable = vtable.ok_or_else(|| outside(at))?;
        let fields = u64::from(u16::from_le_bytes(self.bytes(vtable)?));
        let size = u64::from(u16::from_le_bytes(self.bytes(vtable.saturating_add(2))?));
        let fits = |from: u64, n: u64| from.checked_add(n).is_some_and(|e| e <= self.len());
        if fields < 4 || fields % 2 != 0 || !fits(vtable, fields) || size < 4 || !fits(at, size) {
            return Err(bad("a table's fields have no place", at));
        }
        self.note(vtable..vtable + fields);
        self.note(at..at + size);
        Ok(Table {
            at,
            vtable,
            fields,
            size,
        })
    }

    /// Where field `n` of `width` bytes lies, when it is there.
    fn field(&self, t: Table, n: u16, width: u64) -> Result<Option<u64>> {
        let entry = 4 + 2 * u64::from(n);
        if entry + 2 > t.fields {
            return Ok(None);
        }
        self.step(t.at)?;
        let place = u64::from(u16::from_le_bytes(self.bytes(t.vtable + entry)?));
        if place == 0 {
            return Ok(None);
        }
        if place < 4 || place + width > t.size {
            return Err(bad("a field lies outside of its table", t.at));
        }
        Ok(Some(t.at + place))
    }

    /// Field `n`, a byte.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn u8(&self, t: Table, n: u16) -> Result<Option<u8>> {
        let at = self.field(t, n, 1)?;
        at.map(|at| Ok(u8::from_le_bytes(self.bytes(at)?)))
            .transpose()
    }

    /// Field `n`, 32 bits.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn u32(&self, t: Table, n: u16) -> Result<Option<u32>> {
        let at = self.field(t, n, 4)?;
        at.map(|at| Ok(u32::from_le_bytes(self.bytes(at)?)))
            .transpose()
    }

    /// Field `n`, 64 bits.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn u64(&self, t: Table, n: u16) -> Result<Option<u64>> {
        let at = self.field(t, n, 8)?;
        at.map(|at| Ok(u64::from_le_bytes(self.bytes(at)?)))
            .transpose()
    }

    /// Field `n`, a table.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn child(&self, t: Table, n: u16) -> Result<Option<Table>> {
        let at = self.field(t, n, 4)?;
        at.map(|at| self.table(self.follow(at)?)).transpose()
    }

    /// Field `n`, a vector of elements of `width` bytes.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn vector(&self, t: Table, n: u16, width: u64) -> Result<Option<Vector>> {
        let Some(at) = self.field(t, n, 4)? else {
            return Ok(None);
        };
        let list = self.follow(at)?;
        let len = u64::from(u32::from_le_bytes(self.bytes(list)?));
        let start = list.saturating_add(4);
        let end = len.checked_mul(width).and_then(|b| start.checked_add(b));
        if end.is_none_or(|e| e > self.len()) {
            return Err(bad("a vector leads out of the file", list));
        }
        let vector = Vector { start, len, width };
        self.note(list..vector.range().end);
        Ok(Some(vector))
    }

    /// Element `i` of a vector of tables.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn table_in(&self, v: Vector, i: u64) -> Result<Table> {
        self.table(self.follow(self.element(v, i)?)?)
    }

    fn element(&self, v: Vector, i: u64) -> Result<u64> {
        self.step(v.start)?;
        match i < v.len {
            true => Ok(v.start + i * v.width),
            false => Err(outside(v.start)),
        }
    }

    /// Element `i` of a vector of 32-bit numbers.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn u32_in(&self, v: Vector, i: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(self.element(v, i)?)?))
    }

    /// Element `i` of a vector of 64-bit numbers.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn u64_in(&self, v: Vector, i: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(self.element(v, i)?)?))
    }

    /// Field `n`, a text, and where it lies. What is no UTF-8 is replaced.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn text(&self, t: Table, n: u16) -> Result<Option<(u64, String)>> {
        let Some(v) = self.vector(t, n, 1)? else {
            return Ok(None);
        };
        let bytes = self.read(v)?;
        // A text ends with a NUL that its length does not count.
        self.note(v.range().end..v.range().end.saturating_add(1).min(self.len()));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Some((v.start, text)))
    }

    /// The bytes of a vector.
    ///
    /// # Errors
    /// As [`Buffer::root`].
    pub fn read(&self, v: Vector) -> Result<Vec<u8>> {
        let range = v.range();
        let left = self.text.get().checked_sub(range.end - range.start);
        let left = left.ok_or_else(|| {
            let message = "the tables refer to texts again and again";
            Error::limit("flatbuffer.text", message).at(v.start)
        })?;
        self.text.set(left);
        self.source.read_vec(range)
    }

    /// The bytes from `from` on that nothing which was followed refers to, in runs, in order.
    pub fn unseen(&self, known: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut seen = self.seen.borrow().clone();
        seen.extend(known.iter().map(|r| (r.start, r.end)));
        seen.sort_unstable();
        let mut out = Vec::new();
        let mut at = 0;
        for (start, end) in seen.into_iter().chain([(self.len(), self.len())]) {
            if start > at {
                out.push(at..start);
            }
            at = at.max(end);
        }
        out
    }
}

fn outside(at: u64) -> Error {
    bad("an offset leads out of the file", at)
}

fn bad(message: &str, at: u64) -> Error {
    Error::malformed("flatbuffer.syntax", message).at(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{SliceSource, Window};
    use std::sync::Arc;

    /// A root table with a number, a text and a vector of itself.
    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let n = |out: &mut Vec<u8>, v: u32| out.extend(v.to_le_bytes());
        n(&mut out, 20);
        out.extend(b"TEST");
        out.extend([10u8, 0, 16, 0, 4, 0, 8, 0, 12, 0]); // 8: three fields
        out.extend([0, 0]); // 18
        n(&mut out, 12); // 20: the vtable is 12 before
        n(&mut out, 7); // 24
        n(&mut out, 8); // 28: the text at 36
        n(&mut out, 12); // 32: the vector at 44
        n(&mut out, 3); // 36
        out.extend(b"abc\0"); // 40
        n(&mut out, 1); // 44
        n(&mut out, (20i32 - 48) as u32); // 48: no offset may lead back
        out
    }

    #[test]
    fn fields_are_found_and_what_nobody_refers_to_shows() {
        let source = SliceSource::new(sample(), "x");
        let b = Buffer::new(&source);
        let root = b.root().unwrap();
        assert_eq!(b.u32(root, 0).unwrap(), Some(7));
        assert_eq!(b.text(root, 1).unwrap(), Some((40, "abc".into())));
        assert_eq!(b.u32(root, 3).unwrap(), None);
        let v = b.vector(root, 2, 4).unwrap().unwrap();
        assert_eq!((v.start, v.len), (48, 1));
        assert!(b.table_in(v, 0).is_err());
        assert!(b.table_in(v, 1).is_err());
        assert_eq!(b.unseen(&[]), vec![18..20; 1]);
        assert_eq!(b.unseen(std::slice::from_ref(&(18..20))), []);
    }

    #[test]
    fn what_leads_out_is_refused() {
        let whole = sample();
        for cut in 0..whole.len() {
            let source = SliceSource::new(&whole[..cut], "x");
            let b = Buffer::new(&source);
            let read = || -> Result<()> {
                let root = b.root()?;
                b.text(root, 1)?;
                b.vector(root, 2, 4)?;
                Ok(())
            };
            assert!(read().is_err(), "{cut}");
        }
    }

    #[test]
    fn pages_give_what_the_memory_gives() {
        #[derive(Debug)]
        struct Unmapped(Window);
        impl ByteSource for Unmapped {
            fn len(&self) -> u64 {
                self.0.len()
            }
            fn name(&self) -> &str {
                "x"
            }
            fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
                self.0.read_at(at, buf)
            }
            fn slice(&self, _: Range<u64>) -> Option<&[u8]> {
                None
            }
        }
        let mut data = sample();
        data.resize(5 << 12, 1);
        let inner = Arc::new(SliceSource::new(data, "x"));
        let window = Window::new(inner, 0..5 << 12, "x").unwrap();
        let source = Unmapped(window);
        let b = Buffer::new(&source);
        let root = b.root().unwrap();
        assert_eq!(b.u32(root, 0).unwrap(), Some(7));
        assert_eq!(b.bytes::<8>((1 << 12) - 4).unwrap(), [1; 8]);
    }
}
