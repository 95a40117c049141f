//! Activations as integers with ranges that are known beforehand: pairs of `QuantizeLinear` and
//! `DequantizeLinear` where ONNX Runtime's `QDQQuantizer` puts them
//! (`onnxruntime/quantization/qdq_quantizer.py` and `operators/`, 1.32), with its names.

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{AttributeValue, DType};
use weighbridge_core::{Error, Result};

use super::bias::Bias;
use super::job::Linear;
use super::params::{Int, scale_and_zero};
use super::qdq::factor;
use super::rewrite::{Constant, Data, NewNode, Rewrite, data_type, int_attribute};
use super::view::{View, float, input, is_standard, output};
use super::{OnnxOptions, Ranges, opset, types};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw;
use crate::format::onnx::splice::Piece;

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
        biases: Vec::new(),
        renamed: HashMap::new(),
        gone: HashSet::new(),
        scales: HashMap::new(),
        summed: HashSet::new(),
        weights: HashMap::new(),
        opset: opset(model),
        out,
    };
    work.adjust();
    for node in &view.raw.nodes {
        if is_standard(node) && !view.is_excluded(node) {
            work.mark(node);
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
    marks: Vec<Mark>,
    biases: Vec<Sum>,
    /// Outputs that took the name of what a removed activation gave.
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
        self.marks.iter().any(|m| m.name == name) || self.biases.iter().any(|b| b.bias == name)
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
        match self.marks.iter_mut().find(|m| m.name == mark.name) {
            Some(known) if over => *known = mark,
            Some(_) => {}
            None => self.marks.push(mark),
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

    fn bias(&mut self, node: &raw::Node, beta: f32) {
        let name = input(node, 2);
        let dtype = self.view.constant(name).map(|h| h.tensor.dtype);
        if name.is_empty() || dtype != Some(DType::F32) || !self.constant(input(node, 1)) {
            return;
        }
        let at = self.view.raw.nodes.iter().position(|n| n.span == node.span);
        self.biases.push(Sum {
            node: at.unwrap_or(usize::MAX),
            bias: name.to_owned(),
            input: input(node, 0).to_owned(),
            weight: input(node, 1).to_owned(),
            beta,
        });
    }

    /// Marks what a node reads and gives.
    fn mark(&mut self, node: &'w raw::Node) {
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
                self.bias(node, beta);
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
                match self.pads_alike(node) {
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
                self.bias(node, 1.0);
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
        let graph = self.view.raw;
        let edge = |name: &str| {
            let mut all = graph.inputs.iter().chain(&graph.outputs);
            all.any(|v| v.name.text == name)
        };
        let alone = self.view.users(first).len() == 1
            && self.ranges.contains_key(first)
            && self.ranges.contains_key(result)
            && !edge(first);
        if alone {
            self.marks.retain(|m| m.name != first);
            self.renamed.insert(first.to_owned(), result.to_owned());
            self.gone.insert(node.span.start);
        } else {
            self.activation(first);
        }
        self.activation(result);
    }

    /// Whether what a `Pad` adds is in the range of its input.
    fn pads_alike(&self, node: &raw::Node) -> bool {
        let at = self.view.raw.nodes.iter().position(|n| n.span == node.span);
        let lowered = at.and_then(|i| self.view.low.nodes.get(i));
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

    /// Puts everything into the graph.
    fn apply(mut self) -> Result<()> {
        let marks = std::mem::take(&mut self.marks);
        let (shared, own): (Vec<Mark>, Vec<Mark>) =
            marks.into_iter().partition(|m| m.same_as.is_some());
        for mark in &own {
            match self.constant(&mark.name) {
                true => self.integers(mark),
                false => self.pair_with_range(&mark.name)?,
            }
        }
        let mut left = shared;
        while !left.is_empty() {
            let before = left.len();
            let mut later = Vec::new();
            for mark in left {
                let found = mark
                    .same_as
                    .as_ref()
                    .and_then(|n| self.scales.get(n))
                    .cloned();
                match found {
                    Some((value, scale, zero)) => {
                        self.pair(&mark.name, &scale, &zero);
                        self.scales.insert(mark.name.clone(), (value, scale, zero));
                    }
                    None => later.push(mark),
                }
            }
            if later.len() == before {
                break;
            }
            left = later;
        }
        for sum in std::mem::take(&mut self.biases) {
            self.sum(&sum);
        }
        self.finish();
        Ok(())
    }

    fn int(&self) -> Int {
        self.options.activations()
    }

    /// A constant as integers, and floats made of them before its readers.
    fn integers(&mut self, mark: &Mark) {
        let Some(held) = self.view.constant(&mark.name) else {
            return;
        };
        let own = self.options.int().unwrap_or(Int::I8);
        let (int, axis) = match mark.weight {
            Some(axis) => (own, axis),
            None => (self.int(), None),
        };
        let linear = Linear {
            int,
            symmetric: axis.is_some()
                || mark.weight.is_some() && self.options.symmetric.unwrap_or(int.is_signed()),
            reduced: self.options.reduce_range,
            axis,
            turn: false,
        };
        let name = &mark.name;
        let names = ["_quantized", "_scale", "_zero_point"].map(|end| format!("{name}{end}"));
        let job = self.out.jobs.len();
        let names = super::linear_constant(self.view, (name, held), linear, names, self.out);
        self.weights.insert(name.clone(), job);
        if axis.is_none() {
            let [_, scale, zero] = names.clone();
            self.scales.insert(name.clone(), (None, scale, zero));
        }
        let values = self.out.fresh(format!("{name}_DequantizeLinear_Output"));
        let inputs = names.each_ref().map(String::as_str);
        let title = format!("{name}_DequantizeLinear");
        let mut node = NewNode::new("DequantizeLinear", title, &inputs, &[&values]);
        if let Some(a) = axis {
            node.attributes.push(int_attribute("axis", a as i64));
        }
        let first = self
            .view
            .users(name)
            .first()
            .and_then(|&i| self.view.raw.nodes.get(i));
        if let Some(first) = first {
            self.out
                .before(self.view.graph_of(first.span), first.span, node.fields());
        }
        self.read(name, &values);
    }

    /// Lets all that read `name` read `values`.
    fn read(&mut self, name: &str, values: &str) {
        for &i in self.view.users(name) {
            let Some(node) = self.view.raw.nodes.get(i) else {
                continue;
            };
            if self.gone.contains(&node.span.start) {
                continue;
            }
            for t in node.inputs.iter().filter(|t| t.text == name) {
                self.out.rename(node.span, 1, t, values);
            }
        }
    }

    fn pair_with_range(&mut self, name: &str) -> Result<()> {
        let Some(&range) = self.ranges.get(name) else {
            let message = format!("there is no range for {name}, which is to be quantized");
            let e = Error::parameter("quantize.ranges", message);
            return Err(e.help("add it to the file of --ranges, or --exclude the node"));
        };
        let int = self.int();
        let (scale, zero) = scale_and_zero(range, int.used(false, false), false, false);
        let kinds = [(DType::F32, "_scale"), (int.dtype(), "_zero_point")];
        let data = [scale.to_le_bytes().to_vec(), vec![zero as i32 as u8]];
        let mut names = Vec::new();
        let graph = self.view.raw.spans.last().copied().unwrap_or_default();
        for ((kind, end), data) in kinds.into_iter().zip(data) {
            let name = self.out.fresh(format!("{name}{end}"));
            let constant = Constant {
                name: name.clone(),
                data_type: data_type(kind),
                dims: Vec::new(),
                data: Data::Bytes(data),
            };
            self.out.constant(graph, constant);
            names.push(name);
        }
        if let [s, z] = names.as_slice() {
            self.pair(name, s, z);
            self.scales
                .insert(name.to_owned(), (Some(scale), s.clone(), z.clone()));
        }
        Ok(())
    }

    /// The pair behind a value.
    fn pair(&mut self, name: &str, scale: &str, zero: &str) {
        let graph = self.view.raw;
        let integers = self.out.fresh(format!("{name}_QuantizeLinear_Output"));
        let given = graph.outputs.iter().any(|o| o.name.text == name);
        // What makes it: another node may have taken the name over.
        let before = self
            .renamed
            .iter()
            .find(|(_, to)| *to == name)
            .map(|(from, _)| from.clone());
        let maker = graph.nodes.iter().find_map(|n| {
            let made = |t: &&raw::Text| t.text == name || Some(&t.text) == before.as_ref();
            let there = !self.gone.contains(&n.span.start);
            n.outputs
                .iter()
                .find(made)
                .filter(|_| there)
                .map(|t| (n, t))
        });
        let (source, values) = match given {
            true => {
                let source = self.out.fresh(format!("{name}_QuantizeLinear_Input"));
                (source, name.to_owned())
            }
            false => {
                let values = self.out.fresh(format!("{name}_DequantizeLinear_Output"));
                (name.to_owned(), values)
            }
        };
        if !given {
            self.read(name, &values);
        }
        let quantize = NewNode::new(
            "QuantizeLinear",
            format!("{name}_QuantizeLinear"),
            &[&source, scale, zero],
            &[&integers],
        );
        let back = NewNode::new(
            "DequantizeLinear",
            format!("{name}_DequantizeLinear"),
            &[&integers, scale, zero],
            &[&values],
        );
        match (maker, graph.nodes.first()) {
            (Some((node, text)), _) => {
                if text.text != source {
                    self.out.rename(node.span, 2, text, &source);
                }
                let graph = self.view.graph_of(node.span);
                self.out.after(graph, node.span, quantize.fields());
                self.out.after(graph, node.span, back.fields());
            }
            (None, Some(first)) => {
                let graph = self.view.graph_of(first.span);
                self.out.before(graph, first.span, quantize.fields());
                self.out.before(graph, first.span, back.fields());
            }
            (None, None) => {}
        }
    }

    /// A bias as 32-bit integers.
    fn sum(&mut self, s: &Sum) {
        let found = (
            self.scales.get(&s.input).cloned(),
            self.weights.get(&s.weight).copied(),
        );
        // The scale of what comes from a constant is not known before its values are read.
        let (Some((Some(scale), ..)), Some(job)) = found else {
            return;
        };
        let Some(held) = self.view.constant(&s.bias) else {
            return;
        };
        let Some(node) = self.view.raw.nodes.get(s.node) else {
            return;
        };
        let n = held.tensor.numel().unwrap_or(0);
        let channels = match self.out.jobs.get(job).map(|j| j.channel_count()) {
            Some(Some(c)) if c == n && held.tensor.shape.len() == 1 => Some(c),
            Some(None) => None,
            _ => return,
        };
        let Some(bytes) = n.checked_mul(4) else {
            return;
        };
        let dims = held.tensor.shape.to_vec();
        let per = channels.map_or_else(Vec::new, |c| vec![c]);
        let scales = channels.unwrap_or(1);
        let base = &s.bias;
        let names = ["", "_scale", "_zero_point"].map(|e| format!("{base}_quantized{e}"));
        let (names, rooms) = super::add(
            self.out,
            self.view.graph_of(held.raw.span),
            names,
            [DType::I32, DType::F32, DType::I32],
            [dims, vec![scales], per],
            [bytes, scales.saturating_mul(4), scales.saturating_mul(4)],
        );
        let own = self
            .ranges
            .get(&s.input)
            .map(|&r| scale_and_zero(r, self.int().used(false, false), false, false).0);
        if let Some(j) = self.out.jobs.get_mut(job) {
            j.after = j.after.saturating_add(bytes);
            j.biases.push(Bias {
                tensor: held.tensor.clone(),
                input: scale,
                own,
                beta: s.beta,
                rooms,
            });
        }
        // Read by this node alone, the floats take the constant's name.
        let alone = self.view.users(base).len() == 1
            && node.inputs.iter().filter(|t| t.text == *base).count() == 1
            && !self.view.raw.outputs.iter().any(|o| o.name.text == *base)
            && !(0..self.view.raw.nodes.len()).any(|i| self.view.captured(i).any(|n| n == base));
        let values = match alone {
            true => base.clone(),
            false => self.out.fresh(format!("{base}_DequantizeLinear_Output")),
        };
        let inputs = names.each_ref().map(String::as_str);
        let title = match alone {
            true => format!("{base}_DequantizeLinear"),
            false => values.replace("_Output", ""),
        };
        let mut new = NewNode::new("DequantizeLinear", title, &inputs, &[&values]);
        if scales > 1 {
            new.attributes.push(int_attribute("axis", 0));
        }
        self.out
            .before(self.view.graph_of(node.span), node.span, new.fields());
        if let Some(t) = node.inputs.get(2).filter(|_| !alone) {
            self.out.rename(node.span, 1, t, &values);
        }
        self.summed.insert((base.clone(), s.node));
        if let Some(beta) = node.attribute("beta") {
            let one = Fields::new().float(2, 1.0);
            self.out.edits.set(beta.span, 2, vec![Piece::Fields(one)]);
        }
    }

    /// Takes out what was replaced.
    fn finish(&mut self) {
        for node in &self.view.raw.nodes {
            if self.gone.contains(&node.span.start) {
                self.out
                    .remove_node(self.view.graph_of(node.span), node.span);
            }
        }
        let mut captured = HashSet::new();
        for i in 0..self.view.raw.nodes.len() {
            captured.extend(self.view.captured(i));
        }
        captured.extend(self.view.raw.outputs.iter().map(|o| o.name.text.as_str()));
        for held in self
            .view
            .raw
            .initializers
            .iter()
            .filter_map(|t| self.view.constant(t.name()))
        {
            let name = held.raw.name();
            let users = self.view.users(name);
            let replaced = |&i: &usize| {
                let bias = self.summed.contains(&(name.to_owned(), i));
                let node = self.view.raw.nodes.get(i);
                let once =
                    node.is_some_and(|n| n.inputs.iter().filter(|t| t.text == name).count() == 1);
                bias && once
            };
            let weight = self.weights.contains_key(name);
            if !captured.contains(name)
                && (weight || !users.is_empty() && users.iter().all(replaced))
            {
                self.view.remove(held, self.out);
            }
        }
    }
}
