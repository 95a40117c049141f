//! DeepSpeed's ZeRO checkpoints: the F32 master weights of every rank put together again.
//!
//! Reference: `deepspeed/utils/zero_to_fp32.py` (what a merge gives) and
//! `deepspeed/runtime/engine.py` (the names of the files). Each rank keeps one flat F32 vector a
//! parameter group. Stages 1 and 2 cut the group's concatenated parameters into equal parts, one a
//! rank, the last padded; stage 3 cuts every parameter into equal parts.

mod files;
mod merge;
mod runs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge_core::model::{
    DType, FormatId, Model, Shape, Storage, Tensor, TensorSource, Value, Warning,
};
use weighbridge_core::{Error, Result};

use super::folder::{self, Member, entries, list, sizes};
use crate::OpenOptions;
use files::{Files, Found};
pub(crate) use files::{is_checkpoint, is_rank_file};
use merge::Merge;
use runs::Flat;

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
