//! The part of a graph that some values depend on, made ready to be run many times.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weighbridge_core::model::AttributeValue;

use super::facts::Facts;
use super::flat::{Flat, Id, Node};
use super::inputs::Input;
use super::interp::value::{Kind, Tensor, Value};
use super::interp::{Attributes, Binary, Halt, Meter, Move, Op, ROOM};
use super::run::{self, Values};

/// Most nodes after loops are written out.
const MOST_NODES: usize = 20_000;

/// Most rounds of a loop that are written out.
const MOST_ROUNDS: usize = 300;

/// A part of a graph.
#[derive(Debug)]
pub(crate) struct Cone<'g> {
    /// What has to be run for each input, in order.
    pub(crate) nodes: Vec<Node<'g>>,
    /// Constants, and afterwards the values of the last run.
    pub(crate) values: Values,
    /// The inputs it depends on, as positions in the list of inputs.
    pub(crate) inputs: Vec<usize>,
    /// Values that depend on inputs.
    pub(crate) moving: HashSet<Id>,
    /// What one run costs.
    pub(crate) cost: u64,
}

/// Everything that `nodes` read, in their bodies too.
fn all_reads(nodes: &[Node<'_>], out: &mut Vec<Id>) {
    for n in nodes {
        out.extend(n.reads());
        if let Some(b) = &n.body {
            out.extend(b.outputs.iter().flatten());
            all_reads(&b.nodes, out);
        }
    }
}

impl<'g> Cone<'g> {
    /// The cone behind `targets`. Runs what does not depend on inputs.
    pub(crate) fn behind(
        flat: &Flat<'g>,
        facts: &Facts,
        inputs: &[Input],
        shapes: &Values,
        targets: &[Id],
        meter: &mut Meter,
    ) -> Result<Self, Halt> {
        meter.spend(flat.nodes.len().saturating_mul(4))?;
        meter.room = ROOM;
        let mut needed: HashSet<Id> = targets.iter().copied().collect();
        let mut nodes: Vec<&Node<'g>> = Vec::new();
        // What is known already where only shapes are needs no nodes behind it.
        let fixed = |id: Id| {
            shapes
                .get(id)
                .and_then(|v| v.clone())
                .filter(|v| v.is_known())
        };
        for node in flat.nodes.iter().rev() {
            let wanted = node
                .makes()
                .any(|id| needed.contains(&id) && fixed(id).is_none());
            if wanted {
                needed.extend(node.reads());
                nodes.push(node);
            }
        }
        nodes.reverse();
        let mut values: Values = vec![None; flat.values.len()];
        for &id in &needed {
            if let Some(v) = fixed(id)
                && let Some(slot) = values.get_mut(id)
            {
                *slot = Some(v);
            }
        }
        let own: Vec<Node<'g>> = nodes.into_iter().cloned().collect();
        let mut reads = Vec::new();
        all_reads(&own, &mut reads);
        run::constants(flat, reads.iter().copied(), &mut values)?;
        let used = |(i, v): (usize, &Input)| needed.contains(&v.id).then_some(i);
        let mut cone = Self {
            nodes: Vec::new(),
            inputs: inputs.iter().enumerate().filter_map(used).collect(),
            moving: HashSet::new(),
            values,
            cost: 0,
        };
        cone.moving.extend(
            cone.inputs
                .iter()
                .filter_map(|&i| inputs.get(i))
                .map(|v| v.id),
        );
        for node in own {
            let moves = node.makes().any(|id| facts.is_data(id))
                && node.reads().any(|id| cone.moving.contains(&id));
            if moves {
                cone.moving.extend(node.makes());
                cone.nodes.push(node);
                continue;
            }
            // A node that only shapes feed fails where a branch is not taken.
            match run::run(&node, &mut cone.values, meter) {
                Err(Halt::Budget) => return Err(Halt::Budget),
                Err(Halt::Unsupported) => return Err(Halt::Unsupported),
                _ => {}
            }
        }
        Ok(cone)
    }

    /// Runs it on `given`, one value for every input of the model.
    pub(crate) fn run(
        &mut self,
        inputs: &[Input],
        given: &[Value],
        meter: &mut Meter,
    ) -> Result<(), Halt> {
        for &i in &self.inputs {
            if let (Some(input), Some(v)) = (inputs.get(i), given.get(i))
                && let Some(slot) = self.values.get_mut(input.id)
            {
                *slot = Some(v.clone());
            }
        }
        let before = meter.left;
        meter.room = ROOM;
        let mut halt = None;
        for node in &self.nodes {
            match run::run(node, &mut self.values, meter) {
                Err(Halt::Budget) => return Err(Halt::Budget),
                Err(Halt::Unknown) | Ok(()) => {}
                Err(h) => halt = Some(h),
            }
        }
        self.cost = before.saturating_sub(meter.left);
        // The target may be there although a branch that is not taken could not be run.
        halt.map_or(Ok(()), Err)
    }

    /// The same, with the values in `held` kept as they are given.
    pub(crate) fn run_holding(
        &mut self,
        inputs: &[Input],
        given: &[Value],
        held: &[(Id, Value)],
        meter: &mut Meter,
    ) -> Result<(), Halt> {
        let all = std::mem::take(&mut self.nodes);
        let kept = |n: &&Node<'g>| !n.makes().any(|o| held.iter().any(|h| h.0 == o));
        self.nodes = all.iter().filter(kept).cloned().collect();
        for (id, v) in held {
            if let Some(slot) = self.values.get_mut(*id) {
                *slot = Some(v.clone());
            }
        }
        let done = self.run(inputs, given, meter);
        self.nodes = all;
        done
    }

    /// Whether the last run came upon what is no number.
    pub(crate) fn is_undefined(&self) -> bool {
        let made = self.nodes.iter().flat_map(Node::makes);
        let mut made = made.filter_map(|id| self.values.get(id)?.as_ref());
        made.any(|v| v.is_undefined())
    }

    pub(crate) fn value(&self, id: Id) -> Option<Value> {
        self.values.get(id)?.clone()
    }

    /// Writes loops out round by round, as often as the last run had them run; those that cannot
    /// be stay as they are.
    pub(crate) fn unroll(&mut self, flat: &Flat<'g>) {
        if !self.nodes.iter().any(|n| n.body.is_some()) {
            return;
        }
        let nodes = std::mem::take(&mut self.nodes);
        let mut u = Unroller {
            out: Vec::new(),
            flat,
            cone: self,
        };
        for node in nodes {
            u.node(node, 0);
        }
        let out = u.out;
        self.nodes = out;
    }
}

static AXIS: AttributeValue = AttributeValue::Int(0);

struct Unroller<'u, 'g> {
    out: Vec<Node<'g>>,
    flat: &'u Flat<'g>,
    cone: &'u mut Cone<'g>,
}

impl<'g> Unroller<'_, 'g> {
    fn node(&mut self, node: Node<'g>, depth: usize) {
        let written = match (&node.body, node.op) {
            (Some(_), Op::Loop) if depth < 4 => self.unrolled(&node, depth, true),
            (Some(_), Op::Scan) if depth < 4 => self.unrolled(&node, depth, false),
            _ => None,
        };
        if written.is_none() {
            self.cone.moving.extend(node.makes());
            self.out.push(node);
        }
    }

    fn fresh(&mut self, value: Option<Value>) -> Id {
        self.cone.values.push(value);
        self.cone.values.len() - 1
    }

    fn made(&mut self, like: &Node<'g>, op: Op, inputs: Vec<Option<Id>>) -> Id {
        let id = self.fresh(None);
        let attributes = match op {
            Op::Gather | Op::Move(Move::Concat) => Attributes(vec![("axis", &AXIS)]),
            _ => Attributes::default(),
        };
        self.cone.moving.insert(id);
        self.out.push(Node {
            op,
            node: like.node,
            attributes,
            opset: 13,
            inputs,
            outputs: vec![Some(id)],
            body: None,
            place: like.place.clone(),
        });
        id
    }

    /// One body after the other; `None`, with nothing written, where that cannot be done.
    fn unrolled(&mut self, node: &Node<'g>, depth: usize, is_loop: bool) -> Option<()> {
        let body = node.body.clone()?;
        let known = |s: &Self, k: usize| -> Option<Value> {
            let id = node.inputs.get(k).copied().flatten()?;
            s.cone.value(id)
        };
        let scanned = usize::try_from(node.attributes.int_or("num_scan_inputs", 0)).ok()?;
        let plain = [
            "scan_input_axes",
            "scan_output_axes",
            "scan_input_directions",
            "scan_output_directions",
        ];
        let odd = |n: &str| {
            node.attributes
                .ints(n)
                .is_some_and(|v| v.iter().any(|&n| n != 0))
        };
        if !is_loop && (node.opset < 9 || plain.into_iter().any(odd)) {
            return None;
        }
        let first = if is_loop { 2 } else { 0 };
        let carried = match is_loop {
            true => node.inputs.len().checked_sub(2)?,
            false => node.inputs.len().checked_sub(scanned)?,
        };
        let rounds = match is_loop {
            true => known(self, 0)?.one().ok()?,
            false => known(self, carried)?.dims.first().copied()? as i64,
        };
        let rounds = usize::try_from(rounds).ok()?;
        let counted = node.inputs.first().copied().flatten();
        let free = is_loop && counted.is_some_and(|id| self.cone.moving.contains(&id));
        let size = body.nodes.len().saturating_add(4).saturating_mul(rounds);
        if free || rounds > MOST_ROUNDS || self.out.len().saturating_add(size) > MOST_NODES {
            return None;
        }
        // Whether rounds may stop early, which rows of results would show.
        let condition = body.outputs.first().copied().flatten()?;
        let stops = is_loop && !passes(&body.nodes, condition, &body.inputs);
        let rows = node.outputs.len().saturating_sub(carried);
        if stops && rows > 0 {
            return None;
        }
        let mut state: Vec<Id> = Vec::new();
        for k in 0..carried {
            state.push(node.inputs.get(first + k).copied().flatten()?);
        }
        let flag = |n: i64| Arc::new(Tensor::int(Kind::Bool, Vec::new(), vec![n]));
        let mut go = match is_loop {
            true => match node.inputs.get(1).copied().flatten() {
                Some(id) => id,
                None => self.fresh(Some(flag(1))),
            },
            false => 0,
        };
        let mut stacks: Vec<Vec<Id>> = vec![Vec::new(); rows];
        for i in 0..rounds {
            let count = self.fresh(Some(Arc::new(Tensor::scalar(i as i64))));
            let mut names: HashMap<Id, Id> = HashMap::new();
            let mut given = Vec::new();
            if is_loop {
                given.extend([count, go]);
            }
            given.extend(&state);
            for k in 0..if is_loop { 0 } else { scanned } {
                let id = node.inputs.get(carried + k).copied().flatten()?;
                let part = self.made(node, Op::Gather, vec![Some(id), Some(count)]);
                given.push(part);
            }
            for (&inner, outer) in body.inputs.iter().zip(given) {
                names.insert(inner, outer);
            }
            self.round(&body.nodes, &mut names, depth);
            let of = |id: Option<Id>| id.map(|id| names.get(&id).copied().unwrap_or(id));
            let mut outs = body.outputs.iter().map(|&o| of(o));
            let next = if is_loop { outs.next()?? } else { 0 };
            let fresh: Vec<Id> = outs.by_ref().take(carried).collect::<Option<_>>()?;
            let rest: Vec<Id> = outs.collect::<Option<_>>()?;
            if stops {
                let mut kept = Vec::new();
                for (&new, &old) in fresh.iter().zip(&state) {
                    kept.push(self.made(node, Op::Select, vec![Some(go), Some(new), Some(old)]));
                }
                state = kept;
                go = self.made(node, Op::Binary(Binary::And), vec![Some(go), Some(next)]);
            } else {
                state = fresh;
            }
            for (s, id) in stacks.iter_mut().zip(rest) {
                s.push(id);
            }
        }
        self.results(node, carried, &state, stacks);
        Some(())
    }

    /// Gives the results of a loop their own numbers.
    fn results(&mut self, node: &Node<'g>, carried: usize, state: &[Id], stacks: Vec<Vec<Id>>) {
        let axes = self.fresh(Some(Arc::new(Tensor::ints(vec![0]))));
        let mut all: Vec<Option<Id>> = state.iter().copied().map(Some).collect();
        for s in stacks {
            let mut parts = Vec::new();
            for id in s {
                let inputs = vec![Some(id), Some(axes)];
                parts.push(Some(self.made(node, Op::Move(Move::Unsqueeze), inputs)));
            }
            let whole = match parts.is_empty() {
                true => None,
                false => Some(self.made(node, Op::Move(Move::Concat), parts)),
            };
            all.push(whole);
        }
        debug_assert!(carried <= all.len());
        for (out, from) in node.outputs.iter().zip(all) {
            let (Some(out), Some(from)) = (*out, from) else {
                continue;
            };
            self.cone.moving.insert(out);
            self.out.push(Node {
                op: Op::Move(Move::Identity),
                node: node.node,
                attributes: Attributes::default(),
                opset: 13,
                inputs: vec![Some(from)],
                outputs: vec![Some(out)],
                body: None,
                place: node.place.clone(),
            });
        }
    }

    /// Writes one round out, its values under numbers of their own.
    fn round(&mut self, nodes: &[Node<'g>], names: &mut HashMap<Id, Id>, depth: usize) {
        for n in nodes {
            let of = |id: &Option<Id>| id.map(|id| names.get(&id).copied().unwrap_or(id));
            let inputs: Vec<Option<Id>> = n.inputs.iter().map(of).collect();
            let mut copy = n.clone();
            copy.inputs = inputs;
            if let Some(b) = &n.body {
                // What an inner loop captures of this round is known under its new number.
                let taken = b.captures.iter().any(|c| names.contains_key(c));
                if taken {
                    copy.body = None;
                    copy.op = Op::Other;
                }
            }
            for o in copy.outputs.iter_mut().flatten() {
                let id = self.fresh(None);
                names.insert(*o, id);
                *o = id;
            }
            debug_assert!(self.flat.values.len() <= self.cone.values.len());
            self.node(copy, depth + 1);
        }
    }
}

/// Whether `id` is the condition that a loop's body was given, or a constant.
fn passes(nodes: &[Node<'_>], id: Id, inputs: &[Id]) -> bool {
    let mut id = id;
    // What the names say may lead in a circle.
    for _ in 0..=nodes.len() {
        if inputs.get(1) == Some(&id) {
            return true;
        }
        match nodes.iter().find(|n| n.makes().any(|o| o == id)) {
            // It comes from outside: a constant.
            None => return true,
            Some(n) if matches!(n.op, Op::Move(Move::Identity) | Op::Cast) => {
                match n.inputs.first().copied().flatten() {
                    Some(from) => id = from,
                    None => return false,
                }
            }
            Some(_) => return false,
        }
    }
    false
}
