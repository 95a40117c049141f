//! IQ3_XXS and IQ3_S: four magnitudes at a time from a grid of eight levels, signs apart.
//!
//! Layouts (`ggml-common.h`): IQ3_XXS is an f16 scale, 64 codes of a byte, and for each 32 elements
//! a word of four times seven sign bits below four scale bits. IQ3_S is an f16 scale, the low bytes
//! of 64 codes, their ninth bits eight to a byte, 32 bytes of signs, and a scale nibble for each 32.

use super::grid::{self, Grid};
use super::half;
use super::iq::{
    Block, Fit, SUPER, Search, Sub, Tries, Twin, greatest_scale, kernel, refit, rows, scale_level,
    scale_nibbles,
};
use super::iq_lanes::InLanes;
use super::lanes::{Kernel, Lanes};

const TOP: u8 = 7;

/// The weights of a sub-block: by importance, or the squares.
fn weigh(x: &[f32; 32], importance: Option<&[f32]>, sigma2: f32) -> [f32; 32] {
    match importance {
        Some(w) => super::weigh(sigma2, x, w),
        None => x.map(|x| x * x),
    }
}

/// The search of both types; they differ in which groups are quantized once more.
#[inline(always)]
fn fit(search: impl Search, grid: &Grid<4>, sub: &mut Sub<32>, reach: i32, all: bool) -> Fit<32> {
    let tries = Tries {
        reach,
        step: 0.2,
        top: TOP,
    };
    let mut fit = Fit {
        scale: sub.max / f32::from(2 * TOP + 1),
        levels: [0; 32],
        moved: if all { 255 } else { 0 },
    };
    search.search(grid, sub, &tries, sub.max, &mut fit);
    if fit.moved != 0 && fit.scale > 0.0 {
        let which = if all { 255 } else { fit.moved };
        refit(search, grid, sub, TOP, which, &mut fit);
    }
    if fit.scale < 0.0 {
        fit.scale = -fit.scale;
        sub.flip(!all);
    }
    fit
}

/// IQ3_XXS.
pub(super) enum Xxs {}

kernel!(Xxs 98);

impl Block<98> for Xxs {
    #[inline(always)]
    fn block(
        search: impl Search,
        x: &[f32; SUPER],
        squares: f32,
        weights: Option<&[f32; SUPER]>,
        out: &mut [u8; 98],
    ) {
        out.fill(0);
        let w = weights;
        let grid = grid::iq3_xxs();
        let sigma2 = 2.0 * squares / SUPER as f32;
        let mut scales = [0.0f32; 8];
        let mut words = [0u32; 8];
        let mut codes = [0u8; 64];
        for (ib, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let w = w.map(|w| &w[32 * ib..32 * ib + 32]);
            let mut sub = Sub::new(x, weigh(x, w, sigma2), true);
            if sub.max < 1e-8 {
                continue;
            }
            let fit = fit(search, grid, &mut sub, 15, false);
            let groups = fit.levels.as_chunks::<4>().0;
            for (code, levels) in codes[8 * ib..].iter_mut().zip(groups) {
                *code = grid.code(levels) as u8;
            }
            words[ib] = (0..4).fold(0, |word, k| word | u32::from(sub.signs[k]) << (7 * k));
            scales[ib] = fit.scale;
        }
        let max = greatest_scale(&scales);
        if max == 0.0 {
            return;
        }
        let d = max / 31.0;
        out[..2].copy_from_slice(&half(d * 1.0125).to_le_bytes());
        out[2..66].copy_from_slice(&codes);
        for (ib, out) in out[66..].chunks_exact_mut(4).enumerate() {
            let scale = scale_level(scales[ib], 1.0 / d, 15);
            out.copy_from_slice(&(words[ib] | u32::from(scale) << 28).to_le_bytes());
        }
    }
}

/// IQ3_S.
pub(super) enum S {}

kernel!(S 110);

impl Block<110> for S {
    #[inline(always)]
    fn block(
        search: impl Search,
        x: &[f32; SUPER],
        squares: f32,
        weights: Option<&[f32; SUPER]>,
        out: &mut [u8; 110],
    ) {
        out.fill(0);
        let w = weights;
        let grid = grid::iq3_s();
        let sigma2 = 2.0 * squares / SUPER as f32;
        let mut scales = [0.0f32; 8];
        // The reference skips a sub-block of zeros without stepping over its room, so that the codes and
        // signs of those behind it move up, unlike their ninth bits and scales. Its bytes are the bar.
        let mut at = 0;
        for (ib, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let w = w.map(|w| &w[32 * ib..32 * ib + 32]);
            let mut sub = Sub::new(x, weigh(x, w, sigma2), false);
            if sub.max == 0.0 {
                continue;
            }
            let fit = fit(search, grid, &mut sub, 9, true);
            for (k, levels) in fit.levels.as_chunks::<4>().0.iter().enumerate() {
                let code = grid.code(levels);
                out[2 + 8 * at + k] = code as u8;
                out[66 + ib] |= ((code >> 8) << k) as u8;
            }
            out[74 + 4 * at..78 + 4 * at].copy_from_slice(&sub.signs);
            at += 1;
            scales[ib] = fit.scale;
        }
        if let Some(d) = scale_nibbles(&scales, &mut out[106..]) {
            out[..2].copy_from_slice(&half(d * 1.033).to_le_bytes());
        }
    }
}
