//! Sixteen lanes.

#[allow(clippy::wildcard_imports)] // some sixty names
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use super::has_avx2;
use crate::block::lanes::{Float, Int, Kernel, Lanes, Mask, fill};

/// Whether sixteen lanes can be used.
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && has_avx2()
}

/// Runs a kernel in sixteen lanes; for `Path`s that are available.
pub(crate) fn run_avx512<K: Kernel>(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    fn inside<K: Kernel>(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        K::lanes(Avx512(()), row, weights, out);
    }
    assert!(has_avx512());
    // SAFETY: the instructions are there, as was just asserted.
    unsafe { inside::<K>(row, weights, out) }
}

/// Says that AVX-512 F, BW, DQ and VL are there.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

// The two sets spell a few operations differently.
macro_rules! gather16 {
    ($p:expr, $at:expr) => {
        _mm512_i32gather_epi32::<4>($at, $p)
    };
}
macro_rules! widen16 {
    ($p:expr) => {
        _mm512_cvtepu16_epi32(_mm256_loadu_si256($p))
    };
}
macro_rules! shift16 {
    ($f:ident, $x:expr, $b:ident) => {
        V16I(has!($f($x.0, _mm_cvtsi32_si128($b))))
    };
}
macro_rules! shl16 {
    ($x:expr, $b:ident) => {
        shift16!(_mm512_sll_epi32, $x, $b)
    };
}
macro_rules! shr16 {
    ($x:expr, $b:ident) => {
        shift16!(_mm512_srl_epi32, $x, $b)
    };
}
macro_rules! sar16 {
    ($x:expr, $b:ident) => {
        shift16!(_mm512_sra_epi32, $x, $b)
    };
}

vectors! {
    Avx512, 16, V16(__m512), V16I(__m512i), V16M(__mmask16);
    _mm512_set1_ps _mm512_set1_epi32 _mm512_loadu_ps _mm512_loadu_si512 gather16 widen16 _mm512_permutevar_ps;
    _mm512_storeu_ps _mm512_storeu_si512
    _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_div_ps _mm512_sqrt_ps _mm512_min_ps _mm512_max_ps
    _mm512_castps_si512 _mm512_castsi512_ps _mm512_cvtepi32_ps _mm512_cvttps_epi32
    _mm512_add_epi32 _mm512_sub_epi32 _mm512_mullo_epi32 _mm512_and_si512 _mm512_or_si512 _mm512_xor_si512
    _mm512_min_epi32 _mm512_max_epi32 shl16 shr16 sar16 _mm512_min_epu32 turn16
}

#[inline(always)]
fn turn16(rows: &mut [V16]) {
    let rows = &mut rows[..16];
    let parts = turn_quarters!(rows, 16,
        _mm512_unpacklo_ps _mm512_unpackhi_ps _mm512_unpacklo_pd _mm512_unpackhi_pd
        _mm512_castps_pd _mm512_castpd_ps);
    for c in 0..4 {
        let (a, b) = (parts[c], parts[4 + c]);
        let (even, odd) = (
            has!(_mm512_shuffle_f32x4::<0x88>(a, b)),
            has!(_mm512_shuffle_f32x4::<0xdd>(a, b)),
        );
        let (a, b) = (parts[8 + c], parts[12 + c]);
        let (even2, odd2) = (
            has!(_mm512_shuffle_f32x4::<0x88>(a, b)),
            has!(_mm512_shuffle_f32x4::<0xdd>(a, b)),
        );
        rows[c] = V16(has!(_mm512_shuffle_f32x4::<0x88>(even, even2)));
        rows[4 + c] = V16(has!(_mm512_shuffle_f32x4::<0x88>(odd, odd2)));
        rows[8 + c] = V16(has!(_mm512_shuffle_f32x4::<0xdd>(even, even2)));
        rows[12 + c] = V16(has!(_mm512_shuffle_f32x4::<0xdd>(odd, odd2)));
    }
}

impl V16 {
    #[inline(always)]
    fn reduce_min(self) -> f32 {
        has!(_mm512_reduce_min_ps(self.0))
    }

    #[inline(always)]
    fn lookup(token: Avx512, table: &[f32; 16], at: V16I) -> Self {
        Self(has!(_mm512_permutexvar_ps(at.0, token.load(table).0)))
    }

    #[inline(always)]
    fn compare<const HOW: i32>(self, other: Self) -> V16M {
        V16M(has!(_mm512_cmp_ps_mask::<HOW>(self.0, other.0)))
    }
}

impl V16I {
    #[inline(always)]
    fn most(self) -> i32 {
        has!(_mm512_reduce_max_epi32(self.0))
    }

    /// `out` has sixteen bytes.
    #[inline(always)]
    fn low_bytes(self, out: &mut [u8]) {
        let x = has!(_mm512_cvtepi32_epi8(self.0));
        let (low, high) = out.split_at_mut(8);
        low.copy_from_slice(&has!(_mm_cvtsi128_si64(x)).to_le_bytes());
        high.copy_from_slice(&has!(_mm_extract_epi64::<1>(x)).to_le_bytes());
    }

    #[inline(always)]
    fn same(self, other: Self) -> V16M {
        V16M(has!(_mm512_cmpeq_epi32_mask(self.0, other.0)))
    }

    #[inline(always)]
    fn greater(self, other: Self) -> V16M {
        V16M(has!(_mm512_cmpgt_epi32_mask(self.0, other.0)))
    }
}

impl BitAnd for V16M {
    type Output = Self;

    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for V16M {
    type Output = Self;

    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for V16M {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl Mask for V16M {
    type F = V16;
    type I = V16I;

    #[inline(always)]
    fn select(self, yes: V16, no: V16) -> V16 {
        V16(has!(_mm512_mask_blend_ps(self.0, no.0, yes.0)))
    }

    #[inline(always)]
    fn select_i(self, yes: V16I, no: V16I) -> V16I {
        V16I(has!(_mm512_mask_blend_epi32(self.0, no.0, yes.0)))
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.0)
    }
}
