//! ONNX models, as far as the scanner needs them: every operator, every path to external data and
//! the shape of every tensor, wherever in the model they stand. Weights are stepped over.
//!
//! Field numbers: `onnx/onnx.proto3` of ONNX 1.23.

use std::collections::HashSet;
use std::sync::Arc;

use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span};
use weighbridge_core::{Error, ErrorKind, Result};
use weighbridge_scan::jinja::looks_like_template;
use weighbridge_scan::{Function, GraphKind, GraphModel, Operator, Template, Text, TextOrigin};

use super::examine::{Examiner, Item};
use super::{onnx_tensor, onnx_text};
use crate::format::FormatReader as _;
use crate::format::onnx::parse::parse;
use crate::format::onnx::{Onnx, sniff};

/// Deepest nesting of sub-graphs; protobuf's own readers stop at a third of it.
const MOST_DEEP: u32 = 100;

/// Longest name or domain kept, in bytes.
pub(super) const NAME: u64 = 1 << 10;

/// Longest text taken out of metadata, and most of them.
const TEXT: u64 = 1 << 20;
const MOST_TEXTS: u32 = 4096;

/// Most distinct operators listed.
const MOST_OPERATORS: usize = 100_000;

/// Takes a model; says whether this is one.
///
/// # Errors
/// What reading gives; what was seen before counts.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    let named = item.extension() == "onnx";
    if !sniff::is_model(item.source.as_ref(), named)? {
        return Ok(false);
    }
    cx.named(item, "onnx");
    let mut walk = Walk {
        reader: Reader::new(item.source.as_ref(), cx.limits.values),
        cx,
        item,
        seen: HashSet::new(),
        texts: 0,
    };
    // What follows a model that breaks off is looked at by others: an archive, perhaps.
    match walk.model() {
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => cx.failed(&item.place, e),
        Ok(()) => graph(cx, item),
    }
    Ok(true)
}

/// Hands the graph on to be looked through for gates. Weights that lie beside the model are read
/// as the reader of the format reads them: from its own folder, and only what is asked for.
fn graph(cx: &mut Examiner<'_, '_>, item: &Item) {
    match Onnx.open(Arc::clone(&item.source), &cx.options()) {
        Ok(mut model) => {
            if let Some(graph) = model.graph.as_mut().filter(|g| onnx_text::has_texts(g)) {
                let texts = parse(item.source.as_ref(), cx.limits)
                    .and_then(|p| onnx_text::fill(item.source.as_ref(), &p.model, graph));
                if let Err(e) = texts {
                    cx.failed(&item.place, e);
                }
            }
            cx.subject.graphs.push(GraphModel {
                place: item.place.text(),
                base: item.place.base,
                model,
            });
        }
        // What is wrong with a reference is a finding of its own.
        Err(e) if e.rule().starts_with("onnx.external") => {
            let reason = "the graph was not looked through for gates: its weights are not at hand";
            cx.gap(&item.place, None, reason);
        }
        Err(e) => cx.failed(&item.place, e),
    }
}

/// One model on its way into the subject.
struct Walk<'w, 's, 'a> {
    reader: Reader<'w>,
    cx: &'w mut Examiner<'s, 'a>,
    item: &'w Item,
    /// Operators that were listed: place, domain, name and constants.
    seen: HashSet<(String, String, String, Vec<String>)>,
    texts: u32,
}

