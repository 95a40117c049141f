//! Looks for inputs under which a value of a cone becomes what it never is.
//!
//! What is wanted of a value is handed from the end of the cone to its inputs: each operator says
//! what it would take of its operands, with the other operands as they are. Then the cone is run
//! again, and what is still wanted is handed back again. Where there are several ways, a seed
//! decides, so that one attempt keeps to its way and another tries a different one.

mod elements;
mod linear;
mod many;
mod table;
mod through;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cone::Cone;
use super::flat::{Id, Node};
use super::inputs::{Dice, Input, Role};
use super::interp::value::{Data, Kind, Tensor, Value, strides};
use super::interp::{Call, Halt, Meter, Move, Op, ROOM, axis, call};

/// How often what is wanted is handed back in one attempt.
const PASSES: usize = 40;

/// How many passes in a row may change nothing.
const STALE: usize = 6;

/// Most places of elements that are kept from one pass to the next.
const MOST_KEPT: usize = 1 << 20;

/// Most elements of one value of which something is wanted.
const MOST_WANTS: usize = 4096;

/// What is wanted of an element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Want {
    /// A number from here to there.
    Range(f64, f64),
    /// A text.
    Text(Arc<[u8]>),
}

impl Want {
    pub(crate) fn exactly(x: f64) -> Self {
        Self::Range(x, x)
    }

    fn range(&self) -> Option<(f64, f64)> {
        match self {
            Self::Range(a, b) => Some((*a, *b)),
            Self::Text(_) => None,
        }
    }

    /// Whether element `i` of `v` is as wanted.
    fn met(&self, v: &Tensor, i: usize) -> bool {
        match (self, &v.data) {
            (Self::Text(t), Data::Text(all)) => all.get(i) == Some(t),
            (Self::Range(a, b), _) => v.at(i).is_some_and(|x| *a <= x && x <= *b),
            _ => false,
        }
    }
}

type Wants = BTreeMap<usize, Want>;

/// What is wanted of every value.
#[derive(Debug, Default)]
struct Goals(HashMap<Id, Wants>);

impl Goals {
    fn add(&mut self, id: Id, at: usize, want: Want) {
        let wants = self.0.entry(id).or_default();
        let joined = match (wants.get(&at), &want) {
            (Some(Want::Range(a, b)), Want::Range(c, d)) if a.max(*c) <= b.min(*d) => {
                Want::Range(a.max(*c), b.min(*d))
            }
            _ => want,
        };
        if wants.len() < MOST_WANTS {
            wants.insert(at, joined);
        }
    }
}

/// A search for inputs.
pub(crate) struct Solver<'s, 'g> {
    pub(crate) cone: &'s mut Cone<'g>,
    pub(crate) inputs: &'s [Input],
    pub(crate) meter: &'s mut Meter,
    /// Where each element of a moved value comes from, by node.
    moved: HashMap<usize, Arc<Vec<Vec<i64>>>>,
    /// How many places those are.
    kept: usize,
    seed: u64,
    /// How often what is wanted was handed back in this attempt.
    turn: usize,
    /// The node that makes each value.
    makers: HashMap<Id, usize>,
}

impl<'s, 'g> Solver<'s, 'g> {
    pub(crate) fn new(cone: &'s mut Cone<'g>, inputs: &'s [Input], meter: &'s mut Meter) -> Self {
        Self {
            cone,
            inputs,
            meter,
            moved: HashMap::new(),
            kept: 0,
            seed: 0,
            turn: 0,
            makers: HashMap::new(),
        }
    }

    fn maker(&self, id: Id) -> Option<usize> {
        self.makers.get(&id).copied()
    }

