//! DeepSpeed's ZeRO checkpoints: the F32 master weights of every rank put together again.
//!
//! Reference: `deepspeed/utils/zero_to_fp32.py` (what a merge gives) and
//! `deepspeed/runtime/engine.py` (the names of the files). Each rank keeps one flat F32 vector a
//! parameter group. Stages 1 and 2 cut the group's concatenated parameters into equal parts, one a
//! rank, the last padded; stage 3 cuts every parameter into equal parts.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{
    Assembly, DType, FormatId, Model, Piece, Shape, Storage, StorageData, Tensor, TensorSource,
    Value, View, Warning,
};
use weighbridge_core::{Error, Result};

use super::deepspeed_files::{Files, Found};
pub(crate) use super::deepspeed_files::{is_checkpoint, is_rank_file};
use super::folder::{self, Member, entries, list, sizes};
use crate::OpenOptions;

/// Opens the checkpoint in `dir`: the folder with `latest`, or that of one step.
///
/// # Errors
/// `Malformed` when rank files are missing or shapes and vectors do not fit each other,
/// `Unsupported` for tensor parallelism, experts and several module parts a layer.
pub(crate) fn open(dir: &Path, options: &OpenOptions) -> Result<Model> {
    let shown = dir.display().to_string();
    open_inner(dir, options).map_err(|e| e.in_file(shown))
}

/// The files of the checkpoint in `dir`, for checking them one by one.
///
/// # Errors
/// `Malformed` when the step cannot be found, `Io`.
pub(crate) fn files(dir: &Path, options: &OpenOptions) -> Result<Vec<PathBuf>> {
    Ok(Files::find(dir, options)?.all)
}

fn open_inner(dir: &Path, options: &OpenOptions) -> Result<Model> {
    let files = Files::find(dir, options)?;
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("deepspeed");
    model.warnings.extend(files.warnings.iter().cloned());
    match files.found()? {
        Found::Zero { models, optims } => zero(&mut model, &models, &optims, options)?,
        Found::Layers(layers) => pipeline(&mut model, &layers, options)?,
        Found::Plain(path) => plain(&mut model, &path, options)?,
    }
    model.structure = Some(folder::flat_structure(&model));
    folder::check_bounds(&model, options)?;
    Ok(model)
}

fn bad<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::malformed("deepspeed.bad-state", message))
}

fn open_all(paths: &[PathBuf], options: &OpenOptions) -> Result<Vec<Member>> {
    paths.iter().map(|p| Member::open(p, options)).collect()
}

/// The keys of a model state that the merge uses up.
const USED: [&str; 7] = [
    "module",
    "buffer_names",
    "param_shapes",
    "frozen_param_shapes",
    "frozen_param_fragments",
    "shared_params",
    "ds_version",
];

fn version(model: &mut Model, member: &Member) {
    model.version = match member.get("ds_version") {
        Some(Value::Str(v)) => Some(v.clone()),
        _ => None,
    };
}

/// Stage 0, or an optimizer that was not saved: the module as it is.
fn plain(model: &mut Model, path: &Path, options: &OpenOptions) -> Result<()> {
    let member = Member::open(path, options)?;
    version(model, &member);
    model.parts.push(member.part());
    for (name, value) in member.get("module").into_iter().flat_map(entries) {
        if let Some(t) = member.tensor_at(value) {
            let mut t = t.clone();
            name.clone_into(&mut t.name);
            model.tensors.push(t);
        }
    }
    if model.tensors.is_empty() {
        return bad("the model states hold no module");
    }
    model.warnings.push(Warning::new(
        "deepspeed.no-masters",
        "there are no ZeRO optimizer states: the weights are the module's own, in its precision",
    ));
    folder::keep_state(model, &member, "deepspeed", &USED);
    Ok(())
}

