use std::ops::Range;
use std::sync::Arc;

use super::{ByteSource, check_range, range_of};
use crate::error::Result;

/// Bytes that already lie in memory.
#[derive(Clone)]
pub struct SliceSource {
    // A boxed slice would copy what a vector already holds.
    bytes: Arc<Vec<u8>>,
    name: String,
}

impl std::fmt::Debug for SliceSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SliceSource({:?}, {} bytes)",
            self.name,
            self.bytes.len()
        )
    }
}

impl SliceSource {
    /// A source over `bytes`, shown to the user as `name`.
    pub fn new(bytes: impl Into<Vec<u8>>, name: impl Into<String>) -> Self {
        Self {
            bytes: Arc::new(bytes.into()),
            name: name.into(),
        }
    }
}

impl ByteSource for SliceSource {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let range = range_of(at, buf.len());
        check_range(&self.name, self.len(), &range)?;
        if let Some(s) = self.slice(range) {
            buf.copy_from_slice(s);
        }
        Ok(())
    }

    fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        self.bytes.get(start..end)
    }
}
