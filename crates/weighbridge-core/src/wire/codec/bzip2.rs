//! bzip2: `BZh`, the block size in units of 100,000 bytes, blocks, an end mark and a CRC-32 over
//! all; streams one after the other.

use bzip2::{Decompress, Status};

use super::{Input, Members, Output, bad_data, bad_header};
use crate::error::Result;

const PIECE: usize = 64 << 10;
/// What follows the first four bytes: a block (the digits of pi) or the end (those of its root).
const BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
const END: [u8; 6] = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];

/// Whether `head` begins a stream: all ten bytes count where they are there.
pub(super) fn is_head(head: &[u8]) -> bool {
    let Some(b'1'..=b'9') = head.get(3) else {
        return false;
    };
    let rest = head.get(4..head.len().min(10)).unwrap_or_default();
    head.starts_with(b"BZh") && (BLOCK.starts_with(rest) || END.starts_with(rest))
}

pub(crate) fn decode(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut members = Members::default();
    let mut buf = vec![0u8; PIECE];
    loop {
        members.next(input)?;
        one(input, output, &mut buf)?;
        // As Python and bzip2 itself: what follows and is no stream is not looked at.
        let more = match input.peek::<10>()? {
            Some(head) => is_head(&head),
            None => false,
        };
        if !more {
            return Ok(());
        }
    }
}

fn one(input: &mut Input<'_>, output: &mut Output<'_>, buf: &mut [u8]) -> Result<()> {
    let begin = input.pos();
    match input.peek::<4>()? {
        Some(head) if is_head(&head) => {}
        Some(_) => return Err(bad_header("a bzip2 stream begins with BZh1 to BZh9", begin)),
        None => return Err(input.cut()),
    }
    let mut decoder = Decompress::new(false);
    loop {
        let at = input.pos();
        let part = input.chunk()?;
        let at_end = part.is_empty();
        let (was_in, was_out) = (decoder.total_in(), decoder.total_out());
        let done = decoder.decompress(part, buf);
        let used = usize::try_from(decoder.total_in() - was_in).unwrap_or(usize::MAX);
        let made = usize::try_from(decoder.total_out() - was_out).unwrap_or(usize::MAX);
        input.advance(used);
        let piece = buf.get(..made).unwrap_or_default();
        output.push(piece, input.taken())?;
        match done {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(Status::MemNeeded) => return Err(bad_data("no memory for a block", at)),
            Ok(_) if used > 0 || made > 0 => {}
            Ok(_) if at_end => return Err(input.cut()),
            Ok(_) => return Err(bad_data("the bzip2 stream does not go on", at)),
            Err(e) => return Err(bad_data(format!("the bzip2 data is broken ({e})"), at)),
        }
    }
}
