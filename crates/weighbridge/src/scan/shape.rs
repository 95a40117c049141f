//! What the values of a pickle amount to, told from its trace in one pass: how deep they nest and
//! how many they are for somebody who follows every reference.

use weighbridge_core::pickle::{Node, NodeId, Trace};
use weighbridge_core::{Error, Limits, Result};

/// Opcodes up to which the reader's own picture of a pickle is asked for too: it takes many times
/// the memory of the trace.
const SMALL: u64 = 400_000;

/// The same where there are tensors.
const SMALL_OF_TORCH: u64 = 2_000_000;

/// Values that a byte of a pickle may expand to, and what any pickle may beyond that: a shared
/// value counts wherever it is referred to.
const VALUES_PER_BYTE: u64 = 6;
const SPARE_VALUES: u64 = 1 << 20;

/// What a pickle amounts to.
#[derive(Debug)]
pub(super) struct Shape {
    /// Whether it ran to its end without a fault.
    pub(super) whole: bool,
    /// Whether it names something of torch.
    pub(super) torch: bool,
    /// Whether the reader's picture of it is small.
    pub(super) small: bool,
    /// Whether its values keep to the limits.
    pub(super) within: Result<()>,
}

impl Shape {
    pub(super) fn of(trace: &Trace<'_>, limits: &Limits) -> Self {
        let torch = trace
            .globals
            .iter()
            .any(|g| g.module == "torch" || g.module.starts_with("torch."));
        let most = if torch { SMALL_OF_TORCH } else { SMALL };
        let small = trace.ops <= most;
        Self {
            whole: trace.error.is_none() && trace.root.is_some(),
            torch,
            small,
            // The reader has the same limits.
            within: if small { Ok(()) } else { within(trace, limits) },
        }
    }
}

/// What was found below a node.
#[derive(Clone, Copy)]
struct Below {
    /// Levels of containers, `OPEN` while they are being counted.
    levels: u32,
    values: u64,
}

const UNSEEN: Below = Below {
    levels: u32::MAX,
    values: 0,
};
const OPEN: Below = Below {
    levels: 0,
    values: 1,
};

/// Checks nesting and number of the values below the root of `trace`. A value met inside itself is
/// a reference and counts as one.
fn within(trace: &Trace<'_>, limits: &Limits) -> Result<()> {
    let Some(root) = trace.root else {
        return Ok(());
    };
    let cap = (trace.data.len() as u64)
        .saturating_mul(VALUES_PER_BYTE)
        .saturating_add(SPARE_VALUES);
    let mut known = vec![UNSEEN; trace.nodes.len()];
    // Containers on the way down, each with the next child to look at and what was found so far.
    let mut way: Vec<(NodeId, usize, Below)> = Vec::new();
    let mut next = Some(root);
    loop {
        let found = match next.take() {
            Some(id) => match known.get(id as usize).copied().unwrap_or(OPEN) {
                seen if seen.levels != UNSEEN.levels => seen,
                _ if child(trace.node(id), 0).is_none() => OPEN,
                _ => {
                    if way.len() as u64 >= u64::from(limits.depth) {
                        return Err(Error::limit(
                            "pytorch.too-deep",
                            format!("the structure nests deeper than {} levels", limits.depth),
                        ));
                    }
                    if let Some(k) = known.get_mut(id as usize) {
                        *k = OPEN;
                    }
                    way.push((id, 0, OPEN));
                    next = child(trace.node(id), 0);
                    continue;
                }
            },
            None => return Ok(()),
        };
        let height = way.len() as u64;
        let Some((id, at, sum)) = way.last_mut() else {
            return Ok(());
        };
        sum.levels = sum.levels.max(found.levels.saturating_add(1));
        sum.values = sum.values.saturating_add(found.values);
        if sum.values > cap {
            return Err(Error::limit(
                "pytorch.too-many-values",
                "the structure refers to its values again and again and expands to far more than \
                 its length justifies",
            ));
        }
        if height.saturating_add(u64::from(found.levels)) > u64::from(limits.depth) {
            return Err(Error::limit(
                "pytorch.too-deep",
                format!("the structure nests deeper than {} levels", limits.depth),
            ));
        }
        *at += 1;
        next = child(trace.node(*id), *at);
        if next.is_none() {
            if let Some(k) = known.get_mut(*id as usize) {
                *k = *sum;
            }
            next = Some(*id);
            way.pop();
        }
    }
}

/// The `n`th value that a container or an object holds.
fn child(node: &Node, n: usize) -> Option<NodeId> {
    let of_pair = |pairs: &[(NodeId, NodeId)], n: usize| {
        let &(key, value) = pairs.get(n / 2)?;
        Some(if n.is_multiple_of(2) { key } else { value })
    };
    match node {
        Node::Tuple(items) | Node::FrozenSet(items) => items.get(n).copied(),
        Node::List(items) | Node::Set(items) => items.get(n).copied(),
        Node::Dict(pairs) => of_pair(pairs, n),
        Node::Call(call) => {
            let mut n = n;
            if n == 0 {
                return Some(call.args);
            }
            n -= 1;
            for list in [&call.states, &call.items] {
                if let Some(&id) = list.get(n) {
                    return Some(id);
                }
                n -= list.len();
            }
            of_pair(&call.pairs, n)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_core::pickle;

    use super::*;

    /// The rule that the values of `data` break.
    fn broken(data: &[u8]) -> Option<&'static str> {
        let limits = Limits::default();
        let trace = pickle::run(data, &limits);
        assert!(trace.error.is_none(), "{:?}", trace.error);
        within(&trace, &limits).err().map(|e| e.rule())
    }

    fn nested(levels: usize) -> Vec<u8> {
        let (open, close) = (b"]".repeat(levels), b"a".repeat(levels - 1));
        [b"\x80\x02".as_slice(), &open, &close, b"."].concat()
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        assert_eq!(broken(&nested(150)), None);
        assert_eq!(broken(&nested(500)), Some("pytorch.too-deep"));
        // The deep part is met first from near the root, then again from further down.
        let mut d = b"\x80\x02(".to_vec();
        d.extend(b"]".repeat(150));
        d.extend(b"a".repeat(149));
        d.extend(b"q\0");
        d.extend(b"]".repeat(100));
        d.extend(b"h\0a");
        d.extend(b"a".repeat(99));
        d.extend(b"t.");
        assert_eq!(broken(&d), Some("pytorch.too-deep"));
    }

    #[test]
    fn what_refers_to_its_values_again_and_again_is_refused() {
        let mut d = b"\x80\x02)q\0".to_vec();
        for i in 0..40u8 {
            d.extend([b'h', i, b'h', i, 0x86, b'q', i + 1]);
        }
        d.push(b'.');
        assert_eq!(broken(&d), Some("pytorch.too-many-values"));
        // A list of the same value a million times is no more than its length says.
        let d = [b"\x80\x02](]q\0".as_slice(), &b"h\0".repeat(100_000), b"e."].concat();
        assert_eq!(broken(&d), None);
    }

    #[test]
    fn a_value_inside_itself_counts_once() {
        assert_eq!(broken(b"\x80\x02]q\0h\0a."), None);
        assert_eq!(broken(b"\x80\x02cm\nC\n)Rq\0}X\x01\0\0\0ah\0sb."), None);
    }
}
