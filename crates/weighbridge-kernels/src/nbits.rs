//! Blocks of 4-bit and 8-bit integers along the first dimension of a matrix, as ONNX Runtime's
//! `MatMulNBits` has them (`onnxruntime/core/mlas/lib/q4_dq.cpp`; operator in
//! `docs/ContribOperators.md`).
//!
//! Rounding to nearest gives the bytes of ONNX Runtime's own quantizer. The search instead tries
//! steps beside the one that the range of a block asks for, takes for each the step that fits its
//! integers best (least squares), and keeps the plain rounding of a block where nothing is better.
//!
//! Work is done in strips of [`STRIP`] columns, a column a lane.

use crate::arch::{Body, wide};
use crate::scalar;

/// Columns that are worked on together.
pub const STRIP: usize = 32;

type Lanes = [f32; STRIP];

/// How scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Binary32.
    F32,
    /// Binary16.
    F16,
}

/// How blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Bits of an integer: 4 or 8.
    pub bits: u32,
    /// Values in a block.
    pub block: usize,
    /// Zero is the middle integer; else each block has its own zero point.
    pub symmetric: bool,
    /// Look for the step with the smallest error.
    pub search: bool,
    /// How scales are stored.
    pub scale: Scale,
    /// Round before the zero point is added, as the quantizer for `DequantizeLinear` does
    /// (`BlockwiseQDQQuantizer`); it differs in ties only.
    pub round_first: bool,
}

impl Blocks {
    /// The greatest integer.
    fn most(&self) -> f32 {
        ((1u32 << self.bits.min(8)) - 1) as f32
    }

    /// The middle integer.
    fn half(&self) -> f32 {
        (1u32 << (self.bits.clamp(1, 8) - 1)) as f32
    }

    fn stored(&self, scale: f32) -> f32 {
        match self.scale {
            Scale::F32 => scale,
            Scale::F16 => scalar::f16_to_f32(scalar::f32_to_f16(scale)),
        }
    }
}

/// A part of a matrix of `rows` and `columns`, blocks along the rows.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The values, row by row, or column by column.
    pub values: &'a [f32],
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Whether a column's values lie behind each other.
    pub by_column: bool,
}

impl Matrix<'_> {
    fn at(&self, row: usize, column: usize) -> usize {
        match self.by_column {
            true => column * self.rows + row,
            false => row * self.columns + column,
        }
    }

    /// Loads rows `from` and on of the strip that begins with column `first`.
    #[inline(always)]
    fn load(&self, from: usize, first: usize, into: &mut [Lanes]) {
        let width = (self.columns - first).min(STRIP);
        if self.by_column {
            for lane in 0..width {
                let start = self.at(from, first + lane);
                let column = self.values.get(start..).unwrap_or_default();
                for (row, &v) in into.iter_mut().zip(column) {
                    row[lane] = v;
                }
            }
            return;
        }
        for (i, row) in into.iter_mut().enumerate() {
            let start = self.at(from + i, first);
            let values = self.values.get(start..start + width).unwrap_or_default();
            row[..values.len()].copy_from_slice(values);
        }
    }
}

/// What becomes of a matrix: integers in the layout of the values, one a byte, and for every
/// column its blocks' scales and zero points behind each other.
#[derive(Debug)]
pub struct Quantized<'a> {
    /// The integers.
    pub levels: &'a mut [u8],
    /// The scales.
    pub scales: &'a mut [f32],
    /// The zero points.
    pub zero_points: &'a mut [u8],
}

/// Quantizes `x`; slices of `out` must have as many elements as they are said to, else nothing is
/// done and `false` given.
pub fn quantize(x: Matrix<'_>, how: Blocks, out: Quantized<'_>) -> bool {
    let Some(blocks) = x.rows.checked_add(how.block.wrapping_sub(1)) else {
        return false;
    };
    let Some(blocks) = blocks.checked_div(how.block) else {
        return false;
    };
    let total = x.rows.checked_mul(x.columns);
    let meta = blocks.checked_mul(x.columns);
    let fits = total == Some(x.values.len())
        && total == Some(out.levels.len())
        && meta == Some(out.scales.len())
        && meta == Some(out.zero_points.len());
    if fits {
        wide(Whole {
            x,
            how,
            out,
            blocks,
        });
    }
    fits
}

