//! Checked reads of numbers and strings from the start of a file on.

use std::borrow::Cow;
use std::ops::Range;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

/// How much is read at first from a file that is not mapped.
const FIRST_READ: usize = 64 << 10;

/// Most bytes of header: the largest vocabularies take a few dozen MiB.
const MOST_HEADER: u64 = 1 << 29;

/// The file's bytes from its start on, as many as were asked for.
pub(super) struct Reader<'a> {
    source: &'a dyn ByteSource,
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) at: usize,
    len: u64,
    pub(super) big_endian: bool,
    pub(super) wide: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn ByteSource) -> Self {
        let len = source.len();
        Self {
            source,
            bytes: source
                .slice(0..len)
                .map_or(Cow::Owned(Vec::new()), Cow::Borrowed),
            at: 0,
            len,
            big_endian: false,
            wide: true,
        }
    }

    /// Bytes of the file from the position on.
    pub(super) fn left(&self) -> u64 {
        self.len.saturating_sub(self.at as u64)
    }

    /// Makes sure that the next `n` bytes are at hand.
    pub(super) fn want(&mut self, n: u64) -> Result<usize> {
        let end = (self.at as u64).checked_add(n);
        let Some(end) = end.filter(|&e| e <= self.len) else {
            return Err(Error::truncated(
                "gguf.truncated",
                format!("{n} bytes are needed, the file has {} more", self.left()),
            )
            .at(self.at as u64)
            .help("the file was cut short; fetch it again"));
        };
        if end > MOST_HEADER {
            return Err(Error::limit(
                "gguf.header-size",
                format!("the header is longer than {MOST_HEADER} bytes"),
            )
            .at(self.at as u64));
        }
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let have = self.bytes.len();
        if end > have {
            let most = usize::try_from(self.len.min(MOST_HEADER)).unwrap_or(usize::MAX);
            // Twice as much each time: what is read in vain is never more than the header.
            let to = end.max(have.saturating_mul(2)).max(FIRST_READ).min(most);
            let bytes = self.bytes.to_mut();
            bytes.resize(to, 0);
            let fresh = bytes.get_mut(have..).unwrap_or_default();
            self.source.read_at(have as u64, fresh)?;
        }
        Ok(end)
    }

    /// Steps over `n` bytes that are there, and gives where they lie.
    pub(super) fn take(&mut self, n: u64) -> Result<Range<usize>> {
        let end = self.want(n)?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    pub(super) fn number(&mut self, n: u64) -> Result<u64> {
        let range = self.take(n)?;
        let bytes = self.bytes.get(range).unwrap_or_default();
        Ok(number(bytes, self.big_endian))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::try_from(self.number(4)?).unwrap_or_default())
    }

    /// A count or a length: 4 bytes in version 1, 8 since.
    pub(super) fn count(&mut self) -> Result<u64> {
        self.number(self.prefix())
    }

    pub(super) fn prefix(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// A string; gives where its bytes lie.
    pub(super) fn string(&mut self) -> Result<Range<usize>> {
        let at = self.at as u64;
        let len = self.count()?;
        if len > self.left() {
            return Err(Error::malformed(
                "gguf.string-length",
                format!("a string of {len} bytes, the file has {} more", self.left()),
            )
            .span(at, self.prefix()));
        }
        self.take(len)
    }

    /// Steps over `n` strings, as [`Self::string`] does one by one.
    pub(super) fn strings(&mut self, n: u64) -> Result<()> {
        // A vocabulary has hundreds of thousands: most lie whole in what is at hand.
        let prefix = if self.wide { 8 } else { 4 };
        for _ in 0..n {
            let start = self.at.saturating_add(prefix);
            let head = self.bytes.get(self.at..start).unwrap_or_default();
            let len = match (head.first_chunk::<8>(), self.big_endian) {
                (Some(b), false) => u64::from_le_bytes(*b),
                (Some(b), true) => u64::from_be_bytes(*b),
                (None, _) if head.is_empty() => u64::MAX,
                (None, _) => number(head, self.big_endian),
            };
            let end = usize::try_from(len).ok().and_then(|n| start.checked_add(n));
            let most = self.bytes.len().min(MOST_HEADER as usize);
            match end.filter(|&e| e <= most) {
                Some(end) => self.at = end,
                None => {
                    self.string()?;
                }
            }
        }
        Ok(())
    }
}

/// The unsigned number in `bytes`, of which there are at most eight.
pub(super) fn number(bytes: &[u8], big_endian: bool) -> u64 {
    let push = |n: u64, b: &u8| (n << 8) | u64::from(*b);
    if big_endian {
        bytes.iter().fold(0, push)
    } else {
        bytes.iter().rev().fold(0, push)
    }
}
