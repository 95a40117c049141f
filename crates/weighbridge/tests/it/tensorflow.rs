//! TensorFlow's files against what TensorFlow reads of them (`peers/make_tf.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::format::FormatReader as _;
use weighbridge::format::onnx::encode::Fields;
use weighbridge::format::tensorflow::TfCheckpoint;
use weighbridge::format::tensorflow::types;
use weighbridge::scan::{ScanOptions, scan};
use weighbridge::{DType, FormatId, Model, OpenOptions, check};
use weighbridge_core::model::{
    Chunks, Quantization, Storage, StorageData, Tensor, TensorSource, Value, View, mask_crc32c,
};
use weighbridge_core::source::{Backend, SliceSource};
use weighbridge_core::wire::sstable::Builder;
use weighbridge_scan::Verdict;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tensorflow")
}

fn open(path: &Path) -> Model {
    weighbridge::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is expected of a tensor: its dtype by TensorFlow's name, its dimensions, its digest.
type Row = (String, String, String);

fn row(t: &Tensor) -> Row {
    let dims: Vec<String> = t.shape.iter().map(u64::to_string).collect();
    let name = types::kind_of(t).map_or("?", |k| k.name).to_owned();
    let bytes = t.read_vec().unwrap_or_else(|e| panic!("{}: {e}", t.name));
    assert_eq!(bytes.len() as u64, t.byte_len(), "{}", t.name);
    (name, dims.join(","), hex::encode(Sha256::digest(bytes)))
}

/// The rows of `expected.tsv`, by file.
fn expected() -> BTreeMap<String, BTreeMap<String, Row>> {
    let text = std::fs::read_to_string(data().join("expected.tsv")).unwrap();
    let mut all: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
    for line in text.lines() {
        let w: Vec<&str> = line.split('\t').collect();
        let row = (w[2].into(), w[3].into(), w[4].into());
        all.entry(w[0].into()).or_default().insert(w[1].into(), row);
    }
    all
}

#[test]
fn every_tensor_is_as_tensorflow_reads_it() {
    let mut seen = 0;
    for (file, rows) in expected() {
        let model = open(&data().join(&file));
        assert!(model.warnings.is_empty(), "{file}: {:?}", model.warnings);
        let lite = file.ends_with(".tflite");
        let names: Vec<&String> = rows.keys().collect();
        let mut found: Vec<&String> = model.tensors.iter().map(|t| &t.name).collect();
        found.sort();
        assert_eq!(found, names, "{file}");
        let mut compared = 0;
        for (name, wanted) in rows {
            let t = model
                .tensor(&name)
                .unwrap_or_else(|| panic!("{file}: {name}"));
            let got = row(t);
            if lite {
                // The interpreter says nothing of quantization in its dtypes.
                assert_eq!((&got.1, &got.2), (&wanted.1, &wanted.2), "{file}: {name}");
            } else {
                assert_eq!(got, wanted, "{file}: {name}");
            }
            compared += 1;
        }
        assert!(compared >= 2, "{file}: {compared}");
        seen += compared;
        let report = check::check(&data().join(&file), &OpenOptions::default()).unwrap();
        assert_eq!(report.violations, [], "{file}");
    }
    assert!(seen >= 170, "{seen}");
}

#[test]
fn every_tensor_of_the_corpus_is_as_its_manifest_says() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let corpus = corpus.join("keras_tf");
    let text = std::fs::read_to_string(corpus.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut files = 0;
    for f in manifest["files"].as_array().unwrap() {
        let kind = f["kind"].as_str().unwrap();
        if !["tf_checkpoint_v2", "saved_model", "tf_frozen_graphdef"].contains(&kind) {
            continue;
        }
        let file = f["file"].as_str().unwrap();
        let model = open(&corpus.join(file));
        for t in f["tensors"].as_array().unwrap() {
            let name = t["name"].as_str().unwrap();
            let (dtype, _, digest) = row(model.tensor(name).unwrap());
            assert_eq!(dtype, t["dtype"].as_str().unwrap(), "{file}: {name}");
            assert_eq!(digest, t["sha256"].as_str().unwrap(), "{file}: {name}");
        }
        files += 1;
    }
    assert_eq!(files, 9);
    let v1 = open(&corpus.join("tf1_v1format.ckpt"));
    assert_eq!(v1.container, Some("v1"));
    let v2 = open(&corpus.join("tf1_model.ckpt-3"));
    // Both were saved of one model.
    assert_eq!(v1.tensors.len(), 3);
    for t in &v1.tensors {
        assert_eq!(row(t), row(v2.tensor(&t.name).unwrap()), "{}", t.name);
    }
    // The state file names it, and a data file stands for its index.
    assert_eq!(open(&corpus.join("checkpoint")).container, Some("v1"));
    let whole = open(&corpus.join("tf_two_shards.data-00001-of-00002"));
    assert_eq!(whole.tensors.len(), 2);
}

#[test]
fn the_object_graph_gives_labels() {
    let model = open(&data().join("managed"));
    let label = |name: &str| {
        let name = format!("{name}/.ATTRIBUTES/VARIABLE_VALUE");
        model.tensor(&name).unwrap().label().map(str::to_owned)
    };
    assert_eq!(label("module/layers/1").as_deref(), Some("module/layers/1"));
    let kernel = label("optimizer/_trainable_variables/0");
    assert_eq!(kernel.as_deref(), Some("net/first/kernel"));
    assert_eq!(label("save_counter").as_deref(), Some("save_counter"));
    let mut labels: Vec<_> = model.tensors.iter().filter_map(Tensor::label).collect();
    let n = labels.len();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!((labels.len(), n), (model.tensors.len() - 1, n));
}

#[test]
fn a_saved_model_has_its_graph_and_files() {
    let model = open(&data().join("saved"));
    assert_eq!(model.format, FormatId::SavedModel);
    let names: Vec<String> = model
        .parts
        .iter()
        .map(|p| p.path.strip_prefix(data()).unwrap().display().to_string())
        .collect();
    for file in ["saved_model.pb", "fingerprint.pb", "assets/vocab.txt"] {
        assert!(names.contains(&format!("saved/{file}")), "{names:?}");
    }
    let graph = model.graph.as_ref().unwrap();
    let inputs: Vec<&str> = graph.inputs.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(inputs, ["serving_default_x:0"]);
    assert!(graph.functions.iter().any(|f| f.name.contains("apply")));
    let signatures = model.metadata.iter().find(|(k, _)| k == "signatures");
    let look = signatures.unwrap().1.get("look").unwrap();
    let x = look.get("inputs").unwrap().get("x").unwrap();
    assert_eq!(x.get("dtype"), Some(&Value::Str("STR".into())));
    // Its constants are listed on demand.
    let options = OpenOptions {
        constants: true,
        ..OpenOptions::default()
    };
    let all = options.open(data().join("saved")).unwrap();
    assert!(all.tensors.len() > model.tensors.len() + 3);
}

#[test]
fn quantization_of_lite_models_is_read() {
    let model = open(&data().join("int8.tflite"));
    let per_channel = model.tensors.iter().find_map(|t| match t.quantization() {
        Some(Quantization::PerChannel { axis, scales, .. }) => Some((t, *axis, scales)),
        _ => None,
    });
    let (t, axis, scales) = per_channel.unwrap();
    assert_eq!(t.shape[axis], scales.shape[0]);
    assert_eq!(scales.read_vec().unwrap().len() as u64, 4 * t.shape[axis]);
    assert!(matches!(t.dtype, DType::QI8 | DType::QI32));
    let graph = model.graph.as_ref().unwrap();
    assert!(graph.nodes.iter().any(|n| n.operator == "CONV_2D"));
    assert_eq!(graph.inputs.len(), 1);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.safetensors");
    let options = ConvertOptions {
        dequantize: true,
        ..ConvertOptions::default()
    };
    let float = open(&data().join("float.tflite"));
    convert(model, &out, &options, &mut |_, _| {}).unwrap();
    // The same weights, in steps of the scale.
    let (a, b) = (open(&out), float);
    let weights = |m: &Model| {
        let t = m
            .tensors
            .iter()
            .find(|t| t.shape.len() == 4)
            .unwrap()
            .clone();
        let bytes = t.read_vec().unwrap();
        let (words, _) = bytes.as_chunks::<4>();
        words
            .iter()
            .map(|w| f32::from_le_bytes(*w))
            .collect::<Vec<_>>()
    };
    let (a, b) = (weights(&a), weights(&b));
    assert!(
        a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 0.01),
        "{a:?} {b:?}"
    );
}

