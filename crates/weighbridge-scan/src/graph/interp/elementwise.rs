//! Operators that work on each element by itself, with their operands stretched to one shape.

use std::sync::Arc;

use super::value::{Data, Dims, Kind, Tensor, strides};
use super::{Binary, Call, Fold, Halt, Meter, Unary};

/// The shape that operands of these shapes are stretched to.
pub(crate) fn broadcast(shapes: &[&[usize]]) -> Result<Dims, Halt> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1usize; rank];
    for s in shapes {
        let lead = rank - s.len();
        for (o, &d) in out.iter_mut().skip(lead).zip(s.iter()) {
            *o = match (*o, d) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return Err(Halt::Wrong("shapes that do not fit")),
            };
        }
    }
    Ok(out)
}

/// Where each element of a value of shape `out` comes from in an operand of shape `dims`.
pub(crate) fn stretch(dims: &[usize], out: &[usize]) -> Vec<usize> {
    let total = out.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    if dims == out {
        return (0..total).collect();
    }
    let lead = out.len().saturating_sub(dims.len());
    let own = strides(dims);
    let steps: Vec<usize> = (0..out.len())
        .map(|a| match a.checked_sub(lead) {
            Some(i) if dims.get(i).is_some_and(|&d| d > 1) => own.get(i).copied().unwrap_or(0),
            _ => 0,
        })
        .collect();
    walk(out, &steps, total)
}

/// Positions of a walk over `dims` with these steps.
pub(crate) fn walk(dims: &[usize], steps: &[usize], total: usize) -> Vec<usize> {
    let mut out = Vec::with_capacity(total);
    let mut index = vec![0usize; dims.len()];
    let mut at = 0usize;
    for _ in 0..total {
        out.push(at);
        for ((i, &d), &s) in index.iter_mut().zip(dims).zip(steps).rev() {
            *i += 1;
            at = at.wrapping_add(s);
            if *i < d {
                break;
            }
            at = at.wrapping_sub(s.wrapping_mul(d));
            *i = 0;
        }
    }
    out
}

/// Applies `f` to two operands.
fn zip<T: Copy, R>(
    (a, at): (&[T], &[usize]),
    (b, bt): (&[T], &[usize]),
    out: &[usize],
    n: usize,
    f: impl Fn(T, T) -> R,
) -> Vec<R> {
    match (a, b) {
        (a, [b]) if at == out => a.iter().map(|&x| f(x, *b)).collect(),
        ([a], b) if bt == out => b.iter().map(|&y| f(*a, y)).collect(),
        (a, b) if at == bt => a.iter().zip(b).map(|(&x, &y)| f(x, y)).collect(),
        (a, b) => {
            let (i, j) = (stretch(at, out), stretch(bt, out));
            let pairs = i.iter().zip(&j).take(n);
            let pairs = pairs.filter_map(|(&i, &j)| Some((*a.get(i)?, *b.get(j)?)));
            pairs.map(|(x, y)| f(x, y)).collect()
        }
    }
}

pub(crate) fn unary(c: &Call<'_, '_>, u: Unary, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    let kind = match u {
        Unary::Not | Unary::IsNan | Unary::IsInf => Kind::Bool,
        _ => x.kind,
    };
    let dims = x.dims.clone();
    let done = match &x.data {
        Data::Unknown => Tensor::unknown(kind, dims),
        Data::Text(_) => return Err(Halt::Wrong("text where numbers are needed")),
        Data::Int(v) => match integer(u) {
            Some(f) => Tensor::int(kind, dims, v.iter().map(|&n| f(n)).collect()),
            None => return Err(Halt::Wrong("integers where floats are needed")),
        },
        Data::Float(v) if kind == Kind::Bool => {
            let f = |&x: &f64| match u {
                Unary::IsNan => i64::from(x.is_nan()),
                Unary::IsInf => i64::from(x.is_infinite()),
                _ => i64::from(x == 0.0),
            };
            Tensor::int(kind, dims, v.iter().map(f).collect())
        }
        Data::Float(v) => {
            let f = real(c, u);
            Tensor::float(kind, dims, v.iter().map(|&x| f(x)).collect())
        }
    };
    Ok(vec![done])
}

