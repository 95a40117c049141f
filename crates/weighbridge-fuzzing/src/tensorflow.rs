//! TensorFlow's files. Their tables carry checksums, which a change would only ever trip: they are
//! put right again, so that what lies behind them is reached too.

use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::format::FormatReader;
use weighbridge::format::tensorflow::{GraphDef, SavedModel, TfCheckpoint, TfLite, checkpoint};
use weighbridge_core::Limits;
use weighbridge_core::model::Checksum;
use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::wire::sstable::{MAGIC, Table, snappy};

use crate::exercise;

/// Bytes that stand for every data file.
const SHARD: usize = 64 << 10;

fn source(data: &[u8], name: &str) -> Arc<dyn ByteSource> {
    Arc::new(SliceSource::new(data, name))
}

/// A sorted table, as it is and with its checksums put right; and Snappy by itself.
pub fn sstable(data: &[u8]) {
    for bytes in [data.to_vec(), mend(data)] {
        let Ok(table) = Table::open(source(&bytes, "input"), &Limits::default()) else {
            continue;
        };
        let mut last: Option<Vec<u8>> = None;
        let walked = table.walk(&mut |e| {
            assert!(
                last.as_deref().is_none_or(|l| l < e.key()),
                "keys out of order"
            );
            last = Some(e.key().to_vec());
            let (start, len) = e.span();
            assert!(start + len <= e.block().data().len(), "a value outside");
            e.bytes(1 << 20).map(drop)
        });
        let _ = (walked, table.rest());
    }
    if let Ok(out) = snappy(data, 1 << 20) {
        assert!(out.len() <= data.len() * 22, "more than can be");
    }
}

/// A checkpoint: its index or, of version 1, all of it, and an object graph by itself.
pub fn tf_checkpoint(data: &[u8]) {
    let options = OpenOptions::default();
    let limits = Limits::default();
    for bytes in [data.to_vec(), mend(data)] {
        let index = source(&bytes, "input");
        let _ = TfCheckpoint.verify(Arc::clone(&index), &options);
        if let Ok(m) = TfCheckpoint.open(Arc::clone(&index), &options) {
            exercise::model(&m);
        }
        let Ok(table) = Table::open(index, &limits) else {
            continue;
        };
        let shard = |_, _, name: &str| Ok(source(&[0; SHARD], name));
        if let Ok(m) = checkpoint::open_with(&table, &options, &shard) {
            exercise::model(&m);
        }
        let _ = checkpoint::places(&table);
    }
    let _ = checkpoint::objects_in(data, &limits);
}

/// A model of TensorFlow Lite: opened, read and verified.
pub fn tflite(data: &[u8]) {
    let options = OpenOptions::default();
    let opened = TfLite.open(source(data, "input"), &options);
    if let Ok(m) = &opened {
        exercise::model(m);
    }
    match TfLite.verify(source(data, "input"), &options) {
        Ok(found) => assert!(
            opened.is_ok() || !found.is_empty(),
            "a model that breaks no rule does not open"
        ),
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    }
}

/// A graph, whichever of the messages it is.
pub fn graphdef(data: &[u8]) {
    let options = OpenOptions {
        constants: true,
        ..OpenOptions::default()
    };
    let readers: [&dyn FormatReader; 2] = [&GraphDef, &SavedModel];
    for (reader, name) in readers.into_iter().zip(["input.pb", "input.meta"]) {
        let opened = reader.open(source(data, name), &options);
        if let Ok(m) = &opened {
            exercise::model(m);
        }
        match reader.verify(source(data, name), &options) {
            Ok(found) => assert!(
                opened.is_ok() || !found.is_empty(),
                "a graph that breaks no rule does not open"
            ),
            Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
        }
    }
}

/// The table in `data` with the checksums that its blocks should have.
fn mend(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let _ = mend_blocks(&mut out);
    out
}

fn mend_blocks(out: &mut [u8]) -> Option<()> {
    let start = out.len().checked_sub(48)?;
    out.get_mut(start + 40..)?
        .copy_from_slice(&MAGIC.to_le_bytes());
    let mut at = start;
    for _ in 0..2 {
        let block = handle(out, &mut at)?;
        mend_block(out, block);
        if at > start + 2 {
            // The second is the index, whose values are handles.
            let (from, len) = block;
            let end = from.checked_add(len)?;
            let mut entry = from;
            while entry < end {
                varint(out, &mut entry)?;
                let own = varint(out, &mut entry)?;
                let value = varint(out, &mut entry)?;
                entry = entry.checked_add(own)?;
                let mut inner = entry;
                if let Some(block) = handle(out, &mut inner) {
                    mend_block(out, block);
                }
                entry = entry.checked_add(value)?;
            }
        }
    }
    Some(())
}

fn mend_block(out: &mut [u8], (from, len): (usize, usize)) -> Option<()> {
    let end = from.checked_add(len)?.checked_add(1)?;
    let sum = Checksum::masked_crc32c(out.get(from..end)?).value();
    let place = out.get_mut(end..end.checked_add(4)?)?;
    place.copy_from_slice(&sum.to_le_bytes());
    Some(())
}

fn handle(data: &[u8], at: &mut usize) -> Option<(usize, usize)> {
    Some((varint(data, at)?, varint(data, at)?))
}

fn varint(data: &[u8], at: &mut usize) -> Option<usize> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let b = *data.get(*at)?;
        *at += 1;
        n |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return usize::try_from(n).ok();
        }
    }
    None
}
