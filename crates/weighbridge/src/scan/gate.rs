//! Bounds what files that are looked into at the same time take in memory together.
//!
//! Each file alone keeps to the limits of a file. Bombs that come to that limit at once on every
//! core would multiply it by the number of cores, so a file that wants more than a little has to
//! wait until it is the only one that does.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What the files at hand may take together without waiting, in bytes.
const LITTLE_IN_ALL: u64 = 24 << 20;

/// Least and most of it for one of them.
const LITTLE_LEAST: u64 = 512 << 10;
const LITTLE_MOST: u64 = 8 << 20;

/// Lets one file at a time take much memory.
#[derive(Debug)]
pub(super) struct Gate {
    taken: Mutex<bool>,
    free: Condvar,
    /// What a file may take without waiting.
    little: u64,
}

impl Gate {
    /// A gate for `threads` files at a time.
    pub(super) fn new(threads: usize) -> Arc<Self> {
        let share = LITTLE_IN_ALL / (threads.max(1) as u64);
        Arc::new(Self {
            taken: Mutex::new(false),
            free: Condvar::new(),
            little: share.clamp(LITTLE_LEAST, LITTLE_MOST),
        })
    }

    /// Counts what the calling thread spends from here on, until the result is dropped, as one
    /// file's.
    pub(super) fn file(self: &Arc<Self>) -> Visit {
        let visitor = Visitor {
            gate: Arc::clone(self),
            spent: 0,
            through: false,
        };
        CURRENT.with(|c| *c.borrow_mut() = Some(visitor));
        Visit(())
    }
}

/// A file's stay at the gate; it gives back what it took when it is dropped.
#[derive(Debug)]
pub(super) struct Visit(());

impl Drop for Visit {
    fn drop(&mut self) {
        CURRENT.with(|c| *c.borrow_mut() = None);
    }
}

#[derive(Debug)]
struct Visitor {
    gate: Arc<Gate>,
    spent: u64,
    /// Whether this file is the one that may take much.
    through: bool,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        if self.through {
            *self
                .gate
                .taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = false;
            self.gate.free.notify_one();
        }
    }
}

thread_local! {
    /// The file this thread looks into: a file is never looked into by two threads.
    static CURRENT: RefCell<Option<Visitor>> = const { RefCell::new(None) };
}

/// Says that about `bytes` of the file at hand are about to be put in memory, and waits while
/// another file takes much. Without a gate it does nothing.
pub(super) fn spend(bytes: u64) {
    CURRENT.with(|c| {
        let mut current = c.borrow_mut();
        let Some(visitor) = current.as_mut() else {
            return;
        };
        visitor.spent = visitor.spent.saturating_add(bytes);
        if visitor.through || visitor.spent <= visitor.gate.little {
            return;
        }
        let gate = &visitor.gate;
        let mut taken = gate.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = gate
                .free
                .wait(taken)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        drop(taken);
        visitor.through = true;
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_file_at_a_time_takes_much_and_all_take_a_little() {
        let gate = Gate::new(8);
        assert_eq!(gate.little, 3 << 20);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..20 {
                        let visit = gate.file();
                        spend(2 << 20);
                        spend(2 << 20);
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        spend(100 << 20);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(visit);
                        // The next file starts from nothing.
                        let _visit = gate.file();
                        spend(1);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert!(!*gate.taken.lock().unwrap());
    }

    #[test]
    fn without_a_gate_nothing_waits() {
        spend(u64::MAX);
        spend(u64::MAX);
    }

    #[test]
    fn what_panics_gives_back_what_it_took() {
        let gate = Gate::new(1);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _visit = gate.file();
            spend(1 << 30);
            assert!(*gate.taken.lock().unwrap());
            panic!("on purpose");
        }));
        assert!(caught.is_err());
        let _visit = gate.file();
        spend(1 << 30);
    }
}
