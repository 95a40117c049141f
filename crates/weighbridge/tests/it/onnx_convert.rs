//! From ONNX to weights, and from weights into graphs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, Report, convert};
use weighbridge::format::onnx::encode::Fields;
use weighbridge::{DType, Error, Model, OpenOptions, Result};
use weighbridge_core::model::{TensorSource, Value};

/// `TensorProto.DataType`.
mod kind {
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

fn bare(name: &str, kind: i64, dims: &[i64]) -> Fields {
    Fields::new().each_int(1, dims).int(2, kind).bytes(8, name)
}

fn tensor(name: &str, kind: i64, dims: &[i64], raw: impl AsRef<[u8]>) -> Fields {
    bare(name, kind, dims).bytes(9, raw)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn outside(name: &str, dims: &[i64], location: &str, offset: usize) -> Fields {
    let t = bare(name, kind::FLOAT, dims).entry(13, "location", location);
    t.entry(13, "offset", &offset.to_string()).int(14, 1)
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Fields {
    let all = inputs.iter().fold(Fields::new(), |f, i| f.bytes(1, i));
    all.bytes(2, output).bytes(4, operator)
}

/// A model of these initializers, with what makes a file hard to keep: an unknown field, a number
/// spelled at length, metadata behind the graph.
fn model(initializers: &[Fields]) -> Vec<u8> {
    model_with(Fields::new(), initializers)
}

fn model_with(more: Fields, initializers: &[Fields]) -> Vec<u8> {
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

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.0.path()).unwrap();
        let mut all: Vec<String> = all
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }
}

fn quick() -> ConvertOptions {
    ConvertOptions {
        sync: false,
        ..ConvertOptions::default()
    }
}

fn into(graph: &Path) -> ConvertOptions {
    ConvertOptions {
        graph: Some(graph.to_owned()),
        ..quick()
    }
}

fn run(from: &Path, to: &Path, options: &ConvertOptions) -> Result<Report> {
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

fn rule(e: Result<Report>) -> (&'static str, String) {
    let e: Error = e.unwrap_err();
    (e.rule(), e.to_string())
}

fn open(path: &Path) -> Model {
    weighbridge::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

type Weights = BTreeMap<String, (DType, Vec<u64>, Vec<u8>)>;

fn weights(m: &Model) -> Weights {
    let dense = m.tensors.iter().filter(|t| t.has_data());
    let one = |t: &weighbridge::Tensor| {
        let values = (t.dtype, t.shape.to_vec(), t.read_vec().unwrap());
        (t.name.clone(), values)
    };
    dense.map(one).collect()
}

fn metadata(m: &Model) -> BTreeMap<&str, &str> {
    let all = m.metadata.iter();
    all.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
        .collect()
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

/// Two models of one graph and different weights.
fn pair(f: &Folder) -> (PathBuf, PathBuf) {
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

#[test]
fn weights_go_into_a_graph_and_every_other_byte_stays() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let w = f.at("w.safetensors");
    run(&tuned, &w, &quick()).unwrap();
    let out = f.at("out.onnx");
    let strict = ConvertOptions {
        strict: true,
        ..into(&base)
    };
    let report = run(&w, &out, &strict).unwrap();
    assert_eq!((report.tensors, report.output), (3, vec![out.clone()]));
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&tuned).unwrap());
    // By way of a checkpoint, and in the place of the base itself.
    let pt = f.at("w.pt");
    run(&w, &pt, &quick()).unwrap();
    run(&pt, &base, &into(&base)).unwrap();
    assert!(std::fs::read(&base).unwrap() == std::fs::read(&tuned).unwrap());
    // Weights of another graph are said to be that.
    let foreign = model_with(
        Fields::new().bytes(1, node("Sin", &["y"], "z")),
        &[
            tensor("w", kind::FLOAT, &[2, 3], [0; 24]),
            tensor("b", kind::FLOAT, &[3], [0; 12]),
        ],
    );
    let foreign = f.write("foreign.onnx", &foreign);
    let options = ConvertOptions {
        drop: vec!["^shape$".into()],
        ..into(&foreign)
    };
    let report = run(&w, &out, &options).unwrap();
    assert_eq!(report.warnings[0].rule, "convert.other-graph");
}

#[test]
fn names_are_paired_as_told_and_never_guessed() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let w = f.at("w.safetensors");
    let options = ConvertOptions {
        rename: vec![
            ("w".into(), "fc.weight".into()),
            ("b".into(), "fc.bias".into()),
        ],
        ..quick()
    };
    run(&tuned, &w, &options).unwrap();
    let out = f.at("out.onnx");
    let map = |pairs: &[(&str, &str)]| ConvertOptions {
        map: pairs
            .iter()
            .map(|(a, b)| ((*a).into(), (*b).into()))
            .collect(),
        ..into(&base)
    };
    let (code, message) = rule(run(&w, &out, &into(&base)));
    assert_eq!(code, "convert.partial");
    for part in [
        "2 of the graph's tensors: w, b",
        "2 of IN's: fc.bias, fc.weight",
    ] {
        assert!(
            message.contains(part) || message.contains("fc.weight, fc.bias"),
            "{message}"
        );
    }
    let both = [("fc.weight", "w"), ("fc.bias", "b")];
    run(&w, &out, &map(&both)).unwrap();
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&tuned).unwrap());
    for (pairs, part) in [
        (
            &[("fc.weight", "w"), ("nothing", "b")][..],
            "IN has no tensor",
        ),
        (
            &[("fc.weight", "v"), ("fc.bias", "b")],
            "the graph has no tensor",
        ),
        (&[("fc.weight", "w"), ("fc.bias", "w")], "two tensors"),
    ] {
        let (code, message) = rule(run(&w, &f.at("x.onnx"), &map(pairs)));
        assert_eq!(code, "convert.map");
        assert!(message.contains(part), "{message}");
    }
    let partial = ConvertOptions {
        partial: true,
        ..map(&both[..1])
    };
    let strict = ConvertOptions {
        strict: true,
        ..partial.clone()
    };
    assert_eq!(rule(run(&w, &f.at("x.onnx"), &strict)).0, "convert.strict");
    let report = run(&w, &out, &partial).unwrap();
    assert_eq!(report.changed.len(), 1);
    assert_eq!(
        (
            report.changed[0].what.as_str(),
            report.lost[0].what.as_str()
        ),
        ("b", "fc.bias")
    );
    let got = weights(&open(&out));
    assert_eq!(got["w"], weights(&open(&tuned))["w"]);
    assert_eq!(got["b"], weights(&open(&base))["b"]);
    assert_eq!(
        f.names(),
        ["base.onnx", "out.onnx", "tuned.onnx", "w.safetensors"]
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_way_out() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let w = f.at("w.safetensors");
    let half = ConvertOptions {
        dtype: Some(DType::F16),
        ..quick()
    };
    run(&tuned, &w, &half).unwrap();
    let out = f.at("out.onnx");
    let e = run(&w, &out, &into(&base)).unwrap_err();
    assert_eq!(e.rule(), "convert.graph-dtype");
    assert!(e.advice().unwrap().contains("--dtype f32"), "{e:?}");
    let cast = ConvertOptions {
        dtype: Some(DType::F32),
        ..into(&base)
    };
    let report = run(&w, &out, &cast).unwrap();
    let changed: Vec<&str> = report.changed.iter().map(|n| n.what.as_str()).collect();
    assert_eq!(changed, ["w", "b"], "{:?}", report.changed);
    // Small whole numbers are the same in both.
    assert_eq!(weights(&open(&out)), weights(&open(&tuned)));
    let turned = model(&[
        tensor("w", kind::FLOAT, &[3, 2], [0; 24]),
        tensor("b", kind::FLOAT, &[3], [0; 12]),
        tensor("shape", kind::INT64, &[1], [0; 8]),
    ]);
    let turned = f.write("turned.onnx", &turned);
    let e = run(&tuned, &out, &into(&turned)).unwrap_err();
    assert_eq!(e.rule(), "convert.graph-shape");
    assert!(e.advice().unwrap().contains("--transpose '^w$'"), "{e:?}");
    let want = floats(&[10.0, 13.0, 11.0, 14.0, 12.0, 15.0]);
    // As it lies in the file, cast on the way, and from where no element is aligned.
    let odd = tensor("w", kind::FLOAT, &[2, 3], &weights(&open(&tuned))["w"].2);
    let rest = [
        tensor("b", kind::FLOAT, &[3], [0; 12]),
        tensor("shape", kind::INT64, &[1], [0; 8]),
    ];
    for pad in 0..4 {
        let name = tensor(&"x".repeat(pad + 1), kind::INT64, &[1], [0; 8]);
        let all = [name, odd.clone(), rest[0].clone(), rest[1].clone()];
        let from = f.write("odd.onnx", &model(&all));
        let options = ConvertOptions {
            transpose: vec!["^w$".into()],
            drop: vec!["^x+$".into()],
            ..into(&turned)
        };
        let report = run(&from, &out, &options).unwrap();
        assert!(report.changed[0].why.contains("transposed"));
        assert_eq!(weights(&open(&out))["w"].2, want);
    }
    let options = ConvertOptions {
        transpose: vec!["w".into(), "none".into()],
        dtype: Some(DType::F32),
        ..into(&turned)
    };
    let report = run(&w, &out, &options).unwrap();
    assert_eq!(weights(&open(&out))["w"].2, want);
    assert_eq!(report.warnings[0].rule, "convert.unused-transpose");
    let options = ConvertOptions {
        transpose: vec!["b".into()],
        ..into(&turned)
    };
    assert_eq!(rule(run(&tuned, &out, &options)).0, "convert.transpose");
}

