//! Zip archives, torch's and others.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::zip::{Archive, Member, Method};
use weighbridge_core::{Error, ErrorKind, Result};
use weighbridge_scan::Script;

use super::examine::{Examiner, Item, Place};
use super::pickles;

/// Longest end record with its comment (APPNOTE 4.3.16).
const END_RECORD: u64 = 22 + 65535;

/// Most archives that follow each other in one file, as the items of a DCP file do.
const MOST_ARCHIVES: usize = 100_000;

/// End records looked at from the end: random bytes hold one in four gigabytes.
const MOST_END_RECORDS: usize = 16;

/// Where the zip archive that the last bytes of `source` end begins, if they do: readers look for
/// the last end record and forgive what follows it (Lib/zipfile, `_EndRecData`; miniz,
/// `mz_zip_reader_locate_header_sig`).
pub(super) fn ends_in_archive(source: &Arc<dyn ByteSource>) -> Result<Option<u64>> {
    let from = source.len().saturating_sub(END_RECORD);
    let tail = source.read_vec(from..source.len())?;
    for at in memchr::memmem::rfind_iter(&tail, b"PK\x05\x06").take(MOST_END_RECORDS) {
        let field = |n: usize| {
            let bytes = tail.get(at + n..at + n + 4)?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        let (Some(size), Some(offset)) = (field(12), field(16)) else {
            continue;
        };
        let end = from.saturating_add(at as u64);
        if size == u32::MAX || offset == u32::MAX {
            // The sizes stand in the zip64 records before it.
            if at >= 20 && tail.get(at - 20..at - 16) == Some(b"PK\x06\x07".as_slice()) {
                return Ok(Some(0));
            }
            continue;
        }
        let Some(directory) = end.checked_sub(u64::from(size)) else {
            continue;
        };
        let mut signature = [0u8; 4];
        source.read_at(directory, &mut signature)?;
        if size > 0 && signature == *b"PK\x01\x02" {
            return Ok(Some(directory.saturating_sub(u64::from(offset))));
        }
    }
    Ok(None)
}

/// Takes the archive in `item` apart, and those before it when several follow each other.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    let name = item.source.name().to_owned();
    let mut end = item.source.len();
    for _ in 0..MOST_ARCHIVES {
        let window: Arc<dyn ByteSource> =
            Arc::new(Window::new(Arc::clone(&item.source), 0..end, name.clone())?);
        let archive = Archive::open(Arc::clone(&window), cx.limits)?;
        let start = archive.prefix_bytes();
        let mut signature = [0u8; 4];
        if start >= 4 {
            window.read_at(0, &mut signature)?;
        }
        if start == 0 || signature != *b"PK\x03\x04" {
            return one(cx, &archive, &item.place);
        }
        // Another archive lies before this one: look at this one as if it stood alone.
        let alone: Arc<dyn ByteSource> = Arc::new(Window::new(window, start..end, name.clone())?);
        one(
            cx,
            &Archive::open(alone, cx.limits)?,
            &item.place.from(start),
        )?;
        end = start;
    }
    Err(Error::limit(
        "scan.too-many-archives",
        "too many archives follow each other",
    ))
}

/// What the whole archive says of its members.
struct Holder<'p> {
    place: &'p Place,
    torch: bool,
    torchscript: bool,
}

/// One archive.
fn one(cx: &mut Examiner<'_, '_>, archive: &Archive, place: &Place) -> Result<()> {
    for e in archive.check_layout()? {
        cx.failed(place, e);
    }
    // Looked up once: an archive may have a hundred thousand members.
    let holder = Holder {
        place,
        torch: crate::format::pytorch::is_torch_zip(archive),
        torchscript: crate::format::pytorch::is_torchscript_zip(archive),
    };
    let programs = cx.subject.programs.len();
    let model = holder.torch || archive.members().iter().any(|m| is_model(&m.name));
    let mut left = archive.source().len();
    for m in archive.members() {
        cx.subject.members.push(m.name.clone());
        if m.is_dir() {
            continue;
        }
        // Members that lie over each other: reading the same bytes for each of thousands would
        // take hours.
        let Some(rest) = left.checked_sub(m.stored) else {
            let message = "members lie over each other: together they are longer than the file";
            let e = Error::malformed("zip.overlap", message).at(m.central_offset);
            cx.failed(place, e);
            break;
        };
        left = rest;
        if m.is_encrypted() {
            let member = place.inside(m.name.as_str(), None).text();
            cx.subject.encrypted.push(member);
        } else if let Err(e) = member(cx, archive, m, &holder) {
            if e.kind() == ErrorKind::Io {
                return Err(e);
            }
            cx.failed(place, e.within(m.name.as_str()));
        }
    }
    for p in cx.subject.programs.iter_mut().skip(programs) {
        p.beside_model |= model;
    }
    Ok(())
}

/// Whether a member's name says that it is a model.
fn is_model(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
    super::text::MODELS.contains(&extension.to_ascii_lowercase().as_str())
}

fn member(
    cx: &mut Examiner<'_, '_>,
    archive: &Archive,
    m: &Member,
    holder: &Holder<'_>,
) -> Result<()> {
    if holder.torch && is_tensor_record(&m.name) {
        // Raw values: no loader interprets them.
        return Ok(());
    }
    if m.size == 0 {
        return Ok(());
    }
    let Some(item) = item_of(cx, archive, m, holder)? else {
        return Ok(());
    };
    if holder.torchscript && m.name.ends_with(".py") {
        return script(cx, &item);
    }
    let before = cx.subject.pickles.len();
    let pickled = holder.torch
        && (m.name.ends_with(".debug_pkl")
            || pickles::is_pickle(&item.head, Path::new(&m.name), cx.limits));
    if pickled {
        // A torch archive's pickles have their storages beside them: they are no models.
        pickles::take_stream(cx, &item, 0)?;
    } else {
        cx.inner(&item)?;
    }
    for p in cx.subject.pickles.iter_mut().skip(before) {
        p.torchscript |= holder.torchscript;
    }
    Ok(())
}

/// The bytes of a member: a window of the file where it is stored as it is, else inflated into
/// memory. `None` when it could not be read, which has been recorded.
fn item_of(
    cx: &mut Examiner<'_, '_>,
    archive: &Archive,
    m: &Member,
    holder: &Holder<'_>,
) -> Result<Option<Item>> {
    if m.method == Method::Stored {
        let at = archive.data_offset(m)?;
        let window = Window::new(
            Arc::clone(archive.source()),
            at..at.saturating_add(m.stored),
            m.name.clone(),
        )?;
        let place = holder.place.inside(m.name.as_str(), Some(at));
        return Item::new(Arc::new(window), place, m.name.clone()).map(Some);
    }
    let cap = archive.most_read(m, cx.limits.pickle_bytes);
    cx.inflate(m.size.min(cap))?;
    let (data, failed) = contents(archive, m, cap);
    if let Some(e) = failed {
        cx.failed(holder.place, e);
    }
    let place = holder.place.inside(m.name.as_str(), None);
    Item::of_bytes(data, place, m.name.clone()).map(Some)
}

/// A source file of a TorchScript archive, which only the TorchScript compiler reads.
fn script(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    let len = item.source.len();
    if len > cx.limits.text_bytes {
        return Err(Error::limit(
            "text.size",
            "the code is longer than is read whole",
        ));
    }
    match String::from_utf8(item.source.read_vec(0..len)?) {
        Ok(text) => cx.subject.scripts.push(Script {
            place: item.place.text(),
            base: item.place.base,
            text,
        }),
        Err(_) => cx.gap(&item.place, None, "code that is not UTF-8"),
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
