//! Tensors that shared storage before they were written: the metadata key
//! `weighbridge.aliases`.
//!
//! safetensors cannot express ties and views, so every name is written in full (or, with
//! `dedupe`, one of several equal ones) and what was shared is recorded for writers that can
//! express it. The value is JSON text, one object a storage:
//!
//! ```json
//! [{"bytes": 24,
//!   "tensors": [
//!     {"name": "embed", "offset": 0, "stride": [3, 1], "stored": true},
//!     {"name": "embed_t", "offset": 0, "stride": [1, 3], "stored": true},
//!     {"name": "head", "offset": 0, "stride": [3, 1], "stored": false, "same_as": "embed"}]}]
//! ```
//!
//! - `bytes`: length of the storage. Bytes that no tensor views are not in the file.
//! - `tensors`: its tensors in the order of the model, two or more.
//! - `offset`: first element, counted in elements of the tensor's dtype; `stride`: step of each
//!   dimension in elements. Shape and dtype are those of the tensor in the file.
//! - `stored`: whether the tensor's bytes are in the file. If not, it was dropped by `dedupe`:
//!   `same_as` names a stored member of the same dtype, shape, offset and strides.
//!
//! A name that the file does not have (it was renamed or removed since) is to be passed over.

use std::collections::HashMap;

use serde_json::{Value as Json, json};
use weighbridge_core::model::{DType, Model, Shape, Tensor, TensorSource, Value};
use weighbridge_core::{Error, Limits, Result};

/// The metadata key.
pub const KEY: &str = "weighbridge.aliases";

/// Tensors over one storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasGroup {
    /// Length of the storage in bytes.
    pub bytes: u64,
    /// Its tensors, in the order of the model.
    pub tensors: Vec<Alias>,
}

/// One tensor's place in a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The tensor's name in the file.
    pub name: String,
    /// Its first element, in elements.
    pub offset: u64,
    /// The step of each dimension, in elements.
    pub stride: Vec<u64>,
    /// For a tensor that is not in the file: the stored one it equals.
    pub same_as: Option<String>,
}

/// The value for [`KEY`].
pub fn encode(groups: &[AliasGroup]) -> String {
    let member = |a: &Alias| {
        let mut m = json!({
            "name": a.name, "offset": a.offset, "stride": a.stride, "stored": a.same_as.is_none(),
        });
        if let (Some(o), Some(same)) = (m.as_object_mut(), &a.same_as) {
            o.insert("same_as".into(), same.as_str().into());
        }
        m
    };
    let group = |g: &AliasGroup| {
        let tensors: Vec<Json> = g.tensors.iter().map(member).collect();
        json!({"bytes": g.bytes, "tensors": tensors})
    };
    Json::Array(groups.iter().map(group).collect()).to_string()
}

/// Reads a value of [`KEY`].
///
/// # Errors
/// `Malformed` when it is not as described above.
pub fn decode(text: &str) -> Result<Vec<AliasGroup>> {
    let bad = |what: &str| {
        Error::malformed(
            "safetensors.bad-aliases",
            format!("metadata key `{KEY}` does not hold {what}"),
        )
    };
    let number = |v: &Json| v.as_u64().ok_or_else(|| bad("a non-negative integer"));
    let json: Json = serde_json::from_str(text).map_err(|e| bad(&format!("JSON: {e}")))?;
    let list = |v| Json::as_array(v).ok_or_else(|| bad("a list"));
    let mut groups = Vec::new();
    for g in list(&json)? {
        let mut tensors = Vec::new();
        for t in list(&g["tensors"])? {
            let name = t["name"].as_str().ok_or_else(|| bad("a name"))?.to_owned();
            let stride: Result<_> = list(&t["stride"])?.iter().map(number).collect();
            let same_as = match t["stored"].as_bool() {
                Some(true) => None,
                Some(false) => Some(
                    t["same_as"]
                        .as_str()
                        .ok_or_else(|| bad("`same_as`"))?
                        .to_owned(),
                ),
                None => return Err(bad("`stored`")),
            };
            tensors.push(Alias {
                name,
                offset: number(&t["offset"])?,
                stride: stride?,
                same_as,
            });
        }
        groups.push(AliasGroup {
            bytes: number(&g["bytes"])?,
            tensors,
        });
    }
    Ok(groups)
}

