//! The JSON document of `inspect`, serialised tensor by tensor so that a model of a hundred
//! thousand tensors needs no second copy of itself.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value as Json, json};
use weighbridge::Tensor;
use weighbridge::structure::{Form, to_json};
use weighbridge_core::model::{DType, Layout, Quantization};

use super::Inspected;
use crate::output::SCHEMA_VERSION;

/// In groups larger than this, tensors do not name each other.
const MOST_ALIASES: usize = 16;

/// The document of one model.
pub(super) struct Document<'a> {
    x: &'a Inspected<'a>,
    /// For each tensor, the group of those that share its storage.
    groups: Vec<Option<usize>>,
    members: Vec<Vec<usize>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(x: &'a Inspected<'a>) -> Self {
        let members = x.model.alias_groups();
        let mut groups = vec![None; x.model.tensors.len()];
        for (g, tensors) in members.iter().enumerate() {
            for &t in tensors {
                if let Some(slot) = groups.get_mut(t) {
                    *slot = Some(g);
                }
            }
        }
        Self { x, groups, members }
    }

    /// The document as a value, for lists of several models.
    pub(super) fn to_json(&self) -> Json {
        // Serialising into a value cannot fail: there are no maps with keys that are no strings.
        serde_json::to_value(self).unwrap_or_default()
    }

    fn metadata(&self) -> Map<String, Json> {
        let model = &self.x.model;
        let mut out = Map::new();
        let mut put = |key: &str, value: Json| {
            // The structure has the plain name; a key-value that is called the same steps aside.
            let mut name = key.to_owned();
            let mut n = 2;
            while out.contains_key(&name) {
                name = format!("{key}#{n}");
                n += 1;
            }
            out.insert(name, value);
        };
        if let Some(s) = &model.structure {
            put("structure", to_json(s, Form::Inspect));
        }
        for (k, v) in &model.metadata {
            put(k, to_json(v, Form::Inspect));
        }
        out
    }
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let model = &self.x.model;
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("schema_version", &SCHEMA_VERSION)?;
        m.serialize_entry("path", &self.x.path.to_string_lossy())?;
        m.serialize_entry("format", model.format.as_str())?;
        if let Some(c) = model.container {
            m.serialize_entry("container", c)?;
        }
        m.serialize_entry("version", &model.version)?;
        let files: Vec<Json> = model
            .parts
            .iter()
            .map(|p| json!({"path": p.path.to_string_lossy(), "bytes": p.bytes}))
            .collect();
        m.serialize_entry("files", &files)?;
        m.serialize_entry("metadata", &self.metadata())?;
        m.serialize_entry("tensors", &Tensors(self))?;
        if !self.members.is_empty() {
            m.serialize_entry("shared", &Shared(self))?;
        }
        if let Some(g) = &model.graph {
            m.serialize_entry("graph", &super::graph::document(g))?;
        }
        let warnings: Vec<Json> = model.warnings.iter().map(warning).collect();
        m.serialize_entry("warnings", &warnings)?;
        let omitted: Vec<Json> = model
            .omitted
            .iter()
            .map(|(what, why)| json!({"what": what, "why": why}))
            .collect();
        if !omitted.is_empty() {
            m.serialize_entry("omitted", &omitted)?;
        }
        m.end()
    }
}

fn warning(w: &weighbridge_core::model::Warning) -> Json {
    let mut m = Map::new();
    m.insert("rule".into(), w.rule.into());
    m.insert("message".into(), w.message.as_str().into());
    if let Some(o) = w.offset {
        m.insert("offset".into(), o.into());
    }
    m.into()
}

/// The groups of tensors that share storage.
struct Shared<'a>(&'a Document<'a>);

impl Serialize for Shared<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let tensors = &self.0.x.model.tensors;
        s.collect_seq(self.0.members.iter().map(|group| {
            let name = |&i: &usize| tensors.get(i).map(|t| t.name.as_str());
            group.iter().filter_map(name).collect::<Vec<&str>>()
        }))
    }
}

struct Tensors<'a>(&'a Document<'a>);

impl Serialize for Tensors<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let tensors = &self.0.x.model.tensors;
        let mut seq = s.serialize_seq(Some(tensors.len()))?;
        for i in 0..tensors.len() {
            seq.serialize_element(&One {
                document: self.0,
                index: i,
            })?;
        }
        seq.end()
    }
}

/// One tensor of the document.
struct One<'a> {
    document: &'a Document<'a>,
    index: usize,
}

impl One<'_> {
    fn aliases<'t>(&self, tensors: &'t [Tensor]) -> Vec<&'t str> {
        let group = self.document.groups.get(self.index).copied().flatten();
        let members = group.and_then(|g| self.document.members.get(g));
        // A flat buffer of a hundred thousand tensors would list ten thousand million names;
        // `shared` has each once.
        let members = members.filter(|m| m.len() <= MOST_ALIASES);
        members
            .into_iter()
            .flatten()
            .filter(|&&i| i != self.index)
            .filter_map(|&i| tensors.get(i))
            .map(|t| t.name.as_str())
            .collect()
    }
}

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let x = self.document.x;
        let mut m = s.serialize_map(None)?;
        let Some(t) = x.model.tensors.get(self.index) else {
            return m.end();
        };
        m.serialize_entry("name", &t.name)?;
        if let Some(label) = t.label() {
            m.serialize_entry("label", label)?;
        }
        m.serialize_entry("dtype", &t.dtype.to_string())?;
        let shape = (t.dtype != DType::Null).then_some(t.shape.as_slice());
        m.serialize_entry("shape", &shape)?;
        m.serialize_entry("bytes", &t.byte_len())?;
        if let Some(hash) = x.hashes.get(self.index) {
            m.serialize_entry("sha256", &hash.map(hex::encode))?;
        }
        if let Some(Some(stats)) = x.stats.get(self.index) {
            m.serialize_entry("stats", &super::values::stats_json(stats))?;
        }
        if t.layout != Layout::Strided {
            m.serialize_entry("layout", t.layout.as_str())?;
        }
        if let Some(sparse) = t.sparse() {
            let nnz = sparse.values.shape.first();
            m.serialize_entry("nnz", &nnz)?;
        }
        if let Some(q) = t.quantization() {
            m.serialize_entry("quantization", &quantization(q))?;
        }
        let aliases = self.aliases(&x.model.tensors);
        if !aliases.is_empty() {
            m.serialize_entry("aliases", &aliases)?;
        }
        m.end()
    }
}

fn quantization(q: &Quantization) -> Json {
    match q {
        Quantization::PerTensor { scale, zero_point } => json!({
            "scheme": "per_tensor_affine",
            "scale": super::values::number(*scale),
            "zero_point": zero_point,
        }),
        Quantization::PerChannel {
            axis,
            scales,
            zero_points,
            float_qparams,
        } => json!({
            "scheme": if *float_qparams {
                "per_channel_affine_float_qparams"
            } else {
                "per_channel_affine"
            },
            "axis": axis,
            "scales": described(scales),
            "zero_points": described(zero_points),
        }),
    }
}

fn described(t: &Tensor) -> Json {
    json!({"dtype": t.dtype.to_string(), "shape": t.shape.as_slice()})
}
