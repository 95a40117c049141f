//! Numbers and strings as the text opcodes spell them, by the rules of the C functions that read
//! them: `strtol`, `PyLong_FromString`, `PyOS_string_to_double`, `PyBytes_DecodeEscape` and
//! `PyUnicode_DecodeRawUnicodeEscape`.

use super::value::Node;

/// What C sees of a line: everything before a NUL byte.
fn c_string(line: &[u8]) -> &[u8] {
    match memchr::memchr(0, line) {
        Some(n) => line.get(..n).unwrap_or_default(),
        None => line,
    }
}

/// `isspace` of C, which counts the vertical tab.
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

fn trim(mut text: &[u8]) -> &[u8] {
    text = trim_start(text);
    while let [rest @ .., b] = text
        && is_space(*b)
    {
        text = rest;
    }
    text
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b, rest @ ..] = text
        && is_space(*b)
    {
        text = rest;
    }
    text
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

/// The operand of `INT`: `strtol` of base 0 (so that `010` is eight), and what that does not take
/// to the line's end, `int(text, 0)`. A zero or one of two characters is a truth value.
pub(super) fn int_line(line: &[u8]) -> Option<Node> {
    if line.is_empty() {
        return None;
    }
    match strtol(c_string(line)) {
        Some(v @ 0..=1) if line.len() == 2 => Some(Node::Bool(v == 1)),
        Some(v) => Some(Node::Int(v)),
        None => integer(line, true),
    }
}

