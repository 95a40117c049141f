//! `GraphDef` and its functions as a graph of the model, and the tensors in it.
//!
//! Field numbers: `tensorflow/core/framework/{graph,node_def,function,op_def,attr_value}.proto` of
//! TensorFlow 2.21.

use weighbridge_core::model::{
    AttributeValue, Dim, Graph, GraphAttribute, GraphFunction, GraphNode, GraphValue, Tensor,
    ValueType,
};
use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span, Value};
use weighbridge_core::{Error, Result};

use super::proto::{self, Home, NAME, Proto};
use super::types;

/// Longest text of an attribute.
const TEXT: u64 = 64 << 20;

/// Most types in one record of a list.
const MOST_TYPES: u32 = 1 << 12;

/// Deepest nesting of functions in attributes.
const MOST_DEEP: u32 = 32;

/// Bytes of a file that a node, a type or half a tensor has on average, beyond those that any file
/// may have: what they take in memory has to be in proportion to it.
const BYTES_EACH: u64 = 8;
const FREE: u64 = 1 << 16;

/// A graph on its way.
pub(super) struct Walk<'w> {
    pub reader: Reader<'w>,
    pub home: Home,
    /// Whether constants of functions are taken too.
    pub functions: bool,
    /// Constants met so far, under the names of their nodes.
    pub constants: Vec<Tensor>,
    /// Bytes that they take in their messages.
    pub stored: u64,
    /// What does not fit the format and stops nothing.
    pub faults: Vec<Error>,
    /// Nodes, types and tensors that there may still be.
    left: u64,
}

/// The tensor of an attribute, or why it is none, and the bytes that it takes.
type Constant = (Result<Tensor>, u64);

impl<'w> Walk<'w> {
    pub(super) fn new(reader: Reader<'w>, home: Home, functions: bool) -> Self {
        let left = (home.source.len() / BYTES_EACH).saturating_add(FREE);
        Self {
            reader,
            left,
            home,
            functions,
            constants: Vec::new(),
            stored: 0,
            faults: Vec::new(),
        }
    }

    fn take(&mut self, n: u64, at: u64) -> Result<()> {
        self.left = self.left.checked_sub(n).ok_or_else(|| {
            let message = "the graphs have more nodes and types than the file's size justifies";
            Error::limit("tensorflow.nodes", message).at(at)
        })?;
        Ok(())
    }

