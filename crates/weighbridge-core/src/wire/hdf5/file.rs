//! An open file: reading by address, the cache of blocks, the budget, and the account of what was
//! read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::checksum::lookup3;
use super::fields::{Fields, Sizes, little};
use super::global::Collection;
use super::header::kind;
use super::shared::SharedIndex;
use super::superblock::{Superblock, driver_len};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::source::ByteSource;

/// How every HDF5 file begins, at byte 0 or after a block of the user's (II.A).
pub const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// Reads of at most this many bytes go through the cache of blocks.
const BLOCK: u64 = 8 << 10;

/// How many blocks are kept.
const BLOCKS: usize = 256;

/// What the structures of a file may take together: so many times the file, and no less than this.
/// Well-made files are read about once.
const SPEND_RATIO: u64 = 16;
const SPEND_LEAST: u64 = 16 << 20;

/// Where a file's signature lies: at 0, or at 512 or a double of it (II.A).
///
/// # Errors
/// What reading gives.
pub fn signature(source: &dyn ByteSource) -> Result<Option<u64>> {
    let mut at = 0u64;
    while at.saturating_add(8) <= source.len() {
        let mut head = [0u8; 8];
        source.read_at(at, &mut head)?;
        if head == *SIGNATURE {
            return Ok(Some(at));
        }
        at = at.saturating_mul(2).max(512);
    }
    Ok(None)
}

#[derive(Debug, Default)]
struct Blocks {
    held: HashMap<u64, Vec<u8>>,
    order: std::collections::VecDeque<u64>,
}

/// An open HDF5 file.
#[derive(Debug)]
pub struct File {
    source: Arc<dyn ByteSource>,
    superblock: Superblock,
    limits: Limits,
    blocks: Mutex<Blocks>,
    pub(super) collections: Mutex<HashMap<u64, Arc<Collection>>>,
    pub(super) shared: OnceLock<Vec<SharedIndex>>,
    left: AtomicU64,
    spans: Option<Mutex<Vec<Range<u64>>>>,
}

impl File {
    /// Opens a file: the superblock is read, no object.
    ///
    /// # Errors
    /// `Malformed`, `Truncated` and `Integrity` for a superblock that is none or cut short.
    pub fn open(source: Arc<dyn ByteSource>, limits: &Limits) -> Result<Self> {
        Self::with_account(source, limits, false)
    }

    /// As [`File::open`], keeping account of every byte that is read of structures or belongs to
    /// data that was asked for: see [`File::spans`].
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn with_account(
        source: Arc<dyn ByteSource>,
        limits: &Limits,
        account: bool,
    ) -> Result<Self> {
        let at = signature(source.as_ref())?.ok_or_else(|| {
            Error::malformed("hdf5.signature", "there is no HDF5 signature")
                .at(0)
                .help("the file is of another format, or damaged at its start")
        })?;
        let superblock = Superblock::read(source.as_ref(), at)?;
        if superblock.end > source.len() && superblock.end != u64::MAX {
            let message = format!(
                "the file should have {} bytes and has {}",
                superblock.end,
                source.len()
            );
            return Err(Error::truncated("hdf5.truncated", message)
                .at(source.len())
                .help("the file was cut short, or not closed by its writer; fetch it again"));
        }
        let budget = source.len().saturating_mul(SPEND_RATIO).max(SPEND_LEAST);
        let mut file = Self {
            source,
            superblock,
            limits: limits.clone(),
            blocks: Mutex::default(),
            collections: Mutex::default(),
            shared: OnceLock::new(),
            left: AtomicU64::new(budget),
            spans: account.then(Mutex::default),
        };
        file.mark_at(at, file.superblock.len);
        file.widths()?;
        Ok(file)
    }

    /// How wide nodes of old trees are, which newer superblocks leave to their extension (IV.A.2.t).
    fn widths(&mut self) -> Result<()> {
        let Some(extension) = self.superblock.extension else {
            return Ok(());
        };
        let header = self.header(extension)?;
        let Some(m) = header.first(kind::TREE_WIDTHS) else {
            return Ok(());
        };
        let (body, at) = header.body(m);
        let mut f = self.fields(body, at);
        f.version(0..=0, "hdf5.superblock")?;
        let (chunk, group, leaf) = (f.u16()?, f.u16()?, f.u16()?);
        self.superblock.chunk_k = chunk;
        self.superblock.group_k = group;
        self.superblock.leaf_k = leaf;
        Ok(())
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The bytes the file lies in.
    pub fn source(&self) -> &Arc<dyn ByteSource> {
        &self.source
    }

    /// What reading may cost.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.superblock.sizes
    }

    /// Where an address lies in the source.
    pub fn place(&self, address: u64) -> u64 {
        self.superblock.at.saturating_add(address)
    }

    /// The place in the source of `len` bytes at `address`, checked to lie within.
    ///
    /// # Errors
    /// `Truncated` when they reach past the end.
    pub fn range(&self, address: u64, len: u64) -> Result<Range<u64>> {
        let start = self.place(address);
        match start.checked_add(len).filter(|&e| e <= self.source.len()) {
            Some(end) => Ok(start..end),
            None => Err(Error::truncated(
                "hdf5.out-of-file",
                format!("{len} bytes from byte {start} on lie outside the file"),
            )
            .at(start)),
        }
    }

