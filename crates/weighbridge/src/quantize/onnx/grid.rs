//! Blocks of a matrix: as `MatMulNBits` has them, as `DequantizeLinear` has them, and taken over
//! from a GGUF file.

use weighbridge_core::model::DType;
use weighbridge_core::{Error, Result};
use weighbridge_kernels::nbits::{self, Blocks, Matrix, Scale};

use super::gguf;
use super::job::{Job, Places, Scratch, To, pairs, scale_bytes};
use super::weight::{Part, TILE, Weight, size};
use crate::quantize::measure::Sums;

/// Blocks of a matrix of `k` rows, along which they lie, and `n` columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) how: Blocks,
    pub(super) k: u64,
    pub(super) n: u64,
    /// The constant is stored with its columns as rows.
    pub(super) turned: bool,
    /// As `DequantizeLinear` takes them, in the constant's own order; else as `MatMulNBits`.
    pub(super) standard: bool,
    /// Integers are written less their middle.
    pub(super) signed: bool,
}

impl Grid {
    /// Blocks of a column.
    pub(super) fn blocks(&self) -> u64 {
        self.k.div_ceil((self.how.block as u64).max(1))
    }

    /// Whether a column's integers are made one behind the other.
    fn by_column(&self) -> bool {
        self.turned || !self.standard
    }

    /// Bytes of a block in `MatMulNBits`.
    pub(super) fn blob(&self) -> u64 {
        (self.how.block as u64).saturating_mul(u64::from(self.how.bits)) / 8
    }

    /// Bytes of a column's zero points in `MatMulNBits`.
    pub(super) fn zeros(&self) -> u64 {
        self.blocks()
            .saturating_mul(u64::from(self.how.bits))
            .div_ceil(8)
    }
}

impl Job {
    /// Puts the blocks of a part in another order.
    pub(super) fn repack(
        &self,
        weight: &Weight<'_>,
        part: Part,
        bits: u32,
        places: &Places<'_>,
        s: &mut Scratch,
    ) -> Result<()> {
        let first = part.first / gguf::BLOCK as u64;
        let blocks = part.columns / gguf::BLOCK as u64;
        weight.stored(first, blocks, gguf::stored(bits) as u64, &mut s.raw)?;
        s.out.clear();
        s.scales.clear();
        gguf::unpack(bits, &s.raw, &mut s.out, &mut s.scales);
        let [q, scale, _] = self.rooms;
        let blob = gguf::BLOCK as u64 * u64::from(bits) / 8;
        places.write(q, first * blob, &s.out)?;
        let bytes = scale_bytes(&s.scales, self.scales);
        let width = self.scales.bytes().unwrap_or(4);
        places.write(scale, first * width, &bytes)
    }

    /// Makes blocks of a part.
    pub(super) fn blocks(
        &self,
        weight: &Weight<'_>,
        part: Part,
        run: (&Places<'_>, bool),
        s: &mut Scratch,
    ) -> Result<Option<Sums>> {
        let To::Blocks(grid) = &self.to else {
            return Ok(None);
        };
        weight.read(part, &mut s.raw, &mut s.values)?;
        weight.finite(part, &s.values)?;
        let (across, down) = (size(part.columns)?, size(part.rows)?);
        let (rows, columns) = if grid.turned {
            (across, down)
        } else {
            (down, across)
        };
        let blocks = rows.div_ceil(grid.how.block.max(1));
        s.levels.resize(s.values.len(), 0);
        s.scales.resize(blocks.saturating_mul(columns), 0.0);
        s.zeros.resize(blocks.saturating_mul(columns), 0);
        let x = Matrix {
            values: &s.values,
            rows,
            columns,
            by_column: grid.turned,
        };
        let out = nbits::Quantized {
            levels: &mut s.levels,
            by_column: grid.by_column(),
            scales: &mut s.scales,
            zero_points: &mut s.zeros,
        };
        if !nbits::quantize(x, grid.how, out) {
            let message = "the matrix does not have the size that was planned";
            return Err(Error::parameter("plan.other-model", message));
        }
        let (places, measure) = run;
        let tile = Tile {
            job: self,
            grid,
            rows,
            columns,
            blocks,
            part,
        };
        match grid.standard {
            true => tile.write_standard(places, s)?,
            false => tile.write_nbits(places, s)?,
        }
        if !measure {
            return Ok(None);
        }
        s.back.resize(s.values.len(), 0.0);
        tile.back(s);
        Ok(Some(Sums::of(&s.values, &s.back)))
    }
}

/// A part of a matrix of blocks that has been done.
struct Tile<'a> {
    job: &'a Job,
    grid: &'a Grid,
    rows: usize,
    columns: usize,
    blocks: usize,
    part: Part,
}

