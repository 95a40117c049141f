//! One error type for the whole product: whose fault it is, where in which file, which rule, and
//! what to do next.

use std::fmt;

/// Whose fault an error is. The kind decides the exit code and how a caller reacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes break a rule of their format.
    Malformed,
    /// The file ends before the structure does.
    Truncated,
    /// A limit that protects the reader was reached (see [`crate::limits::Limits`]).
    Limit,
    /// A real feature of the format that this version does not read or write.
    Unsupported,
    /// The request would lose or change data and the caller asked to be strict.
    Lossy,
    /// Stored and computed checksums differ.
    Integrity,
    /// The caller's arguments are wrong.
    Parameter,
    /// The operating system refused.
    Io,
}

impl ErrorKind {
    /// The kind as the JSON error document spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Limit => "limit",
            Self::Unsupported => "unsupported",
            Self::Lossy => "lossy",
            Self::Integrity => "integrity",
            Self::Parameter => "parameter",
            Self::Io => "io",
        }
    }
}

/// A byte range in the file the error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes; 0 where only the position is known.
    pub len: u64,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    rule: &'static str,
    message: String,
    span: Option<Span>,
    file: Option<String>,
    path: Vec<String>,
    help: Option<String>,
    source: Option<std::io::Error>,
}

/// An error with its kind, rule, file, byte offset, path inside the file and advice.
///
/// `rule` is a stable dotted identifier such as `safetensors.duplicate-name`; it is what tests and
/// scripts match on. `path` reads from the outside in: `archive/data.pkl`, `opcode 412`, `REDUCE`.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// The result type of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error of `kind` that breaks `rule`.
    pub fn new(kind: ErrorKind, rule: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            rule,
            message: message.into(),
            span: None,
            file: None,
            path: Vec::new(),
            help: None,
            source: None,
        }))
    }

    /// The bytes at hand break `rule`.
    pub fn malformed(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, rule, message)
    }

    /// The file ends too early.
    pub fn truncated(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, rule, message)
    }

    /// A protective limit was reached.
    pub fn limit(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, rule, message)
    }

    /// A feature that is not supported.
    pub fn unsupported(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, rule, message)
    }

    /// The caller's mistake.
    pub fn parameter(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Parameter, rule, message)
    }

    /// A checksum does not match.
    pub fn integrity(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Integrity, rule, message)
    }

    /// The request would lose data.
    pub fn lossy(rule: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Lossy, rule, message)
    }

    /// The operating system refused `what`.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let mut e = Self::new(ErrorKind::Io, "io", format!("{}: {source}", what.into()));
        e.0.source = Some(source);
        e
    }

    /// Names the byte offset, if none is named yet.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        self.span(offset, 0)
    }

    /// Names the byte range, if none is named yet.
    #[must_use]
    pub fn span(mut self, offset: u64, len: u64) -> Self {
        self.0.span.get_or_insert(Span { offset, len });
        self
    }

    /// Moves the span by `base` bytes: a parser that worked on a window reports offsets in it, and
    /// its caller translates them to the file.
    #[must_use]
    pub fn shifted(mut self, base: u64) -> Self {
        if let Some(s) = &mut self.0.span {
            s.offset = s.offset.saturating_add(base);
        }
        self
    }

    /// Names the file, if none is named yet.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.0.file.get_or_insert_with(|| file.into());
        self
    }

    /// Adds an outer step to the path inside the file.
    #[must_use]
    pub fn within(mut self, step: impl Into<String>) -> Self {
        self.0.path.insert(0, step.into());
        self
    }

    /// Tells the user what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help.get_or_insert_with(|| help.into());
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable identifier of the broken rule.
    pub fn rule(&self) -> &'static str {
        self.0.rule
    }

    /// The message without file, offset and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The byte range, where one is known.
    pub fn byte_span(&self) -> Option<Span> {
        self.0.span
    }

    /// The file, where one is known.
    pub fn file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// The steps inside the file, outermost first.
    pub fn path(&self) -> &[String] {
        &self.0.path
    }

    /// The advice, where there is one.
    pub fn advice(&self) -> Option<&str> {
        let of_system = || self.0.source.as_ref().and_then(|e| next_step(e.kind()));
        self.0.help.as_deref().or_else(of_system)
    }

    /// The underlying operating system error, where there is one.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.0.source.as_ref()
    }
}

/// What to do about an error of the operating system, where nothing more special is said.
fn next_step(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind as Io;
    Some(match kind {
        Io::NotFound => "check the path: every folder in it has to exist",
        Io::PermissionDenied => "look at the permissions of the file and of its folders",
        Io::IsADirectory => "name a file, not a folder",
        Io::NotADirectory => "check the path: a part of it is a file, not a folder",
        Io::StorageFull => "make room, or name a place on another disk",
        Io::ReadOnlyFilesystem => "name a place that can be written to",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{file}: ")?;
        }
        for step in &self.0.path {
            write!(f, "{step} → ")?;
        }
        f.write_str(&self.0.message)?;
        match self.0.span {
            Some(s) if s.len > 0 => write!(f, " (at byte {}, {} bytes", s.offset, s.len)?,
            Some(s) => write!(f, " (at byte {}", s.offset)?,
            None if self.0.rule == "io" => return Ok(()),
            None => f.write_str(" (")?,
        }
        if self.0.span.is_some() {
            f.write_str("; ")?;
        }
        write!(f, "rule {})", self.0.rule)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_file_path_offset_and_rule() {
        let e = Error::malformed("x.y", "expected 4, found 5")
            .at(7)
            .within("opcode 3")
            .within("data.pkl")
            .in_file("m.pt");
        assert_eq!(
            e.to_string(),
            "m.pt: data.pkl → opcode 3 → expected 4, found 5 (at byte 7; rule x.y)"
        );
    }

    #[test]
    fn an_error_of_the_system_says_what_to_do_unless_the_caller_knows_better() {
        let gone = || Error::io("cannot open", std::io::ErrorKind::NotFound.into());
        assert!(gone().advice().unwrap().contains("path"));
        assert_eq!(
            gone().help("look elsewhere").advice(),
            Some("look elsewhere")
        );
        assert_eq!(Error::malformed("x.y", "bad").advice(), None);
    }
}
