//! HDF5 files, as far as the scanner needs them without a full reader: where groups and datasets
//! say that their contents lie in other files, and what attributes say, above all Keras'
//! configuration of the model. Datasets are not read.
//!
//! What this light walk does not understand is a gap, never a fault: whether a file conforms is
//! the full reader's to say.

use std::collections::HashSet;

use memchr::memmem;
use serde_json::Value;
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, ErrorKind, Result};
use weighbridge_scan::{Reference, Text, TextOrigin};

use super::examine::{Examiner, Item};
use super::hdf5_object::{Found, Sizes, object};
use super::{json, text};

/// How every HDF5 file begins, at byte 0 or after a block of the user's: at 512 or a double of
/// it (HDF5 File Format Specification 3.0, II.A).
const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// Most objects looked at.
const MOST_OBJECTS: usize = 1 << 20;

/// Most bytes of attributes kept as texts.
const MOST_TEXT: usize = 32 << 20;

/// How much of a file's ends is searched for configurations that lie where the walk does not get.
const SEARCHED: u64 = 32 << 20;

/// Most bytes that are parsed in search of them.
const MOST_PARSED: usize = 128 << 20;

/// Longest configuration.
const MOST_CONFIG: usize = 16 << 20;

/// Takes an HDF5 file; says whether it is one.
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    let Some(at) = signature(item.source.as_ref())? else {
        return Ok(false);
    };
    cx.named(item, "hdf5");
    let mut configs = HashSet::new();
    let reason = match walk(cx, item, at, &mut configs) {
        Ok(None) => "HDF5 is not read by this version beyond its links and attributes".to_owned(),
        Ok(Some(missed)) => format!("HDF5 is not read by this version: {missed}"),
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => format!("HDF5 is not read by this version: {}", e.message()),
    };
    search(cx, item, &mut configs)?;
    cx.gap(&item.place, None, reason);
    Ok(true)
}

fn signature(source: &dyn ByteSource) -> Result<Option<u64>> {
    let mut at = 0u64;
    while at.saturating_add(48) <= source.len() {
        let mut head = [0u8; 8];
        source.read_at(at, &mut head)?;
        if head == *SIGNATURE {
            return Ok(Some(at));
        }
        at = (at * 2).max(512);
    }
    Ok(None)
}

/// Walks every object that links reach. Gives what was not understood, if anything.
fn walk(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    at: u64,
    configs: &mut HashSet<String>,
) -> Result<Option<String>> {
    let source = item.source.as_ref();
    let (sizes, root) = Sizes::read(source, at)?;
    let mut seen = HashSet::new();
    let mut open = vec![(root, String::new())];
    let mut missed = None;
    let mut left = MOST_TEXT;
    while let Some((address, path)) = open.pop() {
        if !seen.insert(address) {
            continue;
        }
        if seen.len() > MOST_OBJECTS {
            return Err(Error::limit("hdf5.objects", "there are too many objects"));
        }
        let found = match object(source, sizes, address) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => {
                missed.get_or_insert(e.message().to_owned());
                continue;
            }
        };
        for f in found {
            match f {
                Found::Child(name, address) => {
                    if path.len() + name.len() < 4096 {
                        open.push((address, format!("{path}/{name}")));
                    } else {
                        open.push((address, path.clone()));
                    }
                }
                Found::Outside(kind, file, at) => {
                    cx.subject.references.push(Reference {
                        place: inside(item, &path),
                        offset: item.place.base.map(|b| b.saturating_add(at)),
                        kind,
                        path: file,
                    });
                }
                Found::Attribute(name, bytes, at) => {
                    left = left.saturating_sub(bytes.len());
                    if left > 0 {
                        attribute(cx, item, &path, name, bytes, at, configs);
                    }
                }
                // Unwritten chunks cost nothing in the file and their whole size in memory.
                Found::Extent(bytes, at) => {
                    let cap = cx.limits.expand_cap(source.len());
                    if bytes.is_none_or(|b| b > cap) {
                        let message = format!("the dataset {path} is far larger than the file");
                        let e = Error::limit("hdf5.expand", message).at(at);
                        cx.failed(&item.place, e);
                    }
                }
                Found::Missed(what) => {
                    missed.get_or_insert(what.to_owned());
                }
            }
        }
    }
    if left == 0 {
        missed.get_or_insert("its attributes are longer than is looked at".into());
    }
    Ok(missed)
}

fn inside(item: &Item, path: &str) -> String {
    let mut steps = item.place.steps.clone();
    steps.extend((!path.is_empty()).then(|| path.to_owned()));
    steps.join(" → ")
}

