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

mod grid;
mod grid_tables;
mod iq;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod iq_dequant;

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

/// Quantizes the values of one row into the whole blocks of another type.
type Quantize = fn(&[f32], Option<&[f32]>, &mut [u8]);
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
            Self::Q4_0 => row!("Q4_0" 2 32 18 false None, None),
            Self::Q4_1 => row!("Q4_1" 3 32 20 false None, None),
            Self::Q5_0 => row!("Q5_0" 6 32 22 false None, None),
            Self::Q5_1 => row!("Q5_1" 7 32 24 false None, None),
            Self::Q8_0 => row!("Q8_0" 8 32 34 false None, None),
            Self::Q8_1 => row!("Q8_1" 9 32 36 false None, None),
            Self::Q2_K => row!("Q2_K" 10 256 84 false None, None),
            Self::Q3_K => row!("Q3_K" 11 256 110 false None, None),
            Self::Q4_K => row!("Q4_K" 12 256 144 false None, None),
            Self::Q5_K => row!("Q5_K" 13 256 176 false None, None),
            Self::Q6_K => row!("Q6_K" 14 256 210 false None, None),
            Self::Q8_K => row!("Q8_K" 15 256 292 false None, None),
            Self::IQ2_XXS => {
                row!("IQ2_XXS" 16 256 66 true Some(iq2::twin_xxs), Some(iq_dequant::iq2_xxs))
            }
            Self::IQ2_XS => {
                row!("IQ2_XS" 17 256 74 true Some(iq2::twin_xs), Some(iq_dequant::iq2_xs))
            }
            Self::IQ3_XXS => {
                row!("IQ3_XXS" 18 256 98 false Some(iq3::twin_xxs), Some(iq_dequant::iq3_xxs))
            }
            Self::IQ1_S => row!("IQ1_S" 19 256 50 true Some(iq1::twin_s), Some(iq_dequant::iq1_s)),
            Self::IQ4_NL => {
                row!("IQ4_NL" 20 32 18 false Some(iq4::twin_nl), Some(iq_dequant::iq4_nl))
            }
            Self::IQ3_S => {
                row!("IQ3_S" 21 256 110 false Some(iq3::twin_s), Some(iq_dequant::iq3_s))
            }
            Self::IQ2_S => row!("IQ2_S" 22 256 82 false Some(iq2::twin_s), Some(iq_dequant::iq2_s)),
            Self::IQ4_XS => {
                row!("IQ4_XS" 23 256 136 false Some(iq4::twin_xs), Some(iq_dequant::iq4_xs))
            }
            Self::IQ1_M => row!("IQ1_M" 29 256 56 false Some(iq1::twin_m), Some(iq_dequant::iq1_m)),
            Self::TQ1_0 => row!("TQ1_0" 34 256 54 false None, None),
            Self::TQ2_0 => row!("TQ2_0" 35 256 66 false None, None),
            Self::MXFP4 => row!("MXFP4" 39 32 17 false None, None),
            Self::NVFP4 => row!("NVFP4" 40 64 36 false None, None),
            Self::Q1_0 => row!("Q1_0" 41 128 18 false None, None),
            Self::Q2_0 => row!("Q2_0" 42 64 18 false None, None),
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
    let traits = to.traits();
    let blocks = row.len() / traits.block;
    let bytes = blocks * traits.bytes;
    let fits = row.len() == blocks * traits.block
        && weights.is_none_or(|w| w.len() == row.len())
        && (weights.is_some() || !traits.needs_weights);
    match (traits.quantize, out.get_mut(..bytes)) {
        (Some(quantize), Some(out)) if fits => {
            quantize(row, weights, out);
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
