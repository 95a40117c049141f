//! Members' bytes, in each way some reader gets them.

use std::sync::atomic::Ordering;

use super::{Header, Survey};
use crate::error::{Error, Result};
use crate::wire::codec::{self, Caps, Input, Output};

use super::super::Method;

/// Raw bytes are handed on in pieces of this many.
const PIECE: usize = 64 << 10;
/// What may follow LZMA data of known size: its end mark, which takes a few bytes.
const LZMA_TAIL: u64 = 16;

/// Whose word is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// The central directory's.
    Central,
    /// The local header's.
    Local,
}

/// One way of reading a member: what some reader takes for its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The member's index in [`Survey::entries`].
    pub entry: usize,
    /// Whose word it is.
    pub view: View,
    /// How the bytes are stored.
    pub method: Method,
    /// Where they begin.
    pub at: u64,
    /// How many they are in the file.
    pub stored: u64,
    /// How many they are said to become.
    pub size: u64,
    /// The checksum they are said to have.
    pub crc32: u32,
    /// Whether a header says that they are encrypted; they are read as if they were not.
    pub says_encrypted: bool,
}

/// What came of reading a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that came out.
    pub produced: u64,
    /// Stored bytes that a stream did not need: they are hidden behind its end.
    pub unused: u64,
    /// Whether the stated size is that of what came out.
    pub size_matches: bool,
    /// Whether the stated checksum is that of what came out.
    pub crc_matches: bool,
    /// The checksum of what came out.
    pub crc32: u32,
}

impl Outcome {
    /// Whether the bytes are what was packed: where headers say that the member is encrypted,
    /// this tells those that lie.
    pub fn is_intact(&self) -> bool {
        self.size_matches && self.crc_matches
    }
}

impl Survey {
    /// The different ways of reading member number `entry`: one for an ordinary member, none
    /// without a local header.
    pub fn readings(&self, entry: usize) -> Vec<Reading> {
        let Some(e) = self.entries.get(entry) else {
            return Vec::new();
        };
        let Some(at) = e.data_offset else {
            return Vec::new();
        };
        let says_encrypted = e.says_encrypted();
        let reading = |h: &Header, view| {
            // Readers go by either of a stored member's sizes.
            let stored = match h.method {
                Method::Stored => h.stored.max(h.size),
                _ => h.stored,
            };
            Reading {
                entry,
                view,
                method: h.method,
                at,
                stored: stored.min(self.source.len().saturating_sub(at)),
                size: h.size,
                crc32: h.crc32,
                says_encrypted,
            }
        };
        let mut out: Vec<Reading> = Vec::new();
        let both = [(&e.central, View::Central), (&e.local, View::Local)];
        for (h, view) in both {
            let Some(h) = h else { continue };
            let r = reading(h, view);
            let same = |o: &Reading| o.method == r.method && o.stored == r.stored;
            if !out.iter().any(same) {
                out.push(r);
            }
        }
        out
    }

    /// Reads a member in pieces, taking no notice of flags and checksums, as the most careless
    /// reader would. Deflate, bzip2, LZMA, xz and Zstandard are unpacked; what comes out before a
    /// stream breaks is handed on.
    ///
    /// # Errors
    /// As [`codec::decode`]; `Unsupported` with `zip.method`; `Limit` with `zip.overlap` when the
    /// members together are read over and over; what `sink` returns.
    pub fn read(
        &self,
        r: &Reading,
        caps: &Caps,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Outcome> {
        let name = self.entries.get(r.entry).map_or("", |e| e.name());
        let mut input = Input::new(self.source.as_ref(), r.at, r.at.saturating_add(r.stored));
        let mut crc = crc32fast::Hasher::new();
        let mut both = |part: &[u8]| {
            crc.update(part);
            sink(part)
        };
        let mut output = Output::new(caps.clone(), &mut both);
        let done = self.unpack(r, &mut input, &mut output);
        let produced = output.produced();
        let taken = input.taken();
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(taken))
            });
        done.map_err(|e| {
            let e = e.at(r.at.saturating_add(taken)).within(name);
            e.in_file(self.source.name())
        })?;
        let crc32 = crc.finalize();
        let unused = r.stored.saturating_sub(taken);
        let tail = r.method == Method::Other(14) && unused <= LZMA_TAIL;
        Ok(Outcome {
            produced,
            unused: if tail { 0 } else { unused },
            size_matches: produced == r.size,
            crc_matches: crc32 == r.crc32,
            crc32,
        })
    }

    fn unpack(&self, r: &Reading, input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
        if self.left.load(Ordering::Relaxed) == 0 {
            let message = "members lie over each other: together they are longer than the file";
            return Err(Error::limit("zip.overlap", message).at(r.at));
        }
        match r.method {
            Method::Stored => copy(input, output),
            Method::Deflate => codec::inflate(input, output),
            Method::Other(12) => codec::run(codec::Codec::Bzip2, input, output),
            Method::Other(14) => lzma(r, input, output),
            Method::Other(20 | 93) => codec::run(codec::Codec::Zstd, input, output),
            Method::Other(95) => codec::run(codec::Codec::Xz, input, output),
            Method::Other(n) => Err(Error::unsupported(
                "zip.method",
                format!("compression method {n} ({}) is not read", r.method.name()),
            )
            .at(r.at)),
        }
    }
}

fn copy(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    loop {
        let taken = input.taken();
        let part = input.chunk()?;
        if part.is_empty() {
            return Ok(());
        }
        let n = part.len().min(PIECE);
        let part = part.get(..n).unwrap_or_default();
        output.push(part, taken.saturating_add(n as u64))?;
        input.advance(n);
    }
}

/// APPNOTE 5.8.8: the version of the SDK, the length of the properties, the properties, the data.
/// Flag bit 1 would say whether an end mark is there; the size says it too, and does not lie to
/// the reader that goes by it.
fn lzma(r: &Reading, input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let at = input.pos();
    let [_, _, a, b] = input.array::<4>()?;
    let len = u16::from_le_bytes([a, b]);
    if len != 5 {
        let message = format!("LZMA properties of {len} bytes, where there are 5");
        return Err(Error::malformed("codec.bad-header", message).at(at));
    }
    let [props, c, d, e, f] = input.array::<5>()?;
    let dict = u32::from_le_bytes([c, d, e, f]);
    codec::raw_lzma(input, output, props, dict, r.size, at)
}
