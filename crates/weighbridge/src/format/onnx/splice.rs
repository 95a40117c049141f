//! Changing a few fields of a file and keeping every other byte, unknown fields and their order
//! included.
//!
//! A change is a change of one message: some of its fields are replaced or removed, others added.
//! Lengths of the messages around it follow; everything else is copied as ranges of the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{Chunks, Tensor};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span};
use weighbridge_core::{Error, Result};

use super::encode::{Fields, head, head_len};
use crate::output::{Positioned, Run, Sink, raw_bytes};

/// Copies go in steps of this, so that progress is told in between.
const STEP: u64 = 32 << 20;

/// Bytes that come into a file.
#[derive(Debug, Clone)]
pub enum Piece {
    /// These, whole fields.
    Fields(Fields),
    /// A field of a tensor's row-major little-endian bytes, which are read when they are written.
    Tensor(u32, Arc<Tensor>),
    /// A message field made of other pieces.
    Message(u32, Vec<Piece>),
    /// A range of the file, whole fields.
    Copy(Span),
    /// A field of so many bytes that are written by somebody else: see [`Spliced::rooms`].
    Room(u32, u64, usize),
}

impl Piece {
    /// Its length in bytes, tags and lengths included.
    pub fn len(&self) -> u64 {
        let field = |number, len: u64| head_len(number, len).saturating_add(len);
        match self {
            Self::Fields(f) => f.0.len() as u64,
            Self::Tensor(number, t) => field(*number, t.byte_len()),
            Self::Message(number, pieces) => field(*number, total(pieces)),
            Self::Copy(span) => span.len(),
            Self::Room(number, len, _) => field(*number, *len),
        }
    }

    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().fold(0, |n, p| n.saturating_add(p.len()))
}

/// What happens to one message.
#[derive(Debug, Clone, Default)]
struct Change {
    /// All fields of a number: the pieces stand where the first was, or at the end.
    set: BTreeMap<u32, Vec<Piece>>,
    /// Length-delimited fields, by where their content begins.
    replace: HashMap<u64, Vec<Piece>>,
    /// Behind such a field.
    after: HashMap<u64, Vec<Piece>>,
    /// Before such a field.
    before: HashMap<u64, Vec<Piece>>,
    /// At the end.
    append: Vec<Piece>,
}

/// Changes to a file, message by message. A message is named by the span of its content, as
/// [`super::raw`] has it.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    changes: HashMap<Span, Change>,
    /// Beginnings of the messages that change.
    starts: BTreeSet<(u64, u64)>,
}

impl Edits {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn of(&mut self, message: Span) -> &mut Change {
        self.starts.insert((message.start, message.end));
        self.changes.entry(message).or_default()
    }

    /// Puts `pieces` in the place of all fields `number` of `message`; without pieces they go.
    pub fn set(&mut self, message: Span, number: u32, pieces: Vec<Piece>) {
        self.of(message).set.insert(number, pieces);
    }

    /// Puts `pieces` in the place of the field with the content `field`; without pieces it goes.
    pub fn replace(&mut self, message: Span, field: Span, pieces: Vec<Piece>) {
        self.of(message).replace.insert(field.start, pieces);
    }

    /// Removes the field with the content `field`.
    pub fn remove(&mut self, message: Span, field: Span) {
        self.replace(message, field, Vec::new());
    }

    /// Puts `pieces` behind the field with the content `field`, which may change too.
    pub fn after(&mut self, message: Span, field: Span, pieces: Vec<Piece>) {
        let after = &mut self.of(message).after;
        after.entry(field.start).or_default().extend(pieces);
    }

    /// Puts `pieces` before the field with the content `field`, likewise.
    pub fn before(&mut self, message: Span, field: Span, pieces: Vec<Piece>) {
        let before = &mut self.of(message).before;
        before.entry(field.start).or_default().extend(pieces);
    }

    /// Puts `pieces` at the end of `message`.
    pub fn append(&mut self, message: Span, pieces: Vec<Piece>) {
        self.of(message).append.extend(pieces);
    }

    /// Whether the field `number` of `message` with the content `field` goes, or something else
    /// comes in its place.
    pub fn drops(&self, message: Span, number: u32, field: Span) -> bool {
        let change = self.changes.get(&message);
        change.is_some_and(|c| c.set.contains_key(&number) || c.replace.contains_key(&field.start))
    }

