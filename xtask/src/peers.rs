//! `cargo xtask peers`: the real torch and safetensors, in an environment of their own, against
//! our tool; onnx and ONNX Runtime in another; Keras and TensorFlow in a third.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, repo};

/// Runs the round trips and writes `docs/peers.md`, `docs/peers-onnx.md` and `docs/peers-keras.md`;
/// with `onnx` or `keras` as the first argument only those of such models.
///
/// # Errors
/// When the environment cannot be made or a round trip is not equal.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let Some((first, filters)) = arguments.split_first() {
        match first.as_str() {
            "onnx" => return real_models("onnx", onnx()?, filters),
            "keras" => return real_models("keras", keras()?, filters),
            _ => {}
        }
    }
    let python = python()?;
    let tool = repo::build_tool(true)?;
    let scratch = repo::target().join("peers-scratch");
    let mut c = Command::new(&python);
    c.current_dir(repo::root())
        .arg("peers/roundtrip.py")
        .arg("--tool")
        .arg(tool)
        .arg("--scratch")
        .arg(&scratch);
    // A filtered run is a look, not a result.
    if arguments.is_empty() {
        c.arg("--report").arg("docs/peers.md");
    }
    for filter in arguments {
        c.arg("--only").arg(filter);
    }
    if let Some(dir) = repo::corpus() {
        c.arg("--corpus").arg(dir);
    }
    repo::run(&mut c)?;
    if arguments.is_empty() {
        real_models("onnx", onnx()?, &[])?;
        real_models("keras", keras()?, &[])?;
    }
    if !arguments.is_empty() {
        return Ok(());
    }
    // The library's own tests hold what it writes against torch where they are told of one.
    let venv = python.ancestors().nth(2).unwrap_or(&python);
    let mut c = repo::cargo();
    c.args(["test", "--quiet", "--package", "weighbridge"]);
    if let Some(dir) = repo::corpus() {
        c.env("WEIGHBRIDGE_CORPUS", dir);
    }
    repo::run(c.env("WEIGHBRIDGE_PEERS_VENV", venv))?;
    // The pickle machine against the unpicklers of that Python.
    let mut c = repo::cargo();
    c.args(["test", "--quiet", "--package", "weighbridge-fuzzing"])
        .args(["--test", "oracle"]);
    repo::run(c.env("WEIGHBRIDGE_PEERS_VENV", venv))
}

/// What `peers/NAME_models.py` holds us against: what we write, opened by the real libraries, and the
/// other way.
fn real_models(name: &str, python: PathBuf, filters: &[String]) -> Result<()> {
    let tool = repo::build_tool(true)?;
    let mut c = Command::new(python);
    c.current_dir(repo::root())
        .arg(format!("peers/{name}_models.py"))
        .arg("--tool")
        .arg(tool)
        .arg("--scratch")
        .arg(repo::target().join(format!("peers-{name}-scratch")));
    match repo::corpus() {
        Some(dir) => c.arg("--corpus").arg(dir),
        None => return Err("these models are in the corpus: set WEIGHBRIDGE_CORPUS".into()),
    };
    match filters {
        [] => c.arg("--report").arg(format!("docs/peers-{name}.md")),
        filters => c.args(filters.iter().flat_map(|f| ["--only", f.as_str()])),
    };
    repo::run(&mut c)
}

/// The environment that is ready for use, without making one.
pub(crate) fn ready() -> Option<PathBuf> {
    let own = repo::target().join("peers");
    match std::env::var_os("WEIGHBRIDGE_PEERS_VENV") {
        Some(dir) => Some(dir.into()),
        None => own.join(STAMP).is_file().then_some(own),
    }
}

/// Written last: what was installed, and that it was.
const STAMP: &str = "installed.txt";

/// The Python of the peers' environment, made and filled when missing.
///
/// # Errors
/// When there is no Python 3 with `venv`, or pip cannot install the peers.
pub(crate) fn python() -> Result<PathBuf> {
    environment("WEIGHBRIDGE_PEERS_VENV", "peers", "requirements.txt")
}

/// The Python of the other scanners' environment, made and filled when missing.
///
/// # Errors
/// As [`python`].
pub(crate) fn scanners() -> Result<PathBuf> {
    let list = "requirements-scan.txt";
    environment("WEIGHBRIDGE_SCANNERS_VENV", "peers-scan", list)
}

/// The Python of the environment that builds `llama-quantize`, made and filled when missing.
///
/// # Errors
/// As [`python`].
pub(crate) fn builders() -> Result<PathBuf> {
    let list = "requirements-llama.txt";
    environment("WEIGHBRIDGE_LLAMA_VENV", "peers-llama", list)
}

/// The Python of the environment with ONNX's own libraries, made and filled when missing.
///
/// # Errors
/// As [`python`].
pub(crate) fn onnx() -> Result<PathBuf> {
    let list = "requirements-onnx.txt";
    environment("WEIGHBRIDGE_ONNX_VENV", "peers-onnx", list)
}

/// The Python of the environment with Keras, TensorFlow, h5py and the like, made and filled when
/// missing.
///
/// # Errors
/// As [`python`].
pub(crate) fn keras() -> Result<PathBuf> {
    let list = "requirements-keras.txt";
    environment("WEIGHBRIDGE_KERAS_VENV", "peers-keras", list)
}

/// The environment that `variable` names, else the one in `target/NAME` with what `list` lists.
fn environment(variable: &str, name: &str, list: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable) {
        let python = bin(PathBuf::from(dir));
        return if python.is_file() {
            Ok(python)
        } else {
            Err(format!("{variable} has no {}", python.display()))
        };
    }
    let list = repo::root().join("peers").join(list);
    let wanted = std::fs::read_to_string(&list)
        .map_err(|e| format!("cannot read {}: {e}", list.display()))?;
    let dir = repo::target().join(name);
    let stamp = dir.join(STAMP);
    let python = bin(dir.clone());
    if python.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(python);
    }
    println!("making {} (large downloads)", dir.display());
    let base = if cfg!(windows) { "python" } else { "python3" };
    repo::run(Command::new(base).args(["-m", "venv"]).arg(&dir))
        .map_err(|e| format!("{e}; the peers need Python 3 with its venv module"))?;
    repo::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(&list),
    )?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(python)
}

fn bin(venv: PathBuf) -> PathBuf {
    if cfg!(windows) {
        venv.join("Scripts").join("python.exe")
    } else {
        venv.join("bin").join("python")
    }
}
