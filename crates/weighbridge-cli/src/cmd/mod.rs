//! One file a verb.

pub(crate) mod check;
pub(crate) mod convert;
pub(crate) mod dequantize;
pub(crate) mod diff;
pub(crate) mod disasm;
pub(crate) mod edit;
pub(crate) mod imatrix;
pub(crate) mod inspect;
pub(crate) mod quantize;
pub(crate) mod recipe;
pub(crate) mod scan;
pub(crate) mod split;
mod summary;

use weighbridge::{Backend, FormatId, OpenOptions};

use crate::args::Open;

/// How the command line opens files: by positional reads, so that a file which another process
/// truncates gives an error and never a signal.
pub(crate) fn open_options(open: &Open, format: Option<FormatId>) -> OpenOptions {
    let mut options = OpenOptions {
        backend: Backend::Pread,
        lenient: open.lenient,
        format,
        ..OpenOptions::default()
    };
    options.limits.expand_bytes = open.max_expand;
    options
}
