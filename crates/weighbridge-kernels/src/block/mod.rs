//! Block quantization: the types of GGUF whose rows are whole blocks of small integers and scales.
//!
//! A row is quantized by itself: [`quantize_row`] gives the bytes that the reference quantizer
//! (`ggml/src/ggml-quants.c` of ggml 0.25.3, built for x86-64 without contraction) gives for the
//! same row, and [`dequantize_row`] the same values. That holds on every processor: each kernel is
//! strict IEEE binary32 arithmetic, multiplications and additions apart, sums in the order of the
//! source. The fast paths put one block (or sub-block) into each lane, so a lane does what the
//! scalar twin does, in the same order.
//!
//! Rooms: one file a family of types; `lanes` is the vector that all fast paths are written in.

mod few;
mod grid;
mod grid_tables;
mod iq;
mod iq1;
mod iq1_lanes;
mod iq2;
mod iq3;
mod iq4;
mod iq4_lanes;
mod iq_dequant;
mod iq_lanes;
pub(crate) mod lanes;
mod legacy;
mod legacy_lanes;
mod mx;
mod near_lanes;
mod q2_k;
mod q3_k;
mod q4_k;
mod q6_k;
mod search;
mod search_lanes;
mod superblock;

#[doc(hidden)]
pub use lanes::Path;
use lanes::{nearest, run};

use crate::scalar;

/// A type whose elements are packed in blocks. Names and numbers as in `enum ggml_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)] // the variants are the format's own names
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    IQ1_M,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

/// Quantizes the values of one row into the whole blocks of another type. For a `lanes::Kernel` it
/// is `lanes::run::<Type>`.
type Quantize = fn(Path, &[f32], Option<&[f32]>, &mut [u8]);
/// The values of whole blocks.
type Dequantize = fn(&[u8], &mut [f32]);

/// All that is known of a type.
struct Traits {
    name: &'static str,
    id: i32,
    block: usize,
    bytes: usize,
    needs_weights: bool,
    quantize: Option<Quantize>,
    dequantize: Option<Dequantize>,
}

