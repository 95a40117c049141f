//! Affine dequantization, in the arithmetic of PyTorch's CPU kernels so that results are equal in
//! bits (checked against PyTorch 2.15; `aten/src/ATen/native/quantized/AffineQuantizer.cpp` and
//! `cpu/kernels/QuantizedOpKernels.cpp`).

/// The stored integers of a quantized tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantized {
    /// torch `quint8`.
    U8,
    /// torch `qint8`.
    I8,
    /// torch `qint32`.
    I32,
    /// torch `quint4x2`: two a byte, the lower half first.
    U4,
    /// torch `quint2x4`: four a byte, the lowest first.
    U2,
}

impl Quantized {
    /// Bits of one integer.
    pub const fn bits(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 8,
            Self::I32 => 32,
            Self::U4 => 4,
            Self::U2 => 2,
        }
    }

    fn get(self, src: &[u8], i: usize) -> Option<i32> {
        let packed = |bits: usize| {
            let bit = i * bits;
            let byte = src.get(bit / 8)?;
            Some(i32::from(byte >> (bit % 8) & ((1 << bits) - 1)))
        };
        match self {
            Self::U8 => src.get(i).map(|&b| i32::from(b)),
            Self::I8 => src.get(i).map(|&b| i32::from(b as i8)),
            Self::I32 => src.as_chunks().0.get(i).map(|b| i32::from_le_bytes(*b)),
            Self::U4 => packed(4),
            Self::U2 => packed(2),
        }
    }
}

/// The parameters of a quantized tensor. `inner` is the number of elements over which one channel
/// runs in row-major order: the product of the extents after its axis.
#[derive(Debug, Clone, Copy)]
pub enum Affine<'a> {
    /// One scale and zero point: `f32(q − zero_point) × f32(scale)`.
    PerTensor {
        /// The step.
        scale: f64,
        /// The integer that means zero.
        zero_point: i64,
    },
    /// `f32(f64(f32(q) − f32(zero_point)) × scale)`, per channel.
    PerChannel {
        /// The steps.
        scales: &'a [f64],
        /// The integers that mean zero.
        zero_points: &'a [i64],
        /// Elements in a run of one channel.
        inner: usize,
    },
    /// `(f32(q) − zero_point) × scale` in f32, per channel
    /// (`per_channel_affine_float_qparams`).
    PerChannelFloat {
        /// The steps.
        scales: &'a [f32],
        /// What means zero.
        zero_points: &'a [f32],
        /// Elements in a run of one channel.
        inner: usize,
    },
}

/// Dequantizes integers to `f32`. `first` is the row-major index of the first element in its
/// tensor, so that a tensor can be done in pieces (which begin at whole bytes). Returns how many
/// were converted: as many as both slices hold, 0 where parameters are missing.
pub fn dequantize(
    kind: Quantized,
    src: &[u8],
    first: u64,
    affine: &Affine<'_>,
    dst: &mut [f32],
) -> usize {
    match *affine {
        Affine::PerTensor { scale, zero_point } => {
            let scale = scale as f32;
            run(kind, src, dst, |q, _| {
                Some((i64::from(q) - zero_point) as f32 * scale)
            })
        }
        Affine::PerChannel {
            scales,
            zero_points,
            inner,
        } => run(kind, src, dst, |q, i| {
            let c = channel(first, i, inner, scales.len())?;
            let centred = q as f32 - *zero_points.get(c)? as f32;
            Some((f64::from(centred) * scales.get(c)?) as f32)
        }),
        Affine::PerChannelFloat {
            scales,
            zero_points,
            inner,
        } => run(kind, src, dst, |q, i| {
            let c = channel(first, i, inner, scales.len())?;
            Some((q as f32 - zero_points.get(c)?) * scales.get(c)?)
        }),
    }
}

fn channel(first: u64, i: usize, inner: usize, channels: usize) -> Option<usize> {
    let at = first.wrapping_add(i as u64).checked_div(inner as u64)?;
    Some(at.checked_rem(channels as u64)? as usize)
}

