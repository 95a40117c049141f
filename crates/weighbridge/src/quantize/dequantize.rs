//! The other way: the values that blocks stand for.

use std::path::Path;

use weighbridge_core::model::{DType, Model, Number, Value};
use weighbridge_core::{Error, Result};

use super::FileType;
use crate::convert::blocks::dequantized;
use crate::convert::{self, ConvertOptions, Report};
use crate::format::Note;
use crate::output::keep_inputs;

/// How blocks are made wide.
#[derive(Debug, Clone)]
pub struct DequantizeOptions {
    /// How many bytes the tensors may take together.
    pub expand: Option<u64>,
    /// Threads; 0 for as many as the machine has.
    pub threads: usize,
    /// Wait until the result is on the disk.
    pub sync: bool,
}

impl Default for DequantizeOptions {
    fn default() -> Self {
        Self {
            expand: None,
            threads: 0,
            sync: true,
        }
    }
}

/// The file type of a model of `dtype`.
fn file_of(dtype: DType) -> Option<FileType> {
    match dtype {
        DType::F32 => Some(FileType::F32),
        DType::F16 => Some(FileType::F16),
        DType::BF16 => Some(FileType::BF16),
        _ => None,
    }
}

/// Has the metadata of `model`, whose blocks have become `dtype`, tell of that type where they told
/// of the blocks'; nothing where there is no number for it.
pub(crate) fn retype(model: &mut Model, dtype: DType) {
    const KEY: &str = "general.file_type";
    match file_of(dtype) {
        Some(file) => {
            let told = model.metadata.iter_mut().filter(|(k, _)| k == KEY);
            told.for_each(|(_, v)| *v = Value::Number(Number::U32(file.number())));
        }
        None => model.metadata.retain(|(k, _)| k != KEY),
    }
}

/// Writes `model` to `path` with its block tensors as `dtype`; everything else stays as it is.
/// The path's extension tells the format.
///
/// # Errors
/// As [`convert::convert`]; `Parameter` when `dtype` is none that values are widened to, or
/// `path` is a file of the model.
pub fn dequantize(
    mut model: Model,
    path: &Path,
    dtype: DType,
    how: &DequantizeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    if file_of(dtype).is_none() {
        let message = format!("blocks are not dequantized to {dtype}");
        return Err(Error::parameter("dequantize.dtype", message).help("use f32, f16 or bf16"));
    }
    let out = [path.to_owned()];
    let read = convert::parts(&model);
    keep_inputs(&out, read, "dequantize.same-file", "name another OUT")?;
    let mut changed = Vec::new();
    for t in &mut model.tensors {
        if let Some(values) = dequantized(t, dtype, how.threads) {
            let why = format!("dequantized from {} to {dtype}", t.dtype);
            changed.push(Note::new(t.name.as_str(), why));
            *t = values;
        }
    }
    if !changed.is_empty() {
        retype(&mut model, dtype);
    }
    let mut options = ConvertOptions {
        sync: how.sync,
        ..ConvertOptions::default()
    };
    // What is quantized to two bits grows sixteenfold by nature, and somewhat more.
    options.limits.expand_bytes = Some(how.expand.unwrap_or_else(|| {
        let cap = model.file_bytes().saturating_mul(64);
        cap.max(1 << 30)
    }));
    let mut report = convert::convert(model, path, &options, progress)?;
    changed.append(&mut report.changed);
    report.changed = changed;
    Ok(report)
}
