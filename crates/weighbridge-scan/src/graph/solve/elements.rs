//! What operators that work on each element by itself would take.

use std::sync::Arc;

use super::{Goals, Solver, Want, Wants};
use crate::graph::flat::{Id, Node};
use crate::graph::interp::value::{Data, Kind, Tensor, Value};
use crate::graph::interp::{Binary, Fold, Op, Unary, stretch};

/// Numbers that are tried whatever the operator.
const TRIED: [f64; 17] = [
    0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.1, 5.0, 10.0, -10.0, 100.0, -100.0, 1e3, -1e3, 1e4,
    -1e4,
];

/// An operand of an operator at one element.
struct Side {
    k: usize,
    id: Id,
    at: usize,
    now: f64,
}

impl<'g> Solver<'_, 'g> {
    pub(super) fn elements(
        &mut self,
        at: usize,
        node: &Node<'g>,
        wants: &Wants,
        goals: &mut Goals,
    ) {
        let Some(out) = node.outputs.first().copied().flatten() else {
            return;
        };
        let Some(out) = self.cone.value(out) else {
            return;
        };
        let given = self.given(node);
        let maps: Vec<Vec<usize>> = given
            .iter()
            .map(|v| {
                v.as_ref()
                    .map_or_else(Vec::new, |v| stretch(&v.dims, &out.dims))
            })
            .collect();
        for (&i, want) in wants {
            if self.meter.spend(64).is_err() {
                return;
            }
            let here = |k: usize| maps.get(k).and_then(|m| m.get(i)).copied();
            let mut sides = Vec::new();
            for k in 0..node.inputs.len() {
                let moving = self.operand(node, k);
                if let (Some((id, v)), Some(j)) = (moving, here(k)) {
                    let now = v.at(j).unwrap_or(0.0);
                    sides.push(Side { k, id, at: j, now });
                }
            }
            match want {
                Want::Text(_) => {
                    for s in &sides {
                        goals.add(s.id, s.at, want.clone());
                    }
                }
                Want::Range(low, _) if low.is_nan() => undefined(node, &sides, goals),
                Want::Range(low, _) if *low > 0.0 && node.op == Op::Unary(Unary::IsNan) => {
                    for s in &sides {
                        goals.add(s.id, s.at, Want::exactly(f64::NAN));
                    }
                }
                Want::Range(low, high) => {
                    if let Some(text) = equal_text(node, &given, &here) {
                        if *low > 0.0
                            && let Some(s) = sides.first()
                        {
                            goals.add(s.id, s.at, Want::Text(text));
                        }
                        continue;
                    }
                    if self.together(at, node, &sides, (*low, *high), goals) {
                        continue;
                    }
                    let now = out.at(i).unwrap_or(0.0);
                    self.alone(at, node, &sides, &given, &here, (*low, *high), now, goals);
                }
            }
        }
    }

    /// Operators of which several operands have to change at once, or any of them may.
    fn together(
        &self,
        at: usize,
        node: &Node<'g>,
        sides: &[Side],
        (low, high): (f64, f64),
        goals: &mut Goals,
    ) -> bool {
        let any = |goals: &mut Goals, want: Want| {
            if let Some(s) = sides.get(self.choice(at, sides.len())) {
                goals.add(s.id, s.at, want);
            }
        };
        let each = |goals: &mut Goals, bad: &dyn Fn(f64) -> bool, want: Want| {
            for s in sides.iter().filter(|s| bad(s.now)) {
                goals.add(s.id, s.at, want.clone());
            }
        };
        let (on, off) = (Want::exactly(1.0), Want::exactly(0.0));
        let wanted = low > 0.0;
        match node.op {
            Op::Binary(Binary::And) if wanted => each(goals, &|x| x == 0.0, on),
            Op::Binary(Binary::And) => any(goals, off),
            Op::Binary(Binary::Or) if wanted => any(goals, on),
            Op::Binary(Binary::Or) => each(goals, &|x| x != 0.0, off),
            Op::Fold(Fold::Min) if low.is_finite() => {
                each(goals, &|x| x < low, Want::Range(low, f64::INFINITY));
            }
            Op::Fold(Fold::Min) => any(goals, Want::Range(f64::NEG_INFINITY, high)),
            Op::Fold(Fold::Max) if low.is_finite() => any(goals, Want::Range(low, f64::INFINITY)),
            Op::Fold(Fold::Max) => each(goals, &|x| x > high, Want::Range(f64::NEG_INFINITY, high)),
            Op::Binary(Binary::Mul) if !(low <= 0.0 && high >= 0.0) => {
                let zero = sides.iter().filter(|s| s.now == 0.0).count();
                let first = sides.first().map(|s| s.id);
                if zero < 2 || sides.iter().all(|s| Some(s.id) == first) {
                    return false;
                }
                each(goals, &|x| x == 0.0, on);
            }
            _ => return false,
        }
        true
    }

    /// One operand changes and the others stay.
    #[allow(clippy::too_many_arguments)]
    fn alone(
        &mut self,
        at: usize,
        node: &Node<'g>,
        sides: &[Side],
        given: &[Option<Value>],
        here: &dyn Fn(usize) -> Option<usize>,
        (low, high): (f64, f64),
        now: f64,
        goals: &mut Goals,
    ) {
        let first = self.turned(at, sides.len());
        let mut best: Option<(f64, Id, usize, f64)> = None;
        for turn in 0..sides.len() {
            let Some(side) = sides.get((first + turn) % sides.len().max(1)) else {
                continue;
            };
            // The operator on many numbers in place of this operand.
            let other = (0..given.len())
                .filter(|k| *k != side.k)
                .find_map(|k| given.get(k)?.as_ref()?.at(here(k)?));
            let squared = sides.len() == 2 && sides.iter().all(|s| s.id == side.id);
            let kind = given
                .get(side.k)
                .and_then(|v| v.as_ref())
                .map_or(Kind::F32, |v| v.kind);
            let mut tried = candidates(node, side, other, (low, high), now, squared);
            for x in &mut tried {
                *x = match kind.is_float() {
                    true => kind.round(*x),
                    false => x.round(),
                };
            }
            let (least, most) = kind.bounds();
            tried.retain(|x| {
                x.is_finite() && (kind.is_float() || (*x >= least as f64 && *x <= most as f64))
            });
            let n = tried.len();
            let line = Arc::new(Tensor::numbers(kind, vec![n], tried.clone()));
            let inputs: Vec<Option<Value>> = (0..given.len())
                .map(|k| {
                    let v = given.get(k)?.as_ref()?;
                    if k == side.k || (squared && k < 2) {
                        return Some(line.clone());
                    }
                    match v.len() {
                        1 => Some(Arc::new(v.reshaped(Vec::new()).ok()?)),
                        _ => Some(Arc::new(v.picked(Vec::new(), &[here(k)?]))),
                    }
                })
                .collect();
            let Some(made) = self
                .call(node, &inputs)
                .ok()
                .and_then(|v| v.into_iter().next())
            else {
                continue;
            };
            let mut hits = Vec::new();
            for (i, &x) in tried.iter().enumerate() {
                let Some(y) = made.at(i).filter(|y| !y.is_nan()) else {
                    continue;
                };
                if low <= y && y <= high {
                    hits.push(x);
                    continue;
                }
                let miss = if y < low { low - y } else { y - high };
                if best.is_none_or(|(m, ..)| miss < m) {
                    best = Some((miss, side.id, side.at, x));
                }
            }
            if hits.is_empty() {
                continue;
            }
            let distance = |x: &f64| (x - side.now).abs();
            hits.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
            // Mostly the nearest; now and then another.
            let pick = match self.choice(at ^ 0x55, 4) {
                0 => self.choice(at ^ 0xaa, hits.len()),
                _ => 0,
            };
            if let Some(&x) = hits.get(pick) {
                goals.add(side.id, side.at, Want::exactly(x));
            }
            return;
        }
        // Nothing does it: what comes nearest, if it comes nearer.
        let miss = if now < low { low - now } else { now - high };
        if let Some((m, id, at, x)) = best
            && (m < miss || miss.is_nan())
        {
            goals.add(id, at, Want::exactly(x));
        }
    }

    /// `Where`, and the choice between the branches of an `If`.
    pub(super) fn selected(
        &mut self,
        at: usize,
        node: &Node<'g>,
        wants: &Wants,
        goals: &mut Goals,
    ) {
        let out = node.outputs.first().copied().flatten();
        let Some(out) = out.and_then(|id| self.cone.value(id)) else {
            return;
        };
        let given = self.given(node);
        let scalar = node.op == Op::Select;
        let cond = self.operand(node, 0);
        for (&i, want) in wants {
            let place = |k: usize| -> Option<usize> {
                let v = given.get(k)?.as_ref()?;
                match (scalar, k) {
                    (true, 0) => Some(0),
                    (true, _) => Some(i),
                    _ => stretch(&v.dims, &out.dims).get(i).copied(),
                }
            };
            let Some(flag) = place(0) else { continue };
            let now = given
                .first()
                .and_then(|v| v.as_ref()?.at(flag))
                .unwrap_or(0.0)
                != 0.0;
            // Each way: the side, and whether its value has to change.
            let mut ways = Vec::new();
            for (k, side) in [(1usize, true), (2, false)] {
                if side != now && cond.is_none() {
                    continue;
                }
                let value = given.get(k).and_then(|v| v.as_ref());
                let met = match (value, place(k)) {
                    (Some(v), Some(j)) => want.met(v, j),
                    _ => false,
                };
                let moving = self.moves(node.inputs.get(k).copied().flatten());
                if met {
                    ways.push((k, side, None));
                } else if let Some(id) = moving {
                    ways.push((k, side, Some(id)));
                }
            }
            let done: Vec<_> = ways.iter().filter(|w| w.2.is_none()).copied().collect();
            let ways = match done.is_empty() || self.choice(at ^ 0x33, 3) == 0 {
                true => ways,
                false => done,
            };
            let Some(&(k, side, change)) = ways.get(self.choice(at, ways.len())) else {
                continue;
            };
            if side != now
                && let Some((id, _)) = &cond
            {
                goals.add(*id, flag, Want::exactly(f64::from(u8::from(side))));
            }
            if let (Some(id), Some(j)) = (change, place(k)) {
                goals.add(id, j, want.clone());
            }
        }
    }
}

