//! A header on its way from the old file to the new one: key-values stay ranges of the old bytes
//! until they change.

use std::borrow::Cow;
use std::ops::Range;

use weighbridge_core::model::{Coding, Element};
use weighbridge_core::{Error, Limits, Result};

use super::super::Kind;
use crate::format::gguf::raw::{DEFAULT_ALIGNMENT, Header, MOST_HEADER, Value, align_up};
use crate::format::gguf::write::{ALIGNMENT_KEY, put_info};
use crate::format::gguf::{number, read};

/// The key whose text is room for edits in place. It is the first, or it is an ordinary key.
pub const RESERVE: &str = "weighbridge.reserve";

/// The key whose text is room that edits have used up.
pub const USED: &str = "weighbridge.reserve.used";

/// What room is filled with: text that says nothing.
pub(super) const FILL: u8 = b' ';

/// Key-values longer than this stand behind the others where there is a reserve, unless they are
/// single texts, which people edit.
const LONG: usize = 4096;

/// The block that file systems share between files, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// The bytes of a key-value: key, type and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// A range of the old header.
    Old(Range<usize>),
    /// New ones.
    New(Vec<u8>),
}

/// A key-value.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) kind: Kind,
    pub(super) body: Body,
    /// Whether the old file has no such key.
    pub(super) added: bool,
}

/// A tensor that stays.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub(super) name: String,
    /// Its number in the old file.
    pub(super) old: usize,
    /// Where its data lies in the old file, from the start of the data.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The header to be.
pub(super) struct Draft<'h> {
    pub(super) header: &'h Header<'h>,
    /// How numbers and lengths are written: as in the old file.
    pub(super) coding: Coding,
    /// Where the key-values of the old file lie.
    pub(super) old: Vec<Range<usize>>,
    /// Where the last of them ends.
    pub(super) entries_end: usize,
    pub(super) items: Vec<Item>,
    pub(super) tensors: Vec<Info>,
    pub(super) alignment: u64,
}

