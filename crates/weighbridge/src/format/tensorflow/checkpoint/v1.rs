//! Checkpoints of version 1: the table's first entry describes the tensors, the others are slices
//! of them (`SavedTensorSlices` of `tensorflow/core/util/saved_tensor_slice.proto`). Several such
//! files may make one checkpoint.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{
    FormatId, Model, Part, Shape, Storage, StorageData, Tensor, TensorSource, Warning,
};
use weighbridge_core::source::{ByteSource, open_file};
use weighbridge_core::wire::protobuf::{Message, Reader, Span, Value};
use weighbridge_core::wire::sstable::{Entry, Loaded, Table};
use weighbridge_core::{Error, Limits, Result};

use super::index::{self, Extent};
use super::{files, pieces};
use crate::OpenOptions;
use crate::format::tensorflow::proto::{self, Home, NAME, Proto};
use crate::format::tensorflow::types;

/// What the first entry says of a tensor.
#[derive(Debug, Default)]
struct Described {
    name: String,
    dtype: u64,
    dims: Option<Vec<i64>>,
    slices: Vec<Vec<Extent>>,
    at: u64,
}

/// One slice with its values.
struct Slice {
    extents: Vec<Extent>,
    proto: Proto,
    home: Home,
}

/// What was read so far of all files.
struct Reading<'o> {
    options: &'o OpenOptions,
    described: Vec<Described>,
    by_name: HashMap<String, usize>,
    slices: HashMap<String, Vec<Slice>>,
    /// Fields that may still be read.
    parts: Vec<Part>,
    warnings: Vec<Warning>,
}

/// Opens the checkpoint that `table` is, or is one file of.
///
/// # Errors
/// What the files break.
pub(super) fn open(table: &Table, options: &OpenOptions) -> Result<Model> {
    let mut reading = Reading::new(options);
    let name = table.source().name().to_owned();
    match files::prefix_of_part(&name) {
        Some((prefix, total)) if total > 1 => {
            Limits::check(total, options.limits.parts, "tensorflow.parts", "files")?;
            reading.several(table, prefix, total)?;
        }
        _ => reading.file(table)?,
    }
    reading.finish()
}

/// Goes through everything that the one file of `table` holds, whatever others hold.
///
/// # Errors
/// What the file breaks.
pub(super) fn account(table: &Table, options: &OpenOptions) -> Result<()> {
    let mut reading = Reading::new(options);
    reading.file(table)?;
    for d in &reading.described {
        let mut found = reading.slices.remove(&d.name).unwrap_or_default();
        parts(d, &mut found).map_err(|e| e.at(d.at).within(d.name.as_str()))?;
    }
    match reading.slices.keys().next() {
        None => Ok(()),
        Some(name) => {
            let message = format!("a slice of {name:?} belongs to no tensor");
            Err(Error::malformed("tensorflow.lone-slice", message))
        }
    }
}

