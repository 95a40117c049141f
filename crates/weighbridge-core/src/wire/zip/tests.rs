use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::ErrorKind;
use crate::source::{Backend, SliceSource, open_file};

/// A member to pack: everything a test may want to lie about.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) name: Vec<u8>,
    pub(super) local_name: Option<Vec<u8>>,
    pub(super) data: Vec<u8>,
    pub(super) method: u16,
    pub(super) flags: u16,
    pub(super) crc: Option<u32>,
    pub(super) central_size: Option<u32>,
    pub(super) descriptor: bool,
    pub(super) offset: Option<u32>,
}

pub(super) fn item(name: &str, data: &[u8]) -> Item {
    Item {
        name: name.into(),
        local_name: None,
        data: data.into(),
        method: 0,
        flags: 0,
        crc: None,
        central_size: None,
        descriptor: false,
        offset: None,
    }
}

pub(super) fn deflate(data: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

pub(super) fn put16(v: &mut Vec<u8>, n: u16) {
    v.extend(n.to_le_bytes());
}

pub(super) fn put32(v: &mut Vec<u8>, n: u32) {
    v.extend(n.to_le_bytes());
}

/// Packs `items` as the APPNOTE lays an archive out.
pub(super) fn pack(items: &[Item]) -> Vec<u8> {
    pack_with(items, &[], &[])
}

pub(super) fn pack_with(items: &[Item], comment: &[u8], between: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut central = Vec::new();
    for i in items {
        let at = out.len() as u32;
        let crc = i.crc.unwrap_or_else(|| crc32fast::hash(&i.data));
        let body = if i.method == 8 {
            deflate(&i.data)
        } else {
            i.data.clone()
        };
        let flags = i.flags | if i.descriptor { 8 } else { 0 };
        let sizes = [crc, body.len() as u32, i.data.len() as u32];
        let local_name = i.local_name.as_ref().unwrap_or(&i.name);
        put32(&mut out, LOCAL);
        for n in [20, flags, i.method, 0, 0] {
            put16(&mut out, n);
        }
        for n in sizes {
            put32(&mut out, if i.descriptor { 0 } else { n });
        }
        put16(&mut out, local_name.len() as u16);
        put16(&mut out, 0);
        out.extend(local_name);
        out.extend(&body);
        if i.descriptor {
            put32(&mut out, 0x0807_4b50);
            sizes.iter().for_each(|&n| put32(&mut out, n));
        }
        out.extend(between);
        put32(&mut central, 0x0201_4b50);
        for n in [20, 20, flags, i.method, 0, 0] {
            put16(&mut central, n);
        }
        put32(&mut central, crc);
        put32(
            &mut central,
            i.central_size
                .map_or(sizes[1], |s| if i.method == 0 { s } else { sizes[1] }),
        );
        put32(&mut central, i.central_size.unwrap_or(sizes[2]));
        for n in [i.name.len() as u16, 0, 0, 0, 0] {
            put16(&mut central, n);
        }
        put32(&mut central, 0);
        put32(&mut central, i.offset.unwrap_or(at));
        central.extend(&i.name);
    }
    let start = out.len() as u32;
    out.extend(&central);
    put32(&mut out, 0x0605_4b50);
    for n in [0, 0, items.len() as u16, items.len() as u16] {
        put16(&mut out, n);
    }
    put32(&mut out, central.len() as u32);
    put32(&mut out, start);
    put16(&mut out, comment.len() as u16);
    out.extend(comment);
    out
}

fn open(bytes: impl Into<Vec<u8>>) -> Result<Archive> {
    let bytes: Vec<u8> = bytes.into();
    Archive::open(
        Arc::new(SliceSource::new(bytes, "t.zip")),
        &Limits::default(),
    )
}

fn rules(a: &Archive) -> Vec<&'static str> {
    a.check_layout().unwrap().iter().map(Error::rule).collect()
}

