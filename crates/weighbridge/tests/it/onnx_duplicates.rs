//! Two initializers of one name in one graph: seen, and never moved or changed.

use std::fs;
use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::edit::{Change, EditOptions, edit};
use weighbridge::format::onnx::encode::Fields;
use weighbridge::format::onnx::write::{External, Weights};
use weighbridge::quantize::{OnnxOptions, OnnxType, quantize_onnx};
use weighbridge::split::{MergeOptions, SplitOptions, merge, split};
use weighbridge::{Error, Result};

use crate::onnx_write::{change, move_to, set};

const RULE: &str = "onnx.duplicate-initializer";

/// Floats of a matrix of 16 by 16, in the file or beside it.
fn weight(name: &str, value: f32, beside: Option<&str>) -> Fields {
    let head = Fields::new()
        .each_int(1, &[16, 16])
        .int(2, 1)
        .bytes(8, name);
    match beside {
        None => head.bytes(9, value.to_le_bytes().repeat(256)),
        Some(file) => head.entry(13, "location", file).int(14, 1),
    }
}

fn sparse(name: &str) -> Fields {
    let values = Fields::new().int(1, 1).int(2, 1).bytes(8, name);
    let indices = Fields::new().int(1, 1).int(2, 7).bytes(9, [0; 8]);
    Fields::new()
        .bytes(1, values.bytes(9, [0; 4]))
        .bytes(2, indices)
        .int(3, 256)
}

fn product() -> Fields {
    let node = Fields::new().bytes(1, "x").bytes(1, "w").bytes(2, "y");
    node.bytes(3, "product").bytes(4, "MatMul")
}

/// A graph with these fields of its own behind a product of `w`.
fn graph(weights: &[(u32, Fields)]) -> Fields {
    let start = Fields::new().bytes(1, product()).bytes(2, "g");
    weights.iter().fold(start, |g, (n, w)| g.bytes(*n, w))
}

fn model(graph: Fields) -> Vec<u8> {
    let opset = Fields::new().int(2, 17);
    Fields::new().int(1, 8).bytes(7, graph).bytes(8, opset).0
}

/// Models that have a name twice.
fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let two = [
        (5, weight("w", 1.0, None)),
        (5, weight("w", 2.0, None)),
        (5, weight("v", 3.0, None)),
    ];
    let beside = [
        (5, weight("w", 1.0, Some("old.bin"))),
        (5, weight("w", 2.0, None)),
    ];
    let kinds = [(5, weight("w", 1.0, None)), (15, sparse("w"))];
    let inner = Fields::new().bytes(1, "then_branch").int(20, 5);
    let inner = inner.bytes(6, graph(&two));
    let branch = Fields::new().bytes(1, "c").bytes(2, "z").bytes(4, "If");
    let nested = graph(&[(5, weight("w", 1.0, None)), (1, branch.bytes(5, inner))]);
    vec![
        ("two", model(graph(&two))),
        ("beside", model(graph(&beside))),
        ("sparse", model(graph(&kinds))),
        ("nested", model(nested)),
    ]
}

fn folder(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    fs::write(&path, bytes).unwrap();
    fs::write(dir.path().join("old.bin"), 1f32.to_le_bytes().repeat(256)).unwrap();
    (dir, path)
}

/// That `done` is refused for the second of the two, which begins behind the first.
#[track_caller]
fn refused(case: &str, done: Result<()>) {
    let e: Error = done.expect_err(case);
    assert_eq!(e.rule(), RULE, "{case}: {e}");
    assert!(
        e.byte_span().is_some_and(|s| s.offset > 64),
        "{case}: {e:?}"
    );
    assert!(e.to_string().contains("m.onnx"), "{case}: {e}");
    assert!(e.advice().is_some(), "{case}");
}

fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).unwrap();
    let mut all: Vec<String> = all
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

#[test]
fn what_writes_weights_refuses_a_name_that_stands_twice() {
    for (case, bytes) in cases() {
        let (dir, path) = folder(&bytes);
        let external = Weights::External(External::default());
        refused(case, move_to(&path, external, None).map(drop));
        refused(case, move_to(&path, Weights::Inline, None).map(drop));
        let prefix = dir.path().join("parts");
        let options = SplitOptions::default();
        refused(
            case,
            split(&path, &prefix, &options, &mut |_, _| {}).map(drop),
        );
        let out = dir.path().join("out.onnx");
        let options = MergeOptions::default();
        // A model in one file is no case for it.
        if case == "beside" {
            refused(case, merge(&path, &out, &options, &mut |_, _| {}).map(drop));
        }
        let open = || weighbridge::open(&path).unwrap();
        let options = OnnxOptions::new(OnnxType::Int8);
        refused(
            case,
            quantize_onnx(open(), &out, &options, &mut |_, _| {}).map(drop),
        );
        let shared = ConvertOptions {
            shared_weights: Some(dir.path().join("w.safetensors")),
            ..ConvertOptions::default()
        };
        refused(
            case,
            convert(open(), &out, &shared, &mut |_, _| {}).map(drop),
        );
        let given = dir.path().join("given.onnx");
        fs::write(&given, model(graph(&[(5, weight("w", 5.0, None))]))).unwrap();
        let into = ConvertOptions {
            graph: Some(path.clone()),
            ..ConvertOptions::default()
        };
        let given = weighbridge::open(&given).unwrap();
        refused(case, convert(given, &out, &into, &mut |_, _| {}).map(drop));
        assert_eq!(
            names(dir.path()),
            ["given.onnx", "m.onnx", "old.bin"],
            "{case}"
        );
        assert!(fs::read(&path).unwrap() == bytes, "{case}");
    }
}

#[test]
fn what_moves_no_weight_goes_on() {
    for (case, bytes) in cases() {
        let (dir, path) = folder(&bytes);
        assert!(!weighbridge::open(&path).unwrap().tensors.is_empty());
        change(
            &path,
            &[set("note=of a length that moves what lies behind")],
        )
        .unwrap();
        let out = dir.path().join("sub/m.onnx");
        fs::create_dir(out.parent().unwrap()).unwrap();
        let model = weighbridge::open(&path).unwrap();
        convert(model, &out, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
        assert!(
            fs::read(&out).unwrap() == fs::read(&path).unwrap(),
            "{case}"
        );
    }
}

#[test]
fn once_both_are_gone_the_others_move() {
    let (_, bytes) = cases().remove(0);
    let (dir, path) = folder(&bytes);
    let options = EditOptions {
        weights: Weights::External(External::default()),
        ..EditOptions::default()
    };
    let node = Change::Rename("y".into(), "q".into());
    let e = edit(&path, &[node], &options, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), RULE);
    // Nothing reads `w` here.
    let unread = graph(&[
        (5, weight("u", 1.0, None)),
        (5, weight("u", 2.0, None)),
        (5, weight("w", 3.0, None)),
    ]);
    fs::write(&path, model(unread)).unwrap();
    edit(
        &path,
        &[Change::Remove("u".into())],
        &options,
        &mut |_, _| {},
    )
    .unwrap();
    let data = fs::read(dir.path().join("m.onnx.data")).unwrap();
    assert!(data == 3f32.to_le_bytes().repeat(256));
}
