//! Files that are written beside a model: their names, and that they lie there. A name that a
//! model carries is never more than a wish: it is written to only inside the new model's folder,
//! through no link, and never over a file that has other content (CVE-2025-51480).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Storage};
use weighbridge_core::source::{Backend, ByteSource, open_file};
use weighbridge_core::{Error, Result};

use super::external;
use super::splice;
use super::write::{Original, Weights};
use crate::OpenOptions;
use crate::output::{OutputSet, same_file};

/// Compared at a time, in bytes.
const CHUNK: u64 = 1 << 20;

/// The folder of a path, `.` where it names none.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether `a` and `b` lie in one folder.
pub(super) fn inside(a: &Path, b: &Path) -> bool {
    let of = |p: &Path| folder(p).canonicalize().ok();
    of(a).is_some_and(|f| Some(f) == of(b))
}

/// The names of new files.
#[derive(Debug)]
pub(super) struct Names {
    one: String,
}

impl Names {
    /// Names for files beside `out`: the one asked for, else one made from `out`'s that is none of
    /// the original's own files.
    ///
    /// # Errors
    /// `Parameter` (`onnx.external-name`) for what is no plain name of a file.
    pub(super) fn new(original: &Original, out: &Path, weights: &Weights) -> Result<Self> {
        let Weights::External(e) = weights else {
            return Ok(Self { one: String::new() });
        };
        if let Some(name) = &e.file {
            plain(name)?;
            return Ok(Self { one: name.clone() });
        }
        let stem = out.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            let message = "the model's name is no text, which its weights' has to be";
            Error::parameter("onnx.external-name", message).in_file(out.display().to_string())
        })?;
        let own = |name: &str| {
            let path = out.with_file_name(name);
            let mut parts = original.model.parts.iter();
            parts.any(|p| crate::output::same_file(&p.path, &path))
        };
        let mut name = format!("{stem}.data");
        let mut n = 0u64;
        while own(&name) {
            n = n.saturating_add(1);
            name = format!("{stem}.{n}.data");
        }
        plain(&name)?;
        Ok(Self { one: name })
    }

    /// The names of `count` files.
    pub(super) fn of(&self, count: usize) -> Vec<String> {
        if count <= 1 {
            return vec![self.one.clone(); count];
        }
        let (stem, extension) = match self.one.rsplit_once('.') {
            Some((s, e)) if !s.is_empty() => (s, format!(".{e}")),
            _ => (self.one.as_str(), String::new()),
        };
        let name = |i| format!("{stem}-{i:05}-of-{count:05}{extension}");
        (1..=count).map(name).collect()
    }
}

/// Refuses what is no plain name of a file on every system.
fn plain(name: &str) -> Result<()> {
    let wrong = |why: &str| {
        Error::parameter("onnx.external-name", format!("the name of the data {why}"))
            .help("name a file without a folder: it is put beside the model")
    };
    if name.contains('/') || name == "." {
        return Err(wrong(&format!("is not that of a file alone: {name:?}")));
    }
    external::spelling(name).map_err(|e| wrong(&format!("cannot be: {}", e.message())))
}

/// Whether there is a model at `path` that has weights in one of `data`.
pub(crate) fn is_tied<'d>(path: &Path, data: impl IntoIterator<Item = &'d Path>) -> bool {
    let there: Vec<&Path> = data.into_iter().filter(|d| d.exists()).collect();
    if there.is_empty() || !path.exists() {
        return false;
    }
    let options = OpenOptions {
        format: Some(FormatId::Onnx),
        backend: Backend::Pread,
        ..OpenOptions::default()
    };
    // What does not open means nothing.
    options.open(path).is_ok_and(|m| {
        let mut parts = m.parts.iter().skip(1);
        parts.any(|p| there.iter().any(|d| same_file(&p.path, d)))
    })
}

