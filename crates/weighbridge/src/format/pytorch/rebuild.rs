//! The constructors that make tensors: `torch._utils._rebuild_*` and their kin, read as data.

use std::sync::Arc;

use weighbridge_core::model::{
    DType, Extra, Layout, Quantization, Shape, Sparse, Storage, StorageData, Strided, Tensor,
    TensorSource, Value, View,
};
use weighbridge_core::pickle::{Call, Node, NodeId};
use weighbridge_core::source::SliceSource;
use weighbridge_core::{Error, Result};

use super::lower::Lower;
use super::storages::{self, StorageRef};
use super::{dtype, numpy};

fn bad<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::malformed("pytorch.rebuild-arguments", message))
}

/// Most dimensions of a tensor.
const DIMENSIONS: usize = 64;

/// How deep tensor constructors may wrap each other.
const WRAPS: u32 = 16;

impl Lower<'_, '_> {
    /// The tensor that `call` would make, if its callee is a tensor constructor. The result has no
    /// name yet.
    pub(super) fn tensor_of(&mut self, call: &Call, depth: u32) -> Result<Option<Tensor>> {
        if depth > WRAPS {
            return Err(Error::limit(
                "pytorch.nested-rebuild",
                "tensor constructors wrap too deep",
            ));
        }
        self.trace.check_work()?;
        self.deeper(|s| s.constructed(call, depth))
    }

    fn constructed(&mut self, call: &Call, depth: u32) -> Result<Option<Tensor>> {
        let Some(global) = self.trace.global(call.callee) else {
            return Ok(None);
        };
        let Some(args) = self.trace.items(call.args) else {
            return Ok(None);
        };
        let made = match (global.module.as_str(), global.name.as_str()) {
            ("torch._utils", name) => match name {
                "_rebuild_tensor" | "_rebuild_tensor_v2" => self.dense(args, None)?,
                "_rebuild_tensor_v3" => {
                    let Some(&d) = args.get(6) else {
                        return bad("_rebuild_tensor_v3 has no dtype");
                    };
                    let d = self.dtype_arg(d)?;
                    self.dense(args, Some(d))?
                }
                "_rebuild_parameter" | "_rebuild_parameter_with_state" => {
                    let mut t = self.inner(args.first().copied(), depth)?;
                    self.mark_parameter(&mut t, args)?;
                    t
                }
                "_rebuild_qtensor" => self.quantized(args, depth)?,
                "_rebuild_sparse_tensor" => self.sparse(args, depth)?,
                "_rebuild_meta_tensor_no_storage" => self.meta(args)?,
                "_rebuild_device_tensor_numpy_tensor" | "_rebuild_xla_tensor" => {
                    self.numpy_tensor(args)?
                }
                "_rebuild_device_tensor_from_cpu_tensor" => {
                    self.inner(args.first().copied(), depth)?
                }
                _ => return Ok(None),
            },
            ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => {
                return self.rebuilt_type(args, call.offset, depth);
            }
            ("torch.jit._pickle", "restore_type_tag") => {
                let trace = self.trace;
                return match args.first().map(|&id| (id, trace.node(id))) {
                    Some((id, Node::Call(c))) => self.draft_at(id, c, depth + 1),
                    _ => Ok(None),
                };
            }
            _ => return Ok(None),
        };
        Ok(Some(made))
    }

    /// The tensor that an argument is.
    fn inner(&mut self, id: Option<NodeId>, depth: u32) -> Result<Tensor> {
        let trace = self.trace;
        let made = match id.map(|id| (id, trace.node(id))) {
            Some((id, Node::Call(c))) => self.draft_at(id, c, depth + 1)?,
            Some((_, Node::Persistent(p))) => self.tensor_by_id(*p),
            _ => None,
        };
        made.ok_or_else(|| {
            Error::malformed(
                "pytorch.rebuild-arguments",
                "an argument that must be a tensor is none",
            )
        })
    }

    /// A tensor that is a part of another one: dense itself.
    fn part(&mut self, id: Option<NodeId>, depth: u32) -> Result<Tensor> {
        let t = self.inner(id, depth)?;
        if t.layout != Layout::Strided || t.quantization().is_some() {
            return bad("a part of a sparse or quantized tensor is no dense tensor");
        }
        Ok(t)
    }

