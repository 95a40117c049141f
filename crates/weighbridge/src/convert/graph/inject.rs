//! Weights into a given graph: every other byte of it stays as it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Part, Tensor, Value, Warning};
use weighbridge_core::{Error, Result};

use super::base::{self, Slot};
use super::pair::{Pairs, pair};
use super::share::{self, Sharing};
use super::{Work, keep_shards, some_names};
use crate::convert::{ConvertOptions, Job, Report, provenance};
use crate::format::Note;
use crate::format::onnx::digest;
use crate::format::onnx::place::Alignment;
use crate::format::onnx::splice::Edits;
use crate::format::onnx::walk::Home;
use crate::format::onnx::write::{External, MOST_BYTES, Options, Original, Weights};

/// Plans to put the tensors of `model` into the graph at `graph`, for an output at `out`.
pub(super) fn prepare(
    model: Model,
    graph: &Path,
    out: &Path,
    options: &ConvertOptions,
) -> Result<Work> {
    let base = base::open(graph, options.constants, &options.limits)?;
    let input = model.parts.clone();
    let mut job = Job::prepare(model, options, FormatId::Onnx)?;
    let slots = base::slots(&base, options.constants)?;
    let pairs = pair(&slots, &job.model, &job.bulk, &options.map)?;
    if pairs.pairs.is_empty() {
        pairs.complete(&slots, &job.model)?;
        let e = Error::unsupported("convert.no-tensors", "the graph has no weights");
        return Err(e.in_file(graph.display().to_string()).help(CONSTANTS));
    }
    if !options.partial {
        pairs.complete(&slots, &job.model)?;
    }
    tell(&base, &slots, &pairs, &mut job, options.weights_only)?;
    let (mut edits, mut new) = (Edits::new(), HashMap::new());
    for &(s, w) in &pairs.pairs {
        if let (Some(slot), Some(t)) = (slots.get(s), job.model.tensors.get(w)) {
            let t = Arc::new(t.clone());
            slot.put(&t, &mut edits)
                .map_err(|e| e.in_file(base.source.name()))?;
            new.insert(s, t);
        }
    }
    let mut files = Vec::new();
    let how = match &options.shared_weights {
        Some(file) => {
            let file = share::Place::new(file, out)?;
            let lies = lies(&base, &slots, &new, &file, &input);
            files.extend(lies.finish(&mut edits)?.0);
            share::LEFT
        }
        None => inside(MOST_BYTES),
    };
    let keep = |written: &[PathBuf]| {
        keep_shards(&job.model, written)?;
        keep_shards(&base.model, written)
    };
    keep(&[out.to_path_buf()])?;
    let plan = share::plan(&base, edits, out, &how)?;
    let beside = files.iter().map(|f| f.path.clone());
    keep(&beside.chain(plan.paths()).collect::<Vec<_>>())?;
    let mut warnings = std::mem::take(&mut job.model.warnings);
    warnings.extend(base.model.warnings.iter().cloned());
    Ok(Work {
        files,
        graph: Some(plan),
        report: Report {
            output: Vec::new(),
            tensors: pairs.pairs.len() as u64,
            bytes: 0,
            changed: job.changed,
            lost: job.lost,
            warnings,
            seconds: 0.0,
        },
    })
}

/// What helps where a graph seems to have no weights.
const CONSTANTS: &str = "some exporters keep weights in Constant nodes: --constants";

