//! Moving weights between the model file and files beside it: what changes in the model, and what
//! lies where in the files.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{DType, Tensor};

use super::external::{self, Files};
use super::place::{Alignment, EXTERNAL, Lying, RAW, enter, whole};
use super::raw;
use super::read::Lower;
use super::splice::{Edits, Piece};
use super::types;
use super::unique::refuse_duplicates;
use super::walk::{Item, Role, walk};
use super::write::{External, Original, THRESHOLD, Weights};
use crate::output::raw_bytes;

/// A file of weights to be.
#[derive(Debug, Default)]
pub(super) struct Data {
    /// Tensors and where they begin.
    pub items: Vec<(u64, Arc<Tensor>)>,
    /// Its length in bytes.
    pub len: u64,
}

/// What moving gives.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// The model's changes, those for the moves among them.
    pub edits: Edits,
    /// New files, in the order of `names`.
    pub data: Vec<Data>,
    /// Locations that tensors still name.
    pub kept: BTreeSet<String>,
    /// Tensors that leave the model file, and their bytes.
    pub out: (u64, u64),
    /// Tensors that come into it, and their bytes.
    pub into: (u64, u64),
}

/// What happens to a tensor that stands in the file.
enum Step {
    /// Its bytes go into a file.
    Out(Arc<Tensor>),
    /// Its bytes come into the model.
    In(Arc<Tensor>),
}

/// Moves the weights of `original` as `weights` says, on top of `edits`. `names` gives the
/// locations of so many new files.
///
/// # Errors
/// `Malformed` when two weights that could move have one name, `Unsupported` when data that has to
/// move is not at hand, and what is wrong with a tensor.
pub(super) fn relocate(
    original: &Original,
    mut edits: Edits,
    weights: &Weights,
    names: &dyn Fn(usize) -> Vec<String>,
) -> Result<Moved> {
    if *weights != Weights::Keep {
        refuse_duplicates(&original.raw, original.whole(), &edits)
            .map_err(|e| e.in_file(original.source.name()))?;
    }
    let mut moved = Moved::default();
    let steps = decide(original, &edits, weights, &mut moved)?;
    let bounds = match weights {
        Weights::External(e) => Some(e),
        _ => None,
    };
    let mut layout = Layout::new(bounds);
    let mut places = Vec::new();
    for (_, step) in &steps {
        places.push(match step {
            Step::Out(t) => Some(layout.place(t)),
            Step::In(_) => None,
        });
    }
    let mut fresh = Vec::new();
    if let Some(e) = bounds {
        edits.messages(&mut |pieces| {
            if let Some(t) = new_tensor(pieces, e) {
                fresh.push(layout.place(&t));
                count(&mut moved.out, &t);
            }
        });
    }
    let names = names(layout.files.len());
    let lying = |place: &Place| Lying {
        location: names.get(place.file).map_or("", String::as_str),
        offset: place.offset,
        length: place.len,
    };
    for ((t, step), place) in steps.iter().zip(&places) {
        match (step, place) {
            (Step::Out(_), Some(place)) => lying(place).leave(&mut edits, t),
            (Step::In(data), _) => enter(&mut edits, t, data),
            _ => {}
        }
    }
    if let Some(e) = bounds {
        let mut fresh = fresh.iter();
        edits.messages(&mut |pieces| {
            if new_tensor(pieces, e).is_some()
                && let Some(place) = fresh.next()
            {
                pieces.retain(|p| !matches!(p, Piece::Tensor(RAW, _)));
                pieces.push(Piece::Fields(lying(place).entries()));
                pieces.push(Piece::Fields(Lying::kind()));
            }
        });
    }
    moved.edits = edits;
    moved.data = layout.files;
    Ok(moved)
}

