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

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

/// Adding it leaves the nearest integer (half to even) in the low bits of the sum: 1.5 · 2^23.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// A token for vectors of `N` lanes.
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

/// The token of plain code, which needs no instructions in particular.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 4;

/// Four lanes of anything.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Four<T>([T; N]);

impl<T: Copy> Four<T> {
    #[inline(always)]
    fn map<U: Copy>(self, f: impl Fn(T) -> U) -> Four<U> {
        let [a, b, c, d] = self.0;
        Four([f(a), f(b), f(c), f(d)])
    }

    #[inline(always)]
    fn zip<U: Copy, V: Copy>(self, other: Four<U>, f: impl Fn(T, U) -> V) -> Four<V> {
        let ([a, b, c, d], [p, q, r, s]) = (self.0, other.0);
        Four([f(a, p), f(b, q), f(c, r), f(d, s)])
    }
}

impl Lanes for Portable {
    const N: usize = N;
    type F = Four<f32>;
    type I = Four<i32>;
    type M = Four<bool>;

    #[inline(always)]
    fn f(self, x: f32) -> Four<f32> {
        Four([x; N])
    }

    #[inline(always)]
    fn i(self, x: i32) -> Four<i32> {
        Four([x; N])
    }

    #[inline(always)]
    fn f_from(self, f: impl FnMut(usize) -> f32) -> Four<f32> {
        Four(fill(0.0, f))
    }

    #[inline(always)]
    fn i_from(self, f: impl FnMut(usize) -> i32) -> Four<i32> {
        Four(fill(0, f))
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> Four<f32> {
        Four([x[0], x[1], x[2], x[3]])
    }

    #[inline(always)]
    fn load_i(self, x: &[i32]) -> Four<i32> {
        Four([x[0], x[1], x[2], x[3]])
    }

    #[inline(always)]
    fn gather(self, table: &[i32], at: Four<i32>) -> Four<i32> {
        at.map(|at| table[(at as u32 as usize).min(table.len() - 1)])
    }

    #[inline(always)]
    fn widen(self, x: &[u16]) -> Four<i32> {
        Four([x[0], x[1], x[2], x[3]].map(i32::from))
    }

    #[inline(always)]
    fn pick(self, table: Four<f32>, at: Four<i32>) -> Four<f32> {
        at.map(|at| table.0[at as usize & 3])
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], at: Four<i32>) -> Four<f32> {
        at.map(|at| table[at as usize & 15])
    }
}

macro_rules! lanewise {
    ($t:ty, $($op:ident $f:ident $e:expr;)*) => {$(
        impl $op for Four<$t> {
            type Output = Self;

            #[inline(always)]
            fn $f(self, other: Self) -> Self {
                self.zip(other, $e)
            }
        }
    )*};
}

lanewise! { f32,
    Add add |a, b| a + b;
    Sub sub |a, b| a - b;
    Mul mul |a, b| a * b;
    Div div |a, b| a / b;
}

lanewise! { i32,
    Add add i32::wrapping_add;
    Sub sub i32::wrapping_sub;
    Mul mul i32::wrapping_mul;
    BitAnd bitand |a, b| a & b;
    BitOr bitor |a, b| a | b;
    BitXor bitxor |a, b| a ^ b;
}

lanewise! { bool,
    BitAnd bitand |a, b| a & b;
    BitOr bitor |a, b| a | b;
}

impl Neg for Four<f32> {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        self.map(|x| -x)
    }
}

impl Not for Four<bool> {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        self.map(|x| !x)
    }
}

impl Float for Four<f32> {
    type I = Four<i32>;
    type M = Four<bool>;

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Four<bool> {
        self.zip(other, |a, b| a < b)
    }

    #[inline(always)]
    fn le(self, other: Self) -> Four<bool> {
        self.zip(other, |a, b| a <= b)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Four<bool> {
        self.zip(other, |a, b| a == b)
    }

    #[inline(always)]
    fn least(self) -> f32 {
        let [a, b, c, d] = self.0;
        a.min(b).min(c.min(d))
    }

    #[inline(always)]
    fn bits(self) -> Four<i32> {
        self.map(|x| x.to_bits() as i32)
    }

    #[inline(always)]
    fn trunc(self) -> Four<i32> {
        self.map(trunc)
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[..N].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn each(self, mut f: impl FnMut(usize, f32)) {
        for (lane, x) in self.0.into_iter().enumerate() {
            f(lane, x);
        }
    }
}

impl Int for Four<i32> {
    type F = Four<f32>;
    type M = Four<bool>;

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, Ord::min)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, Ord::max)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Four<bool> {
        self.zip(other, |a, b| a == b)
    }

    #[inline(always)]
    fn gt(self, other: Self) -> Four<bool> {
        self.zip(other, |a, b| a > b)
    }

    #[inline(always)]
    fn shl<const BITS: i32>(self) -> Self {
        self.map(|x| x << BITS)
    }

    #[inline(always)]
    fn shr<const BITS: i32>(self) -> Self {
        self.map(|x| (x as u32 >> BITS) as i32)
    }

    #[inline(always)]
    fn sar<const BITS: i32>(self) -> Self {
        self.map(|x| x >> BITS)
    }

    #[inline(always)]
    fn float(self) -> Four<f32> {
        self.map(|x| x as f32)
    }

    #[inline(always)]
    fn from_bits(self) -> Four<f32> {
        self.map(|x| f32::from_bits(x as u32))
    }

    #[inline(always)]
    fn low23(self) -> Self {
        self.map(|x| (x & 0x7f_ffff) - 0x40_0000)
    }

