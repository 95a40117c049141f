//! Cuts a template into text and tags, and a tag into tokens (`jinja2/lexer.py`).

use std::ops::Range;

use memchr::memmem;

use super::ast::{SyntaxError, SyntaxFault};
use super::escape::unescape;
use super::parser::MOST_ERRORS;

/// A token of a tag and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'s> {
    pub(super) span: Range<usize>,
    pub(super) kind: TokenKind<'s>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind<'s> {
    Name(&'s str),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
}

/// The two kinds of tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagKind {
    /// `{% … %}`.
    Block,
    /// `{{ … }}`.
    Variable,
}

/// A piece of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    Text(Range<usize>),
    Tag(TagKind, Range<usize>),
}

/// Longest operators first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

pub(super) struct Lexer<'s> {
    src: &'s str,
    at: usize,
    /// Text of a raw block that lies behind the text before it.
    raw: Option<Range<usize>>,
    /// What is known not to come any more: `#}`, `%}`, `}}`, `'`, `"`. It is not searched again,
    /// which keeps a text of unclosed tags linear.
    gone: Vec<&'static str>,
    /// The first errors.
    pub(super) errors: Vec<SyntaxError>,
    /// How many errors there were.
    pub(super) failures: usize,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(src: &'s str) -> Self {
        Self {
            src,
            at: 0,
            raw: None,
            gone: Vec::new(),
            errors: Vec::new(),
            failures: 0,
        }
    }

    fn fail(&mut self, at: usize, message: impl Into<String>) {
        self.failures += 1;
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(SyntaxError {
                at,
                message: message.into(),
                fault: SyntaxFault::Syntax,
            });
        }
    }

    fn from(&self, at: usize) -> &'s str {
        self.src.get(at..).unwrap_or_default()
    }

    /// Where `what` next begins, from `at` on.
    fn search(&mut self, at: usize, what: &'static str) -> Option<usize> {
        if self.gone.contains(&what) {
            return None;
        }
        let found = memmem::find(self.from(at).as_bytes(), what.as_bytes());
        if found.is_none() {
            self.gone.push(what);
        }
        found.map(|n| at + n)
    }

    /// The next text or tag; the tokens of a tag are put into `tokens`.
    pub(super) fn next(&mut self, tokens: &mut Vec<Token<'s>>) -> Option<Chunk> {
        if let Some(raw) = self.raw.take() {
            return Some(Chunk::Text(raw));
        }
        loop {
            if self.at >= self.src.len() {
                return None;
            }
            let start = self.at;
            let Some(open) = self.opening(start) else {
                self.at = self.src.len();
                return Some(Chunk::Text(start..self.src.len()));
            };
            if open > start {
                self.at = open;
                return Some(Chunk::Text(start..open));
            }
            match self.src.as_bytes().get(open + 1) {
                Some(b'#') => self.comment(open),
                Some(b'%') => {
                    if self.raw_block(open) {
                        if let Some(raw) = self.raw.take() {
                            return Some(Chunk::Text(raw));
                        }
                        continue;
                    }
                    return Some(self.tag(TagKind::Block, open, tokens));
                }
                _ => return Some(self.tag(TagKind::Variable, open, tokens)),
            }
        }
    }

    /// Where the next `{{`, `{%` or `{#` begins.
    fn opening(&self, mut at: usize) -> Option<usize> {
        let bytes = self.src.as_bytes();
        loop {
            at += memchr::memchr(b'{', bytes.get(at..)?)?;
            if matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#')) {
                return Some(at);
            }
            at += 1;
        }
    }

    fn comment(&mut self, open: usize) {
        match self.search(open + 2, "#}") {
            Some(end) => self.at = end + 2,
            None => {
                self.fail(open, "the comment is never closed");
                self.at = open + 2;
            }
        }
    }

    /// Takes `{% raw %}…{% endraw %}`, where it stands at `open`.
    fn raw_block(&mut self, open: usize) -> bool {
        let Some(body) = keyword_tag(self.src, open, "raw") else {
            return false;
        };
        let mut at = body;
        while let Some(tag) = self.search(at, "{%") {
            if let Some(end) = keyword_tag(self.src, tag, "endraw") {
                self.raw = Some(body..tag);
                self.at = end;
                return true;
            }
            at = tag + 2;
        }
        self.fail(open, "the raw block is never closed");
        self.raw = Some(body..self.src.len());
        self.at = self.src.len();
        true
    }

    fn tag(&mut self, kind: TagKind, open: usize, tokens: &mut Vec<Token<'s>>) -> Chunk {
        tokens.clear();
        let mut at = open + 2;
        if matches!(self.src.as_bytes().get(at), Some(b'-' | b'+')) {
            at += 1;
        }
        let mut brackets: Vec<&'static str> = Vec::new();
        loop {
            at = self.after_space(at);
            if brackets.is_empty()
                && let Some(end) = close(self.from(at), kind)
            {
                self.at = at + end;
                return Chunk::Tag(kind, open..self.at);
            }
            match self.token(at, tokens, &mut brackets) {
                Ok(end) => at = end,
                Err(message) => {
                    self.fail(at, message);
                    self.recover(kind, open, at);
                    return Chunk::Tag(kind, open..self.at);
                }
            }
        }
    }

    /// Goes on behind the tag's end, or where it broke when it has none.
    fn recover(&mut self, kind: TagKind, open: usize, at: usize) {
        let close = if kind == TagKind::Block { "%}" } else { "}}" };
        self.at = match self.search(at, close) {
            Some(end) => end + 2,
            None => at.max(open + 2),
        };
    }

    fn after_space(&self, at: usize) -> usize {
        let rest = self.from(at);
        let blanks = rest.len() - rest.trim_start_matches(is_space).len();
        at + blanks
    }

    /// Takes one token at `at`; gives where it ends.
    fn token(
        &mut self,
        at: usize,
        tokens: &mut Vec<Token<'s>>,
        brackets: &mut Vec<&'static str>,
    ) -> Result<usize, String> {
        let rest = self.from(at);
        let Some(first) = rest.chars().next() else {
            return Err("the template ends inside a tag".into());
        };
        let after_dot = at > 0 && self.src.as_bytes().get(at - 1) == Some(&b'.');
        let (kind, len) = if first.is_ascii_digit() {
            number(rest, after_dot)
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(rest.len());
            (TokenKind::Name(rest.get(..end).unwrap_or_default()), end)
        } else if matches!(first, '\'' | '"') {
            let body = self.string_end(at + 1, first)?;
            let raw = self.src.get(at + 1..body).unwrap_or_default();
            (TokenKind::Str(unescape(raw)?), body + 1 - at)
        } else {
            let op = OPERATORS
                .iter()
                .find(|op| rest.starts_with(**op))
                .ok_or_else(|| format!("unexpected character {first:?}"))?;
            balance(op, brackets)?;
            (TokenKind::Op(op), op.len())
        };
        let span = at..at + len;
        tokens.push(Token { span, kind });
        Ok(at + len)
    }

    /// Where the string that begins at `at` has its closing quote.
    fn string_end(&mut self, at: usize, quote: char) -> Result<usize, String> {
        let (byte, name) = if quote == '"' {
            (b'"', "\"")
        } else {
            (b'\'', "'")
        };
        let bytes = self.src.as_bytes();
        let mut here = at;
        if !self.gone.contains(&name) {
            while let Some(n) = memchr::memchr2(byte, b'\\', bytes.get(here..).unwrap_or_default())
            {
                if bytes.get(here + n) == Some(&byte) {
                    return Ok(here + n);
                }
                here += n + 2;
            }
            self.gone.push(name);
        }
        Err("a string is never closed".into())
    }
}

