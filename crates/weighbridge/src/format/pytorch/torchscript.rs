//! TorchScript archives: `data.pkl` holds the module's attributes, `constants.pkl` the tensors
//! that code refers to, `code/` source that is never read here.
//!
//! Reference: `torch/csrc/jit/serialization/{export_module,import}.cpp`.

use std::collections::HashSet;

use weighbridge_core::Result;
use weighbridge_core::model::{Dict, FormatId, Model, Value};
use weighbridge_core::wire::zip::Archive;

use super::archive::{Records, big_endian, lower_record, text};
use super::read::fill;
use crate::OpenOptions;
use crate::structure::{self, Form};

/// Attributes every scripted module has.
const INTERNALS: &[&str] = &["training", "_is_full_backward_hook"];

pub(super) fn open(
    archive: &Archive,
    root: &str,
    options: &OpenOptions,
    depth: u32,
) -> Result<Model> {
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("torchscript");
    model.version = text(archive, &format!("{root}version"))?;
    let big = big_endian(archive, root)?;
    // torch 1.0 to 1.3 kept tensors under tensors/; later ones under data/.
    let folder = if archive
        .members()
        .iter()
        .any(|m| m.name.starts_with(&format!("{root}data/")))
    {
        "data/"
    } else {
        "tensors/"
    };
    let mut records = Records::new(archive, format!("{root}{folder}"), "", big);
    let low = lower_record(
        archive,
        &format!("{root}data.pkl"),
        &mut records,
        options,
        depth,
    )?;
    fill(&mut model, low);
    let mut attributes = Vec::new();
    let mut flat = Vec::new();
    if let Some(v) = model.structure.take() {
        flatten(&v, "", &mut flat, &mut attributes);
    }
    // `state.` of the module objects is not part of a parameter's name.
    model.structure = Some(Value::Dict(Dict {
        entries: flat,
        ..Dict::default()
    }));
    if !attributes.is_empty() {
        let tree = Value::Dict(Dict {
            entries: attributes,
            ..Dict::default()
        });
        let json = structure::to_json(&tree, Form::Stored).to_string();
        model
            .metadata
            .push(("torchscript.attributes".into(), Value::Str(json)));
    }
    let constants = format!("{root}constants.pkl");
    let mut records = Records::new(archive, format!("{root}constants/"), "", big);
    let low = lower_record(archive, &constants, &mut records, options, depth)?;
    let taken: HashSet<String> = model.tensors.iter().map(|t| t.name.clone()).collect();
    for mut t in low.tensors {
        t.name = format!("constants.{}", t.name);
        while taken.contains(&t.name) {
            t.name.push_str("#2");
        }
        if let Some(Value::Dict(d)) = &mut model.structure {
            d.entries
                .push((Value::Str(t.name.clone()), Value::Tensor(t.name.clone())));
        }
        model.tensors.push(t);
    }
    Ok(model)
}

/// Separates the tensors of a module tree from its other attributes.
fn flatten(
    v: &Value,
    path: &str,
    flat: &mut Vec<(Value, Value)>,
    attributes: &mut Vec<(Value, Value)>,
) {
    let join = |k: &str| {
        if path.is_empty() {
            k.to_owned()
        } else {
            format!("{path}.{k}")
        }
    };
    match v {
        Value::Tensor(name) => flat.push((Value::Str(name.clone()), v.clone())),
        Value::Object(o) => {
            if let Some(Value::Dict(d)) = &o.state {
                for (k, v) in &d.entries {
                    let k = super::lower::step_of(k);
                    if !INTERNALS.contains(&k.as_str()) {
                        flatten(v, &join(&k), flat, attributes);
                    }
                }
            }
        }
        Value::Dict(d) => {
            for (k, v) in &d.entries {
                flatten(v, &join(&super::lower::step_of(k)), flat, attributes);
            }
        }
        Value::List(items) | Value::Tuple(items) if items.iter().any(has_tensor) => {
            for (i, v) in items.iter().enumerate() {
                flatten(v, &join(&i.to_string()), flat, attributes);
            }
        }
        Value::Null => {}
        other => attributes.push((Value::Str(path.to_owned()), other.clone())),
    }
}

fn has_tensor(v: &Value) -> bool {
    match v {
        Value::Tensor(_) => true,
        Value::List(l) | Value::Tuple(l) => l.iter().any(has_tensor),
        Value::Dict(d) => d.entries.iter().any(|(_, v)| has_tensor(v)),
        Value::Object(o) => o.state.as_ref().is_some_and(has_tensor),
        _ => false,
    }
}
