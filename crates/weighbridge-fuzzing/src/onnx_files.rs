//! What the targets that write ONNX files share: a folder of their own, and what has to hold of a
//! file that was written.

use std::path::Path;

use weighbridge::format::FormatReader as _;
use weighbridge::format::onnx::Onnx;
use weighbridge::{OpenOptions, Result};
use weighbridge_core::model::{FormatId, Model, Tensor};
use weighbridge_core::source::{Backend, open_file};

/// Largest tensor whose bytes are compared.
const COMPARED: u64 = 1 << 16;

thread_local! {
    /// Where this thread's files lie; made once.
    static FOLDER: Option<tempfile::TempDir> = tempfile::tempdir().ok();
}

/// Calls `f` with a folder in which nothing is but `m.onnx`, with the content `data`.
pub(crate) fn with_file(data: &[u8], f: &dyn Fn(&Path)) {
    FOLDER.with(|dir| match dir {
        Some(dir) => {
            clear(dir.path(), &[]);
            put(&dir.path().join("m.onnx"), data);
            f(dir.path());
        }
        None => panic!("there is no temporary directory"),
    });
}

/// A number that almost any change of an input changes: it picks what is done with it, where all of
/// it would take too long.
pub(crate) fn pick(data: &[u8]) -> usize {
    data.iter().map(|b| usize::from(*b)).sum()
}

/// Writes an input.
pub(crate) fn put(path: &Path, data: &[u8]) {
    if let Err(e) = std::fs::write(path, data) {
        panic!("cannot write the file to work on: {e}");
    }
}

/// Takes everything out of the folder but these files.
pub(crate) fn clear(dir: &Path, but: &[&str]) {
    for name in names(dir).iter().filter(|n| !but.contains(&n.as_str())) {
        let path = dir.join(name);
        let gone = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        if let Err(e) = gone {
            panic!("cannot remove {}: {e}", path.display());
        }
    }
}

/// The names of what lies in the folder, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<String> = all
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

/// The model at `path`, which is ONNX.
pub(crate) fn open(path: &Path) -> Result<Model> {
    options().open(path)
}

fn options() -> OpenOptions {
    OpenOptions {
        format: Some(FormatId::Onnx),
        ..OpenOptions::default()
    }
}

/// The rules that the file at `path` breaks.
pub(crate) fn broken(path: &Path) -> Vec<String> {
    let found = open_file(path, Backend::Pread).and_then(|s| Onnx.verify(s, &options()));
    match found {
        Ok(all) => all.iter().map(|v| format!("{v:?}")).collect(),
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    }
}

/// Two tensors have the same type, shape and bytes, as far as they can be read.
#[track_caller]
pub(crate) fn same(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{what}");
    if a.byte_len() > COMPARED {
        return;
    }
    if let (Ok(x), Ok(y)) = (a.bytes(), b.bytes()) {
        assert!(x == y, "{what}: {} has other bytes", a.name);
    }
}
