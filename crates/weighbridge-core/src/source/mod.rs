//! Where bytes come from: a slice, a file read by position, a mapping, or a window of another.
//!
//! Parsers see only [`ByteSource`]. Bulk readers ask [`ByteSource::slice`] first and fall back to
//! [`ByteSource::read_at`] into a buffer they reuse.

mod file;
mod mmap;
mod slice;
mod window;

pub use file::FileSource;
pub use mmap::MmapSource;
pub use slice::SliceSource;
pub use window::Window;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A random-access run of bytes of known length.
pub trait ByteSource: Send + Sync + std::fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name shown to the user: the path of the file, or what a window is of.
    fn name(&self) -> &str;

    /// Fills `buf` from position `at`.
    ///
    /// # Errors
    /// `Truncated` when the range ends past the source (or the file has shrunk underneath),
    /// `Io` when the operating system refuses.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()>;

    /// The bytes themselves, where they already lie in memory; `None` otherwise.
    fn slice(&self, range: Range<u64>) -> Option<&[u8]>;

    /// The file and the position of this source's first byte in it, for copies inside the kernel.
    fn as_file(&self) -> Option<(&File, u64)> {
        None
    }

    /// Reads `range` into fresh memory. The length is checked against the source before anything
    /// is allocated.
    ///
    /// # Errors
    /// As [`ByteSource::read_at`].
    fn read_vec(&self, range: Range<u64>) -> Result<Vec<u8>> {
        check_range(self.name(), self.len(), &range)?;
        let n = range.end - range.start;
        let n = usize::try_from(n)
            .map_err(|_| Error::limit("source.address-space", format!("{n} bytes do not fit")))?;
        let mut v = vec![0u8; n];
        self.read_at(range.start, &mut v)?;
        Ok(v)
    }
}

/// How files are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Map the file: tensor bytes can be borrowed. A file that another process truncates while a
    /// borrowed slice is held raises SIGBUS, as every mapping does; use [`Backend::Pread`] where
    /// that may happen.
    #[default]
    Mmap,
    /// Positional reads only: a file that shrinks gives an error, never a signal.
    Pread,
}

/// Opens `path` with `backend`.
///
/// # Errors
/// `Io` when the file cannot be opened, `Parameter` when it is no regular file.
pub fn open_file(path: &Path, backend: Backend) -> Result<Arc<dyn ByteSource>> {
    Ok(match backend {
        Backend::Mmap => Arc::new(MmapSource::open(path)?),
        Backend::Pread => Arc::new(FileSource::open(path)?),
    })
}

pub(crate) fn check_range(name: &str, len: u64, range: &Range<u64>) -> Result<()> {
    if range.start > range.end || range.end > len {
        return Err(Error::truncated(
            "source.out-of-range",
            format!(
                "bytes {}..{} were asked for, the file has {len}",
                range.start, range.end
            ),
        )
        .at(range.start.min(len))
        .in_file(name));
    }
    Ok(())
}

pub(crate) fn range_of(at: u64, n: usize) -> Range<u64> {
    at..at.saturating_add(n as u64)
}
