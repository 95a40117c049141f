use super::*;
use crate::error::ErrorKind;
use crate::model::Checksum;
use crate::source::SliceSource;

fn source(bytes: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(SliceSource::new(bytes, "t.index"))
}

fn table(n: usize) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let mut builder = Builder::new();
    let mut all = Vec::new();
    for i in 0..n {
        let key = format!("block_{i:06}/kernel");
        let value = vec![(i % 251) as u8; i % 97];
        assert!(builder.add(key.as_bytes(), &value));
        all.push((key, value));
    }
    (builder.finish(), all)
}

fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let table = Table::open(source(bytes), &Limits::default())?;
    let mut out = Vec::new();
    table.walk(&mut |e| {
        let key = String::from_utf8_lossy(e.key()).into_owned();
        out.push((key, e.bytes(1 << 20)?));
        Ok(())
    })?;
    Ok(out)
}

fn rule(bytes: &[u8]) -> &'static str {
    read(bytes).unwrap_err().rule()
}

#[test]
fn what_is_written_is_read() {
    for n in [0, 1, 15, 16, 17, 20_000] {
        let (bytes, all) = table(n);
        assert_eq!(read(&bytes).unwrap(), all, "{n}");
        let t = Table::open(source(&bytes), &Limits::default()).unwrap();
        assert_eq!(t.rest().unwrap(), [], "{n}");
        assert!(n < 20_000 || t.blocks() > 2, "{n}");
    }
}

#[test]
fn keys_out_of_order_are_not_taken() {
    let mut b = Builder::new();
    assert!(b.add(b"", b"header"));
    assert!(b.add(b"b", b"1"));
    assert!(!b.add(b"b", b"2"));
    assert!(!b.add(b"a", b"3"));
    assert_eq!(read(&b.finish()).unwrap().len(), 2);
}

