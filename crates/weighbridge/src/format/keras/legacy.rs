//! The older `.h5` (`keras/src/legacy/saving/legacy_h5_format.py`, and `keras/engine/saving.py`
//! before Keras 2.3): a group a layer, in it the weights that the attribute `weight_names` lists.
//! Lists that are too long for one attribute are split into several with a number each.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;
use weighbridge_core::Error;
use weighbridge_core::model::{Model, Value};

use super::labels::Named;
use super::write::is_list;

/// Where the weights lie in a file of a whole model.
const WEIGHTS: &str = "model_weights";

/// Where the state of the optimizer lies.
const OPTIMIZER: &str = "optimizer_weights";

/// The parts of a list, each with its number.
type Parts<'m> = Vec<(u64, &'m [Value])>;

/// The lists of names by the group they are attributes of, in order.
struct Lists<'m> {
    by_group: HashMap<&'m str, HashMap<&'m str, Parts<'m>>>,
}

impl<'m> Lists<'m> {
    fn of(model: &'m Model) -> Self {
        let mut by_group: HashMap<&str, HashMap<&str, Parts<'_>>> = HashMap::new();
        for (key, value) in &model.metadata {
            let (group, name) = key.rsplit_once('@').unwrap_or(("", key));
            let Value::List(items) = value else { continue };
            if !is_list(name) {
                continue;
            }
            let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let number = name
                .get(plain.len()..)
                .unwrap_or_default()
                .parse()
                .unwrap_or(0);
            let lists = by_group.entry(group).or_default();
            lists.entry(plain).or_default().push((number, items));
        }
        for lists in by_group.values_mut().flat_map(HashMap::values_mut) {
            lists.sort_by_key(|(n, _)| *n);
        }
        Self { by_group }
    }

    fn get(&self, group: &str, name: &str) -> Option<Vec<&'m str>> {
        let lists = self.by_group.get(group)?.get(name)?;
        let all = lists.iter().flat_map(|(_, items)| items.iter());
        Some(all.filter_map(Value::as_str).collect())
    }
}

/// The root of the layers' groups: with a trailing slash, or empty; `None` where the file has no
/// such layers.
fn root(lists: &Lists<'_>) -> Option<&'static str> {
    [WEIGHTS, ""]
        .into_iter()
        .find(|g| lists.get(g, "layer_names").is_some())
}

/// Whether `model` is laid out like this.
pub(super) fn is_legacy(model: &Model) -> bool {
    let config = |k: &String| k == "model_config" || k == "keras_version";
    root(&Lists::of(model)).is_some() || model.metadata.iter().any(|(k, _)| config(k))
}

/// The layers of a file: the group of each, and the weights in it.
fn layers<'m>(lists: &Lists<'m>) -> Vec<(String, Option<Vec<&'m str>>)> {
    let Some(root) = root(lists) else {
        return Vec::new();
    };
    let mut names = lists.get(root, "layer_names").unwrap_or_default();
    // Weights of no layer.
    names.push("top_level_model_weights");
    let group = |name: &str| match root {
        "" => name.to_owned(),
        root => format!("{root}/{name}"),
    };
    let mut all: Vec<_> = names.into_iter().map(group).collect();
    all.push(OPTIMIZER.to_owned());
    let weights = |g: String| {
        let weights = lists.get(&g, "weight_names");
        (g, weights)
    };
    all.into_iter().map(weights).collect()
}

/// What each weight is, by tensor.
pub(super) fn names(model: &Model, config: Option<&Json>) -> HashMap<usize, Named> {
    let mut classes = HashMap::new();
    if let Some(config) = config {
        classes_in(config, &mut classes, 0);
    }
    let tensors = model.tensors.iter().enumerate();
    let place: HashMap<&str, usize> = tensors.map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut out = HashMap::new();
    for (group, weights) in layers(&Lists::of(model)) {
        for weight in weights.unwrap_or_default() {
            // Keras 1 had no slashes in names; a name may begin with one in none.
            let Some(&i) = place.get(format!("{group}/{weight}").as_str()) else {
                continue;
            };
            let label = plain(weight);
            let class = match group == OPTIMIZER {
                true => String::new(),
                false => class_of(label, &group, &classes),
            };
            let label = Some(label.to_owned());
            out.insert(i, Named { label, class });
        }
    }
    out
}

/// A weight's name without the number of its output.
fn plain(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((plain, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => plain,
        _ => name,
    }
}

/// The class of the innermost layer of the configuration that a variable's path goes through, or
/// of the layer whose group it lies in.
fn class_of(label: &str, group: &str, classes: &HashMap<&str, Option<&str>>) -> String {
    let steps = label.rsplit('/').skip(1).chain(group.rsplit('/').take(1));
    let mut found = steps.filter_map(|s| classes.get(s));
    found
        .next()
        .copied()
        .flatten()
        .unwrap_or_default()
        .to_owned()
}

/// The classes of all layers by their names; `None` for a name of several.
fn classes_in<'c>(node: &'c Json, out: &mut HashMap<&'c str, Option<&'c str>>, depth: usize) {
    if depth > 200 {
        return;
    }
    match node {
        Json::Array(items) => items.iter().for_each(|v| classes_in(v, out, depth + 1)),
        Json::Object(o) => {
            let class = o.get("class_name").and_then(Json::as_str);
            let name = o
                .get("config")
                .and_then(|c| c.get("name"))
                .or_else(|| o.get("name"));
            if let (Some(class), Some(name)) = (class, name.and_then(Json::as_str)) {
                let seen = out.entry(name).or_insert(Some(class));
                if *seen != Some(class) {
                    *seen = None;
                }
            }
            o.values().for_each(|v| classes_in(v, out, depth + 1));
        }
        _ => {}
    }
}

/// The paths of the weights that the lists of `model` name; `None` where it has no such lists.
pub(super) fn listed(model: &Model) -> Option<HashSet<String>> {
    let lists = Lists::of(model);
    root(&lists)?;
    let mut out = HashSet::new();
    for (group, weights) in layers(&lists) {
        let path = |w: &str| format!("{group}/{w}");
        out.extend(weights.into_iter().flatten().map(path));
    }
    Some(out)
}

/// What is missing: layers without a group, weights without a dataset.
pub(super) fn check(model: &Model) -> Vec<Error> {
    let lists = Lists::of(model);
    let names: HashSet<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    let mut out = Vec::new();
    for (group, weights) in layers(&lists) {
        let optional = group == OPTIMIZER || group.ends_with("top_level_model_weights");
        let Some(weights) = weights else {
            if !optional {
                let message = format!("the layer {group} has no group with `weight_names`");
                out.push(Error::malformed("keras.missing-layer", message));
            }
            continue;
        };
        for weight in weights {
            let path = format!("{group}/{weight}");
            if !names.contains(path.as_str()) {
                let message = format!("{group} lists the weight {weight}, which is not there");
                out.push(Error::malformed("keras.missing-weight", message));
            }
        }
    }
    out
}
