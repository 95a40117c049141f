//! Products of matrices.

use super::dims::{Dims, broadcast, equal, shown};
use super::{Call, Inferred};

/// `MatMul` and its like, whose right factor is input `right`: NumPy's `matmul`.
pub(super) fn matmul(call: &Call<'_>, right: usize) -> Inferred {
    let (Some(a), Some(b)) = (call.shape(0), call.shape(right)) else {
        return Ok(Vec::new());
    };
    if a.is_empty() || b.is_empty() {
        return Err("a factor has no dimension".to_owned().into());
    }
    // A vector is a row on the left and a column on the right, and that dimension is left out.
    let (rows, inner) = match &a[..] {
        [rest @ .., m, k] => (Some((rest, *m)), *k),
        [k] => (None, *k),
        [] => return Ok(Vec::new()),
    };
    let (columns, other) = match &b[..] {
        [rest @ .., k, n] => (Some((rest, *n)), *k),
        [k] => (None, *k),
        [] => return Ok(Vec::new()),
    };
    if !equal(inner, other) {
        let message = format!("{} times {} do not go together", shown(a), shown(b));
        return Err(message.into());
    }
    let batch_a = rows.map_or(&[][..], |r| r.0);
    let batch_b = columns.map_or(&[][..], |c| c.0);
    let Some(batch) = broadcast(batch_a, batch_b) else {
        let message = format!(
            "the dimensions before the matrices of {} and {} do not broadcast",
            shown(a),
            shown(b)
        );
        return Err(message.into());
    };
    let ends = rows.map(|r| r.1).into_iter().chain(columns.map(|c| c.1));
    let out: Dims = batch.iter().copied().chain(ends).collect();
    Ok(vec![Some(out)])
}

/// `Gemm`: `A B + C`, either factor perhaps transposed.
pub(super) fn gemm(call: &Call<'_>) -> Inferred {
    let (Some(a), Some(b)) = (call.shape(0), call.shape(1)) else {
        return Ok(Vec::new());
    };
    let turned = |name| call.int(name, 0) != 0;
    let (&[a0, a1], &[b0, b1]) = (&a[..], &b[..]) else {
        let message = format!("{} and {} are not both matrices", shown(a), shown(b));
        return Err(message.into());
    };
    let (rows, inner) = if turned("transA") { (a1, a0) } else { (a0, a1) };
    let (other, columns) = if turned("transB") { (b1, b0) } else { (b0, b1) };
    if !equal(inner, other) {
        let message = format!("{} times {} do not go together", shown(a), shown(b));
        return Err(message.into());
    }
    let out: Dims = [rows, columns].into();
    if let Some(c) = call.shape(2).filter(|_| call.has(2)) {
        let fits = c.len() <= 2
            && c.iter()
                .rev()
                .zip(out.iter().rev())
                .all(|(&c, &o)| c == Some(1) || equal(c, o));
        if !fits {
            let message = format!("{} is added to {}", shown(c), shown(&out));
            return Err(message.into());
        }
    }
    Ok(vec![Some(out)])
}
