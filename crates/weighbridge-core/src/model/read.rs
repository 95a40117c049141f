//! Reading a tensor's values in order with bounded memory.

use super::storage::Storage;
use super::tensor::{Assembly, Strided, Tensor, TensorSource, View};
use crate::error::{Error, Result};

/// How many bytes streaming readers hold at a time. A multiple of every element width.
pub const CHUNK: usize = 1 << 20;

/// Strided and assembled tensors are produced in blocks of about this many bytes.
const BLOCK: u64 = 4 << 20;

/// Values at most this many steps apart are read in one go, with what lies between them.
const CLOSE: u64 = 64;

/// Reused buffers for streaming tensors: keep one per thread and the whole run touches the same
/// few pages.
#[derive(Debug, Default)]
pub struct Chunks {
    buf: Vec<u8>,
    span: Vec<u8>,
}

use super::Shape as Dims;

impl Chunks {
    /// Empty buffers; they grow on first use.
    pub fn new() -> Self {
        Self::default()
    }

    fn buf(&mut self, n: usize) -> &mut [u8] {
        if self.buf.len() < n {
            self.buf.resize(n, 0);
        }
        self.buf.get_mut(..n).unwrap_or_default()
    }
}

impl Tensor {
    /// Gives the row-major little-endian bytes in order to `sink`, in pieces of whole elements of
    /// at most a few MiB, and verifies the container's checksums of what it read.
    ///
    /// # Errors
    /// Whatever reading gives, what `sink` returns, and `Unsupported` for tensors without dense
    /// data.
    pub fn stream(
        &self,
        chunks: &mut Chunks,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let named = |e: Error| e.within(self.name.as_str());
        match &self.source {
            TensorSource::View(v) => self.stream_view(v, chunks, sink).map_err(named),
            TensorSource::Strided(s) => self.stream_strided(s, chunks, sink).map_err(named),
            TensorSource::Assembled(a) => self.stream_assembly(a, chunks, sink).map_err(named),
            TensorSource::Computed(c) => c.stream(sink).map_err(named),
            TensorSource::Absent => Err(named(Error::unsupported(
                "tensor.no-data",
                format!("a {} tensor has no dense values", self.layout.as_str()),
            ))),
        }
    }

    /// Reads all bytes into fresh memory.
    ///
    /// # Errors
    /// As [`Tensor::stream`].
    pub fn read_vec(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        // No allocation ahead of the bytes: the source proves its length as it is read.
        self.stream(&mut Chunks::new(), &mut |part| {
            out.extend_from_slice(part);
            Ok(())
        })?;
        Ok(out)
    }

    fn stream_view(
        &self,
        v: &View,
        chunks: &mut Chunks,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let len = self.byte_len();
        let swap = swap_width(self, &v.storage);
        let size = CHUNK.min(usize::try_from(len).unwrap_or(CHUNK)).max(1);
        if v.offset == 0 && len == v.storage.len() {
            return v.storage.stream(chunks.buf(size), &mut |part| {
                swap_in_place(part, swap);
                sink(part)
            });
        }
        // What is most of its storage is taken from the pass that has to be made anyway.
        if v.storage.is_read_whole() && len >= v.storage.len() / 2 {
            let wanted = v.offset..v.offset.saturating_add(len);
            if wanted.end > v.storage.len() {
                return Err(Error::truncated(
                    "tensor.out-of-storage",
                    "the tensor reaches past the end of its storage",
                ));
            }
            return v
                .storage
                .stream_range(wanted, chunks.buf(size), &mut |part| {
                    swap_in_place(part, swap);
                    sink(part)
                });
        }
        v.storage.verify()?;
        let (source, base) = v.storage.random()?;
        let mut at = 0;
        while at < len {
            let n = (len - at).min(size as u64) as usize;
            let part = chunks.buf(n);
            source.read_at(base + v.offset + at, part)?;
            swap_in_place(part, swap);
            sink(part)?;
            at += n as u64;
        }
        Ok(())
    }

