//! Hostile input: every fixture cut short everywhere that matters and at random points, and
//! thousands of mutations a format. No panic, no run over a second, no memory beyond 64 MiB and
//! what the file's own size justifies.
//!
//! `WEIGHBRIDGE_MUTATIONS` sets another number than 2,000, `WEIGHBRIDGE_SEED` another seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(clippy::print_stderr, missing_docs)]

mod common;

use common::{Case, Guard, directories, fixtures, seeds, seeds_of, text};
use weighbridge_fuzzing as targets;
use weighbridge_fuzzing::{Members, Mutator, Rng, boundaries};

/// Cuts per fixture beyond the boundaries.
const RANDOM_CUTS: usize = 200;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

fn mutations() -> usize {
    number("WEIGHBRIDGE_MUTATIONS", 2000) as usize
}

/// A seed of its own for every use.
fn seed(of: &str) -> u64 {
    let base = number("WEIGHBRIDGE_SEED", 2);
    of.bytes()
        .fold(base, |n, b| n.wrapping_mul(0x100_0000_01b3) ^ u64::from(b))
}

/// Cuts every fixture at each boundary and at random points.
fn cut(name: &'static str, fixtures: &[Case], run: fn(&[u8])) {
    let mut guard = Guard::new(name);
    for case in fixtures {
        guard.run(&case.name, &case.bytes, run);
        let mut rng = Rng::new(seed(&case.name));
        let random = (0..RANDOM_CUTS).map(|_| rng.below(case.bytes.len()));
        let mut at: Vec<usize> = boundaries(&case.bytes);
        at.extend(random);
        at.sort_unstable();
        at.dedup();
        for n in at {
            if let Some(head) = case.bytes.get(..n) {
                guard.run(&format!("{} cut at {n}", case.name), head, run);
            }
        }
    }
    guard.finish();
}

/// Where changes should go: everything in a small file, both ends of a larger one.
fn hot(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let n = bytes.len();
    let structures = weighbridge_fuzzing::hdf5_structures(bytes);
    if !structures.is_empty() {
        return structures;
    }
    if n <= 8192 {
        std::iter::once(0..n).collect()
    } else {
        vec![0..4096, n - 4096..n]
    }
}

/// Mutates the fixtures in turn, [`mutations`] times in all.
fn mutate(name: &'static str, fixtures: &[Case], run: fn(&[u8])) {
    let mut guard = Guard::new(name);
    let mut engines: Vec<Mutator> = fixtures
        .iter()
        .map(|c| Mutator::new(seed(&c.name), hot(&c.bytes)))
        .collect();
    let count = engines.len();
    for i in 0..if count == 0 { 0 } else { mutations() } {
        let case = &fixtures[i % count];
        let other = &fixtures[(i * 7 + i / count) % count];
        let input = engines[i % count].mutate(&case.bytes, &other.bytes);
        guard.run(&format!("{} mutation {i}", case.name), &input, run);
    }
    guard.finish();
}

/// Mutates what describes the model inside zip archives, checksums put right again.
fn mutate_members(name: &'static str, fixtures: &[Case], run: fn(&[u8])) {
    let mut guard = Guard::new(name);
    let mut inner: Vec<(String, Members, usize, Mutator)> = Vec::new();
    for case in fixtures {
        let Ok(members) = Members::of(&case.bytes) else {
            continue;
        };
        for i in members.headers() {
            let label = format!("{} {}", case.name, members.0[i].0);
            let engine = Mutator::new(seed(&label), hot(&members.0[i].1));
            inner.push((label, members.clone(), i, engine));
        }
    }
    let count = inner.len();
    for n in 0..if count == 0 { 0 } else { mutations() } {
        let other = inner[(n * 7 + n / count) % count].1.0.first().cloned();
        let (label, members, i, engine) = &mut inner[n % count];
        let changed = engine.mutate(&members.0[*i].1, &other.unwrap_or_default().1);
        if let Ok(input) = members.with(*i, &changed) {
            guard.run(&format!("{label} mutation {n}"), &input, run);
        }
    }
    // And cut short, at every byte of a small member.
    for (label, members, i, _) in &inner {
        for at in boundaries(&members.0[*i].1).into_iter().take(1500) {
            if let Ok(input) = members.with(*i, &members.0[*i].1[..at]) {
                guard.run(&format!("{label} cut at {at}"), &input, run);
            }
        }
    }
    guard.finish();
}

