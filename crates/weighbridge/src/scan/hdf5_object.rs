//! The objects of an HDF5 file: what their header messages say of links, other files and
//! attributes. Source: HDF5 File Format Specification 3.0, sections II to IV.

use std::ops::Range;

use weighbridge_core::cursor::Cursor;
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

/// Longest block of an object's header; the library writes far shorter ones.
const MOST_HEADER: u64 = 1 << 24;

/// Most blocks of one header, nodes of one group, files and attribute values of one object.
const MOST_BLOCKS: usize = 10_000;

/// Longest value of an attribute that is read.
const MOST_VALUE: u64 = 32 << 20;

/// Most strings of one attribute.
const MOST_STRINGS: u64 = 4096;

/// What an object says.
#[derive(Debug)]
pub(super) enum Found {
    /// A hard link: the name, and the address of the object.
    Child(String, u64),
    /// Contents in another file: what kind, the file, and where that is said.
    Outside(&'static str, String, u64),
    /// An attribute: the name, the bytes of its value, and where it is said.
    Attribute(String, Vec<u8>, u64),
    /// A dataset: how many bytes its elements are in all; `None` when they overflow.
    Extent(Option<u64>, u64),
    /// Something that is there and was not looked into.
    Missed(&'static str),
}

/// How wide the numbers of a file are, and where its addresses count from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    base: u64,
    offset: usize,
    length: usize,
}

impl Sizes {
    /// Reads the superblock at `at` (II.A); gives the root group's address as well.
    ///
    /// # Errors
    /// `Malformed` and `Truncated` for what the specification does not allow.
    pub(super) fn read(source: &dyn ByteSource, at: u64) -> Result<(Self, u64)> {
        let head = bytes(source, at, 128.min(source.len().saturating_sub(at)))?;
        let version = head.get(8).copied().unwrap_or_default();
        let widths = match version {
            0 | 1 => head.get(13..15),
            2 | 3 => head.get(9..11),
            _ => return Err(bad("a superblock of an unknown version", at)),
        };
        let Some(&[offset, length]) = widths else {
            return Err(bad("the superblock is cut off", at));
        };
        if !matches!(offset, 2 | 4 | 8) || !matches!(length, 2 | 4 | 8) {
            return Err(bad("the superblock's numbers have an unknown width", at));
        }
        let mut sizes = Self {
            base: 0,
            offset: usize::from(offset),
            length: usize::from(length),
        };
        let mut c = Cursor::new(&head);
        c.seek(match version {
            0 => 24,
            1 => 28,
            _ => 12,
        })?;
        let base = sizes.address(&mut c)?;
        // Free space or the extension, the end of the file.
        sizes.address(&mut c)?;
        sizes.address(&mut c)?;
        if version < 2 {
            // The driver's information, the name of the root.
            sizes.address(&mut c)?;
            sizes.address(&mut c)?;
        }
        let root = sizes.address(&mut c)?;
        sizes.base = base;
        Ok((sizes, root))
    }

    fn address(self, c: &mut Cursor<'_>) -> Result<u64> {
        uint(c, self.offset)
    }

    fn length(self, c: &mut Cursor<'_>) -> Result<u64> {
        uint(c, self.length)
    }

    /// Where an address lies in the source.
    fn place(self, address: u64) -> u64 {
        self.base.saturating_add(address)
    }

