//! Reading a stream as far as it goes, with long arrays left out.

use std::borrow::Cow;

use weighbridge_core::pickle::{self, Trace};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Limits, Result};

use super::{FIRST_READ, Holes, Loader};

/// How much more is read, and run from the start again, when that did not reach the end, in
/// multiples of what was read so far: what was run in vain stays a small part.
const GROWTH: u64 = 15;

/// Arrays longer than this are left out of what is read of a stream, unless the rest of it is
/// longer still: what is run again for each of them is then never more than the file.
const LEAST_HOLE: u64 = 1 << 20;

/// The same for a reader, which holds no array in memory that it need not.
const READER_HOLE: u64 = 256 << 10;
const READER_SHARE: u64 = 8;

/// What to do after a run over the bytes at hand.
pub(crate) enum Step {
    /// Read so many more.
    More(u64),
    /// Leave out an array: where it begins and how long it is.
    Leave(usize, u64),
    /// The run says all there is to say, but for this.
    Done(Option<Error>),
}

/// What to do after `trace`, a run over the first bytes of a stream of `left` bytes; `whole` when
/// that was all of it.
pub(crate) fn step(trace: &Trace<'_>, loader: &Loader<'_>, whole: bool, left: u64) -> Step {
    if !trace.is_cut_short() || whole {
        return Step::Done(None);
    }
    let have = trace.data.len() as u64;
    let Some((p, len)) = loader.wanted else {
        return Step::More(have.saturating_mul(GROWTH));
    };
    let there = loader
        .real(p)
        .checked_add(len)
        .is_some_and(|end| end <= left);
    match len > LEAST_HOLE.max(have) {
        _ if !there => Step::Done(None),
        true => Step::Leave(p, len),
        false => Step::More(len.saturating_add(FIRST_READ)),
    }
}

/// A stream that runs to its end.
#[derive(Debug)]
pub(crate) struct Loaded<'s> {
    /// Its bytes without the arrays that were left out.
    pub(crate) data: Cow<'s, [u8]>,
    /// What was left out.
    pub(crate) holes: Holes,
    /// Its length with them.
    pub(crate) end: u64,
}

/// Reads the stream that begins at `at`, in growing steps, since only its opcodes say where it
/// ends.
///
/// # Errors
/// What the pickle machine finds wrong, with offsets counted in the file.
pub(crate) fn load<'s>(source: &'s dyn ByteSource, at: u64, limits: &Limits) -> Result<Loaded<'s>> {
    let left = source.len().saturating_sub(at);
    // What lies in memory already is not copied.
    if left <= limits.pickle_bytes
        && let Some(data) = source.slice(at..source.len())
    {
        let holes = Holes::default();
        let trace = pickle::run_with(data, limits, &mut Loader::new(&holes));
        let end = trace.end;
        return match trace.error {
            None => Ok(Loaded {
                data: Cow::Borrowed(data.get(..end).unwrap_or(data)),
                holes,
                end: end as u64,
            }),
            Some(e) => Err(e.shifted(at)),
        };
    }
    let (mut data, mut holes, mut want) = (Vec::new(), Holes::default(), FIRST_READ);
    loop {
        let next = (data.len() as u64).saturating_add(holes.total());
        let n = want.min(left.saturating_sub(next));
        Limits::check(
            (data.len() as u64).saturating_add(n),
            limits.pickle_bytes,
            "pickle.too-large",
            "bytes of a pickle",
        )?;
        let from = at.saturating_add(next);
        data.extend(source.read_vec(from..from.saturating_add(n))?);
        let whole = next.saturating_add(n) >= left;
        let have = data.len() as u64;

        let mut loader = Loader::new(&holes);
        let trace = pickle::run_with(&data, limits, &mut loader);
        let (end, wanted) = (trace.end, loader.wanted);
        let cut = trace.is_cut_short();
        let Some(e) = trace.error else {
            data.truncate(end);
            let end = holes.real(end);
            return Ok(Loaded {
                data: Cow::Owned(data),
                holes,
                end,
            });
        };
        match wanted {
            Some((p, len)) if !whole => {
                let end = holes.real(p).checked_add(len);
                if end.is_none_or(|end| end > left) {
                    return Err(e.shifted(at.saturating_add(holes.total())));
                }
                if len > READER_HOLE.max(have / READER_SHARE) {
                    data.truncate(p);
                    holes.push(p, len);
                    want = FIRST_READ;
                } else {
                    want = len.saturating_add(FIRST_READ);
                }
            }
            // A line cut short by the end of the bytes at hand is none of the stream's faults.
            None if !whole && (cut || end as u64 >= have) => {
                want = have.saturating_mul(3).max(FIRST_READ);
            }
            _ => {
                let offset = e.byte_span().map_or(0, |s| s.offset);
                let real = holes.real(usize::try_from(offset).unwrap_or(usize::MAX));
                return Err(e.shifted(at.saturating_add(real.saturating_sub(offset))));
            }
        }
    }
}
