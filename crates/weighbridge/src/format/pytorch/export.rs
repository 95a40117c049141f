//! `torch.export` archives (`.pt2`): weights as raw records, described in JSON.
//!
//! Reference: `torch/export/pt2_archive/{constants,_package}.py` and
//! `torch/_export/serde/schema.py`.

use std::sync::Arc;

use serde_json::Value as Json;
use weighbridge_core::model::{
    Dict, FormatId, Graph, GraphNode, GraphValue, Model, Shape, Tensor, Value,
};
use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::zip::Archive;
use weighbridge_core::{Error, Result};

use super::archive::{Records, big_endian, text};
use super::rebuild::strided_view;
use super::storages::{StorageRef, StorageRequest, Storages};
use super::{dtype, read};
use crate::OpenOptions;

fn bad(message: impl Into<String>) -> Error {
    Error::malformed("pytorch.export-config", message)
}

pub(super) fn open(
    archive: &Archive,
    root: &str,
    options: &OpenOptions,
    depth: u32,
) -> Result<Model> {
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("pt2");
    model.version = text(archive, &format!("{root}archive_version"))?;
    let big = big_endian(archive, root)?;
    let limits = &options.limits;
    for (folder, config) in [
        ("data/weights/", "_weights_config.json"),
        ("data/constants/", "_constants_config.json"),
    ] {
        let prefix = format!("{root}{folder}");
        let mut records = Records::new(archive, prefix.clone(), "", big);
        let configs: Vec<_> = archive
            .members()
            .iter()
            .filter(|m| m.name.starts_with(&prefix) && m.name.ends_with(config))
            .collect();
        for m in &configs {
            let json = archive.read(m, limits.text_bytes)?;
            let json: Json = serde_json::from_slice(&json)
                .map_err(|e| bad(format!("no JSON: {e}")).within(m.name.as_str()))?;
            let entries = json
                .get("config")
                .and_then(Json::as_object)
                .ok_or_else(|| bad("there is no object `config`").within(m.name.as_str()))?;
            for (name, entry) in entries {
                let t = weight(archive, &prefix, &mut records, name, entry, options, depth)
                    .map_err(|e| e.within(name.as_str()).within(m.name.as_str()))?;
                model.tensors.extend(t);
            }
        }
    }
    let expanded = model
        .tensors
        .iter()
        .fold(0u64, |n, t| n.saturating_add(t.byte_len()));
    let cap = limits.expand_cap(archive.source().len());
    if expanded > cap {
        return Err(Error::limit(
            "pytorch.expansion",
            format!("the views of this file expand to {expanded} bytes, the cap is {cap}"),
        ));
    }
    let entries = model
        .tensors
        .iter()
        .map(|t| (Value::Str(t.name.clone()), Value::Tensor(t.name.clone())))
        .collect();
    model.structure = Some(Value::Dict(Dict {
        entries,
        ..Dict::default()
    }));
    model.graph = graph(archive, root, limits.text_bytes);
    for m in archive.members() {
        if m.name.starts_with(&format!("{root}data/sample_inputs/")) {
            let what = m.name.strip_prefix(root).unwrap_or(&m.name).to_owned();
            model.omitted.push((
                what,
                "sample inputs of the exported program are no weights".into(),
            ));
        }
    }
    Ok(model)
}

