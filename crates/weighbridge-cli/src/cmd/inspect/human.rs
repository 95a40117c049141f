//! `inspect` for people: a summary and a table of tensors.

use std::collections::BTreeMap;
use std::fmt::Display;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use weighbridge::{Model, Result, Tensor};
use weighbridge_core::model::{Layout, Value};

use super::Inspected;
use crate::output::Output;
use crate::style::Tone;
use crate::text::{brief, count, plural, safe, size};

/// How many tensors are shown unless all are asked for.
const ROWS: usize = 40;

/// How many metadata keys, aliases and structure keys the summary shows.
const KEYS: usize = 12;

/// Width of shortened values, in characters.
const WIDE: usize = 60;

pub(super) fn print(x: &Inspected<'_>, all: bool, out: &mut Output) -> Result<()> {
    summary(x, out)?;
    let rows = if all { x.model.tensors.len() } else { ROWS };
    if !x.model.tensors.is_empty() {
        out.line("")?;
        table(x, rows, out)?;
    }
    Ok(())
}

fn field(out: &mut Output, name: &str, value: impl Display) -> Result<()> {
    let style = out.style;
    out.line(format_args!(
        "  {} {value}",
        style.paint(Tone::Dim, format_args!("{name:<10}"))
    ))
}

fn summary(x: &Inspected<'_>, out: &mut Output) -> Result<()> {
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
    field(
        out,
        "format",
        format_args!("{}{container}{version}", model.format.as_str()),
    )?;
    field(
        out,
        "files",
        format_args!(
            "{}, {}",
            plural(model.parts.len() as u64, "file"),
            size(model.file_bytes())
        ),
    )?;
    tensors(model, out)?;
    aliases(model, out)?;
    metadata(model, out)?;
    structure(model, out)?;
    for (what, why) in &model.omitted {
        field(
            out,
            "left out",
            format_args!("{}: {}", brief(what, WIDE), brief(why, 200)),
        )?;
    }
    for w in &model.warnings {
        let text = format!("{} ({})", brief(&w.message, 400), w.rule);
        field(out, "warning", style.paint(Tone::Warn, text))?;
    }
    Ok(())
}

fn tensors(model: &Model, out: &mut Output) -> Result<()> {
    let mut by_type: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut bytes, mut parameters) = (0u64, 0u64);
    for t in &model.tensors {
        *by_type.entry(t.dtype.as_str()).or_default() += 1;
        bytes = bytes.saturating_add(t.byte_len());
        parameters = parameters.saturating_add(t.numel().unwrap_or(0));
    }
    field(
        out,
        "tensors",
        format_args!(
            "{}, {} values, {}",
            plural(model.tensors.len() as u64, "tensor"),
            count(parameters),
            size(bytes)
        ),
    )?;
    let mut types: Vec<(&str, u64)> = by_type.into_iter().collect();
    types.sort_by_key(|t| std::cmp::Reverse(t.1));
    let types: Vec<String> = types
        .iter()
        .map(|(d, n)| format!("{d} × {}", count(*n)))
        .collect();
    if types.is_empty() {
        Ok(())
    } else {
        field(out, "dtypes", types.join(", "))
    }
}

fn aliases(model: &Model, out: &mut Output) -> Result<()> {
    let groups = model.alias_groups();
    for group in groups.iter().take(KEYS) {
        let names: Vec<String> = group
            .iter()
            .take(4)
            .filter_map(|&i| model.tensors.get(i))
            .map(|t| brief(&t.name, WIDE))
            .collect();
        let more = group.len().saturating_sub(names.len());
        let more = if more > 0 {
            format!(" and {} more", count(more as u64))
        } else {
            String::new()
        };
        field(
            out,
            "aliases",
            format_args!("{}{more} share storage", names.join(", ")),
        )?;
    }
    more(out, groups.len())
}

fn more(out: &mut Output, total: usize) -> Result<()> {
    match total.saturating_sub(KEYS) {
        0 => Ok(()),
        n => field(out, "", format_args!("… and {} more", count(n as u64))),
    }
}

fn metadata(model: &Model, out: &mut Output) -> Result<()> {
    for (k, v) in model.metadata.iter().take(KEYS) {
        field(
            out,
            "metadata",
            format_args!("{} = {}", brief(k, WIDE), value(v)),
        )?;
    }
    more(out, model.metadata.len())
}

/// A value in a few words.
fn value(v: &Value) -> String {
    match v {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::BigInt(s) => brief(s, WIDE),
        Value::Float(f) => f.to_string(),
        Value::Str(s) => brief(s, WIDE),
        Value::Bytes(b) | Value::ByteArray(b) => plural(b.len() as u64, "byte"),
        Value::List(l) => items("list", l.len()),
        Value::Tuple(l) => items("tuple", l.len()),
        Value::Set(l) | Value::FrozenSet(l) => items("set", l.len()),
        Value::Dict(d) => {
            let class = d.class.as_deref().unwrap_or("dict");
            items(&brief(class, WIDE), d.entries.len())
        }
        Value::Complex(re, im) => format!("{re}{im:+}j"),
        Value::NdArray(a) => format!("array {} {:?}", brief(&a.dtype, WIDE), a.shape),
        Value::NpScalar { text, .. } => brief(text, WIDE),
        Value::DType(d) | Value::Device(d) => brief(d, WIDE),
        Value::Size(s) => format!("{s:?}"),
        Value::Tensor(t) => format!("tensor {}", brief(t, WIDE)),
        Value::Ref(r) => format!("see {}", brief(r, WIDE)),
        Value::Global(g) => brief(g, WIDE),
        Value::Object(o) => format!("object {}", brief(&o.class, WIDE)),
        _ => "…".into(),
    }
}

fn items(kind: &str, n: usize) -> String {
    format!("{kind} of {}", count(n as u64))
}

fn structure(model: &Model, out: &mut Output) -> Result<()> {
    let Some(s) = &model.structure else {
        return Ok(());
    };
    let Value::Dict(d) = s else {
        return field(out, "structure", value(s));
    };
    // A plain state dict says nothing that the table does not.
    if d.entries.iter().all(|(_, v)| matches!(v, Value::Tensor(_))) {
        return field(out, "structure", format_args!("{}, all tensors", value(s)));
    }
    for (k, v) in d.entries.iter().take(KEYS) {
        field(out, "structure", format_args!("{}: {}", value(k), value(v)))?;
    }
    more(out, d.entries.len())
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
    let mut dtype = t.dtype.as_str().to_owned();
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
