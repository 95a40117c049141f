//! Every broken rule of a file: those of the header, names and keys that repeat, and the layout of
//! the data region, which tensors and padding cover without holes or overlaps, in their order
//! (`gguf_init_from_reader` of `ggml/src/gguf.cpp`).

use std::collections::HashMap;
use std::ops::Range;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};

use super::raw::{Header, TensorInfo, align_up, shown};
use super::vocabulary;
use crate::check::Violation;

/// How many violations of the layout are listed.
const MOST: usize = 1000;

/// Every broken rule of `source`. Payloads are not read, padding is.
///
/// # Errors
/// Only `Io`: what is wrong with the file is the answer.
pub fn verify(source: &dyn ByteSource, limits: &Limits) -> Result<Vec<Violation>> {
    let (_, errors) = header(source, limits).map_err(|e| e.in_file(source.name()))?;
    Ok(errors
        .into_iter()
        .map(|e| Violation::from(&e.in_file(source.name())))
        .collect())
}

/// The header of `source`, as far as it can be read, and every broken rule of the file.
///
/// # Errors
/// Only `Io`.
pub fn header<'a>(source: &'a dyn ByteSource, limits: &Limits) -> Result<(Header<'a>, Vec<Error>)> {
    let mut errors = Vec::new();
    let header = Header::read(source, limits, &mut |e| errors.push(e))?;
    repeats(&header, &mut errors);
    if header.complete {
        let mut layout = Layout {
            source,
            header: &header,
            errors: &mut errors,
        };
        layout.check()?;
        vocabulary::check(&header, &mut errors)?;
    }
    Ok((header, errors))
}

/// Keys and names that stand twice: readers differ in which of them they take.
fn repeats(header: &Header<'_>, errors: &mut Vec<Error>) {
    let keys = header.entries.iter().map(|e| &e.key);
    let names = header.tensors.iter().map(|t| &t.name);
    twice(header, keys, ("gguf.duplicate-key", "key"), errors);
    twice(header, names, ("gguf.duplicate-name", "tensor"), errors);
}

fn twice<'a>(
    header: &Header<'_>,
    strings: impl Iterator<Item = &'a Range<usize>>,
    (rule, what): (&'static str, &str),
    errors: &mut Vec<Error>,
) {
    let mut first: HashMap<&[u8], usize> = HashMap::new();
    for s in strings {
        if errors.len() >= MOST {
            return;
        }
        let bytes = header.bytes(s);
        if let Some(at) = first.insert(bytes, s.start) {
            let message = format!("the {what} {} stands at byte {at} too", shown(bytes));
            let e = Error::malformed(rule, message);
            errors.push(e.span(s.start as u64, s.len() as u64));
        }
    }
}

struct Layout<'l, 'a> {
    source: &'l dyn ByteSource,
    header: &'l Header<'a>,
    errors: &'l mut Vec<Error>,
}

impl Layout<'_, '_> {
    fn shown(&self, t: &TensorInfo) -> String {
        shown(self.header.bytes(&t.name))
    }

    fn check(&mut self) -> Result<()> {
        let header = self.header;
        let len = self.source.len();
        let (Some(alignment), Some(start)) = (header.alignment, header.data_start()) else {
            return Ok(());
        };
        if header.tensors.is_empty() {
            // There is no data region; its padding may stand all the same.
            return self.tail(header.end, start);
        }
        // A wrong size makes every neighbour look wrong, and has been told.
        let told = |t: &TensorInfo| t.bytes.is_none() && !self.foreign(t);
        if header.tensors.iter().any(told) {
            return Ok(());
        }
        if start > len {
            let message = format!("the data begins at byte {start}, the file has {len}");
            self.errors
                .push(Error::truncated("gguf.truncated", message).at(len));
            return Ok(());
        }
        self.padding(header.end, start)?;
        self.order();
        let mut tensors: Vec<&TensorInfo> = header.tensors.iter().collect();
        tensors.sort_by_key(|t| (t.offset, t.bytes));
        let (mut at, mut last): (u64, Option<&TensorInfo>) = (0, None);
        let data_len = len - start;
        let mut outside = false;
        for (i, t) in tensors.iter().enumerate() {
            if self.errors.len() >= MOST {
                return Ok(());
            }
            let Some(end) = self.one(t, alignment, data_len) else {
                outside = true;
                continue;
            };
            if t.offset < at {
                let before = last.map(|l| self.shown(l)).unwrap_or_default();
                let message = format!(
                    "the tensor {} begins at byte {} of the data, inside {before}, which ends at {at}",
                    self.shown(t),
                    t.offset
                );
                self.errors
                    .push(Error::malformed("gguf.overlap", message).at(t.at as u64));
            }
            self.between(at, t, start, alignment)?;
            // Data of unknown size reaches up to whatever follows it.
            let next = tensors.get(i + 1).map_or(data_len, |n| n.offset);
            let end = end.unwrap_or_else(|| next.max(t.offset));
            if end >= at {
                (at, last) = (end, Some(*t));
            }
        }
        if outside {
            // What is there belongs to a tensor that reaches past it.
            return Ok(());
        }
        // The last tensor is padded by most writers, and need not be.
        let end = start.saturating_add(at);
        self.tail(end, align_up(end, alignment).unwrap_or(end))
    }