struct Whole<'a> {
    x: Matrix<'a>,
    how: Blocks,
    out: Quantized<'a>,
    blocks: usize,
}

impl Body for Whole<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self {
            x,
            how,
            out,
            blocks,
        } = self;
        let mut values = vec![[0f32; STRIP]; how.block.min(x.rows)];
        for first in (0..x.columns).step_by(STRIP) {
            for block in 0..blocks {
                let from = block * how.block;
                let n = (x.rows - from).min(how.block);
                let values = values.get_mut(..n).unwrap_or_default();
                x.load(from, first, values);
                let (scale, zero) = parameters(values, how);
                for lane in 0..(x.columns - first).min(STRIP) {
                    let at = (first + lane) * blocks + block;
                    if let Some(s) = out.scales.get_mut(at) {
                        *s = scale[lane];
                    }
                    if let Some(z) = out.zero_points.get_mut(at) {
                        *z = zero[lane] as u8;
                    }
                }
                put(&x, values, (from, first), (&scale, &zero), how, out.levels);
            }
        }
    }
}

/// Writes the integers of a strip's block.
#[inline(always)]
fn put(
    x: &Matrix<'_>,
    values: &[Lanes],
    (from, first): (usize, usize),
    (scale, zero): (&Lanes, &Lanes),
    how: Blocks,
    levels: &mut [u8],
) {
    let inverse = inverse(scale);
    let width = (x.columns - first).min(STRIP);
    for (i, row) in values.iter().enumerate() {
        let row = level(row, &inverse, zero, how);
        if x.by_column {
            for (lane, &l) in row.iter().enumerate().take(width) {
                let at = x.at(from + i, first + lane);
                if let Some(o) = levels.get_mut(at) {
                    *o = l as u8;
                }
            }
            continue;
        }
        let start = x.at(from + i, first);
        let out = levels.get_mut(start..start + width).unwrap_or_default();
        for (o, &l) in out.iter_mut().zip(&row) {
            *o = l as i32 as u8;
        }
    }
}

/// Scales and zero points of a strip's block.
#[inline(always)]
fn parameters(x: &[Lanes], how: Blocks) -> (Lanes, Lanes) {
    let (mut least, mut most) = ([f32::MAX; STRIP], [f32::MIN; STRIP]);
    for row in x {
        for lane in 0..STRIP {
            let v = row[lane];
            least[lane] = if v < least[lane] { v } else { least[lane] };
            most[lane] = if v > most[lane] { v } else { most[lane] };
        }
    }
    let (mut scale, mut zero) = ([0f32; STRIP], [how.half(); STRIP]);
    for lane in 0..STRIP {
        let (low, high) = (least[lane], most[lane]);
        if how.symmetric {
            let far = if high.abs() > low.abs() { high } else { low };
            scale[lane] = how.stored(-far / how.half());
            continue;
        }
        let (low, high) = (low.min(0.0), high.max(0.0));
        let step = (high - low) / how.most();
        let at = if step != 0.0 { 0.0 - low / step } else { low };
        zero[lane] = (at.clamp(0.0, how.most()) + BELOW_HALF).trunc();
        scale[lane] = how.stored(step);
    }
    if how.search {
        search(x, how, &mut scale, &mut zero);
    }
    (scale, zero)
}

/// The greatest number below 0.5: with it, cutting off rounds halves away from zero.
const BELOW_HALF: f32 = 0.499_999_97;

#[inline(always)]
fn inverse(scale: &Lanes) -> Lanes {
    let mut out = [0f32; STRIP];
    for lane in 0..STRIP {
        let s = scale[lane];
        out[lane] = if s != 0.0 { 1.0 / s } else { 0.0 };
    }
    out
}

/// The integers of a row, as floats.
#[inline(always)]
fn level(x: &Lanes, inverse: &Lanes, zero: &Lanes, how: Blocks) -> Lanes {
    let most = how.most();
    let mut out = [0f32; STRIP];
    if how.round_first {
        for lane in 0..STRIP {
            let v = x[lane] * inverse[lane];
            let v = (v + BELOW_HALF.copysign(v)) as i32 as f32 + zero[lane];
            let v = if v < 0.0 { 0.0 } else { v };
            out[lane] = if v > most { most } else { v };
        }
        return out;
    }
    for lane in 0..STRIP {
        // Negative ones are cut to zero, so that only one side of zero is rounded.
        let v = x[lane] * inverse[lane] + zero[lane];
        let v = if v < 0.0 { 0.0 } else { v };
        let v = if v > most { most } else { v };
        out[lane] = (v + BELOW_HALF) as i32 as f32;
    }
    out
}

