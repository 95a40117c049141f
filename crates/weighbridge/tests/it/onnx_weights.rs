//! Weights of ONNX models that move between the model file and files beside it, and that nothing is
//! written where a model only wishes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::edit::{Change, EditOptions, edit};
use weighbridge::format::onnx::encode::{Fields, head};
use weighbridge::format::onnx::splice::{Edits, Piece};
use weighbridge::format::onnx::write::{External, Options, Original, Weights, plan};
use weighbridge::split::{MergeOptions, SplitOptions, merge, split};
use weighbridge_core::model::{DType, Storage, StorageData, Tensor, TensorSource, View};
use weighbridge_core::source::{SliceSource, open_file};

use crate::onnx_write::{change, floats, folder, move_to, same, set};

#[test]
fn weights_move_out_and_in() {
    let (dir, path) = folder();
    let whole = dir.path().join("whole.onnx");
    fs::copy(&path, &whole).unwrap();
    let report = move_to(&path, Weights::External(External::default()), None).unwrap();
    let data = dir.path().join("m.onnx.data");
    assert_eq!(report.beside, std::slice::from_ref(&data));
    same(&whole, &path);
    // Two weights and what a Constant gives; texts and shapes stay.
    let bytes = fs::read(&data).unwrap();
    assert_eq!(bytes.len(), 1216 + 1600 + 1200);
    assert!(bytes[..1200] == floats(300) && bytes[1216..2816] == floats(400));
    let model = fs::read(&path).unwrap();
    assert!(model.windows(200).any(|w| w == [b't'; 200]));
    assert!(!model.windows(400).any(|w| w == &floats(300)[800..]));
    // Metadata alone leaves the data as it is.
    let before = fs::metadata(&data).unwrap().modified().unwrap();
    let report = change(&path, &[set("note=longer")]).unwrap();
    assert!(report.beside.is_empty(), "{report:?}");
    assert_eq!(fs::metadata(&data).unwrap().modified().unwrap(), before);
    change(&path, &[Change::Unset("note".into())]).unwrap();
    let report = move_to(&path, Weights::Inline, None).unwrap();
    let rules: Vec<_> = report.warnings.iter().map(|w| w.rule).collect();
    assert!(rules.contains(&"edit.unused-file"), "{rules:?}");
    fs::remove_file(&data).unwrap();
    same(&whole, &path);
}

#[test]
fn more_weights_move_out_beside_those_that_are() {
    let (dir, path) = folder();
    let whole = dir.path().join("whole.onnx");
    fs::copy(&path, &whole).unwrap();
    let external = |threshold| {
        Weights::External(External {
            threshold,
            ..External::default()
        })
    };
    move_to(&path, external(1500), None).unwrap();
    let first = fs::read(dir.path().join("m.onnx.data")).unwrap();
    assert_eq!(first.len(), 1600);
    let report = move_to(&path, external(0), None).unwrap();
    let second = dir.path().join("m.onnx.1.data");
    assert_eq!(report.beside, [second]);
    assert!(fs::read(dir.path().join("m.onnx.data")).unwrap() == first);
    same(&whole, &path);
    // In another folder all of it becomes one file.
    let there = dir.path().join("there");
    fs::create_dir(&there).unwrap();
    let out = there.join("m.onnx");
    let report = move_to(&path, external(0), Some(&out)).unwrap();
    assert_eq!(report.beside, [there.join("m.onnx.data")]);
    same(&whole, &out);
}

