//! The lanes of `block::lanes` as AVX2 and AVX-512 vectors, and the functions that may use them.
//!
//! Vectors are made only through the tokens [`Avx2`] and [`Avx512`], which are made only in
//! [`run_avx2`] and [`run_avx512`], behind the check for the instructions. So whoever holds a
//! token or a vector is on a processor that has them: that is the argument of every `SAFETY` here.
#![allow(unsafe_code)]

#[allow(clippy::wildcard_imports)] // some sixty names
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use crate::block::lanes::{Float, Int, Kernel, Lanes, Mask, fill};

/// Whether eight lanes can be used.
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Whether sixteen lanes can be used.
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && has_avx2()
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

/// Says that AVX2 is there.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Says that AVX-512 F, BW, DQ and VL are there.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Intrinsics of instructions that a token or a vector in hand proves to be there.
macro_rules! has {
    ($e:expr) => {
        // SAFETY: see the module's documentation.
        unsafe { $e }
    };
}

macro_rules! operators {
    ($t:ident: $($op:ident $f:ident $intrinsic:ident),* $(,)?) => {$(
        impl $op for $t {
            type Output = Self;

            #[inline(always)]
            fn $f(self, other: Self) -> Self {
                Self(has!($intrinsic(self.0, other.0)))
            }
        }
    )*};
}