/// What happens to each tensor that stays in the file; counts it.
fn decide<'o>(
    original: &'o Original,
    edits: &Edits,
    weights: &Weights,
    moved: &mut Moved,
) -> Result<Vec<(&'o raw::Tensor, Step)>> {
    let mut files = original.files();
    let mut lower = Lower::new(Arc::clone(&original.source), original.files(), false)?;
    let mut steps = Vec::new();
    walk(&original.raw, original.whole(), edits, &mut |item| {
        let Item::Tensor(t, role) = item else {
            return Ok(());
        };
        if edits.gives(t.span, EXTERNAL) {
            // Another change has said where it lies.
            return Ok(());
        }
        // Or has given it other bytes.
        let new = edits.tensor(t.span, RAW);
        let beside = new.is_none() && t.is_external();
        let movable = matches!(role, Role::Initializer | Role::Constant);
        let out = match weights {
            Weights::Keep | Weights::Inline => false,
            _ if shape_like(t) => false,
            Weights::External(e) if beside => e.gather && e.takes(new_size(t, None)),
            Weights::External(e) => movable && e.takes(new_size(t, new)),
        };
        let into = beside
            && !out
            && match weights {
                Weights::Keep => false,
                Weights::Inline => true,
                Weights::External(e) => e.gather,
            };
        if !out && !into {
            if beside {
                moved.kept.insert(external::place(t)?.location);
            }
            return Ok(());
        }
        whole(t)?;
        if beside {
            at_hand(&mut files, t)?;
        }
        let data = match new {
            Some(t) => Arc::clone(t),
            None => Arc::new(lower.tensor(t)?),
        };
        let counted = if out { &mut moved.out } else { &mut moved.into };
        count(counted, &data);
        steps.push((t, if out { Step::Out(data) } else { Step::In(data) }));
        Ok(())
    })?;
    Ok(steps)
}

fn count((n, bytes): &mut (u64, u64), t: &Tensor) {
    *n = n.saturating_add(1);
    *bytes = bytes.saturating_add(t.byte_len());
}

/// The bytes of a tensor, 0 for texts and for what is no tensor.
fn new_size(t: &raw::Tensor, new: Option<&Arc<Tensor>>) -> u64 {
    if let Some(t) = new {
        return t.byte_len();
    }
    let dims: Option<Vec<u64>> = t.dims.iter().map(|d| u64::try_from(*d).ok()).collect();
    let size = types::dtype(t.data_type).zip(dims);
    size.and_then(|(d, dims)| d.size_of(&dims)).unwrap_or(0)
}

/// Whether a tensor may be what shapes are inferred from: a few integers. Runtimes read those
/// before they open other files, and refuse a model where they lie there.
fn shape_like(t: &raw::Tensor) -> bool {
    let integers = matches!(types::dtype(t.data_type), Some(DType::I64 | DType::I32));
    integers && t.dims.len() < 2 && new_size(t, None) < THRESHOLD
}

fn at_hand(files: &mut Files, t: &raw::Tensor) -> Result<()> {
    let place = external::place(t)?;
    let opened = files.open(&place.location);
    opened.map(|_| ()).map_err(|why| why.error())
}

/// The tensor that comes into the file with `pieces`, where it is one to lie beside it.
fn new_tensor(pieces: &[Piece], external: &External) -> Option<Arc<Tensor>> {
    pieces.iter().find_map(|p| match p {
        Piece::Tensor(RAW, t) if external.takes(t.byte_len()) => Some(Arc::clone(t)),
        _ => None,
    })
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    offset: u64,
    len: u64,
}

/// Files being laid out.
struct Layout {
    files: Vec<Data>,
    most_bytes: u64,
    most_tensors: u64,
    alignment: Alignment,
    /// Runs of other files that have their place already: tensors that share one, share it again.
    shared: HashMap<(usize, u64, u64), Place>,
}

impl Layout {
    fn new(bounds: Option<&External>) -> Self {
        Self {
            files: Vec::new(),
            most_bytes: bounds.and_then(|e| e.max_size).unwrap_or(u64::MAX),
            most_tensors: bounds.and_then(|e| e.max_tensors).unwrap_or(u64::MAX),
            alignment: bounds.map_or(Alignment::WINDOWS, |e| e.alignment),
            shared: HashMap::new(),
        }
    }

    fn place(&mut self, t: &Arc<Tensor>) -> Place {
        let len = t.byte_len();
        let run = raw_bytes(t).map(|(s, at)| (Arc::as_ptr(s).cast::<u8>() as usize, at, len));
        if let Some(place) = run.and_then(|r| self.shared.get(&r)) {
            return *place;
        }
        let next = |f: &Data| {
            let offset = self.alignment.next(f.len, len)?;
            let fits = offset.checked_add(len)? <= self.most_bytes;
            ((f.items.len() as u64) < self.most_tensors && fits).then_some(offset)
        };
        let found = self.files.last().and_then(next);
        if found.is_none() {
            self.files.push(Data::default());
        }
        let place = Place {
            file: self.files.len().saturating_sub(1),
            offset: found.unwrap_or(0),
            len,
        };
        if let Some(f) = self.files.last_mut() {
            f.items.push((place.offset, Arc::clone(t)));
            f.len = place.offset.saturating_add(len);
        }
        if let Some(run) = run {
            self.shared.insert(run, place);
        }
        place
    }
}
