//! What sums of weighted elements would take.

use super::{Goals, Solver, Want, Wants};
use crate::graph::flat::{Id, Node};
use crate::graph::interp::value::{Tensor, Value, strides};
use crate::graph::interp::{Call, Convolution, Op, Taps, axis, pool_plan, stretch};

/// Most elements that one sum may have to be looked at.
const MOST_TAPS: usize = 1 << 16;

impl<'g> Solver<'_, 'g> {
    pub(super) fn weighed(&mut self, at: usize, node: &Node<'g>, wants: &Wants, goals: &mut Goals) {
        // Where both operands depend on inputs, one is taken as it is.
        let first = self.operand(node, 0);
        let second = match node.op {
            Op::MatMul => self.operand(node, 1),
            _ => None,
        };
        let side = match (&first, &second) {
            (Some(_), Some(_)) => self.choice(at, 2),
            (None, Some(_)) => 1,
            _ => 0,
        };
        let Some((id, x)) = (if side == 0 { first } else { second }) else {
            return;
        };
        let out = node.outputs.first().copied().flatten();
        let Some(out) = out.and_then(|o| self.cone.value(o)) else {
            return;
        };
        for (&i, want) in wants.iter().take(256) {
            let Some(range) = want.range() else { continue };
            let Some(taps) = self.taps(node, side, i, &out) else {
                return;
            };
            if self.meter.spend(taps.len()).is_err() {
                return;
            }
            let now = out.at(i).unwrap_or(0.0);
            self.line(at, (id, &x), taps, now, range, goals);
        }
    }

    /// What goes into result `i`, and with which weights.
    pub(super) fn taps(
        &mut self,
        node: &Node<'g>,
        side: usize,
        i: usize,
        out: &Tensor,
    ) -> Option<Taps> {
        let given = self.given(node);
        let c = Call {
            op: node.op,
            attributes: &node.attributes,
            opset: node.opset,
            inputs: &given,
            outputs: node.outputs.len(),
        };
        let a: Value = given.first()?.clone()?;
        match node.op {
            Op::Conv => {
                let w = given.get(1)?.as_ref()?;
                let plan = Convolution::of(&c).ok()?;
                let mut taps = Taps::new();
                plan.taps(i, |from, k| {
                    if let Some(w) = w.at(k).filter(|w| *w != 0.0) {
                        taps.push((from, w));
                    }
                });
                Some(taps)
            }
            Op::AveragePool => {
                let (window, space, _) = pool_plan(&c).ok()?;
                let area = window
                    .out
                    .iter()
                    .fold(1usize, |n, &d| n.saturating_mul(d))
                    .max(1);
                let whole = space.iter().fold(1usize, |n, &d| n.saturating_mul(d));
                let mut taps = Taps::new();
                window.cover(&space, i % area, |p, _| {
                    taps.push((i / area * whole + p, 1.0))
                });
                let n = taps.len().max(1) as f64;
                taps.iter_mut().for_each(|(_, w)| *w /= n);
                Some(taps)
            }
            Op::GlobalAveragePool => {
                let each = a
                    .dims
                    .iter()
                    .skip(2)
                    .fold(1usize, |n, &d| n.saturating_mul(d))
                    .max(1);
                Some(
                    (i * each..(i + 1) * each)
                        .map(|j| (j, 1.0 / each as f64))
                        .collect(),
                )
            }
            Op::CumSum => {
                let at = axis(given.get(1)?.as_ref()?.one().ok()?, a.dims.len()).ok()?;
                let run = strides(&a.dims).get(at).copied().unwrap_or(1).max(1);
                let extent = a.dims.get(at).copied().unwrap_or(1).max(1);
                let k = i / run % extent;
                let reverse = node.attributes.int_or("reverse", 0) != 0;
                let exclusive = usize::from(node.attributes.int_or("exclusive", 0) != 0);
                let span = match reverse {
                    true => k + exclusive..extent,
                    false => 0..(k + 1).saturating_sub(exclusive),
                };
                let base = i.checked_sub(k * run)?;
                Some(span.map(|j| (base + j * run, 1.0)).collect())
            }
            _ => products(node, &given, side, i, out),
        }
    }

    /// Moves the elements of a weighted sum so that it comes into the range.
    pub(super) fn line(
        &mut self,
        at: usize,
        (id, x): (Id, &Tensor),
        taps: Taps,
        now: f64,
        range: (f64, f64),
        goals: &mut Goals,
    ) {
        // Now the elements that are summed up move, now those that they are made of.
        let way = self.choice(at, 7);
        if self.choice(at ^ 0x3c, 3) > 0 {
            let (from, back) = self.through(id, taps.clone());
            if let Some(x) = self.cone.value(from).filter(|_| from != id) {
                let way = if way == 1 { 2 } else { way };
                return self.shift((at, way), (from, &x), back, now, range, goals);
            }
        }
        self.shift((at, way), (id, x), taps, now, range, goals);
    }

    fn shift(
        &mut self,
        (at, way): (usize, usize),
        (id, x): (Id, &Tensor),
        mut taps: Taps,
        now: f64,
        (low, high): (f64, f64),
        goals: &mut Goals,
    ) {
        taps.retain(|(_, w)| *w != 0.0);
        if taps.is_empty() || taps.len() > MOST_TAPS || !now.is_finite() {
            return;
        }
        let up = now < low;
        let width = if (high - low).is_finite() {
            (high - low) / 2.0
        } else {
            0.0
        };
        let target = if up { low + width } else { high - width };
        // What is divided by its own length comes nearer ever more slowly, unless it is pushed.
        let open = !(low.is_finite() && high.is_finite());
        let push = match open || self.turn % 2 == 1 {
            true => 1.0 + 0.25 * self.turn.saturating_sub(3) as f64,
            false => 1.0,
        };
        let short = target - now;
        let value = |j: usize| x.at(j).unwrap_or(0.0);
        let bits = taps
            .iter()
            .all(|(j, _)| matches!(value(*j), v if v == 0.0 || v == 1.0));
        let mut set = |j: usize, v: f64| goals.add(id, j, Want::exactly(v));
        if bits && (way < 4 || x.kind == crate::graph::interp::value::Kind::Bool) {
            // Flags: as many of them as it takes.
            let mut left = short;
            let start = if way < 2 {
                0
            } else {
                self.choice(at ^ 0x77, taps.len())
            };
            for k in 0..taps.len() {
                let Some(&(j, w)) = taps.get((start + k) % taps.len()) else {
                    continue;
                };
                let gain = if value(j) == 0.0 { w } else { -w };
                if left.abs() > 1e-9 && gain * left > 0.0 {
                    set(j, 1.0 - value(j));
                    left -= gain;
                    if (left > 0.0) != (short > 0.0) {
                        break;
                    }
                }
            }
            return;
        }
        match way {
            // To the ends of an ordinary range, as far as is needed.
            0 | 1 => {
                let (least, most) = if way == 0 { (0.0, 1.0) } else { (-1.0, 1.0) };
                let end = |w: f64| if (w > 0.0) == up { most } else { least };
                let gain: f64 = taps.iter().map(|&(j, w)| w * (end(w) - value(j))).sum();
                let part = match gain * short > 0.0 {
                    true => short / gain,
                    false => 1.0,
                };
                // A little beyond an open end, where there is room.
                let part = if open {
                    (part * 1.02).min(part.max(1.0))
                } else {
                    part
                };
                for (j, w) in taps {
                    set(j, value(j) + (end(w) - value(j)) * part);
                }
            }
            // As little as possible of each.
            2 | 3 => {
                let norm: f64 = taps.iter().map(|(_, w)| w * w).sum();
                for (j, w) in taps {
                    set(j, value(j) + w * short * 1.001 * push / norm);
                }
            }
            // The same everywhere.
            4 => {
                let sum: f64 = taps.iter().map(|(_, w)| w).sum();
                let own: f64 = taps.iter().map(|&(j, w)| w * value(j)).sum();
                let each = (target - (now - own)) / sum;
                if each.is_finite() {
                    for (j, _) in taps {
                        set(j, each);
                    }
                }
            }
            // One of them alone: the heaviest, or any.
            _ => {
                let heavy = taps
                    .iter()
                    .copied()
                    .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
                let any = taps.get(self.choice(at ^ 0x99, taps.len())).copied();
                if let Some((j, w)) = if way == 5 { heavy } else { any } {
                    set(j, value(j) + short / w);
                }
            }
        }
    }
}