/// As converters of TensorFlow 1 wrote it, with biases that had the dimension of their weights.
#[test]
fn a_bias_may_be_quantized_along_a_dimension_that_it_has_not() {
    let mut bytes = std::fs::read(data().join("int8.tflite")).unwrap();
    // The quantization of the bias "arith.constant": its table, and the fields' places.
    let table = 2272usize;
    let u16_at = |b: &[u8], at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
    let back = i32::from_le_bytes(bytes[table..table + 4].try_into().unwrap());
    let old = (table as i32 - back) as usize;
    let size = usize::from(u16_at(&bytes, old));
    let mut places = bytes[old..old + size].to_vec();
    // `quantized_dimension` has the number 6; it shares the place of the scales, whose offset is
    // no dimension of anything.
    places.resize(4 + 2 * 7, 0);
    places[0] = 4 + 2 * 7;
    let scales = u16_at(&places, 4 + 2 * 2);
    assert_ne!(scales, 0);
    places[4 + 2 * 6..].copy_from_slice(&scales.to_le_bytes());
    let new = bytes.len().next_multiple_of(4);
    bytes.resize(new, 0);
    bytes.extend(places);
    let back = table as i32 - new as i32;
    bytes[table..table + 4].copy_from_slice(&back.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.tflite");
    std::fs::write(&path, bytes).unwrap();
    let model = open(&path);
    let bias = model.tensors.iter().find(|t| t.name == "arith.constant");
    let bias = bias.unwrap();
    assert_eq!((bias.dtype, bias.shape.len()), (DType::QI32, 1));
    let along = bias.quantization().map(|q| match q {
        Quantization::PerChannel { axis, .. } => Some(*axis),
        _ => None,
    });
    assert_eq!(along, Some(Some(0)));
    assert!(
        check::check(&path, &OpenOptions::default())
            .unwrap()
            .violations
            .is_empty()
    );
}

/// All tensors of a model, by name.
fn rows(model: &Model) -> BTreeMap<String, Row> {
    let one = |t: &Tensor| (t.name.clone(), row(t));
    model.tensors.iter().map(one).collect()
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    for (i, file) in ["dtypes", "slices", "v1.ckpt", "managed", "three"]
        .iter()
        .enumerate()
    {
        let wanted = rows(&open(&data().join(file)));
        let options = ConvertOptions {
            target: Some(FormatId::TfCheckpoint),
            shard_size: (i % 2 == 1).then_some(300),
            strict: true,
            ..ConvertOptions::default()
        };
        let out = dir.path().join(format!("out.{i}"));
        let model = open(&data().join(file));
        let report = convert(model, &out, &options, &mut |_, _| {}).unwrap();
        assert_eq!(report.tensors as usize, wanted.len(), "{file}");
        assert_eq!(report.output.len() > 2, i % 2 == 1, "{file}");
        assert_eq!(rows(&open(&out)), wanted, "{file}");
        let checked = check::check(&out, &OpenOptions::default()).unwrap();
        assert_eq!(checked.violations, [], "{file}");
    }
}

/// `snappy.*` is `dtypes.*` with every block of the index compressed by Google's Snappy (which
/// TensorFlow reads, and wrote before 1.1).
#[test]
fn compressed_tables_are_read() {
    let (a, b) = (open(&data().join("snappy")), open(&data().join("dtypes")));
    assert!(a.parts[0].bytes < b.parts[0].bytes);
    assert_eq!(rows(&a), rows(&b));
    let report = check::check(&data().join("snappy"), &OpenOptions::default()).unwrap();
    assert_eq!(report.violations, []);
}

#[test]
fn a_table_that_is_no_checkpoint_is_not_called_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.ldb");
    let mut table = Builder::new();
    assert!(table.add(b"key", b"value"));
    std::fs::write(&path, table.finish()).unwrap();
    let report = scan(&[path], &ScanOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(report.verdict(), Verdict::Incomplete);
}

#[test]
fn what_a_checkpoint_cannot_hold_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new(FormatId::Safetensors);
    let bytes = vec![0u8; 64];
    let data = StorageData::Raw {
        source: Arc::new(SliceSource::new(bytes, "x")),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new("x", 64, false, data).unwrap());
    for (name, dtype) in [
        ("b", DType::F32),
        ("b", DType::F32),
        ("a", DType::I4),
        ("", DType::F32),
        ("e8", DType::F8_E8M0),
    ] {
        let view = View {
            storage: Arc::clone(&storage),
            offset: 0,
        };
        let t = Tensor::new(name, dtype, &[4], TensorSource::View(view));
        model.tensors.push(t);
    }
    model.metadata.push(("key".into(), Value::Int(1)));
    let out = dir.path().join("out.index");
    let options = ConvertOptions::default();
    let report = convert(model, &out, &options, &mut |_, _| {}).unwrap();
    let lost: Vec<&str> = report.lost.iter().map(|n| n.what.as_str()).collect();
    assert_eq!(lost, ["a", "", "e8", "metadata key"]);
    let names: Vec<String> = open(&dir.path().join("out"))
        .tensors
        .into_iter()
        .map(|t| t.name)
        .collect();
    assert_eq!(names, ["b", "b#2"]);
}

