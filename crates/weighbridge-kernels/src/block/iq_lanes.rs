//! The search of IQ2 and IQ3 with a scale to try in each lane.
//!
//! Everything but the scale is the same in all lanes. As the inverse scale rises from lane to lane,
//! so do the levels: tries with the same levels lie side by side, and the near points are gone
//! through once for each such run. Tries that come to the same points have the same sums, which are
//! taken once.

use super::grid::Grid;
use super::iq::{Fit, Search, Sub, Tries};
use super::lanes::{Float, Int, Lanes, MAGIC, Mask};
use super::near_lanes::{Lines, WORDS, sole};
use super::search_lanes::positive;

/// The most scales tried, in whole vectors, and room for a vector from each of them on.
const MOST: usize = 32;
const ROOM: usize = MOST + 16;

/// The search in these lanes.
#[derive(Clone, Copy)]
pub(super) struct InLanes<S>(pub(super) S);

impl<S: Lanes> Search for InLanes<S> {
    #[inline(always)]
    fn search<const D: usize, const N: usize>(
        self,
        grid: &Grid<D>,
        sub: &Sub<N>,
        tries: &Tries,
        max: f32,
        fit: &mut Fit<N>,
    ) {
        search(self.0, grid, sub, tries, max, fit);
    }

    #[inline(always)]
    fn quantize<const D: usize, const N: usize>(
        self,
        grid: &Grid<D>,
        sub: &Sub<N>,
        scales: (f32, f32),
        top: u8,
        which: u8,
        levels: &mut [u8; N],
    ) -> u8 {
        quantize(self.0, grid, sub, scales, top, which, levels)
    }

    #[inline(always)]
    fn positive(self, top: i32, subs: &[Sub<32>; 8]) -> [(f32, [u8; 32]); 8] {
        let s = self.0;
        let mut out = [(0.0, [0; 32]); 8];
        for first in (0..8).step_by(S::N) {
            let (mut x, mut w) = ([s.f(0.0); 32], [s.f(0.0); 32]);
            for i in 0..32 {
                x[i] = s.f_from(|lane| subs[(first + lane) & 7].x[i]);
                w[i] = s.f_from(|lane| subs[(first + lane) & 7].weight[i]);
            }
            let (scales, levels) = positive(s, top, &x, &w);
            scales.each(|lane, scale| out[(first + lane) & 7].0 = scale);
            for (i, levels) in levels.into_iter().enumerate() {
                levels.each(|lane, level| out[(first + lane) & 7].1[i] = level as u8);
            }
        }
        out
    }
}

/// As the twin's, with near points in the lanes.
#[inline(always)]
fn quantize<S: Lanes, const D: usize, const N: usize>(
    s: S,
    grid: &Grid<D>,
    sub: &Sub<N>,
    (inverse, scale): (f32, f32),
    top: u8,
    which: u8,
    levels: &mut [u8; N],
) -> u8 {
    let (x, root) = (sub.x.as_chunks::<D>().0, sub.root.as_chunks::<D>().0);
    let most = greatest(&sub.x);
    let mut moved = 0;
    for (k, group) in levels.as_chunks_mut::<D>().0.iter_mut().enumerate() {
        if which >> k & 1 == 0 {
            continue;
        }
        for (level, x) in group.iter_mut().zip(&x[k]) {
            *level = super::iq::level(*x, inverse, top);
        }
        let (padded, len) = grid.near(Grid::key(group));
        if len == 0 {
            continue;
        }
        let lines = Lines::new(s, &x[k], &root[k], most);
        let short = lines.shortlist::<S, WORDS>(s, (padded, len), (scale, scale));
        let bits = short.as_ref().map_or(&[][..], |b| b);
        let mut point = [0; 16];
        let nearest = lines.nearest(s, &padded[..len], bits, s.f(scale));
        nearest.store(&mut point);
        *group = Grid::<D>::unpack(point[0] as u16);
        moved |= 1 << k;
    }
    moved
}

