//! Checking graphs: what breaks the messages, constants that are none, variables beside.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{Chunks, Graph};
use weighbridge_core::source::{ByteSource, open_file};
use weighbridge_core::{Error, ErrorKind, Result};

use super::checkpoint::TfCheckpoint;
use super::saved_model;
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

/// How many violations are listed.
pub(super) const MOST: usize = 1000;

/// See [`super::SavedModel`] and [`super::GraphDef`].
pub(super) fn graph(source: &Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
    let shown = |e: &Error| {
        let mut v = Violation::from(e);
        if v.place.is_empty() {
            v.place = source.name().to_owned();
        }
        v
    };
    let mut out = Vec::new();
    // Constants of functions count too, and so do those of a model with its weights beside it.
    let all = OpenOptions {
        constants: true,
        ..options.clone()
    };
    match saved_model::read(source, &all) {
        Err(e) if e.kind() == ErrorKind::Io => return Err(e.in_file(source.name())),
        Err(e) => out.push(shown(&e.in_file(source.name()))),
        Ok((model, faults)) => {
            out.extend(faults.iter().map(shown));
            let mut chunks = Chunks::new();
            for t in model.tensors.iter().filter(|t| t.has_data()) {
                match t.stream(&mut chunks, &mut |_| Ok(())) {
                    Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                    Err(e) => out.push(shown(&e)),
                    Ok(()) => {}
                }
                if out.len() >= MOST {
                    break;
                }
            }
            if let Some(g) = &model.graph {
                names(g, &mut |e| out.push(shown(&e.in_file(source.name()))));
            }
        }
    }
    if source.name().ends_with(saved_model::NAME_OF_FILE) {
        let index = Path::new(source.name()).with_file_name("variables");
        let index = index.join("variables.index");
        if index.is_file() {
            // What it broke when it was opened is told in full here.
            out.retain(|v| !v.place.contains("variables.index"));
            let index = open_file(&index, options.backend)?;
            out.extend(TfCheckpoint.verify(index, options)?);
        }
    }
    out.truncate(MOST);
    Ok(out)
}

/// Nodes have names that differ, an operator, and inputs that are there.
fn names(graph: &Graph, report: &mut dyn FnMut(Error)) {
    let bodies = graph.functions.iter();
    let bodies = bodies.map(|f| (f.name.as_str(), &f.nodes, Some(&f.inputs)));
    for (function, nodes, arguments) in std::iter::once(("", &graph.nodes, None)).chain(bodies) {
        let mut known = std::collections::HashSet::new();
        known.extend(arguments.into_iter().flatten().map(String::as_str));
        for n in nodes {
            let at = n.offset.unwrap_or(0);
            let place = |e: Error| match function {
                "" => e.at(at),
                f => e.at(at).within(format!("function {f}")),
            };
            if n.operator.is_empty() {
                let message = format!("node {:?} has no operator", n.name);
                report(place(Error::malformed("tensorflow.no-operator", message)));
            }
            if !known.insert(n.name.as_str()) {
                let message = format!("two nodes are called {:?}", n.name);
                report(place(Error::malformed("tensorflow.same-name", message)));
            }
        }
        for n in nodes {
            for i in &n.inputs {
                // `^name`, `name:1`, `name:output:0`.
                let name = i.strip_prefix('^').unwrap_or(i);
                let name = name.split(':').next().unwrap_or_default();
                if !known.contains(name) {
                    let message = format!("node {:?} reads {i:?}, which nobody makes", n.name);
                    let e = Error::malformed("tensorflow.no-input", message);
                    report(e.at(n.offset.unwrap_or(0)));
                }
            }
        }
    }
}
