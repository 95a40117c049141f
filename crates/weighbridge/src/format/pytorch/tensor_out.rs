//! The calls that rebuild tensors (`torch/_utils.py`, `_rebuild_tensor_v2` and its kin).

use weighbridge_core::Result;
use weighbridge_core::model::{Layout as TensorLayout, Quantization, Tensor, Value};

use super::dtype;
use super::state_out::Out;
use super::storage_out::{Class, Place, row_major, torch_shape};

impl Out<'_, '_> {
    fn leaf(&self, leaf: usize) -> Option<&Tensor> {
        self.layout.tensor(leaf)
    }

    fn leaf_place(&self, leaf: usize) -> Option<Place> {
        self.layout.leaves.get(leaf)?.place.clone()
    }

    fn untyped(&self, leaf: usize) -> bool {
        let store = self.leaf_place(leaf).map(|p| p.store);
        let store = store.and_then(|s| self.layout.stores.get(s));
        store.is_some_and(|s| s.class == Class::Untyped)
    }

    /// Pushes the tensor of leaf `leaf`.
    pub(super) fn bare_tensor(&mut self, leaf: usize, grad: bool) -> Result<()> {
        self.function(leaf);
        self.arguments(leaf, grad)?;
        self.p.reduce();
        Ok(())
    }

    /// Pushes the function that rebuilds it.
    pub(super) fn function(&mut self, leaf: usize) {
        let name = match self.leaf(leaf) {
            Some(t) if t.layout == TensorLayout::Meta => "_rebuild_meta_tensor_no_storage",
            Some(t) if t.sparse().is_some() => "_rebuild_sparse_tensor",
            Some(t) if t.quantization().is_some() => "_rebuild_qtensor",
            _ if self.untyped(leaf) => "_rebuild_tensor_v3",
            _ => "_rebuild_tensor_v2",
        };
        self.p.global("torch._utils", name);
    }

    /// Pushes the tuple of its arguments.
    pub(super) fn arguments(&mut self, leaf: usize, grad: bool) -> Result<()> {
        let Some(t) = self.layout.tensor(leaf) else {
            self.p.tuple_of(0);
            return Ok(());
        };
        if t.layout == TensorLayout::Meta {
            return self.meta(t, grad);
        }
        if t.sparse().is_some() {
            return self.sparse(t, leaf);
        }
        self.p.mark();
        let Some(place) = self.leaf_place(leaf) else {
            self.p.tuple();
            return Ok(());
        };
        self.storage(place.store)?;
        self.p.count(place.offset);
        self.p.counts(&place.shape);
        self.p.counts(&place.strides);
        if let Some(q) = t.quantization() {
            self.quantizer(q, leaf)?;
        }
        self.p.bool(grad);
        self.hooks();
        if self.untyped(leaf) && t.quantization().is_none() {
            let name = dtype::name_of(t.dtype).unwrap_or("uint8");
            self.p.global("torch", name);
        }
        if place.conj || place.neg {
            self.p.empty_dict();
            for (key, set) in [("conj", place.conj), ("neg", place.neg)] {
                if set {
                    self.p.str(key)?;
                    self.p.bool(true);
                    self.p.set_item();
                }
            }
        }
        self.p.tuple();
        Ok(())
    }

    /// Pushes the storage by its persistent id `("storage", class, key, location, numel)`.
    fn storage(&mut self, store: usize) -> Result<()> {
        let next = self.keys.len();
        let key = *self.keys.entry(store).or_insert(next);
        if key == next {
            self.written.stores.push(store);
        }
        let Some(s) = self.layout.stores.get(store) else {
            self.p.none();
            return Ok(());
        };
        self.p.mark();
        self.p.str("storage")?;
        match s.class {
            Class::Typed(name) => self.p.global("torch", name),
            Class::Untyped => self.p.global("torch.storage", "UntypedStorage"),
        }
        self.p.str(&key.to_string())?;
        self.p.str("cpu")?;
        self.p.count(s.numel);
        self.p.tuple();
        self.p.persistent_id();
        Ok(())
    }

    fn quantizer(&mut self, q: &Quantization, leaf: usize) -> Result<()> {
        match q {
            Quantization::PerTensor { scale, zero_point } => {
                self.p.global("torch", "per_tensor_affine");
                self.p.float(*scale);
                self.p.int(*zero_point);
                self.p.tuple_of(3);
            }
            Quantization::PerChannel {
                axis,
                float_qparams,
                ..
            } => {
                self.p.mark();
                let scheme = match float_qparams {
                    true => "per_channel_affine_float_qparams",
                    false => "per_channel_affine",
                };
                self.p.global("torch", scheme);
                for part in self.parts(leaf) {
                    self.bare_tensor(part, false)?;
                }
                self.p.count(*axis as u64);
                self.p.tuple();
            }
        }
        Ok(())
    }

    fn parts(&self, leaf: usize) -> Vec<usize> {
        self.layout.parts.get(&leaf).cloned().unwrap_or_default()
    }

    /// `(layout, (indices, …, values, size[, coalesced]))`.
    fn sparse(&mut self, t: &Tensor, leaf: usize) -> Result<()> {
        self.p.global("torch.serialization", "_get_layout");
        self.p.str(&format!("torch.{}", t.layout.as_str()))?;
        self.p.tuple_of(1);
        self.p.reduce();
        self.p.mark();
        for part in self.parts(leaf) {
            self.bare_tensor(part, false)?;
        }
        self.p.global("torch", "Size");
        self.p.counts(&t.shape);
        self.p.tuple_of(1);
        self.p.reduce();
        let attributes = t.extra.iter().flat_map(|e| &e.attributes);
        let coalesced =
            attributes
                .filter(|(k, _)| k == "is_coalesced")
                .find_map(|(_, v)| match v {
                    Value::Bool(b) => Some(*b),
                    _ => None,
                });
        if let (TensorLayout::SparseCoo, Some(c)) = (t.layout, coalesced) {
            self.p.bool(c);
        }
        self.p.tuple();
        self.p.tuple_of(2);
        Ok(())
    }

    /// `(dtype, size, stride, requires_grad)`.
    fn meta(&mut self, t: &Tensor, grad: bool) -> Result<()> {
        let shape = torch_shape(t).unwrap_or_else(|| t.shape.clone());
        self.p.mark();
        self.p
            .global("torch", dtype::name_of(t.dtype).unwrap_or("float32"));
        self.p.counts(&shape);
        self.p.counts(&row_major(&shape));
        self.p.bool(grad);
        self.p.tuple();
        Ok(())
    }
}
