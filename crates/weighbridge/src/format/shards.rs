//! Models in several files: the index that lists the shards, the file names that number them, and
//! the one model they make together. Knows no format: the caller opens the single files.
//!
//! The index is the Hugging Face libraries' (`huggingface_hub`, `serialization/_base.py`):
//! `model.safetensors.index.json` or `pytorch_model.bin.index.json` holding `weight_map` from
//! tensor to file name and `metadata.total_size`. Shards are called `STEM-00001-of-00005.EXT`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use weighbridge_core::model::{Model, Tensor, Warning};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, Limits, Result};

/// The ending of an index's file name.
const INDEX: &str = ".index.json";

/// What an index says.
#[derive(Debug, Clone)]
pub struct Index {
    /// Where it lies.
    pub path: PathBuf,
    /// The names of the shards, in the order they are first mentioned.
    pub files: Vec<String>,
    /// Every tensor with the number of its shard in `files`, in the index's order.
    pub weight_map: Vec<(String, usize)>,
    /// The sum of the tensors' bytes that the index claims.
    pub total_size: Option<u64>,
}

/// The files of a sharded model.
#[derive(Debug, Clone)]
pub struct ShardSet {
    /// The index, where there is one.
    pub index: Option<Index>,
    /// The shards, in order.
    pub files: Vec<PathBuf>,
}

/// Whether `path` is named like an index.
pub fn is_index(path: &Path) -> bool {
    name_of(path).is_some_and(|n| n.ends_with(INDEX))
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Reads an index. Names of shards must be plain file names: an index may not point outside its
/// own directory.
///
/// # Errors
/// `Malformed` when it is no index, `Limit` when it is longer than `limits.text_bytes`, `Io`.
pub fn read_index(path: &Path, limits: &Limits) -> Result<Index> {
    let in_file = |e: Error| e.in_file(path.display().to_string());
    // Only a regular file: reading a pipe or a device could go on for ever.
    let source = source::open_file(path, Backend::Pread)?;
    Limits::check(
        source.len(),
        limits.text_bytes,
        "shards.index-too-long",
        "bytes of the index",
    )
    .map_err(in_file)?;
    let text = source.read_vec(0..source.len())?;
    parse_index(&text, limits)
        .map(|index| Index {
            path: path.to_path_buf(),
            ..index
        })
        .map_err(in_file)
}

fn parse_index(text: &[u8], limits: &Limits) -> Result<Index> {
    let bad = |m: &str| Error::malformed("shards.bad-index", m);
    let json: Json = serde_json::from_slice(text).map_err(|e| bad(&format!("no JSON: {e}")))?;
    let map = json
        .get("weight_map")
        .and_then(Json::as_object)
        .ok_or_else(|| bad("the index has no object `weight_map`"))?;
    Limits::check(
        map.len() as u64,
        limits.tensors,
        "shards.tensor-limit",
        "tensors",
    )?;
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut files = Vec::new();
    let mut weight_map = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let file = file
            .as_str()
            .ok_or_else(|| bad("a value of `weight_map` is no file name"))?;
        let number = match numbers.get(file) {
            Some(&n) => n,
            None => {
                plain_name(file)?;
                numbers.insert(file, files.len());
                files.push(file.to_owned());
                files.len() - 1
            }
        };
        weight_map.push((tensor.clone(), number));
    }
    Limits::check(
        files.len() as u64,
        limits.parts,
        "shards.part-limit",
        "shards",
    )?;
    Ok(Index {
        path: PathBuf::new(),
        files,
        weight_map,
        total_size: json.pointer("/metadata/total_size").and_then(size),
    })
}

/// A size as the libraries wrote it over the years: an integer, or a float from a division.
fn size(v: &Json) -> Option<u64> {
    v.as_u64().or_else(|| {
        v.as_f64()
            .filter(|f| (0.0..1e18).contains(f))
            .map(|f| f as u64)
    })
}

