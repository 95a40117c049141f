//! Files of weights that ONNX graphs name: bytes without a format of their own, which are
//! accounted for by the tensors that lie in them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use weighbridge_core::source::{Backend, ByteSource, open_file};
use weighbridge_core::{Limits, Result};

use super::walk::{Entry, What};
use crate::OpenOptions;
use crate::format::FormatReader as _;
use crate::format::onnx::Onnx;

/// Longest run of zeros between two tensors, behind the last or before the first: writers align
/// to pages at most, of which the largest are 64 KiB.
const PADDING: u64 = 1 << 16;

/// The tensors of all graphs of a scan that lie outside of their graph's file.
pub(super) struct Weights<'a> {
    entries: &'a [Entry],
    limits: &'a Limits,
    /// Where they lie, by file. Found out when the first file without a format is met.
    known: OnceLock<HashMap<PathBuf, Vec<Range<u64>>>>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(entries: &'a [Entry], limits: &'a Limits) -> Self {
        Self {
            entries,
            limits,
            known: OnceLock::new(),
        }
    }

    /// Whether a graph of this scan names the file at `path`, and which of its bytes no tensor
    /// accounts for then.
    ///
    /// # Errors
    /// `Io` when the file cannot be read.
    pub(super) fn rest(
        &self,
        path: &Path,
        source: &dyn ByteSource,
    ) -> Result<Option<Vec<Range<u64>>>> {
        let known = self.known.get_or_init(|| self.look());
        let real = path.canonicalize().ok();
        let Some(tensors) = real.and_then(|p| known.get(&p)) else {
            return Ok(None);
        };
        rest(tensors, source).map(Some)
    }

    fn look(&self) -> HashMap<PathBuf, Vec<Range<u64>>> {
        let mut known: HashMap<PathBuf, Vec<Range<u64>>> = HashMap::new();
        for e in self.entries {
            let named = e.path.extension();
            let named = named.is_some_and(|x| x.eq_ignore_ascii_case("onnx"));
            if named && e.what == What::File {
                // What is wrong with a graph is told where that is looked into.
                let _ = self.graph(&e.path, &mut known);
            }
        }
        for ranges in known.values_mut() {
            ranges.sort_unstable_by_key(|r| (r.start, r.end));
        }
        known
    }

    fn graph(&self, path: &Path, known: &mut HashMap<PathBuf, Vec<Range<u64>>>) -> Result<()> {
        let mut options = OpenOptions {
            backend: Backend::Pread,
            limits: self.limits.clone(),
            ..OpenOptions::default()
        };
        options.limits.temporary_bytes = 0;
        let source = open_file(path, Backend::Pread)?;
        let model = Onnx.open(Arc::clone(&source), &options)?;
        for t in &model.tensors {
            let Some((storage, range)) = t.extent() else {
                continue;
            };
            let Some((file, base)) = storage.raw_range() else {
                continue;
            };
            if file.name() == source.name() {
                continue;
            }
            if let Ok(real) = Path::new(file.name()).canonicalize() {
                let range = base.saturating_add(range.start)..base.saturating_add(range.end);
                known.entry(real).or_default().push(range);
            }
        }
        Ok(())
    }
}

/// The bytes of `source` that none of `tensors`, in order, accounts for.
///
/// # Errors
/// `Io` when the file cannot be read.
pub(super) fn rest(tensors: &[Range<u64>], source: &dyn ByteSource) -> Result<Vec<Range<u64>>> {
    let mut rest = Vec::new();
    let mut at = 0;
    let end = source.len()..source.len();
    for t in tensors.iter().chain([&end]) {
        let gap = at..t.start.min(source.len());
        at = at.max(t.end);
        if gap.is_empty() {
            continue;
        }
        let zeros =
            gap.end - gap.start <= PADDING && source.read_vec(gap.clone())?.iter().all(|b| *b == 0);
        if !zeros {
            rest.push(gap);
        }
    }
    Ok(rest)
}
