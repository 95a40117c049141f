//! A graph as quantization sees it: which values are constants, who reads what.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use weighbridge_core::model::{AttributeValue, Graph, Tensor};
use weighbridge_core::wire::protobuf::Span;

use super::rewrite::{Rewrite, graph_of};
use crate::format::onnx::raw;

/// A graph with what is known of its values.
pub(super) struct View<'a> {
    /// As it stands in the file.
    pub(super) raw: &'a raw::Graph,
    /// With its tensors.
    pub(super) low: &'a Graph,
    constants: HashMap<&'a str, Held<'a>>,
    users: HashMap<&'a str, Vec<usize>>,
    /// Names that graphs inside nodes read.
    captured: HashMap<usize, HashSet<&'a str>>,
    exclude: &'a [Regex],
}

/// A constant of a graph.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    /// Its values.
    pub(super) tensor: &'a Tensor,
    /// Its message.
    pub(super) raw: &'a raw::Tensor,
    /// The `Constant` node that gives it; none for an initializer.
    pub(super) node: Option<usize>,
}

impl<'a> View<'a> {
    pub(super) fn new(raw: &'a raw::Graph, low: &'a Graph, exclude: &'a [Regex]) -> Self {
        let mut constants = HashMap::new();
        for (r, tensor) in raw.initializers.iter().zip(&low.initializers) {
            let held = Held {
                tensor,
                raw: r,
                node: None,
            };
            constants.insert(r.name(), held);
        }
        let mut users: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut captured = HashMap::new();
        for (i, (node, lowered)) in raw.nodes.iter().zip(&low.nodes).enumerate() {
            for input in &node.inputs {
                let known = users.entry(input.text.as_str()).or_default();
                if known.last() != Some(&i) {
                    known.push(i);
                }
            }
            let mut names = HashSet::new();
            inner_graphs(node, &mut |g| reads(g, &mut names));
            if !names.is_empty() {
                captured.insert(i, names);
            }
            let value = lowered.attributes.iter().find(|a| a.name == "value");
            let tensor = value.and_then(|a| match &a.value {
                AttributeValue::Tensor(t) => Some(t.as_ref()),
                _ => None,
            });
            let stored = node.attribute("value").and_then(|a| a.t.as_deref());
            if let (true, Some(tensor), Some(stored), Some(output)) = (
                node.operator.text == "Constant" && is_standard(node),
                tensor,
                stored,
                node.outputs.first(),
            ) {
                let held = Held {
                    tensor,
                    raw: stored,
                    node: Some(i),
                };
                constants.insert(output.text.as_str(), held);
            }
        }
        Self {
            raw,
            low,
            constants,
            users,
            captured,
            exclude,
        }
    }

    /// The constant called `name`.
    pub(super) fn constant(&self, name: &str) -> Option<Held<'a>> {
        self.constants.get(name).copied()
    }

    /// Nodes that read `name`, by number.
    pub(super) fn users(&self, name: &str) -> &[usize] {
        self.users.get(name).map_or(&[], Vec::as_slice)
    }

    /// Names that graphs inside node number `i` read.
    pub(super) fn captured(&self, i: usize) -> impl Iterator<Item = &'a str> {
        let mut names: Vec<&str> = self
            .captured
            .get(&i)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Whether a node with this name, reading these values, is to stay as it is.
    pub(super) fn is_excluded(&self, node: &raw::Node) -> bool {
        let constant = |t: &&raw::Text| self.constants.contains_key(t.text.as_str());
        let weights = node.inputs.iter().filter(constant).map(|t| t.text.as_str());
        let mut names = weights.chain([node.name()]);
        names.any(|n| self.exclude.iter().any(|r| r.is_match(n)))
    }

    /// The message that a node is a field of.
    pub(super) fn graph_of(&self, inside: Span) -> Span {
        let whole = self.raw.spans.last().copied().unwrap_or_default();
        graph_of(self.raw, inside).unwrap_or(whole)
    }

    /// Takes a constant out of the file.
    pub(super) fn remove(&self, held: Held<'a>, out: &mut Rewrite) {
        match held.node.and_then(|i| self.raw.nodes.get(i)) {
            Some(node) => {
                out.removed.insert(held.raw.span);
                out.remove_node(self.graph_of(node.span), node.span);
            }
            None => out.remove_constant(self.raw, self.graph_of(held.raw.span), held.raw),
        }
    }
}

/// Whether the node is of the standard operators.
pub(super) fn is_standard(node: &raw::Node) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
}

/// Calls `f` with every graph right inside `node`.
pub(super) fn inner_graphs<'a>(node: &'a raw::Node, f: &mut dyn FnMut(&'a raw::Graph)) {
    for a in &node.attributes {
        a.g.iter().for_each(|g| f(g));
        a.graphs.iter().for_each(&mut *f);
    }
}

/// Collects what a graph and those in it read or give, whoever makes it.
fn reads<'a>(g: &'a raw::Graph, names: &mut HashSet<&'a str>) {
    names.extend(g.outputs.iter().map(|o| o.name.text.as_str()));
    for node in &g.nodes {
        names.extend(node.inputs.iter().map(|i| i.text.as_str()));
        inner_graphs(node, &mut |g| reads(g, names));
    }
}

/// An integer attribute, or what stands for it where there is none.
pub(super) fn int(node: &raw::Node, name: &str, or: i64) -> i64 {
    node.attribute(name).and_then(|a| a.i).unwrap_or(or)
}

/// A number, likewise.
pub(super) fn float(node: &raw::Node, name: &str, or: f32) -> f32 {
    node.attribute(name).and_then(|a| a.f).unwrap_or(or)
}

/// The name of input number `i`, empty where it is left out.
pub(super) fn input(node: &raw::Node, i: usize) -> &str {
    node.inputs.get(i).map_or("", |t| t.text.as_str())
}

/// The name of output number `i`, likewise.
pub(super) fn output(node: &raw::Node, i: usize) -> &str {
    node.outputs.get(i).map_or("", |t| t.text.as_str())
}
