//! Models split over several files: what the files say of it.
//!
//! Each file is a GGUF of its own, called `STEM-00001-of-00003.gguf`. All have `split.no` (from
//! 0), `split.count` and `split.tensors.count`; the first has the model's key-values too
//! (`tools/gguf-split/gguf-split.cpp` and `src/llama-model-loader.cpp` of llama.cpp).

use weighbridge_core::model::{Model, Number, Shape, Tensor, Value};
use weighbridge_core::{Error, Result};

use super::raw::{DEFAULT_ALIGNMENT, align_up};
use crate::format::Note;

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

/// Whether `key` tells of a split.
pub(crate) fn is_key(key: &str) -> bool {
    [NO, COUNT, TENSORS].contains(&key)
}

/// Removes the keys that tell of a split.
pub(crate) fn strip(model: &mut Model) {
    model.metadata.retain(|(k, _)| !is_key(k));
}

/// Whether the model is one file of several, opened alone.
pub fn is_part(model: &Model) -> bool {
    matches!(
        model.metadata.iter().find(|(k, _)| k == COUNT),
        Some((_, Value::Number(n))) if n.as_int().is_some_and(|n| n > 1)
    )
}

/// How a model is cut into files.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cut {
    /// Most bytes of tensors in a file; a tensor that has more gets a file of its own.
    pub(crate) size: Option<u64>,
    /// Most tensors in a file, where no size is given.
    pub(crate) tensors: Option<u64>,
    /// Whether the first file has metadata only.
    pub(crate) bare_first: bool,
}

impl Cut {
    /// Which of the tensors `chosen` go into which file; always at least one file.
    pub(super) fn groups(self, tensors: &[Tensor], chosen: &[usize]) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        if self.bare_first {
            groups.push(Vec::new());
        }
        let mut filled = 0u64;
        for (no, &i) in chosen.iter().enumerate() {
            let len = tensors.get(i).map_or(0, Tensor::byte_len);
            let bytes = align_up(len, DEFAULT_ALIGNMENT).unwrap_or(len);
            let with = filled.saturating_add(bytes);
            let full = match (self.size, self.tensors) {
                (Some(size), _) => with > size,
                (None, Some(n)) => no > 0 && (no as u64).is_multiple_of(n),
                (None, None) => false,
            };
            filled = if full { bytes } else { with };
            if full && groups.last().is_some_and(|g| !g.is_empty()) {
                groups.push(Vec::new());
            }
            if let Some(last) = groups.last_mut() {
                last.push(i);
            }
        }
        groups
    }
}

/// A key-value.
pub(crate) type Key = (String, Value);

/// The keys of file `no` of `files`, which have `tensors` tensors together: [`NO`], [`COUNT`],
/// [`TENSORS`].
///
/// # Errors
/// `Parameter` when there are more than the format can count.
pub(crate) fn keys(no: usize, files: usize, tensors: usize) -> Result<[Key; 3]> {
    let too_many = |what: &str, n: usize| {
        let message = format!("{n} {what} are more than the format can count");
        Error::parameter("split.too-many", message)
    };
    let short = |n: usize| {
        let n = u16::try_from(n).map_err(|_| too_many("files", files))?;
        Ok::<_, Error>(Value::Number(Number::U16(n)))
    };
    let all = i32::try_from(tensors).map_err(|_| too_many("tensors", tensors))?;
    Ok([
        (NO.to_owned(), short(no)?),
        (COUNT.to_owned(), short(files)?),
        (TENSORS.to_owned(), Value::Number(Number::I32(all))),
    ])
}

/// What file `no` of `files` is called behind the name that they share.
pub(crate) fn suffix(no: usize, files: usize) -> String {
    format!("-{:05}-of-{files:05}.gguf", no + 1)
}

/// Leaves out dimensions of 1 behind the last other one, as ggml counts dimensions
/// (`ggml_n_dims`); gives what it was.
pub(crate) fn trim(tensors: &mut [Tensor]) -> Vec<Note> {
    let mut notes = Vec::new();
    for t in tensors {
        if let Some(shape) = trimmed(&t.shape) {
            t.shape = shape;
            let why = "outer dimensions of 1 are left out, as ggml counts dimensions";
            notes.push(Note {
                naming: true,
                ..Note::new(t.name.as_str(), why)
            });
        }
    }
    notes
}

/// `shape` without outer dimensions of 1, where it has any.
pub(crate) fn trimmed(shape: &[u64]) -> Option<Shape> {
    let ones = shape.iter().take_while(|d| **d == 1).count();
    let drop = ones.min(shape.len().saturating_sub(1));
    (drop > 0).then(|| shape.iter().skip(drop).copied().collect())
}
