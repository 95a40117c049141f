//! What of an HDF5 file is no value of a dataset: the block before it, what comes behind its end,
//! its structures with the space that they leave free, and space that nothing reaches.
//!
//! Libraries leave old bytes where objects were removed, and nothing reads them again: they are
//! searched for what programs and loaders would take, and are no fault.

use std::ops::Range;
use std::sync::Arc;

use memchr::memmem;
use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::hdf5::File;
use weighbridge_core::{Limits, Result};
use weighbridge_scan::native::{self, NativeKind};

use super::examine::{Examiner, Item};
use super::pickles;

/// Bytes that are searched at a time, and how far the next piece reaches back.
const PIECE: u64 = 4 << 20;
const OVERLAP: u64 = 4096;

/// Most bytes that are searched.
const MOST_SEARCHED: u64 = 512 << 20;

/// Most places that are tried, and most that are looked into.
const MOST_TRIED: u32 = 10_000;
const MOST_TAKEN: u32 = 64;

/// Space that nothing reaches and that is not zeros: more than this is told, where it is more
/// than an eighth of the file as well.
const MOST_UNREACHED: u64 = 64 << 10;

/// Looks into everything that is not in `data`, the values of datasets.
///
/// # Errors
/// What reading gives.
pub(super) fn take(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    file: &File,
    data: &[Range<u64>],
) -> Result<()> {
    let len = item.source.len();
    let (start, end) = (file.superblock().at, file.superblock().end.min(len));
    apart(cx, item, 0..start, "the block before the file")?;
    apart(cx, item, end..len, "behind the end of the file")?;
    let data = joined(data.to_vec());
    let mut search = Search {
        from: 0,
        searched: 0,
        tried: 0,
        taken: 0,
    };
    for range in between(start..end, &data) {
        search.range(cx, item, range)?;
    }
    let mut reached = file.spans();
    reached.extend(data);
    let mut unreached = 0u64;
    let mut first = None;
    for range in between(start..end, &joined(reached)) {
        let n = unlike_zeros(item.source.as_ref(), range.clone())?;
        if n > 0 {
            first.get_or_insert(range.start);
        }
        unreached = unreached.saturating_add(n);
    }
    if unreached > MOST_UNREACHED && unreached > len / 8 {
        let reason = format!("{unreached} bytes that nothing in the file leads to");
        cx.gap(&item.place, first, reason);
    }
    Ok(())
}

/// A part that is none of HDF5's, as something of its own.
fn apart(cx: &mut Examiner<'_, '_>, item: &Item, range: Range<u64>, name: &str) -> Result<()> {
    if range.is_empty() || unlike_zeros(item.source.as_ref(), range.clone())? == 0 {
        return Ok(());
    }
    let at = range.start;
    let window = Window::new(Arc::clone(&item.source), range, name)?;
    let place = item.place.inside(name, Some(at));
    cx.inner(&Item::new(Arc::new(window), place, name)?)
}

