//! MXFP4 and NVFP4: values of four bits (OCP E2M1) under scales of eight bits.
//!
//! From `ggml/src/ggml-common.h` and `ggml-impl.h` (ggml 0.25.3): MXFP4 is one E8M0 scale for 32
//! values, NVFP4 four unsigned E4M3 scales for 16 values each; then two values a byte, value `i`
//! of a scale in the lower half of its byte `i`, the second half of the values above. Levels
//! count halves, so scales are halved on reading.

use super::lanes::{Float, Int, Kernel, Lanes, Mask, trunc};
use super::legacy_lanes::greatest;
use super::search::extreme;

/// The values in halves.
pub(super) const HALVES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of an E8M0 scale: 2^(code - 128).
fn e8m0_half(code: u8) -> f32 {
    let code = u32::from(code);
    f32::from_bits(if code < 2 {
        0x0020_0000 << code
    } else {
        (code - 1) << 23
    })
}

/// Half of an unsigned E4M3 scale with bias 7; 127 is zero, the top bit means nothing.
fn ue4m3_half(code: u8) -> f32 {
    if code == 0x7f {
        return 0.0;
    }
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let power = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    if exponent == 0 {
        fraction * power(-10)
    } else {
        (1.0 + fraction / 8.0) * power(exponent - 8)
    }
}

/// The unsigned E4M3 scale nearest to `x`, by the first bit that is cut; up to 448.
fn ue4m3(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let x = if x > 448.0 { 448.0 } else { x };
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 255) as i32 - 120;
    if exponent <= 0 {
        return trunc(x * 512.0 + 0.5).min(7) as u8;
    }
    if exponent >= 15 {
        return 0x7e;
    }
    let code = (exponent << 3) + (bits >> 20 & 7) as i32 + (bits >> 19 & 1) as i32;
    if code >= 15 << 3 { 0x7e } else { code as u8 }
}

/// The whole part of the binary logarithm rounded to binary32, as `floorf(log2f(x))` of a
/// correctly rounded `log2f` has it: just below a power of two the logarithm rounds up to it.
fn floor_log2(x: f32) -> i32 {
    let bits = x.to_bits();
    let (exponent, fraction) = if bits >> 23 == 0 {
        let top = 31 - bits.leading_zeros();
        (top as i32 - 149, f64::from(bits) / f64::from(1u32 << top))
    } else {
        let fraction = f64::from(bits & 0x7f_ffff | 0x80_0000);
        ((bits >> 23) as i32 - 127, fraction / f64::from(1u32 << 23))
    };
    let next = exponent + 1;
    if next == 0 {
        return exponent;
    }
    // Binary32 numbers next to `next`, on the side of `exponent`, are this far apart.
    let side = if next > 0 { next - 1 } else { -next };
    let apart = if side == 0 {
        f64::from(f32::EPSILON) / 2.0
    } else {
        f64::from(1u32 << side.ilog2()) * f64::from(f32::EPSILON)
    };
    let below = 1.0 - fraction / 2.0;
    exponent + i32::from(below <= apart / 2.0 * std::f64::consts::LN_2)
}

/// The first of the levels nearest to `x`.
#[inline(always)]
fn nearest_level(x: f32, d: f32) -> u8 {
    let (mut best, mut error) = (0, (0.0 * d - x).abs());
    for (i, level) in HALVES.iter().enumerate().skip(1) {
        let this = (f32::from(*level) * d - x).abs();
        if this < error {
            (best, error) = (i as u8, this);
        }
    }
    best
}

fn pack(x: &[f32], d: f32, out: &mut [u8]) {
    let (low, high) = x.split_at(x.len() / 2);
    for ((low, high), out) in low.iter().zip(high).zip(out) {
        *out = nearest_level(*low, d) | nearest_level(*high, d) << 4;
    }
}

