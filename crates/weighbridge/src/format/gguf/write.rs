//! Writing version 3, little-endian: the plan holds the finished header, then tensors are streamed
//! in the model's order, each padded to the alignment.
//!
//! Key-values keep their types and their order, so a file of this version and byte order comes
//! out as it went in. Facts: `gguf_write_to_buf` of `ggml/src/gguf.cpp` (ggml 0.25.3).

use weighbridge_core::model::{
    Chunks, DType, Element, Layout, Model, Number, Packed, Tensor, TensorSource, Value,
};
use weighbridge_core::{Error, Result};

use super::raw::{DEFAULT_ALIGNMENT, MOST_ALIGNMENT, align_up};
use super::read::Gguf;
use super::types::PACKINGS;
use crate::format::{FormatWriter, Note, Plan, PlannedFile, WriteOptions};
use crate::output::{Run, Sink, raw_bytes};

/// The key whose value is the alignment of the data.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Names of llama.cpp's models have fewer bytes than this, with their end (`GGML_MAX_NAME`).
const LONGEST_NAME: usize = 63;

/// The number of the tensor type that holds `dtype`, where there is one.
pub fn type_id(dtype: DType) -> Option<i32> {
    let found = PACKINGS.iter().find(|(_, p)| p.name == dtype.as_str());
    found.map(|(id, _)| *id)
}

