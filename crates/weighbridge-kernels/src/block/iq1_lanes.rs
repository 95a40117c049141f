//! The searches of IQ1 with a sub-block in each lane, and a near point in each.

use super::grid::Grid;
use super::iq1::{DOWN, Found, Split, Ternary, UP};
use super::lanes::{Float, Int, Lanes, Mask};
use super::near_lanes::nearest;

/// In these lanes.
#[derive(Clone, Copy)]
pub(super) struct InLanes<S>(pub(super) S);

impl<S: Lanes> Ternary for InLanes<S> {
    #[inline(always)]
    fn split_s(self, x: &[[f32; 32]], w: &[[f32; 32]], out: &mut [Found<32>]) {
        let s = self.0;
        for (i, out) in out.chunks_mut(S::N).enumerate() {
            let (rank, [[wx, w], _]) = sorted(s, &x[i * S::N..], &w[i * S::N..], 32);
            let (sx, sw) = (running::<S, 32, 33>(s, &wx), running::<S, 32, 33>(s, &w));
            split_s(s, &sx, &sw).give(&rank, out);
        }
    }

    #[inline(always)]
    fn split_m(self, x: &[[f32; 16]], w: &[[f32; 16]], out: &mut [Found<16>]) {
        let s = self.0;
        for (i, out) in out.chunks_mut(S::N).enumerate() {
            let (rank, halves) = sorted(s, &x[i * S::N..], &w[i * S::N..], 8);
            let mut sums = [[[s.f(0.0); 17]; 2]; 2];
            for (sums, [wx, w]) in sums.iter_mut().zip(&halves) {
                *sums = [running(s, wx), running(s, w)];
            }
            split_m(s, &sums).give(&rank, out);
        }
    }

    #[inline(always)]
    fn snap(
        self,
        grid: &Grid<8>,
        (x, w): (&[f32; 8], &[f32; 8]),
        scale: f32,
        values: &[f32; 3],
        levels: &mut [u8; 8],
    ) -> bool {
        let (near, len) = grid.near(Grid::key(levels));
        if len == 0 {
            return false;
        }
        let s = self.0;
        let values = s.f(scale) * s.f_from(|lane| values[(lane & 3).min(2)]);
        *levels = Grid::<8>::unpack(nearest(s, near, values, x, w));
        true
    }
}

/// For each place of an order, a number of the value there in each lane.
type Column<const N: usize> = [[f32; 16]; N];

/// Values by element, with a sub-block in each lane; the last stands in for those that lack.
#[inline(always)]
fn columns<S: Lanes, const N: usize>(s: S, x: &[[f32; N]]) -> [S::F; N] {
    let mut out = [s.f(0.0); N];
    for first in (0..N).step_by(S::N) {
        let columns = &mut out[first..first + S::N];
        for (lane, row) in columns.iter_mut().enumerate() {
            *row = s.load(&x[lane.min(x.len() - 1)][first..]);
        }
        s.turn(columns);
    }
    out
}

/// The rank of each element, and w x and w by rank: those of the elements below `half` and of the
/// others, with zeros in the places of the others. Adding a zero changes no running sum.
#[inline(always)]
fn sorted<S: Lanes, const N: usize>(
    s: S,
    x: &[[f32; N]],
    w: &[[f32; N]],
    half: usize,
) -> ([[u8; 16]; N], [[Column<N>; 2]; 2]) {
    let (x, w) = (columns(s, x), columns(s, w));
    // As many as there are before it, of which those that are greater go behind it.
    let (mut rank, one) = ([s.i(0); N], s.i(1));
    for (i, rank) in rank.iter_mut().enumerate() {
        *rank = s.i(i as i32);
    }
    for i in 0..N {
        let mut this = rank[i];
        for j in i + 1..N {
            let less = x[j].lt(x[i]);
            this = less.select_i(this + one, this);
            rank[j] = less.select_i(rank[j] - one, rank[j]);
        }
        rank[i] = this;
    }
    let mut ranks = [[0; 16]; N];
    let mut out = [[[[0.0; 16]; N]; 2]; 2];
    for i in 0..N {
        rank[i].store_bytes(&mut ranks[i]);
        let (mut these_wx, mut these_w) = ([0.0; 16], [0.0; 16]);
        (w[i] * x[i]).store(&mut these_wx);
        w[i].store(&mut these_w);
        let [wx, w] = &mut out[usize::from(i >= half)];
        for (lane, rank) in ranks[i].iter().enumerate().take(S::N) {
            let rank = usize::from(*rank) % N;
            wx[rank][lane] = these_wx[lane];
            w[rank][lane] = these_w[lane];
        }
    }
    (ranks, out)
}

/// The running sums, from none to all.
#[inline(always)]
fn running<S: Lanes, const N: usize, const SUMS: usize>(s: S, x: &Column<N>) -> [S::F; SUMS] {
    let mut sums = [s.f(0.0); SUMS];
    for (i, x) in x.iter().enumerate() {
        sums[i + 1] = sums[i] + s.load(x);
    }
    sums
}

/// The best splits so far, with their scores.
struct Best<S: Lanes> {
    score: S::F,
    scale: S::F,
    /// Both places and the shift, a byte each; negative if none was found.
    code: S::I,
}

