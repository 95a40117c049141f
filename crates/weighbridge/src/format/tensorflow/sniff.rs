//! Which of TensorFlow's messages a file is. Nothing marks them, so their structure has to tell.
//!
//! Field numbers: `tensorflow/core/protobuf/{saved_model,meta_graph,saved_object_graph}.proto`,
//! `tensorflow/core/framework/{graph,node_def,function}.proto`, `keras/protobuf/saved_metadata.proto`.

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Message, Reader, Span};
use weighbridge_core::{ErrorKind, Result};

use crate::format::onnx::sniff::has_name;

/// Most fields looked at to tell what a file is.
const GLANCE: u64 = 20_000;

/// Longest name that counts as one.
const NAME: u64 = 1 << 10;

/// What a file can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A `SavedModel`.
    SavedModel,
    /// A `MetaGraphDef`.
    MetaGraph,
    /// A `GraphDef`.
    Graph,
    /// What Keras 2 adds to a SavedModel: `SavedMetadata`.
    KerasMetadata,
    /// A `FingerprintDef`.
    Fingerprint,
}

/// What the bytes are, by their structure: nothing marks these files.
///
/// # Errors
/// `Io`.
pub fn kind(source: &dyn ByteSource, name: &str) -> Result<Option<Kind>> {
    let whole = Span::of(source);
    let mut glance = Glance {
        reader: Reader::new(source, GLANCE),
    };
    if name == "fingerprint.pb" && glance.is_fingerprint(whole)? {
        return Ok(Some(Kind::Fingerprint));
    }
    if glance.some(whole, 1, Glance::is_node)? {
        return Ok(Some(Kind::Graph));
    }
    if glance.some(whole, 2, Glance::is_meta_graph)? {
        return Ok(Some(Kind::SavedModel));
    }
    if glance.some(whole, 2, Glance::is_graph)? || glance.some(whole, 7, Glance::is_objects)? {
        return Ok(Some(Kind::MetaGraph));
    }
    if glance.some(whole, 1, Glance::is_metadata)? {
        return Ok(Some(Kind::KerasMetadata));
    }
    Ok(None)
}

/// Looks at the structure of messages without taking anything.
struct Glance<'w> {
    reader: Reader<'w>,
}

impl Glance<'_> {
    /// Whether some field `number` of the message in `span` is what `test` says. What breaks off
    /// is judged by what came before.
    fn some(
        &mut self,
        span: Span,
        number: u32,
        test: fn(&mut Self, Span) -> Result<bool>,
    ) -> Result<bool> {
        let mut message = Message::new(span);
        loop {
            match self.reader.next(&mut message) {
                Ok(Some(f)) if f.number == number => match f.bytes() {
                    Some(inner) if test(self, inner)? => return Ok(true),
                    Some(_) => {}
                    None => return Ok(false),
                },
                Ok(Some(_)) => {}
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                Ok(None) | Err(_) => return Ok(false),
            }
        }
    }

    /// A `NodeDef` has a name and an operator, which is a word.
    fn is_node(&mut self, span: Span) -> Result<bool> {
        Ok(has_name(&mut self.reader, span, 1)? && self.some(span, 2, Self::is_word)?)
    }

    fn is_word(&mut self, span: Span) -> Result<bool> {
        let text = self.reader.head(span, NAME)?;
        let word = |b: &u8| b.is_ascii_alphanumeric() || b"_>.:/-".contains(b);
        Ok(!text.is_empty()
            && text.iter().all(word)
            && text
                .first()
                .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_'))
    }

    fn is_graph(&mut self, span: Span) -> Result<bool> {
        Ok(self.some(span, 1, Self::is_node)? || self.some(span, 2, Self::is_library)?)
    }

    fn is_library(&mut self, span: Span) -> Result<bool> {
        self.some(span, 1, Self::is_function)
    }

    fn is_function(&mut self, span: Span) -> Result<bool> {
        self.some(span, 1, Self::is_named)
    }

    fn is_named(&mut self, span: Span) -> Result<bool> {
        has_name(&mut self.reader, span, 1)
    }

    fn is_meta_graph(&mut self, span: Span) -> Result<bool> {
        Ok(self.some(span, 2, Self::is_graph)? || self.some(span, 7, Self::is_objects)?)
    }

    /// A `SavedObjectGraph`: some object is the user's own and has an identifier.
    fn is_objects(&mut self, span: Span) -> Result<bool> {
        self.some(span, 1, Self::is_object)
    }

    fn is_object(&mut self, span: Span) -> Result<bool> {
        self.some(span, 4, Self::is_named)
    }

    /// A node of `SavedMetadata`: an identifier of Keras, and JSON.
    fn is_metadata(&mut self, span: Span) -> Result<bool> {
        Ok(has_name(&mut self.reader, span, 4)? && self.some(span, 5, Self::is_json)?)
    }

    fn is_json(&mut self, span: Span) -> Result<bool> {
        let head = self.reader.head(span, 64)?;
        Ok(head.trim_ascii_start().starts_with(b"{"))
    }

    /// `FingerprintDef`: numbers, a version and a word.
    fn is_fingerprint(&mut self, span: Span) -> Result<bool> {
        let mut message = Message::new(span);
        loop {
            match self.reader.next(&mut message) {
                Ok(Some(f)) => match (f.number, f.bytes()) {
                    (1..=5, None) => {}
                    (6 | 7, Some(s)) if s.len() < NAME => {}
                    _ => return Ok(false),
                },
                Ok(None) => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                Err(_) => return Ok(false),
            }
        }
    }
}
