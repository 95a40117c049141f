//! `cargo xtask bench scan`: scanners side by side on the corpus, file by file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::report::{self, Target, time};
use super::scan_large;
use crate::measure::{Outcome, attempt, median};
use crate::{Result, peers, repo};

/// A tool that takes longer for one file is ended.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// With `--quick`, peers get one file in so many.
const QUICK: usize = 20;

/// A scanner.
pub(super) struct Tool {
    pub(super) name: &'static str,
    /// Program and arguments; the file comes last.
    pub(super) command: Vec<String>,
    /// It gets one file in so many.
    every: usize,
    tries: Vec<Try>,
}

/// One file of the corpus, and what it should be called.
struct Sample {
    path: PathBuf,
    name: String,
    verdict: String,
}

/// What a tool made of a sample.
struct Try {
    sample: usize,
    answer: Answer,
    outcome: Outcome,
}

/// What a tool said, whatever its words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Something is wrong with the file.
    Flagged,
    /// Nothing is.
    Cleared,
    /// It cannot say: an error, nothing it supports, too slow.
    Open,
}

/// Measures and writes the section "Scanner" of `docs/benchmarks.md`; `quick` is a trial on few
/// files that writes nothing. Peers get one file in `peers_every`.
///
/// # Errors
/// When something cannot be built, made or run.
pub(crate) fn run(quick: bool, peers_every: Option<usize>) -> Result<()> {
    let corpus = repo::corpus().ok_or("WEIGHBRIDGE_CORPUS is not set")?;
    let python = peers::scanners()?;
    let ours = repo::build_tool(true)?;
    let dir = repo::target().join("bench-scan");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    // The peers keep settings and results of earlier scans in the home directory, and one asks
    // a server whenever it starts: without these its time would be the network's.
    let every = peers_every.unwrap_or(if quick { QUICK } else { 1 });
    let mut tools = tools(&ours, &python, &dir, every);
    let samples = samples(&corpus.join("scan"))?;
    side_by_side(&mut tools, &samples, &dir)?;

    let mut text = preamble(&python, samples.len(), every)?;
    text += "\n### Every file of the corpus\n\n";
    text += &table(&tools, &samples);
    let mut targets = targets(&tools, &samples);
    text += &scan_large::measure(&ours, &tools, &dir, quick, &mut targets)?;
    let _ = write!(text, "\n### Targets\n\n{}", report::targets(&targets));
    println!("{text}");
    wrong(&tools, &samples);
    if quick {
        println!("a quick look at few files: nothing is written down");
        return Ok(());
    }
    report::write_between("docs/benchmarks.md", "scan", &text)?;
    println!("written to docs/benchmarks.md");
    Ok(())
}

/// The scanners; each peer gets one file in `every`.
fn tools(ours: &Path, python: &Path, dir: &Path, every: usize) -> Vec<Tool> {
    let bin = python.parent().unwrap_or(python);
    let home = format!("HOME={}", dir.display());
    let peer = |name, program: &str, arguments: &[&str]| {
        let program = bin.join(program).display().to_string();
        let set = [
            "env",
            &home,
            "NO_ANALYTICS=1",
            "PROMPTFOO_DISABLE_TELEMETRY=1",
        ];
        let words = set.into_iter().chain([program.as_str()]);
        Tool {
            name,
            command: words
                .chain(arguments.iter().copied())
                .map(str::to_owned)
                .collect(),
            every,
            tries: Vec::new(),
        }
    };
    vec![
        Tool {
            name: "weighbridge",
            command: vec![ours.display().to_string(), "scan".into(), "--quiet".into()],
            every: 1,
            tries: Vec::new(),
        },
        peer("picklescan", "picklescan", &["-p"]),
        peer("picklescan --strict", "picklescan", &["--strict", "-p"]),
        peer("fickling", "fickling", &["--check-safety"]),
        peer("modelscan", "modelscan", &["-p"]),
        peer(
            "modelaudit",
            "modelaudit",
            &["scan", "--format", "json", "--no-cache"],
        ),
    ]
}

/// The rows of the corpus that are judged: companions of other files are not.
fn samples(dir: &Path) -> Result<Vec<Sample>> {
    let index = dir.join("index.tsv");
    let text = std::fs::read_to_string(&index)
        .map_err(|e| format!("cannot read {}: {e}", index.display()))?;
    let mut out = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [path, verdict, technique, ..] = fields[..] else {
            continue;
        };
        if technique != "companion file" {
            out.push(Sample {
                path: dir.join(path),
                name: path.to_owned(),
                verdict: verdict.to_owned(),
            });
        }
    }
    Ok(out)
}

