//! What the IQ quantizers share: weights, signs, and the search for the scale at which a
//! sub-block's magnitudes come nearest to points of a grid.
//!
//! Order of operations after `ggml/src/ggml-quants.c` of ggml 0.25.3. Where no point is at a finite
//! distance (values beyond about 1e12) the reference aborts or reads past its row; here the first of
//! the near points is taken, so that every input has an answer.

use super::grid::{Grid, Place};
use super::search::positive;

/// Elements of a super-block.
pub(super) const SUPER: usize = 256;

/// The nearest integer, ties to even, for magnitudes below 2²²: the low bits of the sum with
/// 1.5 × 2²³, so that greater ones come out as they do in the reference.
#[inline(always)]
pub(super) fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// The level of a magnitude, where level `l` stands for `2l + 1`.
#[inline(always)]
pub(super) fn level(x: f32, inverse: f32, top: u8) -> u8 {
    nearest_int(0.5 * (inverse * x - 1.0)).clamp(0, i32::from(top)) as u8
}

/// The sums of squares of up to four blocks, each in its order.
#[inline(always)]
pub(super) fn sums_of_squares<const N: usize>(blocks: &[[f32; N]]) -> [f32; 4] {
    let block: [&[f32; N]; 4] = std::array::from_fn(|i| &blocks[i.min(blocks.len() - 1)]);
    let mut sums = [0.0; 4];
    for i in 0..N {
        for (sum, block) in sums.iter_mut().zip(block) {
            *sum += block[i] * block[i];
        }
    }
    sums
}

/// One sub-block, ready for the search.
pub(super) struct Sub<const N: usize> {
    /// Magnitudes; where signs are kept in seven bits of eight, one may be negative.
    pub(super) x: [f32; N],
    pub(super) weight: [f32; N],
    /// Square roots of the weights: the distance to grid points is weighted by these.
    pub(super) root: [f32; N],
    /// The sign bits of each eight, set for negative.
    pub(super) signs: [u8; 4],
    pub(super) max: f32,
}

impl<const N: usize> Sub<N> {
    /// Takes `x` apart. With `even`, the number of minus signs in each eight is made even at the
    /// expense of the least important element, and the eighth sign is not kept.
    #[inline(always)]
    pub(super) fn new(x: &[f32; N], weight: [f32; N], even: bool) -> Self {
        let mut sub = Self {
            x: x.map(|x| if x >= 0.0 { x } else { -x }),
            weight,
            root: weight.map(f32::sqrt),
            signs: [0; 4],
            max: 0.0,
        };
        for (k, sign) in sub.signs.iter_mut().enumerate().take(N / 8) {
            let x8 = &x[8 * k..8 * k + 8];
            let bit = |s: u8, (i, x): (usize, &f32)| s | u8::from(*x < 0.0) << i;
            *sign = x8.iter().enumerate().fold(0, bit);
            if !even {
                continue;
            }
            if sign.count_ones() % 2 == 1 {
                let cost = |i: usize| weight[8 * k + i] * x8[i] * x8[i];
                let least = (1..8).fold(0, |m, i| if cost(i) < cost(m) { i } else { m });
                sub.x[8 * k + least] = -sub.x[8 * k + least];
                *sign ^= 1 << least;
            }
            *sign &= 127;
        }
        sub.max = sub.x[1..]
            .iter()
            .fold(sub.x[0], |m, x| if m > *x { m } else { *x });
        sub
    }

    /// Turns all signs over: for the scale that came out negative.
    pub(super) fn flip(&mut self, even: bool) {
        let mask = if even { 127 } else { 255 };
        self.signs.iter_mut().for_each(|s| *s = !*s & mask);
    }

    /// The sums that give the best scale for these levels: Σ w x q and Σ w q².
    #[inline(always)]
    pub(super) fn sums(&self, levels: &[u8; N]) -> (f32, f32) {
        let (mut xq, mut qq) = (0.0, 0.0);
        for ((level, x), w) in levels.iter().zip(&self.x).zip(&self.weight) {
            let q = f32::from(2 * level + 1);
            xq += w * x * q;
            qq += w * q * q;
        }
        (xq, qq)
    }
}

