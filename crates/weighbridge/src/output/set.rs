//! Files that come into place together.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use weighbridge_core::Result;

use super::Output;
use super::place::{Temporary, failed, replace};

/// Files that come into place together: none is renamed before all are written.
#[derive(Debug, Default)]
pub struct OutputSet {
    files: Vec<(Temporary, bool)>,
    /// Whether what lies at the last file's target is about others that are replaced.
    tied: bool,
}

impl OutputSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Completes `output` without putting it in place yet.
    ///
    /// # Errors
    /// `Io`; the file is removed then.
    pub fn push(&mut self, output: Output) -> Result<()> {
        self.files.push(output.close()?);
        Ok(())
    }

    /// Writes a file of so many bytes, which `fill` puts into it, for `path`.
    ///
    /// # Errors
    /// What `fill` gives, and `Io`; the file is removed then.
    pub fn add(
        &mut self,
        path: &Path,
        bytes: u64,
        sync: bool,
        fill: &mut dyn FnMut(&mut Output) -> Result<()>,
    ) -> Result<()> {
        let mut out = Output::create(path, sync)?;
        out.reserve(bytes)?;
        fill(&mut out)?;
        self.push(out)
    }

    /// Says that the file which the last one of the set will replace is about others that the set
    /// replaces. It is moved away before they are: a crash between the renames leaves no file in
    /// its place instead of one that means what the others were.
    pub fn old_is_tied(&mut self) {
        self.tied = true;
    }

    /// Puts all files in place, in the order they were pushed (an index goes last), and gives
    /// their paths.
    ///
    /// # Errors
    /// `Io`; files not yet renamed are removed then.
    pub fn commit(mut self) -> Result<Vec<PathBuf>> {
        let mut folders = BTreeSet::new();
        let mut paths = Vec::with_capacity(self.files.len());
        for (temporary, sync) in &self.files {
            paths.push(temporary.target.clone());
            if *sync {
                folders.insert(temporary.target.parent().map(Path::to_path_buf));
            }
        }
        let synced = || folders.iter().flatten().try_for_each(|f| sync_folder(f));
        let head = paths.last().filter(|p| self.tied && p.exists());
        match head.cloned() {
            Some(head) => {
                let files = self.files.iter_mut().map(|(t, _)| t);
                replace(files, head, &synced)?;
            }
            None => {
                for (temporary, _) in &mut self.files {
                    temporary.place()?;
                }
            }
        }
        synced()?;
        Ok(paths)
    }
}

/// Makes renames in `folder` last. Not every file system syncs directories; that is no failure.
fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        match File::open(folder).and_then(|f| f.sync_all()) {
            Err(e) if e.raw_os_error() == Some(5) => {
                return Err(failed("cannot sync the directory", e, folder));
            }
            _ => {}
        }
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
