//! End records: every one that some reader would go by, and every directory they lead to.

use std::ops::Range;

use super::{Builder, Kind};
use crate::cursor::Cursor;
use crate::error::Result;

use super::super::directory::{CENTRAL, END, END_LEN, END64, END64_LEN, LOCATOR, LOCATOR_LEN};

/// Longest comment, and with the record the farthest readers look from the end.
const COMMENT_MAX: u64 = 65_535;
/// Most signatures looked at: a tail full of them is an attack on the reader.
const MOST_ENDS: usize = 64;
/// Most directories read; more are only counted.
const MOST_DIRECTORIES: usize = 4;

/// A central directory that some reader goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    pub start: u64,
    pub end: u64,
    /// What has to be added to stored offsets.
    pub shift: i64,
    /// How many members its end record counts.
    pub count: u64,
    /// The record that leads here.
    pub record: u64,
}

/// What there is at the archive's end.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Whether there is an end record at all.
    pub found: bool,
    /// The directories, Python's first.
    pub directories: Vec<Directory>,
    /// What the records and the comment take.
    pub taken: Vec<Range<u64>>,
    /// Where the archive ends, comment included, by the record that most readers take.
    pub end: u64,
}

/// The numbers of one end record, classic or zip64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    count: u64,
    size: u64,
    offset: u64,
    /// Where the first of the records begins: the directory ends there.
    start: u64,
}

/// A classic end record.
struct Classic {
    at: u64,
    numbers: Numbers,
    comment: u64,
    volumes: bool,
    /// Which of count, size and offset say "see the zip64 record".
    full: bool,
}

pub(super) fn find(b: &mut Builder<'_>) -> Result<Ends> {
    let len = b.source.len();
    let tail_start = len.saturating_sub(END_LEN + COMMENT_MAX);
    let tail = b.source.read_vec(tail_start..len)?;
    let mut records = Vec::new();
    for n in memchr::memmem::rfind_iter(&tail, END).take(MOST_ENDS) {
        if let Some(c) = classic(&tail, n, tail_start) {
            records.push(c);
        }
    }
    let mut ends = Ends {
        end: len,
        ..Ends::default()
    };
    // The last is Python's and miniz's; others want one whose comment ends where the file ends.
    let Some(first) = records.first() else {
        return Ok(ends);
    };
    let first_at = first.at;
    let reaches = |c: &Classic| c.at + END_LEN + c.comment == len;
    let mut seen = 0u32;
    for c in &records {
        if c.at != first_at && !reaches(c) {
            continue;
        }
        let before = ends.directories.len();
        lead(b, c, &mut ends)?;
        if c.at == first_at {
            ends.found = true;
            ends.end = (c.at + END_LEN).saturating_add(c.comment).min(len);
            ends.taken.push(c.at..ends.end);
        } else if ends.directories.len() > before || c.numbers.size == 0 {
            seen += 1;
        }
    }
    if seen > 0 {
        b.differ(
            Kind::EndRecords,
            first_at..first_at + END_LEN,
            None,
            format!("{seen} more end records; readers differ on which of them counts"),
        );
    }
    Ok(ends)
}

fn classic(tail: &[u8], n: usize, tail_start: u64) -> Option<Classic> {
    let mut c = Cursor::new(tail.get(n..)?);
    let _signature = c.u32().ok()?;
    let disks = (c.u16().ok()?, c.u16().ok()?);
    let counts = (c.u16().ok()?, c.u16().ok()?);
    let (size, offset) = (c.u32().ok()?, c.u32().ok()?);
    let comment = c.u16().ok()?;
    let at = tail_start + n as u64;
    Some(Classic {
        at,
        numbers: Numbers {
            count: counts.1.into(),
            size: size.into(),
            offset: offset.into(),
            start: at,
        },
        comment: comment.into(),
        volumes: disks != (0, 0) || counts.0 != counts.1,
        full: counts.1 == u16::MAX || size == u32::MAX || offset == u32::MAX,
    })
}

/// Adds the directories that the record `c` leads readers to.
fn lead(b: &mut Builder<'_>, c: &Classic, ends: &mut Ends) -> Result<()> {
    let wide = end64(b, c, ends)?;
    if c.volumes && !c.full {
        b.differ(
            Kind::Volumes,
            c.at..c.at + END_LEN,
            None,
            "the archive says that it is one of several volumes".into(),
        );
    }
    // The directory ends where the first of the records begins, by whichever numbers.
    let mut narrow = c.numbers;
    narrow.start = wide.first().map_or(c.at, |w| w.start);
    let any = !wide.is_empty();
    for numbers in wide {
        places(b, c, numbers, ends)?;
    }
    // Readers that know no zip64, or use it only where the classic fields are full.
    if !any || !c.full {
        places(b, c, narrow, ends)?;
    }
    Ok(())
}

