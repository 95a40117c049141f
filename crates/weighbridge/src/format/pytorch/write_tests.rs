use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::Limits;
use weighbridge_core::model::{
    DType, Dict, FormatId, Layout, Model, NdArray, Object, Quantization, Sparse, Storage,
    StorageData, Strided, Tensor, TensorSource, Value, View,
};
use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::zip::Archive;

use super::write::PyTorchWriter;
use crate::format::{FormatWriter, Plan, WriteOptions};

fn save(model: &Model) -> (Plan, Vec<u8>) {
    let options = WriteOptions::default();
    let plan = PyTorchWriter.plan(model, &options).unwrap();
    let mut out = Vec::new();
    let mut told = 0;
    PyTorchWriter
        .write(model, &plan, 0, &mut out, &mut |n| told += n)
        .unwrap();
    assert_eq!(plan.files[0].bytes, out.len() as u64, "the planned size");
    let archive = archive(&out);
    let payload: u64 = archive
        .members()
        .iter()
        .filter(|m| m.name.contains("/data/"))
        .map(|m| m.size)
        .sum();
    assert_eq!(told, payload, "the payload told to progress");
    (plan, out)
}

fn archive(bytes: &[u8]) -> Archive {
    let source = Arc::new(SliceSource::new(bytes.to_vec(), "t.pt"));
    let archive = Archive::open(source, &Limits::default()).unwrap();
    assert!(archive.check_layout().unwrap().is_empty());
    archive
}

fn member(bytes: &[u8], name: &str) -> Vec<u8> {
    let a = archive(bytes);
    let m = a
        .by_name(&format!("archive/{name}"))
        .unwrap_or_else(|| panic!("no {name}"));
    a.read(m, 1 << 20).unwrap()
}

fn storage(name: &str, bytes: Vec<u8>, big_endian: bool) -> Arc<Storage> {
    let len = bytes.len() as u64;
    let source = Arc::new(SliceSource::new(bytes, name));
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: None,
    };
    Arc::new(Storage::new(name, len, big_endian, data).unwrap())
}

fn view(storage: &Arc<Storage>, offset: u64) -> TensorSource {
    TensorSource::View(View {
        storage: Arc::clone(storage),
        offset,
    })
}

