//! `weighbridge diff`.

use weighbridge::diff::{Diff as Answer, DiffOptions, Difference, diff};
use weighbridge::{OpenOptions, Result};

use crate::args::Diff;
use crate::cmd::open_options;
use crate::exit::Exit;
use crate::output::{Output, versioned};
use crate::progress::Waiting;
use crate::style::Tone;
use crate::text::{brief, count, plural};

/// How many lines of each kind are listed for people; the JSON document has all.
const LINES: usize = 40;

pub(crate) fn run(args: &Diff, out: &mut Output) -> Result<Exit> {
    let open = OpenOptions {
        constants: args.constants,
        ..open_options(&args.open, None)
    };
    let (a, b) = (open.open(&args.a)?, open.open(&args.b)?);
    for w in a.warnings.iter().chain(&b.warnings) {
        out.note(
            Tone::Warn,
            "warning",
            &format!("{} ({})", w.message, w.rule),
        );
    }
    let options = DiffOptions {
        metadata: args.metadata,
        atol: args.atol,
        rtol: args.rtol,
    };
    let waiting = Waiting::new(out, "comparing".into());
    let answer = diff(&a, &b, &options)?;
    drop(waiting);
    if out.json {
        out.document(&versioned(answer.to_json()))?;
    } else if !out.quiet {
        human(&answer, out)?;
    }
    Ok(if answer.identical() {
        Exit::Done
    } else {
        Exit::BadNews
    })
}

fn human(d: &Answer, out: &mut Output) -> Result<()> {
    let style = out.style;
    names(out, "only in A", &d.only_in_a)?;
    names(out, "only in B", &d.only_in_b)?;
    for x in d.different.iter().take(LINES) {
        let text = format!("{}: {}", brief(&x.name, 120), apart(x));
        out.line(format_args!(
            "{}  {text}",
            style.paint(Tone::Warn, "different")
        ))?;
    }
    more(out, d.different.len())?;
    if let Some(m) = &d.metadata {
        names(out, "metadata only in A", &m.only_in_a)?;
        names(out, "metadata only in B", &m.only_in_b)?;
        names(out, "metadata different", &m.different)?;
    }
    let same = plural(d.same, "tensor");
    if d.identical() {
        out.line(format_args!(
            "{}: {same}",
            style.paint(Tone::Good, "identical")
        ))
    } else {
        out.line(format_args!(
            "{}: {same} the same",
            style.paint(Tone::Bad, "different")
        ))
    }
}

fn names(out: &mut Output, what: &str, names: &[String]) -> Result<()> {
    let style = out.style;
    for n in names.iter().take(LINES) {
        out.line(format_args!(
            "{}  {}",
            style.paint(Tone::Warn, what),
            brief(n, 120)
        ))?;
    }
    more(out, names.len())
}

fn more(out: &mut Output, total: usize) -> Result<()> {
    match total.saturating_sub(LINES) {
        0 => Ok(()),
        n => out.line(format_args!(
            "… and {} more (--json lists all)",
            count(n as u64)
        )),
    }
}

fn apart(x: &Difference) -> String {
    let mut text = x.why.as_str().to_owned();
    if let Some(detail) = &x.detail {
        text = format!("{text} ({})", brief(detail, 200));
    }
    if let Some(d) = &x.distance {
        text = format!("{text}, max |a−b| {:.3e}", d.max_abs);
        if let Some(r) = d.rel_rmse {
            text = format!("{text}, relative RMSE {r:.3e}");
        }
        if let Some(c) = d.cosine {
            text = format!("{text}, cosine {c:.6}");
        }
    }
    text
}
