//! `cargo xtask test` and `cargo xtask ci`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::tally::Tally;
use crate::{Result, peers, repo};

/// Builds what the tests need and runs them all; the closing line has the counts of all suites.
///
/// # Errors
/// When something does not build, a test fails, or no test ran.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let started = Instant::now();
    // Fault tests kill the real tool while it works.
    let tool = repo::build_tool(false)?;
    let mut c = repo::cargo();
    c.args(["test", "--workspace", "--no-fail-fast"]);
    let (ours, theirs) = match arguments.iter().position(|a| a == "--") {
        Some(i) => (&arguments[..i], &arguments[i + 1..]),
        None => (arguments, &[][..]),
    };
    c.args(ours).args(["--", "--show-output"]).args(theirs);
    c.env("WEIGHBRIDGE_BIN", &tool);
    match repo::corpus() {
        Some(dir) => {
            println!("corpus: {}", dir.display());
            c.env("WEIGHBRIDGE_CORPUS", dir);
        }
        None => println!(
            "corpus: none (set WEIGHBRIDGE_CORPUS to its directory); tests that need it will say so"
        ),
    }
    if let Some(venv) = peers::ready() {
        c.env("WEIGHBRIDGE_PEERS_VENV", venv);
    }
    c.stdout(Stdio::piped());
    let mut child = c
        .spawn()
        .map_err(|e| format!("cannot start cargo test: {e}"))?;
    let mut tally = Tally::default();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).split(b'\n').map_while(|l| l.ok()) {
            let line = String::from_utf8_lossy(&line);
            if tally.line(&line) {
                println!("{line}");
            }
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let ok = status.success() && tally.failed == 0;
    for skip in &tally.skipped {
        println!("{skip}");
    }
    println!("{}", tally.closing(ok, started.elapsed()));
    if !ok {
        return Err("see the failures above".into());
    }
    if tally.passed == 0 {
        return Err("no test ran".into());
    }
    Ok(())
}

/// Runs `.ci/run`, so that there is one list of stages.
///
/// # Errors
/// When a stage fails.
pub(crate) fn ci(arguments: &[String]) -> Result<()> {
    repo::run(
        Command::new("bash")
            .arg(".ci/run")
            .args(arguments)
            .current_dir(repo::root()),
    )
}
