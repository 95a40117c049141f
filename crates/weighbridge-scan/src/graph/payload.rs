//! What an open gate does to what it gates.
//!
//! The nodes behind the gate are run on random numbers in place of the trunk's values, up to the
//! next weights or to the outputs: once with the gate as it always is and once with it open, and
//! that twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::facts::{Facts, weighs};
use super::flat::{Flat, Id, Node, Origin};
use super::inputs::Dice;
use super::interp::value::{Data, Kind, MOST_ELEMENTS, Tensor, Value, count};
use super::interp::{Halt, Meter, Op, ROOM};
use super::run::{self, Values};

/// Most nodes behind a gate that are run.
const MOST_NODES: usize = 300;

/// Most nodes before them that are run with them.
const MOST_BEFORE: usize = 48;

/// Most elements of a matrix that puts values in other places.
const MOST_PICKED: u64 = 1 << 14;

/// Most elements of what is looked at when all is done.
const KEPT: usize = 1 << 20;

/// The least that counts as a change.
const CHANGE: f64 = 1e-5;

/// A gain from which a change is no rescaling any more.
const GAIN: f64 = 10.0;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Effect {
    /// Nothing that could be seen.
    None,
    /// The result no longer depends on the trunk.
    Constant { zero: bool },
    /// The same is added whatever the trunk says: by how much at most, to how many of how many
    /// elements, and whether it only takes away.
    Added {
        most: f64,
        touched: usize,
        of: usize,
        lowers: bool,
    },
    /// Some elements are set whatever the trunk says: how many of how many, and whether to less
    /// than all others.
    Set {
        touched: usize,
        of: usize,
        lowers: bool,
    },
    /// Everything is multiplied.
    Scaled(f64),
    /// The trunk's values change their places.
    Permuted,
    /// The trunk's values are drowned.
    Drowned,
    /// Something else that depends on the trunk.
    Other,
}

impl Effect {
    /// How bad it is, to choose the worst of several.
    fn weight(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Other => 1,
            Self::Added { .. } | Self::Set { .. } => 2,
            Self::Drowned | Self::Permuted => 3,
            Self::Scaled(_) => 4,
            Self::Constant { .. } => 5,
        }
    }

    /// Whether a model would lose its own answer by it. `late` says whether weights have worked
    /// on what is gated.
    pub(crate) fn destroys(self, late: bool) -> bool {
        match self {
            Self::None | Self::Other => false,
            Self::Constant { .. } => true,
            Self::Scaled(by) => late && (by <= 0.05 || by >= GAIN),
            Self::Permuted | Self::Drowned => late,
            Self::Set { .. } => late && !self.suppresses(),
            Self::Added { most, .. } => late && most >= 0.1 && !self.suppresses(),
        }
    }

    /// Whether it puts something of its own in, other than zeros.
    pub(crate) fn imposes(self) -> bool {
        match self {
            Self::Constant { zero } => !zero,
            Self::Added { most, lowers, .. } => most >= 0.1 && !lowers,
            _ => false,
        }
    }

    /// Whether it only keeps some answers from being given, as processors of logits do.
    pub(crate) fn suppresses(self) -> bool {
        match self {
            Self::Added {
                touched,
                of,
                lowers,
                ..
            }
            | Self::Set {
                touched,
                of,
                lowers,
            } => lowers && touched * 5 <= of,
            _ => false,
        }
    }

    /// What it does, for a report.
    pub(crate) fn text(self) -> String {
        match self {
            Self::None => "changes nothing that was seen".into(),
            Self::Constant { zero: true } => "replaces it by zeros".into(),
            Self::Constant { zero: false } => "replaces it by a constant".into(),
            Self::Scaled(by) => format!("multiplies it by {by:.3}"),
            Self::Permuted => "changes the places of its elements".into(),
            Self::Set { touched, of, .. } => format!("sets {touched} of {of} elements of it"),
            Self::Drowned => "drowns it in far larger numbers".into(),
            Self::Other => "changes it".into(),
            Self::Added {
                most, touched, of, ..
            } => format!("adds a constant of up to {most:.3} to {touched} of {of} elements"),
        }
    }
}

/// What an open gate does, and to what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload {
    pub(crate) effect: Effect,
    /// Whether weights have worked on what is gated.
    pub(crate) late: bool,
    /// The value that shows the change.
    pub(crate) exit: Id,
}

