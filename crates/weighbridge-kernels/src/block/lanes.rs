//! The vector that all fast paths are written in, and the choice of its width at run time.
//!
//! A kernel implements [`Kernel`]: once as a scalar twin, and once in lanes, generic over
//! [`Lanes`]. A lane is a sub-block (or a block, or a row's block), so that each lane does what the
//! twin does, in its order. Values of the vector types are only made through a token `s: impl
//! Lanes`, and a token exists only where the processor was found to have the instructions, so
//! everything here is safe to call.
//!
//! - `s.f(x)`, `s.i(x)`: the same number in every lane; `s.f_from(|lane| ..)`, `s.load(&x[..])`.
//! - `+ - * /`, `abs`, `sqrt`, `min`, `max`, comparisons to masks, `mask.select(a, b)`: lane by
//!   lane, IEEE, never contracted. `a.min(b)` is `a < b ? a : b` and `a.max(b)` `a > b ? a : b`,
//!   also with NaN.
//! - `nearest()`, `trunc()`: to integers, bit for bit as the reference on x86-64 also out of range.
//! - Mark every function between [`Kernel::lanes`] and the vectors `#[inline(always)]`: what is
//!   not inlined is compiled without the instructions and calls each of them. For the same reason
//!   let no closure touch a vector, nor `array::map` or `array::from_fn`: use loops and local
//!   macros. `objdump -d --demangle` shows calls in `run_avx512::inside` that should not be there.

mod portable;

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

pub(crate) use portable::Portable;

/// Adding it leaves the nearest integer (half to even) in the low bits of the sum: 1.5 · 2^23.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// A token for vectors of `N` lanes.
#[allow(dead_code)] // a vocabulary, of which not every word is in use
pub(crate) trait Lanes: Copy {
    /// How many lanes.
    const N: usize;
    /// Binary32 in every lane.
    type F: Float<I = Self::I, M = Self::M>;
    /// 32-bit integers, signed where it matters.
    type I: Int<F = Self::F, M = Self::M>;
    /// A truth value in every lane.
    type M: Mask<F = Self::F, I = Self::I>;

    /// The same value in every lane.
    fn f(self, x: f32) -> Self::F;
    /// The same value in every lane.
    fn i(self, x: i32) -> Self::I;
    /// `f(lane)` in each lane.
    fn f_from(self, f: impl FnMut(usize) -> f32) -> Self::F;
    /// `f(lane)` in each lane.
    fn i_from(self, f: impl FnMut(usize) -> i32) -> Self::I;
    /// Turns `N` rows of `N` values into their columns; `rows` must be as many.
    fn turn(self, rows: &mut [Self::F]);
    /// The first `N` values, of which there must be as many.
    fn load(self, x: &[f32]) -> Self::F;
    /// The first `N` values, of which there must be as many.
    fn load_i(self, x: &[i32]) -> Self::I;
    /// `table[at]`; a place beyond the table is its last. The table must not be empty.
    fn gather(self, table: &[i32], at: Self::I) -> Self::I;
    /// The first `N` values, of which there must be as many.
    fn widen(self, x: &[u16]) -> Self::I;
    /// In each four lanes, the one of these four of `table` that `at & 3` names.
    fn pick(self, table: Self::F, at: Self::I) -> Self::F;
    /// `table[at & 15]`.
    fn lookup(self, table: &[f32; 16], at: Self::I) -> Self::F;
}

/// Binary32 lanes.
#[allow(dead_code)] // as above
pub(crate) trait Float:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// Integers of as many lanes.
    type I: Int<F = Self, M = Self::M>;
    /// Truth values of as many lanes.
    type M: Mask<F = Self, I = Self::I>;

    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    /// `self < other ? self : other`.
    fn min(self, other: Self) -> Self;
    /// `self > other ? self : other`.
    fn max(self, other: Self) -> Self;
    fn lt(self, other: Self) -> Self::M;
    fn le(self, other: Self) -> Self::M;
    fn eq(self, other: Self) -> Self::M;
    /// The least of the lanes, none of which may be NaN.
    fn least(self) -> f32;
    /// The bits as integers.
    fn bits(self) -> Self::I;
    /// Towards zero; what does not fit, and NaN, is `i32::MIN` as on x86.
    fn trunc(self) -> Self::I;
    /// Writes the lanes to the front of `out`, which must hold as many.
    fn store(self, out: &mut [f32]);
    /// As `store`, with every lane's number: `f(lane, value)`.
    fn each(self, f: impl FnMut(usize, f32));

    #[inline(always)]
    fn gt(self, other: Self) -> Self::M {
        other.lt(self)
    }

    #[inline(always)]
    fn ge(self, other: Self) -> Self::M {
        other.le(self)
    }

    /// The nearest integer, half to even, where |x| < 2^22; else what the bits of the sum with
    /// [`MAGIC`] give, as in the reference (`nearest_int`).
    #[inline(always)]
    fn nearest(self, magic: Self) -> Self::I {
        (self + magic).bits().low23()
    }
}