/// The value of an attribute: a configuration of Keras, or a text.
fn attribute(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    path: &str,
    name: String,
    bytes: Vec<u8>,
    at: u64,
    configs: &mut HashSet<String>,
) {
    let trimmed = String::from_utf8_lossy(&bytes);
    let trimmed = trimmed.trim_end_matches('\0').trim();
    if trimmed.starts_with('{')
        && let Ok(value) = json::parse(trimmed)
    {
        config(cx, item, trimmed, value, configs);
        return;
    }
    cx.subject.texts.push(Text {
        place: inside(item, path),
        base: item.place.base.map(|b| b.saturating_add(at)),
        key: name,
        origin: TextOrigin::Metadata,
        bytes,
    });
}

fn config(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    text: &str,
    value: Value,
    configs: &mut HashSet<String>,
) {
    if !configs.insert(text.to_owned()) {
        return;
    }
    let mut place = item.place.clone();
    place.steps.push("model_config".into());
    let item = Item {
        place,
        name: "model_config".into(),
        ..item.clone()
    };
    text::config(cx, &item, value, Vec::new());
}

/// Looks for configurations as text in the ends of the file: long attributes lie where the walk
/// does not get.
fn search(cx: &mut Examiner<'_, '_>, item: &Item, configs: &mut HashSet<String>) -> Result<()> {
    let len = item.source.len();
    let first = 0..len.min(SEARCHED);
    let last = len.saturating_sub(SEARCHED).max(first.end)..len;
    for range in [first, last] {
        let data = item.source.read_vec(range)?;
        // A start that fails late is tried from its next brace again: the work is bounded.
        let mut left = MOST_PARSED;
        let mut from = 0;
        while let Some(at) = next(&data, from) {
            let rest = data.get(at..).unwrap_or_default();
            let rest = rest.get(..rest.len().min(MOST_CONFIG)).unwrap_or_default();
            let (used, value) = leading(rest);
            from = at + 1;
            if let Some(value) = value {
                from = at + used.max(1);
                let whole = rest.get(..used).unwrap_or_default();
                config(cx, item, &String::from_utf8_lossy(whole), value, configs);
            }
            left = left.saturating_sub(used + 64);
            if left == 0 {
                cx.gap(&item.place, None, "too much looks like configurations");
                break;
            }
        }
    }
    Ok(())
}

/// The next place where an object begins that names a class soon after.
fn next(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let name = at + memmem::find(data.get(at..)?, b"class_name\"")?;
        // The object's brace lies before it: the first key, or one of a few short ones.
        let floor = name.saturating_sub(256).max(from);
        let before = data.get(floor..name)?;
        if let Some(brace) = memchr::memchr_iter(b'{', before).find(|&b| {
            let after = before.get(b + 1..).unwrap_or_default().trim_ascii_start();
            after.starts_with(b"\"")
        }) {
            return Some(floor + brace);
        }
        at = name + 1;
    }
}

/// The JSON object that `data` begins with, and how many bytes were read for it.
fn leading(data: &[u8]) -> (usize, Option<Value>) {
    let mut stream = serde_json::Deserializer::from_slice(data).into_iter::<Value>();
    match stream.next() {
        Some(Ok(value @ Value::Object(_))) => (stream.byte_offset(), Some(value)),
        Some(Err(e)) if e.line() == 1 => (e.column(), None),
        _ => (data.len(), None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    fn configs(data: &[u8]) -> Option<Vec<Value>> {
        let source = Arc::new(SliceSource::new(data, "m.h5"));
        let item = Item::new(source.clone(), Place::default(), "m.h5").unwrap();
        let mut s = Subject::new("m.h5", source.as_ref());
        let limits = Limits::default();
        let taken = take(&mut Examiner::new(&mut s, &limits), &item).unwrap();
        assert_eq!(s.gaps.len(), usize::from(taken));
        assert_eq!(s.faults.len(), 0);
        taken.then(|| s.configs.into_iter().map(|c| c.value).collect())
    }

    #[test]
    fn configurations_are_found_where_the_walk_does_not_get() {
        let json = br#"{"class_name": "Sequential", "config": {"layers": [{"class_name": "X"}]}}"#;
        for start in [0usize, 512, 2048] {
            let mut data = vec![0u8; start];
            data.extend(SIGNATURE);
            data.extend([9u8; 100]);
            data.extend(b"{\"x{ {\"class_name");
            data.extend(json);
            data.extend([0u8; 100]);
            let found = configs(&data).unwrap();
            assert_eq!(found.len(), 1, "{start}");
            assert_eq!(found[0]["class_name"], "Sequential");
        }
        assert_eq!(configs(&[0u8; 4096]), None);
        assert_eq!(configs(b"\x89HDF"), None);
    }
}
