//! Writing: the plan holds the finished header, then tensors are streamed in its order.
//!
//! The same model gives the same bytes. The data region begins at a multiple of 64, and tensors
//! are ordered so that each lies at a multiple of the largest power of two (up to 64) that
//! divides its length: no byte is spent on it, since nothing may lie between tensors. That is at
//! least the alignment of its dtype; tensors of one class stand wide dtypes first, then in the
//! order of the model. [`WriteOptions::align`] asks for a greater multiple than 64.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;

use weighbridge_core::model::{DType, Model, Tensor, Value};
use weighbridge_core::{Error, Result};

use super::aliases::{self, Sharing};
use super::entry::has_dtype;
use super::header::{MAX_HEADER, METADATA_KEY};
use super::json::{push_string, push_u64};
use super::names::NameTable;
use crate::format::{Note, Plan, PlannedFile, WriteOptions};

/// The data region begins at a multiple of this, or of more.
const ALIGN: u64 = 64;

/// The greatest multiple that may be asked for.
const MOST_ALIGN: u64 = 1 << 16;

/// See [`super::Safetensors`].
pub(super) fn plan(model: &Model, options: &WriteOptions) -> Result<Plan> {
    let mut plan = Plan::default();
    let names = names(model, &mut plan);
    let sharing = aliases::sharing(model, options.dedupe, |i| {
        names.get(i).and_then(|n| n.as_deref())
    });
    let metadata = metadata(model, &sharing, &mut plan);
    let mut chosen: Vec<Chosen<'_>> = Vec::with_capacity(model.tensors.len());
    let mut dropped = sharing.dropped;
    dropped.sort_unstable();
    for (index, (t, name)) in model.tensors.iter().zip(&names).enumerate() {
        if let (Some(name), true) = (name, dropped.binary_search(&index).is_err()) {
            chosen.push(Chosen {
                index,
                tensor: t,
                name,
                bytes: t.byte_len(),
            });
        }
    }
    let align = options.align.clamp(ALIGN, MOST_ALIGN).next_power_of_two();
    let shards = split(chosen, options.shard_size, options.shard_tensors)?;
    if let [only] = shards.as_slice() {
        plan.files
            .push(file(String::new(), only, &metadata, align)?);
        return Ok(plan);
    }
    let stem = match options.stem.as_str() {
        "" => "model",
        stem => stem,
    };
    // Everything of the model as a whole goes into the first shard; what kind of tensors these
    // are, into each, as the common loaders expect.
    let format: Vec<_> = metadata
        .iter()
        .filter(|(k, _)| *k == "format")
        .cloned()
        .collect();
    let n = shards.len();
    let name = |i: usize| format!("{stem}-{:05}-of-{n:05}.safetensors", i + 1);
    for (i, shard) in shards.iter().enumerate() {
        let metadata = if i == 0 { &metadata } else { &format };
        plan.files.push(file(name(i), shard, metadata, align)?);
    }
    plan.side_files.push((
        format!("{stem}.safetensors.index.json"),
        index(&shards, name),
    ));
    Ok(plan)
}

/// A tensor that goes into a file.
#[derive(Clone)]
struct Chosen<'a> {
    index: usize,
    tensor: &'a Tensor,
    name: &'a str,
    bytes: u64,
}

/// The name each tensor gets in the file, `None` for those that cannot go in.
fn names<'a>(model: &'a Model, plan: &mut Plan) -> Vec<Option<Cow<'a, str>>> {
    let mut table = NameTable::with_room_for(model.tensors.len());
    let mut names: Vec<Option<Cow<'a, str>>> = Vec::with_capacity(model.tensors.len());
    for (i, t) in model.tensors.iter().enumerate() {
        if let Some(why) = refusal(t) {
            plan.lost.push(Note::new(t.name.as_str(), why));
            names.push(None);
            continue;
        }
        let mut name = Cow::Borrowed(t.name.as_str());
        let mut n = 1u64;
        let taken = |i: usize| names.get(i).and_then(|n| n.as_deref()).unwrap_or_default();
        while name == METADATA_KEY || table.insert(&name, i, taken).is_some() {
            n += 1;
            name = Cow::Owned(format!("{}#{n}", t.name));
        }
        if n > 1 {
            plan.changed.push(Note {
                what: t.name.clone(),
                why: format!("written as {name}: the name is taken"),
                naming: true,
            });
        }
        names.push(Some(name));
    }
    names
}

