//! Scanning hostile files: every damage gets a report, none a panic or a clean verdict that an
//! intact malicious file would not get.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weighbridge::scan::{ScanOptions, scan};
use weighbridge_scan::Verdict;

fn verdict(path: &Path) -> Verdict {
    let report = scan(&[path.to_owned()], &ScanOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(report.files.len(), 1);
    report.verdict()
}

/// Numbers that look random and are the same every time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }
}

#[test]
fn damaged_files_are_answered_in_time() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(7);
    let mut runs = 0;
    for e in std::fs::read_dir(corpus.join("torch")).unwrap() {
        let path = e.unwrap().path();
        let intact = match std::fs::read(&path) {
            Ok(bytes) if !bytes.is_empty() && bytes.len() < 64 << 10 => bytes,
            _ => continue,
        };
        let name = path.file_name().unwrap();
        for i in 0..24 {
            let mut bytes = intact.clone();
            if i % 2 == 0 {
                bytes.truncate(numbers.next(intact.len()));
            } else {
                for _ in 0..=numbers.next(8) {
                    let at = numbers.next(bytes.len());
                    bytes[at] = numbers.next(256) as u8;
                }
            }
            let damaged = dir.path().join(name);
            std::fs::write(&damaged, &bytes).unwrap();
            let begun = Instant::now();
            verdict(&damaged);
            let took = begun.elapsed();
            assert!(
                took < Duration::from_secs(5),
                "{} #{i}: {took:?}",
                path.display()
            );
            runs += 1;
        }
    }
    assert!(runs > 2000, "{runs}");
}

#[test]
fn a_payload_is_found_wherever_it_is_put() {
    const EVIL: &[u8] = b"cposix\nsystem\n(Vid\ntR.";
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        verdict(&path)
    };
    assert_eq!(put("a.pkl", EVIL), Verdict::Malicious);
    // The second of two pickles; loaders that read on run it.
    assert_eq!(
        put("b.pkl", &[b"\x80\x04N.", EVIL].concat()),
        Verdict::Malicious
    );
    // Cut off after the call: a real unpickler has made it by then.
    assert_eq!(put("c.pkl", &EVIL[..EVIL.len() - 1]), Verdict::Malicious);
    // Under the header of another format.
    let header = b"{}      ";
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    assert_eq!(put("d.safetensors", &safetensors), Verdict::Clean);
    assert_eq!(put("e.safetensors", EVIL), Verdict::Malicious);
}

/// An archive of one stored member.
fn stored_zip(name: &str, data: &[u8]) -> Vec<u8> {
    let crc = {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        crc.sum()
    };
    let sizes = [crc, data.len() as u32, data.len() as u32]
        .map(u32::to_le_bytes)
        .concat();
    let name_len = (name.len() as u16).to_le_bytes();
    let mut zip = b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\0".to_vec();
    zip.extend([&sizes[..], &name_len, &[0, 0], name.as_bytes(), data].concat());
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\x21\0");
    zip.extend([&sizes[..], &name_len, &[0; 16], name.as_bytes()].concat());
    let size = (zip.len() as u32 - directory).to_le_bytes();
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend([&size[..], &directory.to_le_bytes(), &[0, 0]].concat());
    zip
}

#[test]
fn an_archive_is_one_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let evil = stored_zip("archive/data.pkl", b"\x80\x02cposix\nsystem\n(Vid\ntR.");
    for name in ["a.pt", "a.safetensors", "a.bin", "a"] {
        let path = dir.path().join(name);
        std::fs::write(&path, &evil).unwrap();
        assert_eq!(verdict(&path), Verdict::Malicious, "{name}");
    }
}

#[test]
fn what_follows_or_breaks_a_compressed_stream_counts() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        verdict(&path)
    };
    let gzip = |data: &[u8]| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(data).unwrap();
        gz.finish().unwrap()
    };
    let clean = gzip(b"\x80\x02N.");
    assert_eq!(put("a.pkl.gz", &clean), Verdict::Clean);
    assert_eq!(
        put("padded.pkl.gz", &[&clean[..], &[0; 512]].concat()),
        Verdict::Clean
    );
    let more = [&clean[..], b"more text here"].concat();
    assert_eq!(put("more.pkl.gz", &more), Verdict::Malformed);
    // A zlib stream that is cut off after the call of its pickle.
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    zlib.write_all(b"\x80\x02cposix\nsystem\n(Vid\ntR0")
        .unwrap();
    zlib.write_all(&[b'N'; 4000]).unwrap();
    let cut = zlib.finish().unwrap();
    assert_eq!(put("b.joblib", &cut[..2000]), Verdict::Malicious);
}

