//! Which variable each stored weight is. Keras 3 stores weights under paths that are made of
//! classes and numbers (`layers/dense_1/vars/0`); the configuration says which layer that is, and
//! its class which variable.
//!
//! The way through the model is that of `_save_state` in `keras/src/saving/saving_lib.py`: the
//! layers of a model in their order, each called by its class with a number where that was met
//! before. A layer whose variables are not known by number and name gets no label, nor does one
//! whose path in the model depends on what the configuration does not tell.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;
use weighbridge_core::model::Shape;

use super::classes::{self, Own, PROJECTION, What, snake_case};

/// Deepest nesting of models that is followed.
const MOST_DEEP: usize = 64;

/// A weight as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Its number in the group.
    pub number: u64,
    pub tensor: usize,
    pub shape: Shape,
}

/// The weights of each group called `vars`, by the path of the object they belong to (empty for
/// the model itself), in the order of their numbers.
pub(super) type Groups = BTreeMap<String, Vec<Stored>>;

/// What a weight is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The variable's path, where it is known.
    pub label: Option<String>,
    /// The class of the layer it belongs to.
    pub class: String,
}

/// What is found out about the weights.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// By tensor.
    pub names: HashMap<usize, Named>,
    /// The variables that the optimizer trains, in its order; `None` where that is not known.
    pub trained: Option<Vec<(String, Shape)>>,
}

/// A model's place in the names of variables.
#[derive(Clone)]
enum Scope {
    /// Names begin like this.
    Under(String),
    /// Nothing tells.
    Unknown,
}

