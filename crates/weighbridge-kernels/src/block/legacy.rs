//! Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q8_1: 32 values under one scale, some with an offset.
//!
//! Layouts from `ggml/src/ggml-common.h` (ggml 0.25.3), all little-endian: `d` and `m` are
//! binary16; then Q5 has 32 fifth bits; then two values a byte, value `i` in the lower half of byte
//! `i`, value 16 + `i` in the upper half. Q8_0 has 32 signed bytes; Q8_1 has before them the sum of
//! its values as binary16.

use super::lanes::{Kernel, Lanes, trunc};
use super::search::{Steps, affine, extreme, symmetric};
use super::{legacy_lanes, put_half, sum_of_squares, value, weigh};

/// The search for scale and offset of Q4_1 and Q5_1 with weights.
pub(super) const fn steps(top: i32) -> Steps {
    Steps {
        top,
        first: -0.9,
        delta: 0.05,
        last: 36,
        absolute: false,
    }
}

/// 1/`d`, or 0.
#[inline(always)]
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The mean of the squares of a row.
#[inline(always)]
pub(super) fn mean_square(row: &[f32]) -> f32 {
    sum_of_squares(row) / row.len() as f32
}

/// Least and greatest.
pub(super) fn range(x: &[f32; 32]) -> (f32, f32) {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for &x in x {
        if x < min {
            min = x;
        }
        if x > max {
            max = x;
        }
    }
    (min, max)
}

/// Two levels a byte. Of a level that does not fit, the reference mixes all bits into Q4.
#[inline(always)]
pub(super) fn pack4(levels: &[u8; 32], out: &mut [u8]) {
    for (i, out) in out.iter_mut().take(16).enumerate() {
        *out = levels[i] | levels[16 + i] << 4;
    }
}

/// The fifth bits, then two levels a byte.
#[inline(always)]
pub(super) fn pack5(levels: &[u8; 32], out: &mut [u8]) {
    let mut high = 0u32;
    for (i, level) in levels.iter().enumerate() {
        high |= u32::from(level >> 4 & 1) << i;
    }
    let (head, rest) = out.split_at_mut(4);
    head.copy_from_slice(&high.to_le_bytes());
    for (i, out) in rest.iter_mut().take(16).enumerate() {
        *out = levels[i] & 15 | levels[16 + i] << 4;
    }
}

/// Levels around zero without weights: the extreme value becomes the least level.
fn plain_symmetric(x: &[f32; 32], halfway: u8) -> (f32, [u8; 32]) {
    let d = extreme(x).0 / -f32::from(halfway);
    let (id, shift) = (inverse(d), f32::from(halfway) + 0.5);
    (
        d,
        x.map(|x| (trunc(x * id + shift) as i8).min(2 * halfway as i8 - 1) as u8),
    )
}

/// Scale, least value and levels without weights. Q4 takes what is too great for the greatest.
fn plain_affine(x: &[f32; 32], top: u8) -> (f32, f32, [u8; 32]) {
    let (min, max) = range(x);
    let d = (max - min) / f32::from(top);
    let id = inverse(d);
    let levels = x.map(|x| {
        let level = trunc((x - min) * id + 0.5);
        if top == 15 {
            (level as i8).min(15) as u8
        } else {
            level as u8
        }
    });
    (d, min, levels)
}

/// For Q4_0 (`HALF` 8) and Q5_0 (16).
fn twin_symmetric<const HALF: u8, const BYTES: usize>(
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
    pack: fn(&[u8; 32], &mut [u8]),
) {
    let sigma2 = weights.map(|_| mean_square(row));
    let blocks = row.as_chunks::<32>().0.iter().enumerate();
    for ((i, x), out) in blocks.zip(out.as_chunks_mut::<BYTES>().0) {
        let (d, levels) = match (sigma2, weights) {
            (Some(sigma2), Some(weights)) => {
                let mut levels = [0; 32];
                let w = weigh(sigma2, x, &weights[32 * i..]);
                (symmetric(i32::from(HALF), x, &w, &mut levels), levels)
            }
            _ => plain_symmetric(x, HALF),
        };
        put_half(out, 0, d);
        pack(&levels, &mut out[2..]);
    }
}

