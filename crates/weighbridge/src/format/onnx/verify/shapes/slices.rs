//! Operators that take parts of values or put something around them.

use super::dims::{self, Dim, Dims, shown};
use super::{Call, Inferred, MOST_DIMS, movement};

/// What one dimension becomes that is cut from `start` to `end` in steps of `step`.
fn cut(extent: Dim, start: i64, end: i64, step: i64) -> Dim {
    let n = i64::try_from(extent?).ok()?;
    let clamp = |v: i64, least: i64, most: i64| {
        let v = if v < 0 { v.saturating_add(n) } else { v };
        v.clamp(least, most.max(least))
    };
    let (from, to) = match step > 0 {
        true => (clamp(start, 0, n), clamp(end, 0, n)),
        // Backwards it may end before the first.
        false => (clamp(start, 0, n - 1), clamp(end, -1, n - 1)),
    };
    let (room, step) = match step > 0 {
        true => (to - from, step),
        false => (from - to, step.checked_neg()?),
    };
    let room = u64::try_from(room.max(0)).ok()?;
    Some(room.div_ceil(u64::try_from(step).ok()?))
}

/// `Slice`.
pub(super) fn slice(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let early = call.version < 10;
    let list = |i: usize, name: &str| match early {
        true => call.list(name),
        false => call.ints(i),
    };
    let (starts, ends) = (list(1, "starts"), list(2, "ends"));
    let given = |i: usize, name: &str| match early {
        true => call.attribute(name).is_some(),
        false => call.has(i),
    };
    let (axes, steps) = (list(3, "axes"), list(4, "steps"));
    let unknown = given(3, "axes") && axes.is_none() || given(4, "steps") && steps.is_none();
    let (Some(starts), Some(ends), false) = (starts, ends, unknown) else {
        return Ok(vec![movement::same_rank(call)]);
    };
    let wrong = |l: Option<&[i64]>| l.is_some_and(|l| l.len() != starts.len());
    if starts.len() != ends.len() || wrong(axes) || wrong(steps) {
        let message = format!(
            "{} starts, {} ends: one of each is needed",
            starts.len(),
            ends.len()
        );
        return Err(message.into());
    }
    let mut out = x.to_vec();
    for (i, (&start, &end)) in starts.iter().zip(ends).enumerate() {
        let axis = match axes {
            Some(a) => a.get(i).copied().unwrap_or(0),
            None => i64::try_from(i).unwrap_or(i64::MAX),
        };
        let step = steps.and_then(|s| s.get(i)).copied().unwrap_or(1);
        let at = call.axis(axis, x.len())?;
        if step == 0 {
            return Err("a step is 0".to_owned().into());
        }
        if let Some(o) = out.get_mut(at) {
            *o = cut(*o, start, end, step);
        }
    }
    Ok(vec![Some(out.into())])
}

/// `Pad`.
pub(super) fn pad(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let pads = match call.version {
        ..2 => call.list("paddings"),
        2..11 => call.list("pads"),
        _ => call.ints(1),
    };
    // Axes of its own are an input since version 18.
    let Some(pads) = pads.filter(|_| !call.has(3)) else {
        return Ok(vec![movement::same_rank(call)]);
    };
    if pads.len() != 2 * x.len() {
        let message = format!("{} pads for {}", pads.len(), shown(x));
        return Err(message.into());
    }
    let (before, behind) = pads.split_at(x.len());
    let one = |(d, (&a, &b)): (&Dim, (&i64, &i64))| {
        let n = i64::try_from((*d)?).ok()?;
        u64::try_from(n.checked_add(a)?.checked_add(b)?).ok()
    };
    let all = x.iter().zip(before.iter().zip(behind)).map(one);
    Ok(vec![Some(all.collect())])
}

/// `Tile`.
pub(super) fn tile(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(repeats)) = (call.shape(0), call.ints(1)) else {
        return Ok(vec![movement::same_rank(call)]);
    };
    if repeats.len() != x.len() {
        let message = format!("{} repeats for {}", repeats.len(), shown(x));
        return Err(message.into());
    }
    let one = |(d, &r): (&Dim, &i64)| (*d)?.checked_mul(u64::try_from(r).ok()?);
    Ok(vec![Some(x.iter().zip(repeats).map(one).collect())])
}

/// `NonZero`: as many rows as there are dimensions.
pub(super) fn non_zero(call: &Call<'_>) -> Option<Dims> {
    let rank = call.shape(0)?.len();
    Some([Some(rank as u64), None].into())
}

/// `TopK`: values and their places.
pub(super) fn top_k(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let at = call.axis(call.int("axis", -1), x.len())?;
    let k = match call.version >= 10 {
        true => call.ints(1).and_then(|k| k.first().copied()),
        false => call.attribute("k").and_then(|a| a.i),
    };
    let k = k.and_then(|k| u64::try_from(k).ok());
    if let (Some(k), Some(n)) = (k, x.get(at).copied().flatten())
        && k > n
    {
        return Err(format!("the {k} largest of {n}").into());
    }
    let mut out = x.to_vec();
    if let Some(o) = out.get_mut(at) {
        *o = k;
    }
    let out: Dims = out.into();
    Ok(vec![Some(out.clone()), Some(out)])
}

/// `GatherND`.
pub(super) fn gather_nd(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(indices)) = (call.shape(0), call.shape(1)) else {
        return Ok(Vec::new());
    };
    let Some((Some(deep), places)) = indices.split_last() else {
        return Ok(Vec::new());
    };
    let batch = usize::try_from(call.int("batch_dims", 0)).ok();
    let taken = batch.and_then(|b| b.checked_add(usize::try_from(*deep).ok()?));
    let Some(rest) = taken.and_then(|t| x.get(t..)) else {
        let message = format!("{} is gathered by {}", shown(x), shown(indices));
        return Err(message.into());
    };
    Ok(vec![Some(places.iter().chain(rest).copied().collect())])
}

/// `OneHot`: a dimension more.
pub(super) fn one_hot(call: &Call<'_>) -> Option<Dims> {
    let x = call.shape(0)?;
    let rank = x.len().checked_add(1).filter(|&r| r <= MOST_DIMS)?;
    let at = dims::axis(call.int("axis", -1), rank)?;
    let (head, tail) = x.split_at_checked(at)?;
    let deep: Dim = call
        .ints(1)
        .and_then(|d| d.first().copied())
        .and_then(|d| d.try_into().ok());
    Some(head.iter().chain([&deep]).chain(tail).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_pythons() {
        let c = |n, a, b, s| cut(Some(n), a, b, s).unwrap();
        assert_eq!(c(10, 0, i64::MAX, 1), 10);
        assert_eq!(c(10, -3, i64::MAX, 2), 2);
        assert_eq!(c(10, 9, i64::MIN, -1), 10);
        assert_eq!(c(10, -1, 4, -2), 3);
        assert_eq!(c(0, 0, 5, 1), 0);
        assert_eq!(c(0, 0, i64::MIN, -1), 0);
        assert_eq!(c(5, 4, 2, 1), 0);
        assert_eq!(cut(Some(5), i64::MAX, i64::MIN, i64::MIN), None);
        assert_eq!(cut(None, 0, 1, 1), None);
    }
}
