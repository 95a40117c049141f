#![allow(clippy::single_range_in_vec_init, clippy::field_reassign_with_default)]

use std::path::{Path, PathBuf};

use super::*;
use crate::ErrorKind;
use crate::source::{Backend, SliceSource, open_file};

/// What `testdata/README.md` describes.
fn plain(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| b"weighbridge"[i % 11] ^ ((i / 97) as u8 & 3))
        .collect()
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/sevenz/testdata")
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(samples().join(name)).unwrap()
}

fn open(bytes: &[u8]) -> Result<Archive> {
    Archive::open(
        Arc::new(SliceSource::new(bytes, "t.7z")),
        &Limits::default(),
    )
}

/// Each member's bytes and how it ended.
fn read(a: &Archive, caps: &Caps) -> Vec<(Vec<u8>, Option<Result<()>>)> {
    let mut all: Vec<(Vec<u8>, Option<Result<()>>)> = Vec::new();
    all.resize_with(a.members().len(), Default::default);
    a.read(caps, &mut |i, event| {
        match event {
            Event::Begin => assert!(all[i].0.is_empty() && all[i].1.is_none()),
            Event::Bytes(part) => all[i].0.extend_from_slice(part),
            Event::End(done) => all[i].1 = Some(done),
        }
        Ok(())
    })
    .unwrap();
    all
}

const METHODS: [&str; 9] = [
    "bcj-lzma2",
    "bzip2",
    "copy",
    "deflate",
    "delta-lzma2",
    "lzma",
    "lzma2",
    "ppmd",
    "zstd",
];

#[test]
fn every_method_is_unpacked() {
    let mut b = plain(300);
    for _ in 0..200 {
        b.extend(b"\xe8\x10\x20\x30\x00");
    }
    let want: [(&str, Kind, Vec<u8>); 7] = [
        ("a.txt", Kind::File, plain(5000)),
        ("d", Kind::Dir, vec![]),
        ("d/b.bin", Kind::File, b),
        ("d/c", Kind::File, b"x".to_vec()),
        ("d/e", Kind::Dir, vec![]),
        ("d/empty", Kind::File, vec![]),
        ("d/link", Kind::SymLink, b"../a.txt".to_vec()),
    ];
    for method in METHODS {
        let bytes = sample(&format!("{method}.7z"));
        assert!(is_7z(&bytes));
        let a = open(&bytes).unwrap_or_else(|e| panic!("{method}: {e}"));
        assert!(a.gaps().is_empty() && !a.is_header_encrypted(), "{method}");
        let got = read(&a, &Caps::default());
        assert_eq!(a.members().len(), want.len());
        for ((m, (bytes, done)), want) in a.members().iter().zip(got).zip(&want) {
            done.unwrap().unwrap_or_else(|e| panic!("{method}: {e}"));
            assert_eq!(
                (m.name.as_str(), m.kind, m.size),
                (want.0, want.1, want.2.len() as u64)
            );
            assert!(bytes == want.2, "{method} {}", m.name);
            assert!(!a.is_encrypted(m));
        }
    }
}

#[test]
fn encryption_is_reported() {
    let a = open(&sample("encrypted.7z")).unwrap();
    assert!(!a.is_header_encrypted());
    assert!(a.is_encrypted(&a.members()[0]));
    for (m, (bytes, done)) in a.members().iter().zip(read(&a, &Caps::default())) {
        match done.unwrap() {
            Ok(()) => assert_eq!(m.size, 0),
            Err(e) => assert_eq!((e.rule(), bytes.len()), ("sevenz.encrypted", 0)),
        }
    }
    let a = open(&sample("encrypted-header.7z")).unwrap();
    assert!(a.is_header_encrypted() && a.members().is_empty());
}

