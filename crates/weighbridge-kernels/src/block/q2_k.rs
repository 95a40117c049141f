//! Q2_K: 256 values in 16 sub-blocks of 16, each with a scale and an offset of four bits.
//!
//! Layout from `ggml/src/ggml-common.h` (ggml 0.25.3): 16 bytes of scales (offsets in the upper
//! halves), 64 of levels (value `32 n + m` of each 128 in bits `2 n` of byte `m`), then binary16
//! scales of the scales and of the offsets. Constants from `quantize_row_q2_K_ref` and `_impl`.

use super::lanes::{Kernel, Lanes, nearest};
use super::search::{Steps, affine, positive};
use super::superblock::{self, Affines};
use super::{half, rounded, value};

const PLAIN: Steps = Steps {
    top: 3,
    first: -0.5,
    delta: 0.1,
    last: 15,
    absolute: true,
};

const WEIGHTED: Steps = Steps {
    top: 3,
    first: -0.9,
    delta: 0.05,
    last: 36,
    absolute: false,
};

/// All of a block but its levels.
#[derive(Default, Clone, Copy)]
struct Head {
    scales: [u8; 16],
    d: u16,
    min: u16,
}

/// Scales and offsets in fifteenths of the greatest.
#[inline(always)]
fn plain_head(scales: &[f32; 16], mins: &[f32; 16]) -> Head {
    let greatest = |x: &[f32; 16]| {
        x.iter()
            .fold(0.0f32, |max, &x| if x > max { x } else { max })
    };
    let (max_scale, max_min) = (greatest(scales), greatest(mins));
    let mut head = Head::default();
    if max_scale > 0.0 {
        let iscale = 15.0 / max_scale;
        for (out, x) in head.scales.iter_mut().zip(scales) {
            *out = nearest(iscale * x) as u8;
        }
        head.d = half(max_scale / 15.0);
    }
    if max_min > 0.0 {
        let iscale = 15.0 / max_min;
        for (out, x) in head.scales.iter_mut().zip(mins) {
            *out |= (nearest(iscale * x) << 4) as u8;
        }
        head.min = half(max_min / 15.0);
    }
    head
}

fn weighted_head(scales: &[f32; 16], mins: &[f32; 16], sums: &[f32; 16]) -> Head {
    let (mut ls, mut lm) = ([0; 16], [0; 16]);
    let d = positive(15, scales, sums, &mut ls);
    let min = positive(15, mins, sums, &mut lm);
    joined(d, min, ls, lm)
}

#[inline(always)]
fn joined(d: f32, min: f32, ls: [u8; 16], lm: [u8; 16]) -> Head {
    let mut head = Head {
        d: half(d),
        min: half(min),
        ..Head::default()
    };
    for (i, out) in head.scales.iter_mut().enumerate() {
        *out = ls[i] | lm[i] << 4;
    }
    head
}

#[inline(always)]
fn write(head: &Head, levels: &[u8; 256], out: &mut [u8; 84]) {
    out[..16].copy_from_slice(&head.scales);
    pack2(levels, &mut out[16..80]);
    out[80..82].copy_from_slice(&head.d.to_le_bytes());
    out[82..].copy_from_slice(&head.min.to_le_bytes());
}

/// Four levels a byte, value `32 n + m` of each 128 in bits `2 n` of byte `m`.
#[inline(always)]
pub(super) fn pack2(levels: &[u8; 256], out: &mut [u8]) {
    let halves = levels.as_chunks::<128>().0.iter();
    for (l, out) in halves.zip(out.as_chunks_mut::<32>().0) {
        for (m, out) in out.iter_mut().enumerate() {
            *out = l[m] | l[32 + m] << 2 | l[64 + m] << 4 | l[96 + m] << 6;
        }
    }
}

pub(super) enum Q2K {}

impl Kernel for Q2K {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<256>().0.iter().enumerate();
        for ((i, x), out) in blocks.zip(out.as_chunks_mut::<84>().0) {
            let mut levels = [0; 256];
            let (mut scales, mut mins, mut sums) = ([0.0; 16], [0.0; 16], [0.0f32; 16]);
            let sigma2 = super::sum_of_squares(x) / 256.0;
            let subs = x
                .as_chunks::<16>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<16>().0);
            for (j, (x, levels)) in subs.enumerate() {
                let (steps, w) = match weights {
                    Some(q) => (WEIGHTED, super::weigh(sigma2, x, &q[256 * i + 16 * j..])),
                    None => (PLAIN, x.map(f32::abs)),
                };
                for w in &w {
                    sums[j] += w;
                }
                (scales[j], mins[j]) = affine(steps, x, &w, levels);
            }
            let head = match weights {
                Some(_) => weighted_head(&scales, &mins, &sums),
                None => plain_head(&scales, &mins),
            };
            let (d, min) = (rounded(head.d), rounded(head.min));
            let subs = x
                .as_chunks::<16>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<16>().0);
            for ((x, levels), scale) in subs.zip(head.scales) {
                let (d, min) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
                super::refine(x, d, min, 3, levels);
            }
            write(&head, &levels, out);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        let chunks = row.chunks(256 * S::N).zip(out.chunks_mut(84 * S::N));
        for (i, (x, out)) in chunks.enumerate() {
            let found = match weights {
                Some(q) => {
                    let q = &q[256 * S::N * i..];
                    Affines::weighted::<S, 16, 16>(s, WEIGHTED, 1.0, x, q)
                }
                None => Affines::plain::<S, 16>(s, PLAIN, x, false),
            };
            let heads = if weights.is_some() {
                Some(found.heads::<S, 16>(s, 15, x.len() / 256))
            } else {
                None
            };
            let blocks = x.as_chunks::<256>().0.iter();
            for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<84>().0).enumerate() {
                let head = match &heads {
                    Some(heads) => {
                        let (d, min, ls, lm) = heads.of::<16>(b);
                        joined(d, min, ls, lm)
                    }
                    None => plain_head(found.scales::<16>(b), found.mins::<16>(b)),
                };
                let (d, min) = (rounded(head.d), rounded(head.min));
                let mut levels = [0; 256];
                let subs = x
                    .as_chunks::<16>()
                    .0
                    .iter()
                    .zip(levels.as_chunks_mut::<16>().0);
                for (j, (x, levels)) in subs.enumerate() {
                    let scale = head.scales[j];
                    let (d, min) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
                    superblock::refine(s, x, d, min, 3, levels, &found.at(16 * b + j));
                }
                write(&head, &levels, out);
            }
        }
    }
}

pub(super) fn dequantize(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<84>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let (d, min) = (value(b, 80), value(b, 82));
        for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (d, min) = (d * f32::from(b[j] & 15), min * f32::from(b[j] >> 4));
            let (bytes, shift) = (16 + 32 * (j / 8) + 16 * (j % 2), j / 2 % 4 * 2);
            for (y, q) in y.iter_mut().zip(&b[bytes..bytes + 16]) {
                *y = d * f32::from(q >> shift & 3) - min;
            }
        }
    }
}
