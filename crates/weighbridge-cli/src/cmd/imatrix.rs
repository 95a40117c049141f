//! `weighbridge imatrix`.

use std::path::Path;

use serde_json::Value as Json;
use weighbridge::Result;
use weighbridge::quantize::imatrix::{Form, Matrix, merge, read, write};

use crate::args::{Imatrix, ImatrixVerb, MatrixForm};
use crate::cmd::summary;
use crate::exit::Exit;
use crate::output::{Output, versioned};
use crate::style::Tone;
use crate::text::{brief, count, plural, safe};

/// How many entries are listed for people; the JSON document has all.
const ENTRIES: usize = 40;

pub(crate) fn run(args: &Imatrix, out: &mut Output) -> Result<Exit> {
    match &args.verb {
        ImatrixVerb::Inspect { path } => show(&read(path)?, path, true, out)?,
        ImatrixVerb::Merge {
            paths,
            output,
            form,
        } => {
            let all: Vec<Matrix> = paths.iter().map(|p| read(p)).collect::<Result<_>>()?;
            let sum = merge(&all)?;
            put(&sum, output, *form, out)?;
        }
        ImatrixVerb::Convert {
            path,
            output,
            form,
            chunk_size,
        } => {
            let matrix = read(path)?;
            let matrix = match form_of(output, *form) {
                Form::Gguf => matrix.raw(*chunk_size),
                Form::Legacy => matrix,
            };
            put(&matrix, output, *form, out)?;
        }
    }
    Ok(Exit::Done)
}

fn form_of(path: &Path, form: Option<MatrixForm>) -> Form {
    let dat = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("dat"));
    match form {
        Some(MatrixForm::Legacy) => Form::Legacy,
        Some(MatrixForm::Gguf) => Form::Gguf,
        None if dat => Form::Legacy,
        None => Form::Gguf,
    }
}

fn put(matrix: &Matrix, path: &Path, form: Option<MatrixForm>, out: &mut Output) -> Result<()> {
    write(matrix, form_of(path, form), path, true)?;
    show(&read(path)?, path, false, out)
}

fn show(matrix: &Matrix, path: &Path, entries: bool, out: &mut Output) -> Result<()> {
    if out.json {
        let mut document = matrix.to_json();
        if let Json::Object(m) = &mut document {
            m.insert("path".into(), path.display().to_string().into());
        }
        return out.document(&versioned(document));
    }
    if out.quiet {
        return Ok(());
    }
    let head = safe(&path.to_string_lossy()).into_owned();
    let head = out.style.paint(Tone::Head, head);
    out.line(head)?;
    let form = format!("{} form", matrix.form.as_str());
    let n = matrix.entries.len() as u64;
    let entry = if n == 1 { "entry" } else { "entries" };
    summary::field(out, "matrix", format!("{form}, {} {entry}", count(n)))?;
    let chunks = plural(u64::from(matrix.chunk_count.max(0).unsigned_abs()), "chunk");
    let size = match matrix.chunk_size {
        0 => String::new(),
        n => format!(" of {} tokens", count(u64::from(n))),
    };
    summary::field(out, "chunks", format!("{chunks}{size}"))?;
    for d in &matrix.datasets {
        summary::field(out, "text", brief(&String::from_utf8_lossy(d), 100))?;
    }
    if !entries {
        return Ok(());
    }
    for (name, e) in matrix.entries.iter().take(ENTRIES) {
        let columns = e.sums.len() / e.counts.len().max(1);
        let empty = e.counts.iter().filter(|c| **c == 0).count();
        let experts = match (e.counts.len(), empty) {
            (1, _) => String::new(),
            (n, 0) => format!(", {n} experts"),
            (n, empty) => format!(", {n} experts, {empty} without data"),
        };
        let columns = count(columns as u64);
        out.line(format_args!(
            "  {:<40} {columns} columns{experts}",
            brief(name, 60)
        ))?;
    }
    match matrix.entries.len().saturating_sub(ENTRIES) {
        0 => Ok(()),
        n => {
            let text = format!("… and {} more (--json lists all)", count(n as u64));
            summary::field(out, "", text)
        }
    }
}
