//! An archive as *every* reader sees it, for the scanner.
//!
//! Some readers go by the central directory (Python's `zipfile`, miniz inside PyTorch, most
//! others), some by the local headers (whatever unpacks a stream), and where the two disagree, or
//! where there are two directories, what either would load has to be judged. [`Archive`] refuses
//! such files; a [`Survey`] lists what all of them would find, and where they would differ.
//!
//! Payloads are not read, except to find the end of members that only local headers know and whose
//! length is not written there; every byte at most once. The central directory says where local
//! headers are; only bytes that belong to nothing are looked through for more.
//!
//! [`Archive`]: super::Archive

mod central;
mod content;
mod cover;
mod ends;
mod local;
#[cfg(test)]
mod tests;

pub use content::{Outcome, Reading, View};

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::Method;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::{ByteSource, Window};

/// At most this many differences are kept: the first ones tell the story.
const MOST: usize = 1000;

/// What a header, local or central, says about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name: UTF-8 where the bytes are valid UTF-8, else read as code page 437.
    pub name: String,
    /// The name in the Info-ZIP Unicode Path extra field (APPNOTE 4.6.9), where there is one.
    pub unicode_name: Option<String>,
    /// The version needed to extract, without the system in its upper byte.
    pub version: u8,
    /// The general purpose bit flags (APPNOTE 4.4.4).
    pub flags: u16,
    /// How the bytes are stored.
    pub method: Method,
    /// The CRC-32 of the contents.
    pub crc32: u32,
    /// Bytes in the file.
    pub stored: u64,
    /// Bytes after inflating.
    pub size: u64,
    /// Position of this header.
    pub at: u64,
}

impl Header {
    /// Whether the flags or the method say that the content is encrypted. The flags of malicious
    /// files lie: readers that do not look at them load the plain bytes.
    pub fn says_encrypted(&self) -> bool {
        self.flags & (1 | 1 << 6 | 1 << 13) != 0 || self.method == Method::Other(99)
    }

    /// Whether sizes and checksum follow the payload.
    pub fn has_descriptor(&self) -> bool {
        self.flags & (1 << 3) != 0
    }
}

/// A member, as far as either kind of header knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What a central directory says.
    pub central: Option<Header>,
    /// What the local header says. Sizes that a descriptor holds are filled in.
    pub local: Option<Header>,
    /// Where the local header is, or should be.
    pub header_offset: u64,
    /// Where the payload begins; `None` without a local header.
    pub data_offset: Option<u64>,
    /// How many bytes the data descriptor after the payload takes.
    pub descriptor: u64,
    /// Which central directory lists it: 0 is the one that Python takes.
    pub directory: Option<u32>,
}

impl Entry {
    /// The name: the central directory's, or the local header's where none lists the member.
    pub fn name(&self) -> &str {
        let header = self.central.as_ref().or(self.local.as_ref());
        header.map_or("", |h| h.name.as_str())
    }

    /// Every name that some reader gives the member; mostly one.
    pub fn names(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for h in [&self.central, &self.local].into_iter().flatten() {
            let unicode = h.unicode_name.as_deref();
            for n in std::iter::once(h.name.as_str()).chain(unicode) {
                if !all.contains(&n) {
                    all.push(n);
                }
            }
        }
        all
    }

    /// How many payload bytes the member has in the file: by the central directory, or by the
    /// local header where none lists it.
    pub fn stored(&self) -> u64 {
        let header = self.central.as_ref().or(self.local.as_ref());
        header.map_or(0, |h| h.stored)
    }

    /// Where the member's bytes end, descriptor included; `None` without a local header.
    fn end(&self) -> Option<u64> {
        let payload = self.data_offset?.saturating_add(self.stored());
        Some(payload.saturating_add(self.descriptor))
    }

    /// Whether it stands for a folder in every view.
    pub fn is_dir(&self) -> bool {
        self.names().iter().all(|n| n.ends_with('/'))
    }

    /// Whether a header says that the content is encrypted.
    pub fn says_encrypted(&self) -> bool {
        let headers = [&self.central, &self.local];
        headers.into_iter().flatten().any(Header::says_encrypted)
    }
}

