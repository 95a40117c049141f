//! Every message of a model that somebody may want to change, in the order of the structure, and
//! which of them the reader lists among the tensors.

use weighbridge_core::Result;
use weighbridge_core::wire::protobuf::Span;

use super::raw::{Attribute, Function, Graph, Model, Node, Sparse, Tensor, ValueInfo, kind};
use super::read::kind_of;
use super::splice::Edits;

/// A message.
#[derive(Debug, Clone, Copy)]
pub enum Item<'m> {
    /// A graph: the model's, one in an attribute, or one that training runs.
    Graph(&'m Graph),
    /// An operator, of a graph or a function.
    Node(&'m Node),
    /// An attribute of a node, or a default of a function.
    Attribute(&'m Attribute),
    /// A tensor.
    Tensor(&'m Tensor, Role),
    /// A value of a graph or a function.
    Value(&'m ValueInfo),
    /// A function.
    Function(&'m Function),
    /// What the reader lists, in its order; the messages of which it is made come too.
    Home(Home<'m>),
}

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

/// What a tensor is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A weight of a graph.
    Initializer,
    /// What a `Constant` gives.
    Constant,
    /// Something else that a node is told.
    Attribute,
    /// Values or indices of a sparse tensor.
    Sparse,
}

/// Shows `visit` every message of `model`, which fills `whole`, but those that `edits` take out or
/// put others in the place of. What holds a message comes before it.
///
/// # Errors
/// What `visit` gives.
pub fn walk<'m>(
    model: &'m Model,
    whole: Span,
    edits: &Edits,
    visit: &mut dyn FnMut(Item<'m>) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk {
        edits,
        visit,
        listed: true,
    };
    if let Some(g) = &model.graph {
        walk.graph(g, whole, 7)?;
    }
    for f in &model.functions {
        if walk.gone(whole, 25, f.span) {
            continue;
        }
        (walk.visit)(Item::Function(f))?;
        walk.values(&f.values, &[f.span], 12)?;
        walk.attributes(&f.defaults, f.span, 11, false)?;
        walk.nodes(&f.nodes, &[f.span], 7)?;
    }
    for t in &model.training {
        if walk.gone(whole, 20, t.span) {
            continue;
        }
        for (number, g) in [(1, &t.initialization), (2, &t.algorithm)] {
            if let Some(g) = g {
                walk.graph(g, t.span, number)?;
            }
        }
    }
    Ok(())
}

/// The message of `spans` that `inner` lies in: a message that was given in parts has several, in
/// the order of the file.
pub fn holder(spans: &[Span], inner: Span) -> Span {
    let behind = spans.partition_point(|s| s.start <= inner.start);
    let before = behind.checked_sub(1).and_then(|i| spans.get(i));
    let found = before.filter(|s| inner.end <= s.end).or(spans.last());
    found.copied().unwrap_or_default()
}

struct Walk<'m, 'w> {
    edits: &'w Edits,
    visit: &'w mut dyn FnMut(Item<'m>) -> Result<()>,
    /// Whether the reader comes here: it passes over graphs in attributes of another kind.
    listed: bool,
}

impl<'m> Walk<'m, '_> {
    fn gone(&self, message: Span, number: u32, field: Span) -> bool {
        self.edits.drops(message, number, field)
    }

    fn home(&mut self, home: Home<'m>) -> Result<()> {
        match self.listed {
            true => (self.visit)(Item::Home(home)),
            false => Ok(()),
        }
    }

    fn graph(&mut self, g: &'m Graph, parent: Span, number: u32) -> Result<()> {
        let gone = |s: &Span| self.gone(parent, number, *s);
        if g.spans.iter().any(gone) {
            return Ok(());
        }
        (self.visit)(Item::Graph(g))?;
        for t in &g.initializers {
            let parent = holder(&g.spans, t.span);
            if !self.gone(parent, 5, t.span) {
                self.home(Home::Initializer(t))?;
                (self.visit)(Item::Tensor(t, Role::Initializer))?;
            }
        }
        for s in &g.sparse_initializers {
            if !self.gone(holder(&g.spans, s.span), 15, s.span) {
                self.home(Home::Sparse(g, s))?;
                self.tensor(&s.values, Role::Sparse, s.span, 1)?;
                self.tensor(&s.indices, Role::Sparse, s.span, 2)?;
            }
        }
        for (number, values) in [(11, &g.inputs), (12, &g.outputs), (13, &g.values)] {
            self.values(values, &g.spans, number)?;
        }
        self.nodes(&g.nodes, &g.spans, 1)
    }

    fn values(&mut self, all: &'m [ValueInfo], spans: &[Span], number: u32) -> Result<()> {
        for v in all {
            if !self.gone(holder(spans, v.span), number, v.span) {
                (self.visit)(Item::Value(v))?;
            }
        }
        Ok(())
    }

    fn nodes(&mut self, all: &'m [Node], spans: &[Span], number: u32) -> Result<()> {
        for n in all {
            if !self.gone(holder(spans, n.span), number, n.span) {
                (self.visit)(Item::Node(n))?;
                self.attributes(&n.attributes, n.span, 5, is_constant(n))?;
                if let Some(a) = constant(n) {
                    self.home(Home::Constant(a))?;
                }
            }
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        all: &'m [Attribute],
        parent: Span,
        number: u32,
        constant: bool,
    ) -> Result<()> {
        for a in all {
            if self.gone(parent, number, a.span) {
                continue;
            }
            (self.visit)(Item::Attribute(a))?;
            let role = match constant && a.name.text == "value" {
                true => Role::Constant,
                false => Role::Attribute,
            };
            if let Some(t) = &a.t {
                self.tensor(t, role, a.span, 5)?;
            }
            for t in &a.tensors {
                self.tensor(t, Role::Attribute, a.span, 10)?;
            }
            for (number, s) in a
                .sparse
                .as_deref()
                .into_iter()
                .map(|s| (22, s))
                .chain(a.sparses.iter().map(|s| (23, s)))
            {
                if !self.gone(a.span, number, s.span) {
                    self.tensor(&s.values, Role::Sparse, s.span, 1)?;
                    self.tensor(&s.indices, Role::Sparse, s.span, 2)?;
                }
            }
            let outer = self.listed;
            let kind = kind_of(a);
            self.listed = outer && a.reference.is_none() && kind == kind::GRAPH;
            if let Some(g) = &a.g {
                self.graph(g, a.span, 6)?;
            }
            self.listed = outer && a.reference.is_none() && kind == kind::GRAPHS;
            for g in &a.graphs {
                self.graph(g, a.span, 11)?;
            }
            self.listed = outer;
        }
        Ok(())
    }

    fn tensor(&mut self, t: &'m Tensor, role: Role, parent: Span, number: u32) -> Result<()> {
        match self.gone(parent, number, t.span) {
            true => Ok(()),
            false => (self.visit)(Item::Tensor(t, role)),
        }
    }
}

fn is_constant(n: &Node) -> bool {
    n.operator.text == "Constant" && matches!(n.domain(), "" | "ai.onnx")
}

/// The attribute that says the value of a `Constant` node which the reader lists: see
/// [`super::constants::constant`].
fn constant(n: &Node) -> Option<&Attribute> {
    let named = n.outputs.first().is_some_and(|o| !o.text.is_empty());
    if !is_constant(n) || !named {
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
        let whole = Span::of(source.as_ref());
        walk(&parsed.model, whole, &Edits::new(), &mut |item| {
            match item {
                Item::Graph(_) => graphs += 1,
                Item::Tensor(..) => tensors += 1,
                Item::Home(Home::Initializer(t)) => homes.push(t.name().to_owned()),
                Item::Home(Home::Sparse(_, s)) => homes.push(s.values.name().to_owned()),
                Item::Home(Home::Constant(a)) => homes.push(a.name.text.clone()),
                _ => {}
            }
            Ok(())
        })
        .unwrap();
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
