//! Element types of values: what the file says, and where it says nothing what operators make of
//! their inputs. Only as much as casting needs: which values are binary32.

use std::collections::HashMap;

use weighbridge_core::model::{AttributeValue, DType, Graph, GraphNode};

use super::rewrite::{MICROSOFT, data_type};
use super::view::{int, is_standard};
use crate::format::onnx::raw::{self, TypeValue};

const FLOAT: i64 = 1;
const INT64: i64 = 7;
const BOOL: i64 = 9;

/// The element types of a graph's values, by name. Without `foreign`, nothing is made of operators
/// that are not of the standard ones.
pub(super) fn of<'a>(raw: &'a raw::Graph, low: &Graph, foreign: bool) -> HashMap<&'a str, i64> {
    let mut out = HashMap::new();
    for v in raw.inputs.iter().chain(&raw.values).chain(&raw.outputs) {
        if let Some(TypeValue::Tensor(kind, _)) = v.kind.as_ref().map(|k| &k.value) {
            out.insert(v.name.text.as_str(), *kind);
        }
    }
    for t in &raw.initializers {
        out.insert(t.name(), t.data_type);
    }
    for t in raw.sparse_initializers.iter().map(|s| &s.values) {
        out.insert(t.name(), t.data_type);
    }
    for (node, lowered) in raw.nodes.iter().zip(&low.nodes) {
        for (i, o) in node.outputs.iter().enumerate() {
            if o.text.is_empty() || out.contains_key(o.text.as_str()) {
                continue;
            }
            let known = is_standard(node) || foreign && node.domain() == MICROSOFT;
            if let Some(kind) = result(node, lowered, i, &out).filter(|_| known) {
                out.insert(o.text.as_str(), kind);
            }
        }
    }
    out
}

/// The element type of output number `i`.
fn result(
    node: &raw::Node,
    lowered: &GraphNode,
    i: usize,
    known: &HashMap<&str, i64>,
) -> Option<i64> {
    let of = |n: usize| known.get(node.inputs.get(n)?.text.as_str()).copied();
    match (node.operator.text.as_str(), i) {
        ("Cast", _) => node.attribute("to").and_then(|a| a.i),
        ("CastLike" | "Where", _) => of(1),
        ("OneHot", _) => of(2),
        ("DequantizeLinear", _) => of(1),
        ("QuantizeLinear", _) => of(2).or(Some(2)),
        ("DynamicQuantizeLinear", 0 | 2) => Some(2),
        ("Constant" | "ConstantOfShape", _) => Some(constant(lowered)),
        ("RandomNormal" | "RandomUniform", _) => Some(int(node, "dtype", FLOAT)),
        ("RandomNormalLike" | "RandomUniformLike" | "EyeLike", _) => {
            node.attribute("dtype").map_or(of(0), |a| a.i)
        }
        ("Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression", _)
        | ("TopK" | "MaxPool", 1)
        | ("Unique", 1..) => Some(INT64),
        (
            "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Not"
            | "Xor" | "IsNaN" | "IsInf",
            _,
        )
        | ("Dropout", 1) => Some(BOOL),
        ("MatMulInteger" | "ConvInteger", _) => Some(6),
        ("QLinearConv" | "QLinearMatMul", _) => of(7),
        ("If" | "Loop" | "Scan", _) => None,
        _ => of(0),
    }
}

/// The element type of a constant.
fn constant(node: &GraphNode) -> i64 {
    for a in &node.attributes {
        match (&a.value, a.name.as_str()) {
            (AttributeValue::Tensor(t), _) => return data_type(t.dtype),
            (AttributeValue::Int(_) | AttributeValue::Ints(_), _) => return INT64,
            (AttributeValue::Str(_) | AttributeValue::Strs(_), _) => return data_type(DType::Str),
            _ => {}
        }
    }
    FLOAT
}
