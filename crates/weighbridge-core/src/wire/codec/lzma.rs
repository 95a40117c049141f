//! LZMA without a container: the `.lzma` files of lzma-utils (`lzma-file-format.txt` of xz), and
//! raw streams as zip and 7z hold them.

use lzma_rust2::{Action, Lzma2Stream, LzmaStream, Status, StreamResult};

use super::{Input, Output, bad_data, bad_header};
use crate::error::Result;

/// Decoded bytes are handed on in pieces of this many.
const PIECE: usize = 4 << 10;

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
    let make = || {
        let decoder = LzmaStream::new_with_props(size, props, dict, None);
        Ok(Lz::One(Box::new(
            decoder.map_err(|e| bad_header(e.to_string(), at))?,
        )))
    };
    pump(input, &make, &mut |piece, _, taken| {
        output.push(piece, taken)
    })
}

/// Either decoder of the library.
pub(super) enum Lz {
    One(Box<LzmaStream>),
    Two(Box<Lzma2Stream>),
}

impl Lz {
    fn process(
        &mut self,
        from: &[u8],
        to: &mut [u8],
        action: Action,
    ) -> lzma_rust2::Result<StreamResult> {
        match self {
            Self::One(d) => d.process(from, to, action),
            Self::Two(d) => d.process(from, to, action),
        }
    }

    /// Bytes that it took and that are not its own.
    fn unused(&self) -> usize {
        match self {
            Self::One(d) => d.unused_input().len(),
            Self::Two(_) => 0,
        }
    }
}

/// Takes a piece of what comes out, whether it is the last, and how much was taken for it.
pub(super) type Sink<'a> = dyn FnMut(&[u8], bool, u64) -> Result<()> + 'a;

/// Runs the decoder that `make` makes to the end of its stream.
pub(super) fn pump(
    input: &mut Input<'_>,
    make: &dyn Fn() -> Result<Lz>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let start = input.pos();
    let mut decoder = make()?;
    let mut buf = [0u8; PIECE];
    let mut given = 0u64;
    loop {
        let at = input.pos();
        let part = input.chunk()?;
        let at_end = part.is_empty();
        let action = if at_end { Action::Finish } else { Action::Run };
        let r = match decoder.process(part, &mut buf, action) {
            Ok(r) => r,
            Err(e) => {
                salvage(input, start, make, given, sink)?;
                input.seek(at);
                return Err(if at_end {
                    input.cut()
                } else {
                    bad_data(format!("the LZMA data is broken ({e})"), at)
                });
            }
        };
        input.advance(r.bytes_consumed);
        let ended = r.status == Status::StreamEnd;
        if ended {
            input.give_back(decoder.unused());
        }
        let piece = buf.get(..r.bytes_produced).unwrap_or_default();
        given = given.saturating_add(piece.len() as u64);
        sink(piece, ended, input.taken())?;
        if ended {
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

/// The decoder gives nothing of a piece in which it meets an error, but other decoders do, and
/// what comes before the error is loaded: decodes again, and byte by byte where it broke.
fn salvage(
    input: &mut Input<'_>,
    start: u64,
    make: &dyn Fn() -> Result<Lz>,
    given: u64,
    sink: &mut Sink<'_>,
) -> Result<()> {
    input.seek(start);
    let mut decoder = make()?;
    let mut buf = [0u8; PIECE];
    let mut done = 0u64;
    // The piece that broke was no longer than this.
    let most = given.saturating_add(PIECE as u64);
    while done < most {
        let room = usize::try_from(given.saturating_sub(done)).unwrap_or(PIECE);
        let to = buf.get_mut(..room.clamp(1, PIECE)).unwrap_or_default();
        // Byte by byte, what the decoder holds comes out before it is given more to choke on.
        let exact = done >= given;
        let mut step = None;
        if exact {
            let r = decoder.process(&[], to, Action::Run);
            step = r.ok().filter(|r| r.bytes_produced > 0);
        }
        let r = match step {
            Some(r) => r,
            None => {
                let part = input.chunk()?;
                let n = if exact { part.len().min(1) } else { part.len() };
                let part = part.get(..n).unwrap_or_default();
                match decoder.process(part, to, Action::Run) {
                    Ok(r) => r,
                    Err(_) => break,
                }
            }
        };
        if r.bytes_consumed == 0 && r.bytes_produced == 0 {
            break;
        }
        input.advance(r.bytes_consumed);
        if exact {
            let piece = buf.get(..r.bytes_produced).unwrap_or_default();
            sink(piece, false, input.taken())?;
        }
        done = done.saturating_add(r.bytes_produced as u64);
    }
    Ok(())
}
