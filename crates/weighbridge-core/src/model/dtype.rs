use std::fmt;

/// The type of a tensor's elements.
///
/// Names are safetensors' spelling where it has one (`safetensors/src/tensor.rs`, `Dtype`), then
/// the ones of the product's design (`C128`, `QU8`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)] // the variants are the dtypes' standard names
#[allow(non_camel_case_types)]
pub enum DType {
    Bool,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
    /// Complex of two F64.
    C128,
    /// Complex of two F16.
    C32,
    /// Quantized unsigned 8-bit (torch `quint8`).
    QU8,
    /// Quantized signed 8-bit (torch `qint8`).
    QI8,
    /// Quantized signed 32-bit (torch `qint32`).
    QI32,
    /// Two unsigned 4-bit values a byte (torch `quint4x2`).
    U4,
    I4,
    /// Four unsigned 2-bit values a byte (torch `quint2x4`).
    U2,
    I2,
    // Types of GGUF whose elements are packed in blocks (`enum ggml_type` of
    // `ggml/include/ggml.h`, ggml 0.25.3).
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
    /// Texts of any length: not a number, and without a place in most formats.
    Str,
    /// Texts of at most so many bytes, padded with NULs in the file (HDF5's fixed strings, NumPy's
    /// `S`).
    Bytes(u32),
    /// Elements of several named fields, which no tensor format has.
    Compound,
    /// A dataset without any element, not even none of a shape (HDF5's null dataspace).
    Null,
}

/// How the elements of a block type are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Elements of one block; a row is a whole number of blocks.
    pub elements: u64,
    /// Bytes of one block.
    pub bytes: u64,
}

