//! Models split over several files: what the files say of it.
//!
//! Each file is a GGUF of its own, called `STEM-00001-of-00003.gguf`. All have `split.no` (from
//! 0), `split.count` and `split.tensors.count`; the first has the model's key-values too
//! (`tools/gguf-split/gguf-split.cpp` and `src/llama-model-loader.cpp` of llama.cpp).

use weighbridge_core::model::{Model, Value};
use weighbridge_core::{Error, Result};

/// The number of a file among the others, from 0 (16 bits unsigned).
pub const NO: &str = "split.no";
/// How many files there are (16 bits unsigned).
pub const COUNT: &str = "split.count";
/// How many tensors they hold together (32 bits signed).
pub const TENSORS: &str = "split.tensors.count";

/// The value of an integer key of `model`.
fn number(model: &Model, key: &str) -> Option<i64> {
    let found = model.metadata.iter().find(|(k, _)| k == key);
    found.and_then(|(_, v)| v.as_int())
}

/// Takes the keys that tell of the split out of a model put together from `files` files, after a
/// look at whether it is whole.
///
/// # Errors
/// `Malformed` when the files tell of another number of files or tensors.
pub(crate) fn settle(model: &mut Model, files: usize) -> Result<()> {
    let tensors = model.tensors.len();
    let claims = [
        (COUNT, files as i64, "files"),
        (TENSORS, tensors as i64, "tensors"),
    ];
    for (key, found, what) in claims {
        match number(model, key) {
            Some(claimed) if claimed != found => {
                let message = format!("{key} is {claimed}, there are {found} {what}");
                let e = Error::malformed("gguf.split", message);
                return Err(e.help("files of several models have been mixed, or one was replaced"));
            }
            _ => {}
        }
    }
    strip(model);
    // The number differs from file to file by nature.
    model
        .warnings
        .retain(|w| w.rule != "shards.metadata-differs" || !w.message.contains(&format!("{NO:?}")));
    Ok(())
}

/// Removes the keys that tell of a split.
pub(crate) fn strip(model: &mut Model) {
    model
        .metadata
        .retain(|(k, _)| k != NO && k != COUNT && k != TENSORS);
}

/// Whether the model is one file of several, opened alone.
pub fn is_part(model: &Model) -> bool {
    matches!(
        model.metadata.iter().find(|(k, _)| k == COUNT),
        Some((_, Value::Number(n))) if n.as_int().is_some_and(|n| n > 1)
    )
}
