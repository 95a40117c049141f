//! Linear quantization of floats to small integers, in the arithmetic of ONNX Runtime's Python
//! quantizer (`onnxruntime/quantization/quant_utils.py`, 1.32) so that integers are equal in bits:
//! `clip(rint(x / scale) + zero_point)` in binary32.
//!
//! The loops are written so that the compiler makes vectors of them; `arch` builds them once more
//! for processors with AVX2. The tests hold each against a plain twin.

use crate::arch::{Body, wide};

/// Adding and taking it away rounds to the nearest integer, half to even, where |x| < 2^22.
const MAGIC: f32 = 12_582_912.0;

/// How values become integers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// The step.
    pub scale: f32,
    /// The integer that means zero.
    pub zero_point: f32,
    /// The smallest integer.
    pub low: f32,
    /// The greatest integer.
    pub high: f32,
}

/// The smallest and greatest of `x`, starting from the two given; NaN is passed over.
pub fn range(x: &[f32], from: (f32, f32)) -> (f32, f32) {
    struct Range<'a>(&'a [f32], (f32, f32));
    impl Body for Range<'_> {
        type Out = (f32, f32);
        #[inline(always)]
        fn run(self) -> (f32, f32) {
            body::range(self.0, self.1)
        }
    }
    wide(Range(x, from))
}

/// Widens `least` and `most` by the values of rows as long as they are.
pub fn range_columns(x: &[f32], least: &mut [f32], most: &mut [f32]) {
    struct Columns<'a>(&'a [f32], &'a mut [f32], &'a mut [f32]);
    impl Body for Columns<'_> {
        type Out = ();
        #[inline(always)]
        fn run(self) {
            body::range_columns(self.0, self.1, self.2);
        }
    }
    wide(Columns(x, least, most));
}

/// Quantizes as many values as both slices hold; the low byte of each integer is written. Values
/// must be finite and `x / scale` below 2^22.
pub fn quantize(x: &[f32], line: Line, out: &mut [u8]) {
    struct Quantize<'a>(&'a [f32], Line, &'a mut [u8]);
    impl Body for Quantize<'_> {
        type Out = ();
        #[inline(always)]
        fn run(self) {
            body::quantize(self.0, self.1, self.2);
        }
    }
    wide(Quantize(x, line, out));
}

/// As [`quantize`], in rows as long as `scales` and `zero_points`, of which each column has its
/// own; `bounds` are the smallest and greatest integer.
pub fn quantize_columns(
    x: &[f32],
    scales: &[f32],
    zero_points: &[f32],
    bounds: (f32, f32),
    out: &mut [u8],
) {
    struct Columns<'a>(&'a [f32], [&'a [f32]; 2], (f32, f32), &'a mut [u8]);
    impl Body for Columns<'_> {
        type Out = ();
        #[inline(always)]
        fn run(self) {
            let [scales, zero_points] = self.1;
            body::quantize_columns(self.0, scales, zero_points, self.2, self.3);
        }
    }
    wide(Columns(x, [scales, zero_points], bounds, out));
}

/// The bodies, which `arch` builds for each kind of processor.
mod body {
    use super::{Line, MAGIC};

    #[inline(always)]
    pub(super) fn range(x: &[f32], from: (f32, f32)) -> (f32, f32) {
        const LANES: usize = 32;
        let (mut least, mut most) = ([from.0; LANES], [from.1; LANES]);
        let (whole, rest) = x.as_chunks::<LANES>();
        for part in whole {
            for ((l, m), &v) in least.iter_mut().zip(&mut most).zip(part) {
                *l = if v < *l { v } else { *l };
                *m = if v > *m { v } else { *m };
            }
        }
        let (mut low, mut high) = from;
        for &v in least.iter().chain(&most).chain(rest) {
            low = if v < low { v } else { low };
            high = if v > high { v } else { high };
        }
        (low, high)
    }

