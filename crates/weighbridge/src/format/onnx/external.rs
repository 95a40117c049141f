//! Data that lies in files beside the model: where, and whether it may be opened.
//!
//! A location is a relative path in the model's own folder, with `/` between its steps
//! (`docs/ExternalData.md` of the ONNX repository). It is judged by its spelling first, on every
//! system by the rules of all of them, and then by where it leads: a link out of the folder is
//! refused, and so is what is no regular file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{Storage, StorageData};
use weighbridge_core::source::{self, Backend, ByteSource};
use weighbridge_core::{Error, Limits, Result};

use super::raw::Tensor;

/// Longest location, in bytes.
const MOST_LOCATION: usize = 4096;

/// Where a tensor's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, relative to the model's folder, without steps that stay where they are.
    pub location: String,
    /// The first byte.
    pub offset: u64,
    /// How many bytes, where it is said.
    pub length: Option<u64>,
}

/// What an external tensor says of the place of its bytes.
///
/// # Errors
/// `Malformed` for a location that leaves the folder, and numbers that are none.
pub fn place(tensor: &Tensor) -> Result<Place> {
    let Some(location) = tensor.external("location") else {
        let message = "external data does not say where it lies";
        let e = Error::malformed("onnx.external-location", message);
        return Err(e.span(tensor.span.start, tensor.span.len()));
    };
    spelling(&location.text).map_err(|e| e.span(location.span.start, location.span.len()))?;
    let number = |key: &'static str| -> Result<Option<u64>> {
        let Some(text) = tensor.external(key) else {
            return Ok(None);
        };
        let digits = text.text.as_bytes();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let n = text.text.parse::<u64>().ok();
        let n = n.filter(|&n| plain && i64::try_from(n).is_ok());
        n.map(Some).ok_or_else(|| {
            let message = format!(
                "the {key} of external data is no number in range: {:?}",
                text.text
            );
            Error::malformed("onnx.external-number", message).span(text.span.start, text.span.len())
        })
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let end = offset.checked_add(length.unwrap_or(0));
    if end.is_none_or(|e| i64::try_from(e).is_err()) {
        let message = "the end of external data overflows";
        let e = Error::malformed("onnx.external-range", message);
        return Err(e.span(tensor.span.start, tensor.span.len()));
    }
    // `./weights` and `weights` are one file.
    let steps = location.text.split('/').filter(|s| *s != ".");
    Ok(Place {
        location: steps.collect::<Vec<_>>().join("/"),
        offset,
        length,
    })
}

/// Refuses locations that would leave the model's folder on some system, or that name no file.
///
/// # Errors
/// `Malformed` (`onnx.external-path`).
pub fn spelling(location: &str) -> Result<()> {
    let bad = |why: &str| {
        let shown: String = location.chars().take(200).collect();
        Err(Error::malformed(
            "onnx.external-path",
            format!("the location of external data {why}: {shown:?}"),
        )
        .help("external data belongs into the model's folder, under a plain relative name"))
    };
    if location.is_empty() {
        return bad("is empty");
    }
    if location.len() > MOST_LOCATION {
        return bad("is too long");
    }
    if location.chars().any(char::is_control) {
        return bad("holds control characters");
    }
    if location.contains('\\') {
        return bad("holds a backslash, which leads elsewhere on Windows");
    }
    if location.starts_with('/') {
        return bad("is an absolute path");
    }
    let scheme = location.split_once(':').map_or("", |(s, _)| s);
    if location.contains("://") || scheme.eq_ignore_ascii_case("file") {
        return bad("is a URL");
    }
    if matches!(location.as_bytes(), [d, b':', ..] if d.is_ascii_alphabetic()) {
        return bad("begins with a drive");
    }
    if location.ends_with("/.") || location == "." {
        return bad("names a folder");
    }
    for step in location.split('/') {
        // Windows drops dots and blanks at the end of a step; of nothing else no step is made.
        let kept = step.trim_end_matches([' ', '.']);
        match (step.trim_matches([' ', '.']), step) {
            // `./weights` is what some exporters write.
            ("", ".") => {}
            ("", s) if s.starts_with("..") => return bad("leads out of the model's folder"),
            ("", _) => return bad("has a step without a name"),
            _ if is_device(kept) => return bad("is the name of a device"),
            _ => {}
        }
    }
    Ok(())
}

/// Names that Windows keeps for devices, in every folder and with any extension.
fn is_device(step: &str) -> bool {
    let stem = step.split('.').next().unwrap_or(step).trim_end();
    let upper = stem.to_ascii_uppercase();
    let is_digit = |c: char| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³');
    let numbered = |p: &str| {
        upper
            .strip_prefix(p)
            .is_some_and(|n| n.chars().count() == 1 && n.contains(is_digit))
    };
    matches!(
        upper.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) || numbered("COM")
        || numbered("LPT")
}

/// The files that a model's tensors lie in, each opened once.
#[derive(Debug)]
pub struct Files {
    /// The model's folder; `None` for a model that is no file.
    folder: Option<PathBuf>,
    model: PathBuf,
    backend: Backend,
    most: u64,
    opened: HashMap<String, Result<Arc<Storage>, Refusal>>,
    /// Paths in the order in which they were met, with their sizes.
    pub parts: Vec<(PathBuf, u64)>,
    /// Files with several names, of which others may change them.
    pub hard_links: Vec<PathBuf>,
}

