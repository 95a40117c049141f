//! From messages to a model: tensors whose bytes stay where they are, and the graph.

use std::collections::HashMap;
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{
    AttributeValue, Dict, Dim, FormatId, Graph, GraphAttribute, GraphFunction, GraphNode,
    GraphValue, Model, Part, Storage, StorageData, Tensor, Value, ValueType, Warning,
};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::Span;

use super::constants::constant;
use super::external::Files;
use super::raw::{self, kind};
use super::{parse, types};
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

/// Longest documentation that is read with the model, in bytes.
const MOST_DOC: u64 = 1 << 20;

/// Bytes that the labels of any file's tensors may take, and eight for each of its own.
const SPARE_LABELS: u64 = 8 << 20;

/// ONNX files. See the [module](super).
#[derive(Debug, Clone, Copy)]
pub struct Onnx;

impl FormatReader for Onnx {
    fn id(&self) -> FormatId {
        FormatId::Onnx
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        let name = source.name().to_owned();
        open(source, options).map_err(|e| e.in_file(name))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        super::verify::verify(source.as_ref(), options)
    }
}

fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    open_both(source, options).map(|(_, model)| model)
}

/// The model as its fields stand, and what they mean.
///
/// # Errors
/// As [`FormatReader::open`].
pub(super) fn open_both(
    source: Arc<dyn ByteSource>,
    options: &OpenOptions,
) -> Result<(raw::Model, Model)> {
    let parsed = parse::parse(source.as_ref(), &options.limits)?;
    let files = Files::beside(source.as_ref(), options.backend, &options.limits);
    let mut lower = Lower::new(source, files, options.constants)?;
    let mut model = lower.model(&parsed.model)?;
    for e in parsed.faults {
        model.warnings.push(Warning {
            offset: e.byte_span().map(|s| s.offset),
            ..Warning::new(e.rule(), e.message())
        });
    }
    Ok((parsed.model, model))
}

/// A model on its way from its messages.
pub(crate) struct Lower {
    pub(super) source: Arc<dyn ByteSource>,
    /// The whole file, which tensors are views of.
    pub(super) storage: Arc<Storage>,
    pub(super) files: Files,
    /// Whether what `Constant` nodes make is listed.
    constants: bool,
    /// How many bytes the labels of tensors may still take.
    labels_left: u64,
    pub(super) warnings: Vec<Warning>,
    /// Every tensor with a name of its own, in the order of the file.
    tensors: Vec<Tensor>,
    names: HashMap<String, u32>,
}

impl Lower {
    /// Nothing yet of the model in `source`, with `files` beside it.
    ///
    /// # Errors
    /// None that a file gives.
    pub(crate) fn new(source: Arc<dyn ByteSource>, files: Files, constants: bool) -> Result<Self> {
        let data = StorageData::Raw {
            source: Arc::clone(&source),
            offset: 0,
            checksum: None,
        };
        let storage = Storage::new("model", source.len(), false, data)?.into_region();
        let labels_left = source.len().saturating_mul(8).saturating_add(SPARE_LABELS);
        Ok(Self {
            source,
            labels_left,
            storage: Arc::new(storage),
            files,
            constants,
            warnings: Vec::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
        })
    }

    fn model(&mut self, m: &raw::Model) -> Result<Model> {
        let mut model = Model::new(FormatId::Onnx);
        model.version = m.ir_version.map(|v| v.to_string());
        model.metadata = self.metadata(m)?;
        let mut graph = match &m.graph {
            Some(g) => self.graph(g, "")?,
            None => {
                let message = "the model has no graph";
                self.warnings.push(Warning::new("onnx.no-graph", message));
                Graph::default()
            }
        };
        graph.opsets = opsets(&m.opsets);
        for f in &m.functions {
            let f = self.function(f)?;
            graph.functions.push(f);
        }
        for t in &m.training {
            for (role, g) in [
                ("initialization", &t.initialization),
                ("algorithm", &t.algorithm),
            ] {
                if let Some(g) = g {
                    let g = self.graph(g, &format!("training.{role}"))?;
                    graph.training.push((role.to_owned(), g));
                }
            }
        }
        model.graph = Some(graph);
        model.tensors = std::mem::take(&mut self.tensors);
        model.parts = vec![Part {
            path: self.source.name().into(),
            bytes: self.source.len(),
        }];
        let beside = self.files.parts.drain(..);
        model
            .parts
            .extend(beside.map(|(path, bytes)| Part { path, bytes }));
        model.container = (model.parts.len() > 1).then_some("external");
        for path in &self.files.hard_links {
            let message = format!(
                "{} has other names too, under which it can be changed",
                path.display()
            );
            let w = Warning::new("onnx.external-hard-link", message);
            self.warnings.push(w);
        }
        model.warnings = std::mem::take(&mut self.warnings);
        Ok(model)
    }

