//! Weights into a given file of Keras: the same tree and configuration with other values.
//!
//! Where every weight that is replaced lies in the file as it is (which is how Keras writes), its
//! bytes are put in place of the old ones, and the archive's checksum is made anew; every other
//! byte stays. Files whose weights are compressed or chunked are written afresh within
//! ([`super::repack`]).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use weighbridge_core::model::{FormatId, Model, StorageData, Tensor, TensorSource};
use weighbridge_core::source::{self, Backend, ByteSource};
use weighbridge_core::wire::zip::{Archive, Member, Method};
use weighbridge_core::{Error, Result};

use super::pair::fits;
use super::repack::{Patch, Repack};
use super::some_names;
use crate::OpenOptions;
use crate::convert::{ConvertOptions, Job, Report, keep_shards, refuse_changes};
use crate::format::keras::{self, Keras, read};
use crate::format::{FormatReader as _, Note, hdf5};

/// What the base is called in messages.
const WHOLE: &str = "the given file";

/// Puts the tensors of `model` into the file `base`, as `path`.
///
/// # Errors
/// As [`super::super::convert`].
pub(in crate::convert) fn convert(
    model: Model,
    base: &Path,
    path: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    if options.shared_weights.is_some() {
        let message = "--shared-weights is for ONNX graphs and OUT is none";
        return Err(Error::parameter("convert.graph", message));
    }
    let base = Base::open(base, path, options)?;
    let mut job = Job::prepare(model, options, FormatId::Hdf5)?;
    let pairs = pair(&base.model, &job.model, &job.bulk, &options.map)?;
    if !options.partial || pairs.pairs.is_empty() {
        pairs.complete(&base.model, &job.model)?;
    }
    tell(&pairs, &base, &mut job, options.weights_only);
    let chosen = pairs
        .pairs
        .iter()
        .filter_map(|&(slot, t)| Some((slot, Arc::new(job.model.tensors.get(t)?.clone()))));
    let chosen: Vec<(usize, Arc<Tensor>)> = chosen.collect();
    let work = base.work(&chosen)?;
    let output = vec![path.to_owned()];
    keep_shards(&job.model, &output)?;
    keep_shards(&base.model, &output)?;
    let mut warnings = std::mem::take(&mut job.model.warnings);
    warnings.extend(base.model.warnings.iter().cloned());
    let report = Report {
        output,
        tensors: chosen.len() as u64,
        bytes: work.bytes(),
        changed: job.changed,
        lost: job.lost,
        warnings,
        seconds: 0.0,
    };
    if options.strict {
        refuse_changes(&report)?;
    }
    if !options.dry_run {
        crate::output::counted(report.bytes, progress, |tell| {
            work.write(path, options.sync, tell)
        })?;
    }
    Ok(report.timed(started))
}

enum Work {
    Patch(Box<Patch>),
    Repack(Box<Repack>),
}

impl Work {
    fn bytes(&self) -> u64 {
        match self {
            Self::Patch(p) => p.source.len(),
            Self::Repack(r) => r.bytes(),
        }
    }

    fn write(&self, path: &Path, sync: bool, tell: &mut dyn FnMut(u64)) -> Result<()> {
        match self {
            Self::Patch(p) => p.write(path, sync, tell),
            Self::Repack(r) => r.write(path, sync, tell),
        }
    }
}

/// The file that weights are put into.
struct Base {
    source: Arc<dyn ByteSource>,
    /// What the reader makes of it.
    model: Model,
    /// The archive and its member that holds the weights.
    archive: Option<(Archive, Member)>,
    options: OpenOptions,
}

impl Base {
    fn open(base: &Path, out: &Path, options: &ConvertOptions) -> Result<Self> {
        let shown = base.display().to_string();
        let open = OpenOptions {
            backend: Backend::Pread,
            limits: options.limits.clone(),
            ..OpenOptions::default()
        };
        let source = source::open_file(base, Backend::Pread)?;
        let format = crate::format::format_of(&source, &open)?;
        if !matches!(format, FormatId::Hdf5 | FormatId::Keras) || shown.ends_with(".json") {
            let e = Error::parameter("convert.graph", "this is no .keras or HDF5 file");
            return Err(e.in_file(shown));
        }
        let model = Keras.open(Arc::clone(&source), &open)?;
        let is_archive = model.container == Some("keras");
        let named = out.to_string_lossy().to_ascii_lowercase();
        let wanted = named.ends_with(".keras") || options.target == Some(FormatId::Keras);
        if is_archive != wanted {
            let (is, like) = match is_archive {
                true => ("a .keras archive", ".keras"),
                false => ("an HDF5 file", ".h5"),
            };
            let e = Error::parameter(
                "convert.graph",
                format!("the given file is {is} and OUT is not"),
            );
            return Err(e
                .in_file(shown)
                .help(format!("name an OUT that ends in {like}")));
        }
        let archive = match is_archive {
            false => None,
            true => {
                let archive = Archive::open(Arc::clone(&source), &open.limits)?;
                let member = archive.by_name(read::WEIGHTS).cloned().ok_or_else(|| {
                    let message = "the weights of the archive lie in several files";
                    Error::unsupported("convert.graph", message).in_file(shown)
                })?;
                Some((archive, member))
            }
        };
        Ok(Self {
            source,
            model,
            archive,
            options: open,
        })
    }