impl Tile<'_> {
    /// Row and column of the whole matrix at which it begins.
    fn corner(&self) -> (u64, u64) {
        let (row, column) = match self.grid.turned {
            true => (self.grid.k, 1),
            false => (self.grid.n, 0),
        };
        let (major, minor) = (self.part.first / row.max(1), self.part.first % row.max(1));
        if column == 1 {
            (minor, major)
        } else {
            (major, minor)
        }
    }

    /// As `MatMulNBits` has it: column by column, blocks behind each other.
    fn write_nbits(&self, places: &Places<'_>, s: &mut Scratch) -> Result<()> {
        let [q, scale, zero] = self.job.rooms;
        let (row, column) = self.corner();
        let (g, block) = (self.grid, self.grid.how.block.max(1));
        let first = row / block as u64;
        let column_bytes = g.blocks().saturating_mul(g.blob());
        // Integers: a column's are `blocks` blobs.
        let packed = self.blocks.saturating_mul(size(g.blob())?);
        s.out.clear();
        s.out.resize(packed.saturating_mul(self.columns), 0);
        self.pack(&s.levels, packed, &mut s.out);
        let whole = self.blocks as u64 == g.blocks();
        each(whole, packed, &s.out, |c, bytes| {
            let at = (column + c) * column_bytes + first * g.blob();
            places.write(q, at, bytes)
        })?;
        let dtype = self.job.tensor.dtype;
        let bytes = scale_bytes(&s.scales, dtype);
        let width = bytes.len() / s.scales.len().max(1);
        each(whole, self.blocks * width, &bytes, |c, bytes| {
            let at = (column + c) * g.blocks() + first;
            places.write(scale, at * width as u64, bytes)
        })?;
        if zero.is_none() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for zeros in s.zeros.chunks(self.blocks.max(1)) {
            match g.how.bits {
                4 => {
                    bytes.extend(pairs(zeros));
                    // The half that belongs to no block is a middle too.
                    if let (1, Some(last)) = (zeros.len() % 2, bytes.last_mut()) {
                        *last |= 0x80;
                    }
                }
                _ => bytes.extend_from_slice(zeros),
            }
        }
        let per = bytes.len() / self.columns.max(1);
        each(whole, per, &bytes, |c, bytes| {
            let at = first * u64::from(g.how.bits) / 8;
            places.write(zero, (column + c) * g.zeros() + at, bytes)
        })
    }

    /// Packs columns of integers into `per` bytes each.
    fn pack(&self, levels: &[u8], per: usize, out: &mut [u8]) {
        let columns = levels.chunks_exact(self.rows.max(1));
        for (out, column) in out.chunks_exact_mut(per.max(1)).zip(columns) {
            match self.grid.how.bits {
                4 => {
                    let (whole, last) = column.as_chunks::<2>();
                    out.iter_mut()
                        .zip(whole)
                        .for_each(|(o, [a, b])| *o = a | b << 4);
                    if let (Some(o), Some(&l)) = (out.get_mut(whole.len()), last.first()) {
                        *o = l;
                    }
                }
                _ => out.iter_mut().zip(column).for_each(|(o, &l)| *o = l),
            }
        }
    }

    /// As `DequantizeLinear` has it: everything in the order of the constant.
    fn write_standard(&self, places: &Places<'_>, s: &mut Scratch) -> Result<()> {
        let [q, scale, zero] = self.job.rooms;
        let g = self.grid;
        let middle = 1u8 << (g.how.bits.clamp(1, 8) - 1);
        let (middle, mask) = if g.signed {
            (middle, mask(g))
        } else {
            (0, 0xff)
        };
        let packed = |levels: &[u8]| {
            let levels: Vec<u8> = levels.iter().map(|l| (l ^ middle) & mask).collect();
            match g.how.bits {
                4 => pairs(&levels),
                _ => levels,
            }
        };
        let bit = |n: u64| n.saturating_mul(u64::from(g.how.bits)) / 8;
        let across = size(self.part.columns)?.max(1);
        if self.part.columns == self.part.stride || self.part.rows == 1 {
            places.write(q, bit(self.part.first), &packed(&s.levels))?;
        } else {
            for (i, row) in s.levels.chunks(across).enumerate() {
                let at = self.part.first + i as u64 * self.part.stride;
                places.write(q, bit(at), &packed(row))?;
            }
        }
        // Scales have the constant's shape, with a block where it has its values.
        let (row, column) = self.corner();
        let first = row / (g.how.block.max(1) as u64);
        let (scales, zeros, across, at, stride) = if g.turned {
            let at = column * g.blocks() + first;
            (
                s.scales.clone(),
                s.zeros.clone(),
                self.blocks,
                at,
                g.blocks(),
            )
        } else {
            let scales = flipped(&s.scales, self.columns, self.blocks);
            let zeros = flipped(&s.zeros, self.columns, self.blocks);
            (scales, zeros, self.columns, first * g.n + column, g.n)
        };
        let dtype = self.job.tensor.dtype;
        let together = across as u64 == stride;
        let rows = if together { scales.len() } else { across };
        let both = scales.chunks(rows.max(1)).zip(zeros.chunks(rows.max(1)));
        for (i, (scales, zeros)) in both.enumerate() {
            let at = at + i as u64 * stride;
            let bytes = scale_bytes(scales, dtype);
            let width = (bytes.len() / scales.len().max(1)) as u64;
            places.write(scale, at * width, &bytes)?;
            places.write(zero, bit(at), &packed(zeros))?;
        }
        Ok(())
    }

    /// The values that the blocks stand for.
    fn back(&self, s: &mut Scratch) {
        let across = (self.part.columns as usize).max(1);
        let by_column = self.grid.by_column();
        for (i, o) in s.back.iter_mut().enumerate() {
            let (a, b) = (i / across, i % across);
            let (k, n) = if self.grid.turned { (b, a) } else { (a, b) };
            let level = match by_column {
                true => s.levels.get(n * self.rows + k),
                false => s.levels.get(i),
            };
            let at = n * self.blocks + k / self.grid.how.block.max(1);
            let scale = s.scales.get(at).copied().unwrap_or(0.0);
            let zero = s.zeros.get(at).copied().unwrap_or(0);
            let level = level.copied().unwrap_or(0);
            *o = (i32::from(level) - i32::from(zero)) as f32 * scale;
        }
    }
}