    fn metadata(&self, m: &raw::Model) -> Result<Vec<(String, Value)>> {
        let mut out = Vec::new();
        let mut put = |key: &str, value| out.push((format!("onnx.{key}"), value));
        if let Some(v) = m.ir_version {
            put("ir_version", Value::Int(v));
        }
        for (key, text) in [
            ("producer_name", &m.producer_name),
            ("producer_version", &m.producer_version),
            ("domain", &m.domain),
        ] {
            if let Some(t) = text.as_ref().filter(|t| !t.text.is_empty()) {
                put(key, Value::Str(t.text.clone()));
            }
        }
        if let Some(v) = m.model_version {
            put("model_version", Value::Int(v));
        }
        let graph_doc = m.graph.as_ref().and_then(|g| g.doc_string);
        for (key, span) in [
            ("doc_string", m.doc_string),
            ("graph.doc_string", graph_doc),
        ] {
            if let Some(span) = span.filter(|s| !s.is_empty() && s.len() <= MOST_DOC) {
                let bytes = self.source.read_vec(span.start..span.end)?;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                put(key, Value::Str(text));
            }
        }
        if let Some(name) = m.graph.as_ref().and_then(|g| g.name.as_ref()) {
            put("graph.name", Value::Str(name.text.clone()));
        }
        let entries = m.opsets.iter().map(|o| {
            let domain = match o.domain.as_str() {
                "" => "ai.onnx",
                d => d,
            };
            (Value::Str(domain.to_owned()), Value::Int(o.version))
        });
        let opsets = Dict {
            entries: entries.collect(),
            ..Dict::default()
        };
        put("opset_import", Value::Dict(opsets));
        if let Some(g) = m.graph.as_ref().filter(|g| !g.metadata.is_empty()) {
            let entries = g.metadata.iter().map(|e| {
                let key = Value::Str(e.key.text.clone());
                (key, Value::Str(e.value.text.clone()))
            });
            let dict = Dict {
                entries: entries.collect(),
                ..Dict::default()
            };
            put("graph.metadata", Value::Dict(dict));
        }
        let own = m.metadata.iter();
        out.extend(own.map(|e| (e.key.text.clone(), Value::Str(e.value.text.clone()))));
        Ok(out)
    }

    /// A graph; `place` is the path of the nodes it lies in, empty for the model's own.
    fn graph(&mut self, g: &raw::Graph, place: &str) -> Result<Graph> {
        let mut out = Graph {
            name: g.name.as_ref().map_or_else(String::new, |t| t.text.clone()),
            inputs: self.values(&g.inputs),
            outputs: self.values(&g.outputs),
            values: self.values(&g.values),
            ..Graph::default()
        };
        let roles: HashMap<&str, &raw::Annotation> = g
            .quantization
            .iter()
            .map(|a| (a.tensor.text.as_str(), a))
            .collect();
        for t in &g.initializers {
            let mut tensor = self.tensor(t)?;
            if let Some(a) = roles.get(t.name()) {
                let value = annotation(a);
                let extra = tensor.extra_mut();
                extra.attributes.push(("quantization".into(), value));
            }
            out.initializers.push(tensor.clone());
            self.list(tensor, place);
        }
        for s in &g.sparse_initializers {
            let tensor = self.sparse(s)?;
            out.initializers.push(tensor.clone());
            self.list(tensor, place);
        }
        for n in &g.nodes {
            let node = self.node(n, place)?;
            out.nodes.push(node);
        }
        Ok(out)
    }

    /// Lists a tensor of the model under a name that no other has.
    fn list(&mut self, mut tensor: Tensor, place: &str) {
        // Many tensors deep inside would make much of a small file.
        let long = place.len().saturating_add(tensor.name.len()) as u64;
        if !place.is_empty()
            && let Some(left) = self.labels_left.checked_sub(long)
        {
            self.labels_left = left;
            let label = format!("{place}.{}", tensor.name);
            tensor.extra_mut().label = Some(label);
        }
        let seen = self.names.entry(tensor.name.clone()).or_insert(0);
        *seen = seen.saturating_add(1);
        let mut n = *seen;
        if n > 1 {
            let first = tensor.name.clone();
            let mut name = format!("{first}#{n}");
            while self.names.contains_key(&name) {
                n = n.saturating_add(1);
                name = format!("{first}#{n}");
            }
            let message = format!("the name {first} stands more than once; one became {name}");
            let w = Warning::new("names.collision", message);
            self.warnings.push(w);
            self.names.insert(name.clone(), 1);
            tensor.name = name;
        }
        self.tensors.push(tensor);
    }

