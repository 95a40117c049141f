//! The .xz file format, version 1.2.1: streams of blocks with an index, every part of which has a
//! checksum. The container is read here, so that sizes and checks are verified; LZMA2 and the
//! filters are a library's.

use lzma_rust2::filter::StreamFilter;
use lzma_rust2::{FilterConfig, FilterType, Lzma2Stream};
use sha2::{Digest, Sha256};

use super::lzma::{Lz, pump};
use super::{Input, Members, Output, bad_data, bad_header, checksum};
use crate::error::{Error, Result};

const MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
const FOOTER_MAGIC: [u8; 2] = *b"YZ";
/// Longest chain of filters, LZMA2 included (5.3.1).
const FILTERS: usize = 4;

/// What an index must say about the blocks, kept as a hash: there may be millions.
#[derive(Default)]
struct Records {
    count: u64,
    hash: Sha256,
    /// Bytes of the records as the index stores them.
    bytes: u64,
}

impl Records {
    fn add(&mut self, unpadded: u64, size: u64) {
        self.count = self.count.saturating_add(1);
        self.hash.update(unpadded.to_le_bytes());
        self.hash.update(size.to_le_bytes());
        self.bytes = self.bytes.saturating_add(vli_len(unpadded) + vli_len(size));
    }
}

pub(crate) fn decode(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut members = Members::default();
    loop {
        stream(input, output, &mut members)?;
        if !another(input)? {
            return Ok(());
        }
    }
}

/// Steps over padding (zeros, four by four) where another stream or the end follows it.
fn another(input: &mut Input<'_>) -> Result<bool> {
    let after = input.pos();
    while input.peek::<4>()? == Some([0; 4]) {
        input.advance(4);
    }
    if input.left() == 0 {
        return Ok(false);
    }
    if input.peek::<6>()? == Some(MAGIC) {
        return Ok(true);
    }
    input.seek(after);
    Ok(false)
}

fn stream(input: &mut Input<'_>, output: &mut Output<'_>, members: &mut Members) -> Result<()> {
    let at = input.pos();
    if input.array::<6>()? != MAGIC {
        return Err(bad_header("an xz stream begins with fd 37 7a 58 5a 00", at));
    }
    let flags = input.array::<2>()?;
    let stored = u32::from_le_bytes(input.array()?);
    verify("header's CRC-32", stored, &flags, at)?;
    let kind = Check::of(flags).ok_or_else(|| {
        Error::unsupported("codec.unsupported", "xz stream flags of a later version").at(at + 6)
    })?;
    let mut records = Records::default();
    loop {
        let at = input.pos();
        let [size] = input.peek::<1>()?.ok_or_else(|| input.cut())?;
        if size == 0 {
            let size = index(input, records)?;
            return footer(input, flags, size);
        }
        members.next(input)?;
        let (unpadded, size) = block(input, output, kind, at)?;
        records.add(unpadded, size);
    }
}

fn verify(what: &str, stored: u32, bytes: &[u8], at: u64) -> Result<()> {
    let computed = crc32fast::hash(bytes);
    if stored != computed {
        return Err(checksum(what, stored.into(), computed.into(), at));
    }
    Ok(())
}

/// The block's header: what it claims and its filters, LZMA2 apart.
struct Block {
    compressed: Option<u64>,
    size: Option<u64>,
    dict: u32,
    filters: Vec<FilterConfig>,
}

/// One block; gives its unpadded length and its decoded one.
fn block(
    input: &mut Input<'_>,
    output: &mut Output<'_>,
    kind: Check,
    at: u64,
) -> Result<(u64, u64)> {
    let [size] = input.array::<1>()?;
    let header_len = (usize::from(size) + 1) * 4;
    let rest = input.vec(header_len - 1)?;
    let mut header = vec![size];
    header.extend(rest);
    let (body, crc) = header.split_at(header_len - 4);
    let crc = crc.try_into().map(u32::from_le_bytes).unwrap_or_default();
    verify("block header's CRC-32", crc, body, at)?;
    let header = parse_block(body.get(1..).unwrap_or_default(), at)?;
    output.window(header.dict.into(), at)?;

    let data_at = input.pos();
    let mut check = Running::new(kind);
    let before = output.produced();
    lzma2(input, output, &header, &mut check)?;
    let compressed = input.pos().saturating_sub(data_at);
    let produced = output.produced().saturating_sub(before);
    let claimed = |what: &str, claim: Option<u64>, found: u64| match claim {
        Some(n) if n != found => Err(bad_data(
            format!("the block says its {what} is {n} bytes, it is {found}"),
            at,
        )),
        _ => Ok(()),
    };
    claimed("compressed size", header.compressed, compressed)?;
    claimed("size", header.size, produced)?;
    zeros(input, compressed)?;
    let check_at = input.pos();
    let stored = input.vec(kind.len())?;
    check.verify(&stored, check_at)?;
    let unpadded = (header_len as u64).saturating_add(compressed) + kind.len() as u64;
    Ok((unpadded, produced))
}

