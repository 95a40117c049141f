//! Splitting and merging as `llama-gguf-split` does (`tools/gguf-split/gguf-split.cpp` of
//! llama.cpp): the same files, byte for byte.
//!
//! Where it ends with an error (a first tensor larger than the bound) the tensor gets a file of
//! its own, as every later one of that size does there too; and where `general.alignment` is not
//! 32, it places the tensors of the first file as if it were, which no reader finds.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use weighbridge_core::model::{Model, Number, Value, Warning};
use weighbridge_core::{Error, Result};

use super::{MergeOptions, SplitOptions, keep_inputs, without_extension};
use crate::convert::Report;
use crate::format::gguf::Gguf;
use crate::format::gguf::split::{COUNT, Cut, NO, TENSORS, is_key, strip, trim};
use crate::format::gguf::write::{pad_bare, plan_split};
use crate::format::shards::ShardSet;
use crate::format::{self, FormatWriter, Note, Plan, WriteOptions};
use crate::output;

pub(super) fn split(
    input: &Path,
    prefix: &Path,
    most_tensors: Option<u64>,
    options: &SplitOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    // As the file has it: nothing that was recorded beside the tensors is put back.
    let mut model = format::open_file(input, &options.open)?;
    if crate::format::gguf::split::is_part(&model) {
        let message = "the file is one of a split model";
        return Err(Error::parameter("split.part", message)
            .in_file(input.display().to_string())
            .help("`weighbridge merge` makes one file of them, which can be split again"));
    }
    let parts: Vec<PathBuf> = model.parts.iter().map(|p| p.path.clone()).collect();
    let mut changed = trim(&mut model.tensors);
    let cut = Cut {
        size: options.max_size,
        tensors: most_tensors,
        bare_first: options.no_tensor_first_split,
    };
    let plan = whole(plan_split(&model, cut, "", false)?, &mut changed)?;
    let prefix = without_extension(prefix, "gguf");
    let place = |name: &str| {
        let mut path = prefix.as_os_str().to_owned();
        path.push(name);
        PathBuf::from(path)
    };
    let paths: Vec<PathBuf> = plan.files.iter().map(|f| place(&f.name)).collect();
    keep_inputs(&paths, &parts)?;
    let write = |tell: &mut dyn FnMut(u64)| {
        output::write_files(&Gguf, &model, &plan, &place, options.sync, tell)
    };
    let bytes = written(&plan, options.dry_run, progress, write)?;
    Ok(Report {
        output: paths,
        tensors: model.tensors.len() as u64,
        bytes,
        changed,
        lost: Vec::new(),
        warnings: std::mem::take(&mut model.warnings),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A plan of which nothing may be lost on the way.
fn whole(mut plan: Plan, changed: &mut Vec<Note>) -> Result<Plan> {
    if let Some(n) = plan.lost.first() {
        let message = format!("{}: {}", n.what, n.why);
        return Err(Error::unsupported("split.cannot-write", message));
    }
    changed.append(&mut plan.changed);
    Ok(plan)
}

/// Has a plan written, unless only its size is asked for; gives that.
fn written(
    plan: &Plan,
    dry_run: bool,
    progress: &mut dyn FnMut(u64, u64),
    write: impl FnOnce(&mut dyn FnMut(u64)) -> Result<Vec<PathBuf>>,
) -> Result<u64> {
    let sizes = plan.files.iter().map(|f| f.bytes);
    let total = sizes.fold(0u64, u64::saturating_add);
    if dry_run {
        return Ok(total);
    }
    output::counted(total, progress, write)?;
    Ok(total)
}

pub(super) fn merge(
    set: &ShardSet,
    target: &Path,
    options: &MergeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    let mut model = gather(set, &options.open)?;
    if options.clean {
        strip(&mut model);
    } else {
        // A count of 0 says that the file is not to be merged again; the other two stay.
        model.metadata.retain(|(k, _)| k != COUNT);
        let none = Value::Number(Number::U16(0));
        model.metadata.push((COUNT.to_owned(), none));
    }
    let mut changed = trim(&mut model.tensors);
    let mut plan = whole(Gguf.plan(&model, &WriteOptions::default())?, &mut changed)?;
    if !options.clean {
        plan.files.iter_mut().for_each(pad_bare);
    }
    keep_inputs(&[target.to_owned()], &set.files)?;
    let write = |tell: &mut dyn FnMut(u64)| {
        output::write_plan(&Gguf, &model, &plan, target, options.sync, tell)
    };
    let bytes = written(&plan, options.dry_run, progress, write)?;
    Ok(Report {
        output: vec![target.to_owned()],
        tensors: model.tensors.len() as u64,
        bytes,
        changed,
        lost: Vec::new(),
        warnings: model.warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Tells of key-values of `part` that the first file has not: the first file's are written.
fn left_out(part: &Model, first: &Model, path: &Path, warnings: &mut Vec<Warning>) {
    let kept: HashMap<&str, &Value> = first.metadata.iter().map(|(k, v)| (&**k, v)).collect();
    for (key, value) in &part.metadata {
        if is_key(key) || kept.get(&**key) == Some(&value) {
            continue;
        }
        let message = format!("{key} of {} is left out", path.display());
        warnings.push(Warning::new("merge.metadata", message));
    }
}

/// All tensors with the first file's metadata, after a look at whether the files belong together.
fn gather(set: &ShardSet, open: &crate::OpenOptions) -> Result<Model> {
    let mut whole: Option<Model> = None;
    let (mut claimed, mut noticed) = (None, Vec::new());
    for (i, path) in set.files.iter().enumerate() {
        let mut part = format::open_file(path, open)?;
        let mixed = |what: String| {
            Error::malformed("gguf.split", what)
                .in_file(path.display().to_string())
                .help("files of several models have been mixed, or one was replaced")
        };
        let number = |key: &str| {
            let found = part.metadata.iter().find(|(k, _)| k == key);
            let n = found.and_then(|(_, v)| v.as_int());
            n.ok_or_else(|| mixed(format!("the file has no {key}, or it is no number")))
        };
        let claims = [
            (NO, number(NO)?, i as i64),
            (COUNT, number(COUNT)?, set.files.len() as i64),
        ];
        for (key, found, right) in claims {
            if found != right {
                return Err(mixed(format!(
                    "{key} is {found}, by the file's name it is {right}"
                )));
            }
        }
        let tensors = number(TENSORS)?;
        if *claimed.get_or_insert(tensors) != tensors {
            return Err(mixed(format!(
                "{TENSORS} is {tensors}, in the first file it is another"
            )));
        }
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                left_out(&part, whole, path, &mut noticed);
                whole.tensors.append(&mut part.tensors);
                whole.warnings.append(&mut part.warnings);
            }
        }
    }
    let mut whole = whole.ok_or_else(|| Error::parameter("merge.not-split", "no file to merge"))?;
    whole.warnings.append(&mut noticed);
    if let Some(n) = claimed.filter(|n| *n != whole.tensors.len() as i64) {
        let message = format!("{TENSORS} is {n}, the files have {}", whole.tensors.len());
        return Err(Error::malformed("gguf.split", message));
    }
    let mut names = HashSet::new();
    match whole
        .tensors
        .iter()
        .find(|t| !names.insert(t.name.as_str()))
    {
        Some(t) => {
            let message = format!("two files have a tensor {}", t.name);
            Err(Error::malformed("gguf.duplicate-name", message))
        }
        None => Ok(whole),
    }
}
