//! LZ4 frames (`lz4_Frame_format.md` 1.6.4), the legacy frame included. The frames are read here,
//! so that every byte is accounted for; the blocks are a library's.

use std::hash::Hasher;

use twox_hash::XxHash32;

use super::{Input, Members, Output, bad_data, bad_header, checksum, is_skippable, skip_frame};
use crate::error::{Error, Result};

pub(super) const MAGIC: u32 = 0x184d_2204;
pub(super) const LEGACY: u32 = 0x184c_2102;
/// How far back a match reaches.
const WINDOW: usize = 64 << 10;
/// Uncompressed size of a legacy block, and the most it can be compressed to.
const LEGACY_BLOCK: usize = 8 << 20;
const LEGACY_BOUND: u32 = (LEGACY_BLOCK + LEGACY_BLOCK / 255 + 16) as u32;

/// Buffers that frames share.
#[derive(Default)]
struct Buffers {
    packed: Vec<u8>,
    plain: Vec<u8>,
    /// The last bytes of the frame so far, where its blocks refer to them.
    window: Vec<u8>,
}

pub(super) fn decode(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut members = Members::default();
    let mut buffers = Buffers::default();
    let begin = input.pos();
    loop {
        let at = input.pos();
        match input.peek::<4>()?.map(u32::from_le_bytes) {
            Some(MAGIC) => {
                members.next(input)?;
                input.advance(4);
                frame(input, output, &mut buffers, at)?;
            }
            Some(LEGACY) => {
                members.next(input)?;
                input.advance(4);
                legacy(input, output, &mut buffers)?;
            }
            Some(magic) if is_skippable(magic) => skip_frame(input)?,
            None if at == begin => return Err(input.cut()),
            _ if at == begin => return Err(bad_header("no LZ4 frame begins here", at)),
            _ => return Ok(()),
        }
    }
}

/// What a frame's descriptor says.
struct Descriptor {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    size: Option<u64>,
    block: usize,
}

fn descriptor(input: &mut Input<'_>, at: u64) -> Result<Descriptor> {
    let start = input.pos();
    let [flags, block] = input.array::<2>()?;
    let mut raw = vec![flags, block];
    if flags >> 6 != 1 {
        let message = format!("version {} of the LZ4 frame", flags >> 6);
        return Err(Error::unsupported("codec.unsupported", message).at(at));
    }
    if flags & 2 != 0 || block & 0x8f != 0 {
        return Err(bad_header("reserved bits of the frame are set", at));
    }
    let size = if flags & 8 != 0 {
        let n = input.array::<8>()?;
        raw.extend(n);
        Some(u64::from_le_bytes(n))
    } else {
        None
    };
    if flags & 1 != 0 {
        // The number of a dictionary, which nobody hands us: blocks that refer to it fail.
        raw.extend(input.array::<4>()?);
    }
    let [stored] = input.array::<1>()?;
    let computed = (XxHash32::oneshot(0, &raw) >> 8) as u8;
    if stored != computed {
        let what = "frame header's checksum";
        return Err(checksum(what, stored.into(), computed.into(), start));
    }
    let block = match block >> 4 {
        n @ 4..=7 => 1usize << (2 * n + 8),
        n => return Err(bad_header(format!("the block size {n} is not defined"), at)),
    };
    Ok(Descriptor {
        linked: flags & 0x20 == 0,
        block_checksums: flags & 0x10 != 0,
        content_checksum: flags & 4 != 0,
        size,
        block,
    })
}

fn frame(
    input: &mut Input<'_>,
    output: &mut Output<'_>,
    buffers: &mut Buffers,
    at: u64,
) -> Result<()> {
    let d = descriptor(input, at)?;
    buffers.window.clear();
    let mut hash = XxHash32::with_seed(0);
    let before = output.produced();
    loop {
        let at = input.pos();
        let word = u32::from_le_bytes(input.array()?);
        if word == 0 {
            break;
        }
        let len = (word & 0x7fff_ffff) as usize;
        if len > d.block {
            let message = format!("a block of {len} bytes, where {} are the most", d.block);
            return Err(bad_data(message, at));
        }
        buffers.packed = input.vec(len)?;
        if d.block_checksums {
            let stored = u32::from_le_bytes(input.array()?);
            let computed = XxHash32::oneshot(0, &buffers.packed);
            if stored != computed {
                return Err(checksum(
                    "block's checksum",
                    stored.into(),
                    computed.into(),
                    at,
                ));
            }
        }
        let made = if word >> 31 == 1 {
            std::mem::swap(&mut buffers.packed, &mut buffers.plain);
            len
        } else {
            unpack(buffers, d.block, at)?
        };
        let plain = buffers.plain.get(..made).unwrap_or_default();
        hash.write(plain);
        if d.linked {
            remember(&mut buffers.window, plain);
        }
        output.push(plain, input.taken())?;
    }
    let produced = output.produced().saturating_sub(before);
    if let Some(n) = d.size.filter(|&n| n != produced) {
        let message = format!("the frame says it holds {n} bytes, it holds {produced}");
        return Err(bad_data(message, at));
    }
    if d.content_checksum {
        let at = input.pos();
        let stored = u32::from_le_bytes(input.array()?);
        let computed = hash.finish() as u32;
        if stored != computed {
            let what = "content's checksum";
            return Err(checksum(what, stored.into(), computed.into(), at));
        }
    }
    Ok(())
}

/// Unpacks the block in `packed`, of at most `most` bytes, into `plain`.
fn unpack(buffers: &mut Buffers, most: usize, at: u64) -> Result<usize> {
    if buffers.plain.len() < most {
        buffers.plain.resize(most, 0);
    }
    let plain = buffers.plain.get_mut(..most).unwrap_or_default();
    let made = if buffers.window.is_empty() {
        lz4_flex::block::decompress_into(&buffers.packed, plain)
    } else {
        lz4_flex::block::decompress_into_with_dict(&buffers.packed, plain, &buffers.window)
    };
    made.map_err(|e| bad_data(format!("the LZ4 block is broken ({e})"), at))
}

/// Keeps the last bytes of what was seen, `plain` being the latest.
fn remember(window: &mut Vec<u8>, plain: &[u8]) {
    let tail = plain.len().saturating_sub(WINDOW);
    window.extend_from_slice(plain.get(tail..).unwrap_or_default());
    let over = window.len().saturating_sub(WINDOW);
    window.drain(..over);
}

/// A legacy frame: blocks with their lengths until the end, or something else, follows.
fn legacy(input: &mut Input<'_>, output: &mut Output<'_>, buffers: &mut Buffers) -> Result<()> {
    buffers.window.clear();
    loop {
        let at = input.pos();
        if input.left() == 0 {
            return Ok(());
        }
        let Some(len) = input.peek::<4>()?.map(u32::from_le_bytes) else {
            return Ok(());
        };
        // A length that none can have is the magic number of another frame, or no part of this.
        if len > LEGACY_BOUND || len == 0 {
            return Ok(());
        }
        input.advance(4);
        buffers.packed = input.vec(len as usize)?;
        let made = unpack(buffers, LEGACY_BLOCK, at)?;
        let plain = buffers.plain.get(..made).unwrap_or_default();
        output.push(plain, input.taken())?;
    }
}
