//! Paths inside a file that a loader opens: external data, vocabularies, assets, links of HDF5.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::subject::{Reference, Subject};

/// Judges where the paths lead.
#[derive(Debug)]
pub struct References;

/// How a path that a file names leads out of the folder the file lies in, and what it is then
/// called; `None` when it stays there on every system.
///
/// Loaders join the path to the folder and open it. Which spellings leave depends on the system
/// and on what decodes the path first, so every spelling that leaves anywhere counts.
pub fn escape(path: &str) -> Option<&'static str> {
    if path.contains('\0') {
        return Some("holds a NUL byte, where some readers stop");
    }
    if is_url(path) {
        return Some("is a URL");
    }
    if path.contains("_ORT_MEM_ADDR_") {
        return Some("is ONNX Runtime's mark for an address in memory");
    }
    let plain = path.trim();
    // Percent signs are decoded where models are fetched over the web; compatibility forms of
    // the separators are folded by some file systems.
    let decoded = percent(plain);
    let folded: String = decoded.chars().map(fold).collect();
    for spelling in [plain, decoded.as_str(), folded.as_str()] {
        if is_absolute(spelling) {
            return Some("is absolute");
        }
        if is_url(spelling) {
            return Some("is a URL");
        }
        if climbs(spelling) {
            return Some("climbs out of the model's folder");
        }
    }
    None
}

/// What is odd about a path that stays in its folder; `None` for ordinary ones.
pub fn oddity(path: &str) -> Option<&'static str> {
    if path.trim().is_empty() {
        return Some("is empty");
    }
    if path.chars().any(char::is_control) {
        return Some("holds control characters");
    }
    if path.split(['/', '\\']).any(is_up) {
        return Some("goes up before it goes down, which a link on the way redirects");
    }
    if path.split(['/', '\\']).any(is_device) {
        return Some("names a device of Windows");
    }
    // Two colons stand in the names that torch gives tensors.
    if path.replace("::", "").contains(':') {
        return Some("holds a colon, which names a stream of another file on Windows");
    }
    let expands = path.split('%').nth(2).is_some();
    if path.starts_with('~') || path.contains("${") || path.contains("$(") || expands {
        return Some("holds what a shell or a library may expand");
    }
    None
}

/// `scheme:` with two slashes, or one of the schemes that need none.
fn is_url(path: &str) -> bool {
    let Some((scheme, rest)) = path.trim().split_once(':') else {
        return false;
    };
    let mut letters = scheme.bytes();
    let named = scheme.len() > 1
        && letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let short = ["file", "http", "https", "ftp", "data", "jar"];
    named
        && (rest.starts_with("//")
            || rest.starts_with("\\\\")
            || short.iter().any(|s| scheme.eq_ignore_ascii_case(s)))
}

fn is_absolute(path: &str) -> bool {
    let drive = matches!(path.as_bytes(), [d, b':', ..] if d.is_ascii_alphabetic());
    drive || path.starts_with(['/', '\\'])
}

/// Whether the steps of the path lead above where it starts.
fn climbs(path: &str) -> bool {
    let mut depth = 0i64;
    path.split(['/', '\\']).any(|step| {
        match step {
            "" | "." => {}
            s if is_up(s) => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

/// `..`, also with the points and spaces behind it that Windows drops.
fn is_up(step: &str) -> bool {
    let step = step.trim();
    step.starts_with("..") && step.bytes().all(|b| b == b'.' || b == b' ')
}

fn is_device(step: &str) -> bool {
    let stem = step.split('.').next().unwrap_or_default().trim();
    let upper = stem.to_ascii_uppercase();
    match upper.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        other => ["COM", "LPT"].iter().any(|p| {
            other
                .strip_prefix(p)
                .is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()))
        }),
    }
}

/// The characters that Unicode's compatibility forms or lookalikes make of `.`, `/` and `\`.
fn fold(c: char) -> char {
    match c {
        '\u{ff0e}' | '\u{2024}' | '\u{fe52}' => '.',
        '\u{ff0f}' | '\u{2044}' | '\u{2215}' => '/',
        '\u{ff3c}' | '\u{2216}' | '\u{fe68}' => '\\',
        '\u{ff1a}' => ':',
        c => c,
    }
}

/// Decodes `%2e` and its like, twice over, for what is decoded twice.
fn percent(path: &str) -> String {
    let mut text = path.to_owned();
    for _ in 0..2 {
        if !text.contains('%') {
            break;
        }
        let mut out = Vec::with_capacity(text.len());
        let mut bytes = text.as_bytes();
        while let Some((&b, rest)) = bytes.split_first() {
            let hex = rest.get(..2).filter(|_| b == b'%');
            let value = hex
                .and_then(|h| std::str::from_utf8(h).ok())
                .and_then(|h| u8::from_str_radix(h, 16).ok());
            match value {
                Some(v) => {
                    out.push(v);
                    bytes = rest.get(2..).unwrap_or_default();
                }
                None => {
                    out.push(b);
                    bytes = rest;
                }
            }
        }
        text = String::from_utf8_lossy(&out).into_owned();
    }
    text
}

/// The rules for one kind of reference.
struct Kind {
    name: &'static str,
    /// For a path that leaves the folder.
    leaves: &'static str,
    /// For one that stays and is odd, where that matters.
    odd: Option<&'static str>,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "external data",
        leaves: "WB-ONX-001",
        odd: Some("WB-ONX-002"),
    },
    Kind {
        name: "compiled context",
        leaves: "WB-ONX-001",
        odd: Some("WB-ONX-002"),
    },
    Kind {
        name: "asset",
        leaves: "WB-TFG-006",
        odd: None,
    },
];

