//! ONNX models edited: what is asked for changes, and every other byte stays.

use std::fs;
use std::path::{Path, PathBuf};

use weighbridge::diff::{DiffOptions, diff};
use weighbridge::edit::{Change, EditOptions, Method, Report, edit};
use weighbridge::format::onnx::encode::Fields;
use weighbridge::format::onnx::write::Weights;
use weighbridge_core::model::{AttributeValue, Graph, Model};

/// The names of a model's values, and what else it can have.
pub(crate) struct Sample<'s> {
    x: &'s str,
    w: &'s str,
    y: &'s str,
    node: &'s str,
    docs: bool,
    spare: bool,
}

pub(crate) const PLAIN: Sample<'static> = Sample {
    x: "x",
    w: "w",
    y: "y",
    node: "pick",
    docs: true,
    spare: true,
};

pub(crate) fn floats(n: u32) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn value(name: &str) -> Fields {
    let shape = Fields::new().bytes(1, Fields::new().int(1, 4));
    let tensor = Fields::new().int(1, 1).bytes(2, shape);
    let kind = Fields::new().bytes(1, tensor);
    Fields::new().bytes(1, name).bytes(2, kind)
}

impl Sample<'_> {
    fn doc(&self, message: Fields, number: u32) -> Fields {
        match self.docs {
            true => message.bytes(number, "what it is for"),
            false => message,
        }
    }

    fn branch(&self, operator: &str, out: &str) -> Fields {
        let node = Fields::new().bytes(1, self.x).bytes(1, self.w);
        let node = self.doc(node.bytes(2, out).bytes(4, operator), 6);
        Fields::new()
            .bytes(1, node)
            .bytes(2, operator)
            .bytes(
                5,
                Fields::new().int(2, 1).bytes(8, "inner").bytes(9, [0; 4]),
            )
            .bytes(12, value(out))
            .int(77, 5)
    }

    /// An `If` whose graphs see the values around them, with every kind of weight.
    fn graph(&self) -> Fields {
        let attribute =
            |name: &str, graph: Fields| Fields::new().bytes(1, name).bytes(6, graph).int(20, 5);
        let pick = Fields::new()
            .bytes(1, "c")
            .bytes(2, self.y)
            .bytes(3, self.node)
            .bytes(4, "If")
            .bytes(5, attribute("then_branch", self.branch("Mul", "t")))
            .bytes(5, attribute("else_branch", self.branch("Add", "e")));
        let table = Fields::new().int(1, 300).int(2, 1).bytes(9, floats(300));
        let constant = Fields::new().bytes(1, "value").bytes(5, table).int(20, 4);
        let constant = Fields::new()
            .bytes(2, "k")
            .bytes(4, "Constant")
            .bytes(5, constant);
        let weight = Fields::new().ints(1, &[300]).int(2, 1).bytes(8, self.w);
        let weight = self.doc(weight, 12).bytes(9, floats(300)).int(99, 3);
        let typed = Fields::new().int(1, 400).int(2, 1).bytes(4, floats(400));
        let shape = Fields::new().int(1, 2).int(2, 7).bytes(8, "shape");
        let text = Fields::new().int(1, 1).int(2, 8).bytes(6, "t".repeat(2000));
        let role = Fields::new().bytes(1, "SCALE_TENSOR").bytes(2, self.w);
        let quantized = Fields::new().bytes(1, "typed").bytes(2, role);
        let mut graph = Fields::new()
            .bytes(1, self.doc(pick, 6))
            .bytes(1, constant)
            .bytes(2, "g")
            .bytes(5, weight)
            .bytes(5, typed.bytes(8, "typed"))
            .bytes(5, shape.bytes(9, [1; 16]))
            .bytes(5, text.bytes(8, "text"));
        if self.spare {
            let spare = Fields::new().int(2, 1).bytes(8, "spare").bytes(9, [0; 4]);
            graph = graph.bytes(5, spare);
        }
        self.doc(graph, 10)
            .bytes(11, self.doc(value(self.x), 3))
            .bytes(11, value("c"))
            .bytes(12, value(self.y))
            .bytes(13, value(self.w))
            .bytes(14, quantized)
            .bytes(98, "who knows")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let model = Fields::new()
            .int(1, 8)
            .bytes(2, "sample")
            .bytes(7, self.graph())
            .bytes(8, Fields::new().int(2, 17))
            .entry(14, "author", "one")
            .bytes(97, "nobody knows")
            .entry(14, "license", "none");
        self.doc(model, 6).0
    }
}

pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    fs::write(&path, PLAIN.bytes()).unwrap();
    (dir, path)
}

pub(crate) fn change(path: &Path, changes: &[Change]) -> weighbridge::Result<Report> {
    let options = EditOptions {
        sync: false,
        ..EditOptions::default()
    };
    edit(path, changes, &options, &mut |_, _| {})
}