/// What readers of an archive would disagree on, or what an ordinary archive does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Local and central name differ.
    Name,
    /// The Unicode Path field gives another name.
    UnicodeName,
    /// A name with a NUL byte: some readers end it there.
    NulInName,
    /// Two members of a directory have one name.
    Duplicate,
    /// Two names become one on some systems: letter case, `./`, `//`, backslashes.
    DuplicateFolded,
    /// Encryption or patch flags are set in one header only, or the patch flag in both.
    Flags,
    /// The methods differ.
    Method,
    /// The sizes differ, or a stored member has two.
    Size,
    /// The checksum fields differ.
    Crc,
    /// A version of the format that there is not, which makes some readers give up.
    Version,
    /// The data descriptor is missing or says something else.
    Descriptor,
    /// A local header that no central directory lists.
    Unlisted,
    /// A directory entry whose local header is not where it says.
    MissingLocal,
    /// Members lie over each other, or over the directory.
    Overlap,
    /// Bytes between members that are not zero and belong to nothing.
    Gap,
    /// Bytes before the archive.
    Prefix,
    /// Bytes after the archive.
    Trailing,
    /// No end record: only readers of streams take the file for an archive.
    NoEndRecord,
    /// Several end records that some readers take for the archive's.
    EndRecords,
    /// The zip64 records and the classic one disagree, or the locator points elsewhere.
    Zip64,
    /// Two central directories, or none where the end record says.
    Directory,
    /// The counts or lengths of the end record do not fit the directory.
    Count,
    /// The archive says that it is one of several volumes.
    Volumes,
    /// An extra field that is longer than its room.
    Extra,
}

impl Kind {
    /// A stable name, for rules and tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::UnicodeName => "unicode-name",
            Self::NulInName => "nul-in-name",
            Self::Duplicate => "duplicate",
            Self::DuplicateFolded => "duplicate-folded",
            Self::Flags => "flags",
            Self::Method => "method",
            Self::Size => "size",
            Self::Crc => "crc",
            Self::Version => "version",
            Self::Descriptor => "descriptor",
            Self::Unlisted => "unlisted",
            Self::MissingLocal => "missing-local",
            Self::Overlap => "overlap",
            Self::Gap => "gap",
            Self::Prefix => "prefix",
            Self::Trailing => "trailing",
            Self::NoEndRecord => "no-end-record",
            Self::EndRecords => "end-records",
            Self::Zip64 => "zip64",
            Self::Directory => "directory",
            Self::Count => "count",
            Self::Volumes => "volumes",
            Self::Extra => "extra",
        }
    }
}

/// One thing that readers would disagree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub kind: Kind,
    /// Where, in bytes from the start of the source.
    pub offset: u64,
    /// How many bytes it is about; 0 where only the position is known.
    pub len: u64,
    /// The member's index in [`Survey::entries`], where it is about one.
    pub entry: Option<usize>,
    /// What was found, for people.
    pub message: String,
}

/// An archive in all views. See the [module](self).
#[derive(Debug)]
pub struct Survey {
    source: Arc<dyn ByteSource>,
    entries: Vec<Entry>,
    differences: Vec<Difference>,
    gaps: Vec<Range<u64>>,
    /// How many stored bytes may still be read: members may lie over each other.
    left: AtomicU64,
    checksums_off: bool,
}

impl Survey {
    /// Surveys the archive in `source`: it has an end record near its end, or begins with a local
    /// header.
    ///
    /// # Errors
    /// `Truncated` with `zip.no-end-record` when it is no zip archive in any view, `Limit` with
    /// `zip.members`, and what reading the source gives. All else is a [`Difference`].
    pub fn of(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let name = source.name().to_owned();
        Self::take(source, limits).map_err(|e| e.in_file(name))
    }

    fn take(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        let mut b = Builder::new(source.as_ref(), limits);
        let ends = ends::find(&mut b)?;
        if ends.directories.is_empty() && !ends.found && !local::begins(source.as_ref(), 0)? {
            return Err(Error::truncated(
                "zip.no-end-record",
                "no end record of a zip archive is found",
            )
            .at(source.len()));
        }
        for (i, d) in ends.directories.iter().enumerate() {
            central::read(&mut b, d, i as u32)?;
        }
        local::match_up(&mut b)?;
        let gaps = cover::account(&mut b, &ends)?;
        if !ends.found {
            let message = "there is no end record: only readers of streams see an archive";
            let end = source.len();
            b.differ(Kind::NoEndRecord, end..end, None, message.into());
        }
        cover::names(&mut b);
        let sized = |h: &Header| h.size > 0;
        let centrals = || b.entries.iter().filter_map(|e| e.central.as_ref());
        let checksums_off = centrals().any(sized) && centrals().all(|h| h.crc32 == 0);
        b.differences.sort_by_key(|d| d.offset);
        let left = source.len().saturating_mul(4).saturating_add(1 << 20);
        Ok(Self {
            entries: b.entries,
            differences: b.differences,
            gaps,
            left: AtomicU64::new(left),
            checksums_off,
            source,
        })
    }

