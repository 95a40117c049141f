//! One element at a time: the definition that the SIMD paths are held to.

use crate::mini;

/// Binary16 to binary32; exact. A signalling NaN becomes quiet, as in hardware.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    mini::F16.decode(bits)
}

/// Binary32 to binary16, ties to even. NaN keeps its sign and upper payload and becomes quiet, as
/// F16C does it.
#[inline]
pub fn f32_to_f16(x: f32) -> u16 {
    let code = mini::F16.encode(x);
    if x.is_nan() {
        code | (x.to_bits() >> 13) as u16 & 0x3ff
    } else {
        code
    }
}

/// Brain float to binary32; exact, NaN payloads included.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Binary32 to brain float, ties to even. NaN becomes 0x7fc0 (`c10/util/BFloat16.h`,
/// `round_to_nearest_even`; PyTorch's vectorized path makes 0xffff of it).
#[inline]
pub fn f32_to_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// An MX scale: 2^(code − 127), 255 is NaN.
#[inline]
pub fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x0040_0000), // 2^-127 is subnormal
        255 => mini::PYTORCH_NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// The exponent of `x` without its sign, rounded up from half as `c10/util/Float8_e8m0fnu.h` does;
/// infinity and NaN become NaN.
#[inline]
pub fn f32_to_e8m0(x: f32) -> u8 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as u8;
    if exponent == 255 {
        return 255;
    }
    let mantissa = bits & 0x7f_ffff;
    let half = 0x40_0000;
    let up = mantissa > half || (mantissa == half && exponent > 0);
    exponent + u8::from(up)
}

macro_rules! small {
    ($to:ident, $from:ident, $table:ident, $format:ident, $what:literal) => {
        static $table: [f32; 256] = mini::table(mini::$format);

        #[doc = concat!("The value of ", $what, "; exact.")]
        #[inline]
        pub fn $to(code: u8) -> f32 {
            $table[usize::from(code)]
        }

        #[doc = concat!("The nearest ", $what, ", ties to even.")]
        #[inline]
        pub fn $from(x: f32) -> u8 {
            mini::$format.encode(x) as u8
        }
    };
}

small!(e4m3_to_f32, f32_to_e4m3, E4M3, E4M3, "an E4M3 (saturating)");
small!(e5m2_to_f32, f32_to_e5m2, E5M2, E5M2, "an E5M2");
small!(
    e4m3fnuz_to_f32,
    f32_to_e4m3fnuz,
    E4M3FNUZ,
    E4M3FNUZ,
    "an E4M3FNUZ"
);
small!(
    e5m2fnuz_to_f32,
    f32_to_e5m2fnuz,
    E5M2FNUZ,
    E5M2FNUZ,
    "an E5M2FNUZ"
);

static E2M3: [f32; 256] = mini::table(mini::E2M3);
static E3M2: [f32; 256] = mini::table(mini::E3M2);
static E2M1: [f32; 256] = mini::table(mini::E2M1);

/// The value of the low 6 bits as E2M3; exact.
#[inline]
pub fn e2m3_to_f32(code: u8) -> f32 {
    E2M3[usize::from(code)]
}

/// The value of the low 6 bits as E3M2; exact.
#[inline]
pub fn e3m2_to_f32(code: u8) -> f32 {
    E3M2[usize::from(code)]
}

