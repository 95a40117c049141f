//! Q1_0, Q2_0, TQ1_0 and TQ2_0: signs and very few levels.
//!
//! Layouts from `ggml/src/ggml-common.h` (ggml 0.25.3): Q1_0 is a binary16 scale and 128 signs,
//! lowest bit first, set for what is not negative; Q2_0 a binary16 scale and 64 levels of 2 bits,
//! lowest first, that stand for -1 to 2. TQ2_0 has 256 levels of 2 bits for -1 to 1, value
//! `32 n + m` of each 128 in bits `2 n` of byte `m`, then the scale. TQ1_0 packs five levels a
//! byte as a fraction of 3^5 rounded up to 256ths: 160 values in 32 bytes, 80 in 16, then 16 in
//! 4 bytes of four levels, then the scale.

use super::lanes::{Float, Int, Kernel, Lanes, Mask, trunc};
use super::legacy::inverse;
use super::legacy_lanes::{self, BELOW_HALF, Scales, greatest, round};
use super::search::extreme;
use super::superblock::columns;
use super::{put_half, value};

/// The value of a level of a ternary type: half away from zero; what is no number is 1.
fn trit(x: f32) -> u8 {
    // `lroundf` of what does not fit has no low bits set.
    let whole = trunc(x.round());
    if whole == i32::MIN {
        1
    } else {
        (whole + 1) as u8
    }
}

/// The greatest magnitudes of blocks as scales.
#[inline(always)]
fn largest<S: Lanes, const LEN: usize>(s: S, blocks: &[[f32; LEN]]) -> Scales {
    let mut most = [0.0; 16];
    for (x, most) in blocks.iter().zip(&mut most) {
        *most = greatest(s, x);
    }
    let d = s.load(&most);
    Scales::new(s, d, legacy_lanes::inverse(s, d))
}

/// [`trit`] of every value times `id`.
#[inline(always)]
fn trits<S: Lanes>(s: S, x: &[f32; 256], id: f32) -> [u8; 256] {
    let (below_half, sign, one) = (s.i(BELOW_HALF), s.i(i32::MIN), s.i(1));
    let id = s.f(id);
    let mut out = [0; 256];
    for i in (0..256).step_by(S::N) {
        // The least integer plus one has 1 in its low byte.
        let level = round(s.load(&x[i..]) * id, below_half, sign) + one;
        level.store_bytes(&mut out[i..]);
    }
    out
}

pub(super) enum Q1_0 {}

impl Kernel for Q1_0 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<128>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<18>().0) {
            let mut sum = 0.0f32;
            for x in x {
                sum += x.abs();
            }
            put_half(out, 0, sum / 128.0);
            pack_signs(x, &mut out[2..]);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let zero = s.f(0.0);
        for (x, out) in row.chunks(128 * S::N).zip(out.chunks_mut(18 * S::N)) {
            let values: [S::F; 128] = columns(s, x, 0);
            let mut sum = zero;
            for x in &values {
                sum = sum + x.abs();
            }
            let scales = Scales::new(s, sum / s.f(128.0), zero);
            let blocks = x.as_chunks::<128>().0.iter();
            for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<18>().0).enumerate() {
                scales.put(b, out);
                let halves = x.as_chunks::<64>().0.iter();
                for (x, out) in halves.zip(out[2..].as_chunks_mut::<8>().0) {
                    let mut signs = 0u64;
                    for i in (0..64).step_by(S::N) {
                        signs |= u64::from(s.load(&x[i..]).ge(zero).bits()) << i;
                    }
                    *out = signs.to_le_bytes();
                }
            }
        }
    }
}

fn pack_signs(x: &[f32; 128], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<8>().0.iter().zip(out) {
        *out = 0;
        for (bit, x) in x.iter().enumerate() {
            *out |= u8::from(*x >= 0.0) << bit;
        }
    }
}

pub(super) enum Q2_0 {}

impl Kernel for Q2_0 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<64>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<18>().0) {
            let d = extreme(x).1;
            let id = if d > 0.0 { 1.0 / d } else { 0.0 };
            put_half(out, 0, d);
            for (x, out) in x.as_chunks::<4>().0.iter().zip(&mut out[2..]) {
                *out = 0;
                for (i, x) in x.iter().enumerate() {
                    let q = trunc((x * id).round()).wrapping_add(1).clamp(0, 3);
                    *out |= (q as u8) << (2 * i);
                }
            }
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let (below_half, sign) = (s.i(BELOW_HALF), s.i(i32::MIN));
        let (zero, one, three) = (s.i(0), s.i(1), s.i(3));
        for (x, out) in row.chunks(64 * S::N).zip(out.chunks_mut(18 * S::N)) {
            let blocks = x.as_chunks::<64>().0;
            let scales = largest(s, blocks);
            let out = out.as_chunks_mut::<18>().0;
            for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
                let id = s.f(scales.used[b]);
                let mut levels = [0; 64];
                for i in (0..64).step_by(S::N) {
                    let level = round(s.load(&x[i..]) * id, below_half, sign) + one;
                    level.min(three).max(zero).store_bytes(&mut levels[i..]);
                }
                scales.put(b, out);
                for (l, out) in levels.as_chunks::<4>().0.iter().zip(&mut out[2..]) {
                    let l = u32::from_le_bytes(*l);
                    *out = (l | l >> 6 | l >> 12 | l >> 18) as u8;
                }
            }
        }
    }
}

