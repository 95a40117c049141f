//! `weighbridge split` and `weighbridge merge`.

use std::path::{Path, PathBuf};

use weighbridge::Result;
use weighbridge::convert::Report;
use weighbridge::split::{MergeOptions, SplitOptions, merge, split};

use crate::args::{Merge, Split};
use crate::cmd::{open_options, summary};
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Progress;
use crate::style::Tone;
use crate::text::{plural, safe, size};

/// How many files are listed for people.
const FILES: usize = 40;

pub(crate) fn run(args: &Split, out: &mut Output) -> Result<Exit> {
    let options = SplitOptions {
        max_size: args.max_size,
        max_tensors: args.max_tensors,
        threshold: args.external_threshold,
        no_tensor_first_split: args.no_tensor_first_split,
        dry_run: args.dry_run,
        sync: !args.no_sync,
        open: open_options(&args.open, None),
    };
    let prefix = prefix(&args.input, args.output.as_deref());
    let mut progress: Option<Progress> = None;
    let report = split(&args.input, &prefix, &options, &mut |n, total| {
        progress
            .get_or_insert_with(|| Progress::new(out, "writing", total))
            .add(n);
    })?;
    drop(progress);
    say(&args.input, &report, args.dry_run, out)
}

/// What the files' names begin with.
fn prefix(input: &Path, output: Option<&Path>) -> PathBuf {
    let stem = input.with_extension("");
    match output {
        None => stem,
        Some(folder) if folder.is_dir() => folder.join(stem.file_name().unwrap_or_default()),
        Some(prefix) => prefix.to_owned(),
    }
}

pub(crate) fn run_merge(args: &Merge, out: &mut Output) -> Result<Exit> {
    let options = MergeOptions {
        clean: args.clean,
        over_2gib: args.over_2gib,
        dry_run: args.dry_run,
        sync: !args.no_sync,
        open: open_options(&args.open, None),
    };
    let mut progress: Option<Progress> = None;
    let report = merge(&args.input, &args.output, &options, &mut |n, total| {
        progress
            .get_or_insert_with(|| Progress::new(out, "writing", total))
            .add(n);
    })?;
    drop(progress);
    say(&args.input, &report, args.dry_run, out)
}

fn say(input: &Path, report: &Report, dry_run: bool, out: &mut Output) -> Result<Exit> {
    for w in &report.warnings {
        let text = format!("{} ({})", w.message, w.rule);
        out.note(Tone::Warn, "warning", &text);
    }
    if out.json {
        out.document(&crate::output::versioned(report.to_json()))?;
        return Ok(Exit::Done);
    }
    if out.quiet {
        return Ok(Exit::Done);
    }
    let path = input.to_string_lossy();
    let head = out.style.paint(Tone::Head, safe(&path));
    out.line(head)?;
    summary::field(out, "carried", plural(report.tensors, "tensor"))?;
    summary::notes(out, "changed", &report.changed)?;
    summary::notes(out, "lost", &report.lost)?;
    let verb = if dry_run { "would write" } else { "wrote" };
    for path in report.output.iter().take(FILES) {
        summary::field(out, verb, safe(&path.to_string_lossy()))?;
    }
    let n = plural(report.output.len() as u64, "file");
    summary::field(out, verb, format_args!("{n}, {}", size(report.bytes)))?;
    Ok(Exit::Done)
}
