//! The entries of a central directory, as far as they can be read.

use std::collections::HashSet;

use super::ends::Directory;
use super::{Builder, Entry, Header, Kind};
use crate::cursor::Cursor;
use crate::error::Result;

use super::super::Method;
use super::super::directory::{CENTRAL, CENTRAL_LEN, decode_name};

/// The directory is read in pieces of this many bytes.
const WINDOW: u64 = 1 << 20;
/// The longest entry: its fixed part, name, extra fields and comment.
const ENTRY_MAX: u64 = CENTRAL_LEN as u64 + 3 * 65_535;
/// Header id of the zip64 extra field.
const EXTRA_ZIP64: u16 = 0x0001;
/// Info-ZIP Unicode Path.
const EXTRA_UNICODE: u16 = 0x7075;
/// The latest version there is (6.3), which Python holds all to.
const VERSION_MAX: u8 = 63;
/// "Compressed patched data", which nothing writes and readers refuse or take for plain.
const PATCHED: u16 = 1 << 5;

/// Reads the entries of `d`, the directory number `index`.
pub(super) fn read(b: &mut Builder<'_>, d: &Directory, index: u32) -> Result<()> {
    let mut at = d.start;
    let mut window: Vec<u8> = Vec::new();
    let mut window_at = at;
    let mut count = 0u64;
    let known: HashSet<(u64, u64)> = b.entries.iter().filter_map(key).collect();
    while at < d.end {
        let have = (window_at + window.len() as u64).saturating_sub(at);
        if have < ENTRY_MAX && window_at + (window.len() as u64) < d.end {
            let n = (d.end - at).min(WINDOW);
            window = b.source.read_vec(at..at + n)?;
            window_at = at;
        }
        let skip = usize::try_from(at - window_at).unwrap_or(usize::MAX);
        let Some((mut entry, used, extra_ok)) = one(window.get(skip..).unwrap_or_default(), at, d)
        else {
            break;
        };
        entry.directory = Some(index);
        // The same entry again, found by another record.
        if key(&entry).is_none_or(|k| !known.contains(&k)) {
            let i = b.push(entry)?;
            flaws(b, i, extra_ok);
        }
        count += 1;
        at += used;
    }
    if at != d.end {
        b.differ(
            Kind::Count,
            at..d.end,
            None,
            format!(
                "{} bytes of the central directory are no entries",
                d.end - at
            ),
        );
    } else if count != d.count {
        b.differ(
            Kind::Count,
            d.record..d.record,
            None,
            format!(
                "the end record counts {} members, its directory lists {count}",
                d.count
            ),
        );
    }
    Ok(())
}

/// Where an entry stands and where it points.
fn key(e: &Entry) -> Option<(u64, u64)> {
    Some((e.central.as_ref()?.at, e.header_offset))
}

fn flaws(b: &mut Builder<'_>, i: usize, extra_ok: bool) {
    let Some(h) = b.entries.get(i).and_then(|e| e.central.clone()) else {
        return;
    };
    if !extra_ok {
        let message = format!("an extra field of {:?} is longer than its room", h.name);
        b.differ(Kind::Extra, h.at..h.at, Some(i), message);
    }
    header_flaws(b, &h, i);
    if h.method == Method::Stored && h.stored != h.size && !h.says_encrypted() {
        let message = format!(
            "{:?} is stored in {} bytes and claims {}",
            h.name, h.stored, h.size
        );
        b.differ(Kind::Size, h.at..h.at, Some(i), message);
    }
}

/// What one header alone shows.
pub(super) fn header_flaws(b: &mut Builder<'_>, h: &Header, i: usize) {
    if h.version > VERSION_MAX {
        let message = format!(
            "{:?} asks for version {}.{} of the format, which there is not",
            h.name,
            h.version / 10,
            h.version % 10
        );
        b.differ(Kind::Version, h.at..h.at, Some(i), message);
    }
    if h.flags & PATCHED != 0 {
        let message = format!("{:?} says that it is a patch to another file", h.name);
        b.differ(Kind::Flags, h.at..h.at, Some(i), message);
    }
    if h.name.contains('\0') {
        let message = format!("the name {:?} holds a NUL byte", h.name);
        b.differ(Kind::NulInName, h.at..h.at, Some(i), message);
    }
    // Where the plain name is a stand-in for letters it cannot spell, the two rightly differ.
    let stand_in = !h.name.is_ascii() || h.name.contains("#U") || h.name.contains(['?', '_']);
    if let Some(u) = h
        .unicode_name
        .as_ref()
        .filter(|u| **u != h.name && !stand_in)
    {
        let message = format!(
            "the name is {:?}, its Unicode Path field says {u:?}",
            h.name
        );
        b.differ(Kind::UnicodeName, h.at..h.at, Some(i), message);
    }
}