#[test]
fn damage_to_payload_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["dtypes.index", "dtypes.data-00000-of-00001"] {
        std::fs::copy(data().join(file), dir.path().join(file)).unwrap();
    }
    let shard = dir.path().join("dtypes.data-00000-of-00001");
    let good = std::fs::read(&shard).unwrap();
    let index = dir.path().join("dtypes");
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(&shard, &bad).unwrap();
        let model = open(&index);
        let mut chunks = Chunks::new();
        let broken = model.tensors.iter().filter_map(|t| {
            let e = t.stream(&mut chunks, &mut |_| Ok(())).err()?;
            Some(e.rule())
        });
        let broken: Vec<&str> = broken.collect();
        let rules = ["tensorflow.crc-mismatch", "tensorflow.text"];
        assert!(
            broken.len() == 1 && rules.contains(&broken[0]),
            "{at}: {broken:?}"
        );
        let report = check::check(&index, &OpenOptions::default()).unwrap();
        assert_eq!(report.violations.len(), 1, "{at}: {:?}", report.violations);
    }
    // Cut short, and not there.
    std::fs::write(&shard, &good[..100]).unwrap();
    let e = weighbridge::open(&index).unwrap_err();
    assert_eq!(e.rule(), "tensorflow.data-past-end");
    std::fs::remove_file(&shard).unwrap();
    let model = open(&index);
    assert_eq!(model.warnings[0].rule, "tensorflow.missing-data");
    let e = model.tensors[0].read_vec().unwrap_err();
    assert_eq!(e.rule(), "tensorflow.missing-data");
}

