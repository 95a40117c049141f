//! NumPy: one array (`.npy`) or a zip archive of them (`.npz`), read without NumPy and with nothing
//! executed (`numpy/lib/format.py`; `docs/formats/numpy.md`).

pub(crate) mod array;
mod element;
pub(crate) mod pickled;
mod read;
pub(crate) mod texts;
mod verify;
pub mod write;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::FormatReader;
use crate::OpenOptions;
use crate::check::Violation;

/// The reader and writer of this format.
#[derive(Debug, Clone, Copy)]
pub struct Numpy;

impl FormatReader for Numpy {
    fn id(&self) -> FormatId {
        FormatId::Numpy
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        read::open(source, options)
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(source, options)
    }
}
