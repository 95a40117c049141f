//! One block: its bytes, checked, and the entries in them.

use std::sync::Arc;

use super::{Budget, Handle, TRAILER, bad, snappy, varint};
use crate::error::{Error, Result};
use crate::model::Checksum;
use crate::source::{ByteSource, SliceSource, Window};

/// Blocks that are longer and not compressed are walked without reading the values: TensorFlow's
/// checkpoints of version 1 hold whole tensors in them.
const SHORT: u64 = 1 << 20;

/// Bytes read ahead in a long block.
const AHEAD: u64 = 4 << 10;

/// A block of which the entries can be read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its bytes, decompressed, from 0 on.
    data: Arc<dyn ByteSource>,
    handle: Handle,
    plain: bool,
    verified: bool,
    stored: u32,
}

impl Loaded {
    pub(super) fn open(file: &Arc<dyn ByteSource>, handle: Handle, most: u64) -> Result<Self> {
        let end = handle.offset.saturating_add(handle.len);
        let tail = file.read_vec(end..end.saturating_add(TRAILER))?;
        let [kind, a, b, c, d] = *tail.as_slice() else {
            return Err(bad("a block without an end", end));
        };
        let stored = u32::from_le_bytes([a, b, c, d]);
        let name = || format!("{} block at {}", file.name(), handle.offset);
        if kind > 1 {
            let message = format!("a block is compressed in a way ({kind}) that is not known");
            return Err(Error::unsupported("sstable.compression", message).at(end));
        }
        if kind == 0 && handle.len > SHORT {
            let range = handle.offset..end;
            return Ok(Self {
                data: Arc::new(Window::new(Arc::clone(file), range, name())?),
                handle,
                plain: true,
                verified: false,
                stored,
            });
        }
        if handle.len > most {
            let message = format!("a compressed block of {} bytes", handle.len);
            return Err(Error::limit("sstable.block-size", message).at(handle.offset));
        }
        let mut bytes = file.read_vec(handle.offset..end.saturating_add(1))?;
        let sum = Checksum::masked_crc32c(&bytes).value();
        if sum != stored {
            return Err(Error::integrity(
                "sstable.checksum",
                format!("a block's stored checksum is {stored:08x}, its bytes give {sum:08x}"),
            )
            .span(handle.offset, handle.len)
            .help("the file was damaged or altered after it was written; fetch it again"));
        }
        bytes.pop();
        if kind == 1 {
            let at = |e: Error| e.shifted(handle.offset);
            bytes = snappy(&bytes, most).map_err(at)?;
        }
        Ok(Self {
            data: Arc::new(SliceSource::new(bytes, name())),
            handle,
            plain: kind == 0,
            verified: true,
            stored,
        })
    }

    /// Where it lies in the file.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Its bytes, decompressed: positions of values count in them.
    pub fn data(&self) -> &Arc<dyn ByteSource> {
        &self.data
    }

    /// Whether the bytes lie in the file as they are, from [`Loaded::handle`] on.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether the checksum was verified when the block was read.
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// The checksum of the block's stored bytes and the byte behind them.
    pub fn checksum(&self) -> Checksum {
        Checksum::MaskedCrc32c(self.stored)
    }

    /// The offset to report for position `at` of the block.
    fn shown(&self, at: u64) -> u64 {
        match self.plain {
            true => self.handle.offset.saturating_add(at),
            false => self.handle.offset,
        }
    }

    /// Gives the entries to `visit`. Keys have to come after `last`; gives the last one.
    pub(super) fn entries(
        &self,
        mut last: Option<Vec<u8>>,
        budget: &mut Budget,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<()>,
    ) -> Result<Option<Vec<u8>>> {
        let (mut restarts, end) = self.restarts()?;
        let mut input = Ahead::new(self.data.as_ref(), end);
        let mut key: Vec<u8> = Vec::new();
        let mut first = true;
        let mut restart = restarts.next()?;
        while input.at < end {
            let at = input.at;
            let mut head = || -> Option<(u64, u64, u64)> {
                Some((input.varint()?, input.varint()?, input.varint()?))
            };
            let (shared, own, len) = head().ok_or_else(|| bad("no entry", self.shown(at)))?;
            if restart == Some(at) {
                if shared != 0 {
                    let message = "an entry that others start from shares bytes with one before";
                    return Err(bad(message, self.shown(at)));
                }
                restart = restarts.next()?;
            }
            let kept = usize::try_from(shared).ok().filter(|&n| n <= key.len());
            let value = input.at.checked_add(own);
            let after = value.and_then(|v| v.checked_add(len)).filter(|&e| e <= end);
            let (Some(kept), Some(value), Some(after)) = (kept, value, after) else {
                return Err(bad("an entry passes the end of its block", self.shown(at)));
            };
            budget.take(shared.saturating_add(own), self.shown(at))?;
            let rest = self.data.read_vec(input.at..value)?;
            if first {
                first = false;
            } else {
                let before = last.get_or_insert_default();
                before.clear();
                before.extend_from_slice(&key);
            }
            key.truncate(kept);
            key.extend_from_slice(&rest);
            if last.as_ref().is_some_and(|l| *l >= key) {
                let message = "a key does not come after the one before";
                return Err(Error::malformed("sstable.order", message).at(self.shown(at)));
            }
            visit(&Entry {
                block: self,
                key: &key,
                start: value,
                len,
            })?;
            input.jump(after);
        }
        if restart.is_some_and(|r| !(first && r == 0)) {
            return Err(bad("positions of entries that are none", self.shown(end)));
        }
        Ok(if first { last } else { Some(key) })
    }

