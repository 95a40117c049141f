//! Writing a model that came from a file: its changes spliced in, its weights where they are asked
//! to be, and every file that belongs to it put in place together.
//!
//! Protocol Buffers end at 2 GiB. A model file that would be longer gets its weights beside it,
//! unless the caller insists: this toolkit reads it, others do not.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{Chunks, Model};
use weighbridge_core::source::{Backend, ByteSource};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Limits, Result};

use super::beside::{Copied, Names, free, inside, is_tied};
use super::external::Files;
use super::place::Alignment;
use super::raw;
use super::read::open_both;
use super::relocate::{Data, Moved, relocate};
use super::splice::{self, Edits, Spliced, splice};
use crate::OpenOptions;
use crate::format::Note;
use crate::output::{OutputSet, Sink, same_file};

/// Longest model file that others read: protobuf counts a message's bytes in 31 bits.
pub const MOST_BYTES: u64 = i32::MAX as u64;

/// The least tensor that goes into a file of its own where nobody says (`size_threshold` of the
/// reference).
pub const THRESHOLD: u64 = 1024;

/// A model as it lies in its files.
#[derive(Debug)]
pub struct Original {
    /// The model file.
    pub source: Arc<dyn ByteSource>,
    /// Its fields.
    pub raw: raw::Model,
    /// What they mean, with every file of the model.
    pub model: Model,
    backend: Backend,
    limits: Limits,
}

impl Original {
    /// Opens the model in `source`.
    ///
    /// # Errors
    /// As the reader.
    pub fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Self> {
        let (raw, model) = open_both(Arc::clone(&source), options)?;
        Ok(Self {
            source,
            raw,
            model,
            backend: options.backend,
            limits: options.limits.clone(),
        })
    }

    /// The whole of the model file, as a message.
    pub fn whole(&self) -> Span {
        Span::of(self.source.as_ref())
    }

    /// The files beside it.
    pub(super) fn files(&self) -> Files {
        Files::beside(self.source.as_ref(), self.backend, &self.limits)
    }

    /// What its files may cost.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn path(&self) -> &Path {
        Path::new(self.source.name())
    }

    /// An error of the model file, where it says of no other.
    fn named(&self, e: Error) -> Error {
        match e.file() {
            Some(_) => e,
            None => e.in_file(self.source.name()),
        }
    }
}

/// Where weights go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Weights {
    /// Nowhere, unless the model file would pass 2 GiB.
    #[default]
    Keep,
    /// Into the model file.
    Inline,
    /// Into files beside it.
    External(External),
}

/// Which weights lie beside the model, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The file's name; `None` for the model's with `.data` behind it. With several files each
    /// name has its number before the last dot.
    pub file: Option<String>,
    /// Tensors of fewer bytes stay in the model file.
    pub threshold: u64,
    /// Take weights that lie in other files along, too.
    pub gather: bool,
    /// Most bytes of a file; a larger tensor gets one of its own.
    pub max_size: Option<u64>,
    /// Most tensors of a file.
    pub max_tensors: Option<u64>,
    /// Where tensors begin in a file.
    pub alignment: Alignment,
}

impl Default for External {
    fn default() -> Self {
        Self {
            file: None,
            threshold: THRESHOLD,
            gather: false,
            max_size: None,
            max_tensors: None,
            alignment: Alignment::WINDOWS,
        }
    }
}

impl External {
    /// Whether a tensor of so many bytes lies beside the model.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        bytes > 0 && bytes >= self.threshold
    }
}

/// How a model is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where weights go.
    pub weights: Weights,
    /// Where they go instead when the model file would be longer than `most_bytes`; without this,
    /// that is refused.
    pub otherwise: Option<External>,
    /// Longest model file that is written.
    pub most_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self::new(Weights::Keep, false)
    }
}

impl Options {
    /// Weights go where they are asked to be; only those that may stay leave a file that others
    /// could not read. With `over_2gib` it is written.
    pub fn new(weights: Weights, over_2gib: bool) -> Self {
        Self {
            otherwise: (weights == Weights::Keep).then(External::default),
            weights,
            most_bytes: if over_2gib { u64::MAX } else { MOST_BYTES },
        }
    }
}

