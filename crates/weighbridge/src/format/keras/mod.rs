//! Keras: `.keras` archives, `.weights.h5` and the older `.h5`, all HDF5 within.

pub(crate) mod write;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::FormatReader;
use super::detect::{self, Detected};
use crate::OpenOptions;
use crate::check::Violation;

/// The reader of this format.
#[derive(Debug, Clone, Copy)]
pub struct Keras;

impl FormatReader for Keras {
    fn id(&self) -> FormatId {
        FormatId::Keras
    }

    fn open(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Model> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Vec<Violation>> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }
}

/// Whether `name` is a path in the tree that Keras 3 stores weights in.
pub(crate) fn is_stored_path(name: &str) -> bool {
    name.starts_with("vars/") || name.contains("/vars/")
}

/// Whether the tensor called `name` is state of the optimizer.
pub(crate) fn is_optimizer(name: &str) -> bool {
    name.starts_with("optimizer/") || name.starts_with("optimizer_weights/")
}
