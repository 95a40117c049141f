//! SentencePiece models (`tokenizer.model`, `spiece.model`): walked to their end, and the strings
//! in them laid out for the checks.
//!
//! Field numbers: `src/sentencepiece_model.proto` of SentencePiece 0.2. Numbers from 200 on are
//! left to others by that file.

use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span, Value};
use weighbridge_core::{Error, ErrorKind, Result};
use weighbridge_scan::jinja::looks_like_template;
use weighbridge_scan::{Template, Text, TextOrigin};

use super::examine::{Examiner, Item};

/// Most fields looked at to tell what a file is.
const GLANCE: u64 = 64;

/// Longest piece that is read; SentencePiece itself stops at 512 characters.
const PIECE: u64 = 64 << 10;

/// Pieces shorter than this call nothing: the words of a vocabulary.
const SHORT: usize = 12;

/// Most bytes of strings laid into the subject for one file.
const MOST_TEXT: u64 = 32 << 20;

/// Takes a model of SentencePiece; says whether this is one.
///
/// # Errors
/// `Io` when it cannot be read.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if !is_model(item)? {
        return Ok(false);
    }
    cx.named(item, "sentencepiece");
    let mut walk = Walk {
        reader: Reader::new(item.source.as_ref(), cx.limits.values),
        cx,
        item,
        left: MOST_TEXT,
    };
    match walk.model(Span::of(item.source.as_ref())) {
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => cx.failed(&item.place, e),
        Ok(()) => {}
    }
    Ok(true)
}

/// Whether the first fields are those of a model: pieces with a text and a score, or what it was
/// trained and normalises with.
fn is_model(item: &Item) -> Result<bool> {
    let mut reader = Reader::new(item.source.as_ref(), GLANCE);
    let mut message = Message::new(Span::of(item.source.as_ref()));
    let mut pieces = 0;
    loop {
        match reader.next(&mut message) {
            Ok(Some(f)) => match (f.number, f.bytes()) {
                (1, Some(span)) => match piece(&mut reader, span) {
                    Ok(true) => pieces += 1,
                    Ok(false) => return Ok(false),
                    Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                    // The glance is over, or the file breaks here.
                    Err(_) => return Ok(pieces > 0),
                },
                (2..=5, Some(_)) => {}
                _ => return Ok(false),
            },
            Ok(None) => return Ok(pieces > 0),
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(_) => return Ok(pieces > 0),
        }
    }
}

/// Whether a message is a `SentencePiece`: a text that is not empty, a score, a type.
fn piece(reader: &mut Reader<'_>, span: Span) -> Result<bool> {
    let (mut text, mut score) = (false, false);
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.value) {
            (1, Value::Bytes(s)) => {
                let bytes = reader.head(s, PIECE)?;
                text = !bytes.is_empty() && std::str::from_utf8(&bytes).is_ok();
            }
            (2, Value::Fixed32(_)) => score = true,
            (3, Value::Varint(1..=6)) => {}
            (200.., _) => {}
            _ => return Ok(false),
        }
    }
    Ok(text && score)
}

/// One model on its way into the subject.
struct Walk<'w, 's, 'a> {
    reader: Reader<'w>,
    cx: &'w mut Examiner<'s, 'a>,
    item: &'w Item,
    /// Bytes of strings that may still be kept.
    left: u64,
}

