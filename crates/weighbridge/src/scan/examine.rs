//! The dispatcher: takes any run of bytes, a file or something inside one, for everything that
//! some loader would take it for.
//!
//! What the bytes are decides; a name only adds what it promises. Whatever an archive or a
//! compressed stream holds comes back here, so that every format is looked into at every depth.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::FormatId;
use weighbridge_core::source::{Backend, ByteSource, SliceSource, Window};
use weighbridge_core::{Error, ErrorKind, Limits, Result};
use weighbridge_scan::{Fault, Gap, Subject};

use super::shape::Shape;
use super::weights::Weights;
use super::{
    HEAD, compressed, flax, gate, gguf, hdf5, keras, media, natives, npy, onnx, pickles, promise,
    sentencepiece, sevenz, strings, tar, tensorflow, text, tflite, zip,
};
use crate::OpenOptions;
use crate::format::detect::{self, Detected};
use crate::format::{FormatReader, pytorch::PyTorch, safetensors::Safetensors};

/// Bytes that may be inflated to be looked into for each byte of the file, and at least.
const INFLATED_PER_BYTE: u64 = 1100;
const INFLATED_LEAST: u64 = 16 << 20;

/// Most bytes that are inflated in all for one file: they are held in memory.
const INFLATED_MOST: u64 = 160 << 20;

/// How deep things in things are followed.
const MOST_NESTED: usize = 8;

/// Most things looked into for one file.
const MOST_ITEMS: u64 = 1_000_000;

/// Where a run of bytes lies.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The members it lies in, outermost first; empty for the file itself.
    pub(super) steps: Vec<String>,
    /// Its first byte in the file, unless it is stored in another form.
    pub(super) base: Option<u64>,
}

impl Place {
    /// The place as reports show it.
    pub(super) fn text(&self) -> String {
        self.steps.join(" → ")
    }

    /// A place inside this one; `at` counts from this one's first byte.
    pub(super) fn inside(&self, name: impl Into<String>, at: Option<u64>) -> Self {
        let mut steps = self.steps.clone();
        steps.push(name.into());
        Self {
            steps,
            base: match (self.base, at) {
                (Some(b), Some(at)) => Some(b.saturating_add(at)),
                _ => None,
            },
        }
    }

    /// The same place from its byte `at` on.
    pub(super) fn from(&self, at: u64) -> Self {
        Self {
            steps: self.steps.clone(),
            base: self.base.map(|b| b.saturating_add(at)),
        }
    }

    /// The offset to report for byte `at` of this place: in the file where it lies there as it
    /// is, else in the place.
    pub(super) fn offset(&self, at: u64) -> u64 {
        self.base.unwrap_or(0).saturating_add(at)
    }
}

/// A run of bytes to be looked into.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) place: Place,
    /// The file's or member's name, which may promise a format.
    pub(super) name: String,
    /// Its first bytes.
    pub(super) head: Vec<u8>,
}

impl Item {
    /// Reads the head of `source`.
    ///
    /// # Errors
    /// `Io` when it cannot be read.
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        place: Place,
        name: impl Into<String>,
    ) -> Result<Self> {
        let head = source.read_vec(0..source.len().min(HEAD))?;
        Ok(Self {
            source,
            place,
            name: name.into(),
            head,
        })
    }

    /// Bytes that were taken out of another form and lie in memory.
    pub(super) fn of_bytes(data: Vec<u8>, place: Place, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        Self::new(Arc::new(SliceSource::new(data, name.clone())), place, name)
    }

    /// The part of this item from byte `at` on, as an item of its own.
    pub(super) fn rest(&self, at: u64) -> Result<Self> {
        let window = Window::new(
            Arc::clone(&self.source),
            at..self.source.len(),
            self.name.clone(),
        )?;
        Self::new(Arc::new(window), self.place.from(at), self.name.clone())
    }

    /// The last part of its name, in lower case.
    pub(super) fn file_name(&self) -> String {
        let name = self.name.rsplit(['/', '\\']).next().unwrap_or_default();
        name.to_ascii_lowercase()
    }

    /// The extension in lower case; empty where there is none.
    pub(super) fn extension(&self) -> String {
        let name = self.file_name();
        name.rsplit_once('.').map_or("", |(_, e)| e).to_owned()
    }

    /// Whether it is the scanned file itself.
    pub(super) fn is_file(&self) -> bool {
        self.place.steps.is_empty()
    }
}

