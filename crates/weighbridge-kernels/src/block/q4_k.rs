//! Q4_K and Q5_K: 256 values in 8 sub-blocks of 32, each with a scale and an offset of six bits.
//!
//! Layout from `ggml/src/ggml-common.h` (ggml 0.25.3): binary16 scales of the scales and of the
//! offsets; 12 bytes with the low six bits of scales 0 to 3, of offsets 0 to 3, then the low four
//! bits of scale and offset 4 to 7, whose upper two bits are on top of the first eight bytes; in
//! Q5_K 32 bytes of fifth bits (value `32 n + m` in bit `n` of byte `m`); 128 bytes of levels, value
//! `m` of each 64 in the lower half of byte `m`, value 32 + `m` in the upper. Constants from
//! `quantize_row_q4_K_ref`, `quantize_row_q5_K_ref` and the `_impl` of each.

use super::lanes::{Kernel, Lanes, nearest};
use super::search::{Steps, affine, positive};
use super::superblock::{self, Affines};
use super::{half, rounded, value};

/// How scales and offsets are found.
const fn steps(top: i32, weighted: bool) -> Steps {
    let (first, delta, last) = match (weighted, top) {
        (true, _) => (-0.9, 0.05, 36),
        (false, 15) => (-1.0, 0.1, 20),
        (false, _) => (-0.5, 0.1, 15),
    };
    Steps {
        top,
        first,
        delta,
        last,
        absolute: false,
    }
}

/// All of a block but its levels.
#[derive(Default, Clone, Copy)]
struct Head {
    scales: [u8; 12],
    d: u16,
    min: u16,
}

impl Head {
    #[inline(always)]
    fn new(d: f32, min: f32, ls: &[u8; 8], lm: &[u8; 8]) -> Self {
        let mut scales = [0; 12];
        scales[..4].copy_from_slice(&ls[..4]);
        scales[4..8].copy_from_slice(&lm[..4]);
        for j in 4..8 {
            scales[4 + j] = ls[j] & 15 | (lm[j] & 15) << 4;
            scales[j - 4] |= ls[j] >> 4 << 6;
            scales[j] |= lm[j] >> 4 << 6;
        }
        Self {
            scales,
            d: half(d),
            min: half(min),
        }
    }

    /// Scales and offsets in 63rds of the greatest.
    #[inline(always)]
    fn plain(scales: &[f32; 8], mins: &[f32; 8]) -> Self {
        let greatest = |x: &[f32; 8]| {
            x.iter()
                .fold(0.0f32, |max, &x| if x > max { x } else { max })
        };
        let (scale, min) = (greatest(scales), greatest(mins));
        let inverse = |x: f32| if x > 0.0 { 63.0 / x } else { 0.0 };
        let (iscale, imin) = (inverse(scale), inverse(min));
        let ls = scales.map(|x| (nearest(iscale * x) as u8).min(63));
        let lm = mins.map(|x| (nearest(imin * x) as u8).min(63));
        Self::new(scale / 63.0, min / 63.0, &ls, &lm)
    }

    fn weighted(top: i32, scales: &[f32; 8], mins: &[f32; 8], sums: &[f32; 8]) -> Self {
        let (mut ls, mut lm) = ([0; 8], [0; 8]);
        let d = positive(63, scales, sums, &mut ls);
        let min = positive(63, mins, sums, &mut lm);
        Self::limited(top, d, min, ls, lm)
    }

    /// Only Q5_K is held to what six bits hold.
    #[inline(always)]
    fn limited(top: i32, d: f32, min: f32, ls: [u8; 8], lm: [u8; 8]) -> Self {
        if top == 31 {
            Self::new(d, min, &ls.map(|l| l.min(63)), &lm.map(|l| l.min(63)))
        } else {
            Self::new(d, min, &ls, &lm)
        }
    }

    /// The scale and the offset of a sub-block.
    #[inline(always)]
    fn of(&self, j: usize) -> (f32, f32) {
        let (scale, min) = unpack(&self.scales, j);
        (
            rounded(self.d) * f32::from(scale),
            rounded(self.min) * f32::from(min),
        )
    }

    #[inline(always)]
    fn write(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&self.d.to_le_bytes());
        out[2..4].copy_from_slice(&self.min.to_le_bytes());
        out[4..16].copy_from_slice(&self.scales);
    }
}

/// Scale and offset of sub-block `j` (`get_scale_min_k4`).
#[inline(always)]
fn unpack(q: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        (
            q[j + 4] & 15 | q[j - 4] >> 6 << 4,
            q[j + 4] >> 4 | q[j] >> 6 << 4,
        )
    }
}

/// Two levels a byte.
#[inline(always)]
fn pack4(levels: &[u8; 256], out: &mut [u8]) {
    let chunks = levels.as_chunks::<64>().0.iter();
    for (l, out) in chunks.zip(out.as_chunks_mut::<32>().0) {
        for (m, out) in out.iter_mut().enumerate() {
            *out = l[m] & 15 | l[32 + m] << 4;
        }
    }
}

/// The fifth bits.
#[inline(always)]
fn pack_fifths(levels: &[u8; 256], out: &mut [u8]) {
    for (m, out) in out.iter_mut().enumerate().take(32) {
        let mut high = 0;
        for n in 0..8 {
            high |= (levels[32 * n + m] >> 4 & 1) << n;
        }
        *out = high;
    }
}

