//! Operators that move elements and leave them as they are.

use super::elementwise::{broadcast, stretch, walk};
use super::value::{Data, Dims, Tensor, count, strides};
use super::{Call, Halt, Meter, Move, axis};

/// A position that no element of the operand is at.
const NOWHERE: usize = usize::MAX;

pub(crate) fn call(c: &Call<'_, '_>, m: Move, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    match m {
        Move::Concat => return concat(c, meter),
        Move::Split => return split(c, meter),
        Move::Pad => return pad(c, meter),
        _ => {}
    }
    let x = c.input(0)?;
    let one = |t: Tensor| Ok(vec![t]);
    match m {
        Move::Reshape => {
            meter.spend(x.len())?;
            one(x.reshaped(reshape(c, x)?)?)
        }
        Move::Flatten => {
            let rank = x.dims.len();
            let at = c.attributes.int_or("axis", 1);
            let at = usize::try_from(if at < 0 { at + rank as i64 } else { at });
            let at = at.unwrap_or(0).min(rank);
            let (a, b) = x.dims.split_at(at);
            meter.spend(x.len())?;
            let part = |d: &[usize]| count(d).ok_or(Halt::Budget);
            one(x.reshaped(vec![part(a)?, part(b)?])?)
        }
        Move::Squeeze | Move::Unsqueeze => {
            meter.spend(x.len())?;
            one(x.reshaped(squeeze(c, x, m == Move::Squeeze)?)?)
        }
        Move::Identity => {
            meter.spend(x.len())?;
            one(x.clone())
        }
        _ => {
            let (dims, order) = order(c, m, x, meter)?;
            one(x.picked(dims, &order))
        }
    }
}

/// The new shape, and where each element comes from.
fn order(
    c: &Call<'_, '_>,
    m: Move,
    x: &Tensor,
    meter: &mut Meter,
) -> Result<(Dims, Vec<usize>), Halt> {
    let own = strides(&x.dims);
    let known = x.is_known();
    let walked = |dims: Dims, steps: &[usize], start: usize, meter: &mut Meter| {
        let n = meter.value(&dims)?;
        let all = match known {
            true => walk(&dims, steps, n),
            false => Vec::new(),
        };
        let all = all.into_iter().map(|i| i.wrapping_add(start)).collect();
        Ok((dims, all))
    };
    match m {
        Move::Transpose => {
            let rank = x.dims.len();
            let perm: Vec<usize> = match c.attributes.ints("perm") {
                Some(p) => p.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?,
                None => (0..rank).rev().collect(),
            };
            if perm.len() != rank {
                return Err(Halt::Wrong("a permutation of another rank"));
            }
            let of = |v: &[usize]| -> Vec<usize> {
                perm.iter().filter_map(|&a| v.get(a).copied()).collect()
            };
            walked(of(&x.dims), &of(&own), 0, meter)
        }
        Move::Expand => {
            let to = sizes(&c.input(1)?.to_ints()?)?;
            let dims = broadcast(&[&x.dims, &to])?;
            meter.value(&dims)?;
            let all = if known {
                stretch(&x.dims, &dims)
            } else {
                Vec::new()
            };
            Ok((dims, all))
        }
        Move::Slice => slice(c, x, meter),
        Move::Tile => {
            let times = sizes(&c.input(1)?.to_ints()?)?;
            let dims: Option<Dims> = x
                .dims
                .iter()
                .zip(&times)
                .map(|(d, t)| d.checked_mul(*t))
                .collect();
            let dims = dims.ok_or(Halt::Budget)?;
            let n = meter.value(&dims)?;
            Ok((
                dims.clone(),
                mapped(&dims, n, known, |a, i| {
                    let d = x.dims.get(a).copied().unwrap_or(1).max(1);
                    Some((i % d) * own.get(a).copied().unwrap_or(0))
                }),
            ))
        }
        Move::Trilu => trilu(c, x, meter),
        Move::DepthToSpace | Move::SpaceToDepth => blocks(c, m, x, meter),
        Move::ReverseSequence => reverse(c, x, meter),
        _ => Err(Halt::Unsupported),
    }
}

