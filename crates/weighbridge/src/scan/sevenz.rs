//! 7z archives, in which members are unpacked one after the other.

use std::sync::Arc;

use weighbridge_core::wire::codec::Caps;
use weighbridge_core::wire::sevenz::{Archive, Event, Kind};
use weighbridge_core::{ErrorKind, Result};
use weighbridge_scan::{Difference, Link};

use super::examine::{Examiner, Item};

/// Greatest ratio of bytes out to bytes in.
const RATIO: u64 = 2000;

/// Takes the archive in `item` apart.
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    cx.named(item, "7z");
    let archive = Archive::open(Arc::clone(&item.source), cx.limits)?;
    if archive.is_header_encrypted() {
        cx.subject.encrypted.push(item.place.text());
        return Ok(());
    }
    let model = archive
        .members()
        .iter()
        .any(|m| super::zip::is_model(&m.name));
    let programs = cx.subject.programs.len();
    for m in archive.members() {
        cx.subject.members.push(m.name.clone());
        if m.kind == Kind::Device {
            special(cx, item, &m.name);
        }
        if archive.is_encrypted(m) && m.size > 0 {
            let place = item.place.inside(m.name.as_str(), None).text();
            cx.subject.encrypted.push(place);
        }
    }
    let caps = Caps::new(cx.inflatable(), RATIO);
    let mut data = Vec::new();
    archive.read(&caps, &mut |i, event| {
        let Some(m) = archive.members().get(i) else {
            return Ok(());
        };
        match event {
            Event::Begin => data = Vec::new(),
            Event::Bytes(part) => {
                cx.inflate(part.len() as u64)?;
                data.extend_from_slice(part);
            }
            Event::End(done) => {
                let place = item.place.inside(m.name.as_str(), None);
                let data = std::mem::take(&mut data);
                if m.kind == Kind::SymLink {
                    cx.subject.links.push(Link {
                        member: m.name.clone(),
                        target: String::from_utf8_lossy(&data).into_owned(),
                        hard: false,
                    });
                } else if !data.is_empty() {
                    cx.inner(&Item::of_bytes(data, place.clone(), m.name.as_str())?)?;
                }
                match done {
                    Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                    // Said above.
                    Err(e) if e.rule() == "sevenz.encrypted" => {}
                    Err(e) => cx.failed(&place, e),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    })?;
    for p in cx.subject.programs.iter_mut().skip(programs) {
        p.beside_model |= model;
    }
    super::zip::outside(cx, item, archive.gaps())
}

/// Notes a device, a pipe or a socket.
pub(super) fn special(cx: &mut Examiner<'_, '_>, item: &Item, name: &str) {
    cx.subject.differences.push(Difference {
        rule: "archive.special".into(),
        place: item.place.inside(name, None).text(),
        offset: None,
        message: "a device, a pipe or a socket".into(),
    });
}