/// Integer lanes; arithmetic wraps.
#[allow(dead_code)] // as above
pub(crate) trait Int:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
{
    /// Floats of as many lanes.
    type F: Float<I = Self, M = Self::M>;
    /// Truth values of as many lanes.
    type M: Mask<F = Self::F, I = Self>;

    /// Signed.
    fn min(self, other: Self) -> Self;
    /// Signed.
    fn max(self, other: Self) -> Self;
    fn eq(self, other: Self) -> Self::M;
    /// Signed.
    fn gt(self, other: Self) -> Self::M;
    fn shl<const BITS: i32>(self) -> Self;
    /// Without the sign.
    fn shr<const BITS: i32>(self) -> Self;
    /// With the sign.
    fn sar<const BITS: i32>(self) -> Self;
    /// The values as floats.
    fn float(self) -> Self::F;
    /// The bits as floats.
    #[allow(clippy::wrong_self_convention)] // named as that of `f32`
    fn from_bits(self) -> Self::F;
    /// `(bits & 0x7fffff) - 0x400000`.
    fn low23(self) -> Self;
    /// Writes the lanes to the front of `out`, which must hold as many.
    fn store(self, out: &mut [i32]);
    /// Writes the low byte of every lane to the front of `out`, which must hold as many.
    fn store_bytes(self, out: &mut [u8]);
    /// `f(lane, value)` for every lane.
    fn each(self, f: impl FnMut(usize, i32));
    /// The greatest of the lanes, signed.
    fn greatest(self) -> i32;
}

/// Truth values.
pub(crate) trait Mask:
    Copy + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self>
{
    /// Floats of as many lanes.
    type F: Float<I = Self::I, M = Self>;
    /// Integers of as many lanes.
    type I: Int<F = Self::F, M = Self>;

    /// `self ? yes : no`.
    fn select(self, yes: Self::F, no: Self::F) -> Self::F;
    /// `self ? yes : no`.
    fn select_i(self, yes: Self::I, no: Self::I) -> Self::I;
    /// Lane 0 in the lowest bit.
    fn bits(self) -> u32;

    #[inline(always)]
    fn any(self) -> bool {
        self.bits() != 0
    }
}

/// How a row is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The scalar twin.
    Twin,
    /// Four lanes in plain code.
    Portable,
    /// Eight lanes.
    Avx2,
    /// Sixteen lanes.
    Avx512,
}

impl Path {
    /// Every path.
    pub const ALL: [Self; 4] = [Self::Twin, Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this processor can take it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Twin | Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => crate::arch::lanes_x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => crate::arch::lanes_x86::has_avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// The widest that this processor can take.
    pub fn best() -> Self {
        if Self::Avx512.is_available() {
            Self::Avx512
        } else if Self::Avx2.is_available() {
            Self::Avx2
        } else {
            Self::Portable
        }
    }
}

/// A quantizer of rows: `row` is a whole number of blocks, `weights` as long, `out` has the bytes.
pub(crate) trait Kernel {
    /// In the plainest way.
    fn twin(row: &[f32], weights: Option<&[f32]>, out: &mut [u8]);
    /// The same bytes, in lanes. Mark it `#[inline(always)]`.
    fn lanes<S: Lanes>(s: S, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]);
}

/// Runs a kernel by the given path; what the processor cannot do is done in plain code.
pub(crate) fn run<K: Kernel>(path: Path, row: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    match path {
        Path::Twin => K::twin(row, weights, out),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 if path.is_available() => {
            crate::arch::lanes_x86::run_avx2::<K>(row, weights, out);
        }
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 if path.is_available() => {
            crate::arch::lanes_x86::run_avx512::<K>(row, weights, out);
        }
        _ => K::lanes(Portable, row, weights, out),
    }
}

/// `f(place)` in every place.
#[inline(always)]
pub(crate) fn fill<T: Copy, const N: usize>(zero: T, mut f: impl FnMut(usize) -> T) -> [T; N] {
    let mut out = [zero; N];
    for (place, out) in out.iter_mut().enumerate() {
        *out = f(place);
    }
    out
}

/// The integer part; what does not fit, and NaN, is `i32::MIN`, as `cvttss2si` has it.
#[inline(always)]
pub(crate) fn trunc(x: f32) -> i32 {
    if (-2_147_483_648.0..2_147_483_648.0).contains(&x) {
        x as i32
    } else {
        i32::MIN
    }
}

/// The nearest integer, half to even, as the reference finds it, also out of range
/// (`nearest_int`).
#[inline(always)]
pub(crate) fn nearest(x: f32) -> i32 {
    ((x + MAGIC).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

#[cfg(test)]
mod tests;