/// The taps of a product of matrices.
fn products(
    node: &Node<'_>,
    given: &[Option<Value>],
    side: usize,
    i: usize,
    out: &Tensor,
) -> Option<Taps> {
    let (a, b) = (given.first()?.as_ref()?, given.get(1)?.as_ref()?);
    let flag = |n: &str| node.op == Op::Gemm && node.attributes.int_or(n, 0) != 0;
    let (turn_a, turn_b) = (flag("transA"), flag("transB"));
    let alpha = if node.op == Op::Gemm {
        node.attributes.float_or("alpha", 1.0)
    } else {
        1.0
    };
    // Rows and columns, with the dimensions that vectors lack.
    let widen = |d: &[usize], front: bool| -> Vec<usize> {
        let mut d = d.to_vec();
        if d.len() == 1 {
            d.insert(if front { 0 } else { 1 }, 1);
        }
        d
    };
    let (da, db) = (widen(&a.dims, true), widen(&b.dims, false));
    let ([sa @ .., ra, ca], [sb @ .., rb, cb]) = (da.as_slice(), db.as_slice()) else {
        return None;
    };
    let (m, k) = if turn_a { (*ca, *ra) } else { (*ra, *ca) };
    let n = if turn_b { *rb } else { *cb };
    let (column, rest) = (i % n.max(1), i / n.max(1));
    let (row, stack) = (rest % m.max(1), rest / m.max(1));
    let lead = super::super::interp::broadcast(&[sa, sb]).ok()?;
    debug_assert!(out.len() > i);
    let ia = stretch(sa, &lead).get(stack).copied().unwrap_or(0);
    let ib = stretch(sb, &lead).get(stack).copied().unwrap_or(0);
    let mut taps = Taps::new();
    for t in 0..k {
        let (r, c) = if turn_a { (t, row) } else { (row, t) };
        let at_a = (ia * ra + r) * ca + c;
        let (r, c) = if turn_b { (column, t) } else { (t, column) };
        let at_b = (ib * rb + r) * cb + c;
        let tap = match side {
            0 => (at_a, b.at(at_b)? * alpha),
            _ => (at_b, a.at(at_a)? * alpha),
        };
        taps.push(tap);
    }
    Some(taps)
}
