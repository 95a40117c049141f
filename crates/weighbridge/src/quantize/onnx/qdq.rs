//! Weights as integers with `DequantizeLinear` before their readers: any runtime that knows the
//! standard operators runs the result, and names are those of ONNX Runtime's `QDQQuantizer`
//! (`onnxruntime/quantization/qdq_quantizer.py`, 1.32).

use std::collections::HashMap;

use weighbridge_core::Result;
use weighbridge_core::model::DType;
use weighbridge_kernels::nbits::Blocks;

use super::OnnxOptions;
use super::grid::{Grid, scale_kind};
use super::job::{Job, Linear, To};
use super::nbits::blocks;
use super::params::Int;
use super::rewrite::{NewNode, Rewrite, int_attribute};
use super::view::{Held, Read, View, input, int, is_standard};
use crate::format::onnx::raw;

/// Rewrites a graph's weights.
pub(super) fn rewrite(view: &View<'_>, options: &OnnxOptions, out: &mut Rewrite) -> Result<()> {
    let how = match options.block_size {
        Some(_) => Some(blocks(options)?),
        None => None,
    };
    let int = options.int().unwrap_or(Int::I8);
    let mut work = Weights {
        view,
        options,
        int,
        how,
        out,
        known: HashMap::new(),
    };
    for node in &view.raw.nodes {
        if !view.is_excluded(node) {
            work.node(node);
        }
    }
    work.finish();
    Ok(())
}

struct Weights<'w> {
    view: &'w View<'w>,
    options: &'w OnnxOptions,
    int: Int,
    how: Option<Blocks>,
    out: &'w mut Rewrite,
    /// What `DequantizeLinear` gives, by the constant and how it was quantized.
    known: HashMap<(String, String), String>,
}

/// A constant that a node multiplies by.
pub(super) struct Factor {
    /// Which input it is.
    pub(super) at: usize,
    /// The axis of its channels.
    pub(super) axis: i64,
    /// The axis that is summed over, of matrices.
    pub(super) along: Option<usize>,
}

/// The weight among a node's inputs, by its operator.
pub(super) fn factor(node: &raw::Node) -> Option<Factor> {
    if !is_standard(node) {
        return None;
    }
    let turned = int(node, "transB", 0) != 0;
    let (axis, along) = match node.operator.text.as_str() {
        "MatMul" => (1, Some(0)),
        "Gemm" if turned => (0, Some(1)),
        "Gemm" => (1, Some(0)),
        "Conv" => (0, None),
        "ConvTranspose" => (1, None),
        _ => return None,
    };
    Some(Factor { at: 1, axis, along })
}

