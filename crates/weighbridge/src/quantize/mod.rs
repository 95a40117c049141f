//! From wide types to blocks: `quantize`, with mixes, importance matrices and recipes.
//!
//! What is written is known before the first value is read: [`mix`] (or a [`recipe`]) chooses the
//! type of each tensor, `order` the order of tensors and keys, `plan` the position of every
//! byte. The pipeline then moves rows, not tensors. For models that the reference quantizer
//! (`llama_model_quantize` of llama.cpp 0c1e570) takes, files are byte-identical to its own.

pub mod arch;
mod dequantize;
pub mod ftype;
pub mod imatrix;
mod measure;
pub mod mix;
mod onnx;
mod order;
mod pipeline;
mod plan;
pub mod recipe;
#[cfg(test)]
mod tests;
mod work;

use std::path::{Path, PathBuf};
use std::time::Instant;

use regex::Regex;
use serde_json::{Value as Json, json};
use weighbridge_core::model::{DType, FormatId, Model, Warning};
use weighbridge_core::{Error, Result};

pub(crate) use dequantize::retype;
pub use dequantize::{DequantizeOptions, dequantize};
pub use ftype::{FileType, tensor_type};
pub use measure::Quality;
pub use onnx::{Blocks, OnnxOptions, OnnxType, Ranges, quantize_onnx, with_gguf_blocks};

use crate::convert;
use crate::format::Note;
use crate::output::{OutputSet, Positioned, keep_inputs, same_place};
use recipe::Recipe;

/// How a model is quantized.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// What to; a recipe may tell it.
    pub file: Option<FileType>,
    /// Types by name, exactly these.
    pub recipe: Option<Recipe>,
    /// One type for all, no mix.
    pub pure: bool,
    /// Leave the output matrix as it is.
    pub leave_output: bool,
    /// The type of the output matrix.
    pub output: Option<DType>,
    /// The type of the token embeddings.
    pub embedding: Option<DType>,
    /// Types by regular expressions; the first that is found in a name counts. Case is ignored.
    pub by_name: Vec<(String, DType)>,
    /// Regular expressions of names that stay as they are.
    pub exclude: Vec<String>,
    /// Layers to leave out.
    pub prune: Vec<u32>,
    /// Write as many files as there were.
    pub keep_split: bool,
    /// Take tensors of block types too, which adds to their error.
    pub requantize: bool,
    /// The importance matrix, by the name that the output records.
    pub matrix: Option<(String, imatrix::Matrix)>,
    /// Take a matrix that has entries for no tensor of the model.
    pub partial_matrix: bool,
    /// Threads; 0 for as many as the machine has.
    pub threads: usize,
    /// Measure what is lost, tensor by tensor.
    pub measure: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Wait until the result is on the disk.
    pub sync: bool,
    /// Files read besides the model, which the result may not take the place of either.
    pub inputs: Vec<PathBuf>,
    /// Where a report of it will be written, which no file of the result may be.
    pub report: Option<PathBuf>,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self {
            file: None,
            recipe: None,
            pure: false,
            leave_output: false,
            output: None,
            embedding: None,
            by_name: Vec::new(),
            exclude: Vec::new(),
            prune: Vec::new(),
            keep_split: false,
            requantize: false,
            matrix: None,
            partial_matrix: false,
            threads: 0,
            measure: false,
            dry_run: false,
            sync: true,
            inputs: Vec::new(),
            report: None,
        }
    }
}

/// What became of a tensor.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its name in the output.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Its type before.
    pub from: DType,
    /// Its type now.
    pub to: DType,
    /// Bytes before.
    pub before: u64,
    /// Bytes now.
    pub after: u64,
    /// What it lost, where that was measured.
    pub quality: Option<Quality>,
}

/// What a quantization did, or would do.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The facts that every conversion has.
    pub report: convert::Report,
    /// The file type.
    pub kind: String,
    /// The tensors in the order of the output.
    pub tensors: Vec<Done>,
}

impl Quantized {
    /// The document of `quantize`.
    pub fn to_json(&self) -> Json {
        let mut out = self.report.to_json();
        let before = self
            .tensors
            .iter()
            .fold(0, |n: u64, t| n.saturating_add(t.before));
        let after = self
            .tensors
            .iter()
            .fold(0, |n: u64, t| n.saturating_add(t.after));
        if let Some(m) = out.as_object_mut() {
            m.insert("type".into(), self.kind.as_str().into());
            m.insert("tensor_bytes_before".into(), before.into());
            m.insert("tensor_bytes".into(), after.into());
            m.insert("bits_per_weight".into(), self.bits().into());
            let types = self.types();
            let types = types
                .iter()
                .map(|(d, n, bytes)| json!({"dtype": d.as_str(), "tensors": n, "bytes": bytes}));
            m.insert("types".into(), types.collect());
        }
        out
    }

    /// The document that `--report` writes: the same with all tensors.
    pub fn to_json_with_tensors(&self) -> Json {
        let mut out = self.to_json();
        let tensors = self.tensors.iter().map(|t| {
            let mut row = json!({
                "name": t.name,
                "shape": t.shape,
                "from": t.from.as_str(),
                "dtype": t.to.as_str(),
                "bytes_before": t.before,
                "bytes": t.after,
            });
            if let (Some(m), Some(q)) = (row.as_object_mut(), &t.quality) {
                m.insert("quality".into(), q.to_json());
            }
            row
        });
        let tensors: Vec<Json> = tensors.collect();
        if let Some(m) = out.as_object_mut() {
            m.insert("tensor_list".into(), tensors.into());
        }
        out
    }

