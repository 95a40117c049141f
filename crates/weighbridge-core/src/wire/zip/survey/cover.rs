//! Which bytes belong to what, and which names collide.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;

use super::ends::Ends;
use super::{Builder, Entry, Kind, local};
use crate::error::Result;

/// Gaps up to this long are read, to tell padding from content.
const PADDING_MAX: u64 = 1 << 20;
/// Gaps are searched for headers in pieces of this many bytes.
const PIECE: u64 = 1 << 20;
const SIGNATURE: &[u8; 4] = b"PK\x03\x04";

/// Accounts for every byte: finds what no directory lists, members over each other, and bytes
/// that belong to nothing, which it gives in order.
pub(super) fn account(b: &mut Builder<'_>, ends: &Ends) -> Result<Vec<Range<u64>>> {
    let listed = b.entries.len();
    // Where a reader of streams gets to: the first byte, and the end of each member by its local
    // header.
    let mut starts = vec![0];
    starts.extend(b.entries.iter().filter_map(stream_end));
    starts.sort_unstable();
    starts.dedup();
    let starts = starts
        .into_iter()
        .map(|at| Ok((at, local::begins(b.source, at)?)))
        .collect::<Result<Vec<_>>>()?;
    let starts = starts.into_iter().filter_map(|(at, yes)| yes.then_some(at));
    local::walk(b, starts.collect(), true)?;
    let gaps = uncovered(b, ends)?;
    let hits = search(b, &gaps)?;
    let gaps = if local::walk(b, hits, false)? {
        uncovered(b, ends)?
    } else {
        gaps
    };
    overlaps(b, ends, listed);
    report(b, ends, &gaps);
    Ok(gaps)
}

/// Where a reader of streams expects the next header after `e`, where that is not where the
/// directory has the member end.
fn stream_end(e: &Entry) -> Option<u64> {
    let (local, data) = (e.local.as_ref()?, e.data_offset?);
    let end = data.checked_add(local.stored)?;
    (local.stored != e.stored()).then_some(end)
}

/// The ranges that are taken, in order of their starts.
fn covered(b: &Builder<'_>, ends: &Ends) -> Vec<Range<u64>> {
    let members = b.entries.iter();
    let members = members.filter_map(|e| Some(e.header_offset..e.end()?));
    let directories = ends.directories.iter().map(|d| d.start..d.end);
    let mut all: Vec<Range<u64>> = members
        .chain(directories)
        .chain(ends.taken.iter().cloned())
        .filter(|r| r.start < r.end)
        .collect();
    all.sort_unstable_by_key(|r| (r.start, r.end));
    all
}

fn uncovered(b: &mut Builder<'_>, ends: &Ends) -> Result<Vec<Range<u64>>> {
    let mut gaps = Vec::new();
    let mut at = 0;
    let len = b.source.len();
    let tail = std::iter::once(len..len);
    for r in covered(b, ends).into_iter().chain(tail) {
        if r.start > at {
            // Zeros between members are padding; before and after the archive they are not its.
            let inside = at > 0 && r.start < len;
            if !(inside && zeros(b, at..r.start)?) {
                gaps.push(at..r.start);
            }
        }
        at = at.max(r.end);
    }
    Ok(gaps)
}

fn zeros(b: &Builder<'_>, range: Range<u64>) -> Result<bool> {
    if range.end - range.start > PADDING_MAX {
        return Ok(false);
    }
    Ok(b.source.read_vec(range)?.iter().all(|&b| b == 0))
}

/// Signatures of local headers in `gaps`, as far as the budget goes.
fn search(b: &mut Builder<'_>, gaps: &[Range<u64>]) -> Result<Vec<u64>> {
    let mut hits = Vec::new();
    for gap in gaps {
        let mut at = gap.start;
        while at < gap.end && b.search > 0 && hits.len() < 10_000 {
            let n = (gap.end - at).min(PIECE).min(b.search);
            b.search -= n;
            let raw = b.source.read_vec(at..at + n)?;
            let found = memchr::memmem::find_iter(&raw, SIGNATURE);
            hits.extend(found.map(|i| at + i as u64));
            // Pieces share three bytes: a signature may lie across their border.
            at += if at + n < gap.end && n > 3 { n - 3 } else { n };
        }
    }
    hits.sort_unstable();
    hits.dedup();
    Ok(hits)
}

