//! The fast paths of `legacy`: with weights a lane is a block; without, the scales of as many
//! blocks as there are lanes are made together, and a lane is a value.

use super::lanes::{Float, Int, Lanes, MAGIC, Mask};
use super::legacy::{mean_square, steps};
use super::search_lanes::{affine, symmetric};
use super::superblock::columns;

/// The greatest magnitude of finite values, which are a multiple of the lanes.
#[inline(always)]
pub(super) fn greatest<S: Lanes>(s: S, x: &[f32]) -> f32 {
    // Bits of magnitudes are in the order of the magnitudes, and integers may be compared in any.
    let mut most = s.i(0);
    for x in x.chunks_exact(S::N) {
        most = most.max(s.load(x).abs().bits());
    }
    f32::from_bits(most.greatest() as u32)
}

/// The value of the greatest magnitude, the first of equals.
#[inline(always)]
fn extreme<S: Lanes>(s: S, x: &[f32; 32]) -> f32 {
    let most = greatest(s, x);
    let (mut above, mut below) = (s.f(0.0).lt(s.f(0.0)), s.f(0.0).lt(s.f(0.0)));
    for x in x.chunks_exact(S::N) {
        above = above | s.load(x).eq(s.f(most));
        below = below | s.load(x).eq(s.f(-most));
    }
    match (above.any(), below.any()) {
        (true, false) => most,
        (false, true) => -most,
        _ => super::search::extreme(x).0,
    }
}

/// As `half`, in every lane: ties to even by an addition that leaves no more bits than a binary16
/// number of this size has.
#[inline(always)]
pub(super) fn half<S: Lanes>(s: S, x: S::F) -> S::I {
    let bits = x.bits();
    // Too great becomes infinite: 2^112 and 2^-110.
    let base = x.abs() * s.i(0x7780_0000).from_bits() * s.i(0x0880_0000).from_bits();
    let exponent = (bits & s.i(0x7f80_0000)).max(s.i(0x3880_0000));
    let sum = ((exponent + s.i(0x0780_0000)).from_bits() + base).bits();
    let magnitude = (sum.shr::<13>() & s.i(0x7c00)) + (sum & s.i(0xfff));
    let sign = bits.shr::<16>() & s.i(0x8000);
    x.eq(x).select_i(sign | magnitude, s.i(0xfe00))
}

/// 1/`d`, or 0.
#[inline(always)]
pub(super) fn inverse<S: Lanes>(s: S, d: S::F) -> S::F {
    let zero = s.f(0.0);
    d.eq(zero).select(zero, s.f(1.0) / d)
}

/// Halves away from zero to integers; `half` is the greatest number below 0.5.
#[inline(always)]
pub(super) fn round<F: Float>(x: F, half: F::I, sign: F::I) -> F::I {
    (x + (half | (x.bits() & sign)).from_bits()).trunc()
}

/// The bits of the greatest number below 0.5.
pub(super) const BELOW_HALF: i32 = 0x3eff_ffff;

/// Scales, as they are stored and as they are used, of as many blocks as there are lanes.
pub(super) struct Scales {
    pub(super) stored: [i32; 16],
    pub(super) used: [f32; 16],
}

impl Scales {
    #[inline(always)]
    pub(super) fn new<S: Lanes>(s: S, d: S::F, used: S::F) -> Self {
        let mut out = Self {
            stored: [0; 16],
            used: [0.0; 16],
        };
        half(s, d).store(&mut out.stored);
        used.store(&mut out.used);
        out
    }

    #[inline(always)]
    pub(super) fn put(&self, block: usize, out: &mut [u8]) {
        out[..2].copy_from_slice(&(self.stored[block] as u16).to_le_bytes());
    }
}

/// Levels of 32 values, packed as they come: two a byte, and the fifth bits of Q5 apart.
struct Packed {
    bytes: [u8; 16],
    fifths: u32,
}

impl Packed {
    #[inline(always)]
    fn new() -> Self {
        Self {
            bytes: [0; 16],
            fifths: 0,
        }
    }

    /// The levels of values `i` and on, and 16 + `i` and on.
    #[inline(always)]
    fn put<S: Lanes, const FIVE: bool>(&mut self, s: S, i: usize, low: S::I, high: S::I) {
        if FIVE {
            let bit = s.i(16);
            self.fifths |= (low & bit).eq(bit).bits() << i;
            self.fifths |= (high & bit).eq(bit).bits() << (16 + i);
            (low & s.i(15) | high.shl::<4>()).store_bytes(&mut self.bytes[i..]);
        } else {
            (low | high.shl::<4>()).store_bytes(&mut self.bytes[i..]);
        }
    }

