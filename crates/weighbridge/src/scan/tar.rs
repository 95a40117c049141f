//! Tar archives: torch's of 2016 and others.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::pickle;
use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::tar::{Archive, Kind, Member};
use weighbridge_core::{Error, Limits, Result};
use weighbridge_scan::{Gap, Subject};

use super::{HEAD, pickles};
use crate::format::pytorch::dtype;
use crate::format::pytorch::read::load_pickle;

/// Takes the archive in `source` apart.
pub(super) fn take(
    subject: &mut Subject<'_>,
    source: &Arc<dyn ByteSource>,
    limits: &Limits,
) -> Result<()> {
    let archive = Archive::open(Arc::clone(source), limits)?;
    for e in archive.check_layout()? {
        subject.failed(&e);
    }
    let torch = archive
        .by_name("pickle")
        .or_else(|| archive.by_name("./pickle"))
        .is_some();
    for m in archive.members() {
        subject.members.push(m.name.clone());
        if m.kind != Kind::File || m.size == 0 {
            continue;
        }
        let window = archive.window(m)?;
        let name = m.name.strip_prefix("./").unwrap_or(&m.name);
        let done = match name {
            "storages" if torch => records(subject, m, &window, limits, skip_storage),
            "tensors" if torch => records(subject, m, &window, limits, skip_tensor),
            _ => other(subject, m, &window, limits),
        };
        if let Err(e) = done {
            subject.failed(&e.within(m.name.as_str()));
        }
    }
    Ok(())
}

fn other(subject: &mut Subject<'_>, m: &Member, window: &Window, limits: &Limits) -> Result<()> {
    let head = window.read_vec(0..window.len().min(HEAD))?;
    if pickles::is_pickle(&head, Path::new(&m.name), limits) || m.name.ends_with("pickle") {
        next(subject, m, window, 0, limits)?;
    } else {
        subject.gaps.push(Gap {
            place: m.name.clone(),
            offset: None,
            reason: "no format that this version looks into".into(),
        });
    }
    Ok(())
}

/// Runs the pickle at `at` of a member; gives its bytes.
fn next(
    subject: &mut Subject<'_>,
    m: &Member,
    window: &Window,
    at: u64,
    limits: &Limits,
) -> Result<Vec<u8>> {
    let base = Some(m.offset.saturating_add(at));
    let data = match load_pickle(window, at, limits) {
        Ok((data, _)) => data,
        Err(e) if e.kind() == weighbridge_core::ErrorKind::Io => return Err(e),
        // It breaks: what comes before the break counts.
        Err(_) => {
            let end = window.len().min(at.saturating_add(limits.pickle_bytes));
            window.read_vec(at..end)?
        }
    };
    pickles::take(subject, &m.name, base, &data, limits)?;
    Ok(data)
}

/// A count, then that many records of a pickle and raw bytes; then perhaps a last pickle.
fn records(
    subject: &mut Subject<'_>,
    m: &Member,
    window: &Window,
    limits: &Limits,
    skip: fn(&Window, u64, &[u8], &Limits) -> Result<u64>,
) -> Result<()> {
    let data = next(subject, m, window, 0, limits)?;
    let trace = pickle::run(&data, limits);
    let count = trace.root.and_then(|r| trace.int(r)).unwrap_or(0);
    let mut at = trace.end as u64;
    for _ in 0..count {
        let data = next(subject, m, window, at, limits)?;
        let end = pickle::run(&data, limits).end as u64;
        at = at.saturating_add(end);
        at = at.saturating_add(skip(window, at, &data, limits)?);
        if end == 0 {
            break;
        }
    }
    if at < window.len() {
        let data = next(subject, m, window, at, limits)?;
        at = at.saturating_add(pickle::run(&data, limits).end as u64);
    }
    if at < window.len() {
        let rest = window.len() - at;
        subject.gaps.push(Gap {
            place: m.name.clone(),
            offset: Some(m.offset.saturating_add(at)),
            reason: format!("{rest} bytes after the records belong to nothing known"),
        });
    }
    Ok(())
}

/// A storage: the number of elements, then the elements, as wide as the class in the pickle
/// `(key, location, class)` says.
fn skip_storage(window: &Window, at: u64, data: &[u8], limits: &Limits) -> Result<u64> {
    let trace = pickle::run(data, limits);
    let items = trace.root.and_then(|r| trace.items(r)).unwrap_or_default();
    let class = items
        .get(2)
        .and_then(|&c| trace.global(c))
        .map(|g| g.name.as_str());
    let width = class
        .and_then(dtype::of_storage_class)
        .and_then(|d| d.bytes());
    let mut count = [0u8; 8];
    window.read_at(at, &mut count)?;
    let bytes = width.and_then(|w| u64::from_le_bytes(count).checked_mul(w));
    bytes.and_then(|b| b.checked_add(8)).ok_or_else(|| {
        Error::malformed("pytorch.tar-record", "the size of a storage is not known").at(at)
    })
}

/// A tensor: dimensions (of which torch reads four bytes and skips four), sizes, strides, offset.
fn skip_tensor(window: &Window, at: u64, _: &[u8], _: &Limits) -> Result<u64> {
    let mut dims = [0u8; 4];
    window.read_at(at, &mut dims)?;
    Ok(u64::from(u32::from_le_bytes(dims))
        .saturating_mul(16)
        .saturating_add(16))
}
