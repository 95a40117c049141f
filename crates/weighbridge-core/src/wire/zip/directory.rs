//! End records and central directory (APPNOTE 4.3.12 to 4.3.16).

use std::ops::Range;

use super::{LOCAL, Member, Method};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::ByteSource;

pub(super) const CENTRAL: u32 = 0x0201_4b50;
pub(super) const END: &[u8; 4] = b"PK\x05\x06";
pub(super) const END_LEN: u64 = 22;
pub(super) const END64: u32 = 0x0606_4b50;
pub(super) const END64_LEN: u64 = 56;
pub(super) const LOCATOR: u32 = 0x0706_4b50;
pub(super) const LOCATOR_LEN: u64 = 20;
pub(super) const CENTRAL_LEN: usize = 46;
/// Longest comment, and with the record the farthest the end record can lie from the end.
const COMMENT_MAX: u64 = 65_535;
/// A field of 32 or 16 bits that says "look in the zip64 record".
const FULL32: u32 = u32::MAX;
const FULL16: u16 = u16::MAX;
/// Header id of the zip64 extra field.
const EXTRA_ZIP64: u16 = 0x0001;
/// The central directory is read in pieces of this many bytes.
const WINDOW: usize = 1 << 20;

/// What the end records say.
#[derive(Debug)]
pub(super) struct End {
    /// Number of members.
    pub count: u64,
    /// Length of the central directory.
    pub size: u64,
    /// Its position, as stored.
    pub offset: u64,
    /// Position of the first end record: the zip64 one where there is one.
    pub records_start: u64,
    /// Where the archive's comment lies.
    pub comment: Range<u64>,
}

/// Where the central directory is.
#[derive(Debug)]
pub(super) struct Place {
    pub start: u64,
    pub end: u64,
    /// What has to be added to stored offsets.
    pub shift: u64,
}

/// Finds and reads the end records.
pub(super) fn find_end(source: &dyn ByteSource) -> Result<End> {
    let len = source.len();
    let tail_start = len.saturating_sub(END_LEN + COMMENT_MAX);
    let tail = source.read_vec(tail_start..len)?;
    // The last signature counts, as for Python's zipfile and miniz: choosing another would show
    // us a different archive than them.
    let at = tail
        .len()
        .checked_sub(END_LEN as usize)
        .and_then(|last| memchr::memmem::rfind(tail.get(..last + 4)?, END));
    let Some(at) = at else {
        return Err(no_end(source));
    };
    let pos = tail_start + at as u64;
    let mut c = Cursor::new(tail.get(at + 4..).unwrap_or_default());
    let disks = (c.u16()?, c.u16()?);
    let counts = (c.u16()?, c.u16()?);
    let (size, offset) = (c.u32()?, c.u32()?);
    let comment_len = u64::from(c.u16()?);
    let comment_start = pos + END_LEN;
    if comment_start + comment_len > len {
        return Err(Error::truncated(
            "zip.no-end-record",
            format!(
                "the archive's comment of {comment_len} bytes reaches past the end of the file"
            ),
        )
        .span(pos, END_LEN));
    }
    let end = End {
        count: u64::from(counts.1),
        size: u64::from(size),
        offset: u64::from(offset),
        records_start: pos,
        comment: comment_start..comment_start + comment_len,
    };
    let narrow = (counts.1, size, offset);
    let end = match read_end64(source, pos, narrow)? {
        Some(e) => End {
            comment: end.comment,
            ..e
        },
        None => {
            multi_disk(disks.0 != 0 || disks.1 != 0 || counts.0 != counts.1, pos)?;
            end
        }
    };
    Ok(end)
}

fn no_end(source: &dyn ByteSource) -> Error {
    let mut head = [0u8; 4];
    let starts = source.read_at(0, &mut head).is_ok() && u32::from_le_bytes(head) == LOCAL;
    let e = if starts {
        Error::truncated(
            "zip.no-end-record",
            "the file begins as a zip archive but has no end record: its end is cut off",
        )
        .help("the download or the copy is incomplete; fetch the file again")
    } else {
        Error::truncated(
            "zip.no-end-record",
            "no end record of a zip archive is found",
        )
    };
    e.at(source.len())
}

