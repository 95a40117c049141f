//! HDF5 against another reader of it, `hdf5-reader`: every dataset of numbers that both read has
//! the same bytes.

use std::path::{Path, PathBuf};

use weighbridge::OpenOptions;
use weighbridge_core::model::{DType, FormatId};

/// The bytes that the other reader gives; `None` for what it does not read.
fn theirs(file: &hdf5_reader::Hdf5File, name: &str) -> Option<Vec<u8>> {
    file.dataset(name).ok()?.read_native_bytes().ok()
}

/// Compares one file; gives how many datasets both read.
fn compare(path: &Path) -> usize {
    let Ok(other) = hdf5_reader::Hdf5File::open(path) else {
        return 0;
    };
    let options = OpenOptions {
        format: Some(FormatId::Hdf5),
        ..OpenOptions::default()
    };
    let model = options.open(path).unwrap();
    let mut count = 0;
    for t in &model.tensors {
        let plain = !t.dtype.is_text() && !matches!(t.dtype, DType::Null | DType::Bool);
        if !plain || t.dtype.is_complex() || !t.has_data() {
            continue;
        }
        if let Some(bytes) = theirs(&other, &t.name) {
            assert!(
                t.read_vec().unwrap() == bytes,
                "{} {}",
                path.display(),
                t.name
            );
            count += 1;
        }
    }
    count
}

#[test]
fn another_reader_gives_the_same_bytes() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hdf5");
    let mut folders = vec![own];
    if let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") {
        folders.push(PathBuf::from(&corpus).join("keras_tf"));
        folders.push(PathBuf::from(&corpus).join("real/keras_tf"));
    }
    let mut count = 0;
    for folder in folders {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.contains(".h") && !name.contains("bomb") {
                count += compare(&path);
            }
        }
    }
    println!("{count} datasets read by both");
    assert!(count > 150, "{count}");
}
