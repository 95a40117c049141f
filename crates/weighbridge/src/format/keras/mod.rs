//! Keras: `.keras` archives, `.weights.h5` and the older `.h5`, all HDF5 within.
//!
//! Names of tensors are the paths under which the file stores them; what they are in the model
//! (`conv/kernel`) is their label, where the file tells that for certain. The container itself is
//! [`super::hdf5`]'s. What Keras keeps where is described in `docs/formats/keras.md`.

mod classes;
mod labels;
mod legacy;
mod optimizer;
pub(crate) mod read;
mod stored;
mod verify;
pub(crate) mod write;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::FormatReader;
use crate::OpenOptions;
use crate::check::Violation;

/// The reader of this format, and of every HDF5 file: only what lies in it tells whether it is
/// Keras'.
#[derive(Debug, Clone, Copy)]
pub struct Keras;

impl FormatReader for Keras {
    fn id(&self) -> FormatId {
        FormatId::Keras
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        let name = source.name().to_owned();
        read::open(source, options).map_err(|e| e.in_file(name))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(&source, options)
    }
}

/// Whether an HDF5 file is Keras'. One that cannot be opened is not.
pub(crate) fn of_file(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> FormatId {
    let model = read::open(Arc::clone(source), options);
    model.map_or(FormatId::Hdf5, |m| m.format)
}

/// Whether `name` is a path in the tree that Keras 3 stores weights in.
pub(crate) fn is_stored_path(name: &str) -> bool {
    name.starts_with("vars/") || name.contains("/vars/")
}

/// Whether the tensor called `name` is state of the optimizer.
pub(crate) fn is_optimizer(name: &str) -> bool {
    name.starts_with("optimizer/") || name.starts_with("optimizer_weights/")
}
