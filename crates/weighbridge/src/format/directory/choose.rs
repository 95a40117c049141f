//! Which of the models in a folder is meant.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use weighbridge_core::model::{FormatId, Tensor, Warning};
use weighbridge_core::source;
use weighbridge_core::{Error, Result};

use super::super::detect::{self, Detected};
use super::super::pytorch::{dcp, deepspeed, megatron};
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
    Gguf,
    Keras,
    Unreadable,
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
        all.retain(|c| match c.rank {
            Rank::SafetensorsIndex | Rank::Safetensors => format == FormatId::Safetensors,
            Rank::TorchIndex | Rank::Torch | Rank::Trainer => {
                matches!(format, FormatId::PyTorch | FormatId::Pickle)
            }
            Rank::Onnx => format == FormatId::Onnx,
            Rank::Gguf => format == FormatId::Gguf,
            Rank::Keras => matches!(format, FormatId::Hdf5 | FormatId::Keras),
            Rank::Unreadable => false,
        });
    }
    all.sort_by_key(|c| {
        (
            // These often lie beside the model that is meant.
            c.rank >= Rank::Keras,
            c.variant,
            c.rank,
            c.shown.clone(),
        )
    });
    let Some(first) = all.first().cloned() else {
        return Err(no_model(dir, &listed, &ignored));
    };
    let rivals: Vec<&Candidate> = all
        .iter()
        .filter(|c| c.rank < Rank::Keras || c.rank == first.rank)
        .collect();
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

fn no_model(dir: &Path, listed: &[Listed], ignored: &[String]) -> Error {
    let folders = listed.iter().filter(|f| f.is_dir).take(8);
    let folders: Vec<&str> = folders.map(|f| f.name.as_str()).collect();
    let mut message = "the folder holds no model of a known format".to_owned();
    if !ignored.is_empty() {
        message.push_str(&format!(", only training state ({})", ignored.join(", ")));
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
    if safetensors(a) == safetensors(b) || b.rank == Rank::Unreadable {
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
    // Members of a set are no models of their own; the first stands for a set without an index.
    let files = listed.iter().filter(|f| !f.is_dir);
    let mut sets: HashSet<String> = files
        .filter_map(|f| Some(f.name.strip_suffix(".index.json")?.to_owned()))
        .collect();
    for f in listed.iter().filter(|f| !f.is_dir) {
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

fn index_candidate(f: &Listed, set: &str) -> Option<Candidate> {
    let (stem, ext) = set.rsplit_once('.')?;
    let rank = match ext {
        "safetensors" => Rank::SafetensorsIndex,
        "bin" | "pt" | "pth" => Rank::TorchIndex,
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
                Detected::Content(FormatId::PyTorch)
                | Detected::Extension(FormatId::PyTorch | FormatId::Pickle) => Rank::Torch,
                // Named like a model: opening says what it is instead.
                Detected::LfsPointer | Detected::Html if ext != "bin" => Rank::Torch,
                _ => return Ok(None),
            }
        }
        "gguf" => Rank::Gguf,
        "onnx" => Rank::Onnx,
        "h5" | "hdf5" | "keras" => Rank::Keras,
        "npz" => Rank::Unreadable,
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
    for v in VARIANTS {
        if let Some(base) = stem.strip_suffix(v) {
            stem = base.to_owned();
            variant = true;
        }
    }
    let name = match stem.as_str() {
        "pytorch_model" | "tf_model" | "flax_model" | "consolidated" => "model",
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
