//! Files written for Keras, read back by our own readers: `peers/keras_check.py` has Keras read
//! them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use weighbridge::check::check;
use weighbridge::convert::{ConvertOptions, FrameworkLayout, Report, convert};
use weighbridge::{Error, FormatId, Model, OpenOptions};
use weighbridge_core::model::{Compute, DType, Tensor, TensorSource, Value};

use super::keras::{data, members, open, pack};

fn write(model: Model, out: &Path, options: &ConvertOptions) -> Result<Report, Error> {
    let options = ConvertOptions {
        sync: false,
        ..options.clone()
    };
    let report = convert(model, out, &options, &mut |_, _| {})?;
    let found = check(out, &OpenOptions::default()).unwrap().violations;
    assert!(found.is_empty(), "{}: {found:?}", out.display());
    Ok(report)
}

fn values(m: &Model) -> BTreeMap<String, (DType, Vec<u64>, Vec<u8>)> {
    let one = |t: &Tensor| {
        let value = (t.dtype, t.shape.to_vec(), t.read_vec().unwrap());
        (t.name.clone(), value)
    };
    m.tensors.iter().map(one).collect()
}

fn metadata<'m>(m: &'m Model, key: &str) -> Option<&'m Value> {
    m.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v)
}

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

/// A model of tensors with these names, one number each.
fn named(names: impl IntoIterator<Item = String>) -> Model {
    let mut model = Model::new(FormatId::Safetensors);
    for (i, name) in names.into_iter().enumerate() {
        let data = (i as u32).to_le_bytes().to_vec();
        let source = std::sync::Arc::new(weighbridge_core::source::SliceSource::new(data, "x"));
        let data = weighbridge_core::model::StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        let storage = weighbridge_core::model::Storage::new("x", 4, false, data).unwrap();
        let view = weighbridge_core::model::View {
            storage: std::sync::Arc::new(storage),
            offset: 0,
        };
        let source = weighbridge_core::model::TensorSource::View(view);
        model
            .tensors
            .push(Tensor::new(name, DType::U32, &[1], source));
    }
    model
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
fn the_older_file_goes_through_safetensors_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mid, out) = (dir.path().join("m.safetensors"), dir.path().join("m.h5"));
    let model = open(&data().join("sequential.h5"));
    let options = ConvertOptions {
        sync: false,
        ..ConvertOptions::default()
    };
    convert(model.clone(), &mid, &options, &mut |_, _| {}).unwrap();
    write(weighbridge::open(&mid).unwrap(), &out, &options).unwrap();
    let back = open(&out);
    assert_eq!(values(&back), values(&model));
    for key in [
        "model_config",
        "model_weights@layer_names",
        "model_weights/a@weight_names",
    ] {
        assert!(metadata(&back, key).is_some(), "{key}");
        assert_eq!(metadata(&back, key), metadata(&model, key), "{key}");
    }
}

#[test]
fn paths_of_variables_become_groups_of_layers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.h5");
    let names = [
        "d/bias:0",
        "d/kernel:0",
        "enc.0.weight",
        "bn/moving_mean",
        "bn/gamma",
        "top",
    ];
    write(
        named(names.map(str::to_owned)),
        &out,
        &ConvertOptions::default(),
    )
    .unwrap();
    let back = open(&out);
    assert_eq!((back.format, back.container), (FormatId::Keras, Some("h5")));
    let list = |key: &str| match metadata(&back, key) {
        Some(Value::List(items)) => {
            let all = items.iter().map(|v| v.as_str().unwrap().to_owned());
            all.collect::<Vec<_>>()
        }
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(list("layer_names"), ["d", "enc.0", "bn"]);
    // The loader goes by this order: as Keras makes them.
    assert_eq!(list("d@weight_names"), ["d/kernel:0", "d/bias:0"]);
    assert_eq!(list("bn@weight_names"), ["bn/gamma", "bn/moving_mean"]);
    assert_eq!(list("top_level_model_weights@weight_names"), ["top"]);
    assert!(back.tensor("enc.0/enc.0/weight").is_some());
    assert_eq!(
        back.tensor("d/d/kernel:0").unwrap().label(),
        Some("d/kernel")
    );
    assert!(metadata(&back, "keras_version").is_some());
}

