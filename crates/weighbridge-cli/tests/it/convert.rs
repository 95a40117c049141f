//! `convert`.

use serde_json::json;

use crate::common::{Folder, T, corpus, run, run_json, safetensors, small};

#[test]
fn a_round_trip_keeps_every_tensor() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json("convert", &["convert", &m, &f.at("m.pt")]);
    assert_eq!(code, 0);
    assert_eq!(d["output"], json!([f.at("m.pt")]));
    assert_eq!(d["tensors"], 2);
    assert_eq!(
        run(&["convert", &f.at("m.pt"), &f.at("back.safetensors")]).code,
        0
    );
    assert_eq!(run(&["diff", &m, &f.at("back.safetensors")]).code, 0);
    assert_eq!(
        run(&["check", &f.at("m.pt"), &f.at("back.safetensors")]).code,
        0
    );
}

#[test]
fn people_are_told_what_was_carried() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let r = run(&["convert", &m, &f.at("m.pt")]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    for text in [
        "carried",
        "2 tensors",
        "F32 × 1",
        "I64 × 1",
        "wrote",
        "m.pt",
    ] {
        assert!(r.stdout.contains(text), "{text} in {}", r.stdout);
    }
    let r = run(&["convert", "--quiet", &m, &f.at("n.pt")]);
    assert_eq!((r.code, r.stdout.as_str(), r.stderr.as_str()), (0, "", ""));
}

#[test]
fn a_dry_run_writes_nothing() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json("convert", &["convert", "--dry-run", &m, &f.at("m.pt")]);
    assert_eq!((code, &d["tensors"]), (0, &json!(2)));
    assert_eq!(
        run(&["convert", "--dry-run", "--to", "pt", &m, &f.at("new/")]).code,
        0
    );
    assert_eq!(f.names(), ["m.safetensors"]);
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json(
        "convert",
        &[
            "convert",
            "--strict",
            "--dtype",
            "f16",
            &m,
            &f.at("o.safetensors"),
        ],
    );
    assert_eq!((code, &d["error"]["kind"]), (2, &json!("lossy")), "{d}");
    let mut broken = small();
    broken.truncate(broken.len() - 3);
    let b = f.write("b.safetensors", &broken);
    assert_eq!(run(&["convert", &b, &f.at("o.pt")]).code, 2);
    assert_eq!(
        run(&["convert", "--to", "pt", &b, &f.at("folder/")]).code,
        2
    );
    assert_eq!(run(&["convert", &m, &f.at("o.xyz")]).code, 2);
    assert_eq!(
        run(&["convert", &m, &f.at("o.safetensors"), "--select", "("]).code,
        2
    );
    assert_eq!(
        run(&["convert", &m, &f.at("o.safetensors"), "--select", "none"]).code,
        2
    );
    assert_eq!(f.names(), ["b.safetensors", "m.safetensors"]);
}

#[test]
fn tensors_are_selected_and_renamed() {
    let f = Folder::new();
    let m = f.write(
        "m.safetensors",
        &safetensors(
            &[
                T("model.a", "U8", &[1], &[1]),
                T("model.b", "U8", &[1], &[2]),
                T("optimizer.c", "U8", &[1], &[3]),
            ],
            &[],
        ),
    );
    let out = f.at("o.safetensors");
    let args = [
        "convert",
        &m,
        &out,
        "--select",
        "^model\\.",
        "--drop",
        "b$",
        "--strip-prefix",
        "model.",
        "--rename",
        "a=z",
        "--weights-only",
    ];
    assert_eq!(run(&args).code, 0);
    let (_, d) = run_json("inspect", &["inspect", &out]);
    assert_eq!(d["tensors"].as_array().unwrap().len(), 1);
    assert_eq!(d["tensors"][0]["name"], "z");
}

#[test]
fn a_folder_as_output_gets_the_name_other_tools_look_for() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let r = run(&["convert", "--to", "safetensors", &m, &f.at("new/")]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    assert!(f.path().join("new/model.safetensors").is_file());
    assert_eq!(
        run(&["convert", &m, &f.at("new")]).code,
        2,
        "the format is not told"
    );
    // The folder opens as the model it holds.
    assert_eq!(run(&["diff", &m, &f.at("new")]).code, 0);
}

#[test]
fn shards_come_with_an_index() {
    let f = Folder::new();
    let bytes = vec![1u8; 1000];
    let names: Vec<String> = (0..10).map(|i| format!("t{i}")).collect();
    let tensors: Vec<T<'_>> = names.iter().map(|n| T(n, "U8", &[1000], &bytes)).collect();
    let m = f.write("m.safetensors", &safetensors(&tensors, &[]));
    let args = [
        "convert",
        "--shard-size",
        "3kB",
        "--to",
        "safetensors",
        &m,
        &f.at("s/"),
    ];
    let (code, d) = run_json("convert", &args);
    assert_eq!(code, 0);
    assert!(d["output"].as_array().unwrap().len() > 3, "{d}");
    assert!(
        f.path().join("s/model.safetensors.index.json").is_file(),
        "{d}"
    );
    assert_eq!(run(&["diff", &m, &f.at("s")]).code, 0);
}

