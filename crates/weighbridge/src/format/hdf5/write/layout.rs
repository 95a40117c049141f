//! Where everything lies: structures one behind the other, then the tensors.

use weighbridge_core::model::{DType, Model, Tensor};
use weighbridge_core::{Error, Result};

use super::groups::{self, Child, INTERNAL_K, LEAF_K, NONE, Places};
use super::heap::{GlobalHeap, Referrer};
use super::messages::{CONSTANT, DATASPACE, DATATYPE, FILL_VALUE, LAYOUT, Messages, SYMBOL_TABLE};
use super::texts::{Budget, each_text};
use super::tree::Tree;
use super::types::{Space, Type};
use super::{ALIGN, Bf16, HEAD_ALIGN, kind};
use crate::format::{Note, Plan, PlannedFile};

/// Puts the structures of a file one behind the other.
pub(super) struct Layouter<'a> {
    model: &'a Model,
    tree: &'a Tree<'a>,
    out: Vec<u8>,
    heap: GlobalHeap,
    /// References to texts, to be told their addresses.
    referrers: Vec<Referrer>,
    /// Addresses of data, given from the end of the structures on.
    data: Vec<(usize, u64)>,
    /// Where each tensor's data begins, from the end of the structures on; by tensor.
    starts: Vec<u64>,
    data_len: u64,
    /// Where each object's header lies, and a group's members.
    headers: Vec<(u64, Option<Places>)>,
    texts: Budget,
}

/// Bytes of a superblock of version 0 with addresses of 8 bytes.
const SUPERBLOCK: usize = 96;

impl<'a> Layouter<'a> {
    /// An empty file for `tensors` of `model`, which lie behind the structures.
    pub(super) fn new(model: &'a Model, tree: &'a Tree<'a>, tensors: &[usize]) -> Self {
        let mut starts = vec![0u64; model.tensors.len()];
        let mut at = 0u64;
        for &i in tensors {
            let t = model.tensors.get(i);
            if let (Some(t), Some(slot)) = (t, starts.get_mut(i)) {
                *slot = at;
                if !t.dtype.is_text() {
                    let len = t.byte_len().checked_next_multiple_of(ALIGN);
                    at = at.saturating_add(len.unwrap_or(u64::MAX));
                }
            }
        }
        Self {
            model,
            tree,
            out: vec![0; SUPERBLOCK],
            heap: GlobalHeap::default(),
            referrers: Vec::new(),
            data: Vec::new(),
            starts,
            data_len: at,
            headers: vec![(NONE, None); tree.objects.len()],
            texts: Budget::of(model),
        }
    }

    /// Children before their parents, who tell where they lie.
    pub(super) fn objects(&mut self, plan: &mut Plan) -> Result<()> {
        let tree = self.tree;
        for (i, object) in tree.objects.iter().enumerate().rev() {
            let mut messages = Messages::default();
            let mut places = None;
            match object.tensor {
                Some(tensor) => self.dataset(tensor, &mut messages)?,
                None => {
                    let children = object.children.iter().map(|(name, &c)| {
                        let (header, group) = self.headers.get(c).copied().unwrap_or((NONE, None));
                        Child {
                            name,
                            header,
                            group,
                        }
                    });
                    let children: Vec<Child<'_>> = children.collect();
                    let p = groups::write(&mut self.out, &children);
                    let mut body = p.tree.to_le_bytes().to_vec();
                    body.extend(p.heap.to_le_bytes());
                    messages.push(SYMBOL_TABLE, 0, &body);
                    places = Some(p);
                }
            }
            let what = |name: &str| match object.tensor.and_then(|t| self.model.tensors.get(t)) {
                Some(t) => format!("attribute {name} of {}", t.name),
                None => format!("metadata {name}"),
            };
            let mut seen = std::collections::HashSet::new();
            for (name, value) in &object.attributes {
                let lost = match seen.insert(*name) {
                    false => Err("a second attribute of this name".into()),
                    true => messages.attribute(name, value, &mut self.heap),
                };
                if let Err(why) = lost {
                    plan.lost.push(Note::new(what(name), why));
                }
            }
            let at = self.header(messages);
            if let Some(slot) = self.headers.get_mut(i) {
                *slot = (at, places);
            }
        }
        Ok(())
    }

    /// Appends an object header of version 1 (IV.A.1.a).
    fn header(&mut self, messages: Messages) -> u64 {
        let at = self.out.len();
        self.out.extend([1, 0]);
        self.out.extend(messages.count.to_le_bytes());
        self.out.extend(1u32.to_le_bytes());
        // Messages are added only while this fits.
        self.out.extend((messages.bytes.len() as u32).to_le_bytes());
        self.out.extend([0; 4]);
        let start = self.out.len();
        self.out.extend(messages.bytes);
        for mut r in messages.referrers {
            r.at += start;
            self.referrers.push(r);
        }
        for (place, offset) in messages.data {
            self.data.push((start + place, offset));
        }
        at as u64
    }

