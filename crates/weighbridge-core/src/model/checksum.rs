use std::fmt;

/// What TensorFlow adds to a CRC-32C after it has turned it (`tsl/lib/hash/crc32c.h`): checksums of
/// data that holds checksums would lose strength otherwise.
const MASK: u32 = 0xa282_ead8;

/// A checksum that a container stores for the bytes of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The CRC-32 of zip and zlib.
    Crc32(u32),
    /// The CRC-32C (Castagnoli) of TensorFlow's files, masked as they store it.
    MaskedCrc32c(u32),
}

impl Checksum {
    /// The masked CRC-32C of `bytes`.
    pub fn masked_crc32c(bytes: &[u8]) -> Self {
        Self::MaskedCrc32c(mask(crc32c::crc32c(bytes)))
    }

    /// The number as it is stored.
    pub fn value(self) -> u32 {
        match self {
            Self::Crc32(v) | Self::MaskedCrc32c(v) => v,
        }
    }

    /// The rule that a wrong one breaks.
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Crc32(_) => "zip.crc-mismatch",
            Self::MaskedCrc32c(_) => "tensorflow.crc-mismatch",
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crc32(v) => write!(f, "CRC-32 is {v:08x}"),
            Self::MaskedCrc32c(v) => write!(f, "masked CRC-32C is {v:08x}"),
        }
    }
}

/// A CRC-32C as TensorFlow stores it.
pub fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK)
}

/// A checksum on its way through the bytes.
pub(super) enum Running {
    None,
    Crc32(crc32fast::Hasher),
    Crc32c(u32),
}

impl Running {
    /// The beginning of a checksum of the kind of `stored`.
    pub(super) fn of(stored: Option<Checksum>) -> Self {
        match stored {
            None => Self::None,
            Some(Checksum::Crc32(_)) => Self::Crc32(crc32fast::Hasher::new()),
            Some(Checksum::MaskedCrc32c(_)) => Self::Crc32c(0),
        }
    }

    pub(super) fn update(&mut self, part: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32(h) => h.update(part),
            Self::Crc32c(c) => *c = crc32c::crc32c_append(*c, part),
        }
    }

    pub(super) fn finish(self) -> Option<Checksum> {
        match self {
            Self::None => None,
            Self::Crc32(h) => Some(Checksum::Crc32(h.finalize())),
            Self::Crc32c(c) => Some(Checksum::MaskedCrc32c(mask(c))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_algorithm() {
        // RFC 3720, B.4: 32 bytes of zeros; "123456789" is the catalogue's check input.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let mut running = Running::of(Some(Checksum::MaskedCrc32c(0)));
        running.update(b"1234");
        running.update(b"56789");
        let whole = Checksum::masked_crc32c(b"123456789");
        assert_eq!(running.finish(), Some(whole));
        assert_eq!(
            whole.value(),
            0xe306_9283_u32.rotate_right(15).wrapping_add(MASK)
        );
    }
}
