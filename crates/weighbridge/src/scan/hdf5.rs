//! HDF5 files: where groups and datasets say that their contents lie in other files, what
//! attributes and datasets of texts say, above all Keras' configuration of the model, and what
//! lies in the file beside the values of its datasets.

use std::collections::HashSet;
use std::sync::Arc;

use memchr::memmem;
use serde_json::Value;
use weighbridge_core::wire::hdf5::{File, signature};
use weighbridge_core::{ErrorKind, Result};
use weighbridge_scan::{Text, TextOrigin};

use super::examine::{Examiner, Item};
use super::hdf5_rest as rest;
use super::hdf5_walk::{Found, Walk};
use super::{json, text};

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
    if signature(item.source.as_ref())?.is_none() {
        return Ok(false);
    }
    cx.named(item, "hdf5");
    let mut configs = HashSet::new();
    let limits = cx.options().limits;
    let file = match File::with_account(Arc::clone(&item.source), &limits, true) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => {
            cx.failed(&item.place, e);
            search(cx, item, &mut configs)?;
            return Ok(true);
        }
    };
    let mut walk = Walk::new(&file, item);
    walk.all(cx, &mut |cx, found| {
        attribute(cx, item, &found, &mut configs)
    })?;
    let (broken, data) = (walk.broken, walk.data);
    if broken {
        search(cx, item, &mut configs)?;
    }
    rest::take(cx, item, &file, &data)?;
    Ok(true)
}

fn inside(item: &Item, path: &str) -> String {
    let mut steps = item.place.steps.clone();
    steps.extend((!path.is_empty()).then(|| path.to_owned()));
    steps.join(" → ")
}

/// A text: a configuration of Keras, or something else.
fn attribute(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    found: &Found<'_>,
    configs: &mut HashSet<String>,
) {
    let trimmed = String::from_utf8_lossy(found.bytes);
    let trimmed = trimmed.trim_end_matches('\0').trim();
    if trimmed.starts_with('{') {
        if let Err(e) = json::affordable(trimmed) {
            return cx.failed(&item.place, e.within(found.name));
        }
        if let Ok(value) = json::parse(trimmed) {
            return config(cx, item, trimmed, value, configs);
        }
    }
    cx.subject.texts.push(Text {
        place: inside(item, found.path),
        base: item.place.base.map(|b| b.saturating_add(found.at)),
        key: found.name.to_owned(),
        origin: TextOrigin::Metadata,
        bytes: found.bytes.to_vec(),
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

/// Looks for configurations as text in the ends of a file that is broken: the walk may not get
/// where another reader does.
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
        assert_eq!(s.gaps.len() + s.faults.len(), usize::from(taken));
        taken.then(|| s.configs.into_iter().map(|c| c.value).collect())
    }

    #[test]
    fn configurations_are_found_where_the_walk_does_not_get() {
        let json = br#"{"class_name": "Sequential", "config": {"layers": [{"class_name": "X"}]}}"#;
        for start in [0usize, 512, 2048] {
            let mut data = vec![0u8; start];
            data.extend(weighbridge_core::wire::hdf5::SIGNATURE);
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