/// `strtol(text, &end, 0)`, when it takes the whole text without overflow. No digits at all leave
/// `end` where it was: an empty text is zero.
fn strtol(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let (negative, digits) = sign(trim_start(text));
    let (base, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', ..] => (8, digits),
        _ => (10, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut v = 0i64;
    for &b in digits {
        let d = i64::from(char::from(b).to_digit(base)?);
        v = v.checked_mul(i64::from(base))?;
        v = if negative {
            v.checked_sub(d)?
        } else {
            v.checked_add(d)?
        };
    }
    Some(v)
}

/// The operand of `LONG`: `int(text, 0)` with an `L` at the end or not.
pub(super) fn long_line(line: &[u8]) -> Option<Node> {
    integer(line.strip_suffix(b"L").unwrap_or(line), true)
}

/// A memo index as `GET` and `PUT` spell it: `int(text, 10)`.
pub(super) fn memo_line(line: &[u8]) -> Option<u64> {
    match integer(line, false)? {
        Node::Int(v) => u64::try_from(v).ok(),
        _ => None,
    }
}

/// `PyLong_FromString`: blanks around, a sign, a base prefix when `auto_base`, single underscores
/// between digits. Python 3.11 and later refuse more than 4300 decimal digits; older ones do not,
/// and neither do we.
pub(super) fn integer(line: &[u8], auto_base: bool) -> Option<Node> {
    let (negative, digits) = sign(trim(c_string(line)));
    let (base, prefix, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] if auto_base => (16, "0x", rest),
        [b'0', b'o' | b'O', rest @ ..] if auto_base => (8, "0o", rest),
        [b'0', b'b' | b'B', rest @ ..] if auto_base => (2, "0b", rest),
        _ => (10, "", digits),
    };
    let digits = match digits {
        [b'_', rest @ ..] if base != 10 => rest,
        _ => digits,
    };
    let mut after_underscore = true;
    let mut clean = String::new();
    for &b in digits {
        if b == b'_' {
            if after_underscore {
                return None;
            }
            after_underscore = true;
        } else {
            char::from(b).to_digit(base)?;
            clean.push(char::from(b).to_ascii_lowercase());
            after_underscore = false;
        }
    }
    if after_underscore {
        return None;
    }
    let short = clean.trim_start_matches('0');
    // A leading zero would have been an octal of Python 2; only zero itself is still a number.
    if auto_base && base == 10 && digits.first() == Some(&b'0') && !short.is_empty() {
        return None;
    }
    if short.len() <= 64
        && let Ok(v) = i128::from_str_radix(if short.is_empty() { "0" } else { short }, base)
        && let Ok(v) = i64::try_from(if negative { -v } else { v })
    {
        return Some(Node::Int(v));
    }
    let minus = if negative { "-" } else { "" };
    Some(Node::BigText(
        format!("{minus}{prefix}{short}").into_boxed_str(),
    ))
}

/// The operand of `FLOAT`: `PyOS_string_to_double`, which takes no blanks, underscores or
/// hexadecimal digits and refuses what overflows.
pub(super) fn float_line(line: &[u8]) -> Option<f64> {
    if line.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(c_string(line)).ok()?;
    // Rust reads "inf", "infinity" and "nan" in any case, and decimals, as Python does.
    let v: f64 = text.parse().ok()?;
    let spelled_out = text.contains(['i', 'I']);
    (v.is_finite() || v.is_nan() || spelled_out).then_some(v)
}

/// `float(line)`, which the unpickler written in Python uses: blanks around, single underscores
/// between digits, and infinity for what overflows.
pub(super) fn float_python(line: &[u8]) -> Option<f64> {
    let text = trim(line);
    let digit = |i: Option<usize>| i.and_then(|i| text.get(i)).is_some_and(u8::is_ascii_digit);
    let mut clean = String::with_capacity(text.len());
    for (i, &b) in text.iter().enumerate() {
        match b {
            b'_' if digit(i.checked_sub(1)) && digit(i.checked_add(1)) => {}
            b'_' => return None,
            _ if b.is_ascii() => clean.push(char::from(b)),
            _ => return None,
        }
    }
    clean.parse().ok()
}

/// The bytes of a `STRING` operand: quotes stripped, backslash escapes undone as
/// `PyBytes_DecodeEscape` does.
pub(super) fn unquote(line: &[u8]) -> Option<Vec<u8>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return None,
    };
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
/// are escapes and every other byte is Latin-1. Surrogates stay single, as `surrogatepass` writes
/// them.
pub(super) fn raw_unicode(line: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(line.len());
    let mut i = 0;
    while let Some(&b) = line.get(i) {
        let digits = match (b, line.get(i + 1)) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            // A backslash escapes nothing else, and takes the next byte with it.
            (b'\\', Some(&next)) => {
                push_char(&mut out, u32::from(b));
                push_char(&mut out, u32::from(next));
                i += 2;
                continue;
            }
            _ => {
                push_char(&mut out, u32::from(b));
                i += 1;
                continue;
            }
        };
        let mut code = 0u32;
        for d in line.get(i + 2..i + 2 + digits)? {
            code = code
                .checked_mul(16)?
                .checked_add(char::from(*d).to_digit(16)?)?;
        }
        if code > 0x10_ffff {
            return None;
        }
        push_char(&mut out, code);
        i += 2 + digits;
    }
    Some(out)
}

