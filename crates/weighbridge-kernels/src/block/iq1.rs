//! IQ1_S and IQ1_M: eight ternary values at a time from a grid, shifted up or down by an eighth.
//!
//! Layouts (`ggml-common.h`): IQ1_S is an f16 scale, the low bytes of 32 codes, and for each 32
//! elements a word of four times three upper code bits, three scale bits and the shift's sign. IQ1_M
//! is the low bytes of 32 codes, for each 16 elements a byte of twice three upper code bits and the
//! shift's sign, and four words of four times three scale bits; the words' upper nibbles are the f16
//! scale.

use super::grid::{self, Grid, Place};
use super::half;
use super::iq::{SUPER, greatest_scale, scale_level, sums_of_squares};
use super::iq1_lanes::InLanes;
use super::lanes::{Kernel, Lanes};

const SHIFT: f32 = 0.125;
/// What the levels stand for when shifted up, and down.
pub(super) const UP: [f32; 3] = [-1.0 + SHIFT, SHIFT, 1.0 + SHIFT];
pub(super) const DOWN: [f32; 3] = [-1.0 - SHIFT, -SHIFT, 1.0 - SHIFT];

/// A split of the sorted values into three levels.
#[derive(Clone, Copy)]
pub(super) struct Split {
    pub(super) scale: f32,
    /// The first of the middle level and the first of the upper.
    pub(super) at: [usize; 2],
    /// The halves shifted down, by bit: the first half is bit 1, the second bit 0.
    pub(super) down: u8,
}

/// What is found of a sub-block.
#[derive(Clone, Copy)]
pub(super) struct Found<const N: usize> {
    /// The place of each value in their rising order, equal ones in theirs.
    pub(super) rank: [u8; N],
    /// The best of all splits.
    pub(super) split: Option<Split>,
}

impl<const N: usize> Found<N> {
    const NONE: Self = Self {
        rank: [0; N],
        split: None,
    };
}

/// How it is done: by the twin, or in lanes.
pub(super) trait Ternary: Copy {
    /// The best splits of sub-blocks of IQ1_S, from values and weights.
    fn split_s(self, x: &[[f32; 32]], w: &[[f32; 32]], out: &mut [Found<32>]);
    /// The best splits of sub-blocks of IQ1_M.
    fn split_m(self, x: &[[f32; 16]], w: &[[f32; 16]], out: &mut [Found<16>]);
    /// Moves levels to the near point of the least weighted distance at this scale, and says whether
    /// they had to move.
    fn snap(
        self,
        grid: &Grid<8>,
        of: (&[f32; 8], &[f32; 8]),
        scale: f32,
        values: &[f32; 3],
        levels: &mut [u8; 8],
    ) -> bool;
}

/// The twin's way.
#[derive(Clone, Copy)]
struct Twin;

impl Ternary for Twin {
    fn split_s(self, x: &[[f32; 32]], w: &[[f32; 32]], out: &mut [Found<32>]) {
        for ((x, w), out) in x.iter().zip(w).zip(out) {
            let order = order(x);
            out.rank = rank(&order);
            out.split = split_s(&running(x, w, &order, |_| true));
        }
    }

    fn split_m(self, x: &[[f32; 16]], w: &[[f32; 16]], out: &mut [Found<16>]) {
        for ((x, w), out) in x.iter().zip(w).zip(out) {
            let order = order(x);
            out.rank = rank(&order);
            let first = running(x, w, &order, |i| i < 8);
            out.split = split_m(&[first, running(x, w, &order, |i| i >= 8)]);
        }
    }

    fn snap(
        self,
        grid: &Grid<8>,
        of: (&[f32; 8], &[f32; 8]),
        scale: f32,
        values: &[f32; 3],
        levels: &mut [u8; 8],
    ) -> bool {
        snap(grid, of, scale, values, levels)
    }
}

/// The values in rising order, equal ones in theirs.
fn order<const N: usize>(x: &[f32; N]) -> [u8; N] {
    let mut order: [u8; N] = std::array::from_fn(|i| i as u8);
    order.sort_by(|a, b| {
        let (a, b) = (x[usize::from(*a)], x[usize::from(*b)]);
        a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal)
    });
    order
}

/// Where in that order each value is.
fn rank<const N: usize>(order: &[u8; N]) -> [u8; N] {
    let mut out = [0; N];
    for (rank, i) in order.iter().enumerate() {
        out[usize::from(*i)] = rank as u8;
    }
    out
}

