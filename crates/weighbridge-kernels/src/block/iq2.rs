//! IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes at a time from a grid of three levels, signs apart.
//!
//! Layouts (`ggml-common.h`): IQ2_XXS is an f16 scale, then for each 32 elements four codes of a
//! byte and a word of four times seven sign bits below four scale bits. IQ2_XS is an f16 scale, 32
//! words of nine code bits below seven sign bits, and a scale nibble for each 16. IQ2_S is an f16
//! scale, the low bytes of 32 codes, 32 bytes of signs, the codes' upper two bits four to a byte,
//! and the scale nibbles. Where signs have seven bits, the eighth makes the minus signs even.

use super::grid::{self, Grid};
use super::iq::{Fit, SUPER, Sub, Tries, nearest_int, refit, scale_level, search, sum_of_squares};
use crate::scalar::f32_to_f16;

const TOP: u8 = 2;

fn weigh<const N: usize>(x: &[f32; N], importance: &[f32], sigma2: f32) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (sigma2 + x[i] * x[i]).sqrt())
}

/// The levels of a sub-block as codes.
fn codes<const D: usize, const N: usize>(grid: &Grid<D>, levels: &[u8; N]) -> [u16; 8] {
    let mut out = [0; 8];
    let groups = levels.as_chunks::<D>().0;
    out.iter_mut()
        .zip(groups)
        .for_each(|(c, l)| *c = grid.code(l));
    out
}

pub(super) fn twin_xxs(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let weights = weights.unwrap_or_default();
    let grid = grid::iq2_xxs();
    let blocks = row
        .as_chunks::<SUPER>()
        .0
        .iter()
        .zip(weights.as_chunks::<SUPER>().0);
    for ((x, w), out) in blocks.zip(out.as_chunks_mut::<66>().0) {
        block_xxs(grid, x, w, out);
    }
}

fn block_xxs(grid: &Grid<8>, x: &[f32; SUPER], w: &[f32; SUPER], out: &mut [u8; 66]) {
    out.fill(0);
    let sigma2 = sum_of_squares(x) / SUPER as f32;
    let mut scales = [0.0f32; 8];
    let mut words = [0u32; 16];
    let subs = x.as_chunks::<32>().0.iter().zip(w.as_chunks::<32>().0);
    for (ib, (x, w)) in subs.enumerate() {
        let mut sub = Sub::new(x, weigh(x, w, sigma2), true);
        let Some(fit) = fit_xxs(grid, &mut sub) else {
            continue;
        };
        for (k, code) in codes(grid, &fit.levels).into_iter().enumerate().take(4) {
            words[2 * ib] |= u32::from(code) << (8 * k);
            words[2 * ib + 1] |= u32::from(sub.signs[k]) << (7 * k);
        }
        scales[ib] = fit.scale;
    }
    let max = scales.iter().fold(0.0, |m, s| if m > *s { m } else { *s });
    if max == 0.0 {
        return;
    }
    let d = max / 31.0;
    out[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    for (ib, scale) in scales.into_iter().enumerate() {
        words[2 * ib + 1] |= u32::from(scale_level(scale, 1.0 / d, 15)) << 28;
    }
    for (out, word) in out[2..].chunks_exact_mut(4).zip(words) {
        out.copy_from_slice(&word.to_le_bytes());
    }
}

fn fit_xxs(grid: &Grid<8>, sub: &mut Sub<32>) -> Option<Fit<32>> {
    const TRIES: Tries = Tries {
        reach: 6,
        step: 0.1,
        top: TOP,
    };
    if sub.max < 1e-15 {
        return None;
    }
    let (scale, levels) = positive_scale(&sub.x, &sub.weight, i32::from(TOP) + 2);
    let span = scale * f32::from(TOP + 1);
    if span <= 0.0 {
        return None;
    }
    let mut fit = Fit {
        scale,
        levels,
        moved: 0,
    };
    search(grid, sub, &TRIES, span, &mut fit);
    if fit.scale > 0.0 {
        refit(grid, sub, TOP, 255, &mut fit);
    }
    turn(sub, &mut fit, true);
    Some(fit)
}

/// Makes the scale positive by turning the signs over.
fn turn<const N: usize>(sub: &mut Sub<N>, fit: &mut Fit<N>, even: bool) {
    if fit.scale < 0.0 {
        fit.scale = -fit.scale;
        sub.flip(even);
    }
}

/// The scale of the integers up to `top` that come nearest to `x`, and those (`make_qp_quants`).
/// The integers are kept in bytes, as there: a negative one wraps.
pub(super) fn positive_scale<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    top: i32,
) -> (f32, [u8; N]) {
    let max = x.iter().fold(0.0f32, |m, x| if m > *x { m } else { *x });
    if max < 1e-15 {
        return (0.0, [0; N]);
    }
    let mut inverse = top as f32 / max;
    let scale = 1.0 / inverse;
    let mut best = 0.0;
    for i in 0..N {
        let diff = x[i] - scale * f32::from(nearest_int(inverse * x[i]) as u8);
        best += w[i] * diff * diff;
    }
    for step in [-4, -3, -2, -1, 1, 2, 3, 4i32] {
        let other = (0.1 * step as f32 + top as f32) / max;
        let scale = 1.0 / other;
        let mut error = 0.0;
        for i in 0..N {
            let diff = x[i] - scale * nearest_int(other * x[i]).min(top) as f32;
            error += w[i] * diff * diff;
        }
        if error < best {
            best = error;
            inverse = other;
        }
    }
    let (mut xl, mut ll) = (0.0, 0.0);
    let mut levels = [0u8; N];
    for i in 0..N {
        let l = nearest_int(inverse * x[i]).min(top);
        levels[i] = l as u8;
        xl += w[i] * x[i] * l as f32;
        ll += w[i] * l as f32 * l as f32;
    }
    for _ in 0..5 {
        if !improve(x, w, top, &mut levels, (&mut xl, &mut ll)) {
            break;
        }
    }
    (if ll > 0.0 { xl / ll } else { 0.0 }, levels)
}

