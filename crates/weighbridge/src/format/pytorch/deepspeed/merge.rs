//! The merged state dict: buffers, frozen parameters, the masters, and ties.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::{
    DType, Model, Storage, StorageData, Tensor, TensorSource, Value, View, Warning,
};

use super::super::folder::{self, Member, entries, list, sizes};
use super::runs::{Cursor, Flat, clip, from_runs, numel, numel_mismatch};
use super::{State, bad};

/// The merged tensors as they come.
#[derive(Default)]
pub(super) struct Merge {
    tensors: Vec<Tensor>,
    names: HashMap<String, usize>,
}

impl Merge {
    pub(super) fn put(&mut self, t: Tensor) {
        match self
            .names
            .get(&t.name)
            .and_then(|&i| self.tensors.get_mut(i))
        {
            Some(old) => *old = t,
            None => {
                self.names.insert(t.name.clone(), self.tensors.len());
                self.tensors.push(t);
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.names.get(name)?)
    }

    /// Buffers are kept in the module, and cast to F32 as the reference does.
    pub(super) fn buffers(&mut self, model: &mut Model, first: &Member) {
        let mut wanted: HashSet<&str> = HashSet::new();
        if let Some(Value::List(l) | Value::Set(l) | Value::Tuple(l)) = first.get("buffer_names") {
            wanted.extend(l.iter().filter_map(Value::as_str));
        }
        let mut cast = 0usize;
        for (name, value) in first.get("module").into_iter().flat_map(entries) {
            if !wanted.contains(name) {
                continue;
            }
            if let Some(t) = first.tensor_at(value) {
                let mut t32 = folder::to_f32(t);
                cast += usize::from(t32.dtype != t.dtype);
                name.clone_into(&mut t32.name);
                t32.extra = None;
                self.put(t32);
            }
        }
        if cast > 0 {
            model.warnings.push(Warning::new(
                "deepspeed.buffers-cast",
                format!("{cast} buffers are cast to F32, as zero_to_fp32 casts them"),
            ));
        }
    }

    /// Frozen parameters lie whole in every rank's model states.
    pub(super) fn frozen2(&mut self, first: &Member) -> Result<()> {
        let Some(fragments) = first.get("frozen_param_fragments") else {
            return Ok(());
        };
        let fragments: HashMap<&str, &Value> = entries(fragments).collect();
        for (name, _) in first
            .get("frozen_param_shapes")
            .into_iter()
            .flat_map(entries)
        {
            let t = fragments.get(name).and_then(|v| first.tensor_at(v));
            let Some(t) = t else {
                return bad(format!("the frozen parameter {name:?} has no values"));
            };
            let mut t = t.clone();
            name.clone_into(&mut t.name);
            self.put(t);
        }
        Ok(())
    }

    /// Frozen parameters of stage 3: a flat fragment in each rank's model states.
    pub(super) fn frozen3(&mut self, states: &[Member]) -> Result<()> {
        let Some(first) = states.first() else {
            return Ok(());
        };
        let fragments: Vec<HashMap<&str, &Value>> = states
            .iter()
            .map(|s| {
                s.get("frozen_param_fragments")
                    .into_iter()
                    .flat_map(entries)
                    .collect()
            })
            .collect();
        for (name, size) in first
            .get("frozen_param_shapes")
            .into_iter()
            .flat_map(entries)
        {
            let Some(shape) = sizes(size) else {
                return bad(format!("the shape of parameter {name:?} is none"));
            };
            let mut flats = Vec::with_capacity(states.len());
            let mut dtype = None;
            for (s, fragments) in states.iter().zip(&fragments) {
                let t = fragments.get(name).and_then(|v| s.tensor_at(v));
                let Some(t) = t else {
                    return bad(format!("the frozen parameter {name:?} misses a fragment"));
                };
                let same = *dtype.get_or_insert(t.dtype) == t.dtype;
                match (&t.source, t.numel()) {
                    (TensorSource::View(v), Some(n)) if same => flats.push(Flat {
                        storage: Arc::clone(&v.storage),
                        base: v.offset,
                        numel: n,
                    }),
                    _ => return bad(format!("a fragment of {name:?} is no flat vector")),
                }
            }
            let runs = clip(&flats, numel(&shape), name)?;
            let dtype = dtype.unwrap_or(DType::F32);
            self.put(from_runs(name, &shape, dtype, &runs)?);
        }
        Ok(())
    }

    /// Stages 1 and 2: a group's parameters follow each other in the concatenated parts.
    pub(super) fn stage2(
        &mut self,
        state: &State,
        flats: &[Vec<Flat>],
        dtype: DType,
    ) -> Result<()> {
        let groups = flats.first().map_or(0, Vec::len);
        if groups != state.groups.len() {
            return numel_mismatch(format!(
                "the model states have {} parameter groups, the optimizer states {groups}",
                state.groups.len()
            ));
        }
        for (g, shapes) in state.groups.iter().enumerate() {
            let parts: Vec<&Flat> = flats.iter().filter_map(|r| r.get(g)).collect();
            let available = parts.iter().fold(0u64, |n, f| n.saturating_add(f.numel));
            let mut cursor = Cursor::new(&parts);
            for (name, shape) in shapes {
                let runs = cursor.take(numel(shape), name)?;
                self.put(from_runs(name, shape, dtype, &runs)?);
            }
            // Vectors are padded to twice the number of ranks, in ways that have changed: equal
            // after rounding up is what the reference asks for.
            let align = 2 * (flats.len() as u64).max(1);
            if cursor.taken.div_ceil(align) != available.div_ceil(align) {
                return numel_mismatch(format!(
                    "the parameters of group {g} have {} values, the vectors {available}",
                    cursor.taken
                ));
            }
        }
        Ok(())
    }

    /// Stage 3: every parameter is cut into equal parts, one a rank, and a rank's parts follow
    /// each other over its groups.
    pub(super) fn stage3(
        &mut self,
        state: &State,
        flats: &[Vec<Flat>],
        dtype: DType,
    ) -> Result<()> {
        let world = (flats.len() as u64).max(1);
        let parts: Vec<Vec<&Flat>> = flats.iter().map(|r| r.iter().collect()).collect();
        let mut cursors: Vec<Cursor<'_, '_>> = parts.iter().map(|p| Cursor::new(p)).collect();
        for (name, shape) in state.groups.iter().flatten() {
            let whole = numel(shape);
            let part = whole.div_ceil(world);
            let mut left = whole;
            let mut runs = Vec::new();
            for c in &mut cursors {
                for mut run in c.take(part, name)? {
                    run.len = run.len.min(left);
                    left -= run.len;
                    if run.len > 0 {
                        runs.push(run);
                    }
                }
            }
            self.put(from_runs(name, shape, dtype, &runs)?);
        }
        for c in &cursors {
            let available = c.parts.iter().fold(0u64, |n, f| n.saturating_add(f.numel));
            if c.taken != available {
                return numel_mismatch(format!(
                    "the parameters take {} values of each rank, a rank has {available}",
                    c.taken
                ));
            }
        }
        Ok(())
    }

    /// Tied parameters: further names of one that was saved.
    pub(super) fn ties(&mut self, first: &Member) -> Result<()> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        match first.get("shared_params") {
            Some(v @ Value::Dict(_)) => {
                let named = entries(v).filter_map(|(k, v)| Some((k.into(), v.as_str()?.into())));
                pairs.extend(named);
            }
            Some(v) => pairs.extend(list(v).unwrap_or_default().iter().filter_map(|p| {
                let [a, b] = list(p)? else { return None };
                Some((a.as_str()?.to_owned(), b.as_str()?.to_owned()))
            })),
            None => {}
        }
        pairs.extend(self.module_ties(first));
        for (name, source) in pairs {
            let Some(&at) = self.names.get(&source) else {
                continue;
            };
            if let Some(t) = self.tensors.get_mut(at) {
                own_storage(t)?;
            }
            if let Some(t) = self.get(&source) {
                let mut t = t.clone();
                t.name = name;
                self.put(t);
            }
        }
        Ok(())
    }

