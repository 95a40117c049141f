//! Small binary floating-point formats, described by numbers.

/// A format of a sign, `man` mantissa bits and the rest exponent, stored in the low bits of a
/// `u16`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mini {
    /// Bits altogether.
    pub bits: u32,
    /// Mantissa bits without the implicit one.
    pub man: u32,
    /// Exponent bias.
    pub bias: i32,
    /// Greatest finite magnitude, as bits without sign.
    pub max: u16,
    /// What greater magnitudes become, as bits without sign.
    pub over: u16,
    /// The NaN that NaN becomes, as bits without sign; of formats without NaN the greatest.
    pub nan: u16,
    /// Whether NaN sits where the negative zero would be, so that zero and NaN have no sign.
    pub unsigned_zero: bool,
}

/// IEEE binary16.
pub(crate) const F16: Mini = Mini {
    bits: 16,
    man: 10,
    bias: 15,
    max: 0x7bff,
    over: 0x7c00,
    nan: 0x7e00,
    unsigned_zero: false,
};

/// `float8_e4m3fn`. PyTorch 2.15 saturates, infinities included (`c10/util/Float8_e4m3fn.h`; older
/// releases made NaN of magnitudes over 464).
pub(crate) const E4M3: Mini = Mini {
    bits: 8,
    man: 3,
    bias: 7,
    max: 0x7e,
    over: 0x7e,
    nan: 0x7f,
    unsigned_zero: false,
};

/// `float8_e5m2` (`c10/util/Float8_e5m2.h`): overflow is infinity.
pub(crate) const E5M2: Mini = Mini {
    bits: 8,
    man: 2,
    bias: 15,
    max: 0x7b,
    over: 0x7c,
    nan: 0x7f,
    unsigned_zero: false,
};

/// `float8_e4m3fnuz` (`c10/util/Float8_e4m3fnuz.h`): overflow is NaN.
pub(crate) const E4M3FNUZ: Mini = Mini {
    bits: 8,
    man: 3,
    bias: 8,
    max: 0x7f,
    over: 0x80,
    nan: 0x80,
    unsigned_zero: true,
};

/// `float8_e5m2fnuz` (`c10/util/Float8_e5m2fnuz.h`): overflow is NaN.
pub(crate) const E5M2FNUZ: Mini = Mini {
    bits: 8,
    man: 2,
    bias: 16,
    max: 0x7f,
    over: 0x80,
    nan: 0x80,
    unsigned_zero: true,
};

/// OCP MX specification 1.0, section 5.3.2.
pub(crate) const E2M3: Mini = Mini {
    bits: 6,
    man: 3,
    bias: 1,
    max: 0x1f,
    over: 0x1f,
    nan: 0x1f,
    unsigned_zero: false,
};

/// OCP MX specification 1.0, section 5.3.2.
pub(crate) const E3M2: Mini = Mini {
    bits: 6,
    man: 2,
    bias: 3,
    max: 0x1f,
    over: 0x1f,
    nan: 0x1f,
    unsigned_zero: false,
};

/// OCP MX specification 1.0, section 5.3.3.
pub(crate) const E2M1: Mini = Mini {
    bits: 4,
    man: 1,
    bias: 1,
    max: 0x7,
    over: 0x7,
    nan: 0x7,
    unsigned_zero: false,
};

/// What PyTorch decodes the NaN of the FNUZ and E8M0 types to (signalling, as it happens).
pub(crate) const PYTORCH_NAN: f32 = f32::from_bits(0x7f80_0001);

impl Mini {
    /// The value of `code`, which every such format gives exactly.
    #[inline(always)]
    pub(crate) const fn decode(self, code: u16) -> f32 {
        let sign_bit = 1u16 << (self.bits - 1);
        let sign = ((code & sign_bit) != 0) as u32;
        let magnitude = (code & (sign_bit - 1)) as u32;
        if self.unsigned_zero && code == sign_bit {
            return PYTORCH_NAN;
        }
        if !self.unsigned_zero && magnitude as u16 > self.max {
            // Formats with infinity have it right after the greatest finite value.
            let infinity = self.over != self.max && magnitude as u16 == self.over;
            let payload = if infinity {
                0
            } else {
                0x40_0000 | ((magnitude << (23 - self.man)) & 0x3f_ffff)
            };
            return f32::from_bits(sign << 31 | 0x7f80_0000 | payload);
        }
        let exponent = (magnitude >> self.man) as i32;
        let mantissa = magnitude & ((1 << self.man) - 1);
        let bits = if exponent != 0 {
            ((exponent - self.bias + 127) as u32) << 23 | mantissa << (23 - self.man)
        } else if mantissa == 0 {
            0
        } else {
            // A subnormal: its leading bit becomes the implicit one.
            let top = 31 - mantissa.leading_zeros();
            let exponent = top as i32 - self.man as i32 + 1 - self.bias + 127;
            (exponent as u32) << 23 | (mantissa << (23 - top)) & 0x7f_ffff
        };
        f32::from_bits(sign << 31 | bits)
    }

    /// The code nearest to `x`, ties to the even one.
    #[inline(always)]
    pub(crate) fn encode(self, x: f32) -> u16 {
        let bits = x.to_bits();
        let sign = ((bits >> 31) as u16) << (self.bits - 1);
        let magnitude = bits & 0x7fff_ffff;
        if magnitude > 0x7f80_0000 {
            return if self.unsigned_zero {
                self.nan
            } else {
                sign | self.nan
            };
        }
        let exponent = (magnitude >> 23) as i32 - 127;
        // Below the least normal exponent the mantissa loses a bit for each step.
        let least = 1 - self.bias;
        let lost = if exponent < least {
            least - exponent
        } else {
            0
        };
        let shift = 23 - self.man as i32 + lost;
        let code = if shift > 24 {
            // Less than half of the least subnormal.
            0
        } else {
            // Subnormal numbers of f32 never come here: they are that small for every format.
            let mantissa = magnitude & 0x7f_ffff | 0x80_0000;
            let even = mantissa >> shift & 1;
            let rounded = (mantissa + (1 << (shift - 1)) - 1 + even) >> shift;
            // `rounded` holds the implicit bit, which counts as one exponent step.
            let steps = (exponent + lost - least) as u32;
            (steps << self.man) + rounded
        };
        let code = if code > u32::from(self.max) {
            self.over
        } else {
            code as u16
        };
        if self.unsigned_zero && (code == 0 || code == self.nan) {
            return code;
        }
        sign | code
    }
}

/// All values of an 8-bit (or narrower) format.
pub(crate) const fn table(format: Mini) -> [f32; 256] {
    let mut out = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        out[code] = format.decode(code as u16 & ((1 << format.bits) - 1));
        code += 1;
    }
    out
}
