//! Tuples, lists, dicts and sets: making and changing them.

use super::super::opcode::Op;
use super::super::value::{Blob, Change, Event, Node, NodeId};
use super::{EMPTY, Machine, NONE, bad, is_plain};
use crate::error::{Error, Result};

/// How deep a tuple is searched for what cannot be hashed, and how many of its items.
const HASH_DEPTH: u32 = 4;

impl Machine<'_> {
    pub(super) fn make(&mut self, op: Op) -> Result<()> {
        match op {
            Op::EMPTY_TUPLE => self.stack.push(EMPTY),
            Op::TUPLE1 => self.tuple(1)?,
            Op::TUPLE2 => self.tuple(2)?,
            Op::TUPLE3 => self.tuple(3)?,
            Op::EMPTY_LIST => {
                self.push(Node::List(Vec::new()));
            }
            Op::EMPTY_DICT => {
                self.push(Node::Dict(Vec::new()));
            }
            Op::EMPTY_SET => {
                self.push(Node::Set(Vec::new()));
            }
            _ => {
                let items = self.pop_mark()?;
                self.took(items.len(), size_of::<NodeId>());
                let node = match op {
                    Op::TUPLE => Node::Tuple(items.into()),
                    Op::LIST => Node::List(items),
                    Op::FROZENSET => {
                        self.check_keys(items.iter().copied())?;
                        Node::FrozenSet(items.into())
                    }
                    _ => {
                        check_even(&items)?;
                        let pairs = pairs(&items);
                        self.check_keys(pairs.iter().map(|p| p.0))?;
                        Node::Dict(pairs)
                    }
                };
                self.push(node);
            }
        }
        Ok(())
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut items = vec![NONE; n];
        for slot in items.iter_mut().rev() {
            *slot = self.pop()?;
        }
        self.took(n, size_of::<NodeId>());
        self.push(Node::Tuple(items.into()));
        Ok(())
    }

    pub(super) fn change(&mut self, op: Op) -> Result<()> {
        let items = match op {
            Op::APPEND => vec![self.pop()?],
            Op::SETITEM => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        if items.is_empty() {
            return Ok(());
        }
        self.took(items.len(), 2 * size_of::<NodeId>());
        match op {
            Op::SETITEM | Op::SETITEMS => self.set_items(op, target, &items),
            Op::ADDITEMS => self.add_items(op, target, &items),
            _ => self.append(op, target, &items),
        }
    }

    fn append(&mut self, op: Op, target: NodeId, items: &[NodeId]) -> Result<()> {
        match self.trace.nodes.get_mut(target as usize) {
            Some(Node::List(l)) => {
                l.extend_from_slice(items);
                return Ok(());
            }
            Some(Node::Call(c)) => c.items.extend_from_slice(items),
            Some(Node::ByteArray(_)) => self.append_bytes(target, items)?,
            Some(n) if is_plain(n) => {
                return bad(
                    "pickle.not-a-list",
                    "items are appended to what is no list or object",
                );
            }
            _ => {}
        }
        self.changed(op, target, items);
        Ok(())
    }

    fn add_items(&mut self, op: Op, target: NodeId, items: &[NodeId]) -> Result<()> {
        if let Node::Set(_) = self.trace.node(target) {
            let good = self.good_keys(items.iter().copied());
            if let Some(Node::Set(l)) = self.trace.nodes.get_mut(target as usize) {
                l.extend_from_slice(items.get(..good).unwrap_or_default());
            }
            return unhashable(good < items.len());
        }
        match self.trace.nodes.get_mut(target as usize) {
            Some(Node::Call(c)) => c.items.extend_from_slice(items),
            Some(n) if is_plain(n) => {
                return bad(
                    "pickle.not-a-set",
                    "items are added to what is no set or object",
                );
            }
            _ => {}
        }
        self.changed(op, target, items);
        Ok(())
    }

    fn set_items(&mut self, op: Op, target: NodeId, items: &[NodeId]) -> Result<()> {
        // The C unpickler refuses an odd number of items at once; the one in Python sets all pairs
        // and then misses the last value.
        let pairs = pairs(items);
        match self.trace.node(target) {
            Node::Dict(_) => {
                let good = self.good_keys(pairs.iter().map(|p| p.0));
                if let Some(Node::Dict(d)) = self.trace.nodes.get_mut(target as usize) {
                    d.extend_from_slice(pairs.get(..good).unwrap_or_default());
                }
                unhashable(good < pairs.len())?;
                return check_even(items);
            }
            Node::List(_) => {
                self.set_in_list(target, &pairs);
                return check_even(items);
            }
            _ => {}
        }
        match self.trace.nodes.get_mut(target as usize) {
            Some(Node::Call(c)) => c.pairs.extend_from_slice(&pairs),
            Some(Node::ByteArray(_)) => self.set_bytes(target, &pairs)?,
            Some(n) if is_plain(n) => {
                return bad(
                    "pickle.not-a-dict",
                    "items are set on what is no dict or object",
                );
            }
            _ => {}
        }
        self.changed(op, target, items);
        check_even(items)
    }

    /// `list[index] = value`, which a list takes for an index it has.
    fn set_in_list(&mut self, target: NodeId, pairs: &[(NodeId, NodeId)]) {
        for &(key, value) in pairs {
            let known = is_plain(self.trace.node(key));
            let index = self.trace.int(key);
            let Some(Node::List(l)) = self.trace.nodes.get_mut(target as usize) else {
                return;
            };
            let slot = place(index, l.len()).and_then(|i| l.get_mut(i));
            match slot {
                Some(slot) => *slot = value,
                // A slice or an object with `__index__` made by a call, or a list that a call has
                // made longer: what is set is in the list as far as anybody who looks for it
                // cares.
                None => {
                    l.push(value);
                    if known {
                        self.soften(Error::malformed(
                            "pickle.no-index",
                            "a list has no such place",
                        ));
                    }
                }
            }
        }
    }

    /// The byte that a value is, if it is one.
    fn byte(&self, id: NodeId) -> Option<u8> {
        self.trace.int(id).and_then(|v| u8::try_from(v).ok())
    }

    /// The bytes of a bytearray, to be changed.
    fn bytes(&mut self, target: NodeId) -> Result<Vec<u8>> {
        let bytes = match self.trace.node(target) {
            Node::ByteArray(b) => self.trace.blob(b).to_vec(),
            _ => Vec::new(),
        };
        // Each change copies all of them.
        self.copies_left = self.copies_left.checked_sub(bytes.len()).ok_or_else(|| {
            Error::limit(
                "pickle.too-much-work",
                "a bytearray is changed again and again",
            )
        })?;
        Ok(bytes)
    }

    fn append_bytes(&mut self, target: NodeId, items: &[NodeId]) -> Result<()> {
        let mut bytes = self.bytes(target)?;
        for id in items {
            match self.byte(*id) {
                Some(b) => bytes.push(b),
                None if is_plain(self.trace.node(*id)) => self.soften(Error::malformed(
                    "pickle.not-a-byte",
                    "what is appended to a bytearray is no byte",
                )),
                None => {}
            }
        }
        self.put_bytes(target, bytes);
        Ok(())
    }

    fn set_bytes(&mut self, target: NodeId, pairs: &[(NodeId, NodeId)]) -> Result<()> {
        let mut bytes = self.bytes(target)?;
        for &(key, value) in pairs {
            let known = is_plain(self.trace.node(key));
            let slot = place(self.trace.int(key), bytes.len()).and_then(|i| bytes.get_mut(i));
            match (slot, self.byte(value)) {
                (Some(slot), Some(b)) => *slot = b,
                (slot, _) if slot.is_none() && !known => {}
                _ => self.soften(Error::malformed(
                    "pickle.no-index",
                    "a bytearray has no such place or takes no such value",
                )),
            }
        }
        self.put_bytes(target, bytes);
        Ok(())
    }

    fn put_bytes(&mut self, target: NodeId, bytes: Vec<u8>) {
        let blob = Blob::Own(bytes.into());
        if let Some(Node::ByteArray(b)) = self.trace.nodes.get_mut(target as usize) {
            *b = blob;
        }
    }

    fn changed(&mut self, op: Op, target: NodeId, items: &[NodeId]) {
        self.took(1, size_of::<Change>());
        self.event(Event::Change(self.trace.changes.len() as u32));
        self.trace.changes.push(Change {
            target,
            op,
            items: items.into(),
            offset: self.at,
        });
    }

    fn check_keys(&mut self, mut keys: impl Iterator<Item = NodeId>) -> Result<()> {
        unhashable(keys.any(|k| !self.is_hashable(k, HASH_DEPTH)))
    }

    /// How many keys there are before one that cannot be hashed.
    fn good_keys(&mut self, keys: impl Iterator<Item = NodeId>) -> usize {
        let mut n = 0;
        for key in keys {
            if !self.is_hashable(key, HASH_DEPTH) {
                break;
            }
            n += 1;
        }
        n
    }

    /// Whether nothing is known of `id` that forbids it as a key.
    fn is_hashable(&mut self, id: NodeId, depth: u32) -> bool {
        let Some(left) = self.hash_work.checked_sub(1) else {
            return true;
        };
        self.hash_work = left;
        match self.trace.node(id) {
            Node::List(_) | Node::Dict(_) | Node::Set(_) | Node::ByteArray(_) => false,
            Node::Tuple(items) if depth > 0 && !items.is_empty() => {
                let few: Vec<NodeId> = items.iter().copied().take(16).collect();
                few.into_iter().all(|i| self.is_hashable(i, depth - 1))
            }
            _ => true,
        }
    }
}

/// Where an index leads in something of `len` items: from the end if it is negative.
fn place(index: Option<i64>, len: usize) -> Option<usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let i = index?;
    usize::try_from(if i < 0 { i.saturating_add(len) } else { i }).ok()
}

fn unhashable(found: bool) -> Result<()> {
    if found {
        return bad("pickle.unhashable", "a key is a list, a dict or a set");
    }
    Ok(())
}

fn check_even(items: &[NodeId]) -> Result<()> {
    if !items.len().is_multiple_of(2) {
        return bad("pickle.odd-items", "an odd number of keys and values");
    }
    Ok(())
}

fn pairs(items: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    items
        .chunks_exact(2)
        .filter_map(|c| Some((*c.first()?, *c.last()?)))
        .collect()
}
