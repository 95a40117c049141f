//! Writing HDF5 in its oldest form, which every library reads: superblock 0, groups of symbol
//! tables, contiguous datasets. All structures come first, and behind them the tensors in the
//! model's order, each at a multiple of 8 bytes.
//!
//! Names are paths of datasets. Metadata under `GROUP@ATTRIBUTE`, as the reader names it, becomes
//! an attribute of that group, everything else one of the root. Numbers keep their dtype; complex
//! numbers and truth values get the types that h5py gives them.

mod attribute;
mod groups;
mod heap;
mod layout;
mod messages;
mod texts;
mod tree;
mod types;

use weighbridge_core::model::{DType, FormatId, Model, Tensor, Value};
use weighbridge_core::{Error, Result};

use super::read::SAME;
use crate::format::{FormatWriter, Note, Plan, WriteOptions, payload};
use crate::output::Sink;
use layout::Layouter;
use texts::{Budget, holds_nul};
use tree::Tree;
use types::{MOST_RANK, Type};

/// Tensors begin at multiples of this.
const ALIGN: u64 = 8;

/// The structures end at a multiple of this, so that the first tensors lie well.
const HEAD_ALIGN: usize = 64;

/// An attribute of a dataset in which Keras tells that its two opaque bytes are a BF16.
pub(crate) const KERAS_DTYPE: &str = "dtype";

/// The writer of HDF5 files that keeps names as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hdf5Writer;

impl FormatWriter for Hdf5Writer {
    fn id(&self) -> FormatId {
        FormatId::Hdf5
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        refuse_shards(options)?;
        plan(model, &refusals(model, Bf16::Lost)?)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        write(model, plan, file, out, progress)
    }
}

/// What becomes of BF16, for which HDF5 has no type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bf16 {
    /// It is listed.
    Lost,
    /// Two opaque bytes with an attribute that says what they are, as Keras 3 does.
    Opaque,
}

/// Refuses options that HDF5 does not have.
pub(crate) fn refuse_shards(options: &WriteOptions) -> Result<()> {
    if options.shard_size.or(options.shard_tensors).is_some() {
        return Err(Error::parameter(
            "hdf5.shards",
            "HDF5 files are not split into shards",
        ));
    }
    Ok(())
}

/// Writes a planned file; see [`FormatWriter::write`].
pub(crate) fn write(
    model: &Model,
    plan: &Plan,
    file: usize,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let file = payload::planned(plan, file)?;
    // Texts lie among the structures.
    let number = |i: &usize| model.tensors.get(*i).is_none_or(|t| !t.dtype.is_text());
    let tensors: Vec<usize> = file.tensors.iter().copied().filter(number).collect();
    payload::write_file(model, file, &tensors, out, progress)
}

/// Plans the file that holds `model` but for the tensors with a reason in `refusals`.
pub(crate) fn plan(model: &Model, refusals: &Refusals) -> Result<Plan> {
    let mut plan = Plan::default();
    let marker = Value::Str("bfloat16".into());
    let (tree, tensors) = build(model, refusals, &marker, &mut plan);
    let mut file = Layouter::new(model, &tree, &tensors);
    file.objects(&mut plan)?;
    plan.files.push(file.finish(tensors)?);
    Ok(plan)
}

/// By tensor, why it cannot be written.
pub(crate) type Refusals = Vec<Option<String>>;

/// Goes through the tensors of `model`; reads those of texts.
///
/// # Errors
/// `Limit` for more texts than are taken, and what reading gives.
pub(crate) fn refusals(model: &Model, bf16: Bf16) -> Result<Refusals> {
    let mut budget = Budget::of(model);
    let mut out = Vec::with_capacity(model.tensors.len());
    for t in &model.tensors {
        let mut why = refusal(t, bf16);
        if why.is_none() && t.dtype == DType::Str && holds_nul(t, &mut budget)? {
            why = Some("a text of HDF5 ends at its first NUL and this goes on behind one".into());
        }
        out.push(why);
    }
    Ok(out)
}

