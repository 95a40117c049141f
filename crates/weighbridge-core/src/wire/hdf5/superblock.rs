//! The superblock (II.A): where everything starts.

use super::checksum::lookup3;
use super::fields::{Fields, Sizes, little};
use crate::error::{Error, Result};
use crate::source::ByteSource;

/// The superblock's own rule.
const RULE: &str = "hdf5.superblock";

/// What a superblock says.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// Its version, 0 to 3.
    pub version: u8,
    /// Where it lies, which is where addresses count from (a user's block may come before).
    pub at: u64,
    /// Where the file ends, counted from its first byte.
    pub end: u64,
    /// The address of the root group's header.
    pub root: u64,
    /// The address of the extension's header.
    pub extension: Option<u64>,
    /// The address of the block with the driver's information.
    pub driver: Option<u64>,
    /// How many bytes it takes.
    pub len: u64,
    pub(super) sizes: Sizes,
    /// Keys of half a node of chunks and symbols: twice as many children have room.
    pub(super) chunk_k: u16,
    pub(super) group_k: u16,
    pub(super) leaf_k: u16,
}

impl Superblock {
    /// Reads the superblock whose signature lies at `at`.
    ///
    /// # Errors
    /// `Malformed` and `Truncated`; `Unsupported` for versions that are not known.
    pub fn read(source: &dyn ByteSource, at: u64) -> Result<Self> {
        let end = source.len().min(at.saturating_add(128));
        let head = source.read_vec(at..end)?;
        let widths = match head.get(8) {
            Some(0 | 1) => head.get(13..15),
            Some(2 | 3) => head.get(9..11),
            Some(v) => {
                let message = format!("a superblock of version {v} is not known");
                return Err(Error::unsupported(RULE, message).at(at + 8));
            }
            None => None,
        };
        let Some(&[offset, length]) = widths else {
            return Err(Error::truncated(RULE, "the superblock is cut off").at(at));
        };
        if !matches!(offset, 2 | 4 | 8) || !matches!(length, 2 | 4 | 8) {
            let message = format!("addresses of {offset} bytes and lengths of {length}");
            return Err(Error::malformed(RULE, message).at(at));
        }
        let sizes = Sizes { offset, length };
        let mut f = Fields::new(&head, at, sizes);
        f.skip(8)?;
        let mut it = match f.u8()? {
            v @ (0 | 1) => Self::old(&mut f, v, at, sizes)?,
            v => Self::new(&mut f, &head, v, at, sizes)?,
        };
        it.len = f.pos() as u64;
        Ok(it)
    }

    fn old(f: &mut Fields<'_>, version: u8, at: u64, sizes: Sizes) -> Result<Self> {
        // The versions of free space, of the root's entry and of shared headers; the two widths.
        f.skip(7)?;
        let (leaf_k, group_k) = (f.u16()?, f.u16()?);
        f.skip(4)?;
        let mut chunk_k = 32;
        if version == 1 {
            chunk_k = f.u16()?;
            f.skip(2)?;
        }
        let base = f.address()?;
        f.address()?;
        let end = f.address()?;
        let driver = f.address()?;
        // The root's entry in a symbol table: its name, its header, what is cached of it.
        f.length()?;
        let root = f.address()?;
        f.skip(24)?;
        Ok(Self {
            version,
            at,
            end: moved(end, base, at),
            root: required(root, at)?,
            extension: None,
            driver,
            len: 0,
            sizes,
            chunk_k,
            group_k,
            leaf_k,
        })
    }

    fn new(f: &mut Fields<'_>, head: &[u8], version: u8, at: u64, sizes: Sizes) -> Result<Self> {
        f.skip(3)?;
        let base = f.address()?;
        let extension = f.address()?;
        let end = f.address()?;
        let root = f.address()?;
        let computed = lookup3(head.get(..f.pos()).unwrap_or_default());
        let stored = f.u32()?;
        if stored != computed && !cfg!(fuzzing) {
            let message = format!(
                "the superblock's stored checksum is {stored:08x}, the bytes give {computed:08x}"
            );
            return Err(Error::integrity("hdf5.checksum", message).at(at));
        }
        Ok(Self {
            version,
            at,
            end: moved(end, base, at),
            root: required(root, at)?,
            extension,
            driver: None,
            len: 0,
            sizes,
            chunk_k: 32,
            group_k: 16,
            leaf_k: 4,
        })
    }
}

/// The end of a file whose superblock may have moved since it was written: addresses count from
/// where it is now (`H5F__super_read`).
fn moved(end: Option<u64>, base: Option<u64>, at: u64) -> u64 {
    let base = base.unwrap_or(0);
    match end {
        Some(end) => end.saturating_sub(base).saturating_add(at),
        None => u64::MAX,
    }
}

fn required(root: Option<u64>, at: u64) -> Result<u64> {
    root.ok_or_else(|| Error::malformed(RULE, "there is no root group").at(at))
}

/// The block with the driver's information (II.B): its whole length.
pub(super) fn driver_len(head: &[u8]) -> u64 {
    head.get(4..8).map_or(16, |n| little(n).saturating_add(16))
}
