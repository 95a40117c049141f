//! `cargo xtask bench onnx`: us, ONNX's own library, ONNX Runtime's quantizers and
//! onnx-safetensors on a model of 1 GB.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{self, Contender, Target, alternate, find, text};
use crate::{Result, peers, repo};

const OURS: &str = "ours";
const COPY: &str = "cp --reflink=never";

/// What the benchmarks run on.
struct Setup {
    tool: PathBuf,
    python: PathBuf,
    dir: PathBuf,
    /// All weights in the model's own file.
    single: PathBuf,
    /// The same weights in a file beside it.
    external: PathBuf,
    rounds: usize,
    matrices: usize,
}

/// One comparison: ours against a peer, on the same file.
struct Case {
    title: &'static str,
    /// What the peer is called, and what it does.
    peer: &'static str,
    what: &'static str,
    /// Our words, with the input and then the output put in.
    ours: &'static [&'static str],
    external: bool,
    /// The extension of what is written.
    makes: Option<&'static str>,
    /// How many times as fast as the peer we want to be, and in how much memory.
    faster: f64,
    memory: f64,
    targets: [&'static str; 2],
    /// Whether a copy of the input is timed beside it.
    copy: bool,
}

/// Our words to quantize with, and the type.
macro_rules! quantize {
    ($($word:literal),*) => {
        &["quantize", "--no-sync", "--quiet", "IN", "OUT", "--type", $($word),*]
    };
}

const CASES: &[Case] = &[
    Case {
        title: "List names and shapes, one file",
        peer: "onnx.load",
        what: "list",
        ours: &["inspect", "--json", "IN"],
        external: false,
        makes: None,
        faster: 1.0,
        memory: 20.0,
        targets: ["list, against onnx.load", "list, memory"],
        copy: false,
    },
    Case {
        title: "List names and shapes, external data",
        peer: "onnx.load without data",
        what: "list-without-data",
        ours: &["inspect", "--json", "IN"],
        external: true,
        makes: None,
        faster: 1.0,
        memory: 20.0,
        targets: [
            "list with external data, against onnx.load",
            "list with external data, memory",
        ],
        copy: false,
    },
    Case {
        title: "Check everything, one file",
        peer: "onnx.checker, full",
        what: "check",
        ours: &["check", "IN"],
        external: false,
        makes: None,
        faster: 20.0,
        memory: 20.0,
        targets: ["check, against onnx.checker", "check, memory"],
        copy: false,
    },
    Case {
        title: "Check everything, external data",
        peer: "onnx.checker, full",
        what: "check",
        ours: &["check", "IN"],
        external: true,
        makes: None,
        faster: 20.0,
        memory: 20.0,
        targets: [
            "check with external data, against onnx.checker",
            "check with external data, memory",
        ],
        copy: false,
    },
    Case {
        title: "To safetensors",
        peer: "onnx-safetensors",
        what: "safetensors",
        ours: &["convert", "--no-sync", "--quiet", "IN", "OUT"],
        external: false,
        makes: Some("safetensors"),
        faster: 5.0,
        memory: 64.0,
        targets: [
            "to safetensors, against onnx-safetensors",
            "to safetensors, memory",
        ],
        copy: true,
    },
    Case {
        title: "int8, dynamic, one file",
        peer: "quantize_dynamic",
        what: "dynamic",
        ours: quantize!("int8"),
        external: false,
        makes: Some("onnx"),
        faster: 5.0,
        memory: 300.0,
        targets: ["int8, against quantize_dynamic", "int8, memory"],
        copy: false,
    },
    Case {
        title: "int8, dynamic, external data",
        peer: "quantize_dynamic",
        what: "dynamic",
        ours: quantize!("int8"),
        external: true,
        makes: Some("onnx"),
        faster: 5.0,
        memory: 300.0,
        targets: [
            "int8 with external data, against quantize_dynamic",
            "int8 with external data, memory",
        ],
        copy: false,
    },
    Case {
        title: "4-bit blocks of 32, round to nearest",
        peer: "MatMulNBitsQuantizer",
        what: "nbits",
        ours: quantize!("int4", "--block-size", "32", "--symmetric", "--rtn"),
        external: false,
        makes: Some("onnx"),
        faster: 5.0,
        memory: 300.0,
        targets: ["4-bit, against MatMulNBitsQuantizer", "4-bit, memory"],
        copy: false,
    },
];

