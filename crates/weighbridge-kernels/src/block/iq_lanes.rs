//! The search of IQ2 and IQ3 with a scale to try in each lane.
//!
//! Everything but the scale is the same in all lanes. As the inverse scale rises from lane to lane,
//! so do the levels: lanes with the same levels lie side by side, and the near points are gone
//! through once for each such run, in their order, for all its lanes at a time. The distances are
//! sums of squares that depend on the dimension and the level only, so these are calculated once.

use super::grid::{Grid, Place};
use super::iq::{Fit, Search, Sub, Tries};
use super::lanes::{Float, Int, Lanes, MAGIC, Mask};
use super::search_lanes::positive;

/// The most scales tried, in whole vectors.
const MOST: usize = 32;

/// A group of elements in the lanes of a vector.
struct Group<S: Lanes> {
    /// The levels before they are moved, as digits of a number, and the levels chosen, packed.
    keys: S::I,
    packed: S::I,
}

/// The squares in the distances, by dimension and level.
#[inline(always)]
fn squares<S: Lanes, const D: usize>(
    s: S,
    x: &[f32; D],
    root: &[f32; D],
    scale: S::F,
    top: u8,
    out: &mut [[S::F; 8]; D],
) {
    for level in 0..=top {
        let q = scale * s.f(f32::from(2 * level + 1));
        for d in 0..D {
            let diff = q - s.f(x[d]);
            out[d][usize::from(level)] = s.f(root[d]) * diff * diff;
        }
    }
}

/// The levels of a group at every lane's scale, and which lanes begin a run of equal ones.
#[inline(always)]
fn levels<S: Lanes, const D: usize>(s: S, x: &[f32; D], inverse: S::F, top: u8) -> Group<S> {
    let (half, one, magic) = (s.f(0.5), s.f(1.0), s.f(MAGIC));
    let (zero, most) = (s.i(0), s.i(i32::from(top)));
    let (mut keys, mut packed) = (zero, zero);
    for x in x.iter().rev() {
        let level = (half * (inverse * s.f(*x) - one))
            .nearest(magic)
            .min(most)
            .max(zero);
        if D == 8 {
            keys = keys * s.i(3) + level;
            packed = packed.shl::<2>() | level;
        } else {
            packed = packed.shl::<3>() | level;
        }
    }
    if D != 8 {
        keys = packed;
    }
    Group { keys, packed }
}

/// Moves the levels of a group to points of the grid, and returns the lanes where they had to.
#[inline(always)]
fn snap<S: Lanes, const D: usize>(
    s: S,
    grid: &Grid<D>,
    group: &mut Group<S>,
    squares: &[[S::F; 8]; D],
) -> u32 {
    let mut keys = [0; 16];
    group.keys.store(&mut keys);
    let mut moved = 0;
    let mut lane = 0;
    while lane < S::N {
        let key = keys[lane];
        let run = group.keys.eq(s.i(key));
        if let Place::Near(near) = grid.place_of(key as usize) {
            let mut best = s.f(f32::MAX);
            let mut point = s.i(near.first().map_or(0, |p| i32::from(*p)));
            for candidate in near {
                let q = Grid::<D>::unpack(*candidate);
                let mut distance = squares[0][usize::from(q[0]) & 7];
                for d in 1..D {
                    distance = distance + squares[d][usize::from(q[d]) & 7];
                }
                let nearer = distance.lt(best);
                best = nearer.select(distance, best);
                point = nearer.select_i(s.i(i32::from(*candidate)), point);
            }
            group.packed = run.select_i(point, group.packed);
            moved |= run.bits();
        }
        lane += 1;
        while lane < S::N && keys[lane] == key {
            lane += 1;
        }
    }
    moved
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

/// Moves the levels of eights to points of the grid, one lane after the other, with near points in
/// the lanes; returns the lanes where they had to.
#[inline(always)]
fn snap_each<S: Lanes, const D: usize>(
    s: S,
    grid: &Grid<D>,
    group: &mut Group<S>,
    (x, root): (&[f32; 8], &[f32; 8]),
    scale: S::F,
    count: usize,
) -> u32 {
    let (mut keys, mut packed, mut scales) = ([0; 16], [0; 16], [0.0; 16]);
    group.keys.store(&mut keys);
    group.packed.store(&mut packed);
    scale.store(&mut scales);
    let odd = s.f_from(|lane| f32::from(2 * (lane as u8 & 3) + 1));
    let mut moved = 0;
    for lane in 0..S::N.min(count) {
        let near = grid.padded(keys[lane] as usize);
        if !near.is_empty() {
            let values = s.f(scales[lane]) * odd;
            packed[lane] = i32::from(nearest(s, near, values, x, root));
            moved |= 1 << lane;
        }
    }
    group.packed = s.load_i(&packed);
    moved
}

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
    let odd = s.f_from(|lane| f32::from(2 * (lane as u8 & 3) + 1));
    let mut moved = 0;
    for (k, group) in levels.as_chunks_mut::<D>().0.iter_mut().enumerate() {
        if which >> k & 1 == 0 {
            continue;
        }
        let at = k * D..(k + 1) * D;
        let (x, root) = (&sub.x[at.clone()], &sub.root[at]);
        for (level, x) in group.iter_mut().zip(x) {
            *level = super::iq::level(*x, inverse, top);
        }
        let Place::Near(near) = grid.place(group) else {
            continue;
        };
        let packed = if let (Some(x), Some(root)) = (x.first_chunk(), root.first_chunk::<8>()) {
            let near = grid.padded(Grid::key(group));
            nearest(s, near, s.f(scale) * odd, x, root)
        } else {
            nearest_of_few(near, scale, x, root)
        };
        *group = Grid::<D>::unpack(packed);
        moved |= 1 << k;
    }
    moved
}