macro_rules! vectors {
    (
        $token:ident, $n:literal, $f:ident($fv:ty), $i:ident($iv:ty), $m:ident($mv:ty);
        $set_f:ident $set_i:ident $load_f:ident $load_i:ident $gather:ident $widen:ident $pick:ident;
        $store_f:ident $store_i:ident
        $add:ident $sub:ident $mul:ident $div:ident $sqrt:ident $min:ident $max:ident
        $castfi:ident $castif:ident $cvt:ident $cvtt:ident
        $addi:ident $subi:ident $muli:ident $and:ident $or:ident $xor:ident
        $mini:ident $maxi:ident $slli:ident $srli:ident $srai:ident $minu:ident $turn:ident
    ) => {
        /// Floats.
        #[derive(Clone, Copy)]
        pub(crate) struct $f($fv);

        /// Integers.
        #[derive(Clone, Copy)]
        pub(crate) struct $i($iv);

        /// Truth values.
        #[derive(Clone, Copy)]
        pub(crate) struct $m($mv);

        operators!($f: Add add $add, Sub sub $sub, Mul mul $mul, Div div $div);
        operators!($i: Add add $addi, Sub sub $subi, Mul mul $muli);
        operators!($i: BitAnd bitand $and, BitOr bitor $or, BitXor bitxor $xor);

        impl Lanes for $token {
            const N: usize = $n;
            type F = $f;
            type I = $i;
            type M = $m;

            #[inline(always)]
            fn f(self, x: f32) -> $f {
                $f(has!($set_f(x)))
            }

            #[inline(always)]
            fn i(self, x: i32) -> $i {
                $i(has!($set_i(x)))
            }

            #[inline(always)]
            fn f_from(self, f: impl FnMut(usize) -> f32) -> $f {
                let x: [f32; $n] = fill(0.0, f);
                self.load(&x)
            }

            #[inline(always)]
            fn i_from(self, f: impl FnMut(usize) -> i32) -> $i {
                let x: [i32; $n] = fill(0, f);
                self.load_i(&x)
            }

            #[inline(always)]
            fn turn(self, rows: &mut [$f]) {
                $turn(rows);
            }

            #[inline(always)]
            fn load(self, x: &[f32]) -> $f {
                let x = &x[..$n];
                // SAFETY: so many values are readable there; for the instructions see above.
                $f(unsafe { $load_f(x.as_ptr()) })
            }

            #[inline(always)]
            fn load_i(self, x: &[i32]) -> $i {
                let x = &x[..$n];
                // SAFETY: so many values are readable there; for the instructions see above.
                $i(unsafe { $load_i(x.as_ptr().cast()) })
            }

            #[inline(always)]
            fn gather(self, table: &[i32], at: $i) -> $i {
                assert!(!table.is_empty() && table.len() <= 1 << 30);
                let last = self.i(table.len() as i32 - 1);
                // SAFETY: every place is at most the last of the table, unsigned; the table has
                // fewer than 2^30 places, so none is negative.
                $i(unsafe { $gather!(table.as_ptr(), $minu(at.0, last.0)) })
            }

            #[inline(always)]
            fn widen(self, x: &[u16]) -> $i {
                let x = &x[..$n];
                // SAFETY: so many values are readable there; for the instructions see above.
                $i(unsafe { $widen!(x.as_ptr().cast()) })
            }

            #[inline(always)]
            fn pick(self, table: $f, at: $i) -> $f {
                $f(has!($pick(table.0, at.0)))
            }

            #[inline(always)]
            fn lookup(self, table: &[f32; 16], at: $i) -> $f {
                $f::lookup(self, table, at)
            }
        }

        impl Neg for $f {
            type Output = Self;

            #[inline(always)]
            fn neg(self) -> Self {
                Self(has!($castif($xor($castfi(self.0), $set_i(i32::MIN)))))
            }
        }

        impl Float for $f {
            type I = $i;
            type M = $m;

            #[inline(always)]
            fn abs(self) -> Self {
                Self(has!($castif($and($castfi(self.0), $set_i(i32::MAX)))))
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(has!($sqrt(self.0)))
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Self(has!($min(self.0, other.0)))
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Self(has!($max(self.0, other.0)))
            }

            #[inline(always)]
            fn lt(self, other: Self) -> $m {
                self.compare::<_CMP_LT_OQ>(other)
            }

            #[inline(always)]
            fn le(self, other: Self) -> $m {
                self.compare::<_CMP_LE_OQ>(other)
            }

            #[inline(always)]
            fn eq(self, other: Self) -> $m {
                self.compare::<_CMP_EQ_OQ>(other)
            }

            #[inline(always)]
            fn least(self) -> f32 {
                self.reduce_min()
            }

            #[inline(always)]
            fn bits(self) -> $i {
                $i(has!($castfi(self.0)))
            }

            #[inline(always)]
            fn trunc(self) -> $i {
                $i(has!($cvtt(self.0)))
            }

            #[inline(always)]
            fn store(self, out: &mut [f32]) {
                let out = &mut out[..$n];
                // SAFETY: so many values are writable there; for the instructions see above.
                unsafe { $store_f(out.as_mut_ptr(), self.0) }
            }

            #[inline(always)]
            fn each(self, mut f: impl FnMut(usize, f32)) {
                let mut all = [0.0; $n];
                self.store(&mut all);
                for (lane, x) in all.into_iter().enumerate() {
                    f(lane, x);
                }
            }
        }

        impl Int for $i {
            type F = $f;
            type M = $m;

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Self(has!($mini(self.0, other.0)))
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Self(has!($maxi(self.0, other.0)))
            }

            #[inline(always)]
            fn eq(self, other: Self) -> $m {
                self.same(other)
            }

            #[inline(always)]
            fn gt(self, other: Self) -> $m {
                self.greater(other)
            }

            #[inline(always)]
            fn shl<const BITS: i32>(self) -> Self {
                $slli!(self, BITS)
            }

            #[inline(always)]
            fn shr<const BITS: i32>(self) -> Self {
                $srli!(self, BITS)
            }

            #[inline(always)]
            fn sar<const BITS: i32>(self) -> Self {
                $srai!(self, BITS)
            }

            #[inline(always)]
            fn float(self) -> $f {
                $f(has!($cvt(self.0)))
            }

            #[inline(always)]
            fn from_bits(self) -> $f {
                $f(has!($castif(self.0)))
            }

            #[inline(always)]
            fn low23(self) -> Self {
                Self(has!($subi(
                    $and(self.0, $set_i(0x7f_ffff)),
                    $set_i(0x40_0000)
                )))
            }

            #[inline(always)]
            fn store(self, out: &mut [i32]) {
                let out = &mut out[..$n];
                // SAFETY: so many values are writable there; for the instructions see above.
                unsafe { $store_i(out.as_mut_ptr().cast(), self.0) }
            }

            #[inline(always)]
            fn greatest(self) -> i32 {
                self.most()
            }

            #[inline(always)]
            fn store_bytes(self, out: &mut [u8]) {
                self.low_bytes(&mut out[..$n]);
            }

            #[inline(always)]
            fn each(self, mut f: impl FnMut(usize, i32)) {
                let mut all = [0; $n];
                self.store(&mut all);
                for (lane, x) in all.into_iter().enumerate() {
                    f(lane, x);
                }
            }
        }
    };
}

