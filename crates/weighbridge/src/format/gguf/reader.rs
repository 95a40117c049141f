//! Checked reads of numbers and strings from the start of a file on.
//!
//! A file that is not mapped is read through a window: of a vocabulary of many MiB nothing is kept
//! but where it lies.

use std::borrow::Cow;
use std::ops::Range;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::kept::{Bytes, Kept};
use super::raw::MOST_HEADER;

/// How much is read at first from a file that is not mapped: most of it in vain where there is no
/// vocabulary.
const FIRST_READ: usize = 64 << 10;

/// How much is read at a time later on: it stays in the processor's cache while it is walked.
const WINDOW: usize = 256 << 10;

/// How much is handed on at a time; a multiple of every number's size.
const CHUNK: usize = 64 << 10;

/// A position in the file's bytes, of which a part is at hand.
pub(super) struct Reader<'a> {
    source: &'a dyn ByteSource,
    /// The strings that were read.
    pub(super) kept: Bytes<'a>,
    /// What is at hand.
    window: Cow<'a, [u8]>,
    /// Where the window begins.
    base: usize,
    /// How much is read next.
    next: usize,
    pub(super) at: usize,
    len: u64,
    pub(super) big_endian: bool,
    pub(super) wide: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn ByteSource) -> Self {
        let len = source.len();
        let all = source.slice(0..len);
        Self {
            source,
            kept: all.map_or_else(|| Bytes::Kept(Kept::default()), Bytes::Lent),
            window: all.map_or(Cow::Owned(Vec::new()), Cow::Borrowed),
            base: 0,
            next: FIRST_READ,
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

    /// Where the next `n` bytes end, which the file has.
    fn end_of(&self, n: u64) -> Result<usize> {
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
        Ok(usize::try_from(end).unwrap_or(usize::MAX))
    }

    /// The window from the position on.
    fn at_hand(&self) -> &[u8] {
        let from = self.at.checked_sub(self.base);
        from.and_then(|f| self.window.get(f..)).unwrap_or_default()
    }

    /// The next `n` bytes; the position stays.
    pub(super) fn peek(&mut self, n: u64) -> Result<&[u8]> {
        let n = self.end_of(n)?.saturating_sub(self.at);
        if self.at_hand().len() < n {
            self.load(n)?;
        }
        Ok(self.at_hand().get(..n).unwrap_or_default())
    }

    /// Moves the window to the position, from where on the file has `n` bytes.
    fn load(&mut self, n: usize) -> Result<()> {
        let have = self.at_hand().len();
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let to = n.max(self.next).min(left);
        self.next = self.next.saturating_mul(2).min(WINDOW);
        let window = self.window.to_mut();
        let tail = window.len().saturating_sub(have);
        window.copy_within(tail.., 0);
        window.resize(to, 0);
        self.base = self.at;
        let fresh = window.get_mut(have..).unwrap_or_default();
        self.source.read_at((self.at + have) as u64, fresh)
    }

    /// Steps over `n` bytes that are there, unread.
    pub(super) fn skip(&mut self, n: u64) -> Result<()> {
        self.at = self.end_of(n)?;
        Ok(())
    }

    /// Steps over `n` bytes and gives them to `f` in pieces, each with its place.
    pub(super) fn pieces(&mut self, n: u64, f: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        let end = self.end_of(n)?;
        while self.at < end {
            let at = self.at;
            let n = (end - at).min(CHUNK);
            f(at, self.peek(n as u64)?);
            self.at += n;
        }
        Ok(())
    }

    pub(super) fn number(&mut self, n: u64) -> Result<u64> {
        let big_endian = self.big_endian;
        let bytes = self.peek(n)?;
        let (value, n) = (number(bytes, big_endian), bytes.len());
        self.at += n;
        Ok(value)
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

    /// The length of a string, of which the file has as many bytes.
    fn length(&mut self) -> Result<u64> {
        let at = self.at as u64;
        let len = self.count()?;
        if len > self.left() {
            return Err(Error::malformed(
                "gguf.string-length",
                format!("a string of {len} bytes, the file has {} more", self.left()),
            )
            .span(at, self.prefix()));
        }
        Ok(len)
    }

    /// A string, which is kept; gives where its bytes lie.
    pub(super) fn string(&mut self) -> Result<Range<usize>> {
        let len = self.length()?;
        let n = self.peek(len)?.len();
        let range = self.at..self.at + n;
        let from = self.at.saturating_sub(self.base);
        let bytes = self.window.get(from..from + n).unwrap_or_default();
        self.kept.keep(self.at, bytes);
        self.at = range.end;
        Ok(range)
    }

    /// Steps over `n` strings, of which nothing is kept.
    pub(super) fn strings(&mut self, n: u64) -> Result<()> {
        let mut left = n;
        while left > 0 {
            let whole = self.whole(left);
            left -= whole;
            if left > 0 {
                let len = self.length()?;
                self.skip(len)?;
                left -= 1;
            }
        }
        Ok(())
    }

    /// Steps over as many of `n` strings as lie whole in the window; gives their number. A
    /// vocabulary has hundreds of thousands, nearly all of which do.
    fn whole(&mut self, n: u64) -> u64 {
        let most = (MOST_HEADER as usize).saturating_sub(self.at);
        let bytes = self.at_hand();
        let bytes = bytes.get(..most).unwrap_or(bytes);
        let (stepped, rest) = match (self.wide, self.big_endian) {
            (true, false) => step(bytes, n, |b| u64::from_le_bytes(*b)),
            (true, true) => step(bytes, n, |b| u64::from_be_bytes(*b)),
            (false, false) => step(bytes, n, |b| u32::from_le_bytes(*b).into()),
            (false, true) => step(bytes, n, |b| u32::from_be_bytes(*b).into()),
        };
        self.at += bytes.len() - rest;
        stepped
    }

    /// Gives `n` strings to `f`, each with the place of its first byte, as long as it says so.
    pub(super) fn each_string(
        &mut self,
        n: u64,
        f: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) -> Result<()> {
        for _ in 0..n {
            let len = self.length()?;
            let at = self.at;
            let bytes = self.peek(len)?;
            let (n, on) = (bytes.len(), f(at, bytes));
            self.at += n;
            if !on {
                break;
            }
        }
        Ok(())
    }
}

/// How many of `n` strings lie whole in `bytes`, and how many bytes there are behind them.
fn step<const P: usize>(bytes: &[u8], n: u64, length: impl Fn(&[u8; P]) -> u64) -> (u64, usize) {
    let mut rest = bytes;
    for i in 0..n {
        let next = rest.split_first_chunk::<P>().and_then(|(head, tail)| {
            let len = usize::try_from(length(head)).ok()?;
            tail.get(len..)
        });
        match next {
            Some(next) => rest = next,
            None => return (i, rest.len()),
        }
    }
    (n, rest.len())
}

/// The unsigned number in `bytes`, of which there are at most eight.
pub(crate) fn number(bytes: &[u8], big_endian: bool) -> u64 {
    let push = |n: u64, b: &u8| (n << 8) | u64::from(*b);
    if big_endian {
        bytes.iter().fold(0, push)
    } else {
        bytes.iter().rev().fold(0, push)
    }
}
