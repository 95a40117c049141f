//! NumPy, joblib and Flax: what their own libraries wrote, held against what they say of it
//! (`peers/make_arrays.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::scan::{ScanOptions, scan};
use weighbridge::structure::{Form, to_json};
use weighbridge::{Backend, OpenOptions, check};
use weighbridge_core::model::{Chunks, DType, FormatId, Model, Tensor};
use weighbridge_scan::Verdict;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/arrays")
}

fn open(name: &str) -> Model {
    let path = data().join(name);
    weighbridge::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn sha256(t: &Tensor) -> Json {
    if !t.has_data() {
        return Json::Null;
    }
    let mut hash = Sha256::new();
    t.stream(&mut Chunks::new(), &mut |part| {
        hash.update(part);
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{}: {e}", t.name));
    hex::encode(hash.finalize()).into()
}

/// Dtype, shape and digest of every tensor.
fn described(m: &Model) -> BTreeMap<String, Json> {
    let one = |t: &Tensor| {
        let shape: Vec<u64> = t.shape.to_vec();
        let json = serde_json::json!([t.dtype.to_string(), shape, sha256(t)]);
        (t.name.clone(), json)
    };
    m.tensors.iter().map(one).collect()
}

fn expected() -> serde_json::Map<String, Json> {
    let text = std::fs::read_to_string(data().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_tensor_is_what_its_writer_says() {
    let mut tensors = 0;
    for (file, want) in expected() {
        for backend in [Backend::Pread, Backend::Mmap] {
            let options = OpenOptions {
                backend,
                ..OpenOptions::default()
            };
            let model = options.open(data().join(&file));
            let model = model.unwrap_or_else(|e| panic!("{file}: {e}"));
            let got = described(&model);
            for (name, want) in want.as_object().unwrap() {
                assert_eq!(got.get(name), Some(want), "{file}: {name}");
                tensors += 1;
            }
            assert_eq!(
                got.len(),
                want.as_object().unwrap().len(),
                "{file}: {got:?}"
            );
        }
    }
    assert!(tensors > 300, "{tensors}");
}

#[test]
fn every_file_conforms_and_is_clean() {
    for (file, _) in expected() {
        let path = data().join(&file);
        let report = check::check(&path, &OpenOptions::default()).unwrap();
        assert_eq!(report.violations, [], "{file}");
        let scanned = scan(&[path], &ScanOptions::default(), &mut |_| {}).unwrap();
        assert_eq!(scanned.verdict(), Verdict::Clean, "{file}: {scanned:?}");
    }
}

#[test]
fn what_had_to_be_decided_is_said() {
    let warned = |name: &str| -> Vec<&str> { open(name).warnings.iter().map(|w| w.rule).collect() };
    assert_eq!(warned("bfloat16.npz"), ["numpy.raw-elements"; 2]);
    assert_eq!(warned("long.npy"), ["numpy.long-double"]);
    assert_eq!(warned("stored.npz"), ["numpy.dates"]);
    assert!(warned("records.npy").is_empty());
    let records = open("records.npy");
    let extra = records.tensors[0].extra.as_ref().unwrap();
    let (key, fields) = &extra.attributes[0];
    let fields = to_json(fields, Form::Inspect).to_string();
    assert_eq!(key, "fields");
    for part in ["<f4", ">i2", "|S3"] {
        assert!(fields.contains(part), "{fields}");
    }
}

#[test]
fn containers_and_state() {
    for (name, format, container) in [
        ("stored.npz", FormatId::Numpy, "npz"),
        ("scalar.npy", FormatId::Numpy, "npy"),
        ("plain.joblib", FormatId::Pickle, "joblib"),
        ("xz.joblib", FormatId::Pickle, "joblib"),
        ("pipeline.pkl", FormatId::Pickle, "pickle"),
        ("checkpoint_12", FormatId::Flax, "msgpack"),
    ] {
        let m = open(name);
        assert_eq!((m.format, m.container), (format, Some(container)), "{name}");
    }
    let state = |name: &str| {
        let m = open(name);
        to_json(m.structure.as_ref().unwrap(), Form::Inspect).to_string()
    };
    let pipeline = state("pipeline.joblib");
    assert!(pipeline.contains("sklearn.pipeline.Pipeline"), "{pipeline}");
    assert!(pipeline.contains(r#"{"$tensor":"steps.1.1.coef_"}"#));
    let objects = state("objects.npz");
    assert!(objects.contains(r#"["lr",0.1]"#), "{objects}");
    assert!(objects.contains(r#"[1,null,"x"]"#), "{objects}");
    let flax = state("flax_model.msgpack");
    for part in [
        r#"["step",3]"#,
        r#"{"$complex":[1.0,2.0]}"#,
        r#"["none",null]"#,
    ] {
        assert!(flax.contains(part), "{flax}");
    }
    let sharded = state("sharded");
    assert!(sharded.contains("enc.l0.kernel") && sharded.contains("enc.l1.kernel"));
    assert_eq!(sharded.matches("\"enc\"").count(), 1, "{sharded}");
}

/// Converts, and opens the result.
fn converted(from: &str, to: &str, options: &ConvertOptions) -> (Vec<String>, Model) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(to);
    let report = convert(open(from), &path, options, &mut |_, _| {});
    let report = report.unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
    let lost = report.lost.iter().map(|n| n.what.clone()).collect();
    let options = OpenOptions {
        backend: Backend::Mmap,
        ..OpenOptions::default()
    };
    (lost, options.open(&path).unwrap())
}

#[test]
fn numbers_go_everywhere_and_what_cannot_is_lost() {
    let dense = |m: &Model| {
        let mut all = described(m);
        all.retain(|_, v| {
            let dtype = v[0].as_str().unwrap_or_default();
            !matches!(dtype, "STR" | "COMPOUND") && !dtype.starts_with("BYTES")
        });
        all
    };
    for from in [
        "stored.npz",
        "deflated.npz",
        "plain.joblib",
        "flax_model.msgpack",
        "chunked.msgpack",
    ] {
        let all = dense(&open(from));
        for to in ["out.safetensors", "out.pt", "out.npz"] {
            let (lost, back) = converted(from, to, &ConvertOptions::default());
            let mut got = dense(&back);
            let mut want = all.clone();
            for name in &lost {
                got.remove(name);
                want.remove(name);
            }
            // Neither safetensors nor PyTorch says which bytes texts were.
            assert_eq!(got, want, "{from} to {to}");
            assert!(lost.len() < 40, "{from} to {to}: {lost:?}");
        }
    }
    let (lost, back) = converted(
        "bfloat16.npz",
        "out.npz",
        &ConvertOptions {
            dtype: Some(DType::F32),
            ..ConvertOptions::default()
        },
    );
    assert!(lost.is_empty());
    assert!(back.tensors.iter().all(|t| t.dtype == DType::F32));
}

#[test]
fn a_wrong_checksum_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["stored.npz", "bfloat16.npz"] {
        let mut bytes = std::fs::read(data().join(name)).unwrap();
        let model = open(name);
        // The last byte of the first array.
        let first = &model.tensors[0];
        let (storage, range) = first.extent().unwrap();
        let (source, base) = storage.random().unwrap();
        drop(source);
        bytes[(base + range.end - 1) as usize] ^= 1;
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let broken = OpenOptions {
            backend: Backend::Pread,
            ..OpenOptions::default()
        }
        .open(&path)
        .unwrap();
        assert_eq!(
            broken.tensors[0].read_vec().unwrap_err().rule(),
            "zip.crc-mismatch"
        );
        let report = check::check(&path, &OpenOptions::default()).unwrap();
        assert!(
            report
                .violations
                .iter()
                .any(|v| v.rule == "zip.crc-mismatch")
        );
    }
}

#[test]
fn an_orbax_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("_CHECKPOINT_METADATA"), "{}").unwrap();
    let e = weighbridge::open(dir.path()).unwrap_err();
    assert_eq!(e.rule(), "directory.orbax");
    assert!(e.advice().unwrap().contains("safetensors"));
}

#[test]
fn folders_take_safetensors_before_flax_and_arrays() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        data().join("chunked.msgpack"),
        dir.path().join("flax_model.msgpack"),
    )
    .unwrap();
    let open = || weighbridge::open(dir.path()).unwrap();
    assert_eq!(open().format, FormatId::Flax);
    let npz = dir.path().join("model.npz");
    convert(open(), &npz, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(open().format, FormatId::Flax);
    let target = dir.path().join("model.safetensors");
    convert(open(), &target, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
    let m = open();
    assert_eq!(m.format, FormatId::Safetensors);
    let choice = m
        .warnings
        .iter()
        .find(|w| w.rule == "directory.choice")
        .unwrap();
    assert!(
        choice.message.contains("flax_model.msgpack"),
        "{}",
        choice.message
    );
    assert!(choice.message.contains("model.npz"), "{}", choice.message);
}
