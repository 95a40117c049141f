//! The zip container (PKWARE APPNOTE 6.3), read by our own parser so that every member's bytes
//! can be borrowed, copied inside the kernel or streamed, and so that nothing is taken on trust.
//!
//! The central directory is what is read on opening; payloads are not touched. Where the common
//! readers (Python's `zipfile`, miniz as PyTorch uses it) would see different archives in the
//! same bytes, the file is refused or the difference is listed by [`Archive::check_layout`].

mod directory;
mod layout;
mod read;
pub mod survey;
#[cfg(test)]
mod tests;
mod write;

pub use survey::Survey;
pub use write::{ALIGN, Writer, plan_size};

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::ByteSource;

/// Signature of a local file header, as a little-endian number (`PK\x03\x04`).
const LOCAL: u32 = 0x0403_4b50;
/// Length of a local file header before its name.
const LOCAL_LEN: u64 = 30;

/// How a member's bytes are stored (APPNOTE 4.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// As they are.
    Stored,
    /// Deflate (RFC 1951).
    Deflate,
    /// Anything else, by its number.
    Other(u16),
}

impl Method {
    fn from_number(n: u16) -> Self {
        match n {
            0 => Self::Stored,
            8 => Self::Deflate,
            n => Self::Other(n),
        }
    }

    /// The method's name in the APPNOTE.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Deflate => "deflate",
            Self::Other(1) => "shrink",
            Self::Other(2..=5) => "reduce",
            Self::Other(6) => "implode",
            Self::Other(9) => "deflate64",
            Self::Other(12) => "bzip2",
            Self::Other(14) => "lzma",
            Self::Other(20 | 93) => "zstandard",
            Self::Other(95) => "xz",
            Self::Other(96) => "jpeg",
            Self::Other(97) => "wavpack",
            Self::Other(98) => "ppmd",
            Self::Other(99) => "aes encryption",
            Self::Other(_) => "an unknown method",
        }
    }
}

/// One member, as the central directory describes it. Offsets are counted from the start of the
/// source, whatever lies in front of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name: UTF-8 where the bytes are valid UTF-8, else read as code page 437.
    pub name: String,
    /// The name's bytes where they are not the UTF-8 of `name`.
    pub raw_name: Option<Box<[u8]>>,
    /// How the bytes are stored.
    pub method: Method,
    /// The general purpose bit flags (APPNOTE 4.4.4).
    pub flags: u16,
    /// The stored CRC-32 of the inflated bytes.
    pub crc32: u32,
    /// Bytes in the file.
    pub stored: u64,
    /// Bytes after inflating.
    pub size: u64,
    /// Position of the local header.
    pub header_offset: u64,
    /// Position of the entry in the central directory.
    pub central_offset: u64,
}

impl Member {
    /// The name's bytes as the file has them.
    pub fn name_bytes(&self) -> &[u8] {
        self.raw_name.as_deref().unwrap_or(self.name.as_bytes())
    }

    /// Whether the content is encrypted: the flags of traditional and strong encryption, of a
    /// masked directory, or the AES pseudo-method.
    pub fn is_encrypted(&self) -> bool {
        self.flags & (1 | 1 << 6 | 1 << 13) != 0 || self.method == Method::Other(99)
    }

    /// Whether sizes and checksum follow the payload in a data descriptor.
    pub fn has_descriptor(&self) -> bool {
        self.flags & (1 << 3) != 0
    }

    /// Whether it stands for a folder.
    pub fn is_dir(&self) -> bool {
        self.name.ends_with('/')
    }

    /// Where the member ends at the earliest: header, name and payload without extra fields.
    fn least_end(&self) -> u64 {
        self.header_offset
            .saturating_add(LOCAL_LEN)
            .saturating_add(self.name_bytes().len() as u64)
            .saturating_add(self.stored)
    }
}