/// Why a tensor cannot be written, with the flag that makes it possible.
fn refusal(t: &Tensor) -> Option<String> {
    let d = t.dtype;
    if let Some(why) = crate::format::not_dense(t, "safetensors") {
        return Some(why);
    }
    if matches!(d, DType::Compound | DType::Null) {
        return Some(format!(
            "safetensors holds numbers and this is a dataset of type {d}"
        ));
    }
    if d.is_text() {
        return Some("safetensors holds numbers and this is a tensor of texts".into());
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    if t.quantization().is_some() || d.is_quantized() {
        return Some(format!(
            "safetensors has no quantized dtype such as {d}: --dequantize writes the values as F32"
        ));
    }
    if d.block().is_some() {
        return Some(format!(
            "safetensors has no block type such as {d}: --dequantize writes the values as F32"
        ));
    }
    if !has_dtype(d) {
        return Some(if d.is_complex() {
            format!("safetensors has no {d}: --complex-as-real writes real and imaginary parts")
        } else if matches!(d, DType::U4 | DType::I4 | DType::U2 | DType::I2) {
            format!("safetensors has no dtype {d}: --dequantize writes one integer a byte")
        } else {
            format!("safetensors has no dtype {d}")
        });
    }
    match t.numel().and_then(|n| n.checked_mul(d.bits()?)) {
        None => Some("its size does not fit 64 bits".into()),
        Some(bits) if bits % 8 != 0 => Some(format!(
            "its {bits} bits are no whole number of bytes, which safetensors asks for"
        )),
        Some(_) => None,
    }
}

/// The entries of `__metadata__`.
fn metadata<'a>(
    model: &'a Model,
    sharing: &Sharing,
    plan: &mut Plan,
) -> Vec<(&'a str, Cow<'a, str>)> {
    let mut out: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(model.metadata.len() + 1);
    let mut keys = NameTable::with_room_for(model.metadata.len());
    for (key, value) in &model.metadata {
        if key == aliases::KEY && !sharing.groups.is_empty() {
            continue;
        }
        let text = match value {
            Value::Str(s) => Cow::Borrowed(s.as_str()),
            Value::BigInt(s) => Cow::Borrowed(s.as_str()),
            Value::Int(i) => Cow::Owned(i.to_string()),
            Value::Float(f) => Cow::Owned(format!("{f:?}")),
            Value::Number(n) => Cow::Owned(n.to_string()),
            Value::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            _ => {
                let why = "safetensors metadata holds text only and the value is no scalar";
                plan.lost.push(Note::new(key.as_str(), why));
                continue;
            }
        };
        let seen = |i: usize| out.get(i).map_or("", |(k, _)| *k);
        if keys.insert(key, out.len(), seen).is_some() {
            plan.lost.push(Note::new(
                key.as_str(),
                "a second metadata entry under the same key",
            ));
            continue;
        }
        out.push((key, text));
    }
    if !sharing.groups.is_empty() {
        out.push((aliases::KEY, Cow::Owned(aliases::encode(&sharing.groups))));
    }
    out
}

/// Greedy shards in the order of the model; always at least one.
fn split<'a>(
    chosen: Vec<Chosen<'a>>,
    size: Option<u64>,
    tensors: Option<u64>,
) -> Result<Vec<Vec<Chosen<'a>>>> {
    if size.is_none() && tensors.is_none() {
        return Ok(vec![chosen]);
    }
    let (most, count) = (size.unwrap_or(u64::MAX), tensors.unwrap_or(u64::MAX));
    if most == 0 || count == 0 {
        return Err(Error::parameter(
            "shards.zero-size",
            "the shard size must be above 0",
        ));
    }
    let mut shards = vec![Vec::new()];
    let mut filled = 0u64;
    for c in chosen {
        let many = shards
            .last()
            .is_some_and(|s: &Vec<_>| s.len() as u64 >= count);
        if many || filled > 0 && filled.saturating_add(c.bytes) > most {
            shards.push(Vec::new());
            filled = 0;
        }
        filled = filled.saturating_add(c.bytes);
        if let Some(last) = shards.last_mut() {
            last.push(c);
        }
    }
    Ok(shards)
}

