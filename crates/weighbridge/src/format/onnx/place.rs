//! Where weights lie in a file beside the model, and how the model says it (`external_data` of
//! `TensorProto`, `docs/ExternalData.md`).

use std::collections::BTreeSet;
use std::sync::Arc;

use weighbridge_core::model::Tensor;
use weighbridge_core::{Error, Result};

use super::encode::Fields;
use super::raw;
use super::splice::{Edits, Piece};

/// `raw_data`, `external_data` and `data_location` of `TensorProto`.
pub(super) const RAW: u32 = 9;
pub(super) const EXTERNAL: u32 = 13;
pub(super) const LOCATION: u32 = 14;

/// Where tensors other than large ones begin: a line of the processor's cache.
const LINE: u64 = 64;

/// Where tensors begin in a file of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alignment {
    /// Least bytes of a large one.
    pub large: u64,
    /// What the place of a large one is a multiple of.
    pub by: u64,
}

impl Alignment {
    /// What ONNX Runtime aligns, at a multiple of what Windows maps files by, as
    /// `docs/ExternalData.md` asks. The reference refuses larger gaps.
    pub const WINDOWS: Self = Self {
        large: 1 << 20,
        by: 64 << 10,
    };
    /// The same tensors at pages of memory.
    pub const LARGE_AT_PAGES: Self = Self {
        large: 1 << 20,
        by: 4096,
    };
    /// All that fill one at pages of memory.
    pub const PAGES: Self = Self {
        large: 4096,
        by: 4096,
    };

    /// Where `bytes` begin behind `end`; `None` past what a file can have.
    pub(crate) fn next(self, end: u64, bytes: u64) -> Option<u64> {
        let by = match bytes >= self.large {
            true => self.by,
            false => LINE,
        };
        end.checked_next_multiple_of(by)
    }
}

/// A run of a file beside the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lying<'l> {
    pub location: &'l str,
    pub offset: u64,
    pub length: u64,
}

impl Lying<'_> {
    /// The fields that say where it is.
    pub(crate) fn entries(&self) -> Fields {
        Fields::new()
            .entry(EXTERNAL, "location", self.location)
            .entry(EXTERNAL, "offset", &self.offset.to_string())
            .entry(EXTERNAL, "length", &self.length.to_string())
    }

    /// The field that says that they are to be looked at.
    pub(crate) fn kind() -> Fields {
        Fields::new().int(LOCATION, 1)
    }

    /// Lets a tensor's bytes lie there instead of in the model.
    pub(crate) fn leave(&self, edits: &mut Edits, t: &raw::Tensor) {
        untyped(edits, t);
        edits.set(t.span, RAW, Vec::new());
        edits.set(t.span, EXTERNAL, vec![Piece::Fields(self.entries())]);
        edits.set(t.span, LOCATION, vec![Piece::Fields(Self::kind())]);
    }
}

/// Puts `data` into the model as a tensor's bytes, wherever they were.
pub(crate) fn enter(edits: &mut Edits, t: &raw::Tensor, data: &Arc<Tensor>) {
    untyped(edits, t);
    edits.set(t.span, RAW, vec![Piece::Tensor(RAW, Arc::clone(data))]);
    edits.set(t.span, EXTERNAL, Vec::new());
    edits.set(t.span, LOCATION, Vec::new());
}

fn untyped(edits: &mut Edits, t: &raw::Tensor) {
    let numbers: BTreeSet<u32> = t.typed.iter().map(|r| r.number).collect();
    for number in numbers {
        edits.set(t.span, number, Vec::new());
    }
}

/// Refuses a tensor that was given in several parts, which protobuf merges: a change of one part
/// would leave the others.
pub(crate) fn whole(t: &raw::Tensor) -> Result<()> {
    let texts = t.name.iter().map(|n| n.span);
    let raw = t.raw.iter().copied();
    let typed = t.typed.iter().map(|t| t.span);
    let beside = t.external.iter().map(|e| e.span);
    let mut all = texts.chain(raw).chain(typed).chain(beside);
    if all.all(|s| t.span.start <= s.start && s.end <= t.span.end) {
        return Ok(());
    }
    let message = format!("the tensor {} stands in several parts", t.name());
    Err(Error::unsupported("onnx.tensor-parts", message).at(t.span.start))
}
