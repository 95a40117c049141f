//! Files written at known positions by several threads at once.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;

use super::file::{BUFFER, SYNC_EVERY, Syncer};
use super::place::failed;
use super::{Output, OutputSet};

/// A file of a known length whose parts are written in any order. Dropped before it is put into
/// a set, it leaves nothing. What is not written is zeros.
#[derive(Debug)]
pub struct Positioned {
    output: Output,
    len: u64,
    pace: Mutex<Pace>,
}

/// How much was written since the last sync was asked for.
#[derive(Debug, Default)]
struct Pace {
    since: u64,
    syncer: Option<Syncer>,
}

impl Positioned {
    /// Begins a file of `len` bytes for `path`, as [`Output::create`] does, with room for all of
    /// it allocated.
    ///
    /// # Errors
    /// As [`Output::create`] and [`Output::reserve`].
    pub fn create(path: &Path, len: u64, sync: bool) -> Result<Self> {
        let mut output = Output::create(path, sync)?;
        output.reserve(len)?;
        let set = output.file.set_len(len);
        set.map_err(|e| failed("cannot give the file its length", e, output.target()))?;
        Ok(Self {
            output,
            len,
            pace: Mutex::default(),
        })
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.output.file, bytes, at)
            .map_err(|e| failed("cannot write", e, self.output.target()))?;
        self.wrote(bytes.len() as u64);
        Ok(())
    }

    /// Copies `range` of `source` to `at`, inside the kernel where both are files.
    ///
    /// # Errors
    /// `Io`, and what reading gives.
    pub fn copy_at(&self, at: u64, source: &dyn ByteSource, range: Range<u64>) -> Result<()> {
        let mut from = range.start;
        if let Some((file, base)) = source.as_file() {
            from = self.kernel_copy(at, file, base, &range)?;
        }
        let mut buffer = Vec::new();
        while from < range.end {
            let n = (range.end - from).min(BUFFER as u64) as usize;
            buffer.resize(n, 0);
            source.read_at(from, &mut buffer)?;
            self.write_at(at + (from - range.start), &buffer)?;
            from += n as u64;
        }
        Ok(())
    }

    /// Copies what the kernel will; gives the position of the source that was reached.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn kernel_copy(&self, at: u64, from: &File, base: u64, range: &Range<u64>) -> Result<u64> {
        use rustix::io::Errno;
        let (mut done, mut to) = (range.start, at);
        let Some(mut offset) = base.checked_add(range.start) else {
            return Ok(done);
        };
        while done < range.end {
            let step = (range.end - done).min(1 << 30) as usize;
            let file = &*self.output.file;
            match rustix::fs::copy_file_range(from, Some(&mut offset), file, Some(&mut to), step) {
                // The source has ended early: reading it says so properly.
                Ok(0) => break,
                Ok(n) => {
                    done += n as u64;
                    self.wrote(n as u64);
                }
                Err(Errno::INTR) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(failed("cannot write", e.into(), self.output.target()));
                }
                // Other file systems, old kernels, odd files: the plain path tells errors.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn kernel_copy(&self, _at: u64, _from: &File, _base: u64, range: &Range<u64>) -> Result<u64> {
        Ok(range.start)
    }

    /// Has what was written synced beside further writing.
    fn wrote(&self, n: u64) {
        if !self.output.sync {
            return;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.since = pace.since.saturating_add(n);
        if pace.since >= SYNC_EVERY {
            pace.since = 0;
            let file = &self.output.file;
            pace.syncer
                .get_or_insert_with(|| Syncer::start(Arc::clone(file)))
                .wake();
        }
    }

    /// Completes the file and adds it to `set`.
    ///
    /// # Errors
    /// As [`OutputSet::push`].
    pub fn finish(mut self, set: &mut OutputSet) -> Result<()> {
        let pace = self.pace.into_inner();
        let pace = pace.unwrap_or_else(PoisonError::into_inner);
        self.output.syncer = pace.syncer;
        self.output.flushed = self.len;
        set.push(self.output)
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if n == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_core::source::{FileSource, SliceSource};

    #[test]
    fn parts_in_any_order_make_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in");
        let big: Vec<u8> = (0..3u32 << 20).map(|i| (i % 251) as u8).collect();
        std::fs::write(&input, &big).unwrap();
        let path = dir.path().join("out");
        let out = Positioned::create(&path, 8 << 20, true).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| out.write_at(7 << 20, b"end").unwrap());
            s.spawn(|| {
                let file = FileSource::open(&input).unwrap();
                out.copy_at(1 << 20, &file, 5..3 << 20).unwrap();
            });
            s.spawn(|| {
                let memory = SliceSource::new(big.clone(), "memory");
                out.copy_at(0, &memory, 0..1 << 20).unwrap();
            });
        });
        let mut set = OutputSet::new();
        out.finish(&mut set).unwrap();
        assert!(!path.exists());
        set.commit().unwrap();
        let got = std::fs::read(&path).unwrap();
        let mut want = vec![0; 8 << 20];
        want[..1 << 20].copy_from_slice(&big[..1 << 20]);
        want[1 << 20..(4 << 20) - 5].copy_from_slice(&big[5..]);
        want[7 << 20..(7 << 20) + 3].copy_from_slice(b"end");
        assert!(got == want);
    }

    #[test]
    fn a_dropped_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = Positioned::create(&dir.path().join("x"), 1 << 20, false).unwrap();
        out.write_at(0, b"abc").unwrap();
        drop(out);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
