//! Tensors whose bytes are copied from file to file as they lie.

use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{Tensor, TensorSource};
use weighbridge_core::source::ByteSource;

use super::Sink;

/// Copies inside the kernel go in steps of this, so that progress is told in between.
const STEP: u64 = 32 << 20;

/// Where a tensor's bytes lie in a file just as they are to be written.
pub(crate) fn raw_bytes(t: &Tensor) -> Option<(&Arc<dyn ByteSource>, u64)> {
    let TensorSource::View(v) = &t.source else {
        return None;
    };
    if v.storage.is_big_endian() && t.dtype.swap_width() > 1 {
        return None;
    }
    let (source, base) = v.storage.raw_range()?;
    Some((source, base.checked_add(v.offset)?))
}

/// Neighbours in the source that are neighbours in the output, copied as one.
#[derive(Debug, Default)]
pub(crate) struct Run<'a> {
    source: Option<&'a Arc<dyn ByteSource>>,
    range: Range<u64>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(source: &'a Arc<dyn ByteSource>, at: u64, len: u64) -> Self {
        Self {
            source: Some(source),
            range: at..at.saturating_add(len),
        }
    }

    pub(crate) fn join(&mut self, source: &Arc<dyn ByteSource>, at: u64, len: u64) -> bool {
        let next = self.source.is_some_and(|s| Arc::ptr_eq(s, source)) && self.range.end == at;
        if next {
            self.range.end = at.saturating_add(len);
        }
        next
    }

    pub(crate) fn flush(
        &mut self,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let Some(source) = self.source.take() else {
            return Ok(());
        };
        while self.range.start < self.range.end {
            let end = self.range.end.min(self.range.start.saturating_add(STEP));
            out.copy(source.as_ref(), self.range.start..end)?;
            progress(end - self.range.start);
            self.range.start = end;
        }
        Ok(())
    }
}