impl FormatWriter for Gguf {
    fn id(&self) -> weighbridge_core::model::FormatId {
        weighbridge_core::model::FormatId::Gguf
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        if options.shard_size.is_some() {
            return Err(Error::parameter(
                "gguf.shard-size",
                "GGUF files are split by the verb `split`, not while they are converted",
            )
            .help("convert to one file, then `weighbridge split OUT --max-size SIZE`"));
        }
        let mut plan = Plan::default();
        let chosen = choose(model, &mut plan);
        let header = Head::of(model, &mut plan).finish(model, &chosen)?;
        plan.files.push(PlannedFile {
            name: String::new(),
            bytes: header.total,
            tensors: chosen,
            prepared: header.bytes,
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
        let file = plan.files.get(file).ok_or_else(|| {
            Error::parameter(
                "plan.no-such-file",
                format!("the plan has no file number {file}"),
            )
        })?;
        let start = out.position();
        out.put(&file.prepared)?;
        write_tensors(model, &file.tensors, start, out, progress)?;
        let written = out.position() - start;
        if written != file.bytes {
            let planned = file.bytes;
            let message = format!("wrote {written} bytes instead of the planned {planned}");
            return Err(Error::parameter("plan.other-model", message));
        }
        Ok(())
    }
}

/// The tensors that fit, by index; the others are lost.
fn choose(model: &Model, plan: &mut Plan) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    let mut chosen = Vec::with_capacity(model.tensors.len());
    for (i, t) in model.tensors.iter().enumerate() {
        let why = refusal(t).or_else(|| {
            let again = !seen.insert(t.name.as_str());
            again.then(|| "a second tensor of this name".to_owned())
        });
        match why {
            Some(why) => plan.lost.push(Note::new(t.name.as_str(), why)),
            None => {
                if t.shape.is_empty() {
                    plan.changed.push(Note::new(
                        t.name.as_str(),
                        "a scalar becomes one element in one dimension",
                    ));
                }
                chosen.push(i);
            }
        }
    }
    chosen
}

/// Why a tensor cannot be written, with the flag that makes it possible.
pub(crate) fn refusal(t: &Tensor) -> Option<String> {
    let d = t.dtype;
    if t.layout != Layout::Strided {
        let layout = t.layout.as_str();
        return Some(format!(
            "GGUF holds dense tensors only and this one is {layout}: --densify writes its dense values"
        ));
    }
    if d == DType::Str {
        return Some("GGUF holds numbers and this is a tensor of texts".into());
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    if t.quantization().is_some() || d.is_quantized() {
        return Some(format!(
            "GGUF has no dtype {d}: --dequantize writes the values as F32"
        ));
    }
    if type_id(d).is_none() {
        let hint = if d.is_float() {
            ": --dtype casts it"
        } else {
            ""
        };
        return Some(format!("GGUF has no dtype {d}{hint}"));
    }
    if t.shape.len() > 4 {
        return Some(format!(
            "GGUF holds up to 4 dimensions and this tensor has {}",
            t.shape.len()
        ));
    }
    if t.shape.contains(&0) {
        return Some("GGUF holds no tensor without elements".into());
    }
    if t.name.len() > LONGEST_NAME {
        return Some(format!(
            "its name has {} bytes, GGUF's readers take {LONGEST_NAME}: --rename shortens it",
            t.name.len()
        ));
    }
    if t.name.contains('\0') || t.name.is_empty() {
        return Some("its name is empty or holds a NUL: --rename changes it".into());
    }
    match d.size_of(&t.shape) {
        Some(_) => None,
        None => Some("its last dimension is no whole number of blocks".into()),
    }
}

/// The header's key-values, as far as it is known before the tensors are.
pub(crate) struct Head {
    keys: Vec<u8>,
    count: u64,
    alignment: u64,
}

/// A finished header.
pub(crate) struct Finished {
    /// The header with its padding, if there are tensors: the data follows at once.
    pub bytes: Vec<u8>,
    /// Bytes of the whole file.
    pub total: u64,
    /// Where the tensors' data begin in the file, in the order in which they were chosen.
    pub positions: Vec<u64>,
}

impl Head {
    /// Encodes the key-values of `model`; what GGUF has no type for is lost.
    pub(crate) fn of(model: &Model, plan: &mut Plan) -> Self {
        let mut head = Self {
            keys: Vec::new(),
            count: 0,
            alignment: DEFAULT_ALIGNMENT,
        };
        let mut seen = std::collections::HashSet::new();
        for (key, value) in &model.metadata {
            let lost = if !seen.insert(key.as_str()) {
                Some("a second key-value under the same key".to_owned())
            } else {
                head.put(key, value).err()
            };
            if let Some(why) = lost {
                plan.lost.push(Note::new(format!("metadata {key}"), why));
            }
        }
        head
    }

    /// Appends one key-value; gives why it cannot go in.
    fn put(&mut self, key: &str, value: &Value) -> std::result::Result<(), String> {
        if key.is_empty() || key.len() > 65_535 || key.contains('\0') {
            return Err("the key is empty, holds a NUL or is longer than 65535 bytes".into());
        }
        if key == ALIGNMENT_KEY {
            self.alignment = alignment(value).ok_or("it is no 32-bit power of two")?;
        }
        let start = self.keys.len();
        string(&mut self.keys, key.as_bytes());
        if let Err(why) = encode(&mut self.keys, value) {
            self.keys.truncate(start);
            return Err(why);
        }
        self.count += 1;
        Ok(())
    }

    /// Adds the descriptions of the tensors `chosen` of `model` and the padding.
    pub(crate) fn finish(self, model: &Model, chosen: &[usize]) -> Result<Finished> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((chosen.len() as u64).to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend(&self.keys);
        let mut at = 0u64;
        let mut positions = Vec::with_capacity(chosen.len());
        for t in chosen.iter().filter_map(|&i| model.tensors.get(i)) {
            string(&mut out, t.name.as_bytes());
            let dims: &[u64] = if t.shape.is_empty() { &[1] } else { &t.shape };
            out.extend((dims.len() as u32).to_le_bytes());
            for d in dims.iter().rev() {
                out.extend(d.to_le_bytes());
            }
            out.extend(type_id(t.dtype).unwrap_or(0).to_le_bytes());
            out.extend(at.to_le_bytes());
            positions.push(at);
            at = at
                .checked_add(t.byte_len())
                .and_then(|end| align_up(end, self.alignment))
                .ok_or_else(|| {
                    Error::parameter("gguf.too-large", "the sizes do not fit 64 bits together")
                })?;
        }
        // A vocabulary of its own ends with its last key-value: so gguf-py writes it, and there is
        // no data that would have to be aligned.
        if !chosen.is_empty() {
            // Alignments are at most a MiB.
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        }
        let start = out.len() as u64;
        let total = at.saturating_add(start);
        for p in &mut positions {
            *p = p.saturating_add(start);
        }
        Ok(Finished {
            bytes: out,
            total,
            positions,
        })
    }
}

/// The alignment that `value` stands for, where readers take it.
fn alignment(value: &Value) -> Option<u64> {
    match value {
        Value::Number(Number::U32(n)) => Some(u64::from(*n)),
        _ => None,
    }
    .filter(|n| n.is_power_of_two() && *n <= MOST_ALIGNMENT)
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn kind(out: &mut Vec<u8>, element: Element) {
    out.extend(element.gguf().to_le_bytes());
}

/// Appends type and value; gives why there is no type for it.
fn encode(out: &mut Vec<u8>, value: &Value) -> std::result::Result<(), String> {
    match value {
        Value::Number(n) => {
            kind(out, n.element());
            n.put(out);
        }
        Value::Bool(b) => {
            kind(out, Element::Bool);
            out.push(u8::from(*b));
        }
        Value::Int(i) => {
            kind(out, Element::I64);
            out.extend(i.to_le_bytes());
        }
        Value::Float(x) => {
            kind(out, Element::F64);
            out.extend(x.to_le_bytes());
        }
        Value::Str(s) => {
            kind(out, Element::Str);
            string(out, s.as_bytes());
        }
        Value::BigInt(s) => {
            let n: u64 = s.parse().map_err(|_| "the integer does not fit 64 bits")?;
            kind(out, Element::U64);
            out.extend(n.to_le_bytes());
        }
        Value::Bytes(b) => {
            kind(out, Element::Str);
            string(out, b);
        }
        Value::Packed(a) => {
            kind(out, Element::Array);
            kind(out, a.element());
            out.extend(a.len().to_le_bytes());
            out.extend_from_slice(&a.bytes().map_err(|e| e.to_string())?);
        }
        Value::List(items) => {
            let array = pack(items).ok_or("its values are not all of one type that GGUF has")?;
            return encode(out, &Value::Packed(array));
        }
        _ => return Err("GGUF has no type for the value".into()),
    }
    Ok(())
}

/// A list as an array of one type; an empty one is of strings.
fn pack(items: &[Value]) -> Option<Packed> {
    let mut bytes = Vec::new();
    let mut element = None;
    for v in items {
        let own = match v {
            Value::Number(n) => {
                n.put(&mut bytes);
                n.element()
            }
            Value::Bool(b) => {
                bytes.push(u8::from(*b));
                Element::Bool
            }
            Value::Int(i) => {
                bytes.extend(i.to_le_bytes());
                Element::I64
            }
            Value::Float(x) => {
                bytes.extend(x.to_le_bytes());
                Element::F64
            }
            Value::Str(s) => {
                string(&mut bytes, s.as_bytes());
                Element::Str
            }
            _ => return None,
        };
        if *element.get_or_insert(own) != own {
            return None;
        }
    }
    let element = element.unwrap_or(Element::Str);
    Some(Packed::from_bytes(element, items.len() as u64, bytes))
}

/// Streams the tensors, each with its padding; the data began where `start` and the header say.
fn write_tensors(
    model: &Model,
    chosen: &[usize],
    start: u64,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let alignment = model
        .metadata
        .iter()
        .find(|(k, _)| k == ALIGNMENT_KEY)
        .and_then(|(_, v)| alignment(v))
        .unwrap_or(DEFAULT_ALIGNMENT);
    let mut chunks = Chunks::new();
    let mut run = Run::default();
    for &i in chosen {
        let t = model.tensors.get(i).ok_or_else(|| {
            Error::parameter("plan.other-model", "the plan was made for another model")
        })?;
        let len = t.byte_len();
        let pad = align_up(len, alignment).unwrap_or(len) - len;
        match raw_bytes(t) {
            Some((source, at)) if matches!(t.source, TensorSource::View(_)) => {
                if !run.join(source, at, len) {
                    run.flush(out, progress)?;
                    run = Run::new(source, at, len);
                }
                if pad == 0 {
                    continue;
                }
                run.flush(out, progress)?;
            }
            _ => {
                run.flush(out, progress)?;
                stream(t, len, &mut chunks, out, progress)?;
            }
        }
        let zeros = vec![0u8; usize::try_from(pad).unwrap_or(0)];
        out.put(&zeros)?;
    }
    run.flush(out, progress)?;
    debug_assert!(out.position() >= start);
    Ok(())
}

fn stream(
    t: &Tensor,
    len: u64,
    chunks: &mut Chunks,
    out: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut done = 0u64;
    t.stream(chunks, &mut |part| {
        out.put(part)?;
        done += part.len() as u64;
        progress(part.len() as u64);
        Ok(())
    })?;
    if done != len {
        let message = format!("tensor {:?} gave {done} bytes instead of {len}", t.name);
        return Err(Error::malformed("tensor.wrong-length", message));
    }
    Ok(())
}
