//! Messages that every kind of TensorFlow's files has: shapes, tensors, slices.

use std::sync::{Arc, OnceLock};

use weighbridge_core::model::{Compute, DType, Shape, Storage, Tensor, TensorSource, View};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span, Value};
use weighbridge_core::{Error, Limits, Result};

use super::types::{self, Kind};

/// Most dimensions of a tensor (`TensorShape::MaxDimensions`).
pub(super) const MOST_DIMS: usize = 254;

/// Longest name that is read.
pub(super) const NAME: u64 = 1 << 20;

/// Bytes handed on at a time, a multiple of every element's size.
const CHUNK: usize = 64 << 10;

/// The dimensions of a `TensorShapeProto`, −1 for unknown ones; nothing where not even their
/// number is known.
///
/// # Errors
/// What reading gives, `Malformed` for more dimensions than TensorFlow has.
pub(super) fn shape(reader: &mut Reader<'_>, span: Span) -> Result<Option<Vec<i64>>> {
    let mut dims = Vec::new();
    let mut unknown = false;
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.value) {
            (2, Value::Bytes(dim)) => {
                let mut size = 0;
                let mut inner = Message::new(dim);
                while let Some(f) = reader.next(&mut inner)? {
                    if let (1, Some(n)) = (f.number, f.varint()) {
                        size = n as i64;
                    }
                }
                dims.push(size);
            }
            (3, Value::Varint(n)) => unknown = n != 0,
            _ => {}
        }
        if dims.len() > MOST_DIMS {
            let message = "a shape has more dimensions than TensorFlow knows";
            return Err(Error::malformed("tensorflow.shape", message).at(f.at));
        }
    }
    Ok((!unknown).then_some(dims))
}

/// Refuses tensors that take far more bytes than `stored` justify: one value may stand for many.
///
/// # Errors
/// `Limit`.
pub(super) fn check_expansion(tensors: &[Tensor], limits: &Limits, stored: u64) -> Result<()> {
    let sizes = tensors
        .iter()
        .filter(|t| t.has_data())
        .map(Tensor::byte_len);
    within_cap(sizes.fold(0u64, u64::saturating_add), limits, stored)
}

/// Refuses `total` bytes of tensors where `stored` do not justify as many: places may overlap.
///
/// # Errors
/// `Limit`.
pub(super) fn within_cap(total: u64, limits: &Limits, stored: u64) -> Result<()> {
    let cap = limits.expand_cap(stored);
    Limits::check(total, cap, "tensorflow.expansion", "bytes of all tensors")
        .map_err(|e| e.help("raise the cap with --max-expand SIZE if you trust the origin"))
}

/// The extents of a shape that has to be known.
pub(super) fn extents(dims: Option<&[i64]>, at: u64) -> Result<Shape> {
    let known = dims.map(|d| d.iter().map(|&n| u64::try_from(n).ok()).collect());
    known.flatten().ok_or_else(|| {
        let message = "a tensor's shape is not known in full";
        Error::malformed("tensorflow.shape", message).at(at)
    })
}

/// Bytes among which tensors lie, and the storage that they view.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub source: Arc<dyn ByteSource>,
    pub storage: Arc<Storage>,
    /// Where in the source the storage begins.
    pub base: u64,
}

/// A `TensorProto` as it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Proto {
    pub span: Span,
    pub dtype: u64,
    pub dims: Option<Vec<i64>>,
    content: Option<Span>,
    /// The one packed record of the values, where there is one and nothing else.
    packed: Option<(u32, Span)>,
    records: u64,
}

