//! Constants put together from parts, and the encodings that hide them.

use crate::encoded;

use super::resolve::{LONGEST, Value};

/// A binary operator on constants.
pub(super) fn binary(op: &str, a: Value, b: Value) -> Value {
    match (op, a, b) {
        ("+", Value::Text(mut a), Value::Text(b)) if a.len() + b.len() <= LONGEST => {
            a.extend_from_slice(&b);
            Value::Text(a)
        }
        ("%", Value::Text(a), Value::Text(b)) => {
            let at = a.windows(2).position(|w| w == b"%s" || w == b"%r");
            match at {
                Some(at) if a.len() + b.len() <= LONGEST => {
                    let mut out = a.get(..at).unwrap_or_default().to_vec();
                    out.extend_from_slice(&b);
                    out.extend_from_slice(a.get(at + 2..).unwrap_or_default());
                    Value::Text(out)
                }
                _ => Value::Unknown,
            }
        }
        ("*", Value::Text(a), Value::Int(n)) => match usize::try_from(n) {
            Ok(n) if a.len().saturating_mul(n) <= 4096 => Value::Text(a.repeat(n)),
            _ => Value::Unknown,
        },
        (op, Value::Int(a), Value::Int(b)) => {
            let n = match op {
                "+" => a.checked_add(b),
                "-" => a.checked_sub(b),
                "*" => a.checked_mul(b),
                "//" => a.checked_div(b),
                "%" => a.checked_rem(b),
                "^" => Some(a ^ b),
                "|" => Some(a | b),
                "&" => Some(a & b),
                "neg" => a.checked_neg(),
                _ => None,
            };
            n.map_or(Value::Unknown, Value::Int)
        }
        _ => Value::Unknown,
    }
}

pub(super) fn reverse(text: &mut Vec<u8>) {
    match std::str::from_utf8(text) {
        Ok(s) if !s.is_ascii() => *text = s.chars().rev().collect::<String>().into_bytes(),
        _ => text.reverse(),
    }
}

pub(super) fn chr(n: i64) -> Value {
    match u32::try_from(n).ok().and_then(char::from_u32) {
        Some(c) => Value::Text(c.to_string().into_bytes()),
        None => Value::Unknown,
    }
}

pub(super) fn chr_of(v: Value) -> Value {
    match v {
        Value::Int(n) => chr(n),
        _ => Value::Unknown,
    }
}

pub(super) fn ord(v: &Value) -> Value {
    let Value::Text(t) = v else {
        return Value::Unknown;
    };
    match std::str::from_utf8(t).ok().and_then(|s| s.chars().next()) {
        Some(c) => Value::Int(i64::from(u32::from(c))),
        None => Value::Unknown,
    }
}

pub(super) fn int(v: &Value) -> Value {
    match v {
        Value::Int(n) => Value::Int(*n),
        Value::Text(t) => std::str::from_utf8(t)
            .ok()
            .and_then(|s| s.trim().parse().ok())
            .map_or(Value::Unknown, Value::Int),
        _ => Value::Unknown,
    }
}

/// The bytes of a sequence of small integers.
pub(super) fn bytes(items: &[Value]) -> Option<Vec<u8>> {
    items
        .iter()
        .map(|v| match v {
            Value::Int(n) => u8::try_from(*n).ok(),
            _ => None,
        })
        .collect()
}

/// `glue.join(parts)`.
pub(super) fn join(glue: &[u8], parts: Vec<Value>) -> Value {
    let mut out = Vec::new();
    for (i, p) in parts.into_iter().enumerate() {
        let Value::Text(t) = p else {
            return Value::Unknown;
        };
        if i > 0 {
            out.extend_from_slice(glue);
        }
        out.extend_from_slice(&t);
        if out.len() > LONGEST {
            return Value::Unknown;
        }
    }
    Value::Text(out)
}

/// A method of a text that gives a text. One that is not known gives nothing.
pub(super) fn method(text: &[u8], name: &str, args: &[Vec<u8>]) -> Value {
    let arg = |n: usize| args.get(n).map(Vec::as_slice);
    let done = match name {
        "decode" | "encode" => match arg(0) {
            Some(codec) => {
                codec_of(codec).map_or_else(|| Some(text.to_vec()), |c| encoded::decode(c, text))
            }
            None => Some(text.to_vec()),
        },
        "strip" | "lstrip" | "rstrip" if args.is_empty() => Some(text.trim_ascii().to_vec()),
        "lower" | "casefold" => Some(text.to_ascii_lowercase()),
        "upper" => Some(text.to_ascii_uppercase()),
        "swapcase" => Some(
            text.iter()
                .map(|b| {
                    if b.is_ascii_alphabetic() {
                        b ^ 0x20
                    } else {
                        *b
                    }
                })
                .collect(),
        ),
        "replace" => match (arg(0), arg(1)) {
            (Some(from), Some(to)) => replaced(text, from, to),
            _ => None,
        },
        "fromhex" => arg(0).and_then(|t| encoded::decode(encoded::Codec::Hex, t)),
        "hex" => None,
        "format" => match (std::str::from_utf8(text), arg(0)) {
            (Ok(t), Some(a)) => {
                let a = String::from_utf8_lossy(a);
                let b = String::from_utf8_lossy(arg(1).unwrap_or_default());
                let t = t.replacen("{}", &a, 1).replacen("{}", &b, 1);
                Some(t.replace("{0}", &a).replace("{1}", &b).into_bytes())
            }
            _ => None,
        },
        _ => None,
    };
    match done {
        Some(t) if t.len() <= LONGEST => Value::Text(t),
        _ => Value::Unknown,
    }
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let t = std::str::from_utf8(text).ok()?;
    let from = std::str::from_utf8(from).ok().filter(|f| !f.is_empty())?;
    let to = std::str::from_utf8(to).ok()?;
    // What grows beyond all bounds is no name.
    if to.len() > from.len() && text.len().saturating_mul(to.len()) > LONGEST * 16 {
        return None;
    }
    Some(t.replace(from, to).into_bytes())
}

fn codec_of(name: &[u8]) -> Option<encoded::Codec> {
    use encoded::Codec;
    Some(match name.to_ascii_lowercase().as_slice() {
        b"base64" | b"base64_codec" | b"base_64" => Codec::Base64,
        b"hex" | b"hex_codec" => Codec::Hex,
        b"rot13" | b"rot_13" | b"rot-13" => Codec::Rot13,
        b"zlib" | b"zip" | b"zlib_codec" => Codec::Zlib,
        _ => return None,
    })
}

/// What a decoding function of the standard library gives.
pub(super) fn decode(path: &str, text: &[u8], second: Option<&[u8]>) -> Option<Vec<u8>> {
    use encoded::Codec;
    let codec = match path {
        "base64.b64decode"
        | "base64.standard_b64decode"
        | "base64.urlsafe_b64decode"
        | "base64.decodebytes"
        | "base64.decodestring"
        | "binascii.a2b_base64" => Codec::Base64,
        "base64.b32decode" => Codec::Base32,
        "base64.b16decode"
        | "binascii.unhexlify"
        | "binascii.a2b_hex"
        | "builtins.bytes.fromhex"
        | "builtins.bytearray.fromhex" => Codec::Hex,
        "base64.b85decode" => Codec::Base85,
        "base64.a85decode" => Codec::Ascii85,
        "zlib.decompress" => Codec::Zlib,
        "gzip.decompress" => Codec::Gzip,
        "codecs.decode" | "codecs.encode" => codec_of(second?)?,
        _ => return None,
    };
    encoded::decode(codec, text).filter(|t| t.len() <= LONGEST)
}
