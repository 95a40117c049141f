//! Weights put into ONNX graphs: who goes where, and that nothing else changes.

use weighbridge::DType;
use weighbridge::convert::ConvertOptions;
use weighbridge::format::onnx::encode::Fields;

use crate::onnx_convert::*;

#[test]
fn weights_go_into_a_graph_and_every_other_byte_stays() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let w = f.at("w.safetensors");
    run(&tuned, &w, &quick()).unwrap();
    let out = f.at("out.onnx");
    let strict = ConvertOptions {
        strict: true,
        ..into(&base)
    };
    let report = run(&w, &out, &strict).unwrap();
    assert_eq!((report.tensors, report.output), (3, vec![out.clone()]));
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&tuned).unwrap());
    // By way of a checkpoint, and in the place of the base itself.
    let pt = f.at("w.pt");
    run(&w, &pt, &quick()).unwrap();
    run(&pt, &base, &into(&base)).unwrap();
    assert!(std::fs::read(&base).unwrap() == std::fs::read(&tuned).unwrap());
    // Weights of another graph are said to be that.
    let foreign = model_with(
        Fields::new().bytes(1, node("Sin", &["y"], "z")),
        &[
            tensor("w", kind::FLOAT, &[2, 3], [0; 24]),
            tensor("b", kind::FLOAT, &[3], [0; 12]),
        ],
    );
    let foreign = f.write("foreign.onnx", &foreign);
    let options = ConvertOptions {
        drop: vec!["^shape$".into()],
        ..into(&foreign)
    };
    let report = run(&w, &out, &options).unwrap();
    assert_eq!(report.warnings[0].rule, "convert.other-graph");
}

#[test]
fn names_are_paired_as_told_and_never_guessed() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let w = f.at("w.safetensors");
    let options = ConvertOptions {
        rename: vec![
            ("w".into(), "fc.weight".into()),
            ("b".into(), "fc.bias".into()),
        ],
        ..quick()
    };
    run(&tuned, &w, &options).unwrap();
    let out = f.at("out.onnx");
    let map = |pairs: &[(&str, &str)]| ConvertOptions {
        map: pairs
            .iter()
            .map(|(a, b)| ((*a).into(), (*b).into()))
            .collect(),
        ..into(&base)
    };
    let (code, message) = rule(run(&w, &out, &into(&base)));
    assert_eq!(code, "convert.partial");
    for part in [
        "2 of the graph's tensors: w, b",
        "2 of IN's: fc.bias, fc.weight",
    ] {
        assert!(
            message.contains(part) || message.contains("fc.weight, fc.bias"),
            "{message}"
        );
    }
    let both = [("fc.weight", "w"), ("fc.bias", "b")];
    run(&w, &out, &map(&both)).unwrap();
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&tuned).unwrap());
    for (pairs, part) in [
        (
            &[("fc.weight", "w"), ("nothing", "b")][..],
            "IN has no tensor",
        ),
        (
            &[("fc.weight", "v"), ("fc.bias", "b")],
            "the graph has no tensor",
        ),
        (&[("fc.weight", "w"), ("fc.bias", "w")], "two tensors"),
    ] {
        let (code, message) = rule(run(&w, &f.at("x.onnx"), &map(pairs)));
        assert_eq!(code, "convert.map");
        assert!(message.contains(part), "{message}");
    }
    let partial = ConvertOptions {
        partial: true,
        ..map(&both[..1])
    };
    let strict = ConvertOptions {
        strict: true,
        ..partial.clone()
    };
    assert_eq!(rule(run(&w, &f.at("x.onnx"), &strict)).0, "convert.strict");
    let report = run(&w, &out, &partial).unwrap();
    assert_eq!(report.changed.len(), 1);
    assert_eq!(
        (
            report.changed[0].what.as_str(),
            report.lost[0].what.as_str()
        ),
        ("b", "fc.bias")
    );
    let got = weights(&open(&out));
    assert_eq!(got["w"], weights(&open(&tuned))["w"]);
    assert_eq!(got["b"], weights(&open(&base))["b"]);
    assert_eq!(
        f.names(),
        ["base.onnx", "out.onnx", "tuned.onnx", "w.safetensors"]
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_way_out() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let w = f.at("w.safetensors");
    let half = ConvertOptions {
        dtype: Some(DType::F16),
        ..quick()
    };
    run(&tuned, &w, &half).unwrap();
    let out = f.at("out.onnx");
    let e = run(&w, &out, &into(&base)).unwrap_err();
    assert_eq!(e.rule(), "convert.graph-dtype");
    assert!(e.advice().unwrap().contains("--dtype f32"), "{e:?}");
    let cast = ConvertOptions {
        dtype: Some(DType::F32),
        ..into(&base)
    };
    let report = run(&w, &out, &cast).unwrap();
    let changed: Vec<&str> = report.changed.iter().map(|n| n.what.as_str()).collect();
    assert_eq!(changed, ["w", "b"], "{:?}", report.changed);
    // Small whole numbers are the same in both.
    assert_eq!(weights(&open(&out)), weights(&open(&tuned)));
    let turned = model(&[
        tensor("w", kind::FLOAT, &[3, 2], [0; 24]),
        tensor("b", kind::FLOAT, &[3], [0; 12]),
        tensor("shape", kind::INT64, &[1], [0; 8]),
    ]);
    let turned = f.write("turned.onnx", &turned);
    let e = run(&tuned, &out, &into(&turned)).unwrap_err();
    assert_eq!(e.rule(), "convert.graph-shape");
    assert!(e.advice().unwrap().contains("--transpose '^w$'"), "{e:?}");
    let want = floats(&[10.0, 13.0, 11.0, 14.0, 12.0, 15.0]);
    // As it lies in the file, cast on the way, and from where no element is aligned.
    let odd = tensor("w", kind::FLOAT, &[2, 3], &weights(&open(&tuned))["w"].2);
    let rest = [
        tensor("b", kind::FLOAT, &[3], [0; 12]),
        tensor("shape", kind::INT64, &[1], [0; 8]),
    ];
    for pad in 0..4 {
        let name = tensor(&"x".repeat(pad + 1), kind::INT64, &[1], [0; 8]);
        let all = [name, odd.clone(), rest[0].clone(), rest[1].clone()];
        let from = f.write("odd.onnx", &model(&all));
        let options = ConvertOptions {
            transpose: vec!["^w$".into()],
            drop: vec!["^x+$".into()],
            ..into(&turned)
        };
        let report = run(&from, &out, &options).unwrap();
        assert!(report.changed[0].why.contains("transposed"));
        assert_eq!(weights(&open(&out))["w"].2, want);
    }
    let options = ConvertOptions {
        transpose: vec!["w".into(), "none".into()],
        dtype: Some(DType::F32),
        ..into(&turned)
    };
    let report = run(&w, &out, &options).unwrap();
    assert_eq!(weights(&open(&out))["w"].2, want);
    assert_eq!(report.warnings[0].rule, "convert.unused-transpose");
    let options = ConvertOptions {
        transpose: vec!["b".into()],
        ..into(&turned)
    };
    assert_eq!(rule(run(&tuned, &out, &options)).0, "convert.transpose");
}