/// The zip64 records in front of the classic one: where the locator says, and right before the
/// locator, where older versions of Python look.
fn end64(b: &mut Builder<'_>, c: &Classic, ends: &mut Ends) -> Result<Vec<Numbers>> {
    let Some(locator_at) = c.at.checked_sub(LOCATOR_LEN) else {
        return Ok(Vec::new());
    };
    let Some(raw) = b.array::<{ LOCATOR_LEN as usize }>(locator_at)? else {
        return Ok(Vec::new());
    };
    let mut cur = Cursor::new(&raw);
    if cur.u32()? != LOCATOR {
        return Ok(Vec::new());
    }
    let _disk = cur.u32()?;
    let stated = cur.u64()?;
    let adjacent = locator_at.checked_sub(END64_LEN);
    let mut out: Vec<Numbers> = Vec::new();
    let mut places: Vec<u64> = vec![stated];
    places.extend(adjacent.filter(|&a| a != stated));
    for at in places.into_iter().filter(|&at| at < locator_at) {
        let Some(raw) = b.array::<{ END64_LEN as usize }>(at)? else {
            continue;
        };
        let mut r = Cursor::new(&raw);
        if r.u32()? != END64 {
            continue;
        }
        let record = r.u64()?;
        let _versions = (r.u16()?, r.u16()?);
        let _disks = (r.u32()?, r.u32()?);
        let _here = r.u64()?;
        let (count, size, offset) = (r.u64()?, r.u64()?, r.u64()?);
        let numbers = Numbers {
            count,
            size,
            offset,
            start: at,
        };
        if out.is_empty() {
            // Where all offsets are short by a prefix, so is the locator's.
            let short = i128::from(at) - i128::from(size) - i128::from(offset);
            if i128::from(at) - i128::from(stated) != short && at != stated {
                astray(b, locator_at, c.at, stated);
            }
            let end = at.saturating_add(12).saturating_add(record);
            ends.taken.push(at..end.min(locator_at));
            ends.taken.push(locator_at..c.at);
            zip64_agrees(b, c, numbers, end == locator_at);
        } else {
            b.differ(
                Kind::Zip64,
                at..at + END64_LEN,
                None,
                "two zip64 end records".into(),
            );
        }
        out.push(numbers);
    }
    if out.is_empty() {
        astray(b, locator_at, c.at, stated);
    }
    Ok(out)
}

fn astray(b: &mut Builder<'_>, locator: u64, end: u64, stated: u64) {
    let message = format!("the zip64 locator points at {stated}, where no zip64 end record is");
    b.differ(Kind::Zip64, locator..end, None, message);
}

fn zip64_agrees(b: &mut Builder<'_>, c: &Classic, wide: Numbers, ends_at_locator: bool) {
    let same = |n: u64, full: u64, w: u64| n == full || n == w;
    let narrow = c.numbers;
    let agree = same(narrow.count, u16::MAX.into(), wide.count)
        && same(narrow.size, u32::MAX.into(), wide.size)
        && same(narrow.offset, u32::MAX.into(), wide.offset);
    if !agree || !ends_at_locator {
        b.differ(
            Kind::Zip64,
            wide.start..wide.start.saturating_add(END64_LEN),
            None,
            format!(
                "the end record says {} members, a directory of {} bytes at {}; the zip64 one \
                 says {}, {} and {}",
                narrow.count, narrow.size, narrow.offset, wide.count, wide.size, wide.offset
            ),
        );
    }
}

/// The directory right before the records (Python), and the one at the stored offset (miniz).
fn places(b: &mut Builder<'_>, c: &Classic, n: Numbers, ends: &mut Ends) -> Result<()> {
    let before = n.start.checked_sub(n.size);
    if n.size == 0 && n.count == 0 {
        return Ok(());
    }
    let mut found = Vec::new();
    if let Some(start) = before {
        let shift = i64::try_from(i128::from(start) - i128::from(n.offset));
        if b.signature(start)? == Some(CENTRAL)
            && let Ok(shift) = shift
        {
            found.push((start, n.start, shift));
        }
    }
    let stored_end = n.offset.saturating_add(n.size).min(b.source.len());
    if before != Some(n.offset) && b.signature(n.offset)? == Some(CENTRAL) {
        found.push((n.offset, stored_end, 0));
    }
    let record = c.at..c.at + END_LEN;
    match found.as_slice() {
        [] => b.differ(
            Kind::Directory,
            record,
            None,
            format!(
                "no central directory is at {} or right before the end record",
                n.offset
            ),
        ),
        [_] => {}
        _ => b.differ(
            Kind::Directory,
            record,
            None,
            format!(
                "two central directories: one at the stored offset {}, one before the end \
                 record; readers differ on which counts",
                n.offset
            ),
        ),
    }
    for (start, end, shift) in found {
        let known = ends
            .directories
            .iter()
            .any(|d| d.start == start && d.shift == shift);
        if !known && ends.directories.len() < MOST_DIRECTORIES {
            ends.directories.push(Directory {
                start,
                end,
                shift,
                count: n.count,
                record: c.at,
            });
        }
    }
    Ok(())
}
