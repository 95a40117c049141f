//! Streams compressed as a whole: gzip, zlib, bzip2, xz, LZMA, LZ4 and Zstandard, told apart by
//! their first bytes and decoded in pieces.
//!
//! A stream may be several, one after the other (members, frames, streams): loaders decode them
//! all, and so does [`decode`]. Bytes after the last one are not decoded and not an error:
//! [`Decoded::consumed`] says where they begin. Whatever comes out before a stream breaks is
//! handed on first: a loader that reads in pieces has seen it too.

mod bzip2;
mod deflate;
mod lz4;
mod lzma;
mod stream;
#[cfg(test)]
mod tests;
mod xz;
mod zstd;

pub(crate) use deflate::raw as inflate;
pub(crate) use lzma::raw as raw_lzma;
pub(crate) use stream::{Input, Output};
pub(crate) use xz::dictionary as lzma2_dictionary;

use crate::error::{Error, Result};
use crate::source::ByteSource;

/// How many of a file's first bytes [`Codec::detect`] looks at, at most.
pub const HEAD: usize = 64;

/// What a decoder may cost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Caps {
    /// Most bytes that come out.
    pub max_bytes: u64,
    /// Greatest ratio of bytes out to bytes in, judged beyond 16 MiB of output.
    pub max_ratio: u64,
    /// Largest window or dictionary that a header may ask for, in bytes. Memory grows with the
    /// bytes that come out, up to twice this.
    pub max_window: u64,
}

impl Caps {
    /// Caps of `max_bytes` out and `max_ratio` to one, with windows of up to 64 MiB (`xz -9`).
    pub fn new(max_bytes: u64, max_ratio: u64) -> Self {
        Self {
            max_bytes,
            max_ratio,
            max_window: 64 << 20,
        }
    }
}

impl Default for Caps {
    /// 256 MiB out, 2000 to one (deflate cannot pass 1032).
    fn default() -> Self {
        Self::new(256 << 20, 2000)
    }
}

/// How much a whole stream took and gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the source that belong to the streams; what follows them is something else.
    pub consumed: u64,
    /// Bytes that came out.
    pub produced: u64,
}

/// A way of compressing a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// gzip (RFC 1952).
    Gzip,
    /// zlib (RFC 1950).
    Zlib,
    /// `ZF`, a length in hexadecimal, then zlib: joblib before 0.10.
    JoblibZlib,
    /// bzip2.
    Bzip2,
    /// xz (the .xz file format 1.2).
    Xz,
    /// The format of lzma-utils, before xz.
    Lzma,
    /// LZ4 frames, the legacy one included.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Codec {
    /// The codec whose signature `head`, the first [`HEAD`] bytes of a file or all of a shorter
    /// one, begins with. The strong signatures come first. [`Codec::is_weak`] says which answers
    /// other data gives by chance; confirm those with [`confirm`].
    pub fn detect(head: &[u8]) -> Option<Self> {
        let starts = |m: &[u8]| head.starts_with(m);
        if starts(b"\x1f\x8b\x08") {
            return Some(Self::Gzip);
        }
        if starts(b"\xfd7zXZ\0") {
            return Some(Self::Xz);
        }
        if bzip2::is_head(head) {
            return Some(Self::Bzip2);
        }
        if let Some(codec) = frame_codec(head) {
            return Some(codec);
        }
        if deflate::is_joblib(head) {
            return Some(Self::JoblibZlib);
        }
        if lzma::is_head(head) {
            return Some(Self::Lzma);
        }
        deflate::is_zlib(head).then_some(Self::Zlib)
    }

    /// Whether the signature is so short that other data has it by chance.
    pub fn is_weak(self) -> bool {
        matches!(self, Self::Zlib | Self::Lzma)
    }

    /// The codec's name, as the scanner and `inspect` show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::JoblibZlib => "joblib zlib",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// The codec of frames that `head` begins with, stepping over skippable frames, which LZ4 and
/// Zstandard share.
fn frame_codec(head: &[u8]) -> Option<Codec> {
    let mut rest = head;
    loop {
        let magic = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
        match magic {
            lz4::MAGIC | lz4::LEGACY => return Some(Codec::Lz4),
            zstd::MAGIC => return Some(Codec::Zstd),
            _ if is_skippable(magic) => {
                let len = u32::from_le_bytes(rest.get(4..8)?.try_into().ok()?);
                let next = usize::try_from(len).ok().and_then(|n| n.checked_add(8));
                match next.and_then(|n| rest.get(n..)) {
                    // Too long to look behind: Zstandard's tools write them, LZ4's do not.
                    None => return Some(Codec::Zstd),
                    Some(r) if r.len() < 4 => return Some(Codec::Zstd),
                    Some(r) => rest = r,
                }
            }
            _ => return None,
        }
    }
}

