//! `disasm`.

use serde_json::json;

use crate::common::{Folder, run, run_json};

const EVIL: &[u8] = b"\x80\x02cposix\nsystem\n(Vid\ntR.";

#[test]
fn a_pickle_is_listed_with_its_program() {
    let f = Folder::new();
    let path = f.write("m.pkl", EVIL);
    let r = run(&["disasm", &path]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    for line in [
        "pickle at 0, 24 bytes, protocol 2",
        "       2  -0 +1       1  GLOBAL            \"posix\" \"system\"",
        "      21  -2 +1       2  TUPLE",
        "      22  _var0 = posix.system(\"id\")",
        "      23  result = _var0",
    ] {
        assert!(
            r.stdout.contains(line),
            "{line} is missing of\n{}",
            r.stdout
        );
    }
    let (code, d) = run_json("disasm", &["disasm", &path]);
    assert_eq!(code, 0);
    let p = &d["pickles"][0];
    assert_eq!(p["opcodes"][1]["kind"], json!("stringnl_noescape_pair"));
    assert_eq!(
        p["program"][1],
        json!({"offset": 22, "statement": "_var0 = posix.system(\"id\")"})
    );
    assert_eq!(p["error"], json!(null));
}

#[test]
fn a_broken_one_is_listed_up_to_the_break() {
    let f = Folder::new();
    let path = f.write("m.pkl", b"cposix\nsystem\n(Vid\ntR\xff..");
    let r = run(&["disasm", &path]);
    assert_eq!(r.code, 2);
    assert!(r.stdout.contains("_var0 = posix.system(\"id\")"));
    assert!(!r.stdout.contains("result"));
    assert!(
        r.stderr.contains("no opcode has the byte 0xff"),
        "{}",
        r.stderr
    );
    let (code, d) = run_json("disasm", &["disasm", &path]);
    assert_eq!(code, 2);
    assert_eq!(
        d["pickles"][0]["error"]["rule"],
        json!("pickle.unknown-opcode")
    );
}

#[test]
fn streams_arrays_and_members_are_all_shown() {
    let f = Folder::new();
    let (_, d) = run_json("disasm", &["disasm", &f.write("two", b"N.\x80\x02N.\xff")]);
    assert_eq!(d["pickles"][1]["offset"], json!(2));
    assert_eq!(d["trailing_bytes"], json!(1));
    let torch = crate::common::corpus().map(|c| c.join("scan/benign"));
    if let Some(folder) = torch {
        let mut seen = 0;
        for e in std::fs::read_dir(folder.join("gen/sk")).unwrap().flatten() {
            if e.path().to_string_lossy().ends_with("forest.joblib") {
                let r = run(&["disasm", e.path().to_str().unwrap()]);
                assert_eq!(r.code, 0, "{}", r.stderr);
                assert!(r.stdout.contains("of an array"));
                seen += 1;
            }
        }
        assert!(seen > 0);
    }
}

#[test]
fn terminals_obey_nothing_in_it_and_the_output_is_bounded() {
    let f = Folder::new();
    let mut data = b"\x80\x04\x8c\x08m\x1b[2J\r\nx\x8c\x01f\x93)R0".to_vec();
    data.extend(b"N0".repeat(1000));
    data.extend_from_slice(b"N.");
    let path = f.write("m.pkl", &data);
    let r = run(&["disasm", &path, "--limit", "50"]);
    assert_eq!(r.code, 0);
    assert!(!r.stdout.contains('\x1b') && !r.stdout.contains('\r'));
    assert!(r.stdout.contains("--limit shows more"));
    assert!(r.stdout.lines().count() < 70);
}

#[test]
fn a_file_without_a_pickle_is_a_failure() {
    let f = Folder::new();
    let r = run(&["disasm", &f.write("x", b"\xff\xff")]);
    assert_eq!(r.code, 2);
    assert!(r.stderr.contains("there is no pickle"), "{}", r.stderr);
    let (code, d) = run_json("disasm", &["disasm", "/nonexistent/file"]);
    assert_eq!((code, &d["error"]["kind"]), (2, &json!("io")));
}

#[test]
fn the_sandbox_changes_no_listing() {
    let f = Folder::new();
    let path = f.write("m.pkl", EVIL);
    let inside = run(&["disasm", &path]);
    let outside = run(&["disasm", "--no-sandbox", &path]);
    assert_eq!((inside.code, &inside.stdout), (0, &outside.stdout));
    let version = run(&["--version", "--verbose", "--json"]);
    let version: serde_json::Value = serde_json::from_str(&version.stdout).unwrap();
    let offered = version["sandbox"]["complete"] == json!(true);
    let required = run(&["disasm", "--require-sandbox", &path]);
    assert_eq!(required.code, if offered { 0 } else { 2 });
}
