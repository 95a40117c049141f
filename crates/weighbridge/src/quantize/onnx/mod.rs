//! ONNX to ONNX: weights as small integers or half floats, the graph rewritten around them.
//!
//! What becomes of a model is decided on its structure alone; positions of all bytes are known
//! before the first weight is read. Then weights go through in parts, on every core.

mod bias;
mod dynamic;
mod fixed;
mod gguf;
mod grid;
mod half;
mod job;
mod layout;
mod nbits;
mod newer;
mod params;
mod qdq;
mod rewrite;
mod run;
mod types;
mod view;
mod weight;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use weighbridge_core::model::{DType, FormatId, Graph, Model, Tensor};
use weighbridge_core::source::{self, Backend, ByteSource};
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Limits, Result};

use super::{Done, Quantized, pattern};
use crate::convert::Report;
use crate::format::Note;
use crate::format::onnx::encode::Fields;
use crate::format::onnx::splice::{Edits, Piece};
use crate::format::onnx::unique::refuse_duplicates;
use crate::format::onnx::{parse, raw};
use crate::output::keep_inputs;
pub use gguf::{Blocks, with_gguf_blocks};
use job::{FIRST_TWO, Job, Linear, To};
use params::Int;
use rewrite::{Constant, Rewrite, data_type};
use run::Outcome;
use view::{Held, View};

/// What weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxType {
    /// Signed bytes.
    Int8,
    /// Unsigned bytes.
    Uint8,
    /// Signed, two a byte.
    Int4,
    /// Unsigned, two a byte.
    Uint4,
    /// Binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl OnnxType {
    /// The type called `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "int8" => Self::Int8,
            "uint8" => Self::Uint8,
            "int4" => Self::Int4,
            "uint4" => Self::Uint4,
            "f16" | "fp16" | "float16" => Self::F16,
            "bf16" | "bfloat16" => Self::Bf16,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Int4 => "int4",
            Self::Uint4 => "uint4",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// Least and greatest values by name.
pub type Ranges = Vec<(String, (f32, f32))>;

/// How an ONNX model is quantized to an ONNX model.
#[derive(Debug, Clone)]
pub struct OnnxOptions {
    /// What weights become.
    pub kind: OnnxType,
    /// Values that share a scale, in blocks along the dimension that is summed over.
    pub block_size: Option<u32>,
    /// A scale for each channel of a weight.
    pub per_channel: bool,
    /// Zero is the middle integer. Where it is not said: for signed types.
    pub symmetric: Option<bool>,
    /// Use seven bits of eight, for processors whose integer sums saturate.
    pub reduce_range: bool,
    /// Keep the operators, with `DequantizeLinear` before them.
    pub qdq: bool,
    /// Round to nearest in blocks, without a search for better steps.
    pub rtn: bool,
    /// Least and greatest values of activations by name, with which they are quantized too.
    pub ranges: Option<Ranges>,
    /// What activations with ranges become: unsigned bytes, or signed ones. Where it is not said:
    /// as weights.
    pub unsigned_activations: Option<bool>,
    /// Blocks of a GGUF file in the place of constants, as they are.
    pub blocks: Option<Blocks>,
    /// Operators that stay in binary32 beside those that have to.
    pub block_ops: Vec<String>,
    /// `accuracy_level` of `MatMulNBits`.
    pub accuracy_level: Option<i64>,
    /// Regular expressions of names of nodes and weights that stay as they are.
    pub exclude: Vec<String>,
    /// Threads; 0 for as many as the machine has.
    pub threads: usize,
    /// Measure what is lost, weight by weight.
    pub measure: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Wait until the result is on the disk.
    pub sync: bool,
    /// Bytes beyond which a file's weights go to a file beside it.
    pub most_inside: u64,
    /// Files read besides the model, which the result may not take the place of either.
    pub inputs: Vec<PathBuf>,
}

