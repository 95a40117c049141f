//! Local headers: those that directories point at, and those that none lists.

use std::collections::HashSet;

use super::central::{Wide, header_flaws};
use super::{Builder, Entry, Header, Kind};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::source::ByteSource;
use crate::wire::codec::{self, Caps};

use super::super::directory::decode_name;
use super::super::{LOCAL, LOCAL_LEN, Method};

const DESCRIPTOR: u32 = 0x0807_4b50;
/// The longest descriptor: signature, checksum, two sizes of 8 bytes.
const DESCRIPTOR_MAX: u64 = 24;
/// How many bytes are read at a time to find a descriptor, at first and in the end.
const PIECE_LEAST: u64 = 4 << 10;
const PIECE_MOST: u64 = 1 << 20;
/// How many of what looks like a descriptor is tried for a member.
const TRIES: u32 = 1000;
/// Flags that change what readers make of the payload: encryption, patched data, strong
/// encryption, masked headers.
const FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;

/// A local header and where its payload begins.
#[derive(Clone)]
struct Local {
    header: Header,
    data_offset: u64,
    extra_ok: bool,
}

/// Whether a local header begins at `at`.
pub(super) fn begins(source: &dyn ByteSource, at: u64) -> Result<bool> {
    let mut raw = [0u8; 4];
    if at.checked_add(4).is_none_or(|e| e > source.len()) {
        return Ok(false);
    }
    source.read_at(at, &mut raw)?;
    Ok(u32::from_le_bytes(raw) == LOCAL)
}

/// Reads the local header at `at`; `None` where there is none, or it is cut off.
fn read(b: &mut Builder<'_>, at: u64) -> Result<Option<Local>> {
    let Some(fixed) = b.array::<{ LOCAL_LEN as usize }>(at)? else {
        return Ok(None);
    };
    let mut c = Cursor::new(&fixed);
    if c.u32()? != LOCAL {
        return Ok(None);
    }
    let version = c.u16()? as u8;
    let flags = c.u16()?;
    let method = Method::from_number(c.u16()?);
    let _time_date = c.u32()?;
    let crc32 = c.u32()?;
    let (stored, size) = (c.u32()?, c.u32()?);
    let (name_len, extra_len) = (u64::from(c.u16()?), u64::from(c.u16()?));
    let name_at = at.saturating_add(LOCAL_LEN);
    let data_offset = name_at.saturating_add(name_len).saturating_add(extra_len);
    if data_offset > b.source.len() {
        return Ok(None);
    }
    let Some(left) = b.names.checked_sub(name_len + extra_len) else {
        return Ok(None);
    };
    b.names = left;
    let raw = b.source.read_vec(name_at..data_offset)?;
    let (name, extra) = raw
        .split_at_checked(name_len as usize)
        .unwrap_or((&raw, &[]));
    let mut wide = Wide {
        size: size.into(),
        stored: stored.into(),
        offset: 0,
        unicode_name: None,
    };
    let full = [size == u32::MAX, stored == u32::MAX, false];
    let extra_ok = wide.read(extra, full, name);
    Ok(Some(Local {
        header: Header {
            name: decode_name(name).0,
            unicode_name: wide.unicode_name,
            version,
            flags,
            method,
            crc32,
            stored: wide.stored,
            size: wide.size,
            at,
        },
        data_offset,
        extra_ok,
    }))
}

/// Finds the local header of every listed member, and compares the two.
pub(super) fn match_up(b: &mut Builder<'_>) -> Result<()> {
    let mut order: Vec<usize> = (0..b.entries.len()).collect();
    let offset = |b: &Builder<'_>, i: usize| b.entries.get(i).map_or(0, |e| e.header_offset);
    order.sort_by_key(|&i| offset(b, i));
    // Members that share a header: it is read once.
    let mut last: Option<(u64, Option<Local>)> = None;
    for i in order {
        let at = offset(b, i);
        let local = match &last {
            Some((same, local)) if *same == at => local.clone(),
            _ => {
                let local = read(b, at)?;
                last = Some((at, local.clone()));
                local
            }
        };
        let Some(central) = b.entries.get(i).and_then(|e| e.central.clone()) else {
            continue;
        };
        match local {
            None => {
                let message = format!("{:?} has no local header at {at}", central.name);
                b.differ(Kind::MissingLocal, central.at..central.at, Some(i), message);
            }
            Some(local) => compare(b, i, &central, local)?,
        }
    }
    Ok(())
}