impl Walk<'_, '_, '_> {
    fn model(&mut self) -> Result<()> {
        let mut message = Message::new(Span::of(self.item.source.as_ref()));
        while let Some(f) = self.reader.next(&mut message)? {
            let Some(span) = f.bytes() else {
                continue;
            };
            match f.number {
                2..=4 => self.text(&f, field_name(f.number))?,
                6 => self.text(&f, "doc_string")?,
                7 => self.graph(span, "", 0)?,
                14 => self.property(span)?,
                20 => self.training(span)?,
                25 => self.function(span)?,
                // The operator sets and device configurations say nothing that is acted on.
                8 | 26 => {}
                _ => self.unknown(&f),
            }
        }
        Ok(())
    }

    fn training(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (1 | 2, Some(graph)) = (f.number, f.bytes()) {
                let place = if f.number == 1 {
                    "training initialization"
                } else {
                    "training algorithm"
                };
                self.graph(graph, place, 0)?;
            }
        }
        Ok(())
    }

    fn graph(&mut self, span: Span, place: &str, depth: u32) -> Result<()> {
        if depth > MOST_DEEP {
            let e = Error::limit("onnx.depth", "sub-graphs lie in each other too deep");
            return Err(e.at(span.start));
        }
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Some(inner) = f.bytes() else {
                continue;
            };
            match f.number {
                1 => self.node(inner, place, depth)?,
                5 => self.tensor(inner, place)?,
                10 => self.text(&f, "graph.doc_string")?,
                15 => self.sparse(inner, place)?,
                16 => self.property(inner)?,
                2 | 11..=14 => {}
                _ => self.unknown(&f),
            }
        }
        Ok(())
    }

    fn node(&mut self, span: Span, place: &str, depth: u32) -> Result<()> {
        let (mut name, mut operator, mut domain) = (String::new(), String::new(), String::new());
        let mut attributes = Vec::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Some(inner) = f.bytes() else {
                continue;
            };
            match f.number {
                3 => name = self.reader.text(inner, NAME)?,
                4 => operator = self.reader.text(inner, NAME)?,
                5 => attributes.push(inner),
                7 => domain = self.reader.text(inner, NAME)?,
                _ => {}
            }
        }
        let mut constants = Vec::new();
        for a in attributes {
            self.attribute(a, place, &operator, &name, depth, &mut constants)?;
        }
        if operator != "EPContext" {
            constants.clear();
        }
        self.operator(span, place, domain, operator, name, constants)
    }

    fn operator(
        &mut self,
        span: Span,
        place: &str,
        domain: String,
        name: String,
        node: String,
        constants: Vec<String>,
    ) -> Result<()> {
        for c in constants.iter().filter(|c| c.len() < NAME as usize) {
            onnx_tensor::reference(self.cx, self.item, place, "compiled context", c, span.start);
        }
        let key = (place.to_owned(), domain, name, constants);
        if self.seen.contains(&key) {
            return Ok(());
        }
        if self.seen.len() >= MOST_OPERATORS {
            let e = Error::limit(
                "onnx.operators",
                "the graph uses too many kinds of operators",
            );
            return Err(e.at(span.start));
        }
        self.cx.subject.operators.push(Operator {
            graph: GraphKind::Onnx,
            place: self.inside(place),
            offset: self.item.place.base.map(|b| b.saturating_add(span.start)),
            domain: key.1.clone(),
            name: key.2.clone(),
            node,
            constants: key.3.clone(),
        });
        self.seen.insert(key);
        Ok(())
    }

    /// An attribute: tensors and graphs in it count as those outside.
    fn attribute(
        &mut self,
        span: Span,
        place: &str,
        operator: &str,
        node: &str,
        depth: u32,
        constants: &mut Vec<String>,
    ) -> Result<()> {
        let mut name = String::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            let Some(inner) = f.bytes() else {
                continue;
            };
            match f.number {
                1 => name = self.reader.text(inner, NAME)?,
                4 if name == "ep_cache_context" && inner.len() < NAME => {
                    constants.push(self.reader.text(inner, NAME)?);
                }
                5 | 10 => self.tensor(inner, place)?,
                6 | 11 => {
                    let step = format!("{operator} {node} {name}");
                    let step = step.split_whitespace().collect::<Vec<_>>().join(" ");
                    // The path of a graph deep inside would grow with the depth, at every level.
                    let deeper = if depth < 4 && !place.is_empty() {
                        format!("{place} → {step}")
                    } else {
                        step
                    };
                    self.graph(inner, &deeper, depth + 1)?;
                }
                22 | 23 => self.sparse(inner, place)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sparse(&mut self, span: Span, place: &str) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let (1 | 2, Some(inner)) = (f.number, f.bytes()) {
                self.tensor(inner, place)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, span: Span, place: &str) -> Result<()> {
        onnx_tensor::take(&mut self.reader, self.cx, self.item, span, place)
    }

    /// A function of the model's own. Its name stands behind its nodes: it is read twice.
    fn function(&mut self, span: Span) -> Result<()> {
        let (mut name, mut domain) = (String::new(), String::new());
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(s)) => name = self.reader.text(s, NAME)?,
                (10, Some(s)) => domain = self.reader.text(s, NAME)?,
                (8, Some(_)) => self.text(&f, "function.doc_string")?,
                (14, Some(s)) => self.property(s)?,
                _ => {}
            }
        }
        let place = format!("function {domain}::{name}");
        self.cx.subject.functions.push(Function {
            graph: GraphKind::Onnx,
            offset: self.item.place.base.map(|b| b.saturating_add(span.start)),
            domain,
            name,
        });
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (7, Some(node)) => self.node(node, &place, 0)?,
                (11, Some(attribute)) => {
                    self.attribute(attribute, &place, "", "", 0, &mut Vec::new())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A key and a value of the metadata.
    fn property(&mut self, span: Span) -> Result<()> {
        let mut key = String::new();
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(s)) => key = self.reader.text(s, NAME)?,
                (2, Some(_)) => self.text(&f, &key.clone())?,
                _ => {}
            }
        }
        Ok(())
    }

    fn text(&mut self, field: &Field, key: &str) -> Result<()> {
        let Some(span) = field.bytes().filter(|s| !s.is_empty()) else {
            return Ok(());
        };
        if span.len() > TEXT || self.texts >= MOST_TEXTS {
            let reason = format!("the text `{key}` is too long or one too many to be looked at");
            self.cx.gap(&self.item.place, Some(span.start), reason);
            return Ok(());
        }
        self.texts += 1;
        let bytes = self.reader.read(span, TEXT)?;
        if let Ok(text) = std::str::from_utf8(&bytes)
            && looks_like_template(text)
        {
            self.cx.subject.templates.push(Template {
                place: self.item.place.text(),
                base: self.item.place.base.map(|b| b.saturating_add(span.start)),
                key: key.to_owned(),
                text: text.to_owned(),
            });
        }
        self.cx.subject.texts.push(Text {
            place: self.item.place.text(),
            base: self.item.place.base.map(|b| b.saturating_add(span.start)),
            key: key.to_owned(),
            origin: TextOrigin::Metadata,
            bytes,
        });
        Ok(())
    }

    fn unknown(&mut self, field: &Field) {
        let reason = format!("field {} is none that this version knows", field.number);
        self.cx.gap(&self.item.place, Some(field.at), reason);
    }

    fn inside(&self, place: &str) -> String {
        let mut steps = self.item.place.steps.clone();
        steps.extend((!place.is_empty()).then(|| place.to_owned()));
        steps.join(" → ")
    }
}

fn field_name(number: u32) -> &'static str {
    match number {
        2 => "producer_name",
        3 => "producer_version",
        _ => "domain",
    }
}
