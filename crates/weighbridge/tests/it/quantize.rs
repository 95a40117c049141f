//! Whole files against those of the reference quantizer, and what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::quantize::{
    DequantizeOptions, FileType, QuantizeOptions, Quantized, imatrix, quantize,
};
use weighbridge::{DType, FormatId, Model, Tensor};
use weighbridge_core::model::{Number, Storage, StorageData, TensorSource, Value, View};
use weighbridge_core::source::{ByteSource, SliceSource};

pub(crate) fn corpus() -> Option<PathBuf> {
    let dir = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if dir.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    dir.map(|d| PathBuf::from(d).join("gguf"))
}

pub(crate) fn to(file: &str) -> QuantizeOptions {
    QuantizeOptions {
        file: Some(FileType::parse(file).unwrap()),
        sync: false,
        ..QuantizeOptions::default()
    }
}

pub(crate) fn plain() -> DequantizeOptions {
    DequantizeOptions {
        sync: false,
        ..DequantizeOptions::default()
    }
}

pub(crate) fn run(from: &Path, to: &Path, options: &QuantizeOptions) -> Quantized {
    let model = weighbridge::open(from).unwrap();
    let (mut told, mut whole) = (0, 0);
    let done = quantize(model, to, options, &mut |n, total| {
        told += n;
        whole = total;
    });
    let done = done.unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    assert_eq!(told, whole, "progress ends at the whole");
    assert_eq!(done.report.output, [to]);
    assert_eq!(done.report.bytes, std::fs::metadata(to).unwrap().len());
    done
}

/// Panics unless two files are equal, with the first difference.
#[track_caller]
pub(crate) fn assert_same(got: &Path, want: &Path) {
    let (a, b) = (std::fs::read(got).unwrap(), std::fs::read(want).unwrap());
    let differs = a.iter().zip(&b).position(|(x, y)| x != y);
    assert!(
        a == b,
        "{}: first difference at {differs:?}, {} and {} bytes",
        want.display(),
        a.len(),
        b.len()
    );
}

pub(crate) const WHOLE: [&str; 9] = [
    "Q8_0", "Q4_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
];

#[test]
fn whole_files_are_those_of_the_reference() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("hf/tiny-llama");
    let dir = tempfile::tempdir().unwrap();
    for name in WHOLE {
        let out = dir.path().join(format!("{name}.gguf"));
        for threads in [1, 3] {
            let options = QuantizeOptions {
                threads,
                ..to(name)
            };
            let done = run(&folder.join("ref-f16.gguf"), &out, &options);
            assert!(done.report.warnings.is_empty(), "{:?}", done.report);
            assert_same(&out, &folder.join(format!("quant-{name}.gguf")));
        }
    }
}

#[test]
fn matrices_weigh_as_in_the_reference() {
    let Some(corpus) = corpus() else { return };
    let from = corpus.join("hf/tiny-llama/ref-f16.gguf");
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    for entry in std::fs::read_dir(corpus.join("imatrix")).unwrap() {
        let want = entry.unwrap().path();
        let name = want.file_name().unwrap().to_str().unwrap().to_owned();
        let parts: Vec<&str> = name.split('.').collect();
        let [model, form, file, "gguf"] = parts[..] else {
            continue;
        };
        let matrix = imatrix::read(&corpus.join(format!("imatrix/{model}.{form}"))).unwrap();
        let options = QuantizeOptions {
            matrix: Some((format!("{model}.{form}"), matrix)),
            threads: 2,
            ..to(file)
        };
        let out = dir.path().join(&name);
        run(&from, &out, &options);
        assert_same(&out, &want);
        n += 1;
    }
    assert_eq!(n, 6);
}

/// A tensor for [`gguf`]: name, type, shape outermost first, values as F32.
pub(crate) type T<'a> = (&'a str, DType, &'a [u64], Vec<f32>);

pub(crate) fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::BF16 => {
            let upper = |x: &f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
            values.iter().flat_map(upper).collect()
        }
        other => panic!("{other}"),
    }
}

