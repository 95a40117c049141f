//! Developer tasks, one command each: `cargo xtask <task>`. Every install step of the project
//! lives here, below `target/`; nothing is installed into the system.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line tool talks on both

mod bench;
mod bless;
mod fuzz;
mod measure;
mod miri;
mod peers;
mod repo;
mod tally;
mod test;

use std::process::ExitCode;

/// What a task gives: the message says what failed and what to do next.
type Result<T> = std::result::Result<T, String>;

/// One row of the help.
struct Task {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const TASKS: &[Task] = &[
    Task {
        name: "test",
        arguments: "[CARGO TEST ARGUMENTS]",
        about: "Build and run every test: unit, integration, golden, hostile, fault, doc",
        run: test::run,
    },
    Task {
        name: "ci",
        arguments: "",
        about: "What decides on a change: .ci/run (test, fmt, clippy, doc, fuzz, deny)",
        run: test::ci,
    },
    Task {
        name: "fuzz",
        arguments: "[TARGET|--check|--smoke] [SECONDS]",
        about: "Run a fuzz target (60 s); --check compiles all, --smoke runs each; none lists them",
        run: fuzz::run,
    },
    Task {
        name: "miri",
        arguments: "[CARGO MIRI TEST ARGUMENTS]",
        about: "Run the tests around unsafe code under Miri (nightly)",
        run: miri::run,
    },
    Task {
        name: "peers",
        arguments: "[onnx] [FILTER]",
        about: "Round trips with the real libraries from PyPI; writes docs/peers.md and peers-onnx.md",
        run: peers::run,
    },
    Task {
        name: "bench",
        arguments: "load|scan|quantize [--quick]",
        about: "Measure us and the peers alternately; writes docs/benchmarks.md",
        run: bench::run,
    },
    Task {
        name: "bless",
        arguments: "[CARGO TEST ARGUMENTS]",
        about: "Rewrite the golden files from what the code gives now",
        run: bless::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        None => ("--help", &[][..]),
        Some((name, rest)) => (name.as_str(), rest),
    };
    let outcome = match name {
        "-h" | "--help" | "help" => {
            help();
            Ok(())
        }
        // Runs one command and says what it cost; `bench` calls it.
        "measure" => measure::main(rest),
        _ => match TASKS.iter().find(|t| t.name == name) {
            Some(_) if rest.iter().any(|a| a == "--help" || a == "-h") => {
                help();
                Ok(())
            }
            Some(task) => (task.run)(rest),
            None => Err(format!(
                "there is no task `{name}`; `cargo xtask --help` lists them"
            )),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {name}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn help() {
    println!("Usage: cargo xtask <TASK> [ARGUMENTS]\n");
    let left = |t: &Task| format!("{} {}", t.name, t.arguments);
    let width = TASKS.iter().map(|t| left(t).len()).max().unwrap_or(0);
    for t in TASKS {
        println!("  {:width$}  {}", left(t), t.about);
    }
    println!(
        "\nEnvironment:
  WEIGHBRIDGE_CORPUS      test files with expected answers; ../shared/corpus where it exists
  WEIGHBRIDGE_PEERS_VENV  a Python environment with torch and safetensors, instead of target/peers
  WEIGHBRIDGE_SCANNERS_VENV  one with the scanners of peers/requirements-scan.txt
  WEIGHBRIDGE_ONNX_VENV   one with onnx and ONNX Runtime, peers/requirements-onnx.txt
  WEIGHBRIDGE_KERAS_VENV  one with Keras, TensorFlow and h5py, peers/requirements-keras.txt
  WEIGHBRIDGE_LLAMA_QUANTIZE  a llama-quantize ready for `bench quantize`, instead of building one
  WEIGHBRIDGE_LLAMA_VENV  an environment with what builds it, peers/requirements-llama.txt"
    );
}
