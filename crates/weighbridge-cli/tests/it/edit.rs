//! `edit`, `split` and `merge`.

use std::path::Path;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::common::{Folder, T, corpus, run, run_json, safetensors, small};

/// A GGUF file: an architecture, and `n` tensors of 16 floats.
fn gguf(n: u64) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    let mut f = b"GGUF\x03\0\0\0".to_vec();
    f.extend(n.to_le_bytes());
    f.extend(2u64.to_le_bytes());
    for (key, value) in [("general.architecture", "llama"), ("general.name", "small")] {
        text(&mut f, key);
        f.extend(8u32.to_le_bytes());
        text(&mut f, value);
    }
    for i in 0..n {
        text(&mut f, &format!("t{i}"));
        f.extend(1u32.to_le_bytes());
        f.extend(16u64.to_le_bytes());
        f.extend(0u32.to_le_bytes());
        f.extend((i * 64).to_le_bytes());
    }
    f.resize(f.len().next_multiple_of(32), 0);
    f.extend((0..n * 64).map(|i| i as u8));
    f
}

fn metadata(path: &str, key: &str) -> Json {
    let (code, d) = run_json("inspect", &["inspect", path]);
    assert_eq!(code, 0, "{d}");
    d["metadata"][key].clone()
}

#[test]
fn every_flag_does_what_it_says() {
    let f = Folder::new();
    let m = f.write("m.gguf", &gguf(3));
    let template = f.write("t.jinja", b"{{ messages }}\n");
    let out = f.at("o.gguf");
    let args = [
        "edit",
        &m,
        "--set",
        "general.name=other",
        "--set",
        "x.n:u64=7",
        "--set-file",
        &format!("tokenizer.chat_template={template}"),
        "--rename",
        "t0=first",
        "--remove",
        "t1",
        "--output",
        &out,
    ];
    let (code, d) = run_json("edit", &args);
    assert_eq!((code, &d["method"]), (0, &json!("rewritten")), "{d}");
    assert_eq!((&d["tensors"], &d["keys"]), (&json!(2), &json!(4)));
    assert_eq!(d["output"], json!([out]));
    assert_eq!(
        std::fs::read(&m).unwrap(),
        gguf(3),
        "the input is as it was"
    );
    let (_, d) = run_json("inspect", &["inspect", "--tensors", &out]);
    assert_eq!(d["metadata"]["tokenizer.chat_template"], "{{ messages }}\n");
    assert_eq!(
        (&d["tensors"][0]["name"], &d["tensors"][1]["name"]),
        (&json!("first"), &json!("t2"))
    );
    assert_eq!(run(&["check", &out]).code, 0);
    let args = [
        "edit",
        &out,
        "--unset",
        "x.n",
        "--rename-key",
        "general.name=general.basename",
    ];
    assert_eq!(run(&args).code, 0);
    assert_eq!(metadata(&out, "x.n"), Json::Null);
    assert_eq!(metadata(&out, "general.basename"), "other");
}

