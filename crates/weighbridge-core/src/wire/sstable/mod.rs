//! Sorted tables of keys and values, as LevelDB and TensorFlow's checkpoints write them.
//!
//! Source: `doc/table_format.md` of LevelDB, and `tsl/lib/io/{format,block,table}.cc` of TensorFlow,
//! which took it over.
//!
//! | part | what it is |
//! |---|---|
//! | data blocks | entries in the order of their keys, bytewise |
//! | meta index | a block of names of further blocks; empty in every known file |
//! | index | a block: a key not before the last of each data block → its handle |
//! | footer, 48 bytes | handle of the meta index, handle of the index, zeros, the magic number |
//!
//! A handle is two varints, offset and length. Behind a block stand one byte that says how it is
//! compressed (0 not, 1 Snappy) and the masked CRC-32C of block and byte. An entry is three varints
//! (how many bytes its key shares with the one before, how many it has of its own, length of the
//! value), the rest of the key and the value. A block ends with the positions of the entries that
//! share nothing and their number, each in four bytes.

mod block;
mod snappy;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;
use std::sync::Arc;

pub use block::{Entry, Loaded};
pub use snappy::decode as snappy;
pub use write::Builder;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::ByteSource;

/// What the last eight bytes of a table are, as a little-endian number.
pub const MAGIC: u64 = 0xdb47_7524_8b80_fb57;

/// Bytes of the footer, and of what stands behind every block.
const FOOTER: u64 = 48;
const TRAILER: u64 = 5;

/// Bytes that the keys of a table may take when they are written out, for each byte of the table
/// and at least: keys share their beginnings.
const KEYS_PER_BYTE: u64 = 32;
const KEYS_LEAST: u64 = 8 << 20;

/// Where a block lies, without what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// Its first byte.
    pub offset: u64,
    /// Its length as it is stored.
    pub len: u64,
}

impl Handle {
    /// The byte after the block and what stands behind it.
    fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)?.checked_add(TRAILER)
    }
}

/// Whether `source` ends like a table.
///
/// # Errors
/// `Io`.
pub fn is_table(source: &dyn ByteSource) -> Result<bool> {
    let len = source.len();
    if len < FOOTER {
        return Ok(false);
    }
    let mut tail = [0u8; 8];
    source.read_at(len - 8, &mut tail)?;
    Ok(u64::from_le_bytes(tail) == MAGIC)
}

/// What reading the entries of a table may still cost.
#[derive(Debug, Clone)]
pub struct Budget {
    entries: u64,
    keys: u64,
}

impl Budget {
    fn take(&mut self, key: u64, at: u64) -> Result<()> {
        let entries = self.entries.checked_sub(1);
        let keys = self.keys.checked_sub(key);
        let (Some(entries), Some(keys)) = (entries, keys) else {
            return Err(Error::limit(
                "sstable.entries",
                "the table has more entries, or longer keys, than its size justifies",
            )
            .at(at));
        };
        (self.entries, self.keys) = (entries, keys);
        Ok(())
    }
}

/// An opened table: its index is read, its blocks are not.
#[derive(Debug, Clone)]
pub struct Table {
    source: Arc<dyn ByteSource>,
    meta: Handle,
    index: Handle,
    blocks: Vec<(Vec<u8>, Handle)>,
    budget: Budget,
    most: u64,
}

impl Table {
    /// Reads footer and index of `source`.
    ///
    /// # Errors
    /// `Truncated`, `Malformed` or `Integrity` when they are damaged, `Limit` when the index is too
    /// large.
    pub fn open(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let name = source.name().to_owned();
        Self::open_inner(source, limits).map_err(|e| e.in_file(name))
    }

    fn open_inner(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let (meta, index) = footer(source.as_ref())?;
        let len = source.len();
        let mut budget = Budget {
            entries: limits.tensors,
            keys: len.saturating_mul(KEYS_PER_BYTE).max(KEYS_LEAST),
        };
        let most = limits.header_bytes;
        Limits::check(index.len, most, "sstable.index-limit", "bytes of the index")
            .map_err(|e| e.at(index.offset))?;
        let loaded = Loaded::open(&source, index, most)?;
        let mut blocks: Vec<(Vec<u8>, Handle)> = Vec::new();
        let mut end = 0;
        loaded.entries(None, &mut budget, &mut |e| {
            let value = e.bytes(32)?;
            let mut at = 0;
            let handle = handle(&value, &mut at).filter(|_| at == value.len());
            let handle = handle.ok_or_else(|| bad("no handle of a block", e.at()))?;
            // In the order of the file and apart from each other: that keeps the work in
            // proportion to the file.
            if handle.offset < end {
                return Err(bad("two blocks overlap, or are not in order", e.at()));
            }
            end = handle
                .end()
                .filter(|&n| n <= len - FOOTER)
                .ok_or_else(|| outside(e.at()))?;
            blocks.push((e.key().to_vec(), handle));
            Ok(())
        })?;
        Ok(Self {
            source,
            meta,
            index,
            blocks,
            budget,
            most: limits.inflate_bytes,
        })
    }

    /// The file.
    pub fn source(&self) -> &Arc<dyn ByteSource> {
        &self.source
    }

