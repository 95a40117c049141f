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
