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
