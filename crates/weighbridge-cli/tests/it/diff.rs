//! `diff`.

use serde_json::json;

use crate::common::{Folder, T, f32s, run, run_json, safetensors, small};

#[test]
fn equal_models_exit_0() {
    let f = Folder::new();
    let (a, b) = (
        f.write("a.safetensors", &small()),
        f.write("b.safetensors", &small()),
    );
    let (code, d) = run_json("diff", &["diff", &a, &b]);
    assert_eq!(code, 0);
    assert_eq!((&d["identical"], &d["same"]), (&json!(true), &json!(2)));
    let r = run(&["diff", &a, &b]);
    assert!(
        r.code == 0 && r.stdout.contains("identical"),
        "{}",
        r.stdout
    );
    assert_eq!(run(&["diff", "--quiet", &a, &b]).stdout, "");
}

#[test]
fn differences_exit_1_and_say_how_far_apart() {
    let f = Folder::new();
    let one = |w: &[f32], extra: &str| {
        safetensors(
            &[T("w", "F32", &[2], &f32s(w)), T(extra, "U8", &[1], &[1])],
            &[],
        )
    };
    let a = f.write("a.safetensors", &one(&[1.0, 2.0], "only_a"));
    let b = f.write("b.safetensors", &one(&[1.0, 2.5], "only_b"));
    let (code, d) = run_json("diff", &["diff", &a, &b]);
    assert_eq!(code, 1);
    assert_eq!(d["only_in_a"], json!(["only_a"]));
    assert_eq!(d["only_in_b"], json!(["only_b"]));
    assert_eq!(d["different"][0]["why"], "value");
    assert_eq!(d["different"][0]["max_abs"], 0.5);
    let r = run(&["diff", &a, &b]);
    assert!(
        r.stdout.contains("only in A") && r.stdout.contains("only_a"),
        "{}",
        r.stdout
    );
}

#[test]
fn tolerances_are_honoured() {
    let f = Folder::new();
    let one = |x: f32| safetensors(&[T("w", "F32", &[1], &f32s(&[x]))], &[]);
    let (a, b) = (
        f.write("a.safetensors", &one(1.0)),
        f.write("b.safetensors", &one(1.001)),
    );
    assert_eq!(run(&["diff", &a, &b]).code, 1);
    assert_eq!(run(&["diff", "--atol", "0.01", &a, &b]).code, 0);
    assert_eq!(run(&["diff", "--rtol", "0.01", &a, &b]).code, 0);
    assert_eq!(run(&["diff", "--atol", "0.0001", &a, &b]).code, 1);
}

#[test]
fn metadata_counts_only_when_asked_for() {
    let f = Folder::new();
    let one = |v: &str| safetensors(&[T("w", "U8", &[1], &[1])], &[("k", v)]);
    let (a, b) = (
        f.write("a.safetensors", &one("1")),
        f.write("b.safetensors", &one("2")),
    );
    assert_eq!(run(&["diff", &a, &b]).code, 0);
    let (code, d) = run_json("diff", &["diff", "--metadata", &a, &b]);
    assert_eq!(code, 1);
    assert_eq!(d["metadata"]["different"], json!(["k"]));
}
