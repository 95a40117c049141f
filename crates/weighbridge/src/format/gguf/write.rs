//! Writing version 3, in either byte order: the plan holds the finished header, then tensors are
//! streamed in the model's order, each padded to the alignment.
//!
//! Key-values keep their types and their order, so a file of this version and byte order comes
//! out as it went in. Facts: `gguf_write_to_buf` of `ggml/src/gguf.cpp` (ggml 0.25.3).

use weighbridge_core::model::{Coding, DType, Element, Model, Number, Packed, Tensor, Value};
use weighbridge_core::{Error, Result};

use super::raw::{DEFAULT_ALIGNMENT, MOST_ALIGNMENT, align_up};
use super::read::Gguf;
use super::split::{self, Cut};
use super::swap;
use super::types::PACKINGS;
use crate::format::{FormatWriter, Note, Plan, PlannedFile, WriteOptions, payload};
use crate::output::Sink;

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
        let cut = Cut {
            size: options.shard_size,
            tensors: options.shard_tensors,
            bare_first: false,
        };
        if [cut.size, cut.tensors].contains(&Some(0)) {
            let message = "the shard size must be above 0";
            return Err(Error::parameter("shards.zero-size", message));
        }
        if cut.size.is_none() && cut.tensors.is_none() {
            return plan_whole(model, options.big_endian);
        }
        let stem = match options.stem.as_str() {
            "" => "model",
            stem => stem,
        };
        let split = plan_split(model, cut, stem, options.big_endian)?;
        // What fits into one file is no split model.
        match split.files.len() {
            1 => plan_whole(model, options.big_endian),
            _ => Ok(split),
        }
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        payload::write(model, plan, file, out, progress)
    }
}

/// One file with everything.
fn plan_whole(model: &Model, big_endian: bool) -> Result<Plan> {
    let mut plan = Plan::default();
    let chosen = choose(model, &mut plan);
    let coding = coding(model, &chosen, big_endian)?;
    let head = Head::of(&model.metadata, coding, &mut plan);
    plan.files.push(head.file(model, String::new(), chosen)?);
    Ok(plan)
}

/// Several files, called `STEM-00001-of-0000N.gguf`, as `llama-gguf-split` makes them: key-values
/// are the first one's, and each tells of the split.
///
/// # Errors
/// `Parameter` for more files or tensors than the format can count, and as [`FormatWriter::plan`].
pub(crate) fn plan_split(model: &Model, cut: Cut, stem: &str, big_endian: bool) -> Result<Plan> {
    let mut plan = Plan::default();
    let chosen = choose(model, &mut plan);
    let coding = coding(model, &chosen, big_endian)?;
    let groups = cut.groups(&model.tensors, &chosen);
    let n = groups.len();
    for (no, group) in groups.into_iter().enumerate() {
        let [number, count, tensors] = split::keys(no, n, chosen.len())?;
        let own = model
            .metadata
            .iter()
            .filter(|(k, _)| no == 0 && !split::is_key(k));
        // The count is set last of all, which puts it at the end.
        let last = [number, tensors, count];
        let head = Head::of(own.chain(&last), coding, &mut plan);
        let mut file = head.file(model, format!("{stem}{}", split::suffix(no, n)), group)?;
        pad_bare(&mut file);
        plan.files.push(file);
    }
    Ok(plan)
}