    pub(super) fn storage_arg(&mut self, id: Option<NodeId>) -> Result<StorageRef> {
        let trace = self.trace;
        match id.map(|id| trace.node(id)) {
            Some(Node::Persistent(p)) => {
                let request = storages::request(self.trace, *p)?;
                storages::resolve(self.storages, &request)
            }
            Some(Node::Call(c)) => match self.nested_storage(c)? {
                Some(s) => Ok(s),
                None => bad("the storage of a tensor is no persistent id"),
            },
            _ => bad("the storage of a tensor is no persistent id"),
        }
    }

    pub(super) fn dims(&self, id: Option<NodeId>, what: &str) -> Result<Shape> {
        let items = id.and_then(|id| self.int_list(id));
        let Some(items) = items else {
            return bad(format!("the {what} of a tensor is no tuple"));
        };
        if items.len() > DIMENSIONS {
            return Err(Error::malformed(
                "pytorch.too-many-dimensions",
                format!(
                    "a tensor has {} dimensions, torch allows {DIMENSIONS}",
                    items.len()
                ),
            ));
        }
        items
            .iter()
            .map(|&i| {
                let n = self.trace.int(i).and_then(|n| u64::try_from(n).ok());
                n.ok_or_else(|| {
                    let shown = self.trace.render(i, 40);
                    Error::malformed(
                        "pytorch.bad-dimension",
                        format!("the {what} of a tensor holds {shown}, which is no count"),
                    )
                })
            })
            .collect()
    }

    /// A tuple or list of numbers, plain, as `torch.Size` or as TorchScript's `build_intlist`.
    fn int_list(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.trace.node(id) {
            Node::Call(c) => self.trace.items(*self.trace.items(c.args)?.first()?),
            _ => self.trace.items(id),
        }
    }

    fn dtype_arg(&self, id: NodeId) -> Result<DType> {
        match self.trace.global(id) {
            Some(g) if g.module == "torch" => dtype::of_name(&g.name).ok_or_else(|| {
                Error::unsupported(
                    "pytorch.dtype",
                    format!("torch.{} has no element type here", g.name),
                )
            }),
            _ => bad("a dtype argument is no torch dtype"),
        }
    }

    /// `(storage, storage_offset, size, stride, …, metadata)`.
    fn dense(&mut self, args: &[NodeId], dtype: Option<DType>) -> Result<Tensor> {
        let storage = self.storage_arg(args.first().copied())?;
        let Some(dtype) = dtype.or(storage.dtype) else {
            return bad("a tensor over an untyped storage has no dtype");
        };
        let mut t = self.view(&storage, dtype, args)?;
        let hooks_at = if args.len() > 6 && self.trace.global(arg(args, 6)).is_some() {
            7
        } else {
            6
        };
        if let Some(meta) = args.get(hooks_at).and_then(|&m| self.trace.dict(m)) {
            let on = |key: &str| {
                self.trace
                    .lookup(meta, key)
                    .is_some_and(|v| matches!(self.trace.node(v), Node::Bool(true)))
            };
            let (conj, neg) = (on("conj"), on("neg"));
            if conj || neg {
                lazy_signs(&mut t, conj, neg);
            }
        }
        if args
            .get(4)
            .is_some_and(|&r| matches!(self.trace.node(r), Node::Bool(true)))
        {
            t.extra_mut()
                .attributes
                .push(("requires_grad".into(), Value::Bool(true)));
        }
        Ok(t)
    }

    /// The view `(storage_offset, size, stride)` of `storage`, with every bound checked.
    fn view(&mut self, storage: &StorageRef, dtype: DType, args: &[NodeId]) -> Result<Tensor> {
        let offset = args.get(1).and_then(|&o| self.trace.int(o));
        let Some(offset) = offset.and_then(|o| u64::try_from(o).ok()) else {
            return bad("the storage offset of a tensor is no count");
        };
        let shape = self.dims(args.get(2).copied(), "size")?;
        let strides = self.dims(args.get(3).copied(), "stride")?;
        strided_view(storage, dtype, offset, shape, strides)
    }

