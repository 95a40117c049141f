use std::path::{Path, PathBuf};

use weighbridge_core::source::{Backend, SliceSource, open_file};

use super::super::raw::{Array, Value};
use super::*;

/// Builds files field by field.
#[derive(Clone)]
struct File {
    version: u32,
    big: bool,
    bytes: Vec<u8>,
}

impl File {
    fn new(version: u32, big: bool, tensors: u64, entries: u64) -> Self {
        let mut f = Self {
            version,
            big,
            bytes: b"GGUF".to_vec(),
        };
        f.num(version.into(), 4);
        f.count(tensors);
        f.count(entries);
        f
    }

    fn v3(tensors: u64, entries: u64) -> Self {
        Self::new(3, false, tensors, entries)
    }

    fn num(&mut self, n: u64, width: usize) -> &mut Self {
        if self.big {
            self.bytes.extend_from_slice(&n.to_be_bytes()[8 - width..]);
        } else {
            self.bytes.extend_from_slice(&n.to_le_bytes()[..width]);
        }
        self
    }

    fn count(&mut self, n: u64) -> &mut Self {
        let width = if self.version == 1 { 4 } else { 8 };
        self.num(n, width)
    }

    fn text(&mut self, s: &[u8]) -> &mut Self {
        self.count(s.len() as u64);
        self.bytes.extend_from_slice(s);
        self
    }

    fn string(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.text(key.as_bytes()).num(8, 4).text(value)
    }

    fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.text(key.as_bytes()).num(4, 4).num(value.into(), 4)
    }

    fn array(&mut self, key: &str, element: u64, len: u64) -> &mut Self {
        self.text(key.as_bytes())
            .num(9, 4)
            .num(element, 4)
            .count(len)
    }

    fn tensor(&mut self, name: &[u8], dims: &[u64], kind: i32, offset: u64) -> &mut Self {
        self.text(name).num(dims.len() as u64, 4);
        for &d in dims {
            self.count(d);
        }
        self.num(u64::from(kind as u32), 4).num(offset, 8)
    }

    fn pad(&mut self, alignment: usize) -> &mut Self {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(alignment), 0);
        self
    }

    fn data(&mut self, n: usize) -> &mut Self {
        self.bytes.extend((0..n).map(|i| (i % 250) as u8 + 1));
        self
    }

    fn rules(&self) -> Vec<&'static str> {
        rules(&self.bytes)
    }
}

/// A source that lends nothing.
#[derive(Debug)]
struct Unmapped(SliceSource);

impl ByteSource for Unmapped {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(at, buf)
    }

    fn slice(&self, _: Range<u64>) -> Option<&[u8]> {
        None
    }
}

/// What is wrong with a file, which is the same however it is read.
fn errors(bytes: &[u8]) -> Vec<Error> {
    let source = SliceSource::new(bytes, "x.gguf");
    let (lent, errors) = header(&source, &Limits::default()).unwrap();
    let source = Unmapped(source.clone());
    let (read, same) = header(&source, &Limits::default()).unwrap();
    let told = |all: &[Error]| all.iter().map(Error::to_string).collect::<Vec<_>>();
    assert_eq!(told(&errors), told(&same));
    assert_eq!((lent.end, &lent.entries), (read.end, &read.entries));
    assert_eq!(lent.tensors, read.tensors);
    for key in lent.entries.iter().map(|e| &e.key) {
        assert_eq!(lent.bytes(key), read.bytes(key));
    }
    errors
}

fn rules(bytes: &[u8]) -> Vec<&'static str> {
    errors(bytes).iter().map(Error::rule).collect()
}

/// Two tensors, one key of each kind.
fn good(version: u32, big: bool) -> File {
    let mut f = File::new(version, big, 2, 5);
    f.string("general.architecture", b"llama")
        .u32("general.alignment", 64)
        .array("tokenizer.ggml.tokens", 8, 2)
        .text(b"a")
        .text("\u{2581}b".as_bytes())
        .array("x.floats", 6, 3)
        .num(1, 4)
        .num(2, 4)
        .num(3, 4);
    f.text(b"x.flag").num(7, 4).num(1, 1);
    f.tensor(b"a.weight", &[32, 2], 2, 0)
        .tensor(b"b.weight", &[3], 0, 64)
        .pad(64)
        .data(36)
        .pad(64)
        .data(12);
    f
}

