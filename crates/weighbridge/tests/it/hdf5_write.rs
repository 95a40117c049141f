//! HDF5 that is written, read back by our own reader: `peers/keras_check.py` has h5py read it.

use std::sync::Arc;

use weighbridge::convert::ConvertOptions;
use weighbridge::{Error, FormatId, Model};
use weighbridge_core::model::{Compute, DType, Tensor, TensorSource, Value};

use super::keras::{data, open};
use super::keras_write::{metadata, named, values, write};

#[test]
fn every_dtype_and_attribute_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = open(&data().join("sequential.weights.h5"));
    model.format = FormatId::Hdf5;
    let template = model.tensors.first().cloned().unwrap();
    let made = |name: &str, dtype: DType, shape: &[u64]| {
        let bytes = dtype.size_of(shape).unwrap() as usize;
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 % 2) as u8).collect();
        let source = std::sync::Arc::new(weighbridge_core::source::SliceSource::new(data, "x"));
        let data = weighbridge_core::model::StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        let storage =
            weighbridge_core::model::Storage::new("x", bytes as u64, false, data).unwrap();
        let view = weighbridge_core::model::View {
            storage: std::sync::Arc::new(storage),
            offset: 0,
        };
        let source = weighbridge_core::model::TensorSource::View(view);
        Tensor::new(name, dtype, shape, source)
    };
    let _ = template;
    model.tensors = [
        DType::Bool,
        DType::U8,
        DType::I8,
        DType::U16,
        DType::I16,
        DType::U32,
        DType::I32,
        DType::U64,
        DType::I64,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::C64,
        DType::C128,
    ]
    .into_iter()
    .map(|d| made(&format!("a/{d}"), d, &[3, 1, 2]))
    .collect();
    model.tensors.push(made("scalar", DType::F32, &[]));
    model.tensors.push(made("none/of/it", DType::I16, &[0, 4]));
    model.tensors.push(made("deep/é/ü", DType::F64, &[1]));
    model.metadata = vec![
        ("text".into(), Value::Str("é".repeat(50_000))),
        ("empty".into(), Value::Str(String::new())),
        ("n".into(), Value::Int(-7)),
        ("x".into(), Value::Float(0.5)),
        ("yes".into(), Value::Bool(true)),
        ("nothing".into(), Value::Null),
        ("ü".into(), Value::Int(1)),
        (
            "a@list".into(),
            Value::List(vec![Value::Str("p".into()), Value::Str("qq".into())]),
        ),
        (
            "none/of@ints".into(),
            Value::List((0..5).map(Value::Int).collect()),
        ),
        ("group/without/datasets@here".into(), Value::Bool(false)),
    ];
    let out = dir.path().join("m.hdf5");
    let report = write(model.clone(), &out, &ConvertOptions::default()).unwrap();
    assert!(
        report.lost.is_empty() && report.changed.is_empty(),
        "{report:?}"
    );
    assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
    let back = open(&out);
    assert_eq!(values(&back), values(&model));
    for (key, value) in &model.metadata {
        assert_eq!(metadata(&back, key), Some(value), "{key}");
    }
    // Equal input gives equal bytes.
    let again = dir.path().join("again.hdf5");
    write(back, &again, &ConvertOptions::default()).unwrap();
    let twice = dir.path().join("twice.hdf5");
    write(open(&again), &twice, &ConvertOptions::default()).unwrap();
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&twice).unwrap());
}

#[test]
fn groups_of_any_size_and_depth_are_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.hdf5");
    // Three levels of the tree of one group, and groups within groups.
    let flat = (0..9000).map(|i| format!("t{i}"));
    let deep = (1..150).map(|n| "g/".repeat(n) + "v");
    let model = named(flat.chain(deep));
    write(model.clone(), &out, &ConvertOptions::default()).unwrap();
    assert_eq!(values(&open(&out)), values(&model));
}

#[test]
fn names_that_cannot_be_get_others() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.hdf5");
    let model = named(["a", "a/b", "a/c", "x//y", "./x/y", "", "n\0l"].map(str::to_owned));
    let report = write(model, &out, &ConvertOptions::default()).unwrap();
    let names: Vec<String> = open(&out).tensors.into_iter().map(|t| t.name).collect();
    assert_eq!(
        names,
        ["a", "a#2/b", "a#2/c", "n_l", "tensor", "x/y", "x/y#2"]
    );
    assert!(report.changed.iter().all(|n| n.naming));
    assert_eq!(report.changed.len(), 6);
}

#[test]
fn what_hdf5_has_no_dtype_for_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let half = || open(&data().join("bf16.weights.h5"));
    let out = dir.path().join("m.h5");
    let e = write(half(), &out, &ConvertOptions::default()).unwrap_err();
    assert_eq!(e.rule(), "convert.nothing-fits");
    assert!(e.to_string().contains("--dtype f32"), "{e}");
    let cast = ConvertOptions {
        dtype: Some(DType::F32),
        ..ConvertOptions::default()
    };
    write(half(), &out, &cast).unwrap();
    assert!(open(&out).tensors.iter().all(|t| t.dtype == DType::F32));
    // Keras 3 keeps it in two opaque bytes.
    let out = dir.path().join("m.weights.h5");
    write(half(), &out, &ConvertOptions::default()).unwrap();
    assert_eq!(values(&open(&out)), values(&half()));
}

