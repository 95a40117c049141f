//! Values that do not lie in the file as little-endian bytes: typed fields that are varints or
//! stand one by one, and data that cannot be read at all.

use std::sync::Arc;

use weighbridge_core::model::{Compute, DType};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span, Value};
use weighbridge_core::{Error, Result};

use super::external::Refusal;
use super::raw::Typed;
use super::types;

/// Bytes handed on at a time, a multiple of every element's size.
const CHUNK: usize = 64 << 10;

/// Typed values, decoded while they are read.
#[derive(Debug)]
pub(super) struct TypedData {
    pub source: Arc<dyn ByteSource>,
    pub runs: Vec<Typed>,
    pub dtype: DType,
    /// Values that there have to be: elements, or as many as hold them.
    pub values: u64,
    /// The tensor, for messages.
    pub name: String,
    pub at: u64,
}

impl Compute for TypedData {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Encoder {
            buffer: Vec::with_capacity(CHUNK),
            values: 0,
            held: (0, 0),
            data: self,
            sink,
        };
        let mut reader = Reader::new(self.source.as_ref(), u64::MAX);
        for run in &self.runs {
            if run.packed {
                let field = Field {
                    number: run.number,
                    at: run.span.start,
                    value: Value::Bytes(run.span),
                };
                out.field(&mut reader, &field)?;
                continue;
            }
            let mut message = Message::new(run.span);
            while let Some(f) = reader.next(&mut message)? {
                out.field(&mut reader, &f)?;
            }
        }
        out.finish()
    }
}

struct Encoder<'e> {
    buffer: Vec<u8>,
    values: u64,
    /// Bits that do not fill a byte yet, and how many there are.
    held: (u64, u32),
    data: &'e TypedData,
    sink: &'e mut dyn FnMut(&[u8]) -> Result<()>,
}

impl Encoder<'_> {
    fn field(&mut self, reader: &mut Reader<'_>, f: &Field) -> Result<()> {
        match (f.number, f.value) {
            (5 | 7 | 11, _) => reader.varints(f, &mut |n| self.integer(n, f.at)),
            (4, _) => reader.fixed32s(f, &mut |n| self.put(&n.to_le_bytes())),
            (10, Value::Fixed64(n)) => self.put(&n.to_le_bytes()),
            (10, Value::Bytes(span)) => self.raw(reader, span),
            (6, Value::Bytes(span)) => self.text(reader, span),
            _ => Ok(()),
        }
    }

    /// Packed doubles lie there as they are to be given.
    fn raw(&mut self, reader: &Reader<'_>, span: Span) -> Result<()> {
        let mut at = span.start;
        while at < span.end {
            let end = span.end.min(at.saturating_add(CHUNK as u64));
            let part = reader.read(Span { start: at, end }, CHUNK as u64)?;
            for v in part.chunks(8) {
                self.put(v)?;
            }
            at = end;
        }
        Ok(())
    }

    /// A text: its length, then its bytes.
    fn text(&mut self, reader: &Reader<'_>, span: Span) -> Result<()> {
        self.put(&span.len().to_le_bytes())?;
        let mut at = span.start;
        while at < span.end {
            let end = span.end.min(at.saturating_add(CHUNK as u64));
            let part = reader.read(Span { start: at, end }, CHUNK as u64)?;
            self.append(&part)?;
            at = end;
        }
        Ok(())
    }

    /// An integer in as many bytes as the dtype has; what does not fit is an error.
    fn integer(&mut self, n: u64, at: u64) -> Result<()> {
        let signed = n as i64;
        if !fits(self.data.dtype, n) {
            let message = format!(
                "tensor {}: {signed} is no value of {}",
                self.data.name,
                self.data.dtype.as_str()
            );
            return Err(Error::malformed("onnx.typed-value", message)
                .at(at)
                .in_file(self.data.source.name()));
        }
        if self.data.dtype.bits() == Some(6) {
            return self.six(n);
        }
        let bytes = n.to_le_bytes();
        let width = self.data.dtype.bytes().unwrap_or(1) as usize;
        self.put(bytes.get(..width).unwrap_or(&bytes))
    }

    /// Six bits, the first element in the lowest bits of the first byte.
    fn six(&mut self, n: u64) -> Result<()> {
        let (bits, count) = self.held;
        let (bits, count) = (bits | n << count, count + 6);
        match count >= 8 {
            true => {
                self.held = (bits >> 8, count - 8);
                self.put(&[bits as u8])
            }
            false => {
                self.held = (bits, count);
                self.put(&[])
            }
        }
    }

    fn put(&mut self, value: &[u8]) -> Result<()> {
        self.values = self.values.saturating_add(1);
        if self.values > self.data.values {
            return Err(self.wrong());
        }
        self.append(value)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            (self.sink)(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn wrong(&self) -> Error {
        let message = format!(
            "tensor {}: the dimensions need {} values, the tensor has {}",
            self.data.name,
            self.data.values,
            if self.values > self.data.values {
                "more".to_owned()
            } else {
                self.values.to_string()
            },
        );
        Error::malformed("onnx.tensor-size", message)
            .at(self.data.at)
            .in_file(self.data.source.name())
    }

    fn finish(mut self) -> Result<()> {
        if self.values != self.data.values {
            return Err(self.wrong());
        }
        if self.held.1 > 0 {
            self.buffer.push(self.held.0 as u8);
        }
        match self.buffer.is_empty() {
            true => Ok(()),
            false => (self.sink)(&self.buffer),
        }
    }
}

/// Whether the integer `n` of a typed field is a value of `dtype`.
pub(super) fn fits(dtype: DType, n: u64) -> bool {
    let signed = n as i64;
    match dtype {
        DType::I8 => i8::try_from(signed).is_ok(),
        DType::I16 => i16::try_from(signed).is_ok(),
        DType::I32 => i32::try_from(signed).is_ok(),
        DType::U16 | DType::F16 | DType::BF16 => u16::try_from(n).is_ok(),
        DType::U32 => u32::try_from(n).is_ok(),
        DType::I64 | DType::U64 => true,
        DType::Bool => n <= 1,
        DType::F6_E2M3 | DType::F6_E3M2 => n < 64,
        _ => u8::try_from(n).is_ok(),
    }
}

/// Values that cannot be read, and why.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub why: Refusal,
    pub name: String,
    pub file: String,
}

