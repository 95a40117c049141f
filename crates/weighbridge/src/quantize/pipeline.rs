//! Rows in flight: each worker reads some, makes them wide, quantizes them and writes them where
//! they belong.
//!
//! Positions are known beforehand, so nothing is put in order afterwards and the bytes do not
//! depend on the number of threads. Memory: a few buffers of [`CHUNK`] values for each worker,
//! whatever the size of a tensor. Values without weights are quantized block by block and may be
//! cut anywhere between blocks; weighted ones go by whole rows, as some types look at all of one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weighbridge_core::model::{Chunks, DType, Tensor, TensorSource};
use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, Result};

use super::imatrix::Matrix;
use super::measure::{Quality, Sums};
use super::plan::Item;
use super::work::Worker;
use crate::output::{Positioned, raw_bytes};

/// Values in a piece of work: a multiple of every block.
pub(super) const CHUNK: usize = 1 << 17;

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

/// Where the bytes of a piece come from.
pub(super) enum From {
    /// They are here.
    Bytes(Vec<u8>),
    /// From this position of a source, elements of so many bytes to be turned round.
    Source {
        source: Arc<dyn ByteSource>,
        at: u64,
        swap: usize,
    },
    /// As they are, this many bytes.
    Copy {
        source: Arc<dyn ByteSource>,
        at: u64,
        len: u64,
    },
}

/// A piece of work.
pub(super) struct Task {
    pub(super) item: usize,
    /// Its number in the tensor.
    pub(super) piece: usize,
    /// The first value, and how many.
    pub(super) first: u64,
    pub(super) values: usize,
    pub(super) from: From,
    pub(super) weights: Option<Arc<Vec<f32>>>,
}

impl Task {
    /// Work is begun in this order.
    fn order(&self) -> (usize, u64) {
        (self.item, self.first)
    }
}

/// The first thing that went wrong, in the order of the work.
#[derive(Default)]
struct Failure {
    found: Mutex<Option<((usize, u64), Error)>>,
    stop: AtomicBool,
}

impl Failure {
    fn lock(&self) -> MutexGuard<'_, Option<((usize, u64), Error)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, at: (usize, u64), e: Error) {
        let mut found = self.lock();
        if found.as_ref().is_none_or(|(first, _)| at < *first) {
            *found = Some((at, e));
        }
        self.stop.store(true, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether work at `at` can be left: what failed comes before it.
    fn before(&self, at: (usize, u64)) -> bool {
        self.stopped() && self.lock().as_ref().is_some_and(|(first, _)| *first < at)
    }
}

/// What workers share.
struct Shared<'a> {
    run: &'a Run<'a>,
    tasks: Mutex<Receiver<Task>>,
    failure: Failure,
    sums: Mutex<Vec<Vec<Sums>>>,
}

