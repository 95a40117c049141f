//! Graphs: names, the order of nodes, single assignment.

use std::collections::{HashMap, HashSet};

use weighbridge_core::Result;
use weighbridge_core::wire::protobuf::{Message, Reader, Span, Value};

use super::super::raw::{Dimension, Graph, Node, Tensor, Text, Type, TypeValue, ValueInfo};
use super::super::unique;
use super::{Checker, Step, kinds, quoted, shapes, span_of};

impl<'m> Checker<'m> {
    /// A graph, whose names and nodes are seen only within it.
    pub(super) fn graph(&mut self, g: &'m Graph) -> Result<()> {
        let span = span_of(g);
        if g.name.as_ref().is_none_or(|n| n.text.is_empty()) {
            self.wrong("onnx.graph-name", span, "the graph has no name");
        }
        for v in &g.inputs {
            self.value_info(v, "input")?;
        }
        for v in &g.outputs {
            self.value_info(v, "output")?;
        }
        self.entries(&g.metadata, false);
        let mark = self.scope.enter();
        let done = self.body(g);
        self.scope.leave(mark);
        done
    }

    fn body(&mut self, g: &'m Graph) -> Result<()> {
        self.inputs(g);
        self.initializers(g)?;
        let later = Later::default();
        self.nodes(&g.nodes, later)?;
        for v in &g.outputs {
            let name = v.name.text.as_str();
            if !self.scope.has(name) && !name.is_empty() {
                let message = format!("nothing in the graph makes the output {}", quoted(name));
                self.wrong("onnx.output-undefined", v.name.span, message);
            } else if let (Some(there), Some(said)) =
                (self.scope.kind(name), v.kind.as_ref().and_then(kinds::of))
                && *there != said
            {
                let message = format!(
                    "the output {} is said to be {said} and is {there}",
                    quoted(name)
                );
                self.strict("onnx.type", v.span, message);
            }
        }
        self.said_shapes(g);
        Ok(())
    }

    fn inputs(&mut self, g: &'m Graph) {
        for v in &g.inputs {
            let name = v.name.text.as_str();
            if self.scope.has(name) {
                let message = format!("the input {} stands twice", quoted(name));
                self.wrong("onnx.duplicate-input", v.name.span, message);
            } else {
                self.shadows(&v.name, "input");
            }
            self.scope.add(name, v.kind.as_ref().and_then(kinds::of));
            // What a body is called with may be of another shape each time.
            let shape = v.kind.as_ref().filter(|_| self.outermost);
            self.scope
                .describe(name, shape.and_then(shapes::of_type), None);
        }
    }

    /// A name of a graph in a graph that the outer one has too.
    fn shadows(&mut self, name: &'m Text, what: &str) {
        if !name.text.is_empty() && self.scope.sees(&name.text) && !self.scope.has(&name.text) {
            let message = format!(
                "the {what} {} hides a value of the graph around this one",
                quoted(&name.text)
            );
            self.strict("onnx.shadowed-value", name.span, message);
        }
    }

    fn initializers(&mut self, g: &'m Graph) -> Result<()> {
        let mut seen: HashSet<&str> = HashSet::new();
        let inputs: HashMap<&str, &ValueInfo> =
            g.inputs.iter().map(|v| (v.name.text.as_str(), v)).collect();
        for t in &g.initializers {
            let name = t.name();
            if name.is_empty() {
                self.wrong(
                    "onnx.initializer-name",
                    t.span,
                    "an initializer has no name",
                );
            } else if !seen.insert(name) {
                self.wrong(unique::RULE, t.span, unique::twice(name));
            }
            self.inside(Step::Tensor(t), |c| c.tensor(t))?;
            let is_input = inputs.contains_key(name);
            if self.ir <= 3 && !is_input {
                let message = format!(
                    "before version 4 of the format every initializer is an input too, {} is not",
                    quoted(name)
                );
                self.wrong("onnx.initializer-input", t.span, message);
            }
            if let Some(v) = inputs.get(name) {
                self.default_shape(t, v);
            }
            self.initializer(t.name.as_ref(), is_input, kinds::of_tensor(t));
            if !is_input || (self.ir < 4 && self.outermost) {
                self.scope.describe(name, shapes::of_tensor(t), Some(t));
            }
        }
        for s in &g.sparse_initializers {
            let t = &s.values;
            let name = t.name();
            if name.is_empty() {
                let message = "a sparse initializer has no name";
                self.wrong("onnx.initializer-name", s.span, message);
            } else if !seen.insert(name) {
                self.wrong(unique::RULE, s.span, unique::twice(name));
            }
            self.inside(Step::Tensor(t), |c| c.sparse(s))?;
            // Nodes take it as the dense tensor that it stands for.
            self.initializer(t.name.as_ref(), inputs.contains_key(name), None);
        }
        Ok(())
    }

    fn initializer(&mut self, name: Option<&'m Text>, is_input: bool, kind: Option<kinds::Kind>) {
        let Some(name) = name.filter(|n| !n.text.is_empty()) else {
            return;
        };
        if is_input {
            self.default_of(name, kind);
            return;
        }
        self.shadows(name, "initializer");
        self.scope.add(&name.text, kind);
    }

    /// An initializer that is the default of an input.
    fn default_of(&mut self, name: &'m Text, kind: Option<kinds::Kind>) {
        if !self.outermost && self.ir >= 4 {
            let message = format!(
                "{} of a graph in a graph is an input and an initializer",
                quoted(&name.text)
            );
            self.strict("onnx.initializer-input", name.span, message);
        }
        if let (Some(there), Some(kind)) = (self.scope.kind(&name.text), kind)
            && *there != kind
        {
            let message = format!(
                "the input {} is said to be {there}, its default is {kind}",
                quoted(&name.text)
            );
            self.strict("onnx.type", name.span, message);
        }
    }

