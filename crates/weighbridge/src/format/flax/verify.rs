//! Conformance of a Flax file: it is one item, every array holds what its shape says, no key is
//! there twice.

use std::sync::Arc;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{ErrorKind, Result};

use crate::OpenOptions;
use crate::check::Violation;

/// The rule that the file breaks first, if any: nothing behind a broken item can be made sense of.
pub(super) fn verify(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
    match super::read::open(source, options) {
        Ok(_) => Ok(Vec::new()),
        Err(e) if e.kind() == ErrorKind::Io => Err(e),
        Err(e) => Ok(vec![Violation::from(&e)]),
    }
}
