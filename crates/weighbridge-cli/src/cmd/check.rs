//! `weighbridge check`.

use serde_json::{Value as Json, json};
use weighbridge::Result;
use weighbridge::check::{Report, Violation, check};

use crate::args::Check;
use crate::cmd::open_options;
use crate::exit::Exit;
use crate::output::{Output, SCHEMA_VERSION, error_document};
use crate::progress::Waiting;
use crate::style::Tone;
use crate::text::{plural, safe};

pub(crate) fn run(args: &Check, out: &mut Output) -> Result<Exit> {
    let options = open_options(&args.open, args.format.map(|f| f.id()));
    let mut exit = Exit::Done;
    let mut documents = Vec::new();
    let single = args.paths.len() == 1;
    for path in &args.paths {
        let waiting = Waiting::new(out, format!("checking {}", path.display()));
        let answer = check(path, &options);
        drop(waiting);
        match answer {
            Ok(report) => {
                if !report.violations.is_empty() {
                    exit = exit.and(Exit::BadNews);
                }
                if out.json {
                    documents.push(document(&report));
                } else {
                    human(&report, out)?;
                }
            }
            Err(e) if single => return Err(e),
            Err(e) => {
                exit = exit.and(Exit::Failed);
                if out.json {
                    documents.push(error_document(&e, Some(path)));
                } else {
                    out.explain(&e);
                }
            }
        }
    }
    if out.json {
        match documents.as_slice() {
            [one] if single => out.document(one)?,
            _ => out.document(&documents)?,
        }
    }
    Ok(exit)
}

fn document(report: &Report) -> Json {
    json!({
        "schema_version": SCHEMA_VERSION,
        "path": report.path.to_string_lossy(),
        "format": report.format.as_str(),
        "ok": report.violations.is_empty(),
        "violations": report.violations.iter().map(violation).collect::<Vec<_>>(),
    })
}

fn violation(v: &Violation) -> Json {
    json!({
        "rule": v.rule,
        "offset": v.offset,
        "length": v.length,
        "where": v.place,
        "message": v.message,
    })
}

fn human(report: &Report, out: &mut Output) -> Result<()> {
    let style = out.style;
    let path = report.path.to_string_lossy();
    let (path, format) = (safe(&path), report.format.as_str());
    let n = report.violations.len() as u64;
    if n == 0 {
        if !out.quiet {
            out.line(format_args!(
                "{path}: {} ({format})",
                style.paint(Tone::Good, "ok")
            ))?;
        }
        return Ok(());
    }
    let count = style.paint(Tone::Bad, plural(n, "violation"));
    out.line(format_args!("{path}: {count} ({format})"))?;
    for v in &report.violations {
        let at = match (v.offset, v.length) {
            (Some(o), Some(l)) if l > 0 => format!(" at byte {o}, {}", plural(l, "byte")),
            (Some(o), _) => format!(" at byte {o}"),
            _ => String::new(),
        };
        out.line(format_args!("  {}{at}", style.paint(Tone::Head, v.rule)))?;
        out.line(format_args!("    {}", safe(&v.message)))?;
        if !v.place.is_empty() && v.place != report.path.to_string_lossy() {
            out.line(format_args!("    in {}", safe(&v.place)))?;
        }
    }
    Ok(())
}
