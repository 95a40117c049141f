//! Weights put into ONNX graphs: taken out of a file and put back they are what they were, others
//! in their place are those, and what is no weight keeps its bytes wherever the weights lie.

use std::collections::HashMap;
use std::path::Path;

use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::format::onnx::{digest, parse};
use weighbridge::{OpenOptions, Result};
use weighbridge_core::Limits;
use weighbridge_core::model::{Model, Tensor};
use weighbridge_core::source::{Backend, open_file};

use crate::onnx_files::{broken, clear, names, open, pick, put, same, with_file};

/// An ONNX file: its weights, with what its constants hold or without, into other files, and from
/// there into it.
pub fn onnx_inject(data: &[u8]) {
    with_file(data, &|dir| all(dir, pick(data).is_multiple_of(2)));
}

fn quick() -> ConvertOptions {
    ConvertOptions {
        sync: false,
        threads: 1,
        weights_only: true,
        ..ConvertOptions::default()
    }
}

fn run(model: Model, to: &Path, options: &ConvertOptions) -> Result<()> {
    convert(model, to, options, &mut |_, _| {}).map(drop)
}

fn all(dir: &Path, constants: bool) {
    let path = dir.join("m.onnx");
    let Ok(model) = open(&path) else { return };
    let sound = broken(&path).is_empty();
    let taken = dir.join("w.safetensors");
    let options = ConvertOptions {
        constants,
        densify: true,
        ..quick()
    };
    let with = OpenOptions {
        constants,
        ..OpenOptions::default()
    };
    match with.open(&path).and_then(|m| run(m, &taken, &options)) {
        Ok(()) => {
            into(dir, constants, sound);
            turn(&taken);
            into(dir, constants, sound);
        }
        Err(e) => assert_eq!(names(dir), ["m.onnx"], "refused ({e}), and written"),
    }
    clear(dir, &["m.onnx"]);
    share(dir, model, sound);
}

/// Gives all weights of a safetensors file other values.
fn turn(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap_or_default();
    let head = bytes.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
    let start = usize::try_from(head.unwrap_or(0)).unwrap_or(0) + 8;
    for b in bytes.iter_mut().skip(start) {
        // What is true or false stays so.
        *b ^= 1;
    }
    put(file, &bytes);
}

/// Puts the weights in `w.safetensors` into the graph, in all ways.
fn into(dir: &Path, constants: bool, sound: bool) {
    let (path, taken) = (dir.join("m.onnx"), dir.join("w.safetensors"));
    let Ok(given) = weighbridge::open(&taken) else {
        panic!("our own safetensors file does not open");
    };
    for shared in [None, Some("w.safetensors"), Some("new.safetensors")] {
        clear(dir, &["m.onnx", "w.safetensors"]);
        let case = format!("{constants} {shared:?}");
        let options = ConvertOptions {
            graph: Some(path.clone()),
            partial: true,
            constants,
            shared_weights: shared.map(|s| dir.join(s)),
            ..quick()
        };
        let out = dir.join("out.onnx");
        if let Err(e) = run(given.clone(), &out, &options) {
            let left = names(dir);
            assert_eq!(left, ["m.onnx", "w.safetensors"], "{case}: refused ({e})");
            continue;
        }
        judge(&path, &out, sound, &case);
        let with = OpenOptions {
            constants,
            ..OpenOptions::default()
        };
        let (Ok(old), Ok(new)) = (with.open(&path), with.open(&out)) else {
            panic!("{case}: the result does not open with its constants");
        };
        assert_eq!(old.tensors.len(), new.tensors.len(), "{case}");
        let given: HashMap<&str, &Tensor> =
            given.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        // A graph and one in it may each have a weight of a name: one of them gets it. One without
        // a name gets none.
        let mut met: HashMap<&str, usize> = HashMap::new();
        old.tensors
            .iter()
            .for_each(|t| *met.entry(t.name.as_str()).or_default() += 1);
        for t in new.tensors.iter().filter(|t| met[t.name.as_str()] == 1) {
            let g = given.get(t.name.as_str());
            if let Some(g) = g.filter(|_| !t.name.is_empty()) {
                same(g, t, &case);
            }
        }
    }
}

/// Lets the weights lie in a safetensors file.
fn share(dir: &Path, model: Model, sound: bool) {
    let (path, out) = (dir.join("m.onnx"), dir.join("out.onnx"));
    let options = ConvertOptions {
        shared_weights: Some(dir.join("w.safetensors")),
        ..quick()
    };
    if let Err(e) = run(model, &out, &options) {
        assert_eq!(names(dir), ["m.onnx"], "refused ({e}), and written");
        return;
    }
    judge(&path, &out, sound, "shared");
    if let (Ok(old), Ok(new)) = (open(&path), open(&out)) {
        assert_eq!(old.tensors.len(), new.tensors.len());
        for (a, b) in old.tensors.iter().zip(&new.tensors) {
            same(a, b, "shared");
        }
    }
}

/// A result opens, is as sound as the graph was, and is the same graph.
fn judge(graph: &Path, out: &Path, sound: bool, case: &str) {
    if let Err(e) = open(out) {
        panic!("{case}: the result does not open: {e}");
    }
    if sound {
        let found = broken(out);
        assert!(found.is_empty(), "{case}: {found:#?}");
    }
    let sha = |p: &Path| {
        let source = open_file(p, Backend::Pread)?;
        let parsed = parse::parse(source.as_ref(), &Limits::default())?;
        digest::graph_sha256(source.as_ref(), &parsed.model)
    };
    match (sha(graph), sha(out)) {
        (Ok(a), Ok(b)) => assert!(
            a == b || case.starts_with("true"),
            "{case}: another graph than it was"
        ),
        (a, b) => panic!("{case}: {a:?} {b:?}"),
    }
}
