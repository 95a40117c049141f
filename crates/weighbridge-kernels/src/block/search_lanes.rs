//! The searches of [`search`](super::search) for as many sub-blocks at once as there are lanes:
//! each lane goes through the same operations in the same order. Branches become selections;
//! levels are not kept but made again from what they were made with.

use super::lanes::{Float, Int, Lanes, MAGIC, Mask};
use super::search::{Steps, TINY, find_affine};

/// Inverse scales times values are far below this where levels are made by adding [`MAGIC`] and
/// taking it away again, which is [`Float::nearest`] for numbers below 2^22.
const SAFE: f32 = 4_000_000.0;

/// What a search with an offset finds, as `search::Found`.
#[derive(Clone, Copy)]
pub(super) struct Affine<F> {
    pub(super) scale: F,
    pub(super) min: F,
    pub(super) iscale: F,
    pub(super) from: F,
}

/// The nearest integers of numbers below 2^22, from `low` to `high`, both given plus [`MAGIC`].
#[inline(always)]
fn level<F: Float>(t: F, magic: F, low: F, high: F) -> F {
    (t + magic).min(high).max(low) - magic
}

/// The weighted sum of the errors of levels.
#[inline(always)]
fn error<S: Lanes, const LEN: usize>(
    s: S,
    absolute: bool,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
    levels: &[S::F; LEN],
    scale: S::F,
    min: S::F,
) -> S::F {
    let mut sum = s.f(0.0);
    for i in 0..LEN {
        let diff = scale * levels[i] + min - x[i];
        let diff = if absolute { diff.abs() } else { diff * diff };
        sum = sum + w[i] * diff;
    }
    sum
}