/// The path of the new file `name` beside `out`, which is no link.
///
/// # Errors
/// `Parameter` (`onnx.external-target`) where a link lies there.
pub(super) fn free(out: &Path, name: &str) -> Result<PathBuf> {
    let path = out.with_file_name(name);
    let link = std::fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_symlink());
    match link {
        true => Err(target(&path, "is a link, which may lead out of the folder")),
        false => Ok(path),
    }
}

fn target(path: &Path, why: &str) -> Error {
    Error::parameter(
        "onnx.external-target",
        format!("the place of the model's weights {why}"),
    )
    .in_file(path.display().to_string())
    .help("move it out of the way, or have all weights gathered in one new file with --external")
}

/// A file of weights that goes with the model into another folder.
#[derive(Debug)]
pub(super) struct Copied {
    pub path: PathBuf,
    pub source: Arc<dyn ByteSource>,
    /// The folders between the model's and the file, outermost first.
    between: Vec<PathBuf>,
}

impl Copied {
    /// Plans to copy `storage`, a whole file, to `location` beside `out`.
    ///
    /// # Errors
    /// `Parameter` (`onnx.external-target`) where a link or something else lies in the way.
    pub(super) fn new(out: &Path, location: &str, storage: &Storage) -> Result<Self> {
        external::spelling(location)?;
        let Some((source, 0)) = storage.raw_range() else {
            let message = format!("the external data {location} cannot be copied");
            return Err(Error::unsupported("onnx.external-file", message));
        };
        let steps: Vec<&str> = location.split('/').filter(|s| *s != ".").collect();
        let mut path = out.parent().map_or_else(PathBuf::new, Path::to_owned);
        let mut between = Vec::new();
        let Some((name, folders)) = steps.split_last() else {
            return Err(Error::malformed("onnx.external-path", "no name of a file"));
        };
        for step in folders {
            path = path.join(step);
            match std::fs::symlink_metadata(&path) {
                Ok(m) if !m.is_dir() => return Err(target(&path, "is no folder")),
                _ => between.push(path.clone()),
            }
        }
        let copied = Self {
            path: path.join(name),
            source: Arc::clone(source),
            between,
        };
        copied.there()?;
        Ok(copied)
    }

    /// Whether a file of this length lies there already.
    fn there(&self) -> Result<bool> {
        match std::fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => {
                let shown = self.path.display().to_string();
                Err(Error::io("cannot look at the place of the weights", e).in_file(shown))
            }
            Ok(m) if m.is_file() && m.len() == self.source.len() => Ok(true),
            Ok(_) => Err(self.other()),
        }
    }

    fn other(&self) -> Error {
        target(
            &self.path,
            "is taken by something else, whose name only the model gives",
        )
    }

    /// Writes the file into `set`, unless it is there.
    pub(super) fn write(
        &self,
        sync: bool,
        set: &mut OutputSet,
        folders: &mut Vec<PathBuf>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        for f in &self.between {
            match std::fs::create_dir(f) {
                Ok(()) => folders.push(f.clone()),
                Err(_) if std::fs::symlink_metadata(f).is_ok_and(|m| m.is_dir()) => {}
                Err(e) => {
                    let shown = f.display().to_string();
                    return Err(Error::io("cannot make the folder", e).in_file(shown));
                }
            }
        }
        let len = self.source.len();
        if self.there()? {
            return match self.equal()? {
                true => {
                    tell(len);
                    Ok(())
                }
                false => Err(self.other()),
            };
        }
        set.add(&self.path, len, sync, &mut |out| {
            splice::copy(self.source.as_ref(), 0..len, out, tell)
        })
    }

    /// Whether the file that lies there has the same content.
    fn equal(&self) -> Result<bool> {
        let there = open_file(&self.path, Backend::Pread)?;
        let (mut at, len) = (0, self.source.len());
        while at < len {
            let end = len.min(at.saturating_add(CHUNK));
            if self.source.read_vec(at..end)? != there.read_vec(at..end)? {
                return Ok(false);
            }
            at = end;
        }
        Ok(there.len() == len)
    }
}
