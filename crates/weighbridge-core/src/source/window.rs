use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::{ByteSource, check_range, range_of};
use crate::error::Result;

/// A sub-range of another source: a zip member, a shard's data region, an item of a DCP file.
#[derive(Debug, Clone)]
pub struct Window {
    inner: Arc<dyn ByteSource>,
    start: u64,
    len: u64,
    name: String,
}

impl Window {
    /// The bytes `range` of `inner`, shown to the user as `name`.
    ///
    /// # Errors
    /// `Truncated` when the range ends past `inner`.
    pub fn new(
        inner: Arc<dyn ByteSource>,
        range: Range<u64>,
        name: impl Into<String>,
    ) -> Result<Self> {
        check_range(inner.name(), inner.len(), &range)?;
        Ok(Self {
            inner,
            start: range.start,
            len: range.end - range.start,
            name: name.into(),
        })
    }
}

impl ByteSource for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.len, &range_of(at, buf.len()))?;
        self.inner.read_at(self.start + at, buf)
    }

    fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        self.inner
            .slice(self.start + range.start..self.start + range.end)
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.inner.as_file().map(|(f, base)| (f, base + self.start))
    }
}
