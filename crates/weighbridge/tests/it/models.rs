//! Real models of other libraries scan clean, whatever version and protocol wrote them, and what is
//! hidden in such a file is found.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weighbridge::scan::{ScanOptions, scan};
use weighbridge_scan::{FileReport, Verdict};

fn report(path: &Path) -> FileReport {
    let mut report = scan(&[path.to_owned()], &ScanOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(report.files.len(), 1, "{}", path.display());
    report.files.remove(0)
}

fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from);
    if corpus.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    corpus
}

/// Written by `tests/data/models/make_models.py` in environments from scikit-learn 0.19 to 1.9.
#[test]
fn recorded_models_are_clean() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
    let mut seen = 0;
    for e in std::fs::read_dir(dir).unwrap() {
        let path = e.unwrap().path();
        if path.extension().is_some_and(|e| e == "py") {
            continue;
        }
        let r = report(&path);
        assert_eq!(r.verdict, Verdict::Clean, "{}: {r:#?}", path.display());
        seen += 1;
    }
    assert!(seen >= 48, "{seen}");
}

#[test]
fn rows_of_the_corpus_get_their_verdict() {
    let Some(corpus) = corpus() else { return };
    let corpus = corpus.join("scan");
    let mut seen = 0;
    for line in std::fs::read_to_string(corpus.join("index.tsv"))
        .unwrap()
        .lines()
        .skip(1)
    {
        let cells: Vec<&str> = line.split('\t').collect();
        let path = corpus.join(cells[0]);
        let ours = ["gguf", "npy", "npz", "joblib"];
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if !ours.contains(&extension) && !cells[0].contains("/sk/") {
            continue;
        }
        seen += 1;
        let r = report(&path);
        let good = match cells[1] {
            "clean" => r.verdict == Verdict::Clean,
            "malicious" => r.verdict == Verdict::Malicious,
            "suspicious" => r.verdict >= Verdict::Suspicious,
            _ => r.verdict > Verdict::Incomplete,
        };
        assert!(good, "{} is {}: {r:#?}", cells[0], cells[1]);
    }
    assert!(seen > 35, "{seen}");
}

#[test]
fn real_gguf_files_are_clean() {
    let Some(corpus) = corpus() else { return };
    let mut seen = 0;
    let report = scan(&[corpus.join("gguf")], &ScanOptions::default(), &mut |_| {}).unwrap();
    for f in report.files.iter().filter(|f| f.path.ends_with(".gguf")) {
        assert_eq!(f.verdict, Verdict::Clean, "{f:#?}");
        assert_eq!(f.format, "gguf");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

/// A GGUF file without tensors whose one key is `key`.
fn gguf(key: &str, value: &str) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend([0u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
    out.extend(text(key));
    out.extend(8u32.to_le_bytes());
    out.extend(text(value));
    out
}

/// A zip with one stored member.
fn zipped(name: &str, data: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(data).to_le_bytes();
    let size = (data.len() as u32).to_le_bytes();
    let sizes = [
        &crc[..],
        &size,
        &size,
        &(name.len() as u16).to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    let mut out = b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\0".to_vec();
    out.extend([&sizes[..], name.as_bytes(), data].concat());
    let directory = out.len() as u32;
    out.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\x21\0");
    out.extend([&sizes[..], &[0; 14], name.as_bytes()].concat());
    let length = out.len() as u32 - directory;
    out.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    out.extend([length.to_le_bytes(), directory.to_le_bytes()].concat());
    out.extend([0, 0]);
    out
}

#[test]
fn a_gguf_file_in_an_archive_is_judged_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        report(&path)
    };
    let clean = gguf("tokenizer.chat_template", "{{ messages }}");
    assert_eq!(put("a.gguf", &clean).verdict, Verdict::Clean);
    assert_eq!(
        put("a.zip", &zipped("a.gguf", &clean)).verdict,
        Verdict::Clean
    );
    let evil = gguf(
        "tokenizer.chat_template",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    );
    let r = put("b.zip", &zipped("b.gguf", &evil));
    assert_eq!(r.verdict, Verdict::Malicious, "{r:#?}");
    assert!(r.findings[0].place.contains("b.gguf"));
    // What is appended is said, with its offset.
    let mut padded = clean.clone();
    padded.resize(clean.len().next_multiple_of(32), 0);
    let r = put("c.gguf", &[&padded[..], &[7; 40]].concat());
    assert_eq!(r.verdict, Verdict::Malformed);
    assert_eq!(r.findings[0].evidence, "gguf.trailing-bytes");
    assert_eq!(r.findings[0].offset, Some(padded.len() as u64));
}

/// A tuple of an array of `n` doubles, up to the array's bytes, as joblib writes it.
fn array(n: u64) -> Vec<u8> {
    let mut out = b"\x80\x02(cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(".to_vec();
    let dtype = "cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb";
    out.extend(format!("Vshape\n(I{n}\ntVdtype\n{dtype}ub").into_bytes());
    out
}

/// Arrays of joblib files are accounted for and not read.
#[test]
fn a_joblib_file_of_gigabytes_is_judged_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.joblib");
    let mut file = std::fs::File::create(&path).unwrap();
    let n = 1u64 << 29;
    for _ in 0..2 {
        file.write_all(&array(n)).unwrap();
        file.seek(SeekFrom::Current((n * 8) as i64)).unwrap();
    }
    file.write_all(b"cposix\nsystem\n(Vid\ntRtt.").unwrap();
    let begun = Instant::now();
    let r = report(&path);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(r.verdict, Verdict::Malicious, "{r:#?}");
    let end = file.metadata().unwrap().len();
    assert_eq!(r.findings[0].offset, Some(end - 4));
}

#[test]
fn what_a_model_holds_is_judged_by_how_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let verdict = |bytes: &[u8]| {
        let path = dir.path().join("m.pkl");
        std::fs::write(&path, bytes).unwrap();
        report(&path).verdict
    };
    let transformer = |func: &str| {
        let class = "csklearn.preprocessing._function_transformer\nFunctionTransformer\n)";
        let mut out = b"\x80\x02".to_vec();
        out.extend(class.as_bytes());
        out.extend(b"\x81}Vfunc\n");
        out.extend(format!("c{func}\nsb.").into_bytes());
        verdict(&out)
    };
    assert_eq!(transformer("numpy\nlog1p"), Verdict::Clean);
    assert_eq!(transformer("posix\nsystem"), Verdict::Suspicious);
    assert_eq!(transformer("__main__\nmine"), Verdict::Suspicious);
    // The constructor of a class that is only ever built without calling it.
    assert_eq!(
        verdict(b"csklearn.preprocessing._function_transformer\nFunctionTransformer\n(cposix\nsystem\ntR."),
        Verdict::Malicious
    );
    // An extension type hands its argument on.
    assert_eq!(
        verdict(b"csklearn.neighbors._kd_tree\nnewObj\n(csklearn.neighbors._kd_tree\nKDTree\ntR."),
        Verdict::Clean
    );
    assert_eq!(
        verdict(b"csklearn.neighbors._kd_tree\nnewObj\n(csubprocess\nPopen\ntR."),
        Verdict::Malicious
    );
}
