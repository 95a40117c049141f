//! Keras' files against what Keras itself says of them: `peers/make_keras_data.py` made the project's own
//! and noted which variable lies under which path; the corpus has its manifest.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use weighbridge::check::check;
use weighbridge::{FormatId, Model, OpenOptions};
use weighbridge_core::Limits;
use weighbridge_core::model::{DType, Value};
use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::zip::{Archive, Writer};

pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/keras")
}

pub(crate) fn open(path: &Path) -> Model {
    weighbridge::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(path: &Path) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The labels of a model's weights by their names, those of the optimizer left out.
fn labels(model: &Model) -> BTreeMap<String, Option<String>> {
    let own = model
        .tensors
        .iter()
        .filter(|t| !t.name.starts_with("optimizer"));
    own.map(|t| (t.name.clone(), t.label().map(str::to_owned)))
        .collect()
}

fn class<'m>(model: &'m Model, name: &str) -> Option<&'m str> {
    let extra = model.tensor(name)?.extra.as_ref()?;
    let (_, v) = extra.attributes.iter().find(|(k, _)| k == "layer_class")?;
    v.as_str()
}

#[test]
fn weights_are_called_as_keras_calls_their_variables() {
    let all = json(&data().join("variables.json"));
    for (file, paths) in all.as_object().unwrap() {
        let model = open(&data().join(file));
        assert_eq!(model.format, FormatId::Keras);
        let own = file == "unknown.keras";
        for (name, label) in labels(&model) {
            let wanted = paths[&name].as_str().unwrap();
            // What only the code of a layer tells has no label, rather than a wrong one.
            match own && wanted.starts_with("own/") {
                true => assert_eq!(label, None, "{file} {name}"),
                false => assert_eq!(label.as_deref(), Some(wanted), "{file} {name}"),
            }
        }
        assert_eq!(
            labels(&model).len(),
            paths.as_object().unwrap().len(),
            "{file}"
        );
    }
}

#[test]
fn layers_tell_their_class_and_files_their_version() {
    let model = open(&data().join("functional.keras"));
    assert_eq!(model.container, Some("keras"));
    assert_eq!(model.version.as_deref(), Some("3.15.1"));
    assert_eq!(class(&model, "layers/conv1d/vars/0"), Some("Conv1D"));
    let forward = "layers/bidirectional/forward_layer/cell/vars/1";
    assert_eq!(class(&model, forward), Some("LSTM"));
    let query = "layers/multi_head_attention/query_dense/vars/0";
    assert_eq!(class(&model, query), Some("MultiHeadAttention"));
    let keys: Vec<&str> = model.metadata.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(
        keys.get(..2),
        Some(["config.json", "metadata.json"].as_slice())
    );
}

#[test]
fn an_optimizers_state_is_named_by_what_it_trains() {
    let model = open(&data().join("sequential.keras"));
    let label = |n: u32| {
        let t = model.tensor(&format!("optimizer/vars/{n}")).unwrap();
        t.label().unwrap().to_owned()
    };
    assert_eq!(label(0), "adam/iteration");
    assert_eq!(label(1), "adam/learning_rate");
    assert_eq!(label(2), "adam/stack_a_kernel_momentum");
    assert_eq!(label(5), "adam/stack_a_bias_velocity");
    assert_eq!(label(7), "adam/stack_batch_normalization_gamma_velocity");
    // Its shape is that of the weight.
    let kernel = model.tensor("layers/dense/vars/0").unwrap();
    assert_eq!(
        model.tensor("optimizer/vars/3").unwrap().shape,
        kernel.shape
    );
    let own = open(&data().join("unknown.keras"));
    assert!(own.tensors.iter().all(|t| !t.name.starts_with("optimizer")));
}

#[test]
fn weights_without_a_configuration_are_named_by_their_groups() {
    let model = open(&data().join("sequential.weights.h5"));
    assert_eq!(model.format, FormatId::Keras);
    assert_eq!(model.container, Some("weights.h5"));
    let l = labels(&model);
    assert_eq!(l["layers/dense/vars/1"].as_deref(), Some("a/bias"));
    assert_eq!(class(&model, "layers/dense/vars/1"), Some("Dense"));
    // Three values of a BatchNormalization can be two sets: no label.
    assert_eq!(l["layers/batch_normalization/vars/0"], None);
    let of = class(&model, "layers/batch_normalization/vars/0");
    assert_eq!(of, Some("BatchNormalization"));
}

#[test]
fn the_older_file_names_weights_itself() {
    let model = open(&data().join("sequential.h5"));
    assert_eq!(
        (model.format, model.container),
        (FormatId::Keras, Some("h5"))
    );
    assert_eq!(model.version.as_deref(), Some("3.15.1"));
    let kernel = model.tensor("model_weights/a/stack/a/kernel").unwrap();
    assert_eq!(kernel.label(), Some("stack/a/kernel"));
    assert_eq!(class(&model, &kernel.name), Some("Dense"));
    let state = model.tensor("optimizer_weights/adam/iteration").unwrap();
    assert_eq!(state.label(), Some("adam/iteration"));
}

