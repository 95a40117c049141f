//! Texts of fixed width: `S` holds bytes, `U` characters of four bytes each, and both are padded
//! with NULs, which are no part of the text.

use std::sync::Arc;

use weighbridge_core::model::{Chunks, Compute, DType, Storage, Tensor, TensorSource, View};
use weighbridge_core::{Error, Result};

use super::array::strided;
use super::element::Element;

/// Bytes of texts that are handed on together.
const PIECE: usize = 64 << 10;

/// The texts of an array, as tensors of texts give them.
#[derive(Debug)]
pub(super) struct Texts {
    /// The characters as numbers, in one more dimension than the texts have.
    characters: Tensor,
    /// How many texts there are.
    count: u64,
    /// Bytes of each.
    width: u64,
    unicode: bool,
}

impl Texts {
    /// The texts of `shape` whose bytes begin at `offset` of `storage`; with `strides` in another
    /// order than the usual one.
    pub(super) fn new(
        element: &Element,
        shape: &[u64],
        strides: Option<&[u64]>,
        storage: Arc<Storage>,
        offset: u64,
    ) -> Result<Self> {
        let (dtype, unit) = match element.unicode {
            true => (DType::U32, 4),
            false => (DType::U8, 1),
        };
        let letters = element.width / unit;
        let mut all = shape.to_vec();
        all.push(letters);
        let source = match strides {
            None => TensorSource::View(View { storage, offset }),
            Some(strides) => {
                let mut steps: Vec<u64> =
                    strides.iter().map(|s| s.saturating_mul(letters)).collect();
                steps.push(1);
                strided(storage, offset, &steps, unit, &all, dtype)
            }
        };
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        Ok(Self {
            characters: Tensor::new("", dtype, &all, source),
            count: count.ok_or_else(|| {
                Error::malformed("numpy.shape", "the number of texts does not fit 64 bits")
            })?,
            width: element.width,
            unicode: element.unicode,
        })
    }

    /// Adds one text to `out`: its length, and its bytes.
    fn push(&self, text: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !self.unicode {
            let end = text.iter().rposition(|&b| b != 0).map_or(0, |n| n + 1);
            out.extend((end as u64).to_le_bytes());
            out.extend_from_slice(text.get(..end).unwrap_or_default());
            return Ok(());
        }
        let (points, _) = text.as_chunks::<4>();
        let end = points
            .iter()
            .rposition(|p| *p != [0; 4])
            .map_or(0, |n| n + 1);
        let at = out.len();
        out.extend([0; 8]);
        for p in points.get(..end).unwrap_or_default() {
            push_point(u32::from_le_bytes(*p), out)?;
        }
        let len = (out.len() - at - 8) as u64;
        if let Some(field) = out.get_mut(at..at + 8) {
            field.copy_from_slice(&len.to_le_bytes());
        }
        Ok(())
    }
}

/// Adds a character in UTF-8; lone surrogates as Python's `surrogatepass` writes them.
fn push_point(point: u32, out: &mut Vec<u8>) -> Result<()> {
    match char::from_u32(point) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None if point <= 0xffff => {
            let low = |shift: u32| 0x80 | (point >> shift & 0x3f) as u8;
            out.extend([0xe0 | (point >> 12) as u8, low(6), low(0)]);
        }
        None => {
            let message = format!("{point:#x} is no character");
            return Err(Error::malformed("numpy.bad-text", message));
        }
    }
    Ok(())
}

impl Compute for Texts {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        let width = usize::try_from(self.width).unwrap_or(usize::MAX);
        if width == 0 {
            for _ in 0..self.count {
                out.extend([0; 8]);
                if out.len() >= PIECE {
                    sink(&out)?;
                    out.clear();
                }
            }
            return if out.is_empty() { Ok(()) } else { sink(&out) };
        }
        // A text may be cut at the end of a piece: it waits here for its rest.
        let mut held: Vec<u8> = Vec::new();
        self.characters.stream(&mut Chunks::new(), &mut |part| {
            let mut part = part;
            if !held.is_empty() {
                let n = (width - held.len()).min(part.len());
                let (head, rest) = part.split_at(n);
                held.extend_from_slice(head);
                part = rest;
                if held.len() == width {
                    self.push(&held, &mut out)?;
                    held.clear();
                }
            }
            let whole = part.chunks_exact(width);
            held.extend_from_slice(whole.remainder());
            for text in whole {
                self.push(text, &mut out)?;
                if out.len() >= PIECE {
                    sink(&out)?;
                    out.clear();
                }
            }
            Ok(())
        })?;
        if out.is_empty() { Ok(()) } else { sink(&out) }
    }
}

/// Texts that lie in memory, as tensors of texts give them.
#[derive(Debug)]
pub(crate) struct Listed {
    bytes: Vec<u8>,
}

impl Listed {
    /// The texts one after the other.
    pub(crate) fn new<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::new();
        for text in texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text);
        }
        Self { bytes }
    }
}

impl Compute for Listed {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        sink(&self.bytes)
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }
}
