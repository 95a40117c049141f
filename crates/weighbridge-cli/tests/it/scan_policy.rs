//! `scan` with a policy and with a baseline.

use serde_json::{Value as Json, json};

use crate::common::{Folder, run, run_json, small};

/// Calls `posix.getcwd()`.
const EVIL: &[u8] = b"cposix\ngetcwd\n(tR.";

/// Builds a `mypkg.models.Net`.
const NET: &[u8] = b"\x80\x02cmypkg.models\nNet\n)\x81.";

const ALLOW: &str = "[[allow]]\nglobals = ['mypkg.models.*']\nreason = 'our own classes'\n";

#[test]
fn a_policy_accepts_with_a_reason_and_says_so() {
    let f = Folder::new();
    let (net, policy) = (f.write("net.pkl", NET), f.write("p.toml", ALLOW.as_bytes()));
    assert_eq!(run(&["scan", &net]).code, 1);
    let (code, d) = run_json("scan", &["scan", "--policy", &policy, &net]);
    assert_eq!((code, &d["verdict"]), (0, &json!("clean")));
    assert_eq!(d["policy"], json!({"path": policy.as_str(), "expired": []}));
    let s = &d["files"][0]["suppressed"][0];
    assert_eq!(s["rule"], "WB-PKL-003");
    assert_eq!(
        s["global"],
        json!({"module": "mypkg.models", "name": "Net", "use": "construct"})
    );
    assert_eq!(s["by"]["reason"], "our own classes");
    assert_eq!(d["files"][0]["sha256"], Json::Null, "nothing asked for it");

    let r = run(&["scan", "--policy", &policy, &net]);
    assert!(r.stdout.contains("our own classes"), "{}", r.stdout);
    let end = "verdict: clean (1 file, 1 finding suppressed)\n";
    assert!(r.stdout.ends_with(end), "{}", r.stdout);
}

#[test]
fn a_policy_hides_nothing_else() {
    let f = Folder::new();
    let policy = f.write("p.toml", ALLOW.as_bytes());
    let both = f.write("both.pkl", &[&NET[..NET.len() - 1], EVIL].concat());
    let (code, d) = run_json("scan", &["scan", "--policy", &policy, &both]);
    assert_eq!((code, &d["verdict"]), (1, &json!("malicious")));
    assert_eq!(d["files"][0]["suppressed"].as_array().unwrap().len(), 1);

    let off = "[[rule]]\nid = 'WB-FMT-*'\nseverity = 'off'\nreason = 'x'";
    let off = f.write("off.toml", off.as_bytes());
    let broken = f.write("m.safetensors", &small()[..20]);
    let (code, d) = run_json("scan", &["scan", "--policy", &off, &broken]);
    assert_eq!((code, &d["verdict"]), (2, &json!("malformed")));
    assert_eq!(d["files"][0]["findings"], json!([]));
    let junk = f.write("x.dat", &[1; 100]);
    assert_eq!(run(&["scan", "--policy", &off, &junk]).code, 2);
}

#[test]
fn what_has_expired_is_said_and_does_not_apply() {
    let f = Folder::new();
    let net = f.write("net.pkl", NET);
    let policy = f.write(
        "p.toml",
        format!("{ALLOW}expires = 2020-02-29\n").as_bytes(),
    );
    let (code, d) = run_json("scan", &["scan", "--policy", &policy, &net]);
    assert_eq!(code, 1);
    assert_eq!(
        d["policy"]["expired"],
        json!([{"entry": "allow 1", "expires": "2020-02-29", "reason": "our own classes"}])
    );
    let r = run(&["scan", "--policy", &policy, &net]);
    assert!(
        r.stderr.contains("expired after 2020-02-29"),
        "{}",
        r.stderr
    );
    let later = f.write(
        "later.toml",
        format!("{ALLOW}expires = 2999-12-31\n").as_bytes(),
    );
    assert_eq!(run(&["scan", "--policy", &later, &net]).code, 0);
}

