#![allow(clippy::single_range_in_vec_init)] // One gap is a list of one.

use std::path::{Path, PathBuf};

use super::super::tests::{Item, deflate, item, pack, pack_with, put16, put32};
use super::*;
use crate::source::{Backend, SliceSource, Window, open_file};
use crate::wire::codec::Caps;

fn source(bytes: impl Into<Vec<u8>>) -> Arc<dyn ByteSource> {
    let bytes: Vec<u8> = bytes.into();
    Arc::new(SliceSource::new(bytes, "t.zip"))
}

fn survey(bytes: impl Into<Vec<u8>>) -> Survey {
    Survey::of(source(bytes), &Limits::default()).unwrap()
}

/// The kinds of the differences, each once.
fn kinds(s: &Survey) -> Vec<Kind> {
    let mut all: Vec<Kind> = s.differences().iter().map(|d| d.kind).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn read(s: &Survey, r: &Reading) -> (Vec<u8>, Result<Outcome>) {
    let mut out = Vec::new();
    let done = s.read(r, &Caps::default(), &mut |part| {
        out.extend_from_slice(part);
        Ok(())
    });
    (out, done)
}

/// Everything that some reader gets, by name.
fn everything(s: &Survey) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (i, e) in s.entries().iter().enumerate() {
        for r in s.readings(i) {
            let (bytes, _) = read(s, &r);
            all.extend(e.names().into_iter().map(|n| (n.to_owned(), bytes.clone())));
        }
    }
    all
}

fn two() -> [Item; 2] {
    let mut b = item("b", &[7; 300]);
    b.method = 8;
    [item("a", b"first"), b]
}

/// The bytes of `archive` with the 16-bit field `at` bytes into the header of signature `of` (the
/// last one) replaced.
fn patch(mut archive: Vec<u8>, of: &[u8; 4], at: usize, with: &[u8]) -> Vec<u8> {
    let n = memchr::memmem::rfind(&archive, of).unwrap() + at;
    archive[n..n + with.len()].copy_from_slice(with);
    archive
}

const LOCAL_SIG: &[u8; 4] = b"PK\x03\x04";
const CENTRAL_SIG: &[u8; 4] = b"PK\x01\x02";

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
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
    for dir in ["torch", "real", "scan/benign"] {
        files(&Path::new(&corpus).join(dir), &mut all);
    }
    let mut seen = 0;
    for path in all {
        let whole = open_file(&path, Backend::Pread).unwrap();
        let bad = path.to_string_lossy().contains("/bad_");
        if bad || !local::begins(whole.as_ref(), 0).unwrap() {
            continue;
        }
        for part in Survey::parts(&whole, &Limits::default()).unwrap() {
            let part = Window::new(Arc::clone(&whole), part, "part").unwrap();
            let s = Survey::of(Arc::new(part), &Limits::default()).unwrap();
            assert_eq!(s.differences(), [], "{}", path.display());
            assert!(s.gaps().is_empty() && s.start() == 0);
            for i in 0..s.entries().len() {
                let readings = s.readings(i);
                assert_eq!(readings.len(), 1, "{}", path.display());
                let done = s.read(&readings[0], &Caps::new(1 << 40, 2000), &mut |_| Ok(()));
                let done = done.unwrap();
                assert!(done.size_matches && done.unused == 0);
                assert!(done.crc_matches || s.checksums_off());
            }
            seen += 1;
        }
    }
    assert!(seen > 70, "only {seen}");
}

