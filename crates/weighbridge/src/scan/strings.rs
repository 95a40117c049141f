//! The strings of metadata, for the checks that look into strings.

use weighbridge_core::Result;
use weighbridge_core::model::Value;
use weighbridge_scan::{Template, Text, TextOrigin, jinja};

use super::examine::{Examiner, Item, Place};
use crate::format::FormatReader;
use crate::format::safetensors::Safetensors;

/// Most bytes of metadata that are laid into the subject for one file: the tables that trainers
/// leave there are far shorter.
const MOST_BYTES: usize = 32 << 20;

/// Lays the `__metadata__` of a safetensors file into the subject, where its header can be read at
/// all; what is wrong with it is said elsewhere.
///
/// # Errors
/// None that the file is to blame for.
pub(super) fn safetensors(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    let mut options = cx.options();
    options.lenient = true;
    let Ok(model) = Safetensors.open(std::sync::Arc::clone(&item.source), &options) else {
        return Ok(());
    };
    let texts = model.metadata.iter().filter_map(|(k, v)| match v {
        Value::Str(s) => Some((k.as_str(), s.as_str())),
        _ => None,
    });
    lay(cx, &item.place, texts);
    Ok(())
}

fn lay<'m>(
    cx: &mut Examiner<'_, '_>,
    place: &Place,
    texts: impl Iterator<Item = (&'m str, &'m str)>,
) {
    let mut left = MOST_BYTES;
    for (key, text) in texts {
        let Some(rest) = left.checked_sub(text.len()) else {
            cx.gap(place, None, "more metadata than is looked into");
            return;
        };
        left = rest;
        if jinja::looks_like_template(text) {
            cx.subject.templates.push(Template {
                place: place.text(),
                base: None,
                key: key.to_owned(),
                text: text.to_owned(),
            });
        }
        cx.subject.texts.push(Text {
            place: place.text(),
            base: None,
            key: key.to_owned(),
            origin: TextOrigin::Metadata,
            bytes: text.as_bytes().to_vec(),
        });
    }
}