/// Every list of weights in `m` by its group, the optimizer's aside.
fn lists(m: &Model) -> BTreeMap<String, Vec<String>> {
    let one = |(k, v): &(String, Value)| {
        let group = k.strip_suffix("@weight_names")?;
        let Value::List(items) = v else { return None };
        let all = items.iter().map(|v| v.as_str().unwrap().to_owned());
        (!group.starts_with("optimizer")).then(|| (group.to_owned(), all.collect()))
    };
    m.metadata.iter().filter_map(one).collect()
}

#[test]
fn lists_name_what_is_there_whatever_was_left_out_or_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.h5");
    let model = open(&data().join("sequential.h5"));
    let drop = ConvertOptions {
        drop: vec!["bias".into()],
        ..ConvertOptions::default()
    };
    // `write` checks the file: every weight that a list names is there.
    let report = write(model.clone(), &out, &drop).unwrap();
    assert!(report.changed.iter().any(|n| n.why.contains("list")));
    let left = lists(&open(&out));
    let all = lists(&model);
    assert!(left.keys().eq(all.keys()), "{left:?}");
    for (group, names) in &left {
        assert!(names.iter().all(|n| all[group].contains(n)), "{group}");
        assert!(!names.iter().any(|n| n.contains("bias")), "{group}");
    }
    // Other names: the lists are made anew, in the same order, where loaders look for them.
    let labels = ConvertOptions {
        labels: true,
        ..ConvertOptions::default()
    };
    write(model.clone(), &out, &labels).unwrap();
    let back = open(&out);
    let order = |m: &Model| metadata(m, "model_weights@layer_names").cloned();
    assert!(order(&back).is_some());
    let plain = |lists: BTreeMap<String, Vec<String>>| -> Vec<(String, Vec<String>)> {
        let leaf = |n: String| {
            n.split(':')
                .next()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        };
        lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(g, names)| (g, names.into_iter().map(leaf).collect()))
            .collect()
    };
    assert_eq!(plain(lists(&back)), plain(all));
}