fn integer(u: Unary) -> Option<fn(i64) -> i64> {
    Some(match u {
        Unary::Abs => i64::wrapping_abs,
        Unary::Neg => i64::wrapping_neg,
        Unary::Sign => i64::signum,
        Unary::Not => |n| i64::from(n == 0),
        Unary::BitNot => |n| !n,
        Unary::Relu => |n| n.max(0),
        Unary::Ceil | Unary::Floor | Unary::Round => |n| n,
        Unary::IsNan | Unary::IsInf => |_| 0,
        _ => return None,
    })
}

fn real(c: &Call<'_, '_>, u: Unary) -> Box<dyn Fn(f64) -> f64> {
    let a = c.attributes;
    match u {
        Unary::Abs => Box::new(f64::abs),
        Unary::Neg => Box::new(|x| -x),
        Unary::Sign => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        Unary::Ceil => Box::new(f64::ceil),
        Unary::Floor => Box::new(f64::floor),
        Unary::Round => Box::new(f64::round_ties_even),
        Unary::Sqrt => Box::new(f64::sqrt),
        Unary::Exp => Box::new(f64::exp),
        Unary::Log => Box::new(f64::ln),
        Unary::Relu => Box::new(|x| if x < 0.0 { 0.0 } else { x }),
        Unary::Sigmoid => Box::new(sigmoid),
        Unary::Tanh => Box::new(f64::tanh),
        Unary::Softplus => Box::new(softplus),
        Unary::Softsign => Box::new(|x| x / (1.0 + x.abs())),
        Unary::Erf => Box::new(erf),
        Unary::Sin => Box::new(f64::sin),
        Unary::Cos => Box::new(f64::cos),
        Unary::Tan => Box::new(f64::tan),
        Unary::Asin => Box::new(f64::asin),
        Unary::Acos => Box::new(f64::acos),
        Unary::Atan => Box::new(f64::atan),
        Unary::Sinh => Box::new(f64::sinh),
        Unary::Cosh => Box::new(f64::cosh),
        Unary::Asinh => Box::new(f64::asinh),
        Unary::Acosh => Box::new(f64::acosh),
        Unary::Atanh => Box::new(f64::atanh),
        Unary::Reciprocal => Box::new(f64::recip),
        Unary::HardSwish => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        Unary::Gelu => match a.text("approximate") {
            Some("tanh") => Box::new(|x| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }),
            _ => Box::new(|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))),
        },
        Unary::Mish => Box::new(|x| x * softplus(x).tanh()),
        Unary::Swish => {
            let alpha = a.float_or("alpha", 1.0);
            Box::new(move |x| x * sigmoid(alpha * x))
        }
        Unary::LeakyRelu => {
            let alpha = a.float_or("alpha", 0.01);
            Box::new(move |x| if x < 0.0 { alpha * x } else { x })
        }
        Unary::Elu => {
            let alpha = a.float_or("alpha", 1.0);
            Box::new(move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        Unary::Celu => {
            let alpha = a.float_or("alpha", 1.0);
            Box::new(move |x| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))
        }
        Unary::Selu => {
            let alpha = a.float_or("alpha", 1.673_263_242_354_377_2);
            let gamma = a.float_or("gamma", 1.050_700_987_355_480_5);
            Box::new(move |x| gamma * if x > 0.0 { x } else { alpha * x.exp_m1() })
        }
        Unary::HardSigmoid => {
            let (alpha, beta) = (a.float_or("alpha", 0.2), a.float_or("beta", 0.5));
            Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        }
        Unary::Threshold => {
            let alpha = a.float_or("alpha", 1.0);
            Box::new(move |x| if x > alpha { x } else { 0.0 })
        }
        Unary::Shrink => {
            let (bias, l) = (a.float_or("bias", 0.0), a.float_or("lambd", 0.5));
            Box::new(move |x| match x {
                x if x < -l => x + bias,
                x if x > l => x - bias,
                _ => 0.0,
            })
        }
        Unary::Not | Unary::IsNan | Unary::IsInf | Unary::BitNot => Box::new(|x| x),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    if x > 30.0 { x } else { x.exp().ln_1p() }
}

/// The error function, to about 1e-7 (Abramowitz and Stegun 7.1.26).
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let p = ((((1.061_405_429 * t - 1.453_152_027) * t) + 1.421_413_741) * t - 0.284_496_736) * t
        + 0.254_829_592;
    (1.0 - p * t * (-x * x).exp()).copysign(x)
}

