//! Graphs whose weights lie in safetensors files, and models that go as they are.

use std::path::Path;

use weighbridge::convert::ConvertOptions;
use weighbridge::format::onnx::encode::Fields;
use weighbridge::{DType, OpenOptions};
use weighbridge_core::model::TensorSource;

use crate::onnx_convert::*;

/// A model with tensors that are worth sharing: names, sizes in floats, first value.
fn large(parts: &[(&str, usize, f32)]) -> Vec<u8> {
    let one = |&(name, n, first): &(&str, usize, f32)| {
        let values: Vec<f32> = (0..n).map(|i| first + i as f32).collect();
        tensor(name, kind::FLOAT, &[n as i64], floats(&values))
    };
    let mut all: Vec<Fields> = parts.iter().map(one).collect();
    all.push(tensor("axes", kind::INT64, &[1], 1i64.to_le_bytes()));
    all.push(bare("typed", kind::FLOAT, &[2]).bytes(4, floats(&[0.5, 0.25])));
    all.push(tensor("packed", kind::INT4, &[3], [0x21, 3]));
    model(&all)
}

#[test]
fn one_file_serves_two_formats() {
    let f = Folder::new();
    let from = f.write(
        "m.onnx",
        &large(&[("a", 3, 1.0), ("b", 2048, 5.0), ("c", 1024, 9.0)]),
    );
    let (out, st) = (f.at("out.onnx"), f.at("out.safetensors"));
    let report = run(&from, &out, &shared(&st)).unwrap();
    assert_eq!(report.output, [st.clone(), out.clone()]);
    assert_eq!(report.tensors, 4);
    assert!(report.lost.is_empty() && report.changed.is_empty());
    let (graph, file) = (open(&out), open(&st));
    assert_eq!(weights(&graph), weights(&open(&from)));
    let mut all = weights(&graph);
    all.retain(|n, _| n != "axes" && n != "packed");
    assert_eq!(weights(&file), all);
    assert!(metadata(&file).contains_key("onnx.graph_sha256"));
    // Large tensors begin where memory is mapped.
    let mut places = 0;
    for t in &graph.tensors {
        let TensorSource::View(v) = &t.source else {
            continue;
        };
        let (source, _) = v.storage.raw_range().unwrap();
        let outside = source.name().ends_with("out.safetensors");
        assert_eq!(outside, all.contains_key(&t.name), "{}", t.name);
        if t.name == "b" || t.name == "c" {
            assert_eq!(v.offset % 4096, 0, "{}", t.name);
            places += 1;
        }
    }
    assert_eq!(places, 2);
    assert_eq!(graph.parts.len(), 2);
    assert!(
        weighbridge::check::check(&st, &OpenOptions::default())
            .unwrap()
            .violations
            .is_empty()
    );
    // Equal input gives equal files.
    let before = (std::fs::read(&out).unwrap(), std::fs::read(&st).unwrap());
    run(&from, &out, &shared(&st)).unwrap();
    assert!(before == (std::fs::read(&out).unwrap(), std::fs::read(&st).unwrap()));
    // Back into one file: the graph's own bytes but for where the weights are.
    let w = f.at("w.safetensors");
    run(&out, &w, &quick()).unwrap();
    let digest = |p: &Path| metadata(&open(p))["onnx.graph_sha256"].to_owned();
    assert_eq!(digest(&w), digest(&st));
}

#[test]
fn a_graph_points_into_weights_that_are_there() {
    let f = Folder::new();
    let base = f.write("base.onnx", &large(&[("a", 3, 1.0), ("b", 300, 5.0)]));
    let tuned = f.write("tuned.onnx", &large(&[("a", 3, 7.0), ("b", 300, 8.0)]));
    let st = f.at("w.safetensors");
    let options = ConvertOptions {
        dequantize: true,
        ..quick()
    };
    run(&tuned, &st, &options).unwrap();
    let bytes = std::fs::read(&st).unwrap();
    let out = f.at("out.onnx");
    let options = ConvertOptions {
        shared_weights: Some(st.clone()),
        drop: vec!["packed".into()],
        ..into(&base)
    };
    let report = run(&st, &out, &options).unwrap();
    assert_eq!(report.output, std::slice::from_ref(&out));
    assert!(
        std::fs::read(&st).unwrap() == bytes,
        "the weights stay as they are"
    );
    assert_eq!(weights(&open(&out)), weights(&open(&tuned)));
    assert!(std::fs::metadata(&out).unwrap().len() < 900);
    // What would have to change does not lie there.
    let cast = ConvertOptions {
        dtype: Some(DType::F64),
        ..options.clone()
    };
    assert_eq!(
        rule(run(&st, &f.at("x.onnx"), &cast)).0,
        "convert.graph-dtype"
    );
    let half = f.at("half.safetensors");
    let to_half = ConvertOptions {
        dtype: Some(DType::F16),
        dequantize: true,
        ..quick()
    };
    run(&tuned, &half, &to_half).unwrap();
    let cast = ConvertOptions {
        dtype: Some(DType::F32),
        shared_weights: Some(half.clone()),
        ..options.clone()
    };
    let (code, message) = rule(run(&half, &f.at("x.onnx"), &cast));
    assert_eq!(code, "convert.shared-weights");
    assert!(message.contains("does not lie in this file"), "{message}");
    // Into another file it can.
    let again = f.at("again.safetensors");
    let cast = ConvertOptions {
        shared_weights: Some(again.clone()),
        ..cast
    };
    let report = run(&half, &f.at("y.onnx"), &cast).unwrap();
    assert_eq!(report.output, [again, f.at("y.onnx")]);
    assert_eq!(
        weights(&open(&f.at("y.onnx")))["b"],
        weights(&open(&tuned))["b"]
    );
}

