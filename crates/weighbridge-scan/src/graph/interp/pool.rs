//! Windows that slide over an image and give one value each.

use super::linear::Window;
use super::value::{Dims, Kind, Tensor, count};
use super::{Call, Halt, Meter, Op};

/// The shape of an operand of a pool, and its window.
pub(crate) fn plan(c: &Call<'_, '_>) -> Result<(Window, Dims, Dims), Halt> {
    let x = c.input(0)?;
    let [n, ch, space @ ..] = x.dims.as_slice() else {
        return Err(Halt::Wrong("no image"));
    };
    let kernel = c
        .attributes
        .ints("kernel_shape")
        .ok_or(Halt::Wrong("no window"))?;
    let kernel: Option<Dims> = kernel.iter().map(|&k| usize::try_from(k).ok()).collect();
    let window = Window::of(c, space, kernel.ok_or(Halt::Wrong("no window"))?)?;
    let dims = [&[*n, *ch], window.out.as_slice()].concat();
    Ok((window, space.to_vec(), dims))
}

pub(crate) fn pool(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let (window, space, dims) = plan(c)?;
    let n = meter.value(&dims)?;
    let kernel = count(&window.kernel).unwrap_or(1);
    meter.spend(n.saturating_mul(kernel).saturating_mul(2))?;
    let mut shapes = vec![Tensor::unknown(x.kind, dims.clone())];
    if c.outputs > 1 {
        shapes.push(Tensor::unknown(Kind::I64, dims.clone()));
    }
    if !x.is_known() || c.outputs > 1 {
        return Ok(shapes);
    }
    let v = x.to_floats()?;
    let area = count(&window.out).unwrap_or(1).max(1);
    let whole = count(&space).unwrap_or(1);
    let padded = c.attributes.int_or("count_include_pad", 0) != 0;
    let most = c.op == Op::MaxPool;
    let one = |at: usize| {
        let (place, image) = (at % area, at / area);
        let (mut sum, mut hits) = (if most { f64::NEG_INFINITY } else { 0.0 }, 0usize);
        window.cover(&space, place, |p, _| {
            let x = v.get(image * whole + p).copied().unwrap_or_default();
            sum = if most { sum.max(x) } else { sum + x };
            hits += 1;
        });
        match (most, padded) {
            (true, _) => sum,
            (false, true) => sum / kernel as f64,
            (false, false) => sum / hits as f64,
        }
    };
    let all: Vec<f64> = (0..n).map(one).collect();
    Ok(vec![Tensor::numbers(x.kind, dims, all)])
}

pub(crate) fn global(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let [n, ch, space @ ..] = x.dims.as_slice() else {
        return Err(Halt::Wrong("no image"));
    };
    let mut dims = vec![*n, *ch];
    dims.extend(space.iter().map(|_| 1));
    meter.spend(x.len())?;
    if !x.is_known() {
        return Ok(vec![Tensor::unknown(x.kind, dims)]);
    }
    let each = count(space).unwrap_or(1).max(1);
    let v = x.to_floats()?;
    let one = |r: &[f64]| match c.op {
        Op::GlobalMaxPool => r.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        _ => r.iter().sum::<f64>() / each as f64,
    };
    Ok(vec![Tensor::numbers(
        x.kind,
        dims,
        v.chunks(each).map(one).collect(),
    )])
}
