//! TensorFlow's checkpoints.
//!
//! Version 2 (`tensorflow/core/util/tensor_bundle`) is `PREFIX.index`, a sorted table from the
//! name of every tensor to where it lies, and files `PREFIX.data-00000-of-00001` of bare bytes.
//! Version 1 (`tensorflow/core/util/tensor_slice_writer.cc`) is one table that holds the tensors
//! as messages, or several of them.

mod files;
mod index;
mod objects;
mod ordered;
mod pieces;
mod read;
mod v1;
mod verify;
mod write;

pub(crate) use files::{STATE, all_of, beside, is_data, locate};
pub use objects::objects_in;
pub use read::{Places, Shards, open_with, places};
pub use write::CheckpointWriter;
pub(crate) use write::prefix_of;

use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::sstable::{self, Table};
use weighbridge_core::{Error, Result};

use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

/// The reader of checkpoints, of both versions.
#[derive(Debug, Clone, Copy)]
pub struct TfCheckpoint;

impl FormatReader for TfCheckpoint {
    fn id(&self) -> FormatId {
        FormatId::TfCheckpoint
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        let name = source.name().to_owned();
        open(source, options).map_err(|e| e.in_file(name))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        verify::verify(source, options)
    }
}

fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    files::refuse_other(&source)?;
    let table = Table::open(Arc::clone(&source), &options.limits)?;
    match is_v1(&table)? {
        true => v1::open(&table, options),
        false => read::open_with(&table, options, &read::beside(options)),
    }
}

/// Goes through everything that one file holds, whatever others of the same checkpoint hold.
///
/// # Errors
/// What the file breaks.
pub(crate) fn account(table: &Table, options: &OpenOptions) -> Result<()> {
    match is_v1(table)? {
        true => v1::account(table, options),
        false => places(table).map(drop),
    }
}

/// Whether the table is a checkpoint of version 1: its first entry is a `SavedTensorSlices`, whose
/// only fields are messages, and that of version 2 begins with a number of files.
///
/// # Errors
/// When it cannot be read, or is of neither.
pub(crate) fn is_v1(table: &Table) -> Result<bool> {
    let mut first: Option<Option<u8>> = None;
    if table.blocks() > 0 {
        let loaded = table.block(0)?;
        let mut budget = table.budget();
        let found = table.entries(0, &loaded, &mut None, &mut budget, &mut |e| {
            if e.key().is_empty() {
                let (start, len) = e.span();
                let end = start.saturating_add(len.min(1));
                let byte = e.block().data().read_vec(start..end)?;
                first = Some(byte.first().copied());
            }
            // The first entry is enough.
            Err(Error::limit("tensorflow.enough", ""))
        });
        match found {
            Err(e) if e.rule() != "tensorflow.enough" => return Err(e),
            _ => {}
        }
    }
    match first {
        // Field 1, a message; a checkpoint of version 2 has a number there, or its default and
        // another field.
        Some(Some(0x0a)) => Ok(true),
        Some(_) => Ok(false),
        None => Err(Error::malformed(
            "tensorflow.no-header",
            "the table does not begin with the header of a checkpoint",
        )
        .at(0)),
    }
}

/// Whether `source` is a table: nothing else that is known ends like one.
///
/// # Errors
/// `Io`.
pub(crate) fn is_table(source: &dyn ByteSource) -> Result<bool> {
    sstable::is_table(source)
}
