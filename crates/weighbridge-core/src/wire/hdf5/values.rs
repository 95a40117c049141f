//! The values of a dataset, in row-major order and bounded memory.

use std::ops::Range;

use super::chunk::{Chunk, ChunkMap, Dims, Grid};
use super::dataset::Dataset;
use super::file::File;
use super::layout::Layout;
use crate::error::{Error, Result};

/// Bands of at most this many bytes are put together from chunks.
const BAND: u64 = 16 << 20;

/// About how many bytes are handed out at a time.
const PIECE: u64 = 1 << 20;

/// What is done with values: whole elements in order, which may be changed in place.
pub type Sink<'s> = dyn FnMut(&mut [u8]) -> Result<()> + 's;

impl File {
    /// Gives the values of a dataset in row-major order, as the file's type has them, in pieces
    /// of whole elements. `at` is where the dataset's header lies, for messages.
    ///
    /// # Errors
    /// What reading gives; `Unsupported` for values that lie in other files or behind a filter
    /// that is not known.
    pub fn values(&self, d: &Dataset, at: u64, sink: &mut Sink<'_>) -> Result<()> {
        if !d.external.is_empty() {
            return Err(elsewhere("hdf5.external-storage", at));
        }
        let element = u64::from(d.datatype.size);
        let bytes = d.space.elements().and_then(|n| n.checked_mul(element));
        let bytes = bytes.ok_or_else(|| {
            Error::limit("hdf5.expand", "the dataset is larger than any memory").at(at)
        })?;
        if bytes == 0 {
            return Ok(());
        }
        if element > BAND {
            let message = format!("elements of {element} bytes are over the limit of {BAND}");
            return Err(Error::limit("hdf5.element-size", message).at(at));
        }
        match &d.layout {
            Layout::Compact { data, .. } if data.len() as u64 >= bytes => {
                let mut data = data.get(..bytes as usize).unwrap_or_default().to_vec();
                sink(&mut data)
            }
            Layout::Compact { .. } => {
                let message = "a dataset has more elements than its header holds";
                Err(Error::malformed("hdf5.layout", message).at(at))
            }
            Layout::Contiguous { address: None, .. } => fill(d, bytes, sink),
            Layout::Contiguous {
                address: Some(address),
                ..
            } => self.run(*address, bytes, element, sink),
            Layout::Chunked { .. } => {
                let map = self.chunks(d, at)?;
                Bands::new(self, d, &map, at)?.all(sink)
            }
            Layout::Virtual { .. } => Err(elsewhere("hdf5.virtual-dataset", at)),
        }
    }

    /// Where the values of a dataset lie in the source, as far as they have places.
    ///
    /// # Errors
    /// As [`File::chunks`]; `Truncated` for what lies outside the file.
    pub fn data_ranges(&self, d: &Dataset, at: u64) -> Result<Vec<Range<u64>>> {
        let bytes = d.space.elements();
        let bytes = bytes.and_then(|n| n.checked_mul(d.datatype.size.into()));
        match &d.layout {
            _ if !d.external.is_empty() || bytes == Some(0) => Ok(Vec::new()),
            Layout::Contiguous {
                address: Some(address),
                ..
            } => Ok(vec![self.range(*address, bytes.unwrap_or(u64::MAX))?]),
            Layout::Chunked { .. } => {
                let map = self.chunks(d, at)?;
                let range = |c: Chunk| self.range(c.address, c.stored);
                map.iter().map(range).collect()
            }
            _ => Ok(Vec::new()),
        }
    }

    fn run(&self, address: u64, bytes: u64, element: u64, sink: &mut Sink<'_>) -> Result<()> {
        let mut range = self.range(address, bytes)?;
        let step = (PIECE / element).max(1).saturating_mul(element);
        let mut buf = vec![0u8; step.min(bytes) as usize];
        while range.start < range.end {
            let n = step.min(range.end - range.start);
            let part = buf.get_mut(..n as usize).unwrap_or_default();
            self.source().read_at(range.start, part)?;
            sink(part)?;
            range.start += n;
        }
        Ok(())
    }

    /// The bytes of one chunk, its filters undone.
    fn chunk(&self, d: &Dataset, grid: &Grid, chunk: Chunk) -> Result<Vec<u8>> {
        let range = self.range(chunk.address, chunk.stored)?;
        let start = range.start;
        let data = self.source().read_vec(range)?;
        d.pipeline
            .undo(data, chunk.mask, grid.bytes, grid.element as usize)
            .map_err(|e| e.span(start, chunk.stored))
    }
}

