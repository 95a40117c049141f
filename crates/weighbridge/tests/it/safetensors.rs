//! safetensors: the corpus, round trips, truncation, mutations.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weighbridge::format::safetensors::{Safetensors, aliases, header};
use weighbridge::format::shards;
use weighbridge::format::{FormatReader, FormatWriter, WriteOptions};
use weighbridge::output::{Sink, write_plan};
use weighbridge::{DType, FormatId, Model, OpenOptions, Result, Tensor};
use weighbridge_core::model::{Layout, Storage, StorageData, Strided, TensorSource, Value, View};
use weighbridge_core::source::{ByteSource, FileSource, SliceSource};

fn corpus() -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        eprintln!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return None;
    };
    Some(PathBuf::from(dir).join("safetensors"))
}

fn options(lenient: bool) -> OpenOptions {
    OpenOptions {
        lenient,
        ..OpenOptions::default()
    }
}

fn memory(bytes: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(SliceSource::new(bytes.to_vec(), "test.safetensors"))
}

fn open(bytes: &[u8], lenient: bool) -> Result<Model> {
    Safetensors.open(memory(bytes), &options(lenient))
}

/// A file of `header` (not padded) and `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

/// xorshift64*: all the randomness these tests need.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// The 22 dtypes of the format.
const DTYPES: [DType; 22] = [
    DType::Bool,
    DType::F4,
    DType::F6_E2M3,
    DType::F6_E3M2,
    DType::U8,
    DType::I8,
    DType::F8_E5M2,
    DType::F8_E4M3,
    DType::F8_E8M0,
    DType::F8_E4M3FNUZ,
    DType::F8_E5M2FNUZ,
    DType::I16,
    DType::U16,
    DType::F16,
    DType::BF16,
    DType::I32,
    DType::U32,
    DType::F32,
    DType::C64,
    DType::F64,
    DType::I64,
    DType::U64,
];

fn storage(bytes: Vec<u8>) -> Arc<Storage> {
    let len = bytes.len() as u64;
    let data = StorageData::Raw {
        source: Arc::new(SliceSource::new(bytes, "storage")),
        offset: 0,
        checksum: None,
    };
    Arc::new(Storage::new("s", len, false, data).unwrap())
}

fn view(name: &str, dtype: DType, shape: &[u64], storage: &Arc<Storage>, offset: u64) -> Tensor {
    let source = TensorSource::View(View {
        storage: Arc::clone(storage),
        offset,
    });
    Tensor::new(name, dtype, shape, source)
}

fn strided(name: &str, shape: &[u64], s: &Arc<Storage>, offset: u64, strides: &[u64]) -> Tensor {
    let source = TensorSource::Strided(Box::new(Strided {
        storage: Arc::clone(s),
        offset,
        strides: strides.into(),
        conj: false,
        neg: false,
    }));
    Tensor::new(name, DType::F32, shape, source)
}

/// A model of random tensors of every dtype, with awkward names, sizes and metadata.
fn random_model(seed: u64) -> Model {
    let mut r = Random(seed);
    let mut model = Model::new(FormatId::PyTorch);
    for i in 0..60 {
        let dtype = DTYPES[r.below(22) as usize];
        let mut shape: Vec<u64> = (0..r.below(4)).map(|_| r.below(9)).collect();
        if dtype.bytes().is_none() {
            shape.push(4);
        }
        let n = dtype.size_of(&shape).unwrap();
        let pad = r.below(3) * 8;
        let s = storage(r.bytes((n + pad) as usize));
        let odd = ["", "\"", "\\n\n", "é😀", "\u{1}", "/../x"][r.below(6) as usize];
        model
            .tensors
            .push(view(&format!("t{i}{odd}"), dtype, &shape, &s, pad));
    }
    model.metadata = vec![
        ("format".into(), Value::Str("pt".into())),
        ("quote\"\\".into(), Value::Str("line\nbreak\u{0}é".into())),
        ("epoch".into(), Value::Int(-3)),
        ("loss".into(), Value::Float(0.1)),
    ];
    model
}

fn write(model: &Model, o: &WriteOptions) -> (Vec<u8>, weighbridge::format::Plan) {
    let plan = Safetensors.plan(model, o).unwrap();
    let mut out = Vec::new();
    let mut told = 0;
    Safetensors
        .write(model, &plan, 0, &mut out, &mut |n| told += n)
        .unwrap();
    assert_eq!(out.len() as u64, plan.files[0].bytes);
    assert_eq!(
        told,
        plan.files[0].bytes - plan.files[0].prepared.len() as u64
    );
    (out, plan)
}

