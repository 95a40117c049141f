//! Conversions between any two kinds.

use crate::Kind;
use crate::decode::{decode_f32, decode_f64, each as from};
use crate::encode::{each as to, encode_f32, encode_f64};

/// Elements converted at a time.
const STEP: usize = 512;

/// Converts elements of `from` to elements of `to` as PyTorch's `.to()`:
/// - between floats to nearest, ties to even (`F64` to narrow floats through `F32`);
/// - integers to floats rounded once to `F32` or `F64`, to narrow floats through `F32`;
/// - floats to integers towards zero, saturating, NaN to 0 (PyTorch's result is undefined there);
/// - between integers by the low bits, as two's complement;
/// - to truth values: whether the number is not 0 (NaN is true).
///
/// Returns the number of elements converted: as many as both slices hold, 0 when `to` is not
/// writable.
pub fn convert(from: Kind, to: Kind, src: &[u8], dst: &mut [u8]) -> usize {
    if !to.is_writable() {
        return 0;
    }
    let n = from.elements(src.len()).min(to.elements(dst.len()));
    if from == to && from != Kind::Bool {
        let bytes = n * from.bits() / 8;
        if let (Some(s), Some(d)) = (src.get(..bytes), dst.get_mut(..bytes)) {
            d.copy_from_slice(s);
        }
        return n;
    }
    let (sw, dw) = (STEP * from.bits() / 8, STEP * to.bits() / 8);
    let mut left = n;
    for (s, d) in src.chunks(sw).zip(dst.chunks_mut(dw)) {
        let take = left.min(STEP);
        let d = d.get_mut(..take * to.bits() / 8).unwrap_or_default();
        if from.is_int() && to.is_int() {
            let mut wide = [0i64; STEP];
            load(from, s, &mut wide);
            store(to, &wide, d);
        } else if from == Kind::F64 || to == Kind::F64 {
            let mut wide = [0f64; STEP];
            decode_f64(from, s, &mut wide);
            encode_f64(to, &wide, d);
        } else {
            let mut wide = [0f32; STEP];
            decode_f32(from, s, &mut wide);
            encode_f32(to, &wide, d);
        }
        left -= take;
    }
    n
}

/// The low 64 bits of integers; unsigned 64-bit values keep their bits.
fn load(kind: Kind, src: &[u8], dst: &mut [i64]) {
    match kind {
        Kind::Bool => from(src, dst, |[b]| i64::from(b != 0)),
        Kind::U8 => from(src, dst, |[b]| i64::from(b)),
        Kind::I8 => from(src, dst, |b| i64::from(i8::from_le_bytes(b))),
        Kind::U16 => from(src, dst, |b| i64::from(u16::from_le_bytes(b))),
        Kind::I16 => from(src, dst, |b| i64::from(i16::from_le_bytes(b))),
        Kind::U32 => from(src, dst, |b| i64::from(u32::from_le_bytes(b))),
        Kind::I32 => from(src, dst, |b| i64::from(i32::from_le_bytes(b))),
        Kind::U64 | Kind::I64 => from(src, dst, i64::from_le_bytes),
        _ => {}
    }
}

