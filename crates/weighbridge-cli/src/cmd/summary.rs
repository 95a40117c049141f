//! A model in a few lines, for people.

use std::collections::BTreeMap;
use std::fmt::Display;

use weighbridge::format::Note;
use weighbridge::format::safetensors::aliases;
use weighbridge::{Model, Result};
use weighbridge_core::model::Value;

use crate::output::Output;
use crate::style::Tone;
use crate::text::{brief, count, plural, size};

/// How many metadata keys, aliases and structure keys are shown.
const KEYS: usize = 12;

/// Width of shortened values, in characters.
const WIDE: usize = 60;

/// One line: what it is, and its value.
pub(super) fn field(out: &mut Output, name: &str, value: impl Display) -> Result<()> {
    let style = out.style;
    out.line(format_args!(
        "  {} {value}",
        style.paint(Tone::Dim, format_args!("{name:<10}"))
    ))
}

pub(super) fn tensors(model: &Model, name: &str, out: &mut Output) -> Result<()> {
    let mut by_type: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut bytes, mut parameters) = (0u64, 0u64);
    for t in &model.tensors {
        *by_type.entry(t.dtype.as_str()).or_default() += 1;
        bytes = bytes.saturating_add(t.byte_len());
        parameters = parameters.saturating_add(t.numel().unwrap_or(0));
    }
    field(
        out,
        name,
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

/// Groups of tensors that share storage: as they lie in the file, or as our writer recorded them
/// for a format that cannot share.
fn groups(model: &Model) -> Vec<Vec<String>> {
    let name = |i: &usize| model.tensors.get(*i).map(|t| t.name.clone());
    let mut groups: Vec<Vec<String>> = model
        .alias_groups()
        .iter()
        .map(|g| g.iter().filter_map(name).collect())
        .collect();
    for (key, value) in &model.metadata {
        if let (aliases::KEY, Value::Str(text)) = (key.as_str(), value) {
            let recorded = aliases::decode(text).unwrap_or_default();
            let names = |g: aliases::AliasGroup| g.tensors.into_iter().map(|t| t.name).collect();
            groups.extend(recorded.into_iter().map(names));
        }
    }
    groups
}

pub(super) fn aliases(model: &Model, name: &str, out: &mut Output) -> Result<()> {
    let groups = groups(model);
    for group in groups.iter().take(KEYS) {
        let names: Vec<String> = group.iter().take(4).map(|n| brief(n, WIDE)).collect();
        let more = group.len().saturating_sub(names.len());
        let more = if more > 0 {
            format!(" and {} more", count(more as u64))
        } else {
            String::new()
        };
        let names = names.join(", ");
        field(out, name, format_args!("{names}{more} share storage"))?;
    }
    more(out, groups.len())
}

fn more(out: &mut Output, total: usize) -> Result<()> {
    match total.saturating_sub(KEYS) {
        0 => Ok(()),
        n => field(out, "", format_args!("… and {} more", count(n as u64))),
    }
}

pub(super) fn metadata(model: &Model, name: &str, out: &mut Output) -> Result<()> {
    // Recorded aliases have lines of their own.
    let shown = || model.metadata.iter().filter(|(k, _)| k != aliases::KEY);
    for (k, v) in shown().take(KEYS) {
        field(out, name, format_args!("{} = {}", brief(k, WIDE), value(v)))?;
    }
    more(out, shown().count())
}

/// A value in a few words.
fn value(v: &Value) -> String {
    match v {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::BigInt(s) => brief(s, WIDE),
        Value::Float(f) => f.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Packed(a) => format!("array of {} {}", count(a.len()), a.element().as_str()),
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

pub(super) fn structure(model: &Model, name: &str, out: &mut Output) -> Result<()> {
    let Some(s) = &model.structure else {
        return Ok(());
    };
    let Value::Dict(d) = s else {
        return field(out, name, value(s));
    };
    // A plain state dict says nothing that the table does not.
    if d.entries.iter().all(|(_, v)| matches!(v, Value::Tensor(_))) {
        return field(out, name, format_args!("{}, all tensors", value(s)));
    }
    for (k, v) in d.entries.iter().take(KEYS) {
        field(out, name, format_args!("{}: {}", value(k), value(v)))?;
    }
    more(out, d.entries.len())
}

/// How many changes and losses are listed for people; the JSON document has all.
const NOTES: usize = 40;

/// What changed or was lost, one line each.
pub(super) fn notes(out: &mut Output, what: &str, notes: &[Note]) -> Result<()> {
    let style = out.style;
    for n in notes.iter().take(NOTES) {
        let text = format!("{}: {}", brief(&n.what, 80), brief(&n.why, 300));
        field(out, what, style.paint(Tone::Warn, text))?;
    }
    match notes.len().saturating_sub(NOTES) {
        0 => Ok(()),
        n => field(
            out,
            what,
            format_args!("… and {} more (--json lists all)", count(n as u64)),
        ),
    }
}
