//! The values of a constant, read in parts.

use weighbridge_core::model::{DType, Tensor};
use weighbridge_core::{Error, Result};
use weighbridge_kernels::decode_f32;

use crate::convert::kind_of;
use crate::parallel::pieces::{Lying, lying};

/// Values that are worked on at a time: four MiB as binary32.
pub(super) const TILE: u64 = 1 << 20;

/// Where a constant's values are.
pub(super) struct Weight<'a> {
    tensor: &'a Tensor,
    at: From,
}

enum From {
    Lying(Lying),
    /// What cannot be read at random is read whole.
    Here(Vec<u8>),
}

/// A rectangle of a constant: `rows` runs of `columns` values, the runs `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) first: u64,
    pub(super) rows: u64,
    pub(super) columns: u64,
    pub(super) stride: u64,
}

impl Part {
    /// Values behind each other.
    pub(super) fn run(first: u64, values: u64) -> Self {
        Self {
            first,
            rows: 1,
            columns: values,
            stride: values,
        }
    }

    pub(super) fn values(&self) -> u64 {
        self.rows.saturating_mul(self.columns)
    }
}

impl<'a> Weight<'a> {
    /// # Errors
    /// What reading gives.
    pub(super) fn open(tensor: &'a Tensor) -> Result<Self> {
        let at = match lying(tensor)? {
            Some(l) => From::Lying(l),
            None => From::Here(tensor.bytes()?.into_owned()),
        };
        Ok(Self { tensor, at })
    }

    /// Reads `part` into `values`; `raw` is memory to work in.
    pub(super) fn read(&self, part: Part, raw: &mut Vec<u8>, values: &mut Vec<f32>) -> Result<()> {
        let (dtype, n) = (self.tensor.dtype, size(part.values())?);
        self.bytes(part, raw)?;
        values.resize(n, 0.0);
        let done = kind_of(dtype).map_or(0, |k| decode_f32(k, raw, values));
        if done != n {
            let message = format!("{done} of {n} values of {dtype} could be converted");
            return Err(Error::unsupported("quantize.type", message));
        }
        Ok(())
    }

    fn bytes(&self, part: Part, raw: &mut Vec<u8>) -> Result<()> {
        let width = self.tensor.dtype.bytes().unwrap_or(1);
        let run = part.columns.saturating_mul(width);
        raw.resize(size(part.rows.saturating_mul(run))?, 0);
        if part.stride == part.columns || part.rows == 1 {
            return self.read_at(part.first.saturating_mul(width), raw);
        }
        let mut at = part.first;
        for row in raw.chunks_exact_mut(size(run)?.max(1)) {
            self.read_at(at.saturating_mul(width), row)?;
            at = at.saturating_add(part.stride);
        }
        Ok(())
    }

    /// Reads blocks of `bytes` bytes, as they are stored.
    pub(super) fn stored(&self, first: u64, n: u64, bytes: u64, raw: &mut Vec<u8>) -> Result<()> {
        raw.resize(size(n.saturating_mul(bytes))?, 0);
        self.read_at(first.saturating_mul(bytes), raw)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<()> {
        match &self.at {
            From::Here(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let found = bytes.get(from..).and_then(|b| b.get(..into.len()));
                let short = || {
                    let message = "the tensor has fewer bytes than its shape needs";
                    Error::malformed("tensor.wrong-length", message)
                };
                into.copy_from_slice(found.ok_or_else(short)?);
                Ok(())
            }
            From::Lying(l) => {
                l.source.read_at(l.at.saturating_add(at), into)?;
                if l.swap > 1 {
                    into.chunks_exact_mut(l.swap).for_each(<[u8]>::reverse);
                }
                Ok(())
            }
        }
    }

    /// Refuses what is no finite number: what quantizers make of it is not defined.
    pub(super) fn finite(&self, part: Part, values: &[f32]) -> Result<()> {
        const EXPONENT: u32 = 0x7f80_0000;
        let odd = |x: &f32| x.to_bits() & EXPONENT == EXPONENT;
        if !values.iter().fold(false, |any, x| any | odd(x)) {
            return Ok(());
        }
        let i = values.iter().position(odd).unwrap_or(0);
        let x = values.get(i).copied().unwrap_or_default();
        let (i, columns) = (i as u64, part.columns.max(1));
        let index = part.first + i / columns * part.stride + i % columns;
        let x = if x.is_nan() {
            "NaN".to_owned()
        } else {
            x.to_string()
        };
        let message = format!("{} is {x}", place(&self.tensor.shape, index));
        let e = Error::malformed("quantize.not-finite", message);
        Err(e.help("leave the tensor as it is with --exclude, or mend the model"))
    }
}

/// Where in a tensor its value number `index` is.
pub(super) fn place(shape: &[u64], index: u64) -> String {
    let (mut rest, mut at) = (index, Vec::new());
    for d in shape.iter().rev() {
        at.push((rest % (*d).max(1)).to_string());
        rest /= (*d).max(1);
    }
    at.reverse();
    format!("value {index} (at [{}])", at.join(", "))
}

/// A count of things in memory.
pub(super) fn size(n: u64) -> Result<usize> {
    let fits = usize::try_from(n)
        .ok()
        .filter(|n| *n <= isize::MAX as usize);
    fits.ok_or_else(|| Error::limit("quantize.size", "a part of a tensor is too large"))
}

/// Whether values of `dtype` are quantized.
pub(super) fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}
