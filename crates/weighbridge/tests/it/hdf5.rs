//! HDF5 against what h5py says: the manifest of the corpus, and the project's own small files.

use std::path::PathBuf;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use weighbridge::OpenOptions;
use weighbridge_core::model::{Chunks, DType, FormatId, Model, Tensor};

fn corpus(folder: &str) -> Option<PathBuf> {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return None;
    };
    Some(PathBuf::from(corpus).join(folder))
}

fn open(path: &std::path::Path) -> Model {
    let options = OpenOptions {
        format: Some(FormatId::Hdf5),
        ..OpenOptions::default()
    };
    options
        .open(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The dtype as NumPy and the manifest call it.
fn numpy_name(dtype: DType) -> String {
    let name = match dtype {
        DType::Bool => "bool",
        DType::I8 => "int8",
        DType::U8 => "uint8",
        DType::I16 => "int16",
        DType::U16 => "uint16",
        DType::I32 => "int32",
        DType::U32 => "uint32",
        DType::I64 => "int64",
        DType::U64 => "uint64",
        DType::F16 => "float16",
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::C64 => "complex64",
        DType::C128 => "complex128",
        DType::Str => "string",
        DType::Null => "null",
        // NumPy counts bits.
        DType::Bytes(n) => return format!("bytes{}", n * 8),
        other => return other.to_string(),
    };
    name.to_owned()
}

fn sha256(t: &Tensor) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part);
        Ok(())
    };
    t.stream(&mut Chunks::new(), &mut add)
        .unwrap_or_else(|e| panic!("{}: {e}", t.name));
    hex::encode(hash.finalize())
}

/// Holds a model against one entry of a manifest; gives how many tensors were equal.
fn hold(model: &Model, entry: &Json) -> usize {
    let wanted = entry["tensors"].as_array().unwrap();
    for w in wanted {
        let name = w["name"].as_str().unwrap();
        let t = model.tensor(name);
        let t = t.unwrap_or_else(|| panic!("{}: no {name}", entry["file"]));
        let dtype = w["dtype"].as_str().unwrap();
        if dtype.starts_with("compound") {
            assert_eq!(t.dtype, DType::Compound, "{name}");
        } else if dtype == "unreadable" {
            assert!(!t.has_data(), "{} {name}", entry["file"]);
        } else {
            assert_eq!(numpy_name(t.dtype), dtype, "{} {name}", entry["file"]);
        }
        if let Some(shape) = w["shape"].as_array() {
            let shape: Vec<u64> = shape.iter().map(|d| d.as_u64().unwrap()).collect();
            assert_eq!(t.shape.to_vec(), shape, "{} {name}", entry["file"]);
        }
        if let Some(sum) = w["sha256"].as_str() {
            assert_eq!(sha256(t), sum, "{} {name}", entry["file"]);
        }
    }
    wanted.len()
}

#[test]
fn every_tensor_of_the_corpus_is_as_h5py_has_it() {
    let Some(corpus) = corpus("keras_tf") else {
        return;
    };
    let manifest = std::fs::read_to_string(corpus.join("manifest.json")).unwrap();
    let manifest: Json = serde_json::from_str(&manifest).unwrap();
    let mut count = 0;
    for entry in manifest["files"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        if file.ends_with(".h5") {
            let model = open(&corpus.join(file));
            count += hold(&model, entry);
            for attribute in entry["attrs"].as_array().into_iter().flatten() {
                let name = attribute.as_str().unwrap();
                assert!(
                    model.metadata.iter().any(|(k, _)| k == name),
                    "{file} {name}"
                );
            }
        }
    }
    assert!(count > 700, "{count}");
}

