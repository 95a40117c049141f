//! `weighbridge quantize`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use weighbridge::output::{Sink, same_file, same_place};
use weighbridge::quantize::recipe::Recipe;
use weighbridge::quantize::{
    Blocks, Done, FileType, OnnxOptions, OnnxType, Quality, QuantizeOptions, Quantized, Ranges,
    imatrix, quantize, quantize_onnx, tensor_type, with_gguf_blocks,
};
use weighbridge::{Error, FormatId, Model, Result};

use crate::args::{Activations, MatrixArgs, OnnxArgs, Quantize};
use crate::cmd::convert::file_name;
use crate::cmd::summary::notes;
use crate::cmd::{open_options, summary};
use crate::exit::Exit;
use crate::output::{Output, versioned};
use crate::progress::Progress;
use crate::style::Tone;
use crate::text::{brief, count, plural, safe, size};

/// Largest recipe read: a line of a hundred bytes for a million tensors.
const LONGEST_RECIPE: u64 = 100 << 20;

/// What is made, and how.
enum Way {
    Gguf(Box<QuantizeOptions>),
    Onnx(Box<OnnxOptions>),
}

impl Way {
    fn inputs(&self) -> &[PathBuf] {
        match self {
            Self::Gguf(o) => &o.inputs,
            Self::Onnx(o) => &o.inputs,
        }
    }
}

pub(crate) fn run(args: &Quantize, out: &mut Output) -> Result<Exit> {
    let mut model = open_options(&args.open, None).open(&args.input)?;
    let kind = onnx_type(args, &model)?;
    if model.format == FormatId::Onnx && kind.is_none() {
        with_gguf_blocks(&mut model)?;
    }
    let way = match kind {
        Some(kind) => Way::Onnx(Box::new(onnx_options(args, kind)?)),
        None => Way::Gguf(Box::new(options(args)?)),
    };
    let target = match (&args.output, &way) {
        (Some(path), _) => path.clone(),
        (None, Way::Gguf(_)) => args.input.with_extension("quantized.gguf"),
        (None, Way::Onnx(_)) => args.input.with_extension("quantized.onnx"),
    };
    // Opened first: hours of work are not to end in a folder that does not exist.
    let report = match &args.report {
        Some(path) => {
            apart(path, &target, &model, way.inputs())?;
            Some(weighbridge::output::Output::create(path, !args.no_sync)?)
        }
        None => None,
    };
    let mut progress: Option<Progress> = None;
    let mut tell = |n, total| {
        progress
            .get_or_insert_with(|| Progress::new(out, "quantizing", total))
            .add(n);
    };
    let done = match &way {
        Way::Gguf(options) => quantize(model, &target, options, &mut tell)?,
        Way::Onnx(options) => quantize_onnx(model, &target, options, &mut tell)?,
    };
    drop(progress);
    for w in &done.report.warnings {
        let text = format!("{} ({})", w.message, w.rule);
        out.note(Tone::Warn, "warning", &text);
    }
    if let Some(mut file) = report {
        let document = versioned(done.to_json_with_tensors());
        file.put(&Output::rendered(&document)?)?;
        file.finish()?;
    }
    if out.json {
        let document = if args.dry_run {
            done.to_json_with_tensors()
        } else {
            done.to_json()
        };
        out.document(&versioned(document))?;
    } else if !out.quiet {
        human(args, &target, &done, out)?;
    }
    Ok(Exit::Done)
}

/// Refuses a report in the place of the result or of what it is made from.
fn apart(report: &Path, target: &Path, model: &Model, inputs: &[PathBuf]) -> Result<()> {
    let parts = model.parts.iter().map(|p| &p.path);
    let mut inputs = parts.chain(inputs);
    if same_place(report, target) || inputs.any(|p| same_file(report, p)) {
        let message = "the report would take the place of the result or of a file it is made from";
        let e = Error::parameter("quantize.report", message);
        return Err(e
            .in_file(report.display().to_string())
            .help("write it under another name"));
    }
    Ok(())
}

/// The type, where an ONNX model is to become one: that is what such a model and such a type ask
/// for.
fn onnx_type(args: &Quantize, model: &Model) -> Result<Option<OnnxType>> {
    let kind = args.file.as_deref().and_then(OnnxType::from_name);
    let named = |end: &str| {
        let extension = args.output.as_ref().and_then(|p| p.extension());
        extension.is_some_and(|e| e.eq_ignore_ascii_case(end))
    };
    let onnx = model.format == FormatId::Onnx && !named("gguf");
    match (onnx, kind) {
        (true, Some(kind)) => Ok(Some(kind)),
        (true, None) if named("onnx") => {
            let name = args.file.as_deref().unwrap_or("a recipe");
            let message = format!("{name} is no type of an ONNX file");
            let e = Error::parameter("quantize.type", message);
            Err(e.help("use int8, uint8, int4, uint4, f16 or bf16; GGUF types need an OUT.gguf"))
        }
        _ => Ok(None),
    }
}

