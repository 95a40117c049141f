//! Writes into a file where it lies.

use std::fs::{File, OpenOptions};
use std::path::Path;

use weighbridge_core::{Error, ErrorKind, Result};

use super::EditOptions;
use crate::output::same_file;

/// What a kernel and a disk write as one, in bytes: the smallest sector there is.
pub(super) const SECTOR: usize = 512;

/// Opens the file for writing and keeps other edits of it out meanwhile.
pub(super) fn lock(path: &Path) -> Result<File> {
    let shown = path.display().to_string();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| Error::io("cannot open the file for writing", e).in_file(shown.as_str()))?;
    // A file system without locks is no reason to refuse.
    let busy = matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock));
    if busy || !is_at(&file, path) {
        let message = "another process is editing the file";
        let e = Error::new(ErrorKind::Io, "edit.locked", message).in_file(shown);
        return Err(e.help("run this again when it is done"));
    }
    Ok(file)
}

/// The file that an edit of `path` changes where it lies, locked; none where it writes elsewhere or
/// nothing at all. Before it, where it writes if that is elsewhere.
pub(super) fn target<'o>(
    path: &Path,
    options: &'o EditOptions,
) -> Result<(Option<&'o Path>, Option<File>)> {
    let output = options.output.as_deref();
    let elsewhere = output.filter(|out| !same_file(path, out));
    let locked = match options.dry_run || elsewhere.is_some() {
        true => None,
        false => Some(lock(path)?),
    };
    Ok((elsewhere, locked))
}

/// Whether `file` is still what lies at `path`: it may have been replaced before it was locked.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |m: std::io::Result<std::fs::Metadata>| m.ok().map(|m| (m.dev(), m.ino()));
        id(file.metadata()) == id(std::fs::metadata(path))
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// Writes `bytes` at `at`.
pub(super) fn write(file: &File, at: u64, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io("cannot write", e);
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileExt;
        file.write_all_at(bytes, at).map_err(failed)
    }
    #[cfg(not(unix))]
    {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = file;
        let done = file.seek(SeekFrom::Start(at));
        done.and_then(|_| file.write_all(bytes)).map_err(failed)
    }
}

/// Waits until what was written is on the disk, where that is asked for.
pub(super) fn sync(file: &File, wanted: bool) -> Result<()> {
    if !wanted {
        return Ok(());
    }
    file.sync_data().map_err(|e| Error::io("cannot sync", e))
}
