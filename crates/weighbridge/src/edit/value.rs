//! Values as people type them, and their types.

use serde_json::Value as Json;
use weighbridge_core::model::{Coding, Element, Number};
use weighbridge_core::{Error, Result};

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value.
    One(Element),
    /// An array of values of one type.
    Array(Element),
}

impl Kind {
    /// The type spelled `u8` … `f64`, `bool`, `str`, or `arr[TYPE]` of one of these.
    pub fn parse(s: &str) -> Option<Self> {
        let simple = |s: &str| Element::parse(s).filter(|e| *e != Element::Array);
        match s.strip_prefix("arr[").and_then(|s| s.strip_suffix(']')) {
            Some(inner) => simple(inner).map(Self::Array),
            None => simple(s).map(Self::One),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(e) => f.write_str(e.as_str()),
            Self::Array(e) => write!(f, "arr[{}]", e.as_str()),
        }
    }
}

fn wrong(text: &str, kind: Kind) -> Error {
    let shown: String = text.chars().take(60).collect();
    let message = format!("`{}` is no value of type {kind}", shown.escape_debug());
    let help = match kind {
        Kind::Array(_) => "write a JSON array, such as [1, 2, 3] or [\"a\", \"b\"]",
        Kind::One(Element::Bool) => "write true or false",
        Kind::One(_) => "name another type with KEY:TYPE=VALUE if the type is to change",
    };
    Error::parameter("edit.value", message).help(help)
}

/// The type that fits `text` best where nothing else says one: 32 bits wide where that does.
pub(super) fn infer(text: &str) -> Result<Kind> {
    if text.starts_with('[') {
        let json: Option<Vec<Json>> = serde_json::from_str(text).ok();
        if let Some(items) = json {
            return infer_array(&items);
        }
    }
    Ok(Kind::One(match text {
        "true" | "false" => Element::Bool,
        _ => scalar(text).unwrap_or(Element::Str),
    }))
}

/// The first of u32, i32, u64, i64, f32 and f64 that `text` is a number of. Integers of more than
/// 64 bits are no f32, which would keep seven of their digits.
fn scalar(text: &str) -> Option<Element> {
    // Rust's own float parser takes `inf` and `nan`, which are rather names here.
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.') {
        return None;
    }
    let widths = [
        Element::U32,
        Element::I32,
        Element::U64,
        Element::I64,
        Element::F32,
        Element::F64,
    ];
    let whole = text
        .bytes()
        .all(|c| c.is_ascii_digit() || c == b'-' || c == b'+');
    widths
        .into_iter()
        .filter(|e| !(whole && *e == Element::F32))
        .find(|e| Number::parse(*e, text).is_some())
}

fn infer_array(items: &[Json]) -> Result<Kind> {
    let all = |f: fn(&Json) -> bool| !items.is_empty() && items.iter().all(f);
    let fits = |f: fn(i64) -> bool| items.iter().all(|v| v.as_i64().is_some_and(f));
    let element = if all(Json::is_string) {
        Element::Str
    } else if all(Json::is_boolean) {
        Element::Bool
    } else if all(|v| v.is_i64() || v.is_u64()) {
        if fits(|n| i32::try_from(n).is_ok()) {
            Element::I32
        } else if fits(|_| true) {
            Element::I64
        } else {
            Element::U64
        }
    } else if all(Json::is_number) {
        Element::F32
    } else {
        let e = Error::parameter("edit.value", "the type of the array cannot be told");
        return Err(e.help("name it: KEY:arr[TYPE]=[…], all elements of that type"));
    };
    Ok(Kind::Array(element))
}