fn onnx_options(args: &Quantize, kind: OnnxType) -> Result<OnnxOptions> {
    let foreign = [
        ("--recipe", args.recipe.is_some()),
        ("--imatrix", args.matrix.imatrix.is_some()),
        ("--tensor-type", !args.tensor_type.is_empty()),
        ("--pure", args.pure),
        ("--output-tensor-type", args.output_tensor_type.is_some()),
        (
            "--token-embedding-type",
            args.token_embedding_type.is_some(),
        ),
        ("--leave-output-tensor", args.leave_output_tensor),
        ("--prune-layers", !args.prune_layers.is_empty()),
        ("--keep-split", args.keep_split),
        ("--allow-requantize", args.allow_requantize),
    ];
    if let Some((flag, _)) = foreign.iter().find(|(_, given)| *given) {
        let message = format!("{flag} is for GGUF files");
        return Err(Error::parameter("quantize.flag", message));
    }
    let a = &args.onnx;
    let mut inputs = vec![args.input.clone()];
    inputs.extend(a.ranges.iter().chain(&a.from_gguf).cloned());
    let blocks = match &a.from_gguf {
        Some(path) => {
            let model = open_options(&args.open, None).open(path)?;
            inputs.extend(model.parts.iter().map(|p| p.path.clone()));
            Some(Blocks::new(&model, &a.map)?)
        }
        None => None,
    };
    Ok(OnnxOptions {
        ranges: a.ranges.as_deref().map(ranges).transpose()?,
        unsigned_activations: a.activations.map(|t| t == Activations::Uint8),
        blocks,
        block_ops: a.keep_op.clone(),
        block_size: a.block_size,
        per_channel: a.per_channel,
        symmetric: a.symmetric,
        reduce_range: a.reduce_range,
        qdq: a.qdq,
        rtn: a.rtn,
        accuracy_level: a.accuracy_level,
        exclude: args.exclude.clone(),
        threads: args.threads,
        measure: args.report.is_some(),
        dry_run: args.dry_run,
        sync: !args.no_sync,
        inputs,
        ..OnnxOptions::new(kind)
    })
}

/// Reads ranges of activations: an object of names with least and greatest value.
fn ranges(path: &Path) -> Result<Ranges> {
    let text = small_file(path, "the file of ranges")?;
    let wrong = |message: String| {
        let e = Error::parameter("quantize.ranges", message);
        let e = e.in_file(path.display().to_string());
        e.help("write {\"NAME\": [LEAST, MOST], …}")
    };
    let parsed: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| wrong(format!("no JSON: {e}")))?;
    let object = parsed
        .as_object()
        .ok_or_else(|| wrong("no object".into()))?;
    let range = |(name, value): (&String, &serde_json::Value)| {
        let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let numbers: Vec<f64> = numbers
            .iter()
            .filter_map(serde_json::Value::as_f64)
            .collect();
        match numbers.as_slice() {
            [least, most] if least <= most && most - least < f64::from(f32::MAX) => {
                Ok((name.clone(), (*least as f32, *most as f32)))
            }
            _ => Err(wrong(format!("{name}: not two numbers in order"))),
        }
    };
    object.iter().map(range).collect()
}

fn small_file(path: &Path, what: &str) -> Result<String> {
    let named = |e: Error| e.in_file(path.display().to_string());
    let io = |e| named(Error::io(format!("cannot read {what}"), e));
    // What is no file does not say how long it is: a pipe may, a device will give more.
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    let n = file.take(LONGEST_RECIPE + 1).read_to_end(&mut bytes);
    if n.map_err(io)? as u64 > LONGEST_RECIPE {
        let message = format!("{what} has more than {LONGEST_RECIPE} bytes");
        return Err(named(Error::limit("quantize.size", message)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to() as u64;
        let e = Error::malformed("quantize.utf8", format!("{what} is no UTF-8 text"));
        named(e.at(at).help("name the text file that is meant"))
    })
}

fn options(args: &Quantize) -> Result<QuantizeOptions> {
    no_onnx(&args.onnx)?;
    let by_name = args.tensor_type.iter();
    let read = [
        Some(&args.input),
        args.recipe.as_ref(),
        args.matrix.imatrix.as_ref(),
    ];
    let typed = |t: &Option<String>| t.as_deref().map(tensor_type).transpose();
    Ok(QuantizeOptions {
        file: args.file.as_deref().map(FileType::parse).transpose()?,
        recipe: args.recipe.as_deref().map(recipe).transpose()?,
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        output: typed(&args.output_tensor_type)?,
        embedding: typed(&args.token_embedding_type)?,
        by_name: by_name
            .map(|(name, to)| Ok((name.clone(), tensor_type(to)?)))
            .collect::<Result<_>>()?,
        exclude: args.exclude.clone(),
        prune: args.prune_layers.clone(),
        keep_split: args.keep_split,
        requantize: args.allow_requantize,
        matrix: matrix(&args.matrix)?,
        partial_matrix: args.matrix.allow_partial_imatrix,
        threads: args.threads,
        measure: args.report.is_some(),
        dry_run: args.dry_run,
        sync: !args.no_sync,
        inputs: read.into_iter().flatten().cloned().collect(),
        report: args.report.clone(),
    })
}

/// Refuses what only ONNX models are quantized with: it would change nothing.
fn no_onnx(a: &OnnxArgs) -> Result<()> {
    let foreign = [
        ("--block-size", a.block_size.is_some()),
        ("--per-channel", a.per_channel),
        ("--symmetric", a.symmetric.is_some()),
        ("--reduce-range", a.reduce_range),
        ("--qdq", a.qdq),
        ("--rtn", a.rtn),
        ("--ranges", a.ranges.is_some()),
        ("--from-gguf", a.from_gguf.is_some()),
        ("--keep-op", !a.keep_op.is_empty()),
        ("--accuracy-level", a.accuracy_level.is_some()),
    ];
    match foreign.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            let message = format!("{flag} is for ONNX files, and the result is GGUF");
            let help =
                "leave it out; an ONNX model with --type int8, uint8, int4 or uint4 stays one";
            Err(Error::parameter("quantize.flag", message).help(help))
        }
        None => Ok(()),
    }
}

