//! Names of weights that stand twice in one graph.
//!
//! Readers differ in which of the two they take, and moving their bytes may change which: ONNX
//! Runtime has another order for those that lie in other files. What changes weights therefore
//! refuses such a model; looking at it goes on.

use std::collections::HashSet;

use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::raw::{Graph, Model};
use super::splice::Edits;
use super::verify::quoted;
use super::walk::{Item, holder, walk};

/// The rule, here and where a model is checked (`check_graph` of `onnx/checker.cc` has it).
pub(super) const RULE: &str = "onnx.duplicate-initializer";

/// What is wrong with a second initializer `name`.
pub(super) fn twice(name: &str) -> String {
    format!("the initializer {} stands twice", quoted(name))
}

/// Refuses a model, which fills `whole`, of which a graph has two initializers of one name when
/// `edits` are made.
///
/// # Errors
/// `Malformed` (`onnx.duplicate-initializer`) with the offset of the second.
pub fn refuse_duplicates(model: &Model, whole: Span, edits: &Edits) -> Result<()> {
    walk(model, whole, edits, &mut |item| match item {
        Item::Graph(g) => refuse_in(g, edits),
        _ => Ok(()),
    })
}

fn refuse_in(g: &Graph, edits: &Edits) -> Result<()> {
    let dense = g.initializers.iter().map(|t| (t.name(), t.span, 5));
    let sparse = g.sparse_initializers.iter();
    let sparse = sparse.map(|s| (s.values.name(), s.span, 15));
    let mut seen = HashSet::new();
    for (name, span, number) in dense.chain(sparse) {
        // Nothing can read one without a name.
        let there = !name.is_empty() && !edits.drops(holder(&g.spans, span), number, span);
        if there && !seen.insert(name) {
            let e = Error::malformed(RULE, twice(name)).at(span.start);
            return Err(e.help(
                "readers differ in which of the two they take, and moved weights may change it: \
                 write the model again with one of them",
            ));
        }
    }
    Ok(())
}