/// The tree of `model`, and the tensors that are in it.
fn build<'a>(
    model: &'a Model,
    refusals: &Refusals,
    marker: &'a Value,
    plan: &mut Plan,
) -> (Tree<'a>, Vec<usize>) {
    let mut tree = Tree::new();
    let mut tensors = Vec::with_capacity(model.tensors.len());
    let native = matches!(model.format, FormatId::Hdf5 | FormatId::Keras);
    for (i, t) in model.tensors.iter().enumerate() {
        if let Some(Some(why)) = refusals.get(i) {
            plan.lost.push(Note::new(t.name.as_str(), why.as_str()));
            continue;
        }
        let (at, renamed) = tree.dataset(&t.name, i);
        if let Some(path) = renamed {
            plan.changed.push(Note {
                what: t.name.clone(),
                why: format!("written as {path}"),
                naming: true,
            });
        }
        if t.dtype == DType::BF16 {
            tree.attribute(at, KERAS_DTYPE, marker);
        }
        let own = t.extra.iter().flat_map(|e| &e.attributes);
        for (key, value) in
            own.filter(|(k, _)| native && ![LAYER_CLASS, SAME].contains(&k.as_str()))
        {
            if t.dtype != DType::BF16 || key != KERAS_DTYPE {
                tree.attribute(at, key, value);
            }
        }
        tensors.push(i);
    }
    let groups = native || model.metadata.iter().any(|(k, _)| is_keras_key(k));
    for (key, value) in &model.metadata {
        let (at, name) = place(&mut tree, key, groups);
        tree.attribute(at, name, value);
    }
    (tree, tensors)
}

/// What the reader of Keras' files adds to a tensor.
pub(crate) const LAYER_CLASS: &str = "layer_class";

/// Whether a key of metadata is one that tells of Keras' files.
fn is_keras_key(key: &str) -> bool {
    let name = key.rsplit('@').next().unwrap_or(key);
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    matches!(name, "layer_names" | "weight_names")
}

/// The object that the metadata `key` belongs to, and the attribute's name there. Groups are made
/// where `make` says that this is what keys mean.
fn place<'k>(tree: &mut Tree<'_>, key: &'k str, make: bool) -> (usize, &'k str) {
    let splits = key.match_indices('@').map(|(i, _)| i);
    let parts = |i: usize| (key.get(..i).unwrap_or(""), key.get(i + 1..).unwrap_or(""));
    for i in splits {
        let (path, name) = parts(i);
        if let Some(at) = tree
            .find(path)
            .filter(|_| !path.is_empty() && !name.is_empty())
        {
            return (at, name);
        }
    }
    if let (true, Some(i)) = (make, key.rfind('@')) {
        let (path, name) = parts(i);
        if let (false, Some(at)) = (path.is_empty() || name.is_empty(), tree.group(path)) {
            return (at, name);
        }
    }
    (0, key)
}

/// Why a tensor cannot be written, with the flag that makes it possible.
fn refusal(t: &Tensor, bf16: Bf16) -> Option<String> {
    let d = t.dtype;
    if let Some(why) = crate::format::not_dense(t, "HDF5") {
        return Some(why);
    }
    if d == DType::Compound {
        return Some("fields of several types are not written".into());
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    if t.quantization().is_some() || d.is_quantized() || d.block().is_some() {
        return Some(format!(
            "HDF5 has no dtype {d}: --dequantize writes the values as F32"
        ));
    }
    if t.shape.len() > MOST_RANK {
        let rank = t.shape.len();
        return Some(format!(
            "HDF5 holds up to {MOST_RANK} dimensions and this tensor has {rank}"
        ));
    }
    if kind(d, bf16).is_none() {
        return Some(match () {
            () if d.is_float() => format!("HDF5 has no dtype {d}: --dtype f32 casts it"),
            () if matches!(d, DType::U4 | DType::I4 | DType::U2 | DType::I2) => {
                format!("HDF5 has no dtype {d}: --dequantize writes one integer a byte")
            }
            () if d.is_complex() => {
                format!("HDF5 has no dtype {d}: --complex-as-real writes real and imaginary parts")
            }
            () => format!("HDF5 has no dtype {d}"),
        });
    }
    if !d.is_text() && d.size_of(&t.shape).is_none() {
        return Some("its size does not fit 64 bits".into());
    }
    None
}

fn kind(d: DType, bf16: Bf16) -> Option<Type> {
    match (d, bf16) {
        (DType::BF16, Bf16::Opaque) => Some(Type::Opaque(2)),
        _ => Type::of(d),
    }
}