impl OnnxOptions {
    /// The usual way to `kind`.
    pub fn new(kind: OnnxType) -> Self {
        Self {
            kind,
            block_size: None,
            per_channel: false,
            symmetric: None,
            reduce_range: false,
            qdq: false,
            rtn: false,
            ranges: None,
            unsigned_activations: None,
            blocks: None,
            block_ops: Vec::new(),
            accuracy_level: None,
            exclude: Vec::new(),
            threads: 0,
            measure: false,
            dry_run: false,
            sync: true,
            // Protobuf's own readers take no more than 2 GiB; nodes are added on top of this.
            most_inside: (1 << 31) - (16 << 20),
            inputs: Vec::new(),
        }
    }

    /// The integers, where weights become integers.
    fn int(&self) -> Option<Int> {
        Some(match self.kind {
            OnnxType::Int8 => Int::I8,
            OnnxType::Uint8 => Int::U8,
            OnnxType::Int4 => Int::I4,
            OnnxType::Uint4 => Int::U4,
            OnnxType::F16 | OnnxType::Bf16 => return None,
        })
    }

    fn activations(&self) -> Int {
        match self.unsigned_activations {
            Some(true) => Int::U8,
            Some(false) => Int::I8,
            None => match self.kind {
                OnnxType::Uint8 => Int::U8,
                _ => Int::I8,
            },
        }
    }

    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
        // Each takes some ten MiB.
        .min(24)
    }
}