/// One tensor of three floats behind what `head` writes.
fn with(entries: u64, head: impl Fn(&mut File)) -> Vec<&'static str> {
    let mut f = File::v3(1, entries);
    head(&mut f);
    f.tensor(b"w", &[3], 0, 0).pad(32).data(12);
    f.rules()
}

/// A file whose one tensor `info` describes, with `n` bytes of data.
fn one(info: impl Fn(&mut File), n: usize) -> Vec<&'static str> {
    let mut f = File::v3(1, 0);
    info(&mut f);
    f.pad(32).data(n);
    f.rules()
}

/// The strings of an array, each with its place.
fn strings(header: &Header<'_>, array: &Array) -> Vec<(usize, Vec<u8>)> {
    let mut all = Vec::new();
    let mut take = |at, s: &[u8]| {
        all.push((at, s.to_vec()));
        true
    };
    header.each_string(array, &mut take).unwrap();
    all
}

#[test]
fn every_version_and_byte_order_reads() {
    for version in 1..=3 {
        for big in [false, true] {
            let f = good(version, big);
            let source = SliceSource::new(f.bytes.clone(), "x.gguf");
            let (h, errors) = header(&source, &Limits::default()).unwrap();
            assert!(errors.is_empty(), "{version} {big}: {errors:?}");
            assert_eq!((h.version, h.big_endian, h.complete), (version, big, true));
            assert_eq!(h.alignment, Some(64));
            let entry = |k: &str| h.entry(k).unwrap().value.clone();
            assert_eq!(entry("x.flag"), Value::Bool(true));
            let Value::Array(tokens) = entry("tokenizer.ggml.tokens") else {
                panic!()
            };
            let strings = strings(&h, &tokens);
            assert_eq!(strings.len(), 2);
            assert_eq!(strings[1].1, "\u{2581}b".as_bytes());
            assert_eq!(&f.bytes[strings[0].0..=strings[0].0], b"a");
            assert_eq!(h.tensors[1].dims, [3, 1, 1, 1]);
            assert_eq!(h.tensors[0].bytes, Some(36));
            // The last tensor may be padded.
            assert_eq!(rules(&f.clone().pad(64).bytes), [""; 0]);
        }
    }
    assert_eq!(File::v3(0, 0).rules(), [""; 0]);
    assert_eq!(File::v3(0, 0).pad(32).rules(), [""; 0]);
}

#[test]
fn every_truncation_and_byte_flip_ends_and_no_truncation_conforms() {
    let good = good(3, false).bytes;
    for n in 0..good.len() {
        assert!(!rules(&good[..n]).is_empty(), "{n}");
        for b in [0u8, 1, 7, 0x7f, 0x80, 0xff] {
            let mut m = good.clone();
            m[n] = b;
            let _ = rules(&m);
        }
    }
}

#[test]
fn magic_and_version() {
    assert_eq!(rules(b"GGML\x03\0\0\0"), ["gguf.magic"]);
    assert_eq!(rules(b"FUGG\x03\0\0\0"), ["gguf.magic"]);
    assert_eq!(rules(b"GG"), ["gguf.truncated"]);
    for version in [0u32, 4, 0xffff_ffff, 0x0400_0000] {
        let mut b = b"GGUF".to_vec();
        b.extend(version.to_le_bytes());
        b.extend([0; 16]);
        assert_eq!(rules(&b), ["gguf.version"], "{version:#x}");
    }
}

