//! Quantized graphs keep to the types and versions that their operators take.

use std::path::Path;

use weighbridge::OpenOptions;
use weighbridge::check::Violation;
use weighbridge::format::FormatReader as _;
use weighbridge::format::onnx::Onnx;
use weighbridge::format::onnx::encode::Fields;
use weighbridge::quantize::{OnnxOptions, OnnxType, Quantized, quantize_onnx};
use weighbridge_core::source::{Backend, open_file};

const FLOAT: i64 = 1;
const INT8: i64 = 3;
const INT64: i64 = 7;
const HALF: i64 = 10;

fn value(name: &str, kind: i64, dims: &[i64]) -> Fields {
    let each = dims.iter().map(|d| Fields::new().int(1, *d));
    let shape = each.fold(Fields::new(), |s, d| s.bytes(1, d));
    let tensor = Fields::new().int(1, kind).bytes(2, shape);
    Fields::new()
        .bytes(1, name)
        .bytes(2, Fields::new().bytes(1, tensor))
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Fields {
    let all = inputs.iter().fold(Fields::new(), |f, i| f.bytes(1, i));
    all.bytes(2, output).bytes(4, operator)
}

fn tensor(name: &str, kind: i64, dims: &[i64], raw: &[u8]) -> Fields {
    Fields::new()
        .each_int(1, dims)
        .int(2, kind)
        .bytes(8, name)
        .bytes(9, raw)
}

/// Values from -1 to 1.
fn floats(n: usize) -> Vec<u8> {
    let each = (0..n).map(|i| (i as f32 * 0.7).sin());
    each.flat_map(f32::to_le_bytes).collect()
}

/// 1, -2 and 0.5 over and over.
fn halves(n: usize) -> Vec<u8> {
    let all = [0x3c00u16, 0xc000, 0x3800];
    let each = all.iter().cycle().take(n);
    each.flat_map(|x| x.to_le_bytes()).collect()
}

/// A model of version `format` and these fields of its graph.
fn model(format: i64, opset: i64, graph: &[(u32, Fields)]) -> Vec<u8> {
    let named = Fields::new().bytes(2, "g");
    let graph = graph.iter().fold(named, |g, (n, f)| g.bytes(*n, f));
    let opset = Fields::new().bytes(1, "").int(2, opset);
    Fields::new()
        .int(1, format)
        .bytes(7, graph)
        .bytes(8, opset)
        .0
}

fn check(path: &Path) -> Vec<Violation> {
    let source = open_file(path, Backend::default()).unwrap();
    Onnx.verify(source, &OpenOptions::default()).unwrap()
}

/// Quantizes `bytes`, of which nothing is wrong, and gives what is wrong with the result.
fn quantized(bytes: &[u8], options: &OnnxOptions) -> (Quantized, Vec<Violation>) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.onnx"), dir.path().join("out.onnx"));
    std::fs::write(&from, bytes).unwrap();
    assert!(check(&from).is_empty(), "{:?}", check(&from));
    let opened = weighbridge::open(&from).unwrap();
    let options = OnnxOptions {
        sync: false,
        ..options.clone()
    };
    let done = quantize_onnx(opened, &to, &options, &mut |_, _| {}).unwrap();
    (done, check(&to))
}

fn product(kind: i64, format: i64, opset: i64, weight: Fields, dims: &[i64]) -> Vec<u8> {
    let mut graph = vec![
        (1, node("MatMul", &["x", "w"], "y")),
        (5, weight),
        (11, value("x", kind, &[2, 32])),
    ];
    if format < 4 {
        graph.push((11, value("w", kind, dims)));
    }
    let out: Vec<i64> = [&dims[..dims.len() - 2], &[2, dims[dims.len() - 1]]].concat();
    graph.push((12, value("y", kind, &out)));
    model(format, opset, &graph)
}

/// `DequantizeLinear` takes scales of half floats since version 19 only.
#[test]
fn half_weights_raise_the_version_that_dequantizes_them() {
    let weight = tensor("w", HALF, &[32, 16], &halves(32 * 16));
    let options = OnnxOptions {
        qdq: true,
        ..OnnxOptions::new(OnnxType::Int8)
    };
    for (opset, raised) in [(17, true), (19, false)] {
        let bytes = product(HALF, 9, opset, weight.clone(), &[32, 16]);
        let (done, wrong) = quantized(&bytes, &options);
        assert!(wrong.is_empty(), "{wrong:?}");
        let told = done
            .report
            .changed
            .iter()
            .any(|n| n.what == "onnx.opset_import");
        assert_eq!(told, raised);
    }
}