/// Gives the tensors that `dedupe` dropped back to a model read from safetensors: each views the
/// bytes of the one it equals. Names that exist already or whose equal is gone are passed over.
/// Returns how many came back.
///
/// # Errors
/// As [`decode`]; `Limit` when all tensors together would expand past
/// [`Limits::expand_cap`](weighbridge_core::Limits::expand_cap). Nothing is changed then.
pub fn restore(model: &mut Model, limits: &Limits) -> Result<usize> {
    let text = model.metadata.iter().find(|(k, _)| k == KEY);
    let Some(Value::Str(text)) = text.map(|(_, v)| v) else {
        return Ok(0);
    };
    let groups = decode(text)?;
    let mut by_name: HashMap<String, usize> = HashMap::new();
    for (i, t) in model.tensors.iter().enumerate() {
        by_name.insert(t.name.clone(), i);
    }
    let before = model.tensors.len();
    let cap = limits.expand_cap(model.file_bytes());
    let sum = |n: u64, t: &Tensor| n.saturating_add(t.byte_len());
    let mut expanded = model.tensors.iter().fold(0, sum);
    for alias in groups.into_iter().flat_map(|g| g.tensors) {
        let Some(kept) = alias.same_as.as_ref().and_then(|n| by_name.get(n)) else {
            continue;
        };
        let Some(kept) = model.tensors.get(*kept) else {
            continue;
        };
        // The record has a step for each dimension, so its length justifies the copied shape.
        if alias.stride.len() != kept.shape.len() {
            continue;
        }
        let kept = kept.clone();
        if !by_name.contains_key(&alias.name) {
            expanded = sum(expanded, &kept);
            if expanded > cap {
                model.tensors.truncate(before);
                return Err(Error::limit(
                    "safetensors.expansion",
                    format!("the recorded aliases expand to over {cap} bytes"),
                )
                .help("raise the cap with --max-expand SIZE if you trust the file's origin"));
            }
            by_name.insert(alias.name.clone(), model.tensors.len());
            model.tensors.push(Tensor {
                name: alias.name,
                ..kept
            });
        }
    }
    Ok(model.tensors.len() - before)
}

/// What of a model's sharing goes into a file: the groups, and the tensors left out because an
/// equal one stands for them.
pub(super) struct Sharing {
    pub(super) groups: Vec<AliasGroup>,
    pub(super) dropped: Vec<usize>,
}

/// Finds it. `name` gives the name a tensor will have in the file, `None` if it will not be
/// there for another reason.
pub(super) fn sharing<'n>(
    model: &Model,
    dedupe: bool,
    name: impl Fn(usize) -> Option<&'n str>,
) -> Sharing {
    let mut all = Sharing {
        groups: Vec::new(),
        dropped: Vec::new(),
    };
    for members in model.alias_groups() {
        let mut first: HashMap<Extent, &str> = HashMap::new();
        let mut group = AliasGroup {
            bytes: 0,
            tensors: Vec::new(),
        };
        let mut dropped = Vec::new();
        for i in members {
            let (Some(t), Some(name)) = (model.tensors.get(i), name(i)) else {
                continue;
            };
            let Some((bytes, extent, stride)) = extent(t) else {
                continue;
            };
            let mut same_as = None;
            let offset = extent.offset;
            match first.get(&extent) {
                Some(kept) if dedupe => {
                    same_as = Some((*kept).to_owned());
                    dropped.push(i);
                }
                Some(_) => {}
                None => {
                    first.insert(extent, name);
                }
            }
            group.bytes = bytes;
            group.tensors.push(Alias {
                name: name.to_owned(),
                offset,
                stride,
                same_as,
            });
        }
        if group.tensors.len() > 1 {
            all.groups.push(group);
            all.dropped.append(&mut dropped);
        }
    }
    all
}

/// What makes two tensors over one storage equal in every bit.
#[derive(PartialEq, Eq, Hash)]
struct Extent {
    dtype: DType,
    shape: Shape,
    offset: u64,
    /// Strides, those of dimensions of extent 1 as 0 since they are never taken.
    steps: Shape,
}

/// The length of the storage a tensor views as it is, its extent there, and its strides. `None`
/// for tensors that are no plain view, or whose place cannot be counted in elements.
fn extent(t: &Tensor) -> Option<(u64, Extent, Vec<u64>)> {
    let (storage, offset, stride) = match &t.source {
        TensorSource::View(v) => {
            let width = t.dtype.bytes()?;
            if v.offset % width != 0 {
                return None;
            }
            let mut stride: Vec<u64> = t
                .shape
                .iter()
                .rev()
                .scan(1u64, |n, &d| {
                    let step = *n;
                    *n = n.saturating_mul(d);
                    Some(step)
                })
                .collect();
            stride.reverse();
            (&v.storage, v.offset / width, stride)
        }
        // A lazily conjugated or negated view has other values than its storage.
        TensorSource::Strided(s) if !s.conj && !s.neg => (&s.storage, s.offset, s.strides.to_vec()),
        _ => return None,
    };
    let steps = t.shape.iter().zip(&stride);
    let extent = Extent {
        dtype: t.dtype,
        shape: t.shape.clone(),
        offset,
        steps: steps.map(|(&d, &s)| if d == 1 { 0 } else { s }).collect(),
    };
    Some((storage.len(), extent, stride))
}
