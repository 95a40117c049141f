//! Which of the models in a folder is meant.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use weighbridge_core::model::{FormatId, Tensor, Warning};
use weighbridge_core::source;
use weighbridge_core::{Error, Result};

use super::super::detect::{self, Detected};
use super::super::pytorch::{dcp, deepspeed, megatron};
use super::super::tensorflow::checkpoint;
use super::{Listed, Located, Target, list, open, strip_shard};
use crate::OpenOptions;
use crate::output::same_file;

/// How a candidate is ranked: the first that is there is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    SafetensorsIndex,
    Safetensors,
    TorchIndex,
    Torch,
    Trainer,
    Onnx,
    Keras,
    KerasWeights,
    Hdf5,
    SavedModel,
    TfCheckpoint,
    GraphDef,
    TfLite,
    FlaxIndex,
    Flax,
    Numpy,
    Gguf,
}

impl Rank {
    /// Whether a file of this rank can be of `format`.
    fn is(self, format: FormatId) -> bool {
        match self {
            Self::SafetensorsIndex | Self::Safetensors => format == FormatId::Safetensors,
            Self::TorchIndex | Self::Torch | Self::Trainer => {
                matches!(format, FormatId::PyTorch | FormatId::Pickle)
            }
            Self::Onnx => format == FormatId::Onnx,
            Self::Keras => format == FormatId::Keras,
            Self::KerasWeights | Self::Hdf5 => {
                matches!(format, FormatId::Keras | FormatId::Hdf5)
            }
            Self::SavedModel => format == FormatId::SavedModel,
            Self::TfCheckpoint => format == FormatId::TfCheckpoint,
            Self::GraphDef => format == FormatId::GraphDef,
            Self::TfLite => format == FormatId::TfLite,
            Self::FlaxIndex | Self::Flax => format == FormatId::Flax,
            Self::Numpy => format == FormatId::Numpy,
            Self::Gguf => format == FormatId::Gguf,
        }
    }
}

/// One model that a folder may hold.
#[derive(Debug, Clone)]
struct Candidate {
    rank: Rank,
    target: Target,
    /// The name for people.
    shown: String,
    /// The model it is: candidates of one family are one model in several formats. `None` goes
    /// with any.
    family: Option<String>,
    /// A variant of other precision (`model.fp16.safetensors`), which the plain one goes before.
    variant: bool,
}

/// Finds the model in a folder.
///
/// # Errors
/// As [`super::locate`].
pub(super) fn locate_dir(dir: &Path, options: &OpenOptions) -> Result<Located> {
    let listed = list(dir, &options.limits)?;
    let (mut all, ignored) = candidates(dir, &listed, options)?;
    if let Some(format) = options.format {
        all.retain(|c| c.rank.is(format));
    }
    all.sort_by_key(|c| (c.variant, c.rank, c.shown.clone()));
    // A checkpoint of one file may be known by its state and by its name.
    let mut shown = HashSet::new();
    all.retain(|c| shown.insert(c.shown.clone()));
    let Some(first) = all.first().cloned() else {
        return Err(no_model(dir, &listed, &ignored));
    };
    // Arrays beside a model are data of all kinds.
    let beside = |c: &&Candidate| c.rank != Rank::Numpy || first.rank == Rank::Numpy;
    let rivals: Vec<&Candidate> = all.iter().filter(beside).collect();
    for other in rivals.iter().skip(1) {
        if !same_model(&first, other, options) {
            return Err(ambiguous(dir, &rivals));
        }
    }
    let mut warnings = Vec::new();
    let passed: Vec<&str> = all.iter().skip(1).map(|c| c.shown.as_str()).collect();
    if !passed.is_empty() {
        warnings.push(Warning::new(
            "directory.choice",
            format!(
                "the folder has the model in several forms: {} is taken, not {}",
                first.shown,
                passed.join(", ")
            ),
        ));
    }
    if !ignored.is_empty() {
        let names: Vec<&str> = ignored.iter().map(String::as_str).collect();
        warnings.push(Warning::new(
            "directory.side-files",
            format!(
                "training state beside the model is left out: {}",
                names.join(", ")
            ),
        ));
    }
    Ok(Located {
        target: first.target,
        warnings,
    })
}

/// What Orbax puts into its folders (`orbax/checkpoint/_src/metadata`, `ocdbt`).
const ORBAX: [&str; 5] = [
    "_CHECKPOINT_METADATA",
    "_METADATA",
    "_sharding",
    "manifest.ocdbt",
    "ocdbt.process_0",
];

