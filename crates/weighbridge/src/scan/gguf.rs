//! GGUF: its faults, the templates its loaders render and the texts it carries.

use weighbridge_core::{Error, Result};
use weighbridge_scan::jinja::looks_like_template;
use weighbridge_scan::{Template, Text, TextOrigin};

use super::examine::{Examiner, Item};
use crate::format::gguf::raw::{Array, Header, Value};
use crate::format::gguf::types::ValueType;
use crate::format::gguf::verify;

/// The key of the template that chat programs render, and the start of the keys of named ones
/// (llama.cpp, `llama_model_chat_template`).
const TEMPLATE: &str = "tokenizer.chat_template";

/// Arrays of strings that are vocabulary: looked up in, never interpreted.
const VOCABULARY: [&str; 2] = ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"];

/// Most bytes of text taken from one file; no model has a hundredth of it.
const MOST_TEXT: usize = 32 << 20;

/// Most strings taken from arrays.
const MOST_STRINGS: usize = 100_000;

/// Whether `head` begins a GGUF file, of either byte order or of the one that no reader takes.
pub(super) fn is_gguf(head: &[u8]) -> bool {
    head.starts_with(b"GGUF") || head.starts_with(b"FUGG")
}

/// Takes the item apart.
///
/// # Errors
/// `Io` when it cannot be read.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    cx.named(item, "gguf");
    let (header, errors) = verify::header(item.source.as_ref(), cx.limits)?;
    for e in errors {
        cx.failed(&item.place, e);
    }
    let mut texts = Texts {
        item,
        header: &header,
        bytes: MOST_TEXT,
        strings: MOST_STRINGS,
    };
    for entry in &header.entries {
        let key = String::from_utf8_lossy(header.bytes(&entry.key)).into_owned();
        match &entry.value {
            Value::String(range) => texts.one(cx, &key, range.start, header.bytes(range)),
            Value::Array(array) => texts.array(cx, &key, array)?,
            _ => {}
        }
    }
    if texts.bytes == 0 || texts.strings == 0 {
        let e = Error::limit("gguf.text", "the metadata holds more text than is read");
        cx.failed(&item.place, e);
    }
    Ok(())
}

struct Texts<'i, 'h> {
    item: &'i Item,
    header: &'i Header<'h>,
    /// What may still be taken.
    bytes: usize,
    strings: usize,
}

impl Texts<'_, '_> {
    /// One string, which lies at `at` of the item.
    fn one(&mut self, cx: &mut Examiner<'_, '_>, key: &str, at: usize, bytes: &[u8]) {
        let Some(left) = self.bytes.checked_sub(bytes.len().max(1)) else {
            self.bytes = 0;
            return;
        };
        self.bytes = left;
        let place = self.item.place.text();
        let base = self.item.place.base.map(|b| b.saturating_add(at as u64));
        let named = key.strip_prefix(TEMPLATE);
        let named = named.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        // Programs differ in the keys they take templates from.
        let looks = !named && std::str::from_utf8(bytes).is_ok_and(looks_like_template);
        if named || looks {
            cx.subject.templates.push(Template {
                place: place.clone(),
                base,
                key: key.to_owned(),
                text: String::from_utf8_lossy(bytes).into_owned(),
            });
        }
        if !named && !bytes.is_empty() {
            cx.subject.texts.push(Text {
                place,
                base,
                key: key.to_owned(),
                origin: TextOrigin::Metadata,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// The strings of an array. One under a template's key is taken for templates: programs differ
    /// in which they render.
    fn array(&mut self, cx: &mut Examiner<'_, '_>, key: &str, array: &Array) -> Result<()> {
        if array.element != ValueType::String || VOCABULARY.contains(&key) {
            return Ok(());
        }
        let header = self.header;
        header.each_string(array, &mut |at, bytes| {
            let Some(left) = self.strings.checked_sub(1).filter(|_| self.bytes > 0) else {
                return false;
            };
            self.strings = left;
            self.one(cx, key, at, bytes);
            true
        })
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

    fn text(s: &str) -> Vec<u8> {
        [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
    }

    fn pair(key: &str, value: &str) -> Vec<u8> {
        [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat()
    }

    fn strings(key: &str, values: &[&str]) -> Vec<u8> {
        let mut out = [text(key), 9u32.to_le_bytes().to_vec()].concat();
        out.extend(8u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        out.extend(values.iter().flat_map(|v| text(v)));
        out
    }

    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(0u64.to_le_bytes());
        out.extend((entries.len() as u64).to_le_bytes());
        out.extend(entries.concat());
        out
    }

    /// Takes `bytes`, which lie at byte 100 of a file; gives template keys, text keys and faults.
    fn taken(bytes: &[u8]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let source = Arc::new(SliceSource::new(bytes, "m.gguf"));
        let place = Place {
            steps: vec!["m.gguf".into()],
            base: Some(100),
        };
        let item = Item::new(source.clone(), place, "m.gguf").unwrap();
        let mut s = Subject::new("a.zip", source.as_ref());
        take(&mut Examiner::new(&mut s, &Limits::default()), &item).unwrap();
        for t in &s.templates {
            let at = t.base.unwrap() as usize - 100;
            assert_eq!(&bytes[at..at + t.text.len()], t.text.as_bytes());
            assert_eq!(t.place, "m.gguf");
        }
        for t in &s.texts {
            let at = t.base.unwrap() as usize - 100;
            assert_eq!(&bytes[at..at + t.bytes.len()], t.bytes);
            assert_eq!(t.origin, TextOrigin::Metadata);
        }
        (
            s.templates.into_iter().map(|t| t.key).collect(),
            s.texts.into_iter().map(|t| t.key).collect(),
            s.faults.into_iter().map(|f| f.rule).collect(),
        )
    }

    #[test]
    fn templates_and_texts_are_told_apart_and_a_vocabulary_is_neither() {
        let bytes = file(&[
            pair("general.name", "x"),
            pair("tokenizer.chat_template", "{{ a }}"),
            pair("tokenizer.chat_template.tool_use", "{{ b }}"),
            pair("tokenizer.chat_templates", "no template"),
            strings("tokenizer.chat_template.rag", &["{{ c }}"]),
            strings("tokenizer.ggml.tokens", &["{{ d }}", "e"]),
            strings("tokenizer.ggml.merges", &["a b"]),
            strings("general.tags", &["one", "two"]),
            pair("general.empty", ""),
        ]);
        let (templates, texts, faults) = taken(&bytes);
        assert_eq!(
            templates,
            [
                "tokenizer.chat_template",
                "tokenizer.chat_template.tool_use",
                "tokenizer.chat_template.rag"
            ]
        );
        assert_eq!(
            texts,
            [
                "general.name",
                "tokenizer.chat_templates",
                "general.tags",
                "general.tags"
            ]
        );
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn what_comes_before_a_break_counts() {
        let mut bytes = file(&[pair("tokenizer.chat_template", "{{ a }}"), pair("k", "v")]);
        bytes.truncate(bytes.len() - 1);
        let (templates, _, faults) = taken(&bytes);
        assert_eq!(templates.len(), 1);
        assert_eq!(faults, ["gguf.string-length"]);
    }

    #[test]
    fn more_text_than_is_read_is_told() {
        let values = vec!["x"; MOST_STRINGS + 1];
        let (_, texts, faults) = taken(&file(&[strings("k", &values)]));
        assert_eq!(
            (texts.len(), faults),
            (MOST_STRINGS, vec!["gguf.text".into()])
        );
    }
}
