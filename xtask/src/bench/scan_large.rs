//! The scanner on what is large and on what pretends to be.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{Target, time};
use super::scan::{Answer, Tool, answer, try_on};
use crate::measure::median;
use crate::{Result, repo};

/// How often a large file is scanned.
const ROUNDS: usize = 9;

/// Files that expand, nest and repeat without end, as `peers/make_bombs.py` makes them.
const BOMBS: [&str; 9] = [
    "deflate.pt",
    "stream.pkl.gz",
    "stream.pkl.bz2",
    "stream.pkl.xz",
    "idle.pkl.gz",
    "nested.zip",
    "laughs.pkl",
    "opcodes.pkl",
    "members.zip",
];

/// Scans large files and bombs; gives two tables.
///
/// # Errors
/// When the files cannot be made or a scan cannot be run.
pub(super) fn measure(
    ours: &Path,
    tools: &[Tool],
    dir: &Path,
    quick: bool,
    targets: &mut Vec<Target>,
) -> Result<String> {
    let mut text = large(ours, dir, quick, targets)?;
    text += &bombs(tools, dir, quick, targets)?;
    Ok(text)
}

fn large(ours: &Path, dir: &Path, quick: bool, targets: &mut Vec<Target>) -> Result<String> {
    let gigabytes = if quick { "1" } else { "10" };
    let mut text = format!(
        "\n### Files of {gigabytes} GB\n\n\
         Sparse files: the weights are holes that read as zeros, so that they fit on any disk. A \
         scan accounts for weights without reading them.\n\n\
         | file | runs | median | slowest | peak resident | exit code |\n|---|--:|--:|--:|--:|--:|\n"
    );
    for (name, what) in [
        ("large.pt", "scan of a 10 GB checkpoint, whole process"),
        (
            "large.safetensors",
            "scan of a 10 GB safetensors file, whole process",
        ),
    ] {
        let path = dir.join(format!("{gigabytes}-{name}"));
        if !path.is_file() {
            make("make_sparse.py", &[&path.display().to_string(), gigabytes])?;
        }
        let tool = ours.display().to_string();
        let file = path.display().to_string();
        let (mut seconds, mut resident, mut codes) = (Vec::new(), 0, Vec::new());
        for _ in 0..ROUNDS {
            let words = [tool.as_str(), "scan", "--quiet", &file];
            let o = crate::measure::attempt(&words, dir, super::scan::LIMIT)?;
            seconds.push(o.cost.seconds);
            resident = o.cost.resident.max(resident);
            codes.push(o.code);
        }
        codes.dedup();
        let codes: Vec<String> = codes
            .iter()
            .map(|c| c.map_or("none".into(), |c| c.to_string()))
            .collect();
        let _ = writeln!(
            text,
            "| {name} | {ROUNDS} | {} | {} | {:.1} MiB | {} |",
            time(median(&seconds)),
            time(seconds.iter().copied().fold(f64::NAN, f64::max)),
            resident as f64 / 1_048_576.0,
            codes.join(", "),
        );
        targets.push(Target {
            what,
            wanted: 50.0,
            reached: median(&seconds) * 1e3,
            unit: "ms",
        });
    }
    Ok(text)
}

fn bombs(tools: &[Tool], dir: &Path, quick: bool, targets: &mut Vec<Target>) -> Result<String> {
    let folder = dir.join("bombs");
    if !BOMBS.iter().all(|b| folder.join(b).is_file()) {
        make("make_bombs.py", &[&folder.display().to_string()])?;
    }
    let mut text = String::from(
        "\n### Bombs\n\nSeconds, peak resident memory and answer, file by file; then all of them \
         in one run of ours. `members.zip` holds nothing but 200,000 empty members: to clear it is \
         right.\n\n| file | size |",
    );
    // Peers take minutes and gigabytes for some of these.
    let tools = tools
        .get(..if quick { 1 } else { tools.len() })
        .unwrap_or(tools);
    for t in tools {
        let _ = write!(text, " {} |", t.name);
    }
    let _ = writeln!(text, "\n|---|--:|{}", "--:|".repeat(tools.len()));
    let (mut slowest, mut most) = (0.0, 0.0);
    for name in BOMBS {
        let path = folder.join(name);
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        let _ = write!(text, "| {name} | {:.1} MB |", size as f64 / 1e6);
        for (n, tool) in tools.iter().enumerate() {
            let o = try_on(tool, &path, dir)?;
            let memory = o.cost.resident as f64 / 1_048_576.0;
            if n == 0 {
                slowest = f64::max(slowest, o.cost.seconds);
                most = f64::max(most, memory);
            }
            let said = match answer(&o) {
                Answer::Flagged => "flagged",
                Answer::Cleared => "cleared",
                Answer::Open if o.code.is_none() => "ended",
                Answer::Open => "not cleared",
            };
            let _ = write!(text, " {}, {memory:.0} MiB, {said} |", time(o.cost.seconds));
        }
        text.push('\n');
    }
    if let Some(ours) = tools.first() {
        let o = try_on(ours, &folder, dir)?;
        let memory = o.cost.resident as f64 / 1_048_576.0;
        let _ = writeln!(
            text,
            "\nAll of them in one run on every core: {}, {memory:.0} MiB.",
            time(o.cost.seconds)
        );
    }
    targets.push(Target {
        what: "the slowest bomb",
        wanted: 2.0,
        reached: slowest,
        unit: "s",
    });
    targets.push(Target {
        what: "a bomb's resident memory",
        wanted: 256.0,
        reached: most,
        unit: "MiB",
    });
    Ok(text)
}

/// Runs one of the scripts that need nothing but Python itself.
fn make(script: &str, arguments: &[&str]) -> Result<()> {
    let script: PathBuf = repo::root().join("peers").join(script);
    let python = if cfg!(windows) { "python" } else { "python3" };
    repo::run(Command::new(python).arg(script).args(arguments))
}