    #[inline(always)]
    fn write<const FIVE: bool>(&self, out: &mut [u8]) {
        if FIVE {
            out[..4].copy_from_slice(&self.fifths.to_le_bytes());
            out[4..20].copy_from_slice(&self.bytes);
        } else {
            out[..16].copy_from_slice(&self.bytes);
        }
    }
}

/// A block's levels: `$level` of the values `$x`.
macro_rules! pack {
    ($s:ident, $five:ident, $block:ident, $out:expr, |$x:ident| $level:expr) => {{
        let mut packed = Packed::new();
        for i in (0..16).step_by(S::N) {
            let $x = $s.load(&$block[i..]);
            let low = $level;
            let $x = $s.load(&$block[16 + i..]);
            packed.put::<S, $five>($s, i, low, $level);
        }
        packed.write::<$five>($out);
    }};
}

/// `x` with the low byte's sign extended.
#[inline(always)]
fn low_byte<I: Int>(x: I) -> I {
    x.shl::<24>().sar::<24>()
}

/// Q4_0 (`HALF` 8) and Q5_0 (16).
#[inline(always)]
pub(super) fn symmetrics<S: Lanes, const HALF: i32, const BYTES: usize, const FIVE: bool>(
    s: S,
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    if let Some(q) = weights {
        return weighted_symmetrics::<S, HALF, BYTES, FIVE>(s, row, q, out);
    }
    let chunks = row.chunks(32 * S::N).zip(out.chunks_mut(BYTES * S::N));
    for (x, out) in chunks {
        let blocks = x.as_chunks::<32>().0;
        let mut most = [0.0; 16];
        for (x, most) in blocks.iter().zip(&mut most) {
            *most = extreme(s, x);
        }
        let d = s.load(&most) / s.f(-HALF as f32);
        let scales = Scales::new(s, d, inverse(s, d));
        let out = out.as_chunks_mut::<BYTES>().0;
        for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
            let id = s.f(scales.used[b]);
            let (shift, most) = (s.f(HALF as f32 + 0.5), s.i(2 * HALF - 1));
            scales.put(b, out);
            pack!(s, FIVE, x, &mut out[2..], |v| {
                low_byte((v * id + shift).trunc()).min(most) & s.i(255)
            });
        }
    }
}

#[inline(always)]
fn weigh<S: Lanes>(
    s: S,
    sigma2: f32,
    x: &[S::F; 32],
    importance: &[f32],
    first: usize,
) -> [S::F; 32] {
    let mut w = columns(s, importance, first);
    for (w, &x) in w.iter_mut().zip(x) {
        *w = *w * (s.f(sigma2) + x * x).sqrt();
    }
    w
}

#[inline(always)]
fn weighted_symmetrics<S: Lanes, const HALF: i32, const BYTES: usize, const FIVE: bool>(
    s: S,
    row: &[f32],
    importance: &[f32],
    out: &mut [u8],
) {
    let sigma2 = mean_square(row);
    let (magic, shift) = (s.f(MAGIC), s.i(HALF));
    let (least, most) = (s.i(-HALF), s.i(HALF - 1));
    for (i, out) in out.chunks_mut(BYTES * S::N).enumerate() {
        let first = i * S::N;
        let x = columns(s, row, first);
        let w = weigh(s, sigma2, &x, importance, first);
        let (d, iscale, nothing) = symmetric::<S, 32, true>(s, HALF, &x, &w);
        let scales = Scales::new(s, d, iscale);
        let nothing = nothing.bits();
        let blocks = row[32 * first..].as_chunks::<32>().0.iter();
        for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<BYTES>().0).enumerate() {
            scales.put(b, out);
            if nothing >> b & 1 == 1 {
                out[2..].fill(0);
                continue;
            }
            let iscale = s.f(scales.used[b]);
            pack!(s, FIVE, x, &mut out[2..], |v| {
                (v * iscale).nearest(magic).min(most).max(least) + shift
            });
        }
    }
}

