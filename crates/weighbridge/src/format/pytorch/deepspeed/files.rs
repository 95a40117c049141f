//! Which files make up a DeepSpeed checkpoint.
//!
//! Reference: `deepspeed/runtime/engine.py` (`_get_ckpt_name`, `_get_zero_ckpt_name`,
//! `_get_expert_ckpt_name`) and `deepspeed/runtime/pipe/module.py` (`ckpt_layer_path`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use weighbridge_core::model::Warning;
use weighbridge_core::{Error, Result};

use super::super::folder::{is_plain_name, number, number_in};
use crate::OpenOptions;
use crate::format::directory::{Listed, list, read_small};

/// How a file name of a checkpoint reads.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// `mp_rank_XX_model_states.pt`
    Model { mp: u64 },
    /// `zero_pp_rank_R_mp_rank_XX_model_states.pt`, stage 3.
    RankModel { dp: u64, mp: u64 },
    /// `zero_pp_rank_R_mp_rank_XX_optim_states.pt`, with `bf16_` or `fp16_` before it.
    Optim { dp: u64, mp: u64 },
    /// `layer_LL-model_MM-model_states.pt`; without a part where no axis is tensor-parallel.
    Layer { layer: u64, mp: u64 },
    /// Expert files of any kind.
    Expert,
}

fn parse(name: &str) -> Option<Name> {
    let stem = name.strip_suffix(".pt")?;
    if let Some(rest) = stem.strip_prefix("layer_") {
        if rest.contains("expert_") {
            return Some(Name::Expert);
        }
        let (layer, part) = rest
            .strip_suffix("-model_states")?
            .split_once('-')
            .unwrap_or((rest.strip_suffix("-model_states")?, "model_00"));
        return Some(Name::Layer {
            layer: number(layer)?,
            mp: number(part.strip_prefix("model_")?)?,
        });
    }
    if stem.starts_with("expert_") || stem.starts_with("expp_rank_") {
        return Some(Name::Expert);
    }
    if let Some(mp) = number_in(stem, "mp_rank_", "_model_states") {
        return Some(Name::Model { mp });
    }
    let rest = stem
        .strip_prefix("bf16_")
        .or_else(|| stem.strip_prefix("fp16_"))
        .unwrap_or(stem);
    let (dp, rest) = rest
        .strip_prefix("zero_pp_rank_")?
        .split_once("_mp_rank_")?;
    let dp = number(dp)?;
    if let Some(mp) = rest.strip_suffix("_model_states") {
        return Some(Name::RankModel {
            dp,
            mp: number(mp)?,
        });
    }
    let mp = number(rest.strip_suffix("_optim_states")?)?;
    Some(Name::Optim { dp, mp })
}

/// Whether `name` is that of a rank file.
pub(crate) fn is_rank_file(name: &str) -> bool {
    parse(name).is_some()
}

/// Whether a listing is that of a checkpoint: of one step, or with `latest` beside steps.
pub(crate) fn is_checkpoint(files: &[Listed]) -> bool {
    files.iter().any(|f| !f.is_dir && is_rank_file(&f.name))
        || files.iter().any(|f| f.is_dir && step(&f.name).is_some())
            && files.iter().any(|f| f.name == "latest" && !f.is_dir)
}

fn step(name: &str) -> Option<u64> {
    number(name.strip_prefix("global_step")?)
}

/// The files of one step.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    named: Vec<(Name, PathBuf)>,
    /// Every file of the step that is part of the checkpoint.
    pub all: Vec<PathBuf>,
    pub warnings: Vec<Warning>,
}

/// What the files are.
#[derive(Debug)]
pub(super) enum Found {
    /// Model states (of every rank in stage 3, else one) and optimizer states in order of ranks.
    Zero {
        models: Vec<PathBuf>,
        optims: Vec<PathBuf>,
    },
    /// A pipeline module's layers.
    Layers(Vec<(u64, PathBuf)>),
    /// Model states alone.
    Plain(PathBuf),
}

impl Files {
    /// Finds the files in `dir`, or in the step that `latest` names or that is the last.
    pub(super) fn find(dir: &Path, options: &OpenOptions) -> Result<Self> {
        let listed = list(dir, &options.limits)?;
        if listed.iter().any(|f| !f.is_dir && is_rank_file(&f.name)) {
            return Ok(Self::of(dir, &listed, Vec::new()));
        }
        let mut warnings = Vec::new();
        let tag = match listed.iter().find(|f| f.name == "latest" && !f.is_dir) {
            Some(latest) => {
                let tag = read_small(&latest.path)?.trim().to_owned();
                if !is_plain_name(&tag) {
                    return Err(Error::malformed(
                        "deepspeed.unsafe-tag",
                        format!("`latest` should name a folder beside it, it says {tag:?}"),
                    ));
                }
                tag
            }
            None => {
                let steps = listed.iter().filter(|f| f.is_dir);
                let mut steps: Vec<(u64, &str)> = steps
                    .filter_map(|f| Some((step(&f.name)?, f.name.as_str())))
                    .collect();
                steps.sort_unstable();
                if steps.len() > 1 {
                    warnings.push(Warning::new(
                        "directory.choice",
                        format!(
                            "there are {} steps and no `latest`: the last one is taken",
                            steps.len()
                        ),
                    ));
                }
                steps.last().map_or("", |s| s.1).to_owned()
            }
        };
        let step_dir = dir.join(&tag);
        if tag.is_empty() || !step_dir.is_dir() {
            let have: Vec<&str> = listed
                .iter()
                .filter(|f| f.is_dir)
                .map(|f| f.name.as_str())
                .collect();
            return Err(Error::malformed(
                "deepspeed.missing-tag",
                format!(
                    "`latest` names the folder {tag:?}, which is not there (folders: {})",
                    have.join(", ")
                ),
            ));
        }
        let listed = list(&step_dir, &options.limits)?;
        Ok(Self::of(&step_dir, &listed, warnings))
    }

