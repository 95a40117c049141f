//! One pickle: read as far as it goes, run, and laid into the subject.

use std::sync::Arc;

use weighbridge_core::pickle::{self, Blob, Node, NodeId, Trace};
use weighbridge_core::source::{ByteSource, Window};
use weighbridge_core::{Error, Result};
use weighbridge_scan::{Catalogue, Loads, PickleTrace, Reference, Use};

use super::examine::{Examiner, Item, Place};
use super::pickles;
use super::shape::Shape;
use crate::format::joblib::{FIRST_READ, Holes, Loader, Step, step};

/// About what a pickle's bytes and their values take in memory for each byte of it.
const VALUES: u64 = 16;

/// How much is read of an array to see what a loader makes of it that does not know arrays.
const PLAIN_READ: u64 = 64 << 10;

/// Most arguments of loaders that are looked into for one pickle.
const MOST_LOADS: usize = 100_000;

/// How deep pickles in arguments of loaders in pickles are followed.
const MOST_NESTED: usize = 8;

/// Runs the pickle in `data`, which lies at `place`, and lays what it does into the subject.
/// Gives the position after it, unless it breaks.
///
/// # Errors
/// None that the file is to blame for: a broken stream is a fault of the subject, and all that
/// came before the break counts.
pub(super) fn take(cx: &mut Examiner<'_, '_>, place: &Place, data: &[u8]) -> Result<Option<usize>> {
    let mut trace = pickle::run(data, cx.limits);
    let stream = Stream {
        place,
        source: None,
        holes: &Holes::default(),
    };
    stream.settle(cx, &trace)?;
    let Some(e) = trace.error.take() else {
        return Ok(Some(trace.end));
    };
    cx.failed(place, e);
    Ok(None)
}

/// Takes the pickle at `at` of `item`, and gives the position after it, or `None` when it breaks.
/// `name` tells it from the others of the item; it is empty for the only or first one.
pub(super) fn take_at(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    name: &str,
    at: u64,
) -> Result<Option<u64>> {
    let left = item.source.len().saturating_sub(at);
    let (mut data, mut holes) = (Vec::new(), Holes::default());
    if let Some(data) = item.source.slice(at..item.source.len())
        && left <= cx.limits.pickle_bytes
    {
        // It lies in memory already: another copy of a bomb is one too many.
        super::gate::spend(left.saturating_mul(VALUES));
        let mut loader = Loader::new(&holes);
        let trace = pickle::run_with(data, cx.limits, &mut loader);
        let files = loader.files;
        return finish(cx, item, name, at, trace, &holes, files, None);
    }
    let mut want = FIRST_READ;
    loop {
        // What lies behind the bytes at hand.
        let next = (data.len() as u64).saturating_add(holes.total());
        let room = cx.limits.pickle_bytes.saturating_sub(data.len() as u64);
        let n = want.min(left.saturating_sub(next)).min(room);
        super::gate::spend(n.saturating_mul(VALUES));
        let from = at.saturating_add(next);
        data.extend(item.source.read_vec(from..from.saturating_add(n))?);
        let whole = next.saturating_add(n) >= left;

        let mut loader = Loader::new(&holes);
        let trace = pickle::run_with(&data, cx.limits, &mut loader);
        let step = match step(&trace, &loader, whole, left) {
            Step::More(_) if room <= n => Step::Done(Some(Error::limit(
                "pickle.too-large",
                "the pickle is longer than is read",
            ))),
            step => step,
        };
        match step {
            Step::More(n) => want = n,
            Step::Leave(p, len) => {
                drop(trace);
                data.truncate(p);
                holes.push(p, len);
                want = FIRST_READ;
            }
            Step::Done(failed) => {
                let files = loader.files;
                return finish(cx, item, name, at, trace, &holes, files, failed);
            }
        }
    }
}