impl BlockType {
    /// Every type, for tables and tests.
    pub const ALL: [Self; 27] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q8_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q8_K,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ3_XXS,
        Self::IQ1_S,
        Self::IQ4_NL,
        Self::IQ3_S,
        Self::IQ2_S,
        Self::IQ4_XS,
        Self::IQ1_M,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::MXFP4,
        Self::NVFP4,
        Self::Q1_0,
        Self::Q2_0,
    ];

    const fn traits(self) -> Traits {
        // name, number, elements of a block, bytes of a block, weights required, kernels
        macro_rules! row {
            ($name:literal $id:literal $block:literal $bytes:literal $needs:literal $q:expr, $d:expr) => {
                Traits {
                    name: $name,
                    id: $id,
                    block: $block,
                    bytes: $bytes,
                    needs_weights: $needs,
                    quantize: $q,
                    dequantize: $d,
                }
            };
        }
        match self {
            Self::Q4_0 => {
                row!("Q4_0" 2 32 18 false Some(run::<legacy::Q4_0>), Some(legacy::from_q4_0))
            }
            Self::Q4_1 => {
                row!("Q4_1" 3 32 20 false Some(run::<legacy::Q4_1>), Some(legacy::from_q4_1))
            }
            Self::Q5_0 => {
                row!("Q5_0" 6 32 22 false Some(run::<legacy::Q5_0>), Some(legacy::from_q5_0))
            }
            Self::Q5_1 => {
                row!("Q5_1" 7 32 24 false Some(run::<legacy::Q5_1>), Some(legacy::from_q5_1))
            }
            Self::Q8_0 => {
                row!("Q8_0" 8 32 34 false Some(run::<legacy::Q8_0>), Some(legacy::from_q8_0))
            }
            Self::Q8_1 => row!("Q8_1" 9 32 36 false None, Some(legacy::from_q8_1)),
            Self::Q2_K => {
                row!("Q2_K" 10 256 84 false Some(run::<q2_k::Q2K>), Some(q2_k::dequantize))
            }
            Self::Q3_K => {
                row!("Q3_K" 11 256 110 false Some(run::<q3_k::Q3K>), Some(q3_k::dequantize))
            }
            Self::Q4_K => {
                row!("Q4_K" 12 256 144 false Some(run::<q4_k::Q4K>), Some(q4_k::from_q4_k))
            }
            Self::Q5_K => {
                row!("Q5_K" 13 256 176 false Some(run::<q4_k::Q5K>), Some(q4_k::from_q5_k))
            }
            Self::Q6_K => {
                row!("Q6_K" 14 256 210 false Some(run::<q6_k::Q6K>), Some(q6_k::dequantize))
            }
            Self::Q8_K => row!("Q8_K" 15 256 292 false None, Some(legacy::from_q8_k)),
            Self::IQ2_XXS => {
                row!("IQ2_XXS" 16 256 66 true Some(run::<iq2::Xxs>), Some(iq_dequant::iq2_xxs))
            }
            Self::IQ2_XS => {
                row!("IQ2_XS" 17 256 74 true Some(run::<iq2::Xs>), Some(iq_dequant::iq2_xs))
            }
            Self::IQ3_XXS => {
                row!("IQ3_XXS" 18 256 98 false Some(run::<iq3::Xxs>), Some(iq_dequant::iq3_xxs))
            }
            Self::IQ1_S => {
                row!("IQ1_S" 19 256 50 true Some(run::<iq1::S>), Some(iq_dequant::iq1_s))
            }
            Self::IQ4_NL => {
                row!("IQ4_NL" 20 32 18 false Some(run::<iq4::Nl>), Some(iq_dequant::iq4_nl))
            }
            Self::IQ3_S => {
                row!("IQ3_S" 21 256 110 false Some(run::<iq3::S>), Some(iq_dequant::iq3_s))
            }
            Self::IQ2_S => {
                row!("IQ2_S" 22 256 82 false Some(run::<iq2::S>), Some(iq_dequant::iq2_s))
            }
            Self::IQ4_XS => {
                row!("IQ4_XS" 23 256 136 false Some(run::<iq4::Xs>), Some(iq_dequant::iq4_xs))
            }
            Self::IQ1_M => {
                row!("IQ1_M" 29 256 56 false Some(run::<iq1::M>), Some(iq_dequant::iq1_m))
            }
            Self::TQ1_0 => {
                row!("TQ1_0" 34 256 54 false Some(run::<few::TQ1_0>), Some(few::from_tq1_0))
            }
            Self::TQ2_0 => {
                row!("TQ2_0" 35 256 66 false Some(run::<few::TQ2_0>), Some(few::from_tq2_0))
            }
            Self::MXFP4 => {
                row!("MXFP4" 39 32 17 false Some(run::<mx::Mxfp4>), Some(mx::from_mxfp4))
            }
            Self::NVFP4 => {
                row!("NVFP4" 40 64 36 false Some(run::<mx::Nvfp4>), Some(mx::from_nvfp4))
            }
            Self::Q1_0 => row!("Q1_0" 41 128 18 false Some(run::<few::Q1_0>), Some(few::from_q1_0)),
            Self::Q2_0 => row!("Q2_0" 42 64 18 false Some(run::<few::Q2_0>), Some(few::from_q2_0)),
        }
    }

    /// The type's name, as in `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// The type's number in GGUF files.
    pub const fn id(self) -> i32 {
        self.traits().id
    }

    /// Elements of one block; a row is a whole number of blocks.
    pub const fn block(self) -> usize {
        self.traits().block
    }

    /// Bytes of one block.
    pub const fn bytes(self) -> usize {
        self.traits().bytes
    }

    /// Whether it cannot be quantized to without importance weights.
    pub const fn needs_weights(self) -> bool {
        self.traits().needs_weights
    }

    /// Whether there is a quantizer. The types of intermediate results have none that writes files.
    pub const fn can_quantize(self) -> bool {
        self.traits().quantize.is_some()
    }

    /// The type called `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// The type numbered `id`.
    pub fn from_id(id: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }
}

