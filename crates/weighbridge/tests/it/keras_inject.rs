//! Weights that go into a given file of Keras, and what of it stays as it was.

use std::path::Path;

use weighbridge::convert::{ConvertOptions, FrameworkLayout, Report};
use weighbridge::{FormatId, Model};
use weighbridge_core::model::{DType, Value};

use super::keras::{data, members, open, pack};
use super::keras_write::{metadata, values, write};

/// The weights of a file, every value another.
fn changed(path: &Path, labels: bool) -> Model {
    let mut model = open(path);
    model.tensors.retain(|t| !t.name.starts_with("optimizer"));
    for t in &mut model.tensors {
        let mut bytes = t.read_vec().unwrap();
        bytes.iter_mut().for_each(|b| *b ^= 1);
        let len = bytes.len() as u64;
        let source = std::sync::Arc::new(weighbridge_core::source::SliceSource::new(bytes, "x"));
        let data = weighbridge_core::model::StorageData::Raw {
            source,
            offset: 0,
            checksum: None,
        };
        let storage = weighbridge_core::model::Storage::new("x", len, false, data).unwrap();
        t.source = weighbridge_core::model::TensorSource::View(weighbridge_core::model::View {
            storage: std::sync::Arc::new(storage),
            offset: 0,
        });
        if let (true, Some(label)) = (labels, t.label().map(str::to_owned)) {
            t.name = label;
            t.extra = None;
        }
    }
    model.format = FormatId::Safetensors;
    model.metadata.clear();
    model
}

fn into(base: &Path) -> ConvertOptions {
    ConvertOptions {
        graph: Some(base.to_owned()),
        ..ConvertOptions::default()
    }
}

#[test]
fn weights_come_into_a_given_file_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    for (file, out) in [
        ("sequential.keras", "o.keras"),
        ("sequential.h5", "o.h5"),
        ("sequential.weights.h5", "o.weights.h5"),
    ] {
        let (base, out) = (data().join(file), dir.path().join(out));
        for labels in [false, true] {
            let new = changed(&base, labels && file != "sequential.weights.h5");
            let stored = values(&changed(&base, false));
            let report = write(new, &out, &into(&base)).unwrap();
            assert_eq!(report.tensors, 5, "{file}");
            assert!(report.changed.is_empty() && report.lost.is_empty());
            let back = open(&out);
            for (name, value) in values(&back) {
                match stored.get(&name) {
                    Some(want) => assert!(*want == value, "{file} {name}"),
                    None => assert!(name.starts_with("optimizer"), "{file} {name}"),
                }
            }
            // Byte for byte but for the values, and in an archive its two checksums.
            let (a, b) = (std::fs::read(&base).unwrap(), std::fs::read(&out).unwrap());
            assert_eq!(a.len(), b.len());
            let differ = a.iter().zip(&b).filter(|(x, y)| x != y).count() as u64;
            let weights: u64 = stored.values().map(|(_, _, v)| v.len() as u64).sum();
            let sums = if file.ends_with(".keras") { 8 } else { 0 };
            assert!(
                (weights..=weights + sums).contains(&differ),
                "{differ} of {weights}"
            );
        }
    }
}

#[test]
fn a_compressed_member_is_written_afresh_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (data().join("functional.keras"), dir.path().join("o.keras"));
    let report = write(changed(&base, true), &out, &into(&base)).unwrap();
    assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
    let (old, new) = (members(&base), members(&out));
    let others = |all: &[(String, Vec<u8>)]| -> Vec<(String, Vec<u8>)> {
        let others = all.iter().filter(|(n, _)| n != "model.weights.h5");
        others.cloned().collect()
    };
    assert_eq!(others(&old), others(&new));
    let stored = values(&changed(&base, false));
    let back = open(&out);
    for (name, value) in values(&back)
        .into_iter()
        .filter(|(n, _)| !n.starts_with("optimizer"))
    {
        assert!(stored[&name] == value, "{name}");
    }
    assert_eq!(back.tensors.len(), open(&base).tensors.len());
    assert_eq!(
        metadata(&back, "layers/conv1d/vars@name"),
        Some(&Value::Str("conv".into()))
    );
}

