//! Texts on their way into NumPy's arrays, where each takes the same number of bytes: NULs follow
//! the shorter ones.

use weighbridge_core::model::{DType, Tensor, Value};
use weighbridge_core::{Error, Result};

/// A type of texts of a fixed width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width {
    /// Bytes of each text.
    pub(super) bytes: u64,
    /// Whether it holds characters of four bytes each.
    pub(super) unicode: bool,
}

impl Width {
    /// The type of `t`, where its texts are known to be no longer than some width: texts of bytes,
    /// and those that came from an array of NumPy's.
    pub(super) fn of(t: &Tensor) -> Option<Self> {
        match t.dtype {
            // NumPy makes no texts of no width.
            DType::Bytes(n) => Some(Self {
                bytes: u64::from(n.max(1)),
                unicode: false,
            }),
            DType::Str => {
                let attributes = t.extra.as_ref()?.attributes.iter();
                let spelled =
                    attributes
                        .filter(|(k, _)| k == "numpy_dtype")
                        .find_map(|(_, v)| match v {
                            Value::Str(s) => Some(s.as_str()),
                            _ => None,
                        })?;
                let letters = spelled.trim_start_matches(['<', '>']).strip_prefix('U')?;
                let letters: u64 = letters.parse().ok().filter(|n| *n < 1 << 32)?;
                Some(Self {
                    bytes: letters.max(1).checked_mul(4)?,
                    unicode: true,
                })
            }
            _ => None,
        }
    }

    /// NumPy's type string.
    pub(super) fn descr(self) -> String {
        match self.unicode {
            true => format!("<U{}", self.bytes / 4),
            false => format!("|S{}", self.bytes),
        }
    }
}

/// Takes texts as tensors stream them, each behind its length, and gives them padded.
#[derive(Debug)]
pub(super) struct Padder {
    width: Width,
    held: Vec<u8>,
}

impl Padder {
    pub(super) fn new(width: Width) -> Self {
        let held = Vec::new();
        Self { width, held }
    }

    /// Takes the next bytes of the stream; whole texts go to `sink`.
    ///
    /// # Errors
    /// `Malformed` for texts that are longer than the type, and what `sink` returns.
    pub(super) fn take(
        &mut self,
        part: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.held.extend_from_slice(part);
        let mut out = Vec::new();
        let mut rest = self.held.as_slice();
        while let Some((len, behind)) = rest.split_first_chunk::<8>() {
            let len = u64::from_le_bytes(*len);
            if len > self.width.bytes {
                return Err(too_long());
            }
            let Some((text, behind)) = behind.split_at_checked(len as usize) else {
                break;
            };
            let end = (out.len() as u64).saturating_add(self.width.bytes);
            match self.width.unicode {
                true => characters(text, &mut out)?,
                false => out.extend_from_slice(text),
            }
            if out.len() as u64 > end {
                return Err(too_long());
            }
            out.resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
            rest = behind;
        }
        let taken = self.held.len() - rest.len();
        self.held.drain(..taken);
        if out.is_empty() { Ok(()) } else { sink(&out) }
    }
}

fn too_long() -> Error {
    Error::malformed("numpy.text-width", "a text is longer than its type")
}

/// The characters of UTF-8, in which a lone surrogate stands as `surrogatepass` writes it.
fn characters(text: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let bad = || Error::malformed("numpy.bad-text", "a text is no UTF-8");
    let mut bytes = text.iter().copied();
    while let Some(first) = bytes.next() {
        let (mut point, more) = match first {
            0..=0x7f => (u32::from(first), 0),
            0xc2..=0xdf => (u32::from(first & 0x1f), 1),
            0xe0..=0xef => (u32::from(first & 0x0f), 2),
            0xf0..=0xf4 => (u32::from(first & 0x07), 3),
            _ => return Err(bad()),
        };
        for _ in 0..more {
            let next = bytes.next().filter(|b| b & 0xc0 == 0x80).ok_or_else(bad)?;
            point = point << 6 | u32::from(next & 0x3f);
        }
        out.extend(point.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_padded_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for text in ["ab", "", "\u{fc}\u{1f600}"] {
            stream.extend((text.len() as u64).to_le_bytes());
            stream.extend(text.as_bytes());
        }
        let width = Width {
            bytes: 12,
            unicode: true,
        };
        assert_eq!(width.descr(), "<U3");
        let mut want = Vec::new();
        for points in [[97u32, 98, 0], [0; 3], [0xfc, 0x1f600, 0]] {
            want.extend(points.iter().flat_map(|p| p.to_le_bytes()));
        }
        for step in 1..stream.len() {
            let (mut padder, mut out) = (Padder::new(width), Vec::new());
            for part in stream.chunks(step) {
                let mut sink = |b: &[u8]| {
                    out.extend_from_slice(b);
                    Ok(())
                };
                padder.take(part, &mut sink).unwrap();
            }
            assert_eq!(out, want, "{step}");
        }
        let narrow = Width {
            bytes: 1,
            unicode: false,
        };
        let e = Padder::new(narrow)
            .take(&stream, &mut |_| Ok(()))
            .unwrap_err();
        assert_eq!(e.rule(), "numpy.text-width");
    }
}
