//! The fractal heap (III.G): links and attributes of objects that have many, and shared messages.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use super::fields::{Fields, enough_for};
use super::file::File;
use super::filter::Pipeline;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.fractal-heap";

/// The bytes of a direct block.
type Block<'f> = Rc<Cow<'f, [u8]>>;

/// An open heap. Blocks stay in memory while it is open.
#[derive(Debug)]
pub(super) struct Heap<'f> {
    file: &'f File,
    address: u64,
    id_len: u16,
    checked: bool,
    filters: Option<Filters>,
    huge_tree: Option<u64>,
    most_managed: u32,
    width: u64,
    start: u64,
    largest: u64,
    bits: u16,
    root: Option<u64>,
    root_rows: u16,
    direct: HashMap<u64, Block<'f>>,
    indirect: HashMap<u64, Rc<Vec<Child>>>,
    huge: Option<HashMap<u64, Huge>>,
}

#[derive(Debug)]
struct Filters {
    pipeline: Pipeline,
    root_size: u64,
    root_mask: u32,
}

/// A block below an indirect one; filtered direct blocks have a stored size and a mask.
#[derive(Debug, Clone, Copy)]
struct Child {
    address: Option<u64>,
    stored: Option<(u64, u32)>,
}

/// A huge object: where it is, its stored length, and with filters the mask and the real length.
#[derive(Debug, Clone, Copy)]
struct Huge {
    address: Option<u64>,
    len: u64,
    filtered: Option<(u32, u64)>,
}

fn bad(message: &str, at: u64) -> Error {
    Error::malformed(RULE, message).at(at)
}

impl<'f> Heap<'f> {
    /// Opens the heap whose header is at `address`.
    pub(super) fn open(file: &'f File, address: u64) -> Result<Self> {
        let (o, l) = (
            u64::from(file.sizes().offset),
            u64::from(file.sizes().length),
        );
        let fixed: u64 = 4 + 1 + 2 + 2 + 1 + 4 + 12 * l + 3 * o + 2 + 2 + 2 + 2;
        let head = file.peek(address, fixed)?;
        let mut f = file.fields(&head, address);
        f.skip(7)?;
        let filters = u64::from(f.u16()?);
        let extra = if filters > 0 { l + 4 + filters } else { 0 };
        let head = file.bytes(address, fixed + extra + 4)?;
        let mut f = file.fields(&head, address);
        f.tag(b"FRHP", RULE)?;
        file.verify(&head, address)?;
        f.version(0..=0, RULE)?;
        let (id_len, filters, flags, most_managed) = (f.u16()?, f.u16()?, f.u8()?, f.u32()?);
        f.length()?;
        let huge_tree = f.address()?;
        f.length()?;
        f.address()?;
        // Managed space, allocated space, the iterator, and the numbers of three kinds of objects.
        f.skip(8 * l as usize)?;
        let place = f.place();
        let width = u64::from(f.u16()?);
        let (start, largest, bits) = (f.length()?, f.length()?, f.u16()?);
        f.u16()?;
        let root = f.address()?;
        let root_rows = f.u16()?;
        let powers = width.is_power_of_two() && start.is_power_of_two();
        if !powers || !largest.is_power_of_two() || largest < start || bits > 64 {
            return Err(bad("a heap of impossible blocks", place));
        }
        let filters = match filters {
            0 => None,
            n => Some(Filters {
                root_size: f.length()?,
                root_mask: f.u32()?,
                pipeline: {
                    let place = f.place();
                    let body = f.take(n.into())?;
                    Pipeline::read(&mut Fields::new(body, place, file.sizes()))?
                },
            }),
        };
        Ok(Self {
            file,
            address,
            id_len,
            checked: flags & 2 != 0,
            filters,
            huge_tree,
            most_managed,
            width,
            start,
            largest,
            bits,
            root,
            root_rows,
            direct: HashMap::new(),
            indirect: HashMap::new(),
            huge: None,
        })
    }

    /// The object that `id` stands for, and where it lies (with filters: where its block does).
    pub(super) fn object(&mut self, id: &[u8], at: u64) -> Result<(Cow<'f, [u8]>, u64)> {
        let head = id.first().copied().unwrap_or_default();
        if head >> 6 != 0 {
            return Err(bad("an object's number is of an unknown version", at));
        }
        match (head >> 4) & 3 {
            0 => self.managed(id, at),
            1 => self.huge(id, at),
            2 => self.tiny(id, at),
            _ => Err(bad("an object's number is of an unknown type", at)),
        }
    }

