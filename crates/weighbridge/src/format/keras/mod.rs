//! Keras: `.keras` archives, `.weights.h5` and the older `.h5`, all HDF5 within.

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
