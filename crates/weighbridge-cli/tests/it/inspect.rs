//! `inspect`.

use serde_json::json;

use crate::common::{Folder, T, corpus, f32s, run, run_json, safetensors, small};

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
