//! Blocks of 4-bit and 8-bit integers along the first dimension of a matrix, as ONNX Runtime's
//! `MatMulNBits` has them (`onnxruntime/core/mlas/lib/q4_dq.cpp`; operator in
//! `docs/ContribOperators.md`).
//!
//! Rounding to nearest gives the bytes of ONNX Runtime's own quantizer. The search instead tries
//! steps beside the one that the range of a block asks for, takes for each the step that fits its
//! integers best (least squares), and keeps the plain rounding of a block where nothing is better.
//!
//! Columns are read in strips, and worked on eight at a time, a column a lane.

use crate::arch::{Body, wide};
use crate::scalar;

/// Columns that are read together: whole lines of the cache.
const STRIP: usize = 32;

/// Columns that are worked on together.
const LANES: usize = 8;

type Lanes = [f32; LANES];

/// Adding and taking it away rounds to the nearest integer, half to even, where |x| < 2^22.
const MAGIC: f32 = 12_582_912.0;

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

    /// Loads rows `from` and on of the strip that begins with column `first`: a block of every
    /// eight columns.
    #[inline(always)]
    fn load(&self, from: usize, first: usize, rows: usize, into: &mut [Vec<Lanes>]) {
        let width = (self.columns - first).min(STRIP);
        if self.by_column {
            for column in 0..width {
                let start = self.at(from, first + column);
                let values = self.values.get(start..start + rows).unwrap_or_default();
                let Some(block) = into.get_mut(column / LANES) else {
                    return;
                };
                for (row, &v) in block.iter_mut().zip(values) {
                    row[column % LANES] = v;
                }
            }
            return;
        }
        for i in 0..rows {
            let start = self.at(from + i, first);
            let values = self.values.get(start..start + width).unwrap_or_default();
            for (block, values) in into.iter_mut().zip(values.chunks(LANES)) {
                if let Some(row) = block.get_mut(i) {
                    row[..values.len()].copy_from_slice(values);
                }
            }
        }
    }
}

/// What becomes of a matrix: integers, one a byte, and for every column its blocks' scales and zero
/// points behind each other.
#[derive(Debug)]
pub struct Quantized<'a> {
    /// The integers.
    pub levels: &'a mut [u8],
    /// Whether a column's integers lie behind each other.
    pub by_column: bool,
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
        let rows = how.block.min(x.rows);
        let mut strip = vec![vec![[0f32; LANES]; rows]; STRIP / LANES];
        for first in (0..x.columns).step_by(STRIP) {
            for block in 0..blocks {
                let from = block * how.block;
                let rows = (x.rows - from).min(how.block);
                x.load(from, first, rows, &mut strip);
                for (i, values) in strip.iter().enumerate() {
                    let first = first + i * LANES;
                    let values = values.get(..rows).unwrap_or_default();
                    let width = x.columns.saturating_sub(first).min(LANES);
                    if width == 0 {
                        break;
                    }
                    let (scale, zero) = parameters(values, how);
                    for lane in 0..width {
                        let at = (first + lane) * blocks + block;
                        if let Some(s) = out.scales.get_mut(at) {
                            *s = scale[lane];
                        }
                        if let Some(z) = out.zero_points.get_mut(at) {
                            *z = zero[lane] as u8;
                        }
                    }
                    let place = Place {
                        matrix: Matrix {
                            by_column: out.by_column,
                            ..x
                        },
                        from,
                        first,
                        width,
                    };
                    place.put(values, (&scale, &zero), how, out.levels);
                }
            }
        }
    }
}

/// Where a block's integers go.
struct Place<'a> {
    matrix: Matrix<'a>,
    from: usize,
    first: usize,
    width: usize,
}

impl Place<'_> {
    /// Writes the integers of eight columns' block.
    #[inline(always)]
    fn put(&self, values: &[Lanes], (scale, zero): (&Lanes, &Lanes), how: Blocks, out: &mut [u8]) {
        let inverse = inverse(scale);
        for (i, row) in values.iter().enumerate() {
            let row = level(row, &inverse, zero, how);
            let mut bytes = [0u8; LANES];
            for lane in 0..LANES {
                bytes[lane] = (row[lane] + MAGIC).to_bits() as u8;
            }
            if self.matrix.by_column {
                for (lane, &b) in bytes.iter().enumerate().take(self.width) {
                    let at = self.matrix.at(self.from + i, self.first + lane);
                    if let Some(o) = out.get_mut(at) {
                        *o = b;
                    }
                }
            } else {
                let start = self.matrix.at(self.from + i, self.first);
                let out = out.get_mut(start..start + self.width).unwrap_or_default();
                out.iter_mut().zip(bytes).for_each(|(o, b)| *o = b);
            }
        }
    }
}

