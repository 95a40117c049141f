//! Byte order inside blocks: which bytes of each block type are numbers of two or four bytes.
//!
//! Facts: the block structures of `ggml/src/ggml-common.h` (ggml 0.25.3) and the byte swaps of
//! `gguf-py/gguf/scripts/gguf_convert_endian.py`.

use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{Chunks, Compute, DType, Tensor, TensorSource};

/// The numbers of a block: byte ranges, each of numbers of `width` bytes.
struct Fields {
    width: usize,
    range: Range<usize>,
}

const fn two(start: usize, end: usize) -> Fields {
    Fields {
        width: 2,
        range: start..end,
    }
}

const fn four(start: usize, end: usize) -> Fields {
    Fields {
        width: 4,
        range: start..end,
    }
}

/// The numbers of more than one byte in a block of `dtype`.
fn fields(dtype: DType) -> &'static [Fields] {
    const FIRST: &[Fields] = &[two(0, 2)];
    const FIRST_TWO: &[Fields] = &[two(0, 4)];
    match dtype {
        DType::Q4_0
        | DType::Q5_0
        | DType::Q8_0
        | DType::IQ4_NL
        | DType::Q1_0
        | DType::Q2_0
        | DType::IQ2_S
        | DType::IQ3_S
        | DType::IQ3_XXS => FIRST,
        DType::Q4_1 | DType::Q5_1 | DType::Q8_1 | DType::Q4_K | DType::Q5_K => FIRST_TWO,
        DType::Q2_K => {
            const F: &[Fields] = &[two(80, 84)];
            F
        }
        DType::Q3_K => {
            const F: &[Fields] = &[two(108, 110)];
            F
        }
        DType::Q6_K => {
            const F: &[Fields] = &[two(208, 210)];
            F
        }
        // d, then the sums of 16 as 16-bit numbers at the end.
        DType::Q8_K => {
            const F: &[Fields] = &[four(0, 4), two(260, 292)];
            F
        }
        // d, then 32 numbers of grid indices and signs.
        DType::IQ2_XXS | DType::IQ2_XS => {
            const F: &[Fields] = &[two(0, 66)];
            F
        }
        // d, 32 bytes, then the high bits as 16-bit numbers.
        DType::IQ1_S => {
            const F: &[Fields] = &[two(0, 2), two(34, 50)];
            F
        }
        DType::IQ4_XS => FIRST_TWO,
        DType::TQ1_0 => {
            const F: &[Fields] = &[two(52, 54)];
            F
        }
        DType::TQ2_0 => {
            const F: &[Fields] = &[two(64, 66)];
            F
        }
        // Bytes only: E8M0 and UE4M3 scales; IQ1_M's scales are read as bytes' halves.
        _ => &[],
    }
}

/// Turns the numbers of whole blocks round, in place.
pub(super) fn swap_blocks(dtype: DType, blocks: &mut [u8]) {
    let Some(block) = dtype.block() else { return };
    for b in blocks.chunks_exact_mut(block.bytes as usize) {
        for f in fields(dtype) {
            let numbers = b.get_mut(f.range.clone()).unwrap_or_default();
            for n in numbers.chunks_exact_mut(f.width) {
                n.reverse();
            }
        }
    }
}

/// A block tensor of a big-endian file, whose bytes are given as those of a little-endian one.
pub(super) fn little_endian(stored: Tensor) -> Tensor {
    if fields(stored.dtype).is_empty() {
        return stored;
    }
    let mut out = stored.clone();
    out.source = TensorSource::Computed(Arc::new(Swapped { stored }));
    out
}

#[derive(Debug)]
struct Swapped {
    stored: Tensor,
}

impl Compute for Swapped {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let dtype = self.stored.dtype;
        let block = dtype.block().map_or(1, |b| b.bytes as usize);
        // Pieces of the stored bytes do not end with blocks.
        let mut held: Vec<u8> = Vec::new();
        self.stored.stream(&mut Chunks::new(), &mut |part| {
            held.extend_from_slice(part);
            let whole = held.len() - held.len() % block;
            let blocks = held.get_mut(..whole).unwrap_or_default();
            swap_blocks(dtype, blocks);
            sink(blocks)?;
            held.drain(..whole);
            Ok(())
        })
    }
}
