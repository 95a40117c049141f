//! Groups in the form that every library reads: a local heap with the names, symbol table nodes
//! with the children in the order of their names, and a B-tree over those (HDF5 File Format
//! Specification 3.0, III.A.1, III.B and III.D).

/// Children of a symbol table node are at most twice this (`H5F_CRT_SYM_LEAF_DEF`).
pub(super) const LEAF_K: u16 = 4;

/// Children of a node of the B-tree are at most twice this (`HDF5_BTREE_SNODE_IK_DEF`).
pub(super) const INTERNAL_K: u16 = 16;

/// An address that is none.
pub(super) const NONE: u64 = u64::MAX;

/// Where a group's B-tree and heap lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    pub tree: u64,
    pub heap: u64,
}

/// A child of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child<'a> {
    pub name: &'a str,
    /// Where its object header lies.
    pub header: u64,
    /// Of a group, where its members are: readers need not open its header then.
    pub group: Option<Places>,
}

/// The largest name under a node, and the node's address.
struct Node {
    last: u64,
    address: u64,
}

/// Appends the structures of a group with `children`, sorted by name, to `out`.
pub(super) fn write(out: &mut Vec<u8>, children: &[Child<'_>]) -> Places {
    let (heap, offsets) = heap(out, children);
    let mut level = Vec::new();
    let most = usize::from(LEAF_K) * 2;
    for (children, offsets) in children.chunks(most).zip(offsets.chunks(most)) {
        level.push(Node {
            last: offsets.last().copied().unwrap_or(0),
            address: out.len() as u64,
        });
        symbols(out, children, offsets);
    }
    let mut depth = 0u8;
    loop {
        level = tree_level(out, &level, depth);
        if let [root] = level.as_slice() {
            return Places {
                tree: root.address,
                heap,
            };
        }
        depth = depth.saturating_add(1);
    }
}

/// The names, each with its NUL and padded; the first place is the empty name's.
fn heap(out: &mut Vec<u8>, children: &[Child<'_>]) -> (u64, Vec<u64>) {
    let mut names = vec![0u8; 8];
    let mut offsets = Vec::with_capacity(children.len());
    for c in children {
        offsets.push(names.len() as u64);
        names.extend_from_slice(c.name.as_bytes());
        names.resize((names.len() + 1).next_multiple_of(8), 0);
    }
    let at = out.len() as u64;
    out.extend(b"HEAP\0\0\0\0");
    out.extend((names.len() as u64).to_le_bytes());
    // The free list is empty (`H5HL_FREE_NULL`).
    out.extend(1u64.to_le_bytes());
    out.extend((at + 32).to_le_bytes());
    out.extend(names);
    (at, offsets)
}

/// A symbol table node.
fn symbols(out: &mut Vec<u8>, children: &[Child<'_>], offsets: &[u64]) {
    out.extend(b"SNOD\x01\0");
    // At most 2 × LEAF_K.
    out.extend((children.len() as u16).to_le_bytes());
    for (c, offset) in children.iter().zip(offsets) {
        entry(out, *offset, c.header, c.group);
    }
    let room = usize::from(LEAF_K) * 2 - children.len().min(usize::from(LEAF_K) * 2);
    out.resize(out.len() + room * 40, 0);
}

/// A symbol table entry (III.C).
pub(super) fn entry(out: &mut Vec<u8>, name: u64, header: u64, group: Option<Places>) {
    out.extend(name.to_le_bytes());
    out.extend(header.to_le_bytes());
    match group {
        Some(p) => {
            out.extend(1u64.to_le_bytes());
            out.extend(p.tree.to_le_bytes());
            out.extend(p.heap.to_le_bytes());
        }
        None => out.extend([0; 24]),
    }
}

/// The nodes of the B-tree over `below`, each with its place among its neighbours.
fn tree_level(out: &mut Vec<u8>, below: &[Node], depth: u8) -> Vec<Node> {
    let most = usize::from(INTERNAL_K) * 2;
    let size = 24 + (2 * most + 1) * 8;
    let first = out.len() as u64;
    let n = below.len().div_ceil(most).max(1);
    let mut level = Vec::with_capacity(n);
    let mut before = 0u64;
    let mut nodes = below.chunks(most);
    for i in 0..n {
        let children = nodes.next().unwrap_or_default();
        let address = first + (i * size) as u64;
        let neighbour = |there: bool, at: u64| if there { at } else { NONE };
        out.extend(b"TREE\0");
        out.push(depth);
        // At most 2 × INTERNAL_K.
        out.extend((children.len() as u16).to_le_bytes());
        out.extend(neighbour(i > 0, address.wrapping_sub(size as u64)).to_le_bytes());
        out.extend(neighbour(i + 1 < n, address + size as u64).to_le_bytes());
        // Each child lies between two keys: names after the first up to the second.
        out.extend(before.to_le_bytes());
        for c in children {
            out.extend(c.address.to_le_bytes());
            out.extend(c.last.to_le_bytes());
            before = c.last;
        }
        out.resize((address as usize).saturating_add(size), 0);
        level.push(Node {
            last: before,
            address,
        });
    }
    level
}
