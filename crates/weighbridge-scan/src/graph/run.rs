//! Runs nodes of a flattened graph: on values, or on shapes alone.

use std::sync::Arc;

use weighbridge_core::model::{Dim, ValueType};

use super::flat::{Flat, Id, Node, Origin};
use super::inputs::Input;
use super::interp::value::{Data, Kind, Tensor, Value, load};
use super::interp::{Call, Halt, Meter, Op, call};

/// Most elements of a constant that is read.
const MOST_CONSTANT: usize = 1 << 19;

/// Most elements of the constants of one run, and of the values that are known with the shapes.
const MOST_CONSTANTS: usize = 1 << 20;

/// Constants with more elements are known by their shape alone where only shapes are computed.
const SHAPE_CONSTANT: usize = 1 << 12;

/// Most rounds that a loop is run.
const MOST_ROUNDS: i64 = 4096;

/// What every value is, as far as it is known.
pub(crate) type Values = Vec<Option<Value>>;

/// Puts the constants that `ids` name into `values`.
pub(crate) fn constants(
    flat: &Flat<'_>,
    ids: impl Iterator<Item = Id>,
    values: &mut Values,
) -> Result<(), Halt> {
    let mut room = MOST_CONSTANTS;
    for id in ids {
        let Some(slot) = values.get_mut(id) else {
            continue;
        };
        if slot.as_ref().is_some_and(|v| v.is_known()) {
            continue;
        }
        *slot = match flat.values.get(id).map(|v| &v.origin) {
            Some(Origin::Stored(t)) => {
                let v = load(t, MOST_CONSTANT)?;
                room = room.checked_sub(v.len()).ok_or(Halt::Budget)?;
                Some(Arc::new(v))
            }
            Some(Origin::Known(v)) => Some(v.clone()),
            _ => continue,
        };
    }
    Ok(())
}

/// What is known of a stored tensor without reading much.
fn outline(origin: &Origin<'_>) -> Option<Value> {
    match origin {
        Origin::Known(v) => Some(v.clone()),
        Origin::Stored(t) => {
            let n = t.numel().unwrap_or(u64::MAX);
            if n <= SHAPE_CONSTANT as u64
                && let Ok(v) = load(t, SHAPE_CONSTANT)
            {
                return Some(Arc::new(v));
            }
            // The kind of packed types does not matter for shapes.
            let kind = Kind::of(t.dtype).unwrap_or(Kind::U8);
            let dims = t.shape.iter().map(|&d| usize::try_from(d).ok());
            Some(Arc::new(Tensor::unknown(
                kind,
                dims.collect::<Option<_>>()?,
            )))
        }
        _ => None,
    }
}

/// Shapes of all values, and the values of small ones that follow from constants and shapes.
pub(crate) fn shapes(
    flat: &Flat<'_>,
    inputs: &[Input],
    extents: &dyn Fn(&str) -> Option<usize>,
) -> Values {
    let mut values: Values = flat.values.iter().map(|v| outline(&v.origin)).collect();
    for v in inputs {
        if let Some(slot) = values.get_mut(v.id) {
            *slot = Some(Arc::new(Tensor::unknown(v.kind, v.dims.clone())));
        }
    }
    let mut meter = Meter::new(1 << 32);
    meter.shapes = true;
    meter.room = MOST_CONSTANTS;
    shape_nodes(flat, &flat.nodes, &mut values, &mut meter, extents, 0);
    values
}

