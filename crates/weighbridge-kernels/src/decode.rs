//! Whole slices to `f32` and `f64`.

use crate::{Kind, arch, scalar};

/// Values decoded at a time on the way to `f64` through `f32`.
const STEP: usize = 512;

/// Little-endian numbers of `N` bytes to anything.
#[inline(always)]
pub(crate) fn each<const N: usize, T>(src: &[u8], dst: &mut [T], f: impl Fn([u8; N]) -> T) {
    for (s, d) in src.as_chunks::<N>().0.iter().zip(dst) {
        *d = f(*s);
    }
}

/// 6-bit codes, packed from the lowest bit up: four in three bytes.
fn each6(src: &[u8], dst: &mut [f32], f: impl Fn(u8) -> f32) {
    for (i, d) in dst.iter_mut().enumerate() {
        let bit = i * 6;
        let byte = |n: usize| u16::from(src.get(bit / 8 + n).copied().unwrap_or_default());
        let pair = byte(0) | byte(1) << 8;
        *d = f((pair >> (bit % 8)) as u8 & 0x3f);
    }
}

fn each4(src: &[u8], dst: &mut [f32], f: impl Fn(u8) -> f32) {
    for (pair, d) in src.iter().zip(dst.chunks_mut(2)) {
        for (half, d) in d.iter_mut().enumerate() {
            *d = f(pair >> (4 * half) & 0xf);
        }
    }
}

/// Converts elements of `kind` to `f32`: exact for floats up to 32 bits, rounded to nearest, ties
/// to even, for `F64` and wide integers. Returns the number of elements converted: as many as
/// both slices hold.
pub fn decode_f32(kind: Kind, src: &[u8], dst: &mut [f32]) -> usize {
    let n = kind.elements(src.len()).min(dst.len());
    let Some(dst) = dst.get_mut(..n) else {
        return 0;
    };
    match kind {
        Kind::F64 => each(src, dst, |b| f64::from_le_bytes(b) as f32),
        Kind::F32 => each(src, dst, f32::from_le_bytes),
        Kind::F16 => arch::f16_to_f32(src, dst),
        Kind::BF16 => arch::bf16_to_f32(src, dst),
        Kind::F8_E4M3 => each(src, dst, |[b]| scalar::e4m3_to_f32(b)),
        Kind::F8_E5M2 => each(src, dst, |[b]| scalar::e5m2_to_f32(b)),
        Kind::F8_E4M3FNUZ => each(src, dst, |[b]| scalar::e4m3fnuz_to_f32(b)),
        Kind::F8_E5M2FNUZ => each(src, dst, |[b]| scalar::e5m2fnuz_to_f32(b)),
        Kind::F8_E8M0 => each(src, dst, |[b]| scalar::e8m0_to_f32(b)),
        Kind::F6_E2M3 => each6(src, dst, scalar::e2m3_to_f32),
        Kind::F6_E3M2 => each6(src, dst, scalar::e3m2_to_f32),
        Kind::F4 => each4(src, dst, scalar::e2m1_to_f32),
        Kind::Bool => each(src, dst, |[b]| f32::from(u8::from(b != 0))),
        Kind::U8 => each(src, dst, |[b]| f32::from(b)),
        Kind::I8 => each(src, dst, |b| f32::from(i8::from_le_bytes(b))),
        Kind::U16 => each(src, dst, |b| f32::from(u16::from_le_bytes(b))),
        Kind::I16 => each(src, dst, |b| f32::from(i16::from_le_bytes(b))),
        Kind::U32 => each(src, dst, |b| u32::from_le_bytes(b) as f32),
        Kind::I32 => each(src, dst, |b| i32::from_le_bytes(b) as f32),
        Kind::U64 => each(src, dst, |b| u64::from_le_bytes(b) as f32),
        Kind::I64 => each(src, dst, |b| i64::from_le_bytes(b) as f32),
    }
    n
}

/// Converts elements of `kind` to `f64`: exact for all but 64-bit integers, which are rounded to
/// nearest, ties to even. Returns the number of elements converted.
pub fn decode_f64(kind: Kind, src: &[u8], dst: &mut [f64]) -> usize {
    let n = kind.elements(src.len()).min(dst.len());
    let Some(dst) = dst.get_mut(..n) else {
        return 0;
    };
    match kind {
        Kind::F64 => each(src, dst, f64::from_le_bytes),
        Kind::F32 => each(src, dst, |b| f64::from(f32::from_le_bytes(b))),
        Kind::U32 => each(src, dst, |b| f64::from(u32::from_le_bytes(b))),
        Kind::I32 => each(src, dst, |b| f64::from(i32::from_le_bytes(b))),
        Kind::U64 => each(src, dst, |b| u64::from_le_bytes(b) as f64),
        Kind::I64 => each(src, dst, |b| i64::from_le_bytes(b) as f64),
        // All others fit f32 exactly. A step is a whole number of bytes for every width.
        _ => {
            let mut narrow = [0f32; STEP];
            for (s, d) in src.chunks(STEP * kind.bits() / 8).zip(dst.chunks_mut(STEP)) {
                let n = decode_f32(kind, s, &mut narrow);
                for (d, x) in d.iter_mut().zip(narrow.iter().take(n)) {
                    *d = f64::from(*x);
                }
            }
        }
    }
    n
}
