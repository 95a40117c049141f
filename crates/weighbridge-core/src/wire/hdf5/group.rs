//! What groups hold: the old symbol tables (III.B, III.C, III.D), link messages, and links in a
//! fractal heap.

use super::btree1::Tree;
use super::fields::{Fields, text_of};
use super::file::File;
use super::fractal::Heap;
use super::header::{Header, kind};
use super::link::{Link, Target};
use crate::error::{Error, Result};

const RULE: &str = "hdf5.group";

impl File {
    /// The links of a group, by name as the library lists them.
    ///
    /// # Errors
    /// What the specification does not allow; `Limit` for too many.
    pub fn links(&self, group: &Header<'_>) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for m in group.all(kind::SYMBOL_TABLE) {
            let (body, at) = self.body(group, m)?;
            self.symbol_table(&mut self.fields(&body, at), &mut links)?;
        }
        for m in group.all(kind::LINK) {
            let (body, at) = self.body(group, m)?;
            links.push(Link::read(&mut self.fields(&body, at))?);
        }
        for m in group.all(kind::LINK_INFO) {
            let (body, at) = self.body(group, m)?;
            self.dense_links(&mut self.fields(&body, at), &mut links)?;
        }
        links.sort_by(|a, b| a.name.cmp(&b.name));
        let same = |pair: &[Link]| matches!(pair, [a, b] if a.name == b.name);
        if let Some([a, b]) = links.windows(2).find(|pair| same(pair)) {
            let message = format!("two links are called {}", a.name);
            return Err(Error::malformed(RULE, message).at(b.at));
        }
        Ok(links)
    }

    fn admit(&self, links: &[Link]) -> Result<()> {
        let n = links.len() as u64;
        crate::Limits::check(n, self.limits().tensors, "hdf5.links", "links of a group")
    }

    fn dense_links(&self, f: &mut Fields<'_>, links: &mut Vec<Link>) -> Result<()> {
        f.version(0..=0, RULE)?;
        let flags = f.u8()?;
        f.skip(if flags & 1 != 0 { 8 } else { 0 })?;
        let (heap, names) = (f.address()?, f.address()?);
        let order = if flags & 2 != 0 { f.address()? } else { None };
        let (Some(heap), Some(names)) = (heap, names) else {
            return Ok(());
        };
        let mut heap = Heap::open(self, heap)?;
        self.tree2(names, &mut |kind, f| {
            let place = f.place();
            match kind {
                5 => f.skip(4)?,
                6 => f.skip(8)?,
                _ => return Err(Error::malformed(RULE, "a tree of no links").at(place)),
            }
            let place = f.place();
            let (body, at) = heap.object(f.take(7)?, place)?;
            links.push(Link::read(&mut self.fields(&body, at))?);
            self.admit(links)
        })?;
        if let Some(order) = order {
            // It says nothing new, and is part of the file.
            self.tree2(order, &mut |_, _| Ok(()))?;
        }
        Ok(())
    }

    fn symbol_table(&self, f: &mut Fields<'_>, links: &mut Vec<Link>) -> Result<()> {
        let place = f.place();
        let (Some(tree), Some(heap)) = (f.address()?, f.address()?) else {
            return Err(Error::malformed(RULE, "a group without its tables").at(place));
        };
        let heap = self.local_heap(heap)?;
        let sizes = self.sizes();
        let each = u64::from(sizes.length) + u64::from(sizes.offset) + 24;
        let room = 8 + 2 * u64::from(self.superblock().leaf_k) * each;
        self.tree1(tree, Tree::Group, &mut |_, node| {
            let head = self.bytes(node, 8)?;
            let mut f = self.fields(&head, node);
            f.tag(b"SNOD", RULE)?;
            f.version(1..=1, RULE)?;
            f.skip(1)?;
            let count = f.u16()?;
            let data = self.bytes(node.saturating_add(8), u64::from(count) * each)?;
            if self.range(node, room).is_ok() {
                self.mark(node, room);
            }
            let mut f = self.fields(&data, node.saturating_add(8));
            for _ in 0..count {
                links.push(heap.symbol(&mut f)?);
            }
            self.admit(links)
        })
    }

    fn local_heap(&self, address: u64) -> Result<LocalHeap<'_>> {
        let sizes = self.sizes();
        let len = 8 + 2 * u64::from(sizes.length) + u64::from(sizes.offset);
        let head = self.bytes(address, len)?;
        let mut f = self.fields(&head, address);
        f.tag(b"HEAP", "hdf5.local-heap")?;
        f.version(0..=0, "hdf5.local-heap")?;
        f.skip(3)?;
        let len = f.length()?;
        f.length()?;
        let place = f.place();
        let data = f.address()?.ok_or_else(|| {
            Error::malformed("hdf5.local-heap", "a heap without its bytes").at(place)
        })?;
        Ok(LocalHeap {
            at: self.place(data),
            data: self.bytes(data, len)?,
        })
    }

    /// The text at `offset` of the local heap at `address`.
    pub(super) fn local_text(&self, address: u64, offset: u64) -> Result<String> {
        let heap = self.local_heap(address)?;
        heap.text(offset).map(text_of)
    }
}

/// Names of a group's links.
struct LocalHeap<'f> {
    at: u64,
    data: std::borrow::Cow<'f, [u8]>,
}

impl LocalHeap<'_> {
    fn text(&self, offset: u64) -> Result<&[u8]> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.data.get(from..).unwrap_or_default();
        match memchr::memchr(0, rest) {
            Some(n) => Ok(rest.get(..n).unwrap_or_default()),
            None => Err(
                Error::malformed("hdf5.local-heap", "a name is not in its heap")
                    .at(self.at.saturating_add(offset.min(self.data.len() as u64))),
            ),
        }
    }

    /// One entry of a symbol table (III.C).
    fn symbol(&self, f: &mut Fields<'_>) -> Result<Link> {
        let at = f.place();
        // A length in the library's files (`H5G_ent_decode`), an offset by the specification.
        let name = f.length()?;
        let address = f.address()?;
        let cached = f.u32()?;
        f.skip(4)?;
        let scratch = f.take(16)?;
        let name = text_of(self.text(name)?);
        let target = match (cached, address) {
            (2, _) => {
                let value = super::fields::little(scratch.get(..4).unwrap_or_default());
                Target::Soft(text_of(self.text(value)?))
            }
            (_, Some(address)) => Target::Hard(address),
            (_, None) => {
                let message = format!("the link {name} leads nowhere");
                return Err(Error::malformed(RULE, message).at(at));
            }
        };
        Ok(Link { name, target, at })
    }
}
