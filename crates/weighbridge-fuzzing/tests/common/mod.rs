//! Fixtures, and the guard that runs one input and judges what it cost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Memory any input may take, in bytes.
const FLAT: usize = 64 << 20;

/// Memory it may take for each byte of its own, in bytes: a parsed pickle or JSON document is
/// some times its text.
const PER_BYTE: usize = 32;

/// The longest run.
const LONGEST: Duration = Duration::from_secs(1);

/// When a run has not come back after this, the process ends with what it was about.
const HUNG: Duration = Duration::from_secs(60);

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file's text.
pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One input.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Runs inputs and keeps what went wrong. While one exists no other does: memory is counted for
/// the whole process.
pub(crate) struct Guard {
    name: &'static str,
    runs: u64,
    worst: Duration,
    peak: usize,
    failures: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

/// What runs now and since when (milliseconds since the first run; 0 for nothing), for the
/// watchdog.
static NOW: Mutex<String> = Mutex::new(String::new());
static SINCE: AtomicU64 = AtomicU64::new(0);

fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

fn watch() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let since = SINCE.load(Ordering::Relaxed);
                if since != 0 && clock() > since + HUNG.as_millis() as u64 {
                    let now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
                    eprintln!("hung for {HUNG:?}: {now}");
                    std::process::exit(101);
                }
            }
        });
    });
}

impl Guard {
    pub(crate) fn new(name: &'static str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        watch();
        Self {
            name,
            runs: 0,
            worst: Duration::ZERO,
            peak: 0,
            failures: Vec::new(),
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Runs `run` on `input`.
    pub(crate) fn run(&mut self, label: &str, input: &[u8], run: fn(&[u8])) {
        self.judge(label, input, input.len(), &|| run(input));
    }

    /// Opens the model at `path`, of whose files `input` is the changed one.
    pub(crate) fn open(&mut self, label: &str, input: &[u8], path: &Path) {
        let size = size_of(path);
        self.judge(label, input, size, &|| {
            weighbridge_fuzzing::open_path(path);
        });
    }

    fn judge(&mut self, label: &str, input: &[u8], size: usize, run: &dyn Fn()) {
        self.runs += 1;
        if let Ok(mut now) = NOW.lock() {
            now.clear();
            now.push_str(label);
        }
        // A busy machine can make any run slow once; a slow input is slow every time.
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            SINCE.store(clock(), Ordering::Relaxed);
            HEAP.reset_peak_usage();
            let before = HEAP.current_usage();
            let started = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(run));
            let took = started.elapsed();
            let peak = HEAP.peak_usage().saturating_sub(before);
            SINCE.store(0, Ordering::Relaxed);
            fastest = fastest.min(took);
            self.peak = self.peak.max(peak);
            if let Err(payload) = outcome {
                let why = payload
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| payload.downcast_ref::<&str>().copied())
                    .unwrap_or("?");
                return self.fail(label, input, &format!("panicked: {why}"));
            }
            let allowed = FLAT + PER_BYTE * size;
            if peak > allowed {
                let why = format!("took {peak} bytes of memory, {allowed} are allowed");
                return self.fail(label, input, &why);
            }
            if took <= LONGEST {
                break;
            }
        }
        self.worst = self.worst.max(fastest);
        if fastest > LONGEST {
            self.fail(label, input, &format!("took {fastest:?} at best of three"));
        }
    }

    fn fail(&mut self, label: &str, input: &[u8], why: &str) {
        let dir = root().join("target/hostile");
        let file = dir.join(format!("{}-{}.bin", self.name.replace(' ', "-"), self.runs));
        let kept = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, input));
        let kept = match kept {
            Ok(()) => format!("; the input is in {}", file.display()),
            Err(_) => String::new(),
        };
        self.failures.push(format!("{label}: {why}{kept}"));
    }

    /// Fails the test with what went wrong, if anything did.
    pub(crate) fn finish(self) {
        println!(
            "{}: {} runs, slowest {:?}, most memory {} KiB",
            self.name,
            self.runs,
            self.worst,
            self.peak / 1024
        );
        assert!(
            self.failures.is_empty(),
            "{} of {} runs failed, the first:\n{}",
            self.failures.len(),
            self.runs,
            self.failures
                .iter()
                .take(12)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
        assert!(self.runs > 0, "{}: there was nothing to run", self.name);
    }
}

fn size_of(path: &Path) -> usize {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|e| size_of(&e.path())).sum()
    } else {
        path.metadata().map_or(0, |m| m.len() as usize)
    }
}

/// The corpus, where there is one.
pub(crate) fn corpus() -> Option<PathBuf> {
    std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from)
}

