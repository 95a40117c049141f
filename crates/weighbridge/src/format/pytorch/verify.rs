//! Conformance of a PyTorch file: the container's layout, every record's checksum, and all that
//! the reader refuses.

use std::sync::Arc;

use weighbridge_core::model::{Chunks, Storage, TensorSource};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::{tar, zip};
use weighbridge_core::{ErrorKind, Result};

use crate::OpenOptions;
use crate::check::Violation;

/// Every rule that the file breaks. `lenient` gives torch's own verdict, which checks no
/// checksum and no layout.
pub(super) fn verify(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
    let mut out: Vec<Violation> = Vec::new();
    let mut head = vec![0u8; 512.min(usize::try_from(source.len()).unwrap_or(512))];
    source.read_at(0, &mut head)?;
    let is_zip = head.starts_with(b"PK");
    if !options.lenient {
        if is_zip {
            if let Ok(archive) = zip::Archive::open(Arc::clone(&source), &options.limits) {
                out.extend(archive.check_layout()?.iter().map(Violation::from));
                if !archive.checksums_off() {
                    // Members that lie over each other have been named: reading the same bytes
                    // for each of thousands would take hours.
                    let mut left = source.len();
                    for m in archive.members() {
                        match left.checked_sub(m.stored) {
                            Some(n) => left = n,
                            None => break,
                        }
                        if let Err(e) = archive.stream(m, &mut |_| Ok(())) {
                            out.push(violation(e)?);
                        }
                    }
                }
            }
        } else if tar::is_tar(&head)
            && let Ok(archive) = tar::Archive::open(Arc::clone(&source), &options.limits)
        {
            out.extend(archive.check_layout()?.iter().map(Violation::from));
        }
    }
    match super::read::open(Arc::clone(&source), options) {
        Ok(model) => {
            for w in &model.warnings {
                if !options.lenient && w.rule.ends_with("trailing-data") {
                    out.push(Violation {
                        rule: w.rule,
                        offset: w.offset,
                        length: None,
                        place: source.name().to_owned(),
                        message: w.message.clone(),
                    });
                }
            }
            if !is_zip {
                // Nothing has been read yet: the bytes must at least be there.
                let mut chunks = Chunks::new();
                let mut seen: std::collections::HashSet<*const Storage> =
                    std::collections::HashSet::new();
                for t in &model.tensors {
                    let storage = match &t.source {
                        TensorSource::View(v) => Arc::as_ptr(&v.storage),
                        TensorSource::Strided(s) => Arc::as_ptr(&s.storage),
                        _ => continue,
                    };
                    if !seen.insert(storage) {
                        continue;
                    }
                    if let Err(e) = t.stream(&mut chunks, &mut |_| Ok(())) {
                        out.push(violation(e)?);
                    }
                }
            }
        }
        Err(e) => out.push(violation(e)?),
    }
    // The layout check and the reader may meet the same damage.
    let mut seen = std::collections::HashSet::new();
    out.retain(|v| seen.insert((v.rule, v.offset, v.message.clone())));
    Ok(out)
}

/// What is wrong with the file is an answer; what is wrong with the machine is an error.
fn violation(e: weighbridge_core::Error) -> Result<Violation> {
    if e.kind() == ErrorKind::Io {
        Err(e)
    } else {
        Ok(Violation::from(&e))
    }
}
