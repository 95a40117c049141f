//! AVX2 and F16C. Loads and stores go through fixed-size arrays, so the only unsafe acts are the
//! calls of functions that need a processor feature, each right behind the check for it.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _CMP_UNORD_Q, _MM_FROUND_TO_NEAREST_INT, _mm256_add_epi32,
    _mm256_and_si256, _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_packus_epi32,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srli_epi32,
};

use super::plain;

/// Whether the F16C conversions can be used.
pub(super) fn has_f16c() -> bool {
    is_x86_feature_detected!("f16c") && is_x86_feature_detected!("avx")
}

/// Whether AVX2 can be used.
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Bytes and vectors of the same width as values: both are plain bits.
trait Bits: Copy {
    type Bytes;
    fn load(bytes: &Self::Bytes) -> Self;
    fn store(self, bytes: &mut Self::Bytes);
}

macro_rules! bits {
    ($vector:ty, $bytes:ty) => {
        impl Bits for $vector {
            type Bytes = $bytes;

            #[inline(always)]
            fn load(bytes: &$bytes) -> Self {
                // SAFETY: both types have the same size (asserted below), every bit pattern is
                // valid for both, and `read_unaligned` asks nothing of the alignment.
                unsafe { std::ptr::from_ref(bytes).cast::<Self>().read_unaligned() }
            }

            #[inline(always)]
            fn store(self, bytes: &mut $bytes) {
                // SAFETY: as in `load`; the destination is exclusively borrowed and of this size.
                unsafe {
                    std::ptr::from_mut(bytes)
                        .cast::<Self>()
                        .write_unaligned(self)
                }
            }
        }

        const _: () = assert!(size_of::<$vector>() == size_of::<$bytes>());
    };
}

bits!(__m128i, [u8; 16]);
bits!(__m256i, [u8; 32]);
bits!(__m256, [f32; 8]);

pub(super) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
    debug_assert!(has_f16c());
    // SAFETY: `arch` calls this only after `has_f16c`.
    unsafe { f16_to_f32_f16c(src, dst) }
}

#[target_feature(enable = "avx,f16c")]
fn f16_to_f32_f16c(src: &[u8], dst: &mut [f32]) {
    let n = src.len() / 2;
    let n = n.min(dst.len()) / 8 * 8;
    let (head, tail) = src.split_at(2 * n);
    let (whole, rest) = dst.split_at_mut(n);
    for (s, d) in head.as_chunks().0.iter().zip(whole.as_chunks_mut().0) {
        _mm256_cvtph_ps(__m128i::load(s)).store(d);
    }
    plain::f16_to_f32(tail, rest);
}

pub(super) fn f32_to_f16(src: &[f32], dst: &mut [u8]) {
    debug_assert!(has_f16c());
    // SAFETY: `arch` calls this only after `has_f16c`.
    unsafe { f32_to_f16_f16c(src, dst) }
}

#[target_feature(enable = "avx,f16c")]
fn f32_to_f16_f16c(src: &[f32], dst: &mut [u8]) {
    let n = src.len().min(dst.len() / 2) / 8 * 8;
    let (head, tail) = src.split_at(n);
    let (whole, rest) = dst.split_at_mut(2 * n);
    for (s, d) in head.as_chunks().0.iter().zip(whole.as_chunks_mut().0) {
        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(__m256::load(s)).store(d);
    }
    plain::f32_to_f16(tail, rest);
}

pub(super) fn bf16_to_f32(src: &[u8], dst: &mut [f32]) {
    debug_assert!(has_avx2());
    // SAFETY: `arch` calls this only after `has_avx2`.
    unsafe { bf16_to_f32_avx2(src, dst) }
}

#[target_feature(enable = "avx2")]
fn bf16_to_f32_avx2(src: &[u8], dst: &mut [f32]) {
    let n = src.len() / 2;
    let n = n.min(dst.len()) / 8 * 8;
    let (head, tail) = src.split_at(2 * n);
    let (whole, rest) = dst.split_at_mut(n);
    for (s, d) in head.as_chunks().0.iter().zip(whole.as_chunks_mut().0) {
        let wide = _mm256_cvtepu16_epi32(__m128i::load(s));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)).store(d);
    }
    plain::bf16_to_f32(tail, rest);
}

pub(super) fn f32_to_bf16(src: &[f32], dst: &mut [u8]) {
    debug_assert!(has_avx2());
    // SAFETY: `arch` calls this only after `has_avx2`.
    unsafe { f32_to_bf16_avx2(src, dst) }
}

#[target_feature(enable = "avx2")]
fn f32_to_bf16_avx2(src: &[f32], dst: &mut [u8]) {
    let n = src.len().min(dst.len() / 2) / 16 * 16;
    let (head, tail) = src.split_at(n);
    let (whole, rest) = dst.split_at_mut(2 * n);
    for (s, d) in head.as_chunks::<16>().0.iter().zip(whole.as_chunks_mut().0) {
        let halves = s.as_chunks::<8>().0;
        let [a, b] = halves else { continue };
        let packed = _mm256_packus_epi32(narrow(__m256::load(a)), narrow(__m256::load(b)));
        // `packus` works in 128-bit lanes: put the quarters back in order.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(packed).store(d);
    }
    plain::f32_to_bf16(tail, rest);
}

/// Eight brain floats in the low halves of eight words.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let half = _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan)
}
