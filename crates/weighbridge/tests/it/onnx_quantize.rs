//! ONNX to ONNX: nodes and constants against those that ONNX Runtime's quantizers make
//! (`tests/data/onnx_quantize`), and what is refused.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use weighbridge::format::onnx::encode::Fields;
use weighbridge::quantize::{
    Blocks, FileType, OnnxOptions, OnnxType, QuantizeOptions, Quantized, quantize, quantize_onnx,
    with_gguf_blocks,
};
use weighbridge::{DType, Model, Tensor};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx_quantize")
}

fn answers(kind: &str) -> Vec<Vec<Json>> {
    let text = std::fs::read_to_string(data().join("answers.json")).unwrap();
    let all: Json = serde_json::from_str(&text).unwrap();
    let rows = all[kind].as_array().unwrap().iter();
    rows.map(|r| r.as_array().unwrap().clone()).collect()
}

pub(crate) fn kind(name: &str) -> OnnxOptions {
    OnnxOptions {
        sync: false,
        ..OnnxOptions::new(OnnxType::from_name(name).unwrap())
    }
}

fn run(from: &Path, to: &Path, options: &OnnxOptions) -> Quantized {
    let model = weighbridge::open(from).unwrap();
    let (mut told, mut whole) = (0, 0);
    let done = quantize_onnx(model, to, options, &mut |n, total| {
        told += n;
        whole = total;
    });
    let done = done.unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    assert_eq!(told, whole, "progress ends at the whole");
    let bytes = done
        .report
        .output
        .iter()
        .map(|p| std::fs::metadata(p).unwrap().len());
    assert_eq!(done.report.bytes, bytes.sum::<u64>());
    done
}

fn hash(lines: &mut [String]) -> String {
    lines.sort();
    hex::encode(Sha256::digest(lines.join("\n")))
}

/// Nodes and constants as the answers have them.
fn lines(model: &Model, ends: Option<&[&str]>) -> (Vec<String>, Vec<String>) {
    let graph = model.graph.as_ref().unwrap();
    let nodes = graph.nodes.iter().map(|n| {
        let (inputs, outputs) = (n.inputs.join(","), n.outputs.join(","));
        format!("{}|{}|{}|{inputs}|{outputs}", n.operator, n.domain, n.name)
    });
    let read = |t: &&Tensor| graph.nodes.iter().any(|n| n.inputs.contains(&t.name));
    let asked = |t: &&Tensor| ends.is_none_or(|all| all.iter().any(|e| t.name.ends_with(e)));
    let constants = graph
        .initializers
        .iter()
        .filter(read)
        .filter(asked)
        .map(|t| {
            let dims: Vec<String> = t.shape.iter().map(u64::to_string).collect();
            let sha = hex::encode(Sha256::digest(t.bytes().unwrap()));
            format!("{}|{}|{}|{sha}", t.name, t.dtype, dims.join(","))
        });
    (nodes.collect(), constants.collect())
}

#[track_caller]
fn assert_answer(path: &Path, want: &Json, ends: Option<&[&str]>, case: &str) {
    let model = weighbridge::open(path).unwrap();
    let (mut nodes, mut constants) = lines(&model, ends);
    let same = ends.is_some() || want["nodes"] == hash(&mut nodes).as_str();
    assert!(same, "{case}: {nodes:#?}");
    let same = want["constants"] == hash(&mut constants).as_str();
    assert!(same, "{case}: {constants:#?}");
}

/// Values of a large matrix, as `make.py` has them.
fn formula(rows: usize, columns: usize) -> Vec<f32> {
    let one = |i: usize| ((i * 7919) % 10007) as f32 - 5003.0;
    (0..rows * columns).map(|i| one(i) / 8192.0).collect()
}

pub(crate) fn tensor(name: &str, dims: &[usize], values: &[f32]) -> Fields {
    let mut out = Fields::new();
    for &d in dims {
        out = out.int(1, d as i64);
    }
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    out.int(2, 1).bytes(8, name).bytes(9, bytes)
}

pub(crate) fn value(name: &str, columns: usize) -> Fields {
    let dim = |n| Fields::new().bytes(1, n);
    let shape = dim(Fields::new().bytes(2, "n")).bytes(1, Fields::new().int(1, columns as i64));
    let kind = Fields::new().bytes(1, Fields::new().int(1, 1).bytes(2, shape));
    Fields::new().bytes(1, name).bytes(2, kind)
}

