//! `weighbridge disasm`.

use serde::Serialize;
use serde_json::{Value as Json, json};
use weighbridge::disasm::{Found, pickles};
use weighbridge::{Backend, Error, Limits, Result};
use weighbridge_core::pickle::disasm::{Argument, Opcode, opcodes};
use weighbridge_core::pickle::{Line, program};
use weighbridge_core::source::open_file;

use crate::args::Disasm;
use crate::exit::Exit;
use crate::output::{Output, SCHEMA_VERSION, error_document};
use crate::style::Tone;
use crate::text::{brief, plural, safe};

/// Longest operand in a listing, in characters; a document has ten times as much.
const WIDTH: usize = 100;

/// Longest statement of the program.
const STATEMENT: usize = 1000;

pub(crate) fn run(args: &Disasm, out: &mut Output) -> Result<Exit> {
    let source = open_file(&args.path, Backend::Pread)?;
    // Opened, and not one byte read.
    let reads = std::iter::once(args.path.as_path());
    args.confine.enter(reads, &[], out)?;
    let limits = Limits::default();
    let mut exit = Exit::Done;
    let mut left = args.limit;
    let mut documents = Vec::new();
    let trailing = pickles(&source, &limits, &mut |mut found| {
        let error = found.trace.error.take().map(|e| placed(e, &found.place));
        if error.is_some() {
            exit = exit.and(Exit::Failed);
        }
        if out.json {
            documents.push(document(&found, error.as_ref(), &mut left));
            return Ok(());
        }
        listing(&found, &mut left, out)?;
        if let Some(e) = error {
            out.flush()?;
            out.explain(&e);
        }
        Ok(())
    })?;
    if out.json {
        out.document(&json!({
            "schema_version": SCHEMA_VERSION,
            "path": args.path.display().to_string(),
            "pickles": documents,
            "trailing_bytes": trailing,
        }))?;
    } else if trailing > 0 {
        let bytes = plural(trailing, "byte");
        out.line(format_args!("{bytes} after the last pickle belong to none"))?;
    }
    Ok(exit)
}

/// The opcodes that may still be listed, and whether they are all there are.
fn taken<'a>(found: &'a Found<'_>, left: &mut u64) -> (Vec<Opcode<'a>>, bool) {
    let mut rows = Vec::new();
    // What cannot be decoded is what the machine stops at too, and says better.
    let all = opcodes(found.data, found.raw()).map_while(Result::ok);
    for o in all {
        // A real unpickler stops here, whatever follows.
        if found.trace.root.is_none() && o.offset > found.trace.end {
            break;
        }
        if *left == 0 {
            return (rows, false);
        }
        *left -= 1;
        rows.push(o);
    }
    (rows, true)
}

fn statements(found: &Found<'_>, most: usize) -> impl Iterator<Item = Line> {
    program(&found.trace, most)
}

fn listing(found: &Found<'_>, left: &mut u64, out: &mut Output) -> Result<()> {
    let style = out.style;
    let place = if found.place.is_empty() {
        "pickle"
    } else {
        &found.place
    };
    let title = format!(
        "{} at {}, {}, protocol {}",
        safe(place),
        found.offset,
        plural(found.data.len() as u64, "byte"),
        found.trace.protocol
    );
    out.line(style.paint(Tone::Head, title))?;
    let most = usize::try_from(*left).unwrap_or(usize::MAX);
    let (rows, whole) = taken(found, left);
    out.line("  offset  stack   depth  opcode            argument")?;
    for o in &rows {
        let row = format!(
            "{:8}  {:<6} {:6}  {:<16}  {}",
            o.offset,
            effect(o),
            o.depth,
            o.op.name(),
            brief(&argument(&o.argument, WIDTH), WIDTH)
        );
        out.line(row.trim_end())?;
    }
    if !whole {
        out.line("       …  --limit shows more")?;
    }
    for range in found.raw() {
        out.line(format_args!(
            "{:8}  {} of an array",
            range.start,
            plural(range.len() as u64, "byte")
        ))?;
    }
    out.line("")?;
    out.line(style.paint(Tone::Head, "program"))?;
    for line in statements(found, most) {
        out.line(format_args!(
            "{:8}  {}",
            line.offset,
            brief(&line.text, STATEMENT)
        ))?;
    }
    for (i, reading) in found.trace.readings.iter().enumerate() {
        let title = format!("program, as reader {} that holds its frames sees it", i + 2);
        out.line(style.paint(Tone::Head, title))?;
        for line in program(reading, most) {
            out.line(format_args!(
                "{:8}  {}",
                line.offset,
                brief(&line.text, STATEMENT)
            ))?;
        }
    }
    out.line("")
}

