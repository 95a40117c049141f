//! Runs of values in the ranks' flat vectors, and tensors made of them.

use std::sync::Arc;

use weighbridge_core::model::{Assembly, DType, Piece, Shape, Storage, Tensor, TensorSource, View};
use weighbridge_core::{Error, Result};

/// A flat vector as a source of slices.
pub(super) struct Flat {
    pub(super) storage: Arc<Storage>,
    /// First byte.
    pub(super) base: u64,
    pub(super) numel: u64,
}

/// A run of values: a flat vector and the range taken from it, in elements.
pub(super) struct Run<'a> {
    pub(super) flat: &'a Flat,
    pub(super) start: u64,
    pub(super) len: u64,
}

/// A tensor from the runs that make it up, in order.
pub(super) fn from_runs(
    name: &str,
    shape: &Shape,
    dtype: DType,
    runs: &[Run<'_>],
) -> Result<Tensor> {
    let width = dtype.bytes().unwrap_or(1);
    let view = |r: &Run<'_>| -> Result<TensorSource> {
        let offset = r
            .start
            .checked_mul(width)
            .and_then(|o| o.checked_add(r.flat.base));
        let inside = r
            .start
            .checked_add(r.len)
            .is_some_and(|e| e <= r.flat.numel);
        match offset.filter(|_| inside) {
            Some(offset) => Ok(TensorSource::View(View {
                storage: Arc::clone(&r.flat.storage),
                offset,
            })),
            None => numel_mismatch(format!("parameter {name:?} reaches past the vectors' end")),
        }
    };
    if let [one] = runs {
        return Ok(Tensor::new(name, dtype, shape, view(one)?));
    }
    let mut pieces = Vec::with_capacity(runs.len());
    let mut at = 0u64;
    for r in runs {
        pieces.push(Piece {
            start: Shape::from_slice(&[at]),
            shape: Shape::from_slice(&[r.len]),
            source: view(r)?,
        });
        at = at.saturating_add(r.len);
    }
    let assembly = Assembly {
        shape: Shape::from_slice(&[at]),
        pieces,
    };
    assembly.check()?;
    let source = TensorSource::Assembled(Arc::new(assembly));
    Ok(Tensor::new(name, dtype, shape, source))
}

pub(super) fn numel_mismatch<T>(message: String) -> Result<T> {
    Err(Error::malformed("deepspeed.numel-mismatch", message)
        .help("the model states and optimizer states are not of one save"))
}

pub(super) fn numel(shape: &[u64]) -> u64 {
    shape.iter().fold(1u64, |n, &d| n.saturating_mul(d))
}

/// The first `wanted` values of the concatenated vectors.
pub(super) fn clip<'a>(flats: &'a [Flat], wanted: u64, name: &str) -> Result<Vec<Run<'a>>> {
    let mut left = wanted;
    let mut runs = Vec::new();
    for flat in flats {
        let len = flat.numel.min(left);
        left -= len;
        if len > 0 {
            runs.push(Run {
                flat,
                start: 0,
                len,
            });
        }
    }
    if left > 0 {
        return numel_mismatch(format!("the fragments of {name:?} are {left} values short"));
    }
    Ok(runs)
}

/// A position in vectors that follow each other.
pub(super) struct Cursor<'a, 'p> {
    pub(super) parts: &'p [&'a Flat],
    part: usize,
    at: u64,
    pub(super) taken: u64,
}

impl<'a, 'p> Cursor<'a, 'p> {
    pub(super) fn new(parts: &'p [&'a Flat]) -> Self {
        Self {
            parts,
            part: 0,
            at: 0,
            taken: 0,
        }
    }

    /// The next `n` values.
    pub(super) fn take(&mut self, n: u64, name: &str) -> Result<Vec<Run<'a>>> {
        let mut left = n;
        let mut runs = Vec::new();
        while left > 0 {
            let Some(&flat) = self.parts.get(self.part) else {
                return numel_mismatch(format!(
                    "parameter {name:?} needs {left} values more than the vectors have"
                ));
            };
            let len = (flat.numel - self.at).min(left);
            if len > 0 {
                runs.push(Run {
                    flat,
                    start: self.at,
                    len,
                });
            }
            (self.at, left) = (self.at + len, left - len);
            if self.at == flat.numel {
                (self.part, self.at) = (self.part + 1, 0);
            }
        }
        self.taken = self.taken.saturating_add(n);
        Ok(runs)
    }
}
