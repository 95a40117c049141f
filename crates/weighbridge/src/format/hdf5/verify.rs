//! Every broken rule of a file: those of its structures, and what reading every value finds.

use std::sync::Arc;

use weighbridge_core::model::Chunks;
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::hdf5::File;
use weighbridge_core::{Error, ErrorKind, Result};

use super::read::Walk;
use crate::OpenOptions;
use crate::check::Violation;

/// Every broken rule of `source`. Values are read.
///
/// # Errors
/// Only `Io`: what is wrong with the file is the answer.
pub(super) fn verify(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
) -> Result<Vec<Violation>> {
    let errors = match errors(source, options) {
        Ok(errors) => errors,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => vec![e],
    };
    let name = source.name();
    let violation = |e: Error| Violation::from(&e.in_file(name));
    Ok(errors.into_iter().map(violation).collect())
}

fn errors(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Error>> {
    let file = Arc::new(File::open(Arc::clone(source), &options.limits)?);
    let mut walk = Walk::new(&file)?;
    walk.errors = Some(Vec::new());
    walk.all()?;
    let mut errors = walk.errors.take().unwrap_or_default();
    let mut chunks = Chunks::new();
    for tensor in walk.model.tensors.iter().filter(|t| t.has_data()) {
        match tensor.stream(&mut chunks, &mut |_| Ok(())) {
            Ok(()) => {}
            // A filter that is not known here breaks no rule.
            Err(e) if e.kind() == ErrorKind::Unsupported => {}
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Ok(errors)
}