#[test]
fn only_layers_of_the_configuration_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.h5");
    let mut model = named(
        [
            "adam/iteration",
            "net/b/kernel",
            "net/a/kernel",
            "inner/deep/kernel",
            "deep/bias",
        ]
        .map(str::to_owned),
    );
    let layer = |name: &str, more: &str| {
        format!(r#"{{"class_name": "L", "config": {{"name": "{name}"{more}}}}}"#)
    };
    let nested = format!(r#", "layers": [{}]"#, layer("deep", ""));
    let layers = [layer("a", ""), layer("inner", &nested), layer("b", "")].join(", ");
    let config = format!(r#"{{"class_name": "F", "config": {{"layers": [{layers}]}}}}"#);
    model.metadata = vec![("config.json".into(), Value::Str(config))];
    let report = write(model, &out, &ConvertOptions::default()).unwrap();
    let unlisted: Vec<&str> = report
        .changed
        .iter()
        .filter(|n| n.why.contains("no layer"))
        .map(|n| n.what.as_str())
        .collect();
    assert_eq!(unlisted, ["adam/iteration"]);
    let back = open(&out);
    let names = |all: &[&str]| {
        Some(Value::List(
            all.iter().map(|&n| Value::Str(n.into())).collect(),
        ))
    };
    assert_eq!(
        metadata(&back, "layer_names").cloned(),
        names(&["a", "inner", "b"])
    );
    assert_eq!(lists(&back)["inner"].len(), 2);
    // Without a configuration, there is a word about the order.
    let report = write(
        named(["b/kernel", "a/kernel"].map(str::to_owned)),
        &out,
        &ConvertOptions::default(),
    )
    .unwrap();
    assert!(report.changed.iter().any(|n| n.why.contains("by_name")));
    // And one about paths that are none of layers.
    let report = write(
        named(["layers/dense/vars/0".to_owned()]),
        &out,
        &ConvertOptions::default(),
    )
    .unwrap();
    assert!(report.changed.iter().any(|n| n.why.contains("vars/0")));
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
fn long_lists_are_split_as_keras_splits_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.h5");
    let model = named((0..6000).map(|i| format!("a_layer_with_a_long_name_{i:05}/kernel")));
    let report = write(model, &out, &ConvertOptions::default()).unwrap();
    assert!(report.lost.is_empty(), "{:?}", report.lost);
    let back = open(&out);
    assert!(metadata(&back, "layer_names").is_none());
    assert!(metadata(&back, "layer_names2").is_some());
    assert_eq!(
        back.tensors.iter().filter(|t| t.label().is_some()).count(),
        6000
    );
}

/// The weights of a file, every value another.
fn changed(path: &Path, labels: bool) -> Model {
    let mut model = open(path);
    model.tensors.retain(|t| !t.name.starts_with("optimizer"));
    for t in &mut model.tensors {
        let mut bytes = t.read_vec().unwrap();
        bytes.iter_mut().for_each(|b| *b ^= 1);
        let len = bytes.len() as u64;
        let source = std::sync::Arc::new(weighbridge_core::source::SliceSource::new(bytes, "x"));
        let data = weighbridge_core::model::StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        let storage = weighbridge_core::model::Storage::new("x", len, false, data).unwrap();
        t.source = weighbridge_core::model::TensorSource::View(weighbridge_core::model::View {
            storage: std::sync::Arc::new(storage),
            offset: 0,
        });
        if let (true, Some(label)) = (labels, t.label().map(str::to_owned)) {
            t.name = label;
            t.extra = None;
        }
    }
    model.format = FormatId::Safetensors;
    model.metadata.clear();
    model
}

fn into(base: &Path) -> ConvertOptions {
    ConvertOptions {
        graph: Some(base.to_owned()),
        ..ConvertOptions::default()
    }
}

#[test]
fn weights_come_into_a_given_file_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    for (file, out) in [
        ("sequential.keras", "o.keras"),
        ("sequential.h5", "o.h5"),
        ("sequential.weights.h5", "o.weights.h5"),
    ] {
        let (base, out) = (data().join(file), dir.path().join(out));
        for labels in [false, true] {
            let new = changed(&base, labels && file != "sequential.weights.h5");
            let stored = values(&changed(&base, false));
            let report = write(new, &out, &into(&base)).unwrap();
            assert_eq!(report.tensors, 5, "{file}");
            assert!(report.changed.is_empty() && report.lost.is_empty());
            let back = open(&out);
            for (name, value) in values(&back) {
                match stored.get(&name) {
                    Some(want) => assert!(*want == value, "{file} {name}"),
                    None => assert!(name.starts_with("optimizer"), "{file} {name}"),
                }
            }
            // Byte for byte but for the values, and in an archive its two checksums.
            let (a, b) = (std::fs::read(&base).unwrap(), std::fs::read(&out).unwrap());
            assert_eq!(a.len(), b.len());
            let differ = a.iter().zip(&b).filter(|(x, y)| x != y).count() as u64;
            let weights: u64 = stored.values().map(|(_, _, v)| v.len() as u64).sum();
            let sums = if file.ends_with(".keras") { 8 } else { 0 };
            assert!(
                (weights..=weights + sums).contains(&differ),
                "{differ} of {weights}"
            );
        }
    }
}

#[test]
fn a_compressed_member_is_written_afresh_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (data().join("functional.keras"), dir.path().join("o.keras"));
    let report = write(changed(&base, true), &out, &into(&base)).unwrap();
    assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
    let (old, new) = (members(&base), members(&out));
    let others = |all: &[(String, Vec<u8>)]| -> Vec<(String, Vec<u8>)> {
        let others = all.iter().filter(|(n, _)| n != "model.weights.h5");
        others.cloned().collect()
    };
    assert_eq!(others(&old), others(&new));
    let stored = values(&changed(&base, false));
    let back = open(&out);
    for (name, value) in values(&back)
        .into_iter()
        .filter(|(n, _)| !n.starts_with("optimizer"))
    {
        assert!(stored[&name] == value, "{name}");
    }
    assert_eq!(back.tensors.len(), open(&base).tensors.len());
    assert_eq!(
        metadata(&back, "layers/conv1d/vars@name"),
        Some(&Value::Str("conv".into()))
    );
}