fn shape_nodes(
    flat: &Flat<'_>,
    nodes: &[Node<'_>],
    values: &mut Values,
    meter: &mut Meter,
    extents: &dyn Fn(&str) -> Option<usize>,
    depth: usize,
) {
    for node in nodes {
        let done = match (&node.body, node.op) {
            (Some(_), _) if depth < 8 => {
                shape_loop(flat, node, values, meter, extents, depth);
                continue;
            }
            (_, Op::Select) => shape_select(node, values),
            _ => shape_node(node, values, meter),
        };
        let mut done = done.unwrap_or_default().into_iter();
        for out in &node.outputs {
            let made = done.next().map(|t| small(t, meter)).map(Arc::new);
            let Some(id) = *out else { continue };
            let made = made.or_else(|| declared(flat, id, extents));
            if let Some(slot) = values.get_mut(id) {
                *slot = made;
            }
        }
    }
}

/// Drops the elements of a value that is too large to be kept for its shape.
fn small(t: Tensor, meter: &mut Meter) -> Tensor {
    let room = meter.room.checked_sub(t.len());
    match room.filter(|_| t.len() <= SHAPE_CONSTANT && t.is_known()) {
        Some(room) => {
            meter.room = room;
            t
        }
        None => Tensor::unknown(t.kind, t.dims),
    }
}

/// What the file says of a value's type.
fn declared(flat: &Flat<'_>, id: Id, extents: &dyn Fn(&str) -> Option<usize>) -> Option<Value> {
    let (kind, dims) = declared_type(&flat.types.get(&id)?.kind, extents)?;
    Some(Arc::new(Tensor::unknown(kind, dims)))
}

/// A tensor type with the extents that are given to its symbols.
pub(crate) fn declared_type(
    kind: &ValueType,
    extents: &dyn Fn(&str) -> Option<usize>,
) -> Option<(Kind, Vec<usize>)> {
    let ValueType::Tensor {
        dtype: Some(dtype),
        shape: Some(dims),
    } = kind
    else {
        return None;
    };
    let one = |d: &Dim| match d {
        Dim::Known(n) => usize::try_from(*n).ok(),
        Dim::Symbol(s) => extents(s),
        Dim::Unknown => None,
    };
    Some((
        Kind::of(*dtype)?,
        dims.iter().map(one).collect::<Option<_>>()?,
    ))
}

fn inputs_of(node: &Node<'_>, values: &Values) -> Option<Vec<Option<Value>>> {
    let one = |i: &Option<Id>| match i {
        None => Some(None),
        Some(id) => values.get(*id)?.clone().map(Some),
    };
    node.inputs.iter().map(one).collect()
}

fn shape_node(node: &Node<'_>, values: &Values, meter: &mut Meter) -> Option<Vec<Tensor>> {
    let mut inputs = inputs_of(node, values)?;
    let mut run = |inputs: &[Option<Value>]| {
        let c = Call {
            op: node.op,
            attributes: &node.attributes,
            opset: node.opset,
            inputs,
            outputs: node.outputs.len(),
        };
        call(&c, meter)
    };
    // What would give a large value is run for its shape alone.
    let known = |v: &Option<Value>| v.as_ref().is_none_or(|v| v.is_known());
    let grows = matches!(
        node.op,
        Op::Move(_) | Op::Gather | Op::OneHot | Op::Binary(_) | Op::Where | Op::MatMul | Op::Conv
    );
    if grows
        && inputs.iter().all(known)
        && let Some(Some(first)) = inputs.first_mut()
    {
        let len = first.len();
        let hidden = Arc::new(Tensor::unknown(first.kind, first.dims.clone()));
        let kept = std::mem::replace(first, hidden);
        let shape = run(&inputs).ok();
        let large = shape.iter().flatten().any(|t| t.len() > SHAPE_CONSTANT);
        if large || len > SHAPE_CONSTANT {
            return shape;
        }
        if let Some(Some(first)) = inputs.first_mut() {
            *first = kept;
        }
    }
    run(&inputs).ok()
}

fn shape_select(node: &Node<'_>, values: &Values) -> Option<Vec<Tensor>> {
    let at = |i: usize| {
        let id = node.inputs.get(i).copied().flatten()?;
        values.get(id)?.clone()
    };
    let (cond, a, b) = (at(0), at(1), at(2));
    if let Some(c) = cond.as_ref().and_then(|c| c.at(0)) {
        let side = if c != 0.0 { a } else { b };
        return side.map(|t| vec![(*t).clone()]);
    }
    let (a, b) = (a?, b?);
    (a.dims == b.dims && a.kind == b.kind).then(|| vec![Tensor::unknown(a.kind, a.dims.clone())])
}

/// One round of a loop, for the shapes that it leaves as they are.
fn shape_loop(
    flat: &Flat<'_>,
    node: &Node<'_>,
    values: &mut Values,
    meter: &mut Meter,
    extents: &dyn Fn(&str) -> Option<usize>,
    depth: usize,
) {
    let Some(body) = node.body.clone() else {
        return;
    };
    let given = |values: &Values, i: usize| -> Option<Value> {
        let id = node.inputs.get(i).copied().flatten()?;
        values.get(id)?.clone()
    };
    let hide = |v: Value| Arc::new(Tensor::unknown(v.kind, v.dims.clone()));
    let scanned = scanned(node);
    for (k, &id) in body.inputs.iter().enumerate() {
        let v = match node.op {
            Op::Loop => match k {
                0 => Some(Arc::new(Tensor::unknown(Kind::I64, Vec::new()))),
                1 => Some(Arc::new(Tensor::unknown(Kind::Bool, Vec::new()))),
                k => given(values, k).map(hide),
            },
            _ => given(values, k).map(|v| match k + scanned >= body.inputs.len() {
                true => {
                    let rest = v.dims.get(1..).unwrap_or_default().to_vec();
                    Arc::new(Tensor::unknown(v.kind, rest))
                }
                false => hide(v),
            }),
        };
        if let Some(slot) = values.get_mut(id) {
            *slot = v;
        }
    }
    shape_nodes(flat, &body.nodes, values, meter, extents, depth + 1);
    let skip = usize::from(node.op == Op::Loop);
    let carried = body
        .inputs
        .len()
        .saturating_sub(if skip == 1 { 2 } else { scanned });
    let rounds = match node.op {
        Op::Loop => given(values, 0).and_then(|v| v.at(0)).map(|n| n as usize),
        _ => node
            .inputs
            .len()
            .checked_sub(1)
            .and_then(|i| given(values, i)?.dims.first().copied()),
    };
    for (k, out) in node.outputs.iter().enumerate() {
        let Some(id) = *out else { continue };
        let inner = body.outputs.get(k + skip).copied().flatten();
        let inner = inner.and_then(|i| values.get(i)?.clone());
        let made = match (inner, k < carried) {
            (Some(v), true) => {
                let before = given(values, k + 2 * skip);
                before.filter(|b| b.dims == v.dims).map(|_| hide(v))
            }
            (Some(v), false) => rounds.map(|n| {
                let dims = [&[n], v.dims.as_slice()].concat();
                Arc::new(Tensor::unknown(v.kind, dims))
            }),
            (None, _) => None,
        };
        let made = made.or_else(|| declared(flat, id, extents));
        if let Some(slot) = values.get_mut(id) {
            *slot = made;
        }
    }
}

/// How many of a `Scan`'s operands are gone through.
fn scanned(node: &Node<'_>) -> usize {
    usize::try_from(node.attributes.int_or("num_scan_inputs", 0)).unwrap_or(0)
}

/// Runs `node` on values; its results are missing afterwards where it could not be run.
pub(crate) fn run(node: &Node<'_>, values: &mut Values, meter: &mut Meter) -> Result<(), Halt> {
    let done = compute(node, values, meter);
    let (made, halt) = match done {
        Ok(made) => (made, None),
        Err(h) => (Vec::new(), Some(h)),
    };
    let mut made = made.into_iter();
    for out in &node.outputs {
        let v = made.next();
        if let Some(slot) = out.and_then(|id| values.get_mut(id)) {
            *slot = v;
        }
    }
    halt.map_or(Ok(()), Err)
}

fn compute(node: &Node<'_>, values: &mut Values, meter: &mut Meter) -> Result<Vec<Value>, Halt> {
    match node.op {
        Op::Select => {
            let at = |i: usize| {
                let id = node.inputs.get(i).copied().flatten();
                id.and_then(|id| values.get(id)?.clone())
                    .ok_or(Halt::Unknown)
            };
            meter.spend(1)?;
            let c = at(0)?.at(0).ok_or(Halt::Unknown)?;
            return at(if c != 0.0 { 1 } else { 2 }).map(|v| vec![v]);
        }
        Op::Loop => return run_loop(node, values, meter),
        Op::Scan => return run_scan(node, values, meter),
        _ => {}
    }
    let inputs = inputs_of(node, values).ok_or(Halt::Unknown)?;
    if node.op == Op::Move(super::interp::Move::Identity) {
        meter.spend(1)?;
        let first = inputs.first().cloned().flatten();
        return first.map(|v| vec![v]).ok_or(Halt::Unknown);
    }
    let c = Call {
        op: node.op,
        attributes: &node.attributes,
        opset: node.opset,
        inputs: &inputs,
        outputs: node.outputs.len(),
    };
    let made = call(&c, meter)?;
    if made.iter().any(|t| t.data == Data::Unknown) {
        return Err(Halt::Unknown);
    }
    Ok(made.into_iter().map(Arc::new).collect())
}

fn operand(node: &Node<'_>, values: &Values, i: usize) -> Option<Value> {
    let id = node.inputs.get(i).copied().flatten()?;
    values.get(id)?.clone()
}

/// Values that rounds of a loop give one after the other, as one value.
fn stacked(all: &[Value], like: Option<&Value>) -> Result<Value, Halt> {
    let Some(first) = all.first().or(like) else {
        return Err(Halt::Unknown);
    };
    let mut dims = vec![all.len()];
    dims.extend(&first.dims);
    let mut out = first.picked(Vec::new(), &[]);
    for v in all {
        if v.dims != first.dims {
            return Err(Halt::Wrong("rounds of several shapes"));
        }
        match (&mut out.data, &v.data) {
            (Data::Float(o), Data::Float(v)) => o.extend(v),
            (Data::Int(o), Data::Int(v)) => o.extend(v),
            (Data::Text(o), Data::Text(v)) => o.extend(v.iter().cloned()),
            _ => return Err(Halt::Unknown),
        }
    }
    out.dims = dims;
    Ok(Arc::new(out))
}

/// Runs the body of `node` once on `given`.
fn round(
    node: &Node<'_>,
    given: Vec<Value>,
    values: &mut Values,
    meter: &mut Meter,
) -> Result<Vec<Value>, Halt> {
    let body = node.body.clone().ok_or(Halt::Unsupported)?;
    for (&id, v) in body.inputs.iter().zip(given) {
        if let Some(slot) = values.get_mut(id) {
            *slot = Some(v);
        }
    }
    let mut halt = Halt::Unknown;
    for n in &body.nodes {
        match run(n, values, meter) {
            Err(Halt::Budget) => return Err(Halt::Budget),
            Err(h) if h != Halt::Unknown => halt = h,
            _ => {}
        }
    }
    let out = body.outputs.iter().map(|id| {
        let v = id.and_then(|id| values.get(id)?.clone());
        v.ok_or(halt)
    });
    out.collect()
}

fn run_loop(node: &Node<'_>, values: &mut Values, meter: &mut Meter) -> Result<Vec<Value>, Halt> {
    let most = match operand(node, values, 0) {
        Some(v) => v.one()?,
        None if node.inputs.first().copied().flatten().is_some() => return Err(Halt::Unknown),
        None => i64::MAX,
    };
    let mut go = match operand(node, values, 1) {
        Some(v) => v.one()? != 0,
        None => true,
    };
    let carried = node.inputs.len().saturating_sub(2);
    let state = (0..carried).map(|i| operand(node, values, i + 2).ok_or(Halt::Unknown));
    let mut state = state.collect::<Result<Vec<_>, _>>()?;
    let mut rows: Vec<Vec<Value>> = vec![Vec::new(); node.outputs.len().saturating_sub(carried)];
    let mut i = 0i64;
    while go && i < most {
        if i >= MOST_ROUNDS {
            return Err(Halt::Budget);
        }
        let flag = Arc::new(Tensor::int(Kind::Bool, Vec::new(), vec![i64::from(go)]));
        let mut given = vec![Arc::new(Tensor::scalar(i)), flag];
        given.append(&mut state);
        let mut made = round(node, given, values, meter)?.into_iter();
        go = made.next().ok_or(Halt::Unknown)?.one()? != 0;
        state.extend(made.by_ref().take(carried));
        for (row, v) in rows.iter_mut().zip(made) {
            row.push(v);
        }
        i += 1;
    }
    for row in rows {
        state.push(stacked(&row, None)?);
    }
    Ok(state)
}

fn run_scan(node: &Node<'_>, values: &mut Values, meter: &mut Meter) -> Result<Vec<Value>, Halt> {
    let scanned = scanned(node);
    let total = node.inputs.len();
    let plain = |name: &str| {
        let all = node.attributes.ints(name).unwrap_or_default();
        all.iter().all(|&n| n == 0)
    };
    if node.opset < 9 || !plain("scan_input_axes") || !plain("scan_output_axes") {
        return Err(Halt::Unsupported);
    }
    let all = (0..total).map(|i| operand(node, values, i).ok_or(Halt::Unknown));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let carried = total
        .checked_sub(scanned)
        .ok_or(Halt::Wrong("no operands to go through"))?;
    let (state, through) = all.split_at(carried);
    let mut state = state.to_vec();
    let rounds = through.first().and_then(|v| v.dims.first().copied());
    let rounds = rounds.ok_or(Halt::Wrong("no operands to go through"))?;
    let directions = node
        .attributes
        .ints("scan_input_directions")
        .unwrap_or_default();
    let outwards = node
        .attributes
        .ints("scan_output_directions")
        .unwrap_or_default();
    let mut rows: Vec<Vec<Value>> = vec![Vec::new(); node.outputs.len().saturating_sub(carried)];
    if rounds as i64 > MOST_ROUNDS {
        return Err(Halt::Budget);
    }
    for i in 0..rounds {
        let mut given = std::mem::take(&mut state);
        for (k, v) in through.iter().enumerate() {
            let at = if directions.get(k) == Some(&1) {
                rounds - 1 - i
            } else {
                i
            };
            let dims = v.dims.get(1..).unwrap_or_default().to_vec();
            let each = v.len().checked_div(rounds).unwrap_or(0);
            let order: Vec<usize> = (at * each..(at + 1) * each).collect();
            meter.spend(each)?;
            given.push(Arc::new(v.picked(dims, &order)));
        }
        let mut made = round(node, given, values, meter)?.into_iter();
        state.extend(made.by_ref().take(carried));
        for (row, v) in rows.iter_mut().zip(made) {
            row.push(v);
        }
    }
    for (k, mut row) in rows.into_iter().enumerate() {
        if outwards.get(k) == Some(&1) {
            row.reverse();
        }
        state.push(stacked(&row, None)?);
    }
    Ok(state)
}
