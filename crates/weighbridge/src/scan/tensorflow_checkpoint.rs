//! TensorFlow's checkpoints: every block of a table, every entry in it, and which bytes of the
//! data files no tensor accounts for.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::source::{Backend, ByteSource, open_file};
use weighbridge_core::wire::sstable::Table;
use weighbridge_core::{ErrorKind, Result};

use super::examine::{Examiner, Item};
use super::weights::rest;
use crate::format::tensorflow::checkpoint::{self, places};

/// Takes a file of a checkpoint; says whether this is one.
///
/// # Errors
/// `Io`; what is wrong with the file is recorded.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if checkpoint::is_table(item.source.as_ref())? {
        cx.named(item, "tf-checkpoint");
        let done = table(cx, item);
        settle(cx, item, done)?;
        return Ok(true);
    }
    if !checkpoint::is_data(&item.file_name()) {
        return Ok(false);
    }
    cx.named(item, "tf-checkpoint");
    let path = cx.weights.map(|(path, _)| path).filter(|_| item.is_file());
    let index = path.and_then(checkpoint::beside).filter(|p| p.is_file());
    match index {
        Some(index) => {
            cx.subject.of_folder = true;
            let done = data(cx, item, &index);
            settle(cx, item, done)?;
        }
        None => {
            let reason = "the index that says what lies in this file is not beside it";
            cx.gap(&item.place, None, reason);
        }
    }
    Ok(true)
}

/// Records what is wrong.
fn settle(cx: &mut Examiner<'_, '_>, item: &Item, done: Result<()>) -> Result<()> {
    match done {
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => cx.failed(&item.place, e),
        Ok(()) => {}
    }
    Ok(())
}

/// An index, or a checkpoint of version 1, which holds its tensors itself.
fn table(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    let table = Table::open(Arc::clone(&item.source), cx.limits)?;
    for r in table.rest()? {
        let reason = format!("{} bytes belong to no block of the table", r.end - r.start);
        cx.gap(&item.place, Some(r.start), reason);
    }
    match checkpoint::account(&table, &cx.options()) {
        // LevelDB's own files are such tables too.
        Err(e) if e.rule() == "tensorflow.no-header" => {
            cx.named(item, "unknown");
            let reason = "a sorted table that is no checkpoint of TensorFlow";
            cx.gap(&item.place, None, reason);
            Ok(())
        }
        done => done,
    }
}

/// A data file, by the index beside it.
fn data(cx: &mut Examiner<'_, '_>, item: &Item, index: &Path) -> Result<()> {
    let source: Arc<dyn ByteSource> = open_file(index, Backend::Pread)?;
    let table = Table::open(source, cx.limits)?;
    let all = places(&table)?;
    let name = item.source.name();
    let own = all.iter().find(|(n, _)| Path::new(n) == Path::new(name));
    let tensors: &[Range<u64>] = own.map(|(_, r)| r.as_slice()).unwrap_or_default();
    let rest = rest(tensors, item.source.as_ref())?;
    if let Some(first) = rest.first() {
        let bytes: u64 = rest.iter().map(|r| r.end - r.start).sum();
        let reason = format!("{bytes} bytes belong to no tensor of the checkpoint");
        cx.gap(&item.place, Some(first.start), reason);
    }
    Ok(())
}
