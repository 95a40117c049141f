//! Tar archives: torch's of 2016 and others.

use std::sync::Arc;

use weighbridge_core::pickle;
use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::tar::{Archive, Kind};
use weighbridge_core::{Error, ErrorKind, Limits, Result};
use weighbridge_scan::Link;

use super::examine::{Examiner, Item};
use super::pickles;
use crate::format::pytorch::dtype;
use crate::format::pytorch::read::load_pickle;

/// Takes the archive in `item` apart.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    let archive = Archive::open(Arc::clone(&item.source), cx.limits)?;
    for e in archive.check_layout()? {
        cx.failed(&item.place, e);
    }
    let torch = archive
        .by_name("pickle")
        .or_else(|| archive.by_name("./pickle"))
        .is_some();
    let programs = cx.subject.programs.len();
    let model = torch
        || archive
            .members()
            .iter()
            .any(|m| super::zip::is_model(&m.name));
    for m in archive.members() {
        cx.subject.members.push(m.name.clone());
        cx.subject.members.extend(m.header_name.clone());
        if let (Kind::SymLink | Kind::HardLink, Some(target)) = (m.kind, &m.link) {
            cx.subject.links.push(Link {
                member: m.name.clone(),
                target: target.clone(),
                hard: m.kind == Kind::HardLink,
            });
        }
        if matches!(m.kind, Kind::Device | Kind::Fifo) {
            super::sevenz::special(cx, item, &m.name);
        }
        // Whatever its kind says, what is stored is what some reader unpacks.
        let stored = archive.stored(m);
        if stored.is_empty() || matches!(m.kind, Kind::Dir) {
            continue;
        }
        let window = Window::new(Arc::clone(&item.source), stored, m.name.clone())?;
        let place = item.place.inside(m.name.as_str(), Some(m.offset));
        let member = Item::new(Arc::new(window), place, m.name.clone())?;
        let name = m.name.strip_prefix("./").unwrap_or(&m.name);
        let done = match name {
            "storages" if torch => records(cx, &member, skip_storage),
            "tensors" if torch => records(cx, &member, skip_tensor),
            "pickle" if torch => next(cx, &member, 0).map(|_| ()),
            _ => cx.inner(&member),
        };
        match done {
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => cx.failed(&member.place, e),
            Ok(()) => {}
        }
    }
    for p in cx.subject.programs.iter_mut().skip(programs) {
        p.beside_model |= model;
    }
    Ok(())
}

/// Runs the pickle at `at` of a member; gives its bytes.
fn next(cx: &mut Examiner<'_, '_>, member: &Item, at: u64) -> Result<Vec<u8>> {
    let source = member.source.as_ref();
    let data = match load_pickle(source, at, cx.limits) {
        Ok((data, _)) => data.into_owned(),
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        // It breaks: what comes before the break counts.
        Err(_) => {
            let end = source.len().min(at.saturating_add(cx.limits.pickle_bytes));
            source.read_vec(at..end)?
        }
    };
    pickles::take(cx, &member.place.from(at), &data)?;
    Ok(data)
}

/// A count, then that many records of a pickle and raw bytes; then perhaps a last pickle.
fn records(
    cx: &mut Examiner<'_, '_>,
    member: &Item,
    skip: fn(&dyn ByteSource, u64, &[u8], &Limits) -> Result<u64>,
) -> Result<()> {
    let limits = cx.limits;
    let len = member.source.len();
    let data = next(cx, member, 0)?;
    let trace = pickle::run(&data, limits);
    let count = trace.root.and_then(|r| trace.int(r)).unwrap_or(0);
    let mut at = trace.end as u64;
    for _ in 0..count {
        let data = next(cx, member, at)?;
        let end = pickle::run(&data, limits).end as u64;
        at = at.saturating_add(end);
        at = at.saturating_add(skip(member.source.as_ref(), at, &data, limits)?);
        if end == 0 {
            break;
        }
    }
    if at < len {
        let data = next(cx, member, at)?;
        at = at.saturating_add(pickle::run(&data, limits).end as u64);
    }
    if at < len {
        let reason = format!(
            "{} bytes after the records belong to nothing known",
            len - at
        );
        cx.gap(&member.place, Some(at), reason);
    }
    Ok(())
}

/// A storage: the number of elements, then the elements, as wide as the class in the pickle
/// `(key, location, class)` says.
fn skip_storage(window: &dyn ByteSource, at: u64, data: &[u8], limits: &Limits) -> Result<u64> {
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
fn skip_tensor(window: &dyn ByteSource, at: u64, _: &[u8], _: &Limits) -> Result<u64> {
    let mut dims = [0u8; 4];
    window.read_at(at, &mut dims)?;
    Ok(u64::from(u32::from_le_bytes(dims))
        .saturating_mul(16)
        .saturating_add(16))
}