/// A pipeline module: one file a layer, named as `PipelineModule` names its layers.
fn pipeline(model: &mut Model, layers: &[(u64, PathBuf)], options: &OpenOptions) -> Result<()> {
    for (layer, path) in layers {
        let member = Member::open(path, options)?;
        model.parts.push(member.part());
        for t in &member.model.tensors {
            let mut t = t.clone();
            t.name = format!("{layer}.{}", t.name);
            model.tensors.push(t);
        }
    }
    model.warnings.push(Warning::new(
        "deepspeed.pipeline",
        "a pipeline module: the weights are those of the layer files, in the module's precision, \
         named by layer number",
    ));
    Ok(())
}

/// What the first rank's model states say.
struct State {
    /// Parameter names and shapes, one list a group.
    groups: Vec<Vec<(String, Shape)>>,
}

impl State {
    fn read(member: &Member) -> Result<Self> {
        let shapes = |v: &Value| -> Result<Vec<(String, Shape)>> {
            entries(v)
                .map(|(name, size)| match sizes(size) {
                    Some(s) if DType::F32.size_of(&s).is_some() => Ok((name.to_owned(), s)),
                    _ => bad(format!("the shape of parameter {name:?} is none")),
                })
                .collect()
        };
        let groups = match member.get("param_shapes") {
            Some(v) => match list(v) {
                Some(groups) => groups.iter().map(shapes).collect::<Result<_>>()?,
                // Before 0.3.16 there was one group and no list around it.
                None => vec![shapes(v)?],
            },
            None => {
                return Err(Error::unsupported(
                    "deepspeed.no-shapes",
                    "the model states have no param_shapes: they are older than DeepSpeed 0.3.10 or no ZeRO checkpoint",
                )
                .in_file(member.shown()));
            }
        };
        Ok(Self { groups })
    }
}

/// The flat vectors of one rank.
struct Rank<'a> {
    member: &'a Member,
    flats: Vec<&'a Tensor>,
}

/// A flat vector as a source of slices.
struct Flat {
    storage: Arc<Storage>,
    /// First byte.
    base: u64,
    numel: u64,
}

fn zero(
    model: &mut Model,
    models: &[PathBuf],
    optims: &[PathBuf],
    options: &OpenOptions,
) -> Result<()> {
    let states = open_all(models, options)?;
    let optim = open_all(optims, options)?;
    let Some(first) = states.first() else {
        return bad("there are no model states");
    };
    model
        .parts
        .extend(states.iter().chain(&optim).map(Member::part));
    version(model, first);
    let (stage, ranks) = read_ranks(&optim)?;
    let state = State::read(first)?;
    let (flats, dtype) = flat_vectors(&ranks)?;
    let mut out = Merge::default();
    out.buffers(model, first);
    if stage == 3 {
        out.frozen3(&states)?;
        out.stage3(&state, &flats, dtype)?;
    } else {
        out.frozen2(first)?;
        out.stage2(&state, &flats, dtype)?;
    }
    out.ties(first)?;
    out.finish(model, first);
    model
        .metadata
        .push(("deepspeed.zero_stage".into(), Value::Int(stage)));
    model.omitted.push((
        "optimizer_state_dict".into(),
        format!(
            "the optimizer's moments and scalers are cut over {} rank files: open those files themselves to keep them",
            optim.len()
        ),
    ));
    folder::keep_state(model, first, "deepspeed", &USED);
    Ok(())
}