#[test]
fn real_files_open_with_all_their_values() {
    let Some(corpus) = corpus("real/keras_tf") else {
        return;
    };
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "hdf5") {
            let model = open(&path);
            assert!(!model.tensors.is_empty(), "{}", path.display());
            model.tensors.iter().for_each(|t| drop(sha256(t)));
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

/// Holds every file that a manifest of `peers/make_h5.py` lists against it.
fn hold_all(folder: &std::path::Path) -> usize {
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: Json = serde_json::from_str(&manifest).unwrap();
    let files = manifest["files"].as_array().unwrap();
    for entry in files {
        let file = entry["file"].as_str().unwrap();
        let model = open(&folder.join(file));
        hold(&model, entry);
        for attribute in entry["attrs"].as_array().unwrap() {
            let name = attribute.as_str().unwrap();
            let there = model.metadata.iter().any(|(k, _)| k == name);
            assert!(there, "{file} {name}: {:?}", model.warnings);
        }
    }
    files.len()
}

#[test]
fn generated_files_are_as_h5py_has_them() {
    // The full set is made by `peers/make_h5.py` without `--small`.
    let Some(folder) = std::env::var_os("WEIGHBRIDGE_H5") else {
        println!("skipped: WEIGHBRIDGE_H5 is not set");
        return;
    };
    assert!(hold_all(&PathBuf::from(folder)) > 50);
}

#[test]
fn the_projects_own_files_are_as_h5py_has_them() {
    // Made by `peers/make_h5.py --small`.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hdf5");
    assert_eq!(hold_all(&folder), 11);
}

fn own(name: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/hdf5")
        .join(name)
}

/// Every HDF5 file that is there: the project's own, and the corpus'.
fn sound() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(own(""))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    for folder in ["keras_tf", "real/keras_tf"] {
        if let Some(folder) = corpus(folder) {
            all.extend(
                std::fs::read_dir(folder)
                    .unwrap()
                    .flatten()
                    .map(|e| e.path()),
            );
        }
    }
    let named = |p: &PathBuf, of: &str| p.file_name().unwrap().to_string_lossy().contains(of);
    all.retain(|p| named(p, ".h") && !named(p, "bomb"));
    all.sort();
    all
}

fn rules(path: &std::path::Path) -> Vec<&'static str> {
    let options = OpenOptions {
        format: Some(FormatId::Hdf5),
        ..OpenOptions::default()
    };
    let report = weighbridge::check::check(path, &options).unwrap();
    report.violations.iter().map(|v| v.rule).collect()
}

#[test]
fn sound_files_break_no_rule() {
    let all = sound();
    assert!(all.len() >= 11);
    for path in all {
        assert_eq!(rules(&path), [""; 0], "{}", path.display());
    }
}

#[test]
fn what_claims_too_much_is_refused_before_memory_is_taken() {
    let options = OpenOptions::default();
    let e = options.open(own("bomb_extent.h5")).unwrap_err();
    assert_eq!(e.rule(), "hdf5.expand");
    let model = options.open(own("bomb_chunk.h5")).unwrap();
    let e = model.tensors[0].read_vec().unwrap_err();
    assert_eq!(e.rule(), "hdf5.chunk-size");
}

#[test]
fn circles_of_groups_end() {
    let model = open(&own("loop.h5"));
    let names: Vec<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a/x"]);
    let same = model
        .warnings
        .iter()
        .filter(|w| w.rule == "hdf5.same-group");
    assert_eq!(same.count(), 5);
}

#[test]
fn nothing_outside_the_file_is_opened() {
    let model = open(&own("links_out.h5"));
    let told = |rule: &str| model.warnings.iter().any(|w| w.rule == rule);
    assert!(told("hdf5.external-link"));
    assert!(told("hdf5.external-storage"));
    assert!(told("hdf5.virtual-dataset"));
    for name in ["stored", "virtual"] {
        assert!(!model.tensor(name).unwrap().has_data());
    }
    assert!(model.tensor("x").unwrap().has_data());
}

