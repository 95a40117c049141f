//! The fields of a structure, read one after the other, with the widths of addresses and lengths
//! that the superblock declares.

use crate::cursor::Cursor;
use crate::error::{Error, Result};

/// How wide a file's addresses and lengths are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) offset: u8,
    pub(super) length: u8,
}

/// A cursor over one structure.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    cursor: Cursor<'a>,
    data: &'a [u8],
    /// Where the structure lies in the file.
    at: u64,
    sizes: Sizes,
}

impl<'a> Fields<'a> {
    pub(super) fn new(data: &'a [u8], at: u64, sizes: Sizes) -> Self {
        Self {
            cursor: Cursor::new(data),
            data,
            at,
            sizes,
        }
    }

    /// Where the next byte lies in the file.
    pub(super) fn place(&self) -> u64 {
        self.at.saturating_add(self.cursor.pos() as u64)
    }

    pub(super) fn pos(&self) -> usize {
        self.cursor.pos()
    }

    pub(super) fn left(&self) -> usize {
        self.cursor.left()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.data.get(self.cursor.pos()..).unwrap_or_default()
    }

    fn located<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|_| {
            Error::truncated("hdf5.short", "a structure ends before its fields do").at(self.place())
        })
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let taken = self.cursor.take(n);
        self.located(taken)
    }

    pub(super) fn skip(&mut self, n: usize) -> Result<()> {
        self.take(n).map(|_| ())
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        let n = self.cursor.u8();
        self.located(n)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        let n = self.cursor.u16();
        self.located(n)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        let n = self.cursor.u32();
        self.located(n)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        let n = self.cursor.u64();
        self.located(n)
    }

    /// A number of `width` bytes, at most eight.
    pub(super) fn uint(&mut self, width: usize) -> Result<u64> {
        Ok(little(self.take(width.min(8))?))
    }

    /// How wide a length is.
    pub(super) fn length_width(&self) -> usize {
        self.sizes.length.into()
    }

    /// A length.
    pub(super) fn length(&mut self) -> Result<u64> {
        self.uint(self.sizes.length.into())
    }

    /// An address; `None` for the one that means none, of which every bit is set.
    pub(super) fn address(&mut self) -> Result<Option<u64>> {
        let bytes = self.take(self.sizes.offset.into())?;
        Ok(bytes.iter().any(|&b| b != 0xff).then(|| little(bytes)))
    }

    /// Expects `tag` next.
    pub(super) fn tag(&mut self, tag: &[u8; 4], rule: &'static str) -> Result<()> {
        let place = self.place();
        if self.take(4)? != tag {
            let tag = String::from_utf8_lossy(tag);
            return Err(Error::malformed(rule, format!("there is no {tag} here")).at(place));
        }
        Ok(())
    }

    /// Expects a version up to `most`, and gives it.
    pub(super) fn version(
        &mut self,
        range: std::ops::RangeInclusive<u8>,
        rule: &'static str,
    ) -> Result<u8> {
        let place = self.place();
        let version = self.u8()?;
        if !range.contains(&version) {
            let message = format!("version {version} of this structure is not known");
            return Err(Error::unsupported(rule, message).at(place));
        }
        Ok(version)
    }

    /// Bytes up to a NUL, which is stepped over.
    pub(super) fn text(&mut self) -> Result<&'a [u8]> {
        let rest = self.rest();
        let n = memchr::memchr(0, rest).unwrap_or(rest.len());
        let text = self.take(n)?;
        self.skip(1)?;
        Ok(text)
    }
}

/// The number that up to eight bytes are, the lowest first.
pub(super) fn little(bytes: &[u8]) -> u64 {
    let mut n = [0u8; 8];
    for (to, from) in n.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(n)
}

/// How many bytes hold every number up to `limit` (`H5VM_limit_enc_size`).
pub(super) fn enough_for(limit: u64) -> usize {
    limit.checked_ilog2().unwrap_or(0) as usize / 8 + 1
}

/// A name or text as the model has it.
pub(super) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