#[test]
fn corpus_verdicts() {
    let Some(dir) = corpus() else { return };
    let manifest = std::fs::read_to_string(dir.join("manifest.tsv")).unwrap();
    let mut wrong = Vec::new();
    let mut n = 0;
    for line in manifest.lines().skip(2) {
        let cells: Vec<&str> = line.split('\t').collect();
        let path = dir.join(cells[0]);
        n += 1;
        for (lenient, want) in [(false, cells[3]), (true, cells[1])] {
            let source: Arc<dyn ByteSource> = Arc::new(FileSource::open(&path).unwrap());
            let opened = Safetensors.open(Arc::clone(&source), &options(lenient));
            let found = Safetensors.verify(source, &options(lenient)).unwrap();
            if opened.is_ok() != (want == "ok") || found.is_empty() != (want == "ok") {
                wrong.push(format!(
                    "{} lenient={lenient}: wanted {want}, {found:?}",
                    cells[0]
                ));
            }
            if let Err(e) = opened {
                assert!(e.byte_span().is_some(), "{}: {e} names no offset", cells[0]);
                assert_eq!(e.rule(), found[0].rule, "{}", cells[0]);
            }
        }
    }
    assert_eq!(n, 116, "rows in the manifest");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn corpus_contents_survive_rewriting() {
    let Some(dir) = corpus() else { return };
    let mut n = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("ok_") {
            continue;
        }
        n += 1;
        let model = Safetensors
            .open(Arc::new(FileSource::open(&path).unwrap()), &options(false))
            .unwrap();
        let (bytes, plan) = write(&model, &WriteOptions::default());
        assert!(plan.lost.is_empty() && plan.changed.is_empty(), "{name}");
        same(&model, &open(&bytes, false).unwrap());
    }
    assert!(n > 35, "{n} files");
    let model = Safetensors.open(
        Arc::new(FileSource::open(&dir.join("ok_all_dtypes.safetensors")).unwrap()),
        &options(false),
    );
    let mut found: Vec<_> = model.unwrap().tensors.iter().map(|t| t.dtype).collect();
    found.sort();
    assert_eq!(found, DTYPES);
}

/// Same names, dtypes, shapes, bytes and metadata, in whatever order the tensors are.
fn same(a: &Model, b: &Model) {
    assert_eq!(a.tensors.len(), b.tensors.len());
    for t in &a.tensors {
        let u = b.tensor(&t.name).unwrap();
        assert_eq!((t.dtype, &t.shape), (u.dtype, &u.shape), "{}", t.name);
        assert_eq!(t.bytes().unwrap(), u.bytes().unwrap(), "{}", t.name);
    }
    assert_eq!(a.metadata.len(), b.metadata.len());
}

#[test]
fn round_trips_are_exact_aligned_and_deterministic() {
    for seed in 1..40 {
        let model = random_model(seed);
        let (bytes, plan) = write(&model, &WriteOptions::default());
        assert!(plan.lost.is_empty(), "{:?}", plan.lost);
        assert_eq!(bytes, write(&model, &WriteOptions::default()).0);
        let back = open(&bytes, false).unwrap();
        same(&model, &back);
        assert_eq!(back.metadata[2].1, Value::Str("-3".into()));
        assert_eq!(back.metadata[3].1, Value::Str("0.1".into()));
        assert_eq!(back.metadata[1].1, model.metadata[1].1);
        assert_eq!(plan.files[0].prepared.len() % 64, 0);
        for t in &back.tensors {
            let TensorSource::View(v) = &t.source else {
                panic!()
            };
            assert_eq!(v.offset % t.dtype.alignment(), 0, "{} {}", t.name, t.dtype);
            let own = 1 << t.byte_len().trailing_zeros().min(6);
            assert_eq!(v.offset % own, 0, "{} has {} bytes", t.name, t.byte_len());
        }
        let again = write(&back, &WriteOptions::default()).0;
        assert_eq!(open(&again, false).unwrap().tensors.len(), 60);
    }
}