pub(crate) fn move_to(
    path: &Path,
    weights: Weights,
    output: Option<&Path>,
) -> weighbridge::Result<Report> {
    let options = EditOptions {
        weights,
        output: output.map(Path::to_owned),
        sync: false,
        ..EditOptions::default()
    };
    edit(path, &[], &options, &mut |_, _| {})
}

pub(crate) fn set(s: &str) -> Change {
    Change::parse_set(s).unwrap()
}

fn rename(a: &str, b: &str) -> Change {
    Change::Rename(a.into(), b.into())
}

fn rule(path: &Path, changes: &[Change]) -> &'static str {
    let before = fs::read(path).unwrap();
    let e = change(path, changes).unwrap_err();
    assert!(fs::read(path).unwrap() == before, "refused, and changed");
    e.rule()
}

pub(crate) fn same(a: &Path, b: &Path) {
    let open = |p: &Path| weighbridge::open(p).unwrap();
    let options = DiffOptions {
        metadata: true,
        ..DiffOptions::default()
    };
    let (old, new) = (open(a), open(b));
    let report = diff(&old, &new, &options).unwrap();
    assert!(report.identical(), "{a:?} {b:?}: {report:?}");
    // What nodes hold is not listed among the tensors.
    let of = |m: &Model| {
        let mut all = Vec::new();
        held(m.graph.as_ref().unwrap(), &mut all);
        all
    };
    assert!(of(&old) == of(&new), "{a:?} {b:?}");
}

/// Operators and the tensors that they hold, those of graphs in them too.
fn held(graph: &Graph, all: &mut Vec<(String, Vec<u8>)>) {
    for node in &graph.nodes {
        all.push((node.operator.clone(), Vec::new()));
        for a in &node.attributes {
            match &a.value {
                AttributeValue::Tensor(t) => {
                    all.push((a.name.clone(), t.bytes().unwrap().to_vec()));
                }
                AttributeValue::Graph(g) => held(g, all),
                _ => {}
            }
        }
    }
}

#[test]
fn keys_are_set_and_removed_and_the_rest_stays() {
    let (_dir, path) = folder();
    let report = change(&path, &[set("note=a new one"), set("author=somebody else")]).unwrap();
    assert_eq!(report.method, Method::Rewritten);
    let model = Fields(PLAIN.bytes());
    let one = Fields::new().entry(14, "author", "one").0;
    let at = model.0.windows(one.len()).position(|w| w == one).unwrap();
    let license = Fields::new().entry(14, "license", "none").0;
    let end = model.0.windows(license.len()).position(|w| w == license);
    let end = end.unwrap() + license.len();
    let mut wanted = model.0[..at].to_vec();
    wanted.extend(Fields::new().entry(14, "author", "somebody else").0);
    wanted.extend(&model.0[at + one.len()..end]);
    wanted.extend(Fields::new().entry(14, "note", "a new one").0);
    wanted.extend(&model.0[end..]);
    assert!(fs::read(&path).unwrap() == wanted);
    change(&path, &[Change::Unset("note".into()), set("author=one")]).unwrap();
    assert!(fs::read(&path).unwrap() == model.0);
}