#[test]
fn a_policy_can_be_stricter() {
    let f = Folder::new();
    let dict = f.write("d.pkl", b"\x80\x02ccollections\nOrderedDict\n)R.");
    assert_eq!(run(&["scan", &dict]).code, 0);
    let deny = f.write(
        "deny.toml",
        b"[[deny]]\nglobals = ['collections.*']\nreason = 'plain data only'",
    );
    let (code, d) = run_json("scan", &["scan", "--policy", &deny, &dict]);
    assert_eq!(code, 1);
    assert_eq!(d["files"][0]["findings"][0]["rule"], "WB-POL-001");

    let linear = f.write(
        "l.pkl",
        b"\x80\x02ctorch.nn.modules.linear\nIdentity\n)\x81.",
    );
    assert_eq!(run(&["scan", &linear]).code, 0);
    let strict = f.write("strict.toml", b"profiles = ['torch-weights-only']");
    assert_eq!(run(&["scan", "--policy", &strict, &linear]).code, 1);

    let limit = f.write("limit.toml", b"[limits]\npickle_ops = 2");
    let (code, d) = run_json("scan", &["scan", "--policy", &limit, &dict]);
    assert_eq!((code, &d["verdict"]), (2, &json!("malformed")));
}

#[test]
fn settings_of_the_policy_hold_unless_the_command_line_says_otherwise() {
    let f = Folder::new();
    let net = f.write("net.pkl", NET);
    let junk = f.write("x.dat", &[1; 100]);
    let policy = f.write("p.toml", b"fail_on = 'malicious'\nallow_incomplete = true");
    assert_eq!(run(&["scan", "--policy", &policy, &net]).code, 0);
    assert_eq!(run(&["scan", "--policy", &policy, &junk]).code, 0);
    let args = ["scan", "--policy", &policy, "--fail-on", "suspicious", &net];
    assert_eq!(run(&args).code, 1);
}

#[test]
fn exceptions_can_be_tied_to_a_path_and_to_the_bytes() {
    let f = Folder::new();
    std::fs::create_dir(f.path().join("old")).unwrap();
    let (old, new) = (f.write("old/a.pkl", NET), f.write("new.pkl", NET));
    let text = "[[rule]]\nid = 'WB-PKL-003'\nseverity = 'off'\nreason = 'looked at'\n";
    let by_path = f.write("path.toml", format!("{text}paths = ['old/*']").as_bytes());
    assert_eq!(run(&["scan", "--policy", &by_path, &old]).code, 0);
    assert_eq!(run(&["scan", "--policy", &by_path, &new]).code, 1);

    let sha = "0".repeat(64);
    let by_sha = f.write("sha.toml", format!("{text}sha256 = ['{sha}']").as_bytes());
    let (code, d) = run_json("scan", &["scan", "--policy", &by_sha, &new]);
    assert_eq!(code, 1);
    // The hash it was asked for is in the report, to be written into the policy.
    let sha = d["files"][0]["sha256"].as_str().unwrap().to_owned();
    let by_sha = f.write("sha.toml", format!("{text}sha256 = ['{sha}']").as_bytes());
    assert_eq!(run(&["scan", "--policy", &by_sha, &new]).code, 0);
    let other = f.write("new.pkl", &[NET, b"\x80\x02N."].concat());
    assert_eq!(run(&["scan", "--policy", &by_sha, &other]).code, 1);
}

#[cfg(unix)]
#[test]
fn a_file_reached_by_two_paths_is_judged_by_each() {
    let f = Folder::new();
    for folder in ["new", "old"] {
        std::fs::create_dir(f.path().join(folder)).unwrap();
    }
    f.write("new/a.pkl", NET);
    std::fs::hard_link(f.at("new/a.pkl"), f.at("old/a.pkl")).unwrap();
    let policy = |folder: &str| {
        let text = format!(
            "[[rule]]\nid = 'WB-PKL-003'\nseverity = 'off'\nreason = 'x'\npaths = ['{folder}/*']"
        );
        f.write("p.toml", text.as_bytes())
    };
    for folder in ["new", "old"] {
        let policy = policy(folder);
        let args = ["scan", "--policy", &policy, &f.at("new"), &f.at("old")];
        let (code, d) = run_json("scan", &args);
        assert_eq!(code, 1);
        let verdicts = [&d["files"][0]["verdict"], &d["files"][1]["verdict"]];
        let expected = match folder {
            "new" => ["clean", "suspicious"],
            _ => ["suspicious", "clean"],
        };
        assert_eq!(verdicts, expected);
    }
}