fn no_model(dir: &Path, listed: &[Listed], ignored: &[String]) -> Error {
    let folders = listed.iter().filter(|f| f.is_dir).take(8);
    let folders: Vec<&str> = folders.map(|f| f.name.as_str()).collect();
    let mut message = "the folder holds no model of a known format".to_owned();
    if !ignored.is_empty() {
        message.push_str(&format!(", only training state ({})", ignored.join(", ")));
    }
    if listed.iter().any(|f| ORBAX.contains(&f.name.as_str())) {
        let message = "the folder is a checkpoint of Orbax (JAX), which is not read";
        return Error::unsupported("directory.orbax", message)
            .in_file(dir.display().to_string())
            .help(
                "restore it with orbax-checkpoint and save it with safetensors.flax.save_file or \
                 flax.serialization.msgpack_serialize",
            );
    }
    let help = if folders.is_empty() {
        "name the model's file itself".to_owned()
    } else {
        format!(
            "name the model's file, or one of its folders: {}",
            folders.join(", ")
        )
    };
    Error::unsupported("directory.no-model", message)
        .in_file(dir.display().to_string())
        .help(help)
}

fn ambiguous(dir: &Path, rivals: &[&Candidate]) -> Error {
    let names: Vec<&str> = rivals.iter().map(|c| c.shown.as_str()).collect();
    Error::parameter(
        "directory.ambiguous",
        format!(
            "the folder holds {} models: {}",
            names.len(),
            names.join(", ")
        ),
    )
    .in_file(dir.display().to_string())
    .help("name the one that is meant")
}

/// Whether two candidates are one model: by their names, or, in different formats, by the names
/// and shapes of all their tensors.
fn same_model(a: &Candidate, b: &Candidate, options: &OpenOptions) -> bool {
    let family = |c: &Candidate| c.family.clone();
    let (Some(fa), Some(fb)) = (family(a), family(b)) else {
        return true;
    };
    let one_form = a.rank == b.rank && a.variant == b.variant;
    if fa == fb {
        return !one_form;
    }
    let safetensors = |c: &Candidate| c.rank <= Rank::Safetensors;
    if b.rank == Rank::Gguf && a.rank != Rank::Gguf {
        // GGUF has names of its own for the same tensors: there is nothing to compare.
        return true;
    }
    if b.rank == Rank::Onnx && holds(b, a, options) {
        return true;
    }
    if safetensors(a) == safetensors(b) {
        return false;
    }
    let shapes = |c: &Candidate| -> Option<BTreeMap<String, Vec<u64>>> {
        let model = open(Located::plain(c.target.clone()), options).ok()?;
        let shape = |t: Tensor| (t.name.clone(), t.shape.to_vec());
        Some(model.tensors.into_iter().map(shape).collect())
    };
    match (shapes(a), shapes(b)) {
        (Some(a), Some(b)) => !a.is_empty() && a == b,
        _ => false,
    }
}

/// Whether the weights of the graph `graph` lie in the file `file`.
fn holds(graph: &Candidate, file: &Candidate, options: &OpenOptions) -> bool {
    let Target::File(path) = &file.target else {
        return false;
    };
    let model = open(Located::plain(graph.target.clone()), options);
    model.is_ok_and(|m| m.parts.iter().any(|p| same_file(&p.path, path)))
}