fn small(cases: Vec<Case>) -> Vec<Case> {
    cases
        .into_iter()
        .filter(|c| c.bytes.len() < 64 << 10)
        .collect()
}

#[test]
fn safetensors_cut_short() {
    cut(
        "safetensors cut",
        &fixtures("safetensors"),
        targets::detect_open,
    );
}

#[test]
fn safetensors_mutated() {
    mutate(
        "safetensors",
        &fixtures("safetensors"),
        targets::detect_open,
    );
}

#[test]
fn safetensors_headers_mutated() {
    mutate(
        "safetensors header",
        &fixtures("safetensors"),
        targets::safetensors_header,
    );
}

#[test]
fn torch_zip_cut_short() {
    cut("torch zip cut", &fixtures("zip"), targets::detect_open);
}

#[test]
fn torch_zip_mutated() {
    mutate("torch zip", &fixtures("zip"), targets::detect_open);
}

#[test]
fn torch_zip_members_mutated() {
    mutate_members(
        "torch zip members",
        &small(fixtures("zip")),
        targets::pytorch_open,
    );
}

#[test]
fn torch_legacy_cut_short() {
    cut(
        "torch legacy cut",
        &fixtures("legacy"),
        targets::detect_open,
    );
}

#[test]
fn torch_legacy_mutated() {
    mutate("torch legacy", &fixtures("legacy"), targets::detect_open);
}

#[test]
fn torch_tar_cut_short() {
    cut("torch tar cut", &fixtures("tar"), targets::detect_open);
}

#[test]
fn torch_tar_mutated() {
    mutate("torch tar", &fixtures("tar"), targets::detect_open);
}

#[test]
fn zip_archives_mutated() {
    mutate("zip archive", &small(fixtures("zip")), targets::zip_archive);
}

#[test]
fn tar_archives_mutated() {
    mutate("tar archive", &fixtures("tar"), targets::tar_archive);
}

#[test]
fn zip_archives_in_all_views_mutated() {
    let mut all = small(fixtures("zip"));
    all.extend(seeds_of("zip_survey"));
    mutate("zip survey", &all, targets::zip_survey);
}

#[test]
fn zip_archives_in_all_views_cut_short() {
    let all = seeds_of("zip_survey");
    cut("zip survey cut", &all, targets::zip_survey);
}

#[test]
fn sevenz_archives_mutated() {
    mutate("7z", &seeds_of("sevenz_archive"), targets::sevenz_archive);
}

#[test]
fn streams_cut_short() {
    let all = seeds_of("codec_stream");
    cut("stream cut", &all, targets::codec_stream);
}

#[test]
fn streams_mutated() {
    mutate("stream", &seeds_of("codec_stream"), targets::codec_stream);
}

#[test]
fn pickles_cut_short() {
    cut("pickle cut", &fixtures("pickle"), targets::pickle_machine);
}

#[test]
fn pickles_mutated() {
    mutate("pickle", &fixtures("pickle"), targets::pickle_machine);
}

#[test]
fn structures_mutated() {
    mutate("structure", &fixtures("structure"), targets::structure_json);
}

#[test]
fn templates_mutated() {
    let all = fixtures("template");
    cut("template cut", &all, targets::jinja_template);
    mutate("template", &all, targets::jinja_template);
}

#[test]
fn gguf_headers_mutated() {
    mutate("gguf header", &fixtures("gguf"), targets::gguf_header);
    cut("gguf header cut", &fixtures("gguf"), targets::gguf_header);
}

#[test]
fn gguf_files_edited() {
    let mut all = fixtures("gguf");
    all.extend(seeds_of("gguf_edit"));
    mutate("gguf edit", &all, targets::gguf_edit);
    cut("gguf edit cut", &seeds_of("gguf_edit"), targets::gguf_edit);
}

#[test]
fn onnx_files_edited() {
    let mut all = seeds_of("onnx_edit");
    let fixtures = fixtures("graphs").into_iter();
    all.extend(fixtures.filter(|c| c.name.ends_with(".onnx") && c.bytes.len() < 16 << 10));
    mutate("onnx edit", &all, weighbridge_fuzzing::onnx_edit);
    let seeds = seeds_of("onnx_edit");
    cut("onnx edit cut", &seeds, weighbridge_fuzzing::onnx_edit);
}

/// Graphs with products, biases and tables, and one with graphs inside.
fn weighty() -> Vec<Case> {
    let mut all = seeds_of("onnx_quantize");
    assert!(all.len() > 1, "{} seeds", all.len());
    all.extend(seeds_of("onnx_edit"));
    all
}

