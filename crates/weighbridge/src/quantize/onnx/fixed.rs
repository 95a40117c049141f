//! Activations as integers with ranges that are known beforehand: pairs of `QuantizeLinear` and
//! `DequantizeLinear` where ONNX Runtime's `QDQQuantizer` puts them
//! (`onnxruntime/quantization/qdq_quantizer.py` and `operators/`, 1.32), with its names.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

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

    /// Puts everything into the graph.
    fn apply(mut self) -> Result<()> {
        let marks = std::mem::take(&mut self.marks);
        let (shared, own): (Vec<Mark>, Vec<Mark>) = marks
            .into_iter()
            .flatten()
            .partition(|m| m.same_as.is_some());
        for mark in &own {
            match self.constant(&mark.name) {
                true => self.integers(mark),
                false => self.pair_with_range(&mark.name)?,
            }
        }
        self.share(&shared);
        for sum in std::mem::take(&mut self.biases) {
            self.sum(&sum);
        }
        self.finish();
        Ok(())
    }

    /// Marks that take the scale of another value: in their order as often as it takes until
    /// those that wait for one behind them have it too.
    fn share(&mut self, marks: &[Mark]) {
        let mut waiting: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut ready = BinaryHeap::new();
        for (i, mark) in marks.iter().enumerate() {
            let Some(other) = mark.same_as.as_deref() else {
                continue;
            };
            match self.scales.contains_key(other) {
                true => ready.push(Reverse((0u64, i))),
                false => waiting.entry(other).or_default().push(i),
            }
        }
        while let Some(Reverse((round, i))) = ready.pop() {
            let Some(mark) = marks.get(i) else { continue };
            let found = mark.same_as.as_ref().and_then(|n| self.scales.get(n));
            let Some(known) = found.cloned() else {
                continue;
            };
            self.pair(&mark.name, &known.1, &known.2);
            self.scales.insert(mark.name.clone(), known);
            for next in waiting.remove(mark.name.as_str()).into_iter().flatten() {
                let again = u64::from(next < i);
                ready.push(Reverse((round.saturating_add(again), next)));
            }
        }
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
        for read in self.view.reads(name) {
            if !self.gone.contains(&read.node.span.start) {
                self.out.rename(read.node.span, 1, read.text, values);
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

    /// The node that makes a value, and its output: another node may have taken the name over.
    fn maker(&self, name: &str) -> Option<(&'w raw::Node, &'w raw::Text)> {
        let before = self.renamed.get(name);
        let all = before.map_or(&[][..], |n| self.view.makers(n));
        let all = self.view.makers(name).iter().chain(all);
        let nodes = &self.view.raw.nodes;
        let there = all.filter_map(|&(i, text)| Some((i, nodes.get(i)?, text)));
        let there = there.filter(|(_, n, _)| !self.gone.contains(&n.span.start));
        let first = there.min_by_key(|(i, _, text)| (*i, text.span.start));
        first.map(|(_, node, text)| (node, text))
    }

    /// The pair behind a value.
    fn pair(&mut self, name: &str, scale: &str, zero: &str) {
        let graph = self.view.raw;
        let integers = self.out.fresh(format!("{name}_QuantizeLinear_Output"));
        let given = self.view.is_output(name);
        let maker = self.maker(name);
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
            && !self.view.is_kept(base);
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
        for held in self
            .view
            .raw
            .initializers
            .iter()
            .filter_map(|t| self.view.constant(t.name()))
        {
            let name = held.raw.name();
            let users = self.view.users(name);
            let replaced = |&i: &usize| self.summed.contains(&(name.to_owned(), i));
            // Each of them reads it once.
            let once = self.view.reads(name).len() == users.len();
            let weight = self.weights.contains_key(name);
            if !self.view.is_kept(name)
                && (weight || !users.is_empty() && once && users.iter().all(replaced))
            {
                self.view.remove(held, self.out);
            }
        }
    }
}
