//! Keras: archives and HDF5 files opened, labelled, read, verified, and written again.

use std::sync::Arc;

use weighbridge::convert::writer;
use weighbridge::format::FormatReader as _;
use weighbridge::format::keras::Keras;
use weighbridge::format::{WriteOptions, hdf5::Hdf5};
use weighbridge::{ErrorKind, FormatId, Model, OpenOptions};
use weighbridge_core::source::SliceSource;

use crate::exercise;

/// Models up to this many bytes are written again.
const MOST_WRITTEN: u64 = 1 << 20;

/// A file of Keras: what breaks no rule opens, and what opens is written as HDF5 that opens with as
/// many tensors.
///
/// # Panics
/// When one of that does not hold.
pub fn keras(data: &[u8]) {
    let options = OpenOptions::default();
    let source = || Arc::new(SliceSource::new(data, "fuzz.keras"));
    let opened = Keras.open(source(), &options);
    if let Ok(m) = &opened {
        exercise::model(m);
        again(m);
    }
    let found = match Keras.verify(source(), &options) {
        Ok(found) => found,
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    };
    if let (Err(e), true) = (&opened, found.is_empty())
        && !matches!(e.kind(), ErrorKind::Limit | ErrorKind::Unsupported)
    {
        panic!("a file that breaks no rule does not open: {e}");
    }
}

/// Writes `model` as HDF5 and opens it.
fn again(model: &Model) {
    let sum = model
        .tensors
        .iter()
        .try_fold(0u64, |n, t| n.checked_add(t.byte_len()));
    if sum.is_none_or(|n| n > MOST_WRITTEN) || model.tensors.len() > 4096 {
        return;
    }
    let writer = writer(FormatId::Hdf5).expect("HDF5 is written");
    // Values that cannot be read cannot be planned or written.
    let Ok(plan) = writer.plan(model, &WriteOptions::default()) else {
        return;
    };
    let mut out = Vec::new();
    if writer
        .write(model, &plan, 0, &mut out, &mut |_| {})
        .is_err()
    {
        return;
    }
    let file = plan.files.first().expect("one file");
    assert_eq!(out.len() as u64, file.bytes, "the planned size is wrong");
    let back = Hdf5.open(
        Arc::new(SliceSource::new(out, "again.h5")),
        &OpenOptions::default(),
    );
    match back {
        Ok(back) => assert_eq!(
            back.tensors.len(),
            file.tensors.len(),
            "datasets are missing"
        ),
        Err(e) if e.kind() == ErrorKind::Limit => {}
        Err(e) => panic!("what was written does not open: {e}"),
    }
}
