//! GGUF files: read, written as they were, carried to other formats and back.

use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, Endian, Report, convert};
use weighbridge::diff::{DiffOptions, diff};
use weighbridge::{DType, Model};
use weighbridge_core::model::{Element, Number, Value};

fn corpus() -> Option<PathBuf> {
    let dir = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if dir.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    dir.map(|d| PathBuf::from(d).join("gguf"))
}

fn run(model: Model, to: &Path, options: &ConvertOptions) -> Report {
    convert(model, to, options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{to:?}: {e}"))
}

fn string(out: &mut Vec<u8>, s: &str, coding: Coding) {
    length(out, s.len() as u64, coding);
    out.extend(s.as_bytes());
}

/// How a test file is written.
#[derive(Clone, Copy)]
struct Coding {
    version: u32,
    big: bool,
}

fn four(out: &mut Vec<u8>, n: u32, c: Coding) {
    out.extend(if c.big {
        n.to_be_bytes()
    } else {
        n.to_le_bytes()
    });
}

fn eight(out: &mut Vec<u8>, n: u64, c: Coding) {
    out.extend(if c.big {
        n.to_be_bytes()
    } else {
        n.to_le_bytes()
    });
}

fn length(out: &mut Vec<u8>, n: u64, c: Coding) {
    if c.version == 1 {
        four(out, n as u32, c);
    } else {
        eight(out, n, c);
    }
}

/// A file of one F32 tensor, one Q8_0 tensor and five key-values.
fn file(c: Coding) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    four(&mut out, c.version, c);
    length(&mut out, 2, c);
    length(&mut out, 5, c);
    for (key, kind) in [
        ("a.text", 8u32),
        ("a.number", 4),
        ("a.float", 6),
        ("a.flag", 7),
    ] {
        string(&mut out, key, c);
        four(&mut out, kind, c);
        match kind {
            8 => string(&mut out, "é", c),
            4 => four(&mut out, 70_000, c),
            6 => four(&mut out, 0.1f32.to_bits(), c),
            _ => out.push(1),
        }
    }
    string(&mut out, "a.list", c);
    four(&mut out, 9, c);
    four(&mut out, 8, c);
    length(&mut out, 2, c);
    string(&mut out, "x", c);
    string(&mut out, "", c);
    for (name, dims, kind, offset) in [("f", vec![3u64, 2], 0u32, 0u64), ("q", vec![32], 8, 32)] {
        string(&mut out, name, c);
        four(&mut out, dims.len() as u32, c);
        for d in dims {
            length(&mut out, d, c);
        }
        four(&mut out, kind, c);
        eight(&mut out, offset, c);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    for i in 0..6 {
        four(&mut out, (i as f32 + 0.5).to_bits(), c);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    let scale = 0x3c00u16; // 1.0
    out.extend(if c.big {
        scale.to_be_bytes()
    } else {
        scale.to_le_bytes()
    });
    out.extend(0..32u8);
    out.resize(out.len().next_multiple_of(32), 0);
    out
}

#[test]
fn every_version_and_byte_order_gives_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for (version, big) in [(1, false), (2, false), (3, false), (3, true), (1, true)] {
        let path = dir.path().join(format!("v{version}{big}.gguf"));
        std::fs::write(&path, file(Coding { version, big })).unwrap();
        let model = weighbridge::open(&path).unwrap();
        assert_eq!(model.version.as_deref(), Some(version.to_string().as_str()));
        let find = |key: &str| {
            model
                .metadata
                .iter()
                .find(|(k, _)| k == key)
                .unwrap()
                .1
                .clone()
        };
        assert_eq!(find("a.text"), Value::Str("é".into()));
        assert_eq!(find("a.number"), Value::Number(Number::U32(70_000)));
        assert_eq!(find("a.float"), Value::Number(Number::F32(0.1)));
        assert_eq!(find("a.flag"), Value::Bool(true));
        let Value::Packed(list) = find("a.list") else {
            panic!("an array")
        };
        assert_eq!((list.element(), list.len()), (Element::Str, 2));
        assert_eq!(
            list.values(9).unwrap(),
            [Value::Str("x".into()), Value::Str(String::new())]
        );
        let f = model.tensor("f").unwrap();
        assert_eq!((f.dtype, f.shape.as_slice()), (DType::F32, &[2u64, 3][..]));
        assert_eq!(
            f.bytes().unwrap().get(4..8),
            Some(&1.5f32.to_le_bytes()[..])
        );
        let q = model.tensor("q").unwrap();
        assert_eq!(q.bytes().unwrap().get(..4), Some(&[0, 0x3c, 0, 1][..]));
        let out = dir.path().join("out.gguf");
        run(model, &out, &ConvertOptions::default());
        written.push(std::fs::read(&out).unwrap());
    }
    assert!(written.iter().all(|w| *w
        == file(Coding {
            version: 3,
            big: false
        })));
}

#[test]
fn every_file_of_the_corpus_is_written_as_it_was() {
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for folder in ["vocab", "hf/tiny-llama", "hf/tiny-qwen2", "imatrix"] {
        for entry in std::fs::read_dir(corpus.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let out = dir.path().join("out.gguf");
            let model = weighbridge::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert!(model.warnings.is_empty(), "{path:?}: {:?}", model.warnings);
            let report = run(model, &out, &ConvertOptions::default());
            assert!(report.changed.is_empty() && report.lost.is_empty());
            assert!(
                std::fs::read(&path).unwrap() == std::fs::read(&out).unwrap(),
                "{path:?}"
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn safetensors_carries_typed_metadata_and_gives_it_back() {
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = corpus.join("hf/tiny-llama/ref-f16.gguf");
    let there = dir.path().join("there.safetensors");
    let back = dir.path().join("back.gguf");
    let strict = ConvertOptions {
        strict: true,
        ..ConvertOptions::default()
    };
    let first = weighbridge::open(&path).unwrap();
    run(first.clone(), &there, &strict);
    let middle = weighbridge::open(&there).unwrap();
    assert_eq!(first.metadata, middle.metadata);
    run(middle, &back, &strict);
    let last = weighbridge::open(&back).unwrap();
    assert_eq!(first.metadata, last.metadata);
    let same = diff(
        &first,
        &last,
        &DiffOptions {
            metadata: true,
            ..DiffOptions::default()
        },
    );
    assert!(same.unwrap().identical());
}

#[test]
fn block_types_are_refused_or_dequantized_as_asked() {
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = corpus.join("hf/tiny-llama/quant-Q8_0.gguf");
    let out = dir.path().join("out.safetensors");
    let plain = convert(
        weighbridge::open(&path).unwrap(),
        &out,
        &ConvertOptions {
            strict: true,
            ..ConvertOptions::default()
        },
        &mut |_, _| {},
    );
    let e = plain.unwrap_err();
    assert_eq!(e.rule(), "convert.strict");
    assert!(e.message().contains("--dequantize"), "{e}");
    assert!(!out.exists());
    let options = ConvertOptions {
        dequantize: true,
        ..ConvertOptions::default()
    };
    let report = run(weighbridge::open(&path).unwrap(), &out, &options);
    assert!(report.lost.is_empty(), "{:?}", report.lost);
    let values = weighbridge::open(&out).unwrap();
    let tensors = values
        .tensors
        .iter()
        .filter(|t| t.name.ends_with(".weight"));
    assert!(tensors.clone().count() > 5);
    assert!(tensors.clone().all(|t| t.dtype == DType::F32));
    // Across dtypes `diff` compares values: those of the blocks are the ones written.
    let same = diff(
        &weighbridge::open(&path).unwrap(),
        &values,
        &DiffOptions::default(),
    )
    .unwrap();
    assert!(same.different.is_empty(), "{:?}", same.different);
    // And the source lies close by.
    let source = weighbridge::open(corpus.join("hf/tiny-llama/ref-f16.gguf")).unwrap();
    let apart = diff(&source, &values, &DiffOptions::default()).unwrap();
    let worst = apart.different.iter().filter_map(|d| d.distance?.rel_rmse);
    assert!(worst.fold(0.0, f64::max) < 0.01);
}

/// An alignment that is no 32-bit number is lost, and the tensors lie as readers will look for them.
#[test]
fn an_alignment_of_another_type_moves_nothing() {
    use std::sync::Arc;
    use weighbridge_core::model::{Storage, StorageData, Tensor, TensorSource, View};
    let dir = tempfile::tempdir().unwrap();
    let mut m = Model::new(weighbridge::FormatId::Gguf);
    m.metadata = vec![("general.alignment".into(), Value::Int(128))];
    for (name, byte) in [("a", 1u8), ("b", 2)] {
        let data = StorageData::Raw {
            source: Arc::new(weighbridge_core::source::SliceSource::new(
                vec![byte; 16],
                name,
            )),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(name, 16, false, data).unwrap());
        let source = TensorSource::View(View { storage, offset: 0 });
        m.tensors.push(Tensor::new(name, DType::F32, &[4], source));
    }
    let path = dir.path().join("m.gguf");
    let report = run(m, &path, &ConvertOptions::default());
    assert_eq!(report.lost.len(), 1, "{:?}", report.lost);
    let back = weighbridge::open(&path).unwrap();
    assert_eq!(back.tensor("b").unwrap().bytes().unwrap()[..], [2; 16]);
}

/// The same file in the other byte order, as the reference's own byte swap has it.
#[test]
fn either_byte_order_comes_out_and_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (little, big) = (
        file(Coding {
            version: 3,
            big: false,
        }),
        file(Coding {
            version: 3,
            big: true,
        }),
    );
    std::fs::write(at("little.gguf"), &little).unwrap();
    for (from, order, want) in [
        ("little.gguf", Endian::Big, &big),
        ("out.gguf", Endian::Big, &big),
        ("out.gguf", Endian::Little, &little),
        ("out.gguf", Endian::Little, &little),
    ] {
        let model = weighbridge::open(at(from)).unwrap();
        let report = run(model, &at("out.gguf"), &to_order(order));
        assert!(report.changed.is_empty() && report.lost.is_empty());
        assert!(std::fs::read(at("out.gguf")).unwrap() == *want, "{order:?}");
    }
    let model = weighbridge::open(at("little.gguf")).unwrap();
    let other = at("out.safetensors");
    let e = convert(model, &other, &to_order(Endian::Big), &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "convert.endian");
    assert!(e.advice().is_some() && !other.exists());
}

fn to_order(endian: Endian) -> ConvertOptions {
    ConvertOptions {
        endian: Some(endian),
        sync: false,
        ..ConvertOptions::default()
    }
}

/// Vocabularies, models of many block types, matrices: there and back, and equal on the way.
#[test]
fn files_of_the_corpus_survive_the_other_byte_order() {
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("big.gguf"), dir.path().join("back.gguf"));
    let mut seen = 0;
    for folder in ["vocab", "hf/tiny-llama", "imatrix"] {
        for entry in std::fs::read_dir(corpus.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let model = weighbridge::open(&path).unwrap();
            // Nothing defines these blocks in the other order.
            if let Some(t) = model.tensors.iter().find(|t| t.dtype == DType::IQ2_XXS) {
                let big = to_order(Endian::Big);
                let e = convert(model.clone(), &there, &big, &mut |_, _| {}).unwrap_err();
                assert_eq!(e.rule(), "gguf.byte-order");
                assert!(e.message().contains(&t.name), "{e}");
                continue;
            }
            run(model.clone(), &there, &to_order(Endian::Big));
            let turned = weighbridge::open(&there).unwrap();
            assert_eq!(turned.container, Some("big-endian"));
            let options = DiffOptions {
                metadata: true,
                ..DiffOptions::default()
            };
            let same = diff(&model, &turned, &options).unwrap();
            assert!(same.identical(), "{path:?}");
            run(turned, &back, &to_order(Endian::Little));
            let (a, b) = (std::fs::read(&path).unwrap(), std::fs::read(&back).unwrap());
            assert!(a == b, "{path:?}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

/// SHA-256 of what `gguf_convert_endian.py` (gguf-py 0.19.0) makes of these files.
#[test]
fn big_endian_files_are_those_of_the_reference() {
    use sha2::{Digest, Sha256};
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("big.gguf");
    for (name, want) in [
        (
            "Q8_0",
            "625a485159621c6711883b7c45bd4744f01de6898edcfff2af515b34e2678326",
        ),
        (
            "Q4_0",
            "448b0b516ccae87a86f0c161854cad3b2c77e263a0f5387db57c7989634d04a1",
        ),
        (
            "Q4_K_M",
            "436d3470ae0e3723bdbd4ef994e7c24b03af279e6a5b6e7302ef7cb963897e72",
        ),
        (
            "Q6_K",
            "b23ddd03ccc40d0d89738fb6981245b410d23f7e0d32c3a4061f3c985e839800",
        ),
    ] {
        let path = corpus.join(format!("hf/tiny-llama/quant-{name}.gguf"));
        run(
            weighbridge::open(&path).unwrap(),
            &out,
            &to_order(Endian::Big),
        );
        let digest = Sha256::digest(std::fs::read(&out).unwrap());
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, want, "{name}");
    }
}

/// What `split` makes, which is what `llama-gguf-split` makes: here in one step.
#[test]
fn split_files_are_written_as_the_verb_writes_them() {
    use weighbridge::split::{MergeOptions, SplitOptions, merge, split};
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    for folder in [&here, &there] {
        std::fs::create_dir(folder).unwrap();
    }
    let names = |folder: &Path| {
        let all = std::fs::read_dir(folder).unwrap();
        let mut all: Vec<_> = all.map(|e| e.unwrap().file_name()).collect();
        all.sort();
        all
    };
    let path = corpus.join("hf/tiny-llama/quant-Q4_K_M.gguf");
    let model = weighbridge::open(&path).unwrap();
    for size in [60_000u64, 200_000] {
        let by_size = SplitOptions {
            max_size: Some(size),
            sync: false,
            ..SplitOptions::default()
        };
        split(&path, &here.join("m"), &by_size, &mut |_, _| {}).unwrap();
        let options = ConvertOptions {
            shard_size: Some(size),
            sync: false,
            ..ConvertOptions::default()
        };
        let report = run(model.clone(), &there.join("m.gguf"), &options);
        assert_eq!(names(&here), names(&there));
        assert!(report.output.len() > 2, "{:?}", report.output);
        assert_eq!(report.tensors, model.tensors.len() as u64);
        for out in &report.output {
            let want = here.join(out.file_name().unwrap());
            assert!(std::fs::read(out).unwrap() == std::fs::read(want).unwrap());
            std::fs::remove_file(here.join(out.file_name().unwrap())).unwrap();
        }
        let merged = dir.path().join("merged.gguf");
        let clean = MergeOptions {
            clean: true,
            sync: false,
            ..MergeOptions::default()
        };
        merge(&report.output[0], &merged, &clean, &mut |_, _| {}).unwrap();
        assert!(std::fs::read(&merged).unwrap() == std::fs::read(&path).unwrap());
        // Split and in the other byte order, it is one model still.
        let big = ConvertOptions {
            endian: Some(Endian::Big),
            ..options
        };
        let turned = run(model.clone(), &there.join("big.gguf"), &big);
        let whole = weighbridge::open(&turned.output[1]).unwrap();
        let same = diff(&model, &whole, &DiffOptions::default()).unwrap();
        assert!(same.identical());
        for out in report.output.iter().chain(&turned.output) {
            std::fs::remove_file(out).unwrap();
        }
    }
    // What fits into one file is one.
    let all = ConvertOptions {
        shard_size: Some(1 << 30),
        sync: false,
        ..ConvertOptions::default()
    };
    let report = run(model.clone(), &there.join("m.gguf"), &all);
    assert_eq!(report.output, [there.join("m.gguf")]);
    assert!(std::fs::read(&report.output[0]).unwrap() == std::fs::read(&path).unwrap());
    let none = ConvertOptions {
        shard_size: Some(0),
        ..all
    };
    let e = convert(model, &there.join("n.gguf"), &none, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "shards.zero-size");
}