/// The bits of an integer of a grid.
fn mask(g: &Grid) -> u8 {
    if g.how.bits == 4 { 0xf } else { 0xff }
}

/// Writes `bytes` at once where they are `whole`, else `per` at a time, told their number.
fn each(
    whole: bool,
    per: usize,
    bytes: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    if whole {
        return write(0, bytes);
    }
    for (c, bytes) in bytes.chunks(per.max(1)).enumerate() {
        write(c as u64, bytes)?;
    }
    Ok(())
}

/// Parts of a matrix of blocks: whole columns where they are short, and everywhere an even number
/// of blocks and columns, so that no byte is shared.
pub(super) fn rectangles(g: &Grid) -> Vec<Part> {
    let (across, down) = if g.turned { (g.k, g.n) } else { (g.n, g.k) };
    let pair = 2 * g.how.block.max(1) as u64;
    let even = |n: u64| (n / 2 * 2).max(2);
    let (mut wide, mut high) = (across, down);
    if g.turned {
        high = even(TILE / across.max(1)).min(down);
    } else if across.saturating_mul(down) > TILE {
        let least = if g.standard && across % 2 == 1 {
            across
        } else {
            1024
        };
        wide = even(TILE / down.max(1)).max(least).min(across);
        high = (TILE / wide.max(1) / pair * pair).max(pair).min(down);
    }
    let mut out = Vec::new();
    for row in (0..down).step_by((high as usize).max(1)) {
        for column in (0..across).step_by((wide as usize).max(1)) {
            out.push(Part {
                first: row * across + column,
                rows: high.min(down - row),
                columns: wide.min(across - column),
                stride: across,
            });
        }
    }
    out
}

/// What scales are stored as, as the kernels see it.
pub(super) fn scale_kind(dtype: DType) -> Scale {
    match dtype {
        DType::F16 => Scale::F16,
        _ => Scale::F32,
    }
}

/// `rows` rows of `columns` as columns.
fn flipped<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len());
    for c in 0..columns {
        out.extend(x.iter().skip(c).step_by(columns.max(1)).take(rows).copied());
    }
    out
}