#[test]
fn every_name_of_a_dataset_is_listed_and_attributes_are_typed() {
    use weighbridge_core::model::Value;
    let model = open(&own("plain_new.h5"));
    let (a, b) = (
        model.tensor("hard/again").unwrap(),
        model.tensor("one").unwrap(),
    );
    assert_eq!(sha256(a), sha256(b));
    let same = &b.extra.as_ref().unwrap().attributes;
    assert_eq!(
        *same,
        [("same".to_owned(), Value::Str("hard/again".into()))]
    );
    let value = |key: &str| &model.metadata.iter().find(|(k, _)| k == key).unwrap().1;
    assert_eq!(value("text"), &Value::Str("word".into()));
    assert_eq!(value("ints@int"), &Value::Int(7));
    assert_eq!(value("huge"), &Value::BigInt("9223372036854775813".into()));
    assert_eq!(value("bool"), &Value::Bool(true));
    assert_eq!(value("half"), &Value::Float(1.5));
    assert_eq!(
        value("big"),
        &Value::List(vec![Value::Int(1), Value::Int(2)])
    );
    assert_eq!(value("complex"), &Value::Complex(1.0, 2.0));
    assert_eq!(value("empty"), &Value::Null);
    let row = |n: i64| Value::List((n..n + 3).map(Value::Int).collect());
    assert_eq!(value("matrix"), &Value::List(vec![row(0), row(3)]));
    let texts = ["a", "bc", ""].map(|t| Value::Str(t.into()));
    assert_eq!(value("texts"), &Value::List(texts.to_vec()));
    assert!(matches!(value("long"), Value::Packed(p) if p.len() == 5000));
    let one = a.extra.as_ref().unwrap();
    assert_eq!(
        one.attributes,
        [("unit".to_owned(), Value::Str("m".into()))]
    );
}

/// The bytes of an own file, and where its dataset `name` of the root has its header and its first
/// chunk.
fn places(file: &str, name: &str) -> (Vec<u8>, usize, usize) {
    use weighbridge_core::source::SliceSource;
    use weighbridge_core::wire::hdf5::{File, Target};
    let bytes = std::fs::read(own(file)).unwrap();
    let source = std::sync::Arc::new(SliceSource::new(bytes.as_slice(), file));
    let file = File::open(source, &weighbridge_core::Limits::default()).unwrap();
    let root = file.header(file.superblock().root).unwrap();
    let link = file
        .links(&root)
        .unwrap()
        .into_iter()
        .find(|l| l.name == name)
        .unwrap();
    let Target::Hard(address) = link.target else {
        panic!("{name} is no object");
    };
    let header = file.header(address).unwrap();
    let dataset = file.dataset(&header).unwrap();
    let chunk = file.chunks(&dataset, 0).unwrap().iter().next().unwrap();
    (
        bytes,
        file.place(address) as usize,
        file.place(chunk.address) as usize,
    )
}

#[test]
fn damage_is_told_by_its_checksum() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.h5");
    let (bytes, header, chunk) = places("chunks_new.h5", "fletcher");
    let mut damaged = bytes.clone();
    damaged[chunk + 5] ^= 4;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(rules(&path), ["hdf5.fletcher32"]);
    let mut damaged = bytes;
    damaged[header + 20] ^= 4;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(rules(&path), ["hdf5.checksum"]);
}

fn verdict(bytes: &[u8]) -> weighbridge_scan::Verdict {
    use weighbridge::scan::{ScanOptions, scan};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.h5");
    std::fs::write(&path, bytes).unwrap();
    let report = scan(&[path], &ScanOptions::default(), &mut |_| {}).unwrap();
    report.verdict()
}

#[test]
fn sound_files_are_clean_and_what_hides_in_them_is_found() {
    use weighbridge_scan::Verdict;
    for path in sound() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let got = verdict(&std::fs::read(&path).unwrap());
        if name.starts_with("links_out") {
            assert!(got >= Verdict::Suspicious, "{name}: {got:?}");
        } else if !name.starts_with("lambda") {
            assert_eq!(got, Verdict::Clean, "{name}");
        }
    }
    let bytes = std::fs::read(own("removed.h5")).unwrap();
    let pickle = b"\x80\x02cos\nsystem\nX\x02\0\0\0idq\0\x85R.";
    let program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";
    // Before the file, behind it, and in the longest run of zeros within.
    let zeros = |b: &[u8]| b.iter().take_while(|&&b| b == 0).count();
    let within = (1024..bytes.len())
        .max_by_key(|&i| zeros(&bytes[i..]))
        .unwrap();
    for hidden in [&pickle[..], program] {
        for at in [0, within + 3, bytes.len()] {
            let mut changed = bytes.clone();
            changed.resize(changed.len().max(at + hidden.len()), 0);
            changed[at..at + hidden.len()].copy_from_slice(hidden);
            let got = verdict(&changed);
            assert!(got >= Verdict::Suspicious, "{at}: {got:?}");
        }
    }
}
