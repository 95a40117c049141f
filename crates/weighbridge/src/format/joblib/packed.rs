//! Streams that are compressed as a whole.

use std::io::Write;
use std::sync::Arc;

use weighbridge_core::source::{ByteSource, FileSource, SliceSource};
use weighbridge_core::wire::codec::{self, Caps, Codec};
use weighbridge_core::{Error, Limits, Result, pickle};

/// Greatest ratio of bytes out to bytes in: deflate itself cannot pass 1032.
const RATIO: u64 = 2000;

/// What comes out is held in memory up to this, and in a temporary file beyond.
const IN_MEMORY: usize = 16 << 20;

/// And only while it is in proportion to the file, or small.
const MEMORY_PER_BYTE: usize = 16;
const SMALL: usize = 64 << 10;

/// How much is decompressed to see whether a pickle comes out.
const PEEK: u64 = 4 << 10;

/// Whether a compressed stream begins here that holds a pickle.
pub(crate) fn is_packed_pickle(head: &[u8], source: &dyn ByteSource) -> bool {
    let head = head.get(..codec::HEAD.min(head.len())).unwrap_or_default();
    let Some(codec) = Codec::detect(head) else {
        return false;
    };
    let mut begin = Vec::new();
    // It need not end here: what came out before the cap counts.
    let _ = codec::decode(codec, source, &Caps::new(PEEK, u64::MAX), &mut |part| {
        begin.extend_from_slice(part);
        Ok(())
    });
    match begin.as_slice() {
        [0x80, 0..=5, op, ..] => pickle::Op::from_byte(*op).is_some(),
        _ => false,
    }
}

/// The stream that `source` holds compressed, `None` when it is not compressed.
///
/// # Errors
/// What decompressing gives, and `Limit` with `joblib.unpacked-size`.
pub(crate) fn unpacked(
    head: &[u8],
    source: &dyn ByteSource,
    limits: &Limits,
) -> Result<Option<Arc<dyn ByteSource>>> {
    if !is_packed_pickle(head, source) {
        return Ok(None);
    }
    let head = head.get(..codec::HEAD.min(head.len())).unwrap_or_default();
    let Some(codec) = Codec::detect(head) else {
        return Ok(None);
    };
    let modest = usize::try_from(source.len()).unwrap_or(usize::MAX);
    let modest = modest.saturating_mul(MEMORY_PER_BYTE).max(SMALL);
    let in_memory = modest.min(IN_MEMORY);
    let mut out = Spool {
        memory: Vec::new(),
        in_memory,
        file: None,
        len: 0,
        most: limits.temporary_bytes.max(in_memory as u64),
    };
    let caps = Caps::new(limits.expand_cap(source.len()), RATIO);
    let done = codec::decode(codec, source, &caps, &mut |part| out.put(part))?;
    if done.consumed < source.len() {
        let more = source.len() - done.consumed;
        let message = format!("{more} bytes follow the compressed stream");
        return Err(Error::malformed("joblib.trailing-data", message).at(done.consumed));
    }
    let name = source.name().to_owned();
    Ok(Some(match out.file {
        None => Arc::new(SliceSource::new(out.memory, name)),
        Some(file) => Arc::new(FileSource::from_file(file, out.len, name)),
    }))
}

/// Bytes on their way into memory, or a temporary file when they are many.
struct Spool {
    memory: Vec<u8>,
    in_memory: usize,
    file: Option<std::fs::File>,
    len: u64,
    most: u64,
}

impl Spool {
    fn put(&mut self, part: &[u8]) -> Result<()> {
        let io = |e| Error::io("cannot write a temporary file for a decompressed pickle", e);
        self.len = self.len.saturating_add(part.len() as u64);
        let what = "bytes of a decompressed pickle";
        Limits::check(self.len, self.most, "joblib.unpacked-size", what)?;
        if self.file.is_none() && self.memory.len().saturating_add(part.len()) <= self.in_memory {
            self.memory.extend_from_slice(part);
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut file = tempfile::tempfile().map_err(io)?;
                file.write_all(&self.memory).map_err(io)?;
                self.memory = Vec::new();
                file
            }
        };
        file.write_all(part).map_err(io)?;
        self.file = Some(file);
        Ok(())
    }
}
