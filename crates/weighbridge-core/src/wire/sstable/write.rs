//! Writing tables, in memory: what they hold of a checkpoint is small.

use super::{Handle, MAGIC};
use crate::model::Checksum;

/// Bytes from which on a block is closed, as TensorFlow does (`table_options.h`).
const BLOCK: usize = 256 << 10;

/// Every so many entries one shares nothing with the one before.
const INTERVAL: usize = 16;

/// A table on its way.
#[derive(Debug, Default)]
pub struct Builder {
    out: Vec<u8>,
    block: Block,
    index: Vec<(Vec<u8>, Handle)>,
}

impl Builder {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry, whose key has to come after the one before; says whether it does. One that
    /// does not is left out.
    #[must_use]
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> bool {
        let before = match (self.block.entries, self.index.last()) {
            (0, None) => None,
            (0, Some((last, _))) => Some(last.as_slice()),
            _ => Some(self.block.last.as_slice()),
        };
        if before.is_some_and(|b| b >= key) {
            return false;
        }
        self.block.add(key, value);
        if self.block.bytes.len() >= BLOCK {
            self.close();
        }
        true
    }

    fn close(&mut self) {
        if self.block.entries > 0 {
            let block = std::mem::take(&mut self.block);
            let last = block.last.clone();
            let handle = block.finish(&mut self.out);
            self.index.push((last, handle));
        }
    }

    /// The whole table.
    pub fn finish(mut self) -> Vec<u8> {
        self.close();
        let meta = Block::default().finish(&mut self.out);
        let mut index = Block::default();
        for (key, handle) in &self.index {
            let mut value = Vec::new();
            push_handle(&mut value, *handle);
            index.add(key, &value);
        }
        let index = index.finish(&mut self.out);
        let start = self.out.len();
        push_handle(&mut self.out, meta);
        push_handle(&mut self.out, index);
        self.out.resize(start + 40, 0);
        self.out.extend_from_slice(&MAGIC.to_le_bytes());
        self.out
    }
}

fn push_handle(out: &mut Vec<u8>, h: Handle) {
    push_varint(out, h.offset);
    push_varint(out, h.len);
}

fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// One block on its way.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last: Vec<u8>,
    entries: usize,
}

impl Block {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let shared = match self.entries.is_multiple_of(INTERVAL) {
            true => {
                // A block is closed long before it has 4 GiB.
                self.restarts.push(self.bytes.len() as u32);
                0
            }
            false => {
                let pairs = self.last.iter().zip(key);
                pairs.take_while(|(a, b)| a == b).count()
            }
        };
        let own = key.get(shared..).unwrap_or_default();
        push_varint(&mut self.bytes, shared as u64);
        push_varint(&mut self.bytes, own.len() as u64);
        push_varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(own);
        self.bytes.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.entries += 1;
    }

    /// Appends the block and what stands behind it.
    fn finish(mut self, out: &mut Vec<u8>) -> Handle {
        if self.restarts.is_empty() {
            self.restarts.push(0);
        }
        for r in &self.restarts {
            self.bytes.extend_from_slice(&r.to_le_bytes());
        }
        let count = self.restarts.len() as u32;
        self.bytes.extend_from_slice(&count.to_le_bytes());
        let handle = Handle {
            offset: out.len() as u64,
            len: self.bytes.len() as u64,
        };
        // Not compressed.
        self.bytes.push(0);
        let sum = Checksum::masked_crc32c(&self.bytes).value();
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(&sum.to_le_bytes());
        handle
    }
}
