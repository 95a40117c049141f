//! Texts of a tensor: their number, where each begins and the last ends, the bytes
//! (`tensorflow/lite/string_util.h`).

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use weighbridge_core::model::Compute;
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

/// Bytes handed on at a time.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Texts {
    source: Arc<dyn ByteSource>,
    range: Range<u64>,
    elements: u64,
    bytes: OnceLock<Option<u64>>,
}

impl Texts {
    pub(super) fn new(source: Arc<dyn ByteSource>, range: Range<u64>, elements: u64) -> Self {
        Self {
            source,
            range,
            elements,
            bytes: OnceLock::new(),
        }
    }

    /// Gives where each text lies.
    fn each(&self, give: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let bad = |m: &str| Error::malformed("tflite.text", m).at(self.range.start);
        let len = self.range.end.saturating_sub(self.range.start);
        let head = self.elements.checked_add(2).and_then(|n| n.checked_mul(4));
        let head = head.filter(|&h| h <= len);
        let head = head.ok_or_else(|| bad("there are fewer texts than the shape needs"))?;
        let mut number = Numbers {
            source: self.source.as_ref(),
            at: self.range.start,
            end: self.range.start + head,
            window: Vec::new(),
        };
        if u64::from(number.next()?) != self.elements {
            return Err(bad("there are other than as many texts as the shape needs"));
        }
        let mut from = u64::from(number.next()?);
        for _ in 0..self.elements {
            let to = u64::from(number.next()?);
            if from < head || to < from || to > len {
                return Err(bad("a text lies outside of its tensor"));
            }
            give(self.range.start + from..self.range.start + to)?;
            from = to;
        }
        Ok(())
    }
}

/// Numbers of 32 bits, one after the other.
struct Numbers<'s> {
    source: &'s dyn ByteSource,
    at: u64,
    end: u64,
    /// Those read ahead, the next one last.
    window: Vec<u32>,
}

impl Numbers<'_> {
    fn next(&mut self) -> Result<u32> {
        if self.window.is_empty() {
            let end = self.end.min(self.at.saturating_add(4 << 10));
            let bytes = self.source.read_vec(self.at..end)?;
            let (words, _) = bytes.as_chunks::<4>();
            self.window
                .extend(words.iter().rev().map(|w| u32::from_le_bytes(*w)));
            self.at = end;
        }
        self.window.pop().ok_or_else(|| {
            Error::truncated("tflite.text", "the texts' places end too early").at(self.at)
        })
    }
}

impl Compute for Texts {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        self.each(&mut |r| {
            out.extend_from_slice(&(r.end - r.start).to_le_bytes());
            out.extend(self.source.read_vec(r)?);
            if out.len() >= CHUNK {
                sink(&out)?;
                out.clear();
            }
            Ok(())
        })
        .map_err(|e| e.in_file(self.source.name()))?;
        match out.is_empty() {
            true => Ok(()),
            false => sink(&out),
        }
    }

    fn byte_len(&self) -> Option<u64> {
        *self.bytes.get_or_init(|| {
            let mut n = 0u64;
            self.each(&mut |r| {
                n = n.saturating_add(8 + (r.end - r.start));
                Ok(())
            })
            .ok()?;
            Some(n)
        })
    }
}