#[test]
fn onnx_files_quantized() {
    mutate("onnx quantize", &weighty(), targets::onnx_quantize);
    let seeds = seeds_of("onnx_quantize");
    cut("onnx quantize cut", &seeds, targets::onnx_quantize);
}

#[test]
fn onnx_files_given_weights() {
    mutate("onnx inject", &weighty(), targets::onnx_inject);
    let seeds = seeds_of("onnx_edit");
    cut("onnx inject cut", &seeds, targets::onnx_inject);
}

#[test]
fn onnx_models_cut_and_mutated() {
    let mut all = seeds_of("onnx_read");
    cut("onnx cut", &all, targets::onnx_read);
    all.extend(fixtures("onnx"));
    mutate("onnx", &all, targets::onnx_read);
}

#[test]
fn hdf5_cut_and_mutated() {
    let all = fixtures("hdf5");
    cut("hdf5 cut", &seeds_of("hdf5"), targets::hdf5);
    mutate("hdf5", &all, targets::hdf5);
}

#[test]
fn keras_files_cut_and_mutated() {
    let all = seeds_of("keras");
    cut("keras cut", &all, weighbridge_fuzzing::keras);
    mutate("keras", &all, weighbridge_fuzzing::keras);
    mutate_members("keras members", &all, weighbridge_fuzzing::keras);
}

#[test]
fn tensorflow_checkpoints_cut_and_mutated() {
    let all = fixtures("tensorflow index");
    cut("table cut", &all, targets::sstable);
    mutate("table", &all, targets::sstable);
    cut("checkpoint cut", &all, targets::tf_checkpoint);
    mutate("checkpoint", &all, targets::tf_checkpoint);
}

#[test]
fn tensorflow_graphs_cut_and_mutated() {
    let all = fixtures("tensorflow graph");
    cut("graph cut", &all, targets::graphdef);
    mutate("graph", &all, targets::graphdef);
}

#[test]
fn tensorflow_lite_models_cut_and_mutated() {
    let all = fixtures("tensorflow lite");
    cut("lite cut", &all, targets::tflite);
    mutate("lite", &all, targets::tflite);
}

#[test]
fn tensorflow_files_scanned_mutated() {
    let mut all = fixtures("tensorflow index");
    all.extend(fixtures("tensorflow graph"));
    all.extend(fixtures("tensorflow lite"));
    mutate("scan of tensorflow", &all, targets::scan_file);
}

#[test]
fn numpy_headers_mutated() {
    mutate("npy", &fixtures("numpy"), targets::npy);
}

/// The small files of the library's own tests whose names end so.
fn arrays(endings: &[&str]) -> Vec<Case> {
    let dir = common::root().join("crates/weighbridge/tests/data/arrays");
    let mut all = common::files(&dir);
    all.retain(|c| endings.iter().any(|e| c.name.ends_with(e)));
    assert!(!all.is_empty(), "no file ends in {endings:?}");
    all
}

#[test]
fn numpy_files_cut_and_mutated() {
    let all = arrays(&[".npy", ".npz"]);
    mutate("numpy", &all, targets::numpy_open);
    let some = arrays(&[".npy", "bfloat16.npz", "objects.npz"]);
    cut("numpy cut", &some, targets::numpy_open);
}

#[test]
fn joblib_files_cut_and_mutated() {
    let all = arrays(&[".joblib"]);
    mutate("joblib", &all, targets::joblib_open);
    let some = arrays(&["plain.joblib", "zlib.joblib"]);
    cut("joblib cut", &some, targets::joblib_open);
}

#[test]
fn msgpack_cut_and_mutated() {
    let all = arrays(&[".msgpack", "checkpoint_12"]);
    mutate("msgpack", &all, targets::msgpack);
    cut("msgpack cut", &arrays(&["checkpoint_12"]), targets::msgpack);
}

#[test]
fn python_source_cut_and_mutated() {
    let all = seeds_of("python_source");
    cut("Python cut", &all, targets::python_source);
    mutate("Python", &all, targets::python_source);
}

#[test]
fn constants_cut_and_mutated() {
    let all = seeds_of("hidden_constant");
    cut("constant cut", &all, targets::hidden_constant);
    mutate("constant", &all, targets::hidden_constant);
}

#[test]
fn scanned_files_mutated() {
    let mut all = small(fixtures("zip"));
    all.extend(fixtures("legacy"));
    all.extend(fixtures("pickle"));
    all.extend(fixtures("safetensors"));
    all.extend(fixtures("gguf"));
    all.extend(fixtures("numpy"));
    mutate("scan", &all, targets::scan_file);
}

