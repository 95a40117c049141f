//! How far apart the values of two tensors are.

use weighbridge_core::Result;
use weighbridge_core::model::{DType, Tensor};
use weighbridge_kernels::{Kind, decode_f64};

use super::lockstep::in_step;
use super::{DiffOptions, Distance};
use crate::convert::blocks::dequantized;
use crate::convert::{kind_of, part_of};

/// Elements decoded at a time; a multiple of eight, so that packed dtypes line up.
const STEP: usize = 32 << 10;

/// The outcome of comparing values.
pub(super) struct Seen {
    pub(super) distance: Distance,
    /// Whether every value is within the tolerance.
    pub(super) within: bool,
}

#[derive(Default)]
struct Sums {
    max_abs: f64,
    unequal_nan: bool,
    error: f64,
    aa: f64,
    bb: f64,
    ab: f64,
    outside: bool,
}

impl Sums {
    fn add(&mut self, a: &[f64], b: &[f64], options: &DiffOptions) {
        for (&x, &y) in a.iter().zip(b) {
            // Also infinities of one sign, whose difference is no number.
            let d = if x == y || (x.is_nan() && y.is_nan()) {
                0.0
            } else {
                (x - y).abs()
            };
            if d.is_nan() {
                self.unequal_nan = true;
                self.outside = true;
                continue;
            }
            self.max_abs = self.max_abs.max(d);
            // With infinite B every finite A would pass: such pairs only pass when equal.
            let allowed = if y.is_finite() {
                options.atol + options.rtol * y.abs()
            } else {
                0.0
            };
            self.outside |= d > allowed;
            if x.is_finite() && y.is_finite() {
                self.error += d * d;
                self.aa += x * x;
                self.bb += y * y;
                self.ab += x * y;
            }
        }
    }

    fn finish(&self) -> Seen {
        let ratio = |n: f64, d: f64| (d > 0.0).then(|| n / d);
        Seen {
            distance: Distance {
                max_abs: if self.unequal_nan {
                    f64::NAN
                } else {
                    self.max_abs
                },
                rel_rmse: ratio(self.error.sqrt(), self.aa.sqrt()),
                cosine: ratio(self.ab, self.aa.sqrt() * self.bb.sqrt()).map(|c| c.clamp(-1.0, 1.0)),
            },
            within: !self.outside,
        }
    }
}

/// Compares two tensors of one shape value by value; `None` when their dtypes are no two kinds of
/// the same numbers. Complex numbers are compared part by part, torch's quantized ones by their
/// integers, block types by the values that they stand for.
pub(super) fn compare(a: &Tensor, b: &Tensor, options: &DiffOptions) -> Result<Option<Seen>> {
    let plain = |t: &Tensor| dequantized(t, DType::F32, 1);
    let (plain_a, plain_b) = (plain(a), plain(b));
    let (a, b) = (plain_a.as_ref().unwrap_or(a), plain_b.as_ref().unwrap_or(b));
    if part_of(a.dtype).is_some() != part_of(b.dtype).is_some() {
        return Ok(None);
    }
    let (Some(ka), Some(kb)) = (number(a), number(b)) else {
        return Ok(None);
    };
    let total = a
        .numel()
        .unwrap_or(0)
        .saturating_mul(if part_of(a.dtype).is_some() { 2 } else { 1 });
    let mut left = usize::try_from(total).unwrap_or(usize::MAX);
    let mut sums = Sums::default();
    let (mut xs, mut ys) = (vec![0f64; STEP], vec![0f64; STEP]);
    in_step(a, b, &mut |x, y| {
        let (sx, sy) = (STEP * ka.bits() / 8, STEP * kb.bits() / 8);
        for (x, y) in x.chunks(sx).zip(y.chunks(sy)) {
            let n = ka.elements(x.len()).min(kb.elements(y.len())).min(left);
            let (Some(xs), Some(ys)) = (xs.get_mut(..n), ys.get_mut(..n)) else {
                continue;
            };
            decode_f64(ka, x, xs);
            decode_f64(kb, y, ys);
            sums.add(xs, ys, options);
            left -= n;
        }
        Ok(true)
    })?;
    Ok(Some(sums.finish()))
}

/// The kind of the numbers a tensor stores.
fn number(t: &Tensor) -> Option<Kind> {
    use weighbridge_core::model::DType;
    let d = part_of(t.dtype).unwrap_or(t.dtype);
    match d {
        DType::QU8 => Some(Kind::U8),
        DType::QI8 => Some(Kind::I8),
        DType::QI32 => Some(Kind::I32),
        d => kind_of(d),
    }
}
