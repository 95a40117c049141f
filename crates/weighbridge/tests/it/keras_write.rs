//! Files written for Keras, read back by our own readers: `peers/keras_check.py` has Keras read
//! them.

use std::collections::BTreeMap;
use std::path::Path;

use weighbridge::check::check;
use weighbridge::convert::{ConvertOptions, Report, convert};
use weighbridge::{Error, FormatId, Model, OpenOptions};
use weighbridge_core::model::{DType, Tensor, Value};

use super::keras::{data, open};

pub(super) fn write(model: Model, out: &Path, options: &ConvertOptions) -> Result<Report, Error> {
    let options = ConvertOptions {
        sync: false,
        ..options.clone()
    };
    let report = convert(model, out, &options, &mut |_, _| {})?;
    let found = check(out, &OpenOptions::default()).unwrap().violations;
    assert!(found.is_empty(), "{}: {found:?}", out.display());
    Ok(report)
}

pub(super) fn values(m: &Model) -> BTreeMap<String, (DType, Vec<u64>, Vec<u8>)> {
    let one = |t: &Tensor| {
        let value = (t.dtype, t.shape.to_vec(), t.read_vec().unwrap());
        (t.name.clone(), value)
    };
    m.tensors.iter().map(one).collect()
}

pub(super) fn metadata<'m>(m: &'m Model, key: &str) -> Option<&'m Value> {
    m.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v)
}

/// A model of tensors with these names, one number each.
pub(super) fn named(names: impl IntoIterator<Item = String>) -> Model {
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
