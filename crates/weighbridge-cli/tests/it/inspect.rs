//! `inspect`.

use serde_json::json;

use crate::common::{Folder, T, corpus, f32s, onnx, run, run_json, safetensors, small};

#[test]
fn the_document_has_the_fields_of_the_contract() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json("inspect", &["inspect", &m]);
    assert_eq!(code, 0);
    assert_eq!(d["format"], "safetensors");
    assert_eq!(d["path"], m.as_str());
    assert_eq!(d["files"], json!([{"path": m, "bytes": small().len()}]));
    assert_eq!(d["metadata"]["note"], "x");
    assert_eq!(
        d["tensors"][0],
        json!({"name": "a.weight", "dtype": "F32", "shape": [2, 2], "bytes": 16})
    );
    assert_eq!(d["warnings"], json!([]));
}

#[test]
fn hashes_and_statistics_are_of_the_values() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (_, d) = run_json("inspect", &["inspect", "--hash", "--stats", &m]);
    // sha256 of the 16 bytes 0000803f 000000c0 00000000 00009040.
    assert_eq!(
        d["tensors"][0]["sha256"],
        "a5eb53bd2048bed705f8135814f08e9a93f4d30274d696dd42e11d37cb357d3d"
    );
    let s = &d["tensors"][0]["stats"];
    assert_eq!((&s["min"], &s["max"]), (&json!(-2.0), &json!(4.5)));
    assert_eq!(
        (&s["mean"], &s["zeros"], &s["nan"]),
        (&json!(0.875), &json!(1), &json!(0))
    );
    assert_eq!(d["tensors"][1]["stats"]["min"], 7);
}

#[test]
fn numbers_that_json_lacks_are_text() {
    let f = Folder::new();
    let values = f32s(&[f32::NAN, f32::INFINITY]);
    let big = u64::MAX.to_le_bytes();
    let m = f.write(
        "m.safetensors",
        &safetensors(
            &[T("u", "U64", &[1], &big), T("w", "F32", &[2], &values)],
            &[],
        ),
    );
    let (code, d) = run_json("inspect", &["inspect", "--stats", &m]);
    assert_eq!(code, 0);
    assert_eq!(
        d["tensors"][0]["stats"]["max"],
        json!({"$int": "18446744073709551615"})
    );
    let s = &d["tensors"][1]["stats"];
    assert_eq!(
        (&s["nan"], &s["inf"], &s["min"]),
        (&json!(1), &json!(1), &json!(null))
    );
}

#[test]
fn several_paths_give_a_list_in_which_failures_have_their_place() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json("inspect", &["inspect", &m, &m]);
    assert_eq!((code, d.as_array().unwrap().len()), (0, 2));
    let (code, d) = run_json("inspect", &["inspect", &m, &f.at("gone")]);
    assert_eq!(code, 2);
    assert_eq!(d[0]["format"], "safetensors");
    assert_eq!(d[1]["error"]["kind"], "io");
}

#[test]
fn people_see_forty_tensors_unless_they_ask_for_all() {
    let f = Folder::new();
    let names: Vec<String> = (0..50).map(|i| format!("layer.{i:02}")).collect();
    let tensors: Vec<T<'_>> = names.iter().map(|n| T(n, "U8", &[1], &[1])).collect();
    let m = f.write("m.safetensors", &safetensors(&tensors, &[]));
    let r = run(&["inspect", &m]);
    assert_eq!(r.code, 0);
    assert!(
        r.stdout.contains("layer.39") && !r.stdout.contains("layer.40"),
        "{}",
        r.stdout
    );
    assert!(r.stdout.contains("10 more tensors"), "{}", r.stdout);
    assert!(r.stdout.contains("50 tensors") && r.stdout.contains("U8 × 50"));
    let r = run(&["inspect", "--tensors", &m]);
    assert!(r.stdout.contains("layer.49") && !r.stdout.contains("more tensors"));
}

#[test]
fn names_of_the_file_cannot_drive_the_terminal() {
    let f = Folder::new();
    let evil = "w\x1b[2J\u{202e}x\u{9b}31m";
    let m = f.write(
        "m.safetensors",
        &safetensors(
            &[T(evil, "U8", &[1], &[1])],
            &[("k\x1b]0;t\x07", "v\x1b[31m")],
        ),
    );
    let control = |s: &str| {
        s.chars()
            .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}')
    };
    let r = run(&["inspect", &m]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    assert!(!control(&r.stdout), "{:?}", r.stdout);
    let r = run(&["inspect", "--json", &m]);
    assert!(!control(&r.stdout), "{:?}", r.stdout);
    let d: serde_json::Value = serde_json::from_str(&r.stdout).unwrap();
    assert_eq!(d["tensors"][0]["name"], evil);
}

#[test]
fn malformed_files_exit_2_with_the_rule() {
    let f = Folder::new();
    let mut bytes = small();
    bytes.pop();
    let m = f.write("m.safetensors", &bytes);
    let (code, d) = run_json("inspect", &["inspect", &m]);
    assert_eq!(code, 2);
    assert!(
        ["malformed", "truncated"].contains(&d["error"]["kind"].as_str().unwrap()),
        "{d}"
    );
    assert!(
        d["error"]["rule"]
            .as_str()
            .unwrap()
            .starts_with("safetensors."),
        "{d}"
    );
}