/// What looking into one file needs and may still cost.
pub(super) struct Examiner<'s, 'a> {
    pub(super) subject: &'s mut Subject<'a>,
    pub(super) limits: &'s Limits,
    /// Bytes that may still be inflated.
    inflated_left: u64,
    items_left: u64,
    /// Bytes that compressed payload which is not read may still expand to.
    payload_left: u64,
    /// What the pickle that the file begins with amounts to, once it was run.
    pub(super) shape: Option<Shape>,
    /// The reasons of gaps that are told once.
    told: HashSet<String>,
    /// The path of the file, and the weights that graphs of the same scan keep in others.
    pub(super) weights: Option<(&'s Path, &'s Weights<'s>)>,
}

impl<'s, 'a> Examiner<'s, 'a> {
    pub(super) fn new(subject: &'s mut Subject<'a>, limits: &'s Limits) -> Self {
        let justified = subject.source.len().saturating_mul(INFLATED_PER_BYTE);
        let payload_left = limits.expand_cap(subject.source.len());
        Self {
            subject,
            limits,
            inflated_left: justified.clamp(INFLATED_LEAST, INFLATED_MOST),
            items_left: MOST_ITEMS,
            payload_left,
            shape: None,
            told: HashSet::new(),
            weights: None,
        }
    }

    /// How inner readers are opened.
    pub(super) fn options(&self) -> OpenOptions {
        let mut options = OpenOptions {
            backend: Backend::Pread,
            limits: self.limits.clone(),
            ..OpenOptions::default()
        };
        // A scan writes nothing: its sandbox would not let it.
        options.limits.temporary_bytes = 0;
        options
    }

    /// How many bytes may still be inflated.
    pub(super) fn inflatable(&self) -> u64 {
        self.inflated_left
    }

    /// Counts `bytes` that are taken out of another form into memory.
    ///
    /// # Errors
    /// `Limit` when the file's size does not justify as many.
    pub(super) fn inflate(&mut self, bytes: u64) -> Result<()> {
        let left = self.inflated_left.checked_sub(bytes);
        self.inflated_left = left.ok_or_else(|| {
            Error::limit(
                "scan.inflated-bytes",
                "the compressed parts hold far more than the file's size justifies",
            )
        })?;
        gate::spend(bytes);
        Ok(())
    }

    /// Counts `bytes` that compressed payload says it expands to, and says whether the file's size
    /// justifies as many.
    pub(super) fn expand(&mut self, bytes: u64) -> bool {
        let left = self.payload_left.checked_sub(bytes);
        self.payload_left = left.unwrap_or(self.payload_left);
        left.is_some()
    }

    /// Records that something went wrong at `place`, whose own offsets `error` counts in.
    pub(super) fn failed(&mut self, place: &Place, error: Error) {
        let mut error = error.shifted(place.base.unwrap_or(0));
        for step in place.steps.iter().rev() {
            error = error.within(step.as_str());
        }
        self.subject.failed(&error);
    }

    /// Records that a part of `place` was not looked at; `at` counts in the place.
    pub(super) fn gap(&mut self, place: &Place, at: Option<u64>, reason: impl Into<String>) {
        self.subject.gaps.push(Gap {
            place: place.text(),
            offset: at.map(|at| place.offset(at)),
            reason: reason.into(),
        });
    }

    /// The same for a reason that many parts have in common: it is told at the first of them.
    pub(super) fn gap_once(&mut self, place: &Place, at: Option<u64>, reason: String) {
        if !self.told.contains(&reason) {
            self.told.insert(reason.clone());
            self.gap(place, at, reason);
        }
    }

