//! What the K types' fast paths share: super-blocks of 256 values, as many at once as there are
//! lanes, and the results of the searches in their sub-blocks.

use super::lanes::{Float, Int, Lanes, MAGIC, Mask, nearest};
use super::search::{Found, Steps};
use super::search_lanes::{affine, positive, symmetric};

/// Value `i` of sub-block `first + lane` in every lane of element `i`; beyond the last sub-block
/// it is repeated.
#[inline(always)]
pub(super) fn columns<S: Lanes, const LEN: usize>(s: S, x: &[f32], first: usize) -> [S::F; LEN] {
    let subs = x.as_chunks::<LEN>().0;
    let mut out = [s.f(0.0); LEN];
    if LEN < S::N {
        for (i, out) in out.iter_mut().enumerate() {
            *out = s.f_from(|lane| subs[(first + lane).min(subs.len() - 1)][i]);
        }
        return out;
    }
    for (i, out) in out.chunks_exact_mut(S::N).enumerate() {
        for (lane, out) in out.iter_mut().enumerate() {
            let sub = &subs[(first + lane).min(subs.len() - 1)];
            *out = s.load(&sub[S::N * i..]);
        }
        s.turn(out);
    }
    out
}

/// The sum of the squares of each block, in the order of its values.
#[inline(always)]
pub(super) fn squares<S: Lanes>(s: S, x: &[f32]) -> [f32; 16] {
    let mut sum = s.f(0.0);
    for part in 0..16 {
        // The parts of the blocks in columns, each part after the one before it.
        let mut parts = [0.0; 256];
        for (part, x) in parts
            .as_chunks_mut::<16>()
            .0
            .iter_mut()
            .zip(x.chunks(256).map(|x| &x[16 * part..]))
        {
            part.copy_from_slice(&x[..16]);
        }
        let columns: [S::F; 16] = columns(s, &parts, 0);
        for &x in &columns {
            sum = sum + x * x;
        }
    }
    let mut out = [0.0; 16];
    sum.store(&mut out);
    out
}

/// Weights for columns of values from the importance of their columns: `times` the mean of the
/// squares of the block is `sums[block]` / 256.
#[inline(always)]
pub(super) fn weigh<S: Lanes, const LEN: usize, const SUBS: usize>(
    s: S,
    times: f32,
    sums: &[f32; 16],
    first: usize,
    x: &[S::F; LEN],
    importance: &[S::F; LEN],
) -> [S::F; LEN] {
    let sigma2 = s.f_from(|lane| times * sums[((first + lane) / SUBS).min(15)] / 256.0);
    let mut w = *importance;
    for (w, &x) in w.iter_mut().zip(x) {
        *w = *w * (sigma2 + x * x).sqrt();
    }
    w
}

/// Scales and offsets of the sub-blocks of up to sixteen super-blocks.
pub(super) struct Affines {
    scale: [f32; 256],
    min: [f32; 256],
    iscale: [f32; 256],
    from: [f32; 256],
    /// The sums of their weights.
    sum: [f32; 256],
}

impl Affines {
    #[inline(always)]
    fn new() -> Self {
        Self {
            scale: [0.0; 256],
            min: [0.0; 256],
            iscale: [0.0; 256],
            from: [0.0; 256],
            sum: [0.0; 256],
        }
    }

    #[inline(always)]
    fn search<S: Lanes, const LEN: usize>(
        &mut self,
        s: S,
        steps: Steps,
        first: usize,
        x: &[S::F; LEN],
        w: &[S::F; LEN],
    ) {
        let found = affine(s, steps, x, w);
        found.scale.store(&mut self.scale[first..]);
        found.min.store(&mut self.min[first..]);
        found.iscale.store(&mut self.iscale[first..]);
        found.from.store(&mut self.from[first..]);
    }

    /// Weights are the magnitudes, over the root of the mean square where `mean` says so.
    #[inline(always)]
    pub(super) fn plain<S: Lanes, const LEN: usize>(
        s: S,
        steps: Steps,
        x: &[f32],
        mean: bool,
    ) -> Self {
        let mut out = Self::new();
        for first in (0..x.len() / LEN).step_by(S::N) {
            let values: [S::F; LEN] = columns(s, x, first);
            let mut w = values;
            let mut offset = s.f(0.0);
            if mean {
                for &x in &values {
                    offset = offset + x * x;
                }
                offset = (offset / s.f(LEN as f32)).sqrt();
            }
            for w in &mut w {
                *w = offset + w.abs();
            }
            out.search(s, steps, first, &values, &w);
        }
        out
    }

