//! `weighbridge scan`.

use weighbridge::scan::{Listing, ScanOptions, list, scan_listed};
use weighbridge::{Error, Result};
use weighbridge_scan::report::{Report, json, table};
use weighbridge_scan::{RuleMeta, Rules, Severity};

use crate::args::{FailOn, ReportFormat, Scan};
use crate::exit::Exit;
use crate::output::{Output, SCHEMA_VERSION};
use crate::progress::Files;
use crate::style::Tone;
use crate::text::safe;

pub(crate) fn run(args: &Scan, out: &mut Output) -> Result<Exit> {
    out.json |= args.format == ReportFormat::Json;
    if let Some(id) = &args.explain {
        return explain(Rules::builtin()?.get(id)?, out);
    }
    let options = options(args);
    let listing = listed(args, &options, out)?;
    args.confine.enter(listing.reads(), &[], out)?;
    let progress = Files::of(out, "scanning", Some(listing.len() as u64));
    let mut report = Report::default();
    scan_listed(
        &listing,
        &options,
        &mut |path| progress.next(path),
        &mut |file| {
            report.files.push(file);
            Ok(())
        },
    )?;
    drop(progress);
    if out.json {
        out.document(&json::Document::new(&report))?;
    } else {
        // Clean files are worth a line each only when somebody named them.
        let all = report.files.len() <= args.paths.len();
        for line in table::lines(&report, all) {
            let tone = match line.tone {
                table::Tone::Plain => Tone::Plain,
                table::Tone::Good => Tone::Good,
                table::Tone::Warn => Tone::Warn,
                table::Tone::Bad => Tone::Bad,
            };
            out.line(out.style.paint(tone, safe(&line.text)))?;
        }
    }
    Ok(exit(&report, args))
}

/// How files are scanned. The number of cores is asked for here: under a container's quota it
/// stands in files that the sandbox closes.
fn options(args: &Scan) -> ScanOptions {
    ScanOptions {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        ignore_files: !args.no_ignore,
        contain_panics: true,
        ..ScanOptions::default()
    }
}

/// Finds the files, by their names only.
fn listed(args: &Scan, options: &ScanOptions, out: &Output) -> Result<Listing> {
    let progress = Files::new(out, "listing");
    let listing = list(&args.paths, options, &mut |path| progress.next(path))?;
    drop(progress);
    if listing.ignored() > 0 {
        let n = listing.ignored();
        let files = if n == 1 { "file is" } else { "files are" };
        out.note(
            Tone::Warn,
            "ignored",
            &format!(
                "{n} {files} not scanned, as .weighbridgeignore asks (--no-ignore scans them)"
            ),
        );
    }
    if listing.is_empty() && listing.ignored() > 0 {
        return Err(Error::parameter(
            "scan.nothing-left",
            "every file is ignored: nothing is known of them",
        )
        .help("--no-ignore scans them"));
    }
    Ok(listing)
}

fn exit(report: &Report, args: &Scan) -> Exit {
    let fail_on = match args.fail_on {
        FailOn::Suspicious => Severity::Suspicious,
        FailOn::Malicious => Severity::Malicious,
    };
    if report.worst().is_some_and(|w| w >= fail_on) {
        Exit::BadNews
    } else if report.any_malformed() || (report.any_incomplete() && !args.allow_incomplete) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

fn explain(rule: &RuleMeta, out: &mut Output) -> Result<Exit> {
    if out.json {
        out.document(&serde_json::json!({
            "schema_version": SCHEMA_VERSION,
            "rule": rule.id,
            "title": rule.title,
            "severity": rule.severity.as_str(),
            "why": rule.why,
            "advice": rule.advice,
            "references": rule.references,
        }))?;
        return Ok(Exit::Done);
    }
    let style = out.style;
    out.line(format_args!(
        "{}: {}",
        style.paint(Tone::Head, &rule.id),
        rule.title
    ))?;
    out.line(format_args!("severity: {}", rule.severity.as_str()))?;
    out.line("")?;
    out.line(&rule.why)?;
    out.line("")?;
    out.line(format_args!("What to do: {}", rule.advice))?;
    for r in &rule.references {
        out.line(format_args!("See: {r}"))?;
    }
    Ok(Exit::Done)
}