fn strided(storage: &Arc<Storage>, offset: u64, strides: &[u64], conj: bool) -> TensorSource {
    TensorSource::Strided(Box::new(Strided {
        storage: Arc::clone(storage),
        offset,
        strides: strides.into(),
        conj,
        neg: false,
    }))
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn tensor(name: &str, dtype: DType, shape: &[u64]) -> Tensor {
    let n = dtype.size_of(shape).unwrap();
    let bytes = (0..n).map(|i| (i % 2) as u8).collect();
    Tensor::new(name, dtype, shape, view(&storage(name, bytes, false), 0))
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

fn named(names: &[&str]) -> Vec<(Value, Value)> {
    names
        .iter()
        .map(|n| (key(n), Value::Tensor((*n).into())))
        .collect()
}

/// Runs `check` in a Python with torch, with the file's object as `d`. Skipped without one.
fn in_torch(bytes: &[u8], check: &str) {
    let Some(venv) = std::env::var_os("WEIGHBRIDGE_PEERS_VENV") else {
        println!("skipped: WEIGHBRIDGE_PEERS_VENV is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.pt");
    std::fs::write(&file, bytes).unwrap();
    let script = format!(
        "import sys, math, collections, torch\n\
         def ptr(t): return t.untyped_storage().data_ptr()\n\
         d = torch.load(sys.argv[1], weights_only=True)\n\
         torch.load(sys.argv[1], weights_only=True, mmap=True)\n{check}"
    );
    let run = std::process::Command::new(std::path::Path::new(&venv).join("bin/python"))
        .args(["-W", "ignore", "-c", &script])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

#[test]
fn a_flat_dict_of_every_dtype() {
    let mut m = Model::new(FormatId::Safetensors);
    for d in DType::ALL.into_iter().filter(|d| d.block().is_none()) {
        m.tensors.push(tensor(d.as_str(), d, &[2, 4]));
    }
    m.tensors.push(tensor("Q4_K", DType::Q4_K, &[2, 256]));
    m.tensors.push(tensor("scalar", DType::F32, &[]));
    m.tensors.push(tensor("empty", DType::F16, &[0, 3]));
    m.metadata = vec![
        ("format".into(), key("pt")),
        ("weighbridge.other".into(), key("x")),
        ("author".into(), key("me")),
    ];
    let (plan, bytes) = save(&m);
    let lost: Vec<&str> = plan.lost.iter().map(|n| n.what.as_str()).collect();
    let want = [
        "F6_E2M3",
        "F6_E3M2",
        "QU8",
        "QI8",
        "QI32",
        "U4",
        "I4",
        "U2",
        "I2",
        "Q4_K",
        "metadata author",
    ];
    assert_eq!(lost, want);
    assert!(plan.changed.is_empty(), "{:?}", plan.changed);
    let names: Vec<String> = archive(&bytes)
        .members()
        .iter()
        .map(|m| m.name.clone())
        .collect();
    assert_eq!(
        names[..5].join(" "),
        "archive/data.pkl archive/.format_version archive/.storage_alignment archive/byteorder archive/data/0"
    );
    assert_eq!(
        names[names.len() - 2..].join(" "),
        "archive/version archive/.data/serialization_id"
    );
    assert_eq!(member(&bytes, "version"), b"3\n");
    assert_eq!(member(&bytes, ".data/serialization_id").len(), 40);
    assert_eq!(save(&m).1, bytes, "equal input gives equal bytes");
    in_torch(
        &bytes,
        r"
assert type(d) is dict and len(d) == 24, len(d)
want = dict(BOOL='bool', F4='float4_e2m1fn_x2', U8='uint8', I8='int8', F8_E5M2='float8_e5m2', F8_E4M3='float8_e4m3fn',
  F8_E8M0='float8_e8m0fnu', F8_E4M3FNUZ='float8_e4m3fnuz', F8_E5M2FNUZ='float8_e5m2fnuz', I16='int16', U16='uint16',
  F16='float16', BF16='bfloat16', I32='int32', U32='uint32', F32='float32', C64='complex64', F64='float64', I64='int64',
  U64='uint64', C128='complex128', C32='complex32')
for k, n in want.items():
    t = d[k]
    assert t.dtype == getattr(torch, n), k
    assert t.shape == ((2, 2) if k == 'F4' else (2, 4)), k
    raw = bytes(t.untyped_storage())
    assert raw == bytes(i % 2 for i in range(len(raw))) and len(raw) == t.numel() * t.element_size(), k
assert d['scalar'].shape == () and d['empty'].shape == (0, 3)
",
    );
}

fn state() -> Model {
    let mut m = Model::new(FormatId::PyTorch);
    m.tensors = vec![
        tensor("w", DType::F32, &[2, 3]),
        tensor("n", DType::I64, &[]),
    ];
    let version = dict(vec![(key("version"), Value::Int(2))]);
    let metadata = Value::Dict(Dict {
        class: Some("collections.OrderedDict".into()),
        entries: vec![(key(""), version)],
        attributes: Vec::new(),
    });
    let model = Value::Dict(Dict {
        class: Some("collections.OrderedDict".into()),
        entries: named(&["w", "n"]),
        attributes: vec![("_metadata".into(), metadata)],
    });
    let counter = Value::Dict(Dict {
        class: Some("collections.Counter".into()),
        entries: vec![(key("a"), Value::Int(2))],
        attributes: Vec::new(),
    });
    let many = (0..2500).map(Value::Int).collect();
    m.structure = Some(dict(vec![
        (key("model"), model),
        (key("again"), Value::Tensor("w".into())),
        (key("counter"), counter),
        (
            key("set"),
            Value::Set(vec![Value::Int(1), Value::Tuple(vec![key("x")])]),
        ),
        (key("bytes"), Value::Bytes(vec![0, 255])),
        (key("none"), Value::Bytes(Vec::new())),
        (key("ba"), Value::ByteArray(b"xy".to_vec())),
        (key("z"), Value::Complex(1.0, -0.0)),
        (key("big"), Value::BigInt("-36893488147419103232".into())),
        (
            key("floats"),
            Value::Tuple(vec![
                Value::Float(1.0),
                Value::Float(f64::NAN),
                Value::Float(-0.0),
                Value::Float(1e-8),
            ]),
        ),
        (key("size"), Value::Size(vec![2, 3])),
        (key("dtype"), Value::DType("torch.bfloat16".into())),
        (key("device"), Value::Device("cuda:0".into())),
        (Value::Int(0), Value::Null),
        (Value::Bool(false), Value::Bool(true)),
        (key("u"), key("hé世😀")),
        (key("many"), Value::List(many)),
        (key("self"), Value::Ref("$".into())),
        (key("l"), Value::List(vec![Value::Ref("$.l".into())])),
        (key("t"), Value::Tuple(vec![Value::List(Vec::new()); 5])),
    ]));
    m
}

#[test]
fn a_training_state_of_allowed_types() {
    let m = state();
    let (plan, bytes) = save(&m);
    assert!(plan.changed.is_empty() && plan.lost.is_empty(), "{plan:?}");
    in_torch(
        &bytes,
        r"
sd = d['model']
assert type(sd) is collections.OrderedDict and list(sd) == ['w', 'n']
assert type(sd._metadata) is collections.OrderedDict and sd._metadata == {'': {'version': 2}}
assert d['again'] is sd['w']
assert type(d['counter']) is collections.Counter and d['counter'] == {'a': 2}
assert d['set'] == {1, ('x',)} and d['bytes'] == b'\0\xff' and d['none'] == b'' and d['ba'] == bytearray(b'xy')
assert d['z'] == 1 and math.copysign(1, d['z'].imag) == -1
assert d['big'] == -2**65
f = d['floats']
assert type(f[0]) is float and f[0] == 1 and math.isnan(f[1]) and math.copysign(1, f[2]) == -1 and f[3] == 1e-8
assert type(d['size']) is torch.Size and d['size'] == (2, 3)
assert d['dtype'] is torch.bfloat16 and d['device'] == torch.device('cuda', 0)
assert d[0] is True and d['u'] == 'hé世😀' and d['many'] == list(range(2500))
assert d['self'] is d and d['l'][0] is d['l'] and d['t'] == ([],) * 5
",
    );
}

#[test]
fn other_objects_become_tagged_dicts_and_are_named() {
    let mut m = Model::new(FormatId::PyTorch);
    m.tensors = vec![
        tensor("a.w", DType::F32, &[2]),
        tensor("f6", DType::F6_E2M3, &[4]),
        tensor("extra", DType::U8, &[1]),
    ];
    let namespace = Object {
        class: "argparse.Namespace".into(),
        state: Some(dict(vec![
            (key("lr"), Value::Float(0.1)),
            (key("w"), Value::Tensor("a.w".into())),
        ])),
        ..Object::default()
    };
    let attribute_dict = Value::Dict(Dict {
        class: Some("pytorch_lightning.utilities.parsing.AttributeDict".into()),
        entries: vec![(key("lr"), Value::Float(0.5))],
        attributes: Vec::new(),
    });
    let array = NdArray {
        dtype: "int16".into(),
        shape: vec![1],
        data: vec![1, 0],
        sha256: "47".into(),
    };
    let odd = Value::Dict(Dict {
        entries: vec![(Value::List(Vec::new()), Value::Int(1))],
        ..Dict::default()
    });
    m.structure = Some(dict(vec![
        (key("args"), Value::Object(Box::new(namespace))),
        (key("hyper"), attribute_dict),
        (key("np"), Value::NdArray(array)),
        (
            key("s"),
            Value::NpScalar {
                dtype: "float64".into(),
                text: "1.25".into(),
                raw: vec![0; 8],
            },
        ),
        (key("cls"), Value::Global("collections.OrderedDict".into())),
        (key("fs"), Value::FrozenSet(vec![Value::Int(1)])),
        (key("odd"), odd),
        (key("ref"), Value::Ref("$.nowhere".into())),
        (key("dev"), Value::Device("toaster:01".into())),
        (key("f6"), Value::Tensor("f6".into())),
        (key("gone"), Value::Tensor("gone".into())),
        (key("list"), Value::List(vec![Value::Tensor("gone".into())])),
    ]));
    let (plan, bytes) = save(&m);
    let changed: Vec<&str> = plan.changed.iter().map(|n| n.what.as_str()).collect();
    assert_eq!(
        changed,
        [
            "args", "hyper", "np", "s", "cls", "fs", "odd", "ref", "dev", "extra"
        ]
    );
    let lost: Vec<&str> = plan.lost.iter().map(|n| n.what.as_str()).collect();
    assert_eq!(lost, ["f6", "gone", "gone"]);
    in_torch(
        &bytes,
        r"
w = d['args']['state'].pop('w')
assert w.shape == (2,)
assert d['args'] == {'$object': 'argparse.Namespace', 'state': {'lr': 0.1}}
assert d['hyper'] == {'$type': 'pytorch_lightning.utilities.parsing.AttributeDict', '$dict': {'lr': 0.5}}
assert d['np'] == {'$ndarray': 'int16', 'shape': [1], 'sha256': '47', 'data': b'\1\0'}
assert d['s'] == {'$npscalar': 'float64', 'value': '1.25', 'raw': bytes(8)}
assert d['cls'] == {'$global': 'collections.OrderedDict'} and d['fs'] == {'$frozenset': [1]}
assert d['odd'] == {'$dict': [[[], 1]]} and d['ref'] == {'$ref': '$.nowhere'} and d['dev'] == {'$device': 'toaster:01'}
assert 'f6' not in d and 'gone' not in d and d['list'] == [None] and d['extra'].shape == (1,)
",
    );
}

#[test]
fn ties_and_views_share_storage_again() {
    let base = storage("0", f32s((0..48).map(|i| i as f32)), false);
    let f = |name: &str, shape: &[u64], source| Tensor::new(name, DType::F32, shape, source);
    let big: Vec<u8> = (0..24u32).flat_map(|i| (i as f32).to_be_bytes()).collect();
    let big = storage("1", big, true);
    let large = storage("2", f32s((0..10_000).map(|i| i as f32)), false);
    let mixed = storage("3", (0..32).collect(), false);
    let mut m = Model::new(FormatId::PyTorch);
    m.tensors = vec![
        f("base", &[6, 8], view(&base, 0)),
        f("tied", &[6, 8], view(&base, 0)),
        f("t", &[8, 6], strided(&base, 0, &[1, 8], false)),
        f("step", &[3, 3], strided(&base, 0, &[16, 3], false)),
        f("row", &[8], view(&base, 64)),
        f("be", &[6], view(&big, 0)),
        f("be2", &[6], view(&big, 12)),
        f("far1", &[2], view(&large, 0)),
        f("far2", &[2], view(&large, 39_000)),
        f(
            "expanded",
            &[3, 4],
            strided(
                &storage("4", f32s([1.0, 2.0, 3.0]), false),
                0,
                &[1, 0],
                false,
            ),
        ),
        f("sparse_view", &[2], strided(&large, 5000, &[4000], false)),
        Tensor::new("bytes", DType::U8, &[32], view(&mixed, 0)),
        Tensor::new("ints", DType::I32, &[4], view(&mixed, 8)),
        Tensor::new(
            "conj",
            DType::C64,
            &[3],
            strided(
                &storage("5", f32s((0..6).map(|i| i as f32)), false),
                0,
                &[1],
                true,
            ),
        ),
    ];
    let (plan, bytes) = save(&m);
    assert!(plan.changed.is_empty() && plan.lost.is_empty(), "{plan:?}");
    // The far views bring none of the 40,000 bytes between them.
    assert!(bytes.len() < 8000, "{}", bytes.len());
    assert_eq!(member(&bytes, "data/0").len(), 192);
    in_torch(
        &bytes,
        r"
A = torch.arange(48, dtype=torch.float32).reshape(6, 8)
assert torch.equal(d['base'], A) and torch.equal(d['t'], A.t()) and torch.equal(d['row'], A[2])
assert torch.equal(d['step'], A.reshape(-1).as_strided((3, 3), (16, 3)))
assert len({ptr(d[k]) for k in ('base', 'tied', 't', 'step', 'row')}) == 1
assert d['t'].stride() == (1, 8)
assert torch.equal(d['be'], torch.arange(6.)) and torch.equal(d['be2'], torch.arange(3., 9.)) and ptr(d['be']) == ptr(d['be2'])
assert d['far1'].tolist() == [0, 1] and d['far2'].tolist() == [9750, 9751] and ptr(d['far1']) != ptr(d['far2'])
assert d['sparse_view'].tolist() == [5000, 9000]
assert d['expanded'].tolist() == [[1]*4, [2]*4, [3]*4] and d['expanded'].stride() == (1, 0)
assert d['bytes'].tolist() == list(range(32)) and ptr(d['bytes']) == ptr(d['ints'])
assert d['ints'].tolist() == d['bytes'][8:24].view(torch.int32).tolist()
assert d['conj'].is_conj() and d['conj'].tolist() == [0-1j, 2-3j, 4-5j]
",
    );
}

#[test]
fn recorded_aliases_are_compared_and_rebuilt() {
    let all: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let part = |r: Range<usize>| all[r].to_vec();
    let t: Vec<f32> = (0..24).map(|i| ((i % 6) * 4 + i / 6) as f32).collect();
    // One region, as a safetensors file has it.
    let mut region = Vec::new();
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[u64], values: &[f32]| {
        tensors.push((name.to_owned(), shape.to_vec(), region.len() as u64));
        region.extend(f32s(values.iter().copied()));
    };
    add("whole", &[6, 4], &all);
    add("t", &[4, 6], &t);
    add("q", &[2, 4], &part(4..12));
    add("ov1", &[7], &part(0..7));
    add("ov2", &[7], &part(3..10));
    add("tie1", &[2, 2], &part(0..4));
    add("tie2", &[2, 2], &part(0..4));
    add("edited", &[4], &part(0..4));
    add("old", &[4], &part(1..5));
    add("thin", &[1, 4], &part(0..4));
    add("flat", &[4], &part(0..4));
    let len = region.len() as u64;
    let source = Arc::new(SliceSource::new(region, "m.safetensors"));
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: None,
    };
    let region = Arc::new(
        Storage::new("data", len, false, data)
            .unwrap()
            .into_region(),
    );
    let mut m = Model::new(FormatId::Safetensors);
    m.tensors = tensors
        .iter()
        .map(|(n, s, at)| Tensor::new(n.as_str(), DType::F32, s, view(&region, *at)))
        .collect();
    let groups = r#"[
      {"bytes":96,"tensors":[{"name":"whole","offset":2,"stride":[4,1],"stored":true},
        {"name":"t","offset":2,"stride":[1,4],"stored":true},{"name":"renamed","offset":0,"stride":[1],"stored":true},
        {"name":"q","offset":6,"stride":[4,1],"stored":true}]},
      {"bytes":40,"tensors":[{"name":"ov2","offset":3,"stride":[1],"stored":true},{"name":"ov1","offset":0,"stride":[1],"stored":true}]},
      {"bytes":16,"tensors":[{"name":"tie1","offset":0,"stride":[1,2],"stored":true},{"name":"tie2","offset":0,"stride":[1,2],"stored":true}]},
      {"bytes":16,"tensors":[{"name":"edited","offset":0,"stride":[1],"stored":true},{"name":"old","offset":0,"stride":[1],"stored":true}]},
      {"bytes":16,"tensors":[{"name":"thin","offset":0,"stride":[18446744073709551615,1],"stored":true},{"name":"flat","offset":0,"stride":[1],"stored":true}]}]"#;
    m.metadata = vec![("weighbridge.aliases".into(), key(groups))];
    let (plan, bytes) = save(&m);
    let changed: Vec<&str> = plan.changed.iter().map(|n| n.what.as_str()).collect();
    assert_eq!(changed, ["edited, old"]);
    assert_eq!(member(&bytes, "data/0").len(), 96);
    assert_eq!(member(&bytes, "data/1").len(), 40);
    in_torch(
        &bytes,
        r"
A = torch.arange(24.).reshape(6, 4)
assert torch.equal(d['whole'], A) and torch.equal(d['t'], A.t()) and torch.equal(d['q'], A[1:3])
assert len({ptr(d[k]) for k in ('whole', 't', 'q')}) == 1
assert ptr(d['ov1']) == ptr(d['ov2']) and d['ov2'].tolist() == list(range(3, 10)) and d['ov1'].tolist() == list(range(7))
assert ptr(d['tie1']) == ptr(d['tie2']) and d['tie2'].tolist() == [[0, 1], [2, 3]]
assert ptr(d['thin']) == ptr(d['flat']) and d['thin'].tolist() == [[0, 1, 2, 3]]
assert d['edited'].tolist() == [0, 1, 2, 3] and d['old'].tolist() == [1, 2, 3, 4]
",
    );
}

#[test]
fn parameters_quantized_sparse_and_meta() {
    let mut m = Model::new(FormatId::PyTorch);
    let attribute =
        |t: &mut Tensor, k: &str, v: Value| t.extra_mut().attributes.push((k.into(), v));
    let mut p = tensor("p", DType::F32, &[2]);
    attribute(&mut p, "class", key("torch.nn.parameter.Parameter"));
    attribute(&mut p, "requires_grad", Value::Bool(true));
    let mut ps = p.clone();
    ps.name = "ps".into();
    attribute(&mut ps, "state", dict(vec![(key("tag"), key("gain"))]));
    let mut ta = tensor("ta", DType::F32, &[2]);
    attribute(&mut ta, "state", dict(vec![(key("note"), Value::Int(1))]));
    let mut grad = tensor("grad", DType::F32, &[2]);
    attribute(&mut grad, "requires_grad", Value::Bool(true));
    let mut pt = tensor("pt", DType::QU8, &[3, 2]);
    pt.extra_mut().quantization = Some(Quantization::PerTensor {
        scale: 0.5,
        zero_point: 1,
    });
    let mut pc = tensor("pc", DType::QI8, &[3, 2]);
    let doubles: Vec<u8> = [0.1f64, 0.2, 0.3]
        .into_iter()
        .flat_map(f64::to_le_bytes)
        .collect();
    let scales = Tensor::new("", DType::F64, &[3], view(&storage("s", doubles, false), 0));
    let zeros = Tensor::new(
        "",
        DType::I64,
        &[3],
        view(&storage("z", vec![0; 24], false), 0),
    );
    pc.extra_mut().quantization = Some(Quantization::PerChannel {
        axis: 0,
        scales,
        zero_points: zeros,
        float_qparams: false,
    });
    let ints = |v: &[i64]| v.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>();
    let indices = Tensor::new(
        "",
        DType::I64,
        &[2, 2],
        view(&storage("i", ints(&[0, 1, 2, 0]), false), 0),
    );
    let values = Tensor::new(
        "",
        DType::F32,
        &[2],
        view(&storage("v", f32s([5.0, 6.0]), false), 0),
    );
    let mut coo = Tensor::new("coo", DType::F32, &[2, 3], TensorSource::Absent);
    coo.layout = Layout::SparseCoo;
    coo.extra_mut().sparse = Some(Sparse {
        indices: vec![indices],
        values: values.clone(),
    });
    attribute(&mut coo, "is_coalesced", Value::Bool(true));
    let rows = Tensor::new(
        "",
        DType::I64,
        &[3],
        view(&storage("r", ints(&[0, 1, 2]), false), 0),
    );
    let cols = Tensor::new(
        "",
        DType::I64,
        &[2],
        view(&storage("c", ints(&[2, 0]), false), 0),
    );
    let mut csr = Tensor::new("csr", DType::F32, &[2, 3], TensorSource::Absent);
    csr.layout = Layout::SparseCsr;
    csr.extra_mut().sparse = Some(Sparse {
        indices: vec![rows, cols],
        values,
    });
    let mut meta = Tensor::new("meta", DType::BF16, &[3, 4], TensorSource::Absent);
    meta.layout = Layout::Meta;
    m.tensors = vec![p, ps, ta, grad, pt, pc, coo, csr, meta];
    let (plan, bytes) = save(&m);
    assert!(plan.changed.is_empty() && plan.lost.is_empty(), "{plan:?}");
    in_torch(
        &bytes,
        r"
assert type(d['p']) is torch.nn.Parameter and d['p'].requires_grad
assert type(d['ps']) is torch.nn.Parameter and d['ps'].tag == 'gain' and ptr(d['ps']) == ptr(d['p'])
assert type(d['ta']) is torch.Tensor and d['ta'].note == 1 and not d['ta'].requires_grad
assert type(d['grad']) is torch.Tensor and d['grad'].requires_grad
assert d['pt'].q_scale() == 0.5 and d['pt'].q_zero_point() == 1 and d['pt'].int_repr().tolist() == [[0, 1]] * 3
assert d['pc'].q_per_channel_scales().tolist() == [0.1, 0.2, 0.3] and d['pc'].q_per_channel_axis() == 0
assert d['coo'].is_coalesced() and d['coo'].to_dense().tolist() == [[0, 0, 5], [6, 0, 0]]
assert d['csr'].layout == torch.sparse_csr and d['csr'].to_dense().tolist() == [[0, 0, 5], [6, 0, 0]]
assert d['meta'].device.type == 'meta' and d['meta'].shape == (3, 4) and d['meta'].dtype == torch.bfloat16
",
    );
}

#[test]
fn state_kept_in_tensors_comes_back() {
    let long = vec![7u8; 5000];
    let mut m = Model::new(FormatId::Safetensors);
    m.tensors = vec![
        tensor("w", DType::F32, &[2]),
        Tensor::new(
            "__state__.rng",
            DType::U8,
            &[5000],
            view(&storage("b", long, false), 0),
        ),
    ];
    let moved = Value::Moved {
        value: Box::new(Value::ByteArray(Vec::new())),
        tensor: "__state__.rng".into(),
    };
    m.structure = Some(dict(vec![
        (key("rng"), moved),
        (key("w"), Value::Tensor("w".into())),
    ]));
    let (plan, bytes) = save(&m);
    assert!(plan.changed.is_empty() && plan.lost.is_empty(), "{plan:?}");
    assert_eq!(plan.files[0].tensors, [0]);
    in_torch(
        &bytes,
        "assert d['rng'] == bytearray([7]) * 5000 and list(d) == ['rng', 'w']",
    );
    m.structure = None;
    let sharded = WriteOptions {
        shard_size: Some(1),
        ..WriteOptions::default()
    };
    let refused = PyTorchWriter.plan(&m, &sharded).unwrap_err();
    assert_eq!(refused.rule(), "pytorch.no-shards");
}

#[test]
fn many_tensors_and_a_deep_structure() {
    let mut m = Model::new(FormatId::Safetensors);
    let one = storage("0", vec![0; 4], false);
    for i in 0..3000 {
        m.tensors.push(Tensor::new(
            format!("t{i}"),
            DType::F32,
            &[1],
            view(&one, 0),
        ));
    }
    let (_, bytes) = save(&m);
    in_torch(
        &bytes,
        "assert len(d) == 3000 and len({ptr(t) for t in d.values()}) == 1",
    );
    let mut deep = Value::Null;
    for _ in 0..190 {
        deep = Value::List(vec![deep]);
    }
    m.structure = Some(deep.clone());
    m.tensors.clear();
    save(&m);
    for _ in 0..20 {
        deep = Value::List(vec![deep]);
    }
    m.structure = Some(deep);
    let e = PyTorchWriter
        .plan(&m, &WriteOptions::default())
        .unwrap_err();
    assert_eq!(e.rule(), "pytorch.too-deep");
}
