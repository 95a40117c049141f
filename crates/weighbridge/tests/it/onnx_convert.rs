//! From ONNX to weights, and from weights into graphs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, Report, convert};
use weighbridge::format::onnx::encode::Fields;
use weighbridge::{DType, Error, Model, OpenOptions, Result};
use weighbridge_core::model::Value;

/// `TensorProto.DataType`.
pub(crate) mod kind {
    pub const FLOAT: i64 = 1;
    pub const INT64: i64 = 7;
    pub const STRING: i64 = 8;
    pub const BOOL: i64 = 9;
    pub const FLOAT16: i64 = 10;
    pub const COMPLEX64: i64 = 14;
    pub const COMPLEX128: i64 = 15;
    pub const BFLOAT16: i64 = 16;
    pub const FLOAT8E4M3FN: i64 = 17;
    pub const UINT4: i64 = 21;
    pub const INT4: i64 = 22;
}

pub(crate) fn bare(name: &str, kind: i64, dims: &[i64]) -> Fields {
    Fields::new().each_int(1, dims).int(2, kind).bytes(8, name)
}

pub(crate) fn tensor(name: &str, kind: i64, dims: &[i64], raw: impl AsRef<[u8]>) -> Fields {
    bare(name, kind, dims).bytes(9, raw)
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn outside(name: &str, dims: &[i64], location: &str, offset: usize) -> Fields {
    let t = bare(name, kind::FLOAT, dims).entry(13, "location", location);
    t.entry(13, "offset", &offset.to_string()).int(14, 1)
}

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> Fields {
    let all = inputs.iter().fold(Fields::new(), |f, i| f.bytes(1, i));
    all.bytes(2, output).bytes(4, operator)
}

/// A model of these initializers, with what makes a file hard to keep: an unknown field, a number
/// spelled at length, metadata behind the graph.
pub(crate) fn model(initializers: &[Fields]) -> Vec<u8> {
    model_with(Fields::new(), initializers)
}

pub(crate) fn model_with(more: Fields, initializers: &[Fields]) -> Vec<u8> {
    let mut graph = Fields::new()
        .bytes(1, node("Relu", &["x"], "y"))
        .bytes(2, "g");
    for i in initializers {
        graph = graph.bytes(5, i);
    }
    graph.0.extend(more.0);
    // The field 99 means nothing; the version 8 takes two bytes.
    let mut out = Fields(vec![0x08, 0x88, 0x00]).bytes(2, "tests");
    out = out.bytes(99, "?").bytes(7, graph);
    let opset = Fields::new().int(2, 17);
    out.bytes(8, opset).entry(14, "author", "me").0
}

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.0.path()).unwrap();
        let mut all: Vec<String> = all
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }
}

pub(crate) fn quick() -> ConvertOptions {
    ConvertOptions {
        sync: false,
        ..ConvertOptions::default()
    }
}

pub(crate) fn into(graph: &Path) -> ConvertOptions {
    ConvertOptions {
        graph: Some(graph.to_owned()),
        ..quick()
    }
}

pub(crate) fn run(from: &Path, to: &Path, options: &ConvertOptions) -> Result<Report> {
    let open = OpenOptions {
        constants: options.constants,
        ..OpenOptions::default()
    };
    let (mut told, mut whole) = (0, 0);
    let report = convert(open.open(from)?, to, options, &mut |n, total| {
        told += n;
        whole = total;
    })?;
    if !options.dry_run {
        assert_eq!(told, whole);
        let sizes = report
            .output
            .iter()
            .map(|p| std::fs::metadata(p).unwrap().len());
        assert_eq!(report.bytes, sizes.sum::<u64>());
    }
    Ok(report)
}

pub(crate) fn rule(e: Result<Report>) -> (&'static str, String) {
    let e: Error = e.unwrap_err();
    (e.rule(), e.to_string())
}

