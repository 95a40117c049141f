//! NumPy's `.npy`: arrays of plain values are accounted for by their size, arrays of objects are
//! pickles (`numpy/lib/_format_impl.py`, `read_array`).

use weighbridge_core::wire::npy::{Header, MAGIC, header_len};
use weighbridge_core::{Error, Result};

use super::examine::{Examiner, Item};
use super::pickles;

/// Most arrays taken from one file: `numpy.save` may be called many times on the same one.
const MOST: usize = 100_000;

/// Whether `head` begins a `.npy`.
pub(super) fn is_npy(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Takes the item apart: arrays that follow each other, and what lies behind them.
///
/// # Errors
/// `Io` when it cannot be read; what else is wrong with a header ends the walk and is recorded.
pub(super) fn take(cx: &mut Examiner<'_, '_>, item: &Item) -> Result<()> {
    cx.named(item, "numpy");
    let len = item.source.len();
    let mut at = 0;
    for _ in 0..MOST {
        let Some(next) = one(cx, item, at)? else {
            return Ok(());
        };
        at = next;
        if at >= len {
            return Ok(());
        }
        let head = item.source.read_vec(at..len.min(at.saturating_add(16)))?;
        if !is_npy(&head) {
            return behind(cx, item, at);
        }
    }
    let e = Error::limit("scan.too-many-arrays", "the file holds too many arrays");
    cx.failed(&item.place, e);
    Ok(())
}

/// The array at `at`; gives the position behind it, or `None` when that is not known.
fn one(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<Option<u64>> {
    let len = item.source.len();
    let header = match header(item, at) {
        Ok(header) => header,
        Err(e) if e.kind() == weighbridge_core::ErrorKind::Io => return Err(e),
        Err(e) => {
            cx.failed(&item.place, e.shifted(at));
            // NumPy knows more spellings of an element type than are read here, and one of them
            // may say that a pickle follows.
            let head = item.source.read_vec(at..len.min(at.saturating_add(16)))?;
            if let Ok(n) = header_len(&head) {
                payload(cx, item, at.saturating_add(n))?;
            }
            return Ok(None);
        }
    };
    let data_at = at.saturating_add(header.data_at);
    let Some(bytes) = header.data_bytes() else {
        padded(cx, item, data_at)?;
        return pickles::take_one(cx, item, data_at);
    };
    match data_at.checked_add(bytes).filter(|&end| end <= len) {
        Some(end) => Ok(Some(end)),
        None => {
            let message = format!(
                "the array takes {bytes} bytes, the file has {} more",
                len.saturating_sub(data_at)
            );
            let e = Error::truncated("npy.short-data", message).at(data_at);
            cx.failed(
                &item.place,
                e.help("the file was cut short; fetch it again"),
            );
            Ok(None)
        }
    }
}

fn header(item: &Item, at: u64) -> Result<Header> {
    let len = item.source.len();
    let head = item.source.read_vec(at..len.min(at.saturating_add(12)))?;
    let end = at.saturating_add(header_len(&head)?).min(len);
    Header::parse(&item.source.read_vec(at..end)?)
}

/// A header whose length stops short of its padding leaves spaces before the pickle. NumPy does not
/// load it; readers that look for the end of the padding do.
fn padded(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<()> {
    let len = item.source.len();
    let head = item.source.read_vec(at..len.min(at.saturating_add(4096)))?;
    match head.iter().position(|b| !matches!(b, b' ' | b'\n' | b'\0')) {
        Some(n) if n > 0 => pickles::take_one(cx, item, at.saturating_add(n as u64)).map(|_| ()),
        _ => Ok(()),
    }
}

/// A pickle at `at`, if there is one.
fn payload(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<()> {
    let len = item.source.len();
    if at >= len {
        return Ok(());
    }
    let head = item.source.read_vec(at..len.min(at.saturating_add(4096)))?;
    if pickles::is_pickle(&head, std::path::Path::new(""), cx.limits) {
        pickles::take_stream(cx, item, at)?;
    }
    Ok(())
}

/// What lies behind the last array: a program that reads on may unpickle it.
fn behind(cx: &mut Examiner<'_, '_>, item: &Item, at: u64) -> Result<()> {
    let bytes = item.source.len().saturating_sub(at);
    let reason = format!("{bytes} bytes after the array belong to nothing known");
    cx.gap(&item.place, Some(at), reason);
    payload(cx, item, at)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::Limits;
    use weighbridge_core::source::SliceSource;
    use weighbridge_scan::Subject;

    use super::*;
    use crate::scan::examine::Place;

    const EVIL: &[u8] = b"cposix\nsystem\n(Vid\ntR.";

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n");
        let mut out = b"\x93NUMPY\x01\0".to_vec();
        out.extend((text.len() as u16).to_le_bytes());
        out.extend(text.as_bytes());
        out.extend(data);
        out
    }

    /// Globals with their offsets in the file, faults, and the offsets of gaps.
    type Taken = (Vec<(String, u64)>, Vec<String>, Vec<u64>);

    fn taken(bytes: &[u8]) -> Taken {
        let source = Arc::new(SliceSource::new(bytes, "a.npy"));
        let place = Place {
            steps: Vec::new(),
            base: Some(0),
        };
        let item = Item::new(source.clone(), place, "a.npy").unwrap();
        let mut s = Subject::new("a.npy", source.as_ref());
        take(&mut Examiner::new(&mut s, &Limits::default()), &item).unwrap();
        assert_eq!(s.format, "numpy");
        let globals = s.pickles.iter().flat_map(|p| {
            let name = |g: &weighbridge_scan::GlobalUse| g.name.clone().unwrap();
            p.globals.iter().map(move |g| (name(g), p.offset(g.offset)))
        });
        (
            globals.collect(),
            s.faults.iter().map(|f| f.rule.clone()).collect(),
            s.gaps.iter().filter_map(|g| g.offset).collect(),
        )
    }

    #[test]
    fn plain_arrays_are_accounted_for_by_their_size() {
        let whole = npy("'<f8'", "(2, 3)", &[0; 48]);
        assert_eq!(taken(&whole), (vec![], vec![], vec![]));
        let two = [whole.clone(), npy("'<f8'", "()", &[0; 8])].concat();
        assert_eq!(taken(&two), (vec![], vec![], vec![]));
        let (_, faults, _) = taken(&whole[..whole.len() - 1]);
        assert_eq!(faults, ["npy.short-data"]);
        let (_, faults, gaps) = taken(&[&whole[..], b"more"].concat());
        assert_eq!((faults.len(), gaps), (0, vec![whole.len() as u64]));
    }

    #[test]
    fn arrays_of_objects_are_pickles() {
        for descr in ["'|O'", "[('a', '<i4'), ('b', '|O')]", "'O,i4'", "object"] {
            let bytes = npy(descr, "(2,)", EVIL);
            let (globals, ..) = taken(&bytes);
            let at = (bytes.len() - 2) as u64;
            assert_eq!(globals, [("system".to_owned(), at)], "{descr}");
        }
        assert_eq!(taken(&npy("'|O'", "(1,)", b"\x80\x02]N\x61.")).1, [""; 0]);
        // Behind the array, for programs that read on.
        let (globals, _, gaps) = taken(&[npy("'<f8'", "()", &[0; 8]), EVIL.to_vec()].concat());
        assert_eq!((globals.len(), gaps.len()), (1, 1));
    }

    #[test]
    fn a_pickle_behind_padding_that_the_header_leaves_out_is_found() {
        let bytes = npy("'|O'", "(1,)", &[b"     \n", EVIL].concat());
        let (globals, faults, _) = taken(&bytes);
        assert_eq!((globals.len(), faults.len()), (1, 1));
    }

    #[test]
    fn an_array_of_objects_without_its_pickle_is_broken() {
        assert_eq!(taken(&npy("'|O'", "(2,)", b"")).1, ["pickle.no-stop"]);
        assert_eq!(taken(b"\x93NUMPY\x01\0\xff\xff{").1, ["npy.truncated"]);
    }
}
