//! The searches for scales of the reference, one sub-block at a time: the twins of `search_lanes`.
//!
//! Facts from `ggml/src/ggml-quants.c` (ggml 0.25.3): `make_qx_quants`, `make_q3_quants`,
//! `make_qkx2_quants`, `make_qkx3_quants`, `make_qp_quants`. Every product and sum is in its order.

use super::lanes::nearest;

/// Below it a sub-block counts as zero (`GROUP_MAX_EPS`).
pub(super) const TINY: f32 = 1e-15;

/// How a search with an offset goes about it.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// The greatest level.
    pub(super) top: i32,
    /// Added to the greatest level in the first step.
    pub(super) first: f32,
    /// Added from step to step.
    pub(super) delta: f32,
    /// The number of steps less one.
    pub(super) last: i32,
    /// Whether errors are summed by magnitude rather than squared.
    pub(super) absolute: bool,
}

impl Steps {
    /// What the range of the values is divided into in a step.
    #[inline(always)]
    pub(super) fn levels(self, step: i32) -> f32 {
        self.first + self.delta * step as f32 + self.top as f32
    }
}

/// The value of the greatest magnitude, the first of equals, and its magnitude.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> (f32, f32) {
    let (mut max, mut amax) = (0.0, 0.0);
    for &x in x {
        if x.abs() > amax {
            (max, amax) = (x, x.abs());
        }
    }
    (max, amax)
}

