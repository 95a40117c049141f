//! Tokens of Python source, one at a time (The Python Language Reference, chapter 2).
//!
//! The lexer gives tokens as they are asked for, so that text which is no program costs its first
//! few words and no more.

use std::ops::Range;

use super::names::{is_name_byte, normalised};
use super::text;

/// Deepest indentation and nesting of f-strings followed.
const DEEPEST: usize = 100;

/// Deepest nesting of f-strings in each other.
const NESTED_STRINGS: u32 = 5;

/// Why a text is no program that this parser reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// Where, in bytes from the start of the text.
    pub at: usize,
    /// Whether a limit was reached, so that the text may be a program all the same.
    pub limit: bool,
}

impl Reject {
    pub(super) fn syntax<T>(at: usize) -> Result<T, Self> {
        Err(Self { at, limit: false })
    }

    pub(super) fn limit<T>(at: usize) -> Result<T, Self> {
        Err(Self { at, limit: true })
    }
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier or keyword, normalised as Python does it.
    Name(String),
    /// A number; its value where it is a small integer.
    Number(Option<u32>),
    /// A string or bytes literal with its value.
    Str(Vec<u8>),
    /// An f-string: where its replacement fields stand, and its literal text before each.
    Format(Vec<Piece>),
    /// An operator or delimiter.
    Op(&'static str),
    /// The end of a logical line.
    Newline,
    Indent,
    Dedent,
    End,
}

/// A part of an f-string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text as it stands.
    Text(Vec<u8>),
    /// The expression of a replacement field, as a range of the text.
    Field(Range<usize>),
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Operators and delimiters, longest first.
const OPERATORS: [&str; 48] = [
    "**=", "//=", "<<=", ">>=", "...", "!=", "%=", "&=", "**", "*=", "+=", "-=", "->", "//", "/=",
    ":=", "<<", "<=", "<>", "==", ">=", ">>", "@=", "^=", "|=", "%", "&", "(", ")", "*", "+", ",",
    "-", ".", "/", ":", ";", "<", "=", ">", "@", "[", "]", "^", "{", "|", "}", "~",
];

/// Words that may follow a number without a space.
const AFTER_NUMBER: [&str; 8] = ["and", "or", "if", "else", "in", "is", "for", "not"];

/// The lexer.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// Where the text ends for this lexer.
    end: usize,
    /// Open brackets, innermost last.
    brackets: Vec<u8>,
    indents: Vec<usize>,
    /// Dedents still to be given.
    dedents: usize,
    at_line_start: bool,
    /// Whether the last token ended a logical line (or nothing was given yet).
    line_is_empty: bool,
    /// Inside a replacement field lines do not count.
    field: bool,
    depth: u32,
}

impl<'t> Lexer<'t> {
    /// A lexer for a whole text. The first line's indentation is the text's own.
    pub(super) fn new(text: &'t str) -> Self {
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self {
            text,
            at,
            end: text.len(),
            brackets: Vec::new(),
            indents: Vec::new(),
            dedents: 0,
            at_line_start: true,
            line_is_empty: true,
            field: false,
            depth: 0,
        }
    }

    /// A lexer for the expression of a replacement field, `depth` f-strings deep.
    pub(super) fn field(text: &'t str, range: Range<usize>, depth: u32) -> Self {
        Self {
            at: range.start,
            end: range.end,
            at_line_start: false,
            field: true,
            depth,
            ..Self::new(text)
        }
    }