    /// Short objects lie in the number itself.
    fn tiny(&self, id: &[u8], at: u64) -> Result<(Cow<'f, [u8]>, u64)> {
        let extended = self.id_len > 17;
        let low = usize::from(id.first().copied().unwrap_or_default() & 15);
        let (len, from) = match (extended, id.get(1)) {
            (true, Some(&next)) => (low << 8 | usize::from(next), 2),
            _ => (low, 1),
        };
        let bytes = id.get(from..=from + len);
        let bytes = bytes.ok_or_else(|| bad("an object is longer than its number", at))?;
        Ok((Cow::Owned(bytes.to_vec()), at))
    }

    fn managed(&mut self, id: &[u8], at: u64) -> Result<(Cow<'f, [u8]>, u64)> {
        let mut f = Fields::new(id, at, self.file.sizes());
        f.skip(1)?;
        let offset = f.uint(usize::from(self.bits).div_ceil(8))?;
        let by_block = self.largest.ilog2() as usize;
        let by_limit = enough_for(self.most_managed.into());
        let len = f.uint(by_block.div_ceil(8).min(by_limit))?;
        let (address, start, block) = self.block_of(offset, at)?;
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        let bytes = block
            .get(from..to)
            .ok_or_else(|| bad("an object reaches out of its block", at))?;
        self.file.spend(len)?;
        let place = match &self.filters {
            None => address.saturating_add(offset - start),
            Some(_) => address,
        };
        Ok((Cow::Owned(bytes.to_vec()), place))
    }

    /// Bytes of a block in `row` of the doubling table.
    fn block_size(&self, row: u32) -> u64 {
        let shift = row.saturating_sub(1);
        if shift >= self.start.leading_zeros() {
            return u64::MAX;
        }
        self.start << shift
    }

    /// Rows of direct blocks in an indirect one.
    fn direct_rows(&self) -> u32 {
        self.largest.ilog2() - self.start.ilog2() + 2
    }

    /// The direct block that holds `offset` of the heap: its address, its own offset, its bytes.
    fn block_of(&mut self, offset: u64, at: u64) -> Result<(u64, u64, Block<'f>)> {
        let none = || bad("an object lies in no block", at);
        let mut address = self.root.ok_or_else(none)?;
        let mut rows = u32::from(self.root_rows);
        if rows == 0 {
            let stored = self.filters.as_ref().map(|f| (f.root_size, f.root_mask));
            let size = self.start;
            return Ok((address, 0, self.direct_block(address, size, stored)?));
        }
        let mut start = 0u64;
        // Each step goes to smaller blocks: as many steps as a number has bits.
        for _ in 0..64 {
            let (row, column, before) = self.place_of(offset - start, rows).ok_or_else(none)?;
            let size = self.block_size(row);
            let children = self.indirect_block(address, rows)?;
            let n = u64::from(row) * self.width + column;
            let child = usize::try_from(n).ok().and_then(|n| children.get(n));
            let child = child.ok_or_else(none)?;
            start = start.saturating_add(before);
            address = child.address.ok_or_else(none)?;
            if row < self.direct_rows() {
                let block = self.direct_block(address, size, child.stored)?;
                return Ok((address, start, block));
            }
            let first = (self.start.saturating_mul(self.width)).ilog2();
            rows = (size.ilog2().saturating_sub(first)) + 1;
        }
        Err(none())
    }

    /// The row and column of the block that `offset` lies in, and where that block begins.
    fn place_of(&self, offset: u64, rows: u32) -> Option<(u32, u64, u64)> {
        let mut before = 0u64;
        for row in 0..rows {
            let size = self.block_size(row);
            let end = before.saturating_add(size.saturating_mul(self.width));
            if offset < end {
                let column = (offset - before) / size;
                return Some((row, column, before + column * size));
            }
            before = end;
        }
        None
    }

