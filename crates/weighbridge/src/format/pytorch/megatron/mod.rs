//! Checkpoints of Megatron-LM in its `torch` format: one file a tensor- and pipeline-parallel
//! rank, merged to one model.
//!
//! Reference: `megatron/training/checkpointing.py` (`get_checkpoint_name`,
//! `generate_state_dict`). Its other formats (`torch_dist`) are folders of `super::dcp`.

mod merge;
mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weighbridge_core::model::{FormatId, Model, Value, Warning};
use weighbridge_core::{Error, Result};

use super::dcp;
use super::folder::{self, Member, is_plain_name, number};
use crate::OpenOptions;
use crate::format::directory::{Listed, list, read_small};
use merge::Merge;
use rules::Facts;

/// The file that names the last step.
pub(crate) const TRACKER: &str = "latest_checkpointed_iteration.txt";
/// The files a rank keeps its model in.
const RANK_FILES: [&str; 2] = ["model_optim_rng.pt", "model_rng.pt"];

/// Whether a listing is that of a checkpoint: ranks, or steps that have them.
pub(crate) fn is_checkpoint(files: &[Listed]) -> bool {
    files.iter().any(|f| {
        if f.is_dir {
            rank_numbers(&f.name).is_some() && rank_file(&f.path).is_some()
        } else {
            f.name == TRACKER
        }
    })
}

/// The numbers of `mp_rank_TT[_PPP[_EEE]]`.
fn rank_numbers(name: &str) -> Option<Vec<u64>> {
    let numbers = name.strip_prefix("mp_rank_")?.split('_').map(number);
    let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
    (numbers.len() <= 3).then_some(numbers)
}

fn rank_file(dir: &Path) -> Option<PathBuf> {
    RANK_FILES.iter().map(|f| dir.join(f)).find(|p| p.is_file())
}

/// Opens the checkpoint in `dir`: the folder with the tracker file, or that of one step.
///
/// # Errors
/// `Malformed` for missing ranks and parts that do not fit each other, `Unsupported`
/// for expert parallelism and weights that no rule can merge.
pub(crate) fn open(dir: &Path, options: &OpenOptions) -> Result<Model> {
    let shown = dir.display().to_string();
    open_inner(dir, options).map_err(|e| e.in_file(shown))
}

/// What to check of a checkpoint one by one.
#[derive(Debug)]
pub(crate) enum Files {
    /// The rank files.
    Ranks(Vec<PathBuf>),
    /// The folder of the step is one of `super::dcp`.
    Dcp(PathBuf),
}

/// The files of the checkpoint in `dir`.
///
/// # Errors
/// `Malformed` when the step cannot be found, `Io`.
pub(crate) fn files(dir: &Path, options: &OpenOptions) -> Result<Files> {
    let (step, _) = step_dir(dir, options)?;
    if dcp::is_checkpoint(&step) {
        return Ok(Files::Dcp(step));
    }
    let ranks = list(&step, &options.limits)?;
    let ranks = ranks
        .iter()
        .filter(|f| f.is_dir && rank_numbers(&f.name).is_some());
    Ok(Files::Ranks(
        ranks.filter_map(|f| rank_file(&f.path)).collect(),
    ))
}

/// The folder of the step to open.
fn step_dir(dir: &Path, options: &OpenOptions) -> Result<(PathBuf, Option<Warning>)> {
    let listed = list(dir, &options.limits)?;
    if listed
        .iter()
        .any(|f| f.is_dir && rank_numbers(&f.name).is_some())
    {
        return Ok((dir.to_owned(), None));
    }
    let Some(tracker) = listed.iter().find(|f| f.name == TRACKER && !f.is_dir) else {
        return Err(Error::malformed(
            "megatron.missing-rank",
            "the folder has no mp_rank_* folders",
        ));
    };
    let text = read_small(&tracker.path)?;
    let step = text.trim();
    let name = match number(step) {
        Some(n) => format!("iter_{n:07}"),
        None => step.to_owned(),
    };
    let path = dir.join(&name);
    if !is_plain_name(&name) || !path.is_dir() {
        let folders = listed.iter().filter(|f| f.is_dir);
        let have: Vec<&str> = folders.map(|f| f.name.as_str()).collect();
        return Err(Error::malformed(
            "megatron.missing-step",
            format!(
                "{TRACKER} names the step {step:?}, whose folder {name:?} is not there (folders: {})",
                have.join(", ")
            ),
        ));
    }
    let others = listed
        .iter()
        .filter(|f| f.is_dir && f.name.starts_with("iter_"))
        .count();
    let warning = (others > 1).then(|| {
        Warning::new(
            "directory.choice",
            format!("of {others} steps the one that {TRACKER} names is taken, {name}"),
        )
    });
    Ok((path, warning))
}

