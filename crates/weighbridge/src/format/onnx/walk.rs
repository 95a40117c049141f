//! Every message of a model that somebody may want to change, in the order of the structure.

use weighbridge_core::Result;
use weighbridge_core::wire::protobuf::Span;

use super::raw::{Attribute, Function, Graph, Model, Node, Tensor, ValueInfo};
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
    let mut walk = Walk { edits, visit };
    if let Some(g) = &model.graph {
        walk.graph(g, whole, 7)?;
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
    for f in &model.functions {
        if walk.gone(whole, 25, f.span) {
            continue;
        }
        (walk.visit)(Item::Function(f))?;
        walk.values(&f.values, &[f.span], 12)?;
        walk.attributes(&f.defaults, f.span, 11, false)?;
        walk.nodes(&f.nodes, &[f.span], 7)?;
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
}

impl<'m> Walk<'m, '_> {
    fn gone(&self, message: Span, number: u32, field: Span) -> bool {
        self.edits.drops(message, number, field)
    }

    fn graph(&mut self, g: &'m Graph, parent: Span, number: u32) -> Result<()> {
        let gone = |s: &Span| self.gone(parent, number, *s);
        if g.spans.iter().any(gone) {
            return Ok(());
        }
        (self.visit)(Item::Graph(g))?;
        for t in &g.initializers {
            let parent = holder(&g.spans, t.span);
            self.tensor(t, Role::Initializer, parent, 5)?;
        }
        for s in &g.sparse_initializers {
            if !self.gone(holder(&g.spans, s.span), 15, s.span) {
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
                let constant =
                    n.operator.text == "Constant" && matches!(n.domain(), "" | "ai.onnx");
                self.attributes(&n.attributes, n.span, 5, constant)?;
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
            if let Some(g) = &a.g {
                self.graph(g, a.span, 6)?;
            }
            for g in &a.graphs {
                self.graph(g, a.span, 11)?;
            }
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
