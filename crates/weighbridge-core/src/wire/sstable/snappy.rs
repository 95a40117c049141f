//! Snappy's raw format: what one block of a table may be compressed with.
//!
//! Source: `format_description.txt` of Snappy. A varint says the length of the whole; then come
//! elements, told apart by the low two bits of their first byte: 0 a run of bytes as they are
//! (length in the upper six bits, or, from 60 on, in the one to four bytes behind), 1 to 3 a copy
//! from at most 2 KiB, 64 KiB or 4 GiB before.

use super::varint;
use crate::error::{Error, Result};

/// Bytes that come out for a byte that goes in, at most: three bytes copy up to 64.
const RATIO: u64 = 22;

/// The bytes that `input` decompresses to, when they are at most `most`.
///
/// # Errors
/// `Limit` when they are more, `Malformed` with `snappy.bad-data` when `input` breaks the format.
pub fn decode(input: &[u8], most: u64) -> Result<Vec<u8>> {
    let mut at = 0;
    let len = varint(input, &mut at).filter(|&n| n <= u64::from(u32::MAX));
    let len = len.ok_or_else(|| bad("the length is no number", 0))?;
    if len > most {
        let message = format!("{len} bytes decompressed, over the limit of {most}");
        return Err(Error::limit("snappy.size", message));
    }
    if len > (input.len() as u64).saturating_mul(RATIO) {
        return Err(bad("so many bytes cannot come out of so few", 0));
    }
    // At most u32::MAX, checked above.
    let len = len as usize;
    let mut out = Vec::with_capacity(len);
    while at < input.len() {
        let from = at;
        element(input, &mut at, &mut out, len).ok_or_else(|| bad("no element", from))?;
    }
    match out.len() == len {
        true => Ok(out),
        false => Err(bad("fewer bytes come out than the length says", at)),
    }
}

/// Takes one element; nothing when it is none, or passes `len` bytes of output.
fn element(input: &[u8], at: &mut usize, out: &mut Vec<u8>, len: usize) -> Option<()> {
    let tag = *input.get(*at)?;
    *at += 1;
    let upper = usize::from(tag >> 2);
    let (distance, n) = match tag & 3 {
        0 => {
            let n = match upper {
                0..=59 => upper,
                more => little(input, at, more - 59)?,
            };
            let n = n.checked_add(1)?;
            let end = at.checked_add(n)?;
            let run = input.get(*at..end)?;
            if n > len.checked_sub(out.len())? {
                return None;
            }
            out.extend_from_slice(run);
            *at = end;
            return Some(());
        }
        1 => {
            let low = little(input, at, 1)?;
            (usize::from(tag >> 5) << 8 | low, (upper & 7) + 4)
        }
        2 => (little(input, at, 2)?, upper + 1),
        _ => (little(input, at, 4)?, upper + 1),
    };
    if distance == 0 || n > len.checked_sub(out.len())? {
        return None;
    }
    let from = out.len().checked_sub(distance)?;
    // A copy may run into what it makes.
    for i in from..from.checked_add(n)? {
        out.push(*out.get(i)?);
    }
    Some(())
}

/// A little-endian number of `n` bytes, at most four.
fn little(input: &[u8], at: &mut usize, n: usize) -> Option<usize> {
    let bytes = input.get(*at..at.checked_add(n)?)?;
    *at += n;
    let mut out = 0u32;
    for (i, b) in bytes.iter().enumerate() {
        out |= u32::from(*b) << (8 * i);
    }
    usize::try_from(out).ok()
}

fn bad(message: &str, at: usize) -> Error {
    Error::malformed("snappy.bad-data", message).at(at as u64)
}
