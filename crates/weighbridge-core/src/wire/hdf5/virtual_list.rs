//! The list of a virtual dataset's sources (IV.A.2.i, virtual layout; the global heap block for
//! virtual datasets), as far as it names files.

use super::fields::{Fields, text_of};
use super::file::File;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.virtual-dataset";

/// Most sources looked at.
const MOST: u64 = 100_000;

impl File {
    /// The files that a virtual dataset is put together from, each once; `.` is this one. `list`
    /// is the collection of the global heap and the number in it.
    ///
    /// # Errors
    /// What the specification does not allow, and lists of a version that is not known.
    pub fn virtual_sources(&self, list: (u64, u32)) -> Result<Vec<String>> {
        let (address, len) = self.global(list.0, list.1)?;
        let data = self.bytes(address, len)?;
        let mut f = self.fields(&data, address);
        f.version(0..=0, RULE)?;
        let place = f.place();
        let count = f.length()?;
        if count > MOST {
            return Err(Error::limit(RULE, format!("{count} sources are too many")).at(place));
        }
        let mut files: Vec<String> = Vec::new();
        for _ in 0..count {
            let file = text_of(f.text()?);
            f.text()?;
            selection(&mut f)?;
            selection(&mut f)?;
            if !files.contains(&file) {
                files.push(file);
            }
        }
        Ok(files)
    }
}

/// Steps over a selection of elements (Appendix: dataspace selection).
fn selection(f: &mut Fields<'_>) -> Result<()> {
    let place = f.place();
    let (kind, version) = (f.u32()?, f.u32()?);
    match (kind, version) {
        (0 | 3, 1) => f.skip(8),
        (1 | 2, 1) => {
            f.skip(4)?;
            let len = f.u32()?;
            f.skip(len as usize)
        }
        (2, 2) => {
            f.skip(1)?;
            let len = f.u32()?;
            f.skip(len as usize)
        }
        (2, 3) => {
            let regular = f.u8()? & 1 != 0;
            let width = usize::from(f.u8()?);
            let rank = f.u32()? as usize;
            let blocks = if regular { 2 } else { f.uint(width)? };
            let numbers = blocks.saturating_mul(2).saturating_mul(rank as u64);
            f.skip(usize::try_from(numbers.saturating_mul(width as u64)).unwrap_or(usize::MAX))
        }
        (1, 2) => {
            let width = usize::from(f.u8()?);
            let rank = u64::from(f.u32()?);
            let points = f.uint(width)?;
            let bytes = points.saturating_mul(rank).saturating_mul(width as u64);
            f.skip(usize::try_from(bytes).unwrap_or(usize::MAX))
        }
        _ => {
            let message = format!("a selection of type {kind} and version {version} is not known");
            Err(Error::unsupported(RULE, message).at(place))
        }
    }
}
