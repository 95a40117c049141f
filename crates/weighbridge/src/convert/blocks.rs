//! The values of block-quantized tensors, computed while they are read.

use std::sync::Arc;

use weighbridge_core::model::{Chunks, Compute, DType, Tensor, TensorSource};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::block::{BlockType, dequantize_row};

/// Values given at a time: a multiple of every block.
const STEP: usize = 64 << 10;

/// The kernels' name of a block dtype.
pub(crate) fn block_of(d: DType) -> Option<BlockType> {
    d.block()?;
    BlockType::from_name(d.as_str())
}

/// The tensor with its values as F32, where it is of a block dtype.
pub(crate) fn dequantized(t: &Tensor) -> Option<Tensor> {
    let kind = block_of(t.dtype)?;
    let mut out = t.clone();
    out.dtype = DType::F32;
    let input = t.clone();
    out.source = TensorSource::Computed(Arc::new(Dequantized { input, kind }));
    Some(out)
}

#[derive(Debug)]
struct Dequantized {
    input: Tensor,
    kind: BlockType,
}

impl Compute for Dequantized {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (block, bytes) = (self.kind.block(), self.kind.bytes());
        let step = STEP / block * bytes;
        let mut values = vec![0f32; STEP];
        let mut out = Vec::with_capacity(STEP * 4);
        // Pieces of the stored bytes do not end with blocks.
        let mut held: Vec<u8> = Vec::new();
        self.input.stream(&mut Chunks::new(), &mut |part| {
            held.extend_from_slice(part);
            let whole = held.len() - held.len() % bytes;
            for blocks in held.get(..whole).unwrap_or_default().chunks(step) {
                let want = blocks.len() / bytes * block;
                let values = values.get_mut(..want).unwrap_or_default();
                if dequantize_row(self.kind, blocks, values) != want {
                    let message = format!("{} cannot be dequantized", self.kind.name());
                    return Err(Error::unsupported("quantized.type", message));
                }
                out.clear();
                out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                sink(&out)?;
            }
            held.drain(..whole);
            Ok(())
        })
    }
}