/// One entry, how many bytes it takes, and whether its extra fields fit their room.
fn one(bytes: &[u8], at: u64, d: &Directory) -> Option<(Entry, u64, bool)> {
    let mut c = Cursor::new(bytes);
    let mut f = Cursor::new(c.take(CENTRAL_LEN).ok()?);
    if f.u32().ok()? != CENTRAL {
        return None;
    }
    let _made_by = f.u16().ok()?;
    let version = f.u16().ok()? as u8;
    let flags = f.u16().ok()?;
    let method = Method::from_number(f.u16().ok()?);
    let _time_date = f.u32().ok()?;
    let crc32 = f.u32().ok()?;
    let (stored, size) = (f.u32().ok()?, f.u32().ok()?);
    let lens = (f.u16().ok()?, f.u16().ok()?, f.u16().ok()?);
    let _disk = f.u16().ok()?;
    let _attributes = (f.u16().ok()?, f.u32().ok()?);
    let offset = f.u32().ok()?;
    let raw = c.take(lens.0.into()).ok()?;
    let extra = c.take(lens.1.into()).ok()?;
    c.take(lens.2.into()).ok()?;
    let mut wide = Wide {
        size: size.into(),
        stored: stored.into(),
        offset: offset.into(),
        unicode_name: None,
    };
    let full = [size == u32::MAX, stored == u32::MAX, offset == u32::MAX];
    let extra_ok = wide.read(extra, full, raw);
    let header = Header {
        name: decode_name(raw).0,
        unicode_name: wide.unicode_name,
        version,
        flags,
        method,
        crc32,
        stored: wide.stored,
        size: wide.size,
        at,
    };
    let entry = Entry {
        central: Some(header),
        local: None,
        header_offset: wide.offset.checked_add_signed(d.shift).unwrap_or(u64::MAX),
        data_offset: None,
        descriptor: 0,
        directory: None,
    };
    Some((entry, c.pos() as u64, extra_ok))
}

/// What the extra fields widen or add.
pub(super) struct Wide {
    pub size: u64,
    pub stored: u64,
    pub offset: u64,
    pub unicode_name: Option<String>,
}

impl Wide {
    /// Takes what `extra` says, as far as it can be read. `full` names the fields (size, stored,
    /// offset) that the zip64 field holds, `raw` is the plain name. False when a field that
    /// matters is longer than its room: what aligns payloads is no field at all and cut off
    /// anywhere (Android's `zipalign`), so that a remainder is no flaw.
    pub(super) fn read(&mut self, extra: &[u8], full: [bool; 3], raw: &[u8]) -> bool {
        let mut c = Cursor::new(extra);
        while c.left() >= 4 {
            let (Ok(id), Ok(len)) = (c.u16(), c.u16()) else {
                return true;
            };
            let Ok(field) = c.take(len.into()) else {
                return !matches!(id, EXTRA_ZIP64 | EXTRA_UNICODE);
            };
            match id {
                EXTRA_ZIP64 => self.zip64(field, full),
                EXTRA_UNICODE => self.unicode(field, raw),
                _ => {}
            }
        }
        true
    }

    fn zip64(&mut self, field: &[u8], full: [bool; 3]) {
        let mut f = Cursor::new(field);
        let targets = [&mut self.size, &mut self.stored, &mut self.offset];
        for (target, full) in targets.into_iter().zip(full) {
            if !full {
                continue;
            }
            match f.u64() {
                Ok(n) => *target = n,
                Err(_) => return,
            }
        }
    }

    /// Version 1, the checksum of the plain name (readers ignore the field when it is another's),
    /// the name.
    fn unicode(&mut self, field: &[u8], raw: &[u8]) {
        let mut f = Cursor::new(field);
        let (Ok(1), Ok(crc)) = (f.u8(), f.u32()) else {
            return;
        };
        let name = field.get(5..).unwrap_or_default();
        if crc == crc32fast::hash(raw)
            && let Ok(name) = std::str::from_utf8(name)
        {
            self.unicode_name = Some(name.to_owned());
        }
    }
}