struct Node<'a>(
    &'a str,
    &'a str,
    &'a [&'a str],
    &'a str,
    Option<(&'a str, i64)>,
);

fn model(path: &Path, nodes: &[Node<'_>], tensors: &[Fields], columns: [usize; 2]) {
    let mut graph = Fields::new();
    for Node(operator, name, inputs, output, attribute) in nodes {
        let mut node = Fields::new();
        for i in *inputs {
            node = node.bytes(1, i);
        }
        node = node.bytes(2, output).text(3, name).bytes(4, operator);
        if let Some((name, n)) = attribute {
            node = node.bytes(5, Fields::new().bytes(1, name).int(3, *n).int(20, 2));
        }
        graph = graph.bytes(1, node);
    }
    graph = graph.bytes(2, "g");
    for t in tensors {
        graph = graph.bytes(5, t);
    }
    graph = graph
        .bytes(11, value("x", columns[0]))
        .bytes(12, value("y", columns[1]));
    let whole = Fields::new().int(1, 8).bytes(7, graph);
    let whole = whole.bytes(8, Fields::new().bytes(1, "").int(2, 17));
    std::fs::write(path, whole.0).unwrap();
}

/// The model `large` of the answers: matrices that are done in several parts.
fn large(path: &Path) {
    let nodes = [
        Node("MatMul", "first", &["x", "a"], "h", None),
        Node("Gemm", "second", &["h", "b"], "y", Some(("transB", 1))),
    ];
    let a = tensor("a", &[1250, 1100], &formula(1250, 1100));
    let b = tensor("b", &[1300, 1100], &formula(1300, 1100));
    model(path, &nodes, &[a, b], [1250, 1300]);
}

/// Where the model called `name` is; the large one is made in `folder`.
fn input(folder: &Path, name: &str) -> PathBuf {
    if name != "large" {
        return data().join(format!("{name}.onnx"));
    }
    let path = folder.join("large.onnx");
    if !path.exists() {
        large(&path);
    }
    path
}

#[test]
fn dynamic_integers_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let rows = answers("dynamic");
    assert!(rows.len() > 60);
    for row in rows {
        let [name, int, channels, symmetric, reduced, want] = row.as_slice() else {
            panic!("{row:?}")
        };
        let options = OnnxOptions {
            per_channel: channels.as_bool().unwrap(),
            symmetric: symmetric.as_bool(),
            reduce_range: reduced.as_bool().unwrap(),
            ..kind(int.as_str().unwrap())
        };
        run(&input(folder.path(), name.as_str().unwrap()), &to, &options);
        assert_answer(&to, want, None, &format!("{row:?}"));
    }
}

#[test]
fn blocks_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let ends = ["_Q4", "_Q8", "_scales", "_zero_points"];
    for row in answers("blocks") {
        let [name, bits, block, symmetric, want] = row.as_slice() else {
            panic!("{row:?}")
        };
        let int = if bits == 4 { "int4" } else { "int8" };
        let options = OnnxOptions {
            block_size: Some(block.as_u64().unwrap() as u32),
            symmetric: symmetric.as_bool(),
            rtn: true,
            // The reference leaves these alone.
            exclude: vec!["^fc[12]$".into()],
            ..kind(int)
        };
        run(&input(folder.path(), name.as_str().unwrap()), &to, &options);
        assert_answer(&to, want, Some(&ends), &format!("{row:?}"));
    }
}

#[test]
fn known_ranges_give_the_pairs_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let text = std::fs::read_to_string(data().join("answers.json")).unwrap();
    let all: Json = serde_json::from_str(&text).unwrap();
    for row in answers("static") {
        let [name, activations, int, channels, want] = row.as_slice() else {
            panic!("{row:?}")
        };
        let name = name.as_str().unwrap();
        let ranges = all["ranges"][name].as_object().unwrap().iter();
        let range = |(n, r): (&String, &Json)| {
            let of = |i: usize| r[i].as_f64().unwrap() as f32;
            (n.clone(), (of(0), of(1)))
        };
        let options = OnnxOptions {
            per_channel: channels.as_bool().unwrap(),
            ranges: Some(ranges.map(range).collect()),
            unsigned_activations: Some(activations == "uint8"),
            ..kind(int.as_str().unwrap())
        };
        run(&input(folder.path(), name), &to, &options);
        assert_answer(&to, want, None, &format!("{row:?}"));
    }
}

