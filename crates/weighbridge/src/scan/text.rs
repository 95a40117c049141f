//! Files of text beside models: what a loader interprets, and what only people read.

use std::path::Path;
use std::sync::Arc;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};
use weighbridge_scan::{Gap, Subject};

/// Extensions of text that some program executes.
const CODE: [&str; 16] = [
    "py", "pyi", "pyx", "sh", "bash", "zsh", "bat", "cmd", "ps1", "js", "mjs", "ts", "rb", "pl",
    "lua", "ipynb",
];

/// Extensions of templates that loaders render.
const TEMPLATES: [&str; 4] = ["jinja", "jinja2", "j2", "template"];

/// Keys of JSON that make loaders render a template or import code.
const ACTIVE_KEYS: [&str; 4] = ["chat_template", "auto_map", "custom_pipelines", "_target_"];

/// Takes the file as text; says whether it is.
///
/// # Errors
/// What reading gives.
pub(super) fn take(
    subject: &mut Subject<'_>,
    path: &Path,
    head: &[u8],
    source: &Arc<dyn ByteSource>,
    limits: &Limits,
) -> Result<bool> {
    if !plausible(head, source.len()) {
        return Ok(false);
    }
    if source.len() > limits.text_bytes {
        subject.failed(&Error::limit(
            "text.size",
            "the text is longer than is read whole",
        ));
        return Ok(true);
    }
    let bytes = source.read_vec(0..source.len())?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Ok(false);
    };
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
    subject.format = "text".into();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        gap(
            subject,
            "a Git LFS pointer: the file itself was never downloaded",
        );
    } else if extension == "json" {
        subject.format = "json".into();
        json(subject, text);
    } else if CODE.contains(&extension) || text.starts_with("#!") {
        gap(
            subject,
            "a program: this version does not judge source code",
        );
    } else if TEMPLATES.contains(&extension) {
        gap(subject, "a template: this version does not judge templates");
    } else if matches!(extension, "yaml" | "yml" | "pmml" | "xml") {
        gap(subject, "a configuration that this version does not judge");
    } else if matches!(
        extension,
        "safetensors" | "pt" | "pth" | "pkl" | "onnx" | "gguf"
    ) {
        subject.failed(&Error::malformed(
            "format.text",
            "text under the name of a model",
        ));
    }
    Ok(true)
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

fn json(subject: &mut Subject<'_>, text: &str) {
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(v) => v,
        Err(e) => {
            subject.failed(&Error::malformed("json.syntax", e.to_string()));
            return;
        }
    };
    if let Some(key) = active_key(&value) {
        gap(
            subject,
            &format!("`{key}` makes loaders run what this version does not judge"),
        );
    }
}

fn active_key(value: &serde_json::Value) -> Option<&'static str> {
    // serde_json refuses documents nested deeper than 128 levels.
    match value {
        serde_json::Value::Object(map) => map.iter().find_map(|(k, v)| {
            ACTIVE_KEYS
                .into_iter()
                .find(|a| a == k)
                .or_else(|| active_key(v))
        }),
        serde_json::Value::Array(items) => items.iter().find_map(active_key),
        _ => None,
    }
}

fn gap(subject: &mut Subject<'_>, reason: &str) {
    subject.gaps.push(Gap {
        place: String::new(),
        offset: None,
        reason: reason.into(),
    });
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;

    fn gaps(name: &str, bytes: &[u8]) -> Option<(String, usize, usize)> {
        let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(bytes, name));
        let mut s = Subject::new(name, source.as_ref());
        let taken = take(&mut s, Path::new(name), bytes, &source, &Limits::default()).unwrap();
        taken.then_some((s.format, s.gaps.len(), s.faults.len()))
    }

    #[test]
    fn text_is_clean_unless_something_interprets_it() {
        assert_eq!(gaps("README.md", b"# hi\n"), Some(("text".into(), 0, 0)));
        assert_eq!(gaps("LICENSE", b""), Some(("text".into(), 0, 0)));
        assert_eq!(
            gaps("config.json", b"{\"a\": [1]}"),
            Some(("json".into(), 0, 0))
        );
        assert_eq!(
            gaps("t.json", b"{\"a\": {\"chat_template\": \"\"}}"),
            Some(("json".into(), 1, 0))
        );
        assert_eq!(gaps("c.json", b"{"), Some(("json".into(), 0, 1)));
        assert_eq!(
            gaps("modeling.py", b"import os"),
            Some(("text".into(), 1, 0))
        );
        assert_eq!(gaps("run", b"#!/bin/sh\n"), Some(("text".into(), 1, 0)));
        assert_eq!(gaps("x.pt", b"hello"), Some(("text".into(), 0, 1)));
        assert_eq!(gaps("x.bin", b"\x00\x01"), None);
        assert_eq!(gaps("x.txt", b"\xff\xfe"), None);
    }
}
