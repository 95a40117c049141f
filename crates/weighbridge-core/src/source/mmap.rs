//! The only module of this crate with `unsafe`: creating a mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::file::{open_regular, pread};
use super::{ByteSource, check_range, range_of};
use crate::error::{Error, Result};

/// A mapped file: [`ByteSource::slice`] borrows from the mapping.
///
/// Each hand-out first asks the operating system for the file's present length, so that a file
/// that was truncated *before* the call is an error (`slice` gives `None`, `read_at` then says
/// `source.shrunk`). Copies made by [`ByteSource::read_at`] use positional reads, which can only
/// fail with an error. What remains is a truncation while a borrowed slice is being read; the
/// command line tool therefore opens everything with [`super::Backend::Pread`].
#[derive(Debug)]
pub struct MmapSource {
    file: File,
    map: Option<Mmap>,
    len: u64,
    name: String,
}

impl MmapSource {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// `Io` when it cannot be opened or mapped, `Parameter` when it is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len, name) = open_regular(path)?;
        let map = if len == 0 {
            None
        } else {
            // SAFETY: the mapping is private to this struct and read-only. The one way its
            // contents can change is another process writing the file: bytes are then different
            // data, which every parser here tolerates since it copies what it validates, and a
            // truncation is the documented contract of the type above.
            let map = unsafe { Mmap::map(&file) }
                .map_err(|e| Error::io("cannot map", e).in_file(name.as_str()))?;
            Some(map)
        };
        Ok(Self {
            file,
            map,
            len,
            name,
        })
    }

    fn still_whole(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.len() >= self.len)
    }
}

impl ByteSource for MmapSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.len, &range_of(at, buf.len()))?;
        pread(&self.file, buf, at).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::truncated(
                    "source.shrunk",
                    "the file has become shorter since it was opened",
                )
                .at(at)
                .in_file(self.name.as_str())
            } else {
                Error::io("cannot read", e)
                    .at(at)
                    .in_file(self.name.as_str())
            }
        })
    }

    fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.is_empty() && range.start <= self.len {
            return Some(&[]);
        }
        if !self.still_whole() {
            return None;
        }
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        self.map.as_ref()?.get(start..end)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        Some((&self.file, 0))
    }
}
