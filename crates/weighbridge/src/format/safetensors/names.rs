//! The set of names met so far: open addressing over indices, so that every name is stored once,
//! with its tensor.

use std::hash::BuildHasher;

/// One slot: 32 bits of the name's hash, and its index plus one (0 marks a free slot).
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: u32,
    next: u32,
}

/// A set of names by index. The hash is seeded at random, so no file can aim at collisions.
#[derive(Debug)]
pub(super) struct NameTable {
    hasher: foldhash::fast::RandomState,
    slots: Vec<Slot>,
    used: usize,
}

impl NameTable {
    /// A table that takes about `n` names before it grows.
    pub(super) fn with_room_for(n: usize) -> Self {
        // At most 2^21 slots (16 MiB) before a name has been seen.
        let slots = n.saturating_mul(2).clamp(16, 1 << 21).next_power_of_two();
        Self {
            hasher: foldhash::fast::RandomState::default(),
            slots: vec![Slot::default(); slots],
            used: 0,
        }
    }

    /// Adds `name` under index `i`. When it is there already, gives the index it has and changes
    /// nothing. `name_of` gives the name of an index added before.
    #[inline]
    pub(super) fn insert<'n>(
        &mut self,
        name: &str,
        i: usize,
        name_of: impl Fn(usize) -> &'n str,
    ) -> Option<usize> {
        if self.used * 4 >= self.slots.len() * 3 {
            self.grow();
        }
        let tag = self.hasher.hash_one(name) as u32;
        let mask = self.slots.len() - 1;
        let mut at = tag as usize & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.next == 0 {
                *slot = Slot {
                    tag,
                    next: u32::try_from(i).unwrap_or(u32::MAX - 1) + 1,
                };
                self.used += 1;
                return None;
            }
            if slot.tag == tag {
                let other = slot.next as usize - 1;
                if name_of(other) == name {
                    return Some(other);
                }
            }
            at = (at + 1) & mask;
        }
        None
    }

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![Slot::default(); old.len() * 2];
        let mask = self.slots.len() - 1;
        for slot in old.into_iter().filter(|s| s.next != 0) {
            let mut at = slot.tag as usize & mask;
            while self.slots.get(at).is_some_and(|s| s.next != 0) {
                at = (at + 1) & mask;
            }
            if let Some(free) = self.slots.get_mut(at) {
                *free = slot;
            }
        }
    }
}

/// Finds out whether any name of many is there twice, in one sort at the end. A table costs a
/// cache miss a name, more than all the parsing.
#[derive(Debug)]
pub(super) struct NameHashes {
    hasher: foldhash::fast::RandomState,
    hashes: Vec<u64>,
}

impl NameHashes {
    /// Room for about `n` names; pages not used are never touched.
    pub(super) fn with_room_for(n: usize) -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            hashes: Vec::with_capacity(n),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, name: &str) {
        self.hashes.push(self.hasher.hash_one(name));
    }

    /// Whether two names were equal: never wrong about "no", and about "yes" once in 2^64 pairs.
    pub(super) fn repeated(mut self) -> bool {
        self.hashes.sort_unstable();
        self.hashes
            .windows(2)
            .any(|w| matches!(w, [a, b] if a == b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_added_through_growth() {
        let names: Vec<String> = (0..5000).map(|i| format!("layer.{i}.weight")).collect();
        let mut table = NameTable::with_room_for(1);
        for (i, n) in names.iter().enumerate() {
            assert_eq!(table.insert(n, i, |i| &names[i]), None);
        }
        for (i, n) in names.iter().enumerate() {
            assert_eq!(table.insert(n, 9999, |i| &names[i]), Some(i));
        }
    }

    #[test]
    fn hashes_tell_repetition() {
        let mut all = NameHashes::with_room_for(9);
        for i in 0..1000 {
            all.add(&i.to_string());
        }
        let mut twice = NameHashes {
            hasher: all.hasher.clone(),
            hashes: all.hashes.clone(),
        };
        assert!(!all.repeated());
        twice.add("500");
        assert!(twice.repeated());
    }
}
