//! TensorFlow Lite: a FlatBuffer of the schema `TFL3`
//! (`tensorflow/compiler/mlir/lite/schema/schema.fbs`), mostly with the weights inside.

mod operators;
mod read;
mod texts;
mod verify;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

pub(crate) use read::read;

/// The characters that name the schema, at byte 4.
pub(crate) const IDENTIFIER: &[u8] = b"TFL3";

/// The reader of TensorFlow Lite's models.
#[derive(Debug, Clone, Copy)]
pub struct TfLite;

impl FormatReader for TfLite {
    fn id(&self) -> FormatId {
        FormatId::TfLite
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        let name = source.name().to_owned();
        read(&source, &options.limits)
            .map(|r| r.model)
            .map_err(|e| e.in_file(name))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(&source, options)
    }
}