/// Moves levels to the near point of the least weighted distance at this scale.
fn snap(
    grid: &Grid<8>,
    (x, w): (&[f32; 8], &[f32; 8]),
    scale: f32,
    values: &[f32; 3],
    levels: &mut [u8; 8],
) -> bool {
    let Place::Near(near) = grid.place(levels) else {
        return false;
    };
    let mut best = f32::MAX;
    let mut point = near.first().copied().unwrap_or_default();
    for candidate in near {
        let q = Grid::<8>::unpack(*candidate);
        let mut distance = 0.0;
        for i in 0..8 {
            let diff = scale * values[usize::from(q[i])] - x[i];
            distance += w[i] * diff * diff;
        }
        if distance < best {
            best = distance;
            point = *candidate;
        }
    }
    *levels = Grid::<8>::unpack(point);
    true
}

fn values(down: u8, half: usize) -> &'static [f32; 3] {
    if down >> (1 - half) & 1 == 0 {
        &UP
    } else {
        &DOWN
    }
}

/// Levels and codes of a sub-block at the split found.
#[inline(always)]
fn fit<const N: usize>(
    how: impl Ternary,
    grid: &Grid<8>,
    (x, w): (&[f32; N], &[f32; N]),
    rank: &[u8; N],
    split: &mut Split,
) -> [u16; 4] {
    let at = split.at.map(|at| at as u8);
    let mut levels = [0; N];
    for (level, rank) in levels.iter_mut().zip(rank) {
        *level = u8::from(*rank >= at[0]) + u8::from(*rank >= at[1]);
    }
    if split.scale < 0.0 {
        levels = levels.map(|l| 2 - l);
        split.scale = -split.scale;
        split.down = !split.down & 3;
    }
    let half = |k: usize| 2 * k / (N / 8);
    let eights = |k: usize| (&x.as_chunks::<8>().0[k], &w.as_chunks::<8>().0[k]);
    let (mut codes, mut moved) = ([0; 4], false);
    for (k, levels) in levels.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        moved |= how.snap(
            grid,
            eights(k),
            split.scale,
            values(split.down, half(k)),
            levels,
        );
        codes[k] = grid.code(levels);
    }
    if moved {
        let (mut xq, mut qq) = (0.0, 0.0);
        for i in 0..N {
            let q = values(split.down, half(i / 8))[usize::from(levels[i])];
            xq += w[i] * q * x[i];
            qq += w[i] * q * q;
        }
        if xq > 0.0 && qq > 0.0 {
            split.scale = xq / qq;
        }
    }
    codes
}

fn greatest<const N: usize>(x: &[f32; N]) -> f32 {
    let greater = |m: f32, x: &f32| if m > x.abs() { m } else { x.abs() };
    x[1..].iter().fold(x[0].abs(), greater)
}

/// IQ1_S.
pub(super) enum S {}

impl Kernel for S {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        row_s(Twin, row, weights, out);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        row_s(InLanes(s), row, weights, out);
    }
}

/// The super-blocks that are worked on at a time.
const BLOCKS: usize = 4;

/// The weights of super-blocks: by importance, or the squares.
#[inline(always)]
fn weigh(x: &[[f32; SUPER]], importance: Option<&[[f32; SUPER]]>) -> [[f32; SUPER]; BLOCKS] {
    let mut weights = [[0.0; SUPER]; BLOCKS];
    let sums = sums_of_squares(x);
    for (i, (x, weights)) in x.iter().zip(&mut weights).enumerate() {
        let sigma2 = 2.0 * sums[i] / SUPER as f32;
        match importance.and_then(|w| w.get(i)) {
            Some(w) => *weights = super::weigh(sigma2, x, w),
            None => weights.iter_mut().zip(x).for_each(|(w, x)| *w = x * x),
        }
    }
    weights
}

#[inline(always)]
fn row_s(how: impl Ternary, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let grid = grid::iq1();
    let rows = row.as_chunks::<SUPER>().0.chunks(BLOCKS);
    let out = out.as_chunks_mut::<50>().0.chunks_mut(BLOCKS);
    let weights = weights.unwrap_or_default().as_chunks::<SUPER>().0;
    for ((x, w), out) in rows.zip(weights.chunks(BLOCKS)).zip(out) {
        let weights = weigh(x, Some(w));
        let subs = x.as_flattened().as_chunks::<32>().0;
        let mut found = [Found::NONE; 8 * BLOCKS];
        how.split_s(
            subs,
            weights.as_flattened().as_chunks().0,
            &mut found[..subs.len()],
        );
        let found = found.as_chunks::<8>().0;
        for (((x, w), found), out) in x.iter().zip(&weights).zip(found).zip(out) {
            block_s(how, grid, (x, w), found, out);
        }
    }
}