impl Run<'_> {
    /// Does it; gives the quality of each item, where it was measured.
    pub(super) fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Option<Quality>>> {
        let threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
        .min(256);
        let total = self
            .items
            .iter()
            .fold(0u64, |n, i| n.saturating_add(i.from.byte_len()));
        let (send, tasks) = sync_channel(threads * 2);
        let shared = Shared {
            run: self,
            tasks: Mutex::new(tasks),
            failure: Failure::default(),
            sums: Mutex::new(vec![Vec::new(); self.items.len()]),
        };
        let (told, done) = channel();
        std::thread::scope(|scope| {
            let shared = &shared;
            for _ in 0..threads {
                let told = told.clone();
                scope.spawn(move || shared.work(&told));
            }
            drop(told);
            for (i, item) in self.items.iter().enumerate() {
                let fed = self.feed(i, item, &send, &shared.failure, &mut || {
                    for n in done.try_iter() {
                        progress(n, total);
                    }
                });
                if let Err(e) = fed {
                    let e = e.within(item.name.as_str());
                    shared.failure.add((i, u64::MAX), e);
                }
                if shared.failure.stopped() {
                    break;
                }
            }
            drop(send);
            for n in &done {
                progress(n, total);
            }
        });
        if let Some((_, e)) = shared.failure.lock().take() {
            return Err(e);
        }
        let sums = shared.sums.into_inner();
        let sums = sums.unwrap_or_else(PoisonError::into_inner);
        let quality = |all: Vec<Sums>| {
            let mut whole = Sums::default();
            all.iter().for_each(|s| whole.add(s));
            self.measure.then(|| whole.quality())
        };
        Ok(sums.into_iter().map(quality).collect())
    }

    /// Hands out the work on one tensor.
    fn feed(
        &self,
        i: usize,
        item: &Item,
        send: &SyncSender<Task>,
        failure: &Failure,
        tell: &mut dyn FnMut(),
    ) -> Result<()> {
        let values = item.from.numel().unwrap_or(0);
        let mut put = |task: Task| {
            tell();
            !failure.stopped() && send.send(task).is_ok()
        };
        if item.as_is()
            && let Some((source, at)) = raw_bytes(&item.from)
        {
            copies(i, item, source, at, &mut put);
            return Ok(());
        }
        let weights = match (&item.weights, self.matrix) {
            (Some(name), Some(m)) => m.weights(name).map(Arc::new),
            _ => None,
        };
        let step = match &weights {
            Some(_) => item.whole_rows(),
            None => CHUNK,
        };
        let task = |piece: usize, first: u64, values: usize, from: From| Task {
            item: i,
            piece,
            first,
            values,
            from,
            weights: weights.clone(),
        };
        if let Some(run) = lying(&item.from)? {
            let (mut first, mut piece) = (0u64, 0);
            while first < values {
                let n = (values - first).min(step as u64) as usize;
                let at = bytes_of(item.from.dtype, first)?.saturating_add(run.at);
                let from = From::Source {
                    source: Arc::clone(&run.source),
                    at,
                    swap: run.swap,
                };
                if !put(task(piece, first, n, from)) {
                    return Ok(());
                }
                first += n as u64;
                piece += 1;
            }
            return Ok(());
        }
        self.feed_stream(item, step, &mut |piece, first, n, bytes| {
            put(task(piece, first, n, From::Bytes(bytes)))
        })
    }

    /// Reads a tensor that cannot be read at random, and hands out what it gives in pieces of
    /// `step` values.
    fn feed_stream(
        &self,
        item: &Item,
        step: usize,
        put: &mut dyn FnMut(usize, u64, usize, Vec<u8>) -> bool,
    ) -> Result<()> {
        let dtype = item.from.dtype;
        let size = bytes_of(dtype, step as u64)? as usize;
        let mut held: Vec<u8> = Vec::new();
        let (mut first, mut piece, mut open) = (0u64, 0, true);
        item.from.stream(&mut Chunks::new(), &mut |mut part| {
            while open && !part.is_empty() {
                let n = part.len().min(size - held.len());
                let (now, rest) = part.split_at(n);
                held.extend_from_slice(now);
                part = rest;
                if held.len() == size {
                    open = put(piece, first, step, std::mem::take(&mut held));
                    first += step as u64;
                    piece += 1;
                }
            }
            if open {
                return Ok(());
            }
            // Nobody hears of this: what made the others stop comes before it.
            Err(Error::parameter("quantize.stopped", "another piece failed"))
        })?;
        if !held.is_empty() {
            let left = item.from.numel().unwrap_or(0).saturating_sub(first);
            let n = usize::try_from(left).unwrap_or(0).min(step);
            put(piece, first, n, held);
        }
        Ok(())
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

/// Bytes that `values` values of `dtype` take from the start of a tensor on.
pub(super) fn bytes_of(dtype: DType, values: u64) -> Result<u64> {
    dtype.size_of(&[values]).ok_or_else(|| {
        let message = format!("{values} values of {dtype} are no whole number of blocks");
        Error::malformed("quantize.size", message)
    })
}

/// Hands out the bytes of a tensor that stays as it is.
fn copies(
    i: usize,
    item: &Item,
    source: &Arc<dyn ByteSource>,
    at: u64,
    put: &mut dyn FnMut(Task) -> bool,
) {
    let len = item.from.byte_len();
    let mut done = 0;
    while done < len {
        let n = (len - done).min(COPY);
        let task = Task {
            item: i,
            piece: 0,
            first: done,
            values: 0,
            from: From::Copy {
                source: Arc::clone(source),
                at: at.saturating_add(done),
                len: n,
            },
            weights: None,
        };
        if !put(task) {
            return;
        }
        done += n;
    }
}

/// Where a tensor lies in one run, and the width of what is to be turned round in it.
pub(super) struct Lying {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) at: u64,
    pub(super) swap: usize,
}

/// Where `t` can be read at random; `None` for what has to be read as a stream.
pub(super) fn lying(t: &Tensor) -> Result<Option<Lying>> {
    let TensorSource::View(v) = &t.source else {
        return Ok(None);
    };
    // Elements narrower than a byte begin in the middle of one.
    if t.dtype.bytes().is_none() && t.dtype.block().is_none() {
        return Ok(None);
    }
    v.storage.verify()?;
    let (source, base) = v.storage.random()?;
    let at = base.checked_add(v.offset).ok_or_else(|| {
        Error::malformed("quantize.size", "the tensor lies beyond 64 bits of file")
    })?;
    let swap = if v.storage.is_big_endian() {
        t.dtype.swap_width()
    } else {
        1
    };
    Ok(Some(Lying { source, at, swap }))
}

impl Shared<'_> {
    fn work(&self, told: &Sender<u64>) {
        let mut worker = Worker::new(self.run);
        loop {
            let next = self.tasks.lock();
            let next = next.unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = next else { return };
            if self.failure.before(task.order()) {
                continue;
            }
            // A worker that is gone takes no work, and with none left the feeder waits for ever.
            let done = catch_unwind(AssertUnwindSafe(|| worker.work(&task)));
            let done = done.unwrap_or_else(|_| {
                let message = "weighbridge itself failed; this is a bug";
                Err(Error::unsupported("internal", message))
            });
            match done {
                Ok((read, sums)) => {
                    if let Some(sums) = sums {
                        self.keep(&task, sums);
                    }
                    let _ = told.send(read);
                }
                Err(e) => {
                    let name = self.run.items.get(task.item).map(|i| i.name.as_str());
                    let e = e.within(name.unwrap_or_default());
                    self.failure.add(task.order(), e);
                }
            }
        }
    }

    fn keep(&self, task: &Task, sums: Sums) {
        let mut all = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(task.item) {
            if own.len() <= task.piece {
                own.resize(task.piece + 1, Sums::default());
            }
            if let Some(place) = own.get_mut(task.piece) {
                *place = sums;
            }
        }
    }
}