/// Where the elements of a value of shape `dims` come from: `part` gives what an index along an
/// axis adds to the position.
fn mapped(
    dims: &[usize],
    n: usize,
    known: bool,
    part: impl Fn(usize, usize) -> Option<usize>,
) -> Vec<usize> {
    if !known {
        return Vec::new();
    }
    let tables: Vec<Vec<Option<usize>>> = dims
        .iter()
        .enumerate()
        .map(|(a, &d)| (0..d).map(|i| part(a, i)).collect())
        .collect();
    let own = strides(dims);
    let at = |flat: usize| {
        let mut sum = 0usize;
        for ((t, &s), &d) in tables.iter().zip(&own).zip(dims) {
            let i = flat / s.max(1) % d.max(1);
            match t.get(i).copied().flatten() {
                Some(p) => sum = sum.wrapping_add(p),
                None => return NOWHERE,
            }
        }
        sum
    };
    (0..n).map(at).collect()
}

fn sizes(all: &[i64]) -> Result<Dims, Halt> {
    let one = |&n: &i64| usize::try_from(n).map_err(|_| Halt::Wrong("an extent is negative"));
    all.iter().map(one).collect()
}

fn reshape(c: &Call<'_, '_>, x: &Tensor) -> Result<Dims, Halt> {
    let to = c.ints(1, "shape")?.ok_or(Halt::Wrong("no shape"))?;
    let keep = c.attributes.int_or("allowzero", 0) == 0;
    let mut dims = Vec::with_capacity(to.len());
    let mut open = None;
    for (i, &d) in to.iter().enumerate() {
        dims.push(match d {
            0 if keep => *x.dims.get(i).ok_or(Halt::Wrong("no extent to keep"))?,
            -1 => {
                open = Some(i);
                1
            }
            d => usize::try_from(d).map_err(|_| Halt::Wrong("an extent is negative"))?,
        });
    }
    if let Some(i) = open {
        let rest = count(&dims).ok_or(Halt::Budget)?;
        let fill = x.len().checked_div(rest).unwrap_or(0);
        if let Some(d) = dims.get_mut(i) {
            *d = fill;
        }
    }
    Ok(dims)
}

fn squeeze(c: &Call<'_, '_>, x: &Tensor, away: bool) -> Result<Dims, Halt> {
    let axes = c.ints(1, "axes")?;
    if away {
        let rank = x.dims.len();
        let axes: Option<Vec<usize>> = match axes {
            Some(a) => Some(a.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?),
            None => None,
        };
        let keep = |(i, d): &(usize, &usize)| match &axes {
            Some(a) => !a.contains(i),
            None => **d != 1,
        };
        return Ok(x
            .dims
            .iter()
            .enumerate()
            .filter(keep)
            .map(|(_, d)| *d)
            .collect());
    }
    let axes = axes.ok_or(Halt::Wrong("no axes"))?;
    let rank = x.dims.len() + axes.len();
    let axes: Vec<usize> = axes
        .iter()
        .map(|&a| axis(a, rank))
        .collect::<Result<_, _>>()?;
    let mut old = x.dims.iter();
    let one = |i: usize| match axes.contains(&i) {
        true => Some(1),
        false => old.next().copied(),
    };
    Ok((0..rank).map(one).map(|d| d.unwrap_or(1)).collect())
}

