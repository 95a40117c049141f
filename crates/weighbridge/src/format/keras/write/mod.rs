//! Writing the weights files of Keras. What lies where is decided here; the file itself is
//! [`super::super::hdf5::write`]'s.
//!
//! - `.weights.h5` is the tree of Keras 3 (`H5IOStore` of `keras/src/saving/saving_lib.py`):
//!   names are paths in it, such as `layers/dense/vars/0`, and are written as they are.
//! - `.h5` is the older one (`keras/src/legacy/saving/legacy_h5_format.py`): a group a layer, whose
//!   attribute `weight_names` gives the order of its weights.

mod legacy;
mod order;

use serde_json::Value as Json;
use weighbridge_core::Result;
use weighbridge_core::model::{FormatId, Model, Value};

use crate::format::hdf5::write::{self as hdf5, Bf16};
use crate::format::{FormatWriter, Note, Plan, WriteOptions};
use crate::output::Sink;

/// Which tree is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KerasWriter {
    /// `.weights.h5` of Keras 3.
    Weights,
    /// The older `.h5`.
    Legacy,
}

impl FormatWriter for KerasWriter {
    fn id(&self) -> FormatId {
        FormatId::Hdf5
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        hdf5::refuse_shards(options)?;
        let mut model = model.clone();
        restore_lists(&mut model);
        let mut notes = Vec::new();
        let bf16 = match self {
            Self::Weights => Bf16::Opaque,
            Self::Legacy => Bf16::Lost,
        };
        let refusals = hdf5::refusals(&model, bf16)?;
        match self {
            Self::Weights => notes.extend(unreachable(&model)),
            Self::Legacy => legacy::settle(&mut model, &refusals, &mut notes),
        }
        let mut plan = hdf5::plan(&model, &refusals)?;
        notes.append(&mut plan.changed);
        plan.changed = notes;
        Ok(plan)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        hdf5::write(model, plan, file, out, progress)
    }
}

/// What is said of names that Keras 3 does not look for.
fn unreachable(model: &Model) -> Option<Note> {
    let stored = super::is_stored_path;
    let odd = model.tensors.iter().filter(|t| !stored(&t.name)).count();
    (odd > 0).then(|| Note {
        what: "names".into(),
        why: format!(
            "{odd} are no paths in which Keras looks for weights (layers/dense/vars/0): --graph \
             puts them into the tree of a given file"
        ),
        naming: true,
    })
}

/// Whether the attribute called `name` is one of the lists that Keras may split.
pub(crate) fn is_list(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    matches!(name, "layer_names" | "weight_names")
}

/// The attribute that a key of metadata stands for.
pub(crate) fn attribute_of(key: &str) -> &str {
    key.rsplit('@').next().unwrap_or(key)
}

/// Makes lists of Keras' lists that went through metadata of text, and splits those that are too
/// long for one attribute, as Keras does.
fn restore_lists(model: &mut Model) {
    let mut out = Vec::with_capacity(model.metadata.len());
    for (key, mut value) in std::mem::take(&mut model.metadata) {
        if !is_list(attribute_of(&key)) {
            out.push((key, value));
            continue;
        }
        if let Value::Str(text) = &value
            && let Ok(Json::Array(items)) = serde_json::from_str(text)
            && let Some(items) = items
                .iter()
                .map(|v| v.as_str().map(|s| Value::Str(s.to_owned())))
                .collect()
        {
            value = Value::List(items);
        }
        match value {
            Value::List(items) => split(key, items, &mut out),
            other => out.push((key, other)),
        }
    }
    model.metadata = out;
}

/// `HDF5_OBJECT_HEADER_LIMIT`.
const MOST_LIST: usize = 64_512;

/// Puts a list of names into as many attributes as it takes.
pub(super) fn split(key: String, items: Vec<Value>, out: &mut Vec<(String, Value)>) {
    let width = items.iter().filter_map(Value::as_str).map(str::len).max();
    let each = (MOST_LIST / width.unwrap_or(1).max(1)).max(1);
    if items.len() <= each {
        out.push((key, Value::List(items)));
        return;
    }
    for (i, part) in items.chunks(each).enumerate() {
        out.push((format!("{key}{i}"), Value::List(part.to_vec())));
    }
}

/// Whether a key of metadata is one in which Keras tells of its own files.
pub(crate) fn is_own(key: &str) -> bool {
    let known = [
        "config.json",
        "metadata.json",
        "assets",
        "model_config",
        "training_config",
        "backend",
        "keras_version",
    ];
    let name = attribute_of(key);
    is_list(name) || known.contains(&name) || key.ends_with("vars@name")
}