    /// The messages of the dataset of tensor number `i`.
    fn dataset(&mut self, i: usize, messages: &mut Messages) -> Result<()> {
        let Some(t) = self.model.tensors.get(i) else {
            return Ok(());
        };
        let space = match t.dtype {
            DType::Null => Space::Null,
            _ => Space::Shape(&t.shape),
        };
        messages.push(DATASPACE, 0, &space.encode());
        // What does not fit was refused; BF16 is left only where it is written as opaque.
        let kind = kind(t.dtype, Bf16::Opaque).unwrap_or(Type::Opaque(1));
        messages.push(DATATYPE, CONSTANT, &kind.encode());
        // Version 2, allocated late, written where the user set it, the default value.
        messages.push(FILL_VALUE, 0, &[2, 2, 2, 1, 0, 0, 0, 0]);
        let mut layout = vec![3, 1];
        let place = messages.bytes.len() + 8 + layout.len();
        let (address, len) = match t.dtype.is_text() {
            true => self.text_data(t, kind)?,
            false => (None, t.byte_len()),
        };
        layout.extend(address.unwrap_or(NONE).to_le_bytes());
        layout.extend(len.to_le_bytes());
        messages.push(LAYOUT, 0, &layout);
        if !t.dtype.is_text() && len > 0 {
            let start = self.starts.get(i).copied().unwrap_or(0);
            messages.data.push((place, start));
        }
        Ok(())
    }

    /// Reads the texts of `t` and puts them among the structures; gives where they lie.
    fn text_data(&mut self, t: &Tensor, kind: Type) -> Result<(Option<u64>, u64)> {
        let mut data = Vec::new();
        let mut referrers = Vec::new();
        let mut count = 0u64;
        let (heap, budget) = (&mut self.heap, &mut self.texts);
        each_text(t, &mut |text| {
            budget.take(text)?;
            count += 1;
            match kind {
                Type::Fixed { bytes, .. } => {
                    let end = data.len() + bytes as usize;
                    data.extend_from_slice(text.get(..bytes as usize).unwrap_or(text));
                    data.resize(end, 0);
                }
                _ => heap.refer(text, &mut data, &mut referrers),
            }
            Ok(())
        })?;
        if t.numel() != Some(count) {
            let message = format!("tensor {:?} gave {count} texts", t.name);
            return Err(Error::malformed("tensor.wrong-length", message));
        }
        if data.is_empty() {
            return Ok((None, 0));
        }
        let at = self.out.len();
        let len = data.len() as u64;
        self.out.extend(data);
        self.out.resize(self.out.len().next_multiple_of(8), 0);
        for mut r in referrers {
            r.at += at;
            self.referrers.push(r);
        }
        Ok((Some(at as u64), len))
    }

    /// Tells everybody the addresses they wait for.
    pub(super) fn finish(mut self, tensors: Vec<usize>) -> Result<PlannedFile> {
        let heaps = std::mem::take(&mut self.heap).write(&mut self.out);
        for r in &self.referrers {
            let heap = heaps.get(r.collection).copied().unwrap_or(NONE);
            put(&mut self.out, r.at, heap);
        }
        let end = self.out.len().next_multiple_of(HEAD_ALIGN);
        self.out.resize(end, 0);
        for (at, offset) in &self.data {
            put(&mut self.out, *at, offset.saturating_add(end as u64));
        }
        let bytes = self.data_len.checked_add(end as u64);
        let bytes = bytes.filter(|&b| b < i64::MAX as u64).ok_or_else(|| {
            let message = "the tensors' sizes do not fit 64 bits together";
            Error::parameter("hdf5.too-large", message)
        })?;
        let root = self.headers.first().copied().unwrap_or((NONE, None));
        let superblock = superblock(bytes, root);
        if let Some(head) = self.out.get_mut(..SUPERBLOCK) {
            head.copy_from_slice(&superblock);
        }
        Ok(PlannedFile {
            name: String::new(),
            bytes,
            tensors,
            prepared: self.out,
            alignment: ALIGN,
            big_endian: false,
        })
    }
}

/// Writes an address over the eight bytes at `at`.
fn put(out: &mut [u8], at: usize, value: u64) {
    let slot = out.get_mut(at..).and_then(|s| s.first_chunk_mut::<8>());
    if let Some(slot) = slot {
        *slot = value.to_le_bytes();
    }
}

/// A superblock of version 0 (II.A).
fn superblock(end: u64, root: (u64, Option<Places>)) -> [u8; SUPERBLOCK] {
    let mut out = b"\x89HDF\r\n\x1a\n".to_vec();
    // Versions, then the widths of addresses and lengths.
    out.extend([0, 0, 0, 0, 0, 8, 8, 0]);
    out.extend(LEAF_K.to_le_bytes());
    out.extend(INTERNAL_K.to_le_bytes());
    out.extend([0; 4]);
    for address in [0, NONE, end, NONE] {
        out.extend(u64::to_le_bytes(address));
    }
    groups::entry(&mut out, 0, root.0, root.1);
    let mut block = [0; SUPERBLOCK];
    for (to, from) in block.iter_mut().zip(out) {
        *to = from;
    }
    block
}