/// Padding to four bytes after `n`.
fn zeros(input: &mut Input<'_>, n: u64) -> Result<()> {
    for _ in 0..(4 - n % 4) % 4 {
        let at = input.pos();
        if input.array::<1>()? != [0] {
            return Err(bad_data("padding that is not zero", at));
        }
    }
    Ok(())
}

/// A block header after its size byte and without its checksum (3.1).
fn parse_block(raw: &[u8], at: u64) -> Result<Block> {
    let bad = |m: &str| bad_header(m, at);
    let mut rest = raw;
    let flags = byte(&mut rest).ok_or_else(|| bad("an empty block header"))?;
    if flags & 0x3c != 0 {
        return Err(
            Error::unsupported("codec.unsupported", "xz block flags of a later version").at(at),
        );
    }
    let cut = || bad("the block header is too short for what it announces");
    let mut optional = |bit: u8| match flags & bit {
        0 => Ok(None),
        _ => vli(&mut rest).map(Some).ok_or_else(cut),
    };
    let compressed = optional(0x40)?;
    let size = optional(0x80)?;
    let count = usize::from(flags & 3) + 1;
    let mut filters = Vec::with_capacity(FILTERS);
    let mut dict = None;
    for i in 0..count {
        let id = vli(&mut rest).ok_or_else(cut)?;
        let len = vli(&mut rest).and_then(|n| usize::try_from(n).ok());
        let (props, left) = len.and_then(|n| rest.split_at_checked(n)).ok_or_else(cut)?;
        rest = left;
        if i + 1 == count {
            dict = (id == 0x21).then(|| dictionary(props)).flatten();
        } else {
            filters.push(filter(id, props).ok_or_else(|| {
                Error::unsupported("codec.unsupported", format!("the xz filter {id:#x}")).at(at)
            })?);
        }
    }
    if rest.iter().any(|&b| b != 0) {
        return Err(bad("the block header's padding is not zero"));
    }
    Ok(Block {
        compressed,
        size,
        dict: dict.ok_or_else(|| bad("the last filter is not LZMA2 with one byte of size"))?,
        filters,
    })
}

/// 5.3.1: a mantissa of two or three and an exponent.
pub(crate) fn dictionary(props: &[u8]) -> Option<u32> {
    match props {
        [40] => Some(u32::MAX),
        &[n @ 0..40] => Some((2 | u32::from(n & 1)) << (n / 2 + 11)),
        _ => None,
    }
}

/// 5.3.2 and 5.3.3: branch filters with an optional start, delta with a distance.
pub(crate) fn filter(id: u64, props: &[u8]) -> Option<FilterConfig> {
    let filter_type = FilterType::try_from(id).ok()?;
    let property = match (filter_type, props) {
        (FilterType::Lzma2, _) => return None,
        (FilterType::Delta, &[distance]) => u32::from(distance) + 1,
        (FilterType::Delta, _) => return None,
        (_, []) => 0,
        (_, p) => u32::from_le_bytes(p.try_into().ok()?),
    };
    Some(FilterConfig {
        filter_type,
        property,
    })
}

/// A filter and the bytes it cannot judge before it has seen what follows them.
struct Stage {
    filter: StreamFilter,
    held: Vec<u8>,
}

/// Sends `piece` through `stages`, the last of which the encoder applied last.
fn through(
    stages: &mut [Stage],
    piece: &[u8],
    last: bool,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let Some((stage, before)) = stages.split_last_mut() else {
        return sink(piece);
    };
    stage.held.extend_from_slice(piece);
    let mut settled = stage.filter.decode(&mut stage.held).min(stage.held.len());
    if last {
        stage.filter.finish();
        settled = stage.held.len();
    }
    let rest = stage.held.split_off(settled);
    let ready = std::mem::replace(&mut stage.held, rest);
    through(before, &ready, last, sink)
}

fn lzma2(
    input: &mut Input<'_>,
    output: &mut Output<'_>,
    block: &Block,
    check: &mut Running,
) -> Result<()> {
    let mut stages = Vec::with_capacity(FILTERS);
    for config in &block.filters {
        let filter = StreamFilter::new(config).map_err(|e| bad_header(e.to_string(), input.pos()));
        stages.push(Stage {
            filter: filter?,
            held: Vec::new(),
        });
    }
    let make = || Ok(Lz::Two(Box::new(Lzma2Stream::new(block.dict))));
    pump(input, &make, &mut |piece, ended, taken| {
        through(&mut stages, piece, ended, &mut |done| {
            check.update(done);
            output.push(done, taken)
        })
    })
}

