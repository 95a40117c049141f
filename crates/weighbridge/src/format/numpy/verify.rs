//! Conformance of `.npy` and `.npz`: headers, lengths, texts, pickles, the archive's layout and
//! every checksum (`numpy/lib/format.py`, "Format Version 1.0" to "3.0").

use std::sync::Arc;

use weighbridge_core::model::{Chunks, Model};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::npy::{Header, header_len};
use weighbridge_core::wire::zip::Archive;
use weighbridge_core::{Error, ErrorKind, Result};

use super::read;
use crate::OpenOptions;
use crate::check::Violation;

/// What headers have been padded to since NumPy 1.14; before, it was 16.
const ALIGNED: u64 = 16;

/// Longest header that is looked at.
const HEAD: usize = 4 << 20;

/// Every rule that the file breaks. `lenient` gives NumPy's own verdict, which asks less of headers
/// and of the archive around them.
pub(super) fn verify(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
    let mut out = Vec::new();
    let head = source.read_vec(0..source.len().min(8))?;
    let zip = read::is_zip(&head);
    if !options.lenient {
        match zip {
            true => archive(&source, options, &mut out)?,
            false => {
                let n = source.len().min(HEAD as u64);
                padding(&source.read_vec(0..n)?, &mut out);
            }
        }
    }
    match read::open(Arc::clone(&source), options) {
        Err(e) => note(e, &mut out)?,
        Ok(model) => {
            for w in &model.warnings {
                // Many arrays in one file are read by as many calls of `numpy.load`.
                if !options.lenient && w.rule == "numpy.trailing-data" {
                    out.push(Violation {
                        rule: w.rule,
                        offset: w.offset,
                        length: None,
                        place: source.name().to_owned(),
                        message: w.message.clone(),
                    });
                }
            }
            values(&model, &mut out)?;
        }
    }
    let mut seen = std::collections::HashSet::new();
    out.retain(|v| seen.insert((v.rule, v.offset, v.message.clone())));
    for v in &mut out {
        if v.place.is_empty() {
            source.name().clone_into(&mut v.place);
        }
    }
    Ok(out)
}

fn note(e: Error, out: &mut Vec<Violation>) -> Result<()> {
    if e.kind() == ErrorKind::Io {
        return Err(e);
    }
    out.push(Violation::from(&e));
    Ok(())
}

/// The layout of the archive, its checksums, and the padding of every header.
fn archive(
    source: &Arc<dyn ByteSource>,
    options: &OpenOptions,
    out: &mut Vec<Violation>,
) -> Result<()> {
    let Ok(archive) = Archive::open(Arc::clone(source), &options.limits) else {
        return Ok(());
    };
    out.extend(archive.check_layout()?.iter().map(Violation::from));
    // Members that lie over each other have been named: reading the same bytes for each of
    // thousands would take hours.
    let mut left = source.len();
    for m in archive.members() {
        match left.checked_sub(m.stored) {
            Some(n) => left = n,
            None => break,
        }
        if !archive.checksums_off()
            && let Err(e) = archive.stream(m, &mut |_| Ok(()))
        {
            note(e, out)?;
        }
        let Ok(head) = archive.head(m, 12) else {
            continue;
        };
        let Some(whole) = header_len(&head).ok().and_then(|n| usize::try_from(n).ok()) else {
            continue;
        };
        let mut found = Vec::new();
        if m.name.ends_with(read::NPY)
            && let Ok(head) = archive.head(m, whole)
        {
            padding(&head, &mut found);
        }
        // Offsets inside a compressed member are none of the file.
        out.extend(found.into_iter().map(|v| Violation {
            offset: None,
            place: m.name.clone(),
            ..v
        }));
    }
    Ok(())
}

/// A header ends with a line feed, and its length is a multiple that aligns the data.
fn padding(head: &[u8], out: &mut Vec<Violation>) {
    let Ok(header) = Header::parse(head) else {
        return;
    };
    let end = usize::try_from(header.data_at).unwrap_or(usize::MAX);
    let last = end.checked_sub(1).and_then(|n| head.get(n)).copied();
    let mut broken = |rule, message: String| {
        out.push(Violation {
            rule,
            offset: Some(header.data_at.saturating_sub(1)),
            length: Some(1),
            place: String::new(),
            message,
        });
    };
    if last != Some(b'\n') {
        broken(
            "numpy.header-end",
            "the header does not end with a line feed".to_owned(),
        );
    }
    if !header.data_at.is_multiple_of(ALIGNED) {
        let message = format!(
            "the data begins at byte {}, no multiple of {ALIGNED}",
            header.data_at
        );
        broken("numpy.alignment", message);
    }
}

/// Reads every array: its checksum, and that texts are texts.
fn values(model: &Model, out: &mut Vec<Violation>) -> Result<()> {
    let mut chunks = Chunks::new();
    for t in model.tensors.iter().filter(|t| t.has_data()) {
        if let Err(e) = t.stream(&mut chunks, &mut |_| Ok(())) {
            note(e, out)?;
        }
    }
    Ok(())
}
