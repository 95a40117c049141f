//! Contenders measured in turns, and the table of what came out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::measure::{Cost, measure, median};
use crate::{Result, repo};

/// One command in a comparison.
pub(crate) struct Contender {
    /// As the table names it.
    pub(crate) name: &'static str,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// The output it makes, removed before each run.
    pub(crate) makes: Option<PathBuf>,
    /// The contender whose time is 1 in this row's ratio.
    pub(crate) against: &'static str,
    /// What its runs cost.
    pub(crate) costs: Vec<Cost>,
}

impl Contender {
    /// A contender without runs yet.
    pub(crate) fn new(name: &'static str, against: &'static str, command: &[&str]) -> Self {
        Self {
            name,
            command: command.iter().map(|&s| s.to_owned()).collect(),
            makes: None,
            against,
            costs: Vec::new(),
        }
    }

    /// The same, making `output`.
    pub(crate) fn making(mut self, output: &Path) -> Self {
        self.makes = Some(output.to_owned());
        self
    }

    /// Median seconds of its runs.
    pub(crate) fn seconds(&self) -> f64 {
        median(&self.costs.iter().map(|c| c.seconds).collect::<Vec<_>>())
    }

    /// Median seconds that the command itself printed as `work SECONDS` (without its start-up).
    pub(crate) fn own_seconds(&self) -> Option<f64> {
        let all: Vec<f64> = self
            .costs
            .iter()
            .filter_map(|c| {
                c.output
                    .lines()
                    .find_map(|l| l.strip_prefix("work ")?.trim().parse().ok())
            })
            .collect();
        (!all.is_empty()).then(|| median(&all))
    }

    /// Largest peak resident memory of its runs, in MiB.
    pub(crate) fn resident(&self) -> f64 {
        mib(self.costs.iter().map(|c| c.resident).max())
    }

    /// Largest peak private memory of its runs, in MiB.
    pub(crate) fn private(&self) -> f64 {
        mib(self.costs.iter().map(|c| c.private).max())
    }
}

fn mib(bytes: Option<u64>) -> f64 {
    bytes.unwrap_or(0) as f64 / 1_048_576.0
}

/// Runs every contender `rounds` times, in turns; each round starts with another one, so that
/// none always runs in the wake of the same neighbour.
///
/// # Errors
/// When a contender fails.
pub(crate) fn alternate(contenders: &mut [Contender], rounds: usize) -> Result<()> {
    let n = contenders.len();
    for round in 0..rounds {
        for turn in 0..n {
            let c = &mut contenders[(round + turn) % n];
            clear(c);
            let words: Vec<&str> = c.command.iter().map(String::as_str).collect();
            let cost = measure(&words)?;
            eprintln!("  round {} {}: {:.3} s", round + 1, c.name, cost.seconds);
            c.costs.push(cost);
            clear(c);
        }
    }
    Ok(())
}

fn clear(c: &Contender) {
    if let Some(path) = &c.makes {
        let _ = std::fs::remove_file(path);
    }
}

/// The contender called `name`.
///
/// # Errors
/// When there is none.
pub(crate) fn find<'a>(contenders: &'a [Contender], name: &str) -> Result<&'a Contender> {
    contenders
        .iter()
        .find(|c| c.name == name)
        .ok_or_else(|| format!("no contender is called {name}"))
}

/// A markdown table of `contenders`.
pub(crate) fn table(contenders: &[Contender]) -> String {
    let mut text = String::from(
        "| command | runs | median | fastest | own work | ratio | peak resident | peak private |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for c in contenders {
        let base = contenders.iter().find(|b| b.name == c.against);
        let ratio = base.map_or(f64::NAN, |b| c.seconds() / b.seconds());
        let fastest = c.costs.iter().map(|x| x.seconds).fold(f64::NAN, f64::min);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {ratio:.2} × {} | {:.1} MiB | {:.1} MiB |",
            c.name,
            c.costs.len(),
            time(c.seconds()),
            time(fastest),
            match (c.own_seconds(), base) {
                (Some(own), Some(b)) => format!("{} ({:.2} ×)", time(own), own / b.seconds()),
                _ => "-".into(),
            },
            c.against,
            c.resident(),
            c.private(),
        );
    }
    text
}