/// What it takes for a result that is no number.
fn undefined(node: &Node<'_>, sides: &[Side], goals: &mut Goals) {
    let each = match node.op {
        Op::Binary(Binary::Div) => Want::exactly(0.0),
        Op::Unary(Unary::Log | Unary::Sqrt) => Want::exactly(-1.0),
        _ => Want::exactly(f64::NAN),
    };
    for s in sides {
        goals.add(s.id, s.at, each.clone());
    }
}

/// The text that an operand is compared with.
fn equal_text(
    node: &Node<'_>,
    given: &[Option<Value>],
    here: &dyn Fn(usize) -> Option<usize>,
) -> Option<Arc<[u8]>> {
    if node.op != Op::Binary(Binary::Equal) {
        return None;
    }
    let text = |k: usize| match &given.get(k)?.as_ref()?.data {
        Data::Text(all) => all.get(here(k)?).cloned(),
        _ => None,
    };
    // The constant is mostly the second; where it is the first, the want goes to what moves.
    text(1).zip(text(0)).map(|(b, _)| b)
}

/// Numbers that might do in place of `side`.
fn candidates(
    node: &Node<'_>,
    side: &Side,
    other: Option<f64>,
    (low, high): (f64, f64),
    now: f64,
    squared: bool,
) -> Vec<f64> {
    let mut out: Vec<f64> = TRIED.to_vec();
    let x = side.now;
    out.extend([x, x + 1.0, x - 1.0]);
    let c = other.unwrap_or(0.0);
    let gap = c.abs().max(1.0) * 1e-2;
    out.extend([c, c + 1.0, c - 1.0, c + gap, c - gap, -c, c * 2.0, c + 0.5]);
    let mut targets = vec![
        low,
        high,
        low + 1.0,
        high - 1.0,
        now.clamp(low, high.max(low)),
    ];
    let width = (high - low).abs();
    if width.is_finite() {
        targets.extend([low + width / 2.0, low + width * 0.1]);
    } else {
        targets.extend([
            low + low.abs() * 0.05 + 0.01,
            high - high.abs() * 0.05 - 0.01,
        ]);
    }
    targets.retain(|t| t.is_finite());
    for &t in &targets {
        inverse(node, side, (x, c, t), squared, &mut out);
    }
    out
}

