//! `Resize` and `Upsample`: nearest neighbours, and lines between them.

use super::value::{Dims, Tensor, strides};
use super::{Call, Halt, Meter};

/// The shape of the result, and how far apart its elements are along each axis.
fn plan(c: &Call<'_, '_>, x: &Tensor) -> Result<(Dims, Vec<f64>), Halt> {
    let bad = Halt::Wrong("scales that do not fit");
    if c.attributes.get("axes").is_some() {
        return Err(Halt::Unsupported);
    }
    // `Upsample`, and `Resize` before version 11, have no region of interest before the scales.
    let at = if c.inputs.len() <= 2 { 1 } else { 2 };
    let given = |i: usize| c.optional(i).filter(|t| !t.dims.contains(&0));
    if let Some(sizes) = given(3) {
        let sizes = sizes.to_ints()?;
        let dims: Option<Dims> = sizes.iter().map(|&n| usize::try_from(n).ok()).collect();
        let dims = dims.filter(|d| d.len() == x.dims.len()).ok_or(bad)?;
        let by = dims
            .iter()
            .zip(&x.dims)
            .map(|(&o, &i)| o as f64 / (i.max(1)) as f64);
        return Ok((dims.clone(), by.collect()));
    }
    let by = match given(at) {
        Some(t) => t.to_floats()?,
        None => match c.attributes.get("scales") {
            Some(weighbridge_core::model::AttributeValue::Floats(f)) => {
                f.iter().map(|&x| f64::from(x)).collect()
            }
            _ => return Err(bad),
        },
    };
    if by.len() != x.dims.len() || by.iter().any(|&s| !(s > 0.0 && s < 1e6)) {
        return Err(bad);
    }
    let dims = x
        .dims
        .iter()
        .zip(&by)
        .map(|(&d, s)| (d as f64 * s).floor() as usize);
    Ok((dims.collect(), by))
}

/// Where element `i` of an axis comes from.
fn source(how: &str, i: usize, by: f64, from: usize, to: usize) -> f64 {
    let i = i as f64;
    match how {
        "asymmetric" => i / by,
        "align_corners" if to > 1 => i * (from.saturating_sub(1)) as f64 / (to - 1) as f64,
        "align_corners" => 0.0,
        "pytorch_half_pixel" if to <= 1 => 0.0,
        _ => (i + 0.5) / by - 0.5,
    }
}

pub(crate) fn resize(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let (dims, by) = plan(c, x)?;
    let n = meter.value(&dims)?;
    let old = c.opset < 11;
    let how = match c.attributes.text("coordinate_transformation_mode") {
        Some(h) => h,
        None if old => "asymmetric",
        None => "half_pixel",
    };
    let linear = match c.attributes.text("mode").unwrap_or("nearest") {
        "nearest" => false,
        "linear" | "bilinear" => true,
        _ if !x.is_known() => return Ok(vec![Tensor::unknown(x.kind, dims)]),
        _ => return Err(Halt::Unsupported),
    };
    meter.spend(if linear { n.saturating_mul(8) } else { n })?;
    if !x.is_known() {
        return Ok(vec![Tensor::unknown(x.kind, dims)]);
    }
    if how == "tf_crop_and_resize" || x.dims.contains(&0) {
        return Err(Halt::Unsupported);
    }
    let round = |v: f64| match c
        .attributes
        .text("nearest_mode")
        .unwrap_or("round_prefer_floor")
    {
        _ if old => v.floor(),
        "floor" => v.floor(),
        "ceil" => v.ceil(),
        "round_prefer_ceil" => (v + 0.5).floor(),
        _ => (v - 0.5).ceil(),
    };
    // For each axis and index: two sources and the weight of the second.
    let mut axes: Vec<Vec<(usize, usize, f64)>> = Vec::new();
    for ((&from, &to), &s) in x.dims.iter().zip(&dims).zip(&by) {
        let clamp = |v: f64| (v.max(0.0) as usize).min(from.saturating_sub(1));
        let one = |i: usize| {
            let at = if from == to {
                i as f64
            } else {
                source(how, i, s, from, to)
            };
            match linear {
                true => {
                    let at = at.clamp(0.0, from.saturating_sub(1) as f64);
                    let low = clamp(at.floor());
                    (low, clamp(at.floor() + 1.0), at - at.floor())
                }
                false => (clamp(round(at)), clamp(round(at)), 0.0),
            }
        };
        axes.push((0..to).map(one).collect());
    }
    let (own, theirs) = (strides(&x.dims), strides(&dims));
    if !linear {
        let one = |flat: usize| {
            let mut sum = 0usize;
            for ((a, &s), (&t, &d)) in axes.iter().zip(&own).zip(theirs.iter().zip(&dims)) {
                sum += a.get(flat / t.max(1) % d.max(1)).map_or(0, |(i, ..)| i * s);
            }
            sum
        };
        let order: Vec<usize> = (0..n).map(one).collect();
        return Ok(vec![x.picked(dims, &order)]);
    }
    let v = x.to_floats()?;
    let one = |flat: usize| {
        // The corners around a point, each with its weight.
        let mut corners = vec![(0usize, 1.0f64)];
        for ((a, &s), (&t, &d)) in axes.iter().zip(&own).zip(theirs.iter().zip(&dims)) {
            let Some(&(low, high, w)) = a.get(flat / t.max(1) % d.max(1)) else {
                continue;
            };
            if w == 0.0 {
                corners.iter_mut().for_each(|(p, _)| *p += low * s);
                continue;
            }
            let both = corners.iter().flat_map(|&(p, weight)| {
                [
                    (p + low * s, weight * (1.0 - w)),
                    (p + high * s, weight * w),
                ]
            });
            corners = both.collect();
            if corners.len() > 16 {
                break;
            }
        }
        corners
            .iter()
            .map(|&(p, w)| v.get(p).copied().unwrap_or_default() * w)
            .sum()
    };
    let all: Vec<f64> = (0..n).map(one).collect();
    Ok(vec![Tensor::numbers(x.kind, dims, all)])
}
