use std::path::PathBuf;

use super::*;
use crate::ErrorKind;
use crate::source::SliceSource;

/// The text that the samples hold (see `testdata/README.md`).
fn plain(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| b"weighbridge"[i % 11] ^ ((i / 97) as u8 & 3))
        .collect()
}

fn sample(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/wire/codec/testdata");
    std::fs::read(dir.join(name)).unwrap()
}

fn run_with(codec: Codec, bytes: &[u8], caps: &Caps) -> (Vec<u8>, Result<Decoded>) {
    let mut out = Vec::new();
    let source = SliceSource::new(bytes, "t");
    let done = decode(codec, &source, caps, &mut |part| {
        out.extend_from_slice(part);
        Ok(())
    });
    (out, done)
}

fn decoded(codec: Codec, bytes: &[u8]) -> (Vec<u8>, Result<Decoded>) {
    run_with(codec, bytes, &Caps::default())
}

/// Each sample, its codec, and what it holds.
fn samples() -> Vec<(&'static str, Codec, Vec<u8>)> {
    let p = plain(20_000);
    let mut x = plain(9000);
    for _ in 0..2200 {
        x.extend(b"\xe8\x10\x20\x30\x00");
    }
    let linked = [plain(70_000), p.clone()].concat();
    vec![
        ("two.gz", Codec::Gzip, p.clone()),
        ("two.zlib", Codec::Zlib, p.clone()),
        ("old.joblib", Codec::JoblibZlib, p.clone()),
        ("two.bz2", Codec::Bzip2, p.clone()),
        ("none.xz", Codec::Xz, p.clone()),
        ("crc32.xz", Codec::Xz, p.clone()),
        ("crc64.xz", Codec::Xz, p.clone()),
        ("sha256.xz", Codec::Xz, p.clone()),
        ("filters.xz", Codec::Xz, x),
        ("unknown.lzma", Codec::Lzma, p.clone()),
        ("plain.lz4", Codec::Lz4, p.clone()),
        ("linked.lz4", Codec::Lz4, linked),
        ("legacy.lz4", Codec::Lz4, p.clone()),
        ("two.zst", Codec::Zstd, p),
    ]
}

#[test]
fn every_sample_is_told_and_decoded_to_its_end() {
    for (name, codec, want) in samples() {
        let bytes = sample(name);
        let head = &bytes[..bytes.len().min(HEAD)];
        assert_eq!(Codec::detect(head), Some(codec), "{name}");
        let source = SliceSource::new(bytes.as_slice(), name);
        assert!(confirm(codec, &source), "{name}");
        let (out, done) = decoded(codec, &bytes);
        let done = done.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(out == want, "{name} holds something else");
        assert_eq!(
            (done.consumed, done.produced),
            (bytes.len() as u64, want.len() as u64),
            "{name}"
        );
    }
}

#[test]
fn what_follows_is_left_to_the_caller() {
    for (name, codec, want) in samples() {
        let mut bytes = sample(name);
        let len = bytes.len() as u64;
        bytes.extend(b"trailing bytes");
        let (out, done) = decoded(codec, &bytes);
        let done = done.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(out == want, "{name}");
        // Padding that ends in something else is part of that.
        let padding = if name == "two.gz" { 5 } else { 0 };
        assert_eq!(done.consumed, len - padding, "{name}");
    }
}

#[test]
fn a_cut_stream_gives_its_beginning_and_says_so() {
    for (name, codec, want) in samples() {
        let bytes = sample(name);
        let mut most = 0;
        for n in (0..bytes.len()).step_by(bytes.len() / 120) {
            let (out, done) = decoded(codec, &bytes[..n]);
            assert!(want.starts_with(&out), "{name} cut at {n}");
            most = most.max(out.len());
            match done {
                Ok(d) => assert!(d.consumed <= n as u64 && out.len() as u64 == d.produced),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Truncated, "{name} cut at {n}: {e}"),
            }
        }
        // A block of LZ4 comes whole or not at all, and these are one.
        let blocks = matches!(name, "plain.lz4" | "legacy.lz4");
        assert!(
            blocks || most > want.len() / 3,
            "{name}: only {most} come out"
        );
    }
}