/// Lists what is left on either side, and what may be a mistake.
fn tell(
    base: &Original,
    slots: &[Slot<'_>],
    pairs: &Pairs,
    job: &mut Job,
    weights_only: bool,
) -> Result<()> {
    for s in pairs.uncovered.iter().filter_map(|&i| slots.get(i)) {
        let why = "the graph keeps its own: IN has no such tensor";
        job.changed.push(Note::new(s.name(), why));
    }
    for t in pairs
        .unused
        .iter()
        .filter_map(|&i| job.model.tensors.get(i))
    {
        let why = "the graph has no tensor of this name";
        job.lost.push(Note::new(t.name.as_str(), why));
    }
    metadata(base, job, weights_only);
    let matrices = pairs.kept.iter().filter_map(|&i| slots.get(i));
    let matrices = matrices.filter(|s| s.replaceable() && s.tensor.shape.len() > 1);
    let kept: Vec<&str> = matrices.map(Slot::name).collect();
    if !kept.is_empty() {
        let message = format!(
            "the graph keeps its own integers, for which IN has nothing: {}",
            some_names(kept.iter().copied())
        );
        let w = Warning::new("convert.graph-integers", message);
        job.model.warnings.push(w);
    }
    let from = job
        .model
        .metadata
        .iter()
        .find(|(k, _)| k == provenance::GRAPH);
    if let Some((_, Value::Str(from))) = from
        && *from != digest::graph_sha256(base.source.as_ref(), &base.raw)?
    {
        let message = "the weights were taken from another graph than this one";
        let w = Warning::new("convert.other-graph", message);
        job.model.warnings.push(w);
    }
    Ok(())
}

/// Lists the metadata of the weights that the graph, which keeps its own, does not have.
fn metadata(base: &Original, job: &mut Job, weights_only: bool) {
    let says = |m: &Model, k: &str| -> Option<String> {
        let (_, v) = m.metadata.iter().find(|(key, _)| key == k)?;
        v.as_str().map(str::to_owned)
    };
    for (key, value) in &job.model.metadata {
        let own = ["onnx.", "weighbridge."];
        let told = key == "format" || own.iter().any(|p| key.starts_with(p));
        let there = || {
            value
                .as_str()
                .is_some_and(|v| says(&base.model, key).as_deref() == Some(v))
        };
        if !(weights_only || told || there()) {
            let why = "the graph keeps its own metadata";
            job.lost.push(Note::new(format!("metadata {key}"), why));
        }
    }
}

/// Weights go into the graph's file, or, where nobody could read that, large ones into a file
/// beside it: those that fill a page at pages, so that they can be mapped.
fn inside(most_bytes: u64) -> Options {
    Options {
        weights: Weights::Inline,
        otherwise: Some(External {
            gather: true,
            alignment: Alignment::PAGES,
            ..External::default()
        }),
        most_bytes,
    }
}

/// What lies in, or under, a safetensors file.
fn lies<'b>(
    base: &'b Original,
    slots: &'b [Slot<'b>],
    new: &HashMap<usize, Arc<Tensor>>,
    file: &'b share::Place,
    input: &[Part],
) -> Sharing<'b> {
    let mut sharing = Sharing::new(file, input);
    sharing.describe(base);
    for (i, slot) in slots.iter().enumerate() {
        let Home::Initializer(raw) = slot.home else {
            continue;
        };
        if !slot.shared() {
            continue;
        }
        let new = new.get(&i);
        // What the weights do not cover lies in the new file too, or stays in the graph.
        if new.is_none() && sharing.points() {
            continue;
        }
        let mut t = new.map_or_else(|| slot.tensor.clone(), |t| t.as_ref().clone());
        if !sharing.points() {
            slot.name().clone_into(&mut t.name);
        }
        sharing.add(raw, t);
    }
    sharing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::onnx::encode::Fields;

    fn model(parts: &[(&str, usize, u8)]) -> Vec<u8> {
        let mut graph = Fields::new().bytes(2, "g");
        for (name, n, byte) in parts {
            let t = Fields::new().each_int(1, &[*n as i64]).int(2, 3);
            graph = graph.bytes(5, t.bytes(8, name).bytes(9, vec![*byte; *n]));
        }
        Fields::new().int(1, 8).bytes(7, graph).0
    }

    #[test]
    fn what_nobody_could_read_in_one_file_goes_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let parts = [
            ("a", 5000, 1),
            ("b", 10, 2),
            ("c", 70_000, 3),
            ("d", 1030, 4),
        ];
        let (path, out) = (dir.path().join("base.onnx"), dir.path().join("out.onnx"));
        std::fs::write(&path, model(&parts)).unwrap();
        let base = base::open(&path, false, &weighbridge_core::Limits::default()).unwrap();
        let other = dir.path().join("other.onnx");
        std::fs::write(&other, model(&[("c", 70_000, 9), ("b", 10, 8)])).unwrap();
        let other = crate::open(&other).unwrap();
        let slots = base::slots(&base, false).unwrap();
        let put = |most| {
            let mut edits = Edits::new();
            for (slot, t) in [(2, 0), (1, 1)] {
                let t = Arc::new(other.tensors[t].clone());
                slots[slot].put(&t, &mut edits).unwrap();
            }
            let plan = share::plan(&base, edits, &out, &inside(most)).unwrap();
            plan.write(false, &mut |_, _| {}).unwrap();
            crate::open(&out).unwrap()
        };
        let wanted = [(5000, 1), (10, 8), (70_000, 9), (1030, 4)];
        for (most, files) in [(1 << 20, 1), (5000, 2)] {
            let m = put(most);
            assert_eq!(m.parts.len(), files);
            for (t, (n, byte)) in m.tensors.iter().zip(wanted) {
                assert!(t.read_vec().unwrap() == vec![byte; n], "{}", t.name);
            }
        }
        let data = std::fs::metadata(dir.path().join("out.onnx.data")).unwrap();
        // Whole pages for the long ones, lines for the short one.
        assert_eq!(data.len(), (8192u64 + 70_000).next_multiple_of(64) + 1030);
    }
}