fn elsewhere(rule: &'static str, at: u64) -> Error {
    Error::unsupported(
        rule,
        "the values lie in other files, which are never opened",
    )
    .at(at)
}

/// Gives `bytes` of elements that were never written.
fn fill(d: &Dataset, bytes: u64, sink: &mut Sink<'_>) -> Result<()> {
    let element = u64::from(d.datatype.size);
    let step = (PIECE / element).max(1).saturating_mul(element).min(bytes);
    let mut buf = vec![0u8; usize::try_from(step).unwrap_or(0)];
    let mut left = bytes;
    while left > 0 {
        let n = step.min(left);
        let part = buf.get_mut(..n as usize).unwrap_or_default();
        // The sink may have changed it.
        paint(part, &d.fill.value);
        sink(part)?;
        left -= n;
    }
    Ok(())
}

/// Fills with the value, or with zeros.
fn paint(out: &mut [u8], value: &[u8]) {
    if value.is_empty() || value.iter().all(|&b| b == 0) {
        out.fill(0);
        return;
    }
    for element in out.chunks_mut(value.len()) {
        if let Some(value) = value.get(..element.len()) {
            element.copy_from_slice(value);
        }
    }
}

/// Cuts a dataset into boxes that follow each other in row-major order, and puts each together
/// from the chunks that it touches. Their numbers are in one range: dimensions before `axis` are
/// stepped one by one, those behind it taken whole.
struct Bands<'a> {
    file: &'a File,
    d: &'a Dataset,
    map: &'a ChunkMap,
    /// The dimension that is cut, and how far each cut goes.
    axis: usize,
    step: u64,
    /// Bytes of one step along each dimension.
    units: Dims,
    /// Chunks that were decoded and are needed for the next band as well.
    held: Vec<(u64, Vec<u8>)>,
    out: Vec<u8>,
}

impl<'a> Bands<'a> {
    fn new(file: &'a File, d: &'a Dataset, map: &'a ChunkMap, at: u64) -> Result<Self> {
        if let Some(filter) = d.pipeline.unknown()
            && map.iter().next().is_some()
        {
            let message = format!(
                "the filter {} is not undone by this version",
                filter.label()
            );
            return Err(Error::unsupported("hdf5.filter", message).at(at).help(
                "write the file anew without that filter, say with `h5repack -f NONE`, or with one of deflate, shuffle, fletcher32, lzf and scale-offset",
            ));
        }
        let grid = &map.grid;
        let mut units = Dims::from_elem(grid.element, grid.dims.len());
        let mut unit = grid.element;
        for (u, &n) in units.iter_mut().zip(&grid.dims).rev() {
            *u = unit;
            unit = unit.saturating_mul(n);
        }
        let cap = BAND;
        let axis = units.iter().position(|&u| u <= cap).unwrap_or(0);
        let unit = units.get(axis).copied().unwrap_or(1).max(1);
        let chunk = grid.chunk.get(axis).copied().unwrap_or(1);
        let row = unit.saturating_mul(chunk);
        let step = if row <= cap {
            (PIECE / row).max(1).saturating_mul(chunk)
        } else {
            (cap / unit).max(1)
        };
        Ok(Self {
            file,
            d,
            map,
            axis,
            step,
            units,
            held: Vec::new(),
            out: Vec::new(),
        })
    }

    fn all(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let dims = self.map.grid.dims.clone();
        let chunk = self.map.grid.chunk.get(self.axis).copied().unwrap_or(1);
        let extent = dims.get(self.axis).copied().unwrap_or(1);
        let mut start = Dims::from_elem(0, dims.len());
        loop {
            let mut at = 0;
            while at < extent {
                // A cut within a chunk ends where the chunk does.
                let edge = if self.step < chunk {
                    chunk - at % chunk
                } else {
                    u64::MAX
                };
                let n = self.step.min(edge).min(extent - at);
                if let Some(s) = start.get_mut(self.axis) {
                    *s = at;
                }
                self.band(&start, n, sink)?;
                at += n;
            }
            if !advance(&mut start, &dims, self.axis) {
                return Ok(());
            }
        }
    }