/// Measures and writes the section "ONNX" of `docs/benchmarks.md`; `quick` is a small trial that
/// writes nothing.
///
/// # Errors
/// When something cannot be built, made or run.
pub(crate) fn run(quick: bool) -> Result<()> {
    let setup = setup(quick)?;
    let mut text = preamble(&setup)?;
    let mut targets = Vec::new();
    for case in CASES {
        eprintln!("{}", case.title);
        let all = side_by_side(&setup, case)?;
        let _ = write!(text, "\n### {}\n\n{}", case.title, report::table(&all));
        let (ours, peer) = (find(&all, OURS)?, find(&all, case.peer)?);
        targets.push(Target {
            what: case.targets[0],
            wanted: 1.0 / case.faster,
            reached: ours.seconds() / peer.seconds(),
            unit: "×",
        });
        targets.push(Target {
            what: case.targets[1],
            wanted: case.memory,
            reached: ours.resident(),
            unit: "MiB",
        });
        if case.what.starts_with("list") {
            targets.push(Target {
                what: case.title,
                wanted: 20.0,
                reached: ours.seconds() * 1e3,
                unit: "ms",
            });
        }
    }
    report::conclude("onnx", text, &targets, quick)
}

fn setup(quick: bool) -> Result<Setup> {
    let dir = repo::target().join("bench-onnx");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let matrices = if quick { 24 } else { 238 };
    let setup = Setup {
        tool: repo::build_tool(true)?,
        python: peers::onnx()?,
        single: dir.join(format!("single-{matrices}.onnx")),
        external: dir.join(format!("external-{matrices}.onnx")),
        dir,
        rounds: if quick { 2 } else { 3 },
        matrices,
    };
    let data = format!("external-{matrices}.onnx.data");
    make(&setup, &setup.single, None)?;
    make(&setup, &setup.external, Some(&data))?;
    Ok(setup)
}

/// Makes a model when it is not there, and reads it into the page cache.
fn make(s: &Setup, path: &Path, data: Option<&str>) -> Result<()> {
    if !path.is_file() {
        let mut c = Command::new(&s.python);
        c.current_dir(repo::root())
            .arg("peers/make_onnx.py")
            .arg(path)
            .arg(s.matrices.to_string())
            .args(data);
        repo::run(&mut c)?;
    }
    let beside = data.map(|d| s.dir.join(d));
    for file in std::iter::once(path).chain(beside.as_deref()) {
        let mut file = std::fs::File::open(file).map_err(|e| e.to_string())?;
        std::io::copy(&mut file, &mut std::io::sink()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn preamble(s: &Setup) -> Result<String> {
    let versions = repo::output(Command::new(&s.python).args([
        "-c",
        "import sys, numpy, onnx, onnxruntime, importlib.metadata as m; print(f'Python \
         {sys.version.split()[0]}, onnx {onnx.__version__}, onnxruntime \
         {onnxruntime.__version__}, onnx-safetensors {m.version(\"onnx-safetensors\")}, numpy \
         {numpy.__version__}')",
    ]))?;
    let bytes = std::fs::metadata(&s.single).map_or(0, |m| m.len());
    Ok(format!(
        "Measured {} by `cargo xtask bench onnx` at commit {}.\n\
         Machine: {}.\n\
         Versions: {}; {}.\n\
         Model: {} products with matrices of 1024 × 1024 floats, {:.2} GB, in one file or with its \
         weights in a file beside it. Warm page cache, nothing synced on either side. Runs \
         alternate, and each round starts with another command. Times are of whole processes; \
         \"own work\" is what a Python peer takes without its imports (and its ratio).\n",
        repo::today(),
        repo::commit()?,
        repo::machine(),
        repo::rustc()?,
        versions.trim(),
        s.matrices,
        bytes as f64 / 1e9,
    ))
}

fn side_by_side(s: &Setup, case: &Case) -> Result<Vec<Contender>> {
    let input = text(match case.external {
        true => &s.external,
        false => &s.single,
    });
    let output = |whose: &str| {
        s.dir
            .join(format!("{whose}.{}", case.makes.unwrap_or("none")))
    };
    let (mine, theirs) = (output("ours"), output("theirs"));
    let (tool, python) = (text(&s.tool), text(&s.python));
    let (mine_s, theirs_s) = (text(&mine), text(&theirs));
    let words = case.ours.iter().map(|&w| match w {
        "IN" => input.as_str(),
        "OUT" => mine_s.as_str(),
        w => w,
    });
    let ours: Vec<&str> = std::iter::once(tool.as_str()).chain(words).collect();
    let mut peer = vec![python.as_str(), "peers/onnx_work.py", case.what, &input];
    if case.makes.is_some() {
        peer.push(&theirs_s);
    }
    let mut all = vec![
        Contender::new(OURS, OURS, &ours).making(&mine),
        Contender::new(case.peer, OURS, &peer).making(&theirs),
    ];
    let copied = s.dir.join("copied.onnx");
    let copied_s = text(&copied);
    if case.copy {
        let words = ["cp", "--reflink=never", &input, &copied_s];
        all.push(Contender::new(COPY, OURS, &words).making(&copied));
    }
    alternate(&mut all, s.rounds)?;
    Ok(all)
}