#[test]
fn every_bit_counts_and_none_panics() {
    for (name, codec, want) in samples() {
        let bytes = sample(name);
        let mut caught = 0;
        let step = bytes.len() / 40;
        for i in (0..bytes.len()).step_by(step) {
            let mut b = bytes.clone();
            b[i] ^= 1 << (i % 8);
            let caps = Caps::new(1 << 20, 100_000);
            let (out, done) = run_with(codec, &b, &caps);
            assert!(out.len() <= 1 << 20, "{name}: {i}");
            let whole = done.as_ref().is_ok_and(|d| d.consumed == b.len() as u64);
            caught += usize::from(!whole || out != want);
        }
        assert!(caught > 0, "{name}");
    }
}

#[test]
fn checksums_are_verified() {
    // Where the last checksum lies, from the end.
    for (name, codec, from_end) in [
        ("two.gz", Codec::Gzip, 5 + 8),
        ("two.zst", Codec::Zstd, 0),
        ("plain.lz4", Codec::Lz4, 1),
    ] {
        let mut bytes = sample(name);
        let at = bytes.len() - from_end;
        if name == "two.zst" {
            // The first frame has one; it ends where the empty skippable frame begins.
            let next = memchr::memmem::rfind(&bytes, &0x184d_2a5fu32.to_le_bytes()).unwrap();
            bytes[next - 1] ^= 1;
        } else {
            bytes[at] ^= 1;
        }
        let (out, done) = decoded(codec, &bytes);
        let e = done.unwrap_err();
        assert_eq!(e.rule(), "codec.checksum", "{name}: {e}");
        assert_eq!(e.kind(), ErrorKind::Integrity);
        assert!(out.len() >= 7000, "{name}: what came before counts");
    }
    for name in ["crc32.xz", "crc64.xz", "sha256.xz"] {
        let mut bytes = sample(name);
        // The check is the last thing before the index, which begins with a zero and a one.
        let index = memchr::memmem::rfind(&bytes, &[0, 1]).unwrap();
        bytes[index - 1] ^= 0x80;
        let e = decoded(Codec::Xz, &bytes).1.unwrap_err();
        assert_eq!(e.rule(), "codec.checksum", "{name}: {e}");
    }
}

#[test]
fn caps_hold() {
    for (name, codec, want) in samples() {
        let bytes = sample(name);
        let caps = Caps::new(1000, u64::MAX);
        let (out, done) = run_with(codec, &bytes, &caps);
        assert_eq!(done.unwrap_err().rule(), "codec.size", "{name}");
        assert_eq!(out, want[..1000], "{name}: the cap's worth is handed on");
    }
    // 32 MiB of zeros in one deflate stream.
    let mut zeros = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..32 {
        std::io::Write::write_all(&mut zeros, &[0; 1 << 20]).unwrap();
    }
    let zeros = zeros.finish().unwrap();
    let (out, done) = run_with(Codec::Zlib, &zeros, &Caps::new(1 << 30, 100));
    assert_eq!(done.unwrap_err().rule(), "codec.ratio");
    assert!(out.len() < 17 << 20);
    assert!(
        run_with(Codec::Zlib, &zeros, &Caps::new(1 << 30, 1100))
            .1
            .is_ok()
    );
}

#[test]
fn windows_are_capped() {
    let mut lzma = sample("unknown.lzma");
    lzma[1..5].copy_from_slice(&(256u32 << 20).to_le_bytes());
    assert_eq!(Codec::detect(&lzma), Some(Codec::Lzma));
    let e = decoded(Codec::Lzma, &lzma).1.unwrap_err();
    assert_eq!(e.rule(), "codec.window-size");
    // Frame header: no single segment, window descriptor of 1 GiB.
    let zstd = [&zstd::MAGIC.to_le_bytes()[..], &[0, 20 << 3, 1, 0, 0]].concat();
    let e = decoded(Codec::Zstd, &zstd).1.unwrap_err();
    assert_eq!(e.rule(), "codec.window-size");
    let mut xz = sample("none.xz");
    // The dictionary's byte of the first block, its header's checksum put right.
    let props = memchr::memmem::find(&xz, &[0x21, 1]).unwrap() + 2;
    xz[props] = 38;
    let crc = crc32fast::hash(&xz[12..20]);
    xz[20..24].copy_from_slice(&crc.to_le_bytes());
    let e = decoded(Codec::Xz, &xz).1.unwrap_err();
    assert_eq!(e.rule(), "codec.window-size", "{e}");
}

