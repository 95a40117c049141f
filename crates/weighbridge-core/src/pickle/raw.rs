//! Raw bytes and further pickles in the middle of a stream.
//!
//! joblib's loader (`joblib/numpy_pickle.py`, `NumpyUnpickler.load_build`) reads an array's bytes
//! from the file itself as soon as a `NumpyArrayWrapper` has got its state, and goes on with the
//! opcodes behind them. What is read, and how much, follows from the state: whoever knows such a
//! loader tells the machine through [`RawArrays`].

use super::value::{Build, Trace};
use crate::error::Result;

/// What a loader reads from the file itself after a `BUILD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// Nothing: the next opcode follows at once.
    Nothing,
    /// So many bytes, padding included.
    Skip(usize),
    /// A whole pickle, read with `pickle.load` (an array of objects).
    Nested,
}

/// A loader that reads raw bytes out of the middle of a pickle.
pub trait RawArrays {
    /// Says what the loader reads after `build`, which has just been executed. `trace` is all that
    /// has happened so far, `at` the place in `trace.data` where the loader reads.
    ///
    /// # Errors
    /// What makes the loader give up: the machine stops there, and the trace carries the error.
    fn after_build(&mut self, trace: &Trace<'_>, build: &Build, at: usize) -> Result<Raw>;
}

/// A loader that reads opcodes only.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoArrays;

impl RawArrays for NoArrays {
    fn after_build(&mut self, _: &Trace<'_>, _: &Build, _: usize) -> Result<Raw> {
        Ok(Raw::Nothing)
    }
}

/// A pickle inside a pickle.
#[derive(Debug)]
pub struct Nested<'a> {
    /// Where it starts in the outer stream; the offsets of its trace count from there.
    pub start: usize,
    /// What it does.
    pub trace: Trace<'a>,
}

#[cfg(test)]
mod tests {
    use super::super::{Node, run_with};
    use super::*;
    use crate::limits::Limits;

    /// The state is the number of raw bytes, or `None` for a nested pickle.
    struct Counted;

    impl RawArrays for Counted {
        fn after_build(&mut self, trace: &Trace<'_>, build: &Build, _: usize) -> Result<Raw> {
            Ok(match trace.int(build.state) {
                Some(n) => Raw::Skip(n.try_into().unwrap_or(usize::MAX)),
                None => Raw::Nested,
            })
        }
    }

    #[test]
    fn raw_bytes_and_nested_pickles_are_stepped_over() {
        let data = b"cm\nC\n)\x81K\x03b.c.cm\nD\n)\x81Nbcos\ngetpid\n)R.\x86.";
        let t = run_with(data, &Limits::default(), &mut Counted);
        assert!(t.error.is_none(), "{:?}", t.error);
        assert_eq!(t.raw.len(), 1);
        assert_eq!(t.raw[0], 10..13);
        assert_eq!(t.nested.len(), 1);
        assert_eq!(t.nested[0].start, 22);
        assert_eq!(t.nested[0].trace.globals[0].name, "getpid");
        assert_eq!(t.end, data.len());
        assert!(matches!(t.node(t.root.unwrap()), Node::Tuple(v) if v.len() == 2));
    }

    #[test]
    fn raw_bytes_past_the_end_break_the_stream() {
        let t = run_with(b"cm\nC\n)\x81K\x09b.", &Limits::default(), &mut Counted);
        assert!(t.error.is_some());
        assert!(t.raw.is_empty());
    }
}
