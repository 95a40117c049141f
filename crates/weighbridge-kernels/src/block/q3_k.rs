//! Q3_K: 256 values in 16 sub-blocks of 16, each with a signed scale of six bits.
//!
//! Layout from `ggml/src/ggml-common.h` (ggml 0.25.3): 32 bytes of the levels' high bits (value
//! `32 n + m` in bit `n` of byte `m`), 64 of their low bits as in Q2_K, 12 of scales plus 32 (low
//! four bits of scales 0 to 7 and 8 to 15, then the upper two of scale `4 n + m` in bits `2 n` of
//! byte `m`), and a binary16 scale. Constants from `quantize_row_q3_K_ref` and `_impl`.

use super::lanes::{Float, Int, Kernel, Lanes, nearest};
use super::q2_k::pack2;
use super::search::{descent, extreme, symmetric};
use super::search_lanes;
use super::superblock::{Symmetrics, Weights, columns, refine_signed};
use super::{half, rounded, value};

/// The scales plus 32, and the scale of the block.
struct Head {
    scales: [u8; 16],
    d: u16,
}

#[inline(always)]
fn plain_head(scales: &[f32; 16]) -> Head {
    let (max, _) = extreme(scales);
    // Scales that are all zero are stored as zero bits, which stand for -32.
    let mut head = Head {
        scales: [0; 16],
        d: 0,
    };
    if max != 0.0 {
        let iscale = -32.0 / max;
        for (out, x) in head.scales.iter_mut().zip(scales) {
            *out = ((nearest(iscale * x) as i8).clamp(-32, 31) + 32) as u8;
        }
        head.d = half(1.0 / iscale);
    }
    head
}

fn weighted_head(scales: &[f32; 16], sums: &[f32; 16]) -> Head {
    let mut levels = [0; 16];
    let d = half(symmetric(32, scales, sums, &mut levels));
    Head { scales: levels, d }
}

impl Head {
    /// The scale of a sub-block.
    #[inline(always)]
    fn scale(&self, j: usize) -> f32 {
        rounded(self.d) * f32::from(self.scales[j] as i8 - 32)
    }

    #[inline(always)]
    fn write(&self, levels: &[u8; 256], out: &mut [u8; 110]) {
        for m in 0..32 {
            let mut high = 0;
            for n in 0..8 {
                high |= (levels[32 * n + m] >> 2 & 1) << n;
            }
            out[m] = high;
        }
        pack2(&levels.map(|l| l & 3), &mut out[32..96]);
        for j in 0..8 {
            out[96 + j] = self.scales[j] & 15 | self.scales[8 + j] << 4;
        }
        for m in 0..4 {
            let high = |n: usize| (self.scales[4 * n + m] >> 4 & 3) << (2 * n);
            out[104 + m] = high(0) | high(1) | high(2) | high(3);
        }
        out[108..].copy_from_slice(&self.d.to_le_bytes());
    }
}

pub(super) enum Q3K {}

impl Kernel for Q3K {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<256>().0.iter().enumerate();
        for ((i, x), out) in blocks.zip(out.as_chunks_mut::<110>().0) {
            let mut levels = [0; 256];
            let (mut scales, mut sums) = ([0.0; 16], [0.0f32; 16]);
            let sigma2 = 2.0 * super::sum_of_squares(x) / 256.0;
            let subs = x
                .as_chunks::<16>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<16>().0);
            for (j, (x, levels)) in subs.enumerate() {
                scales[j] = match weights {
                    Some(q) => {
                        let w = super::weigh(sigma2, x, &q[256 * i + 16 * j..]);
                        for w in &w {
                            sums[j] += w;
                        }
                        symmetric(4, x, &w, levels)
                    }
                    None => descent(4, x, levels),
                };
            }
            let head = match weights {
                Some(_) => weighted_head(&scales, &sums),
                None => plain_head(&scales),
            };
            let subs = x
                .as_chunks::<16>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<16>().0);
            for (j, (x, levels)) in subs.enumerate() {
                super::refine_signed(x, head.scale(j), 4, levels);
            }
            head.write(&levels, out);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        let chunks = row.chunks(256 * S::N).zip(out.chunks_mut(110 * S::N));
        for (i, (x, out)) in chunks.enumerate() {
            match weights {
                Some(q) => weighted(s, x, &q[256 * S::N * i..], out),
                None => plain(s, x, out),
            }
        }
    }
}