/// A checkpoint whose numbers have their most significant byte first.
#[test]
fn big_endian_checkpoints_are_turned_round() {
    let dir = tempfile::tempdir().unwrap();
    let numbers: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|x| x.to_be_bytes())
        .collect();
    let texts: &[&[u8]] = &[b"ab", b""];
    let mut shard = numbers.clone();
    let start = shard.len();
    shard.extend([2, 0]);
    let mut crc = 0;
    for t in texts {
        crc = crc32c::crc32c_append(crc, &(t.len() as u32).to_be_bytes());
    }
    let sum = mask_crc32c(crc).to_be_bytes();
    crc = crc32c::crc32c_append(crc, &sum);
    shard.extend(sum);
    for t in texts {
        crc = crc32c::crc32c_append(crc, t);
        shard.extend(*t);
    }
    let shape = Fields::new().bytes(2, Fields::new().int(1, 2));
    let entry = |dtype, offset: usize, size: usize, crc| {
        Fields::new()
            .int(1, dtype)
            .bytes(2, &shape)
            .int(4, offset as i64)
            .int(5, size as i64)
            .fixed32(6, crc)
    };
    let mut table = Builder::new();
    let header = Fields::new().int(1, 1).int(2, 1);
    assert!(table.add(b"", header.as_ref()));
    let sum = mask_crc32c(crc32c::crc32c(&numbers));
    assert!(table.add(b"n", entry(1, 0, start, sum).as_ref()));
    let sum = mask_crc32c(crc);
    assert!(table.add(b"t", entry(7, start, shard.len() - start, sum).as_ref()));
    std::fs::write(dir.path().join("be.index"), table.finish()).unwrap();
    std::fs::write(dir.path().join("be.data-00000-of-00001"), &shard).unwrap();
    let model = open(&dir.path().join("be"));
    let little: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(model.tensors[0].read_vec().unwrap(), little);
    let want = b"\x02\0\0\0\0\0\0\0ab\0\0\0\0\0\0\0\0";
    assert_eq!(model.tensors[1].read_vec().unwrap(), want);
}

