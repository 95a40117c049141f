//! Data in files beside the model: where it is said to lie, and whether it is there.

use std::path::{Component, Path};

use weighbridge_core::model::DType;
use weighbridge_core::{Error, ErrorKind, Result};

use super::super::external::{self, Place};
use super::super::raw::Tensor;
use super::{Checker, quoted};

/// The keys that are recognized (`docs/ExternalData.md`).
const KEYS: [&str; 5] = ["location", "offset", "length", "checksum", "basepath"];

impl<'m> Checker<'m> {
    pub(super) fn external(&mut self, t: &'m Tensor, dtype: Option<DType>) -> Result<()> {
        if self.lenient {
            return self.as_reference(t);
        }
        let mut seen: Vec<&str> = Vec::new();
        for e in &t.external {
            let key = e.key.text.as_str();
            if !KEYS.contains(&key) {
                let message = format!("external data has no key {}", quoted(key));
                self.strict("onnx.external-key", e.span, message);
            } else if seen.contains(&key) {
                let message = format!("the key {} of external data stands twice", quoted(key));
                self.strict("onnx.external-key", e.span, message);
            } else {
                seen.push(key);
            }
        }
        let place = match external::place(t) {
            Ok(p) => p,
            Err(e) => {
                self.push(e);
                return Ok(());
            }
        };
        let needed = match self.needed(t, dtype) {
            Ok(n) => n,
            Err(e) => {
                self.push(e.span(t.span.start, t.span.len()));
                return Ok(());
            }
        };
        if let Some(said) = place.length
            && said != needed
        {
            let message = format!("the dimensions need {needed} bytes, external data says {said}");
            self.strict("onnx.external-length", t.span, message);
        }
        self.in_file(t, &place, needed)
    }

    /// How many bytes the tensor takes.
    fn needed(&self, t: &Tensor, dtype: Option<DType>) -> Result<u64> {
        let dims = super::super::tensors::shape(&t.dims)?;
        let n = super::super::tensors::elements(&dims)?;
        match dtype {
            Some(DType::Str) => {
                let message = "texts cannot lie in another file";
                Err(Error::malformed("onnx.external-type", message))
            }
            Some(d) => d.size_of(&[n]).ok_or_else(|| {
                Error::malformed("onnx.dimensions", "the size of the tensor overflows")
            }),
            // That it is not known has been said.
            None => Ok(0),
        }
    }

    fn in_file(&mut self, t: &'m Tensor, place: &Place, needed: u64) -> Result<()> {
        let span = t.external("location").map_or(t.span, |l| l.span);
        let known = self.files.has_opened(&place.location);
        let links = self.files.hard_links.len();
        let opened = self.files.open(&place.location);
        if self.files.hard_links.len() > links {
            let message = format!(
                "the external data {} has other names too, under which it can lie outside of the model's folder",
                quoted(&place.location)
            );
            self.wrong("onnx.external-hard-link", span, message);
        }
        match opened {
            Ok(storage) => {
                let end = place.offset.checked_add(needed);
                if end.is_none_or(|e| e > storage.len()) {
                    let message = format!(
                        "the tensor reaches to byte {} of {}, which has {}",
                        place.offset.saturating_add(needed),
                        quoted(&place.location),
                        storage.len()
                    );
                    self.strict("onnx.external-range", t.span, message);
                }
            }
            // What is wrong with a file is said once.
            Err(_) if known => {}
            Err(why) => {
                let e = why.error();
                if e.kind() == ErrorKind::Io {
                    return Err(e);
                }
                self.push(e.span(span.start, span.len()));
            }
        }
        Ok(())
    }

    /// What the reference checker looks at (`resolve_external_data_location` of
    /// `onnx/checker.cc`): the location, and that a regular file of one name is there.
    fn as_reference(&mut self, t: &'m Tensor) -> Result<()> {
        let mut any = false;
        for e in t.external.iter().filter(|e| e.key.text == "location") {
            any = true;
            let location = e.value.text.as_str();
            if let Err((rule, why)) = refused(location, self.files.folder()) {
                let message = format!("the external data {} {why}", quoted(location));
                self.wrong(rule, e.value.span, message);
            }
        }
        if !any {
            let message = "external data does not say where it lies";
            self.wrong("onnx.external-location", t.span, message);
        }
        Ok(())
    }
}

/// Why the reference checker refuses a location.
fn refused(location: &str, folder: Option<&Path>) -> Result<(), (&'static str, &'static str)> {
    let path = Path::new(location);
    if location.is_empty() || path.is_absolute() {
        return Err(("onnx.external-path", "is empty or an absolute path"));
    }
    let mut normal: Vec<&str> = Vec::new();
    for step in path.components() {
        match step {
            Component::ParentDir if normal.last().is_none_or(|l| *l == "..") => normal.push(".."),
            Component::ParentDir => {
                normal.pop();
            }
            Component::Normal(s) => normal.push(s.to_str().unwrap_or_default()),
            _ => {}
        }
    }
    if normal.iter().any(|s| s.contains("..")) {
        return Err(("onnx.external-path", "leads out of the model's folder"));
    }
    let missing = ("onnx.external-missing", "is not beside the model");
    let folder = folder.ok_or(missing)?;
    let whole = folder.join(normal.join("/"));
    let meta = std::fs::symlink_metadata(&whole).map_err(|_| missing)?;
    if meta.is_symlink() {
        return Err(("onnx.external-link", "is a link"));
    }
    let home = folder.canonicalize().map_err(|_| missing)?;
    if !whole.canonicalize().is_ok_and(|p| p.starts_with(home)) {
        return Err(("onnx.external-link", "lies outside of the model's folder"));
    }
    if !meta.is_file() {
        return Err(("onnx.external-file", "is no regular file"));
    }
    if external::several_names(&meta) {
        return Err(("onnx.external-hard-link", "has other names too"));
    }
    Ok(())
}