#[test]
fn stored_deflated_and_described_members_read_back() {
    let long = b"weigh and weigh again ".repeat(50);
    let mut b = item("a/b", &long);
    b.method = 8;
    let mut c = item("a/c", b"third");
    c.descriptor = true;
    let a = open(pack_with(&[item("a/a", b"first"), b, c], b"said PK", &[])).unwrap();
    assert_eq!(a.members().len(), 3);
    for (name, want) in [("a/a", &b"first"[..]), ("a/b", &long), ("a/c", b"third")] {
        let m = a.by_name(name).unwrap();
        assert_eq!(a.read(m, 1 << 20).unwrap(), want);
        let s = a.storage(m, false).unwrap();
        s.verify().unwrap();
        let (source, at) = s.random().unwrap();
        assert_eq!(source.read_vec(at..at + s.len()).unwrap(), want);
    }
    a.strict().unwrap();
    assert_eq!(rules(&a), [] as [&str; 0]);
    assert!(!a.checksums_off());
    assert_eq!((a.prefix_bytes(), a.trailing_bytes()), (0, 0));
    assert!(a.by_name("a/d").is_none());
}

#[test]
fn limits_stop_large_members_and_bombs() {
    let zeros = vec![0u8; 2 << 20];
    let mut z = item("z", &zeros);
    z.method = 8;
    let a = open(pack(&[z.clone()])).unwrap();
    let m = &a.members()[0];
    assert_eq!(a.read(m, 1 << 20).unwrap_err().rule(), "zip.member-size");
    assert_eq!(a.read(m, 4 << 20).unwrap(), zeros);
    let tight = Limits {
        inflate_ratio: 100,
        ..Limits::default()
    };
    let a = Archive::open(Arc::clone(a.source()), &tight).unwrap();
    assert_eq!(a.read(m, 4 << 20).unwrap_err().rule(), "zip.inflate-ratio");
    assert_eq!(a.storage(m, false).unwrap_err().rule(), "zip.inflate-ratio");
    let few = Limits {
        members: 1,
        ..Limits::default()
    };
    let two = pack(&[item("a", b""), item("b", b"")]);
    let e = Archive::open(Arc::new(SliceSource::new(two, "t")), &few).unwrap_err();
    assert_eq!((e.kind(), e.rule()), (ErrorKind::Limit, "zip.members"));
}

#[test]
fn claimed_sizes_are_held_against_the_bytes() {
    // A deflated member that claims less and one that claims more than it holds.
    for (claim, part) in [(3, "more than 3"), (5000, "inflates to 5")] {
        let mut i = item("m", b"12345");
        (i.method, i.central_size, i.descriptor) = (8, Some(claim), true);
        let a = open(pack(&[i])).unwrap();
        let e = a.read(&a.members()[0], 1 << 20).unwrap_err();
        assert_eq!(e.rule(), "zip.size-mismatch");
        assert!(e.message().contains(part), "{e}");
    }
    let mut i = item("m", b"12345");
    i.central_size = Some(4);
    let a = open(pack(&[i])).unwrap();
    let e = a.storage(&a.members()[0], false).unwrap_err();
    assert_eq!(e.rule(), "zip.header-mismatch");
    let mut i = item("m", b"12345");
    i.central_size = Some(1 << 20);
    assert_eq!(open(pack(&[i])).unwrap_err().rule(), "zip.out-of-bounds");
}

#[test]
fn wrong_checksums_are_refused_and_absent_ones_are_not() {
    let mut i = item("m", b"12345");
    i.crc = Some(7);
    let a = open(pack(&[i.clone()])).unwrap();
    let m = &a.members()[0];
    assert_eq!(a.read(m, 100).unwrap_err().rule(), "zip.crc-mismatch");
    let e = a.storage(m, false).unwrap().verify().unwrap_err();
    assert_eq!(
        (e.kind(), e.rule()),
        (ErrorKind::Integrity, "zip.crc-mismatch")
    );
    // All zero: switched off. One zero beside a real one: wrong.
    i.crc = Some(0);
    let a = open(pack(&[i.clone(), item("empty", b"")])).unwrap();
    assert!(a.checksums_off());
    assert_eq!(a.read(a.by_name("m").unwrap(), 100).unwrap(), b"12345");
    a.storage(a.by_name("m").unwrap(), false)
        .unwrap()
        .verify()
        .unwrap();
    let a = open(pack(&[i, item("real", b"6")])).unwrap();
    assert!(!a.checksums_off());
    assert_eq!(
        a.read(a.by_name("m").unwrap(), 100).unwrap_err().rule(),
        "zip.crc-mismatch"
    );
    assert!(!open(pack(&[item("empty", b"")])).unwrap().checksums_off());
}

