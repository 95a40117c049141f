//! Where every byte of the result goes: the file of the graph, and a file beside it for weights
//! where the source has one or the graph would be too long for protobuf's readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{AttributeValue, Chunks, Graph, GraphNode, Tensor};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::OnnxOptions;
use super::job::{Job, Places};
use super::rewrite::{Beside, Data, Rewrite, SMALL};
use super::run::{Outcome, Run};
use crate::format::onnx::beside::is_tied;
use crate::format::onnx::raw;
use crate::format::onnx::splice::{Piece, Spliced, splice};
use crate::output::{OutputSet, Positioned, raw_bytes};

/// The files that will be written.
pub(super) struct Layout {
    path: PathBuf,
    spliced: Spliced,
    beside: Option<Beside>,
    rooms: Vec<(usize, u64)>,
}

impl Layout {
    pub(super) fn make(
        source: &Arc<dyn ByteSource>,
        model: &raw::Model,
        low: &Graph,
        path: &Path,
        options: &OnnxOptions,
        out: &mut Rewrite,
    ) -> Result<Self> {
        let mut stay: Vec<(&raw::Tensor, &Tensor)> = Vec::new();
        let (mut freed, mut external) = (0u64, false);
        tensors(model, low, &mut |raw, low| {
            external |= raw.is_external();
            match out.removed.contains(&raw.span) {
                true => freed = freed.saturating_add(raw.span.len()),
                false => stay.push((raw, low)),
            }
        })?;
        let new = out.constants.iter();
        let new = new.fold(0u64, |n, (_, c)| n.saturating_add(c.data.len()));
        let inside = source.len().saturating_add(new).saturating_sub(freed);
        let large = !external && inside > options.most_inside;
        let mut beside = match external || large {
            true => Some(Beside::new(file_beside(path)?)),
            false => None,
        };
        for (graph, constant) in std::mem::take(&mut out.constants) {
            let pieces = constant.pieces(beside.as_mut())?;
            out.edits.append(graph, vec![Piece::Message(5, pieces)]);
        }
        if let Some(beside) = &mut beside {
            let initializers = model.graph.iter().flat_map(|g| &g.initializers);
            let own: std::collections::HashSet<Span> = initializers.map(|t| t.span).collect();
            for (raw, low) in stay {
                let long = large && own.contains(&raw.span) && low.byte_len() >= SMALL;
                if raw.is_external() || long {
                    beside.take(&mut out.edits, raw, low)?;
                }
            }
        }
        let spliced = splice(source.as_ref(), &out.edits)?;
        let mut rooms = vec![(usize::MAX, 0); out.rooms()];
        let mut put = |id: usize, place: (usize, u64)| {
            if let Some(r) = rooms.get_mut(id) {
                *r = place;
            }
        };
        for (id, at) in spliced.rooms() {
            put(id, (0, at));
        }
        for (at, data) in beside.iter().flat_map(|b| &b.parts) {
            if let Data::Room(id, _) = data {
                put(*id, (1, *at));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            spliced,
            beside,
            rooms,
        })
    }

    /// The files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let beside = self
            .beside
            .iter()
            .map(|b| self.path.with_file_name(&b.location));
        [self.path.clone()].into_iter().chain(beside).collect()
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let beside = self.beside.as_ref().map_or(0, |b| b.len);
        self.spliced.len().saturating_add(beside)
    }

    /// Writes the files and does the jobs.
    pub(super) fn write(
        &self,
        source: &Arc<dyn ByteSource>,
        jobs: &[Job],
        options: &OnnxOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Vec<Outcome>, Vec<PathBuf>)> {
        let graph = Positioned::create(&self.path, self.spliced.len(), options.sync)?;
        let mut outputs = vec![graph];
        if let Some(b) = &self.beside {
            let path = self.path.with_file_name(&b.location);
            let file = Positioned::create(&path, b.len, options.sync)?;
            for (at, data) in &b.parts {
                match data {
                    Data::Room(..) => {}
                    Data::Bytes(bytes) => file.write_at(*at, bytes)?,
                    Data::Tensor(t) => {
                        copy(&file, *at, t).map_err(|e| e.within(t.name.as_str()))?
                    }
                }
            }
            outputs.push(file);
        }
        if let Some(graph) = outputs.first() {
            self.spliced.write_around_rooms(source.as_ref(), graph)?;
        }
        let run = Run {
            jobs,
            places: Places {
                outputs: &outputs,
                rooms: &self.rooms,
            },
            threads: options.threads(),
            measure: options.measure,
        };
        let outcomes = run.run(progress)?;
        let mut set = OutputSet::new();
        // The graph goes last: it is whole only with what lies beside it.
        for file in outputs.into_iter().rev() {
            file.finish(&mut set)?;
        }
        let beside = self.paths().split_off(1);
        if is_tied(&self.path, beside.iter().map(PathBuf::as_path)) {
            set.old_is_tied();
        }
        let mut paths = set.commit()?;
        paths.reverse();
        Ok((outcomes, paths))
    }
}

