//! Models in several files: choice in folders, shards, distributed checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge::check;
use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::structure::{self, Form};
use weighbridge::{DType, Error, FormatId, Model, OpenOptions, Tensor};
use weighbridge_core::model::{Dict, Storage, StorageData, TensorSource, Value, View};
use weighbridge_core::source::SliceSource;

/// A checkpoint in the making: tensors by number, and a structure that refers to them.
pub struct Saved {
    model: Model,
}

impl Saved {
    pub fn new() -> Self {
        Self {
            model: Model::new(FormatId::PyTorch),
        }
    }

    /// Adds a tensor and gives the reference to it.
    pub fn bytes(&mut self, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Value {
        let name = format!("t{}", self.model.tensors.len());
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, name.as_str())),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(name.as_str(), len, false, data).unwrap());
        let source = TensorSource::View(View { storage, offset: 0 });
        let tensor = Tensor::new(name.as_str(), dtype, shape, source);
        self.model.tensors.push(tensor);
        Value::Tensor(name)
    }

    pub fn f32(&mut self, shape: &[u64], values: &[f32]) -> Value {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(DType::F32, shape, bytes)
    }

    pub fn write(mut self, path: &Path, structure: Value) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.model.structure = Some(structure);
        let options = ConvertOptions {
            target: Some(FormatId::PyTorch),
            sync: false,
            ..ConvertOptions::default()
        };
        convert(self.model, path, &options, &mut |_, _| {}).unwrap();
    }
}

pub fn dict(entries: &[(&str, Value)]) -> Value {
    let pair = |(k, v): &(&str, Value)| (text(k), v.clone());
    Value::Dict(Dict {
        entries: entries.iter().map(pair).collect(),
        ..Dict::default()
    })
}

pub fn text(s: &str) -> Value {
    Value::Str(s.into())
}

pub fn names(m: &Model) -> Vec<&str> {
    m.tensors.iter().map(|t| t.name.as_str()).collect()
}

pub fn floats(m: &Model, name: &str) -> Vec<f32> {
    let t = m
        .tensor(name)
        .unwrap_or_else(|| panic!("no {name} in {:?}", names(m)));
    let bytes = t.read_vec().unwrap();
    match t.dtype {
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        DType::BF16 => {
            let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            bytes.as_chunks().0.iter().map(wide).collect()
        }
        other => panic!("{other}"),
    }
}

pub fn count(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

pub fn open(path: &Path) -> Result<Model, Error> {
    weighbridge::open(path)
}

pub fn rule(path: &Path) -> &'static str {
    match open(path) {
        Ok(m) => panic!("opened: {:?}", names(&m)),
        Err(e) => e.rule(),
    }
}

pub fn warned(m: &Model, rule: &str) -> bool {
    m.warnings.iter().any(|w| w.rule == rule)
}

pub fn violations(path: &Path) -> Vec<&'static str> {
    let report = check::check(path, &OpenOptions::default()).unwrap();
    report.violations.iter().map(|v| v.rule).collect()
}

fn shown(m: &Model) -> String {
    structure::to_json(m.structure.as_ref().unwrap(), Form::Inspect).to_string()
}

/// A state dict with one tensor, in the format that the name's extension says.
fn model_file(path: &Path, tensor: &str, values: &[f32]) {
    let mut s = Saved::new();
    let t = s.f32(&[values.len() as u64], values);
    let pt = path.with_extension("tmp.pt");
    s.write(&pt, dict(&[(tensor, t)]));
    if path.extension().is_some_and(|e| e == "safetensors") {
        let options = ConvertOptions {
            sync: false,
            ..ConvertOptions::default()
        };
        convert(open(&pt).unwrap(), path, &options, &mut |_, _| {}).unwrap();
        std::fs::remove_file(&pt).unwrap();
    } else {
        std::fs::rename(&pt, path).unwrap();
    }
}

fn dir_with(files: &[(&str, &str, &[f32])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, tensor, values) in files {
        model_file(&dir.path().join(file), tensor, values);
    }
    dir
}

#[test]
fn a_folder_gives_its_model_and_says_what_it_passed_over() {
    let dir = dir_with(&[
        ("pytorch_model.bin", "w", &[1.0]),
        ("model.safetensors", "w", &[2.0]),
        ("optimizer.pt", "exp_avg", &[3.0]),
        ("training_args.bin", "x", &[3.0]),
    ]);
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    let m = open(dir.path()).unwrap();
    assert_eq!(
        (m.format, floats(&m, "w")),
        (FormatId::Safetensors, vec![2.0])
    );
    let choice = m
        .warnings
        .iter()
        .find(|w| w.rule == "directory.choice")
        .unwrap();
    assert!(
        choice.message.contains("pytorch_model.bin"),
        "{}",
        choice.message
    );
    assert!(
        choice.message.contains("model.safetensors"),
        "{}",
        choice.message
    );
    let side = m
        .warnings
        .iter()
        .find(|w| w.rule == "directory.side-files")
        .unwrap();
    assert!(side.message.contains("optimizer.pt"), "{}", side.message);
    // The caller may ask for the other one.
    let options = OpenOptions {
        format: Some(FormatId::PyTorch),
        ..OpenOptions::default()
    };
    let m = options.open(dir.path()).unwrap();
    assert_eq!((m.format, floats(&m, "w")), (FormatId::PyTorch, vec![1.0]));
    assert!(violations(dir.path()).is_empty());
}

