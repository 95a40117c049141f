use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::DType;
use super::metadata::Value;
use super::storage::Storage;
use crate::error::{Error, Result};

/// Extents or strides, one per dimension; inline for the usual four.
pub type Shape = SmallVec<[u64; 4]>;

/// How a tensor's values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One value for every index.
    #[default]
    Strided,
    /// Coordinates and values.
    SparseCoo,
    /// Compressed rows.
    SparseCsr,
    /// Compressed columns.
    SparseCsc,
    /// Compressed rows of blocks.
    SparseBsr,
    /// Compressed columns of blocks.
    SparseBsc,
    /// A shape without data (torch's meta device).
    Meta,
}

impl Layout {
    /// torch's spelling without the `torch.` prefix.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strided => "strided",
            Self::SparseCoo => "sparse_coo",
            Self::SparseCsr => "sparse_csr",
            Self::SparseCsc => "sparse_csc",
            Self::SparseBsr => "sparse_bsr",
            Self::SparseBsc => "sparse_bsc",
            Self::Meta => "meta",
        }
    }
}

/// The affine quantization of a torch quantized tensor: `value = (q - zero_point) × scale`.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // lives in the boxed `Extra` of few tensors
pub enum Quantization {
    /// One scale for the tensor.
    PerTensor {
        /// The step between neighbouring values.
        scale: f64,
        /// The stored integer that means zero.
        zero_point: i64,
    },
    /// One scale for each index along `axis`.
    PerChannel {
        /// The dimension the scales run along.
        axis: usize,
        /// The scales, a float tensor of one dimension.
        scales: Tensor,
        /// The zero points, an integer tensor, or a float tensor for
        /// `per_channel_affine_float_qparams`.
        zero_points: Tensor,
        /// Whether the zero points are floats added after scaling.
        float_qparams: bool,
    },
}

/// The parts of a sparse tensor.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// COO: `[indices]` of shape `[sparse_dim, nnz]`. Compressed: `[compressed, plain]` indices.
    pub indices: Vec<Tensor>,
    /// The stored values.
    pub values: Tensor,
}

/// A row-major run inside a storage.
#[derive(Debug, Clone)]
pub struct View {
    /// The storage.
    pub storage: Arc<Storage>,
    /// Byte offset of the first element.
    pub offset: u64,
}

/// A strided view of a storage.
#[derive(Debug, Clone)]
pub struct Strided {
    /// The storage.
    pub storage: Arc<Storage>,
    /// Offset of the first element, in elements.
    pub offset: u64,
    /// Step of each dimension, in elements.
    pub strides: Shape,
    /// Whether values are conjugated on reading (torch's lazy conj bit).
    pub conj: bool,
    /// Whether values are negated on reading (torch's lazy neg bit).
    pub neg: bool,
}

/// One box of an assembled tensor.
#[derive(Debug, Clone)]
pub struct Piece {
    /// First index of the box in every dimension.
    pub start: Shape,
    /// Extent of the box in every dimension.
    pub shape: Shape,
    /// Where the box's values come from: `View` or `Strided`, row-major over `shape`.
    pub source: TensorSource,
}

/// A tensor put together from boxes of others: shards, partitions, rank files.
#[derive(Debug, Clone)]
pub struct Assembly {
    /// The shape the boxes tile; as many elements as the tensor has, perhaps flattened.
    pub shape: Shape,
    /// The boxes. They cover every index exactly once (checked by [`Assembly::check`]).
    pub pieces: Vec<Piece>,
}

