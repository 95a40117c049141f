//! What a worker does with a piece of a tensor.

use weighbridge_core::model::DType;
use weighbridge_core::{Error, Result};
use weighbridge_kernels::block::{BlockType, dequantize_row, quantize_row};
use weighbridge_kernels::{Kind, decode_f32, encode_f32};

use super::measure::Sums;
use super::pipeline::{Run, Task, What};
use super::plan::Item;
use crate::convert::blocks::block_of;
use crate::convert::kind_of;
use crate::output::Positioned;
use crate::parallel::pieces::{Piece, bytes_of};

/// A worker with its buffers, which are the same from the first piece to the last.
pub(super) struct Worker<'a> {
    run: &'a Run<'a>,
    bytes: Vec<u8>,
    values: Vec<f32>,
    out: Vec<u8>,
    back: Vec<f32>,
}

/// What became of a piece of work.
pub(super) struct Did {
    pub(super) item: usize,
    /// Bytes read.
    pub(super) read: u64,
    /// What was lost, where that is measured.
    pub(super) sums: Option<Sums>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(run: &'a Run<'a>) -> Self {
        Self {
            run,
            bytes: Vec::new(),
            values: Vec::new(),
            out: Vec::new(),
            back: Vec::new(),
        }
    }

    /// Does one piece.
    pub(super) fn work(&mut self, task: &Task) -> Result<Did> {
        let gone = || Error::parameter("plan.other-model", "the work is of another plan");
        let item = self.run.items.get(task.item).ok_or_else(gone)?;
        let out = self.run.outputs.get(item.file).ok_or_else(gone)?;
        let (read, sums) = match &task.what {
            What::Copy {
                source,
                at,
                first,
                len,
            } => {
                let to = item.at.saturating_add(*first);
                out.copy_at(to, source.as_ref(), *at..at.saturating_add(*len))?;
                (*len, None)
            }
            What::Values { piece, weights } => {
                let weights = weights.as_ref().map(|w| w.as_slice());
                let sums = self.values(item, piece, weights, out)?;
                (bytes_of(item.from.dtype, piece.values as u64)?, sums)
            }
        };
        let item = task.item;
        Ok(Did { item, read, sums })
    }

    /// Writes some values; gives, where wanted, what was lost.
    fn values(
        &mut self,
        item: &Item,
        piece: &Piece,
        weights: Option<&[f32]>,
        out: &Positioned,
    ) -> Result<Option<Sums>> {
        let from = item.from.dtype;
        let at = item.at.saturating_add(bytes_of(item.to, piece.first)?);
        let bytes = piece.bytes(from, &mut self.bytes)?;
        if item.as_is() {
            out.write_at(at, bytes)?;
            return Ok(None);
        }
        self.values.resize(piece.values, 0.0);
        let n = wide(from, bytes, &mut self.values);
        full(from, n, piece.values)?;
        check_finite(item, piece, bytes, &self.values)?;
        let measure = self.run.measure;
        if item.to == from {
            out.write_at(at, bytes)?;
            return Ok(measure.then(|| Sums::of(&self.values, &self.values)));
        }
        self.narrow(item, piece, weights)?;
        out.write_at(at, &self.out)?;
        if !measure {
            return Ok(None);
        }
        self.widen_back(item)?;
        Ok(Some(Sums::of(&self.values, &self.back)))
    }

    /// What was written, as F32 again.
    fn widen_back(&mut self, item: &Item) -> Result<()> {
        self.back.resize(self.values.len(), 0.0);
        let n = wide(item.to, &self.out, &mut self.back);
        full(item.to, n, self.back.len())
    }

    fn narrow(&mut self, item: &Item, piece: &Piece, weights: Option<&[f32]>) -> Result<()> {
        let len = bytes_of(item.to, piece.values as u64)?;
        self.out
            .resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let Some(block) = block_of(item.to) else {
            let kind = kind_of(item.to).unwrap_or(Kind::F32);
            let n = encode_f32(kind, &self.values, &mut self.out);
            full(item.to, n, piece.values)?;
            return match kind {
                // From here on halves round to infinity.
                Kind::F16 => check_range(item, piece, 65_520.0, &self.values),
                _ => Ok(()),
            };
        };
        if !scales(block).is_empty() {
            check_range(item, piece, MOST, &self.values)?;
        }
        let done = match weights {
            None => quantize_row(block, &self.values, None, &mut self.out),
            Some(weights) => self.weighted(item, piece, block, weights),
        };
        if done != self.out.len() {
            let message = format!("quantizing to {} gave {done} bytes", item.to);
            return Err(Error::unsupported("quantize.type", message));
        }
        check_scales(item, piece, block, &self.out)
    }

    /// Row by row, each expert with its own weights.
    fn weighted(&mut self, item: &Item, piece: &Piece, block: BlockType, weights: &[f32]) -> usize {
        let columns = item.columns();
        let mut dims = item.from.shape.iter().rev().skip(1);
        let rows = dims.next().copied().unwrap_or(1).max(1);
        let experts = (weights.len() / columns).max(1) as u64;
        let first = piece.first / columns as u64;
        let size = columns / block.block() * block.bytes();
        let mut done = 0;
        let pairs = self
            .values
            .chunks(columns)
            .zip(self.out.chunks_mut(size.max(1)));
        for (i, (row, out)) in pairs.enumerate() {
            let expert = (first + i as u64) / rows % experts;
            let from = usize::try_from(expert).unwrap_or(0).saturating_mul(columns);
            let weights = weights.get(from..from.saturating_add(columns));
            if weights.is_none() {
                return 0;
            }
            done += quantize_row(block, row, weights, out);
        }
        done
    }
}