/// CVE-2024-25664 and its kin: counts that are multiplied and allocated for.
#[test]
fn counts_past_the_file() {
    for n in [1, 1 << 32, i64::MAX as u64, u64::MAX, u64::MAX / 24 + 1] {
        assert_eq!(File::v3(n, 0).rules(), ["gguf.count"], "{n}");
        assert_eq!(File::v3(0, n).rules(), ["gguf.count"], "{n}");
    }
    assert_eq!(File::new(1, false, 0xffff_ffff, 0).rules(), ["gguf.count"]);
}

/// CVE-2024-23496, CVE-2024-25665: `len + 1` wraps to an allocation of nothing.
#[test]
fn string_lengths() {
    for n in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 40, 200] {
        // Of a key, of a value, of an element, of a name.
        let mut f = File::v3(0, 1);
        f.num(n, 8).data(100);
        assert_eq!(f.rules(), ["gguf.string-length"], "{n}");
        let mut f = File::v3(0, 1);
        f.text(b"k").num(8, 4).num(n, 8).data(100);
        assert_eq!(f.rules(), ["gguf.string-length"], "{n}");
        let mut f = File::v3(0, 1);
        f.array("k", 8, 2).text(b"a").num(n, 8).data(100);
        assert_eq!(f.rules(), ["gguf.string-length"], "{n}");
        let mut f = File::v3(1, 0);
        f.num(n, 8).data(100);
        assert_eq!(f.rules(), ["gguf.string-length"], "{n}");
    }
}

/// CVE-2024-21836, CVE-2024-25666: the count of an array times the size of its elements wraps.
#[test]
fn array_counts() {
    for element in [0, 2, 4, 6, 7, 8, 9, 10, 12] {
        for n in [u64::MAX, 1 << 61, (1 << 61) + 1, 1 << 62, 1 << 32, 1000] {
            let mut f = File::v3(0, 1);
            f.array("k", element, n).data(64);
            assert_eq!(f.rules(), ["gguf.array-length"], "{element} × {n}");
        }
    }
    // A count that the bytes there could hold, but the elements do not.
    let mut f = File::v3(0, 1);
    f.array("k", 8, 8).data(64);
    assert_eq!(f.rules(), ["gguf.string-length"]);
}

/// Issue 26690, pull request 19856: element and value types unchecked, negative ones among them.
#[test]
fn value_types() {
    for id in [13u64, 255, 0x7fff_ffff, 0xffff_ffff] {
        let mut f = File::v3(0, 1);
        f.text(b"k").num(id, 4).data(64);
        assert_eq!(f.rules(), ["gguf.value-type"]);
        let mut f = File::v3(0, 1);
        f.array("k", id, 1).data(64);
        assert_eq!(f.rules(), ["gguf.value-type"]);
    }
    let e = errors(&File::v3(0, 1).text(b"k").num(0xffff_ffff, 4).data(9).bytes);
    assert!(e[0].message().contains("type -1"), "{}", e[0]);
    assert_eq!(e[0].byte_span().unwrap().offset, 24 + 9);
}

#[test]
fn arrays_of_arrays() {
    let nested = |depth: usize| {
        let mut f = File::v3(0, 1);
        f.text(b"k").num(9, 4);
        for _ in 0..depth {
            f.num(9, 4).num(1, 8);
        }
        f.num(0, 4).num(1, 8).num(5, 1);
        f
    };
    assert_eq!(nested(0).rules(), [""; 0]);
    assert_eq!(nested(3).rules(), ["gguf.nested-array"]);
    // As deep as the file is long: no stack is deep enough for that.
    let e = errors(&nested(100_000).bytes);
    assert!(e.iter().all(|e| e.rule() == "gguf.nested-array"));
    assert_eq!(e.last().unwrap().kind(), weighbridge_core::ErrorKind::Limit);
}

