//! Operators between floats and their quantized integers.

use super::linear::product;
use super::value::{Kind, Tensor, strides};
use super::{Call, Halt, Meter, axis};

/// The scale and the zero point of each element.
struct Grid {
    scales: Vec<f64>,
    zeros: Vec<f64>,
    extent: usize,
    run: usize,
}

impl Grid {
    fn of(c: &Call<'_, '_>, x: &Tensor) -> Result<Option<Self>, Halt> {
        let scale = c.input(1)?;
        let zero = c.optional(2);
        if c.attributes.int_or("block_size", 0) != 0 || scale.dims.len() > 1 {
            return Err(Halt::Unsupported);
        }
        if !scale.is_known() || zero.is_some_and(|z| !z.is_known()) {
            return Ok(None);
        }
        let scales = scale.to_floats()?;
        let zeros = match zero {
            Some(z) => z.to_floats()?,
            None => vec![0.0; scales.len()],
        };
        let (extent, run) = match scales.len() {
            1 => (1, 1),
            n => {
                let at = axis(c.attributes.int_or("axis", 1), x.dims.len())?;
                (n, strides(&x.dims).get(at).copied().unwrap_or(1).max(1))
            }
        };
        Ok(Some(Self {
            scales,
            zeros,
            extent: extent.max(1),
            run,
        }))
    }

    fn at(&self, i: usize) -> (f64, f64) {
        let k = i / self.run % self.extent;
        let get = |v: &[f64], d: f64| v.get(k).copied().unwrap_or(d);
        (get(&self.scales, 1.0), get(&self.zeros, 0.0))
    }
}

pub(crate) fn quantize(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    let kind = match (c.optional(2), c.attributes.int("output_dtype")) {
        (Some(z), _) => z.kind,
        (None, Some(n)) if n != 0 => Kind::numbered(n).ok_or(Halt::Unsupported)?,
        _ => Kind::U8,
    };
    let (Some(grid), true) = (Grid::of(c, x)?, x.is_known()) else {
        return Ok(vec![Tensor::unknown(kind, x.dims.clone())]);
    };
    let (low, high) = kind.bounds();
    let one = |(i, v): (usize, f64)| {
        let (scale, zero) = grid.at(i);
        let q = (v / scale).round_ties_even() + zero;
        (q as i64).clamp(low, high)
    };
    let all = x.to_floats()?.into_iter().enumerate().map(one).collect();
    Ok(vec![Tensor::int(kind, x.dims.clone(), all)])
}

pub(crate) fn dequantize(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    let kind = c.input(1)?.kind;
    let (Some(grid), true) = (Grid::of(c, x)?, x.is_known()) else {
        return Ok(vec![Tensor::unknown(kind, x.dims.clone())]);
    };
    let one = |(i, v): (usize, f64)| {
        let (scale, zero) = grid.at(i);
        (v - zero) * scale
    };
    let all = x.to_floats()?.into_iter().enumerate().map(one).collect();
    Ok(vec![Tensor::float(kind, x.dims.clone(), all)])
}

pub(crate) fn dynamic(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    if !x.is_known() {
        return Ok(vec![
            Tensor::unknown(Kind::U8, x.dims.clone()),
            Tensor::unknown(Kind::F32, Vec::new()),
            Tensor::unknown(Kind::U8, Vec::new()),
        ]);
    }
    let v = x.to_floats()?;
    let (low, high) = v
        .iter()
        .fold((0f64, 0f64), |(l, h), &x| (l.min(x), h.max(x)));
    let scale = Kind::F32.round((high - low) / 255.0);
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    let one = |x: f64| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) as i64;
    Ok(vec![
        Tensor::int(Kind::U8, x.dims.clone(), v.into_iter().map(one).collect()),
        Tensor::float(Kind::F32, Vec::new(), vec![scale]),
        Tensor::int(Kind::U8, Vec::new(), vec![zero as i64]),
    ])
}

pub(crate) fn mat_mul(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let shifted = |t: &Tensor, zero: Option<&Tensor>| -> Result<Tensor, Halt> {
        let unknown = zero.is_some_and(|z| !z.is_known()) || !t.is_known();
        match zero {
            _ if unknown => Ok(Tensor::unknown(Kind::I32, t.dims.clone())),
            Some(z) if z.len() == 1 => {
                let z = z.one()?;
                let all = t
                    .to_ints()?
                    .into_iter()
                    .map(|n| n.wrapping_sub(z))
                    .collect();
                Ok(Tensor::int(Kind::I32, t.dims.clone(), all))
            }
            Some(_) => Err(Halt::Unsupported),
            None => Ok(Tensor::int(Kind::I32, t.dims.clone(), t.to_ints()?)),
        }
    };
    let a = shifted(c.input(0)?, c.optional(2))?;
    let b = shifted(c.input(1)?, c.optional(3))?;
    product(&a, &b, Kind::I32, meter).map(|t| vec![t])
}
