//! Looks for an input that opens a gate: odd inputs first, then what the operators ask for, and
//! with other gates where one alone does nothing.

use super::change::strength;
use super::cone::Cone;
use super::flat::{Id, Node};
use super::gates::Candidate;
use super::inputs::{Dice, Family, ODD, ORDINARY};
use super::interp::value::{Kind, Tensor, Value};
use super::interp::{Halt, Meter, Op};
use super::judge::{Judge, PAYLOADS, Shut};
use super::payload::Payload;
use super::solve::{Solver, Want};
use super::witness::{self, Witness};

/// Steps that looking for an input may take, and how often it is begun anew.
pub(super) const SOLVE_STEPS: u64 = 24_000_000;
const ATTEMPTS: u64 = 48;

/// The part of the steps that odd inputs may take, and how many of them are tried in any case.
const ODD_PART: u64 = 3;
const LEAST_ODD: u64 = 4;

/// A change of a gate's value from which it counts as wide open.
const WIDE: f64 = 0.9;

/// Attempts after the first that opened a gate a little, to open it wide.
const MORE: u64 = 12;

/// How far the way from the trunk back to a single number is followed.
const MOST_STEPS_UP: usize = 64;

/// How many other gates are tried together with one, and how often.
const JOINTLY: usize = 6;
const JOINT_ATTEMPTS: u64 = 24;

/// A value of which something else is wanted than what it is.
struct Target {
    id: Id,
    len: usize,
    goals: Vec<Want>,
}

/// An input that opens a gate, and what then happens.
pub(super) struct Opening {
    pub(super) payload: Option<Payload>,
    pub(super) destroys: bool,
    pub(super) strength: f64,
    /// Whether something on the way is no number then.
    pub(super) undefined: bool,
    pub(super) given: Vec<Value>,
}

impl Opening {
    /// Which of several is worse.
    fn rank(&self) -> (bool, bool, bool, f64) {
        let known = self.payload.is_some();
        (self.destroys, !self.undefined, known, self.strength)
    }
}

