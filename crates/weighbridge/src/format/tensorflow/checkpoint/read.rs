//! Opening a checkpoint of version 2: the index is read, the data files are not.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{
    Checksum, Compute, DType, FormatId, Model, Part, Storage, StorageData, Tensor, TensorSource,
    View, Warning,
};
use weighbridge_core::source::{ByteSource, open_file};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::wire::sstable::Table;
use weighbridge_core::{Error, Limits, Result};

use super::index::{self, Entry, Header};
use super::{objects, ordered, pieces};
use crate::OpenOptions;
use crate::format::tensorflow::proto;
use crate::format::tensorflow::texts::Texts;
use crate::format::tensorflow::types::{self, Kind};

/// Opens data file number `.0` of `.1` of the checkpoint with the prefix `.2`.
pub type Shards<'s> = dyn Fn(u64, u64, &str) -> Result<Arc<dyn ByteSource>> + 's;

/// The data files beside the index.
pub(super) fn beside(
    options: &OpenOptions,
) -> impl Fn(u64, u64, &str) -> Result<Arc<dyn ByteSource>> + use<> {
    let backend = options.backend;
    move |shard, shards, prefix| {
        let name = index::data_name(prefix, shard, shards);
        open_file(Path::new(&name), backend)
    }
}

/// Everything that an index says.
pub(super) struct Listed {
    pub header: Header,
    /// Tensors under their names, in order.
    pub tensors: Vec<(String, Entry, u64)>,
    /// Slices, by their keys.
    pub slices: HashMap<Vec<u8>, (Entry, u64)>,
}

/// Reads all entries of the table.
///
/// # Errors
/// `Malformed` when one is no entry of a checkpoint, `Limit` when there are too many.
pub(super) fn list(table: &Table) -> Result<Listed> {
    let mut header = None;
    let mut tensors = Vec::new();
    let mut slices = HashMap::new();
    table.walk(&mut |e| {
        let key = e.key();
        if key.is_empty() {
            header = Some(index::header(e)?);
            return Ok(());
        }
        let entry = index::entry(e)?;
        if key.first() == Some(&0) {
            slices.insert(key.to_vec(), (entry, e.at()));
        } else {
            let name = String::from_utf8(key.to_vec()).map_err(|_| {
                Error::malformed("tensorflow.name", "a tensor's name is no UTF-8").at(e.at())
            })?;
            tensors.push((name, entry, e.at()));
        }
        Ok(())
    })?;
    let header = header
        .ok_or_else(|| Error::malformed("tensorflow.no-header", "the index has no header").at(0))?;
    Ok(Listed {
        header,
        tensors,
        slices,
    })
}

/// Opens the checkpoint whose index is `table`, with data files from `shards`.
///
/// # Errors
/// What the index breaks. A data file that is not there is an error when its values are read.
pub fn open_with(table: &Table, options: &OpenOptions, shards: &Shards<'_>) -> Result<Model> {
    let source = table.source();
    let listed = list(table)?;
    let mut files = Files::new(listed.header, index::prefix(source.as_ref()), shards);
    let mut model = Model::new(FormatId::TfCheckpoint);
    model.container = Some("v2");
    model.version = Some(listed.header.producer.to_string());
    model.tensors.reserve(listed.tensors.len());
    let mut of_tensors = 0;
    for (name, entry, at) in &listed.tensors {
        let built = if entry.slices.is_empty() {
            files.tensor(name, entry, *at)
        } else {
            of_tensors += entry.slices.len();
            let most = options.limits.parts;
            let n = entry.slices.len() as u64;
            Limits::check(n, most, "tensorflow.slices", "slices of a tensor")?;
            files.partitioned(name, entry, *at, &listed.slices)
        };
        model
            .tensors
            .push(built.map_err(|e| e.within(name.as_str()))?);
    }
    if of_tensors < listed.slices.len() {
        let n = listed.slices.len() - of_tensors;
        let message = format!("{n} slices belong to no tensor");
        model
            .warnings
            .push(Warning::new("tensorflow.lone-slice", message));
    }
    let taken = files.taken;
    files.finish(&mut model, source.as_ref());
    proto::within_cap(taken, &options.limits, model.file_bytes())?;
    if let Err(e) = objects::label(&mut model, &options.limits) {
        let message = format!("the object graph cannot be read: {}", e.message());
        let rule = "tensorflow.object-graph";
        model.warnings.push(Warning::new(rule, message));
    }
    Ok(model)
}

