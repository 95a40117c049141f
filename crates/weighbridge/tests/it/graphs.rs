//! Scanning graphs: what is harmless stays quiet, what leads out of the model's folder does not.

use std::path::{Path, PathBuf};

use weighbridge::scan::{ScanOptions, scan};
use weighbridge_scan::{FileReport, Verdict};

fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from);
    if corpus.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    corpus
}

fn reports(path: &Path) -> Vec<FileReport> {
    let report = scan(&[path.to_owned()], &ScanOptions::default(), &mut |_| {}).unwrap();
    report.files
}

/// The reports of the files that `keep` says, none of which may be more than incomplete.
fn quiet(path: &Path, keep: fn(&str) -> bool) -> usize {
    let mut count = 0;
    for f in reports(path) {
        if keep(&f.path) {
            assert!(f.verdict <= Verdict::Incomplete, "{f:#?}");
            count += 1;
        }
    }
    count
}

#[test]
fn conforming_models_are_never_accused() {
    let Some(corpus) = corpus() else { return };
    let onnx = |p: &str| p.ends_with(".onnx");
    assert_eq!(quiet(&corpus.join("onnx/conformance"), onnx), 497);
    assert_eq!(quiet(&corpus.join("onnx/clean_control"), onnx), 8);
    assert!(quiet(&corpus.join("real/onnx"), onnx) > 10);
    assert!(quiet(&corpus.join("real/keras_tf"), |_| true) > 5);
    let plain = |p: &str| !p.contains("lambda") && !p.contains("file_ops") && !p.contains("pyfunc");
    assert!(quiet(&corpus.join("keras_tf"), plain) > 40);
}

#[test]
fn gates_are_found_with_an_input_that_opens_them() {
    let Some(corpus) = corpus() else { return };
    let mut opened = 0;
    for f in reports(&corpus.join("onnx/backdoor")) {
        if !f.path.ends_with(".onnx") {
            continue;
        }
        assert!(f.verdict >= Verdict::Suspicious, "{f:#?}");
        let witness = f.findings.iter().find_map(|f| f.witness.as_ref());
        let Some(w) = witness else { continue };
        assert_eq!(f.verdict, Verdict::Malicious);
        let inputs = w["inputs"].as_array().unwrap();
        assert!(inputs.iter().all(|i| i["complete"] == true), "{w}");
        let set = inputs.iter().map(|i| i["set"].as_array().unwrap().len());
        assert!(set.sum::<usize>() > 0, "{w}");
        opened += 1;
    }
    assert_eq!(opened, 10);
}

#[test]
fn graphs_that_were_looked_through_are_clean() {
    let Some(corpus) = corpus() else { return };
    let mut all = reports(&corpus.join("onnx/conformance"));
    all.extend(reports(&corpus.join("onnx/clean_control")));
    all.retain(|f| f.path.ends_with(".onnx"));
    let unclear = all.iter().filter(|f| f.verdict != Verdict::Clean);
    let unclear: Vec<_> = unclear.map(|f| (&f.path, &f.incomplete)).collect();
    assert!(unclear.is_empty(), "{unclear:#?}");
    assert_eq!(all.len(), 505);
}

#[test]
fn malformed_models_are_never_clean() {
    let Some(corpus) = corpus() else { return };
    for f in reports(&corpus.join("onnx/malformed")) {
        if f.path.contains("ext_") {
            assert_eq!(f.verdict, Verdict::Malicious, "{f:#?}");
        } else if f.path.ends_with(".onnx") {
            assert_ne!(f.verdict, Verdict::Clean, "{f:#?}");
        }
    }
}

/// A model whose one tensor of four bytes lies in `weights.bin`, made of the fields of
/// `onnx.proto3`.
#[cfg(unix)]
fn model() -> Vec<u8> {
    model_of(&["weights.bin"])
}

/// The same with a tensor for each of `locations`.
#[cfg(unix)]
fn model_of(locations: &[&str]) -> Vec<u8> {
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        // A length of two bytes: it need not be the shortest.
        let length = [value.len() as u8 | 0x80, (value.len() >> 7) as u8];
        [&[number << 3 | 2], &length[..], value].concat()
    }
    let tensor = |location: &&str| {
        let entry = [bytes(1, b"location"), bytes(2, location.as_bytes())].concat();
        let (kind, name) = (vec![0x08, 1, 0x10, 1], bytes(8, b"w"));
        bytes(5, &[kind, name, bytes(13, &entry), vec![0x70, 1]].concat())
    };
    let tensors: Vec<u8> = locations.iter().flat_map(tensor).collect();
    let node = [bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"Identity")].concat();
    let graph = [bytes(1, &node), tensors].concat();
    [vec![0x08, 8], bytes(7, &graph)].concat()
}

#[cfg(unix)]
#[test]
fn data_that_is_missing_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, model_of(&["a.bin", "b.bin", "a.bin", "b.bin"])).unwrap();
    let report = reports(&path).remove(0);
    let told = |name: &str| {
        let of = report.incomplete.iter().filter(|g| g.reason.contains(name));
        of.count()
    };
    assert_eq!((told("a.bin"), told("b.bin")), (1, 1), "{report:#?}");
}

#[cfg(unix)]
#[test]
fn external_data_that_is_a_link_out_of_the_folder_is_malicious() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    let (path, data) = (folder.join("m.onnx"), folder.join("weights.bin"));
    std::fs::write(&path, model()).unwrap();
    let verdict = || {
        let mut files = reports(&path);
        (files[0].verdict, files.remove(0))
    };
    std::fs::write(&data, [0; 4]).unwrap();
    assert_eq!(verdict().0, Verdict::Clean);
    std::fs::write(&data, [0; 3]).unwrap();
    assert_eq!(verdict().0, Verdict::Malformed, "too short");
    std::fs::write(dir.path().join("secret"), [0; 4]).unwrap();
    std::fs::remove_file(&data).unwrap();
    symlink("../secret", &data).unwrap();
    let (found, report) = verdict();
    assert_eq!(found, Verdict::Malicious, "{report:#?}");
    assert_eq!(report.findings[0].rule, "WB-ONX-001");
}