#[test]
fn a_graph_keeps_what_lies_beside_it() {
    let f = Folder::new();
    let numbers: Vec<u8> = (0..16u8).collect();
    f.write("in/w.bin", &numbers);
    let attribute = Fields::new().bytes(1, "value").int(20, 4);
    let attribute = attribute.bytes(5, outside("", &[1], "w.bin", 12));
    let other = Fields::new().bytes(1, node("ConstantOfShape", &["s"], "z").bytes(5, attribute));
    let all = [
        outside("w", &[2], "w.bin", 0),
        outside("v", &[1], "./w.bin", 8),
    ];
    let base = f.write("in/m.onnx", &model_with(other, &all));
    let w = f.at("w.safetensors");
    let options = ConvertOptions {
        select: vec!["^w$".into()],
        ..quick()
    };
    run(&base, &w, &options).unwrap();
    let out = f.at("out.onnx");
    let options = ConvertOptions {
        partial: true,
        ..into(&base)
    };
    run(&w, &out, &options).unwrap();
    let m = open(&out);
    assert_eq!(m.parts.len(), 1, "everything is in the file");
    assert_eq!(weights(&m), weights(&open(&base)));
    // What is missing cannot come along.
    std::fs::remove_file(f.at("in/w.bin")).unwrap();
    let before = f.names();
    assert_eq!(
        rule(run(&w, &f.at("x.onnx"), &options)).0,
        "onnx.external-missing"
    );
    assert_eq!(f.names(), before);
}

#[test]
fn flags_of_graphs_are_for_graphs() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let to = f.at("x.safetensors");
    assert_eq!(rule(run(&tuned, &to, &into(&base))).0, "convert.graph");
    run(&tuned, &to, &quick()).unwrap();
    assert_eq!(rule(run(&to, &f.at("x.onnx"), &quick())).0, "convert.graph");
    assert_eq!(
        rule(run(&tuned, &f.at("x.onnx"), &into(&to))).0,
        "convert.graph"
    );
    let cast = ConvertOptions {
        dtype: Some(DType::F16),
        ..quick()
    };
    let e = run(&tuned, &f.at("x.onnx"), &cast).unwrap_err();
    assert_eq!(e.rule(), "convert.graph-tensors");
    assert!(e.advice().unwrap().contains("quantize"));
}