/// Whether `magic` begins a skippable frame (LZ4 frame format, "Skippable Frames"; RFC 8878,
/// 3.1.2).
fn is_skippable(magic: u32) -> bool {
    (0x184d_2a50..=0x184d_2a5f).contains(&magic)
}

/// Steps over the skippable frame that begins here.
fn skip_frame(input: &mut Input<'_>) -> Result<()> {
    let Some([_, _, _, _, a, b, c, d]) = input.peek::<8>()? else {
        return Err(input.cut());
    };
    input.skip(8 + u64::from(u32::from_le_bytes([a, b, c, d])))
}

/// Decodes the streams that `source` begins with into `sink`, in pieces of at most 1 MiB.
///
/// # Errors
/// `Malformed` with `codec.bad-data` or `codec.bad-header`, `Truncated` with `codec.truncated`,
/// `Integrity` with `codec.checksum`, `Limit` with `codec.size`, `codec.ratio`,
/// `codec.window-size` or `codec.members`, `Unsupported` with `codec.unsupported`, what reading
/// the source gives, and what `sink` returns. Offsets are counted from the start of `source`.
pub fn decode(
    codec: Codec,
    source: &dyn ByteSource,
    caps: &Caps,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Decoded> {
    let mut input = Input::new(source, 0, source.len());
    let mut output = Output::new(caps.clone(), sink);
    run(codec, &mut input, &mut output).map_err(|e| {
        let e = e.at(input.pos()).within(codec.name());
        e.in_file(source.name())
    })?;
    Ok(Decoded {
        consumed: input.taken(),
        produced: output.produced(),
    })
}

pub(crate) fn run(codec: Codec, input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    match codec {
        Codec::Gzip => deflate::gzip(input, output),
        Codec::Zlib => deflate::zlib(input, output),
        Codec::JoblibZlib => deflate::joblib(input, output),
        Codec::Bzip2 => bzip2::decode(input, output),
        Codec::Xz => xz::decode(input, output),
        Codec::Lzma => lzma::alone(input, output),
        Codec::Lz4 => lz4::decode(input, output),
        Codec::Zstd => zstd::decode(input, output),
    }
}

/// Whether `source` really is what [`Codec::detect`] took it for: its first 4 KiB decode.
pub fn confirm(codec: Codec, source: &dyn ByteSource) -> bool {
    let caps = Caps::new(4 << 10, u64::MAX);
    match decode(codec, source, &caps, &mut |_| Ok(())) {
        Ok(d) => d.produced > 0 || d.consumed == source.len(),
        Err(e) => e.rule() == "codec.size",
    }
}

/// The error for data that a decoder does not take.
fn bad_data(message: impl std::fmt::Display, at: u64) -> Error {
    Error::malformed("codec.bad-data", message.to_string()).at(at)
}

fn bad_header(message: impl Into<String>, at: u64) -> Error {
    Error::malformed("codec.bad-header", message).at(at)
}

fn checksum(what: &str, stored: u64, computed: u64, at: u64) -> Error {
    Error::integrity(
        "codec.checksum",
        format!("the stored {what} is {stored:08x}, the data gives {computed:08x}"),
    )
    .at(at)
    .help("the file was damaged or altered after it was written; fetch it again")
}

/// Counts the members of a stream: each costs a decoder its tables, so that a file of nothing but
/// empty members would take hours.
#[derive(Debug, Default)]
struct Members(u64);

impl Members {
    /// Small members that are free.
    const FREE: u64 = 4096;
    /// Beyond them, bytes that each has on average.
    const LEAST: u64 = 1024;

    fn next(&mut self, input: &Input<'_>) -> Result<()> {
        self.0 = self.0.saturating_add(1);
        let allowed = Self::FREE.saturating_add(input.taken() / Self::LEAST);
        if self.0 > allowed {
            return Err(Error::limit(
                "codec.members",
                format!("{} members in {} bytes", self.0, input.taken()),
            )
            .at(input.pos()));
        }
        Ok(())
    }
}