pub(crate) fn binary(c: &Call<'_, '_>, op: Binary, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let dims = match op {
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div if c.opset < 7 => {
            return legacy(c, op, meter);
        }
        _ => broadcast(&[&a.dims, &b.dims])?,
    };
    apply(c, op, a, b, dims, meter)
}

/// Before version 7 the second operand was laid along an axis of the first.
fn legacy(c: &Call<'_, '_>, op: Binary, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let mut dims = b.dims.clone();
    if let Some(axis) = c.attributes.int("axis") {
        let axis = super::axis(axis, a.dims.len())?;
        let behind = a.dims.len().saturating_sub(axis.saturating_add(dims.len()));
        dims.extend(std::iter::repeat_n(1, behind));
    }
    let b = b.reshaped(dims)?;
    let dims = broadcast(&[&a.dims, &b.dims])?;
    apply(c, op, a, &b, dims, meter)
}

fn apply(
    c: &Call<'_, '_>,
    op: Binary,
    a: &Tensor,
    b: &Tensor,
    dims: Dims,
    meter: &mut Meter,
) -> Result<Vec<Tensor>, Halt> {
    use Binary as B;
    let n = meter.value(&dims)?;
    let compares = matches!(
        op,
        B::Equal
            | B::Greater
            | B::Less
            | B::GreaterOrEqual
            | B::LessOrEqual
            | B::And
            | B::Or
            | B::Xor
    );
    let kind = if compares { Kind::Bool } else { a.kind };
    let out = match (&a.data, &b.data) {
        (Data::Unknown, _) | (_, Data::Unknown) => Tensor::unknown(kind, dims),
        (Data::Text(x), Data::Text(y)) if op == B::Equal => {
            let (i, j) = (stretch(&a.dims, &dims), stretch(&b.dims, &dims));
            let same = |(&i, &j): (&usize, &usize)| i64::from(x.get(i) == y.get(j));
            Tensor::int(kind, dims, i.iter().zip(&j).map(same).collect())
        }
        (Data::Int(x), Data::Int(y)) => {
            let f = whole(c, op);
            let data = zip((x, &a.dims), (y, &b.dims), &dims, n, f);
            Tensor::int(kind, dims, data)
        }
        _ => {
            let (x, y) = (a.to_floats()?, b.to_floats()?);
            if compares {
                let f = compare(op);
                let data = zip((&x, &a.dims), (&y, &b.dims), &dims, n, f);
                Tensor::int(kind, dims, data)
            } else {
                let f = arithmetic(c, op);
                let data = zip((&x, &a.dims), (&y, &b.dims), &dims, n, f);
                Tensor::numbers(kind, dims, data)
            }
        }
    };
    Ok(vec![out])
}

fn compare(op: Binary) -> fn(f64, f64) -> i64 {
    match op {
        Binary::Equal => |x, y| i64::from(x == y),
        Binary::Greater => |x, y| i64::from(x > y),
        Binary::Less => |x, y| i64::from(x < y),
        Binary::GreaterOrEqual => |x, y| i64::from(x >= y),
        Binary::LessOrEqual => |x, y| i64::from(x <= y),
        Binary::And => |x, y| i64::from(x != 0.0 && y != 0.0),
        Binary::Or => |x, y| i64::from(x != 0.0 || y != 0.0),
        _ => |x, y| i64::from((x != 0.0) != (y != 0.0)),
    }
}

fn arithmetic(c: &Call<'_, '_>, op: Binary) -> fn(f64, f64) -> f64 {
    match op {
        Binary::Add => |x, y| x + y,
        Binary::Sub => |x, y| x - y,
        Binary::Mul => |x, y| x * y,
        Binary::Div => |x, y| x / y,
        Binary::Pow => f64::powf,
        Binary::PRelu => |x, y| if x < 0.0 { x * y } else { x },
        Binary::Mod if c.attributes.int_or("fmod", 0) != 0 => |x, y| x % y,
        Binary::Mod => |x, y| x - y * (x / y).floor(),
        _ => |_, _| f64::NAN,
    }
}

