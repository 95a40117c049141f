//! ONNX models against their specification: what conforms passes, and what is broken is told with
//! its rule and place. Verdicts of the reference checker are recorded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::check::{Violation, check};
use weighbridge::format::{FormatReader, onnx::Onnx};
use weighbridge_core::source::SliceSource;

fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from);
    if corpus.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    corpus
}

fn options(lenient: bool) -> OpenOptions {
    OpenOptions {
        lenient,
        ..OpenOptions::default()
    }
}

fn verify(bytes: &[u8], lenient: bool) -> Vec<Violation> {
    let source = Arc::new(SliceSource::new(bytes.to_vec(), "m.onnx"));
    Onnx.verify(source, &options(lenient)).unwrap()
}

fn models(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    all.sort();
    all
}

/// Every model of `tests/data/onnx/broken.tsv`, which `make_broken.py` beside it wrote with the
/// reference checker's verdicts.
#[test]
fn broken_models_are_judged_as_the_reference_checker_judges_them() {
    let mut seen = 0;
    for line in include_str!("../data/onnx/broken.tsv").lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, rule, checker, full, model] = cells[..] else {
            panic!("{line}");
        };
        let bytes = hex::decode(model).unwrap();
        let strict = verify(&bytes, false);
        match rule {
            "-" => assert_eq!(strict, [], "{name}"),
            _ => {
                assert!(strict.iter().any(|v| v.rule == rule), "{name}: {strict:#?}");
                assert!(
                    strict
                        .iter()
                        .all(|v| v.offset.is_some_and(|o| o < bytes.len() as u64)),
                    "{name}: {strict:#?}"
                );
            }
        }
        let lenient = verify(&bytes, true);
        assert_eq!(lenient.is_empty(), checker == "ok", "{name}: {lenient:#?}");
        if checker != "ok" || full != "ok" {
            assert!(!strict.is_empty(), "{name} passes");
        }
        seen += 1;
    }
    assert_eq!(seen, 102);
}

/// Every model of `tests/data/onnx/shapes.tsv`, which `make_shapes.py` beside it wrote: shapes as the
/// reference infers them, one off, and operators called with what they cannot take.
#[test]
fn shapes_are_judged_as_the_reference_infers_them() {
    let mut seen = 0;
    for line in include_str!("../data/onnx/shapes.tsv").lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, rule, full, model] = cells[..] else {
            panic!("{line}");
        };
        let bytes = hex::decode(model).unwrap();
        let strict = verify(&bytes, false);
        match rule {
            "-" => assert_eq!(strict, [], "{name}"),
            _ => {
                let rules: Vec<&str> = strict.iter().map(|v| v.rule).collect();
                assert_eq!(rules, [rule], "{name}: {strict:#?}");
            }
        }
        // What the reference refuses is refused; some of the rest the definitions forbid.
        assert!(full == "ok" || rule != "-", "{name}");
        assert_eq!(verify(&bytes, true), [], "{name}");
        seen += 1;
    }
    assert_eq!(seen, 272);
}

/// The model of that name in the table.
fn model(name: &str) -> Vec<u8> {
    let table = include_str!("../data/onnx/broken.tsv");
    let line = table.lines().find(|l| l.split('\t').next() == Some(name));
    hex::decode(line.unwrap().rsplit('\t').next().unwrap()).unwrap()
}

#[test]
fn elements_of_six_bits_are_the_same_from_either_field() {
    let source = Arc::new(SliceSource::new(model("six_bits_twice"), "m.onnx"));
    let m = Onnx.open(source, &options(false)).unwrap();
    let bytes = |name: &str| {
        let t = m.tensors.iter().find(|t| t.name == name).unwrap();
        t.bytes().unwrap().to_vec()
    };
    assert_eq!(bytes("s"), [0x81, 0xf0, 0x13, 0x05]);
    assert_eq!(bytes("s"), bytes("r"));
}

/// A violation says where it is: the bytes it names are those of the name that is wrong.
#[test]
fn a_violation_names_its_bytes_and_its_place() {
    let bytes = model("value_hidden_in_branch");
    let v = verify(&bytes, false);
    let v = v.iter().find(|v| v.rule == "onnx.duplicate-value").unwrap();
    let (start, len) = (v.offset.unwrap() as usize, v.length.unwrap() as usize);
    assert_eq!(&bytes[start..start + len], b"x");
    assert_eq!(v.place, "m.onnx → graph → If third → else_branch → Abs → x");
    let bytes = model("nodes_out_of_order");
    let v = &verify(&bytes, false)[0];
    let (start, len) = (v.offset.unwrap() as usize, v.length.unwrap() as usize);
    assert_eq!(
        (v.rule, &bytes[start..start + len]),
        ("onnx.order", &b"b"[..])
    );
    assert_eq!(v.place, "m.onnx → graph → LeakyRelu first");
}

#[test]
fn conforming_models_break_no_rule() {
    let Some(corpus) = corpus() else { return };
    for (dir, least) in [
        ("onnx/conformance", 497),
        ("onnx/clean_control", 8),
        ("onnx/backdoor", 10),
        ("real/onnx", 11),
    ] {
        let mut seen = 0;
        for path in models(&corpus.join(dir)) {
            if path.to_string_lossy().contains("mnist-external") {
                // Its data lies beside it under another name.
                continue;
            }
            for lenient in [false, true] {
                let report = check(&path, &options(lenient)).unwrap();
                assert_eq!(report.violations, [], "{}", path.display());
            }
            seen += 1;
        }
        assert!(seen >= least, "{dir}: {seen}");
    }
}

#[test]
fn malformed_models_are_told_with_rule_and_place() {
    let Some(corpus) = corpus() else { return };
    for (name, rule, offset) in [
        ("cycle_unsorted", "onnx.order", 8),
        ("deep_subgraphs", "onnx.depth", 1721),
        ("ext_absolute", "onnx.external-path", 46),
        ("ext_backslash_drive", "onnx.external-path", 46),
        ("ext_key_injection", "onnx.external-key", 54),
        ("ext_traversal", "onnx.external-path", 46),
        ("huge_dims", "onnx.tensor-size", 9),
        ("len_past_end", "protobuf.length", 2),
        ("overflow_dims", "onnx.dimensions", 9),
        ("truncated", "protobuf.length", 2),
    ] {
        let path = corpus.join(format!("onnx/malformed/{name}.onnx"));
        let report = check(&path, &options(false)).unwrap();
        assert!(
            report
                .violations
                .iter()
                .any(|v| v.rule == rule && v.offset == Some(offset)),
            "{name}: {report:#?}"
        );
    }
}