/// Files to be written, with exact sizes.
#[derive(Debug)]
pub struct Plan {
    source: Arc<dyn ByteSource>,
    path: PathBuf,
    spliced: Spliced,
    data: Vec<(PathBuf, Data)>,
    copies: Vec<Copied>,
    /// What happens to the weights.
    pub notes: Vec<Note>,
    /// Files of the original that the new model does not need.
    pub unused: Vec<PathBuf>,
}

/// Plans writing `original` with `edits` to `out`. No payload is read.
///
/// New files get names made from `out`; files of the original that the result still needs are
/// copied where `out` lies in another folder. Nothing is written over a file of the original but,
/// where `out` is that, the model file itself.
///
/// # Errors
/// `Parameter` when a file would take the place of one that is read or is no place for one, or
/// when the model file would be too long for others; `Unsupported` when data is not at hand; what
/// is wrong with a tensor.
pub fn plan(original: &Original, edits: Edits, out: &Path, options: &Options) -> Result<Plan> {
    let plan = plan_as(original, edits.clone(), out, &options.weights)?;
    let (len, most) = (plan.spliced.len(), options.most_bytes);
    if len <= most {
        return Ok(plan);
    }
    let Some(external) = &options.otherwise else {
        return Err(too_long(len, &options.weights));
    };
    let weights = Weights::External(external.clone());
    let mut plan = plan_as(original, edits, out, &weights)?;
    if plan.spliced.len() > most {
        return Err(too_long(plan.spliced.len(), &weights));
    }
    let why =
        format!("in one file the model would have {len} bytes, over the 2 GiB that others read");
    plan.notes.push(Note::new("weights", why));
    Ok(plan)
}

fn too_long(len: u64, weights: &Weights) -> Error {
    let message = format!("the model file would have {len} bytes; protobuf ends at {MOST_BYTES}");
    let help = match weights {
        Weights::Inline => {
            "leave the weights in files beside the model; --over-2gib writes one file that only this tool reads"
        }
        _ => "move smaller tensors out, too, with a lower --external-threshold",
    };
    Error::parameter("onnx.over-2gib", message).help(help)
}

fn plan_as(original: &Original, edits: Edits, out: &Path, weights: &Weights) -> Result<Plan> {
    let here = inside(original.path(), out);
    let mut weights = weights.clone();
    if let Weights::External(e) = &mut weights {
        // In another folder there is nothing yet to be left where it is.
        e.gather |= !here;
    }
    let names = Names::new(original, out, &weights)?;
    let moved =
        relocate(original, edits, &weights, &|n| names.of(n)).map_err(|e| original.named(e))?;
    let spliced = splice(original.source.as_ref(), &moved.edits)?;
    let locations = names.of(moved.data.len());
    let mut plan = Plan {
        source: Arc::clone(&original.source),
        path: out.to_owned(),
        spliced,
        notes: notes(&moved, &locations),
        unused: Vec::new(),
        copies: Vec::new(),
        data: Vec::new(),
    };
    let mut files = original.files();
    for location in moved.kept.iter().filter(|_| !here) {
        let storage = files.open(location).map_err(|why| why.error())?;
        plan.copies.push(Copied::new(out, location, &storage)?);
    }
    if here {
        let names = |l: &String| files.path(l);
        let kept: Vec<PathBuf> = moved.kept.iter().filter_map(names).collect();
        let parts = original.model.parts.iter().skip(1);
        let unused = parts.filter(|p| !kept.contains(&p.path));
        plan.unused = unused.map(|p| p.path.clone()).collect();
    }
    for (location, data) in locations.iter().zip(moved.data) {
        let path = free(out, location)?;
        plan.data.push((path, data));
    }
    keep_parts(original, &plan)?;
    Ok(plan)
}

fn notes(moved: &Moved, locations: &[String]) -> Vec<Note> {
    let mut notes = Vec::new();
    let shown = |(n, bytes): (u64, u64)| format!("{n} tensors, {bytes} bytes");
    if moved.out.0 > 0 {
        let to = match locations {
            [one] => one.clone(),
            many => format!("{} files", many.len()),
        };
        let why = format!("{} into {to}", shown(moved.out));
        notes.push(Note::new("weights", why));
    }
    if moved.into.0 > 0 {
        let why = format!("{} into the model file", shown(moved.into));
        notes.push(Note::new("weights", why));
    }
    notes
}