pub(crate) fn open(path: &Path) -> Model {
    weighbridge::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

pub(crate) type Weights = BTreeMap<String, (DType, Vec<u64>, Vec<u8>)>;

pub(crate) fn weights(m: &Model) -> Weights {
    let dense = m.tensors.iter().filter(|t| t.has_data());
    let one = |t: &weighbridge::Tensor| {
        let values = (t.dtype, t.shape.to_vec(), t.read_vec().unwrap());
        (t.name.clone(), values)
    };
    dense.map(one).collect()
}

pub(crate) fn metadata(m: &Model) -> BTreeMap<&str, &str> {
    let all = m.metadata.iter();
    all.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
        .collect()
}

/// Two models of one graph and different weights.
pub(crate) fn pair(f: &Folder) -> (PathBuf, PathBuf) {
    let of = |x: f32| {
        let matrix: Vec<f32> = (0..6).map(|i| x + i as f32).collect();
        model(&[
            tensor("w", kind::FLOAT, &[2, 3], floats(&matrix)),
            tensor("b", kind::FLOAT, &[3], floats(&[x, x, x])),
            tensor("shape", kind::INT64, &[1], 3i64.to_le_bytes()),
        ])
    };
    (
        f.write("base.onnx", &of(0.0)),
        f.write("tuned.onnx", &of(10.0)),
    )
}

pub(crate) fn shared(file: &Path) -> ConvertOptions {
    ConvertOptions {
        shared_weights: Some(file.to_owned()),
        ..quick()
    }
}

#[test]
fn every_dtype_that_safetensors_has_keeps_its_bits() {
    let f = Folder::new();
    let half = bare("f16", kind::FLOAT16, &[2]).ints(5, &[0x3c00, 0xfe01]);
    let inner = Fields::new().bytes(5, tensor("inner", kind::FLOAT, &[1], floats(&[-0.0])));
    let branch = Fields::new()
        .bytes(1, "then_branch")
        .bytes(6, inner)
        .int(20, 5);
    let branch = Fields::new().bytes(1, node("If", &["c"], "z").bytes(5, branch));
    let text = bare("s", kind::STRING, &[1]).bytes(6, "word");
    let m = f.write(
        "m.onnx",
        &model_with(
            branch,
            &[
                tensor(
                    "f32",
                    kind::FLOAT,
                    &[2],
                    floats(&[f32::from_bits(0x7fa0_0001), 1.0]),
                ),
                bare("typed", kind::FLOAT, &[1]).bytes(4, floats(&[2.5])),
                half,
                tensor("bf16", kind::BFLOAT16, &[1], [1, 0x80]),
                tensor("f8", kind::FLOAT8E4M3FN, &[3], [0x7f, 0xff, 1]),
                tensor("flag", kind::BOOL, &[2], [0, 1]),
                bare("n", kind::INT64, &[]).ints(7, &[-5]),
                tensor("c64", kind::COMPLEX64, &[1], floats(&[1.0, -2.0])),
                tensor("c128", kind::COMPLEX128, &[1], [7; 16]),
                tensor("u4", kind::UINT4, &[3], [0x21, 0x03]),
                bare("i4", kind::INT4, &[3]).ints(5, &[0xf8, 0x07]),
                text,
            ],
        ),
    );
    let out = f.at("m.safetensors");
    let report = run(&m, &out, &quick()).unwrap();
    let got = weights(&open(&out));
    let bits = |name: &str| {
        let (d, shape, bytes) = got[name].clone();
        (d.as_str(), shape, bytes)
    };
    assert_eq!(
        bits("f32"),
        (
            "F32",
            vec![2],
            [&[1, 0, 0xa0, 0x7f][..], &floats(&[1.0])].concat()
        )
    );
    assert_eq!(bits("typed"), ("F32", vec![1], floats(&[2.5])));
    assert_eq!(bits("f16"), ("F16", vec![2], vec![0, 0x3c, 1, 0xfe]));
    assert_eq!(bits("bf16"), ("BF16", vec![1], vec![1, 0x80]));
    assert_eq!(bits("f8"), ("F8_E4M3", vec![3], vec![0x7f, 0xff, 1]));
    assert_eq!(bits("flag"), ("BOOL", vec![2], vec![0, 1]));
    assert_eq!(bits("n"), ("I64", vec![], (-5i64).to_le_bytes().to_vec()));
    assert_eq!(bits("c64"), ("C64", vec![1], floats(&[1.0, -2.0])));
    assert_eq!(bits("inner"), ("F32", vec![1], floats(&[-0.0])));
    assert_eq!(got.len(), 9);
    let why = |what: &str| {
        let note = report.lost.iter().find(|n| n.what == what);
        note.unwrap_or_else(|| panic!("{what}")).why.clone()
    };
    assert!(why("graph").contains("no computation graph"));
    assert!(why("s").contains("texts"), "{}", why("s"));
    assert!(why("u4").contains("--dequantize"), "{}", why("u4"));
    assert!(why("c128").contains("--complex-as-real"));
    assert_eq!(report.lost.len(), 5, "{:?}", report.lost);
    let options = ConvertOptions {
        dequantize: true,
        complex_as_real: true,
        ..quick()
    };
    run(&m, &out, &options).unwrap();
    let got = weights(&open(&out));
    assert_eq!(got["u4"], (DType::U8, vec![3], vec![1, 2, 3]));
    assert_eq!(got["i4"], (DType::I8, vec![3], vec![0xf8, 0xff, 7]));
    assert_eq!(got["c128"].0, DType::F64);
    // The other writers take what they have.
    for (to, n) in [("m.pt", 10), ("m.gguf", 3)] {
        let report = run(&m, &f.at(to), &options).unwrap();
        assert!(report.tensors >= n, "{to}: {}", report.tensors);
        let text = report.lost.iter().find(|n| n.what == "s").unwrap();
        assert!(!text.why.contains("no data"), "{to}: {}", text.why);
        let back = weights(&open(&f.at(to)));
        assert_eq!(back["f32"], got["f32"], "{to}");
    }
}

#[test]
fn the_weights_say_where_they_are_from() {
    let f = Folder::new();
    let w = floats(&[1.0, 2.0]);
    let inline = f.write("a/m.onnx", &model(&[tensor("w", kind::FLOAT, &[2], &w)]));
    let outer = f.write("b/m.onnx", &model(&[outside("w", &[2], "w.bin", 4)]));
    f.write("b/w.bin", &[&[9; 4][..], &w].concat());
    let to = f.at("w.safetensors");
    let written = |from: &Path, options: &ConvertOptions| {
        run(from, &to, options).unwrap();
        std::fs::read(&to).unwrap()
    };
    let bytes = written(&inline, &quick());
    assert_eq!(bytes, written(&inline, &quick()));
    // Equal graphs, equal weights: the rest is how they were stored.
    assert_eq!(bytes, written(&outer, &quick()));
    let m = open(&to);
    let said = metadata(&m);
    assert_eq!(said["onnx.ir_version"], "8");
    assert_eq!(said["onnx.producer_name"], "tests");
    assert_eq!(said["onnx.opset_import"], "ai.onnx 17");
    assert_eq!(said["author"], "me");
    // Of the file without its initializer: `sha256sum` of what `model(&[])` writes.
    use sha2::Digest as _;
    let digest = hex::encode(sha2::Sha256::digest(model(&[])));
    assert_eq!(said["onnx.graph_sha256"], digest);
    let options = ConvertOptions {
        rename: vec![("w".into(), "layer.weight".into())],
        ..quick()
    };
    written(&inline, &options);
    assert_eq!(
        metadata(&open(&to))["onnx.names"],
        r#"{"layer.weight":"w"}"#
    );
}

#[test]
fn strict_asks_for_leave_to_lose_the_graph() {
    let f = Folder::new();
    let m = f.write(
        "m.onnx",
        &model(&[tensor("w", kind::FLOAT, &[1], floats(&[1.0]))]),
    );
    let strict = ConvertOptions {
        strict: true,
        ..quick()
    };
    for to in ["w.safetensors", "w.pt", "w.gguf"] {
        assert_eq!(rule(run(&m, &f.at(to), &strict)).0, "convert.strict");
        let weights_only = ConvertOptions {
            weights_only: true,
            ..strict.clone()
        };
        let report = run(&m, &f.at(to), &weights_only).unwrap();
        assert!(report.lost.is_empty(), "{to}: {:?}", report.lost);
    }
}

#[test]
fn sparse_weights_and_constants_need_to_be_asked_for() {
    let f = Folder::new();
    let values = tensor("sp", kind::FLOAT, &[2], floats(&[1.0, 2.0]));
    let at: Vec<u8> = [1i64, 4].iter().flat_map(|n| n.to_le_bytes()).collect();
    let indices = tensor("", kind::INT64, &[2], at);
    let sparse = Fields::new().bytes(1, values).bytes(2, indices);
    let sparse = Fields::new().bytes(15, sparse.each_int(3, &[2, 3]));
    let value = Fields::new().bytes(1, "value").int(20, 4);
    let value = value.bytes(5, tensor("", kind::FLOAT, &[1], floats(&[7.0])));
    let constant = Fields::new().bytes(1, node("Constant", &[], "k").bytes(5, value));
    let more = Fields([sparse.0, constant.0].concat());
    let m = f.write("m.onnx", &model_with(more, &[]));
    let to = f.at("w.safetensors");
    let (code, message) = rule(run(&m, &to, &quick()));
    assert_eq!(code, "convert.nothing-fits");
    assert!(message.contains("--densify"), "{message}");
    assert!(!to.exists());
    let options = ConvertOptions {
        densify: true,
        constants: true,
        ..quick()
    };
    run(&m, &to, &options).unwrap();
    let got = weights(&open(&to));
    assert_eq!(got["sp"].2, floats(&[0.0, 1.0, 0.0, 0.0, 2.0, 0.0]));
    assert_eq!(got["k"].2, floats(&[7.0]));
    // And back, other values in both places.
    let mut changed = std::fs::read(&to).unwrap();
    let start = changed.len() - 7 * 4;
    changed[start..].copy_from_slice(&floats(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5]));
    let w = f.write("new.safetensors", &changed);
    let new = weights(&open(&w));
    let out = f.at("out.onnx");
    let options = ConvertOptions {
        constants: true,
        ..into(&m)
    };
    run(&w, &out, &options).unwrap();
    let open = OpenOptions {
        constants: true,
        ..OpenOptions::default()
    };
    let back = open.open(&out).unwrap();
    assert_eq!(weights(&back), new);
    // Without the constants they are the weights' leftovers.
    assert_eq!(
        rule(run(&w, &f.at("x.onnx"), &into(&m))).0,
        "convert.partial"
    );
}

