//! Running the binary, and files to run it on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command of the binary with an environment that cannot change its answers.
pub fn command(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_weighbridge"));
    c.args(args).stdin(Stdio::null());
    for v in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        c.env_remove(v);
    }
    c
}

/// Runs the binary.
pub fn run(args: &[&str]) -> Run {
    finished(command(args).output().unwrap())
}

pub fn finished(o: Output) -> Run {
    Run {
        code: o.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(o.stdout).unwrap(),
        stderr: String::from_utf8(o.stderr).unwrap(),
    }
}

/// Runs the binary with `--json`, and checks the document against `schema` when the run answered
/// the question, against the error's when it did not.
#[track_caller]
pub fn run_json(schema: &str, args: &[&str]) -> (i32, Json) {
    let mut args = args.to_vec();
    args.push("--json");
    let r = run(&args);
    let document: Json = serde_json::from_str(&r.stdout)
        .unwrap_or_else(|e| panic!("{args:?}: {e}\n{}\n{}", r.stdout, r.stderr));
    let schema = if document.get("error").is_some() {
        "error"
    } else {
        schema
    };
    crate::schema::assert_valid(schema, &document);
    (r.code, document)
}

/// The corpus, where it is on this machine.
pub fn corpus() -> Option<PathBuf> {
    let found = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from);
    if found.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    found
}

/// A folder for one test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` in the folder, as an argument.
    pub fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        self.at(name)
    }

    /// The names in the folder.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// One tensor of a safetensors file.
pub struct T<'a>(pub &'a str, pub &'a str, pub &'a [u64], pub &'a [u8]);

/// A safetensors file with these tensors and metadata, laid out by the format's own text.
pub fn safetensors(tensors: &[T<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let m: serde_json::Map<String, Json> = metadata
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Json::from(*v)))
            .collect();
        header.insert("__metadata__".into(), m.into());
    }
    let mut data = Vec::new();
    for T(name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            (*name).to_owned(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let mut header = Json::from(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    file
}

/// Little-endian F32 values.
pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A small model.
pub fn small() -> Vec<u8> {
    safetensors(
        &[
            T("a.weight", "F32", &[2, 2], &f32s(&[1.0, -2.0, 0.0, 4.5])),
            T("b", "I64", &[1], &7i64.to_le_bytes()),
        ],
        &[("format", "pt"), ("note", "x")],
    )
}

/// A model of the ONNX tests of the library (`tests/data/onnx/make_broken.py` there).
pub fn onnx(name: &str) -> Vec<u8> {
    let table = include_str!("../../../weighbridge/tests/data/onnx/broken.tsv");
    let line = table.lines().find(|l| l.split('\t').next() == Some(name));
    let model = line.unwrap().rsplit('\t').next().unwrap();
    hex::decode(model).unwrap()
}