/// Why a file was not opened; said for every tensor that lies in it.
#[derive(Debug, Clone)]
pub struct Refusal {
    kind: weighbridge_core::ErrorKind,
    rule: &'static str,
    message: String,
}

impl Refusal {
    /// The error.
    pub fn error(&self) -> Error {
        Error::new(self.kind, self.rule, self.message.clone())
    }

    fn of(e: &Error) -> Self {
        Self {
            kind: e.kind(),
            rule: e.rule(),
            message: e.message().to_owned(),
        }
    }
}

impl Files {
    /// The files beside the model in `source`.
    pub fn beside(source: &dyn ByteSource, backend: Backend, limits: &Limits) -> Self {
        let model = PathBuf::from(source.name());
        let folder = source.as_file().is_some().then(|| match model.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        });
        Self {
            folder,
            model,
            backend,
            most: limits.parts,
            opened: HashMap::new(),
            parts: Vec::new(),
            hard_links: Vec::new(),
        }
    }

    /// The model's folder; `None` for a model that is no file.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Whether it has been tried to open `location`.
    pub fn has_opened(&self, location: &str) -> bool {
        self.opened.contains_key(location)
    }

    /// The whole of the file at `location`.
    ///
    /// # Errors
    /// `onnx.external-missing` when it is not there, `onnx.external-link` when a link leads out
    /// of the folder, `onnx.external-file` when it is no regular file, `Io`.
    pub fn open(&mut self, location: &str) -> Result<Arc<Storage>, Refusal> {
        if let Some(known) = self.opened.get(location) {
            return known.clone();
        }
        if self.opened.len() as u64 >= self.most {
            let e = Error::limit("onnx.parts", "the model lies in too many files");
            return Err(Refusal::of(&e));
        }
        let opened = self.open_new(location).map_err(|e| Refusal::of(&e));
        self.opened.insert(location.to_owned(), opened.clone());
        opened
    }

    /// The path of `location`, which [`Model::parts`](weighbridge_core::model::Model::parts) has.
    pub(super) fn path(&self, location: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|f| f.join(location))
    }

    fn open_new(&mut self, location: &str) -> Result<Arc<Storage>> {
        let Some(folder) = &self.folder else {
            let message = format!("the external data {location} is not at hand");
            return Err(Error::unsupported("onnx.external-missing", message));
        };
        let path = folder.join(location);
        let target = resolve(&self.model, folder, &path, location)?;
        let source = source::open_file(&target, self.backend)?;
        let meta = source.as_file().and_then(|(f, _)| f.metadata().ok());
        if meta.as_ref().is_some_and(several_names) {
            self.hard_links.push(path.clone());
        }
        let len = source.len();
        self.parts.push((path, len));
        let data = StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        let storage = Storage::new(location, len, false, data)?;
        Ok(Arc::new(storage.into_region()))
    }
}

/// Where `path` leads: a regular file within the folder.
fn resolve(model: &Path, folder: &Path, path: &Path, location: &str) -> Result<PathBuf> {
    if let Some(target) = leaves(model, folder, path) {
        return Err(Error::malformed(
            "onnx.external-link",
            format!(
                "the external data {location} is a link that leads out of the model's folder, to {}",
                target.display()
            ),
        )
        .help("put the file itself beside the model if you trust it"));
    }
    let target = path.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::unsupported(
            "onnx.external-missing",
            format!("the external data {location} is not beside the model"),
        )
        .help("fetch the file and put it beside the model, under this name"),
        _ => Error::io(format!("cannot open the external data {location}"), e),
    })?;
    let regular = std::fs::metadata(&target).is_ok_and(|m| m.is_file());
    if !regular {
        let message = format!("the external data {location} is no regular file");
        return Err(Error::malformed("onnx.external-file", message));
    }
    Ok(target)
}

/// Whether other names of the same file exist.
#[cfg(unix)]
pub(super) fn several_names(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    meta.nlink() > 1
}

#[cfg(not(unix))]
pub(super) fn several_names(_: &std::fs::Metadata) -> bool {
    false
}

/// Where `data` leads when links lead it out of `folder`, other than within the store that the
/// model itself is a link into: the caches of model hubs keep every file as a link into one
/// folder of blobs.
pub(crate) fn leaves(model: &Path, folder: &Path, data: &Path) -> Option<PathBuf> {
    let home = folder.canonicalize().ok()?;
    let target = match data.canonicalize() {
        Ok(t) => t,
        Err(_) => return std::fs::read_link(data).ok().filter(|t| t.is_absolute()),
    };
    if target.starts_with(&home) {
        return None;
    }
    let store = model.canonicalize().ok();
    let store = store.as_deref().and_then(Path::parent);
    // `models--x/snapshots/REV/model.onnx` and `models--x/blobs/…`.
    let cache = home.ancestors().find_map(|a| {
        let snapshots = a.file_name().is_some_and(|n| n == "snapshots");
        a.parent().filter(|_| snapshots).map(|p| p.join("blobs"))
    });
    let same_store = store.is_some_and(|s| s != home && target.parent() == Some(s));
    let same_cache = cache.is_some_and(|c| target.parent() == Some(c.as_path()));
    (!same_store && !same_cache).then_some(target)
}
