//! What a path means: a file, one of several shards, or a folder that holds a model.

mod check;
mod choose;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use weighbridge_core::model::{Dict, FormatId, Model, Part, Value, Warning};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, Limits, Result};

use super::gguf;
use super::pytorch::{dcp, deepspeed, megatron};
use super::shards;
use super::tensorflow::checkpoint;
use crate::OpenOptions;
pub(crate) use check::check;

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
        return choose::locate_dir(path, options);
    }
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    if let Some(found) = checkpoint::locate(path, &options.limits)? {
        return Ok(Located::plain(Target::File(found)));
    }
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

/// Mappings laid over each other: entries of one key that are mappings become one.
fn merged(entries: Vec<(Value, Value)>) -> Dict {
    let mut out: Vec<(Value, Value)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (key, value) in entries {
        let name = key.as_str().map(str::to_owned);
        let known = name.as_ref().and_then(|n| places.get(n)).copied();
        match (known.and_then(|i| out.get_mut(i)), value) {
            (Some((_, Value::Dict(first))), Value::Dict(more)) => {
                first.entries.extend(more.entries)
            }
            (_, value) => {
                if let Some(name) = name {
                    places.entry(name).or_insert(out.len());
                }
                out.push((key, value));
            }
        }
    }
    for (_, value) in &mut out {
        if let Value::Dict(d) = value {
            *d = merged(std::mem::take(&mut d.entries));
        }
    }
    Dict {
        entries: out,
        ..Dict::default()
    }
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
    if model.format == FormatId::Flax {
        // Each shard has the mappings on the way to its arrays.
        let all = entries.into_inner().map(merged);
        model.structure = all.map(Value::Dict);
    } else if let Some(mut all) = entries.into_inner() {
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
    if model.format == FormatId::Gguf {
        gguf::split::settle(&mut model, set.files.len())?;
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
