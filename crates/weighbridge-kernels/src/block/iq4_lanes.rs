//! IQ4_NL and IQ4_XS with a sub-block of 32 in each lane.

use super::half;
use super::iq::{SUPER, sums_of_squares};
use super::iq4::{REACH, VALUES, pack_scales};
use super::lanes::{Float, Int, Lanes, Mask};

/// Sub-blocks taken at a time: two super-blocks, and a multiple of every number of lanes.
const CHUNK: usize = 16;

/// From where on the value with the next index is the nearest: the middles, of which the upper
/// value is taken, and an end. The differences that the twin compares are exact where they decide.
const MIDDLES: [f32; 16] = {
    let mut middles = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        middles[i] = (VALUES[i] + VALUES[i + 1]) / 2.0;
        i += 1;
    }
    middles
};

/// Element `i` of the sub-block of each lane; lanes beyond the last repeat it.
#[inline(always)]
fn transpose<S: Lanes>(s: S, subs: &[[f32; 32]], first: usize) -> [S::F; 32] {
    let mut x = [s.f(0.0); 32];
    for (i, x) in x.iter_mut().enumerate() {
        *x = s.f_from(|lane| subs[(first + lane).min(subs.len() - 1)][i]);
    }
    x
}

/// The values nearest to `x`, for magnitudes up to 135.
///
/// The middles lie near a parabola of their index on either side of zero, so near that the inverse
/// parabola, up to an offset, has the whole part `i` at `MIDDLES[i]` and between 0 and 15 at the
/// ends; what is left is one comparison.
#[inline(always)]
fn nearest<S: Lanes>(s: S, x: S::F) -> S::F {
    let at = (x * (s.f(0.098) - x.abs() * s.f(0.00031)) + s.f(7.88)).trunc();
    let below = x.lt(s.lookup(&MIDDLES, at));
    s.lookup(&VALUES, below.select_i(at, at + s.i(1)))
}

/// The indices of the values nearest to `x`; NaN takes the last.
#[inline(always)]
fn index<S: Lanes>(s: S, x: S::F) -> S::I {
    let mut index = s.i(15);
    macro_rules! count {
        ($($i:literal)*) => {$(
            index = index - x.lt(s.f(MIDDLES[$i])).select_i(s.i(1), s.i(0));
        )*};
    }
    count!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    index
}

/// Σ w q x and Σ w q² at an inverse scale.
#[inline(always)]
fn sums<S: Lanes>(s: S, x: &[S::F; 32], w: &[S::F; 32], inverse: S::F) -> (S::F, S::F) {
    let (mut qx, mut qq) = (s.f(0.0), s.f(0.0));
    for i in 0..32 {
        let q = nearest(s, inverse * x[i]);
        let wq = w[i] * q;
        qx = qx + wq * x[i];
        qq = qq + wq * q;
    }
    (qx, qq)
}

/// The scale of each lane's sub-block.
#[inline(always)]
fn fit<S: Lanes>(s: S, x: &[S::F; 32], w: &[S::F; 32]) -> S::F {
    let zero = s.f(0.0);
    let (mut amax, mut max) = (zero, zero);
    for x in x {
        let greater = x.abs().gt(amax);
        amax = greater.select(x.abs(), amax);
        max = greater.select(*x, max);
    }
    let first = s.f(1.0) / (-max / s.f(VALUES[0]));
    let (qx, qq) = sums(s, x, w, first);
    let mut d = qq.gt(zero).select(qx / qq, zero);
    let mut best = d * qx;
    for i in -REACH..=REACH {
        let (qx, qq) = sums(s, x, w, s.f(i as f32 + VALUES[0]) / max);
        let better = qq.gt(zero) & (qx * qx).gt(best * qq);
        let scale = qx / qq;
        d = better.select(scale, d);
        best = better.select(scale * qx, best);
    }
    amax.lt(s.f(1e-15)).select(zero, d)
}

/// The scales of up to [`CHUNK`] sub-blocks. `sigma2` is that of each.
#[inline(always)]
fn fit_all<S: Lanes>(
    s: S,
    subs: &[[f32; 32]],
    weights: Option<&[[f32; 32]]>,
    sigma2: &[f32; CHUNK],
) -> [f32; CHUNK] {
    let mut scales = [0.0; CHUNK];
    for first in (0..subs.len()).step_by(S::N) {
        let x = transpose(s, subs, first);
        let mut w = x;
        if let Some(weights) = weights {
            let sigma2 = s.load(&sigma2[first..]);
            w = transpose(s, weights, first);
            for (w, x) in w.iter_mut().zip(x) {
                *w = *w * (sigma2 + x * x).sqrt();
            }
        } else {
            for w in &mut w {
                *w = *w * *w;
            }
        }
        fit(s, &x, &w).store(&mut scales[first..]);
    }
    scales
}

