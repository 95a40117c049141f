//! What is made of one constant, and the making: linear integers, blocks, or another float type.

use std::ops::Range;

use weighbridge_core::model::{DType, Tensor};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::linear::{self, Line};
use weighbridge_kernels::nbits::{self, Blocks, Matrix, Scale};
use weighbridge_kernels::{Kind, encode_f32};

use super::gguf;
use super::params::{Int, scale_and_zero};
use super::weight::{Part, TILE, Weight, size};
use crate::output::Positioned;
use crate::quantize::measure::Sums;

/// Work on one constant.
pub(super) struct Job {
    /// The constant's name in the input.
    pub(super) name: String,
    /// The constant.
    pub(super) tensor: Tensor,
    /// What it becomes.
    pub(super) to: To,
    /// The rooms of the integers (or floats), the scales and the zero points.
    pub(super) rooms: [Option<usize>; 3],
    /// Bytes that it takes then, scales and zero points included.
    pub(super) after: u64,
    /// The type by which it is reported.
    pub(super) dtype: DType,
    /// The type of scales.
    pub(super) scales: DType,
    /// Biases whose scale is a product with its own.
    pub(super) biases: Vec<Bias>,
}

/// A bias that becomes 32-bit integers in the product of two scales.
pub(super) struct Bias {
    pub(super) tensor: Tensor,
    /// The scale of the other factor.
    pub(super) input: f32,
    /// The same, where it is the other factor's own and the weight's may follow it.
    pub(super) own: Option<f32>,
    pub(super) beta: f32,
    pub(super) rooms: [usize; 3],
}

/// What a constant becomes.
#[derive(Debug, Clone, Copy)]
pub(super) enum To {
    /// Integers on a line through zero.
    Linear(Linear),
    /// Blocks of a matrix.
    Blocks(Grid),
    /// The same values as the job's float type.
    Cast,
    /// Blocks that are there already, in another order; the tensor is that of a GGUF file.
    Repack(u32),
}

/// Integers with one scale, or one for each index of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linear {
    pub(super) int: Int,
    pub(super) symmetric: bool,
    pub(super) reduced: bool,
    pub(super) axis: Option<usize>,
    /// Swap the last two dimensions.
    pub(super) turn: bool,
}

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

/// The axis that stands for the first two together.
pub(super) const FIRST_TWO: usize = usize::MAX;

/// Memory that a worker works in, the same from the first part to the last.
#[derive(Default)]
pub(super) struct Scratch {
    raw: Vec<u8>,
    values: Vec<f32>,
    levels: Vec<u8>,
    out: Vec<u8>,
    back: Vec<f32>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

/// Where the rooms of a job are.
pub(super) struct Places<'a> {
    pub(super) outputs: &'a [Positioned],
    /// File and offset of every room.
    pub(super) rooms: &'a [(usize, u64)],
}

impl Places<'_> {
    fn write(&self, room: Option<usize>, at: u64, bytes: &[u8]) -> Result<()> {
        let Some(room) = room else { return Ok(()) };
        let found = self.rooms.get(room).and_then(|&(file, offset)| {
            let out = self.outputs.get(file)?;
            Some((out, offset.checked_add(at)?))
        });
        match found {
            Some((out, at)) => out.write_at(at, bytes),
            None => Err(Error::parameter("plan.other-model", "a room has no place")),
        }
    }
}

/// The least and greatest value of every channel.
pub(super) type Ranges = (Vec<f32>, Vec<f32>);

impl Job {
    /// Values of the constant.
    pub(super) fn values(&self) -> u64 {
        self.tensor.numel().unwrap_or(0)
    }

    /// Parts that it is done in; the same whatever the number of threads.
    pub(super) fn parts(&self) -> Vec<Part> {
        match &self.to {
            To::Linear(l) if l.turn => self.matrices(),
            To::Linear(Linear { axis: Some(a), .. }) => self.whole_runs(*a),
            To::Linear(_) | To::Cast | To::Repack(_) => runs(self.values(), TILE),
            To::Blocks(g) => rectangles(g),
        }
    }

    /// Whole runs of one index of the axis; rows of all where they are single values.
    fn whole_runs(&self, axis: usize) -> Vec<Part> {
        let inner = self.inner(axis);
        if inner > TILE {
            // Parts within one run.
            let all = runs(self.values(), inner).into_iter();
            let cut = |run: Part| {
                let parts = runs(run.columns, TILE).into_iter();
                parts.map(move |p| Part::run(run.first + p.first, p.columns))
            };
            return all.flat_map(cut).collect();
        }
        let least = if inner == 1 {
            self.channels(axis)
        } else {
            inner
        };
        let step = (TILE / least.max(1)).max(1).saturating_mul(least);
        runs(self.values(), step)
    }