/// Sorted, with overlaps and neighbours made one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|r| (r.start, r.end));
    let mut out: Vec<Range<u64>> = Vec::new();
    for r in ranges {
        match out.last_mut() {
            Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}

/// What of `whole` lies in none of the ranges, which are sorted.
fn between(whole: Range<u64>, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut at = whole.start;
    for r in ranges {
        let to = r.start.min(whole.end);
        if at < to {
            out.push(at..to);
        }
        at = at.max(r.end);
    }
    if at < whole.end {
        out.push(at..whole.end);
    }
    out
}

/// How many bytes of a range are in pieces that hold something else than zeros.
fn unlike_zeros(source: &dyn ByteSource, range: Range<u64>) -> Result<u64> {
    let mut n = 0;
    let mut at = range.start;
    while at < range.end {
        let to = at.saturating_add(PIECE).min(range.end);
        let piece = source.read_vec(at..to)?;
        if let Some(first) = piece.iter().position(|&b| b != 0) {
            let last = piece.iter().rposition(|&b| b != 0).unwrap_or(first);
            n += (last + 1 - first) as u64;
        }
        at = to;
    }
    Ok(n)
}

struct Search {
    /// Where the next thing may begin.
    from: u64,
    searched: u64,
    tried: u32,
    taken: u32,
}

impl Search {
    fn range(&mut self, cx: &mut Examiner<'_, '_>, item: &Item, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let to = at.saturating_add(PIECE).min(range.end);
            self.searched = self.searched.saturating_add(to - at);
            if self.searched > MOST_SEARCHED || self.tried > MOST_TRIED {
                let reason = "more bytes beside the values than are looked into".to_owned();
                cx.gap_once(&item.place, Some(at), reason);
                return Ok(());
            }
            let piece = item.source.read_vec(at..to)?;
            self.piece(cx, item, &piece, at, range.end)?;
            if to == range.end {
                break;
            }
            at = to - OVERLAP;
        }
        Ok(())
    }

    /// Looks into whatever begins in a piece at `base`.
    fn piece(
        &mut self,
        cx: &mut Examiner<'_, '_>,
        item: &Item,
        piece: &[u8],
        base: u64,
        end: u64,
    ) -> Result<()> {
        let markers = memchr::memchr3_iter(0x7f, b'P', 0x80, piece);
        let mut starts = Vec::new();
        for i in markers.chain(memmem::find_iter(piece, b"MZ")) {
            let rest = piece.get(i..).unwrap_or_default();
            let at = base.saturating_add(i as u64);
            if self.begins(rest, cx.limits) && !broken_pe(item.source.as_ref(), rest, at) {
                starts.push(at);
            }
        }
        starts.sort_unstable();
        for at in starts {
            if at < self.from {
                continue;
            }
            if self.taken >= MOST_TAKEN {
                let reason = "more begins beside the values than is looked into".to_owned();
                cx.gap_once(&item.place, Some(at), reason);
                return Ok(());
            }
            self.taken += 1;
            // Pieces reach back into each other.
            self.from = at + 1;
            let name = "beside the values";
            let window = Window::new(Arc::clone(&item.source), at..end, name)?;
            let place = item.place.inside(name, Some(at));
            cx.inner(&Item::new(Arc::new(window), place, name)?)?;
        }
        Ok(())
    }

    /// Whether something that a loader or a system would take begins here. Numbers and names must
    /// not look like it by chance.
    fn begins(&mut self, rest: &[u8], limits: &Limits) -> bool {
        match rest {
            [0x7f, b'E', b'L', b'F', ..] | [b'M', b'Z', ..] => {
                matches!(native::detect(rest), Some(NativeKind::Elf | NativeKind::Pe))
            }
            [b'P', b'K', 3, 4, version, 0, _, _, method, 0, ..] => {
                *version <= 63 && matches!(method, 0 | 8 | 9 | 12 | 14 | 93 | 95 | 99)
            }
            [0x80, 2..=5, ..] => {
                self.tried += 1;
                let head = rest.get(..rest.len().min(64 << 10)).unwrap_or_default();
                pickles::calls(head, limits)
            }
            _ => false,
        }
    }
}

/// Whether `rest`, which lies at `at`, is no program of Windows after all: what its header points
/// at may lie beyond the piece that was searched, and rows of numbers have such headers.
fn broken_pe(source: &dyn ByteSource, rest: &[u8], at: u64) -> bool {
    let (true, Some(field)) = (rest.starts_with(b"MZ"), rest.get(0x3c..0x40)) else {
        return false;
    };
    let to = field.iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b));
    let mut mark = [0u8; 4];
    let read = at
        .checked_add(to)
        .map(|place| source.read_at(place, &mut mark));
    !matches!(read, Some(Ok(()))) || mark != *b"PE\0\0"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_mark_that_its_header_points_at() {
        let mut bytes = vec![0u8; 5000];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c..0x40].copy_from_slice(&4000u32.to_le_bytes());
        let source = |bytes: &[u8]| weighbridge_core::source::SliceSource::new(bytes.to_vec(), "x");
        // The header alone is in the piece.
        let broken = |bytes: &[u8]| broken_pe(&source(bytes), &bytes[..64], 0);
        assert!(broken(&bytes));
        bytes[4000..4004].copy_from_slice(b"PE\0\0");
        assert!(!broken(&bytes));
        assert!(broken(&bytes[..4002]));
        assert!(!broken_pe(&source(b"\x7fELF"), b"\x7fELF", 0));
    }

    #[test]
    fn what_lies_between_ranges() {
        let all = joined(vec![7..9, 2..4, 4..5, 3..4]);
        assert_eq!(all, [2..5, 7..9]);
        assert_eq!(between(0..10, &all), [0..2, 5..7, 9..10]);
        assert_eq!(between(0..8, &all), [0..2, 5..7]);
        assert_eq!(between(0..1, &[]).len(), 1);
        assert_eq!(between(2..5, &all).len(), 0);
    }
}
