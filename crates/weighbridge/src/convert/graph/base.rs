//! The graph that a result is made from: its tensors, and where they stand.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{FormatId, Layout, Tensor};
use weighbridge_core::source::{self, Backend};
use weighbridge_core::{Error, Limits, Result};

use crate::OpenOptions;
use crate::format::format_of;
use crate::format::onnx::encode::Fields;
use crate::format::onnx::place::{enter, whole};
use crate::format::onnx::raw;
use crate::format::onnx::splice::{Edits, Piece};
use crate::format::onnx::unique::refuse_duplicates;
use crate::format::onnx::walk::{Home, Item, holder, walk};
use crate::format::onnx::write::{Original, THRESHOLD};

/// A tensor of the graph and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Slot<'b> {
    pub tensor: &'b Tensor,
    pub home: Home<'b>,
}

/// Opens the graph at `path`.
pub(super) fn open(path: &Path, constants: bool, limits: &Limits) -> Result<Original> {
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
    let base = Original::open(source, &open)?;
    refuse_duplicates(&base.raw, base.whole(), &Edits::new())
        .map_err(|e| e.in_file(base.source.name()))?;
    Ok(base)
}

/// Everything that the reader lists.
pub(super) fn slots(base: &Original, constants: bool) -> Result<Vec<Slot<'_>>> {
    let mut homes = Vec::new();
    walk(&base.raw, base.whole(), &Edits::new(), &mut |item| {
        match item {
            Item::Home(Home::Constant(_)) if !constants => {}
            Item::Home(home) => homes.push(home),
            _ => {}
        }
        Ok(())
    })?;
    if homes.len() != base.model.tensors.len() {
        let message = "the file has changed while it was read";
        return Err(Error::parameter("convert.graph", message).in_file(base.source.name()));
    }
    let all = base.model.tensors.iter().zip(homes);
    Ok(all.map(|(tensor, home)| Slot { tensor, home }).collect())
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

    /// Whether its bytes lie in a shared file when there is one. Integers below the threshold stay
    /// in the graph: shapes, axes and zero points are parts of it that readers want at hand when
    /// they infer shapes.
    pub(super) fn shared(&self) -> bool {
        self.movable() && (self.weighs() || self.tensor.byte_len() >= THRESHOLD)
    }

    /// Puts `tensor`, of the same dtype and shape, in its place.
    pub(super) fn put(&self, tensor: &Arc<Tensor>, edits: &mut Edits) -> Result<()> {
        match self.home {
            Home::Initializer(t) => {
                whole(t)?;
                enter(edits, t, tensor);
            }
            Home::Sparse(g, s) => {
                let graph = holder(&g.spans, s.span);
                edits.remove(graph, s.span);
                edits.append(graph, vec![dense(&s.values, tensor)]);
            }
            Home::Constant(a) => match &a.t {
                Some(t) => {
                    whole(t)?;
                    enter(edits, t, tensor);
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