#[test]
fn variants_go_behind_and_other_names_with_equal_tensors_are_one_model() {
    let dir = dir_with(&[
        ("model.fp16.safetensors", "w", &[1.0]),
        ("model.safetensors", "w", &[2.0]),
    ]);
    let m = open(dir.path()).unwrap();
    assert_eq!(floats(&m, "w"), [2.0]);
    assert!(warned(&m, "directory.choice"));
    let dir = dir_with(&[("a.pt", "w", &[1.0]), ("b.safetensors", "w", &[2.0])]);
    assert_eq!(open(dir.path()).unwrap().format, FormatId::Safetensors);
}

#[test]
fn unrelated_models_and_empty_folders_are_refused() {
    for files in [
        &[
            ("a.safetensors", "w", &[1.0f32][..]),
            ("b.safetensors", "w", &[1.0]),
        ][..],
        &[("a.pt", "w", &[1.0]), ("b.safetensors", "v", &[1.0])],
        &[("epoch1.pt", "w", &[1.0]), ("epoch2.pt", "w", &[1.0])],
    ] {
        let dir = dir_with(files);
        let e = open(dir.path()).unwrap_err();
        assert_eq!(e.rule(), "directory.ambiguous");
        for (file, ..) in files {
            assert!(e.message().contains(file), "{e}");
        }
    }
    let dir = dir_with(&[("optimizer.pt", "w", &[1.0])]);
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let e = open(dir.path()).unwrap_err();
    assert_eq!(e.rule(), "directory.no-model");
    assert!(
        e.message().contains("optimizer.pt") && e.advice().unwrap().contains("sub"),
        "{e}"
    );
    assert!(check::check(dir.path(), &OpenOptions::default()).is_err());
}

#[test]
fn shards_open_from_folder_index_and_part() {
    let a = "pytorch_model-00001-of-00002.bin";
    let b = "pytorch_model-00002-of-00002.bin";
    let dir = dir_with(&[(a, "a", &[1.0]), (b, "b", &[2.0])]);
    let file = |n: &str| dir.path().join(n);
    // Without an index the numbers tell.
    let m = open(dir.path()).unwrap();
    assert_eq!((names(&m), m.parts.len()), (vec!["a", "b"], 2));
    let index = file("pytorch_model.bin.index.json");
    let map = format!("{{\"weight_map\": {{\"b\": {b:?}, \"a\": {a:?}}}}}");
    std::fs::write(&index, map).unwrap();
    for path in [dir.path().to_owned(), index, file(a), file(b)] {
        let m = open(&path).unwrap();
        assert_eq!((names(&m), m.parts.len()), (vec!["b", "a"], 3), "{path:?}");
        assert_eq!(
            shown(&m),
            r#"{"$dict":[["b",{"$tensor":"b"}],["a",{"$tensor":"a"}]]}"#
        );
        assert_eq!(
            warned(&m, "directory.whole-model"),
            path.ends_with(a) || path.ends_with(b)
        );
        assert!(violations(&path).is_empty());
    }
    std::fs::remove_file(file(b)).unwrap();
    assert_eq!(rule(dir.path()), "shards.missing-part");
    assert_eq!(violations(dir.path()), ["shards.missing-part"]);
    // No index says that there are others: the one that is there opens.
    std::fs::remove_file(file("pytorch_model.bin.index.json")).unwrap();
    let m = open(&file(a)).unwrap();
    assert!(names(&m) == ["a"] && warned(&m, "directory.lone-shard"));
}

#[test]
fn a_damaged_shard_is_named_by_check() {
    let a = "model-00001-of-00002.safetensors";
    let b = "model-00002-of-00002.safetensors";
    let dir = dir_with(&[(a, "a", &[1.0]), (b, "b", &[2.0])]);
    let path = dir.path().join(b);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let report = check::check(dir.path(), &OpenOptions::default()).unwrap();
    assert_eq!(report.format, FormatId::Safetensors);
    assert!(
        report.violations[0].place.contains(b),
        "{:?}",
        report.violations
    );
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

pub fn dcp_ranks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dcp_ranks")
}

