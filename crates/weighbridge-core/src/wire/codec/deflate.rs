//! Deflate and what is wrapped around it: gzip (RFC 1952), zlib (RFC 1950), and the files of
//! joblib before 0.10 (`joblib/numpy_pickle_utils.py`, `read_zfile`).

use flate2::{Decompress, FlushDecompress, Status};

use super::{Input, Output, bad_data, bad_header, checksum};
use crate::error::Result;

/// Decoded bytes are handed on in pieces of this many.
const PIECE: usize = 64 << 10;

/// joblib's old files: `ZF`, then the length as `hex()` writes it, padded to 19 characters.
const JOBLIB_LENGTH: usize = 19;

/// Whether `head` begins like a zlib stream without a preset dictionary (RFC 1950, 2.2).
pub(super) fn is_zlib(head: &[u8]) -> bool {
    match head {
        [cmf, flg, ..] => {
            let check = u16::from_be_bytes([*cmf, *flg]);
            cmf & 0x0f == 8 && cmf >> 4 <= 7 && check % 31 == 0 && flg & 0x20 == 0
        }
        _ => false,
    }
}

pub(super) fn is_joblib(head: &[u8]) -> bool {
    head.starts_with(b"ZF0x")
}

/// One raw deflate stream. `seen` is shown every piece before it is handed on.
fn inflate(
    input: &mut Input<'_>,
    output: &mut Output<'_>,
    decoder: &mut Decompress,
    buf: &mut [u8],
    seen: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    loop {
        let at = input.pos();
        let part = input.chunk()?;
        let (was_in, was_out) = (decoder.total_in(), decoder.total_out());
        let done = decoder.decompress(part, buf, FlushDecompress::None);
        let at_end = part.is_empty();
        let used = usize::try_from(decoder.total_in() - was_in).unwrap_or(usize::MAX);
        let made = usize::try_from(decoder.total_out() - was_out).unwrap_or(usize::MAX);
        input.advance(used);
        // What came out before an error counts.
        let piece = buf.get(..made).unwrap_or_default();
        if !piece.is_empty() {
            seen(piece);
            output.push(piece, input.taken())?;
        }
        match done {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(_) if used > 0 || made > 0 => {}
            Ok(_) if at_end => return Err(input.cut()),
            Ok(_) => return Err(bad_data("the deflate stream does not go on", at)),
            Err(e) => return Err(bad_data(e, at)),
        }
    }
}

/// A raw deflate stream (RFC 1951), as zip members have it.
pub(crate) fn raw(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut buf = vec![0u8; PIECE];
    inflate(
        input,
        output,
        &mut Decompress::new(false),
        &mut buf,
        &mut |_| {},
    )
}

/// gzip members one after the other. Zeros after a member are padding, as Python's `gzip` takes
/// them.
pub(super) fn gzip(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut decoder = Decompress::new(false);
    let mut buf = vec![0u8; PIECE];
    loop {
        gzip_header(input)?;
        decoder.reset(false);
        let mut crc = crc32fast::Hasher::new();
        let mut length = 0u32;
        inflate(input, output, &mut decoder, &mut buf, &mut |piece| {
            crc.update(piece);
            // The length is kept modulo 2^32.
            length = length.wrapping_add(piece.len() as u32);
        })?;
        let at = input.pos();
        let stored = u32::from_le_bytes(input.array()?);
        let stored_length = u32::from_le_bytes(input.array()?);
        let computed = crc.finalize();
        if stored != computed {
            return Err(checksum("CRC-32", stored.into(), computed.into(), at));
        }
        if stored_length != length {
            let message =
                format!("the member says it holds {stored_length} bytes, it holds {length}");
            return Err(bad_data(message, at + 4));
        }
        if !another_gzip(input)? {
            return Ok(());
        }
    }
}

/// Whether another member follows, behind zeros or not; the zeros are taken with it, or where
/// they reach to the end.
fn another_gzip(input: &mut Input<'_>) -> Result<bool> {
    let after = input.pos();
    loop {
        let part = input.chunk()?;
        if part.is_empty() {
            return Ok(false);
        }
        match part.iter().position(|&b| b != 0) {
            Some(n) => {
                input.advance(n);
                break;
            }
            None => {
                let n = part.len();
                input.advance(n);
            }
        }
    }
    if input.peek::<2>()? == Some([0x1f, 0x8b]) {
        return Ok(true);
    }
    input.seek(after);
    Ok(false)
}

/// RFC 1952, 2.3: magic, method, flags, time, extra flags, system, then what the flags announce.
fn gzip_header(input: &mut Input<'_>) -> Result<()> {
    let at = input.pos();
    let [a, b, method, flags, ..] = input.array::<10>()?;
    if (a, b) != (0x1f, 0x8b) {
        return Err(bad_header("a gzip member begins with 1f 8b", at));
    }
    if method != 8 {
        return Err(bad_header(
            format!("compression method {method} is not deflate"),
            at + 2,
        ));
    }
    // Reserved bits: gzip itself refuses, Python's module does not look.
    if flags & 4 != 0 {
        let n = u16::from_le_bytes(input.array()?);
        input.skip(n.into())?;
    }
    for bit in [8, 16] {
        if flags & bit != 0 {
            zero_ended(input)?;
        }
    }
    if flags & 2 != 0 {
        // The header's own checksum, which no loader verifies.
        input.skip(2)?;
    }
    Ok(())
}

fn zero_ended(input: &mut Input<'_>) -> Result<()> {
    loop {
        let part = input.chunk()?;
        if part.is_empty() {
            return Err(input.cut());
        }
        match memchr::memchr(0, part) {
            Some(n) => {
                input.advance(n + 1);
                return Ok(());
            }
            None => {
                let n = part.len();
                input.advance(n);
            }
        }
    }
}

/// zlib streams one after the other: joblib's reader takes what follows a stream for another.
pub(super) fn zlib(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut decoder = Decompress::new(true);
    let mut buf = vec![0u8; PIECE];
    loop {
        let head = input.peek::<2>()?.ok_or_else(|| input.cut())?;
        if !is_zlib(&head) {
            return Err(bad_header(
                "the two bytes of a zlib header do not check out",
                input.pos(),
            ));
        }
        decoder.reset(true);
        inflate(input, output, &mut decoder, &mut buf, &mut |_| {})?;
        match input.peek::<2>()? {
            Some(head) if is_zlib(&head) => {}
            _ => return Ok(()),
        }
    }
}

/// `ZF`, the length, perhaps a space (of Python 2), one zlib stream of that length.
pub(super) fn joblib(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let at = input.pos();
    let head = input.array::<{ 2 + JOBLIB_LENGTH }>()?;
    let digits = std::str::from_utf8(head.get(4..).unwrap_or_default()).unwrap_or_default();
    let digits = digits.trim_end_matches([' ', 'L']);
    if !is_joblib(&head) || u128::from_str_radix(digits, 16).is_err() {
        return Err(bad_header(
            "the length after ZF is no hexadecimal number",
            at,
        ));
    }
    if input.peek::<1>()? == Some([b' ']) {
        input.advance(1);
    }
    let mut buf = vec![0u8; PIECE];
    // The length only sizes Python's first buffer: what the stream holds is what is loaded.
    inflate(
        input,
        output,
        &mut Decompress::new(true),
        &mut buf,
        &mut |_| {},
    )
}
