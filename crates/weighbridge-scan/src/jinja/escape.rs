//! String literals: Python's `unicode-escape` codec, which `jinja2/lexer.py` decodes them with.

/// The value of the literal body `raw` (without its quotes), or what the codec refuses.
pub(super) fn unescape(raw: &str) -> Result<String, &'static str> {
    if !raw.contains(['\\', '\r']) {
        return Ok(raw.to_owned());
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['\\', '\r']) {
        out.push_str(rest.get(..at).unwrap_or_default());
        let tail = rest.get(at..).unwrap_or_default();
        if let Some(after) = tail.strip_prefix('\r') {
            // Line ends are made `\n` first.
            out.push('\n');
            rest = after.strip_prefix('\n').unwrap_or(after);
            continue;
        }
        rest = one(tail.get(1..).unwrap_or_default(), &mut out)?;
    }
    out.push_str(rest);
    Ok(out)
}

/// Resolves the escape after a backslash; gives what follows it.
fn one<'a>(after: &'a str, out: &mut String) -> Result<&'a str, &'static str> {
    let Some(c) = after.chars().next() else {
        return Err("\\ at end of string");
    };
    let rest = after.get(c.len_utf8()..).unwrap_or_default();
    let plain = match c {
        '\n' => return Ok(rest),
        '\r' => return Ok(rest.strip_prefix('\n').unwrap_or(rest)),
        '\\' | '\'' | '"' => c,
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        'x' => return hex(rest, 2, out, "truncated \\xXX escape"),
        'u' => return hex(rest, 4, out, "truncated \\uXXXX escape"),
        'U' => return hex(rest, 8, out, "truncated \\UXXXXXXXX escape"),
        '0'..='7' => return Ok(octal(after, out)),
        'N' => return named(rest, out),
        other => {
            // Python keeps the backslash of an escape it does not know.
            out.push('\\');
            other
        }
    };
    out.push(plain);
    Ok(rest)
}

fn hex<'a>(
    rest: &'a str,
    digits: usize,
    out: &mut String,
    truncated: &'static str,
) -> Result<&'a str, &'static str> {
    let number = rest
        .get(..digits)
        .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|d| u32::from_str_radix(d, 16).ok())
        .ok_or(truncated)?;
    if number > 0x10_ffff {
        return Err("illegal Unicode character");
    }
    // Half a surrogate pair is a character to Python and none to us.
    out.push(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER));
    Ok(rest.get(digits..).unwrap_or_default())
}

fn octal<'a>(after: &'a str, out: &mut String) -> &'a str {
    let n = after
        .bytes()
        .take(3)
        .take_while(|b| matches!(b, b'0'..=b'7'))
        .count();
    let number = after
        .get(..n)
        .and_then(|d| u32::from_str_radix(d, 8).ok())
        .unwrap_or(0);
    out.push(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER));
    after.get(n..).unwrap_or_default()
}

/// `\N{…}`: the names that can stand in an identifier; any other one is no part of a name.
fn named<'a>(rest: &'a str, out: &mut String) -> Result<&'a str, &'static str> {
    let bad = "malformed \\N character escape";
    let body = rest.strip_prefix('{').ok_or(bad)?;
    let end = body.find('}').ok_or(bad)?;
    let (name, after) = body.split_at_checked(end).ok_or(bad)?;
    let name = name.to_ascii_uppercase();
    let letter = |prefix: &str| {
        let mut l = name.strip_prefix(prefix)?.chars();
        l.next().filter(|_| l.next().is_none())
    };
    let c = match name.as_str() {
        "LOW LINE" | "SPACING UNDERSCORE" => '_',
        "FULL STOP" | "PERIOD" => '.',
        "SPACE" => ' ',
        _ => letter("LATIN SMALL LETTER ")
            .map(|c| c.to_ascii_lowercase())
            .or_else(|| letter("LATIN CAPITAL LETTER "))
            .unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    out.push(c);
    Ok(after.get(1..).unwrap_or_default())
}