    /// Counts `n` bytes against what reading the file may cost.
    pub(super) fn spend(&self, n: u64) -> Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        match left.checked_sub(n.saturating_add(16)) {
            Some(rest) => {
                self.left.store(rest, Ordering::Relaxed);
                Ok(())
            }
            None => Err(Error::limit(
                "hdf5.budget",
                "the file's structures refer to each other so often that reading them is over budget",
            )
            .at(self.superblock.at)),
        }
    }

    /// The `len` bytes of a structure at `address`.
    pub(super) fn bytes(&self, address: u64, len: u64) -> Result<Cow<'_, [u8]>> {
        let range = self.range(address, len)?;
        self.spend(len)?;
        self.mark_at(range.start, len);
        self.read(range)
    }

    /// As many of `len` bytes as the file has at `address`; they are not accounted for, since the
    /// caller does not know yet how many are its own.
    pub(super) fn peek(&self, address: u64, len: u64) -> Result<Cow<'_, [u8]>> {
        let start = self.place(address);
        let end = start.saturating_add(len).min(self.source.len());
        if start >= end {
            self.range(address, len)?;
        }
        self.read(start..end)
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.source.slice(range.clone()) {
            return Ok(Cow::Borrowed(bytes));
        }
        if range.end - range.start > BLOCK {
            return self.source.read_vec(range).map(Cow::Owned);
        }
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = range.start;
        while at < range.end {
            let start = at / BLOCK * BLOCK;
            let block = blocks.get(self.source.as_ref(), start)?;
            let from = (at - start) as usize;
            let to = (range.end - start).min(BLOCK) as usize;
            out.extend_from_slice(block.get(from..to).unwrap_or_default());
            at = start + BLOCK;
        }
        Ok(Cow::Owned(out))
    }

    /// The fields of a structure at `address`.
    pub(super) fn fields<'a>(&self, data: &'a [u8], address: u64) -> Fields<'a> {
        Fields::new(data, self.place(address), self.sizes())
    }

    /// Checks that a structure ends in the checksum of what comes before.
    pub(super) fn verify(&self, data: &[u8], address: u64) -> Result<()> {
        let split = data.len().saturating_sub(4);
        let (body, sum) = data.split_at_checked(split).unwrap_or_default();
        let (stored, computed) = (little(sum) as u32, lookup3(body));
        // Fuzzers do not get past checksums; what is behind them is theirs to try.
        if stored != computed && !cfg!(fuzzing) {
            let message =
                format!("the stored checksum is {stored:08x}, the bytes give {computed:08x}");
            return Err(Error::integrity("hdf5.checksum", message)
                .span(self.place(address), data.len() as u64)
                .help("the file was damaged or altered after it was written; fetch it again"));
        }
        Ok(())
    }

    /// Notes that the bytes of `address` are accounted for.
    pub fn mark(&self, address: u64, len: u64) {
        self.mark_at(self.place(address), len);
    }

    fn mark_at(&self, at: u64, len: u64) {
        if let Some(spans) = &self.spans
            && len > 0
        {
            let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
            let end = at.saturating_add(len).min(self.source.len());
            // Structures are often read piece after piece.
            match spans.last_mut() {
                Some(last) if at >= last.start && at <= last.end => last.end = last.end.max(end),
                _ => spans.push(at..end),
            }
        }
    }

    /// Marks the block with the driver's information, where there is one.
    ///
    /// # Errors
    /// What reading gives.
    pub fn mark_driver(&self) -> Result<()> {
        if let Some(address) = self.superblock.driver {
            let head = self.peek(address, 16)?;
            let len = driver_len(&head);
            self.range(address, len)?;
            self.mark(address, len);
        }
        Ok(())
    }

    /// The accounted ranges so far, sorted and joined.
    pub fn spans(&self) -> Vec<Range<u64>> {
        let Some(spans) = &self.spans else {
            return Vec::new();
        };
        let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.sort_unstable_by_key(|r| (r.start, r.end));
        let mut joined: Vec<Range<u64>> = Vec::new();
        for span in spans.drain(..) {
            match joined.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => joined.push(span),
            }
        }
        spans.clone_from(&joined);
        joined
    }
}

impl Blocks {
    fn get(&mut self, source: &dyn ByteSource, start: u64) -> Result<&[u8]> {
        if !self.held.contains_key(&start) {
            let mut block = Vec::new();
            if self.order.len() >= BLOCKS
                && let Some(oldest) = self.order.pop_front()
            {
                block = self.held.remove(&oldest).unwrap_or_default();
            }
            let n = source.len().saturating_sub(start).min(BLOCK);
            block.resize(n as usize, 0);
            source.read_at(start, &mut block)?;
            self.held.insert(start, block);
            self.order.push_back(start);
        }
        Ok(self.held.get(&start).map(Vec::as_slice).unwrap_or_default())
    }
}
