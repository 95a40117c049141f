//! Fixed arrays (VII.C): the index of chunks of a dataset that cannot grow.

use super::chunk::{Element, Filtered};
use super::fields::Fields;
use super::file::File;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.chunk-index";

/// What is done with each element that is set.
pub(super) type Visit<'v> = dyn FnMut(u64, u64, Filtered) -> Result<()> + 'v;

impl File {
    /// Gives every chunk that a fixed array lists: its index, its address, and with filters its
    /// stored size and mask.
    pub(super) fn fixed_array(&self, address: u64, each: &mut Visit<'_>) -> Result<()> {
        let sizes = self.sizes();
        let (o, l) = (u64::from(sizes.offset), u64::from(sizes.length));
        let head = self.bytes(address, 12 + l + o)?;
        let mut f = self.fields(&head, address);
        f.tag(b"FAHD", RULE)?;
        self.verify(&head, address)?;
        f.version(0..=0, RULE)?;
        let place = f.place();
        let element = element(&mut f, sizes.offset)?;
        let page_bits = f.u8()?;
        let count = f.length()?;
        let Some(block) = f.address()? else {
            return Ok(());
        };
        if page_bits > 32 {
            return Err(Error::malformed(RULE, "an array of impossible pages").at(place));
        }
        let page = 1u64 << page_bits;
        let pages = if count > page {
            count.div_ceil(page)
        } else {
            0
        };
        let bitmap = pages.div_ceil(8);
        let width = element.width as u64;
        let prefix = 6 + o + bitmap;
        let body = if pages == 0 {
            count.saturating_mul(width)
        } else {
            0
        };
        let data = self.bytes(block, prefix.saturating_add(body).saturating_add(4))?;
        let mut f = self.fields(&data, block);
        f.tag(b"FADB", RULE)?;
        self.verify(&data, block)?;
        f.skip(2 + usize::from(sizes.offset))?;
        if pages == 0 {
            return self.elements(&mut f, element, 0..count, each);
        }
        let set = f
            .take(usize::try_from(bitmap).unwrap_or(usize::MAX))?
            .to_vec();
        let first = block.saturating_add(prefix + 4);
        for i in 0..pages {
            if !bit(&set, i) {
                continue;
            }
            let start = i * page;
            let n = page.min(count - start);
            let at = first.saturating_add(i.saturating_mul(page * width + 4));
            let data = self.bytes(at, n * width + 4)?;
            self.verify(&data, at)?;
            self.elements(&mut self.fields(&data, at), element, start..start + n, each)?;
        }
        Ok(())
    }

    /// Gives the elements that are set of those that come next.
    pub(super) fn elements(
        &self,
        f: &mut Fields<'_>,
        element: Element,
        numbers: std::ops::Range<u64>,
        each: &mut Visit<'_>,
    ) -> Result<()> {
        for i in numbers {
            if let (Some(address), stored) = element.read(f, self.sizes().offset)? {
                each(i, address, stored)?;
            }
        }
        Ok(())
    }
}

/// The kind and width of an array's elements, which its header begins with.
pub(super) fn element(f: &mut Fields<'_>, address_width: u8) -> Result<Element> {
    let place = f.place();
    let (client, width) = (f.u8()?, f.u8()?);
    let least = match client {
        0 => address_width,
        1 => address_width + 5,
        _ => return Err(Error::malformed(RULE, "an array of no chunks").at(place)),
    };
    if width < least || (client == 0 && width != least) || width > address_width + 12 {
        return Err(Error::malformed(RULE, "an array of impossible elements").at(place));
    }
    Ok(Element {
        filtered: client == 1,
        width: width.into(),
    })
}

/// A bit of a bitmap, the highest of each byte first.
pub(super) fn bit(map: &[u8], i: u64) -> bool {
    let byte = usize::try_from(i / 8).ok().and_then(|b| map.get(b));
    byte.is_some_and(|b| b & (0x80 >> (i % 8)) != 0)
}
