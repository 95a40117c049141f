//! Writing checkpoints of version 2: the data files first, then the index, which holds the
//! checksums of what went into them.

use std::collections::HashSet;
use std::path::Path;

use weighbridge_core::cursor::Cursor;
use weighbridge_core::model::{Chunks, DType, FormatId, Model, Tensor, mask_crc32c};
use weighbridge_core::wire::sstable::Builder;
use weighbridge_core::{Error, Result};

use super::index;
use crate::format::onnx::encode::Fields;
use crate::format::tensorflow::texts::extend;
use crate::format::tensorflow::types::{self, Kind};
use crate::format::{FormatWriter, Note, Plan, PlannedFile, WriteOptions};
use crate::output::Sink;

/// The version of the format that is written (`kTensorBundleVersion`).
const VERSION: i64 = 1;

/// The prefix that an output stands for: the name itself, or that of an index.
pub(crate) fn prefix_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    Some(name.strip_suffix(".index").unwrap_or(&name).to_owned())
}

/// The writer of checkpoints.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointWriter;

/// A tensor on its way into the checkpoint.
struct Chosen {
    tensor: usize,
    name: String,
    kind: &'static Kind,
    bytes: u64,
    shard: usize,
    offset: u64,
}

impl FormatWriter for CheckpointWriter {
    fn id(&self) -> FormatId {
        FormatId::TfCheckpoint
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut chosen = choose(model, &mut plan)?;
        if !options.weights_only {
            for (key, _) in &model.metadata {
                let why = "a checkpoint of TensorFlow holds tensors only";
                plan.lost.push(Note::new(format!("metadata {key}"), why));
            }
        }
        let shards = place(&mut chosen, options)?;
        let stem = match options.stem.as_str() {
            "" => "model",
            stem => stem,
        };
        for shard in 0..shards {
            let own = || chosen.iter().filter(|c| c.shard == shard);
            plan.files.push(PlannedFile {
                name: index::data_name(stem, shard as u64, shards as u64),
                bytes: own().fold(0, |n, c| n.saturating_add(c.bytes)),
                tensors: own().map(|c| c.tensor).collect(),
                prepared: Vec::new(),
                alignment: 1,
                big_endian: false,
            });
        }
        let prepared = prepare(model, &chosen, shards)?;
        let bytes = table(&prepared, |_| Some(0))?.len() as u64;
        plan.files.push(PlannedFile {
            name: format!("{stem}.index"),
            bytes,
            tensors: Vec::new(),
            prepared,
            alignment: 1,
            big_endian: false,
        });
        Ok(plan)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let planned = plan.files.get(file).ok_or_else(|| {
            let message = format!("the plan has no file number {file}");
            Error::parameter("plan.no-such-file", message)
        })?;
        let start = out.position();
        if planned.prepared.is_empty() {
            let mut chunks = Chunks::new();
            for &i in &planned.tensors {
                let t = model.tensors.get(i).ok_or_else(other_model)?;
                let crc = match t.dtype.is_text() {
                    true => texts(t, out, progress)?,
                    false => numbers(t, &mut chunks, out, progress)?,
                };
                plan.learned.keep(i, mask_crc32c(crc));
            }
        } else {
            out.put(&table(&planned.prepared, |i| plan.learned.sum(i))?)?;
        }
        match out.position() - start == planned.bytes {
            true => Ok(()),
            false => Err(other_model()),
        }
    }
}

fn other_model() -> Error {
    Error::parameter("plan.other-model", "the plan was made for another model")
}

