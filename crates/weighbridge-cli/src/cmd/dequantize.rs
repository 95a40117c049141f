//! `weighbridge dequantize`.

use weighbridge::Result;
use weighbridge::convert::parse_dtype;
use weighbridge::quantize::{DequantizeOptions, dequantize};

use crate::args::Dequantize;
use crate::cmd::summary::notes;
use crate::cmd::{open_options, summary};
use crate::exit::Exit;
use crate::output::{Output, versioned};
use crate::progress::Progress;
use crate::style::Tone;
use crate::text::{safe, size};

pub(crate) fn run(args: &Dequantize, out: &mut Output) -> Result<Exit> {
    let dtype = parse_dtype(&args.dtype)?;
    let model = open_options(&args.open, None).open(&args.input)?;
    let mut progress: Option<Progress> = None;
    let options = DequantizeOptions {
        expand: args.open.max_expand,
        threads: args.threads,
        sync: !args.no_sync,
    };
    let report = dequantize(model, &args.output, dtype, &options, &mut |n, total| {
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
        out.document(&versioned(report.to_json()))?;
    } else if !out.quiet {
        let (from, to) = (args.input.to_string_lossy(), args.output.to_string_lossy());
        let head = format!("{} → {}", safe(&from), safe(&to));
        let head = out.style.paint(Tone::Head, head);
        out.line(head)?;
        notes(out, "changed", &report.changed)?;
        notes(out, "lost", &report.lost)?;
        let text = format!("{} in {:.2} s", size(report.bytes), report.seconds);
        summary::field(out, "wrote", text)?;
    }
    Ok(Exit::Done)
}
