//! Two tensors read side by side with bounded memory: one streams on a thread of its own.

use std::sync::mpsc::{Receiver, sync_channel};

use weighbridge_core::model::{Chunks, Tensor};
use weighbridge_core::{Error, Result};

/// Tensors up to this size are read whole: a thread would cost more.
const SMALL: u64 = 1 << 20;

/// Pieces in flight between the threads.
const AHEAD: usize = 2;

/// Takes matching runs of both sides and says whether to go on.
type Both<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool> + 'a;

/// The other side's bytes, piece by piece.
enum Other {
    Whole(Vec<u8>, usize),
    Stream {
        pieces: Receiver<Vec<u8>>,
        piece: Vec<u8>,
        at: usize,
    },
}

impl Other {
    /// Fills `buf` with the next bytes; fewer only at the end.
    fn take(&mut self, want: usize, buf: &mut Vec<u8>) {
        buf.clear();
        loop {
            let (have, at) = match self {
                Self::Whole(all, at) => (all.as_slice(), at),
                Self::Stream { piece, at, .. } => (piece.as_slice(), at),
            };
            let rest = have.get(*at..).unwrap_or_default();
            let n = rest.len().min(want - buf.len());
            buf.extend_from_slice(rest.get(..n).unwrap_or_default());
            *at += n;
            if buf.len() == want {
                return;
            }
            match self {
                Self::Whole(..) => return,
                Self::Stream { pieces, piece, at } => match pieces.recv() {
                    Ok(next) => (*piece, *at) = (next, 0),
                    Err(_) => return,
                },
            }
        }
    }
}

/// Calls `f` with matching runs of both tensors' row-major little-endian bytes, whole groups of
/// eight elements except at the end (so that packed dtypes line up too). `f` returns whether to
/// go on. Both tensors have the same number of elements.
///
/// # Errors
/// Whatever reading either gives, and what `f` returns.
pub(crate) fn in_step(a: &Tensor, b: &Tensor, f: &mut Both<'_>) -> Result<()> {
    let unit = (group(a), group(b));
    // How long texts are, only reading may tell.
    if b.byte_len() <= SMALL && !b.dtype.is_text() {
        let mut other = Other::Whole(b.read_vec()?, 0);
        return walk(a, unit, &mut other, f).map(|_| ());
    }
    std::thread::scope(|scope| {
        let (send, pieces) = sync_channel(AHEAD);
        let reader = scope.spawn(move || {
            b.stream(&mut Chunks::new(), &mut |part| {
                // The receiver leaves when it has seen a difference.
                send.send(part.to_vec()).map_err(|_| stopped())
            })
        });
        let mut other = Other::Stream {
            pieces,
            piece: Vec::new(),
            at: 0,
        };
        let walked = walk(a, unit, &mut other, f);
        drop(other);
        let read = reader
            .join()
            .map_err(|_| Error::io("reading a tensor", std::io::Error::other("a thread failed")))?;
        match (walked, read) {
            // What the thread could not read ends its pieces early: its error is the cause.
            (_, Err(e)) if e.rule() != STOPPED => Err(e),
            (walked, _) => walked.map(|_| ()),
        }
    })
}

/// Bytes of what is never torn apart: a block, or eight elements, which of n bits are n bytes.
fn group(t: &Tensor) -> usize {
    let block = t.dtype.block().map(|b| b.bytes);
    block.or(t.dtype.bits()).unwrap_or(1) as usize
}

const STOPPED: &str = "diff.stopped";

fn stopped() -> Error {
    Error::parameter(STOPPED, "the comparison ended early")
}

fn walk(
    a: &Tensor,
    (unit_a, unit_b): (usize, usize),
    other: &mut Other,
    f: &mut Both<'_>,
) -> Result<()> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut step = |left: &[u8], groups: usize, last: bool| -> Result<()> {
        // The last group is not a whole one: it is what the other side still has.
        let groups = if last { groups + 1 } else { groups };
        other.take(groups * unit_b, &mut right);
        match f(left, &right)? {
            true => Ok(()),
            false => Err(stopped()),
        }
    };
    let mut run = || {
        a.stream(&mut Chunks::new(), &mut |part| {
            let mut part = part;
            if !left.is_empty() {
                let need = (unit_a - left.len() % unit_a) % unit_a;
                let (head, rest) = part.split_at(need.min(part.len()));
                left.extend_from_slice(head);
                part = rest;
                if left.len() % unit_a != 0 {
                    return Ok(());
                }
                step(&left, left.len() / unit_a, false)?;
                left.clear();
            }
            let groups = part.len() / unit_a;
            let (now, later) = part.split_at(groups * unit_a);
            if groups > 0 {
                step(now, groups, false)?;
            }
            left.extend_from_slice(later);
            Ok(())
        })?;
        if left.is_empty() {
            return Ok(());
        }
        step(&left, left.len() / unit_a, true)
    };
    match run() {
        Err(e) if e.rule() == STOPPED => Ok(()),
        done => done,
    }
}

/// Whether two tensors of one dtype and shape have the same bytes; two of texts, the same texts.
///
/// # Errors
/// Whatever reading either gives.
pub(crate) fn same_bytes(a: &Tensor, b: &Tensor) -> Result<bool> {
    // As many texts, each with its length ahead: one side is never the beginning of the other.
    let texts = a.dtype.is_text() && b.dtype.is_text();
    if a.byte_len() != b.byte_len() && !texts {
        return Ok(false);
    }
    // Mapped bytes are compared where they lie, once no checksum is left to verify.
    let verified = |t: &Tensor| t.extent().is_some_and(|(s, _)| !s.needs_verify());
    if verified(a)
        && verified(b)
        && let (Some(x), Some(y)) = (a.borrowed(), b.borrowed())
    {
        return Ok(x == y);
    }
    let mut same = true;
    in_step(a, b, &mut |x, y| {
        same = x == y;
        Ok(same)
    })?;
    Ok(same)
}