#[test]
fn a_graph_keeps_what_lies_beside_it() {
    let f = Folder::new();
    let numbers: Vec<u8> = (0..16u8).collect();
    f.write("in/w.bin", &numbers);
    let attribute = Fields::new().bytes(1, "value").int(20, 4);
    let attribute = attribute.bytes(5, outside("", &[1], "w.bin", 12));
    let other = Fields::new().bytes(1, node("ConstantOfShape", &["s"], "z").bytes(5, attribute));
    let all = [
        outside("w", &[2], "w.bin", 0),
        outside("v", &[1], "./w.bin", 8),
    ];
    let base = f.write("in/m.onnx", &model_with(other, &all));
    let w = f.at("w.safetensors");
    let options = ConvertOptions {
        select: vec!["^w$".into()],
        ..quick()
    };
    run(&base, &w, &options).unwrap();
    let out = f.at("out.onnx");
    let options = ConvertOptions {
        partial: true,
        ..into(&base)
    };
    run(&w, &out, &options).unwrap();
    let m = open(&out);
    assert_eq!(m.parts.len(), 1, "everything is in the file");
    assert_eq!(weights(&m), weights(&open(&base)));
    // What is missing cannot come along.
    std::fs::remove_file(f.at("in/w.bin")).unwrap();
    let before = f.names();
    assert_eq!(
        rule(run(&w, &f.at("x.onnx"), &options)).0,
        "onnx.external-missing"
    );
    assert_eq!(f.names(), before);
}

