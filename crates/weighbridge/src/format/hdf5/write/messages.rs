//! The messages of an object header (IV.A.2 of the specification).

use weighbridge_core::model::Value;

use super::attribute;
use super::heap::{GlobalHeap, Referrer};

pub(super) const DATASPACE: u16 = 0x01;
pub(super) const DATATYPE: u16 = 0x03;
pub(super) const FILL_VALUE: u16 = 0x05;
pub(super) const LAYOUT: u16 = 0x08;
pub(super) const ATTRIBUTE: u16 = 0x0c;
pub(super) const SYMBOL_TABLE: u16 = 0x11;

/// A message that never changes.
pub(super) const CONSTANT: u8 = 1;

/// Messages of one object header are at most this long together.
const MOST_HEADER: usize = 1 << 30;

/// The messages of an object header.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u16,
    pub(super) referrers: Vec<Referrer>,
    pub(super) data: Vec<(usize, u64)>,
}

impl Messages {
    /// Appends a message.
    pub(super) fn push(&mut self, kind: u16, flags: u8, body: &[u8]) {
        let len = body.len().next_multiple_of(8);
        self.bytes.extend(kind.to_le_bytes());
        // Bodies are bounded by who makes them.
        self.bytes.extend((len as u16).to_le_bytes());
        self.bytes.extend([flags, 0, 0, 0]);
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(body);
        self.bytes.resize(end, 0);
        self.count = self.count.saturating_add(1);
    }

    /// Appends an attribute; says why it cannot be one.
    pub(super) fn attribute(
        &mut self,
        name: &str,
        value: &Value,
        heap: &mut GlobalHeap,
    ) -> std::result::Result<(), String> {
        let body = attribute::encode(name, value, heap)?;
        if self.count == u16::MAX || self.bytes.len() > MOST_HEADER {
            return Err("the object has too many attributes".into());
        }
        let start = self.bytes.len() + 8;
        for mut r in body.referrers {
            r.at += start;
            self.referrers.push(r);
        }
        self.push(ATTRIBUTE, 0, &body.bytes);
        Ok(())
    }
}