/// What the writers of the world make (`testdata/README.md`).
#[test]
fn ordinary_archives_have_no_difference() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/zip/survey/testdata");
    let mut all = Vec::new();
    files(&dir, &mut all);
    all.retain(|p| p.extension().is_some_and(|e| e == "zip" || e == "npz"));
    assert!(all.len() >= 6);
    for path in all {
        let s = survey(std::fs::read(&path).unwrap());
        assert_eq!(s.differences(), [], "{}", path.display());
        assert!(s.gaps().is_empty());
        assert!(!s.entries().is_empty());
        for i in 0..s.entries().len() {
            let readings = s.readings(i);
            let [r] = readings.as_slice() else {
                panic!("{}: {readings:?}", path.display());
            };
            let done = read(&s, r).1;
            let done = done.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(done.is_intact() && done.unused == 0, "{}", path.display());
        }
    }
    let s = survey(pack(&two()));
    assert_eq!((s.differences(), s.gaps().len()), (&[][..], 0));
    let mut described = two();
    described.iter_mut().for_each(|i| i.descriptor = true);
    assert_eq!(survey(pack(&described)).differences(), []);
    // Zeros between members align them; a nested archive at the end is content.
    assert_eq!(
        survey(pack_with(&two(), b"a comment", &[0; 60])).differences(),
        []
    );
    let nested = [item("a.zip", &pack(&two()))];
    let s = survey(pack(&nested));
    assert_eq!((s.differences(), s.entries().len()), (&[][..], 1));
}

#[test]
fn names_differ() {
    let mut items = two();
    items[1].local_name = Some(b"c".to_vec());
    let s = survey(pack(&items));
    assert_eq!(kinds(&s), [Kind::Name]);
    assert_eq!(s.entries()[1].names(), ["b", "c"]);
    assert_eq!(s.entries()[1].name(), "b");
    assert_eq!(everything(&s)[2], ("c".to_owned(), vec![7; 300]));
    // NUL bytes, and names that are one.
    let s = survey(pack(&[
        item("a\0.txt", b""),
        item("b", b"1"),
        item("b", b"2"),
    ]));
    assert_eq!(kinds(&s), [Kind::NulInName, Kind::Duplicate]);
    let s = survey(pack(&[
        item("Data.pkl", b"1"),
        item("./data.pkl", b"2"),
        item("x/y", b""),
        item("x//y", b""),
        item("x/y/", b""),
    ]));
    let folded: Vec<_> = s.differences().iter().map(|d| (d.kind, d.entry)).collect();
    assert_eq!(
        folded,
        [
            (Kind::DuplicateFolded, Some(1)),
            (Kind::DuplicateFolded, Some(3))
        ]
    );
}

#[test]
fn flags_methods_sizes_checksums_and_versions_differ() {
    let zip = || pack(&two());
    for (signature, at, with, kind) in [
        (LOCAL_SIG, 6, &[1, 0][..], Kind::Flags),
        (CENTRAL_SIG, 8, &[0x20, 0], Kind::Flags),
        (CENTRAL_SIG, 8, &[0x40, 0], Kind::Flags),
        (LOCAL_SIG, 8, &[0, 0], Kind::Method),
        (LOCAL_SIG, 14, &[1, 2, 3, 4], Kind::Crc),
        (CENTRAL_SIG, 16, &[1, 2, 3, 4], Kind::Crc),
        (LOCAL_SIG, 22, &[1, 2, 0, 0], Kind::Size),
        (CENTRAL_SIG, 24, &[1, 2, 0, 0], Kind::Size),
        (CENTRAL_SIG, 6, &[64, 0], Kind::Version),
        (LOCAL_SIG, 4, &[99, 0], Kind::Version),
    ] {
        let s = survey(patch(zip(), signature, at, with));
        assert_eq!(kinds(&s), [kind], "{signature:?} {at}");
        // Whatever the headers say, some reader gets the content, and so do we.
        let all = everything(&s);
        assert!(
            all.contains(&("b".into(), vec![7; 300])),
            "{signature:?} {at}"
        );
    }
    // Where the method differs both readings are there.
    let s = survey(patch(zip(), LOCAL_SIG, 8, &[0, 0]));
    let views: Vec<_> = s.readings(1).iter().map(|r| (r.view, r.method)).collect();
    assert_eq!(
        views,
        [
            (View::Central, Method::Deflate),
            (View::Local, Method::Stored)
        ]
    );
    // Both headers lie about encryption: nothing differs, but the plain bytes are intact.
    let lies = patch(patch(zip(), LOCAL_SIG, 6, &[1, 0]), CENTRAL_SIG, 8, &[1, 0]);
    let s = survey(lies);
    let r = &s.readings(1)[0];
    assert!(r.says_encrypted && read(&s, r).1.unwrap().is_intact());
    assert_eq!(s.differences(), []);
    // Patched data (flag bit 5) is what no writer makes, and what Python refuses.
    let patched = patch(
        patch(zip(), LOCAL_SIG, 6, &[0x20, 0]),
        CENTRAL_SIG,
        8,
        &[0x20, 0],
    );
    let s = survey(patched);
    assert_eq!(kinds(&s), [Kind::Flags]);
    assert!(read(&s, &s.readings(1)[0]).1.unwrap().is_intact());
    // A wrong checksum in both: the bytes come, and it is said.
    let wrong = [9, 9, 9, 9];
    let s = survey(patch(
        patch(zip(), LOCAL_SIG, 14, &wrong),
        CENTRAL_SIG,
        16,
        &wrong,
    ));
    let (bytes, done) = read(&s, &s.readings(1)[0]);
    assert_eq!(bytes, [7; 300]);
    let done = done.unwrap();
    assert!(!done.crc_matches && done.size_matches && !done.is_intact());
}