/// Lays a pickle that was run to its end or its break into the subject.
#[allow(clippy::too_many_arguments)]
fn finish(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    name: &str,
    at: u64,
    mut trace: Trace<'_>,
    holes: &Holes,
    files: Vec<(usize, String)>,
    failed: Option<Error>,
) -> Result<Option<u64>> {
    let place = if name.is_empty() {
        item.place.from(at)
    } else {
        item.place.inside(name, Some(at))
    };
    let stream = Stream {
        place: &place,
        source: Some((&item.source, at)),
        holes,
    };
    if item.is_file() && at == 0 && name.is_empty() {
        cx.shape = Some(Shape::of(&trace, cx.limits));
    }
    stream.settle(cx, &trace)?;
    for (offset, path) in files {
        cx.subject.references.push(Reference {
            place: place.text(),
            offset: Some(place.offset(holes.real(offset))),
            kind: "joblib array",
            path,
        });
    }
    if let Some(raw) = trace.raw.first() {
        // Nothing was left out before the first array.
        plainly(cx, item, at, &place, raw.start as u64)?;
    }
    if let Some(end) = trace.frame_end.filter(|&end| end > trace.end) {
        behind_frame(cx, item, at.saturating_add(holes.real(end)))?;
    }
    let end = at.saturating_add(holes.real(trace.end));
    // The offsets of its errors count from the item's first byte.
    let whole = Place {
        steps: place.steps,
        base: item.place.base,
    };
    let broken = trace.error.take();
    if broken.is_none() && failed.is_none() {
        return Ok(Some(end));
    }
    for e in broken.into_iter().chain(failed) {
        let offset = e.byte_span().map_or(0, |s| s.offset);
        let left_out = holes
            .real(usize::try_from(offset).unwrap_or(usize::MAX))
            .saturating_sub(offset);
        cx.failed(&whole, e.shifted(at.saturating_add(left_out)));
    }
    Ok(None)
}

/// What a loader makes of the stream that takes the bytes of the first array, at `raw` of the
/// stream, for opcodes. Random bytes import and build all sorts of things that are not there: only
/// calls of what is there count.
fn plainly(cx: &mut Examiner<'_, '_>, item: &Item, at: u64, place: &Place, raw: u64) -> Result<()> {
    let from = at.saturating_add(raw);
    let len = item.source.len();
    let end = from.saturating_add(PLAIN_READ).min(len);
    if raw > cx.limits.pickle_bytes || end <= from {
        return Ok(());
    }
    let data = item.source.read_vec(at..end)?;
    let trace = pickle::run(&data, cx.limits);
    let mut read = PickleTrace::of(place.text(), place.base, &trace)?;
    let catalogue = Catalogue::builtin()?;
    read.computed.clear();
    read.broken = false;
    read.globals.retain(|g| {
        let (Some(module), Some(name)) = (&g.module, &g.name) else {
            return false;
        };
        g.offset >= raw && g.how == Use::Call && catalogue.exists(module, name)
    });
    if !read.globals.is_empty() {
        cx.subject.pickles.push(read);
    }
    Ok(())
}

