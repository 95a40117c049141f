//! Operators that choose elements by numbers that are values themselves.

use super::value::{Data, Dims, Kind, Tensor, strides};
use super::{Call, Halt, Meter, axis};

const OUTSIDE: Halt = Halt::Wrong("an index that is not there");

/// An index counted from the front.
fn index(i: i64, extent: usize) -> Result<usize, Halt> {
    let i = if i < 0 {
        i.saturating_add(extent as i64)
    } else {
        i
    };
    let at = usize::try_from(i).ok();
    at.filter(|&a| a < extent).ok_or(OUTSIDE)
}

fn indices(all: &[i64], extent: usize) -> Result<Vec<usize>, Halt> {
    all.iter().map(|&i| index(i, extent)).collect()
}

pub(crate) fn gather(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, at) = (c.input(0)?, c.input(1)?);
    let axis = c.axis(0, x.dims.len())?;
    let (head, tail) = x.dims.split_at(axis.min(x.dims.len()));
    let (&extent, tail) = tail.split_first().ok_or(Halt::Wrong("nothing to gather"))?;
    let dims: Dims = [head, at.dims.as_slice(), tail].concat();
    meter.value(&dims)?;
    if !(x.is_known() && at.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, dims)]);
    }
    let at = indices(&at.to_ints()?, extent)?;
    let run = tail.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let outer = head.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let mut order = Vec::new();
    for o in 0..outer {
        for &i in &at {
            let start = (o * extent + i) * run;
            order.extend(start..start + run);
        }
    }
    Ok(vec![x.picked(dims, &order)])
}

pub(crate) fn gather_elements(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, at) = (c.input(0)?, c.input(1)?);
    let axis = c.axis(0, x.dims.len())?;
    meter.value(&at.dims)?;
    if !(x.is_known() && at.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, at.dims.clone())]);
    }
    let order = along(x, at, axis)?;
    Ok(vec![x.picked(at.dims.clone(), &order)])
}

/// Positions in `x` of the elements that `at` names along `axis`.
fn along(x: &Tensor, at: &Tensor, axis: usize) -> Result<Vec<usize>, Halt> {
    if x.dims.len() != at.dims.len() {
        return Err(Halt::Wrong("indices of another rank"));
    }
    let (own, theirs) = (strides(&x.dims), strides(&at.dims));
    let extent = *x.dims.get(axis).ok_or(OUTSIDE)?;
    let one = |(flat, &i): (usize, &i64)| {
        let i = index(i, extent)?;
        let mut sum = 0usize;
        for (a, ((&s, &t), &d)) in own.iter().zip(&theirs).zip(&at.dims).enumerate() {
            let own_index = flat / t.max(1) % d.max(1);
            sum += s * if a == axis { i } else { own_index };
        }
        Ok(sum)
    };
    at.to_ints()?.iter().enumerate().map(one).collect()
}

pub(crate) fn gather_nd(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, at) = (c.input(0)?, c.input(1)?);
    let batch = usize::try_from(c.attributes.int_or("batch_dims", 0)).unwrap_or(0);
    let (&depth, outer) = at.dims.split_last().ok_or(Halt::Wrong("no indices"))?;
    let tail = x.dims.get(batch.saturating_add(depth)..).ok_or(OUTSIDE)?;
    let dims: Dims = [outer, tail].concat();
    meter.value(&dims)?;
    if !(x.is_known() && at.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, dims)]);
    }
    let own = strides(&x.dims);
    let run = tail.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let batches = outer
        .iter()
        .take(batch)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let all = at.to_ints()?;
    let rows = all.len() / depth.max(1);
    let each = rows.checked_div(batches).unwrap_or(rows).max(1);
    let whole = x.len().checked_div(batches).unwrap_or(0);
    let mut order = Vec::new();
    for (r, row) in all.chunks(depth.max(1)).enumerate() {
        let mut start = r / each * whole;
        for (k, &i) in row.iter().enumerate() {
            let a = batch + k;
            let i = index(i, *x.dims.get(a).ok_or(OUTSIDE)?)?;
            start += i * own.get(a).copied().unwrap_or(0);
        }
        order.extend(start..start + run);
    }
    Ok(vec![x.picked(dims, &order)])
}

