//! TensorFlow's graphs, as far as the scanner needs them: every operator of every meta graph and
//! function, the constant strings that feed it, assets, and Keras' configurations inside.
//!
//! Field numbers: `tensorflow/core/protobuf/{saved_model,meta_graph,saved_object_graph}.proto`,
//! `tensorflow/core/framework/{graph,node_def,function,op_def,attr_value,tensor}.proto` of
//! TensorFlow 2.21 and `keras/protobuf/saved_metadata.proto`.

use std::collections::HashMap;

use weighbridge_core::wire::protobuf::{Message, Reader, Span};
use weighbridge_core::{ErrorKind, Result};
use weighbridge_scan::{Function, GraphKind, Reference};

use super::examine::{Examiner, Item};
use super::onnx::NAME;
use super::tensorflow_graph::{Graph, MOST_BYTES};
use super::{json, proto_text, text};
use crate::format::onnx::sniff::has_name;

/// Most fields looked at to tell what a file is.
const GLANCE: u64 = 20_000;

/// Longest configuration of Keras taken out of a model.
const CONFIG: u64 = 16 << 20;

/// What a file can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SavedModel,
    MetaGraph,
    Graph,
    KerasMetadata,
    Fingerprint,
}

/// Takes a graph; says whether this is one.
///
/// # Errors
/// What reading gives; what was seen before counts.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    let Some(kind) = kind(item)? else {
        return Ok(unread(cx, item) || checkpoint(cx, item)? || proto_text::take(cx, item)?);
    };
    cx.named(
        item,
        match kind {
            Kind::Graph => "graphdef",
            _ => "savedmodel",
        },
    );
    let mut walk = Walk {
        reader: Reader::new(item.source.as_ref(), cx.limits.values),
        cx,
        item,
        left: MOST_BYTES,
    };
    let whole = Span::of(item.source.as_ref());
    let done = match kind {
        Kind::SavedModel => walk.saved_model(whole),
        Kind::MetaGraph => walk.meta_graph(whole, "meta graph"),
        Kind::Graph => walk.graph(whole, "", &HashMap::new()),
        Kind::KerasMetadata => walk.keras_metadata(whole),
        Kind::Fingerprint => walk.all(whole),
    };
    match done {
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => cx.failed(&item.place, e),
        Ok(()) => {}
    }
    Ok(true)
}

/// A format that holds a graph in another form (a FlatBuffer, whose identifier stands at byte 4).
fn unread(cx: &mut Examiner<'_, '_>, item: &Item) -> bool {
    if item.head.get(4..8) != Some(b"ORTM") {
        return false;
    }
    cx.named(item, "onnx");
    let reason = "ONNX Runtime's own form of models is not read by this version";
    cx.gap(&item.place, None, reason);
    true
}

/// The two files of a checkpoint that stand beside every graph.
fn checkpoint(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
    let len = item.source.len();
    let mut tail = [0u8; 8];
    if len >= 48 {
        item.source.read_at(len - 8, &mut tail)?;
    }
    let shard = item
        .file_name()
        .rsplit_once(".data-")
        .is_some_and(|(_, n)| {
            n.len() == 14 && n.bytes().all(|b| b.is_ascii_digit() || b"-of".contains(&b))
        });
    if tail != MAGIC && !shard {
        return Ok(false);
    }
    cx.named(item, "tf-checkpoint");
    let reason = "TensorFlow checkpoints are not read by this version";
    cx.gap(&item.place, None, reason);
    Ok(true)
}

/// What the bytes are, by their structure: nothing marks these files.
fn kind(item: &Item) -> Result<Option<Kind>> {
    let whole = Span::of(item.source.as_ref());
    let mut glance = Glance {
        reader: Reader::new(item.source.as_ref(), GLANCE),
    };
    let name = item.file_name();
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

/// One file on its way into the subject.
struct Walk<'w, 's, 'a> {
    reader: Reader<'w>,
    cx: &'w mut Examiner<'s, 'a>,
    item: &'w Item,
    /// Bytes of strings that may still be kept.
    left: usize,
}

