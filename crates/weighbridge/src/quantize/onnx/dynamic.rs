//! Activations quantized while the model runs, as `quantize_dynamic` of ONNX Runtime 1.32 does it
//! (`onnxruntime/quantization/onnx_quantizer.py` and `operators/`): the same operators, names and
//! integers. Beyond it: weights given by `Constant` nodes, names that collide, weights and values
//! that bodies of `If`, `Loop` and `Scan` read.

mod operators;

use std::collections::{HashMap, HashSet};

use weighbridge_core::Result;
use weighbridge_core::model::DType;
use weighbridge_core::source::ByteSource;

use super::job::Linear;
use super::params::Int;
use super::rewrite::{NewNode, Rewrite, data_type};
use super::view::{Held, View, input, is_standard};
use super::{OnnxOptions, types};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw;

/// What a value became.
#[derive(Debug, Clone)]
struct Value {
    integers: String,
    scale: String,
    zero: String,
    /// Each index of an axis has its own scale.
    by_channel: bool,
    /// It is a constant, of which there are no floats any more.
    constant: bool,
}

/// Rewrites `view` with integers.
pub(super) fn rewrite(
    view: &View<'_>,
    source: &dyn ByteSource,
    options: &OnnxOptions,
    out: &mut Rewrite,
) -> Result<()> {
    let mut work = Dynamic {
        view,
        source,
        options,
        out,
        values: HashMap::new(),
        made: view
            .raw
            .inputs
            .iter()
            .map(|i| i.name.text.clone())
            .collect(),
        wide: HashSet::new(),
        floats: types::of(view.raw, view.low, false)
            .into_iter()
            .filter(|(_, t)| *t == data_type(DType::F32))
            .map(|(name, _)| name)
            .collect(),
        scales: HashMap::new(),
    };
    work.needed_wide();
    for i in 0..view.raw.nodes.len() {
        work.node(i)?;
    }
    work.finish();
    Ok(())
}

struct Dynamic<'w> {
    view: &'w View<'w>,
    source: &'w dyn ByteSource,
    options: &'w OnnxOptions,
    out: &'w mut Rewrite,
    values: HashMap<String, Value>,
    /// Values that exist as floats.
    made: HashSet<String>,
    /// Constants that are needed as floats.
    wide: HashSet<String>,
    /// Values that are known to be binary32, as far as the reference knows it too: what it leaves
    /// alone for want of a type stays as it is here, so that no more is lost.
    floats: HashSet<&'w str>,
    /// Products of scales, by their names.
    scales: HashMap<(String, [String; 2]), String>,
}

/// A node that may not be in the file: a `Gemm` is taken for a `MatMul` and an `Add`.
struct Product<'n> {
    at: &'n raw::Node,
    name: String,
    left: &'n str,
    right: Weight<'n>,
    output: String,
}

/// A constant, perhaps turned.
#[derive(Clone, Copy)]
struct Weight<'n> {
    name: &'n str,
    held: Held<'n>,
    turn: bool,
}

impl<'w> Dynamic<'w> {
    /// What excluded nodes and inner graphs read stays as it is.
    fn needed_wide(&mut self) {
        for (i, node) in self.view.raw.nodes.iter().enumerate() {
            let mut names: Vec<&str> = self.view.captured(i).collect();
            if self.view.is_excluded(node) {
                names.extend(node.inputs.iter().map(|t| t.text.as_str()));
            }
            let constants = names
                .into_iter()
                .filter(|n| self.view.constant(n).is_some());
            self.wide.extend(constants.map(str::to_owned));
        }
    }

    fn node(&mut self, i: usize) -> Result<()> {
        let Some(node) = self.view.raw.nodes.get(i) else {
            return Ok(());
        };
        if !self.view.is_excluded(node) && self.quantize(node)? {
            return Ok(());
        }
        let inner: Vec<&str> = self.view.captured(i).collect();
        let inputs = node.inputs.iter().map(|t| t.text.as_str());
        for name in inputs.chain(inner) {
            self.read_wide(node, name);
        }
        self.made
            .extend(node.outputs.iter().map(|t| t.text.clone()));
        Ok(())
    }

