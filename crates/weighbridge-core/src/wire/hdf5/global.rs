//! The global heap (III.E): texts and sequences of any length.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::file::File;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.global-heap";

/// Where the objects of one collection lie: address and length by number.
#[derive(Debug)]
pub(super) struct Collection {
    objects: HashMap<u32, (u64, u64)>,
}

impl File {
    /// Where the object `number` of the collection at `address` lies: its address and length.
    pub(super) fn global(&self, address: u64, number: u32) -> Result<(u64, u64)> {
        let held = {
            let held = self.collections.lock();
            let held = held.unwrap_or_else(PoisonError::into_inner);
            held.get(&address).map(Arc::clone)
        };
        let collection = match held {
            Some(c) => c,
            None => {
                let c = Arc::new(self.collection(address)?);
                let all = self.collections.lock();
                let mut all = all.unwrap_or_else(PoisonError::into_inner);
                all.insert(address, Arc::clone(&c));
                c
            }
        };
        collection.objects.get(&number).copied().ok_or_else(|| {
            let message = format!("object {number} of a global heap is not there");
            Error::malformed(RULE, message).at(self.place(address))
        })
    }

    fn collection(&self, address: u64) -> Result<Collection> {
        // Both heads are padded where lengths are short (`H5HG_ALIGN`).
        let width = (8 + u64::from(self.sizes().length)).next_multiple_of(8);
        let head = self.bytes(address, width)?;
        let mut f = self.fields(&head, address);
        f.tag(b"GCOL", RULE)?;
        f.version(1..=1, RULE)?;
        f.skip(3)?;
        let size = f.length()?;
        // The objects' heads are looked at, one after the other; their bytes when asked for, so
        // that what nothing refers to is not accounted for.
        self.range(address, size)?;
        let mut objects = HashMap::new();
        let mut at = width;
        while at.checked_add(width).is_some_and(|e| e <= size) {
            let head = self.bytes(address.saturating_add(at), width)?;
            let mut f = self.fields(&head, address.saturating_add(at));
            let place = f.place();
            let number = f.u16()?;
            f.skip(6)?;
            let len = f.length()?;
            if number == 0 {
                // The rest is free.
                break;
            }
            let start = at + width;
            if len > size - start {
                let e = Error::malformed(RULE, "an object reaches out of its heap");
                return Err(e.at(place));
            }
            objects.insert(number.into(), (address.saturating_add(start), len));
            at = start.saturating_add(len.next_multiple_of(8));
        }
        Ok(Collection { objects })
    }

    /// The bytes of an element of variable length: how many elements it says it has, where they
    /// are, and how many bytes that is at most; `None` for an empty one.
    pub(super) fn variable(&self, element: &[u8], at: u64) -> Result<Option<(u32, u64, u64)>> {
        let mut f = super::fields::Fields::new(element, at, self.sizes());
        let count = f.u32()?;
        let heap = f.address()?;
        let number = f.u32()?;
        match heap {
            Some(heap) if heap != 0 && count > 0 => {
                let (address, len) = self.global(heap, number)?;
                Ok(Some((count, address, len)))
            }
            _ => Ok(None),
        }
    }

    /// The text of an element of variable length. Its length in elements is one in bytes.
    ///
    /// # Errors
    /// What the heap gives; `Malformed` for a text longer than its object.
    pub fn variable_text(&self, element: &[u8], at: u64) -> Result<std::borrow::Cow<'_, [u8]>> {
        match self.variable(element, at)? {
            None => Ok(std::borrow::Cow::Borrowed(&[])),
            Some((count, _, len)) if u64::from(count) > len => {
                let e = Error::malformed(RULE, "a text is longer than its place in the heap");
                Err(e.at(at))
            }
            Some((count, address, _)) => self.bytes(address, count.into()),
        }
    }

    /// The elements, of `width` bytes each, of an element that is a sequence of any length.
    ///
    /// # Errors
    /// As [`File::variable_text`].
    pub fn sequence(
        &self,
        element: &[u8],
        width: u32,
        at: u64,
    ) -> Result<std::borrow::Cow<'_, [u8]>> {
        let Some((count, address, len)) = self.variable(element, at)? else {
            return Ok(std::borrow::Cow::Borrowed(&[]));
        };
        let bytes = u64::from(count).saturating_mul(width.into());
        if bytes > len {
            let e = Error::malformed(RULE, "a sequence is longer than its place in the heap");
            return Err(e.at(at));
        }
        self.bytes(address, bytes)
    }

    /// How many bytes an element of variable length takes in the file.
    pub fn variable_width(&self) -> u64 {
        8 + u64::from(self.sizes().offset)
    }
}