/// Refuses to write over a file that is read, and to write two files to one place.
fn keep_parts(original: &Original, plan: &Plan) -> Result<()> {
    let refused = |path: &Path, message: &str| {
        Err(Error::parameter("onnx.overwrites-part", message)
            .in_file(path.display().to_string())
            .help("name another place"))
    };
    let parts = &original.model.parts;
    let data = plan.data.iter().map(|(p, _)| p);
    let beside: Vec<&PathBuf> = data.chain(plan.copies.iter().map(|c| &c.path)).collect();
    let lower = |p: &Path| p.as_os_str().to_ascii_lowercase();
    let mut taken = HashSet::from([lower(&plan.path)]);
    for path in &beside {
        if parts.iter().any(|p| same_file(&p.path, path)) || same_file(original.path(), path) {
            return refused(
                path,
                "weights would take the place of a file they are read from",
            );
        }
        if !taken.insert(lower(path)) || same_file(&plan.path, path) {
            return refused(path, "two files of the model would have one name");
        }
    }
    let mut others = parts.iter().skip(1);
    match others.any(|p| same_file(&p.path, &plan.path)) {
        true => refused(
            &plan.path,
            "the model would take the place of its own weights",
        ),
        false => Ok(()),
    }
}

impl Plan {
    /// The model file's new content.
    pub fn model(&self) -> &Spliced {
        &self.spliced
    }

    /// The files: the model first.
    pub fn paths(&self) -> Vec<PathBuf> {
        let data = self.data.iter().map(|(p, _)| p.clone());
        let copies = self.copies.iter().map(|c| c.path.clone());
        let model = std::iter::once(self.path.clone());
        model.chain(data).chain(copies).collect()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        let data = self.data.iter().map(|(_, d)| d.len);
        let copies = self.copies.iter().map(|c| c.source.len());
        data.chain(copies)
            .fold(self.spliced.len(), u64::saturating_add)
    }

    /// Whether the model file is all there is to be written.
    pub fn is_model_only(&self) -> bool {
        self.data.is_empty() && self.copies.is_empty()
    }

    /// Writes all files and puts them in place together, the model last; an old model that reads
    /// files which are replaced is away meanwhile. `progress` is told the bytes since its last call
    /// and the total.
    ///
    /// # Errors
    /// `Io`, and what reading gives; every target is as it was then, unless it was a rename that
    /// failed.
    pub fn write(&self, sync: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let (mut told, total) = (0u64, self.bytes());
        let mut tell = |n: u64| {
            told = told.saturating_add(n);
            progress(n, total);
        };
        let mut set = OutputSet::new();
        let mut folders = Vec::new();
        let written = self.write_all(sync, &mut set, &mut folders, &mut tell);
        if let Err(e) = written.and_then(|()| set.commit().map(|_| ())) {
            // Those that were made for nothing; one that is in use stays.
            for folder in folders.iter().rev() {
                let _ = std::fs::remove_dir(folder);
            }
            return Err(e);
        }
        progress(total.saturating_sub(told), total);
        Ok(())
    }

    /// Writes all files into `set`, and makes the `folders` that they lie in.
    ///
    /// # Errors
    /// `Io`, and what reading gives.
    pub(crate) fn write_all(
        &self,
        sync: bool,
        set: &mut OutputSet,
        folders: &mut Vec<PathBuf>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        for c in &self.copies {
            c.write(sync, set, folders, tell)?;
        }
        for (path, data) in &self.data {
            set.add(path, data.len, sync, &mut |out| data.write(out, tell))?;
        }
        set.add(&self.path, self.spliced.len(), sync, &mut |out| {
            self.spliced.write(self.source.as_ref(), out, tell)
        })?;
        if is_tied(&self.path, self.data.iter().map(|(p, _)| p.as_path())) {
            set.old_is_tied();
        }
        Ok(())
    }
}

impl Data {
    fn write(&self, out: &mut dyn Sink, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let mut chunks = Chunks::new();
        for (at, t) in &self.items {
            let gap = at.saturating_sub(out.position());
            // Less than an alignment.
            out.put(&vec![0; usize::try_from(gap).unwrap_or(0)])?;
            tell(gap);
            splice::put_tensor(t, &mut chunks, out, tell)?;
        }
        Ok(())
    }
}
