//! Q6_K: 256 values in 16 sub-blocks of 16, each with a signed scale of eight bits.
//!
//! Layout from `ggml/src/ggml-common.h` (ggml 0.25.3): for each 128 values 64 bytes of low halves
//! (values `m` and 64 + `m` in byte `m`); then for each 128 values 32 bytes of upper bits (value
//! `32 n + m` in bits `2 n` of byte `m`); 16 scales; a binary16 scale. Levels are stored plus 32.
//! Constants from `quantize_row_q6_K_ref` and `_impl`.

use super::lanes::{Kernel, Lanes, nearest};
use super::search::{TINY, extreme, symmetric};
use super::superblock::{Symmetrics, Weights, refine_signed};
use super::{half, rounded, value};

/// The scales and the scale of the block.
struct Head {
    scales: [i8; 16],
    d: u16,
}

impl Head {
    /// `None` where all is zero.
    #[inline(always)]
    fn new(scales: &[f32; 16]) -> Option<Self> {
        let (max, amax) = extreme(scales);
        if amax < TINY {
            return None;
        }
        let iscale = -128.0 / max;
        Some(Self {
            scales: scales.map(|x| nearest(iscale * x).min(127) as i8),
            d: half(1.0 / iscale),
        })
    }

    /// The scale of a sub-block.
    #[inline(always)]
    fn scale(&self, j: usize) -> f32 {
        rounded(self.d) * f32::from(self.scales[j])
    }

    #[inline(always)]
    fn write(&self, levels: &[u8; 256], out: &mut [u8; 210]) {
        for (n, l) in levels.as_chunks::<128>().0.iter().enumerate() {
            for m in 0..64 {
                out[64 * n + m] = l[m] & 15 | l[64 + m] << 4;
            }
            for m in 0..32 {
                let high = |n: usize| (l[32 * n + m] >> 4) << (2 * n);
                out[128 + 32 * n + m] = high(0) | high(1) | high(2) | high(3);
            }
        }
        for (out, scale) in out[192..208].iter_mut().zip(self.scales) {
            *out = scale as u8;
        }
        out[208..].copy_from_slice(&self.d.to_le_bytes());
    }
}

pub(super) enum Q6K {}

impl Kernel for Q6K {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<256>().0.iter().enumerate();
        for ((i, x), out) in blocks.zip(out.as_chunks_mut::<210>().0) {
            let mut levels = [0; 256];
            let mut scales = [0.0; 16];
            let subs = x
                .as_chunks::<16>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<16>().0);
            for (j, (x, levels)) in subs.enumerate() {
                scales[j] = match weights {
                    Some(q) => symmetric(32, x, &q[256 * i + 16 * j..], levels),
                    None => symmetric(32, x, &x.map(|x| x * x), levels),
                };
            }
            let Some(head) = Head::new(&scales) else {
                out.fill(0);
                continue;
            };
            let subs = x
                .as_chunks::<16>()
                .0
                .iter()
                .zip(levels.as_chunks_mut::<16>().0);
            for (j, (x, levels)) in subs.enumerate() {
                super::refine_signed(x, head.scale(j), 32, levels);
            }
            head.write(&levels, out);
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        let chunks = row.chunks(256 * S::N).zip(out.chunks_mut(210 * S::N));
        for (i, (x, out)) in chunks.enumerate() {
            let found = match weights {
                Some(q) => {
                    let q = &q[256 * S::N * i..];
                    Symmetrics::search(s, 32, x, Weights::Importance(q))
                }
                None => Symmetrics::search(s, 32, x, Weights::Squares),
            };
            let blocks = x.as_chunks::<256>().0.iter();
            for (b, (x, out)) in blocks.zip(out.as_chunks_mut::<210>().0).enumerate() {
                let Some(head) = Head::new(found.scales(b)) else {
                    out.fill(0);
                    continue;
                };
                let mut levels = [0; 256];
                let subs = x
                    .as_chunks::<16>()
                    .0
                    .iter()
                    .zip(levels.as_chunks_mut::<16>().0);
                for (j, (x, levels)) in subs.enumerate() {
                    if !refine_signed(s, x, head.scale(j), 32, levels) {
                        for (x, level) in x.iter().zip(levels) {
                            *level = found.level(32, 16 * b + j, *x) as u8;
                        }
                    }
                }
                head.write(&levels, out);
            }
        }
    }
}

pub(super) fn dequantize(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<210>().0.iter();
    for (b, y) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let d = value(b, 208);
        for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let d = d * f32::from(b[192 + j] as i8);
            let (chunk, n, m) = (j / 8, j / 2 % 4, j % 2 * 16);
            let low = &b[64 * chunk + 32 * (n % 2) + m..][..16];
            let high = &b[128 + 32 * chunk + m..][..16];
            for (y, (low, high)) in y.iter_mut().zip(low.iter().zip(high)) {
                let level = low >> (n / 2 * 4) & 15 | (high >> (2 * n) & 3) << 4;
                *y = d * f32::from(level as i8 - 32);
            }
        }
    }
}
