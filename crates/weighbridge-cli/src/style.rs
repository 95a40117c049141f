//! Colours: on terminals only, and as the environment asks.

use std::fmt;
use std::io::IsTerminal;

use crate::args::ColorWhen;

/// Whether one stream gets colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    on: bool,
}

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Head,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Style {
    pub(crate) fn stdout(when: ColorWhen) -> Self {
        Self {
            on: decide(when, std::io::stdout().is_terminal(), |k| {
                std::env::var(k).ok()
            }),
        }
    }

    pub(crate) fn stderr(when: ColorWhen) -> Self {
        Self {
            on: decide(when, std::io::stderr().is_terminal(), |k| {
                std::env::var(k).ok()
            }),
        }
    }

    /// `text` to be shown as `tone`.
    pub(crate) fn paint<T: fmt::Display>(self, tone: Tone, text: T) -> Painted<T> {
        let code = if self.on { code(tone) } else { "" };
        Painted { code, text }
    }
}

/// The rules of no-color.org and bixense.com/clicolors, in their order of precedence: the flag,
/// NO_COLOR, CLICOLOR_FORCE, CLICOLOR, a terminal that can.
fn decide(when: ColorWhen, terminal: bool, var: impl Fn(&str) -> Option<String>) -> bool {
    match when {
        ColorWhen::Always => return true,
        ColorWhen::Never => return false,
        ColorWhen::Auto => {}
    }
    let set = |k: &str| var(k).filter(|v| !v.is_empty());
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some_and(|v| v != "0") {
        return true;
    }
    if set("CLICOLOR").is_some_and(|v| v == "0") || set("TERM").is_some_and(|v| v == "dumb") {
        return false;
    }
    terminal
}

fn code(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Head => "\x1b[1m",
        Tone::Dim => "\x1b[2m",
        Tone::Good => "\x1b[32m",
        Tone::Warn => "\x1b[33m",
        Tone::Bad => "\x1b[1;31m",
    }
}

/// Text with its colour.
#[derive(Debug)]
pub(crate) struct Painted<T> {
    code: &'static str,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() {
            return self.text.fmt(f);
        }
        f.write_str(self.code)?;
        self.text.fmt(f)?;
        f.write_str("\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_honoured_in_its_order() {
        let with = |when, terminal, vars: &[(&str, &str)]| {
            decide(when, terminal, |k| {
                vars.iter()
                    .find(|(n, _)| *n == k)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        let auto = ColorWhen::Auto;
        assert!(with(auto, true, &[]));
        assert!(!with(auto, false, &[]));
        assert!(!with(auto, true, &[("NO_COLOR", "1")]));
        assert!(
            with(auto, true, &[("NO_COLOR", "")]),
            "an empty NO_COLOR does not count"
        );
        assert!(!with(auto, true, &[("CLICOLOR", "0")]));
        assert!(with(auto, false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!with(auto, false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!with(
            auto,
            true,
            &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]
        ));
        assert!(!with(auto, true, &[("TERM", "dumb")]));
        assert!(with(ColorWhen::Always, false, &[("NO_COLOR", "1")]));
        assert!(!with(ColorWhen::Never, true, &[("CLICOLOR_FORCE", "1")]));
    }

    #[test]
    fn paint_adds_nothing_when_off() {
        assert_eq!(Style { on: false }.paint(Tone::Bad, "x").to_string(), "x");
        assert_eq!(
            Style { on: true }.paint(Tone::Bad, "x").to_string(),
            "\x1b[1;31mx\x1b[0m"
        );
        assert_eq!(Style { on: true }.paint(Tone::Plain, "x").to_string(), "x");
    }
}