fn multi_disk(bad: bool, at: u64) -> Result<()> {
    if bad {
        return Err(
            Error::unsupported("zip.multi-disk", "the archive is one of several volumes")
                .at(at)
                .help("join the volumes into one file first (zip -s 0)"),
        );
    }
    Ok(())
}

/// Reads the zip64 end record, where its locator lies in front of the end record at `pos`.
fn read_end64(source: &dyn ByteSource, pos: u64, narrow: (u16, u32, u32)) -> Result<Option<End>> {
    let Some(locator_at) = pos.checked_sub(LOCATOR_LEN) else {
        return Ok(None);
    };
    let raw = source.read_vec(locator_at..pos)?;
    let mut c = Cursor::new(&raw);
    if c.u32()? != LOCATOR {
        return Ok(None);
    }
    let disk = c.u32()?;
    let stated = c.u64()?;
    let disks = c.u32()?;
    multi_disk(disk != 0 || disks > 1, locator_at)?;
    // Where the offsets are short by a prefix, the record still stands right before its locator.
    let adjacent = locator_at.checked_sub(END64_LEN);
    let at = [Some(stated), adjacent]
        .into_iter()
        .flatten()
        .find(|&at| at < locator_at && is_signature(source, at, END64));
    let Some(at) = at else {
        return Err(Error::malformed(
            "zip.bad-zip64",
            format!("the zip64 locator points at {stated}, where no zip64 end record is"),
        )
        .span(locator_at, LOCATOR_LEN));
    };
    let raw = source.read_vec(at..at.saturating_add(END64_LEN))?;
    let mut c = Cursor::new(&raw);
    let (_, record) = (c.u32()?, c.u64()?);
    if at.checked_add(12).and_then(|n| n.checked_add(record)) != Some(locator_at) {
        return Err(Error::malformed(
            "zip.bad-zip64",
            format!("the zip64 end record of {record} bytes does not end at its locator"),
        )
        .span(at, END64_LEN));
    }
    let _versions = (c.u16()?, c.u16()?);
    let disks = (c.u32()?, c.u32()?);
    let (here, count) = (c.u64()?, c.u64()?);
    let (size, offset) = (c.u64()?, c.u64()?);
    multi_disk(disks.0 != 0 || disks.1 != 0 || here != count, at)?;
    let same16 = |n: u16, w: u64| n == FULL16 || u64::from(n) == w;
    let same32 = |n: u32, w: u64| n == FULL32 || u64::from(n) == w;
    if !same16(narrow.0, count) || !same32(narrow.1, size) || !same32(narrow.2, offset) {
        return Err(Error::malformed(
            "zip.bad-zip64",
            format!(
                "the end record says {} members, directory of {} bytes at {}; the zip64 one says \
                 {count}, {size} and {offset}",
                narrow.0, narrow.1, narrow.2
            ),
        )
        .span(at, END64_LEN));
    }
    Ok(Some(End {
        count,
        size,
        offset,
        records_start: at,
        comment: 0..0,
    }))
}

fn is_signature(source: &dyn ByteSource, at: u64, want: u32) -> bool {
    let mut raw = [0u8; 4];
    source.read_at(at, &mut raw).is_ok() && u32::from_le_bytes(raw) == want
}