#[test]
fn a_split_model_merges_to_what_it_was() {
    let (dir, path) = folder();
    let options = SplitOptions {
        max_tensors: Some(1),
        sync: false,
        ..SplitOptions::default()
    };
    let report = split(&path, &dir.path().join("parts"), &options, &mut |_, _| {}).unwrap();
    let name = |n| dir.path().join(format!("parts.onnx-{n:05}-of-00003.data"));
    let parts = dir.path().join("parts.onnx");
    assert_eq!(report.output, [parts.clone(), name(1), name(2), name(3)]);
    let sizes = [1, 2, 3].map(|n| fs::metadata(name(n)).unwrap().len());
    assert_eq!(sizes, [1200, 1600, 1200]);
    same(&path, &parts);
    let one = dir.path().join("one.onnx");
    let options = MergeOptions {
        sync: false,
        ..MergeOptions::default()
    };
    merge(&parts, &one, &options, &mut |_, _| {}).unwrap();
    for n in 1..=3 {
        fs::remove_file(name(n)).unwrap();
    }
    same(&path, &one);
    let e = merge(&one, &parts, &options, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "merge.not-split");
    let e = merge(&parts, &one, &options, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "onnx.external-missing");
}

#[test]
fn tensors_that_share_data_share_it_again_and_large_ones_are_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let tensor = |name: &str, offset: i64, n: i64| {
        Fields::new()
            .int(1, n)
            .int(2, 2)
            .bytes(8, name)
            .entry(13, "location", "./old.bin")
            .entry(13, "offset", &offset.to_string())
            .int(14, 1)
    };
    let large = 1 << 20;
    let graph = Fields::new()
        .bytes(2, "g")
        .bytes(5, tensor("a", 5, 2000))
        .bytes(5, tensor("b", 5, 2000))
        .bytes(5, tensor("large", 1, large));
    fs::write(&path, Fields::new().int(1, 8).bytes(7, graph).0).unwrap();
    let old: Vec<u8> = (0..=large).map(|i| (i % 251) as u8).collect();
    fs::write(dir.path().join("old.bin"), &old).unwrap();
    let options = SplitOptions {
        sync: false,
        ..SplitOptions::default()
    };
    split(&path, &dir.path().join("new"), &options, &mut |_, _| {}).unwrap();
    let new = fs::read(dir.path().join("new.onnx.data")).unwrap();
    assert_eq!(new.len(), (64 << 10) + (1 << 20));
    assert!(new[..2000] == old[5..2005] && new[2000..64 << 10].iter().all(|b| *b == 0));
    assert!(new[64 << 10..] == old[1..]);
    same(&path, &dir.path().join("new.onnx"));
}

#[test]
fn no_file_of_the_model_is_written_over() {
    let (dir, path) = folder();
    let out = dir.path().join("out.onnx");
    let named = |file: &str| {
        Weights::External(External {
            file: Some(file.into()),
            ..External::default()
        })
    };
    move_to(&path, named("w.bin"), Some(&out)).unwrap();
    let weights = dir.path().join("w.bin");
    let held = |p: &Path| fs::read(p).unwrap();
    let (model, data) = (held(&out), held(&weights));
    let refused = |e: weighbridge::Error, rule: &str| {
        assert_eq!(e.rule(), rule, "{e}");
        assert!(held(&out) == model && held(&weights) == data, "{rule}");
    };
    let gathered = |file: &str, output: &Path| {
        let weights = Weights::External(External {
            file: Some(file.into()),
            gather: true,
            ..External::default()
        });
        move_to(&out, weights, Some(output)).unwrap_err()
    };
    refused(
        gathered("w.bin", &dir.path().join("n.onnx")),
        "onnx.overwrites-part",
    );
    refused(
        gathered("out.onnx", &dir.path().join("n.onnx")),
        "onnx.overwrites-part",
    );
    refused(
        gathered("N.onnx", &dir.path().join("n.onnx")),
        "onnx.overwrites-part",
    );
    let e = move_to(&out, Weights::Inline, Some(&weights)).unwrap_err();
    refused(e, "onnx.overwrites-part");
    let options = MergeOptions::default();
    let e = merge(&out, &weights, &options, &mut |_, _| {}).unwrap_err();
    refused(e, "split.overwrites-input");
    let e = merge(&out, &out, &options, &mut |_, _| {}).unwrap_err();
    refused(e, "split.overwrites-input");
    let options = SplitOptions::default();
    let e = split(&out, &out, &options, &mut |_, _| {}).unwrap_err();
    refused(e, "split.overwrites-input");
    for name in [
        "../w.bin",
        "/tmp/w.bin",
        "a/b.bin",
        "",
        ".",
        "..",
        "a\\b",
        "nul",
    ] {
        let e = move_to(&path, named(name), None).unwrap_err();
        assert_eq!(e.rule(), "onnx.external-name", "{name}");
    }
}

