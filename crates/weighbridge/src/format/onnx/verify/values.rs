//! Typed values, read only to count and to judge them.

use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::protobuf::{Message, Reader, Span};
use weighbridge_core::{Error, Result};

use super::super::raw::Typed;

/// Bytes read at a time.
const CHUNK: u64 = 64 << 10;

/// How many values the runs hold; packed integers are read for it.
///
/// # Errors
/// `Malformed` and `Truncated` for packed integers that are none, `Io`.
pub(super) fn count(source: &dyn ByteSource, runs: &[Typed]) -> Result<u64> {
    let mut n = 0u64;
    for run in runs {
        match run.count {
            Some(c) => n = n.saturating_add(c),
            None => packed(source, run.span, &mut |_, _| {
                n = n.saturating_add(1);
                Ok(())
            })?,
        }
    }
    Ok(n)
}

/// Gives every integer of the runs with its place to `f`.
///
/// # Errors
/// As [`count`], and what `f` returns.
pub(super) fn integers(
    source: &dyn ByteSource,
    runs: &[Typed],
    f: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    for run in runs {
        if run.packed {
            packed(source, run.span, f)?;
            continue;
        }
        let mut reader = Reader::new(source, u64::MAX);
        let mut message = Message::new(run.span);
        while let Some(field) = reader.next(&mut message)? {
            if let Some(n) = field.varint() {
                f(n, field.at)?;
            }
        }
    }
    Ok(())
}

/// Packed varints, read in chunks.
fn packed(
    source: &dyn ByteSource,
    span: Span,
    f: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let (mut n, mut shift, mut begin) = (0u64, 0u32, span.start);
    let mut at = span.start;
    while at < span.end {
        let end = span.end.min(at.saturating_add(CHUNK));
        let bytes = source.read_vec(at..end)?;
        for (i, &b) in bytes.iter().enumerate() {
            if shift >= 70 {
                let message = "a number is longer than ten bytes";
                return Err(Error::malformed("onnx.packed", message).at(begin));
            }
            n |= u64::from(b & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if b < 0x80 {
                f(n, begin)?;
                (n, shift) = (0, 0);
                begin = at.saturating_add(i as u64).saturating_add(1);
            }
        }
        at = end;
    }
    if shift > 0 {
        let message = "packed values end in the middle of one";
        return Err(Error::truncated("onnx.packed", message).at(begin));
    }
    Ok(())
}

/// Gives every little-endian 64-bit integer of `span` with its place to `f`.
///
/// # Errors
/// `Io`, and what `f` returns.
pub(super) fn words(
    source: &dyn ByteSource,
    span: Span,
    f: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut at = span.start;
    while at < span.end {
        let end = span.end.min(at.saturating_add(CHUNK));
        let bytes = source.read_vec(at..end)?;
        let (words, _) = bytes.as_chunks::<8>();
        for (i, w) in words.iter().enumerate() {
            f(u64::from_le_bytes(*w), at.saturating_add(8 * i as u64))?;
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u64, u64)>> {
        let source = SliceSource::new(bytes.to_vec(), "m");
        let mut out = Vec::new();
        packed(&source, Span::of(&source), &mut |n, at| {
            out.push((n, at));
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn packed_integers_are_read_with_their_places() {
        assert_eq!(all(&[3, 0x80, 1, 0]).unwrap(), [(3, 0), (128, 1), (0, 3)]);
        let minus = [&[0xff; 9][..], &[1]].concat();
        assert_eq!(all(&minus).unwrap(), [(u64::MAX, 0)]);
        assert_eq!(all(&[1, 0x80]).unwrap_err().byte_span().unwrap().offset, 1);
        assert!(all(&[0x80; 11]).is_err());
        // A number that lies across two chunks.
        let mut long = vec![1u8; CHUNK as usize - 1];
        long.extend([0x80, 1]);
        assert_eq!(all(&long).unwrap().last(), Some(&(128, CHUNK - 1)));
    }
}
