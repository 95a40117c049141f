//! What `scan` prints: SARIF, quiet mode, reports into files, rules.

use serde_json::{Value as Json, json};

use crate::common::{Folder, command, finished, run, run_json, small};
use crate::schema::{assert_sarif, sarif, validate};

/// Calls `posix.getcwd()`.
const EVIL: &[u8] = b"cposix\ngetcwd\n(tR.";

fn log(args: &[&str]) -> (i32, Json) {
    let mut all = vec!["scan", "--format", "sarif"];
    all.extend(args);
    let r = run(&all);
    let d = serde_json::from_str(&r.stdout)
        .unwrap_or_else(|e| panic!("{e}\n{}\n{}", r.stdout, r.stderr));
    (r.code, d)
}

#[test]
fn every_rule_makes_valid_sarif() {
    let fixtures =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../weighbridge/tests/fixtures/scan");
    let (code, d) = log(&[fixtures.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert_sarif(&d);
    let run = &d["runs"][0];
    let results = run["results"].as_array().unwrap();
    assert!(results.len() > 10);
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for r in results {
        let n = r["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(rules[n]["id"], r["ruleId"]);
    }
    for r in rules {
        let score: f64 = r["properties"]["security-severity"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((0.0..10.0).contains(&score));
        assert!(r["helpUri"].as_str().unwrap().contains("/docs/rules/"));
    }
}

#[test]
fn sarif_tells_places_suppressions_and_what_was_not_looked_at() {
    let f = Folder::new();
    f.write("bad file.pkl", EVIL);
    f.write("junk.dat", &[1; 100]);
    f.write("good.safetensors", &small());
    f.write("broken.safetensors", &small()[..20]);
    let policy = f.write(
        "p.toml",
        b"[[rule]]\nid = 'WB-PKL-001'\nseverity = 'off'\nreason = 'a \\u2028 test'\n\
          [[rule]]\nid = 'WB-PKL-002'\nseverity = 'off'\nreason = 'gone'\nexpires = 2020-01-01",
    );
    let r = finished(
        command(&["scan", "--format", "sarif", "--policy", &policy, "."])
            .current_dir(f.path())
            .output()
            .unwrap(),
    );
    assert_eq!(r.code, 2, "{}", r.stderr);
    let d: Json = serde_json::from_str(&r.stdout).unwrap();
    assert_sarif(&d);
    let run = &d["runs"][0];
    let results = run["results"].as_array().unwrap();
    let of = |rule: &str| results.iter().find(|r| r["ruleId"] == rule).unwrap();
    let evil = of("WB-PKL-001");
    assert_eq!(
        evil["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
        "bad%20file.pkl"
    );
    assert_eq!(
        evil["locations"][0]["physicalLocation"]["region"],
        json!({"byteOffset": 16, "byteLength": 1})
    );
    assert_eq!(evil["suppressions"][0]["kind"], "external");
    assert_eq!(of("WB-FMT-001")["level"], "note");
    let i = &run["invocations"][0];
    assert_eq!(i["exitCode"], 2);
    let levels: Vec<&Json> = i["toolExecutionNotifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| &n["descriptor"]["id"])
        .collect();
    assert!(levels.contains(&&json!("incomplete")) && levels.contains(&&json!("malformed")));
    assert_eq!(
        i["toolConfigurationNotifications"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let text = run.to_string();
    assert!(!text.contains("good.safetensors"), "it has nothing to say");
}

#[test]
fn fingerprints_stay_the_same_from_run_to_run() {
    let f = Folder::new();
    let bad = f.write("m.pkl", EVIL);
    let print = || log(&[&bad]).1["runs"][0]["results"][0]["partialFingerprints"].clone();
    assert_eq!(print(), print());
}

#[test]
fn the_validator_knows_bad_sarif() {
    let f = Folder::new();
    let bad = f.write("m.pkl", EVIL);
    let (_, good) = log(&[&bad]);
    let schema = sarif();
    assert_eq!(validate(&schema, &good), Vec::<String>::new());
    for (pointer, value) in [
        ("/version", json!("2.0.0")),
        ("/runs", json!({})),
        ("/runs/0/tool/driver/name", json!(3)),
        ("/runs/0/tool/driver/more", json!("x")),
        ("/runs/0/tool/driver/rules/0/helpUri", json!("not a uri")),
        (
            "/runs/0/tool/driver/rules/1",
            good["runs"][0]["tool"]["driver"]["rules"][0].clone(),
        ),
        ("/runs/0/results/0/level", json!("malicious")),
        ("/runs/0/results/0/ruleIndex", json!(-2)),
        ("/runs/0/results/0/message", json!({})),
        (
            "/runs/0/results/0/locations/0/physicalLocation/region/byteOffset",
            json!("3"),
        ),
        (
            "/runs/0/results/0/suppressions",
            json!([{"kind": "policy"}]),
        ),
        (
            "/runs/0/results/0/locations/0/physicalLocation/artifactLocation/uri",
            json!("a b"),
        ),
    ] {
        let mut d = good.clone();
        match d.pointer_mut(pointer) {
            Some(there) => *there = value,
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                d.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        assert!(!validate(&schema, &d).is_empty(), "{pointer}");
    }
}

#[test]
fn quiet_prints_a_line_for_each_file_that_is_not_clean() {
    let f = Folder::new();
    f.write("bad.pkl", EVIL);
    f.write("good.safetensors", &small());
    f.write("junk.dat", &[1; 100]);
    let r = run(&["scan", "--quiet", f.path().to_str().unwrap()]);
    let lines: Vec<&str> = r.stdout.lines().collect();
    assert_eq!((r.code, lines.len()), (1, 2), "{}", r.stdout);
    assert!(lines[0].contains("bad.pkl: malicious WB-PKL-001: calls posix.getcwd"));
    assert!(lines[1].contains("junk.dat: incomplete"));
    assert_eq!(r.stderr, "");
    let good = f.at("good.safetensors");
    let r = run(&["scan", "--quiet", &good]);
    assert_eq!((r.code, r.stdout.as_str()), (0, ""));
}

#[test]
fn a_report_goes_into_a_file_whole() {
    let f = Folder::new();
    let bad = f.write("m.pkl", EVIL);
    for (format, to) in [("sarif", "r.sarif"), ("json", "r.json"), ("table", "r.txt")] {
        let to = f.at(to);
        let r = run(&["scan", "--format", format, "--output", &to, &bad]);
        assert_eq!((r.code, r.stdout.as_str()), (1, ""), "{format}");
        assert!(r.stderr.contains("verdict: malicious (1 file)"));
        let text = std::fs::read_to_string(&to).unwrap();
        assert!(text.contains("WB-PKL-001"));
        match format {
            "sarif" => assert_sarif(&serde_json::from_str(&text).unwrap()),
            "json" => {
                crate::schema::assert_valid("scan", &serde_json::from_str(&text).unwrap());
            }
            _ => assert!(text.ends_with("verdict: malicious (1 file)\n")),
        }
    }
    // The report of an earlier run does not become part of the next by being written.
    let report = f.at("again.json");
    let folder = f.path().to_str().unwrap();
    run(&["scan", "--json", "--output", &report, folder]);
    let d: Json = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(d["files"].as_array().unwrap().len(), 4);
    // A shorter report leaves nothing of the longer one before it.
    let r = run(&["scan", "--no-sandbox", "--output", &report, &bad]);
    assert_eq!(r.code, 1);
    let text = std::fs::read_to_string(&report).unwrap();
    assert!(text.ends_with("verdict: malicious (1 file)\n"), "{text}");
}

#[test]
fn nothing_that_is_scanned_is_written_over() {
    let f = Folder::new();
    let bad = f.write("m.pkl", EVIL);
    for flag in ["--output", "--write-baseline"] {
        let (code, d) = run_json("scan", &["scan", flag, &bad, &bad]);
        assert_eq!(
            (code, &d["error"]["rule"]),
            (2, &json!("scan.output-is-input"))
        );
    }
    assert_eq!(std::fs::read(&bad).unwrap(), EVIL);
    let (one, same) = (f.at("out.json"), f.at("./out.json"));
    let args = ["scan", "--output", &one, "--write-baseline", &same, &bad];
    let (code, d) = run_json("scan", &args);
    assert_eq!((code, &d["error"]["rule"]), (2, &json!("scan.one-output")));
    let nowhere = f.at("no/such/folder.json");
    assert_eq!(run(&["scan", "--output", &nowhere, &bad]).code, 2);
    assert_eq!(f.names(), ["m.pkl"]);
}

#[test]
fn rules_are_listed_and_explained() {
    let (code, d) = run_json("scan-rules", &["scan", "--list-rules"]);
    assert_eq!(code, 0);
    let rules = d["rules"].as_array().unwrap();
    assert!(rules.len() >= 14);
    assert_eq!(run_json("scan-rules", &["scan", "--explain"]).1, d);
    for rule in rules {
        let id = rule["rule"].as_str().unwrap();
        let (code, one) = run_json("scan-rules", &["scan", "--explain", id]);
        assert_eq!((code, &one["why"]), (0, &rule["why"]));
    }
    let r = run(&["scan", "--explain", "wb-pkl-001"]);
    for text in [
        "Evidence of a finding",
        "posix.getcwd()",
        "cwe.mitre.org",
        "docs/rules/PKL.md",
    ] {
        assert!(r.stdout.contains(text), "{}", r.stdout);
    }
    let r = run(&["scan", "--list-rules"]);
    assert!(r.stdout.matches("WB-PKL-0").count() >= 8, "{}", r.stdout);
}

#[cfg(unix)]
#[test]
fn no_report_drives_the_terminal() {
    let f = Folder::new();
    f.write("a\x1b[2Jb.pkl", b"cposix\ngetcwd\n(V\x1b]0;title\x07\ntR.");
    let folder = f.path().to_str().unwrap();
    let to = f.at("r.txt");
    run(&["scan", "--output", &to, folder]);
    let written = std::fs::read_to_string(&to).unwrap();
    std::fs::remove_file(&to).unwrap();
    for args in [
        &["scan", folder][..],
        &["scan", "--quiet", folder],
        &["scan", "--format", "sarif", folder],
        &["scan", "--json", folder],
    ] {
        let r = run(args);
        assert_eq!(r.code, 1);
        for text in [&r.stdout, &r.stderr, &written] {
            let bad = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(bad, None, "{text}");
        }
    }
}
