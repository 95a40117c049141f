//! In which order tensors and key-values are written.
//!
//! Tensors: those of no layer first, then layer by layer, by name within (`weight_name_comparer`
//! of `src/llama-model-loader.h`). Key-values: as in the input, those that quantization sets at
//! the end (`llama_model_quantize_impl`, where setting removes and appends).

use std::collections::BTreeMap;

use regex::Regex;
use weighbridge_core::model::{DType, FormatId, Model, Number, Tensor, TensorSource, Value};
use weighbridge_core::{Error, Result};

use super::arch;
use super::ftype::FileType;
use crate::format::gguf::split;

/// A tensor on its way.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// Its index in the model.
    pub(super) index: usize,
    /// Its name in the output.
    pub(super) name: String,
    /// The file of the input that it lies in.
    pub(super) part: usize,
}

/// What is written, in order, and how many layers are left where some were taken out.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) visits: Vec<Visit>,
    pub(super) layers: Option<u32>,
    /// Names that were taken out.
    pub(super) pruned: Vec<String>,
    /// Layers that were to be left out, and that no name tells of.
    pub(super) absent: Vec<u32>,
}

/// The layer as `sscanf("blk.%d.")` reads it; -1 without.
fn layer(name: &str) -> i64 {
    let Some(rest) = name.strip_prefix("blk.") else {
        return -1;
    };
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let (sign, digits) = match rest.strip_prefix('-') {
        Some(d) => (-1, d),
        None => (1, rest.strip_prefix('+').unwrap_or(rest)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit());
    let digits = digits.get(..end.unwrap_or(digits.len())).unwrap_or("");
    digits.parse::<i64>().map_or(-1, |n| sign * n)
}

/// Orders the tensors of `model`, without the layers in `prune`.
pub(super) fn order(model: &Model, prune: &[u32], keep_split: bool) -> Result<Order> {
    let mut all: Vec<usize> = (0..model.tensors.len()).collect();
    let name = |i: usize| model.tensors.get(i).map_or("", |t| t.name.as_str());
    // Names of other libraries tell the layer elsewhere.
    let layer = |name: &str| match model.format {
        FormatId::Gguf => layer(name),
        _ => arch::layer(name).unwrap_or(-1),
    };
    all.sort_by(|&a, &b| (layer(name(a)), name(a)).cmp(&(layer(name(b)), name(b))));
    let mut renumbered = Renumbered::new(prune)?;
    let (mut visits, mut pruned) = (Vec::with_capacity(all.len()), Vec::new());
    for index in all {
        match renumbered.name(name(index)) {
            Some(name) => visits.push(Visit {
                index,
                name,
                part: 0,
            }),
            None => pruned.push(name(index).to_owned()),
        }
    }
    if keep_split {
        for v in &mut visits {
            v.part = model.tensors.get(v.index).map_or(0, |t| part(model, t));
        }
        let at = |v: &Visit| model.tensors.get(v.index).map_or(0, offset);
        visits.sort_by_key(|v| (v.part, at(v)));
    }
    Ok(Order {
        visits,
        layers: renumbered.layers(),
        pruned,
        absent: renumbered.absent(),
    })
}

/// The number of the input's file that holds `t`.
fn part(model: &Model, t: &Tensor) -> usize {
    let TensorSource::View(v) = &stored(t).source else {
        return 0;
    };
    let Some((source, _)) = v.storage.raw_range() else {
        return 0;
    };
    let name = source.name();
    let found = model
        .parts
        .iter()
        .position(|p| p.path.to_string_lossy() == name);
    found.unwrap_or(0)
}

fn offset(t: &Tensor) -> u64 {
    match &stored(t).source {
        TensorSource::View(v) => v.offset,
        _ => 0,
    }
}

/// The tensor as its file has it: blocks of a big-endian file are turned round on the way.
fn stored(t: &Tensor) -> &Tensor {
    match &t.source {
        TensorSource::Computed(c) => c.stored().unwrap_or(t),
        _ => t,
    }
}

/// New numbers for the layers that stay (`remap_layer`).
struct Renumbered {
    prune: Vec<u32>,
    pattern: Regex,
    mapped: BTreeMap<u32, Option<u32>>,
    next: u32,
}

impl Renumbered {
    fn new(prune: &[u32]) -> Result<Self> {
        let mut prune = prune.to_vec();
        prune.sort_unstable();
        prune.dedup();
        let pattern = Regex::new(r"blk\.([0-9]+)\.")
            .map_err(|e| Error::parameter("quantize.regex", e.to_string()))?;
        Ok(Self {
            prune,
            pattern,
            mapped: BTreeMap::new(),
            next: 0,
        })
    }

    fn name(&mut self, name: &str) -> Option<String> {
        let Some(&first) = self.prune.first() else {
            return Some(name.to_owned());
        };
        let found = self.pattern.captures(name).and_then(|c| c.get(1));
        let Some(number) = found else {
            return Some(name.to_owned());
        };
        let Ok(layer) = number.as_str().parse::<u32>() else {
            return Some(name.to_owned());
        };
        if !self.mapped.contains_key(&layer) {
            let to = if self.prune.binary_search(&layer).is_ok() {
                None
            } else if layer < first {
                self.next = layer.saturating_add(1);
                Some(layer)
            } else {
                self.next = self.next.saturating_add(1);
                Some(self.next - 1)
            };
            self.mapped.insert(layer, to);
        }
        let to = self.mapped.get(&layer).copied().flatten()?;
        let mut out = name.to_owned();
        out.replace_range(number.range(), &to.to_string());
        Some(out)
    }

    fn absent(&self) -> Vec<u32> {
        let met = |layer: &&u32| !self.mapped.contains_key(layer);
        self.prune.iter().filter(met).copied().collect()
    }

    fn layers(&self) -> Option<u32> {
        (!self.prune.is_empty()).then_some(self.next)
    }
}

/// What an importance matrix leaves in the file.
#[derive(Debug, Clone)]
pub(super) struct MatrixKeys {
    pub(super) file: String,
    pub(super) dataset: Option<Vec<u8>>,
    pub(super) entries: usize,
    pub(super) chunks: i32,
}

/// Longest value of a key that the reference sets from its command line.
const LONGEST: usize = 127;

/// What fits of `text`; whole characters, where it consists of such.
fn cut(text: &[u8]) -> Value {
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    let bytes = text.get(..LONGEST).unwrap_or(text);
    match (std::str::from_utf8(text), std::str::from_utf8(bytes)) {
        (_, Ok(fits)) => Value::Str(fits.to_owned()),
        (Ok(text), Err(e)) => {
            let fits = text.get(..e.valid_up_to());
            Value::Str(fits.unwrap_or_default().to_owned())
        }
        (Err(_), Err(_)) => Value::Bytes(bytes.to_vec()),
    }
}

/// Puts the key-values of `model` into the order and state of a quantized file.
pub(super) fn metadata(
    model: &mut Model,
    file: FileType,
    matrix: Option<&MatrixKeys>,
    layers: Option<u32>,
) {
    let number = match file {
        FileType::COPY => copied(model),
        file => file.number(),
    };
    let u32s = |n| Value::Number(Number::U32(n));
    set(model, "general.quantization_version", u32s(2));
    set(model, "general.file_type", u32s(number));
    split::strip(model);
    if let Some(m) = matrix {
        set(model, "quantize.imatrix.file", cut(m.file.as_bytes()));
        if let Some(d) = &m.dataset {
            set(model, "quantize.imatrix.dataset", cut(d));
        }
        let entries = u32::try_from(m.entries).unwrap_or(u32::MAX);
        set(model, "quantize.imatrix.entries_count", u32s(entries));
        if m.chunks > 0 {
            let chunks = m.chunks.unsigned_abs();
            set(model, "quantize.imatrix.chunks_count", u32s(chunks));
        }
    }
    if let Some(n) = layers {
        let arch = model
            .metadata
            .iter()
            .find(|(k, _)| k == "general.architecture")
            .and_then(|(_, v)| v.as_str().map(str::to_owned));
        if let Some(arch) = arch {
            set(model, &format!("{arch}.block_count"), u32s(n));
        }
    }
}

fn set(model: &mut Model, key: &str, value: Value) {
    model.metadata.retain(|(k, _)| k != key);
    model.metadata.push((key.to_owned(), value));
}

/// The file type of a model as it is: what it says, else the most frequent type, marked as
/// guessed (`LLAMA_FTYPE_GUESSED`).
fn copied(model: &Model) -> u32 {
    let told = model
        .metadata
        .iter()
        .find(|(k, _)| k == "general.file_type")
        .and_then(|(_, v)| v.as_int())
        .and_then(|n| u32::try_from(n).ok());
    told.unwrap_or_else(|| 1024 | most_frequent(model))
}

fn most_frequent(model: &Model) -> u32 {
    let mut counts: BTreeMap<DType, usize> = BTreeMap::new();
    let mut most: Option<(DType, usize)> = None;
    for t in &model.tensors {
        let n = counts.entry(t.dtype).or_default();
        *n += 1;
        if most.is_none_or(|(_, m)| *n > m) {
            most = Some((t.dtype, *n));
        }
    }
    let Some((dtype, _)) = most else { return 0 };
    let named = |t: &&FileType| **t != FileType::COPY && t.name() == dtype.as_str();
    match dtype {
        DType::Q3_K => FileType::Q3_K_M.number(),
        DType::Q4_K => FileType::Q4_K_M.number(),
        DType::Q5_K => FileType::Q5_K_M.number(),
        _ => FileType::ALL.iter().find(named).map_or(0, |t| t.number()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(names: &[&str]) -> Model {
        let mut m = Model::new(FormatId::Gguf);
        for name in names {
            let t = Tensor::new(*name, DType::F16, &[256], TensorSource::Absent);
            m.tensors.push(t);
        }
        m
    }

    fn names(m: &Model, prune: &[u32]) -> Vec<String> {
        let order = order(m, prune, false).unwrap();
        order.visits.into_iter().map(|v| v.name).collect()
    }

    #[test]
    fn layers_by_number_and_the_rest_first() {
        let m = model(&[
            "token_embd.weight",
            "blk.10.a",
            "blk.2.b",
            "blk.2.a",
            "output.weight",
            "blk.x.a",
        ]);
        let want = [
            "blk.x.a",
            "output.weight",
            "token_embd.weight",
            "blk.2.a",
            "blk.2.b",
            "blk.10.a",
        ];
        assert_eq!(names(&m, &[]), want);
    }

    #[test]
    fn layers_that_stay_get_new_numbers() {
        let m = model(&["blk.0.a", "blk.1.a", "blk.2.a", "blk.3.a", "out"]);
        assert_eq!(names(&m, &[1, 1]), ["out", "blk.0.a", "blk.1.a", "blk.2.a"]);
        assert_eq!(order(&m, &[1], false).unwrap().layers, Some(3));
        assert_eq!(names(&m, &[0]), ["out", "blk.0.a", "blk.1.a", "blk.2.a"]);
        let last = order(&m, &[3, 9], false).unwrap();
        assert_eq!(
            (last.layers, last.pruned, last.absent),
            (Some(3), vec!["blk.3.a".into()], vec![9])
        );
    }

    #[test]
    fn keys_move_to_the_end() {
        let mut m = model(&[]);
        for k in ["general.file_type", "a", "split.no", "x.block_count"] {
            m.metadata.push((k.into(), Value::Number(Number::U32(1))));
        }
        m.metadata
            .push(("general.architecture".into(), Value::Str("x".into())));
        let matrix = MatrixKeys {
            file: "f".repeat(200),
            dataset: Some(b"caf\xe9.txt\0more".to_vec()),
            entries: 3,
            chunks: 0,
        };
        metadata(&mut m, FileType::Q4_K_M, Some(&matrix), Some(7));
        let keys: Vec<&str> = m.metadata.iter().map(|(k, _)| k.as_str()).collect();
        let want = [
            "a",
            "general.architecture",
            "general.quantization_version",
            "general.file_type",
            "quantize.imatrix.file",
            "quantize.imatrix.dataset",
            "quantize.imatrix.entries_count",
            "x.block_count",
        ];
        assert_eq!(keys, want);
        assert_eq!(m.metadata[4].1.as_str().unwrap().len(), 127);
        assert_eq!(m.metadata[5].1, Value::Bytes(b"caf\xe9.txt".to_vec()));
        let wide = "é".repeat(70);
        assert_eq!(cut(wide.as_bytes()), Value::Str("é".repeat(63)));
    }
}