    /// Tries to get from `start` to inputs of which `reached` says yes; the values of the last
    /// run are those of the answer. `way` chooses among the ways there may be.
    pub(crate) fn attempt(
        &mut self,
        wants: &[(Id, usize, Want)],
        start: Vec<Value>,
        way: u64,
        reached: &dyn Fn(&Cone<'g>) -> bool,
    ) -> Result<Option<Vec<Value>>, Halt> {
        self.seed = way.wrapping_mul(0x9e37_79b9);
        let made = |(at, n): (usize, &Node<'g>)| n.makes().map(|id| (id, at)).collect::<Vec<_>>();
        self.makers = self.cone.nodes.iter().enumerate().flat_map(made).collect();
        let mut given = start;
        let _ = self.run(&given)?;
        let mut stale = 0;
        for turn in 0..PASSES {
            self.turn = turn;
            if reached(self.cone) {
                return Ok(Some(given));
            }
            let mut goals = Goals::default();
            for (id, at, w) in wants {
                goals.add(*id, *at, w.clone());
            }
            self.meter.room = ROOM;
            let next = self.pass(goals, &given)?;
            if next.iter().zip(&given).all(|(a, b)| a.same(b)) {
                stale += 1;
                if stale > STALE {
                    return Ok(None);
                }
                continue;
            }
            stale = 0;
            given = next;
            let _ = self.run(&given)?;
        }
        Ok(reached(self.cone).then_some(given))
    }

    /// Runs the cone; only a spent budget is an error.
    pub(crate) fn run(&mut self, given: &[Value]) -> Result<bool, Halt> {
        self.meter.room = ROOM;
        // Inputs are copied and compared for every run.
        let copied = self
            .cone
            .inputs
            .iter()
            .filter_map(|&i| given.get(i))
            .map(|v| v.len());
        self.meter.spend(copied.sum())?;
        match self.cone.run(self.inputs, given, self.meter) {
            Err(Halt::Budget) => Err(Halt::Budget),
            Err(_) => Ok(false),
            Ok(()) => Ok(true),
        }
    }

    /// Hands what is wanted back to the inputs, and gives them as they should be.
    fn pass(&mut self, mut goals: Goals, given: &[Value]) -> Result<Vec<Value>, Halt> {
        self.meter.spend(self.cone.nodes.len())?;
        for at in (0..self.cone.nodes.len()).rev() {
            let outputs = self.cone.nodes.get(at).map(|n| n.outputs.as_slice());
            let wanted = |id: &Option<Id>| id.is_some_and(|id| goals.0.contains_key(&id));
            if !outputs.unwrap_or_default().iter().any(wanted) {
                continue;
            }
            let Some(node) = self.cone.nodes.get(at).cloned() else {
                continue;
            };
            for (k, out) in node.outputs.iter().enumerate() {
                let wants = out.and_then(|id| goals.0.remove(&id));
                let (Some(wants), Some(id)) = (wants, *out) else {
                    continue;
                };
                let Some(now) = self.cone.value(id) else {
                    continue;
                };
                if self.meter.spend(wants.len()).is_err() {
                    break;
                }
                let open = wants.into_iter().filter(|(i, w)| !w.met(&now, *i));
                let open: Wants = open.collect();
                if !open.is_empty() {
                    self.hand(at, &node, k, &open, &mut goals);
                }
            }
        }
        let mut next = given.to_vec();
        for (input, slot) in self.inputs.iter().zip(&mut next) {
            if let Some(wants) = goals.0.remove(&input.id) {
                *slot = Arc::new(changed(input, slot, &wants));
            }
        }
        Ok(next)
    }

    /// A number that is the same for a node throughout an attempt.
    fn choice(&self, at: usize, of: usize) -> usize {
        let mut dice = Dice::new(self.seed ^ (at as u64).wrapping_mul(0x517c_c1b7_2722_0a95));
        dice.next();
        dice.below(of)
    }

    /// A number that is another one each time something is handed back.
    fn turned(&self, at: usize, of: usize) -> usize {
        let turn = (self.turn as u64).wrapping_mul(0x2545_f491_4f6c_dd1d) as usize;
        self.choice(at ^ turn, of)
    }

    fn moves(&self, id: Option<Id>) -> Option<Id> {
        id.filter(|id| self.cone.moving.contains(id))
    }

    /// The operand `k`, where it depends on inputs.
    fn operand(&self, node: &Node<'g>, k: usize) -> Option<(Id, Value)> {
        let id = self.moves(node.inputs.get(k).copied().flatten())?;
        Some((id, self.cone.value(id)?))
    }

    /// The operand `k`, whatever it depends on.
    fn value(&self, node: &Node<'g>, k: usize) -> Option<Value> {
        self.cone.value(node.inputs.get(k).copied().flatten()?)
    }

    fn given(&self, node: &Node<'g>) -> Vec<Option<Value>> {
        let all = 0..node.inputs.len();
        all.map(|k| self.value(node, k)).collect()
    }

    fn call(&mut self, node: &Node<'g>, inputs: &[Option<Value>]) -> Result<Vec<Tensor>, Halt> {
        let c = Call {
            op: node.op,
            attributes: &node.attributes,
            opset: node.opset,
            inputs,
            outputs: node.outputs.len(),
        };
        self.meter.room = ROOM;
        call(&c, self.meter)
    }

    /// Hands what is wanted of result `k` of a node to its operands.
    fn hand(&mut self, at: usize, node: &Node<'g>, k: usize, wants: &Wants, goals: &mut Goals) {
        match node.op {
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Fold(_)
            | Op::Clip
            | Op::Cast
            | Op::Quantize
            | Op::Dequantize => self.elements(at, node, wants, goals),
            Op::Where | Op::Select => self.selected(at, node, wants, goals),
            Op::Gather if self.moves(node.inputs.get(1).copied().flatten()).is_some() => {
                self.looked_up(at, node, wants, goals);
            }
            Op::Move(_)
            | Op::Gather
            | Op::GatherElements
            | Op::GatherNd
            | Op::Compress
            | Op::ScatterElements
            | Op::ScatterNd => self.moved(at, node, k, wants, goals),
            Op::TopK => self.ranked(node, k, wants, goals),
            Op::Reduce(_) | Op::MaxPool | Op::GlobalMaxPool => {
                self.reduced(at, node, wants, goals);
            }
            Op::MatMul
            | Op::Gemm
            | Op::Conv
            | Op::AveragePool
            | Op::GlobalAveragePool
            | Op::CumSum => self.weighed(at, node, wants, goals),
            Op::LayerNorm => self.normalised(node, wants, goals),
            Op::ArgMax | Op::ArgMin => self.chosen(node, wants, goals),
            Op::OneHot => self.one_hot(node, wants, goals),
            Op::Softmax | Op::LogSoftmax | Op::Hardmax => self.soft(node, wants, goals),
            _ => {}
        }
    }

    /// Elements that are moved keep what is wanted of them.
    fn moved(&mut self, at: usize, node: &Node<'g>, k: usize, wants: &Wants, goals: &mut Goals) {
        let operands: Vec<usize> = match node.op {
            Op::Move(Move::Concat) => (0..node.inputs.len()).collect(),
            Op::ScatterElements | Op::ScatterNd => vec![0, 2],
            _ => vec![0],
        };
        let fixed = node
            .inputs
            .iter()
            .enumerate()
            .all(|(i, id)| operands.contains(&i) || self.moves(*id).is_none());
        let known = if fixed {
            self.moved.get(&at).cloned()
        } else {
            None
        };
        let map = match known {
            Some(m) => m,
            None => {
                let Some(m) = self.places(node, &operands) else {
                    return;
                };
                let m = Arc::new(m);
                let size: usize = m.iter().map(Vec::len).sum();
                if fixed && self.kept.saturating_add(size) <= MOST_KEPT {
                    self.kept += size;
                    self.moved.insert(at, m.clone());
                }
                m
            }
        };
        let Some(map) = map.get(k) else { return };
        let mut starts = Vec::new();
        let mut start = 1i64;
        for &o in &operands {
            let len = self.value(node, o).map_or(0, |v| v.len());
            starts.push((start, o));
            start = start.saturating_add(len as i64);
        }
        for (i, w) in wants {
            let Some(&place) = map.get(*i) else { continue };
            let from = starts.iter().rev().find(|(s, _)| *s <= place && place > 0);
            let Some(&(s, o)) = from else { continue };
            if let Some(id) = self.moves(node.inputs.get(o).copied().flatten()) {
                goals.add(id, (place - s) as usize, w.clone());
            }
        }
    }

    /// Runs a node on the places of elements in place of elements; they count from 1 on.
    fn places(&mut self, node: &Node<'g>, operands: &[usize]) -> Option<Vec<Vec<i64>>> {
        let mut inputs = self.given(node);
        let mut start = 1i64;
        for &o in operands {
            let slot = inputs.get_mut(o)?;
            let v = slot.as_ref()?;
            let n = v.len() as i64;
            let places = (start..start.saturating_add(n)).collect();
            *slot = Some(Arc::new(Tensor::int(Kind::I64, v.dims.clone(), places)));
            start = start.saturating_add(n);
        }
        if node.op == Op::Move(Move::Pad)
            && let Some(slot) = inputs.get_mut(2)
        {
            *slot = Some(Arc::new(Tensor::scalar(0)));
        }
        let made = self.call(node, &inputs).ok()?;
        made.iter().map(|t| t.to_ints().ok()).collect()
    }

    /// The greatest elements along an axis, and where they are.
    fn ranked(&mut self, node: &Node<'g>, k: usize, wants: &Wants, goals: &mut Goals) {
        let Some((id, x)) = self.operand(node, 0) else {
            return;
        };
        let inputs = self.given(node);
        let Ok(made) = self.call(node, &inputs) else {
            return;
        };
        let (Some(ids), Ok(at)) = (
            made.get(1).and_then(|t| t.to_ints().ok()),
            axis(node.attributes.int_or("axis", -1), x.dims.len()),
        ) else {
            return;
        };
        let extent = x.dims.get(at).copied().unwrap_or(1).max(1);
        let run = strides(&x.dims).get(at).copied().unwrap_or(1).max(1);
        let kept = made
            .first()
            .and_then(|t| t.dims.get(at).copied())
            .unwrap_or(1)
            .max(1);
        let place = |slot: usize, i: usize| (slot / run / kept * extent + i) * run + slot % run;
        let most = x
            .to_floats()
            .unwrap_or_default()
            .into_iter()
            .fold(0f64, f64::max);
        for (&slot, w) in wants {
            match (k, w.range()) {
                (0, _) => {
                    if let Some(&from) = ids.get(slot) {
                        goals.add(id, place(slot, from as usize), w.clone());
                    }
                }
                (_, Some((low, _))) if low >= 0.0 && low < extent as f64 => {
                    // Above all, in the order that is asked for.
                    let rank = slot / run % kept;
                    let x = most + 1.0 + (kept - rank) as f64 * 0.01;
                    goals.add(id, place(slot, low.ceil() as usize), Want::exactly(x));
                }
                _ => {}
            }
        }
    }
}

/// `old` with what is wanted put in, as far as the input can hold it.
fn changed(input: &Input, old: &Value, wants: &Wants) -> Tensor {
    let mut out = (**old).clone();
    for (&i, w) in wants {
        match (w, &mut out.data) {
            (Want::Text(t), Data::Text(all)) => {
                all.get_mut(i).into_iter().for_each(|s| *s = t.clone());
            }
            (Want::Range(a, b), Data::Int(all)) => {
                let (low, high) = match input.role {
                    Role::Tokens(n) => (0, n.saturating_sub(1)),
                    Role::Mask => (0, 1),
                    _ => input.kind.bounds(),
                };
                if let Some(n) = all.get_mut(i) {
                    *n = near(*a, *b, *n as f64).round() as i64;
                    *n = (*n).clamp(low, high.max(low));
                }
            }
            (Want::Range(a, b), Data::Float(all)) => {
                if let Some(x) = all.get_mut(i) {
                    *x = input.kind.round(near(*a, *b, *x));
                }
            }
            _ => {}
        }
    }
    out
}

/// A number from `low` to `high`, near `now`.
fn near(low: f64, high: f64, now: f64) -> f64 {
    match (low.is_finite(), high.is_finite()) {
        _ if low.is_nan() || high.is_nan() => now,
        _ if low <= now && now <= high => now,
        (true, false) => low,
        (false, true) => high,
        (true, true) => low + (high - low) / 2.0,
        (false, false) => now,
    }
}