/// A scale for levels from -`half` to `half` - 1 that are stored plus `half`, by weighted least
/// squares around the value of the greatest magnitude (`make_qx_quants` with `rmse_type` 1).
pub(super) fn symmetric(half: i32, x: &[f32], w: &[f32], levels: &mut [u8]) -> f32 {
    let (max, amax) = extreme(x);
    if amax < TINY {
        levels.fill(0);
        return 0.0;
    }
    let level = |iscale: f32, x: f32| nearest(iscale * x).min(half - 1).max(-half);
    let sums = |iscale: f32| {
        let (mut lx, mut l2) = (0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(w) {
            let l = level(iscale, x) as f32;
            lx += w * x * l;
            l2 += w * l * l;
        }
        (lx, l2)
    };
    let mut chosen = -half as f32 / max;
    let (lx, l2) = sums(chosen);
    let mut scale = if l2 == 0.0 { 0.0 } else { lx / l2 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let iscale = -(half as f32 + 0.1 * step as f32) / max;
        let (lx, l2) = sums(iscale);
        if l2 > 0.0 && lx * lx > best * l2 {
            chosen = iscale;
            scale = lx / l2;
            best = scale * lx;
        }
    }
    for (&x, l) in x.iter().zip(levels) {
        *l = (half + level(chosen, x)) as u8;
    }
    scale
}

/// As [`symmetric`], by trying other levels one after the other; weights are the squares
/// (`make_q3_quants`).
pub(super) fn descent(half: i32, x: &[f32], levels: &mut [u8]) -> f32 {
    let (max, amax) = extreme(x);
    if amax < TINY {
        levels.fill(0);
        return 0.0;
    }
    let clamp = |l: i32| l.min(half - 1).max(-half);
    let iscale = -half as f32 / max;
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for (&x, stored) in x.iter().zip(&mut *levels) {
        let l = clamp(nearest(iscale * x));
        *stored = (l + half) as u8;
        let (w, l) = (x * x, l as f32);
        lx += w * x * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, stored) in x.iter().zip(&mut *levels) {
            let old = i32::from(*stored) - half;
            let (w, l) = (x * x, old as f32);
            let mut new_lx = lx - w * x * l;
            if new_lx > 0.0 {
                let mut new_l2 = l2 - w * l * l;
                let new = clamp(nearest(x * new_l2 / new_lx));
                if new != old {
                    let l = new as f32;
                    new_lx += w * x * l;
                    new_l2 += w * l * l;
                    if new_l2 > 0.0 && new_lx * new_lx * l2 > lx * lx * new_l2 {
                        *stored = (new + half) as u8;
                        (lx, l2) = (new_lx, new_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}

/// A scale and an offset, given negated, by weighted least squares in several ranges
/// (`make_qkx2_quants`, `make_qkx3_quants`).
pub(super) fn affine(steps: Steps, x: &[f32], w: &[f32], levels: &mut [u8]) -> (f32, f32) {
    let found = find_affine(steps, x, w);
    for (&x, l) in x.iter().zip(levels) {
        *l = found.level(steps.top, x) as u8;
    }
    (found.scale, found.min)
}

/// What [`affine`] finds.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) scale: f32,
    /// The offset, negated.
    pub(super) min: f32,
    /// What the search made levels with: an inverse scale, 0 where all values are equal, and the
    /// value of level 0.
    pub(super) iscale: f32,
    pub(super) from: f32,
}

impl Found {
    /// The level that the search gave to a value.
    #[inline(always)]
    pub(super) fn level(&self, top: i32, x: f32) -> i32 {
        if self.iscale == 0.0 {
            return 0;
        }
        nearest(self.iscale * (x - self.from)).min(top).max(0)
    }
}

/// As [`affine`], but for the levels.
pub(super) fn find_affine(steps: Steps, x: &[f32], w: &[f32]) -> Found {
    let (mut low, mut high) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for (&x, &w) in x.iter().zip(w).skip(1) {
        if x < low {
            low = x;
        }
        if x > high {
            high = x;
        }
        sum_w += w;
        sum_x += w * x;
    }
    if low > 0.0 {
        low = 0.0;
    }
    if high == low {
        return Found {
            scale: 0.0,
            min: -low,
            iscale: 0.0,
            from: low,
        };
    }
    let level = |iscale: f32, min: f32, x: f32| nearest(iscale * (x - min)).min(steps.top).max(0);
    let error = |(iscale, from): (f32, f32), scale: f32, min: f32| {
        let mut sum = 0.0f32;
        for (&x, &w) in x.iter().zip(w) {
            let diff = scale * level(iscale, from, x) as f32 + min - x;
            sum += w * if steps.absolute {
                diff.abs()
            } else {
                diff * diff
            };
        }
        sum
    };
    let mut min = low;
    let mut chosen = (steps.top as f32 / (high - min), min);
    let mut scale = 1.0 / chosen.0;
    let mut best = error(chosen, scale, min);
    for step in 0..=steps.last {
        // The range begins at the least value first, and at the best offset so far later.
        let this = (steps.levels(step) / (high - min), min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(w) {
            let l = level(this.0, this.1, x) as f32;
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        if det > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let sum = error(this, this_scale, this_min);
            if sum < best {
                (best, chosen) = (sum, this);
                (scale, min) = (this_scale, this_min);
            }
        }
    }
    Found {
        scale,
        min: -min,
        iscale: chosen.0,
        from: chosen.1,
    }
}

/// A scale for levels from 0 to `top`, first in several ranges and then by trying other levels
/// one after the other (`make_qp_quants`).
pub(super) fn positive(top: i32, x: &[f32], w: &[f32], levels: &mut [u8]) -> f32 {
    let mut max = 0.0;
    for &x in x {
        max = if max > x { max } else { x };
    }
    if max < TINY {
        levels.fill(0);
        return 0.0;
    }
    let mut iscale = top as f32 / max;
    let mut best = 0.0f32;
    for (&x, &w) in x.iter().zip(w) {
        let diff = x - 1.0 / iscale * f32::from(nearest(iscale * x) as u8);
        best += w * diff * diff;
    }
    for step in (-4..=4).filter(|step| *step != 0) {
        let this = (0.1 * step as f32 + top as f32) / max;
        let scale = 1.0 / this;
        let mut error = 0.0f32;
        for (&x, &w) in x.iter().zip(w) {
            let diff = x - scale * nearest(this * x).min(top) as f32;
            error += w * diff * diff;
        }
        if error < best {
            (best, iscale) = (error, this);
        }
    }
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for ((&x, &w), stored) in x.iter().zip(w).zip(&mut *levels) {
        let l = nearest(iscale * x).min(top);
        *stored = l as u8;
        lx += w * x * l as f32;
        l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), stored) in x.iter().zip(w).zip(&mut *levels) {
            let l = f32::from(*stored);
            let mut new_lx = lx - w * x * l;
            let mut new_l2 = l2 - w * l * l;
            if new_lx > 0.0 && new_l2 > 0.0 {
                let new = nearest(x * new_l2 / new_lx).min(top);
                if new != i32::from(*stored) {
                    let l = new as f32;
                    new_lx += w * x * l;
                    new_l2 += w * l * l;
                    if new_lx * new_lx * l2 > lx * lx * new_l2 {
                        *stored = new as u8;
                        (lx, l2) = (new_lx, new_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}
