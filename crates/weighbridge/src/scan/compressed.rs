//! Streams compressed as a whole: what they hold is looked into, whatever it is.

use std::path::Path;

use weighbridge_core::wire::codec::{self, Caps, Codec};
use weighbridge_core::{Error, ErrorKind, Result};

use super::examine::{Examiner, Item};
use super::pickles;

/// Greatest ratio of bytes out to bytes in: deflate itself cannot pass 1032.
const RATIO: u64 = 2000;

/// Takes the compressed stream in `item` apart; says whether it is one.
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    let head = item.head.get(..codec::HEAD.min(item.head.len()));
    let Some(codec) = head.and_then(Codec::detect) else {
        return Ok(false);
    };
    if codec.is_weak()
        && !codec::confirm(codec, item.source.as_ref())
        && !gives_pickle(cx, codec, item)
    {
        return Ok(false);
    }
    cx.named(item, codec.name());
    let mut data = Vec::new();
    let caps = Caps::new(cx.inflatable(), RATIO);
    let done = codec::decode(codec, item.source.as_ref(), &caps, &mut |part| {
        super::gate::spend(part.len() as u64);
        data.extend_from_slice(part);
        Ok(())
    });
    cx.inflate(data.len() as u64)?;
    let (end, failed) = match done {
        Ok(d) => (Some(d.consumed), None),
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => (None, Some(e)),
    };
    // What came out before a stream breaks has reached its loader.
    if !data.is_empty() {
        let place = item.place.inside(codec.name(), None);
        let inner = Item::of_bytes(data, place, inner_name(&item.name))?;
        cx.inner(&inner)?;
    }
    if let Some(e) = failed {
        cx.failed(&item.place, explained(e));
    }
    if let Some(end) = end.filter(|&e| e > 0 && e < item.source.len()) {
        let mut rest = item.rest(end)?;
        rest.place.steps.push("after the stream".into());
        cx.inner(&rest)?;
        // Padding to whole blocks is what tapes leave; gzip forgives it too.
        if rest.head.iter().any(|&b| b != 0) {
            let message = "bytes follow the stream that belong to no part of it";
            let e = Error::malformed("codec.trailing-data", message).at(end);
            cx.failed(&item.place, e);
        }
    }
    Ok(true)
}

/// Whether a stream that breaks gives the beginning of a pickle before it does: that runs.
fn gives_pickle(cx: &Examiner<'_, '_>, codec: Codec, item: &Item) -> bool {
    let mut data = Vec::new();
    let caps = Caps::new(super::HEAD, u64::MAX);
    let _ = codec::decode(codec, item.source.as_ref(), &caps, &mut |part| {
        data.extend_from_slice(part);
        Ok(())
    });
    !data.is_empty() && pickles::is_pickle(&data, Path::new(""), cx.limits)
}

fn explained(e: Error) -> Error {
    if e.kind() == ErrorKind::Limit {
        e.help(
            "a scan holds what it decompresses in memory; decompress the file and scan the result",
        )
    } else {
        e
    }
}

/// The name of what is inside: `model.joblib.gz` holds `model.joblib`.
fn inner_name(name: &str) -> &str {
    let endings = [".gz", ".tgz", ".bz2", ".xz", ".lzma", ".lz4", ".zst", ".z"];
    let lower = name.to_ascii_lowercase();
    endings
        .iter()
        .find_map(|e| lower.strip_suffix(e).and_then(|s| name.get(..s.len())))
        .unwrap_or(name)
}