    fn stream_strided(
        &self,
        s: &Strided,
        chunks: &mut Chunks,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let width = whole_bytes(self)?;
        s.storage.verify()?;
        let swap = swap_width(self, &s.storage);
        let (shape, strides) = coalesce(&self.shape, &s.strides);
        let mut buf = std::mem::take(&mut chunks.buf);
        let done = for_each_block(&shape, width as u64, |start, size| {
            let n = size.iter().product::<u64>() as usize * width;
            if buf.len() < n {
                buf.resize(n, 0);
            }
            let out = buf.get_mut(..n).unwrap_or_default();
            let first = start
                .iter()
                .zip(&strides)
                .map(|(i, st)| i * st)
                .sum::<u64>();
            let from = GatherFrom {
                storage: &s.storage,
                offset: (s.offset + first) * width as u64,
                strides: &strides,
                width,
            };
            gather(&from, size, out, &row_major(size), &mut chunks.span)?;
            swap_in_place(out, swap);
            sign_bits(out, self, s.conj, s.neg);
            sink(out)
        });
        chunks.buf = buf;
        done
    }

    fn stream_assembly(
        &self,
        a: &Assembly,
        chunks: &mut Chunks,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let width = whole_bytes(self)?;
        let mut buf = std::mem::take(&mut chunks.buf);
        let done = for_each_block(&a.shape, width as u64, |start, size| {
            let n = size.iter().product::<u64>() as usize * width;
            if buf.len() < n {
                buf.resize(n, 0);
            }
            let out = buf.get_mut(..n).unwrap_or_default();
            let out_strides = row_major(size);
            for p in &a.pieces {
                gather_piece(self, p, start, size, out, &out_strides, &mut chunks.span)?;
            }
            sink(out)
        });
        chunks.buf = buf;
        done
    }
}

/// Copies what piece `p` has of the block (`start`, `size`) to its place in `out`.
fn gather_piece(
    t: &Tensor,
    p: &super::Piece,
    start: &[u64],
    size: &[u64],
    out: &mut [u8],
    out_strides: &[u64],
    span: &mut Vec<u8>,
) -> Result<()> {
    let width = whole_bytes(t)?;
    let (storage, mut offset, strides): (_, u64, Dims) = match &p.source {
        TensorSource::View(v) => (&v.storage, v.offset, row_major(&p.shape)),
        TensorSource::Strided(s) => (&s.storage, s.offset * width as u64, s.strides.clone()),
        _ => {
            return Err(Error::unsupported(
                "tensor.nested-assembly",
                "a part of an assembled tensor is no view of a storage",
            ));
        }
    };
    let mut take: Dims = Dims::new();
    let mut to = 0u64;
    for d in 0..size.len() {
        let at = |v: &[u64]| v.get(d).copied().unwrap_or(0);
        let lo = at(start).max(at(&p.start));
        let hi = (at(start) + at(size)).min(at(&p.start) + at(&p.shape));
        if lo >= hi {
            return Ok(());
        }
        offset += (lo - at(&p.start)) * at(&strides) * width as u64;
        to += (lo - at(start)) * at(out_strides);
        take.push(hi - lo);
    }
    storage.verify()?;
    let to = to as usize * width;
    let target = out.get_mut(to..).unwrap_or_default();
    let from = GatherFrom {
        storage,
        offset,
        strides: &strides,
        width,
    };
    let swap = swap_width(t, storage);
    if swap == 1 {
        return gather(&from, &take, target, out_strides, span);
    }
    // Swapping in place would turn neighbours in the block round as well: go through a copy.
    let n = take.iter().product::<u64>() as usize * width;
    let mut own = vec![0u8; n];
    let own_strides = row_major(&take);
    gather(&from, &take, &mut own, &own_strides, span)?;
    swap_in_place(&mut own, swap);
    scatter(&own, &own_strides, target, out_strides, &take, width);
    Ok(())
}

fn whole_bytes(t: &Tensor) -> Result<usize> {
    t.dtype.bytes().map(|b| b as usize).ok_or_else(|| {
        Error::unsupported(
            "tensor.packed-view",
            format!(
                "a strided or sharded {} tensor packs several values a byte",
                t.dtype
            ),
        )
    })
}