/// The data files that entries name.
pub(super) struct Files<'f> {
    header: Header,
    prefix: String,
    shards: &'f Shards<'f>,
    open: HashMap<u64, Result<Arc<dyn ByteSource>, String>>,
    /// Bytes of all values in files that are there.
    taken: u64,
}

impl<'f> Files<'f> {
    pub(super) fn new(header: Header, prefix: &str, shards: &'f Shards<'f>) -> Self {
        Self {
            header,
            prefix: prefix.to_owned(),
            shards,
            open: HashMap::new(),
            taken: 0,
        }
    }

    fn shard(&mut self, n: u64, at: u64) -> Result<&Result<Arc<dyn ByteSource>, String>> {
        let shards = self.header.shards;
        if n >= shards {
            let message = format!("data file number {n} of {shards}");
            return Err(Error::malformed("tensorflow.shards", message).at(at));
        }
        let (open, prefix) = (self.shards, self.prefix.as_str());
        Ok(self
            .open
            .entry(n)
            .or_insert_with(|| open(n, shards, prefix).map_err(|e| e.message().to_owned())))
    }

    /// The tensor of an entry without slices.
    pub(super) fn tensor(&mut self, name: &str, entry: &Entry, at: u64) -> Result<Tensor> {
        let kind = types::kind(entry.dtype).ok_or_else(|| {
            let message = format!("{} is no dtype of TensorFlow", entry.dtype);
            Error::malformed("tensorflow.dtype", message).at(at)
        })?;
        let shape = proto::extents(entry.dims.as_deref(), at)?;
        let mut tensor = Tensor::new(name, kind.dtype, &shape, TensorSource::Absent);
        types::mark(&mut tensor, kind);
        check_size(&tensor, kind, entry, at)?;
        tensor.source = self.source(name, &tensor, entry, at)?;
        Ok(tensor)
    }

    fn source(&mut self, name: &str, t: &Tensor, entry: &Entry, at: u64) -> Result<TensorSource> {
        if t.dtype == DType::Compound {
            return Ok(TensorSource::Absent);
        }
        let big_endian = self.header.big_endian;
        let (prefix, shards) = (self.prefix.clone(), self.header.shards);
        let source = match self.shard(entry.shard, at)? {
            Ok(source) => Arc::clone(source),
            Err(why) => {
                return Ok(TensorSource::Computed(Arc::new(Missing {
                    file: index::data_name(&prefix, entry.shard, shards),
                    why: why.clone(),
                })));
            }
        };
        let end = entry.offset.checked_add(entry.size);
        let end = end.filter(|&e| e <= source.len()).ok_or_else(|| {
            let message = format!(
                "its {} bytes from {} on pass the end of {}, which has {}",
                entry.size,
                entry.offset,
                source.name(),
                source.len()
            );
            Error::truncated("tensorflow.data-past-end", message)
                .at(at)
                .help("the data file was cut short or is another checkpoint's; fetch it again")
        })?;
        self.taken = self.taken.saturating_add(entry.size);
        if t.dtype.is_text() {
            let span = Span {
                start: entry.offset,
                end,
            };
            let n = t.numel().unwrap_or(0);
            let texts = Texts::new(source, span, n, entry.crc32c, big_endian);
            return Ok(TensorSource::Computed(Arc::new(texts)));
        }
        let data = StorageData::Raw {
            source,
            offset: entry.offset,
            checksum: Some(Checksum::MaskedCrc32c(entry.crc32c)),
        };
        Ok(TensorSource::View(View {
            storage: Arc::new(Storage::new(name, entry.size, big_endian, data)?),
            offset: 0,
        }))
    }