fn slice(c: &Call<'_, '_>, x: &Tensor, meter: &mut Meter) -> Result<(Dims, Vec<usize>), Halt> {
    let missing = Halt::Wrong("no bounds");
    let starts = c.ints(1, "starts")?.ok_or(missing)?;
    let ends = c.ints(2, "ends")?.ok_or(missing)?;
    let axes = c.ints(3, "axes")?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = match c.optional(4) {
        Some(t) => t.to_ints()?,
        None => vec![1; starts.len()],
    };
    let rank = x.dims.len();
    let mut dims = x.dims.clone();
    let mut walk_steps = strides(&x.dims);
    let mut start = 0usize;
    for (((&s, &e), &a), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let a = axis(a, rank)?;
        let d = *x.dims.get(a).ok_or(missing)? as i64;
        if step == 0 {
            return Err(Halt::Wrong("a step of zero"));
        }
        let from_end = |n: i64| if n < 0 { n.saturating_add(d) } else { n };
        let (s, e) = (from_end(s), from_end(e));
        let (s, e) = match step > 0 {
            true => (s.clamp(0, d), e.clamp(0, d)),
            false => (s.clamp(0, (d - 1).max(0)), e.clamp(-1, d - 1)),
        };
        let (span, by) = match step > 0 {
            true => (e - s, step),
            false => (s - e, step.saturating_neg()),
        };
        let n = if span <= 0 { 0 } else { (span - 1) / by + 1 };
        if let (Some(o), Some(w)) = (dims.get_mut(a), walk_steps.get_mut(a)) {
            *o = n as usize;
            start = start.wrapping_add((s as usize).wrapping_mul(*w));
            // Backward steps wrap round.
            *w = w.wrapping_mul(step as usize);
        }
    }
    let n = meter.value(&dims)?;
    let all = match x.is_known() {
        true => walk(&dims, &walk_steps, n),
        false => Vec::new(),
    };
    Ok((
        dims,
        all.into_iter().map(|i| i.wrapping_add(start)).collect(),
    ))
}

fn concat(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let all = (0..c.inputs.len()).map(|i| c.input(i));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let first = *all.first().ok_or(Halt::Wrong("nothing to put together"))?;
    let rank = first.dims.len();
    let at = c.axis(1, rank)?;
    let mut dims = first.dims.clone();
    let mut total = 0usize;
    for t in &all {
        let fits = t.dims.len() == rank
            && t.dims
                .iter()
                .zip(&dims)
                .enumerate()
                .all(|(i, (a, b))| i == at || a == b);
        if !fits {
            return Err(Halt::Wrong("shapes that do not fit"));
        }
        total = total.saturating_add(t.dims.get(at).copied().unwrap_or(0));
    }
    if let Some(d) = dims.get_mut(at) {
        *d = total;
    }
    meter.value(&dims)?;
    if all.iter().any(|t| !t.is_known()) {
        return Ok(vec![Tensor::unknown(first.kind, dims)]);
    }
    let outer = dims
        .iter()
        .take(at)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    let mut out = first.picked(Vec::new(), &[]);
    for o in 0..outer {
        for t in &all {
            let run = t.len().checked_div(outer).unwrap_or(0);
            let (from, to) = (o * run, (o + 1) * run);
            match (&mut out.data, &t.data) {
                (Data::Float(d), Data::Float(s)) => d.extend(s.get(from..to).unwrap_or_default()),
                (Data::Int(d), Data::Int(s)) => d.extend(s.get(from..to).unwrap_or_default()),
                (Data::Text(d), Data::Text(s)) => {
                    d.extend(s.get(from..to).unwrap_or_default().iter().cloned());
                }
                _ => return Err(Halt::Wrong("operands of several kinds")),
            }
        }
    }
    out.dims = dims;
    Ok(vec![out])
}