/// What an operator would take to give `t`, with `x` now in place of the operand and `c` beside.
fn inverse(
    node: &Node<'_>,
    side: &Side,
    (x, c, t): (f64, f64, f64),
    squared: bool,
    out: &mut Vec<f64>,
) {
    use Binary as B;
    use Unary as U;
    let second = side.k == 1;
    let float = |name: &str, d: f64| node.attributes.float_or(name, d);
    match node.op {
        Op::Binary(B::Add) => out.push(t - c),
        Op::Binary(B::Sub) if second => out.push(c - t),
        Op::Binary(B::Sub) => out.push(t + c),
        Op::Binary(B::Mul) if squared => out.extend([t.sqrt(), -t.sqrt()]),
        Op::Binary(B::Mul) => out.push(t / c),
        Op::Binary(B::Div) if second => out.push(c / t),
        Op::Binary(B::Div) => out.push(t * c),
        Op::Binary(B::Pow) if second => out.push(t.ln() / c.ln()),
        Op::Binary(B::Pow) => {
            let root = t.abs().powf(1.0 / c);
            out.extend([root, -root]);
        }
        Op::Binary(B::Mod) if second => out.push(x),
        Op::Binary(B::Mod) => {
            let r = t - (x - c * (x / c).floor());
            out.extend([x + r, x + r + c, x + r - c, t]);
        }
        Op::Binary(B::BitXor) => out.push((t as i64 ^ c as i64) as f64),
        Op::Binary(B::BitAnd | B::BitOr) => out.extend([t, (t as i64 | x as i64) as f64]),
        Op::Binary(B::BitShift) => {
            let by = c.clamp(0.0, 62.0);
            out.extend([t * by.exp2(), t / by.exp2()]);
        }
        Op::Binary(_) => out.push(t),
        Op::Fold(_) => out.extend([t, t + (x - c), t * 2.0 - c, t - c]),
        Op::Unary(U::Neg) => out.push(-t),
        Op::Unary(U::Abs) => out.extend([t, -t]),
        Op::Unary(U::Exp) => out.push(t.ln()),
        Op::Unary(U::Log) => out.push(t.exp()),
        Op::Unary(U::Sqrt) => out.push(t * t),
        Op::Unary(U::Reciprocal) => out.push(1.0 / t),
        Op::Unary(U::Sigmoid) => out.extend([(t / (1.0 - t)).ln(), 20.0, -20.0]),
        Op::Unary(U::Tanh) => out.push(t.atanh()),
        Op::Unary(U::Floor) => out.extend([t, t + 0.5]),
        Op::Unary(U::Ceil) => out.extend([t, t - 0.5]),
        Op::Unary(U::Softplus) => out.push(t.exp_m1().ln()),
        Op::Unary(U::Sin) => out.push(t.asin()),
        Op::Unary(U::Cos) => out.push(t.acos()),
        Op::Unary(U::Atan) => out.push(t.tan()),
        Op::Unary(U::BitNot) => out.push(-t - 1.0),
        Op::Unary(U::LeakyRelu) => out.extend([t, t / float("alpha", 0.01)]),
        Op::Unary(U::HardSigmoid) => {
            out.push((t - float("beta", 0.5)) / float("alpha", 0.2));
        }
        Op::Quantize => out.push(t * c),
        Op::Dequantize => out.extend([t / c, (t / c).ceil(), (t / c).floor() + 128.0]),
        _ => out.push(t),
    }
}
