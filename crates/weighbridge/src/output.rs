//! Writing files so that a crash leaves the old file or none: beside the target, synced, renamed.

use std::ops::Range;

use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;

/// Where a writer puts its bytes, in order.
pub trait Sink {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// `Io`, with what to do on a full disk.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    /// Appends `range` of `source`, inside the kernel where that is faster.
    ///
    /// # Errors
    /// As [`Sink::put`], and what reading gives.
    fn copy(&mut self, source: &dyn ByteSource, range: Range<u64>) -> Result<()>;

    /// Bytes appended so far.
    fn position(&self) -> u64;
}
