//! `quantize`, `dequantize`, `recipe`, `imatrix`.

use serde_json::json;

use crate::common::{
    Folder, T, command, corpus, f32s, finished, run, run_json, safetensors, small,
};

#[test]
fn a_model_of_the_corpus_and_its_companions() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("gguf/hf/tiny-llama");
    let from = folder.join("ref-f16.gguf").to_str().unwrap().to_owned();
    let want = folder.join("quant-Q4_K_M.gguf");
    let f = Folder::new();
    let (out, report) = (f.at("q.gguf"), f.at("report.json"));
    let args = ["quantize", &from, &out, "-t", "q4_k_m", "--report", &report];
    let (code, d) = run_json("quantize", &args);
    assert_eq!((code, &d["type"]), (0, &json!("Q4_K_M")));
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&want).unwrap());
    let r: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    crate::schema::assert_valid("quantize", &r);
    let list = r["tensor_list"].as_array().unwrap();
    assert!(list.iter().all(|t| t["quality"]["rmse"].is_number()));
    // Its types are the recipe of the next.
    let r = run(&["recipe", want.to_str().unwrap()]);
    assert_eq!(r.code, 0);
    let recipe = f.write("recipe.txt", r.stdout.as_bytes());
    let again = f.at("again.gguf");
    let r = run(&["quantize", &from, &again, "--recipe", &recipe, "--quiet"]);
    assert_eq!((r.code, r.stdout.as_str(), r.stderr.as_str()), (0, "", ""));
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&want).unwrap());
    let (code, d) = run_json("recipe", &["recipe", &again]);
    assert_eq!(
        (code, &d["tensors"]["output_norm.weight"]),
        (0, &json!("F32"))
    );
    // And back to floats.
    let wide = f.at("wide.safetensors");
    let (code, d) = run_json(
        "convert",
        &[
            "dequantize",
            &out,
            &wide,
            "--dtype",
            "bf16",
            "--threads",
            "3",
        ],
    );
    assert_eq!(code, 0, "{d}");
    assert_eq!(run(&["check", &wide]).code, 0);
}

#[test]
fn the_matrix_is_recorded_as_it_was_typed() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("gguf/imatrix");
    let from = corpus.join("gguf/hf/tiny-llama/ref-f16.gguf");
    let f = Folder::new();
    let out = f.at("q.gguf");
    for (matrix, file) in [("tiny-llama.gguf", "IQ2_XXS"), ("tiny-llama.dat", "Q4_K_M")] {
        let args = ["quantize", from.to_str().unwrap(), &out, "--type", file];
        let mut c = command(&args);
        c.args(["--imatrix", matrix]).current_dir(&folder);
        let r = finished(c.output().unwrap());
        assert_eq!(r.code, 0, "{}", r.stderr);
        let want = std::fs::read(folder.join(format!("{matrix}.{file}.gguf"))).unwrap();
        assert!(std::fs::read(&out).unwrap() == want, "{matrix} {file}");
    }
}

#[test]
fn matrices_are_shown_merged_and_converted() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("gguf/imatrix");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (new, old) = (at("tiny-llama.gguf"), at("tiny-llama.dat"));
    let (code, d) = run_json("imatrix", &["imatrix", "inspect", &old]);
    assert_eq!((code, &d["form"]), (0, &json!("legacy")));
    assert_eq!(d["entries"].as_array().unwrap().len(), 15);
    let f = Folder::new();
    let out = f.at("sum.gguf");
    let (code, d) = run_json(
        "imatrix",
        &["imatrix", "merge", &new, &new, "--output", &out],
    );
    assert_eq!((code, &d["form"]), (0, &json!("gguf")));
    let dat = f.at("new.dat");
    let (code, d) = run_json("imatrix", &["imatrix", "convert", &new, &dat]);
    assert_eq!((code, &d["form"]), (0, &json!("legacy")));
    let r = run(&["imatrix", "inspect", &dat]);
    assert!(r.stdout.contains("15 entries"), "{}", r.stdout);
}

#[test]
fn a_dry_run_needs_no_place() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (code, d) = run_json("quantize", &["quantize", &m, "--type", "Q8_0", "--dry-run"]);
    assert_eq!(code, 0, "{d}");
    assert_eq!(
        d["tensor_list"].as_array().unwrap().len() as u64,
        d["tensors"]
    );
    let r = run(&["quantize", &m, "--type", "Q8_0", "--dry-run"]);
    assert!(r.stdout.contains("would write"), "{}", r.stdout);
    assert_eq!(f.names(), ["m.safetensors"]);
}

