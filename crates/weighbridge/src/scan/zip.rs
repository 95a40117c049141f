//! Zip archives, torch's and others.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::wire::codec::Caps;
use weighbridge_core::wire::npy::needs_only_head;
use weighbridge_core::wire::zip::survey::{Entry, Kind, Reading, Survey, View};
use weighbridge_core::wire::zip::{Archive, Method};
use weighbridge_core::{Error, ErrorKind, Result};
use weighbridge_scan::{Difference, Link, Script};

use super::examine::{Examiner, Item, Place};
use super::pickles;

/// Longest end record with its comment (APPNOTE 4.3.16).
const END_RECORD: u64 = 22 + 65535;

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
    let parts = Survey::parts(&item.source, cx.limits)?;
    if let (Some(last), true) = (
        parts.last(),
        parts.len() > 1 && item.extension() != "distcp",
    ) {
        let message = "another archive lies before this one: readers from the front see that one";
        differ(cx, &item.place, "zip.hidden", Some(last.start), message);
    }
    for part in parts {
        // Each is looked at as if it stood alone.
        let start = part.start;
        let name = item.source.name().to_owned();
        let alone: Arc<dyn ByteSource> =
            Arc::new(Window::new(Arc::clone(&item.source), part, name)?);
        one(cx, &alone, &item.place.from(start))?;
    }
    Ok(())
}

fn differ(cx: &mut Examiner<'_, '_>, place: &Place, rule: &str, at: Option<u64>, message: &str) {
    cx.subject.differences.push(Difference {
        rule: rule.into(),
        place: place.text(),
        offset: at.map(|at| place.offset(at)),
        message: message.into(),
    });
}

/// What the whole archive says of its members.
struct Holder<'p> {
    survey: Survey,
    place: &'p Place,
    torch: bool,
    torchscript: bool,
}

/// About what the entries of an archive take in memory for each byte of its directory.
const IN_MEMORY: u64 = 10;

/// How long the directory of the archive says it is, in bytes; 0 where there is no end record.
fn directory(source: &Arc<dyn ByteSource>) -> Result<u64> {
    let from = source.len().saturating_sub(END_RECORD);
    let tail = source.read_vec(from..source.len())?;
    let found = tail.windows(4).rposition(|w| w == b"PK\x05\x06");
    // APPNOTE 4.3.16: the size stands behind the signature, two disk numbers and two counts.
    let size = found.and_then(|at| tail.get(at.checked_add(12)?..at.checked_add(16)?));
    let size = size
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    Ok(u64::from(size).min(source.len()))
}

/// One archive.
fn one(cx: &mut Examiner<'_, '_>, source: &Arc<dyn ByteSource>, place: &Place) -> Result<()> {
    super::gate::spend(directory(source)?.saturating_mul(IN_MEMORY));
    let survey = Survey::of(Arc::clone(source), cx.limits)?;
    // Looked up once: an archive may have a hundred thousand members.
    let strict = Archive::open(Arc::clone(source), cx.limits).ok();
    let holder = Holder {
        torch: match &strict {
            Some(a) => crate::format::pytorch::is_torch_zip(a),
            None => survey
                .entries()
                .iter()
                .any(|e| e.name().ends_with("/data.pkl")),
        },
        torchscript: strict
            .as_ref()
            .is_some_and(crate::format::pytorch::is_torchscript_zip),
        survey,
        place,
    };
    let begins = source.read_vec(0..source.len().min(4))? == b"PK\x03\x04";
    let differences = holder.survey.differences();
    // A truncated archive has no directory and half a member: that hides nothing.
    let ends = !differences.iter().any(|d| d.kind == Kind::NoEndRecord);
    for d in differences {
        if ends || !matches!(d.kind, Kind::Unlisted | Kind::Gap) {
            difference(cx, place, d, begins);
        }
    }
    let programs = cx.subject.programs.len();
    // Each way of reading a member once; members that lie over each other would be read for ever.
    let mut left = source.len().saturating_mul(2).saturating_add(1 << 20);
    let entries = holder.survey.entries();
    let model = holder.torch || entries.iter().any(|e| is_model(e.name()));
    for (i, e) in entries.iter().enumerate() {
        for name in e.names() {
            cx.subject.members.push(name.to_owned());
        }
        if e.is_dir() {
            continue;
        }
        link(cx, &holder, i, e)?;
        for reading in holder.survey.readings(i) {
            let Some(rest) = left.checked_sub(reading.stored) else {
                let message = "members lie over each other: together they are longer than the file";
                let error = Error::malformed("zip.overlap", message).at(e.header_offset);
                cx.failed(place, error);
                return Ok(());
            };
            left = rest;
            if let Err(error) = member(cx, &holder, e, &reading) {
                if error.kind() == ErrorKind::Io {
                    return Err(error);
                }
                cx.failed(place, error);
            }
        }
    }
    for p in cx.subject.programs.iter_mut().skip(programs) {
        p.beside_model |= model;
    }
    if begins {
        let whole = Item::new(Arc::clone(source), place.clone(), "")?;
        outside(cx, &whole, holder.survey.gaps())?;
    }
    Ok(())
}