#[test]
fn local_headers_that_no_directory_lists_are_found() {
    let hidden = {
        let mut h = pack(&[item("hidden.pkl", b"payload")]);
        h.truncate(memchr::memmem::find(&h, CENTRAL_SIG).unwrap());
        h
    };
    // Between two members, and before the first.
    let s = survey(pack_with(&two(), b"", &hidden));
    assert_eq!(kinds(&s), [Kind::Unlisted]);
    assert!(everything(&s).contains(&("hidden.pkl".into(), b"payload".to_vec())));
    assert!(s.gaps().is_empty());
    let s = survey([hidden.clone(), pack(&two())].concat());
    assert_eq!(kinds(&s), [Kind::Unlisted]);
    assert_eq!(s.entries().len(), 3);
    // Behind bytes that are nothing.
    let s = survey(pack_with(&two(), b"", &[&b"junk"[..], &hidden].concat()));
    assert_eq!(kinds(&s), [Kind::Unlisted, Kind::Gap]);
    assert_eq!(s.gaps()[0].end - s.gaps()[0].start, 4);
    // In the payload of another: its local header says that it is shorter.
    let carrier = item("carrier", &hidden);
    let mut zip = pack(&[carrier]);
    zip[18..22].copy_from_slice(&[0; 4]);
    zip[22..26].copy_from_slice(&[0; 4]);
    // Sizes of zero are writers' laziness, and are not followed.
    assert_eq!(kinds(&survey(zip.clone())), []);
    let inner = [&b"xx"[..], &hidden].concat();
    let mut zip = pack(&[item("carrier", &inner)]);
    zip[18] = 2;
    zip[22] = 2;
    let s = survey(zip);
    assert_eq!(kinds(&s), [Kind::Size, Kind::Unlisted]);
    assert_eq!(s.entries()[1].name(), "hidden.pkl");
    // With its sizes in a descriptor only.
    for method in [0, 8] {
        let mut i = item("later", &[5; 900]);
        (i.descriptor, i.method) = (true, method);
        let mut h = pack(&[i]);
        h.truncate(memchr::memmem::find(&h, CENTRAL_SIG).unwrap());
        let s = survey(pack_with(&two(), b"", &h));
        assert_eq!(kinds(&s), [Kind::Unlisted], "{method}");
        assert!(s.gaps().is_empty());
        assert!(everything(&s).contains(&("later".into(), vec![5; 900])));
    }
    // No directory at all: a reader of streams sees it.
    let s = survey(hidden);
    assert_eq!(kinds(&s), [Kind::Unlisted, Kind::NoEndRecord]);
    assert_eq!(everything(&s).len(), 1);
}

