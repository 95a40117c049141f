//! The near point at the least weighted distance, with near points in the lanes, or scales.
//!
//! For the scale `s`, a point whose levels stand for `o` is at the distance Σ w (s o - x)², which is
//! s (s Σ w o² - 2 Σ w o x) and a part that is the same for every point. In brackets is a straight
//! line over the scale. A line that runs above another at both ends of a range of scales does so
//! within, so that one look at both ends tells which points can be the nearest anywhere between.
//! Mostly it is one, for all the scales at which a group has the same levels.
//!
//! What the reference compares are sums rounded in its order, so a point is only left out where it
//! is farther by more than all roundings together can make up, see [`Lines::slack`]. The few that
//! are left are compared as the reference does it.

use super::grid::Grid;
use super::lanes::{Float, Int, Lanes, Mask};

/// Parts of a point: its levels in fours, or in eights two at a time.
const PARTS: usize = 4;

/// What levels 0 to 7 stand for.
const ODD: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// In every place of a table, the level of the first and of the second element of the part.
const fn digits<const D: usize>(place: usize) -> (usize, usize) {
    if D == 8 {
        (place & 3, place >> 2)
    } else {
        (place & 7, 0)
    }
}

/// For a place of a table: what the first and second element contribute, squared and doubled.
const fn factors<const D: usize>() -> [[f32; 16]; 4] {
    let mut out = [[0.0; 16]; 4];
    let mut place = 0;
    while place < 16 {
        let (a, b) = digits::<D>(place);
        out[0][place] = ODD[a] * ODD[a];
        out[1][place] = ODD[b] * ODD[b];
        out[2][place] = 2.0 * ODD[a];
        out[3][place] = 2.0 * ODD[b];
        place += 1;
    }
    out
}

/// A group of elements with the lines of all points, each the sum of one of each part.
pub(super) struct Lines<'a, const D: usize> {
    x: &'a [f32; D],
    root: &'a [f32; D],
    slope: [[f32; 16]; PARTS],
    offset: [[f32; 16]; PARTS],
    /// The weights together.
    weight: f32,
    /// No magnitude is above it.
    most: f32,
}

/// The longest list that is looked at by its lines, in words of a bit for each point.
pub(super) const WORDS: usize = 8;

impl<'a, const D: usize> Lines<'a, D> {
    const FACTORS: [[f32; 16]; 4] = factors::<D>();

    /// Those of a group; no magnitude of it is above `most`.
    #[inline(always)]
    pub(super) fn new<S: Lanes>(s: S, x: &'a [f32; D], root: &'a [f32; D], most: f32) -> Self {
        let mut lines = Self {
            x,
            root,
            slope: [[0.0; 16]; PARTS],
            offset: [[0.0; 16]; PARTS],
            weight: root.iter().sum(),
            most,
        };
        let [square_a, square_b, double_a, double_b] = &Self::FACTORS;
        for part in 0..PARTS {
            let at = part * D / PARTS;
            for lane in (0..16).step_by(S::N) {
                let (w, y) = (s.f(root[at]), s.f(root[at] * x[at]));
                let mut slope = w * s.load(&square_a[lane..]);
                let mut offset = y * s.load(&double_a[lane..]);
                if D == 8 {
                    let (w, y) = (s.f(root[at + 1]), s.f(root[at + 1] * x[at + 1]));
                    slope = slope + w * s.load(&square_b[lane..]);
                    offset = offset + y * s.load(&double_b[lane..]);
                }
                slope.store(&mut lines.slope[part][lane..]);
                offset.store(&mut lines.offset[part][lane..]);
            }
        }
        lines
    }

