//! Loops that have weights inside, written out for their first round.
//!
//! A model may stand in the body of a loop as a whole. What is switched in there is looked at as
//! if the loop ended after one round: what it does then, it does with more rounds too.

use std::sync::Arc;

use weighbridge_core::model::AttributeValue;

use super::facts::weighs;
use super::flat::{Body, Flat, Id, Named, Node, Origin};
use super::interp::value::{Kind, Tensor};
use super::interp::{Attributes, Move, Op};

/// Loops within loops that are gone into.
const MOST_DEEP: usize = 4;

static FIRST_AXIS: AttributeValue = AttributeValue::Int(0);

/// `flat` with one round in place of each loop that weighs; `None` where there is none.
pub(crate) fn first_round<'g>(flat: &Flat<'g>) -> Option<Flat<'g>> {
    if !flat.nodes.iter().any(|n| is_learned(flat, n)) {
        return None;
    }
    let mut out = Flat {
        values: flat.values.clone(),
        nodes: Vec::new(),
        inputs: flat.inputs.clone(),
        outputs: flat.outputs.clone(),
        types: flat.types.clone(),
        broken: None,
    };
    let mut nodes = Vec::new();
    for n in &flat.nodes {
        put(&mut out, n, &mut nodes, 0);
    }
    out.nodes = nodes;
    Some(out)
}

/// Whether a loop's body multiplies by numbers of the file.
fn is_learned(flat: &Flat<'_>, node: &Node<'_>) -> bool {
    fn within(flat: &Flat<'_>, body: &Body<'_>, depth: usize) -> bool {
        let stored = |id: Id| {
            let origin = flat.values.get(id).map(|v| &v.origin);
            matches!(origin, Some(Origin::Stored(_)))
        };
        body.nodes.iter().any(|n| {
            let inner = n.body.as_ref().filter(|_| depth < MOST_DEEP);
            let inner = inner.is_some_and(|b| within(flat, b, depth + 1));
            inner || (weighs(n) && n.op != Op::Other && n.reads().any(stored))
        })
    }
    let looped = matches!(node.op, Op::Loop | Op::Scan);
    looped && node.body.as_ref().is_some_and(|b| within(flat, b, 0))
}

fn put<'g>(flat: &mut Flat<'g>, node: &Node<'g>, out: &mut Vec<Node<'g>>, depth: usize) {
    let body = node.body.clone().filter(|_| is_learned(flat, node));
    let Some(body) = body.filter(|_| depth < MOST_DEEP) else {
        out.push(node.clone());
        return;
    };
    let input = |k: usize| node.inputs.get(k).copied().flatten();
    let scanned = usize::try_from(node.attributes.int_or("num_scan_inputs", 0)).unwrap_or(0);
    let is_loop = node.op == Op::Loop;
    let carried = match is_loop {
        true => node.inputs.len().saturating_sub(2),
        false => node.inputs.len().saturating_sub(scanned),
    };
    // Along other axes, and in the form that has lengths beside it, it stays a loop.
    let axes = node.attributes.ints("scan_input_axes").unwrap_or_default();
    if !is_loop && (node.opset < 9 || axes.iter().any(|&a| a != 0)) {
        out.push(node.clone());
        return;
    }
    let count = constant(flat, Tensor::scalar(0));
    let go = constant(flat, Tensor::int(Kind::Bool, Vec::new(), vec![1]));
    for (k, &inner) in body.inputs.iter().enumerate() {
        let (op, from) = match (is_loop, k) {
            (true, 0) => (Op::Move(Move::Identity), vec![Some(count)]),
            (true, 1) => (Op::Move(Move::Identity), vec![Some(go)]),
            (true, _) => (Op::Move(Move::Identity), vec![input(k)]),
            (false, k) if k < carried => (Op::Move(Move::Identity), vec![input(k)]),
            _ => (Op::Gather, vec![input(k), Some(count)]),
        };
        out.push(made(node, op, from, inner));
    }
    for n in &body.nodes {
        put(flat, n, out, depth + 1);
    }
    let front = constant(flat, Tensor::ints(vec![0]));
    for (k, result) in node.outputs.iter().enumerate() {
        let inner = body
            .outputs
            .get(k + usize::from(is_loop))
            .copied()
            .flatten();
        let (Some(result), Some(inner)) = (*result, inner) else {
            continue;
        };
        let (op, from) = match k < carried {
            true => (Op::Move(Move::Identity), vec![Some(inner)]),
            false => (Op::Move(Move::Unsqueeze), vec![Some(inner), Some(front)]),
        };
        out.push(made(node, op, from, result));
    }
}

fn constant(flat: &mut Flat<'_>, v: Tensor) -> Id {
    flat.values.push(Named {
        name: "",
        origin: Origin::Known(Arc::new(v)),
    });
    flat.values.len() - 1
}

fn made<'g>(like: &Node<'g>, op: Op, inputs: Vec<Option<Id>>, result: Id) -> Node<'g> {
    Node {
        op,
        node: like.node,
        attributes: match op {
            Op::Gather => Attributes(vec![("axis", &FIRST_AXIS)]),
            _ => Attributes::default(),
        },
        opset: 13,
        inputs,
        outputs: vec![Some(result)],
        body: None,
        place: like.place.clone(),
    }
}