fn whole(c: &Call<'_, '_>, op: Binary) -> fn(i64, i64) -> i64 {
    match op {
        Binary::Add => i64::wrapping_add,
        Binary::Sub => i64::wrapping_sub,
        Binary::Mul => i64::wrapping_mul,
        Binary::Div => |x, y| x.checked_div(y).unwrap_or(0),
        Binary::Pow => |x, y| (x as f64).powf(y as f64) as i64,
        Binary::Mod if c.attributes.int_or("fmod", 0) != 0 => |x, y| x.checked_rem(y).unwrap_or(0),
        Binary::Mod => |x, y| match x.checked_rem(y) {
            Some(r) if r != 0 && (r < 0) != (y < 0) => r.wrapping_add(y),
            r => r.unwrap_or(0),
        },
        Binary::Equal => |x, y| i64::from(x == y),
        Binary::Greater => |x, y| i64::from(x > y),
        Binary::Less => |x, y| i64::from(x < y),
        Binary::GreaterOrEqual => |x, y| i64::from(x >= y),
        Binary::LessOrEqual => |x, y| i64::from(x <= y),
        Binary::And => |x, y| i64::from(x != 0 && y != 0),
        Binary::Or => |x, y| i64::from(x != 0 || y != 0),
        Binary::Xor => |x, y| i64::from((x != 0) != (y != 0)),
        Binary::BitAnd => |x, y| x & y,
        Binary::BitOr => |x, y| x | y,
        Binary::BitXor => |x, y| x ^ y,
        Binary::BitShift if c.attributes.text("direction") == Some("RIGHT") => |x, y| {
            let by = u32::try_from(y).ok();
            by.and_then(|y| (x as u64).checked_shr(y)).unwrap_or(0) as i64
        },
        Binary::BitShift => |x, y| {
            let by = u32::try_from(y).ok();
            by.and_then(|y| x.checked_shl(y)).unwrap_or(0)
        },
        Binary::PRelu => |x, y| if x < 0 { x.wrapping_mul(y) } else { x },
    }
}

pub(crate) fn fold(c: &Call<'_, '_>, f: Fold, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let all = (0..c.inputs.len()).map(|i| c.input(i));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let first = *all.first().ok_or(Halt::Wrong("an operand is missing"))?;
    let shapes: Vec<&[usize]> = all.iter().map(|t| t.dims.as_slice()).collect();
    let dims = broadcast(&shapes)?;
    let n = meter.value(&dims)?;
    meter.spend(n.saturating_mul(all.len()))?;
    let kind = first.kind;
    if all.iter().any(|t| !t.is_known()) {
        return Ok(vec![Tensor::unknown(kind, dims)]);
    }
    if kind.is_integer() && f != Fold::Mean {
        let mut out: Option<Vec<i64>> = None;
        for t in &all {
            let (v, at) = (t.to_ints()?, stretch(&t.dims, &dims));
            let v = at.iter().map(|&i| v.get(i).copied().unwrap_or_default());
            out = Some(match out {
                None => v.collect(),
                Some(o) => {
                    let one = |(a, b): (i64, i64)| match f {
                        Fold::Min => a.min(b),
                        Fold::Max => a.max(b),
                        _ => a.wrapping_add(b),
                    };
                    o.into_iter().zip(v).map(one).collect()
                }
            });
        }
        return Ok(vec![Tensor::int(kind, dims, out.unwrap_or_default())]);
    }
    let mut out: Option<Vec<f64>> = None;
    for t in &all {
        let (v, at) = (t.to_floats()?, stretch(&t.dims, &dims));
        let v = at.iter().map(|&i| v.get(i).copied().unwrap_or_default());
        out = Some(match out {
            None => v.collect(),
            Some(o) => {
                let one = |(a, b): (f64, f64)| match f {
                    _ if a.is_nan() || b.is_nan() => f64::NAN,
                    Fold::Min => a.min(b),
                    Fold::Max => a.max(b),
                    _ => a + b,
                };
                o.into_iter().zip(v).map(one).collect()
            }
        });
    }
    let mut out = out.unwrap_or_default();
    if f == Fold::Mean {
        let by = all.len() as f64;
        out.iter_mut().for_each(|x| *x /= by);
    }
    Ok(vec![Tensor::float(kind, dims, out)])
}

