//! `weighbridge scan`.

mod explain;
mod printer;

use std::path::Path;
use std::sync::Arc;

use weighbridge::output::{Output as OutputFile, Sink, same_file};
use weighbridge::scan::{ScanOptions, scan};
use weighbridge::{Error, Result};
use weighbridge_scan::report::{Basis, Totals};
use weighbridge_scan::{Baseline, BaselineWriter, Known, Policy, Settings, Severity};

use crate::args::{FailOn, ReportFormat, Scan, ScanAccept};
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Files;
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
    let settings = settings(&args.accept)?;
    let basis = Basis::of(&settings);
    say_expired(&basis, out);
    let mut options = ScanOptions {
        settings,
        ..ScanOptions::default()
    };
    if let Some(p) = &options.settings.policy {
        p.limit(&mut options.limits);
    }

    let progress = Files::new(out, "scanning");
    let report = scan(&args.paths, &options, &mut |path| progress.next(path))?;
    drop(progress);

    let mut printer = Printer::new(args, out);
    let mut totals = Totals::default();
    let mut baseline = BaselineWriter::default();
    for file in report.files {
        totals.add(&file);
        if args.accept.write_baseline.is_some() {
            baseline.add(&file);
        }
        printer.file(file, out)?;
    }
    let exit = exit(&totals, &args.accept, options.settings.policy.as_deref());
    printer.finish(&totals, &basis, exit, out)?;
    if let Some(path) = &args.accept.write_baseline {
        let n = baseline.len();
        write(path, baseline.finish()?.as_bytes())?;
        let text = format!("{n} findings accepted into {}", path.display());
        out.note(Tone::Head, "baseline", &text);
    }
    Ok(exit)
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

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OutputFile::create(path, true)?;
    file.put(bytes)?;
    file.finish()?;
    Ok(())
}
