//! GGUF files edited: whatever a file holds, an edit gives one that conforms as well as the old
//! one did and has the same tensors, or it refuses and leaves the file alone.

use std::path::Path;
use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::edit::{Change, EditOptions, Report, edit};
use weighbridge::format::{FormatReader, gguf::Gguf};
use weighbridge_core::model::Model;
use weighbridge_core::source::{ByteSource, SliceSource};

use crate::exercise;

/// Largest tensor whose bytes are compared.
const COMPARED: u64 = 1 << 16;

thread_local! {
    /// Where this thread's edited file lies; made once.
    static EDITED: Option<tempfile::TempDir> = tempfile::tempdir().ok();
}

/// A GGUF file: read, checked, and edited in the ways that there are.
pub fn gguf_edit(data: &[u8]) {
    if !data.starts_with(b"GGUF") {
        return;
    }
    let Some(model) = open(data) else { return };
    exercise::model(&model);
    EDITED.with(|dir| match dir {
        Some(dir) => all(&dir.path().join("m.gguf"), data, &model),
        None => panic!("there is no temporary directory"),
    });
}

fn source(data: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(SliceSource::new(data.to_vec(), "m.gguf"))
}

fn open(data: &[u8]) -> Option<Model> {
    Gguf.open(source(data), &OpenOptions::default()).ok()
}

/// The rules that the file breaks, without those of text that may be left as it is.
fn rules(data: &[u8]) -> Vec<&'static str> {
    let broken = match Gguf.verify(source(data), &OpenOptions::default()) {
        Ok(all) => all,
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    };
    let mut rules: Vec<_> = broken.iter().map(|v| v.rule).collect();
    rules.dedup();
    rules
}

fn all(path: &Path, data: &[u8], model: &Model) {
    let set = |s: &str| match Change::parse_set(s) {
        Ok(change) => change,
        Err(e) => panic!("{s}: {e}"),
    };
    let mut changes = vec![
        vec![set("general.name=a new name")],
        vec![set("x.list=[1, 2, 3]"), set("general.alignment=64")],
    ];
    let keys = model.metadata.iter().map(|(k, _)| k);
    changes.extend(keys.take(3).map(|k| vec![Change::Unset(k.clone())]));
    if let Some((key, _)) = model.metadata.last() {
        changes.push(vec![Change::RenameKey(key.clone(), "x.renamed".into())]);
    }
    if let (Some(first), Some(last)) = (model.tensors.first(), model.tensors.last()) {
        changes.push(vec![Change::Rename(first.name.clone(), "renamed".into())]);
        changes.push(vec![Change::Remove(last.name.clone())]);
    }
    for change in &changes {
        run(path, data, change, None);
    }
    // With room: the first change goes into it.
    if run(path, data, &[], Some(700)).is_some() {
        let roomy = std::fs::read(path).unwrap_or_default();
        for change in &changes {
            run(path, &roomy, change, None);
        }
        run(path, &roomy, &[], Some(0));
    }
}

/// Edits `data` at `path` and judges what came of it.
fn run(path: &Path, data: &[u8], changes: &[Change], reserve: Option<u64>) -> Option<Report> {
    if let Err(e) = std::fs::write(path, data) {
        panic!("cannot write the file to edit: {e}");
    }
    let options = EditOptions {
        reserve,
        sync: false,
        ..EditOptions::default()
    };
    let done = edit(path, changes, &options, &mut |_, _| {});
    let after = std::fs::read(path).unwrap_or_default();
    let report = match done {
        Ok(report) => report,
        Err(e) => {
            assert!(after == data, "{changes:?}: refused ({e}), and changed");
            return None;
        }
    };
    assert_eq!(report.bytes, after.len() as u64, "{changes:?}");
    let (old, new) = (rules(data), rules(&after));
    assert!(
        new.iter().all(|r| old.contains(r)),
        "{changes:?}, {}: {new:?} is broken now",
        report.method.as_str()
    );
    match (open(data), open(&after)) {
        (Some(old), Some(new)) => same_tensors(&old, &new, changes),
        (_, None) => panic!("{changes:?}: the edited file does not open"),
        (None, _) => {}
    }
    Some(report)
}

/// Tensors have the bytes they had, whatever they are called now.
fn same_tensors(old: &Model, new: &Model, changes: &[Change]) {
    let removed = |n: &str| matches!(changes, [Change::Remove(r)] if r == n);
    let left: Vec<_> = old.tensors.iter().filter(|t| !removed(&t.name)).collect();
    assert_eq!(left.len(), new.tensors.len(), "{changes:?}");
    for (a, b) in left.into_iter().zip(&new.tensors) {
        assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{changes:?}");
        if a.byte_len() > COMPARED {
            continue;
        }
        match (a.bytes(), b.bytes()) {
            (Ok(x), Ok(y)) => assert!(x == y, "{changes:?}: {} has other bytes", b.name),
            (Err(_), _) => {}
            (Ok(_), Err(e)) => panic!("{changes:?}: {} cannot be read: {e}", b.name),
        }
    }
}