/// The stage, and each rank's vectors in the order of the ranks.
fn read_ranks(optim: &[Member]) -> Result<(i64, Vec<Rank<'_>>)> {
    let mut stage = None;
    let mut ranks = Vec::with_capacity(optim.len());
    for member in optim {
        let fail = |m: &str| Error::malformed("deepspeed.bad-state", m).in_file(member.shown());
        let Some(state) = member.get("optimizer_state_dict") else {
            return Err(fail("there is no optimizer_state_dict"));
        };
        // The plain BF16 optimizer writes no stage and cuts as stage 1 does.
        let own = state.get("zero_stage").and_then(Value::as_int).unwrap_or(1);
        if !(0..=3).contains(&own) || *stage.get_or_insert(own) != own {
            return Err(fail(
                "the ZeRO stage is none of 0 to 3, or not that of the other ranks",
            ));
        }
        let count = match state.get("partition_count") {
            Some(Value::List(l)) => l.iter().filter_map(Value::as_int).max(),
            other => other.and_then(Value::as_int),
        };
        if let Some(count) = count.filter(|&c| c != optim.len() as i64) {
            return Err(Error::malformed(
                "deepspeed.missing-rank",
                format!(
                    "the optimizer was cut over {count} ranks, there are {} *_optim_states.pt files",
                    optim.len()
                ),
            )
            .in_file(member.shown())
            .help("copy the files of every rank into the folder"));
        }
        let key = if own == 3 {
            "fp32_flat_groups"
        } else {
            "single_partition_of_fp32_groups"
        };
        let Some(groups) = state.get(key).and_then(list) else {
            return Err(fail(&format!("the optimizer states have no {key}")));
        };
        let flats: Option<Vec<&Tensor>> = groups.iter().map(|g| member.tensor_at(g)).collect();
        let Some(flats) = flats else {
            return Err(fail(&format!("{key} holds something that is no tensor")));
        };
        ranks.push(Rank { member, flats });
    }
    let n = ranks.first().map_or(0, |r| r.flats.len());
    if let Some(odd) = ranks.iter().find(|r| r.flats.len() != n) {
        return Err(Error::malformed(
            "deepspeed.bad-state",
            format!("rank files have {n} and {} groups", odd.flats.len()),
        )
        .in_file(odd.member.shown()));
    }
    Ok((stage.unwrap_or(0), ranks))
}

/// The vectors of all ranks, and their common dtype.
fn flat_vectors(ranks: &[Rank<'_>]) -> Result<(Vec<Vec<Flat>>, DType)> {
    let mut dtype = None;
    // Vectors of one file may lie in one storage.
    let mut regions: HashMap<*const Storage, Arc<Storage>> = HashMap::new();
    let mut out = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let mut flats = Vec::with_capacity(rank.flats.len());
        for t in &rank.flats {
            let (TensorSource::View(v), [numel]) = (&t.source, t.shape.as_slice()) else {
                return Err(Error::malformed(
                    "deepspeed.bad-state",
                    format!("{} should be a flat vector", t.name),
                )
                .in_file(rank.member.shown()));
            };
            if *dtype.get_or_insert(t.dtype) != t.dtype || t.dtype.bytes().is_none() {
                return Err(Error::malformed(
                    "deepspeed.bad-state",
                    format!("{} is {}, other master weights are not", t.name, t.dtype),
                )
                .in_file(rank.member.shown()));
            }
            let key = Arc::as_ptr(&v.storage);
            let storage = match regions.get(&key) {
                Some(s) => Arc::clone(s),
                None => {
                    let made = folder::as_region(&v.storage)?;
                    regions.insert(key, Arc::clone(&made));
                    made
                }
            };
            flats.push(Flat {
                storage,
                base: v.offset,
                numel: *numel,
            });
        }
        out.push(flats);
    }
    Ok((out, dtype.unwrap_or(DType::F32)))
}

/// A run of values: a flat vector and the range taken from it, in elements.
struct Run<'a> {
    flat: &'a Flat,
    start: u64,
    len: u64,
}

/// A tensor from the runs that make it up, in order.
fn from_runs(name: &str, shape: &Shape, dtype: DType, runs: &[Run<'_>]) -> Result<Tensor> {
    let width = dtype.bytes().unwrap_or(1);
    let view = |r: &Run<'_>| -> Result<TensorSource> {
        let offset = r
            .start
            .checked_mul(width)
            .and_then(|o| o.checked_add(r.flat.base));
        let inside = r
            .start
            .checked_add(r.len)
            .is_some_and(|e| e <= r.flat.numel);
        match offset.filter(|_| inside) {
            Some(offset) => Ok(TensorSource::View(View {
                storage: Arc::clone(&r.flat.storage),
                offset,
            })),
            None => numel_mismatch(format!("parameter {name:?} reaches past the vectors' end")),
        }
    };
    if let [one] = runs {
        return Ok(Tensor::new(name, dtype, shape, view(one)?));
    }
    let mut pieces = Vec::with_capacity(runs.len());
    let mut at = 0u64;
    for r in runs {
        pieces.push(Piece {
            start: Shape::from_slice(&[at]),
            shape: Shape::from_slice(&[r.len]),
            source: view(r)?,
        });
        at = at.saturating_add(r.len);
    }
    let assembly = Assembly {
        shape: Shape::from_slice(&[at]),
        pieces,
    };
    assembly.check()?;
    let source = TensorSource::Assembled(Arc::new(assembly));
    Ok(Tensor::new(name, dtype, shape, source))
}

