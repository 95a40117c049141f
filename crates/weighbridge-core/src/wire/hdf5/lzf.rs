//! LZF, the compression that h5py brings along (filter 32000).

use crate::error::{Error, Result};

/// Undoes it; at most `cap` bytes come out.
pub(super) fn undo(data: &[u8], cap: usize) -> Result<Vec<u8>> {
    let bad = |m: &str| Error::malformed("hdf5.lzf", m.to_owned());
    let early = || bad("a chunk's compressed bytes end too early");
    let mut out: Vec<u8> = Vec::with_capacity(data.len().saturating_mul(2).min(cap));
    let mut rest = data;
    while let Some((&control, after)) = rest.split_first() {
        rest = after;
        let control = usize::from(control);
        if control < 32 {
            // So many bytes as they are, and one.
            let (run, after) = rest.split_at_checked(control + 1).ok_or_else(early)?;
            rest = after;
            out.extend_from_slice(run);
        } else {
            let mut len = control >> 5;
            if len == 7 {
                let (&more, after) = rest.split_first().ok_or_else(early)?;
                len += usize::from(more);
                rest = after;
            }
            let (&low, after) = rest.split_first().ok_or_else(early)?;
            rest = after;
            let back = (control & 31) << 8 | usize::from(low);
            let from = out.len().checked_sub(back + 1);
            let from = from.ok_or_else(|| bad("a chunk refers to what lies before it"))?;
            // It may run into what it writes: byte after byte.
            for i in from..from + len + 2 {
                let byte = out.get(i).copied().unwrap_or_default();
                out.push(byte);
            }
        }
        if out.len() > cap {
            return Err(bad("a chunk expands to more than it can be"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_references() {
        // Three bytes as they are, then five from three back, which runs into itself.
        let data = [2, b'a', b'b', b'c', 3 << 5, 2];
        assert_eq!(undo(&data, 100).unwrap(), b"abcabcab");
        // A long reference: 7 + 255 + 2 bytes of one.
        let data = [0, b'x', 7 << 5, 255, 0];
        assert_eq!(undo(&data, 1000).unwrap(), vec![b'x'; 265]);
        assert_eq!(undo(&data, 100).unwrap_err().rule(), "hdf5.lzf");
        // What lies before the start, and what breaks off.
        for data in [&[1 << 5, 0][..], &[5, b'a'], &[7 << 5], &[1 << 5]] {
            assert_eq!(undo(data, 100).unwrap_err().rule(), "hdf5.lzf");
        }
    }
}
