//! TensorFlow Lite: operators that reach TensorFlow itself, the strings of the model, and bytes that
//! none of its tables refers to.

use weighbridge_core::{ErrorKind, Result};
use weighbridge_scan::{GraphKind, Operator, Text, TextOrigin};

use super::examine::{Examiner, Item};
use crate::format::tensorflow::tflite::{IDENTIFIER, read};

/// How the names of operators begin that are handed to TensorFlow (its Flex delegate).
const FLEX: &str = "Flex";

/// Longest run of bytes that nothing refers to which is passed over: options of operators, which
/// are not followed, and what aligns buffers.
const SLACK: u64 = 4 << 10;

/// Takes a model of TensorFlow Lite; says whether this is one.
///
/// # Errors
/// `Io` when it cannot be read; what is wrong with it is recorded.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if item.head.get(4..8) != Some(IDENTIFIER) {
        return Ok(false);
    }
    cx.named(item, "tflite");
    let model = match read(&item.source, cx.limits) {
        Ok(model) => model,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => {
            cx.failed(&item.place, e);
            return Ok(true);
        }
    };
    for e in model.faults {
        cx.failed(&item.place, e);
    }
    for w in &model.model.warnings {
        if w.rule == "tflite.external" {
            cx.gap(&item.place, None, w.message.clone());
        }
    }
    for (at, name) in model.custom {
        if let Some(operator) = name.strip_prefix(FLEX).filter(|n| !n.is_empty()) {
            cx.subject.operators.push(Operator {
                graph: GraphKind::TensorFlow,
                place: item.place.text(),
                offset: item.place.base.map(|b| b.saturating_add(at)),
                domain: String::new(),
                name: operator.to_owned(),
                node: name.clone(),
                constants: Vec::new(),
            });
        }
        lay(cx, item, "custom_code", at, name);
    }
    for (key, at, text) in model.texts {
        lay(cx, item, key, at, text);
    }
    // An archive behind the tables holds files for the model; it is looked into by itself.
    let archive = super::zip::ends_in_archive(&item.source)?;
    for run in model.unseen {
        let end = run.end.min(archive.unwrap_or(u64::MAX));
        let len = end.saturating_sub(run.start);
        if len > SLACK {
            let reason = format!("{len} bytes that no table of the model refers to");
            cx.gap(&item.place, Some(run.start), reason);
        }
    }
    Ok(true)
}

fn lay(cx: &mut Examiner<'_, '_>, item: &Item, key: &str, at: u64, text: String) {
    cx.subject.texts.push(Text {
        place: item.place.text(),
        base: item.place.base.map(|b| b.saturating_add(at)),
        key: key.to_owned(),
        origin: TextOrigin::Metadata,
        bytes: text.into_bytes(),
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    /// A model with one custom operator. The tables' fields lie before them, as builders write.
    fn model(operator: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let n = |out: &mut Vec<u8>, v: u32| out.extend(v.to_le_bytes());
        n(&mut out, 16); // the root table
        out.extend(b"TFL3");
        out.extend([8u8, 0, 8, 0, 0, 0, 4, 0]); // 8: fields of the model: only the second
        n(&mut out, 8); // 16: its fields lie 8 before
        n(&mut out, 4); // 20: the list
        n(&mut out, 1); // 24: one entry
        n(&mut out, 12); // 28: the table at 40
        out.extend([8u8, 0, 8, 0, 0, 0, 4, 0]); // 32: fields of the operator's code
        n(&mut out, 8); // 40
        n(&mut out, 4); // 44: the string
        n(&mut out, operator.len() as u32); // 48
        out.extend(operator.as_bytes());
        out
    }

    /// The operators, the texts, and how many gaps; nothing where a fault was found.
    fn taken(bytes: &[u8]) -> Option<(Vec<String>, Vec<String>, usize)> {
        let source = Arc::new(SliceSource::new(bytes, "m.tflite"));
        let item = Item::new(source.clone(), Place::default(), "m.tflite").unwrap();
        let mut s = Subject::new("m.tflite", source.as_ref());
        take(&mut Examiner::new(&mut s, &Limits::default()), &item).unwrap();
        if !s.faults.is_empty() {
            return None;
        }
        let texts = s.texts.iter();
        let texts = texts.map(|t| String::from_utf8_lossy(&t.bytes).into_owned());
        let operators = s.operators.iter().map(|o| o.name.clone());
        Some((operators.collect(), texts.collect(), s.gaps.len()))
    }

    #[test]
    fn operators_of_tensorflow_are_listed_as_such() {
        let (operators, texts, gaps) = taken(&model("FlexReadFile")).unwrap();
        assert_eq!(operators, ["ReadFile"]);
        assert_eq!((texts, gaps), (vec!["FlexReadFile".to_owned()], 0));
        let (operators, _, _) = taken(&model("TFLite_Detection_PostProcess")).unwrap();
        assert!(operators.is_empty());
    }

    #[test]
    fn bytes_that_nothing_refers_to_are_a_gap() {
        let mut bytes = model("Other");
        bytes.extend([7; 5000]);
        assert_eq!(taken(&bytes).unwrap().2, 1);
        bytes.truncate(2000);
        assert_eq!(taken(&bytes).unwrap().2, 0);
    }

    #[test]
    fn offsets_that_lead_out_are_faults() {
        let whole = model("FlexReadFile");
        for cut in [8, 20, 30, 45, whole.len() - 1] {
            assert!(taken(&whole[..cut]).is_none(), "{cut}");
        }
        assert_eq!(taken(b"other").unwrap().2, 0);
    }
}
