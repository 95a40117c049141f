//! B-trees of version 1 (III.A.1): of a group's symbol table nodes, and of chunks.

use std::collections::HashSet;

use super::fields::Fields;
use super::file::File;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.b-tree";

/// Deepest tree; the library's nodes have at least two children.
const DEEPEST: u8 = 60;

/// Which tree.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tree {
    /// A group's: keys are names' places in the local heap.
    Group,
    /// A dataset's: keys are chunks' positions in so many dimensions, the element's among them.
    Chunks(usize),
}

impl File {
    /// Gives every leaf's child and the key before it, in order.
    pub(super) fn tree1(
        &self,
        root: u64,
        tree: Tree,
        leaf: &mut dyn FnMut(&mut Fields<'_>, u64) -> Result<()>,
    ) -> Result<()> {
        let mut open = vec![(root, None)];
        let mut seen = HashSet::new();
        while let Some((address, expected)) = open.pop() {
            if !seen.insert(address) {
                let e = Error::malformed(RULE, "a node of a tree comes up twice");
                return Err(e.at(self.place(address)));
            }
            self.node1(address, expected, tree, leaf, &mut open)?;
        }
        Ok(())
    }

    fn node1(
        &self,
        address: u64,
        expected: Option<u8>,
        tree: Tree,
        leaf: &mut dyn FnMut(&mut Fields<'_>, u64) -> Result<()>,
        open: &mut Vec<(u64, Option<u8>)>,
    ) -> Result<()> {
        let sizes = self.sizes();
        let head = 8 + 2 * u64::from(sizes.offset);
        let prefix = self.bytes(address, head)?;
        let mut f = self.fields(&prefix, address);
        f.tag(b"TREE", RULE)?;
        let place = f.place();
        let (kind, level, count) = (f.u8()?, f.u8()?, f.u16()?);
        let (wanted, key, k) = match tree {
            Tree::Group => (0, sizes.length.into(), self.superblock().group_k),
            Tree::Chunks(n) => (1, 8 + 8 * n, self.superblock().chunk_k),
        };
        if kind != wanted || level > DEEPEST || expected.is_some_and(|e| e != level) {
            let message = format!("a node of type {kind} and level {level} is out of place");
            return Err(Error::malformed(RULE, message).at(place));
        }
        let each = key + usize::from(sizes.offset);
        // Room for twice as many children as half a node has; what is not used has no meaning.
        let room = head + (2 * u64::from(k)) * each as u64 + key as u64;
        let len = head + u64::from(count) * each as u64 + key as u64;
        let whole = self.bytes(address, len)?;
        if let Ok(r) = self.range(address, room) {
            self.mark(address, r.end - r.start);
        }
        let mut f = self.fields(&whole, address);
        f.skip(head as usize)?;
        let first = open.len();
        for _ in 0..count {
            let place = f.place();
            let start = f.clone();
            f.skip(key)?;
            let child = f.address()?.ok_or_else(|| {
                Error::malformed(RULE, "a node has a child that is not there").at(place)
            })?;
            if level == 0 {
                leaf(&mut start.clone(), child)?;
            } else {
                open.push((child, Some(level - 1)));
            }
        }
        // The last one pushed is the first one taken.
        if let Some(new) = open.get_mut(first..) {
            new.reverse();
        }
        Ok(())
    }
}
