//! Numbers as the text opcodes spell them.

use super::value::Node;

/// An integer literal as `int(text, base)` reads it: blanks around, a sign, a base prefix when
/// `base` is 0, single underscores between digits.
pub(super) fn integer(text: &[u8], auto_base: bool) -> Option<Node> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (neg, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] if auto_base => (16, lower.get(2..)?),
        [b'0', b'o', ..] if auto_base => (8, lower.get(2..)?),
        [b'0', b'b', ..] if auto_base => (2, lower.get(2..)?),
        _ => (10, lower.as_str()),
    };
    let digits = if base == 10 {
        digits
    } else {
        digits.strip_prefix('_').unwrap_or(digits)
    };
    if digits.is_empty()
        || digits.starts_with('_')
        || digits.ends_with('_')
        || digits.contains("__")
        || !digits.chars().all(|c| c == '_' || c.is_digit(base))
    {
        return None;
    }
    let clean: String = digits.chars().filter(|&c| c != '_').collect();
    if let Ok(v) = i128::from_str_radix(&clean, base) {
        let v = if neg { -v } else { v };
        if let Ok(v) = i64::try_from(v) {
            return Some(Node::Int(v));
        }
    }
    let clean = clean.trim_start_matches('0');
    let sign = if neg { "-" } else { "" };
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    Some(Node::BigText(
        format!("{sign}{prefix}{clean}").into_boxed_str(),
    ))
}

/// A float as `float(text)` reads it.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.trim_start_matches(['+', '-']);
    // Rust also reads "infinity", "inf" and "nan" in any case, as Python does.
    if bare.len() + 1 < text.len() {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// The bytes of a `STRING` operand: quotes stripped, backslash escapes undone as
/// `codecs.escape_decode` does.
pub(super) fn unquote(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.trim_ascii();
    let (first, last) = (*line.first()?, *line.last()?);
    if line.len() < 2 || first != last || (first != b'\'' && first != b'"') {
        return None;
    }
    let inner = line.get(1..line.len() - 1)?;
    let mut out = Vec::with_capacity(inner.len());
    let mut it = inner.iter().copied().peekable();
    while let Some(b) = it.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match it.next()? {
            b'\n' => {}
            b'\\' => out.push(b'\\'),
            b'\'' => out.push(b'\''),
            b'"' => out.push(b'"'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b't' => out.push(b'\t'),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b'v' => out.push(11),
            b'a' => out.push(7),
            b'x' => {
                let hi = char::from(it.next()?).to_digit(16)?;
                let lo = char::from(it.next()?).to_digit(16)?;
                out.push((hi * 16 + lo) as u8);
            }
            d @ b'0'..=b'7' => {
                let mut v = u32::from(d - b'0');
                for _ in 0..2 {
                    match it.peek() {
                        Some(&d @ b'0'..=b'7') => {
                            v = v * 8 + u32::from(d - b'0');
                            it.next();
                        }
                        _ => break,
                    }
                }
                out.push(v as u8);
            }
            other => out.extend([b'\\', other]),
        }
    }
    Some(out)
}

/// The text of a `UNICODE` operand: `raw-unicode-escape`, where only `\uXXXX` and `\UXXXXXXXX`
/// are escapes and every other byte is Latin-1.
pub(super) fn raw_unicode(line: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut i = 0;
    while let Some(&b) = line.get(i) {
        let digits = match (b, line.get(i + 1)) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        if digits == 0 {
            out.push(char::from(b));
            // A backslash escapes nothing else, and a doubled one keeps both.
            if b == b'\\' && line.get(i + 1) == Some(&b'\\') {
                out.push('\\');
                i += 1;
            }
            i += 1;
            continue;
        }
        let hex = std::str::from_utf8(line.get(i + 2..i + 2 + digits)?).ok()?;
        let code = u32::from_str_radix(hex, 16).ok()?;
        if code > 0x10_ffff {
            return None;
        }
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        i += 2 + digits;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_python_reads_them() {
        assert_eq!(integer(b"0x10", true), Some(Node::Int(16)));
        assert_eq!(integer(b" -1_0 ", true), Some(Node::Int(-10)));
        assert_eq!(integer(b"0x10", false), None);
        assert_eq!(integer(b"1__0", true), None);
        assert_eq!(integer(b"", true), None);
        assert_eq!(
            integer(b"36893488147419103232", false),
            Some(Node::BigText("36893488147419103232".into()))
        );
    }

    #[test]
    fn strings_as_python_reads_them() {
        assert_eq!(unquote(b"'a\\x41\\n\\101'").as_deref(), Some(&b"aA\nA"[..]));
        assert_eq!(unquote(b"'a\""), None);
        assert_eq!(raw_unicode(b"h\\u00e9\\U0001f600").as_deref(), Some("hé😀"));
        assert_eq!(float(b"-1e-3"), Some(-0.001));
        assert_eq!(float(b"--1"), None);
    }
}