fn wide(dtype: DType, bytes: &[u8], values: &mut [f32]) -> usize {
    match (block_of(dtype), kind_of(dtype)) {
        (Some(block), _) => dequantize_row(block, bytes, values),
        (None, Some(kind)) => decode_f32(kind, bytes, values),
        _ => 0,
    }
}

fn full(dtype: DType, n: usize, want: usize) -> Result<()> {
    if n == want {
        return Ok(());
    }
    let message = format!("{n} of {want} values of {dtype} could be converted");
    Err(Error::unsupported("quantize.type", message))
}

/// Where in the tensor value number `i` of the piece is.
fn place(item: &Item, piece: &Piece, i: usize) -> String {
    let index = piece.first.saturating_add(i as u64);
    let mut rest = index;
    let mut at: Vec<String> = Vec::new();
    for d in item.from.shape.iter().rev() {
        at.push((rest % (*d).max(1)).to_string());
        rest /= (*d).max(1);
    }
    at.reverse();
    format!("value {index} (at [{}])", at.join(", "))
}

/// Refuses what is no finite number: what quantizers make of it is not defined.
fn check_finite(item: &Item, piece: &Piece, bytes: &[u8], values: &[f32]) -> Result<()> {
    const EXPONENT: u32 = 0x7f80_0000;
    let odd = |x: &f32| x.to_bits() & EXPONENT == EXPONENT;
    // Without a branch in the loop, which is over before the values leave the cache.
    if !values.iter().fold(false, |any, x| any | odd(x)) {
        return Ok(());
    }
    if item.from.dtype == DType::F64 && only_large(bytes) {
        // As it is, it stays.
        return match item.to {
            DType::F64 => Ok(()),
            _ => check_range(item, piece, f32::INFINITY, values),
        };
    }
    let i = values.iter().position(odd).unwrap_or(0);
    let x = values.get(i).copied().unwrap_or_default();
    let x = if x.is_nan() {
        "NaN".to_owned()
    } else {
        x.to_string()
    };
    let message = format!("{} is {x}", place(item, piece, i));
    let e = Error::malformed("quantize.not-finite", message);
    Err(e.help("the model is damaged or was trained to overflow; `inspect --stats` counts them"))
}

/// Whether doubles are finite all, though as singles they are not.
fn only_large(bytes: &[u8]) -> bool {
    let (doubles, _) = bytes.as_chunks::<8>();
    doubles.iter().all(|b| f64::from_le_bytes(*b).is_finite())
}

/// No type with half-precision scales holds a value like this: Q6_K reaches furthest. Sums over
/// larger ones overflow, and some quantizers make zeros of what does.
const MOST: f32 = 65_520.0 * 128.0 * 32.0;

/// Refuses values of `least` and beyond.
fn check_range(item: &Item, piece: &Piece, least: f32, values: &[f32]) -> Result<()> {
    let beyond = |x: &f32| x.abs() >= least;
    if !values.iter().fold(false, |any, x| any | beyond(x)) {
        return Ok(());
    }
    let i = values.iter().position(beyond).unwrap_or(0);
    let x = values.get(i).copied().unwrap_or_default();
    let message = format!("{} is {x}, beyond {}", place(item, piece, i), item.to);
    Err(Error::lossy("quantize.range", message).help("give the tensor BF16 or F32"))
}

/// Where the half-precision scales of a block are.
fn scales(block: BlockType) -> &'static [usize] {
    use BlockType as B;
    match block {
        B::Q4_1 | B::Q5_1 | B::Q4_K | B::Q5_K => &[0, 2],
        B::Q2_K => &[80, 82],
        B::Q3_K => &[108],
        B::Q6_K => &[208],
        B::TQ1_0 => &[52],
        B::TQ2_0 => &[64],
        B::MXFP4 | B::NVFP4 | B::Q8_K => &[],
        // Spread over four numbers: see `check_scales`.
        B::IQ1_M => &[48],
        _ => &[0],
    }
}

/// Refuses blocks whose scales overflowed: they would read as no numbers.
fn check_scales(item: &Item, piece: &Piece, block: BlockType, out: &[u8]) -> Result<()> {
    const EXPONENT: u16 = 0x7c00;
    let odd = |b: &[u8]| {
        let half = |at: usize| {
            let two = b.get(at..).and_then(|b| b.first_chunk::<2>());
            two.is_some_and(|b| u16::from_le_bytes(*b) & EXPONENT == EXPONENT)
        };
        match block {
            BlockType::MXFP4 => b.first() == Some(&0xff),
            BlockType::IQ1_M => {
                // Its scale is spread over the upper halves of four numbers.
                let top = b.get(55).map_or(0, |b| *b & 0xf0);
                let next = b.get(53).map_or(0, |b| *b & 0xf0);
                let bits = u16::from(top) << 8 | u16::from(next) << 4;
                bits & EXPONENT == EXPONENT
            }
            _ => scales(block).iter().any(|at| half(*at)),
        }
    };
    match out.chunks_exact(block.bytes()).position(odd) {
        None => Ok(()),
        Some(i) => {
            let at = place(item, piece, i * block.block());
            let message = format!("the scale of the block of {at} is beyond {}", item.to);
            Err(Error::lossy("quantize.range", message)
                .help("give the tensor a wide type with --tensor-type NAME=BF16"))
        }
    }
}
