//! Sums, means and the like along axes.

use super::dims::Dims;
use super::{Call, Inferred, movement};

/// What is left of `x` when the flagged dimensions are reduced.
fn left(x: &Dims, reduced: &[bool], keep: bool) -> Dims {
    let all = x.iter().zip(reduced);
    all.filter_map(|(d, &r)| match (r, keep) {
        (false, _) => Some(*d),
        (true, true) => Some(Some(1)),
        (true, false) => None,
    })
    .collect()
}

/// `ReduceSum` and the other reductions.
pub(super) fn reduce(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let keep = call.int("keepdims", 1) != 0;
    // The axes of ReduceSum became an input before those of the others.
    let since = match call.node.operator.text.as_str() {
        "ReduceSum" => 13,
        _ => 18,
    };
    let Some(axes) = movement::axes(call, since) else {
        return Ok(vec![keep.then(|| movement::same_rank(call)).flatten()]);
    };
    let reduced = match axes.is_empty() {
        true => vec![call.int("noop_with_empty_axes", 0) == 0; x.len()],
        false => movement::flags(axes, x.len())?,
    };
    Ok(vec![Some(left(x, &reduced, keep))])
}

/// `ArgMax` and `ArgMin`.
pub(super) fn arg(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let reduced = movement::flags(&[call.int("axis", 0)], x.len())?;
    Ok(vec![Some(left(x, &reduced, call.int("keepdims", 1) != 0))])
}
