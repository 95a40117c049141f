//! Grids expanded for use: a vector of levels to its code, and to the points near it where it is
//! none. Expanding the largest takes a few milliseconds, once.

use std::sync::OnceLock;

use super::grid_tables as tables;

/// A grid of vectors of `D` levels: eight ternary ones for IQ1 and IQ2, four octal ones for IQ3.
pub(super) struct Grid<const D: usize> {
    /// The levels of each code.
    pub(super) points: Vec<[u8; D]>,
    slots: Vec<Slot>,
    near: Vec<u16>,
}

/// Lists begin at multiples of it and are filled up with their last point: whole vectors.
const PAD: usize = 16;

/// The number that four packed ternary digits stand for.
static TERNARY: [u8; 256] = {
    let mut out = [0; 256];
    let mut packed = 0;
    while packed < 256 {
        let [a, b, c, d] = [packed & 3, packed >> 2 & 3, packed >> 4 & 3, packed >> 6];
        out[packed] = (a + 3 * b + 9 * c + 27 * d) as u8;
        packed += 1;
    }
    out
};

/// What is known of a vector of levels.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Where its list begins, and how long it is: empty for a point of the grid.
    start: u32,
    len: u16,
    /// The code of a point of the grid.
    code: u16,
}

/// What a vector of levels is.
pub(super) enum Place<'a> {
    /// A point of the grid.
    Point,
    /// None; these are the points near it, packed, in the order in which they are to be tried.
    Near(&'a [u16]),
}

impl<const D: usize> Grid<D> {
    const RADIX: usize = if D == 8 { 3 } else { 8 };
    const BITS: usize = if D == 8 { 2 } else { 3 };
    const SIZE: usize = Self::RADIX.pow(D as u32);

    /// The number that the levels are the digits of, first digit lowest.
    #[inline(always)]
    pub(super) fn key(levels: &[u8; D]) -> usize {
        let key = |l: &[u8]| {
            l.iter()
                .rev()
                .fold(0, |k, l| k * Self::RADIX + usize::from(*l))
        };
        key(levels)
    }

    /// The levels of a packed point.
    #[inline(always)]
    pub(super) fn unpack(packed: u16) -> [u8; D] {
        std::array::from_fn(|i| (packed >> (Self::BITS * i)) as u8 & ((1 << Self::BITS) - 1))
    }

    fn pack(levels: &[u8; D]) -> u16 {
        let pack = |p: u16, l: &u8| p << Self::BITS | u16::from(*l);
        levels.iter().rev().fold(0, pack)
    }

    /// The point or the points near it.
    #[inline(always)]
    pub(super) fn place(&self, levels: &[u8; D]) -> Place<'_> {
        self.place_of(Self::key(levels))
    }

    /// The near points of a number that is none, filled up to whole vectors, and how many there are.
    #[inline(always)]
    pub(super) fn near(&self, key: usize) -> (&[u16], usize) {
        let slot = self.slots.get(key).copied().unwrap_or_default();
        let (start, len) = (slot.start as usize, usize::from(slot.len));
        let padded = self.near.get(start..start + len.next_multiple_of(PAD));
        (padded.unwrap_or_default(), len)
    }

    /// The number that packed levels are the digits of.
    #[inline(always)]
    pub(super) fn key_of(packed: u16) -> usize {
        if D == 8 {
            let [low, high] = packed.to_le_bytes();
            TERNARY[usize::from(low)] as usize + 81 * TERNARY[usize::from(high)] as usize
        } else {
            usize::from(packed)
        }
    }

    /// As `place`, of the number that the levels are the digits of.
    #[inline(always)]
    pub(super) fn place_of(&self, key: usize) -> Place<'_> {
        let slot = self.slots.get(key).copied().unwrap_or_default();
        if slot.len == 0 {
            return Place::Point;
        }
        let start = slot.start as usize;
        let near = self.near.get(start..start + usize::from(slot.len));
        Place::Near(near.unwrap_or_default())
    }

    /// The code of levels that are a point; 0 where they are none.
    #[inline(always)]
    pub(super) fn code(&self, levels: &[u8; D]) -> u16 {
        self.slots.get(Self::key(levels)).map_or(0, |s| s.code)
    }

    /// The levels of a code, of the first one where there is no such code.
    #[inline(always)]
    pub(super) fn levels(&self, code: u16) -> &[u8; D] {
        self.points.get(usize::from(code)).unwrap_or(&[0; D])
    }

    /// Expands a set of points. A vector that is none of them gets those at the `wanted` smallest
    /// distances that occur: by distance, then by code.
    fn new(set: &[u64], wanted: usize) -> Self {
        let is_point = |key: usize| set[key / 64] >> (key % 64) & 1 != 0;
        let points: Vec<[u8; D]> = (0..Self::SIZE)
            .filter(|key| is_point(*key))
            .map(Self::digits)
            .collect();
        let squares = Self::squares(&points);
        let (mut slots, mut near) = (Vec::with_capacity(Self::SIZE), Vec::new());
        let mut code = 0;
        let mut distance = vec![0u8; points.len()];
        for key in 0..Self::SIZE {
            let mut slot = Slot {
                start: near.len() as u32,
                len: 0,
                code: 0,
            };
            if is_point(key) {
                slot.code = code;
                code += 1;
            } else {
                distance.fill(0);
                for (squares, level) in squares.iter().zip(Self::digits(key)) {
                    let squares = &squares[usize::from(level)];
                    distance.iter_mut().zip(squares).for_each(|(d, s)| *d += s);
                }
                push_nearest(&distance, wanted, |j| near.push(Self::pack(&points[j])));
                slot.len = (near.len() - slot.start as usize) as u16;
                let last = near.last().copied().unwrap_or_default();
                near.resize(near.len().next_multiple_of(PAD), last);
            }
            slots.push(slot);
        }
        Self {
            points,
            slots,
            near,
        }
    }

    fn digits(key: usize) -> [u8; D] {
        std::array::from_fn(|i| (key / Self::RADIX.pow(i as u32) % Self::RADIX) as u8)
    }

    /// For each dimension and level, the squared distance of each point in that dimension.
    fn squares(points: &[[u8; D]]) -> [Vec<Vec<u8>>; D] {
        std::array::from_fn(|d| {
            let of = |level: usize| {
                points
                    .iter()
                    .map(move |p| p[d].abs_diff(level as u8).pow(2))
            };
            (0..Self::RADIX).map(|level| of(level).collect()).collect()
        })
    }
}

