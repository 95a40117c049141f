//! Comparing models tensor by tensor, whatever formats they are in.
//!
//! Tensors are matched by name. Where dtypes match, bits are compared, so that NaNs of equal bits
//! are equal; else values are, as doubles. Both sides are read in step with bounded memory, and
//! checksums of what is read are verified.

mod lockstep;
mod metadata;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{HashMap, HashSet};

use serde_json::{Value as Json, json};
use weighbridge_core::Result;
use weighbridge_core::model::{Model, Quantization, Tensor};

pub(crate) use lockstep::same_bytes;
pub use metadata::MetadataDiff;

/// What is compared and how closely.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions {
    /// Compare metadata and structure too.
    pub metadata: bool,
    /// How far a value of A may lie from B's in absolute terms.
    pub atol: f64,
    /// How far a value of A may lie from B's as a fraction of B's magnitude.
    pub rtol: f64,
}

/// Why two tensors are different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Their dtypes differ, and so do their values or they cannot be compared.
    Dtype,
    /// Their shapes differ.
    Shape,
    /// Their values differ.
    Value,
}

impl Why {
    /// The spelling of the JSON document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dtype => "dtype",
            Self::Shape => "shape",
            Self::Value => "value",
        }
    }
}

/// Two tensors of one name that are different.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The name.
    pub name: String,
    /// Why they are different.
    pub why: Why,
    /// dtype and shape of both sides, where those differ, for people.
    pub detail: Option<String>,
    /// How far apart the values are, where they can be compared.
    pub distance: Option<Distance>,
}

/// How far apart the values of two tensors are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// The greatest |a − b|; NaN where a number meets a NaN.
    pub max_abs: f64,
    /// √(Σ(a − b)² / Σa²), or `None` where A is all zeros.
    pub rel_rmse: Option<f64>,
    /// The cosine of the angle between the two as vectors, or `None` where one is all zeros.
    pub cosine: Option<f64>,
}

/// The answer of [`diff`].
#[derive(Debug, Clone, Default)]
pub struct Diff {
    /// Names that only A has, in its order.
    pub only_in_a: Vec<String>,
    /// Names that only B has, in its order.
    pub only_in_b: Vec<String>,
    /// Tensors that are different, in A's order.
    pub different: Vec<Difference>,
    /// How many tensors are the same.
    pub same: u64,
    /// The comparison of metadata, where it was asked for.
    pub metadata: Option<MetadataDiff>,
}

impl Diff {
    /// Whether no difference was found.
    pub fn identical(&self) -> bool {
        self.only_in_a.is_empty()
            && self.only_in_b.is_empty()
            && self.different.is_empty()
            && self.metadata.as_ref().is_none_or(MetadataDiff::is_empty)
    }

    /// The JSON document of `diff`.
    pub fn to_json(&self) -> Json {
        let different: Vec<Json> = self
            .different
            .iter()
            .map(|d| {
                let number = |f: fn(&Distance) -> Option<f64>| {
                    let x = d.distance.as_ref().and_then(f);
                    x.map_or(Json::Null, number_json)
                };
                json!({
                    "name": d.name,
                    "why": d.why.as_str(),
                    "max_abs": number(|d| Some(d.max_abs)),
                    "rel_rmse": number(|d| d.rel_rmse),
                    "cosine": number(|d| d.cosine),
                })
            })
            .collect();
        let mut out = json!({
            "identical": self.identical(),
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "different": different,
            "same": self.same,
        });
        if let (Some(m), Some(out)) = (&self.metadata, out.as_object_mut()) {
            out.insert("metadata".into(), m.to_json());
        }
        out
    }
}

