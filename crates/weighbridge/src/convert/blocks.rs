//! The values of block-quantized tensors, computed while they are read.

use std::cell::RefCell;
use std::sync::Arc;

use weighbridge_core::model::{Compute, DType, Tensor, TensorSource};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::block::{BlockType, dequantize_row};
use weighbridge_kernels::{Kind, encode_f32};

use super::kind_of;
use crate::parallel;
use crate::parallel::pieces::{self, CHUNK, Piece};

/// The kernels' name of a block dtype.
pub(crate) fn block_of(d: DType) -> Option<BlockType> {
    d.block()?;
    BlockType::from_name(d.as_str())
}

/// The tensor with its values as `dtype`, which holds real numbers, where it is of a block dtype;
/// `threads` compute them while they are read (0 for as many as the machine runs).
pub(crate) fn dequantized(t: &Tensor, dtype: DType, threads: usize) -> Option<Tensor> {
    let (kind, to) = (block_of(t.dtype)?, kind_of(dtype)?);
    let mut out = t.clone();
    out.dtype = dtype;
    let values = Dequantized {
        input: t.clone(),
        kind,
        to,
        threads,
    };
    out.source = TensorSource::Computed(Arc::new(values));
    Some(out)
}

#[derive(Debug)]
struct Dequantized {
    input: Tensor,
    kind: BlockType,
    to: Kind,
    threads: usize,
}

impl Dequantized {
    /// The values of a piece, as they are written, in `out`.
    fn values(
        &self,
        piece: &Piece,
        bytes: &mut Vec<u8>,
        values: &mut Vec<f32>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let blocks = piece.bytes(self.input.dtype, bytes)?;
        values.resize(piece.values, 0.0);
        out.resize(piece.values * self.to.bits() / 8, 0);
        let n = dequantize_row(self.kind, blocks, values);
        if n != piece.values || encode_f32(self.to, values, out) != n {
            let message = format!("{} cannot be dequantized", self.kind.name());
            return Err(Error::unsupported("quantized.type", message));
        }
        Ok(())
    }
}

impl Compute for Dequantized {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let count = self.input.numel().unwrap_or(0).div_ceil(CHUNK as u64);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let threads = parallel::threads(self.threads).min(count);
        // Results come back here, and their buffers are used again.
        let spare: RefCell<Vec<Vec<u8>>> = RefCell::default();
        let hire = || {
            let (mut bytes, mut values) = (Vec::new(), Vec::new());
            move |(piece, mut out): (Piece, Vec<u8>)| {
                self.values(&piece, &mut bytes, &mut values, &mut out)?;
                Ok(out)
            }
        };
        let mut take = |out: Vec<u8>| {
            sink(&out)?;
            spare.borrow_mut().push(out);
            Ok(())
        };
        parallel::run(threads, hire, &mut take, |crew| {
            pieces::each(&self.input, CHUNK, &mut |piece| {
                let out = spare.borrow_mut().pop().unwrap_or_default();
                crew.put((piece, out))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_core::model::{Storage, StorageData, View};
    use weighbridge_core::source::SliceSource;

    /// Q8_0 blocks whose values are all different, over several pieces and a part of one.
    fn tensor() -> (Tensor, Vec<f32>) {
        let blocks = 3 * CHUNK / 32 + 5;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for i in 0..blocks {
            let scale = ((i % 60) as u16 + 0x3000).to_le_bytes();
            bytes.extend(scale);
            bytes.extend((0..32u8).map(|j| j.wrapping_mul(i as u8)));
        }
        values.resize(blocks * 32, 0.0);
        dequantize_row(BlockType::Q8_0, &bytes, &mut values);
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, "t")),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("t", len, false, data).unwrap());
        let view = TensorSource::View(View { storage, offset: 0 });
        let shape = [blocks as u64, 32];
        (Tensor::new("t", DType::Q8_0, &shape, view), values)
    }

    #[test]
    fn values_do_not_depend_on_threads() {
        let (t, values) = tensor();
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let kind = kind_of(dtype).unwrap();
            let mut want = vec![0; values.len() * kind.bits() / 8];
            encode_f32(kind, &values, &mut want);
            for threads in [0, 1, 2, 5] {
                let wide = dequantized(&t, dtype, threads).unwrap();
                assert_eq!(wide.dtype, dtype);
                assert!(wide.read_vec().unwrap() == want, "{dtype}, {threads}");
                // A source that cannot be read at random.
                let mut again = t.clone();
                again.source = TensorSource::Computed(Arc::new(Whole(t.clone())));
                let wide = dequantized(&again, dtype, threads).unwrap();
                assert!(wide.read_vec().unwrap() == want, "{dtype}, {threads}");
            }
        }
    }

    #[derive(Debug)]
    struct Whole(Tensor);

    impl Compute for Whole {
        fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
            let all = self.0.read_vec()?;
            all.chunks(1_000_003).try_for_each(sink)
        }
    }

    #[test]
    fn what_the_sink_says_ends_it() {
        let (t, _) = tensor();
        for threads in [1, 3] {
            let wide = dequantized(&t, DType::F32, threads).unwrap();
            let mut n = 0;
            let full = |_: &[u8]| {
                n += 1;
                match n {
                    2 => Err(Error::parameter("test.full", "no more room")),
                    _ => Ok(()),
                }
            };
            let ended = wide.stream(&mut Default::default(), &mut { full });
            assert_eq!((ended.unwrap_err().rule(), n), ("test.full", 2));
        }
    }
}