#[test]
fn what_cannot_be_written_is_named_with_its_flag() {
    let s = storage(vec![0; 64]);
    let mut model = Model::new(FormatId::PyTorch);
    model.tensors = vec![
        view("ok", DType::F32, &[2], &s, 0),
        view("c", DType::C128, &[2], &s, 0),
        view("q", DType::QU8, &[2], &s, 0),
        view("half", DType::F4, &[3], &s, 0),
        view("__metadata__", DType::U8, &[2], &s, 0),
        view("ok", DType::U8, &[1], &s, 0),
        Tensor::new("meta", DType::F32, &[2], TensorSource::Absent),
        Tensor::new("sparse", DType::F32, &[2], TensorSource::Absent),
    ];
    model.tensors[6].layout = Layout::Meta;
    model.tensors[7].layout = Layout::SparseCoo;
    let (bytes, plan) = write(&model, &WriteOptions::default());
    let lost: HashMap<&str, &str> = plan
        .lost
        .iter()
        .map(|n| (n.what.as_str(), n.why.as_str()))
        .collect();
    assert_eq!(lost.len(), 5, "{lost:?}");
    assert!(lost["c"].contains("--complex-as-real"));
    assert!(lost["q"].contains("--dequantize"));
    assert!(lost["sparse"].contains("--densify"));
    assert!(lost["half"].contains("12 bits"));
    assert!(lost.contains_key("meta"));
    assert!(plan.changed.iter().all(|n| n.naming) && plan.changed.len() == 2);
    let back = open(&bytes, false).unwrap();
    let mut names: Vec<_> = back.tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["__metadata__#2", "ok", "ok#2"]);
}

#[test]
fn shared_storage_is_recorded_and_dedupe_keeps_one() {
    let s = storage(Random(5).bytes(24));
    let mut model = Model::new(FormatId::PyTorch);
    model.tensors = vec![
        strided("embed", &[2, 3], &s, 0, &[3, 1]),
        strided("turned", &[3, 2], &s, 0, &[1, 3]),
        view("head", DType::F32, &[2, 3], &s, 0),
        view("alone", DType::F32, &[1], &storage(vec![1, 2, 3, 4]), 0),
    ];
    for dedupe in [false, true] {
        let o = WriteOptions {
            dedupe,
            ..WriteOptions::default()
        };
        let (bytes, _) = write(&model, &o);
        let mut back = open(&bytes, false).unwrap();
        assert_eq!(back.tensors.len(), if dedupe { 3 } else { 4 });
        let text = back
            .metadata
            .iter()
            .find(|(k, _)| k == aliases::KEY)
            .unwrap();
        let groups = aliases::decode(text.1.as_str().unwrap()).unwrap();
        assert_eq!(aliases::encode(&groups), text.1.as_str().unwrap());
        assert_eq!((groups.len(), groups[0].bytes), (1, 24));
        let members: Vec<_> = groups[0]
            .tensors
            .iter()
            .map(|a| {
                (
                    a.name.as_str(),
                    a.offset,
                    a.stride.clone(),
                    a.same_as.as_deref(),
                )
            })
            .collect();
        let same_as = dedupe.then_some("embed");
        assert_eq!(
            members,
            [
                ("embed", 0, vec![3, 1], None),
                ("turned", 0, vec![1, 3], None),
                ("head", 0, vec![3, 1], same_as),
            ]
        );
        assert_eq!(
            aliases::restore(&mut back, &Default::default()).unwrap(),
            usize::from(dedupe)
        );
        assert_eq!(back.tensors.len(), 4);
        for t in &model.tensors {
            assert_eq!(
                back.tensor(&t.name).unwrap().bytes().unwrap(),
                t.bytes().unwrap()
            );
        }
    }
}