/// A number; NaN and infinities, which JSON lacks, as text.
fn number_json(x: f64) -> Json {
    match serde_json::Number::from_f64(x) {
        Some(n) => Json::Number(n),
        None if x.is_nan() => "nan".into(),
        None if x > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

/// Compares `a` with `b`.
///
/// # Errors
/// Whatever reading either model gives.
///
/// # Examples
/// ```no_run
/// use weighbridge::diff::{DiffOptions, diff};
/// let (a, b) = (weighbridge::open("a.pt")?, weighbridge::open("b.safetensors")?);
/// assert!(diff(&a, &b, &DiffOptions::default())?.identical());
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn diff(a: &Model, b: &Model, options: &DiffOptions) -> Result<Diff> {
    let mut state = HashSet::new();
    for m in [a, b] {
        if let Some(s) = &m.structure {
            crate::structure::bulk_names(s, &mut state);
        }
    }
    // Tensors that hold moved state are compared as the state they are.
    let tensors = |m: &'_ Model| -> Vec<usize> {
        let all = m.tensors.iter().enumerate();
        all.filter(|(_, t)| !state.contains(&t.name))
            .map(|(i, _)| i)
            .collect()
    };
    let (of_a, of_b) = (tensors(a), tensors(b));
    let mut by_name: HashMap<&str, &Tensor> = HashMap::new();
    for t in of_b.iter().filter_map(|&i| b.tensors.get(i)) {
        by_name.entry(&t.name).or_insert(t);
    }
    let mut out = Diff::default();
    let mut seen: HashSet<&str> = HashSet::new();
    for t in of_a.iter().filter_map(|&i| a.tensors.get(i)) {
        if !seen.insert(&t.name) {
            continue;
        }
        match by_name.get(t.name.as_str()) {
            None => out.only_in_a.push(t.name.clone()),
            Some(other) => match compare(t, other, options)? {
                None => out.same += 1,
                Some(d) => out.different.push(d),
            },
        }
    }
    for t in of_b.iter().filter_map(|&i| b.tensors.get(i)) {
        if seen.insert(&t.name) {
            out.only_in_b.push(t.name.clone());
        }
    }
    if options.metadata {
        out.metadata = Some(metadata::compare(a, b)?);
    }
    Ok(out)
}

/// What is different between two tensors, or `None`.
fn compare(a: &Tensor, b: &Tensor, options: &DiffOptions) -> Result<Option<Difference>> {
    let found = |why: Why, detail: Option<String>, distance: Option<Distance>| {
        Ok(Some(Difference {
            name: a.name.clone(),
            why,
            detail,
            distance,
        }))
    };
    let dtypes = (a.dtype != b.dtype).then(|| format!("{} and {}", a.dtype, b.dtype));
    if a.shape != b.shape {
        let detail = format!("{:?} and {:?}", a.shape.as_slice(), b.shape.as_slice());
        return found(Why::Shape, Some(detail), None);
    }
    if a.layout != b.layout || a.has_data() != b.has_data() {
        let detail = format!("{} and {}", a.layout.as_str(), b.layout.as_str());
        return found(Why::Value, Some(detail), None);
    }
    if let (Some(x), Some(y)) = (a.sparse(), b.sparse()) {
        let same = x.indices.len() == y.indices.len()
            && all_same(x.indices.iter().zip(&y.indices))?
            && same_tensor(&x.values, &y.values)?;
        return if same {
            Ok(None)
        } else {
            found(Why::Value, dtypes, None)
        };
    }
    if !a.has_data() {
        return if dtypes.is_none() {
            Ok(None)
        } else {
            found(Why::Dtype, dtypes, None)
        };
    }
    if !same_quantization(a, b)? {
        return found(Why::Value, Some("the quantization differs".into()), None);
    }
    let exact = options.atol == 0.0 && options.rtol == 0.0;
    let texts = a.dtype.is_text() && b.dtype.is_text();
    if (a.dtype == b.dtype || texts) && same_bytes(a, b)? {
        return Ok(None);
    }
    let why = if dtypes.is_some() {
        Why::Dtype
    } else {
        Why::Value
    };
    let Some(seen) = values::compare(a, b, options)? else {
        return found(why, dtypes, None);
    };
    // Equal dtypes with unequal bits are different unless a tolerance was asked for.
    let same = seen.within && (dtypes.is_some() || !exact);
    if same {
        return Ok(None);
    }
    found(why, dtypes, Some(seen.distance))
}

fn same_tensor(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(a.dtype == b.dtype && a.shape == b.shape && same_bytes(a, b)?)
}

fn all_same<'t>(mut pairs: impl Iterator<Item = (&'t Tensor, &'t Tensor)>) -> Result<bool> {
    pairs.try_fold(true, |same, (a, b)| Ok(same && same_tensor(a, b)?))
}

fn same_quantization(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(match (a.quantization(), b.quantization()) {
        (None, None) => true,
        (
            Some(Quantization::PerTensor { scale, zero_point }),
            Some(Quantization::PerTensor {
                scale: s,
                zero_point: z,
            }),
        ) => scale.to_bits() == s.to_bits() && zero_point == z,
        (
            Some(Quantization::PerChannel {
                axis,
                scales,
                zero_points,
                float_qparams,
            }),
            Some(Quantization::PerChannel {
                axis: x,
                scales: s,
                zero_points: z,
                float_qparams: f,
            }),
        ) => {
            axis == x
                && float_qparams == f
                && same_tensor(scales, s)?
                && same_tensor(zero_points, z)?
        }
        _ => false,
    })
}