/// One entry of a weights config: a raw record with its layout, or a pickled tensor.
fn weight(
    archive: &Archive,
    prefix: &str,
    records: &mut Records<'_>,
    name: &str,
    entry: &Json,
    options: &OpenOptions,
    depth: u32,
) -> Result<Option<Tensor>> {
    let path = entry
        .get("path_name")
        .and_then(Json::as_str)
        .ok_or_else(|| bad("no path_name"))?;
    if entry.get("use_pickle").and_then(Json::as_bool) == Some(true) {
        let member = archive
            .by_name(&format!("{prefix}{path}"))
            .ok_or_else(|| bad(format!("the record {path} is missing")))?;
        let bytes = archive.read(member, options.limits.inflate_bytes)?;
        let source = Arc::new(SliceSource::new(bytes, path));
        let inner = read::open_nested(source, options, depth + 1)?;
        return Ok(inner.tensors.into_iter().next().map(|mut t| {
            t.name = name.to_owned();
            t
        }));
    }
    let Some(meta) = entry.get("tensor_meta").filter(|m| !m.is_null()) else {
        return Ok(None);
    };
    let number = meta
        .get("dtype")
        .and_then(Json::as_u64)
        .ok_or_else(|| bad("no dtype"))?;
    let dtype = dtype::of_export_number(number).ok_or_else(|| {
        Error::unsupported("pytorch.dtype", format!("the export dtype number {number}"))
    })?;
    let ints = |key: &str| -> Result<Shape> {
        let list = meta
            .get(key)
            .and_then(Json::as_array)
            .ok_or_else(|| bad(format!("no {key}")))?;
        list.iter()
            .map(|v| int(v).ok_or_else(|| bad(format!("{key} holds {v}, which is no plain count"))))
            .collect()
    };
    let (shape, strides) = (ints("sizes")?, ints("strides")?);
    let offset = meta.get("storage_offset").and_then(int).unwrap_or(0);
    let request = StorageRequest {
        key: path.to_owned(),
        dtype: None,
        numel: 0,
        view: None,
    };
    let storage = records.find(&request)?;
    let len = storage.len();
    let storage = StorageRef {
        storage,
        base: 0,
        len,
        dtype: None,
    };
    // Exporters before torch 2.10 wrote the tensor contiguous whatever its strides were.
    let mut t = strided_view(&storage, dtype, offset, shape, strides)?;
    t.name = name.to_owned();
    if meta.get("requires_grad").and_then(Json::as_bool) == Some(true) {
        t.extra_mut()
            .attributes
            .push(("requires_grad".into(), Value::Bool(true)));
    }
    Ok(Some(t))
}

/// `{"as_int": n}` or a plain number.
fn int(v: &Json) -> Option<u64> {
    v.get("as_int").unwrap_or(v).as_u64()
}

/// The nodes of `models/model.json`, for `inspect`. A graph that cannot be read costs nothing.
fn graph(archive: &Archive, root: &str, limit: u64) -> Option<Graph> {
    let prefix = format!("{root}models/");
    let m = archive
        .members()
        .iter()
        .find(|m| m.name.starts_with(&prefix) && m.name.ends_with(".json"))?;
    let json: Json = serde_json::from_slice(&archive.read(m, limit).ok()?).ok()?;
    let g = json.get("graph_module")?.get("graph")?;
    let names = |v: Option<&Json>| -> Vec<String> {
        let list = v
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter()
            .filter_map(|v| {
                v.as_object()?
                    .values()
                    .next()?
                    .get("name")?
                    .as_str()
                    .map(str::to_owned)
            })
            .collect()
    };
    let nodes = g.get("nodes")?.as_array()?;
    Some(Graph {
        inputs: names(g.get("inputs"))
            .into_iter()
            .map(GraphValue::named)
            .collect(),
        outputs: names(g.get("outputs"))
            .into_iter()
            .map(GraphValue::named)
            .collect(),
        nodes: nodes
            .iter()
            .map(|n| GraphNode {
                operator: n
                    .get("target")
                    .and_then(Json::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                name: n
                    .get("name")
                    .and_then(Json::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                inputs: n
                    .get("inputs")
                    .and_then(Json::as_array)
                    .map(Vec::as_slice)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|i| {
                        i.get("arg")?
                            .as_object()?
                            .values()
                            .next()?
                            .get("name")?
                            .as_str()
                            .map(str::to_owned)
                    })
                    .collect(),
                outputs: names(n.get("outputs")),
                ..GraphNode::default()
            })
            .collect(),
        ..Graph::default()
    })
}