/// The opened ranks: `stages[p][t]` is pipeline stage `p`, tensor-parallel rank `t`.
struct Ranks {
    stages: Vec<Vec<Member>>,
}

fn open_inner(dir: &Path, options: &OpenOptions) -> Result<Model> {
    let (step, warning) = step_dir(dir, options)?;
    if dcp::is_checkpoint(&step) {
        let mut model = dcp::open(&step, options)?;
        model.warnings.extend(warning);
        return Ok(model);
    }
    let ranks = Ranks::open(&step, options)?;
    let mut model = Model::new(FormatId::PyTorch);
    model.container = Some("megatron");
    model.warnings.extend(warning);
    let all = || ranks.stages.iter().flatten();
    model.parts = all().map(Member::part).collect();
    let Some(first) = all().next() else {
        return Err(Error::malformed(
            "megatron.missing-rank",
            "there is no rank",
        ));
    };
    let version = version(first);
    model.version = version.map(|v| v.to_string());
    let facts = facts(first, version, ranks.stages.first().map_or(0, Vec::len))?;
    Merge::new(&ranks, facts).run(&mut model)?;
    if model.tensors.is_empty() {
        return Err(Error::malformed(
            "megatron.no-model",
            "the rank files have no tensors under `model`",
        ));
    }
    model.structure = Some(folder::flat_structure(&model));
    let models: Vec<String> = chunk_keys(first).into_iter().map(|(k, _)| k).collect();
    let used: Vec<&str> = models.iter().map(String::as_str).collect();
    folder::keep_state(&mut model, first, "megatron", &used);
    for stage in &ranks.stages {
        for m in stage {
            if m.path.with_file_name("distrib_optim.pt").is_file() {
                model.omitted.push((
                    format!(
                        "{} distrib_optim.pt",
                        folder::file_name(m.path.parent().unwrap_or(&m.path))
                    ),
                    "the distributed optimizer's part: open the file itself to keep it".into(),
                ));
            }
        }
    }
    folder::check_bounds(&model, options)?;
    Ok(model)
}

impl Ranks {
    fn open(step: &Path, options: &OpenOptions) -> Result<Self> {
        let mut found: BTreeMap<Vec<u64>, PathBuf> = BTreeMap::new();
        for f in list(step, &options.limits)? {
            let Some(numbers) = rank_numbers(&f.name).filter(|_| f.is_dir) else {
                continue;
            };
            let Some(file) = rank_file(&f.path) else {
                return Err(Error::malformed(
                    "megatron.missing-rank",
                    format!(
                        "{} has neither {} nor {}",
                        f.name, RANK_FILES[0], RANK_FILES[1]
                    ),
                ));
            };
            found.insert(numbers, file);
        }
        let digits = found.keys().map(Vec::len).max().unwrap_or(0);
        let Some((_, first)) = found.iter().next() else {
            return Err(Error::malformed(
                "megatron.missing-rank",
                "there are no mp_rank_* folders",
            ));
        };
        let first = Member::open(first, options)?;
        let size = |key: &str| {
            arg(&first, key)
                .and_then(Value::as_int)
                .and_then(|n| u64::try_from(n).ok())
        };
        let experts = size("expert_model_parallel_size").unwrap_or(1);
        let pipeline = size("pipeline_model_parallel_size");
        if digits == 3 || experts > 1 || digits == 2 && pipeline == Some(1) {
            return Err(Error::unsupported(
                "megatron.expert-parallel",
                "the experts are spread over expert-parallel ranks",
            )
            .help("each rank file opens alone, as itself"));
        }
        let at = |k: &Vec<u64>, i: usize| k.get(i).copied().unwrap_or(0);
        let seen = |i: usize| {
            found
                .keys()
                .map(|k| at(k, i))
                .max()
                .unwrap_or(0)
                .saturating_add(1)
        };
        let (tensors_seen, stages_seen) = (seen(0), seen(1));
        let tensor = size("tensor_model_parallel_size").unwrap_or(tensors_seen);
        let pipeline = pipeline.unwrap_or(stages_seen);
        // Counts are numbers of folders that are really there, whatever the arguments say.
        let mut first = Some(first);
        let mut stages = Vec::new();
        for p in 0..pipeline.max(stages_seen) {
            let mut stage = Vec::new();
            for t in 0..tensor.max(tensors_seen) {
                let key = if digits == 2 { vec![t, p] } else { vec![t] };
                let member = match (first.take(), found.remove(&key)) {
                    (Some(m), Some(_)) => m,
                    (None, Some(path)) => Member::open(&path, options)?,
                    (_, None) => return Err(missing(t, p, tensor, pipeline, digits)),
                };
                stage.push(member);
            }
            stages.push(stage);
        }
        Ok(Self { stages })
    }
}