/// As [`pack`], a value in every lane. There are at most 32 values.
#[inline(always)]
fn pack_lanes<S: Lanes>(s: S, x: &[f32], d: f32, out: &mut [u8]) {
    let mut levels = [0; 32];
    for (x, levels) in x.chunks_exact(S::N).zip(levels.chunks_exact_mut(S::N)) {
        // A level of the other sign is no nearer than zero, which comes first.
        let x = s.load(x);
        let (mut best, mut error) = (s.i(0), x.abs());
        for (i, level) in HALVES.iter().enumerate().take(8).skip(1) {
            let this = (s.f(f32::from(*level) * d) - x.abs()).abs();
            best = this.lt(error).select_i(s.i(i as i32), best);
            error = this.min(error);
        }
        let negative = x.lt(s.f(0.0)) & best.gt(s.i(0));
        let best = negative.select_i(best + s.i(8), best);
        best.store_bytes(levels);
    }
    let (low, high) = levels[..x.len()].split_at(x.len() / 2);
    for ((low, high), out) in low.iter().zip(high).zip(out) {
        *out = low | high << 4;
    }
}

/// The E8M0 scale of a block: the exponent of the greatest magnitude less that of 4.
fn shared_exponent(amax: f32) -> u8 {
    if amax > 0.0 {
        (floor_log2(amax) + 125) as u8
    } else {
        0
    }
}

pub(super) enum Mxfp4 {}

impl Kernel for Mxfp4 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<32>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<17>().0) {
            out[0] = shared_exponent(extreme(x).1);
            pack(x, e8m0_half(out[0]), &mut out[1..]);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<32>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<17>().0) {
            out[0] = shared_exponent(greatest(s, x));
            let d = e8m0_half(out[0]);
            pack_lanes(s, x, d, &mut out[1..]);
        }
    }
}

pub(super) enum Nvfp4 {}

impl Kernel for Nvfp4 {
    fn twin(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<64>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<36>().0) {
            let (scales, out) = out.split_at_mut(4);
            let subs = x.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<8>().0);
            for ((x, out), scale) in subs.zip(scales) {
                *scale = ue4m3(extreme(x).1 / 6.0);
                pack(x, ue4m3_half(*scale), out);
            }
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<64>().0.iter();
        for (x, out) in blocks.zip(out.as_chunks_mut::<36>().0) {
            let (scales, out) = out.split_at_mut(4);
            let subs = x.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<8>().0);
            for ((x, out), scale) in subs.zip(scales) {
                *scale = ue4m3(greatest(s, x) / 6.0);
                pack_lanes(s, x, ue4m3_half(*scale), out);
            }
        }
    }
}

#[inline(always)]
fn unpack(q: &[u8], d: f32, y: &mut [f32]) {
    let (low, high) = y.split_at_mut(y.len() / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
        *low = f32::from(HALVES[usize::from(q & 15)]) * d;
        *high = f32::from(HALVES[usize::from(q >> 4)]) * d;
    }
}

pub(super) fn from_mxfp4(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<17>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<32>().0) {
        unpack(&b[1..], e8m0_half(b[0]), y);
    }
}

pub(super) fn from_nvfp4(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<36>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<64>().0) {
        for (i, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            unpack(&b[4 + 8 * i..12 + 8 * i], ue4m3_half(b[i]), y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_round_up_to_whole_numbers_as_recorded_from_glibc() {
        // Exponent, and how many of its greatest values the logarithm rounds up.
        for (exponent, count) in [
            (-126, 44),
            (-65, 44),
            (-64, 22),
            (-33, 22),
            (-32, 11),
            (-16, 5),
            (-8, 2),
            (-4, 1),
            (-3, 1),
            (-2, 0),
            (-1, 0),
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 1),
            (4, 2),
            (8, 5),
            (31, 11),
            (32, 22),
            (63, 22),
            (64, 44),
            (127, 44),
        ] {
            let top = ((exponent + 128) as u32) << 23;
            for n in 1..60 {
                let x = f32::from_bits(top - n);
                assert_eq!(floor_log2(x), exponent + i32::from(n <= count), "{x:e}");
            }
        }
        for (exponent, count) in [(-149, 0), (-133, 0), (-132, 1), (-130, 5), (-127, 22)] {
            let top = 1u32 << (exponent + 150);
            for n in 1..=(top / 2).min(60) {
                let x = f32::from_bits(top - n);
                assert_eq!(floor_log2(x), exponent + i32::from(n <= count), "{x:e}");
            }
        }
    }
}