impl DType {
    /// Every dtype of fixed width, for tables and tests.
    pub const ALL: [Self; 58] = [
        Self::Bool,
        Self::F4,
        Self::F6_E2M3,
        Self::F6_E3M2,
        Self::U8,
        Self::I8,
        Self::F8_E5M2,
        Self::F8_E4M3,
        Self::F8_E8M0,
        Self::F8_E4M3FNUZ,
        Self::F8_E5M2FNUZ,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::C64,
        Self::F64,
        Self::I64,
        Self::U64,
        Self::C128,
        Self::C32,
        Self::QU8,
        Self::QI8,
        Self::QI32,
        Self::U4,
        Self::I4,
        Self::U2,
        Self::I2,
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

    /// The spelling used in every document and on the command line, but for the width of
    /// [`DType::Bytes`], which only `Display` gives (`BYTES16`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::F4 => "F4",
            Self::F6_E2M3 => "F6_E2M3",
            Self::F6_E3M2 => "F6_E3M2",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8_E5M2 => "F8_E5M2",
            Self::F8_E4M3 => "F8_E4M3",
            Self::F8_E8M0 => "F8_E8M0",
            Self::F8_E4M3FNUZ => "F8_E4M3FNUZ",
            Self::F8_E5M2FNUZ => "F8_E5M2FNUZ",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::C64 => "C64",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::C128 => "C128",
            Self::C32 => "C32",
            Self::QU8 => "QU8",
            Self::QI8 => "QI8",
            Self::QI32 => "QI32",
            Self::U4 => "U4",
            Self::I4 => "I4",
            Self::U2 => "U2",
            Self::I2 => "I2",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q8_1 => "Q8_1",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::Q8_K => "Q8_K",
            Self::IQ2_XXS => "IQ2_XXS",
            Self::IQ2_XS => "IQ2_XS",
            Self::IQ3_XXS => "IQ3_XXS",
            Self::IQ1_S => "IQ1_S",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ3_S => "IQ3_S",
            Self::IQ2_S => "IQ2_S",
            Self::IQ4_XS => "IQ4_XS",
            Self::IQ1_M => "IQ1_M",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::MXFP4 => "MXFP4",
            Self::NVFP4 => "NVFP4",
            Self::Q1_0 => "Q1_0",
            Self::Q2_0 => "Q2_0",
            Self::Str => "STR",
            Self::Bytes(_) => "BYTES",
            Self::Compound => "COMPOUND",
            Self::Null => "NULL",
        }
    }

    /// Whether the elements are texts. Their values are streamed one after the other, each as its
    /// length in eight bytes (little-endian) and then its bytes; the NULs that pad texts of fixed
    /// width are not part of them.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Str | Self::Bytes(_))
    }

    /// The dtype spelled `name` (exact case).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == name)
    }

    /// The geometry of a block type; `None` for the dtypes of which each element stands alone.
    pub fn block(self) -> Option<Block> {
        let (elements, bytes) = match self {
            Self::Q4_0 | Self::IQ4_NL => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q8_1 => (32, 36),
            Self::Q2_K => (256, 84),
            Self::Q3_K | Self::IQ3_S => (256, 110),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
            Self::Q8_K => (256, 292),
            Self::IQ2_XXS | Self::TQ2_0 => (256, 66),
            Self::IQ2_XS => (256, 74),
            Self::IQ3_XXS => (256, 98),
            Self::IQ1_S => (256, 50),
            Self::IQ2_S => (256, 82),
            Self::IQ4_XS => (256, 136),
            Self::IQ1_M => (256, 56),
            Self::TQ1_0 => (256, 54),
            Self::MXFP4 => (32, 17),
            Self::NVFP4 => (64, 36),
            Self::Q1_0 => (128, 18),
            Self::Q2_0 => (64, 18),
            _ => return None,
        };
        Some(Block { elements, bytes })
    }

    /// Bits of one element; `None` for block types, whose elements share their scales.
    pub fn bits(self) -> Option<u64> {
        Some(match self {
            Self::U2 | Self::I2 => 2,
            Self::F4 | Self::U4 | Self::I4 => 4,
            Self::F6_E2M3 | Self::F6_E3M2 => 6,
            Self::Bool
            | Self::U8
            | Self::I8
            | Self::F8_E5M2
            | Self::F8_E4M3
            | Self::F8_E8M0
            | Self::F8_E4M3FNUZ
            | Self::F8_E5M2FNUZ
            | Self::QU8
            | Self::QI8 => 8,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 16,
            Self::I32 | Self::U32 | Self::F32 | Self::C32 | Self::QI32 => 32,
            Self::C64 | Self::F64 | Self::I64 | Self::U64 => 64,
            Self::C128 => 128,
            _ => return None,
        })
    }

    /// Bytes of one element, or `None` for dtypes narrower than a byte and for block types.
    pub fn bytes(self) -> Option<u64> {
        let bits = self.bits()?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The width in bytes of what a byte swap turns round: the element, or one component of a
    /// complex number. 1 for block types: their fields have several widths, and only the GGUF
    /// reader knows them.
    pub fn swap_width(self) -> usize {
        match self {
            Self::C32 => 2,
            Self::C64 => 4,
            Self::C128 => 8,
            _ => (self.bits().unwrap_or(8) / 8).max(1) as usize,
        }
    }

    /// The alignment a typed view of the data needs, in bytes.
    pub fn alignment(self) -> u64 {
        self.swap_width() as u64
    }

    /// Whether the element is a complex number.
    pub fn is_complex(self) -> bool {
        matches!(self, Self::C32 | Self::C64 | Self::C128)
    }

    /// Whether the element is a binary floating-point number.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::F4
                | Self::F6_E2M3
                | Self::F6_E3M2
                | Self::F8_E5M2
                | Self::F8_E4M3
                | Self::F8_E8M0
                | Self::F8_E4M3FNUZ
                | Self::F8_E5M2FNUZ
                | Self::F16
                | Self::BF16
                | Self::F32
                | Self::F64
        )
    }

    /// Whether the element is a torch quantized integer.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::QU8 | Self::QI8 | Self::QI32)
    }

    /// Bytes of a contiguous tensor of `shape`, rounded up to a whole byte for packed dtypes;
    /// `None` when the product overflows (in the order of the dimensions, as the safetensors
    /// reader multiplies), and for block types whose last dimension is no whole number of blocks.
    pub fn size_of(self, shape: &[u64]) -> Option<u64> {
        if self == Self::Null {
            return Some(0);
        }
        let mut n: u64 = 1;
        for &d in shape {
            n = n.checked_mul(d)?;
        }
        if let Some(block) = self.block() {
            let row = shape.last().copied().unwrap_or(1);
            let whole = row.is_multiple_of(block.elements);
            return whole.then(|| (n / block.elements).checked_mul(block.bytes))?;
        }
        n.checked_mul(self.bits()?).map(|b| b.div_ceil(8))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(n) => f.pad(&format!("BYTES{n}")),
            _ => f.pad(self.as_str()),
        }
    }
}
