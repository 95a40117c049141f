//! Every way in which the frames of one stream make readers read it.

use std::collections::VecDeque;

use super::super::raw::RawArrays;
use super::super::value::Trace;
use super::run_once;
use crate::limits::Limits;

/// How a reader treats frames.
#[derive(Debug, Clone)]
pub(in super::super) enum Reading {
    /// For each crossing of a frame's end, whether the rest of the frame is dropped; beyond the
    /// end of the plan nothing is, as when the stream is a bytes object.
    Plan(Vec<bool>),
    /// A file opened with a buffer of so many bytes: a frame that lies whole in what the buffer
    /// holds is read in place, any other is held and its rest dropped.
    Buffered(usize),
}

/// Buffers of Python's `open`: the block size of most file systems, the default, and the default
/// since Python 3.14.
const BUFFERS: [usize; 3] = [4096, 8192, 128 << 10];

/// Frames from this length on are never looked for in the file's own buffer (`PREFETCH`).
pub(in super::super) const PREFETCH: usize = 128 << 10;

/// Most readings of one stream beside the linear one. Where readers part at all the stream is
/// malformed, so that nothing is waved through for the ones that are left out.
const MOST: usize = 16;

/// Opcodes that all readings together may execute for each one of the linear reading.
const OPS_FACTOR: u64 = 8;

/// Runs the linear reading, and all others if there is a difference.
pub(super) fn all<'a>(data: &'a [u8], limits: &Limits, arrays: &mut dyn RawArrays) -> Trace<'a> {
    let (mut first, decided) = run_once(data, limits, arrays, Reading::Plan(Vec::new()));
    if decided.is_empty() {
        return first;
    }
    let mut queue = VecDeque::new();
    // A reader without a buffer of its own (BytesIO, torch's zip reader) always drops.
    queue.push_back(Reading::Plan(vec![true; decided.len().max(64)]));
    queue.extend(BUFFERS.map(Reading::Buffered));
    branch(&mut queue, 0, &decided);
    let mut ops = first.ops.max(1 << 16).saturating_mul(OPS_FACTOR);
    let mut memory = limits.pickle_memory.saturating_sub(first.memory);
    while let Some(reading) = queue.pop_front() {
        if first.readings.len() >= MOST || ops == 0 || memory == 0 {
            break;
        }
        let mut rest = limits.clone();
        rest.pickle_ops = rest.pickle_ops.min(ops);
        rest.pickle_memory = memory;
        let planned = match &reading {
            Reading::Plan(plan) => Some(plan.len()),
            Reading::Buffered(_) => None,
        };
        let (trace, decided) = run_once(data, &rest, arrays, reading);
        ops = ops.saturating_sub(trace.ops);
        memory = memory.saturating_sub(trace.memory);
        if let Some(planned) = planned {
            branch(&mut queue, planned, &decided);
        }
        first.readings.push(trace);
    }
    first
}

/// For each decision that a reading made beyond its plan, the plan that decides it otherwise.
fn branch(queue: &mut VecDeque<Reading>, planned: usize, decided: &[bool]) {
    for i in planned..decided.len() {
        if queue.len() >= MOST {
            return;
        }
        let mut plan: Vec<bool> = decided.iter().copied().take(i).collect();
        plan.push(true);
        queue.push_back(Reading::Plan(plan));
    }
}
