//! Activations as integers with ranges that are known beforehand: pairs of `QuantizeLinear` and
//! `DequantizeLinear` where ONNX Runtime's `QDQQuantizer` puts them
//! (`onnxruntime/quantization/qdq_quantizer.py` and `operators/`, 1.32), with its names.

mod apply;

use std::collections::{HashMap, HashSet};

use weighbridge_core::Result;
use weighbridge_core::model::{AttributeValue, DType};

use super::qdq::factor;
use super::rewrite::Rewrite;
use super::view::{View, float, input, is_standard, output};
use super::{OnnxOptions, Ranges, opset, types};
use crate::format::onnx::raw;

/// Operators all of whose inputs and outputs are quantized.
const ALL: [&str; 9] = [
    "Add",
    "ArgMax",
    "Concat",
    "CumSum",
    "GlobalAveragePool",
    "LeakyRelu",
    "Mul",
    "Sigmoid",
    "Softmax",
];

/// Operators that give the integers of their first input, where it has some.
const SAME: [&str; 10] = [
    "AveragePool",
    "Flatten",
    "MaxPool",
    "Reshape",
    "Resize",
    "Slice",
    "Squeeze",
    "TopK",
    "Transpose",
    "Unsqueeze",
];

/// Rewrites a graph with the given ranges.
pub(super) fn rewrite(
    model: &raw::Model,
    view: &View<'_>,
    ranges: &Ranges,
    options: &OnnxOptions,
    out: &mut Rewrite,
) -> Result<()> {
    let types = types::of(view.raw, view.low, true);
    let mut work = Fixed {
        view,
        options,
        floats: types
            .into_iter()
            .filter(|(_, t)| *t == 1)
            .map(|(n, _)| n.to_owned())
            .collect(),
        ranges: ranges.iter().cloned().collect(),
        marks: Vec::new(),
        marked: HashMap::new(),
        biases: Vec::new(),
        biased: HashSet::new(),
        renamed: HashMap::new(),
        gone: HashSet::new(),
        scales: HashMap::new(),
        summed: HashSet::new(),
        weights: HashMap::new(),
        opset: opset(model),
        out,
    };
    work.adjust();
    for (i, node) in view.raw.nodes.iter().enumerate() {
        if is_standard(node) && !view.is_excluded(node) {
            work.mark(i, node);
        }
    }
    work.apply()
}

/// A value that is quantized.
#[derive(Debug, Clone)]
struct Mark {
    name: String,
    /// With the weights' type and, of channels, their axis.
    weight: Option<Option<usize>>,
    /// With the scale of this value.
    same_as: Option<String>,
}

/// A bias, in the product of the scales of input and weight.
#[derive(Debug, Clone)]
struct Sum {
    node: usize,
    bias: String,
    input: String,
    weight: String,
    beta: f32,
}

struct Fixed<'w> {
    view: &'w View<'w>,
    options: &'w OnnxOptions,
    floats: HashSet<String>,
    ranges: HashMap<String, (f32, f32)>,
    /// In the order in which they were met; none where one was taken back.
    marks: Vec<Option<Mark>>,
    /// Where the mark of a value is.
    marked: HashMap<String, usize>,
    biases: Vec<Sum>,
    /// Their names.
    biased: HashSet<String>,
    /// What makes a value that a removed activation gave: the name that it was given before.
    renamed: HashMap<String, String>,
    /// Nodes that go, by where they lie.
    gone: HashSet<u64>,
    /// Scale where it is known yet, its name and the zero point's, of what was quantized.
    scales: HashMap<String, (Option<f32>, String, String)>,
    /// Nodes whose bias became integers, by number, and the bias.
    summed: HashSet<(String, usize)>,
    /// The job of every weight, and whether it has channels.
    weights: HashMap<String, usize>,
    opset: i64,
    out: &'w mut Rewrite,
}

impl<'w> Fixed<'w> {
    /// What `Relu` and `Clip` cut off need not be represented, and `Softmax` is known.
    fn adjust(&mut self) {
        for node in &self.view.raw.nodes {
            if !is_standard(node) || self.view.is_excluded(node) {
                continue;
            }
            let (from, to) = (input(node, 0), output(node, 0));
            match node.operator.text.as_str() {
                "Relu" | "Clip" if self.view.users(from).len() == 1 => {
                    if let (Some(_), Some(&range)) = (self.ranges.get(from), self.ranges.get(to)) {
                        self.ranges.insert(from.to_owned(), range);
                    }
                }
                "Softmax" => {
                    self.ranges.insert(to.to_owned(), (0.0, 1.0));
                }
                _ => {}
            }
        }
    }

    fn constant(&self, name: &str) -> bool {
        self.view.constant(name).is_some()
    }

    fn is_marked(&self, name: &str) -> bool {
        self.marked.contains_key(name) || self.biased.contains(name)
    }

    fn quantizable(&self, name: &str) -> bool {
        self.floats.contains(name)
            || self.ranges.contains_key(name)
            || self
                .view
                .constant(name)
                .is_some_and(|h| h.tensor.dtype == DType::F32)
    }

