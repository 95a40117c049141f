//! Standard output and standard error: what goes where, colours, readers that go away.

use std::process::Stdio;

use crate::common::{Folder, command, finished, run, small};

#[test]
fn json_alone_is_on_standard_output() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    for args in [
        &["inspect", &m, "--json"][..],
        &["check", &m, "--json"],
        &["scan", &m, "--json"],
        &["diff", &m, &m, "--json"],
        &["convert", &m, &f.at("o.pt"), "--json"],
    ] {
        let r = run(args);
        assert_eq!(r.code, 0, "{args:?} {}", r.stderr);
        let mut documents =
            serde_json::Deserializer::from_str(&r.stdout).into_iter::<serde_json::Value>();
        assert!(documents.next().unwrap().is_ok());
        assert!(documents.next().is_none(), "{args:?}");
        assert_eq!(r.stderr, "", "{args:?}");
    }
}

#[test]
fn colours_follow_the_environment() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let escapes = |vars: &[(&str, &str)], extra: &[&str]| {
        let mut args = vec!["inspect", &m];
        args.extend(extra);
        let mut c = command(&args);
        c.envs(vars.iter().copied());
        finished(c.output().unwrap()).stdout.contains('\x1b')
    };
    assert!(!escapes(&[], &[]), "no terminal, no colours");
    assert!(escapes(&[("CLICOLOR_FORCE", "1")], &[]));
    assert!(!escapes(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &[]));
    assert!(escapes(&[("NO_COLOR", "1")], &["--color", "always"]));
    assert!(!escapes(&[("CLICOLOR_FORCE", "1")], &["--color", "never"]));
    assert!(!escapes(&[("CLICOLOR_FORCE", "1")], &["--json"]));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let bad = f.write("bad.safetensors", b"");
    for (args, code) in [
        (&["inspect", "--tensors", &m][..], 0),
        (&["inspect", "--json", &m], 0),
        (&["check", "--json", &bad], 1),
        (&["convert", &m, &f.at("o.pt")], 0),
        (&["--version"], 0),
        (&["--help"], 0),
    ] {
        let mut c = command(args);
        c.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = c.spawn().unwrap();
        // Closed before the first byte is written, or at least before the last.
        drop(child.stdout.take());
        let out = finished(child.wait_with_output().unwrap());
        assert_eq!((out.code, out.stderr.as_str()), (code, ""), "{args:?}");
    }
    assert!(f.path().join("o.pt").is_file(), "the work itself is done");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_a_failure() {
    let f = Folder::new();
    let m = f.write("m.safetensors", &small());
    let mut c = command(&["inspect", &m]);
    c.stdout(
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap(),
    );
    c.stderr(Stdio::piped());
    let out = finished(c.output().unwrap());
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("standard output"), "{}", out.stderr);
}

#[cfg(unix)]
#[test]
fn an_interrupt_exits_130_and_leaves_nothing_behind() {
    use std::time::{Duration, Instant};
    let f = Folder::new();
    // A sparse file of 2 GB of zeros, converted by computing: that takes a while.
    let header = r#"{"w":{"dtype":"F32","shape":[500000000],"data_offsets":[0,2000000000]}}"#;
    let header = format!("{header:<80}");
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(header.as_bytes());
    let m = f.write("m.safetensors", &head);
    let file = std::fs::OpenOptions::new().write(true).open(&m).unwrap();
    file.set_len(head.len() as u64 + 2_000_000_000).unwrap();
    let mut c = command(&["convert", "--dtype", "f16", &m, &f.at("o.safetensors")]);
    c.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = c.spawn().unwrap();
    let begun = Instant::now();
    while f.names().len() < 2 {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "nothing is being written"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let begun = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(130));
    assert_eq!(f.names(), ["m.safetensors"]);
}