/// A few hundred kilobytes that decompress to hundreds of megabytes of values.
#[test]
fn a_compressed_pickle_may_not_take_what_its_size_does_not_justify() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.pkl.gz");
    // Thirty million empty lists on the stack.
    let mut gz = flate2::write::GzEncoder::new(
        std::fs::File::create(&path).unwrap(),
        flate2::Compression::fast(),
    );
    gz.write_all(b"\x80\x02").unwrap();
    for _ in 0..30 {
        gz.write_all(&[b']'; 1_000_000]).unwrap();
    }
    gz.write_all(b".").unwrap();
    gz.finish().unwrap();
    let report = scan(&[path], &ScanOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(report.verdict(), Verdict::Malformed);
    let evidence: Vec<_> = report.files[0]
        .findings
        .iter()
        .map(|f| f.evidence.as_str())
        .collect();
    assert!(evidence.contains(&"pickle.too-much-memory"), "{evidence:?}");
}

/// A pickle of `front` and then 600,000 opcodes that leave nothing behind.
fn idle(front: &[u8]) -> Vec<u8> {
    [b"\x80\x02", front, &b"N0".repeat(300_000), b"."].concat()
}

#[test]
fn large_pickles_keep_to_the_limits_of_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.pkl");
    let of = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        verdict(&path)
    };
    let list = [b"](".as_slice(), &b"K\x01".repeat(500_000), b"e"].concat();
    assert_eq!(of(&idle(&list)), Verdict::Clean);
    let nested = |n: usize| [b"]".repeat(n), b"a".repeat(n - 1)].concat();
    assert_eq!(of(&idle(&nested(150))), Verdict::Clean);
    assert_eq!(of(&idle(&nested(1000))), Verdict::Malformed);
    let mut doubled = b")q\0".to_vec();
    for i in 0..40 {
        doubled.extend([b'h', i, b'h', i, 0x86, b'q', i + 1]);
    }
    assert_eq!(of(&idle(&doubled)), Verdict::Malformed);
    assert_eq!(of(&idle(b"cposix\nsystem\nVid\n\x85R")), Verdict::Malicious);
}

/// A zip of one deflated member.
fn zipped(name: &str, data: &[u8]) -> Vec<u8> {
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut deflate, data).unwrap();
    let packed = deflate.finish().unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(data);
    // From the version on, the two headers have the same fields (APPNOTE 4.3.7, 4.3.12).
    let mut fields = vec![20, 0, 0, 0, 8, 0, 0, 0, 0x21, 0];
    fields.extend(crc.sum().to_le_bytes());
    fields.extend((packed.len() as u32).to_le_bytes());
    fields.extend((data.len() as u32).to_le_bytes());
    fields.extend((name.len() as u16).to_le_bytes());
    fields.extend([0, 0]);
    let mut out = [b"PK\x03\x04", &fields[..], name.as_bytes(), &packed].concat();
    let at = out.len() as u32;
    let entry = [b"PK\x01\x02\x14\0", &fields[..], &[0; 14], name.as_bytes()].concat();
    out.extend(&entry);
    out.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    out.extend((entry.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

#[test]
fn of_a_long_compressed_array_only_the_head_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let of = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        verdict(&path)
    };
    let npy = |descr: &str, n: usize, data: &[u8]| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n},)}}\n");
        let mut out = b"\x93NUMPY\x01\0".to_vec();
        out.extend((text.len() as u16).to_le_bytes());
        out.extend(text.as_bytes());
        out.extend(data);
        out
    };
    // More than may be inflated for a file of this size.
    const LONG: usize = 176 << 20;
    let zeros = vec![0; LONG];
    let whole = npy("|u1", LONG, &zeros);
    assert_eq!(of(&zipped("a.npy", &whole)), Verdict::Clean);
    // What the header does not account for is looked at, or said not to be.
    let more = [&whole[..], b"cposix\nsystem\nVid\n\x85R."].concat();
    assert_ne!(of(&zipped("a.npy", &more)), Verdict::Clean);
    assert_ne!(of(&zipped("a.npy", &whole[..LONG])), Verdict::Clean);
    let evil = b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R.";
    let mut evil = npy("|O", 1, evil);
    evil.resize(17 << 20, 0);
    assert_eq!(of(&zipped("a.npy", &evil)), Verdict::Malicious);
}
