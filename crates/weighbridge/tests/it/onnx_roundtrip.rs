//! Weights out of models and into them again: random models, broken ones, real ones.

use std::path::{Path, PathBuf};

use weighbridge::convert::ConvertOptions;

use crate::onnx_convert::*;

/// Numbers that look random and are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[test]
fn random_models_come_back_as_they_were() {
    let f = Folder::new();
    let mut r = Numbers(7);
    for round in 0..60 {
        let n = 1 + r.next(12);
        let kinds = [
            (1, 4),
            (2, 1),
            (3, 1),
            (5, 2),
            (7, 8),
            (9, 1),
            (10, 2),
            (11, 8),
            (14, 8),
            (16, 2),
            (17, 1),
        ];
        let (mut one, mut zero) = (Vec::new(), Vec::new());
        for i in 0..n {
            let (kind, width) = kinds[r.next(kinds.len() as u64) as usize];
            let rank = r.next(4);
            let dims: Vec<i64> = (0..rank).map(|_| r.next(5) as i64).collect();
            let len = dims.iter().product::<i64>() as usize * width;
            let bits = if kind == 9 { 2 } else { 256 };
            let raw: Vec<u8> = (0..len).map(|_| r.next(bits) as u8).collect();
            let name = format!("t{i}.{}", "n".repeat(r.next(9) as usize));
            one.push(tensor(&name, kind, &dims, raw));
            zero.push(tensor(&name, kind, &dims, vec![0; len]));
        }
        let from = f.write("m.onnx", &model(&one));
        let base = f.write("base.onnx", &model(&zero));
        let (w, out) = (f.at("w.safetensors"), f.at("out.onnx"));
        run(&from, &w, &quick()).unwrap();
        run(&w, &out, &into(&base)).unwrap();
        assert!(
            std::fs::read(&out).unwrap() == std::fs::read(&from).unwrap(),
            "round {round}"
        );
        match run(&from, &f.at("s.onnx"), &shared(&f.at("s.safetensors"))) {
            Ok(_) => assert_eq!(weights(&open(&f.at("s.onnx"))), weights(&open(&from))),
            Err(e) => assert_eq!(e.rule(), "convert.shared-weights", "{e}"),
        }
    }
}

#[test]
fn broken_graphs_leave_nothing_behind() {
    let f = Folder::new();
    let (base, tuned) = pair(&f);
    let whole = std::fs::read(&base).unwrap();
    let w = f.at("w.safetensors");
    run(&tuned, &w, &quick()).unwrap();
    let mut r = Numbers(11);
    let (mut refused, mut taken) = (0, 0);
    for i in 0..300 {
        let mut bytes = whole.clone();
        match i * 2 < whole.len() {
            true => bytes.truncate(i * 2),
            false => {
                let at = r.next(whole.len() as u64) as usize;
                bytes[at] = r.next(256) as u8;
            }
        }
        let broken = f.write("broken.onnx", &bytes);
        let (out, shared_out) = (f.at("out.onnx"), f.at("s.onnx"));
        let all = [
            run(&w, &out, &into(&broken)),
            run(&broken, &shared_out, &shared(&f.at("s.safetensors"))),
        ];
        for (result, path) in all.into_iter().zip([&out, &shared_out]) {
            match result {
                Ok(_) => {
                    weighbridge::open(path).unwrap_or_else(|e| panic!("{i}: {e}"));
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
        }
        for name in ["out.onnx", "s.onnx", "s.safetensors"] {
            let _ = std::fs::remove_file(f.at(name));
        }
        let left = ["base.onnx", "broken.onnx", "tuned.onnx", "w.safetensors"];
        assert_eq!(f.names(), left, "{i}");
    }
    assert!(refused > 50 && taken > 50, "{refused} {taken}");
}

fn corpus_models() -> Vec<PathBuf> {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return Vec::new();
    };
    let mut all = Vec::new();
    for dir in ["real/onnx", "onnx/clean_control", "onnx/conformance"] {
        for e in std::fs::read_dir(corpus.join(dir)).unwrap() {
            let path = e.unwrap().path();
            // One lies without its data under this name.
            let whole = !path.to_string_lossy().contains("mnist-external");
            if path.extension().is_some_and(|e| e == "onnx") && whole {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn real_weights_come_back_into_their_graphs() {
    let f = Folder::new();
    let (mut back, mut pairs) = (0, 0);
    for path in corpus_models() {
        let m = open(&path);
        let dense = |t: &&weighbridge::Tensor| t.has_data() && t.dtype.bytes().is_some();
        if m.tensors.iter().filter(dense).count() == 0 {
            continue;
        }
        let (w, out) = (f.at("w.safetensors"), f.at("out.onnx"));
        let densify = ConvertOptions {
            densify: true,
            complex_as_real: false,
            ..quick()
        };
        run(&path, &w, &densify).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let options = ConvertOptions {
            // What safetensors does not have stays in the graph.
            partial: true,
            ..into(&path)
        };
        run(&w, &out, &options).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let (got, want) = (weights(&open(&out)), weights(&m));
        for (name, t) in want {
            assert_eq!(got.get(&name), Some(&t), "{path:?}: {name}");
        }
        back += 1;
        let (s, file) = (f.at("s.onnx"), f.at("s.safetensors"));
        if run(&path, &s, &shared(&file)).is_ok() {
            assert_eq!(weights(&open(&s)), weights(&m), "{path:?}");
            pairs += 1;
        }
    }
    if std::env::var_os("WEIGHBRIDGE_CORPUS").is_some() {
        assert!(back > 60 && pairs > 40, "{back} {pairs}");
    }
}

/// ONNX Runtime gives the same outputs for a model, for the same with its weights put in again,
/// and with its weights in a safetensors file, which the safetensors library reads.
#[test]
fn onnx_runtime_runs_what_we_write_with_equal_outputs() {
    let Some(venv) = std::env::var_os("WEIGHBRIDGE_ONNX_VENV") else {
        println!("skipped: WEIGHBRIDGE_ONNX_VENV is not set");
        return;
    };
    let f = Folder::new();
    let mut sets = Vec::new();
    for (i, path) in corpus_models().into_iter().enumerate() {
        let (w, put) = (
            f.at(&format!("{i}.w.safetensors")),
            f.at(&format!("{i}.put.onnx")),
        );
        let (s, file) = (
            f.at(&format!("{i}.s.onnx")),
            f.at(&format!("{i}.s.safetensors")),
        );
        if run(&path, &w, &quick()).is_err() || run(&path, &s, &shared(&file)).is_err() {
            continue;
        }
        let partial = ConvertOptions {
            partial: true,
            ..into(&path)
        };
        run(&w, &put, &partial).unwrap();
        sets.extend([path, put, s, file]);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../peers/onnx_outputs.py");
    let mut c = std::process::Command::new(Path::new(&venv).join("bin/python"));
    let out = c.arg(script).args(&sets).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let n: u32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(n > 30, "{said}");
}
