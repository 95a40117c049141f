//! Files of text beside models: what a loader interprets, and what only people read.

use weighbridge_core::{Error, Result};
use weighbridge_scan::{Config, Program, ProgramKind, Template};

use weighbridge_scan::jinja::looks_like_template;

use super::examine::{Examiner, Item};
use super::{json, xml, yaml};

/// Extensions of scripts, and what runs them.
const SCRIPTS: [(&str, &str); 14] = [
    ("sh", "shell"),
    ("bash", "shell"),
    ("zsh", "shell"),
    ("command", "shell"),
    ("bat", "Windows batch"),
    ("cmd", "Windows batch"),
    ("ps1", "PowerShell"),
    ("vbs", "VBScript"),
    ("js", "JavaScript"),
    ("mjs", "JavaScript"),
    ("ts", "TypeScript"),
    ("rb", "Ruby"),
    ("pl", "Perl"),
    ("lua", "Lua"),
];

/// Extensions of text that people read and that nothing renders.
const PROSE: [&str; 9] = [
    "md", "markdown", "rst", "html", "htm", "tex", "bib", "csv", "tsv",
];

/// Extensions that promise a model.
pub(super) const MODELS: [&str; 21] = [
    "safetensors",
    "pt",
    "pth",
    "ckpt",
    "bin",
    "pkl",
    "pickle",
    "joblib",
    "onnx",
    "gguf",
    "h5",
    "hdf5",
    "keras",
    "pb",
    "npy",
    "npz",
    "tflite",
    "msgpack",
    "ggml",
    "nemo",
    "skops",
];

/// Longest text that is tried as JSON although its name does not say so, in bytes.
const GUESSED: u64 = 16 << 20;

/// Takes the item as text; says whether it is.
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if !plausible(&item.head, item.source.len()) {
        return Ok(false);
    }
    if item.source.len() > cx.limits.text_bytes {
        let e = Error::limit("text.size", "the text is longer than is read whole");
        cx.failed(&item.place, e);
        return Ok(true);
    }
    super::gate::spend(item.source.len());
    let bytes = item.source.read_vec(0..item.source.len())?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Ok(false);
    };
    cx.named(item, "text");
    if text.trim_ascii_start().starts_with(LFS) {
        pointer(cx, item);
        return Ok(true);
    }
    let extension = item.extension();
    // `.bin` promises nothing: an empty one is a marker.
    let marker = extension == "bin" && text.is_empty();
    if MODELS.contains(&extension.as_str()) && !marker {
        if extension == "pth" && text.lines().any(is_path_import) {
            program(cx, item, text, ProgramKind::Python);
        }
        let e = Error::malformed("format.text", "text under the name of a model")
            .help("a failed download often leaves a page or a message in the model's place");
        cx.failed(&item.place, e);
    }
    kinds(cx, item, text, &extension)?;
    Ok(true)
}

/// How a Git LFS pointer begins (the pointer's specification, version 1).
const LFS: &str = "version https://git-lfs.github.com/spec/";

fn pointer(cx: &mut Examiner<'_, '_>, item: &Item) {
    let message = "a Git LFS pointer: the file itself was never downloaded";
    if MODELS.contains(&item.extension().as_str()) {
        let e = Error::malformed("format.lfs-pointer", message).help("run `git lfs pull`");
        cx.failed(&item.place, e);
    } else {
        cx.gap(&item.place, None, message);
    }
}