pub(crate) fn select(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (cond, a, b) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let dims = broadcast(&[&cond.dims, &a.dims, &b.dims])?;
    let n = meter.value(&dims)?;
    if !(cond.is_known() && a.is_known() && b.is_known()) {
        return Ok(vec![Tensor::unknown(a.kind, dims)]);
    }
    let cond_at = stretch(&cond.dims, &dims);
    let (i, j) = (stretch(&a.dims, &dims), stretch(&b.dims, &dims));
    let flags = cond.to_ints()?;
    let at = |k: usize| flags.get(k).copied().unwrap_or_default() != 0;
    let choose = cond_at.iter().zip(i.iter().zip(&j)).take(n);
    Ok(vec![match (&a.data, &b.data) {
        (Data::Text(x), Data::Text(y)) => {
            let one = |(&k, (&i, &j))| if at(k) { x.get(i) } else { y.get(j) };
            let empty = || Arc::from(&b""[..]);
            let all = choose.map(one).map(|t| t.cloned().unwrap_or_else(empty));
            Tensor::texts(dims, all.collect())
        }
        (Data::Int(x), Data::Int(y)) => {
            let one = |(&k, (&i, &j))| if at(k) { x.get(i) } else { y.get(j) };
            let all = choose.map(one).map(|n| n.copied().unwrap_or_default());
            Tensor::int(a.kind, dims, all.collect())
        }
        _ => {
            let (x, y) = (a.to_floats()?, b.to_floats()?);
            let one = |(&k, (&i, &j))| if at(k) { x.get(i) } else { y.get(j) };
            let all: Vec<f64> = choose
                .map(one)
                .map(|n| n.copied().unwrap_or_default())
                .collect();
            Tensor::float(a.kind, dims, all)
        }
    }])
}

pub(crate) fn clip(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    let bound = |i: usize, name: &str, open: f64| -> Result<Option<f64>, Halt> {
        match c.optional(i) {
            Some(t) if !t.is_known() => Ok(None),
            Some(t) => t.at(0).map(Some).ok_or(Halt::Wrong("a bound is no number")),
            None => Ok(Some(c.attributes.float_or(name, open))),
        }
    };
    let low = bound(1, "min", f64::NEG_INFINITY)?;
    let high = bound(2, "max", f64::INFINITY)?;
    let (Some(low), Some(high), true) = (low, high, x.is_known()) else {
        return Ok(vec![Tensor::unknown(x.kind, x.dims.clone())]);
    };
    let clip = |x: f64| if x.is_nan() { x } else { x.max(low).min(high) };
    Ok(vec![match &x.data {
        Data::Int(v) => {
            let one = |&n: &i64| n.max(low as i64).min(high as i64);
            Tensor::int(x.kind, x.dims.clone(), v.iter().map(one).collect())
        }
        _ => {
            let all = x.to_floats()?.into_iter().map(clip).collect();
            Tensor::float(x.kind, x.dims.clone(), all)
        }
    }])
}

pub(crate) fn cast(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    let kind = match c.optional(1) {
        Some(like) => like.kind,
        None => match (c.attributes.int("to"), c.attributes.text("to")) {
            (Some(n), _) => Kind::numbered(n).ok_or(Halt::Unsupported)?,
            (None, Some("FLOAT")) => Kind::F32,
            (None, Some("INT64")) => Kind::I64,
            _ => return Err(Halt::Unsupported),
        },
    };
    let dims = x.dims.clone();
    let done = match (&x.data, kind) {
        (Data::Unknown, _) => Tensor::unknown(kind, dims),
        (Data::Text(v), Kind::Text) => Tensor::texts(dims, v.clone()),
        (Data::Text(v), _) => {
            let number = |t: &Arc<[u8]>| std::str::from_utf8(t).ok()?.trim().parse::<f64>().ok();
            let all: Option<Vec<f64>> = v.iter().map(number).collect();
            let all = all.ok_or(Halt::Wrong("text that is no number"))?;
            Tensor::numbers(kind, dims, all)
        }
        (Data::Int(v), Kind::Text) => {
            let all = v.iter().map(|n| Arc::from(n.to_string().as_bytes()));
            Tensor::texts(dims, all.collect())
        }
        (Data::Float(v), Kind::Text) => {
            let all = v
                .iter()
                .map(|n| Arc::from((*n as f32).to_string().as_bytes()));
            Tensor::texts(dims, all.collect())
        }
        (Data::Float(v), Kind::Bool) => {
            Tensor::int(kind, dims, v.iter().map(|&x| i64::from(x != 0.0)).collect())
        }
        (Data::Int(v), k) if !k.is_float() => Tensor::int(k, dims, v.clone()),
        (_, k) => Tensor::numbers(k, dims, x.to_floats()?),
    };
    Ok(vec![done])
}
