//! Progress of long work, on standard error when that is a terminal.

use std::io::IsTerminal;
use std::path::Path;
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
    /// When to start drawing; `None` when drawing or when nothing is ever drawn.
    hidden_until: Option<Instant>,
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
            hidden_until: visible.then(|| Instant::now() + PATIENCE),
        }
    }

    /// Tells that `bytes` more are done.
    pub(crate) fn add(&mut self, bytes: u64) {
        if self.hidden_until.is_some_and(|t| Instant::now() >= t) {
            self.hidden_until = None;
            self.bar
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        }
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
    hidden_until: Option<Instant>,
}

impl Files {
    /// A line labelled `label`, hidden as [`Progress`] is.
    pub(crate) fn new(output: &Output, label: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_prefix(label);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {pos} {wide_msg}") {
            bar.set_style(style);
        }
        let visible = !output.quiet && std::io::stderr().is_terminal();
        Self {
            bar,
            hidden_until: visible.then(|| Instant::now() + PATIENCE),
        }
    }

    /// Tells that `path` is next.
    pub(crate) fn next(&mut self, path: &Path) {
        show_when_due(&self.bar, &mut self.hidden_until);
        self.bar.inc(1);
        self.bar
            .set_message(safe(&path.to_string_lossy()).into_owned());
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn show_when_due(bar: &ProgressBar, hidden_until: &mut Option<Instant>) {
    if hidden_until.is_some_and(|t| Instant::now() >= t) {
        *hidden_until = None;
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
    }
}