#[inline(always)]
fn block_s(
    how: impl Ternary,
    grid: &Grid<8>,
    (x, w): (&[f32; SUPER], &[f32; SUPER]),
    found: &[Found<32>; 8],
    out: &mut [u8; 50],
) {
    out.fill(0);
    let (mut scales, mut words) = ([0.0f32; 8], [0u16; 8]);
    let subs = x.as_chunks::<32>().0.iter().zip(w.as_chunks::<32>().0);
    for (ib, ((x, w), found)) in subs.zip(found).enumerate() {
        let Some(mut split) = found.split.filter(|_| greatest(x) >= 1e-12) else {
            continue;
        };
        for (k, code) in fit(how, grid, (x, w), &found.rank, &mut split)
            .into_iter()
            .enumerate()
        {
            out[2 + 4 * ib + k] = code as u8;
            words[ib] |= (code >> 8) << (3 * k);
        }
        words[ib] |= u16::from(split.down & 1) << 15;
        scales[ib] = split.scale;
    }
    let max = greatest_scale(&scales);
    let d = max / 15.0;
    if max != 0.0 {
        out[..2].copy_from_slice(&half(d * 1.125).to_le_bytes());
    }
    for (ib, out) in out[34..].chunks_exact_mut(2).enumerate() {
        let word = if max == 0.0 {
            words[ib] & 0xfff
        } else {
            words[ib] | u16::from(scale_level(scales[ib], 1.0 / d, 7)) << 12
        };
        out.copy_from_slice(&word.to_le_bytes());
    }
}

fn split_s(Running { x: sx, w: sw }: &Running<33>) -> Option<Split> {
    let mut best = -f32::MAX;
    let mut found = None;
    for i1 in 0..=32 {
        for i2 in i1..=32 {
            for (down, v) in [(0, UP), (3, DOWN)] {
                let three = |s: &[f32; 33]| [s[i1] - s[0], s[i2] - s[i1], s[32] - s[i2]];
                let ([x0, x1, x2], [w0, w1, w2]) = (three(sx), three(sw));
                let xq = x0 * v[0] + x1 * v[1] + x2 * v[2];
                let qq = w0 * v[0] * v[0] + w1 * v[1] * v[1] + w2 * v[2] * v[2];
                if qq > 0.0 && xq * xq > best * qq {
                    let scale = xq / qq;
                    best = scale * xq;
                    found = Some(Split {
                        scale,
                        at: [i1, i2],
                        down,
                    });
                }
            }
        }
    }
    found
}

/// IQ1_M.
pub(super) enum M {}

impl Kernel for M {
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        row_m(Twin, row, weights, out);
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        row_m(InLanes(s), row, weights, out);
    }
}

#[inline(always)]
fn row_m(how: impl Ternary, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let grid = grid::iq1();
    let rows = row.as_chunks::<SUPER>().0.chunks(BLOCKS);
    let out = out.as_chunks_mut::<56>().0.chunks_mut(BLOCKS);
    for (i, (x, out)) in rows.zip(out).enumerate() {
        let w = weights.and_then(|w| w.as_chunks().0.get(BLOCKS * i..));
        let weights = weigh(x, w);
        let subs = x.as_flattened().as_chunks::<16>().0;
        let mut found = [Found::NONE; 16 * BLOCKS];
        how.split_m(
            subs,
            weights.as_flattened().as_chunks().0,
            &mut found[..subs.len()],
        );
        let found = found.as_chunks::<16>().0;
        for (((x, w), found), out) in x.iter().zip(&weights).zip(found).zip(out) {
            block_m(how, grid, (x, w), found, out);
        }
    }
}