/// Appends type and value as a GGUF file of this coding has them.
pub(super) fn encode(kind: Kind, text: &str, c: Coding, out: &mut Vec<u8>) -> Result<()> {
    let bad = || wrong(text, kind);
    match kind {
        Kind::One(e) => {
            c.put(e.gguf().into(), 4, out);
            match e {
                Element::Str => c.put_string(text.as_bytes(), out),
                Element::Bool => out.push(match text.trim() {
                    "true" | "1" => 1,
                    "false" | "0" => 0,
                    _ => return Err(bad()),
                }),
                number => c.put_number(Number::parse(number, text).ok_or_else(bad)?, out),
            }
        }
        Kind::Array(e) => {
            let items: Vec<Json> = serde_json::from_str(text).map_err(|_| bad())?;
            c.put(Element::Array.gguf().into(), 4, out);
            c.put(e.gguf().into(), 4, out);
            c.put_length(items.len() as u64, out);
            for item in &items {
                one(e, item, c, out).ok_or_else(bad)?;
            }
        }
    }
    Ok(())
}

fn one(e: Element, item: &Json, c: Coding, out: &mut Vec<u8>) -> Option<()> {
    match (e, item) {
        (Element::Str, Json::String(s)) => c.put_string(s.as_bytes(), out),
        (Element::Bool, Json::Bool(b)) => out.push(u8::from(*b)),
        (Element::Str | Element::Bool | Element::Array, _) => return None,
        (number, Json::Number(n)) => c.put_number(Number::parse(number, &n.to_string())?, out),
        // JSON has no other way to write these.
        (Element::F32 | Element::F64, Json::String(s)) => c.put_number(Number::parse(e, s)?, out),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_inferred_as_people_mean_them() {
        for (text, kind) in [
            ("7", "u32"),
            ("-7", "i32"),
            ("4294967296", "u64"),
            ("-4294967296", "i64"),
            ("1e-5", "f32"),
            ("0.5", "f32"),
            ("true", "bool"),
            ("inf", "str"),
            ("nan", "str"),
            ("", "str"),
            ("7B", "str"),
            ("1e39", "f64"),
            ("18446744073709551616", "f64"),
            ("1e999", "str"),
            ("[not json", "str"),
            ("[1, 2]", "arr[i32]"),
            ("[1, 4294967296]", "arr[i64]"),
            ("[18446744073709551615]", "arr[u64]"),
            ("[1, 0.5]", "arr[f32]"),
            ("[\"a\"]", "arr[str]"),
            ("[true]", "arr[bool]"),
        ] {
            assert_eq!(infer(text).unwrap().to_string(), kind, "{text}");
        }
        for text in ["[]", "[1, \"a\"]", "[[1]]", "[null]"] {
            assert_eq!(infer(text).unwrap_err().rule(), "edit.value", "{text}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_its_type_is_refused() {
        for (kind, text) in [
            ("u8", "256"),
            ("u32", "-1"),
            ("u32", "1.5"),
            ("bool", "yes"),
            ("f32", "x"),
            ("f32", "1e39"),
            ("f64", "-1e309"),
            ("arr[f32]", "[1e39]"),
            ("arr[u8]", "[256]"),
            ("arr[u8]", "[1"),
            ("arr[u8]", "1"),
            ("arr[str]", "[1]"),
            ("arr[bool]", "[1]"),
            ("arr[i32]", "[1.5]"),
        ] {
            let kind = Kind::parse(kind).unwrap();
            let e = encode(kind, text, Coding::CANONICAL, &mut Vec::new()).unwrap_err();
            assert_eq!(e.rule(), "edit.value", "{kind} {text}");
        }
        for s in ["arr", "arr[arr]", "arr[]", "u7", ""] {
            assert_eq!(Kind::parse(s), None, "{s}");
        }
    }

    #[test]
    fn values_are_encoded_as_the_format_has_them() {
        let bytes = |kind: &str, text: &str| {
            let mut out = Vec::new();
            let kind = Kind::parse(kind).unwrap();
            encode(kind, text, Coding::CANONICAL, &mut out).unwrap();
            out
        };
        assert_eq!(bytes("u8", "255"), [0, 0, 0, 0, 255]);
        assert_eq!(bytes("bool", "true"), [7, 0, 0, 0, 1]);
        assert_eq!(
            bytes("str", "a"),
            [8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'a']
        );
        let array = [9, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0];
        assert_eq!(bytes("arr[u16]", "[1,2]"), array);
        assert_eq!(
            bytes("arr[f32]", "[\"inf\"]").split_off(16),
            [0, 0, 0x80, 0x7f]
        );
    }
}