impl Scope {
    fn join(&self, name: &str) -> Self {
        match self {
            Self::Under(s) if s.is_empty() => Self::Under(name.to_owned()),
            Self::Under(s) => Self::Under(format!("{s}/{name}")),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// Labels the weights in `groups` by the configuration of a model, whose weights lie under `root`
/// (`layers`, or what Keras 2.12 called it).
pub(super) fn labels(config: &Json, groups: &Groups) -> Labels {
    let mut walk = Walk {
        groups,
        out: Labels {
            names: HashMap::new(),
            trained: Some(Vec::new()),
        },
    };
    if is_model(config) {
        let top = Scope::Under(String::new());
        walk.model(config, "", &top, None, true, 0);
    } else {
        walk.out.trained = None;
    }
    walk.out
}

/// Whether a node of a configuration is a model of layers: Keras' own, or a class made of one.
fn is_model(node: &Json) -> bool {
    let config = node.get("config");
    let has = |key: &str| {
        config
            .and_then(|c| c.get(key))
            .is_some_and(|v| !v.is_null())
    };
    match class_of(node) {
        "Sequential" => is_keras(node) && has("layers"),
        "Functional" | "Model" => has("layers"),
        _ => has("layers") && has("input_layers") && has("output_layers"),
    }
}

fn class_of(node: &Json) -> &str {
    let class = node.get("class_name").and_then(Json::as_str);
    class.unwrap_or_default()
}

/// Whether the class of a node is one of Keras' own.
fn is_keras(node: &Json) -> bool {
    let module = node.get("module").and_then(Json::as_str);
    module.is_none_or(|m| m == "keras" || m.starts_with("keras.") || m.starts_with("tf_keras"))
        && node
            .get("registered_name")
            .and_then(Json::as_str)
            .is_none_or(|r| !r.contains('>') || r.starts_with("keras"))
}

/// An operation that stands among the layers of a model and is none.
fn is_operation(node: &Json) -> bool {
    let module = node.get("module").and_then(Json::as_str);
    module.is_some_and(|m| m.split('.').any(|p| p == "ops"))
}

fn name_of(node: &Json) -> &str {
    let own = node.get("config").and_then(|c| c.get("name"));
    let name = own.or_else(|| node.get("name")).and_then(Json::as_str);
    name.unwrap_or_default()
}

/// The number of an input layer that named itself.
fn input_number(model: &Json) -> Option<u64> {
    let first = layers(model).first()?;
    if class_of(first) != "InputLayer" {
        return None;
    }
    let rest = name_of(first).strip_prefix("input_layer")?;
    match rest.strip_prefix('_') {
        Some(n) => n.parse().ok(),
        None if rest.is_empty() => Some(0),
        None => None,
    }
}

fn layers(model: &Json) -> &[Json] {
    let layers = model.get("config").and_then(|c| c.get("layers"));
    layers.and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

struct Walk<'g> {
    groups: &'g Groups,
    out: Labels,
}

impl Walk<'_> {
    /// A model whose state is stored under `store`; `outer` is the model that it is a layer of.
    fn model(
        &mut self,
        node: &Json,
        store: &str,
        scope: &Scope,
        outer: Option<&Json>,
        trained: bool,
        depth: usize,
    ) {
        if depth > MOST_DEEP {
            self.out.trained = None;
            return;
        }
        let sequential = class_of(node) == "Sequential";
        let scope = match (sequential, outer) {
            // Layers of a functional model were called before there was a model around them.
            (false, _) => Scope::Under(String::new()),
            (true, Some(o)) if class_of(o) == "Sequential" => {
                // One that was built by itself, before the outer one had its input, is called by
                // its own name alone.
                match (input_number(node), input_number(o)) {
                    (Some(own), Some(outer)) if own < outer => {
                        Scope::Under(name_of(node).to_owned())
                    }
                    _ => Scope::Unknown,
                }
            }
            (true, _) => scope.join(name_of(node)),
        };
        let trained = trained && trains(node);
        let mut used: HashMap<String, u64> = HashMap::new();
        let all = layers(node);
        let skip =
            usize::from(sequential && all.first().is_some_and(|l| class_of(l) == "InputLayer"));
        for layer in all.iter().skip(skip).filter(|l| !is_operation(l)) {
            let snake = snake_case(class_of(layer));
            let n = used
                .entry(snake.clone())
                .and_modify(|n| *n += 1)
                .or_insert(0);
            let step = match n {
                0 => snake,
                n => format!("{snake}_{n}"),
            };
            let at = self.place(store, &["layers", "_layer_checkpoint_dependencies"], &step);
            if is_model(layer) {
                self.model(layer, &at, &scope, Some(node), trained, depth + 1);
            } else {
                self.layer(layer, &at, &scope.join(name_of(layer)), trained, depth + 1);
            }
        }
        self.unnamed(store, class_of(node));
    }

    /// The first of `containers` under `store` in which there is something called `step`.
    fn place(&self, store: &str, containers: &[&str], step: &str) -> String {
        let join = |container: &str| match store {
            "" => format!("{container}/{step}"),
            store => format!("{store}/{container}/{step}"),
        };
        let all = containers.iter().map(|c| join(c));
        let there = all.clone().find(|p| self.is_there(p));
        there.or_else(|| all.into_iter().next()).unwrap_or_default()
    }

    fn is_there(&self, path: &str) -> bool {
        let under = format!("{path}/");
        let next = self.groups.range(under.clone()..).next();
        self.groups.contains_key(path) || next.is_some_and(|(k, _)| k.starts_with(&under))
    }

    /// A layer that is no model.
    fn layer(&mut self, node: &Json, store: &str, scope: &Scope, trained: bool, depth: usize) {
        let class = class_of(node);
        let empty = Json::Null;
        let config = node.get("config").unwrap_or(&empty);
        if !is_keras(node) || depth > MOST_DEEP {
            if self.is_there(store) {
                self.out.trained = None;
                self.unnamed(store, class);
            }
            return;
        }
        let trained = trained && trains(node);
        let own = classes::own(class, config);
        self.own(store, class, own, scope, trained, node);
        for inner in classes::inner(class, config) {
            let at = inner.attributes.iter().map(|a| format!("{store}/{a}"));
            let Some(at) = at.clone().find(|p| self.is_there(p)) else {
                continue;
            };
            match inner.what {
                What::Node(inner) if class_of(inner) == "StackedRNNCells" => {
                    self.cells(inner, &at, &scope.join(name_of(inner)), trained, depth + 1);
                }
                What::Node(inner) if is_model(inner) => {
                    // Which of both was built first is not told.
                    self.model(inner, &at, &Scope::Unknown, Some(node), trained, depth + 1);
                    self.out.trained = None;
                }
                What::Node(inner) => {
                    self.layer(inner, &at, &scope.join(name_of(inner)), trained, depth + 1);
                }
                What::Made(inner, name) => {
                    // It goes by the class that the configuration knows.
                    let own = made(inner, config);
                    self.own(&at, class, own, &scope.join(name), trained, node);
                }
            }
        }
    }

    /// The cells of a stack.
    fn cells(&mut self, node: &Json, store: &str, scope: &Scope, trained: bool, depth: usize) {
        let cells = node.get("config").and_then(|c| c.get("cells"));
        let mut used: HashMap<String, u64> = HashMap::new();
        for cell in cells.and_then(Json::as_array).into_iter().flatten() {
            let snake = snake_case(class_of(cell));
            let n = used
                .entry(snake.clone())
                .and_modify(|n| *n += 1)
                .or_insert(0);
            let step = match n {
                0 => snake,
                n => format!("{snake}_{n}"),
            };
            let at = format!("{store}/cells/{step}");
            self.layer(cell, &at, &scope.join(name_of(cell)), trained, depth + 1);
        }
    }

    /// The weights of a layer's own.
    fn own(
        &mut self,
        store: &str,
        class: &str,
        own: Option<Own>,
        scope: &Scope,
        trained: bool,
        node: &Json,
    ) {
        let Some(stored) = self.groups.get(store).filter(|g| !g.is_empty()) else {
            // A layer that is met again keeps its weights where it was met first.
            if own.is_some_and(|o| o.trained.len() + o.kept.len() > 0) && trained {
                self.out.trained = None;
            }
            return;
        };
        let Some(own) = own.filter(|o| fits(o, stored, is_quantized(node))) else {
            self.out.trained = None;
            self.unnamed(store, class);
            return;
        };
        let quantized = is_quantized(node).then_some("kernel_scale");
        for (s, name) in stored.iter().zip(own.names().chain(quantized)) {
            let label = match scope.join(name) {
                Scope::Under(label) => Some(label),
                Scope::Unknown => None,
            };
            let known = label.is_some();
            if trained && own.trained.contains(&name) && quantized.is_none() {
                match (&label, &mut self.out.trained) {
                    (Some(l), Some(all)) => all.push((l.clone(), s.shape.clone())),
                    _ => self.out.trained = None,
                }
            }
            if !known {
                self.out.trained = None;
            }
            let class = class.to_owned();
            self.out
                .names
                .entry(s.tensor)
                .or_insert(Named { label, class });
        }
    }

    /// Weights of which only the class of their owner is known.
    fn unnamed(&mut self, store: &str, class: &str) {
        for s in self.groups.get(store).into_iter().flatten() {
            let class = class.to_owned();
            let named = Named { label: None, class };
            self.out.names.entry(s.tensor).or_insert(named);
        }
    }
}

/// The variables of a layer that another one makes, by the configuration of that one.
fn made(class: &str, config: &Json) -> Option<Own> {
    match class {
        PROJECTION => classes::own("Dense", config),
        class => classes::own(class, config),
    }
}

/// Whether a layer, and what is in it, is trained.
fn trains(node: &Json) -> bool {
    let trainable = node.get("config").and_then(|c| c.get("trainable"));
    trainable.and_then(Json::as_bool).unwrap_or(true)
}

/// Whether a layer's weights are quantized integers.
fn is_quantized(node: &Json) -> bool {
    let dtype = node.get("config").and_then(|c| c.get("dtype"));
    let mode = dtype
        .and_then(|d| d.get("config"))
        .and_then(|c| c.get("mode"));
    let mode = mode.and_then(Json::as_str).unwrap_or_default();
    mode.starts_with("int8") || mode.starts_with("int4")
}

/// Whether the stored weights can be those that the class has: as many, numbered without gaps.
/// Behind quantized ones stand their scales, and what else the way of quantizing needs.
fn fits(own: &Own, stored: &[Stored], quantized: bool) -> bool {
    let n = own.trained.len() + own.kept.len();
    let numbered = stored.iter().enumerate().all(|(i, s)| s.number == i as u64);
    let scaled = quantized && own.trained.first() == Some(&"kernel") && stored.len() > n;
    numbered && (scaled || !quantized && stored.len() == n)
}