/// Everything in the folder that may be a model, and the names of training state beside it.
fn candidates(
    dir: &Path,
    listed: &[Listed],
    options: &OpenOptions,
) -> Result<(Vec<Candidate>, Vec<String>)> {
    let mut out = Vec::new();
    let mut ignored = Vec::new();
    let trainer = |target, shown: &str| Candidate {
        rank: Rank::Trainer,
        target,
        shown: shown.to_owned(),
        family: None,
        variant: false,
    };
    if dcp::is_checkpoint(dir) {
        out.push(trainer(Target::Dcp(dir.to_owned()), ".metadata"));
    }
    if megatron::is_checkpoint(listed) {
        out.push(trainer(
            Target::Megatron(dir.to_owned()),
            "the Megatron checkpoint",
        ));
    }
    if deepspeed::is_checkpoint(listed) {
        out.push(trainer(
            Target::DeepSpeed(dir.to_owned()),
            "the DeepSpeed checkpoint",
        ));
    }
    out.extend(tensorflow_checkpoints(dir, listed, options));
    // Members of a set are no models of their own; the first stands for a set without an index.
    let files = || listed.iter().filter(|f| !f.is_dir);
    let mut sets: HashSet<String> = files()
        .filter_map(|f| Some(f.name.strip_suffix(".index.json")?.to_owned()))
        .collect();
    for f in files() {
        if let Some(set) = f.name.strip_suffix(".index.json") {
            out.extend(index_candidate(f, set));
            continue;
        }
        let Some((stem, ext)) = f.name.rsplit_once('.') else {
            continue;
        };
        let set = strip_shard(stem).map(|base| format!("{base}.{ext}"));
        if set.as_ref().is_some_and(|s| !sets.insert(s.clone())) {
            continue;
        }
        // The parts of weights that a list names.
        let part = stem
            .strip_suffix(".weights")
            .and_then(|s| s.rsplit_once('_'));
        if let (Some((base, digits)), "h5") = (part, ext)
            && digits.bytes().all(|b| b.is_ascii_digit())
            && files().any(|f| f.name == format!("{base}.weights.json"))
        {
            continue;
        }
        if f.name.ends_with(".weights.json") {
            let (family, variant) = family(stem);
            out.push(Candidate {
                rank: Rank::KerasWeights,
                target: Target::File(f.path.clone()),
                shown: f.name.clone(),
                family: Some(family),
                variant,
            });
            continue;
        }
        if deepspeed::is_rank_file(&f.name) || f.name.ends_with(".distcp") {
            continue;
        }
        if is_training_state(&f.name) {
            ignored.push(f.name.clone());
            continue;
        }
        let mut found = file_candidate(f, stem, ext, options)?;
        if let (Some(c), true) = (&mut found, set.is_some()) {
            c.target = Target::Shards(f.path.clone());
        }
        out.extend(found);
    }
    Ok((out, ignored))
}

/// The checkpoint that the state file of the folder calls the latest.
fn latest(dir: &Path, listed: &[Listed], options: &OpenOptions) -> Option<Candidate> {
    let is_state = |f: &&Listed| !f.is_dir && f.name == checkpoint::STATE;
    listed.iter().find(is_state)?;
    let found = checkpoint::locate(&dir.join(checkpoint::STATE), &options.limits);
    let path = found.ok()??;
    Some(Candidate {
        rank: Rank::TfCheckpoint,
        shown: path.file_name()?.to_str()?.to_owned(),
        target: Target::File(path),
        family: None,
        variant: false,
    })
}

/// Checkpoints of TensorFlow: the file that names the last one, or each that has its data beside it.
fn tensorflow_checkpoints(dir: &Path, listed: &[Listed], options: &OpenOptions) -> Vec<Candidate> {
    let files = || listed.iter().filter(|f| !f.is_dir);
    let data = |prefix: &str| {
        files().any(|f| {
            let rest = f.name.strip_prefix(prefix);
            rest.is_some_and(|r| r.starts_with(".data-"))
        })
    };
    let prefixes: Vec<(&Listed, &str)> = files()
        .filter_map(|f| Some((f, f.name.strip_suffix(".index")?)))
        .filter(|(_, prefix)| data(prefix))
        .collect();
    let one = |f: &Listed, family| Candidate {
        rank: Rank::TfCheckpoint,
        target: Target::File(f.path.clone()),
        shown: f.name.clone(),
        family,
        variant: false,
    };
    if let Some(last) = latest(dir, listed, options) {
        return vec![last];
    }
    let named = prefixes.into_iter();
    named
        .map(|(f, prefix)| one(f, Some(family(prefix).0)))
        .collect()
}

fn index_candidate(f: &Listed, set: &str) -> Option<Candidate> {
    let (stem, ext) = set.rsplit_once('.')?;
    let rank = match ext {
        "safetensors" => Rank::SafetensorsIndex,
        "bin" | "pt" | "pth" => Rank::TorchIndex,
        "msgpack" => Rank::FlaxIndex,
        _ => return None,
    };
    let (family, variant) = family(stem);
    Some(Candidate {
        rank,
        target: Target::Shards(f.path.clone()),
        shown: f.name.clone(),
        family: Some(family),
        variant,
    })
}

