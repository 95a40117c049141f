//! JSON as Python's reader takes it, which is what loads these files.

use std::borrow::Cow;

use serde_json::Value;
use weighbridge_core::{Limits, Result};

/// Most memory that the tree of one text may take, in bytes, and what an object takes beyond its
/// values.
const MOST_MEMORY: u64 = 1 << 30;
const OBJECT: u64 = 400;

/// Refuses a text whose tree would take far more memory than texts that anybody writes: two bytes
/// make a value, and what the text was inflated from is smaller by far.
///
/// # Errors
/// `Limit`.
pub(crate) fn affordable(text: &str) -> Result<()> {
    let (mut values, mut objects) = (1u64, 0u64);
    for at in memchr::memchr3_iter(b',', b'[', b'{', text.as_bytes()) {
        values += 1;
        objects += u64::from(text.as_bytes().get(at) == Some(&b'{'));
    }
    let value = size_of::<Value>() as u64;
    let memory = values
        .saturating_mul(value)
        .saturating_add(objects.saturating_mul(OBJECT));
    Limits::check(
        memory,
        MOST_MEMORY,
        "json.too-many-values",
        "bytes of the JSON's values",
    )
}

/// Parses `text` as Python's `json` would: a byte order mark, the constants `NaN`, `Infinity`,
/// `-Infinity` and halves of surrogate pairs are no errors there (Lib/json/decoder.py). They
/// become `null` and U+FFFD, which no rule asks about.
pub(crate) fn parse(text: &str) -> std::result::Result<Value, serde_json::Error> {
    let text = text.trim_start_matches('\u{feff}');
    match serde_json::from_str(text) {
        Ok(v) => Ok(v),
        Err(first) => match lenient(text) {
            Cow::Borrowed(_) => Err(first),
            Cow::Owned(t) => serde_json::from_str(&t).map_err(|_| first),
        },
    }
}

/// The text with what only Python reads replaced.
fn lenient(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept = 0;
    let mut at = 0;
    let mut in_string = false;
    let bytes = text.as_bytes();
    let replace = |out: &mut String, kept: &mut usize, from: usize, to: usize, with: &str| {
        out.push_str(text.get(*kept..from).unwrap_or_default());
        out.push_str(with);
        *kept = to;
    };
    while let Some(&b) = bytes.get(at) {
        if in_string {
            match b {
                b'"' => in_string = false,
                b'\\' => {
                    let (len, lone) = escape(bytes.get(at..).unwrap_or_default());
                    if lone {
                        replace(&mut out, &mut kept, at, at + len, "\\ufffd");
                    }
                    at += len;
                    continue;
                }
                _ => {}
            }
            at += 1;
            continue;
        }
        if b == b'"' {
            in_string = true;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|w| rest.starts_with(w.as_bytes()));
        if let Some(w) = word {
            replace(&mut out, &mut kept, at, at + w.len(), "null");
            at += w.len();
        } else {
            at += 1;
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(out)
}

/// The length of the escape that `bytes` begins with, and whether it is half a surrogate pair.
fn escape(bytes: &[u8]) -> (usize, bool) {
    let unit = |at: usize| -> Option<u32> {
        let hex = bytes.get(at..at + 6)?;
        let digits = hex.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match unit(0) {
        Some(0xd800..=0xdbff) => match unit(6) {
            Some(0xdc00..=0xdfff) => (12, false),
            _ => (6, true),
        },
        Some(0xdc00..=0xdfff) => (6, true),
        Some(_) => (6, false),
        None => (2, false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_reads_is_read() {
        assert_eq!(
            parse("\u{feff}{\"a\": [NaN, -Infinity, 1], \"b\": \"NaN \\\" Infinity\"}").unwrap(),
            json!({"a": [null, null, 1], "b": "NaN \" Infinity"})
        );
        assert_eq!(
            parse("[\"\\ud83d\\ude00 \\ud800x \\udc00\", NaN]").unwrap(),
            json!(["😀 \u{fffd}x \u{fffd}", null])
        );
        for bad in ["{", "nan", "[1,]", "{\"a\": \\u0041}", "\"\\"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
    #[test]
    fn a_text_of_far_too_many_values_is_refused() {
        let list = |n: usize| format!("[{}1]", "1,".repeat(n));
        assert!(affordable(&list(1000)).is_ok());
        let error = affordable(&list(16 << 20)).unwrap_err();
        assert_eq!(error.kind(), weighbridge_core::ErrorKind::Limit);
        // Objects take more than numbers.
        let objects = |n: usize| format!("[{}{{}}]", "{},".repeat(n));
        assert!(affordable(&objects(1 << 20)).is_ok());
        assert!(affordable(&objects(3 << 20)).is_err());
        assert!(affordable(&list(3 << 20)).is_ok());
    }
}
