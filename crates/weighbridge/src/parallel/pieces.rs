//! The stored bytes of a tensor in pieces.

use std::sync::Arc;

use weighbridge_core::model::{Chunks, DType, Tensor, TensorSource};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

/// Values in a piece: a multiple of every block.
pub(crate) const CHUNK: usize = 1 << 17;

/// Some values of a tensor.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The number of the first.
    pub(crate) first: u64,
    pub(crate) values: usize,
    bytes: Bytes,
}

/// Where the bytes of a piece come from.
#[derive(Debug)]
enum Bytes {
    /// They are here.
    Here(Vec<u8>),
    /// From this position of a source, elements of so many bytes to be turned round: read by
    /// whoever works on them.
    There {
        source: Arc<dyn ByteSource>,
        at: u64,
        swap: usize,
    },
}

impl Piece {
    /// The bytes of a piece of a tensor of `dtype`; `buffer` is used where they must be read.
    ///
    /// # Errors
    /// What reading gives, and `Malformed` when there are not as many as the values take.
    pub(crate) fn bytes<'b>(&'b self, dtype: DType, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        let len = bytes_of(dtype, self.values as u64)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match &self.bytes {
            Bytes::There { source, at, swap } => {
                buffer.resize(len, 0);
                source.read_at(*at, buffer)?;
                if *swap > 1 {
                    for element in buffer.chunks_exact_mut(*swap) {
                        element.reverse();
                    }
                }
                Ok(buffer)
            }
            Bytes::Here(bytes) if bytes.len() == len => Ok(bytes),
            Bytes::Here(bytes) => {
                let message = format!("{} bytes came instead of {len}", bytes.len());
                Err(Error::malformed("tensor.wrong-length", message))
            }
        }
    }
}

/// Bytes that `values` values of `dtype` take from the start of a tensor on.
///
/// # Errors
/// `Malformed` when they are no whole number of blocks.
pub(crate) fn bytes_of(dtype: DType, values: u64) -> Result<u64> {
    dtype.size_of(&[values]).ok_or_else(|| {
        let message = format!("{values} values of {dtype} are no whole number of blocks");
        Error::malformed("quantize.size", message)
    })
}

/// Gives the values of `t` to `put`, `step` at a time, which are whole blocks.
///
/// # Errors
/// What reading and `put` give.
pub(crate) fn each(
    t: &Tensor,
    step: usize,
    put: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let values = t.numel().unwrap_or(0);
    let Some(run) = lying(t)? else {
        return stream(t, values, step, put);
    };
    let mut first = 0u64;
    while first < values {
        let n = (values - first).min(step as u64) as usize;
        put(Piece {
            first,
            values: n,
            bytes: Bytes::There {
                source: Arc::clone(&run.source),
                at: bytes_of(t.dtype, first)?.saturating_add(run.at),
                swap: run.swap,
            },
        })?;
        first += n as u64;
    }
    Ok(())
}

/// Reads a tensor that cannot be read at random, and gives what comes in pieces.
fn stream(
    t: &Tensor,
    values: u64,
    step: usize,
    put: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let size = bytes_of(t.dtype, step as u64)? as usize;
    let (mut held, mut first) = (Vec::new(), 0u64);
    t.stream(&mut Chunks::new(), &mut |mut part| {
        while !part.is_empty() {
            let n = part.len().min(size - held.len());
            let (now, rest) = part.split_at(n);
            held.extend_from_slice(now);
            part = rest;
            if held.len() == size {
                put(Piece {
                    first,
                    values: step,
                    bytes: Bytes::Here(std::mem::take(&mut held)),
                })?;
                first += step as u64;
            }
        }
        Ok(())
    })?;
    if held.is_empty() {
        return Ok(());
    }
    let left = usize::try_from(values.saturating_sub(first));
    put(Piece {
        first,
        values: left.unwrap_or(0).min(step),
        bytes: Bytes::Here(held),
    })
}

/// Where a tensor lies in one run, and the width of what is to be turned round in it.
#[derive(Debug)]
pub(crate) struct Lying {
    pub(crate) source: Arc<dyn ByteSource>,
    pub(crate) at: u64,
    pub(crate) swap: usize,
}

/// Where `t` can be read at random; `None` for what has to be read as a stream.
///
/// # Errors
/// What verifying and inflating its storage gives.
pub(crate) fn lying(t: &Tensor) -> Result<Option<Lying>> {
    let TensorSource::View(v) = &t.source else {
        return Ok(None);
    };
    // Elements narrower than a byte begin in the middle of one.
    if t.dtype.bytes().is_none() && t.dtype.block().is_none() {
        return Ok(None);
    }
    v.storage.verify()?;
    let (source, base) = v.storage.random()?;
    let at = base.checked_add(v.offset).ok_or_else(|| {
        Error::malformed("quantize.size", "the tensor lies beyond 64 bits of file")
    })?;
    let swap = match v.storage.is_big_endian() {
        true => t.dtype.swap_width(),
        false => 1,
    };
    Ok(Some(Lying { source, at, swap }))
}