fn numel_mismatch<T>(message: String) -> Result<T> {
    Err(Error::malformed("deepspeed.numel-mismatch", message)
        .help("the model states and optimizer states are not of one save"))
}

fn numel(shape: &[u64]) -> u64 {
    shape.iter().fold(1u64, |n, &d| n.saturating_mul(d))
}

/// The merged tensors as they come.
#[derive(Default)]
struct Merge {
    tensors: Vec<Tensor>,
    names: HashMap<String, usize>,
}

impl Merge {
    fn put(&mut self, t: Tensor) {
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

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.names.get(name)?)
    }

    /// Buffers are kept in the module, and cast to F32 as the reference does.
    fn buffers(&mut self, model: &mut Model, first: &Member) {
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
    fn frozen2(&mut self, first: &Member) -> Result<()> {
        let Some(fragments) = first.get("frozen_param_fragments") else {
            return Ok(());
        };
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
    fn frozen3(&mut self, states: &[Member]) -> Result<()> {
        let Some(first) = states.first() else {
            return Ok(());
        };
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
            for s in states {
                let t = s
                    .get("frozen_param_fragments")
                    .and_then(|f| f.get(name))
                    .and_then(|v| s.tensor_at(v));
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
    fn stage2(&mut self, state: &State, flats: &[Vec<Flat>], dtype: DType) -> Result<()> {
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
    fn stage3(&mut self, state: &State, flats: &[Vec<Flat>], dtype: DType) -> Result<()> {
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
    fn ties(&mut self, first: &Member) -> Result<()> {
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
    fn module_ties(&self, first: &Member) -> Vec<(String, String)> {
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
    fn finish(self, model: &mut Model, first: &Member) {
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
        crc32: None,
    };
    let own = Storage::new(t.name.clone(), len, v.storage.is_big_endian(), data)?;
    *v = View {
        storage: Arc::new(own),
        offset: 0,
    };
    Ok(())
}

/// The first `wanted` values of the concatenated vectors.
fn clip<'a>(flats: &'a [Flat], wanted: u64, name: &str) -> Result<Vec<Run<'a>>> {
    let mut left = wanted;
    let mut runs = Vec::new();
    for flat in flats {
        let len = flat.numel.min(left);
        left -= len;
        if len > 0 {
            runs.push(Run {
                flat,
                start: 0,
                len,
            });
        }
    }
    if left > 0 {
        return numel_mismatch(format!("the fragments of {name:?} are {left} values short"));
    }
    Ok(runs)
}

/// A position in vectors that follow each other.
struct Cursor<'a, 'p> {
    parts: &'p [&'a Flat],
    part: usize,
    at: u64,
    taken: u64,
}

impl<'a, 'p> Cursor<'a, 'p> {
    fn new(parts: &'p [&'a Flat]) -> Self {
        Self {
            parts,
            part: 0,
            at: 0,
            taken: 0,
        }
    }

    /// The next `n` values.
    fn take(&mut self, n: u64, name: &str) -> Result<Vec<Run<'a>>> {
        let mut left = n;
        let mut runs = Vec::new();
        while left > 0 {
            let Some(&flat) = self.parts.get(self.part) else {
                return numel_mismatch(format!(
                    "parameter {name:?} needs {left} values more than the vectors have"
                ));
            };
            let len = (flat.numel - self.at).min(left);
            if len > 0 {
                runs.push(Run {
                    flat,
                    start: self.at,
                    len,
                });
            }
            (self.at, left) = (self.at + len, left - len);
            if self.at == flat.numel {
                (self.part, self.at) = (self.part + 1, 0);
            }
        }
        self.taken = self.taken.saturating_add(n);
        Ok(runs)
    }
}