#[test]
fn bytes_that_belong_to_nothing_are_gaps() {
    let s = survey([b"#!prefix".to_vec(), pack(&two())].concat());
    assert_eq!((kinds(&s), s.gaps()), (vec![Kind::Prefix], &[0..8][..]));
    let n = pack(&two()).len() as u64;
    let s = survey([pack(&two()), b"after".to_vec()].concat());
    assert_eq!(
        (kinds(&s), s.gaps()),
        (vec![Kind::Trailing], &[n..n + 5][..])
    );
    let s = survey(pack_with(&two(), b"", b"between"));
    assert_eq!(kinds(&s), [Kind::Gap]);
    assert_eq!(s.gaps().len(), 2);
    // Behind the end of a deflate stream.
    let mut i = item("a", b"text text text text");
    i.data = [deflate(&i.data), b"hidden".to_vec()].concat();
    let mut zip = pack(&[i]);
    for (sig, at) in [(LOCAL_SIG, 8), (CENTRAL_SIG, 10)] {
        zip = patch(zip, sig, at, &[8, 0]);
    }
    let s = survey(zip);
    let done = read(&s, &s.readings(0)[0]).1.unwrap();
    assert_eq!(done.unused, 6);
}

#[test]
fn ends_and_directories_disagree() {
    let (one, other) = (pack(&[item("one", b"1")]), pack(&[item("other", b"2")]));
    // An archive in another's comment: some take the last record, some the one whose comment
    // reaches the end.
    let mut first = one.clone();
    let n = first.len();
    first[n - 2..].copy_from_slice(&(other.len() as u16).to_le_bytes());
    let s = survey([first, other.clone()].concat());
    assert!(
        kinds(&s).contains(&Kind::EndRecords),
        "{:?}",
        s.differences()
    );
    let names: Vec<_> = everything(&s).into_iter().map(|(n, _)| n).collect();
    assert!(names.contains(&"one".into()) && names.contains(&"other".into()));
    // One after the other: parts, or a prefix full of members.
    let both = [one.clone(), other.clone()].concat();
    let parts = Survey::parts(&source(both.clone()), &Limits::default()).unwrap();
    let n = one.len() as u64;
    assert_eq!(parts, [0..n, n..n + other.len() as u64]);
    let s = survey(both);
    assert_eq!(s.entries()[0].name(), "other");
    assert_eq!(s.entries()[1].name(), "one");
    assert_eq!(
        Survey::parts(&source(one.clone()), &Limits::default()).unwrap(),
        [0..n]
    );
    // Counts and lengths.
    let end = pack(&two()).len() - 22;
    let mut zip = pack(&two());
    zip[end + 8..end + 12].copy_from_slice(&[1, 0, 1, 0]);
    assert_eq!(kinds(&survey(zip.clone())), [Kind::Count]);
    zip = pack(&two());
    zip[end + 12] -= 1;
    let s = survey(zip);
    assert!(kinds(&s).contains(&Kind::Count), "{:?}", s.differences());
    assert_eq!(s.entries().len(), 2, "what is listed is read all the same");
    // The stored offset leads to another directory.
    let mut twice = pack(&[item("one", b"1")]);
    let at = memchr::memmem::find(&twice, CENTRAL_SIG).unwrap();
    let mut copy = twice[at..twice.len() - 22].to_vec();
    copy[46..49].copy_from_slice(b"two");
    twice.splice(at..at, copy);
    let s = survey(twice);
    assert!(
        kinds(&s).contains(&Kind::Directory),
        "{:?}",
        s.differences()
    );
    let names: Vec<_> = s.entries().iter().map(Entry::name).collect();
    assert!(
        names.contains(&"one") && names.contains(&"two"),
        "{names:?}"
    );
}