impl<'g> Judge<'_, 'g> {
    /// Looks for an input that opens the gate, and gives the worst that it then does.
    pub(super) fn open(
        &mut self,
        cone: &mut Cone<'g>,
        shut: &Shut,
        spread: bool,
    ) -> Result<Option<Opening>, Halt> {
        let mut left = Meter::new(SOLVE_STEPS.min(self.meter.left));
        let before = left.left;
        let found = self.search(cone, shut, spread, &mut left);
        let spent = before.saturating_sub(left.left);
        self.meter.left = self.meter.left.saturating_sub(spent);
        match found {
            Err(Halt::Budget) => Ok(None),
            other => other,
        }
    }

    fn search(
        &mut self,
        cone: &mut Cone<'g>,
        shut: &Shut,
        spread: bool,
        meter: &mut Meter,
    ) -> Result<Option<Opening>, Halt> {
        let held = shut.clone();
        let reached = move |c: &Cone<'g>| strength(c, &held) > 0.0;
        let mut best: Option<Opening> = None;
        let mut seen: Vec<(Vec<Value>, Option<Payload>)> = Vec::new();
        let mut targets = Vec::new();
        for id in self.narrow(cone, shut, spread) {
            let Some(now) = cone.value(id) else {
                return Ok(None);
            };
            targets.push(Target {
                id,
                len: now.len(),
                goals: goals(&now),
            });
        }
        let mut last = ATTEMPTS + ODD.len() as u64;
        // Where one run costs much, most are for inputs that are looked for.
        let odd = meter.left / ODD_PART / cone.cost.max(1);
        let odd = odd.clamp(LEAST_ODD, ODD.len() as u64);
        let mut way = 0;
        while way < last {
            if way == odd {
                way = ODD.len() as u64;
            }
            let found = self.attempt(cone, &targets, way, &reached, meter)?;
            way += 1;
            let Some(given) = found else { continue };
            let open: Option<Vec<(Id, Value)>> = shut
                .iter()
                .map(|(id, _)| Some((*id, cone.value(*id)?)))
                .collect();
            let Some(open) = open else { continue };
            let values: Vec<Value> = open.iter().map(|o| o.1.clone()).collect();
            let known = seen
                .iter()
                .find(|(v, _)| v.iter().zip(&values).all(|(a, b)| a.same(b)));
            let payload = match known {
                Some((_, p)) => *p,
                None if seen.len() >= PAYLOADS => continue,
                None => {
                    let p = self.payload(shut, &open).ok();
                    seen.push((values, p));
                    p
                }
            };
            let next = Opening {
                destroys: payload.is_some_and(|p| p.effect.destroys(p.late)),
                payload,
                strength: strength(cone, shut),
                undefined: cone.is_undefined(),
                given,
            };
            let sound = next.destroys && !next.undefined;
            let wide = sound && next.strength >= WIDE;
            if sound {
                last = last.min(way + MORE);
            }
            if best.as_ref().is_none_or(|b| next.rank() > b.rank()) {
                best = Some(next);
            }
            if wide {
                break;
            }
        }
        Ok(best)
    }

    /// One attempt at opening a gate.
    fn attempt(
        &mut self,
        cone: &mut Cone<'g>,
        targets: &[Target],
        way: u64,
        reached: &dyn Fn(&Cone<'g>) -> bool,
        meter: &mut Meter,
    ) -> Result<Option<Vec<Value>>, Halt> {
        let mut dice = Dice::new(way.wrapping_add(1000));
        let odd = ODD.get(way as usize).copied();
        let family = odd.unwrap_or_else(|| {
            let all = [Family::Even(0.0, 1.0), Family::Normal, Family::Same(0.5)];
            all.get(way as usize % all.len())
                .copied()
                .unwrap_or(Family::Normal)
        });
        let start = self.samples(cone, family, &mut dice)?;
        meter.spend(start.iter().map(|v| v.len()).sum())?;
        let mut solver = Solver::new(cone, self.inputs, meter);
        if odd.is_some() {
            // Odd inputs as they are.
            solver.run(&start)?;
            let opens = reached(cone) && !cone.is_undefined();
            return Ok(opens.then_some(start));
        }
        let turn = (way as usize).saturating_sub(ODD.len());
        let Some(target) = targets.get(turn % targets.len().max(1)) else {
            return Ok(None);
        };
        let turn = turn / targets.len().max(1);
        let Some(goal) = target.goals.get(turn % target.goals.len().max(1)) else {
            return Ok(None);
        };
        // Of one element for each token the last is tried: it is behind all others.
        let last = target.len.saturating_sub(1);
        solver.attempt(&[(target.id, last, goal.clone())], start, way, reached)
    }

    /// The last value on the way to the trunk that is one number; where there is one for each
    /// token, the last and the first of as few elements, between which a comparison may stand.
    fn narrow(&self, cone: &Cone<'g>, shut: &Shut, spread: bool) -> Vec<Id> {
        let smallest = shut.iter().min_by_key(|(_, v)| v.len());
        let Some((mut id, _)) = smallest.cloned() else {
            return Vec::new();
        };
        let len = |id: Id| cone.value(id).map_or(0, |v| v.len());
        let mut near = id;
        for _ in 0..MOST_STEPS_UP {
            if cone.value(id).is_none_or(|v| v.len() <= 1) {
                break;
            }
            let maker = cone.nodes.iter().rev().find(|n| n.makes().any(|o| o == id));
            let plain = |n: &&Node<'g>| {
                matches!(
                    n.op,
                    Op::Binary(_) | Op::Unary(_) | Op::Move(_) | Op::Clip | Op::Cast
                )
            };
            let maker = maker.filter(|n| !spread || plain(n));
            let mut from = maker
                .iter()
                .flat_map(|n| n.reads())
                .filter(|r| cone.moving.contains(r));
            match (from.next(), from.next()) {
                (Some(one), None) => id = one,
                _ => break,
            }
            if len(id) < len(near) {
                near = id;
            }
        }
        match spread && near != id && len(near) == len(id) {
            true => vec![near, id],
            false if spread => vec![id],
            false => vec![self.flag(cone, id)],
        }
    }

    /// The flag that one number is made of and nothing else, or that number itself.
    fn flag(&self, cone: &Cone<'g>, number: Id) -> Id {
        let mut id = number;
        for _ in 0..MOST_STEPS_UP {
            match cone.value(id) {
                Some(v) if v.len() == 1 && v.kind == Kind::Bool => return id,
                Some(v) if v.len() == 1 => {}
                _ => return number,
            }
            let maker = cone.nodes.iter().rev().find(|n| n.makes().any(|o| o == id));
            let mut from = maker
                .iter()
                .flat_map(|n| n.reads())
                .filter(|r| cone.moving.contains(r));
            match (from.next(), from.next()) {
                (Some(one), None) => id = one,
                _ => return number,
            }
        }
        number
    }

    /// Looks for an input that opens another gate too, so that an output changes.
    pub(super) fn jointly(
        &mut self,
        c: &Candidate,
        shut: &Shut,
        start: &[Value],
    ) -> Option<(Witness, f64)> {
        let own = shut.first()?.0;
        let others = self.others.iter().filter(|o| o.root != c.root && !o.spread);
        let others: Vec<Id> = others
            .filter_map(|o| o.meets.first().map(|m| m.1))
            .collect();
        for &other in others.iter().take(JOINTLY) {
            let mut meter = Meter::new(SOLVE_STEPS.min(self.meter.left));
            let found = self.pair(own, other, shut, start, &mut meter);
            self.meter.left = self.meter.left.saturating_sub(SOLVE_STEPS / 4);
            if let Ok(Some(w)) = found
                && let Some(by) = self.whole(shut, &w.inputs).filter(|by| *by > 0.0)
            {
                return Some((w, by));
            }
        }
        None
    }

    fn pair(
        &mut self,
        own: Id,
        other: Id,
        shut: &Shut,
        start: &[Value],
        meter: &mut Meter,
    ) -> Result<Option<Witness>, Halt> {
        let both = [own, other];
        let (flat, facts) = (self.flat, self.facts);
        let mut cone = Cone::behind(flat, facts, self.inputs, self.shapes, &both, meter)?;
        let Some(second) = self.shut(&mut cone, &[other], &ORDINARY)? else {
            return Ok(None);
        };
        cone.unroll(self.flat);
        let mut held: Shut = shut.iter().filter(|s| s.0 == own).cloned().collect();
        held.extend(second);
        let all = held.clone();
        let reached = move |c: &Cone<'g>| all.iter().all(|s| strength(c, &vec![s.clone()]) > 0.0);
        let wants: Vec<Vec<Want>> = held.iter().map(|(_, v)| goals(v)).collect();
        for way in 0..JOINT_ATTEMPTS {
            let one = |(w, (id, _)): (&Vec<Want>, &(Id, Value))| {
                w.get(way as usize % w.len().max(1))
                    .map(|w| (*id, 0, w.clone()))
            };
            let wants: Vec<_> = wants.iter().zip(&held).filter_map(one).collect();
            let mut solver = Solver::new(&mut cone, self.inputs, meter);
            if let Some(given) = solver.attempt(&wants, start.to_vec(), way, &reached)? {
                return witness::reduce(&mut cone, self.inputs, &given, &reached, meter).map(Some);
            }
        }
        Ok(None)
    }
}

/// What is tried to be had of a value in place of what it is.
fn goals(now: &Tensor) -> Vec<Want> {
    let x = now.at(0).unwrap_or(0.0);
    let open = f64::INFINITY;
    match now.kind {
        Kind::Bool => vec![Want::exactly(1.0 - x)],
        k if k.is_float() => vec![
            Want::Range(x + 0.9, open),
            Want::Range(-open, x - 0.9),
            Want::Range(x + 20.0, open),
            Want::Range(-open, x - 20.0),
            Want::Range(x + 0.05, open),
            Want::Range(-open, x - 0.05),
        ],
        _ => vec![
            Want::Range(x + 1.0, open),
            Want::Range(-open, x - 1.0),
            Want::exactly(x + 1.0),
        ],
    }
}