    /// The `GraphDef` in `span`.
    ///
    /// # Errors
    /// What reading gives.
    pub(super) fn graph(&mut self, span: Span) -> Result<(Graph, Option<u64>)> {
        let mut graph = Graph::default();
        let mut producer = None;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.value) {
                (1, Value::Bytes(node)) => {
                    let node = self.node(node, f.at, None)?;
                    describe(&node, &mut graph);
                    graph.nodes.push(node);
                }
                (2, Value::Bytes(library)) => self.library(library, &mut graph)?,
                (4, Value::Bytes(versions)) => {
                    let mut inner = Message::new(versions);
                    while let Some(f) = self.reader.next(&mut inner)? {
                        if let (1, Some(n)) = (f.number, f.varint()) {
                            producer = Some(n);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok((graph, producer))
    }

    fn library(&mut self, span: Span, graph: &mut Graph) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (1, Value::Bytes(function)) = (f.number, f.value) {
                let function = self.function(function, f.at)?;
                graph.functions.push(function);
            }
        }
        Ok(())
    }

    /// A `FunctionDef`.
    fn function(&mut self, span: Span, at: u64) -> Result<GraphFunction> {
        self.take(1, at)?;
        let mut out = GraphFunction {
            offset: Some(at),
            ..GraphFunction::default()
        };
        // What it is called stands first in every known file, and anywhere in others.
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (1, Value::Bytes(signature)) = (f.number, f.value) {
                self.signature(signature, &mut out)?;
            }
        }
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (3, Value::Bytes(node)) = (f.number, f.value) {
                let node = self.node(node, f.at, Some(&out.name))?;
                out.nodes.push(node);
            }
        }
        Ok(out)
    }

    /// An `OpDef`: name, arguments and results.
    fn signature(&mut self, span: Span, out: &mut GraphFunction) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Value::Bytes(inner) = f.value else {
                continue;
            };
            match f.number {
                1 => out.name = self.reader.text(inner, NAME)?,
                2 | 3 => {
                    let mut name = String::new();
                    let mut argument = Message::new(inner);
                    while let Some(f) = self.reader.next(&mut argument)? {
                        if let (1, Value::Bytes(s)) = (f.number, f.value) {
                            name = self.reader.text(s, NAME)?;
                        }
                    }
                    match f.number {
                        2 => out.inputs.push(name),
                        _ => out.outputs.push(name),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A `NodeDef`; `function` is the one that it stands in.
    fn node(&mut self, span: Span, at: u64, function: Option<&str>) -> Result<GraphNode> {
        self.take(1, at)?;
        let mut out = GraphNode {
            offset: Some(at),
            ..GraphNode::default()
        };
        let mut constant = None;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Value::Bytes(inner) = f.value else {
                continue;
            };
            match f.number {
                1 => out.name = self.reader.text(inner, NAME)?,
                2 => out.operator = self.reader.text(inner, NAME)?,
                3 => out.inputs.push(self.reader.text(inner, NAME)?),
                5 => {
                    let (name, value, tensor) = self.attribute(inner, 0)?;
                    if name == "value" {
                        constant = tensor.or(constant);
                    }
                    if let Some(value) = value {
                        out.attributes.push(GraphAttribute { name, value });
                    }
                }
                _ => {}
            }
        }
        // Results are named by the node, and by a number from the second on.
        out.outputs.push(out.name.clone());
        if let (Some((found, stored)), true) = (constant, out.operator == "Const")
            && (function.is_none() || self.functions)
        {
            let name = match function {
                Some(f) => format!("{f}/{}", out.name),
                None => out.name.clone(),
            };
            self.stored = self.stored.saturating_add(stored);
            match found {
                Ok(t) => self.constants.push(Tensor { name, ..t }),
                Err(e) => self.faults.push(e.within(name)),
            }
        }
        Ok(out)
    }

    /// An entry of a map of attributes: its key, its value, and the tensor that this is.
    fn attribute(
        &mut self,
        span: Span,
        depth: u32,
    ) -> Result<(String, Option<AttributeValue>, Option<Constant>)> {
        let (mut name, mut value) = (String::new(), None);
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.value) {
                (1, Value::Bytes(s)) => name = self.reader.text(s, NAME)?,
                (2, Value::Bytes(s)) => value = Some(s),
                _ => {}
            }
        }
        let Some(span) = value else {
            return Ok((name, None, None));
        };
        let mut tensor = None;
        let mut out = None;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (8, Value::Bytes(s)) = (f.number, f.value) {
                self.take(3, f.at)?;
                let proto = Proto::read(&mut self.reader, s)?;
                let found = proto.tensor(&name, &self.home);
                let shown = found.as_ref().ok().cloned();
                out = shown.map(|t| AttributeValue::Tensor(Box::new(t)));
                tensor = Some((found, proto.stored()));
            } else {
                out = self.value(&f, depth)?.or(out);
            }
        }
        Ok((name, out, tensor))
    }

    /// One field of an `AttrValue`.
    fn value(&mut self, f: &Field, depth: u32) -> Result<Option<AttributeValue>> {
        if depth > MOST_DEEP {
            let e = Error::limit("tensorflow.depth", "attributes nest too deep");
            return Err(e.at(f.at));
        }
        Ok(Some(match (f.number, f.value) {
            (1, Value::Bytes(s)) => return self.list(s),
            (2, Value::Bytes(s)) => AttributeValue::Str(self.reader.read(s, TEXT)?),
            (3, Value::Varint(n)) => AttributeValue::Int(n as i64),
            (4, Value::Fixed32(n)) => AttributeValue::Float(f32::from_bits(n)),
            (5, Value::Varint(n)) => AttributeValue::Int(i64::from(n != 0)),
            (6, Value::Varint(n)) => AttributeValue::Type(Box::new(of_type(n))),
            (7, Value::Bytes(s)) => {
                let dims = proto::shape(&mut self.reader, s)?;
                AttributeValue::Type(Box::new(of_shape(dims)))
            }
            (9, Value::Bytes(s)) => AttributeValue::Reference(self.reader.text(s, NAME)?),
            (10, Value::Bytes(s)) => AttributeValue::Str(self.called(s)?),
            _ => return Ok(None),
        }))
    }

    /// The name in a `NameAttrList`: a function that the node calls.
    fn called(&mut self, span: Span) -> Result<Vec<u8>> {
        let mut name = Vec::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (1, Value::Bytes(s)) = (f.number, f.value) {
                name = self.reader.read(s, NAME)?;
            }
        }
        Ok(name)
    }

    fn list(&mut self, span: Span) -> Result<Option<AttributeValue>> {
        let (mut texts, mut ints, mut floats) = (Vec::new(), Vec::new(), Vec::new());
        let (mut kinds, mut tensors) = (Vec::new(), Vec::new());
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.value) {
                (2, Value::Bytes(s)) => texts.push(self.reader.read(s, TEXT)?),
                (3, _) => self.reader.varints(&f, &mut |n| {
                    ints.push(n as i64);
                    Ok(())
                })?,
                (4, _) => self.reader.fixed32s(&f, &mut |n| {
                    floats.push(f32::from_bits(n));
                    Ok(())
                })?,
                (5, _) => self.reader.varints(&f, &mut |n| {
                    ints.push(i64::from(n != 0));
                    Ok(())
                })?,
                (6, _) => {
                    let mut seen = 0;
                    self.reader.varints(&f, &mut |n| {
                        // Types are a few: what is behind them is left out.
                        if seen < MOST_TYPES {
                            kinds.push(of_type(n));
                        }
                        seen += 1;
                        Ok(())
                    })?;
                }
                (7, Value::Bytes(s)) => {
                    self.take(1, f.at)?;
                    let dims = proto::shape(&mut self.reader, s)?;
                    kinds.push(of_shape(dims));
                }
                (8, Value::Bytes(s)) => {
                    self.take(2, f.at)?;
                    let proto = Proto::read(&mut self.reader, s)?;
                    tensors.extend(proto.tensor("", &self.home).ok());
                }
                (9, Value::Bytes(s)) => texts.push(self.called(s)?),
                _ => {}
            }
        }
        Ok(Some(if !texts.is_empty() {
            AttributeValue::Strs(texts)
        } else if !floats.is_empty() {
            AttributeValue::Floats(floats)
        } else if !kinds.is_empty() {
            AttributeValue::Types(kinds)
        } else if !tensors.is_empty() {
            AttributeValue::Tensors(tensors)
        } else {
            AttributeValue::Ints(ints)
        }))
    }
}

