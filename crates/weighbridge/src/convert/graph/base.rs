//! The graph that a result is made from: the file as it stands, and its tensors.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Layout, Model, Tensor};
use weighbridge_core::source::{self, Backend, ByteSource};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Limits, Result};

use crate::OpenOptions;
use crate::format::onnx::encode::Fields;
use crate::format::onnx::external::Files;
use crate::format::onnx::homes::{Home, Met, walk};
use crate::format::onnx::raw;
use crate::format::onnx::read::Lower;
use crate::format::onnx::splice::{Edits, Piece, Spliced, splice};
use crate::format::onnx::unique::refuse_duplicates;
use crate::format::onnx::walk::holder;
use crate::format::onnx::{Onnx, parse};
use crate::format::{FormatReader as _, format_of};

/// Longest message that protobuf's own readers take, in bytes.
pub(super) const MOST_MESSAGE: u64 = i32::MAX as u64;

/// Integers below this many bytes stay in the graph: shapes, axes and zero points are parts of it
/// that readers want at hand when they infer shapes.
const SMALL: u64 = 1024;

/// An ONNX file, parsed.
pub(super) struct Base {
    pub source: Arc<dyn ByteSource>,
    pub raw: raw::Model,
    /// What the reader makes of it.
    pub model: Model,
    pub limits: Limits,
}

/// A tensor of the base and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Slot<'b> {
    pub tensor: &'b Tensor,
    pub home: Home<'b>,
}

/// What becomes of a tensor's bytes.
pub(super) enum Fate {
    /// They stand in the graph's file.
    Inline(Arc<Tensor>),
    /// They lie in a file beside it.
    Outside {
        location: Arc<str>,
        offset: u64,
        length: u64,
    },
}

impl Base {
    /// Opens the graph at `path`.
    pub(super) fn open(path: &Path, constants: bool, limits: &Limits) -> Result<Self> {
        let open = OpenOptions {
            backend: Backend::Pread,
            limits: limits.clone(),
            constants,
            ..OpenOptions::default()
        };
        let source = source::open_file(path, Backend::Pread)?;
        if format_of(&source, &open)? != FormatId::Onnx {
            let e = Error::parameter("convert.graph", "this is no ONNX file");
            return Err(e.in_file(path.display().to_string()));
        }
        let model = Onnx.open(Arc::clone(&source), &open)?;
        let raw = parse::parse(source.as_ref(), limits)
            .map_err(|e| e.in_file(source.name()))?
            .model;
        refuse_duplicates(&raw, Span::of(source.as_ref()), &Edits::new())
            .map_err(|e| e.in_file(source.name()))?;
        Ok(Self {
            source,
            raw,
            model,
            limits: limits.clone(),
        })
    }

    /// Everything that the reader lists.
    pub(super) fn slots(&self, constants: bool) -> Result<Vec<Slot<'_>>> {
        let mut homes = Vec::new();
        walk(&self.raw, &mut |met| match met {
            Met::Home(Home::Constant(_)) if !constants => {}
            Met::Home(home) => homes.push(home),
            _ => {}
        });
        if homes.len() != self.model.tensors.len() {
            let message = "the file has changed while it was read";
            return Err(Error::parameter("convert.graph", message).in_file(self.source.name()));
        }
        let all = self.model.tensors.iter().zip(homes);
        Ok(all.map(|(tensor, home)| Slot { tensor, home }).collect())
    }

    /// The file with these fates; tensors in other files that have none come into it.
    pub(super) fn spliced(&self, fates: &HashMap<Span, Fate>, mut edits: Edits) -> Result<Spliced> {
        let mut outside = Vec::new();
        walk(&self.raw, &mut |met| {
            if let Met::Tensor(t) = met {
                match fates.get(&t.span) {
                    Some(fate) => fate.settle(t.span, &mut edits),
                    None if t.is_external() => outside.push(t),
                    None => {}
                }
            }
        });
        let files = Files::beside(self.source.as_ref(), Backend::Pread, &self.limits);
        let mut lower = Lower::new(Arc::clone(&self.source), files, false)?;
        for t in outside {
            let tensor = lower.tensor(t).map_err(|e| e.in_file(self.source.name()))?;
            Fate::Inline(Arc::new(tensor)).settle(t.span, &mut edits);
        }
        splice(self.source.as_ref(), &edits)
    }

    /// The same, refused where nobody could read it.
    pub(super) fn readable(&self, fates: &HashMap<Span, Fate>, edits: Edits) -> Result<Spliced> {
        let spliced = self.spliced(fates, edits)?;
        if spliced.len() > MOST_MESSAGE {
            let message = format!(
                "the graph without its large initializers would still have {} bytes, and \
                 protobuf's readers take {MOST_MESSAGE}",
                spliced.len()
            );
            return Err(Error::limit("onnx.too-large", message).in_file(self.source.name()));
        }
        Ok(spliced)
    }
}

