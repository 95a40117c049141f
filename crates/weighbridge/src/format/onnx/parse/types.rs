//! Types of values.

use weighbridge_core::wire::protobuf::{Field, Message, Span, Value};
use weighbridge_core::{Error, Result};

use super::{MOST_DEEP, MOST_NAME, Parser};
use crate::format::onnx::raw::{Dimension, Type, TypeValue, ValueInfo};

impl Parser<'_> {
    pub(super) fn value_info(&mut self, f: &Field, all: &mut Vec<ValueInfo>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = ValueInfo {
            span,
            ..ValueInfo::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => out.name = self.text(&f)?.unwrap_or_default(),
                2 => {
                    if let Some(s) = self.bytes(&f) {
                        out.kind = Some(self.kind(s, 0)?);
                    }
                }
                3 => out.doc_string = self.bytes(&f),
                4 => self.entry(&f, &mut out.metadata)?,
                _ => {}
            }
        }
        self.push(all, out, f.at)
    }

    pub(super) fn kind(&mut self, span: Span, depth: u32) -> Result<Type> {
        if depth > MOST_DEEP {
            let message = format!("types lie in each other more than {MOST_DEEP} deep");
            return Err(Error::limit("onnx.depth", message).at(span.start));
        }
        let mut out = Type {
            span,
            ..Type::default()
        };
        self.charge(size_of::<Type>() as u64, span.start)?;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Some(inner) = self.bytes(&f) else {
                continue;
            };
            let deeper = depth.saturating_add(1);
            match f.number {
                1 => {
                    let (element, shape) = self.tensor_type(inner)?;
                    out.value = TypeValue::Tensor(element, shape);
                }
                8 => {
                    let (element, shape) = self.tensor_type(inner)?;
                    out.value = TypeValue::SparseTensor(element, shape);
                }
                4 => out.value = TypeValue::Sequence(self.inner(inner, 1, deeper)?.1),
                9 => out.value = TypeValue::Optional(self.inner(inner, 1, deeper)?.1),
                5 => {
                    let (key, value) = self.inner(inner, 2, deeper)?;
                    out.value = TypeValue::Map(key, value);
                }
                6 => out.denotation = Some(self.text_in(inner, MOST_NAME)?),
                7 => out.value = self.opaque(inner)?,
                _ => {}
            }
        }
        Ok(out)
    }

    /// The type in field `number` of a sequence, an optional or a map, whose field 1 is a number
    /// then.
    fn inner(&mut self, span: Span, number: u32, depth: u32) -> Result<(i64, Option<Box<Type>>)> {
        let (mut key, mut value) = (0, None);
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.value {
                Value::Bytes(s) if f.number == number => {
                    value = Some(Box::new(self.kind(s, depth)?));
                }
                Value::Varint(n) if f.number == 1 => key = n as i64,
                _ => {}
            }
        }
        Ok((key, value))
    }

    fn opaque(&mut self, span: Span) -> Result<TypeValue> {
        let (mut domain, mut name) = (String::new(), String::new());
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => domain = self.text(&f)?.unwrap_or_default().text,
                2 => name = self.text(&f)?.unwrap_or_default().text,
                _ => {}
            }
        }
        Ok(TypeValue::Opaque(domain, name))
    }

    fn tensor_type(&mut self, span: Span) -> Result<(i64, Option<Vec<Dimension>>)> {
        let (mut element, mut shape) = (0, None);
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, _) => element = self.varint(&f).unwrap_or_default(),
                (2, Some(s)) => self.shape(s, shape.get_or_insert_default())?,
                _ => {}
            }
        }
        Ok((element, shape))
    }

    fn shape(&mut self, span: Span, out: &mut Vec<Dimension>) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let (1, Some(inner)) = (f.number, f.bytes()) else {
                continue;
            };
            let mut dim = Dimension {
                span: inner,
                ..Dimension::default()
            };
            let mut message = Message::new(inner);
            while let Some(f) = self.reader.next(&mut message)? {
                match f.number {
                    1 => dim.value = self.varint(&f),
                    2 => dim.symbol = self.text(&f)?,
                    _ => {}
                }
            }
            self.push(out, dim, f.at)?;
        }
        Ok(())
    }
}
