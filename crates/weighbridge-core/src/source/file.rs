use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::{ByteSource, check_range, range_of};
use crate::error::{Error, Result};

/// A file read by position. Holds no mapping, so a file that shrinks underneath gives a
/// `Truncated` error from the short read, never a signal.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
    name: String,
}

/// Opens a regular file for reading without blocking on pipes or devices.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64, String)> {
    let name = path.display().to_string();
    let meta =
        std::fs::metadata(path).map_err(|e| Error::io("cannot open", e).in_file(name.as_str()))?;
    if !meta.is_file() {
        let help = if meta.is_dir() {
            "it is a folder: name a file in it"
        } else {
            "write what it gives into a file, and name that"
        };
        return Err(Error::parameter("source.not-a-file", "not a regular file")
            .in_file(name)
            .help(help));
    }
    let file = File::open(path).map_err(|e| Error::io("cannot open", e).in_file(name.as_str()))?;
    let meta = file
        .metadata()
        .map_err(|e| Error::io("cannot read the size", e).in_file(name.as_str()))?;
    Ok((file, meta.len(), name))
}

impl FileSource {
    /// Opens `path`.
    ///
    /// # Errors
    /// `Io` when it cannot be opened, `Parameter` when it is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len, name) = open_regular(path)?;
        Ok(Self { file, len, name })
    }

    /// A source over an open file of `len` bytes.
    pub fn from_file(file: File, len: u64, name: impl Into<String>) -> Self {
        Self {
            file,
            len,
            name: name.into(),
        }
    }
}

#[cfg(unix)]
pub(super) fn pread(file: &File, buf: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, at)
}

#[cfg(windows)]
pub(super) fn pread(file: &File, mut buf: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !buf.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, buf, at)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buf = &mut buf[n..];
        at += n as u64;
    }
    Ok(())
}

impl ByteSource for FileSource {
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
                    format!(
                        "the file has become shorter than the {} bytes it had when it was opened",
                        self.len
                    ),
                )
                .at(at)
                .in_file(self.name.as_str())
                .help("another process is writing this file; try again when it is done")
            } else {
                Error::io("cannot read", e)
                    .at(at)
                    .in_file(self.name.as_str())
            }
        })
    }

    fn slice(&self, _range: Range<u64>) -> Option<&[u8]> {
        None
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        Some((&self.file, 0))
    }
}