    /// Rows of the matrices of the last two dimensions.
    fn matrices(&self) -> Vec<Part> {
        let dim = |n: usize| self.tensor.shape.iter().rev().nth(n).copied().unwrap_or(1);
        let (rows, columns) = (dim(1), dim(0));
        let step = (TILE / columns.max(1)).clamp(1, rows.max(1));
        let mut out = Vec::new();
        let count = self.values().checked_div(rows.saturating_mul(columns));
        for matrix in 0..count.unwrap_or(0) {
            for row in (0..rows).step_by(step as usize) {
                let first = (matrix * rows + row) * columns;
                out.push(Part::run(first, step.min(rows - row) * columns));
            }
        }
        out
    }

    /// Values behind each other that one index of the axis has.
    fn inner(&self, axis: usize) -> u64 {
        let skip = if axis == FIRST_TWO { 2 } else { axis + 1 };
        self.tensor.shape.iter().skip(skip).product()
    }

    fn channels(&self, axis: usize) -> u64 {
        match axis {
            FIRST_TWO => self.tensor.shape.iter().take(2).product(),
            axis => self.tensor.shape.get(axis).copied().unwrap_or(1),
        }
    }

    /// No values seen yet.
    pub(super) fn no_ranges(&self) -> Result<Ranges> {
        let n = match &self.to {
            To::Linear(Linear { axis: Some(a), .. }) => self.channels(*a),
            _ => 1,
        };
        // Ranges hold zero in any case.
        let n = size(n)?;
        Ok((vec![0.0; n], vec![0.0; n]))
    }

    /// Widens `ranges` by the values of `part`.
    pub(super) fn range(
        &self,
        weight: &Weight<'_>,
        part: Part,
        scratch: &mut Scratch,
        ranges: &mut Ranges,
    ) -> Result<()> {
        weight.read(part, &mut scratch.raw, &mut scratch.values)?;
        weight.finite(part, &scratch.values)?;
        let (least, most) = ranges;
        match &self.to {
            To::Linear(Linear { axis: Some(a), .. }) => match size(self.inner(*a))? {
                1 => linear::range_columns(&scratch.values, least, most),
                inner => {
                    let first = part.first / inner as u64;
                    let mut channel = size(first % least.len().max(1) as u64)?;
                    for run in scratch.values.chunks(inner.max(1)) {
                        widen(run, least.get_mut(channel), most.get_mut(channel));
                        channel = (channel + 1) % least.len().max(1);
                    }
                }
            },
            _ => widen(&scratch.values, least.first_mut(), most.first_mut()),
        }
        Ok(())
    }

    /// How many channels have a scale of their own; none where there is one scale.
    pub(super) fn channel_count(&self) -> Option<u64> {
        match &self.to {
            To::Linear(Linear { axis: Some(a), .. }) => Some(self.channels(*a)),
            _ => None,
        }
    }

    /// Scales and zero points, as they are used; biases are done with them.
    pub(super) fn parameters(
        &self,
        linear: &Linear,
        ranges: &Ranges,
        places: &Places<'_>,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let bounds = linear.int.used(linear.symmetric, linear.reduced);
        let half = self.tensor.dtype == DType::F16;
        let both = ranges.0.iter().zip(&ranges.1);
        let both = both.map(|(&l, &m)| scale_and_zero((l, m), bounds, linear.symmetric, half));
        let (mut scales, zeros): (Vec<f32>, Vec<f32>) = both.unzip();
        let mut biases = Vec::with_capacity(self.biases.len());
        for b in &self.biases {
            let weight = Weight::open(&b.tensor)?;
            let n = b.tensor.numel().unwrap_or(0);
            let (mut raw, mut values) = (Vec::new(), Vec::new());
            weight.read(Part::run(0, n), &mut raw, &mut values)?;
            weight.finite(Part::run(0, n), &values)?;
            if linear.int == Int::I8 && zeros.iter().all(|z| *z == 0.0) {
                b.widen(&values, &mut scales);
            }
            biases.push(values);
        }
        for (b, values) in self.biases.iter().zip(&biases) {
            b.write(values, &scales, places)?;
        }
        Ok((scales, zeros))
    }

    /// Writes scales and zero points.
    pub(super) fn write_parameters(
        &self,
        linear: &Linear,
        (scales, zeros): (&[f32], &[f32]),
        places: &Places<'_>,
    ) -> Result<()> {
        let [_, scale, zero] = self.rooms;
        places.write(scale, 0, &scale_bytes(scales, self.tensor.dtype))?;
        let zeros: Vec<u8> = zeros.iter().map(|&z| z as i32 as u8).collect();
        match linear.int.bits() {
            4 => places.write(zero, 0, &pairs(&zeros)),
            _ => places.write(zero, 0, &zeros),
        }
    }

