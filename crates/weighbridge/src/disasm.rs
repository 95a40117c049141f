//! The pickles of a file, for people who want to read them.

use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::pickle::{self, Op, Trace};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::tar::is_tar;
use weighbridge_core::wire::zip::{Archive, Member, Method};
use weighbridge_core::{Error, Limits, Result};

use crate::format::joblib::{Holes, Loader};
use crate::format::pytorch;

/// One pickle of a file.
#[derive(Debug)]
pub struct Found<'a> {
    /// The archive member or stream it is; empty for a file that is one pickle.
    pub place: String,
    /// Where its first byte lies in the file; in the member, for members.
    pub offset: u64,
    /// The bytes, to its end or the break.
    pub data: &'a [u8],
    /// What it does.
    pub trace: Trace<'a>,
}

impl Found<'_> {
    /// Ranges of the bytes that are no opcodes: what joblib's loader reads itself.
    pub fn raw(&self) -> &[Range<usize>] {
        &self.trace.raw
    }
}

/// How much of a stream is read at first.
const FIRST_READ: u64 = 8 << 10;

/// Longest compressed member that is unpacked to see whether it is a pickle.
const MOST_UNPACKED: u64 = 64 << 20;

/// Most pickles of one file.
const MOST: usize = 10_000;

/// Hands every pickle of the file to `each`, in order: those of a torch file or another zip
/// archive, the one in a NumPy array of objects, or streams that follow each other. Gives how many
/// bytes at the end of the last stream belong to none.
///
/// # Errors
/// `Unsupported` when there is no pickle, and what reading the container gives.
pub fn pickles(
    source: &Arc<dyn ByteSource>,
    limits: &Limits,
    each: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<u64> {
    let head = source.read_vec(0..source.len().min(FIRST_READ))?;
    let mut found = false;
    if head.starts_with(b"PK\x03\x04") {
        found = members(source, limits, each)?;
    } else if is_tar(&head) {
        for p in pytorch::pickles(source, limits)? {
            found = true;
            let trace = pickle::run(&p.data, limits);
            each(Found {
                place: p.place,
                offset: p.offset,
                data: &p.data,
                trace,
            })?;
        }
    } else {
        return streams(source, npy_data(&head).unwrap_or(0), limits, each);
    }
    if found { Ok(0) } else { Err(none(source)) }
}

fn none(source: &Arc<dyn ByteSource>) -> Error {
    Error::unsupported("disasm.no-pickle", "there is no pickle in it")
        .in_file(source.name())
        .help("weighbridge scan FILE says what it is")
}

/// Pickles that follow each other from `start`.
fn streams(
    source: &Arc<dyn ByteSource>,
    start: u64,
    limits: &Limits,
    each: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<u64> {
    let mut at = start;
    for n in 0..MOST {
        let left = source.len().saturating_sub(at);
        if n > 0 && left == 0 {
            return Ok(0);
        }
        let data = whole(source.as_ref(), at, limits)?;
        let trace = run(&data, limits);
        let known = data.first().is_some_and(|b| Op::from_byte(*b).is_some());
        if n == 0 && !known {
            return Err(none(source));
        }
        // What follows a pickle is another one when it says so, or runs to its end.
        if n > 0 && trace.root.is_none() && !begins(&data) {
            return Ok(left);
        }
        let (end, done) = (trace.end, trace.root.is_some());
        let alone = n == 0 && end as u64 == left;
        each(Found {
            place: if alone {
                String::new()
            } else {
                format!("pickle {}", n + 1)
            },
            offset: at,
            data: data.get(..end).unwrap_or_default(),
            trace,
        })?;
        if !done {
            return Ok(0);
        }
        at = at.saturating_add(end as u64);
    }
    Err(Error::limit(
        "disasm.too-many-pickles",
        "the stream holds too many pickles",
    ))
}

fn run<'a>(data: &'a [u8], limits: &Limits) -> Trace<'a> {
    let holes = Holes::default();
    pickle::run_with(data, limits, &mut Loader::new(&holes))
}

/// As many bytes from `at` on as the pickle there takes.
fn whole(source: &dyn ByteSource, at: u64, limits: &Limits) -> Result<Vec<u8>> {
    let left = source.len().saturating_sub(at);
    let most = left.min(limits.pickle_bytes);
    let mut n = FIRST_READ.min(most);
    loop {
        let data = source.read_vec(at..at.saturating_add(n))?;
        if n >= most || !run(&data, limits).is_cut_short() {
            return Ok(data);
        }
        n = n.saturating_mul(4).min(most);
    }
}

