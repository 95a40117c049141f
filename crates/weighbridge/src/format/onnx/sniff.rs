//! Whether bytes are an ONNX model. Nothing marks one, so its structure has to tell.

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Message, Reader, Span};
use weighbridge_core::{ErrorKind, Result};

/// Most fields looked at.
const GLANCE: u64 = 20_000;

/// Longest name that counts as one.
const NAME: u64 = 1 << 10;

/// Whether `source` holds a `ModelProto`: a field 7 that is a graph, whose nodes, inputs or
/// tensors have names. Files that are `named` as models need less.
///
/// # Errors
/// `Io`.
pub fn is_model(source: &dyn ByteSource, named: bool) -> Result<bool> {
    let mut reader = Reader::new(source, GLANCE);
    let mut message = Message::new(Span::of(source));
    let mut version = false;
    loop {
        match reader.next(&mut message) {
            Ok(Some(f)) => match (f.number, f.bytes()) {
                (1, None) => version = f.varint().is_some_and(|v| (1..1000).contains(&v)),
                (7, Some(graph)) if named && graph.is_empty() => return Ok(true),
                (7, Some(graph)) if is_graph(source, graph)? => return Ok(true),
                _ => {}
            },
            Ok(None) => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            // A model that was cut off begins like one.
            Err(_) => return Ok(named && version),
        }
    }
}

fn is_graph(source: &dyn ByteSource, span: Span) -> Result<bool> {
    let mut reader = Reader::new(source, GLANCE);
    let mut message = Message::new(span);
    loop {
        let field = match reader.next(&mut message) {
            Ok(Some(f)) => f,
            Ok(None) => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(_) => return Ok(false),
        };
        // A node's operator, a tensor's name, the name of an input or output.
        let name = match field.number {
            1 => 4,
            5 => 8,
            11 | 12 => 1,
            _ => continue,
        };
        let Some(inner) = field.bytes() else {
            return Ok(false);
        };
        if has_name(&mut reader, inner, name)? {
            return Ok(true);
        }
    }
}

/// Whether field `number` of the message in `span` is a name.
///
/// # Errors
/// `Io`.
pub fn has_name(reader: &mut Reader<'_>, span: Span, number: u32) -> Result<bool> {
    let mut message = Message::new(span);
    loop {
        match reader.next(&mut message) {
            Ok(Some(f)) if f.number == number => {
                let Some(text) = f.bytes() else {
                    return Ok(false);
                };
                let head = reader.head(text, NAME)?;
                return Ok(!head.is_empty()
                    && std::str::from_utf8(&head).is_ok_and(|t| !t.chars().any(char::is_control)));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(_) => return Ok(false),
        }
    }
}
