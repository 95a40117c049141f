//! `cargo xtask bench load`: opening, inspecting and converting large files.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::report::{self, Contender, Target, alternate, find, text};
use crate::{Result, peers, repo};

const SYNCED: &str = "cp --reflink=never, sync";
const UNSYNCED: &str = "cp --reflink=never";

/// What the benchmarks run on.
struct Setup {
    /// Our tool, optimised.
    tool: PathBuf,
    /// The peers' Python.
    python: PathBuf,
    /// The in-process bench of headers.
    headers: PathBuf,
    /// Where large files lie.
    dir: PathBuf,
    rounds: usize,
    tensors: usize,
    gigabytes: f64,
}

/// Measures and writes `docs/benchmarks.md`; `quick` is a small trial that writes nothing.
///
/// # Errors
/// When something cannot be built, made or run.
pub(crate) fn run(quick: bool) -> Result<()> {
    let dir = repo::target().join("bench");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let setup = Setup {
        tool: repo::build_tool(true)?,
        python: peers::python()?,
        headers: build_headers()?,
        dir,
        rounds: if quick { 2 } else { 5 },
        tensors: if quick { 10_000 } else { 100_000 },
        gigabytes: if quick { 0.1 } else { 2.0 },
    };
    let mut text = preamble(&setup)?;
    let mut targets = Vec::new();
    text += &convert(&setup, &mut targets)?;
    text += &inspect(&setup, &mut targets)?;
    text += &headers(&setup, &mut targets)?;
    report::conclude("load", text, &targets, quick)
}

fn preamble(s: &Setup) -> Result<String> {
    let versions = repo::output(Command::new(&s.python).args([
        "-c",
        "import sys, torch, safetensors, numpy; print(f'Python {sys.version.split()[0]}, torch \
         {torch.__version__}, safetensors {safetensors.__version__}, numpy {numpy.__version__}')",
    ]))?;
    Ok(format!(
        "Measured {} by `cargo xtask bench load` at commit {}.\n\
         Machine: {}.\n\
         Versions: {}; {}; official crate {}.\n\
         Warm page cache throughout; nothing is dropped from it. Runs alternate, and each round \
         starts with another command. Times are of whole processes, from before they are started \
         until they have ended; \"own work\" is what a Python peer takes without its imports (and \
         its ratio).\n",
        repo::today(),
        repo::commit()?,
        repo::machine(),
        repo::rustc()?,
        versions.trim(),
        repo::output(Command::new(&s.headers).arg("versions"))?.trim(),
    ))
}

/// Converts a checkpoint without ties.
fn convert(s: &Setup, targets: &mut Vec<Target>) -> Result<String> {
    let from = checkpoint(s)?;
    let to = s.dir.join("converted.safetensors");
    let copy = s.dir.join("copied.pt");
    let (from_s, to_s, copy_s) = (text(&from), text(&to), text(&copy));
    let tool = text(&s.tool);
    let python = text(&s.python);
    let shell = |sync: bool| {
        let tail = if sync { " && sync \"$1\"" } else { "" };
        format!("cp --reflink=never \"$0\" \"$1\"{tail}")
    };
    let (copy_sync, copy_only) = (shell(true), shell(false));
    let peer = |mode: &'static str| [python.as_str(), "peers/convert.py", mode, &from_s, &to_s];
    let mut all = vec![
        Contender::new("ours", SYNCED, &[&tool, "convert", &from_s, &to_s]).making(&to),
        Contender::new(SYNCED, SYNCED, &["sh", "-c", &copy_sync, &from_s, &copy_s]).making(&copy),
        Contender::new("torch.load + save_file, sync", SYNCED, &peer("load-sync")).making(&to),
        Contender::new(
            "torch.load(mmap) + save_file, sync",
            SYNCED,
            &peer("mmap-sync"),
        )
        .making(&to),
        Contender::new(
            "ours --no-sync",
            UNSYNCED,
            &[&tool, "convert", "--no-sync", &from_s, &to_s],
        )
        .making(&to),
        Contender::new(
            UNSYNCED,
            UNSYNCED,
            &["sh", "-c", &copy_only, &from_s, &copy_s],
        )
        .making(&copy),
        Contender::new("torch.load + save_file", UNSYNCED, &peer("load")).making(&to),
        Contender::new("torch.load(mmap) + save_file", UNSYNCED, &peer("mmap")).making(&to),
    ];
    alternate(&mut all, s.rounds)?;
    let ours = find(&all, "ours")?;
    targets.push(Target {
        what: "convert to the synced file, against the copy",
        wanted: 1.2,
        reached: ours.seconds() / find(&all, SYNCED)?.seconds(),
        unit: "×",
    });
    targets.push(Target {
        what: "convert, private memory",
        wanted: 64.0,
        reached: ours.private().max(find(&all, "ours --no-sync")?.private()),
        unit: "MiB",
    });
    let bytes = std::fs::metadata(&from).map_or(0, |m| m.len());
    Ok(format!(
        "\n### Convert a checkpoint of {:.2} GB to safetensors\n\n{}",
        bytes as f64 / 1e9,
        report::table(&all)
    ))
}

