//! What a path means: a file, one of several shards, or a folder that holds a model.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use weighbridge_core::model::{Dict, FormatId, Model, Part, Value, Warning};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, ErrorKind, Limits, Result};

use super::detect::{self, Detected};
use super::pytorch::{dcp, deepspeed, megatron};
use super::shards;
use crate::OpenOptions;
use crate::check::Violation;

/// One entry of a folder.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// The file name.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is a folder (links followed).
    pub is_dir: bool,
}

/// The entries of a folder, sorted by name. Names that are not UTF-8 are none that a reader looks
/// for and are left out.
///
/// # Errors
/// `Io` when it cannot be read, `Limit` when it has too many entries.
pub(crate) fn list(dir: &Path, limits: &Limits) -> Result<Vec<Listed>> {
    let shown = dir.display().to_string();
    let io = |e| Error::io("cannot list the folder", e).in_file(shown.as_str());
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        Limits::check(
            out.len() as u64 + 1,
            limits.members,
            "directory.too-large",
            "entries of the folder",
        )?;
        if let Ok(name) = entry.file_name().into_string() {
            let path = entry.path();
            let is_dir = path.is_dir();
            out.push(Listed { name, path, is_dir });
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// The text of a small side file, such as one that names the last step.
///
/// # Errors
/// `Io` when it cannot be read, `Malformed` when it is long or no text.
pub(crate) fn read_small(path: &Path) -> Result<String> {
    const MOST: u64 = 4096;
    let shown = path.display().to_string();
    // Only a regular file: opening a pipe would wait for its writer.
    let source = source::open_file(path, Backend::Pread)?;
    let bytes = source.read_vec(0..source.len().min(MOST + 1))?;
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|t| t.len() as u64 <= MOST);
    text.ok_or_else(|| {
        Error::malformed(
            "directory.bad-side-file",
            "it should be one short line of text",
        )
        .in_file(shown)
    })
}

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One file, opened as itself.
    File(PathBuf),
    /// The shards that this index, or the names of shards like this one, list.
    Shards(PathBuf),
    /// A folder of `torch.distributed.checkpoint`.
    Dcp(PathBuf),
    /// A DeepSpeed folder.
    DeepSpeed(PathBuf),
    /// A Megatron-LM folder.
    Megatron(PathBuf),
}

/// What was found at a path, and what is to be said of it.
#[derive(Debug)]
pub(crate) struct Located {
    pub target: Target,
    pub warnings: Vec<Warning>,
}

impl Located {
    fn plain(target: Target) -> Self {
        Self {
            target,
            warnings: Vec::new(),
        }
    }
}

/// Finds out what `path` stands for.
///
/// # Errors
/// `Unsupported` (`directory.no-model`) and `Parameter` (`directory.ambiguous`) for folders.
pub(crate) fn locate(path: &Path, options: &OpenOptions) -> Result<Located> {
    if path.is_dir() {
        return locate_dir(path, options);
    }
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    if shards::is_index(path) {
        return Ok(Located::plain(Target::Shards(path.to_owned())));
    }
    if path.is_file() {
        if name == ".metadata" || name.ends_with(".distcp") {
            return Ok(Located::plain(Target::Dcp(parent.to_owned())));
        }
        if name == megatron::TRACKER {
            return Ok(Located::plain(Target::Megatron(parent.to_owned())));
        }
        if strip_shard(file_stem(name)).is_some() {
            return shard_or_file(path, name, options);
        }
    }
    Ok(Located::plain(Target::File(path.to_owned())))
}