/// What the search has found.
pub(super) struct Fit<const N: usize> {
    pub(super) scale: f32,
    pub(super) levels: [u8; N],
    /// The groups, by bit, that were no grid points before they were moved to one.
    pub(super) moved: u8,
}

/// The scales to try: `(top + i * step) / max` inverse, for `i` from `-reach` to `reach`.
pub(super) struct Tries {
    pub(super) reach: i32,
    pub(super) step: f32,
    /// The greatest level.
    pub(super) top: u8,
}

impl Tries {
    /// The inverse of the scale of try `i`.
    #[inline(always)]
    pub(super) fn inverse(&self, i: i32, max: f32) -> f32 {
        (f32::from(2 * self.top + 1) + i as f32 * self.step) / max
    }
}

/// Moves levels to the near point of the least weighted distance; says whether they had to move.
#[inline(always)]
fn snap<const D: usize>(
    grid: &Grid<D>,
    x: &[f32; D],
    root: &[f32; D],
    scale: f32,
    levels: &mut [u8; D],
) -> bool {
    let Place::Near(near) = grid.place(levels) else {
        return false;
    };
    let mut best = f32::MAX;
    let mut point = near.first().copied().unwrap_or_default();
    for candidate in near {
        let q = Grid::<D>::unpack(*candidate);
        let mut distance = 0.0;
        for i in 0..D {
            let diff = scale * f32::from(2 * q[i] + 1) - x[i];
            distance += root[i] * diff * diff;
        }
        if distance < best {
            best = distance;
            point = *candidate;
        }
    }
    *levels = Grid::<D>::unpack(point);
    true
}

/// The levels at a scale, moved to points of the grid, for the groups of `which`.
#[inline(always)]
fn quantize<const D: usize, const N: usize>(
    grid: &Grid<D>,
    sub: &Sub<N>,
    (inverse, scale): (f32, f32),
    top: u8,
    which: u8,
    levels: &mut [u8; N],
) -> u8 {
    let (groups, _) = levels.as_chunks_mut::<D>();
    let (x, root) = (sub.x.as_chunks::<D>().0, sub.root.as_chunks::<D>().0);
    let mut moved = 0;
    for (k, group) in groups.iter_mut().enumerate() {
        if which >> k & 1 != 0 {
            *group = x[k].map(|x| level(x, inverse, top));
            moved |= u8::from(snap(grid, &x[k], &root[k], scale, group)) << k;
        }
    }
    moved
}

/// How it is done: by the twin, or in lanes.
pub(super) trait Search: Copy {
    /// Tries the scales about `1 / max` and keeps the best in `fit`.
    fn search<const D: usize, const N: usize>(
        self,
        grid: &Grid<D>,
        sub: &Sub<N>,
        tries: &Tries,
        max: f32,
        fit: &mut Fit<N>,
    );

    /// The levels at an inverse scale and scale, moved to points of the grid, for the groups of
    /// `which`; returns the groups that were moved.
    fn quantize<const D: usize, const N: usize>(
        self,
        grid: &Grid<D>,
        sub: &Sub<N>,
        scales: (f32, f32),
        top: u8,
        which: u8,
        levels: &mut [u8; N],
    ) -> u8;

    /// `search::positive` of eight sub-blocks.
    fn positive(self, top: i32, subs: &[Sub<32>; 8]) -> [(f32, [u8; 32]); 8];
}

/// The twin's way.
#[derive(Clone, Copy)]
pub(super) struct Twin;

impl Search for Twin {
    fn search<const D: usize, const N: usize>(
        self,
        grid: &Grid<D>,
        sub: &Sub<N>,
        tries: &Tries,
        max: f32,
        fit: &mut Fit<N>,
    ) {
        search(grid, sub, tries, max, fit);
    }

    fn quantize<const D: usize, const N: usize>(
        self,
        grid: &Grid<D>,
        sub: &Sub<N>,
        scales: (f32, f32),
        top: u8,
        which: u8,
        levels: &mut [u8; N],
    ) -> u8 {
        quantize(grid, sub, scales, top, which, levels)
    }