/// Finds the central directory. Python's zipfile takes the bytes right before the end records
/// and shifts all offsets by the difference to the stored one; miniz takes the stored offset. Both
/// must lead to the same archive.
pub(super) fn locate(source: &dyn ByteSource, end: &End) -> Result<Place> {
    let bad = |m: String| Err(Error::malformed("zip.bad-directory", m).at(end.records_start));
    let Some(start) = end.records_start.checked_sub(end.size) else {
        return bad(format!(
            "the central directory of {} bytes does not fit before its end record at {}",
            end.size, end.records_start
        ));
    };
    let Some(shift) = start.checked_sub(end.offset) else {
        return bad(format!(
            "the central directory is said to lie at {} with {} bytes, past its end record at {}",
            end.offset, end.size, end.records_start
        ));
    };
    let adjacent = Place {
        start,
        end: end.records_start,
        shift,
    };
    if end.size == 0 || shift == 0 {
        return Ok(adjacent);
    }
    match (
        is_signature(source, start, CENTRAL),
        is_signature(source, end.offset, CENTRAL),
    ) {
        (_, false) => Ok(adjacent),
        (false, true) => Ok(Place {
            start: end.offset,
            end: end.offset + end.size,
            shift: 0,
        }),
        (true, true) => bad(format!(
            "two central directories: one at the stored offset {}, one before the end record at \
             {start}; readers differ on which counts",
            end.offset
        )),
    }
}

/// Reads all entries of the central directory.
pub(super) fn read_members(
    source: &dyn ByteSource,
    end: &End,
    place: &Place,
    limits: &Limits,
) -> Result<Vec<Member>> {
    Limits::check(
        end.count,
        limits.members,
        "zip.members",
        "members of the archive",
    )
    .map_err(|e| e.at(end.records_start))?;
    // Each entry needs its fixed part: a count that cannot fit is refused before it is believed.
    if end.count > (place.end - place.start) / CENTRAL_LEN as u64 {
        return Err(Error::malformed(
            "zip.bad-directory",
            format!(
                "{} members do not fit a central directory of {} bytes",
                end.count,
                place.end - place.start
            ),
        )
        .at(place.start));
    }
    let mut members = Vec::new();
    let mut at = place.start;
    let mut window: Vec<u8> = Vec::new();
    let mut window_at = at;
    for i in 0..end.count {
        let skip = usize::try_from(at - window_at).unwrap_or(usize::MAX);
        let enough = CENTRAL_LEN + 3 * COMMENT_MAX as usize;
        if window.len().saturating_sub(skip) < enough
            && window_at + (window.len() as u64) < place.end
        {
            let n = (place.end - at).min(WINDOW as u64) as usize;
            window.resize(n, 0);
            source.read_at(at, &mut window)?;
            window_at = at;
        }
        let skip = usize::try_from(at - window_at).unwrap_or(usize::MAX);
        let bytes = window.get(skip..).unwrap_or_default();
        let (m, used) = entry(bytes, at, place)
            .map_err(|e| e.at(at).within(format!("central directory entry {i}")))?;
        members.push(m);
        at += used;
    }
    if at != place.end {
        return Err(Error::malformed(
            "zip.count-mismatch",
            format!(
                "the end record counts {} members, but {} bytes of the central directory follow \
                 them",
                end.count,
                place.end - at
            ),
        )
        .span(at, place.end - at));
    }
    Ok(members)
}