impl Slot<'_> {
    pub(super) fn name(&self) -> &str {
        &self.tensor.name
    }

    /// Whether another tensor can take its place.
    pub(super) fn replaceable(&self) -> bool {
        let sparse_value = |a: &raw::Attribute| a.sparse.is_some() && a.t.is_none();
        let fits = match self.home {
            Home::Initializer(_) => self.tensor.has_data(),
            Home::Sparse(..) => true,
            Home::Constant(a) => self.tensor.has_data() && !sparse_value(a),
        };
        fits && !self.tensor.name.is_empty()
    }

    /// Whether it holds weights: numbers that are not whole, and any of them.
    pub(super) fn weighs(&self) -> bool {
        let d = self.tensor.dtype;
        (d.is_float() || d.is_complex()) && self.tensor.numel() != Some(0)
    }

    /// Whether its bytes may lie in a file beside the graph.
    pub(super) fn movable(&self) -> bool {
        let t = self.tensor;
        let dense = t.layout == Layout::Strided && t.has_data() && t.byte_len() > 0;
        matches!(self.home, Home::Initializer(_)) && dense && !t.name.is_empty()
    }

    /// Whether its bytes lie in a shared file when there is one.
    pub(super) fn shared(&self) -> bool {
        self.movable() && (self.weighs() || self.tensor.byte_len() >= SMALL)
    }

    /// Whether it is worth a place in a file of external data.
    pub(super) fn large(&self) -> bool {
        self.movable() && self.tensor.byte_len() >= SMALL
    }

    /// Puts `tensor`, of the same dtype and shape, in its place.
    pub(super) fn put(
        &self,
        tensor: Arc<Tensor>,
        fates: &mut HashMap<Span, Fate>,
        edits: &mut Edits,
    ) -> Result<()> {
        match self.home {
            Home::Initializer(t) => {
                fates.insert(t.span, Fate::Inline(tensor));
            }
            Home::Sparse(g, s) => {
                let graph = holder(&g.spans, s.span);
                edits.remove(graph, s.span);
                edits.append(graph, vec![dense(&s.values, &tensor)]);
            }
            Home::Constant(a) => match &a.t {
                Some(t) => {
                    fates.insert(t.span, Fate::Inline(tensor));
                }
                None if tensor.read_vec()? != self.tensor.read_vec()? => {
                    scalars(a, &tensor.read_vec()?, edits);
                }
                None => {}
            },
        }
        Ok(())
    }
}

/// An initializer that is new in the file.
fn dense(values: &raw::Tensor, tensor: &Arc<Tensor>) -> Piece {
    let dims: Vec<i64> = tensor.shape.iter().map(|&d| d as i64).collect();
    let head = Fields::new().each_int(1, &dims).int(2, values.data_type);
    let head = head.bytes(8, values.name());
    let bytes = Piece::Tensor(9, Arc::clone(tensor));
    Piece::Message(5, vec![Piece::Fields(head), bytes])
}

/// Gives an attribute of numbers other ones.
fn scalars(a: &raw::Attribute, bytes: &[u8], edits: &mut Edits) {
    let floats = bytes.as_chunks::<4>().0;
    let ints = bytes.as_chunks::<8>().0;
    let first = |all: &[[u8; 8]]| all.first().map_or(0, |b| i64::from_le_bytes(*b));
    let (number, fields) = match a.name.text.as_str() {
        "value_float" => {
            let x = floats.first().map_or(0.0, |b| f32::from_le_bytes(*b));
            (2, Fields::new().float(2, x))
        }
        "value_int" => (3, Fields::new().int(3, first(ints))),
        "value_floats" => {
            let each = floats.iter().map(|b| f32::from_le_bytes(*b));
            (7, each.fold(Fields::new(), |f, x| f.float(7, x)))
        }
        _ => {
            let all: Vec<i64> = ints.iter().map(|b| i64::from_le_bytes(*b)).collect();
            (8, Fields::new().each_int(8, &all))
        }
    };
    edits.set(a.span, number, vec![Piece::Fields(fields)]);
}

impl Fate {
    /// Changes the fields of the `TensorProto` at `span` that say where its bytes are.
    fn settle(&self, span: Span, edits: &mut Edits) {
        for typed in [4, 5, 6, 7, 10, 11] {
            edits.set(span, typed, Vec::new());
        }
        let (raw, place, kind) = match self {
            Self::Inline(t) => (
                vec![Piece::Tensor(9, Arc::clone(t))],
                Vec::new(),
                Vec::new(),
            ),
            Self::Outside {
                location,
                offset,
                length,
            } => {
                let place = Fields::new()
                    .entry(13, "location", location)
                    .entry(13, "offset", &offset.to_string())
                    .entry(13, "length", &length.to_string());
                let kind = Fields::new().int(14, 1);
                (
                    Vec::new(),
                    vec![Piece::Fields(place)],
                    vec![Piece::Fields(kind)],
                )
            }
        };
        edits.set(span, 9, raw);
        edits.set(span, 13, place);
        edits.set(span, 14, kind);
    }
}