fn compare(b: &mut Builder<'_>, i: usize, central: &Header, mut local: Local) -> Result<()> {
    let at = local.header.at..local.header.at + LOCAL_LEN;
    let name = central.name.clone();
    let h = &mut local.header;
    let mut found: Vec<(Kind, String)> = Vec::new();
    let mut say = |kind, what: &str, here: String, there: String| {
        let message =
            format!("{name:?}: the {what} is {here} in the local header, {there} in the directory");
        found.push((kind, message));
    };
    if h.name != central.name {
        let (here, there) = (format!("{:?}", h.name), format!("{:?}", central.name));
        say(Kind::Name, "name", here, there);
    }
    if (h.flags ^ central.flags) & FLAGS != 0 {
        let (here, there) = (
            format!("{:#06x}", h.flags),
            format!("{:#06x}", central.flags),
        );
        say(Kind::Flags, "flag field", here, there);
    }
    // Folders and empty files have no bytes to store one way or another.
    let empty = h.size == 0 && central.size == 0 && central.stored <= 2;
    if h.method != central.method && !empty {
        let show = |m: Method| m.name().to_owned();
        say(Kind::Method, "method", show(h.method), show(central.method));
    }
    // Zeros stand for "see the descriptor" with flag bit 3, and for "see the directory" in the
    // headers of some writers without it. 0xffffffff is for what a stream's writer did not know.
    let blank = |n: u64| n == 0 || n == u32::MAX.into();
    let sizes = [
        ("size", h.size, central.size),
        ("stored size", h.stored, central.stored),
    ];
    for (what, here, there) in sizes {
        if here != there && !blank(here) {
            say(Kind::Size, what, here.to_string(), there.to_string());
        }
    }
    if h.crc32 != central.crc32 && h.crc32 != 0 {
        let hex = |n: u32| format!("{n:08x}");
        say(Kind::Crc, "CRC-32", hex(h.crc32), hex(central.crc32));
    }
    let stated = !blank(h.stored) || central.stored == 0;
    if blank(h.size) {
        h.size = central.size;
    }
    if blank(h.stored) {
        h.stored = central.stored;
    }
    if h.crc32 == 0 {
        h.crc32 = central.crc32;
    }
    for (kind, message) in found {
        b.differ(kind, at.clone(), Some(i), message);
    }
    if !local.extra_ok {
        let message = format!("an extra field of {name:?} is longer than its room");
        b.differ(Kind::Extra, at.clone(), Some(i), message);
    }
    if local.header.name != central.name || local.header.version != central.version {
        header_flaws(b, &local.header, i);
    }
    let end = local.data_offset.saturating_add(central.stored);
    if end > b.source.len() {
        let message = format!("{name:?} reaches past the end of the file");
        b.differ(Kind::Size, at, Some(i), message);
    }
    let mut descriptor = 0;
    if local.header.has_descriptor() || central.has_descriptor() {
        match descriptor_after(b, central, end)? {
            Some(n) => descriptor = n,
            // Where the header has the numbers, writers that set the flag in vain are many.
            None if stated => {}
            None => {
                let message = format!(
                    "the data descriptor of {name:?} is missing or differs from the directory"
                );
                b.differ(Kind::Descriptor, end..end, Some(i), message);
            }
        }
    }
    if let Some(e) = b.entries.get_mut(i) {
        e.data_offset = Some(local.data_offset);
        e.local = Some(local.header);
        e.descriptor = descriptor;
    }
    Ok(())
}

/// Length of the data descriptor at `end` that says what `h` says: its signature is optional, and
/// sizes are 8 bytes wide in zip64 members (APPNOTE 4.3.9).
fn descriptor_after(b: &Builder<'_>, h: &Header, end: u64) -> Result<Option<u64>> {
    let room = b.source.len().saturating_sub(end).min(DESCRIPTOR_MAX);
    if room == 0 {
        return Ok(None);
    }
    let raw = b.source.read_vec(end..end + room)?;
    let forms = [(true, false), (true, true), (false, false), (false, true)];
    let fits = forms.iter().filter_map(|&(signature, wide)| {
        let d = descriptor(&raw, signature, wide)?;
        (d.crc32 == h.crc32 && d.stored == h.stored && d.size == h.size).then_some(d.len)
    });
    // The longest that fits: zeros after a narrow one look like a wide one of an empty member.
    Ok(if h.size == 0 { fits.min() } else { fits.max() })
}

struct Descriptor {
    crc32: u32,
    stored: u64,
    size: u64,
    len: u64,
}

fn descriptor(raw: &[u8], signature: bool, wide: bool) -> Option<Descriptor> {
    let mut c = Cursor::new(raw);
    if signature && c.u32().ok()? != DESCRIPTOR {
        return None;
    }
    let crc32 = c.u32().ok()?;
    let (stored, size) = if wide {
        (c.u64().ok()?, c.u64().ok()?)
    } else {
        (c.u32().ok()?.into(), c.u32().ok()?.into())
    };
    let len = c.pos() as u64;
    Some(Descriptor {
        crc32,
        stored,
        size,
        len,
    })
}

