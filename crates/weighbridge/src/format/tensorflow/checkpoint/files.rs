//! The files that a checkpoint consists of, and the names that stand for it.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};

/// The name of the file that says which checkpoint of a folder is the latest.
pub(crate) const STATE: &str = "checkpoint";

/// Longest such file.
const MOST_STATE: u64 = 16 << 20;

/// What it says (`checkpoint_state.proto`, as text).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The latest one.
    pub latest: Option<String>,
    /// All of them.
    pub all: Vec<String>,
}

/// Reads a state file.
///
/// # Errors
/// `Malformed` when it is none.
pub(crate) fn state(bytes: &[u8]) -> Result<State> {
    let bad = |at: usize| {
        let message = "a checkpoint's state is lines of a key, a colon and a value";
        Error::malformed("tensorflow.state", message).at(at as u64)
    };
    let text = std::str::from_utf8(bytes).map_err(|e| bad(e.valid_up_to()))?;
    let mut out = State::default();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(':').ok_or_else(|| bad(start))?;
        let value = value.trim();
        match key {
            "model_checkpoint_path" => out.latest = Some(quoted(value).ok_or_else(|| bad(start))?),
            "all_model_checkpoint_paths" => out.all.push(quoted(value).ok_or_else(|| bad(start))?),
            "all_model_checkpoint_timestamps" | "last_preserved_timestamp"
                if value.parse::<f64>().is_ok() => {}
            _ => return Err(bad(start)),
        }
    }
    Ok(out)
}

/// A text in quotes, as protobuf's text format writes it.
fn quoted(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Vec::new();
    let mut bytes = inner.bytes().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'"' => return None,
            b'\\' => match bytes.next()? {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b'r' => out.push(b'\r'),
                d @ b'0'..=b'7' => {
                    let mut n = u32::from(d - b'0');
                    for _ in 0..2 {
                        if let Some(d @ b'0'..=b'7') = bytes.peek().copied() {
                            n = n * 8 + u32::from(d - b'0');
                            bytes.next();
                        }
                    }
                    out.push(u8::try_from(n).ok()?);
                }
                other => out.push(other),
            },
            b => out.push(b),
        }
    }
    String::from_utf8(out).ok()
}

/// Whether `name` is one of the data files of a checkpoint.
pub(crate) fn is_data(name: &str) -> bool {
    prefix_of_data(name).is_some()
}

/// `PREFIX` of `PREFIX.data-00000-of-00001`.
fn prefix_of_data(name: &str) -> Option<&str> {
    let (prefix, number) = name.rsplit_once(".data-")?;
    let (a, b) = number.split_once("-of-")?;
    let digits = |s: &str| s.len() >= 5 && s.bytes().all(|b| b.is_ascii_digit());
    (digits(a) && digits(b)).then_some(prefix)
}

/// `PREFIX` of `PREFIX-00000-of-00002`, as the files of version 1 are called.
pub(super) fn prefix_of_part(name: &str) -> Option<(&str, u64)> {
    let (rest, total) = name.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (digits(total) && digits(number)).then(|| Some((prefix, total.parse().ok()?)))?
}

/// The index beside the data file at `path`.
pub(crate) fn beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{}.index", prefix_of_data(name)?)))
}

/// The file that `path` stands for: a prefix, a data file, a state file; nothing when it stands
/// for itself.
///
/// # Errors
/// `Io`, and `Malformed` for a state file that names nothing in its folder.
pub(crate) fn locate(path: &Path, limits: &Limits) -> Result<Option<PathBuf>> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return Ok(None);
    };
    if !path.exists() {
        return Ok(by_prefix(path));
    }
    if is_data(name) {
        return Ok(beside(path).filter(|p| p.is_file()));
    }
    if name == STATE {
        return latest(path, limits);
    }
    Ok(None)
}

/// Most files of one checkpoint that are listed.
const MOST_FILES: usize = 100_000;