/// Why a tensor cannot be written, with the flag that makes it possible.
fn refusal(t: &Tensor) -> Option<String> {
    let d = t.dtype;
    if let Some(why) = crate::format::not_dense(t, "a checkpoint") {
        return Some(why);
    }
    if d == DType::Compound || d == DType::Null {
        return Some(format!(
            "a checkpoint holds numbers and texts, and this is {d}"
        ));
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    if types::kind_of(t).is_none() {
        let how = match d.block().is_some() || d.bytes().is_none() {
            true => ": --dequantize writes numbers that it has",
            false if d.is_complex() => ": --complex-as-real writes real and imaginary parts",
            false => "",
        };
        return Some(format!("TensorFlow has no dtype {d}{how}"));
    }
    if t.shape.len() > crate::format::tensorflow::proto::MOST_DIMS {
        return Some("TensorFlow's tensors have at most 254 dimensions".into());
    }
    let signed = t.shape.iter().all(|&n| i64::try_from(n).is_ok());
    (t.numel().is_none() || !signed).then(|| "its size does not fit 64 bits".into())
}

/// The tensors that go in, in the order of their names.
fn choose(model: &Model, plan: &mut Plan) -> Result<Vec<Chosen>> {
    let mut taken: HashSet<String> = HashSet::with_capacity(model.tensors.len());
    let mut out = Vec::with_capacity(model.tensors.len());
    for (tensor, t) in model.tensors.iter().enumerate() {
        let named = match t.name.as_bytes().first() {
            None => Some("a tensor of a checkpoint has a name".to_owned()),
            Some(0) => Some("names that begin with NUL are those of slices".to_owned()),
            _ => None,
        };
        if let Some(why) = named.or_else(|| refusal(t)) {
            plan.lost.push(Note::new(t.name.as_str(), why));
            continue;
        }
        let Some(kind) = types::kind_of(t) else {
            continue;
        };
        if t.quantization().is_some() {
            let what = format!("scales and zero points of {}", t.name);
            let why = "a checkpoint has no place for them: --dequantize writes the values as F32";
            plan.lost.push(Note::new(what, why));
        }
        let mut name = t.name.clone();
        let mut n = 1u64;
        while !taken.insert(name.clone()) {
            n += 1;
            name = format!("{}#{n}", t.name);
        }
        if n > 1 {
            plan.changed.push(Note {
                what: t.name.clone(),
                why: format!("written as {name}: the name is taken"),
                naming: true,
            });
        }
        let bytes = match t.dtype.is_text() {
            true => texts_len(t)?,
            false => t.byte_len(),
        };
        out.push(Chosen {
            tensor,
            name,
            kind,
            bytes,
            shard: 0,
            offset: 0,
        });
    }
    out.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(out)
}

/// Gives every tensor its place; says how many data files there are, at least one.
fn place(chosen: &mut [Chosen], options: &WriteOptions) -> Result<usize> {
    let most = options.shard_size.unwrap_or(u64::MAX);
    let count = options.shard_tensors.unwrap_or(u64::MAX);
    if most == 0 || count == 0 {
        let message = "the shard size must be above 0";
        return Err(Error::parameter("shards.zero-size", message));
    }
    let (mut shard, mut at, mut held) = (0, 0u64, 0u64);
    for c in chosen {
        let end = at.checked_add(c.bytes);
        if held > 0 && (held >= count || end.is_none_or(|e| e > most)) {
            (shard, at, held) = (shard + 1, 0, 0);
        }
        (c.shard, c.offset) = (shard, at);
        at = at.checked_add(c.bytes).ok_or_else(|| {
            let message = "the tensors' sizes do not fit 64 bits together";
            Error::parameter("tensorflow.too-large", message)
        })?;
        held += 1;
    }
    Ok(shard + 1)
}

/// What the index says, but for the checksums: runs of the tensor's number, the key and the entry,
/// each with its length.
fn prepare(model: &Model, chosen: &[Chosen], shards: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let version = Fields::new().int(1, VERSION);
    let header = Fields::new().int(1, shards as i64).bytes(3, version);
    push(&mut out, u64::MAX, b"", header.as_ref());
    for c in chosen {
        let t = model.tensors.get(c.tensor).ok_or_else(other_model)?;
        let mut shape = Fields::new();
        for &n in &t.shape {
            let size = match n {
                0 => Fields::new(),
                n => Fields::new().int(1, n as i64),
            };
            shape = shape.bytes(2, size);
        }
        let mut entry = Fields::new().int(1, c.kind.id as i64).bytes(2, shape);
        for (number, n) in [(3, c.shard as u64), (4, c.offset), (5, c.bytes)] {
            if n > 0 {
                entry = entry.int(number, n as i64);
            }
        }
        push(&mut out, c.tensor as u64, c.name.as_bytes(), entry.as_ref());
    }
    Ok(out)
}

fn push(out: &mut Vec<u8>, tensor: u64, key: &[u8], entry: &[u8]) {
    out.extend_from_slice(&tensor.to_le_bytes());
    for part in [key, entry] {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// The index, with checksums from `sum`.
fn table(prepared: &[u8], sum: impl Fn(usize) -> Option<u32>) -> Result<Vec<u8>> {
    let mut table = Builder::new();
    let mut input = Cursor::new(prepared);
    while input.left() > 0 {
        let tensor = input.u64()?;
        let mut part = || {
            let n = usize::try_from(input.u64()?).unwrap_or(usize::MAX);
            input.take(n)
        };
        let (key, entry) = (part()?, part()?);
        let mut entry = Fields(entry.to_vec());
        if tensor != u64::MAX {
            let tensor = usize::try_from(tensor).unwrap_or(usize::MAX);
            entry = entry.fixed32(6, sum(tensor).ok_or_else(other_model)?);
        }
        if !table.add(key, entry.as_ref()) {
            return Err(other_model());
        }
    }
    Ok(table.finish())
}

/// Streams a tensor of numbers; gives its checksum.
fn numbers(
    t: &Tensor,
    chunks: &mut Chunks,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<u32> {
    let (mut crc, mut done) = (0u32, 0u64);
    t.stream(chunks, &mut |part| {
        crc = crc32c::crc32c_append(crc, part);
        done = done.saturating_add(part.len() as u64);
        progress(part.len() as u64);
        out.put(part)
    })?;
    let len = t.byte_len();
    if done != len {
        let message = format!("tensor {:?} gave {done} bytes instead of {len}", t.name);
        return Err(Error::malformed("tensor.wrong-length", message));
    }
    Ok(crc)
}

/// Gives the length of every text of `t`, and its bytes as they come.
fn each(
    t: &Tensor,
    length: &mut dyn FnMut(u64) -> Result<()>,
    bytes: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut head: Vec<u8> = Vec::new();
    let (mut left, mut seen) = (0u64, 0u64);
    t.stream(&mut Chunks::new(), &mut |part| {
        let mut part = part;
        while !part.is_empty() {
            if left == 0 {
                let (now, rest) = part.split_at(part.len().min(8 - head.len()));
                head.extend_from_slice(now);
                part = rest;
                if let Some(n) = head.first_chunk::<8>() {
                    left = u64::from_le_bytes(*n);
                    seen = seen.saturating_add(1);
                    length(left)?;
                    head.clear();
                }
                continue;
            }
            let n = left.min(part.len() as u64);
            let (now, rest) = part.split_at(n as usize);
            bytes(now)?;
            left -= n;
            part = rest;
        }
        Ok(())
    })?;
    match left == 0 && head.is_empty() && Some(seen) == t.numel() {
        true => Ok(()),
        false => {
            let message = format!("tensor {:?} gave {seen} texts", t.name);
            Err(Error::malformed("tensor.wrong-length", message))
        }
    }
}

/// How many bytes the texts of `t` take in a data file. They are read for it.
fn texts_len(t: &Tensor) -> Result<u64> {
    let mut n = if t.numel() == Some(0) { 0u64 } else { 4 };
    let mut add = |len: u64| {
        let bits = u64::from(64 - (len | 1).leading_zeros());
        n = n.saturating_add(len).saturating_add(bits.div_ceil(7));
        Ok(())
    };
    each(t, &mut add, &mut |_| Ok(()))?;
    Ok(n)
}

/// Streams texts: all lengths, their checksum, all bytes. Gives the checksum of all.
fn texts(t: &Tensor, out: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<u32> {
    if t.numel() == Some(0) {
        return Ok(0);
    }
    let mut crc = 0u32;
    each(
        t,
        &mut |n| {
            crc = extend(crc, n, false);
            let mut rest = n;
            while rest >= 0x80 {
                out.put(&[(rest & 0x7f) as u8 | 0x80])?;
                rest >>= 7;
            }
            out.put(&[rest as u8])
        },
        &mut |_| Ok(()),
    )?;
    let sum = mask_crc32c(crc).to_le_bytes();
    out.put(&sum)?;
    crc = crc32c::crc32c_append(crc, &sum);
    each(t, &mut |_| Ok(()), &mut |part| {
        crc = crc32c::crc32c_append(crc, part);
        progress(part.len() as u64);
        out.put(part)
    })?;
    Ok(crc)
}