#[test]
fn what_is_not_read_is_named() {
    let mut i = item("m", b"12345");
    i.flags = 1;
    let a = open(pack(&[i.clone()])).unwrap();
    let e = a.read(&a.members()[0], 100).unwrap_err();
    assert_eq!(
        (e.kind(), e.rule()),
        (ErrorKind::Unsupported, "zip.encrypted")
    );
    (i.flags, i.method) = (0, 93);
    let a = open(pack(&[i])).unwrap();
    let e = a.read(&a.members()[0], 100).unwrap_err();
    assert_eq!(e.rule(), "zip.method");
    assert!(e.to_string().contains("zstandard"), "{e}");
}

#[test]
fn layout_violations_are_listed() {
    let a = open(pack(&[item("x", b"1"), item("x", b"2")])).unwrap();
    assert_eq!(a.strict().unwrap_err().rule(), "zip.duplicate-name");
    assert_eq!(rules(&a), ["zip.duplicate-name"]);
    assert_eq!(a.read(a.by_name("x").unwrap(), 9).unwrap(), b"2");
    assert_eq!(a.duplicates().count(), 1);

    let mut liar = item("x", b"1");
    liar.local_name = Some(b"y".to_vec());
    let a = open(pack(&[liar])).unwrap();
    assert_eq!(rules(&a), ["zip.header-mismatch"]);
    assert!(a.data_offset(&a.members()[0]).is_err());

    let mut over = item("b", b"2");
    over.offset = Some(3);
    let a = open(pack(&[item("a", b"11111111"), over])).unwrap();
    assert_eq!(a.strict().unwrap_err().rule(), "zip.overlap");
    assert!(rules(&a).contains(&"zip.overlap"));

    let a = open(pack_with(
        &[item("a", b"1"), item("b", b"2")],
        b"",
        b"\0\0\0",
    ))
    .unwrap();
    assert_eq!(rules(&a), [] as [&str; 0]);
    let a = open(pack_with(&[item("a", b"1"), item("b", b"2")], b"", b"hid")).unwrap();
    assert_eq!(rules(&a), ["zip.hidden-bytes", "zip.hidden-bytes"]);
    assert_eq!(a.strict().map_err(|e| e.rule()), Ok(()));

    let a = open(pack(&[item("a\0b", b"1")])).unwrap();
    assert_eq!(a.strict().unwrap_err().rule(), "zip.bad-name");

    let mut d = item("d", b"123");
    d.descriptor = true;
    let mut bytes = pack(&[d]);
    bytes[34 + 5] ^= 1; // the descriptor's checksum: header 30, name 1, payload 3, signature 4
    let a = open(bytes).unwrap();
    assert_eq!(rules(&a), ["zip.bad-descriptor"]);
}

#[test]
fn prefixes_and_trailing_bytes_are_seen() {
    let zip = pack(&[item("a", b"1")]);
    let mut with = b"#!/bin/sh\n".to_vec();
    with.extend(&zip);
    with.extend(b"tail");
    let a = open(with).unwrap();
    assert_eq!((a.prefix_bytes(), a.trailing_bytes()), (10, 4));
    assert_eq!(a.read(&a.members()[0], 9).unwrap(), b"1");
    assert_eq!(rules(&a), ["zip.prefix", "zip.trailing-data"]);
}

#[test]
fn two_directories_are_refused() {
    // A second directory inserted between the first and the end record: miniz would follow the
    // stored offset, zipfile the distance from the end.
    let zip = pack(&[item("a", b"1")]);
    let directory = open(zip.clone()).unwrap().directory();
    let (start, end) = (directory.start as usize, directory.end as usize);
    let mut twice = zip[..end].to_vec();
    twice.extend(&zip[start..end]);
    twice.extend(&zip[end..]);
    assert_eq!(open(twice).unwrap_err().rule(), "zip.bad-directory");
}

