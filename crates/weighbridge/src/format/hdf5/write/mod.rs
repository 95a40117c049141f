//! Writing HDF5 in its oldest form, which every library reads: superblock 0, groups of symbol
//! tables, contiguous datasets. All structures come first, and behind them the tensors in the
//! model's order, each at a multiple of 8 bytes.
//!
//! Names are paths of datasets. Metadata under `GROUP@ATTRIBUTE`, as the reader names it, becomes
//! an attribute of that group, everything else one of the root. Numbers keep their dtype; complex
//! numbers and truth values get the types that h5py gives them.

mod attribute;
mod groups;
mod heap;
mod texts;
mod tree;
mod types;

use weighbridge_core::model::{DType, FormatId, Model, Tensor, Value};
use weighbridge_core::{Error, Result};

use super::read::SAME;
use crate::format::{FormatWriter, Note, Plan, PlannedFile, WriteOptions, payload};
use crate::output::Sink;
use groups::{Child, INTERNAL_K, LEAF_K, NONE, Places};
use heap::{GlobalHeap, Referrer};
use texts::{Budget, each_text, holds_nul};
use tree::Tree;
use types::{MOST_RANK, Space, Type};

/// Tensors begin at multiples of this.
const ALIGN: u64 = 8;

/// The structures end at a multiple of this, so that the first tensors lie well.
const HEAD_ALIGN: usize = 64;

/// An attribute of a dataset in which Keras tells that its two opaque bytes are a BF16.
pub(crate) const KERAS_DTYPE: &str = "dtype";

/// The writer of HDF5 files that keeps names as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hdf5Writer;

impl FormatWriter for Hdf5Writer {
    fn id(&self) -> FormatId {
        FormatId::Hdf5
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        refuse_shards(options)?;
        plan(model, &refusals(model, Bf16::Lost)?)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        write(model, plan, file, out, progress)
    }
}

/// What becomes of BF16, for which HDF5 has no type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bf16 {
    /// It is listed.
    Lost,
    /// Two opaque bytes with an attribute that says what they are, as Keras 3 does.
    Opaque,
}

/// Refuses options that HDF5 does not have.
pub(crate) fn refuse_shards(options: &WriteOptions) -> Result<()> {
    if options.shard_size.or(options.shard_tensors).is_some() {
        return Err(Error::parameter(
            "hdf5.shards",
            "HDF5 files are not split into shards",
        ));
    }
    Ok(())
}

/// Writes a planned file; see [`FormatWriter::write`].
pub(crate) fn write(
    model: &Model,
    plan: &Plan,
    file: usize,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let file = payload::planned(plan, file)?;
    // Texts lie among the structures.
    let number = |i: &usize| model.tensors.get(*i).is_none_or(|t| !t.dtype.is_text());
    let tensors: Vec<usize> = file.tensors.iter().copied().filter(number).collect();
    payload::write_file(model, file, &tensors, out, progress)
}

/// Plans the file that holds `model` but for the tensors with a reason in `refusals`.
pub(crate) fn plan(model: &Model, refusals: &Refusals) -> Result<Plan> {
    let mut plan = Plan::default();
    let marker = Value::Str("bfloat16".into());
    let (tree, tensors) = build(model, refusals, &marker, &mut plan);
    let mut file = Layouter::new(model, &tree, &tensors);
    file.objects(&mut plan)?;
    plan.files.push(file.finish(tensors)?);
    Ok(plan)
}

/// By tensor, why it cannot be written.
pub(crate) type Refusals = Vec<Option<String>>;

/// Goes through the tensors of `model`; reads those of texts.
///
/// # Errors
/// `Limit` for more texts than are taken, and what reading gives.
pub(crate) fn refusals(model: &Model, bf16: Bf16) -> Result<Refusals> {
    let mut budget = Budget::of(model);
    let mut out = Vec::with_capacity(model.tensors.len());
    for t in &model.tensors {
        let mut why = refusal(t, bf16);
        if why.is_none() && t.dtype == DType::Str && holds_nul(t, &mut budget)? {
            why = Some("a text of HDF5 ends at its first NUL and this goes on behind one".into());
        }
        out.push(why);
    }
    Ok(out)
}