    /// Plans the file that has the tensors `chosen` in the places of those with these numbers.
    fn work(&self, chosen: &[(usize, Arc<Tensor>)]) -> Result<Work> {
        if let Some(patch) = self.patch(chosen)? {
            return Ok(Work::Patch(Box::new(patch)));
        }
        let repack = match &self.archive {
            None => {
                let model = hdf5::read::open(Arc::clone(&self.source), &self.options.limits)?;
                Repack::new(model, chosen, None)?
            }
            Some((archive, member)) => {
                let (inner, _) = read::member_source(archive, member)?;
                let model = hdf5::read::open(inner, &self.options.limits)?;
                Repack::new(model, chosen, Some((archive.clone(), member.clone())))?
            }
        };
        Ok(Work::Repack(Box::new(repack)))
    }

    /// The new values in the places of the old ones; `None` where one of them has no such place.
    fn patch(&self, chosen: &[(usize, Arc<Tensor>)]) -> Result<Option<Patch>> {
        let first = match &self.archive {
            None => 0,
            Some((_, m)) if m.method != Method::Stored => return Ok(None),
            Some((archive, m)) => archive.data_offset(m)?,
        };
        let mut pieces = Vec::with_capacity(chosen.len());
        for (slot, new) in chosen {
            let Some(TensorSource::View(view)) = self.model.tensors.get(*slot).map(|t| &t.source)
            else {
                return Ok(None);
            };
            let StorageData::Raw { offset, .. } = view.storage.data() else {
                return Ok(None);
            };
            if view.storage.is_big_endian() && new.dtype.swap_width() > 1 {
                return Ok(None);
            }
            let at = first
                .checked_add(*offset)
                .and_then(|a| a.checked_add(view.offset));
            let end = at.and_then(|a| a.checked_add(new.byte_len()));
            let (Some(at), Some(end)) = (at, end) else {
                return Ok(None);
            };
            if at < end {
                pieces.push((at..end, Arc::clone(new)));
            }
        }
        pieces.sort_by_key(|(range, _)| range.start);
        let over = pieces.windows(2).any(|w| match w {
            [(a, _), (b, _)] => a.end > b.start,
            _ => false,
        });
        if over {
            let message = "two weights of the given file lie in one place";
            return Err(Error::unsupported("convert.graph", message).in_file(self.source.name()));
        }
        Ok(Some(Patch {
            source: Arc::clone(&self.source),
            pieces,
            archive: self.archive.clone(),
        }))
    }
}

/// Who goes where, by index.
#[derive(Default)]
struct Pairs {
    /// A place and the tensor for it.
    pairs: Vec<(usize, usize)>,
    /// Places of weights without a tensor.
    uncovered: Vec<usize>,
    /// Tensors without a place.
    unused: Vec<usize>,
}