/// For Q4_1 (`TOP` 15) and Q5_1 (31).
fn twin_affine<const TOP: u8, const BYTES: usize>(
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
    pack: fn(&[u8; 32], &mut [u8]),
) {
    let sigma2 = weights.map(|_| mean_square(row));
    let blocks = row.as_chunks::<32>().0.iter().enumerate();
    for ((i, x), out) in blocks.zip(out.as_chunks_mut::<BYTES>().0) {
        let (d, m, levels) = match (sigma2, weights) {
            (Some(sigma2), Some(weights)) => {
                let mut levels = [0; 32];
                let w = weigh(sigma2, x, &weights[32 * i..]);
                let (d, min) = affine(steps(i32::from(TOP)), x, &w, &mut levels);
                (d, -min, levels)
            }
            _ => plain_affine(x, TOP),
        };
        put_half(out, 0, d);
        put_half(out, 2, m);
        pack(&levels, &mut out[4..]);
    }
}

pub(super) enum Q4_0 {}

impl Kernel for Q4_0 {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin_symmetric::<8, 18>(row, weights, out, pack4);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        legacy_lanes::symmetrics::<S, 8, 18, false>(s, row, weights, out);
    }
}

pub(super) enum Q4_1 {}

impl Kernel for Q4_1 {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin_affine::<15, 20>(row, weights, out, pack4);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        legacy_lanes::affines::<S, 15, 20, false>(s, row, weights, out);
    }
}

pub(super) enum Q5_0 {}

impl Kernel for Q5_0 {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin_symmetric::<16, 22>(row, weights, out, pack5);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        legacy_lanes::symmetrics::<S, 16, 22, true>(s, row, weights, out);
    }
}

pub(super) enum Q5_1 {}

impl Kernel for Q5_1 {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin_affine::<31, 24>(row, weights, out, pack5);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        legacy_lanes::affines::<S, 31, 24, true>(s, row, weights, out);
    }
}

pub(super) enum Q8_0 {}

impl Kernel for Q8_0 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<32>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<34>().0) {
            let d = extreme(x).1 / 127.0;
            let id = inverse(d);
            put_half(out, 0, d);
            for (x, out) in x.iter().zip(&mut out[2..]) {
                // Half away from zero.
                *out = trunc((x * id).round()) as u8;
            }
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        legacy_lanes::eights(s, row, out);
    }
}

/// The fifth bits of values `i` and 16 + `i`, in the place of 16.
#[inline(always)]
fn fifth(high: u32, i: usize) -> (u8, u8) {
    let (a, b) = ((high >> i) as u8, (high >> (16 + i)) as u8);
    ((a & 1) << 4, (b & 1) << 4)
}

pub(super) fn from_q4_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<18>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        let d = value(b, 0);
        for (i, q) in b[2..].iter().enumerate() {
            y[i] = (i32::from(q & 15) - 8) as f32 * d;
            y[16 + i] = (i32::from(q >> 4) - 8) as f32 * d;
        }
    }
}

pub(super) fn from_q4_1(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<20>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        let (d, m) = (value(b, 0), value(b, 2));
        for (i, q) in b[4..].iter().enumerate() {
            y[i] = f32::from(q & 15) * d + m;
            y[16 + i] = f32::from(q >> 4) * d + m;
        }
    }
}

pub(super) fn from_q5_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<22>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        let (d, high) = (value(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
        for (i, q) in b[6..].iter().enumerate() {
            let (low, upper) = fifth(high, i);
            y[i] = (i32::from(q & 15 | low) - 16) as f32 * d;
            y[16 + i] = (i32::from(q >> 4 | upper) - 16) as f32 * d;
        }
    }
}

pub(super) fn from_q5_1(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<24>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        let (d, m) = (value(b, 0), value(b, 2));
        let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        for (i, q) in b[8..].iter().enumerate() {
            let (low, upper) = fifth(high, i);
            y[i] = f32::from(q & 15 | low) * d + m;
            y[16 + i] = f32::from(q >> 4 | upper) * d + m;
        }
    }
}

pub(super) fn from_q8_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<34>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        let d = value(b, 0);
        for (y, q) in y.iter_mut().zip(&b[2..]) {
            *y = f32::from(*q as i8) * d;
        }
    }
}

/// The reference has no function for it: a level times the scale, as everywhere.
pub(super) fn from_q8_1(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<36>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        let d = value(b, 0);
        for (y, q) in y.iter_mut().zip(&b[4..]) {
            *y = f32::from(*q as i8) * d;
        }
    }
}

/// Binary32 scale, 256 signed bytes, and sums that dequantizing does not need.
pub(super) fn from_q8_k(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<292>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        for (y, q) in y.iter_mut().zip(&b[4..]) {
            *y = d * f32::from(*q as i8);
        }
    }
}
