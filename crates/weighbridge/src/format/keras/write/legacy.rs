//! Tensors named by variable paths (`dense/kernel:0`, `encoder.dense.bias`) as the groups of
//! layers that the older loader goes through.

use std::collections::HashMap;

use serde_json::Value as Json;
use weighbridge_core::model::{FormatId, Model, Value};

use super::{attribute_of, is_list, order, split};
use crate::format::Note;
use crate::format::hdf5::write::Refusals;

/// The library that a file says it was written by, where nothing tells: files without a version
/// are taken for those of Keras 1, whose weights were laid out in other ways.
const VERSION: &str = "3.0.0";

/// The group of weights that belong to no layer.
const TOP: &str = "top_level_model_weights";

/// Whether the model says itself how it lies in a file.
pub(super) fn is_told(model: &Model) -> bool {
    let told = |key: &str| is_list(attribute_of(key));
    // What came from another HDF5 file lies there as it did.
    model.format == FormatId::Hdf5 || model.metadata.iter().any(|(k, _)| told(k))
}

/// One weight's place.
struct Place {
    root: &'static str,
    layer: String,
    weight: String,
    tensor: usize,
}

/// Renames the tensors of `model` that are written to their places in the file, and tells of layers
/// and weights in its metadata.
pub(super) fn arrange(model: &mut Model, refusals: &Refusals, notes: &mut Vec<Note>) {
    let mut layers: Vec<((&'static str, String), Vec<Place>)> = Vec::new();
    let mut known: HashMap<(&'static str, String), usize> = HashMap::new();
    for (i, t) in model.tensors.iter().enumerate() {
        let name = match t.label() {
            Some(label) if super::super::is_stored_path(&t.name) => label,
            _ => &t.name,
        };
        let refused = refusals.get(i).is_some_and(Option::is_some);
        if refused || super::super::is_optimizer(&t.name) {
            continue;
        }
        let place = place(name, i);
        let key = (place.root, place.layer.clone());
        let at = *known.entry(key.clone()).or_insert_with(|| {
            layers.push((key, Vec::new()));
            layers.len() - 1
        });
        if let Some((_, places)) = layers.get_mut(at) {
            places.push(place);
        }
    }
    if let Some(order) = configured(model) {
        let rank: HashMap<&str, usize> = order
            .iter()
            .enumerate()
            .map(|(i, n)| (n.as_str(), i))
            .collect();
        layers
            .sort_by_key(|((_, layer), _)| rank.get(layer.as_str()).copied().unwrap_or(usize::MAX));
    }
    let mut named: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for ((root, layer), mut places) in layers {
        order::sort(&mut places, |p| &p.weight);
        let weights = places
            .iter()
            .map(|p| Value::Str(p.weight.clone()))
            .collect();
        split(
            format!("{root}{layer}@weight_names"),
            weights,
            &mut model.metadata,
        );
        if layer != TOP {
            match named.iter_mut().find(|(r, _)| *r == root) {
                Some((_, all)) => all.push(Value::Str(layer.clone())),
                None => named.push((root, vec![Value::Str(layer.clone())])),
            }
        }
        for p in places {
            let Some(t) = model.tensors.get_mut(p.tensor) else {
                continue;
            };
            let path = format!("{root}{layer}/{}", p.weight);
            if path != t.name {
                notes.push(Note {
                    what: t.name.clone(),
                    why: format!("written as {path}"),
                    naming: true,
                });
                t.name = path;
            }
        }
    }
    for (root, names) in named {
        let at = |name: &str| match root {
            "" => name.to_owned(),
            root => format!("{}@{name}", root.trim_end_matches('/')),
        };
        split(at("layer_names"), names, &mut model.metadata);
        for (name, value) in [("backend", "tensorflow"), ("keras_version", VERSION)] {
            let key = at(name);
            if !model.metadata.iter().any(|(k, _)| *k == key) {
                model.metadata.push((key, Value::Str(value.into())));
            }
        }
    }
}

/// Where a variable goes.
fn place(name: &str, tensor: usize) -> Place {
    let (root, rest) = match name.strip_prefix("model_weights/") {
        Some(rest) => ("model_weights/", rest),
        None => ("", name),
    };
    let place = |layer: &str, weight: &str| Place {
        root,
        layer: layer.to_owned(),
        weight: weight.to_owned(),
        tensor,
    };
    if let Some((layer, weight)) = rest.split_once('/') {
        // A path in such a file already: the layer's group, and a weight named after it.
        let again = weight.split_once('/').is_some_and(|(l, _)| l == layer);
        if again || !root.is_empty() {
            return place(layer, weight);
        }
        return place(layer, rest);
    }
    match rest.rsplit_once('.') {
        Some((layer, weight)) if !layer.is_empty() && !weight.is_empty() => {
            place(layer, &format!("{layer}/{weight}"))
        }
        _ => place(TOP, rest),
    }
}

/// The layers in the order of a configuration in the metadata.
fn configured(model: &Model) -> Option<Vec<String>> {
    let is_config = |k: &str| matches!(k, "config.json" | "model_config");
    let (_, value) = model.metadata.iter().find(|(k, _)| is_config(k))?;
    let json: Json = serde_json::from_str(value.as_str()?).ok()?;
    let layers = json.get("config")?.get("layers")?.as_array()?;
    let name = |l: &Json| {
        let own = l.get("config").and_then(|c| c.get("name"));
        own.or_else(|| l.get("name"))
            .and_then(Json::as_str)
            .map(str::to_owned)
    };
    Some(layers.iter().filter_map(name).collect())
}
