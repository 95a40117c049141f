//! ONNX files quantized: whatever a file holds, the result opens, breaks no rule that the file did
//! not break, keeps what it does not say it changes, and is the same again; or there is none.

use std::collections::HashMap;
use std::path::Path;

use weighbridge::quantize::{OnnxOptions, OnnxType, quantize_onnx};
use weighbridge_core::model::{Model, Tensor};

use crate::exercise;
use crate::onnx_files::{broken, clear, names, open, pick, same, with_file};

/// An ONNX file: quantized in a third of the ways that there are.
pub fn onnx_quantize(data: &[u8]) {
    with_file(data, &|dir| some(dir, pick(data)));
}

fn some(dir: &Path, pick: usize) {
    let path = dir.join("m.onnx");
    let Ok(model) = open(&path) else { return };
    let sound = broken(&path).is_empty();
    for (case, options) in ways(&model).into_iter().skip(pick % 3).step_by(3) {
        clear(dir, &["m.onnx"]);
        run(dir, case, &options, sound);
    }
}

/// Every way to change a graph.
fn ways(model: &Model) -> Vec<(&'static str, OnnxOptions)> {
    let new = |kind| OnnxOptions {
        sync: false,
        threads: 1,
        ..OnnxOptions::new(kind)
    };
    let blocks = |kind, qdq, symmetric| OnnxOptions {
        block_size: Some(16),
        qdq,
        symmetric: Some(symmetric),
        ..new(kind)
    };
    let mut all = vec![
        ("dynamic", new(OnnxType::Int8)),
        ("channels", channels(new(OnnxType::Uint8))),
        ("blocks", blocks(OnnxType::Int4, false, true)),
        ("offsets", blocks(OnnxType::Uint4, false, false)),
        ("pairs", qdq(channels(new(OnnxType::Int8)))),
        ("pairs of blocks", blocks(OnnxType::Int4, true, false)),
        ("half", new(OnnxType::F16)),
        ("upper half", new(OnnxType::Bf16)),
    ];
    if let Some(graph) = &model.graph {
        let made = graph.nodes.iter().flat_map(|n| n.outputs.iter().cloned());
        let given = graph.inputs.iter().map(|v| v.name.clone());
        let ranges: Vec<_> = made.chain(given).map(|n| (n, (-1.5, 2.0))).collect();
        let fixed = |kind| OnnxOptions {
            ranges: Some(ranges.clone()),
            ..new(kind)
        };
        all.push(("ranges", fixed(OnnxType::Int8)));
        all.push(("ranges of channels", channels(fixed(OnnxType::Uint8))));
    }
    all
}

fn channels(options: OnnxOptions) -> OnnxOptions {
    OnnxOptions {
        per_channel: true,
        ..options
    }
}

fn qdq(options: OnnxOptions) -> OnnxOptions {
    OnnxOptions {
        qdq: true,
        ..options
    }
}

fn run(dir: &Path, case: &str, options: &OnnxOptions, sound: bool) {
    let (from, to) = (dir.join("m.onnx"), dir.join("out.onnx"));
    let write = |to: &Path| quantize_onnx(open(&from)?, to, options, &mut |_, _| {});
    let done = match write(&to) {
        Ok(done) => done,
        Err(e) => {
            assert_eq!(names(dir), ["m.onnx"], "{case}: refused ({e}), and written");
            return;
        }
    };
    let new = match open(&to) {
        Ok(new) => new,
        Err(e) => panic!("{case}: the result does not open: {e}"),
    };
    exercise::model(&new);
    if sound {
        let found = broken(&to);
        assert!(found.is_empty(), "{case}: {found:#?}");
    }
    let Ok(old) = open(&from) else { return };
    kept(
        &old,
        &new,
        &done
            .tensors
            .iter()
            .map(|t| t.name.as_str())
            .collect::<Vec<_>>(),
        case,
    );
    let again = dir.join("again.onnx");
    match write(&again) {
        Ok(_) => equal(&to, &again, case),
        Err(e) => panic!("{case}: refused the second time: {e}"),
    }
}

/// What has its name and type still has its values.
fn kept(old: &Model, new: &Model, told: &[&str], case: &str) {
    let of: fn(&Model) -> HashMap<&str, &Tensor> = |m| {
        let graph = m.graph.iter().flat_map(|g| &g.initializers);
        graph.map(|t| (t.name.as_str(), t)).collect()
    };
    let new = of(new);
    for (name, a) in of(old) {
        let now = new.get(name).filter(|b| a.dtype == b.dtype);
        if let Some(b) = now {
            same(a, b, case);
        }
        assert!(
            name.is_empty() || told.contains(&name),
            "{case}: {name} is not told of"
        );
    }
}

/// Two results are the same but for the names of what lies beside them.
fn equal(a: &Path, b: &Path, case: &str) {
    let beside = |p: &Path| {
        let mut name = p.file_name().unwrap_or_default().to_os_string();
        name.push(".data");
        std::fs::read(p.with_file_name(name)).ok()
    };
    let (x, y) = (beside(a), beside(b));
    assert!(x == y, "{case}: other data the second time");
    if x.is_none() {
        let (a, b) = (std::fs::read(a).ok(), std::fs::read(b).ok());
        assert!(a == b, "{case}: another file the second time");
    }
}