    /// How many data blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// What reading all entries once may cost.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Reads data block `n`; its checksum is verified, unless it is a long one that is not
    /// compressed ([`Loaded::is_verified`]).
    ///
    /// # Errors
    /// `Integrity` on a wrong checksum, `Malformed`, `Limit`, `Io`.
    pub fn block(&self, n: usize) -> Result<Loaded> {
        let (_, handle) = self
            .blocks
            .get(n)
            .ok_or_else(|| Error::parameter("sstable.block", "there is no such block"))?;
        Loaded::open(&self.source, *handle, self.most).map_err(|e| e.in_file(self.source.name()))
    }

    /// Gives the entries of block `n`, which is `loaded`, in order. `last` is the last key before
    /// and becomes the last of the block.
    ///
    /// # Errors
    /// `Malformed` where the block breaks the format or its keys are not in order, `Limit` when
    /// `budget` is spent, and what `visit` returns.
    pub fn entries(
        &self,
        n: usize,
        loaded: &Loaded,
        last: &mut Option<Vec<u8>>,
        budget: &mut Budget,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<()>,
    ) -> Result<()> {
        let named = |e: Error| e.in_file(self.source.name());
        // The keys of the index part the blocks.
        let floor = n.checked_sub(1).and_then(|b| self.blocks.get(b));
        let before = match (last.take(), floor) {
            (Some(l), Some((f, _))) if l < *f => Some(f.clone()),
            (l, _) => l,
        };
        let end = loaded.entries(before, budget, visit).map_err(named)?;
        let ceiling = self.blocks.get(n).map(|(k, _)| k.as_slice());
        if end.as_deref() > ceiling {
            let at = loaded.handle().offset;
            return Err(named(bad(
                "a block has keys behind its own in the index",
                at,
            )));
        }
        *last = end;
        Ok(())
    }

    /// Gives all entries in order.
    ///
    /// # Errors
    /// As [`Table::block`] and [`Table::entries`].
    pub fn walk(&self, visit: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
        let (mut last, mut budget) = (None, self.budget());
        for n in 0..self.blocks.len() {
            let loaded = self.block(n)?;
            self.entries(n, &loaded, &mut last, &mut budget, visit)?;
        }
        Ok(())
    }

    /// The bytes of the file that belong to no block, in order, and what the meta index holds when
    /// it is not empty.
    ///
    /// # Errors
    /// `Integrity` when the meta index is damaged.
    pub fn rest(&self) -> Result<Vec<Range<u64>>> {
        let meta = Loaded::open(&self.source, self.meta, self.most)?;
        let mut rest = Vec::new();
        let mut names = 0u64;
        meta.entries(None, &mut self.budget(), &mut |_| {
            names += 1;
            Ok(())
        })?;
        if names > 0 {
            rest.push(self.meta.offset..self.meta.offset.saturating_add(self.meta.len));
        }
        let all = self.blocks.iter().map(|(_, h)| h);
        let mut known: Vec<Range<u64>> = all
            .chain([&self.meta, &self.index])
            .filter_map(|h| Some(h.offset..h.end()?))
            .collect();
        known.sort_unstable_by_key(|r| (r.start, r.end));
        let footer = self.source.len().saturating_sub(FOOTER);
        known.push(footer..self.source.len());
        let mut at = 0;
        for r in known {
            if r.start > at {
                rest.push(at..r.start);
            }
            at = at.max(r.end);
        }
        Ok(rest)
    }
}

/// The handles of meta index and index.
fn footer(source: &dyn ByteSource) -> Result<(Handle, Handle)> {
    let len = source.len();
    if len < FOOTER {
        let message = format!("the file has {len} bytes, the footer of a table alone takes 48");
        return Err(Error::truncated("sstable.too-short", message).span(0, len));
    }
    let start = len - FOOTER;
    let bytes = source.read_vec(start..len)?;
    let magic = bytes.last_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    if magic != Some(MAGIC) {
        return Err(Error::truncated(
            "sstable.magic",
            "the file does not end like a table: it was cut short or is none",
        )
        .at(len - 8)
        .help("fetch the file again"));
    }
    let mut at = 0;
    let meta = handle(&bytes, &mut at).ok_or_else(|| bad("no handle of the meta index", start))?;
    let index = handle(&bytes, &mut at).ok_or_else(|| bad("no handle of the index", start))?;
    let padding = bytes.get(at..40).unwrap_or(&[1]);
    if padding.iter().any(|b| *b != 0) {
        return Err(bad("the footer holds more than two handles", start));
    }
    for h in [meta, index] {
        if h.end().is_none_or(|end| end > start) {
            return Err(outside(start));
        }
    }
    Ok((meta, index))
}

/// The handle at `at` of `bytes`.
fn handle(bytes: &[u8], at: &mut usize) -> Option<Handle> {
    let offset = varint(bytes, at)?;
    let len = varint(bytes, at)?;
    Some(Handle { offset, len })
}

/// The varint at `at` of `bytes`; nothing when it is cut or has more than 64 bits.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let b = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && b > 1 {
            return None;
        }
        n |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Some(n);
        }
    }
    None
}

fn bad(message: impl Into<String>, at: u64) -> Error {
    Error::malformed("sstable.syntax", message).at(at)
}

fn outside(at: u64) -> Error {
    let message = "a block lies outside of the file";
    Error::truncated("sstable.block-past-end", message).at(at)
}
