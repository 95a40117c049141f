//! Files of Keras with other weights: bytes in the places of others, or an HDF5 file written afresh,
//! by itself or in its archive. Every other member of an archive is carried as it is.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use weighbridge_core::model::{Chunks, Model, Tensor};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::zip::{Archive, Member};
use weighbridge_core::{Error, Result};

use crate::format::Plan;
use crate::format::hdf5::write::{self as hdf5, Bf16};
use crate::format::onnx::splice::put_tensor;
use crate::output::{Output, OutputSet, Positioned, Sink};

/// Copies go in steps of this many bytes.
const STEP: u64 = 1 << 20;

/// Where a local header, and an entry of the central directory, have their fields (APPNOTE 4.3.7,
/// 4.3.12).
const LOCAL_CRC: u64 = 14;
const CENTRAL_FLAGS: usize = 8;
const CENTRAL_METHOD: usize = 10;
const CENTRAL_CRC: usize = 16;
const CENTRAL_SIZES: usize = 20;
const CENTRAL_OFFSET: usize = 42;

/// A number that stands elsewhere, in the fields for large archives.
const FULL: u32 = u32::MAX;

/// A file in which tensors take the places of others.
pub(super) struct Patch {
    pub source: Arc<dyn ByteSource>,
    /// The places in the file, in order, and what comes there.
    pub pieces: Vec<(Range<u64>, Arc<Tensor>)>,
    /// The archive that the file is, and the member in which the places lie.
    pub archive: Option<(Archive, Member)>,
}

impl Patch {
    pub(super) fn write(&self, path: &Path, sync: bool, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let len = self.source.len();
        let Some((archive, member)) = &self.archive else {
            let mut out = Output::create(path, sync)?;
            out.reserve(len)?;
            self.range(0..len, &mut out, tell)?;
            return out.finish().map(drop);
        };
        // What stays gets a new checksum: the old one has to have been right.
        archive.stream(member, &mut |_| Ok(()))?;
        let out = Positioned::create(path, len, sync)?;
        let start = archive.data_offset(member)?;
        let end = start.saturating_add(member.stored);
        out.copy_at(0, self.source.as_ref(), 0..start)?;
        let mut sink = Summed::new(&out, start);
        self.range(start..end, &mut sink, tell)?;
        let crc = sink.crc.finalize();
        out.copy_at(end, self.source.as_ref(), end..len)?;
        if !archive.checksums_off() {
            let central = member.central_offset + CENTRAL_CRC as u64;
            out.write_at(central, &crc.to_le_bytes())?;
            let local = match member.has_descriptor() {
                false => member.header_offset + LOCAL_CRC,
                true => self.descriptor(end)?,
            };
            out.write_at(local, &crc.to_le_bytes())?;
        }
        commit(out)
    }

    /// Where the descriptor at `at` has its checksum: behind a signature, which it may not have.
    fn descriptor(&self, at: u64) -> Result<u64> {
        let mut head = [0u8; 4];
        self.source.read_at(at, &mut head)?;
        Ok(if head == *b"PK\x07\x08" { at + 4 } else { at })
    }

    /// What `range` of the file is now.
    fn range(
        &self,
        range: Range<u64>,
        out: &mut dyn Sink,
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut chunks = Chunks::new();
        let mut at = range.start;
        for (place, tensor) in &self.pieces {
            copy(self.source.as_ref(), at..place.start, out, tell)?;
            put_tensor(tensor, &mut chunks, out, tell)?;
            at = place.end;
        }
        copy(self.source.as_ref(), at..range.end, out, tell)
    }
}

fn copy(
    source: &dyn ByteSource,
    range: Range<u64>,
    out: &mut dyn Sink,
    tell: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(STEP * 32));
        out.copy(source, at..end)?;
        tell(end - at);
        at = end;
    }
    Ok(())
}