    /// The dimensions of an initializer against those of the input that it is the default of.
    fn default_shape(&mut self, t: &'m Tensor, v: &'m ValueInfo) {
        let Some(TypeValue::Tensor(_, Some(said))) = v.kind.as_ref().map(|k| &k.value) else {
            return;
        };
        let differs = |(d, n): (&Dimension, &i64)| d.value.is_some_and(|v| v != *n);
        if said.len() != t.dims.len() || said.iter().zip(&t.dims).any(differs) {
            let message = format!(
                "the default of the input {} is of other dimensions than the input",
                quoted(t.name())
            );
            self.strict("onnx.shape", t.span, message);
        }
    }

    /// Nodes in their order.
    pub(super) fn nodes(&mut self, all: &'m [Node], mut later: Later<'m>) -> Result<()> {
        let mut names: HashSet<&str> = HashSet::new();
        for n in all {
            if self.full() {
                return Ok(());
            }
            if let Some(name) = n.name.as_ref().filter(|t| !t.text.is_empty())
                && !names.insert(&name.text)
            {
                let message = format!("the node name {} stands twice", quoted(&name.text));
                self.strict("onnx.duplicate-node-name", name.span, message);
            }
            self.path.push(Step::Node(n));
            for i in n.inputs.iter().filter(|i| !i.text.is_empty()) {
                if !self.scope.sees(&i.text) {
                    self.unseen(i, later.has(all, &i.text));
                }
            }
            let made = self.node(n);
            self.assigned(n);
            self.path.pop();
            made?;
        }
        Ok(())
    }

    fn unseen(&mut self, name: &Text, later: bool) {
        let shown = quoted(&name.text);
        if later {
            let message = format!(
                "the node reads {shown}, which only a later node makes: nodes stand in the order in which they can run, without cycles"
            );
            self.wrong("onnx.order", name.span, message);
        } else {
            let message = format!("the node reads {shown}, which nothing makes");
            self.wrong("onnx.undefined-value", name.span, message);
        }
    }

    /// What a node makes is new.
    fn assigned(&mut self, n: &'m Node) {
        let kinds = std::mem::take(&mut self.made);
        let mut shapes = std::mem::take(&mut self.made_shapes).into_iter();
        let constant = shapes::tensor_of(n);
        for (i, o) in n.outputs.iter().enumerate() {
            let shape = shapes.next().flatten();
            if o.text.is_empty() {
                continue;
            }
            if self.scope.sees(&o.text) {
                let message = format!("the value {} is made twice", quoted(&o.text));
                self.wrong("onnx.duplicate-value", o.span, message);
            }
            self.scope.add(&o.text, kinds.get(i).cloned().flatten());
            self.scope.describe(&o.text, shape, constant);
        }
    }

    /// An input or output of a graph. Only those of the outermost have to have a type.
    fn value_info(&mut self, v: &'m ValueInfo, what: &str) -> Result<()> {
        let name = v.name.text.as_str();
        if name.is_empty() {
            let message = format!("an {what} of the graph has no name");
            self.wrong("onnx.value-name", v.span, message);
        }
        self.entries(&v.metadata, false);
        if !self.outermost {
            return Ok(());
        }
        let why = match &v.kind {
            None => Some("has no type"),
            Some(t) => self.incomplete(t)?,
        };
        if let Some(why) = why {
            let message = format!("the {what} {} {why}", quoted(name));
            self.wrong("onnx.value-type", v.span, message);
        } else if let Some(why) = v.kind.as_ref().and_then(kinds::unknown) {
            let message = format!("the {what} {} {why}", quoted(name));
            self.strict("onnx.value-type", v.span, message);
        }
        Ok(())
    }

    /// What a type lacks.
    fn incomplete(&mut self, t: &Type) -> Result<Option<&'static str>> {
        let no_element = "is a tensor without an element type";
        Ok(match &t.value {
            TypeValue::Nothing => Some("has no type"),
            TypeValue::Tensor(e, shape) | TypeValue::SparseTensor(e, shape) => match shape {
                // An element type that is said to be none is said all the same.
                _ if *e == 0 && !self.says_element(t.span)? => Some(no_element),
                None => Some("is a tensor without a shape"),
                Some(_) => None,
            },
            TypeValue::Sequence(None) | TypeValue::Optional(None) => {
                Some("is a list or an optional of no type")
            }
            TypeValue::Map(_, None) => Some("is a map without a type of values"),
            TypeValue::Opaque(_, name) if name.is_empty() => {
                Some("is of an opaque type without name")
            }
            _ => None,
        })
    }

    /// Whether the tensor type in the type at `span` has an element type, be it none.
    fn says_element(&self, span: Span) -> Result<bool> {
        let mut reader = Reader::new(self.source, u64::MAX);
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            let (1 | 8, Some(inner)) = (f.number, f.bytes()) else {
                continue;
            };
            let mut message = Message::new(inner);
            while let Some(f) = reader.next(&mut message)? {
                if matches!((f.number, f.value), (1, Value::Varint(_))) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// What all nodes of a graph make, found out when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Later<'m>(Option<HashSet<&'m str>>);

impl<'m> Later<'m> {
    fn has(&mut self, all: &'m [Node], name: &str) -> bool {
        let made = || all.iter().flat_map(|n| &n.outputs);
        let set = self
            .0
            .get_or_insert_with(|| made().map(|o| o.text.as_str()).collect());
        set.contains(name)
    }
}