/// A file named as one of several: all of them, or it alone when no index says that there are
/// others and they are not there.
fn shard_or_file(path: &Path, name: &str, options: &OpenOptions) -> Result<Located> {
    let (target, rule, message) = match shards::discover(path, &options.limits) {
        Ok(None) => return Ok(Located::plain(Target::File(path.to_owned()))),
        Ok(Some(set)) if set.files.len() < 2 => {
            return Ok(Located::plain(Target::Shards(path.to_owned())));
        }
        Ok(Some(set)) => (
            Target::Shards(path.to_owned()),
            "directory.whole-model",
            format!(
                "{name} is one of {} shards: the whole model is opened",
                set.files.len()
            ),
        ),
        Err(e) if e.rule() == "shards.missing-part" && e.file().is_none() => (
            Target::File(path.to_owned()),
            "directory.lone-shard",
            format!("{name} is opened alone: {}", e.message()),
        ),
        Err(e) => return Err(e),
    };
    Ok(Located {
        target,
        warnings: vec![Warning::new(rule, message)],
    })
}

/// A file name without its extension.
fn file_stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// `STEM` of `STEM-00001-of-00002`.
fn strip_shard(stem: &str) -> Option<&str> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| (1..=9).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    (digits(total) && digits(number)).then_some(base)
}

/// Opens what was located.
///
/// # Errors
/// What the readers give.
pub(crate) fn open(located: Located, options: &OpenOptions) -> Result<Model> {
    let mut model = match &located.target {
        Target::File(p) => super::open_file(p, options),
        Target::Shards(p) => open_shards(p, options),
        Target::Dcp(p) => dcp::open(p, options),
        Target::DeepSpeed(p) => deepspeed::open(p, options),
        Target::Megatron(p) => megatron::open(p, options),
    }?;
    model.warnings.extend(located.warnings);
    Ok(model)
}

/// All shards as one model. Each shard of a PyTorch model holds a mapping of its own; the model's
/// structure is one mapping of all their entries.
fn open_shards(path: &Path, options: &OpenOptions) -> Result<Model> {
    let Some(set) = shards::discover(path, &options.limits)? else {
        return super::open_file(path, options);
    };
    let entries = RefCell::new(Some(Vec::new()));
    let mut model = shards::open_sharded(&set, options.lenient, &|file| {
        let model = super::open_file(file, options)?;
        let mut all = entries.borrow_mut();
        match (&model.structure, all.as_mut()) {
            (Some(Value::Dict(d)), Some(all)) => all.extend(d.entries.iter().cloned()),
            _ => *all = None,
        }
        Ok(model)
    })?;
    if let Some(mut all) = entries.into_inner() {
        let names = model.tensors.iter().enumerate();
        let place: HashMap<&str, usize> = names.map(|(i, t)| (t.name.as_str(), i)).collect();
        all.sort_by_key(|(_, v)| match v {
            Value::Tensor(name) => place.get(name.as_str()).copied().unwrap_or(usize::MAX),
            _ => usize::MAX,
        });
        model.structure = Some(Value::Dict(Dict {
            entries: all,
            ..Dict::default()
        }));
    }
    if let Some(index) = &set.index {
        let bytes = std::fs::metadata(&index.path).map_or(0, |m| m.len());
        model.parts.push(Part {
            path: index.path.clone(),
            bytes,
        });
    }
    Ok(model)
}

/// Checks every part of what was located, and what holds them together. The files of a
/// [`Target::File`] are the caller's.
///
/// # Errors
/// Only `Io`: what is wrong with the parts is the answer.
pub(crate) fn check(
    located: &Located,
    options: &OpenOptions,
) -> Result<(FormatId, Vec<Violation>)> {
    let mut checked = Checked::default();
    match &located.target {
        Target::File(file) => checked.file(file, options)?,
        Target::Shards(path) => checked.shards(path, options)?,
        Target::Dcp(dir) => checked.violations = dcp::check(dir, options)?,
        Target::DeepSpeed(dir) => {
            match deepspeed::files(dir, options) {
                Ok(files) => checked.files(&files, options)?,
                Err(e) => checked.note(e)?,
            }
            checked.whole(deepspeed::open(dir, options))?;
        }
        Target::Megatron(dir) => match megatron::files(dir, options) {
            Ok(megatron::Files::Dcp(step)) => checked.violations = dcp::check(&step, options)?,
            Ok(megatron::Files::Ranks(files)) => {
                checked.files(&files, options)?;
                checked.whole(megatron::open(dir, options))?;
            }
            Err(e) => checked.note(e)?,
        },
    }
    let format = checked.format.unwrap_or(FormatId::PyTorch);
    Ok((format, checked.violations))
}

