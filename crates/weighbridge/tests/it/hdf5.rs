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
    assert_eq!(hold_all(&folder), 10);
}
