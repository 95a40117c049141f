//! Both forms, sums, and what is no matrix.

use std::path::Path;

use super::*;

fn matrix(entries: &[(&str, &[f32], &[i64])]) -> Matrix {
    let entry = |(name, sums, counts): &(&str, &[f32], &[i64])| {
        let e = Entry {
            sums: sums.to_vec(),
            counts: counts.to_vec(),
        };
        ((*name).to_owned(), e)
    };
    Matrix {
        form: Form::Gguf,
        datasets: vec![b"a.txt".to_vec(), b"b\xff.txt".to_vec()],
        chunk_count: 4,
        chunk_size: 512,
        entries: entries.iter().map(entry).collect(),
    }
}

fn small() -> Matrix {
    matrix(&[
        ("blk.0.attn_q.weight", &[512.0, 1024.0, 0.0, 3.5], &[2048]),
        (
            "blk.0.ffn_up_exps.weight",
            &[1024.0, 2048.0, 7.0, 9.0],
            &[1024, 0],
        ),
    ])
}

fn there_and_back(m: &Matrix, form: Form) -> Matrix {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    write(m, form, &path, false).unwrap();
    read(&path).unwrap()
}

#[test]
fn gguf_comes_back_as_it_was() {
    assert_eq!(there_and_back(&small(), Form::Gguf), small());
}

#[test]
fn names_of_texts_are_carried_byte_for_byte() {
    let shown = small().to_json()["datasets"].to_string();
    assert_eq!(shown, r#"["a.txt",{"$bytes":"62ff2e747874"}]"#);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write(&small(), Form::Gguf, &path, false).unwrap();
    // A list of something else is not passed over.
    let change = crate::edit::Change::parse_set("imatrix.datasets:arr[u8]=[1]").unwrap();
    crate::edit::edit(&path, &[change], &Default::default(), &mut |_, _| {}).unwrap();
    let e = read(&path).unwrap_err();
    assert_eq!(e.rule(), "imatrix.metadata");
    assert!(e.message().contains("imatrix.datasets"), "{e}");
}

#[test]
fn the_older_form_gives_the_same_weights() {
    let m = small();
    let old = there_and_back(&m, Form::Legacy);
    assert_eq!(old.form, Form::Legacy);
    assert_eq!(old.datasets, [b"b\xff.txt"]);
    assert_eq!(old.chunk_count, 4);
    for name in m.entries.keys() {
        assert_eq!(m.weights(name), old.weights(name), "{name}");
        // And again through GGUF, whatever a chunk is said to hold.
        for size in [512, 100] {
            let new = there_and_back(&old.raw(size), Form::Gguf);
            let near = new.weights(name).unwrap();
            let want = old.weights(name).unwrap();
            for (a, b) in near.iter().zip(&want) {
                assert!((a - b).abs() <= b.abs() * 1e-6, "{name} {size}");
            }
        }
    }
    // An expert that saw nothing weighs all alike.
    let w = m.weights("blk.0.ffn_up_exps.weight").unwrap();
    assert_eq!(w, [1.0, 2.0, 1.0, 1.0]);
    assert_eq!(m.weights("x"), None);
}

/// What could not be read again is not written either.
#[test]
fn the_older_form_refuses_what_it_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.dat");
    let unseen = matrix(&[("blk.0.attn_q.weight", &[0.0, 0.0], &[0])]);
    let mut wordy = small();
    wordy.datasets.push(vec![b'x'; 5000]);
    for (m, rule) in [(unseen, "imatrix.write"), (wordy, "imatrix.too-large")] {
        let e = write(&m, Form::Legacy, &path, false).unwrap_err();
        assert_eq!(e.rule(), rule);
        assert!(!path.exists());
        assert_eq!(there_and_back(&m, Form::Gguf), m);
    }
}

