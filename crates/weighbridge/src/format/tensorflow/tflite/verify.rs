//! Checking models: tables, tensors against their buffers, bytes that nobody refers to.

use std::sync::Arc;

use weighbridge_core::model::Chunks;
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, ErrorKind, Result};

use crate::OpenOptions;
use crate::check::Violation;

/// How many violations are listed.
const MOST: usize = 1000;

/// See [`super::TfLite`].
pub(super) fn verify(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
) -> Result<Vec<Violation>> {
    let shown = |e: Error| Violation::from(&e.in_file(source.name()));
    let read = match super::read(source, &options.limits) {
        Err(e) if e.kind() == ErrorKind::Io => return Err(e.in_file(source.name())),
        Err(e) => return Ok(vec![shown(e)]),
        Ok(read) => read,
    };
    let mut out: Vec<Violation> = read.faults.into_iter().map(shown).collect();
    let mut chunks = Chunks::new();
    // Of numbers there is nothing to check but that they are there, which was done.
    for t in read
        .model
        .tensors
        .iter()
        .filter(|t| t.dtype.is_text() && t.has_data())
    {
        match t.stream(&mut chunks, &mut |_| Ok(())) {
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => out.push(shown(e)),
            Ok(()) => {}
        }
    }
    out.truncate(MOST);
    Ok(out)
}