#[test]
fn room_that_was_reserved_takes_edits_in_place() {
    let f = Folder::new();
    let m = f.write("m.gguf", &gguf(3));
    let (_, d) = run_json("edit", &["edit", &m, "--reserve", "8KiB"]);
    assert_eq!(d["method"], "rewritten");
    assert!(d["reserve"].as_u64().unwrap() >= 8192, "{d}");
    let text = "x".repeat(500);
    let set = format!("general.description={text}");
    let (_, planned) = run_json("edit", &["edit", &m, "--set", &set, "--dry-run"]);
    assert_eq!(planned["method"], "in-place");
    assert_eq!(metadata(&m, "general.description"), Json::Null);
    let (_, d) = run_json("edit", &["edit", &m, "--set", &set]);
    assert_eq!(
        (&d["method"], &d["written"]),
        (&json!("in-place"), &planned["written"])
    );
    assert!(d["written"].as_u64().unwrap() < 2000, "{d}");
    assert_eq!(metadata(&m, "general.description"), text);
    assert_eq!(run(&["check", &m]).code, 0);
    assert_eq!(run(&["scan", &m]).code, 0);
    let r = run(&["edit", &m, "--set", "general.name=Small"]);
    assert!(
        r.stdout.contains("in place") && r.stdout.contains("reserve"),
        "{}",
        r.stdout
    );
    let (_, d) = run_json("edit", &["edit", &m, "--set", "general.name=Small"]);
    assert_eq!(d["method"], "unchanged");
    let (_, d) = run_json(
        "edit",
        &[
            "edit",
            &m,
            "--reserve",
            "0",
            "--unset",
            "general.description",
        ],
    );
    assert_eq!(d["reserve"], 0);
    let mut plain = gguf(3);
    let at = plain.windows(5).position(|w| w == b"small").unwrap();
    plain[at] = b'S';
    assert_eq!(std::fs::read(&m).unwrap(), plain);
}

#[test]
fn refusals_are_documents_and_change_nothing() {
    let f = Folder::new();
    let m = f.write("m.gguf", &gguf(1));
    let st = f.write("m.safetensors", &small());
    for (args, rule) in [
        (vec!["edit", &m, "--set", "novalue"], "edit.set"),
        (
            vec!["edit", &m, "--set", "general.alignment=33"],
            "edit.reserved-key",
        ),
        (
            vec!["edit", &m, "--unset", "general.architecture"],
            "edit.reserved-key",
        ),
        (vec!["edit", &m, "--remove", "none"], "edit.no-such-tensor"),
        (vec!["edit", &m, "--reserve", "1GB"], "edit.reserve"),
        (vec!["edit", &st, "--unset", "format"], "edit.format"),
        (vec!["split", &m, "--max-tensors", "0"], "cli.usage"),
        (
            vec!["split", &m, "--max-tensors", "1", "--max-size", "1kB"],
            "cli.usage",
        ),
        (vec!["merge", &m, "o.gguf"], "merge.not-split"),
    ] {
        let (code, d) = run_json("error", &args);
        assert_eq!(
            (code, &d["error"]["rule"]),
            (2, &json!(rule)),
            "{args:?} {d}"
        );
    }
    assert_eq!(f.names(), ["m.gguf", "m.safetensors"]);
    assert_eq!(std::fs::read(&m).unwrap(), gguf(1));
    assert_eq!(std::fs::read(&st).unwrap(), small());
}

#[test]
fn a_split_model_is_merged_to_what_it_was() {
    let f = Folder::new();
    let m = f.write("m.gguf", &gguf(5));
    let (code, d) = run_json("split", &["split", &m, "--max-tensors", "2", "--dry-run"]);
    assert_eq!((code, d["output"].as_array().unwrap().len()), (0, 3), "{d}");
    assert_eq!(f.names(), ["m.gguf"]);
    let (_, d) = run_json("split", &["split", &m, "--max-tensors", "2"]);
    let first = f.at("m-00001-of-00003.gguf");
    assert_eq!(d["output"][0], json!(first));
    assert_eq!(run(&["check", &first]).code, 0);
    assert_eq!(run(&["diff", &m, &first]).code, 0);
    let whole = f.at("w.gguf");
    let (code, d) = run_json(
        "split",
        &["merge", "--clean", &f.at("m-00002-of-00003.gguf"), &whole],
    );
    assert_eq!((code, &d["tensors"]), (0, &json!(5)), "{d}");
    assert_eq!(std::fs::read(&whole).unwrap(), gguf(5));
    // What only a later file has is left out, and that is said.
    let third = f.at("m-00003-of-00003.gguf");
    assert_eq!(run(&["edit", &third, "--set", "x=1"]).code, 0);
    let (_, d) = run_json("split", &["merge", "--clean", &first, &whole]);
    assert_eq!(d["warnings"][0]["rule"], "merge.metadata", "{d}");
    assert_eq!(std::fs::read(&whole).unwrap(), gguf(5));
    // Never over a file that is read.
    let (code, d) = run_json("split", &["merge", &first, &first]);
    assert_eq!(
        (code, &d["error"]["rule"]),
        (2, &json!("split.overwrites-input"))
    );
    let (_, d) = run_json("split", &["split", &first]);
    assert_eq!(d["error"]["rule"], "split.part");
    // A file of another model, then a missing one.
    let n = f.write("n.gguf", &gguf(6));
    assert_eq!(run(&["split", &n, "--max-tensors", "2"]).code, 0);
    let second = f.at("m-00002-of-00003.gguf");
    std::fs::copy(f.at("n-00002-of-00003.gguf"), &second).unwrap();
    let (_, d) = run_json("split", &["merge", &first, &f.at("x.gguf")]);
    assert_eq!(d["error"]["kind"], "malformed", "{d}");
    std::fs::copy(f.at("n-00003-of-00003.gguf"), &second).unwrap();
    assert_eq!(run(&["merge", &first, &f.at("x.gguf")]).code, 2);
    std::fs::remove_file(&second).unwrap();
    let (_, d) = run_json("split", &["merge", &first, &f.at("x.gguf")]);
    assert!(
        d["error"]["message"].as_str().unwrap().contains("00002"),
        "{d}"
    );
    assert!(!Path::new(&f.at("x.gguf")).exists());
}

