//! Tensor-parallel parts side by side, pipeline stages one after the other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weighbridge_core::model::{
    Assembly, Chunks, Model, Piece, Shape, Tensor, TensorSource, Value, Warning,
};
use weighbridge_core::{Error, Limits, Result};

use super::super::folder::{self, Member, number};
use super::rules::{Cut, Facts, cut};
use super::{Ranks, arg, chunk_keys};

pub(super) struct Merge<'a> {
    ranks: &'a Ranks,
    facts: Facts,
    tensors: Vec<Tensor>,
    /// Where each merged tensor is, and the stage it came from.
    names: HashMap<String, (usize, usize)>,
    /// Layers of earlier stages, by the text before `.layers.`.
    layers: HashMap<String, u64>,
}

/// Most chunks of the model (virtual pipeline stages) that one rank may hold.
const MOST_CHUNKS: u64 = 1024;

impl<'a> Merge<'a> {
    pub(super) fn new(ranks: &'a Ranks, facts: Facts) -> Self {
        Self {
            ranks,
            facts,
            tensors: Vec::new(),
            names: HashMap::new(),
            layers: HashMap::new(),
        }
    }

    pub(super) fn run(mut self, model: &mut Model) -> Result<()> {
        let keys = self
            .ranks
            .stages
            .iter()
            .flatten()
            .next()
            .map(chunk_keys)
            .unwrap_or_default();
        // Each looks through all tensors; a rank holds a handful of chunks.
        Limits::check(
            keys.len() as u64,
            MOST_CHUNKS,
            "megatron.too-many-chunks",
            "model chunks of a rank",
        )?;
        // Interleaved stages take turns: the first chunk of every stage, then the second.
        for (key, _) in &keys {
            for (p, stage) in self.ranks.stages.iter().enumerate() {
                self.chunk(model, key, p, stage)?;
            }
        }
        let layers: u64 = self.layers.values().copied().max().unwrap_or(0);
        let first = self.ranks.stages.iter().flatten().next();
        let told = first
            .and_then(|m| arg(m, "num_layers"))
            .and_then(Value::as_int);
        if let Some(told) = told.filter(|&n| layers > 0 && n != layers as i64) {
            model.warnings.push(Warning::new(
                "megatron.layer-count",
                format!("the arguments speak of {told} layers, the ranks hold {layers}"),
            ));
        }
        model.tensors = self.tensors;
        Ok(())
    }

    /// One chunk of one stage.
    fn chunk(&mut self, model: &mut Model, key: &str, p: usize, stage: &[Member]) -> Result<()> {
        let Some((first, others)) = stage.split_first() else {
            return Ok(());
        };
        let prefix = format!("{key}.");
        let names: Vec<&Tensor> = first
            .model
            .tensors
            .iter()
            .filter(|t| t.name.starts_with(&prefix))
            .collect();
        let known: HashSet<&str> = names.iter().map(|t| t.name.as_str()).collect();
        for m in others {
            let extra = m.model.tensors.iter().find(|t| {
                t.name.starts_with(&prefix)
                    && !known.contains(t.name.as_str())
                    && !is_extra(&t.name)
            });
            if let Some(t) = extra {
                return Err(Error::malformed(
                    "megatron.missing-tensor",
                    format!(
                        "{} has the tensor {}, {} does not",
                        m.shown(),
                        t.name,
                        first.shown()
                    ),
                ));
            }
        }
        let shifts = self.shifts(&names, key);
        for t in names {
            let local = t.name.get(prefix.len()..).unwrap_or_default();
            if is_extra(local) {
                model.omitted.push((
                    t.name.clone(),
                    "state of the training engine's layers, one per rank".into(),
                ));
                continue;
            }
            let mut merged = self.merge(t, first, others)?;
            merged.name = format!("model.{}", renumber(local, &shifts));
            self.put(merged, p)?;
        }
        Ok(())
    }

    /// Adds a merged tensor. The stages at both ends may each have the tied embedding.
    fn put(&mut self, t: Tensor, p: usize) -> Result<()> {
        if let Some(&(at, from)) = self.names.get(&t.name) {
            let same = match self.tensors.get(at) {
                Some(old) => equal(old, &t)?,
                None => false,
            };
            if same {
                return Ok(());
            }
            return Err(Error::malformed(
                "megatron.stage-conflict",
                format!(
                    "pipeline stages {from} and {p} both have {}, with other values",
                    t.name
                ),
            )
            .help("each rank file opens alone, as itself"));
        }
        self.names.insert(t.name.clone(), (self.tensors.len(), p));
        self.tensors.push(t);
        Ok(())
    }

    /// How far this stage's layer numbers move, by the text before `layers.`: stages count their
    /// layers from 0. A stage whose numbers do not begin at 0 counts through.
    fn shifts(&mut self, names: &[&Tensor], key: &str) -> HashMap<String, u64> {
        let mut range: HashMap<&str, (u64, u64)> = HashMap::new();
        for t in names {
            let local = t.name.get(key.len() + 1..).unwrap_or_default();
            if let Some((before, n, _)) = layer(local) {
                let r = range.entry(before).or_insert((n, n));
                *r = (r.0.min(n), r.1.max(n));
            }
        }
        let mut shifts = HashMap::new();
        for (before, (low, high)) in range {
            let seen = self.layers.entry(before.to_owned()).or_insert(0);
            let shift = if low == 0 { *seen } else { 0 };
            *seen = shift.saturating_add(high).saturating_add(1).max(*seen);
            shifts.insert(before.to_owned(), shift);
        }
        shifts
    }