#[test]
fn refusals_exit_2_and_leave_nothing() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let out = f.at("q.gguf");
    for (args, rule) in [
        (vec!["quantize", &m, &out, "--type", "Q9"], "quantize.type"),
        (vec!["quantize", &m, &out], "cli.usage"),
        (vec!["quantize", &m, "--type", "Q8_0"], "cli.usage"),
        (
            vec![
                "quantize",
                &m,
                &out,
                "--type",
                "Q8_0",
                "--tensor-type",
                "x=q9",
            ],
            "quantize.tensor-type",
        ),
        (
            vec!["quantize", &m, &out, "--type", "Q8_0", "--exclude", "("],
            "quantize.regex",
        ),
        (
            vec!["quantize", &m, &out, "--type", "Q8_0", "--imatrix", &m],
            "imatrix.truncated",
        ),
        (
            vec!["quantize", &m, &m, "--type", "Q8_0"],
            "quantize.same-file",
        ),
        (vec!["imatrix", "inspect", &out], "io"),
        (
            vec!["dequantize", &m, &out, "--dtype", "f64"],
            "dequantize.dtype",
        ),
    ] {
        let (code, d) = run_json("quantize", &args);
        assert_eq!(
            (code, &d["error"]["rule"]),
            (2, &json!(rule)),
            "{args:?}: {d}"
        );
        assert_eq!(f.names(), ["m.safetensors"]);
    }
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let recipe = run(&["recipe", &m]).stdout;
    let recipe = f.write("recipe.txt", recipe.as_bytes());
    let (out, nowhere) = (f.at("q.gguf"), f.at("none/report.json"));
    let names = f.names();
    let read = |p: &str| std::fs::read(p).unwrap();
    let before = (read(&m), read(&recipe));
    for (args, rule) in [
        (vec![&recipe, "--recipe", &recipe], "quantize.same-file"),
        (vec![&out, "-t", "Q8_0", "--report", &m], "quantize.report"),
        (
            vec![&out, "-t", "Q8_0", "--report", &out],
            "quantize.report",
        ),
        (
            vec![&out, "--recipe", &recipe, "--report", &recipe],
            "quantize.report",
        ),
        // Found out before the work, not after it.
        (vec![&out, "-t", "Q8_0", "--report", &nowhere], "io"),
    ] {
        let args = [vec!["quantize", m.as_str()], args].concat();
        let (code, d) = run_json("quantize", &args);
        assert_eq!((code, &d["error"]["rule"]), (2, &json!(rule)), "{args:?}");
        assert_eq!(f.names(), names, "{args:?}");
    }
    assert!((read(&m), read(&recipe)) == before);
}

#[test]
fn an_onnx_model_becomes_one_of_small_integers() {
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../weighbridge/tests/data/onnx_quantize"
    );
    let from = format!("{data}/dense.onnx");
    let f = Folder::new();
    let (out, report) = (f.at("q.onnx"), f.at("report.json"));
    let args = [
        "quantize",
        &from,
        &out,
        "-t",
        "int8",
        "--per-channel",
        "--report",
        &report,
    ];
    let (code, d) = run_json("quantize", &args);
    assert_eq!((code, &d["type"]), (0, &json!("int8")));
    let r: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    crate::schema::assert_valid("quantize", &r);
    let list = r["tensor_list"].as_array().unwrap();
    let measured = list
        .iter()
        .filter(|t| t["quality"]["relative_rmse"].is_number());
    assert_eq!(measured.count(), 4);
    // What loses most is told.
    let args = ["quantize", &from, &out, "-t", "int4", "--report", &report];
    let r = run(&args);
    assert_eq!(r.code, 0, "{}", r.stderr);
    assert!(
        r.stdout.contains("loses most") && r.stdout.contains("cosine"),
        "{}",
        r.stdout
    );
    // Types and flags of the other kind of file.
    let r = run(&["quantize", &from, &out, "-t", "Q4_0"]);
    assert_eq!(
        (r.code, r.stderr.contains("quantize.type")),
        (2, true),
        "{}",
        r.stderr
    );
    let r = run(&["quantize", &from, &out, "-t", "int8", "--pure"]);
    assert_eq!(
        (r.code, r.stderr.contains("quantize.flag")),
        (2, true),
        "{}",
        r.stderr
    );
    let ranges = f.write("ranges.json", br#"{"x": [1, -1]}"#);
    let r = run(&["quantize", &from, &out, "-t", "int8", "--ranges", &ranges]);
    assert_eq!(
        (r.code, r.stderr.contains("quantize.ranges")),
        (2, true),
        "{}",
        r.stderr
    );
    // Sizes of a dry run, without an OUT.
    let (code, d) = run_json("quantize", &["quantize", &from, "-t", "uint4", "--dry-run"]);
    assert_eq!((code, d["tensor_list"].is_array()), (0, true));
    assert_eq!(run(&["check", &out]).code, 0);
}

