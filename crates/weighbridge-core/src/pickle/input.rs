//! Where the machine's bytes come from: the stream, and what its frames do to the order of reading.
//!
//! CPython's C unpickler (`_Unpickler_ReadImpl` and `_Unpickler_ReadFromFile` of
//! `Modules/_pickle.c`) reads a frame from a file into a buffer of its own. When an opcode then
//! needs more bytes than the buffer has left, what is left is dropped and the opcode's bytes are
//! read from behind the frame. From a bytes object, and from a file whose own buffer happens to
//! hold the whole frame, nothing is dropped. The readings differ only where an opcode crosses the
//! end of its frame, which no pickler writes and which Python refuses since 3.13.15 and 3.14.7
//! (python/cpython issue 154848).

use super::machine::{PREFETCH, Reading};
use crate::error::{Error, Result};

/// The reading end of a stream.
#[derive(Debug)]
pub(super) struct Input<'a> {
    data: &'a [u8],
    pos: usize,
    /// End of the frame that a file's reader holds in its buffer.
    frame: Option<usize>,
    /// Where reading goes on behind that frame: its end, unless the loader has read on there.
    behind: usize,
    /// How frames are treated.
    reading: Reading,
    /// What was decided so far.
    pub(super) decided: Vec<bool>,
    /// Where a frame's end was first crossed.
    pub(super) crossed_at: Option<usize>,
    /// The crossings that were met.
    pub(super) crossings: usize,
}

/// Crossings that are remembered; a reading that has more follows the bytes in order.
const MOST_CROSSINGS: usize = 64;

/// A line as a text opcode reads it.
pub(super) struct Line<'a> {
    /// Without its `\n`.
    pub(super) text: &'a [u8],
    /// Where it starts.
    pub(super) start: usize,
    /// Whether it has its `\n`.
    pub(super) ended: bool,
}

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8], reading: Reading) -> Self {
        Self {
            data,
            pos: 0,
            frame: None,
            behind: 0,
            reading,
            decided: Vec::new(),
            crossed_at: None,
            crossings: 0,
        }
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    pub(super) fn left(&self) -> usize {
        self.data.len().saturating_sub(self.pos)
    }

    /// End of the frame the position lies in.
    pub(super) fn frame_end(&self) -> Option<usize> {
        self.frame.filter(|&end| self.pos < end)
    }

    /// Where the file stands: behind the frame that is held, whatever of it was used.
    pub(super) fn file_pos(&self) -> usize {
        match self.frame_end() {
            Some(_) => self.behind,
            None => self.pos,
        }
    }

    /// The loader reads `n` bytes from the file itself.
    pub(super) fn skip(&mut self, n: usize) -> Result<()> {
        let from = self.file_pos();
        let Some(to) = from.checked_add(n).filter(|&to| to <= self.data.len()) else {
            return Err(short(n, self.data.len().saturating_sub(from)));
        };
        match self.frame_end() {
            Some(_) => self.behind = to,
            // A frame that was read to its end has nothing left to go back to.
            None => (self.pos, self.frame) = (to, None),
        }
        Ok(())
    }

    /// Leaves the frame for a read that does not fit into it.
    fn leave(&mut self, end: usize) -> Result<()> {
        if self.pos < end {
            if self.crossed_at.is_none() {
                self.crossed_at = Some(self.pos);
            }
            let drops = match &self.reading {
                Reading::Plan(plan) => plan.get(self.crossings).copied().unwrap_or(false),
                Reading::Buffered(_) => true,
            };
            self.crossings += 1;
            if self.decided.len() < MOST_CROSSINGS {
                self.decided.push(drops);
            }
            if drops {
                self.pos = self.behind;
            } else if self.behind != end {
                return Err(Error::malformed(
                    "pickle.frame-crossed",
                    "an opcode crosses the end of its frame, where raw bytes follow",
                ));
            }
        } else {
            self.pos = self.behind;
        }
        self.frame = None;
        Ok(())
    }

    /// Takes `n` bytes.
    #[inline]
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if let Some(end) = self.frame
            && n > end.saturating_sub(self.pos)
        {
            self.leave(end)?;
        }
        self.take_here(n)
    }

    #[inline]
    fn take_here(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.pos.saturating_add(n);
        match self.data.get(self.pos..end) {
            Some(bytes) => {
                self.pos = end;
                Ok(bytes)
            }
            None => Err(short(n, self.left())),
        }
    }

    /// Takes `n` bytes the way a byte string is read: first what the frame still has, then what
    /// follows it, so that nothing is ever dropped.
    pub(super) fn take_through(&mut self, n: usize) -> Result<&'a [u8]> {
        if let Some(end) = self.frame
            && n > end.saturating_sub(self.pos)
        {
            if self.pos >= end {
                self.pos = self.behind;
            } else if self.behind != end {
                return self.take(n);
            } else if self.crossed_at.is_none() {
                self.crossed_at = Some(self.pos);
            }
            self.frame = None;
        }
        self.take_here(n)
    }

    /// Takes `N` bytes.
    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut a = [0u8; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    /// Takes the next byte, which is an opcode unless the stream ends here.
    #[inline]
    pub(super) fn opcode(&mut self) -> Option<u8> {
        self.take(1).ok()?.first().copied()
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a line. One that the stream's end cuts off is given without its last byte, as
    /// Python's own `readline()[:-1]` has it.
    pub(super) fn line(&mut self) -> Result<Line<'a>> {
        if let Some(end) = self.frame {
            let held = self.data.get(self.pos..end).unwrap_or_default();
            if let Some(n) = memchr::memchr(b'\n', held) {
                let start = self.pos;
                self.pos = start + n + 1;
                return Ok(Line {
                    text: held.get(..n).unwrap_or_default(),
                    start,
                    ended: true,
                });
            }
            self.leave(end)?;
        }
        let start = self.pos;
        let rest = self.data.get(start..).unwrap_or_default();
        let (n, ended) = match memchr::memchr(b'\n', rest) {
            Some(n) => (n, true),
            None => (rest.len().saturating_sub(1), false),
        };
        self.pos = if ended {
            start + n + 1
        } else {
            self.data.len()
        };
        Ok(Line {
            text: rest.get(..n).unwrap_or_default(),
            start,
            ended,
        })
    }

    /// Begins a frame of `n` bytes. One that lies whole in the frame that is held changes nothing.
    ///
    /// Gives how many bytes there are, when they are fewer: the C reader gives up then, and the
    /// one in Python takes what there is.
    pub(super) fn begin_frame(&mut self, n: u64) -> Result<Option<usize>> {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        if n == 0 {
            return Ok(None);
        }
        if let Some(end) = self.frame {
            if n <= end.saturating_sub(self.pos) {
                return Ok(None);
            }
            self.leave(end)?;
        }
        match self.pos.checked_add(n).filter(|&e| e <= self.data.len()) {
            Some(end) if self.reads_in_place(end) => Ok(None),
            Some(end) => {
                (self.frame, self.behind) = (Some(end), end);
                Ok(None)
            }
            None => Ok(Some(self.left())),
        }
    }
}