/// A model whose one weight of 2000 bytes lies at `location`.
fn beside(dir: &Path, location: &str) -> PathBuf {
    let tensor = Fields::new()
        .int(1, 2000)
        .int(2, 2)
        .bytes(8, "w")
        .entry(13, "location", location)
        .int(14, 1);
    let graph = Fields::new().bytes(2, "g").bytes(5, tensor);
    let path = dir.join("m.onnx");
    fs::write(&path, Fields::new().int(1, 8).bytes(7, graph).0).unwrap();
    path
}

#[test]
fn a_copy_in_another_folder_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("sub/deep")).unwrap();
    let path = beside(&from, "sub/deep/w.bin");
    fs::write(from.join("sub/deep/w.bin"), [7; 2000]).unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let out = to.join("n.onnx");
    let copy = || move_to(&path, Weights::Keep, Some(&out));
    let report = copy().unwrap();
    assert_eq!(report.beside, [to.join("sub/deep/w.bin")]);
    same(&path, &out);
    // Again, with all of it there already.
    copy().unwrap();
    same(&path, &out);
    // Another content under that name is not for a model to replace.
    for other in [[8; 2000].as_slice(), &[7; 1999]] {
        fs::write(to.join("sub/deep/w.bin"), other).unwrap();
        assert_eq!(copy().unwrap_err().rule(), "onnx.external-target");
        assert_eq!(fs::read(to.join("sub/deep/w.bin")).unwrap(), other);
    }
    // Data that is not there cannot go along, but does not hinder an edit in place.
    fs::remove_file(from.join("sub/deep/w.bin")).unwrap();
    fs::remove_file(to.join("sub/deep/w.bin")).unwrap();
    assert_eq!(copy().unwrap_err().rule(), "onnx.external-missing");
    change(&path, &[set("note=here")]).unwrap();
}

/// CVE-2025-51480 and its kin: whatever a model calls its data, and whatever lies in the way.
#[test]
fn data_is_never_written_outside_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a/from"), dir.path().join("a/to"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&to).unwrap();
    let victim = dir.path().join("a/victim.bin");
    let out = to.join("n.onnx");
    let absolute = victim.to_str().unwrap().to_owned();
    for location in [
        "../victim.bin",
        absolute.as_str(),
        "x/../../victim.bin",
        "..\\victim.bin",
    ] {
        fs::write(&victim, [7; 2000]).unwrap();
        let path = beside(&from, location);
        for weights in [Weights::Keep, Weights::External(External::default())] {
            assert!(move_to(&path, weights, Some(&out)).is_err(), "{location}");
        }
        let split = split(
            &path,
            &to.join("n"),
            &SplitOptions::default(),
            &mut |_, _| {},
        );
        assert!(split.is_err(), "{location}");
        assert_eq!(fs::read(&victim).unwrap(), [7; 2000]);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "{location}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        fs::write(&victim, b"precious").unwrap();
        let path = beside(&from, "sub/w.bin");
        fs::create_dir(from.join("sub")).unwrap();
        fs::write(from.join("sub/w.bin"), [7; 2000]).unwrap();
        let refused = |weights| {
            let e = move_to(&path, weights, Some(&out)).unwrap_err();
            assert_eq!(e.rule(), "onnx.external-target", "{e}");
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
        };
        // The folder on the way is a link out.
        symlink("..", to.join("sub")).unwrap();
        refused(Weights::Keep);
        fs::remove_file(to.join("sub")).unwrap();
        // The file itself is one.
        fs::create_dir(to.join("sub")).unwrap();
        symlink("../../victim.bin", to.join("sub/w.bin")).unwrap();
        refused(Weights::Keep);
        // So is the file that all weights would go into.
        symlink("../victim.bin", to.join("n.onnx.data")).unwrap();
        refused(Weights::External(External::default()));
    }
}

