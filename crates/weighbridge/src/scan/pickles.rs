//! Pickles: telling them from other bytes, and taking streams of them apart.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::pickle::{self, Node, Trace};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};
use weighbridge_scan::{Gap, PickleTrace, Subject};

use crate::format::pytorch::read::load_pickle;

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
    (named(&PICKLES) && trace.ops >= 2) || (named(&MODELS) && trace.ops >= 8)
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

/// Runs the pickle in `data` and lays what it does into `subject`. `base` is where it lies in the
/// file, when it lies there uncompressed. Gives the position after it, unless it breaks.
///
/// # Errors
/// None that the file is to blame for: a broken stream is a fault of the subject, and all that
/// came before the break counts.
pub(super) fn take(
    subject: &mut Subject<'_>,
    place: &str,
    base: Option<u64>,
    data: &[u8],
    limits: &Limits,
) -> Result<Option<usize>> {
    let mut trace = pickle::run(data, limits);
    subject.pickles.push(PickleTrace::of(place, base, &trace)?);
    let Some(e) = trace.error.take() else {
        return Ok(Some(trace.end));
    };
    let e = e.shifted(base.unwrap_or(0));
    subject.failed(&if place.is_empty() { e } else { e.within(place) });
    Ok(None)
}

/// Takes the pickle at `at` of `source`, and gives the position after it, or `None` when it
/// breaks.
fn take_at(
    subject: &mut Subject<'_>,
    place: &str,
    source: &dyn ByteSource,
    at: u64,
    base: u64,
    limits: &Limits,
) -> Result<Option<u64>> {
    match load_pickle(source, at, limits) {
        Ok((data, len)) => {
            take(subject, place, Some(base + at), &data, limits)?;
            Ok(Some(at + len as u64))
        }
        Err(e) => {
            // A real unpickler has executed everything up to the break: run that much again.
            let broken = e
                .byte_span()
                .map_or(source.len(), |s| s.offset.saturating_add(1 << 16));
            let end = broken
                .min(source.len())
                .min(at.saturating_add(limits.pickle_bytes));
            let data = source.read_vec(at..end.max(at))?;
            let mut trace = pickle::run(&data, limits);
            subject
                .pickles
                .push(PickleTrace::of(place, Some(base + at), &trace)?);
            trace.error = None;
            let e = e.shifted(base);
            subject.failed(&if place.is_empty() { e } else { e.within(place) });
            Ok(None)
        }
    }
}

/// Takes pickles that follow each other from `at` to the end of the file.
pub(super) fn take_stream(
    subject: &mut Subject<'_>,
    source: &Arc<dyn ByteSource>,
    at: u64,
    limits: &Limits,
) -> Result<()> {
    let mut at = at;
    for n in 0..MOST {
        if at >= source.len() && n > 0 {
            return Ok(());
        }
        if n > 0 {
            let head = source.read_vec(at..source.len().min(at + super::HEAD))?;
            if !is_pickle(&head, Path::new(""), limits) {
                subject.gaps.push(after(at, source.len() - at));
                return Ok(());
            }
        }
        let place = if n == 0 {
            String::new()
        } else {
            format!("pickle {}", n + 1)
        };
        match take_at(subject, &place, source.as_ref(), at, 0, limits)? {
            Some(next) if next > at => at = next,
            _ => return Ok(()),
        }
    }
    subject.failed(&Error::limit(
        "scan.too-many-pickles",
        "the stream holds too many pickles",
    ));
    Ok(())
}

/// Takes torch's legacy streams: five pickles, then the storages, which end at `end`; whatever
/// follows is taken as a stream of its own.
pub(super) fn take_legacy(
    subject: &mut Subject<'_>,
    source: &Arc<dyn ByteSource>,
    end: u64,
    limits: &Limits,
) -> Result<()> {
    let mut at = 0;
    for n in 1..=5 {
        let place = format!("pickle {n}");
        match take_at(subject, &place, source.as_ref(), at, 0, limits)? {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
    if end >= source.len() {
        return Ok(());
    }
    second(subject, source, end, limits)
}

/// What follows a legacy stream: torch reads it when asked to load from the same file again.
fn second(
    subject: &mut Subject<'_>,
    source: &Arc<dyn ByteSource>,
    at: u64,
    limits: &Limits,
) -> Result<()> {
    let rest = weighbridge_core::source::Window::new(
        Arc::clone(source),
        at..source.len(),
        source.name().to_owned(),
    )?;
    let head = rest.read_vec(0..rest.len().min(super::HEAD))?;
    if !is_pickle(&head, Path::new(""), limits) {
        subject.gaps.push(after(at, source.len() - at));
        return Ok(());
    }
    let mut inner = 0;
    for n in 1..=5 {
        let place = format!("second stream, pickle {n}");
        match take_at(subject, &place, &rest, inner, at, limits)? {
            Some(next) => inner = next,
            None => return Ok(()),
        }
    }
    // The storages of the second stream are as long as its own reader says.
    let options = crate::OpenOptions {
        limits: limits.clone(),
        ..crate::OpenOptions::default()
    };
    match crate::format::pytorch::open(Arc::new(rest), &options) {
        Ok(m) => {
            let more = m
                .warnings
                .iter()
                .find(|w| w.rule == "pytorch.trailing-data");
            match more.and_then(|w| w.offset) {
                Some(o) => subject.gaps.push(after(at + o, source.len() - at - o)),
                None => return Ok(()),
            }
        }
        Err(e) => subject.failed(&e.shifted(at).within("second stream")),
    }
    Ok(())
}

fn after(at: u64, bytes: u64) -> Gap {
    Gap {
        place: String::new(),
        offset: Some(at),
        reason: format!("{bytes} bytes after the last pickle belong to nothing known"),
    }
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