    /// Bits a value takes on average.
    pub fn bits(&self) -> f64 {
        let (mut bytes, mut values) = (0f64, 0f64);
        for t in &self.tensors {
            bytes += t.after as f64;
            values += t.shape.iter().map(|d| *d as f64).product::<f64>();
        }
        if values > 0.0 {
            bytes * 8.0 / values
        } else {
            0.0
        }
    }

    /// The types of the output with the number of their tensors and their bytes, most bytes first.
    pub fn types(&self) -> Vec<(DType, u64, u64)> {
        let mut types: Vec<(DType, u64, u64)> = Vec::new();
        for t in &self.tensors {
            match types.iter_mut().find(|(d, _, _)| *d == t.to) {
                Some((_, n, bytes)) => {
                    *n += 1;
                    *bytes = bytes.saturating_add(t.after);
                }
                None => types.push((t.to, 1, t.after)),
            }
        }
        types.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        types
    }
}

/// Quantizes `model` to the GGUF file `path`. `progress` is told the bytes of the input that were
/// worked on since its last call and the total; files appear only when all are complete.
///
/// # Errors
/// `Parameter` for options or a matrix that do not fit the model, `Malformed` for values that are
/// no finite numbers, and what reading and writing gives. Nothing is left at `path` then.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
/// use weighbridge::quantize::{FileType, QuantizeOptions, quantize};
/// let model = weighbridge::open("model-f16.gguf")?;
/// let file = Some(FileType::parse("Q4_K_M")?);
/// let options = QuantizeOptions { file, ..QuantizeOptions::default() };
/// let done = quantize(model, Path::new("model-q4.gguf"), &options, &mut |_, _| {})?;
/// println!("{:.2} bits a weight", done.bits());
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn quantize(
    model: Model,
    path: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Quantized> {
    let started = Instant::now();
    let mut inputs: Vec<PathBuf> = model.parts.iter().map(|p| p.path.clone()).collect();
    inputs.extend_from_slice(&options.inputs);
    let mut plan = plan::Plan::make(model, path, options)?;
    let mut output: Vec<PathBuf> = plan.files.iter().map(|f| f.path.clone()).collect();
    let help = "what is quantized cannot be made wide again: name another OUT";
    let read = inputs.iter().map(PathBuf::as_path);
    keep_inputs(&output, read, "quantize.same-file", help)?;
    only_gguf(path)?;
    keep_report(&output, options)?;
    let mut quality = Vec::new();
    if !options.dry_run {
        let mut outputs = Vec::with_capacity(plan.files.len());
        for file in &plan.files {
            let out = Positioned::create(&file.path, file.bytes, options.sync)?;
            out.write_at(0, &file.header)?;
            outputs.push(out);
        }
        let run = pipeline::Run {
            items: &plan.items,
            outputs: &outputs,
            matrix: options.matrix.as_ref().map(|(_, m)| m),
            threads: options.threads,
            measure: options.measure,
        };
        quality = run.run(progress)?;
        let mut set = OutputSet::new();
        for out in outputs {
            out.finish(&mut set)?;
        }
        output = set.commit()?;
    }
    let bytes = plan
        .files
        .iter()
        .fold(0u64, |n, f| n.saturating_add(f.bytes));
    let report = convert::Report {
        output,
        tensors: plan.items.len() as u64,
        bytes,
        changed: std::mem::take(&mut plan.changed),
        lost: std::mem::take(&mut plan.lost),
        warnings: std::mem::take(&mut plan.warnings),
        seconds: started.elapsed().as_secs_f64(),
    };
    let mut quality = quality.into_iter();
    let done = |item: &plan::Item| Done {
        name: item.name.clone(),
        shape: item.from.shape.to_vec(),
        from: item.from.dtype,
        to: item.to,
        before: item.from.byte_len(),
        after: item.bytes,
        quality: quality.next().flatten(),
    };
    let tensors = plan.items.iter().map(done).collect();
    Ok(Quantized {
        report,
        kind: plan.file.name().to_owned(),
        tensors,
    })
}

/// Refuses a name by which the file would be taken for one of another format.
fn only_gguf(path: &Path) -> Result<()> {
    match convert::target_of(path) {
        Ok(other) if other != FormatId::Gguf => {
            let message = format!("the result is GGUF, its name says {}", other.as_str());
            let e = Error::parameter("quantize.target", message);
            Err(e
                .in_file(path.display().to_string())
                .help("name an OUT that ends in .gguf"))
        }
        _ => Ok(()),
    }
}

/// Refuses a report in the place of a file of the result, which would be lost.
fn keep_report(output: &[PathBuf], options: &QuantizeOptions) -> Result<()> {
    let Some(report) = &options.report else {
        return Ok(());
    };
    if !output.iter().any(|out| same_place(out, report)) {
        return Ok(());
    }
    let message = "the report would take the place of a file of the result";
    let e = Error::parameter("quantize.report", message);
    Err(e
        .in_file(report.display().to_string())
        .help("write it under another name"))
}

/// Compiles a pattern of names; case is ignored, as the reference turns patterns into lower case.
fn pattern(text: &str) -> Result<Regex> {
    let made = regex::RegexBuilder::new(text)
        .case_insensitive(true)
        .build();
    made.map_err(|e| {
        Error::parameter("quantize.regex", format!("{text:?}: {e}"))
            .help("patterns are searched in names; write \\. for a dot")
    })
}

fn note(notes: &mut Vec<Note>, what: &str, why: impl Into<String>) {
    notes.push(Note::new(what, why));
}

fn warn(warnings: &mut Vec<Warning>, rule: &'static str, message: impl Into<String>) {
    warnings.push(Warning::new(rule, message));
}
