//! Tries one gate: does it stay shut on ordinary inputs, what does it do, and what opens it?

use std::sync::Arc;

use super::change::{apart, close, is_local, strength};
use super::cone::Cone;
use super::facts::Facts;
use super::flat::{Flat, Id, Node};
use super::gates::Candidate;
use super::inputs::{Dice, Family, Input, ODD, ORDINARY, Role, carries_sample, sample};
use super::interp::value::{Kind, Tensor, Value};
use super::interp::{Binary, Halt, Meter, Op, Unary};
use super::opening::{Opening, SOLVE_STEPS};
use super::payload::{self, Effect, Payload};
use super::run::Values;
use super::witness::{self, Witness};
use super::{Gate, Level};

/// Ordinary inputs that a gate is tried on, at most, and the steps that may take.
const SAMPLES: usize = 600;
const LEAST_SAMPLES: usize = 24;
const SAMPLE_STEPS: u64 = 8_000_000;

/// Steps that making one element of an input counts for.
const SAMPLE_COST: u64 = 8;

/// How many in a thousand of them may open a gate that still counts as hidden.
const OPEN_PER_THOUSAND: usize = 30;

/// Steps that finding out what an open gate does may take, and how often that is done anew.
const PAYLOAD_STEPS: u64 = 16_000_000;
pub(super) const PAYLOADS: usize = 8;

/// Steps that running the whole graph may take.
const WHOLE_STEPS: u64 = 24_000_000;

/// What was made of a candidate.
#[derive(Debug)]
pub(crate) enum Ruling {
    Gate(Box<Gate>),
    Nothing,
}

/// What is needed to judge the candidates of one graph.
pub(crate) struct Judge<'j, 'g> {
    pub(crate) flat: &'j Flat<'g>,
    pub(crate) facts: &'j Facts,
    pub(crate) shapes: &'j Values,
    pub(crate) inputs: &'j [Input],
    pub(crate) meter: &'j mut Meter,
    /// All candidates of the graph.
    pub(crate) others: &'j [Candidate],
    /// Whether it is one round of a loop.
    pub(crate) round: bool,
}

/// The values of a gate where it meets the trunk, when it is shut.
pub(super) type Shut = Vec<(Id, Value)>;