#[test]
fn keys_and_values() {
    assert_eq!(
        with(2, |f| {
            f.u32("a", 1).u32("b", 1);
        }),
        [""; 0]
    );
    assert_eq!(
        with(2, |f| {
            f.u32("a", 1).string("a", b"x");
        }),
        ["gguf.duplicate-key"]
    );
    assert_eq!(
        with(1, |f| {
            f.u32("", 1);
        }),
        ["gguf.key"]
    );
    assert_eq!(
        with(1, |f| {
            f.u32("a\0b", 1);
        }),
        ["gguf.key"]
    );
    let long = "k".repeat(65_536);
    assert_eq!(
        with(1, |f| {
            f.u32(&long, 1);
        }),
        ["gguf.key"]
    );
    assert_eq!(
        with(1, |f| {
            f.text(b"\xff").num(0, 4).num(1, 1);
        }),
        ["gguf.key"]
    );
    assert_eq!(
        with(1, |f| {
            f.string("a", b"\xff\xfe");
        }),
        ["gguf.utf8"]
    );
    assert_eq!(
        with(1, |f| {
            f.text(b"a").num(7, 4).num(2, 1);
        }),
        ["gguf.bool"]
    );
    assert_eq!(
        with(1, |f| {
            f.array("a", 7, 3).num(1, 1).num(0, 1).num(0xff, 1);
        }),
        ["gguf.bool"]
    );
}

/// Issue 24997 and pull request 19856: alignments that divide by zero, wrap, or pad by gigabytes.
#[test]
fn alignments() {
    for n in [0, 3, 24, 33, 0x8000_0000, 1 << 21, 0xffff_ffff] {
        assert_eq!(
            with(1, |f| {
                f.u32("general.alignment", n);
            }),
            ["gguf.alignment"],
            "{n}"
        );
    }
    for (kind, width) in [(0, 1), (5, 4), (6, 4), (10, 8)] {
        assert_eq!(
            with(1, |f| {
                f.text(b"general.alignment").num(kind, 4).num(32, width);
            }),
            ["gguf.alignment"]
        );
    }
    assert_eq!(
        with(1, |f| {
            f.string("general.alignment", b"32");
        }),
        ["gguf.alignment"]
    );
    for n in [8, 16, 32] {
        assert_eq!(
            with(1, |f| {
                f.u32("general.alignment", n);
            }),
            [""; 0]
        );
    }
}

/// CVE-2024-23605, CVE-2024-25667: more dimensions than the structure has room for.
#[test]
fn dimensions() {
    for n in [5u64, 255, 0xffff_ffff] {
        let rules = one(
            |f| {
                f.text(b"w").num(n, 4).data(100);
            },
            12,
        );
        assert_eq!(rules, ["gguf.dimensions"], "{n}");
    }
    assert_eq!(
        one(
            |f| {
                f.tensor(b"w", &[], 0, 0);
            },
            4
        ),
        [""; 0]
    );
    assert_eq!(
        one(
            |f| {
                f.tensor(b"w", &[3, 1, 1, 1], 0, 0);
            },
            12
        ),
        [""; 0]
    );
    for d in [0, u64::MAX, 1 << 63, (-32i64) as u64] {
        let rules = one(
            |f| {
                f.tensor(b"w", &[32, d], 0, 0);
            },
            128,
        );
        assert_eq!(rules, ["gguf.dimension"], "{d}");
    }
}

/// CVE-2024-21802, CVE-2024-25668, CVE-2025-53630 and its bypass CVE-2026-27940: element counts and
/// sizes in bytes that wrap to something small.
#[test]
fn element_counts() {
    for dims in [
        &[1 << 32, 1 << 32][..],
        &[1 << 31, 1 << 31, 4],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        &[3, 0x5555_5555_5555_5556],
        &[i64::MAX as u64, 2],
    ] {
        let rules = one(
            |f| {
                f.tensor(b"w", dims, 24, 0);
            },
            64,
        );
        assert_eq!(rules, ["gguf.element-count"], "{dims:?}");
    }
    // 2^61 elements of 8 bytes wrap to none.
    let rules = one(
        |f| {
            f.tensor(b"w", &[1 << 61], 28, 0);
        },
        64,
    );
    assert_eq!(rules, ["gguf.element-count"]);
    // The sum of the sizes wraps where the size alone does not.
    let mut f = File::v3(2, 0);
    f.tensor(b"a", &[1 << 62], 24, 0)
        .tensor(b"b", &[1 << 62], 24, 1 << 62)
        .pad(32)
        .data(64);
    assert_eq!(f.rules(), ["gguf.data-outside"; 2]);
}

