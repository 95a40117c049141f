//! IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes at a time from a grid of three levels, signs apart.
//!
//! Layouts (`ggml-common.h`): IQ2_XXS is an f16 scale, then for each 32 elements four codes of a
//! byte and a word of four times seven sign bits below four scale bits. IQ2_XS is an f16 scale, 32
//! words of nine code bits below seven sign bits, and a scale nibble for each 16. IQ2_S is an f16
//! scale, the low bytes of 32 codes, 32 bytes of signs, the codes' upper two bits four to a byte,
//! and the scale nibbles. Where signs have seven bits, the eighth makes the minus signs even.

use super::grid::{self, Grid};
use super::iq::{
    Block, Fit, SUPER, Search, Sub, Tries, Twin, greatest_scale, kernel, refit, rows, scale_level,
    scale_nibbles,
};
use super::iq_lanes::InLanes;
use super::lanes::{Kernel, Lanes};
use super::{half, weigh};

const TOP: u8 = 2;

/// The levels of a sub-block as codes.
fn codes<const D: usize, const N: usize>(grid: &Grid<D>, levels: &[u8; N]) -> [u16; 8] {
    let mut out = [0; 8];
    let groups = levels.as_chunks::<D>().0;
    out.iter_mut()
        .zip(groups)
        .for_each(|(c, l)| *c = grid.code(l));
    out
}

/// IQ2_XXS.
pub(super) enum Xxs {}

kernel!(Xxs 66);

impl Block<66> for Xxs {
    #[inline(always)]
    fn block(
        search: impl Search,
        x: &[f32; SUPER],
        squares: f32,
        weights: Option<&[f32; SUPER]>,
        out: &mut [u8; 66],
    ) {
        out.fill(0);
        let Some(w) = weights else {
            return;
        };
        let grid = grid::iq2_xxs();
        let sigma2 = squares / SUPER as f32;
        let mut scales = [0.0f32; 8];
        let mut words = [0u32; 16];
        let mut subs: [Sub<32>; 8] = std::array::from_fn(|ib| {
            let (x, w) = (&x.as_chunks::<32>().0[ib], &w[32 * ib..32 * ib + 32]);
            Sub::new(x, weigh(sigma2, x, w), true)
        });
        let firsts = search.positive(i32::from(TOP) + 2, &subs);
        for (ib, (sub, first)) in subs.iter_mut().zip(firsts).enumerate() {
            let Some(fit) = fit_xxs(search, grid, sub, first) else {
                continue;
            };
            for (k, code) in codes(grid, &fit.levels).into_iter().enumerate().take(4) {
                words[2 * ib] |= u32::from(code) << (8 * k);
                words[2 * ib + 1] |= u32::from(sub.signs[k]) << (7 * k);
            }
            scales[ib] = fit.scale;
        }
        let max = greatest_scale(&scales);
        if max == 0.0 {
            return;
        }
        let d = max / 31.0;
        out[..2].copy_from_slice(&half(d).to_le_bytes());
        for (ib, scale) in scales.into_iter().enumerate() {
            words[2 * ib + 1] |= u32::from(scale_level(scale, 1.0 / d, 15)) << 28;
        }
        for (out, word) in out[2..].chunks_exact_mut(4).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }
}

#[inline(always)]
fn fit_xxs(
    search: impl Search,
    grid: &Grid<8>,
    sub: &mut Sub<32>,
    (scale, levels): (f32, [u8; 32]),
) -> Option<Fit<32>> {
    const TRIES: Tries = Tries {
        reach: 6,
        step: 0.1,
        top: TOP,
    };
    if sub.max < 1e-15 {
        return None;
    }
    let span = scale * f32::from(TOP + 1);
    if span <= 0.0 {
        return None;
    }
    let mut fit = Fit {
        scale,
        levels,
        moved: 0,
    };
    search.search(grid, sub, &TRIES, span, &mut fit);
    if fit.scale > 0.0 {
        refit(search, grid, sub, TOP, 255, &mut fit);
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

/// The search of the types with a scale for each 16.
#[inline(always)]
fn fit_16(
    search: impl Search,
    grid: &Grid<8>,
    sub: &mut Sub<16>,
    least: f32,
    even: bool,
) -> Option<Fit<16>> {
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
    search.search(grid, sub, &TRIES, sub.max, &mut fit);
    if fit.moved != 0 && fit.scale > 0.0 {
        let which = fit.moved;
        refit(search, grid, sub, TOP, which, &mut fit);
    }
    turn(sub, &mut fit, even);
    Some(fit)
}

/// IQ2_XS.
pub(super) enum Xs {}

kernel!(Xs 74);

impl Block<74> for Xs {
    #[inline(always)]
    fn block(
        search: impl Search,
        x: &[f32; SUPER],
        squares: f32,
        weights: Option<&[f32; SUPER]>,
        out: &mut [u8; 74],
    ) {
        out.fill(0);
        let Some(w) = weights else {
            return;
        };
        let grid = grid::iq2_xs();
        let sigma2 = squares / SUPER as f32;
        let mut scales = [0.0f32; 16];
        let mut words = [0u16; 32];
        let subs = x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0);
        for (ib, (x, w)) in subs.enumerate() {
            let mut sub = Sub::new(x, weigh(sigma2, x, w), true);
            let Some(fit) = fit_16(search, grid, &mut sub, 1e-15, true) else {
                continue;
            };
            for (k, code) in codes(grid, &fit.levels).into_iter().enumerate().take(2) {
                words[2 * ib + k] = code | u16::from(sub.signs[k]) << 9;
            }
            scales[ib] = fit.scale;
        }
        if let Some(d) = scale_nibbles(&scales, &mut out[66..]) {
            out[..2].copy_from_slice(&half(d).to_le_bytes());
            for (out, word) in out[2..66].chunks_exact_mut(2).zip(words) {
                out.copy_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// IQ2_S.
pub(super) enum S {}

kernel!(S 82);

impl Block<82> for S {
    #[inline(always)]
    fn block(
        search: impl Search,
        x: &[f32; SUPER],
        squares: f32,
        weights: Option<&[f32; SUPER]>,
        out: &mut [u8; 82],
    ) {
        out.fill(0);
        let w = weights;
        let grid = grid::iq2_s();
        let sigma2 = 2.0 * squares / SUPER as f32;
        let mut scales = [0.0f32; 16];
        for (ib, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let weight = match w {
                Some(w) => weigh(sigma2, x, &w[16 * ib..16 * ib + 16]),
                None => x.map(|x| 0.25 * sigma2 + x * x),
            };
            let mut sub = Sub::new(x, weight, false);
            let Some(fit) = fit_16(search, grid, &mut sub, 1e-8, false) else {
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
            out[..2].copy_from_slice(&half(d * 0.9875).to_le_bytes());
        }
    }
}