/// A name without the number of its output, which the older file has.
fn plain(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((plain, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => plain,
        _ => name,
    }
}

/// Pairs the tensors of `weights` but `bulk` with those of `base`: by the name under which they
/// are stored, else by what they are in the model.
fn pair(
    base: &Model,
    weights: &Model,
    bulk: &HashSet<String>,
    map: &[(String, String)],
) -> Result<Pairs> {
    let slots = base.tensors.iter().enumerate();
    let stored: HashMap<&str, usize> = slots.clone().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut labels: HashMap<&str, Option<usize>> = HashMap::new();
    for (i, t) in slots {
        if let Some(label) = t.label() {
            // What two are called is the name of neither.
            labels
                .entry(label)
                .and_modify(|l| *l = None)
                .or_insert(Some(i));
        }
    }
    let find = |name: &str| {
        let label = || labels.get(name).or_else(|| labels.get(plain(name)));
        stored
            .get(name)
            .copied()
            .or_else(|| label().copied().flatten())
    };
    let given: Vec<(usize, &Tensor)> = weights
        .tensors
        .iter()
        .enumerate()
        .filter(|(_, t)| !bulk.contains(&t.name))
        .collect();
    let named: HashMap<&str, usize> = given.iter().map(|(i, t)| (t.name.as_str(), *i)).collect();
    let mut chosen: HashMap<usize, usize> = HashMap::new();
    let mut used = HashSet::new();
    for (from, to) in map {
        let no = |name: &str, whose: &str| {
            Error::parameter("convert.map", format!("--map: {whose} no tensor {name:?}"))
                .help("list the names with: weighbridge inspect --tensors")
        };
        let &t = named.get(from.as_str()).ok_or_else(|| no(from, "IN has"))?;
        let slot = find(to).ok_or_else(|| no(to, "the given file has"))?;
        if chosen.insert(slot, t).is_some_and(|other| other != t) {
            let message = format!("--map: two tensors are to become {to:?}");
            return Err(Error::parameter("convert.map", message));
        }
        used.insert(t);
    }
    let told: HashSet<usize> = used.clone();
    for &(i, t) in given.iter().filter(|(i, _)| !told.contains(i)) {
        // A path of the same tree, else a variable's path, be it the name or the label.
        let slot = find(&t.name).or_else(|| find(t.label()?));
        if let Some(slot) = slot {
            match chosen.get(&slot) {
                None => {
                    chosen.insert(slot, i);
                    used.insert(i);
                }
                Some(other) if told.contains(other) => {}
                Some(_) => {
                    let place = base.tensors.get(slot).map_or("", |t| &t.name);
                    let message = format!("two tensors of IN are to become {place:?}: {}", t.name);
                    return Err(Error::parameter("convert.ambiguous", message)
                        .help("--drop leaves one of them out, --map says which it is"));
                }
            }
        }
    }
    let mut out = Pairs::default();
    for (slot, old) in base.tensors.iter().enumerate() {
        match chosen
            .get(&slot)
            .and_then(|&t| Some((t, weights.tensors.get(t)?)))
        {
            Some((t, new)) => {
                fits(old.label().unwrap_or(&old.name), old, WHOLE, new)?;
                out.pairs.push((slot, t));
            }
            None if keras::is_optimizer(&old.name) || !old.has_data() => {}
            None => out.uncovered.push(slot),
        }
    }
    let unused = given.iter().map(|(i, _)| *i).filter(|i| !used.contains(i));
    out.unused = unused.collect();
    Ok(out)
}

impl Pairs {
    /// Refuses leftovers on either side; an optimizer's state may stay behind.
    fn complete(&self, base: &Model, weights: &Model) -> Result<()> {
        let slot = |&i: &usize| {
            let t = base.tensors.get(i);
            t.map_or("", |t| t.label().unwrap_or(&t.name))
        };
        let tensor = |&i: &usize| weights.tensors.get(i).map_or("", |t| t.name.as_str());
        let unused: Vec<usize> = self
            .unused
            .iter()
            .copied()
            .filter(|i| !keras::is_optimizer(tensor(i)))
            .collect();
        let mut said = Vec::new();
        if !self.uncovered.is_empty() {
            let names = some_names(self.uncovered.iter().map(slot));
            let n = self.uncovered.len();
            said.push(format!(
                "IN has nothing for {n} of the given file's tensors: {names}"
            ));
        }
        if !unused.is_empty() {
            let names = some_names(unused.iter().map(tensor));
            let n = unused.len();
            said.push(format!(
                "the given file has no place for {n} of IN's: {names}"
            ));
        }
        if said.is_empty() && !self.pairs.is_empty() {
            return Ok(());
        }
        if said.is_empty() {
            said.push("no tensor of IN has a place in the given file".into());
        }
        Err(Error::parameter("convert.partial", said.join("; ")).help(
            "--map FROM=TO pairs names; --partial puts in what fits and keeps the rest of the \
             given file; with --dry-run it lists everything",
        ))
    }
}

/// Lists what is left on either side.
fn tell(pairs: &Pairs, base: &Base, job: &mut Job, weights_only: bool) {
    for t in pairs
        .uncovered
        .iter()
        .filter_map(|&i| base.model.tensors.get(i))
    {
        let why = "the given file keeps its own: IN has no such tensor";
        job.changed
            .push(Note::new(t.label().unwrap_or(&t.name), why));
    }
    for t in pairs
        .unused
        .iter()
        .filter_map(|&i| job.model.tensors.get(i))
    {
        let why = "the given file has no tensor of this name";
        job.lost.push(Note::new(t.name.as_str(), why));
    }
    let there: HashMap<&str, _> = base
        .model
        .metadata
        .iter()
        .map(|(k, v)| (k.as_str(), v))
        .collect();
    for (key, value) in &job.model.metadata {
        let own = key == "format" || key.starts_with("weighbridge.");
        let keras = keras::write::is_own(key);
        if !(weights_only || own || keras || there.get(key.as_str()) == Some(&value)) {
            let why = "the given file keeps its own metadata";
            job.lost.push(Note::new(format!("metadata {key}"), why));
        }
    }
}
