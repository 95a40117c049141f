//! The other way: the values that blocks stand for.

use std::path::Path;

use weighbridge_core::model::{DType, Model, Number, Value};
use weighbridge_core::{Error, Result};

use super::FileType;
use crate::convert::blocks::dequantized;
use crate::convert::{self, ConvertOptions, Report};
use crate::format::Note;
use crate::output::same_file;

/// Writes `model` to `path` with its block tensors as `dtype`; everything else stays as it is.
/// The path's extension tells the format. `expand` is how many bytes the tensors may take.
///
/// # Errors
/// As [`convert::convert`]; `Parameter` when `dtype` is none that values are widened to, or
/// `path` is a file of the model.
pub fn dequantize(
    mut model: Model,
    path: &Path,
    dtype: DType,
    expand: Option<u64>,
    sync: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let file = match dtype {
        DType::F32 => FileType::F32,
        DType::F16 => FileType::F16,
        DType::BF16 => FileType::BF16,
        other => {
            let message = format!("blocks are not dequantized to {other}");
            return Err(Error::parameter("dequantize.dtype", message).help("use f32, f16 or bf16"));
        }
    };
    if model.parts.iter().any(|p| same_file(&p.path, path)) {
        let message = "the result would take the place of a file it is made from";
        let e = Error::parameter("dequantize.same-file", message);
        return Err(e
            .in_file(path.display().to_string())
            .help("name another OUT"));
    }
    let mut changed = Vec::new();
    for t in &mut model.tensors {
        if let Some(values) = dequantized(t) {
            let why = format!("dequantized from {} to {dtype}", t.dtype);
            changed.push(Note::new(t.name.as_str(), why));
            *t = values;
            convert::cast(t, dtype, &mut Vec::new());
        }
    }
    for (key, value) in &mut model.metadata {
        if key == "general.file_type" && !changed.is_empty() {
            *value = Value::Number(Number::U32(file.number()));
        }
    }
    let mut options = ConvertOptions {
        sync,
        ..ConvertOptions::default()
    };
    // What is quantized to two bits grows sixteenfold by nature, and somewhat more.
    options.limits.expand_bytes = Some(expand.unwrap_or_else(|| {
        let cap = model.file_bytes().saturating_mul(64);
        cap.max(1 << 30)
    }));
    let mut report = convert::convert(model, path, &options, progress)?;
    changed.append(&mut report.changed);
    report.changed = changed;
    Ok(report)
}