/// Writes a GGUF file or a safetensors file by the name's extension.
pub(crate) fn model(path: &Path, arch: Option<&str>, tensors: &[T<'_>]) {
    let mut m = Model::new(FormatId::Gguf);
    let u32s = |n| Value::Number(Number::U32(n));
    if let Some(arch) = arch {
        m.metadata = vec![
            ("general.architecture".into(), Value::Str(arch.into())),
            (format!("{arch}.block_count"), u32s(4)),
            (format!("{arch}.attention.head_count"), u32s(4)),
        ];
    }
    for (name, dtype, shape, values) in tensors {
        let bytes = bytes_of(*dtype, values);
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, *name)),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(*name, len, false, data).unwrap());
        let source = TensorSource::View(View { storage, offset: 0 });
        m.tensors.push(Tensor::new(*name, *dtype, shape, source));
    }
    let options = ConvertOptions {
        sync: false,
        ..ConvertOptions::default()
    };
    convert(m, path, &options, &mut |_, _| {}).unwrap();
}

/// Numbers like weights, the same every time.
pub(crate) fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761).max(1);
    let next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x as f32 / u32::MAX as f32 - 0.5) * 0.2
    };
    std::iter::repeat_with(next).take(n).collect()
}

pub(crate) fn layered(path: &Path, arch: Option<&str>, layers: usize) {
    let names: Vec<String> = (0..layers)
        .flat_map(|i| ["attn_v", "ffn_down"].map(|p| format!("blk.{i}.{p}.weight")))
        .collect();
    let mut all: Vec<T<'_>> = vec![
        ("output.weight", DType::F32, &[8, 256], values(2048, 1)),
        ("token_embd.weight", DType::BF16, &[8, 256], values(2048, 2)),
        ("output_norm.weight", DType::F32, &[256], values(256, 3)),
    ];
    for (i, name) in names.iter().enumerate() {
        all.push((name, DType::F32, &[16, 256], values(4096, 10 + i as u32)));
    }
    model(path, arch, &all);
}

pub(crate) fn refused(from: &Path, options: &QuantizeOptions) -> weighbridge::Error {
    let dir = tempfile::tempdir().unwrap();
    let m = weighbridge::open(from).unwrap();
    let e = quantize(m, &dir.path().join("out.gguf"), options, &mut |_, _| {}).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{e}");
    e
}

#[test]
fn numbers_that_are_none_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for (at, x, name) in [
        (700, f32::NAN, "blk.0.attn_q.weight"),
        (3, f32::INFINITY, "output_norm.weight"),
        (2047, f32::NEG_INFINITY, "token_embd.weight"),
    ] {
        let mut all: Vec<T<'_>> = vec![
            (
                "blk.0.attn_q.weight",
                DType::F32,
                &[8, 256],
                values(2048, 1),
            ),
            ("output_norm.weight", DType::F32, &[256], values(256, 2)),
            ("token_embd.weight", DType::BF16, &[8, 256], values(2048, 3)),
        ];
        for t in &mut all {
            if t.0 == name {
                t.3[at] = x;
            }
        }
        model(&path, Some("llama"), &all);
        for threads in [1, 4] {
            let options = QuantizeOptions {
                threads,
                ..to("Q4_K_M")
            };
            let e = refused(&path, &options);
            assert_eq!(e.rule(), "quantize.not-finite");
            let text = e.to_string();
            assert!(text.contains(name), "{text}");
            assert!(text.contains(&format!("value {at} ")), "{text}");
        }
    }
}

#[test]
fn values_beyond_a_type_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut odd = values(512, 1);
    odd[300] = 3e38;
    model(
        &path,
        Some("llama"),
        &[("blk.0.attn_q.weight", DType::F32, &[2, 256], odd)],
    );
    for file in ["F16", "Q8_0", "Q4_K_S", "Q6_K", "Q2_K", "TQ2_0"] {
        let e = refused(&path, &to(file));
        assert_eq!(e.rule(), "quantize.range", "{file}: {e}");
    }
    let out = dir.path().join("out.gguf");
    run(&path, &out, &to("BF16"));
}