/// One entry of the central directory at `at`, and how many bytes it takes.
fn entry(bytes: &[u8], at: u64, place: &Place) -> Result<(Member, u64)> {
    let cut = |e: Error| {
        Error::truncated(
            "zip.bad-directory",
            format!("the entry is cut off: {}", e.message()),
        )
    };
    let mut c = Cursor::new(bytes);
    let mut fixed = Cursor::new(c.take(CENTRAL_LEN).map_err(cut)?);
    let signature = fixed.u32()?;
    if signature != CENTRAL {
        return Err(Error::malformed(
            "zip.bad-directory",
            format!("expected the signature {CENTRAL:08x}, found {signature:08x}"),
        ));
    }
    let _versions = (fixed.u16()?, fixed.u16()?);
    let flags = fixed.u16()?;
    let method = Method::from_number(fixed.u16()?);
    let _time_date = fixed.u32()?;
    let crc32 = fixed.u32()?;
    let (stored, size) = (fixed.u32()?, fixed.u32()?);
    let (name_len, extra_len, comment_len) = (fixed.u16()?, fixed.u16()?, fixed.u16()?);
    let disk = fixed.u16()?;
    let _attributes = (fixed.u16()?, fixed.u32()?);
    let offset = fixed.u32()?;
    let raw = c.take(usize::from(name_len)).map_err(cut)?;
    let extra = c.take(usize::from(extra_len)).map_err(cut)?;
    c.take(usize::from(comment_len)).map_err(cut)?;

    let wide = Wide {
        size: u64::from(size),
        stored: u64::from(stored),
        offset: u64::from(offset),
        disk: u32::from(disk),
    };
    let wide = wide.widen(
        extra,
        [
            size == FULL32,
            stored == FULL32,
            offset == FULL32,
            disk == FULL16,
        ],
    )?;
    multi_disk(wide.disk != 0, at)?;
    let (name, raw_name) = decode_name(raw);
    let header_offset = wide.offset.checked_add(place.shift);
    let member = Member {
        name,
        raw_name,
        method,
        flags,
        crc32,
        stored: wide.stored,
        size: wide.size,
        header_offset: header_offset.unwrap_or(u64::MAX),
        central_offset: at,
    };
    // The payload has to end before the directory: everything later may rely on that.
    if member.least_end() > place.start {
        return Err(Error::malformed(
            "zip.out-of-bounds",
            format!(
                "{}: {} bytes from {} reach past the start of the central directory at {}",
                member.name, member.stored, member.header_offset, place.start
            ),
        ));
    }
    Ok((member, c.pos() as u64))
}

/// The fields that zip64 widens.
pub(super) struct Wide {
    pub size: u64,
    pub stored: u64,
    pub offset: u64,
    pub disk: u32,
}

impl Wide {
    /// Replaces the fields named by `full` (size, stored, offset, disk) by those of the zip64
    /// extra field, which holds only them, in this order (APPNOTE 4.5.3).
    pub(super) fn widen(mut self, extra: &[u8], full: [bool; 4]) -> Result<Self> {
        let mut c = Cursor::new(extra);
        let mut seen = false;
        while c.left() >= 4 {
            let (id, len) = (c.u16()?, usize::from(c.u16()?));
            let field = c.take(len).map_err(|_| {
                Error::malformed(
                    "zip.bad-extra",
                    format!("the extra field {id:04x} is longer than the room it is in"),
                )
            })?;
            if id != EXTRA_ZIP64 {
                continue;
            }
            if seen {
                return Err(Error::malformed("zip.bad-extra", "two zip64 extra fields"));
            }
            seen = true;
            let mut f = Cursor::new(field);
            let short = |_| Error::malformed("zip.bad-extra", "the zip64 extra field is too short");
            let [size, stored, offset, disk] = full;
            if size {
                self.size = f.u64().map_err(short)?;
            }
            if stored {
                self.stored = f.u64().map_err(short)?;
            }
            if offset {
                self.offset = f.u64().map_err(short)?;
            }
            if disk {
                self.disk = f.u32().map_err(short)?;
            }
        }
        Ok(self)
    }
}

/// Names are code page 437 unless flag bit 11 says UTF-8 (APPNOTE appendix D), but writers that
/// forget the bit write UTF-8 far more often than the code page: valid UTF-8 is taken as such.
pub(super) fn decode_name(raw: &[u8]) -> (String, Option<Box<[u8]>>) {
    match std::str::from_utf8(raw) {
        Ok(s) => (s.to_owned(), None),
        Err(_) => (raw.iter().map(|&b| cp437(b)).collect(), Some(raw.into())),
    }
}

/// The upper half of code page 437.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

fn cp437(b: u8) -> char {
    if b < 0x80 {
        return char::from(b);
    }
    CP437
        .chars()
        .nth(usize::from(b - 0x80))
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_page_437_is_whole() {
        assert_eq!(CP437.chars().count(), 128);
        assert_eq!(cp437(0x80), 'Ç');
        assert_eq!(cp437(0xe1), 'ß');
        assert_eq!(cp437(0xff), '\u{a0}');
        assert_eq!(decode_name(b"a\x81b").0, "aüb");
        assert_eq!(decode_name("ü".as_bytes()), ("ü".to_owned(), None));
    }
}