fn plain_name(name: &str) -> Result<()> {
    let odd = name.is_empty()
        || name == "."
        || name == ".."
        || name.contains(['/', '\\', '\0', ':'])
        || Path::new(name).file_name() != Some(name.as_ref());
    if odd {
        return Err(Error::malformed(
            "shards.unsafe-path",
            format!("the index names the shard {name:?}, which is no plain file name"),
        )
        .help(
            "an index that points outside its directory may be an attack; do not trust its source",
        ));
    }
    Ok(())
}

/// A shard's file name, taken apart.
struct Numbered<'a> {
    stem: &'a str,
    number: u64,
    of: u64,
    /// With its dot.
    extension: &'a str,
    digits: (usize, usize),
}

impl<'a> Numbered<'a> {
    /// `STEM-00001-of-00005.EXT`.
    fn parse(name: &'a str) -> Option<Self> {
        let (dot, _) = name.match_indices("-of-").last()?;
        let (left, right) = (name.get(..dot)?, name.get(dot + 4..)?);
        let (stem, number) = left.rsplit_once('-')?;
        let end = right.find(|c: char| !c.is_ascii_digit())?;
        let (of, extension) = right.split_at(end);
        let plain = |s: &str| (1..=9).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
        if !plain(number) || !plain(of) || !extension.starts_with('.') {
            return None;
        }
        Some(Self {
            stem,
            number: number.parse().ok()?,
            of: of.parse().ok()?,
            extension,
            digits: (number.len(), of.len()),
        })
    }

    fn name(&self, number: u64) -> String {
        let (stem, of, extension) = (self.stem, self.of, self.extension);
        let (a, b) = self.digits;
        format!("{stem}-{number:0a$}-of-{of:0b$}{extension}")
    }
}

/// The model that `path` is an index or a shard of; `None` when its name says neither.
///
/// # Errors
/// As [`read_index`], and `Malformed` naming the first shard that is missing.
pub fn discover(path: &Path, limits: &Limits) -> Result<Option<ShardSet>> {
    let Some(name) = name_of(path) else {
        return Ok(None);
    };
    if is_index(path) {
        return from_index(path, limits).map(Some);
    }
    let Some(shard) = Numbered::parse(name) else {
        return Ok(None);
    };
    let beside = path.with_file_name(format!("{}{}{INDEX}", shard.stem, shard.extension));
    if beside.is_file() {
        let set = from_index(&beside, limits)?;
        // An index of another model that has the same name says nothing of this file.
        if set.files.iter().any(|f| name_of(f) == Some(name)) {
            return Ok(Some(set));
        }
    }
    if shard.number == 0 || shard.number > shard.of {
        return Ok(None);
    }
    Limits::check(shard.of, limits.parts, "shards.part-limit", "shards")?;
    let files: Vec<PathBuf> = (1..=shard.of)
        .map(|n| path.with_file_name(shard.name(n)))
        .collect();
    present(&files)?;
    Ok(Some(ShardSet { index: None, files }))
}

/// The sharded models in the directory `dir`, by their indexes and then by numbered names that no
/// index lists: the path of the index or of the first shard of each.
///
/// # Errors
/// `Io` when the directory cannot be listed; what is wrong with an index is found on opening it.
pub fn in_directory(dir: &Path, limits: &Limits) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io("cannot list the directory", e).in_file(dir.display().to_string());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        if let Ok(name) = entry.map_err(io)?.file_name().into_string() {
            names.push(name);
        }
        Limits::check(
            names.len() as u64,
            limits.members,
            "shards.directory-limit",
            "files",
        )?;
    }
    names.sort();
    let mut found: Vec<PathBuf> = Vec::new();
    for name in names.iter().filter(|n| n.ends_with(INDEX)) {
        found.push(dir.join(name));
    }
    let mut last = None;
    for name in &names {
        let Some(s) = Numbered::parse(name) else {
            continue;
        };
        let index = dir.join(format!("{}{}{INDEX}", s.stem, s.extension));
        let family = Some((s.stem, s.of, s.extension));
        if !found.contains(&index) && last != family {
            found.push(dir.join(name));
        }
        last = family;
    }
    Ok(found)
}