/// The value of the low 4 bits as E2M1; exact.
#[inline]
pub fn e2m1_to_f32(code: u8) -> f32 {
    E2M1[usize::from(code)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::{E2M1, E2M3, E3M2, E4M3, E4M3FNUZ, E5M2, E5M2FNUZ, F16, Mini};

    const ALL: [Mini; 8] = [F16, E4M3, E5M2, E4M3FNUZ, E5M2FNUZ, E2M3, E3M2, E2M1];

    /// The finite value of a code from the definition of the formats, in double precision.
    fn defined(f: Mini, magnitude: u16) -> f64 {
        let exponent = i32::from(magnitude >> f.man);
        let mantissa = f64::from(magnitude & ((1 << f.man) - 1)) / f64::from(1u32 << f.man);
        if exponent == 0 {
            mantissa * 2f64.powi(1 - f.bias)
        } else {
            (1.0 + mantissa) * 2f64.powi(exponent - f.bias)
        }
    }

    #[test]
    fn every_code_decodes_to_its_definition() {
        for f in ALL {
            let sign = 1u16 << (f.bits - 1);
            for magnitude in 0..=f.max {
                let value = f.decode(magnitude);
                assert_eq!(
                    f64::from(value),
                    defined(f, magnitude),
                    "{f:?} {magnitude:x}"
                );
                if magnitude != 0 {
                    assert_eq!(f.decode(magnitude | sign), -value);
                }
            }
        }
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert_eq!(e5m2_to_f32(0x7b), 57344.0);
        assert_eq!(e4m3fnuz_to_f32(0x7f), 240.0);
        assert_eq!(e5m2fnuz_to_f32(0x7f), 57344.0);
        assert_eq!(
            [0, 1, 7, 8, 15].map(e2m1_to_f32),
            [0.0, 0.5, 6.0, -0.0, -6.0]
        );
        assert_eq!((e2m3_to_f32(0x1f), e3m2_to_f32(0x1f)), (7.5, 28.0));
        assert_eq!(f16_to_f32(0x8000).to_bits(), 0x8000_0000);
        assert_eq!(e4m3fnuz_to_f32(0).to_bits(), 0);
    }

    #[test]
    fn specials_decode() {
        assert_eq!(f16_to_f32(0x7c00), f32::INFINITY);
        assert_eq!(f16_to_f32(0xfc00), f32::NEG_INFINITY);
        // As `vcvtph2ps`: quiet, payload and sign kept.
        assert_eq!(f16_to_f32(0x7c01).to_bits(), 0x7fc0_2000);
        assert_eq!(f16_to_f32(0xffff).to_bits(), 0xffff_e000);
        assert_eq!(e5m2_to_f32(0xfc), f32::NEG_INFINITY);
        let nan = [
            e4m3_to_f32(0x7f),
            e4m3_to_f32(0xff),
            e5m2_to_f32(0x7d),
            e5m2_to_f32(0xff),
        ];
        assert!(nan.iter().all(|x| x.is_nan()));
        assert!(e4m3fnuz_to_f32(0x80).is_nan() && e5m2fnuz_to_f32(0x80).is_nan());
        assert_eq!(e8m0_to_f32(127), 1.0);
        assert_eq!(f64::from(e8m0_to_f32(0)), 2f64.powi(-127));
        assert_eq!(f64::from(e8m0_to_f32(254)), 2f64.powi(127));
        let nan = [
            e8m0_to_f32(255),
            e4m3fnuz_to_f32(0x80),
            e5m2fnuz_to_f32(0x80),
        ];
        assert_eq!(nan.map(f32::to_bits), [0x7f80_0001; 3]);
    }

    /// The nearest code by search over all values, ties to the even code. Overflow begins half
    /// a step over the greatest value.
    fn nearest(f: Mini, values: &[f64], x: f64) -> u16 {
        let i = values.partition_point(|&v| v < x);
        if i == 0 {
            return 0;
        }
        // `values` ends with the value that would follow the greatest.
        let (lo, hi) = (values[i - 1], values[i.min(values.len() - 1)]);
        let code = if i == values.len() {
            i
        } else {
            match (x - lo).total_cmp(&(hi - x)) {
                std::cmp::Ordering::Less => i - 1,
                std::cmp::Ordering::Greater => i,
                std::cmp::Ordering::Equal => i - 1 + (i - 1) % 2,
            }
        };
        if code > usize::from(f.max) {
            f.over
        } else {
            code as u16
        }
    }

    #[test]
    fn encoding_finds_the_nearest() {
        let mut state = 7u64;
        for f in ALL {
            let values: Vec<f64> = (0..=f.max + 1).map(|m| defined(f, m)).collect();
            let mut inputs: Vec<f32> = vec![f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY];
            for pair in values.windows(2) {
                // Each value, each midpoint, and the neighbours of both.
                let middle = ((pair[0] + pair[1]) / 2.0) as f32;
                for x in [pair[0] as f32, middle] {
                    let next = |d: i32| f32::from_bits(x.to_bits().saturating_add_signed(d));
                    inputs.extend([x, next(1), next(-1)]);
                }
            }
            for _ in 0..20_000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                inputs.push(f32::from_bits((state >> 33) as u32));
            }
            let sign = 1u16 << (f.bits - 1);
            for x in inputs.into_iter().filter(|x| !x.is_nan()) {
                let want = nearest(f, &values, f64::from(x));
                assert_eq!(f.encode(x), want, "{f:?} {x:e}");
                let bare = f.unsigned_zero && (want == 0 || want == f.nan);
                let negative = if bare { want } else { want | sign };
                assert_eq!(f.encode(-x), negative, "{f:?} -{x:e}");
            }
        }
    }

    /// What PyTorch 2.15 gave on x86-64 for the same inputs.
    #[test]
    fn encoding_gives_pytorchs_answers() {
        let inf = f32::INFINITY;
        let x = [
            448.0,
            463.9,
            464.0,
            480.0,
            1e9,
            inf,
            -inf,
            2f32.powi(-10),
            -2f32.powi(-20),
        ];
        assert_eq!(
            x.map(f32_to_e4m3),
            [0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0xfe, 0x00, 0x80]
        );
        assert_eq!(
            x.map(f32_to_e5m2),
            [0x5f, 0x5f, 0x5f, 0x60, 0x7c, 0x7c, 0xfc, 0x14, 0x80]
        );
        assert_eq!(
            x.map(f32_to_e5m2fnuz),
            [0x63, 0x63, 0x63, 0x64, 0x80, 0x80, 0x80, 0x18, 0]
        );
        let y = [240.0, 247.9, 248.0, -247.9, -248.0, 1e30];
        assert_eq!(y.map(f32_to_e4m3fnuz), [0x7f, 0x7f, 0x80, 0xff, 0x80, 0x80]);
        let z = [57344.0, 61439.0, 61440.0, -61439.0];
        assert_eq!(z.map(f32_to_e5m2), [0x7b, 0x7b, 0x7c, 0xfb]);
        assert_eq!(z.map(f32_to_e5m2fnuz), [0x7f, 0x7f, 0x80, 0xff]);
        assert_eq!([f32::NAN, -f32::NAN].map(f32_to_e4m3), [0x7f, 0xff]);
        assert_eq!([f32::NAN, -f32::NAN].map(f32_to_e5m2), [0x7f, 0xff]);
        assert_eq!([f32::NAN, -f32::NAN].map(f32_to_e4m3fnuz), [0x80, 0x80]);
        let s = [1.0, 1.4, 1.5, 3.0, 0.0, -1.0, 3e38, inf, f32::NAN];
        assert_eq!(
            s.map(f32_to_e8m0),
            [127, 127, 128, 129, 0, 127, 255, 255, 255]
        );
        let tiny = [0x0020_0000, 0x0040_0000, 0x0060_0000, 1, 0x00c0_0000].map(f32::from_bits);
        assert_eq!(tiny.map(f32_to_e8m0), [0, 0, 1, 0, 2]);
        let n = [
            0x7f80_0001,
            0x7fc0_0000,
            0xffff_ffff,
            0x7f80_2000,
            0xff80_0001,
        ]
        .map(f32::from_bits);
        assert_eq!(n.map(f32_to_f16), [0x7e00, 0x7e00, 0xffff, 0x7e01, 0xfe00]);
        assert_eq!(n.map(f32_to_bf16), [0x7fc0; 5]);
        let b = [
            1.0,
            -2.0,
            3.389e38,
            3.4e38,
            inf,
            1.0 + 2f32.powi(-8),
            1.0 + 3.0 * 2f32.powi(-8),
        ];
        assert_eq!(
            b.map(f32_to_bf16),
            [0x3f80, 0xc000, 0x7f7f, 0x7f80, 0x7f80, 0x3f80, 0x3f82]
        );
    }

    #[test]
    fn brain_float_is_the_upper_half() {
        for code in 0..=u16::MAX {
            let x = bf16_to_f32(code);
            assert_eq!(x.to_bits(), u32::from(code) << 16);
            if x.is_finite() {
                // Just under, at and over the midpoint to the next code.
                let rounded = |low| f32_to_bf16(f32::from_bits(x.to_bits() | low));
                assert_eq!([0, 0x7fff].map(rounded), [code; 2]);
                assert_eq!(rounded(0x8000), code + code % 2);
                assert_eq!(rounded(0x8001), code + 1);
            }
            let h = f16_to_f32(code);
            if !h.is_nan() {
                assert_eq!(f32_to_f16(h), code);
            }
        }
    }
}
