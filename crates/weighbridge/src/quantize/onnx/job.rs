//! What is made of one constant, and the making of linear integers and other float types; blocks
//! are in [`super::grid`].

use std::ops::Range;

use weighbridge_core::model::{DType, Tensor};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::linear::{self, Line};
use weighbridge_kernels::{Kind, encode_f32};

use super::bias::Bias;
use super::grid::{Grid, rectangles};
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

/// The axis that stands for the first two together.
pub(super) const FIRST_TWO: usize = usize::MAX;

/// Memory that a worker works in, the same from the first part to the last.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) raw: Vec<u8>,
    pub(super) values: Vec<f32>,
    pub(super) levels: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) back: Vec<f32>,
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<u8>,
}

/// Where the rooms of a job are.
pub(super) struct Places<'a> {
    pub(super) outputs: &'a [Positioned],
    /// File and offset of every room.
    pub(super) rooms: &'a [(usize, u64)],
}

impl Places<'_> {
    pub(super) fn write(&self, room: Option<usize>, at: u64, bytes: &[u8]) -> Result<()> {
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

/// Integers two a byte, the first in the low half.
pub(super) fn pairs(levels: &[u8]) -> Vec<u8> {
    let one = |p: &[u8]| {
        let half = |i: usize| p.get(i).copied().unwrap_or(0) & 0xf;
        half(0) | half(1) << 4
    };
    levels.chunks(2).map(one).collect()
}

/// Scales as they are stored.
pub(super) fn scale_bytes(scales: &[f32], dtype: DType) -> Vec<u8> {
    let (kind, width) = match dtype {
        DType::F16 => (Kind::F16, 2),
        DType::BF16 => (Kind::BF16, 2),
        _ => (Kind::F32, 4),
    };
    let mut out = vec![0; scales.len() * width];
    encode_f32(kind, scales, &mut out);
    out
}

/// `rows` rows of `columns` as columns, in squares that stay in the cache.
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