#[inline(always)]
fn write(top: i32, head: &Head, levels: &[u8; 256], out: &mut [u8]) {
    head.write(out);
    if top == 31 {
        pack_fifths(levels, &mut out[16..48]);
        pack4(levels, &mut out[48..176]);
    } else {
        pack4(levels, &mut out[16..144]);
    }
}

/// For levels up to `TOP`, blocks of `BYTES`.
fn twin<const TOP: i32, const BYTES: usize>(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let steps = steps(TOP, weights.is_some());
    let blocks = row.as_chunks::<256>().0.iter().enumerate();
    for ((i, x), out) in blocks.zip(out.as_chunks_mut::<BYTES>().0) {
        let mut levels = [0; 256];
        let (mut scales, mut mins, mut sums) = ([0.0; 8], [0.0; 8], [0.0f32; 8]);
        let sigma2 = 2.0 * super::sum_of_squares(x) / 256.0;
        let subs = x
            .as_chunks::<32>()
            .0
            .iter()
            .zip(levels.as_chunks_mut::<32>().0);
        for (j, (x, levels)) in subs.enumerate() {
            let w = match weights {
                Some(q) => super::weigh(sigma2, x, &q[256 * i + 32 * j..]),
                None => {
                    let mean = (super::sum_of_squares(x) / 32.0).sqrt();
                    x.map(|x| mean + x.abs())
                }
            };
            for w in &w {
                sums[j] += w;
            }
            (scales[j], mins[j]) = affine(steps, x, &w, levels);
        }
        let head = match weights {
            Some(_) => Head::weighted(TOP, &scales, &mins, &sums),
            None => Head::plain(&scales, &mins),
        };
        let subs = x
            .as_chunks::<32>()
            .0
            .iter()
            .zip(levels.as_chunks_mut::<32>().0);
        for (j, (x, levels)) in subs.enumerate() {
            let (d, min) = head.of(j);
            super::refine(x, d, min, TOP, levels);
        }
        write(TOP, &head, &levels, out);
    }
}

/// As [`twin`], in lanes: a lane is a sub-block in the search for scales, a block in the search for
/// their scales, and a value at last.
#[inline(always)]
fn lanes<S: Lanes, const TOP: i32, const BYTES: usize>(
    s: S,
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    let steps = steps(TOP, weights.is_some());
    let chunks = row.chunks(256 * S::N).zip(out.chunks_mut(BYTES * S::N));
    for (i, (x, out)) in chunks.enumerate() {
        let found = match weights {
            Some(q) => Affines::weighted::<S, 32, 8>(s, steps, 2.0, x, &q[256 * S::N * i..]),
            None => Affines::plain::<S, 32>(s, steps, x, true),
        };
        let heads = if weights.is_some() {
            Some(found.heads::<S, 8>(s, 63, x.len() / 256))
        } else {
            None
        };
        let blocks = x.as_chunks::<256>().0.iter();
        for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<BYTES>().0).enumerate() {
            let head = match &heads {
                Some(heads) => {
                    let (d, min, ls, lm) = heads.of::<8>(b);
                    Head::limited(TOP, d, min, ls, lm)
                }
                None => Head::plain(found.scales::<8>(b), found.mins::<8>(b)),
            };
            let mut levels = [0; 256];
            let subs = x
                .as_chunks::<32>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<32>().0);
            for (j, (x, levels)) in subs.enumerate() {
                let (d, min) = head.of(j);
                superblock::refine(s, x, d, min, TOP, levels, &found.at(8 * b + j));
            }
            write(TOP, &head, &levels, out);
        }
    }
}

pub(super) enum Q4K {}

impl Kernel for Q4K {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin::<15, 144>(row, weights, out);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        lanes::<S, 15, 144>(s, row, weights, out);
    }
}

pub(super) enum Q5K {}

impl Kernel for Q5K {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin::<31, 176>(row, weights, out);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        lanes::<S, 31, 176>(s, row, weights, out);
    }
}

/// The twelve bytes of scales.
fn scales(b: &[u8]) -> [u8; 12] {
    let mut q = [0; 12];
    q.copy_from_slice(&b[4..16]);
    q
}

pub(super) fn from_q4_k(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<144>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let (d, min, q) = (value(b, 0), value(b, 2), scales(b));
        for (j, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, offset) = unpack(&q, j);
            let (d, min) = (d * f32::from(scale), min * f32::from(offset));
            let bytes = &b[16 + j / 2 * 32..][..32];
            for (y, q) in y.iter_mut().zip(bytes) {
                *y = d * f32::from(q >> (j % 2 * 4) & 15) - min;
            }
        }
    }
}

pub(super) fn from_q5_k(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<176>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let (d, min, q) = (value(b, 0), value(b, 2), scales(b));
        for (j, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, offset) = unpack(&q, j);
            let (d, min) = (d * f32::from(scale), min * f32::from(offset));
            let bytes = b[48 + j / 2 * 32..][..32].iter().zip(&b[16..48]);
            for (y, (low, high)) in y.iter_mut().zip(bytes) {
                let level = low >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
                *y = d * f32::from(level) - min;
            }
        }
    }
}