/// Pads a header that no data follows, as `gguf_write_to_buf` does.
pub(crate) fn pad_bare(file: &mut PlannedFile) {
    if file.tensors.is_empty() {
        let whole = file
            .prepared
            .len()
            .next_multiple_of(DEFAULT_ALIGNMENT as usize);
        file.prepared.resize(whole, 0);
        file.bytes = whole as u64;
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

/// The coding of a file, where all of the tensors `chosen` have a form in it.
fn coding(model: &Model, chosen: &[usize], big_endian: bool) -> Result<Coding> {
    for t in chosen.iter().filter_map(|&i| model.tensors.get(i)) {
        if big_endian {
            swap::check(t)?;
        }
    }
    Ok(Coding {
        big_endian,
        ..Coding::CANONICAL
    })
}

/// Why a tensor cannot be written, with the flag that makes it possible.
pub(crate) fn refusal(t: &Tensor) -> Option<String> {
    let d = t.dtype;
    if let Some(why) = crate::format::not_dense(t, "GGUF") {
        return Some(why);
    }
    if matches!(d, DType::Compound | DType::Null) {
        return Some(format!(
            "GGUF holds numbers and this is a dataset of type {d}"
        ));
    }
    if d.is_text() {
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
        let hint = match () {
            () if d.is_complex() => ": --complex-as-real writes real and imaginary parts",
            () if d.is_float() => ": --dtype casts it",
            () => "",
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
    coding: Coding,
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
    /// What each tensor is padded to, in bytes.
    pub alignment: u64,
}

impl Head {
    /// Encodes key-values; what GGUF has no type for is lost.
    pub(crate) fn of<'v>(
        pairs: impl IntoIterator<Item = &'v (String, Value)>,
        coding: Coding,
        plan: &mut Plan,
    ) -> Self {
        let mut head = Self {
            coding,
            keys: Vec::new(),
            count: 0,
            alignment: DEFAULT_ALIGNMENT,
        };
        let mut seen = std::collections::HashSet::new();
        for (key, value) in pairs {
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
        self.coding.put_string(key.as_bytes(), &mut self.keys);
        if let Err(why) = encode(&mut self.keys, value, self.coding) {
            self.keys.truncate(start);
            return Err(why);
        }
        self.count += 1;
        Ok(())
    }

    /// The file called `name` with the tensors `chosen` of `model`.
    fn file(self, model: &Model, name: String, chosen: Vec<usize>) -> Result<PlannedFile> {
        let big_endian = self.coding.big_endian;
        let header = self.finish(model, &chosen)?;
        Ok(PlannedFile {
            name,
            bytes: header.total,
            tensors: chosen,
            prepared: header.bytes,
            alignment: header.alignment,
            big_endian,
        })
    }

    /// Adds the descriptions of the tensors `chosen` of `model` and the padding.
    pub(crate) fn finish(self, model: &Model, chosen: &[usize]) -> Result<Finished> {
        let c = self.coding;
        let mut out = b"GGUF".to_vec();
        c.put(3, 4, &mut out);
        c.put_length(chosen.len() as u64, &mut out);
        c.put_length(self.count, &mut out);
        out.extend(&self.keys);
        let mut at = 0u64;
        let mut positions = Vec::with_capacity(chosen.len());
        for t in chosen.iter().filter_map(|&i| model.tensors.get(i)) {
            let dims: &[u64] = if t.shape.is_empty() { &[1] } else { &t.shape };
            let dims = dims.iter().rev();
            put_info(
                c,
                &t.name,
                dims,
                type_id(t.dtype).unwrap_or(0),
                at,
                &mut out,
            );
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
            alignment: self.alignment,
        })
    }
}

/// Appends a tensor's description: its dimensions innermost first, its data `at` bytes behind the
/// start of all.
pub(crate) fn put_info<'d>(
    c: Coding,
    name: &str,
    dims: impl ExactSizeIterator<Item = &'d u64>,
    type_id: i32,
    at: u64,
    out: &mut Vec<u8>,
) {
    c.put_string(name.as_bytes(), out);
    c.put(dims.len() as u64, 4, out);
    for d in dims {
        c.put_length(*d, out);
    }
    c.put_number(Number::I32(type_id), out);
    c.put(at, 8, out);
}

/// The alignment that `value` stands for, where readers take it.
fn alignment(value: &Value) -> Option<u64> {
    match value {
        Value::Number(Number::U32(n)) => Some(u64::from(*n)),
        _ => None,
    }
    .filter(|n| n.is_power_of_two() && *n <= MOST_ALIGNMENT)
}

/// Appends type and value; gives why there is no type for it.
fn encode(out: &mut Vec<u8>, value: &Value, c: Coding) -> std::result::Result<(), String> {
    let kind = |element: Element, out: &mut Vec<u8>| c.put(element.gguf().into(), 4, out);
    let number = |n: Number, out: &mut Vec<u8>| {
        kind(n.element(), out);
        c.put_number(n, out);
    };
    match value {
        Value::Number(n) => number(*n, out),
        Value::Bool(b) => {
            kind(Element::Bool, out);
            out.push(u8::from(*b));
        }
        Value::Int(i) => number(Number::I64(*i), out),
        Value::Float(x) => number(Number::F64(*x), out),
        Value::Str(s) => {
            kind(Element::Str, out);
            c.put_string(s.as_bytes(), out);
        }
        Value::BigInt(s) => {
            let n: u64 = s.parse().map_err(|_| "the integer does not fit 64 bits")?;
            number(Number::U64(n), out);
        }
        Value::Bytes(b) => {
            kind(Element::Str, out);
            c.put_string(b, out);
        }
        Value::Packed(a) => {
            kind(Element::Array, out);
            kind(a.element(), out);
            c.put_length(a.len(), out);
            out.extend_from_slice(&a.bytes_in(c).map_err(|e| e.to_string())?);
        }
        Value::List(items) => {
            let array = pack(items).ok_or("its values are not all of one type that GGUF has")?;
            return encode(out, &Value::Packed(array), c);
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
                Coding::CANONICAL.put_string(s.as_bytes(), &mut bytes);
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
