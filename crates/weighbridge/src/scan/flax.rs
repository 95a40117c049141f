//! Flax's files: one item of MessagePack accounts for every byte. Nothing in it is executed by its
//! loader; its texts and bytes are looked into like those of any metadata.

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::model::Value;
use weighbridge_scan::{Template, Text, TextOrigin, jinja};

use super::examine::{Examiner, Item};
use crate::format::FormatReader;
use crate::format::flax::{Flax, is_flax};
use crate::structure::each_child;

/// Most bytes of texts that are looked into for one file.
const MOST_BYTES: usize = 32 << 20;

/// Takes the item apart; says whether it is one of Flax's.
///
/// # Errors
/// `Io` when it cannot be read.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if !is_flax(&item.head, item.source.as_ref()) {
        return Ok(false);
    }
    cx.named(item, "flax");
    let mut options = cx.options();
    options.lenient = true;
    match Flax.open(Arc::clone(&item.source), &options) {
        Ok(model) => {
            let mut left = Some(MOST_BYTES);
            if let Some(structure) = &model.structure {
                lay(cx, item, structure, "", &mut left);
            }
            if left.is_none() {
                cx.gap(&item.place, None, "more texts than are looked into");
            }
        }
        Err(e) => cx.failed(&item.place, e),
    }
    // What two readers may see differently is said once.
    options.lenient = false;
    if let Err(e) = Flax.open(Arc::clone(&item.source), &options)
        && e.rule() == "flax.duplicate-key"
    {
        cx.failed(&item.place, e);
    }
    Ok(true)
}

/// Lays texts and bytes into the subject, each under its path. The reader has bounded how deep they
/// lie.
fn lay(cx: &mut Examiner<'_, '_>, item: &Item, v: &Value, path: &str, left: &mut Option<usize>) {
    let bytes = match v {
        Value::Str(s) => s.as_bytes(),
        Value::Bytes(b) => b.as_slice(),
        _ => {
            each_child(v, &mut |step, child| {
                let path = match path {
                    "" => step,
                    _ => format!("{path}.{step}"),
                };
                lay(cx, item, child, &path, left);
            });
            return;
        }
    };
    *left = left.and_then(|n| n.checked_sub(bytes.len().saturating_add(path.len()).max(1)));
    if left.is_none() {
        return;
    }
    let place = item.place.text();
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if jinja::looks_like_template(text) {
        cx.subject.templates.push(Template {
            place: place.clone(),
            base: None,
            key: path.to_owned(),
            text: text.to_owned(),
        });
    }
    cx.subject.texts.push(Text {
        place,
        base: None,
        key: path.to_owned(),
        origin: TextOrigin::Metadata,
        bytes: bytes.to_vec(),
    });
}