#[test]
fn sums_add_up() {
    let a = small();
    let b = matrix(&[
        ("blk.0.attn_q.weight", &[1.0, 1.0, 1.0, 1.0], &[512]),
        ("blk.0.ffn_up_exps.weight", &[0.0, 0.0, 1.0, 1.0], &[512]),
        ("output.weight", &[2.0], &[1]),
    ]);
    let m = merge(&[a.clone(), b]).unwrap();
    let q = &m.entries["blk.0.attn_q.weight"];
    assert_eq!(
        (&q.sums[..], &q.counts[..]),
        (&[513.0, 1025.0, 1.0, 4.5][..], &[2560][..])
    );
    let up = &m.entries["blk.0.ffn_up_exps.weight"];
    assert_eq!(up.counts, [1536, 512]);
    assert_eq!(m.entries.len(), 3);
    assert_eq!((m.chunk_count, m.datasets.len()), (5, 4));
    let other = matrix(&[("blk.0.attn_q.weight", &[1.0], &[1])]);
    let e = merge(&[a, other]).unwrap_err();
    assert_eq!(e.rule(), "imatrix.sizes");
    assert!(e.to_string().contains("blk.0.attn_q.weight"));
    assert_eq!(merge(&[]).unwrap_err().rule(), "imatrix.none");
}

fn refused(bytes: &[u8]) -> &'static str {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.dat");
    std::fs::write(&path, bytes).unwrap();
    read(&path).unwrap_err().rule()
}

#[test]
fn what_is_no_matrix_is_refused() {
    assert_eq!(refused(b""), "imatrix.truncated");
    assert_eq!(refused(b"abc"), "imatrix.truncated");
    assert_eq!(refused(&[0; 64]), "imatrix.count");
    assert_eq!(refused(&[0xff; 64]), "imatrix.count");
    assert_eq!(refused(b"\x01\0\0\0\xff\xff\xff\x7fabc"), "imatrix.count");
    assert_eq!(
        refused(b"\x01\0\0\0\x01\0\0\0a\x01\0\0\0\xff\xff\xff\x7f"),
        "imatrix.truncated"
    );
    let nan = [
        b"\x01\0\0\0\x01\0\0\0a\x01\0\0\0\x01\0\0\0".as_slice(),
        &f32::NAN.to_le_bytes(),
    ];
    assert_eq!(refused(&nan.concat()), "imatrix.not-finite");
    let one = b"\x01\0\0\0a\x01\0\0\0\x01\0\0\0\0\0\x80\x3f".as_slice();
    let twice = [b"\x02\0\0\0".as_slice(), one, one].concat();
    assert_eq!(refused(&twice), "imatrix.twice");
}

#[test]
fn a_file_cut_anywhere_is_refused_or_still_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.dat");
    write(&small(), Form::Legacy, &path, false).unwrap();
    let whole = std::fs::read(&path).unwrap();
    // What follows the entries may be missing: old writers wrote none of it.
    let tail = whole.len() - 4 - 4 - small().datasets[1].len();
    for n in 0..whole.len() {
        std::fs::write(&path, &whole[..n]).unwrap();
        assert_eq!(read(&path).is_ok(), n >= tail && n < tail + 8, "{n}");
    }
}

fn corpus() -> Option<std::path::PathBuf> {
    let dir = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if dir.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    dir.map(|d| Path::new(&d).join("gguf/imatrix"))
}

#[test]
fn the_corpus_matrices_come_back() {
    let Some(corpus) = corpus() else { return };
    let new = read(&corpus.join("tiny-llama.gguf")).unwrap();
    let old = read(&corpus.join("tiny-llama.dat")).unwrap();
    assert_eq!((new.form, old.form), (Form::Gguf, Form::Legacy));
    assert_eq!((new.chunk_count, new.chunk_size), (10, 512));
    for m in [&new, &old] {
        assert_eq!(m.entries.len(), 15);
        assert_eq!(m.datasets, [b"calib.txt"]);
        assert_eq!(&there_and_back(m, m.form), m);
    }
}
