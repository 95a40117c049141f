//! A graph as quantization sees it: which values are constants, who reads what.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use weighbridge_core::model::{AttributeValue, Graph, Tensor};
use weighbridge_core::wire::protobuf::Span;

use super::rewrite::Rewrite;
use crate::format::onnx::raw;
use crate::format::onnx::walk::holder;

/// A graph with what is known of its values. Everything is looked up by name: a hostile file has
/// as many nodes as it likes.
pub(super) struct View<'a> {
    /// As it stands in the file.
    pub(super) raw: &'a raw::Graph,
    /// With its tensors.
    pub(super) low: &'a Graph,
    constants: HashMap<&'a str, Held<'a>>,
    users: HashMap<&'a str, Vec<usize>>,
    reads: HashMap<&'a str, Vec<Read<'a>>>,
    /// Nodes that give a value, and which output it is.
    makers: HashMap<&'a str, Vec<(usize, &'a raw::Text)>>,
    /// The first node whose first output is a value.
    givers: HashMap<&'a str, usize>,
    inputs: HashMap<&'a str, Vec<&'a raw::ValueInfo>>,
    /// What the graph first says of a value.
    said: HashMap<&'a str, &'a raw::ValueInfo>,
    outputs: HashSet<&'a str>,
    /// Names that graphs inside nodes read: of each node, and of all.
    captured: HashMap<usize, HashSet<&'a str>>,
    captured_by_any: HashSet<&'a str>,
    exclude: &'a [Regex],
}

/// One input of a node.
#[derive(Clone, Copy)]
pub(super) struct Read<'a> {
    pub(super) node: &'a raw::Node,
    /// Which input it is.
    pub(super) at: usize,
    pub(super) text: &'a raw::Text,
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
        let mut reads: HashMap<&str, Vec<Read<'a>>> = HashMap::new();
        let mut makers: HashMap<&str, Vec<(usize, &raw::Text)>> = HashMap::new();
        let mut givers = HashMap::new();
        let mut captured = HashMap::new();
        let mut captured_by_any = HashSet::new();
        for (i, (node, lowered)) in raw.nodes.iter().zip(&low.nodes).enumerate() {
            for (at, text) in node.inputs.iter().enumerate() {
                let known = users.entry(text.text.as_str()).or_default();
                if known.last() != Some(&i) {
                    known.push(i);
                }
                let known = reads.entry(text.text.as_str()).or_default();
                known.push(Read { node, at, text });
            }
            if let Some(first) = node.outputs.first().filter(|t| !t.text.is_empty()) {
                givers.entry(first.text.as_str()).or_insert(i);
            }
            for text in &node.outputs {
                makers.entry(&text.text).or_default().push((i, text));
            }
            let mut names = HashSet::new();
            inner_graphs(node, &mut |g| gather_reads(g, &mut names));
            if !names.is_empty() {
                captured_by_any.extend(&names);
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
        let mut inputs: HashMap<&str, Vec<&raw::ValueInfo>> = HashMap::new();
        for v in &raw.inputs {
            inputs.entry(&v.name.text).or_default().push(v);
        }
        let mut said = HashMap::new();
        for v in raw.inputs.iter().chain(&raw.values).chain(&raw.outputs) {
            said.entry(v.name.text.as_str()).or_insert(v);
        }
        Self {
            raw,
            low,
            constants,
            users,
            reads,
            makers,
            givers,
            inputs,
            said,
            outputs: raw.outputs.iter().map(|o| o.name.text.as_str()).collect(),
            captured,
            captured_by_any,
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

    /// Every input of a node that reads `name`.
    pub(super) fn reads(&self, name: &str) -> &[Read<'a>] {
        self.reads.get(name).map_or(&[], Vec::as_slice)
    }

    /// Nodes that give `name`, by number, and the output that it is.
    pub(super) fn makers(&self, name: &str) -> &[(usize, &'a raw::Text)] {
        self.makers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The first node whose first output is `name`, by number.
    pub(super) fn giver(&self, name: &str) -> Option<usize> {
        self.givers.get(name).copied()
    }

    /// What the graph first says of the value `name`: among inputs, then inner values, then
    /// outputs.
    pub(super) fn said(&self, name: &str) -> Option<&'a raw::ValueInfo> {
        self.said.get(name).copied()
    }

    /// The graph's inputs of this name.
    pub(super) fn inputs(&self, name: &str) -> &[&'a raw::ValueInfo] {
        self.inputs.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the graph gives a value of this name.
    pub(super) fn is_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }

    /// Whether the graph gives `name`, or one inside a node reads it.
    pub(super) fn is_kept(&self, name: &str) -> bool {
        self.is_output(name) || self.captured_by_any.contains(name)
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
        holder(&self.raw.spans, inside)
    }

    /// Takes a constant out of the file, and the input of its name.
    pub(super) fn remove(&self, held: Held<'a>, out: &mut Rewrite) {
        match held.node.and_then(|i| self.raw.nodes.get(i)) {
            Some(node) => {
                out.removed.insert(held.raw.span);
                out.remove_node(self.graph_of(node.span), node.span);
            }
            None if out.removed.insert(held.raw.span) => {
                let inputs = self.inputs(held.raw.name()).iter().map(|v| v.span);
                for span in inputs.chain([held.raw.span]) {
                    out.edits.remove(self.graph_of(span), span);
                }
            }
            None => {}
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
fn gather_reads<'a>(g: &'a raw::Graph, names: &mut HashSet<&'a str>) {
    names.extend(g.outputs.iter().map(|o| o.name.text.as_str()));
    for node in &g.nodes {
        names.extend(node.inputs.iter().map(|i| i.text.as_str()));
        inner_graphs(node, &mut |g| gather_reads(g, names));
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
