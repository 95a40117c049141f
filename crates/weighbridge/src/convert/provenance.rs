//! What a set of weights keeps of the ONNX graph it was taken from: plain text, the same for equal
//! input.

use std::collections::HashMap;

use serde_json::Value as Json;
use weighbridge_core::model::{FormatId, Model, Value, Warning};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Limits, Result};

use crate::format::onnx::{digest, parse};

/// The key of the digest of the graph, [`digest::graph_sha256`].
pub(super) const GRAPH: &str = "onnx.graph_sha256";

/// The key of the names that tensors had in the graph, where they have others now: a JSON object
/// from the new name to the old one.
const NAMES: &str = "onnx.names";

/// Turns the metadata of an ONNX model into text that any format of weights takes.
pub(super) fn record(model: &mut Model, renamed: &HashMap<String, String>, limits: &Limits) {
    let mut out: Vec<(String, Value)> = Vec::with_capacity(model.metadata.len() + 2);
    for (key, value) in std::mem::take(&mut model.metadata) {
        match (key.as_str(), &value) {
            ("onnx.opset_import", Value::Dict(d)) => {
                let one =
                    |(k, v): &(Value, Value)| Some(format!("{} {}", k.as_str()?, v.as_int()?));
                let all: Vec<String> = d.entries.iter().filter_map(one).collect();
                out.push((key, Value::Str(all.join(", "))));
            }
            ("onnx.graph.metadata", Value::Dict(d)) => {
                for (k, v) in &d.entries {
                    if let Some(k) = k.as_str() {
                        out.push((format!("{key}.{k}"), v.clone()));
                    }
                }
            }
            (_, Value::Int(n)) => {
                let text = n.to_string();
                out.push((key, Value::Str(text)));
            }
            _ => out.push((key, value)),
        }
    }
    match graph(model, limits) {
        Ok(Some(digest)) => out.push((GRAPH.into(), Value::Str(digest))),
        Ok(None) => {}
        Err(e) => model.warnings.push(Warning::new(e.rule(), e.message())),
    }
    let mut names: Vec<(&String, &String)> = renamed.iter().map(|(old, new)| (new, old)).collect();
    names.sort_unstable();
    if !names.is_empty() {
        let map = names
            .into_iter()
            .map(|(k, v)| (k.clone(), v.as_str().into()));
        let json = Json::Object(map.collect());
        out.push((NAMES.into(), Value::Str(json.to_string())));
    }
    model.metadata = out;
}

/// Turns lists of texts in the metadata of an HDF5 file into JSON: Keras' lists of layers and
/// weights are told from it again when such a file is written.
pub(super) fn lists_as_text(model: &mut Model) {
    for (_, value) in &mut model.metadata {
        let Value::List(items) = value else { continue };
        let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
        if let Some(texts) = texts {
            let text = Json::from(texts).to_string();
            *value = Value::Str(text);
        }
    }
}

/// The digest of the graph of a model that was read from a file.
fn graph(model: &Model, limits: &Limits) -> Result<Option<String>> {
    let Some(part) = model.parts.first().filter(|p| p.path.is_file()) else {
        return Ok(None);
    };
    if model.format != FormatId::Onnx {
        return Ok(None);
    }
    let source = source::open_file(&part.path, Backend::Pread)?;
    let parsed = parse::parse(source.as_ref(), limits)?;
    digest::graph_sha256(source.as_ref(), &parsed.model).map(Some)
}