    /// Quantizes a node; gives whether it did.
    fn quantize(&mut self, node: &'w raw::Node) -> Result<bool> {
        // A constant with a scale for each channel is none for an operator's first input.
        let first = self.values.get(input(node, 0));
        if first.is_some_and(|v| v.by_channel) {
            return Ok(false);
        }
        match (is_standard(node), node.operator.text.as_str()) {
            (true, "MatMul") => self.matmul(node),
            (true, "Gemm") => self.gemm(node),
            (true, "Conv" | "LSTM" | "Transpose") if !self.floats.contains(input(node, 0)) => {
                Ok(false)
            }
            (true, "Conv") => self.conv(node),
            (true, "Gather") => Ok(self.gather(node)),
            (true, "Transpose") => Ok(self.direct(node)),
            (true, "LSTM") => self.lstm(node),
            (false, "Attention") if node.domain() == "com.microsoft" => self.attention(node),
            (false, "EmbedLayerNormalization") if node.domain() == "com.microsoft" => {
                self.embed(node)
            }
            _ => Ok(false),
        }
    }

    /// The constant `name`, where its values can be quantized: `DynamicQuantizeLinear` and what
    /// follows it take binary32.
    fn weight(&self, name: &'w str, turn: bool) -> Option<Weight<'w>> {
        let held = self.view.constant(name)?;
        (held.tensor.dtype == DType::F32).then_some(Weight { name, held, turn })
    }

    fn product(&mut self, p: &Product<'w>) {
        let left = self.activation(p.at, p.left);
        // Of a stack of matrices ONNX Runtime takes one scale only.
        let single = p.right.held.tensor.shape.len() == 2;
        let axis = match (self.options.per_channel, p.right.turn) {
            (true, true) => Some(0),
            (true, false) if single => Some(1),
            _ => None,
        };
        if self.options.per_channel && !single {
            let why =
                "one scale for all channels: ONNX Runtime takes them apart for single matrices";
            self.out.notes.push((p.right.name.to_owned(), why.into()));
        }
        let right = self.constant(p.right, self.linear(axis, p.right.turn));
        let name = quant(&p.name);
        let inputs = [&left.integers, &right.integers, &left.zero, &right.zero];
        let output = (p.output.as_str(), p.output.as_str());
        self.scaled(
            p.at,
            "MatMulInteger",
            &name,
            &inputs,
            Vec::new(),
            (&left, &right),
            output,
        );
    }

    /// An operator on integers, and its result as floats.
    #[allow(clippy::too_many_arguments)] // all of one place in the graph
    fn scaled(
        &mut self,
        at: &raw::Node,
        operator: &str,
        name: &str,
        inputs: &[&String; 4],
        attributes: Vec<Fields>,
        (left, right): (&Value, &Value),
        (base, output): (&str, &str),
    ) {
        let integers = self.out.fresh(format!("{base}_output_quantized"));
        let inputs = inputs.map(String::as_str);
        let mut node = NewNode::new(operator, name, &inputs, &[&integers]);
        node.attributes = attributes;
        self.put(at, node);
        let cast = self.out.fresh(format!("{integers}_cast_output"));
        let node = NewNode::new("Cast", format!("{integers}_cast"), &[&integers], &[&cast]);
        self.put(at, node.int("to", data_type(DType::F32)));
        let both = [left.scale.as_str(), right.scale.as_str()];
        let multiply = match name {
            "" => format!("{}_{}_mul", left.scale, right.scale),
            name => format!("{name}_scales_mul"),
        };
        let key = (multiply.clone(), both.map(str::to_owned));
        let scale = match self.scales.get(&key) {
            Some(known) => known.clone(),
            None => {
                let scale = self.out.fresh(format!("{multiply}:0"));
                self.put(at, NewNode::new("Mul", multiply, &both, &[&scale]));
                self.scales.insert(key, scale.clone());
                scale
            }
        };
        let name = match name {
            "" => String::new(),
            name => format!("{name}_output_scale_mul"),
        };
        self.put(at, NewNode::new("Mul", name, &[&cast, &scale], &[output]));
        self.made.insert(output.to_owned());
    }

    /// Lets the first input and output of a node be integers.
    fn through(&mut self, node: &'w raw::Node, result: &str, value: Value) {
        let integers = self.out.fresh(format!("{result}_quantized"));
        if let (Some(i), Some(o)) = (node.inputs.first(), node.outputs.first()) {
            self.out.rename(node.span, 1, i, &value.integers);
            self.out.rename(node.span, 2, o, &integers);
        }
        let value = Value {
            integers,
            constant: false,
            ..value
        };
        self.values.insert(result.to_owned(), value);
    }

    /// A value that is quantized where the model runs, or a constant in its place.
    fn activation(&mut self, at: &raw::Node, name: &'w str) -> Value {
        if let Some(known) = self.values.get(name) {
            return known.clone();
        }
        if let Some(weight) = self.weight(name, false) {
            return self.rows(weight);
        }
        let value = Value {
            integers: self.out.fresh(format!("{name}_quantized")),
            scale: self.out.fresh(format!("{name}_scale")),
            zero: self.out.fresh(format!("{name}_zero_point")),
            by_channel: false,
            constant: false,
        };
        let outputs = [&value.integers, &value.scale, &value.zero].map(String::as_str);
        let title = format!("{name}_QuantizeLinear");
        self.put(
            at,
            NewNode::new("DynamicQuantizeLinear", title, &[name], &outputs),
        );
        self.values.insert(name.to_owned(), value.clone());
        value
    }

    /// A constant that stands where activations do: unsigned.
    fn rows(&mut self, weight: Weight<'w>) -> Value {
        let own = self.options.int() == Some(Int::U8);
        let linear = Linear {
            int: Int::U8,
            symmetric: own && self.options.symmetric.unwrap_or(false),
            reduced: false,
            axis: None,
            turn: false,
        };
        self.constant(weight, linear)
    }

    fn linear(&self, axis: Option<usize>, turn: bool) -> Linear {
        let int = self.options.int().unwrap_or(Int::I8);
        Linear {
            int,
            symmetric: self.options.symmetric.unwrap_or(int.is_signed()),
            reduced: self.options.reduce_range,
            axis,
            turn,
        }
    }

    /// The integers of a constant: those of whoever was first to need them.
    fn constant(&mut self, weight: Weight<'w>, linear: Linear) -> Value {
        let key = key(
            weight.name,
            weight.turn && weight.held.tensor.shape.len() == 2,
        );
        if let Some(known) = self.values.get(&key) {
            return known.clone();
        }
        let base = match key.strip_suffix(TURNED) {
            Some(name) => format!("{name}_Transposed"),
            None => key.clone(),
        };
        let [integers, scale, zero] = super::linear_constant(
            self.view,
            (weight.name, weight.held),
            linear,
            ["_quantized", "_scale", "_zero_point"].map(|end| format!("{base}{end}")),
            self.out,
        );
        let value = Value {
            integers,
            scale,
            zero,
            by_channel: linear.axis.is_some(),
            constant: true,
        };
        self.values.insert(key, value.clone());
        value
    }

    /// Sees to it that the floats of `name` are there for `at`.
    fn read_wide(&mut self, at: &raw::Node, name: &str) {
        if self.view.constant(name).is_some() && !self.values.contains_key(name) {
            self.wide.insert(name.to_owned());
            return;
        }
        if let Some(node) = self.wider(name) {
            self.out.before(self.view.graph_of(at.span), at.span, node);
        }
    }

    /// The node that makes floats of what became integers, where there are none.
    fn wider(&mut self, name: &str) -> Option<Fields> {
        let value = self.values.get(name)?;
        if self.wide.contains(name) || (self.made.contains(name) && !value.constant) {
            return None;
        }
        if value.constant && (value.by_channel || !self.made.insert(name.to_owned())) {
            // A constant whose floats are needed: where each channel has its own scale they stay.
            if value.by_channel {
                self.wide.insert(name.to_owned());
            }
            return None;
        }
        self.made.insert(name.to_owned());
        let inputs = [&value.integers, &value.scale, &value.zero].map(String::as_str);
        let title = format!("{name}_DequantizeLinear");
        Some(NewNode::new("DequantizeLinear", title, &inputs, &[name]).fields())
    }

    fn finish(&mut self) {
        let outputs = self.view.raw.outputs.iter();
        let outputs: Vec<&str> = outputs.map(|o| o.name.text.as_str()).collect();
        let last = self.view.raw.nodes.last();
        for name in outputs {
            if let (Some(node), Some(last)) = (self.wider(name), last) {
                self.out
                    .after(self.view.graph_of(last.span), last.span, node);
            }
        }
        let mut gone: Vec<&str> = self.values.keys().map(|k| k.as_str()).collect();
        gone.sort_unstable();
        let mut seen = HashSet::new();
        for key in gone {
            let name = key.strip_suffix(TURNED).unwrap_or(key);
            let Some(held) = self.view.constant(name) else {
                continue;
            };
            if !self.wide.contains(name) && seen.insert(name) {
                self.view.remove(held, self.out);
            }
        }
    }

    fn put(&mut self, at: &raw::Node, node: NewNode<'_>) {
        self.out
            .before(self.view.graph_of(at.span), at.span, node.fields());
    }

    fn drop_node(&mut self, node: &raw::Node) {
        self.out
            .remove_node(self.view.graph_of(node.span), node.span);
    }
}

/// Marks, among the values, a constant that was turned; no name holds it.
const TURNED: &str = "\0turned";

fn key(name: &str, turned: bool) -> String {
    match turned {
        true => format!("{name}{TURNED}"),
        false => name.to_owned(),
    }
}

fn quant(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!("{name}_quant"),
    }
}
