//! Ways to say what becomes of which tensor, and what comes of each.

use weighbridge::DType;
use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::quantize::recipe::Recipe;
use weighbridge::quantize::{DequantizeOptions, QuantizeOptions, dequantize, quantize};

use crate::quantize::*;

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