    /// The positions that entries can be read from, and where the entries end.
    fn restarts(&self) -> Result<(Restarts<'_>, u64)> {
        let len = self.data.len();
        let short = || bad("a block without an end", self.shown(len));
        let at = len.checked_sub(4).ok_or_else(short)?;
        let count = u64::from(number(self.data.as_ref(), at)?);
        let end = at.checked_sub(4 * count).ok_or_else(short)?;
        let restarts = Restarts {
            input: Ahead::new(self.data.as_ref(), at),
            at: end,
            end: at,
        };
        Ok((restarts, end))
    }
}

fn number(source: &dyn ByteSource, at: u64) -> Result<u32> {
    let mut n = [0u8; 4];
    source.read_at(at, &mut n)?;
    Ok(u32::from_le_bytes(n))
}

/// The positions at the end of a block, one after the other.
struct Restarts<'s> {
    input: Ahead<'s>,
    at: u64,
    end: u64,
}

impl Restarts<'_> {
    fn next(&mut self) -> Result<Option<u64>> {
        if self.at >= self.end {
            return Ok(None);
        }
        self.input.jump(self.at);
        let mut n = [0u8; 4];
        for b in &mut n {
            *b = self.input.byte().unwrap_or_default();
        }
        self.at += 4;
        Ok(Some(u64::from(u32::from_le_bytes(n))))
    }
}

/// Bytes read a little ahead.
struct Ahead<'s> {
    source: &'s dyn ByteSource,
    window: Vec<u8>,
    from: u64,
    at: u64,
    end: u64,
}

impl<'s> Ahead<'s> {
    fn new(source: &'s dyn ByteSource, end: u64) -> Self {
        Self {
            source,
            window: Vec::new(),
            from: 0,
            at: 0,
            end,
        }
    }

    fn jump(&mut self, at: u64) {
        self.at = at;
    }

    fn byte(&mut self) -> Option<u8> {
        if self.at >= self.end {
            return None;
        }
        let seen = |w: &[u8], from: u64, at: u64| {
            let i = usize::try_from(at.checked_sub(from)?).ok()?;
            w.get(i).copied()
        };
        let found = match seen(&self.window, self.from, self.at) {
            Some(b) => b,
            None => {
                let end = self.end.min(self.at.saturating_add(AHEAD));
                self.window = self.source.read_vec(self.at..end).ok()?;
                self.from = self.at;
                *self.window.first()?
            }
        };
        self.at += 1;
        Some(found)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut bytes = [0u8; 10];
        let mut n = 0;
        for slot in &mut bytes {
            *slot = self.byte()?;
            n += 1;
            if *slot < 0x80 {
                break;
            }
        }
        let mut at = 0;
        varint(bytes.get(..n)?, &mut at)
    }
}

/// A key and where its value lies.
#[derive(Debug)]
pub struct Entry<'b> {
    block: &'b Loaded,
    key: &'b [u8],
    start: u64,
    len: u64,
}

impl Entry<'_> {
    /// The key.
    pub fn key(&self) -> &[u8] {
        self.key
    }

    /// The block that holds the value.
    pub fn block(&self) -> &Loaded {
        self.block
    }

    /// Where the value begins in the block's [`Loaded::data`], and its length.
    pub fn span(&self) -> (u64, u64) {
        (self.start, self.len)
    }

    /// The offset to report for the value: its own, or that of its compressed block.
    pub fn at(&self) -> u64 {
        self.block.shown(self.start)
    }

    /// The value, when it is at most `most` bytes.
    ///
    /// # Errors
    /// `Limit` when it is longer, and what reading gives.
    pub fn bytes(&self, most: u64) -> Result<Vec<u8>> {
        if self.len > most {
            let message = format!("a value of {} bytes, over the limit of {most}", self.len);
            return Err(Error::limit("sstable.value", message).at(self.at()));
        }
        let end = self.start.saturating_add(self.len);
        self.block.data.read_vec(self.start..end)
    }
}