/// The codes of up to [`CHUNK`] sub-blocks at their inverse scales, four bytes to a word: `put` gets
/// the number of the sub-block, of the word, and the word.
#[inline(always)]
fn pack<S: Lanes>(
    s: S,
    subs: &[[f32; 32]],
    inverses: &[f32; CHUNK],
    mut put: impl FnMut(usize, usize, u32),
) {
    for first in (0..subs.len()).step_by(S::N) {
        let x = transpose(s, subs, first);
        let inverse = s.load(&inverses[first..]);
        for word in 0..4 {
            let mut bytes = s.i(0);
            for j in (4 * word..4 * word + 4).rev() {
                let (low, high) = (index(s, inverse * x[j]), index(s, inverse * x[j + 16]));
                bytes = bytes.shl::<8>() | low | high.shl::<4>();
            }
            bytes.each(|lane, bytes| {
                if first + lane < subs.len() {
                    put(first + lane, word, bytes as u32);
                }
            });
        }
    }
}

#[inline(always)]
pub(super) fn nl<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let subs = row.as_chunks::<32>().0.chunks(CHUNK);
    for (i, (subs, out)) in subs
        .zip(out.as_chunks_mut::<18>().0.chunks_mut(CHUNK))
        .enumerate()
    {
        let weights = weights.map(|w| &w.as_chunks::<32>().0[i * CHUNK..][..subs.len()]);
        let mut sigma2 = [0.0; CHUNK];
        if weights.is_some() {
            for (subs, sigma2) in subs.chunks(4).zip(sigma2.chunks_mut(4)) {
                let sums = sums_of_squares(subs);
                sigma2
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(s, sum)| *s = sum * (2.0 / 32.0));
            }
        }
        let scales = fit_all(s, subs, weights, &sigma2);
        for (out, scale) in out.iter_mut().zip(scales) {
            out[..2].copy_from_slice(&half(scale).to_le_bytes());
        }
        let inverses = scales.map(|scale| if scale != 0.0 { 1.0 / scale } else { 0.0 });
        pack(s, subs, &inverses, |sub, word, bytes| {
            out[sub][2 + 4 * word..6 + 4 * word].copy_from_slice(&bytes.to_le_bytes());
        });
    }
}

#[inline(always)]
pub(super) fn xs<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let blocks = row.as_chunks::<SUPER>().0.chunks(CHUNK / 8);
    for (i, (blocks, out)) in blocks
        .zip(out.as_chunks_mut::<136>().0.chunks_mut(CHUNK / 8))
        .enumerate()
    {
        let subs = blocks.as_flattened().as_chunks::<32>().0;
        let weights = weights.map(|w| &w.as_chunks::<32>().0[i * CHUNK..][..subs.len()]);
        let mut sigma2 = [0.0; CHUNK];
        if weights.is_some() {
            let sums = sums_of_squares(blocks);
            sigma2 = std::array::from_fn(|i| sums[i / 8] * (2.0 / 256.0));
        }
        let scales = fit_all(s, subs, weights, &sigma2);
        let mut inverses = [0.0; CHUNK];
        let scales = scales
            .as_chunks::<8>()
            .0
            .iter()
            .zip(inverses.as_chunks_mut::<8>().0);
        for ((scales, inverses), out) in scales.zip(out.iter_mut()) {
            *inverses = pack_scales(scales, out);
        }
        pack(s, subs, &inverses, |sub, word, bytes| {
            let at = 8 + 16 * (sub % 8) + 4 * word;
            out[sub / 8][at..at + 4].copy_from_slice(&bytes.to_le_bytes());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Portable;
    use super::*;

    #[test]
    fn the_parabola_finds_the_nearest_values() {
        let near = |x: f32, ulps: i32| f32::from_bits((x.to_bits() as i32 + ulps) as u32);
        let steps = (-13_500..=13_500).map(|i| i as f32 / 100.0);
        let edges = MIDDLES[..15]
            .iter()
            .flat_map(|m| [near(*m, -1), *m, near(*m, 1)]);
        for x in steps.chain(edges).chain([1e-40, -1e-40]) {
            let index = x_index(x);
            nearest(Portable, Portable.f(x)).each(|_, q| assert_eq!(q, VALUES[index], "{x}"));
            super::index(Portable, Portable.f(x)).each(|_, i| assert_eq!(i, index as i32, "{x}"));
        }
    }

    fn x_index(x: f32) -> usize {
        usize::from(super::super::iq4::nearest(x))
    }
}
