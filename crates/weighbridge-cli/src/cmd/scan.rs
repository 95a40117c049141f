//! `weighbridge scan`.

mod explain;
mod printer;

use std::path::Path;
use std::sync::Arc;

use weighbridge::output::same_file;
use weighbridge::scan::{Listing, ScanOptions, list, scan_listed};
use weighbridge::{Error, Result};
use weighbridge_scan::report::{Basis, Totals};
use weighbridge_scan::{Baseline, BaselineWriter, Known, Policy, Settings, Severity};

use crate::args::{FailOn, ReportFormat, Scan, ScanAccept};
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Files;
use crate::sandbox::LateFile;
use crate::style::Tone;
use printer::Printer;

pub(crate) fn run(args: &Scan, out: &mut Output) -> Result<Exit> {
    out.json |= args.report.format == ReportFormat::Json;
    match args.explain.as_deref() {
        Some(id) if id != "all" => return explain::one(id, out),
        Some(_) => return explain::all(out),
        None if args.list_rules => return explain::all(out),
        None => {}
    }
    for written in [&args.report.output, &args.accept.write_baseline] {
        not_an_input(written.as_deref(), args)?;
    }
    two_outputs(args)?;
    let settings = settings(&args.accept)?;
    let basis = Basis::of(&settings);
    say_expired(&basis, out);
    let options = options(args, settings);
    let listing = listed(args, &options, out)?;
    // What is written after the scan is opened before it: the sandbox opens nothing.
    let baseline_file = late(args.accept.write_baseline.as_deref())?;
    let mut printer = Printer::new(args, out)?;
    let writes: Vec<&LateFile> = baseline_file.iter().chain(printer.file_to()).collect();
    args.confine.enter(listing.reads(), &writes, out)?;

    let progress = Files::of(out, "scanning", Some(listing.len() as u64));
    let mut totals = Totals {
        ignored: listing.ignored(),
        ..Totals::default()
    };
    let mut baseline = BaselineWriter::default();
    let mut next = |path: &Path| progress.next(path);
    scan_listed(&listing, &options, &mut next, &mut |file| {
        totals.add(&file);
        if baseline_file.is_some() {
            baseline.add(&file);
        }
        progress.above(|| printer.file(file, out))
    })?;
    drop(progress);
    let mut exit = exit(&totals, &args.accept, options.settings.policy.as_deref());
    if listing.missing() > 0 {
        // A path that is not there is a mistake, which `--allow-incomplete` does not speak of.
        exit = exit.and(Exit::Failed);
    }
    printer.finish(&totals, &basis, exit, out)?;
    if let Some(file) = baseline_file {
        let n = baseline.len();
        let findings = if n == 1 { "finding" } else { "findings" };
        let text = format!("{n} {findings} accepted into {}", file.path().display());
        file.write(baseline.finish()?.as_bytes())?;
        out.note(Tone::Head, "baseline", &text);
    }
    Ok(exit)
}

/// How files are scanned. The number of cores is asked for here: under a container's quota it
/// stands in files that the sandbox closes.
fn options(args: &Scan, settings: Settings) -> ScanOptions {
    let mut options = ScanOptions {
        settings,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        ignore_files: !args.no_ignore,
        contain_panics: true,
        ..ScanOptions::default()
    };
    if let Some(p) = &options.settings.policy {
        p.limit(&mut options.limits);
    }
    options
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

/// Refuses to write over what is scanned or judged by.
fn not_an_input(written: Option<&Path>, args: &Scan) -> Result<()> {
    let Some(written) = written else {
        return Ok(());
    };
    let read = [&args.accept.policy, &args.accept.baseline];
    let read = args.paths.iter().chain(read.into_iter().flatten());
    if read.into_iter().any(|p| same_file(p, written)) {
        return Err(Error::parameter(
            "scan.output-is-input",
            "the file to write is one that the scan reads",
        )
        .in_file(written.display().to_string())
        .help("write it under another name"));
    }
    Ok(())
}

/// Refuses to write the report and the baseline over each other.
fn two_outputs(args: &Scan) -> Result<()> {
    let (Some(report), Some(baseline)) = (&args.report.output, &args.accept.write_baseline) else {
        return Ok(());
    };
    let place = |p: &Path| std::path::absolute(p).ok();
    if place(report) == place(baseline) || same_file(report, baseline) {
        return Err(Error::parameter(
            "scan.one-output",
            "the report and the baseline cannot be one file",
        )
        .in_file(report.display().to_string())
        .help("name two files with --output and --write-baseline"));
    }
    Ok(())
}

/// Reads what the user accepts, before anything is scanned.
fn settings(args: &ScanAccept) -> Result<Settings> {
    let policy = args.policy.as_deref().map(Policy::load).transpose()?;
    let known = match (&args.baseline, &args.write_baseline) {
        (_, Some(path)) => Known::Everything(path.display().to_string()),
        (Some(path), None) => Known::Listed(Arc::new(Baseline::load(path)?)),
        (None, None) => Known::Nothing,
    };
    Ok(Settings {
        policy: policy.map(Arc::new),
        known,
    })
}

fn say_expired(basis: &Basis, out: &Output) {
    let Some(policy) = &basis.policy else { return };
    for e in &policy.expired {
        let (path, entry, day, reason) = (&policy.path, &e.entry, &e.expires, &e.reason);
        let text = format!("{path}, {entry} expired after {day} and no longer applies ({reason})");
        out.note(Tone::Warn, "warning", &text);
    }
}

fn exit(totals: &Totals, args: &ScanAccept, policy: Option<&Policy>) -> Exit {
    let said = args.fail_on.map(|f| match f {
        FailOn::Suspicious => Severity::Suspicious,
        FailOn::Malicious => Severity::Malicious,
    });
    let fail_on = said
        .or_else(|| policy?.fail_on())
        .unwrap_or(Severity::Suspicious);
    let allowed = args.allow_incomplete || policy.and_then(Policy::allow_incomplete) == Some(true);
    if totals.worst().is_some_and(|w| w >= fail_on) {
        Exit::BadNews
    } else if totals.malformed || (totals.incomplete && !allowed) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

/// Opens what is to be written when the scan is done.
fn late(path: Option<&Path>) -> Result<Option<LateFile>> {
    path.map(LateFile::open).transpose()
}
