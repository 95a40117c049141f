//! How fast each path of each block type is on one core, in MB/s of the same values as binary16.
//!
//! `cargo run --release -p weighbridge-kernels --example block_speed [TYPE..]`
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use weighbridge_kernels::block::{BlockType, Path, dequantize_row, quantize_row_by};

#[path = "../tests/common/mod.rs"]
#[allow(dead_code)]
mod common;

const COLUMNS: usize = 4096;

/// The best of several runs over rows that fit into the cache.
fn speed(path: Path, to: BlockType, rows: &[Vec<f32>], weights: Option<&[f32]>) -> f64 {
    let mut out = vec![0; COLUMNS / to.block() * to.bytes()];
    let (start, mut best, mut at) = (Instant::now(), f64::MAX, 0);
    while start.elapsed() < Duration::from_millis(150) || at < 3 {
        let once = Instant::now();
        quantize_row_by(path, to, &rows[at % rows.len()], weights, &mut out);
        best = best.min(once.elapsed().as_secs_f64());
        at += 1;
    }
    (2 * COLUMNS) as f64 / best / 1e6
}

/// The same for the way back.
fn speed_back(from: BlockType, rows: &[Vec<f32>], weights: &[f32]) -> f64 {
    let mut blocks = vec![0; COLUMNS / from.block() * from.bytes()];
    quantize_row_by(Path::best(), from, &rows[0], Some(weights), &mut blocks);
    let mut out = vec![0.0; COLUMNS];
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed() < Duration::from_millis(100) {
        let once = Instant::now();
        dequantize_row(from, &blocks, &mut out);
        best = best.min(once.elapsed().as_secs_f64());
    }
    (2 * COLUMNS) as f64 / best / 1e6
}

fn main() {
    let named: Vec<BlockType> = std::env::args()
        .skip(1)
        .filter_map(|name| BlockType::from_name(&name))
        .collect();
    let mut r = common::Random(1);
    let rows: Vec<Vec<f32>> = (0..4).map(|_| common::row(&mut r, 0, COLUMNS)).collect();
    let importance = common::weights(&mut r, 0, COLUMNS);
    print!("{:8} {:>8}", "type", "weights");
    for path in Path::ALL {
        print!(" {:>9}", format!("{path:?}"));
    }
    println!(" {:>9}", "back");
    for to in BlockType::ALL {
        if !to.can_quantize() || !(named.is_empty() || named.contains(&to)) {
            continue;
        }
        for weights in [None, Some(&importance[..])] {
            if weights.is_none() && to.needs_weights() {
                continue;
            }
            print!(
                "{:8} {:>8}",
                to.name(),
                if weights.is_some() { "yes" } else { "no" }
            );
            for path in Path::ALL {
                if path.is_available() {
                    print!(" {:>9.1}", speed(path, to, &rows, weights));
                } else {
                    print!(" {:>9}", "-");
                }
            }
            println!(" {:>9.1}", speed_back(to, &rows, &importance));
        }
    }
}