#[test]
fn bytes_do_not_depend_on_threads_and_options_of_place() {
    let folder = tempfile::tempdir().unwrap();
    let at = |n: &str| folder.path().join(n);
    let from = input(folder.path(), "large");
    for (int, qdq) in [
        ("int8", false),
        ("uint8", true),
        ("int4", false),
        ("f16", false),
    ] {
        let options = |threads| OnnxOptions {
            threads,
            qdq,
            per_channel: true,
            measure: true,
            ..kind(int)
        };
        let one = run(&from, &at("one.onnx"), &options(1));
        let five = run(&from, &at("five.onnx"), &options(5));
        let bytes = |n: &str| std::fs::read(at(n)).unwrap();
        assert!(bytes("one.onnx") == bytes("five.onnx"), "{int}");
        let quality = |d: &Quantized| -> Vec<_> { d.tensors.iter().map(|t| t.quality).collect() };
        assert_eq!(quality(&one), quality(&five), "{int}");
        assert!(
            quality(&one).iter().all(|q| q.unwrap().relative < 0.2),
            "{int}"
        );
        // Beside the graph instead of in it: the same values.
        let beside = OnnxOptions {
            most_inside: 1000,
            ..options(0)
        };
        let done = run(&from, &at("beside.onnx"), &beside);
        assert_eq!(
            done.report.output,
            [at("beside.onnx"), at("beside.onnx.data")]
        );
        let (inside, outside) = (
            weighbridge::open(at("one.onnx")).unwrap(),
            weighbridge::open(at("beside.onnx")).unwrap(),
        );
        assert_eq!(lines(&inside, None), lines(&outside, None), "{int}");
        // And from there on it stays beside.
        assert_eq!(outside.parts.len(), 2);
    }
}

#[test]
fn weights_beside_the_source_stay_beside() {
    let folder = tempfile::tempdir().unwrap();
    let at = |n: &str| folder.path().join(n);
    let from = input(folder.path(), "large");
    let half = OnnxOptions {
        most_inside: 1000,
        ..kind("f16")
    };
    run(&from, &at("half.onnx"), &half);
    // f16 weights are none of dynamic quantization, but blocks can be made of them.
    let e = quantize_onnx(
        weighbridge::open(at("half.onnx")).unwrap(),
        &at("none.onnx"),
        &kind("int8"),
        &mut |_, _| {},
    );
    assert_eq!(e.unwrap_err().rule(), "quantize.nothing");
    assert!(!at("none.onnx").exists());
    let options = OnnxOptions {
        exclude: vec!["^second$".into()],
        ..kind("int4")
    };
    let done = run(&at("half.onnx"), &at("four.onnx"), &options);
    assert_eq!(done.report.output, [at("four.onnx"), at("four.onnx.data")]);
    let model = weighbridge::open(at("four.onnx")).unwrap();
    let find = |n: &str| model.tensors.iter().find(|t| t.name == n);
    assert_eq!(find("a_scales").unwrap().dtype, DType::F16);
    assert!(find("a").is_none());
    // The excluded one is the same as before, at its new place.
    let before = weighbridge::open(at("half.onnx")).unwrap();
    let b = before.tensors.iter().find(|t| t.name == "b").unwrap();
    assert!(find("b").unwrap().bytes().unwrap() == b.bytes().unwrap());
}

#[test]
fn what_is_no_number_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let at = |n: &str| folder.path().join(n);
    let mut values = formula(1100, 1000);
    values[1_050_007] = f32::NAN;
    values[1_090_000] = f32::INFINITY;
    let nodes = [Node("MatMul", "m", &["x", "w"], "y", None)];
    model(
        &at("in.onnx"),
        &nodes,
        &[tensor("w", &[1100, 1000], &values)],
        [1100, 1000],
    );
    for options in [
        kind("int8"),
        kind("int4"),
        OnnxOptions {
            per_channel: true,
            threads: 7,
            ..kind("uint8")
        },
        OnnxOptions {
            qdq: true,
            ..kind("uint8")
        },
    ] {
        let model = weighbridge::open(at("in.onnx")).unwrap();
        let e = quantize_onnx(model, &at("out.onnx"), &options, &mut |_, _| {}).unwrap_err();
        assert_eq!(e.rule(), "quantize.not-finite");
        assert!(
            e.to_string()
                .contains("value 1050007 (at [1050, 7]) is NaN"),
            "{e}"
        );
        assert!(e.to_string().contains('w'), "{e}");
        assert!(!at("out.onnx").exists());
    }
    // Halves have infinities, and may keep them.
    run(&at("in.onnx"), &at("half.onnx"), &kind("f16"));
}

