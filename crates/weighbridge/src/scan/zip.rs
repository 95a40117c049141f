//! Zip archives, torch's and others.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use weighbridge_core::source::{ByteSource, SliceSource, Window};
use weighbridge_core::wire::zip::{Archive, Member, Method};
use weighbridge_core::{Error, ErrorKind, Limits, Result};
use weighbridge_scan::{Gap, Script, Subject};

use super::{HEAD, pickles};

/// Longest end record with its comment (APPNOTE 4.3.16).
const END_RECORD: u64 = 22 + 65535;

/// Most archives that follow each other in one file, as the items of a DCP file do.
const MOST_ARCHIVES: usize = 100_000;

/// Whether the file ends in a zip's end record.
pub(super) fn ends_in_archive(source: &Arc<dyn ByteSource>) -> Result<bool> {
    let from = source.len().saturating_sub(END_RECORD);
    let tail = source.read_vec(from..source.len())?;
    let found = tail.windows(4).rposition(|w| w == b"PK\x05\x06");
    // The record's last field is the length of the comment that has to reach the end.
    Ok(found.is_some_and(|at| {
        let comment = tail.get(at + 20..at + 22).and_then(|b| b.try_into().ok());
        let comment = comment.map_or(0, |b| usize::from(u16::from_le_bytes(b)));
        at + 22 + comment == tail.len()
    }))
}

/// Bytes of compressed pickles and archives that are looked into for each byte of the file, and
/// at least.
const INFLATED_PER_BYTE: u64 = 64;
const INFLATED_LEAST: u64 = 16 << 20;

/// How deep archives in archives are followed.
const MOST_NESTED: usize = 8;

/// Takes the archive in `source` apart, and those before it when several follow each other.
pub(super) fn take(
    subject: &mut Subject<'_>,
    source: &Arc<dyn ByteSource>,
    limits: &Limits,
) -> Result<()> {
    let justified = source.len().saturating_mul(INFLATED_PER_BYTE);
    let outer = Place {
        name: Vec::new(),
        base: Some(0),
        left: Rc::new(Cell::new(justified.max(INFLATED_LEAST))),
    };
    archives(subject, source, &outer, limits)
}

/// Where an archive lies: the members it lies in, and its first byte in the file unless it is
/// stored compressed.
struct Place {
    name: Vec<String>,
    base: Option<u64>,
    /// How many bytes may still be inflated to be looked into: archives in archives multiply.
    left: Rc<Cell<u64>>,
}

impl Place {
    fn member(&self, m: &Member) -> String {
        let mut steps = self.name.clone();
        steps.push(m.name.clone());
        steps.join(" → ")
    }
}

fn archives(
    subject: &mut Subject<'_>,
    source: &Arc<dyn ByteSource>,
    place: &Place,
    limits: &Limits,
) -> Result<()> {
    let mut end = source.len();
    for _ in 0..MOST_ARCHIVES {
        let window: Arc<dyn ByteSource> = Arc::new(Window::new(
            Arc::clone(source),
            0..end,
            source.name().to_owned(),
        )?);
        let archive = Archive::open(Arc::clone(&window), limits)?;
        let start = archive.prefix_bytes();
        let mut signature = [0u8; 4];
        if start >= 4 {
            window.read_at(0, &mut signature)?;
        }
        if start == 0 || signature != *b"PK\x03\x04" {
            return one(subject, &archive, place, limits);
        }
        // Another archive lies before this one: look at this one as if it stood alone.
        let alone: Arc<dyn ByteSource> =
            Arc::new(Window::new(window, start..end, source.name().to_owned())?);
        let here = Place {
            name: place.name.clone(),
            base: place.base.map(|b| b.saturating_add(start)),
            left: Rc::clone(&place.left),
        };
        one(subject, &Archive::open(alone, limits)?, &here, limits)?;
        end = start;
    }
    Err(Error::limit(
        "scan.too-many-archives",
        "too many archives follow each other",
    ))
}

/// One archive.
fn one(subject: &mut Subject<'_>, archive: &Archive, place: &Place, limits: &Limits) -> Result<()> {
    let within = |mut e: Error| {
        for step in place.name.iter().rev() {
            e = e.within(step.as_str());
        }
        e.shifted(place.base.unwrap_or(0))
    };
    for e in archive.check_layout()? {
        subject.failed(&within(e));
    }
    // Looked up once: an archive may have a hundred thousand members.
    let torch = crate::format::pytorch::is_torch_zip(archive);
    let mut left = archive.source().len();
    for m in archive.members() {
        subject.members.push(m.name.clone());
        if m.is_dir() {
            continue;
        }
        // Members that lie over each other: reading the same bytes for each of thousands would
        // take hours.
        let Some(rest) = left.checked_sub(m.stored) else {
            let message = "members lie over each other: together they are longer than the file";
            let e = Error::malformed("zip.overlap", message).at(m.central_offset);
            subject.failed(&within(e));
            break;
        };
        left = rest;
        if m.is_encrypted() {
            subject.encrypted.push(place.member(m));
        } else if let Err(e) = member(subject, archive, m, place, torch, limits) {
            if e.kind() == ErrorKind::Io {
                return Err(e);
            }
            subject.failed(&within(e.within(m.name.as_str())));
        }
    }
    Ok(())
}

