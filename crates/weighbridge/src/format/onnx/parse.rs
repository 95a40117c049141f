//! From fields to messages: one walk over the structure, with weights stepped over.
//!
//! A singular message field that stands several times is merged and a scalar's last value counts,
//! as protobuf has it.

mod tensors;
mod types;

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span, Value};
use weighbridge_core::{Error, Limits, Result};

use super::raw::{
    Annotation, Attribute, Entry, Function, Graph, Model, Node, Opset, Sparse, Tensor, Text,
    Training, Type,
};

/// Deepest nesting of graphs, and of types: protobuf's own readers stop at 100 messages, of which
/// every graph in a graph takes three.
const MOST_DEEP: u32 = 48;

/// Longest name, in bytes; metadata values may be longer.
const MOST_NAME: u64 = 1 << 16;
const MOST_TEXT: u64 = 64 << 20;

/// What the structure may take in memory: so much for any file, and so much for each byte of it.
/// Real nodes take about ten bytes for each of theirs; empty ones two hundred.
const SPARE_BYTES: u64 = 32 << 20;
const BYTES_PER_BYTE: u64 = 16;

/// Most faults that are kept.
const MOST_FAULTS: usize = 1000;

/// A model as its fields stand, and what is wrong with them that does not stop a reader.
#[derive(Debug)]
pub struct Parsed {
    /// The model.
    pub model: Model,
    /// Texts that are no UTF-8 and fields of another wire type than theirs.
    pub faults: Vec<Error>,
}

/// Reads the structure of the model that fills `source`.
///
/// # Errors
/// `Malformed` and `Truncated` for what is no protobuf, `Limit` for what is too deep or would take
/// memory out of proportion to the file, `Io`.
pub fn parse(source: &dyn ByteSource, limits: &Limits) -> Result<Parsed> {
    let allowed = source.len().saturating_mul(BYTES_PER_BYTE);
    let mut parser = Parser {
        reader: Reader::new(source, limits.values),
        left: SPARE_BYTES.saturating_add(allowed),
        faults: Vec::new(),
    };
    let model = parser.model(Span::of(source))?;
    Ok(Parsed {
        model,
        faults: parser.faults,
    })
}

struct Parser<'s> {
    reader: Reader<'s>,
    /// Memory that may still be taken.
    left: u64,
    faults: Vec<Error>,
}

