//! Every path gives the bytes of the scalar twin, on rows of every kind.

mod common;

use weighbridge_kernels::block::{BlockType, Path, quantize_row_by};

fn check(to: BlockType, rows: usize) {
    let paths: Vec<Path> = Path::ALL.into_iter().filter(|p| p.is_available()).collect();
    let mut r = common::Random(to.id() as u64);
    // Fewer super-blocks than lanes, as many, and more.
    for (i, blocks) in [1, 3, 2, 5, 9, 19]
        .into_iter()
        .cycle()
        .take(rows)
        .enumerate()
    {
        let n = 256 * blocks;
        let row = common::row(&mut r, i, n);
        let importance = common::weights(&mut r, i / common::KINDS + i, n);
        for weights in [None, Some(&importance[..])] {
            if weights.is_none() && to.needs_weights() {
                continue;
            }
            let mut want = vec![0; n / to.block() * to.bytes()];
            let bytes = quantize_row_by(Path::Twin, to, &row, weights, &mut want);
            assert_eq!(bytes, want.len());
            for path in &paths {
                let mut got = vec![0xa5; want.len()];
                quantize_row_by(*path, to, &row, weights, &mut got);
                let same = got.iter().zip(&want).position(|(a, b)| a != b);
                assert_eq!(
                    same.map(|at| (at / to.bytes(), at % to.bytes())),
                    None,
                    "{} {path:?} kind {} of {blocks}, weights: {}",
                    to.name(),
                    i % common::KINDS,
                    weights.is_some()
                );
            }
        }
    }
}

#[test]
fn every_path_gives_the_bytes_of_the_twin() {
    let quick = std::env::var_os("WEIGHBRIDGE_PATHS_ROWS");
    let rows = quick
        .and_then(|n| n.to_str()?.parse().ok())
        .unwrap_or(2 * common::KINDS);
    for to in BlockType::ALL {
        if to.can_quantize() {
            check(to, rows);
        }
    }
}

#[test]
fn what_does_not_fit_is_not_quantized() {
    let row = [1.0; 64];
    let mut out = [0; 200];
    for path in Path::ALL {
        let quantize = |n, weights, out: &mut [u8]| {
            quantize_row_by(path, BlockType::Q8_0, &row[..n], weights, out)
        };
        assert_eq!(quantize(64, None, &mut out), 68);
        assert_eq!(quantize(0, None, &mut out), 0);
        assert_eq!(quantize(63, None, &mut out), 0);
        assert_eq!(quantize(64, Some(&[1.0; 63][..]), &mut out), 0);
        assert_eq!(quantize(64, None, &mut out[..67]), 0);
    }
}