    /// Looks into something inside the file. What is wrong with it is recorded.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, and the limits of a whole scan.
    pub(super) fn inner(&mut self, item: &Item) -> Result<()> {
        if item.place.steps.len() > MOST_NESTED {
            let e = Error::limit("scan.nested", "things lie in each other too deep");
            self.failed(&item.place, e);
            return Ok(());
        }
        self.items_left = self.items_left.checked_sub(1).ok_or_else(|| {
            Error::limit("scan.too-many-members", "there is too much to look into")
        })?;
        match self.examine(item) {
            Err(e) if e.kind() == ErrorKind::Io => Err(e),
            Err(e) => {
                self.failed(&item.place, e);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Takes `item` for everything that some loader would take it for: what its first bytes say,
    /// and the archive that its last bytes may end.
    ///
    /// # Errors
    /// What reading it gives; what was seen before counts.
    pub(super) fn examine(&mut self, item: &Item) -> Result<()> {
        let detected = detect::detect(&item.source, self.limits)?;
        let format = match detected {
            Detected::Content(f) | Detected::Extension(f) => Some(f),
            _ => None,
        };
        self.named(item, format.map_or("unknown", FormatId::as_str));
        let is_zip = item.head.starts_with(b"PK\x03\x04") || item.head.starts_with(b"PK\x05\x06");
        let path = Path::new(&item.name);
        if format == Some(FormatId::Safetensors) {
            self.safetensors(item)?;
        } else if is_zip || weighbridge_core::wire::tar::is_tar(&item.head) {
            self.container(item, format, is_zip)?;
        } else if weighbridge_core::wire::sevenz::is_7z(&item.head) {
            sevenz::take(self, item)?;
        } else if gguf::is_gguf(&item.head) {
            gguf::take(self, item)?;
        } else if npy::is_npy(&item.head) {
            npy::take(self, item)?;
        } else if pickles::is_pickle(&item.head, path, self.limits) {
            self.bare(item, format)?;
        } else if !flax::take(self, item)?
            && !tflite::take(self, item)?
            && !onnx::take(self, item)?
            && !tensorflow::take(self, item)?
            && !sentencepiece::take(self, item)?
            && !hdf5::take(self, item)?
            && !keras::take(self, item)?
            && !text::take(self, item)?
            && !media::take(self, item)?
            && !natives::take(self, item)
            && !compressed::take(self, item)?
        {
            self.unknown(item, detected);
        }
        // Under a name or a head that promises something else, loaders that look for the other
        // thing still find it: torch.load reads a zip from its end.
        if !is_zip && let Some(start) = zip::ends_in_archive(&item.source)? {
            if item.is_file() && !matches!(self.subject.format.as_str(), "unknown" | "text") {
                self.subject.polyglots.push(("zip".into(), start));
            }
            zip::take(self, item)?;
        }
        if format == Some(FormatId::Safetensors) {
            if is_zip || weighbridge_core::wire::tar::is_tar(&item.head) {
                self.container(item, None, is_zip)?;
            } else if pickles::is_pickle(&item.head, path, self.limits) {
                pickles::take_stream(self, item, 0)?;
            }
        }
        if item.is_file() {
            self.subject.misnamed = promise::broken(&item.extension(), &self.subject.format);
        }
        Ok(())
    }

    /// Names the format of the whole file.
    pub(super) fn named(&mut self, item: &Item, format: &str) {
        if item.is_file() {
            self.subject.format = format.into();
        }
    }

    fn safetensors(&mut self, item: &Item) -> Result<()> {
        strings::safetensors(self, item)?;
        for v in Safetensors.verify(Arc::clone(&item.source), &self.options())? {
            self.subject.faults.push(Fault {
                rule: v.rule.into(),
                place: item.place.text(),
                offset: v.offset.map(|at| item.place.offset(at)),
                message: v.message,
            });
        }
        Ok(())
    }

    /// A zip or a tar, torch's or another.
    fn container(&mut self, item: &Item, format: Option<FormatId>, is_zip: bool) -> Result<()> {
        if format == Some(FormatId::PyTorch) {
            // What the reader cannot read is no gap here: the archive accounts for every byte,
            // and what a loader interprets is taken apart below.
            match PyTorch.open(Arc::clone(&item.source), &self.options()) {
                Ok(model) if item.is_file() => {
                    self.subject.container = model.container.map(str::to_owned);
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Unsupported => {}
                Err(e) => self.failed(&item.place, e),
            }
        }
        if is_zip {
            zip::take(self, item)
        } else {
            tar::take(self, item)
        }
    }

    /// Pickles with nothing around them: torch's legacy stream, or any pickle file.
    fn bare(&mut self, item: &Item, format: Option<FormatId>) -> Result<()> {
        self.named(item, FormatId::Pickle.as_str());
        // Inside something else only the end of torch's own stream matters, and the reader's
        // picture of a bomb is larger than the bomb.
        if format == Some(FormatId::PyTorch) && crate::format::pytorch::legacy::sniff(&item.head) {
            return match self.read(item) {
                Some(end) => pickles::take_legacy(self, item, end),
                None => pickles::take_stream(self, item, 0),
            };
        }
        pickles::take_stream(self, item, 0)?;
        let Some(shape) = self.shape.take() else {
            return Ok(());
        };
        if format != Some(FormatId::PyTorch) || !item.is_file() || !shape.whole {
            return Ok(());
        }
        if shape.small {
            self.read(item);
            return Ok(());
        }
        if shape.torch {
            self.named(item, FormatId::PyTorch.as_str());
        }
        self.subject.container = Some("pickle".into());
        if let Err(e) = shape.within {
            self.failed(&item.place, e);
        }
        Ok(())
    }

    /// Lets the reader of torch's files read `item`, and gives the end of a legacy stream.
    fn read(&mut self, item: &Item) -> Option<u64> {
        match PyTorch.open(Arc::clone(&item.source), &self.options()) {
            Ok(model) => {
                self.named(item, model.format.as_str());
                if item.is_file() {
                    self.subject.container = model.container.map(str::to_owned);
                }
                let after = model
                    .warnings
                    .iter()
                    .find(|w| w.rule == "pytorch.trailing-data");
                let end = after.and_then(|w| w.offset).unwrap_or(item.source.len());
                (model.container == Some("legacy")).then_some(end)
            }
            // The pickles themselves say what is wrong with them.
            Err(e) if e.rule().starts_with("pickle.") => None,
            Err(e) => {
                self.failed(&item.place, e);
                None
            }
        }
    }

    /// Whether `item` is a file that a graph of the same scan keeps weights in.
    fn weights_alone(&mut self, item: &Item) -> bool {
        let Some((path, weights)) = self.weights else {
            return false;
        };
        match weights.rest(path, item.source.as_ref()) {
            Ok(None) => return false,
            Ok(Some(rest)) => {
                self.named(item, "onnx-data");
                self.subject.of_folder = true;
                if let Some(first) = rest.first() {
                    let bytes: u64 = rest.iter().map(|r| r.end - r.start).sum();
                    let reason = format!("{bytes} bytes belong to no tensor of the graph");
                    self.gap(&item.place, Some(first.start), reason);
                }
            }
            Err(e) => self.failed(&item.place, e),
        }
        true
    }

    /// Nothing known.
    fn unknown(&mut self, item: &Item, detected: Detected) {
        if !item.is_file() {
            if !item.source.is_empty() {
                self.gap(&item.place, None, "no format that this version looks into");
            }
            return;
        }
        if matches!(detected, Detected::Unknown) && self.weights_alone(item) {
            return;
        }
        let e = match detected {
            // Names that others have too.
            Detected::Extension(_) if ["ckpt", "index"].contains(&item.extension().as_str()) => {
                Error::unsupported("format.unknown", "no checkpoint of a known format")
            }
            Detected::Extension(f) => Error::malformed(
                "format.not-what-it-says",
                format!(
                    "the name says {}, the content is something else",
                    f.as_str()
                ),
            ),
            other => {
                let e = detect::refuse(other, item.source.name());
                Error::unsupported(e.rule(), e.message())
            }
        };
        self.failed(&item.place, e);
    }
}