#[test]
fn flags_of_graphs_are_for_graphs() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let to = f.at("x.safetensors");
    assert_eq!(rule(run(&tuned, &to, &into(&base))).0, "convert.graph");
    run(&tuned, &to, &quick()).unwrap();
    assert_eq!(rule(run(&to, &f.at("x.onnx"), &quick())).0, "convert.graph");
    assert_eq!(
        rule(run(&tuned, &f.at("x.onnx"), &into(&to))).0,
        "convert.graph"
    );
    let cast = ConvertOptions {
        dtype: Some(DType::F16),
        ..quick()
    };
    let e = run(&tuned, &f.at("x.onnx"), &cast).unwrap_err();
    assert_eq!(e.rule(), "convert.graph-tensors");
    assert!(e.advice().unwrap().contains("quantize"));
}

/// A model with tensors that are worth sharing: names, sizes in floats, first value.
fn large(parts: &[(&str, usize, f32)]) -> Vec<u8> {
    let one = |&(name, n, first): &(&str, usize, f32)| {
        let values: Vec<f32> = (0..n).map(|i| first + i as f32).collect();
        tensor(name, kind::FLOAT, &[n as i64], floats(&values))
    };
    let mut all: Vec<Fields> = parts.iter().map(one).collect();
    all.push(tensor("axes", kind::INT64, &[1], 1i64.to_le_bytes()));
    all.push(bare("typed", kind::FLOAT, &[2]).bytes(4, floats(&[0.5, 0.25])));
    all.push(tensor("packed", kind::INT4, &[3], [0x21, 3]));
    model(&all)
}