/// Pull request 19856: a negative type indexes before the table of types.
#[test]
fn tensor_types() {
    for kind in [-1, i32::MIN, 43, 96, 400, i32::MAX] {
        let rules = one(
            |f| {
                f.tensor(b"w", &[32], kind, 0);
            },
            128,
        );
        assert_eq!(rules, ["gguf.tensor-type"], "{kind}");
    }
    for kind in [4, 5, 31, 32, 33, 36, 37, 38] {
        let rules = one(
            |f| {
                f.tensor(b"w", &[32], kind, 0);
            },
            18,
        );
        assert_eq!(rules, ["gguf.removed-type"], "{kind}");
    }
    let rules = one(
        |f| {
            f.tensor(b"w", &[256], 139, 0);
        },
        144,
    );
    assert_eq!(rules, ["gguf.foreign-type"]);
    // A row that is no whole number of blocks, though the tensor is.
    for (row, kind) in [(16, 2), (33, 8), (255, 12), (128, 14), (32, 40)] {
        let rules = one(
            |f| {
                f.tensor(b"w", &[row, 256], kind, 0);
            },
            9000,
        );
        assert_eq!(rules, ["gguf.row-size"], "{row} {kind}");
    }
}

#[test]
fn names() {
    let named = |name: &[u8]| {
        one(
            |f| {
                f.tensor(name, &[3], 0, 0);
            },
            12,
        )
    };
    assert_eq!(named(&[b'x'; 63]), [""; 0]);
    assert_eq!(named(b""), [""; 0]);
    assert_eq!(named(&[b'x'; 128]), ["gguf.name"]);
    assert_eq!(named(b"a\0b"), ["gguf.name"]);
    assert_eq!(named(b"\xc3"), ["gguf.name"]);
    // Image models have longer ones; models of llama.cpp do not.
    assert_eq!(named(&[b'x'; 72]), [""; 0]);
    let mut f = File::v3(1, 1);
    f.u32("llama.block_count", 1)
        .tensor(&[b'x'; 72], &[3], 0, 0)
        .pad(32)
        .data(12);
    assert_eq!(f.rules(), ["gguf.name"]);
    let mut f = File::v3(2, 0);
    f.tensor(b"w", &[8], 0, 0)
        .tensor(b"w", &[8], 0, 32)
        .pad(32)
        .data(64);
    assert_eq!(f.rules(), ["gguf.duplicate-name"]);
}

/// CVE-2026-7482: data that the declared shape takes and the file does not have; and every other
/// way of not covering the data region once, in order.
#[test]
fn layout() {
    let two = |a: u64, b: u64, n: usize| {
        let mut f = File::v3(2, 0);
        f.tensor(b"a", &[8], 0, a).tensor(b"b", &[8], 0, b).pad(32);
        f.data(n);
        f.rules()
    };
    assert_eq!(two(0, 32, 64), [""; 0]);
    assert_eq!(two(0, 32, 63), ["gguf.data-outside"]);
    assert_eq!(two(0, u64::MAX - 31, 64), ["gguf.data-outside"]);
    assert_eq!(two(0, 0, 32), ["gguf.overlap"]);
    assert_eq!(two(32, 0, 64), ["gguf.order"]);
    assert_eq!(two(0, 64, 96), ["gguf.hole"]);
    assert_eq!(two(32, 64, 96), ["gguf.hole"]);
    assert_eq!(two(0, 36, 68), ["gguf.offset-alignment", "gguf.hole"]);
    let e = {
        let mut f = File::v3(1, 0);
        f.tensor(b"w", &[8], 0, 0).pad(32).data(32).pad(32);
        f.bytes.extend_from_slice(b"PK\x03\x04 and more");
        errors(&f.bytes)
    };
    assert_eq!(e[0].rule(), "gguf.trailing-bytes");
    let span = e[0].byte_span().unwrap();
    assert_eq!((span.offset, span.len), (96, 13));
}