/// The index: how many blocks, and the two lengths of each; gives its own length.
fn index(input: &mut Input<'_>, blocks: Records) -> Result<u64> {
    let at = input.pos();
    let mut crc = crc32fast::Hasher::new();
    let mut len = 1u64;
    crc.update(&input.array::<1>()?);
    let mut next = |input: &mut Input<'_>| -> Result<u64> {
        let mut n = 0u64;
        for i in 0..9 {
            let [b] = input.array::<1>()?;
            crc.update(&[b]);
            len += 1;
            n |= u64::from(b & 0x7f) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(bad_data("a number of the index does not end", at))
    };
    let count = next(input)?;
    let mut found = Records::default();
    if count != blocks.count {
        let message = format!("the index lists {count} blocks, there are {}", blocks.count);
        return Err(bad_data(message, at));
    }
    for _ in 0..count {
        let (unpadded, size) = (next(input)?, next(input)?);
        found.add(unpadded, size);
    }
    if found.hash.finalize() != blocks.hash.finalize() {
        return Err(bad_data("the index does not describe the blocks", at));
    }
    while !len.is_multiple_of(4) {
        let pad = input.array::<1>()?;
        if pad != [0] {
            return Err(bad_data("padding of the index that is not zero", at));
        }
        crc.update(&pad);
        len += 1;
    }
    let crc_at = input.pos();
    let stored = u32::from_le_bytes(input.array()?);
    let computed = crc.finalize();
    if stored != computed {
        let what = "index's CRC-32";
        return Err(checksum(what, stored.into(), computed.into(), crc_at));
    }
    Ok(len + 4)
}

fn footer(input: &mut Input<'_>, flags: [u8; 2], index: u64) -> Result<()> {
    let at = input.pos();
    let stored = u32::from_le_bytes(input.array()?);
    let body = input.array::<6>()?;
    verify("footer's CRC-32", stored, &body, at)?;
    let [a, b, c, d, e, f] = body;
    let backward = (u64::from(u32::from_le_bytes([a, b, c, d])) + 1) * 4;
    if [e, f] != flags || backward != index || input.array::<2>()? != FOOTER_MAGIC {
        return Err(bad_data("the footer is not that of this stream", at));
    }
    Ok(())
}

/// A check type (2.1.1.2).
#[derive(Clone, Copy)]
struct Check(u8);

impl Check {
    fn of(flags: [u8; 2]) -> Option<Self> {
        match flags {
            [0, kind @ 0..16] => Some(Self(kind)),
            _ => None,
        }
    }

    /// Bytes of the check.
    fn len(self) -> usize {
        match self.0 {
            0 => 0,
            n => 4 << ((n - 1) / 3),
        }
    }
}

/// A check while it runs. Types without a definition are stepped over, as xz does.
enum Running {
    None,
    Crc32(crc32fast::Hasher),
    Crc64(u64),
    Sha256(Box<Sha256>),
}

impl Running {
    fn new(check: Check) -> Self {
        match check.0 {
            1 => Self::Crc32(crc32fast::Hasher::new()),
            4 => Self::Crc64(u64::MAX),
            10 => Self::Sha256(Box::default()),
            _ => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32(h) => h.update(bytes),
            Self::Crc64(n) => *n = crc64(*n, bytes),
            Self::Sha256(h) => h.update(bytes),
        }
    }

    fn verify(self, stored: &[u8], at: u64) -> Result<()> {
        let number = |b: &[u8]| b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let (what, computed) = match self {
            Self::None => return Ok(()),
            Self::Crc32(h) => ("CRC-32", h.finalize().to_le_bytes().to_vec()),
            Self::Crc64(n) => ("CRC-64", (!n).to_le_bytes().to_vec()),
            Self::Sha256(h) => ("SHA-256", h.finalize().to_vec()),
        };
        if computed != stored {
            let short = |b: &[u8]| number(b.get(..8).unwrap_or(b));
            return Err(checksum(what, short(stored), short(&computed), at));
        }
        Ok(())
    }
}

/// ECMA-182, reflected.
const CRC64: [u64; 256] = {
    let mut table = [0u64; 256];
    let mut i = 0;
    while i < 256 {
        let mut n = i as u64;
        let mut bit = 0;
        while bit < 8 {
            n = if n & 1 == 1 {
                n >> 1 ^ 0xc96c_5795_d787_0f42
            } else {
                n >> 1
            };
            bit += 1;
        }
        table[i] = n;
        i += 1;
    }
    table
};

fn crc64(crc: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(crc, |n, &b| {
        let entry = CRC64.get(usize::from(n as u8 ^ b));
        n >> 8 ^ entry.copied().unwrap_or_default()
    })
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (&b, left) = rest.split_first()?;
    *rest = left;
    Some(b)
}

/// A number of up to nine bytes, seven bits each, the lowest first (1.2).
fn vli(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for i in 0..9 {
        let b = byte(rest)?;
        n |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn vli_len(n: u64) -> u64 {
    u64::from(64 - n.leading_zeros()).div_ceil(7).max(1)
}
