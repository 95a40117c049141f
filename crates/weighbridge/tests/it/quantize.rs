//! Whole files against those of the reference quantizer, and what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::quantize::recipe::Recipe;
use weighbridge::quantize::{
    DequantizeOptions, FileType, QuantizeOptions, Quantized, dequantize, imatrix, quantize,
};
use weighbridge::{DType, FormatId, Model, Tensor};
use weighbridge_core::model::{Number, Storage, StorageData, TensorSource, Value, View};
use weighbridge_core::source::{ByteSource, SliceSource};

fn corpus() -> Option<PathBuf> {
    let dir = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if dir.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    dir.map(|d| PathBuf::from(d).join("gguf"))
}

fn to(file: &str) -> QuantizeOptions {
    QuantizeOptions {
        file: Some(FileType::parse(file).unwrap()),
        sync: false,
        ..QuantizeOptions::default()
    }
}

fn plain() -> DequantizeOptions {
    DequantizeOptions {
        sync: false,
        ..DequantizeOptions::default()
    }
}

fn run(from: &Path, to: &Path, options: &QuantizeOptions) -> Quantized {
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
fn assert_same(got: &Path, want: &Path) {
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

const WHOLE: [&str; 9] = [
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
type T<'a> = (&'a str, DType, &'a [u64], Vec<f32>);

fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
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
fn model(path: &Path, arch: Option<&str>, tensors: &[T<'_>]) {
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
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761).max(1);
    let next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x as f32 / u32::MAX as f32 - 0.5) * 0.2
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn layered(path: &Path, arch: Option<&str>, layers: usize) {
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

fn refused(from: &Path, options: &QuantizeOptions) -> weighbridge::Error {
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
fn a_recipe_gives_the_same_types_and_bytes() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("hf/tiny-llama");
    let dir = tempfile::tempdir().unwrap();
    for name in ["Q4_K_M", "IQ4_XS", "Q3_K_M"] {
        let want = folder.join(format!("quant-{name}.gguf"));
        let recipe = Recipe::of(&weighbridge::open(&want).unwrap());
        let recipe = Recipe::parse(&recipe.to_text()).unwrap();
        let options = QuantizeOptions {
            file: None,
            recipe: Some(recipe),
            ..to(name)
        };
        let out = dir.path().join("out.gguf");
        run(&folder.join("ref-f16.gguf"), &out, &options);
        assert_same(&out, &want);
    }
    let options = QuantizeOptions {
        file: None,
        recipe: Some(Recipe::parse("x=f16").unwrap()),
        ..to("Q8_0")
    };
    let e = refused(&folder.join("ref-f16.gguf"), &options);
    assert_eq!(e.rule(), "quantize.recipe");
}

#[test]
fn unknown_architectures_get_the_generic_mix_and_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.gguf"), dir.path().join("out.gguf"));
    for arch in [Some("brandnew"), None] {
        layered(&path, arch, 8);
        let done = run(&path, &out, &to("Q4_K_M"));
        assert_eq!(done.report.warnings[0].rule, "quantize.generic-mix");
        let m = weighbridge::open(&out).unwrap();
        let dtype = |name: &str| m.tensor(name).unwrap().dtype;
        assert_eq!(dtype("output.weight"), DType::Q6_K);
        assert_eq!(dtype("blk.0.attn_v.weight"), DType::Q6_K);
        assert_eq!(dtype("blk.1.attn_v.weight"), DType::Q4_K);
        assert_eq!(dtype("output_norm.weight"), DType::F32);
    }
}

#[test]
fn safetensors_go_in_one_pass() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("hf/tiny-llama");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let done = run(&folder.join("model.safetensors"), &out, &to("Q4_K_M"));
    assert_eq!(done.report.warnings[0].rule, "quantize.generic-mix");
    let (m, source) = (
        weighbridge::open(&out).unwrap(),
        weighbridge::open(folder.join("model.safetensors")).unwrap(),
    );
    assert_eq!(m.tensors.len(), source.tensors.len());
    for t in &m.tensors {
        let before = source.tensor(&t.name).unwrap();
        assert_eq!(t.shape, before.shape, "{}", t.name);
        if before.shape.len() == 1 {
            assert_eq!(t.dtype, DType::F32, "{}", t.name);
        }
    }
    let dtype = |name: &str| m.tensor(name).unwrap().dtype;
    // Of two layers the second is in the last eighth.
    assert_eq!(dtype("model.layers.0.self_attn.v_proj.weight"), DType::Q4_K);
    assert_eq!(dtype("model.layers.1.self_attn.v_proj.weight"), DType::Q6_K);
    assert_eq!(dtype("model.layers.0.self_attn.q_proj.weight"), DType::Q4_K);
}

#[test]
fn quality_does_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.gguf"), dir.path().join("out.gguf"));
    let wide = values(700 * 512, 5);
    model(
        &path,
        Some("llama"),
        &[
            ("blk.0.attn_q.weight", DType::F32, &[700, 512], wide),
            ("output_norm.weight", DType::F32, &[256], values(256, 2)),
        ],
    );
    let mut seen = Vec::new();
    for threads in [1, 2, 7] {
        let options = QuantizeOptions {
            threads,
            measure: true,
            ..to("Q4_K_M")
        };
        let done = run(&path, &out, &options);
        seen.push((
            done.tensors.iter().map(|t| t.quality).collect::<Vec<_>>(),
            std::fs::read(&out).unwrap(),
        ));
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
    let [norm, q] = seen[0].0[..] else { panic!() };
    assert_eq!((norm.unwrap().rmse, norm.unwrap().snr_db), (0.0, None));
    let q = q.unwrap();
    assert!(
        q.snr_db.unwrap() > 18.0 && q.cosine.unwrap() > 0.99,
        "{q:?}"
    );
}

#[test]
fn layers_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.gguf"), dir.path().join("out.gguf"));
    layered(&path, Some("llama"), 4);
    let options = QuantizeOptions {
        prune: vec![2, 0],
        ..to("Q8_0")
    };
    run(&path, &out, &options);
    let m = weighbridge::open(&out).unwrap();
    let names: Vec<&str> = m.tensors.iter().map(|t| t.name.as_str()).collect();
    let want = [
        "output.weight",
        "output_norm.weight",
        "token_embd.weight",
        "blk.0.attn_v.weight",
        "blk.0.ffn_down.weight",
        "blk.1.attn_v.weight",
        "blk.1.ffn_down.weight",
    ];
    assert_eq!(names, want);
    let count = m.metadata.iter().find(|(k, _)| k == "llama.block_count");
    assert_eq!(count.unwrap().1.as_int(), Some(2));
}

#[test]
fn blocks_become_the_values_they_stand_for() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("hf/tiny-llama");
    let dir = tempfile::tempdir().unwrap();
    let wide = dir.path().join("wide.gguf");
    let again = dir.path().join("again.gguf");
    let from = folder.join("quant-Q8_0.gguf");
    let m = weighbridge::open(&from).unwrap();
    dequantize(m, &wide, DType::F32, &plain(), &mut |_, _| {}).unwrap();
    let m = weighbridge::open(&wide).unwrap();
    assert!(m.tensors.iter().all(|t| t.dtype == DType::F32));
    let kind = m.metadata.iter().find(|(k, _)| k == "general.file_type");
    assert_eq!(kind.unwrap().1.as_int(), Some(0));
    // Quantizing exact values of Q8_0 gives its bytes again.
    run(&wide, &again, &to("Q8_0"));
    assert_same(&again, &from);
    // Neither the number of threads nor the verb makes another file.
    for threads in [1, 5] {
        let how = DequantizeOptions { threads, ..plain() };
        let m = weighbridge::open(&from).unwrap();
        dequantize(m, &again, DType::F32, &how, &mut |_, _| {}).unwrap();
        assert_same(&again, &wide);
        let options = ConvertOptions {
            dequantize: true,
            threads,
            sync: false,
            ..ConvertOptions::default()
        };
        let m = weighbridge::open(&from).unwrap();
        convert(m, &again, &options, &mut |_, _| {}).unwrap();
        assert_same(&again, &wide);
    }
    // For eight bytes a value there is no file type: the one of the blocks does not stay.
    let options = ConvertOptions {
        dtype: Some(DType::F64),
        sync: false,
        ..ConvertOptions::default()
    };
    let m = weighbridge::open(&from).unwrap();
    convert(m, &again, &options, &mut |_, _| {}).unwrap();
    let m = weighbridge::open(&again).unwrap();
    let kind = m.metadata.iter().find(|(k, _)| k == "general.file_type");
    assert!(kind.is_none());
}

#[test]
fn a_dry_run_knows_the_size() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("hf/tiny-llama");
    let dir = tempfile::tempdir().unwrap();
    for name in WHOLE {
        let options = QuantizeOptions {
            dry_run: true,
            ..to(name)
        };
        let m = weighbridge::open(folder.join("ref-f16.gguf")).unwrap();
        let out = dir.path().join("out.gguf");
        let done = quantize(m, &out, &options, &mut |_, _| {}).unwrap();
        let want = folder.join(format!("quant-{name}.gguf"));
        assert_eq!(done.report.bytes, std::fs::metadata(want).unwrap().len());
        assert!(!out.exists());
    }
}

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
