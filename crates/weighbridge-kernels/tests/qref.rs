//! Every type against the reference quantizer's recorded bytes and values, row by row.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use weighbridge_kernels::block::{BlockType, dequantize_row, quantize_row};

fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if corpus.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    corpus.map(|c| Path::new(&c).join("gguf/qref"))
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// One line of the index: what was quantized, and what came of it.
struct Vector {
    to: BlockType,
    set: String,
    weighted: bool,
    columns: usize,
    bytes: Vec<u8>,
    values: Option<Vec<f32>>,
}

fn vectors(dir: &Path) -> Vec<Vector> {
    let index = std::fs::read_to_string(dir.join("index.tsv")).unwrap();
    let mut out = Vec::new();
    for line in index.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        // F16 and BF16 are no block types.
        let Some(to) = BlockType::from_name(cells[0]) else {
            continue;
        };
        out.push(Vector {
            to,
            set: cells[4].to_owned(),
            weighted: cells[5] == "1",
            columns: cells[7].parse().unwrap(),
            bytes: std::fs::read(dir.join(cells[8])).unwrap(),
            values: (cells[10] != "-").then(|| floats(&dir.join(cells[10]))),
        });
    }
    assert!(out.len() > 60, "{}", out.len());
    out
}

#[test]
fn every_row_quantizes_to_the_reference_bytes() {
    let Some(dir) = corpus() else { return };
    let mut wrong = Vec::new();
    for v in vectors(&dir) {
        let input = floats(&dir.join(format!("input.{}.f32", v.set)));
        let weights = floats(&dir.join(format!("weights.{}.f32", v.set)));
        let row_bytes = v.columns / v.to.block() * v.to.bytes();
        let mut bad = 0;
        for (row, want) in input.chunks_exact(v.columns).zip(v.bytes.chunks(row_bytes)) {
            let mut got = vec![0; row_bytes];
            let n = quantize_row(v.to, row, v.weighted.then_some(&weights[..]), &mut got);
            bad += usize::from(n != row_bytes || got != want);
        }
        if bad > 0 {
            wrong.push(format!(
                "{} {} w{}: {bad} rows",
                v.to.name(),
                v.set,
                u8::from(v.weighted)
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_block_dequantizes_to_the_reference_values() {
    let Some(dir) = corpus() else { return };
    let mut wrong = Vec::new();
    for v in vectors(&dir) {
        let Some(want) = &v.values else { continue };
        let mut got = vec![f32::NAN; want.len()];
        let n = dequantize_row(v.to, &v.bytes, &mut got);
        let same = got
            .iter()
            .zip(want)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        if n != want.len() || !same {
            wrong.push(format!("{} {}", v.to.name(), v.set));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn random_blocks_dequantize_to_the_reference_values() {
    let Some(dir) = corpus() else { return };
    let index = std::fs::read_to_string(dir.join("random_dequant.tsv")).unwrap();
    let mut wrong = Vec::new();
    for line in index.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let from = BlockType::from_name(cells[0]).unwrap();
        assert_eq!(cells[1].parse(), Ok(from.id()));
        let blocks = std::fs::read(dir.join(cells[4])).unwrap();
        let want = floats(&dir.join(cells[5]));
        let mut got = vec![f32::NAN; want.len()];
        let n = dequantize_row(from, &blocks, &mut got);
        let same = got
            .iter()
            .zip(&want)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        if n != want.len() || !same {
            wrong.push(cells[0].to_owned());
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
