//! HDF5: opened from memory and by position, read, and verified.

use std::ops::Range;
use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::format::FormatReader;
use weighbridge::format::hdf5::Hdf5;
use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::wire::hdf5::{File, Kind, Target};
use weighbridge_core::{Limits, Result};

use crate::exercise;

/// Bytes that can only be read by position, as those of a file on the command line.
#[derive(Debug)]
struct Positional(SliceSource);

impl ByteSource for Positional {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(at, buf)
    }

    fn slice(&self, _: Range<u64>) -> Option<&[u8]> {
        None
    }
}

/// An HDF5 file: both ways of reading say the same, what breaks no rule opens, and every violation
/// lies in the file.
pub fn hdf5(data: &[u8]) {
    let options = OpenOptions::default();
    let held = SliceSource::new(data, "input");
    let by_position: Arc<dyn ByteSource> = Arc::new(Positional(held.clone()));
    let held: Arc<dyn ByteSource> = Arc::new(held);
    let opened = Hdf5.open(Arc::clone(&by_position), &options);
    match (&opened, Hdf5.open(Arc::clone(&held), &options)) {
        (Ok(a), Ok(b)) => {
            let names = |m: &weighbridge::Model| -> Vec<String> {
                m.tensors.iter().map(|t| t.name.clone()).collect()
            };
            assert_eq!(names(a), names(&b), "two ways of reading differ");
            assert_eq!(a.metadata, b.metadata, "two ways of reading differ");
            exercise::model(&b);
        }
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string(), "two ways of reading differ"),
        (a, b) => panic!("one way of reading opens, the other does not: {a:?} {b:?}"),
    }
    let violations = match Hdf5.verify(by_position, &options) {
        Ok(found) => found,
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    };
    if let (Err(e), true) = (&opened, violations.is_empty())
        && e.kind() != weighbridge_core::ErrorKind::Unsupported
    {
        panic!("a file that breaks no rule does not open: {e}");
    }
}

/// Where the structures of a sound file lie: the places worth changing.
pub fn hdf5_structures(data: &[u8]) -> Vec<Range<usize>> {
    let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(data, "input"));
    let Ok(file) = File::with_account(source, &Limits::default(), true) else {
        return Vec::new();
    };
    let mut open = vec![file.superblock().root];
    let mut seen = std::collections::HashSet::new();
    while let Some(address) = open.pop() {
        let Ok(header) = file.header(address) else {
            continue;
        };
        if !seen.insert(address) {
            continue;
        }
        let _ = file.attributes(&header);
        if header.kind() == Kind::Group {
            for link in file.links(&header).unwrap_or_default() {
                if let Target::Hard(address) = link.target {
                    open.push(address);
                }
            }
        } else if let Ok(d) = file.dataset(&header) {
            let _ = file.chunks(&d, 0);
        }
    }
    let span = |r: Range<u64>| r.start as usize..r.end as usize;
    file.spans().into_iter().map(span).collect()
}