    fn add(&mut self, mark: Mark, over: bool) {
        if !self.quantizable(&mark.name) {
            return;
        }
        let known = self.marked.get(&mark.name);
        match known.and_then(|&i| self.marks.get_mut(i)) {
            Some(known) if over => *known = Some(mark),
            Some(_) => {}
            None => {
                self.marked.insert(mark.name.clone(), self.marks.len());
                self.marks.push(Some(mark));
            }
        }
    }

    fn activation(&mut self, name: &str) {
        let mark = Mark {
            name: name.to_owned(),
            weight: None,
            same_as: None,
        };
        self.add(mark, false);
    }

    fn same(&mut self, name: &str, as_this: &str) {
        let mark = Mark {
            name: name.to_owned(),
            weight: None,
            same_as: Some(as_this.to_owned()),
        };
        self.add(mark, true);
    }

    fn weight(&mut self, name: &str, axis: i64) {
        let Some(held) = self.view.constant(name) else {
            return self.activation(name);
        };
        let rank = held.tensor.shape.len() as i64;
        let axis = (self.options.per_channel && axis < rank).then_some(axis as usize);
        let mark = Mark {
            name: name.to_owned(),
            weight: Some(axis),
            same_as: None,
        };
        self.add(mark, axis.is_some());
    }

    fn bias(&mut self, i: usize, node: &raw::Node, beta: f32) {
        let name = input(node, 2);
        let dtype = self.view.constant(name).map(|h| h.tensor.dtype);
        if name.is_empty() || dtype != Some(DType::F32) || !self.constant(input(node, 1)) {
            return;
        }
        self.biased.insert(name.to_owned());
        self.biases.push(Sum {
            node: i,
            bias: name.to_owned(),
            input: input(node, 0).to_owned(),
            weight: input(node, 1).to_owned(),
            beta,
        });
    }

    /// Marks what a node reads and gives.
    fn mark(&mut self, i: usize, node: &'w raw::Node) {
        let operator = node.operator.text.as_str();
        let (first, result) = (input(node, 0), output(node, 0));
        match operator {
            "MatMul" => {
                for t in node.inputs.iter().chain(&node.outputs) {
                    self.weight(&t.text, 1);
                }
            }
            "Conv" | "ConvTranspose" | "Gemm" => {
                self.activation(first);
                self.activation(result);
                if let Some(f) = factor(node) {
                    self.weight(input(node, 1), f.axis);
                }
                let beta = match operator {
                    "Gemm" => float(node, "beta", 1.0),
                    _ => 1.0,
                };
                self.bias(i, node, beta);
            }
            "Relu" | "Clip" => self.cut(node),
            _ if SAME.contains(&operator) => {
                let old = operator == "MaxPool" && self.opset < 12;
                if self.is_marked(first) && !old {
                    self.same(result, first);
                }
            }
            "Pad" => {
                for t in node.inputs.iter().filter(|t| !t.text.is_empty()) {
                    self.activation(&t.text);
                }
                match self.pads_alike(i, node) {
                    true => self.same(result, first),
                    false => self.activation(result),
                }
            }
            "Split" => {
                self.activation(first);
                for o in &node.outputs {
                    self.same(&o.text, first);
                }
            }
            "Gather" | "GatherElements" => {
                if self.constant(first) {
                    self.activation(first);
                }
                if self.is_marked(first) {
                    self.same(result, first);
                }
            }
            "Where" if self.is_marked(input(node, 1)) && self.is_marked(input(node, 2)) => {
                self.activation(result);
            }
            "InstanceNormalization" | "LayerNormalization" | "BatchNormalization" => {
                self.activation(first);
                self.weight(input(node, 1), 1);
                self.bias(i, node, 1.0);
                for o in &node.outputs {
                    self.activation(&o.text);
                }
            }
            _ if ALL.contains(&operator) => {
                for t in node.inputs.iter().chain(&node.outputs) {
                    self.activation(&t.text);
                }
            }
            _ => {}
        }
    }

    /// `Relu` and `Clip`: the range of what is before them does what they do.
    fn cut(&mut self, node: &'w raw::Node) {
        let (first, result) = (input(node, 0), output(node, 0));
        if !self.is_marked(first) {
            return;
        }
        let edge = !self.view.inputs(first).is_empty() || self.view.is_output(first);
        let alone = self.view.users(first).len() == 1
            && self.ranges.contains_key(first)
            && self.ranges.contains_key(result)
            && !edge;
        if alone {
            let mark = self.marked.remove(first);
            if let Some(mark) = mark.and_then(|i| self.marks.get_mut(i)) {
                *mark = None;
            }
            self.renamed.insert(result.to_owned(), first.to_owned());
            self.gone.insert(node.span.start);
        } else {
            self.activation(first);
        }
        self.activation(result);
    }

    /// Whether what a `Pad` adds is in the range of its input.
    fn pads_alike(&self, i: usize, node: &raw::Node) -> bool {
        let lowered = self.view.low.nodes.get(i);
        let mode = lowered.and_then(|n| n.attributes.iter().find(|a| a.name == "mode"));
        match mode.map(|m| &m.value) {
            Some(AttributeValue::Str(m)) if m != b"constant" => true,
            _ => match input(node, 2) {
                "" => true,
                name => {
                    let held = self.view.constant(name);
                    let bytes = held.and_then(|h| h.tensor.bytes().ok());
                    bytes.is_some_and(|b| b.iter().all(|b| *b == 0))
                }
            },
        }
    }
}