/// The tree of `model`, and the tensors that are in it.
fn build<'a>(
    model: &'a Model,
    refusals: &Refusals,
    marker: &'a Value,
    plan: &mut Plan,
) -> (Tree<'a>, Vec<usize>) {
    let mut tree = Tree::new();
    let mut tensors = Vec::with_capacity(model.tensors.len());
    let native = matches!(model.format, FormatId::Hdf5 | FormatId::Keras);
    for (i, t) in model.tensors.iter().enumerate() {
        if let Some(Some(why)) = refusals.get(i) {
            plan.lost.push(Note::new(t.name.as_str(), why.as_str()));
            continue;
        }
        let (at, renamed) = tree.dataset(&t.name, i);
        if let Some(path) = renamed {
            plan.changed.push(Note {
                what: t.name.clone(),
                why: format!("written as {path}"),
                naming: true,
            });
        }
        if t.dtype == DType::BF16 {
            tree.attribute(at, KERAS_DTYPE, marker);
        }
        let own = t.extra.iter().flat_map(|e| &e.attributes);
        for (key, value) in
            own.filter(|(k, _)| native && ![LAYER_CLASS, SAME].contains(&k.as_str()))
        {
            if t.dtype != DType::BF16 || key != KERAS_DTYPE {
                tree.attribute(at, key, value);
            }
        }
        tensors.push(i);
    }
    let groups = native || model.metadata.iter().any(|(k, _)| is_keras_key(k));
    for (key, value) in &model.metadata {
        let (at, name) = place(&mut tree, key, groups);
        tree.attribute(at, name, value);
    }
    (tree, tensors)
}

/// What the reader of Keras' files adds to a tensor.
pub(crate) const LAYER_CLASS: &str = "layer_class";

/// Whether a key of metadata is one that tells of Keras' files.
fn is_keras_key(key: &str) -> bool {
    let name = key.rsplit('@').next().unwrap_or(key);
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    matches!(name, "layer_names" | "weight_names")
}

/// The object that the metadata `key` belongs to, and the attribute's name there. Groups are made
/// where `make` says that this is what keys mean.
fn place<'k>(tree: &mut Tree<'_>, key: &'k str, make: bool) -> (usize, &'k str) {
    let splits = key.match_indices('@').map(|(i, _)| i);
    let parts = |i: usize| (key.get(..i).unwrap_or(""), key.get(i + 1..).unwrap_or(""));
    for i in splits {
        let (path, name) = parts(i);
        if let Some(at) = tree
            .find(path)
            .filter(|_| !path.is_empty() && !name.is_empty())
        {
            return (at, name);
        }
    }
    if let (true, Some(i)) = (make, key.rfind('@')) {
        let (path, name) = parts(i);
        if let (false, Some(at)) = (path.is_empty() || name.is_empty(), tree.group(path)) {
            return (at, name);
        }
    }
    (0, key)
}

