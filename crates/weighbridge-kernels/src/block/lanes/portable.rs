//! Four lanes in plain code, for every processor.

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

use super::{Float, Int, Lanes, Mask, fill, trunc};

/// The token of plain code, which needs no instructions in particular.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 4;

/// Four lanes of anything.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Four<T>(pub(super) [T; N]);

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
    fn turn(self, rows: &mut [Four<f32>]) {
        let [a, b, c, d] = [rows[0].0, rows[1].0, rows[2].0, rows[3].0];
        for (i, row) in rows[..N].iter_mut().enumerate() {
            *row = Four([a[i], b[i], c[i], d[i]]);
        }
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