    fn values(&self, all: &[raw::ValueInfo]) -> Vec<GraphValue> {
        let one = |v: &raw::ValueInfo| GraphValue {
            name: v.name.text.clone(),
            kind: v.kind.as_ref().map_or(ValueType::Unknown, value_type),
        };
        all.iter().map(one).collect()
    }

    fn node(&mut self, n: &raw::Node, place: &str) -> Result<GraphNode> {
        let texts = |all: &[raw::Text]| all.iter().map(|t| t.text.clone()).collect();
        let title = || match n.name() {
            "" => n.outputs.first().map_or("", |o| o.text.as_str()),
            name => name,
        };
        let mut out = GraphNode {
            operator: n.operator.text.clone(),
            domain: n.domain().to_owned(),
            overload: n
                .overload
                .as_ref()
                .map_or_else(String::new, |t| t.text.clone()),
            name: n.name().to_owned(),
            inputs: texts(&n.inputs),
            outputs: texts(&n.outputs),
            attributes: Vec::with_capacity(n.attributes.len()),
            offset: Some(n.span.start),
        };
        for a in &n.attributes {
            let a = self
                .attribute(a, place, title())
                .map_err(|e| e.within(n.title()))?;
            out.attributes.push(a);
        }
        if self.constants
            && let Some(tensor) = constant(&out)?
        {
            self.list(tensor, place);
        }
        Ok(out)
    }

    fn attribute(&mut self, a: &raw::Attribute, place: &str, node: &str) -> Result<GraphAttribute> {
        let inside = || {
            let steps = [place, node, a.name.text.as_str()];
            let steps: Vec<&str> = steps.into_iter().filter(|s| !s.is_empty()).collect();
            // The path of a graph deep inside would grow at every level.
            match place.len() > 1 << 10 {
                true => place.to_owned(),
                false => steps.join("."),
            }
        };
        let value = if let Some(r) = &a.reference {
            AttributeValue::Reference(r.text.clone())
        } else {
            match kind_of(a) {
                kind::FLOAT => AttributeValue::Float(a.f.unwrap_or_default()),
                kind::INT => AttributeValue::Int(a.i.unwrap_or_default()),
                kind::STRING => AttributeValue::Str(self.text(a.s.unwrap_or_default())?),
                kind::TENSOR => match &a.t {
                    Some(t) => AttributeValue::Tensor(Box::new(self.tensor(t)?)),
                    None => AttributeValue::Other(kind::TENSOR),
                },
                kind::SPARSE_TENSOR => match &a.sparse {
                    Some(s) => AttributeValue::Tensor(Box::new(self.sparse(s)?)),
                    None => AttributeValue::Other(kind::SPARSE_TENSOR),
                },
                kind::GRAPH => match &a.g {
                    Some(g) => AttributeValue::Graph(Box::new(self.graph(g, &inside())?)),
                    None => AttributeValue::Other(kind::GRAPH),
                },
                kind::FLOATS => AttributeValue::Floats(a.floats.clone()),
                kind::INTS => AttributeValue::Ints(a.ints.clone()),
                kind::STRINGS => {
                    let texts = a.strings.iter().map(|s| self.text(*s));
                    AttributeValue::Strs(texts.collect::<Result<_>>()?)
                }
                kind::TENSORS => {
                    let tensors = a.tensors.iter().map(|t| self.tensor(t));
                    AttributeValue::Tensors(tensors.collect::<Result<_>>()?)
                }
                kind::SPARSE_TENSORS => {
                    let tensors = a.sparses.iter().map(|t| self.sparse(t));
                    AttributeValue::Tensors(tensors.collect::<Result<_>>()?)
                }
                kind::GRAPHS => {
                    let place = inside();
                    let graphs = a.graphs.iter().map(|g| self.graph(g, &place));
                    AttributeValue::Graphs(graphs.collect::<Result<_>>()?)
                }
                kind::TYPE_PROTO => {
                    let kind = a.tp.as_ref().map_or(ValueType::Unknown, |t| value_type(t));
                    AttributeValue::Type(Box::new(kind))
                }
                kind::TYPE_PROTOS => {
                    AttributeValue::Types(a.types.iter().map(value_type).collect())
                }
                other => AttributeValue::Other(other),
            }
        };
        Ok(GraphAttribute {
            name: a.name.text.clone(),
            value,
        })
    }