impl Input<'_> {
    /// Whether a frame from here to `end` lies whole in the buffer of the file, and is not held.
    fn reads_in_place(&self, end: usize) -> bool {
        match self.reading {
            Reading::Plan(_) => false,
            Reading::Buffered(buffer) => {
                let filled = (self.pos / buffer + 1).saturating_mul(buffer);
                end.saturating_sub(self.pos) < PREFETCH && end <= filled
            }
        }
    }
}

fn short(n: usize, left: usize) -> Error {
    Error::truncated(
        "pickle.truncated",
        format!("{n} bytes are needed, {left} are left"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_whole_opcodes_reads_alike() {
        for plan in [vec![], vec![true]] {
            let mut i = Input::new(b"abcdef\nx", Reading::Plan(plan));
            assert_eq!(i.begin_frame(3).unwrap(), None);
            assert_eq!(i.take(3).unwrap(), b"abc");
            assert_eq!(i.line().unwrap().text, b"def");
            assert_eq!((i.crossings, i.pos()), (0, 7));
        }
    }

    #[test]
    fn what_crosses_the_end_drops_the_rest_or_not() {
        let mut linear = Input::new(b"abcdef", Reading::Plan(vec![]));
        linear.begin_frame(3).unwrap();
        assert_eq!(linear.take(1).unwrap(), b"a");
        assert_eq!(linear.take(3).unwrap(), b"bcd");
        assert_eq!(linear.crossed_at, Some(1));
        let mut framed = Input::new(b"abcdef", Reading::Plan(vec![true]));
        framed.begin_frame(3).unwrap();
        assert_eq!(framed.take(1).unwrap(), b"a");
        assert_eq!(framed.file_pos(), 3);
        assert_eq!(framed.take(3).unwrap(), b"def");
        assert_eq!(framed.decided, [true]);
    }

    #[test]
    fn byte_strings_never_drop_anything() {
        let mut framed = Input::new(b"abcdef", Reading::Plan(vec![true]));
        framed.begin_frame(3).unwrap();
        assert_eq!(framed.take_through(4).unwrap(), b"abcd");
        assert_eq!((framed.crossings, framed.crossed_at), (0, Some(0)));
    }

    #[test]
    fn a_frame_inside_a_frame_changes_nothing() {
        let mut i = Input::new(b"abcdef", Reading::Plan(vec![true]));
        i.begin_frame(5).unwrap();
        i.begin_frame(2).unwrap();
        assert_eq!(i.take(5).unwrap(), b"abcde");
        assert_eq!(i.begin_frame(9).unwrap(), Some(1));
    }

    #[test]
    fn lines_know_whether_they_end() {
        let mut i = Input::new(b"ab\ncd", Reading::Plan(vec![]));
        assert!(i.line().unwrap().ended);
        let l = i.line().unwrap();
        assert_eq!((l.text, l.start, l.ended), (&b"c"[..], 3, false));
        assert_eq!(i.line().unwrap().text, b"");
    }

    #[test]
    fn raw_bytes_lie_behind_the_frame() {
        let mut i = Input::new(b"abRRRc", Reading::Plan(vec![]));
        i.begin_frame(2).unwrap();
        i.take(1).unwrap();
        i.skip(3).unwrap();
        assert_eq!(i.take(1).unwrap(), b"b");
        assert_eq!(i.take(1).unwrap(), b"c");
        assert!(i.skip(1).is_err());
        let mut i = Input::new(b"aRRb", Reading::Plan(vec![]));
        i.begin_frame(1).unwrap();
        i.take(1).unwrap();
        i.skip(2).unwrap();
        assert_eq!(i.take(1).unwrap(), b"b");
    }
}
