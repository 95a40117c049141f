//! The global heap: where texts of any length lie (HDF5 File Format Specification 3.0, III.E).

/// Objects are gathered into collections of about this many bytes.
const FULL: usize = 64 << 10;

/// The smallest collection that the library knows (`H5HG_MINSIZE`).
const LEAST: usize = 4096;

/// Bytes before the objects of a collection, and before the data of each object.
const HEAD: usize = 16;

/// Texts on their way into collections, and who refers to them.
#[derive(Debug, Default)]
pub(super) struct GlobalHeap {
    done: Vec<Vec<u8>>,
    open: Vec<u8>,
    count: u16,
}

/// Where a reference to a text has to be told the address of its collection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Referrer {
    /// Position of the address, from the start of the bytes that hold the reference.
    pub at: usize,
    /// The number of the collection.
    pub collection: usize,
}

impl GlobalHeap {
    /// Puts the reference to `text` into `out`, and the text into a collection.
    pub(super) fn refer(&mut self, text: &[u8], out: &mut Vec<u8>, referrers: &mut Vec<Referrer>) {
        if text.is_empty() {
            // An empty text has no place.
            out.extend([0; 16]);
            return;
        }
        let full = self.open.len().saturating_add(text.len()) > FULL || self.count == u16::MAX;
        if full && self.count > 0 {
            self.close();
        }
        self.count += 1;
        self.open.extend(self.count.to_le_bytes());
        self.open.extend([0; 6]);
        self.open.extend((text.len() as u64).to_le_bytes());
        self.open.extend_from_slice(text);
        self.open.resize(self.open.len().next_multiple_of(8), 0);
        // Callers refuse texts of 4 GiB and more.
        out.extend((text.len() as u32).to_le_bytes());
        referrers.push(Referrer {
            at: out.len(),
            collection: self.done.len(),
        });
        out.extend([0; 8]);
        out.extend(u32::from(self.count).to_le_bytes());
    }

    fn close(&mut self) {
        self.count = 0;
        self.done.push(std::mem::take(&mut self.open));
    }

    /// Appends all collections to `out`; gives their addresses.
    pub(super) fn write(mut self, out: &mut Vec<u8>) -> Vec<u64> {
        if self.count > 0 {
            self.close();
        }
        let mut addresses = Vec::with_capacity(self.done.len());
        for objects in self.done {
            addresses.push(out.len() as u64);
            let size = (HEAD + objects.len()).max(LEAST);
            let free = size - HEAD - objects.len();
            out.extend(b"GCOL\x01\0\0\0");
            out.extend((size as u64).to_le_bytes());
            out.extend(objects);
            let end = out.len() + free;
            if free >= HEAD {
                // Object 0 is the free space, its own head included.
                out.extend([0; 8]);
                out.extend((free as u64).to_le_bytes());
            }
            out.resize(end, 0);
        }
        addresses
    }
}
