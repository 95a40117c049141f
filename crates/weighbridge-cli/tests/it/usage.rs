//! Arguments, help and version.

use crate::common::{Folder, run, run_json, small};

#[test]
fn help_is_no_failure_and_names_every_verb() {
    let r = run(&["--help"]);
    assert_eq!(r.code, 0, "{}", r.stderr);
    for verb in ["inspect", "check", "scan", "convert", "diff"] {
        assert!(r.stdout.contains(verb), "{verb}");
        let r = run(&[verb, "--help"]);
        assert_eq!(r.code, 0);
        assert!(r.stdout.contains("Examples:"), "{verb}");
    }
}

#[test]
fn usage_errors_exit_2_and_say_so() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    for args in [
        &["frobnicate"][..],
        &[],
        &["inspect"],
        &["inspect", "--frobnicate", &m],
        &["check", "--format", "nonsense", &m],
        &["convert", &m],
        &["convert", &m, "x.safetensors", "--shard-size", "lots"],
        &["convert", &m, "x.safetensors", "--rename", "ab"],
        &["diff", &m],
        &["diff", &m, &m, "--atol", "-1"],
        &["scan"],
        &["scan", "--fail-on", "info", &m],
    ] {
        let r = run(args);
        assert_eq!(r.code, 2, "{args:?}");
        assert_eq!(r.stdout, "", "{args:?}");
        assert!(!r.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn usage_errors_are_documents_with_json() {
    let (code, d) = run_json("error", &["inspect", "--frobnicate", "x"]);
    assert_eq!(code, 2);
    assert_eq!(d["error"]["kind"], "parameter");
    assert_eq!(d["error"]["rule"], "cli.usage");
    assert!(
        d["error"]["message"]
            .as_str()
            .unwrap()
            .contains("--frobnicate")
    );
    // Behind `--` it is a path, and the failure is text.
    let r = run(&["inspect", "--frobnicate", "--", "--json"]);
    assert_eq!((r.code, r.stdout.as_str()), (2, ""));
}

#[test]
fn version_is_short_unless_asked_for_more() {
    let r = run(&["--version"]);
    assert_eq!(
        r.stdout,
        format!("weighbridge {}\n", env!("CARGO_PKG_VERSION"))
    );
    let r = run(&["--version", "--verbose"]);
    assert!(
        r.stdout.contains("reads: safetensors, pytorch"),
        "{}",
        r.stdout
    );
    assert_eq!(r.code, 0);
}

#[test]
fn missing_files_and_folders_exit_2_for_every_verb() {
    let f = Folder::new();
    let (m, gone) = (f.write("m.safetensors", &small()), f.at("gone.pt"));
    let out = f.at("out.safetensors");
    for args in [
        &["inspect", &gone][..],
        &["check", &gone],
        &["scan", &gone],
        &["convert", &gone, &out],
        &["diff", &m, &gone],
        &["diff", &gone, &m],
    ] {
        let r = run(args);
        assert_eq!(r.code, 2, "{args:?}");
        assert!(r.stderr.starts_with("error: "), "{}", r.stderr);
        assert!(r.stderr.contains("gone.pt"), "{}", r.stderr);
        let (code, d) = run_json("error", args);
        assert_eq!(code, 2);
        assert_eq!(d["error"]["kind"], "io", "{args:?}");
        assert!(
            d["error"]["path"].as_str().unwrap().contains("gone.pt"),
            "{d}"
        );
    }
    assert_eq!(f.names(), ["m.safetensors"]);
}

#[test]
fn files_of_no_known_format_exit_2_with_advice() {
    let f = Folder::new();
    let junk = f.write("junk.dat", &[7; 4096]);
    for args in [
        &["inspect", &junk][..],
        &["check", &junk],
        &["convert", &junk, &f.at("o.safetensors")],
        &["diff", &junk, &junk],
    ] {
        let (code, d) = run_json("error", args);
        assert_eq!(code, 2, "{args:?}");
        assert_eq!(d["error"]["kind"], "unsupported", "{args:?}");
        assert!(d["error"]["help"].is_string(), "{d}");
    }
    // A scan answers: it could not look into the file.
    let (code, d) = run_json("scan", &["scan", &junk]);
    assert_eq!((code, &d["verdict"]), (2, &"incomplete".into()));
}
