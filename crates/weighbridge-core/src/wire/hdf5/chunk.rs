//! Where the chunks of a dataset lie, by whatever index (IV.A.2.i, VII).

use std::ops::Range;

use smallvec::SmallVec;

use super::btree1::Tree;
use super::dataset::Dataset;
use super::fields::Fields;
use super::file::File;
use super::layout::{ChunkIndex, Layout, stored_size_width};
use crate::error::{Error, Result};

const RULE: &str = "hdf5.chunk-index";

/// Chunks may be so many times the file, and are admitted up to this size in any case.
const CHUNK_RATIO: u64 = 16;
const CHUNK_LEAST: u64 = 64 << 20;

/// Extents or positions.
pub(super) type Dims = SmallVec<[u64; 4]>;

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its number in row-major order over the grid of the dataset's extents.
    pub number: u64,
    /// Its address.
    pub address: u64,
    /// How many bytes it takes in the file.
    pub stored: u64,
    /// The filters that were left out, a bit for each.
    pub mask: u32,
}

/// How a dataset is cut into chunks.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    /// The dataset's extents.
    pub(super) dims: Dims,
    /// A chunk's extents.
    pub(super) chunk: Dims,
    /// How many chunks there are along each dimension.
    pub(super) counts: Dims,
    /// Bytes of an element.
    pub(super) element: u64,
    /// Bytes of a chunk.
    pub(super) bytes: u64,
}

/// The chunks of a dataset that are there.
#[derive(Debug)]
pub struct ChunkMap {
    pub(super) grid: Grid,
    found: Found,
}

#[derive(Debug)]
enum Found {
    /// In the order of their numbers.
    Listed(Vec<Chunk>),
    /// One after the other, in the order of a grid of the largest extents.
    Implicit { address: u64, order: Order },
}

/// How an index that is an array numbers chunks: row-major over the largest extents, the one
/// without a bound first (`H5VM_swizzle_coords`).
#[derive(Debug)]
struct Order {
    /// Chunks along each dimension as far as the dataset may grow; unused for the first.
    most: Dims,
    /// The dimension that comes first.
    first: usize,
}

impl Grid {
    pub(super) fn new(file: &File, d: &Dataset, chunk: &Dims, at: u64) -> Result<Self> {
        let dims = d.space.dims.clone().unwrap_or_default();
        if dims.len() != chunk.len() {
            let message = format!(
                "chunks of {} dimensions in a dataset of {}",
                chunk.len(),
                dims.len()
            );
            return Err(Error::malformed("hdf5.layout", message).at(at));
        }
        let element = u64::from(d.datatype.size);
        let bytes = chunk.iter().try_fold(element, |n, &c| n.checked_mul(c));
        // Chunks are decoded whole: as large as the file makes plausible.
        let plausible = file.source().len().saturating_mul(CHUNK_RATIO);
        let cap = plausible.max(CHUNK_LEAST).min(file.limits().inflate_bytes);
        let bytes = bytes.filter(|&b| b <= cap).ok_or_else(|| {
            let message = format!("a chunk of the dataset is larger than the limit of {cap} bytes");
            Error::limit("hdf5.chunk-size", message).at(at)
        })?;
        let counts = dims.iter().zip(chunk).map(|(d, c)| d.div_ceil(*c));
        Ok(Self {
            counts: counts.collect(),
            dims,
            chunk: chunk.clone(),
            element,
            bytes,
        })
    }

    /// The number of the chunk at `position`; `None` outside the dataset.
    pub(super) fn number(&self, position: &[u64]) -> Option<u64> {
        let mut n = 0u64;
        for (&p, &count) in position.iter().zip(&self.counts) {
            if p >= count {
                return None;
            }
            n = n.checked_mul(count)?.checked_add(p)?;
        }
        Some(n)
    }

    /// The position of the chunk of a number.
    pub(super) fn position(&self, mut number: u64) -> Dims {
        let mut at = Dims::from_elem(0, self.counts.len());
        for (p, &count) in at.iter_mut().zip(&self.counts).rev() {
            *p = number % count.max(1);
            number /= count.max(1);
        }
        at
    }

    /// Whether the chunk at `position` reaches over the edge.
    fn is_edge(&self, position: &[u64]) -> bool {
        let sides = position.iter().zip(&self.chunk).zip(&self.dims);
        sides
            .into_iter()
            .any(|((p, c), d)| p.saturating_add(1).saturating_mul(*c) > *d)
    }
}

