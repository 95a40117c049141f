//! Writing a file with its changes.

use std::ops::Range;

use weighbridge_core::model::{Chunks, Tensor};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::{Part, Spliced};
use crate::output::{Positioned, Run, Sink, raw_bytes};

/// Copies go in steps of this, so that progress is told in between.
const STEP: u64 = 32 << 20;

impl Spliced {
    /// The length of the new file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the new file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the new file to `out`; `progress` is told the bytes since the last call.
    ///
    /// # Errors
    /// What reading and writing gives; `Malformed` when a tensor has not the bytes it said.
    pub fn write(
        &self,
        source: &dyn ByteSource,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut chunks = Chunks::new();
        for p in &self.parts {
            match p {
                Part::Bytes(b) => {
                    out.put(b)?;
                    progress(b.len() as u64);
                }
                Part::Copy(r) => copy(source, r.clone(), out, progress)?,
                Part::Tensor(t) => put_tensor(t, &mut chunks, out, progress)?,
                Part::Room(..) => {
                    let message = "a file with rooms is written by position";
                    return Err(Error::parameter("onnx.splice", message));
                }
            }
        }
        Ok(())
    }

    /// The one write that turns `source` into the new file where it lies: where, and what; nothing
    /// where they are equal. `None` where bytes move, or change over a run longer than `most`.
    ///
    /// # Errors
    /// What reading `source` gives.
    pub fn patch(&self, source: &dyn ByteSource, most: u64) -> Result<Option<(u64, Vec<u8>)>> {
        if self.len != source.len() {
            return Ok(None);
        }
        let (mut at, mut changed) = (0u64, Vec::new());
        for p in &self.parts {
            match p {
                Part::Copy(r) if r.start == at => at = r.end,
                Part::Bytes(b) => {
                    let end = at.saturating_add(b.len() as u64);
                    let old = source.read_vec(at..end)?;
                    for (at, (old, new)) in (at..).zip(old.iter().zip(b)) {
                        if old == new {
                            continue;
                        }
                        changed.push((at, *new));
                        let first = changed.first().map_or(at, |c| c.0);
                        if at - first >= most {
                            return Ok(None);
                        }
                    }
                    at = end;
                }
                _ => return Ok(None),
            }
        }
        let (Some(&(first, _)), Some(&(last, _))) = (changed.first(), changed.last()) else {
            return Ok(Some((0, Vec::new())));
        };
        let mut out = source.read_vec(first..last.saturating_add(1))?;
        for (at, new) in changed {
            let i = usize::try_from(at - first).unwrap_or(usize::MAX);
            if let Some(b) = out.get_mut(i) {
                *b = new;
            }
        }
        Ok(Some((first, out)))
    }

    /// The rooms: number of each, and where in the new file its bytes begin.
    pub fn rooms(&self) -> Vec<(usize, u64)> {
        let (mut at, mut out) = (0u64, Vec::new());
        for p in &self.parts {
            if let Part::Room(_, id) = p {
                out.push((*id, at));
            }
            at = at.saturating_add(p.len());
        }
        out
    }

    /// Writes everything but the rooms into a file that has the new one's length.
    ///
    /// # Errors
    /// As [`Spliced::write`].
    pub fn write_around_rooms(&self, source: &dyn ByteSource, out: &Positioned) -> Result<()> {
        let (mut at, mut chunks) = (0u64, Chunks::new());
        for p in &self.parts {
            match p {
                Part::Bytes(b) => out.write_at(at, b)?,
                Part::Copy(r) => out.copy_at(at, source, r.clone())?,
                Part::Tensor(t) => {
                    let mut sink = At { out, at };
                    put_tensor(t, &mut chunks, &mut sink, &mut |_| {})?;
                }
                Part::Room(..) => {}
            }
            at = at.saturating_add(p.len());
        }
        Ok(())
    }
}

/// A sink from a position of a file on.
struct At<'a> {
    out: &'a Positioned,
    at: u64,
}

impl Sink for At<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_at(self.at, bytes)?;
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn copy(&mut self, source: &dyn ByteSource, range: Range<u64>) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.out.copy_at(self.at, source, range)?;
        self.at = self.at.saturating_add(len);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.at
    }
}

/// Copies `range` of `source`, inside the kernel where that goes.
pub(crate) fn copy(
    source: &dyn ByteSource,
    range: Range<u64>,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(STEP));
        out.copy(source, at..end)?;
        progress(end - at);
        at = end;
    }
    Ok(())
}

/// Writes a tensor's row-major little-endian bytes, no more and no fewer than it says.
///
/// # Errors
/// What reading and writing gives; `Malformed` when it has not the bytes it said.
pub(crate) fn put_tensor(
    t: &Tensor,
    chunks: &mut Chunks,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (said, mut n) = (t.byte_len(), 0u64);
    if let Some((source, at)) = raw_bytes(t) {
        return Run::new(source, at, said).flush(out, progress);
    }
    t.stream(chunks, &mut |part| {
        n = n.saturating_add(part.len() as u64);
        if n > said {
            return Err(Error::malformed(
                "onnx.tensor-size",
                format!("{}: more bytes came than the {said} it has", t.name),
            ));
        }
        out.put(part)?;
        progress(part.len() as u64);
        Ok(())
    })?;
    if n != said {
        let message = format!("{}: {n} bytes came of the {said} it has", t.name);
        return Err(Error::malformed("onnx.tensor-size", message));
    }
    Ok(())
}