/// Steps that are tried, as parts of the one that the range asks for.
const STEPS: [f32; 9] = [0.72, 0.78, 0.83, 0.87, 0.91, 0.94, 0.97, 1.0, 1.06];

/// Squares of what a strip's block loses.
#[inline(always)]
fn loss(x: &[Lanes], scale: &Lanes, zero: &Lanes, how: Blocks) -> Lanes {
    let inverse = inverse(scale);
    let mut out = [0f32; STRIP];
    for row in x {
        let l = level(row, &inverse, zero, how);
        for lane in 0..STRIP {
            let e = row[lane] - (l[lane] - zero[lane]) * scale[lane];
            out[lane] += e * e;
        }
    }
    out
}

/// Sums over a block for the step that fits its integers best: of value times integer, and of
/// squared integers.
#[inline(always)]
fn fit(x: &[Lanes], inverse: &Lanes, zero: &Lanes, how: Blocks) -> (Lanes, Lanes) {
    let (mut product, mut square) = ([0f32; STRIP], [0f32; STRIP]);
    for row in x {
        let l = level(row, inverse, zero, how);
        for lane in 0..STRIP {
            let n = l[lane] - zero[lane];
            product[lane] += row[lane] * n;
            square[lane] += n * n;
        }
    }
    (product, square)
}

