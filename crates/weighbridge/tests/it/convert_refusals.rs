//! What conversions refuse or leave out where carrying on would mislead.

use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, FrameworkLayout, convert};
use weighbridge::{DType, FormatId, Model};
use weighbridge_core::model::{Storage, StorageData, Tensor, TensorSource, View};
use weighbridge_core::source::SliceSource;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

fn options() -> ConvertOptions {
    ConvertOptions {
        sync: false,
        ..ConvertOptions::default()
    }
}

fn refused(model: Model, out: &Path, options: &ConvertOptions) -> &'static str {
    let e = convert(model, out, options, &mut |_, _| {}).unwrap_err();
    assert!(!out.exists());
    e.rule()
}

#[test]
fn one_copy_of_shared_values_is_asked_for_where_it_can_be_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = ConvertOptions {
        dedupe: true,
        ..options()
    };
    for name in ["x.npz", "x.h5", "x.index"] {
        let model = weighbridge::open(data("hdf5/plain_old.h5")).unwrap();
        let rule = refused(model, &dir.path().join(name), &options);
        assert_eq!(rule, "convert.dedupe", "{name}");
    }
}

#[test]
fn what_the_reader_says_of_a_second_name_is_no_attribute() {
    let dir = tempfile::tempdir().unwrap();
    let model = weighbridge::open(data("hdf5/plain_old.h5")).unwrap();
    let says_same = |m: &Model| {
        let all = m.tensors.iter().flat_map(|t| &t.extra);
        let mut keys = all.flat_map(|e| e.attributes.iter().map(|(k, _)| k.clone()));
        keys.any(|k| k == "same")
    };
    assert!(says_same(&model));
    let out = dir.path().join("x.hdf5");
    convert(model, &out, &options(), &mut |_, _| {}).unwrap();
    assert!(!says_same(&weighbridge::open(&out).unwrap()));
}

/// A kernel of rank 3 under a name that tells nothing of its layer.
fn unclear() -> Model {
    let data = StorageData::Raw {
        source: std::sync::Arc::new(SliceSource::new(vec![0; 36], "t")),
        offset: 0,
        checksum: None,
    };
    let storage = std::sync::Arc::new(Storage::new("t", 36, false, data).unwrap());
    let source = TensorSource::View(View { storage, offset: 0 });
    let mut m = Model::new(FormatId::Safetensors);
    m.tensors
        .push(Tensor::new("lay.weight", DType::F32, &[3, 3], source));
    m
}

#[test]
fn weights_whose_layout_is_not_known_do_not_go_into_a_given_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.keras");
    let into = ConvertOptions {
        layout: Some(FrameworkLayout::TorchToKeras),
        graph: Some(data("keras/sequential.keras")),
        ..options()
    };
    assert_eq!(refused(unclear(), &out, &into), "convert.layout-left");
}