    #[inline(always)]
    pub(super) fn range_columns(x: &[f32], least: &mut [f32], most: &mut [f32]) {
        for row in x.chunks_exact(least.len().max(1)) {
            for ((l, m), &v) in least.iter_mut().zip(&mut *most).zip(row) {
                *l = if v < *l { v } else { *l };
                *m = if v > *m { v } else { *m };
            }
        }
    }

    #[inline(always)]
    fn one(x: f32, scale: f32, zero_point: f32, low: f32, high: f32) -> u8 {
        let level = (x / scale + MAGIC) - MAGIC + zero_point;
        let level = if level < low { low } else { level };
        let level = if level > high { high } else { level };
        (level + MAGIC).to_bits() as u8
    }

    #[inline(always)]
    pub(super) fn quantize(x: &[f32], line: Line, out: &mut [u8]) {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = one(v, line.scale, line.zero_point, line.low, line.high);
        }
    }

    #[inline(always)]
    pub(super) fn quantize_columns(
        x: &[f32],
        scales: &[f32],
        zero_points: &[f32],
        (low, high): (f32, f32),
        out: &mut [u8],
    ) {
        let columns = scales.len().max(1);
        let rows = x.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for (row, out) in rows {
            let parameters = scales.iter().zip(zero_points);
            for ((o, &v), (&s, &z)) in out.iter_mut().zip(row).zip(parameters) {
                *o = one(v, s, z, low, high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In double precision where nothing else is said, and with the standard library's rounding.
    fn twin(x: f32, scale: f32, zero: f32, low: f32, high: f32) -> u8 {
        let level = (x / scale).round_ties_even() + zero;
        level.clamp(low, high) as i32 as u8
    }

    fn values(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|i| next() * (1.0 + (i % 7) as f32)).collect()
    }

    #[test]
    fn integers_are_those_of_the_twin() {
        let x = values(1003);
        for (scale, zero, low, high) in [
            (0.027, 0.0, -128.0, 127.0),
            (0.015, 119.0, 0.0, 255.0),
            (0.5, -3.0, -8.0, 7.0),
            (0.25, 8.0, 0.0, 15.0),
        ] {
            let line = Line {
                scale,
                zero_point: zero,
                low,
                high,
            };
            let mut out = vec![0; x.len()];
            quantize(&x, line, &mut out);
            let want: Vec<u8> = x.iter().map(|&v| twin(v, scale, zero, low, high)).collect();
            assert_eq!(out, want);
            let mut plain = vec![0; x.len()];
            body::quantize(&x, line, &mut plain);
            assert_eq!(out, plain);
            let (scales, zeros) = ([scale, scale * 0.7, scale * 1.3], [zero, low, high]);
            quantize_columns(&x[..1002], &scales, &zeros, (low, high), &mut out[..1002]);
            for (i, (&v, &o)) in x[..1002].iter().zip(&out).enumerate() {
                assert_eq!(o, twin(v, scales[i % 3], zeros[i % 3], low, high));
            }
        }
    }

    #[test]
    fn halves_go_to_the_even_integer() {
        let line = Line {
            scale: 2.0,
            zero_point: 0.0,
            low: -128.0,
            high: 127.0,
        };
        let mut out = [0; 5];
        quantize(&[1.0, 3.0, 5.0, -1.0, -3.0], line, &mut out);
        assert_eq!(out.map(|b| b as i8), [0, 2, 2, 0, -2]);
    }

    #[test]
    fn ranges_are_those_of_a_fold() {
        for n in [0, 1, 31, 32, 33, 500] {
            let x = values(n);
            let low = x.iter().copied().fold(0f32, f32::min);
            let high = x.iter().copied().fold(0f32, f32::max);
            assert_eq!(range(&x, (0.0, 0.0)), (low, high));
        }
        let x = values(60);
        let (mut least, mut most) = (vec![0f32; 5], vec![0f32; 5]);
        range_columns(&x, &mut least, &mut most);
        for c in 0..5 {
            let column = || x.iter().skip(c).step_by(5).copied();
            assert_eq!(least[c], column().fold(0f32, f32::min));
            assert_eq!(most[c], column().fold(0f32, f32::max));
        }
    }
}