    /// The whole of one weight from the tensor-parallel ranks' parts.
    fn merge(&self, t: &Tensor, first: &Member, others: &[Member]) -> Result<Tensor> {
        let mut parts = vec![t];
        for m in others {
            let Some(part) = m.tensor(&t.name) else {
                return Err(Error::malformed(
                    "megatron.missing-tensor",
                    format!(
                        "{} has the tensor {}, {} does not",
                        first.shown(),
                        t.name,
                        m.shown()
                    ),
                ));
            };
            if part.dtype != t.dtype || part.shape.len() != t.shape.len() {
                return Err(Error::malformed(
                    "megatron.part-mismatch",
                    format!(
                        "{} is {} {:?} on the first rank and {} {:?} in {}",
                        t.name,
                        t.dtype,
                        t.shape.as_slice(),
                        part.dtype,
                        part.shape.as_slice(),
                        m.shown()
                    ),
                ));
            }
            parts.push(part);
        }
        if others.is_empty() {
            return Ok(t.clone());
        }
        match cut(&t.name, self.facts) {
            Cut::Along { axis, blocks } if axis < t.shape.len() => join(&parts, axis, blocks),
            _ => {
                for part in parts.iter().skip(1) {
                    if !equal(t, part)? {
                        return Err(Error::unsupported(
                            "megatron.unknown-cut",
                            format!(
                                "{} differs between the tensor-parallel ranks, and no rule says how it is cut",
                                t.name
                            ),
                        )
                        .help("each rank file opens alone, as itself"));
                    }
                }
                Ok(t.clone())
            }
        }
    }
}

/// Transformer Engine's quantization state, which is no weight.
fn is_extra(name: &str) -> bool {
    name.ends_with("_extra_state")
}

/// The text before `layers.N`, the number, and what follows, at its first place in a name.
fn layer(name: &str) -> Option<(&str, u64, &str)> {
    let at = if name.starts_with("layers.") {
        0
    } else {
        name.find(".layers.")? + 1
    };
    let rest = name.get(at + "layers.".len()..)?;
    let (digits, after) = rest.split_once('.')?;
    Some((name.get(..at)?, number(digits)?, after))
}

fn renumber(name: &str, shifts: &HashMap<String, u64>) -> String {
    match layer(name) {
        Some((before, n, after)) => {
            let n = n.saturating_add(shifts.get(before).copied().unwrap_or(0));
            format!("{before}layers.{n}.{after}")
        }
        None => name.to_owned(),
    }
}

/// The parts side by side along `axis`, block by block.
fn join(parts: &[&Tensor], axis: usize, blocks: u64) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Err(Error::malformed("megatron.part-mismatch", "no parts"));
    };
    let mismatch = |why: &str| {
        Error::malformed(
            "megatron.part-mismatch",
            format!("the parts of {} {why}", first.name),
        )
    };
    let mut shape: Shape = first.shape.clone();
    let mut total = 0u64;
    for p in parts {
        let other = |s: &Shape| -> Shape {
            s.iter()
                .enumerate()
                .filter(|(i, _)| *i != axis)
                .map(|(_, d)| *d)
                .collect()
        };
        if other(&p.shape) != other(&first.shape) {
            return Err(mismatch(&format!(
                "have other sizes beside dimension {axis}"
            )));
        }
        let extent = p.shape.get(axis).copied().unwrap_or(0);
        if !extent.is_multiple_of(blocks) {
            return Err(mismatch(&format!("do not divide into {blocks} blocks")));
        }
        total = total
            .checked_add(extent)
            .ok_or_else(|| mismatch("overflow"))?;
    }
    if let Some(d) = shape.get_mut(axis) {
        *d = total;
    }
    if first.dtype.size_of(&shape).is_none() {
        return Err(mismatch("overflow"));
    }
    let mut pieces = Vec::new();
    let mut at = 0u64;
    for block in 0..blocks {
        for p in parts {
            let len = p.shape.get(axis).copied().unwrap_or(0) / blocks;
            let mut start = Shape::from_elem(0, shape.len());
            let mut extent = p.shape.clone();
            if let (Some(s), Some(e)) = (start.get_mut(axis), extent.get_mut(axis)) {
                (*s, *e) = (at, len);
            }
            if !extent.contains(&0) {
                pieces.push(Piece {
                    start,
                    shape: extent,
                    source: folder::narrow(p, axis, block * len, len)?,
                });
            }
            at += len;
        }
    }
    let assembly = Assembly {
        shape: shape.clone(),
        pieces,
    };
    assembly.check()?;
    let mut t = Tensor::new(
        "",
        first.dtype,
        &shape,
        TensorSource::Assembled(Arc::new(assembly)),
    );
    t.extra.clone_from(&first.extra);
    Ok(t)
}

/// Whether two tensors are equal in bits. Reads them: what is replicated is small.
fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    if a.dtype != b.dtype || a.shape != b.shape || a.has_data() != b.has_data() {
        return Ok(false);
    }
    Ok(!a.has_data() || digest(a)? == digest(b)?)
}

fn digest(t: &Tensor) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    t.stream(&mut Chunks::new(), &mut |part| {
        hash.update(part);
        Ok(())
    })?;
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_numbers_move() {
        let shifts = HashMap::from([("decoder.".to_owned(), 4u64)]);
        let name = "decoder.layers.1.mlp.experts.layers.0.weight";
        assert_eq!(
            renumber(name, &shifts),
            "decoder.layers.5.mlp.experts.layers.0.weight"
        );
        assert_eq!(
            renumber("encoder.layers.1.w", &shifts),
            "encoder.layers.1.w"
        );
        assert_eq!(layer("layers.12.x"), Some(("", 12, "x")));
        assert_eq!(layer("final_layers.weight"), None);
    }
}