impl Assembly {
    /// Checks that the boxes lie inside the shape, do not overlap and cover it.
    ///
    /// # Errors
    /// `Malformed` naming the first box that does not fit.
    pub fn check(&self) -> Result<()> {
        let bad = |m: String| Err(Error::malformed("shards.bad-tiling", m));
        let mut covered: u64 = 0;
        for (i, p) in self.pieces.iter().enumerate() {
            if p.start.len() != self.shape.len() || p.shape.len() != self.shape.len() {
                return bad(format!("part {i} has another number of dimensions"));
            }
            let mut n: u64 = 1;
            for ((&s, &l), &whole) in p.start.iter().zip(&p.shape).zip(&self.shape) {
                if s.checked_add(l).is_none_or(|e| e > whole) {
                    return bad(format!("part {i} reaches outside the tensor"));
                }
                n = n.saturating_mul(l);
            }
            covered = covered.saturating_add(n);
        }
        let whole = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if whole != Some(covered) {
            return bad(format!(
                "the parts hold {covered} values, the tensor has {whole:?}"
            ));
        }
        // Equal counts and no overlap mean an exact cover. Sorting along the dimension with most
        // cuts makes the pair test nearly linear for the tilings that exist in practice.
        let cuts = |d: &usize| {
            let starts = self.pieces.iter().filter_map(|p| p.start.get(*d));
            starts.collect::<std::collections::HashSet<_>>().len()
        };
        let axis = (0..self.shape.len()).max_by_key(cuts).unwrap_or(0);
        let mut order: Vec<&Piece> = self
            .pieces
            .iter()
            .filter(|p| p.shape.iter().all(|&l| l > 0))
            .collect();
        order.sort_by_key(|p| p.start.get(axis).copied());
        for (i, a) in order.iter().enumerate() {
            for b in order.iter().skip(i + 1) {
                let (Some(&a0), Some(&al), Some(&b0)) =
                    (a.start.get(axis), a.shape.get(axis), b.start.get(axis))
                else {
                    return bad("a scalar has more than one part".into());
                };
                if b0 >= a0 + al {
                    break;
                }
                let apart = (0..a.start.len()).any(|d| {
                    let get = |v: &Shape| v.get(d).copied().unwrap_or(0);
                    get(&a.start) + get(&a.shape) <= get(&b.start)
                        || get(&b.start) + get(&b.shape) <= get(&a.start)
                });
                if !apart {
                    return bad("two parts overlap".into());
                }
            }
        }
        Ok(())
    }
}

/// Values that are computed while they are read: a cast, a dequantization, a densification.
pub trait Compute: Send + Sync + std::fmt::Debug {
    /// Gives the tensor's row-major little-endian bytes in order, in pieces of whole elements.
    ///
    /// # Errors
    /// Whatever reading the inputs gives, and what `sink` returns.
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;

    /// How many bytes that gives, for values whose dtype and shape do not tell (texts); `None`
    /// where only reading tells.
    fn byte_len(&self) -> Option<u64> {
        None
    }

    /// The tensor of the file, where the values are that one's and only their bytes are others.
    fn stored(&self) -> Option<&Tensor> {
        None
    }
}

/// Where a tensor's bytes come from.
#[derive(Debug, Clone)]
pub enum TensorSource {
    /// A row-major run in a storage.
    View(View),
    /// A strided view of a storage.
    Strided(Box<Strided>),
    /// Boxes of other tensors.
    Assembled(Arc<Assembly>),
    /// Computed while read.
    Computed(Arc<dyn Compute>),
    /// Nowhere: meta tensors and the shells of sparse tensors.
    Absent,
}

/// What few tensors have.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// The meaningful path where the format's own name is another (Keras variable paths).
    pub label: Option<String>,
    /// Affine quantization.
    pub quantization: Option<Quantization>,
    /// The parts of a sparse tensor.
    pub sparse: Option<Sparse>,
    /// What else the file says of the tensor: `requires_grad`, `class`, `placements`…
    pub attributes: Vec<(String, Value)>,
}

/// A tensor: its description, and where its bytes are.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name, as the format has it.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape, outermost dimension first.
    pub shape: Shape,
    /// The layout.
    pub layout: Layout,
    /// Where the bytes come from.
    pub source: TensorSource,
    /// What few tensors have.
    pub extra: Option<Box<Extra>>,
}

