//! What becomes of the state beside the tensors.

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{DType, FormatId, Model, Value};

use super::options::ConvertOptions;
use crate::format::Note;
use crate::format::safetensors::aliases;
use crate::structure::{self, each_child};

/// Metadata in which the PyTorch reader tells how a file was laid out, which is no state.
const LAYOUT_FACTS: [&str; 2] = ["byteorder", "trailing_bytes"];

/// Removes references to the tensors in `gone`: entries from mappings (and mappings that become
/// empty by it), items of lists and tuples become null so that the others keep their place.
pub(super) fn prune(v: &mut Value, gone: &HashSet<String>) {
    if !gone.is_empty() && prune_inner(v, gone) {
        *v = Value::Null;
    }
}

/// Whether nothing is left of `v`.
fn prune_inner(v: &mut Value, gone: &HashSet<String>) -> bool {
    match v {
        Value::Tensor(name) => gone.contains(name),
        Value::List(items) | Value::Tuple(items) => {
            let before = items.len();
            let mut empty = 0;
            for item in items.iter_mut() {
                if prune_inner(item, gone) {
                    *item = Value::Null;
                    empty += 1;
                }
            }
            before > 0 && empty == before
        }
        Value::Set(items) | Value::FrozenSet(items) => {
            let before = items.len();
            items.retain_mut(|v| !prune_inner(v, gone));
            before > 0 && items.is_empty()
        }
        Value::Dict(d) => {
            let before = d.entries.len();
            d.entries.retain_mut(|(_, v)| !prune_inner(v, gone));
            for (_, v) in &mut d.attributes {
                prune(v, gone);
            }
            before > 0 && d.entries.is_empty() && d.attributes.is_empty()
        }
        Value::Object(o) => {
            for v in &mut o.args {
                prune(v, gone);
            }
            for (_, v) in &mut o.kwargs {
                prune(v, gone);
            }
            let parts = [&mut o.state, &mut o.items, &mut o.state_dict];
            for v in parts.into_iter().flatten() {
                prune(v, gone);
            }
            false
        }
        _ => false,
    }
}

fn holds_tensor(v: &Value) -> bool {
    let mut found = matches!(v, Value::Tensor(_));
    each_child(v, &mut |_, child| found = found || holds_tensor(child));
    found
}

/// Lists the largest parts of `v` that hold no tensor.
fn list_state(v: &Value, path: &str, why: &str, lost: &mut Vec<Note>) {
    if matches!(v, Value::Tensor(_)) {
        return;
    }
    if !holds_tensor(v) {
        let what = if path.is_empty() { "$" } else { path };
        lost.push(Note::new(what, why));
        return;
    }
    each_child(v, &mut |step, child| {
        let path = match path {
            "" => step,
            _ => format!("{path}.{step}"),
        };
        list_state(child, &path, why, lost);
    });
}

/// Leaves the structure out where names were changed or only weights are wanted.
pub(super) fn flatten(
    model: &mut Model,
    options: &ConvertOptions,
    renamed: bool,
    bulk: &HashSet<String>,
    changed: &mut Vec<Note>,
    lost: &mut Vec<Note>,
) {
    if options.weights_only || renamed {
        if let Some(s) = model.structure.take()
            && !options.weights_only
        {
            let why = "left out with the structure, since tensors were renamed";
            list_state(&s, "", why, lost);
            changed.push(Note {
                what: "structure".into(),
                why: "tensors were renamed: the output is a flat set of tensors".into(),
                naming: true,
            });
        }
        model.tensors.retain(|t| !bulk.contains(&t.name));
    }
    if options.weights_only {
        for t in &mut model.tensors {
            if let Some(e) = &mut t.extra {
                e.attributes.retain(|(k, _)| k == "is_coalesced");
            }
        }
    }
}

/// Fits the metadata to the target.
pub(crate) fn settle(
    model: &mut Model,
    options: &ConvertOptions,
    target: FormatId,
    lost: &mut Vec<Note>,
) {
    let torch = matches!(model.format, FormatId::PyTorch | FormatId::Pickle);
    // A checkpoint has no place for what an ONNX file says of itself.
    let foreign = model.format == FormatId::Onnx && target == FormatId::PyTorch;
    model.metadata.retain(|(k, _)| {
        let fact = torch && LAYOUT_FACTS.contains(&k.as_str());
        let beside = torch || foreign;
        let state = options.weights_only && (beside || k == structure::TENSORS_KEY);
        !fact && !state
    });
    match target {
        FormatId::Safetensors => {
            structure::record_metadata(model);
            into_metadata(model, torch, options.weights_only);
        }
        FormatId::Gguf => into_text(model, options.weights_only),
        FormatId::Onnx => {
            let why = "an ONNX graph holds weights and no training state";
            without_state(model, options.weights_only, why, lost);
        }
        FormatId::TfCheckpoint => {
            let why = "a checkpoint of TensorFlow holds tensors only";
            without_state(model, options.weights_only, why, lost);
        }
        FormatId::Numpy => beside_arrays(model, options.weights_only, lost),
        // One HDF5 file's attributes are another's.
        FormatId::Hdf5 if matches!(model.format, FormatId::Hdf5 | FormatId::Keras) => {}
        FormatId::Hdf5 => into_text(model, options.weights_only),
        _ if torch => {
            for (key, _) in &model.metadata {
                let why = "a PyTorch checkpoint has no place for it beside the pickle";
                lost.push(Note::new(format!("metadata {key}"), why));
            }
        }
        _ => {}
    }
}