/// A model of one file with a tensor of 2 GiB and more, which takes no room on the disk.
fn huge(path: &Path) -> bool {
    let len = 2_300_000_000u64;
    let head = |inner: u64, number: u32| {
        let mut out = Vec::new();
        head(&mut out, number, inner);
        out
    };
    let mut tensor = Fields::new().int(1, len as i64).int(2, 2).bytes(8, "w").0;
    tensor.extend(head(len, 9));
    let tensor_len = tensor.len() as u64 + len;
    let mut graph = Fields::new().bytes(2, "g").0;
    graph.extend(head(tensor_len, 5));
    let graph_len = graph.len() as u64 + tensor_len;
    let mut file = Fields::new().int(1, 8).0;
    file.extend(head(graph_len, 7));
    file.extend(graph);
    file.extend(tensor);
    fs::write(path, &file).unwrap();
    let open = fs::OpenOptions::new().write(true).open(path).unwrap();
    open.set_len(file.len() as u64 + len).is_ok()
}

#[test]
fn no_file_gets_longer_than_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    if !huge(&path) {
        println!("skipped: no sparse files here");
        return;
    }
    let planned = |path: &Path, weights, over_2gib| {
        let options = EditOptions {
            weights,
            over_2gib,
            dry_run: true,
            ..EditOptions::default()
        };
        edit(path, &[set("note=x")], &options, &mut |_, _| {})
    };
    let report = planned(&path, Weights::Keep, false).unwrap();
    assert_eq!(report.beside, [dir.path().join("m.onnx.data")]);
    let last = report.changed.last().unwrap();
    assert!(last.why.contains("2 GiB"), "{:?}", report.changed);
    let report = planned(&path, Weights::Keep, true).unwrap();
    assert!(report.beside.is_empty(), "{report:?}");
    // The same weights beside the model.
    let beside = dir.path().join("beside");
    fs::create_dir(&beside).unwrap();
    let tensor = Fields::new().int(1, 2_300_000_000).int(2, 2).bytes(8, "w");
    let tensor = tensor.entry(13, "location", "w.bin").int(14, 1);
    let graph = Fields::new().bytes(2, "g").bytes(5, tensor);
    let model = beside.join("m.onnx");
    fs::write(&model, Fields::new().int(1, 8).bytes(7, graph).0).unwrap();
    fs::rename(&path, beside.join("w.bin")).unwrap();
    let e = planned(&model, Weights::Inline, false).unwrap_err();
    assert_eq!(e.rule(), "onnx.over-2gib");
    let report = planned(&model, Weights::Inline, true).unwrap();
    assert!(report.bytes > 2_300_000_000);
    let options = MergeOptions {
        dry_run: true,
        ..MergeOptions::default()
    };
    let out = dir.path().join("one.onnx");
    let e = merge(&model, &out, &options, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "onnx.over-2gib");
}

/// Every model of the corpus: a key set and removed leaves the same bytes, and weights that went
/// out and came back are the same weights.
#[test]
fn models_of_the_corpus_come_back() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("m.onnx"), dir.path().join("out"));
    let (parts, one) = (dir.path().join("out.onnx"), dir.path().join("one.onnx"));
    let (mut count, mut moved) = (0, 0);
    for folder in ["onnx/conformance", "onnx/clean_control", "onnx/backdoor"] {
        let files = fs::read_dir(Path::new(&corpus).join(folder)).unwrap();
        let files = files.map(|f| f.unwrap().path());
        for path in files.filter(|p| p.extension().is_some_and(|e| e == "onnx")) {
            let bytes = fs::read(&path).unwrap();
            fs::write(&model, &bytes).unwrap();
            change(&model, &[set("weighbridge.test=1")]).unwrap();
            assert!(fs::read(&model).unwrap() != bytes, "{path:?}");
            change(&model, &[Change::Unset("weighbridge.test".into())]).unwrap();
            assert!(fs::read(&model).unwrap() == bytes, "{path:?}");
            let options = SplitOptions {
                threshold: Some(0),
                sync: false,
                ..SplitOptions::default()
            };
            let report = split(&model, &out, &options, &mut |_, _| {}).unwrap();
            same(&model, &parts);
            count += 1;
            if report.output.len() == 1 {
                continue;
            }
            moved += 1;
            let options = MergeOptions {
                sync: false,
                ..MergeOptions::default()
            };
            merge(&parts, &one, &options, &mut |_, _| {}).unwrap();
            for file in &report.output {
                fs::remove_file(file).unwrap();
            }
            same(&model, &one);
        }
    }
    assert!(
        (count, moved) > (500, 100),
        "{count} models, {moved} with weights"
    );
}

