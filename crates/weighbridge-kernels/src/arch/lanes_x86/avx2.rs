//! Eight lanes.

#[allow(clippy::wildcard_imports)] // some sixty names
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use crate::block::lanes::{Float, Int, Kernel, Lanes, Mask, fill};

/// Whether eight lanes can be used.
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Runs a kernel in eight lanes; for `Path`s that are available.
pub(crate) fn run_avx2<K: Kernel>(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    #[target_feature(enable = "avx2")]
    fn inside<K: Kernel>(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
        K::lanes(Avx2(()), row, weights, out);
    }
    assert!(has_avx2());
    // SAFETY: the instructions are there, as was just asserted.
    unsafe { inside::<K>(row, weights, out) }
}

/// Says that AVX2 is there.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

// The two sets spell a few operations differently.
macro_rules! gather8 {
    ($p:expr, $at:expr) => {
        _mm256_i32gather_epi32::<4>($p, $at)
    };
}
macro_rules! widen8 {
    ($p:expr) => {
        _mm256_cvtepu16_epi32(_mm_loadu_si128($p))
    };
}
macro_rules! shift8 {
    ($f:ident, $x:expr, $b:ident) => {
        V8I(has!($f($x.0, _mm_cvtsi32_si128($b))))
    };
}
macro_rules! shl8 {
    ($x:expr, $b:ident) => {
        shift8!(_mm256_sll_epi32, $x, $b)
    };
}
macro_rules! shr8 {
    ($x:expr, $b:ident) => {
        shift8!(_mm256_srl_epi32, $x, $b)
    };
}
macro_rules! sar8 {
    ($x:expr, $b:ident) => {
        shift8!(_mm256_sra_epi32, $x, $b)
    };
}

vectors! {
    Avx2, 8, V8(__m256), V8I(__m256i), V8M(__m256i);
    _mm256_set1_ps _mm256_set1_epi32 _mm256_loadu_ps _mm256_loadu_si256 gather8 widen8 _mm256_permutevar_ps;
    _mm256_storeu_ps _mm256_storeu_si256
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps _mm256_sqrt_ps _mm256_min_ps _mm256_max_ps
    _mm256_castps_si256 _mm256_castsi256_ps _mm256_cvtepi32_ps _mm256_cvttps_epi32
    _mm256_add_epi32 _mm256_sub_epi32 _mm256_mullo_epi32 _mm256_and_si256 _mm256_or_si256 _mm256_xor_si256
    _mm256_min_epi32 _mm256_max_epi32 shl8 shr8 sar8 _mm256_min_epu32 turn8
}

#[inline(always)]
fn turn8(rows: &mut [V8]) {
    let rows = &mut rows[..8];
    let parts = turn_quarters!(rows, 8,
        _mm256_unpacklo_ps _mm256_unpackhi_ps _mm256_unpacklo_pd _mm256_unpackhi_pd
        _mm256_castps_pd _mm256_castpd_ps);
    for c in 0..4 {
        let (a, b) = (parts[c], parts[4 + c]);
        rows[c] = V8(has!(_mm256_permute2f128_ps::<0x20>(a, b)));
        rows[4 + c] = V8(has!(_mm256_permute2f128_ps::<0x31>(a, b)));
    }
}

impl V8 {
    #[inline(always)]
    fn reduce_min(self) -> f32 {
        has!({
            let high = _mm256_extractf128_ps::<1>(self.0);
            let four = _mm_min_ps(_mm256_castps256_ps128(self.0), high);
            let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn lookup(token: Avx2, table: &[f32; 16], at: V8I) -> Self {
        let (low, high) = (token.load(&table[..8]), token.load(&table[8..]));
        Self(has!(_mm256_blendv_ps(
            _mm256_permutevar8x32_ps(low.0, at.0),
            _mm256_permutevar8x32_ps(high.0, at.0),
            _mm256_castsi256_ps(_mm256_slli_epi32::<28>(at.0))
        )))
    }

    #[inline(always)]
    fn compare<const HOW: i32>(self, other: Self) -> V8M {
        V8M(has!(_mm256_castps_si256(_mm256_cmp_ps::<HOW>(
            self.0, other.0
        ))))
    }
}

impl V8I {
    #[inline(always)]
    fn most(self) -> i32 {
        let high = has!(_mm256_extracti128_si256::<1>(self.0));
        let x = has!(_mm_max_epi32(_mm256_castsi256_si128(self.0), high));
        let x = has!(_mm_max_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x)));
        let x = has!(_mm_max_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)));
        has!(_mm_cvtsi128_si32(x))
    }

    /// `out` has eight bytes.
    #[inline(always)]
    fn low_bytes(self, out: &mut [u8]) {
        let x = has!(_mm256_and_si256(self.0, _mm256_set1_epi32(255)));
        // Narrowing works in 128-bit lanes: the second four come to stand above.
        let x = has!(_mm256_packus_epi32(x, x));
        let x = has!(_mm256_packus_epi16(x, x));
        let x = has!(_mm_unpacklo_epi32(
            _mm256_castsi256_si128(x),
            _mm256_extracti128_si256::<1>(x)
        ));
        out.copy_from_slice(&has!(_mm_cvtsi128_si64(x)).to_le_bytes());
    }

    #[inline(always)]
    fn same(self, other: Self) -> V8M {
        V8M(has!(_mm256_cmpeq_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn greater(self, other: Self) -> V8M {
        V8M(has!(_mm256_cmpgt_epi32(self.0, other.0)))
    }
}

operators!(V8M: BitAnd bitand _mm256_and_si256, BitOr bitor _mm256_or_si256);

impl Not for V8M {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(has!(_mm256_xor_si256(self.0, _mm256_set1_epi32(-1))))
    }
}

impl Mask for V8M {
    type F = V8;
    type I = V8I;

    #[inline(always)]
    fn select(self, yes: V8, no: V8) -> V8 {
        let mask = has!(_mm256_castsi256_ps(self.0));
        V8(has!(_mm256_blendv_ps(no.0, yes.0, mask)))
    }

    #[inline(always)]
    fn select_i(self, yes: V8I, no: V8I) -> V8I {
        V8I(has!(_mm256_blendv_epi8(no.0, yes.0, self.0)))
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        has!(_mm256_movemask_ps(_mm256_castsi256_ps(self.0))) as u32
    }
}