fn split(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let at = c.axis(0, x.dims.len())?;
    let whole = *x.dims.get(at).ok_or(Halt::Wrong("nothing to split"))?;
    let parts = match c.ints(1, "split")? {
        Some(p) => sizes(&p)?,
        None => {
            let n = usize::try_from(c.attributes.int_or("num_outputs", 0)).unwrap_or(0);
            let n = if n == 0 { c.outputs.max(1) } else { n };
            if n > 1 << 12 {
                return Err(Halt::Budget);
            }
            let each = whole.div_ceil(n);
            (0..n)
                .map(|i| whole.saturating_sub(i.saturating_mul(each)).min(each))
                .collect()
        }
    };
    if parts.iter().fold(0usize, |n, &p| n.saturating_add(p)) != whole {
        return Err(Halt::Wrong("parts that do not make the whole"));
    }
    let own = strides(&x.dims);
    let mut start = 0usize;
    let mut out = Vec::with_capacity(parts.len());
    for p in parts {
        let mut dims = x.dims.clone();
        if let Some(d) = dims.get_mut(at) {
            *d = p;
        }
        let n = meter.value(&dims)?;
        let from = start.saturating_mul(own.get(at).copied().unwrap_or(0));
        let all = if x.is_known() {
            walk(&dims, &own, n)
        } else {
            Vec::new()
        };
        let all: Vec<usize> = all.into_iter().map(|i| i.saturating_add(from)).collect();
        out.push(x.picked(dims, &all));
        start = start.saturating_add(p);
    }
    Ok(out)
}