/// What readers disagree on either breaks the format or hides something.
fn difference(
    cx: &mut Examiner<'_, '_>,
    place: &Place,
    d: &weighbridge_core::wire::zip::survey::Difference,
    begins: bool,
) {
    match d.kind {
        // What lies before the archive is what the file is first of all; that was looked at.
        Kind::Prefix if !begins => {}
        Kind::Gap | Kind::Prefix | Kind::Trailing | Kind::Unlisted => {
            differ(cx, place, "zip.hidden", Some(d.offset), &d.message);
        }
        Kind::Crc
        | Kind::Version
        | Kind::Descriptor
        | Kind::MissingLocal
        | Kind::Overlap
        | Kind::NoEndRecord
        | Kind::Count
        | Kind::Volumes
        | Kind::Extra => {
            let e = Error::malformed("zip.layout", d.message.clone()).at(d.offset);
            cx.failed(place, e);
        }
        kind => {
            let rule = format!("zip.{}", kind.as_str());
            differ(cx, place, &rule, Some(d.offset), &d.message);
        }
    }
}

/// Looks into the bytes of an archive that belong to no member: some reader may take them for
/// something.
///
/// # Errors
/// As [`Examiner::inner`].
pub(super) fn outside(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    gaps: &[std::ops::Range<u64>],
) -> Result<()> {
    for gap in gaps.iter().take(MOST_GAPS) {
        let name = item.source.name().to_owned();
        let window = Window::new(Arc::clone(&item.source), gap.clone(), name)?;
        let place = item.place.inside("outside of the members", Some(gap.start));
        cx.inner(&Item::new(Arc::new(window), place, "")?)?;
    }
    if let Some(gap) = gaps.get(MOST_GAPS) {
        let reason = "more bytes outside of the members than are looked into";
        cx.gap(&item.place, Some(gap.start), reason);
    }
    Ok(())
}

/// Most gaps between members that are looked into.
const MOST_GAPS: usize = 100;

/// Notes a symbolic link: its contents are the target (APPNOTE 4.4.15; Info-ZIP keeps the file
/// mode of Unix in the upper half of the external attributes).
fn link(cx: &mut Examiner<'_, '_>, holder: &Holder<'_>, entry: usize, e: &Entry) -> Result<()> {
    let Some(central) = &e.central else {
        return Ok(());
    };
    let mut attributes = [0u8; 4];
    let source = holder.survey.source();
    source.read_at(central.at.saturating_add(38), &mut attributes)?;
    let mode = u32::from_le_bytes(attributes) >> 16;
    if mode & 0xf000 != 0xa000 || central.size > 1 << 16 {
        return Ok(());
    }
    let mut target = Vec::new();
    for reading in holder.survey.readings(entry).iter().take(1) {
        let caps = Caps::new(1 << 16, u64::MAX);
        let _ = holder.survey.read(reading, &caps, &mut |part| {
            target.extend_from_slice(part);
            Ok(())
        });
    }
    cx.subject.links.push(Link {
        member: central.name.clone(),
        target: String::from_utf8_lossy(&target).into_owned(),
        hard: false,
    });
    Ok(())
}

/// Whether a member's name says that it is a model.
pub(super) fn is_model(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
    super::text::MODELS.contains(&extension.to_ascii_lowercase().as_str())
}