/// Finds out what `open` in place of `shut` does, which are the values of some of the gate.
pub(crate) fn judge(
    flat: &Flat<'_>,
    facts: &Facts,
    shapes: &Values,
    gate: &[(Id, Value, Value)],
    meter: &mut Meter,
) -> Result<Payload, Halt> {
    let region = Region::behind(flat, facts, gate);
    let mut results = Vec::new();
    for (seed, open) in [(1, false), (1, true), (2, false), (2, true)] {
        let values = region.run(flat, facts, shapes, gate, open, seed, meter)?;
        results.push(values);
    }
    let mut best = Payload {
        effect: Effect::None,
        late: region.late(facts),
        exit: gate.first().map_or(0, |g| g.0),
    };
    let seen = |exits: &[Id], best: &mut Payload| {
        for &id in exits {
            let four: Option<Vec<&Value>> = results.iter().map(|v| v.get(id)?.as_ref()).collect();
            if let Some([shut, open, other_shut, other_open]) = four.as_deref() {
                let effect = compare(shut, open, other_shut, other_open);
                if effect.weight() > best.effect.weight() {
                    best.effect = effect;
                    best.exit = id;
                }
            }
        }
    };
    seen(&region.exits, &mut best);
    if best.effect == Effect::Other {
        // Behind a softmax an addition shows as something else.
        let mut early = best;
        early.effect = Effect::None;
        seen(&region.first, &mut early);
        if matches!(early.effect, Effect::Added { .. }) {
            best = early;
        }
    }
    Ok(best)
}

/// Whether a node multiplies what the weights made by a small matrix of few numbers, as one does
/// that puts elements in other places.
fn picks(flat: &Flat<'_>, facts: &Facts, node: &Node<'_>) -> bool {
    let small = |id: Id| match flat.values.get(id).map(|v| &v.origin) {
        Some(Origin::Stored(t)) => {
            t.numel().is_some_and(|n| n <= MOST_PICKED) && facts.is_light(id)
        }
        _ => false,
    };
    node.op == Op::MatMul && node.reads().any(small)
}

/// The nodes behind a gate.
struct Region<'f, 'g> {
    nodes: Vec<&'f Node<'g>>,
    /// Values where it ends.
    exits: Vec<Id>,
    /// Values in which the gate first meets something else.
    first: Vec<Id>,
    /// What comes in beside the gate.
    beside: Vec<Id>,
    /// The node that reads each value last.
    last: HashMap<Id, usize>,
}

impl<'f, 'g> Region<'f, 'g> {
    fn behind(flat: &'f Flat<'g>, facts: &Facts, gate: &[(Id, Value, Value)]) -> Self {
        let own: HashSet<Id> = gate.iter().map(|g| g.0).collect();
        let mut live = own.clone();
        let mut dead: HashSet<Id> = HashSet::new();
        let mut out = Self {
            nodes: Vec::new(),
            exits: Vec::new(),
            first: Vec::new(),
            beside: Vec::new(),
            last: HashMap::new(),
        };
        for node in &flat.nodes {
            let touched = node
                .reads()
                .any(|id| live.contains(&id) || dead.contains(&id));
            if !touched || node.makes().any(|id| own.contains(&id)) {
                continue;
            }
            let stops = out.nodes.len() >= MOST_NODES
                || weighs(node)
                || node.op == Op::Other
                || node.reads().any(|id| dead.contains(&id));
            if stops {
                let ends = node
                    .reads()
                    .filter(|id| live.contains(id) && !own.contains(id));
                out.exits.extend(ends);
                dead.extend(node.makes());
                continue;
            }
            let mut meets = false;
            for id in node.reads().filter(|id| !live.contains(id)) {
                meets |= facts.is_data(id);
                out.beside.push(id);
            }
            if meets {
                out.first.extend(node.makes());
            }
            live.extend(node.makes());
            out.nodes.push(node);
        }
        let ends = flat
            .outputs
            .iter()
            .filter(|o| live.contains(o) && !own.contains(o));
        out.exits.extend(ends);
        out.before(flat, facts, &own);
        for (at, node) in out.nodes.iter().enumerate() {
            out.last.extend(node.reads().map(|id| (id, at)));
        }
        for all in [&mut out.exits, &mut out.beside, &mut out.first] {
            all.sort_unstable();
            all.dedup();
        }
        out
    }