fn shared(file: &Path) -> ConvertOptions {
    ConvertOptions {
        shared_weights: Some(file.to_owned()),
        ..quick()
    }
}

#[test]
fn one_file_serves_two_formats() {
    let f = Folder::new();
    let from = f.write(
        "m.onnx",
        &large(&[("a", 3, 1.0), ("b", 2048, 5.0), ("c", 1024, 9.0)]),
    );
    let (out, st) = (f.at("out.onnx"), f.at("out.safetensors"));
    let report = run(&from, &out, &shared(&st)).unwrap();
    assert_eq!(report.output, [st.clone(), out.clone()]);
    assert_eq!(report.tensors, 4);
    assert!(report.lost.is_empty() && report.changed.is_empty());
    let (graph, file) = (open(&out), open(&st));
    assert_eq!(weights(&graph), weights(&open(&from)));
    let mut all = weights(&graph);
    all.retain(|n, _| n != "axes" && n != "packed");
    assert_eq!(weights(&file), all);
    assert!(metadata(&file).contains_key("onnx.graph_sha256"));
    // Large tensors begin where memory is mapped.
    let mut places = 0;
    for t in &graph.tensors {
        let TensorSource::View(v) = &t.source else {
            continue;
        };
        let (source, _) = v.storage.raw_range().unwrap();
        let outside = source.name().ends_with("out.safetensors");
        assert_eq!(outside, all.contains_key(&t.name), "{}", t.name);
        if t.name == "b" || t.name == "c" {
            assert_eq!(v.offset % 4096, 0, "{}", t.name);
            places += 1;
        }
    }
    assert_eq!(places, 2);
    assert_eq!(graph.parts.len(), 2);
    assert!(
        weighbridge::check::check(&st, &OpenOptions::default())
            .unwrap()
            .violations
            .is_empty()
    );
    // Equal input gives equal files.
    let before = (std::fs::read(&out).unwrap(), std::fs::read(&st).unwrap());
    run(&from, &out, &shared(&st)).unwrap();
    assert!(before == (std::fs::read(&out).unwrap(), std::fs::read(&st).unwrap()));
    // Back into one file: the graph's own bytes but for where the weights are.
    let w = f.at("w.safetensors");
    run(&out, &w, &quick()).unwrap();
    let digest = |p: &Path| metadata(&open(p))["onnx.graph_sha256"].to_owned();
    assert_eq!(digest(&w), digest(&st));
}

#[test]
fn a_graph_points_into_weights_that_are_there() {
    let f = Folder::new();
    let base = f.write("base.onnx", &large(&[("a", 3, 1.0), ("b", 300, 5.0)]));
    let tuned = f.write("tuned.onnx", &large(&[("a", 3, 7.0), ("b", 300, 8.0)]));
    let st = f.at("w.safetensors");
    let options = ConvertOptions {
        dequantize: true,
        ..quick()
    };
    run(&tuned, &st, &options).unwrap();
    let bytes = std::fs::read(&st).unwrap();
    let out = f.at("out.onnx");
    let options = ConvertOptions {
        shared_weights: Some(st.clone()),
        drop: vec!["packed".into()],
        ..into(&base)
    };
    let report = run(&st, &out, &options).unwrap();
    assert_eq!(report.output, std::slice::from_ref(&out));
    assert!(
        std::fs::read(&st).unwrap() == bytes,
        "the weights stay as they are"
    );
    assert_eq!(weights(&open(&out)), weights(&open(&tuned)));
    assert!(std::fs::metadata(&out).unwrap().len() < 900);
    // What would have to change does not lie there.
    let cast = ConvertOptions {
        dtype: Some(DType::F64),
        ..options.clone()
    };
    assert_eq!(
        rule(run(&st, &f.at("x.onnx"), &cast)).0,
        "convert.graph-dtype"
    );
    let half = f.at("half.safetensors");
    let to_half = ConvertOptions {
        dtype: Some(DType::F16),
        dequantize: true,
        ..quick()
    };
    run(&tuned, &half, &to_half).unwrap();
    let cast = ConvertOptions {
        dtype: Some(DType::F32),
        shared_weights: Some(half.clone()),
        ..options.clone()
    };
    let (code, message) = rule(run(&half, &f.at("x.onnx"), &cast));
    assert_eq!(code, "convert.shared-weights");
    assert!(message.contains("does not lie in this file"), "{message}");
    // Into another file it can.
    let again = f.at("again.safetensors");
    let cast = ConvertOptions {
        shared_weights: Some(again.clone()),
        ..cast
    };
    let report = run(&half, &f.at("y.onnx"), &cast).unwrap();
    assert_eq!(report.output, [again, f.at("y.onnx")]);
    assert_eq!(
        weights(&open(&f.at("y.onnx")))["b"],
        weights(&open(&tuned))["b"]
    );
}

