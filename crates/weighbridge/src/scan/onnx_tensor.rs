//! Tensors of ONNX models: whether what they say of themselves fits, and where their data lies.

use std::path::{Path, PathBuf};

use weighbridge_core::wire::protobuf::{Field, Message, Reader, Span};
use weighbridge_core::{Error, Result};
use weighbridge_scan::checks::references::{escape, oddity};
use weighbridge_scan::{Program, ProgramKind, Reference, native};

use super::examine::{Examiner, Item};
use super::onnx::NAME;
use crate::format::onnx::external::leaves;

/// Keys of external data that the format defines (`onnx/onnx.proto3`, `TensorProto`), and the
/// start of those that ONNX Runtime adds for weights in its own order.
const KEYS: [&str; 5] = ["location", "offset", "length", "checksum", "basepath"];
const PREPACKED: &str = "prepacked";

/// Shortest data that can be a program, and how much of it tells whether it is one.
const PROGRAM: u64 = 64;
const HEAD: u64 = 1 << 10;

/// Most references that are listed.
const MOST_REFERENCES: usize = 100_000;

/// Most dimensions that are looked at.
const MOST_DIMS: usize = 1 << 16;

/// What a tensor says of itself.
#[derive(Default)]
struct Tensor {
    name: String,
    dims: Vec<u64>,
    kind: u64,
    raw: Option<Span>,
    /// Least and most elements that the typed fields can hold, where there are any.
    typed: Option<(u64, u64)>,
    external: Vec<(String, String, u64)>,
    outside: bool,
}

/// Looks at the tensor in `span`.
///
/// # Errors
/// What reading gives. What is wrong with the tensor is recorded.
pub(super) fn take(
    reader: &mut Reader<'_>,
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    span: Span,
    place: &str,
) -> Result<()> {
    let tensor = read(reader, span)?;
    let step = format!("tensor {}", tensor.name);
    if let Some(raw) = tensor.raw {
        program(reader, cx, item, raw, &step)?;
    }
    let elements = match elements(&tensor.dims) {
        Ok(n) => n,
        Err(e) => {
            cx.failed(&item.place, e.at(span.start).within(step));
            return Ok(());
        }
    };
    if tensor.outside || !tensor.external.is_empty() {
        if let Err(e) = external(cx, item, &tensor, elements, span, place) {
            cx.failed(&item.place, e.at(span.start).within(step));
        }
    } else if let Err(e) = fits(&tensor, elements) {
        cx.failed(&item.place, e.at(span.start).within(step));
    }
    Ok(())
}

/// A tensor whose data begins as a program does: weights do not, and what lies there can be
/// carried out and run.
fn program(
    reader: &mut Reader<'_>,
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    raw: Span,
    step: &str,
) -> Result<()> {
    use native::NativeKind::{Dex, Elf, MachO, Pe, WebAssembly};
    if raw.len() < PROGRAM {
        return Ok(());
    }
    let kind = match native::detect(&reader.head(raw, HEAD)?) {
        Some(kind @ (Elf | Pe | MachO | Dex | WebAssembly)) => kind,
        _ => return Ok(()),
    };
    let place = item.place.inside(step, Some(raw.start));
    cx.subject.programs.push(Program {
        place: place.text(),
        base: place.base,
        kind: ProgramKind::Native(kind.as_str()),
        text: None,
        beside_model: true,
    });
    Ok(())
}

fn read(reader: &mut Reader<'_>, span: Span) -> Result<Tensor> {
    let mut t = Tensor::default();
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.bytes()) {
            (1, _) => reader.varints(&f, &mut |n| {
                if t.dims.len() >= MOST_DIMS {
                    let e = Error::limit("onnx.dimensions", "a tensor has too many dimensions");
                    return Err(e.at(f.at));
                }
                t.dims.push(n);
                Ok(())
            })?,
            (2, None) => t.kind = f.varint().unwrap_or_default(),
            (4, _) => t.add(&f, 4, 4),
            (5 | 7 | 11, _) => t.add(&f, 1, 10),
            (6, _) => t.add(&f, u64::MAX, u64::MAX),
            (8, Some(s)) => t.name = reader.text(s, NAME)?,
            (9, Some(s)) => t.raw = Some(s),
            (10, _) => t.add(&f, 8, 8),
            (13, Some(s)) => t.external.push(entry(reader, s)?),
            (14, None) => t.outside = f.varint() == Some(1),
            _ => {}
        }
    }
    Ok(t)
}