impl Walk<'_, '_, '_> {
    fn model(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(piece)) => self.strings(piece, "pieces", SHORT)?,
                (2, Some(spec)) => self.strings(spec, "trainer_spec", 1)?,
                (3, Some(spec)) => self.strings(spec, "normalizer_spec", 1)?,
                (4, Some(data)) => self.samples(data)?,
                (5, Some(spec)) => self.strings(spec, "denormalizer_spec", 1)?,
                _ => self.other(&f, "extension")?,
            }
        }
        Ok(())
    }

    fn samples(&mut self, span: Span) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            match (f.number, f.bytes()) {
                (1, Some(sample)) => self.strings(sample, "self_test_data", SHORT)?,
                _ => self.other(&f, "self_test_data")?,
            }
        }
        Ok(())
    }

    /// Lays out the strings of a flat message that have `least` bytes or more.
    fn strings(&mut self, span: Span, key: &str, least: usize) -> Result<()> {
        let mut message = Message::new(span);
        while let Some(f) = self.reader.next(&mut message)? {
            if let Some(text) = f.bytes().filter(|s| s.len() >= least as u64) {
                self.text(text, key)?;
            }
        }
        Ok(())
    }

    /// A field that the format leaves to others: its bytes are looked at, its meaning is unknown.
    fn other(&mut self, field: &Field, key: &str) -> Result<()> {
        if field.number < 200 {
            let reason = format!("field {} is none that this version knows", field.number);
            self.cx.gap(&self.item.place, Some(field.at), reason);
        }
        match field.bytes() {
            Some(span) => self.text(span, key),
            None => Ok(()),
        }
    }

    fn text(&mut self, span: Span, key: &str) -> Result<()> {
        self.left = self.left.checked_sub(span.len()).ok_or_else(|| {
            Error::limit(
                "sentencepiece.text",
                "the model holds more text than is read",
            )
            .at(span.start)
        })?;
        let bytes = self.reader.read(span, MOST_TEXT)?;
        let place = self.item.place.text();
        let base = self.item.place.base.map(|b| b.saturating_add(span.start));
        if let Ok(text) = std::str::from_utf8(&bytes)
            && looks_like_template(text)
        {
            self.cx.subject.templates.push(Template {
                place: place.clone(),
                base,
                key: key.to_owned(),
                text: text.to_owned(),
            });
        }
        self.cx.subject.texts.push(Text {
            place,
            base,
            key: key.to_owned(),
            origin: TextOrigin::Metadata,
            bytes,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, bytes.len() as u8];
        out.extend_from_slice(bytes);
        out
    }

    fn piece(text: &str) -> Vec<u8> {
        let mut out = field(1, text.as_bytes());
        out.extend_from_slice(&[2 << 3 | 5, 0, 0, 0x80, 0xbf, 3 << 3, 1]);
        field(1, &out)
    }

    /// The texts, and how many templates, gaps and faults.
    fn taken(bytes: &[u8]) -> Option<(Vec<String>, [usize; 3])> {
        let source = Arc::new(SliceSource::new(bytes, "tokenizer.model"));
        let item = Item::new(source.clone(), Place::default(), "tokenizer.model").unwrap();
        let mut s = Subject::new("tokenizer.model", source.as_ref());
        let is = take(&mut Examiner::new(&mut s, &Limits::default()), &item).unwrap();
        let texts = s.texts.iter();
        let texts = texts.map(|t| String::from_utf8_lossy(&t.bytes).into_owned());
        let counts = [s.templates.len(), s.gaps.len(), s.faults.len()];
        is.then(|| (texts.collect(), counts))
    }

    #[test]
    fn models_are_known_by_their_content_and_read_to_their_end() {
        let trainer = field(2, &field(1, b"corpus.txt"));
        let model = [piece("\u{2581}the"), piece("eval"), trainer.clone()].concat();
        assert_eq!(taken(&model), Some((vec!["corpus.txt".into()], [0, 0, 0])));
        let swapped = [trainer, piece("<unk>")].concat();
        assert!(taken(&swapped).is_some());
        let (_, counts) = taken(&model[..model.len() - 3]).unwrap();
        assert_eq!(counts, [0, 0, 1]);
    }

    #[test]
    fn long_pieces_and_what_is_unknown_are_looked_at() {
        let long = [piece("a"), piece("{{ x.__class__ }}")].concat();
        assert_eq!(taken(&long).unwrap().1, [1, 0, 0]);
        let unknown = [vec![piece("a"); 70].concat(), field(9, b"what is this?")].concat();
        assert_eq!(
            taken(&unknown),
            Some((vec!["what is this?".into()], [0, 1, 0]))
        );
    }

    #[test]
    fn other_messages_are_none() {
        assert_eq!(taken(b""), None);
        assert_eq!(taken(&field(1, &field(1, b"no score"))), None);
        assert_eq!(taken(&field(9, &piece("a"))), None);
        assert_eq!(taken(b"plain text"), None);
    }
}
