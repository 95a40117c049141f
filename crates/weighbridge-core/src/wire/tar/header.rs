//! Header blocks: POSIX ustar (IEEE Std 1003.1 `pax`, "ustar Interchange Format"), the GNU
//! extensions (`tar.h` of GNU tar, "GNU extensions to the POSIX standard"), and pax records.

use super::Kind;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::ByteSource;

/// Everything in a tar file is in blocks of this many bytes.
pub(super) const BLOCK: u64 = 512;
/// Longest extended header: long names and pax records of real archives are far below.
const EXTENDED_MAX: u64 = 1 << 20;
/// Most blocks of a map of holes.
const SPARSE_MAX: u64 = 1 << 20;

/// A header block whose checksum holds, or a block of zeros.
pub(super) struct Block([u8; BLOCK as usize]);

pub(super) fn read_block(source: &dyn ByteSource, at: u64) -> Result<Block> {
    let mut raw = [0u8; BLOCK as usize];
    if at.checked_add(BLOCK).is_none_or(|end| end > source.len()) {
        return Err(Error::truncated("tar.truncated", "a header block is cut off").at(at));
    }
    source.read_at(at, &mut raw)?;
    Block::parse(&raw).map_err(|e| e.span(at, BLOCK))
}

impl Block {
    /// Takes the 512 bytes of `raw` for a header when its checksum holds.
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        let block: [u8; BLOCK as usize] = raw
            .try_into()
            .map_err(|_| Error::truncated("tar.truncated", "a header block is cut off"))?;
        let block = Self(block);
        if block.is_zero() {
            return Ok(block);
        }
        let stored = number(block.field(148, 8))?;
        // The sum of all bytes with the field itself as spaces; some old writers summed signed.
        let (mut plain, mut signed) = (8 * 32u64, 8 * 32i64);
        for (i, &b) in block.0.iter().enumerate() {
            if !(148..156).contains(&i) {
                plain += u64::from(b);
                signed += i64::from(b as i8);
            }
        }
        if stored != plain && i64::try_from(stored) != Ok(signed) {
            return Err(Error::malformed(
                "tar.bad-checksum",
                format!("the header's checksum is {stored}, its bytes sum to {plain}"),
            ));
        }
        Ok(block)
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|&b| b == 0)
    }

    fn field(&self, at: usize, len: usize) -> &[u8] {
        self.0.get(at..at + len).unwrap_or_default()
    }

    pub(super) fn flag(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or_default()
    }

    pub(super) fn kind(&self) -> Kind {
        match self.flag() {
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymLink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            b'S' => Kind::Sparse,
            other => Kind::Other(other),
        }
    }

    pub(super) fn size(&self) -> Result<u64> {
        number(self.field(124, 12))
    }

    /// The name, with the prefix that ustar (not GNU) headers have.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(0, 100));
        let prefix = until_nul(self.field(345, 155));
        if self.field(257, 6) != b"ustar\0" || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, name].join(&b'/')
    }

    pub(super) fn link(&self) -> Option<Vec<u8>> {
        let link = until_nul(self.field(157, 100));
        matches!(self.kind(), Kind::HardLink | Kind::SymLink).then(|| link.to_vec())
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A number field: octal digits between spaces and NULs, or base 256 behind a first byte of 0x80.
fn number(field: &[u8]) -> Result<u64> {
    let bad = |what: &str| {
        let shown = String::from_utf8_lossy(field).into_owned();
        Error::malformed(
            "tar.bad-number",
            format!("the number field {shown:?} {what}"),
        )
    };
    match field.split_first() {
        Some((0x80, digits)) => digits
            .iter()
            .try_fold(0u64, |n, &b| n.checked_mul(256)?.checked_add(u64::from(b)))
            .ok_or_else(|| bad("does not fit 64 bits")),
        Some((0x81..=0xff, _)) => Err(bad("is negative or too large")),
        _ => {
            let digits = until_nul(field).trim_ascii();
            digits
                .iter()
                .try_fold(0u64, |n, &b| {
                    let d = (b as char).to_digit(8)?;
                    n.checked_mul(8)?.checked_add(u64::from(d))
                })
                .ok_or_else(|| bad("is not octal"))
        }
    }
}

fn read_extended(source: &dyn ByteSource, block: &Block, at: u64) -> Result<Vec<u8>> {
    let size = block.size().map_err(|e| e.at(at))?;
    Limits::check(
        size,
        EXTENDED_MAX,
        "tar.extended-size",
        "bytes of an extended header",
    )
    .map_err(|e| e.at(at))?;
    let start = at.saturating_add(BLOCK);
    let end = start.saturating_add(size);
    if end > source.len() {
        return Err(Error::truncated("tar.truncated", "an extended header is cut off").at(at));
    }
    source.read_vec(start..end)
}

/// The GNU long name or long link target that follows the header `block` at `at`.
pub(super) fn read_long(source: &dyn ByteSource, block: &Block, at: u64) -> Result<Vec<u8>> {
    let raw = read_extended(source, block, at)?;
    Ok(until_nul(&raw).to_vec())
}

/// Steps over the blocks that continue an old GNU map of holes.
pub(super) fn skip_sparse_maps(source: &dyn ByteSource, block: &Block, at: u64) -> Result<u64> {
    // `isextended`: byte 482 of the header, byte 504 of each block that follows.
    let mut more = block.field(482, 1) != [0];
    let mut at = at;
    let mut blocks = 0;
    while more {
        blocks += 1;
        Limits::check(
            blocks,
            SPARSE_MAX,
            "tar.sparse-map",
            "blocks of a map of holes",
        )
        .map_err(|e| e.at(at))?;
        if at.checked_add(BLOCK).is_none_or(|end| end > source.len()) {
            return Err(Error::truncated("tar.truncated", "a map of holes is cut off").at(at));
        }
        let mut flag = [0u8; 1];
        source.read_at(at + 504, &mut flag)?;
        more = flag != [0];
        at += BLOCK;
    }
    Ok(at)
}

/// What extended headers say about the member that follows (or all that follow).
#[derive(Debug, Clone, Default)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// GNU's pax form of files with holes.
    pub sparse: bool,
}