#[test]
fn ties_and_views_are_named() {
    let Some(corpus) = corpus() else { return };
    let tied = corpus.join("torch/tied.pt");
    let (_, d) = run_json("inspect", &["inspect", tied.to_str().unwrap()]);
    assert_eq!(d["shared"][0], json!(["emb.weight", "head.weight"]));
    assert_eq!(d["tensors"][0]["aliases"], json!(["head.weight"]));
}

#[test]
fn every_model_of_the_corpus_gives_a_valid_document() {
    let Some(corpus) = corpus() else { return };
    let mut seen = 0;
    for e in std::fs::read_dir(corpus.join("torch")).unwrap() {
        let path = e.unwrap().path();
        if path
            .extension()
            .is_some_and(|e| e == "json" || e == "md" || e == "tsv")
        {
            continue;
        }
        let (code, d) = run_json(
            "inspect",
            &["inspect", "--hash", "--stats", path.to_str().unwrap()],
        );
        let failed = d.get("error").is_some();
        assert_eq!(code == 0, !failed, "{}", path.display());
        seen += u32::from(!failed);
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn a_graph_is_told_with_all_that_is_in_it() {
    let f = Folder::new();
    let m = f.write("m.onnx", &onnx("rich"));
    let (code, d) = run_json("inspect", &["inspect", &m]);
    assert_eq!(
        (code, &d["format"], &d["version"]),
        (0, &json!("onnx"), &json!("10"))
    );
    let sum = |tensors: u64, values: u64, bytes: u64| json!({"tensors": tensors, "values": values, "bytes": bytes});
    let under = |path: &str, values: u64, bytes: u64| json!({"path": path, "tensors": 1, "values": values, "bytes": bytes});
    let mut in_loop = under("loop", 1, 4);
    in_loop["subgraph"] = "repeat.body".into();
    assert_eq!(
        d["graph"],
        json!({
            "name": "rich",
            "nodes": 6,
            "inputs": [{"name": "x", "dtype": "F32", "shape": ["batch", null, 2]}],
            "outputs": [{"name": "y", "dtype": "F32", "shape": ["batch", null, 3]}],
            "operators": {
                "Constant": 3, "Identity": 1, "Loop": 1, "MatMul": 2, "Mul": 1,
                "com.example.Scale2": 1,
            },
            "opsets": {"ai.onnx": 21, "com.example": 3},
            "subgraphs": [{"path": "repeat.body", "nodes": 3, "inputs": 3, "outputs": 2}],
            "initializers": sum(2, 10, 40),
            "constants": sum(3, 9, 44),
            "parameters": [
                under("decoder/head", 6, 24),
                under("encoder/out", 6, 24),
                under("encoder.layer", 4, 16),
                under("", 2, 16),
                in_loop,
            ],
        })
    );
    let text = run(&["inspect", &m]).stdout;
    for line in [
        "graph      rich: 6 nodes; in 1 graph within it 3 nodes",
        "opsets     ai.onnx 21, com.example 3",
        "input      x: F32 [batch, ?, 2]",
        "operators  Constant × 3, MatMul × 2,",
        "subgraph   repeat.body, 3 nodes",
        "constants  3 tensors, 9 values, 44 bytes in Constant nodes",
        "subtree    decoder/head: 1 tensor, 6 values, 24 bytes",
        "subtree    repeat.body → loop: 1 tensor, 1 value, 4 bytes",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let m = f.write("f.onnx", &onnx("function"));
    let (_, d) = run_json("inspect", &["inspect", &m]);
    assert_eq!(
        d["graph"]["functions"],
        json!([{"domain": "loc", "name": "Twice", "nodes": 1, "inputs": ["p"], "outputs": ["q"]}])
    );
    assert_eq!(d["graph"]["operators"]["loc.Twice"], 1);
}

#[test]
fn constants_are_tensors_on_request() {
    let f = Folder::new();
    let m = f.write("m.onnx", &onnx("rich"));
    let names = |d: &serde_json::Value| -> Vec<String> {
        let all = d["tensors"].as_array().unwrap();
        all.iter()
            .map(|t| t["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, d) = run_json("inspect", &["inspect", &m]);
    let weights = ["encoder.layer.0.weight", "onnx::MatMul_7"];
    assert_eq!(names(&d), weights);
    let (_, d) = run_json("inspect", &["inspect", "--constants", "--stats", &m]);
    assert_eq!(names(&d), [&weights[..], &["big", "axes", "half"]].concat());
    let of = |i: usize| (&d["tensors"][i]["shape"], &d["tensors"][i]["stats"]["max"]);
    assert_eq!(of(2), (&json!([2, 3]), &json!(6.0)));
    assert_eq!(of(3), (&json!([2]), &json!(1)));
    assert_eq!(of(4), (&json!([]), &json!(0.5)));
    assert_eq!(d["tensors"][4]["label"], "repeat.body.half");
    // And they count when two models are compared.
    let mut other = onnx("rich");
    let at = other
        .windows(4)
        .position(|w| w == 0.5f32.to_le_bytes())
        .unwrap();
    other[at + 2] ^= 1;
    let o = f.write("o.onnx", &other);
    assert_eq!(run(&["diff", &m, &o]).code, 0);
    let (code, d) = run_json("diff", &["diff", "--constants", &m, &o]);
    assert_eq!((code, &d["different"][0]["name"]), (1, &json!("half")));
}
