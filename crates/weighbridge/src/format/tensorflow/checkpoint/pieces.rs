//! Partitioned tensors: boxes that are put together to one.

use std::sync::{Arc, OnceLock};

use weighbridge_core::model::{
    Assembly, Chunks, Compute, DType, Piece, Shape, Storage, StorageData, Tensor, TensorSource,
    View,
};
use weighbridge_core::source::SliceSource;
use weighbridge_core::{Error, Result};

use super::index::Extent;

/// First index and length of a slice in every dimension of `whole`; nothing when it is no box of
/// it.
pub(super) fn extent(extents: &[Extent], whole: &[u64]) -> Option<(Shape, Shape)> {
    if extents.len() != whole.len() {
        return None;
    }
    let (mut start, mut shape) = (Shape::new(), Shape::new());
    for (e, &all) in extents.iter().zip(whole) {
        let (s, n) = match e {
            Some((s, n)) => (u64::try_from(*s).ok()?, u64::try_from(*n).ok()?),
            None => (0, all),
        };
        if s.checked_add(n).is_none_or(|end| end > all) {
            return None;
        }
        start.push(s);
        shape.push(n);
    }
    Some((start, shape))
}

/// The tensor that `parts`, each with its first index, make.
///
/// # Errors
/// `Malformed` when they do not cover it exactly once.
pub(super) fn assemble(whole: &Tensor, parts: Vec<(Shape, Tensor)>) -> Result<TensorSource> {
    let plain = |t: &Tensor| matches!(t.source, TensorSource::View(_));
    let simple = parts.iter().all(|(_, t)| plain(t));
    let pieces = parts.into_iter().map(|(start, t)| Piece {
        start,
        shape: t.shape,
        source: t.source,
    });
    let assembly = Assembly {
        shape: whole.shape.clone(),
        pieces: pieces.collect(),
    };
    assembly.check()?;
    Ok(match simple {
        true => TensorSource::Assembled(Arc::new(assembly)),
        false => TensorSource::Computed(Arc::new(Gathered {
            name: whole.name.clone(),
            dtype: whole.dtype,
            assembly,
            bytes: OnceLock::new(),
        })),
    })
}

/// Boxes of which some are computed: they are read whole, one after the other, when the tensor is.
#[derive(Debug)]
struct Gathered {
    name: String,
    dtype: DType,
    assembly: Assembly,
    bytes: OnceLock<Option<u64>>,
}

impl Gathered {
    fn part(&self, p: &Piece) -> Tensor {
        Tensor::new(self.name.as_str(), self.dtype, &p.shape, p.source.clone())
    }

    /// Texts, each at its place.
    fn texts(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let whole = &self.assembly.shape;
        let n = whole.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let held = self.assembly.pieces.iter().map(|p| self.part(p).byte_len());
        let held = held.fold(0u64, u64::saturating_add);
        // Each text takes eight bytes for its length.
        let n = n.filter(|&n| n <= held / 8).ok_or_else(|| {
            let message = "there are fewer texts than the shape needs";
            Error::malformed("tensorflow.text", message)
        })?;
        let mut all: Vec<Vec<u8>> = vec![Vec::new(); usize::try_from(n).unwrap_or(0)];
        for p in &self.assembly.pieces {
            let bytes = self.part(p).read_vec()?;
            let mut rest = bytes.as_slice();
            let mut index = Shape::from_elem(0, p.shape.len());
            while let Some((len, after)) = rest.split_first_chunk::<8>() {
                let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
                let (Some(text), Some(next)) = (after.get(..len), after.get(len..)) else {
                    break;
                };
                let mut at = 0u64;
                for ((&i, &s), &d) in index.iter().zip(&p.start).zip(whole) {
                    at = at.saturating_mul(d).saturating_add(i.saturating_add(s));
                }
                let slot = usize::try_from(at).ok().and_then(|i| all.get_mut(i));
                if let Some(slot) = slot {
                    *slot = text.to_vec();
                }
                step(&mut index, &p.shape);
                rest = next;
            }
        }
        for text in &all {
            sink(&(text.len() as u64).to_le_bytes())?;
            sink(text)?;
        }
        Ok(())
    }
}

/// The next index in row-major order.
fn step(index: &mut Shape, shape: &Shape) {
    for (i, &d) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < d {
            return;
        }
        *i = 0;
    }
}

impl Compute for Gathered {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.dtype.is_text() {
            return self.texts(sink);
        }
        let mut pieces = Vec::with_capacity(self.assembly.pieces.len());
        for p in &self.assembly.pieces {
            let source = match &p.source {
                TensorSource::Computed(_) => {
                    let bytes = self.part(p).read_vec()?;
                    let len = bytes.len() as u64;
                    let data = StorageData::Raw {
                        source: Arc::new(SliceSource::new(bytes, self.name.as_str())),
                        offset: 0,
                        checksum: None,
                    };
                    TensorSource::View(View {
                        storage: Arc::new(Storage::new("part", len, false, data)?),
                        offset: 0,
                    })
                }
                other => other.clone(),
            };
            pieces.push(Piece {
                source,
                ..p.clone()
            });
        }
        let assembly = Assembly {
            shape: self.assembly.shape.clone(),
            pieces,
        };
        let source = TensorSource::Assembled(Arc::new(assembly));
        let shape = &self.assembly.shape;
        Tensor::new(self.name.as_str(), self.dtype, shape, source).stream(&mut Chunks::new(), sink)
    }

    fn byte_len(&self) -> Option<u64> {
        *self.bytes.get_or_init(|| {
            let parts = self.assembly.pieces.iter();
            let all = parts.map(|p| self.part(p).byte_len());
            Some(all.fold(0, u64::saturating_add))
        })
    }
}
