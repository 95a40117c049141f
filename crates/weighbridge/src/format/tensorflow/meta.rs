//! `MetaGraphDef`: a graph with what it is called, how it is called and which files it needs
//! (`tensorflow/core/protobuf/meta_graph.proto`).

use weighbridge_core::Result;
use weighbridge_core::model::{Dict, Graph, GraphValue, Value as Meta, ValueType};
use weighbridge_core::wire::protobuf::{Message, Span, Value};

use super::graph::{Walk, extents, of_type};
use super::proto::{self, NAME};

/// What a meta graph says.
#[derive(Debug, Default)]
pub(super) struct MetaGraph {
    pub graph: Graph,
    pub tags: Vec<String>,
    /// The version of TensorFlow that wrote it.
    pub written_by: String,
    /// Names of the signatures with what they take and give.
    pub signatures: Vec<(String, Signature)>,
    /// Names of files in the model's `assets` folder.
    pub assets: Vec<String>,
}

/// A `SignatureDef`.
#[derive(Debug, Default)]
pub(super) struct Signature {
    method: String,
    inputs: Vec<(String, GraphValue)>,
    outputs: Vec<(String, GraphValue)>,
}

/// Reads the `MetaGraphDef` in `span`.
///
/// # Errors
/// What reading gives.
pub(super) fn read(walk: &mut Walk<'_>, span: Span) -> Result<MetaGraph> {
    let mut out = MetaGraph::default();
    let mut message = Message::new(span);
    while let Some(f) = walk.reader.next(&mut message)? {
        let Value::Bytes(inner) = f.value else {
            continue;
        };
        match f.number {
            1 => info(walk, inner, &mut out)?,
            2 => out.graph = walk.graph(inner)?.0,
            5 => {
                let (name, value) = entry(walk, inner)?;
                if let Some(value) = value {
                    let signature = signature(walk, value)?;
                    out.signatures.push((name, signature));
                }
            }
            6 => {
                let mut asset = Message::new(inner);
                while let Some(f) = walk.reader.next(&mut asset)? {
                    if let (2, Value::Bytes(s)) = (f.number, f.value) {
                        out.assets.push(walk.reader.text(s, NAME)?);
                    }
                }
            }
            _ => {}
        }
    }
    // What signatures take and give says more than placeholders do.
    let named = |all: &[(String, GraphValue)]| all.iter().map(|(_, v)| v.clone()).collect();
    let called = |(name, _): &&(String, Signature)| !name.starts_with("__saved_model");
    let main = |(name, _): &&(String, Signature)| name == "serving_default";
    let mut all = out.signatures.iter();
    let main = all.clone().find(main).or_else(|| all.find(called));
    if let Some((_, s)) = main {
        out.graph.inputs = named(&s.inputs);
        out.graph.outputs = named(&s.outputs);
    }
    Ok(out)
}

/// A `MetaInfoDef`.
fn info(walk: &mut Walk<'_>, span: Span, out: &mut MetaGraph) -> Result<()> {
    let mut message = Message::new(span);
    while let Some(f) = walk.reader.next(&mut message)? {
        match (f.number, f.value) {
            (4, Value::Bytes(s)) => out.tags.push(walk.reader.text(s, NAME)?),
            (5, Value::Bytes(s)) => out.written_by = walk.reader.text(s, NAME)?,
            _ => {}
        }
    }
    Ok(())
}

/// The key of an entry of a map, and where its value is.
fn entry(walk: &mut Walk<'_>, span: Span) -> Result<(String, Option<Span>)> {
    let (mut key, mut value) = (String::new(), None);
    let mut message = Message::new(span);
    while let Some(f) = walk.reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Bytes(s)) => key = walk.reader.text(s, NAME)?,
            (2, Value::Bytes(s)) => value = Some(s),
            _ => {}
        }
    }
    Ok((key, value))
}