    /// A tensor whose values lie in slices.
    fn partitioned(
        &mut self,
        name: &str,
        entry: &Entry,
        at: u64,
        slices: &HashMap<Vec<u8>, (Entry, u64)>,
    ) -> Result<Tensor> {
        let bad = |m: &str| Error::malformed("tensorflow.slice", m).at(at);
        let kind = types::kind(entry.dtype).ok_or_else(|| bad("no dtype of TensorFlow"))?;
        let shape = proto::extents(entry.dims.as_deref(), at)?;
        let mut whole = Tensor::new(name, kind.dtype, &shape, TensorSource::Absent);
        types::mark(&mut whole, kind);
        if whole.numel().is_none() {
            return Err(bad("its size does not fit 64 bits"));
        }
        let mut parts = Vec::with_capacity(entry.slices.len());
        for extents in &entry.slices {
            let (start, extent) =
                pieces::extent(extents, &shape).ok_or_else(|| bad("a slice is no box of it"))?;
            let (found, at) = match index::is_full(extents) {
                true => (entry, at),
                false => {
                    let key = ordered::key(name.as_bytes(), extents);
                    let (e, at) = slices.get(&key).ok_or_else(|| bad("a slice is missing"))?;
                    (e, *at)
                }
            };
            let part = self.tensor(name, found, at)?;
            if part.dtype != whole.dtype || part.shape != extent {
                return Err(bad(
                    "a slice is of another dtype or shape than it should be",
                ));
            }
            parts.push((start, part));
        }
        if kind.dtype != DType::Compound {
            whole.source = pieces::assemble(&whole, parts)?;
        }
        Ok(whole)
    }

    /// Names the files that were opened.
    fn finish(self, model: &mut Model, index: &dyn ByteSource) {
        let part = |s: &dyn ByteSource| Part {
            path: s.name().into(),
            bytes: s.len(),
        };
        model.parts.push(part(index));
        let mut all: Vec<_> = self.open.into_iter().collect();
        all.sort_by_key(|(n, _)| *n);
        for (n, found) in all {
            match found {
                Ok(source) => model.parts.push(part(source.as_ref())),
                Err(why) => {
                    let name = index::data_name(&self.prefix, n, self.header.shards);
                    let message = format!("{name} cannot be read: {why}");
                    let rule = "tensorflow.missing-data";
                    model.warnings.push(Warning::new(rule, message));
                }
            }
        }
    }
}

/// Checks that the entry has as many bytes as its tensor needs.
fn check_size(t: &Tensor, kind: &Kind, entry: &Entry, at: u64) -> Result<()> {
    let wrong = |needed: String| {
        let message = format!("it has {} bytes, its shape needs {needed}", entry.size);
        Err(Error::malformed("tensorflow.tensor-size", message).at(at))
    };
    if kind.dtype == DType::Compound {
        return Ok(());
    }
    if kind.dtype == DType::Str {
        // A byte for each length, and the checksum of those.
        let least = t.numel().and_then(|n| n.checked_add(4));
        return match least {
            Some(n) if n <= entry.size || t.numel() == Some(0) => Ok(()),
            Some(n) => wrong(format!("{n} at least")),
            None => wrong("more than 64 bits can say".into()),
        };
    }
    match kind.dtype.size_of(&t.shape) {
        Some(n) if n == entry.size => Ok(()),
        Some(n) => wrong(n.to_string()),
        None => wrong("more than 64 bits can say".into()),
    }
}

/// Values in a file that is not there.
#[derive(Debug)]
struct Missing {
    file: String,
    why: String,
}

impl Compute for Missing {
    fn stream(&self, _: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let message = format!("the file of the values cannot be read: {}", self.why);
        Err(Error::unsupported("tensorflow.missing-data", message)
            .in_file(self.file.as_str())
            .help("fetch every .data- file of the checkpoint beside its index"))
    }
}

/// Where tensors lie in the data files of a checkpoint, by file name.
pub type Places = HashMap<String, Vec<Range<u64>>>;

/// Where the tensors of the checkpoint with this index lie.
///
/// # Errors
/// What the index breaks.
pub fn places(table: &Table) -> Result<Places> {
    let listed = list(table)?;
    let prefix = index::prefix(table.source().as_ref());
    let mut out = Places::new();
    let own = listed.tensors.iter().map(|(_, e, _)| e);
    for e in own.chain(listed.slices.values().map(|(e, _)| e)) {
        // The values of a partitioned tensor lie where its slices do.
        if e.slices.iter().any(|s| !index::is_full(s)) {
            continue;
        }
        let name = index::data_name(prefix, e.shard, listed.header.shards);
        let end = e.offset.saturating_add(e.size);
        out.entry(name).or_default().push(e.offset..end);
    }
    for ranges in out.values_mut() {
        ranges.sort_unstable_by_key(|r| (r.start, r.end));
    }
    Ok(out)
}
