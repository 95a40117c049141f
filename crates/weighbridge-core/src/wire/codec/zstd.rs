//! Zstandard frames (RFC 8878), skippable ones stepped over; no dictionaries.

use std::io::Read;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Input, Members, Output, bad_data, bad_header, checksum, is_skippable, skip_frame};
use crate::error::{Error, Result};

pub(super) const MAGIC: u32 = 0xfd2f_b528;
const PIECE: usize = 64 << 10;
/// An empty raw block marked as the last, and room for a checksum.
const LAST_BLOCK: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];

pub(crate) fn decode(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut members = Members::default();
    let mut buf = vec![0u8; PIECE];
    let begin = input.pos();
    loop {
        let at = input.pos();
        match input.peek::<4>()?.map(u32::from_le_bytes) {
            Some(MAGIC) => {
                members.next(input)?;
                frame(input, output, &mut buf, at)?;
            }
            Some(magic) if is_skippable(magic) => skip_frame(input)?,
            None if at == begin => return Err(input.cut()),
            _ if at == begin => return Err(bad_header("no Zstandard frame begins here", at)),
            _ => return Ok(()),
        }
    }
}

fn frame(input: &mut Input<'_>, output: &mut Output<'_>, buf: &mut [u8], at: u64) -> Result<()> {
    // A fresh decoder takes memory as data comes; a reused one takes the whole window at once.
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(output.caps().max_window);
    if let Err(e) = decoder.reset(&mut *input) {
        return Err(refused(input, output, &e, at));
    }
    let before = output.produced();
    while !decoder.is_finished() {
        let block_at = input.pos();
        let done = decoder.decode_blocks(&mut *input, BlockDecodingStrategy::UptoBlocks(1));
        if let Err(e) = done {
            let e = refused(input, output, &e, block_at);
            // The decoder holds a window of what it has made until its last block: give it one.
            let _ = decoder.decode_blocks(LAST_BLOCK.as_slice(), BlockDecodingStrategy::All);
            drain(input, output, &mut decoder, buf)?;
            return Err(e);
        }
        drain(input, output, &mut decoder, buf)?;
    }
    let produced = output.produced().saturating_sub(before);
    let claimed = decoder.content_size();
    if claimed != 0 && claimed != produced {
        let message = format!("the frame says it holds {claimed} bytes, it holds {produced}");
        return Err(bad_data(message, at));
    }
    let computed = decoder.get_calculated_checksum();
    match (decoder.get_checksum_from_data(), computed) {
        (Some(stored), Some(computed)) if stored != computed => Err(checksum(
            "XXH64",
            stored.into(),
            computed.into(),
            input.pos().saturating_sub(4),
        )),
        _ => Ok(()),
    }
}

/// Hands on what the decoder does not need any more.
fn drain(
    input: &Input<'_>,
    output: &mut Output<'_>,
    decoder: &mut FrameDecoder,
    buf: &mut [u8],
) -> Result<()> {
    while decoder.can_collect() > 0 {
        let n = decoder
            .read(buf)
            .map_err(|e| bad_data(e, input.pos()))?
            .min(buf.len());
        if n == 0 {
            break;
        }
        output.push(buf.get(..n).unwrap_or_default(), input.taken())?;
    }
    Ok(())
}

/// What a decoder's error is to us.
fn refused(input: &mut Input<'_>, output: &Output<'_>, e: &FrameDecoderError, at: u64) -> Error {
    if let Some(failed) = input.take_failure() {
        return failed;
    }
    match e {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => {
            match output.window(*requested, at) {
                Err(e) => e,
                Ok(()) => bad_header(e.to_string(), at),
            }
        }
        FrameDecoderError::DictNotProvided { dict_id } => Error::unsupported(
            "codec.unsupported",
            format!("the frame needs the dictionary {dict_id}"),
        )
        .at(at),
        _ if ends(e) => input.cut(),
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_)) => {
            bad_header("no Zstandard frame begins here", at)
        }
        e => bad_data(format!("the Zstandard data is broken ({e})"), at),
    }
}

/// Whether the input ran out.
fn ends(e: &FrameDecoderError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(e);
    while let Some(c) = cause {
        let io = c.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = c.source();
    }
    false
}