/// What kind of text it is, by its name and then by its content.
fn kinds(cx: &mut Examiner<'_, '_>, item: &Item, text: &str, extension: &str) -> Result<()> {
    if let Some(kind) = program_kind(text, extension) {
        program(cx, item, text, kind);
        return Ok(());
    }
    if is_container_file(&item.file_name()) {
        program(
            cx,
            item,
            &instructions(text),
            ProgramKind::Script("a container"),
        );
        return Ok(());
    }
    let trimmed = text.trim_start_matches('\u{feff}').trim_ascii_start();
    let guessed = trimmed.starts_with(['{', '[']) && item.source.len() <= GUESSED;
    match extension {
        "json" => return json_file(cx, item, text, true),
        "yaml" | "yml" => return yaml_file(cx, item, text),
        "xml" | "pmml" => {
            cx.named(item, "xml");
            return xml::take(cx, item, text);
        }
        e if PROSE.contains(&e) => return Ok(()),
        _ if guessed && json::parse(text).is_ok() => {
            return json_file(cx, item, text, false);
        }
        _ if trimmed.starts_with("<?xml") => {
            cx.named(item, "xml");
            return xml::take(cx, item, text);
        }
        _ => {}
    }
    if looks_like_template(text) {
        cx.named(item, "jinja");
        cx.subject.templates.push(Template {
            place: item.place.text(),
            base: item.place.base,
            key: String::new(),
            text: text.to_owned(),
        });
    }
    Ok(())
}

fn program(cx: &mut Examiner<'_, '_>, item: &Item, text: &str, kind: ProgramKind) {
    cx.subject.programs.push(Program {
        place: item.place.text(),
        base: item.place.base,
        kind,
        text: Some(text.to_owned()),
        beside_model: false,
    });
}

/// Whether a line of a `.pth` file is one that Python runs at every start (Lib/site.py,
/// `addpackage`); the extension is torch's too.
fn is_path_import(line: &str) -> bool {
    line.starts_with("import ") || line.starts_with("import\t")
}

/// Whether a name is that of a container's recipe.
fn is_container_file(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    matches!(stem, "dockerfile" | "containerfile") || name.ends_with(".dockerfile")
}

