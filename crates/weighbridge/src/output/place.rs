//! Where a file goes: the temporary one beside it, the links that lead there, and what the
//! operating system says.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use weighbridge_core::{Error, ErrorKind, Result};

/// The temporary files of this process, for [`remove_temporaries`].
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Set by [`remove_temporaries`]: the process is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every unfinished file of this process and lets none be begun or put in place any
/// more. For a thread that handles an interrupt, just before it ends the process.
pub fn remove_temporaries() {
    let mut paths = live();
    ENDING.store(true, Ordering::SeqCst);
    for path in std::mem::take(&mut *paths) {
        let _ = std::fs::remove_file(path);
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Io, "io.interrupted", "interrupted")
}

/// A temporary file's path; removed with it unless it was renamed.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    pub(super) target: PathBuf,
    placed: bool,
}

impl Temporary {
    /// Creates the file beside `target` under a name that no other process uses.
    pub(super) fn create(target: PathBuf) -> Result<(Self, File)> {
        let mut name = target
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Room for the rest within the usual limit of 255 bytes.
        let keep = (0..=name.len().min(180))
            .rev()
            .find(|&n| name.is_char_boundary(n));
        name.truncate(keep.unwrap_or(0));
        let mut tries = 0;
        loop {
            let random = foldhash::fast::RandomState::default()
                .build_hasher()
                .finish();
            let pid = std::process::id();
            let path = target.with_file_name(format!(".{name}.{pid}.{random:016x}.tmp"));
            let mut paths = live();
            if ENDING.load(Ordering::SeqCst) {
                return Err(interrupted());
            }
            match OpenOptions::new()
                .write(true)
                .read(true)
                .create_new(true)
                .open(&path)
            {
                Ok(file) => {
                    paths.insert(path.clone());
                    let placed = false;
                    return Ok((
                        Self {
                            path,
                            target,
                            placed,
                        },
                        file,
                    ));
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && tries < 100 => {
                    tries += 1
                }
                Err(e) => return Err(failed("cannot create a file beside the output", e, &target)),
            }
        }
    }

    /// Puts the file in the target's place.
    pub(super) fn place(&mut self) -> Result<()> {
        let mut paths = live();
        if ENDING.load(Ordering::SeqCst) {
            return Err(interrupted());
        }
        self.rename(&mut paths)
    }

    fn rename(&mut self, paths: &mut BTreeSet<PathBuf>) -> Result<()> {
        std::fs::rename(&self.path, &self.target)
            .map_err(|e| failed("cannot rename the finished file", e, &self.target))?;
        self.placed = true;
        paths.remove(&self.path);
        Ok(())
    }
}

/// Puts `files` in place while what lies at the last one's target is away: it is never seen beside
/// files that are not its own. An interrupt waits for all of it. `last` makes what was renamed last
/// on the disk.
///
/// # Errors
/// `Io`. As long as no file came into place, what was away is back; after that it would be wrong,
/// and is removed.
pub(super) fn replace<'f>(
    files: impl ExactSizeIterator<Item = &'f mut Temporary>,
    head: PathBuf,
    last: &dyn Fn() -> Result<()>,
) -> Result<()> {
    // Another name for what was there; it goes with it.
    let (mut old, _) = Temporary::create(head)?;
    let mut paths = live();
    if ENDING.load(Ordering::SeqCst) {
        drop(paths);
        return Err(interrupted());
    }
    std::fs::rename(&old.target, &old.path)
        .map_err(|e| failed("cannot move the old file away", e, &old.target))?;
    let (mut placed, count) = (0, files.len());
    let all = || {
        last()?;
        for (i, file) in files.enumerate() {
            if i + 1 == count {
                last()?;
            }
            file.rename(&mut paths)?;
            placed += 1;
        }
        Ok(())
    };
    let done = all();
    if done.is_err() && placed == 0 && old.rename(&mut paths).is_err() {
        // Better under the other name than gone.
        old.placed = true;
    }
    // What is dropped now asks for it.
    drop(paths);
    done
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _ = std::fs::remove_file(&self.path);
            live().remove(&self.path);
        }
    }
}

/// An operating system error on the output, with advice where there is any.
#[cold]
pub(super) fn failed(what: &str, e: std::io::Error, target: &Path) -> Error {
    let name = target.display().to_string();
    match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorKind::Io, "io.disk-full", format!("{what}: {e}"))
                .in_file(name)
                .help("free some space or write to another disk; nothing was left behind and an existing file is unchanged")
        }
        std::io::ErrorKind::FileTooLarge => {
            Error::new(ErrorKind::Io, "io.file-too-large", format!("{what}: {e}"))
                .in_file(name)
                .help("the file system or a limit (ulimit -f) allows no file of this size; --shard-size writes several")
        }
        _ => Error::io(what, e).in_file(name),
    }
}

/// The file that writing to `path` means: what a symbolic link points at.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..40 {
        match std::fs::symlink_metadata(&path) {
            Ok(m) if m.file_type().is_symlink() => {
                let to = std::fs::read_link(&path)
                    .map_err(|e| failed("cannot follow the link", e, &path))?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(m) if m.is_dir() => {
                return Err(
                    Error::parameter("output.is-a-directory", "the output is a directory")
                        .in_file(path.display().to_string())
                        .help("name a file in it"),
                );
            }
            Ok(m) if !m.is_file() => {
                return Err(Error::parameter(
                    "output.not-a-file",
                    "the output exists and is no regular file",
                )
                .in_file(path.display().to_string()));
            }
            _ if path.file_name().is_none() => {
                return Err(
                    Error::parameter("output.no-name", "the output has no file name")
                        .in_file(path.display().to_string()),
                );
            }
            _ => return Ok(path),
        }
    }
    Err(
        Error::parameter("output.link-loop", "too many links to follow")
            .in_file(path.display().to_string()),
    )
}

/// Whether `a` and `b` are one existing file, by whatever names.
pub fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |p: &Path| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
        id(a).is_some_and(|i| Some(i) == id(b))
    }
    #[cfg(not(unix))]
    {
        let id = |p: &Path| std::fs::canonicalize(p).ok();
        id(a).is_some_and(|i| Some(i) == id(b))
    }
}

/// Whether writing to `a` and to `b` would write one file, be it there already or not.
pub fn same_place(a: &Path, b: &Path) -> bool {
    let place = |p: &Path| {
        let p = std::path::absolute(resolve(p).ok()?).ok()?;
        let folder = p.parent()?.canonicalize().ok()?;
        Some(folder.join(p.file_name()?))
    };
    let one = place(a);
    (one.is_some() && one == place(b)) || same_file(a, b)
}

/// Refuses outputs that would take the place of a file that is read.
///
/// # Errors
/// `Parameter` (`rule`) with the output and `help`.
pub(crate) fn keep_inputs<'p>(
    outputs: &[PathBuf],
    inputs: impl Iterator<Item = &'p Path> + Clone,
    rule: &'static str,
    help: &'static str,
) -> Result<()> {
    let taken = |out: &&PathBuf| inputs.clone().any(|p| same_file(p, out));
    let Some(out) = outputs.iter().find(taken) else {
        return Ok(());
    };
    let message = "the result would take the place of a file it is made from";
    let e = Error::parameter(rule, message);
    Err(e.in_file(out.display().to_string()).help(help))
}
