//! The headers of objects (IV.A.1): both versions, with their continuations.

use std::borrow::Cow;
use std::ops::Range;

use super::fields::Fields;
use super::file::File;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.object-header";

/// Most blocks of one header.
const MOST_BLOCKS: usize = 10_000;

/// The kinds of messages that matter here (IV.A.2).
#[allow(missing_docs)]
pub(super) mod kind {
    pub(crate) const DATASPACE: u16 = 0x01;
    pub(crate) const LINK_INFO: u16 = 0x02;
    pub(crate) const DATATYPE: u16 = 0x03;
    pub(crate) const OLD_FILL: u16 = 0x04;
    pub(crate) const FILL: u16 = 0x05;
    pub(crate) const LINK: u16 = 0x06;
    pub(crate) const EXTERNAL: u16 = 0x07;
    pub(crate) const LAYOUT: u16 = 0x08;
    pub(crate) const PIPELINE: u16 = 0x0b;
    pub(crate) const ATTRIBUTE: u16 = 0x0c;
    pub(crate) const SHARED_TABLE: u16 = 0x0f;
    pub(crate) const CONTINUATION: u16 = 0x10;
    pub(crate) const SYMBOL_TABLE: u16 = 0x11;
    pub(crate) const TREE_WIDTHS: u16 = 0x13;
    pub(crate) const ATTRIBUTE_INFO: u16 = 0x15;
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A group of links.
    Group,
    /// A dataset.
    Dataset,
    /// A datatype that has a name.
    Datatype,
    /// Something else.
    Other,
}

/// One message of a header.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) flags: u8,
    block: usize,
    range: Range<usize>,
}

impl Message {
    /// Whether the body says where the message is, and is not it.
    pub(super) fn is_shared(&self) -> bool {
        self.flags & 2 != 0
    }
}

#[derive(Debug)]
struct Block<'f> {
    address: u64,
    data: Cow<'f, [u8]>,
}

/// An object's header, with all its messages.
#[derive(Debug)]
pub struct Header<'f> {
    /// Where the header lies.
    pub address: u64,
    blocks: Vec<Block<'f>>,
    messages: Vec<Message>,
}

impl<'f> Header<'f> {
    /// What the object is, by the messages it has (IV.A.2).
    pub fn kind(&self) -> Kind {
        let has = |k| self.messages.iter().any(|m| m.kind == k);
        if has(kind::LAYOUT) || (has(kind::DATATYPE) && has(kind::DATASPACE)) {
            Kind::Dataset
        } else if has(kind::SYMBOL_TABLE) || has(kind::LINK_INFO) || has(kind::LINK) {
            Kind::Group
        } else if has(kind::DATATYPE) {
            Kind::Datatype
        } else {
            Kind::Other
        }
    }

    pub(super) fn all(&self, kind: u16) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |m| m.kind == kind)
    }

    pub(super) fn first(&self, kind: u16) -> Option<&Message> {
        self.all(kind).next()
    }

    /// A message's bytes as they lie in the header, and the address of the first.
    pub(super) fn body(&self, m: &Message) -> (&[u8], u64) {
        let Some(block) = self.blocks.get(m.block) else {
            return (&[], self.address);
        };
        let body = block.data.get(m.range.clone()).unwrap_or_default();
        (body, block.address.saturating_add(m.range.start as u64))
    }
}

/// How the messages of a header are framed.
#[derive(Debug, Clone, Copy)]
struct Framing {
    version: u8,
    /// Whether every message has its place in the order of creation.
    ordered: bool,
}

impl Framing {
    fn head(self) -> usize {
        match (self.version, self.ordered) {
            (1, _) => 8,
            (_, false) => 4,
            (_, true) => 6,
        }
    }
}

