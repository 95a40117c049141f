//! Opening a file: the header is walked once, strings of vocabularies and payloads stay where
//! they are.

use std::sync::Arc;

use weighbridge_core::model::{
    Coding, DType, Element, FormatId, Model, Number, Packed, Part, Shape, Storage, StorageData,
    Tensor, TensorSource, Value, View, Warning,
};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::raw::{self, Entry, Header, TensorInfo};
use super::swap;
use super::types::{TensorType, ValueType};
use super::verify;
use super::vocabulary;
use crate::OpenOptions;
use crate::check::Violation;
use crate::format::FormatReader;

/// GGUF files. See the [module](super).
#[derive(Debug, Clone, Copy)]
pub struct Gguf;

impl FormatReader for Gguf {
    fn id(&self) -> FormatId {
        FormatId::Gguf
    }

    fn open(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
        let name = source.name().to_owned();
        open(source, options).map_err(|e| e.in_file(name))
    }

    fn verify(&self, source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Vec<Violation>> {
        let mut all = verify::verify(source.as_ref(), &options.limits)?;
        if options.lenient {
            all.retain(|v| !is_harmless(v.rule));
        }
        Ok(all)
    }
}

/// Rules that the reference reader (`ggml/src/gguf.cpp`) does not ask of a file.
fn is_harmless(rule: &str) -> bool {
    matches!(
        rule,
        "gguf.utf8"
            | "gguf.bool"
            | "gguf.padding"
            | "gguf.trailing-bytes"
            | "gguf.order"
            | "gguf.hole"
            | "gguf.removed-type"
            | "gguf.foreign-type"
    ) || vocabulary::is_own(rule)
}

fn open(source: Arc<dyn ByteSource>, options: &OpenOptions) -> Result<Model> {
    let (header, errors) = verify::header(source.as_ref(), &options.limits)?;
    let mut model = Model::new(FormatId::Gguf);
    for e in errors {
        // A type without a known size: the file is fine, and we cannot read all of it.
        if !is_harmless(e.rule()) || e.rule().ends_with("-type") {
            return Err(e);
        }
        model.warnings.push(Warning {
            offset: e.byte_span().map(|s| s.offset),
            ..Warning::new(e.rule(), e.message())
        });
    }
    model.version = Some(header.version.to_string());
    model.container = header.big_endian.then_some("big-endian");
    model.parts = vec![Part {
        path: source.name().into(),
        bytes: source.len(),
    }];
    let coding = header.coding();
    model.metadata.reserve(header.entries.len());
    for entry in &header.entries {
        let key = text_of(header.bytes(&entry.key))?;
        let value = value(&header, entry, &source, coding);
        model.metadata.push((key, value));
    }
    model.tensors = tensors(&header, &source)?;
    Ok(model)
}

fn text_of(bytes: &[u8]) -> Result<String> {
    // Keys and names that are no text were refused with the header.
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned)
        .map_err(|_| Error::malformed("gguf.key", "a name is no UTF-8"))
}

/// A metadata value in the model's terms.
fn value(header: &Header<'_>, entry: &Entry, source: &Arc<dyn ByteSource>, c: Coding) -> Value {
    match &entry.value {
        raw::Value::U8(n) => Value::Number(Number::U8(*n)),
        raw::Value::I8(n) => Value::Number(Number::I8(*n)),
        raw::Value::U16(n) => Value::Number(Number::U16(*n)),
        raw::Value::I16(n) => Value::Number(Number::I16(*n)),
        raw::Value::U32(n) => Value::Number(Number::U32(*n)),
        raw::Value::I32(n) => Value::Number(Number::I32(*n)),
        raw::Value::U64(n) => Value::Number(Number::U64(*n)),
        raw::Value::I64(n) => Value::Number(Number::I64(*n)),
        raw::Value::F32(x) => Value::Number(Number::F32(*x)),
        raw::Value::F64(x) => Value::Number(Number::F64(*x)),
        raw::Value::Bool(b) => Value::Bool(*b),
        raw::Value::String(range) => match std::str::from_utf8(header.bytes(range)) {
            Ok(s) => Value::Str(s.to_owned()),
            Err(_) => Value::Bytes(header.bytes(range).to_vec()),
        },
        raw::Value::Array(a) => {
            let range = a.range.start as u64..a.range.end as u64;
            let source = Arc::clone(source);
            Value::Packed(Packed::new(element(a.element), a.len, source, range, c))
        }
    }
}

/// The model's name of a value type.
pub(crate) fn element(kind: ValueType) -> Element {
    match kind {
        ValueType::U8 => Element::U8,
        ValueType::I8 => Element::I8,
        ValueType::U16 => Element::U16,
        ValueType::I16 => Element::I16,
        ValueType::U32 => Element::U32,
        ValueType::I32 => Element::I32,
        ValueType::F32 => Element::F32,
        ValueType::Bool => Element::Bool,
        ValueType::String => Element::Str,
        ValueType::Array => Element::Array,
        ValueType::U64 => Element::U64,
        ValueType::I64 => Element::I64,
        ValueType::F64 => Element::F64,
    }
}

fn tensors(header: &Header<'_>, source: &Arc<dyn ByteSource>) -> Result<Vec<Tensor>> {
    if header.tensors.is_empty() {
        return Ok(Vec::new());
    }
    let start = header.data_start().unwrap_or(source.len());
    let data = StorageData::Raw {
        source: Arc::clone(source),
        offset: start,
        checksum: None,
    };
    let len = source.len().saturating_sub(start);
    let storage = Storage::new("data", len, header.big_endian, data)?.into_region();
    let storage = Arc::new(storage);
    header
        .tensors
        .iter()
        .map(|info| tensor(header, info, &storage))
        .collect()
}

fn tensor(header: &Header<'_>, info: &TensorInfo, storage: &Arc<Storage>) -> Result<Tensor> {
    let name = text_of(header.bytes(&info.name))?;
    let dtype = dtype(info.type_id).ok_or_else(|| {
        let message = format!("tensor {name}: type {} is not known", info.type_id);
        Error::unsupported("gguf.tensor-type", message).at(info.at as u64)
    })?;
    // The file lists the innermost dimension first.
    let n = (info.n_dims as usize).min(info.dims.len());
    let shape: Shape = info.dims.iter().take(n).rev().copied().collect();
    let view = View {
        storage: Arc::clone(storage),
        offset: info.offset,
    };
    let stored = Tensor::new(name, dtype, &shape, TensorSource::View(view));
    Ok(match (header.big_endian, dtype.block()) {
        (true, Some(_)) => swap::little_endian(stored),
        _ => stored,
    })
}

/// The dtype of a tensor type.
pub fn dtype(type_id: i32) -> Option<DType> {
    let TensorType::Known(packing) = TensorType::from_id(type_id) else {
        return None;
    };
    DType::parse(packing.name)
}