/// One round of changing single levels for the better; whether any changed.
fn improve<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    top: i32,
    levels: &mut [u8; N],
    (xl, ll): (&mut f32, &mut f32),
) -> bool {
    let mut changed = false;
    for i in 0..N {
        let old = f32::from(levels[i]);
        let mut sx = *xl - w[i] * x[i] * old;
        let mut sl = *ll - w[i] * old * old;
        if !(sx > 0.0 && sl > 0.0) {
            continue;
        }
        let new = nearest_int(x[i] * sl / sx).min(top);
        if new == i32::from(levels[i]) {
            continue;
        }
        sx += w[i] * x[i] * new as f32;
        sl += w[i] * new as f32 * new as f32;
        if sx * sx * *ll > *xl * *xl * sl {
            levels[i] = new as u8;
            (*xl, *ll) = (sx, sl);
            changed = true;
        }
    }
    changed
}

/// The search of the types with a scale for each 16.
fn fit_16(grid: &Grid<8>, sub: &mut Sub<16>, least: f32, even: bool) -> Option<Fit<16>> {
    const TRIES: Tries = Tries {
        reach: 9,
        step: 0.1,
        top: TOP,
    };
    if sub.max < least {
        return None;
    }
    let mut fit = Fit {
        scale: sub.max / f32::from(2 * TOP + 1),
        levels: [0; 16],
        moved: 0,
    };
    search(grid, sub, &TRIES, sub.max, &mut fit);
    if fit.moved != 0 && fit.scale > 0.0 {
        let which = fit.moved;
        refit(grid, sub, TOP, which, &mut fit);
    }
    turn(sub, &mut fit, even);
    Some(fit)
}

/// Writes the nibbles of the scales and returns the super-block's, or `None` where all are zero.
fn scale_nibbles(scales: &[f32; 16], out: &mut [u8]) -> Option<f32> {
    let max = scales.iter().fold(0.0, |m, s| if m > *s { m } else { *s });
    if max == 0.0 {
        return None;
    }
    let d = max / 31.0;
    for (out, pair) in out.iter_mut().zip(scales.as_chunks::<2>().0) {
        let [low, high] = pair.map(|s| scale_level(s, 1.0 / d, 15));
        *out = low | high << 4;
    }
    Some(d)
}

pub(super) fn twin_xs(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let weights = weights.unwrap_or_default();
    let grid = grid::iq2_xs();
    let blocks = row
        .as_chunks::<SUPER>()
        .0
        .iter()
        .zip(weights.as_chunks::<SUPER>().0);
    for ((x, w), out) in blocks.zip(out.as_chunks_mut::<74>().0) {
        block_xs(grid, x, w, out);
    }
}

fn block_xs(grid: &Grid<8>, x: &[f32; SUPER], w: &[f32; SUPER], out: &mut [u8; 74]) {
    out.fill(0);
    let sigma2 = sum_of_squares(x) / SUPER as f32;
    let mut scales = [0.0f32; 16];
    let mut words = [0u16; 32];
    let subs = x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0);
    for (ib, (x, w)) in subs.enumerate() {
        let mut sub = Sub::new(x, weigh(x, w, sigma2), true);
        let Some(fit) = fit_16(grid, &mut sub, 1e-15, true) else {
            continue;
        };
        for (k, code) in codes(grid, &fit.levels).into_iter().enumerate().take(2) {
            words[2 * ib + k] = code | u16::from(sub.signs[k]) << 9;
        }
        scales[ib] = fit.scale;
    }
    if let Some(d) = scale_nibbles(&scales, &mut out[66..]) {
        out[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
        for (out, word) in out[2..66].chunks_exact_mut(2).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }
}

pub(super) fn twin_s(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let grid = grid::iq2_s();
    let rows = row
        .as_chunks::<SUPER>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<82>().0);
    for (i, (x, out)) in rows.enumerate() {
        let w = weights.and_then(|w| w.as_chunks::<SUPER>().0.get(i));
        block_s(grid, x, w, out);
    }
}

fn block_s(grid: &Grid<8>, x: &[f32; SUPER], w: Option<&[f32; SUPER]>, out: &mut [u8; 82]) {
    out.fill(0);
    let sigma2 = 2.0 * sum_of_squares(x) / SUPER as f32;
    let mut scales = [0.0f32; 16];
    for (ib, x) in x.as_chunks::<16>().0.iter().enumerate() {
        let weight = match w {
            Some(w) => weigh(x, &w[16 * ib..16 * ib + 16], sigma2),
            None => x.map(|x| 0.25 * sigma2 + x * x),
        };
        let mut sub = Sub::new(x, weight, false);
        let Some(fit) = fit_16(grid, &mut sub, 1e-8, false) else {
            continue;
        };
        for (k, code) in codes(grid, &fit.levels).into_iter().enumerate().take(2) {
            let i = 2 * ib + k;
            out[2 + i] = code as u8;
            out[34 + i] = sub.signs[k];
            out[66 + i / 4] |= ((code >> 8) << (2 * (i % 4))) as u8;
        }
        scales[ib] = fit.scale;
    }
    if let Some(d) = scale_nibbles(&scales, &mut out[74..]) {
        out[..2].copy_from_slice(&f32_to_f16(d * 0.9875).to_le_bytes());
    }
}
