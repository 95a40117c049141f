use std::path::Path;

use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::Backend;
use weighbridge_core::{Limits, Result};

/// How a model is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Map the files (bytes can be borrowed) or read them by position.
    pub backend: Backend,
    /// What the files may cost.
    pub limits: Limits,
    /// Accept what the format's reference reader accepts, not only what the specification allows.
    pub lenient: bool,
    /// List what constant nodes of a graph make among the tensors (ONNX): some exporters keep every
    /// weight there.
    pub constants: bool,
    /// Take the file to be of this format instead of detecting it.
    pub format: Option<FormatId>,
}

impl OpenOptions {
    /// Opens the model at `path`: a file, any shard, an index, or a directory holding one model.
    ///
    /// # Errors
    /// `Io` or `Parameter` when there is nothing to read, `Unsupported` when the format is
    /// unknown, else what the format's reader finds wrong.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Model> {
        crate::format::open(path.as_ref(), self)
    }
}

/// Opens the model at `path` with default options.
///
/// # Errors
/// As [`OpenOptions::open`].
pub fn open(path: impl AsRef<Path>) -> Result<Model> {
    OpenOptions::default().open(path)
}