impl<'g> Judge<'_, 'g> {
    pub(crate) fn candidate(&mut self, c: &Candidate) -> Result<Ruling, Halt> {
        let mut entries: Vec<Id> = c.meets.iter().map(|m| m.1).collect();
        entries.sort_unstable();
        entries.dedup();
        let mut cone = Cone::behind(
            self.flat,
            self.facts,
            self.inputs,
            self.shapes,
            &entries,
            self.meter,
        )?;
        if cone
            .nodes
            .iter()
            .all(|n| matches!(n.op, Op::Unary(Unary::IsNan | Unary::IsInf)))
        {
            return Ok(Ruling::Nothing);
        }
        let shut = self.shut(&mut cone, &entries, &ORDINARY)?;
        if let Some(shut) = &shut {
            let ruling = self.tried(c, &mut cone, shut)?;
            if matches!(ruling, Ruling::Gate(_)) {
                return Ok(ruling);
            }
        }
        self.noisy(c, &mut cone, &entries, shut.as_ref())
    }

    /// Tries a gate that no ordinary input opens.
    fn tried(&mut self, c: &Candidate, cone: &mut Cone<'g>, shut: &Shut) -> Result<Ruling, Halt> {
        // What it would do is cheap to learn, and settles most.
        let guess = self.guess(shut);
        let expected = self.payload(shut, &guess);
        let sure = shut.iter().all(|(_, v)| v.kind == Kind::Bool);
        if let Ok(p) = &expected
            && sure
            && p.effect == Effect::None
        {
            return Ok(Ruling::Nothing);
        }
        cone.unroll(self.flat);
        let found = self.open(cone, shut, c.spread)?;
        let Some(found) = found else {
            if c.spread {
                return Ok(Ruling::Nothing);
            }
            return Ok(self.unopened(c, cone, expected.ok()));
        };
        if c.spread && !found.payload.is_some_and(|p| p.effect.imposes()) {
            return Ok(Ruling::Nothing);
        }
        let blank = |f: &Family| matches!(f, Family::Same(_) | Family::Even(..) | Family::Bright);
        self.opened(c, cone, shut, &found, &blank)
    }

    /// Runs ordinary inputs. Gives the values of the gate, unless it opens for some of them.
    pub(super) fn shut(
        &mut self,
        cone: &mut Cone<'g>,
        entries: &[Id],
        families: &[Family],
    ) -> Result<Option<Shut>, Halt> {
        let mut dice = Dice::new(7);
        let mut seen: Vec<Vec<(Value, usize)>> = vec![Vec::new(); entries.len()];
        let mut runs = 0usize;
        let mut most = SAMPLES;
        while runs < most {
            let family = families
                .get(runs % families.len().max(1))
                .copied()
                .unwrap_or(Family::Normal);
            let given = self.samples(cone, family, &mut dice)?;
            let ran = cone.run(self.inputs, &given, self.meter);
            if ran == Err(Halt::Budget) {
                return Err(Halt::Budget);
            }
            runs += 1;
            for (slot, &id) in seen.iter_mut().zip(entries) {
                let v = cone.value(id).ok_or(ran.err().unwrap_or(Halt::Unknown))?;
                match slot.iter_mut().find(|(s, _)| close(s, &v)) {
                    Some((_, n)) => *n += 1,
                    None => slot.push((v, 1)),
                }
            }
            if runs == 1 {
                let made: usize = given.iter().map(|v| v.len()).sum();
                let each = cone.cost.saturating_add(made as u64 * SAMPLE_COST).max(1);
                let affordable = SAMPLE_STEPS / each;
                most = (affordable as usize).clamp(LEAST_SAMPLES, SAMPLES);
            }
            // What varies is no hidden gate.
            let varies =
                |s: &Vec<(Value, usize)>| s.len() > 1 + runs * OPEN_PER_THOUSAND / 1000 + 2;
            if seen.iter().any(varies) {
                return Ok(None);
            }
        }
        let mut out = Vec::new();
        for (slot, &id) in seen.into_iter().zip(entries) {
            let best = slot.into_iter().max_by_key(|(_, n)| *n);
            match best {
                Some((v, n)) if (runs - n) * 1000 <= runs * OPEN_PER_THOUSAND => out.push((id, v)),
                _ => return Ok(None),
            }
        }
        Ok(Some(out))
    }

    /// Values for the inputs of a cone; the others get none that costs.
    pub(super) fn samples(
        &mut self,
        cone: &Cone<'g>,
        family: Family,
        dice: &mut Dice,
    ) -> Result<Vec<Value>, Halt> {
        let mut out = Vec::with_capacity(self.inputs.len());
        for (k, input) in self.inputs.iter().enumerate() {
            let used = cone.inputs.contains(&k);
            let v = sample(input, if used { family } else { Family::Same(0.5) }, dice);
            let cost = if used { SAMPLE_COST } else { 1 };
            self.meter.spend(v.len().saturating_mul(cost as usize))?;
            out.push(v);
        }
        Ok(out)
    }

    /// What the gate's values might be when it is open.
    fn guess(&self, shut: &Shut) -> Vec<(Id, Value)> {
        let flip = |v: &Value| -> Value {
            let all: Vec<f64> = v.to_floats().unwrap_or_default();
            let other = |x: f64| match x {
                x if v.kind == Kind::Bool => 1.0 - x,
                0.0 => 1.0,
                1.0 => 0.0,
                x => x + 1.0,
            };
            let all = all.into_iter().map(other).collect();
            match v.kind {
                Kind::Text => v.clone(),
                k => Arc::new(Tensor::numbers(k, v.dims.clone(), all)),
            }
        };
        shut.iter().map(|(id, v)| (*id, flip(v))).collect()
    }

    pub(super) fn payload(&mut self, shut: &Shut, open: &[(Id, Value)]) -> Result<Payload, Halt> {
        let gate: Vec<(Id, Value, Value)> = shut
            .iter()
            .zip(open)
            .map(|((id, a), (_, b))| (*id, a.clone(), b.clone()))
            .collect();
        // Its own budget: what is gated may be large.
        let mut meter = Meter::new(PAYLOAD_STEPS);
        let done = payload::judge(self.flat, self.facts, self.shapes, &gate, &mut meter);
        let spent = PAYLOAD_STEPS.saturating_sub(meter.left);
        self.meter.left = self.meter.left.saturating_sub(spent);
        done
    }

    /// No input was found: whether what stands there is enough to say so.
    fn unopened(&self, c: &Candidate, cone: &Cone<'g>, payload: Option<Payload>) -> Ruling {
        let sure = |p: &Payload| p.late && p.effect.destroys(true) && !self.round;
        let Some(p) = payload.filter(sure) else {
            return Ruling::Nothing;
        };
        let constant = |n: &Node<'g>| n.reads().any(|id| !cone.moving.contains(&id));
        // Less than this apart is as good as equal.
        let apart = |id: Option<Id>| {
            let made = |m: &&Node<'g>| m.makes().any(|o| Some(o) == id);
            let from = cone.nodes.iter().find(made);
            from.is_some_and(|m| matches!(m.op, Op::Unary(Unary::Abs)))
        };
        let compares = cone
            .nodes
            .iter()
            .filter(|n| constant(n))
            .any(|n| match n.op {
                Op::Binary(Binary::Equal) => true,
                Op::Binary(Binary::Less | Binary::LessOrEqual) => apart(n.reads().next()),
                Op::Binary(Binary::Greater | Binary::GreaterOrEqual) => apart(n.reads().last()),
                _ => false,
            });
        let guards = cone
            .nodes
            .iter()
            .any(|n| matches!(n.op, Op::Unary(Unary::IsNan | Unary::IsInf)));
        if !compares || guards {
            return Ruling::Nothing;
        }
        let mut gate = self.gate(c, cone, Level::Unopened, p);
        gate.message = format!(
            "a gate that no ordinary input opens watches {} past the weights and, once open, {}; \
             no input that opens it was found",
            self.watched(cone),
            p.effect.text()
        );
        Ruling::Gate(Box::new(gate))
    }

    /// An input was found: what it shows.
    pub(super) fn opened(
        &mut self,
        c: &Candidate,
        cone: &mut Cone<'g>,
        shut: &Shut,
        found: &Opening,
        blank: &dyn Fn(&Family) -> bool,
    ) -> Result<Ruling, Halt> {
        let held = shut.clone();
        let enough = found.strength * 0.9;
        // What divides by nothing on blank inputs is not what was found, unless it was.
        let undefined = found.undefined;
        let reached =
            move |c: &Cone<'g>| strength(c, &held) >= enough && (undefined || !c.is_undefined());
        let Some(p) = found.payload else {
            return Err(Halt::Unsupported);
        };
        let blind = c.meets.iter().any(|m| {
            let met = self.flat.nodes.get(m.0);
            met.is_some_and(|n| n.op == Op::Other && is_standard(&n.node.domain))
        });
        if p.effect == Effect::None && blind {
            return Err(Halt::Unsupported);
        }
        if p.effect.suppresses() && !c.spread {
            let mut gate = self.gate(c, cone, Level::Filter, p);
            gate.message = format!(
                "what {} holds keeps some answers from being given, as processors of logits do",
                self.watched(cone)
            );
            return Ok(Ruling::Gate(Box::new(gate)));
        }
        if !p.effect.destroys(p.late) {
            return Ok(Ruling::Nothing);
        }
        let mut left = Meter::new(SOLVE_STEPS);
        let witness = match witness::reduce(cone, self.inputs, &found.given, &reached, &mut left) {
            Ok(w) => w,
            Err(_) => return Ok(self.unopened(c, cone, Some(p))),
        };
        // What one round of a loop makes of its own token is about that token: an end, or padding.
        let of_tokens = |i: &Input| matches!(i.role, Role::Tokens(_) | Role::Texts);
        if self.round && witness.touched < 2 && self.watches(cone).any(of_tokens) {
            return Ok(Ruling::Nothing);
        }
        if self.is_guard(cone, &witness, &reached, blank) {
            return Ok(Ruling::Nothing);
        }
        let open: Option<Vec<(Id, Value)>> = shut
            .iter()
            .map(|(id, _)| Some((*id, cone.value(*id)?)))
            .collect();
        let p = match open.map(|o| self.payload(shut, &o)) {
            Some(Ok(again)) if again.effect.destroys(again.late) => again,
            _ => p,
        };
        if c.spread && is_local(cone, shut, &witness, self.inputs) {
            return Ok(Ruling::Nothing);
        }
        let mut witness = witness;
        let mut seen = self.whole(shut, &witness.inputs);
        if seen == Some(0.0) {
            // Another gate may have to open as well.
            let Some((joint, by)) = self.jointly(c, shut, &witness.inputs) else {
                return Ok(Ruling::Nothing);
            };
            witness = joint;
            seen = Some(by);
        }
        let mut gate = self.gate(c, cone, Level::Opened, p);
        let confirmed = match seen {
            Some(by) => format!("; in the whole graph an output then differs by {by:.4}"),
            None => String::new(),
        };
        gate.message = format!(
            "a gate that no ordinary input opens watches {} past the weights and, once open, {}; \
             an input that opens it was found{confirmed}",
            self.watched(cone),
            p.effect.text()
        );
        let shown = witness.text(self.inputs, &cone.inputs);
        gate.evidence = format!("{}; opened by {shown}", gate.evidence);
        gate.witness = Some(witness.json(self.inputs));
        Ok(Ruling::Gate(Box::new(gate)))
    }

    /// Whether it only acts on inputs that are odd as a whole: silence, or a blank image.
    fn is_guard(
        &self,
        cone: &mut Cone<'g>,
        w: &Witness,
        reached: &dyn Fn(&Cone<'g>) -> bool,
        blank: &dyn Fn(&Family) -> bool,
    ) -> bool {
        if w.blank && self.watches(cone).all(|i| i.role == Role::Reals) {
            return true;
        }
        if w.touched < 8 || w.touched * 5 <= w.of * 3 {
            return false;
        }
        let mut meter = Meter::new(SOLVE_STEPS);
        for family in ODD.iter().filter(|f| blank(f)) {
            let mut dice = Dice::new(3);
            let given: Vec<Value> = self
                .inputs
                .iter()
                .map(|i| sample(i, *family, &mut dice))
                .collect();
            if cone.run(self.inputs, &given, &mut meter) != Err(Halt::Budget) && reached(cone) {
                return true;
            }
        }
        let _ = cone.run(self.inputs, &w.inputs, &mut meter);
        false
    }

    /// Runs the whole graph on `given`, with the gate open and held shut, and gives the greatest
    /// difference of an output; `None` where that is not feasible.
    pub(super) fn whole(&mut self, shut: &Shut, given: &[Value]) -> Option<f64> {
        let mut meter = Meter::new(WHOLE_STEPS.min(self.meter.left));
        let before = meter.left;
        let seen = self.whole_within(shut, given, &mut meter);
        let spent = before.saturating_sub(meter.left);
        self.meter.left = self.meter.left.saturating_sub(spent);
        seen
    }

    fn whole_within(&self, shut: &Shut, given: &[Value], meter: &mut Meter) -> Option<f64> {
        let outputs = &self.flat.outputs;
        let mut cone = Cone::behind(
            self.flat,
            self.facts,
            self.inputs,
            self.shapes,
            outputs,
            meter,
        )
        .ok()?;
        cone.run(self.inputs, given, meter).ok()?;
        let open: Vec<Option<Value>> = outputs.iter().map(|&o| cone.value(o)).collect();
        cone.run_holding(self.inputs, given, shut, meter).ok()?;
        let mut most: Option<f64> = None;
        for (open, &o) in open.iter().zip(outputs) {
            let (Some(a), Some(b)) = (open, cone.value(o)) else {
                continue;
            };
            let by = match a.dims == b.dims {
                true => apart(a, &b)?,
                false => f64::INFINITY,
            };
            most = Some(most.unwrap_or(0.0).max(by));
        }
        most
    }

    /// The inputs that the gate looks at.
    pub(super) fn watches(&self, cone: &Cone<'g>) -> impl Iterator<Item = &Input> {
        let all = cone.inputs.iter().filter_map(|&i| self.inputs.get(i));
        all.filter(|i| carries_sample(i))
    }

    /// The same for a report.
    fn watched(&self, cone: &Cone<'g>) -> String {
        let names: Vec<&str> = self
            .watches(cone)
            .take(3)
            .map(|i| i.name.as_str())
            .collect();
        format!("`{}`", names.join("`, `"))
    }

    fn gate(&self, c: &Candidate, cone: &Cone<'g>, level: Level, p: Payload) -> Gate {
        let met = c.meets.first().and_then(|m| self.flat.nodes.get(m.0));
        let mut names: Vec<&str> = cone
            .nodes
            .iter()
            .map(|n| n.node.operator.as_str())
            .collect();
        names.dedup();
        let long = names.len() > 12;
        names.truncate(12);
        let name = |id: Id| self.flat.values.get(id).map_or("", |v| v.name);
        let entry = c.meets.first().map_or("", |m| name(m.1));
        let percent = c.meets.first().map_or(0.0, |m| self.facts.percent(m.1));
        Gate {
            level,
            node: met.map(|n| n.title()).unwrap_or_default(),
            place: met.map(|n| n.place.to_string()).unwrap_or_default(),
            offset: met.and_then(|n| n.node.offset),
            message: String::new(),
            evidence: format!(
                "{} takes {entry} from {}{} ({percent:.1}% of the weights) and {}",
                met.map(|n| n.title()).unwrap_or_default(),
                names.join(" → "),
                if long { " …" } else { "" },
                p.effect.text(),
            ),
            witness: None,
        }
    }

    /// The operators that keep a candidate from being run, where it matters.
    pub(crate) fn unsupported(&self, c: &Candidate) -> Vec<String> {
        let met = c.meets.first().and_then(|m| self.flat.nodes.get(m.0));
        let Some(met) = met else { return Vec::new() };
        vec![format!(
            "what decides at {} comes from, or goes to, operators that this version does not run",
            met.title()
        )]
    }

    /// A candidate for which the steps did not suffice.
    pub(crate) fn unfinished(&self, c: &Candidate) -> Vec<String> {
        let met = c.meets.first().and_then(|m| self.flat.nodes.get(m.0));
        let Some(met) = met else { return Vec::new() };
        vec![format!(
            "what decides at {} takes too many steps to be tried",
            met.title()
        )]
    }
}

fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}