    /// Whether something comes in the place of the fields `number` of `message`.
    pub fn gives(&self, message: Span, number: u32) -> bool {
        let change = self.changes.get(&message);
        change.is_some_and(|c| c.set.get(&number).is_some_and(|p| !p.is_empty()))
    }

    /// The tensor whose bytes take the place of field `number` of `message`.
    pub fn tensor(&self, message: Span, number: u32) -> Option<&Arc<Tensor>> {
        let pieces = self.changes.get(&message)?.set.get(&number)?;
        pieces.iter().find_map(|p| match p {
            Piece::Tensor(n, t) if *n == number => Some(t),
            _ => None,
        })
    }

    /// Shows `f` the fields of every new message, inner ones first, in the order of the places that
    /// they come to.
    pub fn messages(&mut self, f: &mut dyn FnMut(&mut Vec<Piece>)) {
        fn each(pieces: &mut [Piece], f: &mut dyn FnMut(&mut Vec<Piece>)) {
            for p in pieces {
                if let Piece::Message(_, inner) = p {
                    each(inner, f);
                    f(inner);
                }
            }
        }
        let mut all: Vec<_> = self.changes.iter_mut().collect();
        all.sort_by_key(|(span, _)| (span.start, span.end));
        for (_, change) in all {
            change.set.values_mut().for_each(|p| each(p, f));
            for map in [&mut change.before, &mut change.replace, &mut change.after] {
                let mut places: Vec<_> = map.iter_mut().collect();
                places.sort_by_key(|(at, _)| **at);
                places.into_iter().for_each(|(_, p)| each(p, f));
            }
            each(&mut change.append, f);
        }
    }

    /// Whether something changes in `span`, or in a message inside it: messages nest, so that
    /// one which begins inside ends there too.
    fn touch(&self, span: Span) -> bool {
        let inside = (span.start, 0)..=(span.end, span.end);
        self.starts.range(inside).next().is_some()
    }
}

/// A file with its changes, ready to be written.
#[derive(Debug)]
pub struct Spliced {
    parts: Vec<Part>,
    len: u64,
}

#[derive(Debug)]
enum Part {
    Copy(Range<u64>),
    Bytes(Vec<u8>),
    Tensor(Arc<Tensor>),
    Room(u64, usize),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Copy(r) => r.end.saturating_sub(r.start),
            Self::Bytes(b) => b.len() as u64,
            Self::Tensor(t) => t.byte_len(),
            Self::Room(len, _) => *len,
        }
    }
}

/// Lays out `source` with `edits`; no payload is read.
///
/// # Errors
/// `Malformed` where the file is no protobuf, `Parameter` when a message of the edits is none of
/// the file's, `Io`.
pub fn splice(source: &dyn ByteSource, edits: &Edits) -> Result<Spliced> {
    let whole = Span::of(source);
    let mut work = Work {
        reader: Reader::new(source, u64::MAX),
        edits,
        done: 0,
    };
    let mut out = Layout::default();
    work.message(whole, &mut out)?;
    if work.done != edits.changes.len() {
        let message = "a message that was to change is none of the file's";
        return Err(Error::parameter("onnx.splice", message).in_file(source.name()));
    }
    Ok(Spliced {
        len: out.len,
        parts: out.parts,
    })
}

#[derive(Default)]
struct Layout {
    parts: Vec<Part>,
    len: u64,
}

impl Layout {
    fn copy(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.len = self.len.saturating_add(range.end - range.start);
        match self.parts.last_mut() {
            Some(Part::Copy(last)) if last.end == range.start => last.end = range.end,
            _ => self.parts.push(Part::Copy(range)),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len() as u64);
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
    }

    fn head(&mut self, number: u32, len: u64) {
        let mut bytes = Vec::new();
        head(&mut bytes, number, len);
        self.bytes(&bytes);
    }

