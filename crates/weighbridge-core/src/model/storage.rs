use std::io::{Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::checksum::{Checksum, Running};
use crate::error::{Error, Result};
use crate::source::{ByteSource, FileSource, SliceSource};

/// Deflated storages up to this size are inflated into memory when views need random access;
/// larger ones into an unlinked temporary file.
const INFLATE_IN_MEMORY: u64 = 16 << 20;

/// And only those that grow by no more than this, or are small: a file may hold many of them, and
/// what is in memory must be in proportion to it.
const INFLATE_RATIO_IN_MEMORY: u64 = 16;
const INFLATE_SMALL: u64 = 16 << 10;

/// Where the bytes of a storage lie.
#[derive(Debug, Clone)]
pub enum StorageData {
    /// As they are, from `offset` of `source`.
    Raw {
        /// The file or window that holds them.
        source: Arc<dyn ByteSource>,
        /// Position of the first byte.
        offset: u64,
        /// The checksum the container stores for exactly these bytes.
        checksum: Option<Checksum>,
    },
    /// Deflated (RFC 1951), `stored` bytes from `offset` of `source`.
    Deflated {
        /// The file or window that holds them.
        source: Arc<dyn ByteSource>,
        /// Position of the first compressed byte.
        offset: u64,
        /// Number of compressed bytes.
        stored: u64,
        /// The checksum the container stores for the inflated bytes.
        checksum: Option<Checksum>,
    },
}

/// A run of bytes that one or more tensors view: a torch storage, or the data region of a file.
#[derive(Debug)]
pub struct Storage {
    name: String,
    len: u64,
    big_endian: bool,
    region: bool,
    data: StorageData,
    verified: AtomicBool,
    random: OnceLock<Arc<dyn ByteSource>>,
}

impl Storage {
    /// A storage of `len` bytes called `name` (say `archive/data/0`).
    ///
    /// # Errors
    /// `Truncated` when the source is too short to hold it.
    pub fn new(
        name: impl Into<String>,
        len: u64,
        big_endian: bool,
        data: StorageData,
    ) -> Result<Self> {
        let name = name.into();
        let (source, offset, stored) = match &data {
            StorageData::Raw { source, offset, .. } => (source, *offset, len),
            StorageData::Deflated {
                source,
                offset,
                stored,
                ..
            } => (source, *offset, *stored),
        };
        if offset
            .checked_add(stored)
            .is_none_or(|end| end > source.len())
        {
            return Err(Error::truncated(
                "storage.out-of-file",
                format!("storage {name} needs {stored} bytes from {offset}, the file ends before"),
            )
            .at(offset)
            .in_file(source.name()));
        }
        Ok(Self {
            name,
            len,
            big_endian,
            region: false,
            data,
            verified: AtomicBool::new(false),
            random: OnceLock::new(),
        })
    }

    /// The data region of a file that many tensors lie in by offset (safetensors, GGUF): being in
    /// it together makes no alias.
    #[must_use]
    pub fn into_region(mut self) -> Self {
        self.region = true;
        self
    }

    /// The storage's name inside its container.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes (inflated).
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether its elements are big-endian.
    pub fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// Whether it is a file's data region rather than a unit of sharing.
    pub fn is_region(&self) -> bool {
        self.region
    }

    /// Where the bytes lie.
    pub fn data(&self) -> &StorageData {
        &self.data
    }

    /// The bytes of `range` where they lie in memory as they are; never reads or verifies.
    pub fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.end > self.len || range.start > range.end {
            return None;
        }
        match &self.data {
            StorageData::Raw { source, offset, .. } => {
                source.slice(offset + range.start..offset + range.end)
            }
            StorageData::Deflated { .. } => self.random.get()?.slice(range),
        }
    }

    /// The file and offset of the bytes when they lie in it as they are and carry no checksum
    /// still to verify: what an in-kernel copy needs.
    pub fn raw_range(&self) -> Option<(&Arc<dyn ByteSource>, u64)> {
        match &self.data {
            StorageData::Raw { source, offset, .. } if !self.needs_verify() => {
                Some((source, *offset))
            }
            _ => None,
        }
    }

    fn checksum(&self) -> Option<Checksum> {
        match &self.data {
            StorageData::Raw { checksum, .. } | StorageData::Deflated { checksum, .. } => *checksum,
        }
    }

    /// Whether a checksum is stored and has not been verified yet.
    pub fn needs_verify(&self) -> bool {
        self.checksum().is_some() && !self.verified.load(Ordering::Relaxed)
    }

    fn settle(&self, computed: Option<Checksum>) -> Result<()> {
        if let (Some(stored), Some(computed)) = (self.checksum(), computed)
            && stored != computed
        {
            let (source, at) = match &self.data {
                StorageData::Raw { source, offset, .. }
                | StorageData::Deflated { source, offset, .. } => (source, *offset),
            };
            return Err(Error::integrity(
                stored.rule(),
                format!(
                    "{}: the stored {stored}, the bytes give {:08x}",
                    self.name,
                    computed.value()
                ),
            )
            .span(at, self.len)
            .in_file(source.name())
            .help("the payload was damaged or altered after it was written; fetch it again"));
        }
        self.verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives all bytes in order to `sink`, `buf` at a time, and verifies the checksum at the end.
    ///
    /// # Errors
    /// `Integrity` on a wrong checksum, `Malformed` on a broken deflate stream, and what `sink`
    /// returns.
    pub fn stream(
        &self,
        buf: &mut [u8],
        sink: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        self.stream_range(0..self.len, buf, sink)
    }

    /// As [`Storage::stream`], but gives only the bytes of `wanted` to `sink`, in pieces that count
    /// from its start: all bytes are read in one pass, so that the checksum is verified.
    ///
    /// # Errors
    /// As [`Storage::stream`].
    pub fn stream_range(
        &self,
        wanted: Range<u64>,
        buf: &mut [u8],
        sink: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        // Where the piece that begins at `at` ends at the latest, and whether it is wanted.
        let piece = |at: u64, room: usize| {
            let (end, take) = if at < wanted.start {
                (wanted.start, false)
            } else if at < wanted.end {
                (wanted.end, true)
            } else {
                (self.len, false)
            };
            let n = end.min(self.len).saturating_sub(at).min(room as u64);
            (n as usize, take)
        };
        let mut sum = Running::of(self.checksum().filter(|_| self.needs_verify()));
        match &self.data {
            StorageData::Raw { source, offset, .. } => {
                let mut at = 0;
                while at < self.len {
                    let (n, take) = piece(at, buf.len());
                    let part = buf.get_mut(..n).unwrap_or_default();
                    source.read_at(offset + at, part)?;
                    sum.update(part);
                    if take {
                        sink(part)?;
                    }
                    at += n as u64;
                }
            }
            StorageData::Deflated {
                source,
                offset,
                stored,
                ..
            } => {
                let mut inflate = flate2::read::DeflateDecoder::new(SourceReader {
                    source: source.as_ref(),
                    at: *offset,
                    end: offset + stored,
                });
                let bad = |e: std::io::Error| {
                    Error::malformed("zip.bad-deflate", format!("{}: {e}", self.name))
                        .at(*offset)
                        .in_file(source.name())
                };
                let mut at = 0;
                while at < self.len {
                    let (n, take) = piece(at, buf.len());
                    let part = buf.get_mut(..n).unwrap_or_default();
                    inflate.read_exact(part).map_err(bad)?;
                    sum.update(part);
                    if take {
                        sink(part)?;
                    }
                    at += n as u64;
                }
                if inflate.read(&mut [0u8; 1]).map_err(bad)? != 0 {
                    return Err(Error::malformed(
                        "zip.size-mismatch",
                        format!(
                            "{} inflates to more than the {} bytes it claims",
                            self.name, self.len
                        ),
                    )
                    .at(*offset)
                    .in_file(source.name()));
                }
            }
        }
        match sum.finish() {
            None => Ok(()),
            computed => self.settle(computed),
        }
    }

    /// Verifies the stored checksum once, if there is one.
    ///
    /// # Errors
    /// As [`Storage::stream`].
    pub fn verify(&self) -> Result<()> {
        if !self.needs_verify() {
            return Ok(());
        }
        let mut buf = vec![0u8; super::CHUNK.min(self.len.max(1) as usize)];
        self.stream(&mut buf, &mut |_| Ok(()))
    }

    /// Whether reading a part costs about as much as reading all: a checksum over the whole is still
    /// to be verified, or the bytes are deflated and have not been inflated yet.
    pub fn is_read_whole(&self) -> bool {
        let packed = matches!(self.data, StorageData::Deflated { .. });
        self.needs_verify() || packed && self.random.get().is_none()
    }

    /// A source for random access with the position of the storage's first byte in it. A
    /// deflated storage is inflated once: into memory when small, else into an unlinked
    /// temporary file, so that memory stays flat.
    ///
    /// # Errors
    /// As [`Storage::stream`]; `Io` when no temporary file can be written.
    pub fn random(&self) -> Result<(Arc<dyn ByteSource>, u64)> {
        match &self.data {
            StorageData::Raw { source, offset, .. } => Ok((Arc::clone(source), *offset)),
            StorageData::Deflated { .. } => {
                if let Some(s) = self.random.get() {
                    return Ok((Arc::clone(s), 0));
                }
                let made = self.inflate_for_random()?;
                Ok((Arc::clone(self.random.get_or_init(|| made)), 0))
            }
        }
    }

    fn inflate_for_random(&self) -> Result<Arc<dyn ByteSource>> {
        let mut buf = vec![0u8; super::CHUNK.min(self.len.max(1) as usize)];
        let stored = match &self.data {
            StorageData::Deflated { stored, .. } => *stored,
            StorageData::Raw { .. } => self.len,
        };
        let modest = stored
            .saturating_mul(INFLATE_RATIO_IN_MEMORY)
            .max(INFLATE_SMALL);
        if self.len <= INFLATE_IN_MEMORY.min(modest) {
            let mut all = Vec::new();
            self.stream(&mut buf, &mut |part| {
                all.extend_from_slice(part);
                Ok(())
            })?;
            return Ok(Arc::new(SliceSource::new(all, self.name.clone())));
        }
        let io = |e| Error::io("cannot write a temporary file for an inflated member", e);
        let mut file = tempfile::tempfile().map_err(io)?;
        self.stream(&mut buf, &mut |part| file.write_all(part).map_err(io))?;
        Ok(Arc::new(FileSource::from_file(
            file,
            self.len,
            self.name.clone(),
        )))
    }
}

/// `Read` over a range of a source, in steps that suit an inflater.
struct SourceReader<'a> {
    source: &'a dyn ByteSource,
    at: u64,
    end: u64,
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.end - self.at).min(buf.len() as u64) as usize;
        let part = buf.get_mut(..n).unwrap_or_default();
        self.source
            .read_at(self.at, part)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        self.at += n as u64;
        Ok(n)
    }
}