impl Weights<'_> {
    fn node(&mut self, node: &raw::Node) {
        let Some(f) = factor(node) else { return };
        let name = input(node, f.at);
        let Some(held) = self.view.constant(name) else {
            return;
        };
        if !matches!(held.tensor.dtype, DType::F32 | DType::F16) {
            return;
        }
        let Some(to) = self.to(held, &f) else { return };
        let key = (name.to_owned(), format!("{to:?}"));
        let values = match self.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                let made = self.constant(node, name, held, to);
                self.known.insert(key, made.clone());
                made
            }
        };
        if let Some(text) = node.inputs.get(f.at) {
            self.out.rename(node.span, 1, text, &values);
        }
    }

    fn symmetric(&self) -> bool {
        self.options.symmetric.unwrap_or(self.int.is_signed())
    }

    fn to(&self, held: Held<'_>, f: &Factor) -> Option<To> {
        let shape = held.tensor.shape.as_slice();
        if held.tensor.numel().unwrap_or(0) == 0 {
            return None;
        }
        if let (Some(how), Some(along), [rows, columns]) = (self.how, f.along, shape) {
            let (k, n) = if along == 0 {
                (*rows, *columns)
            } else {
                (*columns, *rows)
            };
            return Some(To::Blocks(Grid {
                how: Blocks {
                    scale: scale_kind(held.tensor.dtype),
                    round_first: true,
                    ..how
                },
                k,
                n,
                turned: along == 1,
                standard: true,
                signed: self.int.is_signed(),
            }));
        }
        let rank = shape.len() as i64;
        let axis = (f.axis < rank).then_some(f.axis as usize);
        // What blocks cannot be made of gets a scale for each channel.
        let axis = axis.filter(|_| self.options.per_channel || self.how.is_some());
        Some(To::Linear(Linear {
            int: self.int,
            // Of channels all have the same zero point, as operators on integers ask for.
            symmetric: self.symmetric() || axis.is_some(),
            reduced: self.options.reduce_range,
            axis,
            turn: false,
        }))
    }

    /// Adds the integers and what makes floats of them; gives the name of the floats.
    fn constant(&mut self, node: &raw::Node, name: &str, held: Held<'_>, to: To) -> String {
        let names = ["_quantized", "_scale", "_zero_point"].map(|end| format!("{name}{end}"));
        let mut attributes = Vec::new();
        let names = match to {
            To::Blocks(grid) => {
                let axis = i64::from(grid.turned);
                attributes.push(int_attribute("axis", axis));
                attributes.push(int_attribute("block_size", grid.how.block as i64));
                self.grid(name, held, grid, names)
            }
            To::Linear(l) => {
                if let Some(a) = l.axis {
                    attributes.push(int_attribute("axis", a as i64));
                }
                super::linear_constant(self.view, (name, held), l, names, self.out)
            }
            To::Cast | To::Repack(_) => names,
        };
        let values = self.out.fresh(format!("{name}_DequantizeLinear_Output"));
        let inputs = names.each_ref().map(String::as_str);
        // A weight that is quantized in two ways has two of them.
        let title = values.replace("_DequantizeLinear_Output", "_DequantizeLinear");
        let mut new = NewNode::new("DequantizeLinear", title, &inputs, &[&values]);
        new.attributes = attributes;
        self.out
            .before(self.view.graph_of(node.span), node.span, new.fields());
        values
    }

    fn grid(&mut self, name: &str, held: Held<'_>, g: Grid, names: [String; 3]) -> [String; 3] {
        let tensor = held.tensor;
        let blocks = g.blocks();
        let shape = match g.turned {
            true => vec![g.n, blocks],
            false => vec![blocks, g.n],
        };
        let bits = |n: u64| n.saturating_mul(u64::from(g.how.bits)).div_ceil(8);
        let count = blocks.saturating_mul(g.n);
        let sizes = [
            bits(tensor.numel().unwrap_or(0)),
            count.saturating_mul(tensor.dtype.bytes().unwrap_or(4)),
            bits(count),
        ];
        let kinds = [self.int.dtype(), tensor.dtype, self.int.dtype()];
        let shapes = [tensor.shape.to_vec(), shape.clone(), shape];
        let graph = self.view.graph_of(held.raw.span);
        let (names, rooms) = super::add(self.out, graph, names, kinds, shapes, sizes);
        self.out.jobs.push(Job {
            name: name.to_owned(),
            tensor: tensor.clone(),
            to: To::Blocks(g),
            rooms: rooms.map(Some),
            after: sizes.iter().fold(0, |n, b| n.saturating_add(*b)),
            dtype: self.int.dtype(),
            scales: tensor.dtype,
            biases: Vec::new(),
        });
        names
    }

    /// Takes out constants that nobody reads as floats any more.
    fn finish(&mut self) {
        let mut names: Vec<&str> = self.known.keys().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let Some(held) = self.view.constant(name) else {
                continue;
            };
            let stays = |read: &Read<'_>| self.reads_wide(read);
            if !self.view.is_kept(name) && !self.view.reads(name).iter().any(stays) {
                self.view.remove(held, self.out);
            }
        }
    }

    /// Whether what read a constant still reads its floats.
    fn reads_wide(&self, read: &Read<'_>) -> bool {
        let weight = factor(read.node)
            .map(|f| f.at)
            .filter(|_| !self.view.is_excluded(read.node));
        Some(read.at) != weight
    }
}