impl Parser<'_> {
    /// Accounts for what is about to be kept.
    fn charge(&mut self, bytes: u64, at: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            let message = "the structure takes far more memory than the file is long";
            Error::limit("onnx.memory", message).at(at)
        })?;
        self.left = left;
        Ok(())
    }

    /// Keeps one more of `all`.
    fn push<T>(&mut self, all: &mut Vec<T>, one: T, at: u64) -> Result<()> {
        self.charge(size_of::<T>() as u64, at)?;
        all.push(one);
        Ok(())
    }

    fn fault(&mut self, rule: &'static str, message: impl Into<String>, at: u64) {
        if self.faults.len() < MOST_FAULTS {
            let e = Error::malformed(rule, message).at(at);
            self.faults.push(e);
        }
    }

    /// The bytes of a field that has to be length-delimited.
    fn bytes(&mut self, f: &Field) -> Option<Span> {
        let span = f.bytes();
        if span.is_none() {
            self.wire(f);
        }
        span
    }

    fn varint(&mut self, f: &Field) -> Option<i64> {
        let n = f.varint();
        if n.is_none() {
            self.wire(f);
        }
        // int32, int64 and enums are two's complement.
        n.map(|n| n as i64)
    }

    /// A field of another wire type than its own: readers take it for an unknown one.
    fn wire(&mut self, f: &Field) {
        let message = format!("field {} has another wire type than its own", f.number);
        self.fault("onnx.wire-type", message, f.at);
    }

    fn text_in(&mut self, span: Span, most: u64) -> Result<Text> {
        if span.len() > most {
            let message = format!("a text of {} bytes is over the limit of {most}", span.len());
            return Err(Error::limit("onnx.text", message).at(span.start));
        }
        self.charge(span.len(), span.start)?;
        let bytes = self.reader.read(span, most)?;
        let text = String::from_utf8(bytes).unwrap_or_else(|e| {
            self.fault("onnx.utf8", "a text is no UTF-8", span.start);
            String::from_utf8_lossy(e.as_bytes()).into_owned()
        });
        Ok(Text { text, span })
    }

    fn text(&mut self, f: &Field) -> Result<Option<Text>> {
        match self.bytes(f) {
            Some(span) => self.text_in(span, MOST_NAME).map(Some),
            None => Ok(None),
        }
    }

    fn texts(&mut self, f: &Field, all: &mut Vec<Text>) -> Result<()> {
        match self.text(f)? {
            Some(t) => self.push(all, t, f.at),
            None => Ok(()),
        }
    }

    fn entry(&mut self, f: &Field, all: &mut Vec<Entry>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Entry {
            span,
            ..Entry::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, self.bytes(&f)) {
                (1, Some(s)) => out.key = self.text_in(s, MOST_NAME)?,
                (2, Some(s)) => out.value = self.text_in(s, MOST_TEXT)?,
                _ => {}
            }
        }
        self.push(all, out, f.at)
    }

    fn opset(&mut self, f: &Field, all: &mut Vec<Opset>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Opset {
            span,
            ..Opset::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => out.domain = self.text(&f)?.unwrap_or_default().text,
                2 => out.version = self.varint(&f).unwrap_or_default(),
                _ => {}
            }
        }
        self.push(all, out, f.at)
    }

    fn model(&mut self, span: Span) -> Result<Model> {
        let mut out = Model::default();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => out.ir_version = self.varint(&f),
                2 => out.producer_name = self.text(&f)?,
                3 => out.producer_version = self.text(&f)?,
                4 => out.domain = self.text(&f)?,
                5 => out.model_version = self.varint(&f),
                6 => out.doc_string = self.bytes(&f),
                7 => {
                    if let Some(span) = self.bytes(&f) {
                        let graph = out.graph.get_or_insert_default();
                        self.graph(span, graph, 0).map_err(|e| e.within("graph"))?;
                    }
                }
                8 => self.opset(&f, &mut out.opsets)?,
                14 => self.entry(&f, &mut out.metadata)?,
                20 => self.training(&f, &mut out.training)?,
                25 => self.function(&f, &mut out.functions)?,
                // Configurations of devices, which only their runtime reads.
                26 => {}
                _ => self.push(&mut out.unknown, f, f.at)?,
            }
        }
        Ok(out)
    }

    fn training(&mut self, f: &Field, all: &mut Vec<Training>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Training {
            span,
            ..Training::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(s)) => {
                    self.graph(s, out.initialization.get_or_insert_default(), 0)?;
                }
                (2, Some(s)) => self.graph(s, out.algorithm.get_or_insert_default(), 0)?,
                (3, _) => self.entry(&f, &mut out.initialization_binding)?,
                (4, _) => self.entry(&f, &mut out.update_binding)?,
                _ => {}
            }
        }
        self.push(all, out, f.at)
    }

    fn function(&mut self, f: &Field, all: &mut Vec<Function>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Function {
            span,
            ..Function::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => out.name = self.text(&f)?.unwrap_or_default(),
                4 => self.texts(&f, &mut out.inputs)?,
                5 => self.texts(&f, &mut out.outputs)?,
                6 => self.texts(&f, &mut out.attributes)?,
                7 => self.node(&f, &mut out.nodes, 0)?,
                8 => out.doc_string = self.bytes(&f),
                9 => self.opset(&f, &mut out.opsets)?,
                10 => out.domain = self.text(&f)?,
                11 => self.attribute(&f, &mut out.defaults, 0)?,
                12 => self.value_info(&f, &mut out.values)?,
                13 => out.overload = self.text(&f)?,
                14 => self.entry(&f, &mut out.metadata)?,
                _ => self.push(&mut out.unknown, f, f.at)?,
            }
        }
        self.push(all, out, f.at)
    }

    fn graph(&mut self, span: Span, out: &mut Graph, depth: u32) -> Result<()> {
        if depth > MOST_DEEP {
            let message = format!("graphs lie in each other more than {MOST_DEEP} deep");
            return Err(Error::limit("onnx.depth", message).at(span.start));
        }
        out.spans.push(span);
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => self.node(&f, &mut out.nodes, depth)?,
                2 => out.name = self.text(&f)?,
                5 => self.tensor(&f, &mut out.initializers)?,
                10 => out.doc_string = self.bytes(&f),
                11 => self.value_info(&f, &mut out.inputs)?,
                12 => self.value_info(&f, &mut out.outputs)?,
                13 => self.value_info(&f, &mut out.values)?,
                14 => self.annotation(&f, &mut out.quantization)?,
                15 => self.sparse(&f, &mut out.sparse_initializers)?,
                16 => self.entry(&f, &mut out.metadata)?,
                _ => self.push(&mut out.unknown, f, f.at)?,
            }
        }
        Ok(())
    }

    fn node(&mut self, f: &Field, all: &mut Vec<Node>, depth: u32) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Node {
            span,
            ..Node::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => self.texts(&f, &mut out.inputs)?,
                2 => self.texts(&f, &mut out.outputs)?,
                3 => out.name = self.text(&f)?,
                4 => out.operator = self.text(&f)?.unwrap_or_default(),
                5 => self
                    .attribute(&f, &mut out.attributes, depth)
                    .map_err(|e| step(e, depth, || out.title()))?,
                6 => out.doc_string = self.bytes(&f),
                7 => out.domain = self.text(&f)?,
                8 => out.overload = self.text(&f)?,
                9 => self.entry(&f, &mut out.metadata)?,
                10 => {
                    if let Some(s) = self.bytes(&f) {
                        self.push(&mut out.devices, s, f.at)?;
                    }
                }
                _ => self.push(&mut out.unknown, f, f.at)?,
            }
        }
        self.push(all, out, f.at)
    }

    fn attribute(&mut self, f: &Field, all: &mut Vec<Attribute>, depth: u32) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Attribute {
            span,
            ..Attribute::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => out.name = self.text(&f)?.unwrap_or_default(),
                2..=4 | 7..=9 | 13 | 20 | 21 => self.plain(&f, &mut out)?,
                6 => {
                    if let Some(s) = self.bytes(&f) {
                        self.charge(size_of::<Graph>() as u64, f.at)?;
                        let graph = out.g.get_or_insert_default();
                        self.graph(s, graph, depth.saturating_add(1))?;
                    }
                }
                5 | 10 | 22 | 23 => self.tensors(&f, &mut out)?,
                11 => {
                    if let Some(s) = self.bytes(&f) {
                        let mut graph = Graph::default();
                        self.graph(s, &mut graph, depth.saturating_add(1))?;
                        self.push(&mut out.graphs, graph, f.at)?;
                    }
                }
                14 | 15 => self.types(&f, &mut out)?,
                _ => self.push(&mut out.unknown, f, f.at)?,
            }
        }
        self.push(all, out, f.at)
    }

    /// Numbers and texts of an attribute.
    fn plain(&mut self, f: &Field, out: &mut Attribute) -> Result<()> {
        match (f.number, f.value) {
            (2, Value::Fixed32(n)) => out.f = Some(f32::from_bits(n)),
            (3, _) => out.i = self.varint(f),
            (4, _) => out.s = self.bytes(f),
            (7, Value::Fixed32(_) | Value::Bytes(_)) => {
                self.charge(f.bytes().map_or(4, Span::len), f.at)?;
                let all = &mut out.floats;
                self.reader.fixed32s(f, &mut |n| {
                    all.push(f32::from_bits(n));
                    Ok(())
                })?;
            }
            (8, Value::Varint(_) | Value::Bytes(_)) => {
                self.charge(f.bytes().map_or(1, Span::len).saturating_mul(8), f.at)?;
                let all = &mut out.ints;
                self.reader.varints(f, &mut |n| {
                    all.push(n as i64);
                    Ok(())
                })?;
            }
            (9, Value::Bytes(s)) => self.push(&mut out.strings, s, f.at)?,
            (13, Value::Bytes(s)) => out.doc_string = Some(s),
            (20, _) => out.kind = self.varint(f),
            (21, _) => out.reference = self.text(f)?,
            _ => self.wire(f),
        }
        Ok(())
    }

    fn tensors(&mut self, f: &Field, out: &mut Attribute) -> Result<()> {
        match f.number {
            5 => {
                self.charge(size_of::<Tensor>() as u64, f.at)?;
                if let Some(span) = self.bytes(f) {
                    self.tensor_in(span, out.t.get_or_insert_default())?;
                }
                Ok(())
            }
            10 => self.tensor(f, &mut out.tensors),
            22 => {
                self.charge(size_of::<Sparse>() as u64, f.at)?;
                if let Some(span) = self.bytes(f) {
                    self.sparse_in(span, out.sparse.get_or_insert_default())?;
                }
                Ok(())
            }
            _ => self.sparse(f, &mut out.sparses),
        }
    }

    fn types(&mut self, f: &Field, out: &mut Attribute) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let kind = self.kind(span, 0)?;
        if f.number == 14 {
            self.charge(size_of::<Type>() as u64, f.at)?;
            out.tp = Some(Box::new(kind));
            return Ok(());
        }
        self.push(&mut out.types, kind, f.at)
    }

    fn annotation(&mut self, f: &Field, all: &mut Vec<Annotation>) -> Result<()> {
        let Some(span) = self.bytes(f) else {
            return Ok(());
        };
        let mut out = Annotation {
            span,
            ..Annotation::default()
        };
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match f.number {
                1 => out.tensor = self.text(&f)?.unwrap_or_default(),
                2 => self.entry(&f, &mut out.parameters)?,
                _ => {}
            }
        }
        self.push(all, out, f.at)
    }
}

/// Names the node an error lies in. The path of a graph deep inside would grow at every level.
fn step(e: Error, depth: u32, title: impl FnOnce() -> String) -> Error {
    if depth < 4 { e.within(title()) } else { e }
}
