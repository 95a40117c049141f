//! What a worker does with a piece of a tensor.

use weighbridge_core::model::DType;
use weighbridge_core::{Error, Result};
use weighbridge_kernels::block::{BlockType, dequantize_row, quantize_row};
use weighbridge_kernels::{Kind, decode_f32, encode_f32};

use super::measure::Sums;
use super::pipeline::{From, Run, Task, bytes_of};
use super::plan::Item;
use crate::convert::blocks::block_of;
use crate::convert::kind_of;
use crate::output::Positioned;

/// A worker with its buffers, which are the same from the first piece to the last.
pub(super) struct Worker<'a> {
    run: &'a Run<'a>,
    bytes: Vec<u8>,
    values: Vec<f32>,
    out: Vec<u8>,
    back: Vec<f32>,
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

    /// Does one piece; gives the bytes read and, where wanted, what was lost.
    pub(super) fn work(&mut self, task: &Task) -> Result<(u64, Option<Sums>)> {
        let gone = || Error::parameter("plan.other-model", "the work is of another plan");
        let run = self.run;
        let item = run.items.get(task.item).ok_or_else(gone)?;
        let out = run.outputs.get(item.file).ok_or_else(gone)?;
        let start = item.at;
        if let From::Copy { source, at, len } = &task.from {
            out.copy_at(
                start + task.first,
                source.as_ref(),
                *at..at.saturating_add(*len),
            )?;
            return Ok((*len, None));
        }
        let len = bytes_of(item.from.dtype, task.values as u64)?;
        self.read(task, len)?;
        let at = start.saturating_add(bytes_of(item.to, task.first)?);
        if item.as_is() {
            out.write_at(at, self.input(task))?;
            return Ok((len, None));
        }
        self.widen(item, task)?;
        check_finite(item, task, &self.values)?;
        if item.to == item.from.dtype {
            out.write_at(at, self.input(task))?;
            let sums = run.measure.then(|| Sums::of(&self.values, &self.values));
            return Ok((len, sums));
        }
        self.narrow(item, task)?;
        self.place(out, at)?;
        let sums = if run.measure {
            self.widen_back(item)?;
            Some(Sums::of(&self.values, &self.back))
        } else {
            None
        };
        Ok((len, sums))
    }

    fn input<'t>(&'t self, task: &'t Task) -> &'t [u8] {
        match &task.from {
            From::Bytes(bytes) => bytes,
            _ => &self.bytes,
        }
    }

    fn read(&mut self, task: &Task, len: u64) -> Result<()> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match &task.from {
            From::Source { source, at, swap } => {
                self.bytes.resize(len, 0);
                source.read_at(*at, &mut self.bytes)?;
                if *swap > 1 {
                    for element in self.bytes.chunks_exact_mut(*swap) {
                        element.reverse();
                    }
                }
                Ok(())
            }
            From::Bytes(bytes) if bytes.len() == len => Ok(()),
            From::Bytes(bytes) => {
                let message = format!("{} bytes came instead of {len}", bytes.len());
                Err(Error::malformed("tensor.wrong-length", message))
            }
            From::Copy { .. } => Ok(()),
        }
    }

    /// The values as F32.
    fn widen(&mut self, item: &Item, task: &Task) -> Result<()> {
        let mut values = std::mem::take(&mut self.values);
        values.resize(task.values, 0.0);
        let n = wide(item.from.dtype, self.input(task), &mut values);
        self.values = values;
        full(item.from.dtype, n, task.values)
    }

    /// What was written, as F32 again.
    fn widen_back(&mut self, item: &Item) -> Result<()> {
        self.back.resize(self.values.len(), 0.0);
        let n = wide(item.to, &self.out, &mut self.back);
        full(item.to, n, self.back.len())
    }

    fn narrow(&mut self, item: &Item, task: &Task) -> Result<()> {
        let len = bytes_of(item.to, task.values as u64)?;
        self.out
            .resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let Some(block) = block_of(item.to) else {
            let kind = kind_of(item.to).unwrap_or(Kind::F32);
            let n = encode_f32(kind, &self.values, &mut self.out);
            full(item.to, n, task.values)?;
            return match kind {
                // From here on halves round to infinity.
                Kind::F16 => check_range(item, task, 65_520.0, &self.values),
                _ => Ok(()),
            };
        };
        if !scales(block).is_empty() {
            check_range(item, task, MOST, &self.values)?;
        }
        let done = match &task.weights {
            None => quantize_row(block, &self.values, None, &mut self.out),
            Some(weights) => self.weighted(item, task, block, weights),
        };
        if done != self.out.len() {
            let message = format!("quantizing to {} gave {done} bytes", item.to);
            return Err(Error::unsupported("quantize.type", message));
        }
        check_scales(item, task, block, &self.out)
    }

    /// Row by row, each expert with its own weights.
    fn weighted(&mut self, item: &Item, task: &Task, block: BlockType, weights: &[f32]) -> usize {
        let columns = item.columns();
        let mut dims = item.from.shape.iter().rev().skip(1);
        let rows = dims.next().copied().unwrap_or(1).max(1);
        let experts = (weights.len() / columns).max(1) as u64;
        let first = task.first / columns as u64;
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

    fn place(&self, out: &Positioned, at: u64) -> Result<()> {
        out.write_at(at, &self.out)
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
fn place(item: &Item, task: &Task, i: usize) -> String {
    let index = task.first.saturating_add(i as u64);
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
fn check_finite(item: &Item, task: &Task, values: &[f32]) -> Result<()> {
    const EXPONENT: u32 = 0x7f80_0000;
    let odd = |x: &f32| x.to_bits() & EXPONENT == EXPONENT;
    // Without a branch in the loop, which is over before the values leave the cache.
    if !values.iter().fold(false, |any, x| any | odd(x)) {
        return Ok(());
    }
    let i = values.iter().position(odd).unwrap_or(0);
    let x = values.get(i).copied().unwrap_or_default();
    let x = if x.is_nan() {
        "NaN".to_owned()
    } else {
        x.to_string()
    };
    let message = format!("{} is {x}", place(item, task, i));
    let e = Error::malformed("quantize.not-finite", message);
    Err(e.help("the model is damaged or was trained to overflow; `inspect --stats` counts them"))
}

/// No type with half-precision scales holds a value like this: Q6_K reaches furthest. Sums over
/// larger ones overflow, and some quantizers make zeros of what does.
const MOST: f32 = 65_520.0 * 128.0 * 32.0;

/// Refuses values of `least` and beyond.
fn check_range(item: &Item, task: &Task, least: f32, values: &[f32]) -> Result<()> {
    let beyond = |x: &f32| x.abs() >= least;
    if !values.iter().fold(false, |any, x| any | beyond(x)) {
        return Ok(());
    }
    let i = values.iter().position(beyond).unwrap_or(0);
    let x = values.get(i).copied().unwrap_or_default();
    let message = format!("{} is {x}, beyond {}", place(item, task, i), item.to);
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
fn check_scales(item: &Item, task: &Task, block: BlockType, out: &[u8]) -> Result<()> {
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
            let at = place(item, task, i * block.block());
            let message = format!("the scale of the block of {at} is beyond {}", item.to);
            Err(Error::lossy("quantize.range", message)
                .help("give the tensor a wide type with --tensor-type NAME=BF16"))
        }
    }
}
