//! Reads what `cargo test` prints, passes on what matters and adds the counts up.

use std::time::Duration;

/// The counts of all test binaries together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) suites: u64,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    pub(crate) measured: u64,
    pub(crate) filtered: u64,
    /// What tests said they could not do here, each once.
    pub(crate) skipped: Vec<String>,
    /// Inside the outputs of tests that passed: shown only for what was skipped.
    quiet: bool,
}

impl Tally {
    /// Takes one line in and says whether it is worth showing.
    ///
    /// Tests run with `--show-output`, since a skip is said on a passing test's output, which
    /// libtest otherwise swallows.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.quiet = true;
            return false;
        }
        if line == "failures:" {
            self.quiet = false;
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.quiet = false;
            self.add(rest);
        }
        if line.starts_with("skipped") && !self.skipped.iter().any(|s| s == line) {
            self.skipped.push(line.to_owned());
            return true;
        }
        !self.quiet
    }

    fn add(&mut self, rest: &str) {
        self.suites += 1;
        // "ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        let counts = rest.split_once(". ").map_or(rest, |(_, c)| c);
        for part in counts.split("; ") {
            let Some((n, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(n) = n.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                "ignored" => self.ignored += n,
                "measured" => self.measured += n,
                "filtered out" => self.filtered += n,
                _ => {}
            }
        }
    }

    /// The closing line, in the form of each suite's own.
    pub(crate) fn closing(&self, ok: bool, took: Duration) -> String {
        format!(
            "test result: {}. {} passed; {} failed; {} ignored; {} measured; {} filtered out; \
             {} suites, {} skips said; finished in {:.2}s",
            if ok { "ok" } else { "FAILED" },
            self.passed,
            self.failed,
            self.ignored,
            self.measured,
            self.filtered,
            self.suites,
            self.skipped.len(),
            took.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
a line nobody needs
skipped: WEIGHBRIDGE_CORPUS is not set

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s

running 1 test
test c ... FAILED

failures:

---- c stdout ----
what went wrong

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn suites_add_up_and_noise_is_dropped() {
        let mut t = Tally::default();
        let shown: Vec<&str> = TEXT.lines().filter(|l| t.line(l)).collect();
        assert_eq!(
            (t.suites, t.passed, t.failed, t.ignored, t.filtered),
            (2, 2, 1, 1, 4)
        );
        assert_eq!(t.skipped, ["skipped: WEIGHBRIDGE_CORPUS is not set"]);
        assert!(!shown.contains(&"a line nobody needs"));
        assert!(shown.contains(&"what went wrong"));
        assert!(shown.contains(&"skipped: WEIGHBRIDGE_CORPUS is not set"));
        assert!(
            t.closing(false, Duration::from_secs(1))
                .starts_with("test result: FAILED. 2 passed; 1 failed; 1 ignored;")
        );
    }
}