#[inline(always)]
fn block_m(
    how: impl Ternary,
    grid: &Grid<8>,
    (x, weights): (&[f32; SUPER], &[f32; SUPER]),
    found: &[Found<16>; 16],
    out: &mut [u8; 56],
) {
    out.fill(0);
    let mut scales = [0.0f32; 16];
    let mut downs = [0u8; 16];
    let mut codes = [[0u16; 2]; 16];
    let subs = x
        .as_chunks::<16>()
        .0
        .iter()
        .zip(weights.as_chunks::<16>().0);
    for (ib, ((x, w), found)) in subs.zip(found).enumerate() {
        let Some(mut split) = found.split.filter(|_| greatest(x) >= 1e-7) else {
            continue;
        };
        let [a, b, ..] = fit(how, grid, (x, w), &found.rank, &mut split);
        codes[ib] = [a, b];
        out[2 * ib] = a as u8;
        out[2 * ib + 1] = b as u8;
        out[32 + ib] = (a >> 8 | b >> 8 << 4) as u8;
        downs[ib] = split.down;
        scales[ib] = split.scale;
    }
    let max = greatest_scale(&scales);
    if max == 0.0 {
        return;
    }
    let d = max / 15.0;
    let levels = scales.map(|s| scale_level(s, 1.0 / d, 7));
    let mut words = [0u16; 4];
    for ib in 0..16 {
        words[ib / 4] |= u16::from(levels[ib]) << (3 * (ib % 4));
        out[32 + ib] |= (downs[ib] & 1) << 7 | (downs[ib] >> 1) << 3;
    }
    let d = refit_m(grid, (x, weights), &codes, &downs, &levels).unwrap_or(d);
    let half = half(d * 1.1125);
    for (i, out) in out[48..].chunks_exact_mut(2).enumerate() {
        let word = words[i] | (half >> (4 * i) & 15) << 12;
        out.copy_from_slice(&word.to_le_bytes());
    }
}

/// The best scale of the whole block once all levels are known.
fn refit_m(
    grid: &Grid<8>,
    (x, w): (&[f32; SUPER], &[f32; SUPER]),
    codes: &[[u16; 2]; 16],
    downs: &[u8; 16],
    levels: &[u8; 16],
) -> Option<f32> {
    let (mut xq, mut qq) = (0.0, 0.0);
    for k in 0..32 {
        let point = grid.levels(codes[k / 2][k % 2]);
        let values = values(downs[k / 2], k % 2);
        let scale = f32::from(2 * levels[k / 2] + 1);
        for (j, level) in point.iter().enumerate() {
            let (x, w) = (x[8 * k + j], w[8 * k + j]);
            let q = values[usize::from(*level)] * scale;
            xq += w * q * x;
            qq += w * q * q;
        }
    }
    (qq > 0.0).then(|| xq / qq)
}

/// The running sums of w x and w in rising order, from 0 to that of all.
struct Running<const N: usize> {
    x: [f32; N],
    w: [f32; N],
}

/// The sums of the elements that are `here`; the others leave them as they are.
#[inline(always)]
fn running<const N: usize, const SUMS: usize>(
    x: &[f32; N],
    w: &[f32; N],
    order: &[u8; N],
    here: impl Fn(usize) -> bool,
) -> Running<SUMS> {
    let mut sums = Running {
        x: [0.0; SUMS],
        w: [0.0; SUMS],
    };
    for (j, i) in order.iter().enumerate() {
        let i = usize::from(*i);
        let here = here(i);
        sums.x[j + 1] = if here {
            sums.x[j] + w[i] * x[i]
        } else {
            sums.x[j]
        };
        sums.w[j + 1] = if here { sums.w[j] + w[i] } else { sums.w[j] };
    }
    sums
}

impl Running<17> {
    /// Σ w x q and Σ w q² of the half for a split, with the middle and lower groups expressed by the
    /// differences of neighbouring values, which are one.
    #[inline(always)]
    fn sums(&self, i1: usize, i2: usize, v: &[f32; 3]) -> (f32, f32) {
        let xq = self.x[16] * v[2] - (self.x[i1] + self.x[i2]);
        let (lower, upper) = (v[0] * v[0] - v[1] * v[1], v[1] * v[1] - v[2] * v[2]);
        let qq = self.w[16] * v[2] * v[2] + self.w[i1] * lower + self.w[i2] * upper;
        (xq, qq)
    }
}

fn split_m([first, second]: &[Running<17>; 2]) -> Option<Split> {
    let mut best = -f32::MAX;
    let mut found = None;
    for i1 in 0..=16 {
        for i2 in i1..=16 {
            let a = [UP, DOWN].map(|v| first.sums(i1, i2, &v));
            let b = [UP, DOWN].map(|v| second.sums(i1, i2, &v));
            for down in 0..4u8 {
                let (a, b) = (a[usize::from(down >> 1)], b[usize::from(down & 1)]);
                let (xq, qq) = (a.0 + b.0, a.1 + b.1);
                if qq > 0.0 && xq * xq > best * qq {
                    let scale = xq / qq;
                    best = scale * xq;
                    found = Some(Split {
                        scale,
                        at: [i1, i2],
                        down,
                    });
                }
            }
        }
    }
    found
}
