//! Texts of string tensors, for a graph that is looked through for gates: what an input is compared
//! with is one of them.

use weighbridge_core::Result;
use weighbridge_core::model::{
    AttributeValue, DType, Graph, GraphAttribute, GraphNode, Tensor, Value,
};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Message, Reader};

use crate::format::onnx::raw;

/// Most bytes of texts that are read for one model, and the longest of one tensor.
const MOST: u64 = 4 << 20;
const MOST_OF_ONE: usize = 1 << 16;

/// Puts the texts of `raw`'s string tensors beside the tensors of `graph`, which was made of it.
///
/// # Errors
/// What reading gives.
pub(super) fn fill(source: &dyn ByteSource, model: &raw::Model, graph: &mut Graph) -> Result<()> {
    let mut f = Filler {
        reader: Reader::new(source, u64::MAX),
        left: MOST,
    };
    if let Some(g) = &model.graph {
        f.graph(g, graph)?;
    }
    for (from, to) in model.functions.iter().zip(&mut graph.functions) {
        f.nodes(&from.nodes, &mut to.nodes)?;
        f.attributes(&from.defaults, &mut to.defaults)?;
    }
    Ok(())
}

/// Whether any tensor of a model is one of texts.
pub(super) fn has_texts(graph: &Graph) -> bool {
    let of = |t: &Tensor| t.dtype == DType::Str;
    let node = |n: &GraphNode| {
        n.bodies().any(|(_, g)| has_texts(g))
            || n.attributes
                .iter()
                .any(|a| matches!(&a.value, AttributeValue::Tensor(t) if of(t)))
    };
    graph.initializers.iter().any(of)
        || graph.nodes.iter().any(node)
        || graph.functions.iter().any(|f| f.nodes.iter().any(node))
}

struct Filler<'s> {
    reader: Reader<'s>,
    left: u64,
}

impl Filler<'_> {
    fn graph(&mut self, from: &raw::Graph, to: &mut Graph) -> Result<()> {
        // Sparse tensors stand behind the others.
        for (t, into) in from.initializers.iter().zip(&mut to.initializers) {
            self.tensor(t, into)?;
        }
        self.nodes(&from.nodes, &mut to.nodes)
    }

    fn nodes(&mut self, from: &[raw::Node], to: &mut [GraphNode]) -> Result<()> {
        for (n, into) in from.iter().zip(to) {
            self.attributes(&n.attributes, &mut into.attributes)?;
        }
        Ok(())
    }

    fn attributes(&mut self, from: &[raw::Attribute], to: &mut [GraphAttribute]) -> Result<()> {
        for (a, into) in from.iter().zip(to) {
            match &mut into.value {
                AttributeValue::Tensor(t) => {
                    if let Some(from) = &a.t {
                        self.tensor(from, t)?;
                    }
                }
                AttributeValue::Graph(g) => {
                    if let Some(from) = &a.g {
                        self.graph(from, g)?;
                    }
                }
                AttributeValue::Graphs(all) => {
                    for (from, g) in a.graphs.iter().zip(all) {
                        self.graph(from, g)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn tensor(&mut self, from: &raw::Tensor, to: &mut Tensor) -> Result<()> {
        if to.dtype != DType::Str {
            return Ok(());
        }
        let mut all = Vec::new();
        for run in from.typed.iter().filter(|r| r.number == 6) {
            let mut message = Message::new(run.span);
            while let Some(f) = self.reader.next(&mut message)? {
                let Some(span) = f.bytes() else { continue };
                if all.len() >= MOST_OF_ONE || span.len() > self.left {
                    return Ok(());
                }
                self.left -= span.len();
                all.push(Value::Bytes(self.reader.read(span, MOST)?));
            }
        }
        to.extra_mut()
            .attributes
            .push(("strings".into(), Value::List(all)));
        Ok(())
    }
}
