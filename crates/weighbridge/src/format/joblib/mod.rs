//! joblib's files (`joblib/numpy_pickle.py`): pickles with the bytes of arrays in the middle of the
//! opcodes, and all of it compressed where the user asked for that.
//!
//! | file | bytes |
//! |---|---|
//! | plain | a pickle; behind the `BUILD` of each `NumpyArrayWrapper` one byte that counts the padding (since joblib 1.2), the padding, and the array |
//! | compressed | zlib, gzip, bzip2, xz, lzma or LZ4 of the same; before joblib 0.10 `ZF`, a length and zlib |
//!
//! Arrays of objects are a pickle of their own there. Files of joblib before 0.10 keep arrays in
//! files beside them: those are named and never opened.

mod loader;
mod packed;
mod read;

pub(crate) use loader::{Holes, Loader, Met, described};
pub(crate) use packed::{is_packed_pickle, unpacked};
pub(crate) use read::{Step, load, step};

/// How much of a stream is read at first: a tar or legacy file has thousands of short ones.
pub(crate) const FIRST_READ: u64 = 8 << 10;