/// What checking has found so far.
#[derive(Debug, Default)]
struct Checked {
    format: Option<FormatId>,
    violations: Vec<Violation>,
}

impl Checked {
    fn note(&mut self, e: Error) -> Result<()> {
        if e.kind() == ErrorKind::Io {
            return Err(e);
        }
        self.violations.push(Violation::from(&e));
        Ok(())
    }

    fn file(&mut self, file: &Path, options: &OpenOptions) -> Result<()> {
        match super::check_file(file, options) {
            Ok((format, violations)) => {
                self.format.get_or_insert(format);
                self.violations.extend(violations);
                Ok(())
            }
            Err(e) => self.note(e),
        }
    }

    fn files(&mut self, files: &[PathBuf], options: &OpenOptions) -> Result<()> {
        files.iter().try_for_each(|f| self.file(f, options))
    }

    /// What only shows when the parts are put together; their own faults are named already.
    fn whole(&mut self, opened: Result<Model>) -> Result<()> {
        match opened {
            Err(e) if self.violations.is_empty() => self.note(e),
            _ => Ok(()),
        }
    }

    fn shards(&mut self, path: &Path, options: &OpenOptions) -> Result<()> {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.contains(".safetensors") {
            self.format = Some(FormatId::Safetensors);
        }
        let set = match shards::discover(path, &options.limits) {
            Ok(Some(set)) => set,
            Ok(None) => return self.file(path, options),
            Err(e) => return self.note(e),
        };
        self.files(&set.files, options)?;
        let models: Result<Vec<Model>> = set
            .files
            .iter()
            .map(|f| super::open_file(f, options))
            .collect();
        match models {
            Ok(models) => shards::audit(&set, &models)
                .into_iter()
                .try_for_each(|e| self.note(e)),
            // Named by the checks of the files.
            Err(e) if e.kind() != ErrorKind::Io => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// How a candidate is ranked: the first that is there is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    SafetensorsIndex,
    Safetensors,
    TorchIndex,
    Torch,
    Trainer,
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

fn locate_dir(dir: &Path, options: &OpenOptions) -> Result<Located> {
    let listed = list(dir, &options.limits)?;
    let (mut all, ignored) = candidates(dir, &listed, options)?;
    if let Some(format) = options.format {
        all.retain(|c| match c.rank {
            Rank::SafetensorsIndex | Rank::Safetensors => format == FormatId::Safetensors,
            Rank::TorchIndex | Rank::Torch | Rank::Trainer => {
                matches!(format, FormatId::PyTorch | FormatId::Pickle)
            }
            Rank::Unreadable => false,
        });
    }
    all.sort_by_key(|c| {
        (
            c.rank == Rank::Unreadable,
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
        .filter(|c| c.rank != Rank::Unreadable || first.rank == Rank::Unreadable)
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
    if safetensors(a) == safetensors(b) || b.rank == Rank::Unreadable {
        return false;
    }
    let shapes = |c: &Candidate| -> Option<BTreeMap<String, Vec<u64>>> {
        let model = open(Located::plain(c.target.clone()), options).ok()?;
        let shape = |t: weighbridge_core::model::Tensor| (t.name.clone(), t.shape.to_vec());
        Some(model.tensors.into_iter().map(shape).collect())
    };
    match (shapes(a), shapes(b)) {
        (Some(a), Some(b)) => !a.is_empty() && a == b,
        _ => false,
    }
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
        "gguf" | "onnx" | "h5" | "keras" | "npz" => Rank::Unreadable,
        _ => return Ok(None),
    };
    let (family, variant) = family(stem);
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
