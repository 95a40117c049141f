//! XML and PMML: the texts and comments, and declarations that make readers open or multiply
//! things.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use weighbridge_core::{Error, Limits, Result};
use weighbridge_scan::{Text, TextOrigin};

use super::examine::{Examiner, Item};

/// Longest sum of texts kept.
const TEXT_BYTES: usize = 32 << 20;

/// Takes `text` as XML. Entities are never expanded.
///
/// # Errors
/// `Malformed` with rule `xml.syntax`.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item, text: &str) -> Result<()> {
    let mut reader = Reader::from_str(text);
    let mut kept = 0usize;
    let mut events = 0u64;
    let mut path: Vec<String> = Vec::new();
    loop {
        let at = reader.buffer_position();
        let event = reader
            .read_event()
            .map_err(|e| Error::malformed("xml.syntax", e.to_string()).at(at))?;
        events += 1;
        Limits::check(events, cx.limits.values, "xml.too-many-nodes", "XML nodes")?;
        let mut keep = |key: String, origin: TextOrigin, text: &str| {
            let bytes = text.trim_ascii().as_bytes();
            kept = kept.saturating_add(bytes.len());
            if !bytes.is_empty() && kept <= TEXT_BYTES {
                cx.subject.texts.push(Text {
                    place: item.place.text(),
                    base: Some(item.place.offset(at)),
                    key,
                    origin,
                    bytes: bytes.to_vec(),
                });
            }
        };
        match &event {
            Event::Start(e) | Event::Empty(e) => {
                let name = name_of(e);
                for a in e.attributes().with_checks(false).flatten() {
                    let key = format!("{name}@{}", a.key.0);
                    keep(key, TextOrigin::Config, &a.value);
                }
                if matches!(event, Event::Start(_)) {
                    if path.len() >= cx.limits.depth as usize {
                        return Err(Error::limit(
                            "xml.depth",
                            "elements lie in each other too deep",
                        ));
                    }
                    path.push(name);
                }
            }
            Event::End(_) => drop(path.pop()),
            Event::Text(t) => keep(last(&path), TextOrigin::Config, t.as_ref()),
            Event::CData(t) => keep(last(&path), TextOrigin::Config, t.as_ref()),
            Event::Comment(t) => keep(last(&path), TextOrigin::Comment, t.as_ref()),
            Event::PI(t) => keep(
                "processing instruction".into(),
                TextOrigin::Config,
                t.as_ref(),
            ),
            Event::DocType(t) => {
                keep("doctype".into(), TextOrigin::Config, t.as_ref());
            }
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
}

fn name_of(e: &BytesStart<'_>) -> String {
    e.name().0.to_owned()
}

fn last(path: &[String]) -> String {
    path.last().cloned().unwrap_or_default()
}