pub(crate) fn files(dir: &Path) -> Vec<Case> {
    let mut all: Vec<Case> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .flatten()
        .filter(|e| e.path().is_file())
        .map(|e| Case {
            name: e.file_name().to_string_lossy().into_owned(),
            bytes: std::fs::read(e.path()).expect("a fixture is readable"),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// ONNX models: those of the rules' fixtures, and the corpus' small ones.
fn onnx() -> Vec<Case> {
    let mut out = graphs();
    if let Some(corpus) = corpus() {
        out.extend(files(&corpus.join("onnx/conformance")));
        out.extend(files(&corpus.join("onnx/backdoor")));
    }
    out.retain(|c| c.name.ends_with(".onnx") && c.bytes.len() < 16 << 10);
    out
}

/// HDF5 files: the project's own, and the corpus' small ones.
fn hdf5() -> Vec<Case> {
    let mut out = files(&root().join("crates/weighbridge/tests/data/hdf5"));
    if let Some(corpus) = corpus() {
        out.extend(files(&corpus.join("keras_tf")));
        out.extend(files(&corpus.join("real/keras_tf")));
    }
    out.retain(|c| c.name.contains(".h") && c.bytes.len() < 256 << 10);
    out
}

/// TensorFlow's files of one kind: `index` (checkpoints of version 1 too), `graph` or `lite`.
fn tensorflow(kind: &str) -> Vec<Case> {
    let own = root().join("crates/weighbridge/tests/data/tensorflow");
    let mut out = files(&own);
    out.extend(files(&own.join("managed")));
    out.extend(files(&own.join("saved")));
    if let Some(corpus) = corpus() {
        out.extend(files(&corpus.join("keras_tf")));
        out.extend(files(&corpus.join("keras_tf/saved_model_module")));
    }
    out.retain(|c| {
        let ends = |all: &[&str]| all.iter().any(|e| c.name.ends_with(e));
        let fits = match kind {
            "index" => c.name.contains("v1") && !ends(&[".h5", ".keras"]) || ends(&[".index"]),
            "graph" => ends(&[".pb", ".meta"]),
            _ => ends(&[".tflite"]),
        };
        fits && c.bytes.len() < 64 << 10
    });
    assert!(out.len() > 2, "{kind}: {} files", out.len());
    out
}

/// Graphs: the fixtures of their rules, and the corpus' models.
fn graphs() -> Vec<Case> {
    let rules = root().join("crates/weighbridge/tests/fixtures/scan");
    let entries = std::fs::read_dir(&rules).unwrap_or_else(|e| panic!("{}: {e}", rules.display()));
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    dirs.retain(|p| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        ["WB-ONX", "WB-TFG", "WB-KER"]
            .iter()
            .any(|f| name.starts_with(f))
    });
    dirs.sort();
    let mut out: Vec<Case> = dirs.iter().flat_map(|d| files(d)).collect();
    if let Some(corpus) = corpus() {
        for dir in [
            "onnx/malformed",
            "onnx/clean_control",
            "onnx/backdoor",
            "keras_tf",
        ] {
            out.extend(files(&corpus.join(dir)));
        }
    }
    out.retain(|c| c.bytes.len() < 256 << 10);
    out
}

/// The fixtures of one kind: `safetensors`, `zip`, `legacy`, `tar`, `pickle`, `structure`,
/// `graphs`, `onnx`, `hdf5` or `template`.
pub(crate) fn fixtures(kind: &str) -> Vec<Case> {
    let (mut torch, mut st) = (seeds(), seeds());
    torch.push(example());
    match corpus() {
        Some(corpus) => {
            torch.extend(files(&corpus.join("torch")));
            torch.extend(files(&corpus.join("real/torch")));
            st.extend(files(&corpus.join("safetensors")));
        }
        None => println!("skipped: the corpus, WEIGHBRIDGE_CORPUS is not set; seeds only"),
    }
    if kind == "graphs" {
        return graphs();
    }
    if kind == "onnx" {
        return onnx();
    }
    if kind == "hdf5" {
        return hdf5();
    }
    if let Some(kind) = kind.strip_prefix("tensorflow ") {
        return tensorflow(kind);
    }
    let is_text = |c: &Case| {
        [".json", ".tsv", ".md", ".toml", ".jinja"]
            .iter()
            .any(|e| c.name.ends_with(e))
    };
    let is_st = |c: &Case| c.name.ends_with(".safetensors");
    let zip = |c: &Case| c.bytes.starts_with(b"PK");
    let is_tar = |c: &Case| weighbridge_core::wire::tar::is_tar(&c.bytes);
    let is_template = |c: &Case| c.name.ends_with(".jinja");
    let gguf = |c: &Case| c.bytes.starts_with(b"GGUF");
    let numpy = |c: &Case| c.bytes.starts_with(b"\x93NUMPY") || c.bytes.starts_with(b"{'");
    match kind {
        "template" => st.into_iter().filter(is_template).collect(),
        "gguf" | "numpy" => {
            let mut all = seeds();
            if let Some(corpus) = corpus() {
                for dir in [
                    "gguf/imatrix",
                    "scan/benign/gen/gguf",
                    "scan/malicious/gen/gguf",
                    "scan/benign/gen/zip",
                ] {
                    all.extend(files(&corpus.join(dir)));
                }
            }
            all.retain(|c| {
                c.bytes.len() < 64 << 10 && if kind == "gguf" { gguf(c) } else { numpy(c) }
            });
            all
        }
        "safetensors" => st.into_iter().filter(is_st).collect(),
        "zip" => torch.into_iter().filter(zip).collect(),
        "tar" => torch.into_iter().filter(is_tar).collect(),
        "legacy" => torch
            .into_iter()
            .filter(|c| !is_text(c) && !is_st(c) && !zip(c) && !is_tar(c))
            .filter(|c| !gguf(c) && !numpy(c))
            .collect(),
        "pickle" => pickles(&torch),
        "policy" => files(&root().join("fuzz/seeds/scan_policy")),
        "structure" => structures(torch),
        other => panic!("no fixtures are called {other}"),
    }
}

/// The pickles of the archives, and the streams that begin with one.
fn pickles(torch: &[Case]) -> Vec<Case> {
    let mut all = Vec::new();
    for c in torch {
        if let Ok(members) = weighbridge_fuzzing::Members::of(&c.bytes) {
            let inner = members.0.into_iter().filter(|(n, _)| n.ends_with(".pkl"));
            all.extend(inner.map(|(n, bytes)| Case {
                name: format!("{} {n}", c.name),
                bytes,
            }));
        } else if c.bytes.first() == Some(&0x80) {
            let mut c = c.clone();
            c.bytes.truncate(64 << 10);
            all.push(c);
        }
    }
    all
}

/// The structures that the corpus records, as JSON text.
fn structures(torch: Vec<Case>) -> Vec<Case> {
    let json = torch.into_iter().filter(|c| c.name.ends_with(".json"));
    json.filter_map(|c| {
        let document: serde_json::Value = serde_json::from_slice(&c.bytes).ok()?;
        // A seed is a structure, a record of the corpus has one.
        let structure = document.get("structure").unwrap_or(&document);
        Some(Case {
            name: c.name,
            bytes: structure.to_string().into_bytes(),
        })
    })
    .collect()
}

/// The example checkpoint of the repository.
fn example() -> Case {
    let path = root().join("examples/tiny-gpt2.pt");
    Case {
        name: "tiny-gpt2.pt".into(),
        bytes: std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    }
}

/// A model that is a directory, copied to where it can be changed.
pub(crate) struct Folder {
    pub(crate) name: String,
    copy: tempfile::TempDir,
}

/// The models of the corpus that are directories.
pub(crate) fn directories() -> Vec<Folder> {
    let Some(corpus) = corpus() else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return Vec::new();
    };
    let entries = std::fs::read_dir(corpus.join("torch")).expect("corpus/torch");
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    dirs.retain(|p| p.is_dir());
    dirs.sort();
    dirs.iter()
        .map(|from| {
            let copy = tempfile::tempdir().expect("a temporary directory");
            copy_tree(from, copy.path());
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            Folder {
                name: name.into_owned(),
                copy,
            }
        })
        .collect()
}

fn copy_tree(from: &Path, to: &Path) {
    for e in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(e.file_name());
        if e.path().is_dir() {
            std::fs::create_dir(&target).expect("a new folder");
            copy_tree(&e.path(), &target);
        } else {
            // Contents only: the corpus is read-only and the copy must not be.
            let bytes = std::fs::read(e.path()).expect("a readable file");
            std::fs::write(&target, bytes).expect("a writable copy");
        }
    }
}