    /// Makes integers of a part that was read by [`Job::range`] last if `fresh` is not set.
    pub(super) fn quantize(
        &self,
        weight: &Weight<'_>,
        part: Part,
        fresh: bool,
        (scales, zeros): (&[f32], &[f32]),
        run: (&Places<'_>, bool),
        scratch: &mut Scratch,
    ) -> Result<Option<Sums>> {
        let To::Linear(l) = &self.to else {
            return Ok(None);
        };
        if fresh {
            weight.read(part, &mut scratch.raw, &mut scratch.values)?;
        }
        scratch.levels.resize(scratch.values.len(), 0);
        let (low, high) = l.int.bounds();
        let bounds = (low as f32, high as f32);
        let channels = Channels {
            scales,
            zeros,
            inner: match l.axis {
                Some(a) => size(self.inner(a))?,
                None => scratch.values.len().max(1),
            },
            first: part.first,
        };
        channels.quantize(&scratch.values, bounds, &mut scratch.levels);
        let (places, measure) = run;
        self.write_levels(l, part, places, scratch)?;
        if !measure {
            return Ok(None);
        }
        scratch.back.resize(scratch.values.len(), 0.0);
        let signed = l.int.is_signed();
        channels.back(&scratch.levels, signed, &mut scratch.back);
        Ok(Some(Sums::of(&scratch.values, &scratch.back)))
    }

    fn write_levels(
        &self,
        l: &Linear,
        part: Part,
        places: &Places<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let [room, ..] = self.rooms;
        if !l.turn {
            return match l.int.bits() {
                4 => places.write(room, part.first / 2, &pairs(&scratch.levels)),
                _ => places.write(room, part.first, &scratch.levels),
            };
        }
        let dim = |n: usize| self.tensor.shape.iter().rev().nth(n).copied().unwrap_or(1);
        let (rows, columns) = (dim(1), dim(0));
        let matrix = rows.saturating_mul(columns).max(1);
        let (base, row) = (
            part.first / matrix * matrix,
            part.first % matrix / columns.max(1),
        );
        let here = size(part.columns / columns.max(1))?;
        turned(&scratch.levels, here, size(columns)?, &mut scratch.out);
        if here as u64 == rows {
            return places.write(room, base, &scratch.out);
        }
        for (column, bytes) in scratch.out.chunks(here.max(1)).enumerate() {
            places.write(room, base + column as u64 * rows + row, bytes)?;
        }
        Ok(())
    }

    /// Makes another float type of a part; gives how many values went to the greatest.
    pub(super) fn cast(
        &self,
        weight: &Weight<'_>,
        part: Part,
        run: (&Places<'_>, bool),
        scratch: &mut Scratch,
    ) -> Result<(Option<Sums>, u64)> {
        let (places, measure) = run;
        weight.read(part, &mut scratch.raw, &mut scratch.values)?;
        scratch.back.clone_from(&scratch.values);
        let (kind, most) = match self.dtype {
            DType::BF16 => (Kind::BF16, f32::from_bits(0x7f7f_0000)),
            _ => (Kind::F16, 65_504.0),
        };
        // From here on the nearest number is infinite.
        let edge = match kind {
            Kind::BF16 => f32::from_bits(0x7f7f_8000),
            _ => 65_520.0,
        };
        let mut beyond = 0u64;
        for v in &mut scratch.back {
            // Infinities, of masks, stay what they are.
            if v.abs() >= edge && v.is_finite() {
                beyond += 1;
                *v = most.copysign(*v);
            }
        }
        scratch.out.resize(scratch.back.len().saturating_mul(2), 0);
        encode_f32(kind, &scratch.back, &mut scratch.out);
        let [room, ..] = self.rooms;
        places.write(room, part.first.saturating_mul(2), &scratch.out)?;
        if !measure {
            return Ok((None, beyond));
        }
        weighbridge_kernels::decode_f32(kind, &scratch.out, &mut scratch.back);
        Ok((Some(Sums::of(&scratch.values, &scratch.back)), beyond))
    }

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

impl Bias {
    /// Widens the weight's scales where the bias would overflow, as
    /// `_adjust_weight_scale_for_int32_bias` of the reference does.
    fn widen(&self, values: &[f32], scales: &mut [f32]) {
        let Some(input) = self.own else { return };
        let alone = scales.len() == 1;
        let most = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, scale) in scales.iter_mut().enumerate() {
            let far = if alone {
                most
            } else {
                values.get(i).map_or(0.0, |v| v.abs())
            };
            let least = 1.0001 * (2.0 * f64::from(far)) / 4_294_967_294.0;
            let product = f64::from(input) * f64::from(*scale);
            if product > 0.0 && product < least {
                *scale = (f64::from(*scale) * (least / product)) as f32;
            }
        }
    }

    fn write(&self, values: &[f32], scales: &[f32], places: &Places<'_>) -> Result<()> {
        let [q, s, z] = self.rooms;
        let scales: Vec<f32> = scales.iter().map(|w| self.input * w * self.beta).collect();
        let mut integers = Vec::with_capacity(values.len().saturating_mul(4));
        for (i, v) in values.iter().enumerate() {
            let scale = if scales.len() == 1 {
                scales.first()
            } else {
                scales.get(i)
            };
            let scale = f64::from(scale.copied().unwrap_or(1.0));
            let n = (f64::from(*v) / scale).round_ties_even();
            let n = n.clamp(f64::from(i32::MIN), f64::from(i32::MAX));
            integers.extend_from_slice(&(n as i32).to_le_bytes());
        }
        places.write(Some(q), 0, &integers)?;
        places.write(Some(s), 0, &scale_bytes(&scales, DType::F32))?;
        places.write(Some(z), 0, &vec![0; scales.len().saturating_mul(4)])
    }
}

/// Scales and zero points of runs of `inner` values, the first of which is value `first`.
struct Channels<'a> {
    scales: &'a [f32],
    zeros: &'a [f32],
    inner: usize,
    first: u64,
}

impl Channels<'_> {
    fn runs(&self, n: usize) -> impl Iterator<Item = (Range<usize>, f32, f32)> {
        let (inner, channels) = (self.inner.max(1), self.scales.len().max(1));
        let first = (self.first / inner as u64 % channels as u64) as usize;
        (0..n.div_ceil(inner)).map(move |i| {
            let c = (first + i) % channels;
            let scale = self.scales.get(c).copied().unwrap_or(1.0);
            let zero = self.zeros.get(c).copied().unwrap_or(0.0);
            (i * inner..((i + 1) * inner).min(n), scale, zero)
        })
    }