#[test]
fn leftovers_are_refused_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (data().join("sequential.keras"), dir.path().join("o.keras"));
    let refused = |model: Model, options: &ConvertOptions| {
        let e = write(model, &out, options).unwrap_err();
        assert!(!out.exists());
        e.rule()
    };
    let mut few = changed(&base, true);
    let bias = few
        .tensors
        .iter()
        .position(|t| t.name == "stack/a/bias")
        .unwrap();
    let taken = few.tensors.remove(bias);
    assert_eq!(refused(few.clone(), &into(&base)), "convert.partial");
    let mut more = changed(&base, true);
    let mut odd = taken.clone();
    odd.name = "more".into();
    more.tensors.push(odd);
    assert_eq!(refused(more.clone(), &into(&base)), "convert.partial");
    let mut turned = changed(&base, true);
    turned.tensors[bias].shape = [2, 2].as_slice().into();
    assert_eq!(refused(turned, &into(&base)), "convert.graph-shape");
    let mut other = changed(&base, true);
    other.tensors[bias].dtype = DType::I32;
    assert_eq!(refused(other, &into(&base)), "convert.graph-dtype");
    let none = ConvertOptions::default();
    assert_eq!(refused(few.clone(), &none), "convert.graph");
    assert_eq!(
        refused(few.clone(), &into(&data().join("sequential.h5"))),
        "convert.graph"
    );
    // Asked for, both are listed.
    let partial = ConvertOptions {
        partial: true,
        ..into(&base)
    };
    let report = write(few.clone(), &out, &partial).unwrap();
    assert_eq!(report.changed.len(), 1);
    assert_eq!(report.changed[0].what, "stack/a/bias");
    let report = write(more.clone(), &out, &partial).unwrap();
    assert_eq!(report.lost[0].what, "more");
    // And a map pairs what has another name.
    let mut other = few;
    let mut odd = taken;
    odd.name = "b".into();
    let want = odd.read_vec().unwrap();
    other.tensors.push(odd);
    let mapped = ConvertOptions {
        map: vec![("b".into(), "stack/a/bias".into())],
        ..into(&base)
    };
    write(other, &out, &mapped).unwrap();
    let back = open(&out);
    let bias = back
        .tensors
        .iter()
        .find(|t| t.label() == Some("stack/a/bias"));
    assert!(bias.unwrap().read_vec().unwrap() == want);
}

#[test]
fn a_base_that_is_damaged_is_not_blessed() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("b.keras"), dir.path().join("o.keras"));
    let whole = members(&data().join("sequential.keras"));
    let all: Vec<(&str, Vec<u8>)> = whole.iter().map(|(n, d)| (n.as_str(), d.clone())).collect();
    let mut bytes = pack(&all);
    std::fs::write(&base, &bytes).unwrap();
    let new = changed(&base, true);
    write(new.clone(), &out, &into(&base)).unwrap();
    std::fs::remove_file(&out).unwrap();
    // A value of the optimizer, which stays.
    let rate = open(&base)
        .tensor("optimizer/vars/1")
        .unwrap()
        .read_vec()
        .unwrap();
    let at = bytes.windows(rate.len()).position(|w| w == rate).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&base, &bytes).unwrap();
    let e = write(new, &out, &into(&base)).unwrap_err();
    assert_eq!(e.kind(), weighbridge::ErrorKind::Integrity);
    assert!(!out.exists());
}

#[test]
fn a_layout_is_turned_once_on_the_way_into_a_given_file() {
    let dir = tempfile::tempdir().unwrap();
    let base = data().join("sequential.keras");
    let was = open(&base);
    let torch = dir.path().join("torch.safetensors");
    let options = |layout, graph| ConvertOptions {
        labels: true,
        layout: Some(layout),
        graph,
        ..ConvertOptions::default()
    };
    let there = options(FrameworkLayout::KerasToTorch, None);
    let report = write(was.clone(), &torch, &there).unwrap();
    let turned = |r: &Report| {
        r.changed
            .iter()
            .filter(|n| n.why.starts_with("layout"))
            .count()
    };
    assert!(turned(&report) > 0);
    let out = dir.path().join("back.keras");
    let back = options(FrameworkLayout::TorchToKeras, Some(base));
    let again = write(weighbridge::open(&torch).unwrap(), &out, &back).unwrap();
    assert_eq!(turned(&again), turned(&report));
    assert_eq!(values(&open(&out)), values(&was));
}
