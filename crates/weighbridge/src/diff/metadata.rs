//! Comparing what lies beside the tensors.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use weighbridge_core::Result;
use weighbridge_core::model::{Dict, Model, Value};

use crate::structure::{self, Form};

/// Keys that say how a file was written, not what is in it.
const OWN: [&str; 3] = ["format", "byteorder", "trailing_bytes"];

/// The differences between the metadata of two models. Keys of the metadata are themselves;
/// places in the structure are `structure` and their path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataDiff {
    /// Keys and places that only A has.
    pub only_in_a: Vec<String>,
    /// Keys and places that only B has.
    pub only_in_b: Vec<String>,
    /// Keys and places with different values.
    pub different: Vec<String>,
}

impl MetadataDiff {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.only_in_a.is_empty() && self.only_in_b.is_empty() && self.different.is_empty()
    }

    pub(super) fn to_json(&self) -> Json {
        json!({
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "different": self.different,
        })
    }
}

/// Compares key-values, structures and the tensors' attributes.
pub(super) fn compare(a: &Model, b: &Model) -> Result<MetadataDiff> {
    let mut out = MetadataDiff::default();
    maps(&entries(a), &entries(b), &mut out);
    match (&a.structure, &b.structure) {
        (Some(x), Some(y)) => Walk {
            a,
            b,
            out: &mut out,
        }
        .values(x, y, "structure")?,
        // A plain dict of the tensors says no more than no structure.
        (Some(s), None) if !structure::is_flat(s, a) => out.only_in_a.push("structure".into()),
        (None, Some(s)) if !structure::is_flat(s, b) => out.only_in_b.push("structure".into()),
        _ => {}
    }
    Ok(out)
}

/// Everything that is compared as text, by key.
fn entries(m: &Model) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (key, value) in &m.metadata {
        if !OWN.contains(&key.as_str()) && !key.starts_with("weighbridge.") {
            all.insert(
                key.clone(),
                structure::to_json(value, Form::Stored).to_string(),
            );
        }
    }
    if let Some(Json::Object(tensors)) = structure::tensor_attributes(m) {
        for (name, attributes) in tensors {
            all.insert(format!("tensor {name}"), attributes.to_string());
        }
    }
    all
}

fn maps(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>, out: &mut MetadataDiff) {
    for (key, value) in a {
        match b.get(key) {
            None => out.only_in_a.push(key.clone()),
            Some(other) if other != value => out.different.push(key.clone()),
            Some(_) => {}
        }
    }
    out.only_in_b
        .extend(b.keys().filter(|k| !a.contains_key(*k)).cloned());
}

struct Walk<'a> {
    a: &'a Model,
    b: &'a Model,
    out: &'a mut MetadataDiff,
}

impl Walk<'_> {
    fn values(&mut self, x: &Value, y: &Value, path: &str) -> Result<()> {
        match (x, y) {
            (Value::Dict(d), Value::Dict(e)) if d.class == e.class => {
                self.pairs(&pairs(d), &pairs(e), path)
            }
            (Value::List(l), Value::List(m)) | (Value::Tuple(l), Value::Tuple(m))
                if l.len() == m.len() =>
            {
                for (i, (x, y)) in l.iter().zip(m).enumerate() {
                    self.values(x, y, &format!("{path}.{i}"))?;
                }
                Ok(())
            }
            _ => {
                if !self.same(x, y)? {
                    self.out.different.push(path.to_owned());
                }
                Ok(())
            }
        }
    }

    fn pairs(&mut self, a: &[(String, &Value)], b: &[(String, &Value)], path: &str) -> Result<()> {
        let there: BTreeMap<&str, &Value> = b.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let here: BTreeMap<&str, &Value> = a.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        for (k, x) in a {
            let path = format!("{path}.{k}");
            match there.get(k.as_str()) {
                None => self.out.only_in_a.push(path),
                Some(y) => self.values(x, y, &path)?,
            }
        }
        let more = b.iter().filter(|(k, _)| !here.contains_key(k.as_str()));
        self.out
            .only_in_b
            .extend(more.map(|(k, _)| format!("{path}.{k}")));
        Ok(())
    }

    /// Whether two values are one, wherever their bytes lie. As text, so that NaN equals itself.
    fn same(&self, x: &Value, y: &Value) -> Result<bool> {
        let whole = |v: &Value, m: &Model| -> Result<Option<Value>> {
            match v {
                Value::Moved { value, tensor } => {
                    structure::bulk_bytes(value, m.tensor(tensor)).map(Some)
                }
                _ => Ok(None),
            }
        };
        let (left, right) = (whole(x, self.a)?, whole(y, self.b)?);
        let text = |v: &Value| structure::to_json(v, Form::Stored);
        Ok(text(left.as_ref().unwrap_or(x)) == text(right.as_ref().unwrap_or(y)))
    }
}

/// Entries and attributes of a mapping.
fn pairs(d: &Dict) -> Vec<(String, &Value)> {
    let entries = d.entries.iter().map(|(k, v)| (key(k), v));
    let rest = d.attributes.iter().map(|(k, v)| (k.clone(), v));
    entries.chain(rest).collect()
}

/// A mapping's key as a path step; the kind is told where text and numbers print alike.
fn key(k: &Value) -> String {
    match k {
        Value::Str(s) => s.clone(),
        other => structure::to_json(other, Form::Stored).to_string(),
    }
}
