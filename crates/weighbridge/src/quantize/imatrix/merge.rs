//! One matrix from several.

use weighbridge_core::{Error, Result};

use super::{CHUNK_SIZE, Entry, Matrix};

/// The sum of `matrices`, which were computed with one model on several texts. Where all are of
/// the older form, a chunk is taken to have 512 tokens.
///
/// # Errors
/// `Parameter` where there are none or they are of different models.
pub fn merge(matrices: &[Matrix]) -> Result<Matrix> {
    let size = matrices.iter().map(|m| m.chunk_size).find(|n| *n > 0);
    let size = size.unwrap_or(CHUNK_SIZE);
    let mut all = matrices.iter();
    let Some(first) = all.next() else {
        return Err(Error::parameter(
            "imatrix.none",
            "there is nothing to merge",
        ));
    };
    let mut out = first.raw(size);
    for m in all {
        let m = m.raw(size);
        out.datasets.extend(m.datasets);
        for (name, e) in m.entries {
            match out.entries.get_mut(&name) {
                Some(to) => add(to, e).map_err(|e| e.within(name))?,
                None => {
                    out.entries.insert(name, e);
                }
            }
        }
    }
    out.chunk_size = size;
    let counts = out.entries.values().flat_map(|e| &e.counts);
    let most = counts.copied().max().unwrap_or(0);
    out.chunk_count = i32::try_from(most / i64::from(size.max(1))).unwrap_or(i32::MAX);
    // Sums of finite numbers may not be.
    out.check()?;
    Ok(out)
}

fn add(to: &mut Entry, e: Entry) -> Result<()> {
    if to.sums.len() != e.sums.len() {
        let (a, b) = (to.sums.len(), e.sums.len());
        let message = format!("{a} values in one matrix and {b} in another");
        let error = Error::parameter("imatrix.sizes", message);
        return Err(error.help("only matrices of one model can be merged"));
    }
    // One count stands for all experts.
    let spread = |counts: &mut Vec<i64>, n: usize| {
        if let (1, Some(c)) = (counts.len(), counts.first().copied()) {
            counts.resize(n, c);
        }
    };
    let mut counts = e.counts;
    let n = to.counts.len().max(counts.len());
    spread(&mut to.counts, n);
    spread(&mut counts, n);
    if to.counts.len() != counts.len() {
        let (a, b) = (to.counts.len(), counts.len());
        let message = format!("{a} experts in one matrix and {b} in another");
        return Err(Error::parameter("imatrix.sizes", message));
    }
    for (a, b) in to.sums.iter_mut().zip(&e.sums) {
        *a += b;
    }
    for (a, b) in to.counts.iter_mut().zip(&counts) {
        *a = a.saturating_add(*b);
    }
    Ok(())
}
