//! Editing an ONNX model: its fields are spliced, all else keeps its bytes and its place.
//!
//! The model file is one message, so that a change of length moves what lies behind it. What
//! changes no length and lies within a sector is written where it is; all else goes into a new
//! file beside the old one, which is synced and renamed over it. Weights that lie in other files
//! stay there untouched, unless they are asked to move.

mod keys;
mod names;
mod rename;

use std::path::Path;

use weighbridge_core::model::Warning;
use weighbridge_core::source::{self, Backend};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::in_place::{SECTOR, sync, target, write};
use super::{Change, EditOptions, Method, Report};
use crate::format::Note;
use crate::format::onnx::splice::{Edits, splice};
use crate::format::onnx::walk::{Item, walk};
use crate::format::onnx::write::{Options, Original, Weights, plan};
use names::Names;

/// Edits the file at `path`; see [`super::edit`].
pub(super) fn edit(
    path: &Path,
    changes: &[Change],
    options: &EditOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    if options.reserve.is_some() {
        let message = "ONNX files have no room for edits to come";
        return Err(Error::parameter("edit.reserve", message).help("leave --reserve out"));
    }
    let (elsewhere, target) = target(path, options)?;
    // Never mapped: what a mapping shows must not change under what is read from it.
    let mut open = options.open.clone();
    open.backend = Backend::Pread;
    let source = source::open_file(path, Backend::Pread)?;
    let mut original = Original::open(source, &open)?;
    let (mut edits, mut notes) = (Edits::new(), Vec::new());
    let keys = apply(&original, changes, &mut edits, &mut notes)?;
    let mut report = Report {
        output: elsewhere.unwrap_or(path).to_owned(),
        beside: Vec::new(),
        method: Method::Unchanged,
        tensors: original.model.tensors.len() as u64,
        keys,
        bytes: original.source.len(),
        written: 0,
        reserve: 0,
        changed: notes,
        warnings: std::mem::take(&mut original.model.warnings),
        seconds: 0.0,
    };
    if elsewhere.is_none() && options.weights == Weights::Keep {
        let patch = splice(original.source.as_ref(), &edits)?
            .patch(original.source.as_ref(), SECTOR as u64)?;
        match patch {
            Some((_, bytes)) if bytes.is_empty() => return Ok(report),
            Some((at, bytes)) if one_sector(at, bytes.len()) => {
                report.method = Method::InPlace;
                report.written = bytes.len() as u64;
                if let Some(file) = &target {
                    write(file, at, &bytes)?;
                    sync(file, options.sync)?;
                }
                return Ok(report);
            }
            _ => {}
        }
    }
    rewrite(&original, edits, options, report, progress)
}

fn one_sector(at: u64, len: usize) -> bool {
    let (sector, last) = (SECTOR as u64, (len as u64).saturating_sub(1));
    at / sector == at.saturating_add(last) / sector
}

fn rewrite(
    original: &Original,
    edits: Edits,
    options: &EditOptions,
    mut report: Report,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let how = Options::new(options.weights.clone(), options.over_2gib);
    let mut plan = plan(original, edits, &report.output, &how)?;
    report.changed.append(&mut plan.notes);
    for path in &plan.unused {
        let message = format!("{} holds nothing of the model any more", path.display());
        let w = Warning::new("edit.unused-file", message);
        report.warnings.push(w);
    }
    if options.output.is_none() && plan.is_model_only() {
        let patch = plan.model().patch(original.source.as_ref(), 1)?;
        if patch.is_some_and(|(_, bytes)| bytes.is_empty()) {
            return Ok(report);
        }
    }
    report.method = Method::Rewritten;
    report.beside = plan.paths().split_off(1);
    report.bytes = plan.bytes();
    report.written = plan.bytes();
    if !options.dry_run {
        plan.write(options.sync, progress)?;
    }
    Ok(report)
}

/// Puts all changes into `edits`; gives how many keys there are then.
fn apply(
    original: &Original,
    changes: &[Change],
    edits: &mut Edits,
    notes: &mut Vec<Note>,
) -> Result<u64> {
    let names = Names {
        model: &original.raw,
        source: original.source.as_ref(),
    };
    rename::apply(&names, changes, edits, notes)?;
    let strip = changes.contains(&Change::StripDocs);
    if strip {
        strip_docs(original, edits, notes)?;
    }
    keys::apply(original, changes, strip, edits, notes)
}

/// Takes the documentation out of every message that is left.
fn strip_docs(original: &Original, edits: &mut Edits, notes: &mut Vec<Note>) -> Result<()> {
    let whole = original.whole();
    let mut found: Vec<(Span, u32, Span)> = Vec::new();
    if let Some(doc) = original.raw.doc_string {
        found.push((whole, 6, doc));
    }
    walk(&original.raw, whole, edits, &mut |item| {
        let (message, number, doc) = match item {
            Item::Graph(g) => {
                // Of a message in several parts each may have one.
                let all = g.spans.iter().filter_map(|s| Some((*s, 10, g.doc_string?)));
                found.extend(all);
                return Ok(());
            }
            Item::Node(n) => (n.span, 6, n.doc_string),
            Item::Attribute(a) => (a.span, 13, a.doc_string),
            Item::Tensor(t, _) => (t.span, 12, t.doc_string),
            Item::Value(v) => (v.span, 3, v.doc_string),
            Item::Function(f) => (f.span, 8, f.doc_string),
            Item::Home(_) => return Ok(()),
        };
        found.extend(doc.map(|d| (message, number, d)));
        Ok(())
    })?;
    let (count, mut bytes) = (found.len(), 0u64);
    for (message, number, doc) in found {
        bytes = bytes.saturating_add(doc.len());
        edits.set(message, number, Vec::new());
    }
    if count > 0 {
        let why = format!("{count} taken out, {bytes} bytes");
        notes.push(Note::new("documentation", why));
    }
    Ok(())
}
