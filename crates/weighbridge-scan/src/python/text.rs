//! The values of string literals.

/// The value of a literal's text: its escapes replaced (reference, section 2.4.1). An escape that
/// Python refuses stays as it is.
pub(super) fn unescape(literal: &str, bytes: bool) -> Vec<u8> {
    let src = literal.as_bytes();
    let mut out = Vec::with_capacity(src.len());
    let mut at = 0;
    while let Some(&b) = src.get(at) {
        if b != b'\\' {
            out.push(b);
            at += 1;
            continue;
        }
        let Some(&kind) = src.get(at + 1) else {
            out.push(b);
            break;
        };
        at += 2;
        match kind {
            b'\n' => {}
            b'\r' => at += usize::from(src.get(at) == Some(&b'\n')),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(11),
            b'\\' | b'\'' | b'"' => out.push(kind),
            b'0'..=b'7' => {
                let len = 1 + src
                    .get(at..)
                    .unwrap_or_default()
                    .iter()
                    .take(2)
                    .take_while(|b| (b'0'..=b'7').contains(b))
                    .count();
                let code = number(src, at - 1, len, 8);
                at += len - 1;
                push(&mut out, code, bytes);
            }
            b'x' | b'u' | b'U' => {
                let len = match kind {
                    b'x' => 2,
                    b'u' => 4,
                    _ => 8,
                };
                match number(src, at, len, 16) {
                    Some(code) if kind == b'x' || !bytes => {
                        at += len;
                        push(&mut out, Some(code), bytes);
                    }
                    _ => out.extend([b'\\', kind]),
                }
            }
            _ => out.extend([b'\\', kind]),
        }
    }
    out
}

fn number(src: &[u8], at: usize, len: usize, radix: u32) -> Option<u32> {
    let digits = std::str::from_utf8(src.get(at..at.checked_add(len)?)?).ok()?;
    // `from_str_radix` takes a sign.
    if digits.starts_with('+') {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// Appends a character, or a byte of a bytes literal.
fn push(out: &mut Vec<u8>, code: Option<u32>, bytes: bool) {
    let Some(code) = code else { return };
    if bytes {
        out.push((code & 0xff) as u8);
    } else if let Some(c) = char::from_u32(code) {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_give_what_python_gives() {
        assert_eq!(unescape(r"\x6fs\056\u0073\n\\\q", false), b"os.s\n\\\\q");
        assert_eq!(unescape(r"\xff\u0041\777", true), b"\xff\\u0041\xff");
        assert_eq!(unescape("a\\\nb", false), b"ab");
        assert_eq!(unescape(r"\x4", false), br"\x4");
        assert_eq!(unescape("\\", false), b"\\");
    }
}
