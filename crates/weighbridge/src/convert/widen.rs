//! Integers of two and four bits, one a byte.

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{Chunks, Compute, DType, Tensor, TensorSource};

use crate::format::Note;

/// Packed integers on their way into bytes: the first lies in the lowest bits (the comments of
/// `TensorProto.int32_data` in `onnx.proto3`).
#[derive(Debug)]
struct Widened {
    input: Tensor,
    bits: u32,
    signed: bool,
}

/// Makes a tensor of `U4`, `I4`, `U2` or `I2` without scales of its own one of bytes.
pub(super) fn widen(t: &mut Tensor, changed: &mut Vec<Note>) {
    let (bits, signed) = match t.dtype {
        DType::U4 => (4, false),
        DType::I4 => (4, true),
        DType::U2 => (2, false),
        DType::I2 => (2, true),
        _ => return,
    };
    if !t.has_data() || t.quantization().is_some() {
        return;
    }
    let to = if signed { DType::I8 } else { DType::U8 };
    let why = format!("widened from {} to {to}, every value is kept", t.dtype);
    changed.push(Note::new(t.name.as_str(), why));
    let input = t.clone();
    t.dtype = to;
    t.source = TensorSource::Computed(Arc::new(Widened {
        input,
        bits,
        signed,
    }));
}

impl Compute for Widened {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = self.input.numel().unwrap_or(0);
        let mut out = Vec::new();
        self.input.stream(&mut Chunks::new(), &mut |part| {
            out.clear();
            for &byte in part {
                for at in (0..8).step_by(self.bits as usize) {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    // To the top, then down again: the sign comes along.
                    let top = (byte >> at) << (8 - self.bits);
                    out.push(match self.signed {
                        true => ((top as i8) >> (8 - self.bits)) as u8,
                        false => top >> (8 - self.bits),
                    });
                }
            }
            sink(&out)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_core::model::{Storage, StorageData, View};
    use weighbridge_core::source::SliceSource;

    fn widened(dtype: DType, n: u64, bytes: &[u8]) -> (DType, Vec<u8>) {
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes.to_vec(), "t")),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("t", bytes.len() as u64, false, data).unwrap());
        let source = TensorSource::View(View { storage, offset: 0 });
        let mut t = Tensor::new("t", dtype, &[n], source);
        let mut changed = Vec::new();
        widen(&mut t, &mut changed);
        assert_eq!(changed.len(), 1);
        (t.dtype, t.read_vec().unwrap())
    }

    #[test]
    fn values_come_lowest_bits_first_with_their_sign() {
        let n = |all: &[i8]| all.iter().map(|&x| x as u8).collect::<Vec<_>>();
        let bytes = [0x8f, 0x07];
        assert_eq!(widened(DType::I4, 3, &bytes), (DType::I8, n(&[-1, -8, 7])));
        assert_eq!(widened(DType::U4, 3, &bytes), (DType::U8, n(&[15, 8, 7])));
        assert_eq!(
            widened(DType::I2, 5, &[0b10_01_11_00, 0b10]),
            (DType::I8, n(&[0, -1, 1, -2, -2]))
        );
        assert_eq!(
            widened(DType::U2, 4, &[0b10_01_11_00]),
            (DType::U8, n(&[0, 3, 1, 2]))
        );
    }
}