    fn mark_parameter(&mut self, t: &mut Tensor, args: &[NodeId]) -> Result<()> {
        let grad = args
            .get(1)
            .is_some_and(|&r| matches!(self.trace.node(r), Node::Bool(true)));
        let state = match args.get(3).copied() {
            Some(id) if !matches!(self.trace.node(id), Node::None) => Some(self.plain(id)?),
            _ => None,
        };
        let extra = t.extra_mut();
        extra.attributes.retain(|(k, _)| k != "requires_grad");
        extra.attributes.push((
            "class".into(),
            Value::Str("torch.nn.parameter.Parameter".into()),
        ));
        extra
            .attributes
            .push(("requires_grad".into(), Value::Bool(grad)));
        if let Some(state) = state {
            extra.attributes.push(("state".into(), state));
        }
        Ok(())
    }

    /// `(storage, offset, size, stride, (scheme, …), requires_grad, hooks)`.
    fn quantized(&mut self, args: &[NodeId], depth: u32) -> Result<Tensor> {
        let storage = self.storage_arg(args.first().copied())?;
        let Some(dtype) = storage.dtype else {
            return bad("a quantized tensor lies over an untyped storage");
        };
        let mut t = self.view(&storage, dtype, args)?;
        let trace = self.trace;
        let Some(params) = args.get(4).and_then(|&p| trace.items(p)) else {
            return bad("a quantized tensor has no parameters");
        };
        let scheme = params
            .first()
            .and_then(|&s| self.trace.global(s))
            .map(|g| g.name.clone());
        let quantization = match (scheme.as_deref(), params) {
            (Some("per_tensor_affine" | "per_tensor_symmetric"), [_, scale, zero, ..]) => {
                let scale = match self.trace.node(*scale) {
                    Node::Float(f) => *f,
                    _ => match self.trace.int(*scale) {
                        Some(i) => i as f64,
                        None => return bad("a quantization scale is no number"),
                    },
                };
                let Some(zero_point) = self.trace.int(*zero) else {
                    return bad("a zero point is no number");
                };
                Quantization::PerTensor { scale, zero_point }
            }
            (Some(name), [_, scales, zeros, axis, ..]) if name.starts_with("per_channel") => {
                let axis = self.trace.int(*axis).and_then(|a| usize::try_from(a).ok());
                let Some(axis) = axis.filter(|&a| a < t.shape.len()) else {
                    return bad("a quantization axis is no dimension of the tensor");
                };
                let float_qparams = name.contains("float_qparams");
                let scales = self.part(Some(*scales), depth)?;
                let zero_points = self.part(Some(*zeros), depth)?;
                let channels = t.shape.get(axis).copied();
                if scales.numel() != channels || zero_points.numel() != channels {
                    return bad("a quantized tensor has another number of scales than channels");
                }
                Quantization::PerChannel {
                    axis,
                    scales,
                    zero_points,
                    float_qparams,
                }
            }
            _ => {
                return Err(Error::unsupported(
                    "pytorch.quantization",
                    format!("the quantization scheme {scheme:?}"),
                ));
            }
        };
        t.extra_mut().quantization = Some(quantization);
        Ok(t)
    }

    /// `(layout, data)`: COO `(indices, values, size[, coalesced])`, compressed
    /// `(compressed, plain, values, size)`.
    fn sparse(&mut self, args: &[NodeId], depth: u32) -> Result<Tensor> {
        let layout = match args.first().and_then(|&l| self.layout_name(l)).as_deref() {
            Some("torch.sparse_coo") => Layout::SparseCoo,
            Some("torch.sparse_csr") => Layout::SparseCsr,
            Some("torch.sparse_csc") => Layout::SparseCsc,
            Some("torch.sparse_bsr") => Layout::SparseBsr,
            Some("torch.sparse_bsc") => Layout::SparseBsc,
            other => {
                return Err(Error::unsupported(
                    "pytorch.layout",
                    format!("the layout {other:?}"),
                ));
            }
        };
        let trace = self.trace;
        let Some(data) = args.get(1).and_then(|&d| trace.items(d)) else {
            return bad("a sparse tensor has no parts");
        };
        let n = if layout == Layout::SparseCoo { 1 } else { 2 };
        let mut indices = Vec::new();
        for i in 0..n {
            indices.push(self.part(data.get(i).copied(), depth)?);
        }
        let values = self.part(data.get(n).copied(), depth)?;
        let shape = self.dims(data.get(n + 1).copied(), "size")?;
        let mut t = Tensor::new("", values.dtype, &shape, TensorSource::Absent);
        if t.dtype.size_of(&shape).is_none() {
            return bad("the size of a sparse tensor overflows");
        }
        t.layout = layout;
        let coalesced = (layout == Layout::SparseCoo)
            .then(|| {
                data.get(3)
                    .map(|&c| matches!(self.trace.node(c), Node::Bool(true)))
            })
            .flatten();
        let extra = t.extra_mut();
        extra.sparse = Some(Sparse { indices, values });
        if let Some(c) = coalesced {
            extra
                .attributes
                .push(("is_coalesced".into(), Value::Bool(c)));
        }
        Ok(t)
    }