/// An ONNX model: `y = x + w`, with 2 kB of weights.
fn onnx() -> Vec<u8> {
    use weighbridge::format::onnx::encode::Fields;
    let value = |name: &str| {
        let kind = Fields::new().bytes(1, Fields::new().int(1, 1));
        Fields::new().bytes(1, name).bytes(2, kind)
    };
    let node = Fields::new().bytes(1, "x").bytes(1, "w").bytes(2, "y");
    let node = node.bytes(3, "add").bytes(4, "Add").bytes(6, "adds");
    let weight = Fields::new().int(1, 512).int(2, 1).bytes(8, "w");
    let graph = Fields::new()
        .bytes(1, node)
        .bytes(2, "g")
        .bytes(5, weight.bytes(9, [1; 2048]))
        .bytes(5, Fields::new().int(2, 1).bytes(8, "odd").bytes(9, [0; 4]))
        .bytes(11, value("x"))
        .bytes(12, value("y"));
    let opset = Fields::new().int(2, 17);
    Fields::new().int(1, 8).bytes(7, graph).bytes(8, opset).0
}

#[test]
fn every_flag_for_graphs_does_what_it_says() {
    let f = Folder::new();
    let m = f.write("m.onnx", &onnx());
    let text = f.write("t.txt", b"by a file\n");
    let out = f.at("o.onnx");
    let args = [
        "edit",
        "--set",
        "author=me",
        "--set",
        "onnx.producer_name=test",
        "--set-file",
        &format!("note={text}"),
        "--rename",
        "x=image",
        "--rename-node",
        "add=plus",
        "--remove",
        "odd",
        "--strip-docs",
        "--external",
        &m,
        "--output",
        &out,
    ];
    let (code, d) = run_json("edit", &args);
    assert_eq!(code, 0, "{d}");
    let data = f.at("o.onnx.data");
    assert_eq!(d["output"], json!([out, data]));
    assert_eq!(d["method"], "rewritten");
    assert_eq!(metadata(&out, "author"), "me");
    assert_eq!(metadata(&out, "onnx.producer_name"), "test");
    assert_eq!(metadata(&out, "note"), "by a file\n");
    assert_eq!(std::fs::read(&data).unwrap(), [1; 2048]);
    assert_eq!(std::fs::read(&m).unwrap(), onnx(), "the original stays");
    let (code, d) = run_json("edit", &["edit", &out, "--inline"]);
    assert_eq!((code, &d["output"]), (0, &json!([out])), "{d}");
    let (_, d) = run_json("edit", &["edit", &out, "--set", "author=us", "--dry-run"]);
    assert_eq!(
        (&d["method"], &d["written"]),
        (&json!("in-place"), &json!(2))
    );
    let small = [
        "edit",
        &m,
        "--external=w.bin",
        "--external-threshold",
        "2049",
    ];
    let (code, d) = run_json("edit", &small);
    assert_eq!((code, &d["method"]), (0, &json!("unchanged")), "{d}");
    // What one format has and the other has not.
    let g = f.write("m.gguf", &gguf(1));
    for (args, rule) in [
        (vec!["edit", &m, "--reserve", "1kB"], "edit.reserve"),
        (vec!["edit", &g, "--external"], "edit.no-graph"),
        (vec!["edit", &g, "--inline"], "edit.no-graph"),
        (vec!["edit", &g, "--strip-docs"], "edit.no-graph"),
        (vec!["edit", &g, "--rename-node", "a=b"], "edit.no-graph"),
        (
            vec!["split", &g, "--external-threshold", "1kB"],
            "split.threshold",
        ),
        (vec!["split", &m, "--no-tensor-first-split"], "split.first"),
        (vec!["split", &m], "split.overwrites-input"),
    ] {
        let (code, d) = run_json("edit", &args);
        assert_eq!((code, &d["error"]["rule"]), (2, &json!(rule)), "{d}");
    }
}