impl<S: Lanes> Best<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        Self {
            score: s.f(-f32::MAX),
            scale: s.f(0.0),
            code: s.i(-1),
        }
    }

    /// Takes the alternatives of a split, one after the other. `down` names their shifts.
    #[inline(always)]
    fn take<const A: usize>(
        &mut self,
        s: S,
        (i1, i2): (usize, usize),
        xq: &[S::F; A],
        qq: &[S::F; A],
        down: [u8; A],
    ) {
        let zero = s.f(0.0);
        // Mostly none is better than what there is, and then none than what the others leave.
        let mut better = qq[0].gt(zero) & (xq[0] * xq[0]).gt(self.score * qq[0]);
        for a in 1..A {
            better = better | (qq[a].gt(zero) & (xq[a] * xq[a]).gt(self.score * qq[a]));
        }
        if !better.any() {
            return;
        }
        for a in 0..A {
            let better = qq[a].gt(zero) & (xq[a] * xq[a]).gt(self.score * qq[a]);
            let scale = xq[a] / qq[a];
            self.scale = better.select(scale, self.scale);
            self.score = better.select(scale * xq[a], self.score);
            let code = (i1 << 16 | i2 << 8) as i32 | i32::from(down[a]);
            self.code = better.select_i(s.i(code), self.code);
        }
    }

    /// Hands over what was found of each lane.
    #[inline(always)]
    fn give<const N: usize>(&self, rank: &[[u8; 16]; N], out: &mut [Found<N>]) {
        let (mut scales, mut codes) = ([0.0; 16], [0; 16]);
        self.scale.store(&mut scales);
        self.code.store(&mut codes);
        for (lane, out) in out.iter_mut().enumerate().take(S::N) {
            for (out, rank) in out.rank.iter_mut().zip(rank) {
                *out = rank[lane];
            }
            let [down, i2, i1, none] = codes[lane].to_le_bytes();
            out.split = (none == 0).then_some(Split {
                scale: scales[lane],
                at: [usize::from(i1), usize::from(i2)],
                down,
            });
        }
    }
}

/// The best split of each lane, from the running sums of w x and w.
///
/// The middle values of both shifts differ in their sign only, and so do products with them.
#[inline(always)]
fn split_s<S: Lanes>(s: S, sx: &[S::F; 33], sw: &[S::F; 33]) -> Best<S> {
    let mut best = Best::new(s);
    let middle = s.f(UP[1]);
    // The parts of the upper group by its beginning, and by shift.
    let (mut upper_x, mut upper_w) = ([[s.f(0.0); 2]; 33], [[s.f(0.0); 2]; 33]);
    for i2 in 0..=32 {
        let (x2, w2) = (sx[32] - sx[i2], sw[32] - sw[i2]);
        for (a, v) in [UP, DOWN].into_iter().enumerate() {
            upper_x[i2][a] = x2 * s.f(v[2]);
            upper_w[i2][a] = w2 * s.f(v[2]) * s.f(v[2]);
        }
    }
    for i1 in 0..=32 {
        let (x0, w0) = (sx[i1] - sx[0], sw[i1] - sw[0]);
        let (up, down) = (s.f(UP[0]), s.f(DOWN[0]));
        let lower_x = [x0 * up, x0 * down];
        let lower_w = [w0 * up * up, w0 * down * down];
        for i2 in i1..=32 {
            let x1 = (sx[i2] - sx[i1]) * middle;
            let w1 = (sw[i2] - sw[i1]) * middle * middle;
            let xq = [
                lower_x[0] + x1 + upper_x[i2][0],
                lower_x[1] - x1 + upper_x[i2][1],
            ];
            let qq = [
                lower_w[0] + w1 + upper_w[i2][0],
                lower_w[1] + w1 + upper_w[i2][1],
            ];
            best.take(s, (i1, i2), &xq, &qq, [0, 3]);
        }
    }
    best
}

/// The best split of each lane, from the running sums of w x and w of both halves.
#[inline(always)]
fn split_m<S: Lanes>(s: S, halves: &[[[S::F; 17]; 2]; 2]) -> Best<S> {
    let mut best = Best::new(s);
    let zero = s.f(0.0);
    // By half, and by shift.
    let mut all_x = [[zero; 2]; 2];
    let mut all_w = all_x;
    let mut upper_w = [[[zero; 2]; 2]; 17];
    for half in 0..2 {
        let [sx, sw] = &halves[half];
        for (a, v) in [UP, DOWN].into_iter().enumerate() {
            all_x[half][a] = sx[16] * s.f(v[2]);
            all_w[half][a] = sw[16] * s.f(v[2]) * s.f(v[2]);
            for (upper, w) in upper_w.iter_mut().zip(sw) {
                upper[half][a] = *w * s.f(v[1] * v[1] - v[2] * v[2]);
            }
        }
    }
    for i1 in 0..=16 {
        let mut lower_w = all_w;
        for half in 0..2 {
            for (a, v) in [UP, DOWN].into_iter().enumerate() {
                let lower = halves[half][1][i1] * s.f(v[0] * v[0] - v[1] * v[1]);
                lower_w[half][a] = lower_w[half][a] + lower;
            }
        }
        for i2 in i1..=16 {
            let (mut part_x, mut part_w) = (all_x, lower_w);
            for half in 0..2 {
                let sx = &halves[half][0];
                let x = sx[i1] + sx[i2];
                for a in 0..2 {
                    part_x[half][a] = part_x[half][a] - x;
                    part_w[half][a] = part_w[half][a] + upper_w[i2][half][a];
                }
            }
            let (mut xq, mut qq) = ([zero; 4], [zero; 4]);
            for a in 0..4 {
                xq[a] = part_x[0][a >> 1] + part_x[1][a & 1];
                qq[a] = part_w[0][a >> 1] + part_w[1][a & 1];
            }
            best.take(s, (i1, i2), &xq, &qq, [0, 1, 2, 3]);
        }
    }
    best
}