/// Why a tensor cannot be written, with the flag that makes it possible.
fn refusal(t: &Tensor, bf16: Bf16) -> Option<String> {
    let d = t.dtype;
    if let Some(why) = crate::format::not_dense(t, "HDF5") {
        return Some(why);
    }
    if d == DType::Compound {
        return Some("fields of several types are not written".into());
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    if t.quantization().is_some() || d.is_quantized() || d.block().is_some() {
        return Some(format!(
            "HDF5 has no dtype {d}: --dequantize writes the values as F32"
        ));
    }
    if t.shape.len() > MOST_RANK {
        let rank = t.shape.len();
        return Some(format!(
            "HDF5 holds up to {MOST_RANK} dimensions and this tensor has {rank}"
        ));
    }
    if kind(d, bf16).is_none() {
        return Some(match () {
            () if d.is_float() => format!("HDF5 has no dtype {d}: --dtype f32 casts it"),
            () if matches!(d, DType::U4 | DType::I4 | DType::U2 | DType::I2) => {
                format!("HDF5 has no dtype {d}: --dequantize writes one integer a byte")
            }
            () if d.is_complex() => {
                format!("HDF5 has no dtype {d}: --complex-as-real writes real and imaginary parts")
            }
            () => format!("HDF5 has no dtype {d}"),
        });
    }
    if !d.is_text() && d.size_of(&t.shape).is_none() {
        return Some("its size does not fit 64 bits".into());
    }
    None
}

fn kind(d: DType, bf16: Bf16) -> Option<Type> {
    match (d, bf16) {
        (DType::BF16, Bf16::Opaque) => Some(Type::Opaque(2)),
        _ => Type::of(d),
    }
}

/// Puts the structures of a file one behind the other.
struct Layouter<'a> {
    model: &'a Model,
    tree: &'a Tree<'a>,
    out: Vec<u8>,
    heap: GlobalHeap,
    /// References to texts, to be told their addresses.
    referrers: Vec<Referrer>,
    /// Addresses of data, given from the end of the structures on.
    data: Vec<(usize, u64)>,
    /// Where each tensor's data begins, from the end of the structures on; by tensor.
    starts: Vec<u64>,
    data_len: u64,
    /// Where each object's header lies, and a group's members.
    headers: Vec<(u64, Option<Places>)>,
    texts: Budget,
}

/// Bytes of a superblock of version 0 with addresses of 8 bytes.
const SUPERBLOCK: usize = 96;

impl<'a> Layouter<'a> {
    fn new(model: &'a Model, tree: &'a Tree<'a>, tensors: &[usize]) -> Self {
        let mut starts = vec![0u64; model.tensors.len()];
        let mut at = 0u64;
        for &i in tensors {
            let t = model.tensors.get(i);
            if let (Some(t), Some(slot)) = (t, starts.get_mut(i)) {
                *slot = at;
                if !t.dtype.is_text() {
                    let len = t.byte_len().checked_next_multiple_of(ALIGN);
                    at = at.saturating_add(len.unwrap_or(u64::MAX));
                }
            }
        }
        Self {
            model,
            tree,
            out: vec![0; SUPERBLOCK],
            heap: GlobalHeap::default(),
            referrers: Vec::new(),
            data: Vec::new(),
            starts,
            data_len: at,
            headers: vec![(NONE, None); tree.objects.len()],
            texts: Budget::of(model),
        }
    }

    /// Children before their parents, who tell where they lie.
    fn objects(&mut self, plan: &mut Plan) -> Result<()> {
        let tree = self.tree;
        for (i, object) in tree.objects.iter().enumerate().rev() {
            let mut messages = Messages::default();
            let mut places = None;
            match object.tensor {
                Some(tensor) => self.dataset(tensor, &mut messages)?,
                None => {
                    let children = object.children.iter().map(|(name, &c)| {
                        let (header, group) = self.headers.get(c).copied().unwrap_or((NONE, None));
                        Child {
                            name,
                            header,
                            group,
                        }
                    });
                    let children: Vec<Child<'_>> = children.collect();
                    let p = groups::write(&mut self.out, &children);
                    let mut body = p.tree.to_le_bytes().to_vec();
                    body.extend(p.heap.to_le_bytes());
                    messages.push(SYMBOL_TABLE, 0, &body);
                    places = Some(p);
                }
            }
            let what = |name: &str| match object.tensor.and_then(|t| self.model.tensors.get(t)) {
                Some(t) => format!("attribute {name} of {}", t.name),
                None => format!("metadata {name}"),
            };
            let mut seen = std::collections::HashSet::new();
            for (name, value) in &object.attributes {
                let lost = match seen.insert(*name) {
                    false => Err("a second attribute of this name".into()),
                    true => messages.attribute(name, value, &mut self.heap),
                };
                if let Err(why) = lost {
                    plan.lost.push(Note::new(what(name), why));
                }
            }
            let at = self.header(messages);
            if let Some(slot) = self.headers.get_mut(i) {
                *slot = (at, places);
            }
        }
        Ok(())
    }