#[test]
fn a_policy_that_cannot_be_read_stops_the_scan() {
    let f = Folder::new();
    let net = f.write("net.pkl", NET);
    let bad = f.write("p.toml", b"\n[[allow]]\nglobal = ['x.y']\nreason = 'z'");
    let (code, d) = run_json("scan", &["scan", "--policy", &bad, &net]);
    assert_eq!(code, 2);
    assert_eq!(d["error"]["rule"], "policy.syntax");
    let message = d["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("line 3, column 1: "), "{message}");
    assert!(message.contains("global"), "{message}");
    assert_eq!(run(&["scan", "--policy", &f.at("none.toml"), &net]).code, 2);
    assert_eq!(run(&["scan", "--baseline", &bad, &net]).code, 2);
}

#[test]
fn a_baseline_knows_old_findings_and_tells_new_ones() {
    let f = Folder::new();
    std::fs::create_dir(f.path().join("models")).unwrap();
    f.write("models/net.pkl", NET);
    f.write("models/evil.pkl", EVIL);
    f.write("models/good.safetensors", &small());
    let (models, known) = (f.at("models"), f.at("known.json"));

    let (code, d) = run_json("scan", &["scan", "--write-baseline", &known, &models]);
    assert_eq!((code, &d["baseline"]), (0, &json!(known.as_str())));
    let text = std::fs::read_to_string(&known).unwrap();
    let written: Json = serde_json::from_str(&text).unwrap();
    crate::schema::assert_valid("scan-baseline", &written);
    assert_eq!(written["findings"].as_array().unwrap().len(), 2);
    // Clean files are not read for it.
    let of = |d: &Json, name: &str| {
        let files = d["files"].as_array().unwrap().clone();
        files
            .into_iter()
            .find(|x| x["path"].as_str().unwrap().ends_with(name))
            .unwrap()
    };
    assert_eq!(of(&d, "good.safetensors")["sha256"], Json::Null);

    let (code, d) = run_json("scan", &["scan", "--baseline", &known, &models]);
    assert_eq!((code, &d["verdict"]), (0, &json!("clean")));
    assert_eq!(
        of(&d, "evil.pkl")["suppressed"][0]["by"]["kind"],
        "baseline"
    );
    // Written again it is the same, byte for byte.
    run(&["scan", "--write-baseline", &known, &models]);
    assert_eq!(std::fs::read_to_string(&known).unwrap(), text);

    // Moved it is known; changed in one byte, or joined by another, it is new.
    std::fs::rename(f.at("models/net.pkl"), f.at("models/moved.pkl")).unwrap();
    assert_eq!(run(&["scan", "--baseline", &known, &models]).code, 0);
    f.write("models/moved.pkl", &[NET, b"\x80\x02N."].concat());
    let (code, d) = run_json("scan", &["scan", "--baseline", &known, &models]);
    assert_eq!((code, &d["verdict"]), (1, &json!("suspicious")));
    assert_eq!(of(&d, "evil.pkl")["findings"], json!([]));
}

#[test]
fn a_baseline_accepts_findings_and_nothing_else() {
    let f = Folder::new();
    let broken = f.write("m.safetensors", &small()[..20]);
    let known = f.at("known.json");
    assert_eq!(run(&["scan", "--write-baseline", &known, &broken]).code, 2);
    assert_eq!(run(&["scan", "--baseline", &known, &broken]).code, 2);
}

#[test]
fn the_examples_of_the_documents_are_policies() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let text = std::fs::read_to_string(path).unwrap();
    let f = Folder::new();
    let clean = f.write("m.safetensors", &small());
    let mut n = 0;
    for block in text.split("```toml\n").skip(1) {
        let toml = block.split("```").next().unwrap();
        let policy = f.write("p.toml", toml.as_bytes());
        let r = run(&["scan", "--policy", &policy, &clean]);
        assert_eq!(r.code, 0, "{toml}\n{}", r.stderr);
        let value: toml::Value = toml::from_str(toml).unwrap();
        let json = serde_json::to_value(value).unwrap();
        crate::schema::assert_valid("scan-policy", &json);
        n += 1;
    }
    assert!(n >= 3, "{n}");
    // And the schema refuses what the scanner refuses.
    let schema = crate::schema::load("scan-policy");
    for bad in [
        json!({"fail_on": "info"}),
        json!({"allow": [{"globals": ["a.b"]}]}),
        json!({"rule": [{"id": "WB-PKL-001", "severity": "of", "reason": "x"}]}),
        json!({"limit": {}}),
    ] {
        assert!(!crate::schema::validate(&schema, &bad).is_empty(), "{bad}");
    }
}