#[test]
fn what_is_quantized_is_not_quantized_again_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    layered(&dir.path().join("m.gguf"), Some("llama"), 2);
    run(&dir.path().join("m.gguf"), &a, &to("Q8_0"));
    let e = refused(&a, &to("Q4_K_M"));
    assert_eq!(e.rule(), "quantize.requantize");
    let again = QuantizeOptions {
        requantize: true,
        ..to("Q4_K_M")
    };
    run(&a, &b, &again);
    // The same type again changes nothing.
    let c = dir.path().join("c.gguf");
    run(&a, &c, &to("Q8_0"));
    assert_same(&c, &a);
    // And a copy is a copy.
    run(&b, &c, &to("COPY"));
    assert_same(&c, &b);
}

#[test]
fn a_matrix_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    layered(&path, Some("llama"), 2);
    let with = |entries: &[(&str, usize)], file: &str| {
        let entry = |(name, n): &(&str, usize)| {
            let e = imatrix::Entry {
                sums: vec![1.0; *n],
                counts: vec![1],
            };
            ((*name).to_owned(), e)
        };
        let matrix = imatrix::Matrix {
            form: imatrix::Form::Gguf,
            datasets: Vec::new(),
            chunk_count: 1,
            chunk_size: 512,
            entries: entries.iter().map(entry).collect(),
        };
        QuantizeOptions {
            matrix: Some(("m.imatrix".into(), matrix)),
            ..to(file)
        }
    };
    let e = refused(&path, &with(&[("blk.0.attn_v.weight", 128)], "Q4_K_M"));
    assert_eq!(e.rule(), "imatrix.size");
    assert!(e.to_string().contains("blk.0.attn_v.weight"));
    let stranger = [("blk.0.attn_v.weight", 256), ("blk.9.attn_v.weight", 256)];
    let mut options = with(&stranger, "Q4_K_M");
    let e = refused(&path, &options);
    assert_eq!(e.rule(), "imatrix.names");
    assert!(e.to_string().contains("blk.9.attn_v.weight"));
    options.partial_matrix = true;
    let done = run(&path, &dir.path().join("out.gguf"), &options);
    assert_eq!(done.report.warnings[0].rule, "imatrix.names");
    let e = refused(&path, &with(&[("blk.0.attn_v.weight", 256)], "IQ2_XXS"));
    assert_eq!(e.rule(), "imatrix.missing");
    assert!(e.to_string().contains("blk.0.ffn_down.weight"), "{e}");
    let e = refused(&path, &to("IQ2_XXS"));
    assert_eq!(e.rule(), "imatrix.missing");
}

#[test]
fn wishes_that_mean_nothing_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.gguf"), dir.path().join("q.gguf"));
    layered(&path, Some("llama"), 2);
    let options = QuantizeOptions {
        by_name: vec![("ffn_dwon".into(), DType::Q6_K)],
        exclude: vec!["token_embd".into(), "no such".into()],
        prune: vec![1, 7],
        ..to("Q4_K_M")
    };
    let done = run(&path, &out, &options);
    let told = done.report.warnings.iter().map(|w| w.message.as_str());
    let want = [
        "no tensor has \"ffn_dwon\" in its name",
        "no tensor has \"no such\" in its name",
        "the model has no layer 7 to leave out",
    ];
    assert_eq!(told.collect::<Vec<_>>(), want);
    let options = QuantizeOptions {
        by_name: vec![("ffn_down".into(), DType::Q6_K)],
        ..to("F16")
    };
    let done = run(&path, &out, &options);
    let told = done.report.warnings.iter().map(|w| w.rule);
    assert_eq!(told.collect::<Vec<_>>(), ["quantize.pattern"]);
}