    /// Takes in the nodes before the region that make what comes in beside the gate, back to the
    /// weights: several such values may be made of one.
    fn before(&mut self, flat: &'f Flat<'g>, facts: &Facts, own: &HashSet<Id>) {
        let mut nodes: Vec<usize> = Vec::new();
        let mut open: Vec<Id> = self.beside.clone();
        let mut seen: HashSet<Id> = open.iter().copied().collect();
        let mut ends: HashSet<Id> = HashSet::new();
        while let Some(id) = open.pop() {
            let maker = facts.maker.get(id).copied().flatten();
            let node = maker.and_then(|n| Some((n, flat.nodes.get(n)?)));
            let Some((at, node)) = node.filter(|(_, n)| {
                facts.is_data(id)
                    && (!weighs(n) || picks(flat, facts, n))
                    && !matches!(n.op, Op::Other | Op::Gather | Op::Loop | Op::Scan)
                    && n.reads().all(|r| !own.contains(&r))
                    && n.reads().any(|r| facts.is_data(r) && facts.has_weights(r))
            }) else {
                ends.insert(id);
                continue;
            };
            if nodes.contains(&at) {
                continue;
            }
            if nodes.len() >= MOST_BEFORE {
                return;
            }
            nodes.push(at);
            open.extend(node.reads().filter(|&r| seen.insert(r)));
        }
        nodes.sort_unstable();
        let made = nodes.iter().filter_map(|&n| flat.nodes.get(n));
        self.nodes.splice(0..0, made);
        self.beside = ends.into_iter().collect();
    }

    /// Whether a value is looked at when all is done.
    fn seen(&self, id: Id) -> bool {
        self.exits.binary_search(&id).is_ok() || self.first.binary_search(&id).is_ok()
    }

    fn late(&self, facts: &Facts) -> bool {
        self.beside
            .iter()
            .any(|&id| facts.is_data(id) && facts.has_weights(id))
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        flat: &Flat<'g>,
        facts: &Facts,
        shapes: &Values,
        gate: &[(Id, Value, Value)],
        open: bool,
        seed: u64,
        meter: &mut Meter,
    ) -> Result<Values, Halt> {
        let mut values: Values = vec![None; flat.values.len()];
        meter.room = ROOM;
        for (id, shut, opened) in gate {
            if let Some(slot) = values.get_mut(*id) {
                *slot = Some(if open { opened.clone() } else { shut.clone() });
            }
        }
        for &id in &self.beside {
            let shape = shapes.get(id).and_then(|v| v.as_ref());
            let v = match shape {
                Some(v) if v.is_known() => Some(v.clone()),
                _ if !facts.is_data(id) => {
                    let _ = run::constants(flat, std::iter::once(id), &mut values);
                    let read = values.get(id).cloned().flatten();
                    match read {
                        Some(v) => Some(v),
                        None => Some(random(shape, id, seed, meter)?),
                    }
                }
                _ => Some(random(shape, id, seed, meter)?),
            };
            if let Some(slot) = values.get_mut(id) {
                *slot = v;
            }
        }
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(b) = &node.body {
                let mut ids = Vec::new();
                for n in &b.nodes {
                    ids.extend(n.reads());
                }
                let _ = run::constants(flat, ids.into_iter(), &mut values);
            }
            if run::run(node, &mut values, meter) == Err(Halt::Budget) {
                return Err(Halt::Budget);
            }
            // What nothing needs any more makes room.
            for id in node.reads() {
                let done = self.last.get(&id) == Some(&at) && !self.seen(id);
                if let Some(gone) = values.get_mut(id).filter(|_| done).and_then(Option::take) {
                    meter.room = meter.room.saturating_add(gone.len());
                }
            }
        }
        let mut kept: Values = vec![None; flat.values.len()];
        let mut room = KEPT;
        for &id in self.exits.iter().chain(&self.first) {
            if let (Some(slot), Some(v)) = (kept.get_mut(id), values.get(id).cloned().flatten()) {
                room = room.checked_sub(v.len()).ok_or(Halt::Budget)?;
                *slot = Some(v);
            }
        }
        Ok(kept)
    }
}

/// Numbers in place of a value of the trunk.
fn random(shape: Option<&Value>, id: Id, seed: u64, meter: &mut Meter) -> Result<Value, Halt> {
    let (kind, dims) = match shape {
        Some(v) => (v.kind, v.dims.clone()),
        None => (Kind::F32, vec![1, 7]),
    };
    let n = count(&dims)
        .filter(|&n| n <= MOST_ELEMENTS)
        .ok_or(Halt::Budget)?;
    meter.value(&dims)?;
    let mut dice = Dice::new(seed.wrapping_mul(0x1234_5678_9abc_def1) ^ id as u64);
    Ok(Arc::new(match kind {
        Kind::Text => Tensor::texts(dims, vec![Arc::from(&b"x"[..]); n]),
        Kind::Bool => Tensor::int(kind, dims, (0..n).map(|_| dice.below(2) as i64).collect()),
        k if k.is_float() => Tensor::float(kind, dims, (0..n).map(|_| dice.normal()).collect()),
        _ => Tensor::int(kind, dims, (0..n).map(|_| dice.below(4) as i64).collect()),
    }))
}

