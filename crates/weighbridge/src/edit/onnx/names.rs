//! Names of values: everywhere that they stand, in the scope that they belong to.
//!
//! A graph in an attribute sees the values of the graphs around it, unless it makes one of the same
//! name; functions see nothing outside (`docs/IR.md`, "Names Within a Graph"). What training runs
//! sees the weights of the model's graph.

use std::borrow::Cow;

use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Message, Reader, Span};

use crate::format::onnx::raw::{Entry, Graph, Model, Node, Text, Training, ValueInfo};
use crate::format::onnx::walk::holder;

/// What a name does where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An input of the graph.
    Input,
    /// A weight.
    Weight,
    /// Made by a node.
    Made,
    /// Read by something.
    Use,
    /// Something is said of the value.
    About,
}

/// Who is behind a name.
#[derive(Debug, Clone, Copy)]
pub(super) enum By<'m> {
    Node(&'m Node),
    Output,
    Annotation(&'m str),
    Training,
    Graph,
}

impl std::fmt::Display for By<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(n) => f.write_str(&n.title()),
            Self::Output => f.write_str("an output of the graph"),
            Self::Annotation(t) => write!(f, "the quantization of {t}"),
            Self::Training => f.write_str("what training runs"),
            Self::Graph => f.write_str("the graph"),
        }
    }
}

/// One place where the name of a value stands.
#[derive(Debug, Clone)]
pub(super) struct Site<'m> {
    pub name: Cow<'m, str>,
    /// The message and the number of the field.
    pub message: Span,
    pub number: u32,
    /// The text.
    pub text: Span,
    pub kind: Kind,
    pub by: By<'m>,
    /// Where all that is said with the name lies: holder and message.
    pub whole: Option<(Span, Span)>,
}

/// A graph that makes a value, and what it is of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'m> {
    pub graph: &'m Graph,
    pub root: Root<'m>,
}

/// What graph of the model another lies in, or is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Root<'m> {
    /// The model's own.
    Main,
    /// What sets the values that training starts from.
    Initialization(&'m Training),
    /// A step of training.
    Algorithm(&'m Training),
    /// A graph in an attribute.
    Inner,
}

/// Names in a model's graphs.
#[derive(Debug)]
pub(super) struct Names<'m> {
    pub model: &'m Model,
    pub source: &'m dyn ByteSource,
}

