//! Files of text beside models: what a loader interprets, and what only people read.

use weighbridge_core::{Error, Result};
use weighbridge_scan::Config;

use super::examine::{Examiner, Item};

/// Extensions of text that some program executes.
const CODE: [&str; 16] = [
    "py", "pyi", "pyx", "sh", "bash", "zsh", "bat", "cmd", "ps1", "js", "mjs", "ts", "rb", "pl",
    "lua", "ipynb",
];

/// Extensions of templates that loaders render.
const TEMPLATES: [&str; 4] = ["jinja", "jinja2", "j2", "template"];

/// Keys of JSON that make loaders render a template or import code.
const ACTIVE_KEYS: [&str; 4] = ["chat_template", "auto_map", "custom_pipelines", "_target_"];

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
    let extension = item.extension();
    let extension = extension.as_str();
    cx.named(item, "text");
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        let reason = "a Git LFS pointer: the file itself was never downloaded";
        cx.gap(&item.place, None, reason);
    } else if extension == "json" {
        cx.named(item, "json");
        json(cx, item, text);
    } else if CODE.contains(&extension) || text.starts_with("#!") {
        let reason = "a program: this version does not judge source code";
        cx.gap(&item.place, None, reason);
    } else if TEMPLATES.contains(&extension) {
        let reason = "a template: this version does not judge templates";
        cx.gap(&item.place, None, reason);
    } else if matches!(extension, "yaml" | "yml" | "pmml" | "xml") {
        let reason = "a configuration that this version does not judge";
        cx.gap(&item.place, None, reason);
    } else if matches!(
        extension,
        "safetensors" | "pt" | "pth" | "pkl" | "onnx" | "gguf"
    ) {
        let e = Error::malformed("format.text", "text under the name of a model");
        cx.failed(&item.place, e);
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

fn json(cx: &mut Examiner<'_, '_>, item: &Item, text: &str) {
    // serde_json's own depth limit is off for our readers' sake: a deep document is refused here.
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(v) => v,
        Err(e) => {
            cx.failed(&item.place, Error::malformed("json.syntax", e.to_string()));
            return;
        }
    };
    if let Some(key) = active_key(&value) {
        let reason = format!("`{key}` makes loaders run what this version does not judge");
        cx.gap(&item.place, None, reason);
    }
    cx.subject.configs.push(Config {
        place: item.place.text(),
        name: item.file_name(),
        value,
    });
}

fn active_key(value: &serde_json::Value) -> Option<&'static str> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    fn gaps(name: &str, bytes: &[u8]) -> Option<(String, usize, usize)> {
        let source = Arc::new(SliceSource::new(bytes, name));
        let item = Item::new(source.clone(), Place::default(), name).unwrap();
        let mut s = Subject::new(name, source.as_ref());
        let limits = Limits::default();
        let taken = take(&mut Examiner::new(&mut s, &limits), &item).unwrap();
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
