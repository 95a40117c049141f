//! What a condition says of a trigger in the conversation or the clock.

use super::prose;
use super::value::{Kind, Taint, Value};
use crate::jinja::Compare;

/// What a comparison says of a trigger in the conversation or the clock.
pub(super) fn trigger(left: &Value, op: Compare, right: &Value) -> Taint {
    let source = Taint::CONTENT | Taint::CLOCK;
    let (l, r) = (left.taint.has(source), right.taint.has(source));
    let constant = match (l, r) {
        (true, false) => right,
        (false, true) => left,
        _ => return Taint::NONE,
    };
    match op {
        Compare::Ne | Compare::NotIn => hit(Some(constant)).negated(),
        Compare::Eq | Compare::In => hit(Some(constant)),
        // A number is a length; only the clock is compared like this with a text.
        _ => {
            let clock = (left.taint | right.taint).has(Taint::CLOCK);
            if clock && constant.text().is_some() {
                return Taint::HIT;
            }
            Taint::NONE
        }
    }
}

/// `HIT` when `constant` is something that somebody would have to write.
pub(super) fn hit(constant: Option<&Value>) -> Taint {
    let Some(constant) = constant else {
        return Taint::NONE;
    };
    let say = |v: &Value| v.as_str().is_some_and(|t| !prose::is_marker(t));
    let any = match &constant.kind {
        Kind::Str(_) => say(constant),
        Kind::List(items) | Kind::Either(items) => items.iter().any(say),
        _ => false,
    };
    if any { Taint::HIT } else { Taint::NONE }
}

/// The same for a method of a constant with a text as argument, or the other way round.
pub(super) fn sought<'v>(values: impl Iterator<Item = &'v Value>) -> Taint {
    let mut content = false;
    let mut found = Taint::NONE;
    for v in values {
        if v.taint.has(Taint::CONTENT | Taint::CLOCK) {
            content = true;
        } else {
            found = found | hit(Some(v));
        }
    }
    if content { found } else { Taint::NONE }
}