#[test]
fn shards_are_written_with_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let model = random_model(77);
    let total: u64 = model.tensors.iter().map(Tensor::byte_len).sum();
    let o = WriteOptions {
        shard_size: Some(total / 3),
        stem: "model".into(),
        ..WriteOptions::default()
    };
    let plan = Safetensors.plan(&model, &o).unwrap();
    let path = dir.path().join("model.safetensors");
    let mut told = 0;
    let paths = write_plan(&Safetensors, &model, &plan, &path, false, &mut |n| {
        told += n
    })
    .unwrap();
    assert_eq!(told, total);
    let n = plan.files.len();
    assert!(n >= 3);
    assert_eq!(paths.len(), n + 1);
    assert_eq!(
        plan.files[0].name,
        format!("model-00001-of-{n:05}.safetensors")
    );
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&paths[n]).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], total);
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), 60);
    for (i, p) in paths[..n].iter().enumerate() {
        let part = Safetensors
            .open(Arc::new(FileSource::open(p).unwrap()), &options(false))
            .unwrap();
        assert_eq!(part.metadata.len(), if i == 0 { 4 } else { 1 });
        for t in &part.tensors {
            assert_eq!(map[&t.name], plan.files[i].name);
            assert_eq!(
                t.bytes().unwrap(),
                model.tensor(&t.name).unwrap().bytes().unwrap()
            );
        }
    }
    let limits = weighbridge::Limits::default();
    let opener = |p: &std::path::Path| {
        Safetensors.open(Arc::new(FileSource::open(p)?), &OpenOptions::default())
    };
    for start in [&paths[n], &paths[1]] {
        let set = shards::discover(start, &limits).unwrap().unwrap();
        let merged = shards::open_sharded(&set, false, &opener).unwrap();
        assert!(merged.warnings.is_empty(), "{:?}", merged.warnings);
        same(&model, &merged);
        for (a, b) in model.tensors.iter().zip(&merged.tensors) {
            assert_eq!(a.name, b.name, "the index keeps the model's order");
        }
    }
    // Written over one shard, the whole would leave the others without it.
    let sharded = weighbridge::open(&paths[n]).unwrap();
    let before = std::fs::read(&paths[1]).unwrap();
    let onto = weighbridge::convert::ConvertOptions::default();
    let e = weighbridge::convert::convert(sharded, &paths[1], &onto, &mut |_, _| {});
    assert_eq!(e.unwrap_err().rule(), "convert.same-file");
    assert_eq!(std::fs::read(&paths[1]).unwrap(), before);
    let whole = WriteOptions {
        shard_size: Some(total),
        ..o
    };
    assert_eq!(Safetensors.plan(&model, &whole).unwrap().files[0].name, "");
}

#[test]
fn every_violation_is_listed() {
    let header = concat!(
        " {\"__metadata__\":{\"a\":\"1\",\"a\":\"2\",\"n\":3},",
        "\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]},",
        "\"y\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,8]},",
        "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}\n",
    );
    let bytes = file(header, 10);
    let found = Safetensors.verify(memory(&bytes), &options(false)).unwrap();
    let rules: Vec<&str> = found.iter().map(|v| v.rule).collect();
    assert_eq!(
        rules,
        [
            "safetensors.leading-space",
            "safetensors.duplicate-metadata-key",
            "safetensors.metadata-not-a-string",
            "safetensors.size-mismatch",
            "safetensors.duplicate-name",
            "safetensors.padding",
            "safetensors.hole",
            "safetensors.overlap",
            "safetensors.trailing-bytes",
        ]
    );
    for v in &found {
        let at = v.offset.unwrap() as usize;
        assert!(at + v.length.unwrap() as usize <= bytes.len(), "{v:?}");
    }
    let text = |i: usize| {
        let at = found[i].offset.unwrap() as usize;
        String::from_utf8_lossy(&bytes[at..at + found[i].length.unwrap() as usize]).into_owned()
    };
    assert_eq!([text(0), text(1), text(2)], [" ", "\"a\"", "3"]);
    assert_eq!([text(3), text(4), text(7)], ["[4,8]", "\"y\"", "[4,8]"]);
    let data = 8 + header.len() as u64;
    assert_eq!((found[6].offset, found[6].length), (Some(data), Some(2)));
    assert_eq!(
        (found[8].offset, found[8].length),
        (Some(data + 8), Some(2))
    );
}

