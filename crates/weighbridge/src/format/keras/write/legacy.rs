//! Tensors named by variable paths (`dense/kernel:0`, `encoder.dense.bias`) as the groups of
//! layers that the older loader goes through.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;
use weighbridge_core::model::{FormatId, Model, Tensor, Value};

use super::{attribute_of, is_list, order, split};
use crate::format::Note;
use crate::format::hdf5::write::Refusals;

/// The library that a file says it was written by, where nothing tells: files without a version
/// are taken for those of Keras 1, whose weights were laid out in other ways.
const VERSION: &str = "3.0.0";

/// The group of weights that belong to no layer.
const TOP: &str = "top_level_model_weights";

/// Where the layers of a whole model's file lie.
const WHOLE: &str = "model_weights/";

/// Sees to it that the lists in the metadata name the tensors of `model` that are written: the ones
/// that it came with are kept where they do, and made anew where names are others now.
pub(super) fn settle(model: &mut Model, refusals: &Refusals, notes: &mut Vec<Note>) {
    let tensors = model.tensors.iter().enumerate();
    let written = |i: &usize| refusals.get(*i).is_none_or(Option::is_none);
    let written: HashSet<String> = tensors
        .filter(|(i, _)| written(i))
        .map(|(_, t)| t.name.clone())
        .collect();
    let Some(listed) = super::super::legacy::listed(model) else {
        let told = |key: &str| is_list(attribute_of(key));
        // What came from another HDF5 file lies there as it did.
        if model.format != FormatId::Hdf5 && !model.metadata.iter().any(|(k, _)| told(k)) {
            arrange(model, refusals, "", notes);
        }
        return;
    };
    if listed.is_subset(&written) {
        return;
    }
    let strange = |n: &&String| !listed.contains(*n) && !super::super::is_optimizer(n);
    if !written.iter().any(|n| strange(&n)) {
        for path in unlist(model, &written) {
            notes.push(Note {
                what: path,
                why: "taken out of the list of its layer's weights: it is not in the file".into(),
                naming: true,
            });
        }
        return;
    }
    let whole = listed.iter().any(|n| n.starts_with(WHOLE));
    model.metadata.retain(|(k, _)| !is_list(attribute_of(k)));
    arrange(model, refusals, if whole { WHOLE } else { "" }, notes);
}

/// Takes the weights that are not `written` out of the lists; gives their paths.
fn unlist(model: &mut Model, written: &HashSet<String>) -> Vec<String> {
    let mut out = Vec::new();
    for (key, value) in &mut model.metadata {
        let (Some((group, name)), Value::List(items)) = (key.rsplit_once('@'), value) else {
            continue;
        };
        if !is_list(name) || !name.starts_with("weight_names") {
            continue;
        }
        items.retain(|v| {
            let path = format!("{group}/{}", v.as_str().unwrap_or_default());
            let stays = written.contains(&path);
            if !stays {
                out.push(path);
            }
            stays
        });
    }
    out
}

/// What a file lacks that is made without a configuration.
fn untold(model: &Model, layers: usize) -> Option<Note> {
    let bare = |t: &Tensor| t.label().is_none() && super::super::is_stored_path(&t.name);
    let why = match (model.tensors.iter().any(bare), layers) {
        (true, _) => {
            "paths such as layers/dense/vars/0 do not tell the layers that Keras looks for here: \
             --graph puts weights into a given file, .weights.h5 keeps the paths"
        }
        (false, 0 | 1) => return None,
        (false, _) => {
            "nothing tells their order, by which Keras loads them: load_weights(..., \
             by_name=True) goes by their names, --graph puts weights into a given file"
        }
    };
    Some(Note {
        what: "layers".into(),
        why: why.into(),
        naming: true,
    })
}

/// One weight's place.
struct Place {
    root: &'static str,
    layer: String,
    weight: String,
    tensor: usize,
}

