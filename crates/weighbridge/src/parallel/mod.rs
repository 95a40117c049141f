//! Pieces of work on every core, their results in order.
//!
//! One thread (the caller's) cuts the work into pieces and takes the results in the order of the
//! pieces, whoever finished first: what is made of them does not depend on the number of threads,
//! and the first thing that goes wrong, in that order, is what is told. Only a few pieces are under
//! way at a time, so memory does not grow with the work.

pub(crate) mod pieces;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use weighbridge_core::{Error, Result};

/// Most threads, whatever is asked for.
const MOST: usize = 256;

/// Pieces under way for each thread: one being worked on, and others so that nobody waits for the
/// slowest.
const AHEAD: u64 = 4;

/// How many threads `asked` comes to; 0 asks for as many as the machine runs.
pub(crate) fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
    .min(MOST)
}

/// Hands out pieces of work `T`, whose results are `R`.
pub(crate) struct Crew<'c, T, R> {
    hands: Hands<'c, T, R>,
    take: &'c mut dyn FnMut(R) -> Result<()>,
    failed: bool,
}

enum Hands<'c, T, R> {
    /// One thread alone does all.
    Own(&'c mut dyn FnMut(T) -> Result<R>),
    Others(Others<T, R>),
}

struct Others<T, R> {
    send: Sender<(u64, T)>,
    done: Receiver<(u64, Result<R>)>,
    /// Pieces handed out, and those whose results were taken.
    put: u64,
    taken: u64,
    most: u64,
    /// Results that came before their turn.
    early: BTreeMap<u64, Result<R>>,
}

impl<T, R> Others<T, R> {
    /// The result whose turn it is; waits for it where `wait` says so.
    fn next(&mut self, wait: bool) -> Option<Result<R>> {
        loop {
            if let Some(found) = self.early.remove(&self.taken) {
                self.taken += 1;
                return Some(found);
            }
            if self.taken == self.put {
                return None;
            }
            let came = match wait {
                true => self.done.recv().ok(),
                false => self.done.try_recv().ok(),
            };
            match came {
                Some((n, result)) => {
                    self.early.insert(n, result);
                }
                None if wait => return Some(Err(bug())),
                None => return None,
            }
        }
    }
}

impl<T, R> Crew<'_, T, R> {
    /// Hands out `task`, and takes what is done meanwhile. Waits while too much is under way.
    ///
    /// # Errors
    /// The first that an earlier piece, or taking its result, gave: no more work is wanted then.
    pub(crate) fn put(&mut self, task: T) -> Result<()> {
        match &mut self.hands {
            Hands::Own(work) => {
                let done = work(task);
                self.result(done)
            }
            Hands::Others(o) => {
                let n = o.put;
                o.put += 1;
                o.send.send((n, task)).map_err(|_| bug())?;
                self.settle(false)
            }
        }
    }

    /// Whether a piece has failed: the error that [`Crew::put`] gave is that one.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Takes the results that are there, and waits until few enough are under way, or none.
    fn settle(&mut self, all: bool) -> Result<()> {
        while let Hands::Others(o) = &mut self.hands {
            let wait = all || o.put - o.taken >= o.most;
            match o.next(wait) {
                Some(done) => self.result(done)?,
                None => break,
            }
        }
        Ok(())
    }

    fn result(&mut self, done: Result<R>) -> Result<()> {
        let taken = done.and_then(|r| (self.take)(r));
        self.failed |= taken.is_err();
        taken
    }

    /// Sees the work to its end; `fed` is how handing it out went.
    fn end(&mut self, fed: Result<()>) -> Result<()> {
        if self.failed {
            return fed;
        }
        // What was handed out comes before what could not be.
        self.settle(true)?;
        fed
    }
}

