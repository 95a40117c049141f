//! Operators that move values and leave them as they are.

use std::rc::Rc;

use super::dims::{self, Dim, Dims, broadcast, equal, product, shown};
use super::{Call, Contradiction, Inferred, MOST_DIMS};

/// As many dimensions, of extents that are not known.
pub(super) fn same_rank(call: &Call<'_>) -> Option<Dims> {
    let x = call.shape(0)?;
    Some(x.iter().map(|_| None).collect())
}

/// `Transpose`.
pub(super) fn transpose(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let Some(perm) = call.list("perm") else {
        return Ok(vec![Some(x.iter().rev().copied().collect())]);
    };
    let mut out: Vec<Dim> = Vec::with_capacity(x.len());
    let mut seen = vec![false; x.len()];
    for &p in perm {
        let at = usize::try_from(p).ok().filter(|&p| p < x.len());
        let fresh = at
            .and_then(|p| seen.get_mut(p))
            .is_some_and(|s| !std::mem::replace(s, true));
        if !fresh {
            break;
        }
        out.push(at.and_then(|p| x.get(p).copied()).flatten());
    }
    if out.len() != x.len() || perm.len() != x.len() {
        let message = format!("{perm:?} is no order of the dimensions of {}", shown(x));
        return Err(message.into());
    }
    Ok(vec![Some(out.into())])
}

/// `Concat`.
pub(super) fn concat(call: &Call<'_>) -> Inferred {
    let otherwise = i64::from(call.version < 4);
    let mut known = call.shapes.iter().flatten();
    let Some(first) = known.next() else {
        return Ok(Vec::new());
    };
    let axis = call.axis(call.int("axis", otherwise), first.len())?;
    let mut out = first.to_vec();
    for next in known {
        if next.len() != first.len() {
            let message = format!("{} and {} do not go together", shown(first), shown(next));
            return Err(message.into());
        }
        for (i, (o, &n)) in out.iter_mut().zip(next.iter()).enumerate() {
            if i == axis {
                continue;
            }
            if !equal(*o, n) {
                let message = format!(
                    "{} and {} do not go together along axis {axis}",
                    shown(first),
                    shown(next)
                );
                return Err(message.into());
            }
            *o = o.or(n);
        }
    }
    let along = call
        .shapes
        .iter()
        .map(|s| (*s.as_ref()?.get(axis)?)?.into());
    let whole = along.collect::<Option<Vec<u64>>>();
    let whole = whole.and_then(|all| all.into_iter().try_fold(0u64, u64::checked_add));
    if let Some(o) = out.get_mut(axis) {
        *o = whole;
    }
    Ok(vec![Some(out.into())])
}

/// `Flatten`.
pub(super) fn flatten(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let axis = call.int("axis", 1);
    // The axis may stand behind the last.
    let at = match i64::try_from(x.len()) {
        Ok(n) if n == axis => x.len(),
        _ => call.axis(axis, x.len())?,
    };
    let (head, tail) = x.split_at(at);
    Ok(vec![Some([product(head), product(tail)].into())])
}

/// `Reshape` to a shape that is a constant.
pub(super) fn reshape(call: &Call<'_>) -> Inferred {
    let Some(wanted) = call.ints(1) else {
        return Ok(Vec::new());
    };
    let x = call.shape(0);
    let keep_zero = call.int("allowzero", 0) != 0;
    let mut out: Vec<Dim> = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &w) in wanted.iter().enumerate() {
        out.push(match w {
            0 if !keep_zero => match x {
                Some(x) => *x.get(i).ok_or_else(|| {
                    Contradiction(format!("dimension {i} is kept, {} has none", shown(x)))
                })?,
                None => None,
            },
            -1 if open.is_none() => {
                open = Some(i);
                None
            }
            w => match u64::try_from(w) {
                Ok(n) => Some(n),
                Err(_) => return Err(format!("{wanted:?} is no shape").into()),
            },
        });
    }
    let Some(there) = x.and_then(|x| product(x)) else {
        return Ok(vec![Some(out.into())]);
    };
    let misfit = || Contradiction(format!("{there} values do not fill {wanted:?}"));
    match open {
        Some(at) => {
            let others: Vec<Dim> = out
                .iter()
                .enumerate()
                .filter_map(|(i, d)| (i != at).then_some(*d))
                .collect();
            if let Some(n) = product(&others).filter(|&n| n > 0) {
                if !there.is_multiple_of(n) {
                    return Err(misfit());
                }
                if let Some(o) = out.get_mut(at) {
                    *o = Some(there / n);
                }
            }
        }
        None => {
            if product(&out).is_some_and(|n| n != there) {
                return Err(misfit());
            }
        }
    }
    Ok(vec![Some(out.into())])
}

/// A list of extents in a constant.
fn extents(ints: &[i64]) -> Option<Dims> {
    let all = ints.iter().map(|&n| u64::try_from(n).ok().map(Some));
    all.collect::<Option<Vec<Dim>>>().map(Rc::from)
}

/// `Expand`.
pub(super) fn expand(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(to)) = (call.shape(0), call.ints(1).and_then(extents)) else {
        return Ok(Vec::new());
    };
    match broadcast(x, &to) {
        Some(out) => Ok(vec![Some(out)]),
        None => Err(format!("{} does not broadcast with {}", shown(x), shown(&to)).into()),
    }
}