#[test]
fn the_search_loses_less_than_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let from = data().join("dense.onnx");
    for (int, block) in [("int4", 16), ("uint4", 32), ("int8", 32)] {
        let loss = |rtn| {
            let options = OnnxOptions {
                block_size: Some(block),
                rtn,
                measure: true,
                ..kind(int)
            };
            let done = run(&from, &to, &options);
            let quality = done.tensors.iter().filter_map(|t| t.quality);
            quality.map(|q| q.relative).collect::<Vec<f64>>()
        };
        let (plain, found) = (loss(true), loss(false));
        assert_eq!(plain.len(), 4);
        for (p, f) in plain.iter().zip(&found) {
            assert!(f <= p, "{int}: {f} {p}");
        }
        let sum = |x: &[f64]| x.iter().sum::<f64>();
        assert!(int == "int8" || sum(&found) < 0.97 * sum(&plain), "{int}");
    }
}

#[test]
fn blocks_of_gguf_come_over_and_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |n: &str| folder.path().join(n);
    let nodes = [
        Node(
            "Gemm",
            "first",
            &["x", "one.weight"],
            "h",
            Some(("transB", 1)),
        ),
        Node(
            "Gemm",
            "second",
            &["h", "two.weight"],
            "y",
            Some(("transB", 1)),
        ),
    ];
    let one = tensor("one.weight", &[96, 64], &formula(96, 64));
    let two = tensor("two.weight", &[40, 96], &formula(40, 96));
    model(&at("in.onnx"), &nodes, &[one, two], [64, 40]);
    for (file, dtype, int) in [("Q4_0", DType::Q4_0, "int4"), ("Q8_0", DType::Q8_0, "int4")] {
        let options = QuantizeOptions {
            file: Some(FileType::parse(file).unwrap()),
            pure: true,
            sync: false,
            ..QuantizeOptions::default()
        };
        let source = weighbridge::open(at("in.onnx")).unwrap();
        quantize(source, &at("in.gguf"), &options, &mut |_, _| {}).unwrap();
        let gguf = weighbridge::open(at("in.gguf")).unwrap();
        assert!(
            gguf.tensors.iter().all(|t| t.dtype == dtype),
            "{:?}",
            gguf.tensors
        );
        let blocks = Blocks::new(&gguf, &[]).unwrap();
        let options = OnnxOptions {
            blocks: Some(blocks),
            ..kind(int)
        };
        run(&at("in.onnx"), &at("out.onnx"), &options);
        let mut made = weighbridge::open(at("out.onnx")).unwrap();
        let names = with_gguf_blocks(&mut made).unwrap();
        assert_eq!(names, ["one.weight_T", "two.weight_T"]);
        for (t, name) in gguf.tensors.iter().zip(["one.weight_T", "two.weight_T"]) {
            let back = made.tensors.iter().find(|t| t.name == name).unwrap();
            assert_eq!(
                (back.dtype, back.shape.as_slice()),
                (dtype, t.shape.as_slice())
            );
            assert!(back.bytes().unwrap() == t.bytes().unwrap(), "{file} {name}");
        }
        // A name that is given has to be there, and to fit.
        let pair = |a: &str, b: &str| [(a.to_owned(), b.to_owned())];
        let e = Blocks::new(&gguf, &pair("one.weight", "three.weight")).unwrap_err();
        assert_eq!(e.rule(), "quantize.map");
        let options = OnnxOptions {
            blocks: Some(Blocks::new(&gguf, &pair("one.weight", "two.weight")).unwrap()),
            ..kind(int)
        };
        let model = weighbridge::open(at("in.onnx")).unwrap();
        let e = quantize_onnx(model, &at("no.onnx"), &options, &mut |_, _| {}).unwrap_err();
        assert_eq!(e.rule(), "quantize.map");
    }
}