impl Tensor {
    /// Counts the elements of a typed field, each of `least` to `most` bytes where packed.
    fn add(&mut self, field: &Field, least: u64, most: u64) {
        let (few, many) = match field.bytes() {
            Some(s) if least != u64::MAX => (s.len().div_ceil(most), s.len() / least),
            _ => (1, 1),
        };
        let (a, b) = self.typed.unwrap_or_default();
        self.typed = Some((a.saturating_add(few), b.saturating_add(many)));
    }

    /// Bits of one element, for types of fixed width (`TensorProto.DataType`).
    fn bits(&self) -> Option<u64> {
        Some(match self.kind {
            2 | 3 | 9 | 17..=20 | 24 => 8,
            4 | 5 | 10 | 16 => 16,
            1 | 6 | 12 => 32,
            7 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            25 | 26 => 2,
            _ => return None,
        })
    }

    /// How many values of a typed field stand for one element: complex numbers take two, narrow
    /// integers lie several in one.
    fn per_element(&self) -> Option<u64> {
        match self.kind {
            14 | 15 => Some(2),
            21..=23 | 25 | 26 => None,
            _ => Some(1),
        }
    }

    fn bytes(&self, elements: u64) -> Option<u64> {
        Some(elements.checked_mul(self.bits()?)?.div_ceil(8))
    }
}

fn entry(reader: &mut Reader<'_>, span: Span) -> Result<(String, String, u64)> {
    let (mut key, mut value) = (String::new(), String::new());
    let mut message = Message::new(span);
    while let Some(f) = reader.next(&mut message)? {
        match (f.number, f.bytes()) {
            (1, Some(s)) => key = reader.text(s, NAME)?,
            (2, Some(s)) => value = reader.text(s, NAME * 4)?,
            _ => {}
        }
    }
    Ok((key, value, span.start))
}

fn elements(dims: &[u64]) -> Result<u64> {
    if let Some(d) = dims.iter().find(|&&d| i64::try_from(d).is_err()) {
        let message = format!("a dimension is negative ({})", *d as i64);
        return Err(Error::malformed("onnx.dimensions", message));
    }
    if dims.contains(&0) {
        return Ok(0);
    }
    dims.iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= i64::MAX as u64)
        .ok_or_else(|| Error::malformed("onnx.dimensions", "the number of elements overflows"))
}

/// Whether the data stored in the model is as much as the dimensions say.
fn fits(t: &Tensor, elements: u64) -> Result<()> {
    let wrong = |what: String| Err(Error::malformed("onnx.tensor-size", what));
    if let Some(raw) = t.raw {
        return match t.bytes(elements) {
            Some(n) if n != raw.len() => wrong(format!(
                "the dimensions say {n} bytes, the tensor has {}",
                raw.len()
            )),
            _ => Ok(()),
        };
    }
    if let (Some((few, many)), Some(per)) = (t.typed, t.per_element()) {
        let n = elements.saturating_mul(per);
        if n < few || n > many {
            return wrong(format!(
                "the dimensions say {n} values, the tensor has {few} to {many}"
            ));
        }
    }
    Ok(())
}

/// Lists a path that a loader opens.
pub(super) fn reference(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    place: &str,
    kind: &'static str,
    path: &str,
    at: u64,
) {
    let mut steps = item.place.steps.clone();
    steps.extend((!place.is_empty()).then(|| place.to_owned()));
    let r = Reference {
        place: steps.join(" → "),
        offset: item.place.base.map(|b| b.saturating_add(at)),
        kind,
        path: path.to_owned(),
    };
    let known = |o: &Reference| (o.kind, &o.path) == (r.kind, &r.path);
    if cx.subject.references.last().is_some_and(known) {
        return;
    }
    if cx.subject.references.len() < MOST_REFERENCES {
        cx.subject.references.push(r);
    } else {
        let e = Error::limit("onnx.references", "the model names too many files");
        cx.failed(&item.place, e);
    }
}

/// Data in another file. A loader takes the last of several entries with one key; all are judged.
fn external(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    t: &Tensor,
    elements: u64,
    span: Span,
    place: &str,
) -> Result<()> {
    let (mut offset, mut length, mut location) = (0, None, None);
    for (key, value, at) in &t.external {
        match key.as_str() {
            "location" => {
                reference(cx, item, place, "external data", value, *at);
                location = Some(value.as_str());
            }
            "basepath" if !value.is_empty() => {
                reference(cx, item, place, "external data", value, *at);
            }
            "offset" => offset = number(key, value)?,
            "length" => length = Some(number(key, value)?),
            key if KEYS.contains(&key) || key.starts_with(PREPACKED) => {}
            key => reference(cx, item, place, "external data key", key, *at),
        }
    }
    let Some(location) = location else {
        let message = "external data does not say where it lies";
        return Err(Error::malformed("onnx.external-location", message));
    };
    let needed = t.bytes(elements);
    if let (Some(said), Some(needed)) = (length, needed)
        && said != needed
    {
        let message = format!("the dimensions say {needed} bytes, external data {said}");
        return Err(Error::malformed("onnx.external-length", message));
    }
    let end = offset.checked_add(length.or(needed).unwrap_or(0));
    let end = end.filter(|&e| e <= i64::MAX as u64).ok_or_else(|| {
        Error::malformed("onnx.external-range", "the end of external data overflows")
    })?;
    if item.is_file() && escape(location).is_none() && oddity(location).is_none() {
        beside(cx, item, location, end, span, place)?;
    }
    Ok(())
}

