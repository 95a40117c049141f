//! `cargo xtask fuzz`: the fuzz targets, with cargo-fuzz installed below `target/` when missing.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, repo};

/// How many inputs `--smoke` gives each target.
const SMOKE_RUNS: u32 = 20_000;

/// Lists, checks, smokes or runs fuzz targets.
///
/// # Errors
/// Without a nightly toolchain or a C++ compiler, or when a target finds something.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let targets = targets()?;
    let (what, rest) = match arguments.split_first() {
        None => {
            println!("{}", targets.join("\n"));
            return Ok(());
        }
        Some((what, rest)) => (what.as_str(), rest),
    };
    match what {
        "--check" => check(),
        "--smoke" => {
            let tool = cargo_fuzz()?;
            for t in &targets {
                fuzz(
                    &tool,
                    t,
                    &[format!("-runs={SMOKE_RUNS}"), "-max_total_time=60".into()],
                )?;
            }
            println!(
                "fuzz: {} targets, up to {SMOKE_RUNS} runs each, nothing found",
                targets.len()
            );
            Ok(())
        }
        target if targets.iter().any(|t| t == target) => {
            let seconds: u64 = match rest.first() {
                None => 60,
                Some(s) => s
                    .parse()
                    .map_err(|_| format!("`{s}` is no number of seconds"))?,
            };
            fuzz(
                &cargo_fuzz()?,
                target,
                &[format!("-max_total_time={seconds}")],
            )
        }
        other => Err(format!(
            "there is no fuzz target `{other}`; there are {}",
            targets.join(", ")
        )),
    }
}

/// Compiles every target without instrumentation, which needs no nightly and finds what no longer
/// compiles.
fn check() -> Result<()> {
    let cxx = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if !repo::succeeds(Command::new(&cxx).arg("--version")) {
        println!("skipped: fuzz targets are not compiled, there is no C++ compiler `{cxx}`");
        return Ok(());
    }
    repo::run(
        repo::cargo()
            .args(["check", "--quiet", "--manifest-path", "fuzz/Cargo.toml"])
            .env("CARGO_TARGET_DIR", repo::target().join("fuzz")),
    )?;
    println!("fuzz: {} targets compile", targets()?.len());
    Ok(())
}

/// The targets: the files of `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let dir = repo::root().join("fuzz/fuzz_targets");
    let entries =
        std::fs::read_dir(&dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|e| {
            let name = e.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".rs").map(str::to_owned)
        })
        .collect();
    names.sort();
    Ok(names)
}

fn fuzz(tool: &PathBuf, target: &str, options: &[String]) -> Result<()> {
    let seeds = seeds(target)?;
    let mut c = Command::new("cargo");
    // cargo-fuzz is called directly: `cargo fuzz` looks on PATH only.
    c.arg("+nightly").arg("--version");
    if !repo::succeeds(&mut c) {
        return Err("fuzzing needs a nightly toolchain: rustup toolchain install nightly".into());
    }
    let mut c = Command::new(tool);
    c.current_dir(repo::root())
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env("CARGO_TARGET_DIR", repo::target().join("fuzz"))
        .args(["fuzz", "run", "--target-dir"])
        .arg(repo::target().join("fuzz"))
        .arg(target)
        // What it finds new goes to the first directory, below target/.
        .arg(repo::target().join("fuzz-corpus").join(target))
        .args(seeds)
        .arg("--")
        .args([
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-max_len=262144",
            "-print_final_stats=1",
        ])
        .args(options);
    repo::run(&mut c)
}

/// The directories with starting inputs: committed ones and the corpus.
fn seeds(target: &str) -> Result<Vec<PathBuf>> {
    let found = repo::target().join("fuzz-corpus").join(target);
    std::fs::create_dir_all(&found).map_err(|e| format!("cannot make {}: {e}", found.display()))?;
    let mut dirs = vec![repo::root().join("fuzz/seeds").join(target)];
    if let Some(corpus) = repo::corpus() {
        match target {
            "safetensors_header" => dirs.push(corpus.join("safetensors")),
            "structure_json" => {}
            _ => dirs.extend([corpus.join("torch"), corpus.join("safetensors")]),
        }
    }
    dirs.retain(|d| d.is_dir());
    Ok(dirs)
}

/// cargo-fuzz: the one on PATH, else one installed below `target/`.
fn cargo_fuzz() -> Result<PathBuf> {
    if repo::succeeds(Command::new("cargo-fuzz").args(["fuzz", "--version"])) {
        return Ok("cargo-fuzz".into());
    }
    let home = repo::target().join("tools");
    let tool = home
        .join("bin")
        .join(format!("cargo-fuzz{}", std::env::consts::EXE_SUFFIX));
    if !tool.is_file() {
        println!("installing cargo-fuzz into {}", home.display());
        repo::run(
            repo::cargo()
                .args(["install", "--locked", "--quiet", "cargo-fuzz", "--root"])
                .arg(&home),
        )?;
    }
    Ok(tool)
}
