//! IQ4_NL and IQ4_XS: four bits that name one of sixteen unevenly spaced values.
//!
//! Layouts (`ggml-common.h`): IQ4_NL is an f16 scale and 16 bytes, each an element of the first half
//! below one of the second. IQ4_XS is an f16 scale, a word of eight times two upper scale bits, four
//! bytes of lower scale nibbles, and such 16 bytes for each 32 elements; scales are offset by 32.

use super::iq::{SUPER, nearest_int};
use super::lanes::{Kernel, Lanes};
use super::{half, iq4_lanes, sum_of_squares};

/// `kvalues_iq4nl` of `ggml-common.h`.
pub(super) const VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Scales tried on either side of the first.
pub(super) const REACH: i32 = 7;

/// The value next to `x`, the greater one of two equally near.
pub(super) fn nearest(x: f32) -> u8 {
    if x <= VALUES[0] {
        return 0;
    }
    if x >= VALUES[15] {
        return 15;
    }
    let (mut below, mut above) = (0, 15);
    while above - below > 1 {
        let middle = (below + above) / 2;
        if x < VALUES[middle] {
            above = middle;
        } else {
            below = middle;
        }
    }
    let lower = x - VALUES[above - 1] < VALUES[above] - x;
    (above - usize::from(lower)) as u8
}

/// The weights of one sub-block: by importance, or the squares.
fn weigh(x: &[f32; 32], importance: Option<&[f32]>, sigma2: f32) -> [f32; 32] {
    match importance {
        Some(w) => std::array::from_fn(|i| w[i] * (sigma2 + x[i] * x[i]).sqrt()),
        None => x.map(|x| x * x),
    }
}

/// Σ w q x and Σ w q² for the values next to the elements at this inverse scale.
fn sums(x: &[f32; 32], w: &[f32; 32], inverse: f32) -> (f32, f32) {
    let (mut qx, mut qq) = (0.0, 0.0);
    for i in 0..32 {
        let q = VALUES[usize::from(nearest(inverse * x[i]))];
        qx += w[i] * q * x[i];
        qq += w[i] * q * q;
    }
    (qx, qq)
}

/// The scale of one sub-block.
fn fit(x: &[f32; 32], w: &[f32; 32]) -> f32 {
    let (mut amax, mut max) = (0.0, 0.0);
    for x in x {
        if x.abs() > amax {
            (amax, max) = (x.abs(), *x);
        }
    }
    if amax < 1e-15 {
        return 0.0;
    }
    let (qx, qq) = sums(x, w, 1.0 / (-max / VALUES[0]));
    let mut d = if qq > 0.0 { qx / qq } else { 0.0 };
    let mut best = d * qx;
    for i in -REACH..=REACH {
        let (qx, qq) = sums(x, w, (i as f32 + VALUES[0]) / max);
        if qq > 0.0 && qx * qx > best * qq {
            d = qx / qq;
            best = d * qx;
        }
    }
    d
}

/// Packs the values next to 32 elements.
fn pack(x: &[f32; 32], inverse: f32, out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate().take(16) {
        *out = nearest(inverse * x[j]) | nearest(inverse * x[j + 16]) << 4;
    }
}

/// IQ4_NL.
pub(super) enum Nl {}

impl Kernel for Nl {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin_nl(row, weights, out);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        iq4_lanes::nl(s, row, weights, out);
    }
}

fn twin_nl(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let blocks = row
        .as_chunks::<32>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<18>().0);
    for (i, (x, out)) in blocks.enumerate() {
        let w = weights.map(|w| &w[32 * i..32 * i + 32]);
        let sigma2 = sum_of_squares(x) * (2.0 / 32.0);
        let scale = fit(x, &weigh(x, w, sigma2));
        out[..2].copy_from_slice(&half(scale).to_le_bytes());
        pack(
            x,
            if scale != 0.0 { 1.0 / scale } else { 0.0 },
            &mut out[2..],
        );
    }
}

/// IQ4_XS.
pub(super) enum Xs {}

impl Kernel for Xs {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        twin_xs(row, weights, out);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        iq4_lanes::xs(s, row, weights, out);
    }
}

fn twin_xs(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let rows = row
        .as_chunks::<SUPER>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<136>().0);
    for (i, (x, out)) in rows.enumerate() {
        let w = weights.map(|w| &w[SUPER * i..SUPER * (i + 1)]);
        let sigma2 = sum_of_squares(x) * (2.0 / 256.0);
        let subs = x.as_chunks::<32>().0;
        let scales = std::array::from_fn(|ib| {
            let w = w.map(|w| &w[32 * ib..32 * ib + 32]);
            fit(&subs[ib], &weigh(&subs[ib], w, sigma2))
        });
        let inverses = pack_scales(&scales, out);
        for (ib, x) in subs.iter().enumerate() {
            pack(x, inverses[ib], &mut out[8 + 16 * ib..]);
        }
    }
}

/// Writes the scales of an IQ4_XS block and returns the inverses of what they then stand for.
pub(super) fn pack_scales(scales: &[f32; 8], out: &mut [u8; 136]) -> [f32; 8] {
    let (mut amax, mut max) = (0.0, 0.0);
    for scale in scales {
        if scale.abs() > amax {
            (amax, max) = (scale.abs(), *scale);
        }
    }
    out[..8].fill(0);
    let d = -max / 32.0;
    out[..2].copy_from_slice(&half(d).to_le_bytes());
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let mut high = 0u16;
    let inverses = std::array::from_fn(|ib| {
        let l = nearest_int(inverse * scales[ib]).clamp(-32, 31);
        let dl = d * l as f32;
        let code = (l + 32) as u8;
        out[4 + ib / 2] |= (code & 15) << (4 * (ib % 2));
        high |= u16::from(code >> 4) << (2 * ib);
        if dl != 0.0 { 1.0 / dl } else { 0.0 }
    });
    out[2..4].copy_from_slice(&high.to_le_bytes());
    inverses
}
