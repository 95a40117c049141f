//! Files that a scan writes when it is done.

use std::path::{Path, PathBuf};

use weighbridge::Result;
use weighbridge::output::{Output as OutputFile, Sink};

use crate::sandbox::{Confine, LateFile};

/// A file that is written when the scan is done.
pub(super) enum Written {
    /// Put in place whole, or not at all.
    Whole(PathBuf),
    /// Opened before the sandbox, in which nothing can be made or renamed, and filled at the end.
    Late(LateFile),
}

impl Written {
    /// Plans to write the file at `path`.
    ///
    /// # Errors
    /// `Io` when it cannot be opened.
    pub(super) fn open(path: &Path, confine: &Confine) -> Result<Self> {
        if confine.leaves_files_alone() {
            Ok(Self::Whole(path.to_owned()))
        } else {
            Ok(Self::Late(LateFile::open(path)?))
        }
    }

    /// What has to be writable in the sandbox.
    pub(super) fn late(&self) -> Option<&LateFile> {
        match self {
            Self::Whole(_) => None,
            Self::Late(file) => Some(file),
        }
    }

    /// Makes `bytes` all that the file holds.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub(super) fn write(self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Late(file) => file.write(bytes),
            Self::Whole(path) => {
                let mut file = OutputFile::create(&path, true)?;
                file.put(bytes)?;
                file.finish()?;
                Ok(())
            }
        }
    }
}