/// The greatest magnitude, a negative one counted like others; NaN where there is one.
#[inline(always)]
fn greatest<const N: usize>(x: &[f32; N]) -> f32 {
    let mut bits = 0;
    for x in x {
        bits = bits.max(x.to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(bits)
}

/// The levels of a group at every lane's scale, packed.
#[inline(always)]
fn levels<S: Lanes, const D: usize>(s: S, x: &[f32; D], inverse: S::F, top: u8) -> S::I {
    let (half, one, magic) = (s.f(0.5), s.f(1.0), s.f(MAGIC));
    let (zero, most) = (s.i(0), s.i(i32::from(top)));
    let mut packed = zero;
    for x in x.iter().rev() {
        let level = (half * (inverse * s.f(*x) - one)).nearest(magic);
        packed = up::<S, D>(packed) | level.min(most).max(zero);
    }
    packed
}

/// As `levels`, where no magnitude comes out above 2²⁰.
///
/// The reference rounds half of `y = inverse x - 1`; adding twice `MAGIC` to `y` rounds it to even
/// numbers in the same way, and leaves half of it in the sum's low bits. The levels add up above
/// what there is of `MAGIC` in each, which is taken off in the end. Values below zero, which stand
/// for level 0 like zero itself, are to be zero here; then `y` is at least -1, and that rounds to 0.
#[inline(always)]
fn small_levels<S: Lanes, const D: usize>(s: S, x: &[f32; D], inverse: S::F, top: u8) -> S::I {
    let (one, magic) = (s.f(1.0), s.f(2.0 * MAGIC));
    let most = s.f(f32::from(2 * top));
    let (mut packed, mut extra) = (s.i(0), 0u32);
    for x in x.iter().rev() {
        let level = ((inverse * s.f(*x) - one).min(most) + magic).bits();
        packed = up::<S, D>(packed) + level;
        extra = (extra << if D == 8 { 2 } else { 3 }).wrapping_add((2.0 * MAGIC).to_bits());
    }
    packed - s.i(extra as i32)
}

/// Room for one more level.
#[inline(always)]
fn up<S: Lanes, const D: usize>(packed: S::I) -> S::I {
    if D == 8 {
        packed.shl::<2>()
    } else {
        packed.shl::<3>()
    }
}

/// The points of a group at every try.
#[derive(Clone, Copy)]
struct Points {
    packed: [i32; ROOM],
    /// The tries, by bit, at which the levels were no point.
    moved: u32,
}

/// The bits of the places, up to `count`, at which the packed levels are others than just before.
#[inline(always)]
fn changes<S: Lanes>(s: S, packed: &[i32; ROOM], count: usize) -> u32 {
    let mut bits = 0;
    for first in (1..count).step_by(S::N) {
        let same = s
            .load_i(&packed[first..])
            .eq(s.load_i(&packed[first - 1..]));
        bits |= (!same).bits() << first;
    }
    bits & ((1 << count) - 1)
}

/// Tries of a group with the same levels, which are no point of the grid.
#[derive(Clone, Copy)]
struct Run<'a> {
    /// The near points, filled up, and how many there are.
    padded: &'a [u16],
    len: u16,
    group: u8,
    start: u8,
    end: u8,
}

/// The groups that are worked on at a time.
const PAIR: usize = 2;

/// The runs of a pair of groups.
struct Runs<'a> {
    runs: [Run<'a>; PAIR * MOST],
    /// Of each, the near points that may be the nearest, by bit; none if that is not known.
    short: [u64; PAIR * MOST],
}

impl<'a> Runs<'a> {
    fn new() -> Self {
        let none = Run {
            padded: &[],
            len: 0,
            group: 0,
            start: 0,
            end: 0,
        };
        Self {
            runs: [none; PAIR * MOST],
            short: [0; PAIR * MOST],
        }
    }

    /// Finds those of a pair of groups; returns how many.
    #[inline(always)]
    fn find<S: Lanes, const D: usize>(
        &mut self,
        s: S,
        grid: &'a Grid<D>,
        pair: &mut [Points],
        count: usize,
    ) -> usize {
        let mut found = 0;
        for (group, points) in pair.iter_mut().enumerate() {
            let mut starts = changes(s, &points.packed, count) | 1;
            while starts != 0 {
                let start = starts.trailing_zeros() as usize;
                starts &= starts - 1;
                let end = count.min(starts.trailing_zeros() as usize);
                let key = Grid::<D>::key_of(points.packed[start] as u16);
                let (padded, len) = grid.near(key);
                self.runs[found % (PAIR * MOST)] = Run {
                    padded,
                    len: len as u16,
                    group: group as u8,
                    start: start as u8,
                    end: end as u8,
                };
                // One that is a point is written over by the next.
                found += usize::from(len != 0);
                let tries = (1u32 << end) - (1 << start);
                points.moved |= if len != 0 { tries } else { 0 };
            }
        }
        found
    }

    /// Moves the levels of a pair of groups to points of the grid. First all runs are found, then
    /// their near points are looked at, several lists at once as nothing hangs on what comes out, and
    /// only then is it decided.
    #[inline(always)]
    fn snap<S: Lanes, const D: usize>(
        &mut self,
        s: S,
        grid: &'a Grid<D>,
        lines: &[Lines<'_, D>; PAIR],
        scales: &[f32; ROOM],
        (pair, count): (&mut [Points], usize),
    ) {
        let found = self.find(s, grid, pair, count);
        let runs = &self.runs[..found];
        for (run, short) in runs.iter().zip(&mut self.short) {
            let list = (run.padded, usize::from(run.len));
            let bits =
                lines[usize::from(run.group) % PAIR].shortlist::<S, 1>(s, list, run.ends(scales));
            *short = bits.map_or(0, |[bits]| bits);
        }
        for (run, short) in runs.iter().zip(&self.short) {
            let group = usize::from(run.group) % PAIR;
            run.decide(s, &lines[group], *short, scales, &mut pair[group]);
        }
    }
}

impl Run<'_> {
    /// The least and the greatest scale: they fall from try to try.
    #[inline(always)]
    fn ends(&self, scales: &[f32; ROOM]) -> (f32, f32) {
        let at = |i: u8| scales[usize::from(i) % ROOM];
        (at(self.end - 1), at(self.start))
    }

    /// Moves the levels to the nearest point of those that may be.
    #[inline(always)]
    fn decide<S: Lanes, const D: usize>(
        &self,
        s: S,
        lines: &Lines<'_, D>,
        short: u64,
        scales: &[f32; ROOM],
        points: &mut Points,
    ) {
        let near = &self.padded[..usize::from(self.len)];
        let (mut bits, mut words) = ([0; WORDS], 0);
        if short != 0 {
            (bits[0], words) = (short, 1);
        } else if near.len() > 64
            && let Some(all) =
                lines.shortlist::<S, WORDS>(s, (self.padded, near.len()), self.ends(scales))
        {
            (bits, words) = (all, WORDS);
        }
        let bits = &bits[..words];
        let only = sole(bits).and_then(|at| near.get(at));
        let lanes = s.i_from(|lane| lane as i32);
        let (start, end) = (usize::from(self.start), usize::from(self.end));
        for first in (start..end).step_by(S::N) {
            let point = match only {
                Some(point) => s.i(i32::from(*point)),
                None => lines.nearest(s, near, bits, s.load(&scales[first..])),
            };
            let here = s.i((end - first) as i32).gt(lanes);
            let old = s.load_i(&points.packed[first..]);
            here.select_i(point, old).store(&mut points.packed[first..]);
        }
    }
}

/// The sums of `Sub::sums` of some tries.
#[inline(always)]
fn sums<S: Lanes, const D: usize, const N: usize>(
    s: S,
    sub: &Sub<N>,
    points: &[Points; 8],
    count: usize,
) -> [[f32; ROOM]; 2] {
    let mut out = [[0.0; ROOM]; 2];
    let mut odd = [0.0; 16];
    for (level, odd) in odd.iter_mut().enumerate() {
        *odd = (2 * (level & if D == 8 { 3 } else { 7 }) + 1) as f32;
    }
    let four = s.load(&odd);
    for first in (0..count).step_by(S::N) {
        let (mut xq, mut qq) = (s.f(0.0), s.f(0.0));
        for (k, points) in points.iter().enumerate().take(N / D) {
            let mut digits = s.load_i(&points.packed[first..]);
            for i in k * D..(k + 1) * D {
                let q = if D == 8 {
                    s.pick(four, digits)
                } else {
                    s.lookup(&odd, digits)
                };
                digits = if D == 8 {
                    digits.shr::<2>()
                } else {
                    digits.shr::<3>()
                };
                let w = sub.weight[i];
                xq = xq + s.f(w * sub.x[i]) * q;
                qq = qq + s.f(w) * q * q;
            }
        }
        xq.store(&mut out[0][first..]);
        qq.store(&mut out[1][first..]);
    }
    out
}

/// Leaves out the tries that come to the same points as the one before, in the same way, where that
/// saves a vector; returns how many are left. Taking the same sums once more changes nothing.
#[inline(always)]
fn squeeze<S: Lanes>(s: S, points: &mut [Points], count: usize) -> usize {
    // So many groups have hardly two tries alike.
    if points.len() > 4 {
        return count;
    }
    let mut starts = 1;
    for p in &*points {
        starts |= changes(s, &p.packed, count) | (p.moved ^ p.moved << 1) & ((1 << count) - 1);
    }
    let left = starts.count_ones() as usize;
    if left.div_ceil(S::N) == count.div_ceil(S::N) {
        return count;
    }
    for p in points {
        let (mut bits, mut moved) = (starts, 0);
        for to in 0..left {
            let from = bits.trailing_zeros() as usize & (MOST - 1);
            bits &= bits.wrapping_sub(1);
            p.packed[to] = p.packed[from];
            moved |= (p.moved >> from & 1) << to;
        }
        p.moved = moved;
    }
    left
}

/// As the twin's search.
#[inline(always)]
fn search<S: Lanes, const D: usize, const N: usize>(
    s: S,
    grid: &Grid<D>,
    sub: &Sub<N>,
    tries: &Tries,
    max: f32,
    fit: &mut Fit<N>,
) {
    let count = 2 * tries.reach as usize + 1;
    let (root, most) = (sub.root.as_chunks::<D>().0, greatest(&sub.x));
    let mut above = sub.x;
    above
        .iter_mut()
        .for_each(|x| *x = if *x > 0.0 { *x } else { 0.0 });
    let small = most * tries.inverse(tries.reach, max) < 1_048_576.0;
    let mut points = [Points {
        packed: [0; ROOM],
        moved: 0,
    }; 8];
    let mut scales = [0.0; ROOM];
    for first in (0..count).step_by(S::N) {
        let at = s.i_from(|lane| lane as i32) + s.i(first as i32 - tries.reach);
        let steps = at.min(s.i(tries.reach)).float() * s.f(tries.step);
        let inverse = (s.f(f32::from(2 * tries.top + 1)) + steps) / s.f(max);
        (s.f(1.0) / inverse).store(&mut scales[first..]);
        for (k, points) in points.iter_mut().enumerate().take(N / D) {
            let packed = if small {
                small_levels(s, &above.as_chunks::<D>().0[k], inverse, tries.top)
            } else {
                levels(s, &sub.x.as_chunks::<D>().0[k], inverse, tries.top)
            };
            packed.store(&mut points.packed[first..]);
        }
    }
    let mut runs = Runs::new();
    let pairs = sub.x.as_chunks::<D>().0.as_chunks::<PAIR>().0.iter();
    for (k, [a, b]) in pairs.enumerate() {
        let k = PAIR * k;
        let lines = [
            Lines::new(s, a, &root[k], most),
            Lines::new(s, b, &root[k + 1], most),
        ];
        let pair = &mut points[k..k + PAIR];
        runs.snap(s, grid, &lines, &scales, (pair, count));
    }
    let count = squeeze(s, &mut points[..N / D], count);
    let [xq, qq] = sums::<S, D, N>(s, sub, &points, count);
    let (mut best, mut found) = (0.0, None);
    for (i, (xq, qq)) in xq.into_iter().zip(qq).enumerate().take(count) {
        if qq > 0.0 && xq * xq > best * qq {
            fit.scale = xq / qq;
            best = fit.scale * xq;
            found = Some(i);
        }
    }
    if let Some(i) = found {
        fit.moved = 0;
        for (k, levels) in fit.levels.as_chunks_mut::<D>().0.iter_mut().enumerate() {
            *levels = Grid::<D>::unpack(points[k].packed[i] as u16);
            fit.moved |= ((points[k].moved >> i & 1) as u8) << k;
        }
    }
}
