//! `weighbridge quantize`.

use std::path::Path;

use weighbridge::output::{Sink, same_file};
use weighbridge::quantize::recipe::Recipe;
use weighbridge::quantize::{
    Done, FileType, QuantizeOptions, Quantized, imatrix, quantize, tensor_type,
};
use weighbridge::{Error, Model, Result};

use crate::args::{MatrixArgs, Quantize};
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

pub(crate) fn run(args: &Quantize, out: &mut Output) -> Result<Exit> {
    let options = options(args)?;
    let model = open_options(&args.open, None).open(&args.input)?;
    let target = match &args.output {
        Some(path) => path.clone(),
        None => args.input.with_extension("quantized.gguf"),
    };
    // Opened first: hours of work are not to end in a folder that does not exist.
    let report = match &args.report {
        Some(path) => {
            apart(path, &target, &model, &options)?;
            Some(weighbridge::output::Output::create(path, !args.no_sync)?)
        }
        None => None,
    };
    let mut progress: Option<Progress> = None;
    let done = quantize(model, &target, &options, &mut |n, total| {
        progress
            .get_or_insert_with(|| Progress::new(out, "quantizing", total))
            .add(n);
    })?;
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
fn apart(report: &Path, target: &Path, model: &Model, options: &QuantizeOptions) -> Result<()> {
    let place = |p: &Path| {
        let folder = std::path::absolute(p).ok()?.parent()?.canonicalize().ok()?;
        Some(folder.join(p.file_name()?))
    };
    let parts = model.parts.iter().map(|p| &p.path);
    let mut inputs = parts.chain(&options.inputs);
    let one = place(report);
    if (one.is_some() && one == place(target))
        || same_file(report, target)
        || inputs.any(|p| same_file(report, p))
    {
        let message = "the report would take the place of the result or of a file it is made from";
        let e = Error::parameter("quantize.report", message);
        return Err(e
            .in_file(report.display().to_string())
            .help("write it under another name"));
    }
    Ok(())
}

fn options(args: &Quantize) -> Result<QuantizeOptions> {
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
    })
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
    let named = |e: Error| e.in_file(path.display().to_string());
    let io = |e| Error::io("cannot read the recipe", e);
    let bytes = std::fs::metadata(path).map_err(io).map_err(named)?.len();
    if bytes > LONGEST_RECIPE {
        let message = format!("a recipe of {bytes} bytes");
        return Err(named(Error::limit("recipe.size", message)));
    }
    let text = std::fs::read_to_string(path).map_err(io).map_err(named)?;
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
        done.file.name(),
        done.bits(),
        plural(done.report.tensors, "tensor")
    );
    summary::field(out, "type", mixed)?;
    for (dtype, n, bytes) in done.types() {
        let text = format!("{dtype} × {}, {}", count(n), size(bytes));
        summary::field(out, "", text)?;
    }
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