    pub(super) fn layout_name(&self, id: NodeId) -> Option<String> {
        match self.trace.node(id) {
            Node::Call(c) => {
                let a = self.trace.items(c.args)?;
                self.trace.text(*a.first()?).map(|t| t.into_owned())
            }
            _ => self.trace.global_name(id),
        }
    }

    /// `(dtype, size, stride, requires_grad)`.
    fn meta(&mut self, args: &[NodeId]) -> Result<Tensor> {
        let Some(&d) = args.first() else {
            return bad("a meta tensor has no dtype");
        };
        let dtype = self.dtype_arg(d)?;
        let shape = self.dims(args.get(1).copied(), "size")?;
        if dtype.size_of(&shape).is_none() {
            return bad("the size of a meta tensor overflows");
        }
        let mut t = Tensor::new("", dtype, &shape, TensorSource::Absent);
        t.layout = Layout::Meta;
        Ok(t)
    }

    /// `(array, dtype, device, requires_grad)`.
    fn numpy_tensor(&mut self, args: &[NodeId]) -> Result<Tensor> {
        let array = match args.first().map(|&a| self.trace.node(a)) {
            Some(Node::Call(c)) => numpy::array(self.trace, c, self.limits)?,
            _ => None,
        };
        self.charge(array.as_ref().map_or(0, |a| a.data.len()))?;
        let Some(array) = array else {
            return bad("the values of a device tensor are no array");
        };
        let Some(&d) = args.get(1) else {
            return bad("a device tensor has no dtype");
        };
        let dtype = self.dtype_arg(d)?;
        let len = array.data.len() as u64;
        let shape: Shape = array.shape.as_slice().into();
        if dtype.size_of(&shape) != Some(len) {
            return bad("the values of a device tensor have another dtype than the tensor");
        }
        let source = Arc::new(SliceSource::new(array.data, "numpy array"));
        let data = StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("numpy array", len, false, data)?);
        let view = View { storage, offset: 0 };
        Ok(Tensor::new("", dtype, &shape, TensorSource::View(view)))
    }

    /// `_rebuild_from_type_v2(function, type, args, state)` and its older form without a type.
    fn rebuilt_type(
        &mut self,
        args: &[NodeId],
        offset: usize,
        depth: u32,
    ) -> Result<Option<Tensor>> {
        let [function, class, inner_args, state, ..] = *args else {
            return Ok(None);
        };
        let wrapper = self
            .trace
            .global(function)
            .is_some_and(|g| g.name == "_rebuild_wrapper_subclass");
        if wrapper {
            return self.wrapper_subclass(class, inner_args, state, depth);
        }
        let call = Call {
            op: weighbridge_core::pickle::CallOp::Reduce,
            offset,
            callee: function,
            args: inner_args,
            kwargs: None,
            states: Vec::new(),
            items: Vec::new(),
            pairs: Vec::new(),
        };
        let Some(mut t) = self.tensor_of(&call, depth + 1)? else {
            return Ok(None);
        };
        let class = self.trace.global_name(class);
        self.charge(class.as_ref().map_or(0, String::len))?;
        if let Some(class) = class.filter(|c| c != "torch.Tensor") {
            let attributes = &mut t.extra_mut().attributes;
            if !attributes.iter().any(|(k, _)| k == "class") {
                attributes.push(("class".into(), Value::Str(class)));
            }
        }
        if !matches!(self.trace.node(state), Node::None) {
            let state = self.plain(state)?;
            t.extra_mut().attributes.push(("state".into(), state));
        }
        Ok(Some(t))
    }

    /// A tensor subclass without storage of its own. A `DTensor` gives its local shard; others are
    /// left to the caller as opaque objects, whose attributes hold the tensors.
    fn wrapper_subclass(
        &mut self,
        class: NodeId,
        args: NodeId,
        state: NodeId,
        depth: u32,
    ) -> Result<Option<Tensor>> {
        // The state is the instance dict, or a pair of `__dict__` and the slots.
        let mut dicts = vec![state];
        dicts.extend(self.trace.items(state).unwrap_or_default().iter().take(2));
        let found = dicts.iter().find_map(|&d| {
            let pairs = self.trace.dict(d)?;
            let local = self.trace.lookup(pairs, "_local_tensor")?;
            Some((local, self.trace.lookup(pairs, "_spec")))
        });
        let Some((local, spec)) = found else {
            return Ok(None);
        };
        let mut t = self.inner(Some(local), depth)?;
        let size = self.trace.items(args).and_then(|a| a.get(2).copied());
        let global_shape = self.dims(size, "size")?;
        let class = self.trace.global_name(class).unwrap_or_default();
        let placements = spec.map(|s| self.placements(s)).unwrap_or_default();
        self.charge(
            class
                .len()
                .saturating_add(placements.len().saturating_mul(128)),
        )?;
        let extra = t.extra_mut();
        extra.attributes.retain(|(k, _)| k != "class");
        extra.attributes.push(("class".into(), Value::Str(class)));
        let dims = global_shape
            .iter()
            .map(|&d| i64::try_from(d).unwrap_or(i64::MAX))
            .collect();
        extra
            .attributes
            .push(("global_shape".into(), Value::Size(dims)));
        extra
            .attributes
            .push(("placements".into(), Value::List(placements)));
        Ok(Some(t))
    }

    /// `DTensorSpec.placements` in torch's short form: `S(0)`, `R`, `P(sum)`.
    fn placements(&self, spec: NodeId) -> Vec<Value> {
        let Node::Call(c) = self.trace.node(spec) else {
            return Vec::new();
        };
        let state = c.states.iter().rev().find_map(|&s| self.trace.dict(s));
        let list = state.and_then(|d| self.trace.lookup(d, "placements"));
        let items = list.and_then(|l| self.trace.items(l)).unwrap_or_default();
        items
            .iter()
            .take(DIMENSIONS)
            .map(|&p| {
                let Node::Call(c) = self.trace.node(p) else {
                    return Value::Str("?".into());
                };
                let name = self.trace.global(c.callee).map_or("?", |g| g.name.as_str());
                let state = c.states.iter().rev().find_map(|&s| self.trace.dict(s));
                let field = |key: &str| state.and_then(|d| self.trace.lookup(d, key));
                let dim = field("dim")
                    .or_else(|| self.trace.items(c.args)?.first().copied())
                    .and_then(|d| self.trace.int(d));
                Value::Str(match (name, dim) {
                    ("Shard" | "_StridedShard", Some(d)) => format!("S({d})"),
                    ("Replicate", _) => "R".into(),
                    ("Partial" | "_Partial", _) => {
                        let op = field("reduce_op").and_then(|o| self.trace.text(o));
                        let op = op.as_deref().filter(|o| o.len() <= 64);
                        format!("P({})", op.unwrap_or("sum"))
                    }
                    _ => name.chars().take(64).collect(),
                })
            })
            .collect()
    }
}