    /// With weights that depend on the importance of columns.
    #[inline(always)]
    pub(super) fn weighted<S: Lanes, const LEN: usize, const SUBS: usize>(
        s: S,
        steps: Steps,
        times: f32,
        x: &[f32],
        importance: &[f32],
    ) -> Self {
        let mut out = Self::new();
        let sums = squares(s, x);
        for first in (0..x.len() / LEN).step_by(S::N) {
            let values = columns(s, x, first);
            let q = columns(s, &importance[..x.len()], first);
            let w = weigh::<S, LEN, SUBS>(s, times, &sums, first, &values, &q);
            let mut sum = s.f(0.0);
            for &w in &w {
                sum = sum + w;
            }
            sum.store(&mut out.sum[first..]);
            out.search(s, steps, first, &values, &w);
        }
        out
    }

    /// The scales of a super-block.
    #[inline(always)]
    pub(super) fn scales<const SUBS: usize>(&self, block: usize) -> &[f32; SUBS] {
        &self.scale.as_chunks().0[block]
    }

    /// The offsets of a super-block.
    #[inline(always)]
    pub(super) fn mins<const SUBS: usize>(&self, block: usize) -> &[f32; SUBS] {
        &self.min.as_chunks().0[block]
    }

    /// What was found for one sub-block.
    #[inline(always)]
    pub(super) fn at(&self, sub: usize) -> Found {
        Found {
            scale: self.scale[sub],
            min: self.min[sub],
            iscale: self.iscale[sub],
            from: self.from[sub],
        }
    }

    /// The scales of the scales and of the offsets, a super-block in every lane.
    #[inline(always)]
    pub(super) fn heads<S: Lanes, const SUBS: usize>(
        &self,
        s: S,
        top: i32,
        blocks: usize,
    ) -> Heads {
        let sums: [S::F; SUBS] = columns(s, &self.sum[..SUBS * blocks], 0);
        let mut heads = Heads {
            d: [0.0; 16],
            min: [0.0; 16],
            scales: [[0; 16]; 16],
            mins: [[0; 16]; 16],
        };
        let (d, levels) = positive(s, top, &columns(s, &self.scale[..SUBS * blocks], 0), &sums);
        d.store(&mut heads.d);
        for (level, out) in levels.iter().zip(&mut heads.scales) {
            level.store(out);
        }
        let (min, levels) = positive(s, top, &columns(s, &self.min[..SUBS * blocks], 0), &sums);
        min.store(&mut heads.min);
        for (level, out) in levels.iter().zip(&mut heads.mins) {
            level.store(out);
        }
        heads
    }
}

/// Scales of scales, by lane.
pub(super) struct Heads {
    d: [f32; 16],
    min: [f32; 16],
    /// Of sub-block, of super-block.
    scales: [[i32; 16]; 16],
    mins: [[i32; 16]; 16],
}

impl Heads {
    /// Those of a super-block: both scales, the scales and the offsets.
    #[inline(always)]
    pub(super) fn of<const SUBS: usize>(&self, block: usize) -> (f32, f32, [u8; SUBS], [u8; SUBS]) {
        (
            self.d[block],
            self.min[block],
            std::array::from_fn(|j| self.scales[j][block] as u8),
            std::array::from_fn(|j| self.mins[j][block] as u8),
        )
    }
}

/// Scales of the sub-blocks of 16 of up to sixteen super-blocks, without offsets.
pub(super) struct Symmetrics {
    pub(super) scale: [f32; 256],
    iscale: [f32; 256],
    /// The sums of their weights.
    sum: [f32; 256],
}

