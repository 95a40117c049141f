//! How a gate's values differ from what they are when it is shut.

use super::cone::Cone;
use super::flat::Id;
use super::inputs::{Input, carries_sample};
use super::interp::value::{Kind, Tensor, Value};
use super::judge::Shut;
use super::witness::Witness;

/// Whether a value is what another is, but for rounding.
pub(super) fn close(a: &Tensor, b: &Tensor) -> bool {
    if a.dims != b.dims || a.kind != b.kind {
        return false;
    }
    if a.kind == Kind::Text {
        return a == b;
    }
    let (Ok(x), Ok(y)) = (a.to_floats(), b.to_floats()) else {
        return false;
    };
    x.iter()
        .zip(&y)
        .all(|(x, y)| x == y || (x - y).abs() <= 1e-3 * x.abs().max(1.0))
}

/// As many tokens as one looks at when they are far apart.
const FEW_TOKENS: usize = 8;

/// Whether a value with an element for each token only changes where the tokens were set.
pub(super) fn is_local(cone: &Cone<'_>, shut: &Shut, w: &Witness, inputs: &[Input]) -> bool {
    let set: Vec<usize> = inputs
        .iter()
        .zip(w.places())
        .filter(|(i, _)| carries_sample(i))
        .flat_map(|(i, places)| {
            let row = i.dims.last().copied().unwrap_or(1).max(1);
            places.into_iter().map(move |p| p % row)
        })
        .collect();
    let Some(first) = set.iter().copied().min() else {
        return true;
    };
    let span = set.iter().copied().max().unwrap_or(first) - first;
    let length = inputs
        .iter()
        .filter(|i| carries_sample(i))
        .filter_map(|i| i.dims.last())
        .max();
    let length = length.copied().unwrap_or(1);
    // Few tokens far from each other are counted or remembered, not looked at together.
    if set.len() <= FEW_TOKENS && span > set.len() * 2 && length > span {
        return false;
    }
    let far = |at: usize| set.iter().all(|s| s.abs_diff(at) > span + 1);
    let moved = |(id, v): &(Id, Value)| {
        let now = cone.value(*id).filter(|n| n.dims == v.dims)?;
        let axis = v.dims.iter().rposition(|&d| d == length)?;
        let run = super::interp::value::strides(&v.dims)
            .get(axis)
            .copied()?
            .max(1);
        let any = (0..v.len()).any(|i| v.at(i) != now.at(i) && far(i / run % length.max(1)));
        Some(any)
    };
    !shut.iter().filter_map(moved).any(|m| m)
}

/// How far a gate's values are from what they are when it is shut; zero where they are the same.
pub(super) fn strength(cone: &Cone<'_>, shut: &Shut) -> f64 {
    let one = |(id, v): &(Id, Value)| {
        let now = cone
            .value(*id)
            .filter(|now| !close(v, now) && !now.is_undefined())?;
        apart(v, &now).filter(|_| now.dims == v.dims)
    };
    shut.iter().filter_map(one).fold(0.0, f64::max)
}

pub(super) fn apart(a: &Tensor, b: &Tensor) -> Option<f64> {
    if a.kind == Kind::Text {
        return Some(f64::from(u8::from(a != b)));
    }
    let (x, y) = (a.to_floats().ok()?, b.to_floats().ok()?);
    Some(x.iter().zip(&y).fold(
        0f64,
        |m, (x, y)| if x == y { m } else { m.max((x - y).abs()) },
    ))
}
