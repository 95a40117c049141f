//! TensorFlow Lite, as far as its tables are looked into: operators that reach TensorFlow itself,
//! and the strings of the model. Weights and graphs are not read.
//!
//! Layout: the FlatBuffers binary format; fields of `tensorflow/lite/schema/schema.fbs` 3c.

use weighbridge_core::{Error, Result};
use weighbridge_scan::{GraphKind, Operator, Text, TextOrigin};

use super::examine::{Examiner, Item};

/// Fields of `Model`, `OperatorCode` and `Metadata`.
const OPERATOR_CODES: u64 = 1;
const DESCRIPTION: u64 = 3;
const METADATA: u64 = 6;
const CUSTOM_CODE: u64 = 1;
const NAME: u64 = 0;

/// How the names of operators begin that are handed to TensorFlow (its Flex delegate).
const FLEX: &str = "Flex";

/// Most entries of a list that are looked at, and longest string.
const MOST: u64 = 10_000;
const TEXT: u64 = 1 << 20;

/// Takes a model of TensorFlow Lite; says whether this is one.
///
/// # Errors
/// `Io` when it cannot be read, `Malformed` when an offset leads out of it.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<bool> {
    if item.head.get(4..8) != Some(b"TFL3") {
        return Ok(false);
    }
    cx.named(item, "tflite");
    let reason = "the graph of a TensorFlow Lite model is not read by this version";
    cx.gap(&item.place, None, reason);
    let buffer = Buffer { item };
    let model = buffer.follow(0)?;
    for code in buffer.tables(model, OPERATOR_CODES)? {
        let Some((at, name)) = buffer.text(code, CUSTOM_CODE)? else {
            continue;
        };
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
    for entry in buffer.tables(model, METADATA)? {
        if let Some((at, name)) = buffer.text(entry, NAME)? {
            lay(cx, item, "metadata", at, name);
        }
    }
    if let Some((at, text)) = buffer.text(model, DESCRIPTION)? {
        lay(cx, item, "description", at, text);
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

/// A FlatBuffer. Every offset is checked by reading through it.
struct Buffer<'i> {
    item: &'i Item,
}

impl Buffer<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut out = [0u8; N];
        if at.saturating_add(N as u64) > self.item.source.len() {
            return Err(
                Error::malformed("tflite.offset", "an offset leads out of the file").at(at),
            );
        }
        self.item.source.read_at(at, &mut out)?;
        Ok(out)
    }

    fn number(&self, at: u64) -> Result<u64> {
        Ok(u64::from(u32::from_le_bytes(self.bytes(at)?)))
    }

    /// What the offset at `at` leads to.
    fn follow(&self, at: u64) -> Result<u64> {
        Ok(at.saturating_add(self.number(at)?))
    }

    /// Where field `n` of the table at `table` lies, when it is there.
    fn field(&self, table: u64, n: u64) -> Result<Option<u64>> {
        let back = i64::from(i32::from_le_bytes(self.bytes(table)?));
        let fields = i64::try_from(table)
            .ok()
            .and_then(|t| u64::try_from(t.checked_sub(back)?).ok())
            .ok_or_else(|| {
                Error::malformed("tflite.offset", "a table's fields lie before the file").at(table)
            })?;
        let size = u64::from(u16::from_le_bytes(self.bytes(fields)?));
        let entry = 4 + 2 * n;
        if entry + 2 > size {
            return Ok(None);
        }
        let at = u64::from(u16::from_le_bytes(
            self.bytes(fields.saturating_add(entry))?,
        ));
        Ok((at > 0).then(|| table.saturating_add(at)))
    }

    /// The tables of the list in field `n`.
    fn tables(&self, table: u64, n: u64) -> Result<Vec<u64>> {
        let Some(at) = self.field(table, n)? else {
            return Ok(Vec::new());
        };
        let list = self.follow(at)?;
        let count = self.number(list)?;
        if count > MOST {
            return Err(Error::limit("tflite.entries", "a list has too many entries").at(list));
        }
        (0..count)
            .map(|i| self.follow(list.saturating_add(4 + 4 * i)))
            .collect()
    }

    /// The string in field `n`, and where it lies.
    fn text(&self, table: u64, n: u64) -> Result<Option<(u64, String)>> {
        let Some(at) = self.field(table, n)? else {
            return Ok(None);
        };
        let text = self.follow(at)?;
        let len = self.number(text)?;
        let start = text.saturating_add(4);
        let end = start.saturating_add(len);
        if end > self.item.source.len() || len > TEXT {
            return Err(
                Error::malformed("tflite.string", "a string leads out of the file").at(text),
            );
        }
        let bytes = self.item.source.read_vec(start..end)?;
        Ok(Some((start, String::from_utf8_lossy(&bytes).into_owned())))
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

    /// The operators, the texts, and how many gaps.
    fn taken(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>, usize)> {
        let source = Arc::new(SliceSource::new(bytes, "m.tflite"));
        let item = Item::new(source.clone(), Place::default(), "m.tflite").unwrap();
        let mut s = Subject::new("m.tflite", source.as_ref());
        take(&mut Examiner::new(&mut s, &Limits::default()), &item)?;
        let texts = s.texts.iter();
        let texts = texts.map(|t| String::from_utf8_lossy(&t.bytes).into_owned());
        let operators = s.operators.iter().map(|o| o.name.clone());
        Ok((operators.collect(), texts.collect(), s.gaps.len()))
    }

    #[test]
    fn operators_of_tensorflow_are_listed_as_such() {
        let (operators, texts, gaps) = taken(&model("FlexReadFile")).unwrap();
        assert_eq!(operators, ["ReadFile"]);
        assert_eq!((texts, gaps), (vec!["FlexReadFile".to_owned()], 1));
        let (operators, _, _) = taken(&model("TFLite_Detection_PostProcess")).unwrap();
        assert!(operators.is_empty());
    }

    #[test]
    fn offsets_that_lead_out_are_faults() {
        let whole = model("FlexReadFile");
        for cut in [8, 20, 30, 45, whole.len() - 1] {
            assert!(taken(&whole[..cut]).is_err(), "{cut}");
        }
        assert_eq!(taken(b"other").unwrap().2, 0);
    }
}