/// Where it gives single floats only, it stays as it is in a model of half floats.
#[test]
fn what_was_dequantized_before_stays_wide_in_old_versions() {
    for kind in [OnnxType::F16, OnnxType::Bf16] {
        for opset in [17, 19] {
            let graph = [
                (1, node("DequantizeLinear", &["q", "s"], "w")),
                (1, node("MatMul", &["x", "w"], "m")),
                (1, node("Add", &["m", "b"], "y")),
                (5, tensor("q", INT8, &[32, 16], &[3; 512])),
                (5, tensor("s", FLOAT, &[], &floats(2)[4..])),
                (5, tensor("b", FLOAT, &[16], &floats(16))),
                (11, value("x", FLOAT, &[2, 32])),
                (12, value("y", FLOAT, &[2, 16])),
            ];
            let (_, wrong) = quantized(&model(9, opset, &graph), &OnnxOptions::new(kind));
            assert!(wrong.is_empty(), "{kind:?} {opset} {wrong:?}");
        }
    }
}

/// Sparse weights stay single floats, with a cast before they meet others.
#[test]
fn sparse_weights_are_cast_where_they_are_used() {
    let places: Vec<u8> = [5i64, 40].iter().flat_map(|n| n.to_le_bytes()).collect();
    let values = tensor("w", FLOAT, &[2], &floats(2));
    let sparse = Fields::new()
        .bytes(1, values)
        .bytes(2, tensor("", INT64, &[2], &places));
    let graph = [
        (1, node("MatMul", &["x", "w"], "m")),
        (1, node("Add", &["m", "b"], "y")),
        (5, tensor("b", FLOAT, &[16], &floats(16))),
        (15, sparse.each_int(3, &[32, 16])),
        (11, value("x", FLOAT, &[2, 32])),
        (12, value("y", FLOAT, &[2, 16])),
    ];
    let (_, wrong) = quantized(&model(8, 17, &graph), &OnnxOptions::new(OnnxType::F16));
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Before version 4 of the format all initializers are inputs, which new ones are not.
#[test]
fn new_initializers_need_a_format_that_has_them() {
    let weight = tensor("w", FLOAT, &[32, 16], &floats(32 * 16));
    for (kind, format, told) in [
        (OnnxType::Int4, 3, true),
        (OnnxType::Int8, 3, true),
        (OnnxType::Int8, 4, false),
    ] {
        let bytes = product(FLOAT, format, 11, weight.clone(), &[32, 16]);
        let (done, wrong) = quantized(&bytes, &OnnxOptions::new(kind));
        assert!(wrong.is_empty(), "{wrong:?}");
        let said = done
            .report
            .changed
            .iter()
            .any(|n| n.what == "onnx.ir_version");
        assert_eq!(said, told, "{kind:?} {format}");
    }
}

/// ONNX Runtime refuses scales of channels for a stack of matrices.
#[test]
fn stacks_of_matrices_have_one_scale() {
    let options = OnnxOptions {
        per_channel: true,
        ..OnnxOptions::new(OnnxType::Int8)
    };
    for (dims, scales) in [(vec![32, 16], 16), (vec![3, 32, 16], 1)] {
        let n: i64 = dims.iter().product();
        let weight = tensor("w", FLOAT, &dims, &floats(n as usize));
        let bytes = product(FLOAT, 8, 17, weight, &dims);
        let (done, wrong) = quantized(&bytes, &options);
        assert!(wrong.is_empty(), "{wrong:?}");
        // Four bytes of a scale and one of a zero point each.
        assert_eq!(done.tensors[0].after, n as u64 + scales * 5);
        let told = done.report.changed.iter().any(|n| n.what == "w");
        assert_eq!(told, scales == 1);
    }
}

/// A graph may give what it got, which no pair of operators can then take the name of.
#[test]
fn an_input_that_is_an_output_stays_as_it_came() {
    let weight = tensor("w", FLOAT, &[32, 16], &floats(32 * 16));
    let graph = [
        (1, node("MatMul", &["x", "w"], "y")),
        (5, weight),
        (11, value("x", FLOAT, &[2, 32])),
        (12, value("x", FLOAT, &[2, 32])),
        (12, value("y", FLOAT, &[2, 16])),
    ];
    let names = ["x", "y"].map(|n| (n.to_owned(), (-1.0, 1.0)));
    let options = OnnxOptions {
        ranges: Some(names.into()),
        ..OnnxOptions::new(OnnxType::Int8)
    };
    let (done, wrong) = quantized(&model(9, 17, &graph), &options);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(done.tensors[0].name, "w");
}