fn pad(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let pads = match c.ints(1, "pads")? {
        Some(p) => p,
        None => c.ints(9, "paddings")?.ok_or(Halt::Wrong("no widths"))?,
    };
    let rank = x.dims.len();
    let axes: Vec<usize> = match c.optional(3) {
        Some(t) => t
            .to_ints()?
            .iter()
            .map(|&a| axis(a, rank))
            .collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != axes.len() * 2 {
        return Err(Halt::Wrong("widths of another rank"));
    }
    let mut before = vec![0i64; rank];
    let mut dims = x.dims.clone();
    for (i, &a) in axes.iter().enumerate() {
        let (b, e) = (pads.get(i), pads.get(i + axes.len()));
        let (b, e) = (b.copied().unwrap_or(0), e.copied().unwrap_or(0));
        if let (Some(slot), Some(d)) = (before.get_mut(a), dims.get_mut(a)) {
            *slot = b;
            let n = (*d as i64).saturating_add(b).saturating_add(e);
            *d = usize::try_from(n).map_err(|_| Halt::Wrong("an extent is negative"))?;
        }
    }
    let n = meter.value(&dims)?;
    let mode = c.attributes.text("mode").unwrap_or("constant");
    let own = strides(&x.dims);
    let order = mapped(&dims, n, x.is_known(), |a, i| {
        let d = *x.dims.get(a)? as i64;
        let at = (i as i64).saturating_sub(*before.get(a)?);
        let at = match mode {
            _ if (0..d).contains(&at) => at,
            "edge" => at.clamp(0, d - 1),
            "wrap" if d > 0 => at.rem_euclid(d),
            "reflect" if d > 1 => {
                let period = 2 * (d - 1);
                let m = at.rem_euclid(period);
                if m < d { m } else { period - m }
            }
            _ => return None,
        };
        Some(usize::try_from(at).ok()? * own.get(a)?)
    });
    let mut out = x.picked(dims, &order);
    let fill = match c.optional(2) {
        Some(t) if t.is_known() => t.at(0).unwrap_or(0.0),
        _ => c.attributes.float_or("value", 0.0),
    };
    for (i, _) in order.iter().enumerate().filter(|(_, o)| **o == NOWHERE) {
        match &mut out.data {
            Data::Float(v) => v.get_mut(i).into_iter().for_each(|x| *x = fill),
            Data::Int(v) => v.get_mut(i).into_iter().for_each(|x| *x = fill as i64),
            _ => {}
        }
    }
    Ok(vec![out])
}

fn trilu(c: &Call<'_, '_>, x: &Tensor, meter: &mut Meter) -> Result<(Dims, Vec<usize>), Halt> {
    let n = meter.value(&x.dims)?;
    let k = match c.optional(1) {
        Some(t) => t.one()?,
        None => 0,
    };
    let upper = c.attributes.int_or("upper", 1) != 0;
    let [.., rows, columns] = *x.dims.as_slice() else {
        return Err(Halt::Wrong("no matrix"));
    };
    let at = |i: usize| {
        let (row, column) = (i / columns.max(1) % rows.max(1), i % columns.max(1));
        let d = column as i64 - row as i64;
        match if upper { d >= k } else { d <= k } {
            true => i,
            false => NOWHERE,
        }
    };
    let all = if x.is_known() {
        (0..n).map(at).collect()
    } else {
        Vec::new()
    };
    Ok((x.dims.clone(), all))
}

fn blocks(
    c: &Call<'_, '_>,
    m: Move,
    x: &Tensor,
    meter: &mut Meter,
) -> Result<(Dims, Vec<usize>), Halt> {
    let [n, ch, h, w] = *x.dims.as_slice() else {
        return Err(Halt::Wrong("no image"));
    };
    let b = usize::try_from(c.attributes.int_or("blocksize", 0)).unwrap_or(0);
    if b == 0 || b > 1 << 10 {
        return Err(Halt::Wrong("no block"));
    }
    let crd = c.attributes.text("mode") == Some("CRD");
    let deep = m == Move::DepthToSpace;
    let dims = match deep {
        true => vec![n, ch / (b * b), h.saturating_mul(b), w.saturating_mul(b)],
        false => vec![n, ch.saturating_mul(b * b), h / b, w / b],
    };
    let total = meter.value(&dims)?;
    if total != x.len() {
        return Err(Halt::Wrong("blocks that do not fit"));
    }
    let [_, oc, oh, ow] = *dims.as_slice() else {
        return Err(Halt::Wrong("no image"));
    };
    let at = |flat: usize| {
        let (j, rest) = (flat % ow.max(1), flat / ow.max(1));
        let (i, rest) = (rest % oh.max(1), rest / oh.max(1));
        let (k, image) = (rest % oc.max(1), rest / oc.max(1));
        let (source, si, sj) = if deep {
            let inner = (i % b) * b + j % b;
            let source = if crd {
                k * b * b + inner
            } else {
                inner * oc + k
            };
            (source, i / b, j / b)
        } else {
            let (inner, source) = (k / ch.max(1), k % ch.max(1));
            (source, i * b + inner / b, j * b + inner % b)
        };
        ((image * ch + source) * h + si) * w + sj
    };
    let all = if x.is_known() {
        (0..total).map(at).collect()
    } else {
        Vec::new()
    };
    Ok((dims, all))
}

fn reverse(c: &Call<'_, '_>, x: &Tensor, meter: &mut Meter) -> Result<(Dims, Vec<usize>), Halt> {
    let n = meter.value(&x.dims)?;
    let lengths = c.input(1)?;
    if !x.is_known() || !lengths.is_known() {
        return Ok((x.dims.clone(), Vec::new()));
    }
    let lengths = lengths.to_ints()?;
    let rank = x.dims.len();
    let batch = axis(c.attributes.int_or("batch_axis", 1), rank)?;
    let time = axis(c.attributes.int_or("time_axis", 0), rank)?;
    let own = strides(&x.dims);
    let get = |v: &[usize], a: usize| v.get(a).copied().unwrap_or(1).max(1);
    let at = |flat: usize| {
        let b = flat / get(&own, batch) % get(&x.dims, batch);
        let step = get(&own, time);
        let t = flat / step % get(&x.dims, time);
        let len = lengths
            .get(b)
            .and_then(|&l| usize::try_from(l).ok())
            .unwrap_or(0);
        match t < len {
            true => flat - t * step + (len - 1 - t) * step,
            false => flat,
        }
    };
    Ok((x.dims.clone(), (0..n).map(at).collect()))
}
