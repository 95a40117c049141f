//! TensorFlow: checkpoints of both versions, SavedModels, graphs on their own, and TensorFlow Lite.

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
pub struct TfCheckpoint;

impl FormatReader for TfCheckpoint {
    fn id(&self) -> FormatId {
        FormatId::TfCheckpoint
    }

    fn open(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Model> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Vec<Violation>> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }
}

/// The reader of this format.
#[derive(Debug, Clone, Copy)]
pub struct SavedModel;

impl FormatReader for SavedModel {
    fn id(&self) -> FormatId {
        FormatId::SavedModel
    }

    fn open(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Model> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Vec<Violation>> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }
}

/// The reader of this format.
#[derive(Debug, Clone, Copy)]
pub struct GraphDef;

impl FormatReader for GraphDef {
    fn id(&self) -> FormatId {
        FormatId::GraphDef
    }

    fn open(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Model> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Vec<Violation>> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }
}

/// The reader of this format.
#[derive(Debug, Clone, Copy)]
pub struct TfLite;

impl FormatReader for TfLite {
    fn id(&self) -> FormatId {
        FormatId::TfLite
    }

    fn open(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Model> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, _: &OpenOptions) -> Result<Vec<Violation>> {
        Err(detect::refuse(Detected::Content(self.id()), source.name()))
    }
}
