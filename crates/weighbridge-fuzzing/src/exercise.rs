//! Everything that is done with an opened model, done to it.

use std::cell::Cell;

use std::path::Path;

use weighbridge::structure::{Form, to_json};
use weighbridge::{Backend, OpenOptions};
use weighbridge_core::model::{Chunks, Model};
use weighbridge_core::{Error, Result};

/// How many bytes of payload one run reads in all: views may rightly expand to a gibibyte, and
/// reading that is no hang.
pub const READ_BUDGET: u64 = 8 << 20;

/// The error that ends a run whose budget is spent.
fn spent() -> Error {
    Error::limit("fuzzing.budget", "enough was read")
}

/// A sink's budget over a whole run.
#[derive(Debug)]
pub(crate) struct Budget(Cell<u64>);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Cell::new(READ_BUDGET))
    }

    /// Takes the bytes of `part`.
    pub(crate) fn take(&self, part: &[u8]) -> Result<()> {
        let left = self
            .0
            .get()
            .checked_sub(part.len() as u64)
            .ok_or_else(spent)?;
        self.0.set(left);
        Ok(())
    }
}

/// Looks at all that `model` says, and reads its tensors in pieces until the budget is spent.
pub fn model(model: &Model) {
    let budget = Budget::new();
    for (key, value) in &model.metadata {
        let _ = (key.len(), to_json(value, Form::Inspect));
    }
    if let Some(structure) = &model.structure {
        let _ = to_json(structure, Form::Inspect);
        let _ = to_json(structure, Form::Stored);
    }
    let groups = model.alias_groups();
    assert!(
        groups.iter().flatten().all(|&i| i < model.tensors.len()),
        "an alias group names a tensor that is not there"
    );
    let mut chunks = Chunks::new();
    for t in &model.tensors {
        let declared = t.byte_len();
        let mut got = 0u64;
        let done = t.stream(&mut chunks, &mut |part| {
            got += part.len() as u64;
            budget.take(part)
        });
        // How long texts are is known when they are read.
        let told = !t.dtype.is_text() || declared > 0;
        if done.is_ok() && t.has_data() && told {
            assert_eq!(got, declared, "{} gives another number of bytes", t.name);
        }
    }
}

/// Opens, checks and reads the model at `path` by both backends, strictly and leniently.
pub fn open_path(path: &Path) {
    for (backend, lenient) in [(Backend::Pread, false), (Backend::Mmap, true)] {
        let options = OpenOptions {
            backend,
            lenient,
            ..OpenOptions::default()
        };
        if let Ok(m) = options.open(path) {
            model(&m);
        }
        let _ = weighbridge::check::check(path, &options);
    }
}
