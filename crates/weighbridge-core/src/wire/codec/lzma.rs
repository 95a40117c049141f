//! LZMA without a container: the `.lzma` files of lzma-utils (`lzma-file-format.txt` of xz), and
//! raw streams as zip and 7z hold them.

use lzma_rust2::{Action, LzmaStream, Status};

use super::{Input, Output, bad_data, bad_header};
use crate::error::Result;

/// Small, so that little is lost where a stream breaks: the decoder gives nothing of a piece in
/// which it meets an error. Python's own pieces are 8 KiB, of which this is a part.
pub(super) const PIECE: usize = 4 << 10;

/// Properties, dictionary size, uncompressed size.
const HEADER: usize = 13;
/// "The size is not known": an end mark ends the data.
const UNKNOWN: u64 = u64::MAX;
/// A plausible size of a file, as liblzma judges it (`alone_decoder.c`).
const PLAUSIBLE: u64 = 1 << 38;

/// What a header says.
struct Header {
    props: u8,
    dict: u32,
    size: u64,
}

fn parse(h: &[u8]) -> Option<Header> {
    let props = *h.first()?;
    Some(Header {
        props,
        dict: u32::from_le_bytes(h.get(1..5)?.try_into().ok()?),
        size: u64::from_le_bytes(h.get(5..13)?.try_into().ok()?),
    })
}

/// Whether the properties are in range, `lc + lp` within what liblzma decodes included.
fn props_ok(props: u8) -> bool {
    let (lc, lp) = (props % 9, props / 9 % 5);
    props < 225 && lc + lp <= 4
}

/// Whether `head` may begin such a file: there is no signature, so this is the test that liblzma
/// makes where it guesses formats, and the first byte of the range coder, which is zero.
pub(super) fn is_head(head: &[u8]) -> bool {
    let Some(h) = parse(head) else {
        return false;
    };
    let round = h.dict.is_power_of_two() || (h.dict % 3 == 0 && (h.dict / 3).is_power_of_two());
    props_ok(h.props)
        && (round && h.dict >= 1 << 12 || h.dict == u32::MAX)
        && (h.size == UNKNOWN || h.size < PLAUSIBLE)
        && head.get(HEADER).is_none_or(|&b| b == 0)
}

/// One `.lzma` file; what follows it belongs to something else.
pub(super) fn alone(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let at = input.pos();
    let Some(h) = parse(&input.array::<HEADER>()?) else {
        return Err(input.cut());
    };
    raw(input, output, h.props, h.dict, h.size, at)
}

/// A raw LZMA stream of `size` bytes (`u64::MAX`: until its end mark) whose properties stood at
/// `at`.
pub(crate) fn raw(
    input: &mut Input<'_>,
    output: &mut Output<'_>,
    props: u8,
    dict: u32,
    size: u64,
    at: u64,
) -> Result<()> {
    if !props_ok(props) {
        return Err(bad_header(
            format!("the LZMA properties {props:#04x} are out of range"),
            at,
        ));
    }
    // The window is never longer than what it is a window of.
    output.window(u64::from(dict).min(size), at)?;
    let dict = u32::try_from(u64::from(dict).min(size)).unwrap_or(dict);
    let decoder = LzmaStream::new_with_props(size, props, dict, None);
    let mut decoder = decoder.map_err(|e| bad_header(e.to_string(), at))?;
    let mut buf = [0u8; PIECE];
    loop {
        let at = input.pos();
        let part = input.chunk()?;
        let at_end = part.is_empty();
        let action = if at_end { Action::Finish } else { Action::Run };
        let r = match decoder.process(part, &mut buf, action) {
            Ok(r) => r,
            Err(_) if at_end => return Err(input.cut()),
            Err(e) => return Err(bad_data(format!("the LZMA data is broken ({e})"), at)),
        };
        input.advance(r.bytes_consumed);
        let piece = buf.get(..r.bytes_produced).unwrap_or_default();
        output.push(piece, input.taken())?;
        if r.status == Status::StreamEnd {
            input.give_back(decoder.unused_input().len());
            return Ok(());
        }
        if r.bytes_consumed == 0 && r.bytes_produced == 0 {
            if at_end {
                return Err(input.cut());
            }
            return Err(bad_data("the LZMA stream does not go on", at));
        }
    }
}
