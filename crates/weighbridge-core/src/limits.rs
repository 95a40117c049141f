//! What a file may cost its reader. Every limit is named in `SECURITY.md` with its default.

use crate::error::{Error, Result};

/// The limits a reader works under. The defaults admit every real file we know and refuse bombs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Longest safetensors header in bytes (the official reader's own cap, `MAX_HEADER_SIZE`).
    pub header_bytes: u64,
    /// Longest pickle stream held in memory, in bytes.
    pub pickle_bytes: u64,
    /// Most opcodes one pickle may execute.
    pub pickle_ops: u64,
    /// Most memory that the values of one pickle may take, in bytes.
    pub pickle_memory: u64,
    /// Deepest nesting of containers followed.
    pub depth: u32,
    /// Most members in one archive.
    pub members: u64,
    /// Most tensors in one model.
    pub tensors: u64,
    /// Most values in one metadata tree.
    pub values: u64,
    /// Longest JSON or text side file read whole, in bytes.
    pub text_bytes: u64,
    /// Most bytes a compressed member that is read whole into memory may inflate to.
    pub inflate_bytes: u64,
    /// Greatest ratio of inflated to stored bytes of one member (deflate's own maximum is 1032).
    pub inflate_ratio: u64,
    /// What one pickle's structure may take in memory, in bytes, beyond its proportion to the
    /// pickle: references make many values of few bytes.
    pub spare_bytes: u64,
    /// Longest compressed member that may be inflated into a temporary file, in bytes; 0 for a
    /// reader that may write nothing.
    pub temporary_bytes: u64,
    /// Most parts (shards, rank files) in one model.
    pub parts: u64,
    /// How many bytes the tensors of a file may expand to; `None` is the default rule of
    /// [`Limits::expand_cap`].
    pub expand_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 100_000_000,
            pickle_bytes: 1 << 30,
            pickle_ops: 400_000_000,
            pickle_memory: 4 << 30,
            depth: 200,
            members: 4_000_000,
            tensors: 4_000_000,
            values: 20_000_000,
            text_bytes: 256 << 20,
            inflate_bytes: 256 << 20,
            inflate_ratio: 1100,
            spare_bytes: 16 << 20,
            temporary_bytes: u64::MAX,
            parts: 100_000,
            expand_bytes: None,
        }
    }
}

impl Limits {
    /// The cap on the sum of contiguous bytes that the tensors of a model of `file_bytes` may
    /// expand to: max(1 GiB, 16 × file size) unless the caller set another.
    pub fn expand_cap(&self, file_bytes: u64) -> u64 {
        self.expand_bytes
            .unwrap_or_else(|| file_bytes.saturating_mul(16).max(1 << 30))
    }

    /// Refuses `n` of `what` when it passes `cap`.
    pub fn check(n: u64, cap: u64, rule: &'static str, what: &str) -> Result<()> {
        if n > cap {
            return Err(Error::limit(
                rule,
                format!("{what}: {n} is over the limit of {cap}"),
            ));
        }
        Ok(())
    }
}
