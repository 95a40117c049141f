//! safetensors: eight bytes of header length, a JSON header, the tensors' bytes without holes.
//!
//! Facts are from the format's text (the Format section of its repository's `README.md`) and the
//! reference reader (`safetensors/src/tensor.rs`, crate 0.8.0).

pub mod aliases;
mod canonical;
mod entry;
mod fields;
pub mod header;
mod json;
mod names;
mod read;
mod verify;
mod walk;
mod write;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::{FormatReader, FormatWriter, Plan, WriteOptions};
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::payload;
use crate::output::Sink;

/// The safetensors reader and writer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Safetensors;

impl FormatReader for Safetensors {
    fn id(&self) -> FormatId {
        FormatId::Safetensors
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        read::open(source, options)
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(source.as_ref(), options)
    }
}

impl FormatWriter for Safetensors {
    fn id(&self) -> FormatId {
        FormatId::Safetensors
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        write::plan(model, options)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        payload::write(model, plan, file, out, progress)
    }
}
