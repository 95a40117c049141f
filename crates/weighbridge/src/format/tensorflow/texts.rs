//! Texts as TensorFlow's checkpoints store them: the lengths of all, a checksum of those, then
//! the bytes of all (`WriteStringTensor` of `tensorflow/core/util/tensor_bundle`).

use std::sync::{Arc, OnceLock};

use weighbridge_core::model::{Compute, mask_crc32c};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

/// Bytes read ahead.
const AHEAD: u64 = 4 << 10;

/// Bytes of a text read at a time.
const CHUNK: u64 = 1 << 20;

/// Numbers as varints, one after the other.
#[derive(Debug, Clone)]
pub(super) struct Lengths<'s> {
    source: &'s dyn ByteSource,
    window: Vec<u8>,
    from: u64,
    at: u64,
    end: u64,
}

impl<'s> Lengths<'s> {
    pub(super) fn new(source: &'s dyn ByteSource, span: Span) -> Self {
        Self {
            source,
            window: Vec::new(),
            from: 0,
            at: span.start,
            end: span.end,
        }
    }

    /// Where the next one begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next one.
    ///
    /// # Errors
    /// `Truncated` at the end, `Malformed` when it has more than 64 bits.
    pub(super) fn next(&mut self) -> Result<u64> {
        let start = self.at;
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            if shift == 63 && b > 1 {
                break;
            }
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        let message = "a text's length is no number";
        Err(Error::malformed("tensorflow.text", message).at(start))
    }

    fn byte(&mut self) -> Result<u8> {
        let cut = |at| {
            let message = "the texts' lengths pass the end of their tensor";
            Error::truncated("tensorflow.text", message).at(at)
        };
        if self.at >= self.end {
            return Err(cut(self.at));
        }
        let offset = self.at.checked_sub(self.from);
        let seen = offset.and_then(|o| self.window.get(usize::try_from(o).ok()?));
        let b = match seen {
            Some(b) => *b,
            None => {
                let end = self.end.min(self.at.saturating_add(AHEAD));
                self.window = self.source.read_vec(self.at..end)?;
                self.from = self.at;
                *self.window.first().ok_or_else(|| cut(self.at))?
            }
        };
        self.at += 1;
        Ok(b)
    }
}

/// The texts of one tensor of a checkpoint.
#[derive(Debug)]
pub(super) struct Texts {
    pub source: Arc<dyn ByteSource>,
    /// All of it.
    pub span: Span,
    pub elements: u64,
    /// The checksum of all, masked.
    pub checksum: u32,
    pub big_endian: bool,
    bytes: OnceLock<Option<u64>>,
}

impl Texts {
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        span: Span,
        elements: u64,
        checksum: u32,
        big_endian: bool,
    ) -> Self {
        Self {
            source,
            span,
            elements,
            checksum,
            big_endian,
            bytes: OnceLock::new(),
        }
    }

    /// Reads the lengths: their checksum, where the texts begin, how many bytes they have.
    fn lengths(&self) -> Result<(u32, u64, u64)> {
        let mut lengths = Lengths::new(self.source.as_ref(), self.span);
        let (mut crc, mut total) = (0u32, 0u64);
        for _ in 0..self.elements {
            let n = lengths.next()?;
            crc = extend(crc, n, self.big_endian);
            total = total.saturating_add(n);
        }
        Ok((crc, lengths.at(), total))
    }

    fn wrong(&self, what: &str, stored: u32, sum: u32) -> Error {
        let message = format!("{what}: the stored masked CRC-32C is {stored:08x}, not {sum:08x}");
        Error::integrity("tensorflow.crc-mismatch", message)
            .span(self.span.start, self.span.len())
            .help("the payload was damaged or altered after it was written; fetch it again")
    }

    fn run(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.elements == 0 && self.span.is_empty() {
            return Ok(());
        }
        let (crc, at, total) = self.lengths()?;
        let texts = at.saturating_add(4);
        if texts.checked_add(total) != Some(self.span.end) {
            let message = "the texts' lengths and their tensor's size do not fit";
            return Err(Error::malformed("tensorflow.text", message).at(self.span.start));
        }
        let raw = self.source.read_vec(at..texts)?;
        let raw: [u8; 4] = raw.as_slice().try_into().unwrap_or_default();
        let stored = match self.big_endian {
            true => u32::from_be_bytes(raw),
            false => u32::from_le_bytes(raw),
        };
        if mask_crc32c(crc) != stored {
            return Err(self.wrong("the lengths of the texts", stored, mask_crc32c(crc)));
        }
        let mut crc = crc32c::crc32c_append(crc, &raw);
        let mut lengths = Lengths::new(self.source.as_ref(), self.span);
        let mut at = texts;
        let mut out = Vec::new();
        for _ in 0..self.elements {
            let n = lengths.next()?;
            out.extend_from_slice(&n.to_le_bytes());
            let end = at.saturating_add(n);
            while at < end {
                let part = self.source.read_vec(at..end.min(at + CHUNK))?;
                crc = crc32c::crc32c_append(crc, &part);
                out.extend_from_slice(&part);
                at += part.len() as u64;
                if out.len() as u64 >= CHUNK {
                    sink(&out)?;
                    out.clear();
                }
            }
            if out.len() as u64 >= CHUNK {
                sink(&out)?;
                out.clear();
            }
        }
        if mask_crc32c(crc) != self.checksum {
            return Err(self.wrong("the texts", self.checksum, mask_crc32c(crc)));
        }
        match out.is_empty() {
            true => Ok(()),
            false => sink(&out),
        }
    }
}

/// A checksum and the length of a text: as 32 bits where it fits them.
pub(super) fn extend(crc: u32, n: u64, big_endian: bool) -> u32 {
    match (u32::try_from(n), big_endian) {
        (Ok(n), false) => crc32c::crc32c_append(crc, &n.to_le_bytes()),
        (Ok(n), true) => crc32c::crc32c_append(crc, &n.to_be_bytes()),
        (Err(_), false) => crc32c::crc32c_append(crc, &n.to_le_bytes()),
        (Err(_), true) => crc32c::crc32c_append(crc, &n.to_be_bytes()),
    }
}

impl Compute for Texts {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.run(sink).map_err(|e| e.in_file(self.source.name()))
    }

    fn byte_len(&self) -> Option<u64> {
        *self.bytes.get_or_init(|| {
            let (_, _, total) = self.lengths().ok()?;
            self.elements.checked_mul(8)?.checked_add(total)
        })
    }
}