/// The near point at the least distance for four octal levels, of which few are near.
#[inline(always)]
fn nearest_of_few(near: &[u16], scale: f32, x: &[f32], root: &[f32]) -> u16 {
    let mut squares = [[0.0; 8]; 4];
    for d in 0..4 {
        for (level, square) in squares[d].iter_mut().enumerate() {
            let diff = scale * (2 * level + 1) as f32 - x[d];
            *square = root[d] * diff * diff;
        }
    }
    let mut best = f32::MAX;
    let mut point = near.first().copied().unwrap_or_default();
    for candidate in near {
        let square = |d: usize| squares[d][usize::from(candidate >> (3 * d) & 7)];
        let distance = square(0) + square(1) + square(2) + square(3);
        if distance < best {
            best = distance;
            point = *candidate;
        }
    }
    point
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
    let (mut xq, mut qq) = ([0.0; MOST], [0.0; MOST]);
    let mut points = [[0i32; MOST]; 8];
    let mut moved = [0u32; 8];
    let (x, root) = (sub.x.as_chunks::<D>().0, sub.root.as_chunks::<D>().0);
    let weight = sub.weight.as_chunks::<D>().0;
    let mut table = [[s.f(0.0); 8]; D];
    for first in (0..count).step_by(S::N) {
        let inverse =
            s.f_from(|lane| tries.inverse((first + lane).min(count - 1) as i32 - tries.reach, max));
        let scale = s.f(1.0) / inverse;
        let (mut sum_xq, mut sum_qq) = (s.f(0.0), s.f(0.0));
        for k in 0..N / D {
            let mut group = levels(s, &x[k], inverse, tries.top);
            let eight = (x[k].first_chunk(), root[k].first_chunk());
            let snapped = if let (Some(x), Some(root)) = eight
                && S::N > 4
            {
                snap_each(s, grid, &mut group, (x, root), scale, count - first)
            } else {
                squares(s, &x[k], &root[k], scale, tries.top, &mut table);
                snap(s, grid, &mut group, &table)
            };
            moved[k] |= snapped << first;
            group.packed.store(&mut points[k][first..]);
            let mut digits = group.packed;
            for d in 0..D {
                let (w, mask) = (weight[k][d], if D == 8 { 3 } else { 7 });
                let level = digits & s.i(mask);
                digits = if D == 8 {
                    digits.shr::<2>()
                } else {
                    digits.shr::<3>()
                };
                let q = (level + level + s.i(1)).float();
                sum_xq = sum_xq + s.f(w * x[k][d]) * q;
                sum_qq = sum_qq + s.f(w) * q * q;
            }
        }
        sum_xq.store(&mut xq[first..]);
        sum_qq.store(&mut qq[first..]);
    }
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
            *levels = Grid::<D>::unpack(points[k][i] as u16);
            fit.moved |= ((moved[k] >> i & 1) as u8) << k;
        }
    }
}
