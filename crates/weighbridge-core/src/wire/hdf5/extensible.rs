//! Extensible arrays (VII.D): the index of chunks of a dataset that grows along one dimension.

use super::chunk::Element;
use super::file::File;
use super::fixed::{Visit, bit, element};
use crate::error::{Error, Result};

const RULE: &str = "hdf5.chunk-index";

/// What an array's header says.
#[derive(Debug, Clone, Copy)]
struct Head {
    element: Element,
    /// Bits of an element's number.
    bits: u8,
    /// Elements in the index block itself.
    direct: u64,
    /// Elements of the smallest data block.
    least: u64,
    /// Data blocks of the smallest super block that is one.
    pointers: u64,
    /// Elements of a page of a data block.
    page: u64,
}

/// The data blocks of one super block: how many, and of how many elements each.
#[derive(Debug, Clone, Copy)]
struct Level {
    blocks: u64,
    elements: u64,
}

impl Head {
    fn level(&self, i: u32) -> Level {
        Level {
            blocks: 1u64.checked_shl(i / 2).unwrap_or(u64::MAX),
            elements: self
                .least
                .saturating_mul(1u64.checked_shl(i.div_ceil(2)).unwrap_or(u64::MAX)),
        }
    }

    /// How many pages a data block has; 0 for one that is not cut into pages.
    fn pages(&self, level: Level) -> u64 {
        if level.elements > self.page {
            level.elements / self.page
        } else {
            0
        }
    }
}

impl File {
    /// Gives every chunk that an extensible array lists, as [`File::fixed_array`].
    pub(super) fn extensible_array(&self, address: u64, each: &mut Visit<'_>) -> Result<()> {
        let sizes = self.sizes();
        let (o, l) = (u64::from(sizes.offset), u64::from(sizes.length));
        let data = self.bytes(address, 16 + 6 * l + o)?;
        let mut f = self.fields(&data, address);
        f.tag(b"EAHD", RULE)?;
        self.verify(&data, address)?;
        f.version(0..=0, RULE)?;
        let place = f.place();
        let element = element(&mut f, sizes.offset)?;
        let (bits, direct, least) = (f.u8()?, f.u8()?, f.u8()?);
        let (pointers, page_bits) = (f.u8()?, f.u8()?);
        f.skip(6 * usize::from(sizes.length))?;
        let Some(index) = f.address()? else {
            return Ok(());
        };
        let powers = least.is_power_of_two() && pointers.is_power_of_two();
        if !powers || bits > 64 || page_bits > 32 || u32::from(bits) < least.ilog2() {
            return Err(Error::malformed(RULE, "an array of impossible blocks").at(place));
        }
        let head = Head {
            element,
            bits,
            direct: direct.into(),
            least: least.into(),
            pointers: pointers.into(),
            page: 1 << page_bits,
        };
        self.index_block(&head, index, each)
    }

    fn index_block(&self, head: &Head, address: u64, each: &mut Visit<'_>) -> Result<()> {
        let o = u64::from(self.sizes().offset);
        let levels = 1 + u32::from(head.bits) - head.least.ilog2();
        // The data blocks of the first levels are named by the index block itself.
        let named = (2 * head.pointers.ilog2()).min(levels);
        let blocks = 2 * (head.pointers - 1);
        let supers = u64::from(levels - named);
        let width = head.element.width as u64;
        let len = 6 + o + head.direct * width + (blocks + supers) * o + 4;
        let data = self.bytes(address, len)?;
        let mut f = self.fields(&data, address);
        f.tag(b"EAIB", RULE)?;
        self.verify(&data, address)?;
        f.skip(2 + o as usize)?;
        self.elements(&mut f, head.element, 0..head.direct, each)?;
        let mut next = head.direct;
        for i in 0..levels {
            let level = head.level(i);
            let all = level.blocks.saturating_mul(level.elements);
            if i < named {
                for j in 0..level.blocks {
                    let start = next.saturating_add(j.saturating_mul(level.elements));
                    if let Some(block) = f.address()? {
                        self.data_block(head, level, block, start, None, each)?;
                    }
                }
            } else if let Some(block) = f.address()? {
                self.super_block(head, level, block, next, each)?;
            }
            next = next.saturating_add(all);
        }
        Ok(())
    }

    fn super_block(
        &self,
        head: &Head,
        level: Level,
        address: u64,
        start: u64,
        each: &mut Visit<'_>,
    ) -> Result<()> {
        let o = u64::from(self.sizes().offset);
        let offset = u64::from(head.bits).div_ceil(8);
        let pages = head.pages(level);
        let bitmap = pages.div_ceil(8).saturating_mul(level.blocks);
        let pointers = level.blocks.saturating_mul(o);
        let len = bitmap
            .saturating_add(pointers)
            .saturating_add(10 + o + offset);
        let data = self.bytes(address, len)?;
        let mut f = self.fields(&data, address);
        f.tag(b"EASB", RULE)?;
        self.verify(&data, address)?;
        f.skip(2 + (o + offset) as usize)?;
        let set = f
            .take(usize::try_from(bitmap).unwrap_or(usize::MAX))?
            .to_vec();
        for j in 0..level.blocks {
            if let Some(block) = f.address()? {
                let start = start.saturating_add(j.saturating_mul(level.elements));
                let set = (pages > 0).then_some((set.as_slice(), j * pages));
                self.data_block(head, level, block, start, set, each)?;
            }
        }
        Ok(())
    }

    /// A data block; its pages come after it, each with its checksum, those that are set.
    fn data_block(
        &self,
        head: &Head,
        level: Level,
        address: u64,
        start: u64,
        set: Option<(&[u8], u64)>,
        each: &mut Visit<'_>,
    ) -> Result<()> {
        let o = u64::from(self.sizes().offset);
        let offset = u64::from(head.bits).div_ceil(8);
        let width = head.element.width as u64;
        let pages = head.pages(level);
        let prefix = 6 + o + offset;
        let body = match pages {
            0 => level.elements.saturating_mul(width),
            _ => 0,
        };
        let data = self.bytes(address, body.saturating_add(prefix + 4))?;
        let mut f = self.fields(&data, address);
        f.tag(b"EADB", RULE)?;
        self.verify(&data, address)?;
        f.skip(2 + (o + offset) as usize)?;
        if pages == 0 {
            let end = start.saturating_add(level.elements);
            return self.elements(&mut f, head.element, start..end, each);
        }
        let first = address.saturating_add(prefix + 4);
        for i in 0..pages {
            if set.is_some_and(|(map, from)| !bit(map, from + i)) {
                continue;
            }
            let at = first.saturating_add(i.saturating_mul(head.page * width + 4));
            let data = self.bytes(at, head.page * width + 4)?;
            self.verify(&data, at)?;
            let start = start.saturating_add(i * head.page);
            let end = start.saturating_add(head.page);
            self.elements(&mut self.fields(&data, at), head.element, start..end, each)?;
        }
        Ok(())
    }
}