    /// Whether its type has a name and no known size.
    fn foreign(&self, t: &TensorInfo) -> bool {
        use super::types::TensorType::{Foreign, Removed};
        matches!(
            super::types::TensorType::from_id(t.type_id),
            Foreign(_) | Removed(_)
        )
    }

    /// ggml takes tensors only in the order of their data.
    fn order(&mut self) {
        let tensors = &self.header.tensors;
        let pairs = tensors.iter().zip(tensors.iter().skip(1));
        let Some((_, t)) = pairs.into_iter().find(|(a, b)| b.offset < a.offset) else {
            return;
        };
        let message = format!(
            "the data of {} lies before that of the tensor listed before it",
            self.shown(t)
        );
        self.errors
            .push(Error::malformed("gguf.order", message).at(t.at as u64));
    }

    /// One tensor by itself; gives where its data ends, `Some(None)` when that is not known and
    /// `None` when it is wrong.
    #[allow(clippy::option_option)]
    fn one(&mut self, t: &TensorInfo, alignment: u64, data_len: u64) -> Option<Option<u64>> {
        if !t.offset.is_multiple_of(alignment) {
            let message = format!(
                "the data of {} begins at {}, no multiple of the alignment of {alignment}",
                self.shown(t),
                t.offset
            );
            self.errors
                .push(Error::malformed("gguf.offset-alignment", message).at(t.at as u64));
        }
        let bytes = t.bytes.unwrap_or(0);
        let end = t.offset.checked_add(bytes).filter(|&e| e <= data_len);
        let Some(end) = end else {
            let message = format!(
                "the data of {} takes {bytes} bytes from byte {} of the data on, which has {data_len}",
                self.shown(t),
                t.offset
            );
            let e = Error::truncated("gguf.data-outside", message).at(t.at as u64);
            self.errors
                .push(e.help("the file was cut short; fetch it again"));
            return None;
        };
        Some(t.bytes.map(|_| end))
    }

    /// What lies between the end of the last tensor and `t`: padding, and nothing else.
    fn between(&mut self, at: u64, t: &TensorInfo, start: u64, alignment: u64) -> Result<()> {
        let Some(aligned) = align_up(at, alignment) else {
            return Ok(());
        };
        if t.offset > aligned {
            let message = format!(
                "{} bytes before the tensor {} belong to nothing",
                t.offset - aligned,
                self.shown(t)
            );
            let e = Error::malformed("gguf.hole", message);
            self.errors
                .push(e.span(start.saturating_add(aligned), t.offset - aligned));
        }
        let (from, to) = (start.saturating_add(at), start.saturating_add(aligned));
        self.padding(from, to.min(start.saturating_add(t.offset)))
    }

    /// Padding is of zeros (`docs/gguf.md`).
    fn padding(&mut self, from: u64, to: u64) -> Result<()> {
        // Less than an alignment, of which the largest is a MiB; nearly always under 32 bytes.
        let to = to.min(self.source.len());
        if from >= to {
            return Ok(());
        }
        let bytes = self.source.read_vec(from..to)?;
        if let Some(i) = bytes.iter().position(|&b| b != 0) {
            let e = Error::malformed("gguf.padding", "padding holds something else than zeros");
            self.errors
                .push(e.span(from.saturating_add(i as u64), to - from));
        }
        Ok(())
    }

    /// What lies behind the last byte that anything accounts for.
    fn tail(&mut self, end: u64, padded: u64) -> Result<()> {
        let len = self.source.len();
        self.padding(end, padded)?;
        if padded < len {
            let message = format!(
                "{} bytes behind the last tensor belong to nothing",
                len - padded
            );
            let e = Error::malformed("gguf.trailing-bytes", message);
            self.errors.push(e.span(padded, len - padded));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