#[test]
fn shared_weights_have_to_lie_beside_their_graph() {
    let f = Folder::new();
    let from = f.write("m.onnx", &large(&[("b", 300, 5.0)]));
    f.write("sub/x", b"");
    let (out, e) = (f.at("out.onnx"), |path: &Path| shared(path));
    for bad in ["sub/w.safetensors", "w.bin", "w\\x.safetensors"] {
        let r = rule(run(&from, &out, &e(&f.at(bad)))).0;
        assert!(
            ["convert.shared-weights", "convert.location"].contains(&r),
            "{bad}: {r}"
        );
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("sub/w.safetensors", f.at("link.safetensors")).unwrap();
        let r = rule(run(&from, &out, &e(&f.at("link.safetensors"))));
        assert_eq!(r.0, "convert.shared-weights");
        std::fs::remove_file(f.at("link.safetensors")).unwrap();
    }
    // A model whose weights lie in the file that would be written is left whole.
    run(&from, &out, &e(&f.at("w.safetensors"))).unwrap();
    let before = std::fs::read(f.at("w.safetensors")).unwrap();
    let r = rule(run(&out, &f.at("x.onnx"), &e(&f.at("w.safetensors"))));
    assert_eq!(r.0, "convert.same-file");
    assert!(std::fs::read(f.at("w.safetensors")).unwrap() == before);
    assert_eq!(f.names(), ["m.onnx", "out.onnx", "sub", "w.safetensors"]);
}

#[test]
fn a_copy_is_the_whole_model() {
    let f = Folder::new();
    let graph = model(&[
        outside("w", &[2], "data/w.bin", 0),
        outside("v", &[1], "v", 0),
    ]);
    let from = f.write("in/m.onnx", &graph);
    f.write("in/data/w.bin", &[1; 8]);
    f.write("in/v", &[2; 4]);
    f.write("out/other", b"");
    let out = f.at("out/copy.onnx");
    let strict = ConvertOptions {
        strict: true,
        ..quick()
    };
    let report = run(&from, &out, &strict).unwrap();
    assert_eq!(
        report.output,
        [f.at("out/data/w.bin"), f.at("out/v"), out.clone()]
    );
    assert!(std::fs::read(&out).unwrap() == graph);
    assert_eq!(weights(&open(&out)), weights(&open(&from)));
    // The data is never put in the place of what may be another model's.
    assert_eq!(
        rule(run(&from, &f.at("out/two.onnx"), &quick())).0,
        "convert.exists"
    );
    // In the same folder it is there already.
    let report = run(&from, &f.at("in/two.onnx"), &quick()).unwrap();
    assert_eq!(report.output, [f.at("in/two.onnx")]);
    assert_eq!(rule(run(&from, &from, &quick())).0, "convert.same-file");
    std::fs::remove_file(f.at("in/v")).unwrap();
    f.write("third/x", b"");
    let r = rule(run(&from, &f.at("third/m.onnx"), &quick()));
    assert_eq!(r.0, "onnx.external-missing");
}

