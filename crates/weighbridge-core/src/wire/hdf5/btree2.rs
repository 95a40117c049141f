//! B-trees of version 2 (III.A.2).

use std::collections::HashSet;

use super::fields::{Fields, enough_for};
use super::file::File;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.b-tree";

/// Bytes of a node beside its records and children: signature, version, type, checksum.
const FRAME: u64 = 10;

/// Deepest tree.
const DEEPEST: u16 = 40;

#[derive(Debug)]
struct Shape {
    kind: u8,
    node: u64,
    record: u64,
    /// Bytes of a child's number of records.
    count: usize,
    /// Bytes of the number of records under a child, by the child's depth.
    totals: Vec<usize>,
}

impl File {
    /// Gives every record of the tree whose header is at `address`, in the order of nodes, with
    /// the tree's type and the size of a record.
    pub(super) fn tree2(
        &self,
        address: u64,
        each: &mut dyn FnMut(u8, &mut Fields<'_>) -> Result<()>,
    ) -> Result<()> {
        let sizes = self.sizes();
        let len = 22 + u64::from(sizes.offset) + u64::from(sizes.length);
        let head = self.bytes(address, len)?;
        let mut f = self.fields(&head, address);
        f.tag(b"BTHD", RULE)?;
        self.verify(&head, address)?;
        f.version(0..=0, RULE)?;
        let place = f.place();
        let (kind, node, record, depth) = (f.u8()?, f.u32()?, f.u16()?, f.u16()?);
        f.skip(2)?;
        let root = f.address()?;
        let count = f.u16()?;
        let (node, record) = (u64::from(node), u64::from(record));
        if record == 0 || node < FRAME + record || depth > DEEPEST {
            return Err(Error::malformed(RULE, "a tree of impossible nodes").at(place));
        }
        let Some(root) = root else {
            return Ok(());
        };
        let shape = Shape::new(kind, node, record, depth, sizes.offset.into());
        let mut seen = HashSet::new();
        let mut open = vec![(root, u64::from(count), depth)];
        while let Some((address, count, depth)) = open.pop() {
            if !seen.insert(address) {
                let e = Error::malformed(RULE, "a node of a tree comes up twice");
                return Err(e.at(self.place(address)));
            }
            self.node2(&shape, (address, count, depth), each, &mut open)?;
        }
        Ok(())
    }

    fn node2(
        &self,
        shape: &Shape,
        (address, count, depth): (u64, u64, u16),
        each: &mut dyn FnMut(u8, &mut Fields<'_>) -> Result<()>,
        open: &mut Vec<(u64, u64, u16)>,
    ) -> Result<()> {
        let total = match depth {
            0 => 0,
            d => shape.totals.get(usize::from(d) - 1).copied().unwrap_or(0),
        };
        let pointer = u64::from(self.sizes().offset) + shape.count as u64 + total as u64;
        let children = if depth > 0 { count + 1 } else { 0 };
        let used = FRAME + count * shape.record + children * pointer;
        if used > shape.node {
            let e = Error::malformed(RULE, "a node has more records than room");
            return Err(e.at(self.place(address)));
        }
        let data = self.bytes(address, used)?;
        if self.range(address, shape.node).is_ok() {
            self.mark(address, shape.node);
        }
        let mut f = self.fields(&data, address);
        f.tag(if depth == 0 { b"BTLF" } else { b"BTIN" }, RULE)?;
        self.verify(&data, address)?;
        f.version(0..=0, RULE)?;
        let place = f.place();
        if f.u8()? != shape.kind {
            return Err(Error::malformed(RULE, "a node of another tree").at(place));
        }
        for _ in 0..count {
            let place = f.place();
            let record = f.take(shape.record as usize)?;
            each(shape.kind, &mut Fields::new(record, place, self.sizes()))?;
        }
        let first = open.len();
        for _ in 0..children {
            let place = f.place();
            let child = f.address()?.ok_or_else(|| {
                Error::malformed(RULE, "a node has a child that is not there").at(place)
            })?;
            let records = f.uint(shape.count)?;
            f.skip(total)?;
            open.push((child, records, depth - 1));
        }
        if let Some(new) = open.get_mut(first..) {
            new.reverse();
        }
        Ok(())
    }
}

impl Shape {
    /// The widths of an inner node's fields follow from how many records can be below it
    /// (`H5B2__hdr_init`).
    fn new(kind: u8, node: u64, record: u64, depth: u16, address: u64) -> Self {
        let most = (node - FRAME) / record;
        let count = enough_for(most);
        let mut totals = vec![0];
        let mut below = most;
        for d in 1..=usize::from(depth) {
            let before = totals.get(d - 1).copied().unwrap_or(0);
            let pointer = address + count as u64 + before as u64;
            let most = node.saturating_sub(FRAME + pointer) / (record + pointer);
            below = most
                .saturating_add(1)
                .saturating_mul(below)
                .saturating_add(most);
            totals.push(enough_for(below));
        }
        Self {
            kind,
            node,
            record,
            count,
            totals,
        }
    }
}
