//! Small messages: the dataspace (IV.A.2.b) and the fill value (IV.A.2.e, f).

use smallvec::SmallVec;

use super::fields::Fields;
use crate::error::{Error, Result};

/// Most dimensions (`H5S_MAX_RANK`).
pub(super) const MOST_DIMS: u8 = 32;

/// How many elements there are, and in what order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataspace {
    /// The extents, outermost first; none for a scalar, `None` for the space without any element.
    pub dims: Option<SmallVec<[u64; 4]>>,
    /// How far each may grow; `None` for no bound. As long as `dims`.
    pub most: SmallVec<[Option<u64>; 4]>,
}

impl Dataspace {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        const RULE: &str = "hdf5.dataspace";
        let version = f.version(1..=2, RULE)?;
        let place = f.place();
        let (n, flags, kind) = (f.u8()?, f.u8()?, f.u8()?);
        if n > MOST_DIMS {
            return Err(Error::malformed(RULE, format!("{n} dimensions are too many")).at(place));
        }
        if version == 1 {
            f.skip(4)?;
        } else if kind == 2 {
            return Ok(Self {
                dims: None,
                most: SmallVec::new(),
            });
        }
        let dims = (0..n)
            .map(|_| f.length())
            .collect::<Result<SmallVec<_>>>()?;
        let mut most: SmallVec<[Option<u64>; 4]> = dims.iter().map(|&d| Some(d)).collect();
        if flags & 1 != 0 {
            for (i, m) in most.iter_mut().enumerate() {
                let place = f.place();
                // Every bit set stands for no bound, whatever the width.
                *m = match f.take(f.length_width())? {
                    all if all.iter().all(|&b| b == 0xff) => None,
                    bytes => Some(super::fields::little(bytes)),
                };
                if m.is_some_and(|m| dims.get(i).is_some_and(|&d| d > m)) {
                    let message = "a dimension is larger than it may grow";
                    return Err(Error::malformed(RULE, message).at(place));
                }
            }
        }
        Ok(Self {
            dims: Some(dims),
            most,
        })
    }

    /// The number of elements; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        match &self.dims {
            Some(dims) => dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)),
            None => Some(0),
        }
    }
}

/// What elements that were never written are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fill {
    /// The element's bytes, in the file's type; empty for zeros.
    pub value: Vec<u8>,
}

impl Fill {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        let present = match f.version(1..=3, "hdf5.fill-value")? {
            1 | 2 => {
                f.skip(2)?;
                f.u8()? != 0
            }
            _ => f.u8()? & 0x20 != 0,
        };
        if present {
            Self::old(f)
        } else {
            Ok(Self::default())
        }
    }

    /// The message of before 1.6, and the end of the newer ones.
    pub(super) fn old(f: &mut Fields<'_>) -> Result<Self> {
        let n = f.u32()? as i32;
        // Negative: none is defined.
        let n = usize::try_from(n).unwrap_or(0);
        let value = f.take(n)?.to_vec();
        Ok(Self { value })
    }
}