/// A number in decimal digits.
fn number(key: &str, value: &str) -> Result<u64> {
    let text = value.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    digits.parse().map_err(|_| {
        let message = format!("the {key} of external data is no number in range: {value:?}");
        Error::malformed("onnx.external-number", message)
    })
}

/// The data file beside the model: whether it is there, reaches as far as it has to, and is no
/// link out of the folder.
fn beside(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    location: &str,
    end: u64,
    span: Span,
    place: &str,
) -> Result<()> {
    cx.subject.of_folder = true;
    let model = PathBuf::from(&cx.subject.path);
    let folder = match model.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    };
    let data = folder.join(location.replace('\\', "/"));
    let Ok(meta) = std::fs::metadata(&data) else {
        let reason = format!("the external data {location} is not beside the model");
        cx.gap_once(&item.place, Some(span.start), reason);
        // A link that leads nowhere here may lead somewhere elsewhere.
        if std::fs::symlink_metadata(&data).is_err() {
            return Ok(());
        }
        return linked(cx, item, &model, &folder, &data, span, place);
    };
    linked(cx, item, &model, &folder, &data, span, place)?;
    if meta.is_file() && meta.len() < end {
        let message = format!(
            "external data reaches to byte {end}, {location} has {}",
            meta.len()
        );
        return Err(Error::malformed("onnx.external-range", message));
    }
    Ok(())
}

fn linked(
    cx: &mut Examiner<'_, '_>,
    item: &Item,
    model: &Path,
    folder: &Path,
    data: &Path,
    span: Span,
    place: &str,
) -> Result<()> {
    if let Some(target) = leaves(model, folder, data) {
        let target = target.display().to_string();
        reference(cx, item, place, "external data link", &target, span.start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_elements_is_checked() {
        assert_eq!(elements(&[]).unwrap(), 1);
        assert_eq!(elements(&[2, 3]).unwrap(), 6);
        assert_eq!(elements(&[0, u64::MAX >> 1, 9]).unwrap(), 0);
        assert!(elements(&[u64::MAX]).is_err());
        assert!(elements(&[1 << 32, 1 << 32]).is_err());
        assert!(elements(&[1 << 31, 1 << 32]).is_err());
    }

    #[test]
    fn numbers_of_external_data_are_in_range() {
        assert_eq!(number("offset", "4096").unwrap(), 4096);
        for bad in ["-1", "", "1e9", "0x10", "99999999999999999999"] {
            assert!(number("offset", bad).is_err(), "{bad}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_folder_are_told_from_those_of_a_cache() {
        use std::fs::{create_dir_all, write};
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        create_dir_all(at("m/inner")).unwrap();
        create_dir_all(at("c/snapshots/rev")).unwrap();
        create_dir_all(at("c/blobs")).unwrap();
        for f in [
            "secret",
            "m/model.onnx",
            "m/inner/w",
            "c/blobs/1",
            "c/blobs/2",
        ] {
            write(at(f), b"x").unwrap();
        }
        symlink(at("secret"), at("m/out")).unwrap();
        symlink("inner/w", at("m/in")).unwrap();
        symlink(dir.path(), at("m/up")).unwrap();
        symlink("../../blobs/1", at("c/snapshots/rev/model.onnx")).unwrap();
        symlink("../../blobs/2", at("c/snapshots/rev/data")).unwrap();
        symlink(at("secret"), at("c/snapshots/rev/evil")).unwrap();
        symlink("/nowhere/at/all", at("m/gone")).unwrap();
        let judge = |folder: &str, data: &str| {
            let folder = at(folder);
            leaves(&folder.join("model.onnx"), &folder, &folder.join(data)).is_some()
        };
        assert!(judge("m", "out"));
        assert!(judge("m", "up/secret"));
        assert!(judge("m", "gone"));
        assert!(!judge("m", "in"));
        assert!(!judge("m", "inner/w"));
        assert!(!judge("c/snapshots/rev", "data"));
        assert!(judge("c/snapshots/rev", "evil"));
    }
}