#[test]
fn checksums_are_verified() {
    let bytes = sample("copy.7z");
    let mut b = bytes.clone();
    b[40] ^= 1;
    let got = read(&open(&b).unwrap(), &Caps::default());
    assert_eq!(
        got[0].1.as_ref().unwrap().as_ref().unwrap_err().rule(),
        "sevenz.crc-mismatch"
    );
    assert_eq!(got[0].0.len(), 5000, "the bytes come all the same");
    assert!(
        got[2].1.as_ref().unwrap().is_ok(),
        "the next member is whole"
    );
    for at in [9, 15, 30, bytes.len() - 3] {
        let mut b = bytes.clone();
        b[at] ^= 1;
        let e = open(&b).unwrap_err();
        assert_eq!(
            (e.rule(), e.kind()),
            ("sevenz.header-crc", ErrorKind::Integrity),
            "{at}"
        );
    }
    assert_eq!(open(b"7z\xbc\xaf").unwrap_err().rule(), "sevenz.truncated");
    assert_eq!(open(&[7; 40]).unwrap_err().rule(), "sevenz.bad-signature");
}

/// `bytes` after `change` to its header, with the checksums put right.
fn resealed(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let at = 32 + u64::from_le_bytes(bytes[12..20].try_into().unwrap()) as usize;
    let mut header = bytes[at..].to_vec();
    change(&mut header);
    let mut out = bytes[..at].to_vec();
    out[20..28].copy_from_slice(&(header.len() as u64).to_le_bytes());
    out[28..32].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let crc = crc32fast::hash(&out[12..32]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out.extend(header);
    out
}

#[test]
fn any_header_is_survived() {
    for method in METHODS {
        let bytes = sample(&format!("{method}.7z"));
        let at = 32 + u64::from_le_bytes(bytes[12..20].try_into().unwrap()) as usize;
        let mut opened = 0;
        for i in 0..bytes.len() - at {
            for with in [0x00, 0x01, 0x7f, 0xff] {
                let b = resealed(&bytes, |h| h[i] = with);
                if let Ok(a) = open(&b) {
                    opened += 1;
                    let mut caps = Caps::new(1 << 20, 2000);
                    caps.max_window = 1 << 20;
                    let got = read(&a, &caps);
                    assert!(got.iter().all(|(_, done)| done.is_some()), "{method} {i}");
                }
            }
            let _ = open(&resealed(&bytes, |h| h.truncate(i)));
        }
        assert!(opened > 0, "{method}");
    }
}

#[test]
fn cut_and_changed_content_ends_with_an_error() {
    for method in METHODS {
        let bytes = sample(&format!("{method}.7z"));
        for i in 32..(bytes.len() - 60).min(200) {
            let mut b = bytes.clone();
            b[i] ^= 0x10;
            // The header may be hit, where it is packed.
            if let Ok(a) = open(&b) {
                let caps = Caps::new(1 << 20, 2000);
                let got = read(&a, &caps);
                assert!(got.iter().all(|(_, done)| done.is_some()));
            }
        }
        assert!(open(&bytes[..bytes.len() - 1]).is_err(), "{method}");
    }
}

#[test]
fn caps_hold() {
    let a = open(&sample("lzma2.7z")).unwrap();
    let got = read(&a, &Caps::new(1000, u64::MAX));
    assert_eq!(got[0].0, plain(1000));
    assert_eq!(
        got[0].1.as_ref().unwrap().as_ref().unwrap_err().rule(),
        "codec.size"
    );
    // Members behind it in the same folder fail with it.
    assert_eq!(
        got[3].1.as_ref().unwrap().as_ref().unwrap_err().rule(),
        "codec.size"
    );
    let mut caps = Caps::default();
    caps.max_window = 64 << 10;
    let got = read(&open(&sample("ppmd.7z")).unwrap(), &caps);
    let e = got[0].1.as_ref().unwrap().as_ref().unwrap_err();
    assert_eq!(e.rule(), "codec.window-size");
    // The caller's own error ends it all.
    let e = a.read(&Caps::default(), &mut |_, event| match event {
        Event::Bytes(_) => Err(Error::limit("test.enough", "enough")),
        _ => Ok(()),
    });
    assert_eq!(e.unwrap_err().rule(), "test.enough");
}

#[test]
fn bytes_that_belong_to_nothing_are_gaps() {
    let mut bytes = sample("copy.7z");
    let n = bytes.len() as u64;
    bytes.extend(b"behind");
    assert_eq!(open(&bytes).unwrap().gaps(), [n..n + 6]);
    // Between the packed streams and the header.
    let bytes = sample("copy.7z");
    let at = 32 + u64::from_le_bytes(bytes[12..20].try_into().unwrap());
    let mut apart = bytes[..at as usize].to_vec();
    apart.extend(b"between");
    apart.extend(&bytes[at as usize..]);
    apart[12..20].copy_from_slice(&(at - 32 + 7).to_le_bytes());
    let crc = crc32fast::hash(&apart[12..32]);
    apart[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(open(&apart).unwrap().gaps(), [at..at + 7]);
}

#[test]
fn the_corpus_sample_opens() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let path = Path::new(&corpus).join("scan/malicious/picklescan/data/malicious1.7z");
    let a = Archive::open(
        open_file(&path, Backend::Pread).unwrap(),
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(a.members().len(), 1);
    let got = read(&a, &Caps::default());
    assert!(got[0].1.as_ref().unwrap().is_ok());
    assert_eq!(got[0].0.len() as u64, a.members()[0].size);
    assert!(a.gaps().is_empty());
}

/// A number in its longest form.
fn number(n: u64) -> Vec<u8> {
    [&[0xff][..], &n.to_le_bytes()].concat()
}

/// An archive without packed streams whose header is `header`.
fn of_header(header: &[u8]) -> Vec<u8> {
    let mut next = 0u64.to_le_bytes().to_vec();
    next.extend((header.len() as u64).to_le_bytes());
    next.extend(crc32fast::hash(header).to_le_bytes());
    let crc = crc32fast::hash(&next).to_le_bytes();
    [b"7z\xbc\xaf\x27\x1c\0\x04", &crc[..], &next, header].concat()
}

#[test]
fn many_properties_of_many_files_take_a_moment() {
    // Empty files without names, and as many properties that say nothing.
    let n = 400_000usize;
    let bits = vec![0xff; n.div_ceil(8)];
    let mut header = vec![0x01, 0x05];
    header.extend(number(n as u64));
    header.push(0x0e);
    header.extend(number(bits.len() as u64));
    header.extend(bits);
    header.extend([0x19, 0].repeat(n));
    header.extend([0, 0]);
    assert_eq!(open(&of_header(&header)).unwrap().members().len(), n);
}

#[test]
fn attributes_that_stand_twice_are_not_added_up() {
    let attributes = |n: u32| {
        let value = n.to_le_bytes();
        [&[0x15, 6, 1, 0][..], &value].concat()
    };
    let mut header = vec![0x01, 0x05, 1, 0x0e, 1, 0x80];
    header.extend(attributes(0x10));
    header.extend(attributes(0x20));
    header.extend([0, 0]);
    let a = open(&of_header(&header)).unwrap();
    assert_eq!(a.members()[0].attributes, Some(0x20));
}

#[test]
fn checksums_of_files_stand_once() {
    // A folder of one coder, which copies nothing, and the checksum of its file.
    let header = |sums: &[&[u8]]| {
        let mut h = vec![0x01, 0x04, 0x06, 0, 1, 0x09, 0, 0];
        h.extend([0x07, 0x0b, 1, 0, 1, 1, 0, 0x0c, 0, 0, 0x08]);
        h.extend(sums.concat());
        h.extend([0, 0, 0x05, 1, 0, 0]);
        of_header(&h)
    };
    let sum = [0x0a, 1, 0, 0, 0, 0];
    assert_eq!(open(&header(&[&sum])).unwrap().members().len(), 1);
    let e = open(&header(&[&sum, &[0x0a, 1]])).unwrap_err();
    assert_eq!(e.rule(), "sevenz.bad-header");
}