fn swap_width(t: &Tensor, storage: &Storage) -> usize {
    if storage.is_big_endian() {
        t.dtype.swap_width()
    } else {
        1
    }
}

fn swap_in_place(part: &mut [u8], width: usize) {
    if width > 1 {
        for e in part.chunks_exact_mut(width) {
            e.reverse();
        }
    }
}

/// Applies torch's lazy conj and neg bits to little-endian values.
fn sign_bits(part: &mut [u8], t: &Tensor, conj: bool, neg: bool) {
    if !conj && !neg {
        return;
    }
    let w = t.dtype.swap_width();
    let float = t.dtype.is_float() || t.dtype.is_complex();
    for (i, e) in part.chunks_exact_mut(w).enumerate() {
        let flip = neg != (conj && t.dtype.is_complex() && i % 2 == 1);
        if !flip {
            continue;
        }
        if float {
            if let Some(top) = e.last_mut() {
                *top ^= 0x80;
            }
        } else {
            let mut carry = true;
            for b in e {
                let (v, c) = (!*b).overflowing_add(u8::from(carry));
                *b = v;
                carry = c;
            }
        }
    }
}

fn row_major(shape: &[u64]) -> Dims {
    let mut strides = Dims::from_elem(1, shape.len());
    let mut n = 1u64;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = n;
        n = n.saturating_mul(d);
    }
    strides
}

/// Drops dimensions of extent 1 and joins neighbours that step through memory as one.
fn coalesce(shape: &[u64], strides: &[u64]) -> (Dims, Dims) {
    let (mut sh, mut st) = (Dims::new(), Dims::new());
    for (&d, &s) in shape.iter().zip(strides) {
        if d == 1 {
            continue;
        }
        match (sh.last_mut(), st.last_mut()) {
            (Some(ld), Some(ls)) if s.checked_mul(d) == Some(*ls) => {
                *ld = ld.saturating_mul(d);
                *ls = s;
            }
            _ => {
                sh.push(d);
                st.push(s);
            }
        }
    }
    (sh, st)
}

/// Calls `f(start, size)` for boxes that tile `shape` in row-major order, each a contiguous run
/// of the output of at most about [`BLOCK`] bytes.
fn for_each_block(
    shape: &[u64],
    width: u64,
    mut f: impl FnMut(&[u64], &[u64]) -> Result<()>,
) -> Result<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut inner = width;
    let mut axis = shape.len();
    while axis > 0 {
        let d = shape.get(axis - 1).copied().unwrap_or(1);
        match inner.checked_mul(d) {
            Some(n) if n <= BLOCK => {
                inner = n;
                axis -= 1;
            }
            _ => break,
        }
    }
    // Dimensions before `axis - 1` are stepped one by one, `axis - 1` in runs, the rest whole.
    let mut start = Dims::from_elem(0, shape.len());
    let mut size: Dims = shape.into();
    if axis == 0 {
        return f(&start, &size);
    }
    let split = axis - 1;
    for s in size.iter_mut().take(split) {
        *s = 1;
    }
    let run = (BLOCK / inner).max(1);
    loop {
        let extent = shape.get(split).copied().unwrap_or(1);
        let mut at = 0;
        while at < extent {
            let n = run.min(extent - at);
            if let (Some(s), Some(z)) = (start.get_mut(split), size.get_mut(split)) {
                (*s, *z) = (at, n);
            }
            f(&start, &size)?;
            at += n;
        }
        let mut d = split;
        loop {
            if d == 0 {
                return Ok(());
            }
            d -= 1;
            let Some(s) = start.get_mut(d) else {
                return Ok(());
            };
            *s += 1;
            if *s < shape.get(d).copied().unwrap_or(1) {
                break;
            }
            *s = 0;
        }
    }
}

struct GatherFrom<'a> {
    storage: &'a Storage,
    /// First element, in bytes: views need not begin at a multiple of their width.
    offset: u64,
    strides: &'a [u64],
    width: usize,
}