/// A reader that has taken the last frame whole goes on behind it.
fn behind_frame(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<()> {
    let len = item.source.len();
    if at >= len {
        return Ok(());
    }
    let data = item
        .source
        .read_vec(at..len.min(at.saturating_add(1 << 20)))?;
    if pickles::is_pickle(&data, std::path::Path::new(""), cx.limits) {
        let trace = pickle::run(&data, cx.limits);
        let place = item.place.inside("pickle behind a frame", Some(at));
        let read = PickleTrace::of(place.text(), place.base, &trace)?;
        cx.subject.pickles.push(read);
    }
    Ok(())
}

/// A pickle stream and where it lies.
struct Stream<'s> {
    place: &'s Place,
    /// The bytes it lies in and where it begins there; `None` when it was taken out of another
    /// form.
    source: Option<(&'s Arc<dyn ByteSource>, u64)>,
    /// What was left out of it.
    holes: &'s Holes,
}

impl Stream<'_> {
    /// Lays what `trace` does into the subject.
    fn settle(&self, cx: &mut Examiner<'_, '_>, trace: &Trace<'_>) -> Result<()> {
        self.one(cx, trace, 0)?;
        for reading in std::iter::once(trace).chain(&trace.readings) {
            for nested in &reading.nested {
                self.one(cx, &nested.trace, nested.start)?;
            }
        }
        Ok(())
    }

    /// A trace whose offsets count from `start` of the stream.
    fn one(&self, cx: &mut Examiner<'_, '_>, trace: &Trace<'_>, start: usize) -> Result<()> {
        let mut read = PickleTrace::of(self.place.text(), self.place.base, trace)?;
        let real = |offset: u64| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            self.holes.real(start.saturating_add(offset))
        };
        for g in &mut read.globals {
            g.offset = real(g.offset);
        }
        for c in &mut read.computed {
            c.offset = real(c.offset);
        }
        self.loads(cx, trace, start, &mut read)?;
        cx.subject.pickles.push(read);
        // The constants that hide something; their offsets count from the trace's first byte.
        for mut text in weighbridge_scan::constants(&self.place.text(), Some(0), trace)? {
            let at = self.place.base.zip(text.base);
            text.base = at.map(|(base, at)| base.saturating_add(real(at)));
            cx.subject.texts.push(text);
        }
        Ok(())
    }

    /// Looks into the constant bytes that the pickle hands to loaders. torch's own loader, which
    /// its storages are pickled with, does what is in them and nothing else: when all its calls
    /// could be looked into, it is struck from `read`. No pickler writes calls of the others.
    fn loads(
        &self,
        cx: &mut Examiner<'_, '_>,
        trace: &Trace<'_>,
        start: usize,
        read: &mut PickleTrace,
    ) -> Result<()> {
        let catalogue = Catalogue::builtin()?;
        let loader = |id: NodeId| {
            let g = trace.global(id)?;
            Some((g, catalogue.loads(&g.module, &g.name)?))
        };
        // Nearly no pickle has one.
        let has = |g: &pickle::Global| catalogue.loads(&g.module, &g.name).is_some();
        if !trace.globals.iter().any(has) || !trace.readings.is_empty() {
            return Ok(());
        }
        let mut seen = std::collections::HashSet::new();
        let mut opaque: Vec<(&str, &str)> = Vec::new();
        for node in &trace.nodes {
            let Node::Call(call) = node else { continue };
            let Some((g, kind)) = loader(call.callee) else {
                continue;
            };
            let argument = trace.items(call.args).and_then(|a| a.first().copied());
            let bytes = argument.and_then(|a| constant(trace, a));
            let (Some(argument), Some(bytes)) = (argument, bytes) else {
                opaque.push((&g.module, &g.name));
                continue;
            };
            if !seen.insert((argument, kind)) {
                continue;
            }
            if seen.len() > MOST_LOADS {
                let e = Error::limit("scan.too-many-pickles", "too many pickles in a pickle");
                cx.failed(self.place, e);
                return Ok(());
            }
            let inner = format!("argument of {} at {}", g.name, start + call.offset);
            self.inner(cx, trace, start, &inner, bytes, kind)?;
        }
        read.globals.retain(|g| {
            let (Some(module), Some(name)) = (&g.module, &g.name) else {
                return true;
            };
            // The loaders of plain pickles are no part of a model, whatever they are handed.
            g.how != Use::Call
                || catalogue.loads(module, name) != Some(Loads::Torch)
                || opaque.contains(&(module.as_str(), name.as_str()))
        });
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn inner(
        &self,
        cx: &mut Examiner<'_, '_>,
        trace: &Trace<'_>,
        start: usize,
        name: &str,
        bytes: Constant,
        kind: Loads,
    ) -> Result<()> {
        let item = match (self.source, bytes) {
            // An array that was left out never lies inside a constant.
            (Some((source, at)), Constant::At(p, len)) => {
                let real = self.holes.real(start.saturating_add(p));
                let from = at.saturating_add(real);
                let to = from.saturating_add(len as u64);
                let window = Window::new(Arc::clone(source), from..to, String::new())?;
                let place = self.place.inside(name, Some(real));
                Item::new(Arc::new(window), place, "")?
            }
            (None, Constant::At(p, len)) => {
                let bytes = trace.data.get(p..p.saturating_add(len)).unwrap_or_default();
                cx.inflate(len as u64)?;
                let place = self.place.inside(name, Some(p as u64));
                Item::of_bytes(bytes.to_vec(), place, "")?
            }
            (_, Constant::Bytes(bytes)) => {
                cx.inflate(bytes.len() as u64)?;
                Item::of_bytes(bytes, self.place.inside(name, None), "")?
            }
        };
        if item.place.steps.len() > MOST_NESTED {
            let e = Error::limit("scan.nested", "things lie in each other too deep");
            cx.failed(&item.place, e);
            return Ok(());
        }
        match kind {
            Loads::Torch => cx.inner(&item),
            Loads::Pickle => pickles::take_stream(cx, &item, 0),
        }
    }
}

/// Bytes that stand in a pickle.
enum Constant {
    /// As a range of the stream: first byte and length.
    At(usize, usize),
    /// In another form.
    Bytes(Vec<u8>),
}

/// The bytes that a node stands for, whatever protocol wrote them: below 3, text that
/// `_codecs.encode` turns into bytes (`Lib/pickle.py`, `save_bytes`).
fn constant(trace: &Trace<'_>, id: NodeId) -> Option<Constant> {
    match trace.node(id) {
        Node::Bytes(b) | Node::ByteArray(b) | Node::ByteStr(b) => Some(match b {
            Blob::At { start, len } => Constant::At(*start, *len),
            Blob::Own(bytes) => Constant::Bytes(bytes.to_vec()),
        }),
        Node::Call(call) => {
            let g = trace.global(call.callee)?;
            let [text, coding] = trace.items(call.args)? else {
                return None;
            };
            let latin1 = matches!(trace.text(*coding)?.as_ref(), "latin1" | "latin-1");
            if (g.module.as_str(), g.name.as_str()) != ("_codecs", "encode") || !latin1 {
                return None;
            }
            let text = trace.text(*text)?;
            let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok());
            Some(Constant::Bytes(bytes.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