/// A container's recipe with the word `RUN` of its lines blanked, so that commands begin lines
/// and every byte keeps its place.
fn instructions(text: &str) -> String {
    let blank = |line: &str| match line.get(..4) {
        Some(word) if word.eq_ignore_ascii_case("run ") => {
            format!("    {}", line.get(4..).unwrap_or_default())
        }
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(blank).collect()
}

fn program_kind(text: &str, extension: &str) -> Option<ProgramKind> {
    match extension {
        "py" | "pyi" | "pyw" | "pyx" => return Some(ProgramKind::Python),
        "ipynb" => return Some(ProgramKind::Notebook),
        _ => {}
    }
    if let Some((_, by)) = SCRIPTS.iter().find(|(e, _)| *e == extension) {
        return Some(ProgramKind::Script(by));
    }
    let first = text.strip_prefix("#!")?.lines().next()?;
    Some(if first.contains("python") {
        ProgramKind::Python
    } else {
        ProgramKind::Script("shell")
    })
}

/// Whether the first bytes are text: UTF-8 as far as they go, no control characters but white
/// space.
fn plausible(head: &[u8], len: u64) -> bool {
    let whole = head.len() as u64 == len;
    let text = match std::str::from_utf8(head) {
        Ok(t) => t,
        // The window may end inside a character.
        Err(e) if !whole && e.error_len().is_none() => head
            .get(..e.valid_up_to())
            .and_then(|h| std::str::from_utf8(h).ok())
            .unwrap_or("\0"),
        Err(_) => return false,
    };
    !text
        .chars()
        .any(|c| c.is_control() && !c.is_ascii_whitespace())
}

/// A JSON file; `named` when its name says that it is one.
fn json_file(cx: &mut Examiner<'_, '_>, item: &Item, text: &str, named: bool) -> Result<()> {
    if let Err(e) = json::affordable(text) {
        cx.named(item, "json");
        cx.failed(&item.place, e);
        return Ok(());
    }
    match json::parse(text) {
        Ok(value) => {
            cx.named(item, "json");
            config(cx, item, value, Vec::new());
        }
        Err(e) if named => {
            cx.named(item, "json");
            cx.failed(&item.place, Error::malformed("json.syntax", e.to_string()));
        }
        Err(_) => {}
    }
    Ok(())
}

fn yaml_file(cx: &mut Examiner<'_, '_>, item: &Item, text: &str) -> Result<()> {
    cx.named(item, "yaml");
    let document = yaml::parse(text, cx.limits)?;
    config(cx, item, document.value, document.tags);
    Ok(())
}

/// Lays a tree into the subject, and the templates that stand in it.
pub(super) fn config(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    value: serde_json::Value,
    tags: Vec<(String, u64)>,
) {
    let place = item.place.text();
    let mut found = Vec::new();
    templates(&value, &mut Vec::new(), &mut found);
    for (key, text) in found {
        cx.subject.templates.push(Template {
            place: place.clone(),
            base: None,
            key,
            text,
        });
    }
    cx.subject.configs.push(Config {
        place,
        name: item.file_name(),
        value,
        tags,
    });
}

/// Every string that Jinja would have something to do in, wherever it stands: loaders take
/// templates from keys that no list foresees.
fn templates<'v>(
    value: &'v serde_json::Value,
    path: &mut Vec<&'v str>,
    out: &mut Vec<(String, String)>,
) {
    // Both parsers bound the depth of what they give.
    match value {
        serde_json::Value::String(s) if looks_like_template(s) => {
            out.push((path.join("."), s.clone()));
        }
        serde_json::Value::Object(map) => {
            for (k, v) in map {
                path.push(k);
                templates(v, path, out);
                path.pop();
            }
        }
        serde_json::Value::Array(items) => {
            for v in items {
                templates(v, path, out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    /// What became of it: the format, then how many gaps, faults, programs, templates, trees.
    fn taken(name: &str, bytes: &[u8]) -> Option<(String, [usize; 5])> {
        let source = Arc::new(SliceSource::new(bytes, name));
        let item = Item::new(source.clone(), Place::default(), name).unwrap();
        let mut s = Subject::new(name, source.as_ref());
        let limits = Limits::default();
        let taken = take(&mut Examiner::new(&mut s, &limits), &item).unwrap();
        let counts = [
            s.gaps.len(),
            s.faults.len(),
            s.programs.len(),
            s.templates.len(),
            s.configs.len(),
        ];
        taken.then_some((s.format, counts))
    }

    #[test]
    fn text_is_laid_out_by_what_loaders_do_with_it() {
        for (name, bytes, format, counts) in [
            ("README.md", "# hi {{ x }}\n", "text", [0, 0, 0, 0, 0]),
            ("LICENSE", "", "text", [0, 0, 0, 0, 0]),
            ("config.json", "{\"a\": [1]}", "json", [0, 0, 0, 0, 1]),
            ("any.cfg", " [{\"a\": NaN}]", "json", [0, 0, 0, 0, 1]),
            (
                "t.json",
                "{\"a\": {\"b\": [\"{{ x }}\"]}}",
                "json",
                [0, 0, 0, 1, 1],
            ),
            ("c.json", "{", "json", [0, 1, 0, 0, 0]),
            ("c.txt", "{ not json", "text", [0, 0, 0, 0, 0]),
            ("c.yaml", "a: '{% x %}'", "yaml", [0, 0, 0, 1, 1]),
            ("x.jinja", "{{ x }}", "jinja", [0, 0, 0, 1, 0]),
            ("modeling.py", "import os", "text", [0, 0, 1, 0, 0]),
            ("run", "#!/bin/sh\n", "text", [0, 0, 1, 0, 0]),
            ("Dockerfile", "FROM x\nRUN ls\n", "text", [0, 0, 1, 0, 0]),
            ("x.pth", "/usr/lib\nimport os\n", "text", [0, 1, 1, 0, 0]),
            ("x.pth", "/usr/lib\n", "text", [0, 1, 0, 0, 0]),
            ("m.msgpack", "<html>", "text", [0, 1, 0, 0, 0]),
            ("x.pt", "hello", "text", [0, 1, 0, 0, 0]),
            (
                "m.safetensors",
                "version https://git-lfs.github.com/spec/v1\n",
                "text",
                [0, 1, 0, 0, 0],
            ),
            (
                "a.png",
                "version https://git-lfs.github.com/spec/v1\n",
                "text",
                [1, 0, 0, 0, 0],
            ),
        ] {
            assert_eq!(
                taken(name, bytes.as_bytes()),
                Some((format.into(), counts)),
                "{name}"
            );
        }
        assert_eq!(taken("x.bin", b"\x00\x01"), None);
        assert_eq!(taken("x.txt", b"\xff\xfe"), None);
    }
}