fn arg(args: &[NodeId], i: usize) -> NodeId {
    args.get(i).copied().unwrap_or(0)
}

/// Puts torch's lazy conj and neg bits on a view.
fn lazy_signs(t: &mut Tensor, conj: bool, neg: bool) {
    let source = std::mem::replace(&mut t.source, TensorSource::Absent);
    t.source = match source {
        TensorSource::View(v) => {
            let mut strides: Shape = t.shape.clone();
            let mut n = 1u64;
            for (s, &d) in strides.iter_mut().zip(&t.shape).rev() {
                *s = n;
                n = n.saturating_mul(d);
            }
            let width = t.dtype.bytes().unwrap_or(1);
            TensorSource::Strided(Box::new(Strided {
                storage: v.storage,
                offset: v.offset / width,
                strides,
                conj,
                neg,
            }))
        }
        TensorSource::Strided(mut s) => {
            (s.conj, s.neg) = (conj, neg);
            TensorSource::Strided(s)
        }
        other => other,
    };
}

/// A view of `storage` with size, stride and offset in elements, checked to lie inside it.
pub(super) fn strided_view(
    storage: &StorageRef,
    dtype: DType,
    offset: u64,
    mut shape: Shape,
    strides: Shape,
) -> Result<Tensor> {
    if shape.len() != strides.len() {
        return Err(Error::malformed(
            "pytorch.stride-length",
            format!(
                "a tensor has {} sizes and {} strides",
                shape.len(),
                strides.len()
            ),
        ));
    }
    if shape.len() > DIMENSIONS {
        return Err(Error::malformed(
            "pytorch.too-many-dimensions",
            format!(
                "a tensor has {} dimensions, torch allows {DIMENSIONS}",
                shape.len()
            ),
        ));
    }
    let overflow = || {
        Error::malformed(
            "pytorch.shape-overflow",
            format!("a tensor of shape {shape:?} and stride {strides:?} has no size in 64 bits"),
        )
    };
    let bytes = dtype
        .size_of(&shape)
        .filter(|&b| b <= i64::MAX as u64)
        .ok_or_else(overflow)?;
    // torch's packed pairs count bytes, ours values: the last dimension doubles.
    let packed = dtype == DType::F4;
    let width = if packed {
        1
    } else {
        dtype.bytes().unwrap_or(1)
    };
    let row_major = {
        let mut n = 1u64;
        let mut same = true;
        for (&d, &s) in shape.iter().zip(&strides).rev() {
            same &= d == 1 || s == n;
            n = n.saturating_mul(d);
        }
        same
    };
    let empty = shape.contains(&0);
    let mut reach = offset;
    if !empty {
        for (&d, &s) in shape.iter().zip(&strides) {
            reach = (d - 1)
                .checked_mul(s)
                .and_then(|n| reach.checked_add(n))
                .ok_or_else(overflow)?;
        }
        let whole = if dtype.bytes().is_some() || packed {
            reach.checked_add(1).and_then(|n| n.checked_mul(width))
        } else {
            bytes.checked_add(offset)
        };
        if whole.is_none_or(|end| end > storage.len) {
            return Err(Error::malformed(
                "pytorch.view-out-of-storage",
                format!(
                    "a view of shape {shape:?}, stride {strides:?}, offset {offset} reaches past \
                     the {} bytes of storage {}",
                    storage.len,
                    storage.storage.name()
                ),
            ));
        }
    }
    let first = offset
        .checked_mul(width)
        .and_then(|o| o.checked_add(storage.base));
    let Some(first) = first else {
        return Err(overflow());
    };
    let misaligned = !storage.base.is_multiple_of(width);
    if packed || dtype.bytes().is_none() {
        if !row_major && !empty {
            return Err(Error::unsupported(
                "pytorch.packed-view",
                format!("a strided view of {dtype}, which packs several values a byte"),
            ));
        }
        if packed {
            match shape
                .last_mut()
                .and_then(|d| d.checked_mul(2).map(|n| (d, n)))
            {
                Some((d, n)) => *d = n,
                None => {
                    return Err(Error::unsupported(
                        "pytorch.packed-scalar",
                        "a scalar F4 pair",
                    ));
                }
            }
        }
    }
    let storage = Arc::clone(&storage.storage);
    let source = if empty {
        TensorSource::View(View { storage, offset: 0 })
    } else if row_major || misaligned {
        if !row_major {
            return Err(Error::unsupported(
                "pytorch.misaligned-view",
                "a strided view of a misaligned storage",
            ));
        }
        TensorSource::View(View {
            storage,
            offset: first,
        })
    } else {
        TensorSource::Strided(Box::new(Strided {
            storage,
            offset: first / width,
            strides,
            conj: false,
            neg: false,
        }))
    };
    Ok(Tensor {
        extra: None::<Box<Extra>>,
        ..Tensor::new("", dtype, &shape, source)
    })
}
