//! Checking models in several files.

use std::path::{Path, PathBuf};

use weighbridge_core::model::{FormatId, Model};
use weighbridge_core::{Error, ErrorKind, Result};

use super::super::pytorch::{dcp, deepspeed, megatron};
use super::super::{check_file, open_file, shards};
use super::{Located, Target};
use crate::OpenOptions;
use crate::check::Violation;

/// Checks every part of what was located, and what holds them together. The files of a
/// [`Target::File`] are the caller's.
///
/// # Errors
/// Only `Io`: what is wrong with the parts is the answer.
pub(crate) fn check(
    located: &Located,
    options: &OpenOptions,
) -> Result<(FormatId, Vec<Violation>)> {
    let mut checked = Checked::default();
    match &located.target {
        Target::File(file) => checked.file(file, options)?,
        Target::Shards(path) => checked.shards(path, options)?,
        Target::Dcp(dir) => checked.violations = dcp::check(dir, options)?,
        Target::DeepSpeed(dir) => {
            match deepspeed::files(dir, options) {
                Ok(files) => checked.files(&files, options)?,
                Err(e) => checked.note(e)?,
            }
            checked.whole(deepspeed::open(dir, options))?;
        }
        Target::Megatron(dir) => match megatron::files(dir, options) {
            Ok(megatron::Files::Dcp(step)) => checked.violations = dcp::check(&step, options)?,
            Ok(megatron::Files::Ranks(files)) => {
                checked.files(&files, options)?;
                checked.whole(megatron::open(dir, options))?;
            }
            Err(e) => checked.note(e)?,
        },
    }
    let format = checked.format.unwrap_or(FormatId::PyTorch);
    Ok((format, checked.violations))
}

/// What checking has found so far.
#[derive(Debug, Default)]
struct Checked {
    format: Option<FormatId>,
    violations: Vec<Violation>,
}

impl Checked {
    fn note(&mut self, e: Error) -> Result<()> {
        if e.kind() == ErrorKind::Io {
            return Err(e);
        }
        self.violations.push(Violation::from(&e));
        Ok(())
    }

    fn file(&mut self, file: &Path, options: &OpenOptions) -> Result<()> {
        match check_file(file, options) {
            Ok((format, violations)) => {
                self.format.get_or_insert(format);
                self.violations.extend(violations);
                Ok(())
            }
            Err(e) => self.note(e),
        }
    }

    fn files(&mut self, files: &[PathBuf], options: &OpenOptions) -> Result<()> {
        files.iter().try_for_each(|f| self.file(f, options))
    }

    /// What only shows when the parts are put together; their own faults are named already.
    fn whole(&mut self, opened: Result<Model>) -> Result<()> {
        match opened {
            Err(e) if self.violations.is_empty() => self.note(e),
            _ => Ok(()),
        }
    }

    fn shards(&mut self, path: &Path, options: &OpenOptions) -> Result<()> {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.contains(".safetensors") {
            self.format = Some(FormatId::Safetensors);
        }
        let set = match shards::discover(path, &options.limits) {
            Ok(Some(set)) => set,
            Ok(None) => return self.file(path, options),
            Err(e) => return self.note(e),
        };
        self.files(&set.files, options)?;
        let models: Result<Vec<Model>> = set.files.iter().map(|f| open_file(f, options)).collect();
        match models {
            Ok(models) => shards::audit(&set, &models)
                .into_iter()
                .try_for_each(|e| self.note(e)),
            // Named by the checks of the files.
            Err(e) if e.kind() != ErrorKind::Io => Ok(()),
            Err(e) => Err(e),
        }
    }
}