fn member(
    subject: &mut Subject<'_>,
    archive: &Archive,
    m: &Member,
    place: &Place,
    torch: bool,
    limits: &Limits,
) -> Result<()> {
    if torch && is_tensor_record(&m.name) {
        // Raw values: no loader interprets them.
        return Ok(());
    }
    let stored = m.method == Method::Stored;
    let at = match archive.data_offset(m) {
        Ok(at) if stored => place.base.map(|b| b.saturating_add(at)),
        _ => None,
    };
    let (head, _) = contents(archive, m, HEAD);
    let path = std::path::Path::new(&m.name);
    let pickled = m.name.ends_with(".debug_pkl") || pickles::is_pickle(&head, path, limits);
    if !pickled && !head.starts_with(b"PK\x03\x04") {
        return other(subject, archive, m, place, at, &head, limits);
    }
    let cap = archive.most_read(m, limits.pickle_bytes);
    if !stored {
        let left = place.left.get().checked_sub(m.size.min(cap));
        place.left.set(left.ok_or_else(|| {
            Error::limit(
                "scan.inflated-bytes",
                "the compressed members hold far more than the file's size justifies",
            )
        })?);
    }
    let (data, failed) = contents(archive, m, cap);
    if let Some(e) = failed {
        subject.failed(&e);
    }
    if !pickled {
        return nested(subject, m, place, at, data, limits);
    }
    let end = pickles::take(subject, &place.member(m), at, &data, limits)?;
    let end = end.map_or(m.size, |e| e as u64);
    let rest = m.size.saturating_sub(end);
    if rest > 0 {
        let reason = format!("{rest} bytes follow the pickle");
        subject.gaps.push(Gap {
            place: place.member(m),
            offset: Some(end),
            reason,
        });
    }
    Ok(())
}

/// An archive that is a member of another.
fn nested(
    subject: &mut Subject<'_>,
    m: &Member,
    place: &Place,
    at: Option<u64>,
    data: Vec<u8>,
    limits: &Limits,
) -> Result<()> {
    if place.name.len() >= MOST_NESTED {
        return Err(Error::limit(
            "scan.nested-archives",
            "archives lie in each other too deep",
        ));
    }
    let mut name = place.name.clone();
    name.push(m.name.clone());
    let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(data, m.name.clone()));
    archives(
        subject,
        &source,
        &Place {
            name,
            base: at,
            left: Rc::clone(&place.left),
        },
        limits,
    )
}

/// A member that is no pickle: code, text, or something to be said.
fn other(
    subject: &mut Subject<'_>,
    archive: &Archive,
    m: &Member,
    place: &Place,
    at: Option<u64>,
    head: &[u8],
    limits: &Limits,
) -> Result<()> {
    let mut gap = |reason: &str| {
        subject.gaps.push(Gap {
            place: place.member(m),
            offset: None,
            reason: reason.into(),
        });
    };
    if m.name.ends_with(".py") {
        if subject.container.as_deref() != Some("torchscript") {
            gap("a program: this version does not judge source code");
            return Ok(());
        }
        let data = archive.read(m, limits.text_bytes)?;
        match String::from_utf8(data) {
            Ok(text) => {
                subject.scripts.push(Script {
                    place: place.member(m),
                    base: at,
                    text,
                });
            }
            Err(_) => gap("code that is not UTF-8"),
        }
    } else if m.size > 0 && !is_text(head, m.size) {
        gap("no format that this version looks into");
    }
    Ok(())
}

/// Records that hold nothing but the raw values of tensors, by torch's naming
/// (`torch/csrc/jit/serialization/export_module.cpp`, `torch/package/package_exporter.py`,
/// `torch/export/pt2_archive/constants.py`).
fn is_tensor_record(name: &str) -> bool {
    let mut parts = name.rsplit('/');
    let (file, folder) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let number = !file.is_empty() && file.bytes().all(|b| b.is_ascii_digit());
    match folder {
        "data" | "constants" | "tensors" => number || file.starts_with("tensor_"),
        "weights" => !file.ends_with(".json"),
        ".data" => file.ends_with(".storage"),
        _ => false,
    }
}

/// The first `cap` bytes of a member, and what went wrong with reading it: a member whose
/// checksum is wrong is loaded by torch all the same, so its bytes count.
fn contents(archive: &Archive, m: &Member, cap: u64) -> (Vec<u8>, Option<Error>) {
    let mut out = Vec::new();
    let mut full = false;
    let done = archive.stream(m, &mut |part| {
        let room = usize::try_from(cap)
            .unwrap_or(usize::MAX)
            .saturating_sub(out.len());
        out.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        if out.len() as u64 >= cap {
            full = true;
            return Err(Error::limit(
                "zip.member-size",
                "the member is longer than is read",
            ));
        }
        Ok(())
    });
    match done {
        Err(_) if full && m.size == cap => (out, None),
        Err(e) => (out, Some(e)),
        Ok(()) => (out, None),
    }
}

fn is_text(head: &[u8], size: u64) -> bool {
    let whole = head.len() as u64 == size;
    match std::str::from_utf8(head) {
        Ok(t) => !t
            .chars()
            .any(|c| c.is_control() && !c.is_ascii_whitespace()),
        Err(e) => !whole && e.error_len().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_torchs_own_records_are_taken_for_raw_values() {
        for name in [
            "archive/data/0",
            "m/constants/12",
            "x/.data/94.storage",
            "e/data/weights/weight_0",
            "e/data/constants/tensor_0",
        ] {
            assert!(is_tensor_record(name), "{name}");
        }
        for name in [
            "archive/data.pkl",
            "archive/data/x.pkl",
            "data/weights/model_weights_config.json",
            "archive/extra/0",
            "archive/data/",
        ] {
            assert!(!is_tensor_record(name), "{name}");
        }
    }
}