    fn of(dir: &Path, listed: &[Listed], warnings: Vec<Warning>) -> Self {
        let named: Vec<(Name, PathBuf)> = listed
            .iter()
            .filter(|f| !f.is_dir)
            .filter_map(|f| Some((parse(&f.name)?, f.path.clone())))
            .collect();
        Self {
            dir: dir.to_owned(),
            all: named.iter().map(|(_, p)| p.clone()).collect(),
            named,
            warnings,
        }
    }

    /// Sorts the files into what can be merged.
    ///
    /// # Errors
    /// `Unsupported` for tensor parallelism and experts, `Malformed` for missing ranks.
    pub(super) fn found(&self) -> Result<Found> {
        let alone = "each rank file opens alone, as itself";
        if self.named.iter().any(|(n, _)| *n == Name::Expert) {
            return Err(Error::unsupported(
                "deepspeed.experts",
                "the checkpoint's experts are spread over expert-parallel files",
            )
            .help(alone));
        }
        let mut layers = BTreeMap::new();
        let mut models = BTreeMap::new();
        let mut rank_models = BTreeMap::new();
        let mut optims = BTreeMap::new();
        let mut mps = BTreeSet::new();
        for (name, path) in &self.named {
            let (mp, taken) = match name {
                Name::Model { mp } => (*mp, models.insert(*mp, path.clone())),
                Name::RankModel { dp, mp } => (*mp, rank_models.insert((*dp, *mp), path.clone())),
                Name::Optim { dp, mp } => (*mp, optims.insert((*dp, *mp), path.clone())),
                Name::Layer { layer, mp } => (*mp, layers.insert((*layer, *mp), path.clone())),
                Name::Expert => continue,
            };
            if taken.is_some() {
                return Err(Error::malformed(
                    "deepspeed.two-precisions",
                    format!("two files are of one rank, one is {}", path.display()),
                ));
            }
            // In a pipeline the mp_rank files are numbered by stage, not by tensor part.
            if layers.is_empty() || matches!(name, Name::Layer { .. }) {
                mps.insert(mp);
            }
        }
        if !layers.is_empty() {
            if layers.keys().any(|(_, mp)| *mp > 0) {
                return Err(Error::unsupported(
                    "deepspeed.tensor-parallel",
                    "the layers of this pipeline module are cut over several tensor-parallel parts",
                )
                .help(alone));
            }
            let layers = layers.into_iter().map(|((l, _), p)| (l, p)).collect();
            return Ok(Found::Layers(layers));
        }
        if mps.len() > 1 {
            return Err(Error::unsupported(
                "deepspeed.tensor-parallel",
                format!(
                    "the checkpoint is cut over {} tensor-parallel ranks (mp_rank_00 to mp_rank_{:02}), whose cut DeepSpeed does not record",
                    mps.len(),
                    mps.last().copied().unwrap_or(0)
                ),
            )
            .help(alone));
        }
        let complete = |of: &BTreeMap<(u64, u64), PathBuf>, what: &str| -> Result<Vec<PathBuf>> {
            for (want, (dp, mp)) in (0u64..).zip(of.keys()) {
                if want != *dp {
                    return Err(Error::malformed(
                        "deepspeed.missing-rank",
                        format!(
                            "the file zero_pp_rank_{want}_mp_rank_{mp:02}_{what}.pt is missing"
                        ),
                    )
                    .in_file(self.dir.display().to_string())
                    .help("copy the files of every rank into the folder"));
                }
            }
            Ok(of.values().cloned().collect())
        };
        let optims = complete(&optims, "optim_states")?;
        let rank_models = complete(&rank_models, "model_states")?;
        let model = models.into_values().next();
        if optims.is_empty() {
            return match (model, rank_models.is_empty()) {
                (Some(m), true) => Ok(Found::Plain(m)),
                _ => Err(Error::malformed(
                    "deepspeed.missing-rank",
                    "there are no *_optim_states.pt files: the weights of ZeRO stage 3 lie in them",
                )),
            };
        }
        let models = if rank_models.is_empty() {
            model.into_iter().collect()
        } else {
            rank_models
        };
        if models.is_empty() {
            return Err(Error::malformed(
                "deepspeed.missing-model-states",
                "the file mp_rank_00_model_states.pt is missing, which names the parameters",
            ));
        }
        Ok(Found::Zero { models, optims })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let zero = |n| parse(n).unwrap();
        assert_eq!(zero("mp_rank_00_model_states.pt"), Name::Model { mp: 0 });
        assert_eq!(
            zero("bf16_zero_pp_rank_11_mp_rank_01_optim_states.pt"),
            Name::Optim { dp: 11, mp: 1 }
        );
        assert_eq!(
            zero("zero_pp_rank_3_mp_rank_00_model_states.pt"),
            Name::RankModel { dp: 3, mp: 0 }
        );
        assert_eq!(
            zero("layer_05-model_00-model_states.pt"),
            Name::Layer { layer: 5, mp: 0 }
        );
        assert_eq!(
            zero("layer_12-model_states.pt"),
            Name::Layer { layer: 12, mp: 0 }
        );
        assert_eq!(zero("expert_0_mp_rank_00_model_states.pt"), Name::Expert);
        assert_eq!(parse("model_optim_rng.pt"), None);
        assert_eq!(parse("mp_rank_+1_model_states.pt"), None);
    }
}