#[test]
fn leftovers_are_refused_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (data().join("sequential.keras"), dir.path().join("o.keras"));
    let refused = |model: Model, options: &ConvertOptions| {
        let e = write(model, &out, options).unwrap_err();
        assert!(!out.exists());
        e.rule()
    };
    let mut few = changed(&base, true);
    let bias = few
        .tensors
        .iter()
        .position(|t| t.name == "stack/a/bias")
        .unwrap();
    let taken = few.tensors.remove(bias);
    assert_eq!(refused(few.clone(), &into(&base)), "convert.partial");
    let mut more = changed(&base, true);
    let mut odd = taken.clone();
    odd.name = "more".into();
    more.tensors.push(odd);
    assert_eq!(refused(more.clone(), &into(&base)), "convert.partial");
    let mut turned = changed(&base, true);
    turned.tensors[bias].shape = [2, 2].as_slice().into();
    assert_eq!(refused(turned, &into(&base)), "convert.graph-shape");
    let mut other = changed(&base, true);
    other.tensors[bias].dtype = DType::I32;
    assert_eq!(refused(other, &into(&base)), "convert.graph-dtype");
    let none = ConvertOptions::default();
    assert_eq!(refused(few.clone(), &none), "convert.graph");
    assert_eq!(
        refused(few.clone(), &into(&data().join("sequential.h5"))),
        "convert.graph"
    );
    // Asked for, both are listed.
    let partial = ConvertOptions {
        partial: true,
        ..into(&base)
    };
    let report = write(few.clone(), &out, &partial).unwrap();
    assert_eq!(report.changed.len(), 1);
    assert_eq!(report.changed[0].what, "stack/a/bias");
    let report = write(more.clone(), &out, &partial).unwrap();
    assert_eq!(report.lost[0].what, "more");
    // And a map pairs what has another name.
    let mut other = few;
    let mut odd = taken;
    odd.name = "b".into();
    let want = odd.read_vec().unwrap();
    other.tensors.push(odd);
    let mapped = ConvertOptions {
        map: vec![("b".into(), "stack/a/bias".into())],
        ..into(&base)
    };
    write(other, &out, &mapped).unwrap();
    let back = open(&out);
    let bias = back
        .tensors
        .iter()
        .find(|t| t.label() == Some("stack/a/bias"));
    assert!(bias.unwrap().read_vec().unwrap() == want);
}

#[test]
fn a_base_that_is_damaged_is_not_blessed() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("b.keras"), dir.path().join("o.keras"));
    let whole = members(&data().join("sequential.keras"));
    let all: Vec<(&str, Vec<u8>)> = whole.iter().map(|(n, d)| (n.as_str(), d.clone())).collect();
    let mut bytes = pack(&all);
    std::fs::write(&base, &bytes).unwrap();
    let new = changed(&base, true);
    write(new.clone(), &out, &into(&base)).unwrap();
    std::fs::remove_file(&out).unwrap();
    // A value of the optimizer, which stays.
    let rate = open(&base)
        .tensor("optimizer/vars/1")
        .unwrap()
        .read_vec()
        .unwrap();
    let at = bytes.windows(rate.len()).position(|w| w == rate).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&base, &bytes).unwrap();
    let e = write(new, &out, &into(&base)).unwrap_err();
    assert_eq!(e.kind(), weighbridge::ErrorKind::Integrity);
    assert!(!out.exists());
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

#[test]
fn a_layout_is_turned_once_on_the_way_into_a_given_file() {
    let dir = tempfile::tempdir().unwrap();
    let base = data().join("sequential.keras");
    let was = open(&base);
    let torch = dir.path().join("torch.safetensors");
    let options = |layout, graph| ConvertOptions {
        labels: true,
        layout: Some(layout),
        graph,
        ..ConvertOptions::default()
    };
    let there = options(FrameworkLayout::KerasToTorch, None);
    let report = write(was.clone(), &torch, &there).unwrap();
    let turned = |r: &Report| {
        r.changed
            .iter()
            .filter(|n| n.why.starts_with("layout"))
            .count()
    };
    assert!(turned(&report) > 0);
    let out = dir.path().join("back.keras");
    let back = options(FrameworkLayout::TorchToKeras, Some(base));
    let again = write(weighbridge::open(&torch).unwrap(), &out, &back).unwrap();
    assert_eq!(turned(&again), turned(&report));
    assert_eq!(values(&open(&out)), values(&was));
}
