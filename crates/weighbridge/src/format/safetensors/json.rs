//! The JSON scanner of the header parser: one pass over borrowed text, no tree.
//!
//! It accepts and refuses exactly what `serde_json` (the reference reader's parser) does for a
//! value whose shape is not known in advance: RFC 8259 text, escapes of lone surrogates refused,
//! numbers outside the range of a double refused, at most [`MAX_DEPTH`] nested containers.

use std::borrow::Cow;

use weighbridge_core::{Error, Result};

/// The deepest nesting `serde_json` follows: its counter starts at 128 and may not reach 0.
pub(super) const MAX_DEPTH: u32 = 127;

/// A number as the reference reader classifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// A non-negative integer of at most 64 bits.
    Unsigned(u64),
    /// A negative integer.
    Negative,
    /// Anything else: a fraction, an exponent, `-0`, or more than 64 bits.
    Float,
}

/// A position in JSON text.
#[derive(Debug, Clone)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
        }
    }

    /// A scanner over text from inside the outermost container.
    pub(super) fn inside(text: &'a str) -> Self {
        Self {
            depth: 1,
            ..Self::new(text)
        }
    }

    /// The position, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The text from `start` to the position.
    pub(super) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The rest of the text.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Goes back to an item of the outermost container that began at `at`.
    pub(super) fn back_to(&mut self, at: usize) {
        (self.at, self.depth) = (at, 1);
    }

    /// Takes the `n` bytes that the caller has parsed from [`Scanner::rest`].
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.at += n;
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no white space, without taking it.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Takes `wanted` if it comes next after white space.
    #[inline]
    pub(super) fn take(&mut self, wanted: u8) -> bool {
        let hit = self.peek() == Some(wanted);
        self.at += usize::from(hit);
        hit
    }

    /// Takes `wanted`, which must come next after white space.
    #[inline]
    pub(super) fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.take(wanted) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{}`", char::from(wanted))))
    }

    /// An error that names what stands at the position instead of `wanted`.
    #[cold]
    pub(super) fn unexpected(&self, wanted: &str) -> Error {
        match self.text.get(self.at..).and_then(|t| t.chars().next()) {
            Some(c) => Error::malformed(
                "safetensors.bad-json",
                format!("the header is no JSON: expected {wanted}, found {c:?}"),
            ),
            None => Error::truncated(
                "safetensors.truncated-json",
                format!("the header's JSON ends where {wanted} is expected"),
            ),
        }
        .at(self.at as u64)
    }

    /// Takes the opening byte of a container that the caller has seen, one level deeper.
    #[inline]
    pub(super) fn enter(&mut self) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::malformed(
                "safetensors.too-deep",
                format!("the header's JSON nests deeper than {MAX_DEPTH} levels"),
            )
            .at(self.at as u64));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Between the items of a container: `false` when `close` ends it, `true` when another item
    /// follows. `first` says that no item has been read yet.
    #[inline]
    pub(super) fn more(&mut self, close: u8, first: bool) -> Result<bool> {
        match self.peek() {
            Some(b) if b == close => {
                self.at += 1;
                self.depth = self.depth.saturating_sub(1);
                Ok(false)
            }
            Some(b',') if !first => {
                let comma = self.at;
                self.at += 1;
                if self.peek() == Some(close) {
                    return Err(Error::malformed(
                        "safetensors.trailing-comma",
                        "the header's JSON has a comma before a closing bracket",
                    )
                    .span(comma as u64, 1));
                }
                Ok(true)
            }
            _ if first => Ok(true),
            _ => Err(self.unexpected(&format!("`,` or `{}`", char::from(close)))),
        }
    }

    /// A key of an object, without the colon after it.
    #[inline]
    pub(super) fn string_key(&mut self) -> Result<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in double quotes"));
        }
        self.string()
    }

    /// A key of an object and the colon after it.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Cow<'a, str>> {
        let key = self.string_key()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// A string whose opening quote comes next: borrowed when it has no escapes.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>> {
        let start = self.at + 1;
        let end = self.run(start)?;
        let text = self.text.get(start..end).unwrap_or_default();
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Cow::Borrowed(text));
        }
        self.escaped(text.to_owned(), end)
    }

    /// The end of the run of plain characters from `start`: the next quote or backslash.
    #[inline]
    fn run(&self, start: usize) -> Result<usize> {
        let rest = self.bytes.get(start..).unwrap_or_default();
        let n = plain(rest);
        match rest.get(n) {
            Some(b'"' | b'\\') => Ok(start + n),
            Some(&b) => Err(Error::malformed(
                "safetensors.control-character",
                format!("a string of the header holds the control character 0x{b:02x} unescaped"),
            )
            .span((start + n) as u64, 1)),
            None => Err(Error::truncated(
                "safetensors.truncated-json",
                "the header's JSON ends inside a string",
            )
            .at(self.bytes.len() as u64)),
        }
    }

    /// The rest of a string from the backslash at `end`; `text` is what came before it.
    #[cold]
    fn escaped(&mut self, mut text: String, mut end: usize) -> Result<Cow<'a, str>> {
        loop {
            self.at = end + 1;
            text.push(self.escape(end)?);
            let start = self.at;
            end = self.run(start)?;
            text.push_str(self.text.get(start..end).unwrap_or_default());
            if self.bytes.get(end) == Some(&b'"') {
                self.at = end + 1;
                return Ok(Cow::Owned(text));
            }
        }
    }

    /// One escape; the position is behind its backslash, which stands at `start`.
    fn escape(&mut self, start: usize) -> Result<char> {
        let kind = self.byte();
        self.at += 1;
        Ok(match kind {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex4(start)?;
                if !(0xd800..0xe000).contains(&first) {
                    return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                let lone = Error::malformed(
                    "safetensors.lone-surrogate",
                    format!("\\u{first:04x} is half of a surrogate pair and the other is missing"),
                )
                .span(start as u64, 6);
                if first >= 0xdc00 || !self.rest().starts_with(b"\\u") {
                    return Err(lone);
                }
                self.at += 2;
                let second = self.hex4(start)?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(lone);
                }
                char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(bad_escape(start)),
        })
    }

    fn hex4(&mut self, start: usize) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|b| char::from(b).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| bad_escape(start))?;
            self.at += 1;
        }
        Ok(code)
    }

    /// A number that comes next (the caller has seen `-` or a digit).
    #[inline]
    pub(super) fn number(&mut self) -> Result<Number> {
        let start = self.at;
        let mut value: u64 = 0;
        while let Some(b @ b'0'..=b'9') = self.byte() {
            let digit = u64::from(b - b'0');
            match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
                Some(v) => value = v,
                None => return self.odd_number(start),
            }
            self.at += 1;
        }
        let leading_zero = self.at > start + 1 && self.bytes.get(start) == Some(&b'0');
        if self.at == start || leading_zero || matches!(self.byte(), Some(b'.' | b'e' | b'E')) {
            return self.odd_number(start);
        }
        Ok(Number::Unsigned(value))
    }

    /// Numbers that are no plain unsigned integer of 64 bits.
    #[cold]
    fn odd_number(&mut self, start: usize) -> Result<Number> {
        self.at = start;
        let bad = |at: usize, m: &str| {
            Err(Error::malformed("safetensors.bad-number", m)
                .span(start as u64, (at - start) as u64))
        };
        let minus = self.byte() == Some(b'-');
        self.at += usize::from(minus);
        let zero = self.byte() == Some(b'0');
        let digits = self.digits();
        if digits == 0 {
            return bad(self.at, "a number of the header has no digits");
        }
        if zero && digits > 1 {
            return bad(self.at, "a number of the header has a leading zero");
        }
        let mut whole = true;
        if self.byte() == Some(b'.') {
            whole = false;
            self.at += 1;
            if self.digits() == 0 {
                return bad(
                    self.at,
                    "a number of the header has no digits after its point",
                );
            }
        }
        if let Some(b'e' | b'E') = self.byte() {
            whole = false;
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return bad(
                    self.at,
                    "a number of the header has no digits in its exponent",
                );
            }
        }
        let text = self.since(start);
        if whole && minus && text.parse::<i64>().is_ok_and(|v| v < 0) {
            return Ok(Number::Negative);
        }
        // The reference reader converts it to a double at once and refuses an infinite one; its
        // own library gives the same verdict at the edge of the range.
        if serde_json::from_str::<f64>(text).is_err() {
            return bad(
                self.at,
                "a number of the header is beyond the range of a double",
            );
        }
        Ok(Number::Float)
    }

    fn digits(&mut self) -> usize {
        let n = self
            .rest()
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        self.at += n;
        n
    }

    /// Takes one value of any kind, checking it.
    pub(super) fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(b'[') => {
                self.enter()?;
                let mut first = true;
                while self.more(b']', first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'{') => {
                self.enter()?;
                let mut first = true;
                while self.more(b'}', first)? {
                    first = false;
                    self.key()?;
                    self.skip()?;
                }
                Ok(())
            }
            _ => {
                for word in [&b"null"[..], b"true", b"false"] {
                    if self.rest().starts_with(word) {
                        self.at += word.len();
                        return Ok(());
                    }
                }
                Err(self.unexpected("a value"))
            }
        }
    }

    /// Takes `null` if it comes next after white space.
    pub(super) fn null(&mut self) -> bool {
        let hit = self.peek() == Some(b'n') && self.rest().starts_with(b"null");
        self.at += if hit { 4 } else { 0 };
        hit
    }
}

/// How many bytes come before the first quote, backslash or control character: eight at a time,
/// since names are too short for the set-up of a vector search. In a word, `(x - low) & !x` has
/// the top bit of the lowest byte below `low` set; bytes above it may be marked wrongly.
#[inline]
fn plain(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let mut at = 0;
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        let x = u64::from_le_bytes(*word);
        let quote = x ^ (ONES * b'"' as u64);
        let slash = x ^ (ONES * b'\\' as u64);
        let hit = (x.wrapping_sub(ONES * 0x20) & !x)
            | (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash);
        let hit = hit & (ONES << 7);
        if hit != 0 {
            return at + (hit.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let special = |&b: &u8| b < 0x20 || b == b'"' || b == b'\\';
    at + rest.iter().position(special).unwrap_or(rest.len())
}

#[cold]
fn bad_escape(start: usize) -> Error {
    Error::malformed(
        "safetensors.bad-escape",
        "a string of the header has a backslash that starts no JSON escape",
    )
    .at(start as u64)
}

/// Appends `text` to `out` as a JSON string, quotes included, escaping no more than JSON asks.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\';
    if bytes.iter().fold(true, |all, &b| all & plain(b)) {
        out.extend_from_slice(bytes);
    } else {
        for &b in bytes {
            match b {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0x08 => out.extend_from_slice(b"\\b"),
                0x0c => out.extend_from_slice(b"\\f"),
                0..0x20 => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
                _ => out.push(b),
            }
        }
    }
    out.push(b'"');
}

/// Appends `n` in decimal.
pub(super) fn push_u64(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (n % 10) as u8;
        n /= 10;
        used += 1;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Result<()> {
        let mut s = Scanner::new(text);
        s.skip()?;
        if s.peek().is_some() {
            return Err(s.unexpected("the end"));
        }
        Ok(())
    }

    #[test]
    fn accepts_what_serde_json_accepts() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        let (d127, d128) = (deep(127), deep(128));
        let cases = [
            "1",
            "-1",
            "-0",
            "0",
            "01",
            "-",
            "1.",
            "1.5",
            ".5",
            "1e",
            "1e5",
            "1e999",
            "0e999",
            "1e-999",
            "1.7976931348623157e308",
            "1.7976931348623159e308",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "+1",
            "NaN",
            "null",
            "nul",
            "true",
            "false",
            "[]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{}",
            "{\"a\":1}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\"}",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\\u0041\"",
            "\"\\ud83dx\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"a",
            "\"\t\"",
            "\"\u{7f}\"",
            "\"é\\né\"",
            " \t\r\n1 ",
            "\u{c}1",
            "",
            "[",
            "{",
            "[1",
            "\"\\",
            "{\"a\":1 \"b\":2}",
            "[true,false,null]",
            "tru",
            "nullx",
            "[1]]",
            &d127,
            &d128,
        ];
        for c in cases {
            let want = serde_json::from_str::<serde_json::Value>(c).is_ok();
            assert_eq!(skip(c).is_ok(), want, "{c:?}");
        }
    }

    #[test]
    fn strings_unescape_and_escape_back() {
        for s in [
            "",
            "plain",
            "é\"\\\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}😀",
            "\\",
            "a\"b",
        ] {
            let mut out = Vec::new();
            push_string(&mut out, s);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(Scanner::new(&text).string().unwrap(), s);
            assert_eq!(serde_json::from_str::<String>(&text).unwrap(), s);
        }
        let mut s = Scanner::new("\"\\u00e9\\/\\ud83d\\ude00!\"");
        assert_eq!(s.string().unwrap(), "é/😀!");
    }

    #[test]
    fn the_first_special_byte_is_found_at_every_place() {
        for len in 0..40usize {
            for at in 0..=len {
                for b in [b'"', b'\\', 0, 0x1f, b' ', 0x7f, 0x80, 0xff] {
                    let mut text = vec![b'!'; len];
                    text.extend_from_slice(b"\"\x00\\tail");
                    if let Some(slot) = text.get_mut(at) {
                        *slot = b;
                    }
                    let want = text
                        .iter()
                        .position(|&b| b < 0x20 || b == b'"' || b == b'\\');
                    assert_eq!(Some(plain(&text)), want, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_print_and_parse() {
        for n in [0, 7, 10, 99, 12345, u64::MAX] {
            let mut out = Vec::new();
            push_u64(&mut out, n);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text, n.to_string());
            assert_eq!(Scanner::new(&text).number().unwrap(), Number::Unsigned(n));
        }
        assert_eq!(Scanner::new("-7").number().unwrap(), Number::Negative);
        assert_eq!(Scanner::new("-0").number().unwrap(), Number::Float);
    }
}