/// An error of a pickle with where the pickle lies.
fn placed(e: Error, place: &str) -> Error {
    if place.is_empty() { e } else { e.within(place) }
}

/// What an opcode does to the stack: what it takes and what it gives.
fn effect(o: &Opcode<'_>) -> String {
    format!("-{} +{}", o.takes, o.gives)
}

/// An operand as text, about `width` characters of it.
fn argument(a: &Argument<'_>, width: usize) -> String {
    let text = |s: &str| format!("{:?}", s.chars().take(width).collect::<String>());
    let bytes = |b: &[u8]| {
        let head = b.get(..width.min(b.len())).unwrap_or_default();
        let more = if head.len() < b.len() { "…" } else { "" };
        format!("b\"{}\"{more}", head.escape_ascii())
    };
    match a {
        Argument::None => String::new(),
        Argument::Int(v) => v.to_string(),
        Argument::Digits(d) => d.clone(),
        Argument::Float(v) => format!("{v:?}"),
        Argument::Text(s) => text(s),
        Argument::Pair(module, name) => format!("{} {}", text(module), text(name)),
        Argument::Bytes(b) => bytes(b),
        Argument::Bad(b) => format!("{} (no such spelling)", bytes(b)),
    }
}

#[derive(Serialize)]
struct Document {
    place: String,
    offset: u64,
    bytes: u64,
    protocol: u8,
    opcodes: Vec<Json>,
    opcodes_left_out: bool,
    arrays: Vec<Json>,
    program: Vec<Json>,
    readings: Vec<Vec<Json>>,
    error: Option<Json>,
}

fn document(found: &Found<'_>, error: Option<&Error>, left: &mut u64) -> Document {
    let most = usize::try_from(*left).unwrap_or(usize::MAX);
    let (rows, whole) = taken(found, left);
    let statement = |line: Line| {
        let text: String = line.text.chars().take(STATEMENT).collect();
        json!({"offset": line.offset, "statement": text})
    };
    Document {
        place: found.place.clone(),
        offset: found.offset,
        bytes: found.data.len() as u64,
        protocol: found.trace.protocol,
        opcodes: rows.iter().map(row).collect(),
        opcodes_left_out: !whole,
        arrays: found
            .raw()
            .iter()
            .map(|r| json!({"offset": r.start, "bytes": r.len()}))
            .collect(),
        program: statements(found, most).map(statement).collect(),
        readings: found
            .trace
            .readings
            .iter()
            .map(|r| program(r, most).map(statement).collect())
            .collect(),
        error: error.map(|e| {
            let mut all = error_document(e, None);
            all.get_mut("error").map(Json::take).unwrap_or_default()
        }),
    }
}

fn row(o: &Opcode<'_>) -> Json {
    let shown = argument(&o.argument, 10 * WIDTH);
    let argument: String = shown.chars().take(10 * WIDTH).collect();
    json!({
        "offset": o.offset,
        "name": o.op.name(),
        "argument": o.kind.map(|_| argument),
        "kind": o.kind,
        "takes": o.takes,
        "gives": o.gives,
        "depth": o.depth,
    })
}
