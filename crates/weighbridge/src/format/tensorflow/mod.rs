//! TensorFlow: checkpoints of both versions, SavedModels, graphs on their own, and TensorFlow Lite.

pub mod checkpoint;
mod graph;
mod meta;
mod proto;
pub(crate) mod saved_model;
pub mod sniff;
mod texts;
pub mod tflite;
pub mod types;
mod verify;

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;

use super::FormatReader;
use crate::OpenOptions;
use crate::check::Violation;

pub use checkpoint::TfCheckpoint;
pub use tflite::TfLite;

/// Which of TensorFlow's formats a file is, by its first bytes and its structure.
pub(crate) fn detect(head: &[u8], source: &dyn ByteSource) -> Option<FormatId> {
    if head.get(4..8) == Some(tflite::IDENTIFIER) {
        return Some(FormatId::TfLite);
    }
    if checkpoint::is_table(source).unwrap_or(false) {
        return Some(FormatId::TfCheckpoint);
    }
    // Values may look like anything.
    let name = source.name().rsplit(['/', '\\']).next();
    let name = name.unwrap_or_default().to_ascii_lowercase();
    if checkpoint::is_data(&name) {
        return None;
    }
    match sniff::kind(source, &name).ok()?? {
        sniff::Kind::SavedModel => Some(FormatId::SavedModel),
        sniff::Kind::Graph | sniff::Kind::MetaGraph => Some(FormatId::GraphDef),
        sniff::Kind::KerasMetadata | sniff::Kind::Fingerprint => None,
    }
}

/// The reader of SavedModels: `saved_model.pb` with the variables beside it.
#[derive(Debug, Clone, Copy)]
pub struct SavedModel;

impl FormatReader for SavedModel {
    fn id(&self) -> FormatId {
        FormatId::SavedModel
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        saved_model::open(&source, options)
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::graph(&source, options)
    }
}

/// The reader of graphs in files of their own, `GraphDef` and `MetaGraphDef`: their constants are
/// the tensors.
#[derive(Debug, Clone, Copy)]
pub struct GraphDef;

impl FormatReader for GraphDef {
    fn id(&self) -> FormatId {
        FormatId::GraphDef
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        saved_model::open(&source, options)
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::graph(&source, options)
    }
}
