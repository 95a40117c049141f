//! Marks put into the graph: pairs behind values, integers for constants and biases.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use weighbridge_core::model::DType;
use weighbridge_core::{Error, Result};

use super::{Fixed, Mark, Sum};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw;
use crate::format::onnx::splice::Piece;
use crate::quantize::onnx::bias::Bias;
use crate::quantize::onnx::job::Linear;
use crate::quantize::onnx::params::{Int, scale_and_zero};
use crate::quantize::onnx::rewrite::{Constant, Data, NewNode, data_type, int_attribute};
use crate::quantize::onnx::{add, linear_constant};

impl<'w> Fixed<'w> {
    /// Puts everything into the graph.
    pub(super) fn apply(mut self) -> Result<()> {
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
        let names = linear_constant(self.view, (name, held), linear, names, self.out);
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
        let maker = self.maker(name);
        // What a graph gives as it got it stays what it got.
        let given = maker.is_some() && self.view.is_output(name);
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
        let (names, rooms) = add(
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
