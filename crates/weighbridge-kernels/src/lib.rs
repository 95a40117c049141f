//! Element conversions: every number type of model files to `f32` and `f64`, and back, exactly as
//! PyTorch's `.to()` converts them. Each kernel has a scalar twin in [`scalar`]; the SIMD paths in
//! `arch` are chosen at run time and give the same bits.
//!
//! All functions convert as many elements as source and destination both hold and return how
//! many that were; they never panic. Bytes are little-endian.
//!
//! ```
//! use weighbridge_kernels::{Kind, convert};
//! let mut out = [0u8; 4];
//! convert(Kind::F32, Kind::BF16, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], &mut out);
//! assert_eq!(out, [0x80, 0x3f, 0x00, 0xc0]); // 1.0 and -2.0
//! ```

mod affine;
mod arch;
pub mod block;
mod decode;
mod encode;
mod int;
pub mod linear;
mod mini;
pub mod nbits;
pub mod scalar;

pub use affine::{Affine, Quantized, dequantize};
pub use decode::{decode_f32, decode_f64};
pub use encode::{encode_f32, encode_f64};
pub use int::convert;

/// The type of an element. Names as in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Kind {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// OCP E4M3: no infinities, NaN is all ones (torch `float8_e4m3fn`).
    F8_E4M3,
    /// OCP E5M2: as IEEE (torch `float8_e5m2`).
    F8_E5M2,
    /// E4M3 with bias 8, one zero and NaN in its place (torch `float8_e4m3fnuz`).
    F8_E4M3FNUZ,
    /// E5M2 with bias 16, one zero and NaN in its place (torch `float8_e5m2fnuz`).
    F8_E5M2FNUZ,
    /// OCP MX scale: a power of two, 255 is NaN (torch `float8_e8m0fnu`).
    F8_E8M0,
    /// OCP MX FP6 with 3 mantissa bits; four values in three bytes, lowest bits first.
    F6_E2M3,
    /// OCP MX FP6 with 2 mantissa bits; four values in three bytes, lowest bits first.
    F6_E3M2,
    /// OCP MX FP4 (E2M1); two values a byte, the lower half first.
    F4,
    /// 0 is false, everything else true.
    Bool,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 21] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8_E4M3,
        Self::F8_E5M2,
        Self::F8_E4M3FNUZ,
        Self::F8_E5M2FNUZ,
        Self::F8_E8M0,
        Self::F6_E2M3,
        Self::F6_E3M2,
        Self::F4,
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
    ];

    /// Bits of one element.
    pub const fn bits(self) -> usize {
        match self {
            Self::F4 => 4,
            Self::F6_E2M3 | Self::F6_E3M2 => 6,
            Self::F8_E4M3
            | Self::F8_E5M2
            | Self::F8_E4M3FNUZ
            | Self::F8_E5M2FNUZ
            | Self::F8_E8M0
            | Self::Bool
            | Self::U8
            | Self::I8 => 8,
            Self::F16 | Self::BF16 | Self::U16 | Self::I16 => 16,
            Self::F32 | Self::U32 | Self::I32 => 32,
            Self::F64 | Self::U64 | Self::I64 => 64,
        }
    }

    /// How many whole elements `bytes` bytes hold.
    pub const fn elements(self, bytes: usize) -> usize {
        // Widened so that no length of a slice overflows.
        (bytes as u128 * 8 / self.bits() as u128) as usize
    }

    /// Whether it is an integer or a truth value.
    pub const fn is_int(self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::U8
                | Self::I8
                | Self::U16
                | Self::I16
                | Self::U32
                | Self::I32
                | Self::U64
                | Self::I64
        )
    }

    /// Whether values can be converted to it. The packed FP6 and FP4 of MX formats only make
    /// sense together with block scales and are read, not made, here.
    pub const fn is_writable(self) -> bool {
        !matches!(self, Self::F6_E2M3 | Self::F6_E3M2 | Self::F4)
    }

    /// Whether every value of `self` has a value of `to` that is equal to it (NaN to NaN).
    pub fn fits_in(self, to: Self) -> bool {
        if self == to {
            return true;
        }
        if self == Self::Bool {
            return to.is_writable() && to != Self::F8_E8M0;
        }
        match (self.shape(), to.shape()) {
            (Some(a), Some(b)) => a.iter().zip(b).all(|(x, y)| *x <= y),
            _ => false,
        }
    }

    /// Significant bits, greatest exponent, least exponent negated, signedness, NaN and infinity:
    /// a type fits another when each number does.
    const fn shape(self) -> Option<[i32; 6]> {
        Some(match self {
            Self::F64 => [53, 1023, 1074, 1, 1, 1],
            Self::F32 => [24, 127, 149, 1, 1, 1],
            Self::F16 => [11, 15, 24, 1, 1, 1],
            Self::BF16 => [8, 127, 133, 1, 1, 1],
            Self::F8_E4M3 => [4, 8, 9, 1, 1, 0],
            Self::F8_E5M2 => [3, 15, 16, 1, 1, 1],
            Self::F8_E4M3FNUZ => [4, 7, 10, 1, 1, 0],
            Self::F8_E5M2FNUZ => [3, 15, 17, 1, 1, 0],
            Self::F8_E8M0 => [1, 127, 127, 0, 1, 0],
            Self::F6_E2M3 => [4, 2, 3, 1, 0, 0],
            Self::F6_E3M2 => [3, 4, 4, 1, 0, 0],
            Self::F4 => [2, 2, 1, 1, 0, 0],
            Self::U8 => [8, 7, 0, 0, 0, 0],
            Self::I8 => [7, 7, 0, 1, 0, 0],
            Self::U16 => [16, 15, 0, 0, 0, 0],
            Self::I16 => [15, 15, 0, 1, 0, 0],
            Self::U32 => [32, 31, 0, 0, 0, 0],
            Self::I32 => [31, 31, 0, 1, 0, 0],
            Self::U64 => [64, 63, 0, 0, 0, 0],
            Self::I64 => [63, 63, 0, 1, 0, 0],
            Self::Bool => return None,
        })
    }
}