    #[inline(always)]
    fn store(self, out: &mut [i32]) {
        out[..N].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn greatest(self) -> i32 {
        let [a, b, c, d] = self.0;
        Ord::max(Ord::max(a, b), Ord::max(c, d))
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        out[..N].copy_from_slice(&self.map(|x| x as u8).0);
    }

    #[inline(always)]
    fn each(self, mut f: impl FnMut(usize, i32)) {
        for (lane, x) in self.0.into_iter().enumerate() {
            f(lane, x);
        }
    }
}

impl Mask for Four<bool> {
    type F = Four<f32>;
    type I = Four<i32>;

    #[inline(always)]
    fn select(self, yes: Four<f32>, no: Four<f32>) -> Four<f32> {
        let ([m, n, o, p], [a, b, c, d], [e, f, g, h]) = (self.0, yes.0, no.0);
        let pick = |m: bool, yes: f32, no: f32| if m { yes } else { no };
        Four([pick(m, a, e), pick(n, b, f), pick(o, c, g), pick(p, d, h)])
    }

    #[inline(always)]
    fn select_i(self, yes: Four<i32>, no: Four<i32>) -> Four<i32> {
        let ([m, n, o, p], [a, b, c, d], [e, f, g, h]) = (self.0, yes.0, no.0);
        let pick = |m: bool, yes: i32, no: i32| if m { yes } else { no };
        Four([pick(m, a, e), pick(n, b, f), pick(o, c, g), pick(p, d, h)])
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        let [a, b, c, d] = self.0.map(u32::from);
        a | b << 1 | c << 2 | d << 3
    }
}

/// The integer part; what does not fit, and NaN, is `i32::MIN`, as `cvttss2si` has it.
#[inline(always)]
pub(crate) fn trunc(x: f32) -> i32 {
    if x >= -2_147_483_648.0 && x < 2_147_483_648.0 {
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
mod tests {
    use super::*;

    /// Every operation over every pair of `CASES`, as bits in the order of the cases.
    enum Everything {}

    const CASES: [f32; 16] = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        1e-42,
        -1e-45,
        1e30,
        -3e38,
        8_388_608.5,
        -2_147_483_648.0,
        3e9,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.1,
    ];

    fn calculate<S: Lanes>(s: S, a: S::F, b: S::F, put: &mut impl FnMut(S::I)) {
        let (i, j) = (a.bits(), b.trunc());
        for x in [
            a + b,
            a - b,
            a * b,
            a / b,
            -a,
            a.abs(),
            a.sqrt(),
            a.min(b),
            a.max(b),
        ] {
            // Which NaN comes out is not settled.
            put(x.eq(x).select_i(x.bits(), s.i(0x7fc0_0000)));
        }
        for m in [
            a.lt(b),
            a.le(b),
            a.gt(b),
            a.ge(b),
            a.eq(b),
            i.eq(j),
            i.gt(j),
        ] {
            put(m.select_i(i, j));
            put((!m).select(a, b).bits());
            put(s.i(m.bits() as i32 & 1));
            put(s.i(i32::from(m.any())));
        }
        put((a.lt(b) & i.gt(j) | a.eq(b)).select_i(i, j));
        for x in [i + j, i - j, i * j, i & j, i | j, i ^ j, i.min(j), i.max(j)] {
            put(x);
            put(x.float().bits());
            put(x.low23().from_bits().bits());
            let mut bytes = [0; 16];
            x.store_bytes(&mut bytes);
            put(s.i_from(|lane| i32::from(bytes[lane])));
        }
        for x in [
            i.shl::<3>(),
            i.shr::<5>(),
            i.sar::<7>(),
            a.nearest(s.f(MAGIC)),
            j,
        ] {
            put(x);
        }
        let mut greatest = i32::MIN;
        i.each(|_, x| greatest = Ord::max(greatest, x));
        put(s.i(i.greatest() - greatest));
        put(s.gather(&[3, 1, 4, 1, 5], i & s.i(7)));
    }

    impl Kernel for Everything {
        fn twin(_: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
            let one = Portable;
            let mut at = 0;
            for a in CASES {
                for b in CASES {
                    let mut put = |x: Four<i32>| {
                        out[at..at + 4].copy_from_slice(&x.0[0].to_le_bytes());
                        at += 4;
                    };
                    calculate(one, one.f(a), one.f(b), &mut put);
                }
            }
        }

        #[inline(always)]
        fn lanes<S: Lanes>(s: S, _: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
            let each = out.len() / (CASES.len() * CASES.len());
            for (row, a) in CASES.into_iter().enumerate() {
                for first in (0..CASES.len()).step_by(S::N) {
                    let mut at = 0;
                    let mut put = |x: S::I| {
                        x.each(|lane, x| {
                            let place = (row * CASES.len() + first + lane) * each + at;
                            out[place..place + 4].copy_from_slice(&x.to_le_bytes());
                        });
                        at += 4;
                    };
                    calculate(s, s.f_from(|_| a), s.load(&CASES[first..]), &mut put);
                }
            }
        }
    }

    #[test]
    fn every_width_calculates_the_same() {
        let each = 4 * (9 + 7 * 4 + 1 + 8 * 4 + 5 + 2);
        let mut want = vec![0; 256 * each];
        run::<Everything>(Path::Twin, &[], None, &mut want);
        for path in Path::ALL.into_iter().filter(|p| p.is_available()) {
            let mut got = vec![0; want.len()];
            run::<Everything>(path, &[], None, &mut got);
            for (place, (a, b)) in want.chunks(4).zip(got.chunks(4)).enumerate() {
                let op = place % (each / 4);
                // `bits() & 1` and `any` of a vector mix lanes.
                if (9..9 + 28).contains(&op) && (op - 9) % 4 >= 2 {
                    continue;
                }
                assert_eq!(a, b, "{path:?} pair {} op {op}", place / (each / 4));
            }
        }
    }
}
