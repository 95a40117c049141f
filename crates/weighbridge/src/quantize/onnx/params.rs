//! Scales and zero points, computed as ONNX Runtime's Python quantizer computes them
//! (`compute_scale_zp` of `onnxruntime/quantization/quant_utils.py`, 1.32): in binary64, from a
//! range that holds zero.

use weighbridge_core::model::DType;
use weighbridge_kernels::{Kind, encode_f64};

/// The integers that values become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Int {
    /// −128 to 127.
    I8,
    /// 0 to 255.
    U8,
    /// −8 to 7, two a byte.
    I4,
    /// 0 to 15, two a byte.
    U4,
}

impl Int {
    /// The smallest and greatest integer.
    pub(super) fn bounds(self) -> (f64, f64) {
        match self {
            Self::I8 => (-128.0, 127.0),
            Self::U8 => (0.0, 255.0),
            Self::I4 => (-8.0, 7.0),
            Self::U4 => (0.0, 15.0),
        }
    }

    /// What of them is used.
    pub(super) fn used(self, symmetric: bool, reduced: bool) -> (f64, f64) {
        match (self, reduced) {
            (Self::I8, true) => (-64.0, 64.0),
            (Self::U8, true) => (0.0, 127.0),
            (Self::I4, true) => (-4.0, 3.0),
            (Self::U4, true) => (0.0, 7.0),
            (Self::I8, false) if symmetric => (-127.0, 127.0),
            _ => self.bounds(),
        }
    }

    /// Whether there are negative ones.
    pub(super) fn is_signed(self) -> bool {
        matches!(self, Self::I8 | Self::I4)
    }

    /// Bits of one.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::I8 | Self::U8 => 8,
            Self::I4 | Self::U4 => 4,
        }
    }

    /// The dtype.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::I8 => DType::I8,
            Self::U8 => DType::U8,
            Self::I4 => DType::I4,
            Self::U4 => DType::U4,
        }
    }
}

/// The scale, as it is stored, and the zero point of a range that may not hold zero.
pub(super) fn scale_and_zero(
    (least, most): (f32, f32),
    (low, high): (f64, f64),
    symmetric: bool,
    half: bool,
) -> (f32, f32) {
    let (mut least, mut most) = (f64::from(least.min(0.0)), f64::from(most.max(0.0)));
    if symmetric {
        most = most.max(-least);
        least = -most;
    }
    let scale = (most - least) / (high - low);
    let stored = if half {
        nearest_half(scale)
    } else {
        scale as f32
    };
    // Binary16 steps may be subnormal, binary32 ones may not.
    let usable = match half {
        true => stored > 0.0,
        false => scale >= f64::from(f32::MIN_POSITIVE),
    };
    if !usable {
        return (1.0, 0.0);
    }
    let zero = match symmetric {
        true => (low + high) / 2.0,
        false => low - least / scale,
    };
    (stored, zero.round_ties_even() as f32)
}

/// The nearest binary16 number, rounded once.
fn nearest_half(x: f64) -> f32 {
    let mut bytes = [0u8; 2];
    encode_f64(Kind::F16, &[x], &mut bytes);
    weighbridge_kernels::scalar::f16_to_f32(u16::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // `compute_scale_zp` of ONNX Runtime 1.32 gave the answers.
    #[test]
    fn answers_of_the_reference() {
        let of = |r, int: Int, symmetric, reduced| {
            scale_and_zero(r, int.used(symmetric, reduced), symmetric, false)
        };
        assert_eq!(of((-1.0, 2.0), Int::I8, true, false), (0.015_748_031, 0.0));
        assert_eq!(
            of((-1.0, 2.0), Int::U8, false, false),
            (0.011_764_706, 85.0)
        );
        assert_eq!(
            of((-1.0, 2.0), Int::I8, false, false),
            (0.011_764_706, -43.0)
        );
        assert_eq!(
            of((-1.0, 2.0), Int::U8, true, false),
            (0.015_686_275, 128.0)
        );
        assert_eq!(of((-1.0, 2.0), Int::I8, true, true), (0.031_25, 0.0));
        assert_eq!(of((-1.0, 2.0), Int::U8, false, true), (0.023_622_047, 42.0));
        assert_eq!(of((-1.0, 2.0), Int::I4, true, false), (0.266_666_68, 0.0));
        assert_eq!(of((-1.0, 2.0), Int::U4, true, false), (0.266_666_68, 8.0));
        assert_eq!(of((0.0, 0.0), Int::U8, false, false), (1.0, 0.0));
        assert_eq!(of((0.0, 1e-39), Int::U8, false, false), (1.0, 0.0));
        assert_eq!(of((3.0, 5.0), Int::I8, false, false).1, -128.0);
    }

    #[test]
    fn halves_keep_subnormal_steps() {
        let (scale, zero) = scale_and_zero((0.0, 1e-5), (0.0, 255.0), false, true);
        assert_eq!((scale, zero), (5.960_464_5e-8, 0.0));
        let (scale, _) = scale_and_zero((-1.0, 2.0), (-127.0, 127.0), true, true);
        assert_eq!(scale, 0.015_747_07);
    }
}