fn signature(walk: &mut Walk<'_>, span: Span) -> Result<Signature> {
    let mut out = Signature::default();
    let mut message = Message::new(span);
    while let Some(f) = walk.reader.next(&mut message)? {
        let Value::Bytes(inner) = f.value else {
            continue;
        };
        match f.number {
            1 | 2 => {
                let (key, value) = entry(walk, inner)?;
                let value = match value {
                    Some(v) => tensor(walk, v)?,
                    None => GraphValue::default(),
                };
                match f.number {
                    1 => out.inputs.push((key, value)),
                    _ => out.outputs.push((key, value)),
                }
            }
            3 => out.method = walk.reader.text(inner, NAME)?,
            _ => {}
        }
    }
    // Entries of a map stand in no order of their own.
    out.inputs.sort_by(|a, b| a.0.cmp(&b.0));
    out.outputs.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// A `TensorInfo`.
fn tensor(walk: &mut Walk<'_>, span: Span) -> Result<GraphValue> {
    let mut out = GraphValue::default();
    let (mut dtype, mut shape) = (None, None);
    let mut message = Message::new(span);
    while let Some(f) = walk.reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Bytes(s)) => out.name = walk.reader.text(s, NAME)?,
            (2, Value::Varint(n)) => dtype = Some(n),
            (3, Value::Bytes(s)) => shape = proto::shape(&mut walk.reader, s)?,
            _ => {}
        }
    }
    let dtype = match dtype.map(of_type) {
        Some(ValueType::Tensor { dtype, .. }) => dtype,
        _ => None,
    };
    out.kind = ValueType::Tensor {
        dtype,
        shape: shape.map(extents),
    };
    Ok(out)
}

fn dict(entries: Vec<(String, Meta)>) -> Meta {
    let entries = entries.into_iter().map(|(k, v)| (Meta::Str(k), v));
    Meta::Dict(Dict {
        entries: entries.collect(),
        ..Dict::default()
    })
}

fn texts(all: &[String]) -> Meta {
    Meta::List(all.iter().cloned().map(Meta::Str).collect())
}

impl Signature {
    fn meta(&self) -> Meta {
        dict(vec![
            ("method".into(), Meta::Str(self.method.clone())),
            ("inputs".into(), arguments(&self.inputs)),
            ("outputs".into(), arguments(&self.outputs)),
        ])
    }
}

fn arguments(all: &[(String, GraphValue)]) -> Meta {
    let one = |v: &GraphValue| {
        let mut said = vec![("tensor".to_owned(), Meta::Str(v.name.clone()))];
        if let ValueType::Tensor { dtype, shape } = &v.kind {
            said.extend(dtype.map(|d| ("dtype".to_owned(), Meta::Str(d.to_string()))));
            let dims = shape.iter().flatten().map(|d| match d {
                weighbridge_core::model::Dim::Known(n) => Meta::Int(*n),
                _ => Meta::Int(-1),
            });
            if shape.is_some() {
                said.push(("shape".to_owned(), Meta::List(dims.collect())));
            }
        }
        dict(said)
    };
    dict(all.iter().map(|(k, v)| (k.clone(), one(v))).collect())
}

impl MetaGraph {
    /// What it says, as metadata of the model.
    pub(super) fn metadata(&self) -> Vec<(String, Meta)> {
        let mut out = Vec::new();
        if !self.written_by.is_empty() {
            let version = Meta::Str(self.written_by.clone());
            out.push(("tensorflow_version".into(), version));
        }
        if !self.tags.is_empty() {
            out.push(("tags".into(), texts(&self.tags)));
        }
        if !self.signatures.is_empty() {
            let mut all: Vec<_> = self.signatures.iter().collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            let all = all.into_iter().map(|(k, s)| (k.clone(), s.meta()));
            out.push(("signatures".into(), dict(all.collect())));
        }
        if !self.assets.is_empty() {
            out.push(("assets".into(), texts(&self.assets)));
        }
        out
    }
}
