//! What is spelled alike in both sets of instructions, as macros: most of it.

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