fn missing(t: u64, p: u64, tensor: u64, pipeline: u64, digits: usize) -> Error {
    let name = if digits == 2 {
        format!("mp_rank_{t:02}_{p:03}")
    } else {
        format!("mp_rank_{t:02}")
    };
    Error::malformed(
        "megatron.missing-rank",
        format!(
            "the model was saved by {tensor} × {pipeline} tensor- and pipeline-parallel ranks, the folder {name} is missing"
        ),
    )
    .help("copy the folders of every rank; a rank file opens alone, as itself")
}

/// A command-line argument of the training run.
fn arg<'a>(member: &'a Member, key: &str) -> Option<&'a Value> {
    match member.get("args")? {
        Value::Object(o) => o.state.as_ref()?.get(key),
        other => other.get(key),
    }
}

fn version(member: &Member) -> Option<f64> {
    match member.get("checkpoint_version")? {
        Value::Float(f) => Some(*f),
        Value::Int(i) => Some(*i as f64),
        _ => None,
    }
}

fn facts(first: &Member, version: Option<f64>, tensor: usize) -> Result<Facts> {
    let on = |key: &str| match arg(first, key) {
        Some(Value::Bool(b)) => *b,
        Some(Value::Str(s)) => !s.is_empty(),
        _ => false,
    };
    let groups = arg(first, "num_query_groups").and_then(Value::as_int);
    if on("group_query_attention") && groups.is_some_and(|g| g > 0 && g < tensor as i64) {
        return Err(Error::unsupported(
            "megatron.shared-query-groups",
            format!("{tensor} tensor-parallel ranks share fewer query groups, so that keys and values repeat"),
        )
        .help("each rank file opens alone, as itself"));
    }
    Ok(Facts {
        gated: on("swiglu") || on("gated_linear_unit") || on("glu_activation"),
        // Files before versions were recorded count as version 0.
        blocked_qkv: version.is_none_or(|v| v < 1.0) && first.get("args").is_some(),
    })
}

/// The keys of the model's chunks: `model`, or `model0`, `model1`… with interleaved stages.
fn chunk_keys(member: &Member) -> Vec<(String, u64)> {
    let root = member.model.structure.iter().flat_map(folder::entries);
    let mut keys: Vec<(String, u64)> = root
        .filter_map(|(k, _)| {
            let rest = k.strip_prefix("model")?;
            let n = if rest.is_empty() { 0 } else { number(rest)? };
            Some((k.to_owned(), n))
        })
        .collect();
    keys.sort_by_key(|(_, n)| *n);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_folders_are_read() {
        assert_eq!(rank_numbers("mp_rank_01_003"), Some(vec![1, 3]));
        assert_eq!(rank_numbers("mp_rank_x"), None);
        assert_eq!(rank_numbers("mp_rank_00_000_000_000"), None);
    }
}