#[test]
fn constants_of_numbers_change_too() {
    let f = Folder::new();
    let constant = |name: &str, a: Fields| {
        let n = node("Constant", &[], name).bytes(5, a);
        Fields::new().bytes(1, n)
    };
    let attribute = |name: &str, kind: i64| Fields::new().bytes(1, name).int(20, kind);
    let parts = |x: f32, n: i64, xs: [f32; 2], ns: [i64; 2]| {
        let all = [
            constant("x", attribute("value_float", 1).float(2, x)),
            constant("n", attribute("value_int", 2).int(3, n)),
            constant(
                "xs",
                attribute("value_floats", 6).float(7, xs[0]).float(7, xs[1]),
            ),
            constant("ns", attribute("value_ints", 7).each_int(8, &ns)),
        ];
        model_with(Fields(all.map(|f| f.0).concat()), &[])
    };
    let base = f.write("base.onnx", &parts(1.0, 2, [3.0, 4.0], [5, 6]));
    let other = f.write("other.onnx", &parts(-1.0, -2, [-3.0, -4.0], [-5, -6]));
    let options = ConvertOptions {
        constants: true,
        ..quick()
    };
    let w = f.at("w.safetensors");
    run(&other, &w, &options).unwrap();
    let options = ConvertOptions {
        graph: Some(base.clone()),
        ..options
    };
    let out = f.at("out.onnx");
    run(&w, &out, &options).unwrap();
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&other).unwrap());
    run(&base, &out, &options).unwrap();
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&base).unwrap());
}

#[test]
fn metadata_values_are_text() {
    let f = Folder::new();
    let entry = Fields::new().entry(16, "stage", "1");
    let m = f.write(
        "m.onnx",
        &model_with(entry, &[tensor("w", kind::FLOAT, &[], floats(&[1.0]))]),
    );
    let w = f.at("w.safetensors");
    let report = run(&m, &w, &quick()).unwrap();
    assert_eq!(report.lost.len(), 1, "{:?}", report.lost);
    let m = open(&w);
    assert_eq!(metadata(&m)["onnx.graph.metadata.stage"], "1");
    assert!(m.metadata.iter().all(|(_, v)| matches!(v, Value::Str(_))));
}