#[test]
fn a_result_is_not_named_for_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    layered(&path, Some("llama"), 1);
    for name in ["q.safetensors", "q.onnx", "q.pt"] {
        let model = weighbridge::open(&path).unwrap();
        let e = quantize(model, &dir.path().join(name), &to("Q8_0"), &mut |_, _| {});
        assert_eq!(e.unwrap_err().rule(), "quantize.target");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Doubles that singles do not reach are no sign of damage.
#[test]
fn large_doubles_stay_or_are_beyond_the_type() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.gguf"), dir.path().join("q.gguf"));
    for (last, shape, rule) in [
        (1e300, &[32u64][..], None),
        (1e300, &[2, 32], Some("quantize.range")),
        (f64::INFINITY, &[32], Some("quantize.not-finite")),
        (f64::NAN, &[2, 32], Some("quantize.not-finite")),
    ] {
        let mut values = vec![1f64; shape.iter().product::<u64>() as usize];
        *values.last_mut().unwrap() = last;
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let len = bytes.len() as u64;
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, "t")),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("t", len, false, data).unwrap());
        let view = TensorSource::View(View { storage, offset: 0 });
        let mut m = Model::new(FormatId::Gguf);
        m.metadata = vec![("general.architecture".into(), Value::Str("llama".into()))];
        let name = "blk.0.ffn_up.weight";
        m.tensors.push(Tensor::new(name, DType::F64, shape, view));
        let options = ConvertOptions {
            sync: false,
            ..ConvertOptions::default()
        };
        convert(m, &path, &options, &mut |_, _| {}).unwrap();
        let model = weighbridge::open(&path).unwrap();
        let done = quantize(model, &out, &to("Q8_0"), &mut |_, _| {});
        assert_eq!(done.err().map(|e| e.rule()), rule, "{last}");
        if rule.is_none() {
            let (a, b) = (weighbridge::open(&path), weighbridge::open(&out));
            let bytes = |m: Model| m.tensor(name).unwrap().bytes().unwrap().into_owned();
            assert!(bytes(a.unwrap()) == bytes(b.unwrap()));
        }
    }
}

#[test]
fn an_input_that_shrinks_meanwhile_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    layered(&path, Some("llama"), 4);
    let options = weighbridge::OpenOptions {
        backend: weighbridge::Backend::Pread,
        ..weighbridge::OpenOptions::default()
    };
    let m = options.open(&path).unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(len / 2).unwrap();
    let out = dir.path().join("out.gguf");
    std::fs::write(&out, b"old").unwrap();
    let e = quantize(m, &out, &to("Q8_0"), &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "source.shrunk", "{e}");
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// A source with a bug.
#[derive(Debug)]
struct Panics;

impl ByteSource for Panics {
    fn len(&self) -> u64 {
        1 << 30
    }

    fn name(&self) -> &str {
        "panics"
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> weighbridge::Result<()> {
        panic!("this is meant to be seen: a worker's panic")
    }

    fn slice(&self, _: std::ops::Range<u64>) -> Option<&[u8]> {
        None
    }
}

/// Far more pieces than fit the queue: whoever feeds it must not wait for workers that are gone.
#[test]
fn a_bug_in_every_worker_is_an_error_and_no_stall() {
    let dir = tempfile::tempdir().unwrap();
    let data = StorageData::Raw {
        source: Arc::new(Panics),
        offset: 0,
        checksum: None,
    };
    let storage = Arc::new(Storage::new("panics", 1 << 24, false, data).unwrap());
    let source = TensorSource::View(View { storage, offset: 0 });
    let mut m = Model::new(FormatId::Gguf);
    let shape = [1u64 << 14, 256];
    m.tensors
        .push(Tensor::new("a.weight", DType::F32, &shape, source));
    let options = QuantizeOptions {
        threads: 2,
        ..to("Q8_0")
    };
    let e = quantize(m, &dir.path().join("o.gguf"), &options, &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "internal");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn other_containers_give_the_same_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    layered(&path, None, 2);
    let plain = dir.path().join("plain.gguf");
    run(&path, &plain, &to("Q4_K_M"));
    let want = weighbridge::open(&plain).unwrap();
    for name in ["m.safetensors", "m.pt"] {
        let (other, out) = (dir.path().join(name), dir.path().join("other.gguf"));
        let m = weighbridge::open(&path).unwrap();
        let options = ConvertOptions {
            sync: false,
            ..ConvertOptions::default()
        };
        convert(m, &other, &options, &mut |_, _| {}).unwrap();
        run(&other, &out, &to("Q4_K_M"));
        let got = weighbridge::open(&out).unwrap();
        for t in &want.tensors {
            let same = got.tensor(&t.name).unwrap();
            assert_eq!(same.dtype, t.dtype, "{name} {}", t.name);
            assert_eq!(
                same.bytes().unwrap(),
                t.bytes().unwrap(),
                "{name} {}",
                t.name
            );
        }
    }
}
