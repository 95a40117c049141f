//! The Python literals that a header is made of, as `ast.literal_eval` reads them: text, integers,
//! `True`, `False`, `None`, tuples, lists and dicts. Everything else is refused.

use crate::error::{Error, Result};

/// How deep literals may nest; a structured type of structured types has four levels each.
const DEEPEST: u32 = 64;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Text(String),
    Tuple(Vec<Self>),
    List(Vec<Self>),
    Dict(Vec<(Self, Self)>),
}

impl Literal {
    /// A short rendering for messages.
    pub(super) fn shown(&self) -> String {
        format!("{self:?}").chars().take(100).collect()
    }
}

/// Reads the one value that `text` is.
///
/// # Errors
/// `Malformed` with rule `npy.header`; offsets count in `text`.
pub(super) fn parse(text: &str) -> Result<Literal> {
    let mut p = Parser { text, at: 0 };
    let value = p.value(0)?;
    p.space();
    match p.peek() {
        None => Ok(value),
        Some(_) => Err(p.bad("something follows the dict")),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn bad(&self, message: impl Into<String>) -> Error {
        Error::malformed("npy.header", message).at(self.at as u64)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        // A NUL pads the headers of a few early writers.
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: u32) -> Result<Literal> {
        if depth > DEEPEST {
            return Err(self.bad("values nest too deep"));
        }
        self.space();
        match self.peek() {
            Some(b'(') => {
                self.at += 1;
                let (mut items, comma) = self.items(b')', depth)?;
                // Parentheses around one value are no tuple.
                match items.pop() {
                    Some(only) if items.is_empty() && !comma => Ok(only),
                    Some(last) => {
                        items.push(last);
                        Ok(Literal::Tuple(items))
                    }
                    None => Ok(Literal::Tuple(items)),
                }
            }
            Some(b'[') => {
                self.at += 1;
                Ok(Literal::List(self.items(b']', depth)?.0))
            }
            Some(b'{') => {
                self.at += 1;
                self.dict(depth)
            }
            Some(b'\'' | b'"') => self.string(),
            Some(b'-' | b'+' | b'0'..=b'9') => self.int(),
            Some(b) if b.is_ascii_alphabetic() => self.word(),
            _ => Err(self.bad("a value is needed")),
        }
    }

    /// Values up to `end`, and whether a comma followed the last one.
    fn items(&mut self, end: u8, depth: u32) -> Result<(Vec<Literal>, bool)> {
        let (mut out, mut comma) = (Vec::new(), false);
        loop {
            if self.eat(end) {
                return Ok((out, comma));
            }
            if !out.is_empty() && !comma {
                return Err(self.bad("a comma is needed"));
            }
            out.push(self.value(depth + 1)?);
            comma = self.eat(b',');
        }
    }

    fn dict(&mut self, depth: u32) -> Result<Literal> {
        let (mut out, mut comma) = (Vec::new(), true);
        loop {
            if self.eat(b'}') {
                return Ok(Literal::Dict(out));
            }
            if !comma {
                return Err(self.bad("a comma is needed"));
            }
            let key = self.value(depth + 1)?;
            if !self.eat(b':') {
                return Err(self.bad("a colon is needed"));
            }
            out.push((key, self.value(depth + 1)?));
            comma = self.eat(b',');
        }
    }

    /// `True`, `False`, `None`, or a string with the prefix of Python 2.
    fn word(&mut self) -> Result<Literal> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        for (word, value) in [
            ("True", Literal::Bool(true)),
            ("False", Literal::Bool(false)),
            ("None", Literal::None),
        ] {
            let ends = |r: &str| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            if rest.strip_prefix(word).is_some_and(ends) {
                self.at += word.len();
                return Ok(value);
            }
        }
        if matches!(rest.as_bytes(), [b'u' | b'U', b'\'' | b'"', ..]) {
            self.at += 1;
            return self.string();
        }
        Err(self.bad("a name is no value"))
    }

    fn int(&mut self) -> Result<Literal> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let sign = usize::from(rest.starts_with(['-', '+']));
        let digits = rest
            .bytes()
            .skip(sign)
            .take_while(u8::is_ascii_digit)
            .count();
        let number = rest.get(..sign + digits).unwrap_or_default();
        let number = number.strip_prefix('+').unwrap_or(number);
        let value = number
            .parse()
            .map_err(|_| self.bad("no integer, or one of absurd size"))?;
        self.at += sign + digits;
        // The suffix of Python 2, which NumPy drops.
        if matches!(self.peek(), Some(b'L' | b'l')) {
            self.at += 1;
        }
        match self.peek() {
            Some(b) if b.is_ascii_alphanumeric() || b == b'_' || b == b'.' => {
                Err(self.bad("only decimal integers are read"))
            }
            _ => Ok(Literal::Int(value)),
        }
    }

    fn string(&mut self) -> Result<Literal> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut chars = rest.char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            match c {
                c if Some(c) == quote => {
                    self.at += i + 1;
                    return Ok(Literal::Text(out));
                }
                '\\' => {
                    let escaped = chars.next().map(|(_, c)| c);
                    let mut hex = |n: u32| {
                        let digits = (0..n).map(|_| chars.next()?.1.to_digit(16));
                        let code = digits.collect::<Option<Vec<u32>>>()?;
                        char::from_u32(code.iter().fold(0, |n, d| (n << 4) | d))
                    };
                    let c = match escaped {
                        Some(c @ ('\\' | '\'' | '"')) => Some(c),
                        Some('n') => Some('\n'),
                        Some('t') => Some('\t'),
                        Some('r') => Some('\r'),
                        Some('x') => hex(2),
                        Some('u') => hex(4),
                        Some('U') => hex(8),
                        _ => None,
                    };
                    out.push(c.ok_or_else(|| self.bad("an escape that is not read"))?);
                }
                '\n' | '\r' => break,
                c => out.push(c),
            }
        }
        Err(self.bad("a string has no end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> Literal {
        parse(text).unwrap()
    }

    #[test]
    fn literals_as_python_reads_them() {
        assert_eq!(ok("(1)"), Literal::Int(1));
        assert_eq!(ok("(1,)"), Literal::Tuple(vec![Literal::Int(1)]));
        assert_eq!(ok("()"), Literal::Tuple(vec![]));
        assert_eq!(
            ok("[ -1 , True,]"),
            Literal::List(vec![Literal::Int(-1), Literal::Bool(true)])
        );
        assert_eq!(ok(r#""a\'\x41\u00e9""#), Literal::Text("a'A\u{e9}".into()));
        assert_eq!(ok("u'x'"), Literal::Text("x".into()));
        assert_eq!(
            ok("{'a': None,\n 'b': (2, 3)}"),
            Literal::Dict(vec![
                (Literal::Text("a".into()), Literal::None),
                (
                    Literal::Text("b".into()),
                    Literal::Tuple(vec![Literal::Int(2), Literal::Int(3)])
                )
            ])
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "(",
            "(,)",
            "[1 2]",
            "{'a' 1}",
            "{'a': 1 'b': 2}",
            "f()",
            "a.b",
            "Truex",
            "1+1",
            "0x10",
            "1.5",
            "1_0",
            "'a",
            "'\\q'",
            "'a\nb'",
            "1 2",
            "b'x'",
            "[*a]",
            "None.x",
            "99999999999999999999999999999999999999999999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
