//! `MatMulNBits` of ONNX Runtime in the place of products with a constant matrix, as its
//! `DefaultWeightOnlyQuantizer` makes it (`onnxruntime/quantization/matmul_nbits_quantizer.py`,
//! 1.32), with the same names. Beyond it: `Gemm`, matrices behind a `Transpose` or given by
//! `Constant` nodes, and one set of blocks for a matrix that several nodes read.

use std::collections::{BTreeSet, HashMap};

use regex::Regex;
use weighbridge_core::model::{AttributeValue, DType, Graph, GraphNode, Tensor};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::nbits::Blocks;

use super::OnnxOptions;
use super::gguf;
use super::grid::{Grid, scale_kind};
use super::job::{Job, To};
use super::rewrite::{Known, NewNode, Rewrite};
use super::view::{Held, View, float, input, int, is_standard, output};
use super::weight::is_wide;
use crate::format::onnx::raw;

/// Rewrites a graph and those in its nodes.
pub(super) fn rewrite(
    raw: &raw::Graph,
    low: &Graph,
    exclude: &[Regex],
    options: &OnnxOptions,
    out: &mut Rewrite,
) -> Result<()> {
    let how = blocks(options)?;
    let mut work = Products {
        how,
        options,
        out,
        known: Known::default(),
        used: BTreeSet::new(),
    };
    let mut views = Vec::new();
    work.graph(raw, low, exclude, &mut views)?;
    work.finish(&views);
    Ok(())
}

/// The blocks that the options ask for.
pub(super) fn blocks(options: &OnnxOptions) -> Result<Blocks> {
    let refuse = |message: String| Err(Error::parameter("quantize.block-size", message));
    let Some(int) = options.int() else {
        return refuse("blocks are of integers".into());
    };
    let block = options.block_size.unwrap_or(32);
    if !block.is_power_of_two() || !(16..=256).contains(&block) {
        return refuse(format!(
            "a block of {block} values: it has to be 16, 32, 64, 128 or 256"
        ));
    }
    Ok(Blocks {
        bits: int.bits(),
        block: block as usize,
        symmetric: options.symmetric.unwrap_or(int.is_signed()),
        search: !options.rtn,
        scale: scale_kind(DType::F32),
        round_first: false,
    })
}

struct Products<'w> {
    how: Blocks,
    options: &'w OnnxOptions,
    out: &'w mut Rewrite,
    known: Known,
    /// Constants of which blocks were made: the graph's number, and the name.
    used: BTreeSet<(usize, String)>,
}

/// A constant matrix as the second factor.
struct Factor<'a> {
    /// The graph it is in, by number.
    graph: usize,
    name: &'a str,
    held: Held<'a>,
    /// Stored with its columns as rows.
    turned: bool,
}