#[test]
fn a_folder_with_a_graph_is_the_model() {
    let f = Folder::new();
    f.write(
        "a/model.onnx",
        &model(&[outside("w", &[2], "model.onnx.data", 0)]),
    );
    f.write("a/model.onnx.data", &[1; 8]);
    f.write("a/config.json", b"{}");
    let m = open(&f.at("a"));
    assert_eq!((m.format.as_str(), m.parts.len()), ("onnx", 2));
    // Other precisions of it are variants.
    f.write("a/model_q4.onnx", &model(&[]));
    let m = open(&f.at("a"));
    assert_eq!(m.parts[0].path, f.at("a/model.onnx"));
    assert!(m.warnings.iter().any(|w| w.rule == "directory.choice"));
    // Safetensors of the same name go first, and so do those that a graph points into.
    run(&f.at("a"), &f.at("a/model.safetensors"), &quick()).unwrap();
    assert_eq!(open(&f.at("a")).format.as_str(), "safetensors");
    let from = f.write("m.onnx", &large(&[("b", 300, 5.0)]));
    f.write("b/x", b"");
    run(
        &from,
        &f.at("b/graph.onnx"),
        &shared(&f.at("b/weights.safetensors")),
    )
    .unwrap();
    let m = open(&f.at("b"));
    assert_eq!(m.format.as_str(), "safetensors");
    let said = m.warnings.iter().find(|w| w.rule == "directory.choice");
    assert!(said.unwrap().message.contains("graph.onnx"));
    // Two that have nothing to do with each other are two.
    f.write("c/one.onnx", &model(&[]));
    f.write("c/two.onnx", &model(&[]));
    let e = weighbridge::open(f.at("c")).unwrap_err();
    assert_eq!(e.rule(), "directory.ambiguous");
}

/// Numbers that look random and are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[test]
fn random_models_come_back_as_they_were() {
    let f = Folder::new();
    let mut r = Numbers(7);
    for round in 0..60 {
        let n = 1 + r.next(12);
        let kinds = [
            (1, 4),
            (2, 1),
            (3, 1),
            (5, 2),
            (7, 8),
            (9, 1),
            (10, 2),
            (11, 8),
            (14, 8),
            (16, 2),
            (17, 1),
        ];
        let (mut one, mut zero) = (Vec::new(), Vec::new());
        for i in 0..n {
            let (kind, width) = kinds[r.next(kinds.len() as u64) as usize];
            let rank = r.next(4);
            let dims: Vec<i64> = (0..rank).map(|_| r.next(5) as i64).collect();
            let len = dims.iter().product::<i64>() as usize * width;
            let bits = if kind == 9 { 2 } else { 256 };
            let raw: Vec<u8> = (0..len).map(|_| r.next(bits) as u8).collect();
            let name = format!("t{i}.{}", "n".repeat(r.next(9) as usize));
            one.push(tensor(&name, kind, &dims, raw));
            zero.push(tensor(&name, kind, &dims, vec![0; len]));
        }
        let from = f.write("m.onnx", &model(&one));
        let base = f.write("base.onnx", &model(&zero));
        let (w, out) = (f.at("w.safetensors"), f.at("out.onnx"));
        run(&from, &w, &quick()).unwrap();
        run(&w, &out, &into(&base)).unwrap();
        assert!(
            std::fs::read(&out).unwrap() == std::fs::read(&from).unwrap(),
            "round {round}"
        );
        match run(&from, &f.at("s.onnx"), &shared(&f.at("s.safetensors"))) {
            Ok(_) => assert_eq!(weights(&open(&f.at("s.onnx"))), weights(&open(&from))),
            Err(e) => assert_eq!(e.rule(), "convert.shared-weights", "{e}"),
        }
    }
}