impl Order {
    fn new(d: &Dataset, chunk: &Dims) -> Self {
        let most = d.space.most.iter().zip(chunk);
        let most = most.map(|(m, c)| m.map_or(u64::MAX, |m| m.div_ceil(*c)));
        let first = d.space.most.iter().position(Option::is_none).unwrap_or(0);
        Self {
            most: most.collect(),
            first,
        }
    }

    /// The dimensions in the order they count.
    fn dims(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let others = (0..self.most.len()).filter(move |&d| d != self.first);
        std::iter::once(self.first).chain(others)
    }

    fn position(&self, mut index: u64) -> Dims {
        let mut at = Dims::from_elem(0, self.most.len());
        for d in self.dims().rev() {
            let count = self.most.get(d).copied().unwrap_or(1).max(1);
            if let Some(p) = at.get_mut(d) {
                *p = if d == self.first {
                    index
                } else {
                    index % count
                };
            }
            index /= count;
        }
        at
    }

    fn index(&self, position: &[u64]) -> Option<u64> {
        self.dims().try_fold(0u64, |n, d| {
            let count = if d == self.first {
                1
            } else {
                *self.most.get(d)?
            };
            n.checked_mul(count)?.checked_add(*position.get(d)?)
        })
    }
}

impl ChunkMap {
    /// The chunks whose numbers lie in a range, as far as they are there.
    pub(super) fn within(&self, numbers: Range<u64>) -> Within<'_> {
        match &self.found {
            Found::Listed(all) => {
                let from = all.partition_point(|c| c.number < numbers.start);
                let to = all.partition_point(|c| c.number < numbers.end);
                Within::Listed(all.get(from..to).unwrap_or_default().iter())
            }
            Found::Implicit { .. } => Within::Implicit(self, numbers),
        }
    }

    /// All chunks that are there.
    pub fn iter(&self) -> impl Iterator<Item = Chunk> + '_ {
        let all = self
            .grid
            .counts
            .iter()
            .try_fold(1u64, |n, &c| n.checked_mul(c));
        self.within(0..all.unwrap_or(u64::MAX))
    }

    fn implicit(&self, number: u64) -> Option<Chunk> {
        let Found::Implicit { address, order } = &self.found else {
            return None;
        };
        let index = order.index(&self.grid.position(number))?;
        Some(Chunk {
            number,
            address: address.checked_add(index.checked_mul(self.grid.bytes)?)?,
            stored: self.grid.bytes,
            mask: 0,
        })
    }
}

/// See [`ChunkMap::within`].
pub(super) enum Within<'a> {
    Listed(std::slice::Iter<'a, Chunk>),
    Implicit(&'a ChunkMap, Range<u64>),
}

impl Iterator for Within<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        match self {
            Self::Listed(rest) => rest.next().copied(),
            Self::Implicit(map, numbers) => numbers.find_map(|n| map.implicit(n)),
        }
    }
}

/// Collects chunks while an index is read.
pub(super) struct Collect<'a> {
    file: &'a File,
    grid: &'a Grid,
    filtered: bool,
    plain_edges: bool,
    chunks: Vec<Chunk>,
}

impl Collect<'_> {
    /// A chunk at `position`, which lies in the grid or is left out.
    fn push(&mut self, position: &[u64], address: u64, stored: Option<(u64, u32)>) -> Result<()> {
        let Some(number) = self.grid.number(position) else {
            return Ok(());
        };
        let plain = (self.plain_edges && self.grid.is_edge(position)) || !self.filtered;
        let (stored, mask) = stored.unwrap_or((self.grid.bytes, 0));
        let (stored, mask) = match plain {
            true => (self.grid.bytes, u32::MAX),
            false => (stored, mask),
        };
        self.file.range(address, stored)?;
        self.chunks.push(Chunk {
            number,
            address,
            stored,
            mask,
        });
        Ok(())
    }
}

/// An element of an array of chunks: the address, and with filters the size and the mask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element {
    /// Whether there are filters.
    pub(super) filtered: bool,
    /// Bytes of the whole element.
    pub(super) width: usize,
}