impl<'o> Reading<'o> {
    fn new(options: &'o OpenOptions) -> Self {
        Self {
            options,
            described: Vec::new(),
            by_name: HashMap::new(),
            slices: HashMap::new(),
            parts: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Every file of a set; those that are not there are warned of.
    fn several(&mut self, own: &Table, prefix: &str, total: u64) -> Result<()> {
        for i in 0..total {
            let name = format!("{prefix}-{i:05}-of-{total:05}");
            if name == own.source().name() {
                self.file(own)?;
                continue;
            }
            match open_file(Path::new(&name), self.options.backend) {
                Ok(source) => {
                    let table = Table::open(source, &self.options.limits)?;
                    self.file(&table).map_err(|e| e.in_file(name))?;
                }
                Err(e) => {
                    let message = format!("{name} cannot be read: {}", e.message());
                    let rule = "tensorflow.missing-data";
                    self.warnings.push(Warning::new(rule, message));
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, table: &Table) -> Result<()> {
        let source = table.source();
        self.parts.push(Part {
            path: source.name().into(),
            bytes: source.len(),
        });
        let data = StorageData::Raw {
            source: Arc::clone(source),
            offset: 0,
            checksum: None,
        };
        let whole = Storage::new("file", source.len(), false, data)?.into_region();
        let whole = Home {
            source: Arc::clone(source),
            storage: Arc::new(whole),
            base: 0,
        };
        let mut long: Option<(u64, Home)> = None;
        let mut inflated = 0u64;
        table.walk(&mut |e| {
            let block = e.block();
            let (home, base) = match (block.is_plain(), block.is_verified()) {
                (true, true) => (whole.clone(), block.handle().offset),
                (true, false) => {
                    let at = block.handle().offset;
                    if long.as_ref().is_none_or(|(known, _)| *known != at) {
                        long = Some((at, of_block(source, block)?));
                    }
                    let home = long.as_ref().map(|(_, h)| h.clone());
                    (home.unwrap_or_else(|| whole.clone()), at)
                }
                (false, _) => {
                    inflated = inflated.saturating_add(e.span().1);
                    let most = self.options.limits.inflate_bytes;
                    let what = "bytes of compressed values";
                    Limits::check(inflated, most, "tensorflow.compressed", what)?;
                    (inflated_home(block)?, 0)
                }
            };
            let (start, len) = e.span();
            let start = start.saturating_add(base);
            let span = Span {
                start,
                end: start.saturating_add(len),
            };
            self.entry(e, &home, span)
        })
    }

    /// An entry, whose value lies in `span` of `home`.
    fn entry(&mut self, e: &Entry<'_>, home: &Home, span: Span) -> Result<()> {
        let mut reader = Reader::new(home.source.as_ref(), self.options.limits.values);
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            match (f.number, f.value, e.key().is_empty()) {
                (1, Value::Bytes(meta), true) => self.meta(&mut reader, meta)?,
                (2, Value::Bytes(data), false) => self.slice(&mut reader, data, home)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn meta(&mut self, reader: &mut Reader<'_>, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            let (1, Value::Bytes(tensor)) = (f.number, f.value) else {
                continue;
            };
            let mut d = Described {
                dims: Some(Vec::new()),
                at: f.at,
                ..Described::default()
            };
            let mut inner = Message::new(tensor);
            while let Some(f) = reader.next(&mut inner)? {
                match (f.number, f.value) {
                    (1, Value::Bytes(s)) => d.name = name(reader, s)?,
                    (2, Value::Bytes(s)) => d.dims = proto::shape(reader, s)?,
                    (3, Value::Varint(n)) => d.dtype = n,
                    (4, Value::Bytes(s)) => d.slices.push(index::slice(reader, s)?),
                    _ => {}
                }
            }
            let most = self.options.limits.parts;
            let n = d.slices.len() as u64;
            Limits::check(n, most, "tensorflow.slices", "slices of a tensor")?;
            // Files of one checkpoint describe the slices that they hold.
            match self.by_name.get(&d.name).copied() {
                Some(i) => {
                    if let Some(known) = self.described.get_mut(i) {
                        if known.dims != d.dims || known.dtype != d.dtype {
                            let message = "a tensor is described in two ways";
                            return Err(Error::malformed("tensorflow.slice", message).at(f.at));
                        }
                        known.slices.extend(d.slices);
                    }
                }
                None => {
                    self.by_name.insert(d.name.clone(), self.described.len());
                    self.described.push(d);
                }
            }
        }
        Ok(())
    }

    /// A `SavedSlice`.
    fn slice(&mut self, reader: &mut Reader<'_>, span: Span, home: &Home) -> Result<()> {
        let (mut of, mut extents, mut values) = (String::new(), Vec::new(), None);
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            match (f.number, f.value) {
                (1, Value::Bytes(s)) => of = name(reader, s)?,
                (2, Value::Bytes(s)) => extents = index::slice(reader, s)?,
                (3, Value::Bytes(s)) => values = Some(Proto::read(reader, s)?),
                _ => {}
            }
        }
        let proto = values.unwrap_or_else(|| Proto::none(span.end));
        self.slices.entry(of).or_default().push(Slice {
            extents,
            proto,
            home: home.clone(),
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Model> {
        let mut model = Model::new(FormatId::TfCheckpoint);
        model.container = Some("v1");
        let described = std::mem::take(&mut self.described);
        let mut stored = 0u64;
        for d in &described {
            let found = self.slices.remove(&d.name).unwrap_or_default();
            let bytes = found.iter().map(|s| s.proto.stored());
            stored = bytes.fold(stored, u64::saturating_add);
            let t = tensor(d, found).map_err(|e| e.at(d.at).within(d.name.as_str()))?;
            model.tensors.push(t);
        }
        proto::check_expansion(&model.tensors, &self.options.limits, stored)?;
        model.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        model.parts = self.parts;
        model.warnings = self.warnings;
        for name in self.slices.keys() {
            let message = format!("a slice of {name:?} belongs to no tensor");
            let rule = "tensorflow.lone-slice";
            model.warnings.push(Warning::new(rule, message));
        }
        Ok(model)
    }
}

/// What a description says of the whole, and the slices that it names, each with its first index.
type Parts = (Tensor, Vec<(Shape, Tensor)>);

fn parts(d: &Described, slices: &mut Vec<Slice>) -> Result<Parts> {
    let bad = |m: &str| Error::malformed("tensorflow.slice", m);
    let kind = types::kind(d.dtype).ok_or_else(|| {
        let message = format!("{} is no dtype of TensorFlow", d.dtype);
        Error::malformed("tensorflow.dtype", message)
    })?;
    let shape = proto::extents(d.dims.as_deref(), d.at)?;
    let mut whole = Tensor::new(d.name.as_str(), kind.dtype, &shape, TensorSource::Absent);
    types::mark(&mut whole, kind);
    let mut parts: Vec<(Shape, Tensor)> = Vec::with_capacity(d.slices.len());
    let mut by_extents: HashMap<Vec<Extent>, Slice> = HashMap::new();
    for s in slices.drain(..) {
        by_extents.insert(s.extents.clone(), s);
    }
    for extents in &d.slices {
        let (start, extent) =
            pieces::extent(extents, &shape).ok_or_else(|| bad("a slice is no box of it"))?;
        let s = by_extents
            .remove(extents)
            .ok_or_else(|| bad("a slice is missing"))?;
        let part = s.proto.values(&d.name, kind, extent, &s.home)?;
        parts.push((start, part));
    }
    Ok((whole, parts))
}

fn tensor(d: &Described, mut slices: Vec<Slice>) -> Result<Tensor> {
    let (mut whole, mut parts) = parts(d, &mut slices)?;
    if whole.dtype == weighbridge_core::model::DType::Compound {
        return Ok(whole);
    }
    let alone = match parts.as_slice() {
        [(_, only)] => only.shape == whole.shape,
        _ => false,
    };
    whole.source = match (alone, parts.pop()) {
        (true, Some((_, only))) => only.source,
        (_, last) => {
            parts.extend(last);
            pieces::assemble(&whole, parts)?
        }
    };
    Ok(whole)
}

fn name(reader: &Reader<'_>, span: Span) -> Result<String> {
    String::from_utf8(reader.read(span, NAME)?).map_err(|_| {
        Error::malformed("tensorflow.name", "a tensor's name is no UTF-8").at(span.start)
    })
}

/// A block whose checksum is verified when values in it are read.
fn of_block(source: &Arc<dyn ByteSource>, block: &Loaded) -> Result<Home> {
    let handle = block.handle();
    let data = StorageData::Raw {
        source: Arc::clone(source),
        offset: handle.offset,
        checksum: Some(block.checksum()),
    };
    // With the byte that says how it is compressed.
    let storage = Storage::new("block", handle.len.saturating_add(1), false, data)?;
    Ok(Home {
        source: Arc::clone(source),
        storage: Arc::new(storage.into_region()),
        base: handle.offset,
    })
}

fn inflated_home(block: &Loaded) -> Result<Home> {
    let data = block.data();
    let whole = StorageData::Raw {
        source: Arc::clone(data),
        offset: 0,
        checksum: None,
    };
    Ok(Home {
        source: Arc::clone(data),
        storage: Arc::new(Storage::new("block", data.len(), false, whole)?.into_region()),
        base: 0,
    })
}