#[test]
fn shared_weights_have_to_lie_beside_their_graph() {
    let f = Folder::new();
    let from = f.write("m.onnx", &large(&[("b", 300, 5.0)]));
    f.write("sub/x", b"");
    let (out, e) = (f.at("out.onnx"), |path: &Path| shared(path));
    for bad in ["sub/w.safetensors", "w.bin", "w\\x.safetensors"] {
        let r = rule(run(&from, &out, &e(&f.at(bad)))).0;
        assert!(
            ["convert.shared-weights", "convert.location"].contains(&r),
            "{bad}: {r}"
        );
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("sub/w.safetensors", f.at("link.safetensors")).unwrap();
        let r = rule(run(&from, &out, &e(&f.at("link.safetensors"))));
        assert_eq!(r.0, "convert.shared-weights");
        std::fs::remove_file(f.at("link.safetensors")).unwrap();
    }
    // A model whose weights lie in the file that would be written is left whole.
    run(&from, &out, &e(&f.at("w.safetensors"))).unwrap();
    let before = std::fs::read(f.at("w.safetensors")).unwrap();
    let r = rule(run(&out, &f.at("x.onnx"), &e(&f.at("w.safetensors"))));
    assert_eq!(r.0, "convert.same-file");
    assert!(std::fs::read(f.at("w.safetensors")).unwrap() == before);
    assert_eq!(f.names(), ["m.onnx", "out.onnx", "sub", "w.safetensors"]);
}

#[test]
fn a_copy_is_the_whole_model() {
    let f = Folder::new();
    let graph = model(&[
        outside("w", &[2], "data/w.bin", 0),
        outside("v", &[1], "v", 0),
    ]);
    let from = f.write("in/m.onnx", &graph);
    f.write("in/data/w.bin", &[1; 8]);
    f.write("in/v", &[2; 4]);
    f.write("out/other", b"");
    let out = f.at("out/copy.onnx");
    let strict = ConvertOptions {
        strict: true,
        ..quick()
    };
    let report = run(&from, &out, &strict).unwrap();
    assert_eq!(
        report.output,
        [f.at("out/data/w.bin"), f.at("out/v"), out.clone()]
    );
    assert!(std::fs::read(&out).unwrap() == graph);
    assert_eq!(weights(&open(&out)), weights(&open(&from)));
    // The data is never put in the place of what may be another model's.
    assert_eq!(
        rule(run(&from, &f.at("out/two.onnx"), &quick())).0,
        "convert.exists"
    );
    // In the same folder it is there already.
    let report = run(&from, &f.at("in/two.onnx"), &quick()).unwrap();
    assert_eq!(report.output, [f.at("in/two.onnx")]);
    assert_eq!(rule(run(&from, &from, &quick())).0, "convert.same-file");
    std::fs::remove_file(f.at("in/v")).unwrap();
    f.write("third/x", b"");
    let r = rule(run(&from, &f.at("third/m.onnx"), &quick()));
    assert_eq!(r.0, "onnx.external-missing");
}

#[test]
fn a_folder_with_a_graph_is_the_model() {
    let f = Folder::new();
    f.write(
        "a/model.onnx",
        &model(&[outside("w", &[2], "model.onnx.data", 0)]),
    );
    f.write("a/model.onnx.data", &[1; 8]);
    f.write("a/config.json", b"{}");
    let m = open(&f.at("a"));
    assert_eq!((m.format.as_str(), m.parts.len()), ("onnx", 2));
    // Other precisions of it are variants.
    f.write("a/model_q4.onnx", &model(&[]));
    let m = open(&f.at("a"));
    assert_eq!(m.parts[0].path, f.at("a/model.onnx"));
    assert!(m.warnings.iter().any(|w| w.rule == "directory.choice"));
    // Safetensors of the same name go first, and so do those that a graph points into.
    run(&f.at("a"), &f.at("a/model.safetensors"), &quick()).unwrap();
    assert_eq!(open(&f.at("a")).format.as_str(), "safetensors");
    let from = f.write("m.onnx", &large(&[("b", 300, 5.0)]));
    f.write("b/x", b"");
    run(
        &from,
        &f.at("b/graph.onnx"),
        &shared(&f.at("b/weights.safetensors")),
    )
    .unwrap();
    let m = open(&f.at("b"));
    assert_eq!(m.format.as_str(), "safetensors");
    let said = m.warnings.iter().find(|w| w.rule == "directory.choice");
    assert!(said.unwrap().message.contains("graph.onnx"));
    // Two that have nothing to do with each other are two.
    f.write("c/one.onnx", &model(&[]));
    f.write("c/two.onnx", &model(&[]));
    let e = weighbridge::open(f.at("c")).unwrap_err();
    assert_eq!(e.rule(), "directory.ambiguous");
}