/// Members over each other or over a directory. Of those past `listed` it is known already that
/// they are hidden; they may lie inside others.
fn overlaps(b: &mut Builder<'_>, ends: &Ends, listed: usize) {
    let primary = |e: &Entry| e.directory.is_some();
    let mut order: Vec<(u64, u64, usize)> = b
        .entries
        .iter()
        .enumerate()
        .take(listed)
        .filter(|(_, e)| primary(e))
        .filter_map(|(i, e)| Some((e.header_offset, e.end()?, i)))
        .collect();
    order.sort_unstable();
    // The end that reaches farthest, and whose it is.
    let mut widest: Option<(u64, usize)> = None;
    let mut found = Vec::new();
    for (start, end, i) in order {
        let over = widest.filter(|&(e, _)| start < e);
        if let Some((_, other)) = over {
            let directory = |i: usize| b.entries.get(i).and_then(|e| e.directory);
            let name = |i: usize| b.entries.get(i).map(|e| e.name().to_owned());
            // Two directories may rightly list one member.
            if directory(i) == directory(other) {
                let message = format!("{:?} lies over the bytes of {:?}", name(i), name(other));
                found.push((start..end, Some(i), message));
            }
        }
        if let Some(d) = ends
            .directories
            .iter()
            .find(|d| start < d.end && end > d.start)
        {
            let message = format!("a member lies over the central directory at {}", d.start);
            found.push((start..end, Some(i), message));
        }
        if widest.is_none_or(|(e, _)| end > e) {
            widest = Some((end, i));
        }
    }
    for (at, i, message) in found {
        b.differ(Kind::Overlap, at, i, message);
    }
}

fn report(b: &mut Builder<'_>, ends: &Ends, gaps: &[Range<u64>]) {
    for gap in gaps {
        let n = gap.end - gap.start;
        let (kind, message) = if gap.start == 0 {
            (Kind::Prefix, format!("{n} bytes lie before the archive"))
        } else if gap.start >= ends.end {
            (Kind::Trailing, format!("{n} bytes follow the archive"))
        } else {
            let message = format!("{n} bytes belong to no member and are no padding");
            (Kind::Gap, message)
        };
        b.differ(kind, gap.clone(), None, message);
    }
}

/// Members of one name, and of names that some system takes for one.
pub(super) fn names(b: &mut Builder<'_>) {
    let mut exact: HashMap<(u32, &str), usize> = HashMap::new();
    let mut folded: HashMap<(u32, String), usize> = HashMap::new();
    let mut found = Vec::new();
    for (i, e) in b.entries.iter().enumerate() {
        let Some(directory) = e.directory else {
            continue;
        };
        let name = e.name();
        match exact.entry((directory, name)) {
            Slot::Occupied(_) => {
                let message = format!("{name:?} is the name of more than one member");
                found.push((Kind::Duplicate, i, message));
                continue;
            }
            Slot::Vacant(v) => v.insert(i),
        };
        match folded.entry((directory, fold(name))) {
            Slot::Occupied(o) => {
                let other = b.entries.get(*o.get()).map_or("", Entry::name);
                let message = format!("{name:?} and {other:?} are one name on some systems");
                found.push((Kind::DuplicateFolded, i, message));
            }
            Slot::Vacant(v) => {
                v.insert(i);
            }
        }
    }
    for (kind, i, message) in found {
        let at = b.entries.get(i).and_then(|e| e.central.as_ref());
        let at = at.map_or(0, |h| h.at);
        b.differ(kind, at..at, Some(i), message);
    }
}

/// A name as systems that ignore case and tidy paths have it; a folder keeps its slash.
fn fold(name: &str) -> String {
    let cut = name.split('\0').next().unwrap_or_default();
    let lower = cut.replace('\\', "/").to_lowercase();
    let parts: Vec<&str> = lower
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    let mut out = parts.join("/");
    if lower.ends_with('/') {
        out.push('/');
    }
    out
}
