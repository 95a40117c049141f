//! The search of IQ2 and IQ3 with a scale to try in each lane.
//!
//! Everything but the scale is the same in all lanes. As the inverse scale rises from lane to lane,
//! so do the levels: tries with the same levels lie side by side, and the near points are gone
//! through once for each such run. Tries that come to the same points have the same sums, which are
//! taken once.

use super::grid::Grid;
use super::iq::{Fit, Search, Sub, Tries};
use super::lanes::{Float, Int, Lanes, MAGIC, Mask};
use super::near_lanes::{Lines, Short};
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
        let mut short = Short::new();
        let points = lines.shortlist(s, padded, len, (scale, scale), &mut short);
        let point = match points {
            [only] => *only,
            _ => {
                let mut first = [0; 16];
                lines.nearest(s, points, s.f(scale)).store(&mut first);
                first[0] as u16
            }
        };
        *group = Grid::<D>::unpack(point);
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

/// Moves the levels of a group to points of the grid.
#[inline(always)]
fn snap<S: Lanes, const D: usize>(
    s: S,
    grid: &Grid<D>,
    lines: &Lines<'_, D>,
    scales: &[f32; ROOM],
    count: usize,
    points: &mut Points,
) {
    let mut starts = changes(s, &points.packed, count) | 1;
    let lanes = s.i_from(|lane| lane as i32);
    while starts != 0 {
        let start = starts.trailing_zeros() as usize;
        starts &= starts - 1;
        let end = count.min(starts.trailing_zeros() as usize);
        let key = Grid::<D>::key_of(points.packed[start] as u16);
        let (padded, len) = grid.near(key);
        if len == 0 {
            continue;
        }
        points.moved |= (1 << end) - (1 << start);
        let mut short = Short::new();
        // Scales fall.
        let ends = (scales[end - 1], scales[start]);
        let near = lines.shortlist(s, padded, len, ends, &mut short);
        for first in (start..end).step_by(S::N) {
            let point = match near {
                [only] => s.i(i32::from(*only)),
                _ => lines.nearest(s, near, s.load(&scales[first..])),
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
        for k in 0..N / D {
            let mut digits = s.load_i(&points[k].packed[first..]);
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
        for k in 0..N / D {
            let packed = if small {
                small_levels(s, &above.as_chunks::<D>().0[k], inverse, tries.top)
            } else {
                levels(s, &sub.x.as_chunks::<D>().0[k], inverse, tries.top)
            };
            packed.store(&mut points[k].packed[first..]);
        }
    }
    for (k, x) in sub.x.as_chunks::<D>().0.iter().enumerate() {
        let lines = Lines::new(s, x, &root[k], most);
        snap(s, grid, &lines, &scales, count, &mut points[k]);
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