/// A checkpoint of version 1 with a tensor longer than what is read of a block when it is opened:
/// its checksum is verified when the values are.
#[test]
fn long_tensors_of_version_1_are_views_with_a_checksum() {
    let values: Vec<u8> = (0..400_000u32)
        .flat_map(|i| (i as f32).to_le_bytes())
        .collect();
    let shape = Fields::new().bytes(2, Fields::new().int(1, 400_000));
    let whole = Fields::new().bytes(1, Fields::new());
    let meta = Fields::new()
        .bytes(1, "long")
        .bytes(2, shape)
        .int(3, 1)
        .bytes(4, &whole);
    let meta = Fields::new().bytes(1, Fields::new().bytes(1, meta));
    let slice = Fields::new()
        .bytes(1, "long")
        .bytes(2, &whole)
        .bytes(3, Fields::new().bytes(5, &values));
    let slice = Fields::new().bytes(2, slice);
    let mut table = Builder::new();
    assert!(table.add(b"", meta.as_ref()));
    assert!(table.add(b"\0long", slice.as_ref()));
    let bytes = table.finish();
    let options = OpenOptions {
        backend: Backend::Pread,
        ..OpenOptions::default()
    };
    let read = |bytes: &[u8]| {
        let source = Arc::new(SliceSource::new(bytes, "long.ckpt"));
        let model = TfCheckpoint.open(source, &options).unwrap();
        assert!(matches!(model.tensors[0].source, TensorSource::View(_)));
        model.tensors[0].read_vec()
    };
    assert_eq!(read(&bytes).unwrap(), values);
    let mut bad = bytes.clone();
    bad[800_000] ^= 1;
    let e = read(&bad).unwrap_err();
    assert_eq!(e.rule(), "tensorflow.crc-mismatch");
}

