//! External data never leads out of the model's folder: one test for each known class of attack on
//! readers of ONNX. Classes that concern something else: CVE-2024-5187 (unpacking a downloaded
//! archive; nothing is downloaded here), CVE-2026-28500 (a hub of models; there is none here), and
//! CVE-2025-51480 (writing external data), which the tests of the writer have.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weighbridge::check::check;
use weighbridge::format::onnx::external::spelling;
use weighbridge::{Model, OpenOptions, Result};

/// What lies outside of the model's folder, and must not be read.
const SECRET: &[u8; 8] = b"s3cr3t!!";

/// A field of bytes; lengths take two bytes, which need not be the fewest.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = [value.len() as u8 | 0x80, (value.len() >> 7) as u8];
    [&[number << 3 | 2], &length[..], value].concat()
}

/// A model whose weight of two floats lies where `entries` say.
fn model(entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(k, v): &(&str, &str)| {
        let pair = [field(1, k.as_bytes()), field(2, v.as_bytes())].concat();
        field(13, &pair)
    };
    let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
    let tensor = [
        &[0x08, 2, 0x10, 1][..],
        &field(8, b"w"),
        &entries,
        &[0x70, 1],
    ]
    .concat();
    let dimension = field(1, &[0x08, 2]);
    let shaped = field(1, &[&[0x08, 1][..], &field(2, &dimension)].concat());
    let output = [field(1, b"y"), field(2, &shaped)].concat();
    let node = [field(1, b"w"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph = [
        field(1, &node),
        field(2, b"g"),
        field(5, &tensor),
        field(12, &output),
    ]
    .concat();
    let opset = field(8, &[0x10, 17]);
    [vec![0x08, 8], field(7, &graph), opset].concat()
}

/// A folder with the folder `model` in it and a secret beside that.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        Self { dir }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("model")
    }

    fn put(&self, entries: &[(&str, &str)]) -> std::path::PathBuf {
        let path = self.folder().join("m.onnx");
        std::fs::write(&path, model(entries)).unwrap();
        path
    }
}

fn bytes(model: Result<Model>) -> Option<Vec<u8>> {
    let tensor = model.ok()?.tensors.into_iter().next()?;
    tensor.bytes().ok().map(|b| b.to_vec())
}

/// That the model at `path` is told to break `rule`, and gives nothing of what lies outside.
#[track_caller]
fn refused(path: &Path, rule: &str) {
    for lenient in [false, true] {
        let options = OpenOptions {
            lenient,
            ..OpenOptions::default()
        };
        let read = bytes(options.open(path));
        assert_ne!(read.as_deref(), Some(&SECRET[..]), "the secret was read");
    }
    let report = check(path, &OpenOptions::default()).unwrap();
    let rules: Vec<&str> = report.violations.iter().map(|v| v.rule).collect();
    assert!(rules.contains(&rule), "{rule}: {:#?}", report.violations);
    assert!(report.violations.iter().all(|v| v.offset.is_some()));
}

#[test]
fn data_beside_the_model_is_read() {
    let place = Place::new();
    std::fs::create_dir(place.folder().join("data")).unwrap();
    std::fs::write(place.folder().join("data/w.bin"), b"....12345678").unwrap();
    let path = place.put(&[
        ("location", "data/w.bin"),
        ("offset", "4"),
        ("length", "8"),
        ("checksum", "0"),
    ]);
    assert_eq!(
        check(&path, &OpenOptions::default()).unwrap().violations,
        []
    );
    assert_eq!(bytes(weighbridge::open(&path)).unwrap(), b"12345678");
}

#[test]
fn cve_2022_25882_a_path_that_leads_up_or_is_absolute() {
    let place = Place::new();
    refused(
        &place.put(&[("location", "../secret")]),
        "onnx.external-path",
    );
    let absolute = place.dir.path().join("secret");
    let absolute = absolute.to_str().unwrap();
    refused(&place.put(&[("location", absolute)]), "onnx.external-path");
    let twice = format!("/{absolute}");
    refused(&place.put(&[("location", &twice)]), "onnx.external-path");
}

#[test]
fn cve_2024_27318_a_path_that_leads_up_from_further_in() {
    let place = Place::new();
    std::fs::create_dir(place.folder().join("sub")).unwrap();
    for location in [
        "sub/../../secret",
        "sub/./../../secret",
        "./../secret",
        "sub//../../secret",
        "m.onnx/../../secret",
    ] {
        refused(&place.put(&[("location", location)]), "onnx.external-path");
    }
}

#[test]
fn spellings_of_other_systems_are_refused_on_all() {
    let place = Place::new();
    for location in [
        "..\\secret",
        "sub\\..\\..\\secret",
        "\\\\server\\share\\secret",
        "C:\\secret",
        "C:secret",
        "c:/secret",
        ".. /secret",
        "..../secret",
        "../ secret",
        " ../secret",
        "sub/.. /../secret",
        "file:secret",
        "FILE:secret",
        "file:///etc/passwd",
        "https://example.com/w.bin",
        "w.bin\0",
        "w.bin\n",
        "NUL",
        "sub/con.txt",
        "COM1",
        "lpt\u{b9}.bin",
        "",
        ".",
        "./",
        "sub/",
    ] {
        assert!(spelling(location).is_err(), "{location:?}");
        refused(&place.put(&[("location", location)]), "onnx.external-path");
    }
    for location in [
        "w.bin",
        "./w.bin",
        "a/b/w..bin",
        "console.bin",
        "…/w.bin",
        ".w",
    ] {
        assert!(spelling(location).is_ok(), "{location:?}");
    }
}

