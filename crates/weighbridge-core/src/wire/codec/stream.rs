//! The two ends of every decoder: compressed bytes read by position through one small buffer, and
//! a sink that keeps count.

use std::io::Read;

use super::Caps;
use crate::error::{Error, Result};
use crate::source::ByteSource;

/// Compressed bytes are read in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// What a decoder may produce before its ratio is judged, in bytes: small files of zeros shrink
/// without bound.
const RATIO_FREE: u64 = 16 << 20;

/// A part of a source, read once from front to back.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    source: &'a dyn ByteSource,
    /// Position of the first byte of `buf` in the source.
    base: u64,
    /// Where the part begins and ends.
    start: u64,
    end: u64,
    buf: Vec<u8>,
    head: usize,
    /// The source's own error, where a library swallowed it.
    failed: Option<Error>,
}

impl<'a> Input<'a> {
    /// The bytes `start..end` of `source`; `end` is moved to the end of the source where it lies
    /// past it.
    pub(crate) fn new(source: &'a dyn ByteSource, start: u64, end: u64) -> Self {
        let end = end.min(source.len());
        Self {
            source,
            base: start,
            start,
            end,
            buf: Vec::new(),
            head: 0,
            failed: None,
        }
    }

    /// Position in the source of the next byte.
    pub(crate) fn pos(&self) -> u64 {
        self.base.saturating_add(self.head as u64)
    }

    /// How many bytes were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.pos().saturating_sub(self.start)
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> u64 {
        self.end.saturating_sub(self.pos())
    }

    /// The bytes at hand; none at the end only.
    pub(crate) fn chunk(&mut self) -> Result<&[u8]> {
        self.at_least(1)?;
        Ok(self.buf.get(self.head..).unwrap_or_default())
    }

    /// Takes `n` bytes of what [`Input::chunk`] gave.
    pub(crate) fn advance(&mut self, n: usize) {
        self.head = self.head.saturating_add(n).min(self.buf.len());
    }

    /// Goes back by up to `n` bytes that a decoder took and did not need. They are still in the
    /// buffer when they came with the last chunk; else they are read again.
    pub(crate) fn give_back(&mut self, n: usize) {
        let to = self.pos().saturating_sub(n as u64).max(self.start);
        self.seek(to);
    }

    /// Moves to `to`, a position in the source; no farther than the end.
    pub(crate) fn seek(&mut self, to: u64) {
        let to = to.min(self.end);
        let inside = to
            .checked_sub(self.base)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n <= self.buf.len());
        match inside {
            Some(n) => self.head = n,
            None => {
                self.buf.clear();
                self.head = 0;
                self.base = to;
            }
        }
    }

    /// Makes at least `n` bytes (of at most [`PIECE`]) lie at hand, where that many are left.
    fn at_least(&mut self, n: usize) -> Result<()> {
        let have = self.buf.len().saturating_sub(self.head);
        if have >= n || have as u64 >= self.left() {
            return Ok(());
        }
        let pos = self.pos();
        let want = usize::try_from(self.left())
            .unwrap_or(usize::MAX)
            .min(PIECE);
        self.buf.drain(..self.head.min(self.buf.len()));
        self.base = pos;
        self.head = 0;
        self.buf.resize(want, 0);
        let fresh = self.buf.get_mut(have..).unwrap_or_default();
        if let Err(e) = self.source.read_at(pos.saturating_add(have as u64), fresh) {
            self.buf.truncate(have);
            return Err(e);
        }
        Ok(())
    }

    /// The next `N` bytes without taking them; `None` when fewer are left.
    pub(crate) fn peek<const N: usize>(&mut self) -> Result<Option<[u8; N]>> {
        self.at_least(N)?;
        let bytes = self.buf.get(self.head..self.head.saturating_add(N));
        Ok(bytes.and_then(|b| b.try_into().ok()))
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// `Truncated` with `codec.truncated` when fewer are left.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.peek::<N>()? {
            Some(a) => {
                self.advance(N);
                Ok(a)
            }
            None => Err(self.cut()),
        }
    }

    /// Takes `n` bytes into fresh memory. The caller has checked that `n` is no hostile number.
    pub(crate) fn vec(&mut self, n: usize) -> Result<Vec<u8>> {
        if n as u64 > self.left() {
            return Err(self.cut());
        }
        let mut v = vec![0u8; n];
        self.fill(&mut v)?;
        Ok(v)
    }

    /// Fills `out`.
    pub(crate) fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let part = self.chunk()?;
            if part.is_empty() {
                return Err(self.cut());
            }
            let room = out.get_mut(done..).unwrap_or_default();
            let n = part.len().min(room.len());
            for (o, i) in room.iter_mut().zip(part) {
                *o = *i;
            }
            self.advance(n);
            done += n;
        }
        Ok(())
    }

    /// Steps over `n` bytes.
    pub(crate) fn skip(&mut self, n: u64) -> Result<()> {
        if n > self.left() {
            return Err(self.cut());
        }
        self.seek(self.pos().saturating_add(n));
        Ok(())
    }

    /// The error for a stream that ends too early.
    pub(crate) fn cut(&self) -> Error {
        Error::truncated(
            "codec.truncated",
            "the compressed stream ends before its data does",
        )
        .at(self.end)
    }

    /// The source's own error, where a library reported only that reading failed.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failed.take()
    }
}