#[test]
fn checkpoints_of_the_corpus_convert_to_what_is_expected() {
    let Some(corpus) = corpus() else { return };
    let f = Folder::new();
    let mut seen = 0;
    for name in [
        "train_ckpt.ckpt",
        "tied.pt",
        "strided_views.pt",
        "torchscript.pt",
        "dcp",
        "lightning.ckpt",
    ] {
        let input = corpus.join("torch").join(name);
        if !input.exists() {
            continue;
        }
        let out = f.at(&format!("{name}.safetensors"));
        let (code, d) = run_json("convert", &["convert", input.to_str().unwrap(), &out]);
        assert_eq!(code, 0, "{name}: {d}");
        let expected = input.with_extension("safetensors");
        let (code, d) = run_json("diff", &["diff", &out, expected.to_str().unwrap()]);
        assert_eq!(code, 0, "{name}: {d}");
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn gguf_is_a_target_and_a_format_to_check() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (plain, folder) = (f.at("weights"), f.at("out/"));
    let (code, d) = run_json("convert", &["convert", &m, &plain, "--to", "gguf"]);
    assert_eq!(code, 0, "{d}");
    let (code, d) = run_json("check", &["check", "--format", "gguf", &plain]);
    assert_eq!((code, d["format"].as_str()), (0, Some("gguf")), "{d}");
    assert_eq!(run(&["check", "--format", "gguf", &m]).code, 1);
    let r = run(&["convert", &m, &folder, "--to", "gguf"]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    assert!(std::path::Path::new(&f.at("out/model.gguf")).exists());
}

/// An ONNX model of two F32 tensors, made of the fields of `onnx.proto3`.
fn onnx(a: &[f32], b: &[f32]) -> Vec<u8> {
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let len = u8::try_from(value.len()).unwrap();
        let head: &[u8] = if len < 128 { &[len] } else { &[len, 1] };
        [&[number << 3 | 2], head, value].concat()
    }
    let tensor = |name: &str, x: &[f32]| {
        let (dims, kind) = (vec![0x08, x.len() as u8], vec![0x10, 1]);
        let values = bytes(9, &crate::common::f32s(x));
        bytes(5, &[dims, kind, bytes(8, name.as_bytes()), values].concat())
    };
    let graph = [bytes(2, b"g"), tensor("a", a), tensor("b", b)].concat();
    [vec![0x08, 8], bytes(7, &graph), bytes(8, &[0x10, 17])].concat()
}

#[test]
fn weights_go_into_a_graph() {
    let f = Folder::new();
    let base = f.write("base.onnx", &onnx(&[0.0; 2], &[0.0; 3]));
    let tuned = f.write("tuned.onnx", &onnx(&[1.0, 2.0], &[3.0, 4.0, 5.0]));
    let (w, out) = (f.at("w.safetensors"), f.at("out.onnx"));
    let (code, d) = run_json("convert", &["convert", &tuned, &w, "--rename", "a=x=y"]);
    assert_eq!((code, &d["lost"][0]["what"]), (0, &json!("graph")), "{d}");
    let names = f.write("names.txt", b"# what the graph calls them\nx=y\ta\n\n");
    let into = ["convert", &w, &out, "--graph", &base];
    let (code, d) = run_json("convert", &into);
    assert_eq!(
        (code, &d["error"]["rule"]),
        (2, &json!("convert.partial")),
        "{d}"
    );
    let (code, d) = run_json("convert", &[&into[..], &["--map", &names]].concat());
    assert_eq!((code, &d["tensors"]), (0, &json!(2)), "{d}");
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&tuned).unwrap());
    let r = run(&[&into[..], &["--partial", "--dry-run"]].concat());
    assert_eq!(r.code, 0, "{}", r.stderr);
    for text in [
        "x=y: the graph has no tensor",
        "a: the graph keeps",
        "would write",
    ] {
        assert!(r.stdout.contains(text), "{text} in {}", r.stdout);
    }
    assert_eq!(
        run(&["convert", &w, &out, "--map", "a=b"]).code,
        2,
        "no --graph"
    );
    let bad = f.write("bad.txt", b"one\n");
    let r = run(&[&into[..], &["--map", &bad]].concat());
    assert!(r.stderr.contains("line 1") && r.code == 2, "{}", r.stderr);
    assert_eq!(run(&["convert", &w, &f.at("n.onnx")]).code, 2, "no graph");
}

#[test]
fn a_graph_and_its_weights_are_written_together() {
    let f = Folder::new();
    let m = f.write("m.onnx", &onnx(&[1.0, 2.0], &[3.0, 4.0, 5.0]));
    let (out, st) = (f.at("out.onnx"), f.at("out.safetensors"));
    let share = ["convert", &m, &out, "--shared-weights", &st];
    let (code, d) = run_json("convert", &share);
    assert_eq!((code, &d["output"]), (0, &json!([st, out])), "{d}");
    assert_eq!(run(&["diff", &m, &out]).code, 0);
    assert_eq!(run(&["diff", &m, &st]).code, 0);
    assert_eq!(run(&["check", &out, &st]).code, 0);
    std::fs::remove_file(&out).unwrap();
    let (code, d) = run_json(
        "convert",
        &["convert", &st, &out, "--graph", &m, "--shared-weights", &st],
    );
    assert_eq!((code, &d["output"]), (0, &json!([out])), "{d}");
    assert_eq!(run(&["diff", &m, &out]).code, 0);
    let r = run(&["convert", &out, &f.at("copy/"), "--to", "onnx"]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    assert_eq!(run(&["diff", &m, &f.at("copy")]).code, 0);
}
