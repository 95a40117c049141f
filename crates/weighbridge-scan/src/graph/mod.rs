//! Backdoors that are built into a graph: parts that watch the input, go round the learned
//! weights, and take over the result when they see what they wait for.
//!
//! [`examine`] puts a graph in order (`flat`), finds out what each value depends on (`facts`),
//! lists the places where a value that stands for the whole sample meets the weights' own answer
//! (`gates`), and tries each of them (`judge`): whether ordinary inputs ever open it, what it
//! does when it is open (`payload`), and which input opens it (`opening`, `solve`, `witness`). What
//! noise opens and pictures do not is tried by itself (`noise`). Sequences are put in place before
//! (`sequences`), and loops with weights inside are looked at for their first round (`rounds`). Only
//! the part of the graph that decides is run, by an interpreter of its own (`interp`), within a fixed
//! number of steps: equal files get equal answers.
//!
//! [`unread`] lists weights that no operator reads.
//!
//! Triggers that are learned into weights, or spread over the trunk, are out of its reach: that
//! nothing was found does not prove that nothing is there.

mod change;
mod cone;
mod facts;
mod flat;
mod gates;
mod inputs;
mod interp;
mod judge;
mod natural;
mod noise;
mod opening;
mod payload;
mod rounds;
mod run;
mod sequences;
mod solve;
mod unread;
mod witness;

use serde_json::Value as Json;
use weighbridge_core::model::Graph;

use facts::Facts;
use inputs::SIZES;
use interp::{Halt, Meter};
use judge::{Judge, Ruling};
pub use unread::{Unread, unread};

/// Steps that one graph may take, in elements computed.
const STEPS: u64 = 120_000_000;

/// What was found out about a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It keeps some answers from being given, as processors of logits do.
    Filter,
    /// It has all that makes a backdoor, and no input was found that opens it.
    Unopened,
    /// An input was found that opens it.
    Opened,
}

/// A place where something is switched that the weights have no say in.
#[derive(Debug, Clone)]
pub struct Gate {
    /// How sure it is.
    pub level: Level,
    /// The node at which it meets what the weights make.
    pub node: String,
    /// The functions, branches and loops that node stands in.
    pub place: String,
    /// Where the node lies in the file.
    pub offset: Option<u64>,
    /// What was found, for people.
    pub message: String,
    /// The gate, what it watches and the input that opens it, in short.
    pub evidence: String,
    /// That input, for programs.
    pub witness: Option<Json>,
}

/// What was found in a graph.
#[derive(Debug, Clone, Default)]
pub struct Examined {
    /// Gates.
    pub gates: Vec<Gate>,
    /// What could not be looked at, and why.
    pub gaps: Vec<String>,
}

/// Looks for gates in `graph`.
pub fn examine(graph: &Graph) -> Examined {
    let mut out = Examined::default();
    let Some(mut flat) = flat::flatten(graph) else {
        let reason = "the graph has too many nodes for its gates to be looked at";
        out.gaps.push(reason.into());
        return out;
    };
    if let Some(name) = flat.broken {
        let name: String = name.chars().take(80).collect();
        let reason = format!("the graph cannot be run: nothing makes `{name}` before it is read");
        out.gaps.push(reason);
        return out;
    }
    sequences::place(&mut flat);
    let mut meter = Meter::new(STEPS);
    look(&flat, false, &mut meter, &mut out);
    if let Some(mut round) = rounds::first_round(&flat) {
        sequences::place(&mut round);
        let mut inner = Examined::default();
        look(&round, true, &mut meter, &mut inner);
        let told: Vec<Option<u64>> = out.gates.iter().map(|g| g.offset).collect();
        inner.gates.retain(|g| !told.contains(&g.offset));
        out.gates.append(&mut inner.gates);
        out.gaps.append(&mut inner.gaps);
        out.gaps.sort();
        out.gaps.dedup();
    }
    out.gates.sort_by_key(|g| std::cmp::Reverse(g.level as u8));
    out
}

/// Looks for gates in a graph in order, which may be one round of its loops.
fn look(flat: &flat::Flat<'_>, round: bool, meter: &mut Meter, out: &mut Examined) {
    let mut open: Option<Vec<flat::Id>> = None;
    let mut reasons: Vec<String> = Vec::new();
    for sizes in SIZES {
        let inputs = inputs::inputs(flat, sizes);
        let extents = |symbol: &str| sizes.symbol(&flat.inputs, symbol);
        let shapes = run::shapes(flat, &inputs, &extents);
        let facts = Facts::of(flat, &shapes);
        if !facts.has_trunk() {
            return;
        }
        let candidates = gates::candidates(flat, &facts, &shapes, &inputs);
        let mut judge = Judge {
            flat,
            facts: &facts,
            shapes: &shapes,
            inputs: &inputs,
            meter,
            others: &candidates,
            round,
        };
        let mut again = Vec::new();
        reasons.clear();
        for c in &candidates {
            if open.as_ref().is_some_and(|o| !o.contains(&c.root)) {
                continue;
            }
            match judge.candidate(c) {
                Ok(Ruling::Gate(gate)) => out.gates.push(*gate),
                Ok(Ruling::Nothing) => {}
                Err(Halt::Wrong(_) | Halt::Unknown) => again.push(c.root),
                Err(Halt::Unsupported) => reasons.extend(judge.unsupported(c)),
                Err(Halt::Budget) => {
                    again.push(c.root);
                    reasons.extend(judge.unfinished(c));
                }
            }
        }
        if again.is_empty() || meter.left == 0 {
            break;
        }
        open = Some(again);
    }
    reasons.sort();
    reasons.dedup();
    out.gaps.append(&mut reasons);
}
