//! Whole files against those of the reference quantizer, and what is refused.

use std::path::{Path, PathBuf};

use weighbridge::quantize::{FileType, QuantizeOptions, Quantized, imatrix, quantize};

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