/// All files of the checkpoint whose prefix `path` is, by name: its index, data and graph, or the
/// parts of version 1. None where `path` is no prefix of any.
pub(crate) fn all_of(path: &Path) -> Vec<PathBuf> {
    let (Some(name), folder) = (path.file_name().and_then(|n| n.to_str()), folder_of(path)) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let ours = |found: &str| {
        let rest = found.strip_prefix(name);
        matches!(rest, Some(".index" | ".meta"))
            || prefix_of_data(found) == Some(name)
            || prefix_of_part(found).is_some_and(|(prefix, _)| prefix == name)
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut files: Vec<PathBuf> = names
        .filter(|found| ours(found))
        .map(|found| path.with_file_name(found))
        .filter(|p| p.is_file())
        .take(MOST_FILES)
        .collect();
    files.sort_unstable();
    files
}

/// Where the files beside `path` lie.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// The index, or the first file, of the checkpoint with this prefix.
fn by_prefix(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let index = path.with_file_name(format!("{name}.index"));
    if index.is_file() {
        return Some(index);
    }
    let start = format!("{name}-00000-of-");
    let mut entries = std::fs::read_dir(folder_of(path)).ok()?.flatten();
    entries.find_map(|e| {
        let found = e.file_name().into_string().ok()?;
        let part = found.starts_with(&start) && prefix_of_part(&found).is_some();
        part.then(|| path.with_file_name(found))
    })
}

/// The checkpoint that the state file at `path` calls the latest. Only its own folder is looked
/// into: what a path outside names was moved along, or is none of the model's.
fn latest(path: &Path, limits: &Limits) -> Result<Option<PathBuf>> {
    let shown = path.display().to_string();
    let source = weighbridge_core::source::open_file(path, Default::default())?;
    Limits::check(
        source.len(),
        MOST_STATE.min(limits.text_bytes),
        "tensorflow.state",
        "bytes of the checkpoint's state",
    )?;
    if is_table(&source)? {
        return Ok(None);
    }
    let state = state(&source.read_vec(0..source.len())?).map_err(|e| e.in_file(shown.as_str()))?;
    let Some(name) = state.latest.or(state.all.last().cloned()) else {
        let message = "the state names no checkpoint";
        return Err(Error::malformed("tensorflow.state", message).in_file(shown));
    };
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let within = is_inside(&name).then_some(name.as_str());
    let choices = within.into_iter().chain([last]);
    for choice in choices.filter(|c| !c.is_empty() && *c != STATE) {
        let target = path.with_file_name(choice);
        if target.is_file() {
            return Ok(Some(target));
        }
        if let Some(found) = by_prefix(&target) {
            return Ok(Some(found));
        }
    }
    let message = format!("the latest checkpoint, {name:?}, is not in the folder");
    Err(Error::malformed("tensorflow.state", message)
        .in_file(shown)
        .help("name the prefix of the checkpoint that is meant"))
}

/// Whether a path stays in the folder that it is counted from, on every system.
fn is_inside(name: &str) -> bool {
    let mut steps = Path::new(name).components();
    !name.contains(['\\', ':']) && steps.all(|s| matches!(s, Component::Normal(_)))
}

fn is_table(source: &Arc<dyn ByteSource>) -> Result<bool> {
    super::is_table(source.as_ref())
}

/// Says what is to be done with a data file that stands alone.
pub(super) fn refuse_other(source: &Arc<dyn ByteSource>) -> Result<()> {
    let name = source.name();
    if is_data(name) && !is_table(source)? {
        let message = "this is the data of a checkpoint, and the index that describes it is not \
                       beside it";
        return Err(Error::unsupported("tensorflow.no-index", message)
            .help("fetch the .index file of the same prefix"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_files() {
        let text =
            b"model_checkpoint_path: \"a\\\\b\\303\\244\"\nall_model_checkpoint_paths: \"x\"\n\
            all_model_checkpoint_timestamps: 1.5\n";
        let s = state(text).unwrap();
        assert_eq!(s.latest.as_deref(), Some("a\\bä"));
        assert_eq!(s.all, ["x"]);
        assert!(state(b"hello").is_err());
        assert!(state(b"model_checkpoint_path: x").is_err());
        assert!(state(b"other: \"x\"").is_err());
    }

    #[test]
    fn names_of_files() {
        assert!(is_data("m.ckpt-3.data-00000-of-00001"));
        assert!(!is_data("m.data-1-of-2"));
        assert_eq!(prefix_of_part("m.ckpt-00001-of-00002"), Some(("m.ckpt", 2)));
        assert_eq!(prefix_of_part("m.ckpt-1-of-2"), None);
        let p = beside(Path::new("a/variables.data-00000-of-00001"));
        assert_eq!(p.as_deref(), Some(Path::new("a/variables.index")));
    }
}