#[test]
fn many_tiny_members_end_in_a_limit() {
    let one = b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0";
    let e = decoded(Codec::Bzip2, &one.repeat(6000)).1.unwrap_err();
    assert_eq!(e.rule(), "codec.members");
    assert_eq!(
        decoded(Codec::Bzip2, &one.repeat(60)).1.unwrap().produced,
        0
    );
}

#[test]
fn other_data_is_nothing() {
    for head in [
        &b""[..],
        b"\x80\x02}q\0.",
        b"PK\x03\x04",
        b"BZ",
        b"BZhello, world",
        b"{\"a\": 1}",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x1f\x8b\x07",
        b"ZFx",
        b"(dp0\nS'a'\np1\nI1\ns.",
        b"x",
        b"\x78\x9d",
    ] {
        assert_eq!(Codec::detect(head), None, "{head:?}");
    }
    // A weak signature that is something else.
    assert_eq!(Codec::detect(b"x\x9c is text"), Some(Codec::Zlib));
    assert!(Codec::Zlib.is_weak() && Codec::Lzma.is_weak() && !Codec::Xz.is_weak());
    assert!(!confirm(
        Codec::Zlib,
        &SliceSource::new(&b"x\x9c is text"[..], "t")
    ));
}

#[test]
fn a_sinks_error_ends_the_run() {
    for (name, codec, _) in samples() {
        let bytes = sample(name);
        let mut calls = 0;
        let source = SliceSource::new(bytes, name);
        let done = decode(codec, &source, &Caps::default(), &mut |_| {
            calls += 1;
            Err(Error::limit("test.enough", "enough"))
        });
        assert_eq!(done.unwrap_err().rule(), "test.enough", "{name}");
        assert_eq!(calls, 1, "{name}");
    }
}

/// A loader that reads in pieces has run what comes before the break.
#[test]
fn what_comes_before_a_break_is_handed_on() {
    // An xz block of one stored LZMA2 chunk and a control byte that there is not.
    let text = plain(5000);
    let mut xz = b"\xfd7zXZ\0\0\0".to_vec();
    xz.extend(crc32fast::hash(&[0, 0]).to_le_bytes());
    let block = [2, 0, 0x21, 1, 20, 0, 0, 0];
    xz.extend(block);
    xz.extend(crc32fast::hash(&block).to_le_bytes());
    xz.push(1);
    xz.extend((text.len() as u16 - 1).to_be_bytes());
    xz.extend(&text);
    xz.push(3);
    let (out, done) = decoded(Codec::Xz, &xz);
    assert_eq!(done.unwrap_err().rule(), "codec.bad-data");
    assert!(out == text, "{} of {} bytes", out.len(), text.len());
    // LZMA itself, broken where a piece is half done: everything but the last symbols.
    let mut lzma = sample("unknown.lzma");
    let cut = lzma.len() - 40;
    lzma[cut..].fill(0xff);
    let (out, done) = decoded(Codec::Lzma, &lzma);
    assert!(done.is_err());
    let same = out.iter().zip(plain(20_000)).take_while(|(a, b)| **a == *b);
    assert!(same.count() % 4096 != 0, "{} bytes", out.len());
    // A Zstandard frame of one raw block and one of the reserved type: the decoder holds back a
    // window, which is larger than the block.
    let mut zstd = zstd::MAGIC.to_le_bytes().to_vec();
    zstd.extend([0, 10 << 3]);
    zstd.extend(&((text.len() as u32) << 3).to_le_bytes()[..3]);
    zstd.extend(&text);
    zstd.extend([6, 0, 0]);
    let (out, done) = decoded(Codec::Zstd, &zstd);
    assert_eq!(done.unwrap_err().rule(), "codec.bad-data");
    assert!(out == text, "{} of {} bytes", out.len(), text.len());
    // Deflate: a stored block and one of the reserved type; in zlib, in gzip.
    let mut deflate = vec![0];
    deflate.extend((text.len() as u16).to_le_bytes());
    deflate.extend((!(text.len() as u16)).to_le_bytes());
    deflate.extend(&text);
    deflate.push(7);
    for (codec, head) in [
        (Codec::Zlib, &b"\x78\x9c"[..]),
        (Codec::Gzip, b"\x1f\x8b\x08\0\0\0\0\0\0\xff"),
    ] {
        let (out, done) = decoded(codec, &[head, &deflate].concat());
        assert_eq!(done.unwrap_err().rule(), "codec.bad-data", "{codec:?}");
        assert!(out == text, "{codec:?}: {} of {}", out.len(), text.len());
    }
}
