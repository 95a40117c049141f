//! `weighbridge scan`.

mod explain;
mod printer;
mod written;

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
use crate::style::Tone;
use printer::Printer;
use written::Written;

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
    let options = options(args)?;
    let basis = Basis::of(&options.settings);
    say_expired(&basis, out);
    let listing = listed(args, &options, out)?;

    // Everything that is opened by name, and what the system is asked, comes before the sandbox.
    let open = |path| Written::open(path, &args.confine);
    let report = args.report.output.as_deref().map(open).transpose()?;
    let baseline = args.accept.write_baseline.as_deref();
    let baseline = baseline.map(open).transpose()?;
    let late: Vec<_> = [&report, &baseline]
        .into_iter()
        .flatten()
        .filter_map(Written::late)
        .collect();
    let root = std::env::current_dir().unwrap_or_default();
    args.confine.enter(listing.reads(), &late, out)?;

    let mut totals = Totals::default();
    let mut accepted = BaselineWriter::default();
    let progress = Files::of(out, "scanning", Some(listing.len() as u64));
    let mut printer = Printer::new(args, root, out);
    scan_listed(
        &listing,
        &options,
        &mut |path| progress.next(path),
        &mut |file| {
            totals.add(&file);
            accepted.add(&file);
            progress.above(|| printer.file(file))
        },
    )?;
    drop(progress);
    let exit = exit(&totals, &args.accept, options.settings.policy.as_deref());
    printer.finish(&totals, &basis, exit, report)?;
    if let Some(file) = baseline {
        let text = format!("{} findings accepted", accepted.len());
        file.write(accepted.finish()?.as_bytes())?;
        out.note(Tone::Head, "baseline", &text);
    }
    Ok(exit)
}

/// How files are scanned. The number of cores is asked for here: under a container's quota it
/// stands in files that the sandbox closes.
fn options(args: &Scan) -> Result<ScanOptions> {
    let mut options = ScanOptions {
        settings: settings(&args.accept)?,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        ignore_files: !args.no_ignore,
        contain_panics: true,
        ..ScanOptions::default()
    };
    if let Some(p) = &options.settings.policy {
        p.limit(&mut options.limits);
    }
    Ok(options)
}

/// Refuses to write over what is scanned or judged by.
fn not_an_input(written: Option<&Path>, args: &Scan) -> Result<()> {
    let Some(written) = written else {
        return Ok(());
    };
    let read = [&args.accept.policy, &args.accept.baseline];
    let mut read = args.paths.iter().chain(read.into_iter().flatten());
    if read.any(|p| same_file(p, written)) {
        return Err(Error::parameter(
            "scan.output-is-input",
            "the file to write is one that the scan reads",
        )
        .in_file(written.display().to_string())
        .help("write it under another name"));
    }
    Ok(())
}

/// Reads what the user accepts.
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