/// Up to as many blocks as there are lanes, with weights.
#[inline(always)]
fn weighted<S: Lanes>(s: S, x: &[f32], importance: &[f32], out: &mut [u8]) {
    let found = Symmetrics::search(s, 4, x, Weights::Sized(importance));
    let heads = found.heads(s, 32, x.len() / 256);
    let blocks = x.as_chunks::<256>().0.iter();
    for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<110>().0).enumerate() {
        let (d, _, scales, _) = heads.of::<16>(b);
        let head = Head { scales, d: half(d) };
        let mut levels = [0; 256];
        let subs = x
            .as_chunks::<16>()
            .0
            .iter()
            .zip(levels.as_chunks_mut::<16>().0);
        for (j, (x, levels)) in subs.enumerate() {
            if !refine_signed(s, x, head.scale(j), 4, levels) {
                for (x, level) in x.iter().zip(levels) {
                    *level = found.level(4, 16 * b + j, *x) as u8;
                }
            }
        }
        head.write(&levels, out);
    }
}

/// Up to as many blocks as there are lanes, without weights.
#[inline(always)]
fn plain<S: Lanes>(s: S, x: &[f32], out: &mut [u8]) {
    let mut scales = [0.0; 256];
    // Those of the search: by group of as many sub-blocks as there are lanes, value and lane.
    let mut found = [[[0; 16]; 16]; 64];
    for first in (0..x.len() / 16).step_by(2 * S::N) {
        let values: [[S::F; 16]; 2] = [columns(s, x, first), columns(s, x, first + S::N)];
        let (scale, levels) = search_lanes::descent(s, 4, &values);
        for g in 0..2 {
            // Of an odd number of groups the second repeats the last sub-block.
            let first = first + g * S::N;
            if first < x.len() / 16 {
                scale[g].store(&mut scales[first..]);
                for (level, out) in levels[g].iter().zip(&mut found[first / S::N]) {
                    level.trunc().store_bytes(out);
                }
            }
        }
    }
    let blocks = x.as_chunks::<256>().0.iter();
    for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<110>().0).enumerate() {
        let head = plain_head(&scales.as_chunks().0[b]);
        let mut levels = [0; 256];
        let subs = x
            .as_chunks::<16>()
            .0
            .iter()
            .zip(levels.as_chunks_mut::<16>().0);
        for (j, (x, levels)) in subs.enumerate() {
            if !refine_signed(s, x, head.scale(j), 4, levels) {
                let (group, lane) = ((16 * b + j) / S::N, (16 * b + j) % S::N);
                for (level, found) in levels.iter_mut().zip(&found[group]) {
                    *level = found[lane];
                }
            }
        }
        head.write(&levels, out);
    }
}

pub(super) fn dequantize(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<110>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let d = value(b, 108);
        for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let low = if j < 8 {
                b[96 + j] & 15
            } else {
                b[88 + j] >> 4
            };
            let scale = low | (b[104 + j % 4] >> (j / 4 * 2) & 3) << 4;
            let d = d * f32::from(scale as i8 - 32);
            let (bytes, shift) = (16 * (j % 2), j / 2 % 4 * 2);
            let low = &b[32 + 32 * (j / 8) + bytes..][..16];
            for ((y, low), high) in y.iter_mut().zip(low).zip(&b[bytes..bytes + 16]) {
                let q = (low >> shift & 3) as i8 - if high >> (j / 2) & 1 == 1 { 0 } else { 4 };
                *y = d * f32::from(q);
            }
        }
    }
}
