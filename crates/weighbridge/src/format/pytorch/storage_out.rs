//! Which storages a checkpoint gets, and where each tensor lies in them: ties and views keep
//! sharing, everything else is written row-major.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{
    Chunks, DType, Layout as TensorLayout, Model, Quantization, Shape, Storage, Tensor,
    TensorSource, View,
};

use super::alias_out;
use super::dtype;

/// Views that leave less than this share of their joint span unseen stay in one storage.
const SPARSE_SPAN: u64 = 2;

/// Every width divides this, so a span that starts at a multiple of it fits every view in it.
const WIDEST: u64 = 16;

/// What `torch` calls the elements of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A class of its own, such as `FloatStorage`; sizes count elements.
    Typed(&'static str),
    /// `UntypedStorage`; sizes count bytes.
    Untyped,
}

/// A run of a tensor's row-major bytes.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) tensor: Tensor,
    pub(super) skip: u64,
    pub(super) take: u64,
}

/// A storage to write.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) class: Class,
    /// In elements, or in bytes when untyped.
    pub(super) numel: u64,
    pub(super) bytes: u64,
    pub(super) runs: Vec<Run>,
}

/// A tensor's view of a storage, in torch's terms: packed pairs count as one element.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) store: usize,
    pub(super) offset: u64,
    pub(super) shape: Shape,
    pub(super) strides: Shape,
    pub(super) conj: bool,
    pub(super) neg: bool,
}

/// A dense tensor: one of the model's, or a part of one (scales, indices, values).
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    pub(super) tensor: &'a Tensor,
    /// `None` until it is placed, and for tensors that cannot be written.
    pub(super) place: Option<Place>,
}

/// Where everything goes.
#[derive(Debug, Default)]
pub(super) struct Layout<'a> {
    /// The model's tensors under their own index, then parts.
    pub(super) leaves: Vec<Leaf<'a>>,
    /// The parts of a tensor: scales and zero points, or indices and values.
    pub(super) parts: HashMap<usize, Vec<usize>>,
    pub(super) stores: Vec<Store>,
    /// Groups whose sharing could not be kept: names and why.
    pub(super) unshared: Vec<(String, &'static str)>,
    /// For every recorded alias group, whether it is rebuilt.
    pub(super) verdicts: Vec<bool>,
}

impl<'a> Layout<'a> {
    /// Plans the storages of `model`. Recorded aliases are compared by content, unless `verdicts`
    /// of an earlier planning say which of them hold.
    pub(super) fn new(model: &'a Model, verdicts: Option<&[bool]>) -> Result<Self> {
        let mut all = Self::default();
        for t in &model.tensors {
            all.leaves.push(Leaf {
                tensor: t,
                place: None,
            });
        }
        for (i, t) in model.tensors.iter().enumerate() {
            let mut parts: Vec<&Tensor> = Vec::new();
            if let Some(Quantization::PerChannel {
                scales,
                zero_points,
                ..
            }) = t.quantization()
            {
                parts.extend([scales, zero_points]);
            }
            if let Some(s) = t.sparse() {
                parts.extend(s.indices.iter().chain([&s.values]));
            }
            for tensor in parts {
                all.parts.entry(i).or_default().push(all.leaves.len());
                all.leaves.push(Leaf {
                    tensor,
                    place: None,
                });
            }
        }
        all.share_storages();
        alias_out::rebuild(&mut all, model, verdicts)?;
        for i in 0..all.leaves.len() {
            all.place_alone(i);
        }
        Ok(all)
    }