    /// Appends an object header of version 1 (IV.A.1.a).
    fn header(&mut self, messages: Messages) -> u64 {
        let at = self.out.len();
        self.out.extend([1, 0]);
        self.out.extend(messages.count.to_le_bytes());
        self.out.extend(1u32.to_le_bytes());
        // Messages are added only while this fits.
        self.out.extend((messages.bytes.len() as u32).to_le_bytes());
        self.out.extend([0; 4]);
        let start = self.out.len();
        self.out.extend(messages.bytes);
        for mut r in messages.referrers {
            r.at += start;
            self.referrers.push(r);
        }
        for (place, offset) in messages.data {
            self.data.push((start + place, offset));
        }
        at as u64
    }

    /// The messages of the dataset of tensor number `i`.
    fn dataset(&mut self, i: usize, messages: &mut Messages) -> Result<()> {
        let Some(t) = self.model.tensors.get(i) else {
            return Ok(());
        };
        let space = match t.dtype {
            DType::Null => Space::Null,
            _ => Space::Shape(&t.shape),
        };
        messages.push(DATASPACE, 0, &space.encode());
        // What does not fit was refused; BF16 is left only where it is written as opaque.
        let kind = kind(t.dtype, Bf16::Opaque).unwrap_or(Type::Opaque(1));
        messages.push(DATATYPE, CONSTANT, &kind.encode());
        // Version 2, allocated late, written where the user set it, the default value.
        messages.push(FILL_VALUE, 0, &[2, 2, 2, 1, 0, 0, 0, 0]);
        let mut layout = vec![3, 1];
        let place = messages.bytes.len() + 8 + layout.len();
        let (address, len) = match t.dtype.is_text() {
            true => self.text_data(t, kind)?,
            false => (None, t.byte_len()),
        };
        layout.extend(address.unwrap_or(NONE).to_le_bytes());
        layout.extend(len.to_le_bytes());
        messages.push(LAYOUT, 0, &layout);
        if !t.dtype.is_text() && len > 0 {
            let start = self.starts.get(i).copied().unwrap_or(0);
            messages.data.push((place, start));
        }
        Ok(())
    }

    /// Reads the texts of `t` and puts them among the structures; gives where they lie.
    fn text_data(&mut self, t: &Tensor, kind: Type) -> Result<(Option<u64>, u64)> {
        let mut data = Vec::new();
        let mut referrers = Vec::new();
        let mut count = 0u64;
        let (heap, budget) = (&mut self.heap, &mut self.texts);
        each_text(t, &mut |text| {
            budget.take(text)?;
            count += 1;
            match kind {
                Type::Fixed { bytes, .. } => {
                    let end = data.len() + bytes as usize;
                    data.extend_from_slice(text.get(..bytes as usize).unwrap_or(text));
                    data.resize(end, 0);
                }
                _ => heap.refer(text, &mut data, &mut referrers),
            }
            Ok(())
        })?;
        if t.numel() != Some(count) {
            let message = format!("tensor {:?} gave {count} texts", t.name);
            return Err(Error::malformed("tensor.wrong-length", message));
        }
        if data.is_empty() {
            return Ok((None, 0));
        }
        let at = self.out.len();
        let len = data.len() as u64;
        self.out.extend(data);
        self.out.resize(self.out.len().next_multiple_of(8), 0);
        for mut r in referrers {
            r.at += at;
            self.referrers.push(r);
        }
        Ok((Some(at as u64), len))
    }