/// Whether bytes begin a pickle that says so.
fn begins(data: &[u8]) -> bool {
    matches!(data, [0x80, 0..=5, op, ..] if Op::from_byte(*op).is_some())
}

/// Where the data of a NumPy file begins (`numpy/lib/format.py`).
fn npy_data(head: &[u8]) -> Option<u64> {
    match head {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => {
            Some(10 + u64::from(u16::from_le_bytes([*a, *b])))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', _, _, a, b, c, d, ..] => {
            Some(12 + u64::from(u32::from_le_bytes([*a, *b, *c, *d])))
        }
        _ => None,
    }
}

/// Names of members that say what they are.
const NAMES: [&str; 6] = [".pkl", ".pickle", ".p", ".joblib", ".dill", ".npy"];

/// Whether the first bytes of a member begin a pickle. Stored ones are looked at in place: most
/// are the weights.
fn promises(archive: &Archive, m: &Member) -> bool {
    if m.method == Method::Stored {
        let head = archive.data_offset(m).and_then(|at| {
            let end = at.saturating_add(m.size.min(16));
            archive.source().read_vec(at..end)
        });
        return head.is_ok_and(|h| begins(&h));
    }
    m.size <= MOST_UNPACKED && archive.read(m, MOST_UNPACKED).is_ok_and(|d| begins(&d))
}

/// The members of any zip archive that are pickles.
fn members(
    source: &Arc<dyn ByteSource>,
    limits: &Limits,
    each: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<bool> {
    let archive = Archive::open(Arc::clone(source), limits)?;
    let mut found = 0;
    for m in archive.members() {
        if m.is_dir() || m.is_encrypted() {
            continue;
        }
        let name = m.name.to_ascii_lowercase();
        let named = NAMES.iter().any(|e| name.ends_with(e));
        if !named && !promises(&archive, m) {
            continue;
        }
        let Ok(data) = archive.read(m, limits.pickle_bytes) else {
            continue;
        };
        let start = npy_data(&data).unwrap_or(0);
        let Some(data) = usize::try_from(start).ok().and_then(|n| data.get(n..)) else {
            continue;
        };
        if data.is_empty() || !(named || begins(data)) {
            continue;
        }
        let trace = run(data, limits);
        let end = trace.end;
        found += 1;
        each(Found {
            place: m.name.clone(),
            offset: start,
            data: data.get(..end).unwrap_or_default(),
            trace,
        })?;
        if found >= MOST {
            return Err(Error::limit(
                "disasm.too-many-pickles",
                "the archive holds too many pickles",
            ));
        }
    }
    Ok(found > 0)
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;

    /// Place, offset and length of each.
    type Places = Vec<(String, u64, usize)>;

    fn places(data: &[u8]) -> Result<(Places, u64)> {
        let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(data.to_vec(), "x"));
        let mut out = Vec::new();
        let left = pickles(&source, &Limits::default(), &mut |f| {
            out.push((f.place, f.offset, f.data.len()));
            Ok(())
        })?;
        Ok((out, left))
    }

    #[test]
    fn streams_follow_each_other() {
        let (found, left) = places(b"N.\x80\x02N.\xff\xff").unwrap();
        let at: Vec<_> = found.iter().map(|f| (f.0.as_str(), f.1, f.2)).collect();
        assert_eq!(at, [("pickle 1", 0, 2), ("pickle 2", 2, 4)]);
        assert_eq!(left, 2);
        assert_eq!(places(b"N.").unwrap().0[0].0, "");
        assert_eq!(places(b"\xff\xff").unwrap_err().rule(), "disasm.no-pickle");
        assert_eq!(places(b"").unwrap_err().rule(), "disasm.no-pickle");
    }

    #[test]
    fn a_long_one_is_read_whole_and_a_broken_one_as_far_as_it_goes() {
        let mut long = b"N0".repeat(50_000);
        long.extend_from_slice(b"N.");
        assert_eq!(places(&long).unwrap().0[0].2, 100_002);
        assert_eq!(places(b"NN\xff").unwrap().0[0].2, 3);
    }

    #[test]
    fn an_array_of_objects_is_found_behind_its_header() {
        let mut npy = b"\x93NUMPY\x01\0\x04\0{  }".to_vec();
        npy.extend_from_slice(b"\x80\x02N.");
        assert_eq!(places(&npy).unwrap().0[0].1, 14);
    }
}