#[test]
fn a_checkpoint_of_four_ranks_is_put_together() {
    let dir = dcp_ranks();
    for path in [dir.clone(), dir.join(".metadata"), dir.join("__2_0.distcp")] {
        let m = open(&path).unwrap();
        assert_eq!(m.container, Some("dcp"));
        assert_eq!((m.parts.len(), m.file_bytes()), (5, 19329));
        let grid = m.tensor("grid").unwrap();
        assert_eq!(
            (grid.dtype, grid.shape.as_slice()),
            (DType::F32, &[5, 3][..])
        );
        assert!(matches!(&grid.source, TensorSource::Assembled(a) if a.pieces.len() == 4));
        assert_eq!(floats(&m, "grid"), count(15));
        assert_eq!(m.tensor("model.rows.weight").unwrap().dtype, DType::BF16);
        assert_eq!(floats(&m, "model.rows.weight"), count(12));
        assert_eq!(floats(&m, "model.same"), count(3));
        assert_eq!(floats(&m, "list.0"), count(2));
        // A tensor inside an object that was saved whole.
        assert_eq!(floats(&m, "state.pair.1"), count(4));
        // In the order of the metadata, which is that of torch's planner.
        assert_eq!(
            shown(&m),
            concat!(
                r#"{"$dict":[["grid",{"$tensor":"grid"}],"#,
                r#"["model",{"$dict":[["rows.weight",{"$tensor":"model.rows.weight"}],"#,
                r#"["same",{"$tensor":"model.same"}]]}],"#,
                r#"["state",{"$dict":[["epoch",3],"#,
                r#"["pair",{"$tuple":[1,{"$tensor":"state.pair.1"}]}]]}],"#,
                r#"["list",{"$list":[{"$tensor":"list.0"},"#,
                r#"{"$dict":[["step",{"$tensor":"list.1.step"}]]}]}]]}"#
            )
        );
    }
    assert!(violations(&dir).is_empty());
}

#[test]
fn missing_files_and_metadata_are_named() {
    let dir = copy_of(&dcp_ranks());
    std::fs::remove_file(dir.path().join("__3_0.distcp")).unwrap();
    let e = open(dir.path()).unwrap_err();
    assert_eq!(e.rule(), "dcp.missing-file");
    assert!(e.message().contains("__3_0.distcp"), "{e}");
    assert_eq!(violations(dir.path()), ["dcp.missing-file"]);
    std::fs::remove_file(dir.path().join(".metadata")).unwrap();
    assert_eq!(rule(&dir.path().join("__0_0.distcp")), "dcp.no-metadata");
}

/// A copy of the four-rank checkpoint with the first `from` of its metadata replaced.
fn lie(from: &[u8], to: &[u8]) -> tempfile::TempDir {
    assert_eq!(from.len(), to.len());
    let dir = copy_of(&dcp_ranks());
    let path = dir.path().join(".metadata");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = memchr::memmem::find(&bytes, from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    std::fs::write(&path, bytes).unwrap();
    dir
}

#[test]
fn lies_in_the_metadata_are_refused() {
    for (from, to, rule_id) in [
        // Paths that leave the folder.
        (
            &b"__0_0.distcp"[..],
            &b"../0_0.disct"[..],
            "dcp.unsafe-path",
        ),
        (b"__0_0.distcp", b"/_0_0.distcp", "dcp.unsafe-path"),
        // A dtype that the items do not have.
        (b"\x8c\x07float32", b"\x8c\x07complex", "pytorch.dtype"),
        (b"\x8c\x07float32", b"\x8c\x07float64", "dcp.item-mismatch"),
        // The size of the grid: 5 × 3 becomes 5 × 4, which the boxes do not cover.
        (b"K\x05K\x03\x86", b"K\x05K\x04\x86", "shards.bad-tiling"),
        (b"relative_path", b"relative_pith", "dcp.bad-metadata"),
        (b"MetadataIndex", b"MetadataOther", ""),
        (b"storage_data", b"storage_dada", "dcp.bad-metadata"),
    ] {
        let dir = lie(from, to);
        match open(dir.path()) {
            Ok(_) => assert_eq!(rule_id, "", "{}", from.escape_ascii()),
            Err(e) => assert_eq!(e.rule(), rule_id, "{e}"),
        }
    }
}

#[test]
fn a_flipped_value_is_found_when_it_is_read() {
    let dir = copy_of(&dcp_ranks());
    let path = dir.path().join("__0_0.distcp");
    let mut bytes = std::fs::read(&path).unwrap();
    // The first item is this rank's box of the grid, 3 × 2 values from 0, 1, 3, 4…
    let at = memchr::memmem::find(&bytes, &1.0f32.to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let m = open(dir.path()).unwrap();
    let e = m.tensor("grid").unwrap().read_vec().unwrap_err();
    assert_eq!(e.rule(), "zip.crc-mismatch");
    assert_eq!(violations(dir.path()), ["zip.crc-mismatch"]);
}

#[test]
fn damage_to_the_metadata_never_panics() {
    let dir = copy_of(&dcp_ranks());
    let path = dir.path().join(".metadata");
    let good = std::fs::read(&path).unwrap();
    for n in (0..good.len()).step_by(7) {
        std::fs::write(&path, &good[..n]).unwrap();
        assert!(open(dir.path()).is_err(), "cut at {n}");
    }
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    for _ in 0..400 {
        let mut bad = good.clone();
        for _ in 0..1 + next() % 3 {
            let at = next() % bad.len();
            bad[at] = next() as u8;
        }
        std::fs::write(&path, &bad).unwrap();
        if let Ok(m) = open(dir.path()) {
            for t in &m.tensors {
                let _ = t.read_vec();
            }
        }
    }
}