/// Quantizes the ONNX model `model` to the ONNX file `path`. `progress` is told the bytes of
/// weights that were worked on since its last call and the total; files appear only when all are
/// complete.
///
/// # Errors
/// `Parameter` for options that do not go together or a model without anything to quantize,
/// `Malformed` for weights that are no finite numbers or have one name, and what reading and writing gives. Nothing
/// is left at `path` then.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
/// use weighbridge::quantize::{OnnxOptions, OnnxType, quantize_onnx};
/// let model = weighbridge::open("model.onnx")?;
/// let options = OnnxOptions::new(OnnxType::Int8);
/// quantize_onnx(model, Path::new("model.int8.onnx"), &options, &mut |_, _| {})?;
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn quantize_onnx(
    model: Model,
    path: &Path,
    options: &OnnxOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Quantized> {
    let started = Instant::now();
    let mut inputs: Vec<PathBuf> = model.parts.iter().map(|p| p.path.clone()).collect();
    inputs.extend_from_slice(&options.inputs);
    let source = source_of(&model)?;
    let parsed = parse::parse(source.as_ref(), &Limits::default())?;
    let (Some(raw), Some(low)) = (&parsed.model.graph, &model.graph) else {
        let message = "the model has no graph";
        return Err(Error::malformed("onnx.no-graph", message).in_file(source.name()));
    };
    refuse_duplicates(&parsed.model, Span::of(source.as_ref()), &Edits::new())
        .map_err(|e| e.in_file(source.name()))?;
    let mut out = Rewrite::new(raw);
    change(&parsed.model, raw, low, source.as_ref(), options, &mut out)
        .map_err(|e| e.in_file(source.name().to_owned()))?;
    if out.jobs.is_empty() {
        let message = "there is no weight in the model that this quantizes";
        let e = Error::parameter("quantize.nothing", message).in_file(source.name());
        return Err(
            e.help("integers need MatMul, Gemm, Conv, Gather or LSTM with constant weights")
        );
    }
    let made = layout::Layout::make(&source, &parsed.model, low, path, options, &mut out)?;
    let files = made.paths();
    let read = inputs.iter().map(PathBuf::as_path);
    keep_inputs(&files, read, "quantize.same-file", "name another OUT")?;
    let (outcomes, output) = match options.dry_run {
        true => (vec![Outcome::default(); out.jobs.len()], files),
        false => made.write(&source, &out.jobs, options, progress)?,
    };
    let changed = changes(&out, &outcomes);
    let tensors = done(low, &out, &outcomes);
    let report = Report {
        output,
        tensors: tensors.len() as u64,
        bytes: made.bytes(),
        changed,
        lost: Vec::new(),
        warnings: model.warnings,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok(Quantized {
        report,
        kind: options.kind.name().to_owned(),
        tensors,
    })
}

/// The file that the model's structure is in.
fn source_of(model: &Model) -> Result<std::sync::Arc<dyn ByteSource>> {
    let part = model
        .parts
        .first()
        .filter(|_| model.format == FormatId::Onnx);
    match part {
        Some(p) => source::open_file(&p.path, Backend::default()),
        None => Err(Error::parameter(
            "quantize.format",
            "the model is no ONNX file",
        )),
    }
}

/// Says what changes.
fn change(
    model: &raw::Model,
    raw: &raw::Graph,
    low: &Graph,
    source: &dyn ByteSource,
    options: &OnnxOptions,
    out: &mut Rewrite,
) -> Result<()> {
    let exclude = options.exclude.iter().map(|p| pattern(p));
    let exclude = exclude.collect::<Result<Vec<_>>>()?;
    let small = matches!(options.kind, OnnxType::Int4 | OnnxType::Uint4);
    let view = || View::new(raw, low, &exclude);
    let mut raised = false;
    if options.int().is_none() {
        newer_than(
            model,
            if options.kind == OnnxType::Bf16 {
                13
            } else {
                10
            },
        )?;
        half::rewrite(model, &view(), options, out)?;
    } else if let Some(ranges) = &options.ranges {
        if small || options.block_size.is_some() {
            let message = "ranges go with int8 and uint8 without blocks";
            return Err(Error::parameter("quantize.ranges", message));
        }
        newer_than(model, if options.per_channel { 13 } else { 11 })?;
        fixed::rewrite(model, &view(), ranges, options, out)?;
    } else if options.qdq {
        newer_than(model, if options.per_channel { 13 } else { 10 })?;
        qdq::rewrite(&view(), options, out)?;
        let blocks = small || options.block_size.is_some();
        // Scales are of the weights' type.
        let half = |j: &Job| j.tensor.dtype != DType::F32;
        if (blocks && !out.jobs.is_empty()) || (opset(model) < 19 && out.jobs.iter().any(half)) {
            newer::raise(model, source, out)?;
            raised = true;
        }
    } else if small || options.block_size.is_some() {
        nbits::rewrite(raw, low, &exclude, options, out)?;
        if !out.jobs.is_empty() {
            import_microsoft(model, source, out);
        }
    } else {
        newer_than(model, 11)?;
        dynamic::rewrite(&view(), source, options, out)?;
        if out.microsoft {
            import_microsoft(model, source, out);
        }
    }
    if !raised && !out.jobs.is_empty() {
        newer::free_initializers(model, source, out);
    }
    out.settle();
    Ok(())
}

/// The version of the standard operators.
fn opset(model: &raw::Model) -> i64 {
    let standard = |o: &&raw::Opset| matches!(o.domain.as_str(), "" | "ai.onnx");
    model.opsets.iter().find(standard).map_or(1, |o| o.version)
}

fn newer_than(model: &raw::Model, least: i64) -> Result<()> {
    let version = opset(model);
    if version >= least {
        return Ok(());
    }
    let message = format!("the model's operators are of version {version}, this needs {least}");
    let e = Error::unsupported("quantize.opset", message);
    Err(e.help("raise the version with onnx.version_converter"))
}

/// Names ONNX Runtime's operators among those that the model means.
fn import_microsoft(model: &raw::Model, source: &dyn ByteSource, out: &mut Rewrite) {
    if model.opsets.iter().any(|o| o.domain == rewrite::MICROSOFT) {
        return;
    }
    let entry = Fields::new().bytes(1, rewrite::MICROSOFT).int(2, 1);
    let piece = Piece::Fields(Fields::new().bytes(8, entry));
    match model.opsets.last() {
        Some(last) => out.edits.after(Span::of(source), last.span, vec![piece]),
        None => out.edits.append(Span::of(source), vec![piece]),
    }
}

/// Adds a constant's integers, scales and zero points under these names, and the work on them;
/// gives the names.
fn linear_constant(
    view: &View<'_>,
    (name, held): (&str, Held<'_>),
    linear: Linear,
    names: [String; 3],
    out: &mut Rewrite,
) -> [String; 3] {
    let tensor = held.tensor;
    let mut dims = tensor.shape.to_vec();
    let n = dims.len();
    let channels: Vec<u64> = match linear.axis {
        None => Vec::new(),
        Some(FIRST_TWO) => dims.iter().take(2).copied().collect(),
        Some(a) => dims.get(a).copied().into_iter().collect(),
    };
    if linear.turn && n >= 2 {
        dims.swap(n - 1, n - 2);
    }
    let count: u64 = channels.iter().product();
    let bits = |n: u64| n.saturating_mul(u64::from(linear.int.bits())).div_ceil(8);
    let width = tensor.dtype.bytes().unwrap_or(4);
    let sizes = [
        bits(tensor.numel().unwrap_or(0)),
        count.saturating_mul(width),
        bits(count),
    ];
    let kinds = [linear.int.dtype(), tensor.dtype, linear.int.dtype()];
    let shapes = [dims, channels.clone(), channels];
    let graph = view.graph_of(held.raw.span);
    let names = add(out, graph, names, kinds, shapes, sizes);
    let (names, rooms) = names;
    out.jobs.push(Job {
        name: name.to_owned(),
        tensor: tensor.clone(),
        to: To::Linear(linear),
        rooms: rooms.map(Some),
        after: sizes.iter().fold(0, |n, b| n.saturating_add(*b)),
        dtype: linear.int.dtype(),
        scales: tensor.dtype,
        biases: Vec::new(),
    });
    names
}

/// Adds constants with rooms; gives their names and the rooms.
fn add<const N: usize>(
    out: &mut Rewrite,
    graph: Span,
    names: [String; N],
    kinds: [DType; N],
    shapes: [Vec<u64>; N],
    sizes: [u64; N],
) -> ([String; N], [usize; N]) {
    let mut rooms = [0; N];
    let names = names.map(|n| out.fresh(n));
    let each = names
        .iter()
        .zip(kinds)
        .zip(shapes)
        .zip(sizes)
        .zip(&mut rooms);
    for ((((name, kind), dims), len), room) in each {
        *room = out.rooms();
        let data = out.room(len);
        let constant = Constant {
            name: name.clone(),
            data_type: data_type(kind),
            dims,
            data,
        };
        out.constant(graph, constant);
    }
    (names, rooms)
}

fn changes(out: &Rewrite, outcomes: &[Outcome]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for (what, why) in &out.notes {
        notes.push(Note::new(what.as_str(), why.as_str()));
    }
    for (job, outcome) in out.jobs.iter().zip(outcomes) {
        if outcome.beyond > 0 {
            let why = format!(
                "{} values beyond {} became its greatest",
                outcome.beyond, job.dtype
            );
            notes.push(Note::new(job.name.as_str(), why));
        }
    }
    notes
}

/// The weights: those that changed, then those that stayed.
fn done(low: &Graph, out: &Rewrite, outcomes: &[Outcome]) -> Vec<Done> {
    let changed = out.jobs.iter().zip(outcomes).map(|(job, outcome)| Done {
        name: job.name.clone(),
        shape: job.tensor.shape.to_vec(),
        from: job.tensor.dtype,
        to: job.dtype,
        before: job.tensor.byte_len(),
        after: job.after,
        quality: outcome.quality,
    });
    let names: HashSet<&str> = out.jobs.iter().map(|j| j.name.as_str()).collect();
    let gone = |t: &&Tensor| !names.contains(t.name.as_str());
    let stayed = low.initializers.iter().filter(gone).map(|t| Done {
        name: t.name.clone(),
        shape: t.shape.to_vec(),
        from: t.dtype,
        to: t.dtype,
        before: t.byte_len(),
        after: t.byte_len(),
        quality: None,
    });
    changed.chain(stayed).collect()
}