pub(super) enum TQ1_0 {}

/// A number of five base-3 digits as a fraction of 256, rounded up.
#[inline(always)]
fn fraction(q: u8) -> u8 {
    (u16::from(q) * 256).div_ceil(243) as u8
}

/// Where the bytes of TQ1_0 take their levels: first byte, bytes, first value, levels a byte.
const TRITS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];

#[inline(always)]
fn pack_trits(trits: &[u8; 256], out: &mut [u8]) {
    for (byte, bytes, first, digits) in TRITS {
        let out = &mut out[byte..byte + bytes];
        out.fill(0);
        for n in 0..digits {
            for (q, trit) in out.iter_mut().zip(&trits[first + n * bytes..]) {
                *q = q.wrapping_mul(3).wrapping_add(*trit);
            }
        }
        for q in out {
            *q = fraction(if digits == 4 { q.wrapping_mul(3) } else { *q });
        }
    }
}

impl Kernel for TQ1_0 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<256>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<54>().0) {
            let d = extreme(x).1;
            let id = inverse(d);
            pack_trits(&x.map(|x| trit(x * id)), out);
            put_half(out, 52, d);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, out) in row.chunks(256 * S::N).zip(out.chunks_mut(54 * S::N)) {
            let blocks = x.as_chunks::<256>().0;
            let scales = largest(s, blocks);
            let out = out.as_chunks_mut::<54>().0;
            for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
                pack_trits(&trits(s, x, scales.used[b]), out);
                scales.put(b, &mut out[52..]);
            }
        }
    }
}

pub(super) enum TQ2_0 {}

#[inline(always)]
fn pack_twos(levels: &[u8; 256], out: &mut [u8]) {
    for (half, levels) in levels.as_chunks::<128>().0.iter().enumerate() {
        for m in 0..32 {
            let two = |n: usize| (levels[32 * n + m] & 3) << (2 * n);
            out[32 * half + m] = two(0) | two(1) | two(2) | two(3);
        }
    }
}

impl Kernel for TQ2_0 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<256>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<66>().0) {
            let d = extreme(x).1;
            let id = inverse(d);
            pack_twos(&x.map(|x| trit(x * id)), out);
            put_half(out, 64, d);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, out) in row.chunks(256 * S::N).zip(out.chunks_mut(66 * S::N)) {
            let blocks = x.as_chunks::<256>().0;
            let scales = largest(s, blocks);
            let out = out.as_chunks_mut::<66>().0;
            for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
                pack_twos(&trits(s, x, scales.used[b]), out);
                scales.put(b, &mut out[64..]);
            }
        }
    }
}

pub(super) fn from_q1_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<18>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<128>().0) {
        let d = value(b, 0);
        for (y, q) in y.as_chunks_mut::<8>().0.iter_mut().zip(&b[2..]) {
            for (bit, y) in y.iter_mut().enumerate() {
                *y = if q >> bit & 1 == 1 { d } else { -d };
            }
        }
    }
}

pub(super) fn from_q2_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<18>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<64>().0) {
        let d = value(b, 0);
        for (y, q) in y.as_chunks_mut::<4>().0.iter_mut().zip(&b[2..]) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = (i32::from(q >> (2 * i) & 3) - 1) as f32 * d;
            }
        }
    }
}

pub(super) fn from_tq1_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<54>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let d = value(b, 52);
        for (byte, bytes, first, digits) in TRITS {
            let mut power = 1u8;
            for n in 0..digits {
                for m in 0..bytes {
                    let digit = (u16::from(b[byte + m].wrapping_mul(power)) * 3) >> 8;
                    y[first + n * bytes + m] = (i32::from(digit) - 1) as f32 * d;
                }
                power = power.wrapping_mul(3);
            }
        }
    }
}

pub(super) fn from_tq2_0(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<66>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let d = value(b, 64);
        for (half, y) in y.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            for (n, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (m, y) in y.iter_mut().enumerate() {
                    let q = b[32 * half + m] >> (2 * n) & 3;
                    *y = (i32::from(q) - 1) as f32 * d;
                }
            }
        }
    }
}