/// Runs `feed`, which hands out work, with `threads` workers (see [`threads`]; with one, all is
/// done on this thread). Each worker is made by `hire`, works and gives results; `take` gets those
/// in the order in which the work was handed out.
///
/// # Errors
/// The first, in that order, of what working, taking and feeding give.
pub(crate) fn run<T: Send, R: Send, W: FnMut(T) -> Result<R>>(
    threads: usize,
    hire: impl Fn() -> W + Sync,
    take: &mut dyn FnMut(R) -> Result<()>,
    feed: impl FnOnce(&mut Crew<'_, T, R>) -> Result<()>,
) -> Result<()> {
    if threads <= 1 {
        let mut worker = hire();
        let mut work = |task| guarded(&mut worker, task);
        let mut crew = Crew {
            hands: Hands::Own(&mut work),
            take,
            failed: false,
        };
        return feed(&mut crew);
    }
    let (send, tasks) = channel::<(u64, T)>();
    let (told, done) = channel();
    let (tasks, stop) = (Mutex::new(tasks), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (told, tasks, stop, hire) = (told.clone(), &tasks, &stop, &hire);
            scope.spawn(move || {
                let mut worker = hire();
                loop {
                    let next = tasks.lock();
                    let next = next.unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((n, task)) = next else { return };
                    if stop.load(Ordering::SeqCst) {
                        continue;
                    }
                    let _ = told.send((n, guarded(&mut worker, task)));
                }
            });
        }
        drop(told);
        let mut crew = Crew {
            hands: Hands::Others(Others {
                send,
                done,
                put: 0,
                taken: 0,
                most: threads as u64 * AHEAD,
                early: BTreeMap::new(),
            }),
            take,
            failed: false,
        };
        let fed = feed(&mut crew);
        let ended = crew.end(fed);
        stop.store(true, Ordering::SeqCst);
        // Whoever waits for work goes home.
        drop(crew);
        ended
    })
}

/// A worker that is gone takes no work, and with none left the feeder would wait for ever.
fn guarded<T, R>(worker: &mut impl FnMut(T) -> Result<R>, task: T) -> Result<R> {
    catch_unwind(AssertUnwindSafe(|| worker(task))).unwrap_or_else(|_| Err(bug()))
}

fn bug() -> Error {
    Error::unsupported("internal", "weighbridge itself failed; this is a bug")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn error(n: u64) -> Error {
        Error::parameter("test.failed", format!("number {n}"))
    }

    /// Runs numbers through `work`; gives what was taken, and how it ended.
    fn numbers(
        threads: usize,
        n: u64,
        work: impl Fn(u64) -> Result<u64> + Sync,
    ) -> (Vec<u64>, Result<()>) {
        let mut out = Vec::new();
        let mut take = |r| {
            out.push(r);
            Ok(())
        };
        let ended = run(
            threads,
            || &work,
            &mut take,
            |crew| (0..n).try_for_each(|i| crew.put(i)),
        );
        (out, ended)
    }

    #[test]
    fn results_come_in_order_whoever_is_first() {
        for threads in [1, 2, 7] {
            let slow = |i: u64| {
                if i.is_multiple_of(5) {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Ok(i * i)
            };
            let (out, ended) = numbers(threads, 100, slow);
            ended.unwrap();
            assert_eq!(out, (0..100).map(|i| i * i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_failure_in_order_is_told() {
        for threads in [1, 3] {
            // The later one fails at once, the earlier one after a while.
            let work = |i: u64| match i {
                4 => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    Err(error(4))
                }
                5.. => Err(error(i)),
                _ => Ok(i),
            };
            let (out, ended) = numbers(threads, 50, work);
            assert_eq!(ended.unwrap_err().message(), "number 4");
            assert_eq!(out, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn what_was_handed_out_comes_before_what_could_not_be() {
        for threads in [1, 3] {
            for (bad, want) in [(u64::MAX, "number 9"), (2, "number 2")] {
                let work = |i: u64| if i == bad { Err(error(i)) } else { Ok(i) };
                let ended = run(
                    threads,
                    || &work,
                    &mut |_| Ok(()),
                    |crew| {
                        (0..4).try_for_each(|i| crew.put(i))?;
                        Err(error(9))
                    },
                );
                assert_eq!(ended.unwrap_err().message(), want, "{threads}");
            }
        }
    }

    #[test]
    fn a_result_that_cannot_be_taken_ends_it() {
        for threads in [1, 3] {
            let mut take = |r: u64| if r == 7 { Err(error(r)) } else { Ok(()) };
            let begun = AtomicU64::new(0);
            let work = |i: u64| {
                begun.fetch_add(1, Ordering::SeqCst);
                Ok(i)
            };
            let ended = run(
                threads,
                || &work,
                &mut take,
                |crew| {
                    let fed = (0..100_000).try_for_each(|i| crew.put(i));
                    assert!(crew.failed());
                    fed
                },
            );
            assert_eq!(ended.unwrap_err().message(), "number 7");
            assert!(begun.load(Ordering::SeqCst) < 100, "and soon");
        }
    }

    #[test]
    fn a_worker_that_panics_is_an_error() {
        for threads in [1, 3] {
            let work = |i: u64| if i == 3 { panic!("on purpose") } else { Ok(i) };
            let (out, ended) = numbers(threads, 50, work);
            assert_eq!((out.len(), ended.unwrap_err().rule()), (3, "internal"));
        }
    }
}