/// What onnx itself writes with and without external data (`tests/data/make_onnx_external.py`):
/// ours are the same files, byte for byte.
#[test]
fn both_forms_are_those_of_the_reference() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx_external");
    let read = |p: &Path| fs::read(p).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("external.onnx");
    let external = Weights::External(External::default());
    move_to(&golden.join("inline.onnx"), external, Some(&out)).unwrap();
    for name in ["external.onnx", "external.onnx.data"] {
        assert!(
            read(&dir.path().join(name)) == read(&golden.join(name)),
            "{name}"
        );
    }
    move_to(&out, Weights::Inline, None).unwrap();
    assert!(read(&out) == read(&golden.join("inline.onnx")));
}

fn in_memory(bytes: Vec<u8>) -> Arc<Tensor> {
    let n = bytes.len() as u64;
    let data = StorageData::Raw {
        source: Arc::new(SliceSource::new(bytes, "new")),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new("new", n, false, data).unwrap());
    let view = TensorSource::View(View { storage, offset: 0 });
    Arc::new(Tensor::new("new", DType::U8, &[n], view))
}

/// Other changes bring weights of their own: in a new message, and as new bytes of an old one.
#[test]
fn weights_that_come_with_changes_go_where_the_others_go() {
    let (dir, path) = folder();
    let source = open_file(&path, weighbridge_core::source::Backend::Pread).unwrap();
    let original = Original::open(source, &OpenOptions::default()).unwrap();
    let graph = original.raw.graph.as_ref().unwrap();
    let of = |name: &str| {
        graph
            .initializers
            .iter()
            .find(|t| t.name() == name)
            .unwrap()
    };
    let (new, other) = (vec![5; 1500], vec![6; 1300]);
    let told = |n: i64| Fields::new().int(1, n).int(2, 2);
    let mut edits = Edits::new();
    let pieces = vec![
        Piece::Fields(told(1500).bytes(8, "w")),
        Piece::Tensor(9, in_memory(new.clone())),
    ];
    let w = of("w").span;
    edits.replace(graph.spans[0], w, vec![Piece::Message(5, pieces)]);
    let typed = of("typed").span;
    edits.set(typed, 1, vec![Piece::Fields(Fields::new().int(1, 1300))]);
    edits.set(typed, 2, vec![Piece::Fields(Fields::new().int(2, 2))]);
    edits.set(typed, 4, Vec::new());
    edits.set(typed, 9, vec![Piece::Tensor(9, in_memory(other.clone()))]);
    for weights in [Weights::Keep, Weights::External(External::default())] {
        let beside = weights != Weights::Keep;
        let out = dir.path().join("out.onnx");
        let options = Options::new(weights, false);
        let plan = plan(&original, edits.clone(), &out, &options).unwrap();
        plan.write(false, &mut |_, _| {}).unwrap();
        let model = weighbridge::open(&out).unwrap();
        for (name, bytes) in [("w", &new), ("typed", &other)] {
            let t = model.tensors.iter().find(|t| t.name == name).unwrap();
            assert!(t.bytes().unwrap() == *bytes, "{name}");
        }
        let long = |p: &Path| fs::read(p).unwrap().windows(1300).any(|w| w == other);
        assert_eq!(long(&out), !beside);
        assert_eq!(model.parts.len(), 1 + usize::from(beside));
    }
}
