//! What operators that make one value of many would take.

use super::{Goals, Solver, Want, Wants};
use crate::graph::flat::Node;
use crate::graph::interp::value::{Tensor, strides};
use crate::graph::interp::{Call, Op, Reduce, axis, pool_plan, reduce_plan, stretch};

/// How far a value that has to be the greatest is put above the others.
const AHEAD: f64 = 1.0;

impl<'g> Solver<'_, 'g> {
    /// The elements of operand 0 that go into each of `wants`.
    pub(super) fn members(
        &mut self,
        node: &Node<'g>,
        x: &Tensor,
        wants: &Wants,
    ) -> Option<Vec<Vec<usize>>> {
        let given = self.given(node);
        let c = Call {
            op: node.op,
            attributes: &node.attributes,
            opset: node.opset,
            inputs: &given,
            outputs: node.outputs.len(),
        };
        let mut out: Vec<Vec<usize>> = vec![Vec::new(); wants.len()];
        self.meter.spend(x.len()).ok()?;
        match node.op {
            Op::Reduce(_) => {
                let (_, kept, _) = reduce_plan(&c, x).ok()?;
                let into = stretch(&kept, &x.dims);
                let slot: std::collections::HashMap<usize, usize> =
                    wants.keys().enumerate().map(|(s, &i)| (i, s)).collect();
                for (i, t) in into.iter().enumerate() {
                    if let Some(all) = slot.get(t).and_then(|&s| out.get_mut(s)) {
                        all.push(i);
                    }
                }
            }
            Op::MaxPool | Op::AveragePool => {
                let (window, space, _) = pool_plan(&c).ok()?;
                let area = window
                    .out
                    .iter()
                    .fold(1usize, |n, &d| n.saturating_mul(d))
                    .max(1);
                let whole = space.iter().fold(1usize, |n, &d| n.saturating_mul(d));
                for (&i, all) in wants.keys().zip(&mut out) {
                    window.cover(&space, i % area, |p, _| all.push(i / area * whole + p));
                }
            }
            _ => {
                let each = x
                    .dims
                    .iter()
                    .skip(2)
                    .fold(1usize, |n, &d| n.saturating_mul(d));
                for (&i, all) in wants.keys().zip(&mut out) {
                    all.extend(i * each..(i + 1) * each);
                }
            }
        }
        Some(out)
    }

    pub(super) fn reduced(&mut self, at: usize, node: &Node<'g>, wants: &Wants, goals: &mut Goals) {
        let Some((id, x)) = self.operand(node, 0) else {
            return;
        };
        let Some(members) = self.members(node, &x, wants) else {
            return;
        };
        let how = match node.op {
            Op::Reduce(r) => r,
            _ => Reduce::Max,
        };
        for ((&i, want), all) in wants.iter().zip(members) {
            let Some((low, high)) = want.range() else {
                continue;
            };
            let n = all.len().max(1) as f64;
            let upward = Want::Range(low, f64::INFINITY);
            let downward = Want::Range(f64::NEG_INFINITY, high);
            let now = |j: usize| x.at(j).unwrap_or(0.0);
            let raise = low.is_finite() && all.iter().all(|&j| now(j) < low);
            match how {
                Reduce::Max if raise => {
                    // One of them is enough.
                    if let Some(&j) = all.get(self.choice(at ^ i, all.len())) {
                        goals.add(id, j, upward);
                    }
                }
                Reduce::Max => {
                    for &j in all.iter().filter(|&&j| now(j) > high) {
                        goals.add(id, j, downward.clone());
                    }
                }
                Reduce::Min if low.is_finite() && all.iter().any(|&j| now(j) < low) => {
                    for &j in all.iter().filter(|&&j| now(j) < low) {
                        goals.add(id, j, upward.clone());
                    }
                }
                Reduce::Min => {
                    if let Some(&j) = all.get(self.choice(at ^ i, all.len())) {
                        goals.add(id, j, downward);
                    }
                }
                Reduce::Sum | Reduce::Mean => {
                    let w = if how == Reduce::Mean { 1.0 / n } else { 1.0 };
                    let taps = all.iter().map(|&j| (j, w)).collect();
                    let sum = all.iter().map(|&j| now(j) * w).sum();
                    self.line(at ^ i, (id, &x), taps, sum, (low, high), goals);
                }
                Reduce::L1 | Reduce::L2 | Reduce::SumSquare
                    if all.iter().any(|&j| now(j) != 0.0) =>
                {
                    // Longer or shorter in the same direction.
                    let t = if low.is_finite() { low } else { high };
                    let sum = |f: &dyn Fn(f64) -> f64| all.iter().map(|&j| f(now(j))).sum::<f64>();
                    let by = match how {
                        Reduce::L1 => t / sum(&f64::abs),
                        Reduce::L2 => t / sum(&|x| x * x).sqrt(),
                        _ => (t / sum(&|x| x * x)).sqrt(),
                    };
                    for &j in all.iter().filter(|_| by.is_finite()) {
                        goals.add(id, j, Want::exactly(now(j) * by));
                    }
                }
                _ => {
                    let t = if low.is_finite() { low } else { high };
                    let each = match how {
                        Reduce::L1 => t / n,
                        Reduce::L2 => t / n.sqrt(),
                        Reduce::SumSquare => (t / n).max(0.0).sqrt(),
                        Reduce::LogSum => t.exp() / n,
                        Reduce::LogSumExp => t - n.ln(),
                        _ => t.abs().powf(1.0 / n).copysign(t),
                    };
                    for &j in all.iter().filter(|_| each.is_finite()) {
                        goals.add(id, j, Want::exactly(each));
                    }
                }
            }
        }
    }

    /// The one that is the greatest, or the least.
    pub(super) fn chosen(&mut self, node: &Node<'g>, wants: &Wants, goals: &mut Goals) {
        let Some((id, x)) = self.operand(node, 0) else {
            return;
        };
        let Ok(at) = axis(node.attributes.int_or("axis", 0), x.dims.len()) else {
            return;
        };
        let extent = x.dims.get(at).copied().unwrap_or(1);
        let run = strides(&x.dims).get(at).copied().unwrap_or(1).max(1);
        for (&i, want) in wants {
            let Some((low, high)) = want.range() else {
                continue;
            };
            let place = |k: usize| (i / run * extent + k) * run + i % run;
            let k = if low.is_finite() {
                low.ceil()
            } else {
                high.floor()
            };
            let Some(k) = Some(k as usize).filter(|&k| k < extent && k as f64 <= high) else {
                continue;
            };
            let all = (0..extent).filter_map(|k| x.at(place(k)));
            let want = match node.op {
                Op::ArgMax => {
                    let most = all.fold(f64::NEG_INFINITY, f64::max);
                    Want::Range(most + AHEAD, f64::INFINITY)
                }
                _ => {
                    let least = all.fold(f64::INFINITY, f64::min);
                    Want::Range(f64::NEG_INFINITY, least - AHEAD)
                }
            };
            // Where no more than one can be had, the one before is taken away.
            let top = match want {
                Want::Range(a, _) if node.op == Op::ArgMax && a > 1.0 && x.kind.is_integer() => 1.0,
                _ => f64::NAN,
            };
            if top.is_nan() {
                goals.add(id, place(k), want);
            } else {
                goals.add(id, place(k), Want::Range(top, f64::INFINITY));
                for before in 0..k {
                    goals.add(id, place(before), Want::Range(f64::NEG_INFINITY, 0.0));
                }
            }
        }
    }

    pub(super) fn one_hot(&mut self, node: &Node<'g>, wants: &Wants, goals: &mut Goals) {
        let (Some((id, index)), Some(values)) = (self.operand(node, 0), self.value(node, 2)) else {
            return;
        };
        let out = node.outputs.first().copied().flatten();
        let Some(out) = out.and_then(|o| self.cone.value(o)) else {
            return;
        };
        let Ok(at) = axis(node.attributes.int_or("axis", -1), out.dims.len()) else {
            return;
        };
        let depth = out.dims.get(at).copied().unwrap_or(1).max(1);
        let run = strides(&out.dims).get(at).copied().unwrap_or(1).max(1);
        for (&i, want) in wants {
            let k = i / run % depth;
            let place = i / run / depth * run + i % run;
            if want.met(&values, 1) {
                goals.add(id, place, Want::exactly(k as f64));
            } else if want.met(&values, 0) && index.at(place) == Some(k as f64) {
                let next = (k + 1) % depth;
                goals.add(id, place, Want::exactly(next as f64));
            }
        }
    }

    pub(super) fn soft(&mut self, node: &Node<'g>, wants: &Wants, goals: &mut Goals) {
        let Some((id, x)) = self.operand(node, 0) else {
            return;
        };
        let Ok(all) = x.to_floats() else { return };
        let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (&i, want) in wants {
            let Some((low, _)) = want.range() else {
                continue;
            };
            let to = match low.is_finite() && low > 0.0 || node.op == Op::LogSoftmax {
                true => Want::Range(most + 10.0, f64::INFINITY),
                false => Want::Range(f64::NEG_INFINITY, most - 20.0),
            };
            goals.add(id, i, to);
        }
    }
}