#[test]
fn zip64_records_disagree() {
    let zip = pack(&two());
    let end = zip.len() - 22;
    let dir = memchr::memmem::find(&zip, CENTRAL_SIG).unwrap();
    let with = |count: u64, size: u64, offset: u64, record_at: u64| {
        let mut out = zip[..end].to_vec();
        put32(&mut out, 0x0606_4b50);
        out.extend(44u64.to_le_bytes());
        out.extend([0u8; 12]);
        for n in [count, count, size, offset] {
            out.extend(n.to_le_bytes());
        }
        put32(&mut out, 0x0706_4b50);
        put32(&mut out, 0);
        out.extend(record_at.to_le_bytes());
        put32(&mut out, 1);
        out.extend(&zip[end..]);
        out
    };
    let (size, at) = ((end - dir) as u64, end as u64);
    assert_eq!(survey(with(2, size, dir as u64, at)).differences(), []);
    assert_eq!(
        kinds(&survey(with(2, size, dir as u64, at + 1))),
        [Kind::Zip64]
    );
    let s = survey(with(1, size / 2, dir as u64 + size / 2, at));
    assert!(kinds(&s).contains(&Kind::Zip64));
    assert_eq!(s.entries().len(), 2, "{:?}", s.entries());
}

#[test]
fn members_over_each_other_are_said_and_bounded() {
    let mut items = two();
    items[1].offset = Some(0);
    let s = survey(pack(&items));
    assert!(kinds(&s).contains(&Kind::Overlap), "{:?}", s.differences());
    // A thousand names for one payload: reading them all ends in a limit.
    let mut items = vec![item("x", &vec![1; 3 << 20])];
    for i in 0..200 {
        let mut i = item(&format!("{i}"), b"");
        i.offset = Some(0);
        i.crc = Some(7);
        items.push(i);
    }
    let mut zip = pack(&items);
    let mut at = 0;
    while let Some(n) = memchr::memmem::find(&zip[at..], CENTRAL_SIG) {
        at += n + 4;
        zip[at + 16..at + 24].copy_from_slice(&(3u64 << 20 | 3 << 52).to_le_bytes());
    }
    let s = survey(zip);
    let limit = (0..201).find_map(|i| {
        let r = s.readings(i).into_iter().next()?;
        s.read(&r, &Caps::default(), &mut |_| Ok(())).err()
    });
    assert_eq!(limit.unwrap().rule(), "zip.overlap");
}

#[test]
fn other_methods_are_unpacked() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/zip/survey/testdata");
    let s = survey(std::fs::read(dir.join("methods.zip")).unwrap());
    let methods: Vec<_> = s
        .entries()
        .iter()
        .map(|e| e.central.as_ref().unwrap().method)
        .collect();
    assert_eq!(methods, [Method::Other(12), Method::Other(14)]);
    for i in 0..2 {
        let (bytes, done) = read(&s, &s.readings(i)[0]);
        assert!(done.unwrap().is_intact());
        assert_eq!(bytes.len(), 3000);
    }
    let mut other = item("a", b"xx");
    other.method = 97;
    let s = survey(pack(&[other]));
    assert_eq!(
        read(&s, &s.readings(0)[0]).1.unwrap_err().rule(),
        "zip.method"
    );
}

#[test]
fn missing_and_broken_headers_are_said() {
    let mut items = two();
    items[1].offset = Some(3);
    let s = survey(pack(&items));
    assert!(
        kinds(&s).contains(&Kind::MissingLocal),
        "{:?}",
        s.differences()
    );
    // The member is still there for a reader of streams.
    assert!(everything(&s).contains(&("b".into(), vec![7; 300])));
    let e = Survey::of(source(&b"no archive"[..]), &Limits::default()).unwrap_err();
    assert_eq!(e.rule(), "zip.no-end-record");
    let mut volumes = pack(&two());
    let n = volumes.len() - 22;
    volumes[n + 4] = 1;
    assert_eq!(kinds(&survey(volumes)), [Kind::Volumes]);
    let mut described = two();
    described[1].descriptor = true;
    let zip = patch(pack(&described), b"PK\x07\x08", 4, &[1, 1, 1, 1]);
    assert!(kinds(&survey(zip)).contains(&Kind::Descriptor));
}