    /// Whether an address is the mark for none: all bits set.
    fn is_none(self, address: u64) -> bool {
        let unused = 64 - 8 * self.offset.min(8) as u32;
        address == u64::MAX.checked_shr(unused).unwrap_or(0)
    }
}

fn uint(c: &mut Cursor<'_>, width: usize) -> Result<u64> {
    let mut n = [0u8; 8];
    let taken = c.take(width)?;
    for (to, from) in n.iter_mut().zip(taken) {
        *to = *from;
    }
    Ok(u64::from_le_bytes(n))
}

fn bad(message: &str, at: u64) -> Error {
    Error::malformed("hdf5.structure", message).at(at)
}

fn bytes(source: &dyn ByteSource, at: u64, len: u64) -> Result<Vec<u8>> {
    let end = at.checked_add(len).filter(|&e| e <= source.len());
    match end {
        Some(end) => source.read_vec(at..end),
        None => Err(bad("a part lies outside the file", at)),
    }
}

/// Everything that the object whose header is at `address` says.
///
/// # Errors
/// As reading; an unknown layout is `Malformed`.
pub(super) fn object(source: &dyn ByteSource, sizes: Sizes, address: u64) -> Result<Vec<Found>> {
    let at = sizes.place(address);
    let head = bytes(source, at, 16)?;
    let (first, v2, ordered) = if head.starts_with(b"OHDR") {
        let flags = head.get(5).copied().unwrap_or_default();
        let times = if flags & 0x20 != 0 { 16 } else { 0 };
        let phases = if flags & 0x10 != 0 { 4 } else { 0 };
        let width = 1u64 << (flags & 3);
        let start = at.saturating_add(6 + times + phases);
        let size = bytes(source, start, width)?;
        let size = uint(&mut Cursor::new(&size), width as usize)?;
        let start = start.saturating_add(width);
        (start..start.saturating_add(size), true, flags & 4 != 0)
    } else if head.first() == Some(&1) {
        let size = head.get(8..12).and_then(|b| b.first_chunk::<4>());
        let size = size.map_or(0, |b| u32::from_le_bytes(*b));
        let start = at.saturating_add(16);
        (start..start.saturating_add(u64::from(size)), false, false)
    } else {
        return Err(bad("an object's header is none", at));
    };
    let mut object = Object {
        source,
        sizes,
        out: Vec::new(),
        blocks: vec![first],
        v2,
        ordered,
        elements: None,
        width: None,
    };
    object.messages()?;
    // A group has neither, an attribute's own are inside its message.
    if let (Some(elements), Some(width)) = (object.elements, object.width) {
        let all = elements.and_then(|n| n.checked_mul(width));
        object.out.push(Found::Extent(all, at));
    }
    Ok(object.out)
}

struct Object<'s> {
    source: &'s dyn ByteSource,
    sizes: Sizes,
    out: Vec<Found>,
    blocks: Vec<Range<u64>>,
    v2: bool,
    ordered: bool,
    /// The number of elements, when a dataspace says one; overflowing ones are `None` inside.
    elements: Option<Option<u64>>,
    /// Bytes of an element.
    width: Option<u64>,
}