    fn positive(self, top: i32, subs: &[Sub<32>; 8]) -> [(f32, [u8; 32]); 8] {
        std::array::from_fn(|i| {
            let mut levels = [0; 32];
            let scale = positive(top, &subs[i].x, &subs[i].weight, &mut levels);
            (scale, levels)
        })
    }
}

/// Tries the scales about `1 / max` and keeps the best in `fit`.
fn search<const D: usize, const N: usize>(
    grid: &Grid<D>,
    sub: &Sub<N>,
    tries: &Tries,
    max: f32,
    fit: &mut Fit<N>,
) {
    let mut best = 0.0;
    for i in -tries.reach..=tries.reach {
        let inverse = tries.inverse(i, max);
        let mut levels = [0; N];
        let scales = (inverse, 1.0 / inverse);
        let moved = quantize(grid, sub, scales, tries.top, 255, &mut levels);
        let (xq, qq) = sub.sums(&levels);
        if qq > 0.0 && xq * xq > best * qq {
            let scale = xq / qq;
            best = scale * xq;
            *fit = Fit {
                scale,
                levels,
                moved,
            };
        }
    }
}

/// Quantizes the groups of `which` once more at the scale found, and betters that.
#[inline(always)]
pub(super) fn refit<const D: usize, const N: usize>(
    search: impl Search,
    grid: &Grid<D>,
    sub: &Sub<N>,
    top: u8,
    which: u8,
    fit: &mut Fit<N>,
) {
    search.quantize(
        grid,
        sub,
        (1.0 / fit.scale, fit.scale),
        top,
        which,
        &mut fit.levels,
    );
    let (xq, qq) = sub.sums(&fit.levels);
    if qq > 0.0 {
        fit.scale = xq / qq;
    }
}

/// A type of super-blocks of `BYTES` that is quantized by a [`Search`].
pub(super) trait Block<const BYTES: usize> {
    /// Quantizes a super-block, of which `squares` is the sum of squares. Mark it
    /// `#[inline(always)]`.
    fn block(
        search: impl Search,
        x: &[f32; SUPER],
        squares: f32,
        weights: Option<&[f32; SUPER]>,
        out: &mut [u8; BYTES],
    );
}

/// Quantizes the super-blocks of a row.
#[inline(always)]
pub(super) fn rows<B: Block<BYTES>, const BYTES: usize>(
    search: impl Search,
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    let weights = weights.map(|w| w.as_chunks::<SUPER>().0);
    let row = row.as_chunks::<SUPER>().0.chunks(4);
    let out = out.as_chunks_mut::<BYTES>().0.chunks_mut(4);
    for (i, (row, out)) in row.zip(out).enumerate() {
        let squares = sums_of_squares(row);
        for (k, (x, out)) in row.iter().zip(out).enumerate() {
            let weights = weights.and_then(|w| w.get(4 * i + k));
            B::block(search, x, squares[k], weights, out);
        }
    }
}

/// Makes a [`Block`] a `Kernel`.
macro_rules! kernel {
    ($name:ident $bytes:literal) => {
        impl Kernel for $name {
            fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
                rows::<Self, $bytes>(Twin, row, weights, out);
            }

            #[inline(always)]
            fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
                rows::<Self, $bytes>(InLanes(s), row, weights, out);
            }
        }
    };
}
pub(super) use kernel;

/// The greatest of scales of sub-blocks, of which none is negative.
pub(super) fn greatest_scale(scales: &[f32]) -> f32 {
    scales.iter().fold(0.0, |m, s| if m > *s { m } else { *s })
}

/// Writes the nibbles of the scales and returns the super-block's, or `None` where all are zero.
pub(super) fn scale_nibbles(scales: &[f32], out: &mut [u8]) -> Option<f32> {
    let max = greatest_scale(scales);
    if max == 0.0 {
        return None;
    }
    let d = max / 31.0;
    for (out, pair) in out.iter_mut().zip(scales.as_chunks::<2>().0) {
        let [low, high] = pair.map(|s| scale_level(s, 1.0 / d, 15));
        *out = low | high << 4;
    }
    Some(d)
}

/// The code of a sub-block's scale: level `l` stands for `2l + 1`.
pub(super) fn scale_level(scale: f32, inverse: f32, top: u8) -> u8 {
    level(scale, inverse, top)
}