fn is_space(c: char) -> bool {
    // `\s` of Python's `re` also takes the four separators that Unicode does not call blank.
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// How long the tag's end at the start of `rest` is.
fn close(rest: &str, kind: TagKind) -> Option<usize> {
    let ends: &[&str] = match kind {
        TagKind::Block => &["%}", "-%}", "+%}"],
        TagKind::Variable => &["}}", "-}}"],
    };
    ends.iter().find(|e| rest.starts_with(**e)).map(|e| e.len())
}

/// Where the tag at `open` ends if it is `{% word %}`.
fn keyword_tag(src: &str, open: usize, word: &str) -> Option<usize> {
    let rest = src.get(open + 2..)?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let rest = rest.trim_start_matches(is_space).strip_prefix(word)?;
    let rest = rest.trim_start_matches(is_space);
    close(rest, TagKind::Block).map(|n| src.len() - rest.len() + n)
}

fn balance(op: &str, brackets: &mut Vec<&'static str>) -> Result<(), String> {
    match op {
        "(" => brackets.push(")"),
        "[" => brackets.push("]"),
        "{" => brackets.push("}"),
        ")" | "]" | "}" => match brackets.pop() {
            None => return Err(format!("unexpected '{op}'")),
            Some(expected) if expected != op => {
                return Err(format!("unexpected '{op}', expected '{expected}'"));
            }
            Some(_) => {}
        },
        _ => {}
    }
    Ok(())
}

/// A run of digits with single `_` between them, of the kind that `digit` tells.
fn digits(s: &str, digit: fn(u8) -> bool) -> usize {
    let b = s.as_bytes();
    let mut n = 0;
    while let Some(&c) = b.get(n) {
        let underscore = c == b'_' && n > 0 && b.get(n + 1).is_some_and(|&d| digit(d));
        if !digit(c) && !underscore {
            break;
        }
        n += 1;
    }
    n
}

fn number(rest: &str, after_dot: bool) -> (TokenKind<'static>, usize) {
    if !after_dot && let Some(len) = float_len(rest) {
        let text: String = rest.chars().take(len).filter(|c| *c != '_').collect();
        return (TokenKind::Float(text.parse().unwrap_or(0.0)), len);
    }
    let radix = match rest.as_bytes() {
        [b'0', b'x' | b'X', ..] => 16,
        [b'0', b'o' | b'O', ..] => 8,
        [b'0', b'b' | b'B', ..] => 2,
        _ => 10,
    };
    let body = if radix == 10 {
        rest
    } else {
        rest.get(2..).unwrap_or_default()
    };
    let is_digit: fn(u8) -> bool = match radix {
        16 => |b| b.is_ascii_hexdigit(),
        8 => |b| matches!(b, b'0'..=b'7'),
        2 => |b| matches!(b, b'0' | b'1'),
        _ => |b| b.is_ascii_digit(),
    };
    // `0x_ff` is allowed.
    let lead = usize::from(radix != 10 && body.starts_with('_'));
    let n = digits(body.get(lead..).unwrap_or_default(), is_digit);
    if n == 0 {
        // `0x` without digits: the zero alone.
        return (TokenKind::Int(0), 1);
    }
    let text: String = body.chars().take(lead + n).filter(|c| *c != '_').collect();
    let value = i128::from_str_radix(&text, radix).unwrap_or(i128::MAX);
    let prefix = if radix == 10 { 0 } else { 2 };
    (TokenKind::Int(value), prefix + lead + n)
}

fn float_len(rest: &str) -> Option<usize> {
    let tail = |n: usize| rest.get(n..).unwrap_or_default();
    let is_digit: fn(u8) -> bool = |b| b.is_ascii_digit();
    let whole = digits(rest, is_digit);
    let fraction = match tail(whole).strip_prefix('.') {
        Some(f) => match digits(f, is_digit) {
            0 => 0,
            n => n + 1,
        },
        None => 0,
    };
    let mut len = whole + fraction;
    let mut exponent = false;
    if let Some(e) = tail(len).strip_prefix(['e', 'E']) {
        let signed = e.strip_prefix(['+', '-']).unwrap_or(e);
        let n = digits(signed, is_digit);
        if n > 0 {
            exponent = true;
            len += 1 + (e.len() - signed.len()) + n;
        }
    }
    (fraction > 0 || exponent).then_some(len)
}
