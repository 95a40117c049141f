//! What `scan` and `disasm` give up before they read a hostile byte.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use weighbridge::{Error, Result};
use weighbridge_sandbox::Sandbox;

use crate::output::Output;
use crate::style::Tone;

/// Whether the sandbox is wanted.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Confine {
    /// Read without the sandbox that takes away all rights but to read what was named
    #[arg(long)]
    pub(crate) no_sandbox: bool,

    /// Refuse to read anything where the sandbox is not to be had in full
    #[arg(long, conflicts_with = "no_sandbox")]
    pub(crate) require_sandbox: bool,
}

impl Confine {
    /// Enters the sandbox, in which only `reads` can be read and only `writes` be written to. No
    /// thread may have been started but the one of [`crate::exit::watch_for_interrupts`].
    ///
    /// # Errors
    /// `Unsupported` when it is required and not to be had.
    pub(crate) fn enter<'a>(
        &self,
        reads: impl Iterator<Item = &'a Path>,
        writes: &[&LateFile],
        out: &Output,
    ) -> Result<()> {
        if self.no_sandbox {
            return Ok(());
        }
        if self.require_sandbox {
            // Asked first: what is half entered cannot be left.
            refuse(&Sandbox::offered())?;
        }
        let plan = Sandbox::plan(reads.map(PathBuf::from));
        #[cfg(unix)]
        let plan = writes.iter().fold(plan, |p, w| p.writing_to(&w.file));
        #[cfg(not(unix))]
        let _ = writes;
        let report = plan.enter();
        if self.require_sandbox {
            refuse(&report)?;
        }
        if !report.is_complete() {
            out.note(Tone::Warn, "sandbox", &report.missing_text());
        }
        Ok(())
    }
}

fn refuse(report: &weighbridge_sandbox::Report) -> Result<()> {
    if report.is_complete() {
        return Ok(());
    }
    Err(Error::unsupported(
        "cli.no-sandbox",
        format!("the sandbox is required, and {}", report.missing_text()),
    )
    .help("weighbridge --version --verbose says what this system offers"))
}

/// A file that is written after the sandbox was entered, where no file can be opened any more:
/// opened before, and left as it is until then.
#[derive(Debug)]
pub(crate) struct LateFile {
    file: File,
    path: PathBuf,
}

impl LateFile {
    /// Opens the file at `path`, or makes an empty one.
    ///
    /// # Errors
    /// `Io` when it cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::io("cannot write", e).in_file(path.display().to_string()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `bytes` all that the file holds.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        let length = self.file.metadata().map(|m| m.is_file());
        let done = self.file.write_all(bytes).and_then(|()| {
            // A pipe or a device has no length to cut.
            if length? {
                self.file.set_len(bytes.len() as u64)?;
            }
            Ok(())
        });
        done.map_err(|e| Error::io("cannot write", e).in_file(self.path.display().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_file_holds_what_was_written_and_nothing_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        std::fs::write(&path, "something longer").unwrap();
        let late = LateFile::open(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"something longer");
        late.write(b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert!(LateFile::open(&dir.path().join("no/folder")).is_err());
    }
}