/// Seconds, as people read them.
pub(crate) fn time(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{:.1} ms", seconds * 1e3)
    }
}

/// One target of the project and what was reached.
pub(crate) struct Target {
    pub(crate) what: &'static str,
    pub(crate) wanted: f64,
    pub(crate) reached: f64,
    pub(crate) unit: &'static str,
}

/// The table of targets.
pub(crate) fn targets(rows: &[Target]) -> String {
    let mut text = String::from("| target | wanted | reached | met |\n|---|--:|--:|---|\n");
    for t in rows {
        // A wanted hundredth needs more digits to show what was reached.
        let digits = if t.wanted > 0.0 && t.wanted < 0.1 {
            4
        } else {
            2
        };
        let _ = writeln!(
            text,
            "| {} | ≤ {} {} | {:.digits$} {} | {} |",
            t.what,
            t.wanted,
            t.unit,
            t.reached,
            t.unit,
            if t.reached <= t.wanted {
                "yes"
            } else {
                "**no**"
            },
        );
    }
    text
}

/// Ends the text of a benchmark with its targets, prints it, and writes it into the section `name`
/// of `docs/benchmarks.md` unless this was a quick look.
///
/// # Errors
/// When the page has no such section or cannot be written.
pub(crate) fn conclude(name: &str, mut text: String, rows: &[Target], quick: bool) -> Result<()> {
    let _ = write!(text, "\n### Targets\n\n{}", targets(rows));
    println!("{text}");
    if quick {
        println!("a quick look at small files: nothing is written down");
        return Ok(());
    }
    write_between("docs/benchmarks.md", name, &text)?;
    println!("written to docs/benchmarks.md");
    Ok(())
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Puts `body` between the markers of `name` in `file`: what people wrote around them stays.
///
/// # Errors
/// When the file has no such markers or cannot be written.
pub(crate) fn write_between(file: &str, name: &str, body: &str) -> Result<()> {
    let path = repo::root().join(file);
    let old = std::fs::read_to_string(&path)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let new = between(&old, name, body).ok_or_else(|| {
        format!("{file} lacks the lines <!-- {name}: begin --> and <!-- {name}: end -->")
    })?;
    std::fs::write(&path, new).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn between(old: &str, name: &str, body: &str) -> Option<String> {
    let (head, rest) = old.split_once(&format!("<!-- {name}: begin -->"))?;
    let end = format!("<!-- {name}: end -->");
    let (_, tail) = rest.split_once(&end)?;
    Some(format!(
        "{head}<!-- {name}: begin -->\n{}\n{end}{tail}",
        body.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        assert_eq!(
            between(old, "x", "new\n").as_deref(),
            Some("a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n")
        );
        assert_eq!(between(old, "y", "new"), None);
    }

    #[test]
    fn a_ratio_is_taken_against_the_named_contender() {
        let mut a = Contender::new("ours", "cp", &["x"]);
        a.costs = vec![Cost {
            seconds: 3.0,
            ..Cost::default()
        }];
        let mut b = Contender::new("cp", "cp", &["x"]);
        b.costs = vec![Cost {
            seconds: 2.0,
            output: "work 0.5\n".into(),
            ..Cost::default()
        }];
        let text = table(&[a, b]);
        assert!(
            text.contains("| ours | 1 | 3.00 s | 3.00 s | - | 1.50 × cp |"),
            "{text}"
        );
        assert!(
            text.contains("| cp | 1 | 2.00 s | 2.00 s | 500.0 ms (0.25 ×) | 1.00 × cp |"),
            "{text}"
        );
    }
}