#[test]
fn every_flipped_byte_is_found() {
    let (bytes, all) = table(40);
    let len = bytes.len();
    for at in 0..len {
        let mut b = bytes.clone();
        b[at] ^= 0x20;
        // The meta index is looked at only with the rest.
        let t = Table::open(source(&b), &Limits::default());
        let whole = t.is_ok_and(|t| t.rest().is_ok()) && read(&b).is_ok_and(|r| r == all);
        assert!(!whole, "byte {at} of {len}");
    }
    for cut in 0..len {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// A table of one data block with these bytes, checksums right.
fn of_block(block: &[u8], kind: u8) -> Vec<u8> {
    let mut out = block.to_vec();
    out.push(kind);
    let sum = Checksum::masked_crc32c(&out).value();
    out.extend(sum.to_le_bytes());
    let mut index = vec![0, 1, 3, b'z'];
    let len = block.len();
    index.extend([0, (len & 0x7f) as u8 | 0x80, (len >> 7) as u8]);
    index.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let at = out.len();
    out.extend(&index);
    out.push(0);
    let sum = Checksum::masked_crc32c(&[index.as_slice(), &[0]].concat()).value();
    out.extend(sum.to_le_bytes());
    let start = out.len();
    for n in [at, index.len(), at, index.len()] {
        out.extend([(n & 0x7f) as u8 | 0x80, (n >> 7) as u8]);
    }
    out.resize(start + 40, 0);
    out.extend(MAGIC.to_le_bytes());
    out
}

#[test]
fn entries_that_break_the_format_are_refused() {
    let restart = [0u8, 0, 0, 0, 1, 0, 0, 0];
    let block = |entries: &[u8]| of_block(&[entries, &restart].concat(), 0);
    assert_eq!(
        read(&block(&[0, 1, 1, b'a', 7])).unwrap(),
        [("a".into(), vec![7])]
    );
    // A value past the block; a key that shares what is not there; the same key twice.
    assert_eq!(rule(&block(&[0, 1, 9, b'a', 7])), "sstable.syntax");
    assert_eq!(rule(&block(&[2, 1, 1, b'a', 7])), "sstable.syntax");
    assert_eq!(rule(&block(&[0, 1, 0, b'a', 1, 0, 0])), "sstable.order");
    assert_eq!(
        rule(&block(&[0, 1, 0, b'b', 0, 1, 0, b'a'])),
        "sstable.order"
    );
    // Behind the key of the index.
    assert_eq!(rule(&block(&[0, 2, 0, b'z', b'z'])), "sstable.syntax");
    // A number of restarts that cannot be.
    assert_eq!(rule(&of_block(&[0xff; 12], 0)), "sstable.syntax");
    // A restart at no entry.
    let entries = [0, 1, 1, b'a', 7, 3, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(rule(&of_block(&entries, 0)), "sstable.syntax");
    assert_eq!(rule(&of_block(&[], 2)), "sstable.compression");
}

#[test]
fn long_shared_keys_do_not_multiply() {
    // Each entry of four bytes repeats a key of a megabyte.
    let long = vec![b'k'; 1 << 20];
    let mut entries = vec![0, 0x80, 0x80, 0x40, 0];
    entries.extend(&long);
    for i in 0..100_000u32 {
        let own = i.to_be_bytes();
        let shared = 1u32 << 20;
        let mut n = shared;
        while n >= 0x80 {
            entries.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        entries.push(n as u8);
        entries.extend([4, 0]);
        entries.extend(own);
    }
    entries.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let mut out = entries.clone();
    out.push(0);
    let sum = Checksum::masked_crc32c(&out).value();
    out.extend(sum.to_le_bytes());
    let mut index = vec![0u8, 1, 5, b'z', 0];
    let mut n = entries.len();
    for _ in 0..3 {
        index.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    index.push(n as u8);
    index.extend([0, 0, 0, 0, 1, 0, 0, 0, 0]);
    let at = out.len();
    out.extend(&index);
    out.extend(Checksum::masked_crc32c(&index).value().to_le_bytes());
    let start = out.len();
    for n in [at, index.len() - 1, at, index.len() - 1] {
        let mut n = n;
        for _ in 0..3 {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }
    out.resize(start + 40, 0);
    out.extend(MAGIC.to_le_bytes());
    let e = read(&out).unwrap_err();
    assert_eq!((e.kind(), e.rule()), (ErrorKind::Limit, "sstable.entries"));
}

#[test]
fn snappy_gives_what_was_put_in() {
    // A run, a copy that runs into itself, copies with two and four bytes of distance.
    let data = [
        19,
        3 << 2,
        b'a',
        b'b',
        b'c',
        b'd',
        1 | 4 << 2,
        2,
        2 | 2 << 2,
        4,
        0,
        3 | 3 << 2,
        1,
        0,
        0,
        0,
    ];
    let out = snappy(&data, 100).unwrap();
    assert_eq!(out, b"abcdcdcdcdcdcdccccc"[..].to_vec().as_slice());
}

#[test]
fn snappy_that_breaks_its_format_is_refused() {
    let kinds = |d: &[u8]| snappy(d, 1000).unwrap_err().rule();
    assert_eq!(kinds(&[]), "snappy.bad-data");
    assert_eq!(kinds(&[5, 0, b'a']), "snappy.bad-data"); // too few
    assert_eq!(kinds(&[1, 4, b'a', b'b']), "snappy.bad-data"); // too many
    assert_eq!(kinds(&[4, 1, 0]), "snappy.bad-data"); // distance 0
    assert_eq!(kinds(&[4, 0, b'a', 1, 9]), "snappy.bad-data"); // from before the start
    assert_eq!(kinds(&[0xff, 0xff, 0xff, 0xff, 0x0f]), "snappy.size");
    assert_eq!(kinds(&[0xe8, 0x07, 0]), "snappy.bad-data"); // 1000 from one byte
}

#[test]
fn compressed_blocks_are_read() {
    let entries = [0u8, 1, 1, b'a', 7, 0, 0, 0, 0, 1, 0, 0, 0];
    let mut packed = vec![entries.len() as u8, (entries.len() as u8 - 1) << 2];
    packed.extend(entries);
    assert_eq!(
        read(&of_block(&packed, 1)).unwrap(),
        [("a".into(), vec![7])]
    );
    packed.pop();
    assert_eq!(rule(&of_block(&packed, 1)), "snappy.bad-data");
}