/// A finished header.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Its bytes with the padding, if there are tensors: the data follows at once.
    pub(super) header: Vec<u8>,
    /// Bytes of the whole file.
    pub(super) total: u64,
    pub(super) keys: u64,
    /// Room in it.
    pub(super) reserve: u64,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl<'h> Draft<'h> {
    /// The header as it is.
    pub(super) fn of(header: &'h Header<'h>) -> Result<Self> {
        let coding = header.coding();
        let end = header.tensors.first().map(|t| t.at);
        let entries_end = end.unwrap_or(usize::try_from(header.end).unwrap_or(usize::MAX));
        let starts = header.entries.iter();
        let starts = starts.map(|e| e.key.start.saturating_sub(coding.prefix()));
        let ends = starts.clone().skip(1).chain([entries_end]);
        let old: Vec<Range<usize>> = starts.zip(ends).map(|(start, end)| start..end).collect();
        let items = header.entries.iter().zip(&old);
        let items = items.map(|(e, range)| Item {
            key: text(header.bytes(&e.key)),
            kind: kind_of(&e.value),
            body: Body::Old(range.clone()),
            added: false,
        });
        let tensors = header.tensors.iter().enumerate().map(|(old, t)| {
            let bytes = t.bytes.ok_or_else(|| {
                let message = "the size of a tensor of this type is not known";
                Error::unsupported("gguf.tensor-type", message).at(t.at as u64)
            })?;
            Ok(Info {
                name: text(header.bytes(&t.name)),
                old,
                offset: t.offset,
                bytes,
            })
        });
        Ok(Self {
            header,
            coding,
            items: items.collect(),
            old,
            entries_end,
            tensors: tensors.collect::<Result<_>>()?,
            alignment: header.alignment.unwrap_or(DEFAULT_ALIGNMENT),
        })
    }

    /// The bytes of a key-value.
    pub(super) fn body<'s>(&'s self, item: &'s Item) -> &'s [u8] {
        match &item.body {
            Body::Old(range) => self.header.bytes(range),
            Body::New(bytes) => bytes,
        }
    }

    /// Where the number of key-values stands.
    pub(super) fn count_at(&self) -> usize {
        8 + self.coding.prefix()
    }

    /// Bytes of text in `item`, a text.
    fn text_len(&self, item: &Item) -> u64 {
        let head = text_head(self.coding, &item.key);
        self.body(item).len().saturating_sub(head) as u64
    }

    /// Where the item called `key` stands.
    pub(super) fn find(&self, key: &str) -> Option<usize> {
        self.items.iter().position(|i| i.key == key)
    }

    /// The text under `key`, without its length.
    pub(super) fn text_of(&self, key: &str) -> Option<Cow<'_, str>> {
        let item = self.items.get(self.find(key)?)?;
        let skip = text_head(self.coding, &item.key);
        (item.kind == Kind::One(Element::Str))
            .then(|| String::from_utf8_lossy(self.body(item).get(skip..).unwrap_or_default()))
    }

    /// Bytes between a tensor of `bytes` and the next.
    pub(super) fn padding(&self, bytes: u64) -> u64 {
        align_up(bytes, self.alignment).unwrap_or(bytes) - bytes
    }

    /// Whether the data stays where it is: no tensor left out, the alignment the same.
    pub(super) fn keeps_data(&self) -> bool {
        self.tensors.len() == self.header.tensors.len()
            && Some(self.alignment) == self.header.alignment
    }

    /// Whether the descriptions of the tensors stay as they are.
    pub(super) fn keeps_tensors(&self) -> bool {
        let named = |t: &Info| {
            let old = self.header.tensors.get(t.old);
            old.is_some_and(|o| self.header.bytes(&o.name) == t.name.as_bytes())
        };
        self.keeps_data() && self.tensors.iter().all(named)
    }

    /// Bytes of room that edits can use, 0 without a reserve.
    pub(super) fn room(&self) -> u64 {
        match self.items.first() {
            Some(i) if i.key == RESERVE => self.text_len(i),
            _ => 0,
        }
    }

    /// The header with its key-values as they stand, rooms included.
    pub(super) fn plain(&self) -> Result<Fresh> {
        let items: Vec<&Item> = self.items.iter().collect();
        self.assemble(None, &items)
    }

    /// The header of a new file. `reserve` asks for room; without it, room that was there stays.
    pub(super) fn fresh(&self, reserve: Option<u64>) -> Result<Fresh> {
        let room = |i: &&Item| i.key == RESERVE || i.key == USED;
        let rooms = self.items.iter().filter(room);
        let had = rooms.fold(0u64, |n, i| n.saturating_add(self.text_len(i)));
        let items: Vec<&Item> = self.items.iter().filter(|i| !room(i)).collect();
        match reserve.unwrap_or(had) {
            0 => self.assemble(None, &items),
            n => {
                let long =
                    |i: &&Item| matches!(i.kind, Kind::Array(_)) && self.body(i).len() > LONG;
                let short = items.iter().copied().filter(|i| !long(i));
                let last = items.iter().copied().filter(long);
                self.assemble(Some(n), &short.chain(last).collect::<Vec<_>>())
            }
        }
    }

    fn assemble(&self, room: Option<u64>, items: &[&Item]) -> Result<Fresh> {
        let (infos, data) = self.infos()?;
        let bodies: usize = items.iter().map(|i| self.body(i).len()).sum();
        let keys = items.len() as u64 + u64::from(room.is_some());
        let c = self.coding;
        let mut out = b"GGUF".to_vec();
        c.put(self.header.version.into(), 4, &mut out);
        c.put_length(self.tensors.len() as u64, &mut out);
        c.put_length(keys, &mut out);
        let mut reserve = 0;
        if let Some(least) = room {
            reserve = self.fit(least, out.len() + bodies + infos.len());
            put_text_head(&mut out, c, RESERVE, reserve);
            // The caller has bounded it.
            out.resize(out.len() + usize::try_from(reserve).unwrap_or(0), FILL);
        }
        for item in items {
            out.extend_from_slice(self.body(item));
        }
        out.extend(infos);
        Limits::check(
            out.len() as u64,
            MOST_HEADER,
            "gguf.header-size",
            "bytes of header",
        )?;
        if !self.tensors.is_empty() {
            // Alignments are at most a MiB.
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        }
        Ok(Fresh {
            total: data.saturating_add(out.len() as u64),
            header: out,
            keys,
            reserve,
        })
    }

    /// A room of at least `least` bytes with which the data begins at the same place of a block
    /// as before, so that a file system can share its blocks.
    fn fit(&self, least: u64, others: usize) -> u64 {
        let old = self.header.data_start().unwrap_or(0);
        let end = (others + text_head(self.coding, RESERVE)) as u64 + least;
        let start = align_up(end, self.alignment).unwrap_or(end);
        let more = (old % BLOCK + BLOCK - start % BLOCK) % BLOCK;
        let more = if self.alignment <= BLOCK { more } else { 0 };
        least + (start - end) + more
    }

    /// The descriptions of the tensors, and the bytes of their data.
    fn infos(&self) -> Result<(Vec<u8>, u64)> {
        let mut out = Vec::new();
        let mut at = 0u64;
        for t in &self.tensors {
            let Some(old) = self.header.tensors.get(t.old) else {
                continue;
            };
            let dims = old.dims.iter().take(old.n_dims as usize);
            put_info(self.coding, &t.name, dims, old.type_id, at, &mut out);
            at = at
                .checked_add(t.bytes)
                .and_then(|end| align_up(end, self.alignment))
                .ok_or_else(|| {
                    Error::parameter("gguf.too-large", "the sizes do not fit 64 bits together")
                })?;
        }
        Ok((out, at))
    }
}

/// Bytes of what a text begins with under `key`: the key, its type, its length.
fn text_head(c: Coding, key: &str) -> usize {
    c.prefix() + key.len() + 4 + c.prefix()
}

/// Appends what a text of `len` bytes begins with under `key`.
pub(super) fn put_text_head(out: &mut Vec<u8>, c: Coding, key: &str, len: u64) {
    c.put_string(key.as_bytes(), out);
    c.put(Element::Str.gguf().into(), 4, out);
    c.put_length(len, out);
}

fn kind_of(value: &Value) -> Kind {
    Kind::One(match value {
        Value::U8(_) => Element::U8,
        Value::I8(_) => Element::I8,
        Value::U16(_) => Element::U16,
        Value::I16(_) => Element::I16,
        Value::U32(_) => Element::U32,
        Value::I32(_) => Element::I32,
        Value::F32(_) => Element::F32,
        Value::Bool(_) => Element::Bool,
        Value::String(_) => Element::Str,
        Value::U64(_) => Element::U64,
        Value::I64(_) => Element::I64,
        Value::F64(_) => Element::F64,
        Value::Array(a) => return Kind::Array(read::element(a.element)),
    })
}

/// What `general.alignment` says in `items`.
pub(super) fn alignment(draft: &Draft<'_>) -> Option<u64> {
    let Some(i) = draft.find(ALIGNMENT_KEY) else {
        return Some(DEFAULT_ALIGNMENT);
    };
    let item = draft.items.get(i)?;
    let bytes = draft.body(item).last_chunk::<4>()?;
    (item.kind == Kind::One(Element::U32)).then(|| number(bytes, draft.coding.big_endian))
}