#[inline(always)]
fn search(x: &[Lanes], how: Blocks, scale: &mut Lanes, zero: &mut Lanes) {
    let (mut best, mut step, mut at) = ([0f32; STRIP], *scale, *zero);
    let turns: &[f32] = match (how.symmetric, how.bits) {
        (false, 4) => &[0.0, -1.0, 1.0],
        // The other end of the range may be the one that is met.
        (true, 4) => &[0.0, 8.0],
        _ => &[0.0],
    };
    for &turn in turns {
        let mut zeros = *zero;
        let mut sign = 1.0;
        for lane in 0..STRIP {
            match how.symmetric {
                true => sign = if turn == 0.0 { 1.0 } else { -8.0 / 7.0 },
                false => zeros[lane] = (zero[lane] + turn).clamp(0.0, how.most()),
            }
        }
        for part in STEPS {
            let mut tried = [0f32; STRIP];
            for lane in 0..STRIP {
                tried[lane] = scale[lane] * part * sign;
            }
            let (product, square) = fit(x, &inverse(&tried), &zeros, how);
            for lane in 0..STRIP {
                let (p, q) = (product[lane], square[lane]);
                // The error is the sum of squares of the values less this.
                let gain = if q > 0.0 { p * p / q } else { 0.0 };
                if gain > best[lane] {
                    best[lane] = gain;
                    step[lane] = p / q;
                    at[lane] = zeros[lane];
                }
            }
        }
    }
    for s in &mut step {
        *s = how.stored(*s);
    }
    let (plain, found) = (loss(x, scale, zero, how), loss(x, &step, &at, how));
    for lane in 0..STRIP {
        if found[lane] < plain[lane] && step[lane].is_finite() {
            scale[lane] = step[lane];
            zero[lane] = at[lane];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        let mut state = 11u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (next() + next() + next()) * 0.7).collect()
    }

    struct Owned {
        levels: Vec<u8>,
        scales: Vec<f32>,
        zero_points: Vec<u8>,
    }

    fn run(x: Matrix<'_>, how: Blocks, plain: bool) -> Owned {
        let blocks = x.rows.div_ceil(how.block);
        let mut out = Owned {
            levels: vec![0xee; x.values.len()],
            scales: vec![0.0; blocks * x.columns],
            zero_points: vec![0; blocks * x.columns],
        };
        let to = Quantized {
            levels: &mut out.levels,
            scales: &mut out.scales,
            zero_points: &mut out.zero_points,
        };
        if plain {
            let body = Whole {
                x,
                how,
                out: to,
                blocks,
            };
            body.run();
        } else {
            assert!(quantize(x, how, to));
        }
        out
    }

    /// Column by column, with the standard library's rounding.
    fn twin(x: Matrix<'_>, how: Blocks) -> Owned {
        let blocks = x.rows.div_ceil(how.block);
        let mut out = Owned {
            levels: vec![0; x.values.len()],
            scales: Vec::new(),
            zero_points: Vec::new(),
        };
        for c in 0..x.columns {
            for b in 0..blocks {
                let rows = b * how.block..((b + 1) * how.block).min(x.rows);
                let block: Vec<f32> = rows.clone().map(|r| x.values[x.at(r, c)]).collect();
                let low = block.iter().copied().fold(f32::MAX, f32::min);
                let high = block.iter().copied().fold(f32::MIN, f32::max);
                let (scale, zero) = if how.symmetric {
                    let far = if high.abs() > low.abs() { high } else { low };
                    (-far / how.half(), how.half())
                } else {
                    let (low, high) = (low.min(0.0), high.max(0.0));
                    let s = (high - low) / how.most();
                    let z = if s == 0.0 {
                        0.0
                    } else {
                        (0.0 - low / s).round()
                    };
                    (s, z.clamp(0.0, how.most()))
                };
                let scale = how.stored(scale);
                let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                for (v, r) in block.iter().zip(rows) {
                    let l = match how.round_first {
                        true => (v * inverse).round() + zero,
                        false => (v * inverse + zero).round(),
                    };
                    out.levels[x.at(r, c)] = l.clamp(0.0, how.most()) as u8;
                }
                out.scales.push(scale);
                out.zero_points.push(zero as u8);
            }
        }
        out
    }

    fn every(f: &mut dyn FnMut(Matrix<'_>, Blocks)) {
        let mut x = values(77 * 45);
        // A block of zeros.
        x[..45 * 16].fill(0.0);
        for case in 0..64 {
            let bit = |n: u32| case >> n & 1 == 1;
            let how = Blocks {
                bits: if bit(0) { 4 } else { 8 },
                block: if bit(1) { 16 } else { 32 },
                symmetric: bit(2),
                search: false,
                scale: if bit(3) { Scale::F16 } else { Scale::F32 },
                round_first: bit(4),
            };
            let m = Matrix {
                values: &x,
                rows: 77,
                columns: 45,
                by_column: bit(5),
            };
            f(m, how);
        }
    }

    #[test]
    fn rounding_is_that_of_the_twin() {
        every(&mut |m, how| {
            let (got, want) = (run(m, how, false), twin(m, how));
            assert_eq!(got.zero_points, want.zero_points, "{how:?}");
            assert_eq!(got.scales, want.scales, "{how:?}");
            assert!(got.levels == want.levels, "{how:?} {}", m.by_column);
        });
    }

    #[test]
    fn vectors_change_nothing() {
        every(&mut |m, how| {
            let how = Blocks {
                search: true,
                ..how
            };
            let (a, b) = (run(m, how, false), run(m, how, true));
            assert_eq!(a.scales, b.scales);
            assert!(a.levels == b.levels && a.zero_points == b.zero_points);
        });
    }

    #[test]
    fn the_search_never_loses_and_mostly_wins() {
        every(&mut |m, how| {
            let error = |o: &Owned| -> Vec<f64> {
                let blocks = m.rows.div_ceil(how.block);
                let mut sums = vec![0f64; blocks * m.columns];
                for c in 0..m.columns {
                    for r in 0..m.rows {
                        let at = c * blocks + r / how.block;
                        let level = f64::from(o.levels[m.at(r, c)]);
                        let y = (level - f64::from(o.zero_points[at])) * f64::from(o.scales[at]);
                        sums[at] += (f64::from(m.values[m.at(r, c)]) - y).powi(2);
                    }
                }
                sums
            };
            let plain = error(&run(m, how, false));
            let how = Blocks {
                search: true,
                ..how
            };
            let found = error(&run(m, how, false));
            for (p, f) in plain.iter().zip(&found) {
                assert!(*f <= *p * 1.000_01 + 1e-12, "{how:?}: {f} {p}");
            }
            let (p, f): (f64, f64) = (plain.iter().sum(), found.iter().sum());
            if how.bits == 4 {
                assert!(f < p * 0.93, "{how:?}: {f} of {p}");
            }
        });
    }
}