/// An open archive: its central directory, checked, over the source it lies in.
#[derive(Debug, Clone)]
pub struct Archive {
    source: Arc<dyn ByteSource>,
    limits: Limits,
    members: Vec<Member>,
    by_name: HashMap<String, usize, foldhash::fast::RandomState>,
    /// Indices of members whose name an earlier one has.
    duplicates: Vec<usize>,
    /// Where the central directory lies.
    directory: std::ops::Range<u64>,
    /// Where the end records begin (the zip64 one where there is one).
    end_records: u64,
    comment: std::ops::Range<u64>,
    checksums_off: bool,
}

impl Archive {
    /// Reads the end records and the central directory of the archive in `source`.
    ///
    /// # Errors
    /// `Truncated` with rule `zip.no-end-record` when the end is missing, `Malformed` when the
    /// records contradict each other or the file, `Limit` for too many members, `Unsupported`
    /// for archives in several volumes.
    pub fn open(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let name = source.name().to_owned();
        Self::open_inner(source, limits).map_err(|e| e.in_file(name))
    }

    fn open_inner(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let end = directory::find_end(source.as_ref())?;
        let place = directory::locate(source.as_ref(), &end)?;
        let members = directory::read_members(source.as_ref(), &end, &place, limits)?;
        let mut by_name = HashMap::with_hasher(foldhash::fast::RandomState::default());
        let mut duplicates = Vec::new();
        for (i, m) in members.iter().enumerate() {
            // The last one wins, as in Python's `zipfile`.
            if by_name.insert(m.name.clone(), i).is_some() {
                duplicates.push(i);
            }
        }
        let checksums_off =
            members.iter().any(|m| m.size > 0) && members.iter().all(|m| m.crc32 == 0);
        Ok(Self {
            source,
            limits: limits.clone(),
            members,
            by_name,
            duplicates,
            directory: place.start..place.end,
            end_records: end.records_start,
            comment: end.comment,
            checksums_off,
        })
    }

    /// The source the archive lies in.
    pub fn source(&self) -> &Arc<dyn ByteSource> {
        &self.source
    }

    /// The members in the order of the central directory.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member called `name`; of several the last, as Python's `zipfile` takes it.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.get(*self.by_name.get(name)?)
    }

    /// The members whose name an earlier member has as well.
    pub fn duplicates(&self) -> impl Iterator<Item = &Member> {
        self.duplicates.iter().filter_map(|&i| self.members.get(i))
    }

    /// Whether every checksum field of the archive is zero though members have content: they
    /// were switched off when it was written, and cannot be verified.
    pub fn checksums_off(&self) -> bool {
        self.checksums_off
    }

    /// How many bytes lie in front of the first member: 0 unless something was put before the
    /// archive (a self-extractor, a script).
    pub fn prefix_bytes(&self) -> u64 {
        self.members
            .iter()
            .map(|m| m.header_offset)
            .min()
            .unwrap_or(self.directory.start)
    }

    /// How many bytes follow the archive and its comment.
    pub fn trailing_bytes(&self) -> u64 {
        self.source.len().saturating_sub(self.comment.end)
    }

    /// Where the central directory lies.
    pub fn directory(&self) -> std::ops::Range<u64> {
        self.directory.clone()
    }

    /// Where the archive's comment lies; empty when there is none.
    pub fn comment(&self) -> std::ops::Range<u64> {
        self.comment.clone()
    }

    /// What a careful reader refuses before it reads any member, from the central directory
    /// alone: two members of one name, members that lie over each other, names with NUL bytes.
    ///
    /// # Errors
    /// `Malformed` with rule `zip.duplicate-name`, `zip.overlap` or `zip.bad-name`.
    pub fn strict(&self) -> Result<()> {
        let mut out = Vec::new();
        self.check_directory(&mut out, 1);
        match out.into_iter().next() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn named(&self, m: &Member, e: Error) -> Error {
        e.within(m.name.as_str()).in_file(self.source.name())
    }
}