    fn direct_block(
        &mut self,
        address: u64,
        size: u64,
        stored: Option<(u64, u32)>,
    ) -> Result<Block<'f>> {
        if let Some(held) = self.direct.get(&address) {
            return Ok(Rc::clone(held));
        }
        let file = self.file;
        let data = match (&self.filters, stored) {
            (Some(filters), Some((len, mask))) => {
                let data = file.bytes(address, len)?;
                let cap = file.limits().inflate_bytes;
                if size > cap {
                    let e = Error::limit(RULE, "a block of a heap is over the limit");
                    return Err(e.at(file.place(address)));
                }
                file.spend(size)?;
                let undone = filters.pipeline.undo(data.into_owned(), mask, size, 1);
                Cow::Owned(undone.map_err(|e| e.at(file.place(address)))?)
            }
            _ => file.bytes(address, size)?,
        };
        let mut f = file.fields(&data, address);
        f.tag(b"FHDB", RULE)?;
        f.version(0..=0, RULE)?;
        let place = f.place();
        if f.address()? != Some(self.address) {
            return Err(bad("a block of another heap", place));
        }
        if self.checked {
            self.check_direct(&data, address)?;
        }
        let data = Rc::new(data);
        self.direct.insert(address, Rc::clone(&data));
        Ok(data)
    }

    /// The checksum of a direct block stands in its head, and counts as zeros.
    fn check_direct(&self, data: &[u8], address: u64) -> Result<()> {
        let at = 5 + usize::from(self.file.sizes().offset) + usize::from(self.bits).div_ceil(8);
        let mut copy = data.to_vec();
        let mut stored = Vec::new();
        if let Some(sum) = copy.get_mut(at..at + 4) {
            stored.extend_from_slice(sum);
            sum.fill(0);
        }
        copy.truncate(data.len());
        let computed = super::checksum::lookup3(&copy);
        if stored != computed.to_le_bytes() && !cfg!(fuzzing) {
            let message = "a block of a heap does not have the checksum that it says";
            return Err(Error::integrity("hdf5.checksum", message)
                .span(self.file.place(address), data.len() as u64));
        }
        Ok(())
    }

    fn indirect_block(&mut self, address: u64, rows: u32) -> Result<Rc<Vec<Child>>> {
        if let Some(held) = self.indirect.get(&address) {
            return Ok(Rc::clone(held));
        }
        let file = self.file;
        let (o, l) = (
            u64::from(file.sizes().offset),
            u64::from(file.sizes().length),
        );
        let direct = u64::from(rows.min(self.direct_rows())).saturating_mul(self.width);
        let all = u64::from(rows).saturating_mul(self.width);
        let extra = if self.filters.is_some() { l + 4 } else { 0 };
        let offset = u64::from(self.bits).div_ceil(8);
        let children = direct
            .saturating_mul(o + extra)
            .saturating_add((all - direct).saturating_mul(o));
        let len = children.saturating_add(5 + o + offset + 4);
        let data = file.bytes(address, len)?;
        let mut f = file.fields(&data, address);
        f.tag(b"FHIB", RULE)?;
        file.verify(&data, address)?;
        f.version(0..=0, RULE)?;
        let place = f.place();
        if f.address()? != Some(self.address) {
            return Err(bad("a block of another heap", place));
        }
        f.skip(offset as usize)?;
        let mut out = Vec::new();
        for i in 0..all {
            let address = f.address()?;
            let stored = match &self.filters {
                Some(_) if i < direct => Some((f.length()?, f.u32()?)),
                _ => None,
            };
            out.push(Child { address, stored });
        }
        let out = Rc::new(out);
        self.indirect.insert(address, Rc::clone(&out));
        Ok(out)
    }

    /// Objects that are too long for a block lie by themselves; a number names the place, or a
    /// record of a tree that does.
    fn huge(&mut self, id: &[u8], at: u64) -> Result<(Cow<'f, [u8]>, u64)> {
        let file = self.file;
        let (o, l) = (
            u64::from(file.sizes().offset),
            u64::from(file.sizes().length),
        );
        let filtered = self.filters.is_some();
        let needed = if filtered { o + l + 4 + l } else { o + l };
        let mut f = Fields::new(id, at, file.sizes());
        f.skip(1)?;
        let it = if needed < u64::from(self.id_len) {
            let (address, len) = (f.address()?, f.length()?);
            let filtered = if filtered {
                Some((f.u32()?, f.length()?))
            } else {
                None
            };
            Huge {
                address,
                len,
                filtered,
            }
        } else {
            let key = f.uint(usize::from(self.id_len).saturating_sub(1).min(8))?;
            let all = self.huge_objects()?;
            *all.get(&key)
                .ok_or_else(|| bad("an object is not in its tree", at))?
        };
        let address = it
            .address
            .ok_or_else(|| bad("an object lies nowhere", at))?;
        let data = file.bytes(address, it.len)?;
        match (&self.filters, it.filtered) {
            (Some(filters), Some((mask, len))) => {
                if len > file.limits().inflate_bytes {
                    return Err(Error::limit(RULE, "an object is over the limit").at(at));
                }
                file.spend(len)?;
                let data = filters.pipeline.undo(data.into_owned(), mask, len, 1)?;
                Ok((Cow::Owned(data), address))
            }
            _ => Ok((data, address)),
        }
    }

    fn huge_objects(&mut self) -> Result<&HashMap<u64, Huge>> {
        if self.huge.is_none() {
            let mut all = HashMap::new();
            if let Some(tree) = self.huge_tree {
                self.file.tree2(tree, &mut |kind, f| {
                    let (address, len) = (f.address()?, f.length()?);
                    let filtered = match kind {
                        2 => Some((f.u32()?, f.length()?)),
                        _ => None,
                    };
                    if matches!(kind, 1 | 2) {
                        let it = Huge {
                            address,
                            len,
                            filtered,
                        };
                        all.insert(f.length()?, it);
                    }
                    Ok(())
                })?;
            }
            self.huge = Some(all);
        }
        Ok(self.huge.get_or_insert_default())
    }
}