/// The type that a dtype's number is.
pub(super) fn of_type(id: u64) -> ValueType {
    ValueType::Tensor {
        dtype: types::kind(id).map(|k| k.dtype),
        shape: None,
    }
}

/// The type that a shape is.
fn of_shape(dims: Option<Vec<i64>>) -> ValueType {
    ValueType::Tensor {
        dtype: None,
        shape: dims.map(extents),
    }
}

/// Dimensions as a graph has them.
pub(super) fn extents(dims: Vec<i64>) -> Vec<Dim> {
    let dim = |n: i64| match n {
        n if n < 0 => Dim::Unknown,
        n => Dim::Known(n),
    };
    dims.into_iter().map(dim).collect()
}

/// Placeholders are what a graph takes, and what nobody in it reads is not known to be a result.
fn describe(node: &GraphNode, graph: &mut Graph) {
    if node.operator != "Placeholder" {
        return;
    }
    let of = |name: &str| match node.attribute(name) {
        Some(AttributeValue::Type(t)) => match t.as_ref() {
            ValueType::Tensor { dtype, shape } => (*dtype, shape.clone()),
            _ => (None, None),
        },
        _ => (None, None),
    };
    graph.inputs.push(GraphValue {
        name: node.name.clone(),
        kind: ValueType::Tensor {
            dtype: of("dtype").0,
            shape: of("shape").1,
        },
    });
}