impl Check for References {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-ONX-001",
            "WB-ONX-002",
            "WB-ONX-003",
            "WB-TFG-006",
            "WB-KER-010",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for r in &subject.references {
            judge(r, out)?;
        }
        Ok(())
    }
}

fn judge(r: &Reference, out: &mut Findings) -> Result<()> {
    let mut add = |rule: &str, message: String| out.add(rule, &r.place, r.offset, message, &r.path);
    match r.kind {
        "external data link" => {
            let message = "external data is a symbolic link that leads out of the model's folder";
            return add("WB-ONX-001", message.into());
        }
        "external data key" => {
            let message = "external data carries a key that the format does not know";
            return add("WB-ONX-003", message.into());
        }
        // No model needs another HDF5 file, wherever that lies.
        kind if kind.starts_with("HDF5 ") => {
            return add("WB-KER-010", format!("an {kind} reads another file"));
        }
        _ => {}
    }
    let Some(kind) = KINDS.iter().find(|k| k.name == r.kind) else {
        return Ok(());
    };
    if let Some(how) = escape(&r.path) {
        return add(kind.leaves, format!("the path of {} {how}", r.kind));
    }
    match (oddity(&r.path), kind.odd) {
        (Some(how), Some(rule)) => add(rule, format!("the path of {} {how}", r.kind)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_that_leaves_the_folder_anywhere_is_found() {
        for path in [
            "/etc/passwd",
            "\\windows\\x",
            "C:\\x",
            "c:x",
            "\\\\host\\share\\x",
            "//host/x",
            "../x",
            "..\\x",
            "a/../../x",
            "a\\..\\../x",
            "./.././x",
            " /etc/passwd",
            ".. /x",
            "..",
            "%2e%2e/x",
            "%252e%252e%252fx",
            "%2fetc/passwd",
            "．．／x",
            "file:///etc/passwd",
            "file:x",
            "https://host/x",
            "S3://bucket/x",
            "data\0.bin",
            "*/_ORT_MEM_ADDR_/*",
            "hdfs://x",
        ] {
            assert!(escape(path).is_some(), "{path}");
        }
        for path in [
            "model.onnx_data",
            "model.onnx.data",
            "weights/a.bin",
            "./w.bin",
            "a..b/c",
            "..x",
            "a/../b",
            "onnx::MatMul_12",
            "Über 50%.bin",
            "layer:0",
            "",
        ] {
            assert_eq!(escape(path), None, "{path}");
        }
    }

    #[test]
    fn odd_paths_are_told_from_ordinary_ones() {
        for path in [
            "",
            " ",
            "a/../b",
            "NUL",
            "x/com1.bin",
            "a:b",
            "~/x",
            "a\nb",
            "%APPDATA%",
        ] {
            assert!(oddity(path).is_some(), "{path:?}");
        }
        for path in [
            "model.data",
            "a/b.bin",
            "com10",
            "50% x.bin",
            "onnx::MatMul_1",
        ] {
            assert_eq!(oddity(path), None, "{path}");
        }
    }
}