impl<'w> Products<'w> {
    fn graph<'a>(
        &mut self,
        raw: &'a raw::Graph,
        low: &'a Graph,
        exclude: &'a [Regex],
        views: &mut Vec<View<'a>>,
    ) -> Result<()> {
        views.push(View::new(raw, low, exclude));
        let own = views.len() - 1;
        for (node, lowered) in raw.nodes.iter().zip(&low.nodes) {
            inner(node, lowered, &mut |raw, low| {
                self.graph(raw, low, exclude, views)
            })?;
            let Some(view) = views.get(own) else { continue };
            if view.is_excluded(node) {
                continue;
            }
            if let Some(factor) = factor(views, own, node) {
                if excluded(exclude, factor.name) {
                    continue;
                }
                self.product(views, own, node, &factor)?;
            }
        }
        Ok(())
    }

    fn product(
        &mut self,
        views: &[View<'_>],
        own: usize,
        node: &raw::Node,
        f: &Factor<'_>,
    ) -> Result<()> {
        let (Some(view), Some(home)) = (views.get(own), views.get(f.graph)) else {
            return Ok(());
        };
        let Some((rows, columns)) = matrix(view, node, f) else {
            return Ok(());
        };
        let mut grid = Grid {
            how: Blocks {
                scale: scale_kind(f.held.tensor.dtype),
                ..self.how
            },
            k: if f.turned { columns } else { rows },
            n: if f.turned { rows } else { columns },
            turned: f.turned,
            standard: false,
            signed: false,
        };
        if grid.k == 0 || grid.n == 0 {
            return Ok(());
        }
        let given = self.options.blocks.as_ref();
        let given = given
            .map(|b| b.get(f.name, grid.k, grid.n))
            .transpose()?
            .flatten();
        if let Some(bits) = given.and_then(|t| gguf::bits(t.dtype)) {
            grid.how = Blocks {
                bits,
                block: gguf::BLOCK,
                symmetric: true,
                ..grid.how
            };
        }
        let names = self.constant(home, f, grid, given);
        let bits = grid.how.bits;
        let (result, bias) = (output(node, 0), input(node, 2));
        let gemm = node.operator.text == "Gemm" && !bias.is_empty();
        let product = match gemm {
            true => self.out.fresh(format!("{result}_MatMul")),
            false => result.to_owned(),
        };
        let name = |end: &str| match node.name() {
            "" => String::new(),
            name => format!("{name}{end}"),
        };
        let mut inputs = vec![input(node, 0), &names[0], &names[1]];
        if !grid.how.symmetric {
            inputs.push(&names[2]);
        }
        let mut new = NewNode::new(
            "MatMulNBits",
            name(&format!("_Q{bits}")),
            &inputs,
            &[&product],
        )
        .microsoft()
        .int("K", grid.k as i64)
        .int("N", grid.n as i64)
        .int("bits", i64::from(bits))
        .int("block_size", grid.how.block as i64);
        if let Some(level) = self.options.accuracy_level.filter(|l| *l != 0) {
            new = new.int("accuracy_level", level);
        }
        let graph = view.graph_of(node.span);
        self.out.before(graph, node.span, new.fields());
        if gemm {
            let add = NewNode::new("Add", name("_Add"), &[&product, bias], &[result]);
            self.out.before(graph, node.span, add.fields());
        }
        self.out.remove_node(graph, node.span);
        self.used.insert((f.graph, f.name.to_owned()));
        Ok(())
    }

    /// The blocks of a matrix: names of integers, scales and zero points.
    fn constant(
        &mut self,
        view: &View<'_>,
        f: &Factor<'_>,
        grid: Grid,
        given: Option<&Tensor>,
    ) -> [String; 3] {
        let to = match given {
            Some(_) => To::Repack(grid.how.bits),
            None => To::Blocks(grid),
        };
        let key = format!("{} {}", f.graph, f.name);
        if let Some(known) = self.known.get(&key, &to) {
            return known.clone();
        }
        let base = match f.turned {
            true => format!("{}_T", f.name),
            false => f.name.to_owned(),
        };
        let bits = grid.how.bits;
        let names = [
            format!("{base}_Q{bits}"),
            format!("{base}_scales"),
            format!("{base}_zero_points"),
        ];
        let tensor = f.held.tensor;
        let (n, blocks) = (grid.n, grid.blocks());
        let kinds = [DType::U8, tensor.dtype, DType::U8];
        let shapes = [
            vec![n, blocks, grid.blob()],
            vec![n, blocks],
            vec![n, grid.zeros()],
        ];
        let width = tensor.dtype.bytes().unwrap_or(4);
        let scales = n.saturating_mul(blocks);
        let sizes = [
            scales.saturating_mul(grid.blob()),
            scales.saturating_mul(width),
            n.saturating_mul(grid.zeros()),
        ];
        let graph = view.graph_of(f.held.raw.span);
        let (names, rooms) = if grid.how.symmetric {
            let [q, s, z] = names;
            let [kq, ks, _] = kinds;
            let [sq, ss, _] = shapes;
            let [lq, ls, _] = sizes;
            let made = super::add(self.out, graph, [q, s], [kq, ks], [sq, ss], [lq, ls]);
            let ([q, s], [rq, rs]) = made;
            ([q, s, z], [Some(rq), Some(rs), None])
        } else {
            let (names, rooms) = super::add(self.out, graph, names, kinds, shapes, sizes);
            (names, rooms.map(Some))
        };
        let zeros = if grid.how.symmetric { 0 } else { sizes[2] };
        self.out.jobs.push(Job {
            name: f.name.to_owned(),
            tensor: given.unwrap_or(tensor).clone(),
            to,
            rooms,
            after: sizes[0].saturating_add(sizes[1]).saturating_add(zeros),
            dtype: if bits == 4 { DType::U4 } else { DType::U8 },
            scales: tensor.dtype,
            biases: Vec::new(),
        });
        self.known.put(&key, &to, names.clone());
        names
    }

    /// Takes out what nobody reads any more.
    fn finish(self, views: &[View<'_>]) {
        let Self { out, used, .. } = self;
        let mut readers = Readers::of(views, out);
        for (graph, name) in used {
            let Some(view) = views.get(graph) else {
                continue;
            };
            for read in view.reads(&name) {
                let turns = read.node.operator.text == "Transpose";
                if turns && !readers.any(output(read.node, 0)) {
                    readers.forget(read.node, out);
                    out.remove_node(view.graph_of(read.node.span), read.node.span);
                }
            }
            if let Some(held) = view.constant(&name).filter(|_| !readers.any(&name)) {
                if let Some(node) = held.node.and_then(|i| view.raw.nodes.get(i)) {
                    readers.forget(node, out);
                }
                view.remove(held, out);
            }
        }
    }
}

/// How often nodes that stay, and graphs, read a name, in whatever graph.
struct Readers<'a>(HashMap<&'a str, usize>);

