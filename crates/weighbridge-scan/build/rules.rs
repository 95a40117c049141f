//! The rules of every data file as one sorted table, and the lists beside them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Result, parse};

/// The files with rules, and whether lists stand beside them.
const FILES: [(&str, bool); 12] = [
    ("archive", false),
    ("code", true),
    ("config", true),
    ("format", false),
    ("keras", true),
    ("markup", false),
    ("onnx", true),
    ("pickle", false),
    ("policy", false),
    ("template", true),
    ("tensorflow", true),
    ("torchscript", true),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    title: String,
    severity: String,
    why: String,
    advice: String,
    references: Vec<String>,
    #[serde(default)]
    opaque: bool,
    #[serde(default)]
    example: Option<String>,
}

/// Writes `rules.rs`, the table, and for each file with lists those as JSON, which whoever needs
/// them reads when it does.
///
/// # Errors
/// When a file is not there or has another shape.
pub(super) fn write(folder: &Path, out: &Path) -> Result<()> {
    let mut all: Vec<Rule> = Vec::new();
    for (name, lists) in FILES {
        let mut file: toml::Table = parse(folder, &format!("{name}.toml"))?;
        let rules = file
            .remove("rule")
            .ok_or_else(|| format!("{name}: no rules"))?;
        let rules: Vec<Rule> = rules.try_into().map_err(|e| format!("{name}: {e}"))?;
        all.extend(rules);
        if lists == file.is_empty() {
            return Err(format!("{name}: lists where none are expected, or the reverse").into());
        }
        if lists {
            let text = serde_json::to_string(&file)?;
            fs::write(out.join(format!("{name}.json")), text)?;
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let mut text = String::from("&[\n");
    for r in &all {
        let severity = match r.severity.as_str() {
            "info" => "Info",
            "suspicious" => "Suspicious",
            "malicious" => "Malicious",
            other => return Err(format!("{}: no severity is `{other}`", r.id).into()),
        };
        writeln!(
            text,
            "RuleMeta {{ id: {:?}, title: {:?}, severity: Severity::{severity}, why: {:?}, \
             advice: {:?}, references: &{:?}, opaque: {}, example: {:?} }},",
            r.id,
            r.title,
            one_line(&r.why),
            one_line(&r.advice),
            r.references,
            r.opaque,
            r.example,
        )?;
    }
    text.push(']');
    Ok(fs::write(out.join("rules.rs"), text)?)
}

/// Lines break in the data where they please.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
