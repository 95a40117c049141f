//! Jobs on every core. What is written does not depend on how many there are: parts are cut the
//! same, and sums over them are added in their order.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use weighbridge_core::{Error, Result};

use super::job::{Job, Places, Scratch, To};
use super::weight::{Part, Weight};
use crate::quantize::measure::{Quality, Sums};

/// What is to be done, and where it goes.
pub(super) struct Run<'a> {
    pub(super) jobs: &'a [Job],
    pub(super) places: Places<'a>,
    pub(super) threads: usize,
    pub(super) measure: bool,
}

/// What came of a job.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    pub(super) quality: Option<Quality>,
    /// Values that were beyond the type and became its greatest.
    pub(super) beyond: u64,
}

/// What came of a part.
type Done = (Option<Sums>, u64);

impl Run<'_> {
    /// Does all of it; `progress` is told bytes of the input since the last call, and the total.
    pub(super) fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Outcome>> {
        let total = self
            .jobs
            .iter()
            .fold(0u64, |n, j| n.saturating_add(j.tensor.byte_len()));
        let done = AtomicU64::new(0);
        let mut told = 0;
        let mut tell = || {
            let now = done.load(Ordering::Relaxed);
            progress(now.saturating_sub(told), total);
            told = now;
        };
        let cut: Vec<Vec<Part>> = self.jobs.iter().map(Job::parts).collect();
        let one = |i: usize| cut.get(i).is_some_and(|p| p.len() <= 1);
        // Constants of one part side by side, then the others one by one with their parts side by
        // side: memory is a part for each worker.
        let (small, large): (Vec<usize>, Vec<usize>) = (0..self.jobs.len()).partition(|&i| one(i));
        let mut out = vec![Outcome::default(); self.jobs.len()];
        let work = |n: usize, scratch: &mut Scratch| {
            let Some((job, parts)) = small
                .get(n)
                .and_then(|&i| Some((self.jobs.get(i)?, cut.get(i)?)))
            else {
                return Ok((None, 0));
            };
            let one = self
                .whole(job, parts, scratch)
                .map_err(|e| e.within(job.name.as_str()));
            done.fetch_add(job.tensor.byte_len(), Ordering::Relaxed);
            one
        };
        let results = parallel(small.len(), self.threads, &work, &mut tell)?;
        for (&i, result) in small.iter().zip(results) {
            self.keep(&mut out, i, &[result]);
        }
        for i in large {
            if let (Some(job), Some(parts)) = (self.jobs.get(i), cut.get(i)) {
                let mut part_done = |n: u64| {
                    done.fetch_add(n, Ordering::Relaxed);
                    tell();
                };
                let results = self.parted(job, parts, &mut part_done);
                let results = results.map_err(|e| e.within(job.name.as_str()))?;
                self.keep(&mut out, i, &results);
            }
        }
        tell();
        Ok(out)
    }

    fn keep(&self, out: &mut [Outcome], i: usize, parts: &[Done]) {
        let (mut sums, mut beyond) = (Sums::default(), 0u64);
        for (s, b) in parts {
            sums.add(&s.unwrap_or_default());
            beyond = beyond.saturating_add(*b);
        }
        if let Some(o) = out.get_mut(i) {
            *o = Outcome {
                quality: self.measure.then(|| sums.quality()),
                beyond,
            };
        }
    }

    /// A constant of one part, read once.
    fn whole(&self, job: &Job, parts: &[Part], scratch: &mut Scratch) -> Result<Done> {
        let run = (&self.places, self.measure);
        let weight = Weight::open(&job.tensor)?;
        let part = parts.first().copied();
        let To::Linear(linear) = &job.to else {
            return match part {
                Some(part) => self.single(job, &weight, part, scratch),
                None => Ok((None, 0)),
            };
        };
        let mut ranges = job.no_ranges()?;
        if let Some(part) = part {
            job.range(&weight, part, scratch, &mut ranges)?;
        }
        let (scales, zeros) = job.parameters(linear, &ranges, &self.places)?;
        job.write_parameters(linear, (&scales, &zeros), &self.places)?;
        let Some(part) = part else {
            return Ok((None, 0));
        };
        let sums = job.quantize(&weight, part, false, (&scales, &zeros), run, scratch)?;
        Ok((sums, 0))
    }

    /// A part for which the others need not be known.
    fn single(&self, job: &Job, weight: &Weight<'_>, part: Part, s: &mut Scratch) -> Result<Done> {
        let run = (&self.places, self.measure);
        match &job.to {
            To::Cast => job.cast(weight, part, run, s),
            To::Repack(bits) => {
                job.repack(weight, part, *bits, &self.places, s)?;
                Ok((None, 0))
            }
            _ => Ok((job.blocks(weight, part, run, s)?, 0)),
        }
    }

    /// A constant of many parts.
    fn parted(&self, job: &Job, parts: &[Part], tell: &mut dyn FnMut(u64)) -> Result<Vec<Done>> {
        let weight = Weight::open(&job.tensor)?;
        let lost = || Error::parameter("plan.other-model", "the work is of another plan");
        let get = |i: usize| parts.get(i).copied().ok_or_else(lost);
        let total = job.tensor.byte_len();
        let To::Linear(linear) = &job.to else {
            let work = |i: usize, s: &mut Scratch| self.single(job, &weight, get(i)?, s);
            let out = parallel(parts.len(), self.threads, &work, &mut || {})?;
            tell(total);
            return Ok(out);
        };
        let found = Mutex::new(job.no_ranges()?);
        let look = |i: usize, s: &mut Scratch| {
            let mut own = job.no_ranges()?;
            job.range(&weight, get(i)?, s, &mut own)?;
            let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
            let (least, most) = &mut *all;
            least
                .iter_mut()
                .zip(&own.0)
                .for_each(|(l, o)| *l = l.min(*o));
            most.iter_mut()
                .zip(&own.1)
                .for_each(|(m, o)| *m = m.max(*o));
            Ok(())
        };
        parallel(parts.len(), self.threads, &look, &mut || {})?;
        let ranges = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (scales, zeros) = job.parameters(linear, &ranges, &self.places)?;
        job.write_parameters(linear, (&scales, &zeros), &self.places)?;
        let run = (&self.places, self.measure);
        let work = |i: usize, s: &mut Scratch| {
            let sums = job.quantize(&weight, get(i)?, true, (&scales, &zeros), run, s)?;
            Ok((sums, 0))
        };
        let out = parallel(parts.len(), self.threads, &work, &mut || {})?;
        tell(total);
        Ok(out)
    }
}

/// Does work number 0 to `n` on so many threads, this one among them, and gives the results in
/// order; of several failures the first. `tell` is called now and then.
fn parallel<T: Send>(
    n: usize,
    threads: usize,
    work: &(dyn Fn(usize, &mut Scratch) -> Result<T> + Sync),
    tell: &mut dyn FnMut(),
) -> Result<Vec<T>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let results: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(n));
    let worker = |tell: &mut dyn FnMut()| {
        let mut scratch = Scratch::default();
        loop {
            let i = next.fetch_add(1, Ordering::SeqCst);
            // What comes before a failure is still done, so that the first one is told.
            if i >= n || i > failed.load(Ordering::SeqCst) {
                return;
            }
            let result = work(i, &mut scratch);
            if result.is_err() {
                failed.fetch_min(i, Ordering::SeqCst);
            }
            let mut all = results.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((i, result));
            drop(all);
            tell();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(n) {
            scope.spawn(|| worker(&mut || {}));
        }
        worker(tell);
    });
    let mut all = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
}