// The two sets spell a few operations differently.
macro_rules! gather8 {
    ($p:expr, $at:expr) => {
        _mm256_i32gather_epi32::<4>($p, $at)
    };
}
macro_rules! gather16 {
    ($p:expr, $at:expr) => {
        _mm512_i32gather_epi32::<4>($at, $p)
    };
}
macro_rules! widen8 {
    ($p:expr) => {
        _mm256_cvtepu16_epi32(_mm_loadu_si128($p))
    };
}
macro_rules! widen16 {
    ($p:expr) => {
        _mm512_cvtepu16_epi32(_mm256_loadu_si256($p))
    };
}
macro_rules! shift8 {
    ($f:ident, $x:expr, $b:ident) => {
        V8I(has!($f($x.0, _mm_cvtsi32_si128($b))))
    };
}
macro_rules! shift16 {
    ($f:ident, $x:expr, $b:ident) => {
        V16I(has!($f($x.0, _mm_cvtsi32_si128($b))))
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
    Avx2, 8, V8(__m256), V8I(__m256i), V8M(__m256i);
    _mm256_set1_ps _mm256_set1_epi32 _mm256_loadu_ps _mm256_loadu_si256 gather8 widen8 _mm256_permutevar_ps;
    _mm256_storeu_ps _mm256_storeu_si256
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps _mm256_sqrt_ps _mm256_min_ps _mm256_max_ps
    _mm256_castps_si256 _mm256_castsi256_ps _mm256_cvtepi32_ps _mm256_cvttps_epi32
    _mm256_add_epi32 _mm256_sub_epi32 _mm256_mullo_epi32 _mm256_and_si256 _mm256_or_si256 _mm256_xor_si256
    _mm256_min_epi32 _mm256_max_epi32 shl8 shr8 sar8 _mm256_min_epu32 turn8
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

/// Columns of four rows each in every quarter (or half) of the vectors.
macro_rules! turn_quarters {
    ($rows:ident, $n:literal, $lo:ident $hi:ident $lo2:ident $hi2:ident $to:ident $from:ident) => {{
        let mut out = [$rows[0].0; $n];
        for g in (0..$n).step_by(4) {
            let [a, b, c, d] = [$rows[g].0, $rows[g + 1].0, $rows[g + 2].0, $rows[g + 3].0];
            let (p, q) = (has!($to($lo(a, b))), has!($to($lo(c, d))));
            let (r, s) = (has!($to($hi(a, b))), has!($to($hi(c, d))));
            out[g] = has!($from($lo2(p, q)));
            out[g + 1] = has!($from($hi2(p, q)));
            out[g + 2] = has!($from($lo2(r, s)));
            out[g + 3] = has!($from($hi2(r, s)));
        }
        out
    }};
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

impl V16 {
    #[inline(always)]
    fn reduce_min(self) -> f32 {
        let high = has!(_mm512_extractf32x8_ps::<1>(self.0));
        V8(has!(_mm256_min_ps(_mm512_castps512_ps256(self.0), high))).reduce_min()
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