    /// Ties that only the module shows: before 0.9.2 there was no `shared_params`, and the second
    /// name of a tied parameter views the same values as the first.
    pub(super) fn module_ties(&self, first: &Member) -> Vec<(String, String)> {
        let place = |v: &Value| match first.tensor_at(v) {
            Some(t) => match &t.source {
                TensorSource::View(v) if t.byte_len() > 0 => {
                    Some((Arc::as_ptr(&v.storage), v.offset, t.shape.clone()))
                }
                _ => None,
            },
            None => None,
        };
        let module = || first.get("module").into_iter().flat_map(entries);
        let merged: HashMap<_, &str> = module()
            .filter(|(name, _)| self.names.contains_key(*name))
            .filter_map(|(name, v)| Some((place(v)?, name)))
            .collect();
        module()
            .filter(|(name, _)| !self.names.contains_key(*name))
            .filter_map(|(name, v)| Some((name.to_owned(), (*merged.get(&place(v)?)?).to_owned())))
            .collect()
    }

    /// Moves the tensors into the model, in the module's order where it names them.
    pub(super) fn finish(self, model: &mut Model, first: &Member) {
        let mut order: HashMap<&str, usize> = HashMap::new();
        for (i, (name, _)) in first
            .get("module")
            .into_iter()
            .flat_map(entries)
            .enumerate()
        {
            order.insert(name, i);
        }
        let dropped = order.keys().filter(|n| !self.names.contains_key(**n));
        let mut dropped: Vec<String> = dropped.map(|n| (*n).to_owned()).collect();
        dropped.sort();
        for name in dropped {
            model.omitted.push((
                name,
                "in the module's state and in no parameter group of the optimizer, so there is no master copy".into(),
            ));
        }
        let mut tensors = self.tensors;
        tensors.sort_by_key(|t| order.get(t.name.as_str()).copied().unwrap_or(usize::MAX));
        model.tensors = tensors;
    }
}

/// The slice of the rank's vector as a storage of its own, which ties then share.
fn own_storage(t: &mut Tensor) -> Result<()> {
    let len = t.byte_len();
    let TensorSource::View(v) = &mut t.source else {
        return Ok(());
    };
    if !v.storage.is_region() {
        return Ok(());
    }
    let StorageData::Raw { source, offset, .. } = v.storage.data() else {
        return Ok(());
    };
    let Some(offset) = offset.checked_add(v.offset) else {
        return Ok(());
    };
    // The container's checksum is that of the whole vector; other parameters verify it.
    let data = StorageData::Raw {
        source: Arc::clone(source),
        offset,
        checksum: None,
    };
    let own = Storage::new(t.name.clone(), len, v.storage.is_big_endian(), data)?;
    *v = View {
        storage: Arc::new(own),
        offset: 0,
    };
    Ok(())
}