/// Copies a tensor that stays as it is.
fn copy(out: &Positioned, at: u64, t: &Tensor) -> Result<()> {
    if let Some((source, from)) = raw_bytes(t) {
        let range = from..from.saturating_add(t.byte_len());
        return out.copy_at(at, source.as_ref(), range);
    }
    let (mut to, end) = (at, at.saturating_add(t.byte_len()));
    t.stream(&mut Chunks::new(), &mut |part| {
        let next = to.saturating_add(part.len() as u64);
        if next > end {
            let message = "more bytes came than the shape needs";
            return Err(Error::malformed("tensor.wrong-length", message));
        }
        out.write_at(to, part)?;
        to = next;
        Ok(())
    })
}

/// The name of the file for weights.
fn file_beside(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    let named = name.map(|n| format!("{n}.data"));
    let e = || {
        let message = "the name of a model with weights beside it has to be UTF-8";
        Error::parameter("output.no-name", message).in_file(path.display().to_string())
    };
    let named = named.ok_or_else(e)?;
    crate::format::onnx::external::spelling(&named)?;
    Ok(named)
}

/// Calls `f` with every dense tensor of a model, as it stands and as it was lowered.
fn tensors<'a>(
    model: &'a raw::Model,
    low: &'a Graph,
    f: &mut dyn FnMut(&'a raw::Tensor, &'a Tensor),
) -> Result<()> {
    if let Some(g) = &model.graph {
        graph(g, low, f)?;
    }
    for (raw, low) in model.functions.iter().zip(&low.functions) {
        nodes(&raw.nodes, &low.nodes, f)?;
    }
    let training = model.training.iter();
    let training = training
        .flat_map(|t| [&t.initialization, &t.algorithm])
        .flatten();
    for (raw, (_, low)) in training.zip(&low.training) {
        graph(raw, low, f)?;
    }
    Ok(())
}

fn graph<'a>(
    raw: &'a raw::Graph,
    low: &'a Graph,
    f: &mut dyn FnMut(&'a raw::Tensor, &'a Tensor),
) -> Result<()> {
    for s in &raw.sparse_initializers {
        if s.values.is_external() || s.indices.is_external() {
            let message = "sparse weights in another file are not moved";
            let e = Error::unsupported("quantize.sparse", message);
            return Err(e.at(s.span.start));
        }
    }
    for (raw, low) in raw.initializers.iter().zip(&low.initializers) {
        f(raw, low);
    }
    nodes(&raw.nodes, &low.nodes, f)
}

fn nodes<'a>(
    raw: &'a [raw::Node],
    low: &'a [GraphNode],
    f: &mut dyn FnMut(&'a raw::Tensor, &'a Tensor),
) -> Result<()> {
    for (raw, low) in raw.iter().zip(low) {
        for (raw, low) in raw.attributes.iter().zip(&low.attributes) {
            match (&low.value, &raw.t, &raw.g) {
                (AttributeValue::Tensor(low), Some(raw), _) => f(raw, low),
                (AttributeValue::Tensors(low), ..) => {
                    raw.tensors
                        .iter()
                        .zip(low)
                        .for_each(|(raw, low)| f(raw, low));
                }
                (AttributeValue::Graph(low), _, Some(raw)) => graph(raw, low, f)?,
                (AttributeValue::Graphs(low), ..) => {
                    for (raw, low) in raw.graphs.iter().zip(low) {
                        graph(raw, low, f)?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}