#[test]
fn padding_is_of_zeros_and_hides_nothing() {
    let mut f = File::v3(2, 0);
    f.tensor(b"a", &[3], 0, 0).tensor(b"b", &[3], 0, 32).pad(32);
    let start = f.bytes.len();
    f.data(12).pad(32).data(12).pad(32);
    assert_eq!(f.rules(), [""; 0]);
    for at in [start - 1, start + 12, start + 31, start + 44] {
        let mut b = f.bytes.clone();
        b[at] = 1;
        let e = errors(&b);
        assert_eq!(e[0].rule(), "gguf.padding");
        assert_eq!(e[0].byte_span().unwrap().offset, at as u64);
    }
}

#[test]
fn a_source_that_is_not_mapped_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    // Longer than the first read.
    let mut f = File::v3(1, 1);
    f.array("tokenizer.ggml.tokens", 8, 30_000);
    for i in 0..30_000u32 {
        f.text(&i.to_le_bytes());
    }
    f.tensor(b"w", &[3], 0, 0).pad(32).data(12);
    std::fs::write(&path, &f.bytes).unwrap();
    for backend in [Backend::Pread, Backend::Mmap] {
        let source = open_file(&path, backend).unwrap();
        let (h, errors) = header(source.as_ref(), &Limits::default()).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let Value::Array(tokens) = &h.entries[0].value else {
            panic!()
        };
        let strings = strings(&h, tokens);
        assert_eq!(strings.len(), 30_000);
        assert_eq!(strings.last().unwrap().1, 29_999u32.to_le_bytes());
    }
}

#[test]
fn a_vocabulary_longer_than_the_window_is_read_through_it() {
    // Byte tokens at both sides of a word of marks, one of them wrong; a token longer than the
    // window; then what only a correct walk finds.
    const N: u32 = 100_000;
    let file = |wrong: u32| {
        let mut f = File::v3(1, 4);
        f.array("tokenizer.ggml.token_type", 5, N.into());
        let byte = |i: u32| i == 63 || i == 64 || i == 99_990;
        for i in 0..N {
            f.num(if byte(i) { 6 } else { 1 }, 4);
        }
        f.array("tokenizer.ggml.tokens", 8, N.into());
        for i in 0..N {
            match i {
                i if i == wrong => f.text(b"<0x-1>"),
                i if byte(i) => f.text(b"<0xAB>"),
                70_000 => f.text(&vec![b'x'; 300 << 10]),
                i => f.text(i.to_string().as_bytes()),
            };
        }
        f.array("x.flags", 7, 200_000);
        for i in 0..200_000u32 {
            f.num(u64::from(i % 2), 1);
        }
        f.u32("llama.block_count", 4);
        f.tensor(b"w", &[3], 0, 0).pad(32).data(12);
        f
    };
    assert_eq!(file(N).rules(), [""; 0]);
    for at in [63, 64, 99_990] {
        assert_eq!(file(at).rules(), ["gguf.byte-token"]);
    }
    // A token that stands for no byte may be spelled as it likes.
    assert_eq!(file(65).rules(), [""; 0]);
    let mut cut = file(N).bytes;
    cut.truncate(1_500_000);
    assert_eq!(rules(&cut), ["gguf.string-length"]);
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).unwrap() {
        let path = e.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "gguf") {
            out.push(path);
        }
    }
}

#[test]
fn real_files_conform() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let mut found = Vec::new();
    for dir in ["gguf", "scan/benign"] {
        files(&Path::new(&corpus).join(dir), &mut found);
    }
    assert!(found.len() > 25, "{}", found.len());
    for path in found {
        let source = open_file(&path, Backend::Pread).unwrap();
        let v = verify(source.as_ref(), &Limits::default()).unwrap();
        assert!(v.is_empty(), "{}: {v:?}", path.display());
    }
}
