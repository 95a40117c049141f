//! Graphs of very many small nodes, as no exporter writes them: work grows with the file, so that
//! all of these are done in about the time that reading them takes. Where it grew with the square
//! each would take minutes.

use std::path::Path;

use weighbridge::Model;
use weighbridge::format::onnx::encode::Fields;
use weighbridge::quantize::{OnnxOptions, quantize_onnx, with_gguf_blocks};

use crate::onnx_quantize::{kind, tensor, value};

const MANY: usize = 21_000;

/// A graph's fields, in the order of the file.
#[derive(Default)]
struct Graph(Fields);

impl Graph {
    fn node(&mut self, operator: &str, inputs: &[&str], output: &str) {
        self.node_with(operator, inputs, output, Fields::new());
    }

    fn node_with(&mut self, operator: &str, inputs: &[&str], output: &str, more: Fields) {
        let mut node = inputs.iter().fold(Fields::new(), |f, i| f.bytes(1, i));
        node = node.bytes(2, output).bytes(4, operator);
        node.0.extend(more.0);
        self.put(1, node);
    }

    fn put(&mut self, number: u32, field: Fields) {
        let all = std::mem::take(&mut self.0);
        self.0 = all.bytes(number, field);
    }

    fn weight(&mut self, name: &str, dims: &[usize]) {
        let values = vec![0.5; dims.iter().product()];
        self.put(5, tensor(name, dims, &values));
    }

    /// The graph in so many messages, which readers merge.
    fn write(self, path: &Path, parts: usize) {
        let ends = Fields::new().bytes(2, "g").bytes(11, value("x", 1));
        let mut whole = Fields::new().int(1, 8).bytes(7, self.0);
        for _ in 1..parts {
            whole = whole.bytes(7, Fields::new());
        }
        whole = whole.bytes(7, ends.bytes(12, value("y", 1)));
        let opset = Fields::new().bytes(1, "").int(2, 21);
        std::fs::write(path, whole.bytes(8, opset).0).unwrap();
    }
}

/// The result, and how many weights changed.
fn run(graph: Graph, parts: usize, options: &OnnxOptions) -> (Model, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("m.onnx"), dir.path().join("out.onnx"));
    graph.write(&from, parts);
    let model = weighbridge::open(&from).unwrap();
    let done = quantize_onnx(model, &to, options, &mut |_, _| {}).unwrap();
    let changed = done.tensors.iter().filter(|t| t.from != t.to).count();
    (weighbridge::open(&to).unwrap(), changed)
}

fn count(model: &Model, operator: &str) -> usize {
    let nodes = &model.graph.as_ref().unwrap().nodes;
    nodes.iter().filter(|n| n.operator == operator).count()
}

fn ranges(names: impl Iterator<Item = String>) -> OnnxOptions {
    OnnxOptions {
        ranges: Some(names.map(|n| (n, (-1.0, 1.0))).collect()),
        ..kind("int8")
    }
}

/// One weight for all, and a name for the value before and behind each node.
fn chain(operator: &str, weight: &str) -> Graph {
    let mut g = Graph::default();
    for i in 0..MANY {
        let (from, to) = (format!("v{i}"), format!("v{}", i + 1));
        g.node(operator, &[&from, weight], &to);
    }
    g.weight(weight, &[1, 1]);
    g
}

#[test]
fn ranges_of_a_long_chain() {
    let options = ranges((0..=MANY).map(|i| format!("v{i}")));
    let (model, changed) = run(chain("MatMul", "w"), 1, &options);
    assert_eq!(changed, 1);
    assert_eq!(count(&model, "QuantizeLinear"), MANY + 1);
}