#[cfg(unix)]
#[test]
fn cve_2026_27489_links_that_lead_out() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    let link = place.folder().join("w.bin");
    let path = place.put(&[("location", "w.bin")]);
    for target in ["../secret", "../model/../secret"] {
        symlink(target, &link).unwrap();
        refused(&path, "onnx.external-link");
        std::fs::remove_file(&link).unwrap();
    }
    symlink(place.dir.path().join("secret"), &link).unwrap();
    refused(&path, "onnx.external-link");
    // A link to a link, and a folder that is one.
    std::fs::rename(&link, place.folder().join("other")).unwrap();
    symlink("other", &link).unwrap();
    refused(&path, "onnx.external-link");
    symlink("..", place.folder().join("up")).unwrap();
    refused(
        &place.put(&[("location", "up/secret")]),
        "onnx.external-link",
    );
    // A link that leads nowhere tells nothing of what is there.
    std::fs::remove_file(&link).unwrap();
    symlink("/nonexistent/secret", &link).unwrap();
    refused(&place.put(&[("location", "w.bin")]), "onnx.external-link");
}

/// A hard link cannot be told from the file itself: it is read, and noted.
#[cfg(unix)]
#[test]
fn cve_2026_27489_hard_links_are_noted() {
    let place = Place::new();
    let link = place.folder().join("w.bin");
    std::fs::hard_link(place.dir.path().join("secret"), link).unwrap();
    let path = place.put(&[("location", "w.bin")]);
    let noted = weighbridge::open(&path).unwrap().warnings;
    assert!(noted.iter().any(|w| w.rule == "onnx.external-hard-link"));
    let report = check(&path, &OpenOptions::default()).unwrap();
    let rules: Vec<&str> = report.violations.iter().map(|v| v.rule).collect();
    assert_eq!(rules, ["onnx.external-hard-link"]);
}

/// Opening a pipe that nobody writes to would wait for ever.
#[cfg(target_os = "linux")]
#[test]
fn devices_pipes_and_folders_are_no_data() {
    let begun = Instant::now();
    let place = Place::new();
    let inside = place.folder().join("w.bin");
    let made = std::process::Command::new("mkfifo").arg(&inside).status();
    let path = place.put(&[("location", "w.bin")]);
    if made.is_ok_and(|s| s.success()) {
        refused(&path, "onnx.external-file");
        std::fs::remove_file(&inside).unwrap();
    }
    std::fs::create_dir(&inside).unwrap();
    refused(&path, "onnx.external-file");
    std::fs::remove_dir(&inside).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &inside).unwrap();
    refused(&path, "onnx.external-link");
    refused(
        &place.put(&[("location", "/dev/zero")]),
        "onnx.external-path",
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn cve_2026_34445_keys_and_numbers_that_are_none() {
    let place = Place::new();
    std::fs::write(place.folder().join("w.bin"), [0; 16]).unwrap();
    let with = |entries: &[(&str, &str)]| {
        let all: Vec<_> = [&[("location", "w.bin")][..], entries].concat();
        place.put(&all)
    };
    for (key, value, rule) in [
        ("__class__", "x", "onnx.external-key"),
        ("name", "x", "onnx.external-key"),
        ("Offset", "0", "onnx.external-key"),
        ("location", "w.bin", "onnx.external-key"),
        ("offset", "-1", "onnx.external-number"),
        ("offset", "+1", "onnx.external-number"),
        ("offset", " 1", "onnx.external-number"),
        ("offset", "0x8", "onnx.external-number"),
        ("offset", "1e3", "onnx.external-number"),
        ("offset", "", "onnx.external-number"),
        ("offset", "\u{661}", "onnx.external-number"),
        ("offset", "9223372036854775808", "onnx.external-number"),
        ("length", "-8", "onnx.external-number"),
        ("length", "18446744073709551616", "onnx.external-number"),
        ("length", "9", "onnx.external-length"),
        ("length", "1099511627776", "onnx.external-length"),
        ("offset", "9", "onnx.external-range"),
        ("offset", "9223372036854775807", "onnx.external-range"),
    ] {
        refused(&with(&[(key, value)]), rule);
    }
    let far = [("offset", "9223372036854775807"), ("length", "8")];
    refused(&with(&far), "onnx.external-range");
    refused(&place.put(&[("offset", "0")]), "onnx.external-location");
}

/// Where a location is given twice, readers differ in which of them they take.
#[test]
fn the_location_that_counts_is_the_one_that_is_judged() {
    let place = Place::new();
    std::fs::write(place.folder().join("w.bin"), [0; 8]).unwrap();
    for pair in [["w.bin", "../secret"], ["../secret", "w.bin"]] {
        let path = place.put(&pair.map(|l| ("location", l)));
        refused(&path, "onnx.external-key");
    }
}
