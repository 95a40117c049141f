//! Dimensions of which some are not known, and how they go together.

use std::rc::Rc;

/// An extent, where it is known.
pub(super) type Dim = Option<u64>;

/// The extents of a value whose number of dimensions is known.
pub(in super::super) type Dims = Rc<[Dim]>;

/// As messages show them: `[2, ?, 3]`.
pub(super) fn shown(dims: &[Dim]) -> String {
    let one = |d: &Dim| d.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let all: Vec<String> = dims.iter().map(one).collect();
    format!("[{}]", all.join(", "))
}

/// Whether two extents can be the same.
pub(super) fn equal(a: Dim, b: Dim) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// Whether two shapes can be the same.
pub(super) fn agree(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| equal(a, b))
}

/// The axis that `axis` stands for: counted from the end where it is negative.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let from_start = match axis < 0 {
        true => axis.checked_add(rank)?,
        false => axis,
    };
    (0..rank)
        .contains(&from_start)
        .then(|| usize::try_from(from_start).ok())?
}

/// The number of values; `None` where a dimension is not known.
pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().try_fold(1u64, |n, d| n.checked_mul((*d)?))
}

/// What two dimensions broadcast to; `None` when they do not.
fn broadcast_one(a: Dim, b: Dim) -> Option<Dim> {
    match (a, b) {
        (Some(1), x) | (x, Some(1)) => Some(x),
        (Some(a), Some(b)) => (a == b).then_some(Some(a)),
        (Some(x), None) | (None, Some(x)) => Some(Some(x)),
        (None, None) => Some(None),
    }
}

/// What two shapes broadcast to (`docs/Broadcasting.md`); `None` when they do not.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Dims> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let ahead = long.len() - short.len();
    let mut out: Vec<Dim> = long.iter().take(ahead).copied().collect();
    for (x, y) in long.iter().skip(ahead).zip(short) {
        out.push(broadcast_one(*x, *y)?);
    }
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_from_the_end() {
        let b = |a: &[Dim], b: &[Dim]| broadcast(a, b).map(|d| d.to_vec());
        assert_eq!(
            b(&[Some(2), Some(1)], &[Some(3)]),
            Some(vec![Some(2), Some(3)])
        );
        assert_eq!(b(&[], &[None]), Some(vec![None]));
        assert_eq!(
            b(&[None, Some(4)], &[Some(7), Some(4)]),
            Some(vec![Some(7), Some(4)])
        );
        assert_eq!(b(&[None], &[Some(1)]), Some(vec![None]));
        assert_eq!(b(&[Some(0)], &[Some(1)]), Some(vec![Some(0)]));
        assert_eq!(b(&[Some(2)], &[Some(3)]), None);
    }

    #[test]
    fn axes_count_from_either_end() {
        assert_eq!(axis(-1, 3), Some(2));
        assert_eq!(axis(0, 3), Some(0));
        assert_eq!(axis(3, 3), None);
        assert_eq!(axis(-4, 3), None);
        assert_eq!(axis(i64::MIN, 3), None);
        assert_eq!(axis(0, 0), None);
    }
}