fn file_candidate(
    f: &Listed,
    stem: &str,
    ext: &str,
    options: &OpenOptions,
) -> Result<Option<Candidate>> {
    let rank = match ext.to_ascii_lowercase().as_str() {
        "safetensors" => Rank::Safetensors,
        "pt" | "pth" | "ckpt" | "bin" | "pt2" | "tar" | "pkl" | "pickle" => {
            if !f.path.is_file() {
                return Ok(None);
            }
            let source = source::open_file(&f.path, options.backend)?;
            match detect::detect(&source, &options.limits)? {
                Detected::Content(FormatId::TfCheckpoint) => Rank::TfCheckpoint,
                Detected::Content(FormatId::PyTorch)
                | Detected::Extension(FormatId::PyTorch | FormatId::Pickle) => Rank::Torch,
                // Named like a model: opening says what it is instead.
                Detected::LfsPointer | Detected::Html if ext != "bin" => Rank::Torch,
                _ => return Ok(None),
            }
        }
        "gguf" => Rank::Gguf,
        "onnx" => Rank::Onnx,
        "keras" => Rank::Keras,
        "h5" if stem.ends_with(".weights") => Rank::KerasWeights,
        "h5" | "hdf5" => Rank::Hdf5,
        "pb" if stem == "saved_model" => Rank::SavedModel,
        "pb" if f.path.is_file() => {
            let source = source::open_file(&f.path, options.backend)?;
            match detect::detect(&source, &options.limits)? {
                Detected::Content(FormatId::GraphDef) => Rank::GraphDef,
                _ => return Ok(None),
            }
        }
        "tflite" => Rank::TfLite,
        "msgpack" | "flax" => Rank::Flax,
        "npz" => Rank::Numpy,
        _ => return Ok(None),
    };
    let (family, variant) = match rank {
        Rank::Onnx => onnx_family(stem),
        _ => family(stem),
    };
    Ok(Some(Candidate {
        rank,
        target: Target::File(f.path.clone()),
        shown: f.name.clone(),
        family: Some(family),
        variant,
    }))
}

/// Files that trainers (transformers, accelerate, Lightning) put beside a model.
fn is_training_state(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_' || c == '-');
    let pickled = [".pt", ".pth", ".bin", ".pkl"]
        .iter()
        .any(|e| name.ends_with(e));
    pickled
        && matches!(
            stem,
            "optimizer"
                | "scheduler"
                | "scaler"
                | "sampler"
                | "rng_state"
                | "random_states"
                | "training_args"
                | "trainer_state"
        )
}

/// The same of an ONNX file, of which exporters write several precisions beside `model.onnx`.
fn onnx_family(stem: &str) -> (String, bool) {
    const VARIANTS: [&str; 10] = [
        "_fp16",
        "_bf16",
        "_int8",
        "_uint8",
        "_quantized",
        "_q4f16",
        "_q4",
        "_q8",
        "_bnb4",
        "_optimized",
    ];
    let base = VARIANTS.iter().find_map(|v| stem.strip_suffix(v));
    match base.filter(|b| !b.is_empty()) {
        Some(base) => (family(base).0, true),
        None => family(stem),
    }
}

/// The model that a file's stem names, and whether it is a variant in another precision. The
/// libraries name one model after its format: `model`, `pytorch_model`, `tf_model`.
fn family(stem: &str) -> (String, bool) {
    const VARIANTS: [&str; 6] = [".fp16", ".bf16", ".fp32", ".ema", ".non_ema", ".int8"];
    let mut stem = strip_shard(stem).unwrap_or(stem).to_ascii_lowercase();
    let mut variant = false;
    if let Some(base) = stem.strip_suffix(".weights").filter(|b| !b.is_empty()) {
        stem = base.to_owned();
    }
    for v in VARIANTS {
        if let Some(base) = stem.strip_suffix(v) {
            stem = base.to_owned();
            variant = true;
        }
    }
    let name = match stem.as_str() {
        "pytorch_model" | "tf_model" | "flax_model" | "consolidated" | "saved_model" => "model",
        "diffusion_flax_model" => "diffusion_pytorch_model",
        other => other,
    };
    (name.to_owned(), variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_model() {
        assert_eq!(family("pytorch_model"), ("model".into(), false));
        assert_eq!(family("model-00001-of-00002"), ("model".into(), false));
        assert_eq!(family("model.fp16"), ("model".into(), true));
        assert_eq!(onnx_family("model_q4f16"), ("model".into(), true));
        assert_eq!(onnx_family("decoder_q4"), ("decoder".into(), true));
        assert_eq!(onnx_family("_q4"), ("_q4".into(), false));
        assert_eq!(strip_shard("a-b-00001-of-00010"), Some("a-b"));
        assert_eq!(strip_shard("state-of-art"), None);
    }

    #[test]
    fn training_state_is_no_model() {
        for name in [
            "optimizer.pt",
            "rng_state_0.pth",
            "training_args.bin",
            "random_states_12.pkl",
            "optimizer_1.bin",
        ] {
            assert!(is_training_state(name), "{name}");
        }
        for name in ["optimizer.safetensors", "pytorch_model.bin", "scaled.pt"] {
            assert!(!is_training_state(name), "{name}");
        }
    }
}
