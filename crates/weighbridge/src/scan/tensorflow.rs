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
use super::{json, proto_text, tensorflow_checkpoint, text};
use crate::format::tensorflow::sniff::{self, Kind};

/// Longest configuration of Keras taken out of a model.
const CONFIG: u64 = 16 << 20;

/// Takes a graph; says whether this is one.
///
/// # Errors
/// What reading gives; what was seen before counts.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if tensorflow_checkpoint::take(cx, item)? {
        return Ok(true);
    }
    let Some(kind) = sniff::kind(item.source.as_ref(), &item.file_name())? else {
        return Ok(unread(cx, item) || proto_text::take(cx, item)?);
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