    fn text(&self, span: Span) -> Result<Vec<u8>> {
        self.source.read_vec(span.start..span.end)
    }

    fn function(&mut self, f: &raw::Function) -> Result<GraphFunction> {
        let texts = |all: &[raw::Text]| all.iter().map(|t| t.text.clone()).collect();
        let text = |t: &Option<raw::Text>| t.as_ref().map_or_else(String::new, |t| t.text.clone());
        let mut out = GraphFunction {
            domain: text(&f.domain),
            name: f.name.text.clone(),
            overload: text(&f.overload),
            inputs: texts(&f.inputs),
            outputs: texts(&f.outputs),
            attributes: texts(&f.attributes),
            opsets: opsets(&f.opsets),
            offset: Some(f.span.start),
            ..GraphFunction::default()
        };
        let place = f.name.text.as_str();
        for a in &f.defaults {
            let a = self.attribute(a, place, "")?;
            out.defaults.push(a);
        }
        for n in &f.nodes {
            let n = self.node(n, place)?;
            out.nodes.push(n);
        }
        Ok(out)
    }
}

/// The kind of an attribute. Files of format version 1 do not say it: what is there tells.
pub(super) fn kind_of(a: &raw::Attribute) -> i64 {
    if let Some(k) = a.kind.filter(|&k| k != kind::UNDEFINED) {
        return k;
    }
    let there = [
        (a.f.is_some(), kind::FLOAT),
        (a.i.is_some(), kind::INT),
        (a.s.is_some(), kind::STRING),
        (a.t.is_some(), kind::TENSOR),
        (a.g.is_some(), kind::GRAPH),
        (!a.floats.is_empty(), kind::FLOATS),
        (!a.ints.is_empty(), kind::INTS),
        (!a.strings.is_empty(), kind::STRINGS),
        (!a.tensors.is_empty(), kind::TENSORS),
        (!a.graphs.is_empty(), kind::GRAPHS),
        (a.sparse.is_some(), kind::SPARSE_TENSOR),
        (!a.sparses.is_empty(), kind::SPARSE_TENSORS),
        (a.tp.is_some(), kind::TYPE_PROTO),
        (!a.types.is_empty(), kind::TYPE_PROTOS),
    ];
    let first = there.into_iter().find(|(yes, _)| *yes);
    first.map_or(kind::UNDEFINED, |(_, k)| k)
}

fn opsets(all: &[raw::Opset]) -> Vec<(String, i64)> {
    all.iter().map(|o| (o.domain.clone(), o.version)).collect()
}

fn annotation(a: &raw::Annotation) -> Value {
    let entries = a.parameters.iter().map(|e| {
        let key = Value::Str(e.key.text.clone());
        (key, Value::Str(e.value.text.clone()))
    });
    Value::Dict(Dict {
        entries: entries.collect(),
        ..Dict::default()
    })
}

fn value_type(t: &raw::Type) -> ValueType {
    let inner = |t: &Option<Box<raw::Type>>| {
        let kind = t.as_ref().map_or(ValueType::Unknown, |t| value_type(t));
        Box::new(kind)
    };
    let dims = |all: &Option<Vec<raw::Dimension>>| {
        let one = |d: &raw::Dimension| match (d.value, &d.symbol) {
            (Some(n), _) => Dim::Known(n),
            (None, Some(s)) if !s.text.is_empty() => Dim::Symbol(s.text.clone()),
            _ => Dim::Unknown,
        };
        all.as_ref().map(|all| all.iter().map(one).collect())
    };
    match &t.value {
        raw::TypeValue::Nothing => ValueType::Unknown,
        raw::TypeValue::Tensor(e, shape) => ValueType::Tensor {
            dtype: types::dtype(*e),
            shape: dims(shape),
        },
        raw::TypeValue::SparseTensor(e, shape) => ValueType::SparseTensor {
            dtype: types::dtype(*e),
            shape: dims(shape),
        },
        raw::TypeValue::Sequence(t) => ValueType::Sequence(inner(t)),
        raw::TypeValue::Optional(t) => ValueType::Optional(inner(t)),
        raw::TypeValue::Map(key, value) => ValueType::Map {
            key: types::dtype(*key),
            value: inner(value),
        },
        raw::TypeValue::Opaque(domain, name) => ValueType::Opaque {
            domain: domain.clone(),
            name: name.clone(),
        },
    }
}