#[test]
fn halves_keep_the_edges_wide() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let mut values = formula(8, 8);
    values[5] = 1e9;
    let nodes = [
        Node("MatMul", "m", &["x", "w"], "h", None),
        Node("Max", "most", &["h", "h"], "k", None),
        Node("Relu", "r", &["k"], "y", None),
    ];
    let from = folder.path().join("in.onnx");
    model(&from, &nodes, &[tensor("w", &[8, 8], &values)], [8, 8]);
    let done = run(&from, &to, &kind("f16"));
    assert_eq!(done.report.changed.len(), 1);
    assert!(done.report.changed[0].why.contains("1 values beyond F16"));
    let model = weighbridge::open(&to).unwrap();
    let graph = model.graph.unwrap();
    let shown: Vec<String> = graph
        .nodes
        .iter()
        .map(|n| {
            format!(
                "{} {} {}",
                n.operator,
                n.inputs.join(","),
                n.outputs.join(",")
            )
        })
        .collect();
    let want = [
        "Cast x x_f16",
        "MatMul x_f16,w h",
        "Cast h h_f32",
        "Max h_f32,h_f32 k",
        "Cast k k_f16",
        "Relu k_f16 y_f16",
        "Cast y_f16 y",
    ];
    assert_eq!(shown, want);
    let w = &graph.initializers[0];
    assert_eq!(w.dtype, DType::F16);
    let bytes = w.bytes().unwrap();
    assert_eq!(bytes[10..12], 0x7bffu16.to_le_bytes());
}

#[test]
fn older_operators_are_written_anew_for_four_bits() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let from = folder.path().join("in.onnx");
    let nodes = [
        Node("MatMul", "m", &["x", "w"], "h", None),
        Node("Split", "s", &["h"], "y", None),
    ];
    model(
        &from,
        &nodes,
        &[tensor("w", &[64, 8], &formula(64, 8))],
        [64, 8],
    );
    let options = OnnxOptions {
        qdq: true,
        block_size: Some(16),
        ..kind("int4")
    };
    let done = run(&from, &to, &options);
    let what: Vec<&str> = done
        .report
        .changed
        .iter()
        .map(|n| n.what.as_str())
        .collect();
    assert_eq!(what, ["onnx.ir_version", "onnx.opset_import"]);
    let model = weighbridge::open(&to).unwrap();
    assert_eq!(model.version.as_deref(), Some("10"));
    let graph = model.graph.unwrap();
    assert_eq!(graph.opsets, [(String::new(), 21)]);
    let split = graph.nodes.iter().find(|n| n.operator == "Split").unwrap();
    assert_eq!(split.attributes[0].name, "num_outputs");
    let find = |n: &str| graph.initializers.iter().find(|t| t.name == n).unwrap();
    assert_eq!(find("w_quantized").dtype, DType::I4);
    assert_eq!(find("w_scale").shape.as_slice(), [4, 8]);
    // Symmetric: zero points are zeros.
    assert!(
        find("w_zero_point")
            .bytes()
            .unwrap()
            .iter()
            .all(|b| *b == 0)
    );
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.onnx");
    let from = data().join("dense.onnx");
    let refused = |options: OnnxOptions| {
        let model = weighbridge::open(&from).unwrap();
        let e = quantize_onnx(model, &to, &options, &mut |_, _| {}).unwrap_err();
        assert!(!to.exists());
        e.rule()
    };
    for block in [0, 8, 48, 512] {
        let options = OnnxOptions {
            block_size: Some(block),
            ..kind("int4")
        };
        assert_eq!(refused(options), "quantize.block-size");
    }
    let options = OnnxOptions {
        ranges: Some(vec![("x".into(), (0.0, 1.0))]),
        ..kind("int8")
    };
    assert_eq!(refused(options), "quantize.ranges");
    let options = OnnxOptions {
        exclude: vec!["(".into()],
        ..kind("int8")
    };
    assert_eq!(refused(options), "quantize.regex");
    let options = OnnxOptions {
        exclude: vec![".".into()],
        ..kind("int8")
    };
    assert_eq!(refused(options), "quantize.nothing");
    let model = weighbridge::open(&from).unwrap();
    let e = quantize_onnx(model, &from, &kind("int8"), &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "quantize.same-file");
    // A dry run writes nothing and knows the size.
    let options = OnnxOptions {
        dry_run: true,
        ..kind("int8")
    };
    let model = weighbridge::open(&from).unwrap();
    let dry = quantize_onnx(model, &to, &options, &mut |_, _| {}).unwrap();
    assert!(!to.exists());
    assert_eq!(
        dry.report.bytes,
        run(&from, &to, &kind("int8")).report.bytes
    );
}
