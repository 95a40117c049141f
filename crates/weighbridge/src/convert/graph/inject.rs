//! Weights into a given graph: every other byte of it stays as it is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Model, Part, Tensor, Value, Warning};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::base::{Base, Fate, MOST_MESSAGE, Slot};
use super::pair::{Pairs, pair};
use super::share::{self, Sharing};
use super::{Content, Target, Work, keep_shards, location, some_names};
use crate::convert::{ConvertOptions, Job, Report, provenance};
use crate::format::Note;
use crate::format::onnx::digest;
use crate::format::onnx::homes::Home;
use crate::format::onnx::splice::{Edits, Spliced};

/// Tensors in a file of external data begin at multiples of this when they are as long, so that
/// they can be mapped (`docs/ExternalData.md` of the ONNX repository), else of the other.
const PAGE: u64 = 4096;
const LINE: u64 = 64;

/// Plans to put the tensors of `model` into the graph at `graph`, for an output at `out`.
pub(super) fn prepare(
    model: Model,
    graph: &Path,
    out: &Path,
    options: &ConvertOptions,
) -> Result<Work> {
    let base = Base::open(graph, options.constants, &options.limits)?;
    let input = model.parts.clone();
    let mut job = Job::prepare(model, options, FormatId::Onnx)?;
    let slots = base.slots(options.constants)?;
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
    let mut put = Put {
        base: &base,
        slots: &slots,
        fates: HashMap::new(),
        edits: Edits::new(),
        tensors: HashMap::new(),
        most: MOST_MESSAGE,
    };
    for &(s, w) in &pairs.pairs {
        if let (Some(slot), Some(t)) = (slots.get(s), job.model.tensors.get(w)) {
            let t = Arc::new(t.clone());
            slot.put(Arc::clone(&t), &mut put.fates, &mut put.edits)?;
            put.tensors.insert(s, t);
        }
    }
    let mut files = Vec::new();
    let spliced = match &options.shared_weights {
        Some(file) => {
            let file = share::Place::new(file, out)?;
            files.extend(put.share(&file, &input)?);
            base.readable(&put.fates, std::mem::take(&mut put.edits))?
        }
        None => put.store(out, &mut files)?,
    };
    files.push(Target {
        path: out.to_path_buf(),
        bytes: spliced.len(),
        content: Content::Splice(Arc::clone(&base.source), spliced),
    });
    let written: Vec<_> = files.iter().map(|f| f.path.clone()).collect();
    keep_shards(&job.model, &written)?;
    keep_shards(&base.model, &written)?;
    let mut warnings = std::mem::take(&mut job.model.warnings);
    warnings.extend(base.model.warnings.iter().cloned());
    Ok(Work {
        files,
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
    base: &Base,
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
fn metadata(base: &Base, job: &mut Job, weights_only: bool) {
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

/// A graph that takes tensors in.
struct Put<'b> {
    base: &'b Base,
    slots: &'b [Slot<'b>],
    fates: HashMap<Span, Fate>,
    edits: Edits,
    /// The new tensors, by slot.
    tensors: HashMap<usize, Arc<Tensor>>,
    /// Longest file of a graph that takes its weights in.
    most: u64,
}

impl Put<'_> {
    /// Leaves the weights in, or under, a safetensors file; gives the file to write, if any.
    fn share(&mut self, file: &share::Place, input: &[Part]) -> Result<Option<Target>> {
        let mut sharing = Sharing::new(file, input);
        sharing.describe(self.base);
        for (i, slot) in self.slots.iter().enumerate() {
            let Home::Initializer(raw) = slot.home else {
                continue;
            };
            if !slot.shared() {
                continue;
            }
            let new = self.tensors.get(&i);
            // What the weights do not cover lies in the new file too, or stays in the graph.
            if new.is_none() && sharing.points() {
                continue;
            }
            let mut t = new.map_or_else(|| slot.tensor.clone(), |t| t.as_ref().clone());
            if !sharing.points() {
                slot.name().clone_into(&mut t.name);
            }
            sharing.add(raw.span, t);
        }
        sharing.finish(&mut self.fates)
    }

    /// Leaves the weights in the graph's file, or, where nobody could read that, in one beside it.
    fn store(mut self, out: &Path, files: &mut Vec<Target>) -> Result<Spliced> {
        let inline = self
            .base
            .spliced(&self.fates, std::mem::take(&mut self.edits))?;
        if inline.len() <= self.most {
            return Ok(inline);
        }
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".data");
        let path = out.with_file_name(name);
        let place: Arc<str> = location(&path)?.into();
        let mut at = 0u64;
        let mut data = Vec::new();
        self.edits = Edits::new();
        for (i, slot) in self.slots.iter().enumerate() {
            let own = || Arc::new(slot.tensor.clone());
            let t = self.tensors.get(&i).cloned();
            if let (Home::Initializer(raw), true) = (slot.home, slot.large()) {
                let t = t.unwrap_or_else(own);
                let length = t.byte_len();
                let step = if length >= PAGE { PAGE } else { LINE };
                let offset = at.checked_next_multiple_of(step);
                let end = offset.and_then(|o| o.checked_add(length));
                let (Some(offset), Some(end)) = (offset, end) else {
                    let message = "the sizes do not fit 64 bits together";
                    return Err(Error::parameter("onnx.too-large", message));
                };
                at = end;
                let fate = Fate::Outside {
                    location: Arc::clone(&place),
                    offset,
                    length,
                };
                self.fates.insert(raw.span, fate);
                data.push((offset, t));
            } else if let Some(t) = t {
                slot.put(t, &mut self.fates, &mut self.edits)?;
            }
        }
        let spliced = self.base.readable(&self.fates, self.edits)?;
        files.push(Target {
            path,
            bytes: at,
            content: Content::Data(data),
        });
        Ok(spliced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::onnx::encode::Fields;
    use crate::output::{Output, OutputSet};

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
        let base = Base::open(&path, false, &weighbridge_core::Limits::default()).unwrap();
        let other = dir.path().join("other.onnx");
        std::fs::write(&other, model(&[("c", 70_000, 9), ("b", 10, 8)])).unwrap();
        let other = crate::open(&other).unwrap();
        let slots = base.slots(false).unwrap();
        let new = |i: usize| Arc::new(other.tensors[i].clone());
        let put = |most| {
            let mut put = Put {
                base: &base,
                slots: &slots,
                fates: HashMap::new(),
                edits: Edits::new(),
                tensors: HashMap::from([(2, new(0)), (1, new(1))]),
                most,
            };
            for (slot, t) in [(2, new(0)), (1, new(1))] {
                slots[slot].put(t, &mut put.fates, &mut put.edits).unwrap();
            }
            let mut files = Vec::new();
            let spliced = put.store(&out, &mut files).unwrap();
            files.push(Target {
                path: out.clone(),
                bytes: spliced.len(),
                content: Content::Splice(Arc::clone(&base.source), spliced),
            });
            let mut set = OutputSet::new();
            for f in &files {
                let mut out = Output::create(&f.path, false).unwrap();
                f.fill(&mut out, &mut |_| {}).unwrap();
                set.push(out).unwrap();
            }
            set.commit().unwrap();
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
