//! Slices of `f32` and `f64` to bytes.

use crate::{Kind, arch, scalar};

/// Values narrowed at a time on the way from `f64` through `f32`.
const STEP: usize = 512;

#[inline(always)]
pub(crate) fn each<const N: usize, T: Copy>(src: &[T], dst: &mut [u8], f: impl Fn(T) -> [u8; N]) {
    for (s, d) in src.iter().zip(dst.as_chunks_mut::<N>().0) {
        *d = f(*s);
    }
}

macro_rules! to_int {
    ($src:ident, $dst:ident, $kind:ident, $float:expr) => {
        match $kind {
            Kind::Bool => each($src, $dst, |x| [u8::from(x != 0.0)]),
            Kind::U8 => each($src, $dst, |x| (x as u8).to_le_bytes()),
            Kind::I8 => each($src, $dst, |x| (x as i8).to_le_bytes()),
            Kind::U16 => each($src, $dst, |x| (x as u16).to_le_bytes()),
            Kind::I16 => each($src, $dst, |x| (x as i16).to_le_bytes()),
            Kind::U32 => each($src, $dst, |x| (x as u32).to_le_bytes()),
            Kind::I32 => each($src, $dst, |x| (x as i32).to_le_bytes()),
            Kind::U64 => each($src, $dst, |x| (x as u64).to_le_bytes()),
            Kind::I64 => each($src, $dst, |x| (x as i64).to_le_bytes()),
            _ => $float,
        }
    };
}

fn room(kind: Kind, have: usize, dst: &[u8]) -> usize {
    if kind.is_writable() {
        kind.elements(dst.len()).min(have)
    } else {
        0
    }
}

/// Converts `f32` to elements of `kind`, to nearest, ties to even, with PyTorch's treatment of
/// overflow (see each conversion in [`scalar`]). Integers are truncated towards zero; values
/// outside their range saturate and NaN is 0, where PyTorch's result is undefined.
/// Returns the number of elements converted; 0 for kinds that are not writable.
pub fn encode_f32(kind: Kind, src: &[f32], dst: &mut [u8]) -> usize {
    let n = room(kind, src.len(), dst);
    let Some(src) = src.get(..n) else { return 0 };
    to_int!(
        src,
        dst,
        kind,
        match kind {
            Kind::F64 => each(src, dst, |x| f64::from(x).to_le_bytes()),
            Kind::F32 => each(src, dst, f32::to_le_bytes),
            Kind::F16 => arch::f32_to_f16(src, dst),
            Kind::BF16 => arch::f32_to_bf16(src, dst),
            Kind::F8_E4M3 => each(src, dst, |x| [scalar::f32_to_e4m3(x)]),
            Kind::F8_E5M2 => each(src, dst, |x| [scalar::f32_to_e5m2(x)]),
            Kind::F8_E4M3FNUZ => each(src, dst, |x| [scalar::f32_to_e4m3fnuz(x)]),
            Kind::F8_E5M2FNUZ => each(src, dst, |x| [scalar::f32_to_e5m2fnuz(x)]),
            Kind::F8_E8M0 => each(src, dst, |x| [scalar::f32_to_e8m0(x)]),
            _ => {}
        }
    );
    n
}

/// Converts `f64` to elements of `kind`. Narrow floats go through `f32`, rounding twice, as in
/// PyTorch, whose narrow types are made from `float` only. Otherwise as [`encode_f32`].
pub fn encode_f64(kind: Kind, src: &[f64], dst: &mut [u8]) -> usize {
    let n = room(kind, src.len(), dst);
    let Some(src) = src.get(..n) else { return 0 };
    to_int!(
        src,
        dst,
        kind,
        match kind {
            Kind::F64 => each(src, dst, f64::to_le_bytes),
            Kind::F32 => each(src, dst, |x| (x as f32).to_le_bytes()),
            _ => {
                let mut narrow = [0f32; STEP];
                let width = kind.bits() / 8;
                for (s, d) in src.chunks(STEP).zip(dst.chunks_mut(STEP * width)) {
                    for (x, s) in narrow.iter_mut().zip(s) {
                        *x = *s as f32;
                    }
                    encode_f32(kind, narrow.get(..s.len()).unwrap_or_default(), d);
                }
            }
        }
    );
    n
}
