//! Tensors, dense and sparse: what they say of themselves, and where their values lie.

use weighbridge_core::Result;
use weighbridge_core::wire::protobuf::{Field, Message, Span, Value};

use super::Parser;
use crate::format::onnx::raw::{Sparse, Tensor, Typed};

impl Parser<'_> {
    pub(super) fn tensor(&mut self, f: &Field, all: &mut Vec<Tensor>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Tensor::default();
        self.tensor_in(span, &mut out)?;
        self.push(all, out, f.at)
    }

    pub(super) fn tensor_in(&mut self, span: Span, out: &mut Tensor) -> Result<()> {
        out.span = span;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => self.dims(&f, &mut out.dims)?,
                2 => out.data_type = self.varint(&f).unwrap_or_default(),
                3 => out.segment = self.bytes(&f),
                4..=7 | 10 | 11 => self.typed(&f, message.at(), &mut out.typed)?,
                8 => out.name = self.text(&f)?,
                9 => out.raw = self.bytes(&f),
                12 => out.doc_string = self.bytes(&f),
                13 => self.entry(&f, &mut out.external)?,
                14 => out.location = self.varint(&f),
                16 => self.entry(&f, &mut out.metadata)?,
                _ => self.push(&mut out.unknown, f, f.at)?,
            }
        }
        Ok(())
    }

    fn dims(&mut self, f: &Field, dims: &mut Vec<i64>) -> Result<()> {
        self.charge(f.bytes().map_or(1, Span::len).saturating_mul(8), f.at)?;
        self.reader.varints(f, &mut |n| {
            dims.push(n as i64);
            Ok(())
        })
    }

    /// A typed value or a packed run of them; unpacked ones behind each other become one run.
    fn typed(&mut self, f: &Field, end: u64, all: &mut Vec<Typed>) -> Result<()> {
        let width = match f.number {
            4 => Some(4),
            10 => Some(8),
            _ => None,
        };
        let packed = match (f.number, f.value) {
            (6, Value::Bytes(_)) => None,
            (_, Value::Bytes(s)) => Some(s),
            (4, Value::Fixed32(_)) | (10, Value::Fixed64(_)) => None,
            (5 | 7 | 11, Value::Varint(_)) => None,
            _ => {
                self.wire(f);
                return Ok(());
            }
        };
        if let Some(span) = packed {
            if width.is_some_and(|w| !span.len().is_multiple_of(w)) {
                self.fault(
                    "onnx.packed",
                    "packed values end in the middle of one",
                    f.at,
                );
            }
            let run = Typed {
                number: f.number,
                span,
                packed: true,
                count: width
                    .map(|w| span.len() / w)
                    .or((span.is_empty()).then_some(0)),
            };
            return self.push(all, run, f.at);
        }
        if let Some(run) = all.last_mut()
            && !run.packed
            && run.number == f.number
            && run.span.end == f.at
        {
            run.span.end = end;
            run.count = run.count.map(|n| n.saturating_add(1));
            return Ok(());
        }
        let run = Typed {
            number: f.number,
            span: Span { start: f.at, end },
            packed: false,
            count: Some(1),
        };
        self.push(all, run, f.at)
    }

    pub(super) fn sparse(&mut self, f: &Field, all: &mut Vec<Sparse>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Sparse::default();
        self.sparse_in(span, &mut out)?;
        self.push(all, out, f.at)
    }

    pub(super) fn sparse_in(&mut self, span: Span, out: &mut Sparse) -> Result<()> {
        out.span = span;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(s)) => self.tensor_in(s, &mut out.values)?,
                (2, Some(s)) => self.tensor_in(s, &mut out.indices)?,
                (3, _) => self.dims(&f, &mut out.dims)?,
                _ => {}
            }
        }
        Ok(())
    }
}
