//! Conversions there and back over the corpus.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use weighbridge::convert::{ConvertOptions, Report, convert};
use weighbridge::format::safetensors::aliases;
use weighbridge::structure::{self, Form};
use weighbridge::{Limits, Model};

fn corpus() -> Option<PathBuf> {
    let dir = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if dir.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    dir.map(|d| PathBuf::from(d).join("torch"))
}

/// The single-file fixtures that convert, with their expected answers.
fn fixtures(dir: &Path) -> Vec<(PathBuf, Json)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let file = dir.join(json["file"].as_str().unwrap_or_default());
        let verdict = json["verdict"].as_str().unwrap_or_default();
        if file.is_file() && matches!(verdict, "convert" | "partial" | "unsafe") {
            out.push((file, json));
        }
    }
    assert!(out.len() > 30, "{} fixtures", out.len());
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn open(path: &Path) -> Model {
    let mut m = weighbridge::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    if m.structure.is_none() {
        structure::restore(&mut m, &Limits::default());
        aliases::restore(&mut m, &Default::default()).unwrap();
    }
    m
}

fn run(model: Model, to: &Path, options: &ConvertOptions) -> Report {
    let mut told = 0;
    let mut whole = 0;
    let report = convert(model, to, options, &mut |n, total| {
        told += n;
        whole = total;
    });
    let report = report.unwrap_or_else(|e| panic!("{to:?}: {e}"));
    assert_eq!(told, whole);
    assert_eq!(report.output, [to]);
    assert_eq!(report.bytes, std::fs::metadata(to).unwrap().len());
    report
}

/// dtype, shape and digest of every dense tensor by name.
fn digests(m: &Model) -> BTreeMap<String, (String, Vec<u64>, String)> {
    let dense = m.tensors.iter().filter(|t| t.has_data());
    dense
        .map(|t| {
            let sha = hex::encode(Sha256::digest(t.read_vec().unwrap()));
            (t.name.clone(), (t.dtype.to_string(), t.shape.to_vec(), sha))
        })
        .collect()
}

fn shown(m: &Model) -> Json {
    structure::to_json(m.structure.as_ref().unwrap(), Form::Inspect)
}

/// The groups of names that share storage, as the corpus lists them.
fn shared(m: &Model) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = m
        .alias_groups()
        .into_iter()
        .map(|g| {
            let mut names: Vec<String> = g.iter().map(|&i| m.tensors[i].name.clone()).collect();
            names.sort();
            names
        })
        .collect();
    all.sort();
    all
}

#[test]
fn checkpoints_go_to_safetensors_and_back() {
    let Some(dir) = corpus() else { return };
    let work = tempfile::tempdir().unwrap();
    let (mut structures, mut groups) = (0, 0);
    for (file, json) in fixtures(&dir) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let original = open(&file);
        let before = digests(&original);
        let (st, pt) = (work.path().join("m.safetensors"), work.path().join("m.pt"));
        let options = ConvertOptions::default();
        // What safetensors cannot hold is left to the test below.
        if original.tensors.iter().all(|t| !t.has_data()) || name.starts_with("dtype_f4") {
            continue;
        }
        let out = run(original.clone(), &st, &options);
        let there = open(&st);
        let mut after = digests(&there);
        after.retain(|n, _| !n.starts_with(structure::BULK_PREFIX));
        let lost: Vec<&str> = out.lost.iter().map(|n| n.what.as_str()).collect();
        for (n, t) in &before {
            match after.remove(n) {
                Some(same) => assert_eq!(&same, t, "{name}: {n}"),
                None => assert!(lost.contains(&n.as_str()), "{name}: {n} is gone unsaid"),
            }
        }
        assert!(after.is_empty(), "{name}: {after:?}");
        if !lost.is_empty() || there.structure.is_none() && !is_flat(&original) {
            continue;
        }
        if there.structure.is_some() {
            assert_eq!(
                shown(&there),
                shown(&original),
                "{name}: structure in safetensors"
            );
            structures += 1;
        }
        let out = run(there, &pt, &options);
        let back = open(&pt);
        assert_eq!(digests(&back), before, "{name}: back in .pt");
        if out.changed.is_empty() {
            // As text: NaN equals nothing, and the order of a plain dict is that of the file.
            let text = |m: &Model| structure::to_json(m.structure.as_ref().unwrap(), Form::Stored);
            let (got, want) = (text(&back).to_string(), text(&original).to_string());
            assert_eq!(got.len(), want.len(), "{name}: {got}");
            assert!(
                got == want || is_flat(&original),
                "{name}: structure in .pt: {got}"
            );
        }
        let want: Vec<Vec<String>> =
            serde_json::from_value(json["shared_storage"].clone()).unwrap_or_default();
        if !want.is_empty() && !name.contains("legacy") {
            assert_eq!(shared(&back), shared(&original), "{name}: sharing");
            groups += 1;
        }
        run(original, &pt, &options);
        assert_eq!(digests(&open(&pt)), before, "{name}: .pt to .pt");
    }
    assert!(structures > 8, "{structures} structures compared");
    assert!(groups > 2, "{groups} files with sharing compared");
}

