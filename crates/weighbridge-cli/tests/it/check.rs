//! `check`.

use serde_json::json;

use crate::common::{Folder, corpus, run, run_json, small};

#[test]
fn conforming_files_exit_0() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json("check", &["check", &m]);
    assert_eq!(code, 0);
    assert_eq!(d["ok"], true);
    let r = run(&["check", &m]);
    assert_eq!((r.code, r.stdout.contains("ok")), (0, true));
    assert_eq!(run(&["check", "--quiet", &m]).stdout, "");
}

#[test]
fn violations_exit_1_with_rule_place_and_offset() {
    let f = Folder::new();
    let mut bytes = small();
    bytes.push(0);
    let m = f.write("m.safetensors", &bytes);
    let (code, d) = run_json("check", &["check", &m]);
    assert_eq!(code, 1);
    assert_eq!(d["ok"], false);
    let v = &d["violations"][0];
    assert!(
        v["rule"].as_str().unwrap().starts_with("safetensors."),
        "{d}"
    );
    assert!(
        v["where"].as_str().unwrap().contains("m.safetensors"),
        "{d}"
    );
    let r = run(&["check", &m]);
    assert_eq!(r.code, 1);
    assert!(
        r.stdout.contains(v["rule"].as_str().unwrap()),
        "{}",
        r.stdout
    );
}

#[test]
fn a_file_that_cannot_be_opened_further_still_gets_its_answer() {
    let f = Folder::new();
    let m = f.write("m.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}");
    let (code, d) = run_json("check", &["check", &m]);
    assert_eq!((code, &d["ok"]), (1, &json!(false)));
    let m = f.write("empty.safetensors", b"");
    assert_eq!(run(&["check", &m]).code, 1);
}

#[test]
fn several_paths_give_a_list_and_the_worst_code() {
    let f = Folder::new();
    let good = f.write("good.safetensors", &small());
    let bad = f.write("bad.safetensors", b"");
    let gone = f.at("gone.safetensors");
    let (code, d) = run_json("check", &["check", &good, &bad, &gone]);
    assert_eq!(code, 1);
    assert_eq!((&d[0]["ok"], &d[1]["ok"]), (&json!(true), &json!(false)));
    assert_eq!(d[2]["error"]["kind"], "io");
    assert_eq!(run(&["check", &good, &gone]).code, 2);
}

#[test]
fn the_format_can_be_given() {
    let f = Folder::new();
    let m = f.write("model", &small());
    let (code, d) = run_json("check", &["check", "--format", "safetensors", &m]);
    assert_eq!((code, &d["format"]), (0, &json!("safetensors")));
    let (code, d) = run_json("check", &["check", "--format", "pytorch", &m]);
    assert_eq!((code, &d["format"]), (1, &json!("pytorch")));
}

#[test]
fn the_corpus_of_headers_gets_its_verdicts() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("safetensors");
    let manifest = std::fs::read_to_string(folder.join("manifest.tsv")).unwrap();
    let mut seen = 0;
    for line in manifest.lines().skip(2) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (name, rule) = (fields[0], fields[3]);
        let (code, _) = run_json("check", &["check", folder.join(name).to_str().unwrap()]);
        assert_eq!(code, i32::from(rule != "ok"), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 116);
}