impl Walk<'_, '_, '_> {
    /// Reads every field, so that what breaks shows.
    fn all(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while self.reader.next(&mut message)?.is_some() {}
        Ok(())
    }

    fn saved_model(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        let mut number = 0;
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, None) => {}
                (2, Some(meta)) => {
                    number += 1;
                    self.meta_graph(meta, &format!("meta graph {number}"))?;
                }
                _ => self.unknown(f.number, f.at),
            }
        }
        Ok(())
    }

    fn meta_graph(&mut self, span: Span, place: &str) -> Result<()> {
        // Which constants stand for assets is said behind the graph.
        let mut assets = HashMap::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (6, Some(asset)) = (f.number, f.bytes()) {
                self.asset(asset, place, &mut assets)?;
            }
        }
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (2, Some(graph)) => self.graph(graph, place, &assets)?,
                (7, Some(objects)) => self.objects(objects)?,
                // What it is called, how it is saved, what it collects, its signatures: names.
                (1 | 3..=6, Some(_)) => {}
                _ => self.unknown(f.number, f.at),
            }
        }
        Ok(())
    }

    /// An asset: the tensor that is fed its path, and its name in the model's `assets` folder.
    fn asset(
        &mut self,
        span: Span,
        place: &str,
        assets: &mut HashMap<String, String>,
    ) -> Result<()> {
        let (mut tensor, mut file, mut at) = (String::new(), String::new(), span.start);
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(info)) => {
                    let mut inner = Message::new(info);
                    while let Some(f) = self.reader.next(&mut inner)? {
                        if let (1, Some(name)) = (f.number, f.bytes()) {
                            tensor = self.reader.text(name, NAME)?;
                        }
                    }
                }
                (2, Some(name)) => {
                    file = self.reader.text(name, NAME * 4)?;
                    at = name.start;
                }
                _ => {}
            }
        }
        self.cx.subject.references.push(Reference {
            place: self.inside(place),
            offset: self.item.place.base.map(|b| b.saturating_add(at)),
            kind: "asset",
            path: file.clone(),
        });
        let node = tensor.split(':').next().unwrap_or_default();
        assets.insert(node.to_owned(), file);
        Ok(())
    }

    /// A `GraphDef`: its nodes, and the functions of its library.
    fn graph(&mut self, span: Span, place: &str, assets: &HashMap<String, String>) -> Result<()> {
        let inside = self.inside(place);
        Graph::new(self.cx, self.item, inside, &mut self.left).take(
            &mut self.reader,
            span,
            1,
            assets,
        )?;
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(_)) | (3, None) | (4 | 5, Some(_)) => {}
                (2, Some(library)) => self.library(library, place)?,
                _ => self.unknown(f.number, f.at),
            }
        }
        Ok(())
    }

    fn library(&mut self, span: Span, place: &str) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(function)) => self.function(function, place)?,
                // Which function is the gradient of which.
                (2 | 3, Some(_)) => {}
                _ => self.unknown(f.number, f.at),
            }
        }
        Ok(())
    }

    fn function(&mut self, span: Span, place: &str) -> Result<()> {
        let mut name = String::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (1, Some(signature)) = (f.number, f.bytes()) {
                let mut inner = Message::new(signature);
                while let Some(f) = self.reader.next(&mut inner)? {
                    if let (1, Some(text)) = (f.number, f.bytes()) {
                        name = self.reader.text(text, NAME)?;
                    }
                }
            }
        }
        let step = format!("function {name}");
        let steps = [place, step.as_str()];
        let place = steps.iter().filter(|s| !s.is_empty()).copied();
        let place = self.inside(&place.collect::<Vec<_>>().join(" → "));
        self.cx.subject.functions.push(Function {
            graph: GraphKind::TensorFlow,
            offset: self.item.place.base.map(|b| b.saturating_add(span.start)),
            domain: String::new(),
            name,
        });
        Graph::new(self.cx, self.item, place, &mut self.left).take(
            &mut self.reader,
            span,
            3,
            &HashMap::new(),
        )
    }

    /// A `SavedObjectGraph`: Keras 2 keeps the configuration of every layer with its object.
    fn objects(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let (1, Some(object)) = (f.number, f.bytes()) else {
                continue;
            };
            let mut inner = Message::new(object);
            while let Some(f) = self.reader.next(&mut inner)? {
                if let (4, Some(user)) = (f.number, f.bytes()) {
                    self.metadata(user, 3)?;
                }
            }
        }
        Ok(())
    }

    fn keras_metadata(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(node)) => self.metadata(node, 5)?,
                _ => self.unknown(f.number, f.at),
            }
        }
        Ok(())
    }

    /// The JSON in field `number`.
    fn metadata(&mut self, span: Span, number: u32) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Some(inner) = f.bytes().filter(|s| f.number == number && !s.is_empty()) else {
                continue;
            };
            let bytes = self.reader.read(inner, CONFIG)?;
            let parsed = std::str::from_utf8(&bytes).ok().map(json::parse);
            match parsed {
                Some(Ok(value)) => {
                    let mut place = self.item.place.clone();
                    place.steps.push("keras_metadata".into());
                    let item = Item {
                        place,
                        name: "keras_metadata".into(),
                        ..self.item.clone()
                    };
                    text::config(self.cx, &item, value, Vec::new());
                }
                // Objects that are no layers keep other things there.
                _ if !bytes.trim_ascii_start().starts_with(b"{") => {}
                _ => {
                    let reason = "metadata of Keras that is no JSON";
                    self.cx.gap(&self.item.place, Some(inner.start), reason);
                }
            }
        }
        Ok(())
    }

    fn unknown(&mut self, number: u32, at: u64) {
        let reason = format!("field {number} is none that this version knows");
        self.cx.gap(&self.item.place, Some(at), reason);
    }

    fn inside(&self, place: &str) -> String {
        let mut steps = self.item.place.steps.clone();
        steps.extend((!place.is_empty()).then(|| place.to_owned()));
        steps.join(" → ")
    }
}