    pub(super) fn tensor(&self, leaf: usize) -> Option<&'a Tensor> {
        self.leaves.get(leaf).map(|l| l.tensor)
    }

    pub(super) fn is_placed(&self, leaf: usize) -> bool {
        self.leaves.get(leaf).is_none_or(|l| l.place.is_some())
    }

    pub(super) fn set_place(&mut self, leaf: usize, place: Place) {
        if let Some(l) = self.leaves.get_mut(leaf) {
            l.place = Some(place);
        }
    }

    /// Groups the leaves that view one storage of the input.
    fn share_storages(&mut self) {
        let mut by_storage: HashMap<*const Storage, usize> = HashMap::new();
        let mut groups: Vec<(&'a Arc<Storage>, Vec<Member>)> = Vec::new();
        for (leaf, l) in self.leaves.iter().enumerate() {
            let Some((storage, range)) = l.tensor.extent() else {
                continue;
            };
            let Some(member) = Member::new(leaf, l.tensor, range) else {
                continue;
            };
            if storage.is_region() {
                continue;
            }
            let slot = *by_storage.entry(Arc::as_ptr(storage)).or_insert_with(|| {
                groups.push((storage, Vec::new()));
                groups.len() - 1
            });
            if let Some(g) = groups.get_mut(slot) {
                g.1.push(member);
            }
        }
        for (storage, members) in groups {
            for cluster in clusters(members) {
                match cluster.as_slice() {
                    [one] => self.keep_strides(storage, one),
                    _ => self.share(storage, &cluster),
                }
            }
        }
    }

    /// A strided tensor that is alone in its storage keeps its strides where that takes no more
    /// bytes than writing it row-major.
    fn keep_strides(&mut self, storage: &Arc<Storage>, m: &Member) {
        let Some(t) = self.tensor(m.leaf) else { return };
        let strided = matches!(t.source, TensorSource::Strided(_));
        if strided && m.range.end - m.range.start <= t.byte_len() {
            self.share(storage, std::slice::from_ref(m));
        }
    }

    /// Writes the joint span of `members` once, with every one of them a view of it.
    fn share(&mut self, storage: &Arc<Storage>, members: &[Member]) {
        match self.try_share(storage, members) {
            Ok(()) => {}
            Err(why) => {
                let names: Vec<&str> = members
                    .iter()
                    .filter_map(|m| self.tensor(m.leaf))
                    .map(|t| t.name.as_str())
                    .filter(|n| !n.is_empty())
                    .collect();
                if names.len() > 1 {
                    self.unshared.push((names.join(", "), why));
                }
            }
        }
    }

    fn try_share(
        &mut self,
        storage: &Arc<Storage>,
        members: &[Member],
    ) -> Result<(), &'static str> {
        let start = members.iter().map(|m| m.range.start).min().unwrap_or(0);
        let end = members.iter().map(|m| m.range.end).max().unwrap_or(0);
        let Some(first) = members.first().and_then(|m| self.tensor(m.leaf)) else {
            return Ok(());
        };
        let same = members
            .iter()
            .all(|m| self.tensor(m.leaf).is_some_and(|t| t.dtype == first.dtype));
        let base = if same { start } else { start / WIDEST * WIDEST };
        if members
            .iter()
            .any(|m| !(m.first - base).is_multiple_of(m.width))
        {
            return Err("its views do not lie at multiples of their elements");
        }
        let class = dtype::storage_class_of(first.dtype).filter(|_| same);
        if class.is_none()
            && members
                .iter()
                .any(|m| self.tensor(m.leaf).is_some_and(|t| t.dtype.is_quantized()))
        {
            return Err("torch keeps quantized tensors in storages of one dtype");
        }
        let swap = |m: &Member| self.tensor(m.leaf).map(|t| t.dtype.swap_width());
        if storage.is_big_endian()
            && members
                .iter()
                .any(|m| swap(m) != Some(first.dtype.swap_width()))
        {
            return Err("big-endian elements of several widths lie in it");
        }
        // The span as a tensor of its own: reading it turns big-endian elements round.
        let (dtype, width) = match (same, first.dtype.bytes()) {
            (true, Some(w)) => (first.dtype, w),
            _ if storage.is_big_endian() => (first.dtype, first.dtype.bytes().unwrap_or(1)),
            _ => (DType::U8, 1),
        };
        let bytes = end - base;
        if !bytes.is_multiple_of(width) {
            return Err("its span is no whole number of elements");
        }
        let view = TensorSource::View(View {
            storage: Arc::clone(storage),
            offset: base,
        });
        let span = Tensor::new(storage.name(), dtype, &[bytes / width], view);
        let store = self.add_store(class, bytes, vec![whole(span)]);
        for m in members {
            let (conj, neg) = match self.tensor(m.leaf).map(|t| &t.source) {
                Some(TensorSource::Strided(s)) => (s.conj, s.neg),
                _ => (false, false),
            };
            self.set_place(
                m.leaf,
                Place {
                    store,
                    offset: (m.first - base) / m.width,
                    shape: m.shape.clone(),
                    strides: m.strides.clone(),
                    conj,
                    neg,
                },
            );
        }
        Ok(())
    }

    /// Adds a storage of `bytes` with class `class`, or an untyped one.
    pub(super) fn add_store(
        &mut self,
        class: Option<&'static str>,
        bytes: u64,
        runs: Vec<Run>,
    ) -> usize {
        let width = runs
            .first()
            .and_then(|r| r.tensor.dtype.bytes())
            .unwrap_or(1);
        self.stores.push(Store {
            class: class.map_or(Class::Untyped, Class::Typed),
            numel: if class.is_some() {
                bytes / width
            } else {
                bytes
            },
            bytes,
            runs,
        });
        self.stores.len() - 1
    }

    /// Gives a leaf that shares nothing a storage of its own.
    fn place_alone(&mut self, leaf: usize) {
        let Some(t) = self.tensor(leaf).filter(|t| t.has_data()) else {
            return;
        };
        if self.is_placed(leaf) || refusal(t).is_some() {
            return;
        }
        let Some(shape) = torch_shape(t) else { return };
        let class = dtype::storage_class_of(t.dtype);
        let store = self.add_store(class, t.byte_len(), vec![whole(t.clone())]);
        let strides = row_major(&shape);
        self.set_place(
            leaf,
            Place {
                store,
                offset: 0,
                shape,
                strides,
                conj: false,
                neg: false,
            },
        );
    }
}

