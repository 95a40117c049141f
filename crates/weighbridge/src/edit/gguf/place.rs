//! Changing a file where it lies: which writes, in which order.

use std::fs::File;
use std::ops::Range;

use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;

use super::super::in_place::{SECTOR, sync, write};
use super::draft::{BLOCK, Body, Draft, FILL, Fresh, Item, RESERVE, USED, put_text_head};
use crate::format::gguf::raw::Value;

/// How a file comes by its new header.
#[derive(Debug)]
pub(super) enum Way {
    /// It has it.
    Nothing,
    /// By one write within a sector.
    Sector {
        /// Where, in bytes.
        at: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// By writes into its reserve.
    Reserve(Steps),
    /// By a new file.
    Rewrite(Fresh),
}

/// The writes of an edit in the reserve. A crash between any two of them, or within the first or
/// the last, leaves a file that reads as before or as meant.
#[derive(Debug)]
pub(super) struct Steps {
    /// The new key-values, into the end of the room.
    pub(super) stage: (u64, Vec<u8>),
    /// The counts that make them part of the file: bytes of the first sector.
    pub(super) switch: (u64, Vec<u8>),
    /// What nobody reads any more, to be blanked.
    pub(super) blank: Range<u64>,
    /// Key-values afterwards.
    pub(super) keys: u64,
    /// Room left.
    pub(super) left: u64,
}

impl Steps {
    /// Bytes written.
    pub(super) fn bytes(&self) -> u64 {
        let staged = (self.stage.1.len() + self.switch.1.len()) as u64;
        staged.saturating_add(self.blank.end.saturating_sub(self.blank.start))
    }

    /// Makes the writes.
    pub(super) fn take(&self, file: &File, synced: bool) -> Result<()> {
        write(file, self.stage.0, &self.stage.1)?;
        sync(file, synced)?;
        write(file, self.switch.0, &self.switch.1)?;
        sync(file, synced)?;
        let len = self.blank.end.saturating_sub(self.blank.start);
        let blank = vec![FILL; usize::try_from(len).unwrap_or(0)];
        write(file, self.blank.start, &blank)?;
        sync(file, synced)
    }
}

/// Whether two places are at the same distance from the beginning of their blocks.
pub(super) fn same_block(a: u64, b: u64) -> bool {
    a % BLOCK == b % BLOCK
}

/// The way that fits.
pub(super) fn choose(
    draft: &Draft<'_>,
    source: &dyn ByteSource,
    reserve: Option<u64>,
) -> Result<Way> {
    if reserve.is_some() || !draft.keeps_data() {
        return draft.fresh(reserve).map(Way::Rewrite);
    }
    let plain = draft.plain()?;
    let end = match draft.tensors.as_slice() {
        [] => draft.header.end,
        _ => draft.header.data_start().unwrap_or(draft.header.end),
    };
    let old = source.read_vec(0..end.min(source.len()))?;
    if let Some(way) = sector(&old, &plain.header) {
        return Ok(way);
    }
    match in_reserve(draft) {
        Some(steps) => Ok(Way::Reserve(steps)),
        None => draft.fresh(None).map(Way::Rewrite),
    }
}

/// The write that turns `old` into `new` where it lies within a sector.
fn sector(old: &[u8], new: &[u8]) -> Option<Way> {
    if old.len() != new.len() {
        return None;
    }
    let differs = |(a, b): (&u8, &u8)| a != b;
    let Some(first) = old.iter().zip(new).position(differs) else {
        return Some(Way::Nothing);
    };
    let last = old.iter().zip(new).rposition(differs)?;
    (first / SECTOR == last / SECTOR).then(|| Way::Sector {
        at: first as u64,
        bytes: new.get(first..=last).unwrap_or_default().to_vec(),
    })
}

/// The writes that bring the draft's key-values into the room, where there is enough.
fn in_reserve(draft: &Draft<'_>) -> Option<Steps> {
    let (header, old) = (draft.header, &draft.old);
    let first = header.entries.first()?;
    let Value::String(room) = &first.value else {
        return None;
    };
    let kept = draft.items.first()?.body == Body::Old(old.first()?.clone());
    if header.bytes(&first.key) != RESERVE.as_bytes() || !kept || !draft.keeps_tensors() {
        return None;
    }
    // New keys come first: what stands behind them need not move.
    let others = || draft.items.iter().skip(1);
    let items: Vec<&Item> = others()
        .filter(|i| i.added)
        .chain(others().filter(|i| !i.added))
        .collect();
    let mut keep = unchanged_end(&items, old);
    let start_of = |keep: usize| match old.get(old.len() - keep) {
        Some(range) => range.start,
        None => draft.entries_end,
    };
    if room.end < start_of(keep) {
        // There is one key for used room: an old one is swallowed with all before it.
        let behind = items.iter().rev().take(keep);
        if let Some(i) = behind.into_iter().position(|i| i.key == USED) {
            keep = i;
        }
    }
    let dead = room.end..start_of(keep);
    let moved = items.get(..items.len() - keep).unwrap_or_default();
    let moved: Vec<&Item> = moved.iter().copied().filter(|i| i.key != USED).collect();
    let mut payload: Vec<u8> = Vec::new();
    for i in &moved {
        payload.extend_from_slice(draft.body(i));
    }
    if !dead.is_empty() {
        put_text_head(&mut payload, draft.coding, USED, dead.len() as u64);
    }
    let keys = 1 + moved.len() + usize::from(!dead.is_empty()) + keep;
    steps(draft, room, dead, payload, keys as u64)
}

/// How many key-values at the end are those of the old file.
fn unchanged_end(items: &[&Item], old: &[Range<usize>]) -> usize {
    let pairs = items.iter().rev().zip(old.iter().skip(1).rev());
    pairs
        .take_while(|(i, r)| matches!(&i.body, Body::Old(b) if b == *r))
        .count()
}

fn steps(
    draft: &Draft<'_>,
    room: &Range<usize>,
    dead: Range<usize>,
    payload: Vec<u8>,
    keys: u64,
) -> Option<Steps> {
    let left = room.len().checked_sub(payload.len())?;
    let header = draft.header;
    // What an edit that was cut off has left in the room goes with the next.
    let clean = header.bytes(room).iter().all(|b| *b == FILL);
    let stage = if clean {
        ((room.start + left) as u64, payload)
    } else {
        let mut all = vec![FILL; left];
        all.extend(payload);
        (room.start as u64, all)
    };
    let (c, count_at) = (draft.coding, draft.count_at());
    let switched = count_at..room.start;
    if switched.end > SECTOR {
        return None;
    }
    // The counts change, and between them stand the key and the type of the room.
    let mut switch = Vec::with_capacity(switched.len());
    c.put_length(keys, &mut switch);
    let between = switched.start + c.prefix()..switched.end.checked_sub(c.prefix())?;
    switch.extend(header.bytes(&between));
    c.put_length(left as u64, &mut switch);
    Some(Steps {
        stage,
        switch: (count_at as u64, switch),
        blank: dead.start as u64..dead.end as u64,
        keys,
        left: left as u64,
    })
}
