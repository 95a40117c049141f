//! A model's operators as those of a newer version, where what changed between is nothing that it
//! uses or can be written another way (`docs/Changelog.md` of the ONNX repository).

use weighbridge_core::model::DType;
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::opset;
use super::rewrite::{Constant, Data, Rewrite, data_type, int_attribute};
use super::view::{inner_graphs, is_standard};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw;
use crate::format::onnx::splice::Piece;
use crate::format::onnx::walk::holder;

/// The version with blocks and 4-bit integers in `DequantizeLinear`, and the format's version
/// with that (`docs/Versioning.md`).
const VERSION: i64 = 21;
const FORMAT: i64 = 10;

/// Reductions whose axes became an input with version 18.
const REDUCTIONS: [&str; 9] = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
];

/// Operators that mean something else, and since which version.
const OTHERS: [(&str, i64); 5] = [
    ("DFT", 20),
    ("GridSample", 20),
    ("GroupNormalization", 21),
    ("RoiAlign", 16),
    ("Upsample", 22),
];

/// Raises the format to version 4 where it is older: before, every initializer has to be an input
/// as well, which those that are added are not.
pub(super) fn free_initializers(model: &raw::Model, source: &dyn ByteSource, out: &mut Rewrite) {
    let Some(format) = model.ir_version.filter(|v| *v < 4) else {
        return;
    };
    let field = Fields::new().int(1, 4);
    out.edits
        .set(Span::of(source), 1, vec![Piece::Fields(field)]);
    let why = format!("raised from {format} to 4, in which initializers need not be inputs");
    out.notes.push(("onnx.ir_version".into(), why));
}

/// Raises the standard operators to version 21.
///
/// # Errors
/// `Unsupported` for versions before 13 and operators that mean something else since.
pub(super) fn raise(model: &raw::Model, source: &dyn ByteSource, out: &mut Rewrite) -> Result<()> {
    let from = opset(model);
    let format = model.ir_version.unwrap_or(0);
    if format < FORMAT {
        let field = Fields::new().int(1, FORMAT);
        out.edits
            .set(Span::of(source), 1, vec![Piece::Fields(field)]);
        let why = format!("raised from {format} to {FORMAT}, which has its types");
        out.notes.push(("onnx.ir_version".into(), why));
    }
    if from >= VERSION {
        return Ok(());
    }
    super::newer_than(model, 13)?;
    if let Some(g) = &model.graph {
        graph(g, from, out)?;
    }
    let standard = |o: &&raw::Opset| matches!(o.domain.as_str(), "" | "ai.onnx");
    for o in model.opsets.iter().filter(standard) {
        let field = Fields::new().int(2, VERSION);
        out.edits.set(o.span, 2, vec![Piece::Fields(field)]);
    }
    let why = format!(
        "raised from {from} to {VERSION}, whose DequantizeLinear takes blocks and half floats"
    );
    out.notes.push(("onnx.opset_import".into(), why));
    Ok(())
}

fn graph(g: &raw::Graph, from: i64, out: &mut Rewrite) -> Result<()> {
    for node in &g.nodes {
        let mut inner = Vec::new();
        inner_graphs(node, &mut |g| inner.push(g));
        for g in inner {
            graph(g, from, out)?;
        }
        if is_standard(node) {
            one(g, node, from, out)?;
        }
    }
    Ok(())
}

fn one(g: &raw::Graph, node: &raw::Node, from: i64, out: &mut Rewrite) -> Result<()> {
    let operator = node.operator.text.as_str();
    let other = OTHERS
        .iter()
        .any(|(name, since)| *name == operator && from < *since);
    let trains = operator == "BatchNormalization" && from < 14 && node.outputs.len() > 1;
    if other || trains {
        let message = format!("{} means something else since version {from}", node.title());
        let e = Error::unsupported("quantize.opset", message).at(node.span.start);
        return Err(e.help("raise the version to 21 with onnx.version_converter"));
    }
    let axes = node
        .attribute("axes")
        .filter(|_| REDUCTIONS.contains(&operator));
    if let Some(axes) = axes.filter(|_| from < 18) {
        let first = node.outputs.first().map_or("", |o| o.text.as_str());
        let name = out.fresh(format!("{first}_axes"));
        let constant = Constant {
            name: name.clone(),
            data_type: data_type(DType::I64),
            dims: vec![axes.ints.len() as u64],
            data: Data::Bytes(axes.ints.iter().flat_map(|n| n.to_le_bytes()).collect()),
        };
        out.constant(holder(&g.spans, node.span), constant);
        out.edits.remove(node.span, axes.span);
        let input = Fields::new().bytes(1, name);
        out.edits.append(node.span, vec![Piece::Fields(input)]);
    }
    let even = operator == "Split" && node.inputs.iter().filter(|i| !i.text.is_empty()).count() < 2;
    if even && from < 18 && node.attribute("num_outputs").is_none() {
        let field = Fields::new().bytes(5, int_attribute("num_outputs", node.outputs.len() as i64));
        out.edits.append(node.span, vec![Piece::Fields(field)]);
    }
    Ok(())
}