/// Follows local headers from each of `starts`, as a reader of streams does, and adds those that
/// no directory lists. `sure` says that a reader gets there: a signature found by searching has to
/// look like a header.
pub(super) fn walk(b: &mut Builder<'_>, starts: Vec<u64>, sure: bool) -> Result<bool> {
    let mut known: HashSet<u64> = b.entries.iter().map(|e| e.header_offset).collect();
    let mut bounds: Vec<u64> = known.iter().copied().collect();
    bounds.sort_unstable();
    let before = b.entries.len();
    for start in starts {
        let (mut at, mut sure) = (start, sure);
        while known.insert(at) {
            let Some(local) = read(b, at)? else {
                break;
            };
            if !sure && !plausible(b, &local) {
                break;
            }
            sure = true;
            let next = unlisted(b, local, &bounds)?;
            if next <= at {
                break;
            }
            at = next;
        }
    }
    Ok(b.entries.len() > before)
}

fn plausible(b: &Builder<'_>, local: &Local) -> bool {
    let h = &local.header;
    let ends = local.data_offset.checked_add(h.stored);
    let known = !matches!(h.method, Method::Other(n) if !matches!(n, 1..=20 | 93..=99));
    known
        && h.version <= 63
        && !h.name.is_empty()
        && h.name.len() <= 4096
        && (h.has_descriptor() || ends.is_some_and(|e| e <= b.source.len()))
}

/// Adds a member that only its local header knows; gives where it ends.
fn unlisted(b: &mut Builder<'_>, local: Local, bounds: &[u64]) -> Result<u64> {
    let Local {
        mut header,
        data_offset,
        ..
    } = local;
    let mut descriptor = 0;
    if header.has_descriptor() && (header.stored == 0 || header.stored == u64::from(u32::MAX)) {
        // The next thing that is known, or the end, bounds what is not.
        let next = bounds.partition_point(|&o| o < data_offset);
        let bound = bounds.get(next).copied().unwrap_or(b.source.len());
        (header.stored, descriptor) = measure(b, &header, data_offset, bound)?;
    }
    let len = b.source.len();
    header.stored = header.stored.min(len.saturating_sub(data_offset));
    let end = data_offset
        .saturating_add(header.stored)
        .saturating_add(descriptor);
    let at = header.at;
    let message = format!("{:?} is in no central directory", header.name);
    let i = b.push(Entry {
        central: None,
        local: Some(header.clone()),
        header_offset: at,
        data_offset: Some(data_offset),
        descriptor,
        directory: None,
    })?;
    b.differ(Kind::Unlisted, at..end, Some(i), message);
    header_flaws(b, &header, i);
    Ok(end)
}

/// How many bytes lie between `from` and the first descriptor before `to` that says so. Read in
/// pieces that grow: what follows a short member is left to the next one.
fn described(source: &dyn ByteSource, from: u64, to: u64) -> Result<Option<u64>> {
    let signature = DESCRIPTOR.to_le_bytes();
    let (mut at, mut piece, mut tries) = (from, PIECE_LEAST, 0);
    while at < to {
        let next = at.saturating_add(piece).min(to);
        let raw = source.read_vec(at..next.saturating_add(DESCRIPTOR_MAX).min(to))?;
        for n in memchr::memmem::find_iter(&raw, &signature) {
            let here = at.saturating_add(n as u64);
            if here >= next {
                break;
            }
            tries += 1;
            if tries > TRIES {
                return Ok(None);
            }
            let rest = raw.get(n..).unwrap_or_default();
            let fits = |wide| descriptor(rest, true, wide).is_some_and(|d| d.stored == here - from);
            if fits(false) || fits(true) {
                return Ok(Some(here - from));
            }
        }
        at = next;
        piece = piece.saturating_mul(2).min(PIECE_MOST);
    }
    Ok(None)
}

/// The stored length of a member whose header leaves it to the descriptor, and the descriptor's:
/// where the deflate stream ends, or where a descriptor says the length that it stands at.
fn measure(b: &mut Builder<'_>, h: &Header, from: u64, bound: u64) -> Result<(u64, u64)> {
    let to = bound.min(from.saturating_add(b.measure));
    let stored = if h.method == Method::Deflate {
        let mut input = codec::Input::new(b.source, from, to);
        let mut sink = |_: &[u8]| Ok(());
        let mut output = codec::Output::new(Caps::default(), &mut sink);
        match codec::inflate(&mut input, &mut output) {
            Ok(()) => Some(input.taken()),
            Err(e) if e.kind() == crate::ErrorKind::Io => return Err(e),
            Err(_) => None,
        }
    } else {
        described(b.source, from, to)?
    };
    b.measure = b.measure.saturating_sub(stored.unwrap_or(to - from));
    let Some(stored) = stored else {
        return Ok((bound.saturating_sub(from), 0));
    };
    let end = from.saturating_add(stored);
    let room = b.source.len().saturating_sub(end).min(DESCRIPTOR_MAX);
    let raw = b.source.read_vec(end..end + room)?;
    let forms = [(true, false), (true, true), (false, false), (false, true)];
    let len = forms.iter().find_map(|&(signature, wide)| {
        let d = descriptor(&raw, signature, wide)?;
        (d.stored == stored).then_some(d.len)
    });
    Ok((stored, len.unwrap_or(0)))
}