/// Copies the box of extent `size` to `out`, element (i, j, …) going to Σ i × `out_strides`.
fn gather(
    from: &GatherFrom<'_>,
    size: &[u64],
    out: &mut [u8],
    out_strides: &[u64],
    span: &mut Vec<u8>,
) -> Result<()> {
    let w = from.width as u64;
    let reach: u64 = size
        .iter()
        .zip(from.strides)
        .map(|(&d, &s)| (d - 1) * s)
        .sum::<u64>()
        + 1;
    let begin = from.offset;
    if let Some(src) = from.storage.slice(begin..begin + reach * w) {
        scatter(src, from.strides, out, out_strides, size, from.width);
        return Ok(());
    }
    let (source, base) = from.storage.random()?;
    let block = size.iter().product::<u64>() * w;
    if reach * w <= block.saturating_mul(4).max(64 << 10) {
        let n = (reach * w) as usize;
        if span.len() < n {
            span.resize(n, 0);
        }
        let src = span.get_mut(..n).unwrap_or_default();
        source.read_at(base + begin, src)?;
        scatter(src, from.strides, out, out_strides, size, from.width);
        return Ok(());
    }
    // The box is thin in a large storage: read it line by line along the dimension that gives
    // the most values a read.
    let get = |v: &[u64], d: usize| v.get(d).copied().unwrap_or(1);
    let tight = (0..size.len())
        .max_by_key(|&d| {
            let close = get(from.strides, d) <= CLOSE;
            if close { get(size, d) } else { 1 }
        })
        .unwrap_or(0);
    let (len, step) = (get(size, tight), get(from.strides, tight));
    // A sparse line is cut so that reading the gaps never outweighs the values by much.
    let piece = if step <= CLOSE {
        len.min(BLOCK / (step.max(1) * w)).max(1)
    } else {
        1
    };
    let mut index = Dims::from_elem(0, size.len());
    loop {
        let mut src_at = 0u64;
        let mut out_at = 0u64;
        for d in 0..size.len() {
            src_at += get(&index, d) * get(from.strides, d);
            out_at += get(&index, d) * get(out_strides, d);
        }
        let mut i = 0;
        while i < len {
            let n = piece.min(len - i);
            let bytes = (((n - 1) * step + 1) * w) as usize;
            if span.len() < bytes {
                span.resize(bytes, 0);
            }
            let src = span.get_mut(..bytes).unwrap_or_default();
            source.read_at(base + begin + (src_at + i * step) * w, src)?;
            let to = ((out_at + i * get(out_strides, tight)) * w) as usize;
            let target = out.get_mut(to..).unwrap_or_default();
            scatter(
                src,
                &[step],
                target,
                &[get(out_strides, tight)],
                &[n],
                from.width,
            );
            i += n;
        }
        let mut d = size.len();
        loop {
            if d == 0 {
                return Ok(());
            }
            d -= 1;
            if d == tight {
                continue;
            }
            let Some(x) = index.get_mut(d) else {
                return Ok(());
            };
            *x += 1;
            if *x < get(size, d) {
                break;
            }
            *x = 0;
        }
    }
}

/// Strided copy between slices, element by element, with the width known to the compiler.
fn scatter(
    src: &[u8],
    src_strides: &[u64],
    out: &mut [u8],
    out_strides: &[u64],
    size: &[u64],
    width: usize,
) {
    match width {
        1 => scatter_n::<1>(src, src_strides, out, out_strides, size),
        2 => scatter_n::<2>(src, src_strides, out, out_strides, size),
        4 => scatter_n::<4>(src, src_strides, out, out_strides, size),
        8 => scatter_n::<8>(src, src_strides, out, out_strides, size),
        _ => scatter_n::<16>(src, src_strides, out, out_strides, size),
    }
}