/// `search::find_affine` in every lane.
#[inline(always)]
pub(super) fn affine<S: Lanes, const LEN: usize>(
    s: S,
    steps: Steps,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
) -> Affine<S::F> {
    let (zero, magic) = (s.f(0.0), s.f(MAGIC));
    let (top, high_level) = (steps.top as f32, s.f(MAGIC + steps.top as f32));
    let (mut low, mut high) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for i in 1..LEN {
        low = x[i].min(low);
        high = x[i].max(high);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    low = low.gt(zero).select(zero, low);
    let flat = high.eq(low);
    let mut safe = zero.eq(zero);
    let mut levels = [zero; LEN];
    let mut min = low;
    macro_rules! inverse {
        ($levels:expr) => {{
            let span = high - min;
            let iscale = flat.select(zero, s.f($levels) / span);
            let (most, least) = ((iscale * span).abs(), (iscale * (low - min)).abs());
            safe = safe & (flat | most.lt(s.f(SAFE)) & least.lt(s.f(SAFE)));
            iscale
        }};
    }
    let (mut iscale, mut from) = (inverse!(top), min);
    let mut scale = s.f(1.0) / iscale;
    for i in 0..LEN {
        levels[i] = level(iscale * (x[i] - min), magic, magic, high_level);
    }
    let mut best = error(s, steps.absolute, x, w, &levels, scale, min);
    for step in 0..=steps.last {
        let this = inverse!(steps.levels(step));
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for i in 0..LEN {
            let l = level(this * (x[i] - min), magic, magic, high_level);
            levels[i] = l;
            let wl = w[i] * l;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * l;
            sum_xl = sum_xl + wl * x[i];
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        let above = this_min.gt(zero);
        if above.any() {
            this_min = above.select(zero, this_min);
            this_scale = above.select(sum_xl / sum_l2, this_scale);
        }
        let sum = error(s, steps.absolute, x, w, &levels, this_scale, this_min);
        let better = det.gt(zero) & sum.lt(best);
        best = better.select(sum, best);
        iscale = better.select(this, iscale);
        from = better.select(min, from);
        scale = better.select(this_scale, scale);
        min = better.select(this_min, min);
    }
    if (!safe).any() {
        return affine_each(s, steps, x, w);
    }
    Affine {
        scale: flat.select(zero, scale),
        min: -flat.select(low, min),
        iscale,
        from,
    }
}

/// By the twin, where some number is out of all proportion.
#[inline(always)]
fn affine_each<S: Lanes, const LEN: usize>(
    s: S,
    steps: Steps,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
) -> Affine<S::F> {
    let (mut xs, mut ws) = ([[0.0; 16]; LEN], [[0.0; 16]; LEN]);
    for i in 0..LEN {
        x[i].store(&mut xs[i]);
        w[i].store(&mut ws[i]);
    }
    let found = find_each(steps, S::N, &xs, &ws);
    Affine {
        scale: s.load(&found[0]),
        min: s.load(&found[1]),
        iscale: s.load(&found[2]),
        from: s.load(&found[3]),
    }
}

#[cold]
#[inline(never)]
fn find_each(steps: Steps, lanes: usize, x: &[[f32; 16]], w: &[[f32; 16]]) -> [[f32; 16]; 4] {
    let mut out = [[0.0; 16]; 4];
    for lane in 0..lanes {
        let (mut xs, mut ws) = ([0.0; 32], [0.0; 32]);
        for i in 0..x.len() {
            (xs[i], ws[i]) = (x[i][lane], w[i][lane]);
        }
        let found = find_affine(steps, &xs[..x.len()], &ws[..x.len()]);
        out[0][lane] = found.scale;
        out[1][lane] = found.min;
        out[2][lane] = found.iscale;
        out[3][lane] = found.from;
    }
    out
}

/// The value of the greatest magnitude in every lane, the first of equals, and its magnitude.
#[inline(always)]
fn extreme<S: Lanes, const LEN: usize>(s: S, x: &[S::F; LEN]) -> (S::F, S::F) {
    let (mut max, mut amax) = (s.f(0.0), s.f(0.0));
    for &x in x {
        max = x.abs().gt(amax).select(x, max);
        amax = x.abs().max(amax);
    }
    (max, amax)
}

/// `search::symmetric` in every lane: the scale, the inverse scale that levels were made with, 0
/// where all is nearly zero, and where that is. `FINITE` says that all values are.
#[inline(always)]
pub(super) fn symmetric<S: Lanes, const LEN: usize, const FINITE: bool>(
    s: S,
    half: i32,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
) -> (S::F, S::F, S::M) {
    let (zero, magic) = (s.f(0.0), s.f(MAGIC));
    let (least, most) = (s.f(MAGIC - half as f32), s.f(MAGIC + (half - 1) as f32));
    let (max, amax) = extreme(s, x);
    let nothing = amax.lt(s.f(TINY));
    let mut wx = *w;
    for i in 0..LEN {
        wx[i] = w[i] * x[i];
    }
    macro_rules! sums {
        ($iscale:expr) => {{
            let (mut lx, mut l2) = (zero, zero);
            for i in 0..LEN {
                let t = $iscale * x[i];
                let l = if FINITE {
                    // No more than the levels in magnitude, so that this is `nearest`.
                    level(t, magic, least, most)
                } else {
                    let l = t.nearest(magic).min(s.i(half - 1));
                    l.max(s.i(-half)).float()
                };
                lx = lx + wx[i] * l;
                l2 = l2 + w[i] * l * l;
            }
            (lx, l2)
        }};
    }
    macro_rules! inverse {
        ($levels:expr) => {
            nothing.select(zero, s.f($levels) / max)
        };
    }
    let mut chosen = inverse!(-half as f32);
    let (lx, l2) = sums!(chosen);
    let mut scale = l2.eq(zero).select(zero, lx / l2);
    let mut best = scale * lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let iscale = inverse!(-(half as f32 + 0.1 * step as f32));
        let (lx, l2) = sums!(iscale);
        let better = l2.gt(zero) & (lx * lx).gt(best * l2);
        let this = lx / l2;
        chosen = better.select(iscale, chosen);
        scale = better.select(this, scale);
        best = better.select(this * lx, best);
    }
    (nothing.select(zero, scale), chosen, nothing)
}

/// `search::descent` in every lane of two groups of sub-blocks: the scales, and the levels as they
/// are stored. Each value waits for the one before it, so two groups go side by side.
#[inline(always)]
pub(super) fn descent<S: Lanes, const LEN: usize>(
    s: S,
    half: i32,
    x: &[[S::F; LEN]; 2],
) -> ([S::F; 2], [[S::F; LEN]; 2]) {
    let (zero, magic) = (s.f(0.0), s.f(MAGIC));
    let (least, most) = (s.i(-half), s.i(half - 1));
    // Weights are squares; with a value more they are cubes.
    let (mut w, mut wx, mut levels) = (*x, *x, *x);
    let (mut lx, mut l2, mut nothing) = ([zero; 2], [zero; 2], [zero.lt(zero); 2]);
    for g in 0..2 {
        let (max, amax) = extreme(s, &x[g]);
        nothing[g] = amax.lt(s.f(TINY));
        let iscale = nothing[g].select(zero, s.f(-half as f32) / max);
        for i in 0..LEN {
            let x = x[g][i];
            let l = (iscale * x).nearest(magic).min(most).max(least).float();
            levels[g][i] = l;
            w[g][i] = x * x;
            wx[g][i] = w[g][i] * x;
            lx[g] = lx[g] + wx[g][i] * l;
            l2[g] = l2[g] + w[g][i] * l * l;
        }
    }
    for _ in 0..5 {
        // In a vector, since masks would go back and forth.
        let mut changed = s.i(0);
        for i in 0..LEN {
            for g in 0..2 {
                let (x, w, wx, old) = (x[g][i], w[g][i], wx[g][i], levels[g][i]);
                let part_lx = lx[g] - wx * old;
                let part_l2 = l2[g] - w * old * old;
                let new = (x * part_l2 / part_lx).nearest(magic);
                let new = new.min(most).max(least).float();
                let new_lx = part_lx + wx * new;
                let new_l2 = part_l2 + w * new * new;
                let better = part_lx.gt(zero)
                    & !new.eq(old)
                    & new_l2.gt(zero)
                    & (new_lx * new_lx * l2[g]).gt(lx[g] * lx[g] * new_l2);
                levels[g][i] = better.select(new, old);
                lx[g] = better.select(new_lx, lx[g]);
                l2[g] = better.select(new_l2, l2[g]);
                changed = better.select_i(s.i(1), changed);
            }
        }
        if changed.greatest() == 0 {
            break;
        }
    }
    let mut scale = [zero; 2];
    for g in 0..2 {
        for l in &mut levels[g] {
            *l = nothing[g].select(zero, *l + s.f(half as f32));
        }
        scale[g] = l2[g].gt(zero).select(lx[g] / l2[g], zero);
        scale[g] = nothing[g].select(zero, scale[g]);
    }
    (scale, levels)
}

/// `search::positive` in every lane: the scale, and the levels as bytes.
#[inline(always)]
pub(super) fn positive<S: Lanes, const LEN: usize>(
    s: S,
    top: i32,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
) -> (S::F, [S::I; LEN]) {
    let (zero, magic, most, byte) = (s.f(0.0), s.f(MAGIC), s.i(top), s.i(255));
    let mut max = zero;
    for &x in x {
        max = max.max(x);
    }
    let nothing = max.lt(s.f(TINY));
    let mut iscale = s.f(top as f32) / max;
    let scale = s.f(1.0) / iscale;
    let mut best = zero;
    for i in 0..LEN {
        let l = (iscale * x[i]).nearest(magic) & byte;
        let diff = x[i] - scale * l.float();
        best = best + w[i] * diff * diff;
    }
    for step in (-4..=4).filter(|step| *step != 0) {
        let this = s.f(0.1 * step as f32 + top as f32) / max;
        let scale = s.f(1.0) / this;
        let mut error = zero;
        for i in 0..LEN {
            let l = (this * x[i]).nearest(magic).min(most);
            let diff = x[i] - scale * l.float();
            error = error + w[i] * diff * diff;
        }
        let better = error.lt(best);
        best = better.select(error, best);
        iscale = better.select(this, iscale);
    }
    let mut levels = [most; LEN];
    let (mut lx, mut l2) = (zero, zero);
    for i in 0..LEN {
        let l = (iscale * x[i]).nearest(magic).min(most);
        levels[i] = l & byte;
        lx = lx + w[i] * x[i] * l.float();
        l2 = l2 + w[i] * l.float() * l.float();
    }
    for _ in 0..5 {
        let mut changed = zero.lt(zero);
        for i in 0..LEN {
            let (w, wx, old) = (w[i], w[i] * x[i], levels[i].float());
            let part_lx = lx - wx * old;
            let part_l2 = l2 - w * old * old;
            let new = (x[i] * part_l2 / part_lx).nearest(magic).min(most);
            let l = new.float();
            let new_lx = part_lx + wx * l;
            let new_l2 = part_l2 + w * l * l;
            let better = part_lx.gt(zero)
                & part_l2.gt(zero)
                & !new.eq(levels[i])
                & (new_lx * new_lx * l2).gt(lx * lx * new_l2);
            levels[i] = better.select_i(new & byte, levels[i]);
            lx = better.select(new_lx, lx);
            l2 = better.select(new_l2, l2);
            changed = changed | better;
        }
        if !changed.any() {
            break;
        }
    }
    for l in &mut levels {
        *l = nothing.select_i(s.i(0), *l);
    }
    let scale = l2.gt(zero).select(lx / l2, zero);
    (nothing.select(zero, scale), levels)
}
