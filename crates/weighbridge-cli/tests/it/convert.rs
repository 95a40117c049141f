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