/// Scales and zero points of eight columns' block.
#[inline(always)]
fn parameters(x: &[Lanes], how: Blocks) -> (Lanes, Lanes) {
    let (mut least, mut most) = ([f32::MAX; LANES], [f32::MIN; LANES]);
    for row in x {
        for lane in 0..LANES {
            let v = row[lane];
            least[lane] = if v < least[lane] { v } else { least[lane] };
            most[lane] = if v > most[lane] { v } else { most[lane] };
        }
    }
    let (mut scale, mut zero) = ([0f32; LANES], [how.half(); LANES]);
    for lane in 0..LANES {
        let (low, high) = (least[lane], most[lane]);
        if how.symmetric {
            let far = if high.abs() > low.abs() { high } else { low };
            scale[lane] = how.stored(-far / how.half());
            continue;
        }
        let (low, high) = (low.min(0.0), high.max(0.0));
        let step = (high - low) / how.most();
        let at = if step != 0.0 { 0.0 - low / step } else { low };
        zero[lane] = cut(at.clamp(0.0, how.most()) + BELOW_HALF);
        scale[lane] = how.stored(step);
    }
    if how.search {
        search(x, how, &mut scale, &mut zero);
    }
    (scale, zero)
}

/// The greatest number below 0.5: with it, cutting off rounds halves away from zero.
const BELOW_HALF: f32 = 0.499_999_97;

/// The integer part of what is not negative and below 2^22.
#[inline(always)]
fn cut(x: f32) -> f32 {
    let near = (x + MAGIC) - MAGIC;
    if near > x { near - 1.0 } else { near }
}

#[inline(always)]
fn inverse(scale: &Lanes) -> Lanes {
    let mut out = [0f32; LANES];
    for lane in 0..LANES {
        let s = scale[lane];
        out[lane] = if s != 0.0 { 1.0 / s } else { 0.0 };
    }
    out
}

/// The integers of a row, as floats.
#[inline(always)]
fn level(x: &Lanes, inverse: &Lanes, zero: &Lanes, how: Blocks) -> Lanes {
    let most = how.most();
    let mut out = [0f32; LANES];
    if how.round_first {
        for lane in 0..LANES {
            let v = x[lane] * inverse[lane];
            let v = cut(v.abs() + BELOW_HALF).copysign(v) + zero[lane];
            let v = if v < 0.0 { 0.0 } else { v };
            out[lane] = if v > most { most } else { v };
        }
        return out;
    }
    for lane in 0..LANES {
        // Negative ones are cut to zero, so that only one side of zero is rounded.
        let v = x[lane] * inverse[lane] + zero[lane];
        let v = if v < 0.0 { 0.0 } else { v };
        let v = if v > most { most } else { v };
        out[lane] = cut(v + BELOW_HALF);
    }
    out
}

/// Steps that are tried, as parts of the one that the range asks for: with its zero point, with
/// those beside it, and of eight bits, where little is won.
const STEPS: [f32; 8] = [0.74, 0.80, 0.85, 0.89, 0.93, 0.96, 1.0, 1.05];
const BESIDE: [f32; 4] = [0.82, 0.89, 0.95, 1.0];
const EIGHT: [f32; 3] = [0.98, 0.99, 1.0];

/// Squares of what a block loses.
#[inline(always)]
fn loss(x: &[Lanes], scale: &Lanes, zero: &Lanes, how: Blocks) -> Lanes {
    let inverse = inverse(scale);
    let mut out = [0f32; LANES];
    for row in x {
        let l = level(row, &inverse, zero, how);
        for lane in 0..LANES {
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
    let (mut product, mut square) = ([0f32; LANES], [0f32; LANES]);
    let most = how.most();
    for row in x {
        for lane in 0..LANES {
            // Ties may go either way here.
            let l = row[lane] * inverse[lane] + zero[lane];
            let l = if l < 0.0 { 0.0 } else { l };
            let l = if l > most { most } else { l };
            let n = (l + MAGIC) - MAGIC - zero[lane];
            product[lane] += row[lane] * n;
            square[lane] += n * n;
        }
    }
    (product, square)
}

#[inline(always)]
fn search(x: &[Lanes], how: Blocks, scale: &mut Lanes, zero: &mut Lanes) {
    let (mut best, mut step, mut at) = ([0f32; LANES], *scale, *zero);
    let turns: &[f32] = match (how.symmetric, how.bits) {
        (false, 4) => &[0.0, -1.0, 1.0],
        // The other end of the range may be the one that is met.
        (true, 4) => &[0.0, 8.0],
        _ => &[0.0],
    };
    for &turn in turns {
        let mut zeros = *zero;
        let mut sign = 1.0;
        for lane in 0..LANES {
            match how.symmetric {
                true => sign = if turn == 0.0 { 1.0 } else { -8.0 / 7.0 },
                false => zeros[lane] = (zero[lane] + turn).clamp(0.0, how.most()),
            }
        }
        let steps: &[f32] = match (how.bits, turn == 0.0) {
            (4, true) => &STEPS,
            (4, false) => &BESIDE,
            _ => &EIGHT,
        };
        for part in steps {
            let mut tried = [0f32; LANES];
            for lane in 0..LANES {
                tried[lane] = scale[lane] * part * sign;
            }
            let (product, square) = fit(x, &inverse(&tried), &zeros, how);
            for lane in 0..LANES {
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
    for lane in 0..LANES {
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
            by_column: x.by_column,
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