/// The weights of a search without offsets.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// The squares of the values.
    Squares,
    /// The importance of the columns.
    Importance(&'a [f32]),
    /// The importance of the columns and the size of the values.
    Sized(&'a [f32]),
}

impl Symmetrics {
    /// For levels from -`halfway` to `halfway` - 1.
    #[inline(always)]
    pub(super) fn search<S: Lanes>(s: S, halfway: i32, x: &[f32], weights: Weights) -> Self {
        let mut out = Self {
            scale: [0.0; 256],
            iscale: [0.0; 256],
            sum: [0.0; 256],
        };
        let sums = if let Weights::Sized(_) = weights {
            squares(s, x)
        } else {
            [0.0; 16]
        };
        for first in (0..x.len() / 16).step_by(S::N) {
            let values: [S::F; 16] = columns(s, x, first);
            let w = match weights {
                Weights::Squares => {
                    let mut w = values;
                    for w in &mut w {
                        *w = *w * *w;
                    }
                    w
                }
                Weights::Importance(q) => columns(s, &q[..x.len()], first),
                Weights::Sized(q) => {
                    let q = columns(s, &q[..x.len()], first);
                    let w = weigh::<S, 16, 16>(s, 2.0, &sums, first, &values, &q);
                    let mut sum = s.f(0.0);
                    for &w in &w {
                        sum = sum + w;
                    }
                    sum.store(&mut out.sum[first..]);
                    w
                }
            };
            let (scale, iscale, _) = symmetric::<S, 16, true>(s, halfway, &values, &w);
            scale.store(&mut out.scale[first..]);
            iscale.store(&mut out.iscale[first..]);
        }
        out
    }

    /// The scales of a super-block.
    #[inline(always)]
    pub(super) fn scales(&self, block: usize) -> &[f32; 16] {
        &self.scale.as_chunks().0[block]
    }

    /// The level, as it is stored, that the search gave to a value.
    #[inline(always)]
    pub(super) fn level(&self, halfway: i32, sub: usize, x: f32) -> i32 {
        let iscale = self.iscale[sub];
        if iscale == 0.0 {
            return 0;
        }
        nearest(iscale * x).min(halfway - 1).max(-halfway) + halfway
    }

    /// The scales of the scales, and those scales plus `halfway`, a super-block in every lane.
    #[inline(always)]
    pub(super) fn heads<S: Lanes>(&self, s: S, halfway: i32, blocks: usize) -> Heads {
        let sums: [S::F; 16] = columns(s, &self.sum[..16 * blocks], 0);
        let x: [S::F; 16] = columns(s, &self.scale[..16 * blocks], 0);
        let (d, iscale, none) = symmetric::<S, 16, false>(s, halfway, &x, &sums);
        let mut heads = Heads {
            d: [0.0; 16],
            min: [0.0; 16],
            scales: [[0; 16]; 16],
            mins: [[0; 16]; 16],
        };
        d.store(&mut heads.d);
        let magic = s.f(MAGIC);
        let (least, most, shift) = (s.i(-halfway), s.i(halfway - 1), s.i(halfway));
        for (x, out) in x.iter().zip(&mut heads.scales) {
            let level = (iscale * *x).nearest(magic).min(most).max(least) + shift;
            none.select_i(s.i(0), level).store(out);
        }
        heads
    }
}

/// As `refine` of the twins; a scale of zero makes the levels of the search again.
#[inline(always)]
pub(super) fn refine<S: Lanes>(
    s: S,
    x: &[f32],
    d: f32,
    min: f32,
    top: i32,
    levels: &mut [u8],
    found: &Found,
) {
    if d == 0.0 {
        for (x, level) in x.iter().zip(levels) {
            *level = found.level(top, *x) as u8;
        }
        return;
    }
    let (d, min, magic) = (s.f(d), s.f(min), s.f(MAGIC));
    let (zero, top) = (s.i(0), s.i(top));
    for (x, level) in x.chunks_exact(S::N).zip(levels.chunks_exact_mut(S::N)) {
        let nearest = ((s.load(x) + min) / d).nearest(magic);
        nearest.min(top).max(zero).store_bytes(level);
    }
}

/// As `refine_signed` of the twins; false where the scale is zero, which leaves the levels.
#[inline(always)]
pub(super) fn refine_signed<S: Lanes>(
    s: S,
    x: &[f32],
    d: f32,
    halfway: i32,
    levels: &mut [u8],
) -> bool {
    if d == 0.0 {
        return false;
    }
    let (d, magic, shift) = (s.f(d), s.f(MAGIC), s.i(halfway));
    let (least, most) = (s.i(-halfway), s.i(halfway - 1));
    for (x, level) in x.chunks_exact(S::N).zip(levels.chunks_exact_mut(S::N)) {
        let nearest = (s.load(x) / d).nearest(magic);
        (nearest.min(most).max(least) + shift).store_bytes(level);
    }
    true
}
