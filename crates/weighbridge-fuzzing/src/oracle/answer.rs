//! What the real unpicklers said, and whether the machine agrees.

use weighbridge_core::pickle::Trace;
use weighbridge_core::{Limits, pickle};

use super::text::{Told, fnv};

/// What one real unpickler did with one pickle.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    /// `ok`, or why it failed.
    status: String,
    /// Where the file stood afterwards.
    end: usize,
    /// The value, if any.
    root: Option<u32>,
    /// How many events there were.
    count: usize,
    /// All of them.
    events: u32,
}

impl Reading {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let reading = Self {
            status: parts.next()?.to_owned(),
            end: parts.next()?.parse().ok()?,
            root: u32::from_str_radix(parts.next()?, 16).ok(),
            count: parts.next()?.parse().ok()?,
            events: u32::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(reading)
    }
}

/// What all real unpicklers did with one pickle: a line of `peers/unpickle.py`.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The C unpickler reading a bytes object.
    memory: Reading,
    /// The same reading a file without a buffer.
    file: Reading,
    /// The same reading a file with a buffer of 4096 bytes.
    buffered: Reading,
    /// The unpickler written in Python. Its events have no values.
    python: Reading,
}

impl Answer {
    /// Reads a line of the script's output.
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim_end().split(';');
        let memory = Reading::parse(parts.next()?)?;
        let mut next = || match parts.next()? {
            "=" => Some(memory.clone()),
            text => Reading::parse(text),
        };
        Some(Self {
            file: next()?,
            buffered: next()?,
            python: next()?,
            memory,
        })
    }
}

/// Failures of the real unpicklers at which the machine goes on, because another loader would not
/// fail: extension codes may be registered, buffers given, Python older than the limit on digits,
/// keywords taken, and what a global stands for be a buffer, a number or a tuple; memory is another matter.
const GOES_ON: [&str; 7] = [
    "type",
    "extension",
    "buffers",
    "digits",
    "keywords",
    "memory",
    "recursion",
];

/// Whether the machine makes of `data` what the real unpicklers did.
///
/// It must have every event that they have, in their order. Where they succeed it must succeed
/// with the same value at the same place; where they fail it must have a fault, or go on for one
/// of a few known reasons.
///
/// # Errors
/// What differs.
pub fn check(data: &[u8], answer: &Answer) -> Result<(), String> {
    let trace = pickle::run(data, &Limits::default());
    let dropping = trace.readings.first().unwrap_or(&trace);
    let buffered = trace.readings.get(1).unwrap_or(&trace);
    compare(&trace, &answer.memory, false).map_err(|e| format!("from memory: {e}"))?;
    compare(dropping, &answer.file, true).map_err(|e| format!("from a file: {e}"))?;
    compare(buffered, &answer.buffered, true).map_err(|e| format!("from a buffered file: {e}"))?;
    same_events(&trace, &answer.python, true).map_err(|e| format!("in Python: {e}"))?;
    if answer.python.status == "ok" && trace.root.is_none() {
        return Err("in Python: it succeeds, the machine does not".into());
    }
    Ok(())
}

fn compare(trace: &Trace<'_>, real: &Reading, held: bool) -> Result<(), String> {
    same_events(trace, real, false)?;
    let fault = trace.error.as_ref().map(|e| e.rule());
    if real.status != "ok" {
        let excused = GOES_ON.contains(&real.status.as_str());
        return if fault.is_some() || excused {
            Ok(())
        } else {
            Err(format!(
                "it fails ({}), the machine finds nothing",
                real.status
            ))
        };
    }
    match fault {
        // Only the newest unpicklers mind the one, and the real `find_class` minds the other.
        None | Some("pickle.frame-crossed" | "pickle.no-name") => {}
        Some(rule) => return Err(format!("it succeeds, the machine says {rule}")),
    }
    let told = Told::new(trace);
    let root = trace.root.map(|id| told.text(id));
    if root.as_ref().map(|r| fnv([r])) != real.root {
        return Err(format!("it gives another value than {root:?}"));
    }
    let end = match trace.frame_end {
        Some(end) if held => end,
        _ => trace.end,
    };
    // A frame read in place leaves the file at the end of the pickle.
    if end != real.end && trace.end != real.end {
        return Err(format!("it ends at {}, the machine at {end}", real.end));
    }
    Ok(())
}

/// The real events must be the first of the machine's, and all of them when all went well.
fn same_events(trace: &Trace<'_>, real: &Reading, outline: bool) -> Result<(), String> {
    let events = Told::new(trace).events(outline);
    if events.len() < real.count {
        return Err(format!(
            "it has {} events, the machine these: {events:#?}",
            real.count
        ));
    }
    let all = real.status != "ok" || events.len() == real.count;
    let hashes = events.iter().take(real.count).map(|e| fnv([e]));
    if !all || fnv(hashes.map(|h| format!("{h:08x}"))) != real.events {
        return Err(format!("it has other events than {events:#?}"));
    }
    Ok(())
}
