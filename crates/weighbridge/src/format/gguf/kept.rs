//! What a header keeps of its file's bytes.

use std::ops::Range;

/// Bytes of a file by their place in it.
#[derive(Debug)]
pub(super) enum Bytes<'a> {
    /// All of them, lent by a mapping.
    Lent(&'a [u8]),
    /// Pieces, copied.
    Kept(Kept),
}

impl Bytes<'_> {
    /// The bytes of `range`, none where it was not kept.
    pub(super) fn get(&self, range: &Range<usize>) -> &[u8] {
        match self {
            Self::Lent(all) => all.get(range.clone()).unwrap_or_default(),
            Self::Kept(kept) => kept.get(range).unwrap_or_default(),
        }
    }

    /// Keeps `piece`, which lies at `at`: behind all that was kept before.
    pub(super) fn keep(&mut self, at: usize, piece: &[u8]) {
        if let Self::Kept(kept) = self {
            kept.push(at, piece);
        }
    }
}

/// Pieces of a file in their order.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// Where each piece begins, in the file and in `bytes`.
    pieces: Vec<(usize, usize)>,
}

impl Kept {
    /// The beginning of a file.
    pub(super) fn start(bytes: Vec<u8>) -> Self {
        let pieces = vec![(0, 0)];
        Self { bytes, pieces }
    }

    fn push(&mut self, at: usize, piece: &[u8]) {
        if !piece.is_empty() {
            self.pieces.push((at, self.bytes.len()));
            self.bytes.extend_from_slice(piece);
        }
    }

    fn get(&self, range: &Range<usize>) -> Option<&[u8]> {
        let behind = self.pieces.partition_point(|(at, _)| *at <= range.start);
        let (at, start) = self.pieces.get(behind.checked_sub(1)?)?;
        let end = self
            .pieces
            .get(behind)
            .map_or(self.bytes.len(), |(_, s)| *s);
        let piece = self.bytes.get(*start..end)?;
        piece.get(range.start.checked_sub(*at)?..range.end.checked_sub(*at)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_kept_is_found() {
        let mut all = Bytes::Kept(Kept::default());
        all.keep(10, b"abc");
        all.keep(13, b"");
        all.keep(20, b"de");
        assert_eq!(all.get(&(10..13)), b"abc");
        assert_eq!(all.get(&(11..12)), b"b");
        assert_eq!(all.get(&(20..22)), b"de");
        for lost in [9..11, 10..14, 12..21, 13..14, 20..23, 0..0, 30..31] {
            assert_eq!(all.get(&lost), b"", "{lost:?}");
        }
        assert_eq!(Bytes::Kept(Kept::start(vec![1, 2])).get(&(1..2)), [2]);
        assert_eq!(Bytes::Lent(&[1, 2]).get(&(1..3)), b"");
    }
}