#[test]
fn fields_of_the_format_have_keys_too() {
    let (_dir, path) = folder();
    let fields = [
        ("onnx.producer_name", "Sample"),
        ("onnx.producer_version", "2.0"),
        ("onnx.domain", "org.example"),
        ("onnx.model_version", "7"),
        ("onnx.doc_string", "All of it"),
        ("onnx.graph.name", "net"),
        ("onnx.graph.doc_string", "The net"),
        ("onnx.graph.metadata.seen", "yes"),
        ("onnx.infer", "a key like any other"),
    ];
    let changes: Vec<_> = fields
        .iter()
        .map(|(k, v)| set(&format!("{k}={v}")))
        .collect();
    change(&path, &changes).unwrap();
    let model = weighbridge::open(&path).unwrap();
    for (key, value) in fields {
        let shown = match key.strip_prefix("onnx.graph.metadata.") {
            Some(_) => "onnx.graph.metadata",
            None => key,
        };
        let found = model.metadata.iter().find(|(k, _)| k == shown);
        let found = format!("{:?}", found.unwrap_or_else(|| panic!("{key}")).1);
        assert!(found.contains(value), "{key}: {found}");
    }
    let back = fields.iter().map(|(k, _)| Change::Unset((*k).into()));
    let back: Vec<_> = back
        .filter(|c| *c != Change::Unset("onnx.graph.name".into()))
        .collect();
    change(&path, &back).unwrap();
    let again = [set("onnx.graph.name=g"), set("onnx.producer_name=sample")];
    change(&path, &again).unwrap();
    let open = weighbridge::open(&path).unwrap();
    assert!(!open.metadata.iter().any(|(k, _)| k == "onnx.doc_string"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_dir, path) = folder();
    for (changes, wanted) in [
        (vec![set("onnx.ir_version=9")], "edit.reserved-key"),
        (vec![set("onnx.opset_import=9")], "edit.reserved-key"),
        (
            vec![set("onnx.opset_import.ai.onnx=9")],
            "edit.reserved-key",
        ),
        (vec![set("onnx.graph.name=")], "edit.reserved-key"),
        (vec![set("onnx.model_version=seven")], "edit.value"),
        (vec![set("author:u32=7")], "edit.type"),
        (vec![Change::Unset("nothing".into())], "edit.no-such-key"),
        (
            vec![Change::RenameKey("author".into(), "license".into())],
            "edit.key-taken",
        ),
        (vec![rename("nothing", "b")], "edit.no-such-value"),
        (vec![rename("pick", "b")], "edit.no-such-value"),
        (vec![rename("x", "w")], "edit.name-taken"),
        (vec![rename("x", "t")], "edit.name-taken"),
        (vec![rename("x", "inner")], "edit.name-taken"),
        (vec![rename("x", "a"), rename("w", "a")], "edit.name-taken"),
        (vec![rename("x", "a"), rename("x", "b")], "edit.conflict"),
        (vec![rename("x", "")], "edit.name"),
        (vec![Change::Remove("w".into())], "edit.in-use"),
        (vec![Change::Remove("x".into())], "edit.in-use"),
        (vec![Change::Remove("y".into())], "edit.not-removable"),
        (vec![Change::Remove("inner".into())], "edit.ambiguous"),
        (
            vec![Change::RenameNode("nothing".into(), "b".into())],
            "edit.no-such-node",
        ),
    ] {
        assert_eq!(rule(&path, &changes), wanted, "{changes:?}");
    }
    let e = change(&path, &[Change::Remove("w".into())]).unwrap_err();
    for user in ["Mul", "Add", "the quantization of typed"] {
        assert!(e.message().contains(user), "{e}");
    }
}

#[test]
fn a_name_changes_everywhere_it_is_used() {
    let (_dir, path) = folder();
    let changes = [
        rename("x", "image"),
        rename("w", "weights.of.it"),
        rename("y", "w"),
        Change::RenameNode("pick".into(), "branch".into()),
        Change::Remove("spare".into()),
    ];
    change(&path, &changes).unwrap();
    let wanted = Sample {
        x: "image",
        w: "weights.of.it",
        y: "w",
        node: "branch",
        spare: false,
        ..PLAIN
    };
    assert!(fs::read(&path).unwrap() == wanted.bytes());
    // Two that trade names.
    change(&path, &[rename("w", "image"), rename("image", "w")]).unwrap();
    let wanted = Sample {
        x: "w",
        y: "image",
        ..wanted
    };
    assert!(fs::read(&path).unwrap() == wanted.bytes());
}

#[test]
fn a_graph_that_makes_the_name_itself_keeps_it() {
    let (_dir, path) = folder();
    // Both graphs have a weight `inner`: it is renamed in both, and nothing else is.
    let report = change(&path, &[rename("inner", "small")]).unwrap();
    assert_eq!(report.changed.len(), 1);
    let text = String::from_utf8_lossy(&PLAIN.bytes()).replace("inner", "small");
    assert_eq!(String::from_utf8_lossy(&fs::read(&path).unwrap()), text);
}

#[test]
fn documentation_is_taken_out() {
    let (_dir, path) = folder();
    change(&path, &[Change::StripDocs]).unwrap();
    let bare = Sample {
        docs: false,
        ..PLAIN
    };
    assert!(fs::read(&path).unwrap() == bare.bytes());
    let report = change(&path, &[Change::StripDocs]).unwrap();
    assert_eq!(report.method, Method::Unchanged);
    fs::write(&path, PLAIN.bytes()).unwrap();
    let kept = [Change::StripDocs, set("onnx.doc_string=kept")];
    change(&path, &kept).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), bare.bytes().len() + 6);
}

#[test]
fn what_keeps_its_length_is_written_in_place() {
    let (_dir, path) = folder();
    let report = change(&path, &[set("author=two")]).unwrap();
    assert_eq!((report.method, report.written), (Method::InPlace, 3));
    let now = fs::read(&path).unwrap();
    assert_eq!(now.len(), PLAIN.bytes().len());
    let differ = now.iter().zip(PLAIN.bytes()).filter(|(a, b)| **a != *b);
    assert_eq!(differ.count(), 3);
    let report = change(&path, &[set("author=two")]).unwrap();
    assert_eq!((report.method, report.written), (Method::Unchanged, 0));
    // Two sectors apart: one write would not do.
    let both = [set("onnx.producer_name=SAMPLE"), set("author=one")];
    assert_eq!(change(&path, &both).unwrap().method, Method::Rewritten);
}