/// One member as one reader gets it.
fn member(
    cx: &mut Examiner<'_, '_>,
    holder: &Holder<'_>,
    e: &Entry,
    reading: &Reading,
) -> Result<()> {
    if holder.torch && e.names().iter().all(|n| is_tensor_record(n)) {
        let export = e.names().iter().any(|n| is_export_record(n));
        if !export || !is_saved_tensor(holder, reading)? {
            // Raw values: no loader interprets them.
            return Ok(());
        }
    }
    if reading.stored == 0 {
        return Ok(());
    }
    let Some(item) = item_of(cx, holder, e, reading)? else {
        return Ok(());
    };
    if holder.torchscript && item.name.ends_with(".py") {
        return script(cx, &item);
    }
    let before = cx.subject.pickles.len();
    let pickled = holder.torch
        && (item.name.ends_with(".debug_pkl")
            || pickles::is_pickle(&item.head, Path::new(&item.name), cx.limits));
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

/// Longest stored member whose checksum is verified: longer ones are weights.
const CHECKED: u64 = 16 << 20;

/// Whether a long compressed member is an array of plain values: payload, of which only the head
/// is read, as of tensors that lie in the file as they are.
fn is_plain_array(cx: &mut Examiner<'_, '_>, survey: &Survey, reading: &Reading) -> bool {
    if reading.size <= CHECKED || reading.says_encrypted {
        return false;
    }
    let mut head = Vec::new();
    let caps = Caps::new(2 * super::HEAD, u64::MAX);
    // Nothing but what came out counts: a stream that breaks so early has no whole head.
    let _ = survey.read(reading, &caps, &mut |part| {
        head.extend_from_slice(part);
        if head.len() as u64 >= super::HEAD {
            return Err(Error::limit("scan.head", "the head is all that is wanted"));
        }
        Ok(())
    });
    let whole = super::npy::is_npy(&head).then(|| needs_only_head(&head));
    // A length that the header does not explain hides something or was cut short.
    whole.flatten() == Some(reading.size) && cx.expand(reading.size)
}

/// The bytes of a member: a window of the file where it is stored as it is, else inflated into
/// memory. `None` when they are encrypted, which has been recorded, or payload that no loader
/// interprets.
fn item_of(
    cx: &mut Examiner<'_, '_>,
    holder: &Holder<'_>,
    e: &Entry,
    reading: &Reading,
) -> Result<Option<Item>> {
    let survey = &holder.survey;
    let name = match reading.view {
        View::Central => e.name(),
        View::Local => e.local.as_ref().map_or("", |h| h.name.as_str()),
    };
    let plain = reading.method == Method::Stored;
    if !plain && is_plain_array(cx, survey, reading) {
        return Ok(None);
    }
    let mut data = Vec::new();
    let mut outcome = Ok(true);
    if !plain || reading.stored <= CHECKED {
        let room = if plain { CHECKED } else { cx.inflatable() };
        let done = survey.read(reading, &Caps::new(room, RATIO), &mut |part| {
            if !plain {
                data.extend_from_slice(part);
            }
            Ok(())
        });
        outcome = done.map(|o| o.is_intact() || (o.size_matches && survey.checksums_off()));
        cx.inflate(data.len() as u64)?;
    }
    let item = if plain {
        let range = reading.at..reading.at.saturating_add(reading.stored);
        let window = Window::new(Arc::clone(survey.source()), range, name.to_owned())?;
        let place = holder.place.inside(name, Some(reading.at));
        Item::new(Arc::new(window), place, name)?
    } else {
        Item::of_bytes(data, holder.place.inside(name, None), name)?
    };
    match outcome {
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Ok(true) => {}
        // Flags that lie do not keep careless readers from loading the plain bytes.
        bad if reading.says_encrypted => {
            cx.subject.encrypted.push(item.place.text());
            let loads = pickles::is_pickle(&item.head, Path::new(name), cx.limits);
            return Ok((loads && bad.is_ok()).then_some(item));
        }
        Ok(false) => {
            let message = "the contents do not have the size or checksum that the headers state";
            let error = Error::integrity("zip.crc-mismatch", message).at(reading.at);
            cx.failed(holder.place, error.within(name));
        }
        Err(error) => cx.failed(holder.place, error),
    }
    if reading.says_encrypted {
        let message = "the flags say encrypted, the contents are not";
        differ(cx, &item.place, "zip.encrypted-flag", Some(0), message);
    }
    Ok(Some(item))
}

/// Greatest ratio of bytes out to bytes in.
const RATIO: u64 = 2000;

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
        "weights" => file.starts_with("weight_"),
        ".data" => file.ends_with(".storage"),
        _ => false,
    }
}

/// Whether the record is one of `torch.export`, whose configuration says whether it holds raw
/// values or what `torch.save` wrote (`torch/export/pt2_archive/_package.py`).
fn is_export_record(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    file.starts_with("weight_") || file.starts_with("tensor_")
}

/// Whether a record begins like a file of `torch.save`: raw values do so once in four thousand
/// million times, and are then no archive.
fn is_saved_tensor(holder: &Holder<'_>, reading: &Reading) -> Result<bool> {
    if reading.method != Method::Stored || reading.stored < 4 {
        return Ok(false);
    }
    let mut signature = [0u8; 4];
    holder.survey.source().read_at(reading.at, &mut signature)?;
    Ok(signature == *b"PK\x03\x04")
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
            "data/weights/model.pt",
            "archive/extra/0",
            "archive/data/",
        ] {
            assert!(!is_tensor_record(name), "{name}");
        }
    }
}