    fn piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Fields(f) => self.bytes(&f.0),
            Piece::Copy(span) => self.copy(span.start..span.end),
            Piece::Tensor(number, t) => {
                let len = t.byte_len();
                self.head(*number, len);
                self.len = self.len.saturating_add(len);
                self.parts.push(Part::Tensor(Arc::clone(t)));
            }
            Piece::Message(number, pieces) => {
                self.head(*number, total(pieces));
                self.pieces(pieces);
            }
            Piece::Room(number, len, id) => {
                self.head(*number, *len);
                self.len = self.len.saturating_add(*len);
                self.parts.push(Part::Room(*len, *id));
            }
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) {
        for p in pieces {
            self.piece(p);
        }
    }

    fn extend(&mut self, other: Self) {
        self.len = self.len.saturating_add(other.len);
        for p in other.parts {
            match (p, self.parts.last_mut()) {
                (Part::Copy(r), Some(Part::Copy(last))) if last.end == r.start => last.end = r.end,
                (Part::Bytes(b), Some(Part::Bytes(last))) => last.extend_from_slice(&b),
                (p, _) => self.parts.push(p),
            }
        }
    }
}

struct Work<'w> {
    reader: Reader<'w>,
    edits: &'w Edits,
    /// Changes whose messages were found.
    done: usize,
}

impl Work<'_> {
    fn message(&mut self, span: Span, out: &mut Layout) -> Result<()> {
        let none = Change::default();
        let change = self.edits.changes.get(&span);
        self.done = self.done.saturating_add(usize::from(change.is_some()));
        let change = change.unwrap_or(&none);
        let mut set = BTreeSet::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let content = f.bytes().map(|s| s.start);
            let find = |all: &HashMap<u64, Vec<Piece>>| {
                let pieces = content.and_then(|c| all.get(&c));
                pieces.map_or_else(Vec::new, Clone::clone)
            };
            out.pieces(&find(&change.before));
            if let Some(pieces) = change.set.get(&f.number) {
                if set.insert(f.number) {
                    out.pieces(pieces);
                }
            } else if let Some(pieces) = content.and_then(|c| change.replace.get(&c)) {
                out.pieces(pieces);
            } else {
                self.field(&f, message.at(), out)?;
            }
            out.pieces(&find(&change.after));
        }
        for (number, pieces) in &change.set {
            if !set.contains(number) {
                out.pieces(pieces);
            }
        }
        out.pieces(&change.append);
        Ok(())
    }

    /// A field that stays, though something inside it may change.
    fn field(&mut self, f: &Field, end: u64, out: &mut Layout) -> Result<()> {
        let Some(inner) = f.bytes().filter(|s| self.edits.touch(*s)) else {
            out.copy(f.at..end);
            return Ok(());
        };
        let mut inside = Layout::default();
        self.message(inner, &mut inside)?;
        match inside.len == inner.len() {
            // As the file spelled it.
            true => out.copy(f.at..inner.start),
            false => out.head(f.number, inside.len),
        }
        out.extend(inside);
        Ok(())
    }
}

impl Spliced {
    /// The length of the new file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the new file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the new file to `out`; `progress` is told the bytes since the last call.
    ///
    /// # Errors
    /// What reading and writing gives; `Malformed` when a tensor has not the bytes it said.
    pub fn write(
        &self,
        source: &dyn ByteSource,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut chunks = Chunks::new();
        for p in &self.parts {
            match p {
                Part::Bytes(b) => {
                    out.put(b)?;
                    progress(b.len() as u64);
                }
                Part::Copy(r) => copy(source, r.clone(), out, progress)?,
                Part::Tensor(t) => put_tensor(t, &mut chunks, out, progress)?,
                Part::Room(..) => {
                    let message = "a file with rooms is written by position";
                    return Err(Error::parameter("onnx.splice", message));
                }
            }
        }
        Ok(())
    }