#[test]
fn broken_graphs_leave_nothing_behind() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let whole = std::fs::read(&base).unwrap();
    let w = f.at("w.safetensors");
    run(&tuned, &w, &quick()).unwrap();
    let mut r = Numbers(11);
    let (mut refused, mut taken) = (0, 0);
    for i in 0..300 {
        let mut bytes = whole.clone();
        match i * 2 < whole.len() {
            true => bytes.truncate(i * 2),
            false => {
                let at = r.next(whole.len() as u64) as usize;
                bytes[at] = r.next(256) as u8;
            }
        }
        let broken = f.write("broken.onnx", &bytes);
        let (out, shared_out) = (f.at("out.onnx"), f.at("s.onnx"));
        let all = [
            run(&w, &out, &into(&broken)),
            run(&broken, &shared_out, &shared(&f.at("s.safetensors"))),
        ];
        for (result, path) in all.into_iter().zip([&out, &shared_out]) {
            match result {
                Ok(_) => {
                    weighbridge::open(path).unwrap_or_else(|e| panic!("{i}: {e}"));
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
        }
        for name in ["out.onnx", "s.onnx", "s.safetensors"] {
            let _ = std::fs::remove_file(f.at(name));
        }
        let left = ["base.onnx", "broken.onnx", "tuned.onnx", "w.safetensors"];
        assert_eq!(f.names(), left, "{i}");
    }
    assert!(refused > 50 && taken > 50, "{refused} {taken}");
}

fn corpus_models() -> Vec<PathBuf> {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return Vec::new();
    };
    let mut all = Vec::new();
    for dir in ["real/onnx", "onnx/clean_control", "onnx/conformance"] {
        for e in std::fs::read_dir(corpus.join(dir)).unwrap() {
            let path = e.unwrap().path();
            // One lies without its data under this name.
            let whole = !path.to_string_lossy().contains("mnist-external");
            if path.extension().is_some_and(|e| e == "onnx") && whole {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn real_weights_come_back_into_their_graphs() {
    let f = Folder::new();
    let (mut back, mut pairs) = (0, 0);
    for path in corpus_models() {
        let m = open(&path);
        let dense = |t: &&weighbridge::Tensor| t.has_data() && t.dtype.bytes().is_some();
        if m.tensors.iter().filter(dense).count() == 0 {
            continue;
        }
        let (w, out) = (f.at("w.safetensors"), f.at("out.onnx"));
        let densify = ConvertOptions {
            densify: true,
            complex_as_real: false,
            ..quick()
        };
        run(&path, &w, &densify).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let options = ConvertOptions {
            // What safetensors does not have stays in the graph.
            partial: true,
            ..into(&path)
        };
        run(&w, &out, &options).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let (got, want) = (weights(&open(&out)), weights(&m));
        for (name, t) in want {
            assert_eq!(got.get(&name), Some(&t), "{path:?}: {name}");
        }
        back += 1;
        let (s, file) = (f.at("s.onnx"), f.at("s.safetensors"));
        if run(&path, &s, &shared(&file)).is_ok() {
            assert_eq!(weights(&open(&s)), weights(&m), "{path:?}");
            pairs += 1;
        }
    }
    if std::env::var_os("WEIGHBRIDGE_CORPUS").is_some() {
        assert!(back > 60 && pairs > 40, "{back} {pairs}");
    }
}

/// ONNX Runtime gives the same outputs for a model, for the same with its weights put in again,
/// and with its weights in a safetensors file, which the safetensors library reads.
#[test]
fn onnx_runtime_runs_what_we_write_with_equal_outputs() {
    let Some(venv) = std::env::var_os("WEIGHBRIDGE_ONNX_VENV") else {
        println!("skipped: WEIGHBRIDGE_ONNX_VENV is not set");
        return;
    };
    let f = Folder::new();
    let mut sets = Vec::new();
    for (i, path) in corpus_models().into_iter().enumerate() {
        let (w, put) = (
            f.at(&format!("{i}.w.safetensors")),
            f.at(&format!("{i}.put.onnx")),
        );
        let (s, file) = (
            f.at(&format!("{i}.s.onnx")),
            f.at(&format!("{i}.s.safetensors")),
        );
        if run(&path, &w, &quick()).is_err() || run(&path, &s, &shared(&file)).is_err() {
            continue;
        }
        let partial = ConvertOptions {
            partial: true,
            ..into(&path)
        };
        run(&w, &put, &partial).unwrap();
        sets.extend([path, put, s, file]);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../peers/onnx_outputs.py");
    let mut c = std::process::Command::new(Path::new(&venv).join("bin/python"));
    let out = c.arg(script).args(&sets).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let n: u32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(n > 30, "{said}");
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
