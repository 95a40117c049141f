//! A file written in order.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;

use super::place::{Temporary, failed, resolve};
use super::{OutputSet, Sink};

/// Size of the write buffer, in bytes.
pub(super) const BUFFER: usize = 1 << 20;

/// Ranges shorter than this are read into the buffer: a flush and a system call cost more.
const KERNEL_COPY: u64 = 256 << 10;

/// The block that file systems share between files, in bytes.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BLOCK: u64 = 4096;

/// How many bytes are written between two background syncs.
pub(super) const SYNC_EVERY: u64 = 64 << 20;

/// A file being written. Dropped before [`Output::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Output {
    pub(super) file: Arc<File>,
    temporary: Temporary,
    buffer: Vec<u8>,
    /// Bytes that have left the buffer.
    pub(super) flushed: u64,
    reserved: u64,
    /// Whether copies inside the kernel work between these files.
    kernel: bool,
    pub(super) sync: bool,
    pub(super) syncer: Option<Syncer>,
    synced: u64,
}

impl Output {
    /// Begins a file that will be put at `path` when it is finished; a symbolic link is
    /// followed. With `sync` the finished file and its directory entry are on the disk before
    /// [`Output::finish`] returns.
    ///
    /// # Errors
    /// `Parameter` when `path` is no place for a file, `Io` when nothing can be created there.
    pub fn create(path: &Path, sync: bool) -> Result<Self> {
        let target = resolve(path)?;
        let old = std::fs::metadata(&target).ok();
        let (temporary, file) = Temporary::create(target)?;
        // A replaced file keeps its permissions and, where we may, its owner; a file system
        // without any is no failure.
        if let Some(old) = old {
            #[cfg(unix)]
            {
                use std::os::unix::fs::{MetadataExt, fchown};
                let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            }
            let _ = file.set_permissions(old.permissions());
        }
        Ok(Self {
            file: Arc::new(file),
            temporary,
            buffer: Vec::with_capacity(BUFFER),
            flushed: 0,
            reserved: 0,
            kernel: true,
            sync,
            syncer: None,
            synced: 0,
        })
    }

    /// Allocates `bytes` ahead, so that a full disk is known before anything is written. A file
    /// system that cannot is passed over.
    ///
    /// # Errors
    /// `Io` when the disk has no room.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use rustix::io::Errno;
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&*self.file, flags, 0, bytes) {
                Ok(()) => self.reserved = bytes,
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    let what = format!("cannot reserve {bytes} bytes");
                    return Err(failed(&what, e.into(), &self.temporary.target));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The path the file will have.
    pub fn target(&self) -> &Path {
        &self.temporary.target
    }

    /// Completes the file and puts it in place.
    ///
    /// # Errors
    /// `Io`; nothing is left then and an existing file is unchanged.
    pub fn finish(self) -> Result<PathBuf> {
        let mut set = OutputSet::new();
        set.push(self)?;
        Ok(set.commit()?.pop().unwrap_or_default())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            let mut file: &File = &self.file;
            file.write_all(&self.buffer)
                .map_err(|e| failed("cannot write", e, &self.temporary.target))?;
            self.wrote(self.buffer.len() as u64);
            self.buffer.clear();
        }
        Ok(())
    }

    /// Accounts for bytes that reached the file, and has them synced beside further writing.
    fn wrote(&mut self, n: u64) {
        self.flushed += n;
        if self.sync && self.flushed - self.synced >= SYNC_EVERY {
            self.synced = self.flushed;
            let file = &self.file;
            self.syncer
                .get_or_insert_with(|| Syncer::start(Arc::clone(file)))
                .wake();
        }
    }

    /// Copies inside the kernel what it will; gives the position reached.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn kernel_copy(&mut self, from: &File, base: u64, range: &Range<u64>) -> Result<u64> {
        use rustix::io::Errno;
        let mut at = range.start;
        let Some(mut offset) = base.checked_add(range.start) else {
            return Ok(at);
        };
        while at < range.end {
            // Whole blocks can be shared by both files, where the file system can do that.
            let step = match offset % BLOCK {
                part if part != 0 && part == self.flushed % BLOCK => BLOCK - part,
                _ => 1 << 30,
            };
            let step = (range.end - at).min(step) as usize;
            match rustix::fs::copy_file_range(from, Some(&mut offset), &*self.file, None, step) {
                // The source has ended early: reading it says so properly.
                Ok(0) => return Ok(at),
                Ok(n) => {
                    at += n as u64;
                    self.wrote(n as u64);
                }
                Err(Errno::INTR) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(failed("cannot write", e.into(), &self.temporary.target));
                }
                // Other file systems, old kernels, odd files; and a read error shows itself
                // again, with its name, on the plain path.
                Err(_) => {
                    self.kernel = false;
                    return Ok(at);
                }
            }
        }
        Ok(at)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn kernel_copy(&mut self, _from: &File, _base: u64, range: &Range<u64>) -> Result<u64> {
        self.kernel = false;
        Ok(range.start)
    }

    /// Writes out everything and closes the file.
    pub(super) fn close(mut self) -> Result<(Temporary, bool)> {
        self.flush()?;
        let write = |e| failed("cannot complete the file", e, &self.temporary.target);
        if self.reserved > self.flushed {
            self.file.set_len(self.flushed).map_err(write)?;
        }
        if let Some(syncer) = self.syncer.take() {
            syncer.stop().map_err(write)?;
        }
        if self.sync {
            self.file.sync_all().map_err(write)?;
        }
        Ok((self.temporary, self.sync))
    }
}

impl Sink for Output {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let mut file: &File = &self.file;
        file.write_all(bytes)
            .map_err(|e| failed("cannot write", e, &self.temporary.target))?;
        self.wrote(bytes.len() as u64);
        Ok(())
    }

    fn copy(&mut self, source: &dyn ByteSource, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        let long = range.end.saturating_sub(range.start) >= KERNEL_COPY;
        if let (true, Some((file, base))) = (self.kernel && long, source.as_file()) {
            self.flush()?;
            at = self.kernel_copy(file, base, &range)?;
        }
        while at < range.end {
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
            let used = self.buffer.len();
            let n = (range.end - at).min((BUFFER - used) as u64) as usize;
            // The capacity is there already: this only clears bytes that are read next.
            self.buffer.resize(used + n, 0);
            let part = self.buffer.get_mut(used..).unwrap_or_default();
            if let Err(e) = source.read_at(at, part) {
                self.buffer.truncate(used);
                return Err(e);
            }
            at += n as u64;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }
}

/// A thread that syncs a file's data while more of it is written.
#[derive(Debug)]
pub(super) struct Syncer {
    wake: SyncSender<()>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Syncer {
    pub(super) fn start(file: Arc<File>) -> Self {
        let (wake, woken) = sync_channel::<()>(1);
        let work = move || {
            // A write-back error is reported to one sync only: it must not be lost here.
            while woken.recv().is_ok() {
                file.sync_data()?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name("sync".into())
            .spawn(work)
            .ok();
        Self { wake, thread }
    }

    pub(super) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    pub(super) fn stop(self) -> std::io::Result<()> {
        drop(self.wake);
        match self.thread.map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(_)) => Err(std::io::Error::other("the syncing thread failed")),
            None => Ok(()),
        }
    }
}