#[test]
fn a_graph_is_split_from_its_weights_and_merged() {
    let f = Folder::new();
    let m = f.write("m.onnx", &onnx());
    let (stem, parts, data) = (f.at("p"), f.at("p.onnx"), f.at("p.onnx.data"));
    let (code, d) = run_json("split", &["split", &m, &stem]);
    assert_eq!((code, &d["output"]), (0, &json!([parts, data])), "{d}");
    assert_eq!(run(&["diff", "--metadata", &m, &parts]).code, 0);
    let one = f.at("one.onnx");
    let (code, d) = run_json("split", &["merge", &parts, &one]);
    assert_eq!((code, &d["output"]), (0, &json!([one])), "{d}");
    assert_eq!(run(&["diff", "--metadata", &m, &one]).code, 0);
    let (code, d) = run_json("split", &["merge", &parts, &data]);
    assert_eq!(code, 2, "{d}");
    assert_eq!(d["error"]["rule"], "split.overwrites-input");
}

#[test]
fn safetensors_are_split_and_merged() {
    let f = Folder::new();
    let bytes = vec![7u8; 100];
    let names: Vec<String> = (0..5).map(|i| format!("t{i}")).collect();
    let tensors: Vec<T<'_>> = names.iter().map(|n| T(n, "U8", &[100], &bytes)).collect();
    let m = f.write("m.safetensors", &safetensors(&tensors, &[("format", "pt")]));
    let (code, d) = run_json("split", &["split", &m, "--max-tensors", "2"]);
    assert_eq!((code, d["output"].as_array().unwrap().len()), (0, 4), "{d}");
    let index = f.at("m.safetensors.index.json");
    assert_eq!(run(&["diff", "--metadata", &m, &index]).code, 0);
    let whole = f.at("w.safetensors");
    assert_eq!(run(&["merge", &index, &whole]).code, 0);
    assert_eq!(run(&["diff", "--metadata", &m, &whole]).code, 0);
    std::fs::remove_file(&whole).unwrap();
    std::fs::remove_file(f.at("m-00002-of-00003.safetensors")).unwrap();
    assert_eq!(run(&["merge", &index, &whole]).code, 2);
    // One file of it all would be the input.
    let one = f.write("one.safetensors", &small());
    let (_, d) = run_json("split", &["split", &one, "--max-size", "1GB"]);
    assert_eq!(d["error"]["rule"], "split.overwrites-input", "{d}");
}