fn matrix(args: &MatrixArgs) -> Result<Option<(String, imatrix::Matrix)>> {
    let Some(path) = &args.imatrix else {
        return Ok(None);
    };
    let mut matrix = imatrix::read(path)?;
    let holds = |name: &str, parts: &[String]| parts.iter().any(|p| name.contains(p.as_str()));
    if !args.include_weights.is_empty() {
        matrix.retain(|name| holds(name, &args.include_weights));
    }
    matrix.retain(|name| !holds(name, &args.exclude_weights));
    // Without an entry it is as if there were no matrix.
    let some = !matrix.entries.is_empty();
    Ok(some.then(|| (path.to_string_lossy().into_owned(), matrix)))
}

fn recipe(path: &Path) -> Result<Recipe> {
    let text = small_file(path, "the recipe")?;
    let named = |e: Error| e.in_file(path.display().to_string());
    Recipe::parse(&text).map_err(named)
}

fn human(args: &Quantize, target: &Path, done: &Quantized, out: &mut Output) -> Result<()> {
    let style = out.style;
    let (from, to) = (args.input.to_string_lossy(), target.to_string_lossy());
    let head = match &args.output {
        Some(_) => format!("{} → {}", safe(&from), safe(&to)),
        None => safe(&from).into_owned(),
    };
    out.line(style.paint(Tone::Head, head))?;
    if args.dry_run {
        for t in &done.tensors {
            tensor(t, out)?;
        }
    }
    let mixed = format!(
        "{}, {:.2} bits a weight, {}",
        done.kind,
        done.bits(),
        plural(done.report.tensors, "tensor")
    );
    summary::field(out, "type", mixed)?;
    for (dtype, n, bytes) in done.types() {
        let text = format!("{dtype} × {}, {}", count(n), size(bytes));
        summary::field(out, "", text)?;
    }
    worst(done, out)?;
    notes(out, "changed", &done.report.changed)?;
    notes(out, "lost", &done.report.lost)?;
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let files: Vec<String> = done
        .report
        .output
        .iter()
        .take(4)
        .map(|p| file_name(p))
        .collect();
    let more = match done.report.output.len().saturating_sub(files.len()) {
        0 => String::new(),
        n => format!(" and {} more", count(n as u64)),
    };
    let seconds = match args.dry_run {
        true => String::new(),
        false => format!(" in {:.2} s", done.report.seconds),
    };
    let bytes = size(done.report.bytes);
    let text = format!("{}{more}, {bytes}{seconds}", files.join(", "));
    summary::field(out, verb, text)
}

/// The tensors that lose most for their size, where that was measured.
fn worst(done: &Quantized, out: &mut Output) -> Result<()> {
    const SHOWN: usize = 8;
    let measured = done.tensors.iter().filter_map(|t| Some((t, t.quality?)));
    let mut all: Vec<(&Done, Quality)> = measured.filter(|(_, q)| q.relative > 0.0).collect();
    all.sort_by(|(_, a), (_, b)| b.relative.total_cmp(&a.relative));
    for (i, (t, q)) in all.iter().take(SHOWN).enumerate() {
        let name = if i == 0 { "loses most" } else { "" };
        let decibels = q
            .snr_db
            .map_or_else(String::new, |n| format!(", {n:.1} dB"));
        let cosine = q
            .cosine
            .map_or_else(String::new, |c| format!(", cosine {c:.6}"));
        let loss = 100.0 * q.relative;
        let text = format!("{:<40} {loss:.3} %{decibels}{cosine}", brief(&t.name, 60));
        summary::field(out, name, text)?;
    }
    Ok(())
}

fn tensor(t: &Done, out: &mut Output) -> Result<()> {
    let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
    let types = match t.from == t.to {
        true => t.to.to_string(),
        false => format!("{} → {}", t.from, t.to),
    };
    out.line(format_args!(
        "  {:<40} {:<20} {types:<18} {}",
        brief(&t.name, 60),
        shape.join(" × "),
        size(t.after)
    ))
}
