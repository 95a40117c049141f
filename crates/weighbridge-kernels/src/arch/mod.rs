//! The kernels that have SIMD twins, and the choice between them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod lanes_x86;
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use wide::{Body, wide};

use crate::decode::each as from;
use crate::encode::each as to;
use crate::scalar;

macro_rules! twins {
    ($name:ident($src:ty => $dst:ty), $features:ident, $plain:expr) => {
        /// Converts as many elements as both slices hold.
        pub(crate) fn $name(src: &[$src], dst: &mut [$dst]) {
            #[cfg(target_arch = "x86_64")]
            if x86_64::$features() {
                return x86_64::$name(src, dst);
            }
            $plain(src, dst);
        }
    };
}

twins!(f16_to_f32(u8 => f32), has_f16c, plain::f16_to_f32);
twins!(bf16_to_f32(u8 => f32), has_avx2, plain::bf16_to_f32);
twins!(f32_to_f16(f32 => u8), has_f16c, plain::f32_to_f16);
twins!(f32_to_bf16(f32 => u8), has_avx2, plain::f32_to_bf16);

/// The scalar twins over slices, also used for what a vector does not fill.
pub(crate) mod plain {
    use super::{from, scalar, to};

    pub(crate) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
        from(src, dst, |b| scalar::f16_to_f32(u16::from_le_bytes(b)));
    }

    pub(crate) fn bf16_to_f32(src: &[u8], dst: &mut [f32]) {
        from(src, dst, |b| scalar::bf16_to_f32(u16::from_le_bytes(b)));
    }

    pub(crate) fn f32_to_f16(src: &[f32], dst: &mut [u8]) {
        to(src, dst, |x| scalar::f32_to_f16(x).to_le_bytes());
    }

    pub(crate) fn f32_to_bf16(src: &[f32], dst: &mut [u8]) {
        to(src, dst, |x| scalar::f32_to_bf16(x).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn every_half_decodes_to_the_same_bits() {
        let src: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let (mut fast, mut slow) = (vec![0f32; 1 << 16], vec![0f32; 1 << 16]);
        f16_to_f32(&src, &mut fast);
        plain::f16_to_f32(&src, &mut slow);
        assert!(bits(&fast) == bits(&slow));
        bf16_to_f32(&src, &mut fast);
        plain::bf16_to_f32(&src, &mut slow);
        assert!(bits(&fast) == bits(&slow));
    }

    /// Neighbours of every half and of every midpoint between halves, NaNs with payloads,
    /// subnormals, and random bits.
    fn inputs() -> Vec<f32> {
        let mut out = Vec::new();
        for code in 0..=u16::MAX {
            for x in [scalar::f16_to_f32(code), scalar::bf16_to_f32(code)] {
                let b = x.to_bits();
                out.extend([
                    b,
                    b ^ 0x1000,
                    b ^ 0x1001,
                    b ^ 0x0fff,
                    b ^ 0x8000,
                    b ^ 0x8001,
                    b ^ 0x7fff,
                ]);
            }
        }
        for shift in 0..23 {
            out.extend([
                0x7f80_0000 | 1 << shift,
                0xff80_0000 | 1 << shift,
                1 << shift,
                (1 << shift) - 1,
            ]);
        }
        let mut state = 99u64;
        for _ in 0..500_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            out.push((state >> 32) as u32);
        }
        out.into_iter().map(f32::from_bits).collect()
    }

    #[test]
    fn encoding_gives_the_same_bits() {
        let src = inputs();
        let (mut fast, mut slow) = (vec![0u8; 2 * src.len()], vec![0u8; 2 * src.len()]);
        f32_to_f16(&src, &mut fast);
        plain::f32_to_f16(&src, &mut slow);
        assert!(fast == slow);
        f32_to_bf16(&src, &mut fast);
        plain::f32_to_bf16(&src, &mut slow);
        assert!(fast == slow);
    }

    #[test]
    fn every_length_and_alignment_is_filled_exactly() {
        let values: Vec<f32> = (0..70).map(|i| i as f32 - 30.5).collect();
        let bytes: Vec<u8> = (0..200).map(|i| i as u8).collect();
        for n in 0..70 {
            for skew in 0..3 {
                let (mut a, mut b) = (vec![7f32; 72], vec![7f32; 72]);
                f16_to_f32(&bytes[skew..skew + 2 * n], &mut a);
                plain::f16_to_f32(&bytes[skew..skew + 2 * n], &mut b);
                assert_eq!(bits(&a), bits(&b));
                bf16_to_f32(&bytes[skew..], &mut a[skew..n + skew]);
                plain::bf16_to_f32(&bytes[skew..], &mut b[skew..n + skew]);
                assert_eq!(bits(&a), bits(&b));
                let (mut a, mut b) = (vec![7u8; 150], vec![7u8; 150]);
                f32_to_f16(&values[..n], &mut a[skew..]);
                plain::f32_to_f16(&values[..n], &mut b[skew..]);
                assert_eq!(a, b);
                f32_to_bf16(&values, &mut a[skew..skew + 2 * n]);
                plain::f32_to_bf16(&values, &mut b[skew..skew + 2 * n]);
                assert_eq!(a, b);
            }
        }
    }
}