fn store(kind: Kind, src: &[i64], dst: &mut [u8]) {
    match kind {
        Kind::Bool => to(src, dst, |x| [u8::from(x != 0)]),
        Kind::U8 | Kind::I8 => to(src, dst, |x| (x as u8).to_le_bytes()),
        Kind::U16 | Kind::I16 => to(src, dst, |x| (x as u16).to_le_bytes()),
        Kind::U32 | Kind::I32 => to(src, dst, |x| (x as u32).to_le_bytes()),
        Kind::U64 | Kind::I64 => to(src, dst, i64::to_le_bytes),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one<const N: usize>(from: Kind, to: Kind, src: &[u8]) -> [u8; N] {
        let mut out = [0xaa; N];
        assert_eq!(convert(from, to, src, &mut out), 1);
        out
    }

    #[test]
    fn integers_wrap_and_floats_saturate() {
        assert_eq!(one(Kind::I16, Kind::U8, &(-1i16).to_le_bytes()), [255]);
        assert_eq!(one(Kind::I16, Kind::I8, &300i16.to_le_bytes()), [44]);
        assert_eq!(
            one(Kind::U32, Kind::I64, &u32::MAX.to_le_bytes()),
            i64::from(u32::MAX).to_le_bytes()
        );
        assert_eq!(
            one(Kind::I32, Kind::I64, &(-5i32).to_le_bytes()),
            (-5i64).to_le_bytes()
        );
        assert_eq!(one(Kind::F32, Kind::I8, &(-1.9f32).to_le_bytes()), [255]);
        assert_eq!(one(Kind::F32, Kind::U8, &1e9f32.to_le_bytes()), [255]);
        assert_eq!(one(Kind::F64, Kind::I32, &f64::NAN.to_le_bytes()), [0; 4]);
        let big = (1u64 << 53) + 1;
        assert_eq!(
            one(Kind::F64, Kind::I64, &(big as f64).to_le_bytes()),
            (1u64 << 53).to_le_bytes()
        );
        assert_eq!(
            one(Kind::I64, Kind::U64, &(big as i64).to_le_bytes()),
            big.to_le_bytes()
        );
        for (x, want) in [(0.0f32, 0), (-0.0, 0), (1e-45, 1), (f32::NAN, 1)] {
            assert_eq!(one(Kind::F32, Kind::Bool, &x.to_le_bytes()), [want]);
        }
        assert_eq!(one(Kind::Bool, Kind::Bool, &[7]), [1]);
        assert_eq!(one(Kind::Bool, Kind::F16, &[7]), 0x3c00u16.to_le_bytes());
    }

    #[test]
    fn integers_become_floats_as_in_pytorch() {
        let cases = [
            (i64::MAX, 0x5f00_0000u32),
            (16_777_217, 0x4b80_0000),
            (16_777_219, 0x4b80_0002),
        ];
        for (x, want) in cases {
            assert_eq!(
                one(Kind::I64, Kind::F32, &x.to_le_bytes()),
                want.to_le_bytes()
            );
        }
        assert_eq!(
            one(Kind::I64, Kind::F16, &2049i64.to_le_bytes()),
            0x6800u16.to_le_bytes()
        );
        assert_eq!(
            one(Kind::I64, Kind::F16, &65520i64.to_le_bytes()),
            0x7c00u16.to_le_bytes()
        );
        let top = u64::MAX.to_le_bytes();
        assert_eq!(
            one(Kind::U64, Kind::F64, &top),
            18_446_744_073_709_551_616f64.to_le_bytes()
        );
    }

    #[test]
    fn doubles_are_rounded_twice_to_narrow_floats() {
        // Just over a tie of binary16; binary32 loses the rest, and the tie goes to even.
        let x = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        assert_eq!(
            one(Kind::F64, Kind::F16, &x.to_le_bytes()),
            0x3c00u16.to_le_bytes()
        );
        let x = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        assert_eq!(
            one(Kind::F64, Kind::BF16, &x.to_le_bytes()),
            0x3f80u16.to_le_bytes()
        );
    }

    #[test]
    fn every_pair_converts_what_both_hold() {
        let src: Vec<u8> = (0..24_000u32).map(|i| ((i * 37) >> 3) as u8).collect();
        for from in Kind::ALL {
            for to in Kind::ALL {
                for len in [0, 1, 7, 8, 9, 1001, 24_000] {
                    let mut dst = vec![0xaa; 9_000];
                    let n = convert(from, to, &src[..len], &mut dst);
                    let want = from.elements(len).min(to.elements(9_000));
                    assert_eq!(n, if to.is_writable() { want } else { 0 });
                    // Nothing past the converted elements is touched.
                    assert!(
                        dst[(n * to.bits()).div_ceil(8)..]
                            .iter()
                            .all(|&b| b == 0xaa)
                    );
                    // Whatever fits comes back, NaNs aside.
                    if from.fits_in(to) && from.is_writable() && n > 0 {
                        let mut back = vec![0u8; n * from.bits() / 8];
                        assert_eq!(convert(to, from, &dst[..n * to.bits() / 8], &mut back), n);
                        same_values(from, &src[..back.len()], &back);
                    }
                }
            }
        }
    }

    fn same_values(kind: Kind, a: &[u8], b: &[u8]) {
        let n = kind.elements(a.len());
        let (mut x, mut y) = (vec![0f64; n], vec![0f64; n]);
        decode_f64(kind, a, &mut x);
        decode_f64(kind, b, &mut y);
        let same = x
            .iter()
            .zip(&y)
            .all(|(x, y)| x == y || (x.is_nan() && y.is_nan()));
        assert!(same, "{kind:?}");
    }

    #[test]
    fn what_fits_is_known() {
        use Kind::*;
        let fits = [
            (F16, F32),
            (BF16, F32),
            (F8_E4M3, F16),
            (F8_E5M2, F16),
            (F8_E5M2, BF16),
            (F4, F8_E4M3),
            (F6_E3M2, F8_E5M2),
            (U8, I16),
            (I8, F16),
            (U8, BF16),
            (U32, F64),
            (Bool, F8_E4M3),
            (F8_E8M0, BF16),
            (F8_E5M2FNUZ, F16),
            (I32, I64),
        ];
        for (a, b) in fits {
            assert!(a.fits_in(b), "{a:?} {b:?}");
        }
        let not = [
            (F16, BF16),
            (BF16, F16),
            (F32, F16),
            (U16, I16),
            (I8, U8),
            (I32, F32),
            (U64, F64),
            (F8_E5M2, F8_E4M3),
            (F8_E8M0, F16),
            (F32, I64),
            (U8, Bool),
            (F8_E5M2, F8_E5M2FNUZ),
        ];
        for (a, b) in not {
            assert!(!a.fits_in(b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn packed_values_unpack_lowest_bits_first() {
        let mut out = [0f32; 5];
        assert_eq!(decode_f32(Kind::F4, &[0x72, 0x0f], &mut out), 4);
        assert_eq!(out[..4], [1.0, 6.0, -6.0, 0.0]);
        assert_eq!(decode_f32(Kind::F4, &[0x72, 0x0f], &mut out[..3]), 3);
        // Codes 1, 2, 3 and 32 (the sign bit): 000001 000010 000011 100000 from the low end.
        let codes = 1u32 | 2 << 6 | 3 << 12 | 33 << 18;
        let bytes = codes.to_le_bytes();
        assert_eq!(decode_f32(Kind::F6_E2M3, &bytes[..3], &mut out), 4);
        assert_eq!(out[..4], [0.125, 0.25, 0.375, -0.125]);
        assert_eq!(decode_f32(Kind::F6_E2M3, &bytes[..2], &mut out), 2);
    }
}
