//! `inspect` for people: a summary and a table of tensors.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use weighbridge::{Result, Tensor};
use weighbridge_core::model::Layout;

use super::Inspected;
use crate::cmd::summary;
use crate::output::Output;
use crate::style::Tone;
use crate::text::{brief, count, plural, safe, size};

/// How many tensors are shown unless all are asked for.
const ROWS: usize = 40;

/// Width of shortened values, in characters.
const WIDE: usize = 60;

pub(super) fn print(x: &Inspected<'_>, all: bool, out: &mut Output) -> Result<()> {
    head(x, out)?;
    let rows = if all { x.model.tensors.len() } else { ROWS };
    if !x.model.tensors.is_empty() {
        out.line("")?;
        table(x, rows, out)?;
    }
    Ok(())
}

fn head(x: &Inspected<'_>, out: &mut Output) -> Result<()> {
    let model = &x.model;
    let style = out.style;
    let path = x.path.to_string_lossy();
    out.line(style.paint(Tone::Head, safe(&path)))?;
    let container = model
        .container
        .map(|c| format!(" ({c})"))
        .unwrap_or_default();
    let version = model
        .version
        .as_deref()
        .map(|v| format!(", version {}", brief(v, WIDE)))
        .unwrap_or_default();
    summary::field(
        out,
        "format",
        format_args!("{}{container}{version}", model.format.as_str()),
    )?;
    summary::field(
        out,
        "files",
        format_args!(
            "{}, {}",
            plural(model.parts.len() as u64, "file"),
            size(model.file_bytes())
        ),
    )?;
    for p in model
        .parts
        .iter()
        .skip(1)
        .filter(|_| model.container == Some("external"))
    {
        let path = brief(&p.path.to_string_lossy(), WIDE);
        summary::field(out, "external", format_args!("{path}, {}", size(p.bytes)))?;
    }
    summary::tensors(model, "tensors", out)?;
    summary::aliases(model, "aliases", out)?;
    summary::metadata(model, "metadata", out)?;
    summary::structure(model, "structure", out)?;
    if let Some(g) = &model.graph {
        super::graph::print(g, out)?;
    }
    for (what, why) in &model.omitted {
        summary::field(
            out,
            "left out",
            format_args!("{}: {}", brief(what, WIDE), brief(why, 200)),
        )?;
    }
    for w in &model.warnings {
        let text = format!("{} ({})", brief(&w.message, 400), w.rule);
        summary::field(out, "warning", style.paint(Tone::Warn, text))?;
    }
    Ok(())
}

fn table(x: &Inspected<'_>, rows: usize, out: &mut Output) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    match terminal_size::terminal_size() {
        Some((terminal_size::Width(w), _)) => {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(w);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    let mut head = vec!["name", "dtype", "shape", "bytes"];
    if !x.stats.is_empty() {
        head.extend(super::values::STATS_HEAD);
    }
    if !x.hashes.is_empty() {
        head.push("sha256");
    }
    table.set_header(head);
    if let Some(c) = table.column_mut(3) {
        c.set_cell_alignment(CellAlignment::Right);
    }
    for (i, t) in x.model.tensors.iter().enumerate().take(rows) {
        table.add_row(row(x, i, t));
    }
    for line in table.lines() {
        out.line(line.trim_end())?;
    }
    let hidden = x.model.tensors.len().saturating_sub(rows);
    if hidden > 0 {
        out.line(format_args!(
            "… and {} more tensors (--tensors lists all)",
            count(hidden as u64)
        ))?;
    }
    Ok(())
}

fn row(x: &Inspected<'_>, i: usize, t: &Tensor) -> Vec<String> {
    let mut dtype = t.dtype.to_string();
    if t.layout != Layout::Strided {
        dtype = format!("{dtype} {}", t.layout.as_str());
    }
    let mut cells = vec![
        safe(&t.name).into_owned(),
        dtype,
        format!("{:?}", t.shape.as_slice()),
        count(t.byte_len()),
    ];
    if let Some(stats) = x.stats.get(i) {
        cells.extend(super::values::stats_cells(stats.as_ref()));
    }
    if let Some(hash) = x.hashes.get(i) {
        cells.push(hash.map_or_else(|| "-".into(), hex::encode));
    }
    cells
}
