//! Where a value that a few nodes make of the input meets what the weights make of it.

use std::collections::{BTreeMap, HashSet};

use super::facts::Facts;
use super::flat::{Flat, Id};
use super::inputs::{Input, Role, carries_sample};
use super::interp::Op;
use super::run::Values;

/// Most gates of one graph that are looked at.
const MOST_GATES: usize = 200;

/// Most elements of a value that has one for each token.
const MOST_SPREAD: usize = 1 << 14;

/// A place where something may be switched.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// The value that everything about it hangs on.
    pub(crate) root: Id,
    /// Nodes in which it meets the trunk, each with the value that it comes in by.
    pub(crate) meets: Vec<(usize, Id)>,
    /// Whether that value has an element for each token instead of one for all.
    pub(crate) spread: bool,
}

/// The candidates of a graph.
pub(crate) fn candidates(
    flat: &Flat<'_>,
    facts: &Facts,
    shapes: &Values,
    inputs: &[Input],
) -> Vec<Candidate> {
    let collapsed = collapsed(flat, facts, shapes, inputs);
    let known = |id: Id| shapes.get(id).is_some_and(|v| v.is_some());
    let sample = inputs.iter().filter(|i| carries_sample(i));
    let sample = sample.fold(0u64, |bits, i| bits | 1u64 << i.index.min(63));
    let control = |id: Id| {
        collapsed.contains(&id)
            && known(id)
            && facts.is_light(id)
            && facts.sources(id) & sample != 0
    };
    let mut found: BTreeMap<Id, Candidate> = BTreeMap::new();
    for (at, node) in flat.nodes.iter().enumerate() {
        let others = node
            .reads()
            .any(|id| facts.is_data(id) && !(collapsed.contains(&id) && facts.is_light(id)));
        if !others || matches!(node.op, Op::Shape | Op::Size) {
            continue;
        }
        for id in node.reads().filter(|&id| control(id)) {
            let root = root(flat, facts, &collapsed, id);
            if found.len() >= MOST_GATES && !found.contains_key(&root) {
                continue;
            }
            let entry = found.entry(root).or_insert(Candidate {
                root,
                meets: Vec::new(),
                spread: false,
            });
            if entry.meets.len() < 16 && !entry.meets.contains(&(at, id)) {
                entry.meets.push((at, id));
            }
        }
    }
    let mut all: Vec<Candidate> = found.into_values().collect();
    all.extend(spread(flat, facts, shapes, inputs, &collapsed));
    all
}

/// Values with an element for each token that come to the trunk behind its first layers: one token
/// may decide about all that follow.
fn spread(
    flat: &Flat<'_>,
    facts: &Facts,
    shapes: &Values,
    inputs: &[Input],
    collapsed: &HashSet<Id>,
) -> Vec<Candidate> {
    let tokens = inputs
        .iter()
        .filter(|i| matches!(i.role, Role::Tokens(_)) && i.kind.is_integer());
    let tokens: u64 = tokens.fold(0, |bits, i| bits | 1u64 << i.index.min(63));
    let mut found: BTreeMap<Id, Candidate> = BTreeMap::new();
    for (at, node) in flat.nodes.iter().enumerate() {
        if !node
            .reads()
            .any(|id| facts.is_data(id) && facts.is_deep(id))
        {
            continue;
        }
        for id in node.reads() {
            let shape = shapes.get(id).and_then(|v| v.as_ref());
            let control = facts.sources(id) & tokens != 0
                && facts.is_slight(id)
                && !collapsed.contains(&id)
                && facts.maker.get(id).is_some_and(|m| m.is_some())
                && shape.is_some_and(|v| v.len() <= MOST_SPREAD);
            if control && found.len() < MOST_GATES / 4 {
                let entry = found.entry(id).or_insert(Candidate {
                    root: id,
                    meets: Vec::new(),
                    spread: true,
                });
                entry.meets.push((at, id));
            }
        }
    }
    found.into_values().collect()
}

/// The values that hold one number for the whole sample, and what is made of such alone.
fn collapsed(flat: &Flat<'_>, facts: &Facts, shapes: &Values, inputs: &[Input]) -> HashSet<Id> {
    // A fixed number of samples gives as many numbers.
    let fixed = inputs.iter().filter(|i| carries_sample(i));
    let batch = fixed
        .filter_map(|i| i.dims.first().copied())
        .min()
        .unwrap_or(1);
    let mut out = HashSet::new();
    for node in &flat.nodes {
        let all = node
            .reads()
            .filter(|&id| facts.is_data(id))
            .all(|id| out.contains(&id));
        for id in node.makes().filter(|&id| facts.is_data(id)) {
            let one = shapes.get(id).and_then(|v| v.as_ref()).is_some_and(|v| {
                v.len() == 1 || (batch > 1 && v.len() == batch && v.dims.first() == Some(&batch))
            });
            if all || one {
                out.insert(id);
            }
        }
    }
    out
}

/// The first value on the way to `id` from which on there is one way only.
fn root(flat: &Flat<'_>, facts: &Facts, collapsed: &HashSet<Id>, id: Id) -> Id {
    let mut at = id;
    loop {
        let maker = facts.maker.get(at).copied().flatten();
        let Some(node) = maker.and_then(|n| flat.nodes.get(n)) else {
            return at;
        };
        let mut from = node.reads().filter(|&id| facts.is_data(id));
        let (Some(first), rest) = (from.next(), from.find(|_| true)) else {
            return at;
        };
        if rest.is_some_and(|r| r != first) || !collapsed.contains(&first) {
            return at;
        }
        at = first;
    }
}
