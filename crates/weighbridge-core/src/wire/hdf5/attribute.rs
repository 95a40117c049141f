//! Attributes (IV.A.2.m, IV.A.2.v): a name, a type, a space, and the value.

use std::borrow::Cow;

use super::datatype::Datatype;
use super::fields::{Fields, text_of};
use super::file::File;
use super::fractal::Heap;
use super::header::{Header, kind};
use super::message::Dataspace;
use crate::error::{Error, Result};

const RULE: &str = "hdf5.attribute";

/// One attribute of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub datatype: Datatype,
    /// How many elements there are.
    pub space: Dataspace,
    /// The elements, as the file has them: as many as the space says, checked.
    pub data: Vec<u8>,
    /// Where the elements lie in the source.
    pub at: u64,
}

impl File {
    /// The attributes of an object, in the order they are stored in; those in a heap by name.
    /// What is wrong with one of them is given in its place.
    ///
    /// # Errors
    /// What the specification does not allow of the structures that hold them.
    pub fn attributes(&self, object: &Header<'_>) -> Result<Vec<Result<Attribute>>> {
        let mut all = Vec::new();
        for m in object.all(kind::ATTRIBUTE) {
            let one = self
                .body(object, m)
                .and_then(|(body, at)| self.attribute(&mut self.fields(&body, at)));
            all.push(one);
        }
        for m in object.all(kind::ATTRIBUTE_INFO) {
            let (body, at) = self.body(object, m)?;
            self.dense_attributes(&mut self.fields(&body, at), &mut all)?;
        }
        Ok(all)
    }

    fn dense_attributes(&self, f: &mut Fields<'_>, all: &mut Vec<Result<Attribute>>) -> Result<()> {
        f.version(0..=0, RULE)?;
        let flags = f.u8()?;
        f.skip(if flags & 1 != 0 { 2 } else { 0 })?;
        let (heap, names) = (f.address()?, f.address()?);
        let order = if flags & 2 != 0 { f.address()? } else { None };
        let (Some(heap), Some(names)) = (heap, names) else {
            return Ok(());
        };
        let mut heap = Heap::open(self, heap)?;
        let mut dense = Vec::new();
        self.tree2(names, &mut |kind_of_tree, f| {
            let place = f.place();
            if !matches!(kind_of_tree, 8 | 9) {
                return Err(Error::malformed(RULE, "a tree of no attributes").at(place));
            }
            let id = f.take(8)?;
            let shared = f.u8()? & 2 != 0;
            let body = if shared {
                self.of_table(kind::ATTRIBUTE, id, place)
            } else {
                heap.object(id, place)
            };
            dense.push(body.and_then(|(body, at)| self.attribute(&mut self.fields(&body, at))));
            Ok(())
        })?;
        if let Some(order) = order {
            self.tree2(order, &mut |_, _| Ok(()))?;
        }
        dense.sort_by(|a, b| {
            let name = |x: &Result<Attribute>| x.as_ref().ok().map(|a| a.name.clone());
            name(a).cmp(&name(b))
        });
        all.extend(dense);
        Ok(())
    }

    fn attribute<'a>(&'a self, f: &mut Fields<'a>) -> Result<Attribute> {
        let version = f.version(1..=3, RULE)?;
        let flags = f.u8()?;
        let flags = if version == 1 { 0 } else { flags };
        let (name, datatype, space) = (f.u16()?, f.u16()?, f.u16()?);
        f.skip(if version == 3 { 1 } else { 0 })?;
        let padded = |n: u16| match version {
            1 => usize::from(n).next_multiple_of(8),
            _ => usize::from(n),
        };
        let name = f.take(padded(name))?;
        let name = text_of(name.split(|&b| b == 0).next().unwrap_or_default());
        let named = |e: Error| e.within(format!("@{name}"));
        let datatype = self
            .part(f, padded(datatype), flags & 1 != 0, kind::DATATYPE)
            .and_then(|(body, at)| Datatype::read(&mut Fields::new(&body, at, self.sizes())))
            .map_err(named)?;
        let space = self
            .part(f, padded(space), flags & 2 != 0, kind::DATASPACE)
            .and_then(|(body, at)| Dataspace::read(&mut Fields::new(&body, at, self.sizes())))
            .map_err(named)?;
        let bytes = space
            .elements()
            .and_then(|n| n.checked_mul(datatype.size.into()))
            .and_then(|n| usize::try_from(n).ok());
        let at = f.place();
        let data = bytes.filter(|&n| n <= f.left()).ok_or_else(|| {
            named(Error::malformed(RULE, "an attribute is longer than its message").at(at))
        })?;
        let data = f.take(data)?.to_vec();
        Ok(Attribute {
            name,
            datatype,
            space,
            data,
            at,
        })
    }

    /// The type or space of an attribute, here or shared, with its place in the source.
    fn part<'a>(
        &'a self,
        f: &mut Fields<'a>,
        len: usize,
        shared: bool,
        kind: u16,
    ) -> Result<(Cow<'a, [u8]>, u64)> {
        let at = f.place();
        let body = f.take(len)?;
        if !shared {
            return Ok((Cow::Borrowed(body), at));
        }
        let (body, address) = self.shared_body(kind, &mut Fields::new(body, at, self.sizes()))?;
        Ok((body, self.place(address)))
    }
}