/// Renames the tensors of `model` that are written to their places in the file, and tells of layers
/// and weights in its metadata. Layers lie under `base`.
fn arrange(model: &mut Model, refusals: &Refusals, base: &'static str, notes: &mut Vec<Note>) {
    let mut layers: Vec<((&'static str, String), Vec<Place>)> = Vec::new();
    let mut known: HashMap<(&'static str, String), usize> = HashMap::new();
    let config = Config::of(model);
    for (i, t) in model.tensors.iter().enumerate() {
        let name = match t.label() {
            Some(label) if super::super::is_stored_path(&t.name) => label,
            _ => &t.name,
        };
        let refused = refusals.get(i).is_some_and(Option::is_some);
        if refused || super::super::is_optimizer(&t.name) {
            continue;
        }
        let mut place = place(name, base, i);
        if let Some(config) = config.as_ref().filter(|_| place.layer != TOP) {
            let Some(layer) = config.layer_of(&place) else {
                notes.push(Note {
                    what: t.name.clone(),
                    why: "belongs to no layer of the configuration: Keras does not load it".into(),
                    naming: true,
                });
                continue;
            };
            place.layer = layer.to_owned();
        }
        let key = (place.root, place.layer.clone());
        let at = *known.entry(key.clone()).or_insert_with(|| {
            layers.push((key, Vec::new()));
            layers.len() - 1
        });
        if let Some((_, places)) = layers.get_mut(at) {
            places.push(place);
        }
    }
    match &config {
        Some(config) => layers.sort_by_key(|((_, layer), _)| config.rank(layer)),
        None => notes.extend(untold(model, layers.len())),
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
fn place(name: &str, base: &'static str, tensor: usize) -> Place {
    let (root, rest) = match name.strip_prefix(WHOLE) {
        Some(rest) => (WHOLE, rest),
        None => (base, name),
    };
    let stored = name.starts_with(WHOLE);
    let place = |layer: &str, weight: &str| Place {
        root,
        layer: layer.to_owned(),
        weight: weight.to_owned(),
        tensor,
    };
    if let Some((layer, weight)) = rest.split_once('/') {
        // A path in such a file already: the layer's group, and a weight named after it.
        let again = weight.split_once('/').is_some_and(|(l, _)| l == layer);
        if again || stored {
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

/// The layers of a model's configuration.
struct Config {
    /// In order.
    layers: Vec<String>,
    /// By the name of a layer, at any depth, which of those it is part of; `None` for a name that
    /// several have.
    within: HashMap<String, Option<usize>>,
}

impl Config {
    /// The configuration in the metadata of `model`.
    fn of(model: &Model) -> Option<Self> {
        let is_config = |k: &str| matches!(k, "config.json" | "model_config");
        let (_, value) = model.metadata.iter().find(|(k, _)| is_config(k))?;
        let json: Json = serde_json::from_str(value.as_str()?).ok()?;
        let all = json.get("config")?.get("layers")?.as_array()?;
        let named: Vec<(&Json, &str)> = all
            .iter()
            .filter_map(|l| Some((l, layer_name(l)?)))
            .collect();
        let mut within = HashMap::new();
        for (i, (layer, _)) in named.iter().enumerate() {
            parts(layer, i, &mut within);
        }
        let layers: Vec<String> = named.iter().map(|(_, n)| (*n).to_owned()).collect();
        // What a layer itself is called goes before what is in others.
        for (i, n) in layers.iter().enumerate() {
            within.insert(n.clone(), Some(i));
        }
        Some(Self { layers, within })
    }

    /// The layer of a weight: its group's, else the first that its path goes through.
    fn layer_of(&self, place: &Place) -> Option<&str> {
        let steps = std::iter::once(place.layer.as_str()).chain(place.weight.split('/'));
        let mut found = steps.filter_map(|s| self.within.get(s).copied().flatten());
        found
            .next()
            .and_then(|i| self.layers.get(i))
            .map(String::as_str)
    }

    fn rank(&self, layer: &str) -> usize {
        let at = self.within.get(layer).copied().flatten();
        at.unwrap_or(usize::MAX)
    }
}

fn layer_name(layer: &Json) -> Option<&str> {
    let own = layer.get("config").and_then(|c| c.get("name"));
    own.or_else(|| layer.get("name")).and_then(Json::as_str)
}

/// The names of all layers in `node`, which is part of layer number `at`. The depth is bounded by
/// the parser of JSON.
fn parts(node: &Json, at: usize, out: &mut HashMap<String, Option<usize>>) {
    match node {
        Json::Array(items) => items.iter().for_each(|v| parts(v, at, out)),
        Json::Object(o) => {
            if let (Some(_), Some(name)) = (o.get("class_name"), layer_name(node)) {
                let seen = out.entry(name.to_owned()).or_insert(Some(at));
                if *seen != Some(at) {
                    *seen = None;
                }
            }
            o.values().for_each(|v| parts(v, at, out));
        }
        _ => {}
    }
}