    /// How deep in f-strings it reads.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    fn byte(&self, at: usize) -> Option<u8> {
        if at >= self.end {
            return None;
        }
        self.text.as_bytes().get(at).copied()
    }

    /// The next token.
    ///
    /// # Errors
    /// The text is no Python here, or too deep.
    pub(super) fn next(&mut self) -> Result<Token, Reject> {
        if self.dedents > 0 {
            self.dedents -= 1;
            return Ok(self.token(Kind::Dedent, self.at));
        }
        if self.at_line_start && self.brackets.is_empty() {
            self.at_line_start = false;
            if let Some(t) = self.indentation()? {
                return Ok(t);
            }
        }
        self.skip_blank()?;
        let start = self.at;
        let Some(b) = self.byte(start) else {
            return self.finish(start);
        };
        if b == b'\n' || b == b'\r' {
            self.at = self.after_newline(start);
            self.at_line_start = true;
            self.line_is_empty = true;
            return Ok(self.token(Kind::Newline, start));
        }
        self.line_is_empty = false;
        if b.is_ascii_digit()
            || b == b'.' && self.byte(start + 1).is_some_and(|b| b.is_ascii_digit())
        {
            return self.number(start);
        }
        if let Some(t) = self.string(start)? {
            return Ok(t);
        }
        if is_name_byte(b) {
            let word = self.word(start);
            self.at = start + word.len();
            return Ok(self.token(Kind::Name(normalised(word)), start));
        }
        self.operator(start)
    }

    fn token(&self, kind: Kind, start: usize) -> Token {
        Token {
            kind,
            start,
            end: self.at,
        }
    }

    /// At the end of the text: a last newline, the dedents, the end.
    fn finish(&mut self, start: usize) -> Result<Token, Reject> {
        if !self.brackets.is_empty() {
            return Reject::syntax(start);
        }
        if !self.line_is_empty && !self.field {
            self.line_is_empty = true;
            return Ok(self.token(Kind::Newline, start));
        }
        if self.indents.len() > 1 {
            self.dedents = self.indents.len() - 2;
            self.indents.truncate(1);
            return Ok(self.token(Kind::Dedent, start));
        }
        Ok(self.token(Kind::End, start))
    }

    fn after_newline(&self, at: usize) -> usize {
        match (self.byte(at), self.byte(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => at + 2,
            _ => at + 1,
        }
    }

    /// Skips empty lines and measures the indentation of the next one.
    fn indentation(&mut self) -> Result<Option<Token>, Reject> {
        let mut column;
        loop {
            column = 0usize;
            loop {
                match self.byte(self.at) {
                    Some(b' ') => column += 1,
                    Some(b'\t') => column = (column / 8 + 1) * 8,
                    Some(b'\x0c') => column = 0,
                    _ => break,
                }
                self.at += 1;
            }
            if self.byte(self.at) == Some(b'#') {
                self.skip_comment();
            }
            match self.byte(self.at) {
                Some(b'\n' | b'\r') => self.at = self.after_newline(self.at),
                Some(_) => break,
                None => return Ok(None),
            }
        }
        let Some(&current) = self.indents.last() else {
            self.indents.push(column);
            return Ok(None);
        };
        if column > current {
            if self.indents.len() >= DEEPEST {
                return Reject::limit(self.at);
            }
            self.indents.push(column);
            return Ok(Some(self.token(Kind::Indent, self.at)));
        }
        if column == current {
            return Ok(None);
        }
        let mut closed = 0usize;
        while self.indents.last().is_some_and(|&i| i > column) {
            self.indents.pop();
            closed += 1;
        }
        if self.indents.last() != Some(&column) {
            return Reject::syntax(self.at);
        }
        self.dedents = closed.saturating_sub(1);
        Ok(Some(self.token(Kind::Dedent, self.at)))
    }

    fn skip_comment(&mut self) {
        while self.byte(self.at).is_some_and(|b| b != b'\n' && b != b'\r') {
            self.at += 1;
        }
    }

    /// Skips white space inside a line, comments, joined lines, and newlines in brackets.
    fn skip_blank(&mut self) -> Result<(), Reject> {
        loop {
            match self.byte(self.at) {
                Some(b' ' | b'\t' | b'\x0c') => self.at += 1,
                Some(b'#') => self.skip_comment(),
                Some(b'\n' | b'\r') if self.field || !self.brackets.is_empty() => self.at += 1,
                Some(b'\\') => match self.byte(self.at + 1) {
                    Some(b'\n' | b'\r') => self.at = self.after_newline(self.at + 1),
                    _ => return Reject::syntax(self.at),
                },
                _ => return Ok(()),
            }
        }
    }

    fn word(&self, start: usize) -> &'t str {
        let mut end = start;
        while self.byte(end).is_some_and(is_name_byte) {
            end += 1;
        }
        self.text.get(start..end).unwrap_or_default()
    }

    fn number(&mut self, start: usize) -> Result<Token, Reject> {
        let radix = match (self.byte(start), self.byte(start + 1)) {
            (Some(b'0'), Some(b'x' | b'X')) => 16,
            (Some(b'0'), Some(b'o' | b'O')) => 8,
            (Some(b'0'), Some(b'b' | b'B')) => 2,
            _ => 10,
        };
        let mut whole = true;
        if radix == 10 {
            self.digits();
            if self.byte(self.at) == Some(b'.') {
                whole = false;
                self.at += 1;
                self.digits();
            }
            if matches!(self.byte(self.at), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(self.byte(self.at + 1), Some(b'+' | b'-')));
                if self
                    .byte(self.at + 1 + sign)
                    .is_some_and(|b| b.is_ascii_digit())
                {
                    whole = false;
                    self.at += 1 + sign;
                    self.digits();
                }
            }
            if matches!(self.byte(self.at), Some(b'j' | b'J')) {
                whole = false;
                self.at += 1;
            }
        } else {
            self.at += 2;
            while self
                .byte(self.at)
                .is_some_and(|b| b == b'_' || char::from(b).is_digit(radix))
            {
                self.at += 1;
            }
        }
        if self.byte(self.at).is_some_and(is_name_byte)
            && !AFTER_NUMBER.contains(&self.word(self.at))
        {
            return Reject::syntax(self.at);
        }
        let skip = if radix == 10 { 0 } else { 2 };
        let digits = self.text.get(start + skip..self.at).filter(|_| whole);
        let value = digits
            .filter(|d| d.len() <= 16)
            .and_then(|d| u32::from_str_radix(&d.replace('_', ""), radix).ok());
        Ok(self.token(Kind::Number(value), start))
    }

    fn digits(&mut self) {
        while self
            .byte(self.at)
            .is_some_and(|b| b == b'_' || b.is_ascii_digit())
        {
            self.at += 1;
        }
    }

    fn operator(&mut self, start: usize) -> Result<Token, Reject> {
        let rest = self.text.get(start..self.end).unwrap_or_default();
        let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) else {
            return Reject::syntax(start);
        };
        match op {
            "(" | "[" | "{" => {
                if self.brackets.len() >= DEEPEST {
                    return Reject::limit(start);
                }
                self.brackets.push(op.as_bytes()[0]);
            }
            ")" | "]" | "}" => {
                let open = match op {
                    ")" => b'(',
                    "]" => b'[',
                    _ => b'{',
                };
                if self.brackets.pop() != Some(open) {
                    return Reject::syntax(start);
                }
            }
            _ => {}
        }
        self.at = start + op.len();
        Ok(self.token(Kind::Op(op), start))
    }

    /// A string literal, if one begins at `start`.
    fn string(&mut self, start: usize) -> Result<Option<Token>, Reject> {
        let mut quote_at = start;
        let (mut raw, mut bytes, mut format) = (false, false, false);
        loop {
            match self.byte(quote_at) {
                Some(b'\'' | b'"') => break,
                Some(b'r' | b'R') => raw = true,
                Some(b'b' | b'B') => bytes = true,
                Some(b'f' | b'F' | b't' | b'T') => format = true,
                Some(b'u' | b'U') => {}
                _ => return Ok(None),
            }
            quote_at += 1;
            if quote_at > start + 2 {
                return match self.byte(quote_at) {
                    Some(b'\'' | b'"') if quote_at == start + 3 => Reject::syntax(start),
                    _ => Ok(None),
                };
            }
        }
        let quote = Quote::at(self, quote_at);
        let body = quote_at + quote.len;
        if format {
            let (pieces, end) = self.format(body, quote, raw, self.depth)?;
            self.at = end;
            return Ok(Some(self.token(Kind::Format(pieces), start)));
        }
        let close = self.close(body, quote)?;
        self.at = close + quote.len;
        let literal = self.text.get(body..close).unwrap_or_default();
        let value = if raw {
            literal.as_bytes().to_vec()
        } else {
            text::unescape(literal, bytes)
        };
        Ok(Some(self.token(Kind::Str(value), start)))
    }

    /// Where the quote closes a string whose text begins at `at`.
    fn close(&self, mut at: usize, quote: Quote) -> Result<usize, Reject> {
        loop {
            match self.byte(at) {
                None => return Reject::syntax(at),
                Some(b'\n' | b'\r') if quote.len == 1 => return Reject::syntax(at),
                Some(b'\\') => at += 2,
                _ if quote.closes(self, at) => return Ok(at),
                _ => at += 1,
            }
        }
    }

    /// The pieces of an f-string whose text begins at `at`, and where it ends.
    fn format(
        &self,
        mut at: usize,
        quote: Quote,
        raw: bool,
        depth: u32,
    ) -> Result<(Vec<Piece>, usize), Reject> {
        if depth >= NESTED_STRINGS {
            return Reject::limit(at);
        }
        let mut pieces = Vec::new();
        let mut text_from = at;
        // How many format specifications are open: text again, inside a field.
        let mut specs = 0u32;
        loop {
            let Some(b) = self.byte(at) else {
                return Reject::syntax(at);
            };
            let doubled = specs == 0 && self.byte(at + 1) == Some(b);
            match b {
                b'\\' => at += self.escape(at, raw),
                b'\n' | b'\r' if quote.len == 1 => return Reject::syntax(at),
                b'{' | b'}' if doubled => {
                    // One of the two braces is text.
                    self.piece(&mut pieces, text_from..at + 1, raw);
                    at += 2;
                    text_from = at;
                }
                b'{' => {
                    self.piece(&mut pieces, text_from..at, raw);
                    let (field, next, spec) = self.replacement(at + 1, depth)?;
                    pieces.push(Piece::Field(field));
                    specs += u32::from(spec);
                    if specs > NESTED_STRINGS {
                        return Reject::limit(at);
                    }
                    at = next;
                    text_from = at;
                }
                b'}' if specs > 0 => {
                    specs -= 1;
                    at += 1;
                    text_from = at;
                }
                b'}' => return Reject::syntax(at),
                _ if quote.closes(self, at) => {
                    if specs > 0 {
                        return Reject::syntax(at);
                    }
                    self.piece(&mut pieces, text_from..at, raw);
                    return Ok((pieces, at + quote.len));
                }
                _ => at += 1,
            }
        }
    }

    /// How long the escape at `at` of an f-string is, as far as it keeps what follows from being
    /// read.
    fn escape(&self, at: usize, raw: bool) -> usize {
        match self.byte(at + 1) {
            Some(b'\'' | b'"' | b'\\') => 2,
            Some(b'\n' | b'\r') if !raw => 2,
            Some(b'N') if !raw && self.byte(at + 2) == Some(b'{') => {
                let name = self.text.get(at..self.end).unwrap_or_default();
                name.find('}').map_or(1, |n| n + 1)
            }
            _ => 1,
        }
    }

    fn piece(&self, pieces: &mut Vec<Piece>, range: Range<usize>, raw: bool) {
        let Some(literal) = self.text.get(range).filter(|t| !t.is_empty()) else {
            return;
        };
        pieces.push(Piece::Text(if raw {
            literal.as_bytes().to_vec()
        } else {
            text::unescape(literal, false)
        }));
    }

    /// The expression of a replacement field that begins at `start`: its range, where reading goes
    /// on, and whether a format specification follows there.
    fn replacement(&self, start: usize, depth: u32) -> Result<(Range<usize>, usize, bool), Reject> {
        let mut at = start;
        let mut open = 0usize;
        loop {
            let Some(b) = self.byte(at) else {
                return Reject::syntax(at);
            };
            match b {
                b'(' | b'[' | b'{' => open += 1,
                b'}' if open == 0 => return Ok((start..at, at + 1, false)),
                b')' | b']' | b'}' => match open.checked_sub(1) {
                    Some(n) => open = n,
                    None => return Reject::syntax(at),
                },
                b':' if open == 0 => return Ok((start..at, at + 1, true)),
                b'!' if open == 0 && self.byte(at + 1) != Some(b'=') => {
                    let end = at;
                    at += 1;
                    while self.byte(at).is_some_and(is_name_byte) {
                        at += 1;
                    }
                    return match self.byte(at) {
                        Some(b'}') => Ok((start..end, at + 1, false)),
                        Some(b':') => Ok((start..end, at + 1, true)),
                        _ => Reject::syntax(at),
                    };
                }
                b'#' => return Reject::syntax(at),
                b'\'' | b'"' => {
                    at = self.skip_string(at, depth)?;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Where the string literal ends whose quote stands at `at`, its prefix before it.
    fn skip_string(&self, at: usize, depth: u32) -> Result<usize, Reject> {
        let mut prefix = at;
        let (mut raw, mut format) = (false, false);
        while prefix > 0 && at - prefix < 2 {
            match self.byte(prefix - 1) {
                Some(b'r' | b'R') => raw = true,
                Some(b'f' | b'F' | b't' | b'T') => format = true,
                Some(b'b' | b'B' | b'u' | b'U') => {}
                _ => break,
            }
            prefix -= 1;
        }
        // `xf"…"` is no f-string but a syntax error, whichever way it is read.
        let quote = Quote::at(self, at);
        let body = at + quote.len;
        if format {
            return Ok(self.format(body, quote, raw, depth + 1)?.1);
        }
        Ok(self.close(body, quote)? + quote.len)
    }
}

/// An opening quote: which, and one or three of it.
#[derive(Debug, Clone, Copy)]
struct Quote {
    byte: u8,
    len: usize,
}

impl Quote {
    fn at(lexer: &Lexer<'_>, at: usize) -> Self {
        let byte = lexer.byte(at).unwrap_or_default();
        let triple = lexer.byte(at + 1) == Some(byte) && lexer.byte(at + 2) == Some(byte);
        Self {
            byte,
            len: if triple { 3 } else { 1 },
        }
    }

    fn closes(self, lexer: &Lexer<'_>, at: usize) -> bool {
        (0..self.len).all(|i| lexer.byte(at + i) == Some(self.byte))
    }
}