#[test]
fn graphs_cut_short() {
    let small: Vec<Case> = fixtures("graphs")
        .into_iter()
        .filter(|c| c.bytes.len() < 300 && !c.name.ends_with(".keras"))
        .collect();
    assert!(small.len() > 5, "{} graphs are small", small.len());
    cut("graph cut", &small, targets::scan_file);
}

#[test]
fn graphs_mutated() {
    mutate("graph", &fixtures("graphs"), targets::scan_file);
}

#[test]
fn gates_mutated() {
    let mut all = fixtures("graphs");
    all.retain(|c| c.name.ends_with(".onnx"));
    assert!(all.len() > 10, "{} graphs", all.len());
    mutate("gate", &all, targets::onnx_gates);
}

#[test]
fn protobuf_mutated() {
    mutate("protobuf", &fixtures("graphs"), targets::protobuf_fields);
}

#[test]
fn marshal_mutated() {
    let code: Vec<Case> = seeds()
        .into_iter()
        .filter(|c| c.name.contains("code_"))
        .collect();
    assert!(!code.is_empty(), "there are no seeds of code");
    cut("marshal cut", &code, targets::marshal_code);
    mutate("marshal", &code, targets::marshal_code);
}

#[test]
fn policies_mutated() {
    mutate("policy", &fixtures("policy"), targets::scan_policy);
}

/// One file of a model that is a directory is cut or mutated, the rest stays.
#[test]
fn directories_mutated() {
    for folder in directories() {
        let mut guard = Guard::new("directory");
        let files = folder.files();
        let count = files.len();
        let mut engines: Vec<Mutator> = files
            .iter()
            .map(|f| Mutator::new(seed(&f.name), hot(&f.bytes)))
            .collect();
        for n in 0..mutations() {
            let i = n % count;
            let input = engines[i].mutate(&files[i].bytes, &files[(n / count) % count].bytes);
            let label = format!("{} {} mutation {n}", folder.name, files[i].name);
            folder.with(&files[i], &input, |path| guard.open(&label, &input, path));
        }
        for f in &files {
            for at in boundaries(&f.bytes).into_iter().step_by(3).take(700) {
                let label = format!("{} {} cut at {at}", folder.name, f.name);
                let input = &f.bytes[..at];
                folder.with(f, input, |path| guard.open(&label, input, path));
            }
        }
        guard.finish();
    }
}

/// What libFuzzer starts from is run here too, and so is the empty input, by every target.
#[test]
fn every_target_takes_every_seed() {
    let mut guard = Guard::new("seeds");
    let seeds = seeds();
    for target in targets::TARGETS {
        guard.run(target.name, b"", target.run);
        for case in &seeds {
            guard.run(
                &format!("{} {}", target.name, case.name),
                &case.bytes,
                target.run,
            );
        }
    }
    guard.finish();
}

/// The fuzz workspace has a file for every target, and none more.
#[test]
fn fuzz_targets_are_the_shared_ones() {
    let dir = common::root().join("fuzz/fuzz_targets");
    let mut there: Vec<String> = std::fs::read_dir(dir)
        .expect("fuzz/fuzz_targets")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    there.sort();
    let mut named: Vec<String> = targets::TARGETS
        .iter()
        .map(|t| format!("{}.rs", t.name))
        .collect();
    named.sort();
    assert_eq!(there, named);
    let manifest = text(&common::root().join("fuzz/Cargo.toml"));
    for t in targets::TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{}\"", t.name)),
            "{}",
            t.name
        );
    }
}

/// The guard itself: each of its three limits trips.
#[test]
#[should_panic(expected = "panicked: index out of bounds")]
fn the_guard_sees_a_panic() {
    let mut guard = Guard::new("guard");
    guard.run("empty", b"", |data| {
        let _ = data[0];
    });
    guard.finish();
}

#[test]
#[should_panic(expected = "bytes of memory")]
fn the_guard_sees_an_allocation() {
    let mut guard = Guard::new("guard");
    guard.run("large", b"", |_| drop(vec![1u8; 80 << 20]));
    guard.finish();
}

#[test]
#[should_panic(expected = "at best of three")]
fn the_guard_sees_a_slow_run() {
    let mut guard = Guard::new("guard");
    guard.run("slow", b"", |_| {
        std::thread::sleep(std::time::Duration::from_millis(1100));
    });
    guard.finish();
}