    /// How far above another a line must be at both ends for the point to be farther between them,
    /// also by rounded sums. `None` where numbers are so great or small that other roundings come in.
    ///
    /// With u = 2⁻²⁴ and M = Σ w (s o + |x|)² for the greatest s and o, the sum of a distance is
    /// within 13 u M of the true one: 6 u for a square and its weight, 7 u for adding up. A line is
    /// within 7 u M / s: 3 u for each part of slope and offset, u for their difference, 3 u for
    /// adding up. For two points, and the comparison, that is (26 + 14 + 1) u M / s; 64 are taken.
    #[inline(always)]
    fn slack(&self, (small, great): (f32, f32)) -> Option<f32> {
        let top = great * ODD[if D == 8 { 2 } else { 7 }] + self.most;
        let all = self.weight * top * top;
        let fine = small >= 1e-12 && small <= great && top <= 1e5 && (1e-25..1e20).contains(&all);
        fine.then(|| all * (64.0 / 16_777_216.0) / small)
    }

    /// The tables of the lines' parts at a scale.
    #[inline(always)]
    fn at<S: Lanes>(&self, s: S, scale: f32) -> [[f32; 16]; PARTS] {
        let mut out = [[0.0; 16]; PARTS];
        for ((slope, offset), out) in self.slope.iter().zip(&self.offset).zip(&mut out) {
            for lane in (0..16).step_by(S::N) {
                let line = s.f(scale) * s.load(&slope[lane..]) - s.load(&offset[lane..]);
                line.store(&mut out[lane..]);
            }
        }
        out
    }

    /// Which of a list's near points, by bit, may be the nearest at scales of a range; `None` where
    /// that cannot be told, or the list has more than 64 times `W` points. `padded` is the list filled
    /// up, `len` its length.
    #[inline(always)]
    pub(super) fn shortlist<S: Lanes, const W: usize>(
        &self,
        s: S,
        (padded, len): (&[u16], usize),
        ends: (f32, f32),
    ) -> Option<[u64; W]> {
        let slack = self.slack(ends)?;
        let tables = [self.at(s, ends.0), self.at(s, ends.1)];
        let mut bits = match (W, S::N) {
            _ if len == 0 || len > 64 * W => return None,
            // The usual case by itself, without room for others.
            _ if len <= S::N => below::<S, D, 1, W>(s, padded, &tables, slack),
            (1, 16) => below::<S, D, 4, W>(s, padded, &tables, slack),
            (1, 8) => below::<S, D, 8, W>(s, padded, &tables, slack),
            (1, _) => below::<S, D, 16, W>(s, padded, &tables, slack),
            (_, 16) if len <= 128 => below::<S, D, 8, W>(s, padded, &tables, slack),
            (_, 16) => below::<S, D, 32, W>(s, padded, &tables, slack),
            (_, 8) if len <= 128 => below::<S, D, 16, W>(s, padded, &tables, slack),
            _ => below::<S, D, 128, W>(s, padded, &tables, slack),
        };
        // The last point fills up the list.
        bits[(len - 1) / 64] &= u64::MAX >> (63 - (len - 1) % 64);
        Some(bits)
    }

    /// The nearest of the points of the given bits, of all without any, with a scale in each lane.
    #[inline(always)]
    pub(super) fn nearest<S: Lanes>(&self, s: S, near: &[u16], bits: &[u64], scale: S::F) -> S::I {
        let mut best = s.f(f32::MAX);
        let mut nearest = s.i(near.first().map_or(0, |p| i32::from(*p)));
        let mut at = next(bits, 0);
        while let Some(point) = near.get(at) {
            let q = Grid::<D>::unpack(*point);
            let mut distance = s.f(0.0);
            for d in 0..D {
                let diff = scale * s.f(ODD[usize::from(q[d]) & 7]) - s.f(self.x[d]);
                distance = distance + s.f(self.root[d]) * diff * diff;
            }
            let nearer = distance.lt(best);
            best = nearer.select(distance, best);
            nearest = nearer.select_i(s.i(i32::from(*point)), nearest);
            at = next(bits, at + 1);
        }
        nearest
    }
}

/// The place of the only bit that is set.
#[inline(always)]
pub(super) fn sole(bits: &[u64]) -> Option<usize> {
    let at = next(bits, 0);
    (!bits.is_empty() && next(bits, at.saturating_add(1)) == usize::MAX).then_some(at)
}

