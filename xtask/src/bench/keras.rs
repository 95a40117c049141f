//! `cargo xtask bench keras`: us, h5py and TensorFlow on weights of half a gigabyte, in HDF5 and
//! as a checkpoint.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::report::{self, Contender, Target, alternate, find, text};
use crate::{Result, peers, repo};

const OURS: &str = "ours";
const COPY: &str = "cp --reflink=never, sync";

/// What the benchmarks run on.
struct Setup {
    tool: PathBuf,
    python: PathBuf,
    dir: PathBuf,
    rounds: usize,
    layers: usize,
}

/// One kind of file, with the peer that reads it.
struct Kind {
    title: &'static str,
    peer: &'static str,
    /// What `peers/keras_work.py` calls it.
    work: &'static str,
    /// What is listed and converted, and the file that nearly all of its bytes lie in.
    input: &'static str,
    bulk: &'static str,
    targets: [&'static str; 3],
}

const KINDS: [Kind; 2] = [
    Kind {
        title: "HDF5",
        peer: "h5py",
        work: "h5",
        input: ".h5",
        bulk: ".h5",
        targets: [
            "list HDF5, against h5py",
            "HDF5 to the synced safetensors, against the copy",
            "HDF5 to safetensors, private memory",
        ],
    },
    Kind {
        title: "A TensorFlow checkpoint",
        peer: "tf.train.load_checkpoint",
        work: "checkpoint",
        input: "",
        bulk: ".data-00000-of-00001",
        targets: [
            "list a checkpoint, against TensorFlow",
            "a checkpoint to the synced safetensors, against the copy",
            "a checkpoint to safetensors, private memory",
        ],
    },
];

/// Measures and writes the section "Keras and TensorFlow" of `docs/benchmarks.md`; `quick` is a
/// small trial that writes nothing.
///
/// # Errors
/// When something cannot be built, made or run.
pub(crate) fn run(quick: bool) -> Result<()> {
    let dir = repo::target().join("bench-keras");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let setup = Setup {
        tool: repo::build_tool(true)?,
        python: peers::keras()?,
        dir,
        rounds: if quick { 2 } else { 5 },
        layers: if quick { 12 } else { 119 },
    };
    let mut text = preamble(&setup)?;
    let mut targets = Vec::new();
    for kind in &KINDS {
        eprintln!("{}", kind.title);
        make(&setup, kind)?;
        list(&setup, kind, &mut text, &mut targets)?;
        convert(&setup, kind, &mut text, &mut targets)?;
    }
    report::conclude("keras", text, &targets, quick)
}

fn preamble(s: &Setup) -> Result<String> {
    let versions = repo::output(Command::new(&s.python).args([
        "-c",
        "import sys, importlib.metadata as m; print(f'Python {sys.version.split()[0]}', *(f'{p} \
         {m.version(p)}' for p in ('tensorflow-cpu', 'h5py', 'safetensors', 'numpy')), sep=', ')",
    ]))?;
    Ok(format!(
        "Measured {} by `cargo xtask bench keras` at commit {}.\n\
         Machine: {}.\n\
         Versions: {}; {}.\n\
         Weights: {} dense layers of 1024 × 1024 floats with biases. Warm page cache. Runs \
         alternate, and each round starts with another command. Times are of whole processes; \
         \"own work\" is what a Python peer takes without its imports (and its ratio).\n",
        repo::today(),
        repo::commit()?,
        repo::machine(),
        repo::rustc()?,
        versions.trim(),
        s.layers,
    ))
}

fn place(s: &Setup, ending: &str) -> PathBuf {
    s.dir.join(format!("weights-{}{ending}", s.layers))
}

/// Makes the weights when they are not there, and reads them into the page cache.
fn make(s: &Setup, kind: &Kind) -> Result<()> {
    let bulk = place(s, kind.bulk);
    if !bulk.is_file() {
        let mut c = Command::new(&s.python);
        c.current_dir(repo::root())
            .env("CUDA_VISIBLE_DEVICES", "")
            .arg("peers/make_keras.py")
            .arg(place(s, kind.input))
            .arg(s.layers.to_string());
        repo::run(&mut c)?;
    }
    let mut file = std::fs::File::open(&bulk).map_err(|e| e.to_string())?;
    std::io::copy(&mut file, &mut std::io::sink()).map_err(|e| e.to_string())?;
    Ok(())
}

fn list(s: &Setup, kind: &Kind, out: &mut String, targets: &mut Vec<Target>) -> Result<()> {
    let input = text(&place(s, kind.input));
    let (tool, python) = (text(&s.tool), text(&s.python));
    let work = format!("list-{}", kind.work);
    let mut all = vec![
        Contender::new(OURS, OURS, &[&tool, "inspect", "--json", &input]),
        Contender::new(
            kind.peer,
            OURS,
            &[&python, "peers/keras_work.py", &work, &input],
        ),
    ];
    alternate(&mut all, s.rounds)?;
    let _ = write!(
        out,
        "\n### {}: list names and shapes\n\n{}",
        kind.title,
        report::table(&all)
    );
    targets.push(Target {
        what: kind.targets[0],
        wanted: 1.0 / 20.0,
        reached: find(&all, OURS)?.seconds() / find(&all, kind.peer)?.seconds(),
        unit: "×",
    });
    Ok(())
}

fn convert(s: &Setup, kind: &Kind, out: &mut String, targets: &mut Vec<Target>) -> Result<()> {
    let input = text(&place(s, kind.input));
    let bulk = place(s, kind.bulk);
    let (tool, python) = (text(&s.tool), text(&s.python));
    let work = format!("convert-{}", kind.work);
    let place = |name: &str| s.dir.join(name);
    let (mine, theirs) = (place("ours.safetensors"), place("theirs.safetensors"));
    let copied = place("copied.bin");
    let (mine_s, theirs_s) = (text(&mine), text(&theirs));
    let peer = [
        python.as_str(),
        "peers/keras_work.py",
        &work,
        &input,
        &theirs_s,
    ];
    let shell = "cp --reflink=never \"$0\" \"$1\" && sync \"$1\"";
    let copy = ["sh", "-c", shell, &text(&bulk), &text(&copied)];
    let mut all = vec![
        Contender::new(OURS, COPY, &[&tool, "convert", "--quiet", &input, &mine_s]).making(&mine),
        Contender::new(kind.peer, COPY, &peer).making(&theirs),
        Contender::new(COPY, COPY, &copy).making(&copied),
    ];
    alternate(&mut all, s.rounds)?;
    let bytes = std::fs::metadata(&bulk).map_or(0, |m| m.len());
    let _ = write!(
        out,
        "\n### {}: {:.2} GB to safetensors, synced\n\n{}",
        kind.title,
        bytes as f64 / 1e9,
        report::table(&all)
    );
    let ours = find(&all, OURS)?;
    targets.push(Target {
        what: kind.targets[1],
        wanted: 1.3,
        reached: ours.seconds() / find(&all, COPY)?.seconds(),
        unit: "×",
    });
    targets.push(Target {
        what: kind.targets[2],
        wanted: 64.0,
        reached: ours.private(),
        unit: "MiB",
    });
    Ok(())
}