    /// The one write that turns `source` into the new file where it lies: where, and what; nothing
    /// where they are equal. `None` where bytes move, or change over a run longer than `most`.
    ///
    /// # Errors
    /// What reading `source` gives.
    pub fn patch(&self, source: &dyn ByteSource, most: u64) -> Result<Option<(u64, Vec<u8>)>> {
        if self.len != source.len() {
            return Ok(None);
        }
        let (mut at, mut changed) = (0u64, Vec::new());
        for p in &self.parts {
            match p {
                Part::Copy(r) if r.start == at => at = r.end,
                Part::Bytes(b) => {
                    let end = at.saturating_add(b.len() as u64);
                    let old = source.read_vec(at..end)?;
                    for (at, (old, new)) in (at..).zip(old.iter().zip(b)) {
                        if old == new {
                            continue;
                        }
                        changed.push((at, *new));
                        let first = changed.first().map_or(at, |c| c.0);
                        if at - first >= most {
                            return Ok(None);
                        }
                    }
                    at = end;
                }
                _ => return Ok(None),
            }
        }
        let (Some(&(first, _)), Some(&(last, _))) = (changed.first(), changed.last()) else {
            return Ok(Some((0, Vec::new())));
        };
        let mut out = source.read_vec(first..last.saturating_add(1))?;
        for (at, new) in changed {
            let i = usize::try_from(at - first).unwrap_or(usize::MAX);
            if let Some(b) = out.get_mut(i) {
                *b = new;
            }
        }
        Ok(Some((first, out)))
    }

    /// The rooms: number of each, and where in the new file its bytes begin.
    pub fn rooms(&self) -> Vec<(usize, u64)> {
        let (mut at, mut out) = (0u64, Vec::new());
        for p in &self.parts {
            if let Part::Room(_, id) = p {
                out.push((*id, at));
            }
            at = at.saturating_add(p.len());
        }
        out
    }

    /// Writes everything but the rooms into a file that has the new one's length.
    ///
    /// # Errors
    /// As [`Spliced::write`].
    pub fn write_around_rooms(&self, source: &dyn ByteSource, out: &Positioned) -> Result<()> {
        let (mut at, mut chunks) = (0u64, Chunks::new());
        for p in &self.parts {
            match p {
                Part::Bytes(b) => out.write_at(at, b)?,
                Part::Copy(r) => out.copy_at(at, source, r.clone())?,
                Part::Tensor(t) => {
                    let mut sink = At { out, at };
                    put_tensor(t, &mut chunks, &mut sink, &mut |_| {})?;
                }
                Part::Room(..) => {}
            }
            at = at.saturating_add(p.len());
        }
        Ok(())
    }
}

/// A sink from a position of a file on.
struct At<'a> {
    out: &'a Positioned,
    at: u64,
}

impl Sink for At<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_at(self.at, bytes)?;
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn copy(&mut self, source: &dyn ByteSource, range: Range<u64>) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.out.copy_at(self.at, source, range)?;
        self.at = self.at.saturating_add(len);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.at
    }
}

/// Copies `range` of `source`, inside the kernel where that goes.
pub(crate) fn copy(
    source: &dyn ByteSource,
    range: Range<u64>,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(STEP));
        out.copy(source, at..end)?;
        progress(end - at);
        at = end;
    }
    Ok(())
}