impl Proto {
    /// A message without fields, which would stand at `at`.
    pub(super) fn none(at: u64) -> Self {
        Self {
            span: Span { start: at, end: at },
            dims: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Reads the message in `span`, without its values.
    ///
    /// # Errors
    /// What reading gives.
    pub(super) fn read(reader: &mut Reader<'_>, span: Span) -> Result<Self> {
        let mut out = Self {
            span,
            dims: Some(Vec::new()),
            ..Self::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = reader.next(&mut message)? {
            match (f.number, f.value) {
                (1, Value::Varint(n)) => out.dtype = n,
                (2, Value::Bytes(s)) => out.dims = shape(reader, s)?,
                (4, Value::Bytes(s)) if !s.is_empty() => out.content = Some(s),
                (5..=13 | 16..=18, value) => {
                    out.records = out.records.saturating_add(1);
                    out.packed = match value {
                        Value::Bytes(s) if out.records == 1 => Some((f.number, s)),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        Ok(out)
    }

    /// The tensor, called `name`, with the dtype and shape that it says itself.
    ///
    /// # Errors
    /// `Malformed` when they cannot be.
    pub(super) fn tensor(&self, name: &str, home: &Home) -> Result<Tensor> {
        let kind = types::kind(self.dtype).ok_or_else(|| {
            let message = format!("{} is no dtype of TensorFlow", self.dtype);
            Error::malformed("tensorflow.dtype", message).at(self.span.start)
        })?;
        let shape = extents(self.dims.as_deref(), self.span.start)?;
        self.values(name, kind, shape, home)
    }

    /// The tensor with a dtype and a shape that were told elsewhere.
    ///
    /// # Errors
    /// `Malformed` when the values do not fit them.
    pub(super) fn values(
        &self,
        name: &str,
        kind: &Kind,
        shape: Shape,
        home: &Home,
    ) -> Result<Tensor> {
        let at = self.span.start;
        let fault = |rule, m: String| Error::malformed(rule, m).at(at).within(name);
        let mut tensor = Tensor::new(name, kind.dtype, &shape, TensorSource::Absent);
        types::mark(&mut tensor, kind);
        if kind.dtype == DType::Compound {
            return Ok(tensor);
        }
        let elements = tensor.numel();
        let elements = elements.ok_or_else(|| {
            let message = "its size does not fit 64 bits".to_owned();
            fault("tensorflow.shape", message)
        })?;
        if kind.dtype != DType::Str {
            let bytes = kind.dtype.size_of(&shape).ok_or_else(|| {
                let message = "its size does not fit 64 bits".to_owned();
                fault("tensorflow.shape", message)
            })?;
            if let Some(span) = self.content
                && span.len() != bytes
            {
                let message = format!("{} bytes of values, the shape needs {bytes}", span.len());
                return Err(fault("tensorflow.tensor-size", message));
            }
            let lies = self.content.or_else(|| self.as_bytes(kind, bytes));
            if let Some(span) = lies {
                tensor.source = TensorSource::View(View {
                    storage: Arc::clone(&home.storage),
                    offset: span.start.saturating_sub(home.base),
                });
                return Ok(tensor);
            }
        }
        tensor.source = TensorSource::Computed(Arc::new(Values {
            home: home.clone(),
            span: self.span,
            content: self.content,
            kind: *kind,
            elements,
            bytes: OnceLock::new(),
        }));
        Ok(tensor)
    }

    /// Where the values lie just as a tensor's bytes: packed numbers of fixed width.
    fn as_bytes(&self, kind: &Kind, bytes: u64) -> Option<Span> {
        let (number, span) = self.packed?;
        let fixed = matches!(number, 5 | 6 | 9 | 12 | 18);
        (fixed && number == kind.field && span.len() == bytes).then_some(span)
    }

    /// How many bytes the values take in the message, as far as that bounds them.
    pub(super) fn stored(&self) -> u64 {
        self.span.len()
    }
}

/// Values of a `TensorProto` that stand in typed fields. Where there are fewer than the shape
/// needs, the last one goes on to its end; where there are none, all are zero (`tensor.proto`).
#[derive(Debug)]
struct Values {
    home: Home,
    span: Span,
    /// Texts in `tensor_content`.
    content: Option<Span>,
    kind: Kind,
    elements: u64,
    bytes: OnceLock<Option<u64>>,
}

impl Compute for Values {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.home.storage.verify()?;
        let mut out = Out {
            buffer: Vec::with_capacity(CHUNK),
            last: Vec::new(),
            left: self.elements,
            sink,
        };
        let name = self.home.source.name();
        self.each(&mut |v| out.put(v))
            .map_err(|e| e.in_file(name))?;
        if out.last.is_empty() {
            let zero = match self.kind.dtype {
                DType::Str => 8,
                d => d.bytes().unwrap_or(1) as usize,
            };
            out.last = vec![0; zero];
        }
        out.finish()
    }

    fn byte_len(&self) -> Option<u64> {
        *self.bytes.get_or_init(|| {
            let (mut n, mut left, mut last) = (0u64, self.elements, 8u64);
            self.lengths(&mut |len| {
                if left > 0 {
                    last = len.saturating_add(8);
                    n = n.saturating_add(last);
                    left -= 1;
                }
            })
            .ok()?;
            n.checked_add(last.checked_mul(left)?)
        })
    }
}

impl Values {
    /// Gives the bytes of every value that stands there.
    fn each(&self, give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut reader = Reader::new(self.home.source.as_ref(), u64::MAX);
        if let Some(content) = self.content {
            return self.packed_texts(&reader, content, give);
        }
        let width = self.kind.dtype.bytes().unwrap_or(1) as usize;
        let mut pair: Vec<u8> = Vec::new();
        let mut message = Message::new(self.span);
        while let Some(f) = reader.next(&mut message)? {
            if f.number != self.kind.field {
                continue;
            }
            match self.kind.field {
                // A complex number is two of them.
                5 | 9 => reader.fixed32s(&f, &mut |n| {
                    pair.extend_from_slice(&n.to_le_bytes());
                    whole(&mut pair, width, give)
                })?,
                6 | 12 => self.doubles(&reader, &f, &mut pair, give)?,
                8 => {
                    if let Some(text) = f.bytes() {
                        give(&text_of(&reader, text)?)?;
                    }
                }
                18 => {
                    if let Some(all) = f.bytes() {
                        in_pieces(&reader, all, &mut |part| {
                            part.iter().try_for_each(|b| give(&[*b]))
                        })?;
                    }
                }
                11 => reader.varints(&f, &mut |n| give(&[u8::from(n != 0)]))?,
                _ => reader.varints(&f, &mut |n| {
                    let n = match width {
                        1 => n & u64::from(types::mask(&self.kind)),
                        _ => n,
                    };
                    give(n.to_le_bytes().get(..width).unwrap_or_default())
                })?,
            }
        }
        Ok(())
    }

    fn doubles(
        &self,
        reader: &Reader<'_>,
        f: &Field,
        pair: &mut Vec<u8>,
        give: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let width = self.kind.dtype.bytes().unwrap_or(8) as usize;
        match f.value {
            Value::Fixed64(n) => {
                pair.extend_from_slice(&n.to_le_bytes());
                whole(pair, width, give)
            }
            Value::Bytes(all) => in_pieces(reader, all, &mut |part| {
                part.chunks(8).try_for_each(|n| {
                    pair.extend_from_slice(n);
                    whole(pair, width, give)
                })
            }),
            _ => Ok(()),
        }
    }

    /// Texts in `tensor_content`: the lengths of all as varints, then their bytes
    /// (`port::DecodeStringList`).
    fn packed_texts(
        &self,
        reader: &Reader<'_>,
        content: Span,
        give: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut lengths = super::texts::Lengths::new(self.home.source.as_ref(), content);
        let mut skip = lengths.clone();
        for _ in 0..self.elements {
            skip.next()?;
        }
        let mut at = skip.at();
        for _ in 0..self.elements {
            let n = lengths.next()?;
            let end = at.checked_add(n).filter(|&e| e <= content.end);
            let end = end.ok_or_else(|| {
                let message = "a text passes the end of its tensor";
                Error::malformed("tensorflow.text", message).at(at)
            })?;
            give(&text_of(reader, Span { start: at, end })?)?;
            at = end;
        }
        Ok(())
    }

    /// Gives the length of every text.
    fn lengths(&self, give: &mut dyn FnMut(u64)) -> Result<()> {
        if let Some(content) = self.content {
            let mut lengths = super::texts::Lengths::new(self.home.source.as_ref(), content);
            for _ in 0..self.elements {
                give(lengths.next()?);
            }
            return Ok(());
        }
        let mut reader = Reader::new(self.home.source.as_ref(), u64::MAX);
        let mut message = Message::new(self.span);
        while let Some(f) = reader.next(&mut message)? {
            if let (8, Some(text)) = (f.number, f.bytes()) {
                give(text.len());
            }
        }
        Ok(())
    }
}

/// A text as a stream of values has it: its length, then its bytes.
fn text_of(reader: &Reader<'_>, span: Span) -> Result<Vec<u8>> {
    let mut out = span.len().to_le_bytes().to_vec();
    out.extend(reader.read(span, u64::MAX)?);
    Ok(out)
}

/// Hands on what is as long as an element.
fn whole(
    pair: &mut Vec<u8>,
    width: usize,
    give: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if pair.len() >= width {
        give(pair)?;
        pair.clear();
    }
    Ok(())
}

fn in_pieces(
    reader: &Reader<'_>,
    span: Span,
    give: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut at = span.start;
    while at < span.end {
        let end = span.end.min(at.saturating_add(CHUNK as u64));
        give(&reader.read(Span { start: at, end }, CHUNK as u64)?)?;
        at = end;
    }
    Ok(())
}

/// Values on their way out; `last` repeats.
struct Out<'o> {
    buffer: Vec<u8>,
    last: Vec<u8>,
    left: u64,
    sink: &'o mut dyn FnMut(&[u8]) -> Result<()>,
}

impl Out<'_> {
    /// Values beyond the last element are passed over, as TensorFlow does.
    fn put(&mut self, value: &[u8]) -> Result<()> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(());
        };
        self.left = left;
        if left > 0 {
            self.last.clear();
            self.last.extend_from_slice(value);
        }
        self.append(value)
    }

    fn append(&mut self, value: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(value);
        if self.buffer.len() >= CHUNK {
            (self.sink)(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let last = std::mem::take(&mut self.last);
        // As much at a time as is handed on together.
        let many = (CHUNK / last.len().max(1)).max(1) as u64;
        let block = last.repeat(many.min(self.left) as usize);
        while self.left >= many {
            self.append(&block)?;
            self.left -= many;
        }
        for _ in 0..self.left {
            self.append(&last)?;
        }
        match self.buffer.is_empty() {
            true => Ok(()),
            false => (self.sink)(&self.buffer),
        }
    }
}