/// Whether the structure says nothing that the tensors' names do not.
fn is_flat(m: &Model) -> bool {
    let mut plain = m.clone();
    plain.tensors.iter_mut().for_each(|t| t.extra = None);
    structure::metadata_entries(&plain).is_empty()
}

/// Compares two checkpoints with torch: argv is pairs of original and ours.
const COMPARE: &str = r#"
import sys, math, collections, torch
def bits(t):
    t = t.detach()
    if t.is_quantized: t = t.int_repr()
    t = t.resolve_conj().resolve_neg().contiguous()
    return t.reshape(-1).view(torch.uint8) if t.numel() else t
def same(a, b, path, seen):
    if isinstance(a, torch.Tensor):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.layout == b.layout, path
        assert a.requires_grad == b.requires_grad and a.device == b.device, path
        assert a.__dict__ == b.__dict__, path
        if a.device.type == 'meta': return
        if a.layout != torch.strided: a, b = a.to_dense(), b.to_dense()
        if a.is_quantized: assert torch.equal(a.dequantize(), b.dequantize()), path
        assert torch.equal(bits(a), bits(b)), path
        return
    assert type(a) is type(b), (path, type(a), type(b))
    if id(a) in seen: return
    seen.add(id(a))
    if isinstance(a, dict):
        assert sorted(map(repr, a)) == sorted(map(repr, b)), path
        if type(a) is collections.OrderedDict: assert list(a) == list(b), path
        for k in a: same(a[k], b[k], f'{path}.{k}', seen)
        if hasattr(a, '__dict__'): same(vars(a), vars(b), path + '.__dict__', seen)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)): same(x, y, f'{path}.{i}', seen)
    elif isinstance(a, float) and math.isnan(a): assert math.isnan(b), path
    else: assert a == b, (path, a, b)
for a, b in zip(sys.argv[1::2], sys.argv[2::2]):
    try: b = torch.load(b, weights_only=True)
    except Exception as e: raise SystemExit(f'{a}: {e}')
    try: same(torch.load(a, weights_only=False), b, a, set())
    except AssertionError as e: raise SystemExit(f'differs: {e}')
"#;

/// torch reads our checkpoints, whether they come straight from its own or by way of safetensors,
/// as equal objects.
#[test]
fn torch_reads_what_comes_back() {
    let Some(dir) = corpus() else { return };
    let Some(venv) = std::env::var_os("WEIGHBRIDGE_PEERS_VENV") else {
        println!("skipped: WEIGHBRIDGE_PEERS_VENV is not set");
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let options = ConvertOptions::default();
    let mut pairs: Vec<PathBuf> = Vec::new();
    for (file, json) in fixtures(&dir) {
        let original = open(&file);
        let torch = json["weights_only_true"] == "ok" || json["weights_only_false"] == "ok";
        if !torch || json["container"] == "torchscript" {
            continue;
        }
        let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
        let direct = work.path().join(format!("{stem}.pt"));
        let report = run(original.clone(), &direct, &options);
        if report.changed.is_empty() && report.lost.is_empty() {
            pairs.extend([file.clone(), direct]);
        }
        let middle = work.path().join(format!("{stem}.safetensors"));
        let mut told = |_: u64, _: u64| {};
        let Ok(report) = convert(original, &middle, &options, &mut told) else {
            continue;
        };
        let back = work.path().join(format!("{stem}.back.pt"));
        let again = run(open(&middle), &back, &options);
        let clean = [&report.changed, &report.lost, &again.changed, &again.lost];
        if clean.iter().all(|n| n.is_empty()) {
            pairs.extend([file, back]);
        }
    }
    assert!(pairs.len() > 80, "{} files compared", pairs.len() / 2);
    let python = Path::new(&venv).join("bin/python");
    let mut run = std::process::Command::new(python);
    run.args(["-W", "ignore", "-c", COMPARE]).args(&pairs);
    let out = run.output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Dequantized and densified values are torch's own, bit by bit.
#[test]
fn computed_tensors_match_the_recorded_digests() {
    let Some(dir) = corpus() else { return };
    let work = tempfile::tempdir().unwrap();
    let options = ConvertOptions {
        dequantize: true,
        densify: true,
        ..ConvertOptions::default()
    };
    let mut seen = 0;
    for (file, json) in fixtures(&dir) {
        let wanted: Vec<(String, String)> = json["tensors"]
            .as_object()
            .unwrap()
            .iter()
            .filter_map(|(n, t)| {
                let sha = t["dense_sha256"]
                    .as_str()
                    .or(t["quantized"]["dequant_f32_sha256"].as_str());
                Some((n.clone(), sha?.to_owned()))
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        for target in ["m.safetensors", "m.pt"] {
            let out = work.path().join(target);
            let report = run(open(&file), &out, &options);
            assert!(report.lost.is_empty(), "{file:?}: {report:?}");
            let got = digests(&open(&out));
            for (name, sha) in &wanted {
                assert_eq!(&got[name].2, sha, "{file:?}: {name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "{seen} tensors compared");
}