/// Lists the state that the target has no place for.
fn without_state(model: &mut Model, weights_only: bool, why: &str, lost: &mut Vec<Note>) {
    if let Some(s) = model.structure.take()
        && !weights_only
        && !structure::is_flat(&s, model)
    {
        list_state(&s, "", why, lost);
    }
}

/// Lists everything that is no array.
fn beside_arrays(model: &mut Model, weights_only: bool, lost: &mut Vec<Note>) {
    let structure = model.structure.take();
    if let Some(s) = &structure {
        // Long values of the state are tensors only where there is a state.
        let mut bulk = HashSet::new();
        structure::bulk_names(s, &mut bulk);
        if !weights_only && !structure::is_flat(s, model) {
            let why = "an archive of arrays holds no state beside them";
            list_state(s, "", why, lost);
        }
        model.tensors.retain(|t| !bulk.contains(&t.name));
    }
    for (key, _) in std::mem::take(&mut model.metadata) {
        if !weights_only {
            let why = "an archive of arrays has no metadata";
            lost.push(Note::new(format!("metadata {key}"), why));
        }
    }
}

/// Moves structure and attributes into the metadata that a safetensors file holds.
fn into_metadata(model: &mut Model, torch: bool, weights_only: bool) {
    if torch && !model.metadata.iter().any(|(k, _)| k == "format") {
        model
            .metadata
            .insert(0, ("format".into(), Value::Str("pt".into())));
    }
    if weights_only {
        return;
    }
    if let Some(s) = &mut model.structure {
        // Long values as tensors: the header stays small.
        let mut taken: HashSet<String> = model.tensors.iter().map(|t| t.name.clone()).collect();
        let moved = structure::move_bulk(s, &mut taken);
        model.tensors.extend(moved);
    }
    into_text(model, weights_only);
}

/// Moves structure and attributes, whole, into text values of the metadata.
fn into_text(model: &mut Model, weights_only: bool) {
    if weights_only {
        return;
    }
    for (key, text) in structure::metadata_entries(model) {
        model.metadata.retain(|(k, _)| *k != key);
        model.metadata.push((key, Value::Str(text)));
    }
    model.structure = None;
}

/// Takes the tensors in `gone` out of the record of shared storage.
pub(super) fn forget_aliases(model: &mut Model, gone: &HashSet<String>) {
    let record = model.metadata.iter_mut().find(|(k, _)| k == aliases::KEY);
    let Some((_, Value::Str(text))) = record.filter(|_| !gone.is_empty()) else {
        return;
    };
    let Ok(mut groups) = aliases::decode(text) else {
        return;
    };
    for g in &mut groups {
        g.tensors.retain(|a| !gone.contains(&a.name));
    }
    groups.retain(|g| g.tensors.len() > 1);
    if groups.is_empty() {
        model.metadata.retain(|(k, _)| k != aliases::KEY);
    } else {
        *text = aliases::encode(&groups);
    }
}

/// Keeps in the record of shared storage what still holds: tensors that are there, in full, with
/// the dtype they had.
pub(super) fn refresh_aliases(model: &mut Model, before: &HashMap<String, DType>) {
    let record = model.metadata.iter_mut().find(|(k, _)| k == aliases::KEY);
    let Some((_, Value::Str(text))) = record else {
        return;
    };
    let Ok(mut groups) = aliases::decode(text) else {
        return;
    };
    let now: HashMap<&str, DType> = model
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dtype))
        .collect();
    for g in &mut groups {
        g.tensors.retain(|a| {
            let dtype = now.get(a.name.as_str());
            dtype.is_some() && dtype == before.get(&a.name)
        });
        for a in &mut g.tensors {
            a.same_as = None;
        }
    }
    groups.retain(|g| g.tensors.len() > 1);
    if groups.is_empty() {
        model.metadata.retain(|(k, _)| k != aliases::KEY);
    } else {
        *text = aliases::encode(&groups);
    }
}