impl<'m> Names<'m> {
    /// The outermost graphs that make a value `name`: the model's own where it does, else all that
    /// lie in others and those that training runs.
    pub(super) fn scopes(&self, name: &str) -> Vec<Scope<'m>> {
        let mut out = Vec::new();
        if let Some(graph) = &self.model.graph {
            find(graph, name, Root::Main, &mut out);
        }
        if matches!(out.first(), Some(s) if matches!(s.root, Root::Main)) {
            return out;
        }
        for t in &self.model.training {
            if let Some(g) = &t.initialization {
                find(g, name, Root::Initialization(t), &mut out);
            }
            if let Some(g) = &t.algorithm {
                find(g, name, Root::Algorithm(t), &mut out);
            }
        }
        out
    }

    /// Every place that means the value `name` of `scope`.
    ///
    /// # Errors
    /// What reading the file gives.
    pub(super) fn sites(&self, scope: Scope<'m>, name: &str) -> Result<Vec<Site<'m>>> {
        let mut out = Vec::new();
        self.gather(scope.graph, name, &mut out)?;
        let keys = |all: &'m [Entry], out: &mut Vec<Site<'m>>| {
            let named = all.iter().filter(|e| e.key.text == name);
            out.extend(named.map(|e| binding(e, 1, &e.key)));
        };
        let values = |all: &'m [Entry], out: &mut Vec<Site<'m>>| {
            let named = all.iter().filter(|e| e.value.text == name);
            out.extend(named.map(|e| binding(e, 2, &e.value)));
        };
        match scope.root {
            Root::Main => {
                for t in &self.model.training {
                    match &t.algorithm {
                        Some(g) if defines(g, name) => continue,
                        Some(g) => self.gather(g, name, &mut out)?,
                        None => {}
                    }
                    keys(&t.initialization_binding, &mut out);
                    keys(&t.update_binding, &mut out);
                }
            }
            Root::Initialization(t) => values(&t.initialization_binding, &mut out),
            Root::Algorithm(t) => {
                keys(&t.initialization_binding, &mut out);
                keys(&t.update_binding, &mut out);
                values(&t.update_binding, &mut out);
            }
            Root::Inner => {}
        }
        Ok(out)
    }

    fn gather(&self, g: &'m Graph, name: &str, out: &mut Vec<Site<'m>>) -> Result<()> {
        self.each(g, &mut |s| {
            if s.name == name {
                out.push(s);
            }
        })?;
        for inner in graphs(g) {
            if !defines(inner, name) {
                self.gather(inner, name, out)?;
            }
        }
        Ok(())
    }

    /// Every place in every graph of the model that holds the name of a value.
    ///
    /// # Errors
    /// What reading the file gives.
    pub(super) fn all(&self, f: &mut dyn FnMut(Site<'m>)) -> Result<()> {
        let mut left: Vec<&Graph> = self.roots();
        while let Some(g) = left.pop() {
            self.each(g, f)?;
            left.extend(graphs(g));
        }
        Ok(())
    }

    /// Every node of every graph, outer graphs first.
    pub(super) fn nodes(&self, f: &mut dyn FnMut(&'m Node, bool)) {
        let main = self.model.graph.iter().collect::<Vec<_>>();
        for g in &main {
            g.nodes.iter().for_each(|n| f(n, true));
        }
        let training = self.roots().into_iter().skip(main.len());
        let inner = main.into_iter().flat_map(graphs);
        let mut left: Vec<&Graph> = inner.chain(training).collect();
        while let Some(g) = left.pop() {
            g.nodes.iter().for_each(|n| f(n, false));
            left.extend(graphs(g));
        }
    }

    fn roots(&self) -> Vec<&'m Graph> {
        let training = self.model.training.iter();
        let training = training.flat_map(|t| t.initialization.iter().chain(&t.algorithm));
        self.model.graph.iter().chain(training).collect()
    }

    /// Every place of one graph, those in its nodes' graphs left out.
    fn each(&self, g: &'m Graph, f: &mut dyn FnMut(Site<'m>)) -> Result<()> {
        let of = |v: &'m ValueInfo, kind, by| Site {
            whole: Some((holder(&g.spans, v.span), v.span)),
            ..site(&v.name, v.span, 1, kind, by)
        };
        g.inputs
            .iter()
            .for_each(|v| f(of(v, Kind::Input, By::Graph)));
        g.outputs
            .iter()
            .for_each(|v| f(of(v, Kind::Use, By::Output)));
        g.values
            .iter()
            .for_each(|v| f(of(v, Kind::About, By::Graph)));
        let dense = g.initializers.iter().map(|t| (t, t.span));
        let sparse = g.sparse_initializers.iter().map(|s| (&s.values, s.span));
        for (t, span) in dense.chain(sparse) {
            if let Some(name) = &t.name {
                f(Site {
                    whole: Some((holder(&g.spans, span), span)),
                    ..site(name, t.span, 8, Kind::Weight, By::Graph)
                });
            }
        }
        for a in &g.quantization {
            f(Site {
                whole: Some((holder(&g.spans, a.span), a.span)),
                ..site(&a.tensor, a.span, 1, Kind::About, By::Graph)
            });
            for e in &a.parameters {
                let by = By::Annotation(&a.tensor.text);
                f(site(&e.value, e.span, 2, Kind::Use, by));
            }
        }
        for n in &g.nodes {
            let by = By::Node(n);
            n.inputs
                .iter()
                .for_each(|t| f(site(t, n.span, 1, Kind::Use, by)));
            n.outputs
                .iter()
                .for_each(|t| f(site(t, n.span, 2, Kind::Made, by)));
            for span in &n.devices {
                self.devices(*span, n, f)?;
            }
        }
        Ok(())
    }

    /// The tensors that a `NodeDeviceConfigurationProto` spreads: field 1 of its fields 2.
    fn devices(&self, span: Span, n: &'m Node, f: &mut dyn FnMut(Site<'m>)) -> Result<()> {
        let mut reader = Reader::new(self.source, u64::MAX);
        let mut message = Message::new(span);
        while let Some(spec) = reader.next(&mut message)? {
            let (2, Some(inner)) = (spec.number, spec.bytes()) else {
                continue;
            };
            let mut fields = Message::new(inner);
            while let Some(t) = reader.next(&mut fields)? {
                let (1, Some(text)) = (t.number, t.bytes()) else {
                    continue;
                };
                f(Site {
                    name: Cow::Owned(reader.text(text, 1 << 16)?),
                    message: inner,
                    number: 1,
                    text,
                    kind: Kind::About,
                    by: By::Node(n),
                    whole: None,
                });
            }
        }
        Ok(())
    }
}

fn site<'m>(t: &'m Text, message: Span, number: u32, kind: Kind, by: By<'m>) -> Site<'m> {
    Site {
        name: Cow::Borrowed(&t.text),
        message,
        number,
        text: t.span,
        kind,
        by,
        whole: None,
    }
}

fn binding<'m>(e: &'m Entry, number: u32, text: &'m Text) -> Site<'m> {
    site(text, e.span, number, Kind::Use, By::Training)
}

/// The graphs in the attributes of a graph's nodes.
fn graphs(g: &Graph) -> impl Iterator<Item = &Graph> {
    let attributes = g.nodes.iter().flat_map(|n| &n.attributes);
    attributes.flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
}

/// Whether a graph itself makes a value of this name.
fn defines(g: &Graph, name: &str) -> bool {
    let sparse = g.sparse_initializers.iter().map(|s| &s.values);
    g.inputs.iter().any(|v| v.name.text == name)
        || g.initializers
            .iter()
            .chain(sparse)
            .any(|t| t.name() == name)
        || g.nodes
            .iter()
            .any(|n| n.outputs.iter().any(|t| t.text == name))
}

fn find<'m>(g: &'m Graph, name: &str, root: Root<'m>, out: &mut Vec<Scope<'m>>) {
    if defines(g, name) {
        out.push(Scope { graph: g, root });
        return;
    }
    for inner in graphs(g) {
        find(inner, name, Root::Inner, out);
    }
}
