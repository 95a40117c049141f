//! What goes to standard output and standard error.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};
use serde_json::{Value as Json, json};
use weighbridge::Error;

use crate::args::Common;
use crate::style::{Style, Tone};
use crate::text::{safe, unsafe_for_terminals};

/// The version of every document's shape. Fields may be added under one version, never renamed.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The streams of one run.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whether standard output carries one JSON document instead of text.
    pub(crate) json: bool,
    /// Whether messages and progress are left out.
    pub(crate) quiet: bool,
    pub(crate) style: Style,
    error_style: Style,
    out: BufWriter<io::Stdout>,
    /// The reader of standard output has gone; what it did not want is not written.
    closed: bool,
}

impl Output {
    pub(crate) fn new(common: &Common) -> Self {
        Self {
            json: common.json,
            quiet: common.quiet,
            style: Style::stdout(common.color),
            error_style: Style::stderr(common.color),
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            closed: false,
        }
    }

    /// Prints a line of text. Strings of files must have gone through [`safe`].
    ///
    /// # Errors
    /// `Io`, but not when the reader has gone: that is how `head` ends.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> weighbridge::Result<()> {
        let done = writeln!(self.out, "{text}");
        self.settle(done)
    }

    /// Prints `document` as JSON.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn document(&mut self, document: &impl Serialize) -> weighbridge::Result<()> {
        let mut ser = Serializer::with_formatter(&mut self.out, SafeFormatter::default());
        let done = document.serialize(&mut ser).map_err(io::Error::from);
        let done = done.and_then(|()| self.out.write_all(b"\n"));
        self.settle(done)?;
        self.flush()
    }

    /// Prints `bytes` as they are.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> weighbridge::Result<()> {
        let done = self.out.write_all(bytes);
        self.settle(done)?;
        self.flush()
    }

    /// `document` as [`Output::document`] prints it.
    ///
    /// # Errors
    /// None that occur: documents have no maps with other keys than strings.
    pub(crate) fn rendered(document: &impl Serialize) -> weighbridge::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut ser = Serializer::with_formatter(&mut out, SafeFormatter::default());
        let done = document.serialize(&mut ser).map_err(io::Error::from);
        done.map_err(|e| Error::io("the document", e))?;
        out.push(b'\n');
        Ok(out)
    }

    pub(crate) fn flush(&mut self) -> weighbridge::Result<()> {
        let done = self.out.flush();
        self.settle(done)
    }

    fn settle(&mut self, done: io::Result<()>) -> weighbridge::Result<()> {
        match done {
            Ok(()) => Ok(()),
            Err(_) if self.closed => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => Err(Error::io("standard output", e)),
        }
    }

    /// Says something on standard error, unless asked to be quiet.
    pub(crate) fn note(&self, tone: Tone, label: &str, text: &str) {
        if !self.quiet {
            let _ = writeln!(
                io::stderr(),
                "{} {}",
                self.error_style.paint(tone, format_args!("{label}:")),
                safe(text)
            );
        }
    }

    /// Reports a failure: the error document with `--json`, else text on standard error.
    pub(crate) fn failure(&mut self, e: &Error) {
        if self.json {
            let document = error_document(e, None);
            // Nothing is left to tell it to when even this fails.
            let _ = self.document(&document);
        } else {
            self.explain(e);
        }
    }

    /// Reports a failure as text on standard error.
    pub(crate) fn explain(&self, e: &Error) {
        let mut err = io::stderr();
        let label = self.error_style.paint(Tone::Bad, "error:");
        let _ = writeln!(err, "{label} {}", safe(&e.to_string()));
        if let Some(help) = e.advice() {
            let label = self.error_style.paint(Tone::Head, "help:");
            let _ = writeln!(err, "{label} {}", safe(help));
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // The buffer would complain of a closed pipe on its own.
        let _ = self.out.flush();
    }
}

/// `document` with its version in front.
pub(crate) fn versioned(document: Json) -> Json {
    let mut out = serde_json::Map::new();
    out.insert("schema_version".into(), SCHEMA_VERSION.into());
    if let Json::Object(fields) = document {
        out.extend(fields);
    }
    out.into()
}

/// The document of a failure. `path` names the argument it concerns where the error names no
/// file.
pub(crate) fn error_document(e: &Error, path: Option<&Path>) -> Json {
    let mut place: Vec<String> = Vec::new();
    match (e.file(), path) {
        (Some(f), _) => place.push(f.to_owned()),
        (None, Some(p)) => place.push(p.display().to_string()),
        (None, None) => {}
    }
    place.extend(e.path().iter().cloned());
    let place = if place.is_empty() {
        None
    } else {
        Some(place.join(" → "))
    };
    json!({
        "schema_version": SCHEMA_VERSION,
        "error": {
            "kind": e.kind().as_str(),
            "rule": e.rule(),
            "path": place,
            "offset": e.byte_span().map(|s| s.offset),
            "message": e.message(),
            "help": e.advice(),
        },
    })
}

/// Pretty JSON that escapes what a terminal would obey: serde_json escapes C0 controls only, and
/// people look at documents on terminals too.
struct SafeFormatter(PrettyFormatter<'static>);

impl Default for SafeFormatter {
    fn default() -> Self {
        Self(PrettyFormatter::with_indent(b"  "))
    }
}

impl Formatter for SafeFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| unsafe_for_terminals(*c)) {
            let (before, after) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }
    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }
    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes_what_a_terminal_obeys_and_stays_the_same_text() {
        let value = json!({"a\u{202e}b": ["\u{9b}2J", "\x1b[m", "語", "\u{e0001}x"]});
        let mut out = Vec::new();
        let mut ser = Serializer::with_formatter(&mut out, SafeFormatter::default());
        value.serialize(&mut ser).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            !text.chars().any(|c| unsafe_for_terminals(c) && c != '\n'),
            "{text}"
        );
        assert!(text.contains("\\u009b2J") && text.contains("\\u202e") && text.contains("語"));
        assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), value);
    }

    #[test]
    fn the_error_document_has_every_field_always() {
        let e = Error::malformed("a.b", "expected 1, found 2")
            .at(9)
            .within("data.pkl")
            .in_file("m.pt");
        let d = error_document(&e, None);
        assert_eq!(d["schema_version"], 1);
        assert_eq!(
            d["error"],
            json!({"kind": "malformed", "rule": "a.b", "path": "m.pt → data.pkl", "offset": 9,
                   "message": "expected 1, found 2", "help": null})
        );
        let e = Error::parameter("x.y", "no").help("do");
        let d = error_document(&e, Some(Path::new("p")));
        assert_eq!(d["error"]["path"], "p");
        assert_eq!(d["error"]["offset"], Json::Null);
        assert_eq!(d["error"]["help"], "do");
    }
}
