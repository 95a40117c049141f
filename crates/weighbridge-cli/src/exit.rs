//! Exit codes, and what happens on Ctrl-C.

use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, clean, identical, conforming.
    Done,
    /// The answer is bad news.
    BadNews,
    /// The question could not be answered.
    Failed,
}

/// What a shell reports for a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

impl Exit {
    /// The worse of two answers of one run: bad news weighs more than a question that could not
    /// be answered, as `scan` has it.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::BadNews, _) | (_, Self::BadNews) => Self::BadNews,
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            _ => Self::Done,
        }
    }
}

impl Exit {
    /// The number that the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::BadNews => 1,
            Self::Failed => 2,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(e: Exit) -> Self {
        Self::from(e.code())
    }
}

/// Ends the process with 130 on Ctrl-C (and on a polite kill), after removing what was half
/// written.
pub(crate) fn on_interrupt() {
    // Without a handler the signal still ends the process; only temporary files would stay.
    let _ = ctrlc::set_handler(|| {
        weighbridge::output::remove_temporaries();
        std::process::exit(INTERRUPTED);
    });
}

/// Lets a write beyond the limit on a file's size (`ulimit -f`) be an error of the write, which is
/// told and cleaned up after, and not the signal that ends the process. For every thread there
/// will be.
pub(crate) fn no_signal_of_file_sizes() {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::signal::{SigSet, Signal};
        // To ignore a signal takes unsafe code; blocked, it waits until the process ends.
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGXFSZ);
        let _ = signals.thread_block();
    }
}

/// The same for a process that is about to enter its sandbox: the thread that waits for the
/// signals is there before, and may open nothing at all.
#[cfg(target_os = "linux")]
pub(crate) fn watch_for_interrupts() {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    for s in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(s);
    }
    // Blocked in every thread there will be, they wait for the one that asks for them.
    if signals.thread_block().is_err() {
        return;
    }
    let (ready, begun) = std::sync::mpsc::channel();
    let wait = move || {
        weighbridge_sandbox::Sandbox::close_files_of_this_thread();
        let _ = ready.send(());
        while signals.wait().is_err() {}
        std::process::exit(INTERRUPTED);
    };
    let watcher = std::thread::Builder::new().name("signals".into());
    if watcher.spawn(wait).is_ok() {
        // The process's own sandbox would keep the thread from giving up its rights.
        let _ = begun.recv();
    } else {
        // Nobody would ever take them.
        let _ = signals.thread_unblock();
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn watch_for_interrupts() {
    on_interrupt();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_news_weighs_more_than_failure() {
        use Exit::{BadNews, Done, Failed};
        for (a, b, both) in [
            (Done, Done, Done),
            (Done, Failed, Failed),
            (Failed, BadNews, BadNews),
            (BadNews, Failed, BadNews),
            (BadNews, Done, BadNews),
        ] {
            assert_eq!(a.and(b), both);
        }
    }
}