impl Compute for Unreadable {
    fn stream(&self, _: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let e = self.why.error().within(format!("tensor {}", self.name));
        Err(e.in_file(self.file.as_str()))
    }
}

/// How many values of its typed field a tensor of `elements` has.
pub(super) fn values_of(dtype: DType, elements: u64) -> Option<u64> {
    let (_, per_element, per_value) = types::typed_field(dtype)?;
    elements
        .checked_mul(per_element)
        .map(|n| n.div_ceil(per_value))
}

/// Coordinates of a sparse tensor that the file gives as positions in the flattened whole, or as
/// rows of coordinates; as columns, one row a dimension.
#[derive(Debug)]
pub(super) struct Coordinates {
    pub indices: weighbridge_core::model::Tensor,
    /// The dimensions of the whole.
    pub dims: Vec<u64>,
    pub linear: bool,
}

impl Compute for Coordinates {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = self.indices.bytes()?;
        let (words, _) = bytes.as_chunks::<8>();
        let rank = self.dims.len();
        let mut out = Vec::with_capacity(CHUNK);
        for axis in 0..rank {
            let after = self.dims.iter().skip(axis + 1);
            let stride = after.fold(1u64, |n, &d| n.saturating_mul(d)).max(1);
            let extent = self.dims.get(axis).copied().unwrap_or(1).max(1);
            let step = if self.linear { 1 } else { rank };
            let skip = if self.linear { 0 } else { axis };
            for w in words.iter().skip(skip).step_by(step) {
                let n = u64::from_le_bytes(*w);
                let at = if self.linear { n / stride % extent } else { n };
                out.extend_from_slice(&at.to_le_bytes());
                if out.len() >= CHUNK {
                    sink(&out)?;
                    out.clear();
                }
            }
        }
        match out.is_empty() {
            true => Ok(()),
            false => sink(&out),
        }
    }
}
