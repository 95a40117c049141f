//! The values of IQ blocks. Layouts: see the quantizers of each family.

use super::grid::{self, Grid};
use super::iq4::VALUES;
use crate::scalar::f16_to_f32;

/// The magnitudes of the three levels of IQ2, and the eight of IQ3_XXS and IQ3_S.
const IQ2: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
const IQ3_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const IQ3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

fn half(bytes: &[u8]) -> f32 {
    f16_to_f32(u16_at(bytes, 0))
}

fn u16_at(bytes: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])
}

fn u32_at(bytes: &[u8], i: usize) -> u32 {
    u32::from(u16_at(bytes, 2 * i)) | u32::from(u16_at(bytes, 2 * i + 1)) << 16
}

/// The eight signs that seven bits stand for: the eighth makes the minus signs even.
fn eighth(bits: u32) -> u8 {
    let bits = bits as u8 & 127;
    bits | ((bits.count_ones() & 1) as u8) << 7
}

/// Writes one point of a grid, `scale * value * sign` for each level.
#[inline(always)]
fn put<const D: usize, const V: usize>(
    grid: &Grid<D>,
    code: u16,
    values: &[f32; V],
    scale: f32,
    signs: u8,
    out: &mut [f32],
) {
    for (j, (out, level)) in out.iter_mut().zip(grid.levels(code)).enumerate() {
        let sign = if signs >> j & 1 != 0 { -1.0 } else { 1.0 };
        *out = scale * values[usize::from(*level) & (V - 1)] * sign;
    }
}

/// The blocks of `B` bytes with their values, 256 each, in eights.
fn blocks<'a, const B: usize>(
    blocks: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; B], &'a mut [[f32; 8]])> {
    let out = out.chunks_exact_mut(256).map(|o| o.as_chunks_mut::<8>().0);
    blocks.as_chunks::<B>().0.iter().zip(out)
}

pub(super) fn iq2_xxs(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq2_xxs();
    for (b, out) in blocks::<66>(src, out) {
        let d = half(b);
        for (i, out) in out.iter_mut().enumerate() {
            let (ib, k) = (i / 4, i % 4);
            let word = u32_at(&b[2..], 2 * ib + 1);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            let code = u16::from(b[2 + 8 * ib + k]);
            put(grid, code, &IQ2, scale, eighth(word >> (7 * k)), out);
        }
    }
}

/// A nibble of the scales of IQ2_XS and IQ2_S: one for each sixteen.
fn nibble_16(d: f32, scales: &[u8], i: usize) -> f32 {
    let nibble = scales[i / 4] >> (4 * (i / 2 % 2)) & 15;
    d * (0.5 + f32::from(nibble)) * 0.25
}

pub(super) fn iq2_xs(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq2_xs();
    for (b, out) in blocks::<74>(src, out) {
        let d = half(b);
        for (i, out) in out.iter_mut().enumerate() {
            let word = u16_at(&b[2..], i);
            let signs = eighth(u32::from(word >> 9));
            put(
                grid,
                word & 511,
                &IQ2,
                nibble_16(d, &b[66..], i),
                signs,
                out,
            );
        }
    }
}

pub(super) fn iq2_s(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq2_s();
    for (b, out) in blocks::<82>(src, out) {
        let d = half(b);
        for (i, out) in out.iter_mut().enumerate() {
            let high = u16::from(b[66 + i / 4]) >> (2 * (i % 4)) & 3;
            let code = u16::from(b[2 + i]) | high << 8;
            put(grid, code, &IQ2, nibble_16(d, &b[74..], i), b[34 + i], out);
        }
    }
}

pub(super) fn iq3_xxs(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq3_xxs();
    for (b, out) in blocks::<98>(src, out) {
        let d = half(b);
        for (i, out) in out.iter_mut().enumerate() {
            let (ib, k) = (i / 4, i % 4);
            let word = u32_at(&b[66..], ib);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let signs = eighth(word >> (7 * k));
            for (h, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let code = u16::from(b[2 + 2 * i + h]);
                put(grid, code, &IQ3_XXS, scale, signs >> (4 * h), out);
            }
        }
    }
}

pub(super) fn iq3_s(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq3_s();
    for (b, out) in blocks::<110>(src, out) {
        let d = half(b);
        for (i, out) in out.iter_mut().enumerate() {
            let ib = i / 4;
            let nibble = b[106 + ib / 2] >> (4 * (ib % 2)) & 15;
            let scale = d * f32::from(1 + 2 * nibble);
            for (h, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let high = u16::from(b[66 + ib]) >> (2 * (i % 4) + h) & 1;
                let code = u16::from(b[2 + 2 * i + h]) | high << 8;
                put(grid, code, &IQ3_S, scale, b[74 + i] >> (4 * h), out);
            }
        }
    }
}

/// Writes one point of IQ1: the ternary value and the shift, scaled.
fn put_ternary(grid: &Grid<8>, code: u16, down: bool, scale: f32, out: &mut [f32; 8]) {
    let shift = if down { -0.125 } else { 0.125 };
    for (out, level) in out.iter_mut().zip(grid.levels(code)) {
        *out = scale * (f32::from(*level) - 1.0 + shift);
    }
}

pub(super) fn iq1_s(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq1();
    for (b, out) in blocks::<50>(src, out) {
        let d = half(b);
        for (i, out) in out.iter_mut().enumerate() {
            let word = u16_at(&b[34..], i / 4);
            let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
            let code = u16::from(b[2 + i]) | (word >> (3 * (i % 4)) & 7) << 8;
            put_ternary(grid, code, word >> 15 != 0, scale, out);
        }
    }
}

pub(super) fn iq1_m(src: &[u8], out: &mut [f32]) {
    let grid = grid::iq1();
    for (b, out) in blocks::<56>(src, out) {
        let word = |i| u16_at(&b[48..], i);
        let d = f16_to_f32((0..4).fold(0, |d, i| d | (word(i) >> 12) << (4 * i)));
        for (i, out) in out.iter_mut().enumerate() {
            let scale = word(i / 8) >> (3 * (i / 2 % 4)) & 7;
            let high = b[32 + i / 2] >> (4 * (i % 2));
            let code = u16::from(b[i]) | u16::from(high & 7) << 8;
            put_ternary(grid, code, high & 8 != 0, d * f32::from(2 * scale + 1), out);
        }
    }
}

fn put_values(nibbles: &[u8], scale: f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(16);
    for ((byte, low), high) in nibbles.iter().zip(low).zip(high) {
        *low = scale * VALUES[usize::from(byte & 15)];
        *high = scale * VALUES[usize::from(byte >> 4)];
    }
}

pub(super) fn iq4_nl(src: &[u8], out: &mut [f32]) {
    for (b, out) in src.as_chunks::<18>().0.iter().zip(out.chunks_exact_mut(32)) {
        put_values(&b[2..], half(b), out);
    }
}

pub(super) fn iq4_xs(src: &[u8], out: &mut [f32]) {
    for (b, out) in src
        .as_chunks::<136>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(256))
    {
        let d = half(b);
        for (ib, out) in out.chunks_exact_mut(32).enumerate() {
            let low = b[4 + ib / 2] >> (4 * (ib % 2)) & 15;
            let high = u16_at(b, 1) >> (2 * ib) & 3;
            let scale = d * f32::from(i16::from(low) + 16 * high as i16 - 32);
            put_values(&b[8 + 16 * ib..][..16], scale, out);
        }
    }
}
