//! Every file of the PyTorch corpus against its recorded answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use weighbridge::structure::{self, Form};
use weighbridge::{Model, OpenOptions};

/// The corpus, or `None` (said aloud) when the environment names none.
pub fn corpus() -> Option<PathBuf> {
    match std::env::var_os("WEIGHBRIDGE_CORPUS") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => {
            println!("skipped: WEIGHBRIDGE_CORPUS is not set");
            None
        }
    }
}

fn expected(dir: &Path, stem: &str) -> Json {
    let text = std::fs::read(dir.join(format!("{stem}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn sha(t: &weighbridge::Tensor) -> String {
    hex::encode(Sha256::digest(t.bytes().unwrap()))
}

/// Compares one model with the fixture's JSON; gives what differs.
fn differences(model: &Model, want: &Json) -> Vec<String> {
    let mut out = Vec::new();
    let tensors = want["tensors"].as_object().unwrap();
    let names: BTreeMap<&str, _> = model.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    for name in names.keys() {
        if !tensors.contains_key(*name) {
            out.push(format!("unexpected tensor {name}"));
        }
    }
    for (name, info) in tensors {
        let Some(t) = names.get(name.as_str()) else {
            out.push(format!("missing tensor {name}"));
            continue;
        };
        let shape: Vec<u64> = info["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d.as_u64().unwrap())
            .collect();
        let packed = info["torch_dtype"] == "float4_e2m1fn_x2";
        let mut have = t.shape.to_vec();
        if packed {
            *have.last_mut().unwrap() /= 2;
        }
        if have != shape {
            out.push(format!("{name}: shape {have:?}, expected {shape:?}"));
        }
        if let Some(d) = info["dtype"].as_str()
            && t.dtype.as_str() != d
        {
            out.push(format!("{name}: dtype {}, expected {d}", t.dtype));
        }
        let layout = info["layout"].as_str().unwrap_or("strided");
        let meta = info["device"] == "meta";
        let have = t.layout.as_str();
        if have != if meta { "meta" } else { layout } {
            out.push(format!("{name}: layout {have}, expected {layout}"));
        }
        let digest = info["sha256"]
            .as_str()
            .or(info["quantized"]["int_repr_sha256"].as_str());
        if let Some(want) = digest {
            let have = sha(t);
            if have != want {
                out.push(format!("{name}: sha256 {have}, expected {want}"));
            }
        } else if t.has_data() {
            out.push(format!("{name}: has data, none expected"));
        }
    }
    let structure = model
        .structure
        .as_ref()
        .map(|s| structure::to_json(s, Form::Inspect));
    if !want["structure"].is_null() && structure.as_ref() != Some(&want["structure"]) {
        out.push(format!(
            "structure\n  have {}\n  want {}",
            structure.unwrap_or_default(),
            want["structure"]
        ));
    }
    out
}

#[test]
fn every_fixture_gives_its_recorded_answer() {
    let Some(corpus) = corpus() else { return };
    let dir = corpus.join("torch");
    let manifest = std::fs::read_to_string(dir.join("manifest.tsv")).unwrap();
    let mut bad = Vec::new();
    let mut seen = 0;
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (file, verdict) = (fields[0], fields[3]);
        let stem = file
            .trim_end_matches(".tar")
            .rsplit_once('.')
            .map_or(file, |(s, _)| s);
        let want = expected(&dir, stem);
        seen += 1;
        let opened = OpenOptions::default().open(dir.join(file)).and_then(|m| {
            // Reading is where checksums are verified.
            for t in m.tensors.iter().filter(|t| t.has_data()) {
                t.read_vec()?;
            }
            Ok(m)
        });
        match (opened, verdict) {
            (Ok(_), "reject") => bad.push(format!("{file}: opened, must be refused")),
            (Err(_), "reject") => {}
            (Ok(model), "unsafe") => {
                // What the unknown global would give is an opaque object in ours.
                let mut want = want.clone();
                want["structure"] = Json::Null;
                bad.extend(
                    differences(&model, &want)
                        .iter()
                        .map(|d| format!("{file}: {d}")),
                );
            }
            (Ok(model), _) => {
                bad.extend(
                    differences(&model, &want)
                        .iter()
                        .map(|d| format!("{file}: {d}")),
                );
            }
            (Err(e), _) => bad.push(format!("{file}: {e}")),
        }
    }
    assert_eq!(seen, 64, "the corpus has 64 inputs");
    assert!(
        bad.is_empty(),
        "{} differences:\n{}",
        bad.len(),
        bad.join("\n")
    );
}

/// The tensors of a safetensors file, read the plain way: the oracle must not be our own reader.
fn plain_safetensors(path: &Path) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let mut out = BTreeMap::new();
    for (name, t) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let at = |i: usize| t["data_offsets"][i].as_u64().unwrap() as usize + 8 + n;
        let shape = t["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d.as_u64().unwrap())
            .collect();
        let dtype = t["dtype"].as_str().unwrap().to_owned();
        out.insert(name.clone(), (dtype, shape, bytes[at(0)..at(1)].to_vec()));
    }
    out
}

#[test]
fn real_checkpoints_read_as_the_reference_reads_them() {
    let Some(corpus) = corpus() else { return };
    let dir = corpus.join("real/torch");
    let index = std::fs::read_to_string(dir.join("index.tsv")).unwrap();
    let mut bad = Vec::new();
    let mut compared = 0;
    for line in index.lines().skip(1) {
        let file = line.split('\t').next().unwrap();
        let opened = weighbridge::open(dir.join(file));
        let answer = dir.join(format!("{file}.expected.safetensors"));
        if !answer.exists() {
            let ok = match file {
                "ncnn_not_torch.bin" => {
                    opened.as_ref().is_err_and(|e| e.rule() == "format.unknown")
                }
                "tddfa_param_whitening.pkl" => opened
                    .as_ref()
                    .is_ok_and(|m| m.tensors.is_empty() && m.structure.is_some()),
                _ => false,
            };
            if !ok {
                bad.push(format!("{file}: {opened:?}"));
            }
            continue;
        }
        let model = match opened {
            Ok(m) => m,
            Err(e) => {
                bad.push(format!("{file}: {e}"));
                continue;
            }
        };
        let want = plain_safetensors(&answer);
        compared += 1;
        let have: BTreeMap<_, _> = model
            .tensors
            .iter()
            .map(|t| {
                let value = (t.dtype.to_string(), t.shape.to_vec(), t.read_vec().unwrap());
                (t.name.clone(), value)
            })
            .collect();
        for (name, w) in &want {
            match have.get(name) {
                None => bad.push(format!("{file}: {name} is missing")),
                Some(h) if h != w => bad.push(format!(
                    "{file}: {name} differs: {:?} {:?} for {:?} {:?}",
                    h.0, h.1, w.0, w.1
                )),
                Some(_) => {}
            }
        }
        for name in have.keys().filter(|n| !want.contains_key(*n)) {
            bad.push(format!("{file}: unexpected {name}"));
        }
    }
    assert!(compared >= 9, "only {compared} files had an answer");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
