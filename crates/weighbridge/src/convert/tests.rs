use std::sync::Arc;

use weighbridge_core::ErrorKind;
use weighbridge_core::model::{Dict, Sparse, Storage, StorageData, TensorSource, Value, View};
use weighbridge_core::source::SliceSource;

use super::*;
use crate::structure::{self, STRUCTURE_KEY};

fn storage(bytes: Vec<u8>) -> Arc<Storage> {
    let len = bytes.len() as u64;
    let source = Arc::new(SliceSource::new(bytes, "m"));
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: None,
    };
    Arc::new(Storage::new("s", len, false, data).unwrap())
}

fn tensor(name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    let view = View {
        storage: storage(bytes),
        offset: 0,
    };
    Tensor::new(name, dtype, shape, TensorSource::View(view))
}

fn f32s(name: &str, values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    tensor(name, DType::F32, &[values.len() as u64], bytes)
}

fn key(k: &str) -> Value {
    Value::Str(k.into())
}

fn dict(entries: Vec<(Value, Value)>) -> Value {
    Value::Dict(Dict {
        entries,
        ..Dict::default()
    })
}

/// A small training checkpoint.
fn checkpoint() -> Model {
    let mut m = Model::new(FormatId::PyTorch);
    let names = ["model.w", "model.b", "optim.state.0.m"];
    m.tensors = names.iter().map(|n| f32s(n, &[1.0, 2.5])).collect();
    let t = |n: &str| Value::Tensor(n.into());
    let model = dict(vec![(key("w"), t("model.w")), (key("b"), t("model.b"))]);
    let state = dict(vec![(
        Value::Int(0),
        dict(vec![(key("m"), t("optim.state.0.m"))]),
    )]);
    let groups = Value::List(vec![dict(vec![(key("lr"), Value::Float(0.1))])]);
    m.structure = Some(dict(vec![
        (key("model"), model),
        (
            key("optim"),
            dict(vec![(key("state"), state), (key("param_groups"), groups)]),
        ),
        (key("epoch"), Value::Int(3)),
        (key("pair"), Value::Tuple(vec![t("model.w"), Value::Int(1)])),
    ]));
    m
}

fn run(model: Model, name: &str, options: &ConvertOptions) -> Result<(Report, Model)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let done = convert(model, &path, options, &mut |_, _| {});
    if done.is_err() || options.dry_run {
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left"
        );
    }
    let report = done?;
    if options.dry_run {
        return Ok((report, Model::new(FormatId::Json)));
    }
    let open = crate::OpenOptions {
        backend: crate::Backend::Pread,
        ..Default::default()
    };
    let mut back = open.open(&path)?;
    if back.structure.is_none() {
        structure::restore(&mut back, &Limits::default());
    }
    Ok((report, back))
}