/// Writes a tensor's row-major little-endian bytes, no more and no fewer than it says.
///
/// # Errors
/// What reading and writing gives; `Malformed` when it has not the bytes it said.
pub(super) fn put_tensor(
    t: &Tensor,
    chunks: &mut Chunks,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (said, mut n) = (t.byte_len(), 0u64);
    if let Some((source, at)) = raw_bytes(t) {
        return Run::new(source, at, said).flush(out, progress);
    }
    t.stream(chunks, &mut |part| {
        n = n.saturating_add(part.len() as u64);
        if n > said {
            return Err(Error::malformed(
                "onnx.tensor-size",
                format!("{}: more bytes came than the {said} it has", t.name),
            ));
        }
        out.put(part)?;
        progress(part.len() as u64);
        Ok(())
    })?;
    if n != said {
        let message = format!("{}: {n} bytes came of the {said} it has", t.name);
        return Err(Error::malformed("onnx.tensor-size", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_core::source::SliceSource;

    fn text(s: &str) -> Vec<Piece> {
        vec![Piece::Fields(Fields::new().bytes(2, s))]
    }

    fn written(data: &[u8], edits: &Edits) -> Vec<u8> {
        let source = SliceSource::new(data.to_vec(), "m");
        let spliced = splice(&source, edits).unwrap();
        let mut out = Vec::new();
        spliced.write(&source, &mut out, &mut |_| {}).unwrap();
        assert_eq!(out.len() as u64, spliced.len());
        out
    }

    /// Field 1 a number, field 7 a message with a text 2, a message 3 with a text 2, unknown 99.
    fn sample() -> (Vec<u8>, Span, Span) {
        let inner = Fields::new().bytes(2, "deep");
        let outer = Fields::new().bytes(2, "name").bytes(3, &inner).int(99, -1);
        let all = Fields::new().int(1, 9).bytes(7, &outer).int(5, 3);
        let start = 4;
        let outer = Span {
            start,
            end: start + outer.0.len() as u64,
        };
        let deep = start + 6 + 2;
        let inner = Span {
            start: deep,
            end: deep + 6,
        };
        assert_eq!(&all.0[outer.start as usize + 2..][..4], b"name");
        assert_eq!(&all.0[inner.start as usize + 2..][..4], b"deep");
        (all.0, outer, inner)
    }

    #[test]
    fn nothing_changed_is_the_same_file() {
        let (data, ..) = sample();
        assert_eq!(written(&data, &Edits::new()), data);
    }

    #[test]
    fn lengths_around_a_change_follow() {
        let (data, outer, inner) = sample();
        let mut edits = Edits::new();
        let long = "x".repeat(300);
        edits.set(inner, 2, text(&long));
        edits.append(outer, vec![Piece::Fields(Fields::new().int(4, 1))]);
        let inner = Fields::new().bytes(2, &long);
        let outer = Fields::new().bytes(2, "name").bytes(3, &inner);
        let outer = outer.int(99, -1).int(4, 1);
        let wanted = Fields::new().int(1, 9).bytes(7, outer).int(5, 3);
        assert_eq!(written(&data, &edits), wanted.0);
    }

    #[test]
    fn fields_are_removed_replaced_and_put_beside() {
        let (data, outer, inner) = sample();
        let mut edits = Edits::new();
        edits.remove(outer, inner);
        edits.before(outer, inner, text("before"));
        edits.after(outer, inner, text("after"));
        let whole = Span {
            start: 0,
            end: data.len() as u64,
        };
        edits.set(whole, 5, Vec::new());
        edits.set(whole, 6, text("new"));
        let outer = Fields::new().bytes(2, "name").bytes(2, "before");
        let outer = outer.bytes(2, "after").int(99, -1);
        let wanted = Fields::new().int(1, 9).bytes(7, outer).bytes(2, "new");
        assert_eq!(written(&data, &edits), wanted.0);
    }

    #[test]
    fn a_length_that_stays_keeps_its_spelling() {
        // The length 2 in three bytes, which protobuf allows.
        let data = [0x3a, 0x82, 0x80, 0x00, 0x08, 0x05];
        let message = Span { start: 4, end: 6 };
        let mut edits = Edits::new();
        edits.set(message, 1, vec![Piece::Fields(Fields::new().int(1, 7))]);
        assert_eq!(written(&data, &edits), [0x3a, 0x82, 0x80, 0, 0x08, 0x07]);
    }

    #[test]
    fn a_message_that_is_none_is_refused() {
        let (data, ..) = sample();
        let mut edits = Edits::new();
        edits.append(Span { start: 2, end: 3 }, text("x"));
        let source = SliceSource::new(data, "m");
        assert_eq!(splice(&source, &edits).unwrap_err().rule(), "onnx.splice");
    }

    #[test]
    fn tensors_are_streamed_into_messages() {
        use weighbridge_core::model::{DType, Storage, StorageData, TensorSource, View};
        let bytes = SliceSource::new(vec![1, 2, 3, 4], "t");
        let data = StorageData::Raw {
            source: Arc::new(bytes),
            offset: 0,
            crc32: None,
        };
        let storage = Arc::new(Storage::new("t", 4, false, data).unwrap());
        let view = TensorSource::View(View { storage, offset: 0 });
        let t = Arc::new(Tensor::new("t", DType::U8, &[4], view));
        let (data, outer, _) = sample();
        let mut edits = Edits::new();
        let name = Piece::Fields(Fields::new().bytes(8, "t"));
        edits.append(
            outer,
            vec![Piece::Message(5, vec![name, Piece::Tensor(9, t)])],
        );
        let tensor = Fields::new().bytes(8, "t").bytes(9, [1, 2, 3, 4]);
        let old = Fields(data[outer.start as usize..outer.end as usize].to_vec());
        let wanted = Fields::new()
            .int(1, 9)
            .bytes(7, old.bytes(5, tensor))
            .int(5, 3);
        assert_eq!(written(&data, &edits), wanted.0);
    }
}
