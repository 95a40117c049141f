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
}

impl DType {
    /// Every dtype, for tables and tests.
    pub const ALL: [Self; 31] = [
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
    ];

    /// The spelling used in every document and on the command line.
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
        }
    }

    /// The dtype spelled `name` (exact case).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == name)
    }

    /// Bits of one element.
    pub fn bits(self) -> u64 {
        match self {
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
        }
    }

    /// Bytes of one element, or `None` for dtypes narrower than a byte.
    pub fn bytes(self) -> Option<u64> {
        let bits = self.bits();
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The width in bytes of what a byte swap turns round: the element, or one component of a
    /// complex number.
    pub fn swap_width(self) -> usize {
        match self {
            Self::C32 => 2,
            Self::C64 => 4,
            Self::C128 => 8,
            _ => (self.bits() / 8).max(1) as usize,
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
    /// reader multiplies).
    pub fn size_of(self, shape: &[u64]) -> Option<u64> {
        let mut n: u64 = 1;
        for &d in shape {
            n = n.checked_mul(d)?;
        }
        n.checked_mul(self.bits()).map(|b| b.div_ceil(8))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
