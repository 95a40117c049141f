//! Models in several files, and files that a result may not take the place of.

use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::quantize::{QuantizeOptions, dequantize, quantize};
use weighbridge::{DType, FormatId, Model};
use weighbridge_core::model::{Number, Value};

use crate::quantize::*;

/// Three files of the model at `whole`, as the reference splits: the keys go to the first.
fn three_files(whole: &Path, dir: &Path) -> PathBuf {
    let m = weighbridge::open(whole).unwrap();
    for no in 0..3usize {
        let mut part = Model::new(FormatId::Gguf);
        if no == 0 {
            part.metadata.clone_from(&m.metadata);
        }
        let short = |n| Value::Number(Number::U16(n));
        let count = m.tensors.len() as i32;
        part.metadata.extend([
            ("split.no".to_owned(), short(no as u16)),
            ("split.count".to_owned(), short(3)),
            (
                "split.tensors.count".to_owned(),
                Value::Number(Number::I32(count)),
            ),
        ]);
        let mine = m.tensors.iter().skip(no).step_by(3).cloned();
        part.tensors = mine.collect();
        let path = dir.join(format!("m-{:05}-of-00003.gguf", no + 1));
        let options = ConvertOptions {
            sync: false,
            ..ConvertOptions::default()
        };
        convert(part, &path, &options, &mut |_, _| {}).unwrap();
    }
    dir.join("m-00001-of-00003.gguf")
}

#[test]
fn a_result_takes_the_place_of_no_file_it_is_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("m.gguf");
    layered(&whole, Some("llama"), 2);
    let first = three_files(&whole, dir.path());
    let second = dir.path().join("m-00002-of-00003.gguf");
    let files = || {
        let all = std::fs::read_dir(dir.path()).unwrap();
        let mut all: Vec<_> = all.map(|f| f.unwrap().path()).collect();
        all.sort();
        let bytes = |p: &PathBuf| std::fs::read(p).unwrap();
        all.iter()
            .map(|p| (p.clone(), bytes(p)))
            .collect::<Vec<_>>()
    };
    let before = files();
    let split = QuantizeOptions {
        keep_split: true,
        ..to("Q8_0")
    };
    let read = QuantizeOptions {
        inputs: vec![second.clone()],
        ..to("Q8_0")
    };
    for (from, out, options) in [
        (&first, dir.path().join("m"), &split),
        (&first, second.clone(), &to("Q8_0")),
        (&whole, second.clone(), &read),
    ] {
        let model = weighbridge::open(from).unwrap();
        let e = quantize(model, &out, options, &mut |_, _| {}).unwrap_err();
        assert_eq!(e.rule(), "quantize.same-file");
    }
    let model = weighbridge::open(&first).unwrap();
    let done = dequantize(model, &second, DType::F32, &plain(), &mut |_, _| {});
    assert_eq!(done.unwrap_err().rule(), "dequantize.same-file");
    assert!(files() == before);
}

#[test]
fn files_of_which_no_tensor_is_left_at_the_end_go() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("m.gguf");
    layered(&whole, Some("llama"), 2);
    let m = weighbridge::open(&whole).unwrap();
    // All but layer 0 lies in the first file.
    let options = ConvertOptions {
        sync: false,
        ..ConvertOptions::default()
    };
    for no in 0..2u16 {
        let mut part = Model::new(FormatId::Gguf);
        if no == 0 {
            part.metadata.clone_from(&m.metadata);
        }
        for (key, n) in [
            ("split.no", Number::U16(no)),
            ("split.count", Number::U16(2)),
            ("split.tensors.count", Number::I32(m.tensors.len() as i32)),
        ] {
            part.metadata.push((key.to_owned(), Value::Number(n)));
        }
        let mine = |t: &&weighbridge::Tensor| t.name.starts_with("blk.1.") == (no == 1);
        part.tensors = m.tensors.iter().filter(mine).cloned().collect();
        let path = dir.path().join(format!("m-{:05}-of-00002.gguf", no + 1));
        convert(part, &path, &options, &mut |_, _| {}).unwrap();
    }
    let options = QuantizeOptions {
        keep_split: true,
        prune: vec![1],
        ..to("Q8_0")
    };
    let split = weighbridge::open(dir.path().join("m-00001-of-00002.gguf")).unwrap();
    let out = dir.path().join("q");
    let done = quantize(split, &out, &options, &mut |_, _| {}).unwrap();
    assert_eq!(
        done.report.output,
        [dir.path().join("q-00001-of-00001.gguf")]
    );
    let again = weighbridge::open(&done.report.output[0]).unwrap();
    assert!(again.metadata.iter().all(|(k, _)| !k.starts_with("split.")));
}