fn side_by_side(tools: &mut [Tool], samples: &[Sample], dir: &Path) -> Result<()> {
    let n = tools.len();
    for (i, s) in samples.iter().enumerate() {
        eprint!("\r  {}/{} {:60.60}", i + 1, samples.len(), s.name);
        for turn in 0..n {
            let tool = &mut tools[(i + turn) % n];
            if i % tool.every != 0 {
                continue;
            }
            let outcome = try_on(tool, &s.path, dir)?;
            let answer = answer(&outcome);
            tool.tries.push(Try {
                sample: i,
                answer,
                outcome,
            });
        }
    }
    eprintln!();
    Ok(())
}

pub(super) fn try_on(tool: &Tool, path: &Path, dir: &Path) -> Result<Outcome> {
    let path = path.display().to_string();
    let mut words: Vec<&str> = tool.command.iter().map(String::as_str).collect();
    words.push(&path);
    attempt(&words, dir, LIMIT)
}

/// What an outcome means. All tools exit with 1 for a finding and with 0 for none; Python exits
/// with 1 for its own failures too, and one tool reports findings beside an error.
pub(super) fn answer(o: &Outcome) -> Answer {
    let says = |words: &[&str]| words.iter().any(|w| o.cost.output.contains(w));
    let failed = says(&["Traceback (most recent call last)", "failed to parse"]);
    match o.code {
        Some(0) => Answer::Cleared,
        Some(1) if !failed => Answer::Flagged,
        Some(2) if says(&["\"severity\": \"warning\"", "\"severity\": \"critical\""]) => {
            Answer::Flagged
        }
        _ => Answer::Open,
    }
}

impl Tool {
    /// Its answers to the samples with a verdict.
    fn on<'a>(&'a self, samples: &'a [Sample], verdict: &'a str) -> impl Iterator<Item = &'a Try> {
        let of = move |t: &&Try| samples.get(t.sample).is_some_and(|s| s.verdict == verdict);
        self.tries.iter().filter(of)
    }

    /// How many of its answers to samples with a verdict are like this, in percent.
    fn share(&self, samples: &[Sample], verdict: &str, like: impl Fn(Answer) -> bool) -> f64 {
        let all = self.on(samples, verdict).count();
        let some = self.on(samples, verdict).filter(|t| like(t.answer)).count();
        some as f64 * 100.0 / all as f64
    }

    pub(super) fn seconds(&self) -> f64 {
        median(
            &self
                .tries
                .iter()
                .map(|t| t.outcome.cost.seconds)
                .collect::<Vec<_>>(),
        )
    }

    fn worst(&self) -> Option<&Try> {
        let time = |t: &&Try| t.outcome.cost.seconds;
        self.tries.iter().max_by(|a, b| time(a).total_cmp(&time(b)))
    }

    fn resident(&self) -> f64 {
        let most = self.tries.iter().map(|t| t.outcome.cost.resident).max();
        most.unwrap_or(0) as f64 / 1_048_576.0
    }
}

fn table(tools: &[Tool], samples: &[Sample]) -> String {
    let mut text = String::from(
        "| scanner | files | malicious flagged | suspicious flagged | malformed not cleared | \
         clean flagged | clean not judged | median a file | ratio | all files | worst file | \
         peak resident |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let ours = tools.first().map_or(f64::NAN, Tool::seconds);
    for t in tools {
        let flagged = |v| t.share(samples, v, |a| a == Answer::Flagged);
        let total: f64 = t.tries.iter().map(|t| t.outcome.cost.seconds).sum();
        let late = t.tries.iter().filter(|t| t.outcome.code.is_none()).count();
        let worst = t.worst().map_or(f64::NAN, |t| t.outcome.cost.seconds);
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} % | {:.0} % | {:.0} % | {:.0} % | {:.0} % | {} | {:.0} × | {} | {}{} | \
             {:.1} MiB |",
            t.name,
            t.tries.len(),
            flagged("malicious"),
            flagged("suspicious"),
            t.share(samples, "malformed", |a| a != Answer::Cleared),
            flagged("clean"),
            t.share(samples, "clean", |a| a == Answer::Open),
            time(t.seconds()),
            t.seconds() / ours,
            time(total),
            time(worst),
            match late {
                0 => String::new(),
                n => format!(" ({n} ended)"),
            },
            t.resident(),
        );
    }
    text
}

