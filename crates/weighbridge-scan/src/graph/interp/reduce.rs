//! Operators that make few values of many.

use super::value::{Dims, Kind, Tensor, count, strides};
use super::{Call, Halt, Meter, Op, Reduce, axis};

/// The axes that are reduced, and the shapes with them kept and without.
pub(crate) fn plan(c: &Call<'_, '_>, x: &Tensor) -> Result<(Vec<usize>, Dims, Dims), Halt> {
    let rank = x.dims.len();
    let axes = match c.ints(1, "axes")? {
        Some(a) => a
            .iter()
            .map(|&a| axis(a, rank))
            .collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let none = axes.is_empty() && c.attributes.int_or("noop_with_empty_axes", 0) != 0;
    let axes = match axes.is_empty() && !none {
        true => (0..rank).collect(),
        false => axes,
    };
    let keep = c.attributes.int_or("keepdims", 1) != 0;
    let kept: Dims = x
        .dims
        .iter()
        .enumerate()
        .map(|(i, &d)| if axes.contains(&i) { 1 } else { d })
        .collect();
    let dims = match keep {
        true => kept.clone(),
        false => {
            let stays = x.dims.iter().enumerate().filter(|(i, _)| !axes.contains(i));
            stays.map(|(_, &d)| d).collect()
        }
    };
    Ok((axes, kept, dims))
}

/// Which result each element of `x` goes into.
pub(crate) fn targets(x: &[usize], kept: &[usize]) -> Vec<usize> {
    super::elementwise::stretch(kept, x)
}

pub(crate) fn reduce(c: &Call<'_, '_>, r: Reduce, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let (_, kept, dims) = plan(c, x)?;
    meter.spend(x.len())?;
    let n = meter.value(&dims)?;
    if !x.is_known() {
        return Ok(vec![Tensor::unknown(x.kind, dims)]);
    }
    let into = targets(&x.dims, &kept);
    if x.kind.is_integer() && matches!(r, Reduce::Sum | Reduce::Max | Reduce::Min | Reduce::Prod) {
        let start = match r {
            Reduce::Sum => 0,
            Reduce::Prod => 1,
            Reduce::Max => x.kind.bounds().0,
            _ => x.kind.bounds().1,
        };
        let mut out = vec![start; n];
        for (&t, v) in into.iter().zip(x.to_ints()?) {
            if let Some(o) = out.get_mut(t) {
                *o = match r {
                    Reduce::Sum => o.wrapping_add(v),
                    Reduce::Prod => o.wrapping_mul(v),
                    Reduce::Max => (*o).max(v),
                    _ => (*o).min(v),
                };
            }
        }
        return Ok(vec![Tensor::int(x.kind, dims, out)]);
    }
    let start = match r {
        Reduce::Prod => 1.0,
        Reduce::Max => f64::NEG_INFINITY,
        Reduce::Min => f64::INFINITY,
        _ => 0.0,
    };
    let mut out = vec![start; n];
    let values = x.to_floats()?;
    for (&t, &v) in into.iter().zip(&values) {
        if let Some(o) = out.get_mut(t) {
            *o = match r {
                Reduce::Sum | Reduce::Mean | Reduce::LogSum => *o + v,
                Reduce::LogSumExp => *o + v.exp(),
                Reduce::L1 => *o + v.abs(),
                Reduce::L2 | Reduce::SumSquare => *o + v * v,
                Reduce::Prod => *o * v,
                _ if v.is_nan() || o.is_nan() => f64::NAN,
                Reduce::Max => o.max(v),
                Reduce::Min => o.min(v),
            };
        }
    }
    let each = values.len().checked_div(n).unwrap_or(0) as f64;
    for o in &mut out {
        match r {
            Reduce::Mean => *o /= each,
            Reduce::L2 => *o = o.sqrt(),
            Reduce::LogSum | Reduce::LogSumExp => *o = o.ln(),
            _ => {}
        }
    }
    Ok(vec![Tensor::numbers(x.kind, dims, out)])
}

pub(crate) fn arg(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let at = c.axis(0, x.dims.len())?;
    let keep = c.attributes.int_or("keepdims", 1) != 0;
    let extent = x.dims.get(at).copied().unwrap_or(1);
    let mut dims = x.dims.clone();
    match dims.get_mut(at) {
        Some(d) if keep => *d = 1,
        Some(_) => {
            dims.remove(at);
        }
        None => {}
    }
    meter.spend(x.len())?;
    let n = meter.value(&dims)?;
    if !x.is_known() {
        return Ok(vec![Tensor::unknown(Kind::I64, dims)]);
    }
    if extent == 0 && n > 0 {
        return Err(Halt::Wrong("nothing to choose from"));
    }
    let last = c.attributes.int_or("select_last_index", 0) != 0;
    let greatest = c.op == Op::ArgMax;
    let v = x.to_floats()?;
    let run = strides(&x.dims).get(at).copied().unwrap_or(1).max(1);
    let one = |o: usize| {
        let (outer, inner) = (o / run, o % run);
        let get = |i: usize| {
            let v = v.get((outer * extent + i) * run + inner).copied();
            v.unwrap_or(f64::NAN)
        };
        let mut best = 0usize;
        for i in 1..extent {
            let (a, b) = match greatest {
                true => (get(i), get(best)),
                false => (get(best), get(i)),
            };
            if a > b || (last && a == b) {
                best = i;
            }
        }
        best as i64
    };
    Ok(vec![Tensor::int(
        Kind::I64,
        dims,
        (0..n).map(one).collect(),
    )])
}

pub(crate) fn cum_sum(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let at = axis(c.input(1)?.one()?, x.dims.len())?;
    let n = meter.value(&x.dims)?;
    if !x.is_known() {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let exclusive = c.attributes.int_or("exclusive", 0) != 0;
    let reverse = c.attributes.int_or("reverse", 0) != 0;
    let v = x.to_floats()?;
    let run = strides(&x.dims).get(at).copied().unwrap_or(1).max(1);
    let extent = x.dims.get(at).copied().unwrap_or(1);
    let mut out = vec![0.0; n];
    for lane in 0..n.checked_div(extent).unwrap_or(0) {
        let start = lane / run * run * extent + lane % run;
        let mut sum = 0.0;
        for i in 0..extent {
            let i = if reverse { extent - 1 - i } else { i };
            let place = start + i * run;
            let here = v.get(place).copied().unwrap_or_default();
            let slot = out.get_mut(place);
            if !exclusive {
                sum = x.kind.round(sum + here);
            }
            if let Some(o) = slot {
                *o = sum;
            }
            if exclusive {
                sum = x.kind.round(sum + here);
            }
        }
    }
    Ok(vec![Tensor::numbers(x.kind, x.dims.clone(), out)])
}

/// Softmax and its like. Before version 13 everything from the axis on is one row.
pub(crate) fn softmax(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let rank = x.dims.len();
    let old = c.opset < 13;
    let at = c.axis(if old { 1 } else { -1 }, rank)?;
    let n = meter.value(&x.dims)?;
    meter.spend(n.saturating_mul(3))?;
    if !x.is_known() {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let (extent, run) = match old {
        true => (count(x.dims.get(at..).unwrap_or_default()).unwrap_or(1), 1),
        false => {
            let run = strides(&x.dims).get(at).copied().unwrap_or(1).max(1);
            (x.dims.get(at).copied().unwrap_or(1), run)
        }
    };
    let v = x.to_floats()?;
    let mut out = vec![0.0; n];
    for lane in 0..n.checked_div(extent).unwrap_or(0) {
        let start = lane / run * run * extent + lane % run;
        let places = (0..extent).map(|i| start + i * run);
        let row: Vec<f64> = places.clone().filter_map(|p| v.get(p).copied()).collect();
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
        let first = row.iter().position(|&x| x == most);
        for (i, (p, x)) in places.zip(&row).enumerate() {
            if let Some(o) = out.get_mut(p) {
                *o = match c.op {
                    Op::LogSoftmax => x - most - sum.ln(),
                    Op::Hardmax => f64::from(u8::from(first == Some(i))),
                    _ => (x - most).exp() / sum,
                };
            }
        }
    }
    Ok(vec![Tensor::float(x.kind, x.dims.clone(), out)])
}

pub(crate) fn layer_norm(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let at = c.axis(-1, x.dims.len())?;
    let n = meter.value(&x.dims)?;
    let bias = c.optional(2);
    let known = x.is_known() && scale.is_known() && bias.is_none_or(Tensor::is_known);
    if !known || c.outputs > 1 {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let row = count(x.dims.get(at..).unwrap_or_default())
        .unwrap_or(1)
        .max(1);
    let epsilon = c.attributes.float_or("epsilon", 1e-5);
    let (v, w) = (x.to_floats()?, scale.to_floats()?);
    let b = bias.map(Tensor::to_floats).transpose()?;
    let mut out = Vec::with_capacity(n);
    for r in v.chunks(row) {
        let mean = r.iter().sum::<f64>() / row as f64;
        let spread = r.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / row as f64;
        let by = (spread + epsilon).sqrt();
        for (i, x) in r.iter().enumerate() {
            let w = w.get(i % w.len().max(1)).copied().unwrap_or(1.0);
            let b = b.as_ref().and_then(|b| b.get(i % b.len().max(1)).copied());
            out.push((x - mean) / by * w + b.unwrap_or(0.0));
        }
    }
    Ok(vec![Tensor::float(x.kind, x.dims.clone(), out)])
}

/// The channel that each element of an image or a row of features is in.
fn channels(x: &Tensor) -> (usize, usize) {
    let run = x
        .dims
        .iter()
        .skip(2)
        .fold(1usize, |n, &d| n.saturating_mul(d));
    (x.dims.get(1).copied().unwrap_or(1).max(1), run.max(1))
}

pub(crate) fn batch_norm(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    let four = (1..5).map(|i| c.input(i)).collect::<Result<Vec<_>, _>>()?;
    if !x.is_known() || four.iter().any(|t| !t.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let four = four
        .iter()
        .map(|t| t.to_floats())
        .collect::<Result<Vec<_>, _>>()?;
    let epsilon = c.attributes.float_or("epsilon", 1e-5);
    let (extent, run) = channels(x);
    let one = |(i, v): (usize, f64)| {
        let channel = i / run % extent;
        let get = |k: usize| four.get(k).and_then(|t: &Vec<f64>| t.get(channel).copied());
        let [w, b, mean, var] = [0, 1, 2, 3].map(|k| get(k).unwrap_or(0.0));
        (v - mean) / (var + epsilon).sqrt() * w + b
    };
    let all = x.to_floats()?.into_iter().enumerate().map(one).collect();
    Ok(vec![Tensor::float(x.kind, x.dims.clone(), all)])
}

pub(crate) fn instance_norm(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (x, w, b) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let n = meter.value(&x.dims)?;
    if !(x.is_known() && w.is_known() && b.is_known()) {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    }
    let epsilon = c.attributes.float_or("epsilon", 1e-5);
    let (extent, run) = channels(x);
    let (v, w, b) = (x.to_floats()?, w.to_floats()?, b.to_floats()?);
    let mut out = Vec::with_capacity(n);
    for (i, r) in v.chunks(run).enumerate() {
        let mean = r.iter().sum::<f64>() / run as f64;
        let spread = r.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / run as f64;
        let by = (spread + epsilon).sqrt();
        let get = |v: &[f64]| v.get(i % extent).copied().unwrap_or(0.0);
        out.extend(r.iter().map(|x| (x - mean) / by * get(&w) + get(&b)));
    }
    Ok(vec![Tensor::float(x.kind, x.dims.clone(), out)])
}