impl Tensor {
    /// A dense tensor.
    pub fn new(name: impl Into<String>, dtype: DType, shape: &[u64], source: TensorSource) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
            layout: Layout::Strided,
            source,
            extra: None,
        }
    }

    /// The rare fields, made when absent.
    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The meaningful path, where it is not the name.
    pub fn label(&self) -> Option<&str> {
        self.extra.as_ref()?.label.as_deref()
    }

    /// The affine quantization, of a quantized tensor.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.extra.as_ref()?.quantization.as_ref()
    }

    /// The parts, of a sparse tensor.
    pub fn sparse(&self) -> Option<&Sparse> {
        self.extra.as_ref()?.sparse.as_ref()
    }

    /// Number of elements; `None` on overflow.
    pub fn numel(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
    }

    /// Bytes of the contiguous values: 0 for tensors without data of their own, and for texts of
    /// which only reading tells.
    pub fn byte_len(&self) -> u64 {
        match &self.source {
            TensorSource::Absent => return 0,
            TensorSource::Computed(c) if self.dtype.is_text() => return c.byte_len().unwrap_or(0),
            _ => {}
        }
        self.dtype.size_of(&self.shape).unwrap_or(u64::MAX)
    }

    /// Whether there are dense bytes to read.
    pub fn has_data(&self) -> bool {
        !matches!(self.source, TensorSource::Absent)
    }

    /// The storage it views and the range of bytes it touches there (`None` for assembled,
    /// computed, absent and empty tensors).
    pub fn extent(&self) -> Option<(&Arc<Storage>, std::ops::Range<u64>)> {
        let len = self.byte_len();
        if len == 0 {
            return None;
        }
        match &self.source {
            TensorSource::View(v) => Some((&v.storage, v.offset..v.offset.checked_add(len)?)),
            TensorSource::Strided(s) => {
                let width = self.dtype.bytes()?;
                let mut last = s.offset;
                for (&d, &st) in self.shape.iter().zip(&s.strides) {
                    last = last.checked_add(d.checked_sub(1)?.checked_mul(st)?)?;
                }
                let start = s.offset.checked_mul(width)?;
                Some((&s.storage, start..last.checked_add(1)?.checked_mul(width)?))
            }
            _ => None,
        }
    }

    /// The bytes themselves when they already lie in memory row-major and little-endian: a
    /// mapped file, nothing copied. Reads nothing and verifies no checksum.
    pub fn borrowed(&self) -> Option<&[u8]> {
        match &self.source {
            TensorSource::View(v) if !v.storage.is_big_endian() || self.dtype.swap_width() == 1 => {
                v.storage
                    .slice(v.offset..v.offset.checked_add(self.byte_len())?)
            }
            _ => None,
        }
    }

    /// The row-major little-endian bytes: borrowed from the mapping where the layout allows, else
    /// read (and verified against the container's checksum) into memory.
    ///
    /// # Errors
    /// Whatever reading gives; `Unsupported` for tensors without dense data.
    ///
    /// # Examples
    /// ```
    /// # use weighbridge_core::model::Tensor;
    /// fn first_byte(t: &Tensor) -> weighbridge_core::Result<Option<u8>> {
    ///     Ok(t.bytes()?.first().copied())
    /// }
    /// ```
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        if let Some(b) = self.borrowed() {
            return Ok(Cow::Borrowed(b));
        }
        self.read_vec().map(Cow::Owned)
    }
}

/// See [`super::Model::alias_groups`].
pub(super) fn alias_groups(tensors: &[Tensor]) -> Vec<Vec<usize>> {
    let mut by_storage: HashMap<*const Storage, Vec<usize>> = HashMap::new();
    for (i, t) in tensors.iter().enumerate() {
        if let Some((storage, _)) = t.extent()
            && !storage.is_region()
        {
            by_storage.entry(Arc::as_ptr(storage)).or_default().push(i);
        }
    }
    let mut groups: Vec<Vec<usize>> = by_storage.into_values().filter(|g| g.len() > 1).collect();
    groups.sort();
    groups
}
