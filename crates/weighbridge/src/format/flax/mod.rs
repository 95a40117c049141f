//! Flax: MessagePack of nested mappings with arrays in them (`flax/serialization.py`;
//! `docs/formats/flax.md`).

mod read;
mod verify;

pub(crate) use read::is_flax;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::FormatReader;
use crate::OpenOptions;
use crate::check::Violation;

/// The reader of this format.
#[derive(Debug, Clone, Copy)]
pub struct Flax;

impl FormatReader for Flax {
    fn id(&self) -> FormatId {
        FormatId::Flax
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        read::open(source, options)
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(source, options)
    }
}
