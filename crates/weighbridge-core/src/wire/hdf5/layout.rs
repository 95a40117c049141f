//! Where a dataset's values lie (IV.A.2.i).

use smallvec::SmallVec;

use super::fields::{Fields, enough_for};
use super::message::MOST_DIMS;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.layout";

/// How chunks are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkIndex {
    /// A B-tree of version 1 (III.A.1).
    BTree1,
    /// There is one chunk; its stored size and the mask of filters, where it is filtered.
    Single(Option<(u64, u32)>),
    /// All chunks lie one after the other.
    Implicit,
    /// A fixed array (VII.C).
    FixedArray,
    /// An extensible array (VII.D).
    ExtensibleArray,
    /// A B-tree of version 2 (III.A.2).
    BTree2,
}

/// Where a dataset's values lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// In the header itself: the bytes, and where they lie in the source.
    Compact {
        /// The bytes.
        data: Vec<u8>,
        /// The first one's place.
        at: u64,
    },
    /// In one run, at an address that may not have been given yet.
    Contiguous {
        /// The first byte.
        address: Option<u64>,
        /// How long the run is, where that is said.
        len: Option<u64>,
    },
    /// In chunks.
    Chunked {
        /// The extents of a chunk, outermost first.
        chunk: SmallVec<[u64; 4]>,
        /// How chunks are found.
        index: ChunkIndex,
        /// Where the index lies; none for a dataset without chunks.
        address: Option<u64>,
        /// Whether chunks that reach over the edge are left unfiltered.
        plain_edges: bool,
        /// How wide the stored size of a filtered chunk is in an index, for a chunk of `n` bytes.
        wide_sizes: bool,
    },
    /// In other datasets, here or in other files; the global heap's entry that lists them.
    Virtual {
        /// The collection and the number in it.
        list: Option<(u64, u32)>,
    },
}

impl Layout {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        match f.version(1..=5, RULE)? {
            1 | 2 => Self::oldest(f),
            version => Self::newer(f, version),
        }
    }

    fn oldest(f: &mut Fields<'_>) -> Result<Self> {
        let place = f.place();
        let (n, class) = (f.u8()?, f.u8()?);
        f.skip(5)?;
        let address = if class == 0 { None } else { f.address()? };
        if n > MOST_DIMS + 1 {
            return Err(too_many(n, place));
        }
        let dims: SmallVec<[u64; 4]> = (0..n)
            .map(|_| f.u32().map(u64::from))
            .collect::<Result<_>>()?;
        match class {
            0 => {
                let len = f.u32()? as usize;
                compact(f, len)
            }
            1 => Ok(Self::Contiguous { address, len: None }),
            2 => Self::chunked(dims, ChunkIndex::BTree1, address, place),
            _ => Err(unknown(class, place)),
        }
    }

    fn newer(f: &mut Fields<'_>, version: u8) -> Result<Self> {
        let place = f.place();
        match f.u8()? {
            0 => {
                let len = f.u16()?.into();
                compact(f, len)
            }
            1 => Ok(Self::Contiguous {
                address: f.address()?,
                len: Some(f.length()?),
            }),
            2 if version == 3 => {
                let n = f.u8()?;
                if n > MOST_DIMS + 1 {
                    return Err(too_many(n, place));
                }
                let address = f.address()?;
                let dims = (0..n).map(|_| f.u32().map(u64::from));
                let dims = dims.collect::<Result<_>>()?;
                Self::chunked(dims, ChunkIndex::BTree1, address, place)
            }
            2 => Self::indexed(f, version, place),
            3 if version > 3 => {
                let (collection, number) = (f.address()?, f.u32()?);
                Ok(Self::Virtual {
                    list: collection.map(|c| (c, number)),
                })
            }
            class => Err(unknown(class, place)),
        }
    }

    fn indexed(f: &mut Fields<'_>, version: u8, place: u64) -> Result<Self> {
        let (flags, n, width) = (f.u8()?, f.u8()?, f.u8()?);
        if n > MOST_DIMS + 1 || width > 8 {
            return Err(too_many(n, place));
        }
        let dims = (0..n).map(|_| f.uint(width.into()));
        let dims: SmallVec<[u64; 4]> = dims.collect::<Result<_>>()?;
        let index = match f.u8()? {
            1 if flags & 2 != 0 => ChunkIndex::Single(Some((f.length()?, f.u32()?))),
            1 => ChunkIndex::Single(None),
            2 => ChunkIndex::Implicit,
            // How the arrays and the tree are laid out, their own headers say as well.
            3 => {
                f.skip(1)?;
                ChunkIndex::FixedArray
            }
            4 => {
                f.skip(5)?;
                ChunkIndex::ExtensibleArray
            }
            5 => {
                f.skip(6)?;
                ChunkIndex::BTree2
            }
            kind => {
                let message = format!("an index of chunks of type {kind} is not known");
                return Err(Error::unsupported(RULE, message).at(place));
            }
        };
        let address = f.address()?;
        let mut it = Self::chunked(dims, index, address, place)?;
        if let Self::Chunked {
            plain_edges,
            wide_sizes,
            ..
        } = &mut it
        {
            *plain_edges = flags & 1 != 0;
            *wide_sizes = version > 4;
        }
        Ok(it)
    }

    /// The last dimension is the bytes of an element.
    fn chunked(
        mut dims: SmallVec<[u64; 4]>,
        index: ChunkIndex,
        address: Option<u64>,
        place: u64,
    ) -> Result<Self> {
        if dims.pop().is_none() || dims.is_empty() || dims.contains(&0) {
            return Err(Error::malformed(RULE, "chunks without extents").at(place));
        }
        Ok(Self::Chunked {
            chunk: dims,
            index,
            address,
            plain_edges: false,
            wide_sizes: false,
        })
    }
}

/// How wide the stored size of a filtered chunk is, for chunks of `bytes` (`H5D_chunk_size_len`).
pub(super) fn stored_size_width(bytes: u64) -> usize {
    (enough_for(bytes) + 1).min(8)
}

fn compact(f: &mut Fields<'_>, len: usize) -> Result<Layout> {
    let at = f.place();
    let data = f.take(len)?.to_vec();
    Ok(Layout::Compact { data, at })
}

fn too_many(n: u8, place: u64) -> Error {
    Error::malformed(RULE, format!("a layout of {n} dimensions")).at(place)
}

fn unknown(class: u8, place: u64) -> Error {
    Error::unsupported(RULE, format!("layout class {class} is not known")).at(place)
}