/// The largest power of two up to `align` that divides `n`; `align` for 0.
fn granularity(n: u64, align: u64) -> u64 {
    if n == 0 {
        align
    } else {
        1 << n.trailing_zeros().min(align.trailing_zeros())
    }
}

/// Plans one file: orders its tensors and makes its header.
fn file(
    name: String,
    tensors: &[Chosen<'_>],
    metadata: &[(&str, Cow<'_, str>)],
    align: u64,
) -> Result<PlannedFile> {
    let mut order: Vec<&Chosen<'_>> = tensors.iter().collect();
    order.sort_by_key(|c| {
        (
            Reverse(granularity(c.bytes, align)),
            Reverse(c.tensor.dtype.alignment()),
        )
    });
    let guess = tensors.iter().map(|c| c.name.len() + 96).sum::<usize>();
    let mut out = Vec::with_capacity(
        guess
            + metadata
                .iter()
                .map(|(k, v)| k.len() + v.len() + 16)
                .sum::<usize>(),
    );
    out.extend_from_slice(&[0; 8]);
    out.push(b'{');
    if !metadata.is_empty() {
        push_string(&mut out, METADATA_KEY);
        out.push(b':');
        for (i, (key, value)) in metadata.iter().enumerate() {
            out.push(if i == 0 { b'{' } else { b',' });
            push_string(&mut out, key);
            out.push(b':');
            push_string(&mut out, value);
        }
        out.push(b'}');
    }
    let mut at = 0u64;
    for c in &order {
        if out.len() > 9 {
            out.push(b',');
        }
        let end = at.checked_add(c.bytes).ok_or_else(|| {
            Error::parameter(
                "safetensors.too-large",
                "the tensors' sizes do not fit 64 bits together",
            )
        })?;
        describe(&mut out, c, at..end);
        at = end;
    }
    out.push(b'}');
    out.resize(out.len().next_multiple_of(align as usize), b' ');
    let header = out.len() as u64 - 8;
    if header > MAX_HEADER {
        return Err(Error::limit(
            "safetensors.header-too-large",
            format!("the header would take {header} bytes, the format allows {MAX_HEADER}"),
        )
        .help("split the model with --shard-size, or leave state out with --weights-only"));
    }
    if let Some(field) = out.first_chunk_mut::<8>() {
        *field = header.to_le_bytes();
    }
    Ok(PlannedFile {
        name,
        bytes: at.saturating_add(out.len() as u64),
        tensors: order.iter().map(|c| c.index).collect(),
        prepared: out,
        alignment: 1,
        big_endian: false,
    })
}

/// One tensor's entry in the header.
fn describe(out: &mut Vec<u8>, c: &Chosen<'_>, data: Range<u64>) {
    push_string(out, c.name);
    out.extend_from_slice(b":{\"dtype\":\"");
    out.extend_from_slice(c.tensor.dtype.as_str().as_bytes());
    out.extend_from_slice(b"\",\"shape\":[");
    for (i, &d) in c.tensor.shape.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_u64(out, d);
    }
    out.extend_from_slice(b"],\"data_offsets\":[");
    push_u64(out, data.start);
    out.push(b',');
    push_u64(out, data.end);
    out.extend_from_slice(b"]}");
}

/// The index of a sharded model, as the Hugging Face libraries write and read it:
/// `metadata.total_size` in bytes and `weight_map` from tensor to file, in the model's order.
fn index(shards: &[Vec<Chosen<'_>>], file: impl Fn(usize) -> String) -> Vec<u8> {
    let total = shards
        .iter()
        .flatten()
        .fold(0u64, |n, c| n.saturating_add(c.bytes));
    let mut out = b"{\n  \"metadata\": {\n    \"total_size\": ".to_vec();
    push_u64(&mut out, total);
    out.extend_from_slice(b"\n  },\n  \"weight_map\": {");
    let mut first = true;
    for (i, shard) in shards.iter().enumerate() {
        let name = file(i);
        for c in shard {
            out.extend_from_slice(if first { b"\n    " } else { b",\n    " });
            first = false;
            push_string(&mut out, c.name);
            out.extend_from_slice(b": ");
            push_string(&mut out, &name);
        }
    }
    out.extend_from_slice(b"\n  }\n}\n");
    out
}
