//! Platforms without a sandbox of this kind.

use std::path::PathBuf;

use crate::{Layer, Report};

const WHY: &str = "there is no sandbox on this platform";

pub(crate) fn enter(_: &[PathBuf], _: &[i32]) -> Report {
    Report {
        files: Layer::Off(WHY.into()),
        landlock_abi: None,
        calls: Layer::Off(WHY.into()),
    }
}

pub(crate) fn close_files_of_this_thread() -> Layer {
    Layer::Off(WHY.into())
}

pub(crate) fn offered() -> Report {
    enter(&[], &[])
}
