//! The tagged JSON form of the metadata tree: how a PyTorch training state is shown by `inspect`
//! and kept in safetensors metadata. `docs/structure.md` describes it.

mod decode;
mod encode;
mod state;

pub use decode::{from_json, from_str};
pub use encode::to_json;
pub use state::{
    BULK_BYTES, BULK_PREFIX, METADATA_KEY, STRUCTURE_KEY, TENSORS_KEY, bulk_bytes,
    metadata_entries, move_bulk, record_metadata, restore, tensor_attributes,
};
pub(crate) use state::{bulk_names, each_child, free_name, is_flat, step_name};

/// Which of the two forms of the tree is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people and tools: digests in place of array data, and only the text of value classes
    /// such as paths and dates.
    Inspect,
    /// For keeping: [`from_json`] gives the equal tree back.
    Stored,
}

/// Integers beyond this size are text in JSON, since many readers hold numbers as doubles.
const SAFE_INT: u64 = 1 << 53;

/// The class whose `_metadata` attribute has a short form.
const ORDERED_DICT: &str = "collections.OrderedDict";

#[cfg(test)]
mod tests;
