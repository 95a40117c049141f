//! Byte order of tensors: which bytes of each type are numbers of more than one byte.
//!
//! What is meant by a big-endian block is what llama.cpp has in memory, and so in the file, on a
//! machine of that order: the scales turned round, as `gguf_convert_endian.py` does for the types
//! it takes, and in other types the numbers that the C code reads as such, even where the structure
//! calls them bytes (the fifth bits of `Q5_0`, the signs of `IQ3_XXS`, the scales of `IQ1_M`).
//! `IQ2_XXS` has no such form: its code reads the same bytes as numbers and one by one.
//!
//! Facts: the block structures of `ggml/src/ggml-common.h`, the code of `ggml/src/ggml-quants.c`
//! (ggml 0.25.3) and `gguf-py/gguf/scripts/gguf_convert_endian.py`.

use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{Chunks, Compute, DType, Tensor, TensorSource};
use weighbridge_core::{Error, Result};

/// The numbers of a block: a byte range of numbers of `width` bytes.
struct Fields {
    width: usize,
    range: Range<usize>,
}

const fn two(start: usize, end: usize) -> Fields {
    let (width, range) = (2, start..end);
    Fields { width, range }
}

const fn four(start: usize, end: usize) -> Fields {
    let (width, range) = (4, start..end);
    Fields { width, range }
}

/// The numbers of more than one byte in a block of `dtype`; `None` where nothing says which.
fn fields(dtype: DType) -> Option<&'static [Fields]> {
    const FIRST: &[Fields] = &[two(0, 2)];
    const FIRST_TWO: &[Fields] = &[two(0, 4)];
    Some(match dtype {
        DType::Q4_0
        | DType::Q8_0
        | DType::IQ4_NL
        | DType::Q1_0
        | DType::Q2_0
        | DType::IQ2_S
        | DType::IQ3_S => FIRST,
        // The scale, and for IQ4_XS the high bits of the others.
        DType::Q4_1 | DType::Q8_1 | DType::Q4_K | DType::Q5_K | DType::IQ4_XS => FIRST_TWO,
        // The fifth bits of 32 values are one number.
        DType::Q5_0 => const { &[two(0, 2), four(2, 6)] },
        DType::Q5_1 => const { &[two(0, 4), four(4, 8)] },
        DType::Q2_K => const { &[two(80, 84)] },
        DType::Q3_K => const { &[two(108, 110)] },
        DType::Q6_K => const { &[two(208, 210)] },
        // d, then the sums of 16 as 16-bit numbers at the end.
        DType::Q8_K => const { &[four(0, 4), two(260, 292)] },
        // d, then 32 numbers of grid indices and signs.
        DType::IQ2_XS => const { &[two(0, 66)] },
        // d, 64 grid indices, then eight numbers of signs and scales.
        DType::IQ3_XXS => const { &[two(0, 2), four(66, 98)] },
        // d, 32 bytes, then the high bits as 16-bit numbers.
        DType::IQ1_S => const { &[two(0, 2), two(34, 50)] },
        // The scales, which are four numbers.
        DType::IQ1_M => const { &[two(48, 56)] },
        DType::TQ1_0 => const { &[two(52, 54)] },
        DType::TQ2_0 => const { &[two(64, 66)] },
        // Bytes only: E8M0 and UE4M3 scales.
        DType::MXFP4 | DType::NVFP4 => &[],
        _ => return None,
    })
}

/// How the bytes of a type are turned round.
#[derive(Clone, Copy)]
enum Turn {
    /// Numbers of so many bytes.
    Elements(usize),
    /// Blocks of so many bytes with these numbers.
    Blocks(usize, &'static [Fields]),
}

impl Turn {
    fn of(dtype: DType) -> Option<Self> {
        let Some(block) = dtype.block() else {
            return Some(Self::Elements(dtype.swap_width()));
        };
        Some(Self::Blocks(block.bytes as usize, fields(dtype)?))
    }

    /// Whether both orders are the same bytes.
    fn is_nothing(self) -> bool {
        match self {
            Self::Elements(width) => width == 1,
            Self::Blocks(_, fields) => fields.is_empty(),
        }
    }

    /// Bytes that are turned round together.
    fn unit(self) -> usize {
        match self {
            Self::Elements(n) | Self::Blocks(n, _) => n.max(1),
        }
    }