impl<'a> Readers<'a> {
    fn of(views: &[View<'a>], out: &Rewrite) -> Self {
        let mut all: HashMap<&str, usize> = HashMap::new();
        let mut count = |name: &'a raw::Text| *all.entry(&name.text).or_default() += 1;
        for v in views {
            let stay = v.raw.nodes.iter().filter(|n| !out.is_removed(n.span));
            stay.flat_map(|n| &n.inputs).for_each(&mut count);
            v.raw.outputs.iter().for_each(|o| count(&o.name));
        }
        Self(all)
    }

    fn any(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|n| *n > 0)
    }

    /// A node is about to go, if it did not yet.
    fn forget(&mut self, node: &raw::Node, out: &Rewrite) {
        if out.is_removed(node.span) {
            return;
        }
        for t in &node.inputs {
            if let Some(n) = self.0.get_mut(t.text.as_str()) {
                *n = n.saturating_sub(1);
            }
        }
    }
}

fn excluded(exclude: &[Regex], name: &str) -> bool {
    exclude.iter().any(|r| r.is_match(name))
}

/// The constant matrix that a node multiplies by.
fn factor<'a>(views: &[View<'a>], own: usize, node: &'a raw::Node) -> Option<Factor<'a>> {
    if !is_standard(node) {
        return None;
    }
    let turned = match node.operator.text.as_str() {
        "MatMul" => false,
        "Gemm" => {
            let plain = float(node, "alpha", 1.0) == 1.0
                && float(node, "beta", 1.0) == 1.0
                && int(node, "transA", 0) == 0;
            if !plain {
                return None;
            }
            int(node, "transB", 0) != 0
        }
        _ => return None,
    };
    let name = input(node, 1);
    let view = views.get(own)?;
    if let Some(held) = view.constant(name) {
        return Some(Factor {
            graph: own,
            name,
            held,
            turned,
        });
    }
    if let Some(at) = view.giver(name) {
        let transpose = view.raw.nodes.get(at)?;
        let lowered = view.low.nodes.get(at)?;
        let name = input(transpose, 0);
        let held = view.constant(name)?;
        let swaps = transpose.operator.text == "Transpose"
            && is_standard(transpose)
            && held.tensor.shape.len() == 2
            && swaps_two(lowered);
        return swaps.then_some(Factor {
            graph: own,
            name,
            held,
            turned: !turned,
        });
    }
    // A value of a graph outside has to come from outside: names made here come first.
    if own == 0 || !view.makers(name).is_empty() || !view.inputs(name).is_empty() {
        return None;
    }
    // Graphs that are done are siblings, or those around this one: only the outermost is sure.
    let held = views.first()?.constant(name)?;
    Some(Factor {
        graph: 0,
        name,
        held,
        turned,
    })
}

/// Whether a `Transpose` swaps two dimensions.
fn swaps_two(node: &GraphNode) -> bool {
    let perm = node.attributes.iter().find(|a| a.name == "perm");
    match perm.map(|a| &a.value) {
        None => true,
        Some(AttributeValue::Ints(p)) => p == &[1, 0],
        Some(_) => false,
    }
}

/// Rows and columns of a constant that is a matrix: dimensions before them have to be 1, and may
/// only be there where the result has as many without them.
fn matrix(view: &View<'_>, node: &raw::Node, f: &Factor<'_>) -> Option<(u64, u64)> {
    let tensor = f.held.tensor;
    if !is_wide(tensor.dtype) {
        return None;
    }
    match *tensor.shape.as_slice() {
        [rows, columns] => Some((rows, columns)),
        [ref ones @ .., rows, columns] if ones.iter().all(|d| *d == 1) => {
            let rank = rank(view, input(node, 0))?;
            (rank >= tensor.shape.len()).then_some((rows, columns))
        }
        _ => None,
    }
}

/// How many dimensions the file says that a value has.
fn rank(view: &View<'_>, name: &str) -> Option<usize> {
    match &view.said(name)?.kind.as_ref()?.value {
        raw::TypeValue::Tensor(_, Some(dims)) => Some(dims.len()),
        _ => None,
    }
}

/// Calls `f` with the graphs right inside a node.
fn inner<'a>(
    raw: &'a raw::Node,
    low: &'a GraphNode,
    f: &mut dyn FnMut(&'a raw::Graph, &'a Graph) -> Result<()>,
) -> Result<()> {
    for (raw, low) in raw.attributes.iter().zip(&low.attributes) {
        match (&low.value, &raw.g) {
            (AttributeValue::Graph(low), Some(raw)) => f(raw, low)?,
            (AttributeValue::Graphs(low), _) => {
                for (raw, low) in raw.graphs.iter().zip(low) {
                    f(raw, low)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