#[test]
fn the_unicode_path_field_is_read() {
    // One member with the field in its directory entry.
    let mut zip = pack(&[item("safe.txt", b"1")]);
    let mut field = Vec::new();
    put16(&mut field, 0x7075);
    put16(&mut field, 5 + 8);
    field.push(1);
    field.extend(crc32fast::hash(b"safe.txt").to_le_bytes());
    field.extend(b"data.pkl");
    let central = memchr::memmem::find(&zip, CENTRAL_SIG).unwrap();
    zip[central + 30] = field.len() as u8;
    let at = central + 46 + 8;
    zip.splice(at..at, field.iter().copied());
    let end = zip.len() - 22;
    zip[end + 12] += field.len() as u8;
    let s = survey(zip);
    assert_eq!(kinds(&s), [Kind::UnicodeName]);
    assert_eq!(s.entries()[0].names(), ["safe.txt", "data.pkl"]);
}

/// Counts the bytes that are read.
#[derive(Debug)]
struct Counting(SliceSource, AtomicU64);
impl ByteSource for Counting {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn name(&self) -> &str {
        "counting"
    }
    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let n = buf.len() as u64;
        self.1.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        self.0.read_at(at, buf)
    }
    fn slice(&self, _: Range<u64>) -> Option<&[u8]> {
        None
    }
}

/// The survey of `bytes`, and how many bytes it read.
fn counted(bytes: Vec<u8>) -> (Survey, u64) {
    let counting = Arc::new(Counting(SliceSource::new(bytes, "x"), AtomicU64::new(0)));
    let source = Arc::clone(&counting) as Arc<dyn ByteSource>;
    let s = Survey::of(source, &Limits::default()).unwrap();
    let read = counting.1.load(std::sync::atomic::Ordering::Relaxed);
    (s, read)
}

/// The listing of an archive reads headers and directory, not payloads.
#[test]
fn payloads_are_not_read() {
    let mut items: Vec<Item> = (0..20)
        .map(|i| item(&format!("t/data/{i}"), &vec![3; 1 << 20]))
        .collect();
    items.iter_mut().for_each(|i| i.descriptor = true);
    let (s, read) = counted(pack(&items));
    assert_eq!((s.differences(), s.entries().len()), (&[][..], 20));
    assert!(read < 80_000, "{read} bytes were read");
}

/// Members whose length only a descriptor says are measured one by one, not each to the end.
#[test]
fn what_follows_a_member_is_not_read_to_measure_it() {
    let mut i = item("a", b"");
    i.descriptor = true;
    let mut one = pack(&[i]);
    one.truncate(memchr::memmem::find(&one, CENTRAL_SIG).unwrap());
    let n = 3000;
    let (s, read) = counted(one.repeat(n));
    assert_eq!(s.entries().len(), n);
    assert!(read < n as u64 * 8192, "{read} bytes were read");

    // Across the bounds of pieces, and behind what only looks like one.
    for len in [4070, 4095, 4096, 4097, 13_000, 70_000] {
        let mut i = item("later", &b"PK\x07\x08".repeat(200));
        i.data.resize(len, 5);
        i.descriptor = true;
        let mut h = pack(&[i.clone()]);
        h.truncate(memchr::memmem::find(&h, CENTRAL_SIG).unwrap());
        let s = survey(h);
        assert!(everything(&s).contains(&("later".into(), i.data)), "{len}");
    }
}
