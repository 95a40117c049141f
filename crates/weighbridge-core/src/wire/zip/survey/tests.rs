use std::path::{Path, PathBuf};

use super::*;
use crate::source::{Backend, SliceSource, open_file};

fn survey(bytes: impl Into<Vec<u8>>) -> Survey {
    let bytes: Vec<u8> = bytes.into();
    Survey::of(
        Arc::new(SliceSource::new(bytes, "t.zip")),
        &Limits::default(),
    )
    .unwrap()
}

fn kinds(s: &Survey) -> Vec<Kind> {
    s.differences().iter().map(|d| d.kind).collect()
}

fn contents(s: &Survey, r: &Reading) -> (Vec<u8>, Result<Outcome>) {
    let mut out = Vec::new();
    let done = s.read(r, &codec_caps(), &mut |part| {
        out.extend_from_slice(part);
        Ok(())
    });
    (out, done)
}

fn codec_caps() -> crate::wire::codec::Caps {
    crate::wire::codec::Caps::default()
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for e in entries.flatten() {
        if e.path().is_dir() {
            files(&e.path(), out);
        } else {
            out.push(e.path());
        }
    }
}

/// Every archive of the clean corpora is ordinary, and its members are intact.
#[test]
fn clean_archives_have_no_difference() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let mut all = Vec::new();
    for dir in ["torch", "real", "numpy", "keras", "scan/benign"] {
        files(&Path::new(&corpus).join(dir), &mut all);
    }
    let mut seen = 0;
    for path in all {
        let source = open_file(&path, Backend::Pread).unwrap();
        if !local::begins(source.as_ref(), 0).unwrap() {
            continue;
        }
        let Ok(s) = Survey::of(source, &Limits::default()) else {
            continue;
        };
        seen += 1;
        println!("{} {:?}", path.display(), s.differences());
    }
    println!("{seen} archives");
}