impl Read for Input<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let part = match self.chunk() {
            Ok(part) => part,
            Err(e) => {
                self.failed = Some(e);
                return Err(std::io::Error::other("the source failed"));
            }
        };
        let n = part.len().min(out.len());
        for (o, i) in out.iter_mut().zip(part) {
            *o = *i;
        }
        self.advance(n);
        Ok(n)
    }
}

/// Where decoded bytes go, with the caps in force.
pub(crate) struct Output<'a> {
    caps: Caps,
    sink: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    produced: u64,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Output({} bytes)", self.produced)
    }
}

impl<'a> Output<'a> {
    pub(crate) fn new(caps: Caps, sink: &'a mut dyn FnMut(&[u8]) -> Result<()>) -> Self {
        Self {
            caps,
            sink,
            produced: 0,
        }
    }

    pub(crate) fn produced(&self) -> u64 {
        self.produced
    }

    pub(crate) fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Hands `part` on, which `taken` compressed bytes have led to.
    ///
    /// # Errors
    /// What the sink returns; `Limit` with `codec.size` or `codec.ratio`. What is within the cap
    /// is handed on before.
    pub(crate) fn push(&mut self, part: &[u8], taken: u64) -> Result<()> {
        let room = self.caps.max_bytes.saturating_sub(self.produced);
        let n = usize::try_from(room).unwrap_or(usize::MAX).min(part.len());
        let fits = part.get(..n).unwrap_or_default();
        if !fits.is_empty() {
            self.produced = self.produced.saturating_add(fits.len() as u64);
            (self.sink)(fits)?;
        }
        if n < part.len() {
            return Err(Error::limit(
                "codec.size",
                format!(
                    "the stream holds more than the {} bytes that are read",
                    self.caps.max_bytes
                ),
            ));
        }
        let allowed = taken.saturating_mul(self.caps.max_ratio).max(RATIO_FREE);
        if self.produced > allowed {
            return Err(Error::limit(
                "codec.ratio",
                format!(
                    "{taken} compressed bytes hold more than {allowed}: over {} to one",
                    self.caps.max_ratio
                ),
            ));
        }
        Ok(())
    }

    /// Refuses a window or dictionary that a header asks for.
    pub(crate) fn window(&self, bytes: u64, at: u64) -> Result<()> {
        if bytes > self.caps.max_window {
            return Err(Error::limit(
                "codec.window-size",
                format!(
                    "the stream asks for a window of {bytes} bytes, over the limit of {}",
                    self.caps.max_window
                ),
            )
            .at(at));
        }
        Ok(())
    }
}