impl Extended {
    pub(super) fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size.is_none() && !self.sparse
    }

    /// Fills what is missing from `globals`.
    pub(super) fn or(self, globals: &Self) -> Self {
        Self {
            path: self.path.or_else(|| globals.path.clone()),
            link: self.link.or_else(|| globals.link.clone()),
            size: self.size.or(globals.size),
            sparse: self.sparse || globals.sparse,
        }
    }

    /// Takes the pax records that follow the header `block` at `at`: each is its own length in
    /// decimal, a space, `key=value` and a line feed.
    pub(super) fn read_pax(
        &mut self,
        source: &dyn ByteSource,
        block: &Block,
        at: u64,
    ) -> Result<()> {
        let raw = read_extended(source, block, at)?;
        let mut rest = raw.as_slice();
        let mut named_sparse = false;
        // GNU tar and Python stop at a NUL: some writers pad the last block inside the size.
        while rest.first().is_some_and(|&b| b != 0) {
            let (record, left) = next_record(rest).ok_or_else(|| {
                let here = (raw.len() - rest.len()) as u64;
                Error::malformed(
                    "tar.bad-pax",
                    "a pax record does not have the length it states",
                )
                .at(at.saturating_add(BLOCK).saturating_add(here))
            })?;
            rest = left;
            let (key, value) = record;
            match key {
                b"path" if !named_sparse => self.path = Some(value.to_vec()),
                // The name that the file with holes had; the header's own is a placeholder.
                b"GNU.sparse.name" => {
                    self.path = Some(value.to_vec());
                    (self.sparse, named_sparse) = (true, true);
                }
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or_else(|| bad_size(at))?),
                k if k.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

fn bad_size(at: u64) -> Error {
    Error::malformed("tar.bad-pax", "the pax record `size` is no number").at(at)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, &b| {
        let d = (b as char).to_digit(10)?;
        n.checked_mul(10)?.checked_add(u64::from(d))
    })
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn next_record(raw: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = raw.iter().position(|&b| b == b' ')?;
    let len = usize::try_from(decimal(raw.get(..space)?)?).ok()?;
    let record = raw.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    let key = record.get(..equals)?;
    Some(((key, record.get(equals + 1..)?), raw.get(len..)?))
}
