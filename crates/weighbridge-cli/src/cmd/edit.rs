//! `weighbridge edit`.

use std::path::Path;

use weighbridge::edit::{Change, EditOptions, Method, Report, edit};
use weighbridge::format::onnx::write::{External, Weights};
use weighbridge::{Limits, Result};

use crate::args::{self, Edit};
use crate::cmd::{open_options, summary};
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Progress;
use crate::style::Tone;
use crate::text::{plural, safe, size};

/// How many files of weights are listed for people.
const BESIDE: usize = 40;

pub(crate) fn run(args: &Edit, out: &mut Output) -> Result<Exit> {
    let options = EditOptions {
        output: args.output.clone(),
        reserve: args.reserve,
        weights: weights(args),
        over_2gib: args.over_2gib,
        dry_run: args.dry_run,
        sync: !args.no_sync,
        open: open_options(&args::Open::default(), None),
    };
    let changes = changes(args)?;
    let mut progress: Option<Progress> = None;
    let report = edit(&args.path, &changes, &options, &mut |n, total| {
        progress
            .get_or_insert_with(|| Progress::new(out, "writing", total))
            .add(n);
    })?;
    drop(progress);
    for w in &report.warnings {
        let text = format!("{} ({})", w.message, w.rule);
        out.note(Tone::Warn, "warning", &text);
    }
    if out.json {
        out.document(&crate::output::versioned(report.to_json()))?;
    } else if !out.quiet {
        human(args, &report, out)?;
    }
    Ok(Exit::Done)
}

fn weights(args: &Edit) -> Weights {
    match &args.external {
        _ if args.inline => Weights::Inline,
        None => Weights::Keep,
        Some(file) => {
            let plain = External::default();
            Weights::External(External {
                file: file.clone(),
                threshold: args.external_threshold.unwrap_or(plain.threshold),
                ..plain
            })
        }
    }
}

fn changes(args: &Edit) -> Result<Vec<Change>> {
    let mut all = Vec::new();
    for s in &args.set {
        all.push(Change::parse_set(s)?);
    }
    for (key, file) in &args.set_file {
        all.push(Change::set_file(key, Path::new(file), &Limits::default())?);
    }
    let pairs = |pairs: &[(String, String)], f: fn(String, String) -> Change| {
        let made = pairs.iter().map(|(a, b)| f(a.clone(), b.clone()));
        made.collect::<Vec<_>>()
    };
    all.extend(args.unset.iter().cloned().map(Change::Unset));
    all.extend(pairs(&args.rename_key, Change::RenameKey));
    all.extend(pairs(&args.rename, Change::Rename));
    all.extend(pairs(&args.rename_node, Change::RenameNode));
    all.extend(args.remove.iter().cloned().map(Change::Remove));
    all.extend(args.strip_docs.then_some(Change::StripDocs));
    Ok(all)
}

fn human(args: &Edit, report: &Report, out: &mut Output) -> Result<()> {
    let path = report.output.to_string_lossy();
    let head = out.style.paint(Tone::Head, safe(&path));
    out.line(head)?;
    summary::notes(out, "changed", &report.changed)?;
    if report.reserve > 0 {
        summary::field(out, "reserve", size(report.reserve))?;
    }
    let would = args.dry_run;
    match report.method {
        Method::Unchanged => summary::field(out, "wrote", "nothing: the file is so already"),
        Method::InPlace => {
            let verb = if would { "would write" } else { "wrote" };
            let text = format!("{} in place", plural(report.written, "byte"));
            summary::field(out, verb, text)
        }
        Method::Rewritten => {
            let verb = if would { "would write" } else { "wrote" };
            for path in report.beside.iter().take(BESIDE) {
                summary::field(out, verb, safe(&path.to_string_lossy()))?;
            }
            let text = format!("{} anew in {:.2} s", size(report.bytes), report.seconds);
            summary::field(out, verb, text)
        }
    }
}
