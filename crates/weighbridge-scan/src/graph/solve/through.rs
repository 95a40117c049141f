//! Sums of weighted elements, followed to where their elements come from.
//!
//! What is centred, divided by its length or multiplied by a pattern before it is summed up moves
//! as a whole: the weights are carried over to the value behind, with means, lengths and all else
//! that is small taken as it is.

use std::collections::BTreeMap;

use super::{Goals, Solver, Want, Wants, near};
use crate::graph::flat::{Id, Node};
use crate::graph::interp::value::Value;
use crate::graph::interp::{Binary, Move, Op, Reduce, Taps, Unary, axis, stretch};

/// How many operators are gone through.
const MOST_BACK: usize = 16;

/// Most weights of sums of sums.
const MOST_SUMS: usize = 1 << 16;

impl<'g> Solver<'_, 'g> {
    /// The value furthest back of which `taps` of `id` is a weighted sum too, and the weights.
    pub(super) fn through(&mut self, id: Id, taps: Taps) -> (Id, Taps) {
        let (mut id, mut taps) = (id, merged(&taps, |j| Some((j, 1.0))));
        for _ in 0..MOST_BACK {
            if self.meter.spend(taps.len()).is_err() {
                break;
            }
            match self.back(id, &taps) {
                Some(next) => (id, taps) = next,
                None => break,
            }
        }
        (id, taps)
    }

    fn back(&mut self, id: Id, taps: &Taps) -> Option<(Id, Taps)> {
        let at = self.maker(id)?;
        let node = self.cone.nodes.get(at)?.clone();
        match node.op {
            Op::Binary(b) => self.back_binary(&node, b, id, taps),
            Op::Unary(Unary::Neg) => {
                let (from, _) = self.operand(&node, 0)?;
                Some((from, taps.iter().map(|&(j, w)| (j, -w)).collect()))
            }
            Op::Cast => {
                let (from, x) = self.operand(&node, 0)?;
                let both = x.kind.is_float() && self.cone.value(id)?.kind.is_float();
                both.then(|| (from, taps.clone()))
            }
            Op::Move(
                Move::Identity | Move::Reshape | Move::Flatten | Move::Squeeze | Move::Unsqueeze,
            ) => Some((self.operand(&node, 0)?.0, taps.clone())),
            Op::Move(Move::Transpose | Move::Slice | Move::Expand) => {
                let (from, _) = self.operand(&node, 0)?;
                let map = self.places(&node, &[0])?.into_iter().next()?;
                let place = |j: usize| usize::try_from(map.get(j)? - 1).ok();
                Some((from, merged(taps, |j| Some((place(j)?, 1.0)))))
            }
            Op::LayerNorm => {
                let (from, x) = self.operand(&node, 0)?;
                let gains = self.gains(&node, &x)?;
                Some((from, merged(taps, |j| Some((j, *gains.get(j)?)))))
            }
            Op::MatMul
            | Op::Gemm
            | Op::Conv
            | Op::AveragePool
            | Op::GlobalAveragePool
            | Op::Reduce(Reduce::Sum | Reduce::Mean) => self.back_sum(&node, id, taps),
            _ => None,
        }
    }

    /// A sum of sums.
    fn back_sum(&mut self, node: &Node<'g>, id: Id, taps: &Taps) -> Option<(Id, Taps)> {
        let (from, x) = self.operand(node, 0)?;
        let out = self.cone.value(id)?;
        let still = |id: &Option<Id>| self.moves(*id).is_none();
        if !node.inputs.iter().skip(1).all(still) {
            return None;
        }
        let mut all: BTreeMap<usize, f64> = BTreeMap::new();
        let inner: Vec<Taps> = match node.op {
            Op::Reduce(how) => {
                let wants = taps.iter().map(|&(j, _)| (j, Want::exactly(0.0))).collect();
                let members = self.members(node, &x, &wants)?;
                // They come in the order of the elements they belong to.
                let mean = how == Reduce::Mean;
                let each = |m: Vec<usize>| {
                    let w = if mean {
                        1.0 / m.len().max(1) as f64
                    } else {
                        1.0
                    };
                    m.into_iter().map(|j| (j, w)).collect()
                };
                members.into_iter().map(each).collect()
            }
            _ => {
                let mut inner = Vec::new();
                let mut room = MOST_SUMS;
                for &(j, _) in taps {
                    let t = self.taps(node, 0, j, &out)?;
                    room = room.checked_sub(t.len())?;
                    self.meter.spend(t.len()).ok()?;
                    inner.push(t);
                }
                inner
            }
        };
        for ((_, w), inner) in taps.iter().zip(inner) {
            for (j, v) in inner {
                *all.entry(j).or_default() += w * v;
            }
        }
        Some((from, all.into_iter().collect()))
    }

    fn back_binary(&self, node: &Node<'g>, op: Binary, id: Id, taps: &Taps) -> Option<(Id, Taps)> {
        let out = self.cone.value(id)?;
        let (a, b) = (self.value(node, 0)?, self.value(node, 1)?);
        let moves = |k: usize| self.moves(node.inputs.get(k).copied().flatten());
        // Of two that depend on inputs the smaller is a mean, a length or a flag.
        let side = match (moves(0), moves(1)) {
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (Some(x), Some(y)) if x != y && a.len() > b.len() => 0,
            (Some(x), Some(y)) if x != y && a.len() < b.len() => 1,
            _ => return None,
        };
        let (x, c) = if side == 0 { (&a, &b) } else { (&b, &a) };
        let (from, beside) = (stretch(&x.dims, &out.dims), stretch(&c.dims, &out.dims));
        let other = |j: usize| c.at(*beside.get(j)?);
        let gain = |j: usize| match op {
            Binary::Add => Some(1.0),
            Binary::Sub => Some(if side == 0 { 1.0 } else { -1.0 }),
            Binary::Mul => other(j),
            Binary::Div if side == 0 => Some(1.0 / other(j)?),
            _ => None,
        };
        let (first, _) = *taps.first()?;
        gain(first)?;
        let taps = merged(taps, |j| Some((*from.get(j)?, gain(j)?)));
        let sound = taps.iter().all(|(_, w)| w.is_finite());
        sound.then(|| moves(side).map(|id| (id, taps)))?
    }

    /// Elements of a normalised value, with its mean and its spread as they are.
    pub(super) fn normalised(&mut self, node: &Node<'g>, wants: &Wants, goals: &mut Goals) {
        let out = node.outputs.first().copied().flatten();
        let out = out.and_then(|id| self.cone.value(id));
        let (Some((id, x)), Some(out)) = (self.operand(node, 0), out) else {
            return;
        };
        let Some(gains) = self.gains(node, &x) else {
            return;
        };
        for (&i, want) in wants {
            let now = out.at(i).zip(x.at(i)).zip(gains.get(i));
            if let (Some(((y, x), gain)), Some((low, high))) = (now, want.range()) {
                let next = x + (near(low, high, y) - y) / gain;
                if next.is_finite() {
                    goals.add(id, i, Want::exactly(next));
                }
            }
        }
    }

    /// How much each element of a normalised value changes with its own element of `x`, its mean
    /// and its spread taken as they are.
    fn gains(&self, node: &Node<'g>, x: &Value) -> Option<Vec<f64>> {
        let at = axis(node.attributes.int_or("axis", -1), x.dims.len()).ok()?;
        let run = x
            .dims
            .get(at..)?
            .iter()
            .fold(1usize, |n, &d| n.saturating_mul(d));
        let scale = self.value(node, 1)?;
        let beside = stretch(&scale.dims, &x.dims);
        let all = x.to_floats().ok()?;
        let epsilon = node.attributes.float_or("epsilon", 1e-5);
        let mut out = Vec::with_capacity(all.len());
        for row in all.chunks(run.max(1)) {
            let n = row.len().max(1) as f64;
            let mean = row.iter().sum::<f64>() / n;
            let spread = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let inverse = 1.0 / (spread + epsilon).sqrt();
            for _ in row {
                let scale = scale.at(*beside.get(out.len())?)?;
                out.push(scale * inverse);
            }
        }
        Some(out)
    }
}

/// `taps` at other places with other weights; those that fall together are added up.
fn merged(taps: &Taps, to: impl Fn(usize) -> Option<(usize, f64)>) -> Taps {
    let mut out: BTreeMap<usize, f64> = BTreeMap::new();
    for &(j, w) in taps {
        if let Some((place, gain)) = to(j) {
            *out.entry(place).or_default() += w * gain;
        }
    }
    out.into_iter().collect()
}
