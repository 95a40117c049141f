//! Gates that stand open on noise and shut on what pictures and recordings look like.

use super::change::{close, strength};
use super::cone::Cone;
use super::flat::Id;
use super::gates::Candidate;
use super::inputs::{Dice, Family, NATURAL, NOISE, is_sensed};
use super::interp::Halt;
use super::interp::value::Value;
use super::judge::{Judge, Ruling, Shut};
use super::opening::Opening;
use super::payload::Effect;

/// How often noise is tried.
const TRIES: usize = 9;

impl<'g> Judge<'_, 'g> {
    /// Tries a gate that noise opens, or on which noise says nothing: `plain` is what it is on
    /// noise, where that is always the same.
    pub(super) fn noisy(
        &mut self,
        c: &Candidate,
        cone: &mut Cone<'g>,
        entries: &[Id],
        plain: Option<&Shut>,
    ) -> Result<Ruling, Halt> {
        if c.spread || !self.watches(cone).all(is_sensed) {
            return Ok(Ruling::Nothing);
        }
        let Some(shut) = self.shut(cone, entries, &NATURAL)? else {
            return Ok(Ruling::Nothing);
        };
        let same = |(a, b): (&(Id, Value), &(Id, Value))| a.0 == b.0 && close(&a.1, &b.1);
        if plain.is_some_and(|p| p.len() == shut.len() && p.iter().zip(&shut).all(same)) {
            return Ok(Ruling::Nothing);
        }
        let mut best: Option<Opening> = None;
        let mut dice = Dice::new(11);
        for turn in 0..TRIES {
            let family = NOISE.get(turn % NOISE.len()).copied();
            let family = family.unwrap_or(Family::Normal);
            let given = self.samples(cone, family, &mut dice)?;
            if cone.run(self.inputs, &given, self.meter) == Err(Halt::Budget) {
                return Err(Halt::Budget);
            }
            let strength = strength(cone, &shut);
            if strength == 0.0 || best.as_ref().is_some_and(|b| b.strength >= strength) {
                continue;
            }
            let open: Option<Vec<_>> = shut
                .iter()
                .map(|(id, _)| Some((*id, cone.value(*id)?)))
                .collect();
            let Some(Ok(p)) = open.map(|o| self.payload(&shut, &o)) else {
                continue;
            };
            // What falls silent on noise may well be meant to.
            let mutes = match p.effect {
                Effect::Constant { zero } => zero,
                Effect::Scaled(by) => by.abs() <= 0.05,
                _ => false,
            };
            // Beyond the range that inputs have, a fixed answer may well be a refusal.
            let fixed = matches!(
                p.effect,
                Effect::Constant { .. } | Effect::Set { .. } | Effect::Added { .. }
            );
            let refuses = fixed && family == Family::Normal;
            if p.effect.destroys(p.late) && !mutes && !refuses {
                best = Some(Opening {
                    payload: Some(p),
                    destroys: true,
                    undefined: cone.is_undefined(),
                    strength,
                    given,
                });
            }
        }
        let Some(found) = best else {
            return Ok(Ruling::Nothing);
        };
        cone.unroll(self.flat);
        let blank = |f: &Family| match f {
            Family::Same(_) => true,
            Family::Even(a, b) => b - a < 0.2,
            _ => false,
        };
        self.opened(c, cone, &shut, &found, &blank)
    }
}