/// Inspects a large file in either format.
fn inspect(s: &Setup, targets: &mut Vec<Target>) -> Result<String> {
    let pt = checkpoint(s)?;
    let st = s.dir.join("inspected.safetensors");
    let tool = text(&s.tool);
    repo::run(
        Command::new(&s.tool)
            .arg("convert")
            .arg(&pt)
            .arg(&st)
            .stdout(std::process::Stdio::null()),
    )?;
    let (pt_s, st_s, python) = (text(&pt), text(&st), text(&s.python));
    let mut all = vec![
        Contender::new("ours, .pt", "ours, .pt", &[&tool, "inspect", &pt_s]),
        Contender::new(
            "torch.load(mmap), .pt",
            "ours, .pt",
            &[&python, "peers/inspect_file.py", "torch", &pt_s],
        ),
        Contender::new(
            "ours, .safetensors",
            "ours, .safetensors",
            &[&tool, "inspect", &st_s],
        ),
        Contender::new(
            "safe_open (numpy), .safetensors",
            "ours, .safetensors",
            &[&python, "peers/inspect_file.py", "safetensors", &st_s],
        ),
    ];
    let outcome = alternate(&mut all, s.rounds * 3);
    let _ = std::fs::remove_file(&st);
    outcome?;
    for (name, what, memory) in [
        (
            "ours, .pt",
            "inspect .pt, whole process",
            "inspect .pt, resident memory",
        ),
        (
            "ours, .safetensors",
            "inspect .safetensors, whole process",
            "inspect .safetensors, resident memory",
        ),
    ] {
        let c = find(&all, name)?;
        targets.push(Target {
            what,
            wanted: 10.0,
            reached: c.seconds() * 1e3,
            unit: "ms",
        });
        targets.push(Target {
            what: memory,
            wanted: 20.0,
            reached: c.resident(),
            unit: "MiB",
        });
    }
    Ok(format!(
        "\n### Inspect the same file\n\n{}",
        report::table(&all)
    ))
}

/// Opens and writes a header of very many tensors, in one process; peak memory apart.
fn headers(s: &Setup, targets: &mut Vec<Target>) -> Result<String> {
    let tool = text(&s.headers);
    let dir = text(&s.dir);
    let n = s.tensors.to_string();
    let runs = (s.rounds * 3).to_string();
    let out = repo::output(Command::new(&tool).args(["time", &dir, &n, &runs]))?;
    let mut body = format!(
        "\n### A header of {} tensors\n\n\
         In one process, alternately, {runs} runs each; memory of a process that does only this.\n\n\
         | operation | median | fastest | ratio | peak resident | peak private |\n\
         |---|--:|--:|--:|--:|--:|\n",
        s.tensors
    );
    let mut rows: Vec<(&str, f64, f64)> = Vec::new();
    for line in out.lines() {
        let mut words = line.split('\t');
        if let (Some(name), Some(Ok(median)), Some(Ok(fastest))) = (
            words.next(),
            words.next().map(str::parse),
            words.next().map(str::parse),
        ) {
            rows.push((name, median, fastest));
        }
    }
    for &(name, median, fastest) in &rows {
        let action = name.split(' ').next().unwrap_or(name);
        let ours = rows
            .iter()
            .find(|r| r.0.starts_with(action) && r.0.ends_with("ours"))
            .map_or(f64::NAN, |r| r.1);
        let cost = crate::measure::measure(&[&tool, "once", &dir, &n, name])?;
        let _ = writeln!(
            body,
            "| {name} | {} | {} | {:.2} × ours | {:.1} MiB | {:.1} MiB |",
            report::time(median),
            report::time(fastest),
            median / ours,
            cost.resident as f64 / 1_048_576.0,
            cost.private as f64 / 1_048_576.0,
        );
    }
    for (name, what, wanted) in [
        ("open ours", "open a header of 100,000 tensors", 25.0),
        ("write ours", "write a header of 100,000 tensors", 200.0),
    ] {
        let row = rows.iter().find(|r| r.0 == name);
        targets.push(Target {
            what,
            wanted,
            reached: row.map_or(f64::NAN, |r| r.1) * 1e3,
            unit: "ms",
        });
    }
    Ok(body)
}

/// The large checkpoint, made once: about 200 tensors, none of them tied.
fn checkpoint(s: &Setup) -> Result<PathBuf> {
    let path = s.dir.join(format!("model-{}.pt", s.gigabytes));
    if !path.is_file() {
        repo::run(
            Command::new(&s.python)
                .current_dir(repo::root())
                .arg("peers/make_checkpoint.py")
                .arg(&path)
                .arg(s.gigabytes.to_string()),
        )?;
    }
    // Into the page cache, whatever else ran since it was made.
    let mut file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
    std::io::copy(&mut file, &mut std::io::sink()).map_err(|e| e.to_string())?;
    Ok(path)
}

fn build_headers() -> Result<PathBuf> {
    let out = repo::target().join("benches");
    repo::run(
        repo::cargo()
            .args([
                "build",
                "--release",
                "--manifest-path",
                "benches/Cargo.toml",
            ])
            .env("CARGO_TARGET_DIR", &out),
    )?;
    Ok(out
        .join("release")
        .join(format!("headers{}", std::env::consts::EXE_SUFFIX)))
}
