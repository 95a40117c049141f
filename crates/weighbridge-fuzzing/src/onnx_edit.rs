//! ONNX files edited: whatever a file holds, an edit gives one that opens and has the same tensors,
//! or it refuses and leaves the file alone; and an edit undone is the file that was.

use std::path::Path;

use weighbridge::edit::{Change, EditOptions, Report, edit};
use weighbridge::format::onnx::write::{External, Weights};
use weighbridge_core::model::{FormatId, Model};

use crate::exercise;
use crate::onnx_files::{open, put, same, with_file};

/// An ONNX file: read, and edited in the ways that there are.
pub fn onnx_edit(data: &[u8]) {
    with_file(data, &|dir| all(dir, data));
}

fn all(dir: &Path, data: &[u8]) {
    let path = dir.join("m.onnx");
    let Ok(model) = open(&path) else { return };
    exercise::model(&model);
    let set = |s: &str| match Change::parse_set(s) {
        Ok(change) => change,
        Err(e) => panic!("{s}: {e}"),
    };
    let keep = Weights::Keep;
    let (one, other) = ("weighbridge.fuzz", "weighbridge.fuzzed");
    if run(&path, data, &[set(&format!("{one}=1"))], &keep).is_some() {
        let renamed = Change::RenameKey(one.into(), other.into());
        let now = std::fs::read(&path).unwrap_or_default();
        run(&path, &now, &[renamed], &keep);
        let now = std::fs::read(&path).unwrap_or_default();
        run(&path, &now, &[Change::Unset(other.into())], &keep);
    }
    let mut changes = vec![
        vec![
            set("onnx.graph.name=a new name"),
            set("onnx.model_version=7"),
        ],
        vec![Change::StripDocs],
    ];
    if let Some(graph) = &model.graph {
        let values = graph.inputs.iter().chain(&graph.outputs);
        let weights = graph.initializers.iter().map(|t| &t.name);
        for name in values.map(|v| &v.name).chain(weights).take(4) {
            changes.push(vec![Change::Rename(name.clone(), "renamed".into())]);
            changes.push(vec![Change::Remove(name.clone())]);
        }
        let named = graph.nodes.first().map(|n| n.name.clone());
        changes.extend(named.map(|n| vec![Change::RenameNode(n, "renamed".into())]));
    }
    for change in &changes {
        run(&path, data, change, &keep);
    }
    let out = Weights::External(External {
        threshold: 0,
        ..External::default()
    });
    if run(&path, data, &[], &out).is_some() {
        let beside = std::fs::read(&path).unwrap_or_default();
        run(&path, &beside, &[], &Weights::Inline);
    }
}

/// Edits `data` at `path` and judges what came of it.
fn run(path: &Path, data: &[u8], changes: &[Change], weights: &Weights) -> Option<Report> {
    put(path, data);
    let mut options = EditOptions {
        weights: weights.clone(),
        sync: false,
        ..EditOptions::default()
    };
    options.open.format = Some(FormatId::Onnx);
    let before = open(path);
    let done = edit(path, changes, &options, &mut |_, _| {});
    let report = match done {
        Ok(report) => report,
        Err(e) => {
            let after = std::fs::read(path).unwrap_or_default();
            assert!(after == data, "{changes:?}: refused ({e}), and changed");
            return None;
        }
    };
    match (before, open(path)) {
        (Ok(old), Ok(new)) => same_tensors(&old, &new, changes),
        (_, Err(e)) => panic!("{changes:?} {weights:?}: the edited file does not open: {e}"),
        (Err(_), _) => {}
    }
    Some(report)
}

/// Tensors have the bytes they had, whatever they are called now.
fn same_tensors(old: &Model, new: &Model, changes: &[Change]) {
    let removed = changes.iter().any(|c| matches!(c, Change::Remove(_)));
    if removed {
        return;
    }
    assert_eq!(old.tensors.len(), new.tensors.len(), "{changes:?}");
    for (a, b) in old.tensors.iter().zip(&new.tensors) {
        same(a, b, &format!("{changes:?}"));
    }
}
