//! Sparse tensors written in full, block by block: memory holds the stored values, never the
//! dense result.

use weighbridge_core::model::{Compute, DType, Layout, Sparse, Tensor};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::{Kind, convert, decode_f32, decode_f64, encode_f32, encode_f64};

use super::transform::{kind_of, part_of};

/// Bytes of dense output made at a time; a multiple of every element width.
const BLOCK: u64 = 1 << 20;

/// The dense values of a sparse tensor.
#[derive(Debug)]
pub(super) struct Dense {
    shape: Vec<u64>,
    dtype: DType,
    layout: Layout,
    parts: Sparse,
}

/// A run of stored values and where it goes, both in elements.
#[derive(Debug, Clone, Copy)]
struct Run {
    to: u64,
    from: u64,
}

fn bad(what: &str) -> Error {
    Error::malformed("sparse.bad-indices", what)
}

impl Dense {
    /// `None` for tensors that are not sparse, or sparse in a way that is not known here: batches
    /// of compressed matrices, packed values.
    pub(super) fn new(t: &Tensor) -> Option<Self> {
        let parts = t.sparse()?.clone();
        t.dtype.bytes()?;
        let flat = parts.indices.iter().all(|i| i.shape.len() == 1);
        match t.layout {
            Layout::SparseCoo => {}
            Layout::SparseCsr | Layout::SparseCsc | Layout::SparseBsr | Layout::SparseBsc
                if flat && parts.indices.len() == 2 && t.shape.len() >= 2 => {}
            _ => return None,
        }
        Some(Self {
            shape: t.shape.to_vec(),
            dtype: t.dtype,
            layout: t.layout,
            parts,
        })
    }

    /// The runs in the order of the output, and the length of each in elements.
    fn runs(&self) -> Result<(Vec<Run>, u64)> {
        let (mut runs, len) = match self.layout {
            Layout::SparseCoo => self.coo()?,
            _ => self.compressed()?,
        };
        // Stable, so that values of one place are added in stored order, as torch adds them.
        runs.sort_by_key(|r| r.to);
        let stored = self.parts.values.numel().unwrap_or(0);
        let total = self
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d))
            .unwrap_or(0);
        for r in &runs {
            let ends = (r.from.checked_add(len), r.to.checked_add(len));
            if ends.0.is_none_or(|e| e > stored) || ends.1.is_none_or(|e| e > total) {
                return Err(bad("there are fewer values than indices"));
            }
        }
        Ok((runs, len))
    }

    fn coo(&self) -> Result<(Vec<Run>, u64)> {
        let table = self
            .parts
            .indices
            .first()
            .ok_or_else(|| bad("there are no indices"))?;
        let [dims, nnz] = *table.shape.as_slice() else {
            return Err(bad("the indices have not two dimensions"));
        };
        let dims = usize::try_from(dims).unwrap_or(usize::MAX);
        if dims > self.shape.len() {
            return Err(bad("the indices have more rows than the tensor dimensions"));
        }
        let (outer, dense) = self.shape.split_at(dims);
        let len = dense.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        let all = integers(table)?;
        let mut runs = Vec::new();
        for i in 0..nnz {
            let mut at = 0u64;
            for (d, &extent) in outer.iter().enumerate() {
                let slot = (d as u64).saturating_mul(nnz).saturating_add(i);
                let index = usize::try_from(slot).ok().and_then(|s| all.get(s)).copied();
                let index = index.filter(|&n| n < extent);
                let index = index.ok_or_else(|| bad("an index lies outside the tensor"))?;
                at = at.saturating_mul(extent).saturating_add(index);
            }
            runs.push(Run {
                to: at.saturating_mul(len),
                from: i.saturating_mul(len),
            });
        }
        Ok((runs, len))
    }

    /// CSR, CSC and their block forms: compressed pointers over one dimension, plain indices over
    /// the other, values of shape `[nnz, (block rows, block columns,) dense…]`.
    fn compressed(&self) -> Result<(Vec<Run>, u64)> {
        let [compressed, plain] = self.parts.indices.as_slice() else {
            return Err(bad("a compressed tensor has not two kinds of indices"));
        };
        let (pointers, plain) = (integers(compressed)?, integers(plain)?);
        let [rows, columns, dense @ ..] = self.shape.as_slice() else {
            return Err(bad("a compressed tensor has fewer than two dimensions"));
        };
        let blocks = matches!(self.layout, Layout::SparseBsr | Layout::SparseBsc);
        let (height, width) = match (blocks, self.parts.values.shape.as_slice()) {
            (false, _) => (1, 1),
            (true, [_, h, w, ..]) if *h > 0 && *w > 0 => (*h, *w),
            _ => return Err(bad("a block tensor has no block shape")),
        };
        let cell = dense.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        let by_row = matches!(self.layout, Layout::SparseCsr | Layout::SparseBsr);
        let mut runs = Vec::new();
        for (line, ends) in pointers.windows(2).enumerate() {
            let &[begin, end] = ends else { continue };
            for k in begin..end {
                let other = usize::try_from(k).ok().and_then(|k| plain.get(k)).copied();
                let other = other.ok_or_else(|| bad("a pointer lies behind the indices"))?;
                let (r, c) = match by_row {
                    true => (line as u64, other),
                    false => (other, line as u64),
                };
                for i in 0..height {
                    let row = r.saturating_mul(height).saturating_add(i);
                    let column = c.saturating_mul(width);
                    if row >= *rows || column.saturating_add(width) > *columns {
                        return Err(bad("an index lies outside the tensor"));
                    }
                    let to = row.saturating_mul(*columns).saturating_add(column);
                    let from = k
                        .saturating_mul(height)
                        .saturating_add(i)
                        .saturating_mul(width);
                    runs.push(Run {
                        to: to.saturating_mul(cell),
                        from: from.saturating_mul(cell),
                    });
                }
            }
            // Pointers that go back would list values again and again.
            if runs.len() as u64 > self.parts.values.numel().unwrap_or(0) {
                return Err(bad("the pointers name more values than there are"));
            }
        }
        Ok((runs, width.saturating_mul(cell)))
    }
}