#[test]
fn files_of_a_checkpoint_scan_clean_and_hidden_bytes_show() {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "three.index",
        "three.data-00000-of-00003",
        "v1.ckpt",
        "v1s.ckpt-00001-of-00002",
    ] {
        std::fs::copy(data().join(file), dir.path().join(file)).unwrap();
    }
    let verdict = |file: &str| {
        let report = scan(
            &[dir.path().join(file)],
            &ScanOptions::default(),
            &mut |_| {},
        );
        let report = report.unwrap();
        (report.verdict(), format!("{:?}", report.files[0]))
    };
    for file in [
        "three.index",
        "three.data-00000-of-00003",
        "v1.ckpt",
        "v1s.ckpt-00001-of-00002",
    ] {
        let (v, why) = verdict(file);
        assert_eq!(v, Verdict::Clean, "{file}: {why}");
    }
    let shard = dir.path().join("three.data-00000-of-00003");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes.extend(b"hidden");
    std::fs::write(&shard, &bytes).unwrap();
    let (v, why) = verdict("three.data-00000-of-00003");
    assert_eq!(v, Verdict::Incomplete, "{why}");
    assert!(why.contains("6 bytes belong to no tensor"), "{why}");
    std::fs::remove_file(dir.path().join("three.index")).unwrap();
    assert_eq!(verdict("three.data-00000-of-00003").0, Verdict::Incomplete);
    let mut bytes = std::fs::read(dir.path().join("v1.ckpt")).unwrap();
    bytes[30] ^= 1;
    std::fs::write(dir.path().join("v1.ckpt"), &bytes).unwrap();
    assert_ne!(verdict("v1.ckpt").0, Verdict::Clean);
    for file in [
        "float.tflite",
        "offset.tflite",
        "int8.tflite",
        "constants.pb",
        "saved",
    ] {
        let report = scan(&[data().join(file)], &ScanOptions::default(), &mut |_| {}).unwrap();
        assert_eq!(
            report.verdict(),
            Verdict::Clean,
            "{file}: {:?}",
            report.files
        );
    }
}

#[test]
fn a_constant_that_repeats_one_value_is_bounded() {
    // A value and a shape of 2^40 elements: a few bytes that stand for terabytes.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.pb");
    for (dtype, field, value) in [(1, 5, 1f32.to_le_bytes().as_slice()), (7, 8, b"text")] {
        let shape = Fields::new().bytes(2, Fields::new().int(1, 1 << 40));
        let tensor = Fields::new().int(1, dtype).bytes(2, shape);
        let value = Fields::new().bytes(8, tensor.bytes(field, value));
        let entry = Fields::new().bytes(1, "value").bytes(2, value);
        let node = Fields::new()
            .bytes(1, "c")
            .bytes(2, "Const")
            .bytes(5, entry);
        let graph = Fields::new().bytes(1, node);
        std::fs::write(&path, graph.as_ref()).unwrap();
        let e = weighbridge::open(&path).unwrap_err();
        assert_eq!(e.rule(), "tensorflow.expansion");
        let report = check::check(&path, &OpenOptions::default()).unwrap();
        assert_eq!(report.violations[0].rule, "tensorflow.expansion");
    }
}

/// Places may overlap: what tensors come to together is bounded by the files' size.
#[test]
fn tensors_of_far_more_bytes_than_the_files_are_refused() {
    for file in ["three.index", "slices.index", "float.tflite", "v1.ckpt"] {
        let path = data().join(file);
        let model = open(&path);
        let sizes = model.tensors.iter().filter(|t| !t.dtype.is_text());
        let sizes = sizes.filter(|t| t.has_data()).map(Tensor::byte_len);
        let total: u64 = sizes.sum();
        assert!(total > 0, "{file}");
        let mut options = OpenOptions::default();
        options.limits.expand_bytes = Some(total - 1);
        let error = options.open(&path).unwrap_err();
        assert_eq!(error.rule(), "tensorflow.expansion", "{file}");
        let found = check::check(&path, &options).unwrap().violations;
        assert!(
            found.iter().any(|v| v.rule == "tensorflow.expansion"),
            "{file}: {found:?}"
        );
    }
}