fn compare(shut: &Tensor, open: &Tensor, other_shut: &Tensor, other_open: &Tensor) -> Effect {
    if shut.dims != open.dims || other_shut.dims != other_open.dims {
        return Effect::Other;
    }
    if let (Data::Text(a), Data::Text(b)) = (&shut.data, &open.data) {
        return match a == b {
            true => Effect::None,
            false => Effect::Constant { zero: false },
        };
    }
    let four = [shut, open, other_shut, other_open].map(Tensor::to_floats);
    let [Ok(shut), Ok(open), Ok(other_shut), Ok(other_open)] = four else {
        return Effect::None;
    };
    let most = |v: &[f64]| v.iter().fold(0f64, |m, x| m.max(x.abs()));
    let apart = |a: &[f64], b: &[f64]| {
        let pairs = a.iter().zip(b);
        pairs.fold(
            0f64,
            |m, (x, y)| if x == y { m } else { m.max((x - y).abs()) },
        )
    };
    let scale = most(&shut).max(1e-3);
    let change = apart(&open, &shut);
    if change.is_nan() || change <= CHANGE * scale.max(1.0) {
        return Effect::None;
    }
    let depends = apart(&shut, &other_shut) > CHANGE * scale;
    let still = apart(&open, &other_open) <= CHANGE * scale;
    if depends && still {
        let zero = most(&open) == 0.0;
        return Effect::Constant { zero };
    }
    if !depends {
        // Nothing of the trunk was in it before.
        return Effect::None;
    }
    let fixed = |i: usize| {
        let get = |v: &[f64]| v.get(i).copied().unwrap_or(f64::NAN);
        let (a, b) = (get(&open), get(&other_open));
        // What is large takes the rest in by rounding.
        (a - b).abs() <= 1e-6 * a.abs() && get(&shut) != get(&other_shut)
    };
    let held: Vec<f64> = (0..open.len())
        .filter(|&i| fixed(i))
        .filter_map(|i| open.get(i).copied())
        .collect();
    if held.len() * 2 > open.len() {
        return Effect::Constant {
            zero: most(&held) == 0.0,
        };
    }
    let set: Vec<usize> = (0..open.len()).filter(|&i| fixed(i)).collect();
    let rest_stays = (0..open.len()).all(|i| fixed(i) || open.get(i) == shut.get(i));
    if !set.is_empty() && rest_stays {
        let least = shut.iter().copied().fold(f64::INFINITY, f64::min);
        let lower = |&i: &usize| open.get(i).is_some_and(|x| *x <= least);
        return Effect::Set {
            touched: set.len(),
            of: open.len(),
            lowers: set.iter().all(lower),
        };
    }
    let added: Vec<f64> = open.iter().zip(&shut).map(|(a, b)| a - b).collect();
    let again: Vec<f64> = other_open
        .iter()
        .zip(&other_shut)
        .map(|(a, b)| a - b)
        .collect();
    if apart(&added, &again) <= 1e-4 * most(&added).max(1.0) {
        let high = most(&added);
        return Effect::Added {
            most: high,
            touched: added.iter().filter(|x| x.abs() > high * 1e-3).count(),
            of: added.len(),
            lowers: added.iter().all(|x| *x <= high * 1e-3),
        };
    }
    let dot: f64 = open.iter().zip(&shut).map(|(a, b)| a * b).sum();
    let norm: f64 = shut.iter().map(|b| b * b).sum();
    let by = dot / norm;
    let scaled: Vec<f64> = shut.iter().map(|x| x * by).collect();
    if apart(&open, &scaled) <= 1e-3 * most(&open).max(scale * 1e-3) {
        return Effect::Scaled(by);
    }
    let sorted = |v: &[f64]| {
        let mut v = v.to_vec();
        v.sort_by(f64::total_cmp);
        v
    };
    if open.len() > 1 && apart(&sorted(&open), &sorted(&shut)) <= CHANGE * scale {
        return Effect::Permuted;
    }
    if most(&open) > GAIN * 5.0 * scale {
        return Effect::Drowned;
    }
    Effect::Other
}