fn commit(out: Positioned) -> Result<()> {
    let mut set = OutputSet::new();
    out.finish(&mut set)?;
    set.commit().map(drop)
}

/// A part of a file, written in order, and the checksum of what was written.
struct Summed<'o> {
    out: &'o Positioned,
    at: u64,
    crc: crc32fast::Hasher,
}

impl<'o> Summed<'o> {
    fn new(out: &'o Positioned, at: u64) -> Self {
        Self {
            out,
            at,
            crc: crc32fast::Hasher::new(),
        }
    }
}

impl Sink for Summed<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.out.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn copy(&mut self, source: &dyn ByteSource, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(STEP));
            self.put(&source.read_vec(at..end)?)?;
            at = end;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.at
    }
}

/// An HDF5 file that is written afresh, by itself or as a member of an archive.
pub(super) struct Repack {
    model: Model,
    plan: Plan,
    archive: Option<Around>,
}

/// An archive around a member that is written afresh.
struct Around {
    archive: Archive,
    member: Member,
    /// How much longer the member is now, its header included.
    local: Vec<u8>,
    /// The bytes of the archive that the member took.
    old: Range<u64>,
    len: u64,
}

impl Repack {
    /// `model` is the HDF5 file as it was; `chosen` come into the places of those with these
    /// numbers.
    ///
    /// # Errors
    /// `Unsupported` where the file, or the archive, cannot be written afresh whole.
    pub(super) fn new(
        mut model: Model,
        chosen: &[(usize, Arc<Tensor>)],
        archive: Option<(Archive, Member)>,
    ) -> Result<Self> {
        for (slot, new) in chosen {
            if let Some(t) = model.tensors.get_mut(*slot) {
                t.source = new.source.clone();
            }
        }
        let refusals = hdf5::refusals(&model, Bf16::Opaque)?;
        let plan = hdf5::plan(&model, &refusals)?;
        if let Some(lost) = plan.lost.first() {
            let message = format!(
                "the given file cannot be written afresh: {}: {}",
                lost.what, lost.why
            );
            return Err(Error::unsupported("convert.graph", message));
        }
        let len = plan.files.first().map_or(0, |f| f.bytes);
        let archive = archive.map(|(a, m)| Around::new(a, m, len)).transpose()?;
        Ok(Self {
            model,
            plan,
            archive,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        let file = self.plan.files.first().map_or(0, |f| f.bytes);
        self.archive.as_ref().map_or(file, |a| a.len)
    }

    pub(super) fn write(&self, path: &Path, sync: bool, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let Some(around) = &self.archive else {
            let mut out = Output::create(path, sync)?;
            out.reserve(self.bytes())?;
            hdf5::write(&self.model, &self.plan, 0, &mut out, tell)?;
            return out.finish().map(drop);
        };
        let out = Positioned::create(path, around.len, sync)?;
        let source = around.archive.source();
        out.copy_at(0, source.as_ref(), 0..around.old.start)?;
        let start = around.old.start + around.local.len() as u64;
        let mut sink = Summed::new(&out, start);
        hdf5::write(&self.model, &self.plan, 0, &mut sink, tell)?;
        let (end, crc) = (sink.at, sink.crc.finalize());
        let mut local = around.local.clone();
        put(&mut local, LOCAL_CRC as usize, &crc.to_le_bytes());
        out.write_at(around.old.start, &local)?;
        let directory = around.archive.directory();
        out.copy_at(end, source.as_ref(), around.old.end..directory.start)?;
        let at = end + (directory.start - around.old.end);
        out.write_at(at, &around.directory(end - start, crc, at)?)?;
        commit(out)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = bytes.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

fn field(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk::<4>());
    field.map_or(FULL, |b| u32::from_le_bytes(*b))
}

fn large() -> Error {
    let message = "an archive of 4 GiB and more is not written afresh";
    Error::unsupported("convert.graph", message)
        .help("unpack it and pack it again with stored members")
}

impl Around {
    fn new(archive: Archive, member: Member, len: u64) -> Result<Self> {
        // Where the next member, or the directory, begins.
        let later = archive.members().iter().map(|m| m.header_offset);
        let later = later.filter(|&at| at > member.header_offset).min();
        let end = later.unwrap_or(archive.directory().start);
        let old = member.header_offset..end;
        let name = member.name_bytes();
        let mut local = b"PK\x03\x04\x14\x00".to_vec();
        let entry = archive
            .source()
            .read_vec(member.central_offset..member.central_offset + 46)?;
        let flags = field(&entry, CENTRAL_FLAGS) as u16 & !8;
        local.extend(flags.to_le_bytes());
        local.extend(0u16.to_le_bytes());
        // The time stays; the checksum is told when it is known.
        local.extend_from_slice(entry.get(12..16).unwrap_or_default());
        local.extend([0; 4]);
        let size = u32::try_from(len)
            .ok()
            .filter(|&n| n != FULL)
            .ok_or_else(large)?;
        local.extend(size.to_le_bytes());
        local.extend(size.to_le_bytes());
        local.extend((name.len() as u16).to_le_bytes());
        local.extend(0u16.to_le_bytes());
        local.extend_from_slice(name);
        let source = archive.source().len();
        let whole = source - (old.end - old.start) + local.len() as u64 + len;
        if whole >= u64::from(FULL) {
            return Err(large());
        }
        let around = Self {
            archive,
            member,
            local,
            old,
            len: whole,
        };
        // What cannot be written is known before anything is.
        around.directory(len, 0, 0)?;
        Ok(around)
    }

    /// The central directory and what follows it, for a directory at `at`.
    fn directory(&self, size: u64, crc: u32, at: u64) -> Result<Vec<u8>> {
        let source = self.archive.source();
        let range = self.archive.directory();
        let mut bytes = source.read_vec(range.start..source.len())?;
        let moved =
            (self.local.len() as u64 + size) as i64 - (self.old.end - self.old.start) as i64;
        for m in self.archive.members() {
            let entry = m.central_offset.checked_sub(range.start);
            let entry = entry
                .and_then(|e| usize::try_from(e).ok())
                .ok_or_else(large)?;
            let Some(entry) = bytes.get_mut(entry..) else {
                return Err(large());
            };
            if field(entry, CENTRAL_OFFSET) == FULL || field(entry, CENTRAL_SIZES) == FULL {
                return Err(large());
            }
            if m.header_offset > self.member.header_offset {
                let old = i64::from(field(entry, CENTRAL_OFFSET));
                let new = u32::try_from(old + moved).map_err(|_| large())?;
                put(entry, CENTRAL_OFFSET, &new.to_le_bytes());
            }
            if m.central_offset == self.member.central_offset {
                let flags = field(entry, CENTRAL_FLAGS) as u16 & !8;
                let size = u32::try_from(size).map_err(|_| large())?;
                put(entry, CENTRAL_FLAGS, &flags.to_le_bytes());
                put(entry, CENTRAL_METHOD, &0u16.to_le_bytes());
                put(entry, CENTRAL_CRC, &crc.to_le_bytes());
                put(entry, CENTRAL_SIZES, &size.to_le_bytes());
                put(entry, CENTRAL_SIZES + 4, &size.to_le_bytes());
            }
        }
        let end = usize::try_from(range.end - range.start).map_err(|_| large())?;
        match bytes.get_mut(end..) {
            // The end record: where the directory lies, from where the archive begins.
            Some(record) if record.starts_with(b"PK\x05\x06") => {
                let first = range.start.saturating_sub(field(record, 16).into());
                let at = u32::try_from(at.saturating_sub(first)).map_err(|_| large())?;
                put(record, 16, &at.to_le_bytes());
                Ok(bytes)
            }
            _ => Err(large()),
        }
    }
}