#[test]
fn every_cut_is_an_error() {
    let mut d = item("d", &b"abc".repeat(30));
    (d.descriptor, d.method) = (true, 8);
    let zip = pack(&[item("a", b"12"), d]);
    for n in 0..zip.len() {
        let e = open(&zip[..n]).unwrap_err();
        assert_eq!(
            (e.kind(), e.rule()),
            (ErrorKind::Truncated, "zip.no-end-record")
        );
        assert_eq!(e.message().contains("cut off"), n >= 4, "{n}: {e}");
    }
}

/// A small generator (xorshift64*): the tests need variety, not quality.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

/// Opens and uses everything; whatever the bytes are, this must return.
fn exercise(bytes: &[u8]) -> usize {
    let Ok(a) = open(bytes) else { return 0 };
    let mut read = 0;
    let _ = a.strict();
    let _ = a.check_layout();
    for m in a.members() {
        let _ = a.storage(m, false).and_then(|s| s.verify());
        if let Ok(v) = a.read(m, 1 << 20) {
            assert_eq!(v.len() as u64, m.size);
            read += 1;
        }
    }
    read
}

#[test]
fn mutated_archives_never_panic() {
    let mut d = item("folder/d", &b"abc".repeat(30));
    (d.descriptor, d.method) = (true, 8);
    let seed = pack_with(
        &[item("a", b"12345678"), d, item("c", b"")],
        b"comment",
        &[],
    );
    assert_eq!(exercise(&seed), 3);
    let mut rng = Rng(0x5eed);
    let (mut refused, mut whole) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = seed.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len());
            match rng.below(5) {
                0 => bytes[at] = rng.next() as u8,
                1 => bytes[at] ^= 1 << rng.below(8),
                2 => bytes[at] = [0, 0xff, 0x7f, 0x80][rng.below(4)],
                3 => {
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].fill(0xff);
                }
                _ => {
                    bytes.remove(at);
                }
            }
        }
        match exercise(&bytes) {
            0 => refused += 1,
            3 => whole += 1,
            _ => {}
        }
    }
    // The mutations must reach both the refusals and the parts that bear a change.
    assert!(
        refused > 500 && whole > 100,
        "{refused} refused, {whole} whole"
    );
}

fn corpus() -> Option<PathBuf> {
    let root = std::env::var_os("WEIGHBRIDGE_CORPUS");
    if root.is_none() {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
    }
    root.map(|r| PathBuf::from(r).join("torch"))
}

#[test]
fn corpus_archives_open_or_fail_as_recorded() {
    let Some(dir) = corpus() else { return };
    let mut archives = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() || !std::fs::read(&path).unwrap().starts_with(b"PK\x03\x04") {
            continue;
        }
        archives += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = open_file(&path, Backend::Pread).unwrap();
        let opened = Archive::open(source, &Limits::default());
        if name == "bad_truncated.pt" {
            assert_eq!(opened.unwrap_err().rule(), "zip.no-end-record");
            continue;
        }
        let a = opened.unwrap_or_else(|e| panic!("{e}"));
        a.strict().unwrap();
        let found = a.check_layout().unwrap();
        assert!(found.is_empty(), "{name}: {found:?}");
        assert_eq!(a.checksums_off(), name == "no_crc32.pt", "{name}");
        let mut bad = Vec::new();
        for m in a.members() {
            let by_storage = a.storage(m, false).and_then(|s| s.verify()).err();
            let by_read = a.read(m, 1 << 20).err();
            assert_eq!(
                by_storage.as_ref().map(Error::rule),
                by_read.as_ref().map(Error::rule)
            );
            bad.extend(by_read.map(|e| (m.name.clone(), e.rule())));
        }
        if name == "bad_crc.pt" {
            assert_eq!(bad, [("tmp/data/0".to_owned(), "zip.crc-mismatch")]);
        } else {
            assert_eq!(bad, [], "{name}");
        }
    }
    assert!(archives > 30, "{archives}");
}