/// Puts one update after the other at its place.
fn put(x: &Tensor, updates: &Tensor, order: &[usize], how: &str) -> Result<Tensor, Halt> {
    let mut out = x.clone();
    let join = |old: f64, new: f64| match how {
        "add" => old + new,
        "mul" => old * new,
        "max" => old.max(new),
        "min" => old.min(new),
        _ => new,
    };
    match (&mut out.data, &updates.data) {
        (Data::Text(v), Data::Text(u)) => {
            for (&i, u) in order.iter().zip(u) {
                *v.get_mut(i).ok_or(OUTSIDE)? = u.clone();
            }
        }
        (Data::Int(v), Data::Int(u)) => {
            for (&i, &u) in order.iter().zip(u) {
                let slot = v.get_mut(i).ok_or(OUTSIDE)?;
                *slot = match how {
                    "add" => slot.wrapping_add(u),
                    "mul" => slot.wrapping_mul(u),
                    "max" => (*slot).max(u),
                    "min" => (*slot).min(u),
                    _ => u,
                };
            }
        }
        (Data::Float(v), Data::Float(u)) => {
            for (&i, &u) in order.iter().zip(u) {
                let slot = v.get_mut(i).ok_or(OUTSIDE)?;
                *slot = x.kind.round(join(*slot, u));
            }
        }
        _ => return Err(Halt::Wrong("updates of another kind")),
    }
    Ok(out)
}