/// `ConstantOfShape`.
pub(super) fn constant_of_shape(call: &Call<'_>) -> Inferred {
    Ok(vec![call.ints(0).and_then(extents)])
}

/// `Shape`: as many numbers as there are dimensions, or a slice of them.
pub(super) fn shape_of(call: &Call<'_>) -> Option<Dims> {
    let x = call.shape(0)?;
    let sliced = call.attribute("start").is_some() || call.attribute("end").is_some();
    Some([(!sliced).then_some(x.len() as u64)].into())
}

/// The axes of an operator that once had them as an attribute: `Ok(None)` where they are not
/// known, an empty list where none are given.
pub(super) fn axes<'c>(call: &'c Call<'_>, since: i64) -> Option<&'c [i64]> {
    match call.version >= since {
        false => Some(call.list("axes").unwrap_or_default()),
        true if call.has(1) => call.ints(1),
        true => Some(&[]),
    }
}

/// `Squeeze`.
pub(super) fn squeeze(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(axes)) = (call.shape(0), axes(call, 13)) else {
        return Ok(Vec::new());
    };
    let mut gone = vec![false; x.len()];
    for &a in axes {
        let at = call.axis(a, x.len())?;
        if let Some(n) = x.get(at).copied().flatten().filter(|&n| n != 1) {
            return Err(format!("axis {a} of {} has extent {n}, not 1", shown(x)).into());
        }
        if let Some(g) = gone.get_mut(at) {
            *g = true;
        }
    }
    if axes.is_empty() {
        // All of extent 1, and it has to be known which those are.
        if x.iter().any(Option::is_none) {
            return Ok(Vec::new());
        }
        gone = x.iter().map(|d| *d == Some(1)).collect();
    }
    let left = x.iter().zip(&gone).filter(|(_, g)| !**g).map(|(d, _)| *d);
    Ok(vec![Some(left.collect())])
}

/// `Unsqueeze`.
pub(super) fn unsqueeze(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(axes)) = (call.shape(0), axes(call, 13)) else {
        return Ok(Vec::new());
    };
    let rank = x.len().saturating_add(axes.len());
    if rank > MOST_DIMS {
        return Ok(Vec::new());
    }
    let mut fresh = vec![false; rank];
    for &a in axes {
        let at = call.axis(a, rank)?;
        match fresh.get_mut(at) {
            Some(f) if !*f => *f = true,
            _ => return Err(format!("axis {a} stands twice in {axes:?}").into()),
        }
    }
    let mut old = x.iter().copied();
    let one = |new: &bool| match new {
        true => Some(1),
        false => old.next().flatten(),
    };
    Ok(vec![Some(fresh.iter().map(one).collect())])
}

/// `Gather`.
pub(super) fn gather(call: &Call<'_>) -> Inferred {
    let (Some(x), Some(indices)) = (call.shape(0), call.shape(1)) else {
        return Ok(Vec::new());
    };
    let axis = call.axis(call.int("axis", 0), x.len())?;
    let (head, tail) = x.split_at(axis);
    let all = head.iter().chain(indices.iter()).chain(tail.iter().skip(1));
    Ok(vec![Some(all.copied().collect())])
}

/// `GatherElements`.
pub(super) fn gather_elements(call: &Call<'_>) -> Inferred {
    let Some(indices) = call.shape(1) else {
        return Ok(Vec::new());
    };
    if let Some(x) = call.shape(0).filter(|x| x.len() != indices.len()) {
        let message = format!("{} is gathered by {}", shown(x), shown(indices));
        return Err(message.into());
    }
    Ok(vec![Some(Rc::clone(indices))])
}

/// `Split`.
pub(super) fn split(call: &Call<'_>) -> Inferred {
    let Some(x) = call.shape(0) else {
        return Ok(Vec::new());
    };
    let axis = call.axis(call.int("axis", 0), x.len())?;
    let whole = x.get(axis).copied().flatten();
    let parts = match call.version >= 13 {
        true if call.has(1) => call.ints(1),
        true => None,
        false => call.list("split"),
    };
    let made = call.node.outputs.len();
    if let Some(parts) = parts {
        let sum = parts.iter().try_fold(0i64, |n, &p| n.checked_add(p));
        let sum = sum.and_then(|s| u64::try_from(s).ok());
        if parts.len() != made || !equal(whole, sum) || sum.is_none() {
            let message = format!("axis {axis} of {} is cut into {parts:?}", shown(x));
            return Err(message.into());
        }
    }
    let one = |i: usize| -> Option<Dims> {
        let part = parts
            .and_then(|p| p.get(i))
            .and_then(|&p| u64::try_from(p).ok());
        let mut out = x.to_vec();
        *out.get_mut(axis)? = part;
        Some(out.into())
    };
    Ok((0..made).map(one).collect())
}

/// Which axes are meant, one flag for each dimension.
pub(super) fn flags(axes: &[i64], rank: usize) -> Result<Vec<bool>, Contradiction> {
    let mut out = vec![false; rank];
    for &a in axes {
        let at = dims::axis(a, rank);
        match at.and_then(|at| out.get_mut(at)) {
            Some(f) => *f = true,
            None => {
                let message = format!("axis {a} is none of a value of {rank} dimensions");
                return Err(message.into());
            }
        }
    }
    Ok(out)
}