#[test]
fn as_many_files_as_there_were() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("m.gguf");
    layered(&whole, Some("llama"), 2);
    let first = three_files(&whole, dir.path());
    // As one file it is what comes of the whole.
    let (one, joined) = (dir.path().join("one.gguf"), dir.path().join("joined.gguf"));
    run(&whole, &one, &to("Q4_K_M"));
    run(&first, &joined, &to("Q4_K_M"));
    assert_same(&joined, &one);
    // As three they hold the same tensors, each where it was.
    let options = QuantizeOptions {
        keep_split: true,
        ..to("Q4_K_M")
    };
    // Never over the files that are read.
    let before = std::fs::read(&first).unwrap();
    let split = weighbridge::open(&first).unwrap();
    let e = quantize(split, &whole, &options, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "quantize.same-file");
    assert_eq!(std::fs::read(&first).unwrap(), before);
    let split = weighbridge::open(&first).unwrap();
    let out = dir.path().join("q.gguf");
    let done = quantize(split, &out, &options, &mut |_, _| {}).unwrap();
    assert_eq!(done.report.output.len(), 3);
    assert!(!out.exists());
    for (no, path) in done.report.output.iter().enumerate() {
        assert!(path.ends_with(format!("q-{:05}-of-00003.gguf", no + 1)));
        let report = weighbridge::check::check(path, &Default::default()).unwrap();
        assert!(report.violations.is_empty(), "{:?}", report.violations);
    }
    let again = weighbridge::open(&done.report.output[0]).unwrap();
    let one = weighbridge::open(&one).unwrap();
    assert_eq!(again.tensors.len(), one.tensors.len());
    for t in &one.tensors {
        let other = again.tensor(&t.name).unwrap();
        assert_eq!(
            (other.dtype, &other.shape),
            (t.dtype, &t.shape),
            "{}",
            t.name
        );
        assert_eq!(other.bytes().unwrap(), t.bytes().unwrap(), "{}", t.name);
    }
}

/// Blocks of a big-endian file are turned round on the way, and yet lie in one of its files.
#[test]
fn big_endian_blocks_stay_in_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, blocks) = (dir.path().join("m.gguf"), dir.path().join("q8.gguf"));
    layered(&whole, Some("llama"), 2);
    run(&whole, &blocks, &to("Q8_0"));
    let options = ConvertOptions {
        endian: Some(weighbridge::convert::Endian::Big),
        shard_tensors: Some(2),
        sync: false,
        ..ConvertOptions::default()
    };
    let model = weighbridge::open(&blocks).unwrap();
    let big = convert(model, &dir.path().join("b.gguf"), &options, &mut |_, _| {}).unwrap();
    assert!(big.output.len() > 1);
    let options = QuantizeOptions {
        keep_split: true,
        ..to("COPY")
    };
    let split = weighbridge::open(&big.output[0]).unwrap();
    let done = quantize(split, &dir.path().join("c"), &options, &mut |_, _| {}).unwrap();
    assert_eq!(done.report.output.len(), big.output.len());
    // Opened, a file is the whole model: what is in it alone is seen in its header.
    let all = weighbridge::open(&blocks).unwrap();
    let inside = |p: &PathBuf| {
        let bytes = std::fs::read(p).unwrap();
        let has = |name: &str| bytes.windows(name.len()).any(|w| w == name.as_bytes());
        let names = all.tensors.iter().map(|t| t.name.clone());
        names.filter(|n| has(n)).collect::<Vec<_>>()
    };
    for (ours, theirs) in done.report.output.iter().zip(&big.output) {
        assert!(!inside(ours).is_empty());
        assert_eq!(inside(ours), inside(theirs));
    }
}