pub(crate) fn scatter_elements(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, at, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let axis = c.axis(0, x.dims.len())?;
    meter.value(&x.dims)?;
    if !(x.is_known() && at.is_known() && updates.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let order = along(x, at, axis)?;
    let how = c.attributes.text("reduction").unwrap_or("none");
    put(x, updates, &order, how).map(|t| vec![t])
}

pub(crate) fn scatter_nd(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, at, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    meter.value(&x.dims)?;
    if !(x.is_known() && at.is_known() && updates.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let (&depth, _) = at.dims.split_last().ok_or(Halt::Wrong("no indices"))?;
    let tail = x.dims.get(depth..).ok_or(OUTSIDE)?;
    let run = tail.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let own = strides(&x.dims);
    let mut order = Vec::new();
    for row in at.to_ints()?.chunks(depth.max(1)) {
        let mut start = 0usize;
        for ((&i, &d), &s) in row.iter().zip(&x.dims).zip(&own) {
            start += index(i, d)? * s;
        }
        meter.spend(run)?;
        order.extend(start..start + run);
    }
    let how = c.attributes.text("reduction").unwrap_or("none");
    put(x, updates, &order, how).map(|t| vec![t])
}

pub(crate) fn compress(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, flags) = (c.input(0)?, c.input(1)?.to_ints()?);
    let kept: Vec<usize> = flags
        .iter()
        .enumerate()
        .filter(|(_, f)| **f != 0)
        .map(|(i, _)| i)
        .collect();
    let Some(at) = c.attributes.int("axis") else {
        meter.value(&[kept.len()])?;
        let inside = kept.iter().all(|&i| i < x.len());
        return match inside {
            true => Ok(vec![x.picked(vec![kept.len()], &kept)]),
            false => Err(OUTSIDE),
        };
    };
    let at = axis(at, x.dims.len())?;
    let extent = *x.dims.get(at).ok_or(OUTSIDE)?;
    let kept: Vec<usize> = kept.into_iter().filter(|&i| i < extent).collect();
    let mut dims = x.dims.clone();
    if let Some(d) = dims.get_mut(at) {
        *d = kept.len();
    }
    meter.value(&dims)?;
    let run = x
        .dims
        .iter()
        .skip(at + 1)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let outer = x
        .dims
        .iter()
        .take(at)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let mut order = Vec::new();
    for o in 0..outer {
        for &i in &kept {
            let start = (o * extent + i) * run;
            order.extend(start..start + run);
        }
    }
    Ok(vec![x.picked(dims, &order)])
}

pub(crate) fn one_hot(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (at, depth, values) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let depth = match depth.to_ints()?.as_slice() {
        [n] => usize::try_from(*n).map_err(|_| Halt::Wrong("a negative depth"))?,
        _ => return Err(Halt::Wrong("no depth")),
    };
    let rank = at.dims.len() + 1;
    let axis = axis(c.attributes.int_or("axis", -1), rank)?;
    let mut dims = at.dims.clone();
    dims.insert(axis.min(at.dims.len()), depth);
    let n = meter.value(&dims)?;
    if !(at.is_known() && values.is_known()) {
        return Ok(vec![Tensor::unknown(values.kind, dims)]);
    }
    let run = dims
        .iter()
        .skip(axis + 1)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let ids = at.to_ints()?;
    let order = (0..n).map(|flat| {
        let (inner, rest) = (flat % run.max(1), flat / run.max(1));
        let (k, outer) = (rest % depth.max(1), rest / depth.max(1));
        let id = ids.get(outer * run + inner).copied().unwrap_or(-1);
        let id = if id < 0 {
            id.saturating_add(depth as i64)
        } else {
            id
        };
        usize::from(id == k as i64)
    });
    let order: Vec<usize> = order.collect();
    Ok(vec![values.picked(dims, &order)])
}

pub(crate) fn non_zero(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let v = x.to_floats()?;
    let rank = x.dims.len().max(1);
    meter.spend(v.len().saturating_mul(rank))?;
    let own = strides(&x.dims);
    let hits = v
        .iter()
        .enumerate()
        .filter(|(_, x)| **x != 0.0)
        .map(|(i, _)| i);
    let hits: Vec<usize> = hits.collect();
    let mut out = Vec::with_capacity(hits.len() * rank);
    for (&s, &d) in own.iter().zip(&x.dims) {
        out.extend(hits.iter().map(|&i| (i / s.max(1) % d.max(1)) as i64));
    }
    if x.dims.is_empty() {
        out.extend(hits.iter().map(|_| 0));
    }
    Ok(vec![Tensor::int(Kind::I64, vec![rank, hits.len()], out)])
}

pub(crate) fn top_k(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let k = match c.optional(1) {
        Some(t) => t.to_ints()?.first().copied().unwrap_or(0),
        None => c.attributes.int_or("k", 0),
    };
    let at = c.axis(-1, x.dims.len())?;
    let extent = *x.dims.get(at).ok_or(OUTSIDE)?;
    let k = usize::try_from(k)
        .ok()
        .filter(|&k| k <= extent)
        .ok_or(OUTSIDE)?;
    let mut dims = x.dims.clone();
    if let Some(d) = dims.get_mut(at) {
        *d = k;
    }
    let n = meter.value(&dims)?;
    meter.spend(x.len().saturating_mul(4))?;
    if !x.is_known() {
        let ids = Tensor::unknown(Kind::I64, dims.clone());
        return Ok(vec![Tensor::unknown(x.kind, dims), ids]);
    }
    let largest = c.attributes.int_or("largest", 1) != 0;
    let v = x.to_floats()?;
    let run = x
        .dims
        .iter()
        .skip(at + 1)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let outer = x
        .dims
        .iter()
        .take(at)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let (mut order, mut ids) = (vec![0usize; n], vec![0i64; n]);
    for o in 0..outer {
        for r in 0..run {
            let place = |i: usize| (o * extent + i) * run + r;
            let get = |i: usize| v.get(place(i)).copied().unwrap_or(f64::NAN);
            let mut rank: Vec<usize> = (0..extent).collect();
            rank.sort_by(|&a, &b| match largest {
                true => get(b).total_cmp(&get(a)),
                false => get(a).total_cmp(&get(b)),
            });
            for (j, &i) in rank.iter().take(k).enumerate() {
                let slot = (o * k + j) * run + r;
                if let (Some(p), Some(q)) = (order.get_mut(slot), ids.get_mut(slot)) {
                    (*p, *q) = (place(i), i as i64);
                }
            }
        }
    }
    let values = x.picked(dims.clone(), &order);
    Ok(vec![values, Tensor::int(Kind::I64, dims, ids)])
}
