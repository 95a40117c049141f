//! JSON in the wide encodings that Keras' loader takes as readily as UTF-8.

use weighbridge_core::{Error, Result};

use super::examine::{Examiner, Item};
use super::{json, text};

/// Takes JSON in UTF-16 or UTF-32; says whether this is some. The loader hands a member's bytes
/// to `json.loads`, which tells the encoding by its byte order mark or by where the zero bytes of
/// the first characters lie (`detect_encoding` in CPython's Lib/json/__init__.py).
///
/// # Errors
/// What reading gives.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if item.extension() != "json" {
        return Ok(false);
    }
    let Some((width, big)) = encoding(&item.head) else {
        return Ok(false);
    };
    if item.source.len() > cx.limits.text_bytes {
        let e = Error::limit("text.size", "the text is longer than is read whole");
        cx.failed(&item.place, e);
        return Ok(true);
    }
    cx.inflate(item.source.len())?;
    let bytes = item.source.read_vec(0..item.source.len())?;
    cx.named(item, "json");
    let text = decode(&bytes, width, big);
    if let Err(e) = json::affordable(&text) {
        cx.failed(&item.place, e);
        return Ok(true);
    }
    match json::parse(&text) {
        Ok(value) => text::config(cx, item, value, Vec::new()),
        Err(e) => cx.failed(&item.place, Error::malformed("json.syntax", e.to_string())),
    }
    Ok(true)
}

/// Bytes of a unit, and whether the greatest comes first.
fn encoding(head: &[u8]) -> Option<(usize, bool)> {
    match head {
        [0, 0, 0xfe, 0xff, ..] => Some((4, true)),
        [0xff, 0xfe, 0, 0, ..] => Some((4, false)),
        [0xfe, 0xff, ..] => Some((2, true)),
        [0xff, 0xfe, ..] => Some((2, false)),
        [0, 0, 0, b, ..] if *b != 0 => Some((4, true)),
        [a, 0, 0, 0, ..] if *a != 0 => Some((4, false)),
        [0, b, ..] if *b != 0 => Some((2, true)),
        [a, 0, ..] if *a != 0 => Some((2, false)),
        _ => None,
    }
}

fn decode(bytes: &[u8], width: usize, big: bool) -> String {
    let units = bytes.chunks_exact(width).map(|c| {
        let fold = |n: u32, &b: &u8| (n << 8) | u32::from(b);
        if big {
            c.iter().fold(0, fold)
        } else {
            c.iter().rev().fold(0, fold)
        }
    });
    let text: String = if width == 4 {
        let char = |u| char::from_u32(u).unwrap_or(char::REPLACEMENT_CHARACTER);
        units.map(char).collect()
    } else {
        char::decode_utf16(units.map(|u| u as u16))
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    text.trim_start_matches('\u{feff}').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_encodings_are_told_and_decoded_as_python_does() {
        let text = "{\"é😀\": 1}";
        for (width, big) in [(2, true), (2, false), (4, true), (4, false)] {
            for mark in ["", "\u{feff}"] {
                let text = format!("{mark}{text}");
                let units: Vec<u32> = if width == 4 {
                    text.chars().map(u32::from).collect()
                } else {
                    text.encode_utf16().map(u32::from).collect()
                };
                let bytes: Vec<u8> = units
                    .iter()
                    .flat_map(|u| {
                        let mut b = u.to_be_bytes()[4 - width..].to_vec();
                        if !big {
                            b.reverse();
                        }
                        b
                    })
                    .collect();
                assert_eq!(encoding(&bytes), Some((width, big)));
                assert_eq!(decode(&bytes, width, big), "{\"é😀\": 1}");
            }
        }
        assert_eq!(encoding(b"{\"a\": 1}"), None);
        assert_eq!(encoding(b""), None);
    }
}
