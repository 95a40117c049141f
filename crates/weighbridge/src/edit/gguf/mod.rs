//! Editing a GGUF file, so that a crash at any moment leaves the old file or the new one.
//!
//! A GGUF header has no indirection: a value that grows moves everything behind it. Three ways, the
//! first that fits is taken:
//!
//! 1. **One sector.** The new header is as long as the old and they differ within 512 aligned
//!    bytes, which a kernel and a disk write as one: they are written where they are. A number, or
//!    a text of the same length.
//! 2. **The reserve.** `--reserve` puts a key [`RESERVE`] first, whose text is room. Changed
//!    key-values are written into the end of that room, where nobody looks, and synced; then the
//!    room's length and the number of keys, both in the file's first sector, are written as one,
//!    and the new key-values stand where the room ended. What they replace becomes the text of a
//!    second key ([`USED`]) whose beginning is written with them, and is blanked afterwards. Every
//!    state in between reads as the old file or as the new. The time does not depend on the size of
//!    the file.
//! 3. **A new file** beside the old one, synced, then renamed over it. The data is copied inside
//!    the kernel, and shared rather than copied where the file system can share blocks and the new
//!    header moves the data by whole blocks: a reserve is given the length that does.
//!
//! A file that is written anew is the one that a fresh writer makes of its content. Only with a
//! reserve are key-values put in another order: long arrays last, so that the ones people edit
//! stand next to the room. GGUF reads key-values by name.
//!
//! Every version and byte order stays what it is.

mod change;
mod draft;
mod place;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::Warning;
use weighbridge_core::source::{self, Backend, ByteSource};
use weighbridge_core::{Error, Result};

pub use draft::{RESERVE, USED};

use super::in_place::{sync, target, write};
use super::{Change, EditOptions, Method, Report};
use crate::format::Note;
use crate::format::gguf::raw::Header;
use crate::format::gguf::{verify, vocabulary};
use crate::output::{self, Output, Run, Sink};
use draft::Draft;
use place::Way;

/// Broken rules that stand in no edit's way.
const HARMLESS: [&str; 4] = [
    "gguf.utf8",
    "gguf.bool",
    "gguf.padding",
    "gguf.trailing-bytes",
];

/// Most bytes of room.
const MOST_RESERVE: u64 = 64 << 20;

/// Edits the file at `path`; see [`super::edit`].
pub(super) fn edit(
    path: &Path,
    changes: &[Change],
    options: &EditOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    if options.reserve.is_some_and(|n| n > MOST_RESERVE) {
        let message = format!("a reserve of more than {MOST_RESERVE} bytes");
        return Err(Error::parameter("edit.reserve", message));
    }
    let (elsewhere, target) = target(path, options)?;
    // Never mapped: what a mapping shows must not change under the header that is read from it.
    let source = source::open_file(path, Backend::Pread)?;
    let (header, warnings) = header(source.as_ref(), options)?;
    let mut draft = Draft::of(&header)?;
    let mut changed = change::apply(&mut draft, changes)?;
    let way = if elsewhere.is_some() {
        Way::Rewrite(draft.fresh(options.reserve)?)
    } else {
        place::choose(&draft, source.as_ref(), options.reserve)?
    };
    if matches!(way, Way::Rewrite(_)) && warnings.iter().any(|w| w.rule == "gguf.trailing-bytes") {
        let why = "bytes behind the last tensor are left out";
        changed.push(Note::new("data", why));
    }
    let mut report = report(&draft, &way, elsewhere.unwrap_or(path), source.len());
    (report.changed, report.warnings) = (changed, warnings);
    if options.dry_run {
        return Ok(report);
    }
    match (&way, &target) {
        (Way::Nothing, _) | (Way::Sector { .. } | Way::Reserve(_), None) => {}
        (Way::Sector { at, bytes }, Some(file)) => {
            write(file, *at, bytes)?;
            sync(file, options.sync)?;
        }
        (Way::Reserve(steps), Some(file)) => steps.take(file, options.sync)?,
        (Way::Rewrite(fresh), _) => {
            let old = &header;
            let out = elsewhere.unwrap_or(path);
            output::counted(fresh.total, progress, |tell| {
                rewrite(&draft, fresh, old, &source, out, options.sync, tell)
            })?;
        }
    }
    Ok(report)
}

/// The header, of a file that may be edited, and what is odd about the file.
fn header<'a>(
    source: &'a dyn ByteSource,
    options: &EditOptions,
) -> Result<(Header<'a>, Vec<Warning>)> {
    let (header, errors) = verify::header(source, &options.open.limits)?;
    let mut warnings = Vec::new();
    for e in errors {
        match e.rule() {
            // What an edit can put right, or leaves as it is.
            rule if vocabulary::is_own(rule) || HARMLESS.contains(&rule) => {
                let offset = e.byte_span().map(|s| s.offset);
                warnings.push(Warning {
                    offset,
                    ..Warning::new(e.rule(), e.message())
                });
            }
            // Holes and orders that no reader takes, and all that is worse.
            _ => {
                return Err(
                    e.help("only a file that `weighbridge check --lenient` passes is edited")
                );
            }
        }
    }
    // What stays as it is, is copied from it.
    Ok((header.whole()?, warnings))
}

fn report(draft: &Draft<'_>, way: &Way, output: &Path, len: u64) -> Report {
    let (method, bytes, written) = match way {
        Way::Nothing => (Method::Unchanged, len, 0),
        Way::Sector { bytes, .. } => (Method::InPlace, len, bytes.len() as u64),
        Way::Reserve(steps) => (Method::InPlace, len, steps.bytes()),
        Way::Rewrite(fresh) => (Method::Rewritten, fresh.total, fresh.total),
    };
    let (keys, reserve) = match way {
        Way::Rewrite(fresh) => (fresh.keys, fresh.reserve),
        Way::Reserve(steps) => (steps.keys, steps.left),
        _ => (draft.items.len() as u64, draft.room()),
    };
    Report {
        output: output.to_owned(),
        beside: Vec::new(),
        method,
        tensors: draft.tensors.len() as u64,
        keys,
        bytes,
        written,
        reserve,
        changed: Vec::new(),
        warnings: Vec::new(),
        seconds: 0.0,
    }
}

/// Writes the file anew: the header, then each tensor from where it lies.
fn rewrite(
    draft: &Draft<'_>,
    fresh: &draft::Fresh,
    old: &Header<'_>,
    source: &Arc<dyn ByteSource>,
    target: &Path,
    sync: bool,
    tell: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut out = Output::create(target, sync)?;
    let old_start = old.data_start().unwrap_or(old.end);
    // Blocks that are shared take no room: they must not be asked for beforehand.
    if !place::same_block(old_start, fresh.header.len() as u64) {
        out.reserve(fresh.total)?;
    }
    out.put(&fresh.header)?;
    let mut run = Run::default();
    for t in &draft.tensors {
        let at = old_start.saturating_add(t.offset);
        if !run.join(source, at, t.bytes) {
            run.flush(&mut out, tell)?;
            run = Run::new(source, at, t.bytes);
        }
        let pad = draft.padding(t.bytes);
        if pad > 0 {
            run.flush(&mut out, tell)?;
            // Less than an alignment, which is at most a MiB.
            out.put(&vec![0; usize::try_from(pad).unwrap_or(0)])?;
        }
    }
    run.flush(&mut out, tell)?;
    if out.position() != fresh.total {
        let message = "the file changed while it was copied";
        return Err(Error::malformed("source.shrunk", message));
    }
    out.finish().map(|_| ())
}