fn from_index(path: &Path, limits: &Limits) -> Result<ShardSet> {
    let mut index = read_index(path, limits)?;
    if index.files.iter().all(|f| f.ends_with(".msgpack")) {
        // `transformers` joins the keys of nested mappings with slashes there, names here are
        // joined with dots (`flax_shard_checkpoint`, `flatten_dict(sep="/")`).
        for (name, _) in &mut index.weight_map {
            *name = name.replace('/', ".");
        }
    }
    let files: Vec<PathBuf> = index.files.iter().map(|f| path.with_file_name(f)).collect();
    present(&files).map_err(|e| e.in_file(path.display().to_string()))?;
    let index = Some(index);
    Ok(ShardSet { index, files })
}

/// Refuses when a file is missing, naming it.
fn present(files: &[PathBuf]) -> Result<()> {
    let missing: Vec<&PathBuf> = files.iter().filter(|f| !f.exists()).collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let name = name_of(first).unwrap_or_default();
    let more = match missing.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    Err(Error::malformed(
        "shards.missing-part",
        format!("the shard {name}{more} of {} is missing", files.len()),
    )
    .help(format!("put {} where it belongs", first.display())))
}

/// Opens every shard with `opener` and puts the models together: tensors in the index's order,
/// parts and metadata of all. What the index and the shards disagree on without harm is in the
/// warnings.
///
/// # Errors
/// What `opener` gives, `shards.duplicate-name` when two shards hold a tensor of one name, and,
/// unless `lenient`, `shards.missing-tensor` when the index lists one that no shard holds.
pub fn open_sharded(
    set: &ShardSet,
    lenient: bool,
    opener: &dyn Fn(&Path) -> Result<Model>,
) -> Result<Model> {
    let models: Result<Vec<Model>> = set.files.iter().map(|f| opener(f)).collect();
    let models = models?;
    let found = audit(set, &models);
    let mut merged = merge(set, models)?;
    for e in found {
        let fatal = match e.rule() {
            "shards.duplicate-name" => true,
            "shards.missing-tensor" => !lenient,
            _ => false,
        };
        if fatal {
            return Err(e);
        }
        merged.warnings.push(Warning::new(e.rule(), e.message()));
    }
    merged.warnings.extend(total_size(set, &merged));
    Ok(merged)
}

/// The loaders ignore `total_size`, and writers count ties and later edits differently: worth a
/// word, no violation.
fn total_size(set: &ShardSet, merged: &Model) -> Option<Warning> {
    let total = set.index.as_ref()?.total_size?;
    let bytes = merged
        .tensors
        .iter()
        .fold(0u64, |n, t| n.saturating_add(t.byte_len()));
    (total != bytes).then(|| {
        Warning::new(
            "shards.total-size",
            format!("the index claims {total} bytes of tensors, the shards hold {bytes}"),
        )
    })
}

/// Everything that index and shards, opened as `models` in the order of `set.files`, disagree
/// on: for `check`, each of these is a violation.
pub fn audit(set: &ShardSet, models: &[Model]) -> Vec<Error> {
    let mut found = Vec::new();
    let file = |i: usize| {
        set.files
            .get(i)
            .and_then(|f| name_of(f))
            .unwrap_or_default()
    };
    let mut holder: HashMap<&str, usize> = HashMap::new();
    for (i, model) in models.iter().enumerate() {
        for t in &model.tensors {
            if let Some(&first) = holder.get(t.name.as_str()) {
                let (a, b) = (file(first), file(i));
                let message = format!("tensor {:?} is in {a} and again in {b}", t.name);
                found.push(Error::malformed("shards.duplicate-name", message).in_file(b));
            } else {
                holder.insert(&t.name, i);
            }
        }
    }
    let Some(index) = &set.index else {
        return found;
    };
    let mut listed: HashMap<&str, usize> = HashMap::with_capacity(index.weight_map.len());
    let at = index.path.display().to_string();
    for (name, number) in &index.weight_map {
        listed.insert(name, *number);
        let want = file(*number);
        let (rule, message) = match holder.get(name.as_str()) {
            Some(n) if n == number => continue,
            Some(&n) => (
                "shards.misplaced-tensor",
                format!(
                    "the index puts tensor {name:?} in {want}, it is in {}",
                    file(n)
                ),
            ),
            None => (
                "shards.missing-tensor",
                format!("the index puts tensor {name:?} in {want}, no shard holds it"),
            ),
        };
        found.push(Error::malformed(rule, message).in_file(at.as_str()));
    }
    for (i, model) in models.iter().enumerate() {
        for t in &model.tensors {
            if !listed.contains_key(t.name.as_str()) {
                let message = format!("tensor {:?} of {} is not in the index", t.name, file(i));
                found.push(Error::malformed("shards.unlisted-tensor", message).in_file(file(i)));
            }
        }
    }
    found
}