/// The values of an index tensor, none of them negative.
fn integers(t: &Tensor) -> Result<Vec<u64>> {
    let kind = kind_of(t.dtype).filter(|k| k.is_int());
    let kind = kind.ok_or_else(|| bad("indices that are no integers"))?;
    let bytes = t.read_vec()?;
    let n = kind.elements(bytes.len());
    let mut wide = vec![0u8; n.saturating_mul(8)];
    convert(kind, Kind::I64, &bytes, &mut wide);
    let one =
        |b: &[u8; 8]| u64::try_from(i64::from_le_bytes(*b)).map_err(|_| bad("a negative index"));
    wide.as_chunks().0.iter().map(one).collect()
}

impl Compute for Dense {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (runs, len) = self.runs()?;
        let width = self.dtype.bytes().unwrap_or(1);
        let values = self.parts.values.read_vec()?;
        let total = self.dtype.size_of(&self.shape).unwrap_or(0);
        let len = len.saturating_mul(width);
        let mut block = vec![0u8; BLOCK.min(total) as usize];
        let (mut start, mut next) = (0u64, 0usize);
        // Where a block ends inside a run, the next one begins with the same run.
        while start < total {
            let n = BLOCK.min(total - start);
            let end = start + n;
            let out = block.get_mut(..n as usize).unwrap_or_default();
            out.fill(0);
            let mut i = next;
            while let Some(r) = runs.get(i) {
                let to = r.to.saturating_mul(width);
                if to >= end {
                    break;
                }
                let (lo, hi) = (to.max(start), to.saturating_add(len).min(end));
                if lo < hi {
                    let from = r.from.saturating_mul(width) + (lo - to);
                    let source = values.get(from as usize..(from + (hi - lo)) as usize);
                    let target = out.get_mut((lo - start) as usize..(hi - start) as usize);
                    if let (Some(s), Some(t)) = (source, target) {
                        add(self.dtype, s, t);
                    }
                }
                if to.saturating_add(len) <= end && i == next {
                    next += 1;
                }
                i += 1;
            }
            sink(out)?;
            start = end;
        }
        Ok(())
    }
}

/// Adds `source` to `target`, element by element in the arithmetic of `dtype`.
fn add(dtype: DType, source: &[u8], target: &mut [u8]) {
    // The first value of a place is copied, so that NaN payloads and negative zeros stay.
    if target.iter().all(|&b| b == 0) {
        target.copy_from_slice(source);
        return;
    }
    let Some(kind) = part_of(dtype).or(Some(dtype)).and_then(kind_of) else {
        return;
    };
    let n = kind.elements(source.len());
    match kind {
        Kind::F64 => {
            let (mut a, mut b) = (vec![0f64; n], vec![0f64; n]);
            decode_f64(kind, target, &mut a);
            decode_f64(kind, source, &mut b);
            a.iter_mut().zip(&b).for_each(|(a, b)| *a += b);
            encode_f64(kind, &a, target);
        }
        Kind::Bool => target.iter_mut().zip(source).for_each(|(a, b)| *a |= b),
        k if k.is_int() => {
            let (mut a, mut b) = (vec![0u8; n * 8], vec![0u8; n * 8]);
            convert(k, Kind::I64, target, &mut a);
            convert(k, Kind::I64, source, &mut b);
            let sums = a
                .as_chunks_mut::<8>()
                .0
                .iter_mut()
                .zip(b.as_chunks::<8>().0);
            for (a, b) in sums {
                *a = i64::from_le_bytes(*a)
                    .wrapping_add(i64::from_le_bytes(*b))
                    .to_le_bytes();
            }
            convert(Kind::I64, k, &a, target);
        }
        _ => {
            let (mut a, mut b) = (vec![0f32; n], vec![0f32; n]);
            decode_f32(kind, target, &mut a);
            decode_f32(kind, source, &mut b);
            a.iter_mut().zip(&b).for_each(|(a, b)| *a += b);
            encode_f32(kind, &a, target);
        }
    }
}