impl Element {
    pub(super) fn read(
        self,
        f: &mut Fields<'_>,
        address_width: u8,
    ) -> Result<(Option<u64>, Option<(u64, u32)>)> {
        let address = f.address()?;
        if !self.filtered {
            return Ok((address, None));
        }
        let width = self.width.saturating_sub(usize::from(address_width) + 4);
        Ok((address, Some((f.uint(width)?, f.u32()?))))
    }
}

impl File {
    /// Where the chunks of a dataset lie.
    ///
    /// # Errors
    /// What the specification does not allow; `Limit` for chunks over the limit of what is
    /// inflated into memory, before anything of that size is allocated.
    pub fn chunks(&self, d: &Dataset, at: u64) -> Result<ChunkMap> {
        let Layout::Chunked {
            chunk,
            index,
            address,
            plain_edges,
            wide_sizes,
        } = &d.layout
        else {
            return Err(Error::malformed(RULE, "the dataset is not in chunks").at(at));
        };
        let grid = Grid::new(self, d, chunk, at)?;
        let mut collect = Collect {
            file: self,
            grid: &grid,
            filtered: !d.pipeline.filters.is_empty(),
            plain_edges: *plain_edges,
            chunks: Vec::new(),
        };
        let Some(address) = *address else {
            let found = Found::Listed(Vec::new());
            return Ok(ChunkMap { grid, found });
        };
        let order = Order::new(d, chunk);
        match index {
            ChunkIndex::Single(stored) => {
                let origin = Dims::from_elem(0, chunk.len());
                collect.push(&origin, address, *stored)?;
            }
            ChunkIndex::Implicit => {
                let all = order
                    .most
                    .iter()
                    .try_fold(grid.bytes, |n, &c| n.checked_mul(c));
                self.range(address, all.unwrap_or(u64::MAX))?;
                let found = Found::Implicit { address, order };
                return Ok(ChunkMap { grid, found });
            }
            ChunkIndex::BTree1 => self.tree_of_chunks(address, &mut collect)?,
            ChunkIndex::BTree2 => {
                let width = if *wide_sizes {
                    8
                } else {
                    stored_size_width(grid.bytes)
                };
                self.tree2_of_chunks(address, width, &mut collect)?;
            }
            ChunkIndex::FixedArray => self.fixed_array(address, &mut |i, address, stored| {
                collect.push(&order.position(i), address, stored)
            })?,
            ChunkIndex::ExtensibleArray => {
                self.extensible_array(address, &mut |i, address, stored| {
                    collect.push(&order.position(i), address, stored)
                })?;
            }
        }
        let mut chunks = collect.chunks;
        chunks.sort_unstable_by_key(|c| c.number);
        let same = |pair: &[Chunk]| matches!(pair, [a, b] if a.number == b.number);
        if let Some([a, _]) = chunks.windows(2).find(|pair| same(pair)) {
            let e = Error::malformed(RULE, "two chunks are at the same place of a dataset");
            return Err(e.at(self.place(a.address)));
        }
        let found = Found::Listed(chunks);
        Ok(ChunkMap { grid, found })
    }

    fn tree_of_chunks(&self, address: u64, collect: &mut Collect<'_>) -> Result<()> {
        let n = collect.grid.chunk.len();
        let chunk = collect.grid.chunk.clone();
        self.tree1(address, Tree::Chunks(n + 1), &mut |f, child| {
            let place = f.place();
            let (stored, mask) = (f.u32()?, f.u32()?);
            let mut position = Dims::new();
            for &c in &chunk {
                let offset = f.u64()?;
                if offset % c != 0 {
                    return Err(Error::malformed(RULE, "a chunk lies across others").at(place));
                }
                position.push(offset / c);
            }
            collect.push(&position, child, Some((stored.into(), mask)))
        })
    }

    fn tree2_of_chunks(&self, address: u64, width: usize, collect: &mut Collect<'_>) -> Result<()> {
        let n = collect.grid.chunk.len();
        self.tree2(address, &mut |kind, f| {
            let place = f.place();
            let address = f.address()?;
            let stored = match kind {
                10 => None,
                11 => Some((f.uint(width)?, f.u32()?)),
                _ => return Err(Error::malformed(RULE, "a tree of no chunks").at(place)),
            };
            let position = (0..n).map(|_| f.u64()).collect::<Result<Dims>>()?;
            match address {
                Some(address) => collect.push(&position, address, stored),
                None => Ok(()),
            }
        })
    }
}