/// Files of a split result have other names than OUT, and a link another than what it means.
#[test]
fn a_report_takes_the_place_of_no_file_of_the_result() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (out, first) = (f.at("q.gguf"), f.at("q-00001-of-00001.gguf"));
    let split = ["--keep-split", "--report", &first];
    let mut cases = vec![split.to_vec()];
    let link = f.at("report.json");
    if cfg!(unix) {
        #[cfg(unix)]
        std::os::unix::fs::symlink("q.gguf", &link).unwrap();
        cases.push(vec!["--report", &link]);
    }
    let names = f.names();
    for args in cases {
        let args = [&["quantize", &m, &out, "-t", "Q8_0"][..], &args].concat();
        let (code, d) = run_json("quantize", &args);
        assert_eq!(
            (code, &d["error"]["rule"]),
            (2, &json!("quantize.report")),
            "{args:?}"
        );
        assert_eq!(f.names(), names);
    }
}

#[test]
fn flags_of_onnx_are_refused_and_not_passed_over() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let out = f.at("q.gguf");
    for flags in [
        &["--per-channel"][..],
        &["--block-size", "32"],
        &["--symmetric=false"],
        &["--keep-op", "MatMul"],
        &["--accuracy-level", "4"],
    ] {
        let args = [&["quantize", &m, &out, "-t", "Q8_0"][..], flags].concat();
        let (code, d) = run_json("quantize", &args);
        let e = &d["error"];
        assert_eq!((code, &e["rule"]), (2, &json!("quantize.flag")), "{d}");
        assert!(e["help"].is_string());
    }
    assert_eq!(f.names(), ["m.safetensors"]);
}

/// What is shown for a terminal's sake as something else would not be the name any more.
#[test]
fn a_recipe_gives_every_name_back() {
    let f = Folder::new();
    let one = f32s(&[1.0; 32]);
    let names = ["a\u{202e}b", "a\u{85}b", "two\nlines", "\u{200b}", "é"];
    let tensors: Vec<T<'_>> = names.iter().map(|n| T(n, "F32", &[1, 32], &one)).collect();
    let m = f.write("m.safetensors", &safetensors(&tensors, &[]));
    let recipe = f.write("r.txt", run(&["recipe", &m]).stdout.as_bytes());
    let args = ["quantize", &m, &f.at("q.gguf"), "--recipe", &recipe];
    let (code, d) = run_json("quantize", &args);
    assert_eq!((code, &d["tensors"]), (0, &json!(5)), "{d}");
    let rules = d["warnings"].as_array().unwrap().iter();
    let rules: Vec<_> = rules.map(|w| &w["rule"]).collect();
    assert!(!rules.contains(&&json!("quantize.recipe")), "{d}");
}

#[test]
fn a_recipe_that_is_no_text_or_has_no_end_is_refused() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let (out, bytes) = (f.at("q.gguf"), f.write("r.txt", b"a=f32\n\xff"));
    let (code, d) = run_json("quantize", &["quantize", &m, &out, "--recipe", &bytes]);
    let e = &d["error"];
    let want = (2, &json!("malformed"), &json!("quantize.utf8"), &json!(6));
    assert_eq!((code, &e["kind"], &e["rule"], &e["offset"]), want);
    if std::path::Path::new("/dev/zero").exists() {
        let args = ["quantize", &m, &out, "--recipe", "/dev/zero"];
        let (code, d) = run_json("quantize", &args);
        assert_eq!((code, &d["error"]["kind"]), (2, &json!("limit")));
    }
}
