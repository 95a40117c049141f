//! Checked reads over a byte slice. Every read names its offset when it fails; none panics.

use crate::error::{Error, Result};

/// A position in a byte slice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
}

macro_rules! le {
    ($name:ident, $ty:ty, $doc:literal) => {
        #[doc = $doc]
        ///
        /// # Errors
        /// `Truncated` when too few bytes are left.
        pub fn $name(&mut self) -> Result<$ty> {
            Ok(<$ty>::from_le_bytes(self.array()?))
        }
    };
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, pos: 0 }
    }

    /// The position, in bytes from the start.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.data.len() - self.pos
    }

    /// The next byte, without taking it.
    pub fn peek(&self) -> Option<u8> {
        self.data.get(self.pos).copied()
    }

    /// Takes `n` bytes.
    ///
    /// # Errors
    /// `Truncated` when too few bytes are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.pos.checked_add(n);
        match end.and_then(|e| self.data.get(self.pos..e).map(|s| (s, e))) {
            Some((s, e)) => {
                self.pos = e;
                Ok(s)
            }
            None => Err(Error::truncated(
                "cursor.truncated",
                format!("{n} bytes are needed, {} are left", self.left()),
            )
            .at(self.pos as u64)),
        }
    }

    /// Moves to `pos`.
    ///
    /// # Errors
    /// `Truncated` when it lies past the end.
    pub fn seek(&mut self, pos: usize) -> Result<()> {
        if pos > self.data.len() {
            return Err(
                Error::truncated("cursor.truncated", "position past the end")
                    .at(self.data.len() as u64),
            );
        }
        self.pos = pos;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut a = [0u8; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// `Truncated` at the end.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    le!(u16, u16, "Takes a little-endian `u16`.");
    le!(u32, u32, "Takes a little-endian `u32`.");
    le!(u64, u64, "Takes a little-endian `u64`.");
    le!(i32, i32, "Takes a little-endian `i32`.");
    le!(i64, i64, "Takes a little-endian `i64`.");

    /// Takes a big-endian IEEE double.
    ///
    /// # Errors
    /// `Truncated` when too few bytes are left.
    pub fn f64_be(&mut self) -> Result<f64> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    /// Takes everything up to and excluding the next `\n`, and steps over it.
    ///
    /// # Errors
    /// `Truncated` when there is no line end.
    pub fn line(&mut self) -> Result<&'a [u8]> {
        let rest = self.data.get(self.pos..).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            Some(n) => {
                let line = self.take(n)?;
                self.pos += 1;
                Ok(line)
            }
            None => {
                Err(Error::truncated("cursor.truncated", "a line has no end").at(self.pos as u64))
            }
        }
    }
}