/// The next bit that is set; every place where there are no bits.
#[inline(always)]
fn next(bits: &[u64], from: usize) -> usize {
    if bits.is_empty() {
        return from;
    }
    let mut mask = u64::MAX << (from % 64);
    for (i, word) in bits.iter().enumerate().skip(from / 64) {
        if word & mask != 0 {
            return 64 * i + (word & mask).trailing_zeros() as usize;
        }
        mask = u64::MAX;
    }
    usize::MAX
}

/// Of the points of up to `V` vectors, by bit, those whose lines, by their parts in tables for both
/// ends, are not far above the line that is lowest half way.
#[inline(always)]
fn below<S: Lanes, const D: usize, const V: usize, const W: usize>(
    s: S,
    padded: &[u16],
    [low, high]: &[[[f32; 16]; PARTS]; 2],
    slack: f32,
) -> [u64; W] {
    let big = s.f(f32::MAX);
    let mut lines = [[big; 2]; V];
    let (mut best, mut best_low, mut best_high) = (big, big, big);
    let count = padded.len() / S::N;
    for (points, line) in padded.chunks_exact(S::N).zip(&mut lines) {
        let mut digits = s.widen(points);
        let (mut a, mut b) = (s.lookup(&low[0], digits), s.lookup(&high[0], digits));
        for part in 1..PARTS {
            digits = if D == 8 {
                digits.shr::<4>()
            } else {
                digits.shr::<3>()
            };
            a = a + s.lookup(&low[part], digits);
            b = b + s.lookup(&high[part], digits);
        }
        *line = [a, b];
        let nearer = (a + b).lt(best);
        best = nearer.select(a + b, best);
        best_low = nearer.select(a, best_low);
        best_high = nearer.select(b, best_high);
    }
    let lane = best.eq(s.f(best.least())).bits().trailing_zeros() as usize & (S::N - 1);
    let (mut lows, mut highs) = ([0.0; 16], [0.0; 16]);
    best_low.store(&mut lows);
    best_high.store(&mut highs);
    let (low, high) = (s.f(lows[lane] + slack), s.f(highs[lane] + slack));
    let mut bits = [0; W];
    for (i, [a, b]) in lines.iter().enumerate().take(count) {
        let here = u64::from((a.lt(low) | b.lt(high)).bits());
        bits[i * S::N / 64 % W] |= here << (i * S::N % 64);
    }
    bits
}

/// The near point, of a padded list, whose values are at the least weighted distance from `x`, with
/// a point in each lane. `values` holds the values of the levels, scaled, in each four lanes.
#[inline(always)]
pub(super) fn nearest<S: Lanes>(
    s: S,
    near: &[u16],
    values: S::F,
    x: &[f32; 8],
    weight: &[f32; 8],
) -> u16 {
    let mut squares = [s.f(0.0); 8];
    for d in 0..8 {
        let diff = values - s.f(x[d]);
        squares[d] = s.f(weight[d]) * diff * diff;
    }
    // The least of each lane, and where in the list its vector begins.
    let (mut best, mut from) = (s.f(f32::MAX), s.i(0));
    for (i, near) in near.chunks_exact(S::N).enumerate() {
        let mut digits = s.widen(near);
        let mut distance = s.pick(squares[0], digits);
        for square in &squares[1..] {
            digits = digits.shr::<2>();
            distance = distance + s.pick(*square, digits);
        }
        let nearer = distance.lt(best);
        best = nearer.select(distance, best);
        from = nearer.select_i(s.i((i * S::N) as i32), from);
    }
    let mut froms = [0; 16];
    from.store(&mut froms);
    let mut lanes = best.eq(s.f(best.least())).bits();
    let mut first = usize::MAX;
    while lanes != 0 {
        let lane = lanes.trailing_zeros() as usize;
        first = first.min(froms[lane & 15] as usize + lane);
        lanes &= lanes - 1;
    }
    near.get(first).copied().unwrap_or_default()
}