/// Quantizes one row: `row` holds a whole number of blocks, `weights` one importance for each
/// column, `out` the blocks' bytes. All values must be finite, else the bytes are unspecified.
/// Returns the bytes written: 0 where the lengths do not fit each other, the type has no
/// quantizer, or it needs weights and has none.
pub fn quantize_row(to: BlockType, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) -> usize {
    quantize_row_by(Path::best(), to, row, weights, out)
}

/// As [`quantize_row`], by the given path: for tests and benchmarks.
#[doc(hidden)]
pub fn quantize_row_by(
    path: Path,
    to: BlockType,
    row: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) -> usize {
    let traits = to.traits();
    let blocks = row.len() / traits.block;
    let bytes = blocks * traits.bytes;
    let fits = row.len() == blocks * traits.block
        && weights.is_none_or(|w| w.len() == row.len())
        && (weights.is_some() || !traits.needs_weights);
    match (traits.quantize, out.get_mut(..bytes)) {
        (Some(quantize), Some(out)) if fits => {
            quantize(path, row, weights, out);
            bytes
        }
        _ => 0,
    }
}

/// The values of whole blocks. Converts as many as both slices hold and returns how many values
/// that were.
pub fn dequantize_row(from: BlockType, blocks: &[u8], out: &mut [f32]) -> usize {
    let traits = from.traits();
    let n = (blocks.len() / traits.bytes).min(out.len() / traits.block);
    let (src, dst) = (n * traits.bytes, n * traits.block);
    match (traits.dequantize, blocks.get(..src), out.get_mut(..dst)) {
        (Some(dequantize), Some(blocks), Some(out)) => {
            dequantize(blocks, out);
            dst
        }
        _ => 0,
    }
}

/// A scale as binary16, ties to even. The NaN of an overflow is x86's, on every processor.
#[inline]
fn half(x: f32) -> u16 {
    if x.is_nan() {
        0xfe00
    } else {
        scalar::f32_to_f16(x)
    }
}

/// The value of a stored scale.
#[inline]
fn rounded(half: u16) -> f32 {
    scalar::f16_to_f32(half)
}

/// Stores a scale at `at`.
#[inline]
fn put_half(out: &mut [u8], at: usize, x: f32) {
    out[at..at + 2].copy_from_slice(&half(x).to_le_bytes());
}

/// The scale stored at `at`.
#[inline]
fn value(block: &[u8], at: usize) -> f32 {
    rounded(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// In the order of the values.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for x in x {
        sum += x * x;
    }
    sum
}

/// Weights for values from the importance of their columns.
#[inline(always)]
fn weigh<const N: usize>(sigma2: f32, x: &[f32; N], importance: &[f32]) -> [f32; N] {
    let mut w = [0.0; N];
    for ((w, x), q) in w.iter_mut().zip(x).zip(importance) {
        *w = q * (sigma2 + x * x).sqrt();
    }
    w
}

/// The levels from 0 to `top` nearest to values under a final scale and offset; a scale of zero
/// leaves those of the search.
fn refine(x: &[f32], d: f32, min: f32, top: i32, levels: &mut [u8]) {
    if d == 0.0 {
        return;
    }
    for (x, level) in x.iter().zip(levels) {
        *level = nearest((x + min) / d).min(top).max(0) as u8;
    }
}

/// As [`refine`], for levels from -`halfway` to `halfway` - 1 that are stored plus `halfway`.
fn refine_signed(x: &[f32], d: f32, halfway: i32, levels: &mut [u8]) {
    if d == 0.0 {
        return;
    }
    for (x, level) in x.iter().zip(levels) {
        *level = (nearest(x / d).min(halfway - 1).max(-halfway) + halfway) as u8;
    }
}
