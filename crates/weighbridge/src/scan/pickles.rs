//! Pickles: telling them from other bytes, and taking streams of them apart.

use std::path::Path;

use weighbridge_core::pickle::{self, Node, Trace};
use weighbridge_core::{Error, Limits, Result};

use super::examine::{Examiner, Item};
pub(super) use super::stream::take;
use super::stream::take_at;

/// Extensions that mean a pickle and nothing else.
const PICKLES: [&str; 6] = ["pkl", "pickle", "pck", "p", "dill", "joblib"];

/// Extensions under which loaders unpickle what they find, and other formats live too.
const MODELS: [&str; 4] = ["pt", "pth", "ckpt", "bin"];

/// Most pickles taken from one stream.
const MOST: usize = 100_000;

/// Whether `head` begins a pickle. From protocol 2 on it says so itself; the older ones are text,
/// and count when they run to their end or make a call, or when the name promises a pickle and
/// the first opcodes run.
pub(super) fn is_pickle(head: &[u8], path: &Path, limits: &Limits) -> bool {
    match head {
        [0x80, 0..=5, op, ..] if pickle::Op::from_byte(*op).is_some() => return true,
        [] => return false,
        _ => {}
    }
    let trace = pickle::run(head, limits);
    if trace.error.is_none() || calls_something(&trace) {
        return true;
    }
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let extension = extension.to_ascii_lowercase();
    let named = |list: &[&str]| list.contains(&extension.as_str());
    (named(&PICKLES) && trace.ops >= 3) || (named(&MODELS) && trace.ops >= 8)
}

/// Whether a pickle begins here that calls something.
pub(super) fn calls(head: &[u8], limits: &Limits) -> bool {
    calls_something(&pickle::run(head, limits))
}

/// Whether prose could not have given this trace: it calls a global with a plausible name.
fn calls_something(trace: &Trace<'_>) -> bool {
    let plain = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    trace.nodes.iter().any(|n| match n {
        Node::Call(c) => trace
            .global(c.callee)
            .is_some_and(|g| plain(&g.module) && plain(&g.name)),
        _ => false,
    })
}

/// Takes the one pickle at `at` of `item`, and gives the position after it, or `None` when it
/// breaks.
pub(super) fn take_one(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<Option<u64>> {
    take_at(cx, item, "", at)
}

/// Takes pickles that follow each other from `at` to the end of the item.
pub(super) fn take_stream(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<()> {
    let len = item.source.len();
    let mut at = at;
    for n in 0..MOST {
        if at >= len && n > 0 {
            return Ok(());
        }
        if n > 0 {
            let head = item.source.read_vec(at..len.min(at + super::HEAD))?;
            if !is_pickle(&head, Path::new(""), cx.limits) {
                after(cx, item, at);
                return Ok(());
            }
        }
        let name = if n == 0 {
            String::new()
        } else {
            format!("pickle {}", n + 1)
        };
        match take_at(cx, item, &name, at)? {
            Some(next) if next > at => at = next,
            _ => return Ok(()),
        }
    }
    let e = Error::limit("scan.too-many-pickles", "the stream holds too many pickles");
    cx.failed(&item.place, e);
    Ok(())
}

/// Takes torch's legacy streams: five pickles, then the storages, which end at `end`; whatever
/// follows is taken as a stream of its own.
pub(super) fn take_legacy(cx: &mut Examiner<'_, '_>, item: &Item, end: u64) -> Result<()> {
    let mut at = 0;
    for n in 1..=5 {
        match take_at(cx, item, &format!("pickle {n}"), at)? {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
    if end >= item.source.len() {
        return Ok(());
    }
    second(cx, item, end)
}

/// What follows a legacy stream: torch reads it when asked to load from the same file again.
fn second(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<()> {
    let mut rest = item.rest(at)?;
    if !is_pickle(&rest.head, Path::new(""), cx.limits) {
        after(cx, item, at);
        return Ok(());
    }
    rest.place = item.place.inside("second stream", Some(at));
    let mut inner = 0;
    for n in 1..=5 {
        match take_at(cx, &rest, &format!("pickle {n}"), inner)? {
            Some(next) => inner = next,
            None => return Ok(()),
        }
    }
    // The storages of the second stream are as long as its own reader says.
    match crate::format::pytorch::open(std::sync::Arc::clone(&rest.source), &cx.options()) {
        Ok(m) => {
            let more = m
                .warnings
                .iter()
                .find(|w| w.rule == "pytorch.trailing-data");
            if let Some(o) = more.and_then(|w| w.offset) {
                after(cx, item, at + o);
            }
        }
        Err(e) => cx.failed(&rest.place, e),
    }
    Ok(())
}

fn after(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) {
    let bytes = item.source.len().saturating_sub(at);
    let reason = format!("{bytes} bytes after the last pickle belong to nothing known");
    cx.gap(&item.place, Some(at), reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickles_are_told_from_prose() {
        let limits = Limits::default();
        let is = |bytes: &[u8], name: &str| is_pickle(bytes, Path::new(name), &limits);
        assert!(is(b"\x80\x04N.", "README"));
        assert!(is(b"cposix\nsystem\n(Vid\ntR.", "README"));
        assert!(
            is(b"cposix\nsystem\n(Vid\ntR broken", "README"),
            "it has called by then"
        );
        assert!(is(b"(iposix\nsystem\n.", "x"));
        assert!(!is(b"(c) 2020 somebody\nAll rights reserved\n", "LICENSE"));
        assert!(!is(b"(in the beginning\nwas\nthe word", "poem.txt"));
        assert!(!is(b"# A model\n\nIt works.", "README.md"));
        assert!(!is(b"{\"a\": 1}", "config.json"));
        assert!(!is(b"", "empty.pkl"));
        assert!(!is(b"\x80\x09N.", "x"));
    }
}