/// Texts as tensors stream them.
#[derive(Debug)]
struct Texts(Vec<&'static [u8]>);

impl Compute for Texts {
    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        for text in &self.0 {
            sink(&(text.len() as u64).to_le_bytes())?;
            sink(text)?;
        }
        Ok(())
    }
}

#[test]
fn texts_that_hdf5_would_cut_are_listed_and_not_written() {
    let texts = |name: &str, dtype, texts: &[&'static [u8]]| {
        let source = TensorSource::Computed(Arc::new(Texts(texts.to_vec())));
        Tensor::new(name, dtype, &[texts.len() as u64], source)
    };
    let mut model = named(["dense/kernel".to_owned()]);
    model.tensors.extend([
        texts("t/inner", DType::Str, &[b"a\0b", b"c"]),
        texts("t/last", DType::Str, &[b"a", b"b\0"]),
        texts("t/whole", DType::Str, &[b"", b"\xff\xfe"]),
        // Texts of one width are padded with NULs, of which only the last ones go.
        texts("t/fixed", DType::Bytes(4), &[b"a\0b", b"abcd"]),
    ]);
    model.metadata = vec![
        ("cut".into(), Value::Str("a\0b".into())),
        ("zeros".into(), Value::Bytes(b"a\0b\0\0".to_vec())),
    ];
    let dir = tempfile::tempdir().unwrap();
    for name in ["m.h5", "m.hdf5", "m.weights.h5"] {
        let out = dir.path().join(name);
        let report = write(model.clone(), &out, &ConvertOptions::default()).unwrap();
        let mut lost: Vec<&str> = report.lost.iter().map(|n| n.what.as_str()).collect();
        lost.sort_unstable();
        assert_eq!(lost, ["metadata cut", "t/inner", "t/last"], "{name}");
        let back = open(&out);
        let value = |name: &str| {
            let t = back.tensors.iter().find(|t| t.name.ends_with(name));
            t.map(|t| t.read_vec().unwrap())
        };
        let was = |name: &str| {
            let t = model.tensors.iter().find(|t| t.name == name).unwrap();
            Some(t.read_vec().unwrap())
        };
        assert_eq!(back.tensors.len(), 3, "{name}");
        assert_eq!(value("t/whole"), was("t/whole"), "{name}");
        assert_eq!(value("t/fixed"), was("t/fixed"), "{name}");
        let zeros = Value::Bytes(b"a\0b\0\0".to_vec());
        assert_eq!(metadata(&back, "zeros"), Some(&zeros), "{name}");
        let strict = ConvertOptions {
            strict: true,
            ..ConvertOptions::default()
        };
        let e = write(model.clone(), &out, &strict).unwrap_err();
        assert_eq!(e.rule(), "convert.strict");
    }
}

#[test]
fn of_what_does_not_fit_a_tensor_is_named_and_no_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new(FormatId::Safetensors);
    let source = TensorSource::Computed(Arc::new(Texts(vec![b"a"])));
    model
        .tensors
        .push(Tensor::new("vocabulary", DType::Str, &[1], source));
    model.metadata = vec![("author".into(), Value::Str("x".into()))];
    let out = dir.path().join("m.npz");
    let e = write(model, &out, &ConvertOptions::default()).unwrap_err();
    assert_eq!(e.rule(), "convert.nothing-fits");
    assert!(e.message().contains("vocabulary"), "{e}");
}

#[test]
fn attributes_of_datasets_are_listed_where_they_stay_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = named(["a".to_owned()]);
    model.format = FormatId::Hdf5;
    let attributes = &mut model.tensors[0].extra_mut().attributes;
    attributes.push(("unit".into(), Value::Str("kg".into())));
    let lost = |name: &str, weights_only| {
        let options = ConvertOptions {
            weights_only,
            ..ConvertOptions::default()
        };
        let report = write(model.clone(), &dir.path().join(name), &options).unwrap();
        report.lost.iter().any(|n| n.why.contains("unit"))
    };
    assert!(lost("m.safetensors", false) && lost("m.npz", false));
    assert!(!lost("m.safetensors", true) && !lost("m.hdf5", false));
}

#[test]
fn complex_numbers_become_pairs_where_a_target_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = named((0..4).map(|i| format!("t{i}")));
    for t in &mut model.tensors {
        let bytes = if t.name == "t0" {
            DType::C32
        } else {
            DType::F32
        };
        t.dtype = bytes;
    }
    let options = ConvertOptions {
        complex_as_real: true,
        ..ConvertOptions::default()
    };
    for name in ["m.gguf", "m.npz", "m.hdf5", "m.index", "m.safetensors"] {
        let out = dir.path().join(name);
        let plain = write(model.clone(), &out, &ConvertOptions::default()).unwrap();
        assert!(plain.lost[0].why.contains("--complex-as-real"), "{name}");
        write(model.clone(), &out, &options).unwrap();
        let back = weighbridge::open(&out).unwrap();
        let t = back.tensor("t0").unwrap();
        assert_eq!((t.dtype, t.numel()), (DType::F16, Some(2)), "{name}");
    }
}
