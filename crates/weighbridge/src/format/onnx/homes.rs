//! Every tensor that a model holds, wherever it hangs, and which of them the reader lists.

use super::raw::{Attribute, Graph, Model, Node, Sparse, Tensor, kind};
use super::read::kind_of;

/// What the reader lists among a model's tensors.
#[derive(Debug, Clone, Copy)]
pub enum Home<'m> {
    /// An initializer of a graph.
    Initializer(&'m Tensor),
    /// A graph and a sparse initializer of it.
    Sparse(&'m Graph, &'m Sparse),
    /// The attribute of a `Constant` node that says its value; listed on request only.
    Constant(&'m Attribute),
}

/// What is met on a walk.
#[derive(Debug, Clone, Copy)]
pub enum Met<'m> {
    /// A graph; what it holds follows.
    Graph(&'m Graph),
    /// What the reader lists, in its order.
    Home(Home<'m>),
    /// A tensor, once each: initializers, both parts of sparse ones, values of attributes.
    Tensor(&'m Tensor),
}

/// Calls `f` for everything in `model`, homes in the order in which the reader lists them.
pub fn walk<'m>(model: &'m Model, f: &mut dyn FnMut(Met<'m>)) {
    if let Some(g) = &model.graph {
        graph(g, f);
    }
    for function in &model.functions {
        for a in &function.defaults {
            attribute(a, f);
        }
        for n in &function.nodes {
            node(n, f);
        }
    }
    for t in &model.training {
        for g in [&t.initialization, &t.algorithm].into_iter().flatten() {
            graph(g, f);
        }
    }
}

fn graph<'m>(g: &'m Graph, f: &mut dyn FnMut(Met<'m>)) {
    f(Met::Graph(g));
    for t in &g.initializers {
        f(Met::Home(Home::Initializer(t)));
        f(Met::Tensor(t));
    }
    for s in &g.sparse_initializers {
        f(Met::Home(Home::Sparse(g, s)));
        sparse(s, f);
    }
    for n in &g.nodes {
        node(n, f);
    }
}

fn sparse<'m>(s: &'m Sparse, f: &mut dyn FnMut(Met<'m>)) {
    f(Met::Tensor(&s.values));
    f(Met::Tensor(&s.indices));
}

fn node<'m>(n: &'m Node, f: &mut dyn FnMut(Met<'m>)) {
    for a in &n.attributes {
        attribute(a, f);
    }
    if let Some(a) = constant(n) {
        f(Met::Home(Home::Constant(a)));
    }
}

/// The attribute that says the value of a `Constant` node which the reader lists: see
/// [`super::constants::constant`].
fn constant(n: &Node) -> Option<&Attribute> {
    let standard = matches!(n.domain(), "" | "ai.onnx");
    let named = n.outputs.first().is_some_and(|o| !o.text.is_empty());
    if n.operator.text != "Constant" || !standard || !named {
        return None;
    }
    n.attributes.iter().find(|a| {
        let value = a.reference.is_none();
        let known = match (a.name.text.as_str(), kind_of(a)) {
            ("value" | "sparse_value", kind::TENSOR) => a.t.is_some(),
            ("value" | "sparse_value", kind::SPARSE_TENSOR) => a.sparse.is_some(),
            ("value_float", kind::FLOAT) | ("value_floats", kind::FLOATS) => true,
            ("value_int", kind::INT) | ("value_ints", kind::INTS) => true,
            _ => false,
        };
        value && known
    })
}

/// The parts of an attribute that its kind asks for come as the reader meets them; what else
/// stands in it holds tensors too.
fn attribute<'m>(a: &'m Attribute, f: &mut dyn FnMut(Met<'m>)) {
    for t in a.t.as_deref().into_iter().chain(&a.tensors) {
        f(Met::Tensor(t));
    }
    for s in a.sparse.as_deref().into_iter().chain(&a.sparses) {
        sparse(s, f);
    }
    let listed = a.reference.is_none();
    let kind = kind_of(a);
    if let Some(g) = a.g.as_deref().filter(|_| listed && kind == kind::GRAPH) {
        graph(g, f);
    }
    if listed && kind == kind::GRAPHS {
        for g in &a.graphs {
            graph(g, f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FormatReader as _;
    use crate::format::onnx::{Onnx, encode::Fields, parse};
    use std::sync::Arc;
    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;

    fn tensor(name: &str) -> Fields {
        let head = Fields::new().int(1, 1).int(2, 1).bytes(8, name);
        head.bytes(9, 1f32.to_le_bytes())
    }

    /// A `Constant` node of the attribute `a` of the kind `kind`.
    fn constant(output: &str, a: &str, kind: i64, value: Fields) -> Fields {
        let mut attribute = Fields::new().bytes(1, a).int(20, kind);
        attribute.0.extend(value.0);
        let node = Fields::new().bytes(2, output).bytes(4, "Constant");
        node.bytes(5, attribute)
    }

    #[test]
    fn homes_stand_in_the_order_of_the_reader() {
        let body = Fields::new().bytes(5, tensor("inner"));
        let body = body.bytes(
            1,
            constant("c", "value", 4, Fields::new().bytes(5, tensor(""))),
        );
        let branch = Fields::new().bytes(1, "then_branch").int(20, 5);
        let node = Fields::new().bytes(2, "y").bytes(4, "If");
        let node = node.bytes(5, branch.bytes(6, body));
        let graph = Fields::new()
            .bytes(1, node)
            .bytes(
                1,
                constant("f", "value_float", 1, Fields::new().float(2, 1.0)),
            )
            .bytes(
                1,
                constant("s", "value_string", 3, Fields::new().bytes(4, "x")),
            )
            .bytes(
                1,
                constant("n", "value_ints", 7, Fields::new().ints(8, &[1, 2])),
            )
            .bytes(5, tensor("outer"));
        let function = Fields::new()
            .bytes(1, "F")
            .bytes(7, constant("k", "value_int", 2, Fields::new().int(3, 7)));
        let data = Fields::new()
            .int(1, 10)
            .bytes(7, graph)
            .bytes(25, function)
            .0;
        let source = Arc::new(SliceSource::new(data, "m.onnx"));
        let options = crate::OpenOptions {
            constants: true,
            ..crate::OpenOptions::default()
        };
        let model = Onnx.open(Arc::clone(&source) as _, &options).unwrap();
        let listed: Vec<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(listed, ["outer", "inner", "c", "f", "n", "k"]);
        let parsed = parse::parse(source.as_ref(), &Limits::default()).unwrap();
        let (mut homes, mut graphs, mut tensors) = (Vec::new(), 0, 0);
        walk(&parsed.model, &mut |m| match m {
            Met::Graph(_) => graphs += 1,
            Met::Tensor(_) => tensors += 1,
            Met::Home(Home::Initializer(t)) => homes.push(t.name().to_owned()),
            Met::Home(Home::Sparse(_, s)) => homes.push(s.values.name().to_owned()),
            Met::Home(Home::Constant(a)) => homes.push(a.name.text.clone()),
        });
        let wanted = [
            "outer",
            "inner",
            "value",
            "value_float",
            "value_ints",
            "value_int",
        ];
        assert_eq!(homes, wanted);
        assert_eq!((graphs, tensors), (2, 3));
    }
}
