//! The searches of IQ1 with a split, or a near point, in each lane.

use super::grid::Grid;
use super::iq1::{DOWN, Running, Split, Ternary, UP};
use super::lanes::{Float, Int, Lanes, Mask};
use super::near_lanes::nearest;

/// In these lanes.
#[derive(Clone, Copy)]
pub(super) struct InLanes<S>(pub(super) S);

impl<S: Lanes> Ternary for InLanes<S> {
    #[inline(always)]
    fn order<const N: usize>(self, x: &[f32; N]) -> [u8; N] {
        order(self.0, x)
    }

    #[inline(always)]
    fn split_s(self, sums: &Running<33>) -> Option<Split> {
        split_s(self.0, sums)
    }

    #[inline(always)]
    fn split_m(self, sums: &[Running<17>; 2]) -> Option<Split> {
        split_m(self.0, sums)
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

/// Each element's rank is the number of lesser ones and of equal ones before it.
#[inline(always)]
fn order<S: Lanes, const N: usize>(s: S, x: &[f32; N]) -> [u8; N] {
    let mut order = [0; N];
    for first in (0..N).step_by(S::N) {
        let (these, at) = (s.load(&x[first..]), s.i_from(|lane| (first + lane) as i32));
        let mut rank = s.i(0);
        for (j, x) in x.iter().enumerate() {
            let x = s.f(*x);
            let before = x.lt(these) | (x.eq(these) & at.gt(s.i(j as i32)));
            rank = rank + before.select_i(s.i(1), s.i(0));
        }
        rank.each(|lane, rank| order[rank as usize % N] = (first + lane) as u8);
    }
    order
}

/// The sums with room for a whole vector behind the last, where the weights are NaN so that no split
/// is found there.
#[inline(always)]
fn pad<const N: usize>(sums: &Running<N>) -> ([f32; 64], [f32; 64]) {
    let (mut x, mut w) = ([0.0; 64], [f32::NAN; 64]);
    x[..N].copy_from_slice(&sums.x);
    w[..N].copy_from_slice(&sums.w);
    (x, w)
}

/// The best split so far, and its score.
struct Best {
    score: f32,
    found: Option<Split>,
}

impl Best {
    /// Takes the splits of a vector in their order: lane by lane, the alternatives of a lane one
    /// after the other. `down` names the shifts of the alternatives.
    #[inline(always)]
    fn take<S: Lanes, const A: usize>(
        &mut self,
        s: S,
        (i1, i2): (usize, usize),
        xq: &[S::F; A],
        qq: &[S::F; A],
        down: [u8; A],
    ) {
        let mut todo = u32::MAX;
        loop {
            let score = s.f(self.score);
            let mut better = qq[0].gt(s.f(0.0)) & (xq[0] * xq[0]).gt(score * qq[0]);
            for a in 1..A {
                better = better | (qq[a].gt(s.f(0.0)) & (xq[a] * xq[a]).gt(score * qq[a]));
            }
            let bits = better.bits() & todo;
            if bits == 0 {
                return;
            }
            let lane = bits.trailing_zeros() as usize & 15;
            for a in 0..A {
                let (mut lanes_xq, mut lanes_qq) = ([0.0; 16], [0.0; 16]);
                xq[a].store(&mut lanes_xq);
                qq[a].store(&mut lanes_qq);
                let (xq, qq) = (lanes_xq[lane], lanes_qq[lane]);
                if qq > 0.0 && xq * xq > self.score * qq {
                    let scale = xq / qq;
                    self.score = scale * xq;
                    self.found = Some(Split {
                        scale,
                        at: [i1, i2 + lane],
                        down: down[a],
                    });
                }
            }
            todo = u32::MAX << (lane + 1);
        }
    }
}

#[inline(always)]
fn split_s<S: Lanes>(s: S, sums: &Running<33>) -> Option<Split> {
    let (sx, sw) = pad(sums);
    let mut best = Best {
        score: -f32::MAX,
        found: None,
    };
    for i1 in 0..=32 {
        let (x0, w0) = (s.f(sx[i1] - sx[0]), s.f(sw[i1] - sw[0]));
        for i2 in (i1..=32).step_by(S::N) {
            let (x, w) = (s.load(&sx[i2..]), s.load(&sw[i2..]));
            let (x1, w1) = (x - s.f(sx[i1]), w - s.f(sw[i1]));
            let (x2, w2) = (s.f(sx[32]) - x, s.f(sw[32]) - w);
            let (mut xq, mut qq) = ([x; 2], [w; 2]);
            for (a, v) in [UP, DOWN].into_iter().enumerate() {
                let [p, q, r] = v;
                let (p, q, r) = (s.f(p), s.f(q), s.f(r));
                xq[a] = x0 * p + x1 * q + x2 * r;
                qq[a] = w0 * p * p + w1 * q * q + w2 * r * r;
            }
            best.take(s, (i1, i2), &xq, &qq, [0, 3]);
        }
    }
    best.found
}

#[inline(always)]
fn split_m<S: Lanes>(s: S, halves: &[Running<17>; 2]) -> Option<Split> {
    let sums = [pad(&halves[0]), pad(&halves[1])];
    let mut best = Best {
        score: -f32::MAX,
        found: None,
    };
    for i1 in 0..=16 {
        for i2 in (i1..=16).step_by(S::N) {
            // By half, and by shift.
            let mut xq = [[s.f(0.0); 2]; 2];
            let mut qq = xq;
            for (half, (sx, sw)) in sums.iter().enumerate() {
                let x = s.f(sx[i1]) + s.load(&sx[i2..]);
                let w = s.load(&sw[i2..]);
                for (a, v) in [UP, DOWN].into_iter().enumerate() {
                    let (lower, upper) = (v[0] * v[0] - v[1] * v[1], v[1] * v[1] - v[2] * v[2]);
                    xq[half][a] = s.f(sx[16] * v[2]) - x;
                    let w1 = s.f(sw[16] * v[2] * v[2] + sw[i1] * lower);
                    qq[half][a] = w1 + w * s.f(upper);
                }
            }
            let (mut all_xq, mut all_qq) = ([s.f(0.0); 4], [s.f(0.0); 4]);
            for a in 0..4 {
                all_xq[a] = xq[0][a >> 1] + xq[1][a & 1];
                all_qq[a] = qq[0][a >> 1] + qq[1][a & 1];
            }
            best.take(s, (i1, i2), &all_xq, &all_qq, [0, 1, 2, 3]);
        }
    }
    best.found
}