    /// The archives that `source` consists of, one after the other and each whole in itself: the
    /// items of a shard of PyTorch's distributed checkpoints are archives. One range, over all,
    /// where they do not tile the source.
    ///
    /// # Errors
    /// What reading the source gives.
    pub fn parts(source: &Arc<dyn ByteSource>, limits: &Limits) -> Result<Vec<Range<u64>>> {
        let len = source.len();
        let mut parts = Vec::new();
        let mut end = len;
        while end > 0 && (parts.len() as u64) < limits.members {
            let window = Window::new(Arc::clone(source), 0..end, source.name())?;
            let mut b = Builder::new(&window, limits);
            let ends = ends::find(&mut b)?;
            let [d] = ends.directories.as_slice() else {
                break;
            };
            let start = u64::try_from(d.shift).unwrap_or(u64::MAX);
            if ends.end != end || start >= end || !local::begins(&window, start)? {
                break;
            }
            parts.push(start..end);
            end = start;
        }
        parts.reverse();
        Ok(if end == 0 && parts.len() > 1 {
            parts
        } else {
            std::iter::once(0..len).collect()
        })
    }

    /// The source the archive lies in.
    pub fn source(&self) -> &Arc<dyn ByteSource> {
        &self.source
    }

    /// Every member of every view: those of the central directories in their order, then those
    /// that only local headers know.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What readers would disagree on, by position; none for an ordinary archive. At most 1000.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// The bytes that belong to no member and no record, in order: prefix, gaps between members
    /// (unless zeros, which are padding), what follows the end. Some reader may take them for
    /// something.
    pub fn gaps(&self) -> &[Range<u64>] {
        &self.gaps
    }

    /// Whether every checksum field is zero though members have content: they were switched off.
    pub fn checksums_off(&self) -> bool {
        self.checksums_off
    }

    /// Where the archive's first member begins.
    pub fn start(&self) -> u64 {
        let headers = self.entries.iter().map(|e| e.header_offset);
        headers.min().unwrap_or(0)
    }
}

/// A survey while it is made.
struct Builder<'a> {
    source: &'a dyn ByteSource,
    limits: &'a Limits,
    entries: Vec<Entry>,
    differences: Vec<Difference>,
    /// How many bytes may still be read to look for what no directory lists.
    search: u64,
    /// How many bytes may still be read to find the ends of members.
    measure: u64,
    /// How many bytes of names and extra fields of local headers may still be read: headers may
    /// lie over each other.
    names: u64,
}

/// Most bytes searched for what no directory lists.
const SEARCH: u64 = 64 << 20;

impl<'a> Builder<'a> {
    fn new(source: &'a dyn ByteSource, limits: &'a Limits) -> Self {
        Self {
            source,
            limits,
            entries: Vec::new(),
            differences: Vec::new(),
            search: source.len().min(SEARCH),
            measure: source.len().min(SEARCH),
            names: source.len().saturating_mul(2).saturating_add(1 << 20),
        }
    }

    fn differ(&mut self, kind: Kind, at: Range<u64>, entry: Option<usize>, message: String) {
        if self.differences.len() < MOST {
            self.differences.push(Difference {
                kind,
                offset: at.start,
                len: at.end.saturating_sub(at.start),
                entry,
                message,
            });
        }
    }

    fn push(&mut self, entry: Entry) -> Result<usize> {
        let n = self.entries.len();
        Limits::check(
            n as u64 + 1,
            self.limits.members,
            "zip.members",
            "members of the archive",
        )?;
        self.entries.push(entry);
        Ok(n)
    }

    /// The number of `N` bytes at `at`, where they are.
    fn array<const N: usize>(&self, at: u64) -> Result<Option<[u8; N]>> {
        if at
            .checked_add(N as u64)
            .is_none_or(|e| e > self.source.len())
        {
            return Ok(None);
        }
        let mut a = [0u8; N];
        self.source.read_at(at, &mut a)?;
        Ok(Some(a))
    }

    fn signature(&self, at: u64) -> Result<Option<u32>> {
        Ok(self.array::<4>(at)?.map(u32::from_le_bytes))
    }
}