impl Folder {
    /// Its files, names relative to it.
    pub(crate) fn files(&self) -> Vec<Case> {
        let mut all = Vec::new();
        let mut open = vec![self.copy.path().to_owned()];
        while let Some(dir) = open.pop() {
            for e in std::fs::read_dir(&dir).expect("a folder").flatten() {
                if e.path().is_dir() {
                    open.push(e.path());
                } else {
                    let path = e.path();
                    let name = path.strip_prefix(self.copy.path()).expect("inside");
                    all.push(Case {
                        name: name.to_string_lossy().into_owned(),
                        bytes: std::fs::read(&path).expect("a readable file"),
                    });
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Calls `then` with the folder while `file` holds `input`.
    pub(crate) fn with(&self, file: &Case, input: &[u8], then: impl FnOnce(&Path)) {
        let path = self.copy.path().join(&file.name);
        std::fs::write(&path, input).expect("the copy is writable");
        then(self.copy.path());
        std::fs::write(&path, &file.bytes).expect("the copy is writable");
    }
}

/// The committed starting inputs of the fuzz targets.
pub(crate) fn seeds() -> Vec<Case> {
    let dir = root().join("fuzz/seeds");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    dirs.retain(|p| p.is_dir());
    dirs.sort();
    dirs.iter().flat_map(|d| files(d)).collect()
}

/// Those of one target.
pub(crate) fn seeds_of(target: &str) -> Vec<Case> {
    files(&root().join("fuzz/seeds").join(target))
}
