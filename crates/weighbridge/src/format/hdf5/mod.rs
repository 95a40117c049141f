//! HDF5: files of datasets in groups, whoever wrote them. Keras' files are HDF5 too: what they
//! mean beyond that is in [`super::keras`].

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
pub struct Hdf5;

impl FormatReader for Hdf5 {
    fn id(&self) -> FormatId {
        FormatId::Hdf5
    }

    fn open(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Model> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Vec<Violation>> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }
}
