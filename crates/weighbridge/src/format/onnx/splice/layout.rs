//! From changes to the parts of the new file.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span};
use weighbridge_core::{Error, Result};

use super::{Change, Edits, Part, Piece, Spliced, total};
use crate::format::onnx::encode::head;

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