    /// Tells everybody the addresses they wait for.
    fn finish(mut self, tensors: Vec<usize>) -> Result<PlannedFile> {
        let heaps = std::mem::take(&mut self.heap).write(&mut self.out);
        let mut put = |at: usize, value: u64| {
            if let Some(slot) = self
                .out
                .get_mut(at..)
                .and_then(|s| s.first_chunk_mut::<8>())
            {
                *slot = value.to_le_bytes();
            }
        };
        for r in &self.referrers {
            put(r.at, heaps.get(r.collection).copied().unwrap_or(NONE));
        }
        let end = self.out.len().next_multiple_of(HEAD_ALIGN);
        self.out.resize(end, 0);
        let mut put = |at: usize, value: u64| {
            if let Some(slot) = self
                .out
                .get_mut(at..)
                .and_then(|s| s.first_chunk_mut::<8>())
            {
                *slot = value.to_le_bytes();
            }
        };
        for (at, offset) in &self.data {
            put(*at, offset.saturating_add(end as u64));
        }
        let bytes = self.data_len.checked_add(end as u64);
        let bytes = bytes.filter(|&b| b < i64::MAX as u64).ok_or_else(|| {
            let message = "the tensors' sizes do not fit 64 bits together";
            Error::parameter("hdf5.too-large", message)
        })?;
        let root = self.headers.first().copied().unwrap_or((NONE, None));
        let superblock = superblock(bytes, root);
        if let Some(head) = self.out.get_mut(..SUPERBLOCK) {
            head.copy_from_slice(&superblock);
        }
        Ok(PlannedFile {
            name: String::new(),
            bytes,
            tensors,
            prepared: self.out,
            alignment: ALIGN,
            big_endian: false,
        })
    }
}

/// A superblock of version 0 (II.A).
fn superblock(end: u64, root: (u64, Option<Places>)) -> [u8; SUPERBLOCK] {
    let mut out = b"\x89HDF\r\n\x1a\n".to_vec();
    // Versions, then the widths of addresses and lengths.
    out.extend([0, 0, 0, 0, 0, 8, 8, 0]);
    out.extend(LEAF_K.to_le_bytes());
    out.extend(INTERNAL_K.to_le_bytes());
    out.extend([0; 4]);
    for address in [0, NONE, end, NONE] {
        out.extend(u64::to_le_bytes(address));
    }
    groups::entry(&mut out, 0, root.0, root.1);
    let mut block = [0; SUPERBLOCK];
    for (to, from) in block.iter_mut().zip(out) {
        *to = from;
    }
    block
}

const DATASPACE: u16 = 0x01;
const DATATYPE: u16 = 0x03;
const FILL_VALUE: u16 = 0x05;
const LAYOUT: u16 = 0x08;
const ATTRIBUTE: u16 = 0x0c;
const SYMBOL_TABLE: u16 = 0x11;

/// A message that never changes.
const CONSTANT: u8 = 1;

/// Messages of one object header are at most this long together.
const MOST_HEADER: usize = 1 << 30;

/// The messages of an object header.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    count: u16,
    referrers: Vec<Referrer>,
    data: Vec<(usize, u64)>,
}

impl Messages {
    fn push(&mut self, kind: u16, flags: u8, body: &[u8]) {
        let len = body.len().next_multiple_of(8);
        self.bytes.extend(kind.to_le_bytes());
        // Bodies are bounded by who makes them.
        self.bytes.extend((len as u16).to_le_bytes());
        self.bytes.extend([flags, 0, 0, 0]);
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(body);
        self.bytes.resize(end, 0);
        self.count = self.count.saturating_add(1);
    }

    fn attribute(
        &mut self,
        name: &str,
        value: &Value,
        heap: &mut GlobalHeap,
    ) -> std::result::Result<(), String> {
        let body = attribute::encode(name, value, heap)?;
        if self.count == u16::MAX || self.bytes.len() > MOST_HEADER {
            return Err("the object has too many attributes".into());
        }
        let start = self.bytes.len() + 8;
        for mut r in body.referrers {
            r.at += start;
            self.referrers.push(r);
        }
        self.push(ATTRIBUTE, 0, &body.bytes);
        Ok(())
    }
}