#[test]
fn ranges_that_wait_for_the_one_behind() {
    let mut g = Graph::default();
    // All get a mark of their own, and then each that of the next.
    let names: Vec<String> = (0..=MANY).map(|i| format!("v{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    g.node("Concat", &all, "all");
    for pair in names.windows(2) {
        g.node("Reshape", &[&pair[1]], &pair[0]);
    }
    g.node("MatMul", &["all", "w"], "y");
    g.weight("w", &[1, 1]);
    let options = ranges(names.iter().cloned().chain(["all".into(), "y".into()]));
    let (model, _) = run(g, 1, &options);
    assert_eq!(count(&model, "QuantizeLinear"), MANY + 3);
}

#[test]
fn ranges_of_activations_that_go_and_of_biases() {
    let n = MANY / 3;
    let mut g = Graph::default();
    let mut names = vec!["v0".to_owned()];
    for i in 0..n {
        let [from, sum, to] = [format!("v{i}"), format!("s{i}"), format!("v{}", i + 1)];
        let bias = format!("b{i}");
        g.node("Gemm", &[&from, "w", &bias], &sum);
        g.node("Relu", &[&sum], &to);
        g.node("Pad", &[&to, "", ""], &format!("p{i}"));
        g.weight(&bias, &[1]);
        // Before version 4 weights are inputs as well.
        g.put(11, value(&bias, 1));
        names.extend([sum, to, format!("p{i}")]);
    }
    g.weight("w", &[1, 1]);
    let (model, _) = run(g, 1, &ranges(names.into_iter()));
    assert_eq!(count(&model, "Relu"), 0);
    let sum = model.tensors.iter().find(|t| t.name == "b7_quantized");
    assert_eq!(sum.unwrap().dtype, weighbridge::DType::I32);
    assert!(model.tensors.iter().all(|t| t.name != "b7"));
}

/// Every constant read by a product, and by one node that reads all; in a graph of as many parts.
fn table(turned: bool) -> Graph {
    let mut g = Graph::default();
    let mut all = Vec::new();
    for i in 0..MANY / 3 {
        let name = format!("w{i}");
        match turned {
            true => {
                let (way, perm) = (format!("t{i}"), Fields::new().bytes(1, "perm"));
                let perm = perm.ints(8, &[1, 0]).int(20, 7);
                g.node_with("Transpose", &[&name], &way, Fields::new().bytes(5, perm));
                g.node("MatMul", &["x", &way], &format!("y{i}"));
            }
            false => g.node("MatMul", &["x", &name], &format!("y{i}")),
        }
        g.weight(&name, &[1, 1]);
        g.put(11, value(&name, 1));
        all.push(name);
    }
    if !turned {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        g.node("Concat", &all, "y");
    }
    g
}

#[test]
fn many_constants() {
    let options = |blocks: Option<u32>, qdq| OnnxOptions {
        block_size: blocks,
        qdq,
        ..kind("int8")
    };
    for (case, options) in [
        ("dynamic", options(None, false)),
        ("qdq", options(None, true)),
        ("blocks", options(Some(16), false)),
        ("half", kind("f16")),
    ] {
        for turned in [false, true] {
            let dynamic = matches!(case, "dynamic" | "qdq") && turned;
            if dynamic {
                // These take no matrix behind a `Transpose`.
                continue;
            }
            let (_, changed) = run(table(turned), MANY, &options);
            assert_eq!(changed, MANY / 3, "{case} {turned}");
        }
    }
}

#[test]
fn one_name_for_everything_that_is_made() {
    let mut g = Graph::default();
    for _ in 0..MANY {
        g.node("Gemm", &["x", "w", "b"], "y");
    }
    g.weight("w", &[1, 1]);
    g.weight("b", &[1]);
    let (model, _) = run(g, 1, &kind("int8"));
    let nodes = &model.graph.as_ref().unwrap().nodes;
    let last = format!("y_MatMul_{MANY}");
    assert!(nodes.iter().any(|n| n.outputs == [last.as_str()]));
}

#[test]
fn blocks_on_their_way_to_gguf() {
    let mut g = Graph::default();
    for i in 0..MANY / 3 {
        let (q, s) = (format!("w{i}_Q4"), format!("w{i}_scales"));
        let int = |f: Fields, name: &str, n| {
            f.bytes(5, Fields::new().bytes(1, name).int(3, n).int(20, 2))
        };
        let more = int(Fields::new().bytes(7, "com.microsoft"), "N", 1);
        let more = int(int(int(more, "K", 32), "bits", 4), "block_size", 32);
        g.node_with("MatMulNBits", &["x", &q, &s], &format!("y{i}"), more);
        let blob = Fields::new().each_int(1, &[1, 1, 16]).int(2, 2);
        g.put(5, blob.bytes(8, q).bytes(9, [0x37; 16]));
        g.weight(&s, &[1]);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    g.write(&path, 1);
    let mut model = weighbridge::open(&path).unwrap();
    let names = with_gguf_blocks(&mut model).unwrap();
    assert_eq!(names.len(), MANY / 3);
    let left: Vec<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(left, names);
}