    fn quantize(&self, x: &[f32], bounds: (f32, f32), out: &mut [u8]) {
        if self.inner == 1 {
            return linear::quantize_columns(x, self.scales, self.zeros, bounds, out);
        }
        for (run, scale, zero_point) in self.runs(x.len()) {
            let line = Line {
                scale,
                zero_point,
                low: bounds.0,
                high: bounds.1,
            };
            if let (Some(x), Some(out)) = (x.get(run.clone()), out.get_mut(run)) {
                linear::quantize(x, line, out);
            }
        }
    }

    /// The values that integers stand for.
    fn back(&self, levels: &[u8], signed: bool, out: &mut [f32]) {
        for (run, scale, zero) in self.runs(levels.len()) {
            if let (Some(l), Some(out)) = (levels.get(run.clone()), out.get_mut(run)) {
                for (o, &l) in out.iter_mut().zip(l) {
                    let l = if signed {
                        f32::from(l as i8)
                    } else {
                        f32::from(l)
                    };
                    *o = (l - zero) * scale;
                }
            }
        }
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

fn widen(x: &[f32], least: Option<&mut f32>, most: Option<&mut f32>) {
    if let (Some(l), Some(m)) = (least, most) {
        (*l, *m) = linear::range(x, (*l, *m));
    }
}

fn runs(values: u64, step: u64) -> Vec<Part> {
    let step = step.max(1);
    let count = values.div_ceil(step);
    let run = |i| Part::run(i * step, step.min(values - i * step));
    (0..count).map(run).collect()
}

/// Parts of a matrix of blocks: whole columns where they are short, and everywhere an even number
/// of blocks and columns, so that no byte is shared.
fn rectangles(g: &Grid) -> Vec<Part> {
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

/// Integers two a byte, the first in the low half.
pub(super) fn pairs(levels: &[u8]) -> Vec<u8> {
    let one = |p: &[u8]| {
        let half = |i: usize| p.get(i).copied().unwrap_or(0) & 0xf;
        half(0) | half(1) << 4
    };
    levels.chunks(2).map(one).collect()
}

/// Scales as they are stored.
fn scale_bytes(scales: &[f32], dtype: DType) -> Vec<u8> {
    let (kind, width) = match dtype {
        DType::F16 => (Kind::F16, 2),
        DType::BF16 => (Kind::BF16, 2),
        _ => (Kind::F32, 4),
    };
    let mut out = vec![0; scales.len() * width];
    encode_f32(kind, scales, &mut out);
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

/// As [`flipped`], in squares that stay in the cache.
fn turned(x: &[u8], rows: usize, columns: usize, out: &mut Vec<u8>) {
    const SQUARE: usize = 32;
    out.resize(x.len(), 0);
    for top in (0..rows).step_by(SQUARE) {
        for left in (0..columns).step_by(SQUARE) {
            for c in left..(left + SQUARE).min(columns) {
                for r in top..(top + SQUARE).min(rows) {
                    if let (Some(o), Some(&v)) = (out.get_mut(c * rows + r), x.get(r * columns + c))
                    {
                        *o = v;
                    }
                }
            }
        }
    }
}