#[test]
fn lenient_takes_what_the_reference_reader_takes() {
    let cases = [
        (r#"{"a":["U8",[1],[0,1]]}"#, 1, true),
        (r#"{"a":["U8",[1],[0,1],0]}"#, 1, false),
        (r#"{"a":["U8",[1]]}"#, 1, false),
        (
            r#"{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}"#,
            1,
            true,
        ),
        (
            r#"{"a":{"dtype":{"U8":1},"shape":[1],"data_offsets":[0,1]}}"#,
            1,
            false,
        ),
        (
            r#"{"a":{"dtype":{"U8":null,"U8":null},"shape":[1],"data_offsets":[0,1]}}"#,
            1,
            false,
        ),
        (r#"{"__metadata__":null,"__metadata__":{}}"#, 0, false),
        (
            r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"x":1e999}}"#,
            1,
            false,
        ),
        (r#"{"\u005f_metadata__":{"a":1}}"#, 0, false),
        (
            r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
            2,
            false,
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
            2,
            true,
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[5],"data_offsets":[7,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
            2,
            true,
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}}"#,
            2,
            false,
        ),
    ];
    for (text, data, lenient) in cases {
        let bytes = file(text, data);
        assert_eq!(open(&bytes, true).is_ok(), lenient, "{text}");
        assert!(open(&bytes, false).is_err(), "{text}");
    }
}

#[test]
fn truncation_at_every_byte_is_refused() {
    let (bytes, _) = write(&random_model(9), &WriteOptions::default());
    for n in 0..bytes.len() {
        for lenient in [false, true] {
            let e = open(&bytes[..n], lenient).unwrap_err();
            assert_eq!(e.kind(), weighbridge::ErrorKind::Truncated, "{n}: {e}");
        }
    }
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for n in 0..header_end - 8 {
        // The same cut with a length that fits: the JSON itself ends early.
        let text = &bytes[8..8 + n];
        assert!(
            header::parse(text, false).is_err()
                || text.last() == Some(&b' ')
                || text.ends_with(b"}}")
        );
    }
}

#[test]
fn mutations_never_panic_and_lenient_is_no_stricter() {
    let mut seeds: Vec<Vec<u8>> = (1..5)
        .map(|s| write(&random_model(s), &WriteOptions::default()).0)
        .collect();
    if let Some(dir) = corpus() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                seeds.push(std::fs::read(path).unwrap());
            }
        }
    }
    let mut r = Random(0x5eed);
    let tokens: [&[u8]; 16] = [
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\\ud800",
        b"-",
        b"18446744073709551615",
        b"9223372036854775808",
        b"1e5",
        b"null",
        b"__metadata__",
        b"\xff",
    ];
    let mut accepted = 0;
    for _ in 0..2000 {
        let mut bytes = seeds[r.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=r.below(4) {
            let reach = (bytes.len() as u64).clamp(1, 4096);
            let at = (r.below(reach) as usize).min(bytes.len());
            match r.below(4) {
                0 if at < bytes.len() => bytes[at] = r.next() as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << r.below(8),
                2 => {
                    let end = (at + r.below(16) as usize).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let token = tokens[r.below(16) as usize];
                    bytes.splice(at..at, token.iter().copied());
                }
            }
        }
        let start = Instant::now();
        let (strict, lenient) = (open(&bytes, false), open(&bytes, true));
        if let Ok(model) = &strict {
            accepted += 1;
            assert!(lenient.is_ok(), "strict accepts what lenient refuses");
            let size: u64 = model.tensors.iter().map(Tensor::byte_len).sum();
            assert!(size < bytes.len() as u64);
            for t in &model.tensors {
                assert_eq!(t.bytes().unwrap().len() as u64, t.byte_len());
            }
        }
        for (lenient, opened) in [(false, strict), (true, lenient)] {
            let found = Safetensors
                .verify(memory(&bytes), &options(lenient))
                .unwrap();
            assert_eq!(found.is_empty(), opened.is_ok(), "{found:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    assert!(accepted > 8, "only {accepted} mutants were still valid");
}

#[test]
fn hostile_sizes_cost_nothing() {
    // A header of 100 MB is claimed, then of 2^63, by a file of a few bytes.
    for n in [100_000_000u64, 1 << 63, u64::MAX, 9] {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        assert!(open(&bytes, true).is_err());
    }
    // One name of a megabyte and a thousand overlaps: messages stay short.
    let mut text = format!(
        "{{\"{}\":{{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}",
        "x".repeat(1 << 20)
    );
    for i in 0..3000 {
        text += &format!(",\"{i}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}");
    }
    text.push('}');
    let found = Safetensors
        .verify(memory(&file(&text, 9)), &options(false))
        .unwrap();
    assert!(found.len() < 1100);
    assert!(found.iter().map(|v| v.message.len()).sum::<usize>() < 1 << 20);
}

#[test]
fn plan_for_another_model_is_refused() {
    let model = random_model(3);
    let plan = Safetensors.plan(&model, &WriteOptions::default()).unwrap();
    let mut other = model.clone();
    other.tensors.truncate(5);
    let mut out = Vec::new();
    let e = Safetensors
        .write(&other, &plan, 0, &mut out, &mut |_| ())
        .unwrap_err();
    assert_eq!(e.rule(), "plan.other-model");
    assert!(out.position() > 0);
}