    /// Turns whole units round, in place.
    fn apply(self, bytes: &mut [u8]) {
        match self {
            Self::Elements(width) => reverse(bytes, width),
            Self::Blocks(size, fields) => {
                for b in bytes.chunks_exact_mut(size.max(1)) {
                    for f in fields {
                        let numbers = b.get_mut(f.range.clone()).unwrap_or_default();
                        reverse(numbers, f.width);
                    }
                }
            }
        }
    }
}

fn reverse(numbers: &mut [u8], width: usize) {
    for n in numbers.chunks_exact_mut(width.max(1)) {
        n.reverse();
    }
}

fn undefined(t: &Tensor) -> Error {
    let (name, dtype) = (&t.name, t.dtype);
    let message = format!("tensor {name}: nothing defines the big-endian form of {dtype}");
    Error::unsupported("gguf.byte-order", message)
}

/// Refuses a tensor that has no big-endian form.
///
/// # Errors
/// `Unsupported` (`gguf.byte-order`) with the tensor and its type.
pub(super) fn check(t: &Tensor) -> Result<()> {
    match Turn::of(t.dtype) {
        Some(_) => Ok(()),
        None => Err(undefined(t).help("--dequantize writes its values, --drop leaves it out")),
    }
}

/// Whether a tensor of `dtype` is the same bytes in both orders.
pub(crate) fn is_same(dtype: DType) -> bool {
    Turn::of(dtype).is_some_and(Turn::is_nothing)
}

/// Streams the bytes of `t` in the other order, whichever that is.
///
/// # Errors
/// `Unsupported` for a type without a big-endian form, and what reading gives.
pub(crate) fn stream(
    t: &Tensor,
    chunks: &mut Chunks,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let turn = Turn::of(t.dtype).ok_or_else(|| {
        undefined(t).help("a file made on a machine of its own order has the values")
    })?;
    let unit = turn.unit();
    // Pieces of the stored bytes do not end with blocks.
    let mut held: Vec<u8> = Vec::new();
    t.stream(chunks, &mut |part| {
        held.extend_from_slice(part);
        let whole = held.len() - held.len() % unit;
        let bytes = held.get_mut(..whole).unwrap_or_default();
        turn.apply(bytes);
        sink(bytes)?;
        held.drain(..whole);
        Ok(())
    })
}

/// A block tensor of a big-endian file, whose bytes are given as those of a little-endian one.
pub(super) fn little_endian(stored: Tensor) -> Tensor {
    if is_same(stored.dtype) {
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
        stream(&self.stored, &mut Chunks::new(), sink)
    }

    fn stored(&self) -> Option<&Tensor> {
        Some(&self.stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::read::dtype;
    use crate::format::gguf::types::PACKINGS;

    fn bytes_of(dtype: DType) -> Vec<u8> {
        let n = dtype
            .block()
            .map_or(dtype.swap_width(), |b| b.bytes as usize);
        (0..2 * n).map(|i| (i % 251) as u8).collect()
    }

    /// Numbers do not overlap, lie in the block, and what is turned twice is as it was.
    #[test]
    fn every_type_is_turned_round_or_refused() {
        let mut refused = Vec::new();
        for (id, packing) in PACKINGS {
            let dtype = dtype(*id).unwrap();
            let Some(turn) = Turn::of(dtype) else {
                refused.push(packing.name);
                continue;
            };
            if let Turn::Blocks(size, fields) = turn {
                assert_eq!(size as u64, packing.bytes);
                let mut end = 0;
                for f in fields {
                    assert!(f.range.start >= end && f.range.end <= size, "{dtype}");
                    assert!(f.range.len().is_multiple_of(f.width), "{dtype}");
                    end = f.range.end;
                }
            }
            let whole = bytes_of(dtype);
            let mut turned = whole.clone();
            turn.apply(&mut turned);
            assert_eq!(turned == whole, turn.is_nothing(), "{dtype}");
            turn.apply(&mut turned);
            assert_eq!(turned, whole, "{dtype}");
        }
        assert_eq!(refused, ["IQ2_XXS"]);
    }

    /// Which bytes change places, by the structures of ggml.
    #[test]
    fn the_numbers_are_those_of_the_structures() {
        let starts = |dtype: DType| {
            let whole = bytes_of(dtype);
            let mut turned = whole.clone();
            Turn::of(dtype).unwrap().apply(&mut turned);
            let block = dtype.block().unwrap().bytes as usize;
            let moved = (0..block).filter(|&i| whole[i] != turned[i]);
            moved.collect::<Vec<usize>>()
        };
        let all = |ranges: &[(usize, usize)]| {
            let ranges = ranges.iter().map(|(start, end)| *start..*end);
            ranges.flatten().collect::<Vec<usize>>()
        };
        for (dtype, ranges) in [
            (DType::Q4_0, &[(0, 2)][..]),
            (DType::Q4_1, &[(0, 4)]),
            (DType::Q5_0, &[(0, 6)]),
            (DType::Q5_1, &[(0, 8)]),
            (DType::Q8_0, &[(0, 2)]),
            (DType::Q2_K, &[(80, 84)]),
            (DType::Q3_K, &[(108, 110)]),
            (DType::Q4_K, &[(0, 4)]),
            (DType::Q5_K, &[(0, 4)]),
            (DType::Q6_K, &[(208, 210)]),
            (DType::IQ1_S, &[(0, 2), (34, 50)]),
            (DType::IQ1_M, &[(48, 56)]),
            (DType::IQ2_XS, &[(0, 66)]),
            (DType::IQ3_XXS, &[(0, 2), (66, 98)]),
            (DType::IQ4_XS, &[(0, 4)]),
            (DType::TQ2_0, &[(64, 66)]),
            (DType::MXFP4, &[]),
        ] {
            assert_eq!(starts(dtype), all(ranges), "{dtype}");
        }
    }
}
