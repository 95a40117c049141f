//! `.weighbridgeignore`: what the user does not want scanned, in the syntax of `.gitignore`.
//!
//! Whoever publishes a model could put such a file among its files. So only those count that the
//! user has power over: the one in the current directory and those in the folders named on the
//! command line, never one further down; and what they hide is counted and said.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use weighbridge_core::{Error, Result};

/// The file's name.
pub(super) const NAME: &str = ".weighbridgeignore";

/// Longest such file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The patterns for one folder that is scanned.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// The folder's own.
    own: Option<Gitignore>,
    /// Those of the current directory, and the folder as seen from there.
    current: Option<(Gitignore, PathBuf)>,
}

impl Ignored {
    /// The patterns for `folder` and what lies beneath it.
    ///
    /// # Errors
    /// `Io` when a file is there and cannot be read, `Parameter` when a pattern is none.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let mut found = Self {
            own: read(&folder.join(NAME))?,
            current: None,
        };
        let Ok(current) = std::env::current_dir() else {
            return Ok(found);
        };
        let Ok(absolute) = std::path::absolute(folder) else {
            return Ok(found);
        };
        let plain = !absolute.components().any(|c| c == Component::ParentDir);
        if let Ok(seen) = absolute.strip_prefix(&current)
            && plain
            && !seen.as_os_str().is_empty()
        {
            found.current = read(&current.join(NAME))?.map(|g| (g, seen.into()));
        }
        Ok(found)
    }

    /// Whether there are no patterns at all.
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_none() && self.current.is_none()
    }

    /// Whether `path`, which lies at `beneath` in the folder, is hidden. The folder's own file
    /// has the last word, as the deeper one has with `.gitignore`.
    pub(super) fn hides(&self, beneath: &Path, is_folder: bool) -> bool {
        if let Some(own) = &self.own {
            match own.matched(beneath, is_folder) {
                Match::None => {}
                other => return other.is_ignore(),
            }
        }
        self.current
            .as_ref()
            .is_some_and(|(g, seen)| g.matched(seen.join(beneath), is_folder).is_ignore())
    }
}

/// The patterns in the file at `path`, if there is one. They are matched against paths relative
/// to its folder.
fn read(path: &Path) -> Result<Option<Gitignore>> {
    let name = || path.display().to_string();
    let file = match std::fs::metadata(path) {
        Ok(m) if m.is_file() => std::fs::File::open(path),
        _ => return Ok(None),
    };
    let mut bytes = Vec::new();
    file.and_then(|f| f.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("cannot read", e).in_file(name()))?;
    let bad = |message: String| {
        Error::parameter("scan.bad-ignore-file", message)
            .in_file(name())
            .help("correct the pattern, or scan with --no-ignore")
    };
    if bytes.len() as u64 > LONGEST {
        return Err(bad(format!("it is longer than {LONGEST} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("it is no UTF-8 text".into()))?;
    let mut builder = GitignoreBuilder::new(".");
    for (n, line) in text.lines().enumerate() {
        builder
            .add_line(None, line)
            .map_err(|e| bad(format!("line {}: {e}", n + 1)))?;
    }
    let built = builder.build().map_err(|e| bad(e.to_string()))?;
    Ok((!built.is_empty()).then_some(built))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(text: &str) -> Ignored {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), text).unwrap();
        Ignored::of(dir.path()).unwrap()
    }

    #[test]
    fn the_syntax_is_that_of_gitignore() {
        let p = patterns("# comment\n*.log\n/top.bin\nbuild/\ndocs/**/*.md\n!keep.log\n");
        let hides = |path: &str| p.hides(Path::new(path), false);
        assert!(hides("a.log") && hides("deep/er/a.log"));
        assert!(!hides("keep.log") && !hides("deep/keep.log"));
        assert!(hides("top.bin") && !hides("deep/top.bin"));
        assert!(p.hides(Path::new("build"), true) && !hides("build"));
        assert!(hides("docs/a/b.md") && !hides("other/b.md"));
    }

    #[test]
    fn a_file_that_cannot_be_followed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(NAME);
        std::fs::write(&file, "ok\n{a\n").unwrap();
        let e = Ignored::of(dir.path()).unwrap_err();
        assert!(e.message().contains("line 2"), "{e}");
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(Ignored::of(dir.path()).is_err());
        std::fs::remove_file(&file).unwrap();
        assert!(Ignored::of(dir.path()).unwrap().is_empty());
    }
}
