//! Progress of long work, on standard error when that is a terminal.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;
use crate::text::safe;

/// Work that ends sooner shows nothing.
const PATIENCE: Duration = Duration::from_millis(400);

/// How many times a second the line is drawn.
const RATE: u8 = 10;

/// A progress line over a number of bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    due: Due,
}

impl Progress {
    /// A line labelled `label` over `total` bytes. It stays hidden with `--quiet`, and when
    /// standard error is no terminal.
    pub(crate) fn new(output: &Output, label: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_prefix(label);
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        let visible = !output.quiet && std::io::stderr().is_terminal();
        Self {
            bar,
            due: Due::new(visible),
        }
    }

    /// Tells that `bytes` more are done.
    pub(crate) fn add(&self, bytes: u64) {
        self.due.show(&self.bar);
        self.bar.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line that names the file at hand.
#[derive(Debug)]
pub(crate) struct Files {
    bar: ProgressBar,
    due: Due,
}

impl Files {
    /// A line labelled `label`, hidden as [`Progress`] is.
    pub(crate) fn new(output: &Output, label: &'static str) -> Self {
        Self::of(output, label, None)
    }

    /// The same over `total` files.
    pub(crate) fn of(output: &Output, label: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        bar.set_prefix(label);
        let template = match total {
            Some(_) => "{prefix} {pos}/{len} {wide_msg}",
            None => "{prefix} {pos} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let visible = !output.quiet && std::io::stderr().is_terminal();
        Self {
            bar,
            due: Due::new(visible),
        }
    }

    /// Tells that `path` is next.
    pub(crate) fn next(&self, path: &Path) {
        self.due.show(&self.bar);
        self.bar.inc(1);
        self.bar
            .set_message(safe(&path.to_string_lossy()).into_owned());
    }

    /// Prints something while the line is out of the way.
    pub(crate) fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line for work whose size is not known, with the time it has taken.
#[derive(Debug)]
pub(crate) struct Waiting {
    bar: ProgressBar,
    /// Dropped to tell the thread that shows the line that it is no longer wanted.
    over: Option<Sender<()>>,
    shower: Option<JoinHandle<()>>,
}

impl Waiting {
    /// A line that says `what`, hidden as [`Progress`] is.
    pub(crate) fn new(output: &Output, what: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(safe(&what).into_owned());
        let mut new = Self {
            bar,
            over: None,
            shower: None,
        };
        if !output.quiet && std::io::stderr().is_terminal() {
            let (over, rest) = channel();
            let bar = new.bar.clone();
            new.over = Some(over);
            new.shower = Some(std::thread::spawn(move || {
                if rest.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
            }));
        }
        new
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(t) = self.shower.take() {
            let _ = t.join();
        }
        self.bar.finish_and_clear();
    }
}

/// When a line begins to be drawn.
#[derive(Debug)]
struct Due {
    at: Instant,
    /// Whether it is drawn by now, or never will be.
    settled: AtomicBool,
}

impl Due {
    fn new(visible: bool) -> Self {
        Self {
            at: Instant::now() + PATIENCE,
            settled: AtomicBool::new(!visible),
        }
    }

    fn show(&self, bar: &ProgressBar) {
        if !self.settled.load(Ordering::Relaxed)
            && Instant::now() >= self.at
            && !self.settled.swap(true, Ordering::Relaxed)
        {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        }
    }
}