impl Object<'_> {
    fn messages(&mut self) -> Result<()> {
        let mut done = 0;
        while let Some(block) = self.blocks.pop() {
            done += 1;
            let len = block.end.saturating_sub(block.start);
            if done > MOST_BLOCKS || len > MOST_HEADER {
                return Err(bad("an object's header is too long", block.start));
            }
            let data = bytes(self.source, block.start, len)?;
            let mut c = Cursor::new(&data);
            // A version 1 message has 8 bytes in front, a version 2 message 4 or 6.
            let least = if self.v2 { 4 } else { 8 };
            while c.left() >= least {
                let (kind, size, flags) = if self.v2 {
                    let kind = u16::from(c.u8()?);
                    let head = (kind, c.u16()?, c.u8()?);
                    if self.ordered {
                        c.u16()?;
                    }
                    head
                } else {
                    let head = (c.u16()?, c.u16()?, c.u8()?);
                    c.take(3)?;
                    head
                };
                let at = block.start.saturating_add(c.pos() as u64);
                let Ok(body) = c.take(usize::from(size)) else {
                    // The gap at the end of a block.
                    break;
                };
                // Shared messages lie elsewhere; attributes and files are never shared by h5py.
                if flags & 2 != 0 {
                    if matches!(kind, 0x0c | 0x07 | 0x06) {
                        self.out.push(Found::Missed("it shares header messages"));
                    }
                    continue;
                }
                self.message(kind, body, at)?;
            }
        }
        Ok(())
    }

    /// One header message (IV.A.2).
    fn message(&mut self, kind: u16, body: &[u8], at: u64) -> Result<()> {
        match kind {
            0x01 => self.dataspace(body),
            0x02 => self.link_info(body),
            0x03 => {
                let size = body.get(4..8).and_then(|b| b.first_chunk::<4>());
                self.width = size.map(|b| u64::from(u32::from_le_bytes(*b)));
                Ok(())
            }
            0x06 => self.link(body, at),
            0x07 => self.external_files(body, at),
            0x08 => self.layout(body, at),
            0x0c => self.attribute(body, at),
            0x10 => {
                let mut c = Cursor::new(body);
                let start = self.sizes.place(self.sizes.address(&mut c)?);
                let len = self.sizes.length(&mut c)?;
                // A version 2 block has a signature in front and a checksum behind.
                let (front, both) = if self.v2 { (4, 8) } else { (0, 0) };
                let from = start.saturating_add(front);
                let end = from.saturating_add(len.saturating_sub(both));
                self.blocks.push(from..end);
                Ok(())
            }
            0x11 => self.symbol_table(body),
            0x15 => self.dense_attributes(body),
            _ => Ok(()),
        }
    }

    /// The dimensions of a dataset (IV.A.2.b).
    fn dataspace(&mut self, body: &[u8]) -> Result<()> {
        let mut c = Cursor::new(body);
        let (version, rank) = (c.u8()?, c.u8()?);
        // Flags, then five reserved bytes in version 1 and the kind in version 2.
        c.take(if version == 1 { 6 } else { 2 })?;
        let mut elements = Some(1u64);
        for _ in 0..rank {
            let n = self.sizes.length(&mut c)?;
            elements = match (elements, n) {
                (_, 0) | (Some(0), _) => Some(0),
                (Some(e), n) => e.checked_mul(n),
                (None, _) => None,
            };
        }
        self.elements = Some(elements);
        Ok(())
    }

    /// Links in a fractal heap, where a group has many.
    fn link_info(&mut self, body: &[u8]) -> Result<()> {
        let mut c = Cursor::new(body);
        c.u8()?;
        if c.u8()? & 1 != 0 {
            c.take(8)?;
        }
        let heap = self.sizes.address(&mut c)?;
        if !self.sizes.is_none(heap) {
            self.out
                .push(Found::Missed("a group keeps its links in a heap"));
        }
        Ok(())
    }

    fn dense_attributes(&mut self, body: &[u8]) -> Result<()> {
        let mut c = Cursor::new(body);
        c.u8()?;
        if c.u8()? & 1 != 0 {
            c.take(2)?;
        }
        let heap = self.sizes.address(&mut c)?;
        if !self.sizes.is_none(heap) {
            self.out
                .push(Found::Missed("an object keeps its attributes in a heap"));
        }
        Ok(())
    }

    fn link(&mut self, body: &[u8], at: u64) -> Result<()> {
        let mut c = Cursor::new(body);
        c.u8()?;
        let flags = c.u8()?;
        let kind = if flags & 8 != 0 { c.u8()? } else { 0 };
        if flags & 4 != 0 {
            c.take(8)?;
        }
        if flags & 0x10 != 0 {
            c.u8()?;
        }
        let len = uint(&mut c, 1 << (flags & 3))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let name = String::from_utf8_lossy(c.take(len)?).into_owned();
        match kind {
            0 => {
                let address = self.sizes.address(&mut c)?;
                self.out.push(Found::Child(name, address));
            }
            // A path inside the file.
            1 => {}
            64 => {
                let len = c.u16()?;
                let value = c.take(usize::from(len))?;
                let file = value.get(1..).unwrap_or_default();
                let file = file.split(|&b| b == 0).next().unwrap_or_default();
                let file = String::from_utf8_lossy(file).into_owned();
                self.out
                    .push(Found::Outside("HDF5 external link", file, at));
            }
            _ => self
                .out
                .push(Found::Missed("a link is of a kind of its own")),
        }
        Ok(())
    }

    fn external_files(&mut self, body: &[u8], at: u64) -> Result<()> {
        let mut c = Cursor::new(body);
        c.take(6)?;
        let used = c.u16()?;
        let heap = self.sizes.address(&mut c)?;
        for _ in 0..used {
            let name = self.sizes.length(&mut c)?;
            self.sizes.length(&mut c)?;
            self.sizes.length(&mut c)?;
            let file = self.heap_string(heap, name).unwrap_or_default();
            let kind = "HDF5 external storage";
            self.out.push(Found::Outside(kind, file, at));
        }
        Ok(())
    }

    /// A string of a local heap (III.D).
    fn heap_string(&self, heap: u64, offset: u64) -> Result<String> {
        let at = self.sizes.place(heap);
        let head = bytes(self.source, at, 8 + 2 * self.sizes.length as u64 + 8)?;
        if !head.starts_with(b"HEAP") {
            return Err(bad("a heap is none", at));
        }
        let mut c = Cursor::new(&head);
        c.take(8)?;
        let size = self.sizes.length(&mut c)?;
        self.sizes.length(&mut c)?;
        let data = self.sizes.place(self.sizes.address(&mut c)?);
        let from = data.saturating_add(offset.min(size));
        let end = data.saturating_add(size).min(self.source.len());
        let end = end.min(from.saturating_add(4096));
        let text = bytes(self.source, from, end.saturating_sub(from))?;
        let text = text.split(|&b| b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// A dataset made of parts of others (layout class 3); its sources are listed in a heap.
    fn layout(&mut self, body: &[u8], at: u64) -> Result<()> {
        let mut c = Cursor::new(body);
        let (version, class) = (c.u8()?, c.u8()?);
        if version < 3 || class != 3 {
            return Ok(());
        }
        let heap = self.sizes.address(&mut c)?;
        let index = c.u32()?;
        if self.sizes.is_none(heap) {
            return Ok(());
        }
        let list = self.global(heap, index, MOST_VALUE)?;
        let mut c = Cursor::new(&list);
        c.u8()?;
        self.sizes.length(&mut c)?;
        // The first file's name follows. `.` is this file; selections of unknown size follow.
        let rest = list.get(c.pos()..).unwrap_or_default();
        let file = rest.split(|&b| b == 0).next().unwrap_or_default();
        if file == b"." {
            self.out.push(Found::Missed("a dataset is made of others"));
        } else {
            let file = String::from_utf8_lossy(file).into_owned();
            self.out
                .push(Found::Outside("HDF5 virtual source", file, at));
        }
        Ok(())
    }

    /// The object `index` of the global heap collection at `heap` (III.E).
    fn global(&self, heap: u64, index: u32, most: u64) -> Result<Vec<u8>> {
        let at = self.sizes.place(heap);
        let head = bytes(self.source, at, 8 + self.sizes.length as u64)?;
        if !head.starts_with(b"GCOL") {
            return Err(bad("a global heap is none", at));
        }
        let mut c = Cursor::new(&head);
        c.take(8)?;
        let size = self.sizes.length(&mut c)?;
        let end = at.saturating_add(size).min(self.source.len());
        let mut next = at.saturating_add(head.len() as u64);
        let width = 8 + self.sizes.length as u64;
        for _ in 0..MOST_BLOCKS * 10 {
            if next.saturating_add(width) > end {
                break;
            }
            let head = bytes(self.source, next, width)?;
            let mut c = Cursor::new(&head);
            let number = c.u16()?;
            c.take(6)?;
            let len = self.sizes.length(&mut c)?;
            let data = next.saturating_add(width);
            if u32::from(number) == index {
                return bytes(self.source, data, len.min(most));
            }
            if number == 0 {
                break;
            }
            next = data.saturating_add(len.div_ceil(8).saturating_mul(8));
        }
        Err(bad("an object of a global heap is not there", at))
    }

    /// An attribute (IV.A.2.m): its strings, or its bytes as they are.
    fn attribute(&mut self, body: &[u8], at: u64) -> Result<()> {
        let mut c = Cursor::new(body);
        let version = c.u8()?;
        c.u8()?;
        let (name, kind, space) = (c.u16()?, c.u16()?, c.u16()?);
        if version == 3 {
            c.u8()?;
        }
        let padded = |n: u16| {
            let n = usize::from(n);
            if version == 1 { n.div_ceil(8) * 8 } else { n }
        };
        let name = c.take(padded(name))?;
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let kind = c.take(padded(kind))?;
        c.take(padded(space))?;
        let start = c.pos();
        let data = c.take(c.left())?;
        let class = kind.first().copied().unwrap_or_default() & 0x0f;
        if class != 9 {
            let at = at.saturating_add(start as u64);
            self.out.push(Found::Attribute(name, data.to_vec(), at));
            return Ok(());
        }
        // Of variable length: each element is a length, the address of a heap, and an index.
        let width = 8 + self.sizes.offset;
        for element in data.chunks_exact(width).take(MOST_STRINGS as usize) {
            let mut c = Cursor::new(element);
            c.u32()?;
            let heap = self.sizes.address(&mut c)?;
            let index = c.u32()?;
            if heap == 0 || self.sizes.is_none(heap) {
                continue;
            }
            match self.global(heap, index, MOST_VALUE) {
                Ok(value) => self.out.push(Found::Attribute(name.clone(), value, at)),
                Err(_) => self
                    .out
                    .push(Found::Missed("an attribute's text is not there")),
            }
        }
        Ok(())
    }

    /// The members of a group in the old form: a B-tree of symbol table nodes (III.A.1, III.B).
    fn symbol_table(&mut self, body: &[u8]) -> Result<()> {
        let mut c = Cursor::new(body);
        let tree = self.sizes.address(&mut c)?;
        let heap = self.sizes.address(&mut c)?;
        let mut open = vec![tree];
        let mut done = std::collections::HashSet::new();
        while let Some(address) = open.pop() {
            if self.sizes.is_none(address) || !done.insert(address) {
                continue;
            }
            if done.len() > MOST_BLOCKS * 10 {
                return Err(bad("a group has too many nodes", self.sizes.place(address)));
            }
            let at = self.sizes.place(address);
            let head = bytes(self.source, at, 8)?;
            let count = head.get(6..8).and_then(|b| b.first_chunk::<2>());
            let count = u64::from(count.map_or(0, |b| u16::from_le_bytes(*b)));
            if head.starts_with(b"SNOD") {
                self.symbols(at, count, heap)?;
            } else if head.starts_with(b"TREE") {
                let (offset, length) = (self.sizes.offset as u64, self.sizes.length as u64);
                let from = at.saturating_add(8 + 2 * offset + length);
                let each = offset + length;
                let data = bytes(self.source, from, count.saturating_mul(each))?;
                let mut c = Cursor::new(&data);
                for _ in 0..count {
                    open.push(self.sizes.address(&mut c)?);
                    if c.left() >= self.sizes.length {
                        self.sizes.length(&mut c)?;
                    }
                }
            } else {
                return Err(bad("a node of a group is none", at));
            }
        }
        Ok(())
    }

    fn symbols(&mut self, at: u64, count: u64, heap: u64) -> Result<()> {
        let each = 2 * self.sizes.offset as u64 + 24;
        let data = bytes(
            self.source,
            at.saturating_add(8),
            count.saturating_mul(each),
        )?;
        let mut c = Cursor::new(&data);
        for _ in 0..count {
            let name = self.sizes.address(&mut c)?;
            let address = self.sizes.address(&mut c)?;
            let cached = c.u32()?;
            c.take(20)?;
            // A soft link has no object.
            if cached != 2 && !self.sizes.is_none(address) {
                let name = self.heap_string(heap, name).unwrap_or_default();
                self.out.push(Found::Child(name, address));
            }
        }
        Ok(())
    }
}