fn push_char(out: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        // A lone surrogate takes three bytes like its neighbours.
        None => out.extend([
            0xe0 | (code >> 12) as u8,
            0x80 | ((code >> 6) & 0x3f) as u8,
            0x80 | (code & 0x3f) as u8,
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(line: &[u8]) -> Option<i64> {
        match int_line(line)? {
            Node::Int(v) => Some(v),
            Node::Bool(b) => Some(i64::from(b) + 1000),
            _ => None,
        }
    }

    #[test]
    fn int_is_strtol_and_then_python() {
        // Each as python3.11's `_pickle` reads it.
        for (line, want) in [
            (&b"5"[..], Some(5)),
            (b"010", Some(8)),
            (b"0x10", Some(16)),
            (b"0X1f", Some(31)),
            (b"0b101", Some(5)),
            (b"0o17", Some(15)),
            (b"1_000", Some(1000)),
            (b" 7", Some(7)),
            (b"7 ", Some(7)),
            (b"\x0b7\x0c", Some(7)),
            (b"12\x00rubbish", Some(12)),
            (b"\x00", Some(0)),
            (b"00", Some(1000)),
            (b"01", Some(1001)),
            (b"+1", Some(1001)),
            (b" 1", Some(1001)),
            (b"-0", Some(1000)),
            (b"1\x00", Some(1001)),
            (b"1\r", Some(1)),
            (b"01\r", None),
            (b"08", None),
            (b"0_0", Some(0)),
            (b"0_7", None),
            (b"0x", None),
            (b"0x_f", Some(15)),
            (b"1__0", None),
            (b"1_", None),
            (b"_1", None),
            (b"+ 1", None),
            (b"", None),
            (b" ", None),
            (b"1L", None),
            (b"-9223372036854775808", Some(i64::MIN)),
            ("1\u{a0}".as_bytes(), None),
        ] {
            assert_eq!(int(line), want, "{}", line.escape_ascii());
        }
        assert_eq!(
            int_line(b"36893488147419103232"),
            Some(Node::BigText("36893488147419103232".into()))
        );
        assert_eq!(
            int_line(b"-0x10000000000000000"),
            Some(Node::BigText("-0x10000000000000000".into()))
        );
    }

    #[test]
    fn memo_indices_and_longs() {
        assert_eq!(memo_line(b"1_0"), Some(10));
        assert_eq!(memo_line(b" 10"), Some(10));
        assert_eq!(memo_line(b"+11"), Some(11));
        assert_eq!(memo_line(b"007"), Some(7));
        assert_eq!(memo_line(b"-0"), Some(0));
        assert_eq!(memo_line(b"1\0x"), Some(1));
        assert_eq!(memo_line(b"-1"), None);
        assert_eq!(memo_line(b"0x10"), None);
        assert_eq!(long_line(b"10L"), Some(Node::Int(10)));
        assert_eq!(long_line(b"0x10L"), Some(Node::Int(16)));
        assert_eq!(long_line(b"010L"), None);
        assert_eq!(long_line(b"L"), None);
    }

    #[test]
    fn floats_as_python_reads_them() {
        for (line, want) in [
            (&b"-1e-3"[..], Some(-0.001)),
            (b".5", Some(0.5)),
            (b"5.", Some(5.0)),
            (b"+InFinity", Some(f64::INFINITY)),
            (b"1.5\x00junk", Some(1.5)),
            (b"1e400", None),
            (b"--1", None),
            (b" 1", None),
            (b"1 ", None),
            (b"1_0", None),
            (b"1\r", None),
            (b"0x1", None),
            (b"1e", None),
            (b".", None),
            (b"", None),
        ] {
            assert_eq!(float_line(line), want, "{}", line.escape_ascii());
        }
        assert!(float_line(b"-nan").is_some_and(f64::is_nan));
        assert_eq!(float_python(b" 1_0.5\t"), Some(10.5));
        assert_eq!(float_python(b"1e400"), Some(f64::INFINITY));
        assert_eq!(float_python(b"1__0"), None);
        assert_eq!(float_python(b"1_.5"), None);
        assert_eq!(float_python(b"1\0"), None);
    }

    #[test]
    fn strings_as_python_reads_them() {
        assert_eq!(unquote(b"'a\\x41\\n\\101'").as_deref(), Some(&b"aA\nA"[..]));
        assert_eq!(unquote(b"'\\777\\q'").as_deref(), Some(&b"\xff\\q"[..]));
        for bad in [&b"'a\""[..], b"'", b"", b" 'a'", b"'a\\'", b"'\\x4'"] {
            assert_eq!(unquote(bad), None);
        }
        let text = |line: &[u8]| raw_unicode(line).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(text(b"h\\u00e9\\U0001f600").as_deref(), Some("hé😀"));
        assert_eq!(text(b"\\\\u0041\xe9\\").as_deref(), Some("\\\\u0041é\\"));
        assert_eq!(text(b"\\u+041"), None);
        assert_eq!(text(b"\\U00110000"), None);
        assert_eq!(
            raw_unicode(b"\\ud800").as_deref(),
            Some(&b"\xed\xa0\x80"[..])
        );
    }
}