fn scatter_n<const W: usize>(
    src: &[u8],
    src_strides: &[u64],
    out: &mut [u8],
    out_strides: &[u64],
    size: &[u64],
) {
    match (size, src_strides, out_strides) {
        ([], ..) => copy_one::<W>(src, 0, out, 0),
        ([n], [s], [o]) => {
            let (n, s, o) = (*n as usize, *s as usize, *o as usize);
            if s == 1 && o == 1 {
                if let (Some(a), Some(b)) = (src.get(..n * W), out.get_mut(..n * W)) {
                    b.copy_from_slice(a);
                }
                return;
            }
            for i in 0..n {
                copy_one::<W>(src, i * s, out, i * o);
            }
        }
        // The two innermost dimensions in tiles: a transposed read then reuses each cache line.
        ([n, m], [s, t], [o, p]) if *t > 1 && *p == 1 => {
            const TILE: usize = 32;
            let (n, m) = (*n as usize, *m as usize);
            let (s, t, o) = (*s as usize, *t as usize, *o as usize);
            for i0 in (0..n).step_by(TILE) {
                for j0 in (0..m).step_by(TILE) {
                    for i in i0..n.min(i0 + TILE) {
                        for j in j0..m.min(j0 + TILE) {
                            copy_one::<W>(src, i * s + j * t, out, i * o + j);
                        }
                    }
                }
            }
        }
        ([n, rest @ ..], [s, srest @ ..], [o, orest @ ..]) => {
            for i in 0..*n {
                let a = (i * s) as usize * W;
                let b = (i * o) as usize * W;
                let (Some(src), Some(out)) = (src.get(a..), out.get_mut(b..)) else {
                    return;
                };
                scatter_n::<W>(src, srest, out, orest, rest);
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn copy_one<const W: usize>(src: &[u8], i: usize, out: &mut [u8], o: usize) {
    if let (Some(a), Some(b)) = (src.get(i * W..i * W + W), out.get_mut(o * W..o * W + W)) {
        b.copy_from_slice(a);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{DType, Piece, StorageData};
    use crate::source::{FileSource, SliceSource};

    fn storage(bytes: Vec<u8>, big_endian: bool) -> Arc<Storage> {
        let len = bytes.len() as u64;
        let source = Arc::new(SliceSource::new(bytes, "t"));
        let data = StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        Arc::new(Storage::new("s", len, big_endian, data).unwrap())
    }

    fn on_disk(bytes: &[u8]) -> Arc<Storage> {
        use std::io::Write;
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(bytes).unwrap();
        let len = bytes.len() as u64;
        let source = Arc::new(FileSource::from_file(f, len, "t"));
        let data = StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        Arc::new(Storage::new("s", len, false, data).unwrap())
    }

    fn strided(
        storage: &Arc<Storage>,
        dtype: DType,
        shape: &[u64],
        offset: u64,
        strides: &[u64],
    ) -> Tensor {
        let s = Strided {
            storage: Arc::clone(storage),
            offset,
            strides: strides.into(),
            conj: false,
            neg: false,
        };
        Tensor::new("t", dtype, shape, TensorSource::Strided(Box::new(s)))
    }

    /// The obvious reading: one element at a time by index arithmetic.
    fn naive(bytes: &[u8], width: usize, shape: &[u64], offset: u64, strides: &[u64]) -> Vec<u8> {
        let n: u64 = shape.iter().product();
        let mut out = Vec::new();
        for flat in 0..n {
            let (mut rest, mut at) = (flat, offset);
            for d in (0..shape.len()).rev() {
                at += rest % shape[d] * strides[d];
                rest /= shape[d];
            }
            let a = at as usize * width;
            out.extend_from_slice(&bytes[a..a + width]);
        }
        out
    }

    #[test]
    fn strided_reads_equal_the_naive_ones() {
        let bytes: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
        let cases: &[(&[u64], u64, &[u64])] = &[
            (&[8, 6], 0, &[1, 8]),
            (&[200, 200], 0, &[1, 200]),
            (&[3, 3], 5, &[16, 3]),
            (&[3, 4], 0, &[1, 0]),
            (&[4, 2, 3], 0, &[1, 12, 4]),
            (&[1, 3, 4, 5], 0, &[60, 1, 15, 3]),
            (&[6], 0, &[9]),
            (&[4, 4], 7, &[9000, 100]),
            (&[], 17, &[]),
            (&[2, 0, 3], 0, &[3, 3, 1]),
            (&[5, 7], 3, &[7, 1]),
        ];
        for (shape, offset, strides) in cases {
            for s in [storage(bytes.clone(), false), on_disk(&bytes)] {
                let t = strided(&s, DType::F32, shape, *offset, strides);
                assert_eq!(
                    t.read_vec().unwrap(),
                    naive(&bytes, 4, shape, *offset, strides),
                    "{shape:?} {strides:?}"
                );
            }
        }
    }

    #[test]
    fn blocks_tile_large_shapes_in_order() {
        // 3 × 3 Mi one-byte elements: more than one block along the inner dimension.
        let (rows, cols) = (3u64, 3u64 << 20);
        let bytes: Vec<u8> = (0..rows * cols * 2).map(|i| (i % 251) as u8).collect();
        for s in [storage(bytes.clone(), false), on_disk(&bytes)] {
            let t = strided(&s, DType::U8, &[rows, cols], 1, &[cols * 2, 1]);
            assert_eq!(
                t.read_vec().unwrap(),
                naive(&bytes, 1, &[rows, cols], 1, &[cols * 2, 1])
            );
            let t = strided(&s, DType::U8, &[cols, rows], 0, &[1, cols]);
            assert_eq!(
                t.read_vec().unwrap(),
                naive(&bytes, 1, &[cols, rows], 0, &[1, cols])
            );
        }
    }

    #[test]
    fn big_endian_and_sign_bits() {
        let s = storage(vec![0, 1, 2, 3, 4, 5, 6, 7], true);
        let view = TensorSource::View(View {
            storage: Arc::clone(&s),
            offset: 0,
        });
        let t = Tensor::new("c", DType::C64, &[1], view);
        assert_eq!(t.read_vec().unwrap(), [3, 2, 1, 0, 7, 6, 5, 4]);
        let mut t = strided(&storage(vec![0; 8], false), DType::C64, &[1], 0, &[1]);
        if let TensorSource::Strided(s) = &mut t.source {
            s.conj = true;
        }
        assert_eq!(t.read_vec().unwrap(), [0, 0, 0, 0, 0, 0, 0, 0x80]);
    }

    #[test]
    fn pieces_begin_at_any_byte() {
        let bytes: Vec<u8> = (0..40).collect();
        for make in [|b| storage(b, false), |b: Vec<u8>| on_disk(&b)] {
            let view = |offset| {
                TensorSource::View(View {
                    storage: make(bytes.clone()),
                    offset,
                })
            };
            let piece = |start, offset| super::super::Piece {
                start: [start].as_slice().into(),
                shape: [3u64].as_slice().into(),
                source: view(offset),
            };
            let a = Assembly {
                shape: [6u64].as_slice().into(),
                pieces: vec![piece(0, 1), piece(3, 22)],
            };
            let t = Tensor::new(
                "t",
                DType::F32,
                &[2, 3],
                TensorSource::Assembled(Arc::new(a)),
            );
            let want: Vec<u8> = (1..13).chain(22..34).collect();
            assert_eq!(t.read_vec().unwrap(), want);
        }
    }

    #[test]
    fn assembled_rows_and_columns() {
        let whole: Vec<u8> = (0..6 * 8).collect();
        let left = storage(naive(&whole, 1, &[6, 5], 0, &[8, 1]), false);
        let right = storage(naive(&whole, 1, &[6, 3], 5, &[8, 1]), false);
        let piece = |s: &Arc<Storage>, col: u64, n: u64| Piece {
            start: [0, col][..].into(),
            shape: [6, n][..].into(),
            source: TensorSource::View(View {
                storage: Arc::clone(s),
                offset: 0,
            }),
        };
        let a = Assembly {
            shape: [6, 8][..].into(),
            pieces: vec![piece(&left, 0, 5), piece(&right, 5, 3)],
        };
        a.check().unwrap();
        let t = Tensor::new(
            "t",
            DType::U8,
            &[6, 8],
            TensorSource::Assembled(Arc::new(a.clone())),
        );
        assert_eq!(t.read_vec().unwrap(), whole);
        let bad = Assembly {
            pieces: vec![piece(&left, 0, 5), piece(&left, 3, 3)],
            ..a
        };
        assert_eq!(bad.check().unwrap_err().rule(), "shards.bad-tiling");
    }
}
