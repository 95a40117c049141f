//! The pickle machine against the unpicklers of CPython: what they were recorded to do, and, where
//! there is a Python, what they do now.
#![allow(clippy::panic, clippy::expect_used, clippy::print_stdout)]
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weighbridge_fuzzing::oracle::{Answer, case, check, spellings};

/// Recorded answers are to these and to all spellings.
const RECORDED: u64 = 2000;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn cases(seeds: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    let mut all = spellings();
    all.extend(seeds.map(case));
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Compares every case with its answer, and tells the first few that differ.
fn compare(cases: &[Vec<u8>], answers: &[String]) {
    assert_eq!(cases.len(), answers.len(), "an answer is missing");
    let mut failed = 0;
    for (data, line) in cases.iter().zip(answers) {
        let answer = Answer::parse(line).unwrap_or_else(|| panic!("no answer: {line}"));
        if let Err(e) = check(data, &answer) {
            failed += 1;
            if failed <= 20 {
                println!("{}\n  {}\n  {e}\n  {line}", hex(data), data.escape_ascii());
            }
        }
    }
    assert_eq!(failed, 0, "of {} pickles", cases.len());
}

/// Asks the unpicklers of `python`.
fn ask(python: &Path, cases: &[Vec<u8>]) -> Vec<String> {
    let mut child = Command::new(python)
        .arg(here("../../peers/unpickle.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: Vec<String> = cases.iter().map(|c| hex(c)).collect();
    let writer = std::thread::spawn(move || {
        for line in lines {
            writeln!(stdin, "{line}").expect("python reads");
        }
    });
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let answers = out.lines().map(|l| l.expect("text")).collect();
    writer.join().expect("all was written");
    assert!(child.wait().expect("python ends").success());
    answers
}

fn python() -> Option<PathBuf> {
    let venv = PathBuf::from(std::env::var_os("WEIGHBRIDGE_PEERS_VENV")?);
    let path = if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    };
    Some(venv.join(path)).filter(|p| p.is_file())
}

#[test]
fn the_machine_does_what_the_unpicklers_were_recorded_to_do() {
    let recorded = std::fs::read_to_string(here("tests/data/oracle.txt")).expect("the record");
    let answers: Vec<String> = recorded.lines().map(str::to_owned).collect();
    compare(&cases(0..RECORDED), &answers);
}

/// `cargo xtask bless golden_oracle` asks the peers' Python and keeps what it says.
#[test]
fn golden_oracle() {
    if std::env::var_os("WEIGHBRIDGE_BLESS").is_none() {
        return;
    }
    let Some(python) = python() else {
        println!("skipped: WEIGHBRIDGE_PEERS_VENV is not set");
        return;
    };
    let mut text = ask(&python, &cases(0..RECORDED)).join("\n");
    text.push('\n');
    std::fs::create_dir_all(here("tests/data")).expect("the folder");
    std::fs::write(here("tests/data/oracle.txt"), text).expect("the record");
}

#[test]
fn the_machine_does_what_the_unpicklers_do() {
    let Some(python) = python() else {
        println!("skipped: WEIGHBRIDGE_PEERS_VENV is not set");
        return;
    };
    let number = |name: &str, or: u64| {
        let text = std::env::var(name).ok();
        text.and_then(|t| t.parse().ok()).unwrap_or(or)
    };
    let from = number("WEIGHBRIDGE_ORACLE_SEED", 1_000_000);
    let count = number("WEIGHBRIDGE_ORACLE_CASES", 10_000);
    let cases = cases(from..from.saturating_add(count));
    compare(&cases, &ask(&python, &cases));
}
