//! Splitting and merging as `llama-gguf-split` does (`tools/gguf-split/gguf-split.cpp` of
//! llama.cpp): the same files, byte for byte.
//!
//! Where it ends with an error (a first tensor larger than the bound) the tensor gets a file of
//! its own, as every later one of that size does there too; and where `general.alignment` is not
//! 32, it places the tensors of the first file as if it were, which no reader finds.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use weighbridge_core::model::{FormatId, Model, Number, Shape, Tensor, Value, Warning};
use weighbridge_core::{Error, Result};

use super::{MergeOptions, SplitOptions, keep_inputs, without_extension};
use crate::convert::Report;
use crate::format::gguf::Gguf;
use crate::format::gguf::raw::{DEFAULT_ALIGNMENT, align_up};
use crate::format::gguf::split::{COUNT, NO, TENSORS, strip};
use crate::format::shards::ShardSet;
use crate::format::{self, FormatWriter, Note, Plan, PlannedFile, WriteOptions};
use crate::output::{self, Output, OutputSet};

/// One file to be.
struct File {
    path: PathBuf,
    model: Model,
    plan: Plan,
}

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
    let tensors = model.tensors.len();
    let mut changed = trim(&mut model.tensors);
    let groups = groups(&model.tensors, most_tensors, options);
    let warnings = std::mem::take(&mut model.warnings);
    let files = files(
        model,
        groups,
        &without_extension(prefix, "gguf"),
        &mut changed,
    )?;
    let paths: Vec<PathBuf> = files.iter().map(|f| f.path.clone()).collect();
    keep_inputs(&paths, &parts)?;
    let total = files
        .iter()
        .flat_map(|f| &f.plan.files)
        .fold(0u64, |n, f| n.saturating_add(f.bytes));
    if !options.dry_run {
        write(&files, options.sync, total, progress)?;
    }
    Ok(Report {
        output: paths,
        tensors: tensors as u64,
        bytes: total,
        changed,
        lost: Vec::new(),
        warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Dimensions of 1 behind the last other one are not written (`ggml_n_dims`).
fn trim(tensors: &mut [Tensor]) -> Vec<Note> {
    let mut notes = Vec::new();
    for t in tensors {
        let ones = t.shape.iter().take_while(|d| **d == 1).count();
        let drop = ones.min(t.shape.len().saturating_sub(1));
        if drop > 0 {
            t.shape = t.shape.iter().skip(drop).copied().collect::<Shape>();
            let why = "outer dimensions of 1 are left out, as ggml counts dimensions";
            notes.push(Note {
                naming: true,
                ..Note::new(t.name.as_str(), why)
            });
        }
    }
    notes
}

/// Which tensors go into which file.
fn groups(tensors: &[Tensor], most: Option<u64>, options: &SplitOptions) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
    if options.no_tensor_first_split {
        groups.push(Vec::new());
    }
    let mut filled = 0u64;
    for (i, t) in tensors.iter().enumerate() {
        let len = t.byte_len();
        let bytes = align_up(len, DEFAULT_ALIGNMENT).unwrap_or(len);
        let with = filled.saturating_add(bytes);
        let full = match (options.max_size, most) {
            (Some(size), _) => with > size,
            (None, Some(n)) => i > 0 && (i as u64).is_multiple_of(n),
            (None, None) => false,
        };
        filled = if full { bytes } else { with };
        if full && groups.last().is_some_and(|g| !g.is_empty()) {
            groups.push(Vec::new());
        }
        if let Some(last) = groups.last_mut() {
            last.push(i);
        }
    }
    groups
}

fn files(
    mut model: Model,
    groups: Vec<Vec<usize>>,
    prefix: &Path,
    changed: &mut Vec<Note>,
) -> Result<Vec<File>> {
    strip(&mut model);
    let too_many = |what: &str, n: usize| {
        let message = format!("{n} {what} are more than the format can count");
        Error::parameter("split.too-many", message)
    };
    let n = groups.len();
    let count = u16::try_from(n).map_err(|_| too_many("files", n))?;
    let tensors = model.tensors.len();
    let all = i32::try_from(tensors).map_err(|_| too_many("tensors", tensors))?;
    let mut out = Vec::with_capacity(n);
    for (no, group) in (0u16..).zip(groups) {
        let mut part = Model::new(FormatId::Gguf);
        if no == 0 {
            part.metadata.append(&mut model.metadata);
        }
        // The count is set last of all, which puts it at the end.
        for (key, value) in [
            (NO, Number::U16(no)),
            (TENSORS, Number::I32(all)),
            (COUNT, Number::U16(count)),
        ] {
            part.metadata.push((key.to_owned(), Value::Number(value)));
        }
        let own = group.iter().filter_map(|&i| model.tensors.get(i));
        part.tensors = own.cloned().collect();
        let mut name = prefix.as_os_str().to_owned();
        name.push(format!("-{:05}-of-{n:05}.gguf", no + 1));
        let plan = plan(&part, true, changed)?;
        out.push(File {
            path: name.into(),
            model: part,
            plan,
        });
    }
    Ok(out)
}

/// What writing `model` gives; nothing may be lost on the way.
fn plan(model: &Model, padded: bool, changed: &mut Vec<Note>) -> Result<Plan> {
    let mut plan = Gguf.plan(model, &WriteOptions::default())?;
    if let Some(n) = plan.lost.first() {
        let message = format!("{}: {}", n.what, n.why);
        return Err(Error::unsupported("split.cannot-write", message));
    }
    // gguf_write_to_buf pads a header that no data follows, too.
    let bare = |f: &&mut PlannedFile| padded && f.tensors.is_empty();
    for f in plan.files.iter_mut().filter(bare) {
        let alignment = DEFAULT_ALIGNMENT as usize;
        let whole = f.prepared.len().next_multiple_of(alignment);
        f.prepared.resize(whole, 0);
        f.bytes = whole as u64;
    }
    changed.append(&mut plan.changed);
    Ok(plan)
}

fn write(files: &[File], sync: bool, total: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let mut set = OutputSet::new();
    let mut told = 0u64;
    for f in files {
        let mut out = Output::create(&f.path, sync)?;
        out.reserve(f.plan.files.first().map_or(0, |p| p.bytes))?;
        Gguf.write(&f.model, &f.plan, 0, &mut out, &mut |n| {
            told = told.saturating_add(n);
            progress(n, total);
        })?;
        set.push(out)?;
    }
    progress(total.saturating_sub(told), total);
    set.commit().map(|_| ())
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
    let plan = plan(&model, !options.clean, &mut changed)?;
    let bytes = plan
        .files
        .iter()
        .fold(0u64, |n, f| n.saturating_add(f.bytes));
    keep_inputs(&[target.to_owned()], &set.files)?;
    if !options.dry_run {
        let mut told = 0u64;
        output::write_plan(&Gguf, &model, &plan, target, options.sync, &mut |n| {
            told = told.saturating_add(n);
            progress(n, bytes);
        })?;
        progress(bytes.saturating_sub(told), bytes);
    }
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
        if [NO, COUNT, TENSORS].contains(&key.as_str()) || kept.get(&**key) == Some(&value) {
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