/// Hands over the indices at the `wanted` smallest distances, nearest first.
fn push_nearest(distance: &[u8], wanted: usize, mut push: impl FnMut(usize)) {
    let mut levels = Vec::with_capacity(wanted);
    let mut least = 0u8;
    for _ in 0..wanted {
        let m = distance
            .iter()
            .map(|d| if *d < least { u8::MAX } else { *d })
            .min();
        let Some(m) = m.filter(|m| *m < u8::MAX) else {
            break;
        };
        levels.push((m, Vec::new()));
        least = m + 1;
    }
    for (j, d) in distance.iter().enumerate() {
        if *d < least
            && let Some((_, list)) = levels.iter_mut().find(|(l, _)| l == d)
        {
            list.push(j);
        }
    }
    levels
        .iter()
        .flat_map(|(_, list)| list)
        .for_each(|j| push(*j));
}

macro_rules! grid {
    ($name:ident, $dimensions:literal, $table:ident, $wanted:literal) => {
        pub(super) fn $name() -> &'static Grid<$dimensions> {
            static GRID: OnceLock<Grid<$dimensions>> = OnceLock::new();
            GRID.get_or_init(|| Grid::new(&tables::$table, $wanted))
        }
    };
}

grid!(iq2_xxs, 8, IQ2_XXS, 2);
grid!(iq2_xs, 8, IQ2_XS, 2);
grid!(iq2_s, 8, IQ2_S, 1);
grid!(iq1, 8, IQ1, 3);
grid!(iq3_xxs, 4, IQ3_XXS, 2);
grid!(iq3_s, 4, IQ3_S, 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_their_sizes() {
        let stats = |name: &str, lens: Vec<usize>, points: usize| {
            let total: usize = lens.iter().sum();
            let max = lens.iter().max().unwrap();
            println!(
                "{name} {points} lists {} mean {} max {max}",
                lens.len(),
                total / lens.len()
            );
        };
        for (name, g, n) in [
            ("iq2_xxs", iq2_xxs(), 256),
            ("iq2_xs", iq2_xs(), 512),
            ("iq2_s", iq2_s(), 1024),
            ("iq1", iq1(), 2048),
        ] {
            assert_eq!(g.points.len(), n);
            let lens = g
                .slots
                .iter()
                .map(|s| usize::from(s.len))
                .filter(|l| *l > 0)
                .collect();
            stats(name, lens, n);
        }
        for (name, g, n) in [("iq3_xxs", iq3_xxs(), 256), ("iq3_s", iq3_s(), 512)] {
            assert_eq!(g.points.len(), n);
            let lens = g
                .slots
                .iter()
                .map(|s| usize::from(s.len))
                .filter(|l| *l > 0)
                .collect();
            stats(name, lens, n);
        }
    }
}
