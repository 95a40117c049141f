//! Rows in flight: each worker reads some, makes them wide, quantizes them and writes them where
//! they belong.
//!
//! Positions are known beforehand, so nothing is put in order afterwards and the bytes do not
//! depend on the number of threads. Memory: a few buffers of [`CHUNK`] values for each worker,
//! whatever the size of a tensor. Values without weights are quantized block by block and may be
//! cut anywhere between blocks; weighted ones go by whole rows, as some types look at all of one.

use std::sync::Arc;

use weighbridge_core::Result;
use weighbridge_core::source::ByteSource;

use super::imatrix::Matrix;
use super::measure::{Quality, Sums};
use super::plan::Item;
use super::work::{Did, Worker};
use crate::output::{Positioned, raw_bytes};
use crate::parallel::pieces::{self, CHUNK, Piece};
use crate::parallel::{self, Crew};

/// Bytes copied inside the kernel in one piece of work.
const COPY: u64 = 32 << 20;

/// What is to be done.
pub(super) struct Run<'a> {
    pub(super) items: &'a [Item],
    pub(super) outputs: &'a [Positioned],
    pub(super) matrix: Option<&'a Matrix>,
    pub(super) threads: usize,
    pub(super) measure: bool,
}

/// A piece of work on an item.
pub(super) struct Task {
    pub(super) item: usize,
    pub(super) what: What,
}

/// What is to be done with it.
pub(super) enum What {
    /// Values become those of another type.
    Values {
        piece: Piece,
        weights: Option<Arc<Vec<f32>>>,
    },
    /// Bytes are copied as they are.
    Copy {
        source: Arc<dyn ByteSource>,
        /// Where they lie in the source and in the tensor, and how many there are.
        at: u64,
        first: u64,
        len: u64,
    },
}

impl Run<'_> {
    /// Does it; gives the quality of each item, where it was measured.
    pub(super) fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Option<Quality>>> {
        let sizes = self.items.iter().map(|i| i.from.byte_len());
        let total = sizes.fold(0u64, u64::saturating_add);
        let mut sums = vec![Sums::default(); self.items.len()];
        let mut take = |did: Did| {
            if let (Some(all), Some(own)) = (sums.get_mut(did.item), &did.sums) {
                all.add(own);
            }
            progress(did.read, total);
            Ok(())
        };
        let hire = || {
            let mut worker = Worker::new(self);
            move |task: Task| {
                let item = self.items.get(task.item);
                let done = worker.work(&task);
                done.map_err(|e| e.within(item.map(|i| i.name.as_str()).unwrap_or_default()))
            }
        };
        let threads = parallel::threads(self.threads);
        parallel::run(threads, hire, &mut take, |crew| {
            for (i, item) in self.items.iter().enumerate() {
                if let Err(e) = self.feed(i, item, crew) {
                    return Err(match crew.failed() {
                        true => e,
                        false => e.within(item.name.as_str()),
                    });
                }
            }
            Ok(())
        })?;
        let quality = |s: Sums| self.measure.then(|| s.quality());
        Ok(sums.into_iter().map(quality).collect())
    }

    /// Hands out the work on one tensor.
    fn feed(&self, i: usize, item: &Item, crew: &mut Crew<'_, Task, Did>) -> Result<()> {
        if item.as_is()
            && let Some((source, at)) = raw_bytes(&item.from)
        {
            return copies(i, item, source, at, crew);
        }
        let weights = match (&item.weights, self.matrix) {
            (Some(name), Some(m)) => m.weights(name).map(Arc::new),
            _ => None,
        };
        let step = match &weights {
            Some(_) => item.whole_rows(),
            None => CHUNK,
        };
        pieces::each(&item.from, step, &mut |piece| {
            let weights = weights.clone();
            let what = What::Values { piece, weights };
            crew.put(Task { item: i, what })
        })
    }
}

impl Item {
    /// Whether its bytes are taken without a look at the values.
    pub(super) fn as_is(&self) -> bool {
        self.to == self.from.dtype && !self.to.is_float()
    }

    pub(super) fn columns(&self) -> usize {
        let last = self.from.shape.last().copied().unwrap_or(1);
        usize::try_from(last).unwrap_or(usize::MAX).max(1)
    }

    /// Values of as many whole rows as make a piece.
    fn whole_rows(&self) -> usize {
        let columns = self.columns();
        (CHUNK / columns).max(1).saturating_mul(columns)
    }
}

/// Hands out the bytes of a tensor that stays as it is.
fn copies(
    i: usize,
    item: &Item,
    source: &Arc<dyn ByteSource>,
    at: u64,
    crew: &mut Crew<'_, Task, Did>,
) -> Result<()> {
    let len = item.from.byte_len();
    let mut first = 0;
    while first < len {
        let n = (len - first).min(COPY);
        let what = What::Copy {
            source: Arc::clone(source),
            at: at.saturating_add(first),
            first,
            len: n,
        };
        crew.put(Task { item: i, what })?;
        first += n;
    }
    Ok(())
}