/// SHA-256 of the files one after the other, and of the merged file, as `llama-gguf-split` of
/// llama.cpp 0c1e570 writes them.
#[test]
fn files_are_those_of_the_reference() {
    let Some(corpus) = corpus() else { return };
    let f = Folder::new();
    let m = corpus.join("gguf/hf/tiny-llama/ref-f16.gguf");
    let m = m.to_str().unwrap();
    let merged = "307cfc4e0fc988a6";
    for (i, (flags, files, hash)) in [
        (vec!["--max-tensors", "5"], 5, "bd3c2b1ae119c6c6"),
        (
            vec!["--max-tensors", "7", "--no-tensor-first-split"],
            4,
            "bddcdef290f01d12",
        ),
        (vec!["--max-size", "1MB"], 2, "f7bb3017282520ee"),
        (
            vec!["--max-size", "1MB", "--no-tensor-first-split"],
            3,
            "ad196a89a12f006f",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let prefix = f.at(&format!("{i}"));
        let (code, d) = run_json("split", &[&["split", m, &prefix], &flags[..]].concat());
        assert_eq!(code, 0, "{d}");
        let paths: Vec<&str> = d["output"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(Json::as_str)
            .collect();
        assert_eq!(paths.len(), files);
        let mut sum = Sha256::new();
        for p in &paths {
            sum.update(std::fs::read(p).unwrap());
        }
        assert_eq!(hex::encode(sum.finalize())[..16], *hash, "{flags:?}");
        let whole = f.at(&format!("{i}.gguf"));
        assert_eq!(run(&["merge", paths[0], &whole]).code, 0);
        let sum = Sha256::digest(std::fs::read(&whole).unwrap());
        assert_eq!(hex::encode(sum)[..16], *merged, "{flags:?}");
        assert_eq!(run(&["merge", "--clean", paths[0], &whole]).code, 0);
        assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(m).unwrap());
    }
}

#[test]
fn vocabularies_come_back_byte_for_byte() {
    let Some(corpus) = corpus() else { return };
    let f = Folder::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(corpus.join("gguf/vocab")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let (path, out) = (path.to_str().unwrap(), f.at("out.gguf"));
        let r = run(&["convert", path, &out]);
        assert_eq!(r.code, 0, "{}", r.stderr);
        let same = std::fs::read(path).unwrap() == std::fs::read(&out).unwrap();
        assert!(same, "{path}");
        assert_eq!(run(&["check", path]).code, 0, "{path}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn either_byte_order_is_written_split_and_edited() {
    let f = Folder::new();
    let m = f.write("m.gguf", &gguf(5));
    let big = f.at("big.gguf");
    let (code, d) = run_json("convert", &["convert", &m, &big, "--endian", "big"]);
    assert_eq!(
        (code, &d["changed"], &d["lost"]),
        (0, &json!([]), &json!([]))
    );
    assert_eq!(std::fs::read(&big).unwrap()[4..8], [0, 0, 0, 3]);
    assert_eq!(run(&["diff", "--metadata", &m, &big]).code, 0);
    let (code, d) = run_json("edit", &["edit", &big, "--set", "general.url=https://x"]);
    assert_eq!((code, &d["method"]), (0, &json!("rewritten")), "{d}");
    let shards = ["convert", &big, &f.at("s.gguf"), "--shard-size", "64"];
    let (code, d) = run_json("convert", &shards);
    assert_eq!(code, 0, "{d}");
    let first = d["output"][0].as_str().unwrap().to_owned();
    assert!(first.ends_with("s-00001-of-00005.gguf"), "{d}");
    assert_eq!(run(&["diff", "--metadata", &first, &big]).code, 0);
    let other = f.at("m.safetensors");
    let (code, d) = run_json("convert", &["convert", &m, &other, "--endian", "little"]);
    assert_eq!((code, &d["error"]["rule"]), (2, &json!("convert.endian")));
    assert!(d["error"]["help"].is_string(), "{d}");
    assert_eq!(run(&["convert", &m, &big, "--endian", "middle"]).code, 2);
}