    /// The box that begins at `start` and reaches `n` along the axis.
    fn band(&mut self, start: &Dims, n: u64, sink: &mut Sink<'_>) -> Result<()> {
        let grid = &self.map.grid;
        let mut size = grid.dims.clone();
        for (d, s) in size.iter_mut().enumerate() {
            match d.cmp(&self.axis) {
                std::cmp::Ordering::Less => *s = 1,
                std::cmp::Ordering::Equal => *s = n,
                std::cmp::Ordering::Greater => {}
            }
        }
        let bytes = n.saturating_mul(self.units.get(self.axis).copied().unwrap_or(1));
        let place = |end: bool| -> Dims {
            let sides = start.iter().zip(&size).zip(&grid.chunk);
            sides
                .map(|((s, z), c)| if end { (s + z.max(&1) - 1) / c } else { s / c })
                .collect()
        };
        let first = grid.number(&place(false)).unwrap_or(0);
        let last = grid.number(&place(true)).unwrap_or(first);
        let mut chunks = self.map.within(first..last.saturating_add(1)).peekable();
        if chunks.peek().is_none() {
            return fill(self.d, bytes, sink);
        }
        let mut out = std::mem::take(&mut self.out);
        out.resize(bytes as usize, 0);
        paint(&mut out, &self.d.fill.value);
        for chunk in chunks {
            let held = self.held.iter().find(|(n, _)| *n == chunk.number);
            if let Some((_, data)) = held {
                copy(grid, chunk.number, data, start, &size, &mut out);
                continue;
            }
            let data = self.file.chunk(self.d, grid, chunk)?;
            copy(grid, chunk.number, &data, start, &size, &mut out);
            self.hold(chunk.number, data);
        }
        let done = sink(&mut out);
        self.out = out;
        done
    }

    /// Keeps a decoded chunk that the next band needs again, as far as there is room.
    fn hold(&mut self, number: u64, data: Vec<u8>) {
        let chunk = self.map.grid.chunk.get(self.axis).copied().unwrap_or(1);
        let again = self.step < chunk || self.axis > 0;
        let room = (BAND / self.map.grid.bytes.max(1)).max(1) as usize;
        if again {
            if self.held.len() >= room {
                self.held.remove(0);
            }
            self.held.push((number, data));
        }
    }
}

/// Steps the dimensions before `axis`; says whether there is another place.
fn advance(start: &mut Dims, dims: &Dims, axis: usize) -> bool {
    for d in (0..axis).rev() {
        let (Some(s), Some(&n)) = (start.get_mut(d), dims.get(d)) else {
            return false;
        };
        *s += 1;
        if *s < n {
            return true;
        }
        *s = 0;
    }
    false
}

/// Copies what a chunk and a box of the dataset have in common.
fn copy(grid: &Grid, number: u64, data: &[u8], start: &Dims, size: &Dims, out: &mut [u8]) {
    let rank = grid.dims.len();
    let origin = grid.position(number);
    // Per dimension: how much is common, and where it begins in the chunk and in the box.
    let (mut common, mut from, mut to) = (Dims::new(), Dims::new(), Dims::new());
    let sides = origin.iter().zip(&grid.chunk).zip(start.iter().zip(size));
    for ((&o, &c), (&s, &z)) in sides {
        let low = o.saturating_mul(c);
        let begin = low.max(s);
        let end = low.saturating_add(c).min(s.saturating_add(z));
        if begin >= end {
            return;
        }
        common.push(end - begin);
        from.push(begin - low);
        to.push(begin - s);
    }
    let (chunk_units, box_units) = (units(&grid.chunk, grid.element), units(size, grid.element));
    // Dimensions that are whole in both are one run.
    let get = |v: &Dims, d: usize| v.get(d).copied().unwrap_or(0);
    let mut run = grid.element;
    let mut outer = rank;
    while outer > 0 {
        let d = outer - 1;
        run = run.saturating_mul(get(&common, d));
        outer = d;
        if get(&common, d) != get(&grid.chunk, d) || get(&common, d) != get(size, d) {
            break;
        }
    }
    let offset = |at: &Dims, base: &Dims, units: &Dims| -> usize {
        let steps = (0..rank).map(|d| (get(at, d) + get(base, d)) * get(units, d));
        steps.sum::<u64>() as usize
    };
    let run = run as usize;
    let mut at = Dims::from_elem(0, rank);
    loop {
        let (a, b) = (
            offset(&at, &from, &chunk_units),
            offset(&at, &to, &box_units),
        );
        if let (Some(a), Some(b)) = (data.get(a..a + run), out.get_mut(b..b + run)) {
            b.copy_from_slice(a);
        }
        if !advance(&mut at, &common, outer) {
            return;
        }
    }
}

/// Bytes of a step along each dimension of a box.
fn units(extents: &Dims, element: u64) -> Dims {
    let mut out = Dims::from_elem(element, extents.len());
    let mut unit = element;
    for (u, &n) in out.iter_mut().zip(extents).rev() {
        *u = unit;
        unit = unit.saturating_mul(n);
    }
    out
}
