//! Every broken rule of a file: those of its structures, and what reading every value finds.

use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{Chunks, Tensor};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::hdf5::{File, Header, Layout};
use weighbridge_core::{Error, ErrorKind, Result};

use super::read::Walk;
use super::types::{Form, lower};
use crate::OpenOptions;
use crate::check::Violation;

/// Most overlaps that are told.
const MOST_OVERLAPS: usize = 100;

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
    let file = Arc::new(File::with_account(
        Arc::clone(source),
        &options.limits,
        true,
    )?);
    let mut walk = Walk::new(&file)?;
    walk.errors = Some(Vec::new());
    walk.all()?;
    let marked = file.mark_driver();
    walk.keep(marked, "")?;
    if let Some(extension) = file.superblock().extension {
        let header = file.header(extension).map(|_| ());
        walk.keep(header, "")?;
    }
    let mut errors = walk.errors.take().unwrap_or_default();
    let data = std::mem::take(&mut walk.data);
    overlaps(data, &walk.model.tensors, &file.spans(), &mut errors);
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

/// Where the values of a dataset lie; those that the model does not read are read here.
pub(super) fn dataset(
    file: &File,
    header: &Header<'_>,
    which: usize,
    data: &mut Vec<(Range<u64>, usize)>,
) -> Result<()> {
    let at = file.place(header.address);
    let d = file.dataset(header)?;
    let ranges = file.data_ranges(&d, at)?;
    data.extend(ranges.into_iter().map(|r| (r, which)));
    let elsewhere = !d.external.is_empty() || matches!(d.layout, Layout::Virtual { .. });
    if elsewhere || d.pipeline.unknown().is_some() || lower(&d.datatype).form != Form::Other {
        return Ok(());
    }
    file.values(&d, at, &mut |_| Ok(()))
}

/// Values of two datasets, or values and structures, in the same place: whoever writes to one of
/// them changes the other.
fn overlaps(
    mut data: Vec<(Range<u64>, usize)>,
    tensors: &[Tensor],
    structures: &[Range<u64>],
    errors: &mut Vec<Error>,
) {
    data.sort_by_key(|(r, _)| (r.start, r.end));
    let most = errors.len() + MOST_OVERLAPS;
    let name = |i: usize| tensors.get(i).map_or("", |t| t.name.as_str());
    let mut last: Option<&(Range<u64>, usize)> = None;
    for one in &data {
        let (range, which) = one;
        let before = last.filter(|(before, _)| range.start < before.end);
        let first = structures.partition_point(|s| s.end <= range.start);
        let within = structures.get(first).filter(|s| s.start < range.end);
        let with = match (before, within) {
            (Some((_, other)), _) => format!("values of {}", name(*other)),
            (None, Some(_)) => "a structure of the file".to_owned(),
            (None, None) => String::new(),
        };
        if !with.is_empty() && errors.len() < most {
            let message = format!("values of {} lie in the same place as {with}", name(*which));
            let e = Error::malformed("hdf5.overlap", message);
            errors.push(e.span(range.start, range.end - range.start));
        }
        if last.is_none_or(|(before, _)| range.end > before.end) {
            last = Some(one);
        }
    }
}