/// Q4_1 (`TOP` 15) and Q5_1 (31).
#[inline(always)]
pub(super) fn affines<S: Lanes, const TOP: i32, const BYTES: usize, const FIVE: bool>(
    s: S,
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    if let Some(q) = weights {
        return weighted_affines::<S, TOP, BYTES, FIVE>(s, row, q, out);
    }
    let chunks = row.chunks(32 * S::N).zip(out.chunks_mut(BYTES * S::N));
    for (x, out) in chunks {
        let blocks = x.as_chunks::<32>().0;
        let (mut least, mut most) = ([0.0; 16], [0.0; 16]);
        for (b, x) in blocks.iter().enumerate() {
            (least[b], most[b]) = range(s, x);
        }
        let min = s.load(&least);
        let d = (s.load(&most) - min) / s.f(TOP as f32);
        let scales = Scales::new(s, d, inverse(s, d));
        let offsets = Scales::new(s, min, min);
        let out = out.as_chunks_mut::<BYTES>().0;
        for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
            let (id, min) = (s.f(scales.used[b]), s.f(offsets.used[b]));
            scales.put(b, out);
            offsets.put(b, &mut out[2..]);
            pack!(s, FIVE, x, &mut out[4..], |v| {
                let level = ((v - min) * id + s.f(0.5)).trunc();
                let level = if FIVE {
                    level
                } else {
                    low_byte(level).min(s.i(TOP))
                };
                level & s.i(255)
            });
        }
    }
}

/// Least and greatest of a block. Of equal zeros the reference keeps the first, which has to be
/// looked for.
#[inline(always)]
fn range<S: Lanes>(s: S, x: &[f32; 32]) -> (f32, f32) {
    // As integers that are in the order of the values; of a complement the greatest is the least.
    let (mut least, mut most) = (s.i(i32::MIN), s.i(i32::MIN));
    for x in x.chunks_exact(S::N) {
        let bits = s.load(x).bits();
        let key = bits ^ (bits.sar::<31>() & s.i(i32::MAX));
        most = most.max(key);
        least = least.max(key ^ s.i(-1));
    }
    let value = |key: i32| f32::from_bits((key ^ (key >> 31 & i32::MAX)) as u32);
    let (low, high) = (value(!least.greatest()), value(most.greatest()));
    if low == 0.0 || high == 0.0 {
        return super::legacy::range(x);
    }
    (low, high)
}

#[inline(always)]
fn weighted_affines<S: Lanes, const TOP: i32, const BYTES: usize, const FIVE: bool>(
    s: S,
    row: &[f32],
    importance: &[f32],
    out: &mut [u8],
) {
    let sigma2 = mean_square(row);
    let (magic, least, most) = (s.f(MAGIC), s.i(0), s.i(TOP));
    for (i, out) in out.chunks_mut(BYTES * S::N).enumerate() {
        let first = i * S::N;
        let x = columns(s, row, first);
        let w = weigh(s, sigma2, &x, importance, first);
        let found = affine(s, steps(TOP), &x, &w);
        let scales = Scales::new(s, found.scale, found.iscale);
        let offsets = Scales::new(s, -found.min, found.from);
        let blocks = row[32 * first..].as_chunks::<32>().0.iter();
        for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<BYTES>().0).enumerate() {
            let (iscale, from) = (s.f(scales.used[b]), s.f(offsets.used[b]));
            scales.put(b, out);
            offsets.put(b, &mut out[2..]);
            pack!(s, FIVE, x, &mut out[4..], |v| {
                let level = (iscale * (v - from)).nearest(magic);
                level.min(most).max(least)
            });
        }
    }
}

/// Q8_0.
#[inline(always)]
pub(super) fn eights<S: Lanes>(s: S, row: &[f32], out: &mut [u8]) {
    let (below_half, sign) = (s.i(BELOW_HALF), s.i(i32::MIN));
    let chunks = row.chunks(32 * S::N).zip(out.chunks_mut(34 * S::N));
    for (x, out) in chunks {
        let blocks = x.as_chunks::<32>().0;
        let mut most = [0.0; 16];
        for (x, most) in blocks.iter().zip(&mut most) {
            *most = greatest(s, x);
        }
        let d = s.load(&most) / s.f(127.0);
        let scales = Scales::new(s, d, inverse(s, d));
        let out = out.as_chunks_mut::<34>().0;
        for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
            let id = s.f(scales.used[b]);
            scales.put(b, out);
            for i in (0..32).step_by(S::N) {
                let level = round(s.load(&x[i..]) * id, below_half, sign);
                level.store_bytes(&mut out[2 + i..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Portable;
    use super::*;

    #[test]
    fn halves_are_those_of_the_twin() {
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            let mut got = [0; 4];
            half(Portable, Portable.f(x)).store(&mut got);
            assert_eq!(got[0], i32::from(super::super::half(x)), "{x:e}");
        };
        for bits in (0..=u32::MAX - 4099).step_by(4099) {
            check(bits);
        }
        for code in 0..=u16::MAX {
            let bits = crate::scalar::f16_to_f32(code).to_bits();
            for near in [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff] {
                check(bits.wrapping_add(near));
                check(bits.wrapping_sub(near));
            }
        }
    }
}