impl File {
    /// The header of the object at `address`.
    ///
    /// # Errors
    /// What the specification does not allow; `Integrity` for a wrong checksum.
    pub fn header(&self, address: u64) -> Result<Header<'_>> {
        let (block, messages, framing) = if self.peek(address, 4)?.as_ref() == b"OHDR" {
            self.new_header(address)?
        } else {
            self.old_header(address)?
        };
        let mut header = Header {
            address,
            blocks: vec![block],
            messages: Vec::new(),
        };
        let mut next = self.walk(&mut header, 0, messages, framing)?;
        let mut i = 0;
        while let Some(&(at, len)) = next.get(i) {
            i += 1;
            if header.blocks.len() >= MOST_BLOCKS || header.blocks.iter().any(|b| b.address == at) {
                let e = Error::malformed(RULE, "the blocks of a header go round in circles");
                return Err(e.at(self.place(at)));
            }
            let data = self.bytes(at, len)?;
            let mut range = 0..data.len();
            if framing.version == 2 {
                self.fields(&data, at).tag(b"OCHK", RULE)?;
                self.verify(&data, at)?;
                range = 4..data.len().saturating_sub(4);
            }
            header.blocks.push(Block { address: at, data });
            let block = header.blocks.len() - 1;
            next.extend(self.walk(&mut header, block, range, framing)?);
        }
        Ok(header)
    }

    fn old_header(&self, address: u64) -> Result<(Block<'_>, Range<usize>, Framing)> {
        let head = self.bytes(address, 16)?;
        let mut f = self.fields(&head, address);
        let place = f.place();
        if f.u8()? != 1 {
            return Err(Error::malformed(RULE, "there is no object here").at(place));
        }
        f.skip(7)?;
        let len = f.u32()?;
        let data = self.bytes(address.saturating_add(16), len.into())?;
        let range = 0..data.len();
        let block = Block {
            address: address.saturating_add(16),
            data,
        };
        let framing = Framing {
            version: 1,
            ordered: false,
        };
        Ok((block, range, framing))
    }

    fn new_header(&self, address: u64) -> Result<(Block<'_>, Range<usize>, Framing)> {
        let head = self.peek(address, 34)?;
        let mut f = self.fields(&head, address);
        f.skip(4)?;
        f.version(2..=2, RULE)?;
        let flags = f.u8()?;
        // Four times; the numbers at which attributes move.
        f.skip(if flags & 0x20 != 0 { 16 } else { 0 })?;
        f.skip(if flags & 0x10 != 0 { 4 } else { 0 })?;
        let len = f.uint(1 << (flags & 3))?;
        let start = f.pos();
        let whole = len.saturating_add(start as u64 + 4);
        let data = self.bytes(address, whole)?;
        self.verify(&data, address)?;
        let range = start..data.len().saturating_sub(4);
        let framing = Framing {
            version: 2,
            ordered: flags & 4 != 0,
        };
        Ok((Block { address, data }, range, framing))
    }

    /// Takes the messages of one block; gives the continuations it names.
    fn walk(
        &self,
        header: &mut Header<'_>,
        block: usize,
        range: Range<usize>,
        framing: Framing,
    ) -> Result<Vec<(u64, u64)>> {
        let mut next = Vec::new();
        let Some(b) = header.blocks.get(block) else {
            return Ok(next);
        };
        let data = b.data.get(..range.end).unwrap_or_default();
        let mut f = self.fields(data, b.address);
        f.skip(range.start)?;
        // What is too short for a message is a gap.
        while f.left() >= framing.head() {
            let (kind, len, flags) = message_head(&mut f, framing)?;
            let start = f.pos();
            let place = f.place();
            f.take(len).map_err(|_| {
                Error::malformed(RULE, "a message reaches past its block").at(place)
            })?;
            if kind == kind::CONTINUATION {
                let body = data.get(start..start + len).unwrap_or_default();
                let mut f = self.fields(body, b.address.saturating_add(start as u64));
                let place = f.place();
                let (at, len) = (f.address()?, f.length()?);
                let at =
                    at.ok_or_else(|| Error::malformed(RULE, "a header goes on nowhere").at(place))?;
                next.push((at, len));
            } else if kind != 0 {
                header.messages.push(Message {
                    kind,
                    flags,
                    block,
                    range: start..start + len,
                });
            }
        }
        Ok(next)
    }
}

fn message_head(f: &mut Fields<'_>, framing: Framing) -> Result<(u16, usize, u8)> {
    if framing.version == 1 {
        let (kind, len, flags) = (f.u16()?, f.u16()?, f.u8()?);
        f.skip(3)?;
        return Ok((kind, len.into(), flags));
    }
    let (kind, len, flags) = (f.u8()?, f.u16()?, f.u8()?);
    f.skip(if framing.ordered { 2 } else { 0 })?;
    Ok((kind.into(), len.into(), flags))
}