#[test]
fn weights_in_several_files_are_one_model() {
    let parts = open(&data().join("parts.weights.json"));
    let whole = open(&data().join("sequential.weights.h5"));
    assert_eq!(parts.format, FormatId::Keras);
    assert_eq!(parts.parts.len(), 6);
    let values = |m: &Model| -> BTreeMap<String, Vec<u8>> {
        let all = m.tensors.iter();
        all.map(|t| (t.name.clone(), t.read_vec().unwrap()))
            .collect()
    };
    assert_eq!(values(&parts), values(&whole));
    assert_eq!(
        labels(&parts)["layers/dense/vars/0"].as_deref(),
        Some("a/kernel")
    );
    assert!(
        check(&data().join("parts.weights.json"), &OpenOptions::default())
            .unwrap()
            .violations
            .is_empty()
    );
}

#[test]
fn two_opaque_bytes_are_bf16_where_keras_says_so() {
    let model = open(&data().join("bf16.weights.h5"));
    assert_eq!(model.tensors.len(), 2);
    for t in &model.tensors {
        assert_eq!(t.dtype, DType::BF16);
        assert_eq!(t.read_vec().unwrap().len() as u64, t.byte_len());
    }
}

#[test]
fn lists_of_files_lead_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "../x.weights.h5",
        "/x.h5",
        "a\\b.h5",
        "c:x.h5",
        ".",
        "a/b.h5",
    ] {
        let path = dir.path().join("m.weights.json");
        let list = serde_json::json!({"metadata": {}, "weight_map": {"/layers/a/vars": name}});
        std::fs::write(&path, list.to_string()).unwrap();
        let e = weighbridge::open(&path).unwrap_err();
        assert_eq!(e.rule(), "keras.bad-weight-map", "{name}");
    }
}

/// An archive of these members, stored.
pub(crate) fn pack(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer::new(1).unwrap();
    for (name, data) in members {
        out.extend(w.start(name, data.len() as u64).unwrap());
        w.data(data).unwrap();
        out.extend(data);
        out.extend(w.end().unwrap());
    }
    out.extend(w.finish().unwrap());
    out
}

/// The members of an archive.
pub(crate) fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let source = Arc::new(SliceSource::new(bytes, "m.keras"));
    let archive = Archive::open(source, &Limits::default()).unwrap();
    let read = |m| archive.read(m, 1 << 30).unwrap();
    archive
        .members()
        .iter()
        .map(|m| (m.name.clone(), read(m)))
        .collect()
}

fn rules(path: &Path) -> Vec<&'static str> {
    let report = check(path, &OpenOptions::default()).unwrap();
    assert_eq!(report.format, FormatId::Keras, "{}", path.display());
    report.violations.iter().map(|v| v.rule).collect()
}

#[test]
fn what_is_wrong_with_an_archive_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = members(&data().join("sequential.keras"));
    let get = |name: &str| whole.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let (config, meta, h5) = (
        get("config.json"),
        get("metadata.json"),
        get("model.weights.h5"),
    );
    let path = dir.path().join("m.keras");
    let judge = |members: &[(&str, Vec<u8>)]| {
        std::fs::write(&path, pack(members)).unwrap();
        rules(&path)
    };
    let fine = [
        ("config.json", config.clone()),
        ("metadata.json", meta.clone()),
        ("model.weights.h5", h5.clone()),
    ];
    assert_eq!(judge(&fine), [""; 0]);
    assert_eq!(judge(&fine[..2]), ["keras.missing-member"]);
    assert_eq!(judge(&fine[1..]), ["keras.missing-member"]);
    let broken = [
        ("config.json", b"{\"class_name\": ".to_vec()),
        fine[1].clone(),
        fine[2].clone(),
    ];
    assert_eq!(judge(&broken), ["keras.bad-json"]);
    assert_eq!(
        weighbridge::open(&path).unwrap_err().rule(),
        "keras.bad-json"
    );
    let mut more = fine.to_vec();
    more.push(("assets/../../x", b"x".to_vec()));
    assert_eq!(judge(&more), ["keras.member-path"]);
    more.pop();
    more.push(("evil.py", b"x".to_vec()));
    assert_eq!(judge(&more), ["keras.unknown-member"]);
    more.pop();
    more.push(("assets/layers/a/vocabulary.txt", b"a\n".to_vec()));
    assert_eq!(judge(&more), [""; 0]);
    let assets = open(&path)
        .metadata
        .into_iter()
        .find(|(k, _)| k == "assets");
    let listed = Value::List(vec![Value::Str("assets/layers/a/vocabulary.txt".into())]);
    assert_eq!(assets.map(|(_, v)| v), Some(listed));
    // A byte of a weight: the archive's checksum says so, whoever reads it.
    let mut bytes = pack(&fine);
    let model = open(&data().join("sequential.keras"));
    let kernel = model
        .tensor("layers/dense/vars/0")
        .unwrap()
        .read_vec()
        .unwrap();
    let at = bytes
        .windows(kernel.len())
        .position(|w| w == kernel)
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(rules(&path), ["zip.crc-mismatch"]);
    let damaged = open(&path);
    let e = damaged
        .tensor("layers/dense/vars/1")
        .unwrap()
        .read_vec()
        .unwrap_err();
    assert_eq!(e.kind(), weighbridge::ErrorKind::Integrity);
}