fn targets(tools: &[Tool], samples: &[Sample]) -> Vec<Target> {
    let Some((ours, peers)) = tools.split_first() else {
        return Vec::new();
    };
    let missed = |v| 100.0 - ours.share(samples, v, |a| a == Answer::Flagged);
    let percent = |what, wanted, reached| Target {
        what,
        wanted,
        reached,
        unit: "%",
    };
    let mut all = vec![
        percent("malicious files not flagged", 1.0, missed("malicious")),
        percent("suspicious files not flagged", 5.0, missed("suspicious")),
        percent(
            "malformed files cleared",
            0.0,
            ours.share(samples, "malformed", |a| a == Answer::Cleared),
        ),
        percent(
            "clean files not cleared",
            1.0,
            ours.share(samples, "clean", |a| a != Answer::Cleared),
        ),
        Target {
            what: "the slowest file",
            wanted: 2.0,
            reached: ours.worst().map_or(f64::NAN, |t| t.outcome.cost.seconds),
            unit: "s",
        },
    ];
    for (name, what, wanted) in [
        ("modelaudit", "our time a file, against modelaudit", 0.01),
        ("picklescan", "our time a file, against picklescan", 0.05),
    ] {
        if let Some(peer) = peers.iter().find(|t| t.name == name) {
            all.push(Target {
                what,
                wanted,
                reached: ours.seconds() / peer.seconds(),
                unit: "×",
            });
        }
    }
    all
}

/// Names what we got wrong: the table has only counts.
fn wrong(tools: &[Tool], samples: &[Sample]) {
    for t in tools.iter().take(1).flat_map(|t| &t.tries) {
        let Some(s) = samples.get(t.sample) else {
            continue;
        };
        let right = match s.verdict.as_str() {
            "clean" => t.answer == Answer::Cleared,
            "malformed" => t.answer != Answer::Cleared,
            _ => t.answer == Answer::Flagged,
        };
        if !right {
            println!("wrong: {} is {}, {:?}", s.name, s.verdict, t.answer);
        }
    }
}

fn preamble(python: &Path, samples: usize, every: usize) -> Result<String> {
    let versions = repo::output(Command::new(python).args([
        "-c",
        "import sys; from importlib.metadata import version as v; print(f'Python \
         {sys.version.split()[0]}, ' + ', '.join(f'{p} {v(p)}' for p in ['picklescan', \
         'fickling', 'modelscan', 'modelaudit', 'scikit-learn', 'h5py', 'numpy']))",
    ]))?;
    let sampled = match every {
        1 => String::new(),
        n => format!(" (the peers one in {n})"),
    };
    Ok(format!(
        "Measured {} by `cargo xtask bench scan` at commit {}.\n\
         Machine: {}.\n\
         Versions: {}; {}.\n\
         Corpus: {samples} files with expected verdicts. Each scanner gets each file{sampled} by \
         itself, in turns, warm page cache, at most {} s and 8 GiB. Times are of whole processes. Flagged: \
         exit code 1, or a warning beside an error; cleared: exit code 0; not judged: anything \
         else, a crash too. Peers run without torch and tensorflow and with their telemetry off, \
         all of which makes them faster.\n",
        repo::today(),
        repo::commit()?,
        repo::machine(),
        repo::rustc()?,
        versions.trim(),
        LIMIT.as_secs(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Cost;

    fn said(code: Option<i32>, output: &str) -> Answer {
        answer(&Outcome {
            cost: Cost {
                output: output.into(),
                ..Cost::default()
            },
            code,
        })
    }

    #[test]
    fn a_crash_is_no_finding() {
        assert_eq!(said(Some(0), ""), Answer::Cleared);
        assert_eq!(said(Some(1), "infected"), Answer::Flagged);
        let crash = "Traceback (most recent call last):\n  File";
        assert_eq!(said(Some(1), crash), Answer::Open);
        assert_eq!(said(Some(2), "{\"severity\": \"info\"}"), Answer::Open);
        let both = "{\"severity\": \"critical\"}";
        assert_eq!(said(Some(2), both), Answer::Flagged);
        assert_eq!(said(Some(3), ""), Answer::Open);
        assert_eq!(said(None, ""), Answer::Open);
    }

    #[test]
    fn shares_are_of_the_samples_with_the_verdict() {
        let sample = |verdict: &str| Sample {
            path: PathBuf::new(),
            name: String::new(),
            verdict: verdict.into(),
        };
        let samples = [sample("malicious"), sample("malicious"), sample("clean")];
        let tries = [Answer::Flagged, Answer::Open, Answer::Cleared];
        let tool = Tool {
            name: "weighbridge",
            command: Vec::new(),
            every: 1,
            tries: tries
                .into_iter()
                .enumerate()
                .map(|(sample, answer)| Try {
                    sample,
                    answer,
                    outcome: Outcome::default(),
                })
                .collect(),
        };
        assert_eq!(
            tool.share(&samples, "malicious", |a| a == Answer::Flagged),
            50.0
        );
        let t = targets(&[tool], &samples);
        assert_eq!((t[0].reached, t[3].reached), (50.0, 0.0));
    }
}
