//! Tensors of ONNX models against ONNX's own library (`tests/data/onnx/make.py`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use weighbridge::Model;
use weighbridge_core::model::{AttributeValue, Graph, Layout, Tensor, Value};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx")
}

/// ONNX's name of a dtype.
fn name_of(t: &Tensor) -> &'static str {
    let id = weighbridge::format::onnx::types::data_type(t.dtype).unwrap();
    weighbridge::format::onnx::types::name(id).unwrap()
}

fn row(kind: &str, name: &str, t: &Tensor) -> String {
    let dims: Vec<String> = t.shape.iter().map(u64::to_string).collect();
    let digest = match t.read_vec() {
        // The table has nothing of texts.
        Ok(_) if t.dtype == weighbridge::DType::Str => "-".into(),
        Ok(bytes) => hex::encode(Sha256::digest(bytes)),
        Err(e) if e.rule() == "onnx.external-missing" => "unreadable".into(),
        Err(e) => panic!("{name}: {e}"),
    };
    format!(
        "{kind}\t{name}\t{}\t{}\t{digest}",
        name_of(t),
        dims.join(",")
    )
}

/// Initializers of a graph and of the graphs in it, and tensors of its constants.
fn rows(g: &Graph, out: &mut Vec<String>) {
    let dense = g
        .initializers
        .iter()
        .filter(|t| t.layout == Layout::Strided);
    out.extend(dense.map(|t| row("initializer", &t.name, t)));
    for n in &g.nodes {
        for (_, body) in n.bodies() {
            rows(body, out);
        }
        if let (true, Some(AttributeValue::Tensor(t))) = (n.is("Constant"), n.attribute("value"))
            && t.layout == Layout::Strided
        {
            out.push(row("constant", &n.outputs[0], t));
        }
    }
}

fn rows_of(path: &Path) -> Vec<String> {
    let model = weighbridge::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut out = Vec::new();
    rows(model.graph.as_ref().unwrap(), &mut out);
    out.sort();
    out
}

fn open(name: &str) -> Model {
    weighbridge::open(data().join(name)).unwrap()
}

#[test]
fn every_way_of_storing_a_tensor_is_read_as_the_library_reads_it() {
    let expected = std::fs::read_to_string(data().join("expected.tsv")).unwrap();
    let mut all: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in expected.lines() {
        let (model, row) = line.split_once('\t').unwrap();
        all.entry(model).or_default().push(row);
    }
    assert_eq!(all.len(), 2);
    for (model, mut wanted) in all {
        wanted.sort_unstable();
        assert_eq!(rows_of(&data().join(model)), wanted, "{model}");
    }
}

#[test]
fn every_tensor_of_the_corpus_is_read_as_the_library_reads_it() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let expected = std::fs::read_to_string(data().join("corpus.tsv")).unwrap();
    let mut models = 0;
    for line in expected.lines() {
        let mut words = line.split('\t');
        let (model, n, digest) = (words.next(), words.next(), words.next());
        let model = model.unwrap();
        let found = rows_of(&corpus.join(model));
        assert_eq!(Some(found.len().to_string().as_str()), n, "{model}");
        let mut text = String::new();
        for r in &found {
            writeln!(text, "{r}").unwrap();
        }
        let made = hex::encode(Sha256::digest(&text));
        assert_eq!(Some(made.as_str()), digest, "{model}: {text}");
        models += 1;
    }
    assert!(models > 520, "{models}");
}

#[test]
fn tensors_of_bodies_are_listed_beside_the_others() {
    let model = open("storage.onnx");
    let names: Vec<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    let at = names.iter().position(|&n| n == "inside").unwrap();
    assert_eq!(names[at + 1], "inside#2");
    let labels = [at, at + 1].map(|i| model.tensors[i].label());
    // Attributes lie in the order of their names.
    assert_eq!(
        labels,
        [
            Some("choose.else_branch.inside"),
            Some("choose.then_branch.inside")
        ]
    );
    assert!(model.warnings.iter().any(|w| w.rule == "names.collision"));
    // 26 stored ones, four by hand, two sparse, two inside, and the texts.
    assert_eq!(names.len(), 36);
    let texts = model.tensor("texts").unwrap();
    assert_eq!(texts.dtype.as_str(), "STR");
    let expected: Vec<u8> = [&b"one"[..], b"\xff\xfe", b""]
        .iter()
        .flat_map(|t| [&(t.len() as u64).to_le_bytes(), *t].concat())
        .collect();
    assert_eq!(texts.read_vec().unwrap(), expected);
}

#[test]
fn sparse_tensors_say_where_their_values_stand() {
    let model = open("storage.onnx");
    for (name, columns) in [
        ("sparse.linear", [0, 1, 1, 2]),
        ("sparse.rows", [0, 1, 1, 2]),
    ] {
        let t = model.tensor(name).unwrap();
        assert_eq!(t.layout, Layout::SparseCoo);
        assert_eq!(t.shape.as_slice(), [2, 3]);
        let s = t.sparse().unwrap();
        let at: Vec<i64> = s.indices[0]
            .read_vec()
            .unwrap()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect();
        assert_eq!(at, columns, "{name}");
        assert_eq!(s.values.numel(), Some(2));
    }
}

#[test]
fn what_the_model_says_of_itself_is_metadata() {
    let model = open("storage.onnx");
    let get = |key: &str| {
        let mut all = model.metadata.iter();
        all.find(|(k, _)| k == key).map(|(_, v)| v)
    };
    assert_eq!(get("colour").and_then(Value::as_str), Some("blue"));
    assert_eq!(
        get("onnx.producer_name").and_then(Value::as_str),
        Some("make.py")
    );
    let opsets = get("onnx.opset_import").unwrap();
    assert_eq!(opsets.get("ai.onnx").and_then(Value::as_int), Some(21));
    assert_eq!(opsets.get("ai.onnx.ml").and_then(Value::as_int), Some(4));
    assert_eq!(model.version.as_deref(), Some("11"));
}

#[test]
fn the_parts_are_the_graph_and_every_file_beside_it() {
    let model = open("external.onnx");
    let names: Vec<_> = model.parts.iter().map(|p| p.path.file_name()).collect();
    assert_eq!(
        names,
        [
            Some("external.onnx".as_ref()),
            Some("external.bin".as_ref())
        ]
    );
    assert_eq!(model.parts[1].bytes, 64);
    assert_eq!(model.container, Some("external"));
}

#[test]
fn a_model_without_its_data_is_listed_and_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("external.onnx");
    std::fs::copy(data().join("external.onnx"), &path).unwrap();
    let model = weighbridge::open(&path).unwrap();
    assert_eq!(model.tensors.len(), 3);
    let missing = |w: &&weighbridge_core::model::Warning| w.rule == "onnx.external-missing";
    assert_eq!(model.warnings.iter().filter(missing).count(), 1);
    let e = model.tensors[0].read_vec().unwrap_err();
    assert_eq!(e.rule(), "onnx.external-missing");
    // Cut short it is an error at once.
    std::fs::write(dir.path().join("external.bin"), [0; 40]).unwrap();
    let e = weighbridge::open(&path).unwrap_err();
    assert_eq!(e.rule(), "onnx.external-range");
}