#[test]
fn weights_that_the_older_file_lists_have_to_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.h5");
    std::fs::copy(data().join("sequential.h5"), &path).unwrap();
    assert_eq!(rules(&path), [""; 0]);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the list, not in the groups.
    let at = bytes
        .windows(14)
        .position(|w| w == b"stack/a/kernel")
        .unwrap();
    bytes[at + 8] = b'K';
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(rules(&path), ["keras.missing-weight"]);
}

#[test]
fn every_keras_file_of_the_corpus_is_as_its_manifest_says() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let corpus = corpus.join("keras_tf");
    let manifest = json(&corpus.join("manifest.json"));
    let (mut files, mut tensors) = (0, 0);
    for entry in manifest["files"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        if !entry["kind"].as_str().unwrap().starts_with("keras") {
            continue;
        }
        let path = corpus.join(file);
        let model = open(&path);
        assert_eq!(model.format, FormatId::Keras, "{file}");
        assert_eq!(rules(&path), [""; 0], "{file}");
        if let Some(version) = entry["keras_version"].as_str() {
            assert_eq!(model.version.as_deref(), Some(version), "{file}");
        }
        let mut sums: HashMap<&str, String> = HashMap::new();
        for t in &model.tensors {
            let sum = hex::encode(Sha256::digest(t.read_vec().unwrap()));
            sums.insert(&t.name, sum);
        }
        for t in entry["tensors"].as_array().unwrap() {
            let name = t["name"].as_str().unwrap();
            assert_eq!(
                sums.get(name).map(String::as_str),
                t["sha256"].as_str(),
                "{file} {name}"
            );
            tensors += 1;
        }
        assert_eq!(
            sums.len(),
            entry["tensors"].as_array().unwrap().len(),
            "{file}"
        );
        for v in entry["variables"].as_array().into_iter().flatten() {
            let path = v["path"].as_str().unwrap();
            // The state of random numbers is in no file.
            if path.ends_with("seed_generator_state") {
                continue;
            }
            let t = model.tensors.iter().find(|t| t.label() == Some(path));
            let t = t.unwrap_or_else(|| panic!("{file}: nothing is called {path}"));
            assert_eq!(
                Some(sums[t.name.as_str()].as_str()),
                v["sha256"].as_str(),
                "{file} {path}"
            );
        }
        files += 1;
    }
    assert_eq!((files, tensors), (16, 149));
}

/// A zip whose members are stored, but for the one called `name`, which is deflated.
fn deflated(members: &[(&str, Vec<u8>)], name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (member, data) in members {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        let (method, packed) = if *member == name {
            let level = flate2::Compression::fast();
            let mut w = flate2::write::DeflateEncoder::new(Vec::new(), level);
            std::io::Write::write_all(&mut w, data).unwrap();
            (8u8, w.finish().unwrap())
        } else {
            (0, data.clone())
        };
        // From the version on, the two headers have the same fields (APPNOTE 4.3.7, 4.3.12).
        let mut fields = vec![20, 0, 0, 0, method, 0, 0, 0, 0x21, 0];
        fields.extend(crc.sum().to_le_bytes());
        fields.extend((packed.len() as u32).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((member.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(member.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(fields);
        out.extend(member.as_bytes());
        out.extend(packed);
    }
    let (at, length) = (out.len() as u32, directory.len() as u32);
    let count = (members.len() as u16).to_le_bytes();
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    out.extend([length.to_le_bytes(), at.to_le_bytes()].concat());
    out.extend([0, 0]);
    out
}

#[test]
fn weights_that_inflate_to_far_more_than_the_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.keras");
    let whole = members(&data().join("sequential.keras"));
    let mut whole: Vec<(&str, Vec<u8>)> =
        whole.iter().map(|(n, d)| (n.as_str(), d.clone())).collect();
    // Zeros behind the end of the HDF5 file cost next to nothing.
    for (name, data) in &mut whole {
        if *name == "model.weights.h5" {
            data.resize(data.len() + (1 << 20), 0);
        }
    }
    std::fs::write(&path, deflated(&whole, "model.weights.h5")).unwrap();
    // It opens where it is allowed to.
    assert!(!open(&path).tensors.is_empty());
    let mut options = OpenOptions::default();
    options.limits.expand_bytes = Some(1 << 20);
    let error = options.open(&path).unwrap_err();
    assert_eq!(error.rule(), "keras.temporary");
    let found = check(&path, &options).unwrap().violations;
    assert!(
        found.iter().any(|v| v.rule == "keras.temporary"),
        "{found:?}"
    );
}