fn run(
    kind: Quantized,
    src: &[u8],
    dst: &mut [f32],
    f: impl Fn(i32, usize) -> Option<f32>,
) -> usize {
    for (i, d) in dst.iter_mut().enumerate() {
        match kind.get(src, i).and_then(|q| f(q, i)) {
            Some(x) => *d = x,
            None => return i,
        }
    }
    dst.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_tensor_uses_a_single_precision_scale() {
        let affine = Affine::PerTensor {
            scale: 0.05,
            zero_point: 10,
        };
        let mut out = [0f32; 4];
        assert_eq!(
            dequantize(Quantized::U8, &[10, 11, 0, 255], 0, &affine, &mut out),
            4
        );
        assert_eq!(out, [0.0, 0.05f32, -10.0 * 0.05f32, 245.0 * 0.05f32]);
        assert_eq!(dequantize(Quantized::I8, &[0xff], 0, &affine, &mut out), 1);
        assert_eq!(out[0], -11.0 * 0.05f32);
        // PyTorch: `_make_per_tensor_quantized_tensor(tensor([2**31-1, 5]), 0.1, 7)`.
        let src: Vec<u8> = [i32::MAX, 5].iter().flat_map(|n| n.to_le_bytes()).collect();
        let affine = Affine::PerTensor {
            scale: 0.1,
            zero_point: 7,
        };
        assert_eq!(dequantize(Quantized::I32, &src, 0, &affine, &mut out), 2);
        assert_eq!(out[..2], [214_748_368.0, -0.2]);
    }

    #[test]
    fn channels_follow_their_axis_across_pieces() {
        // Shape [2, 3], axis 1: inner is 1. Then axis 0: inner is 3.
        let src = [1u8, 2, 3, 4, 5, 6];
        let (scales, zero_points) = ([1.0, 10.0, 100.0], [0, 1, 2]);
        let by_column = Affine::PerChannel {
            scales: &scales,
            zero_points: &zero_points,
            inner: 1,
        };
        let mut out = [0f32; 6];
        assert_eq!(dequantize(Quantized::U8, &src, 0, &by_column, &mut out), 6);
        assert_eq!(out, [1.0, 10.0, 100.0, 4.0, 40.0, 400.0]);
        let mut tail = [0f32; 2];
        assert_eq!(
            dequantize(Quantized::U8, &src[4..], 4, &by_column, &mut tail),
            2
        );
        assert_eq!(tail, out[4..]);
        let by_row = Affine::PerChannelFloat {
            scales: &[1.0, 2.0],
            zero_points: &[0.5, 1.5],
            inner: 3,
        };
        assert_eq!(dequantize(Quantized::I8, &src, 0, &by_row, &mut out), 6);
        assert_eq!(out, [0.5, 1.5, 2.5, 5.0, 7.0, 9.0]);
        // The product is made in double precision: 3 × 0.1 rounds once.
        let tenth = Affine::PerChannel {
            scales: &[0.1],
            zero_points: &[0],
            inner: 1,
        };
        let mut one = [0f32];
        dequantize(Quantized::U8, &[0xff], 0, &tenth, &mut one);
        assert_eq!(one[0], (255.0 * 0.1f64) as f32);
    }

    #[test]
    fn missing_parameters_convert_nothing() {
        let mut out = [9f32; 2];
        let none = Affine::PerChannel {
            scales: &[],
            zero_points: &[],
            inner: 1,
        };
        assert_eq!(dequantize(Quantized::U8, &[1, 2], 0, &none, &mut out), 0);
        let zero = Affine::PerChannel {
            scales: &[1.0],
            zero_points: &[0],
            inner: 0,
        };
        assert_eq!(dequantize(Quantized::U8, &[1, 2], 0, &zero, &mut out), 0);
        assert_eq!(out, [9.0; 2]);
    }

    #[test]
    fn packed_integers_unpack_lowest_first() {
        let unit = Affine::PerTensor {
            scale: 1.0,
            zero_point: 0,
        };
        let mut out = [0f32; 8];
        assert_eq!(
            dequantize(Quantized::U4, &[0x21, 0xf3], 0, &unit, &mut out),
            4
        );
        assert_eq!(out[..4], [1.0, 2.0, 3.0, 15.0]);
        assert_eq!(
            dequantize(Quantized::U2, &[0b11_10_01_00], 0, &unit, &mut out),
            4
        );
        assert_eq!(out[..4], [0.0, 1.0, 2.0, 3.0]);
    }
}
