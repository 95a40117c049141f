//! Changing a few fields of a file and keeping every other byte, unknown fields and their order
//! included.
//!
//! A change is a change of one message: some of its fields are replaced or removed, others added.
//! Lengths of the messages around it follow; everything else is copied as ranges of the file.

mod layout;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::Tensor;
use weighbridge_core::wire::protobuf::Span;

use super::encode::{Fields, head_len};
pub use layout::splice;
pub(crate) use write::{copy, put_tensor};

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