/// Puts the models of all shards together.
fn merge(set: &ShardSet, models: Vec<Model>) -> Result<Model> {
    let mut models = models.into_iter();
    let mut all = models
        .next()
        .ok_or_else(|| Error::malformed("shards.no-part", "the index lists no shard"))?;
    let keys = all.metadata.iter().enumerate();
    let mut keys: HashMap<String, usize> = keys.map(|(i, (k, _))| (k.clone(), i)).collect();
    for mut m in models {
        all.parts.append(&mut m.parts);
        all.tensors.append(&mut m.tensors);
        all.warnings.append(&mut m.warnings);
        all.omitted.append(&mut m.omitted);
        all.structure = all.structure.take().or(m.structure);
        for (key, value) in m.metadata {
            match keys.get(&key).and_then(|&i| all.metadata.get(i)) {
                None => {
                    keys.insert(key.clone(), all.metadata.len());
                    all.metadata.push((key, value));
                }
                Some((_, first)) if *first == value => {}
                Some(_) => all.warnings.push(Warning::new(
                    "shards.metadata-differs",
                    format!("metadata key {key:?} differs between shards; the first is kept"),
                )),
            }
        }
    }
    if let Some(index) = &set.index {
        let names = index.weight_map.iter().enumerate();
        let place: HashMap<&str, usize> = names.map(|(i, (n, _))| (n.as_str(), i)).collect();
        let of = |t: &Tensor| place.get(t.name.as_str()).copied().unwrap_or(usize::MAX);
        all.tensors.sort_by_cached_key(of);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use weighbridge_core::model::{DType, FormatId, TensorSource, Value};

    use super::*;

    /// A fake shard: the file's text lists the tensors it holds.
    fn opener(path: &Path) -> Result<Model> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("cannot read", e))?;
        let mut m = Model::new(FormatId::Safetensors);
        m.metadata.push(("format".into(), Value::Str("pt".into())));
        m.metadata.push(("file".into(), Value::Str(text.clone())));
        for name in text.split_whitespace() {
            m.tensors
                .push(Tensor::new(name, DType::U8, &[0], TensorSource::Absent));
        }
        Ok(m)
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn names(m: &Model) -> Vec<&str> {
        m.tensors.iter().map(|t| t.name.as_str()).collect()
    }

    const A: &str = "m-00001-of-00002.safetensors";
    const B: &str = "m-00002-of-00002.safetensors";
    const I: &str = "m.safetensors.index.json";

    fn index(entries: &[(&str, &str)]) -> String {
        let pairs: Vec<String> = entries
            .iter()
            .map(|(t, f)| format!("{t:?}: {f:?}"))
            .collect();
        format!(
            "{{\"metadata\": {{\"total_size\": 0.0}}, \"weight_map\": {{{}}}}}",
            pairs.join(",")
        )
    }

    #[test]
    fn index_or_any_shard_opens_the_whole_in_index_order() {
        let map = index(&[("z", B), ("a", A), ("y", B)]);
        let dir = folder(&[(A, "a"), (B, "y z"), (I, &map)]);
        for start in [A, B, I] {
            let set = discover(&dir.path().join(start), &Limits::default())
                .unwrap()
                .unwrap();
            let m = open_sharded(&set, false, &opener).unwrap();
            assert_eq!(names(&m), ["z", "a", "y"]);
            let rules: Vec<_> = m.warnings.iter().map(|w| w.rule).collect();
            assert_eq!(rules, ["shards.metadata-differs"]);
        }
        let found = in_directory(dir.path(), &Limits::default()).unwrap();
        assert_eq!(found, [dir.path().join(I)]);
    }

    #[test]
    fn without_an_index_the_numbers_tell() {
        let dir = folder(&[(A, "a"), (B, "b"), ("other.bin", "")]);
        let set = discover(&dir.path().join(B), &Limits::default())
            .unwrap()
            .unwrap();
        assert_eq!(
            names(&open_sharded(&set, false, &opener).unwrap()),
            ["a", "b"]
        );
        let found = in_directory(dir.path(), &Limits::default()).unwrap();
        assert_eq!(found, [dir.path().join(A)]);
        std::fs::remove_file(dir.path().join(A)).unwrap();
        let e = discover(&dir.path().join(B), &Limits::default()).unwrap_err();
        assert_eq!(e.rule(), "shards.missing-part");
        assert!(e.message().contains(A), "{e}");
        let single = discover(&dir.path().join("other.bin"), &Limits::default()).unwrap();
        assert!(single.is_none());
    }

    #[test]
    fn disagreements_are_found() {
        let map = index(&[("a", B), ("gone", A)]);
        let dir = folder(&[(A, "a extra"), (B, "b"), (I, &map)]);
        let set = discover(&dir.path().join(I), &Limits::default())
            .unwrap()
            .unwrap();
        let e = open_sharded(&set, false, &opener).unwrap_err();
        assert_eq!(e.rule(), "shards.missing-tensor");
        let m = open_sharded(&set, true, &opener).unwrap();
        let mut rules: Vec<_> = m.warnings.iter().map(|w| w.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        assert_eq!(
            rules,
            [
                "shards.metadata-differs",
                "shards.misplaced-tensor",
                "shards.missing-tensor",
                "shards.unlisted-tensor"
            ]
        );
        let dir = folder(&[(A, "a b"), (B, "b")]);
        let set = discover(&dir.path().join(A), &Limits::default())
            .unwrap()
            .unwrap();
        let e = open_sharded(&set, true, &opener).unwrap_err();
        assert_eq!(e.rule(), "shards.duplicate-name");
    }

    #[test]
    fn an_index_may_not_point_elsewhere() {
        for bad in ["../x", "/etc/passwd", "a/b", "a\\b", "", ".", "..", "C:x"] {
            let text = index(&[("t", bad)]);
            let e = parse_index(text.as_bytes(), &Limits::default()).unwrap_err();
            assert_eq!(e.rule(), "shards.unsafe-path", "{bad:?} {text}");
        }
        for bad in [
            "",
            "[]",
            "{\"weight_map\": 3}",
            "{\"weight_map\": {\"a\": 3}}",
        ] {
            let e = parse_index(bad.as_bytes(), &Limits::default()).unwrap_err();
            assert_eq!(e.rule(), "shards.bad-index", "{bad}");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        let n = Numbered::parse("a-of-b-00002-of-00010.safetensors").unwrap();
        assert_eq!(
            (n.stem, n.number, n.of, n.extension),
            ("a-of-b", 2, 10, ".safetensors")
        );
        assert_eq!(n.name(7), "a-of-b-00007-of-00010.safetensors");
        for other in [
            "model.safetensors",
            "a-1-of-.bin",
            "a-x-of-2.bin",
            "-of-",
            "a-1-of-2",
        ] {
            assert!(Numbered::parse(other).is_none(), "{other}");
        }
        let huge = Path::new("m-1-of-999999999.bin");
        assert_eq!(
            discover(huge, &Limits::default()).unwrap_err().rule(),
            "shards.part-limit"
        );
    }
}