/// One view of a shared storage.
struct Member {
    leaf: usize,
    /// Bytes it touches.
    range: Range<u64>,
    /// Its first element, in bytes.
    first: u64,
    /// Bytes of an element, in torch's terms.
    width: u64,
    shape: Shape,
    strides: Shape,
}

impl Member {
    fn new(leaf: usize, t: &Tensor, range: Range<u64>) -> Option<Self> {
        if refusal(t).is_some() {
            return None;
        }
        // Quantized nibbles have no byte offset for every element: they are written alone.
        let width = match t.dtype {
            DType::F4 => 1,
            d => d.bytes()?,
        };
        let shape = torch_shape(t)?;
        let (first, strides) = match &t.source {
            TensorSource::View(v) => (v.offset, row_major(&shape)),
            TensorSource::Strided(s) => (s.offset.checked_mul(width)?, s.strides.clone()),
            _ => return None,
        };
        Some(Self {
            leaf,
            range,
            first,
            width,
            shape,
            strides,
        })
    }
}

/// Splits the views of a storage where they leave most of it unseen: into runs that touch.
fn clusters(mut members: Vec<Member>) -> Vec<Vec<Member>> {
    members.sort_by_key(|m| (m.range.start, m.leaf));
    let mut out: Vec<(u64, Vec<Member>)> = Vec::new();
    let (mut seen, mut begin) = (0u64, 0u64);
    for m in members {
        match out.last_mut() {
            Some((end, cluster)) if m.range.start <= *end => {
                seen += m.range.end.saturating_sub(*end);
                *end = m.range.end.max(*end);
                cluster.push(m);
            }
            _ => {
                if out.is_empty() {
                    begin = m.range.start;
                }
                seen += m.range.end - m.range.start;
                out.push((m.range.end, vec![m]));
            }
        }
    }
    let span = out.last().map_or(0, |(end, _)| end - begin);
    if span <= seen.saturating_mul(SPARSE_SPAN) {
        return vec![out.into_iter().flat_map(|(_, c)| c).collect()];
    }
    out.into_iter().map(|(_, c)| c).collect()
}

/// A run of all of a tensor.
pub(super) fn whole(tensor: Tensor) -> Run {
    let take = tensor.byte_len();
    Run {
        tensor,
        skip: 0,
        take,
    }
}

impl Run {
    /// Gives its bytes in order to `sink`.
    pub(super) fn stream(
        &self,
        chunks: &mut Chunks,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut skip, mut take) = (self.skip, self.take);
        self.tensor.stream(chunks, &mut |part| {
            let from = skip.min(part.len() as u64) as usize;
            skip -= from as u64;
            let rest = part.get(from..).unwrap_or_default();
            let n = take.min(rest.len() as u64) as usize;
            take -= n as u64;
            match rest.get(..n) {
                Some(part) if n > 0 => sink(part),
                _ => Ok(()),
            }
        })
    }
}

/// The shape torch gives a tensor; `None` for packed values that fill no whole number of bytes
/// along the last dimension.
pub(super) fn torch_shape(t: &Tensor) -> Option<Shape> {
    let mut shape = t.shape.clone();
    if t.dtype == DType::F4 {
        let last = shape.last_mut()?;
        if !last.is_multiple_of(2) {
            return None;
        }
        *last /= 2;
    }
    Some(shape)
}

/// Row-major strides as torch computes them: empty dimensions count as one.
pub(super) fn row_major(shape: &[u64]) -> Shape {
    let mut strides = Shape::from_elem(1, shape.len());
    let mut n = 1u64;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = n;
        n = n.saturating_mul(d.max(1));
    }
    strides
}

/// Why a tensor cannot be written, if it cannot.
pub(super) fn refusal(t: &Tensor) -> Option<String> {
    if dtype::name_of(t.dtype).is_none() {
        return Some(format!("torch has no dtype {}", t.dtype));
    }
    if t.layout == TensorLayout::Meta {
        return None;
    }
    if t.layout != TensorLayout::Strided {
        let Some(s) = t.sparse() else {
            return Some("a sparse tensor without its parts".into());
        };
        return s.indices.iter().chain([&s.values]).find_map(refusal);
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    let packed = match t.dtype {
        DType::U4 | DType::U2 => t.quantization().is_some(),
        _ => true,
    };
    if t.dtype.is_quantized() && t.quantization().is_none() || !packed {
        return Some(format!("a {} tensor without scales", t.dtype));
    }
    let bits = t
        .shape
        .last()
        .copied()
        .unwrap_or(1)
        .saturating_mul(t.dtype.bits().unwrap_or(1));
    if t.dtype.bytes().is_none() && bits % 8 != 0 {
        return Some(format!(
            "torch packs {} along the last dimension, which is no whole number of bytes here",
            t.dtype
        ));
    }
    match t.quantization() {
        Some(Quantization::PerChannel {
            scales,
            zero_points,
            ..
        }) => [scales, zero_points].into_iter().find_map(refusal),
        _ => None,
    }
}