fn names(m: &Model) -> Vec<&str> {
    let mut names: Vec<&str> = m.tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn whats(notes: &[Note]) -> Vec<&str> {
    notes.iter().map(|n| n.what.as_str()).collect()
}

fn refused(model: Model, name: &str, options: &ConvertOptions) -> Error {
    run(model, name, options).map(|(r, _)| r).unwrap_err()
}

#[test]
fn a_training_checkpoint_becomes_a_loadable_model() {
    let options = ConvertOptions {
        select: vec![r"^model\.".into()],
        strip_prefix: vec!["model.".into()],
        weights_only: true,
        strict: true,
        ..ConvertOptions::default()
    };
    for target in ["m.safetensors", "m.pt"] {
        let (report, back) = run(checkpoint(), target, &options).unwrap();
        assert_eq!(names(&back), ["b", "w"], "{target}");
        assert_eq!(report.tensors, 2);
        assert_eq!(whats(&report.changed), ["model.w", "model.b"]);
        assert!(
            report.lost.is_empty() && report.warnings.is_empty(),
            "{report:?}"
        );
        let flat = back
            .structure
            .as_ref()
            .is_none_or(|s| structure::is_flat(s, &back));
        assert!(flat, "{target}: {:?}", back.structure);
    }
}

#[test]
fn the_state_goes_along_and_is_pruned_with_its_tensors() {
    let (report, back) = run(checkpoint(), "m.safetensors", &ConvertOptions::default()).unwrap();
    assert!(
        report.changed.is_empty() && report.lost.is_empty(),
        "{report:?}"
    );
    assert_eq!(back.structure, checkpoint().structure);
    assert_eq!(back.metadata, [("format".to_owned(), key("pt"))]);
    let options = ConvertOptions {
        drop: vec!["^optim|w$".into()],
        ..ConvertOptions::default()
    };
    let (report, back) = run(checkpoint(), "m.safetensors", &options).unwrap();
    assert!(
        report.changed.is_empty() && report.lost.is_empty(),
        "{report:?}"
    );
    let groups = Value::List(vec![dict(vec![(key("lr"), Value::Float(0.1))])]);
    let want = dict(vec![
        (
            key("model"),
            dict(vec![(key("b"), Value::Tensor("model.b".into()))]),
        ),
        (key("optim"), dict(vec![(key("param_groups"), groups)])),
        (key("epoch"), Value::Int(3)),
        (key("pair"), Value::Tuple(vec![Value::Null, Value::Int(1)])),
    ]);
    assert_eq!(back.structure, Some(want));
}

#[test]
fn renaming_gives_a_flat_set_and_names_what_it_leaves_out() {
    let options = ConvertOptions {
        rename: vec![
            ("model.w".into(), "optim.state.0.m".into()),
            ("model.*".into(), "net.*".into()),
            ("nothing".into(), "x".into()),
        ],
        ..ConvertOptions::default()
    };
    let (report, back) = run(checkpoint(), "m.safetensors", &options).unwrap();
    assert_eq!(
        names(&back),
        ["net.b", "optim.state.0.m", "optim.state.0.m#2"]
    );
    assert!(back.structure.is_none());
    assert_eq!(
        whats(&report.changed),
        ["model.w", "model.b", "optim.state.0.m", "structure"]
    );
    assert!(report.changed.iter().all(|n| n.naming));
    assert_eq!(
        whats(&report.lost),
        ["optim.param_groups", "epoch", "pair.1"]
    );
    assert_eq!(report.warnings[0].rule, "convert.unused-rename");
    let strict = ConvertOptions {
        strict: true,
        ..options
    };
    let e = refused(checkpoint(), "m.safetensors", &strict);
    assert_eq!((e.kind(), e.rule()), (ErrorKind::Lossy, "convert.strict"));
    assert_eq!(
        e.message(),
        "optim.param_groups: left out with the structure, since tensors were renamed, and 2 more"
    );
}

#[test]
fn casts_are_listed_and_exact() {
    let mut m = Model::new(FormatId::Safetensors);
    let third = 1.0f32 / 3.0;
    m.tensors = vec![
        f32s("w", &[1.0, -2.5, third, f32::INFINITY]),
        tensor("i", DType::I64, &[1], vec![1; 8]),
        tensor("h", DType::F16, &[1], vec![0, 0x3c]),
        tensor("scale", DType::F8_E8M0, &[1], vec![127]),
    ];
    m.metadata = vec![("author".into(), key("me"))];
    let options = ConvertOptions {
        dtype: Some(DType::BF16),
        ..ConvertOptions::default()
    };
    let (report, back) = run(m.clone(), "m.safetensors", &options).unwrap();
    assert_eq!(whats(&report.changed), ["w", "h"]);
    assert_eq!(report.changed[0].why, "cast from F32 to BF16");
    assert_eq!(back.metadata, [("author".to_owned(), key("me"))]);
    let w = back.tensor("w").unwrap();
    assert_eq!(w.dtype, DType::BF16);
    assert_eq!(
        w.read_vec().unwrap(),
        [0x80, 0x3f, 0x20, 0xc0, 0xab, 0x3e, 0x80, 0x7f]
    );
    assert_eq!(back.tensor("i").unwrap().dtype, DType::I64);
    assert_eq!(back.tensor("scale").unwrap().dtype, DType::F8_E8M0);
    let options = ConvertOptions {
        dtype: Some(DType::F64),
        ..ConvertOptions::default()
    };
    let (report, back) = run(m, "m.pt", &options).unwrap();
    assert_eq!(
        report.changed[0].why,
        "cast from F32 to F64, every value is kept"
    );
    let wide: Vec<u8> = f64::from(third).to_le_bytes().to_vec();
    assert_eq!(back.tensor("w").unwrap().read_vec().unwrap()[16..24], wide);
    assert_eq!(whats(&report.lost), ["metadata author"]);
    assert!(parse_dtype("BF16").is_ok() && parse_dtype("float8_e4m3fn").is_ok());
    assert_eq!(parse_dtype("int8").unwrap_err().rule(), "convert.dtype");
}

#[test]
fn what_safetensors_cannot_hold_needs_its_flag() {
    let model = || {
        let mut m = Model::new(FormatId::PyTorch);
        let complex: Vec<u8> = [1.0f64, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let mut coo = Tensor::new("coo", DType::F32, &[2, 3], TensorSource::Absent);
        coo.layout = Layout::SparseCoo;
        // (1, 2) twice and (0, 1).
        let indices = [1i64, 0, 1, 2, 1, 2]
            .iter()
            .flat_map(|i| i.to_le_bytes())
            .collect();
        coo.extra_mut().sparse = Some(Sparse {
            indices: vec![tensor("", DType::I64, &[2, 3], indices)],
            values: f32s("", &[5.0, 6.0, 0.5]),
        });
        m.tensors = vec![
            f32s("w", &[1.0]),
            tensor("c", DType::C128, &[1], complex),
            coo,
        ];
        let t = |n: &str| (key(n), Value::Tensor(n.into()));
        m.structure = Some(dict(vec![
            t("w"),
            t("c"),
            t("coo"),
            (key("n"), Value::Int(1)),
        ]));
        m
    };
    let (report, back) = run(model(), "m.safetensors", &ConvertOptions::default()).unwrap();
    assert_eq!(whats(&report.lost), ["c", "coo"]);
    assert_eq!(report.tensors, 1);
    assert_eq!(
        back.structure,
        Some(dict(vec![
            (key("w"), Value::Tensor("w".into())),
            (key("n"), Value::Int(1))
        ]))
    );
    let options = ConvertOptions {
        densify: true,
        complex_as_real: true,
        ..ConvertOptions::default()
    };
    let (report, back) = run(model(), "m.safetensors", &options).unwrap();
    assert!(report.lost.is_empty(), "{report:?}");
    assert_eq!(whats(&report.changed), ["c", "coo"]);
    let c = back.tensor("c").unwrap();
    assert_eq!((c.dtype, c.shape.as_slice()), (DType::F64, &[1, 2][..]));
    let dense: Vec<u8> = [0.0f32, 6.0, 0.0, 0.0, 0.0, 5.5]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(back.tensor("coo").unwrap().read_vec().unwrap(), dense);
    // A checkpoint holds complex numbers as they are.
    let (_, back) = run(model(), "m.pt", &options).unwrap();
    assert_eq!(back.tensor("c").unwrap().dtype, DType::C128);
    let mut only = model();
    only.tensors.retain(|t| t.name == "c");
    only.structure = None;
    assert_eq!(
        refused(only, "m.safetensors", &ConvertOptions::default()).rule(),
        "convert.nothing-fits"
    );
}

#[test]
fn hostile_indices_are_errors() {
    let model = |rows: &[i64], values: usize| {
        let mut t = Tensor::new("t", DType::F32, &[4, 4], TensorSource::Absent);
        t.layout = Layout::SparseCsr;
        let ints = |v: &[i64]| {
            let bytes = v.iter().flat_map(|i| i.to_le_bytes()).collect();
            tensor("", DType::I64, &[v.len() as u64], bytes)
        };
        t.extra_mut().sparse = Some(Sparse {
            indices: vec![ints(rows), ints(&[0, 1, 2])],
            values: f32s("", &vec![1.0; values]),
        });
        let mut m = Model::new(FormatId::PyTorch);
        m.tensors = vec![t];
        m
    };
    let options = ConvertOptions {
        densify: true,
        ..ConvertOptions::default()
    };
    assert!(run(model(&[0, 1, 2, 3, 3], 3), "m.safetensors", &options).is_ok());
    let cases: [(&[i64], usize); 5] = [
        (&[0, 1, 2, 3, 4], 3),
        (&[0, -1, 2, 3, 3], 3),
        (&[0, 3, 0, 3, 0], 3),
        (&[0, 1, 2, 3, 3, 3, 0, 3], 3),
        (&[0, 1, 2, 3, 3], 2),
    ];
    for (rows, values) in cases {
        let e = refused(model(rows, values), "m.safetensors", &options);
        assert_eq!(e.rule(), "sparse.bad-indices", "{rows:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let with = |o: ConvertOptions| refused(checkpoint(), "m.safetensors", &o);
    let d = ConvertOptions::default;
    let e = with(ConvertOptions {
        select: vec!["nothing".into()],
        ..d()
    });
    assert_eq!(e.rule(), "convert.nothing-selected");
    let e = with(ConvertOptions {
        select: vec!["(".into()],
        ..d()
    });
    assert_eq!(e.rule(), "convert.bad-regex");
    let e = refused(checkpoint(), "m.onnx", &d());
    assert_eq!(
        (e.kind(), e.rule()),
        (ErrorKind::Unsupported, "convert.graph")
    );
    assert_eq!(
        refused(checkpoint(), "m.txt", &d()).kind(),
        ErrorKind::Parameter
    );
    assert_eq!(
        refused(Model::new(FormatId::PyTorch), "m.pt", &d()).rule(),
        "convert.no-tensors"
    );
    // Nor is a vocabulary alone a tensor that does not fit.
    let mut bare = Model::new(FormatId::Gguf);
    bare.metadata = vec![("general.architecture".into(), Value::Str("x".into()))];
    let e = refused(bare, "m.pt", &d());
    assert_eq!(e.rule(), "convert.no-tensors");
    assert!(e.advice().is_some());
    let mut limits = Limits::default();
    limits.expand_bytes = Some(20);
    let e = with(ConvertOptions { limits, ..d() });
    assert_eq!(
        (e.kind(), e.rule()),
        (ErrorKind::Limit, "convert.expansion")
    );
}

#[test]
fn a_dry_run_reports_and_writes_nothing() {
    let dry = ConvertOptions {
        dry_run: true,
        ..ConvertOptions::default()
    };
    for target in ["m.safetensors", "m.pt"] {
        let (report, _) = run(checkpoint(), target, &dry).unwrap();
        let (real, _) = run(checkpoint(), target, &ConvertOptions::default()).unwrap();
        assert_eq!((report.bytes, report.tensors), (real.bytes, real.tensors));
        let json = report.to_json();
        assert!(json["output"][0].as_str().unwrap().ends_with(target));
        assert!(json["seconds"].is_f64() && json["lost"].as_array().unwrap().is_empty());
    }
}

#[test]
fn long_state_travels_in_tensors() {
    let mut m = checkpoint();
    if let Some(Value::Dict(d)) = &mut m.structure {
        d.entries.push((key("rng"), Value::Bytes(vec![9; 6000])));
    }
    let (report, back) = run(m.clone(), "m.safetensors", &ConvertOptions::default()).unwrap();
    assert_eq!(report.tensors, 3);
    assert_eq!(
        back.tensor("__state__.rng").unwrap().shape.as_slice(),
        [6000]
    );
    // Selecting keeps what the structure needs, also on the way through safetensors again.
    let select = ConvertOptions {
        select: vec!["w$".into()],
        ..ConvertOptions::default()
    };
    let (_, again) = run(back.clone(), "n.safetensors", &select).unwrap();
    assert_eq!(names(&again), ["__state__.rng", "model.w"]);
    let (report, whole) = run(again, "m.pt", &ConvertOptions::default()).unwrap();
    assert!(
        report.changed.is_empty() && report.lost.is_empty(),
        "{report:?}"
    );
    assert!(whole.structure.unwrap().get("rng") == Some(&Value::Bytes(vec![9; 6000])));
    let (_, whole) = run(back.clone(), "m.pt", &ConvertOptions::default()).unwrap();
    // (The pair's tensor is the model's: a reader gives it a name of its own.)
    assert_eq!(
        names(&whole),
        ["model.b", "model.w", "optim.state.0.m", "pair.0"]
    );
    let (got, want) = (whole.structure.unwrap(), m.structure.unwrap());
    assert!(got.get("rng") == want.get("rng") && got.get("optim") == want.get("optim"));
    let weights = ConvertOptions {
        weights_only: true,
        ..ConvertOptions::default()
    };
    let (report, flat) = run(back, "m.pt", &weights).unwrap();
    assert_eq!(names(&flat), ["model.b", "model.w", "optim.state.0.m"]);
    assert!(report.lost.is_empty(), "{report:?}");
}

#[test]
fn safetensors_keeps_its_metadata_and_the_record_of_sharing() {
    let mut m = Model::new(FormatId::Safetensors);
    m.tensors = vec![f32s("a", &[1.0]), f32s("b", &[1.0]), f32s("c", &[1.0])];
    let group = r#"[{"bytes":4,"tensors":[{"name":"a","offset":0,"stride":[1],"stored":true},{"name":"b","offset":0,"stride":[1],"stored":false,"same_as":"a"},{"name":"gone","offset":0,"stride":[1],"stored":true}]}]"#;
    m.metadata = vec![
        ("k".into(), key("v")),
        ("weighbridge.aliases".into(), key(group)),
    ];
    let options = ConvertOptions {
        rename: vec![("b".into(), "z".into())],
        ..ConvertOptions::default()
    };
    let (_, back) = run(m.clone(), "m.safetensors", &options).unwrap();
    let record = back
        .metadata
        .iter()
        .find(|(k, _)| k == "weighbridge.aliases")
        .unwrap();
    let want = r#"[{"bytes":4,"tensors":[{"name":"a","offset":0,"stride":[1],"stored":true},{"name":"z","offset":0,"stride":[1],"stored":true}]}]"#;
    assert_eq!(record.1, key(want));
    assert!(!back.metadata.iter().any(|(k, _)| k == STRUCTURE_KEY));
    let (report, back) = run(back, "m.pt", &ConvertOptions::default()).unwrap();
    assert_eq!(whats(&report.lost), ["metadata k"]);
    assert_eq!(back.alias_groups().len(), 1);
    let options = ConvertOptions {
        dtype: Some(DType::F16),
        ..ConvertOptions::default()
    };
    let (_, back) = run(m, "m.safetensors", &options).unwrap();
    assert_eq!(back.metadata, [("k".to_owned(), key("v"))]);
}

#[test]
fn what_the_reader_left_out_is_lost() {
    let mut m = checkpoint();
    m.omitted
        .push(("optimizer shards".into(), "merged weights only".into()));
    let (report, _) = run(m.clone(), "m.safetensors", &ConvertOptions::default()).unwrap();
    assert_eq!(whats(&report.lost), ["optimizer shards"]);
    let strict = ConvertOptions {
        strict: true,
        ..ConvertOptions::default()
    };
    assert_eq!(
        refused(m, "m.safetensors", &strict).rule(),
        "convert.strict"
    );
}
